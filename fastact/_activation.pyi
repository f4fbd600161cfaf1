"""Compiled; what is public of it is in __init__.pyi."""

import numpy as np

from fastact import Activation as Activation
from fastact import Backward as Backward

activations: dict[str, Activation]
gated: dict[str, Activation]

def activation(which: object) -> Activation: ...
def has_internal_overlap(a: np.ndarray) -> bool: ...
