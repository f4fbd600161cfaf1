"""What BatchNorm over several processes costs: bytes a step, and time, measured and predicted.

    python bench/several_machines.py            # mpiexec -n 2 and -n 3; writes JSON and the page

A step is a forward and a backward: four collectives, each of a row of fixed size a rank. The model
of a collective among P ranks is that of an allgather by recursive doubling,

    ceil(log2 P) * latency + (P - 1) * row / bandwidth,

to which the merging of P parts is added, measured here. Beside it: steps measured with 2 and 3
ranks on this machine, on a communicator that waits as long as the model says before each
collective. Needs mpi4py and mpich (the extra mpi).
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import fastact as fa
from fastact import _distributed

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "docs" / "performance" / "distributed" / "several-machines.json"
PAGE = ROOT / "docs" / "howto" / "several-machines.md"
BEGIN, END = "<!-- bench/several_machines.py -->\n", "<!-- end -->\n"
CHANNELS, ROWS, ROUNDS = 64, (4, 64, 8, 8), 300  # small, so that messages are not lost in it
NETWORKS = {"100 Gbit/s, 2 us": (2e-6, 12.5e9), "10 Gbit/s, 50 us": (50e-6, 1.25e9)}
PREDICTED, MEASURED = (8, 64, 1024), (2, 3)


# ---- the model -------------------------------------------------------------------------------


def rows(channels: int) -> list[int]:
    """Bytes of a rank's row in each of a step's collectives."""
    header = 8 * _distributed.Header.SIZE
    return [header, 8 * (1 + 4 * channels), header, 8 * (1 + 3 * channels)]


def collective(ranks: int, row: int, latency: float, bandwidth: float) -> float:
    return math.ceil(math.log2(ranks)) * latency + (ranks - 1) * row / bandwidth


def network_time(ranks: int, network: tuple[float, float]) -> float:
    return sum(collective(ranks, row, *network) for row in rows(CHANNELS))


def merging_time(ranks: int) -> float:
    """Of as many parts, and as many sums."""
    parts = [fa.batch_norm_stats(np.random.default_rng(0).random((4, CHANNELS)))] * ranks
    sums = np.ones((ranks, 3, CHANNELS))
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        fa.merge_stats(*parts)
        sums.sum(axis=0)
        times.append(time.perf_counter() - begin)
    return min(times)


# ---- in a rank -------------------------------------------------------------------------------


class Waiting:
    """A communicator that takes as long as the model says, and what the real one takes."""

    def __init__(self, comm, network):
        self.comm, self.network = comm, network
        self.rank, self.size = comm.rank, comm.size

    def Allgather(self, row, table):
        if self.network is not None:
            end = time.perf_counter() + collective(self.size, row.nbytes, *self.network)
            while time.perf_counter() < end:
                pass
        self.comm.Allgather(row, table)

    def Allreduce(self, send, receive):
        self.comm.Allreduce(send, receive)


def rank() -> None:
    from mpi4py import MPI

    fa.set_num_threads(1)
    world = MPI.COMM_WORLD
    x, dy = (np.random.default_rng(k).standard_normal(ROWS, dtype=np.float32) for k in (0, 1))
    kinds = {"alone": None, "no network": Waiting(world, None)}
    kinds |= {name: Waiting(world, network) for name, network in NETWORKS.items()}
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(ROUNDS):
        for name, comm in kinds.items():
            world.Barrier()
            begin = time.perf_counter()
            _, ctx = fa.batch_norm_forward(x, comm=comm)
            fa.batch_norm_backward(dy, ctx)
            times[name].append(time.perf_counter() - begin)
    plain = times["no network"]
    found = {name: statistics.median(times[name]) for name in ("alone", "no network")}
    for name in NETWORKS:  # what the network adds, round by round
        pairs = zip(times[name], plain, strict=True)
        found[name] = statistics.median(a - b for a, b in pairs)
    if world.rank == 0:
        print(json.dumps(found))


# ---- the record and the page -----------------------------------------------------------------


def measure(ranks: int) -> dict[str, float]:
    beside = Path(sys.executable).with_name("mpiexec")
    mpiexec = str(beside) if beside.exists() else shutil.which("mpiexec")
    command = [mpiexec, "-n", str(ranks), sys.executable, __file__, "--rank"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=120)
    return json.loads(done.stdout)


def record() -> dict:
    from fastact._bench.record import machine

    merging = {n: merging_time(n) for n in (*MEASURED, *PREDICTED)}
    return {
        "machine": machine(),
        "channels": CHANNELS,
        "bytes of a rank's rows": rows(CHANNELS),
        "merging": merging,
        "network": {
            name: {n: network_time(n, network) for n in merging}
            for name, network in NETWORKS.items()
        },
        "measured": {n: measure(n) for n in MEASURED},
    }


def table(found: dict) -> str:
    """What a rank receives and what a step takes in addition, in microseconds."""
    own = sum(found["bytes of a rank's rows"])
    head = "| ranks | a rank sends | receives | merging |" + "".join(f" {n} |" for n in NETWORKS)
    lines = [head, "| ---: " * (4 + len(NETWORKS)) + "|"]
    for n in PREDICTED:
        cells = [f"{own:,} B", f"{own * (n - 1):,} B", f"{1e6 * found['merging'][n]:.0f} us"]
        total = [found["network"][name][n] + found["merging"][n] for name in NETWORKS]
        cells += [f"{1e6 * seconds:,.0f} us" for seconds in total]
        lines.append(f"| {n:,} | " + " | ".join(cells) + " |")
    head = "| ranks | network | model | measured |"
    lines += ["", head, "| ---: | --- | ---: | ---: |"]
    for n, times in found["measured"].items():
        for name in NETWORKS:
            model = found["network"][name][n]
            lines.append(f"| {n} | {name} | {1e6 * model:.0f} us | {1e6 * times[name]:.0f} us |")
    for n, times in found["measured"].items():
        alone, together = 1e6 * times["alone"], 1e6 * times["no network"]
        lines += ["", f"{n} ranks on this machine: a step on {ROWS} takes {alone:.0f} us "
                  f"alone, {together:.0f} us with `comm=` and no network between."]  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rank", action="store_true", help="what mpiexec starts")
    if parser.parse_args().rank:
        rank()
        return 0
    found = record()
    RECORD.write_text(json.dumps(found, indent=1) + "\n")
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(before + BEGIN + "\n" + table(found) + "\n" + END + rest.split(END)[1])
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
