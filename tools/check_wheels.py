"""Builds the wheels as a release does, and meets them as a user does.

    python tools/check_wheels.py           every CPython found here, oldest and newest NumPy,
                                           all tests: about an hour on two cores
    python tools/check_wheels.py --quick   a few tests; this CPython with the newest NumPy, the
                                           others with the oldest: some minutes

An sdist is built; from it, in an environment with the hashed requirements/*.txt alone, a wheel,
twice in different folders, which must give the same bytes (--quick: of this CPython, and what
ccache knows is not compiled again). ccache, where it is installed, compiles what all CPythons share
once. auditwheel makes it a manylinux wheel.
Its contents, size and metadata are checked; then it is installed where there is no compiler, no
Cython and no OpenMP but its own, and the tests run there.

--out FOLDER keeps the sdist and the wheels. Linux only; needs the package index.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

BEGIN = time.monotonic()
ROOT = Path(__file__).resolve().parent.parent
LIMIT = 3_000_000  # bytes of a wheel
# The oldest NumPy that has wheels for a CPython, and fastact's oldest.
PYTHONS = {"3.11": "numpy==2.0.*", "3.12": "numpy==2.0.*", "3.13": "numpy==2.1.*"}
NEWEST = "numpy"
BUILD_ONLY = {"cython", "setuptools"}  # in the extra `test`, for the examples in C: absent here
QUICK = ["test_layer.py", "test_import.py"]
ALL = [""]
QUICK_HERE = [*QUICK, "test_capi.py", "test_threads.py"]

# The parts of the wheel that is installed: all from its own folder, OpenMP included.
SMOKE = """
import sys, numpy as np, fastact as fa
x = np.linspace(-3, 3, 100_000, dtype=np.float32)
assert all(np.isfinite(f(x, *[0.25] * list(f.parameters.values()).count(None))).all()
           for f in fa.activations.values())
y, ctx = fa.batch_norm_forward(x.reshape(-1, 10), activation="silu")
assert fa.batch_norm_backward(y, ctx).x.shape == y.shape
assert "site-packages" in fa.__file__, fa.__file__
runtimes = {line.split()[-1] for line in open("/proc/self/maps") if "gomp" in line}
assert len(runtimes) == 1 and "fastact.libs" in runtimes.pop(), "OpenMP is not the wheel's own"
fa.show_config()
"""


def run(*command: object, **options) -> str:
    """The output of a command; its end, and the exit of this program, if it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options,
    )  # fmt: skip
    if done.returncode:
        print("\n".join(done.stdout.splitlines()[-60:]))
        sys.exit(f"failed: {' '.join(map(str, command))}")
    return done.stdout


def say(text: str) -> None:
    print(f"check_wheels: {text} (after {time.monotonic() - BEGIN:.0f} s)", flush=True)


# ---- building --------------------------------------------------------------------------------


def release_time() -> str:
    """SOURCE_DATE_EPOCH: as given, else that of the last commit, else a fixed day."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return given
    command = ["git", "log", "-1", "--format=%ct"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "1700000000"


def build_tools(python: str, folder: Path, *lists: str) -> Path:
    """An environment with exactly what these requirements/*.txt list, hashes checked."""
    run(python, "-m", "venv", folder)
    listed = [part for name in lists for part in ("-r", ROOT / "requirements" / f"{name}.txt")]
    run(
        folder / "bin" / "python", "-m", "pip", "install", "-q", "--require-hashes",
        "--only-binary", ":all:", *listed,
    )  # fmt: skip
    return folder / "bin"


def build_sdist(tools: Path, folder: Path, environment: dict[str, str]) -> Path:
    run(
        tools / "python", "-m", "build", "--sdist", "--no-isolation", "--outdir", folder, ROOT,
        env=environment,
    )  # fmt: skip
    (sdist,) = folder.glob("*.tar.gz")
    return sdist


def build_wheel(
    tools: Path, release: Path, sdist: Path, folder: Path, environment: dict[str, str]
) -> Path:
    """The manylinux wheel; a warning of the compiler about our own sources fails."""
    log = run(
        tools / "python", "-m", "pip", "wheel", "-v", "--no-deps", "--no-build-isolation",
        "--no-cache-dir", "--wheel-dir", folder / "plain", sdist, env=environment,
    )  # fmt: skip
    pattern = r"^.*(?:(?:csrc|fastact)/[^ ]*: warning:|[^ ]+\.c:\d+:\d+: warning:).*$"
    if warnings := re.findall(pattern, log, flags=re.MULTILINE):
        sys.exit("\n".join(["the build has warnings:", *warnings]))
    (plain,) = (folder / "plain").glob("*.whl")
    path = {**environment, "PATH": f"{release}{os.pathsep}{environment['PATH']}"}
    run(
        release / "auditwheel", "repair", "--strip", "--wheel-dir", folder / "manylinux", plain,
        env=path,
    )  # fmt: skip
    (wheel,) = (folder / "manylinux").glob("*.whl")
    return wheel


# ---- checking --------------------------------------------------------------------------------


def content_errors(wheel: Path) -> list[str]:
    """What is wrong with the files of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    errors = []
    if (size := wheel.stat().st_size) > LIMIT:
        errors.append(f"{size:,} bytes, {LIMIT:,} are allowed")
    wanted = [
        r"fastact/include/fastact_capi\.h", r"fastact/capi\.pxd", r"fastact/py\.typed",
        r"fastact/__init__\.pyi", r".*\.dist-info/sboms/fastact\.cdx\.json",
        r".*\.dist-info/sboms/auditwheel\.cdx\.json", r".*\.dist-info/licenses/LICENSE",
        r".*\.dist-info/licenses/licenses/NOTICE\.txt",
        r"fastact\.libs/libgomp-[0-9a-f]+\.so[.0-9]*",
    ]  # fmt: skip
    errors += [f"no {w}" for w in wanted if not any(re.fullmatch(w, name) for name in names)]
    allowed = r"fastact/|fastact\.libs/libgomp-|fastact-[^/]*\.dist-info/|fastact\.libs/$"
    errors += [f"{name} does not belong there" for name in names if not re.match(allowed, name)]
    sources = [n for n in names if n.endswith((".pyx", ".c", ".o")) and "/_bench/" not in n]
    errors += [f"{name} is no user's" for name in sources]
    if "manylinux" not in wheel.name:
        errors.append("no manylinux wheel")
    return errors


def check_contents(release: Path, wheel: Path, sdist: Path) -> None:
    if errors := content_errors(wheel):
        sys.exit("\n".join([f"{wheel.name}:", *errors]))
    run(release / "twine", "check", "--strict", wheel, sdist)
    say(f"{wheel.name}: {wheel.stat().st_size:,} bytes; contents and metadata are right")


def check_same_bytes(first: Path, second: Path) -> None:
    if first.read_bytes() != second.read_bytes():
        with zipfile.ZipFile(first) as a, zipfile.ZipFile(second) as b:
            differ = [n for n in a.namelist() if n not in b.namelist() or a.read(n) != b.read(n)]
        sys.exit(f"two builds differ: {differ or 'in the archive itself'}")
    say("a second build gives the same bytes")


def test_requirements(quick: bool) -> list[str]:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    wanted = [*extras["test"], *([] if quick else extras["demo"])]
    return [r for r in wanted if re.split(r"[<>=!~ \[]", r)[0].lower() not in BUILD_ONLY]


def clean_environment(python: str, wheel: Path, numpy: str, folder: Path, quick: bool) -> Path:
    """The wheel, a NumPy and what the tests need, all from wheels."""
    run(python, "-m", "venv", folder)
    run(
        folder / "bin" / "python", "-m", "pip", "install", "-q", "--only-binary", ":all:",
        wheel, numpy, *test_requirements(quick),
    )  # fmt: skip
    return folder / "bin"


def run_tests(clean: Path, sources: Path, folder: Path, chosen: list[str]) -> None:
    """From an empty folder, with nothing but the environment's own programs on the PATH."""
    folder.mkdir()
    environment = {"PATH": str(clean), "HOME": str(folder)}
    for program in ("gcc", "cc", "cython", "objdump"):
        assert shutil.which(program, path=environment["PATH"]) is None, program
    print(run(clean / "python", "-W", "error", "-c", SMOKE, cwd=folder, env=environment))
    tests = [sources / "tests" / name for name in chosen]
    tests += ["-k", "not takes_less_than"] if chosen != ALL else []  # times: other work would count
    log = run(clean / "pytest", "-q", "-p", "no:cacheprovider", *tests, cwd=folder, env=environment)
    say(log.strip().splitlines()[-1])


def compiled_once(cache: Path) -> dict[str, str]:
    """For builds that may share objects, wherever their folders are; with those of CCACHE_DIR."""
    if shutil.which("ccache") is None:
        return {}
    folder = os.environ.get("CCACHE_DIR", str(cache))
    return {"CC": "ccache gcc", "CCACHE_DIR": folder, "CCACHE_NOHASHDIR": "1"}


@dataclass(frozen=True)
class Release:
    """What all CPythons share."""

    tools: Path
    sdist: Path
    cache: Path
    environment: dict[str, str]


def prepare(folder: Path) -> Release:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": release_time()}
    tools = build_tools(sys.executable, folder / "tools", "build", "release")
    sdist = build_sdist(tools, folder / "sdist", environment)
    return Release(tools, sdist, folder / "cache", environment)


def check_python(python: str, version: str, scratch: Path, release: Release, options) -> None:
    here = python == sys.executable
    tools = release.tools if here else build_tools(python, scratch / "tools", "build")
    build = partial(build_wheel, tools, release.tools, release.sdist)
    shared = compiled_once(release.cache)
    wheel = build(scratch / "first", release.environment | shared)
    check_contents(release.tools, wheel, release.sdist)
    if here or not options.quick:
        again = shared if options.quick else {"CC": "gcc", "CCACHE_DISABLE": "1"}
        second = build(scratch / "elsewhere" / "second", release.environment | again)
        check_same_bytes(wheel, second)
    with tarfile.open(release.sdist) as archive:
        careful = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # CPython 3.11.4
        archive.extractall(scratch / "sources", **careful)
    (sources,) = (scratch / "sources").iterdir()
    one = NEWEST if here else PYTHONS[version]
    for numpy in [one] if options.quick else [PYTHONS[version], NEWEST]:
        say(f"CPython {version}, {numpy}")
        name = re.sub(r"\W", "", numpy)
        clean = clean_environment(python, wheel, numpy, scratch / name, options.quick)
        chosen = ALL if not options.quick else QUICK_HERE if here else QUICK
        run_tests(clean, sources, scratch / f"{name}-run", chosen)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        for built in (release.sdist, wheel):
            shutil.copy(built, options.out)


def found_pythons() -> dict[str, str]:
    """The supported CPythons of this machine that start: {version: program}."""
    found = {}
    for version in PYTHONS:
        own = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
        for program in filter(None, [shutil.which(f"python{version}"), *own]):
            if subprocess.run([program, "-V"], capture_output=True, check=False).returncode == 0:
                found[version] = str(program)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], epilog="example: python tools/check_wheels.py --quick"
    )
    parser.add_argument("--quick", action="store_true", help="a few tests, one NumPy a CPython")
    parser.add_argument("--out", type=Path, help="keep the sdist and the wheels in this folder")
    options = parser.parse_args()
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    pythons = {**found_pythons(), here: sys.executable}
    with tempfile.TemporaryDirectory() as shared:
        release = prepare(Path(shared))
        for version, python in pythons.items():
            with tempfile.TemporaryDirectory() as scratch:
                check_python(python, version, Path(scratch), release, options)
    say(f"all is right with CPython {', '.join(pythons)}")


if __name__ == "__main__":
    main()
