"""What the commands share in how they speak: colours on a terminal, progress bars, failures."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TextIO

COLOURS = {"red": "31", "green": "32"}


def colour(text: str, name: str, stream: TextIO | None = None) -> str:
    """The text in a colour, if the stream is a terminal and NO_COLOR is not set (no-color.org)."""
    out: TextIO = sys.stdout if stream is None else stream
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not out.isatty()
    return text if plain else f"\x1b[{COLOURS[name]}m{text}\x1b[0m"


def fail(command: str, message: str) -> None:
    """Say on standard error what is wrong."""
    print(f"{colour(f'fastact {command}:', 'red', sys.stderr)} {message}", file=sys.stderr)


@contextlib.contextmanager
def progress(total: int, unit: str, extra: str) -> Iterator[Callable[..., None]]:
    """Yields tick(label=None), to be called once a unit.

    A bar on standard error, if that is a terminal and tqdm is installed; the extra has it.
    """
    try:
        from tqdm import tqdm
    except ImportError:
        if sys.stderr.isatty():
            print(f'no progress bar: pip install "fastact[{extra}]"', file=sys.stderr)
        yield lambda label=None: None
        return
    with tqdm(total=total, unit=unit, leave=False, dynamic_ncols=True, disable=None) as bar:

        def tick(label: str | None = None) -> None:
            if label is not None:
                bar.set_description(label)
            bar.update()

        yield tick
