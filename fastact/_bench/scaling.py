"""Do threads help where they should, does time grow with the size alone, do few channels use all?

threads: one kind of work on 1, 2, 4 ... all threads, arithmetic-heavy (in cache) and memory-heavy.
growth: 1e6 to 3e8 elements; sizes that memory does not hold are left out, by name.
channels: BatchNorm on arrays of equal size with 1, 3 and 64 channels.
small: arrays too small for threads may not be slower with all of them than with one.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterator, Mapping

import fastact
from fastact._bench import batchnorm, elementwise, floor, names
from fastact._bench.peers import Peers
from fastact._bench.suite import OWN, Cell, Group, Suite, main
from fastact._bench.timing import Contenders, Shape, Statement

GROWTH = (1e6, 3e6, 1e7, 3e7, 1e8, 3e8)
QUICK_GROWTH = (1e6, 1e7)
THREADS_N = {names.ARITHMETIC: 1_000_000, names.MEMORY_BOUND: 16_000_000}
SMALL = (1_000, 4_096, 8_192, 16_384, 32_768, 65_536, 131_072)
CHANNELS = {  # of nearly equal size
    "NCHW": {64: (32, 64, 56, 56), 3: (32, 3, 258, 259), 1: (32, 1, 448, 448)},
    "NHWC": {64: (32, 64, 56, 56), 3: (32, 3, 258, 259), 1: (32, 1, 448, 448)},
}
QUICK_CHANNELS = {"NCHW": {64: (32, 64, 14, 14), 3: (32, 3, 65, 64), 1: (32, 1, 112, 112)}}
IN_USE = 0.6  # of the free memory


class WithThreads:
    """A statement, run on a number of threads."""

    def __init__(self, statement: Statement, threads: int) -> None:
        self.statement, self.threads = statement, threads

    def time(self, repeats: int) -> float:
        with fastact.num_threads(self.threads):
            return self.statement.time(repeats)


def thread_counts() -> list[int]:
    """All, then the powers of two below, largest first."""
    most = fastact.get_num_threads()
    return [most, *(1 << k for k in range(most.bit_length() - 1, -1, -1) if 1 << k < most)]


def by_threads(statement: Statement, counts: list[int]) -> Contenders:
    labels = [OWN, *(f"{k} thread{'s' if k > 1 else ''}" for k in counts[1:])]
    return {label: WithThreads(statement, k) for label, k in zip(labels, counts, strict=True)}


def build_threads(name: str, n: int, _: Peers) -> Iterator[Cell]:
    job = elementwise.Job(name, n)
    calls = elementwise.own(job)
    job.hold(calls)
    for mode in ("forward out", "backward out"):
        yield mode, by_threads(calls[mode], thread_counts()), {}


def build_threads_step(name: str, _: Peers) -> Iterator[Cell]:
    job = batchnorm.Job((32, 64, 56, 56), "NCHW", name)
    job.check()
    yield "step", by_threads(batchnorm.own(job)["step"], thread_counts()), {}


def build_small(n: int, _: Peers) -> Iterator[Cell]:
    job = elementwise.Job(names.ARITHMETIC, n)
    calls = elementwise.own(job)
    job.hold(calls)
    most = fastact.get_num_threads()
    for mode in ("forward out", "backward out"):
        yield mode, by_threads(calls[mode], [most, 1]), {}


def build_small_step(shape: Shape, _: Peers) -> Iterator[Cell]:
    job = batchnorm.Job(shape, "NC", names.ARITHMETIC)
    job.check()
    most = fastact.get_num_threads()
    yield "step", by_threads(batchnorm.own(job)["step"], [most, 1]), {}


def build_growth(name: str, n: int, _: Peers) -> Iterator[Cell]:
    job = elementwise.Job(name, n)
    calls = elementwise.own(job)
    job.hold(calls)
    for mode in ("forward", "forward out"):
        yield mode, {OWN: calls[mode], **floor.contenders("c", n)}, {}


def build_channels(layout: str, shapes: Mapping[int, Shape], _: Peers) -> Iterator[Cell]:
    """The array with most channels is the measure; the others are given by their channels."""
    calls = {}
    for channels, shape in shapes.items():
        job = batchnorm.Job(shape, layout, names.MEMORY_BOUND)
        job.check()
        label = f"{channels} channel{'s' if channels > 1 else ''}"
        calls[OWN if channels == max(shapes) else label] = batchnorm.own(job)
    for mode in ("forward", "step"):
        yield mode, {who: modes[mode] for who, modes in calls.items()}, {}


# ---- which -----------------------------------------------------------------------------------


def free_bytes() -> float:
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        return 1024 * float(lines["MemAvailable"].split()[0])
    except (OSError, KeyError):
        return float("inf")


def growth_sizes(options: argparse.Namespace) -> list[int]:
    """x, its result, a recycled one, and the floor's two."""
    wanted = [int(n) for n in (QUICK_GROWTH if options.quick else GROWTH)]
    fit = [n for n in wanted if 5 * 4 * n < IN_USE * free_bytes()]
    for n in wanted[len(fit) :]:
        print(f"growth, n = {n}: left out, memory does not hold it", file=sys.stderr)
    return fit


def threads_groups(options: argparse.Namespace) -> list[Group]:
    if fastact.get_num_threads() == 1:
        print("threads: left out, this process has one", file=sys.stderr)
        return []
    found = [
        Group(
            {"question": "threads", "activation": name, "n": n},
            ("forward out", "backward out"),
            functools.partial(build_threads, name, n),
        )
        for name, n in THREADS_N.items()
    ]
    found += [
        Group(
            {"question": "threads", "activation": name, "shape": "32x64x56x56"},
            ("step",),
            functools.partial(build_threads_step, name),
        )
        for name in THREADS_N
        if not options.quick
    ]
    return found + small_groups(options)


def small_groups(options: argparse.Namespace) -> list[Group]:
    found = [
        Group(
            {"question": "small", "activation": names.ARITHMETIC, "n": n},
            ("forward out", "backward out"),
            functools.partial(build_small, n),
        )
        for n in SMALL[:: 3 if options.quick else 1]
    ]
    shapes = ((32, 64), (64, 256), (256, 512))
    return found + [
        Group(
            {"question": "small", "activation": names.ARITHMETIC, "shape": f"{n}x{c}"},
            ("step",),
            functools.partial(build_small_step, (n, c)),
        )
        for n, c in shapes[:: 2 if options.quick else 1]
    ]


def groups(options: argparse.Namespace) -> list[Group]:
    found = threads_groups(options)
    channels = QUICK_CHANNELS if options.quick else CHANNELS
    found += [
        Group(
            {"question": "channels", "activation": names.MEMORY_BOUND, "layout": layout},
            ("forward", "step"),
            functools.partial(build_channels, layout, shapes),
        )
        for layout, shapes in channels.items()
    ]
    work = (names.MEMORY_BOUND,) if options.quick else (names.MEMORY_BOUND, names.ARITHMETIC)
    return found + [
        Group(
            {"question": "growth", "activation": name, "n": n},
            ("forward", "forward out"),
            functools.partial(build_growth, name, n),
        )
        for name in work
        for n in growth_sizes(options)
    ]


SUITE = Suite(
    "scaling", str(__doc__).splitlines()[0], (), groups, example="python bench/scaling.py"
)

if __name__ == "__main__":
    sys.exit(main(SUITE))
