"""float16 and bfloat16: rounded once, the same everywhere, never widened in memory or promoted."""

import tracemalloc

import numpy as np
import oracle
import pytest
from conftest import (
    HALVES,
    NAMES,
    PLAIN,
    assert_same_bits,
    bfloat16,
    bits,
    call,
    call_ufunc,
    defaults,
    directions,
    each,
    expected,
    gates,
    given,
    halves,
    mixed,
    python,
    quiet,
    settings,
)
from mpmath import mp, mpf

import fastact as fa
from fastact import reference

needs_bfloat16 = pytest.mark.skipif(bfloat16 is None, reason="needs ml_dtypes")


def every_pattern(dtype):
    return np.arange(2**16, dtype=np.uint16).view(dtype)


def rounded(values, dtype):
    """float64 to half precision in one step: ties to even, NaN as the default one."""
    bits_kept, lowest, highest = (11, -24, 2.0**16) if dtype == np.float16 else (8, -133, 2.0**128)
    exponent = np.frexp(values)[1] - bits_kept
    step = np.ldexp(1.0, np.maximum(exponent, lowest))
    nearest = np.rint(values / step) * step  # rint: ties to even
    nearest = np.where(np.abs(nearest) >= highest, np.copysign(np.inf, values), nearest)
    with np.errstate(all="ignore"):
        return np.where(np.isfinite(values), nearest, values).astype(dtype)


def decide_ties(values, name, derivative, x, params, dtype):
    """Moves values that are near the middle of two neighbours to the side of the exact one."""
    bits_kept, lowest = (11, -24) if dtype == np.float16 else (8, -133)
    step = np.ldexp(1.0, np.maximum(np.frexp(values)[1] - bits_kept, lowest))
    middle = (np.floor(values / step) + 0.5) * step
    near = np.isfinite(values) & (np.abs(values - middle) < 1e-9 * step)
    for k in np.flatnonzero(near):
        exact = oracle.exact(name, derivative, x[k], params)
        side = mp.sign(exact - mpf(middle[k]))
        values[k] = np.nextafter(middle[k], float(side) * np.inf) if side else middle[k]


def beside_a_tie(exact, got, want, dtype):
    """Whether got is the neighbour of want, and exact nearly in the middle of the two."""
    apart = np.abs(bits(got).astype(int) - bits(want).astype(int))
    got, want = got.astype(np.float64), want.astype(np.float64)
    return (apart == 1) & (np.abs(exact - 0.5 * (got + want)) <= 1e-8 * np.abs(got - want))


@quiet
def test_the_rounding_of_this_file_is_numpys():
    values = np.concatenate([mixed(200_000, np.float64, 1), np.linspace(-7e-5, 7e-5, 50_001)])
    ties = every_pattern(np.float16)[:-1].astype(np.float64)
    ties = 0.5 * (ties[1:] + ties[:-1])
    for x in (values, ties, np.nextafter(ties, 0), np.nextafter(ties, 9)):
        assert_same_bits(rounded(x, np.float16), x.astype(np.float16))


def every_setting():
    return [pytest.param(n, p, id=f"{n}{list(p)}") for n in NAMES for p in settings(n)]


@halves
@directions
@pytest.mark.parametrize(("name", "params"), every_setting())
@quiet
def test_every_result_is_the_correctly_rounded_one(name, params, dtype, backward):
    x = every_pattern(dtype)
    got = call(name, backward, np.ones_like(x), x, params)
    assert got.dtype == dtype
    exact = expected(name, backward, np.ones(len(x)), x.astype(np.float64), params)
    decide_ties(exact, name, backward, x, params, dtype)
    want = rounded(exact, dtype)
    zero = (want == 0) & (got == 0)  # signs of zeros have a test of their own
    differ = (bits(got) != bits(want)) & ~zero
    if params != defaults(
        name
    ):  # a parameter can put a result next to the middle of two neighbours
        differ &= ~beside_a_tie(exact, got, want, dtype)
    assert not differ.any(), (x[differ][:5], got[differ][:5], want[differ][:5], differ.sum())


@halves
@gates
@quiet
def test_gated_results_are_within_half_an_ulp(name, dtype):
    gate = every_pattern(dtype)
    x, dy = (mixed(len(gate), np.float32, seed).astype(dtype) for seed in (1, 2))
    value, gradient = reference.gated[name]
    wide = [a.astype(np.float64) for a in (dy, x, gate)]
    got = (fa.gated[name](x, gate), *fa.gated[name].backward(dy, x, gate))
    for result, exact in zip(got, (value(*wide[1:]), *gradient(*wide)), strict=True):
        assert result.dtype == dtype
        want = rounded(exact, dtype)
        finite = np.isfinite(x) & np.isfinite(dy)  # inf times a factor that vanishes in float64
        differ = (bits(result) != bits(want)) & ~((result == 0) & (want == 0)) & finite
        differ &= ~beside_a_tie(exact, result, want, dtype)  # which float64 does not resolve
        assert not differ.any(), (
            x[differ][:5],
            gate[differ][:5],
            result[differ][:5],
            exact[differ][:5],
        )


@each
@halves
def test_half_precision_stays_what_it_is(name, dtype):
    function, params = fa.activations[name], defaults(name)
    x = np.linspace(-3, 3, 5000).astype(dtype)
    want = function(x, *params)
    small = np.zeros(len(x), np.int8)
    for how in (call, call_ufunc):
        assert how(name, False, None, x, params).dtype == dtype
        assert how(name, True, x, x, params).dtype == dtype
        assert how(name, True, small, x, params).dtype == dtype
        assert how(name, True, x.astype(np.float32), x, params).dtype == np.float32
        assert how(name, True, x, x.astype(np.float64), params).dtype == np.float64
        assert_same_bits(how(name, False, None, x, params, dtype=np.float32),
                         function(x.astype(np.float32), *params))  # fmt: skip
        assert_same_bits(how(name, False, None, x[0], params), want[0])
    odd = x.astype(np.float32) * np.float32(1.001)
    for how in (call, call_ufunc):
        assert_same_bits(how(name, False, None, odd, params, dtype=dtype),
                         function(odd.astype(dtype), *params))  # fmt: skip
        if not function.learned:
            half = odd.astype(dtype)
            assert_same_bits(how(name, True, odd, odd, params, dtype=dtype),
                             how(name, True, half, half, params))  # fmt: skip
        with pytest.raises(TypeError, match="cast"):
            how(name, False, None, odd, params, dtype=dtype, casting="safe")
    if params:
        array = np.full(1, params[0])
        assert function(x, array, *params[1:]).dtype == dtype
        assert function(x, array.astype(dtype), *params[1:]).dtype == dtype
        assert function(x.astype(np.float32), array.astype(dtype), *params[1:]).dtype == np.float32


@needs_bfloat16
def test_the_first_that_is_seen_of_bfloat16_may_be_dtype_alone():
    code = f"""
import numpy as np, ml_dtypes, fastact as fa
f, x = fa.activations[{PLAIN[-1]!r}], np.linspace(-3, 3, 9, dtype=np.float32)
y = f{{}}(x, dtype=ml_dtypes.bfloat16)
assert y.dtype == ml_dtypes.bfloat16
assert (y == f(x.astype(ml_dtypes.bfloat16))).all()
"""
    for way in ("", ".ufunc"):
        assert python(code.format(way)) == (0, "", "")


# with fewer bits than bfloat16, and with more than float32, over which ml_dtypes casts to it
SOURCES = [np.bool_, np.int8, np.uint16, np.int64, np.float16, np.float32, np.float64]


def near_the_middle(source):
    """Values of which some lie just beside the middle of two neighbours of either format."""
    ties = 1 + np.ldexp(np.array([1.0, 3.0]), -np.array([[8], [11]])).ravel()
    x = np.concatenate([mixed(997, np.float64, 6), ties, ties + 2.0**-40, ties - 2.0**-40, -ties])
    return (
        np.clip(x, -1000, 1000).astype(source)
        if np.dtype(source).kind in "iu"
        else x.astype(source)
    )


def ways_to_write(name, backward, x, params, dtype):
    """What is written into an array of dtype over ones, on every way there is."""
    function = fa.activations[name]
    two = backward and function.learned
    every, some = np.ones(len(x), bool), np.arange(len(x)) % 3 > 0

    def ones(*lead):
        return np.ones((*lead, len(x)), dtype)

    def written(how, **kwargs):
        out = ones()
        outs = (out, ones()) if two and how is call_ufunc else out
        how(name, backward, x, x, params, out=outs, **kwargs)
        where = kwargs.get("where", every)
        assert (out[~where] == 1).all()
        return where, out[where]

    yield written(call)
    yield written(call_ufunc)
    yield written(call_ufunc, where=some)
    strided = ones(2).T[:, 0]
    call(name, backward, x, x, params, out=strided)
    yield every, strided
    if not two:
        yield written(call, where=some)
        yield written(call, order="F")  # the ufunc's way


@halves
@directions
@each
@quiet
def test_an_output_in_half_precision_takes_the_result_as_numpy_casts_it(name, dtype, backward):
    """Whatever the way: computed in the dtype that the data ask for, and cast."""
    for source in SOURCES:
        x, params = near_the_middle(source), defaults(name)
        want = call(name, backward, x, x, params).astype(dtype)
        for where, got in ways_to_write(name, backward, x, params, dtype):
            assert_same_bits(got, want[where], source)


@halves
@pytest.mark.parametrize("source", SOURCES[1:], ids=lambda s: s.__name__)
@gates
@quiet
def test_outputs_of_gated_pairs_in_half_precision_too(name, source, dtype):
    x, function = near_the_middle(source), fa.gated[name]
    want = (function(x, x), *function.backward(x, x, x))
    some = np.arange(len(x)) % 3 > 0
    for how in (function, function.ufunc):
        got = np.ones(len(x), dtype), np.ones(len(x), dtype)
        how(x, x, out=got[0])
        how(x, x, out=got[1], where=some)
        assert_same_bits(got[0], want[0].astype(dtype))
        assert_same_bits(got[1], np.where(some, got[0], np.ones_like(got[0])))
    for how in (function.backward, function.backward.ufunc):
        mixed_outputs = np.empty(len(x), dtype), np.empty(len(x), want[2].dtype)
        how(x, x, x, out=mixed_outputs)
        assert_same_bits(mixed_outputs[0], want[1].astype(dtype))
        assert_same_bits(mixed_outputs[1], want[2])


@halves
@each
@quiet
def test_another_dtype_in_between_rounds_as_numpy_does(name, dtype):
    x, params = near_the_middle(np.float64), defaults(name)
    narrow = x.astype(dtype)
    for how in (call, call_ufunc):
        assert_same_bits(how(name, False, None, x, params, dtype=dtype),
                         call(name, False, None, narrow, params))  # fmt: skip


@needs_bfloat16
@pytest.mark.parametrize("name", [NAMES[0], next(n for n in NAMES if defaults(n))])
def test_neither_an_output_nor_a_parameter_decides_the_next_calls_dtype(name):
    """NumPy keeps what it has found for the dtypes of the inputs."""
    code = f"""
import numpy as np, ml_dtypes, fastact as fa
f, params = fa.activations[{name!r}], {defaults(name)!r}
narrow = [np.array([p], ml_dtypes.bfloat16) for p in params]
one = np.ones(1, ml_dtypes.bfloat16)
f(one, *params)
for kind in (np.int8, np.uint8, np.bool_):
    x = np.ones(3, kind)
    f.ufunc(x, *params, out=np.ones(3, ml_dtypes.bfloat16))
    f.backward.ufunc(x, x, *params, out=np.ones(3, ml_dtypes.bfloat16))
    for given in (params, narrow):
        for result in (f(x, *given), f.ufunc(x, *given), f.backward.ufunc(x, x, *given)):
            assert result.dtype == np.float32, (kind, given, result.dtype)
"""
    assert python(code) == (0, "", "")


@needs_bfloat16
def test_the_two_formats_do_not_mix():
    x = np.ones(5, np.float16)
    with pytest.raises(TypeError, match="bfloat16"):
        fa.activations[NAMES[0]].backward(x.astype(bfloat16), x)


@needs_bfloat16
def test_another_user_dtype_is_refused_by_name():
    import ml_dtypes

    x = np.ones(5, ml_dtypes.float8_e5m2)
    for f in fa.activations.values():
        params = defaults(f.name)
        for call_it in (f, f.ufunc):
            with pytest.raises(TypeError, match="float8_e5m2"):
                call_it(x, *params)
        with pytest.raises(TypeError, match="float8_e5m2"):
            f.backward(x, x, *params)


@halves
@pytest.mark.thread_unsafe(reason="tracemalloc counts the memory of all threads")
def test_no_wide_copy_in_memory(dtype):
    x = np.ones((64, 16, 1024), dtype)
    for function in fa.activations.values():
        params = defaults(function.name)
        for run in (
            lambda f=function, p=params: f(x, *p),
            lambda f=function, p=params: f.backward(x, x, *p),
            lambda f=function, p=params: fa.batch_norm_forward(
                x, activation=f, activation_params=given(f.name)
            )[0],
        ):
            tracemalloc.start()
            try:
                run()
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert peak < 1.2 * x.nbytes, function.name


# ---- BatchNorm -------------------------------------------------------------------------------


def layouts(x):
    yield x
    yield np.asfortranarray(x)
    yield np.ascontiguousarray(np.moveaxis(x, 1, -1)).transpose(0, 3, 1, 2)
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    wide[..., ::2] = x
    yield wide[..., ::2]


def columns(values):
    return values.reshape(-1, 1, 1)


SHAPES = [(4, 5, 9, 11), (3, 70, 40, 3), (64, 16, 33, 2), (2000, 3, 1, 2)]


@halves
@pytest.mark.parametrize("shape", SHAPES)
@each
@quiet
def test_batch_norm_is_the_reference_rounded_twice(name, shape, dtype):
    if shape != SHAPES[0] and name not in NAMES[:1] + NAMES[5:6]:
        pytest.skip("the shapes are tried with two activations, the activations with one shape")
    rng = np.random.default_rng(3)
    x, dy = ((3 * rng.standard_normal(shape) + 1).astype(dtype) for _ in range(2))
    channels = shape[1]
    weight, bias = (rng.standard_normal(channels).astype(np.float32) for _ in range(2))
    running = np.zeros(channels, np.float32), np.ones(channels, np.float32)
    arguments = {"weight": weight, "bias": bias}
    arguments |= {"activation": name, "activation_params": given(name)}
    want, want_ctx = reference.batch_norm_forward(
        x.astype(np.float64), round_to=np.dtype(dtype), **arguments
    )
    want_grads = reference.batch_norm_backward(dy.astype(np.float64), want_ctx)
    first = None
    for view, dy_view in zip(layouts(x), layouts(dy), strict=True):
        y, ctx = fa.batch_norm_forward(
            view, running_mean=running[0].copy(), running_var=running[1].copy(), **arguments
        )
        grads = fa.batch_norm_backward(dy_view, ctx)
        assert y.dtype == grads.x.dtype == dtype
        assert grads.weight.dtype == grads.bias.dtype == np.float32
        close = beside_a_tie(want, y, rounded(want, dtype), dtype)
        assert np.mean((bits(y) == bits(rounded(want, dtype))) | close) > 0.999
        scale = np.abs(want_grads.x).max(axis=(0, 2, 3), keepdims=True)
        error = np.abs(grads.x.astype(np.float64) - want_grads.x)
        assert (error <= 2.0 ** (-11 if dtype == np.float16 else -8) * scale).all()
        first = first or (y, grads)
        assert_same_bits(y, first[0])
        assert_same_bits(grads.x, first[1].x)
        assert_same_bits(grads.weight, first[1].weight)
        z, plain = fa.batch_norm_forward(view, weight=weight, bias=bias)
        assert_same_bits(fa.activations[name](z, *defaults(name)), y)
        g = call(name, True, dy, z, defaults(name))
        wide = g.astype(np.float64)
        normal = (x.astype(np.float64) - columns(ctx.mean)) * columns(ctx.var + 1e-5) ** -0.5
        for got, terms in ((grads.weight, wide * normal), (grads.bias, wide)):
            largest = np.abs(terms).sum(axis=(0, 2, 3))
            assert (np.abs(got - terms.sum(axis=(0, 2, 3))) <= 2.0**-23 * largest).all()
        assert_same_bits(fa.batch_norm_backward(g, plain).x, grads.x)
    for threads in (1, 2):
        with fa.num_threads(threads):
            assert_same_bits(fa.batch_norm_forward(x, **arguments)[0], first[0])


@halves
def test_statistics_and_parameters_may_be_half_too(dtype):
    x = np.random.default_rng(4).standard_normal((50, 6)).astype(dtype)
    mean, var, weight = np.zeros(6, dtype), np.ones(6, dtype), np.full(6, 0.5, dtype)
    y, ctx = fa.batch_norm_forward(x, weight=weight, running_mean=mean, running_var=var)
    assert (mean != 0).all()
    assert fa.batch_norm_backward(y, ctx).weight.dtype == dtype
    assert fa.batch_norm(x, running_mean=mean, running_var=var).dtype == dtype
    layer = fa.BatchNorm(6, activation=NAMES[1], dtype=dtype)
    assert layer(x).dtype == dtype
    assert layer.backward(x).weight.dtype == dtype


@halves
def test_a_large_offset_costs_nothing(dtype):
    """E[x^2] - E[x]^2 in half precision has made negative variances of this."""
    x = (5 + 0.1 * np.random.default_rng(5).standard_normal((4000, 3))).astype(dtype)
    _, ctx = fa.batch_norm_forward(x)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(ctx.mean, wide.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(ctx.var, wide.var(axis=0), rtol=1e-12)
    assert HALVES
