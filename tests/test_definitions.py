"""docs/definitions.md has a section and a picture for every function, and its limits are true."""

import re

import numpy as np
import pytest
from conftest import GATED, NAMES, ROOT, defaults, each

import fastact as fa

PAGE = ROOT / "docs" / "definitions.md"
pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="needs the source tree")
FIELDS = ["value", "source", "derivative", "limits", "zero", "exact form"]


def sections():
    text = PAGE.read_text()
    return {
        match[1]: (match[2], text[match.end() :].split("\n#", 1)[0])
        for match in re.finditer(r"^### (\w+)\((x.*)\)$", text, flags=re.MULTILINE)
    }


def test_each_wrong_snippet_is_code_that_runs_beside_the_right_value():
    text = PAGE.read_text().split("\n## Snippets that get these wrong\n", 1)[1]
    snippets = text.split("\n### ")[1:]
    assert len(snippets) >= 10
    for body in snippets:
        assert "\n>>> " in body, body  # which tests/test_reference.py runs
        assert "reference." in body, body


def test_every_picture_of_value_derivative_and_error_is_there_and_no_other():
    for folder, drawn in (("pictures", [*NAMES, *GATED]), ("pictures/accuracy", NAMES)):
        found = [path.stem for path in (PAGE.parent / folder).glob("*.svg")]
        assert sorted(found) == sorted(drawn)


def test_the_page_lists_the_table():
    assert sorted(sections()) == sorted(NAMES)
    for name in GATED:
        assert re.search(rf"^\| {name}\(x, gate\) \|( .+ \|){{3}}$", PAGE.read_text(), re.MULTILINE)


@each
def test_signature_fields_and_picture(name):
    signature, body = sections()[name]
    stated = [part.split("=") for part in signature.split(", ")[1:]]
    parameters = fa.activations[name].parameters
    assert [part[0] for part in stated] == list(parameters)
    for part, default in zip(stated, parameters.values(), strict=True):
        if default is None:
            assert len(part) == 1
        else:
            numerator, _, denominator = part[1].partition("/")
            assert float(numerator) / float(denominator or 1) == default
    for field in FIELDS:
        assert re.search(rf"^\| {field} \| .+ \|$", body, flags=re.MULTILINE), field
    assert f"(pictures/{name}.svg)" in body
    assert (PAGE.parent / "pictures" / f"{name}.svg").read_text().startswith("<?xml")


@each
def test_limits_that_are_numbers_are_right(name):
    _, body = sections()[name]
    line = re.search(r"^\| limits \| (.+) \|$", body, flags=re.MULTILINE)[1]
    pattern = r"([-+\w./]+), ([-+\w./]+); derivative ([-+\w./]+), ([-+\w./]+)( \(.*\))?"
    stated = re.fullmatch(pattern, line)
    if stated is None:
        pytest.skip(f"in words: {line}")
    ends = np.array([-np.inf, np.inf])
    function, params = fa.activations[name], defaults(name)
    named = dict(zip(function.parameters, params, strict=True))
    named |= {f"-{key}": -value for key, value in named.items()}
    got = [*function(ends, *params), *function.backward(np.ones(2), ends, *params)]
    for text, value in zip(stated.groups()[:4], got, strict=True):
        want = named.get(text)
        if want is None:
            if not re.fullmatch(r"[-+]?(inf|[\d.]+)", text):
                continue  # a constant by its name
            want = float(text)
        assert want == value, (text, value)
        assert np.signbit(want) == np.signbit(value) or text == "0", (text, value)
