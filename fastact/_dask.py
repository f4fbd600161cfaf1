"""BatchNorm of dask arrays: lazy, a pass of statistics a chunk, merged by a tree.

The graph holds the functions of _pieces.py. dask is not imported before an array of it comes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastact import _checks as checks
from fastact._call import Call, check_call, check_count, is_lazy
from fastact._context import BatchNormGradients, gradients
from fastact._normalization import batch_norm, batch_norm_backward, batch_norm_forward
from fastact._pieces import (
    BatchNormSums,
    batch_norm_apply,
    batch_norm_backward_apply,
    batch_norm_backward_reduce,
)
from fastact._running import Running
from fastact._statistics import BatchStats, batch_norm_stats, from_rows, merge_stats

SPLIT = 8  # branches of a tree's node
ALONG = ("residual", "mask", "sample_weight")  # arrays whose blocks go with those of x

Lazy = Any  # a dask array or a delayed value, for which dask has no types
Options = dict[str, Any]  # arguments of BatchNorm's functions by name
Along = dict[str, Lazy]  # by ALONG's names; None where there is no such array


@dataclass(frozen=True, slots=True, eq=False)
class LazyContext:
    """What `batch_norm_backward` needs of a forward call on a dask array.

    Attributes
    ----------
    x : dask.array.Array
    mean, var : dask.array.Array
        float64 of shape (C,), lazy.
    count : int
        Number of elements a channel; NaN where x has chunks of unknown size.
    training : bool
    """

    x: Lazy
    mean: Lazy
    var: Lazy
    count: float
    training: bool
    _rows: Lazy
    _call: Call
    _given: Options  # arrays of a value a channel among them
    _along: Along


# ---- forward ---------------------------------------------------------------------------------


def forward(
    x: Lazy,
    comm: object,
    *,
    save_for_backward: object,
    features: int | None = None,
    **options: Any,
) -> tuple[Lazy, LazyContext]:
    check_lazy(options, comm, save_for_backward)
    along = {name: options.pop(name) for name in ALONG}
    call = check(x, features, options)
    axis, training = call.axis, call.training
    along = check_along(along, x, axis)
    count = math.prod(n for a, n in enumerate(x.shape) if a != axis)
    check_count(training, count, math.inf, x.shape, axis)
    given = {key: options[key] for key in ("weight", "bias", "eps", "activation")}
    given |= {"params": options["activation_params"] or {}, "axis": axis}
    if training or call.running is None:
        rows = lazy_stats(x, axis, along)
    else:
        rows = constant(x, axis, call.running)
    y = blockwise(normalise_block, x, {"x": x, **along}, rows, given, training=training)
    context = LazyContext(x, rows[1], variance(rows), count, training, rows, call, given, along)
    return y, context


def check_lazy(options: Options, comm: object, save_for_backward: object) -> None:
    if comm is not None:
        raise TypeError("comm: not with a dask array, whose chunks may be anywhere already")
    if save_for_backward not in (None, "input"):
        raise TypeError("save_for_backward: a dask array keeps nothing; expected 'input'")
    if options["out"] is not None:
        raise TypeError("out: not with a dask array, which is computed later")
    if options["training"] is True and options["running_mean"] is not None:
        raise TypeError(
            "running_mean: updated in place, which a dask array, computed later, cannot do; leave "
            "it out (of a layer: track_running_stats=False), and update it with ctx.mean and "
            "ctx.var when they are computed"
        )


def check(x: Lazy, features: int | None, options: Options) -> Call:
    """The checks of a call, on an array of two elements a channel in place of x."""
    if x.ndim < 2:
        checks.geometry(x, options["axis"])
    axis = checks.channel_axis(options["axis"], x.ndim)
    channels = x.shape[axis]
    if math.isnan(channels):
        raise ValueError(f"x: the number of channels (axis {axis}) is not known; expected it to be")
    shape = [1] * x.ndim
    shape[axis - 1] = 2
    shape[axis] = channels
    stand_in = np.zeros(shape, x.dtype)
    options = {**options, "axis": axis, "features": features, "save_for_backward": "input"}
    return check_call(stand_in, **dict.fromkeys(ALONG), **options)


def check_along(along: Options, x: Lazy, axis: int) -> Along:
    residual, mask, weight = along.values()
    lazy = {"residual": None if residual is None else like_x("residual", residual, x)}
    for name, value, kinds in (("mask", mask, "b"), ("sample_weight", weight, "fiu")):
        if value is not None and np.dtype(getattr(value, "dtype", np.float64)).kind not in kinds:
            expected = "bool, True what counts" if kinds == "b" else checks.ACCEPTED
            raise TypeError(f"{name}: dtype {value.dtype} is not accepted; expected {expected}")
        lazy[name] = None if value is None else without_channels(name, value, x, axis)
    return lazy


def from_array(array: np.ndarray, chunks: Any) -> Lazy:
    import dask.array as da

    return da.from_array(array, chunks=chunks)


def without_channels(name: str, value: Any, x: Lazy, axis: int) -> Lazy:
    """A dask array of x's shape and chunks without the channel axis."""
    import dask.array as da

    shape = x.shape[:axis] + x.shape[axis + 1 :]
    chunks = x.chunks[:axis] + x.chunks[axis + 1 :]
    value = value if is_lazy(value) else from_array(np.asarray(value), -1)
    if same_shape(value.shape, shape):
        return value if value.chunks == chunks else value.rechunk(chunks)
    along = zip(value.shape, chunks[len(chunks) - value.ndim :], strict=False)
    try:
        value = value.rechunk(tuple([cuts if length > 1 else length for length, cuts in along]))
        return da.broadcast_to(value, shape, chunks=chunks)
    except ValueError:
        raise ValueError(
            f"{name}: shape {value.shape} is not accepted; expected one that broadcasts to x's "
            f"without the channel axis, {shape}"
        ) from None


def like_x(name: str, value: Any, x: Lazy) -> Lazy:
    """A dask array of x's dtype and chunks, of one that is lazy or not."""

    lazy = is_lazy(value)
    value = value if lazy else checks.float_array(name, value)
    if value.dtype != x.dtype:
        raise TypeError(f"{name}: dtype {value.dtype} is not accepted; expected x's, {x.dtype}")
    if not same_shape(value.shape, x.shape):
        raise ValueError(f"{name}: shape {value.shape} is not accepted; expected x's, {x.shape}")
    if not lazy:
        return from_array(value, x.chunks)
    return value if value.chunks == x.chunks else value.rechunk(x.chunks)


def same_shape(a: Sequence[float], b: Sequence[float]) -> bool:
    """NaN, an unknown size, fits any."""
    fits = (m == n or math.isnan(m) or math.isnan(n) for m, n in zip(a, b, strict=False))
    return len(a) == len(b) and all(fits)


# ---- statistics ------------------------------------------------------------------------------


def blocks_of(x: Lazy, axis: int, arrays: Along) -> np.ndarray:
    """[channels' chunk, other chunks]: {name: delayed block} of arrays whose blocks go with x's."""
    grid = tuple(len(chunks) for chunks in x.chunks)
    named = np.empty(grid, dtype=object)
    for place in np.ndindex(grid):
        named[place] = {}
    for name, array in arrays.items():
        if array is None:
            continue
        blocks = array.to_delayed(optimize_graph=False)
        blocks = np.expand_dims(blocks, axis) if array.ndim < x.ndim else blocks
        for place, block in np.ndenumerate(np.broadcast_to(blocks, grid)):
            named[place][name] = block
    return np.moveaxis(named, axis, 0).reshape(grid[axis], -1)


def lazy_stats(x: Lazy, axis: int, along: Along) -> Lazy:
    """(5, C): count, mean and m2 with their low parts; chunks as x's channels are."""
    import dask.array as da
    from dask.delayed import delayed

    arrays = {"x": x, "mask": along["mask"], "sample_weight": along["sample_weight"]}
    of_block, rows_of = delayed(batch_norm_stats, pure=True), delayed(stats_rows, pure=True)
    tables = []
    for blocks, width in zip(blocks_of(x, axis, arrays), x.chunks[axis], strict=True):
        whole = tree([of_block(axis=axis, **block) for block in blocks], merge_stats)
        tables.append(da.from_delayed(rows_of(whole), (5, width), np.float64))
    return da.concatenate(tables, axis=1)


def tree(parts: list[Lazy], merge: Callable[..., Any]) -> Lazy:
    from dask.delayed import delayed

    merge = delayed(merge, pure=True)
    while len(parts) > 1:
        parts = [merge(*parts[k : k + SPLIT]) for k in range(0, len(parts), SPLIT)]
    return parts[0]


def stats_rows(stats: BatchStats) -> np.ndarray:
    check_count(True, int(stats.count > 0) * 2, stats.count, (), 0, ", in all chunks together")
    return np.concatenate([np.full((1, stats.mean.size), float(stats.count)), stats._rows])


def constant(x: Lazy, axis: int, running: Running) -> Lazy:
    """Running statistics in the same rows, for one value."""

    rows = np.zeros((5, x.shape[axis]))
    rows[0], rows[1], rows[3] = 1.0, running[0], running[1]
    return from_array(rows, ((5,), x.chunks[axis]))


def variance(rows: Lazy) -> Lazy:
    return rows.map_blocks(variance_of_rows, dtype=np.float64, drop_axis=0)


def variance_of_rows(rows: np.ndarray) -> np.ndarray:
    return from_rows(rows).var


# ---- blocks ----------------------------------------------------------------------------------


def blockwise(
    function: Callable[..., np.ndarray | None],
    x: Lazy,
    arrays: Along,
    rows: Lazy,
    given: Options,
    sums: Lazy = None,
    **constants: bool,
) -> Lazy:
    """An array like x: `function(rows, sums, options, **blocks)` for each of its blocks. What is
    given a channel goes with its channels."""
    import dask.array as da

    axis = given["axis"]
    index, channel, new = tuple(range(x.ndim)), (axis,), x.ndim
    rest = index[:axis] + index[axis + 1 :]
    arrays = {name: array for name, array in arrays.items() if array is not None}
    pairs = [rows, (new, *channel), sums, None if sums is None else (new + 1, *channel)]
    for array in arrays.values():
        pairs += [array, index if array.ndim == x.ndim else rest]
    for value in (given["weight"], given["bias"], *given["params"].values()):
        each = value is not None and np.shape(value) == (x.shape[axis],)
        lazy = from_array(np.array(value), (x.chunks[axis],)) if each else value
        pairs += [lazy, channel if each else None]
    return da.blockwise(
        functools.partial(on_block, function, tuple(arrays), tuple(given["params"])),
        index, *pairs, dtype=x.dtype, concatenate=True, meta=np.empty((0,) * x.ndim, x.dtype),
        options={"eps": given["eps"], "axis": axis, "activation": name_of(given["activation"])},
        constants=constants,
    )  # fmt: skip


def name_of(activation: Any) -> str | None:
    name: str | None = getattr(activation, "name", activation)
    return name


def on_block(
    function: Callable[..., np.ndarray | None],
    names: tuple[str, ...],
    params: tuple[str, ...],
    rows: np.ndarray,
    sums: np.ndarray | None,
    *values: Any,
    options: Options,
    constants: Options,
) -> np.ndarray | None:
    blocks = dict(zip(names, values, strict=False))
    weight, bias, *numbers = values[len(names) :]
    named = dict(zip(params, numbers, strict=True))
    options = {**options, "weight": weight, "bias": bias, "activation_params": named or None}
    along = {name: blocks.pop(name) for name in ALONG if name in blocks}
    return function(rows, sums, {**options, **along}, **blocks, **constants)


def normalise_block(
    rows: np.ndarray, sums: None, options: Options, x: np.ndarray, training: bool
) -> np.ndarray:
    """y"""
    if training:
        return batch_norm_apply(x, from_rows(rows), **options)
    y: np.ndarray = batch_norm(x, running_mean=rows[1], running_var=rows[3], **options)
    return y


def gradient_block(
    rows: np.ndarray,
    sums: np.ndarray,
    options: Options,
    dy: np.ndarray,
    x: np.ndarray,
    training: bool,
) -> np.ndarray:
    """dx"""
    if training:
        return batch_norm_backward_apply(dy, x, from_rows(rows), BatchNormSums(*sums), **options).x
    running = {"running_mean": rows[1], "running_var": rows[3]}
    _, ctx = batch_norm_forward(x, training=False, **running, **options)
    return batch_norm_backward(dy, ctx).x


def residual_block(
    rows: np.ndarray, sums: None, options: Options, dy: np.ndarray, x: np.ndarray
) -> np.ndarray | None:
    """The gradient of the residual: it needs no sums."""
    running = {"running_mean": rows[1], "running_var": from_rows(rows).var}
    _, ctx = batch_norm_forward(x, training=False, **running, **options)
    return batch_norm_backward(dy, ctx).residual


# ---- backward --------------------------------------------------------------------------------


def backward(dy: object, ctx: LazyContext, out: object) -> BatchNormGradients:
    x, given, call = ctx.x, ctx._given, ctx._call
    if out is not None:
        raise TypeError("out: not with a dask array, which is computed later")
    arrays = {"dy": like_x("dy", dy, x), "x": x, **ctx._along}
    sums, small = lazy_sums(arrays, ctx)
    dx = blockwise(gradient_block, x, arrays, ctx._rows, given, sums, training=ctx.training)
    residual = params = None
    if ctx._along["residual"] is not None:
        residual = blockwise(residual_block, x, arrays, ctx._rows, given)
    if call.fused.learned is not None:
        param = small("param", np.float64)
        param = param if call.fused.shape else param.sum()
        params = {call.fused.learned: param.astype(call.fused.dtype)}
    types = {"weight": call.weight_dtype, "bias": call.bias_dtype}
    weight, bias = (small(name, dtype) if dtype else None for name, dtype in types.items())
    return gradients(dx, weight, bias, residual, params)


def lazy_sums(arrays: Along, ctx: LazyContext) -> tuple[Lazy, Callable[[str, Any], Lazy]]:
    """(3, C) sums, and a function that gives the gradient of a small array by its name."""
    import dask.array as da
    from dask.delayed import delayed

    x, axis = ctx.x, ctx._call.axis
    reduce, finish = delayed(reduce_block, pure=True), delayed(small_gradients, pure=True)
    rows = ctx._rows.to_delayed(optimize_graph=False)[0]
    tables, smalls, begin = [], [], 0
    for blocks, table, width in zip(blocks_of(x, axis, arrays), rows, x.chunks[axis], strict=True):
        options = column_options(ctx, slice(begin, begin + width))
        total = tree([reduce(table, options, **block) for block in blocks], add)
        tables.append(da.from_delayed(total, (3, width), np.float64))
        smalls.append((finish(x.dtype, table, total, options), width))
        begin += width

    def small(name: str, dtype: Any) -> Lazy:
        return da.concatenate([da.from_delayed(g[name], (w,), dtype) for g, w in smalls])

    return da.concatenate(tables, axis=1), small


def add(*sums: np.ndarray) -> np.ndarray:
    total: np.ndarray = functools.reduce(np.add, sums)
    return total


def column_options(ctx: LazyContext, channels: slice) -> Options:
    """The arguments of some channels."""
    given, size = ctx._given, ctx.x.shape[ctx._call.axis]

    def part(value: Any) -> Any:
        array = None if value is None else np.asarray(value)
        return array[channels] if array is not None and array.shape == (size,) else array

    options = {key: given[key] for key in ("eps", "axis")}
    options |= {key: part(given[key]) for key in ("weight", "bias")}
    params = {key: part(value) for key, value in given["params"].items()}
    options["activation"] = name_of(given["activation"])
    return {**options, "activation_params": params or None}


def reduce_block(
    rows: np.ndarray, options: Options, dy: np.ndarray, x: np.ndarray, **along: np.ndarray
) -> np.ndarray:
    """(3, C) sums"""
    sums = batch_norm_backward_reduce(dy, x, from_rows(rows), **options, **along)
    return np.stack([sums.g, sums.gx, sums.param])


def small_gradients(
    dtype: np.dtype, rows: np.ndarray, sums: np.ndarray, options: Options
) -> dict[str, np.ndarray | None]:
    """By name, a value a channel: of an array without elements they are those of the sums."""
    nothing = np.empty((0, rows.shape[1]), dtype)
    options = {**options, "axis": 1}
    whole = BatchNormSums(*sums)
    grads = batch_norm_backward_apply(nothing, nothing, from_rows(rows), whole, **options)
    return {"weight": grads.weight, "bias": grads.bias, "param": sums[2]}
