"""The examples run and learn what they set out to learn; the documentation's code runs too."""

import importlib.util
import re
import sys

import pytest
from conftest import ROOT, once

pytestmark = once

EXAMPLES = ROOT / "examples"
PAGES = sorted((ROOT / "docs").glob("**/*.md"))
EXTRA = {"sklearn": "the extra demo", "torch": "torch", "jax": "jax", "mpi4py": "the extra mpi"}


def example(name):
    for module in re.findall(
        r"^\s*(?:from|import) (\w+)", (EXAMPLES / f"{name}.py").read_text(), re.M
    ):
        if module in EXTRA:
            pytest.importorskip(module)
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "accuracy"),
    [
        ("mlp_numpy", 0.96),
        ("convnet_numpy", 0.96),
        ("sklearn_classifier", 0.93),
        ("fused_torch", 0.9),
    ],
)
def test_an_example_learns(name, accuracy, capsys):
    assert example(name).main() > accuracy
    assert "accuracy" in capsys.readouterr().out


def test_an_example_of_a_file(capsys):
    assert example("larger_than_memory").main() < 1e-5
    assert "chunks" in capsys.readouterr().out


def test_every_example_is_tested_and_listed():
    tested = {"mlp_numpy", "convnet_numpy", "sklearn_classifier", "larger_than_memory"}
    tested |= {"fused_torch", "mpi_training"}  # by test_distributed.py
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested
    listed = (EXAMPLES / "README.md").read_text()
    assert all(f"`{name}.py`" in listed for name in tested)


@pytest.mark.filterwarnings("ignore")  # scikit-learn's own, about its checks
def test_the_classifier_keeps_scikit_learns_rules():
    checks = pytest.importorskip("sklearn.utils.estimator_checks")
    classifier = example("sklearn_classifier").FusedMLPClassifier(epochs=30)
    results = checks.check_estimator(classifier, on_fail=None)
    assert len(results) > 40
    failed = [r for r in results or [] if r["status"] == "failed"]
    assert not failed, [(r["check_name"], r["exception"]) for r in failed]
    assert sum(r["status"] == "passed" for r in results) > 40


def blocks(path):
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), flags=re.M | re.S)


@pytest.mark.parametrize(
    "path", [p for p in PAGES if blocks(p)], ids=lambda p: str(p.relative_to(ROOT / "docs"))
)
def test_the_code_of_a_page_runs_from_top_to_bottom(path, capsys):
    code = "\n".join(blocks(path))
    if ">>>" in code:
        pytest.skip("run as a doctest by test_definitions.py or test_reference.py")
    for module, owner in EXTRA.items():
        if re.search(rf"\b(from|import) (fastact\.)?{module}\b", code):
            pytest.importorskip(module, reason=f"the page uses {owner}")
    exec(compile(code, str(path), "exec"), {"__name__": "page"})
