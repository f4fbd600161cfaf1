"""fastact.reference, the oracle of the kernels, held to mpmath and to finite differences.

The reference is loaded by its path: nothing here needs the compiled part. Every test goes over
reference.activations; what sets one function apart is asked of its definition, never of its name.
"""

import doctest
import importlib.util
import inspect
import io
import itertools
import math
import pathlib
import subprocess
import sys
import types

import numpy as np
import oracle
import pytest
from conftest import once
from mpmath import mp, mpf

PATH = pathlib.Path(__file__).parents[1] / "fastact" / "reference.py"
VALUE_ULP, SLOPE_ULP = 5.0, 8.0  # measured with NumPy 2.4: 3.7 and 6.9

spec = importlib.util.spec_from_file_location("reference_by_path", PATH)
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)

pytestmark = [once, pytest.mark.filterwarnings("error")]
each = pytest.mark.parametrize("name", list(reference.activations))
LARGEST, TINY = np.finfo(np.float64).max, np.finfo(np.float64).tiny


def parameters(name):
    return list(inspect.signature(reference.activations[name][0]).parameters.values())[1:]


def defaults(name):
    """The default parameters, 0.25 where there is none."""
    return tuple(0.25 if p.default is p.empty else p.default for p in parameters(name))


def settings(name):
    """Tuples of scalar parameters to try."""
    if not parameters(name):
        return [()]
    return [defaults(name)] + [(value,) * len(parameters(name)) for value in (0.03, 3.7, -0.5)]


def slope(name, x, params):
    """f'(x), from a dy of ones."""
    result = reference.activations[name][1](np.ones_like(x), x, *params)
    return result[0] if isinstance(result, tuple) else result


def zeros_of_slopes():
    """Where each derivative changes its sign, found by bisection of the definition."""
    found = []
    for name in reference.activations:
        at = [float(oracle.exact(name, True, x, defaults(name))) for x in (-3.0, -0.1)]
        if at[0] < 0 < at[1]:
            low, high = -3.0, -0.1
            while (middle := (low + high) / 2) not in (low, high):
                negative = oracle.exact(name, True, middle, defaults(name)) < 0
                low, high = (middle, high) if negative else (low, middle)
            found.append(low)
    return np.array(found)


def hard_points(count=60):
    """Tails, subnormals, kinks, every magnitude, both sides of every switch of the formulas."""
    rng = np.random.default_rng(0)
    zeros = zeros_of_slopes()[:, None]
    near = zeros + 10.0 ** np.arange(-16.0, 0.0) * np.array([1, -1])[:, None, None]
    switches = np.array([-1e3, -700, -350, -40, -10.8, -5, 0, 5, 40, 350, 700, 1e3])
    switches = np.concatenate([switches, np.add(zeros, [-0.5, 0, 0.5]).ravel()])
    special = [0.0, -0.0, 5e-324, -5e-324, TINY, -TINY, 1e-300, -1e-17, 1e300, LARGEST, -LARGEST]
    magnitudes = 10.0 ** rng.uniform(-320, 308, 2 * count)
    return np.concatenate(
        [
            rng.normal(size=count),
            rng.uniform(-40, 40, count),
            rng.uniform(-760, 0, count),
            rng.uniform(-9, 0, 3 * count),
            -np.linspace(700, 746, count),
            np.linspace(700, 746, count // 4),
            -np.linspace(36, 38.7, count),  # the subnormal tails of x Phi(x)
            -np.linspace(20, 22.5, count),  # and of its approximation
            -np.linspace(340, 375, count),
            -np.linspace(23300, 24900, count),  # what a parameter of 0.03 makes of 700 to 747
            np.concatenate([magnitudes, -magnitudes]),
            near.ravel(),
            switches,
            np.nextafter(switches, -np.inf),
            np.nextafter(switches, np.inf),
            special,
        ]
    )


POINTS = hard_points()


def largest_error(got, name, derivative, params):
    errors = [
        oracle.error_in_ulp(g, oracle.exact(name, derivative, x, params))
        for g, x in zip(got, POINTS, strict=True)
    ]
    worst = int(np.argmax(errors))
    return errors[worst], f"{name}{params} at {POINTS[worst]!r}: {errors[worst]} ULP"


# ---- activations -----------------------------------------------------------------------------


def test_registry_lists_the_definitions():
    assert list(reference.activations) == list(oracle.definitions)
    for name, (value, backward) in reference.activations.items():
        assert (value.__name__, backward.__name__) == (name, name + "_backward")
        names = [p.name for p in parameters(name)]
        assert list(inspect.signature(backward).parameters) == ["dy", "x", *names]
        assert value.__doc__
        assert backward.__doc__


@each
def test_values_against_mpmath(name):
    for params in settings(name):
        error, where = largest_error(
            reference.activations[name][0](POINTS, *params), name, False, params
        )
        assert error <= VALUE_ULP, where


@each
def test_slopes_against_mpmath(name):
    for params in settings(name):
        error, where = largest_error(slope(name, POINTS, params), name, True, params)
        assert error <= SLOPE_ULP, where


@each
def test_the_definitions_derivative_is_the_derivative(name):
    value = oracle.definitions[name][0]
    for params, x in itertools.product(settings(name), (-30.5, -3.1, -1.25, -1e-3, 1e-3, 0.7, 9.0)):
        with mp.workdps(10 * oracle.DIGITS):  # a value near its limit hides its slope
            numeric = mp.diff(lambda t, p=params: value(t, *map(mpf, p)), mpf(x))
        want = oracle.exact(name, True, x, params)
        if mp.isnan(want):
            continue  # outside the domain
        assert abs(numeric - want) <= abs(want) * mpf("1e-25"), (name, params, x)


@each
def test_the_values_differ_by_the_integral_of_the_slope(name):
    """Ties the two functions of the reference together, without the definitions."""
    nodes, weights = np.polynomial.legendre.leggauss(20)
    value, params = reference.activations[name][0], defaults(name)
    edges = np.linspace(-8.0, 8.0, 65)  # every kink and jump is one of them
    for a, b in itertools.pairwise(edges):
        a, b = np.nextafter(a, b), np.nextafter(b, a)
        integral = (
            (b - a) / 2 * np.sum(weights * slope(name, (a + b) / 2 + (b - a) / 2 * nodes, params))
        )
        np.testing.assert_allclose(
            value(b, *params) - value(a, *params), integral, rtol=1e-13, atol=1e-14
        )


@each
def test_limits_at_infinity(name):
    value = reference.activations[name][0]
    for params in settings(name):
        for sign in (-1.0, 1.0):
            assert value(sign * np.inf, *params) == limit_of(name, False, sign, params)
            want = limit_of(name, True, sign, params)
            assert slope(name, np.array(sign * np.inf), params) == want
            want = float(oracle.exact(name, True, sign * LARGEST, params))
            assert slope(name, np.array(sign * LARGEST), params) == want


def limit_of(name, derivative, sign, params):
    far = float(oracle.exact(name, derivative, sign * LARGEST / 8, params))
    if abs(far) > 1e300:
        return math.copysign(math.inf, far)
    return far if abs(far) > 1e-300 else 0.0


@each
def test_zero_keeps_its_sign(name):
    value, params = reference.activations[name][0], defaults(name)
    at = value([0.0, -0.0], *params)
    if at[0] == 0:
        assert not np.signbit(at[0])
        if oracle.exact(name, False, -5e-324, params) < 0:
            assert np.signbit(at[1])


@each
def test_nan(name):
    value, backward = reference.activations[name]
    params = defaults(name)
    assert np.isnan(value(np.nan, *params))
    for dy in (0.0, 1.0, np.nan, np.inf):
        assert np.isnan(slope_times(backward, dy, np.nan, params))
    for x in (-2.0, -0.0, 0.0, 2.0):
        slopes = [oracle.exact(name, True, x + d, params) for d in (0, -1e-6, 1e-6)]
        zero = slopes[0] == 0 and 0 in slopes[1:]  # flat by a branch, not by passing through 0
        got = slope_times(backward, np.nan, x, params)
        assert got == 0 if zero else np.isnan(got)


def slope_times(backward, dy, x, params):
    result = backward(dy, x, *params)
    return result[0] if isinstance(result, tuple) else result


@each
def test_backward_multiplies_by_dy_and_broadcasts(name):
    rng = np.random.default_rng(1)
    x, dy = rng.normal(size=(3, 1, 5)), rng.normal(size=(4, 1))
    params = defaults(name)
    got = slope_times(reference.activations[name][1], dy, x, params)
    assert got.shape == (3, 4, 5)
    np.testing.assert_array_equal(got, dy * slope(name, x, params))


@each
def test_types(name):
    value, backward = reference.activations[name]
    params = defaults(name)
    x = np.array([-3.3, -0.1, 0.0, 0.7], np.float32)
    for given in (x, x.tolist(), x.astype(np.float64)):
        y, dx = value(given, *params), slope_times(backward, given, given, params)
        assert y.dtype == dx.dtype == np.float64
        np.testing.assert_array_equal(y, value(x.astype(np.float64), *params))
    assert isinstance(value(1, *params), np.ndarray)
    assert value(1, *params).shape == ()
    assert value(np.empty((0, 2)), *params).shape == (0, 2)
    keywords = {p.name: v for p, v in zip(parameters(name), params, strict=True)}
    np.testing.assert_array_equal(value(x=x, **keywords), value(x, *params))
    wide = x.astype(np.float64)
    assert not np.shares_memory(value(wide, *params), wide)
    with pytest.raises(TypeError):
        value(x, *params, 1.0)


@each
def test_a_parameter_is_the_number_that_was_passed(name):
    if not parameters(name):
        return
    value, numbers = reference.activations[name][0], (0.1, 0.3)[: len(parameters(name))]
    points = np.float32(
        [-1.5, 0.7, *numbers, *[-p for p in numbers]]
    )  # thresholds show at their own
    wide, narrow = (tuple(float(kind(p)) for p in numbers) for kind in (float, np.float32))
    differ = [derivative for derivative in (False, True) if any(
        oracle.exact(name, derivative, x, wide) != oracle.exact(name, derivative, x, narrow)
        for x in points)]  # fmt: skip
    assert differ
    for params, x in itertools.product((wide, narrow), points):
        want = oracle.exact(name, False, x, params)
        assert oracle.error_in_ulp(value(x, *params), want) <= VALUE_ULP
        want = oracle.exact(name, True, x, params)
        assert oracle.error_in_ulp(slope(name, x, params), want) <= SLOPE_ULP


@each
def test_silence(name):
    special = [np.inf, -np.inf, np.nan, LARGEST, -LARGEST, TINY, 5e-324, -0.0, 800.0, -740.0, -38.0]
    dy = np.array(special)[:, None]
    with np.errstate(all="raise"):
        for params in [*settings(name), (LARGEST,) * len(parameters(name))]:
            reference.activations[name][0](special, *params)
            reference.activations[name][1](dy, special, *params)


def trained(name):
    """Whether the function has a parameter with a gradient."""
    return isinstance(reference.activations[name][1](1.0, 1.0, *defaults(name)), tuple)


TRAINED = [name for name in reference.activations if trained(name)]


def test_some_parameter_is_trained():
    assert [p.name for name in TRAINED for p in parameters(name)] == ["weight"]


@pytest.mark.parametrize("shape", [(), (1,), (5,), (4, 1), (3, 1, 5), (1, 1, 1), (3, 4, 5)])
@pytest.mark.parametrize("name", TRAINED)
def test_gradient_of_a_trained_parameter(name, shape):
    rng = np.random.default_rng(2)
    value, backward = reference.activations[name]
    x, dy = rng.normal(size=(2, 3, 4, 5))
    weight = rng.normal(size=shape)
    dx, dweight = backward(dy, x, weight)
    assert dx.shape == x.shape
    assert dweight.shape == shape
    for index in np.ndindex(shape):
        step = np.zeros(shape)
        step[index] = 0.5  # the value is linear in the parameter: differences are exact
        difference = np.sum(dy * (value(x, weight + step) - value(x, weight - step)))
        np.testing.assert_allclose(dweight[index], difference, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", TRAINED)
def test_gradient_of_a_trained_parameter_is_zero_right_of_the_kink(name):
    backward = reference.activations[name][1]
    assert backward([np.nan, np.inf, 1.0], [2.0, 0.0, -0.0], 0.25)[1] == 0
    assert np.isnan(backward(1.0, np.nan, 0.25)[1])
    assert backward(np.ones((0, 3)), np.ones((0, 3)), np.ones(3))[1].tolist() == [0, 0, 0]


# ---- BatchNorm -------------------------------------------------------------------------------

CASES = [((6, 3), 1), ((6, 3), 0), ((3, 2, 4), 1), ((2, 3, 2, 2), 1), ((2, 2, 2, 3), -1)]
activation_or_none = pytest.mark.parametrize("activation", [None, *reference.activations])


def problem(shape, axis, activation, seed, channelwise=True):
    """A random BatchNorm: (x, dy, options with every optional array present)."""
    rng = np.random.default_rng(seed)
    channels = shape[axis]
    options = {
        "weight": rng.uniform(0.5, 2.0, channels) * rng.choice([-1, 1], channels),
        "bias": rng.normal(size=channels),
        "running_mean": rng.normal(size=channels),
        "running_var": rng.uniform(0.5, 2.0, channels),
        "axis": axis,
        "eps": 1e-2,
        "activation": activation,
        "activation_params": {},
    }
    for p in parameters(activation) if activation else ():
        size = channels if channelwise else ()
        options["activation_params"][p.name] = rng.uniform(0.2, 0.9, size)
    return rng.normal(1.0, 2.0, shape), rng.normal(size=shape), options


def copied(options):
    return {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in options.items()}


def away_from_the_kink(shape, axis, activation, training):
    """A problem whose normalised values are far enough from kinks for finite differences."""
    for seed in itertools.count():
        x, dy, options = problem(shape, axis, activation, seed)
        plain = {**copied(options), "activation": None, "activation_params": None}
        z = np.moveaxis(reference.batch_norm(x, training=training, **plain), axis, -1)
        if activation is None or is_smooth_at(z, activation, options["activation_params"]):
            return x, dy, options


def is_smooth_at(z, activation, params, step=0.02):
    """Whether the slope bends no more than a smooth function's, within a step of every z."""
    left, at, right = (slope(activation, z + k * step, tuple(params.values())) for k in (-1, 0, 1))
    return (np.abs(left - 2 * at + right) <= 2e-3 * np.maximum(1.0, np.abs(at))).all()


def numeric_gradient(loss, array):
    """Central differences of the fourth order in each element; array is changed and restored."""
    gradient, step = np.empty_like(array), 1e-3
    for index in np.ndindex(array.shape):
        at = array[index]
        losses = []
        for k in (-2, -1, 1, 2):
            array[index] = at + k * step
            losses.append(loss())
        array[index] = at
        gradient[index] = (8 * (losses[2] - losses[1]) - (losses[3] - losses[0])) / (12 * step)
    return gradient


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("shape", "axis"), CASES)
@activation_or_none
def test_gradients_against_finite_differences(activation, shape, axis, training):
    x, dy, options = away_from_the_kink(shape, axis, activation, training)

    def loss():
        return np.sum(dy * reference.batch_norm(x, training=training, **copied(options)))

    _, ctx = reference.batch_norm_forward(x, training=training, **copied(options))
    grads = reference.batch_norm_backward(dy, ctx)
    inputs = {"x": x, "weight": options["weight"], "bias": options["bias"]}
    pairs = [(getattr(grads, name), array) for name, array in inputs.items()]
    for name, gradient in (grads.activation_params or {}).items():
        pairs.append((gradient, options["activation_params"][name]))
    assert (grads.activation_params is not None) == (activation in TRAINED)
    assert grads.residual is None
    for gradient, array in pairs:
        assert gradient.shape == array.shape
        np.testing.assert_allclose(gradient, numeric_gradient(loss, array), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("shape", "axis"), CASES)
@activation_or_none
def test_forward_is_the_formula(activation, shape, axis):
    x, _, options = problem(shape, axis, activation, seed=3)
    y, ctx = reference.batch_norm_forward(x, **options)
    mean, var = reference.exact_stats(x, axis)
    np.testing.assert_allclose(ctx.mean, mean, rtol=0, atol=1e-15)
    np.testing.assert_allclose(ctx.var, var, rtol=1e-14)
    assert ctx.count == x.size // x.shape[axis]
    last = np.moveaxis(x, axis, -1)
    z = (last - mean) / np.sqrt(var + 1e-2) * options["weight"] + options["bias"]
    params = options["activation_params"]
    want = z if activation is None else reference.activations[activation][0](z, **params)
    assert y.shape == x.shape
    assert y.dtype == np.float64
    np.testing.assert_allclose(np.moveaxis(y, axis, -1), want, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("training", [True, False])
@activation_or_none
def test_fused_is_unfused(activation, training):
    """The activation of a BatchNorm is that of the rounded z, and dy * f'(z) is rounded in turn."""
    x, dy, options = problem((2, 3, 4, 5), 1, activation, seed=4, channelwise=False)
    params = options["activation_params"]
    options |= {"round_to": np.float32, "training": training}
    plain = {**copied(options), "activation": None, "activation_params": None}
    y, ctx = reference.batch_norm_forward(x, **copied(options))
    z, plain_ctx = reference.batch_norm_forward(x, **plain)
    np.testing.assert_array_equal(z, z.astype(np.float32))
    value, backward = reference.activations[activation or next(iter(reference.activations))]
    np.testing.assert_array_equal(y, value(z, **params))
    g = slope_times(backward, dy, z, tuple(params.values())).astype(np.float32)
    fused = reference.batch_norm_backward(dy, ctx)
    unfused = reference.batch_norm_backward(g, plain_ctx)
    for field in ("x", "weight", "bias"):
        np.testing.assert_array_equal(getattr(fused, field), getattr(unfused, field))


def test_absent_arrays_have_no_gradient():
    x, dy, _ = problem((6, 3), 1, None, seed=5)
    y, ctx = reference.batch_norm_forward(x)
    ones = reference.batch_norm_forward(x, weight=np.ones(3), bias=np.zeros(3))
    np.testing.assert_array_equal(y, ones[0])
    grads = reference.batch_norm_backward(dy, ctx)
    assert grads.weight is grads.bias is grads.residual is grads.activation_params is None
    np.testing.assert_array_equal(grads.x, reference.batch_norm_backward(dy, ones[1]).x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_running_statistics(dtype):
    x, _, options = problem((4, 3, 5), 1, None, seed=6)
    mean, var = options["running_mean"].astype(dtype), options["running_var"].astype(dtype)
    before = mean.astype(np.float64), var.astype(np.float64)
    reference.batch_norm(x, running_mean=mean, running_var=var, training=True, momentum=0.3)
    batch_mean, batch_var = reference.exact_stats(x, 1)
    rtol = 4 * np.finfo(dtype).eps
    assert mean.dtype == var.dtype == dtype
    np.testing.assert_allclose(mean, 0.7 * before[0] + 0.3 * batch_mean, rtol=rtol)
    np.testing.assert_allclose(var, 0.7 * before[1] + 0.3 * batch_var * 20 / 19, rtol=rtol)
    kept = mean.copy(), var.copy()
    y, ctx = reference.batch_norm_forward(x, running_mean=mean, running_var=var, training=False)
    column = (1, 3, 1)
    want = (x - mean.astype(np.float64).reshape(column)) / np.sqrt(
        var.astype(np.float64).reshape(column) + 1e-5
    )
    np.testing.assert_allclose(y, want, rtol=1e-13)
    np.testing.assert_array_equal(ctx.mean, mean)
    np.testing.assert_array_equal((mean, var), kept)
    np.testing.assert_array_equal(y, reference.batch_norm(x, running_mean=mean, running_var=var))


def test_running_statistics_one_without_the_other():
    x = np.arange(6.0).reshape(3, 2)
    mean = np.zeros(2)
    reference.batch_norm(x, running_mean=mean, training=True, momentum=1.0)
    assert mean.tolist() == [2.0, 3.0]


@pytest.mark.parametrize("count", [2, 3, 7, 10, 1000])
@pytest.mark.parametrize("constant", [0.1, -1e-3, 12345.678, 1e30, 1e300])
def test_a_constant_channel_gives_the_bias(constant, count):
    y, ctx = reference.batch_norm_forward(np.full((count, 1), constant), bias=np.array([0.7]))
    assert ctx.mean[0] == constant
    assert ctx.var[0] == 0
    assert np.all(y == 0.7)


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e10, 1e14])
def test_an_offset_costs_no_accuracy(offset):
    x = np.random.default_rng(7).normal(size=(257, 2)) + offset
    y = reference.batch_norm(x, training=True, eps=0.0)
    for channel in range(2):
        values = [mpf(float(v)) for v in x[:, channel]]
        with mp.workdps(50):
            mean = mp.fsum(values) / len(values)
            deviation = mp.sqrt(mp.fsum((v - mean) ** 2 for v in values) / len(values))
            want = [float((v - mean) / deviation) for v in values]
        np.testing.assert_allclose(y[:, channel], want, rtol=1e-13, atol=1e-15)


def test_exact_stats():
    mean, var = reference.exact_stats([[1.0, 1e150], [2.0, -1e150], [4.0, 3.0]], axis=1)
    assert mean.tolist() == [7 / 3, 1.0]
    assert var[0] == 14 / 9
    mean, var = reference.exact_stats(np.array([[2.0**53, 1.0, -(2.0**53), 0.0]]), axis=0)
    assert mean.tolist() == [0.25]
    assert var.tolist() == [2.0**105]


def test_the_context_can_be_used_again_and_not_changed():
    x, dy, options = problem((6, 3), 1, TRAINED[0], seed=8)
    _, ctx = reference.batch_norm_forward(x, **options)
    first = reference.batch_norm_backward(dy, ctx)
    options["weight"][:] = 0
    options["activation_params"]["weight"][:] = 0
    np.testing.assert_array_equal(reference.batch_norm_backward(dy, ctx).x, first.x)
    with pytest.raises(AttributeError):
        ctx.mean = None
    with pytest.raises(AttributeError):
        first.x = None


@activation_or_none
def test_batch_norm_silence(activation):
    x = np.array([[1e300, np.nan, 1.0, 5e-324], [-1e300, 1.0, np.inf, 0.0], [0.0, 1.0, 2.0, 0.0]])
    _, _, options = problem((3, 4), 1, activation, seed=9)
    with np.errstate(all="raise"):
        for round_to in (None, np.float32):
            _, ctx = reference.batch_norm_forward(x, round_to=round_to, **copied(options))
            reference.batch_norm_backward(1e300 * np.ones_like(x), ctx)


BAD = [
    (ValueError, "momentum", {"momentum": None}),
    (ValueError, "axis", {"axis": 2}),
    (ValueError, "axis", {"axis": -3}),
    (ValueError, "weight", {"weight": np.ones(2)}),
    (ValueError, "bias", {"bias": np.ones((3, 1))}),
    (ValueError, "running_mean", {"running_mean": np.ones(4)}),
    (ValueError, "running_var", {"running_var": np.ones(())}),
    (TypeError, "running_mean", {"running_mean": [0.0, 0.0, 0.0]}),
    (ValueError, "running_var", {"running_var": None, "training": False}),
    (ValueError, "activation", {"activation": "no such function"}),
    (TypeError, "activation_params", {"activation_params": {"weight": 1.0}}),
    (TypeError, "activation_params", {"activation": TRAINED[0]}),
    (TypeError, "weight", {"activation": TRAINED[0], "activation_params": {"slope": 1.0}}),
    (ValueError, "weight", {"activation": TRAINED[0], "activation_params": {"weight": [1, 2]}}),
    (TypeError, "no such type", {"round_to": "no such type"}),
]


@pytest.mark.parametrize(("error", "match", "bad"), BAD)
def test_bad_arguments_change_nothing(error, match, bad):
    mean, var = np.full(3, 0.5), np.full(3, 1.5)
    options = {"running_mean": mean, "running_var": var, "training": True, **bad}
    with pytest.raises(error, match=match):
        reference.batch_norm(np.arange(12.0).reshape(4, 3), **options)
    assert mean.tolist() == [0.5] * 3
    assert var.tolist() == [1.5] * 3


def test_read_only_running_statistics_change_nothing():
    mean, var = np.zeros(3), np.ones(3)
    var.flags.writeable = False
    with pytest.raises(TypeError, match="running_var"):
        reference.batch_norm(np.eye(3), running_mean=mean, running_var=var, training=True)
    assert not mean.any()


def test_bad_shapes():
    with pytest.raises(ValueError, match="x: rank 1"):
        reference.batch_norm(np.ones(3), training=True)
    for shape in ((1, 3), (0, 3), (1, 3, 1)):
        with pytest.raises(ValueError, match="values a channel"):
            reference.batch_norm(np.ones(shape), training=True)
    _, ctx = reference.batch_norm_forward(np.eye(3))
    with pytest.raises(ValueError, match="dy"):
        reference.batch_norm_backward(np.ones((3, 1)), ctx)
    with pytest.raises(TypeError):
        reference.batch_norm(np.eye(3), np.ones(3))


def test_one_value_a_channel_is_fine_in_evaluation():
    y = reference.batch_norm(np.ones((1, 3)), running_mean=np.ones(3), running_var=np.ones(3))
    assert y.tolist() == [[0, 0, 0]]


def test_needs_numpy_and_the_standard_library_only():
    program = f"""
import importlib.util, sys
import numpy
before = set(sys.modules)
spec = importlib.util.spec_from_file_location("alone", {str(PATH)!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
new = {{name.split(".")[0] for name in set(sys.modules) - before}}
new -= set(sys.stdlib_module_names) | {{"alone", "numpy"}}
assert not new, new
assert len(module.activations) > 0 and module.batch_norm([[1.0], [3.0]], training=True).shape
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, cwd=PATH.anchor)


@pytest.mark.parametrize("document", [PATH, PATH.parents[1] / "docs" / "definitions.md"])
def test_examples_run(document, monkeypatch):
    package = types.ModuleType("fastact")  # so that the page's import needs no compiled part
    package.reference = reference
    monkeypatch.setitem(sys.modules, "fastact", package)
    own = document == PATH
    text = reference.__doc__ if own else document.read_text(encoding="utf-8")
    names = dict(vars(reference)) if own else {}
    example = doctest.DocTestParser().get_doctest(text, names, document.name, str(document), 0)
    failures = io.StringIO()
    result = doctest.DocTestRunner(verbose=False).run(example, out=failures.write)
    assert result.attempted > 0
    assert result.failed == 0, failures.getvalue()
