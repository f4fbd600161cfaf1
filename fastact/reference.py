"""Every activation function and BatchNorm of fastact in plain NumPy float64: the oracle.

This file says what the compiled kernels have to compute. It needs NumPy and the standard library
only, can be loaded by its path alone, and shares no formula trick, constant or polynomial with the
C sources: the tests hold the one to the other, so each has to be derived on its own.

Rationale
---------
(a) *Form of a pair.* ``NAME(x, ...)`` is f(x), ``NAME_backward(dy, x, ...)`` is dy * f'(x), where
    f'(x) is rounded to float64 first. Parameters go by position or keyword. Where a parameter is
    an array that is trained, the backward is a tuple (dx, dparameter). ``activations`` lists the
    pairs.
(b) *Types.* Every argument is converted to float64, which is exact for float32 and the smaller
    types; every result is a float64 array. A parameter means the number that was passed:
    0.01 is not its float32 neighbour. Constants of a definition are the published real numbers.
    Arrays that know more than numbers (a mask, a unit, labels) are refused: it would be lost.
(c) *Accuracy.* A few units in the last place (ULP) of the exact result everywhere, in the tails
    and among the subnormals too. Three things make that possible, each a helper below: an exponent
    is carried as an unevaluated sum hi + lo, since exp() turns a relative error u of its argument
    t into a relative error t*u of its result; a product with exp() is rounded to a subnormal only
    once; and a derivative is integrated from its zero, near which its terms cancel.
(d) *Limits.* At +-inf each function takes its limit, never NaN. An argument is clipped where the
    result has long since reached its limit, so that inf * 0 does not come up.
(e) *Kinks* take torch's values: the derivative at 0 is the one from the left. Where a branch makes
    the derivative exactly 0, the product is 0 even for a NaN dy. A NaN x gives NaN, always.
(f) *Silence.* NaN and inf speak for themselves: nothing emits a NumPy warning, under any errstate.
(g) *BatchNorm* works on x as a matrix with a row for each channel. Statistics are two-pass; the
    mean is carried as head + tail, so that a constant channel gives exactly the bias and a large
    common offset costs nothing. ``round_to`` rounds the two values that a kernel rounds to x's
    dtype, the normalised value and its gradient; all else stays float64.

>>> silu([-1000.0, -1.0, 0.0, 1.0]).round(4)
array([-0.    , -0.2689,  0.    ,  0.7311])
>>> y, ctx = batch_norm_forward([[1.0, 5.0], [3.0, 5.0]], eps=0.01, activation="relu")
>>> y.round(3)
array([[0.   , 0.   ],
       [0.995, 0.   ]])
>>> batch_norm_backward([[1.0, 1.0], [1.0, 1.0]], ctx).x.round(4)
array([[-0.0049,  0.    ],
       [ 0.0049,  0.    ]])
"""

import dataclasses
import functools
import inspect
import math
from decimal import Decimal
from typing import Any

import numpy as np

_Value = Any  # a number or an array
_quiet = np.errstate(all="ignore")


def _array(name, value, dtype: Any = np.float64):
    """A plain array of a value; a class that has a ufunc's result its own way is not plain."""
    kind = type(value)
    plain = kind is np.ndarray or issubclass(kind, (np.generic, np.memmap))
    if not plain and hasattr(kind, "__array_ufunc__"):
        given = f"{kind.__module__}.{kind.__qualname__}"
        raise TypeError(f"{name}: {given} given, plain arrays and numbers are accepted")
    return np.asarray(value, dtype=dtype)


def _float64(function):
    """Convert the arguments to float64 arrays, run without warnings, return float64 arrays."""

    @functools.wraps(function)
    @_quiet
    def wrapper(*args, **kwargs):
        bound = inspect.signature(function).bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            bound.arguments[name] = _array(name, value)
        bound.apply_defaults()
        result = function(*bound.args, **bound.kwargs)
        if isinstance(result, tuple):
            return tuple(np.asarray(part) for part in result)
        return np.asarray(result)

    return wrapper


# ---- sums hi + lo ----------------------------------------------------------------------------


def _pair(decimal):
    """A real constant, written out in decimal digits, as hi + lo."""
    hi = float(decimal)
    return hi, float(Decimal(decimal) - Decimal(hi))


def _two_sum(a, b):
    """a + b exactly, as hi + lo (Knuth, TAOCP 2, 4.2.2)."""
    hi = a + b
    other = hi - a
    return hi, (a - (hi - other)) + (b - other)


def _two_product(a, b):
    """a * b as hi + lo, exact but for underflow (Dekker 1971).

    The factors are split into a head of 24 bits and a tail, whose products are exact; the exponents
    are taken off before, so that nothing overflows on the way.
    """
    (a, a_exponent), (b, b_exponent) = np.frexp(a), np.frexp(b)
    a_head, b_head = (np.asarray(v, np.float32).astype(np.float64) for v in (a, b))
    a_tail, b_tail = a - a_head, b - b_head
    hi = a * b
    lo = ((a_head * b_head - hi) + a_head * b_tail + a_tail * b_head) + a_tail * b_tail
    hi, lo = (np.ldexp(part, a_exponent + b_exponent) for part in (hi, lo))
    return hi, np.where(np.isfinite(hi), lo, 0.0)


def _times_pair(x, constant):
    """x * (hi + lo) as a sum hi + lo, for a float64 x."""
    hi, lo = _two_product(x, constant[0])
    return hi, lo + x * constant[1]


# ---- exp and the logistic function -----------------------------------------------------------


def _exp(hi, lo: _Value = 0.0, factor=1.0):
    """factor * exp(hi + lo), rounded once where it is subnormal; hi <= 0, lo tiny."""
    half = np.exp(0.5 * hi)
    value = np.where(hi > -700.0, factor * np.exp(hi), factor * half * half)
    return value + value * lo


def _exp_minus_abs(hi, lo: _Value = 0.0, factor=1.0):
    """factor * exp(-|hi + lo|)."""
    return _exp(-np.abs(hi), np.where(hi < 0, lo, -lo), factor)


def _logistic(hi, lo: _Value = 0.0):
    """1 / (1 + exp(-w)) for w = hi + lo, with an exponential that cannot overflow."""
    e = _exp_minus_abs(hi, lo)
    return np.where(hi < 0, e, 1.0) / (1.0 + e)


def _gate(x, hi, lo: _Value = 0.0):
    """x * logistic(w) for w = hi + lo of the sign of x."""
    e = _exp_minus_abs(hi, lo)
    return np.where(hi < 0, _exp_minus_abs(hi, lo, np.maximum(x, -1e3)), x) / (1.0 + e)


def _gate_slope(xdw, hi, lo: _Value = 0.0):
    """d/dx of x * logistic(w): s + x w' s (1 - s), where xdw = x w' and s = logistic(w).

    With e = exp(-|w|) it is (1 + e + e x w') / (1 + e)^2 right of 0 and
    e (1 + e + x w') / (1 + e)^2 left of it.
    """
    e = _exp_minus_abs(hi, lo)
    left = _exp_minus_abs(hi, lo, (1.0 + e + xdw) / (1.0 + e) ** 2)
    return np.where(hi < 0, left, (1.0 + e + e * xdw) / (1.0 + e) ** 2)


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)


def _from_zero(x, zero, second, elsewhere):
    """A derivative f' near its zero z, as the integral of f'' from z to x; elsewhere as given.

    Near z the terms of f' cancel, while f'' keeps its sign: Gauss-Legendre with 12 nodes gives the
    integral to full precision within 1/2 of z, and x - z is exact, as z = hi + lo.
    """
    hi, lo = zero
    distance = np.clip((x - hi) - lo, -0.5, 0.5)
    values = (second(hi + distance * 0.5 * (1.0 + node)) for node in _NODES)
    mean = 0.5 * sum(w * value for w, value in zip(_WEIGHTS, values, strict=True))
    return np.where(np.abs(x - hi) < 0.5, distance * mean, elsewhere)


def _branch(x, slopes, gradient):
    """The gradient where the function slopes, 0 where it is flat by a branch; a NaN x stays."""
    return np.where(np.isnan(x), x, np.where(slopes, gradient, 0.0))


# ---- piecewise linear ------------------------------------------------------------------------


@_float64
def identity(x):
    """f(x) = x; what a BatchNorm without an activation applies."""
    return x.copy()


@_float64
def identity_backward(dy, x):
    """f'(x) = 1."""
    return np.where(np.isnan(x), x, dy)


@_float64
def relu(x):
    """f(x) = max(x, 0); f(-0.0) = -0.0. Nair & Hinton 2010."""
    return np.where(x < 0, 0.0, x)


@_float64
def relu_backward(dy, x):
    """f'(x) = 1 for x > 0, else 0: a branch, so a NaN dy does not pass it."""
    return np.where(np.isnan(x), x, np.where(x <= 0, 0.0, dy))


@_float64
def relu6(x):
    """f(x) = min(max(x, 0), 6); f(-0.0) = -0.0. Krizhevsky 2010."""
    return np.where(x > 6, 6.0, np.where(x < 0, 0.0, x))


@_float64
def relu6_backward(dy, x):
    """f'(x) = 1 for 0 < x < 6, else 0 by a branch."""
    return _branch(x, (x > 0) & (x < 6), dy)


@_float64
def relu_squared(x):
    """f(x) = max(x, 0)^2. So et al. 2021."""
    return np.where(x < 0, 0.0, x) ** 2


@_float64
def relu_squared_backward(dy, x):
    """f'(x) = 2 max(x, 0), 0 by a branch up to 0; 2 goes to the factor that cannot overflow."""
    return _branch(x, x > 0, np.where(x > 1, (2.0 * dy) * x, dy * (2.0 * x)))


@_float64
def leaky_relu(x, negative_slope=0.01):
    """f(x) = x for x > 0, else negative_slope * x. Maas, Hannun & Ng 2013."""
    return np.where(x > 0, x, negative_slope * x)


@_float64
def leaky_relu_backward(dy, x, negative_slope=0.01):
    """f'(x) = 1 for x > 0, else negative_slope, at 0 too."""
    return np.where(np.isnan(x), x, np.where(x > 0, dy, negative_slope * dy))


@_float64
def prelu(x, weight):
    """f(x) = x for x > 0, else weight * x, where weight is learned. He, Zhang, Ren & Sun 2015.

    The weight is broadcast as NumPy does: shape (C, 1, 1) gives each channel of NCHW its own.
    """
    return np.where(x > 0, x, weight * x)


@_float64
def prelu_backward(dy, x, weight):
    """(dx, dweight): df/dx = 1 for x > 0, else weight; df/dweight = min(x, 0).

    dx has the broadcast shape; dweight is summed to the shape of weight.
    """
    dx = np.where(np.isnan(x), x, np.where(x > 0, dy, weight * dy))
    dweight = np.where(np.isnan(x), x, np.where(x >= 0, 0.0, dy * x))
    return dx, _sum_to_shape(np.broadcast_to(dweight, dx.shape), weight.shape)


@_float64
def rrelu(x, lower=0.125, upper=1.0 / 3.0):
    """f(x) = x for x > 0, else (lower + upper) / 2 * x: the form for evaluation. Xu et al. 2015."""
    return np.where(x > 0, x, 0.5 * (lower + upper) * x)


@_float64
def rrelu_backward(dy, x, lower=0.125, upper=1.0 / 3.0):
    """f'(x) = 1 for x > 0, else (lower + upper) / 2, at 0 too."""
    return np.where(np.isnan(x), x, np.where(x > 0, dy, 0.5 * (lower + upper) * dy))


def _sum_to_shape(values, shape):
    """Undo a broadcast: sum over the axes along which an array of this shape was repeated."""
    lead = values.ndim - len(shape)
    repeated = [k for k in range(values.ndim) if k < lead or shape[k - lead] == 1]
    kept = [k for k in range(values.ndim) if k not in repeated]
    count = math.prod(values.shape[k] for k in repeated)
    rows = np.ascontiguousarray(values.transpose(kept + repeated)).reshape(math.prod(shape), count)
    return rows.sum(axis=1).reshape(shape)  # contiguous rows: NumPy sums them pairwise


# ---- exponential -----------------------------------------------------------------------------


@_float64
def elu(x, alpha=1.0):
    """f(x) = x for x > 0, else alpha (exp(x) - 1). Clevert, Unterthiner & Hochreiter 2015."""
    return np.where(x > 0, x, alpha * np.expm1(x))


@_float64
def elu_backward(dy, x, alpha=1.0):
    """f'(x) = 1 for x > 0, else alpha exp(x), at 0 too."""
    return dy * np.where(x > 0, 1.0, _exp_minus_abs(x, factor=alpha))


# Klambauer et al. 2017, the fixed point for mean 0 and variance 1, to 32 digits.
_SELU_SCALE = 1.0507009873554804934193349852946
_SELU_SCALE_ALPHA = 1.7580993408473768599402175208123  # scale * 1.6732632423543772848170429916717


@_float64
def selu(x):
    """f(x) = scale x for x > 0, else scale alpha (exp(x) - 1). Klambauer et al. 2017."""
    return np.where(x > 0, _SELU_SCALE * x, _SELU_SCALE_ALPHA * np.expm1(x))


@_float64
def selu_backward(dy, x):
    """f'(x) = scale for x > 0, else scale alpha exp(x), at 0 too."""
    return dy * np.where(x > 0, _SELU_SCALE, _exp_minus_abs(x, factor=_SELU_SCALE_ALPHA))


def _grown(hi, lo: _Value = 0.0, factor=1.0):
    """factor * exp(hi + lo) for any hi, where factor may be small and exp(hi) overflow."""
    large = factor * np.exp(700.0) * np.exp(np.minimum(hi, 1400.0) - 700.0)
    near = np.where(hi < 709.0, factor * np.exp(np.minimum(hi, 709.0)), large)
    return np.where(hi < 0, _exp(np.minimum(hi, 0.0), 0.0, factor), near) * (1.0 + lo)


def _quotient(a, b):
    """a / b as hi + lo."""
    hi = a / b
    product, rest = _two_product(hi, b)
    lo = ((a - product) - rest) / b
    return hi, np.where(np.isfinite(lo), lo, 0.0)


@_float64
def celu(x, alpha=1.0):
    """f(x) = x for x > 0, else alpha (exp(x / alpha) - 1). Barron 2017.

    expm1(hi + lo) = expm1(hi) + exp(hi) lo; a tiny x / alpha, which may underflow, gives x.
    """
    hi, lo = _quotient(x, alpha)
    near = alpha * (np.expm1(np.minimum(hi, 40.0)) + np.exp(np.minimum(hi, 40.0)) * lo)
    low = np.where(hi > 40.0, _grown(hi, lo, alpha), near)
    return np.where((x > 0) | (np.abs(hi) < 1e-18), x, low)


@_float64
def celu_backward(dy, x, alpha=1.0):
    """f'(x) = 1 for x > 0, else exp(x / alpha): 1 at 0."""
    hi, lo = _quotient(x, alpha)
    return np.where(np.isnan(x), x, np.where(x > 0, dy, _grown(hi, lo, dy)))


@_float64
def sigmoid(x):
    """f(x) = 1 / (1 + exp(-x)), by e = exp(-|x|): 1 / (1 + e) right of 0, e / (1 + e) left."""
    return _logistic(x)


@_float64
def sigmoid_backward(dy, x):
    """f'(x) = f(x) f(-x) = e / (1 + e)^2 with e = exp(-|x|)."""
    e = _exp_minus_abs(x)
    return dy * (e / (1.0 + e) ** 2)


@_float64
def hardsigmoid(x):
    """f(x) = x / 6 + 1 / 2 between 0 and 1, as (x + 3) / 6. Howard et al. 2019."""
    return np.where(x <= -3, 0.0, np.where(x >= 3, 1.0, (x + 3.0) / 6.0))


@_float64
def hardsigmoid_backward(dy, x):
    """f'(x) = 1/6 for -3 < x < 3, else 0 by a branch."""
    return _branch(x, (x > -3) & (x < 3), dy * (1.0 / 6.0))


def _line(x, slope, offset):
    """slope x + offset as hi + lo: near its zero the terms cancel."""
    product, rest = _two_product(slope, x)
    hi, lo = _two_sum(product, offset)
    return hi, np.where(np.isfinite(hi), lo + rest, 0.0)


@_float64
def hard_sigmoid(x, alpha=0.2, beta=0.5):
    """f(x) = alpha x + beta between 0 and 1. Courbariaux, Bengio & David 2015; ONNX."""
    hi, lo = _line(x, alpha, beta)
    value = hi + lo
    return np.where(value <= 0, 0.0, np.where(value >= 1, 1.0, value))


@_float64
def hard_sigmoid_backward(dy, x, alpha=0.2, beta=0.5):
    """f'(x) = alpha for 0 < alpha x + beta < 1, else 0 by a branch."""
    hi, lo = _line(x, alpha, beta)
    inside = (hi + lo > 0) & ((hi - 1.0) + lo < 0)
    return _branch(x, inside, alpha * dy)


@_float64
def logsigmoid(x):
    """f(x) = -log(1 + exp(-x)) = min(x, 0) - log1p(exp(-|x|)); f(inf) = -0.0."""
    near, far = np.log1p(_exp_minus_abs(x)), _exp_minus_abs(x)
    return np.where(x < 0, x, -0.0) - np.where(np.abs(x) > 40, far, near)


@_float64
def logsigmoid_backward(dy, x):
    """f'(x) = logistic(-x)."""
    return dy * _logistic(-x)


@_float64
def tanh(x):
    """f(x) = (exp(x) - exp(-x)) / (exp(x) + exp(-x))."""
    return np.tanh(x)


@_float64
def tanh_backward(dy, x):
    """f'(x) = 1 - f(x)^2 = sech(x)^2 = 4 e / (1 + e)^2 with e = exp(-2|x|)."""
    e = _exp_minus_abs(2.0 * x)
    return dy * _exp_minus_abs(2.0 * x, factor=4.0 / (1.0 + e) ** 2)


@_float64
def hardtanh(x, min_val=-1.0, max_val=1.0):
    """f(x) = min(max(x, min_val), max_val). Collobert 2004."""
    raised = np.where(x < min_val, min_val, x)
    return np.where(raised > max_val, max_val, raised)


@_float64
def hardtanh_backward(dy, x, min_val=-1.0, max_val=1.0):
    """f'(x) = 1 for min_val < x < max_val, else 0 by a branch."""
    return _branch(x, (x > min_val) & (x < max_val), dy)


@_float64
def tanhshrink(x):
    """f(x) = x - tanh(x); for |x| < 2 by Lambert's fraction, in which nothing cancels.

    tanh(x) = x / (1 + c), c = x^2 / (3 + x^2 / (5 + x^2 / (7 + ...))), so f(x) = x c / (1 + c).
    """
    square = np.minimum(np.abs(x), 2.0) ** 2
    fraction = 61.0
    for odd in range(59, 1, -2):
        fraction = odd + square / fraction
    c = square / fraction
    return np.where(np.abs(x) < 2, x * c / (1.0 + c), x - np.tanh(x))


@_float64
def tanhshrink_backward(dy, x):
    """f'(x) = tanh(x)^2."""
    return dy * np.tanh(x) ** 2


# ---- shrinking and thresholds ------------------------------------------------------------------


@_float64
def hardshrink(x, lambd=0.5):
    """f(x) = 0 for -lambd <= x <= lambd, else x. Donoho & Johnstone 1994."""
    return np.where((x >= -lambd) & (x <= lambd), 0.0, x)


@_float64
def hardshrink_backward(dy, x, lambd=0.5):
    """f'(x) = 1 outside [-lambd, lambd], else 0 by a branch."""
    return _branch(x, ~((x >= -lambd) & (x <= lambd)), dy)


@_float64
def softshrink(x, lambd=0.5):
    """f(x) = x + lambd for x < -lambd, x - lambd for x > lambd, else 0. Donoho 1995."""
    return _shrunk(x, lambd, lambd)


@_float64
def softshrink_backward(dy, x, lambd=0.5):
    """f'(x) = 1 for x < -lambd and for x > lambd, else 0 by a branch."""
    return _branch(x, (x < -lambd) | (x > lambd), dy)


@_float64
def shrink(x, bias=0.0, lambd=0.5):
    """f(x) = x + bias for x < -lambd, x - bias for x > lambd, else 0. ONNX."""
    return _shrunk(x, bias, lambd)


@_float64
def shrink_backward(dy, x, bias=0.0, lambd=0.5):
    """f'(x) = 1 for x < -lambd and for x > lambd, else 0 by a branch."""
    return _branch(x, (x < -lambd) | (x > lambd), dy)


def _shrunk(x, bias, lambd):
    flat = np.where(np.isnan(x), x, 0.0)
    return np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, flat))


@_float64
def threshold(x, threshold, value):
    """f(x) = x for x > threshold, else value."""
    return np.where(np.isnan(x) | (x > threshold), x, value)


@_float64
def threshold_backward(dy, x, threshold, value):
    """f'(x) = 1 for x > threshold, else 0 by a branch."""
    return _branch(x, x > threshold, dy)


@_float64
def thresholded_relu(x, alpha=1.0):
    """f(x) = x for x > alpha, else 0. Konda, Memisevic & Krueger 2014."""
    return np.where(np.isnan(x) | (x > alpha), x, 0.0)


@_float64
def thresholded_relu_backward(dy, x, alpha=1.0):
    """f'(x) = 1 for x > alpha, else 0 by a branch."""
    return _branch(x, x > alpha, dy)


# ---- soft steps and ramps ----------------------------------------------------------------------


@_float64
def softsign(x):
    """f(x) = x / (1 + |x|). Bergstra et al. 2009."""
    return np.where(np.isinf(x), np.sign(x), x / (1.0 + np.abs(x)))


@_float64
def softsign_backward(dy, x):
    """f'(x) = 1 / (1 + |x|)^2; divided twice, since the square may overflow."""
    root = 1.0 + np.abs(x)
    return dy * (1.0 / root / root)


@_float64
def softplus(x, beta=1.0):
    """f(x) = log(1 + exp(beta x)) / beta, without a threshold. Dugas et al. 2001.

    max(x, 0) + log1p(exp(-|beta x|)) / beta; beyond 40, log1p(e) = e to the last bit.
    """
    hi, lo = _two_product(beta, x)
    near = np.log1p(_exp_minus_abs(hi, lo)) / beta
    far = _exp_minus_abs(hi, lo, 1.0 / beta)
    return np.where(hi > 0, x, 0.0) + np.where(np.abs(hi) > 40, far, near)


@_float64
def softplus_backward(dy, x, beta=1.0):
    """f'(x) = logistic(beta x)."""
    return dy * _logistic(*_two_product(beta, x))


def _squareplus_parts(x, b):
    """r = sqrt(x^2 + b) and (r - |x|) / 2 = (b / 4) / (r / 2 + |x| / 2), which does not cancel."""
    size = np.abs(x)
    square, rest = _two_product(np.minimum(size, 1e150), np.minimum(size, 1e150))
    hi, lo = _two_sum(square, b)
    root = np.where(size > 1e150, size, np.sqrt(hi + np.where(np.isfinite(hi), lo + rest, 0.0)))
    half = 0.5 * root + 0.5 * size
    return root, np.where(half == 0, 0.0, 0.25 * b / np.where(half == 0, 1.0, half))


@_float64
def squareplus(x, b=4.0):
    """f(x) = (x + sqrt(x^2 + b)) / 2 = max(x, 0) + b / (2 (sqrt(x^2 + b) + |x|)). Barron 2021."""
    return np.where(x < 0, 0.0, x) + _squareplus_parts(x, b)[1]


@_float64
def squareplus_backward(dy, x, b=4.0):
    """f'(x) = (1 + x / r) / 2 with r = sqrt(x^2 + b): q = b / (2 r (r + |x|)) or 1 - q."""
    root, excess = _squareplus_parts(x, b)
    q = np.where((root == 0) & (b == 0), 0.0, excess / root)
    return dy * np.where(x > 0, 1.0 - q, q)


@_float64
def sparse_plus(x):
    """f(x) = 0 for x <= -1, x for x >= 1, else (x + 1)^2 / 4. jax.nn.sparse_plus."""
    return np.where(x <= -1, 0.0, np.where(x >= 1, x, (x + 1.0) ** 2 / 4.0))


@_float64
def sparse_plus_backward(dy, x):
    """f'(x) = (x + 1) / 2 between 0 and 1; 0 by a branch for x <= -1."""
    return _branch(x, x > -1, np.where(x >= 1, dy, dy * ((x + 1.0) / 2.0)))


@_float64
def sparse_sigmoid(x):
    """f(x) = (x + 1) / 2 between 0 and 1. Martins & Astudillo 2016."""
    return np.where(x <= -1, 0.0, np.where(x >= 1, 1.0, (x + 1.0) / 2.0))


@_float64
def sparse_sigmoid_backward(dy, x):
    """f'(x) = 1/2 for -1 < x < 1, else 0 by a branch."""
    return _branch(x, (x > -1) & (x < 1), 0.5 * dy)


@_float64
def exponential(x):
    """f(x) = exp(x)."""
    return np.exp(x)


@_float64
def exponential_backward(dy, x):
    """f'(x) = exp(x); dy exp(x) may be finite where exp(x) is not."""
    return _grown(x, 0.0, dy)


# ---- gates: x times a distribution function ---------------------------------------------------

_SQRT1_2 = _pair("0.707106781186547524400844362104849039284835938")
_PHI_0 = 0.398942280401432677939946059934381868  # 1 / sqrt(2 pi)
_erfc: Any = np.frompyfunc(math.erfc, 1, 1)  # an array of objects


def _phi(x, factor=1.0):
    """factor times the normal density exp(-x^2 / 2) / sqrt(2 pi), with x^2 as hi + lo."""
    hi, lo = _two_product(x, x)
    return _exp(-0.5 * hi, -0.5 * lo, factor * _PHI_0)


def _Phi(x):
    """The normal distribution function erfc(-x / sqrt 2) / 2 for x > -5; left of it see _mills.

    1 + erf(x / sqrt 2) would cancel for x < 0. The rounding of t = -x / sqrt 2 is mended by the
    first Taylor term: erfc'(t) = -2 / sqrt pi exp(-t^2).
    """
    hi, lo = _times_pair(-x, _SQRT1_2)
    erfc = _erfc(hi).astype(np.float64) if np.ndim(hi) else np.float64(math.erfc(hi))
    return 0.5 * erfc - np.exp(-hi * hi) / math.sqrt(math.pi) * lo


def _mills(x):
    """Phi(-x) / phi(x) = 1 / (x + 1 / (x + 2 / (x + 3 / ...))) for x >= 5 (Laplace's fraction)."""
    fraction = x
    for k in range(32, 0, -1):
        fraction = x + k / fraction
    return 1.0 / fraction


@_float64
def gelu(x):
    """f(x) = x Phi(x), Phi the normal distribution function. Hendrycks & Gimpel 2016.

    x erfc(-x / sqrt 2) / 2, and x (Phi(x) / phi(x)) phi(x) for x < -5, so that a subnormal result
    is rounded once: Phi itself is subnormal from -37.6 on and 0 from -38.5 on.
    """
    z = np.clip(x, -40.0, 40.0)
    depth = np.maximum(-z, 5.0)
    return np.where(x < -5, -_phi(z, depth * _mills(depth)), x * _Phi(z))


_GELU_SLOPE_ZERO = _pair("-0.751791524693564457457904946779524039664471153")


@_float64
def gelu_backward(dy, x):
    """f'(x) = Phi(x) + x phi(x), and phi(x) (Phi(x) / phi(x) + x) for x < -5.

    It is 0 at -0.7518; f''(x) = (2 - x^2) phi(x).
    """
    z = np.clip(x, -40.0, 40.0)
    depth = np.maximum(-z, 5.0)
    tail = -_phi(z, depth - _mills(depth))  # -0 where it is too small
    slope = np.where(z < -5, tail, _Phi(z) + z * _phi(z))
    return dy * _from_zero(z, _GELU_SLOPE_ZERO, lambda t: (2.0 - t * t) * _phi(t), slope)


# w(x) = sqrt(8 / pi) (x + 0.044715 x^3), so that x logistic(w) = x (1 + tanh(w / 2)) / 2.
_GELU_TANH_LINEAR = _pair("1.59576912160573071175978423973752747390343452")
_GELU_TANH_CUBIC = _pair("0.0713548162726002487763387522798635409955920748")
_GELU_TANH_SLOPE_ZERO = _pair("-0.752461422071016258487954443288916090605392178")


def _gelu_tanh_argument(x):
    """w(x) as hi + lo."""
    square, square_lo = _two_product(x, x)
    cubic, cubic_lo = _times_pair(square, _GELU_TANH_CUBIC)
    hi, lo = _two_sum(_GELU_TANH_LINEAR[0], cubic)
    lo = lo + _GELU_TANH_LINEAR[1] + cubic_lo + square_lo * _GELU_TANH_CUBIC[0]
    return _times_pair(x, (hi, lo))


def _gelu_tanh_second(x):
    """f''(x) = s (1 - s) (2 w' + x w'' + x w'^2 (1 - 2 s)) with s = logistic(w)."""
    linear, cubic = _GELU_TANH_LINEAR[0], _GELU_TANH_CUBIC[0]
    s = _logistic(x * (linear + cubic * x * x))
    w1, w2 = linear + 3.0 * cubic * x * x, 6.0 * cubic * x
    return s * (1.0 - s) * (2.0 * w1 + x * w2 + x * w1 * w1 * (1.0 - 2.0 * s))


@_float64
def gelu_tanh(x):
    """f(x) = x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2. Hendrycks & Gimpel 2016.

    Since (1 + tanh(u)) / 2 = logistic(2u), it is a gate like silu, and nothing cancels.
    """
    return _gate(x, *_gelu_tanh_argument(np.clip(x, -40.0, 40.0)))


@_float64
def gelu_tanh_backward(dy, x):
    """f'(x) = s + x w' s (1 - s) with s = logistic(w), w = sqrt(8/pi) (x + 0.044715 x^3).

    It is 0 at -0.7525.
    """
    z = np.clip(x, -40.0, 40.0)
    xdw = z * (_GELU_TANH_LINEAR[0] + 3.0 * _GELU_TANH_CUBIC[0] * z * z)
    slope = _gate_slope(xdw, *_gelu_tanh_argument(z))
    return dy * _from_zero(z, _GELU_TANH_SLOPE_ZERO, _gelu_tanh_second, slope)


_SILU_SLOPE_ZERO = _pair("-1.27846454276107379510935873902298015543947749")


def _silu_slope(hi, lo: _Value = 0.0):
    """s (1 + w (1 - s)) with s = logistic(w), w = hi + lo. It is 0 at -1.2785."""
    z = np.clip(hi, -1e3, 1e3)
    zero_hi, zero_lo = _SILU_SLOPE_ZERO
    return _from_zero(z, (zero_hi, zero_lo - lo), _silu_second, _gate_slope(z, z, lo))


def _silu_second(x):
    """f''(x) = s (1 - s) (2 + x (1 - 2 s)) with s = logistic(x)."""
    s = _logistic(x)
    return s * (1.0 - s) * (2.0 + x * (1.0 - 2.0 * s))


def _swished(x, hi, lo):
    """x logistic(w), w = hi + lo; x itself at infinity, unless logistic(w) vanishes there."""
    e = _exp_minus_abs(hi, lo)
    left = _exp_minus_abs(hi, lo, np.clip(x, -_LARGEST, _LARGEST))
    return np.where(hi < 0, left, x) / (1.0 + e)


_LARGEST = np.finfo(np.float64).max
_QUICK_GELU_BETA = _pair("1.702")


def _quick_gelu_argument(x):
    return _times_pair(np.clip(x, -1e4, 1e4), _QUICK_GELU_BETA)


@_float64
def quick_gelu(x):
    """f(x) = x logistic(1.702 x). Hendrycks & Gimpel 2016."""
    return _swished(x, *_quick_gelu_argument(x))


@_float64
def quick_gelu_backward(dy, x):
    """f'(x) = silu'(1.702 x). It is 0 at -0.7512."""
    return dy * _silu_slope(*_quick_gelu_argument(x))


@_float64
def silu(x):
    """f(x) = x / (1 + exp(-x)), also "swish". Hendrycks & Gimpel 2016; Elfwing, Uchibe & Doya 2018;
    Ramachandran, Zoph & Le 2017.
    """
    return _gate(x, x)


@_float64
def silu_backward(dy, x):
    """f'(x) = s (1 + x (1 - s)) with s = logistic(x). It is 0 at -1.2785."""
    return dy * _silu_slope(x)


def _swish_argument(x, beta):
    return _two_product(beta, np.clip(x, -_LARGEST, _LARGEST))


@_float64
def swish(x, beta=1.0):
    """f(x) = x logistic(beta x). Ramachandran, Zoph & Le 2017."""
    return _swished(x, *_swish_argument(x, beta))


@_float64
def swish_backward(dy, x, beta=1.0):
    """f'(x) = silu'(beta x). It is 0 at -1.2785 / beta."""
    return dy * _silu_slope(*_swish_argument(x, beta))


@_float64
def hardswish(x):
    """f(x) = 0 for x <= -3, x for x >= 3, else x (x + 3) / 6. Howard et al. 2019."""
    return np.where(x <= -3, 0.0, np.where(x >= 3, x, x * ((x + 3.0) / 6.0)))


@_float64
def hardswish_backward(dy, x):
    """f'(x) = (2 x + 3) / 6 between; 0 by a branch for x <= -3, 1 for x >= 3."""
    slope = (2.0 * np.clip(x, -3.0, 3.0) + 3.0) / 6.0
    return _branch(x, x > -3, np.where(x >= 3, dy, dy * slope))


_MISH_SLOPE_ZERO = _pair("-1.19243121451549521213758834042073940560068641")


def _mish_second(x):
    """f''(x) = 2 t' + x t'', with t = tanh(log(1 + e^x)), s = logistic(x), t' = (1 - t^2) s."""
    s = _logistic(x)
    t = np.tanh(np.log1p(np.exp(x)))
    return (1.0 - t * t) * (2.0 * s + x * (s * (1.0 - s) - 2.0 * t * s * s))


@_float64
def mish(x):
    """f(x) = x tanh(log(1 + e^x)). Misra 2019.

    With e = exp(-|x|): x e (e + 2) / (e (e + 2) + 2) left of 0, x (1 + 2 e) / (1 + 2 e + 2 e^2)
    right of it.
    """
    e = _exp_minus_abs(x)
    left = _exp_minus_abs(x, 0.0, np.maximum(x, -1e3) * (e + 2.0) / (e * (e + 2.0) + 2.0))
    return np.where(x < 0, left, x * ((1.0 + 2.0 * e) / (1.0 + 2.0 * e + 2.0 * e * e)))


@_float64
def mish_backward(dy, x):
    """f'(x) = t + x (1 - t^2) s, t = tanh(log(1 + e^x)), s = logistic(x). It is 0 at -1.1924."""
    z = np.clip(x, -1e3, 1e3)
    e = _exp_minus_abs(z)
    below = e * (e + 2.0) + 2.0
    factor = ((e + 2.0) * below + 4.0 * z * (1.0 + e)) / (below * below)
    above = 1.0 + 2.0 * e + 2.0 * e * e
    right = ((1.0 + 2.0 * e) * above + 4.0 * z * e * e * (1.0 + e)) / (above * above)
    slope = np.where(z < 0, _exp_minus_abs(z, 0.0, factor), right)
    return dy * _from_zero(z, _MISH_SLOPE_ZERO, _mish_second, slope)


@_float64
def hard_mish(x):
    """f(x) = 0 for x <= -2, x for x >= 0, else x (x + 2) / 2. Misra 2019."""
    return np.where(x <= -2, 0.0, np.where(x >= 0, x, x * ((x + 2.0) / 2.0)))


@_float64
def hard_mish_backward(dy, x):
    """f'(x) = x + 1 between; 0 by a branch for x <= -2, 1 for x >= 0."""
    return _branch(x, x > -2, np.where(x >= 0, dy, dy * (np.clip(x, -2.0, 0.0) + 1.0)))


def _collect(functions):
    """Pair each NAME with its NAME_backward, in the order of this file."""
    suffix = "_backward"
    names = [name.removesuffix(suffix) for name in functions if name.endswith(suffix)]
    return {name: (functions[name], functions[name + suffix]) for name in names}


activations = _collect(dict(globals()))
"""name -> (value, backward)"""


# ---- gated: x times an activation of a gate ----------------------------------------------------


def _gated(gradients):
    """Sum the gradients in x and gate, which have the broadcast shape, back to theirs."""

    @_float64
    @functools.wraps(gradients)
    def wrapper(dy, x, gate):
        parts = gradients(dy, x, gate)
        shape = np.broadcast_shapes(np.shape(dy), np.shape(x), np.shape(gate))
        return tuple(
            _sum_to_shape(np.broadcast_to(part, shape), np.shape(of))
            for part, of in zip(parts, (x, gate), strict=True)
        )

    return wrapper


@_float64
def glu(x, gate):
    """x logistic(gate). Dauphin et al. 2017."""
    factor = np.where(gate < 0, _exp_minus_abs(gate, 0.0, x), x)
    return factor / (1.0 + _exp_minus_abs(gate))


@_gated
def glu_backward(dy, x, gate):
    """(dx, dgate): dy s and dy x s (1 - s), s = logistic(gate)."""
    return glu(dy, gate), sigmoid_backward(dy * x, gate)


@_float64
def swiglu(x, gate):
    """x gate logistic(gate). Shazeer 2020."""
    factor = x * np.maximum(gate, -1e3)
    factor = np.where(gate < 0, _exp_minus_abs(gate, 0.0, factor), factor)
    return factor / (1.0 + _exp_minus_abs(gate))


@_gated
def swiglu_backward(dy, x, gate):
    """(dx, dgate): dy silu(gate) and dy x silu'(gate)."""
    return swiglu(dy, gate), silu_backward(dy * x, gate)


@_float64
def geglu(x, gate):
    """x gate Phi(gate). Shazeer 2020."""
    z = np.clip(gate, -60.0, 60.0)
    depth = np.maximum(-z, 5.0)
    return np.where(
        gate < -5, -_phi(z, x * depth * _mills(depth)), x * np.maximum(gate, -5.0) * _Phi(z)
    )


@_gated
def geglu_backward(dy, x, gate):
    """(dx, dgate): dy gelu(gate) and dy x gelu'(gate)."""
    return geglu(dy, gate), gelu_backward(dy * x, gate)


@_float64
def reglu(x, gate):
    """x max(gate, 0), 0 by a branch for a gate up to 0. Shazeer 2020."""
    return _branch(gate, gate > 0, x * gate)


@_gated
def reglu_backward(dy, x, gate):
    """(dx, dgate): dy max(gate, 0), and dy x where gate > 0."""
    return reglu(dy, gate), relu_backward(dy * x, gate)


gated = {name: pair for name, pair in _collect(dict(globals())).items() if name not in activations}
"""name -> (value, backward), each of x and a gate; the backward is (dx, dgate)"""


# ---- BatchNorm -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Context:
    """What the backward needs of a forward; x is referred to, the small arrays are copies.

    mean and var (biased) have shape (C,), count is the number of values a channel. With
    training=False they are the running statistics, and constants for the backward.
    """

    x: np.ndarray
    mean: np.ndarray
    var: np.ndarray
    count: int
    weight: np.ndarray | None
    bias: np.ndarray | None
    training: bool
    eps: float
    axis: int
    activation: str | None
    activation_params: dict
    round_to: np.dtype | None
    residual: np.ndarray | None
    shares: np.ndarray | None


@dataclasses.dataclass(frozen=True, eq=False)
class Gradients:
    """The gradients of a BatchNorm's inputs; None where an input was absent."""

    x: np.ndarray
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    residual: np.ndarray | None = None
    activation_params: dict | None = None


def batch_norm(x, *, training=False, **options):
    """y of batch_norm_forward, with the same options, by default in evaluation mode."""
    return batch_norm_forward(x, training=training, **options)[0]


@_quiet
def batch_norm_forward(
    x,
    *,
    weight=None,
    bias=None,
    running_mean=None,
    running_var=None,
    training=True,
    momentum=0.1,
    eps=1e-5,
    axis=1,
    activation=None,
    activation_params=None,
    residual=None,
    mask=None,
    sample_weight=None,
    round_to=None,
):
    """y = act(weight (x - mean) / sqrt(var + eps) + bias + residual) for each channel.

    Ioffe & Szegedy 2015; the residual, of x's shape, as in He et al. 2016.

    In training, mean and var (biased: divided by the count n) are those of the channel's n values,
    and the running statistics, where given, are updated in place:
    running = (1 - momentum) * running + momentum * batch, where the batch's variance is the
    unbiased one, var n / (n - 1). Otherwise mean and var are the running statistics.

    x has any rank from 2 and axis is its channel axis; weight, bias and the running statistics have
    shape (C,). mask and sample_weight broadcast to x's shape without the channel axis and say how
    much an element counts, 0 where the mask is False: with these shares s, n = sum(s),
    mean = sum(s x) / n and var = sum(s (x - mean)^2) / n; y is 0 where s is. activation is
    a name of `activations`, activation_params are its parameters, each of shape () or, with a value
    for each channel, (C,). round_to is a dtype to which the normalised
    value is rounded before it is activated, and dy * act'(z) in the backward.

    Returns (y, ctx): a float64 array, and the Context for batch_norm_backward. Raises ValueError or
    TypeError before anything is written.
    """
    x = _array("x", x)
    if x.ndim < 2:
        raise ValueError(f"x: rank {x.ndim} given, a rank of at least 2 is accepted")
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis: {axis} given, {-x.ndim} to {x.ndim - 1} are accepted")
    channels = x.shape[axis]
    count = math.prod(np.delete(x.shape, axis).tolist())
    round_to = None if round_to is None else np.dtype(round_to)
    weight, bias = _per_channel("weight", weight, channels), _per_channel("bias", bias, channels)
    means = _per_channel("running_mean", running_mean, channels)
    variances = _per_channel("running_var", running_var, channels)
    params = _check_activation(activation, activation_params, channels)
    shares = _shares(mask, sample_weight, np.delete(x.shape, axis))
    if residual is not None:
        residual = _array("residual", residual)
        if residual.shape != x.shape:
            raise ValueError(f"residual: shape {residual.shape} given, {x.shape} is accepted")
    if shares is not None:
        count, values = shares.sum(), np.count_nonzero(shares)
        if training and (values < 2 or count <= 1):
            raise ValueError(f"{values} values that weigh {count}: training needs more than 1")
    if momentum is None:
        raise ValueError("momentum: None given, a number is accepted (a layer can count batches)")
    if training and count < 2:
        raise ValueError(f"x: {count} values a channel given, training accepts 2 or more")
    if training:
        _check_updatable("running_mean", running_mean)
        _check_updatable("running_var", running_var)
        mean, var = _moments(_rows(x, axis), shares)
        _update(running_mean, mean, momentum)
        _update(running_var, var * (count / (count - 1)), momentum)
    elif means is None or variances is None:
        raise ValueError("running_mean, running_var: None given, evaluation accepts arrays only")
    else:
        mean, var = means, variances
    ctx = Context(
        x, mean, var, count, weight, bias, training, eps, axis, activation, params, round_to,
        residual, shares,
    )  # fmt: skip
    z = _added(ctx, _affine(ctx, _normalised(ctx)))
    y = z if activation is None else activations[activation][0](z, **_columns(params))
    return _unrows(y if shares is None else np.where(shares > 0, y, 0.0), ctx), ctx


@_quiet
def batch_norm_backward(dy, ctx):
    """The gradients of sum(dy * y) in x, weight, bias and the activation's array parameters.

    With h = (x - mean) / sqrt(var + eps), z = weight h + bias and g = dy act'(z), per channel:
    dbias = sum(g), dweight = sum(g h) and, in training, where mean and var depend on x,
    dx = weight / sqrt(var + eps) (g - mean(g) - h mean(g h)); in evaluation without the two means.
    The gradient of the residual, which is a summand of z, is g. Of elements with shares s, the
    means are sum(g) / n and sum(g h) / n times each element's share, since that is its part in mean
    and var; where s is 0, so is g.
    """
    if np.shape(dy) != ctx.x.shape:
        raise ValueError(f"dy: shape {np.shape(dy)} given, {ctx.x.shape} is accepted")
    dy = _rows(_array("dy", dy), ctx.axis)
    h = _normalised(ctx)
    if ctx.shares is not None:
        dy = np.where(ctx.shares > 0, dy, 0.0)
    g, params = _activation_gradients(dy, ctx, _added(ctx, _affine(ctx, h)))
    residual = None if ctx.residual is None else _unrows(g, ctx)
    sum_g, sum_gh = g.sum(axis=1), (g * h).sum(axis=1)
    scale = 1.0 / np.sqrt(ctx.var + ctx.eps)
    if ctx.weight is not None:
        scale = scale * ctx.weight
    if ctx.training:
        shares = 1.0 if ctx.shares is None else ctx.shares
        g = g - shares * ((sum_g / ctx.count)[:, None] + h * (sum_gh / ctx.count)[:, None])
    return Gradients(
        x=_unrows(scale[:, None] * g, ctx),
        weight=None if ctx.weight is None else sum_gh,
        bias=None if ctx.bias is None else sum_g,
        residual=residual,
        activation_params=params,
    )


def exact_stats(x, axis=1):
    """The exact mean and biased variance of each channel of a finite x, each rounded once.

    Over the common denominator d the values are integers k, and in integers of any size the
    textbook's sum(k^2) / n - (sum(k) / n)^2 is exact. Slow: for tests.
    """
    mean, var = [], []
    for row in _rows(_array("x", x), axis).tolist():
        ratios = [value.as_integer_ratio() for value in row]
        n, d = len(ratios), max(denominator for _, denominator in ratios)  # powers of 2
        ks = [numerator * (d // denominator) for numerator, denominator in ratios]
        mean.append(sum(ks) / (n * d))
        var.append((n * sum(k * k for k in ks) - sum(ks) ** 2) / (n * d) ** 2)
    return np.array(mean), np.array(var)


def _rows(x, axis):
    """x as a contiguous matrix with a row for each channel, in logical order."""
    rows = np.moveaxis(x, axis, 0)
    return np.ascontiguousarray(rows).reshape(len(rows), math.prod(rows.shape[1:]))


def _unrows(rows, ctx):
    """The inverse of _rows."""
    shape = np.moveaxis(ctx.x, ctx.axis, 0).shape
    return np.ascontiguousarray(np.moveaxis(rows.reshape(shape), 0, ctx.axis))


def _shares(mask, sample_weight, shape):
    """How much each element of a channel counts, in logical order; None: all the same."""
    if mask is None and sample_weight is None:
        return None
    mask = _array("mask", True if mask is None else mask, dtype=None)
    if mask.dtype != bool:
        raise TypeError(f"mask: dtype {mask.dtype} given, bool is accepted")
    weight = _array("sample_weight", 1.0 if sample_weight is None else sample_weight)
    if not np.isfinite(weight).all() or (weight < 0).any():
        raise ValueError("sample_weight: finite weights from 0 on are accepted")
    weight = np.broadcast_to(weight, shape)
    return np.where(np.broadcast_to(mask, shape), weight, 0.0).ravel()


def _centred(rows, shares=None):
    """(mean, rows - mean): the mean as head + tail, the head corrected once, so that the head of a
    constant row is the constant and its tail is 0. What has no share is left out, as the mean."""
    shares = np.ones(rows.shape[1]) if shares is None else shares
    count = shares.sum()
    head = np.where(shares > 0, shares * rows, 0.0).sum(axis=1) / count
    rest = np.where(shares > 0, rows - head[:, None], 0.0)
    head = head + (shares * rest).sum(axis=1) / count
    rest = np.where(shares > 0, rows - head[:, None], 0.0)
    return head, rest - ((shares * rest).sum(axis=1) / count)[:, None]


def _moments(rows, shares=None):
    """Mean and biased variance of each row, in two passes; E[x^2] - E[x]^2 would cancel."""
    mean, rest = _centred(rows, shares)
    shares = np.ones(rows.shape[1]) if shares is None else shares
    return mean, (shares * rest * rest).sum(axis=1) / shares.sum()


def _normalised(ctx):
    """h = (x - mean) / sqrt(var + eps), as rows."""
    rows = _rows(ctx.x, ctx.axis)
    rest = _centred(rows, ctx.shares)[1] if ctx.training else rows - ctx.mean[:, None]
    if ctx.shares is not None:
        rest = np.where(ctx.shares > 0, rest, 0.0)
    return rest / np.sqrt(ctx.var + ctx.eps)[:, None]


def _affine(ctx, h):
    """z = weight h + bias, rounded to round_to."""
    z = h if ctx.weight is None else h * ctx.weight[:, None]
    z = z if ctx.bias is None else z + ctx.bias[:, None]
    return _rounded(z, ctx.round_to)


def _added(ctx, z):
    """z + residual, rounded to round_to; 0 for the residual of what has no share."""
    if ctx.residual is None:
        return z
    residual = _rows(ctx.residual, ctx.axis)
    if ctx.shares is not None:
        residual = np.where(ctx.shares > 0, residual, 0.0)
    return _rounded(z + residual, ctx.round_to)


def _rounded(values, dtype):
    """Rounded once; bfloat16, which NumPy does not know, by its 8 bits and least number 2^-133."""
    if dtype is None:
        return values
    if dtype.name != "bfloat16":
        return values.astype(dtype).astype(np.float64)
    step = np.ldexp(1.0, np.maximum(np.frexp(values)[1] - 8, -133))
    nearest = np.rint(values / step) * step
    overflows = np.copysign(np.inf, values)
    return np.where(
        np.abs(nearest) < 2.0**128, nearest, np.where(np.isfinite(values), overflows, values)
    )


def _activation_gradients(dy, ctx, z):
    """g = dy act'(z), rounded to round_to, and the gradients of the array parameters by name."""
    if ctx.activation is None:
        return _rounded(dy, ctx.round_to), None
    result = activations[ctx.activation][1](dy, z, **_columns(ctx.activation_params))
    if not isinstance(result, tuple):
        return _rounded(result, ctx.round_to), None
    g, *gradients = result
    shapes = {key: value.shape for key, value in ctx.activation_params.items()}
    named = zip(shapes, gradients, strict=True)
    return _rounded(g, ctx.round_to), {key: d.reshape(shapes[key]) for key, d in named}


def _columns(params):
    """Parameters of shape (C,) as columns, which broadcast along the rows."""
    return {key: value.reshape(-1, 1) if value.ndim else value for key, value in params.items()}


def _update(running, batch, momentum):
    if running is not None:
        running[...] = (1.0 - momentum) * running.astype(np.float64) + momentum * batch


def _per_channel(name, value, channels):
    """A float64 copy of an optional array of shape (C,)."""
    if value is None:
        return None
    if np.shape(value) != (channels,):
        raise ValueError(f"{name}: shape {np.shape(value)} given, ({channels},) is accepted")
    return _array(name, value).copy()


def _check_updatable(name, value):
    if value is not None and not (isinstance(value, np.ndarray) and value.flags.writeable):
        raise TypeError(f"{name}: {type(value)} given, training accepts a writable array")


def _check_activation(activation, params, channels):
    """The parameters of an activation by name, complete, as float64 copies in their order."""
    if activation is None:
        if params:
            raise TypeError(f"activation_params: {sorted(params)} given, but no activation")
        return {}
    if activation not in activations:
        raise ValueError(f"activation: {activation!r} given, {list(activations)} are accepted")
    given = dict(params or {})
    accepted = list(inspect.signature(activations[activation][0]).parameters.values())[1:]
    names = [parameter.name for parameter in accepted]
    if set(given) - set(names):
        raise TypeError(f"activation_params: {sorted(given)} given, {names} are accepted")
    defaults = {p.name: p.default for p in accepted if p.default is not p.empty}
    if set(names) - set(given) - set(defaults):
        raise TypeError(f"activation_params: {sorted(given)} given, {names} are needed")
    merged = {name: _array(name, {**defaults, **given}[name]).copy() for name in names}
    for name, value in merged.items():
        if value.shape not in ((), (channels,)):
            raise ValueError(f"{name}: shape {value.shape} given, () or ({channels},) is accepted")
    return merged
