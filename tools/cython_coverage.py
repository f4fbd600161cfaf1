"""Which lines of fastact/*.pyx the tests reach (coverage.py), and why the others are not reached.

    python tools/cython_coverage.py [--record]

Only a build of its own tells: a copy in build/cython_coverage, whose modules report each line that
runs. Its tests take some minutes, so this is no part of .ci/run. The reasons are in
tests/uncovered_cython.txt, in the form of tests/uncovered_python.txt. --record writes
docs/reliability/cython_coverage.json.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import coverage
import coverage.exceptions
from native import ROOT, idle, reasons
from python_coverage import LEAST, keys
from reliability import record

COPY, REASONS = ROOT / "build" / "cython_coverage", ROOT / "tests" / "uncovered_cython.txt"
TESTS = (
    "activations bad_input capi changed_arrays commands definitions environment gated half hostile"
    " import inplace isa layer memory memory_attack processes protocols quick rare_lines"
    " residual_and_mask threads"
)
# -k: what is about speed or memory, which tracing changes, and what takes long
NOT = (
    "twice_the_time or no_wide_copy or fork or 32_threads or bit_for_bit or larger_than_the_memory"
    " or finite_differences"
)
DIRECTIVE = "# cython: linetrace=True"
CONFIG = """[run]
source_pkgs = fastact
plugins = Cython.Coverage
parallel = true
core = ctrace
patch = subprocess
disable_warnings = no-data-collected,module-not-measured
"""
# an editable installation would find the package elsewhere
LOCAL = """
import sys
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in getattr(f, "__module__", "")]
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


def copy() -> None:
    """What git has of the tree, its Cython modules with one line more above them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if not (ROOT / name).is_file():
            continue
        (COPY / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, COPY / name)
    for path in (COPY / "fastact").glob("*.pyx"):
        path.write_text(f"{DIRECTIVE}\n{path.read_text()}")


def build() -> None:
    flags = f"{os.environ.get('CFLAGS', '')} -DCYTHON_TRACE_NOGIL=1"
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=COPY, env={**os.environ, "CFLAGS": flags}, check=True)


def run() -> None:
    """A failure is no error: the suite is for that, on the build that is tested."""
    for old in COPY.glob("data.*"):
        old.unlink()
    config, local = COPY / "config", COPY / "local.py"
    config.write_text(CONFIG)
    local.write_text(LOCAL)
    tests = [f"tests/test_{name}.py" for name in TESTS.split()]
    command = [sys.executable, "-m", "coverage", "run", f"--rcfile={config}", str(local)]
    environment = {**os.environ, "PYTHONPATH": str(COPY), "COVERAGE_FILE": str(COPY / "data")}
    options = ["-q", "-p", "no:cacheprovider", "-k", f"not ({NOT})"]
    subprocess.run([*command, *options, *tests], cwd=COPY, env=environment, check=False)


def traced(path: Path) -> set[int]:
    """The lines of a module that report that they run, by the C that Cython has made of it."""
    (generated,) = COPY.glob(f"build/cython*/fastact/{path.stem}.c")
    found = re.findall(r"__Pyx_TraceLine\((\d+),[^;]*?__PYX_ERR\(0,", generated.read_text())
    return {int(number) - 1 for number in found}


def enclosing(text: list[str], number: int) -> str:
    """The functions and classes that a line is in, as `class.function`."""
    names, inside = [], indent(text[number - 1])
    for line in reversed(text[: number - 1]):
        begin = re.match(r"\s*(?:(?:cdef )?class (\w+)|(?:c?p?def|cdef)\b[^=(]*?(\w+)\()", line)
        if begin and indent(line) < inside:
            names.append(begin[1] or begin[2])
            inside = indent(line)
    return ".".join(reversed(names))


def indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def report() -> dict:
    data = coverage.CoverageData(str(COPY / "all"))
    data.erase()
    for path in COPY.glob("data.*"):
        part = coverage.CoverageData(str(path))
        try:
            part.read()
        except coverage.exceptions.DataError:
            continue  # of a process that was killed, as tests do
        data.update(part)
    known, used, without, lines, missed = reasons(REASONS), set(), [], 0, 0
    for path in sorted((ROOT / "fastact").glob("*.pyx")):
        reached = {n - 1 for n in data.lines(str(COPY / "fastact" / path.name)) or ()}
        there, text = traced(path), path.read_text().splitlines()
        lines, missed = lines + len(there), missed + len(there - reached)
        for number in sorted(there - reached):
            line, where = text[number - 1].strip(), enclosing(text, number)
            found = next((key for key in keys(path.name, line, where) if key in known), None)
            used.add(found)
            if found is None:
                without.append(f"{path.name}:{number}: {line}    (in {where or 'the module'})")
    print(f"{lines - missed} of {lines} lines of Cython: {100 * (1 - missed / lines):.1f} %")
    if without:
        print("no test reaches, and tests/uncovered_cython.txt gives no reason:")
        print(*without, sep="\n")
    for spare in idle(known, used):
        print(f"tests/uncovered_cython.txt excuses what is reached: {spare}")
    if without or lines - missed < LEAST * lines:
        sys.exit(f"expected: {LEAST:.0%}, and a reason for each line that is left")
    return {"lines": lines, "reached": lines - missed, "with a reason": missed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    copy()
    build()
    run()
    figures = report()
    if options.record:
        record("cython_coverage", figures)


if __name__ == "__main__":
    main()
