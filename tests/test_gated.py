"""The gated pairs: a value of x and a gate, two gradients, one pass."""

import copy
import inspect
import pickle

import numpy as np
import oracle
import pytest
from conftest import (
    GATED,
    assert_same_bits,
    error_in_ulp,
    floats,
    gates,
    hard_values,
    kinds,
    mixed,
    quiet,
    ulp,
)
from mpmath import mp, mpf

import fastact as fa
from fastact import reference


def pairs(dtype, count=60_000):
    """Values of x (or dy) that do not overflow with each other, and gates of all magnitudes."""
    rng = np.random.default_rng(0)
    x, dy = ((rng.standard_normal(count) * np.exp2(rng.integers(-30, 30, count))).astype(dtype)
             for _ in range(2))  # fmt: skip
    gate = mixed(count, dtype, 3)
    gate[::3] = rng.uniform(-120, 120, len(gate[::3])).astype(dtype)
    gate[1::3] = rng.uniform(-3, 3, len(gate[1::3])).astype(dtype)
    return dy, x, gate


@gates
@quiet
def test_float32_is_within_max_ulp(name):
    function, (value, gradient) = fa.gated[name], reference.gated[name]
    assert function.max_ulp <= 0.51
    dy, x, gate = pairs(np.float32)
    error = error_in_ulp(function(x, gate), value(x, gate))
    assert np.nanmax(error) <= function.max_ulp
    dx, dgate = function.backward(dy, x, gate)
    want_dx, want_dgate = gradient(dy, x, gate)
    assert np.nanmax(error_in_ulp(dx, want_dx)) <= 0.51
    floor = 2.0**-33 * np.abs(dy.astype(np.float64) * x) / ulp(want_dgate, np.float32)
    near = (np.abs(gate) > 0.6) & (np.abs(gate) < 1.4)  # a zero of the gate's slope is there
    assert (error_in_ulp(dgate, want_dgate) <= 0.51 + np.where(near, floor, 0)).all()


@gates
@pytest.mark.thread_unsafe(reason="mpmath has one precision for the process")
def test_float64_is_within_one_ulp_and_its_gradients_within_two(name):
    dy, x, gate = (a[np.isfinite(pairs(np.float64, 900)[2])] for a in pairs(np.float64, 900))
    got = (fa.gated[name](x, gate), *fa.gated[name].backward(dy, x, gate))
    with mp.workdps(oracle.DIGITS):
        for k, point in enumerate(zip(dy, x, gate, strict=True)):
            d, a, g = (mpf(float(v)) for v in point)
            value, by_x, by_gate = oracle.gated_definitions[name]
            for result, exact, bound in (
                (got[0][k], value(a, g), 1.0), (got[1][k], d * by_x(a, g), 2.0),
                (got[2][k], d * by_gate(a, g), 2.0),
            ):  # fmt: skip
                error = oracle.error_in_ulp(result, exact)
                near = abs(result - exact) <= 2.0**-52 * abs(d * a)
                assert error <= bound or (bound == 2.0 and near), (point, result, float(exact))


@gates
@floats
def test_nan_and_limits_as_in_the_reference(name, dtype):
    hard = hard_values(dtype)
    x, gate = (a.ravel() for a in np.meshgrid(hard[::7], hard))
    with np.errstate(all="ignore"):
        want = (reference.gated[name][0](x, gate), *reference.gated[name][1](x, x, gate))
        for got, exact in zip((fa.gated[name](x, gate), *fa.gated[name].backward(x, x, gate)), want,
                              strict=True):  # fmt: skip
            finite = np.isfinite(x) & np.isfinite(exact)
            np.testing.assert_array_equal(np.isnan(got)[finite], np.isnan(exact)[finite])
    x = np.full(len(hard), 2, dtype)
    got, want = fa.gated[name](x, hard), reference.gated[name][0](x, hard)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(hard))
    special = np.isinf(hard) | (hard == 0)
    np.testing.assert_array_equal(got[special], want[special].astype(dtype))


def misaligned(a):
    moved = np.ndarray(a.shape, a.dtype, bytearray(a.nbytes + 1), 1)
    moved[...] = a
    return moved


@gates
@kinds
def test_same_bits_by_every_way(name, dtype):
    function = fa.gated[name]
    with np.errstate(over="ignore"):  # float16 overflows
        dy, x, gate = (a[:59_904].reshape(8, 144, 52).astype(dtype) for a in pairs(np.float32))
    want = (function(x, gate), *function.backward(dy, x, gate))
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), dtype)
    for threads in (1, 2, 3):
        with fa.num_threads(threads):
            for move in (
                lambda a: a,
                lambda a: a[::-1, :, ::-1],
                np.asfortranarray,
                lambda a: (wide[..., ::2].__setitem__(..., a), wide.copy()[..., ::2])[1],
                misaligned,
            ):
                turn = (lambda a: a[::-1, :, ::-1]) if move(x)[0, 0, 0] != x[0, 0, 0] else None
                got = (function(move(x), move(gate)),
                       *function.backward(move(dy), move(x), move(gate)))  # fmt: skip
                for result, exact in zip(got, want, strict=True):
                    assert result.dtype == dtype
                    assert_same_bits(result, turn(exact) if turn else exact)
    for n in (0, 1, 15, 16, 17, 1023, 1025):
        flat = [a.ravel()[:n] for a in (dy, x, gate)]
        assert_same_bits(function(*flat[1:]), want[0].ravel()[:n])
        for result, exact in zip(function.backward(*flat), want[1:], strict=True):
            assert_same_bits(result, exact.ravel()[:n])
    out = np.empty_like(x), np.empty_like(x)
    assert function.backward(dy, x, gate, out=out) == out
    assert_same_bits(out[0], want[1])
    assert_same_bits(out[1], want[2])
    target = x.copy(), gate.copy()
    function.backward(dy, *target, out=target)
    assert_same_bits(target[0], want[1])
    assert_same_bits(target[1], want[2])
    assert_same_bits(function(x, gate, out=target[0]), want[0])


@gates
def test_inputs_broadcast_and_gradients_are_summed_back(name):
    function = fa.gated[name]
    rng = np.random.default_rng(1)
    x, gate = rng.standard_normal((4, 1, 6)), rng.standard_normal((5, 1))
    y = function(x, gate)
    assert y.shape == (4, 5, 6)
    dy = rng.standard_normal(y.shape)
    dx, dgate = function.backward(dy, x, gate)
    want = function.backward(dy, np.broadcast_to(x, y.shape), np.broadcast_to(gate, y.shape))
    np.testing.assert_allclose(dx, want[0].sum(axis=1, keepdims=True), rtol=1e-12)
    np.testing.assert_allclose(dgate, want[1].sum(axis=(0, 2))[:, None], rtol=1e-12)
    step = 1e-6
    slope = (function(x, gate + step) - function(x, gate - step)) / (2 * step)
    np.testing.assert_allclose(dgate, (dy * slope).sum(axis=(0, 2))[:, None], rtol=1e-6)


@gates
def test_bad_arguments_are_refused_by_name(name):
    function, x = fa.gated[name], np.ones(3, np.float32)
    for bad, words in (
        (lambda: function(x), "gate"),
        (lambda: function.backward(x, x), "gate"),
        (lambda: function(x, x, colour=1), "colour"),
        (lambda: function.backward(x, x, x, colour=1), "colour"),
        (lambda: function.backward(x, x, x, out=x), "out"),
        (lambda: function(x.astype(complex), x), name),
    ):
        with pytest.raises(TypeError, match=words):
            bad()
    with pytest.raises(ValueError, match="dy"):
        function.backward(np.ones(4, np.float32), x, x)
    with pytest.raises(ValueError, match="gate"):
        fa.batch_norm_forward(np.ones((3, 3), np.float32), activation=name)
    with pytest.raises(ValueError, match="gate"):
        fa.BatchNorm(3, activation=function)


@gates
def test_objects(name):
    function = fa.gated[name]
    assert getattr(fa, name) is function
    assert name in fa.__all__
    assert function.gated
    assert not function.parameters
    for thing in (function, function.backward, function.ufunc, function.backward.ufunc):
        assert pickle.loads(pickle.dumps(thing)) is thing
        assert copy.deepcopy(thing) is thing
    assert isinstance(function.ufunc, np.ufunc)
    assert (function.ufunc.nin, function.backward.ufunc.nin, function.backward.ufunc.nout) == (
        2,
        3,
        2,
    )
    assert list(inspect.signature(function).parameters)[:2] == ["x", "gate"]
    assert list(inspect.signature(function.backward).parameters) == ["dy", "x", "gate", "out"]
    x = np.linspace(-2, 2, 9, dtype=np.float32)
    assert_same_bits(function(x, gate=x), function(x, x))
    with pytest.raises(TypeError):
        fa.gated["new"] = function
    assert GATED


@gates
def test_the_gradient_of_a_gate_that_was_broadcast_has_the_same_bits_in_any_layout(name):
    rng = np.random.default_rng(5)
    x, dy = (rng.standard_normal((40, 30)) for _ in range(2))
    for gate in (0.7, rng.standard_normal((40, 1))):
        want = fa.gated[name].backward(dy, x, gate)
        for order in ("F", "C"):
            a, b = (np.asarray(v, order=order)[::-1] for v in (dy[::-1], x[::-1]))
            for got, exact in zip(fa.gated[name].backward(a, b, gate), want, strict=True):
                assert_same_bits(got, exact)
