"""The bugs that are planted to see that tools find them: what each replaces is there, once."""

import pytest
from conftest import ROOT, once

CSRC, PACKAGE = ROOT / "csrc", ROOT / "fastact"
pytestmark = [
    once,
    pytest.mark.skipif(
        not (CSRC.exists() and (ROOT / "tools" / "native.py").exists()), reason="no source tree"
    ),
]


def planted():
    """(folder, bug) of each tool."""
    import border
    import mutants
    import native

    yield from ((CSRC, bug) for bug in [*native.PLANTED.values(), *mutants.FAULTS])
    yield from ((PACKAGE, bug) for bug in border.PLANTED)


def found(folder, bug):
    return (folder / bug.file).read_text().count(bug.old)


def test_the_text_of_every_planted_bug_is_there_once(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    wrong = {bug.name: found(folder, bug) for folder, bug in planted() if found(folder, bug) != 1}
    assert not wrong, "bugs and how often their text is there"
