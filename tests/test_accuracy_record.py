"""docs/accuracy.json belongs to these sources, is complete and keeps the promises."""

import importlib.util
import json
import shutil
import sys

import numpy as np
import pytest
from conftest import GATED, NAMES, ROOT

import fastact as fa


@pytest.fixture(scope="module")
def accuracy():
    if not (ROOT / "bench" / "accuracy.py").exists() or shutil.which("gcc") is None:
        pytest.skip("needs the source tree and gcc")
    spec = importlib.util.spec_from_file_location("accuracy", ROOT / "bench" / "accuracy.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["accuracy"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def oracle(accuracy):
    return accuracy.Oracle()


@pytest.fixture(scope="module")
def record():
    return json.loads((ROOT / "docs" / "accuracy.json").read_text())


def test_the_record_belongs_to_these_sources(accuracy, record):
    assert record["sources"] == accuracy.sources_hash(), "run bench/accuracy.py --full"


def test_the_hash_ignores_comments_and_sees_code(accuracy, tmp_path, monkeypatch):
    for folder in ("csrc", "bench"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.o"))
    shutil.copy(ROOT / "setup.py", tmp_path)
    monkeypatch.setattr(accuracy, "ROOT", tmp_path)
    monkeypatch.setattr(accuracy, "HERE", tmp_path / "bench")
    before = accuracy.sources_hash()
    kernels = tmp_path / "csrc" / "activations.h"
    kernels.write_text(kernels.read_text() + "\n/* a comment */\n\n")
    assert accuracy.sources_hash() == before
    kernels.write_text(kernels.read_text() + "\nint code;\n")
    assert accuracy.sources_hash() != before


def test_every_input_of_every_function_is_on_record_and_right(record):
    rows = [r for r in record["rows"] if "peer" not in r]
    full = {(r["name"], r["slope"]): r for r in rows if r["of"] == "all" and "bins" in r}
    assert set(full) == {(name, slope) for name in NAMES for slope in (False, True)}
    for (name, slope), row in full.items():
        # less NaN and infinity, plus the breakpoints
        assert row["inputs"] >= 2**32 - 2**25, name
        assert row["max_ulp"] <= (0.51 if slope else fa.activations[name].max_ulp), name
    doubles = [r for r in rows if r["of"] == "1e+08 inputs" and "digest" in r]
    assert {(r["name"], r["slope"]) for r in doubles} == set(full)
    assert all(r["max_ulp"] <= (2 if r["slope"] else 1) for r in doubles)
    assert {r["name"] for r in rows} == {*NAMES, *GATED}
    assert all(not r.get("failures") and r.get("same_bits", True) for r in rows)


@pytest.mark.parametrize("name", NAMES)
def test_the_oracle_accepts_this_and_no_other(accuracy, oracle, name):
    """The active instruction set on 65,536 patterns, and a result that is off by two bits."""
    function = fa.activations[name]
    x = np.arange(0, 2**32, 65521, dtype=np.uint32).view(np.float32)
    params = accuracy.defaults(function)
    with np.errstate(all="ignore"):
        y = function(x, *accuracy.typed(function, params, x.dtype))
    rules, report = accuracy.rules_for(function, False, "float32"), accuracy.Report()
    oracle.check(report, name, False, x, None, y, params, "float32", rules)
    assert report.failures == 0
    assert report.count == np.isfinite(x).sum()
    curved = np.flatnonzero(np.isfinite(y) & (y != 0))
    wrong = y.copy()
    wrong[curved[-1]] = np.nextafter(np.nextafter(y[curved[-1]], np.float32(0)), np.float32(0))
    report = accuracy.Report()
    oracle.check(report, name, False, x, None, wrong, params, "float32", rules)
    assert report.failures in (1, 2)  # far off, and perhaps zero where it must not be
