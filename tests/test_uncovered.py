"""What excuses lines that nothing reaches: every reason is of a line or function that is there."""

import ast
import functools
import re

import pytest
from conftest import ROOT, once

DEFINITIONS = (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)
pytestmark = [
    once,
    pytest.mark.skipif(
        not ((ROOT / "csrc").exists() and (ROOT / "tools").exists()), reason="no source tree"
    ),
]


@pytest.fixture
def native(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    return pytest.importorskip("native")


def lines_of_c(native, file):
    """(function, text) of each."""
    text = (native.CSRC / file).read_text().splitlines()
    return {(native.function_around(text, n), line.strip()) for n, line in enumerate(text, 1)}


def test_lines_of_c(native):
    there = {file: lines_of_c(native, file) for file, *_ in native.reasons()}
    gone = [key for key in native.reasons() if key[1:] not in there[key[0]]]
    assert not gone


def test_a_line_belongs_to_its_function_alone(native):
    text = (native.CSRC / "strided.c").read_text().splitlines()
    ends = [n for n, line in enumerate(text, 1) if line == "}"]
    assert len({native.function_around(text, n) for n in ends}) == len(ends)


def test_lines_of_python(native):
    tool = pytest.importorskip("python_coverage", reason="needs coverage")
    listed = native.reasons(tool.REASONS)
    assert not [key for key in listed if not is_there(tool, *key)]


def test_lines_of_cython(native):
    tool = pytest.importorskip("cython_coverage", reason="needs coverage")
    for file, key in native.reasons(tool.REASONS):
        text = (ROOT / "fastact" / file).read_text().splitlines()
        where, line = re.fullmatch(r"(?:([\w.]+): )?(.*)", key).groups()
        lines = [n for n, each in enumerate(text, 1) if each.strip() == line]
        found = {tool.enclosing(text, n) for n in lines or range(1, len(text) + 1)}
        assert (where or "" if lines else key) in found, (file, key)


def is_there(tool, file, key):
    """A function or class, or `function: line`, or a line of the module."""
    tree, text, defined = parsed(file)
    where, line = re.fullmatch(r"(?:([\w.]+): )?(.*)", key).groups()
    if line in text:
        lines = [n for n, each in enumerate(text, 1) if each == line]
        return (where or "") in [tool.enclosing(tree, n) for n in lines]
    return key == "*" or key in defined


@functools.cache
def parsed(file):
    source = (ROOT / "fastact" / file).read_text()
    tree = ast.parse(source)
    return tree, [line.strip() for line in source.splitlines()], set(names(tree))


def names(tree, around=""):
    """The functions and classes, as `class.function`."""
    for node in ast.iter_child_nodes(tree):
        inner = around
        if isinstance(node, DEFINITIONS):
            yield around + node.name
            inner += node.name + "."
        yield from names(node, inner)
