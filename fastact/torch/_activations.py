"""The activations as torch operators, `torch.ops.fastact.NAME` and `NAME_backward`.

The backward of the backward is composed of torch's own operations.

Operators take the parameters of the table's row: numbers, and a tensor where one is learned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import fastact as fa
from fastact._activation import activation as find_activation
from fastact.torch import _composed
from fastact.torch._operators import Context, Operator, define, has_tangent, threads
from fastact.torch._tensors import array_of, check, empty_like, promoted, tensor_like

Value = float | Tensor
OPERATORS: dict[str, Operator] = {}  # by name, for the functions: torch.compile finds it here


def second_tensor(function: fa.Activation) -> tuple[str, ...]:
    """The name of the tensor that a function takes beside x, if it does: ("gate",), ("weight",)."""
    return ("gate",) if function.gated else function.learned


def _check(function: fa.Activation, x: Tensor, rest: tuple[Any, ...]) -> None:
    check("x", x)
    for name, second in zip(second_tensor(function), rest, strict=False):
        check(name, second)
        if function.gated and (second.shape != x.shape or second.dtype != x.dtype):
            raise ValueError(
                f"{name}: {second.dtype} of shape {tuple(second.shape)} is not accepted; "
                f"expected x's, {x.dtype} of shape {tuple(x.shape)}"
            )
        if not _broadcasts(second.shape, x.shape):
            raise ValueError(
                f"{name}: shape {tuple(second.shape)} is not accepted; expected one value, or one "
                f"for each channel of x, of shape {tuple(x.shape)}"
            )


def _broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    pairs = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(n in (1, wanted) for n, wanted in pairs)


# ---- one activation ------------------------------------------------------------------------------


def define_activation(function: fa.Activation) -> Operator:
    """Both operators of a row; the forward one."""
    name, beside = function.name, second_tensor(function)
    numbers = [key for key in function.parameters if key not in beside]
    inputs = ", ".join([
        "Tensor x",
        *[f"Tensor {key}" for key in beside],
        *[f"float {key}" for key in numbers],
    ])  # fmt: skip
    tensors = 1 + len(beside)

    def composed(x: Tensor, *rest: Any) -> Tensor:
        check("x", x)
        named = dict(zip([*beside, *numbers], rest, strict=True))
        return _composed.value(name, x, **named)

    backward = _define_backward(function, inputs, tensors, composed)

    def kernel(x: Tensor, *rest: Any) -> Tensor:
        if beside:
            _check(function, x, rest)
        array = array_of("x", x)
        with threads():
            y = function(array, *_arrays(beside, rest))
        return tensor_like(x, np.asarray(y))

    def fake(x: Tensor, *rest: Any) -> Tensor:
        _check(function, x, rest)
        return torch.empty_like(x)

    def save(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:tensors])
        ctx.numbers = inputs[tensors:]

    def gradient(ctx: Context, dy: Tensor) -> tuple[Tensor | None, ...]:
        gradients = backward(dy, *ctx.saved_tensors, *ctx.numbers)
        gradients = gradients if isinstance(gradients, tuple) else (gradients,)
        return *gradients, *[None] * len(ctx.numbers)

    return define(
        name, f"({inputs}) -> Tensor",
        kernel, fake, gradient, save, composed, not function.learned,
    )  # fmt: skip


def _define_backward(
    function: fa.Activation, inputs: str, tensors: int, forward: Operator
) -> Operator:
    beside = second_tensor(function)
    results = "(Tensor, Tensor)" if beside else "Tensor"

    def kernel(dy: Tensor, x: Tensor, *rest: Any) -> Tensor | tuple[Tensor, Tensor]:
        arrays = array_of("dy", dy), array_of("x", x), *_arrays(beside, rest)
        if not beside:
            with threads():
                return tensor_like(x, np.asarray(function.backward(*arrays)))
        dx, out = empty_like(x, arrays[1])
        if function.gated:
            second, second_out = empty_like(rest[0], arrays[2])
            with threads():
                function.backward(*arrays, out=(out, second_out))
            return dx, second
        with threads():
            gradient = function.backward(*arrays, out=out)[1]
        second = torch.empty_like(rest[0], requires_grad=False)
        array_of("second", second)[...] = gradient
        return dx, second

    def fake(dy: Tensor, x: Tensor, *rest: Any) -> Tensor | tuple[Tensor, Tensor]:
        check("dy", dy)
        dx = torch.empty_like(x)
        return (dx, torch.empty_like(rest[0])) if beside else dx

    def save(ctx: Context, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[: 1 + tensors])
        ctx.numbers = inputs[1 + tensors :]
        ctx.set_materialize_grads(False)

    def gradient(ctx: Context, *outer: Tensor | None) -> tuple[Tensor | None, ...]:
        gradients = second_order(
            lambda *inner: forward(*inner, *ctx.numbers), ctx.saved_tensors, outer
        )
        return *gradients, *[None] * len(ctx.numbers)

    def composed(dy: Tensor, *rest: Any) -> Tensor | tuple[Tensor, ...]:
        numbers = rest[tensors:]
        pull = torch.func.vjp(lambda *inner: forward(*inner, *numbers), *rest[:tensors])[1]
        gradients: tuple[Tensor, ...] = pull(dy)
        return gradients if beside else gradients[0]

    return define(
        f"{function.name}_backward", f"(Tensor dy, {inputs}) -> {results}",
        kernel, fake, gradient, save, composed, not function.learned,
    )  # fmt: skip


def _arrays(beside: tuple[str, ...], rest: tuple[Any, ...]) -> list[Any]:
    count = len(beside)
    return [*map(array_of, beside, rest[:count]), *rest[count:]] if count else list(rest)


def second_order(
    composed: Callable[..., Tensor], saved: tuple[Tensor, ...], outer: tuple[Tensor | None, ...]
) -> tuple[Tensor, ...]:
    """What a backward operator's own backward gives: the gradients of sum(outer * the function's
    gradients) in (dy, inputs...), for a function that is composed of torch's operations."""

    def first_order(dy: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = torch.func.vjp(composed, *inputs)[1](dy)
        return found

    gradients, pull = torch.func.vjp(first_order, *saved)[:2]
    second: tuple[Tensor, ...] = pull(tuple([
        torch.zeros_like(mine) if given is None else given.to(mine.dtype)
        for given, mine in zip(outer, gradients, strict=True)
    ]))  # fmt: skip
    return second


# ---- functions -----------------------------------------------------------------------------------


DOCUMENTATION = """{formula}

Parameters
----------
x : Tensor
    On the CPU, any shape and strides; float16, bfloat16, float32 or float64.
{parameters}
Returns
-------
Tensor
    Shape, dtype and strides of x.

Raises
------
TypeError, ValueError
    Another dtype, device or layout.

Notes
-----
Source: {source}. The operator is ``torch.ops.fastact.{name}``.

Examples
--------
>>> import torch, fastact.torch as fat
>>> x = torch.tensor([-2.0, 0.0, 3.0], requires_grad=True)
>>> fat.{name}(x{example}).sum().backward()
>>> x.grad.shape
torch.Size([3])
"""


def make_function(function: fa.Activation) -> Callable[..., Tensor]:
    """A function with the parameters of torch.nn.functional's, around the operator.

    It is made from source, as `collections.namedtuple` does it, to have their names for its own.
    """
    named = {key: "" if value is None else f"={value!r}" for key, value in _arguments(function)}
    header = ", ".join(key + default for key, default in named.items())
    arguments = ", ".join(
        f"per_channel({key}, x.ndim)" if key in function.learned
        else f"number({key!r}, {key})" if key in function.parameters
        else key
        for key in named
    )  # fmt: skip
    OPERATORS[function.name] = define_activation(function)
    body = f"return OPERATORS[{function.name!r}]({arguments})"
    if function.gated:
        body = f"x, gate = alike(x, gate)\n    {body}"
    if function.gated or function.learned:  # they look at shapes, which torch.fx's proxies lack
        body = (
            "if torch.overrides.has_torch_function_unary(x): return torch.overrides."
            f"handle_torch_function(functions[{function.name!r}], (x,), {', '.join(named)})\n"
            f"    {body}"
        )
    made: dict[str, Callable[..., Tensor]] = {}
    exec(f"def {function.name}({header}):\n    {body}", globals(), made)
    result = made[function.name]
    result.__module__ = "fastact.torch"
    result.__doc__ = DOCUMENTATION.format(
        formula=function.formula, source=function.source, name=function.name,
        parameters=_describe(function), example=_example(function),
    )  # fmt: skip
    return result


def _arguments(function: fa.Activation) -> list[tuple[str, float | None]]:
    """(name, default) of each, None where it has to be given."""
    return [("x", None), *[("gate", None)] * function.gated, *function.parameters.items()]


def _example(function: fa.Activation) -> str:
    """What has to be given beside x."""
    if function.gated:
        return ", x"
    required = [key for key, value in function.parameters.items() if value is None]
    return "".join(", torch.tensor(0.25)" if k in function.learned else ", 0.25" for k in required)


def number(name: str, value: Value) -> float:
    """A parameter that is not learned: no gradient is computed for it, so none may be wanted."""
    if not isinstance(value, Tensor):
        return value
    if (torch.is_grad_enabled() and value.requires_grad) or has_tangent(value):
        raise ValueError(
            f"{name}: a tensor that requires a gradient is not accepted, as it would get none; "
            "expected a number, or a tensor without"
        )
    return float(value)


def alike(x: Tensor, gate: Tensor) -> Sequence[Tensor]:
    """Both in one shape."""
    x, gate = promoted(x, gate)
    return (x, gate) if x.shape == gate.shape else torch.broadcast_tensors(x, gate)


def per_channel(weight: Tensor, ndim: int) -> Tensor:
    """A value a channel, which is dimension 1 in torch, for NumPy's broadcasting."""
    if weight.ndim != 1 or ndim == 1:
        return weight
    if ndim == 0:
        return weight.squeeze(0)
    return weight.view(-1, *[1] * (ndim - 2))


def _describe(function: fa.Activation) -> str:
    lines = ""
    if function.gated:
        lines = "gate : Tensor\n    What x is multiplied by, through its activation; broadcasts.\n"
    for key, value in function.parameters.items():
        if key in function.learned:
            lines += (
                f"{key} : Tensor\n    One value, or of shape (C,) one a channel: x.shape[1] is C.\n"
            )
        else:
            lines += f"{key} : float" + ("\n" if value is None else f", default {value}\n")
    return lines


functions = {
    name: make_function(function) for name, function in {**fa.activations, **fa.gated}.items()
}


# ---- settings ------------------------------------------------------------------------------------

# In plain dicts, which torch.compile can look into: name -> (parameters, the one that is learned).
TABLE = {
    name: (dict(function.parameters), "".join(function.learned))
    for name, function in fa.activations.items()
}


class Settings(NamedTuple):
    """An activation as the operators of BatchNorm take it."""

    name: str = ""  # none
    numbers: list[float] = []  # in the table's order  # noqa: RUF012
    learned: Tensor | None = None


def settle(activation: str | fa.Activation | None, params: Mapping[str, Value] | None) -> Settings:
    """Checks an activation and its parameters."""
    if activation is None:
        if params:
            raise TypeError("activation_params: given without an activation")
        return Settings()
    if not isinstance(activation, str):
        activation = find_activation(activation).name
    if activation not in TABLE:
        find_activation(activation)  # raises
    defaults, learned = TABLE[activation]
    for key in params or {}:
        if key not in defaults:
            accepted = ", ".join(defaults) or "none"
            raise TypeError(
                f"activation_params: {activation} has no parameter {key!r}; accepted: {accepted}"
            )
    complete: dict[str, Any] = {**defaults, **(params or {})}
    for key, value in complete.items():
        if value is None:
            raise TypeError(f"activation_params[{key!r}]: missing; {activation} requires it")
    numbers = [
        float(number(f"activation_params[{key!r}]", value))
        for key, value in complete.items()
        if key != learned
    ]
    return Settings(activation, numbers, complete.get(learned))


class Activation(torch.nn.Module):
    """An activation as a module.

    Parameters
    ----------
    name : str or fastact.Activation
        Any of `fastact.activations`.
    **params : float
        Its parameters. Of a learned one this is the initial value: a number, or a tensor of shape
        (C,). It becomes a `torch.nn.Parameter` of that name.

    Raises
    ------
    TypeError, ValueError
        There is no such activation; it has no such parameter; one that is required is missing.

    Examples
    --------
    >>> import torch, fastact.torch as fat
    >>> fat.Activation("leaky_relu", negative_slope=0.2)(torch.tensor([-1.0]))
    tensor([-0.2000])
    """

    def __init__(self, name: str | fa.Activation, **params: Value) -> None:
        super().__init__()
        self.name, self.numbers, learned = settle(name, params)
        self.learned = TABLE[self.name][1]
        if self.learned:
            value = torch.as_tensor(learned, dtype=torch.get_default_dtype()).detach().clone()
            self.register_parameter(self.learned, torch.nn.Parameter(value.reshape(-1)))

    def settings(self) -> Settings:
        learned = getattr(self, self.learned) if self.learned else None
        return Settings(self.name, self.numbers, learned)

    def forward(self, x: Tensor) -> Tensor:
        _, numbers, learned = self.settings()
        return functions[self.name](x, *[] if learned is None else [learned], *numbers)

    def extra_repr(self) -> str:
        keys = [key for key in TABLE[self.name][0] if key != self.learned]
        pairs = zip(keys, self.numbers, strict=True)
        return ", ".join([self.name, *[f"{key}={number:g}" for key, number in pairs]])
