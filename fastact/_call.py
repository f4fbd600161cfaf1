"""A BatchNorm call: its checked arguments, and how it runs, in one process or in several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastact import _checks as checks
from fastact import _inplace, _kernels
from fastact._context import INPUT, BatchNormContext
from fastact._counted import Counted, count_in
from fastact._distributed import Group, Header, checksum, exchange
from fastact._environment import in_default_environment
from fastact._fusion import Fused, fuse
from fastact._running import Running, Update, check_running, track, update_rule
from fastact._statistics import ROWS, merged, stats_of

FORWARD, BACKWARD = 1.0, 2.0  # what a collective call is
SAVES = ("input", "output")
Result = tuple[np.ndarray, BatchNormContext]


@dataclass(slots=True, eq=False, repr=False)
class Call:
    """The checked arguments of a forward call."""

    kept: np.ndarray  # x as it was given
    x: np.ndarray
    y: np.ndarray
    result: Any  # y as the caller gets it: `out` itself
    axis: int
    count: int  # elements a channel
    training: bool
    weight: np.ndarray | None
    bias: np.ndarray | None
    weight_dtype: np.dtype | None
    bias_dtype: np.dtype | None
    eps: float
    running: Running | None
    rule: Update
    fused: Fused
    residual: np.ndarray | None = None
    counted: Counted | None = None
    saves_output: bool = False

    @property
    def channels(self) -> int:
        channels: int = self.x.shape[self.axis]
        return channels

    @property
    def values(self) -> int:
        """How many elements a channel count."""
        return self.count if self.counted is None else self.counted.values

    @property
    def total(self) -> float:
        """The sum of their weights."""
        return self.count if self.counted is None else self.counted.total


# ---- checks ----------------------------------------------------------------------------------


def is_lazy(x: object) -> bool:
    """Whether x is an array of dask."""
    return str(type(x).__module__).partition(".")[0] == "dask" and hasattr(x, "to_delayed")


def check_call(
    x: object,
    *,
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
    residual: object,
    mask: object,
    sample_weight: object,
    convention: object,
    out: object,
    save_for_backward: object,
    features: int | None = None,
) -> Call:
    """`features`: the number of channels that x has to have; save_for_backward None: no backward
    follows."""
    kept = checks.as_given("x", x)
    x = checks.native(kept)
    training = checks.flag("training", training)
    axis, channels, count = checks.geometry(x, axis)
    if features is not None and channels != features:
        raise ValueError(
            f"x: shape {x.shape} has {channels} channels on axis {axis}; expected {features}"
        )
    eps = checks.real_number("eps", eps, 0.0, float("inf"))
    rule = update_rule(momentum, convention)
    weight, bias = checks.read_once("weight", weight), checks.read_once("bias", bias)
    weight64 = checks.per_channel("weight", weight, channels)
    bias64 = checks.per_channel("bias", bias, channels)
    added = None if residual is None else checks.like_x("residual", residual, x)
    read_again = {"x": kept, "residual": added}
    running = check_running(running_mean, running_var, read_again, channels, training)
    fused = fuse(activation, activation_params, channels)
    counted = None
    if mask is not None or sample_weight is not None:
        counted = count_in(mask, sample_weight, x, axis)
    saves_output = check_saves(save_for_backward, fused, added, x)
    small = {
        "weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var,
    }  # fmt: skip
    may_be = ("x",) if saves_output or (save_for_backward is None and not training) else ()
    if save_for_backward is None:
        may_be = (*may_be, "residual")
    y = checks.output(out, x, may_be=may_be, apart={**read_again, **small})
    return Call(
        kept, x, y, y if out is None else out, axis, count, training, weight64, bias64,
        checks.gradient_dtype(weight), checks.gradient_dtype(bias), eps, running, rule, fused,
        added, counted, saves_output,
    )  # fmt: skip


def check_saves(what: object, fused: Fused, residual: object, x: np.ndarray) -> bool:
    """Whether y is what the backward gets."""
    if what is None or checks.word("save_for_backward", what, SAVES) == "input":
        return False
    if residual is not None:
        raise ValueError(
            "residual: not with save_for_backward='output', which cannot find x again from a sum; "
            "expected save_for_backward='input'"
        )
    _inplace.check(fused, x)
    return True


def check_count(
    training: bool,
    values: int,
    total: float,
    shape: tuple[int, ...],
    axis: int,
    where: str = "",
) -> None:
    """Whether there are values enough."""
    if not training or not (values < 2 or total <= 1):  # NaN: not known yet
        return
    if values < 2:
        raise ValueError(
            f"x: shape {shape} has {values} value{'' if values == 1 else 's'} per channel (axis "
            f"{axis}) that count{'s' if values == 1 else ''}{where}; training needs at least 2"
        )
    raise ValueError(
        f"sample_weight: the weights of a channel sum to {total:g}{where}; they stand for numbers "
        "of values, so expected more than 1"
    )


# ---- one process -----------------------------------------------------------------------------


def run(call: Call) -> Result:
    """Normalises, and only then updates the running statistics."""
    check_count(call.training, call.values, call.total, call.x.shape, call.axis)
    table = table_for(call)
    if call.saves_output and not _inplace.is_safe(call):
        if call.training:
            _kernels.batch_norm_statistics(call.x, call.axis, table, call.counted)
        return normalise_and_keep(call, table, call.total)
    normalise(call, call.training, table)
    return finish(call, table, call.total)


def table_for(call: Call) -> np.ndarray:
    """The kernels' table, with the running statistics where they are what normalises x."""
    table = np.zeros((_kernels.STATISTICS, call.channels))
    if not call.training and call.running is not None:
        table[_kernels.MEAN], table[_kernels.VAR] = call.running
    return table


def normalise(call: Call, training: bool, table: np.ndarray) -> None:
    fused = call.fused
    _kernels.batch_norm_forward(
        call.x, call.y, call.axis, training, call.weight, call.bias, call.eps, fused.row,
        fused.values, fused.per_channel, table, call.counted, call.residual,
    )  # fmt: skip


def normalise_and_keep(call: Call, table: np.ndarray, total: float, comm: object = None) -> Result:
    """With statistics that are known, what y loses is put aside before y is written."""
    safe = not call.saves_output or _inplace.is_safe(call)
    kept = _inplace.KEEPS_ALL if safe else _inplace.find_lost(call, table)
    normalise(call, False, table)
    return finish(call, table, total, comm, kept)


def finish(
    call: Call,
    table: np.ndarray,
    total: float,
    comm: object = None,
    kept: _inplace.Kept = _inplace.KEEPS_ALL,
) -> Result:
    """y and the context, the running statistics updated."""
    table.flags.writeable = False
    mean, var = table[_kernels.MEAN], table[_kernels.VAR]
    if call.training and call.running is not None:
        track(call.running, mean, var, total, call.rule)
    from_output = call.saves_output and kept.x is None
    context = BatchNormContext(
        None if from_output else call.kept if kept.x is None else kept.x, mean, var, total,
        call.training, call.axis, table, call.fused, call.weight_dtype, call.bias_dtype, comm,
        call.residual, call.counted, checks.own_view(call.y) if from_output else None,
        kept.saved if from_output else INPUT if kept.x is None else kept.saved, kept.lost,
    )  # fmt: skip
    return call.result, context


# ---- several processes -----------------------------------------------------------------------


def run_on_all(comm: object, check: Callable[[], Call]) -> Result:
    """The same with the values of all processes."""
    group = Group(comm)
    call, header = Header.send(group, lambda: described(check()))
    together = ", on all ranks together"
    check_count(call.training, header.values, header.count, call.x.shape, call.axis, together)
    table = table_for(call)
    if call.training:
        own = lambda: stats_of(call.x, call.axis, call.values, call.counted)._rows  # noqa: E731
        rows = exchange(group, own, ROWS * call.channels)
        stats = merged(header.counts, rows.reshape(group.size, ROWS, call.channels))
        table[: _kernels.MEAN + ROWS] = stats._table_rows()
    return normalise_and_keep(call, table, header.count, comm)


def described(call: Call) -> tuple[Call, float, int, list[float]]:
    """What the header says of a call; the last: what has to be the same on all ranks."""
    if call.training or call.running is None:
        running = checksum(call.running is not None)
    else:
        running = checksum(*[np.asarray(values, np.float64) for values in call.running])
    agreed = [
        FORWARD, call.channels, checksum(call.x.dtype.name), call.training, call.eps,
        call.rule.share, call.rule.unbiased, checksum(call.fused.name),
        checksum(*call.fused.values), checksum(call.weight), checksum(call.bias),
        running, call.saves_output, call.residual is not None, 0.0,
    ]  # fmt: skip
    return call, call.total, call.values, agreed


@in_default_environment
def forward(x: object, comm: object, **options: Any) -> tuple[Any, Any]:
    """Takes the arguments of check_call. Of a dask array y and context are lazy ones."""
    if type(x) is not np.ndarray and is_lazy(x):
        from fastact import _dask

        return _dask.forward(x, comm, **options)
    if comm is None:
        return run(check_call(x, **options))
    return run_on_all(comm, lambda: check_call(x, **options))
