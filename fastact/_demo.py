"""``python -m fastact demo``: train a small network on handwritten digits with every activation.

The network is a perceptron, 64 -> 128 -> 64 -> 10. Each hidden layer is a matrix product followed
by BatchNorm and the activation in one fused call. That call, forward and backward, comes from a
`Backend`; matrix products, softmax cross-entropy and the optimiser are NumPy. The same training
code therefore runs on three of them:

- `FASTACT`: the fused kernels, float32: what is trained and reported;
- `REFERENCE`: `fastact.reference`, float64: the first training steps are held to it;
- `PLAIN`: BatchNorm and activation as NumPy expressions, float32: what the time is compared with.

Nothing here names an activation: they come from `fastact.activations`, and their properties (a
learned parameter, linearity, the plain expression) are asked of the functions themselves.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import inspect
import itertools
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

import fastact
from fastact import reference

SIZES = (64, 128, 64, 10)
DEFAULT_EPOCHS = 60
STEPS_PER_EPOCH = 11  # about 130 images a step, all batches of nearly one size
PEAK_RATE, MOMENTUM, WEIGHT_DECAY = 0.2, 0.9, 1e-3
LEARNED_START = 0.25  # He et al. 2015, section 2.1

GOAL = 0.96  # test accuracy of every non-linear activation
TOLERANCE = 1e-4  # relative, against the float64 reference
CHECKED_STEPS = 3
TIMED_ROUNDS = 9
DEAD_BELOW = 1e-6

EXTRA = {"sklearn": "scikit-learn", "matplotlib": "matplotlib", "tqdm": "tqdm"}
PICTURE_NAME = "fastact_demo.png"


# ---- backends: BatchNorm + activation --------------------------------------------------------


@dataclass(frozen=True)
class Backend:
    """The fused layer, forward and backward, with the arguments of `fastact.batch_norm_forward`."""

    forward: Callable[..., tuple[np.ndarray, Any]]
    backward: Callable[..., Any]


def _plain_forward(
    x, *, weight, bias, running_mean, running_var, training, activation, activation_params,
    momentum=0.1, eps=1e-5,
):  # fmt: skip
    """BatchNorm over the rows of x, then the activation: one NumPy expression after another."""
    if training:
        mean = x.mean(axis=0)
        centred = x - mean
        var = np.einsum("ij,ij->j", centred, centred) / len(x)
        running_mean += momentum * (mean - running_mean)
        running_var += momentum * (var * (len(x) / (len(x) - 1)) - running_var)
    else:
        centred, var = x - running_mean, running_var
    rstd = 1 / np.sqrt(var + eps)
    normal = centred * rstd
    z = normal * weight + bias
    formula = plain_formula(activation)
    y = formula.value(z, **activation_params)
    return y, (normal, z, y, rstd, weight, formula, activation_params)


def _plain_backward(dy, ctx):
    """The gradients of `_plain_forward` in training mode."""
    normal, z, y, rstd, weight, formula, activation_params = ctx
    dz = formula.gradient(dy, z, y, **activation_params)
    dz, *learned = dz if isinstance(dz, tuple) else (dz,)
    dbias = dz.sum(axis=0)
    dweight = np.einsum("ij,ij->j", dz, normal)
    dx = (weight * rstd) * (dz - dbias / len(dz) - normal * (dweight / len(dz)))
    return SimpleNamespace(
        x=dx, weight=dweight, bias=dbias,
        activation_params=dict(zip(activation_params, learned, strict=True)),
    )  # fmt: skip


FASTACT = Backend(fastact.batch_norm_forward, fastact.batch_norm_backward)
REFERENCE = Backend(reference.batch_norm_forward, reference.batch_norm_backward)
PLAIN = Backend(_plain_forward, _plain_backward)


def learned_parameters(activation: str) -> list[str]:
    """The parameters that have no default: they are weights, trained with the network."""
    value, _ = reference.activations[activation]
    _, *parameters = inspect.signature(value).parameters.values()
    return [p.name for p in parameters if p.default is p.empty]


def is_linear(activation: str) -> bool:
    """True where the activation returns its input: the whole network is then a linear one."""
    if learned_parameters(activation):
        return False
    x = np.linspace(-4, 4, 65)
    return np.array_equal(fastact.activations[activation](x), x)


# ---- activations as a NumPy user writes them -------------------------------------------------


@dataclass(frozen=True)
class Formula:
    """value(x, **parameters) and gradient(dy, x, y, **parameters), where y is the value.

    The gradient is dx, or (dx, dparameter) where a parameter is learned. `own` is False where no
    expression below fits and the float64 functions of `fastact.reference` stand in.
    """

    value: Callable[..., np.ndarray]
    gradient: Callable[..., Any]
    own: bool = True


def _expressions(activation: str) -> Iterator[Formula]:
    """Textbook expressions, in the input's dtype. Which one an activation is, its values tell."""
    from scipy.special import ndtr  # the normal distribution; scikit-learn brings SciPy along

    def logistic(x):
        return 1 / (1 + np.exp(-x))

    def gate_gradient(dy, x, w, dw):  # of x * logistic(w(x))
        s = logistic(w)
        return dy * (s + x * s * (1 - s) * dw)

    def split(dy, x, weight):
        return np.where(x > 0, dy, weight * dy), (dy * np.minimum(x, 0)).sum(axis=0)

    if isinstance(own := getattr(np, activation, None), np.ufunc):  # NumPy has it by this name
        yield Formula(own, lambda dy, x, y: dy * (1 - y * y))
    yield Formula(lambda x: x, lambda dy, x, y: dy)
    yield Formula(lambda x: np.maximum(x, 0), lambda dy, x, y: dy * (x > 0))
    yield Formula(
        lambda x, negative_slope=0.01: np.where(x > 0, x, negative_slope * x),
        lambda dy, x, y, negative_slope=0.01: np.where(x > 0, dy, negative_slope * dy),
    )
    yield Formula(
        lambda x, weight: np.where(x > 0, x, weight * x),
        lambda dy, x, y, weight: split(dy, x, weight),
    )
    for scale, alpha in (1, 1), (1.0507009873554805, 1.6732632423543772):
        yield Formula(
            lambda x, s=scale, sa=scale * alpha: np.where(x > 0, s * x, sa * np.expm1(x)),
            lambda dy, x, y, s=scale, sa=scale * alpha: dy * np.where(x > 0, s, y + sa),
        )
    yield Formula(logistic, lambda dy, x, y: dy * (y * (1 - y)))
    yield Formula(
        # Seven times as fast as np.logaddexp(x, 0).
        lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
        lambda dy, x, y: dy * logistic(x),
    )
    yield Formula(lambda x: x * logistic(x), lambda dy, x, y: gate_gradient(dy, x, x, 1))
    yield Formula(
        lambda x: x * ndtr(x),
        lambda dy, x, y: dy * (ndtr(x) + x * (np.exp(-0.5 * x * x) * (2 * math.pi) ** -0.5)),
    )
    a, b = (8 / math.pi) ** 0.5, (8 / math.pi) ** 0.5 * 0.044715
    yield Formula(
        lambda x: x * logistic(x * (a + b * (x * x))),
        lambda dy, x, y: gate_gradient(dy, x, x * (a + b * (x * x)), a + 3 * b * (x * x)),
    )


@functools.cache
def plain_formula(activation: str) -> Formula:
    """The expression that agrees with `fastact.reference`, value and gradient, on a grid."""
    value, backward = reference.activations[activation]
    x = np.linspace(-4, 4, 516, dtype=np.float32).reshape(-1, 4)
    dy = np.cos(7 * x)
    learned = {
        name: np.full(4, LEARNED_START, np.float32) for name in learned_parameters(activation)
    }
    exact, exact_gradient = value(x, **learned), backward(dy, x, **learned)
    for formula in _expressions(activation):
        try:
            y = formula.value(x, **learned)
            gradient = formula.gradient(dy, x, y, **learned)
        except TypeError:  # other parameters
            continue
        if _close(y, exact) and _close(gradient, exact_gradient):
            return formula
    return Formula(
        lambda z, **p: value(z, **p).astype(z.dtype),
        lambda dy, z, y, **p: _as_dtype(backward(dy, z, **p), dy.dtype),
        own=False,
    )


def _close(got, exact) -> bool:
    """True where the arrays, or the arrays of two tuples, agree as float32 results should."""
    if isinstance(got, tuple) != isinstance(exact, tuple):
        return False
    if isinstance(got, tuple):
        return len(got) == len(exact) and all(map(_close, got, exact))
    return got.dtype == np.float32 and np.allclose(got, exact, rtol=1e-4, atol=1e-5)


def _as_dtype(result, dtype):
    if isinstance(result, tuple):
        return tuple(part.astype(dtype) for part in result)
    return result.astype(dtype)


# ---- the network -----------------------------------------------------------------------------


class Network:
    """A perceptron whose hidden layers are a matrix product and one fused call each."""

    def __init__(self, backend: Backend, activation: str, seed: int, dtype=np.float32):
        self.backend, self.activation, self.hidden = backend, activation, len(SIZES) - 2
        self.params: dict[str, np.ndarray] = {}
        self.running: list[dict[str, np.ndarray]] = []
        rng = np.random.default_rng(seed)
        for i, (fan_in, width) in enumerate(itertools.pairwise(SIZES)):
            # Drawn in float32 for every dtype: all backends start from the same numbers.
            draw = rng.standard_normal((fan_in, width), np.float32)
            self.params[f"linear{i}.weight"] = (draw * np.float32(fan_in**-0.5)).astype(dtype)
            if i == self.hidden:  # hidden layers have BatchNorm's bias instead
                self.params[f"linear{i}.bias"] = np.zeros(width, dtype)
                break
            self.params[f"norm{i}.weight"] = np.ones(width, dtype)
            self.params[f"norm{i}.bias"] = np.zeros(width, dtype)
            for name in learned_parameters(activation):
                self.params[f"activation{i}.{name}"] = np.full(width, LEARNED_START, dtype)
            self.running.append(
                {"running_mean": np.zeros(width, dtype), "running_var": np.ones(width, dtype)}
            )
        self.velocity = {name: np.zeros_like(p) for name, p in self.params.items()}

    def forward(self, x: np.ndarray, training: bool) -> np.ndarray:
        """The logits, shape (images, classes); keeps what `backward` needs."""
        self.inputs, self.contexts = [x], []
        for i in range(self.hidden):
            y, ctx = self.backend.forward(
                self.inputs[i] @ self.params[f"linear{i}.weight"],
                weight=self.params[f"norm{i}.weight"], bias=self.params[f"norm{i}.bias"],
                **self.running[i], training=training, activation=self.activation,
                activation_params=self._learned(i),
            )  # fmt: skip
            self.inputs.append(y)
            self.contexts.append(ctx)
        last = f"linear{self.hidden}"
        return self.inputs[-1] @ self.params[f"{last}.weight"] + self.params[f"{last}.bias"]

    def backward(self, dlogits: np.ndarray) -> dict[str, np.ndarray]:
        """The gradient of every parameter, by name, from the gradient of the logits."""
        grads = {f"linear{self.hidden}.bias": dlogits.sum(axis=0)}
        upstream = dlogits
        for i in reversed(range(len(self.inputs))):
            grads[f"linear{i}.weight"] = self.inputs[i].T @ upstream
            if i > 0:
                dy = upstream @ self.params[f"linear{i}.weight"].T
                fused = self.backend.backward(dy, self.contexts[i - 1])
                grads[f"norm{i - 1}.weight"], grads[f"norm{i - 1}.bias"] = fused.weight, fused.bias
                for name in self._learned(i - 1):
                    grads[f"activation{i - 1}.{name}"] = fused.activation_params[name]
                upstream = fused.x
        return grads

    def update(self, grads: dict[str, np.ndarray], rate: float) -> None:
        """One step of Nesterov momentum, in place; weight decay on the matrices alone."""
        for name, p in self.params.items():
            grad = grads[name] + WEIGHT_DECAY * p if p.ndim == 2 else grads[name]
            v = self.velocity[name]
            v *= MOMENTUM
            v += grad
            p -= rate * (grad + MOMENTUM * v)

    def _learned(self, i: int) -> dict[str, np.ndarray]:
        prefix = f"activation{i}."
        return {n.removeprefix(prefix): p for n, p in self.params.items() if n.startswith(prefix)}


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean softmax cross-entropy and its gradient with respect to the logits."""
    rows = np.arange(len(labels))
    shifted = logits - logits.max(axis=1, keepdims=True)
    total = np.exp(shifted).sum(axis=1, keepdims=True)
    log_p = shifted - np.log(total)
    dlogits = np.exp(log_p)
    dlogits[rows, labels] -= 1
    return float(-log_p[rows, labels].mean()), dlogits / len(labels)


# ---- the training ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Digits:
    """Images of 8 x 8 pixels as rows of 64 float32 in [0, 1], with their labels 0 to 9.

    train_images has shape (9, images, 64): each image moved by -1, 0 or 1 pixel down and across,
    itself in the middle, at index 4.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load_digits() -> Digits:
    """scikit-learn's 1,797 digits: 80 % to train on, 20 % to test, the same split always."""
    from sklearn.datasets import load_digits as load
    from sklearn.model_selection import train_test_split

    images, labels = load(return_X_y=True)
    images = (images / 16).astype(np.float32)
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels, test_size=0.2, stratify=labels, random_state=0
    )
    return Digits(_moved(train_x), train_y, test_x, test_y)


def _moved(images: np.ndarray) -> np.ndarray:
    padded = np.pad(images.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
    corners = itertools.product(range(3), repeat=2)
    return np.stack([padded[:, r : r + 8, c : c + 8].reshape(-1, 64) for r, c in corners])


def batches(digits: Digits, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """One epoch: the training images in random order, about half of them moved by a pixel."""
    count = len(digits.train_labels)
    move = np.where(rng.random(count) < 0.5, 4, rng.integers(0, 9, count))
    for rows in np.array_split(rng.permutation(count), STEPS_PER_EPOCH):
        yield digits.train_images[move[rows], rows], digits.train_labels[rows]


def learning_rate(step: int, steps: int) -> float:
    """A linear rise over the first tenth of the steps, then half a cosine down to 0."""
    rise = max(1, steps // 10)
    if step < rise:
        return PEAK_RATE * (step + 1) / rise
    return PEAK_RATE * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def train_step(network: Network, images, labels, rate: float) -> float:
    """Forward, backward and update on one batch; returns its loss."""
    loss, dlogits = cross_entropy(network.forward(images, training=True), labels)
    network.update(network.backward(dlogits), rate)
    return loss


def accuracy(network: Network, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of images whose largest logit is the label's, with running statistics."""
    return float((network.forward(images, training=False).argmax(axis=1) == labels).mean())


def dead_share(network: Network, images: np.ndarray) -> float:
    """The share of hidden units that give the same output for every image."""
    network.forward(images, training=False)
    spread = np.concatenate([np.ptp(y, axis=0) for y in network.inputs[1:]])
    return float((spread < DEAD_BELOW).mean())


@dataclass
class Result:
    """What one activation's run gives: a value an epoch in the lists, times in seconds."""

    activation: str
    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    dead: float = math.nan
    fastact_seconds: float = math.nan
    plain_seconds: float = math.nan

    @property
    def missed(self) -> bool:
        """True where the accuracy is below the goal; linear networks have no goal."""
        return self.accuracies[-1] < GOAL and not is_linear(self.activation)


def train(activation: str, digits: Digits, epochs: int, seed: int, tick=lambda: None) -> Result:
    """Train one network through fastact; the same numbers for the same seed."""
    network, rng = Network(FASTACT, activation, seed), np.random.default_rng([1, seed])
    result, step, steps = Result(activation), 0, epochs * STEPS_PER_EPOCH
    for _ in range(epochs):
        losses = []
        for images, labels in batches(digits, rng):
            losses.append(train_step(network, images, labels, learning_rate(step, steps)))
            step += 1
        result.losses.append(statistics.fmean(losses))
        result.accuracies.append(accuracy(network, digits.test_images, digits.test_labels))
        tick()
    result.dead = dead_share(network, digits.test_images)
    return result


# ---- the comparison with plain NumPy ---------------------------------------------------------


def time_epochs(
    activation: str, digits: Digits, seed: int, rounds: int = TIMED_ROUNDS, tick=lambda: None
) -> tuple[float, float]:
    """Median seconds of a training epoch with fastact and with plain NumPy.

    The two take turns, and turns at going first, so that a change in the machine's speed meets
    both. The first round warms up and is not counted.
    """
    networks = [Network(backend, activation, seed) for backend in (FASTACT, PLAIN)]
    seconds: list[list[float]] = [[], []]
    for round_ in range(rounds + 1):
        for side in (0, 1) if round_ % 2 else (1, 0):
            rng = np.random.default_rng([2, seed, round_])
            start = time.perf_counter()
            for images, labels in batches(digits, rng):
                train_step(networks[side], images, labels, 0.01)
            if round_:
                seconds[side].append(time.perf_counter() - start)
            tick()
    return statistics.median(seconds[0]), statistics.median(seconds[1])


# ---- the check against the reference ---------------------------------------------------------


def relative_difference(got, exact) -> float:
    """|got - exact| / |exact|, Euclidean norms; NaN counts as infinitely wrong."""
    got, exact = np.asarray(got, np.float64), np.asarray(exact, np.float64)
    error, scale = np.linalg.norm(got - exact), np.linalg.norm(exact)
    if error == 0:
        return 0.0
    return float(error / scale) if scale > 0 and np.isfinite(error) else math.inf


class CheckedCalls:
    """FASTACT, with every call repeated by REFERENCE on the same inputs.

    Given the same inputs, the two must agree to rounding even beside a kink. Two networks that
    run on their own need not: float32 matrix products put a pre-activation of 1e-8 on one side of
    0 or the other, and the gradient there jumps.
    """

    def __init__(self) -> None:
        self.worst = 0.0
        self.backend = Backend(self._forward, self._backward)

    def _forward(self, x, **arguments):
        doubled = {name: _as_double(value) for name, value in arguments.items()}
        y, ctx = FASTACT.forward(x, **arguments)
        exact, exact_ctx = REFERENCE.forward(_as_double(x), **doubled)
        self._note(y, exact)
        return y, (ctx, exact_ctx)

    def _backward(self, dy, ctx):
        grads = FASTACT.backward(dy, ctx[0])
        exact = REFERENCE.backward(_as_double(dy), ctx[1])
        for name in ("x", "weight", "bias"):
            self._note(getattr(grads, name), getattr(exact, name))
        for name, value in (grads.activation_params or {}).items():
            self._note(value, exact.activation_params[name])
        return grads

    def _note(self, got, exact) -> None:
        self.worst = max(self.worst, relative_difference(got, exact))


def _as_double(value):
    """Float arrays, also those in a dict, as float64 copies; anything else as it is."""
    if isinstance(value, dict):
        return {name: _as_double(item) for name, item in value.items()}
    return value.astype(np.float64) if isinstance(value, np.ndarray) else value


@dataclass(frozen=True)
class Agreement:
    """The largest relative differences from the float64 reference in the first training steps."""

    loss: float
    weights: float
    calls: float

    @property
    def worst(self) -> float:
        return max(self.loss, self.weights, self.calls)


def cross_check(activation: str, digits: Digits, seed: int) -> Agreement:
    """Train CHECKED_STEPS steps twice, fastact in float32 and the reference in float64.

    The losses and the updated weights of the two runs are compared, and besides every fused call,
    outputs and gradients, on the same inputs (see `CheckedCalls`).
    """
    checked = CheckedCalls()
    network = Network(checked.backend, activation, seed)
    exact = Network(REFERENCE, activation, seed, np.float64)
    rng = np.random.default_rng([1, seed])  # the batches that training starts with
    loss = weights = 0.0
    for images, labels in itertools.islice(batches(digits, rng), CHECKED_STEPS):
        # At the full rate, without its slow rise: a wrong gradient must show in the weights.
        got = train_step(network, images, labels, PEAK_RATE)
        want = train_step(exact, images.astype(np.float64), labels, PEAK_RATE)
        loss = max(loss, relative_difference(got, want))
        weights = max(weights, relative_difference(_flat(network), _flat(exact)))
    return Agreement(loss, weights, checked.worst)


def _flat(network: Network) -> np.ndarray:
    return np.concatenate([p.ravel() for p in network.params.values()])


# ---- what the user gets to see ---------------------------------------------------------------


def format_table(results: list[Result]) -> str:
    """The results as text, a line an activation, and what the columns mean."""
    head = ["activation", "test accuracy", "fastact s/epoch", "NumPy s/epoch", "ratio", "dead"]
    rows = [
        [
            r.activation + ("" if plain_formula(r.activation).own else " *"),
            f"{r.accuracies[-1]:.2%}",
            f"{r.fastact_seconds:.4f}",
            f"{r.plain_seconds:.4f}",
            f"{r.plain_seconds / r.fastact_seconds:.1f}x",
            f"{r.dead:.1%}",
        ]
        for r in results
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    table = [head, ["-" * width for width in widths], *rows]
    form = f"{{:<{widths[0]}}}" + "".join(f"  {{:>{width}}}" for width in widths[1:])
    lines = [form.format(*row) for row in table]
    stand_in = [STAND_IN] if any(row[0].endswith("*") for row in rows) else []
    return "\n".join([*lines, "", *FOOTNOTES, *stand_in])


FOOTNOTES = (
    f"s/epoch: median of {TIMED_ROUNDS} training epochs a side, taken in turns; matrix products,",
    "  loss, optimiser and batches are the same NumPy code on both sides.",
    "NumPy: BatchNorm and activation as float32 NumPy expressions, forward and backward, with",
    "  SciPy's normal distribution where needed; each is checked against fastact.reference.",
    "ratio: NumPy's time divided by fastact's.",
    "dead: share of hidden units whose output is the same (to 1e-6) for every test image.",
)
STAND_IN = "*: no plain expression at hand; NumPy's time is that of fastact.reference, in float64."


def draw_curves(results: list[Result], seed: int, path: Path) -> None:
    """Write the picture: for each activation its test accuracy and its training loss by epoch.

    Small multiples rather than a dozen colours: each panel shows one activation in colour before
    all the others in grey.
    """
    from matplotlib.figure import Figure

    columns = min(6, len(results))
    rows = math.ceil(len(results) / columns)
    figure = Figure(figsize=(max(4.8, 2.3 * columns), 1.2 + 3.9 * rows), layout="constrained")
    subject = f"BatchNorm + activation on 8 x 8 digits (seed {seed})"
    legend = f"colour: the activation named; grey: the others; dotted: {GOAL:.0%}"
    figure.suptitle(f"{subject}\n{legend}", fontsize=10)
    upper, lower = figure.subfigures(2, 1)
    _draw_block(upper, results, rows, columns, "accuracies", "test accuracy, %")
    _draw_block(lower, results, rows, columns, "losses", "training loss")
    figure.savefig(path, dpi=110)


def _draw_block(figure, results, rows, columns, series, label) -> None:
    scale, colour = (100, "#0072b2") if series == "accuracies" else (1, "#d55e00")
    curves = [[scale * value for value in getattr(result, series)] for result in results]
    epochs = range(1, len(curves[0]) + 1)
    marker = "o" if len(epochs) == 1 else None  # a line of one point cannot be seen
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for ax, result, own in zip(axes, results, curves, strict=False):
        for curve in curves:
            ax.plot(epochs, curve, marker=marker, color="0.8", lw=0.7)
        ax.plot(epochs, own, marker=marker, color=colour, lw=1.8)
        if series == "accuracies":
            ax.axhline(100 * GOAL, color="0.3", lw=0.8, ls=":")
            ax.set_ylim(80, 100.5)
        else:
            ax.set_yscale("log")
        last = f"{own[-1]:.1f} %" if series == "accuracies" else f"{own[-1]:.3g}"
        ax.set_title(f"{result.activation}: {last}", fontsize=9.5)
    for ax in axes[len(results) :]:
        ax.set_visible(False)
    figure.supylabel(label, fontsize=10)
    figure.supxlabel("epoch", fontsize=10)


# ---- the command -----------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``python -m fastact demo``."""
    parser.add_argument(
        "--activation", metavar="NAME", type=_activation_names, action="extend",
        help="train with this activation only; repeat it or give a comma-separated list "
        f"(default: all of them: {', '.join(fastact.activations)})",
    )  # fmt: skip
    parser.add_argument(
        "--epochs", metavar="N", type=_integer_from(1), default=DEFAULT_EPOCHS,
        help="passes over the training images (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--seed", metavar="N", type=_integer_from(0), default=0,
        help="initial weights and order of the images (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--out", metavar="PATH", type=_picture_path, default=PICTURE_NAME,
        help="where to write the picture: a file ending in .png, or a folder, which then gets "
        f"{PICTURE_NAME} (default: %(default)s in the current folder)",
    )  # fmt: skip


def _activation_names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in fastact.activations:
            raise argparse.ArgumentTypeError(
                f"unknown activation {name!r}; choose from {', '.join(fastact.activations)}"
            )
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
    """The packages of the extra ``demo`` that cannot be imported, by the names pip knows."""
    missing = []
    for module, package in EXTRA.items():
        try:
            importlib.import_module(module)
        except ImportError:
            missing.append(package)
    return missing


def _fail(message: str) -> None:
    print(f"fastact demo: {message}", file=sys.stderr)


def run(arguments: argparse.Namespace) -> int:
    """Run the demo. 0: done; 1: a check failed; 2: a package or the output folder is missing."""
    if missing := missing_packages():
        _fail(f'{", ".join(missing)} not found; the demo needs: pip install "fastact[demo]"')
        return 2
    path = arguments.out.absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # said now rather than after the training
        _fail(f"--out: cannot make the folder {path.parent}: {error.strerror}")
        return 2
    names = list(dict.fromkeys(arguments.activation or fastact.activations))
    digits = load_digits()

    with _one_blas_thread():
        agreements = {name: cross_check(name, digits, arguments.seed) for name in names}
        if not report_agreement(agreements):
            return 1
        results = train_all(names, digits, arguments.epochs, arguments.seed)
    print("\n" + format_table(results) + "\n")
    draw_curves(results, arguments.seed, path)
    print(f"training curves: {path}")
    return report_goal(results, arguments.epochs)


def _one_blas_thread():
    """One thread for matrix products: these are small, and threads that wait for each other on a
    busy machine made an epoch sixty times as long. It also fixes their order of summation."""
    from threadpoolctl import threadpool_limits  # scikit-learn brings it along

    return threadpool_limits(limits=1, user_api="blas")


def report_agreement(agreements: dict[str, Agreement]) -> bool:
    """Say how closely the first steps follow the reference; False where one does not."""
    wrong = {name: a for name, a in agreements.items() if not a.worst <= TOLERANCE}
    for name, a in wrong.items():
        _fail(
            f"{name}: the first {CHECKED_STEPS} training steps differ from fastact.reference by "
            f"more than {TOLERANCE:g} relative: loss {a.loss:.1e}, weights {a.weights:.1e}, "
            f"fused calls {a.calls:.1e}"
        )
    if not wrong:
        worst = {k: max(getattr(a, k) for a in agreements.values()) for k in ("loss", "weights")}
        calls = max(a.calls for a in agreements.values())
        print(
            f"first {CHECKED_STEPS} training steps against fastact.reference in float64, relative: "
            f"losses {worst['loss']:.1e}, weights {worst['weights']:.1e}, "
            f"each fused call's outputs and gradients {calls:.1e}"
        )
    return not wrong


def train_all(names: list[str], digits: Digits, epochs: int, seed: int) -> list[Result]:
    """Train and time every activation under one progress bar, which counts epochs."""
    from tqdm import tqdm

    results = []
    total = len(names) * (epochs + 2 * (TIMED_ROUNDS + 1))
    with tqdm(total=total, unit="epoch", dynamic_ncols=True) as bar:
        for name in names:
            bar.set_description(f"{name}: training")
            result = train(name, digits, epochs, seed, bar.update)
            bar.set_description(f"{name}: timing")
            result.fastact_seconds, result.plain_seconds = time_epochs(
                name, digits, seed, tick=bar.update
            )
            results.append(result)
        bar.set_description("done")
    return results


def report_goal(results: list[Result], epochs: int) -> int:
    """Name the activations below the goal. A failure only for the default number of epochs."""
    missed = [f"{r.activation} {r.accuracies[-1]:.2%}" for r in results if r.missed]
    if not missed:
        return 0
    below = f"below the goal of {GOAL:.0%} test accuracy: {', '.join(missed)}"
    if epochs != DEFAULT_EPOCHS:
        print(f"{below} (the goal is set for {DEFAULT_EPOCHS} epochs; this run had {epochs})")
        return 0
    _fail(below)
    return 1
