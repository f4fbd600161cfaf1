"""What tools/mkdocs_hooks.py writes into the pages when the documentation is built."""

import importlib
import importlib.util

import pytest
from conftest import GATED, NAMES, ROOT, once

pytestmark = once


@pytest.fixture(scope="module")
def hooks():
    path = ROOT / "tools" / "mkdocs_hooks.py"
    if not path.exists():
        pytest.skip("needs the source tree")
    for module in ("mkdocs", "griffe"):
        pytest.importorskip(module, reason="the extra docs")
    spec = importlib.util.spec_from_file_location("mkdocs_hooks", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_gallery_shows_every_function(hooks):
    for section, names in ((hooks.gallery(), NAMES), (hooks.gated(), GATED)):
        for name in names:
            assert f" {{: #{name} }}" in section
            assert f"](pictures/{name}.svg)" in section


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_the_reference_of_a_package_has_every_public_name(hooks, name):
    pytest.importorskip(name)
    page = hooks.package(name)
    for public in importlib.import_module(f"fastact.{name}").__all__:
        assert f"\n## {public} {{" in page or f"](activations.md#{public})" in page
    written = (ROOT / "docs" / "reference" / f"{name}.md").read_text()
    assert f"<!-- make: package {name} -->" in written
    assert f"reference/{name}.md" in (ROOT / "mkdocs.yml").read_text()


def test_what_has_no_docstring_stops_the_build(hooks):
    griffe = pytest.importorskip("griffe")
    complaint = pytest.raises(LookupError, match="bare is public and has no docstring")
    with griffe.temporary_visited_module("def bare(x): ...") as module, complaint:
        hooks.in_source("", "", module["bare"])


def test_a_template_and_constants_of_the_source(hooks):
    griffe = pytest.importorskip("griffe")
    code = "A = 'of {n}'\nB = {'b': 1 / 4}\nclass C:\n    __doc__ = A.format(n='it')\n    "
    code += "def __init__(self, x, /, *rest, b=B['b'], **named): ..."
    with griffe.temporary_visited_module(code) as module:
        page = hooks.in_source("## C", "", module["C"])
    assert page == ["## C", "", "```py", "C(x, /, *rest, b=0.25, **named)", "```", "", "of it", ""]


def test_examples_among_the_text_and_stars(hooks):
    text = hooks.of_docstring("Adds.\n\n>>> 1 + 1\n2\n\nParameters\n----------\n**more\n    Any.")
    assert "```pycon\n>>> 1 + 1\n2\n```" in text
    assert r"- **\*\*more**: Any." in text
