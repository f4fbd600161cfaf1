"""A perceptron in NumPy whose hidden layers are a matrix product and one fused call.

BatchNorm and the activation are `fastact.BatchNorm`; the activation is prelu, whose slopes are
learned, one a unit. Trains on scikit-learn's digits in a few seconds and prints the test accuracy.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastact as fa

Array = NDArray[Any]


class Hidden:
    """y = prelu(BatchNorm(x @ weight)), and its gradients."""

    def __init__(self, fan_in: int, width: int, rng: np.random.Generator) -> None:
        weight = rng.standard_normal((fan_in, width)) / fan_in**0.5
        self.weight = weight.astype(np.float32)
        slopes = np.full(width, 0.25, np.float32)
        self.norm = fa.BatchNorm(width, activation="prelu", activation_params={"weight": slopes})

    def forward(self, x: Array) -> Array:
        self.x = x
        return self.norm(x @ self.weight)

    def backward(self, dy: Array, rate: float) -> Array:
        """The gradient of x; the parameters take a step of gradient descent."""
        grads = self.norm.backward(dy)
        dx: Array = grads.x @ self.weight.T
        self.weight -= rate * (self.x.T @ grads.x)
        self.norm.weight -= rate * grads.weight
        self.norm.bias -= rate * grads.bias
        self.norm.activation_params["weight"] -= rate * grads.activation_params["weight"]
        return dx


def softmax_gradient(logits: Array, labels: NDArray[np.int_]) -> tuple[float, Array]:
    """The mean cross-entropy and its gradient."""
    rows = np.arange(len(labels))
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    loss = float(-np.log(p[rows, labels]).mean())
    p[rows, labels] -= 1
    return loss, p / len(labels)


class Perceptron:
    def __init__(self, sizes: tuple[int, ...], seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.hidden = [Hidden(a, b, rng) for a, b in itertools.pairwise(sizes[:-1])]
        last = rng.standard_normal(sizes[-2:]) / sizes[-2] ** 0.5
        self.last = last.astype(np.float32)

    def forward(self, x: Array, training: bool) -> Array:
        for layer in self.hidden:
            layer.norm.train(training)
            x = layer.forward(x)
        self.features = x
        logits: Array = x @ self.last
        return logits

    def step(self, x: Array, labels: NDArray[np.int_], rate: float) -> float:
        loss, dlogits = softmax_gradient(self.forward(x, training=True), labels)
        dy = dlogits @ self.last.T
        self.last -= rate * (self.features.T @ dlogits)
        for layer in reversed(self.hidden):
            dy = layer.backward(dy, rate)
        return loss


def digits() -> list[Any]:
    """Training and test images as rows of 64 float32 in [0, 1], and their labels."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    parts = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)
    return list(parts)


def main(epochs: int = 15) -> float:
    train_x, test_x, train_y, test_y = digits()
    network, rng = Perceptron((64, 128, 64, 10)), np.random.default_rng(1)
    accuracy = 0.0
    for epoch in range(epochs):
        order = rng.permutation(len(train_x))
        losses = [
            network.step(train_x[rows], train_y[rows], rate=0.3)
            for rows in np.array_split(order, 20)
        ]
        accuracy = (network.forward(test_x, training=False).argmax(axis=1) == test_y).mean()
        print(f"epoch {epoch + 1:2}: loss {np.mean(losses):.4f}, test accuracy {accuracy:.2%}")
    return float(accuracy)


if __name__ == "__main__":
    main()
