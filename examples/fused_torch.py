"""A convolutional network for torch, fused by fastact: the same training, fewer passes over memory.

Trains a small residual network on scikit-learn's digits, once as it is and once fused, from the
same weights and batches; prints what was fused, both losses and the test accuracy.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import fastact.torch as fat

EPOCHS, BATCH = 8, 64


class Residual(nn.Module):
    """Two convolutions beside a shortcut; what comes together goes through an activation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.silu(self.norm1(self.conv1(x)))
        return nn.functional.silu(self.norm2(self.conv2(y)) + x)


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.SiLU(),
        Residual(24), nn.MaxPool2d(2), Residual(24),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10),
    )  # fmt: skip
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # it has no such overload
    return model


def digits() -> list[Tensor]:
    """Training and test images of shape (N, 1, 8, 8), and their labels."""
    data: Any = load_digits()
    images = torch.tensor(data.images / 16, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(data.target)
    split: Any = train_test_split(images, labels, test_size=0.2, random_state=0)
    return list(split)


def train(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The loss of the last epoch."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, EPOCHS)
    order = torch.Generator().manual_seed(0)
    total = 0.0
    for _ in range(EPOCHS):
        total = 0.0
        for rows in torch.randperm(len(images), generator=order).split(BATCH):
            loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        schedule.step()
    return total / len(images)


def main() -> float:
    train_x, test_x, train_y, test_y = digits()
    plain = network()
    fused = copy.deepcopy(plain)
    print(fat.fuse(fused))
    losses = [train(model, train_x, train_y) for model in (plain, fused)]
    print("loss of the last epoch: {:.4f}, fused {:.4f}".format(*losses))
    with torch.inference_mode():
        right = fused.eval()(test_x).argmax(1) == test_y
    accuracy = float(right.float().mean())
    print(f"test accuracy {accuracy:.2%}")
    return accuracy


if __name__ == "__main__":
    main()
