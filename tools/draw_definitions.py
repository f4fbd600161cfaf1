"""Draw docs/pictures/NAME.svg: value and derivative of every activation, from fastact.reference.

Gated ones are drawn against the gate, for a few x: value and gradient in the gate.

python tools/draw_definitions.py        needs matplotlib
"""

from pathlib import Path

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "fastact"  # the same file for the same picture

import numpy as np  # noqa: E402
from matplotlib import pyplot  # noqa: E402

from fastact import activations, gated, reference  # noqa: E402

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "pictures"
GATED_X = (2.0, 1.0, -1.0)


def pieces(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """y with NaN where it jumps, so that no line is drawn there."""
    y = y.copy()
    y[1:][np.abs(np.diff(y)) > 0.1] = np.nan
    return y


def draw(name: str) -> None:
    params = [0.25 if p is None else p for p in activations[name].parameters.values()]
    value, gradient = reference.activations[name]
    x = np.linspace(-5, 5, 2001)
    slope = gradient(np.ones_like(x), x, *params)
    slope = slope[0] if isinstance(slope, tuple) else slope
    figure, axis = pyplot.subplots(figsize=(4.5, 3), layout="constrained")
    axis.plot(x, pieces(x, value(x, *params)), label="value")
    axis.plot(x, pieces(x, slope), label="derivative", linestyle="--")
    axis.set_ylim(-2.2, 5.2)
    axis.set_xlabel("x")
    given = zip(activations[name].parameters, params, strict=True)
    finish(figure, axis, name, ", ".join([name, *(f"{p} = {v:.4g}" for p, v in given)]))


def draw_gated(name: str) -> None:
    value, gradient = reference.gated[name]
    gate = np.linspace(-5, 5, 2001)
    figure, axis = pyplot.subplots(figsize=(4.5, 3), layout="constrained")
    for x in GATED_X:
        xs = np.full_like(gate, x)
        (line,) = axis.plot(gate, value(xs, gate), label=f"x = {x:g}")
        slope = gradient(np.ones_like(gate), xs, gate)[1]
        axis.plot(gate, pieces(gate, slope), color=line.get_color(), linestyle="--")
    axis.set_ylim(-5.2, 5.2)
    axis.set_xlabel("gate")
    finish(figure, axis, name, f"{name}; dashed: the gradient in the gate")


def finish(figure: pyplot.Figure, axis: pyplot.Axes, name: str, title: str) -> None:
    axis.axhline(0, color="gray", linewidth=0.5)
    axis.axvline(0, color="gray", linewidth=0.5)
    axis.set_title(title, fontsize=10)
    axis.legend(fontsize=8)
    figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for each in activations:
        draw(each)
    for each in gated:
        draw_gated(each)
