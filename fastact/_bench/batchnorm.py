"""How fast is BatchNorm + activation: forward, training step (forward + backward), evaluation?

Plain calls, a new result each, running statistics updated, on all sides. torch runs NHWC data as
channels_last tensors, and its backward through autograd. The floor of a forward is a streaming
copy, that of a step a copy and an add. Where channels lie side by side and the array is larger than
the cache, x has to be read again once the statistics are known, and dy and x again once their sums
are: `layout floor` has these reads as well.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

import fastact
from fastact import reference
from fastact._bench import floor, names
from fastact._bench.elementwise import parameters
from fastact._bench.options import names_of, words
from fastact._bench.peers import Peers, with_mode
from fastact._bench.suite import OWN, Cell, Group, Suite, WrongResult, main
from fastact._bench.timing import Contenders, Shape, Statement, Statements

SHAPES = (
    (32, 64, 56, 56), (32, 256, 14, 14), (8, 64, 112, 112), (1, 3, 1024, 1024), (128, 3, 32, 32),
    (16, 32, 8, 8), (65536, 64), (4096, 1024), (256, 512), (32, 64),
)  # fmt: skip
QUICK_SHAPES = ((32, 256, 14, 14), (16, 32, 8, 8), (256, 512))
LAYOUTS = ("NCHW", "NHWC")
MODES = ("forward", "step", "evaluation")
PASSES = {"forward": "c", "backward": "a", "step": "ca", "evaluation": "c"}
LAYOUT_PASSES = {
    "forward": "rc",
    "backward": "ba",
    "step": "rcba",
}  # channels side by side, beyond the cache
PER_CHANNEL = ("weight", "bias", "running_mean", "running_var")
CHECKED = 1 << 19  # elements held to the reference, which takes seconds for millions
CLOSE = 1e-6  # of the largest value: gradients are sums of thousands of rounded terms


class Job:
    """One shape, layout and activation: the data, and what is right."""

    gated = False

    def __init__(self, shape: Shape, layout: str, name: str) -> None:
        self.name, self.axis = name, 1 if layout == "NCHW" else -1
        self.label = f"{shape} {layout} {name}"
        function = fastact.activations[name]
        self.learned = function.learned
        self.values, self.required = parameters(function.parameters)
        rng = np.random.default_rng(0)
        self.x, self.dy = (
            rng.standard_normal(in_layout(shape, layout), dtype=np.float32) for _ in range(2)
        )
        channels = shape[1]
        self.weight, self.bias = (
            rng.uniform(0.5, 2, channels).astype(np.float32) for _ in range(2)
        )
        self.running_mean, self.running_var = (np.full(channels, v, np.float32) for v in (0, 1))
        self.sample = np.linspace(-6, 6, 4096, dtype=np.float32)
        self.sample_exact = reference.activations[name][0](self.sample, *self.values.values())

    @property
    def options(self) -> dict[str, Any]:
        return self.options_of(slice(None))

    def options_of(self, channels: Any) -> dict[str, Any]:
        pairs: dict[str, Any] = {k: getattr(self, k)[channels].copy() for k in PER_CHANNEL}
        pairs |= {"axis": self.axis, "activation": self.name}
        return pairs | {"activation_params": self.required or None}

    def checked_channels(self) -> np.ndarray:
        """All where the array is small, else some from the first to the last."""
        count = self.x.shape[self.axis]
        fit = max(2, CHECKED * count // self.x.size)
        return np.unique(np.linspace(0, count - 1, min(fit, count)).round().astype(int))

    def some(self, array: np.ndarray) -> np.ndarray:
        """The checked channels of an array like x."""
        return np.ascontiguousarray(array.take(self.channels, axis=self.axis))

    def check(self) -> None:
        """Values and gradients are held to the reference; the exact gradient is kept for peers."""
        y, ctx = fastact.batch_norm_forward(self.x, **self.options)
        grads = fastact.batch_norm_backward(self.dy, ctx)
        self.channels = self.checked_channels()
        x, options = self.some(self.x), self.options_of(self.channels)
        options["round_to"] = np.float32
        exact, exact_ctx = reference.batch_norm_forward(x, **options)
        right = reference.batch_norm_backward(self.some(self.dy), exact_ctx)
        hold("forward", self.some(y), exact)
        hold("gradient of x", self.some(grads.x), right.x)
        for field in ("weight", "bias"):
            hold(
                f"gradient of {field}", getattr(grads, field)[self.channels], getattr(right, field)
            )
        evaluated = fastact.batch_norm(self.x, **self.options)
        options = self.options_of(self.channels)
        options["round_to"] = np.float32
        hold("evaluation", self.some(evaluated), reference.batch_norm(x, **options))
        self.exact_forward = exact.astype(np.float32)
        self.exact_gradient = right.x.astype(np.float32)


def hold(what: str, got: np.ndarray, exact: np.ndarray) -> None:
    if not np.abs(got - exact).max() <= CLOSE * np.abs(exact).max():
        raise WrongResult(f"{what}: not what fastact.reference computes")


def in_layout(shape: Shape, layout: str) -> Shape:
    return shape if layout == "NCHW" or len(shape) == 2 else (shape[0], *shape[2:], shape[1])


def own(job: Job) -> Statements:
    def step() -> object:
        y, ctx = fastact.batch_norm_forward(job.x, **options)
        return y, fastact.batch_norm_backward(job.dy, ctx)

    options = job.options
    space = {"fa": fastact, "x": job.x, "options": options}
    return {
        "forward": Statement("fa.batch_norm_forward(x, **options)", **space),
        "step": Statement(step),
        "evaluation": Statement("fa.batch_norm(x, **options)", **space),
    }


def floors(job: Job, mode: str) -> Contenders:
    n = job.x.size
    found = floor.contenders(PASSES[mode], n)
    side_by_side = job.axis == -1 or job.x.ndim == 2
    if side_by_side and mode in LAYOUT_PASSES and 8 * n > fastact.config()["llc_bytes"]:
        found |= floor.contenders(LAYOUT_PASSES[mode], n, floor.LAYOUT)
    return found


def build(shape: Shape, layout: str, name: str, found: Peers) -> Iterator[Cell]:
    job = Job(shape, layout, name)
    job.check()
    calls = {OWN: own(job), **found.calls("batch_norm", job)}
    for mode in MODES:
        yield mode, {**with_mode(calls, mode), **floors(job, mode)}, {}


def groups(options: argparse.Namespace) -> list[Group]:
    shapes = options.shapes or (QUICK_SHAPES if options.quick else SHAPES)
    modes = tuple(options.modes or MODES)
    return [
        Group(
            {"shape": "x".join(map(str, shape)), "layout": layout, "activation": name},
            modes,
            functools.partial(build, shape, layout, name),
        )
        for shape in shapes
        for layout in (("NC",) if len(shape) == 2 else options.layouts or LAYOUTS)
        for name in options.activations or names.BATCH_NORM[-2 if options.quick else 0 :]
    ]


def shape_list(value: str) -> list[Shape]:
    return [tuple(map(int, shape.split("x"))) for shape in words(value)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shapes", type=shape_list, metavar="LIST", help="32x64x56x56,...: N x C x H x W, N x C"
    )
    parser.add_argument("--layouts", type=names_of(LAYOUTS), metavar="LIST", help="of NCHW, NHWC")
    parser.add_argument(
        "--activations",
        type=names_of(fastact.activations),
        metavar="LIST",
        help="any of the table",
    )
    parser.add_argument(
        "--modes", type=names_of(MODES), metavar="LIST", help=f"of {', '.join(MODES)}"
    )


SUITE = Suite(
    "batchnorm",
    str(__doc__).splitlines()[0],
    ("torch", "compile", "jax"),
    groups,
    add_arguments,
    "python bench/batchnorm.py --shapes 32x64x56x56 --layouts NHWC --against torch",
)

if __name__ == "__main__":
    sys.exit(main(SUITE))
