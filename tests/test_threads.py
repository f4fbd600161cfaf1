"""Threads: how many, after a fork, and many callers at once."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import NAMES, assert_same_bits, defaults, python

import fastact as fa


@pytest.mark.thread_unsafe(reason="set_num_threads is for the process")
def test_set_get_and_context():
    before = fa.get_num_threads()
    try:
        fa.set_num_threads(3)
        assert fa.get_num_threads() == fa.config()["threads"] == 3
        with fa.num_threads(2):
            with fa.num_threads(5) as inner:
                assert fa.get_num_threads() == 5
                with inner:
                    assert fa.get_num_threads() == 5
            assert fa.get_num_threads() == 2
            seen = []
            other = threading.Thread(target=lambda: seen.append(fa.get_num_threads()))
            other.start()
            other.join()
            assert seen == [3]  # the context is this thread's alone
        with pytest.raises(KeyError), fa.num_threads(4):
            raise KeyError
        assert fa.get_num_threads() == 3
    finally:
        fa.set_num_threads(before)


@pytest.mark.parametrize("n", [0, -1, 4097, 2**70, 1.5, "2", None, True])
def test_bad_thread_counts(n):
    before, error = fa.get_num_threads(), ValueError if type(n) is int else TypeError
    for function in (fa.set_num_threads, fa.num_threads):
        with pytest.raises(error, match="n: "):
            function(n)
    assert fa.get_num_threads() == before


@pytest.mark.skipif(not fa.config()["threading"], reason="this build runs on one thread")
@pytest.mark.parametrize(
    ("fastact", "omp", "want"), [("3", None, 3), ("3", "2", 3), (None, "2", 2), (None, "5,2", 5)]
)
def test_environment(fastact, omp, want):
    code = "import fastact as fa; print(fa.get_num_threads())"
    result = python(code, FASTACT_NUM_THREADS=fastact, OMP_NUM_THREADS=omp)
    assert result == (0, str(want), "")


FORK = """
import multiprocessing, os, sys, warnings
import numpy as np, fastact as fa
warnings.simplefilter("ignore", DeprecationWarning)
fa.set_num_threads(2)
x = np.linspace(-5, 5, 400_000, dtype=np.float32).reshape(1000, 400)
f = next(f for f in fa.activations.values() if not f.parameters and f.max_ulp > 0.5)
def work():
    y, ctx = fa.batch_norm_forward(x, activation=f)
    return f(x).tobytes() + y.tobytes() + fa.batch_norm_backward(x, ctx).x.tobytes()
want = work()
def child():
    sys.exit(0 if work() == want else 1)
if {raw}:
    pid = os.fork()
    if pid == 0:
        os._exit(0 if work() == want else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
else:
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    status = process.exitcode
assert work() == want
print(status)
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs os.fork")
@pytest.mark.parametrize("raw", [True, False], ids=["os.fork", "multiprocessing"])
def test_a_child_works_after_a_fork(raw):
    status, out, err = python(FORK.format(raw=raw), timeout=30)
    assert (status, out) == (0, "0"), err


def test_many_callers_get_the_same_bits():
    x = np.random.default_rng(0).standard_normal((300, 400)).astype(np.float32)
    name = NAMES[-1]

    def work(_):
        y, ctx = fa.batch_norm_forward(x, activation=name)
        return fa.activations[name](x, *defaults(name)), y, fa.batch_norm_backward(x, ctx).x

    with fa.num_threads(1):
        want = work(0)
    with ThreadPoolExecutor(32) as pool:
        for got in pool.map(work, range(96)):
            for a, b in zip(got, want, strict=True):
                assert_same_bits(a, b)


OTHER_RUNTIME = """
import threading
import numpy as np, torch, fastact as fa
fa.set_num_threads(2)
torch.set_num_threads(2)
f = next(f for f in fa.activations.values() if not f.parameters and f.max_ulp > 0.5)
x = np.linspace(-5, 5, 200_000, dtype=np.float32)
t = torch.from_numpy(x.copy())
want, other = f(x), torch.exp(t)
def work():
    for _ in range(200):
        assert np.array_equal(f(x), want)
        assert torch.equal(torch.exp(t), other)
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
work()
print("done")
"""


def test_torchs_openmp_runs_beside_ours():
    pytest.importorskip("torch")
    status, out, err = python(OTHER_RUNTIME, timeout=240)
    assert (status, out) == (0, "done"), err
