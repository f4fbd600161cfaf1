"""How fast are the activations, forward and backward, plain and into an existing array?

Plain makes a new result each call, as users write it. The backward is that of the activation
alone: fastact computes dx from dy and x; torch's is torch.autograd.grad on a recorded forward that
is kept (not timed); jax's the jitted vector-Jacobian product of dy and x; NumPy's an expression of
dy, x and the kept y. Nobody's forward is timed with the backward.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import fastact
from fastact import reference
from fastact._bench import floor, names
from fastact._bench.options import names_of, words
from fastact._bench.peers import Peers, with_mode
from fastact._bench.suite import OWN, Cell, Group, Suite, WrongResult, main
from fastact._bench.timing import Statement, Statements

SIZES = (1, 64, 4_096, 100_000, 1_000_000, 16_000_000)
QUICK_SIZES = (64, 100_000)
MODES = ("forward", "forward out", "backward", "backward out")
EVERYTHING = (*fastact.activations, *fastact.gated)
REQUIRED = 0.25  # the value of a parameter that has no default
PERIOD = 1 << 16  # elements after which the data repeat: the reference has to be asked once
CANCELLED = 2.0**-30


def parameters(defaults: Mapping[str, float | None]) -> tuple[dict[str, float], dict[str, float]]:
    """The values of all parameters, and of those that have no default and so have to be given."""
    required = {name: REQUIRED for name, default in defaults.items() if default is None}
    values = {name: REQUIRED if default is None else default for name, default in defaults.items()}
    return values, required


class Job:
    """One activation at one size: the data, and what is right."""

    def __init__(self, name: str, n: int) -> None:
        self.name, self.gated = name, name in fastact.gated
        self.label = f"{name}, n = {n}"
        self.function = (fastact.gated if self.gated else fastact.activations)[name]
        self.formula, self.learned = self.function.formula, self.function.learned
        self.values, self.required = parameters({} if self.gated else self.function.parameters)
        self.inputs = tuple(3 * normal(n, seed) for seed in range(1 + self.gated))
        self.x, self.dy, self.out = self.inputs[0], normal(n, 2), np.empty(n, np.float32)
        self.stacked = np.concatenate(self.inputs) if self.gated else self.x
        self.value, self.gradient = (
            reference.gated if self.gated else reference.activations
        )[name]  # fmt: skip

    @functools.cached_property
    def sample(self) -> np.ndarray:
        """For finding a peer's function: smooth, and beyond every kink."""
        grid = np.linspace(-6, 6, 4096, dtype=np.float32)
        return np.concatenate([grid, grid[::-1]]) if self.gated else grid

    @functools.cached_property
    def sample_exact(self) -> np.ndarray:
        inputs = np.split(self.sample, 2) if self.gated else [self.sample]
        exact: np.ndarray = self.value(*inputs, *self.values.values())
        return exact

    def hold(self, calls: Statements) -> None:
        """What is going to be timed computes what the reference computes."""
        given = [a[:PERIOD] for a in self.inputs] + list(self.values.values())
        exact = {
            "forward": self.value(*given),
            "backward": first(self.gradient(self.dy[:PERIOD], *given)),
        }
        for mode, statement in calls.items():
            got = first(statement.result())
            if not (close(got[:PERIOD], exact[mode.split()[0]]) and repeats(got)):
                raise WrongResult(f"{mode}: not what fastact.reference computes")


def normal(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.resize(rng.standard_normal(min(n, PERIOD), dtype=np.float32), n)


def first(result: Any) -> np.ndarray:
    part: np.ndarray = result[0] if isinstance(result, tuple) else result
    return part


def close(got: np.ndarray, exact: np.ndarray) -> bool:
    """Right to 1 ULP, or to what a zero of the derivative leaves of the terms that cancel there."""
    error = np.abs(got.astype(np.float64) - exact)
    allowed = np.spacing(np.abs(exact).astype(np.float32)) + CANCELLED
    return bool((error <= allowed).all())


def repeats(result: np.ndarray) -> bool:
    """Whether equal inputs, which come again after PERIOD elements, gave equal bits."""
    bits = result.view(np.uint32)
    return np.array_equal(bits[PERIOD:], bits[: max(0, bits.size - PERIOD)])


def own(job: Job) -> Statements:
    space = {"f": job.function, "x": job.x, "dy": job.dy, "out": job.out}
    space |= {"rest": (*job.inputs[1:], *job.required.values())}
    given = "x, *rest" if space["rest"] else "x"
    calls = {
        "forward": Statement(f"f({given})", **space),
        "forward out": Statement(f"f({given}, out=out)", **space),
        "backward": Statement(f"f.backward(dy, {given})", **space),
    }
    if not job.learned:
        gradients = tuple(map(np.empty_like, job.inputs))
        space |= {"out": gradients if job.gated else gradients[0]}
        calls["backward out"] = Statement(f"f.backward(dy, {given}, out=out)", **space)
    return calls


def passes(job: Job, mode: str) -> str:
    """The memory that has to move: letters of floor.c."""
    if mode.startswith("forward"):
        return "a" if job.gated else "c"
    return "ca" if job.gated else "a"


def build(name: str, n: int, found: Peers) -> Iterator[Cell]:
    job = Job(name, n)
    calls = {OWN: own(job), **found.calls("elementwise", job)}
    job.hold(calls[OWN])
    for mode in calls[OWN]:
        yield mode, {**with_mode(calls, mode), **floor.contenders(passes(job, mode), n)}, {}


def groups(options: argparse.Namespace) -> list[Group]:
    sizes = options.sizes or (QUICK_SIZES if options.quick else SIZES)
    chosen = options.activations or (names.QUICK if options.quick else EVERYTHING)
    return [
        Group(
            {"activation": name, "n": n},
            modes_of(name, options.modes or MODES),
            functools.partial(build, name, n),
        )
        for name in chosen
        for n in sizes
    ]


def modes_of(name: str, wanted: Sequence[str]) -> tuple[str, ...]:
    """A gradient that is summed up has no array to write into."""
    learned = name in fastact.activations and fastact.activations[name].learned
    return tuple(mode for mode in wanted if not (learned and mode == "backward out"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--activations", type=names_of(EVERYTHING), metavar="LIST", help="(default: all)"
    )
    parser.add_argument(
        "--sizes", type=lambda v: [int(float(n)) for n in words(v)], metavar="LIST",
        help=f"elements (default: {','.join(map(str, SIZES))})",
    )  # fmt: skip
    parser.add_argument(
        "--modes", type=names_of(MODES), metavar="LIST", help=f"of {', '.join(MODES)}"
    )


SUITE = Suite(
    "elementwise",
    str(__doc__).splitlines()[0],
    ("numpy", "scipy", "numexpr", "torch", "compile", "jax"),
    groups,
    add_arguments,
    "python bench/elementwise.py --sizes 4096 --modes forward --against torch",
)

if __name__ == "__main__":
    sys.exit(main(SUITE))
