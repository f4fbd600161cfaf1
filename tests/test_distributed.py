"""BatchNorm over several processes: the cases of collective.py in threads that play ranks, and
under mpiexec where mpi4py is."""

import importlib.util
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import collective
import numpy as np
import pytest
from conftest import assert_same_bits

import fastact as fa

TIMEOUT = 20  # seconds after which a collective that some rank does not enter is a hang


class Ranks:
    """What ranks that are threads share."""

    def __init__(self, size):
        self.size, self.arrays = size, [None] * size
        self.barrier = threading.Barrier(size, timeout=TIMEOUT)
        self.bytes = 0

    def sum(self, rank, array):
        self.arrays[rank] = np.array(array)
        self.barrier.wait()
        assert len({a.shape for a in self.arrays}) == 1, "ranks disagree on a collective's size"
        total = sum(self.arrays)
        self.barrier.wait()
        self.bytes += total.nbytes
        return total


class Pickling:
    """Like mpi4py's lower case: allreduce of an array, rank and size attributes."""

    def __init__(self, ranks, rank):
        self.ranks, self.rank, self.size = ranks, rank, ranks.size

    def allreduce(self, array):
        return self.ranks.sum(self.rank, array)


class Buffers:
    """Like its upper case, without Allgather."""

    def __init__(self, ranks, rank):
        self.ranks, self.own = ranks, rank

    def Get_rank(self):
        return self.own

    def Get_size(self):
        return self.ranks.size

    def Allreduce(self, send, receive):
        receive[...] = self.ranks.sum(self.own, send)


class InPlace:
    """Like torch.distributed's all_reduce: the array itself becomes the sum."""

    def __init__(self, ranks, rank):
        self.ranks, self.rank, self.size = ranks, rank, ranks.size

    def allreduce(self, array):
        array[...] = self.ranks.sum(self.rank, array)


class Nameless:
    """Nothing but a sum: the ranks have to be found."""

    def __init__(self, ranks, rank):
        self.ranks, self._number = ranks, rank

    def allreduce(self, array):
        return self.ranks.sum(self._number, array)


def on_ranks(size, kind, function):
    """What `function(communicator, rank)` gives in each of `size` threads."""
    ranks = Ranks(size)

    def run(rank):
        try:
            return function(kind(ranks, rank), rank)
        except BaseException:
            ranks.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(run, rank) for rank in range(size)]
        errors = [future.exception() for future in futures]
    real = [e for e in errors if e and not isinstance(e, threading.BrokenBarrierError)]
    for error in real or [e for e in errors if e]:
        raise error
    return [future.result() for future in futures]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("case", collective.CASES, ids=lambda case: case.__name__)
def test_in_threads(case, size):
    on_ranks(size, Pickling, lambda comm, rank: case(comm, rank, size))


@pytest.mark.parametrize("kind", [Buffers, InPlace])
def test_with_other_communicators(kind):
    case = collective.equals_one_process
    on_ranks(3, kind, lambda comm, rank: case(comm, rank, 3))


def test_ranks_that_can_only_sum_are_found_once():
    x = collective.data(np.float32, 1)

    def run(comm, rank):
        group = fa._distributed.Group(comm)
        _, ctx = fa.batch_norm_forward(collective.shard(x, rank, 4, "equal"), comm=comm)
        assert fa._distributed.Group(comm).rank == group.rank
        return group.rank, ctx.mean

    found = on_ranks(4, Nameless, run)
    assert sorted(rank for rank, _ in found) == [0, 1, 2, 3]
    for _, mean in found:
        assert_same_bits(mean, found[0][1])


@pytest.mark.parametrize("off", [5.0, 1e-12])
def test_running_statistics_that_differ_are_found(off):
    """In the middle of many channels, and in the last digits."""
    x = np.ones((3, 2000))

    def run(comm, rank):
        mean = np.full(2000, 0.1)
        mean[1000] += rank * off
        return fa.batch_norm(x, running_mean=mean, running_var=np.ones(2000), comm=comm)

    with pytest.raises(ValueError, match="disagree on running statistics"):
        on_ranks(2, Pickling, run)


def test_running_statistics_may_be_lists_on_one_rank():
    def run(comm, rank):
        mean = [0.1, 0.2] if rank else np.array([0.1, 0.2])
        return fa.batch_norm(np.ones((3, 2)), running_mean=mean, running_var=[1, 1], comm=comm)

    on_ranks(2, Pickling, run)


def test_no_communicator():
    with pytest.raises(TypeError, match=r"comm: int .*allreduce"):
        fa.batch_norm_forward(np.ones((4, 3)), comm=5)


def test_memory_that_runs_out_on_one_rank_is_an_error_on_all(monkeypatch):
    from fastact import _call

    statistics, x = _call.stats_of, np.ones((4, 3), np.float32)
    who = threading.local()

    def fails(*arguments):
        if who.rank == 1:
            raise MemoryError("no memory here")
        return statistics(*arguments)

    monkeypatch.setattr(_call, "stats_of", fails)

    def run(comm, rank):
        who.rank = rank
        with pytest.raises(MemoryError, match="no memory here" if rank == 1 else "rank 1 failed"):
            fa.batch_norm_forward(x, comm=comm)

    on_ranks(3, Pickling, run)


def test_a_step_sends_what_the_documentation_says():
    """Rows of float64: a header of fixed size and 1 + 4 C numbers, then the header and 1 + 3 C."""
    channels, size = 64, 2
    x = np.random.default_rng(0).standard_normal((8, channels))
    seen = []

    def run(comm, rank):
        ranks = comm.ranks
        _, ctx = fa.batch_norm_forward(x, comm=comm)
        fa.batch_norm_backward(x, ctx)
        ranks.barrier.wait()
        seen.append(ranks.bytes // size // size)  # of a rank's row; every rank counted once

    on_ranks(size, Pickling, run)
    header = 8 * fa._distributed.Header.SIZE
    assert set(seen) == {2 * header + 8 * (2 + 7 * channels)}


mpi = pytest.mark.skipif(
    not importlib.util.find_spec("mpi4py"), reason="needs mpi4py and mpich (the extra mpi)"
)


def mpiexec():
    beside = Path(sys.executable).with_name("mpiexec")
    return str(beside) if beside.exists() else shutil.which("mpiexec")


@mpi
@pytest.mark.parametrize("size", [2, 3])
def test_the_example_trains(size):
    path = Path(__file__).parents[1] / "examples" / "mpi_training.py"
    command = [mpiexec(), "-n", str(size), sys.executable, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{size} ranks, accuracy 0.9" in done.stdout or "accuracy 1.0" in done.stdout


@mpi
@pytest.mark.parametrize("size", [2, 3])
def test_under_mpiexec(size):
    command = [mpiexec(), "-n", str(size), sys.executable, str(Path(collective.__file__))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{len(collective.CASES)} cases passed on {size} ranks" in done.stdout
