"""What ``import fastact`` costs: little time beyond NumPy's, and no other package."""

import re
import statistics

import pytest
from conftest import once, python

pytestmark = once
# Seconds beyond NumPy, of the processor: a busy machine's other work is no part of it. Where NumPy
# itself takes long to import (90 ms on the machine where this was written), a share of that.
LIMIT, SHARE = 0.050, 0.6
ROUNDS = 7

# Modules of the standard library are already there where NumPy, or Python's start, wanted them.
CODE = """
import time
start = time.process_time()
import numpy
middle = time.process_time()
import fastact
print(middle - start, time.process_time() - middle)
"""


def seconds():
    status, out, err = python(CODE)
    assert status == 0, err
    return tuple(map(float, out.split()))


def test_the_import_takes_less_than_50_ms_beyond_numpy():
    seconds()  # the first reads the files and may write .pyc
    numpys, times = (
        sorted(column) for column in zip(*(seconds() for _ in range(ROUNDS)), strict=True)
    )
    # a busy machine only ever adds
    limit = max(LIMIT, SHARE * numpys[0])
    assert times[0] < limit, f"{1e3 * times[0]:.1f} to {1e3 * times[-1]:.1f} ms"
    print(f"median {1e3 * statistics.median(times):.1f} ms, NumPy {1e3 * numpys[0]:.1f}")


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
