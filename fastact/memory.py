"""Recycled memory: see it, limit it, trim it, switch it off, lend it to NumPy.

The system zeroes each page of a new array on its first touch, which takes longer than the
arithmetic that fills it. So blocks of 256 KiB and more that held results of fastact are kept when
the results are deleted, and hold later ones. The results are ordinary arrays that own their data,
through NumPy's data-allocation hook (NEP 49): they can be resized, pickled and deleted from any
thread.

At most a quarter of the machine's memory (or of the cgroup's limit) is kept, so that what waits
does not crowd out what works, and at most 2 GiB, which holds the results of a training step with
fifty layers of (32, 64, 56, 56). What has waited longest goes first. The environment variable
``FASTACT_MEMORY_LIMIT`` sets another limit in bytes; 0 turns recycling off. A forked child starts
with nothing kept, and everything goes back at exit.

Recycled are only exact ``numpy.ndarray`` results, and only where NumPy's own allocator is active:
one that you have set yourself stays in charge. ``tracemalloc`` counts an array's data while the
array lives; what is kept is no array's and is seen in `stats` alone.

>>> import numpy as np, fastact as fa
>>> x = np.ones(1_000_000, dtype=np.float32)
>>> before = fa.memory.stats().hits
>>> for _ in range(3):
...     y = fa.identity(x)
>>> fa.memory.stats().hits > before
True
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fastact import _runtime

__all__ = ["Stats", "disable", "enable", "lend", "limit", "stats", "trim"]


@dataclass(frozen=True, slots=True)
class Stats:
    """The recycled memory of this process, at one moment.

    Attributes
    ----------
    in_use : int
        Bytes of the blocks that arrays hold now; a block is up to 1/16 longer than its array.
    kept : int
        Bytes of the blocks that wait for the next array.
    limit : int
        Of `kept`, in bytes.
    blocks_in_use, blocks_kept : int
        Their numbers.
    hits, misses : int
        Arrays that got a kept block, and that got a new one.
    evictions : int
        Blocks that were given back to the system because the limit left no room for them.
    enabled : bool
        Whether blocks are kept at all.
    min_bytes : int
        Smaller arrays, in bytes, are not recycled.
    """

    in_use: int
    kept: int
    limit: int
    blocks_in_use: int
    blocks_kept: int
    hits: int
    misses: int
    evictions: int
    enabled: bool
    min_bytes: int


def stats() -> Stats:
    """What is in use, what is kept, and how often that helped.

    Examples
    --------
    >>> import fastact as fa
    >>> s = fa.memory.stats()
    >>> s.kept <= s.limit
    True
    """
    return Stats(*_runtime.pool_stats())


def limit(size: int | None = None) -> int:
    """Keep at most this much; gives back at once what is beyond it.

    Parameters
    ----------
    size : int, optional
        Bytes; 0 keeps nothing, None restores the default for this machine.

    Returns
    -------
    int
        The limit before, so that it can be restored.

    Raises
    ------
    TypeError, ValueError
        `size` is no integer, or out of range.

    Examples
    --------
    >>> import fastact as fa
    >>> before = fa.memory.limit(100_000_000)
    >>> fa.memory.limit(before)
    100000000
    """
    before = stats()
    _runtime.pool_configure(size, before.enabled)
    return before.limit


def trim() -> int:
    """Give all that is kept back to the system; the number of bytes.

    Examples
    --------
    >>> import fastact as fa
    >>> given_back = fa.memory.trim()
    >>> fa.memory.stats().kept
    0
    """
    given_back: int = _runtime.pool_trim()
    return given_back


def disable() -> None:
    """Give back all that is kept and make new results with NumPy's own allocator, until `enable`.

    Examples
    --------
    >>> import fastact as fa
    >>> fa.memory.disable()
    >>> fa.memory.stats().enabled
    False
    >>> fa.memory.enable()
    """
    _runtime.pool_configure(stats().limit, False)


def enable() -> None:
    """Undo `disable`.

    Examples
    --------
    >>> import fastact as fa
    >>> fa.memory.enable()
    >>> fa.memory.stats().enabled
    True
    """
    _runtime.pool_configure(stats().limit, True)


@contextmanager
def lend() -> Iterator[None]:
    """Context manager: inside, every new array of NumPy is recycled as fastact's results are.

    It holds for the calling thread (or asyncio task) alone, and takes the place of an allocator
    that was set before, until the block is left. Arrays that were made inside may live on. Small
    arrays take 64 bytes more, and NumPy's own cache of very small ones is not used.

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> with fa.memory.lend():
    ...     a = np.zeros(1_000_000)
    >>> fa.memory.stats().in_use >= a.nbytes
    True
    """
    outer = _runtime.swap_handler()
    try:
        yield
    finally:
        _runtime.swap_handler(outer)
