"""``python -m fastact demo`` does what its options say and reports what it finds."""

import dataclasses
import struct
import subprocess
import sys

import numpy as np
import pytest
from conftest import once

import fastact
from fastact import _demo, _demo_network, _demo_numpy
from fastact.__main__ import COMMANDS, main

pytestmark = once

NAMES = list(fastact.activations)
LEARNED = [name for name in NAMES if fastact.activations[name].learned]
LINEAR = [name for name in NAMES if _demo.is_linear(name)]
CURVED = [name for name in NAMES if name not in LEARNED + LINEAR]


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("sklearn", reason="needs the extra: pip install 'fastact[demo]'")
    with _demo._one_thread():  # as the demo trains
        yield _demo.load_digits()


@pytest.fixture
def quick(monkeypatch):
    """Everything but the time that timing takes; skips where the extra is not installed."""
    for module in _demo.EXTRA:
        pytest.importorskip(module, reason="needs the extra: pip install 'fastact[demo]'")
    monkeypatch.setattr(_demo, "TIMED_ROUNDS", 1)


def demo(*options):
    return main(["demo", "--epochs", "2", *map(str, options)])


def rows(table):
    """The lines of the printed table, split into columns."""
    return [line.split() for line in table.splitlines() if line.endswith("%")]


def assert_png(path):
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert data.endswith(b"IEND\xaeB`\x82")
    assert min(struct.unpack(">II", data[16:24])) > 300  # width and height
    assert len(data) > 5000


# ---- the command -----------------------------------------------------------------------------


def test_selected_activations_table_and_picture(quick, tmp_path, capsys):
    chosen = [CURVED[0], CURVED[-1], *LEARNED[:1]]
    picture = tmp_path / "new" / "curves.png"
    assert demo("--activation", ",".join(chosen), "--out", picture) == 0
    out, err = capsys.readouterr()
    assert [row[0] for row in rows(out)] == chosen
    assert f"training curves: {picture}" in out
    assert err == ""  # the progress bar is for terminals
    assert_png(picture)


def test_every_activation_by_default(quick, tmp_path, capsys):
    assert main(["demo", "--epochs", "1", "--seed", "7", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "training steps against fastact.reference" in out
    assert [row[0] for row in rows(out)] == NAMES
    assert_png(tmp_path / _demo.PICTURE_NAME)


def test_activation_is_repeatable(quick, tmp_path, capsys):
    first, second = CURVED[:2]
    options = ["--activation", first, "--activation", second, "--activation", first]
    assert demo(*options, "--out", tmp_path) == 0
    assert [row[0] for row in rows(capsys.readouterr().out)] == [first, second]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--activation", "nosuch"], f"unknown activation 'nosuch'; choose from {NAMES[0]}"),
        (["--epochs", "0"], "'0' is not an integer from 1 up"),
        (["--epochs", "two"], "'two' is not an integer from 1 up"),
        (["--seed", "-1"], "'-1' is not an integer from 0 up"),
        (["--out", "curves.jpg"], "neither a folder nor a file ending in .png"),
    ],
)
def test_bad_option_exits_2_and_says_what_is_accepted(options, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["demo", *options])
    assert stopped.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_out_below_a_file_is_an_error_before_training(quick, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert demo("--out", tmp_path / "file" / "curves.png") == 2
    assert "--out" in capsys.readouterr().err


@pytest.mark.parametrize("module", _demo.EXTRA)
def test_missing_package_is_named_with_the_extra(module, quick, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, module, None)  # its import fails as if it were not there
    assert demo("--out", tmp_path) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert _demo.EXTRA[module] in err
    assert 'pip install "fastact[demo]"' in err


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--help"])
    assert stopped.value.code == 0
    assert f"example: {' '.join(['python -m fastact', *command])}" in capsys.readouterr().out


def test_info_and_version(capsys):
    assert main(["info"]) == 0
    assert capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--version"])
    assert fastact.__version__ in capsys.readouterr().out


def test_info_imports_nothing_of_the_extra():
    code = (
        "import sys; from fastact.__main__ import main; main(['info']); "
        f"sys.exit(any(name in sys.modules for name in {[*_demo.EXTRA, 'scipy']}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---- what it computes ------------------------------------------------------------------------


@pytest.mark.parametrize("name", [CURVED[0], *LEARNED[:1]])
def test_same_numbers_for_a_seed_and_others_for_another(digits, name):
    def numbers(seed):
        result = _demo.train(name, digits, 2, seed)
        return result.losses, result.accuracies, result.dead

    first = numbers(3)
    assert numbers(3) == first
    assert numbers(4) != first


@pytest.mark.parametrize("field", ["x", "weight", "bias"])
def test_wrong_gradient_is_reported(quick, monkeypatch, tmp_path, capsys, field):
    def backward(dy, ctx, right=fastact.batch_norm_backward):
        grads = right(dy, ctx)
        return dataclasses.replace(grads, **{field: getattr(grads, field) * np.float32(1.001)})

    monkeypatch.setattr(fastact, "batch_norm_backward", backward)
    assert demo("--activation", CURVED[0], "--out", tmp_path) == 1
    assert f"{CURVED[0]}: the first" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_wrong_output_is_reported(quick, monkeypatch, tmp_path, capsys):
    def forward(x, right=fastact.batch_norm_forward, **arguments):
        y, ctx = right(x, **arguments)
        return y * np.float32(1.001), ctx

    monkeypatch.setattr(fastact, "batch_norm_forward", forward)
    assert demo("--activation", CURVED[0], "--out", tmp_path) == 1
    assert "fused call" in capsys.readouterr().err


def test_nan_is_no_agreement():
    assert not _demo.Agreement(0.0, 0.0, _demo.relative_difference([np.nan], [1.0])).good


@pytest.mark.parametrize("name", NAMES)
def test_plain_numpy_trains_the_same_network(digits, name):
    fused, plain = (_demo.Network(backend, name, 0) for backend in (fastact, _demo_numpy))
    images, labels = next(_demo.batches(digits, np.random.default_rng(0)))
    losses = [_demo.train_step(network, images, labels, 0.1) for network in (fused, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for fused_y, plain_y in zip(fused.inputs, plain.inputs, strict=True):
        assert plain_y.dtype == np.float32
        np.testing.assert_allclose(fused_y, plain_y, rtol=1e-3, atol=1e-4)
    assert _demo.relative_difference(_demo._flat(plain), _demo._flat(fused)) < 1e-4


def test_without_a_textbook_expression_the_reference_stands_in(monkeypatch):
    monkeypatch.setattr(_demo_numpy, "_candidates", lambda name: iter(()))
    x = np.linspace(-2, 2, 9, dtype=np.float32)
    function = _demo_numpy.expression.__wrapped__(CURVED[0])
    assert not function.textbook
    (dx,) = function.gradient(x, x, function.value(x))
    exact = fastact.reference.activations[CURVED[0]][1](x, x)
    assert dx.dtype == np.float32
    np.testing.assert_allclose(dx, exact, rtol=1e-6)


@pytest.mark.parametrize("name", LEARNED)
def test_learned_parameters_are_trained(digits, name):
    network = _demo.Network(fastact, name, 0)
    images, labels = next(_demo.batches(digits, np.random.default_rng(0)))
    _demo.train_step(network, images, labels, 0.1)
    for parameter in fastact.activations[name].learned:
        assert (network.params[f"activation0.{parameter}"] != _demo_numpy.START).any()


def test_dead_units_are_counted(digits):
    network = _demo.Network(fastact, CURVED[0], 0)
    network.params["norm1.weight"][:] = 0  # constant before the activation, so after it as well
    share = _demo.dead_share(network, digits.test_images)
    _, first, second, _ = _demo_network.SIZES
    alive = np.ptp(network.inputs[1], axis=0) > _demo.DEAD_BELOW
    assert share == pytest.approx(1 - alive.sum() / (first + second))
    assert share < 1


def test_goal_counts_at_the_default_epochs_only(capsys):
    low = _demo.Result(CURVED[0], accuracies=[_demo.GOAL - 0.01])
    assert _demo.report_goal([low], _demo.DEFAULT_EPOCHS) == 1
    assert "below the goal" in capsys.readouterr().err
    assert _demo.report_goal([low], 1) == 0
    assert "this run had 1" in capsys.readouterr().out
    for name in LINEAR:
        low = _demo.Result(name, accuracies=[0.5])
        assert _demo.report_goal([low], _demo.DEFAULT_EPOCHS) == 0
