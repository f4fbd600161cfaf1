"""Is the C code fit for Windows?  Builds it with clang for Windows and runs it under Wine.

    python tools/check_windows.py    needs clang, gcc-mingw-w64-x86-64 and wine64 (Debian's names)

All of csrc/ and tests/c_harness.c are compiled for x86_64-w64-windows-gnu, in Microsoft's data
model (a long has 32 bits) and with the system's own thread pool in place of OpenMP. The program
checks the threads, and prints digests of all activations, which must be those of a build for this
machine, for each instruction set. What MSVC headers and linker would say, only Windows can tell.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ["clang", "x86_64-w64-mingw32-gcc"]
UNDECLARED = "-Werror=implicit-function-declaration"
# `&` between comparisons, which is meant; variables that one use of a macro does not need; loops
# that clang does not vectorise: a matter of speed
CLANGS_OWN = [
    f"-Wno-{name}"
    for name in ("bitwise-instead-of-logical", "unused-but-set-variable", "pass-failed")
]
WINE = shutil.which("wine64") or shutil.which("wine64", path="/usr/lib/wine") or "wine64"


def settings() -> dict:
    """The flags and sources of setup.py."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    wanted = {"NUMERICS", "X86", "C_SOURCES"}
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id in wanted
    }


def build(folder: Path, compiler: list[str], linker: list[str]) -> Path:
    """The harness with all instruction sets; what is not declared there is an error."""
    made = settings()
    flags = [*made["NUMERICS"], "-Wall", "-Wextra", UNDECLARED, "-I", ROOT / "csrc"]
    macros = [f"-DFA_HAVE_{isa.upper()}=1" for isa in made["X86"]]
    sources = {ROOT / "csrc" / f"{name}.c": [*macros] for name in made["C_SOURCES"]}
    sources |= {ROOT / "csrc" / f"isa_{isa}.c": isa_flags for isa, isa_flags in made["X86"].items()}
    sources[ROOT / "tests" / "c_harness.c"] = []
    objects = []
    for source, own in sources.items():
        quiet = CLANGS_OWN if compiler[0] == "clang" else []
        objects.append(folder / f"{source.stem}.o")
        command = [*compiler, *flags, *quiet, *own, "-c", source, "-o", objects[-1]]
        subprocess.run(command, check=True)
    program = folder / "harness.exe"
    subprocess.run([*linker, *objects, "-o", program, "-lm"], check=True)
    return program


def run(program: Path, isa: str, *emulator: str) -> str:
    quiet = {**os.environ, "WINEDEBUG": "-all", "WINEPREFIX": str(program.parent / "wine")}
    done = subprocess.run(
        [*emulator, str(program), isa], stdout=subprocess.PIPE, text=True, check=False, env=quiet
    )
    if done.returncode == 2:
        return ""
    if done.returncode:
        sys.exit(f"{program.parent.name}, {isa}: status {done.returncode}\n{done.stdout[-500:]}")
    return done.stdout


def main() -> None:
    if missing := [t for t in [*TOOLS, WINE] if shutil.which(t) is None]:
        sys.exit(f"not found: {', '.join(missing)}")
    # Wine's server may still be tidying up
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        here, windows = Path(scratch, "here"), Path(scratch, "windows")
        for folder in (here, windows):
            folder.mkdir()
        target = ["clang", "--target=x86_64-w64-windows-gnu"]
        program = build(windows, target, ["x86_64-w64-mingw32-gcc", "-static"])
        own = build(here, ["gcc", "-fopenmp"], ["gcc", "-fopenmp"])
        for isa in settings()["X86"]:
            want, got = run(own, isa), run(program, isa, WINE)
            if not want or not got:
                print(f"{isa}: left out, {'this machine' if not want else 'Wine'} cannot run it")
                continue
            differ = [a for a, b in zip(want.split("\n"), got.split("\n"), strict=True) if a != b]
            if differ:
                sys.exit(f"{isa}: Windows differs in {len(differ)} digests:\n" + "\n".join(differ))
            print(f"{isa}: {len(want.splitlines())} digests are the same")


if __name__ == "__main__":
    main()
