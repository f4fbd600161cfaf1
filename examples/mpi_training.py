"""Training on several processes, one batch among them: `mpiexec -n 2 python mpi_training.py`.

Every rank has its share of the rows, with unequal shares and BatchNorm over all of them, and ends
with the weights that one process alone ends with.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastact as fa

Array = NDArray[Any]
BATCH, STEPS, RATE = 96, 60, 0.5


class Network:
    """logit = silu(BatchNorm(x @ first)) @ last"""

    def __init__(self, comm: Any = None) -> None:
        rng = np.random.default_rng(0)
        self.comm = comm
        self.first = rng.standard_normal((2, 16)) / 2**0.5
        self.last = rng.standard_normal(16) / 4
        self.norm = fa.BatchNorm(16, activation="silu", comm=comm, dtype=np.float64)

    def step(self, x: Array, target: Array) -> float:
        features = self.norm(x @ self.first)
        p = 1 / (1 + np.exp(-features @ self.last))
        error = (p - target) / BATCH
        grads = self.norm.backward(np.outer(error, self.last))
        assert grads.weight is not None
        assert grads.bias is not None
        # the gradients of weight and bias are those of all ranks already
        self.norm.weight -= RATE * grads.weight
        self.norm.bias -= RATE * grads.bias
        self.last -= RATE * self.total(features.T @ error)
        self.first -= RATE * self.total(x.T @ grads.x)
        right = np.array([float(((p > 0.5) == target).sum())])
        return float(self.total(right)[0]) / BATCH

    def total(self, array: Array) -> Array:
        return array if self.comm is None else self.comm.allreduce(array)


def rings(step: int) -> tuple[Array, Array]:
    """Points of two rings, and which ring each is of."""
    rng = np.random.default_rng(step)
    target = rng.random(BATCH) < 0.5
    angle, radius = 2 * np.pi * rng.random(BATCH), np.where(target, 1.0, 2.0)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1), target


def main() -> float:
    """The accuracy on the last batch."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    network, alone = Network(comm), Network()
    first, last = (rank**2 * BATCH // comm.size**2 for rank in (comm.rank, comm.rank + 1))
    accuracy = 0.0
    for step in range(STEPS):
        x, target = rings(step)
        accuracy = network.step(x[first:last], target[first:last])
        alone.step(x, target)
    np.testing.assert_allclose(network.first, alone.first, rtol=1e-9)
    np.testing.assert_allclose(network.norm.running_var, alone.norm.running_var, rtol=1e-12)
    if comm.rank == 0:
        print(f"{comm.size} ranks, accuracy {accuracy:.3f}, the weights of one process")
    return accuracy


if __name__ == "__main__":
    main()
