"""The definitions once more, in mpmath with 60 digits: what fastact.reference is held to.

definitions: name -> (f, f'), each a function of an mpf x and of the parameters in order. They are
written without a thought for float64: with digits to spare, no form of them overflows or cancels.
The derivative at a kink is the one from the left, as in torch.
"""

import math
import sys

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


definitions = {
    "identity": (lambda x: x, lambda x: mpf(1)),
    "relu": (lambda x: max(x, mpf(0)), lambda x: mpf(1 if x > 0 else 0)),
    "leaky_relu": (lambda x, s: x if x > 0 else s * x, lambda x, s: mpf(1) if x > 0 else s),
    "prelu": (lambda x, w: x if x > 0 else w * x, lambda x, w: mpf(1) if x > 0 else w),
    "elu": (_elu, _elu_slope),
    "selu": (
        lambda x: mpf(SELU_SCALE) * _elu(x, mpf(SELU_ALPHA)),
        lambda x: mpf(SELU_SCALE) * _elu_slope(x, mpf(SELU_ALPHA)),
    ),
    "sigmoid": (_logistic, _logistic_slope),
    "tanh": (mp.tanh, lambda x: mp.sech(x) ** 2),
    "gelu": (lambda x: x * _cdf(x), lambda x: _cdf(x) + x * _pdf(x)),
    "gelu_tanh": (
        lambda x: x / 2 * _one_plus_tanh(_cubic(x)),
        lambda x: _one_plus_tanh(_cubic(x)) / 2 + x / 2 * mp.sech(_cubic(x)) ** 2 * _cubic_slope(x),
    ),
    "silu": (lambda x: x * _logistic(x), lambda x: _logistic(x) + x * _logistic_slope(x)),
    "softplus": (lambda x, b: mp.log1p(mp.exp(b * x)) / b, lambda x, b: _logistic(b * x)),
}


def exact(name, derivative, x, params=()):
    """f(x), or f'(x) for derivative=True, as an mpf; x and the parameters are finite floats."""
    with mp.workdps(DIGITS):
        return definitions[name][derivative](mpf(float(x)), *(mpf(float(p)) for p in params))


def ulp(value):
    """The spacing of float64 at a real value, at least the smallest subnormal, as an mpf."""
    exponent = mp.frexp(value)[1] if value else -1074
    return mp.ldexp(1, max(int(exponent) - 53, -1074))


def error_in_ulp(got, want):
    """|got - want| in units of the spacing at want; beyond the largest float only inf is right."""
    if abs(want) > sys.float_info.max:
        return 0.0 if got == math.copysign(math.inf, want) else math.inf
    if not math.isfinite(got):
        return math.inf
    with mp.workdps(DIGITS):
        return float(abs(mpf(float(got)) - want) / ulp(want))
