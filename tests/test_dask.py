"""BatchNorm of dask arrays: lazy, one pass of statistics a chunk, the numbers of the whole."""

import pickle

import numpy as np
import pytest
from conftest import LEARNED, NAMES, assert_same_bits, given

import fastact as fa

dask = pytest.importorskip("dask", reason="the extra interop")
da = pytest.importorskip("dask.array")

SHAPE = (12, 6, 8, 9)
CHUNKS = [(12, 6, 8, 9), (5, 6, 8, 9), (5, 2, 4, 9), (1, 1, 8, 9), (12, 4, 3, 2)]
RUNNING = {"running_mean": np.linspace(-1, 1, 6), "running_var": np.linspace(0.5, 2, 6)}


def data(dtype, seed, shape=SHAPE):
    return (np.random.default_rng(seed).standard_normal(shape) * 1.5 + 0.5).astype(dtype)


def options(name, learned=(6,)):
    params = given(name) if name else None
    if name in LEARNED:
        params = dict.fromkeys(params, np.linspace(-0.5, 0.7, 6).astype(np.float32))
        params = params if learned else dict.fromkeys(params, np.float32(0.25))
    affine = {"weight": np.linspace(-1, 2, 6, dtype=np.float32), "bias": np.linspace(0, 1, 6)}
    return {**affine, "activation": name, "activation_params": params}


def eager(*arguments, **named):
    raise AssertionError("something was computed")


def results(x, dy, **named):
    """y, statistics and all gradients, by name."""
    y, ctx = fa.batch_norm_forward(x, **named)
    grads = fa.batch_norm_backward(dy, ctx)
    found = {"y": y, "mean": ctx.mean, "var": ctx.var, "dx": grads.x}
    found |= {"weight": grads.weight, "bias": grads.bias} if "weight" in named else {}
    return ctx, found | dict(grads.activation_params or {})


def check(name, dtype, chunks, training=True, learned=(6,), axis=1):
    x, dy = data(dtype, 1), data(dtype, 2)
    named = {**options(name, learned), "training": training, **({} if training else RUNNING)}
    if axis != 1:
        x, dy = np.moveaxis(x, 1, axis), np.moveaxis(dy, 1, axis)
        chunks, named["axis"] = tuple(np.moveaxis(np.empty(chunks), 1, axis).shape), axis
    ctx, want = results(x, dy, **named)
    with dask.config.set(scheduler=eager):
        lazy_ctx, lazy = results(da.from_array(x, chunks), da.from_array(dy, chunks), **named)
    assert lazy_ctx.count == ctx.count
    assert all(value.dtype == want[key].dtype for key, value in lazy.items())
    assert all(value.shape == want[key].shape for key, value in lazy.items())
    got = dict(zip(lazy, dask.compute(*lazy.values()), strict=True))
    eps = np.finfo(dtype).eps
    size = np.abs(dy).sum()
    for key, value in want.items():
        assert got[key].dtype == value.dtype
        if key in ("mean", "var"):
            ulp = np.spacing(np.abs(value).astype(dtype)).astype(float)
            assert (np.abs(got[key] - value) <= ulp).all()
        else:
            scale = size if key not in ("y", "dx") else 8
            np.testing.assert_allclose(got[key], value, rtol=8 * eps, atol=scale * eps)


@pytest.mark.parametrize("name", [None, *NAMES])
def test_every_activation(name):
    check(name, np.float32, CHUNKS[2])


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_way_to_cut(chunks, training, dtype):
    check(LEARNED[0], dtype, chunks, training)
    check(LEARNED[0], dtype, chunks, training, learned=())
    check(NAMES[4], dtype, chunks, training, axis=-1)
    check(NAMES[4], dtype, chunks, training, axis=0)


def test_the_function_alone():
    x = data(np.float32, 3)
    lazy = da.from_array(x, CHUNKS[1])
    assert_same_bits(fa.batch_norm(lazy, **RUNNING).compute(), fa.batch_norm(x, **RUNNING))
    y = fa.batch_norm(lazy, training=True)
    assert isinstance(y, da.Array)
    np.testing.assert_allclose(y.compute(), fa.batch_norm(x, training=True), atol=1e-6)


def test_the_gradient_of_a_numpy_array():
    x, dy = data(np.float32, 4), data(np.float32, 5)
    _, ctx = fa.batch_norm_forward(da.from_array(x, CHUNKS[1]))
    want = fa.batch_norm_backward(dy, fa.batch_norm_forward(x)[1]).x
    np.testing.assert_allclose(fa.batch_norm_backward(dy, ctx).x.compute(), want, atol=1e-5)


def test_one_pass_of_statistics_a_chunk_merged_by_a_tree():
    x = da.from_array(data(np.float32, 6, (40, 3)), (1, 3))
    calls = []
    from dask.callbacks import Callback

    with Callback(pretask=lambda key, dsk, state: calls.append(str(key))):
        fa.batch_norm(x, training=True).compute(scheduler="synchronous", optimize_graph=False)
    passes = [key for key in calls if "batch_norm_stats" in key]
    merges = [key for key in calls if "merge_stats" in key]
    assert len(passes) == 40
    assert 5 <= len(merges) <= 7  # 40 -> 5 -> 1


def test_chunks_of_unknown_size():
    x = data(np.float32, 7, (60, 3))
    lazy = da.from_array(x, (13, 3))
    lazy = lazy[lazy[:, 0] > 0]
    x = x[x[:, 0] > 0]
    y, ctx = fa.batch_norm_forward(lazy)
    assert np.isnan(ctx.count)
    want, want_ctx = fa.batch_norm_forward(x)
    np.testing.assert_allclose(y.compute(), want, atol=1e-6)
    dx = fa.batch_norm_backward(y, ctx).x.compute()
    np.testing.assert_allclose(dx, fa.batch_norm_backward(want, want_ctx).x, atol=1e-5)


def test_the_layer_in_evaluation():
    layer, x = fa.BatchNorm(6, activation=NAMES[4]), data(np.float32, 8)
    layer(x)
    layer.eval()
    lazy = layer(da.from_array(x, CHUNKS[1]))
    assert_same_bits(lazy.compute(), layer(x))


def test_the_layer_in_training():
    x = da.from_array(data(np.float32, 8), CHUNKS[1])
    with pytest.raises(TypeError, match="track_running_stats=False"):
        fa.BatchNorm(6)(x)
    y = fa.BatchNorm(6, track_running_stats=False)(x)
    assert_same_bits(y.compute(), fa.batch_norm(x, training=True).compute())


def test_the_graph_can_be_sent():
    x = da.from_array(data(np.float32, 9), CHUNKS[1])
    y = fa.batch_norm(x, training=True, **options(LEARNED[0]))
    assert_same_bits(pickle.loads(pickle.dumps(y)).compute(), y.compute())


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"weight": [1.0]}, ValueError, "weight: shape"),
        ({"axis": 4}, ValueError, "axis"),
        ({"activation": "no"}, ValueError, "no"),
        ({"eps": -1}, ValueError, "eps"),
        ({"out": np.ones(SHAPE)}, TypeError, "out"),
        ({"comm": 3}, TypeError, "comm"),
        ({"running_mean": np.zeros(6), "running_var": np.ones(6)}, TypeError, "running_mean"),
        ({"training": False}, ValueError, "running_mean"),
    ],
)
def test_bad_arguments_when_called(change, error, text):
    x = da.from_array(data(np.float32, 1), CHUNKS[1])
    with pytest.raises(error, match=text):
        fa.batch_norm_forward(x, **change)


def test_bad_arrays_when_called():
    x = data(np.float32, 1)
    lazy = da.from_array(x, CHUNKS[1])
    with pytest.raises(TypeError, match="x: dtype"):
        fa.batch_norm(da.from_array(x.astype(int), CHUNKS[1]), training=True)
    with pytest.raises(ValueError, match="1 value"):
        fa.batch_norm(lazy[:1, :, 0, 0], training=True)
    with pytest.raises(ValueError, match="1 dim"):
        fa.batch_norm(lazy[0, :, 0, 0], training=True)
    _, ctx = fa.batch_norm_forward(lazy)
    for dy, error, text in (
        (x[:2], ValueError, "dy: shape"),
        (x.astype(float), TypeError, "dy: dtype"),
        (lazy.astype(float), TypeError, "dy: dtype"),
    ):
        with pytest.raises(error, match=text):
            fa.batch_norm_backward(dy, ctx)
    with pytest.raises(TypeError, match="out"):
        fa.batch_norm_backward(x, ctx, out=x)


COUNTS = np.arange(12 * 8 * 9).reshape(12, 8, 9) % 5 > 0
LENGTHS = np.arange(12)[:, None, None] > 3


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(("key", "value"), [
    ("mask", COUNTS), ("mask", LENGTHS), ("sample_weight", COUNTS * 0.5), ("sample_weight", 2.0),
    ("residual", data("f4", 5)),
])  # fmt: skip
def test_what_goes_along(key, value, lazy):
    x, dy = data("f4", 1), data("f4", 2)
    name = NAMES[-1]
    ctx, want = results(x, dy, activation=name, **{key: value})
    chunks = CHUNKS[2] if key == "residual" else np.shape(value)
    along = da.from_array(value, chunks) if lazy and np.ndim(value) else value
    lazily = [da.from_array(a, CHUNKS[2]) for a in (x, dy)]
    y, lazy_ctx = fa.batch_norm_forward(lazily[0], activation=name, **{key: along})
    grads = fa.batch_norm_backward(lazily[1], lazy_ctx)
    np.testing.assert_allclose(y.compute(), want["y"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grads.x.compute(), want["dx"], rtol=1e-4, atol=1e-5)
    if key == "residual":
        expected = fa.batch_norm_backward(dy, ctx).residual
        np.testing.assert_allclose(grads.residual.compute(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("named", "error", "word"), [
    ({"mask": np.ones((12, 8, 9))}, TypeError, "mask"),
    ({"mask": np.ones((3, 8, 9), bool)}, ValueError, "mask"),
    ({"sample_weight": np.ones((12, 8, 9), bool)}, TypeError, "sample_weight"),
    ({"save_for_backward": "output"}, TypeError, "save_for_backward"),
])  # fmt: skip
def test_what_does_not_go_along(named, error, word):
    with pytest.raises(error, match=word):
        fa.batch_norm_forward(da.from_array(data("f4", 1), CHUNKS[1]), **named)


def test_channels_of_unknown_number():
    x = da.from_array(data("f4", 1), CHUNKS[1])
    with pytest.raises(ValueError, match=r"x: the number of channels"):
        fa.batch_norm_forward(x[:, np.arange(6) % 2 == da.from_array(np.arange(6), 3) % 2])
