"""BatchNorm, alone or fused with an activation.

Every check comes before the first write (_checks.py); the arithmetic is in csrc/batchnorm.inc. The
layer is in _layer.py, the passes one by one in _pieces.py, many machines in _distributed.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from fastact import _checks as checks
from fastact import _kernels
from fastact._distributed import Group, Header, checksum, exchange
from fastact._fusion import Fused, fuse
from fastact._running import MOMENTUM, Update, check_running, track, update_rule
from fastact._statistics import ROWS, merged, stats_of

FORWARD, BACKWARD = 1.0, 2.0  # what a collective call is


@dataclass(frozen=True, slots=True, eq=False)
class BatchNormContext:
    """What `batch_norm_backward` needs of a forward call. Immutable; may be used again.

    Attributes
    ----------
    x : numpy.ndarray
        The input itself, not a copy: changing it before the backward makes the gradient wrong.
    mean, var : numpy.ndarray
        float64 of shape (C,), read-only: the statistics that normalised x (var is biased).
    count : int
        Number of values a channel, on all machines of `comm`.
    training : bool
        Whether mean and var are those of x, or constants.
    """

    x: np.ndarray
    mean: np.ndarray
    var: np.ndarray
    count: int
    training: bool
    _axis: int
    _table: np.ndarray
    _fused: Fused
    _weight: np.dtype | None
    _bias: np.dtype | None
    _comm: object = None


@dataclass(frozen=True, slots=True, eq=False)
class BatchNormGradients:
    """Gradients of a loss, in fields that are None where there is nothing to differentiate.

    Attributes
    ----------
    x : numpy.ndarray
        Shape and dtype of the forward call's x.
    weight, bias : numpy.ndarray or None
        Shape (C,), dtype of the forward call's.
    residual : None
        Reserved.
    activation_params : mapping or None
        Name -> gradient, for learned parameters of the activation, of the parameter's shape.
    """

    x: np.ndarray
    weight: np.ndarray | None
    bias: np.ndarray | None
    residual: None = None
    activation_params: Mapping[str, np.ndarray] | None = None

    def __reduce__(self):
        params = None if self.activation_params is None else dict(self.activation_params)
        return gradients, (self.x, self.weight, self.bias, self.residual, params)


def gradients(x, weight, bias, residual, params) -> BatchNormGradients:
    params = None if params is None else MappingProxyType(params)
    return BatchNormGradients(x, weight, bias, residual, params)


# ---- forward ---------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Call:
    """The checked arguments of a forward call."""

    kept: np.ndarray  # x as it was given
    x: np.ndarray
    y: np.ndarray
    axis: int
    count: int  # values a channel
    training: bool
    weight: np.ndarray | None
    bias: np.ndarray | None
    weight_dtype: np.dtype | None
    bias_dtype: np.dtype | None
    eps: float
    running: tuple | None
    rule: Update
    fused: Fused

    @property
    def channels(self) -> int:
        return self.x.shape[self.axis]


def is_lazy(x: object) -> bool:
    """Whether x is an array of dask."""
    return type(x).__module__.partition(".")[0] == "dask" and hasattr(x, "to_delayed")


def check_call(
    x,
    *,
    weight,
    bias,
    running_mean,
    running_var,
    training,
    momentum,
    eps,
    axis,
    activation,
    activation_params,
    convention,
    out,
    keeps_x: bool,
    features: int | None = None,
) -> Call:
    """`features`: the number of channels that x has to have."""
    given, x = x, checks.float_array("x", x)
    training = checks.flag("training", training)
    axis, channels, count = checks.geometry(x, axis)
    if features is not None and channels != features:
        raise ValueError(
            f"x: shape {x.shape} has {channels} channels on axis {axis}; expected {features}"
        )
    eps = checks.real_number("eps", eps, 0.0, float("inf"))
    rule = update_rule(momentum, convention)
    weight64 = checks.per_channel("weight", weight, channels)
    bias64 = checks.per_channel("bias", bias, channels)
    running = check_running(running_mean, running_var, x, channels, training)
    fused = fuse(activation, activation_params, channels)
    small = {
        "weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var,
    }  # fmt: skip
    may_be = () if training or keeps_x else ("x",)
    y = checks.output(out, x, may_be=may_be, apart={"x": x, **small})
    kept = given if type(given) is np.ndarray else x
    return Call(
        kept, x, y, axis, count, training, weight64, bias64, checks.gradient_dtype(weight),
        checks.gradient_dtype(bias), eps, running, rule, fused,
    )  # fmt: skip


def check_count(training: bool, count: int, shape: tuple, axis: int, where: str = "") -> None:
    """Whether there are values enough."""
    if training and count < 2:
        raise ValueError(
            f"x: shape {shape} has {count} value per channel (axis {axis}){where}; training needs "
            "at least 2"
        )


def run(call: Call) -> tuple[np.ndarray, BatchNormContext]:
    """Normalises, and only then updates the running statistics."""
    check_count(call.training, call.count, call.x.shape, call.axis)
    table = np.zeros((_kernels.STATISTICS, call.channels))
    if not call.training:
        table[_kernels.MEAN], table[_kernels.VAR] = call.running
    normalise(call, call.training, table)
    return finish(call, table, call.count)


def run_on_all(comm: object, check: Callable[[], Call]) -> tuple[np.ndarray, BatchNormContext]:
    """The same with the values of all processes."""
    group = Group(comm)
    call, header = Header.send(group, lambda: described(check()))
    together = ", on all ranks together"
    check_count(call.training, header.values, call.x.shape, call.axis, together)
    table = np.zeros((_kernels.STATISTICS, call.channels))
    if call.training:
        length = ROWS * call.channels
        rows = exchange(group, lambda: stats_of(call.x, call.axis, call.count)._rows, length)
        stats = merged(header.counts, rows.reshape(group.size, ROWS, call.channels))
        table[: _kernels.MEAN + ROWS] = stats._table_rows()
    else:
        table[_kernels.MEAN], table[_kernels.VAR] = call.running
    normalise(call, False, table)
    return finish(call, table, header.count, comm)


def described(call: Call) -> tuple[Call, float, int, list[float]]:
    """What the header says of a call; the last: what has to be the same on all ranks."""
    running = call.running if not call.training else call.running is not None
    agreed = [
        FORWARD, call.channels, checksum(call.x.dtype.name), call.training, call.eps,
        call.rule.share, call.rule.unbiased, checksum(call.fused.name),
        checksum(*call.fused.values), checksum(call.weight), checksum(call.bias),
        checksum(running), 0.0, 0.0,
    ]  # fmt: skip
    return call, call.count, call.count, agreed


def normalise(call: Call, training: bool, table: np.ndarray) -> None:
    fused = call.fused
    _kernels.batch_norm_forward(
        call.x, call.y, call.axis, training, call.weight, call.bias, call.eps, fused.row,
        fused.values, fused.per_channel, table,
    )  # fmt: skip


def finish(call: Call, table: np.ndarray, count: float, comm: object = None):
    """y and the context, the running statistics updated."""
    table.flags.writeable = False
    mean, var = table[_kernels.MEAN], table[_kernels.VAR]
    if call.training and call.running is not None:
        track(call.running, mean, var, count, call.rule)
    context = BatchNormContext(
        call.kept, mean, var, count, call.training, call.axis, table, call.fused,
        call.weight_dtype, call.bias_dtype, comm,
    )  # fmt: skip
    return call.y, context


def forward(x, comm, **options) -> tuple[np.ndarray, BatchNormContext]:
    """Takes the arguments of check_call."""
    if type(x) is not np.ndarray and is_lazy(x):
        from fastact import _dask

        return _dask.forward(x, comm, **options)
    if comm is None:
        return run(check_call(x, **options))
    return run_on_all(comm, lambda: check_call(x, **options))


def batch_norm(
    x,
    *,
    weight=None,
    bias=None,
    running_mean=None,
    running_var=None,
    training=False,
    momentum=MOMENTUM,
    eps=1e-5,
    axis=1,
    activation=None,
    activation_params=None,
    convention="torch",
    comm=None,
    out=None,
):
    """Batch normalisation, optionally followed by an activation, in one pass over memory.

    ``y = activation((x - mean) / sqrt(var + eps) * weight + bias)``, channel by channel.

    Parameters
    ----------
    x : numpy.ndarray
        float16, bfloat16, float32 or float64, at least two dimensions, any strides. Or a
        dask.array.Array: then all results are lazy, and statistics are one pass a chunk.
    weight, bias : array_like of shape (C,), optional
        1 and 0 by default.
    running_mean, running_var : numpy.ndarray of shape (C,), optional
        With ``training=False`` they are what normalises x. In training they are updated in place:
        ``running = (1 - momentum) * running + momentum * batch``, with the unbiased variance.
    training : bool
        Whether the statistics (biased variance) are computed from x.
    momentum : float, 0 to 1
    eps : float, at least 0
    axis : int
        The channel axis: 1 for NCHW, -1 for NHWC and (N, C).
    activation : str or Activation, optional
        Any of `fastact.activations`, applied before the value leaves the cache. The result is that
        of the unfused calls, bit for bit.
    activation_params : dict, optional
        Its parameters: numbers, or for a learned parameter an array of shape () or (C,).
    convention : str
        How running statistics are updated. "torch": `momentum` is the share of the batch, and the
        variance that is stored is the unbiased one. "keras", "flax", "onnx": `momentum` is the
        share of what was there, the variance biased. Or say both: "unbiased/batch" (torch's),
        "unbiased/running", "biased/batch", "biased/running". The default momentum is a tenth of
        the batch in each.
    comm : mpi4py communicator, optional
        The processes whose data is one batch, or any object with ``Allreduce(send, receive)`` or
        ``allreduce(array)``, which sum float64 arrays over all ranks. All ranks call with their
        own x, which may have any number of elements, none too, and the same other arguments.
        Statistics, running statistics and the gradients of weight and bias are those of the whole
        batch, with the same bits on all ranks. An error on one rank is raised on all.
    out : numpy.ndarray, optional
        Shape and dtype of x. With ``training=False`` it may be x itself.

    Returns
    -------
    numpy.ndarray
        Shape, dtype and memory order of x.

    Raises
    ------
    TypeError, ValueError
        A bad argument, which the message names. Nothing has been written then.

    References
    ----------
    Ioffe, Szegedy (2015), "Batch Normalization", https://arxiv.org/abs/1502.03167

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]], dtype=np.float32)
    >>> fa.batch_norm(x, training=True, eps=0.0)
    array([[-1., -1.],
           [ 1.,  1.]], dtype=float32)
    >>> fa.batch_norm(x, training=True, eps=0.0, activation="relu")
    array([[0., 0.],
           [1., 1.]], dtype=float32)
    """
    return forward(keeps_x=False, **locals())[0]


def batch_norm_forward(
    x,
    *,
    weight=None,
    bias=None,
    running_mean=None,
    running_var=None,
    training=True,
    momentum=MOMENTUM,
    eps=1e-5,
    axis=1,
    activation=None,
    activation_params=None,
    convention="torch",
    comm=None,
    out=None,
):
    """`batch_norm`, and what its gradient needs.

    Parameters
    ----------
    x, weight, bias, running_mean, running_var, training, momentum, eps, axis, activation, \
activation_params, convention, comm, out
        As for `batch_norm`. `out` may not overlap x, which the backward reads again. With
        ``training=False`` the statistics are constants in the backward.

    Returns
    -------
    y : numpy.ndarray
    ctx : BatchNormContext
        For `batch_norm_backward`; refers to x.

    Raises
    ------
    TypeError, ValueError
        A bad argument, which the message names. Nothing has been written then.

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
    >>> y, ctx = fa.batch_norm_forward(x, activation="silu")
    >>> ctx.mean
    array([ 2., 20.])
    """
    return forward(keeps_x=True, **locals())


# ---- backward ---------------------------------------------------------------------------------


def batch_norm_backward(dy, ctx, *, out=None):
    """Gradients of `batch_norm_forward`: two passes over (x, dy), nothing of their size allocated
    but the result.

    Parameters
    ----------
    dy : numpy.ndarray
        Gradient of the loss with respect to y; shape and dtype of x, any strides.
    ctx : BatchNormContext
    out : numpy.ndarray, optional
        Where to write the gradient of x. It may be dy itself, not x.

    Returns
    -------
    BatchNormGradients
        ``.x``, ``.weight``, ``.bias``, ``.residual``, ``.activation_params``.

    Raises
    ------
    TypeError, ValueError
        A bad argument, which the message names. Nothing has been written then.

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0], [8.0, 20.0]])
    >>> y, ctx = fa.batch_norm_forward(x, bias=np.zeros(2))
    >>> fa.batch_norm_backward(np.ones_like(x), ctx).bias
    array([3., 3.])
    """
    if type(ctx).__name__ == "LazyContext":
        from fastact import _dask

        return _dask.backward(dy, ctx, out)
    check_context(ctx)
    if ctx._comm is not None:
        return backward_on_all(dy, ctx, out)
    dy, x, dx = check_backward(dy, ctx, out)
    sums = np.zeros((SUMS, len(ctx.mean)))
    differentiate(_kernels.BOTH_PASSES, dy, x, dx, ctx, sums)
    return collect(dx, ctx, sums)


SUMS = 3  # of g, of g * (x - mean), of a learned parameter's gradient


def check_context(ctx: object) -> None:
    if not isinstance(ctx, BatchNormContext):
        raise TypeError(
            f"ctx: expected the context from batch_norm_forward, got {type(ctx).__name__}"
        )


def check_backward(dy: object, ctx: BatchNormContext, out: object):
    """dy, x and the array to write."""
    x = checks.float_array("ctx.x", ctx.x)
    dy = checks.like_x("dy", dy, x)
    return dy, x, checks.output(out, x, may_be=("dy",), apart={"dy": dy, "x": x})


def differentiate(passes: int, dy, x, dx, ctx: BatchNormContext, sums: np.ndarray) -> None:
    fused = ctx._fused
    _kernels.batch_norm_backward(
        passes, dy, x, dx, ctx._axis, ctx.training, ctx.count, fused.row, fused.values,
        fused.per_channel, ctx._table, sums,
    )  # fmt: skip


def backward_on_all(dy: object, ctx: BatchNormContext, out: object) -> BatchNormGradients:
    group = Group(ctx._comm)
    agreed = [BACKWARD, len(ctx.mean), checksum(ctx.x.dtype.name), ctx.training]
    agreed += [0.0] * 9 + [checksum(ctx._table)]
    (dy, x, dx), _ = Header.send(group, lambda: (check_backward(dy, ctx, out), 0.0, 0.0, agreed))
    own = np.zeros((SUMS, len(ctx.mean)))

    def reduce() -> np.ndarray:
        differentiate(_kernels.FIRST_PASS, dy, x, None, ctx, own)
        return own

    sums = exchange(group, reduce, own.size).sum(axis=0).reshape(own.shape)  # in order of ranks
    differentiate(_kernels.SECOND_PASS, dy, x, dx, ctx, sums)
    return collect(dx, ctx, sums)


def collect(dx: np.ndarray, ctx: BatchNormContext, sums: np.ndarray) -> BatchNormGradients:
    g_sum, gx_sum, param_sum = sums
    weight = bias = None
    with np.errstate(all="ignore"):
        if ctx._weight is not None:
            weight = (gx_sum * ctx._table[_kernels.RSTD]).astype(ctx._weight)
        if ctx._bias is not None:
            bias = g_sum.astype(ctx._bias)
        params = ctx._fused.gradients(param_sum)
    return gradients(dx, weight, bias, None, params)
