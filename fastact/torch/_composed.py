"""Activations composed of torch's operations, which torch can differentiate any number of times."""

from __future__ import annotations

import torch
from torch import Tensor

import fastact as fa
from fastact._formula import Library, Value, evaluate

LIBRARY = Library(
    Tensor,
    torch.where,
    {
        "exp": torch.exp,
        "expm1": torch.expm1,
        "log": torch.log,
        "sqrt": torch.sqrt,
        "tanh": torch.tanh,
        "Phi": torch.special.ndtr,
        "logistic": torch.sigmoid,
        "log_logistic": torch.nn.functional.logsigmoid,
    },
)
HALVES = (torch.float16, torch.bfloat16)


def value(name: str, x: Tensor, **arguments: Value) -> Tensor:
    """An activation's value, by its formula; half precision is computed as float32."""
    function = fa.gated[name] if name in fa.gated else fa.activations[name]
    given = {"x": x, **arguments}
    if x.dtype in HALVES:
        given = {k: v.float() if isinstance(v, Tensor) else v for k, v in given.items()}
    result: Tensor = evaluate(LIBRARY, function, **given)
    return result.to(x.dtype)
