"""Calls take the short way to a kernel only where nothing would see an operator pass."""

import copy
import warnings

import pytest
import torch_tools  # noqa: F401  (skips without torch)

torch = pytest.importorskip("torch")

from conftest import GATED, LEARNED, PLAIN  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

import fastact.torch as fat  # noqa: E402
from fastact.torch import _operators  # noqa: E402

NAME = PLAIN[-1]
# torch scripts some of its own forward-mode formulas, which is deprecated in torch
forward_mode = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:torch", "ignore:There is a performance drop:UserWarning"
)


class Modes(TorchDispatchMode):
    """The operators that pass."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(function.name())
        return function(*args, **(kwargs or {}))


def ways():
    """name -> (a call that has an operator, its operator)"""
    x = torch.randn(6, 3)
    layer = fat.BatchNorm1d(3, activation=NAME)
    return {
        "activation": (lambda: getattr(fat, NAME)(x), f"fastact::{NAME}"),
        "learned": (lambda: getattr(fat, LEARNED[0])(x, x[0]), f"fastact::{LEARNED[0]}"),
        "gated": (lambda: getattr(fat, GATED[0])(x, x), f"fastact::{GATED[0]}"),
        "batch_norm": (lambda: layer(x), "fastact::batch_norm"),
        "track_": (lambda: layer(x), "fastact::track_"),
    }


each = pytest.mark.parametrize("way", list(ways()))


@each
def test_a_mode_sees_the_operator(way):
    call, name = ways()[way]
    with Modes() as mode:
        call()
    assert name in mode.seen


@each
def test_a_profiler_names_the_operator(way):
    call, name = ways()[way]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call()
    assert name in {event.key for event in profile.key_averages()}


@each
def test_nobody_sees_it_otherwise(way, monkeypatch):
    call, _ = ways()[way]
    monkeypatch.setattr(_operators, "is_observed", lambda: False)
    with Modes() as mode:
        call()
    assert not any(name.startswith("fastact") for name in mode.seen)


def test_a_subclass_of_tensor_gets_the_operator():
    seen = []

    class Own(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return super().__torch_function__(function, types, args, kwargs)

    getattr(fat, NAME)(torch.randn(3).as_subclass(Own))
    assert any(f"fastact.{NAME}" in name for name in seen)


def transformed():
    """name -> (a function of fastact, the same of torch)"""
    torch.manual_seed(0)
    second, weight = torch.randn(5, dtype=torch.float64), torch.tensor([0.25], dtype=torch.float64)
    plain = [n for n in PLAIN if hasattr(torch.nn.functional, n)]
    pairs = {n: (getattr(fat, n), getattr(torch.nn.functional, n)) for n in plain}
    pairs["learned"] = (
        lambda x: getattr(fat, LEARNED[0])(x, weight),
        lambda x: torch.where(x > 0, x, weight * x),
    )
    pairs["gated"] = (
        lambda x: getattr(fat, GATED[0])(x, second),
        lambda x: x * torch.sigmoid(second),
    )
    own, theirs = (
        m(5, track_running_stats=False).double() for m in (fat.BatchNorm1d, torch.nn.BatchNorm1d)
    )
    scales = torch.randn(4, 1, dtype=torch.float64)
    pairs["batch_norm"] = lambda x: own(scales * x), lambda x: theirs(scales * x)
    return pairs


@pytest.mark.parametrize("name", list(transformed()))
def test_transforms(name, recwarn):
    """Sample by sample, which torch says, only where values are shared by a sample or a channel."""
    x = torch.randn(3, 5, dtype=torch.float64)
    x[0, 0] = -4.5  # where some are flat

    def all_of(f):
        grad = torch.func.grad(lambda v: f(v).square().sum())
        _, pull = torch.func.vjp(f, x[0])
        return (
            torch.func.jacrev(f)(x[0]),
            torch.func.vmap(f)(x),
            torch.func.vmap(grad)(x),
            torch.func.jacrev(grad)(x[0]),
            pull(torch.ones_like(f(x[0])))[0],
        )

    own, theirs = transformed()[name]
    try:
        want = all_of(theirs)
    except RuntimeError as error:
        pytest.skip(f"torch: {error}")
    recwarn.clear()
    warnings.simplefilter("always")
    torch.testing.assert_close(all_of(own), want)
    slow = [warning for warning in recwarn if "performance drop" in str(warning.message)]
    assert not slow or name in ("learned", "batch_norm")


@forward_mode
@pytest.mark.parametrize("name", list(transformed()))
def test_forward_mode(name):
    """Tangents as the gradients have it, also of gradients."""
    own, _ = transformed()[name]
    x = torch.randn(5, dtype=torch.float64)
    v = torch.randn_like(x)
    jacobian = torch.func.jacrev(own)(x)
    with torch.autograd.forward_ad.dual_level():
        y = own(torch.autograd.forward_ad.make_dual(x, v))
        tangent = torch.autograd.forward_ad.unpack_dual(y).tangent
    torch.testing.assert_close(tangent, jacobian @ v)
    torch.testing.assert_close(torch.func.jvp(own, (x,), (v,))[1], tangent)
    torch.testing.assert_close(torch.func.jacfwd(own)(x), jacobian)

    def loss(x):
        return own(x).square().sum()

    second = torch.func.jacrev(torch.func.jacrev(loss))(x)
    torch.testing.assert_close(torch.func.hessian(loss)(x), second)
    torch.testing.assert_close(torch.func.jacrev(torch.func.jacfwd(loss))(x), second)


def forward_ways():
    """A call of every kind, of x (6, 3) alone."""
    beside = torch.full((6, 3), 0.3)
    stats = torch.zeros(3), torch.ones(3)
    nothing = (None,) * 4
    return {
        "operator": getattr(torch.ops.fastact, NAME),
        "learned": lambda x: torch.ops.fastact.prelu(x, beside[0]),
        "random": fat.rrelu_training,
        "plain": fat.BatchNorm1d(3, affine=False),
        "frozen": fat.BatchNorm1d(3, activation=NAME).eval().requires_grad_(False),
        "residual": lambda x: fat.batch_norm(
            x, training=True, residual=beside.to(x.dtype), activation=NAME
        ),
        "batch_norm operator": lambda x: torch.ops.fastact.batch_norm(
            x, *stats, *nothing, False, 1e-5, "", [], fat._batch_norm.ROWS
        )[0],
    }


@forward_mode
@pytest.mark.parametrize("way", list(forward_ways()))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_call_loses_a_tangent(way, dtype):
    call, x = forward_ways()[way], torch.randn(6, 3).to(dtype)
    v, dy = torch.randn_like(x), torch.randn_like(x)
    with torch.autograd.forward_ad.dual_level():
        torch.manual_seed(1)
        y = call(torch.autograd.forward_ad.make_dual(x, v))
        value, tangent = torch.autograd.forward_ad.unpack_dual(y)
    torch.manual_seed(1)
    want = call(x.requires_grad_())
    torch.testing.assert_close(value, want, atol=1e-2 if dtype is torch.bfloat16 else 1e-5, rtol=0)
    assert tangent.dtype is dtype
    (dx,) = torch.autograd.grad(want, x, dy)
    tolerance = 1e-4 if dtype is torch.float32 else 0.2
    torch.testing.assert_close(
        (dx * v).float().sum(), (dy * tangent).float().sum(), rtol=tolerance, atol=tolerance
    )


@forward_mode
def test_tangents_of_a_gradient():
    """The forward was before, the backward is inside."""
    ways = {NAME: getattr(fat, NAME), "batch_norm": fat.BatchNorm1d(3, activation=NAME).double()}
    for function in ways.values():
        x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
        y, dy = function(x), torch.randn(6, 3, dtype=torch.float64)
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(torch.ones_like(x), dy)
            (dx,) = torch.autograd.grad(y, x, dual, retain_graph=True)
            tangent = torch.autograd.forward_ad.unpack_dual(dx).tangent
        torch.testing.assert_close(tangent, torch.autograd.grad(y, x, dy)[0])


def test_forward_mode_among_processes_is_refused():
    x, group = torch.randn(6, 3), ""
    with (
        torch.autograd.forward_ad.dual_level(),
        pytest.raises(NotImplementedError, match="SyncBatchNorm has no derivatives in forward"),
    ):
        torch.ops.fastact.sync_batch_norm(x, None, None, None, 1e-5, "", [], group)


@forward_mode
def test_running_statistics_move_in_forward_mode():
    one, two = (fat.BatchNorm1d(3, activation=NAME) for _ in range(2))
    x = torch.randn(6, 3)
    one(x)
    with torch.autograd.forward_ad.dual_level():
        two(torch.autograd.forward_ad.make_dual(x, x))
    torch.testing.assert_close(two.state_dict(), one.state_dict())


def test_gradients_of_a_batch_of_directions():
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    function, rows = getattr(fat, NAME), torch.eye(5, dtype=torch.float64)
    (found,) = torch.autograd.grad(function(x), x, rows, is_grads_batched=True)
    torch.testing.assert_close(found, torch.autograd.functional.jacobian(function, x.detach()))


def test_memory_that_does_not_hold_the_values():
    function = getattr(fat, NAME)
    negative = torch.randn(5, dtype=torch.complex64).conj().imag
    assert negative.is_neg()
    torch.testing.assert_close(function(negative), function(negative.clone()))
    torch.testing.assert_close(function(torch._efficientzerotensor(3)), function(torch.zeros(3)))
    left = []
    torch.func.grad(lambda x: left.append(x * 1) or x.sum())(torch.ones(3))
    y = function(left[0])  # what a transform has left behind is an ordinary tensor
    assert y.equal(function(torch.ones(3)))
    assert not y.requires_grad


def test_every_ordinary_tensor_takes_the_short_way():
    x = torch.randn(4, 3, 2, 2)
    with torch.inference_mode():
        inference = x * 1
    for tensor in (
        x, x.requires_grad_(), torch.nn.Parameter(x), x.detach()[::2, 1:], x.bfloat16(), inference,
        torch.from_numpy(x.detach().numpy()), x.to(memory_format=torch.channels_last),
    ):  # fmt: skip
        assert _operators.are_plain((tensor,))


def test_a_trace_holds_the_operator():
    x = torch.randn(3)
    graph = torch.fx.experimental.proxy_tensor.make_fx(getattr(fat, NAME))(x)
    assert f"fastact.{NAME}" in graph.code


class Traced(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.act = (
            fat.BatchNorm1d(3, activation=NAME),
            fat.Activation(LEARNED[0], weight=0.2),
        )
        self.body = torch.nn.Sequential(fat.BatchNorm1d(3, momentum=None))

    def forward(self, x):
        y = fat.batch_norm(self.norm(x, x), training=True, activation=NAME)
        y = getattr(fat, GATED[0])(self.act(y), x)
        return getattr(fat, LEARNED[0])(self.body(y), x[0])


def test_torch_fx_traces_models():
    model, x = Traced(), torch.randn(6, 3)
    traced = torch.fx.symbolic_trace(copy.deepcopy(model))
    for _ in range(2):
        torch.testing.assert_close(traced(x), model(x))
    torch.testing.assert_close(traced.state_dict(), model.state_dict())
    assert {"norm", "body.0"} <= {str(node.target) for node in traced.graph.nodes}
    assert fat.batch_norm in {node.target for node in traced.graph.nodes}


def test_saved_tensors_are_seen_by_hooks():
    packed = []

    def pack(tensor):
        packed.append(tensor)
        return tensor

    x = torch.randn(6, 3, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        fat.BatchNorm1d(3, activation=NAME)(x)
    assert any(tensor.data_ptr() == x.data_ptr() for tensor in packed)


def test_a_change_in_place_is_found():
    x = torch.randn(6, 3, requires_grad=True)
    inner = x * 1
    y = fat.BatchNorm1d(3, activation=NAME)(inner)
    inner.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
