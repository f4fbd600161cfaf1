"""BatchNorm: exact, fused equal to unfused bit for bit, and the same bits by every way."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest
from conftest import (
    LEARNED,
    NAMES,
    PLAIN,
    SCALAR,
    assert_same_bits,
    each,
    each_once,
    error_in_ulp,
    expected,
    floats,
    given,
    kinds,
    quiet,
)

import fastact as fa
from fastact import reference

SHAPES = [
    ((7, 3), 1),
    ((3, 7), 0),
    ((5, 17, 6), 1),
    ((5, 6, 33), -1),
    ((2, 15, 5, 7), 1),
    ((4, 5, 3, 16), 3),
    ((6, 2, 3, 4), 0),
    ((2, 3, 4, 5, 6), 2),
]
COUNTS = [2, 3, 15, 16, 17, 1023, 1024, 1025, 5000]
CHANNELS = [1, 3, 15, 16, 17, 33]


def data(shape, dtype, seed=0, offset=0.5):
    return (np.random.default_rng(seed).standard_normal(shape) * 1.5 + offset).astype(dtype)


def options(name, channels, dtype, array=True):
    """Keyword arguments that fuse an activation, a learned parameter with a value a channel."""
    if name not in LEARNED:
        return {"activation": name, "activation_params": given(name)}
    (parameter,) = fa.activations[name].parameters
    value = np.linspace(-0.5, 0.7, channels).astype(dtype) if array else dtype(0.3)
    return {"activation": name, "activation_params": {parameter: value}}


def affine(channels, dtype):
    weight = np.linspace(-1.5, 2.0, channels) + 0.1
    return {"weight": weight.astype(dtype), "bias": np.linspace(-1, 1, channels).astype(dtype)}


def columns(values, ndim, axis):
    """Values of shape (C,) so that they broadcast along the channel axis."""
    shape = [1] * ndim
    shape[axis] = -1
    return np.reshape(values, shape)


def layouts(x):
    yield "C", np.ascontiguousarray(x)
    yield "F", np.asfortranarray(x)
    yield "channels last", np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    wide[..., ::2] = x
    yield "strided", wide[..., ::2]
    yield "negative", np.ascontiguousarray(x[::-1])[::-1]
    large = np.zeros([n + 3 for n in x.shape], x.dtype)
    inner = large[tuple(slice(1, n + 1) for n in x.shape)]
    inner[...] = x
    yield "slice", inner
    moved = np.ndarray(x.shape, x.dtype, bytearray(x.nbytes + 1), 1)
    moved[...] = x
    yield "misaligned", moved


def same_gradients(got, want, message=""):
    for field in ("x", "weight", "bias"):
        a, b = getattr(got, field), getattr(want, field)
        assert (a is None) == (b is None), field
        if a is not None:
            assert_same_bits(a, b, f"{message} {field}")
    assert (got.activation_params is None) == (want.activation_params is None)
    for key in got.activation_params or {}:
        assert_same_bits(got.activation_params[key], want.activation_params[key], key)


# ---- against the reference -------------------------------------------------------------------


def close(got, want, scale, dtype, factor):
    bound = factor * np.finfo(dtype).eps * (np.abs(want) + scale) + np.finfo(dtype).tiny
    bad = ~(np.abs(got - want) <= bound)
    assert not bad.any(), (np.asarray(got)[bad][:4], np.asarray(want)[bad][:4])


@each
@floats
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("training", [True, False])
def test_forward_and_backward_agree_with_the_reference(name, dtype, shape, axis, training):
    channels = shape[axis]
    x, dy = data(shape, dtype), data(shape, dtype, 1)
    for array, extra in ((True, affine(channels, dtype)), (False, {})):
        extra = {**extra, **options(name, channels, dtype, array), "axis": axis}
        if not training:
            extra["running_mean"] = np.linspace(-1, 1, channels).astype(dtype)
            extra["running_var"] = np.linspace(0.3, 2, channels).astype(dtype)
        y, ctx = fa.batch_norm_forward(x, training=training, **extra)
        want, want_ctx = reference.batch_norm_forward(x, training=training, round_to=dtype, **extra)
        assert y.dtype == dtype
        assert ctx.count == x.size // channels
        close(ctx.mean, want_ctx.mean, 1.0, np.float64, 4)
        close(ctx.var, want_ctx.var, 0.0, np.float64, 16)
        plain = {key: extra[key] for key in extra if not key.startswith("activation")}
        z, _ = reference.batch_norm_forward(x, training=training, round_to=dtype, **plain)
        params = [columns(p, x.ndim, axis) for p in extra["activation_params"].values()]
        slope = expected(name, True, np.ones_like(z), z, params)
        # float32: both sides have the same rounded z; float64: z itself may be a few ULP off
        close(y, want, 1.0 + np.abs(z * slope) if dtype is np.float64 else 0.0, dtype, 8)
        got = fa.batch_norm_backward(dy, ctx)
        exact = reference.batch_norm_backward(dy, want_ctx)
        size = 8 * max(np.abs(dy).max(), np.abs(dy * slope).max())
        close(got.x, exact.x, size, dtype, 4)
        for field in ("weight", "bias"):
            if getattr(exact, field) is None:
                assert getattr(got, field) is None
            else:
                close(getattr(got, field), getattr(exact, field), size * ctx.count, dtype, 4)
        assert got.residual is None
        if name in LEARNED:
            (key,) = extra["activation_params"]
            total, want = got.activation_params[key], exact.activation_params[key]
            assert total.shape == want.shape == np.shape(extra["activation_params"][key])
            close(total, want, size * x.size, dtype, 4)
        else:
            assert got.activation_params is None


@quiet
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("offset", [0.0, 1e4, 1e6])
def test_float32_z_is_within_one_ulp_of_the_exact_normalisation(count, channels, offset):
    x = data((count, channels), np.float32, count, offset)
    want, _ = reference.batch_norm_forward(x)
    for array in (x, np.asfortranarray(x)):
        got, ctx = fa.batch_norm_forward(array)
        assert (error_in_ulp(got, want) <= 1.0).all()
    if count < 2000:
        mean, var = reference.exact_stats(x)
        assert (np.abs(ctx.mean - mean) <= 2 * np.spacing(np.abs(x).max().astype(float))).all()
        assert (np.abs(ctx.var - var) <= 1e-13 * var).all()


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e6])
def test_float64_statistics_are_exact(offset):
    x = data((3000, 3), np.float64, 2, offset)
    mean, var = reference.exact_stats(x)
    for array in (x, np.asfortranarray(x)):
        _, ctx = fa.batch_norm_forward(array)
        assert (np.abs(ctx.mean - mean) <= np.spacing(np.abs(mean))).all()
        assert (np.abs(ctx.var - var) <= 1e-14 * var).all()


@pytest.mark.parametrize("name", [None, *NAMES])
def test_gradients_by_finite_differences(name):
    shape, step = (6, 3), 1e-6
    x, dy = data(shape, np.float64, 3), data(shape, np.float64, 4)
    extra = affine(3, np.float64) | (options(name, 3, np.float64) if name else {})

    def loss(**change):
        given = {"x": x, **extra, **change}
        return np.sum(dy * fa.batch_norm(given.pop("x"), training=True, **given))

    grads = fa.batch_norm_backward(dy, fa.batch_norm_forward(x, **extra)[1])
    for field in ("x", "weight", "bias"):
        value, gradient = {"x": x, **extra}[field], getattr(grads, field)
        for at in np.ndindex(value.shape):
            up, down = value.copy(), value.copy()
            up[at] += step
            down[at] -= step
            slope = (loss(**{field: up}) - loss(**{field: down})) / (2 * step)
            assert abs(slope - gradient[at]) < 1e-6 * (1 + abs(slope)), (field, at)


# ---- fused equals unfused --------------------------------------------------------------------


@each
@kinds
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("shape", "axis"), [((3000, 17), 1), ((3, 17, 20, 19), 1), ((2, 3), 1)])
def test_fused_equals_unfused_bit_for_bit(name, dtype, training, shape, axis):
    channels = shape[axis]
    x, dy = data(shape, dtype, 5), data(shape, dtype, 6)
    function, fusion = fa.activations[name], options(name, channels, dtype)
    params = tuple(fusion.get("activation_params", {}).values())
    params = tuple(columns(p, x.ndim, axis) for p in params)
    extra = affine(channels, dtype)
    if not training:
        extra["running_mean"] = np.full(channels, 0.2, dtype)
        extra["running_var"] = np.full(channels, 1.3, dtype)
    z, z_ctx = fa.batch_norm_forward(x, training=training, axis=axis, **extra)
    y, ctx = fa.batch_norm_forward(x, training=training, axis=axis, **extra, **fusion)
    assert_same_bits(y, function(z, *params))
    g = function.backward(dy, z, *params)
    g, *weights = g if isinstance(g, tuple) else (g,)
    got, want = fa.batch_norm_backward(dy, ctx), fa.batch_norm_backward(g, z_ctx)
    for field in ("x", "weight", "bias"):
        assert_same_bits(getattr(got, field), getattr(want, field), field)
    for gradient, unfused in zip((got.activation_params or {}).values(), weights, strict=True):
        assert_same_bits(gradient, unfused.reshape(-1))


@each
@pytest.mark.parametrize("residual", [False, True])
def test_fused_equals_unfused_for_tiny_gradients(name, residual):
    rng = np.random.default_rng(3)
    x, extra = data((900, 17), np.float32, 5), options(name, 17, np.float32)
    dy = np.ldexp(rng.choice([-1, 0, 1, 1], x.shape), rng.integers(-149, -50, x.shape))
    dy[rng.random(x.shape) < 0.9] = 0.75
    dy = dy.astype(np.float32)
    params = tuple(columns(p, 2, 1) for p in extra.get("activation_params", {}).values())
    beside = {"residual": data(x.shape, np.float32, 8)} if residual else {}
    z = fa.batch_norm_forward(x, **beside)[0]
    _, ctx = fa.batch_norm_forward(x, **extra, **beside)
    g = fa.activations[name].backward(dy, z, *params)
    g = g[0] if isinstance(g, tuple) else g
    got, want = (
        fa.batch_norm_backward(dy, ctx),
        fa.batch_norm_backward(g, fa.batch_norm_forward(x)[1]),
    )
    assert_same_bits(got.x, want.x)
    if residual:
        assert_same_bits(got.residual, g)


# ---- the same bits ---------------------------------------------------------------------------


@each_once
@kinds
def test_same_bits_for_every_layout_and_thread_count(name, dtype):
    shape = (5, 19, 31, 33)
    x, dy = data(shape, dtype, 7), data(shape, dtype, 8)
    extra = affine(19, dtype) | options(name, 19, dtype)
    with fa.num_threads(1):
        y, ctx = fa.batch_norm_forward(x, **extra)
        want = fa.batch_norm_backward(dy, ctx)
    for threads in (1, 2):
        with fa.num_threads(threads):
            for (label, a), (_, b) in zip(layouts(x), layouts(dy), strict=True):
                got, ctx = fa.batch_norm_forward(a, **extra)
                assert_same_bits(got, y, label)
                same_gradients(fa.batch_norm_backward(b, ctx), want, label)
                out = np.empty_like(a)
                assert fa.batch_norm(a, training=True, out=out, **extra) is out
                assert_same_bits(out, y, label)
                b = b.copy()
                grads = fa.batch_norm_backward(b, ctx, out=b)
                assert grads.x is b
                same_gradients(grads, want, label)


@kinds
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("count", COUNTS)
def test_a_channel_has_its_bits_alone_and_among_others(dtype, channels, count):
    x, dy = data((count, channels), dtype, 9), data((count, channels), dtype, 10)
    y, ctx = fa.batch_norm_forward(x)
    dx = fa.batch_norm_backward(dy, ctx).x
    for c in {0, channels - 1}:
        alone, alone_ctx = fa.batch_norm_forward(np.ascontiguousarray(x[:, c : c + 1]))
        assert_same_bits(alone[:, 0], y[:, c])
        assert_same_bits(fa.batch_norm_backward(dy[:, c : c + 1], alone_ctx).x[:, 0], dx[:, c])


@each
@kinds
@pytest.mark.parametrize("channels", [300, 1104])
def test_rows_of_many_channels_have_the_bits_of_columns(name, dtype, channels):
    """Tiles of some rows of some channels, between which memory goes on."""
    x, dy = data((70, channels), dtype, 13), data((70, channels), dtype, 14)
    extra = affine(channels, dtype) | options(name, channels, dtype)
    want, want_ctx = fa.batch_norm_forward(np.asfortranarray(x), **extra)
    y, ctx = fa.batch_norm_forward(x, **extra)
    assert_same_bits(y, want)
    same_gradients(
        fa.batch_norm_backward(dy, ctx), fa.batch_norm_backward(np.asfortranarray(dy), want_ctx)
    )


def test_large_arrays_are_the_same_for_every_thread_count():
    x = data((8, 32, 64, 65), np.float32, 11)
    results = []
    for threads in (1, 2, 5):
        with fa.num_threads(threads):
            y, ctx = fa.batch_norm_forward(x, activation=NAMES[-1])
            results.append((y, fa.batch_norm_backward(x, ctx)))
    for y, grads in results[1:]:
        assert_same_bits(y, results[0][0])
        same_gradients(grads, results[0][1])


@kinds
@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])
def test_results_that_are_written_past_the_cache_have_the_same_bits(dtype, last):
    """More data than half of the last cache, which some channels alone are not."""
    itemsize = np.dtype(dtype).itemsize
    batches = fa.config()["llc_bytes"] // (4 * itemsize * 16 * 64 * 65) + 2
    if batches * 16 * 64 * 65 * itemsize > 2**28:
        pytest.skip("a last cache of more than a GiB")
    x, dy = data((61, 16, 64, 65), dtype, 12), data((61, 16, 64, 65), dtype, 13)
    x, dy = (np.resize(a, (batches, *a.shape[1:])) for a in (x, dy))
    if last:
        x, dy = (np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1) for a in (x, dy))
    for threads in (1, 2):
        with fa.num_threads(threads):
            y, ctx = fa.batch_norm_forward(x, activation=NAMES[-1])
            dx = fa.batch_norm_backward(dy, ctx).x
            for c in (0, 15):
                some = [np.ascontiguousarray(a[:, c : c + 1]) for a in (x, dy)]
                alone, alone_ctx = fa.batch_norm_forward(some[0], activation=NAMES[-1])
                assert_same_bits(alone[:, 0], y[:, c])
                assert_same_bits(fa.batch_norm_backward(some[1], alone_ctx).x[:, 0], dx[:, c])


def placed(shape, offset):
    """float32, that many bytes into a page."""
    size = 4 * int(np.prod(shape))
    room = np.empty(size + 8192, np.uint8)
    begin = -room.ctypes.data % 4096 + offset
    return room[begin : begin + size].view(np.float32).reshape(shape)


@pytest.mark.parametrize("channels", [512, 1024])
def test_results_past_the_cache_have_the_same_bits_wherever_they_lie(channels):
    """Rows of whole pages: results go through a buffer where they would get in the way of x."""
    rows = fa.config()["llc_bytes"] // (8 * channels) + 7
    if rows * channels > 2**26:
        pytest.skip("a last cache of more than 512 MiB")
    x, dy = (placed((rows, channels), offset) for offset in (16, 1040))
    x[:] = np.resize(data((61, channels), np.float32, 12), x.shape)
    dy[:] = np.resize(data((59, channels), np.float32, 13), x.shape)
    want = {}
    for offset in (0, 64, 256, 1024, 20):
        out = placed(x.shape, offset)
        y, ctx = fa.batch_norm_forward(x, activation=NAMES[-1], residual=dy, out=out)
        assert_same_bits(y, want.setdefault("y", y.copy()), f"{offset}")
        dx = fa.batch_norm_backward(dy, ctx, out=out).x
        assert_same_bits(dx, want.setdefault("dx", dx.copy()), f"{offset}")


# ---- traps -----------------------------------------------------------------------------------


@floats
@pytest.mark.parametrize("value", [0.0, 0.1, -3.7, 1e4 + 0.1, 1e30, 1e-40])
@pytest.mark.parametrize("count", [2, 17, 5000])
def test_a_constant_channel_gives_exactly_the_bias(dtype, value, count):
    x = np.full((count, 3), value, dtype)
    bias = np.array([0.3, -1.1, 0.0], dtype)
    for array in (x, np.asfortranarray(x)):
        y, ctx = fa.batch_norm_forward(array, weight=[1.0, 2.0, 3.0], bias=bias)
        np.testing.assert_array_equal(y, np.broadcast_to(bias, x.shape))
        np.testing.assert_array_equal(ctx.var, 0.0)


@floats
@pytest.mark.parametrize(("offset", "std"), [(5.0, 0.1), (1e4, 1.0), (1e6, 1.0), (1e30, 1e28)])
def test_large_offsets_do_not_cancel(dtype, offset, std):
    rng = np.random.default_rng(12)
    x = (offset + std * rng.standard_normal((4000, 2))).astype(dtype)
    y, ctx = fa.batch_norm_forward(x, eps=0.0)
    assert np.isfinite(y).all()
    want, _ = reference.batch_norm_forward(x, eps=0.0)
    assert np.abs(y - want).max() < 4 * np.finfo(dtype).eps * np.abs(want).max()
    assert (ctx.var > 0).all()


@floats
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_stay_in_their_channel(dtype, bad):
    x = data((2000, 17), dtype, 13)
    want, ctx = fa.batch_norm_forward(x)
    want_dx = fa.batch_norm_backward(x, ctx).x
    x = x.copy()
    x[1234, 4] = bad
    others = np.arange(17) != 4
    with np.errstate(all="raise"):
        y, ctx = fa.batch_norm_forward(x)
        dx = fa.batch_norm_backward(np.where(np.isfinite(x), x, 1).astype(dtype), ctx).x
    assert_same_bits(y[:, others], want[:, others])
    assert_same_bits(dx[:, others], want_dx[:, others])
    assert np.isnan(y[:, 4]).all()


@pytest.mark.parametrize("count", [1, 5, 17, 3000])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_infinities_with_constant_statistics_are_those_of_the_formula(dtype, axis, count):
    """float64 sums pairs of numbers, of which an infinity makes NaN."""
    rng = np.random.default_rng(1)
    x, dy = (rng.standard_normal((count, 6)).astype(dtype) for _ in range(2))
    x[count // 2, :4] = dy[0, 2:] = [np.inf, -np.inf, np.nan, np.inf]
    x, dy = (np.ascontiguousarray(a.T) if axis == 0 else a for a in (x, dy))
    mean = np.zeros(6)
    keywords = {"running_mean": mean, "running_var": mean + 1, "bias": mean + 0.5}
    keywords["weight"] = np.float64([1, -2, 3] * 2)
    results = []
    for module in fa, reference:
        with np.errstate(all="ignore"):
            y, ctx = module.batch_norm_forward(x, training=False, axis=axis, **keywords)
            grads = module.batch_norm_backward(dy, ctx)
        results += [(y, grads.x, grads.weight, grads.bias)]
    for got, want in zip(*results, strict=True):
        special = ~np.isfinite(want)
        assert special.any()
        assert np.isfinite(got[~special]).all()
        assert np.array_equal(got[special], want[special], equal_nan=True)


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("count", [1, 5, 17, 3000])
@pytest.mark.parametrize("bad", [np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_the_gradient_of_a_learned_parameter_sums_infinities(dtype, bad, count, name):
    x = np.linspace(-1, 2, count).astype(dtype)
    dy = np.full(count, -2, dtype)
    x[count // 2] = bad
    with np.errstate(all="ignore"):
        want = reference.activations[name][1](dy, x, 0.25)[1]
    got = fa.activations[name].backward(dy, x, 0.25)[1]
    assert np.isfinite(got) == np.isfinite(want)
    assert np.isfinite(want) or np.array_equal(got, want, equal_nan=True)


# ---- running statistics and the context ------------------------------------------------------


@floats
@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
def test_running_statistics_are_updated_in_place(dtype, momentum):
    x = data((50, 3), dtype, 14)
    mean, var = np.array([1.0, 2.0, 3.0], dtype), np.array([4.0, 5.0, 6.0], dtype)
    old_mean, old_var = mean.copy(), var.copy()
    fa.batch_norm(x, running_mean=mean, running_var=var, training=True, momentum=momentum)
    wide = x.astype(np.float64)
    rtol = 2 * np.finfo(dtype).eps
    want = (1 - momentum) * old_mean + momentum * wide.mean(0)
    np.testing.assert_allclose(mean, want, rtol=rtol, atol=rtol)
    want = (1 - momentum) * old_var + momentum * wide.var(0, ddof=1)
    np.testing.assert_allclose(var, want, rtol=rtol, atol=rtol)
    kept = mean.copy(), var.copy()
    fa.batch_norm(x, running_mean=mean, running_var=var)
    assert_same_bits(mean, kept[0])
    assert_same_bits(var, kept[1])


def test_the_context_is_immutable_and_reusable():
    x, dy = data((20, 3), np.float32), data((20, 3), np.float32, 1)
    weight = np.ones(3, np.float32)
    y, ctx = fa.batch_norm_forward(x, weight=weight)
    first = fa.batch_norm_backward(dy, ctx)
    with pytest.raises(dataclasses.FrozenInstanceError):
        ctx.count = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.x = None
    for array in (ctx.mean, ctx.var):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    weight[:] = 100.0  # a copy is kept
    y[:] = 0.0
    same_gradients(fa.batch_norm_backward(dy, ctx), first)
    assert ctx.x.base is x


def test_in_evaluation_the_output_may_be_the_input():
    x = data((20, 3), np.float32)
    running = {"running_mean": np.zeros(3), "running_var": np.full(3, 2.0)}
    want = fa.batch_norm(x, **running)
    assert fa.batch_norm(x, out=x, **running) is x
    assert_same_bits(x, want)


# ---- found by review, each once wrong --------------------------------------------------------


@pytest.mark.parametrize("channels", [17, 33, 70])
def test_float64_sums_that_cancel_have_the_same_bits_in_every_layout(channels):
    x = data((127, channels), np.float64, 5)
    dy, weight = np.full_like(x, 0.37), np.ones(channels)
    found = []
    for order in (np.ascontiguousarray, np.asfortranarray):
        _, ctx = fa.batch_norm_forward(order(x), weight=weight, bias=weight)
        grads = fa.batch_norm_backward(order(dy), ctx)
        found.append((grads.x, grads.weight, grads.bias))
    for a, b in zip(*found, strict=True):
        assert_same_bits(a, b)


def test_the_gradient_may_be_written_over_dy_but_not_over_x():
    x = data((64, 20), np.float32, 1)
    _, ctx = fa.batch_norm_forward(x)
    before = x.copy()
    with pytest.raises(ValueError, match=r"out.*overlaps x"):
        fa.batch_norm_backward(x, ctx, out=x)
    assert_same_bits(x, before)
    dy = data((64, 20), np.float32, 2)
    want = fa.batch_norm_backward(dy, ctx).x
    assert fa.batch_norm_backward(dy, ctx, out=dy).x is dy
    assert_same_bits(dy, want)


def test_running_statistics_may_not_share_memory_with_x_or_themselves():
    x = data((64, 3), np.float32, 1)
    one = np.ones(1, np.float32)
    shared = np.lib.stride_tricks.as_strided(one, (3,), (0,))
    for mean, word in ((x[0], "overlaps x"), (shared, "share memory")):
        before = x.copy()
        with pytest.raises(ValueError, match=f"running_mean.*{word}"):
            fa.batch_norm(x, training=True, running_mean=mean, running_var=np.ones(3, np.float32))
        assert_same_bits(x, before)
        assert one[0] == 1


def test_context_and_gradients_are_frozen_and_can_be_pickled():
    x = data((64, 3), np.float32, 1)
    for name, function in fa.activations.items():
        params = {key: 0.25 for key, default in function.parameters.items() if default is None}
        _, ctx = fa.batch_norm_forward(x, activation=name, activation_params=params)
        for array in (ctx.mean, ctx.var):
            with pytest.raises(ValueError, match="WRITEABLE"):
                array.setflags(write=True)
        grads = fa.batch_norm_backward(x, ctx)
        again = fa.batch_norm_backward(x, pickle.loads(pickle.dumps(ctx)))
        for other in (again, pickle.loads(pickle.dumps(grads)), copy.deepcopy(grads)):
            assert_same_bits(other.x, grads.x)
            assert dict(other.activation_params or {}) == dict(grads.activation_params or {})


@pytest.mark.parametrize("slope", [0.0, 0.25])
@pytest.mark.parametrize("layout", [1, -1])
@pytest.mark.parametrize("training", [False, True])
def test_the_sign_of_z_is_right_next_to_where_z_is_zero(slope, layout, training):
    """Neighbours of each channel's zero of z; scales of both signs, tiny and zero; large and small
    offsets: the fused gradient sees the sign that the unfused one sees."""
    rng = np.random.default_rng(20)
    channels, count = 64, 512
    mean = (rng.standard_normal(channels) * 10.0 ** rng.integers(-6, 7, channels)).astype(
        np.float32
    )
    var = 10.0 ** rng.uniform(-8, 8, channels)
    weight = rng.choice([-1.0, 1.0], channels) * 10.0 ** rng.uniform(-3, 3, channels)
    bias = rng.choice([0.0, 1.0], channels) * rng.standard_normal(channels)
    weight[:3] = 0.0, -0.0, 1e-40
    zero = (mean - bias / np.where(np.abs(weight) > 1e-30, weight, 1.0) * np.sqrt(var)).astype(
        np.float32
    )
    bits = zero.view(np.int32)[None] + np.arange(-count // 2, count // 2, dtype=np.int32)[:, None]
    x = bits.view(np.float32)
    if not training:
        x[:4, 5] = [np.nan, np.inf, -np.inf, -0.0]
    dy = rng.standard_normal(x.shape, dtype=np.float32)
    if layout == 1:
        x, dy = np.asfortranarray(x), np.asfortranarray(dy)
    extra = {"weight": weight, "bias": bias, "training": training, "eps": 0.0}
    if not training:
        extra |= {"running_mean": mean, "running_var": var}
    function = next(f for f in fa.activations.values() if f.parameters == {"negative_slope": 0.01})
    fusion = {"activation": function, "activation_params": {"negative_slope": slope}}
    with np.errstate(all="ignore"):
        z, z_ctx = fa.batch_norm_forward(x, **extra)
        _, ctx = fa.batch_norm_forward(x, **extra, **fusion)
        want = fa.batch_norm_backward(function.backward(dy, z, slope), z_ctx)
    assert_same_bits(fa.batch_norm_backward(dy, ctx).x, want.x)


def with_gaps(a, fill):
    """A copy whose runs of memory are apart, and what is between them: `fill`."""
    memory = np.full((*a.shape[:-1], a.shape[-1] + 5), fill, a.dtype)
    copy, gaps = np.split(memory, [a.shape[-1]], axis=-1)
    copy[...] = a
    return copy, gaps


RUNS = [(3, 5, 196), (33, 4, 64), (12, 3, 81), (40, 6, 169), (2, 2, 1023), (1030, 2, 66)]
# by the sign of z, by one loop, by the activation's own kernels, with parameters
each_way = pytest.mark.parametrize("name", [*PLAIN[1:8:2], SCALAR[0], LEARNED[0]])


@each_way
@floats
@pytest.mark.parametrize("shape", RUNS)
def test_short_runs_have_the_bits_of_other_layouts(name, dtype, shape):
    """Kernels read beyond a run's end: neither the next channel nor what is no one's may matter."""
    x, dy, residual = (data(shape, dtype, seed) for seed in (15, 16, 17))
    extra = affine(shape[1], dtype) | options(name, shape[1], dtype)
    for added in (None, residual):
        last = [a if a is None else np.moveaxis(a, 1, -1).copy() for a in (x, dy, added)]
        y, ctx = fa.batch_norm_forward(last[0], residual=last[2], axis=-1, **extra)
        grads = fa.batch_norm_backward(last[1], ctx)
        want = {"y": np.moveaxis(y, -1, 1), "x": np.moveaxis(grads.x, -1, 1)}
        out, untouched = with_gaps(x, 7)
        apart = [a if a is None else with_gaps(a, np.nan)[0] for a in (x, dy, added)]
        for (a, b, c), to in (((x, dy, added), None), (apart, out)):
            y, ctx = fa.batch_norm_forward(a, residual=c, out=to, **extra)
            assert_same_bits(y, want["y"], "y")
            got = fa.batch_norm_backward(b, ctx, out=to)
            assert_same_bits(got.x, want["x"], "dx")
            assert_same_bits(got.weight, grads.weight, "weight")
            if added is not None:
                assert_same_bits(got.residual, np.moveaxis(grads.residual, -1, 1), "residual")
        assert (untouched == 7).all()


@each_way
@floats
@pytest.mark.parametrize("shape", [*RUNS, (3, 150, 49), (5, 7, 33), (2, 3, 5000)])
def test_short_runs_in_evaluation_have_the_bits_of_other_layouts(name, dtype, shape):
    x, residual = data(shape, dtype, 20), data(shape, dtype, 21)
    extra = affine(shape[1], dtype) | options(name, shape[1], dtype)
    extra |= {"running_mean": data(shape[1:2], dtype, 22), "running_var": np.full(shape[1], 0.7)}
    for added in (None, residual):
        last = [a if a is None else np.moveaxis(a, 1, -1).copy() for a in (x, added)]
        want = np.moveaxis(fa.batch_norm(last[0], residual=last[1], axis=-1, **extra), -1, 1)
        assert_same_bits(fa.batch_norm(x, residual=added, **extra), want)
        own = x.copy()
        assert_same_bits(fa.batch_norm(own, residual=added, out=own, **extra), want)
        out, untouched = with_gaps(x, 7)
        fa.batch_norm(x, residual=added, out=out, **extra)
        assert_same_bits(out, want)
        assert (untouched == 7).all()


@floats
@pytest.mark.parametrize("shape", RUNS)
def test_a_channel_of_nan_beside_short_runs(dtype, shape):
    x, dy = data(shape, dtype, 18), data(shape, dtype, 19)
    spoilt, spoilt_dy = x.copy(), dy.copy()
    spoilt[:, 1::2] = spoilt_dy[:, 1::2] = np.nan
    for activation in (None, PLAIN[1], PLAIN[-1]):
        y, ctx = fa.batch_norm_forward(x, activation=activation)
        got, got_ctx = fa.batch_norm_forward(spoilt, activation=activation)
        assert_same_bits(got[:, ::2], y[:, ::2])
        dx = fa.batch_norm_backward(dy, ctx).x
        assert_same_bits(fa.batch_norm_backward(spoilt_dy, got_ctx).x[:, ::2], dx[:, ::2])


@pytest.mark.parametrize(
    "shape", [(3, 4, 33, 37), (2, 3, 1, 1031), (5, 2, 65, 67), (16, 5, 259, 259)]
)
@pytest.mark.parametrize("activation", [None, PLAIN[1], PLAIN[-1]])
def test_long_runs_that_fill_no_strips_have_the_bits_of_other_layouts(shape, activation):
    x, dy = (np.random.default_rng(i).standard_normal(shape, dtype=np.float32) for i in (0, 1))
    last = [np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, dy)]
    y, ctx = fa.batch_norm_forward(x, activation=activation)
    grads = fa.batch_norm_backward(dy, ctx)
    y_last, ctx_last = fa.batch_norm_forward(last[0], activation=activation, axis=-1)
    grads_last = fa.batch_norm_backward(last[1], ctx_last)
    np.testing.assert_array_equal(ctx.mean, ctx_last.mean)
    np.testing.assert_array_equal(np.moveaxis(y, 1, -1), y_last)
    np.testing.assert_array_equal(np.moveaxis(grads.x, 1, -1), grads_last.x)
    out = np.empty(x.size + 1, np.float32)[1:].reshape(shape)  # not aligned to lines of the cache
    with fa.num_threads(1):
        np.testing.assert_array_equal(fa.batch_norm_backward(dy, ctx, out=out).x, grads.x)
        np.testing.assert_array_equal(
            fa.batch_norm_forward(x, activation=activation, out=out)[0], y
        )
