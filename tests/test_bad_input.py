"""Bad input: the right exception names the argument, and nothing has been written."""

from fractions import Fraction

import numpy as np
import pytest
from conftest import LEARNED, PLAIN, SCALAR, once, python

import fastact as fa

X = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
ONES = np.ones(3, np.float32)
FROZEN = np.ones(3, np.float32)
FROZEN.flags.writeable = False
FROZEN_OUT = np.zeros_like(X)
FROZEN_OUT.flags.writeable = False
SCALAR_NAME, LEARNED_NAME, PLAIN_NAME = SCALAR[0], LEARNED[0], PLAIN[0]
(PARAMETER,) = fa.activations[SCALAR_NAME].parameters
(WEIGHT,) = fa.activations[LEARNED_NAME].parameters

FORWARD = [  # arguments, exception, word of the message
    ({"x": X.astype(np.float16)}, TypeError, "x"),
    ({"x": X.astype(np.int64)}, TypeError, "x"),
    ({"x": X.astype(np.complex64)}, TypeError, "x"),
    ({"x": np.ma.masked_array(X)}, TypeError, "x"),
    ({"x": "text"}, TypeError, "x"),
    ({"x": X[:, 0]}, ValueError, "x"),
    ({"x": X[:1]}, ValueError, "x"),
    ({"x": X[:0]}, ValueError, "x"),
    ({"axis": 2}, ValueError, "axis"),
    ({"axis": -3}, ValueError, "axis"),
    ({"axis": 1.0}, TypeError, "axis"),
    ({"axis": None}, TypeError, "axis"),
    ({"training": 1}, TypeError, "training"),
    ({"eps": -1.0}, ValueError, "eps"),
    ({"eps": np.nan}, ValueError, "eps"),
    ({"eps": np.inf}, ValueError, "eps"),
    ({"eps": "1"}, TypeError, "eps"),
    ({"momentum": None}, ValueError, "momentum"),
    ({"momentum": 1.5}, ValueError, "momentum"),
    ({"momentum": 1j}, TypeError, "momentum"),
    ({"weight": np.ones(4)}, ValueError, "weight"),
    ({"weight": np.ones((3, 1))}, ValueError, "weight"),
    ({"weight": np.ones(3, complex)}, TypeError, "weight"),
    ({"bias": np.ones(2)}, ValueError, "bias"),
    ({"bias": np.array(["a"] * 3)}, TypeError, "bias"),
    ({"running_mean": None}, ValueError, "running_mean"),
    ({"running_var": None}, ValueError, "running_var"),
    ({"running_mean": np.ones(4, np.float32)}, ValueError, "running_mean"),
    ({"running_mean": [0.0, 0.0, 0.0]}, TypeError, "running_mean"),
    ({"running_var": np.ones(3, int)}, TypeError, "running_var"),
    ({"running_mean": FROZEN}, ValueError, "running_mean"),
    ({"running_var": FROZEN}, ValueError, "running_var"),
    ({"running_mean": None, "running_var": None, "training": False}, ValueError, "running_mean"),
    ({"activation": "no such"}, ValueError, "activation"),
    ({"activation": 3}, TypeError, "activation"),
    ({"activation": np.tanh}, TypeError, "activation"),
    ({"activation_params": {"slope": 1}}, TypeError, "activation_params"),
    ({"activation": PLAIN_NAME, "activation_params": {"slope": 1}}, TypeError, "slope"),
    ({"activation": SCALAR_NAME, "activation_params": {"slope": 1}}, TypeError, PARAMETER),
    ({"activation": SCALAR_NAME, "activation_params": {PARAMETER: "1"}}, TypeError, PARAMETER),
    ({"activation": SCALAR_NAME, "activation_params": {PARAMETER: ONES}}, TypeError, PARAMETER),
    ({"activation": SCALAR_NAME, "activation_params": [1]}, TypeError, "activation_params"),
    ({"activation": LEARNED_NAME}, TypeError, WEIGHT),
    ({"activation": LEARNED_NAME, "activation_params": {WEIGHT: np.ones(4)}}, ValueError, WEIGHT),
    ({"activation": LEARNED_NAME, "activation_params": {WEIGHT: "a"}}, TypeError, WEIGHT),
    ({"out": np.zeros_like(X, dtype=np.float64)}, TypeError, "out"),
    ({"out": [0.0]}, TypeError, "out"),
    ({"out": np.zeros((3, 6), np.float32)}, ValueError, "out"),
    ({"out": FROZEN_OUT}, ValueError, "out"),
    ({"out": X}, ValueError, "out"),
    ({"out": X, "training": False}, ValueError, "out"),
    ({"save_for_backward": None}, TypeError, "save_for_backward"),
    ({"nonsense": 1}, TypeError, "nonsense"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "error", "word"), FORWARD)
def test_forward(change, error, word):
    mean, var, out = np.zeros(3, np.float32), np.ones(3, np.float32), np.full_like(X, 7.0)
    given = {"x": X, "running_mean": mean, "running_var": var, "training": True, "out": out}
    given |= change
    kept = [np.array(value, copy=True) for value in (X, mean, var, out)]
    given_out = np.array(given["out"], copy=True)
    with pytest.raises(error, match=word):
        fa.batch_norm_forward(given.pop("x"), **given)
    for now, before in zip((X, mean, var, out), kept, strict=True):
        np.testing.assert_array_equal(now, before)
    np.testing.assert_array_equal(given["out"], given_out)


def test_statistics_must_not_share_memory_and_out_must_not_overlap():
    both = np.ones(4, np.float32)
    with pytest.raises(ValueError, match="running_mean"):
        fa.batch_norm(X, running_mean=both[:3], running_var=both[1:], training=True)
    large = np.zeros(40, np.float32)
    x, out = large[:18].reshape(6, 3), large[5:23].reshape(6, 3)
    for training in (True, False):
        running = {"running_mean": ONES.copy(), "running_var": ONES.copy(), "training": training}
        with pytest.raises(ValueError, match=r"out: overlaps x"):
            fa.batch_norm(x, out=out, **running)
        repeated = np.lib.stride_tricks.as_strided(large, (6, 3), (0, 4), writeable=True)
        with pytest.raises(ValueError, match="out"):
            fa.batch_norm(X, out=repeated, **running)
    assert (large == 0).all()
    assert (both == 1).all()


def test_out_must_not_overlap_what_the_backward_reads_in_another_byte_order():
    x = X.astype(">f4")
    with pytest.raises(ValueError, match="out: overlaps x"):
        fa.batch_norm_forward(x, out=x.view("<f4"))
    _, ctx = fa.batch_norm_forward(x)
    with pytest.raises(ValueError, match="out: overlaps x"):
        fa.batch_norm_backward(X, ctx, out=x.view("<f4"))
    with pytest.raises(ValueError, match="running_mean: overlaps x"):
        fa.batch_norm_forward(x, running_mean=x.view("<f4")[0], running_var=ONES.copy())
    other = X.copy()
    with pytest.raises(ValueError, match="running_var: overlaps residual"):
        fa.batch_norm(X, residual=other, running_mean=ONES * 0, running_var=other[0], training=True)
    kept = x.copy()
    for name in PLAIN:  # x is kept, where y does not say what it was: a copy of it
        try:
            _, want = fa.batch_norm_forward(kept, save_for_backward="output", activation=name)
        except ValueError:  # it has no inverse
            continue
        y = kept.copy()
        named = {"save_for_backward": "output", "activation": name, "out": y.view("<f4")}
        _, ctx = fa.batch_norm_forward(y, **named)
        got, want = (fa.batch_norm_backward(np.ones_like(X), c).x for c in (ctx, want))
        np.testing.assert_array_equal(got, want)


BACKWARD = [
    ({"dy": X[:5]}, ValueError, "dy"),
    ({"dy": X.astype(np.float64)}, TypeError, "dy"),
    ({"dy": X.astype(np.int32)}, TypeError, "dy"),
    ({"ctx": None}, TypeError, "ctx"),
    ({"ctx": (X, X)}, TypeError, "ctx"),
    ({"out": X}, ValueError, "out"),
    ({"out": FROZEN_OUT}, ValueError, "out"),
    ({"out": np.zeros((3, 6), np.float32)}, ValueError, "out"),
    ({"out": np.zeros_like(X, dtype=np.float64)}, TypeError, "out"),
]


@pytest.mark.parametrize(("change", "error", "word"), BACKWARD)
def test_backward(change, error, word):
    ctx = fa.batch_norm_forward(X)[1]
    given = {"dy": np.ones_like(X), "ctx": ctx} | change
    kept = X.copy(), np.array(given.get("out", 0), copy=True)
    with pytest.raises(error, match=word):
        fa.batch_norm_backward(**given)
    np.testing.assert_array_equal(X, kept[0])
    np.testing.assert_array_equal(given.get("out", 0), kept[1])


LAYER = [
    ({"num_features": 0}, ValueError, "num_features"),
    ({"num_features": 2.5}, TypeError, "num_features"),
    ({"dtype": np.int32}, TypeError, "dtype"),
    ({"momentum": 2.0}, ValueError, "momentum"),
    ({"eps": -1.0}, ValueError, "eps"),
    ({"affine": 1}, TypeError, "affine"),
    ({"activation": "no such"}, ValueError, "activation"),
    ({"activation": LEARNED_NAME}, TypeError, WEIGHT),
]


@pytest.mark.parametrize(("options", "error", "word"), LAYER)
def test_layer(options, error, word):
    with pytest.raises(error, match=word):
        fa.BatchNorm(**({"num_features": 3} | options))


def test_layer_calls():
    layer = fa.BatchNorm(4)
    with pytest.raises(ValueError, match="backward"):
        layer.backward(X)
    with pytest.raises(ValueError, match=r"x: .*4"):
        layer(X)
    with pytest.raises(ValueError, match="value per channel"):
        layer(np.ones((1, 4), np.float32))
    assert (layer.running_mean == 0).all()
    assert layer.num_batches_tracked == 0


@pytest.mark.parametrize("name", SCALAR)
@pytest.mark.parametrize("shape", [(), (1,), (17,)])
def test_a_parameter_may_lie_in_the_output(name, shape):
    """One of another rank too, which has no strides to compare."""
    function, at = fa.activations[name], len(fa.activations[name].parameters) - 1
    x, same = np.linspace(-2, 3, 17), np.linspace(-2, 3, 17)
    part = np.ndarray(shape, x.dtype, x)
    others = [0.25] * at
    want = function(same, *others, np.ndarray(shape, x.dtype, same).copy())
    np.testing.assert_array_equal(function(x, *others, part, out=x), want)


def test_the_cast_that_numpy_has_not_is_refused_in_any_layout():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    function = fa.activations[PLAIN_NAME]
    for step in (1, -1):
        x = np.ones(6, ml_dtypes.bfloat16)[::step]
        with pytest.raises(TypeError, match="cast"):
            function(x, dtype=np.float16)
        with pytest.raises(TypeError, match="cast"):
            function(x, out=np.empty(6, np.float16))


def test_raw_bytes_are_no_output():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for x in (np.ones(3, ml_dtypes.bfloat16), X[:, 0]):
        outs = np.zeros(len(x), x.dtype), np.zeros(len(x), "V4")
        with pytest.raises(TypeError, match="out has dtype"):
            fa.activations[PLAIN_NAME](x, out=outs[1])
        with pytest.raises(TypeError, match="out has dtype"):
            next(iter(fa.gated.values())).backward(x, x, x, out=outs)
        assert not outs[0].any()


# ---- what looks like a number ------------------------------------------------------------------


class Broken:
    def __float__(self):
        raise TypeError("no")


NO_NUMBERS = {
    "text": "0.5", "bytes": b"1", "a buffer": bytearray(b"1"), "a view": memoryview(b"1"),
    "True": True, "complex": 1 + 0j, "an array of text": np.array("0.5"),
    "of bytes": np.array(b"1"), "of bool": np.array(True), "of one": np.array([0.5]),
    "raw": np.void(b"1"), "masked": np.ma.masked, "None": None, "broken": Broken(),
}  # fmt: skip


@once
@pytest.mark.parametrize("what", NO_NUMBERS)
def test_what_is_no_number_is_no_eps(what):
    for call in (fa.batch_norm, fa.batch_norm_forward):
        with pytest.raises(TypeError, match="eps: expected a real number, got "):
            call(np.ones((4, 3)), training=True, eps=NO_NUMBERS[what])


@once
@pytest.mark.parametrize(
    "number", [0, 1, np.int8(1), np.float16(0.5), np.longdouble(0.5), np.array(0.5), Fraction(1, 2)]
)
def test_numbers_of_all_kinds_are(number):
    x = np.arange(12.0).reshape(4, 3)
    want = fa.batch_norm(x, training=True, eps=float(number))
    np.testing.assert_array_equal(fa.batch_norm(x, training=True, eps=number), want)


@once
def test_an_axis_that_is_an_array():
    with pytest.raises(TypeError, match=r"axis: expected an integer, got ndarray of .* \(1,\)"):
        fa.batch_norm(np.ones((4, 3)), training=True, axis=np.array([1]))


@once
def test_weights_whose_sum_overflows_change_nothing():
    mean, var = np.zeros(3), np.ones(3)
    with pytest.raises(ValueError, match="sample_weight: the sum of a channel overflows"):
        fa.batch_norm(
            np.ones((6, 3)), training=True, sample_weight=np.full(6, 1e308),
            running_mean=mean, running_var=var,
        )  # fmt: skip
    assert (mean == 0).all()
    assert (var == 1).all()


@once
def test_a_state_that_cannot_be_loaded_changes_nothing():
    layer = fa.BatchNorm(3)
    state = {k: v + 1 for k, v in layer.state_dict().items()}
    layer.bias.flags.writeable = False
    with pytest.raises(ValueError, match="bias: the layer's own array is read-only"):
        layer.load_state_dict(state)
    assert (layer.weight == 1).all()
    with pytest.raises(ValueError, match="unexpected keys"):
        layer.load_state_dict(state | {1: 0, "a": 0})


@once
def test_batches_that_are_negative():
    layer = fa.BatchNorm(3, momentum=None)
    layer.num_batches_tracked = -1
    with pytest.raises(ValueError, match="num_batches_tracked: -1 is out of range"):
        layer(np.ones((4, 3), np.float32))


@once
@pytest.mark.parametrize("threads", ["abc", "0", "-1", "3.5", "5000", "1" * 30])
def test_a_number_of_threads_in_the_environment_that_is_none(threads):
    status, _, err = python("import fastact", FASTACT_NUM_THREADS=threads)
    assert status != 0
    assert f"FASTACT_NUM_THREADS={threads!r}: expected a number from 1 to 4096" in err
