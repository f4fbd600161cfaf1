"""``python -m fastact verify`` passes here, and reports what is wrong where something is."""

import dataclasses

import numpy as np
import pytest
from conftest import FLOATS, GATED, HALVES, ISA, NAMES, SCALAR, once

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


@once
def test_every_name_passes_its_examination_in_every_dtype(small):
    assert set(_verify.dtypes().values()) == {*FLOATS, *HALVES}
    assert _verify.names() == [*NAMES, *GATED, _verify.BATCH_NORM]
    for name in _verify.names():
        assert _verify.examination(name).report()["failures"] == []


@once
@pytest.mark.parametrize("name", [CURVED, GATED[0]])
@pytest.mark.parametrize(("which", "column"), [(0, "forward"), (1, "backward")])
def test_a_reference_that_differs_is_reported(small, monkeypatch, name, which, column):
    pairs = reference.gated if name in GATED else reference.activations
    pair = list(pairs[name])
    right = pair[which]

    def wrong(*args):
        result = right(*args)
        parts = result if isinstance(result, tuple) else (result,)
        return (
            tuple(part * (1 + 1e-7) for part in parts)
            if which and name in GATED
            else parts[0] * (1 + 1e-7)
        )

    pair[which] = wrong
    monkeypatch.setitem(pairs, name, tuple(pair))
    assert column in failing(_verify.examination(name).report())


class Wrong:
    """A function that is right but for some calls: `change` sees x, y (or dx) and `out`."""

    def __init__(self, right, forward=None, backward=None):
        self.right, self.change = right, forward
        if backward is not None:
            self.backward = Wrong(right.backward, backward)

    def __getattr__(self, name):
        return getattr(self.right, name)

    def __call__(self, *args, out=None, **kwargs):
        x = args[-1].copy() if args[-1] is out else args[-1]
        y = self.right(*args, **kwargs) if out is None else self.right(*args, out=out, **kwargs)
        if self.change is not None:
            for part in y if isinstance(y, tuple) else (y,):
                self.change(x, part, out)
        return y


def nudge(y, where):
    y[where] = np.nextafter(y[where], y.dtype.type(9))


def where(condition, at=5):
    """A change by the smallest amount, where condition(x, out) holds."""

    def change(x, y, out):
        if y.dtype == np.float32 and condition(x, out):
            nudge(y, at)

    return change


FAULTS = [
    (where(lambda x, out: x.strides[0] == 3 * x.itemsize), "bits"),
    (where(lambda x, out: x.strides[0] < 0), "bits"),
    (where(lambda x, out: not x.flags.aligned), "bits"),
    (where(lambda x, out: x.size > 20 * SMALL / 3, at=-1), "bits"),
    (where(lambda x, out: x.size == 3, at=0), "bits"),
    (where(lambda x, out: out is not None), "bits"),
    (lambda x, y, out: y.__setitem__(np.isnan(x), 0) if x.size > 99 else None, "forward"),
]


@once
@pytest.mark.parametrize("name", [CURVED, GATED[0]])
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize(("change", "column"), FAULTS)
def test_one_wrong_call_is_reported(small, monkeypatch, name, direction, change, column):
    if column == "forward" and name in GATED:
        pytest.skip("gates are finite")
    monkeypatch.setattr(_verify, "dtypes", lambda: {"f32": np.float32})
    examination = _verify.examination(name)
    examination.function = Wrong(examination.function, **{direction: change})
    column = direction if column == "forward" else column
    assert column in failing(examination.report())


@once
@pytest.mark.parametrize("name", [CURVED, GATED[0]])
def test_a_gradient_that_is_not_the_slope_is_reported(small, name):
    examination = _verify.examination(name)

    def change(x, dx, out):
        dx *= 1.001 if x.size == 2001 else 1

    examination.function = Wrong(examination.function, backward=change)
    assert failing(examination.report()) == {"slope"}


@once
def test_parameters_that_matter_as_arrays_are_reported(small, monkeypatch):
    monkeypatch.setattr(_verify, "dtypes", lambda: {"f32": np.float32})
    examination = _verify.examination(SCALAR[0])
    right = examination.function

    class AsArrays(Wrong):
        def __call__(self, x, *params, **kwargs):
            y = right(x, *params, **kwargs)
            if np.ndim(params[0]):
                nudge(y, 5)
            return y

    examination.function = AsArrays(right)
    assert failing(examination.report()) == {"bits"}


@once
def test_a_fused_activation_that_differs_is_reported(small):
    for direction in ("forward", "backward"):
        examination = _verify.examination(CURVED)
        change = where(lambda x, out: x.ndim == 3, at=(0, 0, 0))
        examination.function = Wrong(examination.function, **{direction: change})
        assert failing(examination.report()) == {"fused"}


BATCH_NORM_FAULTS = {
    "forward": lambda x, y, grads: y.__imul__(np.float32(1 + 3e-7)),
    "backward": lambda x, y, grads: grads["x"].__imul__(1 + 1e-5),
    "slope": lambda x, y, grads: grads["weight"].__imul__(1.001),
    "bits": lambda x, y, grads: nudge(grads["bias"], 3) if x.strides[1] == x.itemsize else None,
}


@once
@pytest.mark.parametrize("column", list(BATCH_NORM_FAULTS))
def test_a_batch_norm_that_is_wrong_is_reported(monkeypatch, column):
    change = BATCH_NORM_FAULTS[column]
    forward, backward = fastact.batch_norm_forward, fastact.batch_norm_backward
    fields = ("x", "weight", "bias")

    def wrong_forward(x, **kwargs):
        y, ctx = forward(x, **kwargs)
        change(x, y, {f: np.ones(19, x.dtype) for f in fields})
        return y, ctx

    def wrong_backward(dy, ctx, **kwargs):
        grads = backward(dy, ctx, **kwargs)
        own = {
            f: np.zeros(19) if getattr(grads, f) is None else getattr(grads, f).copy()
            for f in fields
        }
        change(ctx.x, np.ones(1, np.float32), own)
        return dataclasses.replace(grads, **own)

    assert _verify.examination(_verify.BATCH_NORM).report()["failures"] == []
    monkeypatch.setattr(fastact, "batch_norm_forward", wrong_forward)
    monkeypatch.setattr(fastact, "batch_norm_backward", wrong_backward)
    assert column in failing(_verify.examination(_verify.BATCH_NORM).report())


@once
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


@once
def test_digests_that_differ_are_told_whatever_this_machine_has(capsys):
    reports = [
        {"isa": isa, "name": CURVED, "digest": digest}
        for isa, digest in (("avx512", "a"), ("avx2", "b"), ("baseline", "c"))
    ]
    failures = _verify.other_bits(reports)
    assert failures == [f"bits: {CURVED}: avx512 and avx2 differ"]
    assert _verify.other_bits(reports[::2]) == []
    _verify.show(["avx512", "avx2"], [], failures)
    shown = capsys.readouterr()
    assert "FAILED" in shown.out
    assert "avx512 and avx2 differ" in shown.out + shown.err


@once
def test_workers_run_side_by_side_and_in_order(monkeypatch):
    monkeypatch.setattr(_verify, "run_worker", lambda isa: iter([{"isa": isa, "name": CURVED}] * 2))
    seen = []
    reports = _verify.run_workers(["one", "two"], seen.append)
    assert [r["isa"] for r in reports] == ["one", "one", "two", "two"]
    assert sorted(seen) == [f"{isa} {CURVED}" for isa in ("one", "one", "two", "two")]


@once
def test_a_process_that_dies_is_no_success(monkeypatch):
    monkeypatch.setenv("PYTHONSTARTUP", "")
    with pytest.raises(RuntimeError, match="no such"):
        list(_verify.run_worker("no such"))
