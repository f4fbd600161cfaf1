"""The layer is the functions with a memory, and agrees with torch."""

import copy
import pickle

import numpy as np
import pytest
from conftest import LEARNED, assert_same_bits, each, given

import fastact as fa


def make(name=None, channels=4, **options):
    params = given(name) if name else {}
    if name in LEARNED:
        params = dict.fromkeys(params, np.full(channels, 0.3, np.float32))
    layer = fa.BatchNorm(channels, activation=name, activation_params=params, **options)
    return layer


def batch(seed, shape=(9, 4, 5)):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@each
def test_the_layer_is_the_functions(name):
    layer, x, dy = make(name), batch(0), batch(1)
    mean, var = np.zeros(4, np.float32), np.ones(4, np.float32)
    extra = {"weight": layer.weight, "bias": layer.bias, "running_mean": mean, "running_var": var}
    extra |= {"activation": name, "activation_params": layer.activation_params}
    for training in (True, True, False):
        layer.train(training)
        y, ctx = fa.batch_norm_forward(x, training=training, **extra)
        assert_same_bits(layer(x), y)
        got, want = layer.backward(dy), fa.batch_norm_backward(dy, ctx)
        for field in ("x", "weight", "bias"):
            assert_same_bits(getattr(got, field), getattr(want, field))
        assert_same_bits(layer.running_mean, mean)
        assert_same_bits(layer.running_var, var)
    assert layer.num_batches_tracked == 2
    y, ctx = layer.forward(x)
    assert_same_bits(fa.batch_norm_backward(dy, ctx).x, layer.backward(dy).x)


def test_cumulative_average_and_no_statistics():
    layer = make(momentum=None)
    batches = [batch(seed) for seed in range(3)]
    for x in batches:
        layer(x)
    means = [x.mean((0, 2), dtype=np.float64) for x in batches]
    variances = [x.astype(np.float64).var((0, 2), ddof=1) for x in batches]
    np.testing.assert_allclose(layer.running_mean, np.mean(means, 0), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(layer.running_var, np.mean(variances, 0), rtol=1e-6)
    bare = make(affine=False, track_running_stats=False)
    assert bare.state_dict() == {}
    assert_same_bits(bare.eval()(batches[0]), bare.train()(batches[0]))


@each
def test_state_pickle_and_copy(name):
    layer, x = make(name), batch(2)
    layer(x)
    layer.eval()
    state = layer.state_dict()
    other = make(name).eval()
    assert not np.array_equal(other(x), layer(x))
    other.load_state_dict(state)
    state["weight"][:] = 9  # a copy
    for twin in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert_same_bits(twin(x), layer(x))
        assert twin.num_batches_tracked == 1
        assert twin.weight is not layer.weight


def test_load_state_dict_is_strict_and_all_or_nothing():
    layer = make()
    layer(batch(3))
    good = layer.state_dict()
    good["weight"][:] = 5
    short, more, wrong = dict(good), {**good, "extra": np.ones(4)}, {**good, "bias": np.ones(3)}
    del short["running_var"]
    for bad, word in ((short, "running_var"), (more, "extra"), (wrong, "bias")):
        with pytest.raises(ValueError, match=word):
            layer.load_state_dict(bad)
        assert (layer.weight == 1).all()


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("shape", [(9, 4), (9, 4, 5), (3, 4, 5, 6)])
def test_agrees_with_torch(shape, momentum):
    torch = pytest.importorskip("torch", reason="compares with torch")
    kind = torch.nn.BatchNorm2d if len(shape) == 4 else torch.nn.BatchNorm1d
    theirs, ours = kind(4, momentum=momentum), make(momentum=momentum)
    weights = {"weight": np.float32([1, 2, -1, 0.5]), "bias": np.float32([0, 1, 2, 3])}
    ours.load_state_dict({**ours.state_dict(), **weights})
    state = {key: torch.from_numpy(np.array(v)) for key, v in ours.state_dict().items()}
    assert list(theirs.state_dict()) == list(state)
    theirs.load_state_dict(state)
    for seed, training in ((4, True), (5, True), (6, False)):
        ours.train(training)
        theirs.train(training)
        x, dy = batch(seed, shape), batch(seed + 10, shape)
        leaf = torch.from_numpy(x).requires_grad_()
        theirs.zero_grad()
        want = theirs(leaf)
        want.backward(torch.from_numpy(dy))
        np.testing.assert_allclose(ours(x), want.detach().numpy(), rtol=2e-5, atol=2e-6)
        grads = ours.backward(dy)
        np.testing.assert_allclose(grads.x, leaf.grad.numpy(), rtol=2e-4, atol=2e-5)
        for key in weights:
            want = getattr(theirs, key).grad.numpy()
            np.testing.assert_allclose(getattr(grads, key), want, rtol=2e-4, atol=2e-5)
    for key, value in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[key], value.numpy(), rtol=1e-5, atol=1e-6)
    assert ours.state_dict()["num_batches_tracked"].dtype == np.int64
