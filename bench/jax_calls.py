"""What does fastact cost inside a jitted jax function, beside jax's own?

    python bench/jax_calls.py --json docs/performance/jax/calls.json

Forward and vector-Jacobian product of a few activations, and a training step of BatchNorm with an
activation: jax's own operations, fused by XLA, fastact's as a custom call, and fastact's on NumPy
arrays, which is what the custom call can be at best. All take turns in one process; medians of
`--rounds`. Needs jax.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

import fastact as fa
import fastact.jax as faj
from fastact._bench import names
from fastact._bench.peer_jax import jax_layer
from fastact._bench.record import build, machine, text
from fastact._bench.timing import Statement, Statements, measure

SIZES = (1 << 10, 1 << 14, 1 << 18, 1 << 22)
SHAPES = ((32, 64), (256, 512), (32, 64, 28, 28))
MOMENTUM = 0.1


def timed(call: Any, *arrays: Any) -> Statement:
    """A call that waits for its results."""
    return Statement("ready(f(*arrays))", ready=jax.block_until_ready, f=call, arrays=arrays)


def elementwise(name: str, size: int, mode: str) -> Statements:
    x, dy = np.random.default_rng(0).standard_normal((2, size), dtype=np.float32)
    own, theirs, plain = getattr(faj, name), getattr(jax.nn, name), fa.activations[name]
    if name == names.ARITHMETIC:  # whose default is the approximate one there
        theirs = functools.partial(theirs, approximate=False)
    jx, jdy = jax.numpy.asarray(x), jax.numpy.asarray(dy)
    if mode == "forward":
        return {
            "fastact.jax": timed(jax.jit(own), jx), "jax": timed(jax.jit(theirs), jx),
            "fastact": Statement("f(x)", f=plain, x=x),
        }  # fmt: skip
    pulled = [jax.jit(lambda dy, x, f=f: jax.vjp(f, x)[1](dy)[0]) for f in (own, theirs)]
    return {
        "fastact.jax": timed(pulled[0], jdy, jx), "jax": timed(pulled[1], jdy, jx),
        "fastact": Statement("f(dy, x)", f=plain.backward, x=x, dy=dy),
    }  # fmt: skip


def batch_norm(name: str, shape: tuple[int, ...]) -> Statements:
    """A training step: forward, all gradients, running statistics."""
    x, dy = np.random.default_rng(0).standard_normal((2, *shape), dtype=np.float32)
    weight, bias, mean, var = np.ones((4, shape[1]), np.float32)
    act = getattr(jax.nn, name)

    def theirs(x: Any, weight: Any, bias: Any, mean: Any, var: Any) -> Any:
        return jax_layer(act, 1, x, weight, bias, mean, var)

    def own(x: Any, weight: Any, bias: Any, mean: Any, var: Any) -> Any:
        y, *running = faj.batch_norm(
            x, weight, bias, mean, var, training=True, momentum=MOMENTUM, activation=name
        )
        return y, tuple(running)

    def step(layer: Any) -> Any:
        def run(x: Any, weight: Any, bias: Any, mean: Any, var: Any, dy: Any) -> Any:
            call = lambda *g: layer(*g, mean, var)  # noqa: E731
            y, pull, running = jax.vjp(call, x, weight, bias, has_aux=True)
            return y, pull(dy), running

        return jax.jit(run)

    def plain() -> Any:
        y, ctx = fa.batch_norm_forward(
            x, weight=weight, bias=bias, running_mean=mean, running_var=var, activation=name
        )
        return y, fa.batch_norm_backward(dy, ctx)

    arrays = [jax.numpy.array(a) for a in (x, weight, bias, mean, var, dy)]
    return {
        "fastact.jax": timed(step(own), *arrays), "jax": timed(step(theirs), *arrays),
        "fastact": Statement(plain),
    }  # fmt: skip


def cells(quick: bool) -> list[tuple[dict[str, Any], Any]]:
    """(what a row is, how to make its contenders)."""
    found: list[tuple[dict[str, Any], Any]] = []
    for name in (names.MEMORY_BOUND, names.ARITHMETIC):
        for mode in ("forward", "backward"):
            for size in SIZES[:2] if quick else SIZES:
                key = {"what": name, "mode": mode, "shape": [size]}
                found.append((key, lambda n=name, s=size, m=mode: elementwise(n, s, m)))
    for shape in SHAPES[:1] if quick else SHAPES:
        key = {"what": f"BatchNorm + {names.PICTURED}", "mode": "step", "shape": list(shape)}
        found.append((key, lambda s=shape: batch_norm(names.PICTURED, s)))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="small arrays only")
    parser.add_argument("--json", type=Path, help="write the record there")
    options = parser.parse_args()
    rows = []
    for key, make in cells(options.quick):
        times = measure(make(), options.rounds)
        rows.append({**key, "times": times})
        shown = "  ".join(f"{n} {1e6 * t.median:10.1f} us" for n, t in times.items())
        print(f"{key['what']:18} {key['mode']:8} {key['shape']!s:18} {shown}")
    record = {
        "suite": "jax_calls", "build": build(), "machine": machine(), "config": fa.config(),
        "jax": jax.__version__, "rounds": options.rounds, "rows": rows,
    }  # fmt: skip
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text(json.loads(json.dumps(record))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
