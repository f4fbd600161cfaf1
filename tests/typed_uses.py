"""Uses of fastact as type checkers see them, and run too: test_types.py does both.

A line with an ignore comment is wrong on purpose: checkers complain where one is not needed.
"""

from typing import TYPE_CHECKING, Any, TypeAlias, assert_type

import numpy as np
from numpy.typing import NDArray

import fastact as fa

Vector: TypeAlias = np.ndarray[tuple[int], np.dtype[np.float32]]
Matrix: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.float64]]

x: Vector = np.ones(3, dtype=np.float32)
a: Matrix = np.ones((4, 3))
some: NDArray[np.float16] = np.ones((2, 2), np.float16)


def values() -> None:
    """dtype and shape are those of x."""
    assert_type(fa.gelu(x), Vector)
    assert_type(fa.gelu(a), Matrix)
    assert_type(fa.leaky_relu(a, 0.2), Matrix)
    assert_type(fa.leaky_relu(a, negative_slope=0.2), Matrix)
    assert_type(fa.hardtanh(x, -2.0, max_val=2.0), Vector)
    assert_type(fa.threshold(x, 0.1, -1.0), Vector)
    assert_type(fa.relu(some), NDArray[np.float16])
    assert_type(fa.relu(np.float32(1)), np.float32)
    assert_type(fa.relu(1.5), np.float64)
    counts: np.ndarray[tuple[int], np.dtype[np.int64]] = np.arange(3)
    assert_type(fa.tanh(counts), np.ndarray[tuple[int], np.dtype[np.floating]])
    assert_type(fa.silu([1.0, 2.0]), Any)


def parameters() -> None:
    """An array as a parameter broadcasts: the shape is not known."""
    slopes = np.array([0.1, 0.2, 0.3], dtype=np.float32)
    assert_type(fa.leaky_relu(a, slopes), NDArray[np.float64])
    assert_type(fa.prelu(a, slopes), NDArray[np.float64])
    assert_type(fa.prelu(a, 0.25), Matrix)
    assert_type(fa.swiglu(a, a), Matrix)


def keywords() -> None:
    """Those of ufuncs."""
    y = np.empty_like(a)
    assert_type(fa.gelu(a, out=y), Matrix)
    assert_type(fa.gelu(a, out=(y,)), Matrix)
    assert_type(fa.gelu(x, dtype=np.float64), np.ndarray[tuple[int], np.dtype[np.float64]])
    assert_type(fa.gelu(a, where=True, casting="same_kind", order="C", subok=False), Matrix)


def gradients() -> None:
    """So are gradients; a learned parameter, or a gate, makes two of them."""
    assert_type(fa.gelu.backward(a, a), Matrix)
    assert_type(fa.gelu.backward(np.float32(1), np.float32(2)), np.float32)
    assert_type(fa.leaky_relu.backward(x, x, 0.2, out=np.empty_like(x)), Vector)
    weight: np.ndarray[tuple[int], np.dtype[np.float32]] = np.full(3, 0.25, dtype=np.float32)
    dx, dweight = fa.prelu.backward(a, a, weight)
    assert_type(dx, Matrix)
    assert_type(dweight, Vector)
    assert_type(fa.geglu.backward(a, a, a), tuple[Matrix, Matrix])


def attributes() -> None:
    assert_type(fa.gelu.max_ulp, float)
    assert_type(fa.gelu.ufunc, np.ufunc)
    assert_type(fa.gelu.backward.ufunc, np.ufunc)
    assert_type(dict(fa.gelu.parameters), dict[str, float | None])
    for name, function in fa.activations.items():
        assert_type(name, str)
        assert_type(function, fa.Activation)


def batch_norm() -> None:
    assert_type(fa.batch_norm(a, training=True, activation="relu"), Matrix)
    assert_type(fa.batch_norm(a, training=True, activation=fa.relu, out=np.empty_like(a)), Matrix)
    params = {"negative_slope": 0.2}
    y, ctx = fa.batch_norm_forward(
        a, weight=np.ones(3), running_mean=np.zeros(3), running_var=np.ones(3),
        activation=fa.leaky_relu, activation_params=params,
    )  # fmt: skip
    assert_type(y, Matrix)
    assert_type(ctx.x, Matrix)
    assert_type(ctx.mean, np.ndarray[tuple[int], np.dtype[np.float64]])
    grads = fa.batch_norm_backward(y, ctx)
    assert_type(grads.x, Matrix)
    if grads.weight is not None:
        print(grads.weight.sum())
    rows = np.array([True] * len(a))
    y, ctx = fa.batch_norm_forward(a, residual=a, mask=rows, sample_weight=np.ones(len(a)))
    assert_type(fa.batch_norm_backward(y, ctx).x, Matrix)
    assert_type(fa.batch_norm_forward(a, save_for_backward="output")[1].saved, fa.Saved)
    layer = fa.BatchNorm(3, activation="silu")
    assert_type(layer(a, residual=a), Matrix)
    assert_type(layer(a), Matrix)
    assert_type(layer.backward(a).x, Matrix)
    assert_type(layer.train().eval(), fa.BatchNorm)
    layer.load_state_dict(layer.state_dict())


def parts() -> None:
    stats = fa.merge_stats(fa.batch_norm_stats(a[:2]), fa.batch_norm_stats(a[2:]))
    assert_type(stats, fa.BatchStats)
    assert_type(fa.batch_norm_apply(a, stats), Matrix)
    sums = fa.batch_norm_backward_reduce(a, a, stats)
    assert_type(sums, fa.BatchNormSums)
    assert_type(fa.batch_norm_backward_apply(a, a, stats, sums).x, Matrix)


def the_rest() -> None:
    with fa.num_threads(1) as limit:
        assert_type(limit, fa.num_threads)
    assert_type(fa.config()["isa"], Any)
    assert_type(fa.get_num_threads(), int)
    assert_type(fa.memory.stats().hits, int)
    assert_type(fa.reference.leaky_relu(x, 0.2), NDArray[np.float64])
    y, _ = fa.rrelu_training(a, np.random.default_rng(0))
    assert_type(y, Matrix)
    layer = fa.BatchNorm(3)
    assert_type(fa.fold_batch_norm(np.ones((3, 5)), None, layer)[0].dtype, np.dtype[np.float64])


if TYPE_CHECKING:  # none of these would run
    fa.leaky_relu(a, negativ_slope=0.2)  # type: ignore[call-overload]  # pyright: ignore
    fa.relu(a, 0.2)  # type: ignore[call-overload]  # pyright: ignore
    fa.prelu(a)  # type: ignore[call-overload]  # pyright: ignore
    fa.batch_norm(a, activation=3)  # type: ignore[call-overload]  # pyright: ignore
    fa.BatchNorm("3")  # type: ignore[arg-type]  # pyright: ignore
    fa.gelu.max_ulp = 1.0  # type: ignore[misc]  # pyright: ignore
    fa.nothing(a)  # type: ignore[attr-defined]  # pyright: ignore


USES = [values, parameters, keywords, gradients, attributes, batch_norm, parts, the_rest]
