"""Checks of BatchNorm's arguments. An error names the argument, what came and what is accepted."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastact._activation import has_internal_overlap
from fastact._protocols import refuse_foreign
from fastact._runtime import new_like
from fastact._ufuncs import number_of_bfloat16

MAX_NDIM = 64  # NumPy's
FLOATS = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))
ACCEPTED = "float16, bfloat16, float32 or float64"


# ---- numbers and words -----------------------------------------------------------------------


def real_number(name: str, value: Any, low: float, high: float) -> float:
    if not is_number(value):
        raise TypeError(f"{name}: expected a real number, got {described(value)}")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected a real number, got {described(value)}") from None
    except OverflowError:
        number = math.inf
    if not low <= number <= high or math.isinf(number):
        raise ValueError(
            f"{name}: {number} is out of range; accepted: finite, from {low:g} to {high:g}"
        )
    return number


def is_number(value: object) -> bool:
    """Whether it is one by its type: float() would read numbers out of texts and buffers, too."""
    if isinstance(value, (np.ndarray, np.generic)):
        number = value.dtype.kind in "iu" or is_float(value.dtype) or value.dtype.kind == "f"
        return number and value.shape == () and not isinstance(value, np.ma.MaskedArray)
    kind = type(value)
    is_real = hasattr(kind, "__float__") or hasattr(kind, "__index__")
    return is_real and not isinstance(value, (bool, complex))


def described(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{type(value).__name__} of {value.dtype}, shape {value.shape}"
    return type(value).__name__


def integer(name: str, value: Any) -> int:
    try:
        if not isinstance(value, (bool, np.bool_)):
            return operator.index(value)
    except TypeError:
        pass
    raise TypeError(f"{name}: expected an integer, got {described(value)}")


def flag(name: str, value: object) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected a bool, got {type(value).__name__}")
    return bool(value)


def word(name: str, value: object, accepted: tuple[str, ...]) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a str, got {type(value).__name__}")
    if value not in accepted:
        raise ValueError(
            f"{name}: {value!r} is not accepted; expected one of {', '.join(accepted)}"
        )
    return value


# ---- arrays ----------------------------------------------------------------------------------


def is_float(dtype: np.dtype) -> bool:
    """In any byte order."""
    if dtype in FLOATS or number_of_bfloat16(dtype) >= 0:
        return True
    return not dtype.isnative and dtype.newbyteorder("=") in FLOATS


def float_dtype(dtype: Any) -> np.dtype:
    known: np.dtype | None
    try:
        known = np.dtype(dtype)
    except TypeError:
        known = None
    if known is None or dtype is None or not is_float(known):
        raise TypeError(f"dtype: {dtype!r} is not accepted; expected {ACCEPTED}")
    return known.newbyteorder("=")


def own_view(array: np.ndarray) -> np.ndarray:
    """The same memory under a shape and dtype of our own: what is checked stays so, whatever other
    threads, or other arguments when they are read, do to the caller's object meanwhile."""
    view: np.ndarray = array[...]
    return view


def as_given(name: str, value: object) -> np.ndarray:
    """An array of floats in any byte order; the data itself wherever it is one already."""
    refuse_foreign(name, value)
    array = own_view(np.asarray(value))
    if not is_float(array.dtype):
        raise TypeError(f"{name}: dtype {array.dtype} is not accepted; expected {ACCEPTED}")
    return array


def native(array: np.ndarray) -> np.ndarray:
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def float_array(name: str, value: object) -> np.ndarray:
    """A native array of floats; the data itself wherever it is one already."""
    return native(as_given(name, value))


def like_x(name: str, value: object, x: np.ndarray) -> np.ndarray:
    """An array of x's dtype and shape."""
    array = float_array(name, value)
    if array.dtype != x.dtype:
        raise TypeError(f"{name}: dtype {array.dtype} is not accepted; expected x's, {x.dtype}")
    if array.shape != x.shape:
        raise ValueError(f"{name}: shape {array.shape} is not accepted; expected x's, {x.shape}")
    return array


def real_values(name: str, value: object) -> np.ndarray:
    """A float64 copy of a number or an array of them."""
    refuse_foreign(name, value)
    array = np.asarray(value)
    if not is_float(array.dtype) and array.dtype.kind not in "iu":
        raise TypeError(
            f"{name}: dtype {array.dtype} is not accepted; expected {ACCEPTED} or integers"
        )
    return np.array(array, dtype=np.float64, order="C")


def per_channel(name: str, value: object, channels: int) -> np.ndarray | None:
    """A float64 copy of shape (C,), or None."""
    return None if value is None else vector(name, value, channels)


def vector(name: str, value: object, channels: int) -> np.ndarray:
    array = real_values(name, value)
    if array.shape != (channels,):
        raise ValueError(
            f"{name}: shape {array.shape} is not accepted; expected ({channels},), one a channel"
        )
    return array


def read_once(name: str, value: object) -> np.ndarray | None:
    """What an argument is as an array, or None: to be asked for once, since it might say something
    else the next time."""
    if value is None:
        return None
    refuse_foreign(name, value)
    return own_view(np.asarray(value))


def gradient_dtype(value: np.ndarray | None) -> np.dtype | None:
    """The dtype in which the gradient of weight or bias is returned."""
    if value is None:
        return None
    dtype = value.dtype
    return dtype.newbyteorder("=") if is_float(dtype) else np.dtype(np.float64)


def channel_axis(axis: object, ndim: int) -> int:
    position = integer("axis", axis)
    if not -ndim <= position < ndim:
        raise ValueError(f"axis: {position} is out of range; accepted: {-ndim} to {ndim - 1}")
    return position % ndim


def geometry(x: np.ndarray, axis: object) -> tuple[int, int, int]:
    """The channel axis, the number of channels, and the number of elements in each."""
    if x.ndim < 2:
        raise ValueError(f"x: {x.ndim} dimensions are not enough; expected 2 or more")
    axis = channel_axis(axis, x.ndim)
    return axis, x.shape[axis], math.prod(x.shape[:axis] + x.shape[axis + 1 :])


# ---- what is written -------------------------------------------------------------------------


def same_elements(a: np.ndarray, b: np.ndarray) -> bool:
    return a.ctypes.data == b.ctypes.data and a.strides == b.strides


def output(
    out: object, x: np.ndarray, *, may_be: tuple[str, ...], apart: Mapping[str, Any]
) -> np.ndarray:
    """The array to write (a view of `out`): like x, and apart from everything in `apart`; what is
    named in `may_be` may also be the very elements that are written."""
    if out is None:
        return new_like(x, x.dtype.num)
    if type(out) is not np.ndarray:
        raise TypeError(f"out: expected a numpy.ndarray, got {type(out).__name__}")
    out = own_view(out)
    if out.dtype != x.dtype:
        raise TypeError(f"out: dtype {out.dtype} is not accepted; expected x's, {x.dtype}")
    if out.shape != x.shape:
        raise ValueError(f"out: shape {out.shape} is not accepted; expected x's, {x.shape}")
    if not out.flags.writeable:
        raise ValueError("out: read-only; expected an array that can be written")
    if has_internal_overlap(out):
        raise ValueError(
            "out: several of its elements share memory; expected memory for each of them"
        )
    for name, other in apart.items():
        if other is None or (name in may_be and same_elements(out, other)):
            continue
        if np.may_share_memory(out, np.asarray(other)):
            raise ValueError(f"out: overlaps {name}; expected memory of its own")
    return out
