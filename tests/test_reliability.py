"""The page of what tries to break fastact says which of its records are of other sources."""

import json

import pytest
from conftest import ROOT, once

pytestmark = [
    once,
    pytest.mark.skipif(not (ROOT / "tools" / "native.py").exists(), reason="no source tree"),
]
FIGURES = {"forks": 7, "hangs": 0}


@pytest.fixture
def tool(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "tools")
    import reliability

    monkeypatch.setattr(reliability, "RECORDS", tmp_path)
    monkeypatch.setattr(reliability, "PAGE", tmp_path / "page.md")
    reliability.record("forks", FIGURES, tmp_path)
    return reliability


def page(tool):
    tool.PAGE.write_text(tool.page())
    return tool.page()


def change_sources(tool, monkeypatch):
    monkeypatch.setattr(tool, "fingerprint", lambda step: "of others")


def test_a_record_belongs_to_its_sources(tool, monkeypatch):
    assert "others compute | 7 | 0 hangs |" in page(tool)
    change_sources(tool, monkeypatch)
    assert f"others compute{tool.EARLIER} | 7 | 0 hangs |" in page(tool)


def test_a_record_without_sources_is_of_earlier_ones(tool):
    (tool.RECORDS / "forks.json").write_text(json.dumps(FIGURES))
    assert tool.EARLIER in page(tool).split("| --- |")[-1]


def test_the_check_lists_them_and_passes(tool, monkeypatch, capsys):
    page(tool)
    tool.check()
    assert not capsys.readouterr().out
    change_sources(tool, monkeypatch)
    tool.check()
    assert f"others compute{tool.EARLIER}: record it again" in capsys.readouterr().out
    tool.record("forks", {**FIGURES, "hangs": 1}, tool.RECORDS)
    with pytest.raises(SystemExit):
        tool.check()


def test_every_row_has_sources_and_they_differ(tool):
    rows = {row.__name__ for row in tool.ROWS}
    assert tool.SOURCES.keys() <= rows
    assert len({tool.fingerprint(step) for step in ("asan", "border", "mutants", "pytest")}) == 4
