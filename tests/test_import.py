"""What ``import fastact`` costs: little time beyond NumPy's, and no other package."""

import re
import statistics

import pytest
from conftest import once, python

pytestmark = once
LIMIT = (
    0.050  # seconds beyond NumPy, of the processor: a busy machine's other work is no part of it
)
ROUNDS = 7

# Modules of the standard library are already there where NumPy, or Python's start, wanted them.
CODE = """
import time, numpy
start = time.process_time()
import fastact
print(time.process_time() - start)
"""


def seconds():
    status, out, err = python(CODE)
    assert status == 0, err
    return float(out)


def test_the_import_takes_less_than_50_ms_beyond_numpy():
    seconds()  # the first reads the files and may write .pyc
    times = sorted(seconds() for _ in range(ROUNDS))
    # a busy machine only ever adds
    assert times[0] < LIMIT, f"{1e3 * times[0]:.1f} to {1e3 * times[-1]:.1f} ms"
    print(f"median {1e3 * statistics.median(times):.1f} ms")


def test_the_import_needs_numpy_alone():
    code = """
import sys, numpy
before = set(sys.modules)
import fastact
new = {name.split(".")[0] for name in set(sys.modules) - before}
print(sorted(name for name in new - {"fastact", "numpy"} if name not in sys.stdlib_module_names))
"""
    status, out, err = python(code)
    assert status == 0, err
    # Cython puts two modules of its own there, made on the spot
    assert [name for name in eval(out) if not re.match("_?cython_", name)] == []


@pytest.mark.parametrize("module", ["argparse", "unittest", "sklearn", "matplotlib", "tqdm"])
def test_the_import_leaves_the_commands_modules_alone(module):
    code = f"import sys, numpy; a = {module!r} in sys.modules; import fastact; "
    status, out, err = python(code + f"print(a or {module!r} not in sys.modules)")
    assert status == 0, err
    assert out == "True"
