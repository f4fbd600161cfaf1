"""Memory-saving training: the backward finds x again from y."""

import numpy as np
import pytest
from conftest import LEARNED, NAMES, assert_same_bits, floats, given
from test_batch_norm import data

import fastact as fa
from fastact import _kernels

INVERTIBLE = [n for n in NAMES if _kernels.has_inverse(fa.activations[n]._row)]
STEADY = [n for n in NAMES if _kernels.has_inverse(fa.activations[n]._row) == 2]
OTHERS = [n for n in NAMES if n not in INVERTIBLE]
SHAPE = (16, 12, 9, 7)
SAVES = {"save_for_backward": "output"}


def fused(name, dtype=np.float32):
    params = given(name)
    if name in LEARNED:
        params = dict.fromkeys(params, np.linspace(0.1, 0.6, 12).astype(dtype))
    return {"activation": name, "activation_params": params}


def affine(dtype=np.float32, smallest=0.5):
    """Weights of both signs."""
    weight = np.linspace(smallest, 1.5, 12) * np.where(np.arange(12) % 2, -1, 1)
    return {"weight": weight.astype(dtype), "bias": np.linspace(-1, 1, 12).astype(dtype)}


def relative(got, want, axis=1):
    """Norm of the difference over norm, the largest of all channels."""
    rest = tuple(a for a in range(want.ndim) if a != axis % want.ndim)
    got, want = got.astype(np.float64), want.astype(np.float64)
    norm = np.sqrt((want**2).sum(axis=rest))
    return (np.sqrt(((got - want) ** 2).sum(axis=rest)) / norm).max()


def compare(x, dy, axis=1, bound=1e-4, **options):
    """Gradients from y beside those from x; gives ctx.saved."""
    y, ctx = fa.batch_norm_forward(x, axis=axis, **options)
    want = fa.batch_norm_backward(dy, ctx)
    mine = x.copy(order="K")
    out, saving = fa.batch_norm_forward(mine, axis=axis, out=mine, **SAVES, **options)
    assert out is mine
    assert_same_bits(out, y)
    got = fa.batch_norm_backward(dy, saving)
    if not np.isfinite(y).all():  # an exponential that overflows: so does its ordinary gradient
        assert_same_bits(np.isnan(got.x).astype(x.dtype), np.isnan(want.x).astype(x.dtype))
        return saving.saved
    for array in (got.x, got.weight, got.bias):
        assert np.isfinite(array).all()
    assert relative(got.x, want.x, axis) <= bound
    for name in ("weight", "bias"):
        a, b = (getattr(g, name).astype(np.float64) for g in (got, want))
        assert np.linalg.norm(a - b) <= bound * np.linalg.norm(b)
    if want.activation_params:
        for key, b in want.activation_params.items():
            assert np.linalg.norm(got.activation_params[key] - b) <= bound * np.linalg.norm(b)
    return saving.saved


@pytest.mark.parametrize("name", [None, *INVERTIBLE])
@floats
@pytest.mark.parametrize("axis", [1, -1])
def test_gradients_are_those_of_the_ordinary_mode(name, dtype, axis):
    x, dy = (np.moveaxis(data(SHAPE, dtype, k), 1, axis) for k in (1, 2))
    x, dy = np.ascontiguousarray(x), np.ascontiguousarray(dy)
    options = {"activation": None} if name is None else fused(name, dtype)
    bound = 1e-4 if dtype is np.float32 else 1e-7
    saved = compare(x, dy, axis, bound, **affine(dtype), **options)
    assert saved.what in ("output", "input")
    if name is None or name in STEADY:
        assert saved == fa.Saved("output")


@pytest.mark.parametrize("name", INVERTIBLE)
@pytest.mark.parametrize("spread", [0.5, 3.0, 10.0, 40.0])
def test_saturation(name, spread):
    """Far out, activations are flat: what y has lost is kept."""
    x, dy = data(SHAPE, np.float32, 1), data(SHAPE, np.float32, 2)
    options = affine() | fused(name)
    options["weight"] = options["weight"] * np.float32(spread)
    compare(x, dy, **options)


@pytest.mark.parametrize("name", [None, *INVERTIBLE])
def test_a_weight_that_is_small_beside_the_bias(name):
    x, dy = data(SHAPE, np.float32, 1), data(SHAPE, np.float32, 2)
    options = {"activation": None} if name is None else fused(name)
    weight = np.geomspace(1e-7, 1.0, 12).astype(np.float32)
    compare(x, dy, weight=weight, bias=np.full(12, -0.9, np.float32), **options)


def test_weight_0():
    x, dy = data(SHAPE, np.float32, 1), data(SHAPE, np.float32, 2)
    weight = np.ones(12, np.float32)
    weight[3] = 0
    want = fa.batch_norm_backward(dy, fa.batch_norm_forward(x, weight=weight)[1])
    _, ctx = fa.batch_norm_forward(x, weight=weight, **SAVES)
    assert ctx.saved.channels == (3,)
    got = fa.batch_norm_backward(dy, ctx)
    assert np.isfinite(got.x).all()
    np.testing.assert_allclose(got.weight, want.weight, rtol=1e-4, atol=1e-3)
