"""Instruction sets: the one that is forced runs, and all with FMA give the same bits."""

import re
import shutil
import subprocess
import sys

import pytest
from conftest import NAMES, ROOT, once, python

import fastact as fa

ISAS = fa.config()["isas"]
SHOW = "import fastact as fa; print(fa.config()['isa'])"

DIGEST = """
import hashlib, sys, numpy as np, fastact as fa
digest = hashlib.sha256()
def add(array):
    array = np.where(np.isnan(array), array.dtype.type("nan"), array)
    digest.update(np.ascontiguousarray(array).tobytes())
rng = np.random.default_rng(0)
dtypes = [np.float32, np.float64, np.float16]
try:
    from ml_dtypes import bfloat16
    dtypes.append(bfloat16)
except ImportError:
    pass
for dtype in dtypes:
    size = np.dtype(dtype).itemsize
    x = rng.integers(0, 256, 40_000 * size, dtype=np.uint8).view(dtype)
    with np.errstate(all="ignore"):
        x = np.concatenate([x, rng.standard_normal(40_001).astype(dtype) * dtype(5)])
        dy, gated = (rng.standard_normal(len(x)).astype(dtype) for _ in range(2))
    small = rng.standard_normal((1100, 19)).astype(dtype) + dtype(3)
    for f in fa.gated.values():
        for part in (f(gated, x), *f.backward(dy, gated, x)):
            add(part)
    for f in fa.activations.values():
        params = [0.25 if p is None else p for p in f.parameters.values()]
        add(f(x, *params))
        gradient = f.backward(dy, x, *params)
        add(gradient[0] if isinstance(gradient, tuple) else gradient)
        named = dict(zip(f.parameters, params))
        for a in (small, np.asfortranarray(small)):
            y, ctx = fa.batch_norm_forward(a, weight=np.linspace(-1, 2, 19), bias=np.ones(19),
                                           activation=f, activation_params=named)
            grads = fa.batch_norm_backward(small[::-1], ctx)
            for part in (y, ctx.mean, ctx.var, grads.x, grads.weight, grads.bias):
                add(part)
            for part in (grads.activation_params or {}).values():
                add(part)
print(fa.config()["isa"], digest.hexdigest())
"""


def test_at_least_baseline_is_there_and_the_best_is_first():
    assert ISAS[-1] == "baseline"
    assert python(SHOW, FASTACT_ISA=None)[1] == python(SHOW, FASTACT_ISA="")[1] == ISAS[0]
    assert fa.config()["isa"] in ISAS
    assert set(ISAS) <= set(fa.config()["isas_built"])


@pytest.mark.parametrize("isa", ISAS)
def test_a_forced_instruction_set_is_the_one_that_runs(isa):
    assert python(SHOW, FASTACT_ISA=isa) == (0, isa, "")


@pytest.mark.parametrize("name", ["nonsense", "AVX2", "sse9", "baseline ", "neon"])
def test_an_unknown_or_unsupported_name_is_refused(name):
    if name in ISAS:
        pytest.skip("this machine has it")
    status, _, err = python(SHOW, FASTACT_ISA=name)
    assert status == 1
    assert f"ImportError: FASTACT_ISA={name!r}" in err
    assert ", ".join(ISAS) in err


def test_instruction_sets_with_fma_give_the_same_bits():
    with_fma = [isa for isa in ISAS if isa != "baseline"]
    if len(with_fma) < 2:
        pytest.skip(f"this machine has {ISAS}: nothing to compare")
    results = [python(DIGEST, FASTACT_ISA=isa) for isa in with_fma]
    digests = {}
    for isa, (status, out, err) in zip(with_fma, results, strict=True):
        assert status == 0, err
        ran, digest = out.split()
        assert ran == isa
        digests[isa] = digest
    assert len(set(digests.values())) == 1, digests


@once
@pytest.mark.timeout(900)
def test_neon_gives_the_bits_of_avx2():
    """Kernel by kernel, under qemu; where its tools are missing this is left out."""
    script = ROOT / "bench" / "kernel_bits.py"
    tools = ["gcc", "aarch64-linux-gnu-gcc", "qemu-aarch64-static"]
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if not script.exists() or missing or "avx2" not in ISAS:
        pytest.skip(f"needs the source tree, AVX2 and gcc, qemu for aarch64; missing: {missing}")
    command = [sys.executable, str(script), "avx2", "neon"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.search(r"^neon: (\d+) of (\d+) as avx2$", done.stdout, re.MULTILINE)
    assert counts[1] == counts[2]
    assert int(counts[2]) >= 8 * len(NAMES)


def test_baseline_stays_within_the_bounds():
    """The whole suite runs on it in CI; here, that it differs by the last bit at most."""
    code = """
import sys, numpy as np, fastact as fa
from fastact import reference
x = np.linspace(-30, 30, 60_001, dtype=np.float32)
for f in fa.activations.values():
    params = [0.25 if p is None else p for p in f.parameters.values()]
    want = reference.activations[f.name][0](x, *params)
    spacing = np.spacing(np.abs(want).astype('f4')).astype(float)
    assert (np.abs(f(x, *params) - want) <= 0.51 * spacing).all(), f
print(fa.config()["isa"])
"""
    assert python(code, FASTACT_ISA="baseline") == (0, "baseline", "")
