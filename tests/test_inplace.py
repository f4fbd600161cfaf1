"""Memory-saving training: the backward finds x again from y."""

import copy
import pickle

import numpy as np
import pytest
from conftest import LEARNED, NAMES, assert_same_bits, floats, given
from test_batch_norm import data, layouts

import fastact as fa
from fastact import _kernels

INVERTIBLE = [n for n in NAMES if _kernels.has_inverse(fa.activations[n]._row)]
STEADY = [n for n in NAMES if _kernels.has_inverse(fa.activations[n]._row) == 2]
OTHERS = [n for n in NAMES if n not in INVERTIBLE]
SHAPE = (16, 12, 9, 7)
SAVES = {"save_for_backward": "output"}


def fused(name, dtype=np.float32):
    params = given(name)
    if name in LEARNED:
        params = dict.fromkeys(params, np.linspace(0.1, 0.6, 12).astype(dtype))
    return {"activation": name, "activation_params": params}


def affine(dtype=np.float32, smallest=0.5):
    """Weights of both signs."""
    weight = np.linspace(smallest, 1.5, 12) * np.where(np.arange(12) % 2, -1, 1)
    return {"weight": weight.astype(dtype), "bias": np.linspace(-1, 1, 12).astype(dtype)}


def relative(got, want, axis=1):
    """Norm of the difference over norm, the largest of all channels."""
    rest = tuple(a for a in range(want.ndim) if a != axis % want.ndim)
    got, want = got.astype(np.float64), want.astype(np.float64)
    norm = np.sqrt((want**2).sum(axis=rest))
    return (np.sqrt(((got - want) ** 2).sum(axis=rest)) / norm).max()


def compare(x, dy, axis=1, bound=1e-4, **options):
    """Gradients from y beside those from x; gives ctx.saved."""
    y, ctx = fa.batch_norm_forward(x, axis=axis, **options)
    want = fa.batch_norm_backward(dy, ctx)
    mine = x.copy(order="K")
    out, saving = fa.batch_norm_forward(mine, axis=axis, out=mine, **SAVES, **options)
    assert out is mine
    assert_same_bits(out, y)
    got = fa.batch_norm_backward(dy, saving)
    if not np.isfinite(y).all():  # an exponential that overflows: so does its ordinary gradient
        assert_same_bits(np.isnan(got.x).astype(x.dtype), np.isnan(want.x).astype(x.dtype))
        return saving.saved
    for array in (got.x, got.weight, got.bias):
        assert np.isfinite(array).all()
    assert relative(got.x, want.x, axis) <= bound
    for name in ("weight", "bias"):
        a, b = (getattr(g, name).astype(np.float64) for g in (got, want))
        assert np.linalg.norm(a - b) <= bound * np.linalg.norm(b)
    if want.activation_params:
        for key, b in want.activation_params.items():
            assert np.linalg.norm(got.activation_params[key] - b) <= bound * np.linalg.norm(b)
    return saving.saved


@pytest.mark.parametrize("name", [None, *INVERTIBLE])
@floats
@pytest.mark.parametrize("axis", [1, -1])
def test_gradients_are_those_of_the_ordinary_mode(name, dtype, axis):
    x, dy = (np.moveaxis(data(SHAPE, dtype, k), 1, axis) for k in (1, 2))
    x, dy = np.ascontiguousarray(x), np.ascontiguousarray(dy)
    options = {"activation": None} if name is None else fused(name, dtype)
    bound = 1e-4 if dtype is np.float32 else 1e-7
    saved = compare(x, dy, axis, bound, **affine(dtype), **options)
    assert saved.what in ("output", "input")
    if name is None or name in STEADY:
        assert saved == fa.Saved("output")


@pytest.mark.parametrize("name", INVERTIBLE)
@pytest.mark.parametrize("spread", [0.5, 3.0, 10.0, 40.0])
def test_saturation(name, spread):
    """Far out, activations are flat: what y has lost is kept."""
    x, dy = data(SHAPE, np.float32, 1), data(SHAPE, np.float32, 2)
    options = affine() | fused(name)
    options["weight"] = options["weight"] * np.float32(spread)
    compare(x, dy, **options)


@pytest.mark.parametrize("name", [None, *INVERTIBLE])
def test_a_weight_that_is_small_beside_the_bias(name):
    x, dy = data(SHAPE, np.float32, 1), data(SHAPE, np.float32, 2)
    options = {"activation": None} if name is None else fused(name)
    weight = np.geomspace(1e-7, 1.0, 12).astype(np.float32)
    compare(x, dy, weight=weight, bias=np.full(12, -0.9, np.float32), **options)


def test_weight_0():
    x, dy = data(SHAPE, np.float32, 1), data(SHAPE, np.float32, 2)
    weight = np.ones(12, np.float32)
    weight[3] = 0
    want = fa.batch_norm_backward(dy, fa.batch_norm_forward(x, weight=weight)[1])
    _, ctx = fa.batch_norm_forward(x, weight=weight, **SAVES)
    assert ctx.saved.channels == (3,)
    got = fa.batch_norm_backward(dy, ctx)
    assert np.isfinite(got.x).all()
    np.testing.assert_allclose(got.weight, want.weight, rtol=1e-4, atol=1e-3)


# ---- what is kept ----------------------------------------------------------------------------


def flat(count, name, spread):
    """One channel of `count` elements, of which those far out are lost."""
    x = data((count, 1), np.float32, 3, 0.0)
    return x, {"weight": np.full(1, spread, np.float32), **fused(name)}


def test_what_is_lost_is_kept_element_by_element_or_by_channel():
    """Of activations that are flat: few elements, a channel, all."""
    found = set()
    for name in set(INVERTIBLE) - set(STEADY) - set(LEARNED):
        for spread in (0.5, 2.0, 3.0, 5.0, 10.0, 50.0):
            x, options = flat(4000, name, spread)
            two = np.concatenate([x, x, x], axis=1)
            weight = np.array([spread, 0.5, 0.5], np.float32)
            saved = fa.batch_norm_forward(two, **SAVES, **(options | {"weight": weight}))[1].saved
            assert saved.elements <= 3 * 4000 // 16
            assert saved.what == "input" or set(saved.channels) <= {0, 1, 2}
            found.add("channel" if saved.channels else "elements" if saved.elements else saved.what)
            if saved.elements and not saved.channels:
                assert saved.nbytes == saved.elements * (4 + np.dtype(np.intp).itemsize)
            if saved.channels and not saved.elements:
                assert saved.nbytes == 4000 * 4 * len(saved.channels)
            alone = fa.batch_norm_forward(x, **SAVES, **options)[1].saved
            found.add(alone.what)
    assert found == {"elements", "channel", "input", "output"}


def test_a_call_that_loses_most_channels_keeps_x():
    x, dy = data((64, 3), np.float32, 1), data((64, 3), np.float32, 2)
    weight = np.zeros(3, np.float32)
    want = fa.batch_norm_backward(dy, fa.batch_norm_forward(x, weight=weight)[1])
    _, ctx = fa.batch_norm_forward(x, weight=weight, **SAVES)
    assert ctx.saved == fa.Saved("input")
    assert ctx.x.base is x
    mine = x.copy()
    _, ctx = fa.batch_norm_forward(mine, weight=weight, out=mine, **SAVES)
    assert ctx.saved == fa.Saved("input", nbytes=x.nbytes)
    assert_same_bits(fa.batch_norm_backward(dy, ctx).weight, want.weight)


@pytest.mark.parametrize("name", STEADY)
@floats
def test_safe_calls_look_at_no_element(name, dtype, monkeypatch):
    """The bias is at most 127 weights and nothing is lost: found without a pass over x."""
    monkeypatch.setattr(_kernels, "count_lost", None)
    x, dy = data(SHAPE, dtype, 1), data(SHAPE, dtype, 2)
    own = {"weight": np.full(12, 0.01, dtype), "bias": np.full(12, 1.26, dtype)}
    bound = 1e-4 if dtype is np.float32 else 1e-7
    compare(x, dy, bound=bound, **own, **fused(name, dtype))


@floats
def test_a_large_mean_and_huge_values(dtype):
    dy = data(SHAPE, dtype, 2)
    for x in (data(SHAPE, dtype, 1) + dtype(1e6), data(SHAPE, dtype, 1) * dtype(1e30)):
        compare(x, dy, **affine(dtype), **fused(STEADY[1], dtype))


def test_a_nan_stays_in_its_channel():
    x, dy = data(SHAPE, np.float32, 1), data(SHAPE, np.float32, 2)
    for name in (None, STEADY[1], INVERTIBLE[6]):
        options = affine() | ({"activation": None} if name is None else fused(name))
        want = fa.batch_norm_backward(dy, fa.batch_norm_forward(x, **options, **SAVES)[1])
        dirty = x.copy()
        dirty[3, 4, 5, 6] = np.nan
        got = fa.batch_norm_backward(dy, fa.batch_norm_forward(dirty, **options, **SAVES)[1])
        assert np.isnan(got.x[:, 4]).all()
        rest = np.arange(12) != 4
        assert_same_bits(got.x[:, rest], want.x[:, rest])


@pytest.mark.parametrize("name", [STEADY[1], "any"])
def test_the_same_bits_for_any_threads_and_layout(name):
    name = INVERTIBLE[4] if name == "any" else name
    x, dy = data(SHAPE, np.float32, 1), data(SHAPE, np.float32, 2)
    options = affine() | fused(name)
    options["weight"] = options["weight"] * np.float32(3)
    with fa.num_threads(1):
        want = fa.batch_norm_backward(dy, fa.batch_norm_forward(x, **options, **SAVES)[1])
    for (_, a), (_, b) in zip(layouts(x), layouts(dy), strict=True):
        got = fa.batch_norm_backward(b, fa.batch_norm_forward(a, **options, **SAVES)[1])
        assert_same_bits(got.x, want.x)
        assert_same_bits(got.weight, want.weight)


def test_a_mask_too():
    x, dy = data(SHAPE, np.float32, 1), data(SHAPE, np.float32, 2)
    mask = np.random.default_rng(1).random((16, 9, 7)) < 0.6
    options = {"mask": mask, **affine(), **fused(STEADY[1])}
    want = fa.batch_norm_backward(dy, fa.batch_norm_forward(x, **options)[1])
    dirty = np.where(mask[:, None], x, np.float32(np.nan))
    y, ctx = fa.batch_norm_forward(dirty, out=dirty, **SAVES, **options)
    assert not y[:, 0][~mask].any()
    got = fa.batch_norm_backward(dy, ctx)
    assert relative(got.x, want.x) <= 1e-4
    assert not got.x[:, 0][~mask].any()


# ---- the context and the layer ---------------------------------------------------------------


def test_the_context_keeps_y_and_travels():
    x, options = flat(4000, INVERTIBLE[4], 3.0)
    y, ctx = fa.batch_norm_forward(x, **SAVES, **options)
    assert ctx.x is None
    assert ctx.y.base is y
    want = fa.batch_norm_backward(x, ctx).x
    for twin in (pickle.loads(pickle.dumps(ctx)), copy.deepcopy(ctx)):
        assert twin.saved == ctx.saved
        assert_same_bits(fa.batch_norm_backward(x, twin).x, want)


def test_the_layer_saves_memory():
    x, dy = data(SHAPE, np.float32, 1), data(SHAPE, np.float32, 2)
    ordinary = fa.BatchNorm(12, activation=STEADY[1])
    layer = fa.BatchNorm(12, activation=STEADY[1], **SAVES)
    layer.load_state_dict(ordinary.state_dict())  # a checkpoint is an ordinary one
    mine = x.copy()
    assert layer(mine, out=mine) is mine
    assert_same_bits(mine, ordinary(x))
    want, got = ordinary.backward(dy), layer.backward(dy)
    assert relative(got.x, want.x) <= 1e-4
    for twin in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert twin.save_for_backward == "output"


# ---- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OTHERS)
def test_an_activation_without_an_inverse(name):
    x, out = np.ones((4, 12), np.float32), np.full((4, 12), 7, np.float32)
    with pytest.raises(ValueError, match=f"activation: {name} has no inverse") as raised:
        fa.batch_norm_forward(x, out=out, **SAVES, **fused(name))
    assert "save_for_backward='input'" in str(raised.value)
    assert all(other in str(raised.value) for other in INVERTIBLE)
    assert (out == 7).all()


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"save_for_backward": "x"}, ValueError, "save_for_backward: 'x'"),
        ({"save_for_backward": 1}, TypeError, "save_for_backward: expected a str"),
        ({"residual": np.ones((4, 3), np.float32)}, ValueError, "residual: not with"),
        ({"x": np.ones((4, 3), np.float16)}, TypeError, "x: dtype float16 has too few digits"),
        ({"slope": 0.0}, ValueError, r"activation_params\['\w+'\]: 0.0"),
        ({"slope": -0.5}, ValueError, r"activation_params\['\w+'\]: -0.5"),
    ],
    ids=str,
)
def test_bad_input(given, error, text):
    given = {"x": np.ones((4, 3), np.float32), **SAVES, **given}
    if "slope" in given:
        name = next(n for n in STEADY if fa.activations[n].parameters and n not in LEARNED)
        slope = given.pop("slope")
        given |= {
            "activation": name,
            "activation_params": dict.fromkeys(fused(name)["activation_params"], slope),
        }
    out = np.full((4, 3), 7, given["x"].dtype)
    with pytest.raises(error, match=text):
        fa.batch_norm_forward(given.pop("x"), out=out, **given)
    assert (out == 7).all()


@pytest.mark.parametrize("name", [None, *INVERTIBLE])
@floats
@pytest.mark.parametrize("count", [5, 7, 16, 67])
@pytest.mark.parametrize("axis", [0, 1])
def test_few_elements_that_fill_no_vector(name, dtype, count, axis):
    """What stands beside them in a vector adds nothing, though an inverse of 0 may be infinite."""
    x, dy = (data((12, count), dtype, k) for k in (1, 2))
    x, dy = (np.ascontiguousarray(np.moveaxis(a, 0, axis)) for a in (x, dy))
    options = {"activation": None} if name is None else fused(name, dtype)
    compare(x, dy, axis, 1e-3 if dtype is np.float32 else 1e-6, **affine(dtype), **options)
