"""What the commands have in common: --json, exit statuses, colours, progress, a closed pipe."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import ISA, NAMES

import fastact
from fastact import _demo, _terminal, _verify
from fastact.__main__ import COMMANDS, build_parser, main


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "environment", "coloured"),
    [
        (Terminal(), {}, True),
        (io.StringIO(), {}, False),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"NO_COLOR": ""}, True),  # as no-color.org has it
        (Terminal(), {"TERM": "dumb"}, False),
    ],
)
def test_colours_on_a_terminal_only(monkeypatch, stream, environment, coloured):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    text = _terminal.colour("ok", "green", stream)
    assert text == ("\x1b[32mok\x1b[0m" if coloured else "ok")


def test_progress_says_which_extra_has_the_bar(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        with _terminal.progress(2, "step", "demo") as tick:
            tick()
            tick("second")
        assert ('pip install "fastact[demo]"' in stream.getvalue()) == stream.isatty()


def test_progress_draws_on_a_terminal_and_wipes_it(monkeypatch):
    pytest.importorskip("tqdm")
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        with _terminal.progress(3, "step", "demo") as tick:
            tick("first")
        assert ("first" in stream.getvalue()) == stream.isatty()


def test_every_command_says_its_exit_statuses():
    assert "verify" in COMMANDS
    for name in COMMANDS:
        with pytest.raises(SystemExit):
            build_parser().parse_args([name, "--nosuch"])
        done = subprocess.run(
            [sys.executable, "-m", "fastact", name, "--help"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert "exit status: 0 " in done.stdout
        assert f"example: python -m fastact {name}" in done.stdout
        assert "--json" in done.stdout


def test_info_as_json(capsys):
    assert main(["info", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["fastact"] == fastact.__version__
    assert told["numpy"] == np.__version__
    assert told["isa"] == ISA
    assert told.keys() > fastact.config().keys()


@pytest.mark.parametrize("failures", [[], ["forward: planted"]])
def test_verify_as_json(monkeypatch, capsys, failures):
    def reports(isa):
        for name in NAMES[:2]:
            yield {"isa": isa, "name": name, "failures": failures, "digest": "", "forward": 0.5,
                   "backward": 0.5}  # fmt: skip

    monkeypatch.setattr(_verify, "run_worker", reports)
    assert main(["verify", "--json", "--isa", ISA]) == bool(failures)
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is not bool(failures)
    assert told["isas"] == [ISA]
    assert [r["name"] for r in told["reports"]] == NAMES[:2]
    assert len(told["failures"]) == 2 * len(failures)


def test_demo_as_json(monkeypatch, tmp_path, capsys):
    for module in _demo.EXTRA:
        pytest.importorskip(module)
    monkeypatch.setattr(_demo, "TIMED_ROUNDS", 1)
    command = ["demo", "--json", "--epochs", "2", "--activation", NAMES[1], "--out", str(tmp_path)]
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out)
    (result,) = told["results"]
    assert result["activation"] == NAMES[1]
    assert len(result["losses"]) == len(result["accuracies"]) == told["epochs"] == 2
    assert result["fastact_seconds"] > 0
    assert (tmp_path / _demo.PICTURE_NAME).exists()


def test_a_reader_that_has_seen_enough_is_no_error():
    code = "import sys; from fastact.__main__ import main; sys.exit(main(['info']))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0
