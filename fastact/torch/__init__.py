"""fastact for PyTorch: the activations on CPU tensors."""

from fastact.torch._activations import Activation, functions
from fastact.torch._batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d, batch_norm
from fastact.torch._fuse import Report, fuse

globals().update(functions)
__all__ = [
    *functions,
    "Activation",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Report",
    "batch_norm",
    "fuse",
]
