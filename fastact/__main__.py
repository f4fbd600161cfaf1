"""``python -m fastact``: the commands that come with fastact."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

import fastact
from fastact import _bench, _demo, _verify


class Command(NamedTuple):
    """One sub-command: its options, and the function that returns the exit status."""

    help: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def _info_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _info(arguments: argparse.Namespace) -> int:
    versions = {
        "fastact": fastact.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
    if arguments.json:
        print(json.dumps({**versions, **fastact.config()}, indent=1))
        return 0
    for key, value in versions.items():
        print(f"{key:12} {value}")
    fastact.show_config()
    return 0


# A new command is a line here. Its module may import at the top only what fastact itself needs;
# anything more is imported when it runs, so that the other commands work without it.
COMMANDS = {
    "demo": Command(
        "train a small network on handwritten digits with every activation",
        "python -m fastact demo --epochs 10 --out curves.png",
        _demo.add_arguments,
        _demo.run,
    ),
    "bench": Command(
        "measure fastact and its peers on this machine, beside the floor that memory sets",
        "python -m fastact bench --quick --against torch --out results",
        _bench.add_arguments,
        _bench.run,
    ),
    "verify": Command(
        "check every activation, BatchNorm and instruction set of this installation",
        "python -m fastact verify",
        _verify.add_arguments,
        _verify.run,
    ),
    "info": Command(
        "show the version, instruction set, threads and build of this installation",
        "python -m fastact info --json",
        _info_arguments,
        _info,
    ),
}


STATUSES = (
    "exit status: 0 all is right, 1 something is wrong, 2 it cannot be done like this,\n"
    "3 the time given was up, 130 interrupted"
)


def build_parser() -> argparse.ArgumentParser:
    """The command line: one sub-parser a command, each with an example."""
    parser = argparse.ArgumentParser(
        prog="python -m fastact",
        description="Activation functions and BatchNorm for NumPy.",
        epilog="example: python -m fastact info",
    )
    parser.add_argument("--version", action="version", version=f"fastact {fastact.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=command.help,
            description=command.help[0].upper() + command.help[1:] + ".",
            epilog=f"example: {command.example}\n{STATUSES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(sub)
        sub.set_defaults(run=command.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; argument errors exit with status 2."""
    arguments = build_parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
