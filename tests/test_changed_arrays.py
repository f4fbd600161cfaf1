"""Arrays that get another shape after they were checked: by what other arguments do when they are
read, by other threads, or between a forward and its backward. Each call gives what it gives of the
array as it was, or an error; none reads or writes elsewhere."""

import contextlib
import sys
import threading
import time

import numpy as np
import pytest
from conftest import LEARNED, PLAIN, assert_same_bits, once, python

import fastact as fa

pytestmark = [
    once,
    pytest.mark.filterwarnings("ignore:Setting the (shape|dtype):DeprecationWarning"),
]
SHAPE, OTHER = (3000, 3), (3, 3000)
PLAIN_F, LEARNED_F = fa.activations[PLAIN[-1]], fa.activations[LEARNED[0]]


def data(shape, dtype=np.float32):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


class Turns:
    """A number, an array, a mask: and whenever it is read, x gets another shape."""

    def __init__(self, x, value):
        self.x, self.value = x, value

    def turn(self):
        self.x.shape = OTHER if self.x.shape == SHAPE else SHAPE
        return self.value

    def __float__(self):
        return float(self.turn())

    def __array__(self, dtype=None, copy=None):
        return np.array(self.turn(), dtype)


def learned(value):
    return {"activation": LEARNED_F, "activation_params": {LEARNED_F.learned[0]: value}}


TURNING = {
    "eps": lambda x: {"eps": Turns(x, 1e-5)},
    "momentum": lambda x: {"momentum": Turns(x, 0.1)},
    "weight": lambda x: {"weight": Turns(x, np.ones(3, np.float32))},
    "bias": lambda x: {"bias": Turns(x, np.zeros(3))},
    "mask": lambda x: {"mask": Turns(x, np.ones(3000, bool))},
    "sample_weight": lambda x: {"sample_weight": Turns(x, np.ones(3000))},
    "residual": lambda x: {"residual": Turns(x, np.zeros(SHAPE, x.dtype))},
    "activation_params": lambda x: learned(Turns(x, np.full(3, 0.25))),
}


@pytest.mark.parametrize("what", TURNING)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_an_argument_that_turns_x_while_it_is_read(what, dtype):
    still, turned = data(SHAPE, dtype), data(SHAPE, dtype)
    nobody = np.zeros(SHAPE, dtype)
    want = fa.batch_norm(still, training=True, **TURNING[what](nobody))
    got = fa.batch_norm(turned, training=True, **TURNING[what](turned))
    assert_same_bits(got, want)


@pytest.mark.parametrize("what", ["weight", "bias"])
def test_an_array_of_a_value_a_channel_is_asked_for_once(what):
    asked = []

    class Counts:
        def __array__(self, dtype=None, copy=None):
            asked.append(what)
            return np.ones(3, np.float32)

    x = data(SHAPE)
    stats = fa.batch_norm_stats(x)
    for call in (
        lambda: fa.batch_norm_forward(x, out=np.empty_like(x), **{what: Counts()}),
        lambda: fa.batch_norm_apply(x, stats, out=np.empty_like(x), **{what: Counts()}),
    ):
        asked.clear()
        call()
        assert asked == [what]


@pytest.mark.parametrize(
    "option", [{}, {"eps": 1}, {"mask": np.ones(3000, bool)}, {"residual": "x"}]
)
@pytest.mark.parametrize("change", ["shape", "one dimension"])
def test_a_shape_that_changes_between_forward_and_backward(option, change):
    x, dy = data(SHAPE), data(SHAPE)
    residual = data(SHAPE) if option.get("residual") else None
    given = {**option, "residual": residual}
    want = fa.batch_norm_backward(dy, fa.batch_norm_forward(x, **given)[1])
    _, ctx = fa.batch_norm_forward(x, **given)
    for array in (x, residual):
        if array is not None:
            array.shape = OTHER if change == "shape" else (9000,)
    got = fa.batch_norm_backward(dy, ctx)
    assert_same_bits(got.x, want.x)


def test_a_dtype_that_changes_between_forward_and_backward():
    x = data(SHAPE)
    _, ctx = fa.batch_norm_forward(x)
    x.dtype = np.float16
    assert fa.batch_norm_backward(data(SHAPE), ctx).x.shape == SHAPE


def test_an_output_that_is_kept_and_changes_its_shape():
    x = data(SHAPE)
    y, ctx = fa.batch_norm_forward(x, save_for_backward="output")
    y.shape = OTHER
    assert fa.batch_norm_backward(data(SHAPE), ctx).x.shape == SHAPE


@pytest.mark.parametrize("option", [{}, {"mask": np.ones(3000, bool)}, {"eps": 1}])
@pytest.mark.parametrize("shape", [OTHER, (9000,), (1000, 3)])
def test_a_context_whose_own_array_is_changed(option, shape):
    _, ctx = fa.batch_norm_forward(data(SHAPE), **option)
    object.__setattr__(ctx, "x", data(shape))
    if shape == (1000, 3) and "mask" not in option:
        pytest.skip("as good as any x of three channels")
    with pytest.raises(ValueError, match=r"ctx\.x: .*expected the context"):
        fa.batch_norm_backward(np.ones(shape, np.float32), ctx)


def test_a_residual_of_a_context_that_is_changed():
    _, ctx = fa.batch_norm_forward(data(SHAPE), residual=data(SHAPE))
    object.__setattr__(ctx, "residual", data(OTHER))
    with pytest.raises(ValueError, match=r"ctx\.residual: shape .* expected x's"):
        fa.batch_norm_backward(data(SHAPE), ctx)


@pytest.mark.parametrize(
    "option", [{}, {"eps": 1}, {"sample_weight": 1.0}, {"residual": data((64, 8, 200))}]
)
def test_another_thread_turns_x_all_the_time(option):
    """At every step of the checks, not only where the kernels run."""
    x = data((64, 8, 200))
    stop = threading.Event()

    def turn():
        while not stop.is_set():
            for shape in ((102400,), (8, 12800), (64, 1600), (64, 8, 200)):
                x.shape = shape

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread = threading.Thread(target=turn)
    thread.start()
    try:
        end = time.monotonic() + 0.7
        while time.monotonic() < end:
            with contextlib.suppress(ValueError):  # one dimension, or not the residual's shape
                y, ctx = fa.batch_norm_forward(x, **option)
                fa.batch_norm_backward(np.ones(y.shape, np.float32), ctx)
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(before)


# ---- objects that were made by hand ------------------------------------------------------------


def test_statistics_take_no_rows_of_their_own():
    with pytest.raises(TypeError):
        fa.BatchStats(3, np.zeros(300), np.zeros(300), np.zeros((4, 300), np.float32))


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.int64])
def test_sums_of_any_dtype_are_those_numbers(kind):
    x, dy = data((64, 5)), data((64, 5))
    stats = fa.batch_norm_stats(x)
    g, gx = np.arange(5, dtype=kind), np.arange(5, dtype=kind)[::-1]
    sums = [fa.BatchNormSums(a, b, np.zeros(5)) for a, b in ((g, gx), (list(g), list(gx)))]
    want = fa.BatchNormSums(g.astype(np.float64), gx.astype(np.float64), np.zeros(5))
    for each in sums:
        assert_same_bits(
            fa.batch_norm_backward_apply(dy, x, stats, each).x,
            fa.batch_norm_backward_apply(dy, x, stats, want).x,
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros(3), np.zeros(2), np.zeros(3)), r"gx: shape \(2,\) .*expected that of g, \(3,\)"),
        ((np.zeros((3, 1)), np.zeros(3), np.zeros(3)), r"g: shape \(3, 1\) .*expected \(C,\)"),
        ((np.zeros(3), np.zeros(3), np.zeros(3, complex)), "param: dtype complex128"),
        ((np.zeros(3, "M8[s]"), np.zeros(3), np.zeros(3)), "g: dtype datetime64"),
    ],
)
def test_sums_that_are_none(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        fa.BatchNormSums(*arguments)


def test_activations_cannot_be_half_made():
    for kind in (type(PLAIN_F.backward), type(PLAIN_F)):
        with pytest.raises(TypeError):
            kind.__new__(kind)
        with pytest.raises(TypeError):
            kind()


# ---- threads that do not start -----------------------------------------------------------------

NO_THREADS = """
import resource
import numpy as np, fastact as fa
x = np.linspace(-3, 3, 12_000_000, dtype=np.float32).reshape(300, 40000)
y, out = np.empty_like(x), np.empty_like(x)
with fa.num_threads(1):
    fa.activations[{name!r}](x, out=y)
fa.set_num_threads(3)
with open("/proc/self/statm") as file:
    now = int(file.read().split()[0]) * resource.getpagesize()
soft, hard = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (now + (4 << 20), hard))
try:
    fa.activations[{name!r}](x, out=out)
except MemoryError:
    print("MemoryError")
resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
fa.activations[{name!r}](x, out=out)
print((out == y).all())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, sets limits of Linux")
def test_no_memory_for_threads():
    """OpenMP would end the process."""
    status, out, err = python(NO_THREADS.format(name=PLAIN[-1]))
    assert (status, err) == (0, "")
    assert out.split()[-1] == "True"
