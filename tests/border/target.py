"""What the fuzzer of the Python border calls (tools/border.py builds fastact for it).

The bytes of a case choose a call: a function, and arguments of any dtype, byte order, rank, strides
and alignment, most of them views of ONE block of memory, so that any two may overlap. The same call
with copies of their own says what it has to give:

- the same bits, or the same error, TypeError or ValueError, but for what is said of overlaps;
- no byte changes but those of the outputs, and none at all when the call is refused.
"""

import inspect
import json
import os
import sys
from collections import defaultdict

sys.setdlopenflags(os.RTLD_NOW | os.RTLD_GLOBAL)  # the Cython modules call into the fuzzer
import atheris  # noqa: E402
from atheris import core_with_libfuzzer  # noqa: E402, F401

sys.setdlopenflags(os.RTLD_NOW)
import ml_dtypes  # noqa: E402
import numpy as np  # noqa: E402

with atheris.instrument_imports(include=["fastact"]):
    import fastact as fa
    from fastact import _dask  # noqa: F401  imported when first needed: not within a case

BLOCK = np.random.default_rng(0).standard_normal(160, dtype=np.float32).view(np.uint8)
BF16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = [np.dtype(name) for name in ("f4", "f8", "f2")] + [BF16]
DTYPES = FLOATS + [np.dtype(name) for name in (">f4", ">f8", "i4", "u1", "?", "i8", ">i2", "c8")]
DTYPES += [np.dtype(name) for name in ("g", "M8[s]", "V4", "S4", "O")]
LENGTHS = [3, 2, 4, 1, 5, 17, 0]
NAMINGS = ["torch", "keras", "inplace_abn"]
CALLS = defaultdict(lambda: [0, 0])  # name -> how many were accepted, of how many
SHARING = ("overlap", "share memory")
ODD = [None, True, "1", -1, 1, 2, 0.5, 0.0, float("nan"), float("inf"), 10**400, 1j, [1.0], object]


class Case:
    """Draws from the bytes; a byte that is not there is 0, the ordinary choice."""

    def __init__(self, data, memory):
        self.data, self.at, self.memory = data, 0, memory

    def byte(self):
        self.at += 1
        return self.data[self.at - 1] if self.at <= len(self.data) else 0

    def one_of(self, choices):
        return choices[self.byte() % len(choices)]

    def often(self, usual, other):
        """Seldom `other`, a function."""
        return other() if self.byte() % 8 == 7 else usual

    def shape(self, least=0):
        return tuple(self.one_of(LENGTHS) for _ in range(least + self.byte() % 3))

    def dtype(self, usual):
        kind = self.byte() % 8
        if kind == 6 and usual != BF16:
            return usual.newbyteorder()
        return usual if kind < 7 else self.one_of(DTYPES)

    def view(self, shape, dtype):
        """Somewhere in the block, with any strides."""
        shape = self.often(shape, self.shape)
        dtype = self.dtype(dtype)
        if dtype.hasobject or dtype.itemsize == 0:
            return np.zeros(shape, dtype)
        strides, step = [0] * len(shape), dtype.itemsize
        order = range(len(shape))
        for axis in order if self.byte() % 2 else reversed(order):
            strides[axis] = step * self.one_of([1, 1, 1, 2, -1, 0, 3, -2])
            step *= max(shape[axis], 1)
        reach = [(n - 1) * s for n, s in zip(shape, strides, strict=True) if n]
        low, high = sum(r for r in reach if r < 0), sum(r for r in reach if r > 0)
        room = len(self.memory) - (high - low) - dtype.itemsize
        if room < 0:
            return np.zeros(shape, dtype)
        start = (self.byte() * self.one_of([16, 8, 4, 1])) % (room + 1)
        view = np.ndarray(shape, dtype, self.memory, start - low, strides)
        if (
            dtype == np.bool_
        ):  # other bytes than 0 and 1 are no bool: NumPy itself disagrees on them
            view.view(np.uint8)[...] &= 1
        view.flags.writeable = self.often(True, lambda: False)
        return view

    def option(self, name, usual, other):
        """{name: value}, or nothing."""
        kind = self.byte() % 8
        return {} if kind < 4 else {name: usual() if kind < 7 else self.one_of(other)}


# ---- calls: a function, its arguments by name, what it writes beside out -------------------------


def activation(case):
    gated = case.byte() % 4 == 3
    function = case.one_of(list((fa.gated if gated else fa.activations).values()))
    backward = case.byte() % 2
    names = ["dy"] * backward + ["x"] + ["gate"] * gated
    shape, dtype = case.shape(), case.one_of(FLOATS)
    arrays = [case.view(shape, dtype) for name in names]
    named = {}
    for name, usual in function.parameters.items():
        kind = case.byte() % 4
        if kind == 1:
            lengths = tuple(case.one_of([n, 1]) for n in shape)
            named[name] = case.view(lengths, dtype)
        elif kind == 2 or usual is None:
            named[name] = case.one_of([0.25, 1.0, 3, np.float32(0.3), *ODD])
    if case.byte() % 2:
        two = backward and (gated or function.learned)
        out = [case.view(shape, dtype) for k in range(2 if two and gated else 1)]
        named["out"] = tuple(out) if len(out) > 1 else out[0]
    named |= case.option("dtype", lambda: case.one_of(FLOATS), ["f4", "g", int, None])
    return (function.backward if backward else function), arrays, named


class Geometry:
    """What the arrays of a BatchNorm have in common."""

    def __init__(self, case):
        self.shape, self.dtype = case.shape(2), case.one_of(FLOATS)
        self.axis = case.one_of([1, -1, 0, -2])
        self.channels = self.shape[self.axis]
        self.small = case.one_of([np.dtype("f4"), self.dtype, np.dtype("f8")])
        self.rest = tuple(np.delete(self.shape, self.axis))

    def like_x(self, case):
        return case.view(self.shape, self.dtype)

    def a_channel(self, case):
        return case.view((self.channels,), self.small)

    def affine(self, case):
        named = {}
        for name in ("weight", "bias"):
            named |= case.option(name, lambda: self.a_channel(case), ODD)
        return named

    def counted(self, case):
        named = case.option("residual", lambda: self.like_x(case), ODD)
        named |= case.option("mask", lambda: case.view(self.rest, np.dtype("?")), [[True], *ODD])
        return named | case.option("sample_weight", lambda: case.view(self.rest, self.small), ODD)

    def fused(self, case):
        named = case.option("activation", lambda: case.one_of(list(fa.activations)), ["?", *ODD])
        chosen = named.get("activation")
        if type(chosen) is str and chosen in fa.activations and fa.activations[chosen].parameters:
            (name, *_) = fa.activations[chosen].parameters
            value = case.one_of([0.25, np.ones(self.channels), *ODD])
            named["activation_params"] = case.often({name: value}, lambda: None)
        return named


def eps(case):
    return case.option("eps", lambda: case.one_of([1e-3, 0.0, 1]), ODD)


def batch_norm(case):
    of = Geometry(case)
    x = of.like_x(case)
    named = {"axis": case.often(of.axis, lambda: case.one_of([7, -9, *ODD]))}
    named["training"] = case.one_of([True, False, True, 1])
    named |= of.affine(case)
    if case.byte() % 2 or named["training"] is False:
        for name in ("running_mean", "running_var"):
            named[name] = case.often(of.a_channel(case), lambda: None)
    named |= of.counted(case) | eps(case)
    named |= case.option("momentum", lambda: case.one_of([0.5, 0.0, 1]), ODD)
    named |= case.option("convention", lambda: case.one_of(["keras", "biased/batch"]), ODD)
    named |= of.fused(case)
    if case.byte() % 2:
        named["out"] = of.like_x(case)
    kind = case.byte() % 4
    if kind == 0:
        return fa.batch_norm, [x], named
    named |= case.option("save_for_backward", lambda: "output", ["input", "x", None])
    dy = of.like_x(case)
    dx = of.like_x(case) if kind == 2 else None
    return forward_and_backward, [x, dy], {**named, "dx": dx}


def forward_and_backward(x, dy, *, dx=None, **named):
    y, ctx = fa.batch_norm_forward(x, **named)
    if is_written(dy, named):
        return y, ctx.mean, ctx.var
    return y, ctx.mean, ctx.var, *attempt(fa.batch_norm_backward, dy, ctx, out=dx)


def is_written(dy, named):
    return any(np.may_share_memory(dy, array) for array in written(named) if array is not None)


def layer(case):
    of = Geometry(case)
    x, dy = of.like_x(case), of.like_x(case)
    named = of.counted(case)
    if case.byte() % 2:
        named["out"] = of.like_x(case)
    if case.byte() % 2:
        named["dx"] = of.like_x(case)
    named["settings"] = {"axis": of.axis, **eps(case), **of.fused(case)}
    for name in ("affine", "track_running_stats"):
        named["settings"] |= case.option(name, lambda: False, ODD)
    named["settings"] |= case.option("momentum", lambda: None, ODD)
    named["settings"] |= case.option("dtype", lambda: case.one_of(FLOATS), [int, "g"])
    return train_and_evaluate, [x, dy], named


def train_and_evaluate(x, dy, *, settings, dx=None, **named):
    """What is evaluated is a layer that has loaded the state, on data that nothing has written."""
    channels = x.shape[settings["axis"]] if x.ndim > 1 else 1
    trained, loaded = (fa.BatchNorm(channels, **settings) for _ in range(2))
    y = trained(x, **named)
    results = () if is_written(dy, named) else attempt(trained.backward, dy, out=dx)
    loaded.load_state_dict(trained.state_dict())
    z = loaded.eval()(np.linspace(-2, 2, x.size, dtype="f4").reshape(x.shape))
    return y, z, *trained.state_dict().values(), *results


def piece(case):
    of = Geometry(case)
    dy, x = of.like_x(case), of.like_x(case)
    stats = fa.BatchStats(8, np.linspace(-1, 1, of.channels), np.full(of.channels, 3.0))
    odd = [fa.BatchStats(8, [1.0], [2.0]), fa.BatchStats(0, stats.mean, stats.m2), *ODD]
    stats = case.often(stats, lambda: case.one_of(odd))
    named = {"axis": case.often(of.axis, lambda: case.one_of([7, -9, *ODD]))}
    named |= of.affine(case) | of.counted(case) | eps(case) | of.fused(case)
    kind = case.byte() % 3
    if kind == 0:
        return fa.batch_norm_backward_reduce, [dy, x, stats], named
    if case.byte() % 2:
        named["out"] = of.like_x(case)
    if kind == 1:
        return fa.batch_norm_apply, [x, stats], named
    sums = fa.BatchNormSums(*np.linspace(-2, 2, 3 * of.channels).reshape(3, -1))
    sums = case.often(sums, lambda: case.one_of([fa.BatchNormSums(*np.ones((3, 9))), *ODD]))
    return fa.batch_norm_backward_apply, [dy, x, stats, sums], named


def statistics(case):
    shape, dtype = case.shape(1), case.one_of(FLOATS)
    x = case.view(shape, dtype)
    axis = case.one_of([1, -1, 0, 9, *ODD])
    named = case.option("mask", lambda: case.view(shape[:1], np.dtype("?")), ODD)
    named |= case.option("sample_weight", lambda: case.view(shape[:1], dtype), ODD)

    def stats(x, axis, **named):
        of = fa.batch_norm_stats(x, axis=axis, **named)
        both = fa.merge_stats(of, of)
        return of.mean, of.var, both.mean, both.var

    return stats, [x, axis], named


# ---- what is done once, before a model is used ---------------------------------------------------


def state(case, names, channels, dtype):
    arrays = {name: case.view((channels,), dtype) for name in names}
    return {name: array for name, array in arrays.items() if case.often(True, lambda: False)}


def fold(case):
    of = Geometry(case)
    bn = state(case, ("running_mean", "running_var", "weight", "bias"), of.channels, of.small)
    bn = case.often(bn, lambda: case.one_of([fa.BatchNorm(3), *ODD]))
    bias = case.often(of.a_channel(case), lambda: case.one_of(ODD))
    named = {"axis": case.often(of.axis, lambda: case.one_of([7, *ODD])), "eps": 1e-5} | eps(case)
    return fa.fold_batch_norm, [of.like_x(case), bias, bn], named


def convert(case):
    source, target = (case.often(case.one_of(NAMINGS), lambda: case.one_of(ODD)) for _ in range(2))
    names, between = ("gamma", "beta", "moving_mean", "moving_variance"), "/"
    if source != "keras":
        names, between = ("weight", "bias", "running_mean", "running_var", "else"), "."
    names = [case.one_of(["", "a" + between, "b" + between]) + name for name in names]
    given = state(case, names, case.one_of(LENGTHS), case.one_of(FLOATS))
    return fa.convert_state_dict, [case.often(given, lambda: case.one_of(ODD)), source, target], {}


KINDS = [activation, batch_norm, batch_norm, statistics, layer, piece, fold, convert]


# ---- what must hold ------------------------------------------------------------------------------


class Refused:
    def __init__(self, error):
        self.kind, self.message = type(error), str(error)

    def __repr__(self):
        return f"{self.kind.__name__}: {self.message}"

    def is_about_memory(self):
        return any(word in self.message for word in SHARING)


def outcome(function, arguments, named):
    try:
        result = function(*arguments, **named)
    except (TypeError, ValueError) as error:
        return Refused(error)
    return flat(result)


def flat(result):
    """A tuple, of arrays and what else can be compared."""
    if isinstance(result, fa.BatchNormGradients):
        learned = (result.activation_params or {}).values()
        return result.x, result.weight, result.bias, result.residual, *learned
    if isinstance(result, fa.BatchNormSums):
        return result.g, result.gx, result.param
    if isinstance(result, dict):
        return " ".join(result), *result.values()
    return result if isinstance(result, tuple) else (result,)


def attempt(function, *arguments, **named):
    """A call that is refused has written nothing: that is one more result of the call before it."""
    result = outcome(function, arguments, named)
    return (result,) if isinstance(result, Refused) else result


def copied(value):
    """Packed, in memory of its own; a read-only one stays so."""
    if isinstance(value, tuple):
        return tuple(copied(part) for part in value)
    if isinstance(value, dict):
        return {key: copied(part) for key, part in value.items()}
    if type(value) is not np.ndarray:
        return value
    copy = value.copy(order="C")
    copy.flags.writeable = value.flags.writeable
    return copy


def same(got, want):
    if type(got) is not type(want):
        return False
    if isinstance(got, Refused):
        return got.kind is want.kind
    if got is None:
        return True
    got, want = np.asarray(got), np.asarray(want)
    if got.dtype != want.dtype or got.shape != want.shape:
        return False
    return bool(((got == want) | ((got != got) & (want != want))).all())


def written(named):
    """The arrays that a call may write."""
    outs = named.get("out")
    yield from outs if isinstance(outs, tuple) else (outs,)
    yield named.get("dx")
    if named.get("training") is True:
        yield named.get("running_mean")
        yield named.get("running_var")


def marked(memory, arrays):
    """True for the bytes of memory that belong to an element of one of the arrays."""
    flags = np.zeros(len(memory), bool)
    for array in arrays:
        if type(array) is np.ndarray and array.size and np.may_share_memory(array, memory):
            at = array.ctypes.data - memory.ctypes.data
            shape, strides = (*array.shape, array.itemsize), (*array.strides, 1)
            np.ndarray(shape, bool, flags, at, strides)[...] = True
    return flags


def repeats(memory, arrays):
    """Whether two of their elements share bytes."""
    inside = [a for a in arrays if a is not None and np.may_share_memory(a, memory)]
    return marked(memory, inside).sum() != sum(a.nbytes for a in inside)


def check(data):
    memory = BLOCK.copy()
    case = Case(data, memory)
    function, arguments, named = case.one_of(KINDS)(case)
    before = memory.copy()
    plain_named = {key: copied(value) for key, value in named.items()}
    with np.errstate(all="ignore"):  # NumPy's casts may raise flags
        want = outcome(function, [copied(value) for value in arguments], plain_named)
        got = outcome(function, arguments, named)
    changed = memory != before
    count(function, not isinstance(got, Refused))
    if isinstance(got, Refused):
        assert not changed.any(), f"refused, but it has written: {got}"
        if not got.is_about_memory():
            assert same(got, want), f"refused: {got}; with copies: {want}"
        return
    assert not (changed & ~marked(memory, written(named))).any(), "more than the outputs changed"
    assert not isinstance(want, Refused), f"accepted; with copies: {want}"
    if repeats(memory, written(named)):
        return  # ufuncs allow it, and what such an element holds is not said
    for number, (a, b) in enumerate(zip(got, want, strict=False)):
        if isinstance(a, Refused) and a.is_about_memory():
            return  # the backward: nothing follows
        assert same(a, b), f"result {number}: {a!r}; with copies: {b!r}; {function}"


def count(function, accepted):
    """tools/border.py reads the last of these lines: calls that are refused test little."""
    its_own = inspect.isroutine(function)  # an activation is one of many
    calls = CALLS[function.__name__ if its_own else type(function).__name__]
    calls[0] += accepted
    calls[1] += 1
    if calls[1] % 512 == 0:
        print("accepted:", json.dumps(CALLS), flush=True)


def checked(data):
    """An error is printed with its case: a signal may end the fuzzer before it has written it."""
    try:
        check(data)
    except BaseException:
        print("the case:", data.hex(), flush=True)
        raise


def main():
    fa.set_num_threads(1)
    atheris.Setup([os.environ["FUZZER"], *sys.argv[1:]], checked, internal_libfuzzer=True)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
