"""Properties (hypothesis): any shapes, strides, dtypes, parameters and thread counts give what the
reference gives, the same bits as a plain call, and touch no byte beside their elements."""

import os

import numpy as np
import pytest
from conftest import GATED, LEARNED, NAMES, assert_same_bits, bfloat16, expected, finfo, quiet

import fastact as fa
from fastact import reference

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

# the same examples each time; more, and others, by hand: FASTACT_EXAMPLES=5000
EXAMPLES = int(os.environ.get("FASTACT_EXAMPLES", "25"))
every = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="FASTACT_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
GUARD = 64
DTYPES = [np.dtype(name) for name in ("f4", "f8", "f2")]
DTYPES += [np.dtype(bfloat16)] * (bfloat16 is not None)
NEAR_ZERO = 2.0**-33  # of |dy|, near a zero of the derivative: tests/test_activations.py
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


def arrays(draw, shape, dtype, *given):
    """Arrays with these values, and as many again with none."""
    filled = [draw(layouts(shape, dtype)) for _ in given]
    for array, numbers in zip(filled, given, strict=True):
        array.fill(numbers)
        array.kept = array.memory.copy()
    return filled


def assert_untouched(*arrays):
    for each in arrays:
        assert (each.memory == each.kept).all()


shapes = st.lists(st.sampled_from([1, 2, 3, 5, 8, 17, 33, 0]), min_size=0, max_size=4).filter(
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
    """A number each, or an array that broadcasts, between guards."""
    drawn = []
    for _ in fa.activations[name].parameters:
        lengths = [draw(st.sampled_from([1, n])) for n in shape]
        if lengths and draw(st.booleans()):
            dtype = draw(st.sampled_from(["f8", "f4", "f2", "i4", ">f8"]))
            rng = np.random.default_rng(len(lengths))
            drawn += arrays(draw, lengths, dtype, 1 + rng.integers(0, 4, lengths))
        else:
            drawn.append(draw(st.sampled_from([0.01, 0.25, 1.0, 1.7, 3.0])))
    return drawn


def unit(exact, dtype):
    """The spacing of dtype at float64 values, at least its smallest subnormal."""
    info = finfo(dtype.type)
    last = np.frexp(np.clip(exact, -float(info.max), float(info.max)))[1] - info.nmant - 1
    return np.ldexp(1.0, np.maximum(last, info.minexp - info.nmant))


def limit(dtype):
    """Of float32 and the halves the promise; the reference itself is good to some of float64."""
    return {4: 0.51, 2: 0.501, 8: 64}[dtype.itemsize]


@quiet
def close(got, want, floor=0.0):
    """Within the limit of its dtype; NaN for NaN, infinity beyond."""
    got, largest = np.asarray(got), float(finfo(got.dtype.type).max)
    limited = np.clip(want, -2 * largest, 2 * largest)
    off = np.abs(np.clip(got.astype(float), -2 * largest, 2 * largest) - limited)
    near = off <= limit(got.dtype) * unit(want, got.dtype) + floor
    beyond = np.isinf(got) & (np.abs(want) >= largest) & (np.sign(got) == np.sign(want))
    return bool((near | beyond | (np.isnan(got) & np.isnan(want))).all())


# ---- activations -------------------------------------------------------------------------------


def plain(values):
    """In packed memory of its own."""
    return [v.array.copy() if isinstance(v, Guarded) else v for v in values]


def given_layout(values):
    return [v.array if isinstance(v, Guarded) else v for v in values]


def guarded(values):
    return [v for v in values if isinstance(v, Guarded)]


@every
@given(st.data(), names, dtypes, shapes, threads, st.booleans())
def test_an_activation(data, name, dtype, shape, count, backward):
    check_activation(data, name, dtype, shape, count, backward)


@every
@given(st.data(), st.sampled_from(LEARNED), dtypes, shapes, threads)
def test_a_learned_parameter(data, name, dtype, shape, count):
    """Few of the others' examples are of one."""
    check_activation(data, name, dtype, shape, count, True)


def check_activation(data, name, dtype, shape, count, backward):
    function = fa.activations[name].backward if backward else fa.activations[name]
    x, dy = arrays(
        data.draw, shape, dtype,
        values(data.draw, shape, dtype),
        np.linspace(-2, 3, np.prod(shape, dtype=int)).reshape(shape),
    )  # fmt: skip
    out = data.draw(layouts(shape, dtype))
    given = [dy] * backward + [x, *parameters(data.draw, name, shape)]

    def call(values, **kwargs):
        result = function(*values, **kwargs)
        return result if isinstance(result, tuple) else (result,)

    with fa.num_threads(1):
        want = call(plain(given))
    with fa.num_threads(count):
        call(given_layout(given), out=out.array)
        for a, b in zip(call(given_layout(given)), want, strict=True):
            assert_same_bits(a, b)
    assert_same_bits(out.array, want[0])
    assert out.is_intact()
    assert_untouched(*guarded(given))
    agrees_with_the_reference(name, backward, want, *plain([dy, x]), plain(given[1 + backward :]))


@quiet
def agrees_with_the_reference(name, backward, got, dy, x, params):
    want = expected(name, backward, dy, x, params)
    floor = np.zeros(x.shape)
    if backward:
        slopes = [expected(name, True, 1.0, x.astype(float) + k, params) for k in (-0.125, 0.125)]
        floor = np.where(slopes[0] * slopes[1] < 0, NEAR_ZERO * np.abs(dy.astype(float)), 0.0)
        floor += 0.49 * unit(want, x.dtype) * (np.abs(want) < 2.0**-100)  # dy is not 1
    assert close(got[0], want, floor)
    if backward and name in LEARNED:
        gradient = reference.activations[name][1]
        want, size = (gradient(d, x, *params)[1] for d in (dy, np.abs(dy)))
        infos = [finfo(each.dtype.type) for each in (x, got[1])]
        finite = np.abs(size) < min(float(info.max) for info in infos) / 2
        beyond = ~np.isfinite(size)
        assert np.array_equal(got[1][beyond], want[beyond], equal_nan=True)
        off = np.abs(got[1] - want)[finite]
        eps = max(float(info.eps) for info in infos)
        assert (off <= eps * np.abs(size[finite]) + unit(want, got[1].dtype)[finite]).all()


@every
@given(st.data(), st.sampled_from(GATED), dtypes, shapes, threads)
def test_a_gated_one(data, name, dtype, shape, count):
    function = fa.gated[name]
    numbers = [values(data.draw, shape, dtype) for _ in range(3)]
    _, x, gate = given = arrays(data.draw, shape, dtype, *numbers)
    outs = tuple([data.draw(layouts(shape, dtype)) for _ in range(2)])
    want = function(*plain([x, gate])), *function.backward(*plain(given))
    with fa.num_threads(count):
        function(x.array, gate.array, out=outs[0].array)
        assert_same_bits(outs[0].array, want[0])
        function.backward(*given_layout(given), out=tuple([o.array for o in outs]))
    for got, exact in zip(outs, want[1:], strict=True):
        assert_same_bits(got.array, exact)
        assert got.is_intact()
    assert_untouched(*given)
    gated_agrees_with_the_reference(name, want, *(a.array.astype(float) for a in given))


@quiet
def gated_agrees_with_the_reference(name, got, dy, x, gate):
    """Where the result is finite: infinity times a factor that vanishes in float64 is not said."""
    value, gradient = reference.gated[name]
    near = (np.abs(gate) > 0.6) & (np.abs(gate) < 1.4)  # a zero of the gate's slope is there
    floors = 0.0, 0.0, np.where(near, NEAR_ZERO * np.abs(dy * x), 0.0)
    finite = np.isfinite(dy) & np.isfinite(x) & np.isfinite(gate) & np.isfinite(dy * x)
    for result, exact, floor in zip(
        got, (value(x, gate), *gradient(dy, x, gate)), floors, strict=True
    ):
        assert close(result[finite], exact[finite], np.broadcast_to(floor, x.shape)[finite])


# ---- BatchNorm ---------------------------------------------------------------------------------

blocks = st.lists(st.sampled_from([2, 3, 4, 7, 16, 33, 130]), min_size=2, max_size=4).filter(
    lambda shape: np.prod(shape) <= 20000
)


def drawn_options(draw, rng, name, shape, axis, dtype):
    """What batch_norm_forward is given beside x; arrays between guards."""
    channels, rest = shape[axis], tuple(np.delete(shape, axis))
    options = {}

    def a_channel(key, numbers):
        kept_as = np.dtype(draw(st.sampled_from(["f4", "f8"])))
        (options[key],) = arrays(draw, (channels,), kept_as, numbers)

    if draw(st.booleans()):
        a_channel("weight", rng.standard_normal(channels))
        a_channel("bias", rng.standard_normal(channels))
    if draw(st.booleans()):
        (options["residual"],) = arrays(draw, shape, dtype, rng.standard_normal(shape))
    if draw(st.booleans()):
        mask = rng.random(rest) < 0.8
        mask.reshape(-1)[:2] = True
        (options["mask"],) = arrays(draw, rest, np.dtype("?"), mask)
    if not draw(st.integers(0, 3)):
        a_channel("running_mean", rng.standard_normal(channels))
        a_channel("running_var", rng.random(channels) + 0.1)
        options["training"] = False
    options |= {"axis": axis, "activation": name}
    if name:
        options["activation_params"] = dict.fromkeys(fa.activations[name].parameters, 0.3)
    if name in LEARNED:
        (key,) = fa.activations[name].parameters
        options["activation_params"][key] = np.linspace(-0.5, 0.7, channels)
    return options


def forward_and_backward(x, dy, options, out=None, dx=None):
    y, ctx = fa.batch_norm_forward(x, out=out, **options)
    grads = fa.batch_norm_backward(dy, ctx, out=dx)
    learned = (grads.activation_params or {}).values()
    return y, ctx.mean, ctx.var, grads.x, grads.weight, grads.bias, grads.residual, *learned


@every
@given(st.data(), st.one_of(st.none(), names), dtypes, blocks, threads)
def test_batch_norm(data, name, dtype, shape, count):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    scale = data.draw(st.sampled_from([1e-3, 1, 50]))
    x, dy = arrays(
        data.draw, shape, dtype,
        rng.standard_normal(shape) * scale + rng.integers(9), rng.standard_normal(shape),
    )  # fmt: skip
    out, dx = (data.draw(layouts(shape, dtype)) for _ in range(2))
    options = drawn_options(data.draw, rng, name, shape, axis, dtype)
    copies = dict(zip(options, plain(options.values()), strict=True))
    with fa.num_threads(1):
        want = forward_and_backward(*plain([x, dy]), copies)
    with fa.num_threads(count):
        strided = dict(zip(options, given_layout(options.values()), strict=True))
        got = forward_and_backward(x.array, dy.array, strided, out.array, dx.array)
    for a, b in zip(got, want, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert_same_bits(a, b)
    assert out.is_intact()
    assert dx.is_intact()
    assert_untouched(x, dy, *guarded(options.values()))
    if options.get("training", True):
        check_statistics(x.array, axis, copies.get("mask"), *want[1:3])
    Bounds(*plain([x, dy]), copies).check(*want)


def check_statistics(x, axis, mask, mean, var):
    rows = np.moveaxis(x.astype(np.longdouble), axis, 0).reshape(x.shape[axis], -1)
    rows = rows if mask is None else rows[:, mask.reshape(-1)]
    exact, size = rows.mean(1).astype(float), float(np.abs(rows).max())
    assert np.allclose(mean, exact, rtol=1e-14, atol=1e-14 * size)
    assert np.allclose(var, rows.var(1).astype(float), rtol=1e-10, atol=1e-290)


class Bounds:
    """What the reference gives, and how far from it the promises allow a result to be: z may be an
    ULP of its terms beside the exact one, so y lies between the values there, and g = dy act'(z)
    between the slopes; the gradients' sums are good to some eps of the sums of absolute terms."""

    @quiet
    def __init__(self, x, dy, options):
        self.dtype, self.options = x.dtype, options
        self.axes = tuple(a for a in range(x.ndim) if a != options["axis"] % x.ndim)
        alone = {k: v for k, v in options.items() if not k.startswith("activation")}
        z, ctx = reference.batch_norm_forward(x, round_to=x.dtype, **alone)
        self.want, self.ctx = reference.batch_norm_forward(x, round_to=x.dtype, **options)
        self.grads = reference.batch_norm_backward(dy, self.ctx)
        self.counted = self.columns_of_mask(x)
        rstd = self.columns(1 / np.sqrt(ctx.var + ctx.eps))
        self.eps = float(finfo(x.dtype.type).eps)
        around_mean = 0.0
        if self.eps < 1e-12:  # the reference itself; and it rounds the mean, and x - mean
            self.eps *= 64 * (1 + (np.abs(x) * rstd).max())
            around_mean = 1.0
        self.h = self.counted * np.abs((x.astype(float) - self.columns(ctx.mean)) * rstd)
        weight = self.columns(np.abs(options.get("weight", np.ones(len(ctx.mean)))).astype(float))
        self.scale = rstd * weight
        terms = (self.h + around_mean) * weight + self.columns(
            np.abs(options.get("bias", np.zeros(len(ctx.mean))))
        )
        terms = terms + np.abs(options.get("residual", np.zeros(1)).astype(float))
        self.around(z, self.eps * terms + float(finfo(x.dtype.type).smallest_subnormal), dy)

    def columns(self, values):
        return np.expand_dims(values, self.axes)

    def columns_of_mask(self, x):
        axis = self.options["axis"] % x.ndim
        mask = self.options.get("mask", np.ones(np.delete(x.shape, axis), bool))
        return np.broadcast_to(np.expand_dims(mask, axis), x.shape)

    def around(self, z, step, dy):
        """Values and slopes at z and to both sides of it."""
        sides, name = np.stack([z - step, z, z + step]), self.options["activation"]
        params = [
            self.columns(p) if np.ndim(p) else p
            for p in self.options.get("activation_params", {}).values()
        ]
        one = np.ones_like(sides)
        self.values = expected(name, False, None, sides, params) if name else sides
        slopes = expected(name, True, one, sides, params) if name else one
        self.values = np.where(self.counted, self.values, 0.0)
        dy = self.counted * np.abs(dy.astype(float))
        self.g = dy * np.abs(slopes).max(0)
        least = float(finfo(self.dtype.type).smallest_subnormal)
        self.slip = dy * np.ptp(slopes, axis=0) + self.eps * self.g + least
        self.learned = dy * (self.eps * np.abs(z) + step)

    def overflows(self):
        beyond = float(finfo(self.dtype.type).max) / 4
        parts = self.values, self.g, self.grads.x
        return not all((np.abs(part) < beyond).all() for part in parts)

    def check(self, y, mean, var, dx, weight, bias, residual, *learned):
        if self.overflows():  # of a half: what follows from infinities is not bounded
            return
        slack = limit(self.dtype) * unit(self.want, self.dtype)
        y = y.astype(float)
        assert (y >= self.values.min(0) - slack).all()
        assert (y <= self.values.max(0) + slack).all()
        off = 4 * self.eps * self.g + self.slip
        self.within(dx, self.grads.x, self.scale * self.through_statistics(off))
        self.within(bias, self.grads.bias, off.sum(self.axes))
        self.within(weight, self.grads.weight, (off * (self.h + 1)).sum(self.axes))
        self.within(residual, self.grads.residual, self.slip)
        for got, want in zip(learned, (self.grads.activation_params or {}).values(), strict=True):
            self.within(got, want, 4 * self.learned.sum(self.axes))

    def through_statistics(self, off):
        """Of g - mean(g) - h mean(g h)."""
        if not self.ctx.training:
            return off
        means = [
            (part.sum(self.axes, keepdims=True) / self.ctx.count) for part in (off, off * self.h)
        ]
        return off + means[0] + self.h * means[1]

    def within(self, got, want, bound):
        if got is None:
            assert want is None
            return
        bound = bound + unit(want, got.dtype)
        bad = ~(np.abs(got.astype(float) - want) <= bound)
        assert not bad.any(), (got[bad][:3], want[bad][:3], bound[bad][:3])
