"""Statistics of parts of the data, and their merging into those of the whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastact import _checks as checks
from fastact import _kernels
from fastact._counted import Counted, count_in
from fastact._environment import in_default_environment

ROWS = 4  # mean and m2, each the sum of two float64


@dataclass(frozen=True, slots=True, eq=False)
class BatchStats:
    """Mean and sum of squared deviations of each channel, and of how many values they are.

    `batch_norm_stats` makes them, `merge_stats` merges them. Beside the float64 numbers that are
    shown lie their rounding errors, so that merging loses nothing. They can be pickled.

    Parameters
    ----------
    count : int or float
        Number of values a channel, or the sum of their weights; at least 0.
    mean, m2 : array_like of shape (C,)
        ``m2`` is the sum of ``(value - mean) ** 2``; at least 0, or NaN.

    Raises
    ------
    TypeError, ValueError
        A bad argument, which the message names.

    Examples
    --------
    >>> import fastact as fa
    >>> stats = fa.BatchStats(count=4, mean=[1.0, 2.0], m2=[8.0, 0.0])
    >>> stats.var
    array([2., 0.])
    """

    count: float
    mean: np.ndarray
    m2: np.ndarray
    _rows: Any = field(init=False, repr=False)  # numpy.ndarray: the others with their errors

    @in_default_environment
    def __post_init__(self) -> None:
        count = checks.real_number("count", self.count, 0.0, float("inf"))
        mean, m2 = checks.real_values("mean", self.mean), checks.real_values("m2", self.m2)
        for name, value in (("mean", mean), ("m2", m2)):
            if value.shape != (mean.size,):
                raise ValueError(f"{name}: shape {value.shape} is not accepted; expected (C,)")
        if (m2 < 0).any():
            raise ValueError("m2: negative; expected sums of squares, at least 0")
        rows = np.zeros((ROWS, mean.size))
        rows[0], rows[2] = mean, m2
        self._fill(int(count) if count.is_integer() else count, rows)

    def _fill(self, count: float, rows: np.ndarray) -> None:
        rows.flags.writeable = False
        values = {"count": count, "mean": rows[0], "m2": rows[2], "_rows": rows}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __reduce__(self) -> tuple[Callable[..., BatchStats], tuple[float, np.ndarray]]:
        return _stats, (self.count, np.array(self._rows))

    @property
    @in_default_environment
    def var(self) -> np.ndarray:
        """The biased variance, ``m2 / count``, of shape (C,); NaN without values."""
        if not self.count:
            return np.full(self.mean.shape, np.nan)
        variance: np.ndarray = self._table_rows()[2].copy()
        return variance

    def _table_rows(self) -> np.ndarray:
        """Mean and variance, each as two float64, as the kernels take them."""
        rows = np.array(self._rows)
        _kernels.scale_pairs(rows[2:], self.count, True)
        return rows


def _stats(count: float, rows: np.ndarray) -> BatchStats:
    stats = object.__new__(BatchStats)
    stats._fill(count, rows)
    return stats


def from_rows(rows: np.ndarray) -> BatchStats:
    """Of (5, C): the count, then the rows of the statistics."""
    count = float(rows[0, 0]) if rows.size else 0.0
    return _stats(int(count) if count.is_integer() else count, np.array(rows[1:]))


def table_of(stats: BatchStats) -> np.ndarray:
    """The kernels' table with what `stats` knows filled in."""
    table = np.zeros((_kernels.STATISTICS, stats.mean.size))
    table[_kernels.MEAN : _kernels.MEAN + ROWS] = stats._table_rows()
    return table


def stats_of(x: np.ndarray, axis: int, values: int, counted: Counted | None = None) -> BatchStats:
    """Of checked arguments; `values` is how many elements of a channel count."""
    count = values if counted is None else counted.total
    table = np.zeros((_kernels.STATISTICS, x.shape[axis]))
    rows = table[_kernels.MEAN : _kernels.MEAN + ROWS]
    if values:
        _kernels.batch_norm_statistics(x, axis, table, counted)
        _kernels.scale_pairs(rows[2:], count, False)
    return _stats(count, np.array(rows))


@in_default_environment
def batch_norm_stats(
    x: object, axis: object = 1, *, mask: object = None, sample_weight: object = None
) -> BatchStats:
    """Mean and sum of squared deviations of each channel: the first pass of `batch_norm`.

    Parameters
    ----------
    x : numpy.ndarray
        float16, bfloat16, float32 or float64, at least two dimensions, any strides; a part of the
        data, which may have one value a channel or none.
    axis : int
        The channel axis.
    mask, sample_weight : array_like, optional
        What counts, and how much: as for `batch_norm`. ``count`` is the sum of the weights then.

    Returns
    -------
    BatchStats

    Raises
    ------
    TypeError, ValueError
        A bad argument, which the message names.

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0], [8.0, 20.0]])
    >>> stats = fa.merge_stats(fa.batch_norm_stats(x[:2]), fa.batch_norm_stats(x[2:]))
    >>> stats.count, stats.mean, stats.m2
    (3, array([ 4., 20.]), array([ 26., 200.]))
    """
    array = checks.float_array("x", x)
    position, _, count = checks.geometry(array, axis)
    counted = count_in(mask, sample_weight, array, position)
    return stats_of(array, position, count if counted is None else counted.values, counted)


@in_default_environment
def merge_stats(*stats: BatchStats) -> BatchStats:
    """The statistics of all parts together, in the order given.

    Parts may have different counts, one value or none. The mean is within 1 ULP of that of all
    values, as long as it is not tiny beside the deviation.

    Parameters
    ----------
    *stats : BatchStats
        At least one, all with the same number of channels.

    Returns
    -------
    BatchStats

    Raises
    ------
    TypeError, ValueError
        A bad argument, which the message names.

    References
    ----------
    Chan, Golub, LeVeque (1979), "Updating formulae and a pairwise algorithm for computing sample
    variances", Stanford STAN-CS-79-773

    Examples
    --------
    >>> import fastact as fa
    >>> a, b = fa.BatchStats(3, [1.0], [2.0]), fa.BatchStats(1, [5.0], [0.0])
    >>> fa.merge_stats(a, b)
    BatchStats(count=4, mean=array([2.]), m2=array([14.]))
    """
    if not stats:
        raise TypeError("stats: none given; expected at least one BatchStats")
    for part in stats:
        if not isinstance(part, BatchStats):
            raise TypeError(f"stats: expected BatchStats, got {type(part).__name__}")
    channels = {part.mean.size for part in stats}
    if len(channels) > 1:
        raise ValueError(f"stats: they have {sorted(channels)} channels; expected the same number")
    return merged([part.count for part in stats], np.stack([part._rows for part in stats]))


def merged(counts: list[float], rows: np.ndarray) -> BatchStats:
    """Of counts and (parts, 4, C) rows."""
    total = np.empty(rows.shape[1:])
    counts64 = np.array(counts, dtype=np.float64)
    _kernels.merge_statistics(counts64, np.ascontiguousarray(rows), total)
    return _stats(sum(counts), total)
