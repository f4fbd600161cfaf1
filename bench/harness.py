"""What the benchmark scripts share: interleaved rounds, medians, the machine, JSON.

Times on a shared machine drift; ratios within a run do not. So every round times each contender
once, in turn, and a result is the median over the rounds, with the spread of the middle half.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

import fastact as fa

Contenders = dict[str, Callable[[], object]]


def time_once(call: Callable[[], object], repeats: int) -> float:
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - begin) / repeats


def compare(contenders: Contenders, rounds: int, seconds: float = 0.02) -> dict[str, dict]:
    """Median and quartiles of each contender's time, in seconds; a timing lasts about `seconds`."""
    repeats = {}
    for name, call in contenders.items():
        call()
        repeats[name] = max(1, int(seconds / max(time_once(call, 1), 1e-7)))
    times = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            times[name].append(time_once(call, repeats[name]))
    return {name: summary(values) for name, values in times.items()}


def summary(times: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(times, n=4)
    return {"median": median, "low": low, "high": high}


def copy_on_all_threads(source: np.ndarray, target: np.ndarray) -> Callable[[], None]:
    """NumPy's copy, a share of the array a thread: the floor of anything that writes y from x.

    For arrays beyond the caches this is memcpy with streaming stores.
    """
    n = fa.get_num_threads()
    shares = list(zip(np.array_split(source, n), np.array_split(target, n), strict=True))

    def call() -> None:
        rest = [threading.Thread(target=np.copyto, args=(b, a)) for a, b in shares[1:]]
        for thread in rest:
            thread.start()
        np.copyto(shares[0][1], shares[0][0])
        for thread in rest:
            thread.join()

    return call


def arguments_for(function: fa.Activation) -> tuple[float, ...]:
    """A value for each parameter that has no default."""
    return tuple(0.25 for default in function.parameters.values() if default is None)


def torch_peer(name: str) -> Callable | None:
    """torch's function of the same name, or None."""
    try:
        import torch
    except ImportError:
        return None
    return getattr(torch.nn.functional, name, None) or getattr(torch, name, None)


def close(result: np.ndarray, exact: np.ndarray) -> bool:
    """Whether a float32 result is right to 1 ULP (and 2^-30 of the largest where terms cancel)."""
    error = np.abs(result.astype(np.float64) - exact)
    tolerance = np.spacing(np.abs(exact).astype(np.float32)) + 2.0**-30 * np.abs(exact).max()
    return bool((error <= tolerance).all())


def parser(description: str) -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--quick", action="store_true", help="few sizes, few rounds")
    options.add_argument("--out", type=Path, help="write the results as JSON to this file")
    return options


def report(rows: list[dict], options: argparse.Namespace) -> None:
    if options.out:
        stamp = datetime.now(UTC).isoformat(timespec="seconds")
        machine = {"platform": platform.platform(), "numpy": np.__version__, "when": stamp}
        text = json.dumps({"config": fa.config(), "machine": machine, "rows": rows}, indent=1)
        options.out.write_text(text + "\n")
        print(f"wrote {options.out}")
