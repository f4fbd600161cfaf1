"""BatchNorm over the data of several processes (`comm=`).

Two collectives a call, each a table with a row for each rank, so that all ranks see the same
numbers and merge them in the order of ranks, with the same bits everywhere:

1. a header of fixed size: whether the arguments are good, and what has to be the same on all ranks.
   Every rank sends it, with bad arguments too, so that an error is raised on all and none waits.
2. statistics, or the sums of the backward.

The table is gathered by `Allgather` where there is one, else it is a sum of tables that are 0 but
for one's own row: `Allreduce(send, receive)` or `allreduce(table)` of float64.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

TEXT = 32  # numbers of six bytes, in which an error's message reaches the other ranks
KINDS = (ValueError, TypeError, MemoryError)
OTHER = len(KINDS)  # any other error
Made = TypeVar("Made")
AGREED = (
    "what is called", "channels", "the dtype of x", "training", "eps", "momentum", "convention",
    "activation", "activation_params", "weight", "bias", "running statistics",
    "save_for_backward", "whether there is a residual", "the statistics of ctx",
)  # fmt: skip


class Group:
    """The processes of a communicator."""

    def __init__(self, comm: Any):
        self.comm = comm
        self.reduces = callable(getattr(comm, "Allreduce", None))
        if not self.reduces and not callable(getattr(comm, "allreduce", None)):
            raise TypeError(
                f"comm: {type(comm).__name__} is not accepted; expected an mpi4py communicator or "
                "an object with Allreduce(send, receive) or allreduce(array), which sum"
            )
        rank, size = of(comm, "rank"), of(comm, "size")
        self.rank, self.size = elect(self) if rank is None or size is None else (rank, size)

    def sum(self, array: np.ndarray) -> np.ndarray:
        """The sum over all ranks of float64 arrays of the same shape."""
        if self.reduces:
            total = np.zeros_like(array)
            self.comm.Allreduce(array, total)
            return total
        total = self.comm.allreduce(array)
        return array if total is None else np.asarray(total, dtype=np.float64)  # None: in place

    def table(self, row: np.ndarray) -> np.ndarray:
        """(size, len(row)) float64: everyone's row."""
        table = np.zeros((self.size, row.size))
        gather = getattr(self.comm, "Allgather", None)
        if callable(gather):
            gather(np.ascontiguousarray(row), table)
            return table
        table[self.rank] = row
        return self.sum(table).reshape(table.shape)


def of(comm: object, name: str) -> int | None:
    """Rank or size: an attribute, or what its method gives."""
    for spelling in (f"Get_{name}", name):
        value = getattr(comm, spelling, None)
        value = value() if callable(value) else value
        if value is not None:
            return int(value)
    return None


# ---- ranks of communicators that have none ---------------------------------------------------

_elected: weakref.WeakKeyDictionary[object, tuple[int, int]] = weakref.WeakKeyDictionary()


def elect(group: Group) -> tuple[int, int]:
    """Rank and size for processes that can do nothing but sum: each draws a place in a table until
    it has one to itself. Once for a communicator, since the order of ranks decides last bits."""
    try:
        if group.comm in _elected:
            return _elected[group.comm]
    except TypeError:
        raise TypeError("comm: without rank and size, it has to be hashable") from None
    size = int(group.sum(np.ones(1))[0])
    draw = np.random.default_rng()  # seeded by the system: differs between processes
    rank, settled = -1, 0  # no rank yet
    while settled < size:
        places = np.zeros(8 * size)
        mine = int(draw.integers(places.size))
        places[mine] = rank < 0
        alone = group.sum(places) == 1
        if rank < 0 and alone[mine]:
            rank = settled + int(alone[:mine].sum())
        settled += int(alone.sum())
    _elected[group.comm] = rank, size
    return rank, size


# ---- the header ------------------------------------------------------------------------------


def checksum(*values: object) -> float:
    """Of arrays and words, to be compared."""
    import zlib  # here: most processes are the only one

    total = 0
    for value in values:
        data = value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
        total = zlib.crc32(data, total)
    return float(total)


def kind_of(error: BaseException) -> int:
    return next((k for k, kind in enumerate(KINDS) if isinstance(error, kind)), OTHER)


class Header:
    """What goes ahead of a call: [0 or 1 + kind of error, count, values, AGREED..., text]."""

    SIZE = 3 + len(AGREED) + TEXT

    def __init__(self, group: Group, row: np.ndarray):
        self.group, self.rows = group, group.table(row)

    @classmethod
    def send(
        cls, group: Group, check: Callable[[], tuple[Made, float, float, list[float]]]
    ) -> tuple[Made, Header]:
        """Runs `check` and exchanges what it gives; what it made, and the header. An error of any
        rank is raised on every rank."""
        row = np.zeros(cls.SIZE)
        try:
            made, row[1], row[2], agreed = check()
            row[3 : 3 + len(AGREED)] = agreed
        except Exception as problem:
            row[:] = 0.0
            row[0] = 1 + kind_of(problem)
            row[-TEXT:] = packed(str(problem))
            cls(group, row)
            raise
        header = cls(group, row)
        header.raise_errors()
        return made, header

    def raise_errors(self) -> None:
        for rank, row in enumerate(self.rows):
            if row[0]:
                kind = (*KINDS, RuntimeError)[int(row[0]) - 1]
                raise kind(f"comm: rank {rank}: {unpacked(row[-TEXT:])}")
        agreed = self.rows[:, 3 : 3 + len(AGREED)]
        for name, column in zip(AGREED, agreed.T, strict=True):
            if (column != column[0]).any():
                raise ValueError(f"comm: the ranks disagree on {name}{found(name, column)}")

    @property
    def counts(self) -> list[float]:
        """Of each rank: its values a channel, or the sum of their weights."""
        return [int(count) if count.is_integer() else count for count in self.rows[:, 1].tolist()]

    @property
    def count(self) -> float:
        return sum(self.counts)

    @property
    def values(self) -> int:
        return int(self.rows[:, 2].sum())


def found(name: str, column: np.ndarray) -> str:
    """The values, where they say something to a reader."""
    if name not in ("channels", "training", "eps", "momentum"):
        return ""
    return f": {[f'{value:g}' for value in column]} from rank 0 on".replace("'", "")


def packed(text: str) -> np.ndarray:
    """Six bytes a number: every integer below 2**48 is a float64, whatever adds it to 0."""
    data = text.encode()[: 6 * TEXT].ljust(6 * TEXT, b"\0")
    return np.array([int.from_bytes(data[k : k + 6]) for k in range(0, len(data), 6)], np.float64)


def unpacked(numbers: np.ndarray) -> str:
    data = b"".join(int(number).to_bytes(6) for number in numbers)
    return data.rstrip(b"\0").decode(errors="replace")


# ---- the second collective -------------------------------------------------------------------


def exchange(group: Group, make: Callable[[], np.ndarray], length: int) -> np.ndarray:
    """(size, length): what `make` gives on each rank. Its error, out of memory for one, is raised
    on every rank."""
    row = np.zeros(1 + length)
    error: Exception | None = None
    try:
        row[1:] = make().reshape(-1)
    except Exception as problem:
        row[0], error = 1 + kind_of(problem), problem
    table = group.table(row)
    if error is not None:
        raise error
    failed = np.flatnonzero(table[:, 0])
    if failed.size:
        kind = (*KINDS, RuntimeError)[int(table[failed[0], 0]) - 1]
        raise kind(f"comm: rank {failed[0]} failed")
    return table[:, 1:]
