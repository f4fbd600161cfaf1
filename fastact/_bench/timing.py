"""Interleaved rounds: every contender in turn; medians with the spread of the middle half.

Times on a shared machine drift, ratios within a run do not. A round times each contender once, and
begins with another one each time, so that nobody always follows the same neighbour. Thread pools
spin for a while after a call: each timing waits until the neighbour's have gone to sleep, and
calls once for itself before the clock starts.
"""

from __future__ import annotations

import statistics
import time
import timeit
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

SLOT = 0.006  # seconds that a timing lasts, unless one call takes longer
SETTLE = 0.003
ENOUGH = 1.0  # a contender that has been timed for so long ...
FEWEST = 3  # ... and so often needs no further rounds


class Contender(Protocol):
    def time(self, repeats: int) -> float:
        """Seconds that a call takes, the mean of `repeats` in a row."""
        ...


class Statement:
    """A line of Python as a user writes it, timed with no function around it."""

    def __init__(self, source: str | Callable[[], object], /, **names: object) -> None:
        if callable(source):
            source, names = "call()", {"call": source}
        self._timer = timeit.Timer(source, globals=names)
        self._code, self._names = compile(source, "<benchmark>", "eval"), names

    def result(self) -> Any:
        return eval(self._code, self._names)

    def time(self, repeats: int) -> float:
        return self._timer.timeit(repeats) / repeats


class Timing(NamedTuple):
    """Seconds; the quartiles enclose the middle half of the rounds."""

    median: float
    low: float
    high: float


Contenders = dict[str, Contender]
Statements = dict[str, Statement]
Times = dict[str, Timing]
Row = dict[str, Any]  # of a record: what a cell is, and what was measured
Shape = tuple[int, ...]


def measure(contenders: Mapping[str, Contender], rounds: int) -> Times:
    """The time of each."""
    repeats = {name: how_often(contender) for name, contender in contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for k in range(rounds):
        for name in rotated(list(contenders), k):
            if not enough(times[name], repeats[name]):
                times[name].append(one_timing(contenders[name], repeats[name]))
    return {name: summary(values) for name, values in times.items()}


def how_often(contender: Contender) -> int:
    call = contender.time(1)
    if call > SLOT:  # or it was its first call, which may have compiled something
        call = contender.time(1)
    call = max(min(call, contender.time(1)) if call < SLOT else call, 1e-8)
    if call < SLOT / 100:
        call = max(contender.time(10), 1e-8)
    return max(1, round(SLOT / call))


def rotated(names: list[str], by: int) -> Iterator[str]:
    by %= len(names)
    yield from names[by:] + names[:by]


def enough(times: list[float], repeats: int) -> bool:
    return len(times) >= FEWEST and sum(times) * repeats > ENOUGH


def one_timing(contender: Contender, repeats: int) -> float:
    time.sleep(SETTLE)
    if repeats > 1:
        contender.time(1)
    return contender.time(repeats)


def summary(times: list[float]) -> Timing:
    low, median, high = statistics.quantiles(times * 2, n=4, method="inclusive")
    return Timing(median, low, high)
