"""Operators of `torch.library`, and the short way to their kernels.

An operator is one node for `torch.compile` and `torch.export`: a kernel (fastact's, on the tensors'
own memory), a fake kernel that says what comes out, and an autograd formula.

Through torch's dispatcher and back into Python a call takes longer than the kernel of a small
tensor. So functions and modules call the kernel themselves where nothing is there to see an
operator pass: the same kernel, formula and results.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

import fastact as fa

Operator = Callable[..., Any]  # a schema says what it takes and gives
Context = Any  # torch.autograd's
Gradient = Callable[..., Any]
Save = Callable[[Context, tuple[Any, ...], Any], None]
LIBRARY = torch.library.Library("fastact", "DEF")
PLAIN = (Tensor, torch.nn.Parameter)
internals: Any = torch._C  # its stubs leave out what is asked here
is_batched = internals._functorch.is_legacy_batchedtensor  # grad(..., is_grads_batched=True)
is_left = internals._functorch.is_dead_tensor_wrapper  # by a transform that has ended
NOT_TENSORS = (type(None), bool, int, float, str, list)  # that a schema here has


def threads() -> contextlib.AbstractContextManager[object]:
    """No more threads than torch would take: `torch.set_num_threads` is meant for us too."""
    limit = torch.get_num_threads()
    return fa.num_threads(limit) if limit < fa.get_num_threads() else contextlib.nullcontext()


def is_forward_mode() -> bool:
    """Whether tensors may carry tangents, in torch.func.jvp as well."""
    return forward_ad._current_level >= 0  # there is no public way


def has_tangent(tensor: Tensor) -> bool:
    return is_forward_mode() and forward_ad.unpack_dual(tensor).tangent is not None


def is_observed() -> bool:
    """Whether a mode, a transform, a tracer or a profiler would see an operator."""
    return bool(
        is_forward_mode()
        or internals._len_torch_dispatch_stack()
        or internals._len_torch_function_stack()
        or internals._functorch.peek_interpreter_stack() is not None
        or internals._get_tracing_state() is not None
        or internals._autograd._profiler_enabled()
    )


def are_plain(inputs: tuple[Any, ...]) -> bool:
    """Whether the tensors are torch's own, on the CPU, and their memory is what they say."""
    for a in inputs:
        kind = type(a)
        if kind in PLAIN:
            if not a.is_cpu or a.is_neg() or a._is_zerotensor() or is_batched(a) or is_left(a):
                return False
        elif kind not in NOT_TENSORS:
            return False
    return True


def unless_observed(operator: Operator, kernel: Operator) -> Operator:
    """The operator, or, where nobody can tell, its kernel."""

    def call(*inputs: Any) -> Any:
        if torch.compiler.is_compiling() or is_observed() or not are_plain(inputs):
            return operator(*inputs)
        return kernel(*inputs)

    return call


def differentiable(
    kernel: Operator, gradient: Gradient, save: Save, composed: Operator
) -> Operator:
    """With an autograd formula; in forward mode, composed of what has its own.

    No transform of torch.func is active, and its wrappers do not come here: so `apply` need not
    look for them, which takes longer than the kernel of a small tensor.
    """

    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Context, *inputs: Any) -> Any:
            output = kernel(*inputs)
            save(ctx, inputs, output)
            return output

        backward = staticmethod(gradient)

    base: Any = super(torch.autograd.Function, Differentiable)
    apply: Operator = base.apply

    def call(*inputs: Any) -> Any:
        if is_forward_mode():
            return composed(*inputs)
        wanted = torch.is_grad_enabled() and torch._C._any_requires_grad(*inputs)
        return apply(*inputs) if wanted else kernel(*inputs)

    return call


def transformable(
    operator: Operator, gradient: Gradient, save: Save, composed: Operator
) -> Operator:
    """For torch.func, which looks for formulas outside of operators."""

    class Transformable(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*inputs: Any) -> Any:
            return operator(*inputs)

        @staticmethod
        def setup_context(ctx: Context, inputs: tuple[Any, ...], output: Any) -> None:
            save(ctx, inputs, output)

        backward = staticmethod(gradient)

    apply: Operator = Transformable.apply

    def call(*inputs: Any) -> Any:
        if torch.compiler.is_compiling():
            return operator(*inputs)
        if is_forward_mode():
            return composed(*inputs)
        if torch._C._are_functorch_transforms_active():
            return apply(*inputs)
        return operator(*inputs)

    return call


def element_by_element(operator: Operator) -> Operator:
    """The rule of torch.func.vmap where all tensors have one shape: one call for the batch."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Any, Any]:
        lined_up = [
            a if not isinstance(a, Tensor)
            else a.expand(info.batch_size, *a.shape) if dim is None
            else a.movedim(dim, 0)
            for a, dim in zip(inputs, in_dims, strict=True)
        ]  # fmt: skip
        output = operator(*lined_up)
        return output, (0,) * len(output) if isinstance(output, tuple) else 0

    return rule


def define(
    name: str,
    schema: str,
    kernel: Operator,
    fake: Operator,
    gradient: Gradient,
    save: Save,
    composed: Operator,
    elementwise: bool = False,
) -> Operator:
    """Registers an operator. Its kernel is asked for every device, to refuse the others clearly.

    `composed` is the same of torch's operations, which have derivatives in forward mode.

    `torch.library.register_autograd` would do the same with 40 us more a call of BatchNorm, most of
    them to fill in defaults, of which a schema here has none.
    """
    LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fastact::{name}", fake, lib=LIBRARY)
    operator: Operator = getattr(torch.ops.fastact, name).default

    def below_autograd(*inputs: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*inputs)

    LIBRARY.impl(name, differentiable(below_autograd, gradient, save, composed), "Autograd")
    if elementwise:
        rule = element_by_element(operator)
        torch.library.register_vmap(f"fastact::{name}", rule, lib=LIBRARY)
    observed = transformable(operator, gradient, save, composed)
    return unless_observed(observed, differentiable(kernel, gradient, save, composed))
