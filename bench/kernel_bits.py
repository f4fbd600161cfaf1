"""Do the kernels of all instruction sets with fused multiply-add give the same bits, NEON's too?

    python bench/kernel_bits.py              all of them
    python bench/kernel_bits.py avx2 neon    these

Builds kernel_bits.c with each set of kernels and compares what they print. The ones of another
architecture need its compiler and qemu-user (Debian: gcc-aarch64-linux-gnu, qemu-user-static); what
is missing is named and left out. AVX-512's source, on a machine without, is compiled with its
instructions spelled out (avx512_emulated.h). The baseline, without fused multiply-add, is shown and
not asked to agree. Exit status 1: bits differ.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tools"))
from native import CSRC, ROOT, SETUP, as_shipped  # noqa: E402

X86 = {name: SETUP["X86"][name] for name in ("baseline", "avx2", "avx512")}
ARM = {"neon": SETUP["ARM"]["neon"]}
# The same source with AVX-512's instructions spelled out: what it says, if not what it becomes.
EMULATED = [*X86["avx2"], "-Wno-psabi", "-include", str(HERE / "avx512_emulated.h")]


def toolchains(wanted):
    """(instruction set, compiler, flags, emulator) of those that can be built and run here."""
    native = platform.machine()
    for machine, sets in (("x86_64", X86), ("aarch64", ARM)):
        sets = {name: flags for name, flags in sets.items() if not wanted or name in wanted}
        if not sets:
            continue
        own = native == machine
        compiler = "gcc" if own else f"{machine}-linux-gnu-gcc"
        emulator = [] if own else [f"qemu-{machine}-static"]
        missing = [tool for tool in [compiler, *emulator] if shutil.which(tool) is None]
        if missing:
            print(f"{', '.join(sets)}: left out, {' and '.join(missing)} not found")
            continue
        for name, flags in sets.items():
            if not own or name == "baseline" or name in runnable():
                yield name, compiler, flags, emulator
            elif name == "avx512" and "avx2" in runnable():
                yield name, compiler, EMULATED, emulator
            else:
                print(f"{name}: left out, this machine cannot run it")


def runnable() -> list[str]:
    import fastact

    return fastact.config()["isas"]


def digests(name, compiler, flags, emulator, folder) -> list[str]:
    """Each object by itself, which ccache may know, and what the program prints."""
    objects = []
    for source in (HERE / "kernel_bits.c", CSRC / f"isa_{name}.c", CSRC / "pieces_tables.c"):
        objects.append(str(Path(folder, f"{name}-{source.stem}.o")))
        own = [*SETUP["GCC_ONLY"], *flags]
        own += [f"-DKERNELS=fa_isa_{name}"] * (source.parent == HERE)
        command = [*as_shipped(compiler, own, source), "-o", objects[-1]]
        subprocess.run(command, check=True, cwd=ROOT)
    program = str(Path(folder, name))
    subprocess.run([compiler, "-static", *objects, "-o", program, "-lm"], check=True)
    run = subprocess.run([*emulator, program], check=True, capture_output=True, text=True)
    return run.stdout.splitlines()


def main() -> int:
    first, baseline, wrong = None, None, 0
    sets = list(toolchains(sys.argv[1:]))
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        for (name, *_), lines in zip(
            sets, pool.map(lambda s: digests(*s, folder), sets), strict=True
        ):
            if name == "baseline":
                baseline = lines
                continue
            first = first or (name, lines)
            differ = [a for a, b in zip(lines, first[1], strict=True) if a != b]
            print(f"{name}: {len(lines) - len(differ)} of {len(lines)} as {first[0]}")
            for line in differ:
                print(f"  FAIL {line}")
            wrong |= bool(differ)
    if first and baseline:
        same = sum(a == b for a, b in zip(baseline, first[1], strict=True))
        print(f"baseline: {same} of {len(baseline)} as {first[0]} (not asked to be)")
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
