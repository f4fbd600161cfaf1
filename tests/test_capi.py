"""The C interface (fastact_capi.h): Python's bits, its errors, and the worked examples.

The table is called through ctypes, laid out as the header says.
"""

import ctypes
import importlib.util
import json
import math
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import (
    GATED,
    HALVES,
    ISA,
    LEARNED,
    NAMES,
    PLAIN,
    ROOT,
    SCALAR,
    assert_same_bits,
    defaults,
    given,
    kinds,
    mixed,
    once,
)

import fastact as fa

OK, BAD_ACTIVATION, BAD_DTYPE, BAD_LENGTH, BAD_PARAMETERS, BAD_POINTER = 0, -1, -2, -3, -4, -5
ROWS, MEAN, VARIANCE = 11, 0, 2
DTYPES = {np.dtype(d): k for k, d in zip((0, 1), HALVES, strict=False)}
DTYPES |= {np.dtype(np.float32): 2, np.dtype(np.float64): 3}
pointer, number, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_ssize_t


class Parameter(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("default", ctypes.c_double), ("kind", number)]


class Description(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_char_p) for name in ("name", "formula", "source")),
        ("max_ulp", ctypes.c_double),
        ("gated", number),
        ("count", number),
        ("parameters", Parameter * 2),
    ]


def function(result, *arguments):
    return ctypes.CFUNCTYPE(result, *arguments)


class BatchNorm(ctypes.Structure):
    _fields_ = [
        ("dtype", number),
        *((name, size) for name in ("outer", "channels", "inner")),
        *((name, pointer) for name in ("weight", "bias")),
        ("eps", ctypes.c_double),
        ("activation", number),
        ("parameters", pointer),
    ]


class Table(ctypes.Structure):
    _fields_ = [
        ("version", number),
        ("count", number),
        ("find", function(number, ctypes.c_char_p)),
        ("describe", function(ctypes.POINTER(Description), number)),
        ("forward", function(number, number, number, *[pointer] * 2, size, pointer)),
        ("backward", function(number, number, number, *[pointer] * 4, size, pointer)),
        ("gated_forward", function(number, number, number, *[pointer] * 3, size)),
        ("gated_backward", function(number, number, number, *[pointer] * 5, size)),
        ("get_num_threads", function(number)),
        ("set_thread_limit", function(number, number)),
        ("batch_norm_forward", function(number, ctypes.POINTER(BatchNorm), number, *[pointer] * 3)),
        (
            "batch_norm_backward",
            function(number, ctypes.POINTER(BatchNorm), number, *[pointer] * 7),
        ),
    ]


def load():
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = pointer, [ctypes.py_object, ctypes.c_char_p]
    return Table.from_address(get(fa._C_API, b"fastact._C_API"))


C = load()


def numbers(values):
    return (ctypes.c_double * max(len(values), 1))(*values)


def at(array):
    return array.ctypes.data


def forward(name, x, y, parameters=()):
    return C.forward(
        C.find(name.encode()), DTYPES[x.dtype], at(x), at(y), x.size, numbers(parameters)
    )


def backward(name, dy, x, dx, dparam=None, parameters=()):
    extra = None if dparam is None else at(dparam)
    return C.backward(
        C.find(name.encode()), DTYPES[x.dtype], at(dy), at(x), at(dx), extra, x.size,
        numbers(parameters),
    )  # fmt: skip


def test_the_header_says_what_the_tests_assume():
    text = Path(fa.get_include(), "fastact_capi.h").read_text()
    assert C.version == int(re.search(r"#define FASTACT_CAPI_VERSION (\d+)", text)[1])
    fields = re.search(r"int version;.*?} fastact_capi;", text, flags=re.DOTALL)[0]
    fields = re.sub(r"/\*.*?\*/", "", fields, flags=re.DOTALL)
    names = re.findall(r"\(\*(\w+)\)|int (version|count);", fields)
    assert [a or b for a, b in names] == [name for name, _ in Table._fields_]


def test_every_row_is_described():
    assert C.count == len(NAMES) + len(GATED)
    for name, f in {**fa.activations, **fa.gated}.items():
        d = C.describe(C.find(name.encode())).contents
        assert d.name.decode() == name
        assert (d.formula.decode(), d.source.decode()) == (f.formula, f.source)
        assert (d.max_ulp, bool(d.gated)) == (f.max_ulp, f.gated)
        told = {
            p.name.decode(): (p.default if p.kind == 0 else None) for p in d.parameters[: d.count]
        }
        assert told == dict(f.parameters)
        learned = [p.name.decode() for p in d.parameters[: d.count] if p.kind == 2]
        assert learned == list(f.learned)
    assert C.find(b"nosuch") == C.find(None) == -1
    assert not C.describe(-1)
    assert not C.describe(C.count)


@kinds
@pytest.mark.parametrize("name", NAMES)
def test_the_same_bits_as_in_python(name, dtype):
    # one below and one above what several threads take, misaligned, and in place
    for count in (17, 70_001):
        x, dy = mixed(count, dtype, 1), mixed(count, dtype, 2)
        params = defaults(name)
        shifted = np.empty(x.nbytes + 1, np.uint8)[1:].view(np.uint8)
        shifted[:] = x.view(np.uint8)
        y, dx = np.empty_like(x), x.copy()
        assert forward(name, x, y, params) == OK
        typed = [np.asarray(p, dtype) if name in LEARNED else p for p in params]
        want = fa.activations[name](x, *typed)
        assert_same_bits(y, want)
        status = C.forward(
            C.find(name.encode()), DTYPES[x.dtype], at(shifted), at(shifted), count, numbers(params)
        )
        assert status == OK
        assert_same_bits(np.frombuffer(shifted.tobytes(), x.dtype), want)
        assert backward(name, dy, dx, dx, parameters=params) == OK
        got = fa.activations[name].backward(dy, x, *typed)
        assert_same_bits(dx, got[0] if isinstance(got, tuple) else got)


@pytest.mark.parametrize("name", LEARNED)
def test_the_gradient_of_a_learned_parameter(name):
    x, dy = mixed(5000, np.float64, 1), mixed(5000, np.float64, 2)
    x, dy = (np.where(np.isfinite(a), a, 0.5) for a in (x, dy))
    dx, dparam = np.empty_like(x), np.empty_like(x)
    assert backward(name, dy, x, dx, dparam, defaults(name)) == OK
    weight = np.full_like(x, defaults(name)[0])
    want, want_param = fa.activations[name].backward.ufunc(dy, x, weight)
    assert_same_bits(dx, want)
    assert_same_bits(dparam, want_param)


@pytest.mark.parametrize("name", GATED)
def test_gated_functions(name):
    x, gate, dy = (mixed(40_000, np.float32, k) for k in range(3))
    y, dx, dgate = (np.empty_like(x) for _ in range(3))
    row, kind = C.find(name.encode()), DTYPES[x.dtype]
    assert C.gated_forward(row, kind, at(x), at(gate), at(y), x.size) == OK
    assert_same_bits(y, fa.gated[name](x, gate))
    status = C.gated_backward(row, kind, at(dy), at(x), at(gate), at(dx), at(dgate), x.size)
    assert status == OK
    want = fa.gated[name].backward(dy, x, gate)
    assert_same_bits(dx, want[0])
    assert_same_bits(dgate, want[1])


def test_no_parameters_are_the_defaults():
    x = mixed(1000, np.float32)
    y = np.empty_like(x)
    for name in [*PLAIN, *SCALAR]:
        needed = None in fa.activations[name].parameters.values()
        status = C.forward(C.find(name.encode()), 2, at(x), at(y), x.size, None)
        assert status == (BAD_PARAMETERS if needed else OK)
        if not needed:
            assert_same_bits(y, fa.activations[name](x))
    for name in LEARNED:
        status = C.forward(C.find(name.encode()), 2, at(x), at(y), x.size, None)
        assert status == BAD_PARAMETERS


def test_a_bad_call_says_so_and_writes_nothing():
    plain, gated = C.find(PLAIN[-1].encode()), C.find(GATED[0].encode())
    x = np.linspace(-2, 2, 64, dtype=np.float32)
    both = np.full(128, 7, np.float32)
    y, p = at(both), at(x)
    cases = [
        (BAD_ACTIVATION, C.forward, (-1, 2, p, y, 64, None)),
        (BAD_ACTIVATION, C.forward, (C.count, 2, p, y, 64, None)),
        (BAD_ACTIVATION, C.forward, (gated, 2, p, y, 64, None)),
        (BAD_ACTIVATION, C.backward, (gated, 2, p, p, y, None, 64, None)),
        (BAD_ACTIVATION, C.gated_forward, (plain, 2, p, p, y, 64)),
        (BAD_DTYPE, C.forward, (plain, 4, p, y, 64, None)),
        (BAD_DTYPE, C.forward, (plain, -1, p, y, 64, None)),
        (BAD_LENGTH, C.forward, (plain, 2, p, y, -1, None)),
        (BAD_LENGTH, C.forward, (plain, 2, p, y, 2**60 + 1, None)),
        (BAD_PARAMETERS, C.backward, (plain, 2, p, p, y, y + 256, 64, None)),
        (BAD_POINTER, C.forward, (plain, 2, None, y, 64, None)),
        (BAD_POINTER, C.forward, (plain, 2, p, None, 64, None)),
        (BAD_POINTER, C.forward, (plain, 2, y, y + 4, 64, None)),
        (BAD_POINTER, C.forward, (plain, 2, y + 252, y, 64, None)),
        (BAD_POINTER, C.backward, (plain, 2, None, p, y, None, 64, None)),
        (BAD_POINTER, C.backward, (plain, 2, p, y + 8, y, None, 64, None)),
        (BAD_POINTER, C.gated_forward, (gated, 2, p, None, y, 64)),
        (BAD_POINTER, C.gated_backward, (gated, 2, p, p, p, y, None, 64)),
        (BAD_POINTER, C.gated_backward, (gated, 2, p, p, p, y, y + 4, 64)),
    ]
    for status, function, arguments in cases:
        assert function(*arguments) == status, arguments
        assert (both == 7).all()
    assert C.forward(plain, 2, None, None, 0, None) == OK
    assert C.forward(plain, 2, y + 256, y, 64, None) == OK  # side by side is no overlap


# ---- BatchNorm -----------------------------------------------------------------------------------


class Norm:
    """A call on an array (outer, channels, inner), and the same in Python."""

    def __init__(self, shape, dtype, name=None, seed=0):
        rng = np.random.default_rng(seed)
        self.x, self.dy = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
        self.weight, self.bias = rng.standard_normal((2, shape[1]))
        self.name, self.out, self.dx = name, np.zeros_like(self.x), np.zeros_like(self.x)
        self.statistics = np.zeros((ROWS, shape[1]))
        self.values = numbers(defaults(name)) if name else None
        self.small = np.zeros((3, shape[1]))
        self.c = BatchNorm(
            DTYPES[np.dtype(dtype)], *shape, at(self.weight), at(self.bias), 1e-5,
            C.find(name.encode()) if name else -1,
            ctypes.addressof(self.values) if name else None,
        )  # fmt: skip

    def forward(self, training, y=None):
        y = self.out if y is None else y
        return C.batch_norm_forward(self.c, training, at(self.x), at(y), at(self.statistics))

    def backward(self, training, learned=False):
        dweight, dbias, dparameter = (at(row) for row in self.small)
        return C.batch_norm_backward(
            self.c, training, at(self.dy), at(self.x), at(self.statistics), at(self.dx),
            dweight, dbias, dparameter if learned else None,
        )  # fmt: skip

    def in_python(self, training):
        params = given(self.name) if self.name else None
        if self.name in LEARNED:
            params = {k: np.full(self.x.shape[1], v) for k, v in params.items()}
        running = {}
        if not training:
            running = {f"running_{k}": self.statistics[r] for k, r in (("mean", 0), ("var", 2))}
        y, ctx = fa.batch_norm_forward(
            self.x, weight=self.weight, bias=self.bias, activation=self.name,
            activation_params=params, training=training, **running,
        )  # fmt: skip
        return y, ctx, fa.batch_norm_backward(self.dy, ctx)


SHAPES = [(6, 5, 49), (300, 7, 1), (2, 1, 1000), (1, 3, 20000)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_batch_norm_gives_pythons_bits(shape, dtype, training):
    for name in (None, PLAIN[-1], SCALAR[0], LEARNED[0]):
        norm = Norm(shape, dtype, name)
        norm.statistics[VARIANCE] = 2.0
        y, ctx, grads = norm.in_python(training)
        assert norm.forward(training) == OK
        assert_same_bits(norm.out, y)
        assert_same_bits(norm.statistics[MEAN], ctx.mean)
        assert_same_bits(norm.statistics[VARIANCE], ctx.var)
        assert norm.backward(training, name in LEARNED) == OK
        assert_same_bits(norm.dx, grads.x)
        assert_same_bits(norm.small[0], grads.weight)
        assert_same_bits(norm.small[1], grads.bias)
        if name in LEARNED:
            (gradient,) = grads.activation_params.values()
            assert_same_bits(norm.small[2], gradient)


def test_batch_norm_writes_over_its_inputs():
    norm, again = Norm(SHAPES[0], np.float32), Norm(SHAPES[0], np.float32)
    for each in (norm, again):
        each.statistics[VARIANCE] = 2.0
    assert norm.forward(False) == OK
    assert again.forward(False, again.x) == OK
    assert_same_bits(again.x, norm.out)
    assert norm.backward(False) == OK
    norm.out[:] = norm.dx
    norm.dx = norm.dy
    assert norm.backward(False) == OK
    assert_same_bits(norm.dy, norm.out)


def test_batch_norm_without_elements():
    for shape in ((0, 3, 4), (2, 0, 4), (2, 3, 0)):
        norm = Norm(shape, np.float32)
        norm.small[:] = 7.0
        assert norm.forward(False) == norm.backward(False) == OK
        assert (norm.small[:2] == 0).all()
        assert norm.forward(True) == (OK if shape[1] == 0 else BAD_LENGTH)


WRONG = {
    "dtype": ({"dtype": 9}, BAD_DTYPE),
    "activation": ({"activation": 1000}, BAD_ACTIVATION),
    "gated": ({"activation": len(NAMES)}, BAD_ACTIVATION),
    "negative": ({"inner": -1}, BAD_LENGTH),
    "huge": ({"inner": 2**61}, BAD_LENGTH),
    "one value": ({"outer": 1, "inner": 1}, BAD_LENGTH),
    "eps": ({"eps": -1.0}, BAD_PARAMETERS),
    "no eps": ({"eps": math.nan}, BAD_PARAMETERS),
    "infinite eps": ({"eps": math.inf}, BAD_PARAMETERS),
    "required": (
        {"activation": C.find(LEARNED[0].encode()), "parameters": None}, BAD_PARAMETERS,
    ),
}  # fmt: skip


@once
@pytest.mark.parametrize("what", WRONG)
def test_a_bad_batch_norm_says_so_and_writes_nothing(what):
    norm = Norm(SHAPES[0], np.float32)
    changes, status = WRONG[what]
    for key, value in changes.items():
        setattr(norm.c, key, value)
    assert norm.forward(True) == norm.backward(True) == status
    for array in (norm.out, norm.dx, norm.statistics, norm.small):
        assert (array == 0).all()


@once
def test_pointers_of_batch_norm():
    norm = Norm(SHAPES[0], np.float32)
    x, y, s = at(norm.x), at(norm.out), at(norm.statistics)
    null = ctypes.POINTER(BatchNorm)()
    assert C.batch_norm_forward(null, 1, x, y, s) == BAD_POINTER
    for pointers in ((None, y, s), (x, None, s), (x, y, None), (x, x, s), (x, x + 4, s), (x, s, s)):
        assert C.batch_norm_forward(norm.c, 1, *pointers) == BAD_POINTER
    assert C.batch_norm_forward(norm.c, 0, x, x + 4, s) == BAD_POINTER
    dy, dx, w = at(norm.dy), at(norm.dx), at(norm.small)
    for pointers in (
        (None, x, s, dx, w, None), (dy, x, s, x, w, None), (dy, x, s, dy + 4, w, None),
        (dy, x, s, dx, dx, None), (dy, x, s, dx, s, None), (dy, x, s, dx, w, w),
        (dy, x, s, dx, None, w, w), (dy, x, s, None, w, None),
    ):  # fmt: skip
        more = pointers if len(pointers) == 7 else (*pointers, None)
        status = BAD_PARAMETERS if more[6] else BAD_POINTER
        assert C.batch_norm_backward(norm.c, 1, *more) == status
    assert (norm.out == 0).all()
    assert (norm.dx == 0).all()


def test_threads_and_their_limit():
    before = C.set_thread_limit(1)
    try:
        assert C.get_num_threads() == fa.get_num_threads() == 1
        assert C.set_thread_limit(-3) == 1
        assert C.set_thread_limit(0) == 0
    finally:
        C.set_thread_limit(before)
    x = mixed(100_000, np.float32)
    want = fa.activations[PLAIN[-1]](x)

    def one(_):  # ctypes releases the GIL around the call
        y = np.empty_like(x)
        assert forward(PLAIN[-1], x, y) == OK
        return y

    with ThreadPoolExecutor(8) as pool:
        for y in pool.map(one, range(64)):
            assert_same_bits(y, want)


# ---- the worked examples ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The two modules of examples/c_users, compiled as a user would."""
    if shutil.which("gcc") is None or sys.platform == "win32":
        pytest.skip("needs gcc")
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("c_users")
    for path in (ROOT / "examples" / "c_users").iterdir():
        shutil.copy(path, folder) if path.is_file() else None
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "CFLAGS": "-O1 -Wall -Wextra -Werror -Wno-unused-function"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def module(built, name):
    (path,) = built.glob(f"{name}.*.so")
    spec = importlib.util.spec_from_file_location(name, path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@once
def test_the_plain_c_example(built):
    plain = module(built, "plain")
    x = mixed(10_000, np.float32)
    x = np.where(np.abs(x) < 1e6, x, 1).astype(np.float32)
    function = plain.__doc__ or plain.mean_activation.__doc__
    name = re.search(r"mean of (\w+)\(", function)[1]
    want = fa.activations[name](x).astype(np.float64).mean()
    assert math.isclose(plain.mean_activation(x), want, rel_tol=1e-12)
    with pytest.raises(TypeError, match="float32"):
        plain.mean_activation(x.astype(np.float64))


@once
def test_the_cython_example(built):
    layer = module(built, "layer")
    x, dy = mixed(40_000, np.float64, 1), mixed(40_000, np.float64, 2)
    for name in NAMES:
        params = defaults(name)
        y, dx = layer.forward_backward(name, x, dy, params or None)
        got = fa.activations[name].backward(dy, x, *params)
        assert_same_bits(y, fa.activations[name](x, *params))
        assert_same_bits(dx, got[0] if isinstance(got, tuple) else got)
    with pytest.raises(ValueError, match="cannot be called so"):
        layer.forward_backward("nosuch", x, dy)


@once
def test_a_module_for_a_later_version_does_not_load(built, tmp_path):
    header = Path(fa.get_include(), "fastact_capi.h").read_text()
    later = header.replace(
        f"FASTACT_CAPI_VERSION {C.version}\n", f"FASTACT_CAPI_VERSION {C.version + 1}\n"
    )
    assert later != header
    (tmp_path / "fastact_capi.h").write_text(later)
    shutil.copy(built / "plain.c", tmp_path)
    name = next(iter(built.glob("plain.*.so"))).name
    include = json.loads(
        subprocess.run(
            [sys.executable, "-c", "import json, sysconfig; print(json.dumps("
             "sysconfig.get_paths()['include']))"],
            capture_output=True, text=True, check=True,
        ).stdout
    )  # fmt: skip
    subprocess.run(
        ["gcc", "-shared", "-fPIC", f"-I{tmp_path}", f"-I{include}", "plain.c", "-o", name],
        cwd=tmp_path, check=True,
    )  # fmt: skip
    with pytest.raises(ImportError, match=f"built for version {C.version + 1}"):
        module(tmp_path, "plain")


def test_the_instruction_set_is_the_active_one():
    assert fa.config()["isa"] == ISA  # the table has no instruction set of its own to choose
