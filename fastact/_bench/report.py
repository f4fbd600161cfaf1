"""What records say: ratios, geometric means, lost cells, shares of the floor, targets.

A ratio is a peer's time over fastact's, medians of one interleaved run: above 1 fastact is faster.
A cell is lost where a ratio is below 1. The share of the floor is the floor's time over fastact's.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from fastact._bench import names, record
from fastact._bench.suite import OWN
from fastact._bench.timing import Row, Times

FLOOR, LAYOUT_FLOOR = "floor", "layout floor"
IN_CACHE = (4_096, 1_000_000)  # elements, from and to: beyond what a call costs, within the caches

Records = dict[str, dict[str, Any]]


def load(folder: Path) -> Records:
    """The records of a folder, by the name of their file: elementwise, elementwise-avx2, ..."""
    return {path.stem: record.load(path) for path in sorted(folder.glob("*.json"))}


# ---- ratios ----------------------------------------------------------------------------------


def is_peer(name: str) -> bool:
    return name != OWN and name not in (FLOOR, LAYOUT_FLOOR)


def ratio(row: Row, other: str) -> float:
    times: Times = row["times"]
    return times[other].median / times[OWN].median


def ratios(rows: Iterable[Row], other: str) -> list[float]:
    return [ratio(row, other) for row in rows if other in row.get("times", ())]


def against_the_best(row: Row) -> float | None:
    """The ratio of the fastest peer."""
    return min((ratio(row, peer) for peer in row["times"] if is_peer(peer)), default=None)


def peers_of(rows: Iterable[Row]) -> list[str]:
    found = dict.fromkeys(peer for row in rows for peer in row.get("times", ()) if is_peer(peer))
    return list(found)


def geometric_mean(values: list[float]) -> float:
    return statistics.geometric_mean(values) if values else math.nan


def lost(rows: Iterable[Row]) -> list[tuple[Row, str, float]]:
    """(row, peer, ratio), the worst first."""
    found = [
        (row, peer, ratio(row, peer))
        for row in rows
        for peer in row.get("times", ())
        if is_peer(peer) and ratio(row, peer) < 1
    ]
    return sorted(found, key=lambda cell: cell[2])


def compared(rows: Iterable[Row]) -> int:
    return sum(is_peer(peer) for row in rows for peer in row.get("times", ()))


def describe(row: Row) -> str:
    words = [str(v) for k, v in row.items() if k not in ("times", "arrays", "n", "question")]
    size = f"n = {row['n']:,}" if "n" in row else ""
    return ", ".join(filter(None, (*words[:-1], size, words[-1])))


# ---- targets ---------------------------------------------------------------------------------


class Target(NamedTuple):
    what: str
    wanted: str
    reached: str
    met: bool | None  # None: no data


def at_least(
    what: str, wanted: float, values: list[float], pick: Callable[[list[float]], float], form: str
) -> Target:
    if not values:
        return Target(what, f"≥ {form.format(wanted)}", "not measured", None)
    value = pick(values)
    return Target(what, f"≥ {form.format(wanted)}", form.format(value), value >= wanted)


def at_most(what: str, wanted: float, values: list[float], form: str = "{:.2f}") -> Target:
    if not values:
        return Target(what, f"≤ {form.format(wanted)}", "not measured", None)
    return Target(what, f"≤ {form.format(wanted)}", form.format(max(values)), max(values) <= wanted)


def none_lost(what: str, rows: list[Row]) -> Target:
    cells = compared(rows)
    if not cells:
        return Target(what, "none lost", "not measured", None)
    count = len(lost(rows))
    return Target(what, "none lost", f"{count} of {cells} lost", count == 0)


def rows_of(
    records: Records, name: str, keep: Callable[[Row], bool] = lambda row: True
) -> list[Row]:
    return [row for row in records.get(name, {"rows": []})["rows"] if keep(row)]


def beyond_caches(row: Row, records: Records, name: str) -> bool:
    """Whether x and y together exceed the last-level cache."""
    size = row.get("n") or math.prod(map(int, row["shape"].split("x")))
    return bool(8 * size > records[name]["config"]["llc_bytes"])


def rows_fit_l2(row: Row, records: Records, name: str) -> bool:
    """NCHW, and one channel's rows fit in the second-level cache."""
    shape = list(map(int, row["shape"].split("x")))
    channel = 4 * math.prod(shape) // shape[1]
    fits = channel <= records[name]["config"]["l2_bytes"]
    return bool(fits and row["layout"] == "NCHW")


def titled(what: str, name: str) -> str:
    """With the instruction set that a record names, as in batchnorm-avx2."""
    return f"{what} ({name.split('-')[1]})" if "-" in name else what


def floor_targets(records: Records, name: str) -> list[Target]:
    title = titled("BatchNorm", name)
    large = rows_of(records, name, lambda row: beyond_caches(row, records, name))
    nchw = [row for row in large if rows_fit_l2(row, records, name)]
    side_by_side = [row for row in large if row["layout"] != "NCHW"]
    targets = []
    for mode in ("step", "forward"):
        values = ratios((row for row in nchw if row["mode"] == mode), FLOOR)
        what = f"{title} {mode}, NCHW beyond the caches: share of the floor, worst"
        targets.append(at_least(what, 0.9, values, min, "{:.2f}"))
    for floor, wanted in ((FLOOR, 0.7), (LAYOUT_FLOOR, 0.9)):
        values = ratios((row for row in side_by_side if row["mode"] == "step"), floor)
        what = f"{title} step, NHWC and (N, C) beyond the caches: share of the {floor}, worst"
        targets.append(at_least(what, wanted, values, min, "{:.2f}"))
    return targets


def batchnorm_targets(records: Records, name: str) -> list[Target]:
    rows = rows_of(records, name, lambda row: row["mode"] in ("step", "evaluation"))
    title = titled("BatchNorm", name)
    found = [none_lost(f"{title} step and evaluation, against torch, torch.compile, jax", rows)]
    for peer, wanted in (("torch", 5), ("compile", 3)):
        what = f"{title} step and evaluation, against {peer}, geometric mean"
        found.append(at_least(what, wanted, ratios(rows, peer), geometric_mean, "{:.1f}"))
    return found


def onednn_targets(records: Records) -> list[Target]:
    one = rows_of(records, "onednn")
    nchw = [row for row in one if row["layout"] == "NCHW"]
    what = "BatchNorm + ReLU, against oneDNN's NCHW path, geometric mean"
    return [
        none_lost("BatchNorm + ReLU, against oneDNN, all buffers reused", one),
        at_least(what, 5, ratios(nchw, "onednn"), geometric_mean, "{:.1f}"),
    ]


def elementwise_targets(records: Records, name: str) -> list[Target]:
    rows = rows_of(records, name)
    if not rows:
        return []
    title = titled("Activations", name)
    targets = [none_lost(f"{title}, forward and backward, against all peers", rows)]
    low, high = IN_CACHE
    cached = ratios((row for row in rows if low <= row["n"] <= high), "torch")
    what = f"{title} in cache ({low:,} to {high:,}), against torch, geometric mean"
    targets.append(at_least(what, 2, cached, geometric_mean, "{:.1f}"))
    for out, kind in (("", "plain"), (" out", "out=")):
        large = [row for row in rows if beyond_caches(row, records, name)]
        values = ratios((r for r in large if r["mode"] == f"forward{out}"), FLOOR)
        what = f"{title} beyond the caches, {kind}: share of a streaming copy, worst"
        targets.append(at_least(what, 0.9, values, min, "{:.2f}"))
    return targets


def call_targets(records: Records) -> list[Target]:
    rows = rows_of(records, "calls")
    yardstick = f"numpy.{names.YARDSTICK.__name__}"
    one = [row for row in rows if row.get("n") == 1 and row["mode"] == "forward"]
    step = [row for row in rows if row["mode"] == "step"]
    return [
        at_most(f"One element: time over {yardstick}'s", 1.3, inverse(ratios(one, yardstick))),
        at_most("Step on (32, 64): time over torch's", 0.25, inverse(ratios(step, "torch"))),
    ]


def inverse(values: list[float]) -> list[float]:
    return [1 / value for value in values]


def unevenness(rows: list[Row]) -> float:
    """The time of an element where it is largest over that where it is least."""
    each: list[float] = [row["times"][OWN].median / row["n"] for row in rows]
    return max(each) / min(each)


def scaling_targets(records: Records) -> list[Target]:
    rows = rows_of(records, "scaling")
    asked = {q: [r for r in rows if r["question"] == q] for q in ("threads", "small", "channels")}
    arithmetic = [r for r in asked["threads"] if r["activation"] == names.ARITHMETIC and "n" in r]
    few = [v for c in ("1 channel", "3 channels") for v in ratios(asked["channels"], c)]
    llc = records["scaling"]["config"]["llc_bytes"] if rows else 0
    growth = [r for r in rows if (r["question"], r["mode"]) == ("growth", "forward out")
              and 8 * r["n"] > llc]  # fmt: skip
    uneven = [unevenness([r for r in growth if r["activation"] == name])
              for name in {r["activation"] for r in growth}]  # fmt: skip
    return [
        at_least("Two threads, arithmetic: times as fast as one, worst", 1.9,
                 ratios(arithmetic, "1 thread"), min, "{:.2f}"),
        at_most("Beyond the caches to 3e8 elements: dearest over cheapest element", 1.2, uneven),
        at_most("One or three channels: time over that of sixty-four, worst", 1.1, few),
        at_most("Small arrays: time of all threads over that of one, worst", 1.05,
                inverse(ratios(asked["small"], "1 thread"))),
    ]  # fmt: skip


def memory_targets(records: Records) -> list[Target]:
    def arrays(question: str, mode: str) -> list[float]:
        rows = rows_of(records, "memory", lambda r: (r["question"], r["mode"]) == (question, mode))
        return [row["arrays"][OWN] for row in rows]

    return [
        at_most("A call: peak, in arrays of x's size (its result is one)", 1.05,
                arrays("call", "peak")),
        at_most("A call with out=: peak", 0.05, arrays("call out", "peak")),
        at_most("A training step keeps alive", 1.05, arrays("forward of a step", "kept")),
    ]  # fmt: skip


def targets(records: Records) -> list[Target]:
    found = []
    for name in named(records, "batchnorm") or ["batchnorm"]:
        found += [*floor_targets(records, name), *batchnorm_targets(records, name)]
    found += onednn_targets(records)
    for name in named(records, "elementwise"):
        found += elementwise_targets(records, name)
    return [*found, *call_targets(records), *scaling_targets(records), *memory_targets(records)]


def named(records: Records, suite: str) -> list[str]:
    """Records of a suite: with the best instruction set, with others."""
    return sorted(name for name in records if name.split("-")[0] == suite)
