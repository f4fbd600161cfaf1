"""Processes and threads: forks at any moment, pools of processes, signals, exits, limits."""

import os
import sys
import textwrap

import numpy as np
import pytest
from conftest import PLAIN, once, python

import fastact as fa
from fastact import _runtime

pytestmark = once
posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
linux = pytest.mark.skipif(sys.platform != "linux", reason="of Linux")
threaded = pytest.mark.skipif(not fa.config()["threading"], reason="this build has one thread")

SETUP = f"""
import os, signal, sys, threading, time, warnings
import numpy as np, fastact as fa
warnings.simplefilter("ignore", DeprecationWarning)
fa.set_num_threads(4)
x = np.linspace(-5, 5, 120_000, dtype=np.float32).reshape(300, 400)
f = fa.activations[{PLAIN[-1]!r}]
def work():
    y, ctx = fa.batch_norm_forward(x, activation=f)
    return f(x).tobytes() + y.tobytes() + fa.batch_norm_backward(x, ctx).x.tobytes()
for _ in range(12):  # until the costs are known and the threads run
    want = work()
"""


def run(code, timeout=120, **environment):
    """What the code prints; it must end well and say nothing on stderr."""
    status, out, err = python(SETUP + textwrap.dedent(code), timeout=timeout, **environment)
    assert status == 0, err
    assert err == ""
    return out


# ---- forks -------------------------------------------------------------------------------------

FORKS = int(os.environ.get("FASTACT_FORKS", "150"))


@posix
def test_forks_at_any_moment_from_any_thread():
    """Some threads compute, others fork; each child computes, in threads of its own too."""
    out = run(
        f"""
        left, lock, wrong = [{FORKS}], threading.Lock(), []
        def in_child():
            ok = work() == want
            other = threading.Thread(target=lambda: work() == want or os._exit(3))
            other.start(); other.join()
            os._exit(0 if ok else 1)
        def fork():
            while True:
                with lock:
                    if not left[0]:
                        return
                    left[0] -= 1
                pid = os.fork()
                if pid == 0:
                    in_child()
                status = os.waitpid(pid, 0)[1]
                if status or work() != want:
                    wrong.append(status)
        def compute():
            while left[0]:
                if work() != want:
                    wrong.append("parent")
        threads = [threading.Thread(target=t) for t in (fork, fork, compute, compute)]
        for t in threads: t.start()
        fork()
        for t in threads: t.join()
        print(wrong, left)
        """,
        timeout=60 + FORKS,
    )
    assert out == "[] [0]"


@posix
def test_a_thread_may_end_in_a_child():
    """libgomp would wait there for threads that do not exist."""
    out = run(
        """
        def fork():
            work()
            pid = os.fork()
            if pid == 0:
                return child.append(work() == want)
            done.append(os.waitpid(pid, 0)[1])
        child, done = [], []
        t = threading.Thread(target=fork)
        t.start(); t.join()
        if child:
            os._exit(0 if child[0] else 1)
        print(done)
        """
    )
    assert out == "[0]"


POOLS = """
import multiprocessing
import numpy as np, fastact as fa
x = np.linspace(-5, 5, 120_000, dtype=np.float32).reshape(300, 400)
def job(k):
    y, ctx = fa.batch_norm_forward(x)
    return fa.activations[NAME](x).sum() + y[k].sum() + fa.batch_norm_backward(x, ctx).x[k].sum()
if __name__ == "__main__":
    fa.set_num_threads(4)
    want = [job(k) for k in range(24)]
    with multiprocessing.get_context(METHOD).Pool(3) as pool:
        assert pool.map(job, range(24)) == want
        assert [job(k) for k in range(24)] == want
        assert pool.map(job, range(24)) == want
    print("done")
"""


@posix
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(method, tmp_path):
    script = tmp_path / "pools.py"
    script.write_text(POOLS.replace("NAME", repr(PLAIN[-1])).replace("METHOD", repr(method)))
    code = f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')"
    if method != "fork":  # which import the script, so it has to be the program
        code = (
            f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, {str(script)!r}]))"
        )
    status, out, err = python(code, timeout=120)
    assert (status, out) == (0, "done"), err


def test_joblibs_workers_share_the_processors(tmp_path):
    """loky sets OMP_NUM_THREADS in its workers, which fastact keeps to."""
    pytest.importorskip("joblib")
    out = run(
        """
        import joblib
        def job(k):
            import numpy as np, fastact as fa
            a = np.linspace(-5, 5, 120_000, dtype=np.float32).reshape(300, 400)
            return fa.get_num_threads(), fa.batch_norm(a, training=True).tobytes()
        mine = fa.batch_norm(x, training=True).tobytes()
        workers = 2
        with joblib.parallel_config("loky", n_jobs=workers):
            got = joblib.Parallel()(joblib.delayed(job)(k) for k in range(12))
        assert all(result == mine for _, result in got)
        most = max(1, joblib.cpu_count() // workers)
        assert all(1 <= threads <= most for threads, _ in got), ([t for t, _ in got], most)
        with joblib.parallel_config("loky", n_jobs=workers, inner_max_num_threads=1):
            one = joblib.Parallel()(joblib.delayed(job)(k) for k in range(4))
            assert {threads for threads, _ in one} == {1}
        print("done")
        """,
        OMP_NUM_THREADS=None,
        FASTACT_NUM_THREADS=None,
        JOBLIB_TEMP_FOLDER=str(tmp_path),
    )
    assert out == "done"


# ---- signals and exits -------------------------------------------------------------------------


@posix
def test_keyboard_interrupt():
    """It comes between two calls, which leave everything in order."""
    out = run(
        """
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
        caught = 0
        for k in range(25):
            timer = threading.Timer(0.002 * (k % 7), os.kill, (os.getpid(), signal.SIGINT))
            try:
                timer.start()
                while True:
                    work()
            except KeyboardInterrupt:
                caught += 1
            timer.join()
            assert work() == want
        s = fa.memory.stats()
        print(caught, s.kept <= s.limit)
        """
    )
    assert out == "25 True"


EXITS = [  # how a process ends while other threads compute
    "pass",
    "sys.exit(0)",
    "os._exit(0)",
    "raise SystemExit",
    "os.kill(os.getpid(), signal.SIGTERM)",
]


@posix
@pytest.mark.parametrize("end", EXITS)
def test_exit_while_calls_run(end):
    code = SETUP + textwrap.dedent(
        f"""
        def forever():
            while True:
                work()
        for _ in range(4):
            threading.Thread(target=forever, daemon=True).start()
        time.sleep(0.05)
        {end}
        """
    )
    for _ in range(3):
        status, _, err = python(code, timeout=30)
        assert status == (-15 if "SIGTERM" in end else 0), err
        assert err == ""


# ---- limits of others --------------------------------------------------------------------------


@threaded
def test_threadpoolctl_sees_and_limits_us():
    pytest.importorskip("threadpoolctl")
    out = run(
        """
        import threadpoolctl
        openmp = [p for p in threadpoolctl.threadpool_info() if p["user_api"] == "openmp"]
        assert openmp, threadpoolctl.threadpool_info()
        most = openmp[0]["num_threads"]
        with threadpoolctl.threadpool_limits(1):
            assert fa.get_num_threads() == 1
            assert work() == want
        assert fa.get_num_threads() == 4
        with threadpoolctl.threadpool_limits(1, user_api="openmp"), fa.num_threads(3):
            assert fa.get_num_threads() == 1
        print(most == max(1, most))
        """
    )
    assert out == "True"


@linux
def test_affinity_is_kept_to():
    code = "import os, fastact as fa; print(fa.get_num_threads(), len(os.sched_getaffinity(0)))"
    prefix = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    assert python(prefix + code, OMP_NUM_THREADS=None)[1] == "1 1"
    threads, allowed = python(code, OMP_NUM_THREADS=None, FASTACT_NUM_THREADS=None)[1].split()
    assert 1 <= int(threads) <= int(allowed)


G, M = 2**30, 2**20
CGROUPS = [  # files (CG: /sys/fs/cgroup), CPUs, bytes; 0: no limit
    ({}, 0, 0),
    ({"CG/cpu.max": "max 100000"}, 0, 0),
    ({"CG/cpu.max": "200000 100000"}, 2, 0),
    ({"CG/cpu.max": "150000 100000"}, 2, 0),
    ({"CG/cpu.max": "1000 100000"}, 1, 0),
    ({"CG/cpu.max": "100001 100000"}, 2, 0),
    ({"CG/cpu.max": "-1 100000"}, 0, 0),
    ({"CG/cpu.max": "100000 0"}, 0, 0),
    ({"CG/cpu.max": ""}, 0, 0),
    ({"CG/cpu.max": "nonsense"}, 0, 0),
    ({"CG/cpu.max": "9" * 30 + " 1"}, 0, 0),
    ({"CG/memory.max": "max"}, 0, 0),
    ({"CG/memory.max": str(G)}, 0, G),
    ({"CG/memory.max": "-5"}, 0, 0),
    ({"CG/cpu/cpu.cfs_quota_us": "-1", "CG/cpu/cpu.cfs_period_us": "100000"}, 0, 0),
    ({"CG/cpu/cpu.cfs_quota_us": "300000", "CG/cpu/cpu.cfs_period_us": "100000"}, 3, 0),
    ({"CG/cpu/cpu.cfs_quota_us": "300000"}, 0, 0),
    ({"CG/memory/memory.limit_in_bytes": str(5 * M)}, 0, 5 * M),
    ({"proc/self/cgroup": "0::/a/b\n", "CG/a/b/cpu.max": "400000 100000"}, 4, 0),
    ({"proc/self/cgroup": "0::/a/b\n", "CG/a/cpu.max": "300000 100000",
      "CG/a/b/cpu.max": "400000 100000"}, 3, 0),
    ({"proc/self/cgroup": "0::/a/b\n", "CG/cpu.max": "100000 100000",
      "CG/a/b/cpu.max": "max 100000"}, 1, 0),
    ({"proc/self/cgroup": "0::/not/mounted\n", "CG/cpu.max": "200000 100000"}, 2, 0),
    ({"proc/self/cgroup": "0::/a\n", "CG/a/memory.max": str(M),
      "CG/memory.max": str(G)}, 0, M),
    ({"proc/self/cgroup": "7:cpu,cpuacct:/c\n", "CG/cpu/c/cpu.cfs_quota_us": "100000",
      "CG/cpu/c/cpu.cfs_period_us": "50000"}, 2, 0),
    ({"proc/self/cgroup": "7:cpuset:/c\n", "CG/cpu/c/cpu.cfs_quota_us": "100000",
      "CG/cpu/c/cpu.cfs_period_us": "50000"}, 0, 0),
    ({"proc/self/cgroup": "3:memory:/m/n\n", "CG/memory/m/memory.limit_in_bytes": str(M)}, 0, M),
    ({"proc/self/cgroup": "no group\n\n::\n0:\n" + "x" * 3000 + "\n"}, 0, 0),
    ({"proc/self/cgroup": "0::/" + "d/" * 240 + "\n", "CG/cpu.max": "200000 100000"}, 2, 0),
]  # fmt: skip


@linux
@pytest.mark.parametrize(("files", "cpus", "memory"), CGROUPS)
def test_quotas_of_control_groups(files, cpus, memory, tmp_path):
    for name, text in files.items():
        path = tmp_path / name.replace("CG", "sys/fs/cgroup", 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert _runtime._cgroup_limits(str(tmp_path)) == (cpus, memory)


# ---- many callers ------------------------------------------------------------------------------


def test_32_threads_at_once_get_the_same_bits():
    out = run(
        """
        start, wrong = threading.Barrier(32), []
        def call(k):
            with fa.num_threads(1 + k % 5):
                start.wait()
                for _ in range(10):
                    if work() != want:
                        wrong.append(k)
        threads = [threading.Thread(target=call, args=(k,)) for k in range(32)]
        for t in threads: t.start()
        for t in threads: t.join()
        print(wrong)
        """,
        timeout=240,
    )
    assert out == "[]"


def test_the_number_of_threads_changes_no_bit():
    x = np.random.default_rng(0).standard_normal((40, 7, 333)).astype(np.float32)
    results = set()
    for count in (1, 2, 3, 7, 64, 500):
        with fa.num_threads(count):
            y, ctx = fa.batch_norm_forward(x, activation=PLAIN[-1])
            results.add(y.tobytes() + fa.batch_norm_backward(x, ctx).x.tobytes())
    assert len(results) == 1
