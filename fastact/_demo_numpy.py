"""BatchNorm + activation as a NumPy user writes them: what the demo compares its time with.

`batch_norm_forward` and `batch_norm_backward` take the arguments of fastact's, for a training batch
of shape (N, C), and keep its dtype. The activations are textbook expressions. Which one belongs to
which activation is not written down: the one whose values and gradients agree with
`fastact.reference` is taken.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

import fastact
from fastact import reference

START = 0.25  # of a parameter without a default: He et al. 2015, section 2.1
Params = Mapping[str, Any]  # numbers, or an array where one is learned


class Context(NamedTuple):
    """What the backward needs."""

    normal: np.ndarray
    z: np.ndarray
    y: np.ndarray
    scale: np.ndarray
    function: Expression
    params: Params


def batch_norm_forward(
    x: np.ndarray,
    *,
    weight: np.ndarray,
    bias: np.ndarray,
    running_mean: np.ndarray,
    running_var: np.ndarray,
    training: bool,
    activation: str,
    activation_params: Params,
) -> tuple[np.ndarray, Context]:
    """y and what the backward needs, one NumPy expression after another."""
    assert training, "nothing else is timed"
    mean = x.mean(axis=0)
    centred = x - mean
    var = np.einsum("ij,ij->j", centred, centred) / len(x)
    running_mean += 0.1 * (mean - running_mean)
    running_var += 0.1 * (var * (len(x) / (len(x) - 1)) - running_var)
    rstd = 1 / np.sqrt(var + 1e-5)
    normal = centred * rstd
    z = normal * weight + bias
    function = expression(activation)
    y = function.value(z, **activation_params)
    return y, Context(normal, z, y, weight * rstd, function, activation_params)


def batch_norm_backward(dy: np.ndarray, ctx: Context) -> SimpleNamespace:
    """The gradients, under fastact's names."""
    normal, z, y, scale, function, params = ctx
    dz, *learned = _parts(function.gradient(dy, z, y, **params))
    bias = dz.sum(axis=0)
    weight = np.einsum("ij,ij->j", dz, normal)
    x = scale * (dz - bias / len(dz) - normal * (weight / len(dz)))
    named = dict(zip(params, learned, strict=bool(learned)))  # not every parameter is learned
    return SimpleNamespace(x=x, weight=weight, bias=bias, activation_params=named)


class Expression(NamedTuple):
    """value(x, **params) and gradient(dy, x, y, **params), where y is the value.

    The gradient is dx, or (dx, dparam) where a parameter is learned. `textbook` is False where
    no expression below fits and the float64 functions of `fastact.reference` stand in.
    """

    value: Callable[..., np.ndarray]
    gradient: Callable[..., Any]
    textbook: bool = True


def required_parameters(activation: str) -> list[str]:
    """The parameters without a default: those that are learned, and a few that stay as they are."""
    parameters = fastact.activations[activation].parameters
    return [name for name, default in parameters.items() if default is None]


@functools.cache
def expression(activation: str) -> Expression:
    """The expression that agrees with `fastact.reference`, value and gradient, on a grid."""
    value, backward = reference.activations[activation]
    x = np.linspace(-4, 4, 516, dtype=np.float32).reshape(-1, 4)
    dy = np.cos(7 * x)
    params = {name: np.full(4, START, np.float32) for name in required_parameters(activation)}
    exact = [value(x, **params), *_parts(backward(dy, x, **params))]
    for candidate in _candidates(activation):
        try:
            y = candidate.value(x, **params)
            got = [y, *_parts(candidate.gradient(dy, x, y, **params))]
        except TypeError:  # it has other parameters
            continue
        if len(got) == len(exact) and all(map(_agree, got, exact)):
            return candidate

    def stand_in(
        dy: np.ndarray, x: np.ndarray, y: np.ndarray, **params: Any
    ) -> tuple[np.ndarray, ...]:
        return tuple(part.astype(x.dtype) for part in _parts(backward(dy, x, **params)))

    return Expression(lambda x, **params: value(x, **params).astype(x.dtype), stand_in, False)


def _parts(result: Any) -> tuple[np.ndarray, ...]:
    return result if isinstance(result, tuple) else (result,)


def _agree(got: np.ndarray, exact: np.ndarray) -> bool:
    return got.dtype == np.float32 and np.allclose(got, exact, rtol=1e-4, atol=1e-5)


def _candidates(activation: str) -> Iterator[Expression]:
    """Fast forms in the input's dtype; a gradient uses y where that saves work."""
    from scipy.special import ndtr  # the normal distribution; scikit-learn brings SciPy along

    def logistic(x: Any) -> Any:
        return 1 / (1 + np.exp(-x))

    def gate_gradient(dy: Any, x: Any, w: Any, dw: Any) -> Any:  # of x * logistic(w(x))
        s = logistic(w)
        return dy * (s + x * s * (1 - s) * dw)

    if isinstance(own := getattr(np, activation, None), np.ufunc):  # NumPy has it by this name
        yield Expression(own, lambda dy, x, y: dy * (1 - y * y))
    yield Expression(lambda x: x, lambda dy, x, y: dy)
    yield Expression(lambda x: np.maximum(x, 0), lambda dy, x, y: dy * (x > 0))
    yield Expression(
        lambda x: np.where(x > 0, x, 0.01 * x),
        lambda dy, x, y: np.where(x > 0, dy, 0.01 * dy),
    )
    yield Expression(
        lambda x, weight: np.where(x > 0, x, weight * x),
        lambda dy, x, y, weight: (
            np.where(x > 0, dy, weight * dy),
            (dy * np.minimum(x, 0)).sum(axis=0),
        ),
    )
    for scale, alpha in (1, 1), (1.0507009873554805, 1.6732632423543772):
        yield Expression(
            lambda x, s=scale, sa=scale * alpha: np.where(x > 0, s * x, sa * np.expm1(x)),
            lambda dy, x, y, s=scale, sa=scale * alpha: dy * np.where(x > 0, s, y + sa),
        )
    yield Expression(logistic, lambda dy, x, y: dy * (y * (1 - y)))
    yield Expression(  # seven times as fast as np.logaddexp(x, 0)
        lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
        lambda dy, x, y: dy * logistic(x),
    )
    yield Expression(lambda x: x * logistic(x), lambda dy, x, y: gate_gradient(dy, x, x, 1))
    yield Expression(
        lambda x: x * ndtr(x),
        lambda dy, x, y: dy * (ndtr(x) + x * (np.exp(-0.5 * x * x) * (2 * math.pi) ** -0.5)),
    )
    a, b = (8 / math.pi) ** 0.5, (8 / math.pi) ** 0.5 * 0.044715
    yield Expression(
        lambda x: x * logistic(x * (a + b * (x * x))),
        lambda dy, x, y: gate_gradient(dy, x, x * (a + b * (x * x)), a + 3 * b * (x * x)),
    )
