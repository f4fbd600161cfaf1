"""Properties (hypothesis): any shapes, strides, dtypes, parameters and thread counts give what the
reference gives, the same bits as a plain call, and touch no byte beside their elements."""

import os

import numpy as np
import pytest
from conftest import GATED, NAMES, assert_same_bits, ulp

import fastact as fa
from fastact import reference

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

# the same examples each time; more, and others, by hand: FASTACT_EXAMPLES=5000
EXAMPLES = int(os.environ.get("FASTACT_EXAMPLES", "40"))
every = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="FASTACT_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
GUARD = 64
DTYPES = ["f4", "f8", "f2"]
names, dtypes, threads = st.sampled_from(NAMES), st.sampled_from(DTYPES), st.integers(1, 5)
numbers = st.one_of(
    st.floats(-20, 20),
    st.sampled_from(
        [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-320, -3e-41, 1e38, -1e300, 88.7, -104.0]
    ),
)


# ---- arrays between guards ---------------------------------------------------------------------


class Guarded:
    """An array of any strides in memory of its own, whose other bytes are known."""

    def __init__(self, shape, dtype, order, steps, signs, offset):
        dtype = np.dtype(dtype)
        strides, step = [0] * len(shape), dtype.itemsize
        for axis in order:
            step *= steps[axis]
            strides[axis] = step
            step *= max(shape[axis], 1)
        self.memory = np.full(step + 2 * GUARD + offset, 0xA5, np.uint8)
        at = GUARD + offset
        for axis, sign in enumerate(signs):
            if sign and shape[axis]:
                at += strides[axis] * (shape[axis] - 1)
                strides[axis] = -strides[axis]
        self.array = np.ndarray(shape, dtype, self.memory, at, tuple(strides))

    def fill(self, values):
        with np.errstate(all="ignore"):
            self.array[...] = values
        return self.array

    def others(self):
        """The bytes that belong to no element."""
        memory, marked = self.memory.copy(), np.ones(len(self.memory), bool)
        view = np.ndarray(
            (*self.array.shape, self.array.itemsize), bool, marked,
            self.array.__array_interface__["data"][0] - self.memory.ctypes.data,
            (*self.array.strides, 1),
        )  # fmt: skip
        view[...] = False
        return memory[marked]

    def is_intact(self):
        return bool((self.others() == 0xA5).all())


@st.composite
def layouts(draw, shape, dtype):
    n = len(shape)
    order = draw(st.permutations(range(n)))
    steps = draw(st.lists(st.sampled_from([1, 1, 1, 2, 3]), min_size=n, max_size=n))
    signs = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    return Guarded(shape, dtype, order, steps, signs, draw(st.sampled_from([0, 0, 1, 4])))


shapes = st.lists(st.sampled_from([1, 2, 3, 5, 8, 17, 33]), min_size=0, max_size=4).filter(
    lambda shape: np.prod(shape) <= 4000
)


def values(draw, shape, dtype):
    """Random numbers with some hard ones among them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    a = rng.standard_normal(shape) * draw(st.sampled_from([1e-30, 0.1, 1.0, 4.0, 30.0]))
    flat = a.reshape(-1)
    for value in draw(st.lists(numbers, max_size=6)):
        if flat.size:
            flat[rng.integers(flat.size)] = value
    with np.errstate(all="ignore"):
        return flat.reshape(shape).astype(dtype)


def parameters(draw, name, shape):
    """A number each, or an array that broadcasts."""
    drawn = []
    for _ in fa.activations[name].parameters:
        number = draw(st.sampled_from([0.01, 0.25, 1.0, 1.7, 3.0]))
        lengths = [draw(st.sampled_from([1, n])) for n in shape]
        if lengths and draw(st.booleans()):
            dtype = draw(st.sampled_from(["f8", "f4", "f2", "i4", ">f8"]))
            rng = np.random.default_rng(len(lengths))
            drawn.append((1 + rng.integers(0, 4, lengths)).astype(dtype))
        else:
            drawn.append(number)
    return drawn


def close(got, want, bound):
    """Within `bound` units in the last place of the dtype; NaN for NaN, infinity beyond."""
    largest = float(np.finfo(got.dtype).max)
    with np.errstate(all="ignore"):
        unit = ulp(np.clip(want, -largest, largest), got.dtype)
        limited = np.clip(want, -2 * largest, 2 * largest)
        near = (
            np.abs(np.clip(got.astype(float), -2 * largest, 2 * largest) - limited) <= bound * unit
        )
        beyond = np.isinf(got) & (np.abs(want) >= largest) & (np.sign(got) == np.sign(want))
    return bool((near | beyond | (np.isnan(got) & np.isnan(want))).all())


def limit(dtype, reference_error=1e-12):
    """Of float32 and float16 the promise; the reference itself is good to some units of float64."""
    return {"f4": 0.51, "f2": 0.501, "f8": 64}[dtype] + (dtype != "f8") * reference_error


# ---- activations -------------------------------------------------------------------------------


@every
@given(st.data(), names, dtypes, shapes, threads, st.booleans())
def test_an_activation(data, name, dtype, shape, count, backward):
    function = fa.activations[name]
    x = data.draw(layouts(shape, dtype))
    out = data.draw(layouts(shape, dtype))
    x.fill(values(data.draw, shape, dtype))
    params = parameters(data.draw, name, shape)
    dy = np.linspace(-2, 3, x.array.size).reshape(shape).astype(dtype)
    kept = x.memory.copy()

    def call(x, **kwargs):
        result = function.backward(dy, x, *params, **kwargs) if backward else function(
            x, *params, **kwargs)  # fmt: skip
        return result[0] if isinstance(result, tuple) else result

    with fa.num_threads(1):
        plain = call(x.array.copy())
    with fa.num_threads(count):
        call(x.array, out=out.array)
        assert_same_bits(call(x.array), plain)
    assert_same_bits(out.array, plain)
    assert out.is_intact()
    assert (x.memory == kept).all()
    if not backward and dtype != "f2":
        with np.errstate(all="ignore"):
            want = reference.activations[name][0](x.array, *params)
        assert close(np.asarray(plain), want, limit(dtype))


@every
@given(st.data(), st.sampled_from(GATED), dtypes, shapes, threads)
def test_a_gated_one(data, name, dtype, shape, count):
    function = fa.gated[name]
    x, gate = data.draw(layouts(shape, dtype)), data.draw(layouts(shape, dtype))
    outs = tuple([data.draw(layouts(shape, dtype)) for _ in range(2)])
    x.fill(values(data.draw, shape, dtype)), gate.fill(values(data.draw, shape, dtype))
    dy = values(data.draw, shape, dtype)
    plain = function(x.array.copy(), gate.array.copy())
    dx, dgate = function.backward(dy, x.array.copy(), gate.array.copy())
    with fa.num_threads(count):
        function(x.array, gate.array, out=outs[0].array)
        assert_same_bits(outs[0].array, plain)
        function.backward(dy, x.array, gate.array, out=tuple([o.array for o in outs]))
    for got, want in zip(outs, (dx, dgate), strict=True):
        assert_same_bits(got.array, want)
        assert got.is_intact()


# ---- BatchNorm ---------------------------------------------------------------------------------

blocks = st.lists(st.sampled_from([2, 3, 4, 7, 16, 33, 130]), min_size=2, max_size=4).filter(
    lambda shape: np.prod(shape) <= 40000
)


@every
@given(st.data(), st.one_of(st.none(), names), dtypes, blocks, threads)
def test_batch_norm(data, name, dtype, shape, count):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    channels = shape[axis]
    x, out, dx = (data.draw(layouts(shape, dtype)) for _ in range(3))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    x.fill(rng.standard_normal(shape) * data.draw(st.sampled_from([1e-3, 1, 50])) + rng.integers(9))
    dy = data.draw(layouts(shape, dtype))
    dy.fill(rng.standard_normal(shape))
    params = {key: 0.3 for key in fa.activations[name].parameters} if name else None
    options = {"axis": axis, "activation": name, "activation_params": params}
    if data.draw(st.booleans()):
        options |= {"weight": rng.standard_normal(channels), "bias": rng.standard_normal(channels)}
    kept = x.memory.copy(), dy.memory.copy()

    def forward_and_backward(x, dy, out=None, dx=None):
        y, ctx = fa.batch_norm_forward(x, out=out, **options)
        grads = fa.batch_norm_backward(dy, ctx, out=dx)
        return y, ctx.mean, ctx.var, grads.x, grads.weight, grads.bias

    with fa.num_threads(1):
        plain = forward_and_backward(x.array.copy(), dy.array.copy())
    with fa.num_threads(count):
        got = forward_and_backward(x.array, dy.array, out.array, dx.array)
    for a, b in zip(got, plain, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert_same_bits(a, b)
    assert out.is_intact()
    assert dx.is_intact()
    assert (x.memory == kept[0]).all()
    assert (dy.memory == kept[1]).all()
    x64 = np.moveaxis(x.array.astype(np.longdouble), axis, 0).reshape(channels, -1)
    mean, var = x64.mean(1), x64.var(1)
    assert np.allclose(
        plain[1], mean.astype(float), rtol=1e-14, atol=1e-14 * float(np.abs(x64).max())
    )
    assert np.allclose(plain[2], var.astype(float), rtol=1e-10, atol=1e-290)
    check_normalised(x64, mean, var, plain[0], options, dtype)


def check_normalised(x64, mean, var, y, options, dtype):
    """Without an activation: near the exact one; long double rounds mean and difference too."""
    if options["activation"] is not None or (var < 1e-12).any():
        return
    z = (x64 - mean[:, None]) / np.sqrt(var[:, None] + np.longdouble(1e-5))
    size, slip = (
        np.abs(z),
        8 * np.finfo(np.longdouble).eps * np.abs(x64).max() / np.sqrt(var.min() + 1e-5),
    )
    if "weight" in options:
        weight, bias = (options[key].astype(np.longdouble)[:, None] for key in ("weight", "bias"))
        z, size = z * weight + bias, np.abs(z * weight) + np.abs(bias)
        slip = slip * np.abs(weight).max()
    got = np.moveaxis(y, options["axis"], 0).reshape(z.shape).astype(np.longdouble)
    unit = np.finfo(dtype).eps * np.maximum(size, 1e-4) + 2 * np.finfo(dtype).smallest_subnormal
    assert (np.abs(got - z) <= unit + slip).all()
