"""Writes docs/reliability.md from what the tools and tests found.

python tools/native.py STEP... --record
python tests/mutants.py --record
FASTACT_RECORD=docs/reliability python -m pytest tests/test_hostile.py tests/test_processes.py ...
FASTACT_RECORD=docs/reliability python -m pytest --parallel-threads=4 tests/test_gated.py ...
FASTACT_RECORD=docs/reliability PYTHON_GIL=0 python3.13t -m pytest --parallel-threads=4 ...
python tools/border.py --seconds 600 --record
python tools/python_coverage.py core interop torch report --record
python tools/cython_coverage.py --record
python tools/reliability.py [--check]      the last: whether the page is what the records give
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORDS, PAGE = ROOT / "docs" / "reliability", ROOT / "docs" / "reliability.md"

# What a record is of: it belongs to other sources once one of these has changed.
C, PACKAGE = ("csrc/*", "setup.py"), ("fastact/**/*.py", "fastact/*.pyx", "fastact/*.pxd")
NATIVE = (*C, "tests/native/**/*.[ch]", "tools/native.py")
SOURCES = {
    "coverage": (*NATIVE, "tests/c_harness.c", "tests/uncovered.txt"),
    "border": (*C, *PACKAGE, "tests/border/target.py", "tools/border.py"),
    "python_coverage": (*PACKAGE, "tools/python_coverage.py", "tests/uncovered_python.txt"),
    "cython_coverage": (*PACKAGE[1:], "tools/cython_coverage.py", "tests/uncovered_cython.txt"),
    "mutants": (*C, *PACKAGE, "tests/mutants.py"),
    **dict.fromkeys(("pytest", "parallel", "free_threaded"), (*C, *PACKAGE)),
}  # the others: NATIVE
EARLIER = " (of earlier sources)"

HEAD = """# Reliability

What tries to break fastact, and what came of it. Each figure was written by the tool or test that
found it (`docs/reliability/*.json`); `python tools/reliability.py` makes this page of them. A row
"of earlier sources" was found before the last change of the code it is about, or of its tool.

| What | How much | What came of it | Planted bugs, found |
| --- | --- | --- | --- |
"""

TAIL = """
A step is believed only after it has found a bug that was planted for it; the last column
names them.

## What the steps are

`tests/native/` has cases of random operations, shapes, strides, dtypes, overlaps, thread
counts, cache sizes and floating-point environments, with memory that runs out now and then. A
result has to be the one of packed arrays on one thread in the default environment; no byte
beside the elements may change. `tools/native.py` builds them for AddressSanitizer and
UndefinedBehaviorSanitizer, for valgrind, for emulated processors (the same bits as here) and
for libFuzzer, and says which lines of C none of them reaches; `tests/uncovered.txt` says why.
ThreadSanitizer and the forks have a program of their own, `tests/native/threads.c`.
`tests/mutants.py` plants faults in the kernels, which pytest has to find.
`tests/test_properties.py` makes random calls over the Python border, between guards and against
the reference; `FASTACT_EXAMPLES=5000` makes more of them, others each time. `tools/border.py` has
a fuzzer choose calls there by the branches that they take in the Python and Cython modules:
arguments of any dtype, byte order and strides overlap in one block of memory, and the same call
with copies of its own says what has to come of it. `tools/python_coverage.py` counts the lines of
Python that the tests reach; `tests/uncovered_python.txt` says why the others are not.
`tools/cython_coverage.py` counts those of the Cython modules, in a build whose modules report each
line that they run: by hand, since it takes minutes; its reasons are in
`tests/uncovered_cython.txt`.
pytest-run-parallel runs each test in several threads at once; the tests marked `thread_unsafe`
look at what a process has once (its default number of threads, what tracemalloc counts), and run
in one.

## Free-threaded CPython

The tests under pytest-run-parallel pass with the GIL, and without it where CPython 3.13, built
free-threaded, is told to leave it off (`PYTHON_GIL=0`; the last line above). That found no race,
and proves none absent: fastact does not declare itself safe without the GIL, and a free-threaded
interpreter turns the GIL on when it imports fastact. What the C code shares between threads is
atomic or behind a lock (ThreadSanitizer looks at that), and shapes and strides are copied before a
call lets other threads run. But the copy itself relies on the GIL, bfloat16's loops are registered
at first sight of it without a lock, and a layer's `backward` needs what the layer's last call left
in it. These want a review of their own first.
"""


# ---- records -----------------------------------------------------------------------------------


def fingerprint(step: str) -> str:
    """Of all that a step's record belongs to."""
    found = hashlib.sha256()
    files = {path for pattern in SOURCES.get(step, NATIVE) for path in ROOT.glob(pattern)}
    for path in sorted(files):
        if path.is_file():
            found.update(f"{path.relative_to(ROOT)}\0{path.read_text()}\0".encode())
    return found.hexdigest()[:16]


def record(step: str, figures: dict, folder: Path = RECORDS) -> None:
    folder.mkdir(exist_ok=True)
    figures = {"step": step, "sources": fingerprint(step), **figures}
    (folder / f"{step}.json").write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")


# ---- rows --------------------------------------------------------------------------------------


def spelled(counts: dict) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def asan(r):
    return (
        "AddressSanitizer, UndefinedBehaviorSanitizer",
        f"cases: {spelled(r['cases'])}",
        f"{r['reports']} reports",
    )


def tsan(r):
    return (
        "ThreadSanitizer",
        f"rounds of 6 callers: {spelled(r['rounds'])}",
        f"{r['reports']} reports",
    )


def forks(r):
    return (
        "Forks from several threads, while others compute",
        f"{r['forks']:,}",
        f"{r['hangs']} hangs",
    )


def valgrind(r):
    return "valgrind", f"cases: {spelled(r['cases'])}", f"{r['reports']} reports"


def analyzer(r):
    return "gcc -fanalyzer", f"{r['files']} files", f"{r.get('warnings', 0)} warnings"


def emulators(r):
    return "qemu-user", f"cases: {spelled(r['cases'])}", f"{r['differences']} differences"


def fuzz(r):
    how_much = f"{r['cases']:,} cases in {r['seconds']} s, {r['edges']:,} edges"
    return "libFuzzer over the C entry points", how_much, f"{r['failures']} failures"


def border(r):
    how_much = f"{r['cases']:,} calls in {r['seconds']} s, {r['edges']:,} edges"
    return "atheris over the Python border", how_much, f"{r['failures']} failures"


def coverage(r):
    share = f"{100 * r['reached'] / r['lines']:.1f} %"
    left = f"{r['with a reason']} lines with a reason"
    return (
        "Lines of C that the native cases reach",
        f"{r['reached']:,} of {r['lines']:,}",
        (f"{share}; {left}"),
    )


def python_coverage(r):
    return (
        "Lines of Python (.py) that the tests reach",
        f"{r['reached']:,} of {r['lines']:,}",
        f"{100 * r['reached'] / r['lines']:.1f} %",
    )


def cython_coverage(r):
    _, *others = python_coverage(r)
    return "Lines of Cython (.pyx) that the tests reach", *others


def mutants(r):
    return "Faults planted in the kernels", f"{r['planted']}", f"{r['caught']} caught by pytest"


def outcome(r):
    """Records of earlier do not say what was skipped."""
    said = f"{r['failed']} failures"
    if "skipped" in r:
        large = "run" if r["large"] else "not run"
        said += f", {r['skipped']} skipped; arrays of more than 2^31 elements: {large}"
    return said


def pytest(r):
    return f"pytest ({r['isa']})", spelled(r["passed"]), outcome(r)


def parallel(r):
    how_much = f"{sum(r['passed'].values()):,} cases, each in {r['threads']} threads at once"
    return f"pytest-run-parallel (CPython {r['python']})", how_much, outcome(r)


def free_threaded(r):
    what, *others = parallel(r)
    return f"The same without the GIL ({what.split('(')[1]}", *others


ROWS = [asan, tsan, forks, valgrind, analyzer, emulators, fuzz, border, coverage, python_coverage]
ROWS += [cython_coverage, mutants, pytest, parallel, free_threaded]


# ---- the page ----------------------------------------------------------------------------------


def line(row) -> str:
    path = RECORDS / f"{row.__name__}.json"
    if not path.exists():
        return ""
    found = json.loads(path.read_text())
    what, *others = row(found)
    if found.get("sources") != fingerprint(row.__name__):
        what += EARLIER
    planted = found.get("planted", "")
    cells = [what, *others, ", ".join(planted) if isinstance(planted, list) else ""]
    return "| " + " | ".join(cells) + " |\n"


def page() -> str:
    return HEAD + "".join(map(line, ROWS)) + TAIL


def check() -> None:
    """Fails unless the page is what the records give; which of them are older is only said."""
    want, have = page(), PAGE.read_text()
    for row in want.splitlines():
        if EARLIER in row:
            print(f"{row.split(' | ')[0].removeprefix('| ')}: record it again")
    if have.replace(EARLIER, "") != want.replace(EARLIER, ""):
        sys.exit(f"{PAGE.name} is not what its records give")
    if have != want:
        print(f"{PAGE.name} marks other rows: python {Path(sys.argv[0]).name} marks these")


def main() -> None:
    if "--check" in sys.argv:
        check()
    else:
        PAGE.write_text(page())


if __name__ == "__main__":
    main()
