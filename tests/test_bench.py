"""``python -m fastact bench``: what is timed is right, what is missing is named."""

import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import GATED, ISA, LEARNED, NAMES, PLAIN, ROOT, once

import fastact as fa
from fastact import _bench, reference
from fastact.__main__ import main
from fastact._bench import (
    batchnorm,
    calls,
    charts,
    elementwise,
    expressions,
    floor,
    memory,
    names,
    onednn,
    page,
    peer,
    peer_torch,
    peers,
    record,
    report,
    scaling,
    suite,
    timing,
)

pytestmark = once
CURVED = NAMES[-2]
SUITES = {s.SUITE.name: s.SUITE for s in (elementwise, batchnorm, calls, scaling, memory, onednn)}
TINY = {
    "elementwise": ["--sizes", "7,70000", "--activations", f"{CURVED},{LEARNED[0]},{GATED[0]}"],
    "batchnorm": ["--shapes", "4x3x5x5,32x4", "--activations", f"{CURVED},{LEARNED[0]}"],
    "calls": [],
    "scaling": ["--quick"],
    "memory": ["--quick"],
    "onednn": ["--quick"],
}
NONE = ["--against", ""]


@pytest.fixture
def short(monkeypatch):
    """Timings of a moment: what they say is of no interest here."""
    monkeypatch.setattr(timing, "SLOT", 1e-4)
    monkeypatch.setattr(timing, "SETTLE", 0)
    monkeypatch.setattr(scaling, "QUICK_GROWTH", (1e4, 1e5))
    monkeypatch.setattr(memory, "QUESTIONS", {"call": ("peak", "left"), "step": ("peak",)})
    monkeypatch.setattr(floor, "library", lambda: None)  # compiled once, in its own test


def run(name, *options, out=None):
    place = ["--out", str(out)] if out else []
    return suite.main(SUITES[name], [*TINY[name], "--rounds", "2", *options, *place])


def well_formed(data, name):
    """The schema of a record: what every reader of the JSON may rely on."""
    assert data["schema"] == record.SCHEMA
    assert (data["suite"], data["isa"]) == (name, ISA)
    assert {"cpu", "cores", "memory_bytes", "system", "python", "numpy"} <= set(data["machine"])
    assert data["config"]["version"] == fa.__version__
    assert re.fullmatch(r"[0-9a-f]{16}", data["build"])
    for key in ("peers", "skipped"):
        assert all(isinstance(k, str) and isinstance(v, str) for k, v in data[key].items())
    for row in data["rows"]:
        assert isinstance(row["mode"], str)
        assert ("times" in row) != ("arrays" in row)
        for times in row.get("times", {}).values():
            assert len(times) == 3
            assert 0 < times[1] <= times[0] <= times[2]
        assert suite.OWN in row.get("times", row.get("arrays"))


# ---- the suites ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in SUITES if n != "onednn"])
def test_a_suite_writes_a_record(short, tmp_path, capfd, name):
    assert run(name, *NONE, out=tmp_path) == 0
    data = json.loads((tmp_path / f"{name}.json").read_text())
    well_formed(data, name)
    assert data["rows"]
    assert data["failures"] == []
    printed = capfd.readouterr().out
    assert printed.count("\n") == len(data["rows"])
    assert all(f" {row['mode']} " in printed for row in data["rows"])


def test_a_peer_is_found_by_name_and_timed(short, tmp_path):
    pytest.importorskip("scipy")
    assert run("elementwise", "--activations", ",".join(NAMES), "--against", "numpy,scipy",
               "--modes", "forward", out=tmp_path) == 0  # fmt: skip
    rows = record.load(tmp_path / "elementwise.json")["rows"]
    beside = {p: {r["activation"] for r in rows if p in r["times"]} for p in peers.PEERS}
    assert {name for name in NAMES if hasattr(np, name)} <= beside["numpy"]
    assert set(names.NUMPY) <= beside["numpy"]
    assert {name for name, s in names.SPELLINGS.items() if "expit" in s} <= beside["scipy"]


@pytest.mark.parametrize("module", ["torch", "jax", "numexpr"])
def test_an_installed_peer_is_timed(short, tmp_path, module):
    pytest.importorskip(module)
    for name in ("elementwise", "batchnorm"):
        if module not in SUITES[name].peers:
            continue
        options = [*TINY[name], "--activations", names.CALL, "--rounds", "2", "--against", module]
        command = [sys.executable, "-m", f"fastact._bench.{name}", *options, "--out", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        rows = record.load(tmp_path / f"{name}.json")["rows"]
        assert any(module in row["times"] for row in rows), done.stderr


def test_the_command_runs_a_suite_in_its_own_process(tmp_path):
    command = [sys.executable, "-m", "fastact", "bench", "calls", "--quick", "--rounds", "1",
               "--against", "", "--out", str(tmp_path), "--html", str(tmp_path / "page.html"),
               "--isa", ISA]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "== calls" in done.stdout
    well_formed(json.loads((tmp_path / f"calls-{ISA}.json").read_text()), "calls")
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


def test_json_is_all_that_is_printed(tmp_path):
    command = [sys.executable, "-m", "fastact", "bench", "calls", "--json", "--rounds", "1"]
    done = subprocess.run([*command, "--against", ""], capture_output=True, text=True)
    data = json.loads(done.stdout)
    assert data["calls"]["rows"]
    well_formed(data["calls"], "calls")


def test_an_unknown_suite_or_peer_or_activation(capsys):
    assert main(["bench", "speed"]) == 2
    assert "elementwise" in capsys.readouterr().err
    for options in (["--against", "tensorflow"], ["--activations", "softer"]):
        with pytest.raises(SystemExit, match="2"):
            run("elementwise", *options)
        told = capsys.readouterr().err
        assert f"argument {options[0]}: no {options[1]}; there are " in told
        assert "numpy" in told or CURVED in told


@pytest.mark.parametrize(
    "options",
    [
        ["--rounds", "-1"], ["--rounds", "0"], ["--rounds", "two"], ["--against", "tensorflow"],
        ["--seconds", "-1"], ["--seconds", "nan"], ["--seconds", "soon"],
        ["--out", "taken"], ["--out", "taken/below"],
        ["--html", "nowhere/page.html"], ["--html", "."],
    ],
)  # fmt: skip
def test_a_wrong_option_stops_it_before_it_starts(monkeypatch, tmp_path, capsys, options):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_bench, "run_suite", None)
    (tmp_path / "taken").write_text("")
    try:
        status = main(["bench", "calls", "--json", *options])
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert f"{options[0]}: " in told.err
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_page_may_lie_beside_the_records(monkeypatch, tmp_path):
    monkeypatch.setattr(_bench, "run_suite", lambda *_: 0)
    out = tmp_path / "new"
    assert main(["bench", "calls", "--out", str(out), "--html", str(out / "page.html")]) == 0


def test_nothing_is_said_of_records_that_there_are_not(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(_bench, "run_suite", lambda *_: 1)
    assert main(["bench", "calls", "--out", str(tmp_path)]) == 1
    assert "wrote" not in capsys.readouterr().err


# ---- wrong results, missing peers ------------------------------------------------------------


def wrong(function):
    """The same, off by a thousandth at the first element."""

    def changed(*args, **kwargs):
        result = function(*args, **kwargs)
        parts = [np.array(p, np.float64) for p in parts_of(result)]
        parts[0].flat[0] *= 1.001
        return tuple(parts) if isinstance(result, tuple) else parts[0]

    return changed


def parts_of(result):
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("which", [0, 1])
def test_a_wrong_activation_is_a_failure_and_no_time(short, tmp_path, monkeypatch, capsys, which):
    pair = list(reference.activations[CURVED])
    pair[which] = wrong(pair[which])
    monkeypatch.setitem(reference.activations, CURVED, tuple(pair))
    assert run("elementwise", *NONE, out=tmp_path) == 1
    data = record.load(tmp_path / "elementwise.json")
    assert {f["activation"] for f in data["failures"]} == {CURVED}
    assert {r["activation"] for r in data["rows"]} == {LEARNED[0], GATED[0]}
    assert f"FAILED {CURVED}" in capsys.readouterr().err


@pytest.mark.parametrize("function", ["batch_norm_forward", "batch_norm"])
def test_a_wrong_batch_norm_is_a_failure(short, tmp_path, monkeypatch, function):
    right = getattr(fa, function)

    def changed(x, **options):
        result = right(x, **options)
        y = result[0] if isinstance(result, tuple) else result
        y[-1, -1] += 1e-3
        return result

    monkeypatch.setattr(fa, function, changed)
    assert run("batchnorm", *NONE, out=tmp_path) == 1
    data = record.load(tmp_path / "batchnorm.json")
    assert len(data["failures"]) == 6  # two activations, two layouts of one shape, one of the other
    assert data["rows"] == []


def test_a_wrong_gradient_is_a_failure(short, monkeypatch):
    right = fa.batch_norm_backward

    def changed(dy, ctx):
        grads = right(dy, ctx)
        grads.x[0, 0] *= 1.01
        return grads

    monkeypatch.setattr(fa, "batch_norm_backward", changed)
    assert run("batchnorm", *NONE) == 1


@pytest.mark.parametrize("mode", elementwise.MODES)
@pytest.mark.parametrize("where", [3, -1])
def test_one_element_of_many_that_differs_is_seen(mode, where):
    job = elementwise.Job(CURVED, elementwise.PERIOD + 100)
    calls = elementwise.own(job)
    job.hold(calls)
    right = calls[mode].result().copy()
    right[where] = right[where] * 1.000001 if where == 3 else np.nextafter(right[where], 9)
    calls[mode] = timing.Statement("y", y=right)
    with pytest.raises(suite.WrongResult, match=mode):
        job.hold(calls)


def test_a_missing_peer_is_named(short, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(peer_torch.Torch, "module", "no_such_module")
    assert run("elementwise", "--against", "torch", out=tmp_path) == 0
    assert "torch: left out" in capsys.readouterr().err
    data = record.load(tmp_path / "elementwise.json")
    assert "no_such_module" in data["skipped"]["torch"]
    assert data["peers"] == {}


def test_onednn_without_its_wheels_is_named(short, tmp_path, monkeypatch, capsys):
    def missing():
        raise ImportError("pip install it")

    monkeypatch.setattr(onednn, "the_program", missing)
    assert run("onednn", out=tmp_path) == 0
    assert "onednn: left out, pip install it" in capsys.readouterr().err
    assert record.load(tmp_path / "onednn.json")["rows"] == []


def test_a_peer_that_fails_costs_its_cell_alone(short, tmp_path, monkeypatch, capsys):
    class Broken(peer.Peer):
        module = "numpy"

        def elementwise(self, job):
            return {"forward": timing.Statement("1 / 0")}

    monkeypatch.setitem(peers.PEERS, "jax", Broken())
    assert run("elementwise", "--against", "jax", out=tmp_path) == 0
    assert "ZeroDivisionError" in capsys.readouterr().err
    data = record.load(tmp_path / "elementwise.json")
    assert data["rows"]
    assert all("jax" not in row["times"] for row in data["rows"])


def test_a_peer_that_computes_something_else_is_named(short, tmp_path, monkeypatch, capsys):
    class Liar(peer.Peer):
        module = "numpy"

        def batch_norm(self, job):
            peer.require(job.exact_gradient * 1.1, job.exact_gradient)

    monkeypatch.setitem(peers.PEERS, "jax", Liar())
    assert run("batchnorm", "--against", "jax", out=tmp_path) == 0
    assert "differs from the reference" in capsys.readouterr().err
    data = record.load(tmp_path / "batchnorm.json")
    assert any(key.startswith("jax: (4, 3, 5, 5)") for key in data["skipped"])
    assert all("jax" not in row["times"] for row in data["rows"])


# ---- interrupted runs ------------------------------------------------------------------------


def test_a_run_is_resumed(short, tmp_path):
    assert run("elementwise", *NONE, "--seconds", "0", out=tmp_path) == suite.UNFINISHED
    path = tmp_path / "elementwise.json"
    assert record.load(path)["rows"] == []
    assert run("elementwise", *NONE, "--sizes", "7", out=tmp_path) == 0
    before = record.load(path)
    assert run("elementwise", *NONE, "--resume", out=tmp_path) == 0
    after = record.load(path)
    assert after["rows"][: len(before["rows"])] == before["rows"]
    keys = [(r["activation"], r["n"], r["mode"]) for r in after["rows"]]
    assert len(set(keys)) == len(keys) > len(before["rows"])


def test_another_build_is_not_resumed(short, tmp_path, monkeypatch):
    assert run("elementwise", *NONE, "--sizes", "7", out=tmp_path) == 0
    monkeypatch.setattr(record, "build", lambda: "0" * 16)
    assert run("elementwise", *NONE, "--resume", "--seconds", "0", out=tmp_path) == suite.UNFINISHED
    assert record.load(tmp_path / "elementwise.json")["rows"] == []


@pytest.mark.parametrize(
    ("statuses", "whole"),
    [([0, 0], 0), ([0, 3], 3), ([3, 1], 1), ([0, -9], 1), ([139, 3], 1), ([0, 130], 130)],
)
def test_the_status_of_several_suites(monkeypatch, statuses, whole):
    left = (subprocess.CompletedProcess([], status) for status in statuses)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: next(left))
    assert main(["bench", "calls", "memory"]) == whole


# ---- the parts -------------------------------------------------------------------------------


class Fake:
    def __init__(self, log, name, seconds):
        self.log, self.name, self.seconds = log, name, seconds

    def time(self, repeats):
        self.log.append(self.name)
        return self.seconds


def test_rounds_are_interleaved(monkeypatch):
    monkeypatch.setattr(timing, "SETTLE", 0)
    log = []
    times = timing.measure({n: Fake(log, n, 1e-2 * (k + 1)) for k, n in enumerate("abc")}, 3)
    assert [times[n].median for n in "abc"] == pytest.approx([0.01, 0.02, 0.03])
    rounds = log[-9:]
    assert ["".join(rounds[k : k + 3]) for k in (0, 3, 6)] == ["abc", "bca", "cab"]


@pytest.mark.parametrize(("torch", "again"), [(1.05, True), (0.95, True), (1.2, False)])
def test_what_is_close_is_measured_again(torch, again):
    times = {"fastact": 1.0, "torch": torch, "numpy": 9.0, "floor all": 1.0}
    times = {name: timing.Timing(t, t, t) for name, t in times.items()}
    assert suite.undecided(times, ("torch", "numpy")) == again


def test_a_slow_contender_has_fewer_rounds(monkeypatch):
    monkeypatch.setattr(timing, "SETTLE", 0)
    log = []
    timing.measure({"slow": Fake(log, "slow", 0.9), "fast": Fake(log, "fast", 0.001)}, 9)
    assert log.count("slow") < 9 < log.count("fast")


@pytest.mark.parametrize("compiled", [True, False])
def test_the_floor_moves_what_it_says(compiled, monkeypatch):
    if compiled and floor.library() is None:
        pytest.skip("needs gcc")
    x, dy = (np.arange(40_000, dtype=np.float32) + k for k in (0, 7))
    y, dx = np.zeros((2, 40_000), np.float32)
    aligned = [floor.aligned(40_000) for _ in range(4)]
    for to, a in zip(aligned, (x, dy, y, dx), strict=True):
        to[:] = a
    for threads, streams in ((1, False), (1, True), (2, True)):
        aligned[2][:] = aligned[3][:] = 0
        if compiled:
            floor.Compiled("rcba", aligned, 40_000, threads, streams).time(2)
        else:
            floor.WithNumpy("rcba", aligned, threads).time(2)
        assert np.array_equal(aligned[2], x)
        assert np.array_equal(aligned[3], x + dy)


def test_the_floor_is_the_best_of_its_ways():
    slow, fast = timing.Timing(2, 2, 2), timing.Timing(1, 1, 1)
    times = {"fastact": slow, "floor all": slow, "floor one": fast, "layout floor stream": slow}
    best = floor.best(times)
    assert best == {"fastact": slow, "floor": fast, "layout floor": slow}


@pytest.mark.parametrize("name", NAMES + GATED)
def test_a_formula_for_numexpr(name):
    """numexpr need not be there: NumPy knows its functions."""
    known = {f.__name__: f for f in (np.where, np.exp, np.log, np.tanh, np.sqrt)} | {"abs": abs}
    job = elementwise.Job(name, 100)
    source, constants = expressions.for_numexpr(name, job.formula, job.values, known)
    if source is None:
        assert "Phi" in job.formula
        return
    given = dict(zip(("x", "gate"), job.inputs, strict=False))
    got = eval(source, {**known, **constants, **given})
    exact = job.value(*job.inputs, *job.values.values())
    assert got.dtype == np.float32  # or numexpr would work in float64
    assert np.allclose(got, exact, rtol=1e-5, atol=1e-6)


def test_names_are_names():
    assert {*names.SPELLINGS, *names.NUMPY, *names.QUICK, *names.BATCH_NORM} <= set(NAMES)
    assert {names.CALL, names.ONEDNN, names.MEMORY_BOUND, names.ARITHMETIC} <= set(PLAIN)


def test_memory_is_measured(tmp_path):
    if not memory.RESET.exists():
        pytest.skip("needs /proc")
    found = memory.measured("fastact", "forward of a step", (8, 64, 32, 32))
    assert 0.9 < found["peak"] < 1.5  # y, and what a page is more
    assert 0.9 < found["kept"] < 1.5  # x


def test_ten_layers_are_the_same_in_place():
    x, dy = memory.data((64, 16))
    ordinary, in_place = (memory.fastact_calls(x, dy)[q]() for q in (memory.TEN, memory.IN_PLACE))
    for got, want in zip(in_place, ordinary, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-2, atol=1e-2 * np.abs(want).max())
    assert memory.relative_time("fastact", memory.IN_PLACE, x, dy, 1) > 0


def test_ten_layers_of_torch():
    torch = pytest.importorskip("torch", reason="the extra torch")
    x, dy = memory.data((64, 16))
    asked = memory.torch_calls(x, dy)
    want = memory.fastact_calls(x, dy)[memory.TEN]()[::-1]  # the last layer's comes first
    for got, gradient in zip(asked[memory.TEN](), want, strict=True):
        largest = np.abs(gradient).max()
        np.testing.assert_allclose(got.grad.numpy(), gradient, rtol=1e-2, atol=1e-2 * largest)
    y, leaf = asked["step"]()
    assert isinstance(asked["forward of a step"]().y, torch.Tensor)
    assert y.shape == leaf.grad.shape


# ---- what records say ------------------------------------------------------------------------


def row(own, **others):
    times = {"fastact": own, **others}
    return {"activation": CURVED, "n": 4096, "mode": "forward",
            "times": {k: timing.Timing(v, v, v) for k, v in times.items()}}  # fmt: skip


def test_ratios_and_lost_cells():
    rows = [row(1, torch=4, floor=0.5), row(2, torch=1, jax=8, floor=1)]
    assert report.ratios(rows, "torch") == [4, 0.5]
    assert report.geometric_mean(report.ratios(rows, "torch")) == pytest.approx(math.sqrt(2))
    assert [(who, ratio) for _, who, ratio in report.lost(rows)] == [("torch", 0.5)]
    assert report.compared(rows) == 3
    assert [report.against_the_best(r) for r in rows] == [4, 0.5]
    assert report.peers_of(rows) == ["torch", "jax"]


@pytest.mark.parametrize(("own", "met"), [(1, True), (3, False)])
def test_a_target_is_met_or_missed(own, met):
    rows = [row(own, torch=2.5, floor=1)]
    data = {"rows": rows, "config": {"llc_bytes": 1 << 25}}
    targets = report.elementwise_targets({"elementwise": data}, "elementwise")
    assert [t.met for t in targets[:2]] == [met, met]
    assert targets[2].met is None  # nothing so large was measured
    assert report.none_lost("", []).met is None


@pytest.mark.parametrize(
    ("shape", "layout", "met"),
    [
        ("32x64x56x56", "NCHW", [True, None, None, None]),
        ("1x3x2048x2048", "NCHW", [None] * 4),  # one channel's rows exceed L2
        ("4x4x4x4", "NCHW", [None] * 4),  # within the caches
        ("65536x64", "NC", [None, None, True, False]),
    ],
)
def test_shares_of_the_floor_are_of_the_shapes_they_name(shape, layout, met):
    times = row(1, **{"floor": 0.95, "layout floor": 0.8})["times"]
    cell = {"shape": shape, "layout": layout, "mode": "step", "times": times}
    data = {"rows": [cell], "config": {"llc_bytes": 1 << 24, "l2_bytes": 1 << 20}}
    assert [t.met for t in report.floor_targets({"batchnorm": data}, "batchnorm")] == met


def test_a_record_of_another_instruction_set_has_its_own_targets_maps_and_pictures(recorded):
    pytest.importorskip("matplotlib")
    records = {"batchnorm-avx2": recorded["batchnorm"]}
    whats = [t.what for t in report.targets(records) if t.met is not None]
    assert any(what.startswith("BatchNorm (avx2) step and evaluation") for what in whats)
    peers = report.peers_of(recorded["batchnorm"]["rows"])
    assert {f"batchnorm-avx2-{peer}" for peer in peers} == set(dict(charts.all_of(records)))
    assert "BatchNorm + activation" in page.page(records)


def test_growth_is_that_of_one_activation():
    def cell(name, n, seconds):
        return {"question": "growth", "mode": "forward out", "activation": name, "n": n,
                "times": {suite.OWN: timing.Timing(seconds, seconds, seconds)}}  # fmt: skip

    rows = [
        cell(name, n, n * each) for name, each in (("a", 1), ("b", 5)) for n in (10, 1000, 2000)
    ]
    rows[0]["times"] = {suite.OWN: timing.Timing(500, 500, 500)}  # within the caches
    rows[-1]["times"] = {suite.OWN: timing.Timing(15_000, 15_000, 15_000)}
    data = {"rows": rows, "config": {"llc_bytes": 100}}
    found = [t for t in report.scaling_targets({"scaling": data}) if "element" in t.what]
    assert [t.reached for t in found] == ["1.50"]


@pytest.fixture(scope="module")
def recorded():
    if not (ROOT / "docs" / "performance").exists():
        pytest.skip("needs the source tree")
    return report.load(ROOT / "docs" / "performance")


def test_the_page_is_whole_and_self_contained(recorded, monkeypatch):
    monkeypatch.setattr(charts, "by_activation", lambda rows, mode: {})  # pictures take long
    text = page.page(recorded)
    assert 'name="viewport"' in text
    assert not re.search(r'(src|href)="(?!data:)', text)
    compared = {r["activation"] for r in recorded["elementwise"]["rows"] if report.peers_of([r])}
    for name in (*compared, "torch eager", "Targets", "Lost cells"):
        assert name in text


def test_a_picture(recorded, tmp_path):
    pytest.importorskip("matplotlib")
    rows = [r for r in recorded["elementwise"]["rows"] if r["activation"] == CURVED]
    chosen = [r for r in rows if r["mode"] == "forward"]
    for figure in (charts.speed_panel(chosen, CURVED, "forward"),
                   charts.elementwise_map(rows, ("forward",), "")):  # fmt: skip
        figure.savefig(tmp_path / "a.png")
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_every_picture(recorded):
    pytest.importorskip("matplotlib")
    few = recorded | {
        name: {**data, "rows": [r for r in data["rows"] if r["activation"] in (CURVED, LEARNED[0])]}
        for name, data in recorded.items() if name.startswith("elementwise")
    }  # fmt: skip
    drawn = dict(charts.all_of(few))
    assert {"steps", "elementwise-forward", "elementwise-ratios-out"} <= set(drawn)
    assert charts.png(drawn["steps"], dpi=30).startswith(b"\x89PNG")


def test_the_documentation_follows_from_the_records():
    """docs/performance.md and the README's table are those of docs/performance/*.json."""
    program = ROOT / "bench" / "performance.py"
    if not program.exists():
        pytest.skip("needs the source tree")
    command = [sys.executable, str(program), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", list(SUITES))
def test_a_script_of_bench_asks_the_same(name):
    program = ROOT / "bench" / f"{name}.py"
    if not program.exists():
        pytest.skip("needs the source tree")
    command = [sys.executable, str(program), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert SUITES[name].question.split(",")[0].split("?")[0][:40] in " ".join(done.stdout.split())
