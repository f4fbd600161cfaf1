"""BatchNorm a pass at a time, for data that does not fit one array or one machine.

First `batch_norm_stats` of every part and `merge_stats`, then `batch_norm_apply` on every part; in
the backward `batch_norm_backward_reduce` of every part, whose sums add up, then
`batch_norm_backward_apply` on every part.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastact import _checks as checks
from fastact import _kernels
from fastact._call import Call, finish, normalise
from fastact._context import BatchNormContext, BatchNormGradients
from fastact._counted import count_in
from fastact._environment import in_default_environment
from fastact._fusion import fuse
from fastact._gradient import SUMS, collect, differentiate
from fastact._running import Update
from fastact._runtime import new_like
from fastact._statistics import BatchStats, table_of


@dataclass(frozen=True, slots=True, eq=False)
class BatchNormSums:
    """What the backward sums over all values, a number a channel; sums of parts add with ``+``.

    Attributes
    ----------
    g, gx : numpy.ndarray
        float64 of shape (C,): the sums of g and of g * (x - mean), where g is the gradient before
        the activation.
    param : numpy.ndarray
        The same of a learned parameter's gradient; 0 without one.

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0], [8.0, 20.0]])
    >>> stats = fa.batch_norm_stats(x)
    >>> parts = [fa.batch_norm_backward_reduce(np.ones_like(p), p, stats) for p in (x[:2], x[2:])]
    >>> sum(parts).g
    array([3., 3.])
    """

    g: np.ndarray
    gx: np.ndarray
    param: np.ndarray

    @in_default_environment
    def __post_init__(self) -> None:
        for name in ("g", "gx", "param"):
            values = checks.real_values(name, getattr(self, name))
            expected = values.size if name == "g" else self.g.size
            if values.shape != (expected,):
                raise ValueError(
                    f"{name}: shape {values.shape} is not accepted; expected "
                    f"{'(C,)' if name == 'g' else f'that of g, {self.g.shape}'}"
                )
            object.__setattr__(self, name, values)

    @in_default_environment
    def __add__(self, other: object) -> BatchNormSums:
        if isinstance(other, int) and other == 0:  # where sum() begins
            return self
        if not isinstance(other, BatchNormSums):
            return NotImplemented
        if other.g.shape != self.g.shape:
            raise ValueError(
                f"sums: of {self.g.size} and {other.g.size} channels; expected the same number"
            )
        return BatchNormSums(self.g + other.g, self.gx + other.gx, self.param + other.param)

    __radd__ = __add__


def check_stats(stats: object, channels: int) -> BatchStats:
    if not isinstance(stats, BatchStats):
        raise TypeError(f"stats: expected BatchStats, got {type(stats).__name__}")
    if stats.mean.size != channels:
        raise ValueError(f"stats: {stats.mean.size} channels; expected x's, {channels}")
    if not stats.count:
        raise ValueError("stats: of no values at all; expected at least one a channel")
    return stats


def check_part(
    x: object,
    stats: BatchStats,
    *,
    weight: object,
    bias: object,
    eps: object,
    axis: object,
    activation: object,
    activation_params: object,
    residual: object,
    mask: object,
    sample_weight: object,
    out: object = None,
    apart: Mapping[str, object] | None = None,
    may_be: tuple[str, ...] = (),
) -> tuple[Call, np.ndarray]:
    """The call that a part is, and the kernels' table. `apart`: what `out` may not overlap, unless
    it is the very elements of one of `may_be`; None where nothing is written."""
    x = checks.float_array("x", x)
    axis, channels, count = checks.geometry(x, axis)
    weight, bias = checks.read_once("weight", weight), checks.read_once("bias", bias)
    table = table_of(check_stats(stats, channels))
    added = None if residual is None else checks.like_x("residual", residual, x)
    y = x
    if apart is not None:
        apart = {**apart, "x": x, "residual": added, "weight": weight, "bias": bias}
        y = checks.output(out, x, may_be=may_be, apart=apart)
    call = Call(
        kept=x,
        x=x,
        y=y,
        result=y if out is None else out,
        axis=axis,
        count=count,
        training=True,
        weight=checks.per_channel("weight", weight, channels),
        bias=checks.per_channel("bias", bias, channels),
        weight_dtype=checks.gradient_dtype(weight),
        bias_dtype=checks.gradient_dtype(bias),
        eps=checks.real_number("eps", eps, 0.0, float("inf")),
        running=None,
        rule=Update(1.0, 0.0, unbiased=False),  # of nothing
        fused=fuse(activation, activation_params, channels),
        residual=added,
        counted=count_in(mask, sample_weight, x, axis),
    )
    return call, table


def context_of(call: Call, table: np.ndarray, stats: BatchStats) -> BatchNormContext:
    """Of a part whose y is not wanted: normalising nothing makes the table complete."""
    nothing = np.empty((0, call.channels), call.x.dtype)
    changes: dict[str, Any] = {
        "x": nothing,
        "y": nothing,
        "axis": 1,
        "residual": None,
        "counted": None,
    }
    normalise(dataclasses.replace(call, **changes), False, table)
    return finish(call, table, stats.count)[1]


@in_default_environment
def batch_norm_apply(
    x: object,
    stats: BatchStats,
    *,
    weight: object = None,
    bias: object = None,
    eps: object = 1e-5,
    axis: object = 1,
    activation: object = None,
    activation_params: object = None,
    residual: object = None,
    mask: object = None,
    sample_weight: object = None,
    out: object = None,
) -> np.ndarray:
    """The second pass of `batch_norm`: normalises x with statistics that are given.

    Parameters
    ----------
    x : numpy.ndarray
        A part of the data.
    stats : BatchStats
        Of all of it.
    weight, bias, eps, axis, activation, activation_params, residual, mask, sample_weight
        As for `batch_norm`; the last three are this part's.
    out : numpy.ndarray, optional
        Shape and dtype of x; it may be x itself, or the residual.

    Returns
    -------
    numpy.ndarray
        Where x is all of the data, what `batch_norm` gives in training, bit for bit.

    Raises
    ------
    TypeError, ValueError
        A bad argument, which the message names. Nothing has been written then.

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
    >>> fa.batch_norm_apply(x[:1], fa.batch_norm_stats(x), eps=0.0)
    array([[-1., -1.]])
    """
    call, table = check_part(
        x, stats, weight=weight, bias=bias, eps=eps, axis=axis, activation=activation,
        activation_params=activation_params, residual=residual, mask=mask,
        sample_weight=sample_weight, out=out, apart={}, may_be=("x", "residual"),
    )  # fmt: skip
    normalise(call, False, table)
    y: np.ndarray = call.result
    return y


@in_default_environment
def batch_norm_backward_reduce(
    dy: object,
    x: object,
    stats: BatchStats,
    *,
    weight: object = None,
    bias: object = None,
    eps: object = 1e-5,
    axis: object = 1,
    activation: object = None,
    activation_params: object = None,
    residual: object = None,
    mask: object = None,
    sample_weight: object = None,
) -> BatchNormSums:
    """The first pass of `batch_norm_backward`: the sums over a part of the data.

    Parameters
    ----------
    dy, x : numpy.ndarray
        A part of the gradient with respect to y, and of x.
    stats : BatchStats
        Of all of x.
    weight, bias, eps, axis, activation, activation_params, residual, mask, sample_weight
        As in the forward.

    Returns
    -------
    BatchNormSums
        Add those of all parts: ``sum(parts)``.

    Raises
    ------
    TypeError, ValueError
        A bad argument, which the message names.

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
    >>> fa.batch_norm_backward_reduce(np.ones_like(x), x, fa.batch_norm_stats(x)).gx
    array([0., 0.])
    """
    call, table = check_part(
        x, stats, weight=weight, bias=bias, eps=eps, axis=axis, activation=activation,
        activation_params=activation_params, residual=residual, mask=mask,
        sample_weight=sample_weight,
    )  # fmt: skip
    dy = checks.like_x("dy", dy, call.x)
    context = context_of(call, table, stats)
    sums = np.zeros((SUMS, call.channels))
    differentiate(_kernels.FIRST_PASS, dy, call.x, None, None, context, sums)
    return BatchNormSums(*sums)


@in_default_environment
def batch_norm_backward_apply(
    dy: object,
    x: object,
    stats: BatchStats,
    sums: BatchNormSums,
    *,
    weight: object = None,
    bias: object = None,
    eps: object = 1e-5,
    axis: object = 1,
    activation: object = None,
    activation_params: object = None,
    residual: object = None,
    mask: object = None,
    sample_weight: object = None,
    out: object = None,
) -> BatchNormGradients:
    """The second pass of `batch_norm_backward`: the gradient of a part of x.

    Parameters
    ----------
    dy, x, stats, weight, bias, eps, axis, activation, activation_params, residual, mask, \
sample_weight
        As for `batch_norm_backward_reduce`.
    sums : BatchNormSums
        Of all parts.
    out : numpy.ndarray, optional
        Where to write the gradient of x. It may be dy itself, not x.

    Returns
    -------
    BatchNormGradients
        ``.x`` and ``.residual`` are this part's; the others are those of all parts, the same each
        time.

    Raises
    ------
    TypeError, ValueError
        A bad argument, which the message names. Nothing has been written then.

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> x, dy = np.array([[1.0], [3.0], [8.0]]), np.array([[1.0], [0.0], [0.0]])
    >>> stats = fa.batch_norm_stats(x)
    >>> sums = fa.batch_norm_backward_reduce(dy, x, stats)
    >>> fa.batch_norm_backward_apply(dy, x, stats, sums, bias=[0.0]).bias
    array([1.])
    """
    dy = checks.float_array("dy", dy)
    call, table = check_part(
        x, stats, weight=weight, bias=bias, eps=eps, axis=axis, activation=activation,
        activation_params=activation_params, residual=residual, mask=mask,
        sample_weight=sample_weight, out=out, apart={"dy": dy}, may_be=("dy",),
    )  # fmt: skip
    dy = checks.like_x("dy", dy, call.x)
    if not isinstance(sums, BatchNormSums):
        raise TypeError(f"sums: expected BatchNormSums, got {type(sums).__name__}")
    if sums.g.shape != (call.channels,):
        raise ValueError(f"sums: {sums.g.size} channels; expected x's, {call.channels}")
    context = context_of(call, table, stats)
    total = np.stack([sums.g, sums.gx, sums.param])
    g = None
    if call.residual is not None:  # its gradient is what the first pass leaves
        g, again = new_like(call.x, call.x.dtype.num), np.zeros((SUMS, call.channels))
        differentiate(_kernels.FIRST_PASS, dy, call.x, None, g, context, again)
    differentiate(_kernels.SECOND_PASS, dy, call.x, call.y, g, context, total)
    return collect(call.result, g, context, total)
