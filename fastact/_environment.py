"""Python's own arithmetic in the default floating-point environment.

The kernels see to theirs. Conversions of small arrays and updates of running statistics happen
outside: where another package has set the processor to flush subnormals to zero, or to round
otherwise, they would give other bits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from fastact._runtime import enter_environment, leave_environment

Given = ParamSpec("Given")
Result = TypeVar("Result")


def in_default_environment(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """The function, called in that environment; the caller's comes back, flags included."""

    @wraps(function)
    def call(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        old = enter_environment()
        try:
            return function(*args, **kwargs)
        finally:
            leave_environment(old)

    return call
