"""Which lines of fastact/*.py the tests reach (coverage.py), and why the others are not reached.

    python tools/python_coverage.py PART... [--record]

    core, interop, torch    runs that part of the tests, and keeps what it reached
    report                  all that was kept: fails below 95 %, or where a line has no reason

Tracing costs a part of its time again, and the whole suite's would be minutes: lines are counted
in what reaches them quickly, not in all that looks at what they compute. The reasons are in
tests/uncovered_python.txt. The Cython modules are left out: tracing them needs a build of its own,
which is no longer the one that is tested; tools/border.py fuzzes them, guided by what a call
reaches in them. --record writes docs/reliability/python_coverage.json.
"""

from __future__ import annotations

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

import coverage
from native import ROOT, idle, reasons
from reliability import record

DATA, REASONS = ROOT / "build" / "coverage", ROOT / "tests" / "uncovered_python.txt"
LEAST = 0.95


class Part(NamedTuple):
    files: str
    slow: str  # -k: what reaches few lines that others do not, and takes long
    kept: str = ""  # -k: what else is chosen
    runs_slow: bool = True


PARTS = {
    "core": Part(
        "bad_input bench changed_arrays commands demo inplace layer memory pieces rare_lines"
        " residual_and_mask verify",
        "every_activation_by_default or as_json or selected_activations or fork or installed_peer"
        " or installation_is_right or agrees_with_torch or larger_than_the_memory"
        " or outlive_everything or finite_differences or of_torch or every_name_passes"
        " or a_script_of_bench or json_is_all or bit_for_bit or bad_environment"
        " or environment_sets or every_command_says or turns_x_all or no_memory_for",
        runs_slow=False,  # `python tests` does
    ),
    "interop": Part("protocols dask distributed convert", "every_way_to_cut or pint_units"),
    "torch": Part(
        "torch_activations torch_operators torch_batch_norm torch_fuse torch_sync jax examples"
        " bench",
        "bits_of_fastact or checks_of or test_gradients_of_first or samples or examples.py"
        " or two_pools or channels_last_and or compile",
        "torch or jax",
    ),
}
# a wheel may be imported, and a process may fork, while lines are counted
CONFIG = """[run]
source_pkgs = fastact
parallel = true
patch = subprocess
disable_warnings = no-data-collected,module-not-measured
"""
# sys.monitoring finds the same lines in four fifths of the time
MONITORING = "core = sysmon\n" if sys.version_info >= (3, 12) else ""


def run(name: str) -> None:
    """The quick tests of a part while lines are counted, beside them the slow ones without."""
    part, folder = PARTS[name], DATA / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = folder / "config"
    config.write_text(CONFIG + MONITORING)
    tests = [f"tests/test_{file}.py" for file in part.files.split()]
    chosen = f"({part.kept}) and " if part.kept else ""
    counting = ["-m", "coverage", "run", f"--rcfile={config}"]
    with tempfile.TemporaryFile("w+") as output:
        slow = part.runs_slow and subprocess.Popen(
            pytest(tests, f"{chosen}({part.slow})"), cwd=ROOT, stdout=output, stderr=output
        )
        quick = subprocess.run(
            pytest(tests, f"{chosen}not ({part.slow})", *counting),
            cwd=ROOT, env={**os.environ, "COVERAGE_FILE": str(folder / "data")}, check=False,
        )  # fmt: skip
        failed = bool(slow and slow.wait()) | bool(quick.returncode)
        output.seek(0)
        print(output.read(), end="", flush=True)
    if failed:
        sys.exit(f"{name}: the tests failed")


def pytest(tests: list[str], chosen: str, *counting: str) -> list[str]:
    return [sys.executable, *counting, "-m", "pytest", "-q", *tests, "-k", chosen]


def enclosing(tree: ast.AST, number: int) -> str:
    """The functions and classes that a line is in, as `class.function`."""
    names = []
    for node in ast.walk(tree):  # outer ones first
        kinds = (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)
        if isinstance(node, kinds) and node.lineno <= number <= node.end_lineno:
            names.append(node.name)
    return ".".join(names)


def keys(file: str, line: str, where: str) -> list[tuple[str, str]]:
    """Of the line itself, of each function or class around it, and of the whole file."""
    parts = where.split(".") if where else []
    around = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return [(file, key) for key in (f"{where}: {line}" if where else line, *around, "*")]


def report(options) -> dict:
    if missing := [part for part in PARTS if not (DATA / part).exists()]:
        sys.exit(f"run first: tools/python_coverage.py {' '.join(missing)}")
    counted = coverage.Coverage(data_file=str(DATA / "all"), config_file=False)
    counted.combine(
        [str(path) for part in PARTS for path in (DATA / part).glob("data.*")], keep=True
    )
    known, lines, missed, without, used = reasons(REASONS), 0, 0, [], set()
    for path in sorted((ROOT / "fastact").rglob("*.py")):
        _, statements, _, unreached, _ = counted.analysis2(str(path))
        lines, missed = lines + len(statements), missed + len(unreached)
        text = path.read_text().splitlines()
        tree, name = ast.parse("\n".join(text)), str(path.relative_to(ROOT / "fastact"))
        for number in unreached:
            line, where = text[number - 1].strip(), enclosing(tree, number)
            found = next((key for key in keys(name, line, where) if key in known), None)
            used.add(found)
            if found is None:
                without.append(f"{name}:{number}: {line}    (in {where or 'the module'})")
    reached = lines - missed
    print(f"{reached} of {lines} lines of Python: {100 * reached / lines:.1f} %")
    if without:
        print(
            "no test reaches, and tests/uncovered_python.txt gives no reason:", *without, sep="\n"
        )
    for spare in idle(known, used):
        print(f"tests/uncovered_python.txt excuses what is reached: {spare}")
    if without or reached < LEAST * lines:
        sys.exit(f"expected: {LEAST:.0%}, and a reason for each line that is left")
    return {"lines": lines, "reached": reached, "with a reason": missed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="+", choices=[*PARTS, "report"], metavar="PART")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    for part in options.parts:
        if part != "report":
            run(part)
    if "report" in options.parts:
        figures = report(options)
        if options.record:
            record("python_coverage", figures)


if __name__ == "__main__":
    main()
