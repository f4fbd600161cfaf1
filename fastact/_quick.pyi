"""Compiled: ordinary calls of BatchNorm, in few steps; None for any other."""

import numpy as np

from fastact._context import BatchNormContext, BatchNormGradients

def forward(
    x: object,
    weight: object,
    bias: object,
    running_mean: object,
    running_var: object,
    training: object,
    momentum: object,
    eps: object,
    axis: object,
    activation: object,
    convention: object,
    save_for_backward: object,
    out: object,
    *unusual: object,
) -> tuple[np.ndarray, BatchNormContext] | None: ...
def backward(dy: object, ctx: object, out: object) -> BatchNormGradients | None: ...
