"""How much memory does a call take, and what does a training step keep alive?

In units of x, the input. Each side runs in a process of its own: the growth of its resident memory
from before a call to its peak (`peak`: a call's result is 1), what is left when the results are
deleted (`left`: what waits to be used again counts), and what a forward keeps alive for the
backward once x and y are the caller's no more (`kept`). A step of ten layers, each a matrix
product, BatchNorm and leaky_relu, is taken as they come and with BatchNorm in place
(save_for_backward="output"); its `time` is a multiple of what it takes fastact's ordinary mode, in
turns in one process.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import fastact
from fastact._bench import elementwise, names
from fastact._bench.peer_torch import torch_function
from fastact._bench.peers import Peers
from fastact._bench.suite import OWN, Cell, Group, Suite, main
from fastact._bench.timing import Shape

CALL_SHAPES = (16_000_000,), (4_000_000,)  # and with --quick
STEP_SHAPES = (32, 64, 56, 56), (32, 64, 28, 28)
LAYERS, LAYER_SHAPES = 10, ((200_000, 64), (20_000, 64))
TIMED, TURNS = (50_000, 10_000), (30, 3)  # rows, and how often; the latter of each with --quick
TEN, IN_PLACE = "ten layers", "ten layers, in place"
REHEARSAL = {
    1: (64,),
    2: (64, 64),
    4: (4, 64, 4, 4),
}  # by rank: libraries are loaded, threads started
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
QUESTIONS = {"call": ("peak", "left"), "call out": ("peak",), "backward": ("peak", "left"),
             "step": ("peak", "left"), "forward of a step": ("peak", "kept"),
             TEN: ("peak", "time"), IN_PLACE: ("peak", "time")}  # fmt: skip


# ---- in the process that is measured ---------------------------------------------------------


def resident(field: str = "VmRSS") -> int:
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return 1024 * int(lines[field].split()[0])


def give_back() -> None:
    """What the C library keeps of freed memory goes back to the system."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def examine(side: str, question: str, shape: Shape) -> dict[str, float]:
    """The growths, in units of x, of one call that a rehearsal on few elements went before."""
    calls_of = SIDES[side]
    calls_of(*data(REHEARSAL[len(shape)]))[question]()
    x, dy = data(shape)
    size, calls = x.nbytes, calls_of(x, dy)
    give_back()
    before = resident()
    RESET.write_text("5")  # the peak counts from now
    result = calls[question]()
    found = {"peak": resident("VmHWM") - before}
    if isinstance(result, Kept):
        del x, calls
        result.y = None
        fastact.memory.trim()  # y's memory is nobody's
        give_back()
        found["kept"] = resident() - before + size
    del result
    give_back()
    found["left"] = resident() - before
    numbers = {key: value / size for key, value in found.items()}
    if question in (TEN, IN_PLACE):
        few = dy.size < 1e7
        rows = TIMED[few]
        first = x[:rows]  # pyright: ignore[reportPossiblyUnboundVariable]  # of these no Kept comes
        numbers["time"] = relative_time(side, question, first, dy[:rows], TURNS[few])
    return numbers


def relative_time(side: str, question: str, x: np.ndarray, dy: np.ndarray, turns: int) -> float:
    """Of fastact's ordinary step; lower quartiles of turns. NumPy's arrays are recycled too, since
    fresh pages cost more than the layers do, and never the same."""
    sides = SIDES[side](x, dy)[question], fastact_calls(x, dy)[TEN]
    times: tuple[list[float], list[float]] = [], []
    with fastact.memory.lend():
        for turn in range(turns + 1):
            for k in (0, 1) if turn % 2 else (1, 0):
                begin = time.perf_counter()
                sides[k]()
                times[k].append(time.perf_counter() - begin)
    quartiles = [float(np.quantile(seconds[1:], 0.25)) for seconds in times]
    return quartiles[0] / quartiles[1]


def data(shape: Shape) -> list[np.ndarray]:
    return [np.random.default_rng(k).standard_normal(shape, dtype=np.float32) for k in (0, 1)]


class Kept:
    """What a forward returned: y, and what the backward will need."""

    def __init__(self, y: object, context: object) -> None:
        self.y, self.context = y, context


def weights(channels: int) -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    shape = channels, channels
    return [rng.standard_normal(shape, dtype=np.float32) / channels**0.5 for _ in range(LAYERS)]


def ten_layers(x: np.ndarray, dy: np.ndarray, saves: str) -> list[np.ndarray]:
    """The gradients of the weights. What no one needs any more is let go of at once."""
    kept: list[Any] = []
    own, gradients = weights(x.shape[1]), []
    for weight in own:
        z = x @ weight
        out = z if saves == "output" else None
        y, ctx = fastact.batch_norm_forward(
            z, activation=names.SLOPED, save_for_backward=saves, out=out
        )
        kept.append((x, ctx))
        x = y
    del x, y, z, ctx, out  # pyright: ignore[reportPossiblyUnboundVariable]  # there are layers
    while kept:
        before, ctx = kept.pop()
        dz = fastact.batch_norm_backward(dy, ctx).x
        del ctx
        gradients.append(before.T @ dz)
        dy = dz @ own[len(kept)].T
    return gradients


def fastact_calls(x: np.ndarray, dy: np.ndarray) -> dict[str, Callable[[], object]]:
    f = fastact.activations[names.ARITHMETIC]

    def forward() -> Any:
        return fastact.batch_norm_forward(x, activation=f)

    def step() -> object:
        y, ctx = forward()
        return y, fastact.batch_norm_backward(dy, ctx)

    return {
        "call": lambda: f(x),
        "call out": lambda: f(x, out=dy),
        "backward": lambda: f.backward(dy, x),
        "step": step,
        "forward of a step": lambda: Kept(*forward()),
        TEN: lambda: ten_layers(x, dy, "input"),
        IN_PLACE: lambda: ten_layers(x, dy, "output"),
    }


def torch_calls(x: np.ndarray, dy: np.ndarray) -> dict[str, Callable[[], object]]:
    import torch
    from torch.nn.functional import batch_norm

    f = torch_function(elementwise.Job(names.ARITHMETIC, 1))
    plain, gradient = torch.from_numpy(x), torch.from_numpy(dy)
    leaf = plain.detach().requires_grad_()

    def layer() -> Any:
        return f(batch_norm(leaf, None, None, training=True))

    def forward() -> Kept:
        y = layer()
        return Kept(y, y.grad_fn)

    def step() -> object:
        y = layer()
        y.backward(gradient)
        return y, leaf

    def ten() -> object:
        """The activation in place, as torch allows: its backward needs its result alone."""
        own = [torch.from_numpy(weight).requires_grad_() for weight in weights(x.shape[1])]
        h = plain
        for weight in own:
            z = batch_norm(h @ weight, None, None, training=True)
            h = getattr(torch.nn.functional, f"{names.SLOPED}_")(z, 0.01)
        h.backward(gradient)
        return own

    return {"call": lambda: f(plain), "step": step, "forward of a step": forward, TEN: ten}


SIDES = {OWN: fastact_calls, "torch": torch_calls}


# torch has no backward without a forward, and its out= is no part of its documented interface
ANSWERED = {OWN: tuple(QUESTIONS), "torch": ("call", "step", "forward of a step", TEN)}


def worker(side: str, question: str, shape: Shape) -> None:
    print(json.dumps(examine(side, question, shape)))


# ---- the suite -------------------------------------------------------------------------------


def measured(side: str, question: str, shape: Shape) -> dict[str, float]:
    code = f"from fastact._bench.memory import worker; worker{side, question, shape!r}"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def build(question: str, shape: Shape, found: Peers) -> Iterator[Cell]:
    sides = [side for side in (OWN, *found.found) if question in ANSWERED[side]]
    by_side = {side: measured(side, question, shape) for side in sides}
    for mode in QUESTIONS[question]:
        yield mode, {}, {"arrays": {side: numbers[mode] for side, numbers in by_side.items()}}


def groups(options: argparse.Namespace) -> list[Group]:
    if not RESET.exists():
        print("memory: left out, there is no /proc to read it from", file=sys.stderr)
        return []
    found = []
    for question, modes in QUESTIONS.items():
        shape: tuple[int, ...] = CALL_SHAPES[options.quick]
        if question in (TEN, IN_PLACE):
            shape = LAYER_SHAPES[options.quick]
        elif "step" in question:
            shape = STEP_SHAPES[options.quick]
        key = {"question": question, "shape": "x".join(map(str, shape))}
        found.append(Group(key, modes, functools.partial(build, question, shape)))
    return found


SUITE = Suite("memory", str(__doc__).splitlines()[0], ("torch",), groups,
              example="python bench/memory.py --against torch")  # fmt: skip

if __name__ == "__main__":
    sys.exit(main(SUITE))
