"""The stubs of the package: what is written in stub.pyi and reference.pyi, and the activations.

A call of an activation keeps dtype and shape of x, with names and defaults of the row's parameters.
Activations with the same parameters share a class, which is there for type checkers only.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

import fastact as fa

TEMPLATE, REFERENCE = (Path(__file__).with_name(name) for name in ("stub.pyi", "reference.pyi"))
ARRAY, ANY = "_Array[_S, _F]", "Any"
FORWARD = "**options: Unpack[_Options]"
WIDTH, HARD_SPACE = 100, "\xa0"


def text() -> str:
    functions = {**fa.activations, **fa.gated}
    kinds = {class_name(f): f for f in functions.values()}
    classes = [
        line for name, f in kinds.items() for line in (*backward(name, f), *forward(name, f))
    ]
    members = [f"{name}: Final[{class_name(f)}]" for name, f in functions.items()]
    return "\n".join([TEMPLATE.read_text(), *classes, *members]) + "\n"


def class_name(function: fa.Activation) -> str:
    if function.gated:
        return "_Gated"
    return "_With_" + "_".join(function.parameters) if function.parameters else "_Plain"


def parameters(function: fa.Activation, kind: str) -> list[str]:
    return [
        f"{name}: {kind}" + ("" if default is None else f" = {default!r}")
        for name, default in function.parameters.items()
    ]


def overload(name: str, arguments: list[str], result: str) -> list[str]:
    whole = ", ".join(a.replace(" ", HARD_SPACE) for a in ["self", *arguments])
    inside = [line.replace(HARD_SPACE, " ") for line in textwrap.wrap(whole, WIDTH - 8)]
    return ["    @overload", f"    def {name}(", *[f"        {line}" for line in inside],
            f"    ) -> {result}: ..."]  # fmt: skip


def own_class(name: str, base: str, overloads: Iterator[tuple[list[str], str]]) -> list[str]:
    body = [line for arguments, result in overloads
            for line in overload("__call__", arguments, result)]  # fmt: skip
    return ["@type_check_only", f"class {name}({base}):", *body, ""]


# ---- the value -------------------------------------------------------------------------------


def forward(name: str, function: fa.Activation) -> list[str]:
    made = own_class(name, "Activation", gated_calls() if function.gated else calls(function))
    made[2:2] = ["    @property", f"    def backward(self) -> {name}Backward: ..."]
    return made


def calls(function: fa.Activation) -> Iterator[tuple[list[str], str]]:
    numbers, arrays = parameters(function, "float"), parameters(function, "ArrayLike")
    anything = parameters(function, "Any")
    fresh = ["*", "out: None = None", "dtype: None = None", FORWARD]
    yield [f"x: {ARRAY}", "/", *numbers, *fresh], ARRAY
    if numbers:
        yield ["x: _Array[Any, _F]", "/", *arrays, *fresh], "NDArray[_F]"
    yield ["x: _Array[_S, _Whole]", "/", *numbers, *fresh], "_Array[_S, np.floating]"
    yield ["x: _F", "/", *numbers, *fresh], "_F"
    yield ["x: float", "/", *numbers, *fresh], "np.float64"
    dtype = ["*", "out: None = None", "dtype: type[_F] | np.dtype[_F]", FORWARD]
    yield ["x: _Array[_S, Any]", "/", *numbers, *dtype], ARRAY
    out = ["*", "out: _Out | tuple[_Out]", "dtype: Any = ...", FORWARD]
    yield ["x: Any", "/", *anything, *out], "_Out"
    yield ["x: Any", "/", *anything, "*", "out: Any = None", "dtype: Any = ...", FORWARD], ANY


def gated_calls() -> Iterator[tuple[list[str], str]]:
    fresh = ["*", "out: None = None", "dtype: None = None", FORWARD]
    yield [f"x: {ARRAY}", f"gate: {ARRAY}", "/", *fresh], ARRAY
    yield ["x: _Array[Any, _F]", "gate: _Array[Any, _F]", "/", *fresh], "NDArray[_F]"
    yield ["x: _F", "gate: _F", "/", *fresh], "_F"
    out = ["*", "out: _Out | tuple[_Out]", "dtype: Any = ...", FORWARD]
    yield ["x: Any", "gate: Any", "/", *out], "_Out"
    yield ["x: Any", "gate: Any", "/", "*", "out: Any = None", "dtype: Any = ...", FORWARD], ANY


# ---- the gradient ----------------------------------------------------------------------------


def backward(name: str, function: fa.Activation) -> list[str]:
    if function.gated:
        overloads = gated_gradients()
    else:
        overloads = learned_gradients(function) if function.learned else gradients(function)
    return own_class(f"{name}Backward", "Backward", overloads)


def gradients(function: fa.Activation) -> Iterator[tuple[list[str], str]]:
    numbers, arrays = parameters(function, "float"), parameters(function, "ArrayLike")
    anything = parameters(function, "Any")
    fresh = ["*", "out: None = None", "dtype: None = None", FORWARD]
    yield [f"dy: {ARRAY}", f"x: {ARRAY}", "/", *numbers, *fresh], ARRAY
    yield ["dy: _Array[Any, _F]", "x: _Array[Any, _F]", "/", *arrays, *fresh], "NDArray[_F]"
    yield ["dy: _F", "x: _F", "/", *numbers, *fresh], "_F"
    out = ["*", "out: _Out | tuple[_Out]", "dtype: Any = ...", FORWARD]
    yield ["dy: Any", "x: Any", "/", *anything, *out], "_Out"
    rest = ["*", "out: Any = None", "dtype: Any = ...", FORWARD]
    yield ["dy: Any", "x: Any", "/", *anything, *rest], ANY


def learned_gradients(function: fa.Activation) -> Iterator[tuple[list[str], str]]:
    second = "_Array[_S2, _G]"
    out = ["*", "out: Any = None"]
    weights, anything = parameters(function, second), parameters(function, "Any")
    yield [f"dy: {ARRAY}", f"x: {ARRAY}", "/", *weights, *out], f"tuple[{ARRAY}, {second}]"
    yield [f"dy: {ARRAY}", f"x: {ARRAY}", "/", *anything, *out], f"tuple[{ARRAY}, Any]"
    yield ["dy: Any", "x: Any", "/", *anything, *out], "tuple[Any, Any]"


def gated_gradients() -> Iterator[tuple[list[str], str]]:
    out = ["*", "out: Any = None"]
    three = [f"dy: {ARRAY}", f"x: {ARRAY}", f"gate: {ARRAY}", "/"]
    yield [*three, *out], f"tuple[{ARRAY}, {ARRAY}]"
    yield ["dy: Any", "x: Any", "gate: Any", "/", *out], "tuple[Any, Any]"


# ---- the reference ---------------------------------------------------------------------------


def reference() -> str:
    functions = {**fa.activations, **fa.gated}.values()
    return REFERENCE.read_text() + "".join(line + "\n" for f in functions for line in pair(f))


def pair(function: fa.Activation) -> list[str]:
    gate = ["gate: ArrayLike"] * function.gated
    given = ", ".join(["x: ArrayLike", *gate, *parameters(function, "ArrayLike")])
    result = "tuple[_Array, _Array]" if gate or function.learned else "_Array"
    return [f"def {function.name}({given}) -> _Array: ...",
            f"def {function.name}_backward(dy: ArrayLike, {given}) -> {result}: ..."]  # fmt: skip
