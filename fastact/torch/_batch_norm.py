"""BatchNorm, alone or fused with an activation: a torch operator, a function and three modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.overrides import handle_torch_function, has_torch_function_unary

import fastact as fa
from fastact import _kernels
from fastact._context import BatchNormContext
from fastact._fusion import Fused, fuse
from fastact._normalization import batch_norm_backward, batch_norm_forward
from fastact._running import Update, track
from fastact.torch import _composed
from fastact.torch._activations import (
    Activation,
    Settings,
    Value,
    _broadcasts,
    second_order,
    settle,
)
from fastact.torch._operators import (
    LIBRARY,
    Context,
    Operator,
    define,
    threads,
    unless_observed,
)
from fastact.torch._tensors import array_of, check, dtype_of, promoted, tensor_like, tensor_of

AXIS = 1  # torch's channels
ARGUMENTS = (
    "Tensor? weight, Tensor? bias, Tensor? learned, Tensor? residual, bool training, float eps, "
    "str activation, float[] numbers"
)
TENSORS = 4  # weight, bias, learned, residual


# ---- the state between forward and backward ------------------------------------------------------
#
# An operator gives tensors. What a BatchNormContext holds beside x is its table of statistics, and
# what the call's own arguments say.

ROWS, MEAN, VAR = _kernels.STATISTICS, _kernels.MEAN, _kernels.VAR


def _pack(ctx: BatchNormContext) -> Tensor:
    return torch.from_numpy(ctx._table.copy())


def _unpack(
    x: np.ndarray, table: np.ndarray, weight: Tensor | None, bias: Tensor | None,
    residual: Tensor | None, training: bool, fused: Fused,
) -> BatchNormContext:  # fmt: skip
    return BatchNormContext(
        x=x, mean=table[MEAN], var=table[VAR], count=x.size // max(x.shape[AXIS], 1),
        training=training, _axis=AXIS, _table=table, _fused=fused,
        _weight=dtype_of(weight), _bias=dtype_of(bias),
        residual=None if residual is None else array_of("residual", residual),
    )  # fmt: skip


def _activation(
    name: str, numbers: list[float], learned: Tensor | None, channels: int
) -> dict[str, Any]:
    """The arguments of fastact.batch_norm that say which activation follows."""
    if not name:
        return {}
    if not numbers and learned is None:
        return {"activation": name}
    params: dict[str, Any] = dict(_named(name, numbers))
    if learned is not None:
        array = array_of("learned", learned)
        alone = array.size == 1 and channels != 1
        params["".join(fa.activations[name].learned)] = array.reshape(() if alone else -1)
    return {"activation": name, "activation_params": params}


def _named(name: str, numbers: list[float]) -> list[tuple[str, float]]:
    function = fa.activations[name]
    keys = [key for key in function.parameters if key not in function.learned]
    return list(zip(keys, numbers, strict=True))


# ---- the operators -------------------------------------------------------------------------------


def _forward(
    x: Tensor, mean: Tensor | None, var: Tensor | None, weight: Tensor | None, bias: Tensor | None,
    learned: Tensor | None, residual: Tensor | None, training: bool, eps: float, activation: str,
    numbers: list[float], rows: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(y, state). `rows` is ROWS, for what torch caches of compiled graphs: what another version of
    fastact has left there is another graph."""
    others = {
        "weight": weight, "bias": bias, "running_mean": mean, "running_var": var,
        "residual": residual,
    }  # fmt: skip
    with threads():
        y, ctx = batch_norm_forward(
            array_of("x", x), training=training, eps=eps, axis=AXIS,
            **{name: array_of(name, a) for name, a in others.items() if a is not None},
            **_activation(activation, numbers, learned, x.shape[AXIS]),
        )  # fmt: skip
    return tensor_like(x, y), _pack(ctx)


def _fake_forward(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    check("x", x)
    return torch.empty_like(x), x.new_empty((ROWS, x.shape[AXIS]), dtype=torch.float64)


def _save_forward(ctx: Context, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, _, _, *others = inputs
    ctx.settings = others[TENSORS:-1]
    ctx.save_for_backward(x, output[1], *others[:TENSORS])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _gradient(ctx: Context, dy: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    x, state, *others = ctx.saved_tensors
    nothing = [None] * (len(ctx.settings) + 1)
    if dy is None:
        return (None,) * (3 + TENSORS + len(nothing))
    dx, *rest = _backward_operator(dy, x, state, *others, *ctx.settings)
    given = [
        None if tensor is None else gradient for tensor, gradient in zip(others, rest, strict=True)
    ]
    return dx, None, None, *given, *nothing


def _backward(
    dy: Tensor, x: Tensor, state: Tensor, weight: Tensor | None, bias: Tensor | None,
    learned: Tensor | None, residual: Tensor | None, training: bool, eps: float, activation: str,
    numbers: list[float],
) -> tuple[Tensor, ...]:  # fmt: skip
    """(dx, dweight, dbias, dlearned, dresidual), empty but dx where there is no such tensor."""
    array = array_of("x", x)
    arguments = _activation(activation, numbers, learned, x.shape[AXIS])
    fused = fuse(arguments.get("activation"), arguments.get("activation_params"), x.shape[AXIS])
    ctx = _unpack(array, array_of("state", state), weight, bias, residual, training, fused)
    with threads():
        grads = batch_norm_backward(array_of("dy", dy), ctx)
    params = grads.activation_params or {}
    found = (grads.weight, grads.bias, next(iter(params.values()), None), grads.residual)
    tensors = (weight, bias, learned, residual)
    dx = tensor_like(x, grads.x)
    return dx, *[_like(tensor, g) for tensor, g in zip(tensors, found, strict=True)]


def _like(tensor: Tensor | None, values: Any) -> Tensor:
    """A gradient of a tensor; an empty one where there is no such tensor."""
    if tensor is None:
        return torch.empty(0)
    gradient = tensor_of(np.asarray(values), tensor.dtype)
    return gradient if gradient.shape == tensor.shape else gradient.reshape(tensor.shape)


def _fake_backward(dy: Tensor, x: Tensor, state: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    likes = [*rest[: TENSORS - 1], None if rest[TENSORS - 1] is None else x]
    return torch.empty_like(x), *[
        x.new_empty(0, dtype=torch.float32) if t is None else torch.empty_like(t) for t in likes
    ]


def _save_backward(ctx: Context, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    dy, x, state, *rest = inputs
    ctx.save_for_backward(dy, x, state, *rest[:TENSORS])
    ctx.settings = rest[TENSORS:]
    ctx.set_materialize_grads(False)


def _second_gradient(ctx: Context, *outer: Tensor | None) -> tuple[Tensor | None, ...]:
    dy, x, state, *others = ctx.saved_tensors
    composed, given = _of_tensors(state, others, ctx.settings)
    wanted = [outer[0], *_where(others, outer[1:])]
    ddy, dx, *rest = second_order(composed, (dy, x, *given), tuple(wanted))
    left = iter(rest)
    return ddy, dx, None, *[None if t is None else next(left) for t in others], *[None] * 4


def _composed_backward(dy: Tensor, x: Tensor, state: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    others = rest[:TENSORS]
    composed, given = _of_tensors(state, others, rest[TENSORS:])
    dx, *found = torch.func.vjp(composed, x, *given)[1](dy)
    left = iter(found)
    return dx, *[torch.empty(0) if t is None else next(left) for t in others]


def _where(tensors: Sequence[Tensor | None], values: Sequence[Any]) -> list[Any]:
    """The values that belong to a tensor that there is."""
    return [value for t, value in zip(tensors, values, strict=True) if t is not None]


def _of_tensors(
    state: Tensor, others: Sequence[Tensor | None], settings: Sequence[Any]
) -> tuple[Operator, list[Tensor]]:
    """BatchNorm as a function of x and those of the others that there are, and these."""

    def composed(x: Tensor, *given: Tensor) -> Tensor:
        left = iter(given)
        tensors: list[Any] = [None if t is None else next(left) for t in others]
        return _composed_batch_norm(x, (state[MEAN], state[VAR]), *tensors, *settings)

    return composed, _where(others, others)


def _composed_batch_norm(
    x: Tensor, statistics: tuple[Tensor, Tensor], weight: Tensor | None, bias: Tensor | None,
    learned: Tensor | None, residual: Tensor | None, training: bool, eps: float, activation: str,
    numbers: list[float],
) -> Tensor:  # fmt: skip
    """The same of torch's operations, for second derivatives and forward mode."""
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    others = [axis for axis in range(x.ndim) if axis != AXIS]
    shape = [-1 if axis == AXIS else 1 for axis in range(x.ndim)]

    def along(values: Tensor) -> Tensor:
        return values.to(wide.dtype).reshape(shape)

    if training:
        var, mean = torch.var_mean(wide, others, correction=0, keepdim=True)
    else:
        mean, var = map(along, statistics)
    z = (wide - mean) / torch.sqrt(var + eps)
    z = z if weight is None else z * along(weight)
    z = z if bias is None else z + along(bias)
    z = z if residual is None else z + residual.to(wide.dtype)
    if activation:
        params: dict[str, Value] = dict(_named(activation, numbers))
        if learned is not None:
            one = learned.numel() == 1
            value = learned.to(wide.dtype).reshape(()) if one else along(learned)
            params["".join(fa.activations[activation].learned)] = value
        z = _composed.value(activation, z, **params)
    return z.to(x.dtype)


def _composed_forward(
    x: Tensor, mean: Tensor | None, var: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor]:
    """The state holds what running statistics take of it."""
    check("x", x)
    if mean is None or var is None:
        others = [axis for axis in range(x.ndim) if axis != AXIS]
        var, mean = torch.var_mean(x.detach().double(), others, correction=0)
    y = _composed_batch_norm(x, (mean, var), *rest[:-1])
    state = torch.stack([{MEAN: mean, VAR: var}.get(row, mean).double() for row in range(ROWS)])
    return y, state.detach()


_backward_operator = define(
    "batch_norm_backward",
    f"(Tensor dy, Tensor x, Tensor state, {ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _backward, _fake_backward, _second_gradient, _save_backward, _composed_backward,
)  # fmt: skip
_forward_operator = define(
    "batch_norm",
    f"(Tensor x, Tensor? mean, Tensor? var, {ARGUMENTS}, int rows) -> (Tensor, Tensor)",
    _forward, _fake_forward, _gradient, _save_forward, _composed_forward,
)  # fmt: skip


def _track(mean: Tensor, var: Tensor, state: Tensor, count: int, momentum: float) -> None:
    """Moves running statistics towards those of a batch, in place."""
    rows = array_of("state", state)
    running = array_of("running_mean", mean), array_of("running_var", var)
    track(running, rows[MEAN], rows[VAR], count, Update(1.0 - momentum, momentum, unbiased=True))
    torch.autograd.graph.increment_version((mean, var))


LIBRARY.define(
    "track_(Tensor(a!) mean, Tensor(b!) var, Tensor state, SymInt count, float momentum) -> ()",
    tags=(torch.Tag.pt2_compliant_tag,),
)
LIBRARY.impl("track_", _track, "CompositeExplicitAutograd")
torch.library.register_fake("fastact::track_", lambda *_: None, lib=LIBRARY)
_track_operator = unless_observed(torch.ops.fastact.track_.default, _track)


# ---- the function --------------------------------------------------------------------------------


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: str | fa.Activation | None = None,
    activation_params: Mapping[str, Value] | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.batch_norm`, optionally followed by an activation, in one pass.

    Parameters
    ----------
    x : Tensor
        On the CPU, at least two dimensions, channels in dimension 1, any strides (channels-last,
        for one); float16, bfloat16, float32 or float64.
    running_mean, running_var, weight, bias : Tensor of shape (C,), optional
    training : bool
        Whether the statistics are those of x; running ones are then updated in place.
    momentum, eps : float
    activation : str or fastact.Activation, optional
        Any of `fastact.activations`.
    activation_params : dict, optional
        Its parameters: numbers, and for a learned one a tensor of one value or of shape (C,).
    residual : Tensor, optional
        What is added before the activation; broadcasts to x, and has its dtype. Only under autocast
        it may have another; both are promoted then.

    Returns
    -------
    Tensor
        Shape, dtype and strides of x.

    Raises
    ------
    TypeError, ValueError
        A bad argument, which the message names. Nothing has been written then.

    Examples
    --------
    >>> import torch, fastact.torch as fat
    >>> x = torch.tensor([[1.0, 10.0], [3.0, 30.0]])
    >>> fat.batch_norm(x, training=True, activation="relu").round()
    tensor([[0., 0.],
            [1., 1.]])
    """
    if has_torch_function_unary(x):  # torch.fx's proxies: one node
        return handle_torch_function(
            batch_norm, (x,), x, running_mean, running_var, weight, bias, training, momentum, eps,
            activation=activation, activation_params=activation_params, residual=residual,
        )  # fmt: skip
    if residual is not None:
        x, residual = promoted(x, residual)
    return _apply(
        x, running_mean, running_var, weight, bias, training, momentum, eps,
        settle(activation, activation_params), residual,
    )  # fmt: skip


def _apply(
    x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None,
    bias: Tensor | None, training: bool, momentum: float, eps: float, settings: Settings,
    residual: Tensor | None = None,
) -> Tensor:  # fmt: skip
    _check_running(running_mean, running_var)
    if training and x.numel() == 0:
        return _of_nothing(x, weight, bias)
    name, numbers, learned = settings
    residual = None if residual is None else residual.expand_as(x)
    statistics = (None, None) if training else (running_mean, running_var)
    y: Tensor
    y, state = _forward_operator(
        x, *statistics, weight, bias, learned, residual, training, eps, name, numbers, ROWS
    )
    if training and running_mean is not None and running_var is not None:
        count = x.numel() // x.shape[AXIS]
        _track_operator(running_mean, running_var, state, count, momentum)
    return y


def _check_running(mean: Tensor | None, var: Tensor | None) -> None:
    """They are constants: as such they would get no gradient."""
    for name, tensor in ("running_mean", mean), ("running_var", var):
        if tensor is not None and tensor.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"{name}: a tensor that requires a gradient is not accepted, as it would get none; "
                f"expected one without: {name}.detach()"
            )


def _of_nothing(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """An empty batch, as torch has it: no statistics, no complaint, gradients of zeros."""
    check("x", x)
    y = x.clone()
    y = y if weight is None else y * weight[0]
    return y if bias is None else y + bias[0]


# ---- the modules ---------------------------------------------------------------------------------


class FusedBatchNorm(torch.nn.modules.batchnorm._BatchNorm):
    """What the three modules share."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str | fa.Activation | None = None,
        activation_params: Mapping[str, Value] | None = None,
        **newer: Any,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype,
            **newer,
        )  # fmt: skip
        settle(activation, activation_params)
        self.activation = None
        if activation is not None:
            self.activation = Activation(activation, **(activation_params or {}))
            self.activation.to(device=device, dtype=dtype)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """The residual, which broadcasts, is added before the activation."""
        tracer: Any = input.tracer if isinstance(input, fx.Proxy) else None
        if tracer is not None and (path := tracer.path_of_module(self)):
            operands = (input,) if residual is None else (input, residual)
            proxy: Tensor = tracer.create_proxy("call_module", path, operands, {})  # as torch's own
            return proxy
        activation = self.activation  # once: a module looks through three dictionaries for it
        if residual is not None and not self._takes(residual, input):
            z = self._run(input, None, Settings()) + residual
            return z if activation is None else activation(z)
        return self._run(
            input, residual, Settings() if activation is None else activation.settings()
        )

    if TYPE_CHECKING:  # torch's, which has no types

        def _check_input_dim(self, input: Tensor) -> None: ...

    def _takes(self, residual: Tensor, x: Tensor) -> bool:
        """Whether the kernel adds a residual as torch would."""
        return residual.dtype is x.dtype and _broadcasts(residual.shape, x.shape)

    def _run(self, input: Tensor, residual: Tensor | None, settings: Settings) -> Tensor:
        self._check_input_dim(input)
        training, mean, var = self.training, self.running_mean, self.running_var
        tracks = training and self.track_running_stats
        y = self._normalise(
            input,
            (mean, var) if tracks or not training else (None, None),
            training or (mean is None and var is None),
            self._momentum(tracks),
            settings,
            residual,
        )
        if tracks and (batches := self.num_batches_tracked) is not None:
            batches.add_(1)
        return y

    def _normalise(
        self, x: Tensor, statistics: tuple[Tensor | None, Tensor | None], training: bool,
        momentum: float, settings: Settings, residual: Tensor | None,
    ) -> Tensor:  # fmt: skip
        return _apply(
            x, *statistics, self.weight, self.bias, training, momentum, self.eps, settings, residual
        )

    def _momentum(self, tracks: bool) -> float:
        if self.momentum is not None:
            return self.momentum
        if not tracks or self.num_batches_tracked is None:
            return 0.0
        return 1.0 / (float(self.num_batches_tracked) + 1.0)


EXAMPLE = list(fa.activations)[-1]
DOCUMENTATION = """`torch.nn.{name}` on the CPU, optionally fused with an activation.

    Its arguments, attributes and checkpoint keys, and its results, as exact as torch's or better.
    The learned parameter of an activation has the key ``activation.NAME``.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats, device, dtype
        As for `torch.nn.{name}`.
    activation : str or fastact.Activation, optional
        Any of `fastact.activations`, computed before the value leaves the cache.
    activation_params : dict, optional
        Its parameters; of a learned one the initial value, a number or of shape (C,).
    **newer
        What else the installed torch's class takes.

    Notes
    -----
    To torch it is a BatchNorm: tools that replace one, as
    ``torch.nn.SyncBatchNorm.convert_sync_batchnorm`` and ``torch.nn.utils.fusion`` do, drop the
    activation without a word. `fastact.torch.SyncBatchNorm` has a conversion that keeps it.

    Examples
    --------
    >>> import torch, fastact.torch as fat
    >>> layer = fat.{name}(3, activation="{example}")
    >>> layer(torch.randn({shape})).shape
    torch.Size([{shape}])
    >>> list(layer.state_dict()) == list(torch.nn.{name}(3).state_dict())
    True
    """


class BatchNorm1d(FusedBatchNorm, torch.nn.BatchNorm1d):
    __doc__ = DOCUMENTATION.format(name="BatchNorm1d", shape="8, 3", example=EXAMPLE)


class BatchNorm2d(FusedBatchNorm, torch.nn.BatchNorm2d):
    __doc__ = DOCUMENTATION.format(name="BatchNorm2d", shape="8, 3, 4, 4", example=EXAMPLE)


class BatchNorm3d(FusedBatchNorm, torch.nn.BatchNorm3d):
    __doc__ = DOCUMENTATION.format(name="BatchNorm3d", shape="8, 3, 4, 4, 2", example=EXAMPLE)
