"""BatchNorm, alone or fused with an activation: functions and the layer.

The one place that checks BatchNorm's arguments. Every check comes before the first write; an error
names the argument, what came and what is accepted. The arithmetic is in csrc/batchnorm.inc.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from fastact import _kernels
from fastact._activation import activation as find_activation
from fastact._activation import has_internal_overlap
from fastact._protocols import refuse_foreign
from fastact._runtime import new_like
from fastact._ufuncs import number_of_bfloat16

MAX_NDIM = 64  # NumPy's
FLOATS = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))
ACCEPTED = "float16, bfloat16, float32 or float64"


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
        Number of values a channel.
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
    _fused: _Fused
    _weight: np.dtype | None
    _bias: np.dtype | None


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
        return _gradients, (self.x, self.weight, self.bias, self.residual, params)


def _gradients(x, weight, bias, residual, params) -> BatchNormGradients:
    params = None if params is None else MappingProxyType(params)
    return BatchNormGradients(x, weight, bias, residual, params)


# ---- checks -----------------------------------------------------------------------------------


def _is_float(dtype: np.dtype) -> bool:
    return dtype in FLOATS or number_of_bfloat16(dtype) >= 0


def _float_dtype(dtype: object) -> np.dtype:
    try:
        known = np.dtype(dtype)
    except TypeError:
        known = None
    if known is None or dtype is None or not _is_float(known):
        raise TypeError(f"dtype: {dtype!r} is not accepted; expected {ACCEPTED}")
    return known


def _float_array(name: str, value: object) -> np.ndarray:
    """A native array of floats; the data itself wherever it is one already."""
    refuse_foreign(name, value)
    array = np.asarray(value)
    if not _is_float(array.dtype):
        raise TypeError(f"{name}: dtype {array.dtype} is not accepted; expected {ACCEPTED}")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _channel_axis(axis: object, ndim: int) -> int:
    position = _integer("axis", axis)
    if not -ndim <= position < ndim:
        raise ValueError(f"axis: {position} is out of range; accepted: {-ndim} to {ndim - 1}")
    return position % ndim


def _number(name: str, value: object, low: float, high: float) -> float:
    if isinstance(value, (str, bytes, complex, np.complexfloating, bool, np.bool_)):
        raise TypeError(f"{name}: expected a real number, got {type(value).__name__}")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected a real number, got {type(value).__name__}") from None
    except OverflowError:
        number = math.inf
    if not low <= number <= high or math.isinf(number):
        raise ValueError(
            f"{name}: {number} is out of range; accepted: finite, from {low:g} to {high:g}"
        )
    return number


def _integer(name: str, value: object) -> int:
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}")
    return operator.index(value)


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected a bool, got {type(value).__name__}")
    return bool(value)


def _real_values(name: str, value: object) -> np.ndarray:
    """A float64 copy of a number or an array of them."""
    refuse_foreign(name, value)
    array = np.asarray(value)
    if not _is_float(array.dtype) and array.dtype.kind not in "iu":
        raise TypeError(f"{name}: dtype {array.dtype} is not accepted; expected {ACCEPTED}")
    return np.array(array, dtype=np.float64, order="C")


def _per_channel(name: str, value: object, channels: int) -> np.ndarray | None:
    """A float64 copy of shape (C,), or None."""
    if value is None:
        return None
    array = _real_values(name, value)
    if array.shape != (channels,):
        raise ValueError(
            f"{name}: shape {array.shape} is not accepted; expected ({channels},), one a channel"
        )
    return array


def _gradient_dtype(value: object) -> np.dtype | None:
    """The dtype in which the gradient of weight or bias is returned."""
    if value is None:
        return None
    dtype = np.asarray(value).dtype
    return dtype.newbyteorder("=") if _is_float(dtype) else np.dtype(np.float64)


def _running(mean: object, var: object, x: np.ndarray, channels: int, training: bool) -> bool:
    """Checks the running statistics; whether there are any."""
    if (mean is None) != (var is None):
        missing = "running_mean" if mean is None else "running_var"
        raise ValueError(f"{missing}: missing; running_mean and running_var come together")
    if mean is None:
        if not training:
            raise ValueError(
                "running_mean, running_var: missing; with training=False they are what normalises x"
            )
        return False
    for name, value in (("running_mean", mean), ("running_var", var)):
        if not (
            type(value) is np.ndarray and _is_float(value.dtype) and value.shape == (channels,)
        ):
            _per_channel(name, value, channels)  # raises, or accepts what is no such array
        if training and (type(value) is not np.ndarray or not _is_float(value.dtype)):
            raise TypeError(
                f"{name}: updated in place in training, so expected a numpy.ndarray of {ACCEPTED}, "
                f"got {type(value).__name__}"
            )
        if training and not value.flags.writeable:
            raise ValueError(f"{name}: read-only, but updated in place in training")
        if training and has_internal_overlap(value):
            raise ValueError(f"{name}: several of its elements share memory")
        if training and np.may_share_memory(value, x):
            raise ValueError(f"{name}: overlaps x, but is updated in place in training")
    if training and np.may_share_memory(mean, var):
        raise ValueError("running_mean, running_var: share memory, but each is updated in place")
    return True


def _output(
    out: object, x: np.ndarray, *, may_be: str | None, apart: Mapping[str, object]
) -> np.ndarray:
    """The array to write: like x, and apart from everything in `apart`, or all of what is named
    `may_be` there."""
    if out is None:
        return new_like(x, x.dtype.num)
    if type(out) is not np.ndarray:
        raise TypeError(f"out: expected a numpy.ndarray, got {type(out).__name__}")
    if out.dtype != x.dtype:
        raise TypeError(f"out: dtype {out.dtype} is not accepted; expected x's, {x.dtype}")
    if out.shape != x.shape:
        raise ValueError(f"out: shape {out.shape} is not accepted; expected x's, {x.shape}")
    if not out.flags.writeable:
        raise ValueError("out: read-only")
    if has_internal_overlap(out):
        raise ValueError("out: several of its elements share memory")
    for name, other in apart.items():
        if other is None or (name == may_be and _same_elements(out, other)):
            continue
        if np.may_share_memory(out, np.asarray(other)):
            raise ValueError(f"out: overlaps {name}; expected memory of its own")
    return out


def _same_elements(a: np.ndarray, b: np.ndarray) -> bool:
    return a.ctypes.data == b.ctypes.data and a.strides == b.strides


@dataclass(frozen=True, slots=True, eq=False)
class _Fused:
    """The activation of a call, with its parameters as the kernels take them."""

    name: str | None = None
    values: tuple[np.ndarray, ...] = ()
    per_channel: bool = False
    learned: str | None = None  # the parameter with a gradient, its shape and dtype
    shape: tuple[int, ...] = ()
    dtype: np.dtype | None = None

    @property
    def row(self) -> int:
        """Of the table, or -1: not kept, since the next version's table may have other rows."""
        return -1 if self.name is None else find_activation(self.name)._row


NO_ACTIVATION = _Fused()
_defaults: dict[str, _Fused] = {}  # activations with their default parameters, as they come up


def _fuse(activation: object, params: object, channels: int) -> _Fused:
    if params is not None and not isinstance(params, Mapping):
        raise TypeError(f"activation_params: expected a dict, got {type(params).__name__}")
    if activation is None:
        if params:
            raise TypeError("activation_params: given without an activation")
        return NO_ACTIVATION
    function = find_activation(activation)
    if not params and function.name in _defaults:
        return _defaults[function.name]
    params = params or {}
    for key in params:
        if key not in function.parameters:
            accepted = ", ".join(function.parameters) or "none"
            raise TypeError(
                f"activation_params: {function.name} has no parameter {key!r}; accepted: {accepted}"
            )
    values, learned, shape, dtype = [], None, (), None
    for name, default in function.parameters.items():
        where = f"activation_params[{name!r}]"
        if default is None and params.get(name) is None:
            raise TypeError(f"{where}: missing; {function.name} requires it")
        if name in function.learned:
            value = _real_values(where, params[name])
            if value.shape not in ((), (channels,)):
                raise ValueError(
                    f"{where}: shape {value.shape} is not accepted; expected () or ({channels},)"
                )
            learned, shape, dtype = name, value.shape, _gradient_dtype(params[name])
            values.append(np.array(np.broadcast_to(value, (channels,))))
        else:
            value = _number(where, params.get(name, default), -math.inf, math.inf)
            values.append(np.array(value))
    fused = _Fused(function.name, tuple(values), learned is not None, learned, shape, dtype)
    if not params:
        _defaults[function.name] = fused
    return fused


# ---- forward ----------------------------------------------------------------------------------


def _forward(
    x: object,
    weight: object,
    bias: object,
    running_mean: object,
    running_var: object,
    training: object,
    momentum: object,
    eps: object,
    axis: object,
    activation: object,
    activation_params: object,
    out: object,
    keeps_x: bool,
) -> tuple[np.ndarray, BatchNormContext]:
    """Checks, normalises, and only then updates the running statistics."""
    given_x, x = x, _float_array("x", x)
    training = _flag("training", training)
    axis, channels, count = _geometry(x, axis, training)
    eps = _number("eps", eps, 0.0, math.inf)
    momentum = _momentum(momentum)
    weight64 = _per_channel("weight", weight, channels)
    bias64 = _per_channel("bias", bias, channels)
    tracked = _running(running_mean, running_var, x, channels, training)
    fused = _fuse(activation, activation_params, channels)
    small = {
        "weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var,
    }  # fmt: skip
    y = _output(out, x, may_be=None if training or keeps_x else "x", apart={"x": x, **small})

    table = np.zeros((_kernels.STATISTICS, channels))
    if not training:
        table[_kernels.MEAN], table[_kernels.VAR] = running_mean, running_var
    _kernels.batch_norm_forward(
        x, y, axis, training, weight64, bias64, eps, fused.row, fused.values, fused.per_channel,
        table,
    )  # fmt: skip
    table.flags.writeable = False
    mean, var = table[_kernels.MEAN], table[_kernels.VAR]
    if training and tracked:
        _track(running_mean, running_var, mean, var, count, momentum)
    kept = given_x if type(given_x) is np.ndarray else x
    context = BatchNormContext(
        kept, mean, var, count, training, axis, table, fused,
        _gradient_dtype(weight), _gradient_dtype(bias),
    )  # fmt: skip
    return y, context


def _geometry(x: np.ndarray, axis: object, training: bool) -> tuple[int, int, int]:
    """The channel axis, the number of channels, and the number of values in each."""
    if x.ndim < 2:
        raise ValueError(f"x: {x.ndim} dimensions are not enough; expected 2 or more")
    axis = _channel_axis(axis, x.ndim)
    count = math.prod(x.shape[:axis] + x.shape[axis + 1 :])
    if training and count < 2:
        raise ValueError(
            f"x: shape {x.shape} has {count} value per channel (axis {axis}); training needs at "
            "least 2"
        )
    return axis, x.shape[axis], count


def _momentum(momentum: object) -> float:
    if momentum is None:
        raise ValueError(
            "momentum: None (a cumulative average) needs a counter, which only the layer "
            "fastact.BatchNorm has; expected 0 to 1"
        )
    return _number("momentum", momentum, 0.0, 1.0)


def _track(
    running_mean: np.ndarray,
    running_var: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    count: int,
    momentum: float,
) -> None:
    """Updates the running statistics in place, with the unbiased variance."""
    with np.errstate(all="ignore"):
        _move(running_mean, mean, momentum)
        _move(running_var, var * (count / (count - 1)), momentum)


def _move(running: np.ndarray, batch: np.ndarray, momentum: float) -> None:
    """running = (1 - momentum) * running + momentum * batch, in float64, rounded once."""
    old = np.multiply(running, 1.0 - momentum, dtype=np.float64)
    np.add(old, momentum * batch, out=running, casting="same_kind")


def batch_norm(
    x,
    *,
    weight=None,
    bias=None,
    running_mean=None,
    running_var=None,
    training=False,
    momentum=0.1,
    eps=1e-5,
    axis=1,
    activation=None,
    activation_params=None,
    out=None,
):
    """Batch normalisation, optionally followed by an activation, in one pass over memory.

    ``y = activation((x - mean) / sqrt(var + eps) * weight + bias)``, channel by channel.

    Parameters
    ----------
    x : numpy.ndarray
        float32 or float64, at least two dimensions, any strides.
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
    return _forward(
        x, weight, bias, running_mean, running_var, training, momentum, eps, axis, activation,
        activation_params, out, keeps_x=False,
    )[0]  # fmt: skip


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
    out=None,
):
    """`batch_norm`, and what its gradient needs.

    Parameters
    ----------
    x, weight, bias, running_mean, running_var, training, momentum, eps, axis, activation, \
activation_params, out
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
    return _forward(
        x, weight, bias, running_mean, running_var, training, momentum, eps, axis, activation,
        activation_params, out, keeps_x=True,
    )  # fmt: skip


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
    if not isinstance(ctx, BatchNormContext):
        raise TypeError(
            f"ctx: expected the context from batch_norm_forward, got {type(ctx).__name__}"
        )
    dy = _float_array("dy", dy)
    x = _float_array("ctx.x", ctx.x)
    if dy.dtype != x.dtype:
        raise TypeError(f"dy: dtype {dy.dtype} is not accepted; expected x's, {x.dtype}")
    if dy.shape != x.shape:
        raise ValueError(f"dy: shape {dy.shape} is not accepted; expected x's, {x.shape}")
    dx = _output(out, x, may_be="dy", apart={"dy": dy, "x": x})
    fused = ctx._fused
    sums = np.zeros((3, len(ctx.mean)))
    _kernels.batch_norm_backward(
        _kernels.BOTH_PASSES, dy, x, dx, ctx._axis, ctx.training, ctx.count, fused.row, fused.values, fused.per_channel,
        ctx._table, sums,
    )  # fmt: skip
    g_sum, gx_sum, param_sum = sums
    weight = bias = params = None
    with np.errstate(all="ignore"):
        if ctx._weight is not None:
            weight = (gx_sum * ctx._table[_kernels.RSTD]).astype(ctx._weight)
        if ctx._bias is not None:
            bias = g_sum.astype(ctx._bias)
        if fused.learned is not None:
            total = param_sum if fused.shape else np.sum(param_sum)
            params = {fused.learned: np.asarray(total, dtype=fused.dtype)}
    return _gradients(dx, weight, bias, None, params)


# ---- the layer --------------------------------------------------------------------------------


class BatchNorm:
    """Batch normalisation with its parameters and running statistics, fused with an activation.

    Parameters
    ----------
    num_features : int
        Channels, C.
    eps, momentum, axis, activation
        As for `batch_norm`; ``momentum=None`` keeps the cumulative average of all batches.
    affine : bool
        Whether there are weight and bias.
    track_running_stats : bool
        Whether there are running statistics; without them, evaluation uses the batch's own.
    activation_params : dict, optional
        Parameters of the activation. Those that are learned are copied; train them through
        ``layer.activation_params``.
    dtype : float32 or float64
        Of the parameters and running statistics.

    Attributes
    ----------
    weight, bias, running_mean, running_var : numpy.ndarray of shape (C,) or None
    num_batches_tracked : int
    training : bool
    activation_params : dict

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> layer = fa.BatchNorm(2, activation="leaky_relu", activation_params={"negative_slope": 0.2})
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]], dtype=np.float32)
    >>> y = layer(x)
    >>> layer.backward(np.ones_like(y)).bias
    array([1.2, 1.2], dtype=float32)
    >>> layer.eval()(x).shape
    (2, 2)
    """

    def __init__(
        self,
        num_features,
        *,
        eps=1e-5,
        momentum=0.1,
        affine=True,
        track_running_stats=True,
        axis=1,
        activation=None,
        activation_params=None,
        dtype=np.float32,
    ):
        self.num_features = _integer("num_features", num_features)
        if self.num_features < 1:
            raise ValueError(f"num_features: {num_features} is out of range; expected 1 or more")
        dtype = _float_dtype(dtype)
        self.eps = _number("eps", eps, 0.0, math.inf)
        self.momentum = None if momentum is None else _number("momentum", momentum, 0.0, 1.0)
        self.axis = _channel_axis(axis, MAX_NDIM) - (MAX_NDIM if axis < 0 else 0)
        self.affine = _flag("affine", affine)
        self.track_running_stats = _flag("track_running_stats", track_running_stats)
        self.training = True
        self.activation = None if activation is None else find_activation(activation)
        fused = _fuse(activation, activation_params, self.num_features)
        self.activation_params = dict(activation_params or {})
        if fused.learned is not None:
            self.activation_params[fused.learned] = np.array(
                self.activation_params[fused.learned], dtype=dtype
            )
        self._learned = fused.learned
        n = self.num_features
        self.weight = np.ones(n, dtype) if self.affine else None
        self.bias = np.zeros(n, dtype) if self.affine else None
        self.running_mean = np.zeros(n, dtype) if self.track_running_stats else None
        self.running_var = np.ones(n, dtype) if self.track_running_stats else None
        self.num_batches_tracked = 0
        self._ctx = None

    def __call__(self, x):
        """y; remembers what `backward` needs."""
        y, self._ctx = self.forward(x)
        return y

    def forward(self, x):
        """(y, ctx): the re-entrant form, for ``fastact.batch_norm_backward(dy, ctx)``."""
        refuse_foreign("x", x)
        shape = np.shape(x)
        if len(shape) >= 2 and shape[_channel_axis(self.axis, len(shape))] != self.num_features:
            raise ValueError(
                f"x: shape {shape} has {shape[self.axis]} channels on axis {self.axis}; "
                f"expected {self.num_features}"
            )
        updates = self.training and self.track_running_stats
        batches = _integer("num_batches_tracked", self.num_batches_tracked)
        momentum = self.momentum
        if momentum is None:
            momentum = 1.0 / (batches + 1)
        result = batch_norm_forward(
            x,
            weight=self.weight,
            bias=self.bias,
            running_mean=self.running_mean,
            running_var=self.running_var,
            training=self.training or not self.track_running_stats,
            momentum=momentum,
            eps=self.eps,
            axis=self.axis,
            activation=self.activation,
            activation_params=self.activation_params,
        )
        if updates:
            self.num_batches_tracked = batches + 1
        return result

    def backward(self, dy, *, out=None):
        """`BatchNormGradients` of the last call."""
        if self._ctx is None:
            raise ValueError("backward: the layer has not been called yet")
        return batch_norm_backward(dy, self._ctx, out=out)

    def train(self, mode=True):
        """Use the batch's statistics from now on; returns the layer."""
        self.training = _flag("mode", mode)
        return self

    def eval(self):
        """Use the running statistics from now on; returns the layer."""
        return self.train(False)

    def _state(self):
        arrays = {"weight": self.weight, "bias": self.bias}
        arrays |= {"running_mean": self.running_mean, "running_var": self.running_var}
        if self._learned is not None:
            arrays[f"activation.{self._learned}"] = self.activation_params[self._learned]
        return {key: value for key, value in arrays.items() if value is not None}

    def state_dict(self):
        """Copies of parameters and statistics, under torch.nn.BatchNorm's keys; a learned parameter
        of the activation is ``activation.NAME``."""
        state = {key: value.copy() for key, value in self._state().items()}
        if self.track_running_stats:
            state["num_batches_tracked"] = np.array(self.num_batches_tracked, dtype=np.int64)
        return state

    def load_state_dict(self, state):
        """Copy a `state_dict` in; all keys must be there, and no other.

        Raises
        ------
        ValueError
            A key is missing, unexpected, or of the wrong shape; the layer is unchanged then.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state: expected a dict, got {type(state).__name__}")
        own = self._state()
        expected = set(own) | ({"num_batches_tracked"} if self.track_running_stats else set())
        if set(state) != expected:
            raise ValueError(
                f"state: missing keys {sorted(expected - set(state))}, "
                f"unexpected keys {sorted(set(state) - expected)}"
            )
        arrays = {key: _real_values(f"state[{key!r}]", state[key]) for key in own}
        for key, value in arrays.items():
            if value.shape != own[key].shape:
                raise ValueError(
                    f"state[{key!r}]: shape {value.shape} is not accepted; "
                    f"expected {own[key].shape}"
                )
        batches = np.asarray(state.get("num_batches_tracked", 0))
        if batches.shape not in ((), (1,)) or batches.dtype.kind not in "iu" or batches.min() < 0:
            raise ValueError(
                "state['num_batches_tracked']: expected one integer from 0, "
                f"got {state['num_batches_tracked']!r}"
            )
        with np.errstate(all="ignore"):
            for key, value in arrays.items():
                own[key][...] = value
        self.num_batches_tracked = int(batches.reshape(()))

    def __repr__(self):
        fused = "" if self.activation is None else f", activation={self.activation.name!r}"
        return (
            f"BatchNorm({self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, track_running_stats={self.track_running_stats}, "
            f"axis={self.axis}{fused})"
        )
