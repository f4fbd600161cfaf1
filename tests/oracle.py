"""The definitions once more, in mpmath with 60 digits: what fastact.reference is held to.

definitions: name -> (f, f'), each a function of an mpf x and of the parameters in order. They are
written without a thought for float64: with digits to spare, no form of them overflows or cancels.
The derivative at a kink is the one from the left, as in torch.
"""

import contextlib
import math
import sys
import threading

from mpmath import mp, mpf

DIGITS = 60
SELU_SCALE = "1.0507009873554804934193349852946"
SELU_ALPHA = "1.6732632423543772848170429916717"


def _cdf(x):
    x = min(max(x, mpf(-(10**6))), mpf(10**6))  # mpmath's erfc fails on larger ones
    return mp.erfc(-x / mp.sqrt(2)) / 2


def _pdf(x):
    return mp.exp(-(x**2) / 2) / mp.sqrt(2 * mp.pi)


def _logistic(x):
    return 1 / (1 + mp.exp(-x))


def _logistic_slope(x):
    return mp.exp(-x) / (1 + mp.exp(-x)) ** 2


def _cubic(x):
    return mp.sqrt(2 / mp.pi) * (x + mpf("0.044715") * x**3)


def _cubic_slope(x):
    return mp.sqrt(2 / mp.pi) * (1 + 3 * mpf("0.044715") * x**2)


def _one_plus_tanh(u):
    return 2 / (1 + mp.exp(-2 * u))


def _elu(x, alpha):
    return x if x > 0 else alpha * mp.expm1(x)


def _elu_slope(x, alpha):
    return mpf(1) if x > 0 else alpha * mp.exp(x)


def _mish_gate(x):
    return mp.tanh(mp.log1p(mp.exp(x)))


def _mish_slope(x):
    return _mish_gate(x) + x * (1 - _mish_gate(x) ** 2) * _logistic(x)


def _swish_slope(x, b):
    return _logistic(b * x) + b * x * _logistic_slope(b * x)


def _clip(x, low, high):
    return min(max(x, low), high)


def _step(condition):
    return mpf(1 if condition else 0)


def _shrink(x, bias, lambd):
    return x + bias if x < -lambd else x - bias if x > lambd else mpf(0)


def _x_minus_tanh(x):
    if abs(x) > 1000:  # tanh(x) is a little less than 1, whatever the digits
        return x - mp.sign(x) * (1 - mpf(10) ** (10 - DIGITS))
    with mp.workdps(DIGITS + 1000):  # x^3 / 3 is left of it
        return x - mp.tanh(x) if abs(x) > mpf(10) ** -400 else x**3 / 3


def _squareplus(x, b):
    with mp.workdps(DIGITS + 1300):
        return (x + mp.sqrt(x * x + b)) / 2 if x * x + b >= 0 else mp.nan


def _squareplus_slope(x, b):
    with mp.workdps(DIGITS + 1300):
        if x * x + b < 0:
            return mp.nan
        return (1 + x / mp.sqrt(x * x + b)) / 2 if x * x + b else mpf(0)


with mp.workdps(DIGITS):
    QUICK = mpf("1.702")

definitions = {
    "identity": (lambda x: x, lambda x: mpf(1)),
    "relu": (lambda x: max(x, mpf(0)), lambda x: _step(x > 0)),
    "relu6": (lambda x: _clip(x, mpf(0), mpf(6)), lambda x: _step(0 < x < 6)),
    "relu_squared": (lambda x: max(x, mpf(0)) ** 2, lambda x: 2 * max(x, mpf(0))),
    "leaky_relu": (lambda x, s: x if x > 0 else s * x, lambda x, s: mpf(1) if x > 0 else s),
    "prelu": (lambda x, w: x if x > 0 else w * x, lambda x, w: mpf(1) if x > 0 else w),
    "rrelu": (
        lambda x, low, up: x if x > 0 else (low + up) / 2 * x,
        lambda x, low, up: mpf(1) if x > 0 else (low + up) / 2,
    ),
    "elu": (_elu, _elu_slope),
    "selu": (
        lambda x: mpf(SELU_SCALE) * _elu(x, mpf(SELU_ALPHA)),
        lambda x: mpf(SELU_SCALE) * _elu_slope(x, mpf(SELU_ALPHA)),
    ),
    "celu": (
        lambda x, a: x if x > 0 else a * mp.expm1(x / a),
        lambda x, a: mpf(1) if x > 0 else mp.exp(x / a),
    ),
    "sigmoid": (_logistic, _logistic_slope),
    "hardsigmoid": (
        lambda x: _clip(x / 6 + mpf(1) / 2, mpf(0), mpf(1)),
        lambda x: _step(-3 < x < 3) / 6,
    ),
    "hard_sigmoid": (
        lambda x, a, b: _clip(a * x + b, mpf(0), mpf(1)),
        lambda x, a, b: a * _step(0 < a * x + b < 1),
    ),
    "logsigmoid": (lambda x: -mp.log1p(mp.exp(-x)), lambda x: _logistic(-x)),
    "tanh": (mp.tanh, lambda x: mp.sech(x) ** 2),
    "hardtanh": (_clip, lambda x, low, high: _step(low < x < high)),
    "tanhshrink": (_x_minus_tanh, lambda x: mp.tanh(x) ** 2),
    "hardshrink": (
        lambda x, h: mpf(0) if -h <= x <= h else x,
        lambda x, h: _step(not -h <= x <= h),
    ),
    "softshrink": (lambda x, h: _shrink(x, h, h), lambda x, h: _step(x < -h or x > h)),
    "shrink": (_shrink, lambda x, b, h: _step(x < -h or x > h)),
    "threshold": (lambda x, t, v: x if x > t else v, lambda x, t, v: _step(x > t)),
    "thresholded_relu": (lambda x, a: x if x > a else mpf(0), lambda x, a: _step(x > a)),
    "softsign": (lambda x: x / (1 + abs(x)), lambda x: 1 / (1 + abs(x)) ** 2),
    "softplus": (lambda x, b: mp.log1p(mp.exp(b * x)) / b, lambda x, b: _logistic(b * x)),
    "squareplus": (_squareplus, _squareplus_slope),
    "sparse_plus": (
        lambda x: mpf(0) if x <= -1 else x if x >= 1 else (x + 1) ** 2 / 4,
        lambda x: _clip((x + 1) / 2, mpf(0), mpf(1)),
    ),
    "sparse_sigmoid": (
        lambda x: _clip((x + 1) / 2, mpf(0), mpf(1)),
        lambda x: _step(-1 < x < 1) / 2,
    ),
    "exponential": (mp.exp, mp.exp),
    "gelu": (lambda x: x * _cdf(x), lambda x: _cdf(x) + x * _pdf(x)),
    "gelu_tanh": (
        lambda x: x / 2 * _one_plus_tanh(_cubic(x)),
        lambda x: _one_plus_tanh(_cubic(x)) / 2 + x / 2 * mp.sech(_cubic(x)) ** 2 * _cubic_slope(x),
    ),
    "quick_gelu": (lambda x: x * _logistic(QUICK * x), lambda x: _swish_slope(x, QUICK)),
    "silu": (lambda x: x * _logistic(x), lambda x: _swish_slope(x, mpf(1))),
    "swish": (lambda x, b: x * _logistic(b * x), _swish_slope),
    "hardswish": (
        lambda x: x * _clip(x + 3, mpf(0), mpf(6)) / 6,
        lambda x: mpf(0) if x <= -3 else mpf(1) if x >= 3 else (2 * x + 3) / 6,
    ),
    "mish": (lambda x: x * _mish_gate(x), _mish_slope),
    "hard_mish": (
        lambda x: x * _clip(x + 2, mpf(0), mpf(2)) / 2,
        lambda x: mpf(0) if x <= -2 else mpf(1) if x >= 0 else x + 1,
    ),
}


def _gated(name):
    value, slope = definitions[name]
    return lambda x, g: x * value(g), lambda x, g: value(g), lambda x, g: x * slope(g)


# name -> (f, df/dx, df/dgate), each a function of x and gate
gated_definitions = {
    "glu": _gated("sigmoid"),
    "swiglu": _gated("silu"),
    "geglu": _gated("gelu"),
    "reglu": _gated("relu"),
}


_one_at_a_time = threading.Lock()


@contextlib.contextmanager
def enough_digits():
    """mpmath has one precision for the process."""
    with _one_at_a_time, mp.workdps(DIGITS):
        yield


def exact(name, derivative, x, params=()):
    """f(x), or f'(x) for derivative=True, as an mpf; x and the parameters are finite floats."""
    with enough_digits():
        return definitions[name][derivative](mpf(float(x)), *(mpf(float(p)) for p in params))


def ulp(value):
    """The spacing of float64 at a real value, at least the smallest subnormal, as an mpf."""
    exponent = mp.frexp(value)[1] if value else -1074
    return mp.ldexp(1, max(int(exponent) - 53, -1074))


def error_in_ulp(got, want):
    """|got - want| in units of the spacing at want; beyond the largest float only inf is right."""
    if mp.isnan(want):
        return 0.0 if math.isnan(got) else math.inf
    if abs(want) > sys.float_info.max:
        return 0.0 if got == math.copysign(math.inf, want) else math.inf
    if not math.isfinite(got):
        return math.inf
    with enough_digits():
        return float(abs(mpf(float(got)) - want) / ulp(want))
