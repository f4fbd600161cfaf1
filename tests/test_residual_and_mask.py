"""What BatchNorm adds before the activation, leaves out of the statistics, or weighs."""

import numpy as np
import pytest
from conftest import LEARNED, NAMES, assert_same_bits, each, floats, given, kinds
from test_batch_norm import affine, columns, data, layouts, options, same_gradients

import fastact as fa
from fastact import reference

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
        assert ctx.residual.base is r


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


@kinds
@pytest.mark.parametrize(("shape", "axis"), SHAPES[1:5], ids=str)
def test_a_weight_of_2_is_the_element_twice(shape, axis, dtype):
    x, r, dy = (data(shape, dtype, k) for k in (1, 2, 3))
    times = np.random.default_rng(6).integers(0, 4, rest_of(shape, axis))
    c = shape[axis]
    fused = affine(c, np.float32) | options(NAMES[3], c, np.float32)
    running, twice = ([np.zeros(c), np.ones(c)] for _ in range(2))
    y, ctx = fa.batch_norm_forward(
        x, residual=r, sample_weight=times, axis=axis, running_mean=running[0],
        running_var=running[1], **fused,
    )  # fmt: skip

    def repeated(a):
        return np.repeat(np.moveaxis(a, axis, -1).reshape(-1, c), times.ravel(), axis=0)

    want, want_ctx = fa.batch_norm_forward(
        repeated(x), residual=repeated(r), running_mean=twice[0], running_var=twice[1], **fused
    )
    digits = {2: 1e-2, 4: 2e-6, 8: 1e-13}[x.itemsize]
    close = {"rtol": digits, "atol": digits * 10}
    np.testing.assert_allclose(ctx.var, want_ctx.var, rtol=1e-12)
    np.testing.assert_allclose(running, twice, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(*(a.astype(float) for a in (repeated(y), want)), **close)
    # each of n copies has the gradient of one; the element has what all of them have
    grads = fa.batch_norm_backward(dy, ctx)
    shares = np.where(times > 0, 1 / np.maximum(times, 1), 0)
    share = repeated(np.expand_dims(shares, axis % x.ndim) * dy.astype(float)).astype(dtype)
    want_grads = fa.batch_norm_backward(share, want_ctx)
    each = np.zeros((times.size, c))
    np.add.at(each, np.repeat(np.arange(times.size), times.ravel()), want_grads.x.astype(float))
    got = np.moveaxis(grads.x, axis, -1).reshape(-1, c).astype(float)
    np.testing.assert_allclose(got, each, rtol=20 * digits, atol=20 * digits)
    np.testing.assert_allclose(
        *(g.weight.astype(float) for g in (grads, want_grads)), rtol=20 * digits, atol=1e3 * digits
    )


@floats
@pytest.mark.parametrize("how", ["mask", "sample_weight", "both"])
def test_the_same_bits_for_any_threads_and_layout(dtype, how):
    shape = (6, 5, 40, 41)
    x, r, dy = (data(shape, dtype, k) for k in (1, 2, 3))
    given = {
        "mask": mask_of(shape, 1), "sample_weight": np.random.default_rng(1).random((6, 40, 41)),
    }  # fmt: skip
    given = given if how == "both" else {how: given[how]}
    name = LEARNED[0]

    def run(x, r, dy):
        y, ctx = fa.batch_norm_forward(
            x, residual=r, **given, **affine(5, dtype), **options(name, 5, dtype)
        )
        g = fa.batch_norm_backward(dy, ctx)
        return (
            y,
            ctx.mean,
            ctx.var,
            g.x,
            g.residual,
            g.weight,
            g.bias,
            *g.activation_params.values(),
        )

    with fa.num_threads(1):
        want = run(x, r, dy)
    for (_, a), (_, b), (_, c) in zip(layouts(x), layouts(r), layouts(dy), strict=True):
        for got, expected in zip(run(a, b, c), want, strict=True):
            assert_same_bits(got, expected)


@each
def test_gradients_by_finite_differences(name):
    """float64, with a residual, weights and a mask at once."""
    rng = np.random.default_rng(3)
    x, r = rng.standard_normal((2, 9, 4)) + 0.3
    weight, mask = rng.random(9) + 0.5, rng.random(9) < 0.8
    dy, own = rng.standard_normal((9, 4)), affine(4, np.float64)
    fused = {"sample_weight": weight, "mask": mask, **options(name, 4, np.float64)}

    def loss(x=x, r=r, **changed):
        return (fa.batch_norm(x, residual=r, training=True, **(own | changed), **fused) * dy).sum()

    grads = fa.batch_norm_backward(dy, fa.batch_norm_forward(x, residual=r, **own, **fused)[1])
    step, passed = 1e-6, 0
    for key, array in {"x": x, "r": r, **own}.items():
        got = getattr(grads, {"r": "residual"}.get(key, key))
        for at in np.ndindex(array.shape):
            low, high = array.copy(), array.copy()
            low[at] -= step
            high[at] += step
            slope = (loss(**{key: high}) - loss(**{key: low})) / (2 * step)
            passed += abs(slope - got[at]) <= 1e-6 * max(1.0, abs(slope))
    assert passed >= 0.97 * (2 * x.size + 8)  # a kink may lie between


@each
@floats
def test_the_reference_agrees(name, dtype):
    for shape, axis in SHAPES:
        x, r, dy = (data(shape, dtype, k) for k in (1, 2, 3))
        c = shape[axis]
        given = {"mask": mask_of(shape, axis), "sample_weight": np.full(rest_of(shape, axis), 1.5)}
        given |= {"residual": r, "axis": axis, **affine(c, dtype), **options(name, c, dtype)}
        y, ctx = fa.batch_norm_forward(x, **given)
        grads = fa.batch_norm_backward(dy, ctx)
        with np.errstate(all="ignore"):
            want, want_ctx = reference.batch_norm_forward(x, round_to=dtype, **given)
            wanted = reference.batch_norm_backward(dy, want_ctx)
        digits = 64 * float(np.finfo(dtype).eps)
        # a kink is a jump of the derivative: where z rounds to either side of it, both are right
        for got, exact in ((y, want), (grads.x, wanted.x), (grads.residual, wanted.residual)):
            off = np.abs(got - exact) > digits * np.maximum(1, np.abs(exact))
            assert off.mean() <= 0.002, (shape, off.sum())
        np.testing.assert_allclose(ctx.var, want_ctx.var, rtol=1e-12)


# ---- statistics ------------------------------------------------------------------------------


@floats
def test_what_is_masked_does_not_touch_the_statistics(dtype):
    """Exact, beside numbers of any size."""
    for offset in (0.0, 1e4, 1e6):
        x = data((400, 3), dtype, 1, offset)
        mask = np.random.default_rng(2).random(400) < 0.5
        dirty = np.where(mask[:, None], x, dtype(np.finfo(dtype).max))
        mean, var = reference.exact_stats(x[mask])
        for kind in (mask, mask.astype(float)):
            key = "mask" if kind is mask else "sample_weight"
            stats = fa.batch_norm_stats(dirty, **{key: kind})
            ulp = [np.spacing(np.abs(exact).astype(dtype)).astype(float) for exact in (mean, var)]
            assert (np.abs(stats.mean - mean) <= ulp[0]).all()
            assert (np.abs(stats.var - var) <= 2 * ulp[1]).all()


# ---- bad input -------------------------------------------------------------------------------

ONES = np.ones((4, 5), np.float32)
BAD = [
    ({"mask": np.ones(3, bool)}, ValueError, r"mask: shape \(3,\) .*\(4,\)"),
    ({"mask": np.ones((4, 5), bool)}, ValueError, "mask: shape"),
    ({"mask": np.ones(4)}, TypeError, "mask: dtype float64"),
    ({"mask": np.zeros(4, bool)}, ValueError, "0 values per channel .* that count"),
    ({"mask": np.arange(4) == 2}, ValueError, "1 value per channel .* that counts"),
    ({"sample_weight": [-1, 1, 1, 1]}, ValueError, "sample_weight: negative"),
    ({"sample_weight": [np.nan, 1, 1, 1]}, ValueError, "sample_weight: .*not finite"),
    ({"sample_weight": [np.inf, 1, 1, 1]}, ValueError, "sample_weight: .*not finite"),
    ({"sample_weight": np.ones(5)}, ValueError, r"sample_weight: shape \(5,\)"),
    ({"sample_weight": np.zeros(4)}, ValueError, "0 values"),
    ({"sample_weight": np.full(4, 0.2)}, ValueError, "sample_weight: .*sum to 0.8"),
    ({"sample_weight": ["a"] * 4}, TypeError, "sample_weight: dtype"),
    ({"residual": np.ones((4, 6), np.float32)}, ValueError, "residual: shape"),
    ({"residual": np.ones((4, 5))}, TypeError, "residual: dtype float64"),
    ({"residual": 1.0}, (TypeError, ValueError), "residual: "),
]


@pytest.mark.parametrize(("given", "error", "text"), BAD, ids=lambda v: str(v)[:40])
def test_bad_input_is_refused_before_anything_is_written(given, error, text):
    out, running = np.full((4, 5), 7, np.float32), [np.zeros(5), np.ones(5)]
    options = {"running_mean": running[0], "running_var": running[1], "out": out}
    for call in (fa.batch_norm_forward, lambda x, **o: fa.batch_norm(x, training=True, **o)):
        with pytest.raises(error, match=text):
            call(np.arange(20, dtype=np.float32).reshape(4, 5), **options, **given)
    assert (out == 7).all()
    assert not running[0].any()
    assert (running[1] == 1).all()


def test_out_may_not_be_what_the_backward_reads():
    x, r = data((4, 5), np.float32, 1), data((4, 5), np.float32, 2)
    with pytest.raises(ValueError, match="out: overlaps residual"):
        fa.batch_norm_forward(x, residual=r, out=r)
    want = fa.batch_norm(x, residual=r, training=True)
    assert fa.batch_norm(x, residual=r, training=True, out=r) is r
    assert_same_bits(r, want)


def test_the_layer_takes_them_too():
    x, r, dy = (data((8, 5, 3), np.float32, k) for k in (1, 2, 3))
    mask = mask_of((8, 5, 3), 1)
    layer = fa.BatchNorm(5, activation=NAMES[0])
    y = layer(x, residual=r, mask=mask)
    want, ctx = fa.batch_norm_forward(
        x, weight=layer.weight, bias=layer.bias, residual=r, mask=mask, activation=NAMES[0]
    )
    assert_same_bits(y, want)
    same_gradients(layer.backward(dy), fa.batch_norm_backward(dy, ctx))
    assert not fa.BatchNorm(5).eval()(x, mask=np.zeros((8, 3), bool)).any()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", [None, *NAMES])
def test_what_is_masked_has_no_gradient_beside_a_nan(name, axis):
    x, dy, r = (np.moveaxis(data((3, 40), np.float32, k), 0, axis).copy() for k in (1, 2, 3))
    np.moveaxis(x, axis, 0)[1, 5] = np.nan
    mask = np.arange(40) % 3 != 0
    params = None if name is None else given(name)
    options = {"activation": name, "activation_params": params}
    _, ctx = fa.batch_norm_forward(x, axis=axis, residual=r, mask=mask, **options)
    grads = fa.batch_norm_backward(dy, ctx)
    for got in (grads.x, grads.residual):
        assert not np.moveaxis(got, axis, 0)[:, ~mask].any()
