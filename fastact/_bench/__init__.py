"""``python -m fastact bench``: how fast is this installation, and how fast are others, here?

A suite answers one question and runs in a process of its own, so that no other's thread pools or
memory disturb it and an instruction set can be chosen. `fastact._bench.suite` has what they share.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import fastact

SUITES = {
    "elementwise": "activations, forward and backward, by size",
    "batchnorm": "BatchNorm + activation: forward, training step, evaluation",
    "onednn": "BatchNorm + ReLU against oneDNN, all buffers reused",
    "calls": "what a call costs, small arrays",
    "scaling": "threads, growth with the size, few channels, small arrays",
    "memory": "what a call takes, what a training step keeps",
}
UNFINISHED = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)} (default: all)"
    )
    parser.add_argument("--quick", action="store_true", help="few cells, few rounds: two minutes")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds (default: 9; quick: 3)")
    parser.add_argument(
        "--against", metavar="LIST",
        help="some of numpy,scipy,numexpr,torch,compile,jax,onednn (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--isa", action="append", metavar="NAME", choices=fastact.config()["isas"],
        help="hold fastact and its peers to an instruction set; may be repeated",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", help="write records (JSON) there")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    parser.add_argument(
        "--seconds", type=float, metavar="S",
        help=f"stop each suite after S seconds with exit status {UNFINISHED}",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the records, nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Run the suites. 0: all is right; 1: a result is wrong; 3: the time was up."""
    if unknown := [name for name in arguments.suites if name not in SUITES]:
        print(f"no suite {', '.join(unknown)}; there are {', '.join(SUITES)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        arguments.out = arguments.out or Path(scratch)
        return max(
            run_suite(name, isa, arguments)
            for isa in arguments.isa or [None]
            for name in arguments.suites or SUITES
        )


def run_suite(name: str, isa: str | None, arguments: argparse.Namespace) -> int:
    command = [sys.executable, "-m", f"fastact._bench.{name}", "--out", str(arguments.out)]
    command += [f"--{flag}" for flag in ("quick", "resume", "json") if getattr(arguments, flag)]
    for option in ("rounds", "against", "seconds"):
        if (value := getattr(arguments, option)) is not None:
            command += [f"--{option}", str(value)]
    command += ["--isa", isa] if isa else []
    if not arguments.json:
        print(f"\n== {name}: {SUITES[name]}{f' [{isa}]' if isa else ''}", flush=True)
    return subprocess.run(command, env=dict(os.environ), check=False).returncode
