"""Mean and variance are those of the data, whatever the data: by exact rational arithmetic."""

import numpy as np
import pytest
from conftest import assert_same_bits, floats

import fastact as fa
from fastact import reference

COUNTS = [2, 3, 16, 17, 100, 1025]
RATIOS = [0.0, 1.0, 1e2, 1e4, 1e5, 1e6, -1e6]  # mean over deviation
KINDS = ["normal", "uniform", "two values", "one far out", "sorted"]


def channels(kind, count, dtype, ratio, scale):
    rng = np.random.default_rng(count)
    x = rng.standard_normal((count, 3))
    if kind == "uniform":
        x = rng.random((count, 3)) * 3
    elif kind == "two values":
        x = np.where(x > 0, 1.0, -1.0)
        x[:2] = [[1.0], [-1.0]]
    elif kind == "one far out":
        x[count // 2] = 1e3
    elif kind == "sorted":
        x = np.sort(x, axis=0)
    return ((x + ratio) * scale).astype(dtype)


def check(x, ctx, dtype):
    """Within 1 ULP and 2 ULP of x's dtype; a mean that is less than 2^-20 of the deviation is held
    to the ULP of that."""
    mean, var = reference.exact_stats(x)
    size = np.maximum(np.abs(mean), 2.0**-20 * np.sqrt(var)).astype(dtype)
    assert (np.abs(ctx.mean - mean) <= np.spacing(size).astype(float)).all()
    digits = np.exp2(np.ceil(np.log2(np.maximum(var, 2.0**-126))))  # no overflow of float32
    ulp = np.spacing(var) if dtype is np.float64 else 2.0**-24 * digits
    assert (np.abs(ctx.var - var) <= 2 * ulp).all()


@floats
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ratio", RATIOS)
def test_mean_within_1_and_variance_within_2_ulp(dtype, kind, ratio):
    for count in COUNTS:
        for scale in (1.0, 1e-10, 3e12):
            x = channels(kind, count, dtype, ratio, scale)
            for array in (x, np.asfortranarray(x)):
                check(x, fa.batch_norm_forward(array)[1], dtype)


def test_float64_as_far_as_it_goes():
    """The same quality, relative to its digits: a mean of 2^49 deviations."""
    for count in COUNTS:
        x = channels("normal", count, np.float64, 2.0**49, 1.0)
        check(x, fa.batch_norm_forward(x)[1], np.float64)


@floats
def test_the_largest_float_overflows_nothing(dtype):
    """The mean of the largest numbers is one; float32's variance is finite in float64."""
    largest = np.finfo(dtype).max
    x = np.full((1000, 2), largest, dtype)
    y, ctx = fa.batch_norm_forward(x, bias=np.array([0.25, -3.0]))
    assert (ctx.mean == float(largest)).all()
    assert (ctx.var == 0).all()
    assert (y == [0.25, -3.0]).all()
    spread = largest if dtype is np.float32 else dtype(2.0**500)
    x = (np.random.default_rng(0).random((1000, 2)) * 2 - 1).astype(dtype) * spread
    y, ctx = fa.batch_norm_forward(x, eps=0.0)
    check(x, ctx, dtype)
    assert np.abs(y).max() < 2
    dx = fa.batch_norm_backward(np.sin(y), ctx).x
    assert np.isfinite(dx).all()


@floats
def test_two_values_nearly_equal(dtype):
    """n = 2: of the gradient all cancels but what eps leaves."""
    for exponent in range(-18 if dtype is np.float32 else -40, 1, 3):
        step = dtype(2.0**exponent)
        x = np.array([[1.0, 5.0], [1 + step, 5 - step]], dtype)
        dy = np.array([[1.0, -0.5], [0.25, 2.0]], dtype)
        for eps in (1e-5, 1e-3, 1.0):
            _, want_ctx = reference.batch_norm_forward(x, eps=eps)
            want = exact_gradient(x, dy, eps)
            _, ctx = fa.batch_norm_forward(x, eps=eps)
            check(x, ctx, dtype)
            got = fa.batch_norm_backward(dy, ctx).x
            size = np.abs(dy).max() / np.sqrt(want_ctx.var + eps)
            bound = 4 * np.finfo(dtype).eps * np.abs(want) + 2.0**-48 * size
            assert (np.abs(got - want) <= bound).all(), (exponent, eps, got, want)


def exact_gradient(x, dy, eps):
    """x is its mean and -+d, g less its own -+(g0 - g1) / 2, of which d^2 / (d^2 + eps) goes."""
    x, dy = x.astype(np.longdouble), dy.astype(np.longdouble)
    d = (x[0] - x[1]) / 2
    g = (dy[0] - dy[1]) / 2
    one = g * eps / (d * d + eps) / np.sqrt(d * d + eps)
    return np.array([one, -one], dtype=np.float64)


@floats
def test_the_same_bits_for_any_number_of_threads(dtype):
    x = channels("normal", 40_000, dtype, 1e6, 1.0).reshape(40, 1000, 3).transpose(0, 2, 1)
    found = []
    for threads in (1, 2, 3, 7):
        with fa.num_threads(threads):
            y, ctx = fa.batch_norm_forward(np.ascontiguousarray(x))
            found.append((y, ctx.mean, ctx.var, fa.batch_norm_backward(y, ctx).x))
    for other in found[1:]:
        for got, want in zip(other, found[0], strict=True):
            assert_same_bits(got, want)
