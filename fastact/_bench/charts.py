"""Pictures of records, with matplotlib: speed against size, heat maps of ratios, training steps."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import fastact
from fastact._bench import report
from fastact._bench.suite import OWN
from fastact._bench.timing import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    OWN: "#d55e00", "torch": "#0072b2", "compile": "#56b4e9", "jax": "#009e73", "numpy": "#999999",
    "scipy": "#666666", "numexpr": "#cc79a7", "onednn": "#0072b2", "onednn blocked": "#56b4e9",
}  # fmt: skip
LABELS = {
    "compile": "torch.compile", "jax": "jax jit", "numpy": "NumPy", "scipy": "SciPy",
    "torch": "torch eager", "onednn": "oneDNN", "onednn blocked": "oneDNN blocked",
}  # fmt: skip
Label = Callable[[Row], str]
Value = Callable[[Row], float | None]
ARRAYS = {"forward": 2, "backward": 3}  # moved: x and y; dy, x and dx
GATED_ARRAYS = {"forward": 3, "backward": 5}


def label(name: str) -> str:
    return LABELS.get(name, name)


def figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def png(drawing: Figure, dpi: int = 100) -> bytes:
    """With a palette: a third of the bytes."""
    from PIL import Image

    drawn, small = io.BytesIO(), io.BytesIO()
    drawing.savefig(drawn, format="png", dpi=dpi)
    Image.open(drawn).convert("RGB").quantize(160).save(small, format="png", optimize=True)
    return small.getvalue()


# ---- speed against size ----------------------------------------------------------------------


def speeds(rows: list[Row], name: str) -> tuple[list[int], list[float]]:
    """Sizes, and memory moved in GB/s by one contender."""
    chosen = sorted((row for row in rows if name in row["times"]), key=lambda row: row["n"])
    arrays = GATED_ARRAYS if rows[0]["activation"] in fastact.gated else ARRAYS
    size = 4e-9 * arrays[rows[0]["mode"].split()[0]]
    sizes = [row["n"] for row in chosen]
    return sizes, [size * row["n"] / row["times"][name].median for row in chosen]


def draw_speed(axes: Axes, rows: list[Row]) -> None:
    """One activation in one mode: a line a contender, the floor dashed."""
    rows = sorted(rows, key=lambda row: row["n"])
    for name in [*report.peers_of(rows), OWN]:
        width = 2.2 if name == OWN else 1.1
        axes.plot(*speeds(rows, name), "o-", ms=2.5, lw=width, color=COLOURS.get(name),
                  label=label(name))  # fmt: skip
    axes.plot(*speeds(rows, report.FLOOR), "k--", lw=1, label="floor")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(alpha=0.25, lw=0.5)
    axes.tick_params(labelsize=7)


def by_activation(rows: list[Row], mode: str) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["mode"] == mode:
            found.setdefault(row["activation"], []).append(row)
    return found


def speed_panels(rows: list[Row], mode: str, columns: int = 5) -> Figure:
    """Small multiples: a panel an activation."""
    groups = by_activation(rows, mode)
    height = math.ceil(len(groups) / columns)
    drawing = figure(2.5 * columns, 1.9 * height + 0.9)
    panels = drawing.subplots(height, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (name, own_rows) in zip(panels, groups.items(), strict=False):
        draw_speed(axes, own_rows)
        axes.set_title(name, fontsize=9)
    for axes in panels[len(groups) :]:
        axes.set_visible(False)
    handles: dict[str, Any] = {}
    for axes in panels[: len(groups)]:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    drawing.legend(handles.values(), handles, loc="outside upper center", ncols=8, fontsize=8)
    drawing.supxlabel("elements", fontsize=9)
    drawing.supylabel(f"{mode}: memory moved, GB/s", fontsize=9)
    return drawing


def speed_panel(rows: list[Row], name: str, mode: str) -> Figure:
    """One panel alone, for a narrow page."""
    drawing = figure(4.2, 3)
    axes = drawing.subplots()
    draw_speed(axes, rows)
    axes.set_title(f"{name}, {mode}", fontsize=9)
    axes.set_xlabel("elements", fontsize=8)
    axes.set_ylabel("memory moved, GB/s", fontsize=8)
    axes.legend(fontsize=6)
    return drawing


# ---- heat maps -------------------------------------------------------------------------------


def heat_map(
    rows: list[Row], row_of: Label, column_of: Label, value_of: Value, title: str
) -> Figure:
    """Ratios as colours and numbers: blue where fastact is faster, red where a cell is lost."""
    names = list(dict.fromkeys(row_of(row) for row in rows))
    columns = list(dict.fromkeys(column_of(row) for row in rows))
    drawing = figure(2.4 + 0.62 * len(columns), 1.3 + 0.24 * len(names))
    axes = drawing.subplots()
    for row in rows:
        if (value := value_of(row)) is None:
            continue
        x, y = columns.index(column_of(row)), names.index(row_of(row))
        paint(axes, x, y, value)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xticks(range(len(columns)), columns, fontsize=7, rotation=40, ha="left")
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_title(title, fontsize=9)
    return drawing


def paint(axes: Axes, x: int, y: int, value: float) -> None:
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    colour = colormaps["Reds" if value < 1 else "Blues"](0.15 + 0.75 * strength(value))
    axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="white", lw=0.7))
    axes.text(x, y, number(value), ha="center", va="center", fontsize=6.5,
              color="white" if strength(value) > 0.6 else "black",
              weight="bold" if value < 1 else None)  # fmt: skip


def strength(value: float) -> float:
    """0 to 1: how far a ratio is lost (1 from a quarter down), or won (1 from 16 up)."""
    if value < 1:
        return min(1.0, 0.3 - 0.35 * math.log2(value))
    return min(1.0, math.log2(value) / 4)


def number(value: float) -> str:
    return f"{value:.2f}" if value < 9.95 else f"{value:.0f}"


def elementwise_map(rows: list[Row], modes: tuple[str, ...], title: str) -> Figure:
    chosen = [row for row in rows if row["mode"] in modes]
    return heat_map(chosen, lambda r: r["activation"], lambda r: f"{r['mode']}\n{r['n']:,}",
                    report.against_the_best, title)  # fmt: skip


def batchnorm_map(rows: list[Row], peer: str) -> Figure:
    return heat_map(
        [row for row in rows if peer in row["times"]],
        lambda r: f"{r['shape']} {r['layout']}",
        lambda r: f"{r['mode']}\n{r['activation']}",
        lambda r: report.ratio(r, peer),
        f"BatchNorm + activation: {label(peer)}'s time over fastact's",
    )


# ---- the training step -----------------------------------------------------------------------


def steps(rows: list[Row], activation: str) -> Figure:
    """Training steps, a group of bars a shape: speed as a share of the floor's."""
    chosen = [r for r in rows if r["mode"] == "step" and r["activation"] == activation]
    contenders = [OWN, *report.peers_of(chosen)]
    drawing = figure(9, 3.6)
    axes = drawing.subplots()
    width = 0.8 / len(contenders)
    for k, name in enumerate(contenders):
        shares = [report.ratio(r, report.FLOOR) / own_over(r, name) for r in chosen]
        places = [x + (k - (len(contenders) - 1) / 2) * width for x in range(len(chosen))]
        axes.bar(places, shares, width, color=COLOURS.get(name), label=label(name))
    axes.axhline(1, color="black", lw=0.8, ls="--")
    axes.text(-0.5, 1.01, "the floor: copy + add", fontsize=7.5, va="bottom")
    ticks = [f"{r['shape'].replace('x', '·')}\n{r['layout']}" for r in chosen]
    axes.set_xticks(range(len(chosen)), ticks, fontsize=6.5, rotation=35, ha="right")
    axes.set_ylabel("speed, share of the floor's", fontsize=9)
    axes.set_title(f"Training step: BatchNorm + {activation}, forward and backward", fontsize=10)
    axes.legend(fontsize=8, ncols=len(contenders))
    return drawing


def own_over(row: Row, name: str) -> float:
    """A contender's time over fastact's."""
    return 1.0 if name == OWN else report.ratio(row, name) if name in row["times"] else math.inf


def all_of(records: report.Records) -> Iterator[tuple[str, Figure]]:
    """(name of the file, figure) for everything that a page shows."""
    from fastact._bench import names

    for name in report.named(records, "elementwise"):
        rows = records[name]["rows"]
        for mode in ("forward", "backward"):
            yield f"{name}-{mode}", speed_panels(rows, mode)
        for which, modes in (("plain", ("forward", "backward")), ("out", ("forward out",))):
            title = f"The fastest peer's time over fastact's ({name}, {which})"
            yield f"{name}-ratios-{which}", elementwise_map(rows, modes, title)
    for name in report.named(records, "batchnorm"):
        for peer in report.peers_of(records[name]["rows"]):
            yield f"{name}-{peer}", batchnorm_map(records[name]["rows"], peer)
    if rows := report.rows_of(records, "batchnorm"):
        yield "steps", steps(rows, names.PICTURED)
