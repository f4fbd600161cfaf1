"""The backward of a BatchNorm call, in one process or in several."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastact import _checks as checks
from fastact import _kernels
from fastact._call import BACKWARD
from fastact._context import BatchNormContext, BatchNormGradients, gradients
from fastact._distributed import AGREED, Group, Header, checksum, exchange
from fastact._environment import in_default_environment
from fastact._runtime import new_like

SUMS = 3  # of g, of g * (x - mean), of a learned parameter's gradient
Checked = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]


def check_context(ctx: object) -> BatchNormContext:
    if not isinstance(ctx, BatchNormContext):
        raise TypeError(
            f"ctx: expected the context from batch_norm_forward, got {type(ctx).__name__}"
        )
    return ctx


def check_fits(ctx: BatchNormContext, name: str, kept: np.ndarray) -> None:
    """Whether what a context holds still belongs together: of its arrays, shapes can be changed."""
    channels, axis = ctx._table.shape[-1], ctx._axis
    counted, residual = ctx._counted, ctx.residual
    if kept.ndim <= axis or kept.shape[axis] != channels:
        raise ValueError(
            f"ctx.{name}: shape {kept.shape} is not the one of the forward call, which had "
            f"{channels} channels on axis {axis}; expected the context as it was returned"
        )
    if residual is not None:
        checks.like_x("ctx.residual", residual, kept)
    if counted is not None and counted.size * channels != kept.size:
        raise ValueError(
            f"ctx.{name}: {kept.size} elements, but mask or sample_weight had "
            f"{counted.size * channels}; expected the context as it was returned"
        )


def check_backward(dy: object, ctx: BatchNormContext, out: object) -> Checked:
    """dy, x (or y, which gives it again), the arrays to write: dx, and g where it is wanted."""
    given, name = (ctx.x, "x") if ctx.y is None else (ctx.y, "y")
    kept = checks.float_array(f"ctx.{name}", given)
    check_fits(ctx, name, kept)
    checked = checks.like_x("dy", dy, kept)
    apart = {"dy": checked, name: given, "residual": ctx.residual}
    dx = checks.output(out, kept, may_be=("dy",), apart=apart)
    return checked, kept, dx, None if ctx.residual is None else new_like(kept, kept.dtype.num)


def differentiate(
    passes: int,
    dy: np.ndarray,
    kept: np.ndarray,
    dx: np.ndarray | None,
    g: np.ndarray | None,
    ctx: BatchNormContext,
    sums: np.ndarray,
) -> None:
    fused = ctx._fused
    _kernels.batch_norm_backward(
        passes, dy, kept, dx, ctx._axis, ctx.training, ctx.count, fused.row, fused.values,
        fused.per_channel, ctx._table, sums, ctx._counted, ctx.residual, g, ctx.y is not None,
        ctx._lost,
    )  # fmt: skip


@in_default_environment
def backward(dy: object, ctx: BatchNormContext, out: object) -> BatchNormGradients:
    checked, kept, dx, g = check_backward(dy, ctx, out)
    sums = np.zeros((SUMS, len(ctx.mean)))
    differentiate(_kernels.BOTH_PASSES, checked, kept, dx, g, ctx, sums)
    return collect(dx if out is None else out, g, ctx, sums)


@in_default_environment
def backward_on_all(dy: object, ctx: BatchNormContext, out: object) -> BatchNormGradients:
    group = Group(ctx._comm)
    agreed = [0.0] * len(AGREED)
    agreed[0], agreed[-1] = BACKWARD, checksum(ctx._table)
    check = lambda: (check_backward(dy, ctx, out), 0.0, 0.0, agreed)  # noqa: E731
    (checked, kept, dx, g), _ = Header.send(group, check)
    own = np.zeros((SUMS, len(ctx.mean)))

    def reduce() -> np.ndarray:
        differentiate(_kernels.FIRST_PASS, checked, kept, None, g, ctx, own)
        return own

    sums = exchange(group, reduce, own.size).sum(axis=0).reshape(own.shape)  # in order of ranks
    differentiate(_kernels.SECOND_PASS, checked, kept, dx, g, ctx, sums)
    return collect(dx if out is None else out, g, ctx, sums)


def collect(
    dx: Any, g: np.ndarray | None, ctx: BatchNormContext, sums: np.ndarray
) -> BatchNormGradients:
    g_sum, gx_sum, param_sum = sums
    weight = bias = None
    with np.errstate(all="ignore"):
        if ctx._weight is not None:
            weight = (gx_sum * ctx._table[_kernels.RSTD]).astype(ctx._weight)
        if ctx._bias is not None:
            bias = g_sum.astype(ctx._bias)
        params = ctx._fused.gradients(param_sum)
    return gradients(dx, weight, bias, g, params)
