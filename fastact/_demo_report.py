"""The demo's table and picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastact._demo_numpy import expression

if TYPE_CHECKING:
    from fastact._demo import Result

HEAD = ("activation", "test accuracy", "fastact s/epoch", "NumPy s/epoch", "ratio", "dead units")
NOTES = """\
s/epoch: a training epoch, the fastest of {rounds} a side, taken in turns; both run on one thread
  and share the NumPy code for matrix products, loss, optimiser and batches.
NumPy: BatchNorm and activation as float32 NumPy expressions, forward and backward, with
  SciPy's normal distribution where needed; each is checked against fastact.reference.
ratio: NumPy's time divided by fastact's.
dead units: share of hidden units whose output is the same (to 1e-6) for every test image."""
STAND_IN = "*: no plain expression at hand; NumPy's time is that of fastact.reference, in float64."


def format_table(results: Sequence[Result], rounds: int) -> str:
    """The results as text, a line an activation, and what the columns mean."""
    rows = [
        (
            r.activation + ("" if expression(r.activation).textbook else " *"),
            f"{r.accuracies[-1]:.2%}",
            f"{r.fastact_seconds:.4f}",
            f"{r.numpy_seconds:.4f}",
            f"{r.numpy_seconds / r.fastact_seconds:.1f}x",
            f"{r.dead:.1%}",
        )
        for r in results
    ]
    widths = [max(map(len, column)) for column in zip(HEAD, *rows, strict=True)]
    form = f"{{:<{widths[0]}}}" + "".join(f"  {{:>{width}}}" for width in widths[1:])
    lines = [form.format(*row) for row in (HEAD, ["-" * width for width in widths], *rows)]
    stand_in = [STAND_IN] if any(row[0].endswith("*") for row in rows) else []
    return "\n".join([*lines, "", NOTES.format(rounds=rounds), *stand_in])


def draw_curves(results: Sequence[Result], seed: int, goal: float, path: Path) -> None:
    """Write the picture: for each activation its test accuracy and training loss by epoch.

    Small multiples rather than a dozen colours: each panel shows one activation in colour before
    all the others in grey.
    """
    from matplotlib.figure import Figure

    columns = min(6, len(results))
    rows = math.ceil(len(results) / columns)
    figure = Figure(figsize=(max(4.8, 2.3 * columns), 1.2 + 3.9 * rows), layout="constrained")
    subject = f"BatchNorm + activation on 8 x 8 digits (seed {seed})"
    legend = f"colour: the activation named; grey: the others; dotted: {goal:.0%}"
    figure.suptitle(f"{subject}\n{legend}", fontsize=10)
    halves: Any = figure.subfigures(2, 1)
    upper, lower = halves
    names = [r.activation for r in results]
    accuracies = [[100 * value for value in r.accuracies] for r in results]
    for ax in _panels(upper, columns, names, accuracies, "#0072b2", "{:.1f} %"):
        ax.axhline(100 * goal, color="0.3", lw=0.8, ls=":")
        ax.set_ylim(80, 100.5)
    for ax in _panels(lower, columns, names, [r.losses for r in results], "#d55e00", "{:.2g}"):
        ax.set_yscale("log")
    upper.supylabel("test accuracy, %", fontsize=10)
    lower.supylabel("training loss", fontsize=10)
    figure.savefig(path, dpi=110)


def _panels(
    figure: Any,
    columns: int,
    names: list[str],
    curves: list[list[float]],
    colour: str,
    form: str,
) -> list[Any]:
    """A panel for each curve, titled with its name and last value."""
    rows = math.ceil(len(names) / columns)
    epochs = range(1, len(curves[0]) + 1)
    marker = "o" if len(epochs) == 1 else None  # a line of one point cannot be seen
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    # all the others as one line with gaps: a line each takes longer to draw
    others = [value for curve in curves for value in (*curve, math.nan)]
    others_x = [*epochs, math.nan] * len(curves)
    for ax, name, own in zip(axes, names, curves, strict=False):
        ax.plot(others_x, others, marker=marker, color="0.8", lw=0.7)
        ax.plot(epochs, own, marker=marker, color=colour, lw=1.8)
        ax.set_title(f"{name}: {form.format(own[-1])}", fontsize=9.5)
    for ax in axes[len(names) :]:
        ax.set_visible(False)
    figure.supxlabel("epoch", fontsize=10)
    return list(axes[: len(names)])
