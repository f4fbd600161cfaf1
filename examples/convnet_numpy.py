"""A small convolutional network in NumPy: two convolutions, each with BatchNorm + silu in one call.

Images are channels-last, (N, height, width, channels), so that a convolution is one matrix product
over 3 x 3 patches and the result needs no transposition: `fastact.BatchNorm(..., axis=-1)` takes
it as it is. Trains on scikit-learn's digits in some seconds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

import fastact as fa

Array = NDArray[Any]


class Block:
    """silu(BatchNorm(3 x 3 convolution)), then the mean of each 2 x 2 square."""

    def __init__(self, channels_in: int, channels: int, rng: np.random.Generator) -> None:
        fan_in = 9 * channels_in
        weight = rng.standard_normal((fan_in, channels)) * (2 / fan_in) ** 0.5
        self.weight = weight.astype(np.float32)
        self.norm = fa.BatchNorm(channels, activation="silu", axis=-1)

    def forward(self, x: Array) -> Array:
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        patches = sliding_window_view(padded, (3, 3), axis=(1, 2))  # (N, H, W, C, 3, 3)
        self.patches = patches.reshape(*x.shape[:3], -1)
        self.channels_in = x.shape[-1]
        return pooled(self.norm(self.patches @ self.weight))

    def backward(self, dy: Array, rate: float) -> Array:
        grads = self.norm.backward(spread(dy))
        dweight = np.tensordot(self.patches, grads.x, axes=((0, 1, 2), (0, 1, 2)))
        dx = self.input_gradient(grads.x)
        self.weight -= rate * dweight
        self.norm.weight -= rate * grads.weight
        self.norm.bias -= rate * grads.bias
        return dx

    def input_gradient(self, dz: Array) -> Array:
        """Each pixel gathers the gradients of the nine patches it is in."""
        n, height, width = dz.shape[:3]
        dpatches = (dz @ self.weight.T).reshape(n, height, width, self.channels_in, 3, 3)
        dpadded = np.zeros((n, height + 2, width + 2, self.channels_in), np.float32)
        for i in range(3):
            for j in range(3):
                dpadded[:, i : i + height, j : j + width] += dpatches[..., i, j]
        return dpadded[:, 1:-1, 1:-1]


def pooled(x: Array) -> Array:
    """The mean of each 2 x 2 square of pixels."""
    n, height, width, channels = x.shape
    mean: Array = x.reshape(n, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
    return mean


def spread(dy: Array) -> Array:
    """The gradient of `pooled`: a quarter for each pixel of a square."""
    return (dy / 4).repeat(2, axis=1).repeat(2, axis=2)


class ConvNet:
    """8 x 8 x 1 -> 4 x 4 x 16 -> 2 x 2 x 32 -> 10."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.blocks = [Block(1, 16, rng), Block(16, 32, rng)]
        self.last = (rng.standard_normal((128, 10)) / 128**0.5).astype(np.float32)

    def forward(self, x: Array, training: bool) -> Array:
        for block in self.blocks:
            block.norm.train(training)
            x = block.forward(x)
        self.features = x.reshape(len(x), -1)
        logits: Array = self.features @ self.last
        return logits

    def step(self, x: Array, labels: NDArray[np.int_], rate: float) -> float:
        logits = self.forward(x, training=True)
        rows = np.arange(len(labels))
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        loss = float(-np.log(p[rows, labels]).mean())
        p[rows, labels] -= 1
        p /= len(labels)
        dy = (p @ self.last.T).reshape(-1, 2, 2, 32)
        self.last -= rate * (self.features.T @ p)
        for block in reversed(self.blocks):
            dy = block.backward(dy, rate)
        return loss


def digits() -> list[Any]:
    """Training and test images of shape (N, 8, 8, 1), and their labels."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = np.asarray(images / 16, dtype=np.float32).reshape(-1, 8, 8, 1)
    parts = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)
    return list(parts)


def main(epochs: int = 8) -> float:
    train_x, test_x, train_y, test_y = digits()
    network, rng = ConvNet(), np.random.default_rng(1)
    accuracy = 0.0
    for epoch in range(epochs):
        order = rng.permutation(len(train_x))
        losses = [
            network.step(train_x[rows], train_y[rows], rate=0.3 * (1 - epoch / epochs))
            for rows in np.array_split(order, 30)
        ]
        accuracy = (network.forward(test_x, training=False).argmax(axis=1) == test_y).mean()
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.4f}, test accuracy {accuracy:.2%}")
    return float(accuracy)


if __name__ == "__main__":
    main()
