"""What does a call cost where the array is too small to matter?

One element: fastact's call beside NumPy's shortest transcendental ufunc and torch's function. A
training step of BatchNorm + activation on (32, 64), functions and layers, and the modules of
fastact.torch beside torch's. On 64 elements, where vectors begin to matter.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import fastact
from fastact._bench import batchnorm, elementwise, names
from fastact._bench.peer_torch import torch_function
from fastact._bench.peers import Peers, with_mode
from fastact._bench.suite import OWN, Cell, Group, Suite, main
from fastact._bench.timing import Statement, Statements

SHAPE = (32, 64)
MODES = ("forward", "forward out", "backward")
STEPS = (*batchnorm.MODES, "layer step", "module step")


def build_call(n: int, found: Peers) -> Iterator[Cell]:
    job = elementwise.Job(names.CALL, n)
    calls = {OWN: elementwise.own(job), **found.calls("elementwise", job)}
    job.hold(calls[OWN])
    yardstick: Statements = {
        "forward": Statement("f(x)", f=names.YARDSTICK, x=job.x),
        "forward out": Statement("f(x, out=out)", f=names.YARDSTICK, x=job.x, out=job.out),
    }
    calls[f"numpy.{names.YARDSTICK.__name__}"] = yardstick
    for mode in MODES:
        yield mode, with_mode(calls, mode), {}


def build_step(found: Peers) -> Iterator[Cell]:
    job = batchnorm.Job(SHAPE, "NC", names.CALL)
    job.check()
    calls = {OWN: batchnorm.own(job), **found.calls("batch_norm", job)}
    calls[OWN]["layer step"] = layer_step(job)
    if "torch" in calls:
        step = torch_layer_step(job)
        calls["torch"] |= {"layer step": step, "module step": step}
        calls[OWN]["module step"] = fused_module_step(job)
    for mode in STEPS:
        if mode in calls[OWN]:
            yield mode, with_mode(calls, mode), {}


def layer_step(job: batchnorm.Job) -> Statement:
    layer = fastact.BatchNorm(SHAPE[1], activation=job.name)

    def step() -> object:
        layer(job.x)
        return layer.backward(job.dy)

    return Statement(step)


def torch_layer_step(job: batchnorm.Job) -> Statement:
    import torch

    act = torch_function(job)
    layer = torch.nn.BatchNorm1d(SHAPE[1])
    return module_step(job, layer, lambda x: act(layer(x)))


def fused_module_step(job: batchnorm.Job) -> Statement:
    from fastact import torch as fat

    layer = fat.BatchNorm1d(SHAPE[1], activation=job.name)
    return module_step(job, layer, layer)


def module_step(job: batchnorm.Job, layer: Any, call: Callable[[Any], Any]) -> Statement:
    import torch

    x, dy = torch.from_numpy(job.x).requires_grad_(), torch.from_numpy(job.dy)

    def step() -> object:
        x.grad = layer.weight.grad = layer.bias.grad = None
        return call(x).backward(dy)

    return Statement(step)


def groups(options: argparse.Namespace) -> list[Group]:
    shape = "x".join(map(str, SHAPE))
    return [
        Group({"activation": names.CALL, "n": n}, MODES, functools.partial(build_call, n))
        for n in (1, 64)
    ] + [
        Group(
            {"activation": names.CALL, "shape": shape, "layout": "NC"},
            STEPS,
            build_step,
        )
    ]


SUITE = Suite(
    "calls",
    str(__doc__).splitlines()[0],
    ("torch", "compile", "jax"),
    groups,
    example="python bench/calls.py --against torch",
)

if __name__ == "__main__":
    sys.exit(main(SUITE))
