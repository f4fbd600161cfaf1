"""The activation of a BatchNorm call, with its parameters as the kernels take them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fastact import _checks as checks
from fastact._activation import activation as find_activation


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Fused:
    name: str | None = None
    values: tuple[np.ndarray, ...] = ()
    per_channel: bool = False
    learned: str | None = None  # the parameter with a gradient, its shape and dtype
    shape: tuple[int, ...] = ()
    dtype: np.dtype | None = None

    @property
    def row(self) -> int:
        """Of the table, or -1: not kept, since the next version's table may have other rows."""
        return -1 if self.name is None else find_activation(self.name)._row

    def gradients(self, sums: np.ndarray) -> dict[str, np.ndarray] | None:
        """By name, of the sums a channel."""
        if self.learned is None:
            return None
        total = sums if self.shape else np.sum(sums)
        return {self.learned: np.asarray(total, dtype=self.dtype)}


NOTHING = Fused()
_defaults: dict[str, Fused] = {}  # activations with their default parameters, as they come up


def fuse(activation: object, params: object, channels: int) -> Fused:
    if params is not None and not isinstance(params, Mapping):
        raise TypeError(f"activation_params: expected a dict, got {type(params).__name__}")
    if activation is None:
        if params:
            raise TypeError("activation_params: given without an activation")
        return NOTHING
    function = find_activation(activation)
    if not params and function.name in _defaults:
        return _defaults[function.name]
    params = params or {}
    for key in params:
        if key not in function.parameters:
            accepted = ", ".join(function.parameters) or "none"
            raise TypeError(
                f"activation_params: {function.name} has no parameter {key!r}; accepted: {accepted}"
            )
    values: list[np.ndarray] = []
    learned: str | None = None
    shape: tuple[int, ...] = ()
    dtype: np.dtype | None = None
    for name, default in function.parameters.items():
        where = f"activation_params[{name!r}]"
        if default is None and params.get(name) is None:
            raise TypeError(f"{where}: missing; {function.name} requires it")
        if name in function.learned:
            given = checks.read_once(where, params[name])
            value = checks.real_values(where, given)
            if value.shape not in ((), (channels,)):
                raise ValueError(
                    f"{where}: shape {value.shape} is not accepted; expected () or ({channels},)"
                )
            learned, shape, dtype = name, value.shape, checks.gradient_dtype(given)
            values.append(np.array(np.broadcast_to(value, (channels,))))
        else:
            number = checks.real_number(where, params.get(name, default), -math.inf, math.inf)
            values.append(np.array(number))
    fused = Fused(function.name, tuple(values), learned is not None, learned, shape, dtype)
    if not params:
        _defaults[function.name] = fused
    return fused
