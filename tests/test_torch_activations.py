"""The activations as torch operators: fastact's bits, torch's manners."""

import copy
import doctest
import functools
import pickle

import numpy as np
import pytest
from conftest import GATED, LEARNED, NAMES, ROOT, SCALAR, assert_same_bits, once, python
from torch_tools import (
    ALL,
    BY_SPELLING,
    DTYPES,
    as_array,
    dtypes,
    fa,
    fat,
    function_of,
    functions,
    hard,
    numbers,
    plain,
    signature,
    tensors,
    torch,
    torch_sample,
)

from fastact.torch import _activations, _composed, _fuse, _tensors

pytestmark = [once, pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")]


@functions
def test_signatures_are_the_tables(name):
    function, mine = function_of(name), getattr(fat, name)
    want = [("x", None), *[("gate", None)] * (name in GATED), *function.parameters.items()]
    assert signature(mine) == want
    assert mine.__name__ == name
    assert mine.__module__ == "fastact.torch"
    assert pickle.loads(pickle.dumps(mine)) is mine
    assert name in fat.__all__


# ---- values and layouts --------------------------------------------------------------------------


def layouts(dtype):
    """Tensors of every kind of strides, all views of normally distributed numbers."""
    torch.manual_seed(0)
    x = (2 * torch.randn(2, 6, 4, 5)).to(dtype)
    return {
        "contiguous": x,
        "channels last": x.to(memory_format=torch.channels_last),
        "channels last 3d": x.unsqueeze(2).to(memory_format=torch.channels_last_3d),
        "sliced": x[:, ::2, 1:, ::2],
        "transposed": x.transpose(0, 3),
        "expanded": x[:, :1].expand(2, 6, 4, 5),
        "size one": x[:1, :, :1].to(memory_format=torch.channels_last),
        "vector": x.flatten(),
        "odd": x.flatten()[1:],
        "empty": x[:0],
        "scalar": x[0, 0, 0, 0],
        "large": torch.randn(3, 300, 301).to(dtype),
    }


def results(name, x, dy):
    """Value and gradients through torch, and what fastact says."""
    leaf = x.detach().clone(memory_format=torch.preserve_format).as_strided(x.shape, x.stride()) \
        if x._is_view() and 0 in x.stride() and x.numel() else x.detach()  # fmt: skip
    leaf = leaf.requires_grad_()
    beside = tensors(name, leaf.detach(), grad=True)
    y = getattr(fat, name)(leaf, *beside, *numbers(name))
    gradients = torch.autograd.grad(y, [leaf, *beside], dy)
    plain_beside = [
        as_array(t).reshape([-1, *[1] * (x.ndim - 2)] if x.ndim > 1 else [1] * x.ndim)
        if name in LEARNED else as_array(t) for t in beside
    ]  # fmt: skip
    function, arrays = function_of(name), (as_array(x), *plain_beside, *numbers(name))
    want = function.backward(as_array(dy), *arrays)
    return (y, *gradients), (function(*arrays), *(want if isinstance(want, tuple) else (want,)))


@functions
@dtypes
def test_the_bits_of_fastact_and_the_strides_of_torch(name, dtype):
    for layout, x in layouts(dtype).items():
        dy = torch.randn_like(x)
        got, want = results(name, x, dy)
        for k, (mine, exact) in enumerate(zip(got, want, strict=True)):
            assert mine.dtype is dtype, layout
            exact = np.asarray(exact)
            assert_same_bits(as_array(mine).reshape(exact.shape), exact, f"{layout} {k}")
        assert got[0].stride() == torch.empty_like(x).stride(), layout
        assert got[1].shape == x.shape


@dtypes
def test_a_tensor_is_seen_where_it_lies(dtype):
    for layout, x in layouts(dtype).items():
        array = _tensors.array_of("x", x)
        assert array.shape == x.shape, layout
        if x.numel():
            assert array.ctypes.data == x.data_ptr(), layout
            steps = [s * x.element_size() for s in x.stride()]
            assert [s for s, n in zip(array.strides, x.shape, strict=True) if n > 1] == [
                s for s, n in zip(steps, x.shape, strict=True) if n > 1
            ]
            result, out = _tensors.empty_like(x, array)
            assert result.data_ptr() == out.ctypes.data, layout
            assert result.stride() == torch.empty_like(x).stride(), layout


def test_large_results_recycle_their_memory():
    before = fa.memory.stats().hits
    x = torch.randn(1 << 18)
    for _ in range(3):
        getattr(fat, ALL[1])(x)
    assert fa.memory.stats().hits >= before + 2


# ---- gradients -----------------------------------------------------------------------------------


@functions
def test_gradcheck_of_first_and_second_order(name):
    torch.manual_seed(1)
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    inputs = (x, *tensors(name, x.detach(), grad=True), *numbers(name))
    assert torch.autograd.gradcheck(getattr(fat, name), inputs)
    assert torch.autograd.gradgradcheck(getattr(fat, name), inputs)


@pytest.mark.parametrize("name", [n for n in ALL if "exp" in function_of(n).formula][:6])
def test_third_derivatives(name):
    x = torch.tensor([-1.3, 0.4, 2.0], dtype=torch.float64, requires_grad=True)
    beside = [t.detach() for t in tensors(name, x)]

    def second(x):
        y = getattr(fat, name)(x, *beside, *numbers(name)).sum()
        (first,) = torch.autograd.grad(y, x, create_graph=True)
        return torch.autograd.grad(first.sum(), x, create_graph=True)[0]

    assert torch.autograd.gradcheck(second, x)


@functions
def test_the_formula_composed_of_torchs_operations_is_the_activation(name):
    """Value and first derivative agree with the kernels everywhere, on kinks too, and what is
    differentiated twice is finite."""
    x = torch.tensor(hard(), requires_grad=True)
    beside = [t.detach().requires_grad_() for t in tensors(name, x.detach())]
    if name in GATED:
        beside = [x.detach().flip(0).requires_grad_()]
    function, keys = function_of(name), ("gate",) if name in GATED else function_of(name).learned
    rest = [k for k in function.parameters if k not in function.learned]
    params = dict(zip(keys, beside, strict=True)) | dict(zip(rest, numbers(name), strict=True))
    y = _composed.value(name, x, **params)
    arrays = [as_array(t) for t in (x, *beside)]
    want = function(*arrays, *numbers(name))
    np.testing.assert_allclose(as_array(y), want, rtol=1e-12, atol=1e-12)
    dy = torch.randn_like(y)
    first = torch.autograd.grad(y, [x, *beside], dy, create_graph=True)
    exact = function.backward(as_array(dy), *arrays, *numbers(name))
    for mine, right in zip(first, exact if isinstance(exact, tuple) else (exact,), strict=True):
        np.testing.assert_allclose(as_array(mine), right, rtol=1e-11, atol=1e-11)
    if any(g.requires_grad for g in first):
        second = torch.autograd.grad(
            sum(g.sum() for g in first), [x, *beside], allow_unused=True, materialize_grads=True
        )
        finite = np.isfinite(want)
        assert all(np.isfinite(as_array(g)[finite if g.shape == y.shape else ...]).all()
                   for g in second)  # fmt: skip


@dtypes
def test_second_derivatives_of_half_precision_keep_its_dtype(dtype):
    for name in ALL:
        x = torch.randn(2, 3).to(dtype).requires_grad_()
        beside = tensors(name, x.detach(), grad=True)
        y = getattr(fat, name)(x, *beside, *numbers(name))
        first = torch.autograd.grad(y.sum(), [x, *beside], create_graph=True)
        second = torch.autograd.grad(first[0].sum(), x, allow_unused=True)[0]
        assert second is None or second.dtype is dtype


# ---- torch's own tests ---------------------------------------------------------------------------


@functools.cache
def op_infos():
    from torch.testing._internal.common_methods_invocations import op_db

    return [
        (BY_SPELLING[plain(info.name.split(".")[-1])], info)
        for info in op_db
        if plain(info.name.split(".")[-1]) in BY_SPELLING
        and info.name.startswith(("nn.functional.", *[n for n in NAMES if hasattr(torch, n)]))
        and not info.variant_test_name
    ]


def test_torchs_samples_are_there():
    assert len(op_infos()) >= 22


def samples(name, info, dtype, *, grad):
    """Torch's samples that fastact's function of the name can take: (name, call, sample)."""
    for sample in info.sample_inputs("cpu", dtype, requires_grad=grad):
        if name in GATED:  # torch splits one tensor
            dim = sample.args[0] if sample.args else -1
            yield name, lambda x, dim=dim: getattr(fat, name)(*x.chunk(2, dim)), sample
        elif found := torch_sample(name, sample):
            mine, _, keywords = found
            call = functools.partial(getattr(fat, mine), **keywords)
            yield mine, lambda x, *rest, call=call: call(x, *rest), sample


def test_torchs_samples_give_torchs_values():
    count = 0
    for name, info in op_infos():
        for dtype in DTYPES:
            for mine, call, sample in samples(name, info, dtype, grad=False):
                args = () if name in GATED else sample.args
                if name not in GATED and function_of(mine).learned:
                    continue  # below
                for x in (sample.input, sample.noncontiguous().input):
                    want = info.op(x.double(), *sample.args, **sample.kwargs).to(dtype)
                    torch.testing.assert_close(call(x, *args), want, msg=info.name)
                    count += 1
    assert count > 300


def test_torchs_samples_pass_gradcheck():
    count = 0
    for name, info in op_infos():
        if not info.supports_autograd:
            continue
        for mine, call, sample in samples(name, info, torch.float64, grad=True):
            args = () if name in GATED else sample.args
            inputs = (sample.input, *args)
            fast = sample.input.numel() > 24
            assert torch.autograd.gradcheck(call, inputs, fast_mode=fast), mine
            if info.supports_gradgrad:
                assert torch.autograd.gradgradcheck(call, inputs, fast_mode=fast), mine
            count += 1
    assert count > 60


@pytest.mark.parametrize("name", LEARNED)
def test_torchs_samples_with_a_learned_parameter(name):
    ((_, info),) = [pair for pair in op_infos() if pair[0] == name]
    count = 0
    for sample in info.sample_inputs("cpu", torch.float64, requires_grad=True):
        weight = sample.args[0] if sample.args else sample.kwargs.get("weight")
        if weight is None:
            continue
        torch.testing.assert_close(
            getattr(fat, name)(sample.input, weight), info.op(sample.input, weight)
        )
        assert torch.autograd.gradcheck(getattr(fat, name), (sample.input, weight))
        assert torch.autograd.gradgradcheck(getattr(fat, name), (sample.input, weight))
        count += 1
    assert count >= 20


def test_torchs_module_samples():
    """The module, on the inputs with which torch tests its own."""
    from torch.testing._internal.common_modules import module_db

    count = 0
    for info in module_db:
        if BY_SPELLING.get(plain(info.module_cls.__name__), GATED[0]) in GATED:
            continue
        for sample in info.module_inputs_func(
            info, device="cpu", dtype=torch.float64, requires_grad=True, training=True
        ):
            theirs = info.module_cls(
                *sample.constructor_input.args, **sample.constructor_input.kwargs
            ).double()
            try:
                match = _fuse._match_module(theirs)
            except _fuse.Unfusable:  # another meaning in torch
                continue
            keys = [k for k in fa.activations[match.name].parameters]
            learned = fa.activations[match.name].learned
            values = dict(zip([k for k in keys if k not in learned], match.numbers, strict=True))
            values |= {key: getattr(theirs, key).detach() for key in learned}
            module = fat.Activation(match.name, **values).double()
            x = sample.forward_input.args[0]
            torch.testing.assert_close(module(x), theirs(x))
            assert torch.autograd.gradcheck(module, x)
            assert [k for k, _ in module.named_parameters()] == list(learned)
            clone = pickle.loads(pickle.dumps(copy.deepcopy(module)))
            torch.testing.assert_close(clone(x), module(x))
            count += 1
    assert count > 50


@dtypes
def test_random_slopes(dtype):
    x = torch.randn(500).to(dtype).requires_grad_()
    y = fat.rrelu_training(x, 0.2, 0.6, torch.Generator().manual_seed(5))
    again = fat.rrelu_training(x, 0.2, 0.6, torch.Generator().manual_seed(5))
    assert y.equal(again)
    assert y.dtype is dtype
    slopes = (y / x).detach().double()
    below = x < 0
    assert slopes[~below].eq(1).all()
    assert 0.19 < slopes[below].min() < 0.25
    assert 0.55 < slopes[below].max() < 0.61
    y.sum().backward()
    torch.testing.assert_close(x.grad.double(), slopes, rtol=1e-2, atol=1e-2)
    torch.manual_seed(7)
    first = fat.rrelu_training(x)
    torch.manual_seed(7)
    assert first.equal(fat.rrelu_training(x))
    assert not first.equal(fat.rrelu_training(x))
    wide = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda t: fat.rrelu_training(t, generator=torch.Generator().manual_seed(1)), wide
    )


# ---- one node ------------------------------------------------------------------------------------


def operator(name):
    return getattr(torch.ops.fastact, name).default


@functions
def test_torchs_checks_of_an_operator(name):
    torch.manual_seed(2)
    x = torch.randn(2, 3, 4, requires_grad=True)
    beside = tensors(name, x.detach(), grad=True)
    if name in LEARNED:
        beside = [beside[0].detach().view(-1, 1).requires_grad_()]
    arguments = (x, *beside, *numbers(name))
    torch.library.opcheck(operator(name), arguments)
    dy = torch.randn_like(x).requires_grad_()
    torch.library.opcheck(operator(f"{name}_backward"), (dy, *arguments))


def compiled_targets(call, *inputs):
    """What torch.compile makes of a call, forward and backward: the operators in its graphs."""
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    seen = []

    def keep(graph, _):
        seen.append([str(n.target) for n in graph.graph.nodes if n.op == "call_function"])
        return make_boxed_func(graph.forward)

    torch._dynamo.reset()
    compiled = torch.compile(call, fullgraph=True, backend=aot_autograd(fw_compiler=keep))
    y = compiled(*inputs)
    y.sum().backward()
    return y, seen


@functions
def test_compile_keeps_one_node(name):
    x = torch.randn(4, 3, requires_grad=True)
    beside = tensors(name, x.detach(), grad=True)
    y, seen = compiled_targets(lambda x, *b: getattr(fat, name)(x, *b, *numbers(name)), x, *beside)
    torch.testing.assert_close(y, getattr(fat, name)(x, *beside, *numbers(name)))
    assert len(seen) == 2
    mine = [[t for t in targets if "fastact" in t] for targets in seen]
    assert mine == [[f"fastact.{name}.default"], [f"fastact.{name}_backward.default"]]


@functions
def test_export_keeps_one_node(name):
    class Model(torch.nn.Module):
        def forward(self, x, *beside):
            return getattr(fat, name)(x, *beside, *numbers(name))

    x = torch.randn(4, 3)
    beside = tensors(name, x)
    exported = torch.export.export(Model(), (x, *beside))
    targets = [str(n.target) for n in exported.graph.nodes if n.op == "call_function"]
    assert [t for t in targets if t != "aten.view.default"] == [f"fastact.{name}.default"]
    torch.testing.assert_close(exported.module()(x, *beside), Model()(x, *beside))


# ---- manners -------------------------------------------------------------------------------------


def test_modes_hooks_and_copies():
    name = next(n for n in NAMES if function_of(n).formula.startswith("x / (1 + exp"))
    call = getattr(fat, name)
    x = torch.randn(5, requires_grad=True)
    with torch.no_grad():
        assert call(x).grad_fn is None
    with torch.inference_mode():
        assert call(torch.ones(3)).is_inference()
    assert not call(x.detach()).requires_grad
    seen, packed = [], []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: packed.append(t) or t.clone(), lambda t: seen.append("unpacked") or t
    ):
        y = call(x)
    y.register_hook(lambda g: seen.append("y"))
    x.register_hook(lambda g: seen.append("x"))
    y.sum().backward()
    assert seen == ["y", "unpacked", "x"]
    assert packed[0].data_ptr() == x.data_ptr()
    with torch.no_grad():
        y = call(x)
        x.add_(1)
    z = call(x.clone())
    z2 = x.clone()
    w = call(z2)
    z2.add_(1)  # what the backward needs is gone
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        w.sum().backward()
    z.sum().backward()
    y.add_(1)  # a result is an ordinary tensor
    assert copy.deepcopy(y).equal(y)


@pytest.mark.parametrize("name", [*LEARNED, *GATED])
def test_only_what_is_asked_for_gets_a_gradient(name):
    x = torch.randn(4, 3)
    beside = tensors(name, x, grad=True)
    getattr(fat, name)(x, *beside).sum().backward()
    assert x.grad is None
    assert beside[0].grad.shape == beside[0].shape
    if name in GATED:  # gates broadcast
        gate = torch.randn(4, 1, requires_grad=True)
        getattr(fat, name)(x, gate).sum().backward()
        assert gate.grad.shape == (4, 1)


def test_autocast_runs_in_the_dtype_that_comes():
    linear = torch.nn.Linear(8, 8)
    for name in (n for n in NAMES if not function_of(n).learned):
        with torch.autocast("cpu", torch.bfloat16):
            y = getattr(fat, name)(linear(torch.randn(2, 8)), *numbers(name))
            assert y.dtype is torch.bfloat16
        y.sum().backward()
    assert linear.weight.grad.dtype is torch.float32


@functions
def test_what_is_refused_is_refused_clearly(name):
    from torch._subclasses.fake_tensor import FakeTensorMode

    call = getattr(fat, name)

    def on(x):
        return call(x, *([x] if name in [*GATED, *LEARNED] else []), *numbers(name))

    for dtype in (torch.int64, torch.bool, torch.complex64):
        with pytest.raises(
            TypeError, match=r"x: dtype torch\.\w+ is not accepted; expected float16"
        ):
            on(torch.ones(3).to(dtype))
    with pytest.raises(ValueError, match=r"layout .*sparse_coo is not accepted"):
        on(torch.ones(3).to_sparse())
    with (
        FakeTensorMode(),
        pytest.raises(ValueError, match=r"x: a tensor on cuda:0 is not accepted.*on cpu"),
    ):
        on(torch.ones(3, device="cuda"))
    assert on(torch.ones(3, device="meta")).device.type == "meta"
    if name in GATED:
        with pytest.raises(ValueError, match=r"gate: torch\.float64 of shape"):
            call(torch.ones(3), torch.ones(3).double())
    if name in LEARNED:
        with pytest.raises(ValueError, match=r"weight: shape \(4, 1\) is not accepted"):
            call(torch.ones(2, 3, 5), torch.ones(4))


def test_the_modules_arguments():
    for name in NAMES:
        function = fa.activations[name]
        given = {k: 0.25 for k, v in function.parameters.items() if v is None}
        module = fat.Activation(function, **given)
        assert repr(module).startswith(f"Activation({name}")
        x = torch.randn(2, 3)
        assert module(x).shape == x.shape
        with pytest.raises(TypeError, match=f"{name} has no parameter 'no'"):
            fat.Activation(name, no=1.0)
        if given:
            with pytest.raises(TypeError, match=f"missing; {name} requires it"):
                fat.Activation(name)
    with pytest.raises(ValueError, match="there is no 'nothing'"):
        fat.Activation("nothing")
    with pytest.raises(ValueError, match="takes a gate"):
        fat.Activation(GATED[0])


def test_torchs_number_of_threads_is_a_limit(monkeypatch):
    seen = []

    class Watch:
        def __init__(self, function):
            self.function = function

        def __call__(self, *args, **kwargs):
            seen.append(fa.get_num_threads())
            return self.function(*args, **kwargs)

    before = fa.get_num_threads(), torch.get_num_threads()
    try:
        fa.set_num_threads(4)
        for threads, want in ((1, 1), (2, 2), (8, 4)):
            torch.set_num_threads(threads)
            with _activations.threads():
                seen.append(fa.get_num_threads())
            assert seen.pop() == want
        assert fa.get_num_threads() == 4
    finally:
        fa.set_num_threads(before[0])
        torch.set_num_threads(before[1])


def test_two_pools_of_threads_take_turns():
    """torch's OpenMP and fastact's in one process, from several threads, after a fork too."""
    code = """
import os, threading
import torch, fastact as fa, fastact.torch as fat
torch.set_num_threads(2); fa.set_num_threads(2)
x = torch.randn(1 << 18, requires_grad=True)
name = list(fa.activations)[10]
def work():
    for _ in range(20):
        y = getattr(fat, name)(x) * 2 + x
        torch.autograd.grad(y.sum(), x)
want = getattr(fat, name)(x)
workers = [threading.Thread(target=work) for _ in range(4)]
[w.start() for w in workers]; [w.join() for w in workers]
assert getattr(fat, name)(x).equal(want)
exact = want.detach().numpy()
pid = os.fork()
if pid == 0:
    mine = getattr(fat, name)(x).detach().numpy()  # torch's own may hang here
    os._exit(0 if (mine == exact).all() else 1)
print(os.waitpid(pid, 0)[1])
"""
    status, out, err = python(code)
    assert (status, out) == (0, "0"), err


def test_names_do_not_shadow_one_another():
    code = """
import sys, fastact
assert "torch" not in sys.modules
import fastact.torch, torch
assert torch.__name__ == "torch" and hasattr(torch, "Tensor")
assert fastact.torch.torch is torch if hasattr(fastact.torch, "torch") else True
print(fastact.torch.__name__)
"""
    assert python(code)[:2] == (0, "fastact.torch")
    for path in (ROOT / "fastact" / "torch").glob("*.py"):
        assert "from . import" not in path.read_text()


@pytest.mark.parametrize("name", [None, *fat.__all__])
def test_the_examples_of_docstrings_run(name):
    thing = fat if name is None else getattr(fat, name)
    test = doctest.DocTestParser().get_doctest(thing.__doc__, {}, str(name), None, 0)
    result = doctest.DocTestRunner(verbose=False).run(test)
    assert result.failed == 0
    assert result.attempted > 0 or name == "Report"


def test_a_number_that_would_get_no_gradient():
    x = torch.randn(3, 2)
    name = next(n for n in SCALAR if not function_of(n).learned)
    key = next(iter(function_of(name).parameters))
    value = torch.tensor(0.25, requires_grad=True)
    call = getattr(fat, name)
    for attempt in (
        lambda: call(x, value),
        lambda: call(x, **{key: value}),
        lambda: torch.func.grad(lambda v: call(x, v).sum())(value.detach()),
        lambda: torch.func.jvp(lambda v: call(x, v), (value.detach(),), (value.detach(),)),
        lambda: fat.Activation(name, **{key: value}),
        lambda: fat.batch_norm(x, training=True, activation=name, activation_params={key: value}),
    ):
        with pytest.raises(ValueError, match=f"{key}.*: a tensor that requires a gradient is not"):
            attempt()
    with torch.no_grad():
        assert call(x, value).equal(call(x, 0.25))
    assert call(x, value.detach()).equal(call(x, 0.25))
