"""BatchNorm of dask arrays: lazy, a pass of statistics a chunk, merged by a tree.

The graph holds the functions of _pieces.py. dask is not imported before an array of it comes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fastact import _checks as checks
from fastact import _normalization as normalization
from fastact._pieces import (
    BatchNormSums,
    batch_norm_apply,
    batch_norm_backward_apply,
    batch_norm_backward_reduce,
)
from fastact._statistics import BatchStats, batch_norm_stats, from_rows, merge_stats

SPLIT = 8  # branches of a tree's node


@dataclass(frozen=True, slots=True, eq=False)
class LazyContext:
    """What `batch_norm_backward` needs of a forward call on a dask array.

    Attributes
    ----------
    x : dask.array.Array
    mean, var : dask.array.Array
        float64 of shape (C,), lazy.
    count : int
        Number of values a channel; NaN where x has chunks of unknown size.
    training : bool
    """

    x: object
    mean: object
    var: object
    count: float
    training: bool
    _rows: object
    _call: normalization.Call
    _given: dict  # arguments by name, arrays of a value a channel among them


# ---- forward ---------------------------------------------------------------------------------


def forward(x, comm, *, keeps_x, features=None, **options):
    check_lazy(options, comm)
    call = check(x, features, options)
    axis, training = call.axis, call.training
    count = math.prod(n for a, n in enumerate(x.shape) if a != axis)
    normalization.check_count(training, count, x.shape, axis)
    given = {key: options[key] for key in ("weight", "bias", "eps", "activation")}
    given |= {"params": options["activation_params"] or {}, "axis": axis}
    rows = lazy_stats(x, axis) if training else constant(x, axis, call.running)
    y = blockwise(normalise_block, x, x.dtype, [x], rows, given, training=training)
    context = LazyContext(x, rows[1], variance(rows), count, training, rows, call, given)
    return y, context


def check_lazy(options: dict, comm: object) -> None:
    if comm is not None:
        raise TypeError("comm: not with a dask array, whose chunks may be anywhere already")
    if options["out"] is not None:
        raise TypeError("out: not with a dask array, which is computed later")
    if options["training"] is True and options["running_mean"] is not None:
        raise TypeError(
            "running_mean: updated in place, which a dask array, computed later, cannot do; leave "
            "it out, and update it with ctx.mean and ctx.var when they are computed"
        )


def check(x, features: int | None, options: dict) -> normalization.Call:
    """The checks of a call, on an array of two elements a channel in place of x."""
    if x.ndim < 2:
        checks.geometry(x, options["axis"])
    axis = checks.channel_axis(options["axis"], x.ndim)
    channels = x.shape[axis]
    if math.isnan(channels):
        raise ValueError(f"x: the number of channels (axis {axis}) is not known; expected it to be")
    shape = [2 if a == axis - 1 or (axis == 0 and a == 1) else 1 for a in range(x.ndim)]
    shape[axis] = channels
    stand_in = np.zeros(shape, x.dtype)
    options = {**options, "axis": axis}
    return normalization.check_call(stand_in, keeps_x=True, features=features, **options)


def lazy_stats(x, axis: int):
    """(5, C): count, mean and m2 with their low parts; chunks as x's channels are."""
    import dask.array as da
    from dask import delayed

    columns = np.moveaxis(x.to_delayed(optimize_graph=False), axis, 0)
    of_block, rows_of = delayed(batch_norm_stats, pure=True), delayed(stats_rows, pure=True)
    tables = []
    for blocks, width in zip(columns, x.chunks[axis], strict=True):
        whole = tree([of_block(block, axis) for block in blocks.ravel()], merge_stats)
        tables.append(da.from_delayed(rows_of(whole), (5, width), np.float64))
    return da.concatenate(tables, axis=1)


def tree(parts: list, merge: Callable):
    from dask import delayed

    merge = delayed(merge, pure=True)
    while len(parts) > 1:
        parts = [merge(*parts[k : k + SPLIT]) for k in range(0, len(parts), SPLIT)]
    return parts[0]


def stats_rows(stats: BatchStats) -> np.ndarray:
    return np.concatenate([np.full((1, stats.mean.size), float(stats.count)), stats._rows])


def constant(x, axis: int, running: tuple):
    """Running statistics in the same rows, for one value."""
    import dask.array as da

    rows = np.zeros((5, x.shape[axis]))
    rows[0], rows[1], rows[3] = 1.0, running[0], running[1]
    return da.from_array(rows, chunks=((5,), x.chunks[axis]))


def variance(rows):
    """Where there are no values, NaN."""
    return rows.map_blocks(variance_of_rows, dtype=np.float64, drop_axis=0)


def variance_of_rows(rows: np.ndarray) -> np.ndarray:
    return from_rows(rows).var


# ---- blocks ----------------------------------------------------------------------------------


def blockwise(
    function: Callable, x, dtype, arrays: list, rows, given: dict, sums=None, **constants
):
    """`function(*blocks, rows, sums, **options)` for each block of x; what is given a channel goes
    with its channels."""
    import dask.array as da

    axis = given["axis"]
    index, channel, new = tuple(range(x.ndim)), (axis,), x.ndim
    pairs = [pair for array in arrays for pair in (array, index)]
    pairs += [rows, (new, *channel), sums, None if sums is None else (new + 1, *channel)]
    for value in (given["weight"], given["bias"], *given["params"].values()):
        each = np.shape(value) == (x.shape[axis],) and value is not None
        lazy = da.from_array(np.array(value), chunks=(x.chunks[axis],)) if each else value
        pairs += [lazy, channel if each else None]
    return da.blockwise(
        functools.partial(on_block, function, len(arrays), tuple(given["params"])),
        index, *pairs, dtype=dtype, concatenate=True, meta=np.empty((0,) * x.ndim, dtype),
        options={"eps": given["eps"], "axis": axis, "activation": name_of(given["activation"])},
        constants=constants,
    )  # fmt: skip


def name_of(activation: object) -> str | None:
    return getattr(activation, "name", activation)


def on_block(
    function: Callable, arrays: int, names: tuple, *values, options: dict, constants: dict
):
    blocks, (rows, sums, weight, bias) = values[:arrays], values[arrays : arrays + 4]
    params = dict(zip(names, values[arrays + 4 :], strict=True))
    options = {**options, "weight": weight, "bias": bias, "activation_params": params or None}
    return function(*blocks, rows, sums, options, **constants)


def normalise_block(x, rows, sums, options: dict, training: bool):
    """y"""
    if training:
        return batch_norm_apply(x, from_rows(rows), **options)
    return normalization.batch_norm(x, running_mean=rows[1], running_var=rows[3], **options)


def gradient_block(dy, x, rows, sums, options: dict, training: bool):
    """dx"""
    if training:
        return batch_norm_backward_apply(dy, x, from_rows(rows), BatchNormSums(*sums), **options).x
    running = {"running_mean": rows[1], "running_var": rows[3]}
    _, ctx = normalization.batch_norm_forward(x, training=False, **running, **options)
    return normalization.batch_norm_backward(dy, ctx).x


# ---- backward --------------------------------------------------------------------------------


def backward(dy, ctx: LazyContext, out: object) -> normalization.BatchNormGradients:
    x, given = ctx.x, ctx._given
    if out is not None:
        raise TypeError("out: not with a dask array, which is computed later")
    dy = like_x("dy", dy, x)
    sums, small = lazy_sums(dy, x, ctx)
    dx = blockwise(
        gradient_block, x, x.dtype, [dy, x], ctx._rows, given, sums, training=ctx.training
    )
    fused = ctx._call.fused
    params = None
    if fused.learned is not None:
        param = small("param", np.float64)
        params = {fused.learned: (param if fused.shape else param.sum()).astype(fused.dtype)}
    types = {"weight": ctx._call.weight_dtype, "bias": ctx._call.bias_dtype}
    weight, bias = (small(name, dtype) if dtype else None for name, dtype in types.items())
    return normalization.gradients(dx, weight, bias, None, params)


def like_x(name: str, value: object, x):
    """A dask array of x's dtype and chunks, of one that is lazy or not."""
    import dask.array as da

    lazy = normalization.is_lazy(value)
    value = value if lazy else checks.float_array(name, value)
    if value.dtype != x.dtype:
        raise TypeError(f"{name}: dtype {value.dtype} is not accepted; expected x's, {x.dtype}")
    if not same_shape(value.shape, x.shape):
        raise ValueError(f"{name}: shape {value.shape} is not accepted; expected x's, {x.shape}")
    if not lazy:
        return da.from_array(value, chunks=x.chunks)
    return value if value.chunks == x.chunks else value.rechunk(x.chunks)


def same_shape(a: tuple, b: tuple) -> bool:
    """NaN, an unknown size, fits any."""
    fits = (m == n or math.isnan(m) or math.isnan(n) for m, n in zip(a, b, strict=False))
    return len(a) == len(b) and all(fits)


def lazy_sums(dy, x, ctx: LazyContext):
    """(3, C) sums, and a function that gives the gradient of a small array by its name."""
    import dask.array as da
    from dask import delayed

    axis = ctx._call.axis
    reduce, finish = delayed(reduce_block, pure=True), delayed(small_gradients, pure=True)
    columns = [np.moveaxis(a.to_delayed(optimize_graph=False), axis, 0) for a in (dy, x)]
    rows = ctx._rows.to_delayed(optimize_graph=False)[0]
    tables, smalls, begin = [], [], 0
    for dys, xs, table, width in zip(*columns, rows, x.chunks[axis], strict=True):
        options = column_options(ctx, slice(begin, begin + width))
        pairs = zip(dys.ravel(), xs.ravel(), strict=True)
        total = tree([reduce(b, a, table, options) for b, a in pairs], add)
        tables.append(da.from_delayed(total, (3, width), np.float64))
        smalls.append((finish(x.dtype, table, total, options), width))
        begin += width

    def small(name: str, dtype: np.dtype):
        each = [da.from_delayed(g[name], (width,), dtype) for g, width in smalls]
        return da.concatenate(each)

    return da.concatenate(tables, axis=1), small


def add(*sums: np.ndarray) -> np.ndarray:
    return functools.reduce(np.add, sums)


def column_options(ctx: LazyContext, channels: slice) -> dict:
    """The arguments of some channels."""
    given, size = ctx._given, ctx.x.shape[ctx._call.axis]

    def part(value):
        return value[channels] if np.shape(value) == (size,) else value

    params = {key: part(np.asarray(value)) for key, value in given["params"].items()}
    options = {key: given[key] for key in ("eps", "axis")}
    options |= {
        key: part(np.asarray(given[key])) for key in ("weight", "bias") if given[key] is not None
    }
    return {
        **options,
        "activation": name_of(given["activation"]),
        "activation_params": params or None,
    }


def reduce_block(dy, x, rows: np.ndarray, options: dict) -> np.ndarray:
    """(3, C) sums"""
    sums = batch_norm_backward_reduce(dy, x, from_rows(rows), **options)
    return np.stack([sums.g, sums.gx, sums.param])


def small_gradients(dtype: np.dtype, rows: np.ndarray, sums: np.ndarray, options: dict) -> dict:
    """By name, a value a channel: of an array without elements they are those of the sums."""
    nothing = np.empty((0, rows.shape[1]), dtype)
    options = {**options, "axis": 1}
    whole = BatchNormSums(*sums)
    grads = batch_norm_backward_apply(nothing, nothing, from_rows(rows), whole, **options)
    return {"weight": grads.weight, "bias": grads.bias, "param": sums[2]}
