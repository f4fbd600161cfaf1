"""The recycled memory under attack: no memory left, a day of odd sizes, threads, forks, exits."""

import sys
import textwrap

import pytest
from conftest import PLAIN, once, python

pytestmark = [
    once,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, sets limits of Linux"),
]

SETUP = f"""
import gc, os, random, resource, sys, threading
import numpy as np, fastact as fa
f = fa.activations[{PLAIN[-1]!r}]
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
def virtual():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
"""


def run(code, timeout=200, **environment):
    status, out, err = python(SETUP + textwrap.dedent(code), timeout=timeout, **environment)
    assert status == 0, err
    assert err == ""
    return out


def test_out_of_memory_changes_nothing_and_passes():
    """MemoryError; statistics as before; afterwards all is well."""
    out = run(
        """
        x = np.linspace(-3, 3, 8_000_000, dtype=np.float32).reshape(8000, 1000)
        small = x[:50]
        want = f(small), fa.batch_norm(small, training=True)
        mean, var = np.zeros(1000, np.float32), np.ones(1000, np.float32)
        layer = fa.BatchNorm(1000, activation=f)
        _, ctx = fa.batch_norm_forward(x[:, :])
        gc.collect(); fa.memory.trim()
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        calls = [
            lambda: f(x),
            lambda: f.backward(x, x),
            lambda: fa.batch_norm(x, running_mean=mean, running_var=var, training=True),
            lambda: fa.batch_norm_backward(x, ctx),
            lambda: layer(x),
        ]
        failed = 0
        for round in range(3):
            resource.setrlimit(resource.RLIMIT_AS, (virtual() + (4 << 20), hard))
            for call in calls:
                try:
                    call()
                except MemoryError:
                    failed += 1
            assert np.array_equal(f(small), want[0])  # what fits still works
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
            assert (mean == 0).all() and (var == 1).all()
            assert (layer.running_mean == 0).all() and layer.num_batches_tracked == 0
            assert np.array_equal(fa.batch_norm(small, training=True), want[1])
        assert np.isfinite(f(x)).all()
        assert layer(x).shape == x.shape
        s = fa.memory.stats()
        print(failed, s.kept <= s.limit)
        """,
        OMP_NUM_THREADS="2",
    )
    assert out == "15 True"


def test_a_days_worth_of_odd_sizes_in_a_minute():
    """Resident memory stays below what lives, the limit and what the process had."""
    out = run(
        """
        MB = 1 << 20
        fa.memory.limit(64 * MB)
        rng = random.Random(0)
        x = np.ones(6 * MB, np.float32)
        alive, before, most, calls = [], resident(), 0, 0
        while calls < 8_000:
            n = int(2 ** rng.uniform(10, 22.3))
            alive.append(f(x[:n]))
            if len(alive) > 12 or sum(a.nbytes for a in alive) > 64 * MB:
                del alive[rng.randrange(len(alive))]
                while sum(a.nbytes for a in alive) > 64 * MB:
                    del alive[rng.randrange(len(alive))]
            calls += 1
            if calls % 50 == 0:
                most = max(most, resident() - before)
        s = fa.memory.stats()
        assert s.kept <= s.limit == 64 * MB
        assert most < (64 + 64 + 24 + 20) * MB, most / MB  # alive, kept, the newest, the heap
        alive.clear()
        fa.memory.trim()
        left = resident() - before
        assert left < 24 * MB, left / MB
        print(calls)
        """
    )
    assert out == "8000"


def test_arrays_die_in_other_threads_and_children():
    out = run(
        """
        import queue, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        x = np.linspace(-3, 3, 200_000, dtype=np.float32)
        want = f(x)
        handed, wrong = queue.Queue(40), []
        def make():
            for _ in range(150):
                handed.put(f(x))
            handed.put(None)
        def drop():
            while (a := handed.get()) is not None:
                if not np.array_equal(a, want):
                    wrong.append(1)
                del a
        threads = [threading.Thread(target=t) for t in (make, drop, make, drop, make, drop)]
        for t in threads: t.start()
        for _ in range(20):  # the pool may be locked by a thread that the child lacks
            kept = [f(x) for _ in range(3)]
            pid = os.fork()
            if pid == 0:
                del kept
                y = f(x)
                fa.memory.trim()
                os._exit(0 if np.array_equal(y, want) and np.array_equal(f(x), want) else 1)
            if os.waitpid(pid, 0)[1]:
                wrong.append("child")
        for t in threads: t.join()
        del kept
        gc.collect()
        s = fa.memory.stats()
        print(wrong, s.kept <= s.limit, s.blocks_in_use)
        """
    )
    assert out == "[] True 1"


EXITS = [  # what still holds arrays when the interpreter ends
    "sys.kept = f(x)",
    "import builtins; builtins.kept = [f(x) for _ in range(4)]",
    "cycle = [f(x)]; cycle.append(cycle)",
    "import atexit; atexit.register(lambda: f(x))",
    "import weakref; y = f(x); weakref.finalize(y, lambda: f(x))",
    "class D:\n    def __del__(self, f=f, x=x): f(x)\nd = D(); sys.d = d",
    "threading.local().y = f(x)",
    "threading.Thread(target=lambda: [f(x) for _ in range(50)]).start()",
    "threading.Thread(target=lambda: [f(x) for _ in range(5000)], daemon=True).start()",
]


@pytest.mark.parametrize("code", EXITS)
def test_arrays_at_the_end_of_the_interpreter(code):
    assert run("x = np.ones(300_000, np.float32)\n" + code + "\nprint('end')") == "end"
