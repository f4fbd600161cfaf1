"""Recycled memory: ordinary arrays, real reuse, a firm bound, others' allocators left alone."""

import contextlib
import contextvars
import ctypes
import gc
import os
import pickle
import queue
import random
import sys
import threading
import tracemalloc

import numpy as np
import pytest
from conftest import FLOATS, PLAIN, once, python

import fastact as fa
from fastact import _runtime

pytestmark = once

MIB = 1 << 20
THRESHOLD = fa.memory.stats().min_bytes
f = fa.activations[PLAIN[-1]]


@pytest.fixture(autouse=True)
def fresh():
    """An empty pool with room, whatever the environment says; afterwards as it was."""
    before = fa.memory.stats()
    fa.memory.enable()
    fa.memory.limit(256 * MIB)
    fa.memory.trim()
    yield before
    fa.memory.limit(before.limit)
    (fa.memory.enable if before.enabled else fa.memory.disable)()


def values(nbytes, dtype=np.float32):
    return np.linspace(-3, 3, nbytes // dtype().itemsize, dtype=dtype)


def allocator(array=None):
    name = np._core.multiarray.get_handler_name
    return name() if array is None else name(array)


def in_use(before):
    """(bytes, blocks) more than before: arrays of other tests may be alive."""
    now = fa.memory.stats()
    return now.in_use - before.in_use, now.blocks_in_use - before.blocks_in_use


def address(array):
    return array.ctypes.data


# ---- ordinary arrays ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
def test_where_results_come_from(dtype):
    large, small = values(THRESHOLD, dtype), values(THRESHOLD - 16, dtype)
    for x, want in ((large, "fastact_recycled"), (small, "default_allocator")):
        assert allocator(f(x)) == want
        assert allocator(f.backward(x, x)) == want
        table = x.reshape(-1, 2)
        y, ctx = fa.batch_norm_forward(table)
        assert allocator(y) == allocator(fa.batch_norm_backward(table, ctx).x) == want
    assert allocator() == "default_allocator"


def test_results_are_ordinary():
    x = values(4 * MIB)
    y = f(x)
    assert type(y) is np.ndarray
    assert y.flags.owndata
    assert y.flags.c_contiguous
    assert y.flags.writeable
    assert y.base is None
    assert address(y) % 64 == 0
    assert sys.getsizeof(y) >= y.nbytes
    for other in (y.copy(), pickle.loads(pickle.dumps(y)), np.array(y)):
        assert allocator(other) != "fastact_recycled"
        np.testing.assert_array_equal(other, y)


def test_the_memory_order_is_the_inputs():
    x = np.asfortranarray(values(4 * MIB).reshape(256, -1))
    for y in (f(x), f(x.T), f(x[::2]), fa.batch_norm(x, training=True)):
        assert allocator(y) == "fastact_recycled"
    assert f(x).flags.f_contiguous
    assert fa.batch_norm(x, training=True).flags.f_contiguous
    np.testing.assert_array_equal(f(x[::2]), f(x)[::2])


@pytest.mark.parametrize("size", [1, 100, THRESHOLD // 4 - 1, THRESHOLD // 4, MIB, 3 * MIB])
def test_resize(size):
    y = f(values(4 * MIB))
    want = np.zeros(size, np.float32)
    want[: y.size] = y[:size]
    y.resize(size, refcheck=False)
    np.testing.assert_array_equal(y, want)
    y.resize(5 * MIB // 4, refcheck=False)  # and back to a large one
    np.testing.assert_array_equal(y[:size], want[: y.size])
    assert not y[size:].any()
    assert allocator(y) == "fastact_recycled"


def test_resize_to_nothing_and_back(fresh):
    y = f(values(MIB))
    y.resize((0, 3), refcheck=False)
    y.resize(MIB, refcheck=False)
    assert not y.any()
    del y
    assert in_use(fresh) == (0, 0)


def test_other_results_are_left_alone():
    class Sub(np.ndarray):
        pass

    x = values(MIB)
    before = fa.memory.stats()
    y = np.empty_like(x)
    assert f(x, out=y) is y
    results = [f(x.view(Sub)), f(x, where=x > 0, out=None), f.ufunc(x), f(memoryview(x)), y]
    assert "fastact_recycled" not in {allocator(a) for a in results}
    assert fa.memory.stats() == before


def test_deleted_in_another_thread(fresh):
    results = [f(values(MIB))]
    thread = threading.Thread(target=results.clear)
    thread.start()
    thread.join()
    assert in_use(fresh) == (0, 0)
    assert fa.memory.stats().blocks_kept == 1


OUTLIVE = """
import gc, sys
import numpy as np, fastact as fa
f = next(f for f in fa.activations.values() if not f.parameters)
keep = f(np.ones(1_000_000, np.float32))
{before}
"""


@pytest.mark.parametrize(
    "before",
    [
        # the module goes, the array stays, is resized and freed
        "del fa, f\nfor name in [n for n in sys.modules if n.startswith('fastact')]:\n"
        "    del sys.modules[name]\ngc.collect()\nkeep.resize(3_000_000)\n"
        "assert keep[:1_000_000].all()\ndel keep",
        # alive until the interpreter has been torn down
        "import builtins\nbuiltins.keep = keep\nsys.modules['keep'] = keep\nnp.keep = keep",
        # freed by a finaliser that runs while it is
        "class Late:\n    def __init__(self, a): self.a = a\n"
        "    def __del__(self): self.a.resize(10, refcheck=False)\nnp.late = Late(keep)",
        # at work in a thread that is cut off
        "import threading\ndef run():\n    while True: f(keep)\n"
        "threading.Thread(target=run, daemon=True).start()",
        # an allocator still on loan
        "context = fa.memory.lend()\ncontext.__enter__()\nlast = np.zeros(1_000_000)",
    ],
)
def test_arrays_outlive_everything(before):
    result = python(OUTLIVE.format(before=before), PYTHONFAULTHANDLER="1", PYTHONMALLOC="debug")
    assert result == (0, "", "")


# ---- reuse and its bound -----------------------------------------------------------------------


@pytest.mark.parametrize("nbytes", [THRESHOLD, MIB, 3 * MIB + 4, 24 * MIB])
def test_memory_is_reused(nbytes):
    x = values(nbytes)
    where = address(f(x))
    before = fa.memory.stats()
    assert before.kept >= nbytes
    for _ in range(3):
        y = f(x)
        assert address(y) == where
        del y
    after = fa.memory.stats()
    assert (after.hits - before.hits, after.misses) == (3, before.misses)
    assert after.kept == before.kept
    np.testing.assert_array_equal(f(x), f(x, out=np.empty_like(x)))


def test_a_loop_settles_on_two_blocks(fresh):
    x = values(MIB)
    for _ in range(10):
        y = f(x)
    assert in_use(fresh)[1] == fa.memory.stats().blocks_kept == 1
    del y


def test_waste_is_at_most_a_sixteenth(fresh):
    for nbytes in [*range(THRESHOLD, 2 * MIB, 50_000), 5 * MIB, 17 * MIB, 33 * MIB]:
        y = f(values(nbytes))
        assert y.nbytes < in_use(fresh)[0] <= y.nbytes * 17 / 16 + 4096 + 64
        del y


def test_what_waited_longest_goes_first(fresh):
    x = values(MIB)
    results = [f(x) for _ in range(8)]
    block = in_use(fresh)[0] // 8
    fa.memory.limit(3 * block)
    order = [address(y) for y in results]
    evicted = fa.memory.stats().evictions
    while results:
        del results[0]
    stats = fa.memory.stats()
    assert (stats.kept, stats.blocks_kept, *in_use(fresh)) == (3 * block, 3, 0, 0)
    assert stats.evictions - evicted == 5
    again = [f(x) for _ in range(3)]
    assert [address(y) for y in again] == order[:-4:-1]  # the last that was freed comes first


def test_what_exceeds_the_limit_is_not_recycled():
    fa.memory.limit(MIB)
    assert allocator(f(values(2 * MIB))) == "default_allocator"
    assert fa.memory.stats().kept == 0


def test_the_bound_holds_for_mixed_sizes(fresh):
    fa.memory.limit(8 * MIB)
    chance, held = random.Random(0), []
    for _ in range(300):
        held.append(f(values(chance.randrange(THRESHOLD, 3 * MIB, 4))))
        if len(held) > 5:
            del held[chance.randrange(len(held))]
        assert fa.memory.stats().kept <= 8 * MIB
        held_bytes, blocks = in_use(fresh)
        assert blocks == len(held)
        assert held_bytes >= sum(y.nbytes for y in held)
    assert fa.memory.stats().hits


def test_trim():
    f(values(MIB))
    kept = fa.memory.stats().kept
    assert kept >= MIB
    assert fa.memory.trim() == kept
    stats = fa.memory.stats()
    assert (stats.kept, stats.blocks_kept) == (0, 0)
    assert fa.memory.trim() == 0


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads /proc")
def test_trim_gives_memory_back_to_the_system():
    f(values(64 * MIB))
    before = resident()
    fa.memory.trim()
    assert before - resident() > 60 * MIB


def test_limit():
    assert fa.memory.limit(100) == 256 * MIB
    assert fa.memory.limit(None) == 100
    default = fa.memory.limit(0)
    assert 0 < default <= 2 << 30
    assert allocator(f(values(MIB))) == "default_allocator"
    assert fa.memory.stats().limit == fa.config()["memory_limit"] == 0


@pytest.mark.parametrize("size", [-1, 2**62, 2**80, 1.5, 1e9, "1", True, b"1", [1]])
def test_bad_limits(size):
    before = fa.memory.stats()
    with pytest.raises(ValueError if type(size) is int else TypeError, match="size: "):
        fa.memory.limit(size)
    assert fa.memory.stats() == before


def test_disable_and_enable(fresh):
    alive = f(values(MIB))
    f(values(MIB))
    fa.memory.disable()
    stats = fa.memory.stats()
    assert (stats.enabled, stats.kept, in_use(fresh)[1]) == (False, 0, 1)
    assert allocator(f(values(MIB))) == "default_allocator"
    assert allocator(alive) == "fastact_recycled"
    del alive
    assert (fa.memory.stats().kept, *in_use(fresh)) == (0, 0, 0)
    fa.memory.enable()
    assert allocator(f(values(MIB))) == "fastact_recycled"
    assert fa.memory.stats().limit == 256 * MIB


@pytest.mark.parametrize(("text", "limit"), [("0", 0), ("1000000", 1_000_000), (" 7 ", 7)])
def test_the_environment_sets_the_limit(text, limit):
    code = "import fastact as fa; print(fa.memory.stats().limit)"
    assert python(code, FASTACT_MEMORY_LIMIT=text) == (0, str(limit), "")


@pytest.mark.parametrize("text", ["-1", "1e9", "1GB", "x"])
def test_a_bad_environment_is_refused(text):
    status, _, err = python("import fastact", FASTACT_MEMORY_LIMIT=text)
    assert status == 1
    assert f"ImportError: FASTACT_MEMORY_LIMIT={text!r}" in err


def test_tracemalloc_counts_what_lives(fresh):
    x = values(8 * MIB)
    f(x)
    tracemalloc.start()
    try:
        base = tracemalloc.get_traced_memory()[0]
        y = f(x)
        used = tracemalloc.get_traced_memory()[0] - base
        assert y.nbytes <= used < y.nbytes + 20_000
        y.resize(y.size // 2, refcheck=False)
        assert y.nbytes <= tracemalloc.get_traced_memory()[0] - base < y.nbytes + 20_000
        del y
        assert abs(tracemalloc.get_traced_memory()[0] - base) < 20_000
    finally:
        tracemalloc.stop()
    assert in_use(fresh) == (0, 0)
    assert fa.memory.stats().kept >= 8 * MIB


# ---- other people's allocators -----------------------------------------------------------------


class Functions(ctypes.Structure):
    """NumPy's PyDataMemAllocator. ctypes calls the functions without the GIL."""

    size, pointer = ctypes.c_size_t, ctypes.c_void_p
    _fields_ = (
        ("context", pointer),
        ("malloc", ctypes.CFUNCTYPE(pointer, pointer, size)),
        ("calloc", ctypes.CFUNCTYPE(pointer, pointer, size, size)),
        ("realloc", ctypes.CFUNCTYPE(pointer, pointer, pointer, size)),
        ("free", ctypes.CFUNCTYPE(None, pointer, pointer, size)),
    )


class Handler(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char * 127), ("version", ctypes.c_uint8), ("call", Functions))


def handler_in(capsule):
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.argtypes, pointer.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p
    return Handler.from_address(pointer(capsule, b"mem_handler"))


@contextlib.contextmanager
def active(*capsule):
    """A handler set in this context (the pool's without an argument); gives the one before."""
    outer = _runtime.swap_handler(*capsule)
    try:
        yield outer
    finally:
        _runtime.swap_handler(outer)


def pool_functions():
    with active() as outer, active(outer) as pool:
        return handler_in(pool).call


@pytest.fixture
def own_handler():
    """NumPy's own functions under another name."""
    with active() as numpys:
        pass
    handler = Handler.from_buffer_copy(handler_in(numpys))
    handler.name = b"own"
    new = ctypes.pythonapi.PyCapsule_New
    new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    new.restype = ctypes.py_object
    capsule = new(ctypes.addressof(handler), b"mem_handler", None)
    yield capsule
    gc.collect()  # nothing made with it may outlive `handler`


def test_a_users_own_handler_stays_in_charge(own_handler):
    x = values(MIB)
    with active(own_handler):
        y = f(x)
        table = fa.batch_norm(x.reshape(-1, 4), training=True)
        assert allocator() == allocator(y) == allocator(table) == "own"
        with fa.memory.lend():
            assert allocator() == allocator(np.empty(10)) == "fastact_recycled"
        assert allocator() == "own"
    assert allocator() == "default_allocator"
    del y, table


def test_lend():
    fa.memory.trim()
    with fa.memory.lend():
        assert allocator() == "fastact_recycled"
        large, small, empty = np.full(MIB, 7.0), np.arange(10), np.empty((0, 3))
        assert {allocator(a) for a in (large, small, empty, f(large))} == {"fastact_recycled"}
        elsewhere = []
        thread = threading.Thread(target=lambda: elsewhere.append(allocator()))
        thread.start()
        thread.join()
        assert elsewhere == ["default_allocator"]
        where = address(large)
        del large
        zeros = np.zeros(MIB)
        assert address(zeros) == where
        assert not zeros.any()
        nothing = np.zeros(100_000, np.uint8)
        assert not nothing.any()
        small.resize(MIB, refcheck=False)
        small.resize(5, refcheck=False)
        assert small.tolist() == [0, 1, 2, 3, 4]
    assert allocator() == "default_allocator"
    with fa.memory.lend(), fa.memory.lend():
        pass
    with pytest.raises(KeyError), fa.memory.lend():
        raise KeyError
    assert allocator() == "default_allocator"
    assert (small * 2).tolist() == [0, 2, 4, 6, 8]


def test_lend_while_disabled():
    fa.memory.disable()
    with fa.memory.lend():
        a = np.full(MIB, 1.0)
        assert allocator(a) == "fastact_recycled"
        del a
        assert not np.zeros(MIB).any()
    assert fa.memory.stats().kept == 0


def test_lend_in_a_context_of_its_own():
    def inside():
        context = fa.memory.lend()
        context.__enter__()
        return allocator()

    assert contextvars.copy_context().run(inside) == "fastact_recycled"
    assert allocator() == "default_allocator"


def test_the_handler_is_restored_after_an_error():
    fa.memory.limit(2**62 - 1)
    absurd = np.broadcast_to(np.float32(1), (1 << 30, 1 << 24))
    for _ in range(3):
        with pytest.raises(MemoryError):
            f(absurd)
        with pytest.raises(MemoryError):
            fa.batch_norm(absurd, running_mean=np.zeros(1 << 24), running_var=np.ones(1 << 24))
        assert allocator() == "default_allocator"
        assert gc.isenabled()
    gc.disable()
    try:
        f(values(MIB))
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_no_finaliser_sees_the_handler():
    seen = set()

    class Cycle:
        def __init__(self):
            self.me = self

        def __del__(self):
            seen.add(allocator())

    x, before = values(THRESHOLD), gc.get_threshold()
    try:
        for generation in range(1, 40):  # the collector runs at every place it can
            gc.set_threshold(generation)
            for _ in range(10):
                Cycle()
                f(x)
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert seen == {"default_allocator"}


# ---- the four functions themselves, and without the GIL ----------------------------------------


def test_the_functions(fresh):
    call, data = pool_functions(), []
    for size in (0, 1, 100, THRESHOLD - 1, THRESHOLD, THRESHOLD + 1, 5 * MIB):
        for make in (lambda size: call.malloc(None, size), lambda size: call.calloc(None, 1, size)):
            data.append(make(size))
            assert data[-1] % 64 == 0
            ctypes.memset(data[-1], 0xAB, size)
    for pointer in data:
        call.free(None, pointer, 1)  # whatever size the caller believes in
    call.free(None, None, 5)
    assert in_use(fresh) == (0, 0)
    zeroed = call.calloc(None, 5, MIB)  # the block that was filled
    assert zeroed in data
    assert ctypes.string_at(zeroed, 5 * MIB) == bytes(5 * MIB)
    for absurd in (2**64 - 1, 2**64 - 64, 2**63, 2**62 + 1, 2**60):
        assert call.malloc(None, absurd) is None
        assert call.calloc(None, 1, absurd) is None
        assert call.realloc(None, zeroed, absurd) is None  # and leaves the block alone
    assert call.calloc(None, 2**33, 2**33) is None
    assert ctypes.string_at(zeroed, MIB) == bytes(MIB)
    call.free(None, zeroed, 5 * MIB)
    fresh = call.realloc(None, None, 10)
    call.free(None, fresh, 10)


def test_realloc_keeps_the_content(fresh):
    call, chance = pool_functions(), random.Random(1)
    size = 1000
    data = call.malloc(None, size)
    content = chance.randbytes(size)
    ctypes.memmove(data, content, size)
    for _ in range(60):
        new = chance.choice([1, 999, THRESHOLD - 1, THRESHOLD, 2 * THRESHOLD, 3 * MIB])
        data = call.realloc(None, data, new)
        shared = min(size, new)
        assert ctypes.string_at(data, shared) == content[:shared]
        content = content[:shared] + chance.randbytes(new - shared)
        ctypes.memmove(data, content, new)
        size = new
    call.free(None, data, size)
    assert in_use(fresh) == (0, 0)


def hammer(rounds, seed, inbox, outbox):
    """Allocates, marks, hands half of it to another thread, and checks what it frees."""
    call, chance = pool_functions(), random.Random(seed)
    for _ in range(rounds):
        size = chance.choice([100, THRESHOLD, THRESHOLD + 5000, 2 * THRESHOLD])
        data = call.malloc(None, size)
        mark = chance.randbytes(8)
        ctypes.memmove(data, mark, 8)
        ctypes.memmove(data + size - 8, mark, 8)
        outbox.put((data, size, mark))
        data, size, mark = inbox.get()
        assert ctypes.string_at(data, 8) == ctypes.string_at(data + size - 8, 8) == mark
        call.free(None, data, size)
        if chance.random() < 0.02:
            fa.memory.trim()


def test_eight_threads(fresh):
    fa.memory.limit(3 * MIB)
    boxes, errors = [queue.Queue() for _ in range(8)], []

    def run(k):
        try:
            hammer(300, k, boxes[k], boxes[(k + 1) % 8])
        except BaseException as error:
            errors.append(error)
            boxes[(k + 1) % 8].put((None, 0, b""))

    threads = [threading.Thread(target=run, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert in_use(fresh) == (0, 0)
    assert fa.memory.stats().kept <= 3 * MIB


def test_arrays_from_many_threads():
    x = values(THRESHOLD)
    want, wrong = f(x), []

    def run():
        for _ in range(50):
            y = f(x)
            if not np.array_equal(y, want):
                wrong.append(y)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---- fork --------------------------------------------------------------------------------------


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


FORK = """
import os, sys, threading, warnings
sys.path.insert(0, {tests!r})
warnings.simplefilter("ignore", DeprecationWarning)
import numpy as np, fastact as fa
from test_memory import MIB, f, pool_functions, resident, values

def in_child(check):
    pid = os.fork()
    if pid == 0:
        try:
            check()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
{body}
"""

CHILD_STARTS_EMPTY = """
x = values(64 * MIB)
alive = f(values(2 * MIB))
want = alive.copy()
f(x)
before, size = fa.memory.stats(), resident()
assert before.kept > 64 * MIB

def check():
    global alive
    stats = fa.memory.stats()
    assert (stats.kept, stats.blocks_kept, stats.hits) == (0, 0, 0), stats
    assert stats.in_use == before.in_use
    assert size - resident() > 60 * MIB, (size, resident())
    assert np.array_equal(alive, want)
    alive = None  # shares its pages with the parent's: not kept
    assert fa.memory.stats().kept == 0
    f(values(MIB))
    f(values(MIB))
    assert fa.memory.stats().hits == 1

in_child(check)
assert fa.memory.stats() == before
assert np.array_equal(alive, want)
f(x)
assert fa.memory.stats().hits == before.hits + 1
"""

FORK_WHILE_OTHERS_ALLOCATE = """
call, done = pool_functions(), False

def run():
    while not done:
        call.free(None, call.malloc(None, MIB), MIB)

def check():
    for _ in range(3):
        call.free(None, call.malloc(None, MIB), MIB)
    assert fa.memory.stats().hits == 2

threads = [threading.Thread(target=run) for _ in range(3)]
for thread in threads:
    thread.start()
try:
    for _ in range(50):
        in_child(check)
finally:
    done = True
    for thread in threads:
        thread.join()
"""


@pytest.mark.skipif(
    not hasattr(os, "fork") or not os.path.exists("/proc/self/statm"), reason="needs fork, /proc"
)
@pytest.mark.parametrize(
    "body", [CHILD_STARTS_EMPTY, FORK_WHILE_OTHERS_ALLOCATE], ids=["empty", "busy"]
)
def test_fork(body):
    code = FORK.format(tests=os.path.dirname(__file__), body=body)
    assert python(code, timeout=60, FASTACT_MEMORY_LIMIT=None) == (0, "", "")
