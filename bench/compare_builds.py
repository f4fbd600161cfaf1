"""Which of two builds is faster? For weighing a change before it is kept.

    git worktree add /tmp/old HEAD && (cd /tmp/old && python setup.py build_ext --inplace)
    python bench/compare_builds.py /tmp/old . --threads 1 --activation relu

Each argument is a checkout that was built in place. Their processes take turns, so that a machine
that slows down slows both; a figure is the median over the rounds of a process's median. BatchNorm
runs alone and with each activation that is named.
"""

import argparse
import os
import statistics
import subprocess
import sys

SHAPES = (
    ((32, 64, 56, 56), 1),
    ((32, 256, 14, 14), 1),
    ((16, 32, 8, 8), 1),
    ((32, 56, 56, 64), -1),
    ((4096, 1024), -1),
    ((256, 512), -1),
)

PROGRAM = """
import statistics, sys, time
import numpy as np, fastact as fa
fa.set_num_threads(int(sys.argv[1]))
for shape, axis, name in eval(sys.argv[2]):
    x, dy = (np.random.default_rng(i).standard_normal(shape, dtype=np.float32) for i in (0, 1))
    y = np.empty_like(x)
    forward = lambda: fa.batch_norm_forward(x, axis=axis, activation=name, out=y)
    ctx = forward()[1]
    backward = lambda: fa.batch_norm_backward(dy, ctx, out=y)
    for call in (forward, backward):
        call()
        times = []
        for _ in range(9):
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
        print(statistics.median(times) * 1e6)
"""


def run(tree: str, threads: int, cases: list[tuple]) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(threads), repr(cases)],
        env={**os.environ, "PYTHONPATH": os.path.abspath(tree)},
        capture_output=True,
        text=True,
        check=True,
        cwd=tree,
    )
    return [float(line) for line in done.stdout.split()]


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("trees", nargs=2, metavar="TREE")
    options.add_argument("--activation", nargs="*", default=[], metavar="NAME")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--rounds", type=int, default=5)
    given = options.parse_args()
    cases = [(*shape, name) for shape in SHAPES for name in (None, *given.activation)]
    rounds = [
        [run(tree, given.threads, cases) for tree in given.trees] for _ in range(given.rounds)
    ]
    old, new = (
        [statistics.median(times) for times in zip(*(pair[side] for pair in rounds), strict=True)]
        for side in (0, 1)
    )
    labels = [
        f"{shape} {name or 'none'} {way}" for shape, _, name in cases for way in ("fwd", "bwd")
    ]
    print(f"{'':36}{'first us':>12}{'second us':>12}{'first/second':>14}")
    for label, a, b in zip(labels, old, new, strict=True):
        print(f"{label:36}{a:12.0f}{b:12.0f}{a / b:14.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
