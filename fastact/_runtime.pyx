"""The compiled kernels, the instruction set that runs, threads and recycled memory."""

import os
import sys

cimport numpy as cnp
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport uint64_t

from fastact._runtime cimport *

cnp.import_array()


cdef extern from "api.h" nogil:
    const fa_api fa_api_table


cdef extern from "capi.h" nogil:
    ctypedef struct fastact_capi:
        pass

    const fastact_capi fa_capi_table


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
    const char *fa_threading()
    void fa_parallel_init()
    uint64_t fa_enter_environment()
    void fa_leave_environment(uint64_t old)


cdef extern from "cgroup.h" nogil:
    int fa_cgroup_cpus(const char *root)
    size_t fa_cgroup_memory(const char *root)


cdef extern from "memory.h" nogil:
    void fa_memory_init()
    ptrdiff_t fa_l2_bytes()
    ptrdiff_t fa_llc_bytes()


cdef extern from "pool.h" nogil:
    ctypedef struct fa_pool_stats:
        size_t in_use, kept, blocks_in_use, blocks_kept, limit
        bint enabled
        unsigned long long hits, misses, evictions

    const size_t FA_POOL_THRESHOLD
    bint fa_pool_serves(size_t size)
    fa_pool_stats fa_pool_get_stats()
    void fa_pool_configure(size_t limit, bint enabled)
    size_t fa_pool_trim()
    size_t fa_pool_default_limit()
    void fa_pool_init()


cdef extern from *:
    """
    #include "numpy/arrayobject.h"
    #include "pool.h"

    /* Never freed and in code that is never unloaded: arrays may outlive everything else. */
    static PyDataMem_Handler recycling_handler = {
        "fastact_recycled", 1,
        {NULL, fa_pool_malloc, fa_pool_calloc, fa_pool_realloc, fa_pool_free}};

    static PyObject *handler_capsule(void)
    {
        return PyCapsule_New(&recycling_handler, "mem_handler", NULL);
    }

    static PyObject *default_handler(void)
    {
        return Py_NewRef(PyDataMem_DefaultHandler);
    }
    """
    object handler_capsule()
    object default_handler()
    object PyDataMem_GetHandler()
    object PyDataMem_SetHandler(object)
    bint PyGC_Disable()
    bint PyGC_Enable()
    cnp.ndarray PyArray_NewLikeArray(cnp.ndarray, cnp.NPY_ORDER, PyObject *, int)
    PyObject *PyArray_DescrFromType(int)
    bint PyArray_IS_C_CONTIGUOUS(cnp.ndarray)


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
_C_API = PyCapsule_New(<void *>&fa_capi_table, "fastact._C_API", NULL)


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


cdef int MOST_THREADS = 4096


def _check_threads():
    """What OMP_NUM_THREADS says is OpenMP's matter; the variable of our own is right or refused."""
    text = os.environ.get("FASTACT_NUM_THREADS", "")
    if text and not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= MOST_THREADS):
        raise ImportError(f"FASTACT_NUM_THREADS={text!r}: expected a number from 1 to {MOST_THREADS}")


_select_isa()
_check_threads()
fa_memory_init()
fa_parallel_init()


# ---- recycled memory: see fastact.memory --------------------------------------------------------


def _bytes(name, value):
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: expected an integer number of bytes, got {type(value).__name__}")
    value = value.__index__()
    if not 0 <= value < 1 << 62:
        raise ValueError(f"{name}: {value} is out of range; accepted: 0 to 2**62 - 1 bytes")
    return value


def _init_pool():
    import atexit

    text = os.environ.get("FASTACT_MEMORY_LIMIT", "")
    fa_pool_init()
    if text:
        try:
            limit = _bytes("FASTACT_MEMORY_LIMIT", int(text))
        except ValueError:
            raise ImportError(f"FASTACT_MEMORY_LIMIT={text!r}: expected a number of bytes; "
                              "0 turns recycling off") from None
        fa_pool_configure(limit, True)
    atexit.register(pool_configure, 0, False)


cdef object recycling = handler_capsule()
cdef object numpys_own = default_handler()


def pool_stats():
    """The fields of `fastact.memory.Stats`, in their order."""
    cdef fa_pool_stats s = fa_pool_get_stats()
    return (s.in_use, s.kept, s.limit, s.blocks_in_use, s.blocks_kept, s.hits, s.misses, s.evictions,
            bool(s.enabled), FA_POOL_THRESHOLD)


def pool_configure(limit, bint enabled):
    cdef size_t size = fa_pool_default_limit() if limit is None else _bytes("size", limit)
    with nogil:
        fa_pool_configure(size, enabled)


def pool_trim():
    cdef size_t released
    with nogil:
        released = fa_pool_trim()
    return released


def swap_handler(handler=recycling):
    """Sets the allocator of NumPy's new arrays in this context; the one before."""
    return PyDataMem_SetHandler(handler)


_init_pool()


cdef cnp.ndarray numpy_like(cnp.ndarray x, int kind):
    if PyArray_IS_C_CONTIGUOUS(x):
        return cnp.PyArray_EMPTY(cnp.PyArray_NDIM(x), cnp.PyArray_DIMS(x), kind, 0)
    return PyArray_NewLikeArray(x, cnp.NPY_KEEPORDER, PyArray_DescrFromType(kind), 0)


cpdef cnp.ndarray new_like(cnp.ndarray x, int kind):
    """A new array of x's shape and memory order; the handler is set for nothing else."""
    cdef size_t itemsize = 2  # half precision, bfloat16 among NumPy's user dtypes
    if kind == cnp.NPY_FLOAT:
        itemsize = sizeof(float)
    elif kind == cnp.NPY_DOUBLE:
        itemsize = sizeof(double)
    if not fa_pool_serves(<size_t>cnp.PyArray_SIZE(x) * itemsize):
        return numpy_like(x, kind)
    if PyDataMem_GetHandler() is not numpys_own:  # the caller's own, or ours on loan
        return numpy_like(x, kind)
    return recycled_like(x, kind)


cdef cnp.ndarray recycled_like(cnp.ndarray x, int kind):
    """To set the handler takes new objects, so the collector might run, and with it finalisers: foreign
    code, which has to find NumPy's own handler. It waits."""
    cdef bint collects = PyGC_Disable()
    try:
        PyDataMem_SetHandler(recycling)
        try:
            return numpy_like(x, kind)
        finally:
            PyDataMem_SetHandler(numpys_own)
    finally:
        if collects:
            PyGC_Enable()


# ---- threads ------------------------------------------------------------------------------------


cdef int _thread_count(object n) except -1:
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"n: the number of threads must be an integer, got {type(n).__name__}")
    n = n.__index__()
    if not 1 <= n <= MOST_THREADS:
        raise ValueError(f"n: the number of threads must be between 1 and {MOST_THREADS}, got {n}")
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


cpdef uint64_t enter_environment() noexcept:
    """Sets the default floating-point environment for this thread; the old one, for leave_environment."""
    return fa_enter_environment()


cpdef void leave_environment(uint64_t old) noexcept:
    fa_leave_environment(old)


def _cgroup_limits(root=""):
    """(CPUs, bytes) that Linux's control groups allow, 0 for no limit; root stands before every path."""
    path = os.fsencode(root)
    return fa_cgroup_cpus(path), fa_cgroup_memory(path)


def config():
    """What runs: instruction set, what runs the threads and how many, caches, limit of the recycled
    memory and build flags, as a dict.

    "threading" is "OpenMP", the pool of the system (macOS, Windows), or None: one thread.

    Examples
    --------
    >>> import fastact as fa
    >>> fa.config()["isa"] in fa.config()["isas"]
    True
    """
    openmp = fa_has_openmp()
    threading = fa_threading()
    return {
        "isa": (<bytes>fa_active().name).decode(),
        "isas": [isa for isa, supported in _isas().items() if supported],
        "isas_built": list(_isas()),
        "openmp": openmp or None,
        "threading": None if threading == NULL else (<bytes>threading).decode(),
        "threads": fa_get_num_threads(),
        "cpus": fa_usable_cpus(),
        "l2_bytes": fa_l2_bytes(),
        "llc_bytes": fa_llc_bytes(),
        "memory_limit": fa_pool_get_stats().limit,
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
    if settings["threading"] is None:
        settings["threading"] = "none: this build runs on one thread"
    for key, value in settings.items():
        text = ", ".join(value) if isinstance(value, list) else value
        print(f"{key:12} {text}", file=file or sys.stdout)
