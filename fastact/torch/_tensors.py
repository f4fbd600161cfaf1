"""Tensors as arrays and back, sharing memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fastact import _runtime

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SHARED: dict[torch.dtype, np.dtype[Any]] = {  # those that NumPy has itself
    torch.float16: np.dtype(np.float16),
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
}
STRIDED = torch.strided


def check(name: str, tensor: torch.Tensor) -> None:
    """Raises where a tensor cannot be seen as an array of numbers that fastact computes with."""
    if tensor.device.type not in ("cpu", "meta"):
        raise ValueError(
            f"{name}: a tensor on {tensor.device} is not accepted; expected one on cpu. fastact "
            f"computes on the CPU: use {name}.cpu(), or torch's own function on {tensor.device}"
        )
    if tensor.layout is not torch.strided:
        raise ValueError(f"{name}: layout {tensor.layout} is not accepted; expected torch.strided")
    if tensor.dtype not in DTYPES:
        accepted = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise TypeError(f"{name}: dtype {tensor.dtype} is not accepted; expected {accepted}")


def promoted(x: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both in one dtype where autocast, which mixes dtypes unasked, is on; else as they are."""
    if x.dtype is other.dtype or not torch.is_autocast_enabled("cpu"):
        return x, other
    dtype = torch.promote_types(x.dtype, other.dtype)
    return x.to(dtype), other.to(dtype)


def array_of(name: str, tensor: torch.Tensor) -> np.ndarray:
    """The tensor's own memory as an array, whatever its strides."""
    if tensor.dtype in SHARED and tensor.is_cpu and tensor.layout is STRIDED:
        return (tensor.detach() if tensor.requires_grad else tensor).numpy()
    check(name, tensor)
    if tensor.requires_grad:
        tensor = tensor.detach()
    return tensor.view(torch.int16).numpy().view(_bfloat16())  # which NumPy has from ml_dtypes


def dtype_of(tensor: torch.Tensor | None) -> np.dtype[Any] | None:
    """NumPy's name for it."""
    if tensor is None:
        return None
    found: np.dtype[Any] = SHARED[tensor.dtype] if tensor.dtype in SHARED else _bfloat16()
    return found


def tensor_of(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """The array's own memory as a tensor."""
    if dtype is torch.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _bfloat16() -> Any:
    try:
        import ml_dtypes
    except ImportError:
        raise ImportError(
            "fastact.torch needs the package ml_dtypes for bfloat16 tensors: pip install ml_dtypes"
        ) from None
    return np.dtype(ml_dtypes.bfloat16)


def tensor_like(tensor: torch.Tensor, array: np.ndarray) -> torch.Tensor:
    """An array of the tensor's shape as a tensor of its strides, those of `torch.empty_like`."""
    result = tensor_of(array, tensor.dtype)
    same = _restrided(result, tensor)
    return torch.empty_like(tensor, requires_grad=False).copy_(result) if same is None else same


def empty_like(tensor: torch.Tensor, array: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
    """`torch.empty_like`, strides included, in recycled memory where that is possible."""
    fresh = _runtime.new_like(array, array.dtype.num)
    result = _restrided(tensor_of(fresh, tensor.dtype), tensor)
    if result is None:
        result = torch.empty_like(tensor, requires_grad=False)
        return result, array_of("result", result)
    return result, fresh


def _restrided(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor | None:
    """a's memory with the strides of b; None for gaps or repeated elements: torch's own rule."""
    if a.stride() == b.stride():
        return a
    return a.as_strided(b.shape, b.stride()) if _same_steps(a, b) else None


def _same_steps(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether the strides agree wherever there is more than one element to step over."""
    steps = zip(a.shape, a.stride(), b.stride(), strict=True)
    return a.numel() > 0 and all(n == 1 or mine == other for n, mine, other in steps)
