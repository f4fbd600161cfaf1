"""Every activation: exact to its bound, the same bits by every way, and at home in NumPy.

Nothing here names an activation: all that tells them apart is their parameters.
"""

import copy
import doctest
import inspect
import pickle
import tracemalloc
import warnings

import numpy as np
import oracle
import pytest
from conftest import (
    LEARNED,
    NAMES,
    PLAIN,
    SCALAR,
    assert_same_bits,
    call,
    call_ufunc,
    defaults,
    directions,
    each,
    each_once,
    error_in_ulp,
    expected,
    few_again,
    finfo,
    floats,
    hard_values,
    kinds,
    mixed,
    python,
    quiet,
    settings,
    slope_zeros,
    ulp,
)

import fastact as fa
from fastact import _normalization, reference

BACKWARD_ULP = 0.51
NEAR_ZERO = 2.0**-33  # of |dy|, near a zero of the derivative
LARGE = 300_007  # several threads, several tiles, no multiple of anything


def with_parameters(*names):
    return pytest.mark.parametrize("name", names)


def every_setting():
    return [pytest.param(n, p, id=f"{n}{list(p)}") for n in NAMES for p in settings(n)]


# ---- accuracy --------------------------------------------------------------------------------


def patterns():
    """float32: one in 65,521 of all bit patterns, so every exponent and sign, and hard ones."""
    some = np.arange(0, 2**32, 65521, dtype=np.uint64).astype(np.uint32).view(np.float32)
    assert len(some) >= 2**16
    exponents = np.unique(some.view(np.uint32) >> 23)
    assert len(exponents) == 512
    near = np.linspace(-20, 20, 20_001).astype(np.float32)
    return np.concatenate([some, hard_values(np.float32), near])


def around_zeros(name, params):
    """The neighbourhood of the derivative's zeros, and of its 0."""
    zeros = np.array(slope_zeros(name, params))
    steps = np.concatenate([np.logspace(-7, -1, 400), -np.logspace(-7, -1, 400), [0.0]])
    return (zeros[:, None] + steps).ravel().astype(np.float32)


def gradients_like(x):
    """dy over all magnitudes; never so that dy * f' is 0 * inf."""
    rng = np.random.default_rng(1)
    scale = rng.choice([1.0, 1.0, 1e-3, 1e-17, 1e-20, 1e-38, 1e-44, 1e20, 3e38], len(x))
    return (rng.uniform(-1.0, 1.0, len(x)) * scale).astype(np.float32)


@pytest.mark.parametrize(("name", "params"), every_setting())
@quiet
def test_float32_forward_is_within_max_ulp(name, params):
    function = fa.activations[name]
    assert function.max_ulp <= 0.51
    x = patterns()
    got, want = function(x, *params), expected(name, False, None, x, params)
    assert got.dtype == np.float32
    error = error_in_ulp(got, want)
    bad = ~(error <= function.max_ulp)
    assert not bad.any(), (x[bad][:5], got[bad][:5], want[bad][:5], error[bad][:5])


@pytest.mark.parametrize(("name", "params"), every_setting())
@quiet
def test_float32_backward_is_within_half_an_ulp(name, params):
    tail = np.linspace(-72, -36, 4001).astype(np.float32)  # some times dy just above subnormal
    x = np.concatenate([patterns(), around_zeros(name, params), tail])
    dy = gradients_like(x)
    got, want = call(name, True, dy, x, params), expected(name, True, dy, x, params)
    assert got.dtype == np.float32
    near = np.zeros(len(x), bool)
    for zero in slope_zeros(name, params):
        near |= np.abs(x - zero) < 0.125
    floor = np.where(near, NEAR_ZERO * np.abs(dy), 0.0) / ulp(np.clip(want, -3e38, 3e38), dy.dtype)
    error = error_in_ulp(got, want)
    bad = ~(error <= BACKWARD_ULP + floor)
    assert not bad.any(), (x[bad][:5], dy[bad][:5], got[bad][:5], want[bad][:5], error[bad][:5])


def hard_doubles(name, params, count):
    rng = np.random.default_rng(2)
    some = np.ldexp(rng.uniform(0.5, 1.0, count), rng.integers(-60, 12, count))
    tails = np.concatenate([rng.uniform(-760, -30, count // 2), rng.uniform(-9, 40, count // 2)])
    some[::2] *= -1.0
    zeros = [np.nextafter(z, z + k) for z in slope_zeros(name, params) for k in (-1.0, 1.0)]
    values = np.concatenate([hard_values(np.float64)[::2], some, tails, zeros])
    return values[np.isfinite(values)]


@pytest.mark.parametrize(("name", "params"), every_setting())
def test_float64_is_within_one_ulp_and_its_gradient_within_two(name, params):
    if min(params, default=0) < 0:
        pytest.skip("the bounds in float64 are stated for positive parameters")
    x = hard_doubles(name, params, 160 if params == defaults(name) else 40)
    value = call(name, False, None, x, params)
    slope = call(name, True, np.ones_like(x), x, params)
    zeros = slope_zeros(name, params)
    for k, at in enumerate(x):
        exact = oracle.exact(name, False, at, params)
        error = oracle.error_in_ulp(value[k], exact)
        assert error <= 1.0, f"f({at!r}) = {value[k]!r}, {error:.3g} ULP from {float(exact)!r}"
        exact = oracle.exact(name, True, at, params)
        error = oracle.error_in_ulp(slope[k], exact)
        near = any(abs(at - zero) < 0.125 for zero in zeros)
        good = error <= 2.0 or (near and abs(slope[k] - exact) <= 2.0**-52)
        assert good, f"f'({at!r}) = {slope[k]!r}, {error:.3g} ULP from {float(exact)!r}"


@pytest.mark.parametrize(("name", "params"), every_setting())
@quiet
def test_subnormal_float64_numbers_keep_the_bounds(name, params):
    """Kernels take them another way, alone and beside usual and very large numbers."""
    if min(params, default=0) < 0:
        pytest.skip("the bounds in float64 are stated for positive parameters")
    rng = np.random.default_rng(8)
    subnormal = np.ldexp(
        rng.choice([-1, 1], 24) * rng.uniform(0.5, 1, 24), rng.integers(-1073, -1015, 24)
    )
    subnormal = np.concatenate(
        [subnormal, [5e-324, -5e-324, 2.0**-1022, np.nextafter(2.0**-1022, 0)]]
    )
    usual = rng.choice([-1, 1], 28) * np.exp2(rng.uniform(-9, 4, 28))
    large = rng.choice([-1, 1], 28) * np.exp2(rng.uniform(20, 1023, 28))
    value = call(name, False, None, subnormal, params)
    for at, got in zip(subnormal, value, strict=True):
        exact = oracle.exact(name, False, at, params)
        assert oracle.error_in_ulp(got, exact) <= 1.0, f"f({at!r}) = {got!r}, not {float(exact)!r}"
    zeros = slope_zeros(name, params)
    for dy, x in (
        (usual, subnormal),
        (large, subnormal),
        (subnormal, subnormal),
        (subnormal, usual),
    ):
        gradient = call(name, True, dy, x, params)
        for g, at, got in zip(dy, x, gradient, strict=True):
            exact = oracle.mp.mpf(float(g)) * oracle.exact(name, True, at, params)
            error = oracle.error_in_ulp(got, exact)
            near = any(zero and abs(at - zero) < 0.125 for zero in zeros)
            good = error <= 2.0 or (near and abs(got - exact) <= 2.0**-52 * abs(g))
            assert good, f"{g!r} f'({at!r}) = {got!r}, {error:.3g} ULP from {float(exact)!r}"


@pytest.mark.parametrize("name", [name for name in NAMES if defaults(name)])
@pytest.mark.parametrize("size", [2.0**-100, 2.0**100])
@quiet
def test_subnormal_float64_numbers_beside_tiny_and_huge_parameters(name, size):
    """Beside which a subnormal number, raised, would no longer be small."""
    x = np.array([2.0**-1030, -(2.0**-1030), 1e-310, -1e-310, 5e-324, -5e-324])
    params = (size,) * len(defaults(name))
    value = call(name, False, None, x, params)
    for at, got in zip(x, value, strict=True):
        exact = oracle.exact(name, False, at, params)
        assert oracle.error_in_ulp(got, exact) <= 1.0, f"f({at!r}) = {got!r}, not {float(exact)!r}"


@each
@kinds
@directions
def test_nan_and_limits_and_signed_zeros_as_in_the_reference(name, dtype, backward):
    x = np.array([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, -1e4, 1e4, -3e4], dtype)
    dy = np.full_like(x, 2.0)
    got = call(name, backward, dy, x, defaults(name))
    want = expected(name, backward, dy, x, defaults(name))
    assert np.isnan(got[:2]).all()
    assert not np.isnan(got[2:]).any()
    np.testing.assert_array_equal(got[2:4], want[2:4].astype(dtype))
    np.testing.assert_array_equal(np.signbit(got[2:]), np.signbit(want[2:]))


@each
@floats
@directions
@pytest.mark.parametrize("width", [1.5, 5])
@quiet
def test_the_bits_of_an_element_do_not_depend_on_its_neighbours(name, dtype, backward, width):
    """Some kernels have two bodies, and take the faster one where a whole stretch permits it, or
    take out the few elements that do not."""
    x, dy = np.random.default_rng(5).standard_normal((2, 50_000)).astype(dtype)
    x *= dtype(width)
    beyond = np.array([1e3, -1e3, 75.0, -75.0, 36.0, -36.0, np.inf, np.nan, 1e-40], dtype)
    mixed = x.copy()
    mixed[::97] = np.resize(beyond, len(mixed[::97]))
    alone = call(name, backward, dy, x, defaults(name))
    among = call(name, backward, dy, mixed, defaults(name))
    kept = np.ones(len(x), bool)
    kept[::97] = False
    np.testing.assert_array_equal(among[kept], alone[kept])
    for k, value in enumerate(beyond):
        chosen = dy[::97][k :: len(beyond)]
        want = call(name, backward, chosen, np.full_like(chosen, value), defaults(name))
        np.testing.assert_array_equal(among[::97][k :: len(beyond)], want)
    order = np.argsort(x)  # all that is alike side by side
    np.testing.assert_array_equal(
        call(name, backward, dy[order], x[order], defaults(name)), alone[order]
    )


@each
@floats
@directions
@pytest.mark.parametrize("tiny", ["dy", "x", "dy x"])
def test_tiny_numbers_have_the_same_bits_wherever_they_are(name, dtype, backward, tiny):
    """Kernels take a stretch with such numbers another way, once they know of it."""
    rng = np.random.default_rng(7)
    usual = rng.standard_normal((2, 100, 700)).astype(dtype)
    exponents = (-149, -50) if dtype == np.float32 else (-1074, -1010)
    small = np.ldexp(
        rng.choice([-1, 1], (2, 100)) * rng.uniform(1, 2, 100), rng.integers(*exponents, 100)
    )
    if dtype == np.float64:  # a hundredth of these is half of the least number, and a little
        small[:, :4] = np.array([50, -50, 150, -250]) * 2.0**-1074
    arrays = []
    for which, some, others in zip(("dy", "x"), small.astype(dtype), usual, strict=True):
        others[:, 600] = some if which in tiny.split() else others[:, 600]
        arrays.append(others)
    dy, x = arrays
    alone = call(name, backward, dy[:, 600].copy(), x[:, 600].copy(), defaults(name))
    dy, x = dy.ravel(), x.ravel()
    among = call(name, backward, dy, x, defaults(name))
    assert_same_bits(among.reshape(100, 700)[:, 600], alone)
    for at in range(2):
        own = [dy.copy(), x.copy()]
        call(name, backward, *own, defaults(name), out=own[at])
        assert_same_bits(own[at], among)
    few = slice(600, 700 * 40, 700)  # each known of before it is met
    some = [np.where(np.arange(len(x)) % 700 == 600, a, dtype(1)) for a in (dy, x)]
    assert_same_bits(call(name, backward, *some, defaults(name))[few], alone[:40])


@each
@kinds
@directions
@quiet
def test_at_the_largest_numbers_a_result_is_finite_where_the_exact_one_is(name, dtype, backward):
    largest = finfo(dtype).max
    x = np.array([largest, np.nextafter(largest, dtype(0)), largest / dtype(2)], dtype)
    x = np.concatenate([x, -x])
    got = call(name, backward, np.ones_like(x), x, defaults(name))
    exact = expected(name, backward, np.ones(len(x)), x.astype(np.float64), defaults(name))
    beyond = float(largest) * (1 + float(finfo(dtype).eps) / 4)  # rounds to infinity
    np.testing.assert_array_equal(np.isfinite(got), np.abs(exact) <= beyond)
    assert not np.isnan(got).any()


@each
@kinds
@directions
def test_a_nan_stays_a_nan_in_every_lane_and_alone(name, dtype, backward):
    length = 70  # more than four vectors of the widest, and a tail
    x = np.full((length, length), 1.5, dtype)
    np.fill_diagonal(x, np.nan)
    want = np.eye(length, dtype=bool)
    dy = np.ones_like(x)
    np.testing.assert_array_equal(np.isnan(call(name, backward, dy, x, defaults(name))), want)
    for row, nan in zip(x, want, strict=True):
        for part in (row, row[::-1], row[3:50]):
            got = np.isnan(call(name, backward, dy[0, : len(part)], part, defaults(name)))
            np.testing.assert_array_equal(got, np.isnan(part))
        assert nan.sum() == 1


def consecutive(dtype, count=512):
    """Rows of consecutive numbers in ascending order, around points of every magnitude."""
    word = {2: np.int16, 4: np.int32, 8: np.int64}[np.dtype(dtype).itemsize]
    rng = np.random.default_rng(22)
    centres = np.concatenate([rng.uniform(0, 40, 300), np.exp2(rng.uniform(-30, 7, 300))])
    centres = np.concatenate([centres, [0.5, 0.75, 1, 1.25, 2, 3, 6, 8.3, 13, 17.3, 37.6, 88, 104]])
    with np.errstate(all="ignore"):
        words = centres.astype(dtype).view(word)[:, np.newaxis].astype(np.int64)
    words = np.maximum(words + np.arange(count), 1)
    x = np.minimum(words, np.array(finfo(dtype).max, dtype).view(word)).astype(word).view(dtype)
    return np.concatenate([x, -x[:, ::-1]])


@each
@kinds
@quiet
def test_results_do_not_step_against_the_direction_of_the_function(name, dtype):
    """All of float32 is bench/accuracy.py's; in float64 a step back of one ULP is no surprise."""
    x = consecutive(dtype)
    y = call(name, False, None, x, defaults(name)).astype(np.float64)
    ends = x[:, [0, -1]].astype(np.float64)
    direction = np.sign(expected(name, True, np.ones_like(ends), ends, defaults(name)))
    rows = direction[:, 0] == direction[:, 1]
    steps = np.diff(y[rows]) * direction[rows, :1]
    allowed = np.spacing(np.abs(y[rows, :-1])) if dtype is np.float64 else 0.0
    assert not (steps < -allowed).any(), x[rows][:, :-1][steps < -allowed][:5]
    assert (steps > 0).any()


@each
@kinds
def test_a_nan_dy_passes_unless_a_branch_is_zero(name, dtype):
    x = np.array([-2.0, -1e-3, 0.0, 1e-3, 2.0], dtype)
    dy = np.full_like(x, np.nan)
    want = expected(name, True, dy.astype(np.float64), x.astype(np.float64), defaults(name))
    got = call(name, True, dy, x, defaults(name))
    np.testing.assert_array_equal(got.astype(np.float64), want)


# ---- the same bits ---------------------------------------------------------------------------


def layouts(x):
    """The values of a three-dimensional x in other memory."""
    yield "F order", np.asfortranarray(x)
    yield "transposed", np.ascontiguousarray(x.transpose(1, 2, 0)).transpose(2, 0, 1)
    wide = np.zeros((*x.shape[:-1], 3 * x.shape[-1]), x.dtype)
    wide[..., ::3] = x
    yield "strided", wide[..., ::3]
    yield "negative strides", np.ascontiguousarray(x[::-1, :, ::-1])[::-1, :, ::-1]
    large = np.zeros([n + 5 for n in x.shape], x.dtype)
    inner = large[2:-3, 1:-4, 3:-2]
    inner[...] = x
    yield "a slice", inner
    for offset in (1, x.itemsize):
        moved = np.ndarray(x.shape, x.dtype, bytearray(x.nbytes + offset), offset)
        moved[...] = x
        assert moved.flags.aligned == (offset > 1)
        yield f"offset by {offset} bytes", moved
    yield "byte-swapped", x.astype(x.dtype.newbyteorder("S"))


@each_once
@kinds
@directions
def test_same_bits_in_every_layout(name, dtype, backward):
    shape = (5, 33, 41)
    x, dy = (mixed(np.prod(shape), dtype, seed).reshape(shape) for seed in (3, 4))
    params = defaults(name)
    want = call(name, backward, dy, x, params)
    by_ufunc = call_ufunc(name, backward, dy, x, params)
    assert_same_bits(by_ufunc, want, "ufunc")
    for (label, view), (_, dy_view) in zip(layouts(x), layouts(dy), strict=True):
        for how in (call, call_ufunc):
            assert_same_bits(how(name, backward, dy_view, view, params), want, label)
        out = np.empty_like(view, dtype=dtype)
        assert call(name, backward, dy, view, params, out=out) is out
        assert_same_bits(out, want, f"out= for {label}")
        target = view.copy() if label == "byte-swapped" else view
        result = call(name, backward, dy, target, params, out=target)
        assert result is target
        assert_same_bits(target.astype(dtype), want, f"in place, {label}")
    row, dy_row = x[0, 0], dy[0, 0]
    got = call(
        name, backward, np.broadcast_to(dy_row, (9, 41)), np.broadcast_to(row, (9, 41)), params
    )
    assert_same_bits(got, np.broadcast_to(want[0, 0], (9, 41)), "broadcast")


@each
@kinds
@directions
def test_same_bits_at_every_length(name, dtype, backward):
    x, dy = mixed(1100, dtype, 5), mixed(1100, dtype, 6)
    want = call(name, backward, dy, x, defaults(name))
    for n in (*range(71), *range(1000, 1101)):
        for start in (0, 1100 - n):
            part = slice(start, start + n)
            got = call(name, backward, dy[part], x[part], defaults(name))
            assert_same_bits(got, want[part], f"{n} from {start}")


@each_once
@kinds
@directions
def test_same_bits_for_every_thread_count(name, dtype, backward):
    x, dy = mixed(LARGE, dtype, 7), mixed(LARGE, dtype, 8)
    params = defaults(name)
    with fa.num_threads(1):
        want = call(name, backward, dy, x, params)
    assert_same_bits(call(name, backward, dy[:999], x[:999], params), want[:999])
    for threads in (2, 3):
        with fa.num_threads(threads):
            assert_same_bits(call(name, backward, dy, x, params), want, f"{threads} threads")
            assert_same_bits(call(name, backward, dy[::-1], x[::-1], params), want[::-1])
            assert_same_bits(call_ufunc(name, backward, dy, x, params), want)
            inplace = x.copy()
            call(name, backward, dy, inplace, params, out=inplace)
            assert_same_bits(inplace, want)


@with_parameters(NAMES[1], *LEARNED, NAMES[-1])
@kinds
@directions
def test_results_that_are_written_past_the_cache_have_the_same_bits(name, dtype, backward):
    """More data than half of the last cache: the drivers write it with streaming stores."""
    x, dy = mixed(4099, dtype, 23), mixed(4099, dtype, 24)
    want = call(name, backward, dy, x, defaults(name))
    n = fa.config()["llc_bytes"] // (4 * x.itemsize) + 1021
    if n * x.itemsize > 2**28:
        pytest.skip("a last cache of more than a GiB")
    x, dy, want = (np.resize(a, n) for a in (x, dy, want))
    assert_same_bits(call(name, backward, dy, x, defaults(name)), want)
    buffer = np.empty((n + 9) * x.itemsize, np.uint8)
    for offset in (1, x.itemsize, 3 * x.itemsize):  # the ends are odd, and the middle is streamed
        out = buffer[offset : offset + n * x.itemsize].view(dtype)
        for threads in (1, 2):
            out[:] = 0
            with fa.num_threads(threads):
                call(name, backward, dy, x, defaults(name), out=out)
            assert_same_bits(out, want, f"offset {offset}, {threads} threads")


@with_parameters(*few_again(SCALAR + LEARNED))
@kinds
@directions
@quiet
@pytest.mark.parametrize("shape", [(7, 1, 1), (1, 1, 45), (7, 1, 45), (3, 7, 33, 45), (45,), ()])
def test_array_parameters_give_the_bits_of_scalar_ones(name, dtype, backward, shape):
    x, dy = (mixed(3 * 7 * 33 * 45, dtype, s).reshape(3, 7, 33, 45) for s in (9, 10))
    value = np.random.default_rng(0).choice([0.01, 0.3, 1.7], shape)
    count = len(fa.activations[name].parameters)
    got = call(name, backward, dy, x, (value,) * count)
    assert got.dtype == dtype
    full = np.broadcast_to(value, x.shape)
    for number in np.unique(value):
        where = full == number
        want = call(name, backward, dy, x, (float(number),) * count)
        assert_same_bits(got[where], want[where], f"{number}")
    for threads in (1, 2):
        with fa.num_threads(threads):
            assert_same_bits(call_ufunc(name, backward, dy, x, (value,) * count), got, "ufunc")
            spread = [np.ascontiguousarray(full)] * count
            assert_same_bits(call(name, backward, dy, x, spread), got, "contiguous parameters")
    single = value.astype(np.float32)
    by_single = call(name, backward, dy, x, (single,) * count)
    wide = call(name, backward, dy, x, (single.astype(np.float64),) * count)
    assert_same_bits(by_single, wide, "f32")


@with_parameters(*SCALAR, *LEARNED)
def test_parameters_broadcast_x(name):
    x, value = np.linspace(-2, 2, 5, dtype=np.float32)[:, None], np.array([0.1, 0.5, 2.0])
    function = fa.activations[name]
    count = len(function.parameters)
    got = function(x, *[value] * count)
    assert got.shape == (5, 3)
    for k, number in enumerate(value):
        assert_same_bits(got[:, k], function(x[:, 0], *[float(number)] * count))


# ---- as NumPy's own --------------------------------------------------------------------------


@each
def test_the_ufuncs_are_genuine(name):
    function = fa.activations[name]
    for ufunc, inputs in ((function.ufunc, 1), (function.backward.ufunc, 2)):
        assert isinstance(ufunc, np.ufunc)
        assert ufunc.nin == inputs + len(function.parameters)
        assert "not supported" not in str(ufunc.types)
        assert {kind[0] for kind in ufunc.types} == {"e", "f", "d"}


@each
def test_dtypes_in_and_out(name):
    function, params = fa.activations[name], defaults(name)
    single = [bool, np.int8, np.uint8, np.int16, np.uint16, np.float32]
    double = [np.int32, np.uint32, np.int64, np.uint64, np.float64]
    for dtypes, result in ((single, np.float32), (double, np.float64)):
        for dtype in dtypes:
            x = np.arange(2000).astype(dtype)
            want = function(x.astype(result), *params)
            assert_same_bits(function(x, *params), want, str(dtype))
            assert_same_bits(function.ufunc(x, *params), want, str(dtype))
            gradient = call(name, True, x, x, params)
            assert_same_bits(gradient, call(name, True, x.astype(result), x.astype(result), params))
    assert call(name, True, np.float32([1]), np.float64([1]), params).dtype == np.float64
    for dtype in (np.longdouble, np.complex64, object, "S3", "U3", "m8[s]", "M8[s]"):
        with pytest.raises(TypeError):
            function(np.zeros(3, dtype), *params)
        with pytest.raises(TypeError):
            function.backward(np.zeros(3, dtype), np.zeros(3, dtype), *params)


@each
def test_dtype_casting_and_order_arguments(name):
    function, params = fa.activations[name], defaults(name)
    x = np.linspace(-3, 3, 60, dtype=np.float32).reshape(4, 15)
    wide = function(x.astype(np.float64), *params)
    for how in (function, function.ufunc):
        assert_same_bits(how(x, *params, dtype=np.float64), wide)
        assert_same_bits(how(x.astype(np.float64), *params, dtype="f4", casting="same_kind"),
                         function(x, *params))  # fmt: skip
        with pytest.raises(TypeError):
            how(x.astype(np.float64), *params, dtype="f4", casting="safe")
        out = np.empty(x.shape, np.float32)
        assert_same_bits(how(x.astype(np.float64), *params, out=out), wide.astype(np.float32))
        with pytest.raises(TypeError):
            how(x.astype(np.float64), *params, out=out, casting="safe")
        with pytest.raises(TypeError):
            how(x, *params, out=np.empty(x.shape, np.int32))
        for array, order in ((x, "K"), (x.T, "K"), (x, "F"), (x.T, "C"), (x[:, ::-1], "A")):
            got, like = how(array, *params, order=order), np.tanh(array, order=order)
            assert got.strides == like.strides, order
        moved = np.empty((3, 4, 5), np.float32).transpose(1, 2, 0)
        moved[...] = 1.0
        assert how(moved, *params).strides == np.tanh(moved).strides


@each
def test_scalars_empty_arrays_and_lists(name):
    function, params = fa.activations[name], defaults(name)
    for value in (np.float32(1.5), np.array(1.5, np.float32), 1.5, np.float64(1.5), 1, True):
        like = np.tanh(value)
        got = function(value, *params)
        gradient = call(name, True, value, value, params)
        kind = like.dtype.type if like.dtype.itemsize > 2 else np.float32
        assert type(got) is kind
        assert type(gradient) is kind
    for shape in ((0,), (0, 3), (3, 0, 2)):
        x = np.empty(shape, np.float32)
        assert function(x, *params).shape == shape
        assert call(name, True, x, x, params).shape == shape
    assert_same_bits(function([1.0, -2.0], *params), function(np.array([1.0, -2.0]), *params))
    out = np.zeros((), np.float32)
    assert function(np.float32(1.5), *params, out=out) is out
    assert out == function(np.float32(1.5), *params)


@each
@directions
def test_where_leaves_the_rest_alone(name, backward):
    params = defaults(name)
    if backward and name in LEARNED:
        pytest.skip("a learned parameter's gradient takes out= only")
    x, dy = mixed(5000, np.float32, 11), mixed(5000, np.float32, 12)
    mask = np.random.default_rng(0).random(5000) < 0.7
    want = np.where(mask, call(name, backward, dy, x, params), np.float32(7.0))
    for how in (call, call_ufunc):
        out = np.full_like(x, 7.0)
        assert how(name, backward, dy, x, params, out=out, where=mask) is out
        assert_same_bits(out, want)


@each
@directions
@pytest.mark.parametrize("size", [40, 5000])
def test_overlapping_output_is_as_if_copied(name, backward, size):
    params = defaults(name)
    for ahead in (True, False):
        for strided in (False, True):
            buffer = mixed(2 * size + 2, np.float32, 13)
            step = 2 if strided else 1
            first, second = buffer[:-2:step], buffer[2::step]
            x, out = (first, second) if ahead else (second, first)
            dy = mixed(len(x), np.float32, 14)
            want = call(name, backward, dy, x.copy(), params)
            got = call(name, backward, dy, x, params, out=out)
            assert got is out
            assert_same_bits(out, want)
    if backward:
        buffer, x = mixed(size + 1, np.float32, 15), mixed(size, np.float32, 16)
        want = call(name, True, buffer[1:].copy(), x, params)
        call(name, True, buffer[1:], x, params, out=buffer[:-1])
        assert_same_bits(buffer[:-1], want)


class Sub(np.ndarray):
    """A subclass without opinions: it comes back."""


class Counting:
    """An array-like that takes ufuncs over."""

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        return ufunc, method, len(inputs), kwargs


class Wrapped:
    def __array__(self, dtype=None, copy=None):
        return np.ones(3, np.float32)

    def __array_wrap__(self, array, context=None, return_scalar=False):
        return "wrapped", array


@each
def test_subclasses_and_array_protocols(name):
    function, params = fa.activations[name], defaults(name)
    x = np.linspace(-1, 1, 9, dtype=np.float32)
    got = function(x.view(Sub), *params)
    assert type(got) is Sub
    assert_same_bits(got.view(np.ndarray), function(x, *params))
    assert type(function(x.view(Sub), *params, subok=False)) is np.ndarray
    assert function(Counting(), *params)[:2] == (function.ufunc, "__call__")
    assert function(Wrapped(), *params)[0] == "wrapped"
    masked = function(np.ma.masked_array(x, x < 0), *params)
    assert isinstance(masked, np.ma.MaskedArray)
    assert (masked.mask == (x < 0)).all()
    if name not in LEARNED:
        assert function.backward(Counting(), x, *params)[0] is function.backward.ufunc
        assert type(function.backward(x.view(Sub), x, *params)) is Sub


# ---- parameters ------------------------------------------------------------------------------


@with_parameters(*SCALAR, *LEARNED)
@directions
def test_parameters_never_promote_and_go_by_position_or_keyword(name, backward):
    function = fa.activations[name]
    parameters = list(function.parameters)
    x, dy = mixed(500, np.float32, 17), mixed(500, np.float32, 18)
    data = (dy, x) if backward else (x,)
    target = function.backward if backward else function

    def first(result):
        return result[0] if isinstance(result, tuple) else result

    want = first(target(*data, *[2.0] * len(parameters)))
    assert want.dtype == np.float32
    for value in (2, np.float64(2), np.float32(2), np.array(2.0), np.int64(2), np.array([2.0])):
        by_name = target(*data, **dict.fromkeys(parameters, value))
        for got in (target(*data, *[value] * len(parameters)), by_name):
            assert_same_bits(first(got), want, repr(value))
    out = np.empty_like(x)
    target(*data, **dict.fromkeys(parameters, 2.0), out=out)
    assert_same_bits(out, want)
    if None not in function.parameters.values():
        assert_same_bits(target(*data), target(*data, *function.parameters.values()))


@with_parameters(*SCALAR, *LEARNED)
def test_a_parameter_keeps_all_its_digits(name):
    x, dy = mixed(20_000, np.float32, 19), mixed(20_000, np.float32, 20)
    finite = np.isfinite(x) & np.isfinite(dy) & (np.abs(dy) < 1e30)
    numbers = (0.1, 0.3)[: len(fa.activations[name].parameters)]
    assert float(np.float32(numbers[0])) > numbers[0]
    # where a parameter is a threshold, only x on either side of it tells
    edges = np.repeat(np.float32([*numbers, *[-p for p in numbers]]), 100)
    x, dy = np.concatenate([x[finite], edges]), np.concatenate([dy[finite], np.ones_like(edges)])
    found = 0
    for backward in (False, True):
        exact, other = (
            expected(name, backward, dy, x, [float(kind(p)) for p in numbers]).astype(np.float32)
            for kind in (np.float64, np.float32)
        )
        differ = exact != other
        found += differ.sum()
        for kind in (float, np.float64, np.array, lambda p: np.full(len(x), p)):
            got = call(name, backward, dy, x, [kind(p) for p in numbers])
            assert not differ.any() or np.mean(got[differ] == exact[differ]) > 0.99
        by_float32 = call(name, backward, dy, x, [np.float32(p) for p in numbers])
        assert not differ.any() or np.mean(by_float32[differ] == other[differ]) > 0.99
    assert found >= 100


@each
def test_bad_arguments_are_refused_by_name(name):
    function, x = fa.activations[name], np.ones(3, np.float32)
    params = defaults(name)
    with pytest.raises(TypeError, match="colour"):
        function(x, *params, colour=1)
    with pytest.raises(TypeError, match="colour"):
        function.backward(x, x, *params, colour=1)
    with pytest.raises(TypeError, match="x"):
        function()
    with pytest.raises(TypeError, match="dy"):
        function.backward()
    if params:
        (parameter, *_) = function.parameters
        for bad in ("0.1", b"1", 1j):
            with pytest.raises(TypeError, match=parameter):
                function(x, bad, *params[1:])
        with pytest.raises(TypeError, match=parameter):
            function(x, *params, **{parameter: 0.5})
    else:
        with pytest.raises(TypeError):
            function(x, 0.5)
    if None in function.parameters.values():
        for target, data in ((function, (x,)), (function.backward, (x, x))):
            with pytest.raises(TypeError, match=parameter):
                target(*data)
    with pytest.raises(ValueError, match=r"broadcast|shape"):
        function.backward(np.ones(4, np.float32), x, *params)
    frozen = np.ones(3, np.float32)
    frozen.flags.writeable = False
    for out in (frozen, np.ones(4, np.float32)):
        with pytest.raises(ValueError):  # noqa: PT011 - NumPy's own words
            function(x, *params, out=out)
        with pytest.raises(ValueError):  # noqa: PT011
            function.backward(x, x, *params, out=out)


SHAPES = [
    ((3, 4, 5, 6), ()),
    ((3, 4, 5, 6), (1,)),
    ((3, 4, 5, 6), (4, 1, 1)),
    ((3, 4, 5, 6), (6,)),
    ((3, 4, 5, 6), (3, 1, 1, 1)),
    ((3, 4, 5, 6), (3, 1, 5, 1)),
    ((3, 4, 5, 6), (4, 1, 6)),
    ((3, 4, 5, 6), (3, 4, 5, 6)),
    ((5000, 3), (3,)),
    ((2, 3, 2100), (3, 1)),
    ((0, 4), (4,)),
    ((9,), ()),
]


@with_parameters(*LEARNED)
@floats
@pytest.mark.parametrize(("shape", "weight_shape"), SHAPES)
def test_the_gradient_of_a_learned_parameter_has_its_shape(name, dtype, shape, weight_shape):
    rng = np.random.default_rng(21)
    x, dy = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    weight = rng.uniform(-1, 1, weight_shape).astype(dtype)
    result = fa.activations[name].backward(dy, x, weight)
    assert type(result) is tuple
    dx, gradient = result
    want_dx, want = reference.activations[name][1](dy, x, weight)
    assert dx.shape == shape
    assert np.shape(gradient) == weight_shape
    assert dx.dtype == gradient.dtype == dtype
    unit = np.finfo(dtype).eps
    assert (np.abs(dx - want_dx) <= unit * np.abs(want_dx)).all()
    _, terms = reference.activations[name][1](np.abs(dy), -np.abs(x), weight)
    bound = unit * np.abs(want) + 8 * np.finfo(np.float64).eps * np.abs(terms)
    assert (np.abs(gradient - want) <= bound).all()
    for threads in (1, 2):
        with fa.num_threads(threads):
            again = fa.activations[name].backward(dy, np.asfortranarray(x), weight)
        assert_same_bits(again[0], dx)
        assert_same_bits(again[1], gradient)
    for other in (dy, x):  # over an input: the parameter's gradient must be read first
        a, b = dy.copy(), x.copy()
        target = a if other is dy else b
        out, again = fa.activations[name].backward(a, b, weight, out=target)
        assert out is target
        assert_same_bits(out, dx)
        assert_same_bits(again, gradient)


# ---- silence ---------------------------------------------------------------------------------


@each
@kinds
@directions
def test_no_warning_and_no_flag(name, dtype, backward):
    hard = hard_values(dtype)
    x = np.resize(hard, LARGE)
    dy = np.resize(np.concatenate([hard[np.isfinite(hard)], [1.0, 1e-30]]).astype(dtype), LARGE)
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        for params in settings(name):
            for n in (1, len(hard), LARGE):
                for threads in (1, 2):
                    with fa.num_threads(threads):
                        call(name, backward, dy[:n], x[:n], params)
                        call_ufunc(name, backward, dy[:n:2], x[:n:2], params)
            call(name, backward, dy[:9], np.arange(-4, 5, dtype=np.int8), params)
            call(name, backward, dy[0], x[0], params)


@with_parameters(*LEARNED)
def test_an_overflowing_gradient_of_a_parameter_is_silent(name):
    x = np.full(9, -3e38, np.float32)
    with np.errstate(all="raise"):
        gradient = fa.activations[name].backward(-x, x, np.float32(0.5))[1]
    assert gradient == -np.inf


# ---- objects ---------------------------------------------------------------------------------


@each
def test_pickle_and_copy(name):
    function = fa.activations[name]
    for thing in (function, function.backward, function.ufunc, function.backward.ufunc):
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            assert pickle.loads(pickle.dumps(thing, protocol)) is thing
        assert copy.copy(thing) is thing
        assert copy.deepcopy([thing])[0] is thing


def test_pickles_open_in_another_process():
    things = [(f, f.backward, f.ufunc, f.backward.ufunc) for f in fa.activations.values()]
    code = f"import pickle; print([a.name for a, *_ in pickle.loads({pickle.dumps(things)!r})])"
    assert python(code) == (0, str(NAMES), "")


@each
def test_attributes(name):
    function = fa.activations[name]
    assert getattr(fa, name) is function
    assert function.name == function.__name__ == name
    assert name in fa.__all__
    assert name in repr(function)
    assert name in repr(function.backward)
    for text in (function.formula, function.source):
        assert text
        assert text in function.__doc__
    assert function.formula in function.backward.__doc__
    assert function.formula in function.ufunc.__doc__
    assert 0.5 <= function.max_ulp <= 0.51
    with pytest.raises(TypeError):
        function.parameters["new"] = 1.0
    with pytest.raises(TypeError):
        fa.activations["new"] = function
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.name in function.parameters]
    empty = inspect.Parameter.empty
    assert {p.name: None if p.default is empty else p.default for p in own} == function.parameters
    bound = inspect.signature(function.backward).bind(1, 2, *defaults(name))
    assert list(bound.arguments) == ["dy", "x", *function.parameters]
    assert "out" in signature.parameters


def test_the_table_and_the_reference_list_the_same():
    assert list(fa.activations) == list(reference.activations) == list(oracle.definitions)
    assert list(fa.gated) == list(reference.gated) == list(oracle.gated_definitions)
    for name, function in fa.activations.items():
        accepted = list(inspect.signature(reference.activations[name][0]).parameters.values())[1:]
        assert [p.name for p in accepted] == list(function.parameters)
        given = [None if p.default is p.empty else p.default for p in accepted]
        assert given == list(function.parameters.values())
    assert LEARNED
    assert SCALAR
    assert PLAIN


# ---- docstrings ------------------------------------------------------------------------------


def documented():
    for name, function in [*fa.activations.items(), *fa.gated.items()]:
        yield name, function.__doc__
        yield f"{name}.backward", function.backward.__doc__
    for name in fa.__all__:
        thing = getattr(fa, name)
        if inspect.isclass(thing) or (callable(thing) and name not in [*NAMES, *fa.gated]):
            yield name, thing.__doc__
    for module in (fa, reference, _normalization):
        yield module.__name__, module.__doc__


@pytest.mark.parametrize(("where", "text"), list(documented()))
def test_the_examples_in_docstrings_run(where, text, capsys):
    assert text
    assert text.strip()
    names = vars(reference).copy() if where == reference.__name__ else {}
    test = doctest.DocTestParser().get_doctest(text, names, where, where, 0)
    result = doctest.DocTestRunner(verbose=False).run(test)
    assert result.failed == 0, capsys.readouterr().out


def test_the_public_functions_have_examples():
    without = [w for w, text in documented() if ">>>" not in text]
    classes = {"Activation", "BatchNormContext", "BatchNormGradients", "show_config"}
    assert set(without) <= classes | {_normalization.__name__}


@pytest.mark.parametrize("name", [*NAMES, *fa.gated])
def test_reduce_and_accumulate_chain_their_elements(name):
    """NumPy runs a two-input ufunc's loop with the output as the next input."""
    both = {**fa.activations, **fa.gated}[name]
    for ufunc in (both.ufunc, both.backward.ufunc):
        if (ufunc.nin, ufunc.nout) != (2, 1):
            continue
        x = np.array([-1.5, -2.0, 0.5, -0.25, -3.0] * 7)
        want = [x[0]]
        for value in x[1:]:
            want.append(ufunc(want[-1], value))
        assert_same_bits(ufunc.reduce(x), want[-1])
        assert_same_bits(ufunc.accumulate(x), np.array(want))


@pytest.mark.parametrize("name", LEARNED)
def test_a_learned_gradient_allocates_no_array_of_the_size_of_x_but_dx(name):
    x = np.ones(1 << 20, np.float32)
    tracemalloc.start()
    try:
        fa.activations[name].backward(x, x, 0.25)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.1 * x.nbytes
