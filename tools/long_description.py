"""The README as package indexes show it: there its pictures and links to files lead nowhere."""

from __future__ import annotations

import re


def long_description(readme: str) -> str:
    """The README without its pictures, and with the names of the files for links to them."""
    text = re.sub(r"^!\[.*\]\(.*\)\n\n?", "", readme, flags=re.MULTILINE)
    return re.sub(r"\[([^\]]+)\]\(((?!\w+:)[^)]+)\)", named, text)


def named(link: re.Match[str]) -> str:
    text, path = link.groups()
    return f"`{path}`" if text.strip("`/") == path else f"{text} (`{path}`)"
