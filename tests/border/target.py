"""What the fuzzer of the Python border calls (tools/border.py builds fastact for it).

The bytes of a case choose a call: a function, and arguments of any dtype, byte order, rank, strides
and alignment, most of them views of ONE block of memory, so that any two may overlap. The same call
with copies of their own says what it has to give:

- the same bits, or the same error, TypeError or ValueError, but for what is said of overlaps;
- no byte changes but those of the outputs, and none at all when the call is refused.
"""

import os
import sys

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


def batch_norm(case):
    shape, dtype = case.shape(2), case.one_of(FLOATS)
    axis = case.one_of([1, -1, 0, -2])
    channels = shape[axis]
    small = case.one_of([np.dtype("f4"), dtype, np.dtype("f8")])
    rest = tuple(np.delete(shape, axis))
    x = case.view(shape, dtype)
    named = {"axis": case.often(axis, lambda: case.one_of([7, -9, *ODD]))}
    named["training"] = case.one_of([True, False, True, 1])
    for name in ("weight", "bias"):
        named |= case.option(name, lambda: case.view((channels,), small), ODD)
    if case.byte() % 2 or named["training"] is False:
        for name in ("running_mean", "running_var"):
            named[name] = case.often(case.view((channels,), small), lambda: None)
    named |= case.option("residual", lambda: case.view(shape, dtype), ODD)
    named |= case.option("mask", lambda: case.view(rest, np.dtype("?")), [[True], *ODD])
    named |= case.option("sample_weight", lambda: case.view(rest, small), ODD)
    named |= case.option("eps", lambda: case.one_of([1e-3, 0.0, 1]), ODD)
    named |= case.option("momentum", lambda: case.one_of([0.5, 0.0, 1]), ODD)
    named |= case.option("convention", lambda: case.one_of(["keras", "biased/batch"]), ODD)
    named |= case.option("activation", lambda: case.one_of(list(fa.activations)), ["?", *ODD])
    chosen = named.get("activation")
    if type(chosen) is str and chosen in fa.activations and fa.activations[chosen].parameters:
        (name, *_) = fa.activations[chosen].parameters
        value = case.one_of([0.25, np.ones(channels), *ODD])
        named["activation_params"] = case.often({name: value}, lambda: None)
    if case.byte() % 2:
        named["out"] = case.view(shape, dtype)
    kind = case.byte() % 4
    if kind == 0:
        return fa.batch_norm, [x], named
    named |= case.option("save_for_backward", lambda: "output", ["input", "x", None])
    dy = case.view(shape, dtype)
    dx = case.view(shape, dtype) if kind == 2 else None
    return forward_and_backward, [x, dy], {**named, "dx": dx}


def forward_and_backward(x, dy, *, dx=None, **named):
    """A call that is refused has written nothing, so a refused backward is a result here."""
    y, ctx = fa.batch_norm_forward(x, **named)
    if any(np.may_share_memory(dy, array) for array in written(named) if array is not None):
        return y, ctx.mean, ctx.var
    try:
        grads = fa.batch_norm_backward(dy, ctx, out=dx)
    except (TypeError, ValueError) as error:
        return y, ctx.mean, ctx.var, Refused(error)
    learned = (grads.activation_params or {}).values()
    return y, ctx.mean, ctx.var, grads.x, grads.weight, grads.bias, grads.residual, *learned


def statistics(case):
    shape, dtype = case.shape(1), case.one_of(FLOATS)
    x = case.view(shape, dtype)
    axis = case.one_of([1, -1, 0, 9, *ODD])
    named = case.option("mask", lambda: case.view(shape[:1], np.dtype("?")), ODD)
    named |= case.option("sample_weight", lambda: case.view(shape[:1], dtype), ODD)

    def stats(x, axis, **named):
        of = fa.batch_norm_stats(x, axis=axis, **named)
        both = fa.merge_stats([of, of])
        return of.mean, of.var, both.mean, both.var

    return stats, [x, axis], named


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
    return result if isinstance(result, tuple) else (result,)


def copied(value):
    """Packed, in memory of its own; a read-only one stays so."""
    if isinstance(value, tuple):
        return tuple(copied(part) for part in value)
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
    function, arguments, named = case.one_of([activation, batch_norm, batch_norm, statistics])(case)
    before = memory.copy()
    plain_named = {key: copied(value) for key, value in named.items()}
    with np.errstate(all="ignore"):  # NumPy's casts may raise flags
        want = outcome(function, [copied(value) for value in arguments], plain_named)
        got = outcome(function, arguments, named)
    changed = memory != before
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
