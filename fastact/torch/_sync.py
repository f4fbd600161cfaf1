"""BatchNorm whose statistics are those of all processes of a torch.distributed group.

torch's own SyncBatchNorm refuses tensors on the CPU. Here the numbers go through gloo, or whatever
backend of the group takes CPU tensors, by the same adapter that ``comm=`` of fastact.BatchNorm is
given. A step of C channels gathers a header and 1 + 4 C float64 of each process, its backward
1 + 3 C: an error on one process is raised on all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

import fastact as fa
from fastact._distributed import AGREED, Group, Header, checksum, exchange
from fastact._pieces import (
    BatchNormSums,
    batch_norm_apply,
    batch_norm_backward_apply,
    batch_norm_backward_reduce,
)
from fastact._running import Update, track
from fastact._statistics import ROWS, batch_norm_stats, from_rows, merged
from fastact.torch._activations import Settings, Value
from fastact.torch._batch_norm import AXIS, FusedBatchNorm, _activation, _like
from fastact.torch._operators import LIBRARY, Context, define, threads
from fastact.torch._tensors import array_of, check, empty_like

Array = np.ndarray[Any, np.dtype[Any]]
SUMS = 3  # of g, of g * (x - mean), of a learned parameter's gradient


class Communicator:
    """A torch.distributed group as the ``comm=`` of fastact's BatchNorm, for arrays on the CPU.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup, optional
        The default group.

    Raises
    ------
    RuntimeError
        torch.distributed is not initialised.

    Examples
    --------
    >>> import numpy as np, torch.distributed as dist, fastact as fa, fastact.torch as fat
    >>> store = dist.HashStore()
    >>> dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    >>> y = fa.batch_norm(np.eye(3), training=True, comm=fat.Communicator())
    >>> dist.destroy_process_group()
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        if not dist.is_available() or not dist.is_initialized():
            raise RuntimeError(
                "group: torch.distributed is not initialised; call "
                'torch.distributed.init_process_group("gloo") first'
            )
        self.group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)

    def Allgather(self, send: Array, receive: Array) -> None:
        rows = list(torch.from_numpy(receive.reshape(self.size, -1)).unbind())
        dist.all_gather(rows, torch.from_numpy(send.flatten()), group=self.group)

    def Allreduce(self, send: Array, receive: Array) -> None:
        receive[...] = send
        dist.all_reduce(torch.from_numpy(receive), group=self.group)


def _group(name: str) -> Group:
    c10d: Any = dist.distributed_c10d  # a private function, by which torch's own operators do it
    return Group(Communicator(c10d._resolve_process_group(name)))


# ---- the operators -------------------------------------------------------------------------------
#
# The state between forward and backward is (1 + ROWS, C): the number of values, then BatchStats'
# rows.

ARGUMENTS = (
    "Tensor? weight, Tensor? bias, Tensor? learned, float eps, str activation, float[] numbers, "
    "str group"
)
TENSORS = 3  # weight, bias, learned


def _options(
    weight: Tensor | None, bias: Tensor | None, learned: Tensor | None, eps: float,
    activation: str, numbers: list[float], *, channels: int,
) -> dict[str, Any]:  # fmt: skip
    return {
        "weight": None if weight is None else array_of("weight", weight),
        "bias": None if bias is None else array_of("bias", bias),
        "eps": eps, "axis": AXIS, **_activation(activation, numbers, learned, channels),
    }  # fmt: skip


def _forward(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """(y, state)."""
    group = _group(rest[-1])

    def checked() -> tuple[Any, float, float, list[float]]:
        array = array_of("x", x)
        options = _options(*rest[:-1], channels=x.shape[AXIS])
        with threads():
            stats = batch_norm_stats(array, AXIS)
        agreed = [0.0] * len(AGREED)
        agreed[AGREED.index("channels")] = x.shape[AXIS]
        agreed[AGREED.index("the dtype of x")] = checksum(array.dtype.name)
        return (array, options, stats), stats.count, stats.count, agreed

    (array, options, stats), header = Header.send(group, checked)
    if header.values < 2:
        raise ValueError(
            f"x: {header.values} value per channel on all processes together; training needs 2"
        )
    rows = exchange(group, lambda: stats._rows, stats._rows.size)
    everywhere = merged(header.counts, rows.reshape(group.size, ROWS, -1))
    y, out = empty_like(x, array)
    with threads():
        batch_norm_apply(array, everywhere, out=out, **options)
    state = np.empty((1 + ROWS, x.shape[AXIS]))
    state[0], state[1:] = everywhere.count, everywhere._rows
    return y, torch.from_numpy(state)


def _fake_forward(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    check("x", x)
    return torch.empty_like(x), x.new_empty((1 + ROWS, x.shape[AXIS]), dtype=torch.float64)


def _save_forward(ctx: Context, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, learned, *ctx.settings = inputs
    ctx.save_for_backward(x, weight, bias, learned, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _gradient(ctx: Context, dy: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    x, weight, bias, learned, state = ctx.saved_tensors
    nothing = [None] * len(ctx.settings)
    if dy is None:  # of no use to the loss here, but the others wait for this process
        dy = torch.zeros_like(x)
    dx, *rest = _backward_operator(dy, x, state, weight, bias, learned, *ctx.settings)
    tensors = zip((weight, bias, learned), rest, strict=True)
    return dx, *[None if tensor is None else gradient for tensor, gradient in tensors], *nothing


def _backward(
    dy: Tensor, x: Tensor, state: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(dx, dweight, dbias, dlearned): the first of the loss of all processes, the others of this
    one's, which DistributedDataParallel averages as it does all parameters'."""
    group, stats = _group(rest[-1]), from_rows(array_of("state", state))
    own: list[Any] = []

    def reduced() -> Array:
        options = _options(*rest[:-1], channels=x.shape[AXIS])
        arrays = array_of("dy", dy), array_of("x", x)
        with threads():
            sums = batch_norm_backward_reduce(*arrays, stats, **options)
        own.extend((options, arrays, sums))
        return np.stack([sums.g, sums.gx, sums.param])

    table = exchange(group, reduced, SUMS * x.shape[AXIS]).reshape(group.size, SUMS, -1)
    options, arrays, sums = own
    dx, out = empty_like(x, arrays[1])
    with threads():
        everywhere = BatchNormSums(*table.sum(axis=0))  # in the order of ranks
        batch_norm_backward_apply(arrays[0], arrays[1], stats, everywhere, out=out, **options)
    weight, bias, learned = rest[:TENSORS]
    with np.errstate(all="ignore"):
        scaled = sums.gx / np.sqrt(stats.var + rest[TENSORS])
    return dx, _sum_like(weight, scaled), _sum_like(bias, sums.g), _sum_like(learned, sums.param)


def _sum_like(tensor: Tensor | None, sums: Array) -> Tensor:
    """Sums a channel as a gradient of a tensor, which may have one value for all channels."""
    if tensor is None:
        return _like(None, None)
    wanted = sums.sum() if tensor.numel() == 1 and sums.size != 1 else sums
    return _like(tensor, np.asarray(wanted, array_of("", tensor).dtype))


def _fake_backward(dy: Tensor, x: Tensor, state: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return torch.empty_like(x), *[
        x.new_empty(0, dtype=torch.float32) if t is None else torch.empty_like(t)
        for t in rest[:TENSORS]
    ]


def _save_nothing(ctx: Context, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None: ...


def _second_gradient(ctx: Context, *outer: Tensor | None) -> None:
    raise NotImplementedError(
        "SyncBatchNorm has no second derivatives: differentiate without create_graph=True"
    )


def _no_tangent(*inputs: Any) -> None:
    raise NotImplementedError(
        "SyncBatchNorm has no derivatives in forward mode: use torch.func.vjp or backward()"
    )


_backward_operator = define(
    "sync_batch_norm_backward",
    f"(Tensor dy, Tensor x, Tensor state, {ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor)",
    _backward, _fake_backward, _second_gradient, _save_nothing, _no_tangent,
)  # fmt: skip
_forward_operator = define(
    "sync_batch_norm", f"(Tensor x, {ARGUMENTS}) -> (Tensor, Tensor)",
    _forward, _fake_forward, _gradient, _save_forward, _no_tangent,
)  # fmt: skip


def _track(mean: Tensor, var: Tensor, state: Tensor, momentum: float) -> None:
    """Moves running statistics towards those of all processes' batch, in place."""
    stats = from_rows(array_of("state", state))
    running = array_of("running_mean", mean), array_of("running_var", var)
    rule = Update(1.0 - momentum, momentum, unbiased=True)
    track(running, stats.mean, stats.var, stats.count, rule)
    torch.autograd.graph.increment_version((mean, var))


LIBRARY.define(
    "sync_track_(Tensor(a!) mean, Tensor(b!) var, Tensor state, float momentum) -> ()",
    tags=(torch.Tag.pt2_compliant_tag,),
)
LIBRARY.impl("sync_track_", _track, "CompositeExplicitAutograd")
torch.library.register_fake("fastact::sync_track_", lambda *_: None, lib=LIBRARY)


# ---- the module ----------------------------------------------------------------------------------


class SyncBatchNorm(FusedBatchNorm):
    """`torch.nn.SyncBatchNorm` on the CPU, optionally fused with an activation.

    In training its statistics are those of all processes' batches together, which may have any
    number of elements each, none too; so is the gradient of its input. Results and running
    statistics have the same bits on all of them. In evaluation, in a group of one, and where
    torch.distributed is not initialised it is an ordinary BatchNorm.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats, process_group, device, dtype
        As for `torch.nn.SyncBatchNorm`. The group's backend has to take CPU tensors, as gloo does.
    activation : str or fastact.Activation, optional
        Any of `fastact.activations`, computed before the value leaves the cache.
    activation_params : dict, optional
        Its parameters; of a learned one the initial value, a number or of shape (C,).

    Notes
    -----
    Gradients of weight, bias and a learned parameter are those of this process's loss, as torch's
    are: DistributedDataParallel averages them. There are no second derivatives. The class is a
    subclass of torch's BatchNorms but not of ``torch.nn.SyncBatchNorm``, whose instances
    DistributedDataParallel refuses on the CPU.

    Examples
    --------
    >>> import torch, fastact.torch as fat
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), fat.BatchNorm1d(4, activation="relu"))
    >>> type(fat.SyncBatchNorm.convert_sync_batchnorm(model)[1]).__name__
    'SyncBatchNorm'
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: dist.ProcessGroup | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str | fa.Activation | None = None,
        activation_params: Mapping[str, Value] | None = None,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype,
            activation=activation, activation_params=activation_params,
        )  # fmt: skip
        self.process_group = process_group

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")

    def _takes(self, residual: Tensor, x: Tensor) -> bool:
        return self._synchronised() is None and super()._takes(residual, x)

    def _synchronised(self) -> dist.ProcessGroup | None:
        """The group to ask, if there is anyone else in it."""
        if not (self.training and dist.is_available() and dist.is_initialized()):
            return None
        group = self.process_group or dist.group.WORLD
        return group if group is not None and dist.get_world_size(group) > 1 else None

    def _normalise(
        self, x: Tensor, statistics: tuple[Tensor | None, Tensor | None], training: bool,
        momentum: float, settings: Settings, residual: Tensor | None,
    ) -> Tensor:  # fmt: skip
        group = self._synchronised() if training else None
        if group is None:
            return super()._normalise(x, statistics, training, momentum, settings, residual)
        name, numbers, learned = settings
        y: Tensor
        y, state = _forward_operator(
            x, self.weight, self.bias, learned, self.eps, name, numbers, group.group_name
        )
        mean, var = statistics
        if mean is not None and var is not None:
            torch.ops.fastact.sync_track_(mean, var, state, momentum)
        return y

    @classmethod
    def convert_sync_batchnorm(
        cls, module: torch.nn.Module, process_group: dist.ProcessGroup | None = None
    ) -> torch.nn.Module:
        """Makes every BatchNorm of a model, fastact's or torch's, a synchronised one, in place.

        Parameters, buffers, keys, hooks and activations stay the same objects.

        Parameters
        ----------
        module : torch.nn.Module
        process_group : torch.distributed.ProcessGroup, optional

        Returns
        -------
        torch.nn.Module
            `module` itself.
        """
        for m in module.modules():
            if isinstance(m, torch.nn.modules.batchnorm._BatchNorm) and not isinstance(m, cls):
                made: Any = m
                if not isinstance(m, FusedBatchNorm):
                    made.activation = None
                made.__class__ = cls
                made.process_group = process_group
        return module
