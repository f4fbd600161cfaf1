"""docs/accuracy.json belongs to these sources, is complete and keeps the promises."""

import importlib.util
import json
import shutil
import sys

import numpy as np
import pytest
from conftest import GATED, NAMES, ROOT, defaults, once, slope_zeros

import fastact as fa

pytestmark = once


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
    current = accuracy.sources()
    stale = [name for name in current if record["sources"].get(name) != current[name]]
    assert not stale, f"run bench/accuracy.py --full {' '.join(stale)}"
    assert record["oracle"] == accuracy.judge()
    assert set(record["sources"]) == set(current) == {*NAMES, *GATED}


def test_figures_are_kept_for_the_same_results_and_the_same_oracle_alone(
    accuracy, tmp_path, monkeypatch
):
    monkeypatch.setattr(accuracy, "RECORD", tmp_path / "accuracy.json")
    rows = [
        {"isa": "any", "name": name, "slope": False, "dtype": "float64", "of": "1e+06 inputs"}
        for name in NAMES[:2]
    ]
    oracle = accuracy.Oracle()
    for row in rows:
        row["digest"] = accuracy.digest_of(oracle, row)
    assert accuracy.digest_of(oracle, rows[0]) == rows[0]["digest"] != rows[1]["digest"]
    for judge, kept in ((accuracy.judge(), 2), ("another", 0)):
        accuracy.save({"oracle": judge, "sources": {}, "rows": rows})
        assert len(accuracy.results_on_record()) == kept
        assert accuracy.load()["rows"] == []  # of other sources


@pytest.fixture
def changed(accuracy, tmp_path, monkeypatch):
    """The functions whose hash differs after a replacement in activations.h."""
    for folder in ("csrc", "bench"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.o"))
    shutil.copy(ROOT / "setup.py", tmp_path)
    before = accuracy.sources()
    monkeypatch.setattr(accuracy, "ROOT", tmp_path)
    monkeypatch.setattr(accuracy, "HERE", tmp_path / "bench")

    def replace(old, new, name="activations.h"):
        kernels = tmp_path / "csrc" / name
        text = kernels.read_text()
        assert old in text
        kernels.write_text(text.replace(old, new, 1))
        after = accuracy.sources()
        return {name for name in after if after[name] != before[name]}

    return replace


def test_the_hash_ignores_comments(changed):
    assert changed("FA_INLINE", "/* a comment */\n\nFA_INLINE") == set()


@pytest.mark.parametrize("name", NAMES)
def test_a_function_has_its_own_hash(accuracy, changed, name):
    """Its body, or what is beside it: then more functions, but never fewer."""
    assert name in changed(f"FN(fa_{name}_value)(", f"FN(fa_{name}_value)(/**/int code, ")


def test_a_body_belongs_to_few(changed):
    body = f"FN(fa_{NAMES[-1]}_value)("
    assert changed(body, "int code; " + body) == {NAMES[-1]}


@pytest.mark.parametrize("place", [0, 5, -1])
def test_a_table_belongs_to_those_that_look_it_up(accuracy, changed, place):
    name = list(accuracy.tables())[place]
    row = f"fa_{name}_pieces[FA_ROWS_{name}][4] = {{\n    {{0x"
    assert 0 < len(changed(row, f"{row}1", "pieces_tables.c")) < len(NAMES) / 2


def test_what_is_shared_belongs_to_all(changed):
    assert changed("FA_INLINE", "int code; FA_INLINE", "vmath.h") == {*NAMES, *GATED}


def measured(record):
    """The record's own rows, the peers' left out."""
    return [row for row in record["rows"] if "peer" not in row]


def keys(rows):
    return {(row["name"], row["slope"], row["dtype"]) for row in rows}


DIRECTIONS = {(name, slope) for name in NAMES for slope in (False, True)}


def test_every_input_of_every_function_is_on_record_and_right(record):
    rows = measured(record)
    full = {(r["name"], r["slope"]): r for r in rows if r["of"] == "all" and "bins" in r}
    assert set(full) == DIRECTIONS
    for (name, slope), row in full.items():
        # less NaN and infinity, plus the breakpoints
        assert row["inputs"] >= 2**32 - 2**25, name
        assert row["max_ulp"] <= (0.51 if slope else fa.activations[name].max_ulp), name
    doubles = [r for r in rows if r["of"] == "1e+08 inputs" and "digest" in r]
    assert {(r["name"], r["slope"]) for r in doubles} == set(full)
    assert all(r["inputs"] >= 10**8 for r in doubles)
    assert all(r["max_ulp"] <= (2 if r["slope"] else 1) for r in doubles)
    assert all(not r.get("failures") and r.get("same_bits", True) for r in rows)


def test_half_precision_gated_pairs_and_the_baseline_are_on_record(record):
    rows = measured(record)
    best = next(r["isa"] for r in rows if r["of"] == "all" and "bins" in r)
    for isa in {best, "baseline"}:
        own = [r for r in rows if r["isa"] == isa]
        for dtype in ("float16", "bfloat16"):
            found = [r for r in own if r["dtype"] == dtype]
            assert {(r["name"], r["slope"]) for r in found} == DIRECTIONS
            assert all(r["max_ulp"] <= 0.5 + 1e-6 and r["of"] == "all" for r in found)
        for dtype in ("float32", "float64"):
            gated = [r for r in own if r["name"] in GATED and r["dtype"] == dtype]
            assert sorted(r["name"] for r in gated) == sorted(GATED)
            assert all(r["max_ulp"] <= (1 if dtype == "float32" else 2) for r in gated)
            assert {(n, s, dtype) for n, s in DIRECTIONS} <= keys(r for r in own if "digest" in r)


def test_what_was_compared_with_other_instruction_sets_is_the_same(record):
    """The rest of it is sampled: bench/accuracy.py."""
    rows = measured(record)
    best = next(r["isa"] for r in rows if r["of"] == "all" and "bins" in r)
    swept = keys(r for r in rows if r["isa"] == best and "digest" in r)
    others = {r["isa"] for r in rows} - {best, "baseline"}
    assert others or best != "avx512"
    for isa in others:
        compared = [r for r in rows if r["isa"] == isa]
        assert compared
        assert keys(compared) <= swept
        assert all(r["same_bits"] for r in compared)


def test_an_error_is_excused_only_where_the_derivative_has_a_zero(record):
    with_zeros = {name for name in NAMES if slope_zeros(name, defaults(name))}
    assert with_zeros
    for row in measured(record):
        if row.get("excused"):
            gate_of = GATED if row["name"] in GATED else ()
            assert row["name"] in with_zeros or row["name"] in gate_of, row["name"]
            assert row["excused"] < 1e-5 * row["inputs"]


def test_the_page_is_made_of_this_record(accuracy, record, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import accuracy_report

    page = (ROOT / "docs" / "accuracy.md").read_text()
    assert page == accuracy_report.page(record), "run bench/accuracy_report.py"
    assert any("peer" in row for row in record["rows"]), "run bench/accuracy_report.py --peers"


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
