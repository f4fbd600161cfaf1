"""How fast is BatchNorm + ReLU against oneDNN's own JIT, every buffer allocated once on both sides?

oneDNN fuses the ReLU of slope zero alone. It is fast in channels-last and in its blocked layouts,
nChw16c with AVX-512 and nChw8c without, slow in NCHW; fastact's time on NCHW arrays is compared
with both of the latter. A C++ program of ours (onednn.cpp) runs it, built here with g++ over the
wheels `onednn-cpu-gomp` and `onednn-devel-cpu-gomp`. Its results are held to the reference too.
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np

import fastact
from fastact._bench import batchnorm, names
from fastact._bench.peer import NotTheSame, require
from fastact._bench.peers import Peers
from fastact._bench.suite import OWN, Cell, Group, Suite, main
from fastact._bench.timing import Contenders, Shape, Statement, Statements

SOURCE = Path(__file__).with_name("onednn.cpp")
WHEELS = "onednn-cpu-gomp", "onednn-devel-cpu-gomp"
SHAPES = (*(s for s in batchnorm.SHAPES if len(s) == 4), (128, 32, 32, 32))
QUICK_SHAPES = ((32, 256, 14, 14),)
LAYOUTS = {"NCHW": {"onednn": "nchw", "onednn blocked": "blocked"}, "NHWC": {"onednn": "nhwc"}}
BLOCK = 16  # channels of a block
MODES = ("forward out", "backward out")


def file_of(wheel: str, *parts: str) -> Path:
    """The installed file of a wheel whose path ends so."""
    return next(
        Path(str(file.locate())).resolve()
        for file in metadata.files(wheel) or ()
        if file.parts[-len(parts) :] == parts
    )


def build_program(folder: Path) -> Path:
    """The program, compiled. ImportError says what is missing."""
    compiler = shutil.which("g++")
    if compiler is None:
        raise ImportError("there is no g++ to build onednn.cpp with")
    try:
        library = file_of(WHEELS[0], "libdnnl.so.3")
        header = file_of(WHEELS[1], "oneapi", "dnnl", "dnnl.hpp")
    except (metadata.PackageNotFoundError, StopIteration):
        raise ImportError(f"pip install {' '.join(WHEELS)}") from None
    program = folder / "onednn"
    command = [compiler, "-O2", "-std=c++17", str(SOURCE), "-o", str(program), str(library)]
    command += [f"-I{header.parents[2]}", f"-Wl,-rpath,{library.parent}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ImportError(f"onednn.cpp does not compile: {done.stderr.splitlines()[0]}")
    return program


class Program:
    """The running program, for one shape and layout."""

    def __init__(self, program: Path, job: batchnorm.Job, shape: Shape, layout: str) -> None:
        self.folder = tempfile.TemporaryDirectory()
        given, written = (Path(self.folder.name, name) for name in ("input", "output"))
        with given.open("wb") as file:
            for array in (job.x, job.dy, job.weight, job.bias):
                array.tofile(file)
        threads = {"OMP_NUM_THREADS": str(fastact.get_num_threads())}
        self.process = subprocess.Popen(
            [str(program), *map(str, shape), layout, str(given), str(written)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | threads,
        )  # fmt: skip
        if self.answer() != "ready":
            raise NotTheSame(f"oneDNN refuses {shape} in {layout}")
        y, dx = np.fromfile(written, np.float32)[: 2 * job.x.size].reshape(2, *job.x.shape)
        require(job.some(y), job.exact_forward)
        require(job.some(dx), job.exact_gradient)

    def answer(self, question: str = "") -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(question)
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        self.process.communicate()
        self.folder.cleanup()


class Timed:
    """One direction of a running program."""

    def __init__(self, program: Program, direction: str) -> None:
        self.program, self.direction = program, direction

    def time(self, repeats: int) -> float:
        return float(self.program.answer(f"{self.direction} {repeats}\n"))


def own(job: batchnorm.Job) -> Statements:
    y, dx = np.empty_like(job.x), np.empty_like(job.x)
    options = job.options | {"running_mean": None, "running_var": None, "training": True}
    space = {"fa": fastact, "x": job.x, "options": options, "y": y, "dy": job.dy, "dx": dx}
    space["ctx"] = fastact.batch_norm_forward(job.x, **options)[1]
    return {
        "forward out": Statement("fa.batch_norm_forward(x, out=y, **options)", **space),
        "backward out": Statement("fa.batch_norm_backward(dy, ctx, out=dx)", **space),
    }


def build(shape: Shape, layout: str, found: Peers) -> Iterator[Cell]:
    if "onednn" not in found.found:
        return
    job = batchnorm.Job(shape, layout, names.ONEDNN)
    job.check()
    calls = own(job)
    running: dict[str, Program] = {}
    try:
        for label, theirs in LAYOUTS[layout].items():
            if theirs != "blocked" or shape[1] % BLOCK == 0:
                running |= started(label, theirs, job, shape, found)
        for mode in MODES:
            cell: Contenders = {OWN: calls[mode]}
            direction = mode.split()[0]
            cell |= {label: Timed(program, direction) for label, program in running.items()}
            yield mode, cell | batchnorm.floors(job, direction), {}
    finally:
        for program in running.values():
            program.close()


def started(
    label: str, theirs: str, job: batchnorm.Job, shape: Shape, found: Peers
) -> dict[str, Program]:
    try:
        return {label: Program(the_program(), job, shape, theirs)}
    except NotTheSame as reason:
        found.left_out[f"{label}: {job.label}"] = str(reason)
        return {}


_folder = None


@functools.cache
def the_program() -> Path:
    global _folder
    _folder = tempfile.TemporaryDirectory()
    return build_program(Path(_folder.name))


def version() -> str:
    return metadata.version(WHEELS[0])


def groups(options: argparse.Namespace) -> list[Group]:
    return [
        Group(
            {"shape": "x".join(map(str, shape)), "layout": layout, "activation": names.ONEDNN},
            MODES,
            functools.partial(build, shape, layout),
        )
        for shape in (QUICK_SHAPES if options.quick else SHAPES)
        for layout in LAYOUTS
    ]


SUITE = Suite("onednn", str(__doc__).splitlines()[0], ("onednn",), groups,
              example="python bench/onednn.py")  # fmt: skip

if __name__ == "__main__":
    sys.exit(main(SUITE))
