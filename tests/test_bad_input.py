"""Bad input: the right exception names the argument, and nothing has been written."""

import numpy as np
import pytest
from conftest import LEARNED, PLAIN, SCALAR

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
