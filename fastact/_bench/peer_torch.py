"""torch, eager and compiled, on CPU tensors over the same memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from fastact._bench.peer import (
    Function,
    Job,
    NotTheSame,
    Peer,
    candidates,
    first_that_fits,
    require,
)
from fastact._bench.timing import Statement, Statements

if TYPE_CHECKING:
    from fastact._bench.batchnorm import Job as BatchNormJob
    from fastact._bench.elementwise import Job as ElementwiseJob

# the compiler's worker processes would take cores from whoever is timed
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")


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
        private: Any = torch._C
        for option in (getattr(private._nn, name, None), operator, overload):
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
