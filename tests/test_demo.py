"""``python -m fastact demo`` does what its options say and reports what it finds."""

import builtins
import dataclasses
import struct

import numpy as np
import pytest

import fastact
from fastact import _demo
from fastact.__main__ import main

NAMES = list(fastact.activations)
LEARNED = [name for name in NAMES if _demo.learned_parameters(name)]
LINEAR = [name for name in NAMES if _demo.is_linear(name)]
CURVED = [name for name in NAMES if name not in LEARNED + LINEAR]


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("sklearn", reason="needs the extra: pip install 'fastact[demo]'")
    return _demo.load_digits()


@pytest.fixture
def quick(monkeypatch):
    """Everything but the time that timing takes; skips where the extra is not installed."""
    for module in _demo.EXTRA:
        pytest.importorskip(module, reason="needs the extra: pip install 'fastact[demo]'")
    monkeypatch.setattr(_demo, "TIMED_ROUNDS", 1)
    monkeypatch.setattr(_demo.time_epochs, "__defaults__", (1, lambda: None))


def demo(*options):
    return main(["demo", "--epochs", "2", *map(str, options)])


def assert_png(path):
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    assert min(width, height) > 300
    assert len(data) > 5000


# ---- the command -----------------------------------------------------------------------------


def test_selected_activations_table_and_picture(quick, tmp_path, capsys):
    chosen = [CURVED[0], CURVED[-1], *LEARNED[:1]]
    picture = tmp_path / "new" / "curves.png"
    assert demo("--activation", ",".join(chosen), "--out", picture) == 0
    out, err = capsys.readouterr()
    rows = [line.split()[0] for line in out.splitlines() if "%" in line and line.endswith("%")]
    assert rows == chosen
    assert f"training curves: {picture}" in out
    assert "epoch" in err  # the progress bar
    assert_png(picture)


def test_activation_is_repeatable_and_out_may_be_a_folder(quick, tmp_path, capsys):
    first, second = CURVED[:2]
    options = ["--activation", first, "--activation", second, "--activation", first]
    assert demo(*options, "--out", tmp_path) == 0
    out = capsys.readouterr().out
    assert out.count(f"\n{first} ") == out.count(f"\n{second} ") == 1
    assert_png(tmp_path / _demo.PICTURE_NAME)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--activation", "nosuch"], "unknown activation 'nosuch'; choose from " + NAMES[0]),
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
def test_missing_package_is_named_with_the_extra(module, monkeypatch, capsys):
    import_module = _demo.importlib.import_module

    def hidden(name, *args):
        if name == module:
            raise ImportError(f"No module named {name!r}")
        return builtins.object() if name in _demo.EXTRA else import_module(name, *args)

    monkeypatch.setattr(_demo.importlib, "import_module", hidden)
    assert demo() == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert _demo.EXTRA[module] in err
    assert 'pip install "fastact[demo]"' in err


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"], ["info", "--help"]])
def test_help_has_an_example(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 0
    assert "example: python -m fastact" in capsys.readouterr().out


def test_info_and_version(capsys):
    assert main(["info"]) == 0
    assert capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--version"])
    assert fastact.__version__ in capsys.readouterr().out


# ---- what it computes ------------------------------------------------------------------------


@pytest.mark.parametrize("name", [CURVED[0], *LEARNED[:1]])
def test_same_numbers_for_a_seed_and_others_for_another(digits, name):
    def numbers(seed):
        result = _demo.train(name, digits, 2, seed)
        return result.losses, result.accuracies, result.dead

    first = numbers(3)
    assert numbers(3) == first
    assert numbers(4) != first


@pytest.mark.parametrize("name", NAMES)
def test_first_steps_agree_with_the_reference(digits, name):
    assert _demo.cross_check(name, digits, seed=0).worst <= _demo.TOLERANCE


@pytest.mark.parametrize("field", ["x", "weight", "bias"])
def test_wrong_gradient_is_reported(quick, monkeypatch, tmp_path, capsys, field):
    def backward(dy, ctx, right=_demo.FASTACT.backward):
        grads = right(dy, ctx)
        wrong = {f: getattr(grads, f) for f in ("x", "weight", "bias", "activation_params")}
        wrong[field] = wrong[field] * np.float32(1.001)
        return _demo.SimpleNamespace(**wrong)

    monkeypatch.setattr(_demo, "FASTACT", dataclasses.replace(_demo.FASTACT, backward=backward))
    assert demo("--activation", CURVED[0], "--out", tmp_path) == 1
    assert f"{CURVED[0]}: the first" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_plain_numpy_trains_the_same_network(digits, name):
    fused = _demo.Network(_demo.FASTACT, name, 0)
    plain = _demo.Network(_demo.PLAIN, name, 0)
    assert plain.params["linear0.weight"].dtype == np.float32
    images, labels = next(_demo.batches(digits, np.random.default_rng(0)))
    losses = [_demo.train_step(network, images, labels, 0.1) for network in (fused, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for fused_y, plain_y in zip(fused.inputs, plain.inputs, strict=True):
        assert plain_y.dtype == np.float32
        np.testing.assert_allclose(fused_y, plain_y, rtol=1e-3, atol=1e-4)
    assert _demo.relative_difference(_demo._flat(plain), _demo._flat(fused)) < _demo.TOLERANCE


@pytest.mark.parametrize("name", LEARNED)
def test_learned_parameters_are_trained(digits, name):
    network = _demo.Network(_demo.FASTACT, name, 0)
    images, labels = next(_demo.batches(digits, np.random.default_rng(0)))
    _demo.train_step(network, images, labels, 0.1)
    for parameter in _demo.learned_parameters(name):
        assert (network.params[f"activation0.{parameter}"] != _demo.LEARNED_START).any()


def test_dead_units_are_counted(digits):
    network = _demo.Network(_demo.FASTACT, CURVED[0], 0)
    network.params["norm1.weight"][:] = 0  # constant before the activation, so after it as well
    share = _demo.dead_share(network, digits.test_images)
    first, second = network.inputs[1:]
    dead = (first == first[0]).all(axis=0).sum() + second.shape[1]
    assert share == pytest.approx(dead / (first.shape[1] + second.shape[1]))
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
