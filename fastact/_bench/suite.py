"""What every suite does: options, peers, the loop over its cells with a progress bar, the record.

A suite is a name, the options of its own, and groups of cells. A group is built once (data, checks,
compiled peers) and gives the contenders of each of its modes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

import fastact
from fastact._bench import floor, peers, timing
from fastact._bench.options import count, folder, names_of, seconds
from fastact._bench.record import Record, text
from fastact._bench.timing import Contender, Row
from fastact._terminal import colour, fail, progress

UNFINISHED = 3
OWN = "fastact"
CLOSE, MORE = 0.1, 3  # as near as this, and a cell is timed again with so many times the rounds


class WrongResult(Exception):
    """fastact computed something else than the reference."""


Cell = tuple[str, Mapping[str, Contender], Row]  # mode, contenders, numbers for the row


@dataclass(frozen=True)
class Group:
    """Cells that share data: `build(peers)` yields its modes."""

    key: Row
    modes: tuple[str, ...]
    build: Callable[[peers.Peers], Iterator[Cell]]


@dataclass(frozen=True)
class Suite:
    name: str
    question: str
    peers: tuple[str, ...]
    groups: Callable[[argparse.Namespace], list[Group]]
    add_arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    example: str = ""


# ---- options ---------------------------------------------------------------------------------


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="few cells, few rounds")
    parser.add_argument("--rounds", type=count, metavar="N", help="rounds (default: 7; quick: 3)")
    parser.add_argument(
        "--against",
        type=names_of(peers.PEERS),
        metavar="LIST",
        help=f"of {','.join(peers.PEERS)} (default: all; quick: all but compile)",
    )
    parser.add_argument(
        "--isa", metavar="NAME", choices=fastact.config()["isas"],
        help="hold fastact and its peers to an instruction set",
    )  # fmt: skip
    parser.add_argument("--out", type=folder, metavar="DIR", help="write the record (JSON) there")
    parser.add_argument(
        "--resume", action="store_true", help="go on with an interrupted run of the same build"
    )
    parser.add_argument(
        "--seconds",
        type=seconds,
        metavar="S",
        help=f"stop after S seconds with status {UNFINISHED}",
    )
    parser.add_argument("--json", action="store_true", help="print the record, nothing else")


def settle_options(options: argparse.Namespace, suite: Suite) -> None:
    options.rounds = options.rounds or (3 if options.quick else 7)
    wanted = options.against
    if wanted is None:  # compiling takes minutes
        wanted = [name for name in suite.peers if not (options.quick and name == "compile")]
    options.against = [name for name in wanted if name in suite.peers]


# ---- the run ---------------------------------------------------------------------------------


def main(suite: Suite, argv: list[str] | None = None) -> int:
    """A script of bench/: 0, or 1 where a result was wrong."""
    parser = argparse.ArgumentParser(
        description=suite.question, epilog=f"example: {suite.example}" if suite.example else None
    )
    add_common_arguments(parser)
    suite.add_arguments(parser)
    argv = sys.argv[1:] if argv is None else argv
    options = parser.parse_args(argv)
    if options.isa and os.environ.get("FASTACT_ISA") != options.isa:
        return again_with(options.isa, suite, argv)
    settle_options(options, suite)
    try:
        return run(suite, options)
    except KeyboardInterrupt:
        print("interrupted; --resume goes on", file=sys.stderr)
        return 130


def again_with(isa: str, suite: Suite, argv: list[str]) -> int:
    """The same in a new process: an instruction set is chosen at import."""
    command = [sys.executable, "-m", f"fastact._bench.{suite.name}", *argv]
    environment = {**os.environ, **peers.environment(isa)}
    return subprocess.run(command, env=environment, check=False).returncode


def run(suite: Suite, options: argparse.Namespace) -> int:
    isa = fastact.config()["isa"]
    file = options.out and options.out / f"{suite.name}{f'-{isa}' if options.isa else ''}.json"
    record = Record(suite.name, isa, file)
    record.data |= {"rounds": options.rounds, "against": options.against}
    if options.resume:
        record.take_over()
    finished = run_groups(suite, record, options)
    record.save()
    for name, reason in record.data["skipped"].items():
        print(f"{name}: left out, {reason}", file=sys.stderr)
    if options.json:
        print(text(record.data))
    for failure in record.data["failures"]:
        fail("bench", f"FAILED {label(failure)}")
    return 1 if record.data["failures"] else 0 if finished else UNFINISHED


def run_groups(suite: Suite, record: Record, options: argparse.Namespace) -> bool:
    """Whether all groups were run before the time was up."""
    todo = [group for group in suite.groups(options) if not record.has_all(group)]
    end = time.monotonic() + (float("inf") if options.seconds is None else options.seconds)
    if not todo or time.monotonic() >= end:  # to import the peers takes seconds
        return not todo
    found = peers.Peers(options.against, record.data["skipped"])
    record.data |= {"peers": found.found, "floor": floor.described()}
    # a peer's expression may overflow on its way to a right result
    with progress(len(todo), "group", "bench") as tick, np.errstate(all="ignore"):
        for group in todo:
            if time.monotonic() > end:
                return False
            tick(label(group.key))
            run_group(suite, group, found, record, options)
            record.save()
    return True


def run_group(
    suite: Suite, group: Group, found: peers.Peers, record: Record, options: argparse.Namespace
) -> None:
    try:
        for mode, contenders, numbers in group.build(found):
            key = group.key | {"mode": mode}
            if mode not in group.modes or record.has(key):
                continue
            if contenders:
                times = timing.measure(contenders, options.rounds)
                if undecided(times, suite.peers):
                    times = timing.measure(contenders, MORE * options.rounds)
                numbers = numbers | {"times": floor.best(times)}
            row = record.add(key, **numbers)
            if not options.json:
                print_row(suite.peers, row)
    except WrongResult as error:
        record.fail(group.key, str(error))


def undecided(times: timing.Times, peer_names: tuple[str, ...]) -> bool:
    """Whether a peer is within a tenth of fastact: noise might decide who is ahead."""
    ratios = (t.median / times[OWN].median for k, t in times.items() if k.split()[0] in peer_names)
    return any(abs(ratio - 1) < CLOSE for ratio in ratios)


def label(key: Row) -> str:
    return " ".join(map(str, key.values()))


# ---- what is printed -------------------------------------------------------------------------


def print_row(peer_names: tuple[str, ...], row: Row) -> None:
    """A line a cell: the time, its spread, what others take in units of it; ! where less."""
    head = label({k: v for k, v in row.items() if not isinstance(v, dict)})
    if "arrays" in row:
        sizes = "  ".join(f"{who} {value:.2f} x" for who, value in row["arrays"].items())
        return write(f"{head:48} {sizes}")
    times = dict(row["times"])
    own = times.pop(OWN)
    spread = 50 * (own.high - own.low) / own.median
    line = f"{head:48} {pretty(own.median):>9} ±{spread:3.0f}%"
    for name, value in times.items():
        ratio = value.median / own.median
        text = f"{name} {ratio:.2f}"
        lost = ratio < 1 and name.split()[0] in peer_names
        line += "  " + (colour(f"{text}!", "red") if lost else f"{text} ")
    write(line)


def write(line: str) -> None:
    if "tqdm" in sys.modules:
        sys.modules["tqdm"].tqdm.write(line)
    else:
        print(line, flush=True)


def pretty(seconds: float) -> str:
    for unit, size in (("s", 1), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"
