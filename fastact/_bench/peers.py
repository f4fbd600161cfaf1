"""What fastact is compared with, each optional: NumPy, SciPy, numexpr, torch, torch.compile, jax.

A peer turns a job (`elementwise.Job`, `batchnorm.Job`) into statements as its users write them, by
mode; a mode that it does not have is left out. A function is found by our name (underscores aside,
or our name being theirs and a value of `approximate`, or as `names` spells it) and only counts if
it computes the same. Nobody is timed on work that comes out wrong.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from fastact import _demo_numpy
from fastact._bench import expressions, names
from fastact._bench.timing import Statement, Statements

if TYPE_CHECKING:
    from fastact._bench.batchnorm import Job as BatchNormJob
    from fastact._bench.elementwise import Job as ElementwiseJob

Job: TypeAlias = "BatchNormJob | ElementwiseJob"
Function = Callable[..., Any]

# the compiler's worker processes would take cores from whoever is timed
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

CLOSE = 1e-3  # relative: what a peer may be off and still do the same work


class NotTheSame(Exception):
    """The peer has no function that does the same; or, with a reason, should have had."""


# ---- finding ---------------------------------------------------------------------------------


def plain(name: str) -> str:
    return name.replace("_", "")


def candidates(name: str, modules: tuple[Any, ...]) -> Iterator[Function]:
    """Functions with our name, or that begin it and take `approximate`, or as `names` has it."""
    for module in modules:
        for theirs in dir(module):
            if theirs[0] == "_" or not plain(name).startswith(plain(theirs)):
                continue
            rest = plain(name)[len(plain(theirs)) :]
            call = getattr(module, theirs)
            if callable(call):
                if not rest:
                    yield call
                for value in [rest] if rest else ["none", False]:
                    yield functools.partial(call, approximate=value)
        yield from (getattr(module, s) for s in names.SPELLINGS.get(name, ()) if hasattr(module, s))


def same(got: ArrayLike, exact: np.ndarray) -> bool:
    got = np.asarray(got)
    if got.shape != exact.shape or got.dtype != np.float32:
        return False
    # on average: beside a kink a peer's rounding may fall on the other side
    return bool(np.abs(got - exact).mean() <= CLOSE * max(np.abs(exact).mean(), 1e-30))


def require(got: ArrayLike, exact: np.ndarray) -> None:
    if not same(got, exact):
        raise NotTheSame("its result differs from the reference by more than 1e-3")


def first_that_fits(
    options: Iterator[Function], job: Job, run: Callable[[Function], np.ndarray]
) -> Function:
    """The first function whose values on a sample of the job are right; run(call) evaluates it."""
    for call in options:
        try:
            got = run(call)
        except Exception:  # another signature: not this one
            continue
        if same(got, job.sample_exact) and not np.shares_memory(got, job.sample):
            return call
    raise NotTheSame


# ---- NumPy and friends -----------------------------------------------------------------------


class Peer:
    module: str

    def version(self) -> str:
        """ImportError says what is missing."""
        return str(importlib.import_module(self.module).__version__)


class Numpy(Peer):
    """One NumPy call where there is one, else the textbook expression, gradient included."""

    module = "numpy"

    def elementwise(self, job: ElementwiseJob) -> Statements:
        if job.gated:
            raise NotTheSame
        expression = _demo_numpy.expression(job.name)
        ufunc = names.NUMPY.get(job.name) or getattr(np, job.name, None)
        required = _demo_numpy.required_parameters(job.name)
        params = {name: np.float32(job.values[name]) for name in required}
        space = {"x": job.x, "dy": job.dy, "out": job.out, "params": params}
        calls: Statements = {}
        if ufunc is not None:
            calls["forward"] = Statement("f(x)", f=ufunc, **space)
            calls["forward out"] = Statement("f(x, out=out)", f=ufunc, **space)
        elif expression.textbook:
            calls["forward"] = Statement("f(x, **params)", f=expression.value, **space)
        if expression.textbook and not job.learned:  # a NumPy user has kept y since the forward
            space |= {"f": expression.gradient, "y": expression.value(job.x, **params)}
            gradient = Statement("f(dy, x, y, **params)", **space)
            if not np.shares_memory(gradient.result(), job.dy):
                calls["backward"] = gradient
        if not calls:
            raise NotTheSame
        return calls


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

        import fastact

        threads = fastact.get_num_threads()
        numexpr.set_num_threads(threads)
        known = numexpr.expressions.functions
        source, constants = expressions.for_numexpr(job.name, job.formula, job.values, known)
        if source is None:
            raise NotTheSame
        space = {"evaluate": numexpr.evaluate, "s": source, "out": job.out}
        given = constants | dict(zip(("x", "gate"), job.inputs, strict=False))
        return {
            "forward": Statement("evaluate(s, given)", given=given, **space),
            "forward out": Statement("evaluate(s, given, out=out)", given=given, **space),
        }


# ---- torch -----------------------------------------------------------------------------------


def torch_function(job: Job) -> Function:
    import torch

    modules = (torch.nn.functional, torch, torch.special)
    sample = torch.from_numpy(job.sample)
    return first_that_fits(
        candidates(job.name, modules), job, lambda f: f(sample, *torch_args(job)).numpy()
    )


def torch_args(job: Job) -> tuple[Any, ...]:
    """The parameters that have no default; the learned ones as tensors."""
    import torch

    return tuple(
        torch.tensor([value]) if name in job.learned else value
        for name, value in job.required.items()
    )


class Torch(Peer):
    """Eager, on CPU tensors over the same memory; its backward through torch.autograd."""

    module = "torch"

    def elementwise(self, job: ElementwiseJob) -> Statements:
        import torch

        call, args = torch_function(job), torch_args(job)
        x = torch.from_numpy(job.stacked)
        space = {"f": call, "x": x, "args": args}
        calls = {"forward": Statement("f(x, *args)" if args else "f(x)", **space)}
        if into := self.with_out(job, call, x, args):
            calls["forward out"] = into
        calls["backward"] = self.backward(job, call, x, args)
        return calls

    def with_out(
        self, job: ElementwiseJob, call: Function, x: Any, args: tuple[Any, ...]
    ) -> Statement | None:
        """The variant that writes into a tensor, where there is one: the operator has it if any."""
        import torch

        out = torch.empty(job.dy.shape)
        operator = getattr(call, "func", call)
        name, keywords = operator.__name__, getattr(call, "keywords", {})
        overload = getattr(getattr(torch.ops.aten, name, None), "out", None)
        for option in (getattr(torch._C._nn, name, None), operator, overload):
            if option is None:
                continue
            try:
                option(x, *args, **keywords, out=out)
            except Exception:
                continue
            space = {"f": option, "x": x, "args": args, "keywords": keywords, "out": out}
            return Statement("f(x, *args, **keywords, out=out)", **space)
        return None

    def backward(
        self, job: ElementwiseJob, call: Function, x: Any, args: tuple[Any, ...]
    ) -> Statement:
        """autograd's backward alone: the forward has been recorded and is kept."""
        import torch

        leaf = x.detach().requires_grad_()
        learned = [a.requires_grad_() for a in args if isinstance(a, torch.Tensor)]
        y = call(leaf, *args)
        if y.grad_fn is None:
            raise NotTheSame
        source = "grad(y, inputs, dy, retain_graph=True)"
        space = {"grad": torch.autograd.grad, "inputs": (leaf, *learned)}
        return Statement(source, y=y, dy=torch.from_numpy(job.dy), **space)

    def batch_norm(self, job: BatchNormJob) -> Statements:
        return torch_batch_norm(job, torch_function(job), lambda f: f)


class Compile(Torch):
    """torch.compile with its defaults, on the same functions."""

    def elementwise(self, job: ElementwiseJob) -> Statements:
        import torch
        from torch._functorch import config

        config.donated_buffer = False  # a backward that can be called again
        call, args = torch_function(job), torch_args(job)
        compiled = compiled_once(job.name, lambda x, *args: call(x, *args))
        x = torch.from_numpy(job.stacked)
        statement = Statement("f(x, *args)" if args else "f(x)", f=compiled, x=x, args=args)
        return {"forward": statement, "backward": self.backward(job, compiled, x, args)}

    def batch_norm(self, job: BatchNormJob) -> Statements:
        import torch

        return torch_batch_norm(job, torch_function(job), torch.compile)


_compiled: dict[str, Function] = {}


def compiled_once(name: str, call: Function) -> Function:
    """One compiled function an activation, whatever the sizes, as a program would hold it."""
    import torch

    if name not in _compiled:
        torch._dynamo.reset()  # its limit of variants is one of a line of code, not of a function
        _compiled.clear()
        _compiled[name] = torch.compile(call)
    return _compiled[name]


def torch_batch_norm(
    job: BatchNormJob, act: Function, wrap: Callable[[Function], Function]
) -> Statements:
    import torch
    from torch.nn.functional import batch_norm

    def tensor(
        array: np.ndarray,
    ) -> Any:  # the same memory with the channels on axis 1: torch's channels_last
        return torch.from_numpy(array).movedim(job.axis, 1)

    args = torch_args(job)
    mean, var = (torch.from_numpy(a.copy()) for a in (job.running_mean, job.running_var))

    def layer(x: Any, weight: Any, bias: Any) -> Any:
        return act(batch_norm(x, mean, var, weight, bias, training=True), *args)

    def evaluation(x: Any, weight: Any, bias: Any) -> Any:
        return act(batch_norm(x, mean, var, weight, bias), *args)

    torch._dynamo.reset()  # or the compiler gives up on a shape that is one too many
    layer, evaluation = wrap(layer), wrap(evaluation)
    x, dy = tensor(job.x), tensor(job.dy)
    given = [torch.from_numpy(a) for a in (job.weight, job.bias)]
    leaves = [a.detach().requires_grad_() for a in (x, *given)]

    def step() -> Any:
        for leaf in leaves:
            leaf.grad = None
        layer(*leaves).backward(dy)
        return leaves[0].grad

    def evaluate() -> Any:
        with torch.no_grad():
            return evaluation(x, *given)

    space = {"layer": layer, "leaves": leaves}
    require(job.some(step().movedim(1, job.axis).numpy()), job.exact_gradient)
    return {
        "forward": Statement("layer(*leaves)", **space),
        "step": Statement(step),
        "evaluation": Statement(evaluate),
    }


# ---- jax -------------------------------------------------------------------------------------


class Jax(Peer):
    """jax.jit of the function, and of its vector-Jacobian product; waits for the result."""

    module = "jax"

    def function(self, job: Job) -> Function:
        import jax

        modules = (jax.nn, jax.numpy)
        sample = jax.numpy.asarray(job.sample)
        args = tuple(job.required.values())
        return first_that_fits(
            candidates(job.name, modules), job, lambda f: np.asarray(f(sample, *args))
        )

    def elementwise(self, job: ElementwiseJob) -> Statements:
        import jax

        call, args = self.function(job), tuple(job.required.values())
        x, dy = jax.numpy.asarray(job.stacked), jax.numpy.asarray(job.dy)
        forward = jax.jit(lambda x: call(x, *args))
        if np.shares_memory(np.asarray(forward(x)), np.asarray(x)):
            raise NotTheSame  # it hands back its argument
        backward = jax.jit(lambda dy, x: jax.vjp(lambda x: call(x, *args), x)[1](dy)[0])
        return {
            "forward": Statement("f(x).block_until_ready()", f=forward, x=x),
            "backward": Statement("f(dy, x).block_until_ready()", f=backward, x=x, dy=dy),
        }

    def batch_norm(self, job: BatchNormJob) -> Statements:
        import jax

        act, args = self.function(job), tuple(job.required.values())
        layer = functools.partial(jax_layer, lambda z: act(z, *args), job.axis)
        given = tuple(map(jax.numpy.asarray, (job.x, job.weight, job.bias)))
        running = tuple(map(jax.numpy.asarray, (job.running_mean, job.running_var)))
        dy = jax.numpy.asarray(job.dy)

        def step(given: Any, running: Any, dy: Any) -> Any:
            y, pull, running = jax.vjp(lambda *g: layer(*g, *running), *given, has_aux=True)
            return y, pull(dy), running

        def evaluation(x: Any, weight: Any, bias: Any, mean: Any, var: Any) -> Any:
            return act(jax_normalise(x, mean, var, weight, bias, job.axis), *args)

        forward, step, evaluation = (jax.jit(f) for f in (layer, step, evaluation))
        require(job.some(np.asarray(step(given, running, dy)[1][0])), job.exact_gradient)
        space = {"ready": jax.block_until_ready, "given": given, "running": running}
        return {
            "forward": Statement("ready(f(*given, *running))", f=forward, **space),
            "step": Statement("ready(f(given, running, dy))", f=step, dy=dy, **space),
            "evaluation": Statement("ready(f(*given, *running))", f=evaluation, **space),
        }


def jax_normalise(x: Any, mean: Any, var: Any, weight: Any, bias: Any, axis: int) -> Any:
    import jax

    shape = [1] * x.ndim
    shape[axis] = -1
    mean, scale, bias = (a.reshape(shape) for a in (mean, weight * jax.lax.rsqrt(var + 1e-5), bias))
    return (x - mean) * scale + bias


def jax_layer(
    act: Function, axis: int, x: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any
) -> Any:
    """As flax's BatchNorm: the variance from the mean of squares; running statistics returned."""
    axes = tuple(a for a in range(x.ndim) if a != axis % x.ndim)
    mean = x.mean(axes)
    var = (x * x).mean(axes) - mean * mean
    y = act(jax_normalise(x, mean, var, weight, bias, axis))
    return y, (0.9 * running_mean + 0.1 * mean, 0.9 * running_var + 0.1 * var)


class Onednn(Peer):
    """See `fastact._bench.onednn`."""

    def version(self) -> str:
        from fastact._bench import onednn

        onednn.the_program()
        return onednn.version()


# ---- which -----------------------------------------------------------------------------------

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
