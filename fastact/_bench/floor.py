"""The floor: what it costs to move the memory that a computation cannot avoid to move.

With gcc the passes are compiled here (floor.c): streaming stores, all threads. Without it NumPy's
copyto and add stand in, a share of the array a thread, and the record says so. Where arrays fit in
the last-level cache ordinary stores, or one thread, may be faster: the floor is the best of them.
"""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

import fastact
from fastact._bench.timing import Contenders, Times

SOURCE = Path(__file__).with_name("floor.c")
FLAGS = ("-O2", "-fopenmp", "-shared", "-fPIC", "-Wall")
SMALL = 1 << 14  # elements: fewer are not worth a second thread
PREFIX, LAYOUT = "floor", "layout floor"


@functools.cache
def library() -> ctypes.CDLL | None:
    """floor.c, compiled; None where there is no compiler for it."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder, "floor.so")
        command = [compiler, *FLAGS, str(SOURCE), "-o", str(built)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return None
        code = ctypes.CDLL(str(built))
    pointer, size = ctypes.c_void_p, ctypes.c_ssize_t
    code.floor_run.argtypes = [
        ctypes.c_char_p, *[pointer] * 4, size, ctypes.c_int, ctypes.c_int, size,
    ]  # fmt: skip
    code.floor_run.restype = ctypes.c_float
    return code


def described() -> str:
    return "floor.c, streaming stores" if library() else "NumPy's copyto and add (no C compiler)"


def aligned(n: int) -> np.ndarray:
    """n float32 at the begin of a page, touched."""
    memory = np.ones(n + 1024, np.float32)
    skip = -memory.ctypes.data % 4096 // 4
    return memory[skip : skip + n]


class Compiled:
    """Passes of floor.c: c(opy), a(dd), r(ead), b(oth read)."""

    def __init__(
        self, program: str, arrays: list[np.ndarray], n: int, threads: int, streams: bool
    ) -> None:
        code = library()
        assert code is not None
        self.arrays = arrays  # kept alive
        pointers = [array.ctypes.data for array in arrays]
        self.call = functools.partial(
            code.floor_run, program.encode(), *pointers, n, threads, int(streams)
        )

    def time(self, repeats: int) -> float:
        begin = time.perf_counter()
        self.call(repeats)
        return (time.perf_counter() - begin) / repeats


class WithNumpy:
    """The same passes by NumPy, a share of the arrays a thread."""

    def __init__(self, program: str, arrays: list[np.ndarray], threads: int) -> None:
        shares = zip(*(np.array_split(array, threads) for array in arrays), strict=True)
        self.program, self.shares = program, list(shares)

    def time(self, repeats: int) -> float:
        begin = time.perf_counter()
        for _ in range(repeats):
            rest = [threading.Thread(target=self.run, args=share) for share in self.shares[1:]]
            for thread in rest:
                thread.start()
            self.run(*self.shares[0])
            for thread in rest:
                thread.join()
        return (time.perf_counter() - begin) / repeats

    def run(self, x: np.ndarray, dy: np.ndarray, y: np.ndarray, dx: np.ndarray) -> None:
        for what in self.program:
            if what == "c":
                np.copyto(y, x)
            elif what == "a":
                np.add(x, dy, out=dx)
            else:
                x.max()
                if what == "b":
                    dy.max()


def contenders(program: str, n: int, name: str = PREFIX) -> Contenders:
    """The ways to make these passes over n elements; the best of them is the floor."""
    size = (n + 15) // 16 * 16
    # x, dy, y, dx; what the passes do not touch is not there
    used = (True, bool({"a", "b"} & set(program)), "c" in program, "a" in program)
    arrays = [aligned(size) if needed else aligned(0) for needed in used]
    threads = fastact.get_num_threads()
    if library() is None:
        return {f"{name} all": WithNumpy(program, arrays, threads if n > SMALL else 1)}
    ways = {f"{name} stream": (threads, True)}
    if 8 * n <= fastact.config()["llc_bytes"]:
        ways[f"{name} all"] = (threads, False)
        ways[f"{name} one"] = (1, False)
    if n <= SMALL:
        ways = {f"{name} one": (1, False)}
    return {key: Compiled(program, arrays, size, *way) for key, way in ways.items()}


def best(times: Times) -> Times:
    """The times with the ways of each floor of `contenders` replaced by the fastest."""
    for name in (PREFIX, LAYOUT):
        ways = [key for key in times if key.startswith(name + " ")]
        if ways:
            found = min(times[key] for key in ways)
            times = {key: value for key, value in times.items() if key not in ways} | {name: found}
    return times
