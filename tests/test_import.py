"""What ``import fastact`` costs: little time beyond NumPy's, and no other package."""

import re

import pytest
from conftest import once, python

pytestmark = once
# Seconds beyond NumPy, of the processor: a busy machine's other work is no part of it. Where NumPy
# itself takes long to import (more than 125 ms), a share of that.
LIMIT, SHARE = 0.050, 0.4
ROUNDS = 25  # at most: a busy machine only ever adds, so that one within the limit is enough

# Modules of the standard library are already there where NumPy, or Python's start, wanted them.
CODE = """
import time
start = time.process_time()
import numpy
middle = time.process_time()
import fastact
print(middle - start, time.process_time() - middle)
"""


def seconds(folder):
    # Installed packages have their bytecode; a checkout, where the environment forbids to write it,
    # would be compiled each time, for twice as long as all else takes.
    bytecode = {"PYTHONDONTWRITEBYTECODE": None, "PYTHONPYCACHEPREFIX": str(folder)}
    status, out, err = python(CODE, **bytecode)
    assert status == 0, err
    return tuple(map(float, out.split()))


def test_the_import_takes_less_than_50_ms_beyond_numpy(tmp_path):
    seconds(tmp_path)  # the first reads the files and writes the bytecode
    rounds = []
    for _ in range(ROUNDS):
        rounds.append(seconds(tmp_path))
        numpys, least = map(min, zip(*rounds, strict=True))
        if least < max(LIMIT, SHARE * numpys):
            return
    assert least < max(LIMIT, SHARE * numpys), (
        f"{1e3 * least:.1f} ms or more; NumPy {1e3 * numpys:.1f}"
    )


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
