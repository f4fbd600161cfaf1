"""The floating-point environment is the caller's: it stays as it is, and changes no result."""

import ctypes
import ctypes.util
import functools
import platform
import sys
import time
import warnings

import numpy as np
import pytest
from conftest import (
    FLOATS,
    GATED,
    LEARNED,
    NAMES,
    assert_same_bits,
    call,
    defaults,
    each,
    mixed,
    once,
    python,
)

import fastact as fa

x86 = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64",
    reason="knows where glibc keeps MXCSR of x86-64",
)
DEFAULT, AT = 0x1F80, 28  # glibc's fenv_t: x87's environment, then MXCSR
ENVIRONMENTS = {
    "flush to zero": 0x9F80,
    "subnormals are zero": 0x1FC0,
    "both": 0x9FC0,
    "round down": 0x3F80,
    "round up": 0x5F80,
    "round to zero, both": 0xFFC0,
    "all flags raised": 0x1FBF,
}
each_environment = pytest.mark.parametrize("mxcsr", ENVIRONMENTS.values(), ids=ENVIRONMENTS)


class Environment:
    """A thread's MXCSR, through the C library."""

    def __init__(self):
        self.libm = ctypes.CDLL(ctypes.util.find_library("m"))
        self.state = (ctypes.c_char * 32)()

    def get(self):
        self.libm.fegetenv(self.state)
        return int.from_bytes(self.state.raw[AT : AT + 4], "little")

    def set(self, mxcsr):
        self.libm.fegetenv(self.state)
        self.state[AT : AT + 4] = mxcsr.to_bytes(4, "little")
        self.libm.fesetenv(self.state)


def within(mxcsr, function):
    """function() where MXCSR is this, and what MXCSR is then."""
    environment = Environment()
    before = environment.get()
    environment.set(mxcsr)
    try:
        result = function()
        return result, environment.get()
    finally:
        environment.set(before)


def small_numbers(dtype, count=3000):
    """Many subnormals among numbers of all sizes."""
    x = mixed(count, dtype)
    x[::3] = np.finfo(dtype).smallest_subnormal * np.arange(1, len(x[::3]) + 1, dtype=dtype)
    return x


@x86
@each
@each_environment
@pytest.mark.parametrize("dtype", FLOATS, ids=["f32", "f64"])
def test_an_activation(name, mxcsr, dtype):
    x = small_numbers(dtype)
    dy = x[::-1].copy()
    for backward in (False, True):
        for threads in (1, 3):
            with fa.num_threads(threads):
                want = call(name, backward, dy, x, defaults(name))
                got, after = within(
                    mxcsr, functools.partial(call, name, backward, dy, x, defaults(name))
                )
            assert_same_bits(got, want)
            assert after == mxcsr


@x86
@each_environment
@pytest.mark.parametrize("name", GATED)
def test_a_gated_one(name, mxcsr):
    x = small_numbers(np.float32)
    function = fa.gated[name]
    for f in (lambda: function(x, x[::-1]), lambda: function.backward(x, x, x[::-1])[1]):
        want = f()
        got, after = within(mxcsr, f)
        assert_same_bits(got, want)
        assert after == mxcsr


def whole_layer(x, name):
    """Everything that a training step and an evaluation give."""
    layer = fa.BatchNorm(x.shape[1], activation=name, dtype=x.dtype)
    y = layer(x)
    grads = layer.backward(y)
    state = [layer.running_mean, layer.running_var]
    layer.eval()
    return [y, grads.x, grads.weight, grads.bias, layer(x), *state]


@x86
@each_environment
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e-42, 1e-305])
@pytest.mark.parametrize("dtype", FLOATS, ids=["f32", "f64"])
def test_batch_norm(mxcsr, scale, dtype):
    x = np.random.default_rng(0).standard_normal((600, 9)).astype(dtype)
    with np.errstate(all="ignore"):
        x *= dtype(scale)
    name = next(n for n in NAMES if not fa.activations[n].parameters)
    want = whole_layer(x, name)
    got, after = within(mxcsr, lambda: whole_layer(x, name))
    for a, b in zip(got, want, strict=True):
        assert_same_bits(a, b)
    assert after & ~0x3F == mxcsr & ~0x3F  # the layer's Python divides, and raises a flag


SMALL = np.array([3e-42, -7.0e-39, 1.5, -2.7, 1e30, 0.1], dtype=np.float32)
WEIGHT = np.arange(12.0).reshape(2, 6).astype(np.float32) * np.float32(1e-3)
THIRD, SIZE, STACK = SMALL / 3, np.abs(SMALL), np.stack([SMALL, SMALL[::-1], SMALL * 3])
SLOPES = np.linspace(0.1, 0.7, 6)


def folded():
    layer = fa.BatchNorm(6).eval()
    layer.running_mean[:], layer.running_var[:] = SMALL, SIZE
    return fa.fold_batch_norm(WEIGHT, SMALL, layer, axis=-1)


def loaded():
    layer = fa.BatchNorm(6, dtype=np.float32)
    state = layer.state_dict()
    layer.load_state_dict(state | {"weight": SLOPES, "bias": THIRD})
    return [layer.weight, layer.bias]


def learned():
    f = LEARNED[0]
    (name,) = fa.activations[f].learned
    params = {name: SLOPES}
    return [fa.BatchNorm(6, activation=f, activation_params=params).activation_params[name]]


def stats(**options):
    found = fa.batch_norm_stats(STACK, **options)
    return [np.float64(found.count), found.mean, found.m2, found.var]


def sums():
    parts = [fa.BatchNormSums(SMALL, THIRD, SMALL) for _ in range(3)]
    return [sum(parts).g, sum(parts).gx]


def by_hand():
    found = fa.BatchStats(0.7, SMALL, SIZE)
    return [found.mean, found.m2, found.var]


PYTHONS_OWN = {
    "stats": stats,
    "stats of weights": lambda: stats(sample_weight=np.array([0.1, 0.7, 1e-320])),
    "BatchStats": by_hand,
    "merge_stats": lambda: [fa.merge_stats(*[fa.BatchStats(0.1, SMALL, SIZE)] * 3).mean],
    "BatchNormSums": sums,
    "fold_batch_norm": folded,
    "load_state_dict": loaded,
    "a learned parameter": learned,
    "rrelu_training": lambda: fa.rrelu_training(SMALL, np.random.default_rng(0), 0.1, 0.3),
}


@x86
@once
@each_environment
@pytest.mark.parametrize("what", PYTHONS_OWN)
def test_arithmetic_of_the_python_code(what, mxcsr):
    want = PYTHONS_OWN[what]()
    got, after = within(mxcsr, PYTHONS_OWN[what])
    for a, b in zip(got, want, strict=True):
        assert_same_bits(a, b)
    assert after & ~0x3F == mxcsr & ~0x3F


@x86
@each_environment
def test_the_import(mxcsr):
    code = f"""
import ctypes, ctypes.util
import numpy, numpy.testing, threading, dataclasses, inspect, typing
libm = ctypes.CDLL(ctypes.util.find_library("m"))
state = (ctypes.c_char * 32)()
def set(value):
    libm.fegetenv(state); state[28:32] = value.to_bytes(4, "little"); libm.fesetenv(state)
def get():
    libm.fegetenv(state); return int.from_bytes(state.raw[28:32], "little")
set({mxcsr})
import fastact
after = get()
set(0x1f80)
print(after & ~0x3f == {mxcsr} & ~0x3f)
"""
    assert python(code) == (0, "True", "")


# ---- flags and warnings ------------------------------------------------------------------------

STATES = ["ignore", "warn", "raise", "call", "print", "log"]


@once
@each
@pytest.mark.parametrize("state", STATES)
def test_no_warning_under_any_errstate(name, state):
    said = []

    class Log:
        def write(self, text):
            said.append(text)

    handler = Log() if state == "log" else lambda kind, flag: said.append(kind)
    for dtype in (np.float16, *FLOATS):
        x = mixed(5000, dtype)
        with np.errstate(all=state, call=handler), warnings.catch_warnings():
            warnings.simplefilter("error")
            for arrays in (x, x[::2], x.reshape(50, 100).T):
                call(name, False, arrays, arrays, defaults(name))
                call(name, True, arrays, arrays, defaults(name))
    assert said == []


@x86
@each
def test_no_flag_is_raised(name):
    """Nor cleared: what the caller's own arithmetic raised stays."""
    x = mixed(5000, np.float32)
    for flags in (0, 0x05, 0x3F):
        for backward in (False, True):
            compute = functools.partial(call, name, backward, x, x, defaults(name))
            _, after = within(DEFAULT | flags, compute)
            assert after == DEFAULT | flags


# ---- speed -------------------------------------------------------------------------------------


def seconds(function, rounds=7):
    best = []
    for _ in range(rounds):
        begin = time.perf_counter()
        function()
        best.append(time.perf_counter() - begin)
    return min(best)


@functools.cache
def price_of_subnormals():
    """How many times longer a product of them takes: on Intel's processors, in microcode."""
    x, out = np.linspace(-4, 4, 60_000), np.empty(60_000)
    tiny = x * np.finfo(np.float64).tiny / 4
    slow, usual = (
        seconds(lambda: np.multiply(a, 0.3, out=out), 25)  # noqa: B023
        for a in (tiny, x)
    )
    return slow / usual


@once
@each
@pytest.mark.parametrize("dtype", FLOATS, ids=["f32", "f64"])
def test_subnormal_data_take_at_most_twice_the_time(name, dtype):
    """Or, in float64 on a processor that waits for them, as much longer as five products take: in
    the place of one product are some 20 operations then."""
    n = 60_000
    waits = dtype is np.float64 and price_of_subnormals() > 4
    if waits and name in LEARNED:
        pytest.skip("the parameter's gradient is summed as statistics are, which wait")

    def is_quick(backward, dy_is_tiny, x_is_tiny, trial):
        """Later each time, and in other memory: a disturbance passes, and how addresses collide is
        no matter of the data."""
        time.sleep(0.02 * trial)
        room = np.empty(3 * (n + 1024 * trial), dtype).reshape(3, -1)[:, :n]
        usual, tiny, out = room
        usual[:] = np.linspace(-4, 4, n)
        tiny[:] = np.finfo(dtype).tiny * np.linspace(-1, 1, n)
        dy, x = (tiny if is_tiny else usual for is_tiny in (dy_is_tiny, x_is_tiny))
        slow, fast = (
            seconds(lambda: call(name, backward, *given, defaults(name), out=out))  # noqa: B023
            for given in ((dy, x), (usual, usual))
        )
        product = seconds(lambda: np.multiply(usual, 0.3, out=out))
        # a tenth for what disturbs them all
        return slow <= 1.1 * max(2 * fast, fast + 5 * product if waits else 0.0)

    with fa.num_threads(1):
        for case in ((0, 0, 1), (1, 1, 1), (1, 1, 0), (1, 0, 1)):
            assert any(is_quick(*case, trial) for trial in range(12)), (name, case)
