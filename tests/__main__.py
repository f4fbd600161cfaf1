"""``python tests``: the whole suite, once for each instruction set that this machine has.

Further arguments go to pytest. The exit status is 0 only when every run passed.
"""

import os
import subprocess
import sys
from pathlib import Path

import fastact

HERE = Path(__file__).resolve().parent


def main() -> int:
    failed = []
    for isa in fastact.config()["isas"]:
        print(f"\n======== FASTACT_ISA={isa}", flush=True)
        command = [sys.executable, "-m", "pytest", "-q", *sys.argv[1:]]
        # conftest.py stops the run if another instruction set is the active one
        status = subprocess.run(
            command, cwd=HERE.parent, env={**os.environ, "FASTACT_ISA": isa}, check=False
        ).returncode
        if status:
            failed.append(isa)
    print(f"\n{'failed on ' + ', '.join(failed) if failed else 'passed on every instruction set'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
