"""Types: the stubs say of every public thing what it takes at run time; the typed uses run; mypy
and pyright have nothing to say of the package, the examples and the uses.

The checkers run where they are (the extra types), beside torch, jax and scikit-learn, whose types
they need: .ci/run has a step for that.
"""

import ast
import dataclasses
import inspect
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import typed_uses
from conftest import GATED, NAMES, once

import fastact as fa
from fastact import _activation, _kernels, _quick, _runtime, _ufuncs

pytestmark = once
ROOT = Path(__file__).parents[1]
STUBS = {m: Path(m.__file__).with_suffix(".pyi") for m in (fa, fa.reference)}
COMPILED = [
    _activation,
    _kernels,
    _quick,
    _runtime,
    _ufuncs,
]  # stubs of what the package itself uses
ELLIPSIS = object()  # a default that the stub does not spell out


# ---- the type checkers ---------------------------------------------------------------------------


@pytest.mark.timeout(900)
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_checkers_have_nothing_to_say(checker):
    needed = [name for name in (checker, "torch", "jax", "sklearn") if find_spec(name) is None]
    if needed:
        pytest.skip(f"needs {', '.join(needed)}")
    options = ["--pythonpath", sys.executable] if checker == "pyright" else []
    done = subprocess.run([sys.executable, "-m", checker, *options], cwd=ROOT, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_is_exempt():
    """The whole package is checked, strictly; what is ignored has a code and a reason."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert tools["mypy"]["strict"]
    assert not any("ignore_errors" in table for table in tools["mypy"]["overrides"])
    assert "fastact" in tools["mypy"]["files"]
    assert "fastact" in tools["pyright"]["include"]
    for path in [*(ROOT / "fastact").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]:
        for line in path.read_text().splitlines():
            if re.search(r"#.*(type|pyright): ignore", line):
                assert re.search(r"(type|pyright): ignore\[[\w-]+\]  # \w", line), (path, line)


# ---- the typed uses ------------------------------------------------------------------------------


@pytest.mark.parametrize("use", typed_uses.USES, ids=lambda use: use.__name__)
def test_the_typed_uses_run(use):
    use()


# ---- reading stubs -------------------------------------------------------------------------------


def definitions(body):
    """{name: [nodes]} of functions, classes and variables; overloads come together."""
    found = {}
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.setdefault(node.name, []).append(node)
        elif isinstance(node, ast.AnnAssign):
            found.setdefault(node.target.id, []).append(node)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if alias.asname == alias.name:  # re-exported
                    found.setdefault(alias.name, []).append(node)
    return found


def arguments(node):
    """(name, kind, default) of each parameter of a stub's function; self is left out."""
    a, kinds = node.args, inspect.Parameter
    positional = [*[(p, kinds.POSITIONAL_ONLY) for p in a.posonlyargs],
                  *[(p, kinds.POSITIONAL_OR_KEYWORD) for p in a.args]]  # fmt: skip
    defaults = [None] * (len(positional) - len(a.defaults)) + a.defaults
    rows = [(p.arg, kind, d) for (p, kind), d in zip(positional, defaults, strict=True)]
    rows += [(p.arg, kinds.VAR_POSITIONAL, None) for p in (a.vararg,) if p]
    named = zip(a.kwonlyargs, a.kw_defaults, strict=True)
    rows += [(p.arg, kinds.KEYWORD_ONLY, d) for p, d in named]
    rows += [(p.arg, kinds.VAR_KEYWORD, None) for p in (a.kwarg,) if p]
    return [(name, kind, value(default)) for name, kind, default in rows if name != "self"]


def value(default):
    if default is None:
        return inspect.Parameter.empty
    if isinstance(default, ast.Constant) and default.value is ...:
        return ELLIPSIS
    return ast.literal_eval(default)


def runtime(function):
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()
            if p.name != "self"]  # fmt: skip


def assert_same_arguments(where, node, function):
    stub, real = arguments(node), runtime(function)
    assert [row[:2] for row in stub] == [row[:2] for row in real], where
    for (name, _, said), (_, _, default) in zip(stub, real, strict=True):
        if said is ELLIPSIS:
            assert default is not inspect.Parameter.empty, (where, name)
        else:
            assert said is default or said == default, (where, name)


# ---- comparing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("module", STUBS, ids=lambda m: m.__name__)
def test_names(module):
    stub = {n for n in definitions(ast.parse(STUBS[module].read_text()).body) if n[0] != "_"}
    if module is fa:
        assert stub == {*fa.__all__, "Backward"}
        return
    own = {n for n, v in vars(module).items() if n[0] != "_" and not inspect.ismodule(v)
           and getattr(v, "__module__", module.__name__) == module.__name__}  # fmt: skip
    assert stub == own


@pytest.mark.parametrize("module", STUBS, ids=lambda m: m.__name__)
def test_functions_and_classes(module):
    compared = 0
    for name, nodes in definitions(ast.parse(STUBS[module].read_text()).body).items():
        if name[0] == "_" or not isinstance(nodes[0], (ast.FunctionDef, ast.ClassDef)):
            continue
        thing = type(fa.activations[NAMES[0]].backward) if name == "Backward" else \
            getattr(module, name)  # fmt: skip
        for node in nodes:
            if isinstance(node, ast.FunctionDef):
                if node.args.kwarg is None or "**" in str(inspect.signature(thing)):
                    assert_same_arguments(name, node, thing)
                    compared += 1
            else:
                compare_class(name, node, thing)
    assert compared > 10


@pytest.mark.parametrize("module", COMPILED, ids=lambda m: m.__name__)
def test_compiled_modules(module):
    stub = Path(fa.__file__).with_name(module.__name__.rpartition(".")[2] + ".pyi")
    for name, (node,) in definitions(ast.parse(stub.read_text()).body).items():
        thing = getattr(module, name)
        if isinstance(node, ast.FunctionDef):
            assert_same_arguments(name, node, thing)


def compare_class(name, node, thing):
    """Methods take what the stub says, attributes and properties are there, and none is missing."""
    members = definitions(node.body)
    fields = {f.name for f in dataclasses.fields(thing)} if dataclasses.is_dataclass(thing) else ()
    for key, nodes in members.items():
        member = getattr(thing, key, None)
        if key == "__init__":
            assert_same_arguments(f"{name}.{key}", nodes[0], thing)
        elif isinstance(nodes[0], ast.FunctionDef) and inspect.isfunction(member):
            assert_same_arguments(f"{name}.{key}", nodes[0], member)
        elif isinstance(nodes[0], ast.FunctionDef) and key != "__getattr__":
            assert member is not None or key in fields, f"{name}.{key}"
    if "__getattr__" not in members:
        public = {n for n, v in vars(thing).items() if n[0] != "_" and inspect.isfunction(v)}
        assert public | {f for f in fields if f[0] != "_"} <= set(members), name


@pytest.mark.parametrize("name", [*NAMES, *GATED])
def test_activations(name):
    """An activation and its backward take the row's parameters, in every overload."""
    body = definitions(ast.parse(STUBS[fa].read_text()).body)
    kind = body[name][0].annotation.slice.id
    function = getattr(fa, name)
    for cls, real in ((kind, function), (f"{kind}Backward", function.backward)):
        overloads = definitions(body[cls][0].body)["__call__"]
        assert len(overloads) >= 2
        want = [row[:2] for row in runtime(real) if row[1] < inspect.Parameter.KEYWORD_ONLY]
        defaults = {row[0]: row[2] for row in runtime(real)}
        for node in overloads:
            rows = arguments(node)
            assert [row[:2] for row in rows if row[1] < inspect.Parameter.KEYWORD_ONLY] == want
            for key, of_kind, said in rows:
                if of_kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
                    assert said == defaults[key]
            assert "out" in [row[0] for row in rows]


def test_a_wrong_stub_is_found():
    node = ast.parse("def merge_stats(*stats: object, axis: int = 1) -> object: ...").body[0]
    with pytest.raises(AssertionError):
        assert_same_arguments("planted", node, fa.merge_stats)
    node = ast.parse("def batch_norm_stats(x: object, axis: int = 2) -> object: ...").body[0]
    with pytest.raises(AssertionError):
        assert_same_arguments("planted", node, fa.batch_norm_stats)
