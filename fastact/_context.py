"""What a forward call leaves to its backward, and what that gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from fastact._counted import Counted
from fastact._fusion import Fused
from fastact._kernels import Lost


@dataclass(frozen=True, slots=True)
class Saved:
    """What a context keeps for the backward.

    Attributes
    ----------
    what : str
        "input", or "output": y, from which x is found again.
    elements : int
        Single elements of x that are kept beside y, which has lost them.
    channels : tuple of int
        Channels whose x is kept beside y, which has lost more than a sixteenth of them.
    nbytes : int
        Memory that is kept beside x, or y.

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]], dtype=np.float32)
    >>> y, ctx = fa.batch_norm_forward(
    ...     x, activation="leaky_relu", save_for_backward="output", out=x)
    >>> ctx.saved
    Saved(what='output', elements=0, channels=(), nbytes=0)
    """

    what: str
    elements: int = 0
    channels: tuple[int, ...] = ()
    nbytes: int = 0


INPUT = Saved("input")


@dataclass(frozen=True, slots=True, eq=False)
class BatchNormContext:
    """What `batch_norm_backward` needs of a forward call. Immutable; may be used again.

    Attributes
    ----------
    x : numpy.ndarray or None
        A view of the input, not a copy: changing its elements before the backward makes the
        gradient wrong. None where y is kept instead.
    y : numpy.ndarray or None
        A view of the output, with ``save_for_backward="output"``; the same holds of it.
    saved : Saved
        Which of the two, and what of x is kept beside y.
    residual : numpy.ndarray or None
        What was added, a view too.
    mean, var : numpy.ndarray
        float64 of shape (C,), read-only: the statistics that normalised x (var is biased).
    count : int or float
        Number of values a channel that count, or the sum of their weights, of all processes.
    training : bool
        Whether mean and var are those of x, or constants.
    """

    x: np.ndarray | None
    mean: np.ndarray
    var: np.ndarray
    count: float
    training: bool
    _axis: int
    _table: np.ndarray
    _fused: Fused
    _weight: np.dtype | None
    _bias: np.dtype | None
    _comm: object = None
    residual: np.ndarray | None = None
    _counted: Counted | None = None
    y: np.ndarray | None = None
    saved: Saved = INPUT
    _lost: Lost | None = None


@dataclass(frozen=True, slots=True, eq=False)
class BatchNormGradients:
    """Gradients of a loss, in fields that are None where there is nothing to differentiate.

    Attributes
    ----------
    x : numpy.ndarray
        Shape and dtype of the forward call's x.
    weight, bias : numpy.ndarray or None
        Shape (C,), dtype of the forward call's.
    residual : numpy.ndarray or None
        Shape and dtype of x.
    activation_params : mapping or None
        Name -> gradient, for learned parameters of the activation, of the parameter's shape.
    """

    x: np.ndarray
    weight: np.ndarray | None
    bias: np.ndarray | None
    residual: np.ndarray | None = None
    activation_params: Mapping[str, np.ndarray] | None = None

    def __reduce__(self) -> tuple[Callable[..., BatchNormGradients], tuple[object, ...]]:
        params = None if self.activation_params is None else dict(self.activation_params)
        return gradients, (self.x, self.weight, self.bias, self.residual, params)


def gradients(
    x: np.ndarray,
    weight: np.ndarray | None,
    bias: np.ndarray | None,
    residual: np.ndarray | None,
    params: dict[str, np.ndarray] | None,
) -> BatchNormGradients:
    read_only = None if params is None else MappingProxyType(params)
    return BatchNormGradients(x, weight, bias, residual, read_only)
