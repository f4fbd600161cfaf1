"""Hostile input, a case a line: what comes, and what must come of it.

Whatever is refused is refused before anything is written: every test of an error compares all
arrays of the call with what they were.
"""

import contextlib
import gc
import mmap
import os
import threading

import numpy as np
import pytest
from conftest import GATED, LEARNED, PLAIN, SCALAR, assert_same_bits

import fastact as fa

PLAIN_F, SCALAR_F = fa.activations[PLAIN[-1]], fa.activations[SCALAR[0]]
LEARNED_F, GATED_F = fa.activations[LEARNED[0]], fa.gated[GATED[0]]
(SLOPE,) = SCALAR_F.parameters
(WEIGHT,) = LEARNED_F.parameters
SHAPE = (6, 5, 4)


def data(shape=SHAPE, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


X, DY = data(seed=1), data(seed=2)


def running(channels=5, dtype=np.float32):
    return {"running_mean": np.zeros(channels, dtype), "running_var": np.ones(channels, dtype)}


# ---- what a call is --------------------------------------------------------------------------


def batch_norm(x):
    return fa.batch_norm(x, activation=PLAIN_F, training=True)


def batch_norm_backward(x):
    return fa.batch_norm_backward(x, fa.batch_norm_forward(x, activation=PLAIN_F)[1]).x


CALLS = {  # of one array
    "plain": PLAIN_F,
    "scalar": lambda x: SCALAR_F(x, 0.3),
    "ufunc": PLAIN_F.ufunc,
    "backward": lambda x: PLAIN_F.backward(x, x),
    "learned": lambda x: LEARNED_F(x, 0.25),
    "learned backward": lambda x: LEARNED_F.backward(x, x, 0.25)[0],
    "gated": lambda x: GATED_F(x, x),
    "gated backward": lambda x: GATED_F.backward(x, x, x)[1],
    "batch_norm": batch_norm,
    "batch_norm backward": batch_norm_backward,
}
ACTIVATION_CALLS = [name for name in CALLS if not name.startswith("batch_norm")]
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
each_activation = pytest.mark.parametrize(
    "call", [CALLS[name] for name in ACTIVATION_CALLS], ids=ACTIVATION_CALLS
)


# ---- dtypes ----------------------------------------------------------------------------------

CONVERTED = [  # dtype, dtype of an activation's result
    ("?", "f4"),
    ("i1", "f4"),
    ("u1", "f4"),
    ("i2", "f4"),
    ("u2", "f4"),
    ("i4", "f8"),
    ("u4", "f8"),
    ("i8", "f8"),
    ("u8", "f8"),
    ("longlong", "f8"),
    ("ulonglong", "f8"),
    (">i2", "f4"),
    (">i8", "f8"),
]


@each_activation
@pytest.mark.parametrize(("given", "result"), CONVERTED)
def test_integers_become_floats(call, given, result):
    x = np.array([[0, 1, 1], [1, 0, 1]]).astype(given)
    assert_same_bits(call(x), call(x.astype(result)))


@pytest.mark.parametrize(("given", "result"), CONVERTED)
def test_batch_norm_takes_no_integers(given, result):
    for call in (batch_norm, batch_norm_backward):
        with pytest.raises(TypeError, match=r"x: dtype .*; expected .*float32"):
            call(np.ones((3, 2), given))


FLOATS = ["f2", "f4", "f8", ">f2", ">f4", ">f8", "=f4", "<f4"]


@each_call
@pytest.mark.parametrize("given", FLOATS)
def test_floats_of_any_byte_order(call, given):
    x = data().astype(given)
    got = call(x)
    assert got.dtype.isnative
    assert_same_bits(got, call(x.astype(x.dtype.newbyteorder("="))))


REFUSED = [  # what numpy.array() makes of it has no loop
    np.ones(4, np.complex64),
    np.ones(4, np.complex128),
    np.ones(4, np.clongdouble),
    np.ones(4, np.longdouble),
    np.ones(4, object),
    np.array(["a", "b"]),
    np.array([b"a", b"b"]),
    np.array(["2026-01-01"], "M8[D]"),
    np.array([1, 2], "m8[s]"),
    np.zeros(4, [("a", "f4")]),
    np.zeros(4, "V4"),
    np.zeros(0, object),
    np.array("text"),
    np.array(None),
    "text",
    b"text",
    None,
    1j,
    {},
    {1.0},
    [None],
    [1.0, "a"],
    object(),
    len,
]


@each_call
@pytest.mark.parametrize("x", REFUSED, ids=repr)
def test_dtypes_without_a_loop(call, x):
    with pytest.raises(TypeError, match=r"float|positional|masked|real number"):
        call(x)


@each_activation
def test_numpys_strings_have_no_loop(call):
    with pytest.raises(TypeError, match="StringDType"):  # NumPy refuses before it asks
        call(np.array(["a"], np.dtypes.StringDType()))


@pytest.mark.parametrize("value", REFUSED, ids=repr)
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_dtypes_without_a_loop_as_a_small_array(value, name):
    if value is None:
        pytest.skip("none is given, then")
    with pytest.raises((TypeError, ValueError), match=rf"{name}: .*expected"):
        fa.batch_norm(X, training=True, **{name: value})


@pytest.mark.parametrize("x", REFUSED[:11], ids=repr)
def test_an_error_names_the_operand_what_came_and_what_is_accepted(x):
    good, dtype = np.ones(x.shape, np.float32), str(x.dtype)
    for arguments, name in (((x, good), "dy"), ((good, x), "x")):
        with pytest.raises(TypeError) as error:
            PLAIN_F.backward(*arguments)
        assert f"{name} has dtype {dtype}" in str(error.value)
        assert "accepted: float16, bfloat16, float32 and float64" in str(error.value)
    with pytest.raises(TypeError, match=SLOPE):
        SCALAR_F(good, x)


# ---- layouts ---------------------------------------------------------------------------------


def misaligned(a):
    memory = np.zeros(a.nbytes + 1, np.uint8)
    view = memory[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    assert not view.flags.aligned or a.itemsize == 1
    return view


def field_of_records(a):
    records = np.zeros(a.shape, [("skip", "u1"), ("x", a.dtype)])
    records["x"] = a
    return records["x"]


def memory_mapped(a):
    path = os.path.join(os.environ["PYTEST_TMP"], "mapped.bin")
    np.asarray(a).tofile(path)
    return np.memmap(path, a.dtype, "r", shape=a.shape)


def anonymous_map(a):
    view = np.frombuffer(mmap.mmap(-1, a.nbytes), a.dtype).reshape(a.shape)
    view[...] = a
    return view


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def wide(a):
    memory = np.full((*a.shape[:-1], 3 * a.shape[-1]), 7, a.dtype)
    memory[..., 1::3] = a
    return memory[..., 1::3]


def byte_strided(a):
    memory = np.zeros(a.size * (a.itemsize + 1) + 3, np.uint8)
    strides = np.array(np.empty(a.shape, "u1").strides) * (a.itemsize + 1)
    view = np.ndarray(a.shape, a.dtype, memory, 3, tuple(strides))
    view[...] = a
    return view


LAYOUTS = {
    "contiguous": lambda a: a.copy(),
    "Fortran": np.asfortranarray,
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "reversed": lambda a: np.ascontiguousarray(a[::-1, ::-1, ::-1])[::-1, ::-1, ::-1],
    "reversed inside": lambda a: np.ascontiguousarray(a[..., ::-1])[..., ::-1],
    "every third": wide,
    "swapped axes": lambda a: np.ascontiguousarray(a.swapaxes(0, 1)).swapaxes(0, 1),
    "swapped bytes": lambda a: a.astype(a.dtype.newbyteorder()),
    "misaligned": misaligned,
    "odd byte strides": byte_strided,
    "field of records": field_of_records,
    "read-only": read_only,
    "memory-mapped": memory_mapped,
    "anonymous map": anonymous_map,
    "from bytes": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "memoryview": lambda a: np.asarray(memoryview(a.copy())),
}
each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_TMP", str(tmp_path))


@each_call
@each_layout
@pytest.mark.parametrize("dtype", ["f4", "f8", "f2"])
def test_any_layout_gives_the_same_bits(call, layout, dtype):
    a = data(dtype=dtype)
    x = layout(a)
    kept = x.tobytes()
    assert_same_bits(np.asarray(call(x)), call(a))
    assert x.tobytes() == kept


REPEATED = [  # (shape, strides in elements): several indices reach one element
    ((6, 5, 4), (0, 0, 0)),
    ((6, 5, 4), (0, 4, 1)),
    ((6, 5, 4), (20, 0, 1)),
    ((6, 5, 4), (4, 1, 0)),
    ((6, 5, 4), (1, 1, 1)),
    ((6, 5, 4), (2, 1, 3)),
    ((6, 5, 4), (1, 0, 1)),
    ((60, 50), (1, 1)),
    ((60, 50), (0, 1)),
    ((60, 50), (1, 0)),
]


@each_call
@pytest.mark.parametrize(("shape", "strides"), REPEATED)
def test_elements_that_are_met_several_times(call, shape, strides):
    memory = data(200)
    x = np.lib.stride_tricks.as_strided(memory, shape, [4 * s for s in strides])
    assert_same_bits(call(x), call(x.copy()))


@each_activation
@pytest.mark.parametrize("ndim", [0, 1, 2, 3, 8, 31, 32, 33, 63, 64])
def test_any_rank(call, ndim):
    shape = (2,) * min(ndim, 5) + (1,) * max(ndim - 5, 0)
    x = data(shape)
    for view in (x, x.T):
        got = call(view)
        assert got.shape == view.shape
        assert_same_bits(np.ravel(got), call(view.reshape(-1)))


@pytest.mark.parametrize("ndim", [2, 3, 8, 31, 32, 33, 63, 64])
def test_any_rank_of_batch_norm(ndim):
    shape = (3, 4) + (2,) * min(ndim - 2, 3) + (1,) * max(ndim - 5, 0)
    x = data(shape)
    flat = x.reshape(3, 4, -1)
    for call in (batch_norm, batch_norm_backward):
        assert_same_bits(call(x).reshape(flat.shape), call(flat))


EMPTY = [(0,), (0, 3), (3, 0), (2, 0, 3), (0, 0), (1, 0, 1), (2,) * 20 + (0,), (0,) * 64]


@each_activation
@pytest.mark.parametrize("shape", EMPTY)
def test_nothing_gives_nothing(call, shape):
    assert call(np.empty(shape, np.float32)).shape == shape
    assert call(np.empty(shape[::-1], np.float64).T).shape == shape


CHANNELS = [  # shape, training, error or None
    ((4, 0), True, None),
    ((4, 0, 3), True, None),
    ((0, 3), True, "value"),
    ((1, 3), True, "value"),
    ((1, 3, 1), True, "value"),
    ((0, 3), False, None),
    ((4, 0), False, None),
    ((0, 0), False, None),
    ((1, 3), False, None),
    ((4, 1), True, None),
    ((4, 1, 7), True, None),
    ((2, 1), True, None),
    ((3,), True, "dimensions"),
    ((), True, "dimensions"),
    ((), False, "dimensions"),
]


@pytest.mark.parametrize(("shape", "training", "error"), CHANNELS)
def test_few_channels_and_values(shape, training, error):
    x = data(shape)
    state = running(shape[1] if len(shape) > 1 else 1)
    if error is None:
        y, ctx = fa.batch_norm_forward(x, training=training, **state)
        assert y.shape == fa.batch_norm_backward(x, ctx).x.shape == shape
        return
    with pytest.raises(ValueError, match=rf"x: .*{error}"):
        fa.batch_norm_forward(x, training=training, **state)
    assert (state["running_mean"] == 0).all()
    assert (state["running_var"] == 1).all()


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f2", ">f4", "i4", "bfloat16"])
def test_gradients_have_the_dtypes_of_weight_and_bias(dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    small = np.arange(1, 401).astype(dtype)
    x = data((20, 400))
    _, ctx = fa.batch_norm_forward(x, weight=small, bias=small)
    grads = fa.batch_norm_backward(x, ctx)
    want = np.dtype(dtype).newbyteorder("=") if np.dtype(dtype).kind in "fV" else np.float64
    assert grads.weight.dtype == grads.bias.dtype == want
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(grads.bias.astype(float), x.sum(0), rtol=0.01, atol=0.05)


# ---- where results go ------------------------------------------------------------------------


@each_layout
@pytest.mark.parametrize("backward", [False, True])
def test_any_layout_of_the_output(layout, backward):
    out = layout(np.zeros_like(X))
    kept = out.tobytes()
    function, arguments = (PLAIN_F.backward, (DY, X)) if backward else (PLAIN_F, (X,))
    if not out.flags.writeable:
        with pytest.raises(ValueError, match="read-only"):
            function(*arguments, out=out)
        assert out.tobytes() == kept
        return
    assert function(*arguments, out=out) is out
    assert_same_bits(out.astype(np.float32), function(*arguments))


@each_layout
def test_any_layout_of_batch_norms_output(layout):
    out = layout(np.zeros_like(X))
    refused = (not out.flags.writeable and "read-only|expected") or (
        not out.dtype.isnative and "dtype"
    )
    if refused:
        kept = out.tobytes()
        with pytest.raises((TypeError, ValueError), match=f"out: .*({refused})"):
            fa.batch_norm(X, training=True, out=out)
        assert out.tobytes() == kept
        return
    assert fa.batch_norm(X, training=True, out=out) is out
    assert_same_bits(out, fa.batch_norm(X, training=True))


class Subclass(np.ndarray):
    pass


BAD_OUT = [  # out, exception, a word of it
    ([0.0], TypeError, "ArrayType"),
    (3, TypeError, "ArrayType"),
    ("out", TypeError, "ArrayType"),
    (np.zeros(SHAPE, np.int32), TypeError, "int32"),
    (np.zeros(SHAPE, bool), TypeError, "bool"),
    (np.zeros(SHAPE, "M8[s]"), TypeError, "M8|datetime"),
    (np.zeros((6, 5, 3), np.float32), ValueError, r"\(6,5,3\)"),
    (np.zeros((5, 4), np.float32), ValueError, r"\(5,4\)"),
    (np.zeros((1, 5, 4), np.float32), ValueError, r"\(1,5,4\)"),
    (np.zeros(0, np.float32), ValueError, r"\(0,\)"),
    (np.broadcast_to(np.float32(0), SHAPE), ValueError, "read-only"),
    ((np.zeros(SHAPE, np.float32),) * 2, (TypeError, ValueError), "tuple"),
    ((), (TypeError, ValueError), "tuple"),
]


@pytest.mark.parametrize(("out", "error", "word"), BAD_OUT)
def test_outputs_that_cannot_be(out, error, word):
    kept = X.copy(), np.array(out if type(out) is np.ndarray else 0, copy=True)
    for function, arguments in ((PLAIN_F, (X,)), (PLAIN_F.backward, (DY, X)), (SCALAR_F, (X, 0.3))):
        with pytest.raises(error, match=word):
            function(*arguments, out=out)
    with pytest.raises((TypeError, ValueError), match="out: "):
        fa.batch_norm(X, training=True, out=out)
    assert_same_bits(X, kept[0])
    if type(out) is np.ndarray:
        np.testing.assert_array_equal(out, kept[1])


OVERLAPS = [  # where x and out begin in one piece of memory, and their strides in elements
    (0, 0, (20, 4, 1), (20, 4, 1)),
    (0, 1, (20, 4, 1), (20, 4, 1)),
    (1, 0, (20, 4, 1), (20, 4, 1)),
    (0, 20, (20, 4, 1), (20, 4, 1)),
    (60, 0, (20, 4, 1), (20, 4, 1)),
    (0, 119, (20, 4, 1), (-20, -4, -1)),
    (0, 0, (20, 4, 1), (1, 6, 30)),
    (0, 0, (40, 8, 2), (20, 4, 1)),
    (0, 0, (20, 4, 1), (40, 8, 2)),
    (0, 1, (40, 8, 2), (40, 8, 2)),
    (0, 0, (0, 4, 1), (20, 4, 1)),
    (3, 0, (0, 0, 0), (20, 4, 1)),
]


@pytest.mark.parametrize(("first", "second", "of_x", "of_out"), OVERLAPS)
def test_an_output_that_overlaps_gives_what_it_would_apart(first, second, of_x, of_out):
    def place(memory, at, strides):
        view = np.lib.stride_tricks.as_strided(memory[at:], SHAPE, [4 * s for s in strides])
        return view

    for function in (
        PLAIN_F,
        lambda x, out: PLAIN_F.backward(DY, x, out=out),
        lambda x, out: PLAIN_F.backward(x, DY, out=out),
        lambda x, out: SCALAR_F(x, x, out=out),
        lambda x, out: GATED_F(DY, x, out=out),
        lambda x, out: LEARNED_F.backward(x, DY, np.float32(0.2), out=out)[0],
        lambda x, out: LEARNED_F.backward(DY, x, x, out=out)[0],
    ):
        memory = data(400)
        x, out = place(memory, first, of_x), place(memory, second, of_out)
        want = function(x.copy(), out=np.empty(SHAPE, np.float32))
        function(x, out=out)
        assert_same_bits(out, want)


def test_an_output_that_is_the_weight():
    weight = data(SHAPE)
    want = LEARNED_F(X, weight.copy())
    assert_same_bits(LEARNED_F(X, weight, out=weight), want)
    row = data(SHAPE)
    want = LEARNED_F(X, row[:1].copy())
    LEARNED_F(X, row[:1], out=row)
    assert_same_bits(row, want)


ALIASES = ["running_mean", "running_var", "weight", "bias", WEIGHT, "x"]


@pytest.mark.parametrize("name", ALIASES)
def test_batch_norms_output_apart_from_all_else(name):
    memory = np.ones(4 * X.size, np.float32)
    out = memory[: X.size].reshape(SHAPE)
    small = memory[7:12]
    given = running() | {"x": X, "out": out, "activation": LEARNED_F}
    given["activation_params"] = {WEIGHT: small if name == WEIGHT else 0.25}
    if name == "x":
        given["x"] = memory[3 : 3 + X.size].reshape(SHAPE)
    elif name != WEIGHT:
        given[name] = small
    if name == WEIGHT:  # which is copied before
        want = fa.batch_norm(given.pop("x"), training=True, **(given | {"out": None}))
        got = fa.batch_norm(X, training=True, **given)
        assert_same_bits(got, want)
        return
    with pytest.raises(ValueError, match=rf"out: overlaps {name}"):
        fa.batch_norm(given.pop("x"), training=True, **given)
    assert (memory == 1).all()


# ---- values that are hard to be --------------------------------------------------------------

BAD_PARAMETERS = [  # value, exception
    (None, TypeError),
    ("0.1", TypeError),
    (b"0.1", TypeError),
    (1j, TypeError),
    (np.complex64(1), TypeError),
    (np.longdouble(1), TypeError),
    (np.datetime64("2026-01-01"), TypeError),
    (object(), TypeError),
    ({}, TypeError),
    (["a"], TypeError),
    (np.ones(3, np.float32), ValueError),
    (np.ones((7, 1, 1), np.float32), ValueError),
    (np.ones((2, *SHAPE), np.float32), None),  # broadcasts
]


@pytest.mark.parametrize(("value", "error"), BAD_PARAMETERS, ids=repr)
def test_parameters(value, error):
    out = np.full(SHAPE, 7, np.float32)
    if error is None:
        assert SCALAR_F(X, value).shape == value.shape
        return
    word = SLOPE if error is TypeError else "shapes"
    with pytest.raises(error, match=word):
        SCALAR_F(X, value, out=out)
    with pytest.raises(error, match=word):
        SCALAR_F(X, **{SLOPE: value})
    assert (out == 7).all()


BAD_CALLS = [  # positional, keywords
    ((), {}),
    ((X, 0.1, X, X), {}),
    ((X, 0.1), {SLOPE: 0.1}),
    ((X,), {"nonsense": 1}),
    ((X,), {"inplace": True}),
    ((), {"x": X}),
    ((X,), {"dtype": "i4"}),
    ((X,), {"dtype": "c8"}),
    ((X,), {"dtype": "no such"}),
    ((X,), {"dtype": object}),
    ((X,), {"casting": "no such"}),
    ((X,), {"order": "Z"}),
    ((X,), {"where": X}),
    ((X,), {"signature": "d->f"}),
    ((X,), {"axis": 0}),
]


@pytest.mark.parametrize(("arguments", "named"), BAD_CALLS)
def test_calls_that_make_no_sense(arguments, named):
    out = np.full(SHAPE, 7, np.float32)
    with pytest.raises((TypeError, ValueError)):
        SCALAR_F(*arguments, out=out, **named)
    assert (out == 7).all()


# ---- objects that bite -----------------------------------------------------------------------


class Raises:
    """Every question that NumPy asks of it is answered by an error of its own."""

    def __init__(self, what, error=ZeroDivisionError):
        self.what, self.error = what, error

    def __getattr__(self, name):
        if name == self.what:
            raise self.error(name)
        raise AttributeError(name)


class ArrayRaises:
    def __array__(self, dtype=None, copy=None):
        raise ZeroDivisionError


class ArrayLies:
    def __array__(self, dtype=None, copy=None):
        return "no array"


class NoUfunc:
    __array_ufunc__ = None


class UfuncRaises:
    def __array_ufunc__(self, *args, **kwargs):
        raise ZeroDivisionError


class LengthRaises(list):
    def __len__(self):
        raise ZeroDivisionError


class ItemRaises:
    def __len__(self):
        return 2

    def __getitem__(self, k):
        raise ZeroDivisionError


class FloatRaises:
    def __float__(self):
        raise ZeroDivisionError


class IndexRaises:
    def __index__(self):
        raise ZeroDivisionError


class BoolRaises:
    def __bool__(self):
        raise ZeroDivisionError


class InterfaceLies:
    @property
    def __array_interface__(self):
        return {"shape": (3,), "typestr": "<f4", "data": "nowhere", "version": 3}


BITING = [  # object, exceptions
    (ArrayRaises(), ZeroDivisionError),
    (ArrayLies(), (TypeError, ValueError)),
    (NoUfunc(), TypeError),
    (UfuncRaises(), (ZeroDivisionError, TypeError)),
    (LengthRaises([1.0]), (ZeroDivisionError, TypeError)),
    (ItemRaises(), ZeroDivisionError),
    (FloatRaises(), TypeError),
    (InterfaceLies(), (TypeError, ValueError)),
    (Raises("__array_interface__"), (ZeroDivisionError, TypeError)),
    (Raises("__array_struct__"), (ZeroDivisionError, TypeError)),
    (Raises("__array_struct__", MemoryError), (MemoryError, TypeError)),
    (Raises("__array_struct__", RecursionError), (RecursionError, TypeError)),
    ((k for k in range(3)), TypeError),
    (memoryview(b"abc").cast("c"), TypeError),  # characters
    ([[1.0], [1.0, 2.0]], (TypeError, ValueError)),
]


@each_call
@pytest.mark.parametrize(("x", "error"), BITING, ids=lambda value: type(value).__name__)
def test_array_likes_that_raise(call, x, error):
    with pytest.raises(error):
        call(x)


@pytest.mark.parametrize(("value", "error"), BITING, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var"])
def test_small_arrays_that_raise(value, error, name):
    out, state = np.full(SHAPE, 7, np.float32), running()
    with pytest.raises((*np.atleast_1d(error), TypeError, ValueError)):
        fa.batch_norm(X, training=True, out=out, **(state | {name: value}))
    assert (out == 7).all()
    for kept, want in zip(state.values(), (0, 1), strict=True):
        assert (kept == want).all()


BITING_OPTIONS = [  # name, value
    ("eps", FloatRaises()),
    ("momentum", FloatRaises()),
    ("axis", IndexRaises()),
    ("training", BoolRaises()),
    ("activation_params", {SLOPE: FloatRaises()}),
    ("activation_params", Raises("keys")),
    ("activation", Raises("name")),
    ("out", UfuncRaises()),
]


@pytest.mark.parametrize(("name", "value"), BITING_OPTIONS)
def test_options_that_raise(name, value):
    out, state = np.full(SHAPE, 7, np.float32), running()
    given = {"training": True, "activation": SCALAR_F, "out": out} | state | {name: value}
    with pytest.raises((ZeroDivisionError, TypeError, ValueError)):
        fa.batch_norm(X, **given)
    assert (out == 7).all()
    assert (state["running_mean"] == 0).all()


# NumPy 2.5 warns of it, and does it
sets_a_shape = pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")


class Counts(float):
    """A number whose conversion runs code: it gives x another shape."""

    x = None

    def __float__(self):
        Counts.x.shape = (Counts.x.size,)
        return 0.5


@sets_a_shape
def test_a_parameter_that_changes_x_while_it_is_read():
    Counts.x = data((300, 7))
    for value in (Counts(0.5), np.float64(0.5)):
        with contextlib.suppress(TypeError, ValueError):
            SCALAR_F(Counts.x, value)
    assert Counts.x.size == 2100


# ---- subclasses and masked arrays ------------------------------------------------------------


def test_subclasses_stay_what_they_are():
    x = X.view(Subclass)
    for result in (PLAIN_F(x), PLAIN_F.backward(DY, x), SCALAR_F(x, 0.3)):
        assert type(result) is Subclass
    assert type(PLAIN_F(x, subok=False)) is np.ndarray
    out = np.zeros(SHAPE, np.float32).view(Subclass)
    assert PLAIN_F(X, out=out) is out
    with pytest.raises(TypeError, match="x: "):
        fa.batch_norm(x, training=True)
    with pytest.raises(TypeError, match="out: "):
        fa.batch_norm(X, training=True, out=out)


def test_masked_arrays_keep_their_mask_or_are_refused():
    x = np.ma.masked_array(X, X > 0.5)
    y = PLAIN_F(x)
    assert type(y) is np.ma.MaskedArray
    np.testing.assert_array_equal(y.mask, x.mask)
    assert_same_bits(y.compressed(), PLAIN_F(X)[~x.mask])
    for name in ("x", "weight"):
        given = {"x": X} | {name: x if name == "x" else np.ma.ones(5)}
        with pytest.raises(TypeError, match=rf"{name}: a masked array"):
            fa.batch_norm(given.pop("x"), training=True, **given)


# ---- other threads ---------------------------------------------------------------------------


def meanwhile(change, call, seconds=0.7):
    """Calls while another thread changes what it reads."""
    stop, errors = threading.Event(), []

    def run():
        try:
            while not stop.is_set():
                change()
        except Exception as error:
            errors.append(error)

    other = threading.Thread(target=run)
    other.start()
    timer = threading.Timer(seconds, stop.set)
    timer.start()
    try:
        while not stop.is_set():
            call()
    finally:
        stop.set()
        timer.cancel()
        other.join()
    assert not errors


def test_another_thread_writes_to_the_input():
    x = data((64, 8, 200))

    def change():
        x[...] = np.random.default_rng().standard_normal(x.shape)

    def call():
        assert np.isfinite(PLAIN_F(x)).all()
        y, ctx = fa.batch_norm_forward(x, activation=PLAIN_F)
        assert np.isfinite(y).all()
        assert np.isfinite(fa.batch_norm_backward(x, ctx).x).all()

    meanwhile(change, call)


@sets_a_shape
def test_another_thread_gives_the_input_another_shape():
    x = data((64, 8, 200))
    shapes = [(64, 8, 200), (102400,), (8,) + (1,) * 40 + (12800,), (2,) * 12 + (25,)]

    def change():
        for shape in shapes:
            x.shape = shape

    def call():
        assert PLAIN_F(x).size == x.size
        with contextlib.suppress(ValueError):  # where x has one dimension
            fa.batch_norm(x, training=True)

    meanwhile(change, call)


def test_resize_during_a_call():
    """NumPy refuses to move memory that a call refers to; between two calls it may."""
    arrays = [np.zeros(300_000, np.float32)]
    sizes = {300_000, 250_000, 100}
    moved = []

    def change():
        for size in sizes:
            with contextlib.suppress(ValueError):
                arrays[0].resize(size)
                moved.append(size)

    def call():
        y = PLAIN_F(arrays[0])
        assert y.size in sizes
        assert (y == y[0]).all()

    meanwhile(change, call)
    assert moved


def test_what_was_passed_may_die_during_the_call():
    for _ in range(20):
        y = PLAIN_F(data(200_000))
        y, ctx = fa.batch_norm_forward(data((500, 4)), activation=PLAIN_F)
        grads = fa.batch_norm_backward(data((500, 4)), ctx)
        del ctx
        gc.collect()
        assert np.isfinite(y).all()
        assert np.isfinite(grads.x).all()


# ---- more elements than 32 bits count --------------------------------------------------------

LARGE = 2**31 + 7
large = pytest.mark.skipif(
    not os.environ.get("FASTACT_TEST_LARGE"), reason="FASTACT_TEST_LARGE=1: needs 10 GB, a minute"
)


@large
@pytest.mark.timeout(1800)
def test_more_than_2_to_the_31_elements():
    x = np.zeros(LARGE, np.float16)
    ends = np.array([-3.0, 2.0, 5.0], np.float16)
    x[:3], x[2**31 - 1 : 2**31 + 2], x[-3:] = ends, ends, ends
    y = PLAIN_F(x)
    for part in (slice(3), slice(2**31 - 1, 2**31 + 2), slice(-3, None)):
        assert_same_bits(y[part], PLAIN_F(ends))
    assert_same_bits(PLAIN_F.backward(x[::-1], x, out=y)[-3:], PLAIN_F.backward(ends[::-1], ends))


@large
@pytest.mark.timeout(1800)
def test_batch_norm_of_more_than_2_to_the_31_elements():
    for shape, axis in (((LARGE, 1), 1), ((1, LARGE), 0)):
        x = np.zeros(shape, np.float16)
        x.reshape(-1)[-2:] = 100.0
        y, ctx = fa.batch_norm_forward(x, axis=axis, eps=1.0)
        assert ctx.count == LARGE
        np.testing.assert_allclose(ctx.mean, 200.0 / LARGE, rtol=1e-12)
        np.testing.assert_allclose(ctx.var, 20000.0 / LARGE - (200.0 / LARGE) ** 2, rtol=1e-12)
        assert y.reshape(-1)[-1] == y.reshape(-1)[-2] == np.float16(100.0)
        assert (y.reshape(-1)[2**31 - 2 : 2**31 + 2] == y.reshape(-1)[0]).all()
        del y, ctx, x
