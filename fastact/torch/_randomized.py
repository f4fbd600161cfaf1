"""The training form of the randomised leaky ReLU, with slopes of torch's generator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import fastact as fa
from fastact.torch._tensors import check

DEFAULTS: Mapping[str, Any] = fa.activations["rrelu"].parameters  # all of them numbers


def rrelu_training(
    x: Tensor,
    lower: float = DEFAULTS["lower"],
    upper: float = DEFAULTS["upper"],
    generator: torch.Generator | None = None,
) -> Tensor:
    """x where x > 0, else a * x with a drawn from [lower, upper) for each element.

    Parameters
    ----------
    x : Tensor
        On the CPU; float16, bfloat16, float32 or float64.
    lower, upper : float
    generator : torch.Generator, optional
        torch's own by default, as `torch.manual_seed` sets it.

    Returns
    -------
    Tensor
        Shape, dtype and strides of x. Its gradient takes the slopes that were drawn.

    Notes
    -----
    Source: Xu, Wang, Chen and Li 2015, arXiv:1505.00853. The form for evaluation, with the mean of
    the slopes, is ``fastact.torch.rrelu``.

    Examples
    --------
    >>> import torch, fastact.torch as fat
    >>> y = fat.rrelu_training(torch.tensor([-1.0, 2.0]))
    >>> bool(-1 / 3 <= y[0] <= -1 / 8), float(y[1])
    (True, 2.0)
    """
    check("x", x)
    slopes = torch.empty_like(x, requires_grad=False).uniform_(lower, upper, generator=generator)
    y: Tensor = torch.ops.fastact.prelu.default(x, slopes)
    return y
