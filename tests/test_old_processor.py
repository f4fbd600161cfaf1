"""A processor without AVX (Nehalem, by qemu) imports fastact and computes bits of `baseline`."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import once, python

import fastact as fa

QEMU = next(filter(None, map(shutil.which, ("qemu-x86_64-static", "qemu-x86_64"))), None)
pytestmark = [
    once,
    pytest.mark.skipif(QEMU is None, reason="qemu-user is not installed"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="of x86-64"),
]
# every activation, and BatchNorm alone and fused, in both directions; exact inputs, for NumPy's own
# functions may differ by processor
CODE = """
import hashlib
import numpy as np
import fastact as fa

print(fa.config()["isa"])
found = hashlib.sha256()
numbers = np.arange(-80, 81).reshape(7, 23) / 8
for dtype in ("f2", "f4", "f8"):
    x = numbers.astype(dtype)
    dy = x[::-1].copy()
    for f in fa.activations.values():
        given = [0.25 if p is None else p for p in f.parameters.values()]
        found.update(f(x, *given))
        gradients = f.backward(dy, x, *given)
        found.update(gradients[0] if isinstance(gradients, tuple) else gradients)
    for name in (None, *list(fa.activations)[::9]):
        given = {p: 0.25 for p in fa.activations[name].parameters} if name else None
        y, ctx = fa.batch_norm_forward(x, activation=name, activation_params=given)
        found.update(y)
        found.update(fa.batch_norm_backward(dy, ctx).x)
print(found.hexdigest())
"""


def test_the_bits_of_baseline():
    status, want, error = python(CODE, FASTACT_ISA="baseline")
    assert (status, error) == (0, "")
    environment = {**os.environ, "PYTHONPATH": str(Path(fa.__file__).parents[1])}
    environment.pop("FASTACT_ISA", None)  # what it finds out by itself
    command = [QEMU, "-cpu", "Nehalem", sys.executable, "-W", "error", "-c", CODE]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == want.split()
    assert want.split()[0] == "baseline"


def test_other_bits_would_be_seen():
    digests = {python(CODE, FASTACT_ISA=isa)[1].split()[1] for isa in fa.config()["isas"]}
    assert len(digests) > 1 or fa.config()["isas"] == ["baseline"]
