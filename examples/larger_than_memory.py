"""BatchNorm of a file that need not fit into memory: statistics of chunks merge into the whole's.

Writes a file, normalises it chunk by chunk into another, and takes the gradient the same way. No
more than a chunk of each is in memory at a time.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import fastact as fa

ROWS, CHANNELS, CHUNK = 200_000, 32, 10_000
OPTIONS: dict[str, Any] = {"weight": np.full(CHANNELS, 2.0), "activation": "silu"}


def chunks() -> list[slice]:
    return [slice(k, k + CHUNK) for k in range(0, ROWS, CHUNK)]


def main() -> float:
    """The largest difference from BatchNorm of the array in memory."""
    folder = Path(tempfile.mkdtemp())
    x, y, dx = (
        np.memmap(folder / name, np.float32, "w+", shape=(ROWS, CHANNELS))
        for name in ("x", "y", "dx")
    )
    rng = np.random.default_rng(0)
    for part in chunks():
        x[part] = 5 + 3 * rng.standard_normal(x[part].shape)

    stats = fa.merge_stats(*[fa.batch_norm_stats(x[part]) for part in chunks()])
    for part in chunks():
        fa.batch_norm_apply(x[part], stats, out=np.asarray(y[part]), **OPTIONS)

    # of the loss sum(y^2) / 2, whose gradient is y
    sums = [fa.batch_norm_backward_reduce(y[part], x[part], stats, **OPTIONS) for part in chunks()]
    total = sums[0]
    for one in sums[1:]:
        total = total + one
    for part in chunks():
        fa.batch_norm_backward_apply(
            y[part], x[part], stats, total, out=np.asarray(dx[part]), **OPTIONS
        )

    want, ctx = fa.batch_norm_forward(np.array(x), **OPTIONS)
    wanted = fa.batch_norm_backward(want, ctx).x
    off = max(float(np.abs(y - want).max()), float(np.abs(dx - wanted).max()))
    sizes = [f"{array.nbytes / 2**20:.1f} MiB" for array in (x, x[:CHUNK])]
    print(f"{sizes[0]} in chunks of {sizes[1]}; off by {off:.1g}")
    return off


if __name__ == "__main__":
    main()
