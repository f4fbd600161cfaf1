"""Python functions on NumPy arrays as XLA's custom calls, without a copy and without a compiler.

XLA calls a C function with one structure, the call frame, which leads to the operands and results
in memory. Such a function is made here with ctypes; it shows the buffers as arrays to a Python
function, which writes the results. The structures are those of XLA's foreign function interface
(xla/ffi/api/c_api.h), in which fields are only ever added behind the others: a structure says how
long it is, and is read as far as version 0.1 went. So nothing is compiled against a jaxlib.
"""

from __future__ import annotations

import ctypes as c
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_dtypes
import numpy as np

API_MAJOR, OLDEST_MINOR, NEWEST_MINOR = 0, 1, 3  # of the interface as it is known here
METADATA = 1  # the extension by which XLA asks for the version
INTERNAL_ERROR = 13
SCALAR, ARRAY, STRING = 3, 1, 4  # kinds of attributes
DTYPES = {
    3: np.int16, 4: np.int32, 5: np.int64, 6: np.uint8, 10: np.float16, 11: np.float32,
    12: np.float64, 16: ml_dtypes.bfloat16,
}  # fmt: skip


class Structure(c.Structure):
    """What all but the smallest begin with."""

    _fields_ = [("size", c.c_size_t), ("extension", c.c_void_p)]


class Version(Structure):
    _fields_ = [("major", c.c_int), ("minor", c.c_int)]


class Extension(c.Structure):
    _fields_ = [("size", c.c_size_t), ("kind", c.c_int), ("next", c.c_void_p)]


class Metadata(c.Structure):
    _fields_ = [("size", c.c_size_t), ("version", Version), ("traits", c.c_uint32)]


class MetadataExtension(c.Structure):
    _fields_ = [("base", Extension), ("metadata", c.POINTER(Metadata))]


class Buffer(Structure):
    _fields_ = [
        ("dtype", c.c_int), ("data", c.c_void_p), ("rank", c.c_int64),
        ("dims", c.POINTER(c.c_int64)),
    ]  # fmt: skip


class Buffers(Structure):
    _fields_ = [
        ("count", c.c_int64), ("kinds", c.c_void_p), ("items", c.POINTER(c.POINTER(Buffer))),
    ]  # fmt: skip


class Bytes(c.Structure):
    _fields_ = [("data", c.c_void_p), ("length", c.c_size_t)]


class Number(c.Structure):
    _fields_ = [("dtype", c.c_int), ("data", c.c_void_p)]


class Numbers(c.Structure):
    _fields_ = [("dtype", c.c_int), ("count", c.c_size_t), ("data", c.c_void_p)]


class Attributes(Structure):
    _fields_ = [
        ("count", c.c_int64), ("kinds", c.POINTER(c.c_int)), ("names", c.POINTER(c.POINTER(Bytes))),
        ("items", c.POINTER(c.c_void_p)),
    ]  # fmt: skip


class ErrorArguments(Structure):
    _fields_ = [("message", c.c_char_p), ("code", c.c_int)]


class Api(Structure):
    _fields_ = [("version", Version), ("internal", c.c_void_p), ("error_create", c.c_void_p)]


class Frame(Structure):
    _fields_ = [
        ("api", c.POINTER(Api)), ("context", c.c_void_p), ("stage", c.c_int),
        ("arguments", Buffers), ("results", Buffers), ("attributes", Attributes),
    ]  # fmt: skip


HANDLER = c.CFUNCTYPE(c.c_void_p, c.POINTER(Frame))
ERROR_CREATE = c.CFUNCTYPE(c.c_void_p, c.POINTER(ErrorArguments))
Attribute = int | float | str | np.ndarray[Any, np.dtype[Any]]
Array = np.ndarray[Any, np.dtype[Any]]
Target = Callable[[list[Array], list[Array], Mapping[str, Attribute]], None]

handlers: list[object] = []  # XLA keeps their addresses for good


def register(name: str, target: Target) -> None:
    """Makes a function the custom call of a name: (operands, results, attributes) -> None."""

    def handler(pointer: Any) -> int | None:
        frame = pointer.contents
        try:
            if frame.size < c.sizeof(Frame):
                raise TypeError(f"a call frame of {frame.size} bytes is too short")
            if frame.extension:
                return answer(frame)
            target(arrays(frame.arguments), arrays(frame.results), attributes(frame.attributes))
        except Exception as error:
            return failure(frame, f"{type(error).__name__}: {error}")
        return None

    made = HANDLER(handler)
    handlers.append(made)
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(made), platform="cpu")


def answer(frame: Frame) -> int | None:
    """Says which version of the interface this is: the caller's own, if it is one known here."""
    extension = c.cast(frame.extension, c.POINTER(MetadataExtension)).contents
    if extension.base.kind != METADATA:
        return None
    theirs = frame.api.contents.version
    minor = min(max(theirs.minor, OLDEST_MINOR), NEWEST_MINOR)
    metadata = extension.metadata.contents
    metadata.version = Version(c.sizeof(Version), None, API_MAJOR, minor)
    metadata.traits = 0
    return None


def failure(frame: Frame, message: str) -> int | None:
    create = ERROR_CREATE(frame.api.contents.error_create)
    arguments = ErrorArguments(c.sizeof(ErrorArguments), None, message.encode(), INTERNAL_ERROR)
    error: int | None = create(arguments)
    return error


def arrays(buffers: Buffers) -> list[Array]:
    return [array(buffers.items[k].contents) for k in range(buffers.count)]


def array(buffer: Buffer) -> Array:
    """A buffer's own memory."""
    shape = tuple([buffer.dims[axis] for axis in range(buffer.rank)])
    return numbers(buffer.dtype, math.prod(shape), buffer.data).reshape(shape)


def numbers(dtype: int, count: int, address: int) -> Array:
    kind = np.dtype(DTYPES[dtype])
    if count == 0:
        return np.empty(0, kind)
    memory: Any = (c.c_char * (count * kind.itemsize)).from_address(address)
    return np.frombuffer(memory, kind)


def attributes(given: Attributes) -> dict[str, Attribute]:
    return {
        text(given.names[k].contents): attribute(given.kinds[k], given.items[k])
        for k in range(given.count)
    }


def attribute(kind: int, address: int) -> Attribute:
    if kind == STRING:
        return text(Bytes.from_address(address))
    if kind == SCALAR:
        number = Number.from_address(address)
        value: Attribute = numbers(number.dtype, 1, number.data)[0].item()
        return value
    values = Numbers.from_address(address)
    return numbers(values.dtype, values.count, values.data)


def text(given: Bytes) -> str:
    return c.string_at(given.data, given.length).decode()
