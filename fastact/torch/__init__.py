"""fastact for PyTorch: activations and BatchNorm on CPU tensors, without copies.

>>> import torch, fastact.torch as fat
>>> fat.BatchNorm2d(8, activation="relu")(torch.randn(2, 8, 5, 5)).shape
torch.Size([2, 8, 5, 5])

- A function for each activation, with the parameters of torch.nn.functional's, and `Activation`, a
  module for any of them.
- `batch_norm`, and `BatchNorm1d`, `BatchNorm2d`, `BatchNorm3d`: torch's, fused with any activation.
- `SyncBatchNorm`, with statistics of all processes, by gloo; `Communicator`, for fastact's own
  ``comm=``.
- `fuse(model)` finds BatchNorm and the activation behind it in a model and makes them one;
  `unfuse(model)` makes them two again.

All are operators of `torch.library`: one node for torch.compile and torch.export. fastact itself
never imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastact.torch._activations import Activation, functions
from fastact.torch._batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d, batch_norm
from fastact.torch._fuse import Report, fuse, unfuse
from fastact.torch._randomized import rrelu_training
from fastact.torch._sync import Communicator, SyncBatchNorm

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    def __getattr__(name: str) -> Callable[..., Tensor]: ...  # the activations


globals().update(functions)
__all__ = [
    *functions,
    "Activation",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Communicator",
    "Report",
    "SyncBatchNorm",
    "batch_norm",
    "fuse",
    "rrelu_training",
    "unfuse",
]
