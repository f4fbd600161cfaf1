"""Writes tests/data/checkpoints: what torch, InPlace-ABN and Keras save of a trained BatchNorm, and
in evaluation.npz what each of them then computes.

Needs torch, inplace-abn, keras (with KERAS_BACKEND=torch) and h5py; run it by hand.
"""

import os
from pathlib import Path

import numpy as np

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import torch
from inplace_abn import InPlaceABN

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "data" / "checkpoints"
CHANNELS, BATCHES = 3, 4


def batch(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((8, CHANNELS, 5), dtype=np.float32) * 2 + 1


def of_torch(layer: torch.nn.Module, name: str) -> np.ndarray:
    """A small model trained by a few steps, saved, and its y in evaluation."""
    model = torch.nn.Sequential(torch.nn.Conv1d(CHANNELS, CHANNELS, 1), layer)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for seed in range(BATCHES):
        optimizer.zero_grad()
        model(torch.from_numpy(batch(seed))).square().mean().backward()
        optimizer.step()
    torch.save(model.state_dict(), FOLDER / f"{name}.pt")
    model.eval()
    return layer(torch.from_numpy(batch(9))).detach().numpy()


def of_keras() -> np.ndarray:
    layer = keras.layers.BatchNormalization(axis=1)
    model = keras.Sequential([keras.Input((CHANNELS, 5)), layer])
    model.compile("sgd", "mse")
    x = np.concatenate([batch(seed) for seed in range(BATCHES)])
    model.fit(x, np.zeros_like(x), batch_size=8, epochs=1, verbose=0)
    model.save(FOLDER / "keras.keras")
    model.save_weights(FOLDER / "keras.weights.h5")
    return np.asarray(model(batch(9), training=False).detach())


def main() -> None:
    torch.manual_seed(0)
    FOLDER.mkdir(parents=True, exist_ok=True)
    abn = InPlaceABN(CHANNELS, activation="identity")
    torch.nn.init.uniform_(abn.weight, -1.0, 1.0)  # it uses abs(weight) + eps
    results = {
        "torch": of_torch(torch.nn.BatchNorm1d(CHANNELS), "torch"),
        "inplace_abn": of_torch(abn, "inplace_abn"),
        "keras": of_keras(),
    }
    np.savez(FOLDER / "evaluation.npz", x=batch(9), **results)


if __name__ == "__main__":
    main()
