"""``python -m fastact demo``: train a small network on handwritten digits with every activation.

The same training code (`fastact._demo_network`) runs on three backends for BatchNorm + activation:

- `fastact`, float32: what is trained and reported;
- `fastact.reference`, float64: the first training steps are held to it;
- `fastact._demo_numpy`, float32: what the time is compared with.

Nothing here names an activation: they come from `fastact.activations`, and what sets one apart (a
learned parameter, linearity) is asked of it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import fastact
from fastact import _demo_numpy, _demo_report, reference
from fastact._demo_network import (
    STEPS_PER_EPOCH,
    Digits,
    Network,
    batches,
    load_digits,
    train_step,
)
from fastact._terminal import fail, progress

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Tick = Callable[[], object]  # called as time goes by

DEFAULT_EPOCHS = 100
PEAK_RATE = 1.0

GOAL = 0.96  # test accuracy of every non-linear activation
DEFAULT_SEED = 0
TOLERANCE = 1e-5  # of a call, relative, against the float64 reference on the same inputs
RUN_TOLERANCE = 1e-3  # of losses and weights: float32's rounding grows from step to step
CHECKED_STEPS = 3
TIMED_ROUNDS = 9
DEAD_BELOW = 1e-6

EXTRA = {"sklearn": "scikit-learn", "matplotlib": "matplotlib", "tqdm": "tqdm"}
PICTURE_NAME = "fastact_demo.png"


# ---- the check against the reference ---------------------------------------------------------


class CheckedCalls:
    """The backend `fastact`, with every call repeated by `reference` on the same inputs.

    Given the same inputs, the two must agree to rounding even beside a kink. Two networks that
    run on their own need not: float32 matrix products put a pre-activation of 1e-8 on one side of
    0 or the other, and the gradient there jumps.
    """

    def __init__(self) -> None:
        self.worst = 0.0

    def batch_norm_forward(self, x: np.ndarray, **arguments: Any) -> tuple[np.ndarray, Any]:
        running = {k: v.copy() for k, v in arguments.items() if k.startswith("running_")}
        y, ctx = fastact.batch_norm_forward(x, **arguments)
        exact, exact_ctx = reference.batch_norm_forward(x, **arguments | running)
        self._compare(y, exact)
        return y, (ctx, exact_ctx)

    def batch_norm_backward(
        self, dy: np.ndarray, contexts: tuple[Any, Any]
    ) -> fastact.BatchNormGradients:
        ctx, exact_ctx = contexts
        grads: fastact.BatchNormGradients = fastact.batch_norm_backward(dy, ctx)
        exact = reference.batch_norm_backward(dy, exact_ctx)
        for name in ("x", "weight", "bias"):
            self._compare(getattr(grads, name), getattr(exact, name))
        exact_params = exact.activation_params or {}
        for name, value in (grads.activation_params or {}).items():
            self._compare(value, exact_params[name])
        return grads

    def _compare(self, got: np.ndarray, exact: np.ndarray) -> None:
        self.worst = max(self.worst, relative_difference(got, exact))


def relative_difference(got: ArrayLike, exact: ArrayLike) -> float:
    """|got - exact| / |exact|, Euclidean norms; NaN counts as infinitely wrong."""
    wide, wanted = np.asarray(got, np.float64), np.asarray(exact, np.float64)
    error, scale = np.linalg.norm(wide - wanted), np.linalg.norm(wanted)
    if error == 0:
        return 0.0
    return float(error / scale) if scale > 0 and np.isfinite(error) else math.inf


@dataclass(frozen=True)
class Agreement:
    """The largest relative differences from the float64 reference in the first training steps."""

    losses: float
    weights: float
    calls: float

    def __str__(self) -> str:
        return (
            f"losses {self.losses:.1e}, weights {self.weights:.1e}, "
            f"each fused call's outputs and gradients {self.calls:.1e}"
        )

    @property
    def good(self) -> bool:
        return self.calls <= TOLERANCE and max(self.losses, self.weights) <= RUN_TOLERANCE


def cross_check(activation: str, digits: Digits, seed: int) -> Agreement:
    """Train CHECKED_STEPS steps twice, fastact in float32 and the reference in float64.

    The losses and the updated weights of the two runs are compared, and besides every fused call,
    outputs and gradients, on the same inputs (see `CheckedCalls`).
    """
    checked = CheckedCalls()
    network = Network(checked, activation, seed)
    exact = Network(reference, activation, seed, np.float64)
    rng = np.random.default_rng([1, seed])  # the batches that training starts with
    losses = weights = 0.0
    for images, labels in itertools.islice(batches(digits, rng), CHECKED_STEPS):
        # At the full rate, without its slow rise: a wrong gradient must show in the weights.
        got = train_step(network, images, labels, PEAK_RATE)
        want = train_step(exact, images.astype(np.float64), labels, PEAK_RATE)
        losses = max(losses, relative_difference(got, want))
        weights = max(weights, relative_difference(_flat(network), _flat(exact)))
    return Agreement(losses, weights, checked.worst)


def _flat(network: Network) -> np.ndarray:
    return np.concatenate([p.ravel() for p in network.params.values()])


def report_agreement(agreements: dict[str, Agreement], silent: bool = False) -> bool:
    """Say how closely the first steps follow the reference; False where one does not."""
    subject = f"the first {CHECKED_STEPS} training steps against fastact.reference, relative:"
    wrong = {name: agreement for name, agreement in agreements.items() if not agreement.good}
    for name, agreement in wrong.items():
        accepted = f"{RUN_TOLERANCE:g} for losses and weights, {TOLERANCE:g} for a call"
        _fail(f"{name}: {subject} {agreement}; at most {accepted} is accepted")
    if not wrong and not silent:
        print(f"{subject} {worst(agreements)}")
    return not wrong


def worst(agreements: dict[str, Agreement]) -> Agreement:
    fields = zip(*(vars(a).values() for a in agreements.values()), strict=True)
    return Agreement(*map(max, fields))


# ---- training and timing ---------------------------------------------------------------------


@dataclass
class Result:
    """What one activation's run gives: a value an epoch in the lists, times in seconds."""

    activation: str
    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    dead: float = math.nan
    fastact_seconds: float = math.nan
    numpy_seconds: float = math.nan


def learning_rate(step: int, steps: int) -> float:
    """A linear rise over the first tenth of the steps, then half a cosine down to 0."""
    rise = max(1, steps // 10)
    if step < rise:
        return PEAK_RATE * (step + 1) / rise
    return PEAK_RATE * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def train(
    activation: str, digits: Digits, epochs: int, seed: int, tick: Tick = lambda: None
) -> Result:
    """Train one network through fastact; the same numbers for the same seed."""
    network, rng = Network(fastact, activation, seed), np.random.default_rng([1, seed])
    rates = (learning_rate(step, epochs * STEPS_PER_EPOCH) for step in itertools.count())
    result = Result(activation)
    for _ in range(epochs):
        losses = [train_step(network, *batch, next(rates)) for batch in batches(digits, rng)]
        result.losses.append(statistics.fmean(losses))
        guesses = network.forward(digits.test_images, training=False).argmax(axis=1)
        result.accuracies.append(float((guesses == digits.test_labels).mean()))
        tick()
    result.dead = dead_share(network, digits.test_images)
    return result


def dead_share(network: Network, images: np.ndarray) -> float:
    """The share of hidden units that give the same output for every image."""
    network.forward(images, training=False)
    spread = np.concatenate([np.ptp(y, axis=0) for y in network.inputs[1:]])
    return float((spread < DEAD_BELOW).mean())


def time_epochs(
    activation: str, digits: Digits, seed: int, tick: Tick = lambda: None
) -> list[float]:
    """Seconds of a training epoch with fastact and with plain NumPy, the fastest of each.

    The two take turns, and turns at going first, so that a change in the machine's speed meets
    both; the fastest, because a busy machine only ever adds. The first round warms up.
    """
    networks = [Network(fastact, activation, seed), Network(_demo_numpy, activation, seed)]
    seconds = [math.inf, math.inf]
    for round_ in range(TIMED_ROUNDS + 1):
        for side in (0, 1) if round_ % 2 else (1, 0):
            rng = np.random.default_rng([2, seed, round_])
            start = time.perf_counter()
            for images, labels in batches(digits, rng):
                train_step(networks[side], images, labels, 0.01)
            if round_:
                seconds[side] = min(seconds[side], time.perf_counter() - start)
            tick()
    return seconds


def check_all(names: list[str], digits: Digits, seed: int) -> dict[str, Agreement]:
    """Hold the first steps of every activation to the reference, under a progress bar."""
    agreements = {}
    with progress(len(names), "activation", "demo") as tick:
        for name in names:
            agreements[name] = cross_check(name, digits, seed)
            tick(f"{name}: checked")
    return agreements


def train_all(names: list[str], digits: Digits, epochs: int, seed: int) -> list[Result]:
    """Train and time every activation under one progress bar, which counts epochs."""
    results = []
    with progress(len(names) * (epochs + 2 * (TIMED_ROUNDS + 1)), "epoch", "demo") as tick:
        for name in names:
            result = train(name, digits, epochs, seed, partial(tick, f"{name}: training"))
            result.fastact_seconds, result.numpy_seconds = time_epochs(
                name, digits, seed, partial(tick, f"{name}: timing")
            )
            results.append(result)
    return results


def is_linear(activation: str) -> bool:
    """True where the activation returns its input: the whole network is then a linear one."""
    x = np.linspace(-4, 4, 65)
    params = dict.fromkeys(_demo_numpy.required_parameters(activation), _demo_numpy.START)
    return np.array_equal(fastact.activations[activation](x, **params), x)


def report_goal(results: list[Result], epochs: int, silent: bool = False) -> int:
    """Name the activations below the goal. A failure only for the default number of epochs."""
    below = [r for r in results if r.accuracies[-1] < GOAL and not is_linear(r.activation)]
    if not below:
        return 0
    missed = ", ".join(f"{r.activation} {r.accuracies[-1]:.2%}" for r in below)
    message = f"below the goal of {GOAL:.0%} test accuracy: {missed}"
    if epochs != DEFAULT_EPOCHS:
        if not silent:
            print(f"{message} (the goal is set for {DEFAULT_EPOCHS} epochs; this run had {epochs})")
        return 0
    _fail(message)
    return 1


# ---- the command -----------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``python -m fastact demo``."""
    choices = ", ".join(fastact.activations)
    parser.add_argument(
        "--activation", metavar="NAME", type=_activation_names, action="extend",
        help="train with this activation only; repeat it or give a comma-separated list "
        f"(default: all of them: {choices})",
    )  # fmt: skip
    parser.add_argument(
        "--epochs", metavar="N", type=_integer_from(1), default=DEFAULT_EPOCHS,
        help="passes over the training images (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--seed", metavar="N", type=_integer_from(0), default=DEFAULT_SEED,
        help="initial weights and order of the images (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--out", metavar="PATH", type=_picture_path, default=PICTURE_NAME,
        help="where to write the picture: a file ending in .png, or a folder, which then gets "
        f"{PICTURE_NAME} (default: %(default)s in the current folder)",
    )  # fmt: skip
    parser.add_argument(
        "--json", action="store_true", help="print the results as JSON, nothing else"
    )


def _activation_names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in fastact.activations:
            choices = ", ".join(fastact.activations)
            raise argparse.ArgumentTypeError(f"unknown activation {name!r}; choose from {choices}")
    return names


def _integer_from(least: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer from {least} up")
        return value

    return convert


def _picture_path(text: str) -> Path:
    path = Path(text)
    if path.is_dir() or not path.suffix:
        return path / PICTURE_NAME
    if path.suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"{text!r} is neither a folder nor a file ending in .png")
    return path


def missing_packages() -> list[str]:
    """The packages of the extra ``demo`` that are not installed, by the names pip knows."""
    missing = []
    for module, package in EXTRA.items():
        try:
            importlib.import_module(module)
        except ModuleNotFoundError:
            missing.append(package)
    return missing


def _fail(message: str) -> None:
    fail("demo", message)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Matrix products and kernels on one thread each: arrays this small gain little from a second,
    threads that wait for each other on a busy machine made an epoch sixty times as long, and NumPy
    in the comparison has one as well. It also fixes the order of summation in matrix products."""
    from threadpoolctl import threadpool_limits  # scikit-learn brings it along

    with threadpool_limits(limits=1, user_api="blas"), fastact.num_threads(1):
        yield


def run(arguments: argparse.Namespace) -> int:
    """Run the demo. 0: done; 1: a check failed; 2: a package or the output folder is missing."""
    if missing := missing_packages():
        _fail(f'{", ".join(missing)} not found; the demo needs: pip install "fastact[demo]"')
        return 2
    path, seed = arguments.out.absolute(), arguments.seed
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # said now rather than after the training
        _fail(f"--out: cannot make the folder {path.parent}: {error.strerror}")
        return 2
    names = list(dict.fromkeys(arguments.activation or fastact.activations))
    digits = load_digits()
    with _one_thread():
        agreements = check_all(names, digits, seed)
        if not report_agreement(agreements, silent=arguments.json):
            return 1
        results = train_all(names, digits, arguments.epochs, seed)
    with progress(1, "picture", "demo") as tick:
        _demo_report.draw_curves(results, seed, GOAL, path)
        tick()
    if arguments.json:
        print(json.dumps(as_json(results, arguments.epochs, seed, worst(agreements))))
    else:
        print("\n" + _demo_report.format_table(results, TIMED_ROUNDS) + "\n")
        print(f"training curves: {path}")
    return report_goal(results, arguments.epochs, silent=arguments.json)


def as_json(results: list[Result], epochs: int, seed: int, agreement: Agreement) -> dict[str, Any]:
    """What a program would want of a run; numbers with six digits."""
    return {
        "fastact": fastact.__version__,
        "isa": fastact.config()["isa"],
        "epochs": epochs,
        "seed": seed,
        "rounds": TIMED_ROUNDS,
        "agreement": {name: _short(value) for name, value in vars(agreement).items()},
        "results": [
            {
                "activation": r.activation,
                "linear": is_linear(r.activation),
                "textbook": _demo_numpy.expression(r.activation).textbook,
                "dead": _short(r.dead),
                "fastact_seconds": _short(r.fastact_seconds),
                "numpy_seconds": _short(r.numpy_seconds),
                "losses": [_short(value) for value in r.losses],
                "accuracies": [_short(value) for value in r.accuracies],
            }
            for r in results
        ],
    }


def _short(value: float) -> float:
    return float(f"{value:.6g}")
