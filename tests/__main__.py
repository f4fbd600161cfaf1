"""``python tests``: the whole suite, once for each instruction set that this machine has.

The best one first and alone, because its run also measures times; the others side by side.
Further arguments go to pytest. The exit status is 0 only when every run passed.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fastact

HERE = Path(__file__).resolve().parent


def run(isa: str, output=None) -> subprocess.CompletedProcess:
    """Runs pytest; conftest.py stops it if another instruction set is the active one."""
    command = [sys.executable, "-m", "pytest", "-q", *sys.argv[1:]]
    environment = {**os.environ, "FASTACT_ISA": isa}
    return subprocess.run(
        command, cwd=HERE.parent, env=environment, check=False, stdout=output, text=True
    )


def heading(isas: list[str]) -> None:
    print(f"\n======== FASTACT_ISA={', '.join(isas)}", flush=True)


def main() -> int:
    best, *others = fastact.config()["isas"]
    heading([best])
    failed = [best] if run(best).returncode else []
    if others:
        heading([*others, "side by side"])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = pool.map(lambda isa: (isa, run(isa, subprocess.PIPE)), others)
        for isa, done in runs:
            heading([isa])
            print(done.stdout, flush=True)
            if done.returncode:
                failed.append(isa)
    print(f"\n{'failed on ' + ', '.join(failed) if failed else 'passed on every instruction set'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
