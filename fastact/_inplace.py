"""Memory-saving training: the backward gets y instead of x, and finds x again.

In-place activated BatchNorm (Rota Bulo, Porzi, Kontschieder: In-Place Activated BatchNorm for
Memory-Optimized Training of DNNs, CVPR 2018), with the weight as it is. Where y has lost what x
was, because the activation is flat or the weight small beside the bias, x is kept: elements in a
list, or all of a channel. What is lost is found out by trying: y is made, x is made of it again,
and compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastact import _kernels
from fastact._activation import activations
from fastact._context import INPUT, Saved
from fastact._fusion import Fused

if TYPE_CHECKING:
    from fastact._call import Call

# The error of x in deviations, and of z, beside 1 or what they are: 2^-16 is what float32 keeps
# of its 24 bits where z is 256 times x.
TOLERANCE = {np.dtype(np.float32): 2.0**-16, np.dtype(np.float64): 2.0**-24}
MODERATE = 2.0**60  # parameters and weights from its reciprocal to this are far from any limit
SIXTEENTH = 16


class Kept(NamedTuple):
    """What is kept beside y; or all of x, instead of it."""

    saved: Saved
    lost: _kernels.Lost | None = None
    x: np.ndarray | None = None


Listed = tuple[int, np.ndarray, np.ndarray]  # a channel, indices of its elements, the elements
Constants = tuple[np.ndarray | None, np.ndarray | None, float, int, tuple[np.ndarray, ...], bool]
KEEPS_ALL = Kept(Saved("output"))  # y says it all


def kind(fused: Fused) -> int:
    """Of the inverse: 0 none, 1 there is one, 2 and it magnifies rounding nowhere."""
    return _kernels.has_inverse(fused.row)


def check(fused: Fused, x: np.ndarray) -> None:
    if x.dtype not in TOLERANCE:
        raise TypeError(
            f"x: dtype {x.dtype} has too few digits for save_for_backward='output'; expected "
            "float32 or float64, or save_for_backward='input'"
        )
    if not kind(fused):
        accepted = ", ".join(n for n, f in activations.items() if _kernels.has_inverse(f._row))
        raise ValueError(
            f"activation: {fused.name} has no inverse, which save_for_backward='output' needs; "
            f"expected one of {accepted}, or save_for_backward='input'"
        )
    for name, value in zip(parameters(fused), fused.values, strict=True):
        if name != fused.learned and not value > 0:
            raise ValueError(
                f"activation_params[{name!r}]: {value} makes {fused.name} lose what "
                "save_for_backward='output' needs; expected a positive number, or "
                "save_for_backward='input'"
            )


def parameters(fused: Fused) -> tuple[str, ...]:
    return () if fused.name is None else tuple(activations[fused.name].parameters)


def is_safe(call: Call) -> bool:
    """Whether no element can be lost: by the activation, or by a weight small beside the bias.

    z is known to 2^-24 |z| then, |z| <= |weight| (|x-hat| + 127), and so x-hat to 2^-17.
    """
    weight = np.ones(1) if call.weight is None else np.abs(call.weight)
    bias = np.zeros(1) if call.bias is None else np.abs(call.bias)
    numbers = np.concatenate([weight, *[np.ravel(value) for value in call.fused.values]])
    return bool(
        kind(call.fused) == 2
        and ((numbers > 1 / MODERATE) & (numbers < MODERATE)).all()
        and (bias <= 127.0 * weight).all()
    )


def find_lost(call: Call, table: np.ndarray) -> Kept:
    """Of a call whose statistics are in the table, before y is written."""
    counts = np.zeros(call.channels)
    tolerance = TOLERANCE[call.x.dtype]
    if call.x.size:
        _kernels.count_lost(
            call.x, call.axis, *constants(call), table, tolerance, counts, call.counted
        )
    whole = counts * SIXTEENTH > call.count
    if 2 * np.count_nonzero(whole) > call.channels:
        return keep_input(call)
    channels: list[np.ndarray | None] = [None] * call.channels
    lists: list[Listed] = []
    for c in np.flatnonzero(counts).tolist():
        x = np.moveaxis(call.x, call.axis, 0)[c].ravel()
        if whole[c]:
            channels[c] = np.array(x)
        else:
            index = lost_elements(call, table, c, x, tolerance)
            lists.append((c, index, x[index]))
    return in_lists(channels, lists, call.x.dtype)


def keep_input(call: Call) -> Kept:
    """All of x: a copy where y will be written over it."""
    if not np.may_share_memory(call.kept, call.y):
        return Kept(INPUT, x=call.kept)
    return Kept(Saved("input", nbytes=call.x.nbytes), x=call.x.copy())


def constants(call: Call) -> Constants:
    fused = call.fused
    return call.weight, call.bias, call.eps, fused.row, fused.values, fused.per_channel


def lost_elements(
    call: Call, table: np.ndarray, c: int, x: np.ndarray, tolerance: float
) -> np.ndarray:
    """The indices of those of one channel."""
    fused, one = call.fused, slice(c, c + 1)
    table = np.array(table[:, one])
    params = tuple(np.array(v[one]) if v.shape else v for v in fused.values)
    weight, bias = (None if v is None else np.array(v[one]) for v in (call.weight, call.bias))
    arguments = weight, bias, call.eps, fused.row, params, fused.per_channel, table
    x = np.ascontiguousarray(x).reshape(-1, 1)
    y, again = np.empty_like(x), np.empty_like(x)
    _kernels.batch_norm_forward(x, y, 1, False, *arguments)
    _kernels.recover(y, again, 1, *arguments)
    with np.errstate(all="ignore"):
        off = np.abs(again.astype(np.float64) - x)
        away = (x - table[_kernels.MEAN]) * table[_kernels.RSTD]
        scale = 1.0 if weight is None else weight
        z = away * scale + (0.0 if bias is None else bias)
        good = off * table[_kernels.RSTD] <= tolerance * np.maximum(np.abs(away), 1.0)
        good &= off * table[_kernels.RSTD] * np.abs(scale) <= tolerance * np.maximum(np.abs(z), 1.0)
    lost = ~good[:, 0]
    if call.counted is not None and call.counted.mask is not None:
        lost &= call.counted.mask[: lost.size].view(np.bool_)
    return np.flatnonzero(lost)


def in_lists(channels: list[np.ndarray | None], lists: list[Listed], dtype: np.dtype) -> Kept:
    begin = np.zeros(len(channels) + 1, dtype=np.intp)
    for c, index, _ in lists:
        begin[c + 1] = index.size
    np.cumsum(begin, out=begin)
    index = np.concatenate([np.zeros(0, np.intp), *[index for _, index, _ in lists]])
    x = np.concatenate([np.zeros(0, dtype), *[x for _, _, x in lists]])
    copies = [kept for kept in channels if kept is not None]
    whole = tuple(c for c, kept in enumerate(channels) if kept is not None)
    if not whole and not index.size:
        return KEEPS_ALL
    nbytes = index.nbytes + x.nbytes + sum(copy.nbytes for copy in copies)
    saved = Saved("output", int(index.size), whole, nbytes)
    return Kept(saved, _kernels.Lost(channels, begin, index, x))
