"""``python -m fastact bench``: how fast is this installation, and how fast are others, here?

A suite answers one question and runs in a process of its own, so that no other's thread pools or
memory disturb it and an instruction set can be chosen. `fastact._bench.suite` has what they share.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import fastact
from fastact._bench import options, peers

if TYPE_CHECKING:
    from fastact._bench.report import Records

SUITES = {
    "elementwise": "activations, forward and backward, by size",
    "batchnorm": "BatchNorm + activation: forward, training step, evaluation",
    "onednn": "BatchNorm + ReLU against oneDNN, all buffers reused",
    "calls": "what a call costs, small arrays",
    "scaling": "threads, growth with the size, few channels, small arrays",
    "memory": "what a call takes, what a training step keeps",
}
WRONG, UNFINISHED, INTERRUPTED = 1, 3, 130
BY_WEIGHT = (WRONG, INTERRUPTED, UNFINISHED, 0)  # of several suites, the first that came up counts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)} (default: all)")
    add("--quick", action="store_true", help="few cells, few rounds: under two minutes")
    add("--rounds", type=options.count, metavar="N", help="rounds (default: 7; quick: 3)")
    add("--against", type=options.names_of(peers.PEERS), metavar="LIST",
        help=f"some of {','.join(peers.PEERS)} (default: all that are there; "
        "quick: not compile)")  # fmt: skip
    add("--isa", action="append", metavar="NAME", choices=fastact.config()["isas"],
        help="hold fastact and its peers to an instruction set; may be repeated")  # fmt: skip
    add("--out", type=options.folder, metavar="DIR",
        help="write records (JSON) and pictures (PNG) there")  # fmt: skip
    add("--html", type=Path, metavar="FILE", nargs="?", const=Path("fastact-bench.html"),
        help="write one self-contained page (default: %(const)s)")  # fmt: skip
    add("--no-pictures", action="store_true", help="records alone")
    add("--json", action="store_true", help="print the records as JSON, nothing else")
    add("--resume", action="store_true", help="go on with an interrupted run in --out")
    add("--seconds", type=options.seconds, metavar="S",
        help=f"stop after about S seconds, with status {UNFINISHED}; --resume goes on")  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Run the suites. 0: all right; 1: a result is wrong, or a suite broke off; 3: time was up."""
    if words := objection(arguments):
        print(words, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.out or Path(scratch)
        statuses = run_suites(folder, arguments)
        show(folder, arguments)
    return next(status for status in BY_WEIGHT if status in statuses)


def objection(arguments: argparse.Namespace) -> str:
    """What is wrong with arguments that are right one by one, or nothing."""
    if unknown := [name for name in arguments.suites if name not in SUITES]:
        return f"no suite {', '.join(unknown)}; there are {', '.join(SUITES)}"
    page = arguments.html
    if page and page.parent != arguments.out and not options.can_write(page):
        return f"--html: {page} given, a file in a folder that is there, or in --out, is accepted"
    return ""


def run_suites(folder: Path, arguments: argparse.Namespace) -> set[int]:
    """The exit statuses; what the time does not suffice for is not begun."""
    end = time.monotonic() + (float("inf") if arguments.seconds is None else arguments.seconds)
    statuses = set()
    for isa in arguments.isa or [None]:
        for name in arguments.suites or SUITES:
            if arguments.seconds is not None:
                arguments.seconds = max(0.0, end - time.monotonic())
            statuses.add(run_suite(name, isa, folder, arguments))
    return statuses


def run_suite(name: str, isa: str | None, folder: Path, arguments: argparse.Namespace) -> int:
    command = [sys.executable, "-m", f"fastact._bench.{name}", "--out", str(folder)]
    command += [f"--{flag}" for flag in ("quick", "resume", "json") if getattr(arguments, flag)]
    for option in ("rounds", "seconds"):
        if (value := getattr(arguments, option)) is not None:
            command += [f"--{option}", str(value)]
    if arguments.against is not None:
        command += ["--against", ",".join(arguments.against)]
    command += ["--isa", isa] if isa else []
    if not arguments.json:
        print(f"\n== {name}: {SUITES[name]}{f' [{isa}]' if isa else ''}", flush=True)
    quiet = subprocess.DEVNULL if arguments.json else None  # the records are printed at the end
    status = subprocess.run(command, stdout=quiet, check=False).returncode
    if status in BY_WEIGHT:
        return status
    print(f"{name}: ended with status {status}", file=sys.stderr)  # a signal has a negative one
    return WRONG


def show(folder: Path, arguments: argparse.Namespace) -> None:
    """Pictures, page and JSON of the records in a folder."""
    from fastact._bench import page, report

    records = report.load(folder)
    if arguments.json:
        print(json.dumps(records, default=list))
    if arguments.out and records and not arguments.no_pictures:
        draw(records, folder)
    if arguments.html and records:
        page.write(records, arguments.html)
        print(f"wrote {arguments.html}", file=sys.stderr)


def draw(records: Records, folder: Path) -> None:
    from fastact._bench import charts

    try:
        import matplotlib  # noqa: F401
    except ImportError:
        print("no pictures: matplotlib is not installed", file=sys.stderr)
        return
    for name, figure in charts.all_of(records):
        (folder / f"{name}.png").write_bytes(charts.png(figure))
    print(f"wrote records and pictures to {folder}", file=sys.stderr)
