"""What the options of a benchmark accept; anything else ends it, with status 2, before it starts.

The functions are types of argparse, which puts the option's name before what they complain of.
"""

from __future__ import annotations

import os
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterable
from pathlib import Path


def words(value: str) -> list[str]:
    return [word for word in value.split(",") if word]


def names_of(accepted: Iterable[str]) -> Callable[[str], list[str]]:
    """A list, with commas between, of some of these."""
    known = list(accepted)

    def names(value: str) -> list[str]:
        if unknown := [name for name in words(value) if name not in known]:
            raise ArgumentTypeError(f"no {', '.join(unknown)}; there are {', '.join(known)}")
        return words(value)

    return names


def count(value: str) -> int:
    if not value.isdecimal() or int(value) == 0:
        raise ArgumentTypeError(f"{value!r} given, a whole number from 1 on is accepted")
    return int(value)


def seconds(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not number >= 0:
        raise ArgumentTypeError(f"{value!r} given, a number from 0 on is accepted")
    return number


def folder(value: str) -> Path:
    """One that is there, or that can be made."""
    path = Path(value)
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise ArgumentTypeError(f"{there} given, a folder that can be written to is accepted")
    return path


def can_write(path: Path) -> bool:
    """Whether a file can be written without making a folder for it."""
    return not path.is_dir() and os.access(path if path.exists() else path.parent, os.W_OK)
