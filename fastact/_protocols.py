"""Arrays of other libraries: what NumPy's protocols leave open.

A ufunc already goes to whoever defines `__array_ufunc__` or `__array_wrap__`: dask, xarray, pandas,
masked arrays, subclasses. What is left for this module:

- a backward with two gradients sums the second one to the shape of what it is the gradient of, in
  the words of the library whose array it is;
- pandas forgets the dtypes of a DataFrame's columns in a ufunc of several inputs;
- libraries of units refuse a ufunc that they do not know.

An `out=` that is an ordinary array has no place for a mask: as of NumPy's own ufuncs, the result is
that array, and the mask is gone.

No library is imported here: its arrays can only come from a caller who has done so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fastact import Activation, Backward

    Function = Activation | Backward

PLAIN = (np.ndarray, bool, int, float, list, tuple)
Foreign = Any  # an array of any library, or what goes with one into a ufunc
Shape = tuple[int, ...]


def is_foreign(value: object) -> bool:
    """Whether the value's own class takes part in a ufunc call."""
    kind = type(value)
    if kind in PLAIN or isinstance(value, np.generic):
        return False
    return hasattr(kind, "__array_ufunc__") or hasattr(kind, "__array_wrap__")


def refuse_foreign(name: str, value: object) -> None:
    """For functions that are no ufuncs: they give a numpy.ndarray, and drop nothing silently."""
    if not is_foreign(value) or isinstance(value, np.memmap):
        return
    if isinstance(value, np.ma.MaskedArray):  # late: NumPy imports numpy.ma when it is first named
        raise TypeError(f"{name}: a masked array would lose its mask; pass an ordinary array")
    kind = type(value)
    if hasattr(kind, "__array_ufunc__"):
        raise TypeError(
            f"{name}: {kind.__module__}.{kind.__qualname__} is not accepted, since what it knows "
            "beside its numbers would be lost; pass a numpy.ndarray"
        )


def numbers_of(value: Foreign) -> np.dtype:
    """NumPy's dtype of what an array holds; pandas has dtypes of its own, or one a column."""
    dtypes = value.dtypes if hasattr(value, "iloc") else value.dtype
    dtypes = list(dtypes) if hasattr(dtypes, "iloc") else [dtypes]
    return np.result_type(*[getattr(dtype, "numpy_dtype", dtype) for dtype in dtypes])


def call(function: Function, inputs: tuple[Foreign, ...], kwargs: Mapping[str, Any]) -> Foreign:
    """A call of an Activation or its backward with foreign arrays among the inputs."""
    teach_units()
    if not function._parts:
        return elementwise(function.ufunc, inputs, kwargs)
    outs = kwargs.get("out")
    outs = outs if type(outs) is tuple else (outs, None)
    parts = [
        elementwise(ufunc, inputs, {} if out is None else {"out": out})
        for ufunc, out in zip(function._parts, outs, strict=True)
    ]
    dy, *arguments = inputs
    check_shape(function, dy, parts[0])
    return tuple([sum_to(part, value) for part, value in zip(parts, arguments, strict=True)])


def check_shape(function: Function, dy: Foreign, part: Foreign) -> None:
    shapes = [getattr(value, "shape", None) for value in (dy, part)]
    if None not in shapes and shapes[0] != shapes[1]:
        raise ValueError(
            f"{function.name}(): dy has shape {shapes[0]} and what it is the gradient of "
            f"{shapes[1]}; they must be the same"
        )


def elementwise(ufunc: np.ufunc, inputs: tuple[Foreign, ...], kwargs: Mapping[str, Any]) -> Foreign:
    pandas = sys.modules.get("pandas")
    frames = [v for v in inputs if isinstance(v, pandas.DataFrame)] if pandas else []
    plain = all(value is None for value in kwargs.values())
    if frames and plain and are_columns(inputs, frames, pandas):
        return by_columns(ufunc, inputs, frames[0])
    return ufunc(*inputs, **kwargs)


# ---- pandas: a DataFrame's columns keep their dtypes ---------------------------------------------


def are_columns(inputs: tuple[Foreign, ...], frames: list[Foreign], pandas: Any) -> bool:
    """Whether the inputs are DataFrames of the same labels and what broadcasts to them."""
    first = frames[0]
    others = [value for value in inputs if not isinstance(value, pandas.DataFrame)]
    return (
        len(first.columns) > 0
        and all(frame.index.equals(first.index) for frame in frames[1:])
        and all(frame.columns.equals(first.columns) for frame in frames[1:])
        and not any(is_foreign(value) for value in others)
        and all(broadcasts(np.shape(value), first.shape) for value in others)
    )


def broadcasts(shape: Shape, to: Shape) -> bool:
    try:
        return np.broadcast_shapes(shape, to) == to
    except ValueError:
        return False


def by_columns(ufunc: np.ufunc, inputs: tuple[Foreign, ...], frame: Foreign) -> Foreign:
    def column(value: Foreign, k: int) -> Foreign:
        if hasattr(value, "iloc"):
            return value.iloc[:, k]
        return value if np.ndim(value) == 0 else np.broadcast_to(value, frame.shape)[:, k]

    result = frame.copy(deep=False)
    for k in range(frame.shape[1]):
        result.isetitem(k, ufunc(*[column(value, k) for value in inputs]))
    return result


# ---- sums ----------------------------------------------------------------------------------------


def sum_to(part: Foreign, argument: Foreign) -> Foreign:
    """A gradient an element, summed over what its argument was repeated along."""
    if hasattr(part, "data_vars"):  # an xarray.Dataset: each of its arrays
        of = argument if hasattr(argument, "data_vars") else dict.fromkeys(part, argument)
        return part.map(lambda variable: sum_to(variable, of[variable.name]))
    if hasattr(part, "dims") and hasattr(argument, "dims"):
        repeated = [dim for dim in part.dims if dim not in argument.dims]
        total = in_float64(part).sum(repeated, skipna=False)
        return rounded(total, argument) if repeated else part
    if not hasattr(part, "shape"):
        raise TypeError(
            f"{type(part).__name__} has no shape; the gradient of what was broadcast needs one"
        )
    shape = argument.shape if hasattr(argument, "shape") else np.shape(argument)
    return part if part.shape == shape else sum_axes(part, argument, shape)


def sum_axes(part: Foreign, argument: Foreign, shape: Shape) -> Foreign:
    if is_foreign(part) and not hasattr(part, "__array_ufunc__"):  # torch: sums in its own words
        total = sum_axes(np.asarray(part), np.asarray(argument), shape)
        return part.__array_wrap__(np.asarray(total))
    lead = tuple(range(part.ndim - len(shape)))
    ones = tuple([axis for axis in range(len(lead), part.ndim) if shape[axis - len(lead)] == 1])
    if hasattr(part, "iloc"):
        return sum_labelled(part, shape, lead, ones)
    # xarray's own sum would skip NaN
    add = type(part).reduce if hasattr(part, "dims") else lambda a, add, **axes: add(a, **axes)
    total = in_float64(part)
    if ones:
        total = add(total, np.sum, axis=ones, keepdims=True)
    return rounded(add(total, np.sum, axis=lead) if lead else total, argument)


def sum_labelled(part: Foreign, shape: Shape, lead: Shape, ones: Shape) -> Foreign:
    """pandas: a sum of all, or of each column; labels that are left stay."""
    if len(lead) + len(ones) == part.ndim:
        total = part.sum(axis=0, skipna=False)
        total = total.sum(skipna=False) if part.ndim > 1 else total
        return np.reshape(total, shape) if shape else total
    if ones:
        raise ValueError(
            f"the gradient of an array of shape {shape} has no place in pandas; pass a number, or "
            f"an array of shape ({part.shape[-1]},)"
        )
    return part.sum(axis=0, skipna=False)


def in_float64(part: Foreign) -> Foreign:
    return part.astype(np.float64) if hasattr(part, "astype") else part


def rounded(total: Foreign, argument: Foreign) -> Foreign:
    """A sum in the dtype of what it is the gradient of; float64 for a Python number."""
    dtype = np.dtype(getattr(argument, "dtype", np.float64))
    if dtype.kind in "iub" or not hasattr(total, "astype"):
        return total
    return total.astype(dtype)


# ---- units ---------------------------------------------------------------------------------------
#
# An activation takes numbers without a unit (as tanh does, an angle for which counts as a number);
# a gradient has the unit of dy.

taught: set[str] = set()

Unit = Any  # of astropy's; None for an input that is no Quantity
Converter = Callable[[Any], Any]
Helped = tuple[list[Converter | None], Any]  # for each input; the unit of the result, or of each


def teach_units() -> None:
    """Tells the libraries of units that are in use of fastact's ufuncs, once."""
    for name, teach in (("astropy.units", teach_astropy), ("pint", teach_pint)):
        if name in sys.modules and name not in taught:
            taught.add(name)
            teach()


def all_ufuncs() -> Iterator[tuple[np.ufunc, bool]]:
    """(ufunc, whether it is a backward one)."""
    from fastact._activation import activations, gated

    for function in (*activations.values(), *gated.values()):
        yield function.ufunc, False
        for ufunc in (function.backward.ufunc, *function.backward._parts):
            yield ufunc, True


def teach_astropy() -> None:
    from astropy.units import UnitsError, UnitTypeError, dimensionless_unscaled
    from astropy.units.quantity_helper import UFUNC_HELPERS
    from astropy.units.quantity_helper.helpers import get_converter

    def converter(ufunc: np.ufunc, unit: Unit) -> Converter | None:
        try:
            return None if unit is None else get_converter(unit, dimensionless_unscaled)
        except UnitsError:
            raise UnitTypeError(
                f"Can only apply '{ufunc.__name__}' function to dimensionless quantities"
            ) from None

    def forward(ufunc: np.ufunc, *units: Unit) -> Helped:
        return [converter(ufunc, unit) for unit in units], dimensionless_unscaled

    def backward(ufunc: np.ufunc, unit: Unit, *units: Unit) -> Helped:
        result = dimensionless_unscaled if unit is None else unit
        result = result if ufunc.nout == 1 else (result,) * ufunc.nout
        return [None, *[converter(ufunc, unit) for unit in units]], result

    for ufunc, is_backward in all_ufuncs():
        UFUNC_HELPERS[ufunc] = backward if is_backward else forward


def teach_pint() -> None:
    from pint.facets.numpy.numpy_func import HANDLED_UFUNCS

    def is_quantity(value: object) -> bool:
        return hasattr(value, "m_as")

    def number(value: Foreign) -> Foreign:
        return value.m_as("") if is_quantity(value) else value

    def implementation(ufunc: np.ufunc, is_backward: bool) -> Callable[..., Foreign]:
        def run(*inputs: Foreign, out: tuple[Foreign, ...] | None = None, **kwargs: Any) -> Foreign:
            quantities = [value for value in (*inputs, *(out or ())) if is_quantity(value)]
            registry = quantities[0]._REGISTRY
            numbers = [number(value) for value in inputs[1:]]
            if is_backward and is_quantity(inputs[0]):
                first, unit = inputs[0].m, inputs[0].u
            else:
                first, unit = number(inputs[0]), ""
            if out is not None:
                kwargs["out"] = tuple([value.m if is_quantity(value) else value for value in out])
            results = ufunc(first, *numbers, **kwargs)
            if isinstance(results, tuple):
                return tuple([registry.Quantity(result, unit) for result in results])
            return registry.Quantity(results, unit)

        return run

    for ufunc, is_backward in all_ufuncs():
        # pint knows ufuncs by name, and those that share theirs with one of NumPy's are NumPy's
        HANDLED_UFUNCS.setdefault(ufunc.__name__, implementation(ufunc, is_backward))
