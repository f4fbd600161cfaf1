"""fastact.torch's BatchNorm: torch's modules, with an activation in the same pass."""

import copy
import io
import itertools
import pickle

import numpy as np
import pytest
from conftest import GATED, LEARNED, NAMES, SCALAR, assert_same_bits, once
from torch_tools import as_array, dtypes, fa, fat, function_of, numbers, torch

ROWS = fat._batch_norm.ROWS
pytestmark = [once, pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")]

CLASSES = {
    torch.nn.BatchNorm1d: fat.BatchNorm1d,
    torch.nn.BatchNorm2d: fat.BatchNorm2d,
    torch.nn.BatchNorm3d: fat.BatchNorm3d,
}
SHAPES = {"1d": (6, 3), "1d long": (4, 3, 5), "2d": (4, 3, 2, 5), "3d": (2, 3, 2, 3, 2)}
modes = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
activations = pytest.mark.parametrize("name", [None, *NAMES])
# to the operator an activation is a name and numbers: a few say as much as all
some = pytest.mark.parametrize("name", [None, NAMES[-1], SCALAR[0], *LEARNED])


def parameters(name, channels=3, *, one=False):
    """activation_params, a learned one with a value a channel."""
    if name is None:
        return None
    function = function_of(name)
    keys = [key for key in function.parameters if key not in function.learned]
    params = dict(zip(keys, numbers(name), strict=True))
    return params | {k: 0.3 if one else torch.rand(channels) for k in function.learned}


def layer(shape, name=None, dtype=torch.float32, **kwargs):
    kind = {2: fat.BatchNorm1d, 3: fat.BatchNorm1d, 4: fat.BatchNorm2d, 5: fat.BatchNorm3d}
    made = kind[len(shape)](
        shape[1], dtype=dtype, activation=name, activation_params=parameters(name, shape[1]),
        **kwargs,
    )  # fmt: skip
    with torch.no_grad():
        for tensor in (*made.parameters(), made.running_mean, made.running_var):
            if tensor is not None:
                tensor.uniform_(0.4, 1.6)
    return made


def numpy_layer(module):
    """The same as a fastact.BatchNorm."""
    name, params = None, None
    if module.activation is not None:
        name, values = module.activation.name, iter(module.activation.numbers)
        learned = function_of(name).learned
        params = {
            key: as_array(getattr(module.activation, key)) if key in learned else next(values)
            for key in function_of(name).parameters
        }
    made = fa.BatchNorm(
        module.num_features, eps=module.eps, momentum=module.momentum, activation=name,
        activation_params=params, dtype=as_array(module.weight).dtype,
    )  # fmt: skip
    made.load_state_dict({key: as_array(value) for key, value in module.state_dict().items()})
    return made.train(module.training)


# ---- what comes out ------------------------------------------------------------------------------


@activations
@modes
def test_the_bits_of_fastacts_layer(name, training):
    for shape, channels_last in itertools.product(SHAPES.values(), (False, True)):
        torch.manual_seed(0)
        module = layer(shape, name).train(training)
        x = torch.randn(shape)
        if channels_last and len(shape) > 3:
            form = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
            x = x.to(memory_format=form)
        twin = numpy_layer(module)
        want = twin(as_array(x))
        x.requires_grad_()
        y = module(x)
        assert_same_bits(as_array(y), want)
        assert y.stride() == x.stride()
        dy = torch.randn_like(y)
        y.backward(dy)
        grads = twin.backward(as_array(dy))
        assert_same_bits(as_array(x.grad), grads.x)
        assert_same_bits(as_array(module.weight.grad), grads.weight)
        assert_same_bits(as_array(module.bias.grad), grads.bias)
        for key, gradient in (grads.activation_params or {}).items():
            assert_same_bits(as_array(getattr(module.activation, key).grad), gradient)
        for key, value in twin.state_dict().items():
            np.testing.assert_array_equal(as_array(module.state_dict()[key]), value, key)


@modes
@dtypes
def test_dtypes_and_mixtures(training, dtype):
    """Data of any dtype, parameters of its own or of float32."""
    for own in (dtype, torch.float32):
        module = layer((8, 3), NAMES[-1], own).train(training)
        x = torch.randn(8, 3).to(dtype).requires_grad_()
        y = module(x)
        assert y.dtype is x.dtype
        y.sum().backward()
        assert x.grad.dtype is dtype
        assert module.weight.grad.dtype is own
        wide = copy.deepcopy(module).double()
        torch.testing.assert_close(y.double(), wide(x.double()), rtol=2e-2, atol=2e-2)


def test_a_tensor_is_not_copied(monkeypatch):
    seen = {}
    whole = fa.batch_norm_forward

    def watch(x, **kwargs):
        y, ctx = whole(x, **kwargs)
        seen["x"], seen["y"] = x, y
        return y, ctx

    monkeypatch.setattr(fat._batch_norm, "batch_norm_forward", watch)
    for dtype in (torch.bfloat16, torch.float32):
        x = torch.randn(4, 3, 5, 5).to(dtype).to(memory_format=torch.channels_last)
        y = layer(x.shape)(x)
        assert seen["x"].ctypes.data == x.data_ptr()
        assert seen["y"].ctypes.data == y.data_ptr()
        assert y.is_contiguous(memory_format=torch.channels_last)


# ---- gradients -----------------------------------------------------------------------------------


@activations
@modes
def test_gradcheck_of_first_and_second_order(name, training):
    torch.manual_seed(1)
    module = layer((4, 3), name, torch.float64, track_running_stats=not training)
    module.train(training)
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    names = [key for key, _ in module.named_parameters()]

    def call(x, *values):
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), x)

    inputs = (x, *module.parameters())
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


@pytest.mark.parametrize("name", LEARNED)
def test_one_learned_value_for_all_channels(name):
    module = fat.BatchNorm1d(3, activation=name, activation_params=parameters(name, one=True))
    module.double()
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    names = [key for key, _ in module.named_parameters()]
    assert names == ["weight", "bias", f"activation.{function_of(name).learned[0]}"]

    def call(x, *values):
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), x)

    module.running_mean = module.running_var = None
    assert torch.autograd.gradcheck(call, (x, *module.parameters()))
    assert torch.autograd.gradgradcheck(call, (x, *module.parameters()))


@some
@modes
def test_a_residual(name, training):
    """Added before the activation: the bits of fastact, gradients of both orders; what the kernel
    does not take is composed."""
    torch.manual_seed(2)
    module = layer((4, 3, 5), name, track_running_stats=not training).train(training)
    x, residual = torch.randn(4, 3, 5), torch.randn(4, 3, 5)
    z = copy.deepcopy(module)
    z.activation = None
    after = module.activation or torch.nn.Identity()
    want = after(z(x) + residual)
    assert module(x, residual).equal(want)
    larger = [torch.randn(2, 4, 3, 5)] * (name not in LEARNED)
    for other in (torch.randn(3, 1), torch.randn(()), residual.double(), *larger):
        torch.testing.assert_close(module(x, other), after(z(x) + other))
    module.double()
    inputs = [t.double().requires_grad_() for t in (x, residual[:1])]
    assert torch.autograd.gradcheck(module, inputs)
    assert torch.autograd.gradgradcheck(module, inputs)
    module.float()
    form = torch.randn(4, 3, 5, 2).to(memory_format=torch.channels_last).requires_grad_()
    wide = layer((4, 3, 5, 2), name)
    y = wide(form, form)
    assert y.stride() == form.stride()
    y.sum().backward()
    assert form.grad.shape == form.shape


def test_only_what_is_asked_for_gets_a_gradient():
    module = layer((6, 3), NAMES[-1])
    module.weight.requires_grad_(False)
    module(torch.randn(6, 3)).sum().backward()
    assert module.weight.grad is None
    assert module.bias.grad is not None
    bare = fat.BatchNorm1d(3, affine=False)
    x = torch.randn(6, 3, requires_grad=True)
    bare(x).square().sum().backward()
    assert x.grad is not None
    y, state = torch.ops.fastact.batch_norm.default(
        x, None, None, None, None, None, None, True, 1e-5, "", [], ROWS
    )
    assert y.requires_grad
    assert not state.requires_grad


# ---- torch's own tests ---------------------------------------------------------------------------


def module_samples(dtype, training):
    """(torch's class, its arguments, the input) of all with which torch tests its BatchNorms."""
    from torch.testing._internal.common_modules import module_db

    for info in module_db:
        if info.module_cls not in CLASSES:
            continue
        for sample in info.module_inputs_func(
            info, device="cpu", dtype=dtype, requires_grad=True, training=training
        ):
            made = sample.constructor_input
            yield info.module_cls, made.args, made.kwargs, sample.forward_input.args[0]


@modes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torchs_module_samples(dtype, training):
    torch.manual_seed(0)
    count = 0
    for kind, args, kwargs, x in module_samples(dtype, training):
        theirs = kind(*args, **kwargs, dtype=dtype).train(training)
        mine = CLASSES[kind](*args, **kwargs, dtype=dtype).train(training)
        assert isinstance(mine, kind)
        assert list(mine.state_dict()) == list(theirs.state_dict())
        mine.load_state_dict(theirs.state_dict())
        for form in ("as it comes", "strided"):
            given = [x.detach().clone() for _ in range(2)]
            if form == "strided":
                given = [torch.stack([t, t], -1)[..., 0] for t in given]
            given = [t.requires_grad_() for t in given]
            want, got = theirs(given[0]), mine(given[1])
            torch.testing.assert_close(got, want)
            dy = torch.randn_like(want)
            want.backward(dy)
            got.backward(dy)
            torch.testing.assert_close(given[1].grad, given[0].grad)
            for a, b in zip(theirs.parameters(), mine.parameters(), strict=True):
                torch.testing.assert_close(b.grad, a.grad)
            for key, value in theirs.state_dict().items():
                torch.testing.assert_close(mine.state_dict()[key], value, msg=key)
        if dtype is torch.float64:
            fixed = copy.deepcopy(mine)
            assert torch.autograd.gradcheck(
                lambda t, fixed=fixed: copy.deepcopy(fixed)(t), x, fast_mode=True
            )
            assert torch.autograd.gradgradcheck(
                lambda t, fixed=fixed: copy.deepcopy(fixed)(t), x, fast_mode=True
            )
        count += 1
    assert count >= 20


def test_what_torchs_tests_of_modules_ask():
    for (kind, mine), shape in zip(CLASSES.items(), list(SHAPES.values())[1:], strict=True):
        module = mine(3, activation=NAMES[-1])
        x = torch.randn(shape)
        module(x)
        clone, again = copy.deepcopy(module), pickle.loads(pickle.dumps(module))
        buffer = io.BytesIO()
        torch.save(module, buffer)
        buffer.seek(0)
        saved = torch.load(buffer, weights_only=False)
        module.eval()
        for other in (clone, again, saved):
            assert other.training
            torch.testing.assert_close(other.eval()(x), module(x), rtol=0, atol=0)
        assert "activation" in repr(module)
        assert repr(mine(3)) == repr(kind(3))
        module.reset_parameters()
        assert module.running_mean.eq(0).all()
        assert module.double().half().weight.dtype is torch.float16
        with torch.device("meta"):
            ghost = mine(3, activation=NAMES[-1])
        assert ghost(torch.empty(shape, device="meta")).shape == torch.Size(shape)
        real = ghost.to_empty(device="cpu")
        real.load_state_dict(mine(3).state_dict())
        torch.testing.assert_close(real.eval()(x), mine(3, activation=NAMES[-1]).eval()(x))


def test_checkpoints_go_both_ways():
    for kind, mine in CLASSES.items():
        theirs = kind(5)
        torch.nn.init.uniform_(theirs.weight)
        module = mine(5, activation=NAMES[-1])
        assert module.load_state_dict(theirs.state_dict()) == ([], [])
        assert kind(5).load_state_dict(module.state_dict()) == ([], [])
        old = {k: v for k, v in theirs.state_dict().items() if k != "num_batches_tracked"}
        assert not mine(5).load_state_dict(old).missing_keys  # of before torch 0.4.1


@pytest.mark.parametrize("momentum", [0.1, 0.0, 1.0, None])
def test_running_statistics(momentum):
    theirs = torch.nn.BatchNorm1d(3, momentum=momentum)
    mine = fat.BatchNorm1d(3, momentum=momentum)
    for _ in range(4):
        x = torch.randn(7, 3) * 3 + 1
        theirs(x)
        mine(x)
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(mine.state_dict()[key], value)
    assert mine.num_batches_tracked == 4
    without = fat.BatchNorm1d(3, track_running_stats=False)
    torch.testing.assert_close(without(x), without.eval()(x))
    bare = fat.BatchNorm1d(3, momentum=momentum, bias=False)
    torch.testing.assert_close(bare(x), torch.nn.BatchNorm1d(3, bias=False)(x))


def test_the_function_is_torchs():
    x = torch.randn(4, 3, 5)
    mean, var, weight, bias = (torch.rand(3) + 0.5 for _ in range(4))
    for training in (False, True):
        stats = [[t.clone() for t in (mean, var)] for _ in range(2)]
        args = (weight, bias, training, 0.3, 1e-3)
        want = torch.nn.functional.batch_norm(x, *stats[0], *args)
        torch.testing.assert_close(fat.batch_norm(x, *stats[1], *args), want)
        torch.testing.assert_close(stats[1], stats[0])


def test_nothing_is_written_when_an_argument_is_refused():
    module = fat.BatchNorm1d(3, activation=NAMES[-1])
    before = copy.deepcopy(module.state_dict())
    for x, error, match in (
        (torch.randn(4, 3, 5, 5), ValueError, "expected 2D or 3D input"),
        (torch.randn(1, 3), ValueError, "training needs at least 2"),
        (torch.randn(4, 2), ValueError, "shape"),
        (torch.ones(4, 3, dtype=torch.int64), TypeError, "x: dtype torch.int64 is not accepted"),
    ):
        with pytest.raises(error, match=match):
            module(x)
    for key, value in before.items():
        assert module.state_dict()[key].equal(value)
    with pytest.raises(TypeError, match="activation_params: given without an activation"):
        fat.BatchNorm1d(3, activation_params={"a": 1})
    with pytest.raises(ValueError, match="there is no 'nothing'"):
        fat.BatchNorm2d(3, activation="nothing")
    with pytest.raises(TypeError, match="has no parameter 'no'"):
        fat.batch_norm(torch.ones(2, 2), training=True, activation=NAMES[0],
                       activation_params={"no": 1})  # fmt: skip


@modes
@pytest.mark.parametrize("name", ["running_mean", "running_var"])
def test_running_statistics_get_no_gradient(name, training):
    stats = {key: torch.ones(3) for key in ("running_mean", "running_var")}
    stats[name].requires_grad_()
    x = torch.randn(6, 3)
    with pytest.raises(ValueError, match=f"{name}: a tensor that requires a gradient is not"):
        fat.batch_norm(x, **stats, training=training)
    with torch.no_grad():
        fat.batch_norm(x, **stats, training=training)


# ---- modes ---------------------------------------------------------------------------------------


@some
@modes
def test_torchs_checks_of_the_operators(name, training):
    torch.manual_seed(3)
    module = layer((4, 3, 2), name)
    settings = module.activation.settings() if name else ("", [], None)
    stats = (None, None) if training else (module.running_mean, module.running_var)
    tail = (training, 1e-5, settings[0], settings[1])
    x = torch.randn(4, 3, 2, requires_grad=True)
    for residual in (None, torch.randn(4, 3, 2, requires_grad=True)):
        tensors = (module.weight, module.bias, settings[2], residual)
        arguments = (x, *stats, *tensors, *tail, ROWS)
        torch.library.opcheck(torch.ops.fastact.batch_norm.default, arguments)
        _, state = torch.ops.fastact.batch_norm.default(*arguments)
        dy = torch.randn_like(x).requires_grad_()
        torch.library.opcheck(
            torch.ops.fastact.batch_norm_backward.default, (dy, x, state.detach(), *tensors, *tail)
        )
    torch.library.opcheck(
        torch.ops.fastact.track_.default,
        (module.running_mean.clone(), module.running_var.clone(), state.detach(), 8, 0.1),
    )


def model(name):
    torch.manual_seed(4)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), fat.BatchNorm2d(8, activation=name,
                                                  activation_params=parameters(name, 8)),
        torch.nn.Conv2d(8, 4, 3), fat.BatchNorm2d(4),
    )  # fmt: skip


def same_step(one, two, x):
    """One step of each: outputs, gradients and buffers are close."""
    a, b = one(x), two(x)
    torch.testing.assert_close(a, b)
    a.square().mean().backward()
    b.square().mean().backward()
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    for p, q in zip(one.buffers(), two.buffers(), strict=True):
        torch.testing.assert_close(p, q)
    one.zero_grad()
    two.zero_grad()


@some
def test_compile_and_export_keep_one_node(name):
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    seen = []

    def keep(graph, _):
        seen.append([str(n.target) for n in graph.graph.nodes if "fastact" in str(n.target)])
        return make_boxed_func(graph.forward)

    net, reference = model(name), model(name)
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend=aot_autograd(fw_compiler=keep))
    same_step(compiled, reference, torch.randn(2, 3, 8, 8))
    forward, backward = seen
    assert [t for t in forward if "track" not in t] == ["fastact.batch_norm.default"] * 2
    assert backward == ["fastact.batch_norm_backward.default"] * 2
    exported = torch.export.export(net.eval(), (torch.randn(2, 3, 8, 8),))
    nodes = [str(n.target) for n in exported.graph.nodes if n.op == "call_function"]
    assert nodes.count("fastact.batch_norm.default") == 2
    assert set(nodes) == {
        "aten.conv2d.default", "fastact.batch_norm.default", "<built-in function getitem>",
    }  # fmt: skip
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(exported.module()(x), reference.eval()(x))


@pytest.mark.filterwarnings("ignore")  # of the C++ compiler's wrapper
def test_inductor_with_channels_last_and_several_sizes():
    net, reference = model(NAMES[-1]), model(NAMES[-1])
    for each in (net, reference):
        each.to(memory_format=torch.channels_last)
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True)
    for size in ((4, 9), (6, 9), (5, 11)):
        x = torch.randn(size[0], 3, size[1], 8).to(memory_format=torch.channels_last)
        same_step(compiled, reference, x)
    with torch.inference_mode():
        torch.testing.assert_close(compiled.eval()(x), reference.eval()(x))


def test_checkpointing_hooks_and_modes():
    from torch.utils.checkpoint import checkpoint

    net = model(NAMES[-1]).eval()
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    want = torch.autograd.grad(net(x).sum(), x)
    got = torch.autograd.grad(checkpoint(net, x, use_reentrant=False).sum(), x)
    torch.testing.assert_close(got, want)
    seen = []
    net[1].register_forward_hook(lambda m, args, y: seen.append(y.shape))
    net[1].register_full_backward_hook(lambda m, gx, gy: seen.append(gx[0].shape))
    net.train()(x).sum().backward()
    assert seen == [torch.Size([2, 8, 6, 6])] * 2
    with torch.inference_mode():
        y = net(x)
    assert y.is_inference()
    assert net[1].num_batches_tracked == 2
    with torch.no_grad():
        assert net(x).grad_fn is None


def test_autocast_to_bfloat16():
    net, reference = model(NAMES[-1]), model(NAMES[-1])
    x = torch.randn(4, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x)
        assert y.dtype is torch.bfloat16
        y.float().square().mean().backward()
    assert net[1].weight.grad.dtype is torch.float32
    assert net[1].running_mean.dtype is torch.float32
    torch.testing.assert_close(y.float(), reference(x), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("call", [
    lambda a, b: getattr(fat, GATED[0])(a, b),
    lambda a, b: fat.batch_norm(a, training=True, residual=b, activation=NAMES[-1]),
], ids=["gate", "residual"])  # fmt: skip
def test_autocast_mixes_dtypes(call, compiled):
    conv, x, other = torch.nn.Conv2d(3, 8, 3), torch.randn(4, 3, 8, 8), torch.randn(4, 8, 6, 6)
    with pytest.raises((TypeError, ValueError), match="bfloat16"):
        call(conv(x).bfloat16(), other)
    orders = [lambda: call(conv(x), other), lambda: call(other, conv(x))]
    for order in orders:
        torch._dynamo.reset()
        run = torch.compile(order, backend="aot_eager", fullgraph=True) if compiled else order
        with torch.autocast("cpu", torch.bfloat16):
            y = run()
        assert y.dtype is torch.float32
        torch.testing.assert_close(y, order(), rtol=0.1, atol=0.1)
        conv.zero_grad()
        y.sum().backward()
        assert conv.weight.grad.dtype is torch.float32


def test_double_tensors_everywhere():
    net = model(NAMES[-1]).double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    y = net(x)
    assert y.dtype is torch.float64
    (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    first.square().sum().backward()
    assert x.grad.dtype is torch.float64


def test_what_the_backward_needs_may_not_change():
    module = layer((4, 3), NAMES[-1])
    x = torch.randn(4, 3, requires_grad=True) * 1
    y = module(x)
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
