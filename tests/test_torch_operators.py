"""Calls take the short way to a kernel only where nothing would see an operator pass."""

import warnings

import pytest
import torch_tools  # noqa: F401  (skips without torch)

torch = pytest.importorskip("torch")

from conftest import GATED, LEARNED, PLAIN  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

import fastact.torch as fat  # noqa: E402
from fastact.torch import _operators  # noqa: E402

NAME = PLAIN[-1]


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


def test_a_trace_holds_the_operator():
    x = torch.randn(3)
    graph = torch.fx.experimental.proxy_tensor.make_fx(getattr(fat, NAME))(x)
    assert f"fastact.{NAME}" in graph.code


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
