"""One run of one suite: the machine, what was compared, a row a cell, failures; as JSON.

A row's `times` are seconds: median, lower and upper quartile. A record is written after every group
of cells, so that a run that is interrupted can be resumed.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import fastact
from fastact._bench.timing import Row, Timing

if TYPE_CHECKING:
    from fastact._bench.suite import Group

SCHEMA = 1
COMPILED = ("_runtime", "_ufuncs", "_activation", "_kernels")
# a run that is resumed has these in common with its first part
SAME = ("schema", "suite", "isa", "build", "config", "machine", "rounds", "against")


class Record:
    """The JSON document of a suite: `data`, kept in the file at `path` where there is one."""

    def __init__(self, suite: str, isa: str, path: Path | None) -> None:
        self.path = path
        self.data: dict[str, Any] = {
            "schema": SCHEMA,
            "suite": suite,
            "isa": isa,
            "build": build(),
            "config": fastact.config() | {"version": fastact.__version__},
            "machine": machine(),
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "rounds": 0,
            "against": [],
            "floor": "",
            "peers": {},
            "skipped": {},
            "failures": [],
            "rows": [],
        }

    def take_over(self) -> None:
        """The rows of an interrupted run, if it was one of the same kind."""
        if self.path is None or not self.path.exists():
            return
        old = json.loads(self.path.read_text())
        if all(old.get(key) == self.data[key] for key in SAME):
            self.data |= {key: old[key] for key in ("when", "floor", "peers", "skipped")}
            self.data["rows"] = [typed(row) for row in old["rows"]]

    def has(self, key: Row) -> bool:
        return any(all(row.get(k) == v for k, v in key.items()) for row in self.data["rows"])

    def has_all(self, group: Group) -> bool:
        return all(self.has(group.key | {"mode": mode}) for mode in group.modes)

    def add(self, key: Row, **values: object) -> Row:
        row = {**key, **values}
        self.data["rows"].append(row)
        return row

    def fail(self, key: Row, message: str) -> None:
        self.data["failures"].append({**key, "message": message})

    def save(self) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".part")
        unfinished.write_text(text(self.data))
        unfinished.replace(self.path)  # at once: whoever interrupts finds a whole file


def build() -> str:
    """A hash of the compiled modules: records of other kernels are not resumed."""
    total = hashlib.sha256()
    for module in COMPILED:
        path = importlib.import_module(f"fastact.{module}").__file__
        total.update(Path(path or "").read_bytes())
    return total.hexdigest()[:16]


def load(path: Path) -> dict[str, Any]:
    """The data of a record that was written."""
    data: dict[str, Any] = json.loads(path.read_text())
    if data.get("schema") != SCHEMA:
        raise ValueError(f"{path}: schema {data.get('schema')} is not {SCHEMA}")
    return data | {"rows": [typed(row) for row in data["rows"]]}


def typed(row: Row) -> Row:
    times = {"times": {k: Timing(*v) for k, v in row["times"].items()}} if "times" in row else {}
    return row | times


def text(data: dict[str, Any]) -> str:
    """JSON with a line a row; times to four digits."""
    head = json.dumps({k: v for k, v in data.items() if k != "rows"}, indent=1)
    rows = ",\n  ".join(json.dumps(rounded(row)) for row in data["rows"])
    return head.rstrip("}\n") + f',\n "rows": [\n  {rows}\n ]\n}}\n'


def rounded(value: object) -> object:
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return [rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


# ---- the machine -----------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "caches": caches(),
        "memory_bytes": memory_bytes(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def cpu_name() -> str:
    """The model; where a hypervisor hides it, the family and model numbers as well."""
    if not Path("/proc/cpuinfo").exists():
        return platform.processor() or platform.machine()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    facts = {key.strip(): value.strip() for key, value in pairs}
    numbers = [facts[k] for k in ("cpu family", "model") if k in facts]
    name = facts.get("model name", platform.machine())
    return name + (f" (family {numbers[0]}, model {numbers[1]})" if len(numbers) == 2 else "")


def caches() -> str:
    """As lscpu lists them, or nothing."""
    try:
        done = subprocess.run(["lscpu"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    pairs = [line.split(":", 1) for line in done.stdout.splitlines() if " cache:" in line]
    return ", ".join(f"{k.replace(' cache', '').strip()} {v.strip()}" for k, v in pairs)


def memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0
