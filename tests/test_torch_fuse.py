"""fuse(model): what it replaces gives the same numbers, and what it leaves it explains."""

import copy
import io
import pickle

import pytest
from conftest import LEARNED, NAMES, once
from torch_tools import BY_SPELLING, fat, plain, torch

nn, functional = torch.nn, torch.nn.functional
pytestmark = [once, pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")]


def randomize(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, nn.modules.batchnorm._BatchNorm):
                for tensor in (m.weight, m.bias, m.running_mean, m.running_var):
                    if tensor is not None:
                        tensor.uniform_(0.5, 1.5)
    return model.double()


def run(model, x, seed=1):
    torch.manual_seed(seed)
    return model(x)


def check(model, *shape, fused, left=(), rewritten=None, **options):
    """Fuses a copy: the report, and in both modes the same outputs, gradients and buffers."""
    model = randomize(model)
    mine = copy.deepcopy(model)
    tensors = {k: id(v) for k, v in [*mine.named_parameters(), *mine.named_buffers()]}
    flags = [m.training for m in mine.modules()]
    report = fat.fuse(mine, **options)
    assert {r.batch_norm: r.activation for r in report.replaced} == fused
    reasons = {item.batch_norm: item.reason for item in report.left}
    assert set(reasons) == set(left)
    for name, part in dict(left).items():
        assert part in reasons[name], reasons[name]
    if rewritten is not None:
        assert report.rewritten == rewritten
    assert list(mine.state_dict()) == list(model.state_dict())
    assert {k: id(v) for k, v in [*mine.named_parameters(), *mine.named_buffers()]} == tensors
    assert [m.training for m in mine.modules()][:1] == flags[:1]
    assert f"fused {len(fused)} of {len(fused) + len(reasons)}" in str(report)
    buffer = io.BytesIO()
    torch.save(mine, buffer)
    buffer.seek(0)
    copies = [mine, copy.deepcopy(mine), torch.load(buffer, weights_only=False)]
    for training in (True, False):
        x = torch.randn(*shape, dtype=torch.float64)
        reference = copy.deepcopy(model).train(training)
        want = run(reference, x)
        want.square().sum().backward()
        for one in copies:
            one = copy.deepcopy(one).train(training)
            got = run(one, x)
            torch.testing.assert_close(got, want)
            got.square().sum().backward()
            for (key, p), q in zip(one.named_parameters(), reference.parameters(), strict=True):
                if q.grad is not None:
                    torch.testing.assert_close(p.grad, q.grad, msg=key)
            for (key, p), q in zip(one.named_buffers(), reference.buffers(), strict=True):
                torch.testing.assert_close(p, q, msg=key)
    again = fat.fuse(mine, **options)
    assert not again.replaced
    assert all("fused already" in item.reason for item in again.left
               if item.batch_norm in fused)  # fmt: skip
    return report


# ---- activations ---------------------------------------------------------------------------------

# fastact's name, or why not
REFUSED = {
    "GLU": "no activation of fastact", "MultiheadAttention": None, "RReLU": "random in training",
    "Softmax": "no activation of fastact", "Softmax2d": None,
    "Softmin": "no activation of fastact", "LogSoftmax": "no activation of fastact",
}  # fmt: skip
ARGUMENTS = {
    "Threshold": (0.3, -2.0), "Softmax": (1,), "Softmin": (1,), "LogSoftmax": (1,),
    "GLU": (1,), "MultiheadAttention": (4, 1),
}  # fmt: skip


@pytest.mark.parametrize("kind", nn.modules.activation.__all__)
def test_every_activation_module_of_torch(kind):
    if REFUSED.get(kind, "") is None:
        return
    activation = getattr(nn, kind)(*ARGUMENTS.get(kind, ()))
    width = 2 if kind == "GLU" else 4
    model = nn.Sequential(
        nn.Linear(4, 4), nn.BatchNorm1d(4), activation, nn.Linear(width, 2)
    )  # fmt: skip
    if kind in REFUSED:
        check(model, 6, 4, fused={}, left={"1": REFUSED[kind]})
        return
    report = check_fuses(model, BY_SPELLING[plain(kind)])
    assert not report.rewritten


def check_fuses(model, name):
    """That BatchNorm 1 is fused with an activation of a name, whatever its parameters."""
    described = fat.fuse(copy.deepcopy(model)).replaced[0].activation
    assert described.split("(")[0] == name
    return check(model, 6, 4, fused={"1": described})


@pytest.mark.parametrize("case", [
    (nn.GELU("tanh"), "tanh"), (nn.LeakyReLU(0.3, inplace=True), "0.3"), (nn.ELU(0.7), "0.7"),
    (nn.Hardtanh(-0.2, 0.4), "min_val=-0.2"), (nn.Softplus(2.0), "beta=2"),
    (nn.PReLU(4, 0.2), ""), (nn.PReLU(init=0.1), ""), (nn.Hardshrink(0.2), "0.2"),
    (fat.Activation(LEARNED[0], weight=0.2), ""), (fat.Activation(NAMES[-1]), NAMES[-1]),
])  # fmt: skip
def test_parameters_come_along(case):
    activation, part = case
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), activation)
    described = fat.fuse(copy.deepcopy(model)).replaced[0].activation
    assert part in described
    check(model, 6, 4, fused={"1": described})


@pytest.mark.parametrize(("activation", "reason"), [
    (nn.Softplus(1.0, 5.0), "has no"), (nn.RReLU(0.1, 0.2), "random"),
    (nn.Dropout(0.5), "Dropout"), (nn.Linear(4, 4), "Linear"), (nn.Identity(), "Identity"),
])  # fmt: skip
def test_what_fastact_would_not_compute_the_same_is_left(activation, reason):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), activation)
    check(model, 6, 4, fused={}, left={"1": reason})


@torch.fx.wrap
def silu(z):
    """Not torch's, though of that name."""
    return z * torch.sigmoid(2 * z)


class Function(nn.Module):
    """BatchNorm and a function, which has no module."""

    def __init__(self, case):
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.case = case

    def forward(self, x):
        return CALLS[self.case][0](self.norm(self.linear(x))) * 2


CALLS = {
    "function": (lambda z: functional.relu(z), True),
    "in place": (lambda z: functional.relu(z, inplace=True), True),
    "underscore": (lambda z: torch.relu_(z), True),
    "torch": (lambda z: torch.relu(z), True),
    "method": (lambda z: z.relu(), True),
    "method in place": (lambda z: z.sigmoid_(), True),
    "positional": (lambda z: functional.leaky_relu(z, 0.3), True),
    "keyword": (lambda z: functional.leaky_relu(z, negative_slope=0.3), True),
    "function in C": (lambda z: functional.softplus(z, 2.0), True),
    "function in C, keyword": (lambda z: functional.softshrink(z, lambd=0.2), True),
    "approximate": (lambda z: functional.gelu(z, approximate="tanh"), True),
    "bounds": (lambda z: functional.hardtanh(z, -0.3, 0.4), True),
    "two numbers": (lambda z: functional.threshold(z, 0.2, -1.0), True),
    "another linear part": (lambda z: functional.softplus(z, 1.0, 3.0), False),
    "random": (lambda z: functional.rrelu(z, training=True), False),
    "computed": (lambda z: functional.leaky_relu(z, z.mean()), False),
    "learned": (lambda z: functional.prelu(z, z.new_full((1,), 0.2)), False),
    "unknown": (lambda z: torch.sin(z), False),
    "of that name": (lambda z: silu(z), False),
    "no activation": (lambda z: z.view(-1, 4), False),
    "used twice": (lambda z: functional.relu(z) + z, False),
    "itself twice": (lambda z: functional.relu(z * z), False),
}


@pytest.mark.parametrize("case", CALLS)
def test_functions(case):
    fuses = CALLS[case][1]
    report = fat.fuse(Function(case))
    assert len(report.replaced) == fuses, report
    if fuses:
        check(Function(case), 6, 4, fused={"norm": report.replaced[0].activation},
              rewritten=["the model"])  # fmt: skip
        model = Function(case)
        fat.fuse(model)
        assert isinstance(model, Function)
        assert type(model).__name__ == "FusedFunction"
    else:
        assert report.left[0].batch_norm == "norm"


def test_a_method_that_no_tensor_has():
    class Wrong(nn.Sequential):
        def forward(self, x):
            return self[0](x).nonsense()

    assert "nonsense" in fat.fuse(Wrong(nn.BatchNorm1d(4))).left[0].reason


# ---- models --------------------------------------------------------------------------------------


class Block(nn.Module):
    """A residual block: its one ReLU is called twice."""

    def __init__(self, channels, stride=1, down=False):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.down = None
        if down:
            self.down = nn.Sequential(
                nn.Conv2d(channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x):
        kept = x
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.down is not None:
            kept = self.down(x)
        y += kept
        return self.relu(y)


def test_a_residual_network():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), Block(4),
                          Block(4, 2, True), nn.BatchNorm2d(4))  # fmt: skip
    fused = {"1": "relu", "3.bn1": "relu", "4.bn1": "relu"}
    fused |= {"3.bn2": "relu", "4.bn2": "relu"}
    left = {"5": "the module's own", "4.down.1": "it is added to another tensor in place"}
    report = check(model, 2, 3, 10, 10, fused=fused, left=left, rewritten=["3", "4"])
    assert [r.adds for r in report.replaced].count(True) == 2


def test_chains_of_chains():
    """A BatchNorm at the end of a Sequential, its activation in the next."""
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
        nn.Sequential(nn.SiLU(), nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.PReLU(4))),
    )
    report = check(model, 2, 3, 9, 9, rewritten=[],
                   fused={"0.1": BY_SPELLING["silu"], "1.1.1": LEARNED[0]})  # fmt: skip
    assert not report.left


class Dropping(nn.Module):
    """Its forward differs between training and evaluation."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: "torch.Tensor", scale: "float" = 1.0) -> "torch.Tensor":
        x = functional.silu(self.norm(self.linear(x))) * scale
        x = functional.dropout(x, 0.5, self.training)
        return x * 3 if self.training else x


def test_training_and_evaluation_keep_a_forward_each():
    check(Dropping(), 6, 4, fused={"norm": BY_SPELLING["silu"]}, rewritten=["the model"])


class Choosing(nn.Module):
    """Not to be traced: what it does depends on the values."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU())
        self.many = nn.ModuleList([Function("method") for _ in range(2)])

    def forward(self, x):
        x = functional.relu(self.norm(x))
        if x.sum() > 0:
            x = self.body(x)
        for one in self.many:
            x = one(x)
        return x


def test_a_forward_that_cannot_be_traced_is_left_and_its_children_are_not():
    untraced = "the forward of the model cannot be traced: TraceError"
    many = {"many.0.norm": "relu", "many.1.norm": "relu"}
    check(Choosing(), 6, 4, fused=many, rewritten=["many.0", "many.1"],
          left={"norm": untraced, "body.1": "it may call a Sequential by parts"})  # fmt: skip
    check(Choosing(), 6, 4, fused=many | {"body.1": "relu"}, left={"norm": untraced},
          assume_whole=True)  # fmt: skip


class Tapping(nn.Module):
    """Not to be traced, and it leaves out a part of a Sequential."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.BatchNorm1d(4), nn.ReLU()))
        self.shelf = nn.ModuleDict({"one": nn.Sequential(nn.BatchNorm1d(4), nn.ReLU())})

    def forward(self, x):
        x = self.body[1][0](self.body[0](x))
        return self.shelf["one"][0](x) if x.sum() > 1e9 else x


def test_parts_of_a_sequential_that_are_called_by_a_forward_that_cannot_be_traced():
    reason = "it may call a Sequential by parts (else: assume_whole=True)"
    check(Tapping(), 6, 4, fused={}, left={"body.1.0": reason, "shelf.one.0": reason})


class Shelves(nn.Module):
    """Sequentials in a list and a dictionary, some of them of Sequentials, one called by parts."""

    def __init__(self):
        super().__init__()
        self.many = nn.ModuleList([self.pair(), nn.Sequential(self.pair(), Function("method"))])
        self.named = nn.ModuleDict({"a": self.pair(), "b": nn.ModuleList([self.pair()])})

    def pair(self):
        return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU())

    def forward(self, x):
        for one in self.many:
            x = one(x)
        x = self.named["b"][0](x)
        return self.named["a"][1](self.named["a"][0](x)) * 2


def test_sequentials_in_lists_and_dictionaries():
    fused = dict.fromkeys(["many.0.1", "many.1.0.1", "many.1.1.norm", "named.b.0.1"], "relu")
    check(Shelves(), 6, 4, fused=fused, left={"named.a.1": "what follows, mul"},
          rewritten=["many.1.1"])  # fmt: skip
    alone = nn.ModuleList([nn.Sequential(nn.BatchNorm1d(4), nn.ReLU())])
    assert len(fat.fuse(alone).replaced) == 1


class Twice(nn.Module):
    """Calls a BatchNorm once in training and twice in evaluation."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        y = torch.relu(self.norm(x))
        return y if self.training else y + self.norm(x * 2).exp()


def test_a_second_call_in_evaluation():
    check(Twice(), 6, 4, fused={}, left={"norm": "called 2 times"})


class Lending(nn.Module):
    """Shares things: a block used twice is one module; a BatchNorm used twice is left."""

    def __init__(self):
        super().__init__()
        self.block = Function("function")
        self.again = self.block
        self.norm = nn.BatchNorm1d(4)
        self.act = nn.PReLU(4)
        self.first = nn.BatchNorm1d(4)
        self.second = nn.BatchNorm1d(4)

    def forward(self, x):
        x = self.again(self.block(x))
        x = torch.tanh(self.norm(torch.tanh(self.norm(x))))
        return self.act(self.second(self.act(self.first(x))))


def test_what_is_shared():
    check(
        Lending(), 6, 4,
        fused={"block.norm": "relu", "first": LEARNED[0], "second": LEARNED[0]},
        left={"norm": "called 2 times"}, rewritten=["the model", "block"],
    )  # fmt: skip


def test_hooks_dtypes_and_other_classes():
    class Own(nn.BatchNorm1d):
        pass

    model = nn.Sequential(
        nn.BatchNorm1d(4), nn.ReLU(), Own(4), nn.ReLU(), nn.BatchNorm1d(4), nn.ReLU(),
        nn.SyncBatchNorm(4), nn.ReLU(),
    )  # fmt: skip
    model[0].register_forward_hook(lambda *_: None)
    model[5].register_forward_hook(lambda *_: None)
    report = fat.fuse(model)
    assert not report.replaced
    reasons = {item.batch_norm: item.reason for item in report.left}
    for name, part in {"0": "hooks", "2": "Own", "4": "has hooks", "6": "SyncBatchNorm"}.items():
        assert part in reasons[name]
    with torch.device("meta"):
        model = nn.Sequential(nn.BatchNorm1d(4), nn.ReLU())
    assert fat.fuse(model).replaced
    kept = nn.Sequential(nn.BatchNorm1d(4), nn.ReLU())
    kept[0].register_forward_pre_hook(lambda m, args: (args[0] * 2,))
    x = torch.randn(6, 4)
    want = kept.eval()(x)
    assert fat.fuse(kept).replaced
    torch.testing.assert_close(kept(x), want)
    assert fat.fuse(nn.Linear(2, 2)).replaced == []
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module, got str"):
        fat.fuse("model")


def reason(model):
    """Why the first BatchNorm of a model is left."""
    report = fat.fuse(model)
    assert not report.replaced
    return report.left[0].reason


REGISTER = {
    "forward": lambda m: m.register_forward_hook(lambda *_: None),
    "backward": lambda m: m.register_full_backward_hook(lambda *_: None),
    "backward, before": lambda m: m.register_full_backward_pre_hook(lambda *_: None),
}


@pytest.mark.parametrize("hook", REGISTER)
@pytest.mark.parametrize("activation", [nn.ReLU, lambda: fat.Activation(NAMES[-1])])
def test_hooks_of_every_kind(hook, activation):
    for place in (0, 1):
        model = nn.Sequential(nn.BatchNorm1d(4), activation())
        REGISTER[hook](model[place])
        assert "has hooks" in reason(model)
    seen = nn.Sequential(nn.Sequential(nn.BatchNorm1d(4)), nn.ReLU())
    REGISTER[hook](seen[0])
    assert "the module's own" in reason(seen)
    adding = Adding((4, 1, 1))
    adding.norm.register_forward_pre_hook(lambda m, args: (args[0] * 2,))
    assert "would see the other operand" in reason(adding)


def test_a_forward_of_the_instances_own():
    model = Function("function")
    model.forward = lambda x: model.norm(model.linear(x))
    assert reason(model) == "the forward of the model cannot be traced: it is its instance's own"
    for place in (0, 1):
        model = nn.Sequential(nn.BatchNorm1d(4), nn.ReLU())
        model[place].forward = lambda x: x
        assert "a forward of its instance's own" in reason(model)
    model = nn.Sequential(nn.Sequential(nn.BatchNorm1d(4), nn.ReLU()))
    model[0].forward = model[0][0].forward
    assert "the forward of 0 cannot be traced" in reason(model)


def test_an_optimizer_goes_on_with_a_fused_model():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.PReLU(4), nn.Linear(4, 1))
    reference = copy.deepcopy(model)
    optimizers = [torch.optim.SGD(m.parameters(), 1e-2, momentum=0.9) for m in (model, reference)]
    for step in range(6):
        if step == 3:
            assert len(fat.fuse(model).replaced) == 1
        x = torch.randn(8, 4)
        for m, optimizer in zip((model, reference), optimizers, strict=True):
            optimizer.zero_grad()
            m(x).square().mean().backward()
            optimizer.step()
    for p, q in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_a_fused_model_compiles_exports_and_is_traced():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), Block(4)).eval()
    randomize(model).float()
    x = torch.randn(2, 3, 8, 8)
    want = model(x)
    fat.fuse(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), want)
    exported = torch.export.export(model, (x,))
    torch.testing.assert_close(exported.module()(x), want)
    targets = [str(n.target) for n in exported.graph.nodes]
    assert targets.count("fastact.batch_norm.default") == 3
    assert not any("relu" in t or "add" in t for t in targets)


class Features(nn.Module):
    """Keeps what comes out of every layer."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU())

    def forward(self, x):
        kept = []
        for layer in self.layers:
            x = layer(x)
            kept.append(x)
        return torch.cat(kept)


def test_a_sequential_whose_children_are_called_one_by_one():
    check(Features(), 6, 4, fused={}, left={"layers.1": "used 2 times"})


def test_the_report_is_pickled_and_printed():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.BatchNorm2d(8))
    report = fat.fuse(model)
    assert str(report).splitlines() == [
        "fused 1 of 2 BatchNorms", "  1: with relu", "left as they are:",
        "  3: its output is the module's own",
    ]  # fmt: skip
    assert pickle.loads(pickle.dumps(report)) == report


class Adding(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.norm, self.shape = nn.BatchNorm2d(4), shape

    def forward(self, x):
        return torch.relu(self.norm(x * 1.5) + torch.ones(self.shape, dtype=x.dtype))


@pytest.mark.parametrize("shape", [(2, 4, 1, 1), (4, 1, 1), (2, 4, 5, 5)])
def test_an_addition_that_broadcasts(shape):
    check(Adding(shape), 2, 4, 5, 5, fused={"norm": "relu"})


class AddingInPlace(nn.Module):
    """Another tensor is what changes."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        kept = x * 2
        kept += self.norm(x * 3)
        return torch.relu(kept)


def test_an_addition_in_place_to_another_tensor_is_left():
    report = fat.fuse(AddingInPlace())
    assert not report.replaced
    assert "added to another tensor in place" in report.left[0].reason


class AddingTwo(nn.Module):
    """Two BatchNorms meet in an addition: one takes the other as its residual."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.BatchNorm1d(4), nn.BatchNorm1d(4)

    def forward(self, x):
        return torch.relu(self.first(x * 2) + self.second(x * 3))


def test_an_addition_of_two_is_fused_with_one():
    check(AddingTwo(), 6, 4, fused={"first": "relu"},
          left={"second": "the addition behind it is fused with first"})  # fmt: skip


@pytest.mark.parametrize("make", [
    lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(4), Block(4, 2, True)),
    lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4), nn.SiLU())),
], ids=["block", "chain"])  # fmt: skip
def test_back_again(make):
    model = randomize(make())
    reference = copy.deepcopy(model)
    tensors = {k: id(v) for k, v in [*model.named_parameters(), *model.named_buffers()]}
    assert fat.fuse(model).replaced
    fused = copy.deepcopy(model)
    assert fat.unfuse(model) is model
    assert {k: id(v) for k, v in [*model.named_parameters(), *model.named_buffers()]} == tensors
    fused.load_state_dict({k: v * 1 for k, v in reference.state_dict().items()}, assign=True)
    x = torch.randn(2, 3, 10, 10, dtype=torch.float64)
    want = reference(x)
    for one in (model, fat.unfuse(fused)):
        assert [type(m) for m in one.modules()] == [type(m) for m in reference.modules()]
        assert repr(one) == repr(reference)
        assert list(one.state_dict()) == list(reference.state_dict())
        assert one(x).equal(want)
    assert fat.fuse(model).replaced


def test_back_again_leaves_what_was_written_by_hand():
    model = nn.Sequential(fat.BatchNorm1d(4, activation="relu"), nn.BatchNorm1d(4), nn.ReLU())
    assert fat.fuse(model).replaced
    fat.SyncBatchNorm.convert_sync_batchnorm(model)
    x = torch.randn(6, 4)
    want = model(x)
    fat.unfuse(model)
    assert [type(m).__name__ for m in model] == ["SyncBatchNorm", "SyncBatchNorm", "ReLU"]
    torch.testing.assert_close(model(x), want)
