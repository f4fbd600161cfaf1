"""Masks and weights: which values of a channel count, and how much."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastact import _checks as checks
from fastact._protocols import refuse_foreign

LANES = 16  # csrc/fastact.h's FA_LANES


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Counted:
    """What counts, a number for each element of a channel in logical order; in the form that the
    kernels take, with LANES elements more that say nothing."""

    mask: np.ndarray | None  # uint8; None: all
    weights: np.ndarray | None  # float64, 0 where masked; None: 1
    size: int  # elements of a channel
    values: int  # how many count
    total: float  # the sum of the weights
    first: np.ndarray  # LANES elements whose mean is near the values
    shares: np.ndarray | None  # how much each has of it; None: the same


def count_in(mask: object, weight: object, x: np.ndarray, axis: int) -> Counted | None:
    shape = x.shape[:axis] + x.shape[axis + 1 :]
    chosen = None if mask is None else check_mask(mask, shape)
    if weight is None:
        return None if chosen is None else of_mask(chosen)
    weights = check_weight(weight, shape)
    return of_weights(weights if chosen is None else np.where(chosen, weights, 0.0))


def check_mask(mask: object, shape: tuple[int, ...]) -> np.ndarray:
    refuse_foreign("mask", mask)
    array = np.asarray(mask)
    if array.dtype != np.bool_:
        raise TypeError(
            f"mask: dtype {array.dtype} is not accepted; expected bool, True what counts"
        )
    return broadcast("mask", array, shape)


def check_weight(weight: object, shape: tuple[int, ...]) -> np.ndarray:
    array = checks.real_values("sample_weight", weight)
    if not np.isfinite(array).all() or (array < 0).any():
        raise ValueError("sample_weight: negative or not finite; expected weights from 0 on")
    weights = broadcast("sample_weight", array, shape)
    with np.errstate(over="ignore"):
        total = weights.sum()
    if not np.isfinite(total):
        raise ValueError("sample_weight: the sum of a channel overflows; expected smaller weights")
    return weights


def broadcast(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A flat array of an entry for each element of a channel."""
    try:
        return np.ravel(np.broadcast_to(array, shape))
    except ValueError:
        raise ValueError(
            f"{name}: shape {array.shape} is not accepted; expected one that broadcasts to x's "
            f"without the channel axis, {shape}"
        ) from None


def padded(array: np.ndarray, dtype: type) -> np.ndarray:
    result: np.ndarray = np.zeros(array.size + LANES, dtype)
    result[: array.size] = array
    result.flags.writeable = False
    return result


def of_mask(mask: np.ndarray) -> Counted:
    values = int(np.count_nonzero(mask))
    whole = None if values == mask.size else padded(mask, np.uint8)
    return Counted(whole, None, mask.size, values, values, filled(first_true(mask)), None)


def of_weights(weights: np.ndarray) -> Counted:
    """The elements that weigh most take part in the shift, in proportion."""
    counts = weights > 0
    values = int(np.count_nonzero(counts))
    total = float(weights.sum())
    most = min(LANES, values)
    first = np.sort(np.argsort(-weights, kind="stable")[:most]) if values else np.zeros(0, np.intp)
    shares = np.zeros(LANES)
    if values:
        shares[:most] = weights[first] / weights[first].sum()
    mask = None if values == weights.size else padded(counts, np.uint8)
    return Counted(
        mask, padded(weights, np.float64), weights.size, values,
        int(total) if total.is_integer() else total, filled(first), shares,
    )  # fmt: skip


def first_true(mask: np.ndarray) -> np.ndarray:
    """The indices of the first LANES elements that are True, or of all."""
    end = 4 * LANES
    while True:
        found = np.flatnonzero(mask[:end])
        if found.size >= LANES or end >= mask.size:
            return found[:LANES]
        end *= 8


def filled(indices: np.ndarray) -> np.ndarray:
    """LANES of them; the first stands in for those that are missing."""
    result = np.full(LANES, indices[0] if indices.size else 0, dtype=np.intp)
    result[: indices.size] = indices
    return result
