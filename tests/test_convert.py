"""Folding, conventions, and state dicts of other libraries, from real files."""

import io
import pickle
import zipfile

import numpy as np
import pytest
from conftest import ROOT, assert_same_bits, floats

import fastact as fa
from fastact._running import CONVENTIONS

DATA = ROOT / "tests" / "data" / "checkpoints"


def trained(channels, dtype=np.float32, **options):
    rng = np.random.default_rng(channels)
    layer = fa.BatchNorm(channels, dtype=dtype, **options)
    layer.weight[:] = rng.standard_normal(channels)
    layer.bias[:] = rng.standard_normal(channels)
    layer.running_mean[:] = rng.standard_normal(channels)
    layer.running_var[:] = rng.uniform(0.3, 3, channels)
    layer.num_batches_tracked = 17
    return layer.eval()


def values(shape, seed, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# ---- folding ---------------------------------------------------------------------------------


def linear(x, weight, bias):
    return x @ weight + (0 if bias is None else bias)


def convolution(x, weight, bias):
    """NHWC with (height, width, in, out), valid."""
    h, w = weight.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(x, (h, w), axis=(1, 2))
    y = np.einsum("nijchw,hwco->nijo", windows, weight)
    return y + (0 if bias is None else bias)


@floats
@pytest.mark.parametrize("bias", [False, True])
def test_folding_into_a_layer_is_the_layer_and_its_batch_norm(dtype, bias):
    bn = trained(5, dtype, axis=-1)
    before = values(5, 1, dtype) if bias else None
    tolerance = {"rtol": 1e3 * np.finfo(dtype).eps, "atol": 1e3 * np.finfo(dtype).eps}
    x, weight = values((6, 7), 2, dtype), values((7, 5), 3, dtype)
    want = bn(linear(x, weight, before))
    folded, shift = fa.fold_batch_norm(weight, before, bn, axis=-1)
    np.testing.assert_allclose(linear(x, folded, shift), want, **tolerance)
    torchs, shift = fa.fold_batch_norm(weight.T, before, bn)
    np.testing.assert_allclose(linear(x, torchs.T, shift), want, **tolerance)
    assert folded.dtype == shift.dtype == dtype
    x, weight = values((2, 6, 6, 3), 4, dtype), values((2, 3, 3, 5), 5, dtype)
    want = bn(convolution(x, weight, before))
    folded, shift = fa.fold_batch_norm(weight, before, bn, axis=-1)
    np.testing.assert_allclose(convolution(x, folded, shift), want, **tolerance)
    torchs, shift = fa.fold_batch_norm(np.transpose(weight, (3, 2, 0, 1)), before, bn)
    assert_same_bits(np.transpose(torchs, (2, 3, 1, 0)), folded)


def test_folding_takes_a_state_dict_or_a_layer_without_weight():
    bn = trained(5)
    weight = values((5, 3), 1)
    want = fa.fold_batch_norm(weight, None, bn)
    got = fa.fold_batch_norm(weight, None, bn.state_dict(), eps=bn.eps)
    for a, b in zip(got, want, strict=True):
        assert_same_bits(a, b)
    bare = fa.BatchNorm(5, affine=False)
    folded, bias = fa.fold_batch_norm(weight, None, bare)
    np.testing.assert_allclose(folded, weight / np.sqrt(1 + bare.eps), rtol=1e-6)
    assert not bias.any()


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"weight": np.ones(5, np.float32)}, ValueError, "weight: 1 dim"),
        ({"weight": np.ones((5, 3), int)}, TypeError, "weight: dtype"),
        ({"bias": np.ones(3)}, ValueError, "bias: shape"),
        ({"axis": 1}, ValueError, r"bn\.weight: shape"),
        ({"axis": 2}, ValueError, "axis"),
        ({"bn": {}}, TypeError, "eps: missing"),
        ({"bn": {}, "eps": 1e-5}, ValueError, "bn: no running_mean"),
        ({"bn": fa.BatchNorm(5, track_running_stats=False)}, ValueError, "bn: no running_mean"),
        ({"bn": 3}, ValueError, "bn: no running_mean"),
    ],
)
def test_bad_arguments_of_folding(change, error, text):
    given = {"weight": np.ones((5, 3), np.float32), "bias": None, "bn": trained(5)} | change
    with pytest.raises(error, match=text):
        fa.fold_batch_norm(given.pop("weight"), given.pop("bias"), given.pop("bn"), **given)


# ---- conventions -----------------------------------------------------------------------------


@floats
@pytest.mark.parametrize("name", CONVENTIONS)
@pytest.mark.parametrize("momentum", [None, 0.0, 0.3, 1.0])
def test_running_statistics_by_convention(name, momentum, dtype):
    x = values((50, 3), 1, dtype)
    wide = x.astype(np.float64)
    ddof = 1 if name == "torch" or name.startswith("unbiased") else 0
    share = {} if momentum is None else {"momentum": momentum}
    of_batch = name == "torch" or name.endswith("/batch")
    new = 0.1 if momentum is None else momentum if of_batch else 1 - momentum
    mean, var = np.array([1, 2, 3], dtype), np.array([4, 5, 6], dtype)
    want = [(1 - new) * mean + new * wide.mean(0), (1 - new) * var + new * wide.var(0, ddof=ddof)]
    layer = fa.BatchNorm(3, convention=name, dtype=dtype, **share)
    layer.running_mean[:], layer.running_var[:] = mean, var
    layer(x)
    fa.batch_norm(x, running_mean=mean, running_var=var, training=True, convention=name, **share)
    for got, expected in zip((mean, var), want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=4 * np.finfo(dtype).eps)
    assert_same_bits(layer.running_mean, mean)
    assert_same_bits(layer.running_var, var)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_the_average_of_all_batches_by_convention(name):
    batches = [values((9, 4), seed) for seed in range(4)]
    layer = fa.BatchNorm(4, momentum=None, convention=name)
    for x in batches:
        layer(x)
    want = np.mean([x.mean(0, dtype=np.float64) for x in batches], 0)
    np.testing.assert_allclose(layer.running_mean, want, rtol=1e-6, atol=1e-7)


def test_unknown_conventions():
    with pytest.raises(ValueError, match=r"convention: 'tf' .*torch, keras"):
        fa.batch_norm(values((5, 3), 1), training=True, convention="tf")
    with pytest.raises(TypeError, match="convention"):
        fa.BatchNorm(3, convention=None)


# ---- state dicts -----------------------------------------------------------------------------


def test_there_and_back():
    state = trained(4).state_dict()
    state["weight"] = np.abs(state["weight"])
    for naming in ("torch", "keras", "inplace_abn"):
        other = fa.convert_state_dict(state, "torch", naming)
        back = fa.convert_state_dict(other, naming, "torch")
        assert list(back) == list(state)
        for key, value in state.items():
            if key == "num_batches_tracked":
                assert back[key] == (0 if naming == "keras" else value)
            else:
                np.testing.assert_allclose(back[key], value, rtol=1e-6, atol=2e-7)
                assert back[key].dtype == value.dtype
        fa.BatchNorm(4).load_state_dict(back)


def test_whole_models_keep_what_is_no_batch_norm():
    bn = trained(4).state_dict()
    state = {"conv.weight": np.ones((4, 3)), "conv.bias": np.ones(4)}
    state |= {f"blocks.0.bn.{key}": value for key, value in bn.items()}
    state |= {"norm.weight": np.ones(4), "norm.bias": np.ones(4)}  # a LayerNorm
    keras = fa.convert_state_dict(state, "torch", "keras")
    assert set(keras) == {
        "conv.weight", "conv.bias", "norm.weight", "norm.bias", "blocks/0/bn/gamma",
        "blocks/0/bn/beta", "blocks/0/bn/moving_mean", "blocks/0/bn/moving_variance",
    }  # fmt: skip
    back = fa.convert_state_dict(keras, "keras", "torch")
    assert set(back) == set(state)


def test_layers_without_weight_or_with_half_of_it():
    bare = fa.BatchNorm(3, affine=False).state_dict()
    assert set(fa.convert_state_dict(bare, "torch", "keras")) == {"moving_mean", "moving_variance"}
    half = {"beta": np.full(3, 2.0), "moving_mean": np.zeros(3), "moving_variance": np.ones(3)}
    found = fa.convert_state_dict(half, "keras", "torch")
    assert (found["weight"] == 1).all()
    assert (found["bias"] == 2).all()


def test_what_cannot_be_converted():
    state = trained(4).state_dict()
    with pytest.raises(ValueError, match=r"state\['weight'\]: -.* cannot be InPlace-ABN's"):
        fa.convert_state_dict(state | {"weight": -(state["weight"] ** 2)}, "torch", "inplace_abn")
    with pytest.raises(ValueError, match="source: 'tf'"):
        fa.convert_state_dict(state, "tf", "torch")
    with pytest.raises(TypeError, match="state"):
        fa.convert_state_dict([], "torch", "keras")


def flat(group, prefix=""):
    """A file's arrays by their paths."""
    found = {}
    for key, value in group.items():
        path = f"{prefix}{key}"
        found |= flat(value, f"{path}/") if hasattr(value, "items") else {path: np.array(value)}
    return found


class Reader(pickle.Unpickler):
    """Of the pickle in a file of torch.save, without torch: tensors become NumPy arrays."""

    def __init__(self, archive):
        (self.name,) = [n for n in archive.namelist() if n.endswith("/data.pkl")]
        self.archive = archive
        super().__init__(io.BytesIO(archive.read(self.name)))

    def find_class(self, module, name):
        if name == "_rebuild_tensor_v2":
            return self.tensor
        kinds = {"FloatStorage": np.float32, "LongStorage": np.int64}
        return kinds[name] if name in kinds else super().find_class(module, name)

    def persistent_load(self, saved):
        _, dtype, key, _, _ = saved
        place = self.name.removesuffix("data.pkl") + f"data/{key}"
        return np.frombuffer(self.archive.read(place), dtype)

    @staticmethod
    def tensor(storage, offset, shape, strides, *_):
        size = int(np.prod(shape))
        return storage[offset : offset + size].reshape(shape)


def saved(name):
    """A library's state dict from the file that it wrote (tools/write_checkpoints.py)."""
    if name != "keras":
        with zipfile.ZipFile(DATA / f"{name}.pt") as archive:
            return Reader(archive).load()
    h5py = pytest.importorskip("h5py", reason="the extra interop")
    with h5py.File(DATA / "keras.weights.h5") as file:
        return flat(file)


@pytest.mark.parametrize("name", ["torch", "inplace_abn", "keras"])
def test_a_file_of_each_library_gives_what_the_library_computes(name):
    state = fa.convert_state_dict(saved(name), name, "torch")
    keys = fa.BatchNorm(3).state_dict()
    (prefix,) = {key.removesuffix("running_mean") for key in state if "running_mean" in key}
    layer = fa.BatchNorm(3, eps=1e-3 if name == "keras" else 1e-5).eval()
    layer.load_state_dict({key: state[prefix + key] for key in keys})
    with np.load(DATA / "evaluation.npz") as found:
        x, want = found["x"], found[name]
    np.testing.assert_allclose(layer(x), want, rtol=1e-5, atol=1e-6)
    assert layer.num_batches_tracked == (0 if name == "keras" else 4)
    if name != "keras":  # the convolution is there still
        assert state["0.weight"].shape == (3, 3, 1)


def test_the_file_of_inplace_abn_has_a_negative_weight():
    assert (saved("inplace_abn")["1.weight"] < 0).any()


def test_what_torch_writes_and_reads_now(tmp_path):
    torch = pytest.importorskip("torch", reason="reads and writes files of torch")
    layer = trained(4)
    state = {key: torch.from_numpy(np.array(v)) for key, v in layer.state_dict().items()}
    torch.save(state, tmp_path / "bn.pt")
    theirs = torch.nn.BatchNorm1d(4).eval()
    theirs.load_state_dict(torch.load(tmp_path / "bn.pt"), strict=True)
    x = values((6, 4), 1)
    np.testing.assert_allclose(layer(x), theirs(torch.from_numpy(x)).detach(), rtol=1e-5, atol=1e-6)
    linear = torch.nn.Linear(3, 4)
    folded, bias = fa.fold_batch_norm(
        linear.weight.detach().numpy(), linear.bias.detach().numpy(), theirs
    )
    x = values((6, 3), 2)
    want = theirs(linear(torch.from_numpy(x))).detach()
    np.testing.assert_allclose(x @ folded.T + bias, want, rtol=1e-5, atol=1e-6)
    back = fa.convert_state_dict(theirs.state_dict(), "torch", "torch")
    fa.BatchNorm(4).load_state_dict(back)
