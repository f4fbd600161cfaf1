"""What BatchNorm adds before the activation, leaves out of the statistics, or weighs."""

import numpy as np
import pytest
from conftest import LEARNED, NAMES, assert_same_bits, each, kinds
from test_batch_norm import affine, columns, data, options

import fastact as fa

SHAPES = [((7, 3), 1), ((40, 16), 1), ((33, 2, 70), 1), ((3, 7, 9, 37), 1), ((5, 6, 33), -1),
          ((600, 3), 1), ((4, 7, 5), 0)]  # fmt: skip
shapes = pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)


def rest_of(shape, axis):
    axis %= len(shape)
    return shape[:axis] + shape[axis + 1 :]


def mask_of(shape, axis, seed=5):
    mask = np.random.default_rng(seed).random(rest_of(shape, axis)) < 0.7
    mask.flat[:2] = True
    return mask


def taken(x, axis, mask):
    """(count, C): what a mask leaves, in logical order."""
    return np.ascontiguousarray(np.moveaxis(x, axis, -1)[mask])


# ---- residual --------------------------------------------------------------------------------


@each
@kinds
def test_residual_is_the_unfused_calls_bit_for_bit(name, dtype):
    for shape, axis in SHAPES[:5]:
        x, r = data(shape, dtype, 1), data(shape, dtype, 2)
        c = shape[axis]
        own = affine(c, np.float32) | {"axis": axis}
        fused = options(name, c, np.float32)
        y, ctx = fa.batch_norm_forward(x, residual=r, **own, **fused)
        z = fa.batch_norm(x, training=True, **own)
        params = {
            key: columns(value, x.ndim, axis) if np.ndim(value) else value
            for key, value in fused["activation_params"].items()
        }
        assert_same_bits(y, fa.activations[name](z + r, **params))
        assert ctx.residual is r


@kinds
def test_residual_alone(dtype):
    for shape, axis in SHAPES:
        x, r = data(shape, dtype, 1), data(shape, dtype, 2)
        y, ctx = fa.batch_norm_forward(x, residual=r, axis=axis)
        assert_same_bits(y, fa.batch_norm(x, training=True, axis=axis) + r)
        dy = data(shape, dtype, 3)
        grads = fa.batch_norm_backward(dy, ctx)
        assert_same_bits(grads.residual, dy)
        plain = fa.batch_norm_forward(x, axis=axis)[1]
        assert_same_bits(grads.x, fa.batch_norm_backward(dy, plain).x)


@each
@kinds
def test_backward_of_a_residual_is_the_unfused_calls_bit_for_bit(name, dtype):
    """g = dy act'(z + r) is the activation's own backward, and dx the plain one's of g."""
    for shape, axis in SHAPES[:5]:
        x, r, dy = (data(shape, dtype, k) for k in (1, 2, 3))
        c = shape[axis]
        own = affine(c, np.float32) | {"axis": axis}
        fused = options(name, c, np.float32)
        _, ctx = fa.batch_norm_forward(x, residual=r, **own, **fused)
        grads = fa.batch_norm_backward(dy, ctx)
        z, plain = fa.batch_norm_forward(x, **own)
        params = {
            key: columns(value, x.ndim, axis) if np.ndim(value) else value
            for key, value in fused["activation_params"].items()
        }
        g = fa.activations[name].backward(dy, z + r, **params)
        g = g[0] if isinstance(g, tuple) else g
        assert_same_bits(grads.residual, g)
        want = fa.batch_norm_backward(g, plain)
        assert_same_bits(grads.x, want.x)
        assert_same_bits(grads.weight, want.weight)
        assert_same_bits(grads.bias, want.bias)


# ---- masks and weights -----------------------------------------------------------------------


@shapes
@kinds
@pytest.mark.parametrize("name", [None, *NAMES[:3], *LEARNED])
def test_a_mask_is_the_data_without_what_does_not_count(shape, axis, dtype, name):
    """Statistics in the order of the whole, so the last bits may differ; huge or not a number, what
    is masked takes no part."""
    x, r, dy = (data(shape, dtype, k) for k in (1, 2, 3))
    mask = mask_of(shape, axis)
    where = np.expand_dims(mask, axis % x.ndim)
    poison = np.where(np.arange(x.size).reshape(shape) % 2, np.nan, np.inf).astype(dtype)
    dirty = [np.where(where, a, poison) for a in (x, r, dy)]
    c = shape[axis]
    fused = affine(c, np.float32) | (options(name, c, np.float32) if name else {})
    y, ctx = fa.batch_norm_forward(dirty[0], residual=dirty[1], mask=mask, axis=axis, **fused)
    grads = fa.batch_norm_backward(dirty[2], ctx)
    want, want_ctx = fa.batch_norm_forward(
        taken(x, axis, mask), residual=taken(r, axis, mask), axis=1, **fused
    )
    want_grads = fa.batch_norm_backward(taken(dy, axis, mask), want_ctx)
    digits = {2: 2e-2, 4: 2e-6, 8: 1e-14}[x.itemsize]
    tolerance = {"rtol": digits, "atol": digits * 10}
    for array in (y, grads.x, grads.residual):
        assert not np.moveaxis(array, axis, -1)[~mask].any()
        assert not np.isnan(array.astype(np.float64)).any()
    pairs = [(taken(y, axis, mask), want), (taken(grads.x, axis, mask), want_grads.x)]
    pairs += [(taken(grads.residual, axis, mask), want_grads.residual)]
    pairs += [(ctx.mean, want_ctx.mean), (ctx.var, want_ctx.var)]
    pairs += [(grads.weight, want_grads.weight), (grads.bias, want_grads.bias)]
    for got, expected in pairs:
        got, expected = got.astype(np.float64), expected.astype(np.float64)
        np.testing.assert_allclose(got, expected, **tolerance)
    assert ctx.count == want_ctx.count == np.count_nonzero(mask)
