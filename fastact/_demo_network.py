"""The demo's data, network and optimiser.

The network is a perceptron, 64 -> 512 -> 64 -> 10. Each hidden layer is a matrix product followed
by BatchNorm and the activation in one fused call; matrix products, softmax cross-entropy and the
optimiser are NumPy. The fused call, forward and backward, comes from a backend: anything with a
`batch_norm_forward` and a `batch_norm_backward`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fastact import activations
from fastact._demo_numpy import START, required_parameters

SIZES = (64, 512, 64, 10)
STEPS_PER_EPOCH = 4  # about 360 images a step, all batches of nearly one size
MOMENTUM, WEIGHT_DECAY, LARGEST_GRADIENT = 0.9, 1e-3, 0.3


# ---- the data --------------------------------------------------------------------------------


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
    parts: Any = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)
    train_x, test_x, train_y, test_y = parts
    padded = np.pad(train_x.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
    corners = itertools.product(range(3), repeat=2)
    moved = [padded[:, r : r + 8, c : c + 8].reshape(-1, 64) for r, c in corners]
    return Digits(np.stack(moved), train_y, test_x, test_y)


def batches(digits: Digits, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """One epoch: the training images in random order, about half of them moved by a pixel."""
    count = len(digits.train_labels)
    move = np.where(rng.random(count) < 0.5, 4, rng.integers(0, 9, count))
    for rows in np.array_split(rng.permutation(count), STEPS_PER_EPOCH):
        yield digits.train_images[move[rows], rows], digits.train_labels[rows]


# ---- the network -----------------------------------------------------------------------------


class Backend(Protocol):
    """A module, or an object, with BatchNorm + activation."""

    @property
    def batch_norm_forward(self) -> Callable[..., tuple[Any, Any]]: ...
    @property
    def batch_norm_backward(self) -> Callable[..., Any]: ...


class Network:
    """A perceptron whose hidden layers are a matrix product and one fused call each."""

    def __init__(
        self,
        backend: Backend,
        activation: str,
        seed: int,
        dtype: type[np.floating] = np.float32,
    ) -> None:
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
            else:
                self._add_fused(i, width, dtype)
        self.velocity = {name: np.zeros_like(p) for name, p in self.params.items()}

    def _add_fused(self, i: int, width: int, dtype: type[np.floating]) -> None:
        self.params[f"norm{i}.weight"] = np.ones(width, dtype)
        self.params[f"norm{i}.bias"] = np.zeros(width, dtype)
        for name in activations[self.activation].learned:
            self.params[f"activation{i}.{name}"] = np.full(width, START, dtype)
        self.running.append(
            {"running_mean": np.zeros(width, dtype), "running_var": np.ones(width, dtype)}
        )

    def _activation_params(self, i: int) -> dict[str, Any]:
        names = required_parameters(self.activation)
        return {name: self.params.get(f"activation{i}.{name}", START) for name in names}

    def forward(self, x: np.ndarray, training: bool) -> np.ndarray:
        """The logits, shape (images, classes); keeps what `backward` needs."""
        self.inputs = [x]
        self.contexts: list[Any] = []
        for i in range(self.hidden):
            y, ctx = self.backend.batch_norm_forward(
                self.inputs[i] @ self.params[f"linear{i}.weight"],
                weight=self.params[f"norm{i}.weight"],
                bias=self.params[f"norm{i}.bias"],
                **self.running[i],
                training=training,
                activation=self.activation,
                activation_params=self._activation_params(i),
            )
            self.inputs.append(y)
            self.contexts.append(ctx)
        last = f"linear{self.hidden}"
        products = self.inputs[-1] @ self.params[f"{last}.weight"]
        logits: np.ndarray = products + self.params[f"{last}.bias"]
        return logits

    def backward(self, dlogits: np.ndarray) -> dict[str, np.ndarray]:
        """The gradient of every parameter, by name, from the gradient of the logits."""
        grads = {f"linear{self.hidden}.bias": dlogits.sum(axis=0)}
        upstream = dlogits
        for i in reversed(range(len(self.inputs))):
            grads[f"linear{i}.weight"] = self.inputs[i].T @ upstream
            if i > 0:
                dy = upstream @ self.params[f"linear{i}.weight"].T
                fused = self.backend.batch_norm_backward(dy, self.contexts[i - 1])
                grads[f"norm{i - 1}.weight"], grads[f"norm{i - 1}.bias"] = fused.weight, fused.bias
                for name, value in (fused.activation_params or {}).items():
                    grads[f"activation{i - 1}.{name}"] = value
                upstream = fused.x
        return grads

    def update(self, grads: dict[str, np.ndarray], rate: float) -> None:
        """One step of Nesterov momentum, in place; weight decay on the matrices alone.

        A gradient longer than LARGEST_GRADIENT is shortened to it (Pascanu, Mikolov & Bengio 2013):
        activations that grow faster than their input would run away.
        """
        length = sum(float(np.vdot(grad, grad)) for grad in grads.values()) ** 0.5
        shorter = min(1.0, LARGEST_GRADIENT / length) if length > 0 else 1.0
        for name, p in self.params.items():
            grad = shorter * grads[name]
            if p.ndim == 2:
                grad += WEIGHT_DECAY * p
            v = self.velocity[name]
            v *= MOMENTUM
            v += grad
            p -= rate * (grad + MOMENTUM * v)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean softmax cross-entropy and its gradient with respect to the logits."""
    rows = np.arange(len(labels))
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    dlogits = np.exp(log_p)
    dlogits[rows, labels] -= 1
    return float(-log_p[rows, labels].mean()), dlogits / len(labels)


def train_step(network: Network, images: np.ndarray, labels: np.ndarray, rate: float) -> float:
    """Forward, backward and update on one batch; returns its loss."""
    loss, dlogits = cross_entropy(network.forward(images, training=True), labels)
    network.update(network.backward(dlogits), rate)
    return loss
