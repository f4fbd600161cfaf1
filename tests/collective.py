"""What BatchNorm over several processes has to do, as functions of one rank's communicator.

test_distributed.py runs them in threads that play ranks, and in processes:
``mpiexec -n 3 python tests/collective.py``.
"""

import os
import sys
import traceback

import numpy as np
import pytest

import fastact as fa

SHAPE = (24, 5, 6, 7)
OPTIONS = {
    "weight": np.linspace(-1, 2, 5), "bias": np.linspace(0, 1, 5),
    "activation": list(fa.activations)[4],
}  # fmt: skip
NO_INVERSE = next(
    n for n, f in fa.activations.items() if not fa._kernels.has_inverse(f._row)
)  # fmt: skip
SHARDS = ("equal", "one row", "empty")


def shard(array, rank, size, kind):
    """This rank's rows: unequal parts, of one row, or of none."""
    cuts = {
        "equal": np.linspace(0, len(array), size + 1).astype(int),
        "one row": np.r_[0, np.arange(1, size), len(array)],
        "empty": np.r_[0, np.zeros(size - 1, int), len(array)],
    }[kind]
    return array[cuts[rank] : cuts[rank + 1]]


def data(dtype, seed, shape=SHAPE):
    return (np.random.default_rng(seed).standard_normal(shape) * 1.5 + 0.5).astype(dtype)


def ulps(got, want, dtype):
    return float(np.max(np.abs(got - want) / np.spacing(np.abs(want).astype(dtype)).astype(float)))


def everywhere(comm, array):
    """Whether all ranks hold the same bits."""
    numbers = np.asarray(array, dtype=np.float64).reshape(-1)
    table = fa._distributed.Group(comm).table(numbers)
    return bool((table == table[0]).all())


def equals_one_process(comm, rank, size):
    """Forward and backward are those of the whole batch, for any shards; the same bits on all."""
    for dtype in (np.float32, np.float64):
        x, dy = data(dtype, 1), data(dtype, 2)
        for kind in SHARDS:
            running = [np.zeros(5), np.ones(5)]
            alone = [np.zeros(5), np.ones(5)]
            names = ("running_mean", "running_var")
            want, ctx = fa.batch_norm_forward(x, **OPTIONS, **dict(zip(names, alone, strict=True)))
            wanted = fa.batch_norm_backward(dy, ctx)
            mine = shard(x, rank, size, kind)
            y, own = fa.batch_norm_forward(
                mine, comm=comm, **OPTIONS, **dict(zip(names, running, strict=True))
            )
            grads = fa.batch_norm_backward(shard(dy, rank, size, kind), own)
            assert own.count == ctx.count
            assert ulps(own.mean, ctx.mean, dtype) <= 1, (dtype, kind, own.mean, ctx.mean)
            assert ulps(own.var, ctx.var, dtype) <= 1
            eps = np.finfo(dtype).eps
            close = {"rtol": 4 * eps, "atol": 8 * eps}
            np.testing.assert_allclose(y, shard(want, rank, size, kind), **close)
            np.testing.assert_allclose(grads.x, shard(wanted.x, rank, size, kind), **close)
            for field in ("weight", "bias"):
                mine, all_of_it = getattr(grads, field), getattr(wanted, field)
                np.testing.assert_allclose(mine, all_of_it, rtol=1e-6, atol=1e-3 * eps * x.size)
                assert everywhere(comm, mine)
            for array, other in zip(running, alone, strict=True):
                np.testing.assert_allclose(array, other, rtol=1e-13)
                assert everywhere(comm, array)
            assert everywhere(comm, own.mean)
            assert everywhere(comm, own.var)


def constant_statistics(comm, rank, size):
    """In evaluation only the sums of the backward are those of all."""
    x, dy = data(np.float32, 3), data(np.float32, 4)
    options = {**OPTIONS, "running_mean": np.full(5, 0.2), "running_var": np.full(5, 1.3)}
    want, ctx = fa.batch_norm_forward(x, training=False, **options)
    wanted = fa.batch_norm_backward(dy, ctx)
    mine = shard(x, rank, size, "one row")
    y, own = fa.batch_norm_forward(mine, training=False, comm=comm, **options)
    grads = fa.batch_norm_backward(shard(dy, rank, size, "one row"), own)
    np.testing.assert_array_equal(y, shard(want, rank, size, "one row"))
    np.testing.assert_array_equal(grads.x, shard(wanted.x, rank, size, "one row"))
    np.testing.assert_allclose(grads.weight, wanted.weight, rtol=1e-6)


def the_layer(comm, rank, size):
    """Trains on all ranks alike."""
    layers = [fa.BatchNorm(5, activation=OPTIONS["activation"], comm=c) for c in (comm, None)]
    for step in range(3):
        x, dy = data(np.float32, step), data(np.float32, step + 9)
        parts = [shard(a, rank, size, SHARDS[step]) for a in (x, dy)]
        for layer, (a, b) in zip(layers, (parts, (x, dy)), strict=True):
            layer(a)
            grads = layer.backward(b)
            layer.weight -= 0.1 * grads.weight / x.size
    for key, value in layers[0].state_dict().items():
        np.testing.assert_allclose(value, layers[1].state_dict()[key], rtol=1e-5, atol=1e-6)
        assert everywhere(comm, value)


BAD = {  # what one rank does wrong: its arguments, the error, a word of it
    "dtype": ({"x": np.ones((4, 5), int)}, TypeError, "dtype int64"),
    "rank": ({"x": np.ones(5, np.float32)}, ValueError, "1 dimensions"),
    "weight": ({"weight": np.ones(3)}, ValueError, "weight: shape"),
    "eps": ({"eps": -1.0}, ValueError, "eps"),
    "out": ({"out": np.ones(3, np.float32)}, ValueError, "out: shape"),
    "activation": ({"activation": "no such"}, ValueError, "no such"),
    "mask": ({"mask": np.ones(3, bool)}, ValueError, "mask: shape"),
    "weights": ({"sample_weight": -np.ones(4)}, ValueError, "sample_weight: negative"),
    "residual": ({"residual": np.ones((4, 5))}, TypeError, "residual: dtype"),
    "no inverse": (
        {"activation": NO_INVERSE, "save_for_backward": "output"}, ValueError, "has no inverse",
    ),
    "other residual": ({"residual": np.ones((4, 5), np.float32)}, ValueError, "residual"),
    "other saving": ({"save_for_backward": "output"}, ValueError, "save_for_backward"),
    "other channels": ({"x": np.ones((4, 6), np.float32)}, ValueError, "channels"),
    "other dtype": ({"x": np.ones((4, 5))}, ValueError, "dtype of x"),
    "other mode": (
        {"training": False, "running_mean": np.zeros(5), "running_var": np.ones(5)},
        ValueError, "training",
    ),
    "other eps": ({"eps": 1e-3}, ValueError, "eps"),
    "other weight": ({"weight": np.zeros(5)}, ValueError, "weight"),
    "other activation": ({"activation": list(fa.activations)[1]}, ValueError, "activation"),
    "other convention": ({"convention": "biased/batch"}, ValueError, "convention"),
}  # fmt: skip


def errors_reach_everyone(comm, rank, size):
    """Whatever one rank does wrong is an error on all, before anything is written."""
    for name, (change, kind, text) in BAD.items():
        if size == 1 and name.startswith("other"):
            continue
        for guilty in range(size):
            out, running = np.full((4, 5), 7.0, np.float32), [np.zeros(5), np.ones(5)]
            given = {"x": np.ones((4, 5), np.float32), "out": out}
            given |= {"running_mean": running[0], "running_var": running[1]}
            if rank == guilty:
                # a small array of another x's would be the first to be complained of
                given = {"x": given["x"], "out": None if "x" in change else out} | change
                if "training" not in change and "x" not in change:
                    given |= {"running_mean": running[0], "running_var": running[1]}
            with pytest.raises(kind, match=text) as raised:
                fa.batch_norm_forward(given.pop("x"), comm=comm, **given)
            assert rank == guilty or "comm: " in str(raised.value), name
            assert (out == 7).all()
            assert not running[0].any()


def what_counts(comm, rank, size):
    """Masks and weights are each rank's own; a rank may have none that counts, not all of them."""
    x, dy, r = data(np.float32, 1), data(np.float32, 2), data(np.float32, 3)
    weight = np.random.default_rng(4).integers(0, 4, (24, 6, 7)).astype(float)
    weight[:5] = 0  # all that rank 0 has
    given = {"residual": r, "sample_weight": weight}
    _, ctx = fa.batch_norm_forward(x, **OPTIONS, **given)
    want = fa.batch_norm_backward(dy, ctx)
    mine = {key: shard(value, rank, size, "equal") for key, value in given.items()}
    _, own = fa.batch_norm_forward(shard(x, rank, size, "equal"), comm=comm, **OPTIONS, **mine)
    grads = fa.batch_norm_backward(shard(dy, rank, size, "equal"), own)
    assert own.count == ctx.count == weight.sum()
    assert ulps(own.mean, ctx.mean, np.float32) <= 1
    assert ulps(own.var, ctx.var, np.float32) <= 1
    for key in ("x", "residual"):
        wanted = shard(getattr(want, key), rank, size, "equal")
        np.testing.assert_allclose(getattr(grads, key), wanted, rtol=4e-7, atol=1e-6)
    np.testing.assert_allclose(grads.weight, want.weight, rtol=1e-6, atol=1e-4)
    with pytest.raises(ValueError, match=r"0 values per channel .* that count"):
        fa.batch_norm_forward(x, comm=comm, mask=np.zeros((24, 6, 7), bool))


def saving_memory(comm, rank, size):
    """x found again from y, where y was written over it."""
    options = {"weight": OPTIONS["weight"] + 0.1, "bias": OPTIONS["bias"], "comm": comm}
    x, dy = (shard(data(np.float32, k), rank, size, "one row") for k in (1, 2))
    want = fa.batch_norm_backward(dy, fa.batch_norm_forward(x, **options)[1])
    mine = x.copy()
    _, ctx = fa.batch_norm_forward(mine, out=mine, save_for_backward="output", **options)
    got = fa.batch_norm_backward(dy, ctx)
    np.testing.assert_allclose(got.x, want.x, rtol=1e-4, atol=1e-4)


def too_few_values(comm, rank, size):
    """One value on all ranks together is none to train on; two are, one a rank."""
    x = np.ones((1 if rank == 0 else 0, 5), np.float32)
    with pytest.raises(ValueError, match="1 value"):
        fa.batch_norm_forward(x, comm=comm)
    if size == 1:
        return
    x = np.full((1 if rank < 2 else 0, 5), float(rank))
    y, ctx = fa.batch_norm_forward(x, comm=comm, eps=0.0)
    assert ctx.count == 2
    np.testing.assert_array_equal(y, np.full(x.shape, 2 * rank - 1))


def errors_of_the_backward(comm, rank, size):
    """So is a bad dy, or another context."""
    x = data(np.float32, 5, (4, 5))
    _, ctx = fa.batch_norm_forward(x, comm=comm)
    _, other = fa.batch_norm_forward(2 * x, comm=comm)
    for guilty in range(size if size > 1 else 0):
        bad = rank == guilty
        for dy, context, text in (
            (x.astype(float) if bad else x, ctx, "dy: dtype"),
            (x[:2] if bad else x, ctx, "dy: shape"),
            (x, other if bad else ctx, "the statistics of ctx"),
        ):
            with pytest.raises((TypeError, ValueError), match=text):
                fa.batch_norm_backward(dy, context)
    assert fa.batch_norm_backward(x, ctx).x.shape == x.shape  # all are in step still


CASES = [
    equals_one_process, constant_statistics, the_layer, errors_reach_everyone, what_counts,
    saving_memory, too_few_values, errors_of_the_backward,
]  # fmt: skip


def main():
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    for case in CASES:
        case(comm, comm.rank, comm.size)
    if comm.rank == 0:
        print(f"{len(CASES)} cases passed on {comm.size} ranks")


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # and not wait for the others
