"""The activations as jax functions, differentiated by their own backward."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

import fastact as fa
from fastact._formula import Library, evaluate
from fastact.jax._xla import Array, Attribute, register

LIBRARY = Library(
    (jax.Array, Tracer),
    jnp.where,
    {
        "exp": jnp.exp,
        "expm1": jnp.expm1,
        "log": jnp.log,
        "sqrt": jnp.sqrt,
        "tanh": jnp.tanh,
        "Phi": jax.scipy.special.ndtr,
        "logistic": jax.lax.logistic,
        "log_logistic": lambda u: -jnp.logaddexp(-u, 0.0),
    },
)
DTYPES = ("float16", "bfloat16", "float32", "float64")


def check(name: str, value: object) -> jax.Array:
    array = jnp.asarray(value)
    if array.dtype.name not in DTYPES:
        raise TypeError(
            f"{name}: dtype {array.dtype} is not accepted; expected {', '.join(DTYPES)}"
        )
    return array


def find(name: str) -> fa.Activation:
    return fa.gated[name] if name in fa.gated else fa.activations[name]


# ---- custom calls --------------------------------------------------------------------------------


def forward(operands: list[Array], results: list[Array], given: Mapping[str, Attribute]) -> None:
    find(str(given["name"]))(*operands, *_numbers(given), out=results[0])


def backward(operands: list[Array], results: list[Array], given: Mapping[str, Attribute]) -> None:
    function = find(str(given["name"]))
    if function.gated:
        function.backward(*operands, out=tuple(results))
    elif function.learned:
        results[1][...] = function.backward(*operands, *_numbers(given), out=results[0])[1]
    else:
        function.backward(*operands, *_numbers(given), out=results[0])


def _numbers(given: Mapping[str, Attribute]) -> list[float]:
    numbers = given["numbers"]
    assert isinstance(numbers, np.ndarray)
    return [float(number) for number in numbers]


register("fastact_forward", forward)
register("fastact_backward", backward)


def _like(value: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(value.shape, value.dtype)


def _call(target: str, results: Any, name: str, numbers: tuple[float, ...], *operands: Any) -> Any:
    # a broadcast parameter would not stay one under broadcast_all
    method = "sequential" if find(name).learned else "broadcast_all"
    call: Callable[..., Any] = jax.ffi.ffi_call(target, results, vmap_method=method)
    return call(*operands, name=name, numbers=np.asarray(numbers, dtype=np.float64))


# ---- what jax differentiates ---------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def apply(name: str, numbers: tuple[float, ...], *operands: jax.Array) -> jax.Array:
    """An activation of (x, gate or a learned parameter)."""
    result: jax.Array = _call("fastact_forward", _like(operands[0]), name, numbers, *operands)
    return result


def _apply_forward(name: str, numbers: tuple[float, ...], *operands: jax.Array) -> Any:
    return apply(name, numbers, *operands), operands


def _apply_backward(name: str, numbers: tuple[float, ...], kept: Any, dy: jax.Array) -> Any:
    return gradients(name, numbers, dy, *kept)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def gradients(name: str, numbers: tuple[float, ...], dy: jax.Array, *operands: jax.Array) -> Any:
    """The gradients in (x, gate or a learned parameter)."""
    results = tuple([_like(operand) for operand in operands])
    return tuple(_call("fastact_backward", results, name, numbers, dy, *operands))


def _gradients_forward(name: str, numbers: tuple[float, ...], *kept: jax.Array) -> Any:
    return gradients(name, numbers, *kept), kept


def _gradients_backward(name: str, numbers: tuple[float, ...], kept: Any, outer: Any) -> Any:
    """Second derivatives, of the formula in jax's own operations."""

    def first_order(dy: jax.Array, *operands: jax.Array) -> Any:
        return jax.vjp(functools.partial(composed, name, numbers), *operands)[1](dy)

    return jax.vjp(first_order, *kept)[1](outer)


apply.defvjp(_apply_forward, _apply_backward)
gradients.defvjp(_gradients_forward, _gradients_backward)


def composed(name: str, numbers: tuple[float, ...], *operands: jax.Array) -> jax.Array:
    """An activation by its formula; half precision is computed as float32."""
    function = find(name)
    beside = ("gate",) if function.gated else function.learned
    keys = [key for key in function.parameters if key not in function.learned]
    narrow = operands[0].dtype.itemsize < 4
    wide = [operand.astype(np.float32) if narrow else operand for operand in operands]
    given = {**dict(zip(beside, wide[1:], strict=True)), **dict(zip(keys, numbers, strict=True))}
    result: jax.Array = evaluate(LIBRARY, function, wide[0], **given)
    return result.astype(operands[0].dtype)


# ---- functions -----------------------------------------------------------------------------------


DOCUMENTATION = """{formula}

Parameters
----------
x : jax.Array
    On the CPU, any shape; float16, bfloat16, float32 or float64.
{parameters}
Returns
-------
jax.Array, of x's shape and dtype.

Notes
-----
Source: {source}.

Compiled, vectorised and differentiated in reverse mode, twice too, like jax's own; forward mode
(jvp, jacfwd, hessian) and jax.export raise.
{fixed}
Examples
--------
>>> import jax.numpy as jnp, fastact.jax as faj
>>> faj.{name}(jnp.array([-2.0, 0.0, 3.0]){example}).shape
(3,)
"""


FIXED = "Parameters that are floats are compiled in: a traced one raises a TypeError.\n"


def make_function(function: fa.Activation) -> Callable[..., jax.Array]:
    """A function with the row's parameters, made from source to have their names for its own."""
    learned = function.learned
    numbers = [key for key in function.parameters if key not in learned]
    defaults = {k: "" if v is None else f"={v!r}" for k, v in function.parameters.items()}
    header = ", ".join(
        ["x", *["gate"] * function.gated, *[key + default for key, default in defaults.items()]]
    )
    tensors = "*gated(x, gate)" if function.gated else "".join(["*broadcast(x, ", *learned, ")"])
    if not function.gated and not learned:
        tensors = 'check("x", x)'
    floats = "".join(f"number({key!r}, {key}), " for key in numbers)
    made: dict[str, Callable[..., jax.Array]] = {}
    exec(
        f"def {function.name}({header}):\n"
        f"    return apply({function.name!r}, ({floats}), {tensors})",
        globals(), made,
    )  # fmt: skip
    result = made[function.name]
    result.__module__ = "fastact.jax"
    required = [", 0.25" for value in function.parameters.values() if value is None]
    result.__doc__ = DOCUMENTATION.format(
        formula=function.formula, source=function.source, name=function.name,
        parameters=_describe(function), fixed=FIXED if numbers else "",
        example=", jnp.ones(3)" if function.gated else "".join(required),
    )  # fmt: skip
    return result


def number(name: str, value: Any) -> float:
    """A parameter, which is part of what is compiled."""
    if isinstance(value, Tracer):
        raise TypeError(
            f"{name}: a traced value is not accepted; expected a number that is known when the "
            "function is compiled (static_argnames of jit): no gradient, no vmap over it"
        )
    return float(value)


def gated(x: object, gate: object) -> tuple[jax.Array, ...]:
    """Broadcast to each other, as one dtype; a number has the other's."""
    pair = jnp.result_type(
        *[
            v if isinstance(v, (int, float)) else check(n, v).dtype
            for n, v in (("x", x), ("gate", gate))
        ]
    )
    arrays = [check("x", jnp.asarray(x, pair)), check("gate", jnp.asarray(gate, pair))]
    both: tuple[jax.Array, ...] = tuple(jnp.broadcast_arrays(*arrays))
    return both


def broadcast(x: object, weight: object) -> tuple[jax.Array, jax.Array]:
    """A learned parameter broadcasts to x as in NumPy; a number has x's dtype."""
    array = check("x", x)
    given = array.dtype if isinstance(weight, (int, float)) else None
    learned = check("weight", jnp.asarray(weight, given))
    if jnp.broadcast_shapes(array.shape, learned.shape) != array.shape:
        raise ValueError(
            f"weight: shape {learned.shape} is not accepted; expected one that broadcasts to x's, "
            f"{array.shape}"
        )
    return array, learned


def _describe(function: fa.Activation) -> str:
    lines = ""
    if function.gated:
        lines = (
            "gate : jax.Array\n    What x is multiplied by, through its activation; broadcasts.\n"
        )
    for key, value in function.parameters.items():
        if key in function.learned:
            lines += f"{key} : jax.Array\n    Broadcasts to x.\n"
        else:
            lines += f"{key} : float" + ("\n" if value is None else f", default {value}\n")
    return lines


functions = {
    name: make_function(function) for name, function in {**fa.activations, **fa.gated}.items()
}
