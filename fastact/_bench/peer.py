"""What a peer is, and how its functions are found.

A peer turns a job (`elementwise.Job`, `batchnorm.Job`) into statements as its users write them, by
mode; a mode that it does not have is left out. A function is found by our name (underscores aside,
or our name being theirs and a value of `approximate`, or as `names` spells it) and only counts if
it computes the same. Nobody is timed on work that comes out wrong.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from fastact._bench import names

if TYPE_CHECKING:
    from fastact._bench.batchnorm import Job as BatchNormJob
    from fastact._bench.elementwise import Job as ElementwiseJob

Job: TypeAlias = "BatchNormJob | ElementwiseJob"
Function = Callable[..., Any]

CLOSE = 1e-3  # relative: what a peer may be off and still do the same work


class NotTheSame(Exception):
    """The peer has no function that does the same; or, with a reason, should have had."""


class Peer:
    module: str

    def version(self) -> str:
        """ImportError says what is missing."""
        return str(importlib.import_module(self.module).__version__)


def plain(name: str) -> str:
    return name.replace("_", "")


def candidates(name: str, modules: tuple[Any, ...]) -> Iterator[Function]:
    """Functions with our name, or that begin it and take `approximate`, or as `names` has it."""
    for module in modules:
        for theirs in dir(module):
            if theirs[0] == "_" or not plain(name).startswith(plain(theirs)):
                continue
            rest = plain(name)[len(plain(theirs)) :]
            call = getattr(module, theirs)
            if callable(call):
                if not rest:
                    yield call
                for value in [rest] if rest else ["none", False]:
                    yield functools.partial(call, approximate=value)
        yield from (getattr(module, s) for s in names.SPELLINGS.get(name, ()) if hasattr(module, s))


def same(got: ArrayLike, exact: np.ndarray) -> bool:
    got = np.asarray(got)
    if got.shape != exact.shape or got.dtype != np.float32:
        return False
    # on average: beside a kink a peer's rounding may fall on the other side
    return bool(np.abs(got - exact).mean() <= CLOSE * max(np.abs(exact).mean(), 1e-30))


def require(got: ArrayLike, exact: np.ndarray) -> None:
    if not same(got, exact):
        raise NotTheSame("its result differs from the reference by more than 1e-3")


def first_that_fits(
    options: Iterator[Function], job: Job, run: Callable[[Function], np.ndarray]
) -> Function:
    """The first function whose values on a sample of the job are right; run(call) evaluates it."""
    for call in options:
        try:
            got = run(call)
        except Exception:  # another signature: not this one
            continue
        if same(got, job.sample_exact) and not np.shares_memory(got, job.sample):
            return call
    raise NotTheSame
