"""fuse(model): BatchNorm and the activation behind it become one pass over memory.

A model is a tree of modules. Each one whose forward torch.fx can trace gives a graph in which its
children are single nodes (a Sequential's own children stand there instead of it). In those graphs a
BatchNorm whose only use is an activation is half of a pair. The pair is replaced in place:

- the BatchNorm becomes fastact's by its class; parameters, buffers, hooks, names and keys stay;
- an activation module that is called nowhere else gives place to one that does nothing;
- where the activation is a function, or a module that is called elsewhere too, the traced forward
  is rewritten without it, and the module gets a subclass of its class with that forward.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import linecache
import operator
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NamedTuple, SupportsIndex

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

import fastact as fa
from fastact.torch._activations import TABLE, Activation, Settings
from fastact.torch._batch_norm import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    FusedBatchNorm,
)

CLASSES = {
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.BatchNorm3d: BatchNorm3d,
}


Given = dict[str, Any]  # an activation's parameters by name
Others = dict[str, tuple[Any, Any]]  # its other arguments: value and default
Count = Counter[int]  # of modules, by id


# ---- the report ----------------------------------------------------------------------------------


class Replaced(NamedTuple):
    """A BatchNorm that computes its activation now."""

    batch_norm: str  # the module's name in the model
    activation: str  # what it is fused with
    adds: bool  # whether another tensor is added before the activation


class Left(NamedTuple):
    """A BatchNorm that is as it was."""

    batch_norm: str
    reason: str


@dataclass
class Report:
    """What `fuse` did; `print` it.

    Attributes
    ----------
    replaced : list of Replaced
    left : list of Left
        Every other BatchNorm of the model, each with its reason.
    rewritten : list of str
        Modules whose forward is a traced one now.
    """

    replaced: list[Replaced] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    rewritten: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"fused {len(self.replaced)} of {len(self.replaced) + len(self.left)} BatchNorms"]
        for name, activation, adds in self.replaced:
            lines.append(f"  {name}: with {'an addition and ' * adds}{activation}")
        if self.left:
            lines.append("left as they are:")
            lines += [f"  {name}: {reason}" for name, reason in self.left]
        if self.rewritten:
            lines.append("with a traced forward: " + ", ".join(self.rewritten))
        return "\n".join(lines)


# ---- activations in a graph ----------------------------------------------------------------------


class Unfusable(Exception):
    """Why an activation, or what stands in the place of one, is left alone."""


@dataclass(frozen=True)
class Match:
    """An activation of a graph as one of fastact's."""

    name: str
    numbers: tuple[float, ...]
    owner: nn.Module | None = None  # of the learned parameter

    def __str__(self) -> str:
        keys = [key for key in TABLE[self.name][0] if key != TABLE[self.name][1]]
        pairs = ", ".join(f"{k}={v:g}" for k, v in zip(keys, self.numbers, strict=True))
        return f"{self.name}({pairs})" if pairs else self.name


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


# torch's class names and function names, less case and underscores, are fastact's; where two of
# fastact's are alike then, torch's is the one that it spells so
NAMES = {
    _plain(name): name
    for name in sorted(fa.activations, key=lambda name: hasattr(nn.functional, name))
    if fa.activations[name].formula != "x"
}
# of its functions
SPACES: tuple[Any, ...] = (torch, nn.functional, vars(torch._C)["_nn"], torch.Tensor)


def _called(root: nn.Module, node: fx.Node) -> nn.Module:
    """The module that a node calls."""
    return root.get_submodule(str(node.target))


def _match(node: fx.Node, module: nn.Module) -> Match:
    """The activation that a node computes; Unfusable where it computes something else."""
    if node.op == "call_module":
        return _match_module(_called(module, node))
    target: Any = node.target
    if node.op == "call_method":
        target = getattr(torch.Tensor, target, target)
    elif node.op != "call_function":
        raise Unfusable("its output is the module's own")
    spelt = getattr(target, "__name__", str(target))
    name = NAMES.get(_plain(spelt))
    if name is None:
        raise Unfusable(f"what follows, {spelt}, is no activation of fastact")
    if not any(getattr(space, spelt, None) is target for space in SPACES):
        raise Unfusable(f"what follows, {spelt}, is another function than torch's of that name")
    given, others = _arguments(target, name, node)
    return _finish(name, given, others, None)


def _check_module(module: nn.Module, what: str) -> None:
    if _hooks(module) or module._forward_pre_hooks:
        raise Unfusable(f"{what} has hooks")
    if _is_patched(module):
        raise Unfusable(f"{what} has a forward of its instance's own")


def _match_module(module: nn.Module) -> Match:
    if isinstance(module, Activation):
        _check_module(module, "the Activation that follows")
        _, numbers, learned = module.settings()
        return Match(module.name, tuple(numbers), None if learned is None else module)
    kind = type(module)
    name = NAMES.get(_plain(kind.__name__))
    if name is None or kind.__module__ != nn.ReLU.__module__:
        raise Unfusable(f"what follows is a {kind.__name__}, no activation of fastact")
    _check_module(module, f"the {kind.__name__} that follows")
    weight = TABLE[name][1]
    given = {key: getattr(module, key) for key in TABLE[name][0] if key != weight}
    others = {} if weight else {
        key: (getattr(module, key), parameter.default)
        for key, parameter in inspect.signature(kind).parameters.items()
        if key not in given and hasattr(module, key)
    }  # fmt: skip
    return _finish(name, given, others, module if weight else None)


def _arguments(target: Callable[..., Any], name: str, node: fx.Node) -> tuple[Given, Others]:
    """(parameters, {other argument: (value, default)}) of a call."""
    table = [key for key in TABLE[name][0] if key != TABLE[name][1]]
    values: dict[Any, Any]
    try:
        signature = inspect.signature(target)
        bound = signature.bind(*node.args, **node.kwargs).arguments
        values = dict(list(bound.items())[1:])
        defaults: dict[Any, Any] = {
            key: parameter.default for key, parameter in signature.parameters.items()
        }
    except ValueError:  # a function in C: the parameters in the table's order
        values = dict(zip(table, node.args[1:], strict=False)) | dict(node.kwargs)
        defaults = dict.fromkeys(node.args[1 + len(table) :])
        values |= {key: key for key in defaults}
    given = {key: values.get(key, TABLE[name][0][key]) for key in table}
    return given, {k: (v, defaults.get(k)) for k, v in values.items() if k not in given}


def _finish(name: str, given: Given, others: Others, owner: nn.Module | None) -> Match:
    kind, _ = others.pop("approximate", ("none", None))
    others.pop("inplace", None)
    if kind != "none":
        name = f"{name}_{kind}"
    if "training" in _parameters_of_torch(name):
        raise Unfusable(f"{name} is random in training")
    for key, (value, default) in others.items():
        if value != default:
            raise Unfusable(f"fastact's {name} has no {key}={value}")
    if name not in TABLE:
        raise Unfusable(f"fastact has no {name}")
    if TABLE[name][1] and owner is None:
        raise Unfusable(f"the {TABLE[name][1]} of {name} is no module's")
    if not all(isinstance(value, (int, float)) for value in given.values()):
        raise Unfusable(f"a parameter of {name} is computed")
    return Match(name, tuple([float(value) for value in given.values()]), owner)


def _parameters_of_torch(name: str) -> list[str]:
    try:
        return list(inspect.signature(getattr(nn.functional, name)).parameters)
    except (AttributeError, TypeError, ValueError):
        return []


# ---- graphs --------------------------------------------------------------------------------------


class _Proxy(fx.Proxy):
    """Records `x += y` as what it is: fx by itself takes it for `x = x + y`, which leaves x."""


def _record_in_place(method: str) -> None:
    target = getattr(operator, method)

    def record(self: _Proxy, other: object) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", target, (self, other), {})

    setattr(_Proxy, f"__{method}__", record)


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    _record_in_place(f"i{_name}")


class _Tracer(fx.Tracer):
    """Children are single nodes; a Sequential is its children; in-place operators stay so."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not _is_chain(m)


def _hooks(module: nn.Module) -> bool:
    """Whether somebody watches or changes its output, or the gradient that comes back there."""
    return bool(module._forward_hooks or module._backward_hooks or module._backward_pre_hooks)


def _is_patched(module: nn.Module) -> bool:
    """Whether the instance has a forward of its own, which torch.fx passes over."""
    return "forward" in vars(module)


def _is_chain(module: nn.Module) -> bool:
    is_plain = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
    return is_plain and not (_hooks(module) or module._forward_pre_hooks or _is_patched(module))


def _is_shelf(module: nn.Module) -> bool:
    """Whether it only holds its children, as a ModuleList does; another forward calls them."""
    own = getattr(type(module), "forward", None) is not nn.Module.forward
    return not (own or _is_patched(module))


@dataclass
class Container:
    """A module with its graph in training and in evaluation, the same object where they agree."""

    name: str
    module: nn.Module
    graphs: tuple[fx.Graph, fx.Graph]

    def distinct(self) -> tuple[fx.Graph, ...]:
        return tuple(dict.fromkeys(self.graphs))

    def calls(self) -> Count:
        """Of each module, in the mode that has more."""
        train, evaluate = (
            Counter(id(_called(self.module, n)) for n in graph.nodes if n.op == "call_module")
            for graph in self.graphs
        )
        return train | evaluate


def _trace(name: str, module: nn.Module) -> Container:
    flags = [(m, m.training) for m in module.modules()]
    graphs = []
    try:
        for mode in (True, False):
            for m, _ in flags:
                m.training = mode
            graphs.append(_Tracer().trace(module))
    finally:
        for m, flag in flags:
            m.training = flag
    train, evaluate = graphs
    same = Source.of(train) == Source.of(evaluate)
    return Container(name, module, (train, train if same else evaluate))


class Survey:
    """The containers of a model that hold a BatchNorm, and why others have no graph.

    A Sequential stands in the graph of the forward that calls it. Where that forward cannot be
    traced, it might call only some of the children: nothing is known of such a Sequential.
    """

    def __init__(self, model: nn.Module, assume_whole: bool) -> None:
        self.containers: list[Container] = []
        self.failures: dict[str, str] = {}
        self.parts: list[str] = []  # the Sequentials that are in another's graph, if it has one
        self.seen: set[int] = set()
        self.assume_whole = assume_whole
        self.visit("", model, called=False)

    def visit(self, name: str, module: nn.Module, called: bool) -> None:
        """`called`: whether a forward is known, traced or not, that calls what is inside."""
        if id(module) in self.seen or not any(isinstance(m, _BatchNorm) for m in module.modules()):
            return
        self.seen.add(id(module))
        if not (isinstance(module, _BatchNorm) or _is_shelf(module)):
            if called and _is_chain(module):
                self.parts.append(name)
            else:
                called = self.trace(name, module) or not self.assume_whole
        for key, child in module.named_children():
            self.visit(f"{name}.{key}" if name else key, child, called)

    def trace(self, name: str, module: nn.Module) -> bool:
        if _is_patched(module):
            self.failures[name] = "it is its instance's own"
            return False
        try:
            self.containers.append(_trace(name, module))
        except Exception as error:  # whatever a foreign forward does with a Proxy
            reason = (str(error).strip().splitlines() or [""])[0]
            self.failures[name] = f"{type(error).__name__}: {reason}"
            return False
        return True

    def why_not(self, name: str) -> str:
        """Why no graph shows a BatchNorm."""
        holders = [h for h in self.failures if not h or name.startswith(h + ".")]
        if not holders:
            return "it is not called, or otherwise in training than in evaluation"
        holder = max(holders, key=len)
        reason = f"the forward of {holder or 'the model'} cannot be traced: {self.failures[holder]}"
        if any(part.startswith(holder) and name.startswith(part + ".") for part in self.parts):
            reason += "; it may call a Sequential by parts (else: assume_whole=True)"
        return reason


# ---- pairs ---------------------------------------------------------------------------------------

IN_PLACE = (operator.iadd, "add_")
ADDITIONS = (operator.add, torch.add, "add", *IN_PLACE)


class Pair(NamedTuple):
    """The nodes of a BatchNorm and what is fused with it, in one graph."""

    norm: fx.Node
    addition: fx.Node | None
    activation: fx.Node
    match: Match

    def key(self) -> tuple[object, ...]:
        return self.norm.target, self.addition is not None, self.activation.target, self.match


def _only_user(node: fx.Node) -> fx.Node:
    users = list(node.users)
    if len(users) != 1 or users[0].all_input_nodes.count(node) != 1:
        raise Unfusable(f"its output is used {max(len(users), 2) if users else 0} times")
    return users[0]


def _is_addition(node: fx.Node) -> bool:
    return (
        node.op in ("call_function", "call_method")
        and node.target in ADDITIONS
        and not node.kwargs
        and len(node.args) == 2
        and all(isinstance(argument, fx.Node) for argument in node.args)
    )


def _pair(node: fx.Node, module: nn.Module) -> Pair:
    user = _only_user(node)
    if not _is_addition(user):
        return Pair(node, None, user, _match(user, module))
    if _called(module, node)._forward_pre_hooks:
        raise Unfusable("an addition follows, and its hooks would see the other operand")
    try:
        last = _only_user(user)
        match = _match(last, module)
    except Unfusable as error:
        raise Unfusable(f"an addition follows, and after that: {error}") from None
    if user.args[0] is not node and user.target in IN_PLACE:
        raise Unfusable("it is added to another tensor in place")
    if len(node.all_input_nodes[0].users) != 1:
        raise Unfusable("an addition follows, and its own input is used elsewhere")
    return Pair(node, user, last, match)


def _check_norm(norm: nn.Module, calls: int, registrations: int) -> None:
    kind = type(norm)
    if isinstance(norm, FusedBatchNorm):
        if norm.activation is not None:
            raise Unfusable("it is fused already")
    elif kind not in CLASSES:
        raise Unfusable(f"it is a {kind.__name__}")
    if _hooks(norm):
        raise Unfusable("it has hooks, which would see another output")
    if _is_patched(norm):
        raise Unfusable("it has a forward of its instance's own")
    if calls != 1 or registrations != 1:
        raise Unfusable(f"it is called {calls} times and registered {registrations} times")
    tensors = [*norm.parameters(), *norm.buffers()]
    if devices := {str(t.device) for t in tensors} - {"cpu", "meta"}:
        raise Unfusable(f"it is on {', '.join(sorted(devices))}")


# ---- replacing -----------------------------------------------------------------------------------


class Absorbed(nn.Module):
    """Where an activation was: it keeps a learned parameter, under its key, and the activation."""

    def __init__(self, activation: nn.Module, learned: str) -> None:
        super().__init__()
        self.was = (activation,)  # in a tuple: it is no child
        self.learned = learned
        self.training = activation.training
        if learned:
            self.register_parameter(learned, getattr(activation, learned))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def restored(self) -> nn.Module:
        (activation,) = self.was
        if self.learned:
            setattr(activation, self.learned, getattr(self, self.learned))
        return activation.train(self.training)

    def extra_repr(self) -> str:
        return type(self.was[0]).__name__


class Borrowed(Activation):
    """A BatchNorm's activation whose learned parameter belongs to a module elsewhere."""

    def __init__(self, match: Match, owner: nn.Module | None) -> None:
        nn.Module.__init__(self)
        self.name, self.numbers = match.name, list(match.numbers)
        self.learned = TABLE[match.name][1]
        self.owner = (owner,)  # in a tuple: it is no child

    def settings(self) -> Settings:
        learned = getattr(self.owner[0], self.learned) if self.learned else None
        return Settings(self.name, self.numbers, learned)


def _replace(pair: Pair, container: Container, calls: Count, registrations: Count) -> bool:
    """Makes a pair one; whether a graph has to be rewritten for it."""
    norm: Any = _called(container.module, pair.norm)
    norm.__class__ = CLASSES.get(type(norm), type(norm))
    owner, rewrites = pair.match.owner, True
    if pair.activation.op == "call_module" and pair.addition is None:
        activation = _called(container.module, pair.activation)
        if calls[id(activation)] == registrations[id(activation)] == 1:
            rewrites = False
            gone = Absorbed(activation, TABLE[pair.match.name][1])
            owner = gone if owner else None
            container.module.set_submodule(str(pair.activation.target), gone)
    norm.activation = Borrowed(pair.match, owner)
    norm.activation.training = norm.training
    return rewrites


def _rewrite(pair: Pair, graph: fx.Graph) -> None:
    """Leaves the activation out, and hands an addition's other operand to the BatchNorm."""
    if pair.addition is None:
        pair.activation.replace_all_uses_with(pair.norm)
        graph.erase_node(pair.activation)
        return
    other = next(node for node in pair.addition.args if node is not pair.norm)
    with graph.inserting_before(pair.addition):
        fused = graph.call_module(str(pair.norm.target), (pair.norm.all_input_nodes[0], other))
    pair.activation.replace_all_uses_with(fused)
    for node in (pair.activation, pair.addition, pair.norm):
        graph.erase_node(node)


# ---- a module with another forward ---------------------------------------------------------------

Import = tuple[str, str, str]  # name, module, attribute
Forward = Callable[..., Any]
MODULES = ("torch", "torch.nn.functional", "operator", "builtins", "types", "math")


class Source(NamedTuple):
    """A forward's code, and the objects that its global names stand for, as text: it is pickled."""

    code: str
    imports: tuple[Import, ...]

    @classmethod
    def of(cls, graph: fx.Graph) -> Source:
        made = graph.python_code("self")
        tree = _Bare().visit(ast.parse(made.src))
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        objects = [(name, value) for name, value in made.globals.items() if name in used]
        return cls(ast.unparse(tree), tuple([_import(name, value) for name, value in objects]))

    def compile(self, label: str) -> Forward:
        scope: dict[str, Any] = {
            name: _imported(module, attribute) for name, module, attribute in self.imports
        }
        file = f"<fastact.torch.fuse: {label} {abs(hash(self)):x}>"
        linecache.cache[file] = (len(self.code), None, self.code.splitlines(True), file)
        exec(compile(self.code, file, "exec"), scope)
        made: Forward = scope["forward"]
        return made


class _Bare(ast.NodeTransformer):
    """Leaves annotations out: their names stand for whatever their author had in scope."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if node.value is None:
            return None
        return ast.copy_location(ast.Assign([node.target], node.value), node)


def _import(name: str, value: object) -> Import:
    if isinstance(value, ModuleType):
        return name, value.__name__, ""
    attribute = getattr(value, "__qualname__", name)
    for where in (getattr(value, "__module__", None), *MODULES):
        try:
            if where and _imported(where, attribute) is value:
                return name, where, attribute
        except (ImportError, AttributeError):
            continue
    raise Unfusable(f"its forward uses {name}, which cannot be imported")


def _imported(module: str, attribute: str) -> object:
    result = importlib.import_module(module)
    for part in attribute.split(".") if attribute else ():
        result = getattr(result, part)
    return result


@functools.cache
def _subclass(kind: type[nn.Module], train: Source, evaluate: Source) -> type[nn.Module]:
    """A class with the traced forward; the same for the same code, so that copies share it."""
    forward = in_training = train.compile(kind.__name__)
    if evaluate != train:
        in_evaluation = evaluate.compile(kind.__name__)

        @functools.wraps(in_training)
        def either(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return (in_training if self.training else in_evaluation)(self, *args, **kwargs)

        forward = either

    def reduce(self: nn.Module, protocol: SupportsIndex) -> tuple[Any, ...]:
        return _revive, (kind, train, evaluate), self.__dict__.copy()

    members = {
        "forward": forward, "__reduce_ex__": reduce, "__module__": kind.__module__,
        "_unfused": kind,
    }  # fmt: skip
    return type(f"Fused{kind.__name__}", (kind,), members)


def _revive(kind: type[nn.Module], train: Source, evaluate: Source) -> nn.Module:
    made = _subclass(kind, train, evaluate)  # type: ignore[arg-type]  # a class is hashable
    return made.__new__(made)


# ---- fuse ----------------------------------------------------------------------------------------


def fuse(model: nn.Module, *, assume_whole: bool = False) -> Report:
    """Fuse each BatchNorm of a model with the activation behind it, in place.

    Parameters
    ----------
    model : torch.nn.Module
        On the CPU. Parameters, buffers, keys of the state dict, training flags and the model itself
        stay the same objects, so an optimizer goes on with it.
    assume_whole : bool
        Whether a Sequential in a module whose forward cannot be traced is taken to be called as a
        whole. By default it is left: that forward may call its children one by one, leave some out,
        or keep what comes between.

    Returns
    -------
    Report
        What was replaced, and what was left and why; ``print`` it.

    Notes
    -----
    An activation that is a function, or a module that is called more than once (as in a residual
    block), is left out of the forward that `torch.fx` traces. What torch.fx does not see (a print,
    a counter, a random number of Python's) would be gone from such a forward; modules that get one
    are in the report as ``rewritten``. Modules with hooks on what fusion would change, or with a
    forward that was set on the instance, are left.

    To torch a fused BatchNorm is one of its own: ``SyncBatchNorm.convert_sync_batchnorm`` and
    ``torch.nn.utils.fusion`` drop the activation without a word. Call `unfuse` before them.

    Examples
    --------
    >>> import torch, fastact.torch as fat
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.BatchNorm2d(8))
    >>> print(fat.fuse(model))
    fused 1 of 2 BatchNorms
      1: with relu
    left as they are:
      3: its output is the module's own
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    survey = Survey(model, assume_whole)
    registrations = Counter(
        id(child)
        for m in set(model.modules())
        for child in m._modules.values()
        if child is not None
    )
    calls: Count = sum((container.calls() for container in survey.containers), Counter())
    report = Report()
    reasons: dict[int, str] = {}
    names = {id(m): name for name, m in model.named_modules() if isinstance(m, _BatchNorm)}
    done: set[int] = set()
    for container in survey.containers:
        _fuse_container(container, calls, registrations, names, done, reasons, report)
    for key, name in names.items():
        if key not in done:
            report.left.append(Left(name, reasons.get(key) or survey.why_not(name)))
    return report


def unfuse(model: nn.Module) -> nn.Module:
    """Undo `fuse`, in place: torch's BatchNorms, activations and forwards are there again.

    Parameters
    ----------
    model : torch.nn.Module
        Parameters, buffers and keys of the state dict stay the same objects. A BatchNorm that was
        given its activation by hand stays as it is.

    Returns
    -------
    torch.nn.Module
        `model` itself.

    Notes
    -----
    For tools that take a fused BatchNorm for a plain one and drop its activation without a word:
    ``torch.nn.SyncBatchNorm.convert_sync_batchnorm`` and
    ``torch.nn.utils.fusion.fuse_conv_bn_eval`` are two.

    Examples
    --------
    >>> import torch, fastact.torch as fat
    >>> from torch import nn
    >>> model = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU())
    >>> report = fat.fuse(model)
    >>> fat.unfuse(model)[1]
    ReLU()
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, Absorbed):
            model.set_submodule(name, module.restored())
        elif isinstance(module, FusedBatchNorm) and isinstance(module.activation, Borrowed):
            module.activation = None
            _restore_class(module)
        kind: Any = type(module)
        while hasattr(kind, "_unfused"):
            kind = module.__class__ = kind._unfused
    return model


def _restore_class(norm: FusedBatchNorm) -> None:
    for theirs, ours in CLASSES.items():
        if type(norm) is ours:
            del norm.activation
            norm.__class__ = theirs  # type: ignore[assignment]  # its base, of one layout


def _fuse_container(
    container: Container,
    calls: Count,
    registrations: Count,
    names: dict[int, str],
    done: set[int],
    reasons: dict[int, str],
    report: Report,
) -> None:
    """Fuses the pairs that both graphs of a container have."""
    rewritten = False
    fused: dict[fx.Node, str] = {}
    for pairs in _common_pairs(container, calls, registrations, reasons):
        norm = _called(container.module, pairs[0].norm)
        if pairs[0].activation in fused:
            reasons[id(norm)] = f"the addition behind it is fused with {fused[pairs[0].activation]}"
            continue
        fused[pairs[0].activation] = names[id(norm)]
        done.add(id(norm))
        adds = pairs[0].addition is not None
        report.replaced.append(Replaced(names[id(norm)], str(pairs[0].match), adds))
        if _replace(pairs[0], container, calls, registrations):
            rewritten = True
            for pair, graph in zip(pairs, container.distinct(), strict=True):
                _rewrite(pair, graph)
    if rewritten:
        train, evaluate = (Source.of(graph) for graph in container.graphs)
        kind = type(container.module)
        made = _subclass(kind, train, evaluate)  # type: ignore[arg-type]  # a class is hashable
        container.module.__class__ = made
        report.rewritten.append(container.name or "the model")


def _common_pairs(
    container: Container, calls: Count, registrations: Count, reasons: dict[int, str]
) -> Iterator[tuple[Pair, ...]]:
    """The pairs of a container, one for each of its graphs; notes why others are none."""
    found: list[dict[tuple[object, ...], Pair]] = []
    for graph in container.distinct():
        pairs = {}
        for node in graph.nodes:
            norm = _called(container.module, node) if node.op == "call_module" else None
            if not isinstance(norm, _BatchNorm):
                continue
            try:
                _check_norm(norm, calls[id(norm)], registrations[id(norm)])
                pair = _pair(node, container.module)
                pairs[pair.key()] = pair
            except Unfusable as error:
                reasons[id(norm)] = str(error)
        found.append(pairs)
    for key in found[0]:
        if all(key in pairs for pairs in found):
            yield tuple([pairs[key] for pairs in found])
