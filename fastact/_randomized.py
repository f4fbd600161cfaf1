"""The training form of the randomised leaky ReLU: slopes drawn anew at each call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastact._activation import activations
from fastact._environment import in_default_environment
from fastact._protocols import is_foreign, numbers_of

DEFAULTS: Mapping[str, Any] = activations["rrelu"].parameters  # all of them numbers


@in_default_environment
def rrelu_training(
    x: Any,
    generator: np.random.Generator,
    lower: float = DEFAULTS["lower"],
    upper: float = DEFAULTS["upper"],
    out: Any = None,
) -> tuple[Any, Any]:
    """x where x > 0, else a * x with a drawn from [lower, upper) for each element.

    Parameters
    ----------
    x : array_like
        Any shape; float16, bfloat16, float32 or float64 (integers and bool are converted). An
        array of another library gives one of its own, with slopes in a numpy.ndarray.
    generator : numpy.random.Generator
        Where the slopes come from: the same generator state gives the same slopes.
    lower, upper : float
        The range of the slopes, 0 <= lower <= upper in the paper; lower <= upper here.
    out : numpy.ndarray, optional
        Where to write the result; x itself is allowed.

    Returns
    -------
    (y, negative_slope)
        Two arrays of x's shape; the slopes have the dtype of y, but for the two half precisions,
        whose slopes are float32. The gradient is
        ``fastact.leaky_relu.backward(dy, x, negative_slope)``.

    Raises
    ------
    TypeError
        generator is no numpy.random.Generator.
    ValueError
        lower or upper is not finite, or lower > upper.

    Notes
    -----
    Source: Xu, Wang, Chen and Li 2015, arXiv:1505.00853. The form for evaluation, with the mean of
    the slopes, is ``fastact.rrelu``.

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> x = np.array([-2.0, -1.0, 3.0], dtype=np.float32)
    >>> y, slope = fa.rrelu_training(x, np.random.default_rng(0))
    >>> bool((y == np.where(x > 0, x, slope * x)).all())
    True
    >>> fa.leaky_relu.backward(np.ones_like(x), x, slope).tolist() == [*slope[:2].tolist(), 1.0]
    True
    """
    if not isinstance(generator, np.random.Generator):
        raise TypeError(
            f"generator: expected a numpy.random.Generator, got {type(generator).__name__}"
        )
    if not (np.isfinite(lower) and np.isfinite(upper) and lower <= upper):
        raise ValueError(
            f"lower, upper: expected finite numbers, lower <= upper; got {lower}, {upper}"
        )
    x = x if is_foreign(x) else np.asanyarray(x)
    leaky_relu = activations["leaky_relu"]
    dtype = np.float64 if leaky_relu(np.empty(0, numbers_of(x))).dtype == np.float64 else np.float32
    shape: tuple[int, ...] = x.shape
    slope = generator.random(shape, dtype=dtype)
    slope *= dtype(upper - lower)
    slope += dtype(lower)
    return leaky_relu(x, slope, out=out), slope
