"""The compiled kernels, the instruction set that runs, and threads."""

import os
import sys

from fastact._runtime cimport *


cdef extern from "api.h" nogil:
    const fa_api fa_api_table


cdef extern from "dispatch.h" nogil:
    ctypedef struct fa_isa_table:
        const char *name

    ctypedef struct fa_isa_entry:
        const char *name
        const fa_isa_table *table
        int (*supported)()

    const fa_isa_entry fa_isa_list[]
    const fa_isa_table *fa_active()
    int fa_select_isa(const char *name)


cdef extern from "parallel.h" nogil:
    int fa_get_num_threads()
    void fa_set_num_threads(int n)
    int fa_set_thread_num_threads(int n)
    int fa_usable_cpus()
    int fa_has_openmp()
    void fa_parallel_init()


cdef extern from "memory.h" nogil:
    void fa_memory_init()
    ptrdiff_t fa_l2_bytes()
    ptrdiff_t fa_llc_bytes()


cdef extern from *:
    """
    #ifndef FA_BUILD_FLAGS
    #define FA_BUILD_FLAGS ""
    #endif
    #if defined(__VERSION__)
    #define FA_COMPILER __VERSION__
    #else
    #define FA_COMPILER ""
    #endif
    """
    const char *FA_BUILD_FLAGS
    const char *FA_COMPILER


api = &fa_api_table


def _isas():
    """{name: whether this machine can run it} of the instruction sets in this build, best first."""
    names = {}
    cdef const fa_isa_entry *isa = fa_isa_list
    while isa.name != NULL:
        names[(<bytes>isa.name).decode()] = bool(isa.supported())
        isa += 1
    return names


def _select_isa():
    name = os.environ.get("FASTACT_ISA", "")
    if fa_select_isa(name.encode()) < 0:
        usable = [isa for isa, supported in _isas().items() if supported]
        missing = [isa for isa, supported in _isas().items() if not supported]
        reason = "this machine does not support it" if name in missing else "there is no such name"
        raise ImportError(
            f"FASTACT_ISA={name!r}: {reason}; this build and machine offer: {', '.join(usable)}"
        )


_select_isa()
fa_memory_init()
fa_parallel_init()


cdef int _thread_count(object n) except -1:
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"n: the number of threads must be an integer, got {type(n).__name__}")
    n = n.__index__()
    if not 1 <= n <= 4096:
        raise ValueError(f"n: the number of threads must be between 1 and 4096, got {n}")
    return n


def set_num_threads(n):
    """Set the number of threads that fastact uses in this process.

    Results do not depend on it. Small arrays use fewer; so does a forked child process, which runs
    on one thread.

    Parameters
    ----------
    n : int
        1 to 4096.

    Raises
    ------
    TypeError, ValueError
        `n` is no integer, or out of range.

    Examples
    --------
    >>> import fastact as fa
    >>> before = fa.get_num_threads()
    >>> fa.set_num_threads(1)
    >>> fa.get_num_threads()
    1
    >>> fa.set_num_threads(before)
    """
    fa_set_num_threads(_thread_count(n))


def get_num_threads():
    """The number of threads that a call from this thread may use.

    At import: FASTACT_NUM_THREADS, else OMP_NUM_THREADS, else the CPUs that the process may use
    (affinity and cgroup quota). Inside ``num_threads(n)`` it is n.

    Examples
    --------
    >>> import fastact as fa
    >>> fa.get_num_threads() >= 1
    True
    """
    return fa_get_num_threads()


class num_threads:
    """Context manager: the number of threads for calls made by this Python thread.

    Parameters
    ----------
    n : int
        1 to 4096.

    Examples
    --------
    >>> import fastact as fa
    >>> with fa.num_threads(1):
    ...     fa.get_num_threads()
    1
    """

    def __init__(self, n):
        self.n = _thread_count(n)
        self._outer = []

    def __enter__(self):
        self._outer.append(fa_set_thread_num_threads(self.n))
        return self

    def __exit__(self, *exc_info):
        fa_set_thread_num_threads(self._outer.pop())


def config():
    """What runs: instruction set, OpenMP, threads, caches and build flags, as a dict.

    Examples
    --------
    >>> import fastact as fa
    >>> fa.config()["isa"] in fa.config()["isas"]
    True
    """
    openmp = fa_has_openmp()
    return {
        "isa": (<bytes>fa_active().name).decode(),
        "isas": [isa for isa, supported in _isas().items() if supported],
        "isas_built": list(_isas()),
        "openmp": openmp or None,
        "threads": fa_get_num_threads(),
        "cpus": fa_usable_cpus(),
        "l2_bytes": fa_l2_bytes(),
        "llc_bytes": fa_llc_bytes(),
        "compiler": (<bytes>FA_COMPILER).decode(),
        "build_flags": (<bytes>FA_BUILD_FLAGS).decode(),
    }


def show_config(file=None):
    """Print `config()`, a line an entry.

    Parameters
    ----------
    file : file object, optional
        Where to print; standard output by default.
    """
    settings = config()
    if settings["openmp"] is None:
        settings["openmp"] = "none: this build runs on one thread"
    for key, value in settings.items():
        text = ", ".join(value) if isinstance(value, list) else value
        print(f"{key:12} {text}", file=file or sys.stdout)
