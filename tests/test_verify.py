"""``python -m fastact verify`` passes here, and reports what is wrong where something is."""

import numpy as np
import pytest
from conftest import GATED, ISA, NAMES

import fastact
from fastact import _verify, reference
from fastact.__main__ import main

CURVED = NAMES[-2]
SMALL = 4000


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(_verify, "COUNT", SMALL)


def failing(examination):
    return {failure.split(":")[0] for failure in examination["failures"]}


def test_this_installation_is_right(capfd):
    assert main(["verify", "--isa", ISA]) == 0
    out, _ = capfd.readouterr()
    for name in NAMES + GATED:
        assert f"\n{name} " in out
    assert out.endswith("all is right\n")


@pytest.mark.parametrize("name", NAMES)
def test_every_activation_passes_its_examination(small, name):
    assert _verify.Examination(name).report()["failures"] == []


@pytest.mark.parametrize(("which", "column"), [(0, "forward"), (1, "backward")])
def test_a_reference_that_differs_is_reported(small, monkeypatch, which, column):
    pair = list(reference.activations[CURVED])
    right = pair[which]
    pair[which] = lambda *a: right(*a) * (1 + 1e-7)
    monkeypatch.setitem(reference.activations, CURVED, tuple(pair))
    assert column in failing(_verify.Examination(CURVED).report())


class Broken:
    """An activation that is right but for one call."""

    def __init__(self, wrong):
        self.right, self.wrong = fastact.activations[CURVED], wrong

    def __getattr__(self, name):
        return getattr(self.right, name)

    def __call__(self, x, *params, **kwargs):
        y = self.right(x, *params, **kwargs)
        return self.wrong(x, y)


def nudged(x, y, where):
    y = y.copy()
    y[where] = np.nextafter(y[where], y.dtype.type(9))
    return y


@pytest.mark.parametrize(
    ("wrong", "column"),
    [
        (lambda x, y: nudged(x, y, 5) if x.strides[-1] != x.itemsize else y, "bits"),
        (lambda x, y: nudged(x, y, 9) if x.size > 20 * SMALL else y, "bits"),
        (lambda x, y: nudged(x, y, (0, 0, 0)) if x.ndim == 3 else y, "fused"),
        (lambda x, y: y * 1.001 if x.size == 2001 else y, "slope"),
        (lambda x, y: np.where(np.isnan(x), 0, y).astype(y.dtype), "forward"),
    ],
)
def test_one_wrong_call_is_reported(small, monkeypatch, wrong, column):
    examination = _verify.Examination(CURVED)
    examination.function = Broken(wrong)
    assert column in failing(examination.report())


def test_a_gated_pair_that_differs_is_reported(small, monkeypatch):
    name = GATED[0]
    value, gradient = reference.gated[name]
    assert _verify.examine_gated(name)["failures"] == []
    monkeypatch.setitem(reference.gated, name, (lambda x, g: value(x, g) * (1 + 1e-7), gradient))
    assert "forward" in failing(_verify.examine_gated(name))


def test_instruction_sets_that_differ_and_their_exit_status(monkeypatch, capsys):
    def reports(isa):
        for name in _verify.names():
            digest = f"{isa}" if name == CURVED else "same"
            yield {"isa": isa, "name": name, "failures": [], "digest": digest, "forward": 0.5,
                   "backward": 0.5}  # fmt: skip

    monkeypatch.setattr(_verify, "run_worker", reports)
    sets = fastact.config()["isas"]
    fused = [isa for isa in sets if isa != "baseline"]
    status = main(["verify"])
    out, err = capsys.readouterr()
    assert status == (1 if len(fused) > 1 else 0)
    assert (f"bits: {CURVED}" in err) == (len(fused) > 1)
    assert ("FAILED" in out) == (len(fused) > 1)


def test_a_process_that_dies_is_no_success(monkeypatch):
    monkeypatch.setenv("PYTHONSTARTUP", "")
    with pytest.raises(RuntimeError, match="no such"):
        list(_verify.run_worker("no such"))
