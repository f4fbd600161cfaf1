"""The short way of ordinary BatchNorm calls gives what the long way gives, and takes no other."""

from itertools import product

import numpy as np
import pytest
from conftest import NAMES

import fastact as fa
from fastact import _quick

SHAPES = [
    ((32, 64), 1),
    ((4, 3, 5, 7), 1),
    ((2, 3, 5, 16), -1),
    ((5, 17, 3), 2),
    ((2, 1), 0),
    ((3, 1), 1),
]
DTYPES = [np.float32, np.float64]
ACTIVATIONS = [None, *NAMES[1:4], fa.activations[NAMES[-1]]]


def ordinary(shape=(6, 4), axis=1, dtype=np.float32, small=np.float32, training=True, **others):
    rng = np.random.default_rng(7)
    channels = shape[axis]
    return {
        "x": (3 + 2 * rng.standard_normal(shape)).astype(dtype),
        "weight": rng.standard_normal(channels).astype(small),
        "bias": rng.standard_normal(channels).astype(small),
        "running_mean": rng.standard_normal(channels).astype(small),
        "running_var": rng.random(channels).astype(small),
        "training": training,
        "axis": axis,
    } | others


def quick(x, *, weight=None, bias=None, running_mean=None, running_var=None, training=True,
          momentum=0.1, eps=1e-5, axis=1, activation=None, convention="torch", save="input",
          out=None, unusual=None):  # fmt: skip
    return _quick.forward(x, weight, bias, running_mean, running_var, training, momentum, eps, axis,
                          activation, convention, save, out, unusual)  # fmt: skip


def copied(arguments):
    return {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in arguments.items()}


def fields(record, names):
    return [getattr(record, name) for name in names.split()]


def step(arguments, dy):
    """All that a step gives, the running statistics after it included."""
    arguments = copied(arguments)
    y, ctx = fa.batch_norm_forward(**arguments)
    grads = fa.batch_norm_backward(dy, ctx)
    return [
        y, fa.batch_norm(**{**arguments, "training": False}),
        *fields(ctx, "mean var count training _axis _table _weight _bias"),
        *fields(grads, "x weight bias residual activation_params"),
        arguments["running_mean"], arguments["running_var"],
    ]  # fmt: skip


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("small", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_both_ways_give_the_same(shape, axis, dtype, small, activation, monkeypatch):
    dy = np.random.default_rng(1).standard_normal(shape).astype(dtype)
    for training, leave_out in product((True, False), ((), ("weight",), ("bias", "weight"))):
        given = ordinary(shape, axis, dtype, small, training, activation=activation, eps=1e-3)
        given |= dict.fromkeys(leave_out)
        if training and given["x"].size == shape[axis]:
            continue
        short = step(given, dy)
        assert quick(**copied(given)) is not None
        with monkeypatch.context() as patch:
            patch.setattr(_quick, "forward", lambda *_: None)
            patch.setattr(_quick, "backward", lambda *_: None)
            long = step(given, dy)
        for a, b in zip(short, long, strict=True):
            assert type(a) is type(b)
            np.testing.assert_array_equal(a, b)
            if isinstance(a, np.ndarray):
                assert (a.dtype, a.strides) == (b.dtype, b.strides)
                assert (a.flags.writeable, a.flags.owndata) == (b.flags.writeable, b.flags.owndata)


@pytest.mark.parametrize("view", [
    lambda a: a[::-1, ::2], lambda a: a.T[:6, :4], lambda a: np.asfortranarray(a)[:, ::2],
    lambda a: np.broadcast_to(a[:1, :4], (6, 4)),
])  # fmt: skip
def test_views_go_the_short_way(view, monkeypatch):
    x = view(np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32))
    given = ordinary(x.shape) | {"x": x}
    assert quick(**given) is not None
    y, _ = fa.batch_norm_forward(**ordinary(x.shape) | {"x": x})
    monkeypatch.setattr(_quick, "forward", lambda *_: None)
    expected, _ = fa.batch_norm_forward(**ordinary(x.shape) | {"x": x})
    np.testing.assert_array_equal(y, expected)
    assert y.strides == expected.strides


class Sub(np.ndarray):
    pass


def misaligned(a):
    raw = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    raw[...] = a
    return raw


def read_only(a):
    a.flags.writeable = False
    return a


X = ordinary()["x"]
REQUIRES = next(n for n in NAMES if None in fa.activations[n].parameters.values())
FOUR = np.ones(4, np.float32)
TWICE = np.ones((12, 4), np.float32)
UNUSUAL = {
    "list": {"x": X.tolist()},
    "subclass": {"x": X.view(Sub)},
    "masked": {"x": np.ma.array(X)},
    "half": {"x": X.astype(np.float16)},
    "integer": {"x": X.astype(np.int64)},
    "swapped": {"x": X.astype(">f4")},
    "misaligned": {"x": misaligned(X)},
    "vector": {"x": X[0]},
    "empty": {"x": X[:0]},
    "no channel": {"x": X[:, :0], "weight": None, "bias": None},
    "one value": {"x": X[:1]},
    "no such axis": {"axis": 2},
    "axis of another type": {"axis": np.int64(1)},
    "weight list": {"weight": [1.0] * 4},
    "weight of another shape": {"weight": FOUR[:3]},
    "weight two-dimensional": {"weight": FOUR[None]},
    "weight strided": {"weight": np.ones(8, np.float32)[::2]},
    "weight swapped": {"weight": FOUR.astype(">f4")},
    "weight half": {"weight": FOUR.astype(np.float16)},
    "bias integer": {"bias": FOUR.astype(int)},
    "one running statistic": {"running_mean": None},
    "running mean of another shape": {"running_mean": FOUR[:3]},
    "running mean read-only": {"running_mean": read_only(FOUR.copy())},
    "running variance of x": {"x": X, "running_var": X[0]},
    "running statistics twice": {"running_mean": FOUR, "running_var": FOUR},
    "no statistics": {"training": False, "running_mean": None, "running_var": None},
    "training number": {"training": 1},
    "eps negative": {"eps": -1.0},
    "eps infinite": {"eps": float("inf")},
    "eps nan": {"eps": float("nan")},
    "momentum None": {"momentum": None},
    "momentum too large": {"momentum": 1.5},
    "activation unknown": {"activation": "no such"},
    "activation that requires a parameter": {"activation": REQUIRES},
    "activation of another type": {"activation": np.tanh},
    "convention": {"convention": "keras"},
    "save": {"save": "output"},
    "out list": {"out": X.tolist()},
    "out of another type": {"out": np.zeros(X.shape)},
    "out of another shape": {"out": np.zeros_like(X[:5])},
    "out read-only": {"out": read_only(np.zeros_like(X))},
    "out upon itself": {"out": np.lib.stride_tricks.as_strided(FOUR.copy(), X.shape, (0, 4))},
    "out that repeats": {"out": np.broadcast_to(np.float32(0), X.shape)},
    "out that is x, read again": {"x": X, "out": X},
    "out over x": {"x": TWICE[:6], "out": TWICE[1:7], "save": None},
    "out over the weight": {"out": TWICE[:6], "weight": TWICE[5]},
    "out over a running statistic": {"out": TWICE[:6], "running_var": TWICE[0]},
    "any other option": {"unusual": X},
}  # fmt: skip


@pytest.mark.parametrize("change", UNUSUAL.values(), ids=UNUSUAL)
def test_the_unusual_goes_the_long_way(change):
    given = ordinary() | change
    before = {k: np.copy(v) for k, v in given.items() if isinstance(v, np.ndarray)}
    assert quick(**given) is None
    for name, value in before.items():
        np.testing.assert_array_equal(given[name], value)


def test_contexts_that_keep_more_go_the_long_way():
    given, dy = ordinary(), np.ones_like(X)
    _, plain = fa.batch_norm_forward(**given)
    assert _quick.backward(dy, plain, None) is not None
    residual = np.zeros_like(X)
    for option in (
        {"residual": residual},
        {"mask": np.ones(6, bool)},
        {"save_for_backward": "output"},
    ):
        _, ctx = fa.batch_norm_forward(**given, **option)
        assert _quick.backward(dy, ctx, None) is None, option
    assert _quick.backward(dy[:, :3], plain, None) is None
    assert _quick.backward(dy.astype(np.float64), plain, None) is None
    assert _quick.backward(dy.tolist(), plain, None) is None
    assert _quick.backward(dy, None, None) is None
    for out in (plain.x, dy[:, ::-1], dy.astype(np.float64), read_only(dy.copy()), dy.tolist()):
        assert _quick.backward(dy, plain, out) is None


ROOMS = {
    "C": lambda: np.full(X.shape, 7, np.float32),
    "F": lambda: np.full(X.shape, 7, np.float32, "F"),
    "every second row": lambda: np.full((2 * len(X), 4), 7, np.float32)[::2],
    "backwards": lambda: np.full((len(X), 8), 7, np.float32)[::-1, ::-2],
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("room", ROOMS.values(), ids=ROOMS)
@pytest.mark.parametrize("activation", ACTIVATIONS[:2], ids=str)
def test_results_go_where_they_are_wanted_on_the_short_way(activation, room, training):
    def given():
        return ordinary(training=training, activation=activation)

    dy = np.random.default_rng(1).standard_normal(X.shape).astype(np.float32)
    y, ctx = fa.batch_norm_forward(**given())
    dx = fa.batch_norm_backward(dy, ctx).x
    out = room()
    got, ctx = quick(**given(), out=out)
    assert got is out
    np.testing.assert_array_equal(out, y)
    into, over = room(), dy.copy()
    for gradient, where in ((dy, into), (over, over)):
        assert _quick.backward(gradient, ctx, where).x is where
        np.testing.assert_array_equal(where, dx)
    there = given()
    assert quick(**there, out=there["x"], save=None)[0] is there["x"]
    np.testing.assert_array_equal(there["x"], y)


def test_no_result_goes_where_elements_share_memory():
    shape, accepted = (2, 3, 2), 0
    given = ordinary(shape)
    for steps in product(range(-3, 8), repeat=3):
        memory = np.zeros(64, np.float32)[32:]
        out = np.lib.stride_tricks.as_strided(memory, shape, [4 * step for step in steps])
        places = {
            sum(i * step for i, step in zip(at, steps, strict=True)) for at in np.ndindex(shape)
        }
        if len(places) < out.size:
            assert quick(**given, out=out) is None, steps
        accepted += quick(**given, out=out) is not None
    assert accepted > 100


def run_layer(x, dy, **options):
    layer = fa.BatchNorm(x.shape[1], **options)
    results = []
    for _ in range(3):
        results += [layer(x), *fields(layer.backward(dy), "x weight bias")]
    results += [layer.running_mean, layer.running_var, layer.num_batches_tracked]
    return [*results, layer.eval()(x) if layer.track_running_stats else None]


@pytest.mark.parametrize("options", [
    {}, {"activation": NAMES[2]}, {"affine": False}, {"momentum": None}, {"dtype": np.float64},
    {"track_running_stats": False}, {"affine": False, "track_running_stats": False},
    {"convention": "keras"},
], ids=str)  # fmt: skip
def test_layers_give_the_same_either_way(options, monkeypatch):
    x, dy = np.random.default_rng(3).standard_normal((2, 6, 4), dtype=np.float32)
    short = run_layer(x, dy, **options)
    monkeypatch.setattr(_quick, "forward", lambda *_: None)
    monkeypatch.setattr(_quick, "backward", lambda *_: None)
    for a, b in zip(short, run_layer(x, dy, **options), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("options", [
    {}, {"affine": False}, {"track_running_stats": False},
    {"affine": False, "track_running_stats": False},
], ids=str)  # fmt: skip
def test_layers_refuse_another_number_of_channels(options):
    with pytest.raises(ValueError, match=r"^x: shape"):
        fa.BatchNorm(3, **options)(X)
