"""The rules that a wheel is held to (tools/check_wheels.py, tools/sbom.py) see what is wrong."""

import email
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
import zipfile

import pytest
from conftest import ROOT, once

import fastact

pytestmark = once


def tool(name):
    path = ROOT / "tools" / f"{name}.py"
    if not path.exists():
        pytest.skip("needs the source tree")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


RIGHT = [
    "fastact/__init__.py", "fastact/__init__.pyi", "fastact/py.typed", "fastact/capi.pxd",
    "fastact/include/fastact_capi.h", "fastact.libs/libgomp-0123abcd.so.1.0.0",
    "fastact-1.0.dist-info/sboms/fastact.cdx.json", "fastact-1.0.dist-info/licenses/LICENSE",
    "fastact-1.0.dist-info/sboms/auditwheel.cdx.json",
    "fastact-1.0.dist-info/licenses/licenses/NOTICE.txt",
]  # fmt: skip


def wheel(folder, names, name="fastact-1.0-cp311-cp311-manylinux_2_28_x86_64.whl", size=10):
    with zipfile.ZipFile(folder / name, "w") as archive:
        for path in names:
            archive.writestr(path, "x" * size)
    return folder / name


def test_a_right_wheel_passes(tmp_path):
    assert tool("check_wheels").content_errors(wheel(tmp_path, RIGHT)) == []


@pytest.mark.parametrize("missing", RIGHT[1:])
def test_a_missing_file_is_reported(tmp_path, missing):
    names = [name for name in RIGHT if name != missing]
    (error,) = tool("check_wheels").content_errors(wheel(tmp_path, names))
    assert error.startswith("no ")


@pytest.mark.parametrize("extra", ["fastact/_runtime.pyx", "tests/conftest.py", "fastact/a.c"])
def test_a_stray_file_is_reported(tmp_path, extra):
    (error,) = tool("check_wheels").content_errors(wheel(tmp_path, [*RIGHT, extra]))
    assert extra in error


def test_size_and_tag_are_looked_at(tmp_path):
    check = tool("check_wheels")
    large = wheel(tmp_path, RIGHT, size=check.LIMIT)
    assert "are allowed" in check.content_errors(large)[0]
    plain = wheel(tmp_path, RIGHT, "fastact-1.0-cp311-cp311-linux_x86_64.whl")
    assert check.content_errors(plain) == ["no manylinux wheel"]


def test_two_builds_that_differ_are_named(tmp_path):
    check = tool("check_wheels")
    (tmp_path / "b").mkdir()
    first, second = wheel(tmp_path, RIGHT), wheel(tmp_path / "b", RIGHT, size=11)
    with pytest.raises(SystemExit, match=r"two builds differ: .*py\.typed"):
        check.check_same_bytes(first, second)
    check.check_same_bytes(first, first)


def test_the_bill_of_materials(tmp_path):
    path = tmp_path / "sboms" / "fastact.cdx.json"
    versions = {"numpy": "2.0", "cython": "3.1"}
    tool("sbom").write_sbom(path, "1.0", versions)
    bill = json.loads(path.read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["purl"] == "pkg:pypi/fastact@1.0"
    assert {c["name"]: c["version"] for c in bill["components"]} == versions
    refs = {c["bom-ref"] for c in [*bill["components"], bill["metadata"]["component"]]}
    assert {d["ref"] for d in bill["dependencies"]} == refs
    second = tmp_path / "again.json"
    tool("sbom").write_sbom(second, "1.0", versions)
    assert second.read_bytes() == path.read_bytes()


def test_the_build_requirements_are_pinned_and_hashed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pinned = (ROOT / "requirements" / "build.txt").read_text()
    for requirement in project["build-system"]["requires"]:
        name = re.split(r"[<>=]", requirement)[0]
        assert re.search(
            rf"^{name}==\S+ \\\n    --hash=sha256:[0-9a-f]{{64}}", pinned, re.MULTILINE
        )
    for file in ("build", "release"):
        text = (ROOT / "requirements" / f"{file}.txt").read_text()
        assert "://" not in text
        blocks = re.split(r"\n(?=\S)", text)
        pins = [block for block in blocks if "==" in block and not block.startswith("#")]
        assert pins
        assert all("--hash=sha256:" in block for block in pins)


METADATA = """
import sys, Cython.Build, setuptools.dist
from distutils.core import run_setup
Cython.Build.cythonize = lambda *_, **__: []
run_setup("setup.py", stop_after="config").metadata.write_pkg_file(sys.stdout)
"""


def test_the_long_description_stands_without_the_files_beside_it():
    for module in ("Cython", "setuptools"):
        pytest.importorskip(module)
    if not (ROOT / "setup.py").exists():
        pytest.skip("needs the source tree")
    command = [sys.executable, "-W", "ignore", "-c", METADATA]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    metadata = email.message_from_string(done.stdout)
    assert metadata["Description-Content-Type"] == "text/markdown"
    text = metadata.get_payload()
    assert text.startswith("# fastact\n")
    assert "tutorial (`docs/tutorial.md`)" in text
    assert "| 32x64x56x56 NCHW |" in text
    links = re.findall(r"\]\((.*?)\)", text)
    assert [link for link in links if not link.startswith("https://")] == []
    assert "![" not in text


def test_what_becomes_of_links_and_pictures():
    made = tool("long_description").long_description(
        "![a](b.png)\n\n[it](docs/it.md) [bench/](bench) [`a.md`](a.md) [there](https://a.b/c)\n"
    )
    assert made == "it (`docs/it.md`) `bench` `a.md` [there](https://a.b/c)\n"


def test_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" in project["dynamic"]
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(r"^## (\S+)", changelog, re.MULTILINE)[1] == fastact.__version__
