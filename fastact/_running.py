"""Running statistics: how they are updated, by the name of a convention.

They differ in two things between frameworks: whether the variance that is stored is the unbiased
one, and whether `momentum` is the share of the batch or of what was there before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fastact import _checks as checks
from fastact import _kernels
from fastact._activation import has_internal_overlap

MOMENTUM = 0.1
"""The default: this very object stands for a tenth of the batch, in every convention."""


class Convention(NamedTuple):
    unbiased: bool
    of_batch: bool  # what momentum is the share of


CONVENTIONS = {
    "torch": Convention(True, True),
    "keras": Convention(False, False),
    "flax": Convention(False, False),
    "onnx": Convention(False, False),
    "unbiased/batch": Convention(True, True),
    "unbiased/running": Convention(True, False),
    "biased/batch": Convention(False, True),
    "biased/running": Convention(False, False),
}


Running = tuple[Any, Any]  # mean and var: arrays in training, else array_like


class Update(NamedTuple):
    """running = keep * running + share * batch"""

    keep: float
    share: float
    unbiased: bool


def update_rule(momentum: object, convention: object) -> Update:
    known = CONVENTIONS[checks.word("convention", convention, tuple(CONVENTIONS))]
    if momentum is None:
        raise ValueError(
            "momentum: None (a cumulative average) needs a counter, which only the layer "
            "fastact.BatchNorm has; expected 0 to 1"
        )
    value = checks.real_number("momentum", momentum, 0.0, 1.0)
    if known.of_batch or momentum is MOMENTUM:
        return Update(1.0 - value, value, known.unbiased)
    return Update(value, 1.0 - value, known.unbiased)


def own_momentum(momentum: object, convention: str) -> float | None:
    """What a layer keeps: the number that its convention means, None for a cumulative average."""
    if momentum is None:
        return None
    value = checks.real_number("momentum", momentum, 0.0, 1.0)
    return (
        1.0 - MOMENTUM if momentum is MOMENTUM and not CONVENTIONS[convention].of_batch else value
    )


def cumulative(convention: str, batches: int) -> float:
    """The momentum with which the running statistics become the average of all batches."""
    share = 1.0 / (batches + 1)
    return share if CONVENTIONS[convention].of_batch else 1.0 - share


def check_running(
    mean: Any, var: Any, apart: Mapping[str, object], channels: int, training: bool
) -> Running | None:
    """The running statistics, or None where there are none. In training they are written, apart
    from everything in `apart`."""
    if (mean is None) != (var is None):
        missing = "running_mean" if mean is None else "running_var"
        raise ValueError(f"{missing}: missing; running_mean and running_var come together")
    if mean is None:
        if not training:
            raise ValueError(
                "running_mean, running_var: missing; with training=False they are what normalises x"
            )
        return None
    for name, value in (("running_mean", mean), ("running_var", var)):
        if not (
            type(value) is np.ndarray
            and checks.is_float(value.dtype)
            and value.shape == (channels,)
        ):
            checks.per_channel(name, value, channels)  # raises, or accepts what is no such array
        if training:
            check_updatable(name, value, apart)
    if training and np.may_share_memory(mean, var):
        raise ValueError("running_mean, running_var: share memory, but each is updated in place")
    return mean, var


def check_updatable(name: str, value: object, apart: Mapping[str, object]) -> None:
    if type(value) is not np.ndarray or not checks.is_float(value.dtype):
        raise TypeError(
            f"{name}: updated in place in training, so expected a numpy.ndarray of "
            f"{checks.ACCEPTED}, got {type(value).__name__}"
        )
    if not value.flags.writeable:
        raise ValueError(f"{name}: read-only, but updated in place in training")
    if has_internal_overlap(value):
        raise ValueError(f"{name}: several of its elements share memory")
    for other, array in apart.items():
        if array is not None and np.may_share_memory(value, np.asarray(array)):
            raise ValueError(f"{name}: overlaps {other}, but is updated in place in training")


def track(running: Running, mean: np.ndarray, var: np.ndarray, count: float, rule: Update) -> None:
    """Updates them in place, in float64, rounded once. `count` is more than 1."""
    factor = count / (count - 1) if rule.unbiased else 1.0
    for values, batch, scale in zip(running, (mean, var), (1.0, factor), strict=True):
        if not _kernels.track(values, batch, rule.keep, rule.share, scale):
            with np.errstate(all="ignore"):
                old = np.multiply(values, rule.keep, dtype=np.float64)
                np.add(old, rule.share * (batch * scale), out=values, casting="same_kind")
