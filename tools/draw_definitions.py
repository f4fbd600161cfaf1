"""Draw docs/pictures/NAME.svg: value and derivative of every activation, from fastact.reference.

python tools/draw_definitions.py        needs matplotlib
"""

from pathlib import Path

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "fastact"  # the same file for the same picture

import numpy as np  # noqa: E402
from matplotlib import pyplot  # noqa: E402

from fastact import activations, reference  # noqa: E402

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "pictures"


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
    axis.axhline(0, color="gray", linewidth=0.5)
    axis.axvline(0, color="gray", linewidth=0.5)
    axis.set_xlabel("x")
    given = zip(activations[name].parameters, params, strict=True)
    axis.set_title(", ".join([name, *(f"{p} = {v:.4g}" for p, v in given)]), fontsize=10)
    axis.legend(fontsize=8)
    figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for each in activations:
        draw(each)
