"""A coverage-guided fuzzer (atheris) over the Python border: what a caller may pass, and what comes
of it.

    python tools/border.py [--seconds S] [--record]

tests/border/target.py says what a case is and what has to hold. The package is copied to
build/border/; its Cython modules, which decide what is accepted, are compiled by clang so that the
fuzzer sees which branches a case takes, and the Python modules are instrumented when they are
imported. The C code below them has a fuzzer of its own (tools/native.py fuzz). Before it is
believed, it must find a bug that is planted in either language. tests/border/corpus.txt has a case
for each thing that was ever reached. --record starts the search for the planted bugs without them,
and writes docs/reliability/border.json, and the corpus.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from functools import partial
from pathlib import Path

import numpy
from native import (
    ROOT,
    Bug,
    Missing,
    must,
    need,
    pack_corpus,
    reports,
    run,
    searched,
    tail,
    unpack_corpus,
)
from reliability import record

BUILD, TARGET = ROOT / "build" / "border", ROOT / "tests" / "border" / "target.py"
CORPUS = TARGET.with_name("corpus.txt")  # a case a line, in hexadecimal
MODULES = ("_activation", "_kernels", "_quick", "_ufuncs")
FLAGS = ("-O1", "-g0", "-fPIC", "-shared", "-w", "-ffp-contract=off")
# what -fsanitize=fuzzer-no-link stands for, but for the depth of the stack, which atheris has not
FLAGS += ("-fsanitize-coverage=inline-8bit-counters,pc-table,trace-cmp,indirect-calls",)
LIMITS = (
    "-max_len=128",
    "-len_control=0",
    "-timeout=300",
    "-rss_limit_mb=2048",
    "-print_final_stats=1",
)
LEAST_ACCEPTED = 0.05  # of each kind of call: a kind that is always refused tests its checks alone
PLANTED = [
    Bug("a-forgotten-overlap", "_checks.py",
        "if np.may_share_memory(out, np.asarray(other)):",
        'if name != "residual" and np.may_share_memory(out, np.asarray(other)):', "AssertionError"),
    Bug("swapped-bytes", "_activation.pyx",
        "if dtype < 0 or extra < 0 or not PyArray_ISNOTSWAPPED(param):",
        "if dtype < 0 or extra < 0:", "AssertionError"),
    Bug("a-weight-folded-in-place", "_convert.py",
        "folded = (given.astype(np.float64) * along).astype(given.dtype)",
        "folded = np.multiply(given, along, out=given, casting='unsafe')", "AssertionError"),
]  # fmt: skip


# ---- the package, so built that the fuzzer sees what a case reaches ------------------------------


def compile_module(folder: Path, name: str) -> None:
    source = folder / f"{name}.pyx"
    must([sys.executable, "-m", "cython", "-3", "-X", "boundscheck=False,wraparound=False",
          "-I", folder.parent, source, "-o", source.with_suffix(".c")])  # fmt: skip
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    include = [f"-I{path}" for path in (sysconfig.get_path("include"), numpy.get_include())]
    macro = "-DNPY_NO_DEPRECATED_API=NPY_2_0_API_VERSION"
    must(["clang", *FLAGS, macro, *include, f"-I{ROOT / 'csrc'}", source.with_suffix(".c"),
          "-o", folder / f"{name}{suffix}"])  # fmt: skip


def build(name: str, bug: Bug | None = None) -> Path:
    """A folder to import fastact from; one with a bug differs in one module."""
    made = BUILD / name
    shutil.rmtree(made, ignore_errors=True)
    here = BUILD / "clean" if bug else ROOT
    shutil.copytree(
        here / "fastact", made / "fastact", ignore=shutil.ignore_patterns("__pycache__")
    )
    if bug is None:
        for module in MODULES:
            compile_module(made / "fastact", module)
        return made
    changed = made / "fastact" / bug.file
    text = changed.read_text()
    if text.count(bug.old) != 1:
        sys.exit(f"{bug.name}: {bug.file} has its text {text.count(bug.old)} times, not once")
    changed.write_text(text.replace(bug.old, bug.new))
    if changed.suffix == ".pyx":
        compile_module(made / "fastact", changed.stem)
    return made


# ---- cases -------------------------------------------------------------------------------------


def fuzz(made: Path, *arguments: object) -> subprocess.CompletedProcess:
    """A program of its own: to reduce a corpus, libFuzzer runs again what it was started as."""
    program = made / "fuzzer"
    program.write_text(f'#!/bin/sh\nFUZZER="$0" exec "{sys.executable}" "{TARGET}" "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(made), "FASTACT_NUM_THREADS": "1"}
    return run([program, *LIMITS, *arguments], cwd=BUILD, env=environment)


def fuzz_all(made: Path, *arguments: object) -> str:
    """What the fuzzer says, which has to find nothing."""
    done = fuzz(made, *arguments)
    if done.returncode:
        sys.exit(f"status {done.returncode}\n{tail(done)}")
    return done.stdout


def find(bug: Bug, seconds: int, from_nothing: bool) -> str:
    """That the fuzzer finds it, starting from the corpus or from nothing."""
    made = build(bug.name, bug)
    folder = [] if from_nothing else [unpack_corpus(made / "corpus", CORPUS)]
    done = fuzz(made, f"-max_total_time={seconds}", f"-artifact_prefix={made}/", *folder)
    if done.returncode == 0 or bug.said not in done.stdout or not reports(done.stdout):
        sys.exit(f"the planted bug {bug.name} was not found:\n{tail(done)}")
    cases = re.findall(r"^#(\d+)", done.stdout, re.MULTILINE)
    after = cases[-1] if cases else "the first"  # the corpus itself shows some
    print(f"  planted: {bug.name} in {bug.file}: found (after some {after} cases)", flush=True)
    return bug.name


def accepted(said: str) -> dict[str, float]:
    """Kind of call -> which share was accepted, from the last line that says so."""
    calls = json.loads(re.findall(r"^accepted: (.*)$", said, re.MULTILINE)[-1])
    shares = {name: round(taken / count, 3) for name, (taken, count) in sorted(calls.items())}
    print("  accepted:", ", ".join(f"{name} {share:.1%}" for name, share in shares.items()))
    if rare := [name for name, share in shares.items() if share < LEAST_ACCEPTED]:
        sys.exit(f"less than {LEAST_ACCEPTED:.0%} accepted: {', '.join(rare)}")
    return shares


def border(options) -> dict:
    need("clang")
    if importlib.util.find_spec("atheris") is None:
        raise Missing("atheris")
    made = build("clean")
    figures = {"planted": [find(bug, 300, options.record) for bug in PLANTED]}
    folder = unpack_corpus(BUILD / "corpus", CORPUS)
    limits = (f"-max_total_time={options.seconds}", f"-artifact_prefix={BUILD}/")
    said = fuzz_all(made, *limits, folder)
    figures |= searched(said, options.seconds) | {"accepted": accepted(said)}
    if options.record:
        figures["corpus"] = pack_corpus(partial(fuzz_all, made), folder, CORPUS)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=int, default=60, help="default: %(default)s")
    parser.add_argument("--record", action="store_true", help="write docs/reliability/border.json")
    options = parser.parse_args()
    print("border:", flush=True)
    try:
        figures = border(options)
    except Missing as tools:
        print(f"  {'*' * 70}\n  border IS LEFT OUT: not found: {tools}\n  {'*' * 70}", flush=True)
        return
    if options.record:
        record("border", figures)


if __name__ == "__main__":
    main()
