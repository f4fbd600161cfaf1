"""What fastact is compared with, each optional: NumPy, SciPy, numexpr, torch, jax, oneDNN."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from fastact import _demo_numpy
from fastact._bench import expressions, names
from fastact._bench.peer import Job, NotTheSame, Peer, candidates, first_that_fits, require
from fastact._bench.peer_jax import Jax
from fastact._bench.peer_torch import Compile, Torch
from fastact._bench.timing import Statement, Statements

if TYPE_CHECKING:
    from fastact._bench.elementwise import Job as ElementwiseJob


class Numpy(Peer):
    """One NumPy call where there is one, else the textbook expression, gradient included."""

    module = "numpy"

    def elementwise(self, job: ElementwiseJob) -> Statements:
        if job.gated:
            raise NotTheSame
        expression = textbook(job.name)
        ufunc: Any = names.NUMPY.get(job.name) or getattr(np, job.name, None)
        required = _demo_numpy.required_parameters(job.name)
        params = {name: np.float32(job.values[name]) for name in required}
        space = {"x": job.x, "dy": job.dy, "out": job.out, "params": params}
        calls: Statements = {}
        if ufunc is not None:
            require(ufunc(job.sample), job.sample_exact)
            calls["forward"] = Statement("f(x)", f=ufunc, **space)
            calls["forward out"] = Statement("f(x, out=out)", f=ufunc, **space)
        elif expression is not None:
            calls["forward"] = Statement("f(x, **params)", f=expression.value, **space)
        if expression is not None and not job.learned:  # a NumPy user has kept y since the forward
            space |= {"f": expression.gradient, "y": expression.value(job.x, **params)}
            gradient = Statement("f(dy, x, y, **params)", **space)
            if not np.shares_memory(gradient.result(), job.dy):
                calls["backward"] = gradient
        if not calls:
            raise NotTheSame
        return calls


def textbook(name: str) -> _demo_numpy.Expression | None:
    try:
        expression = _demo_numpy.expression(name)
    except ImportError:  # it is sought among some that need SciPy
        return None
    return expression if expression.textbook else None


class Scipy(Peer):
    """scipy.special, where it has a ufunc that does it."""

    module = "scipy"

    def elementwise(self, job: ElementwiseJob) -> Statements:
        from scipy import special

        if job.gated:
            raise NotTheSame
        options = candidates(job.name, (special,))
        call = first_that_fits(options, job, lambda f: f(job.sample))
        return {
            "forward": Statement("f(x)", f=call, x=job.x),
            "forward out": Statement("f(x, out=out)", f=call, x=job.x, out=job.out),
        }


class Numexpr(Peer):
    """The formula of the table, as numexpr spells it. It has no derivatives."""

    module = "numexpr"

    def elementwise(self, job: ElementwiseJob) -> Statements:
        import numexpr
        from numexpr.expressions import functions as known

        import fastact

        threads = fastact.get_num_threads()
        numexpr.set_num_threads(threads)
        source, constants = expressions.for_numexpr(job.name, job.formula, job.values, known)
        if source is None:
            raise NotTheSame
        space = {"evaluate": numexpr.evaluate, "s": source, "out": job.out}
        given = constants | dict(zip(("x", "gate"), job.inputs, strict=False))
        return {
            "forward": Statement("evaluate(s, given)", given=given, **space),
            "forward out": Statement("evaluate(s, given, out=out)", given=given, **space),
        }


class Onednn(Peer):
    """See `fastact._bench.onednn`."""

    def version(self) -> str:
        from fastact._bench import onednn

        onednn.the_program()
        return onednn.version()


PEERS: dict[str, Peer] = {
    "numpy": Numpy(),
    "scipy": Scipy(),
    "numexpr": Numexpr(),
    "torch": Torch(),
    "compile": Compile(),
    "jax": Jax(),
    "onednn": Onednn(),
}


class Peers:
    """The wanted ones that are there, with their versions; `left_out` says why others are not."""

    def __init__(self, wanted: list[str], left_out: dict[str, str]) -> None:
        self.left_out = left_out
        self.found: dict[str, str] = {}
        for name in wanted:
            try:
                self.found[name] = PEERS[name].version()
            except ImportError as error:
                self.left_out[name] = str(error)

    def calls(self, kind: str, job: Job) -> dict[str, Statements]:
        """What each has to offer for a job: its method `kind`, which gives statements by mode."""
        found: dict[str, Statements] = {}
        for name in self.found:
            try:
                offered: Statements = getattr(PEERS[name], kind)(job)
                for statement in offered.values():
                    statement.result()  # what cannot be compiled or run says so here
                found[name] = offered
            except NotTheSame as reason:
                if str(reason):
                    self.left_out[f"{name}: {job.label}"] = str(reason)
            except Exception as error:  # a peer's defect costs its cell alone
                words = f"{type(error).__name__}: {error}".splitlines()[0]
                self.left_out[f"{name}: {job.label}"] = words
        return found


def with_mode(calls: dict[str, Statements], mode: str) -> Statements:
    return {name: modes[mode] for name, modes in calls.items() if mode in modes}


def environment(isa: str) -> dict[str, str]:
    """What holds fastact and its peers to an instruction set, in a process of their own."""
    if isa != "avx2":
        return {"FASTACT_ISA": isa}
    return {
        "FASTACT_ISA": isa,
        "ATEN_CPU_CAPABILITY": "avx2",
        "TORCHINDUCTOR_CPP_SIMDLEN": "256",
        "XLA_FLAGS": (os.environ.get("XLA_FLAGS", "") + " --xla_cpu_max_isa=AVX2").strip(),
        "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR AVX512F AVX512CD AVX512_SKX",
    }
