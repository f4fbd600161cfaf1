"""Errors and branches that nothing else reaches (tools/python_coverage.py)."""

import numpy as np
import pytest
from conftest import PLAIN

import fastact as fa
from fastact import reference

X = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
DY = np.ones_like(X)


def reduced(x=X, **named):
    stats = fa.batch_norm_stats(x)
    return stats, fa.batch_norm_backward_reduce(np.ones_like(x), x, stats, **named)


def layer_with(**state):
    layer = fa.BatchNorm(3)
    layer.load_state_dict({**layer.state_dict(), **state})


class Sums:
    """A communicator that can do nothing else, and that no table can hold."""

    __hash__ = None

    def allreduce(self, array):
        return array


REFUSED = {
    "eps": (lambda: fa.batch_norm(X, training=True, eps=10**400), ValueError),
    "dtype": (lambda: fa.BatchNorm(3, dtype="no such"), TypeError),
    "generator": (lambda: fa.rrelu_training(X, 5), TypeError),
    "lower, upper": (
        lambda: fa.rrelu_training(X, np.random.default_rng(0), lower=1, upper=0), ValueError,
    ),
    "state": (lambda: fa.BatchNorm(3).load_state_dict([1]), TypeError),
    "num_batches_tracked": (lambda: layer_with(num_batches_tracked=-1), ValueError),
    r"state\['weight'\]": (lambda: layer_with(weight=np.ones(4)), ValueError),
    "keys are str": (
        lambda: fa.convert_state_dict({1: np.ones(3)}, source="torch", target="keras"), TypeError,
    ),
    "sums": (
        lambda: fa.batch_norm_backward_apply(
            DY, X, fa.batch_norm_stats(X), reduced(np.ones((4, 2), np.float32))[1]), ValueError,
    ),
    "comm": (lambda: fa.batch_norm_forward(X, comm=Sums()), TypeError),
    "residual": (
        lambda: reference.batch_norm_forward(X, training=True, residual=X[:2]), ValueError,
    ),
    "needs more than 1": (
        lambda: reference.batch_norm_forward(X, training=True, mask=np.arange(6) < 1), ValueError,
    ),
    "mask": (lambda: reference.batch_norm_forward(X, training=True, mask=np.ones(6)), TypeError),
    "sample_weight": (
        lambda: reference.batch_norm_forward(X, training=True, sample_weight=-np.ones(6)),
        ValueError,
    ),
}  # fmt: skip


@pytest.mark.parametrize("word", REFUSED)
def test_refused(word):
    call, error = REFUSED[word]
    with pytest.raises(error, match=word):
        call()


def test_a_layer_says_what_it_is():
    assert repr(fa.BatchNorm(3, activation=PLAIN[0])).endswith(f"activation={PLAIN[0]!r})")
    assert "reference" in dir(fa)


def test_the_gradient_of_a_residual_in_parts():
    for name in PLAIN:
        named = {"activation": name, "residual": X[::-1].copy()}
        stats, sums = reduced(**named)
        got = fa.batch_norm_backward_apply(DY, X, stats, sums, **named)
        want = fa.batch_norm_backward(DY, fa.batch_norm_forward(X, **named)[1])
        np.testing.assert_allclose(got.residual, want.residual, rtol=1e-6)
        np.testing.assert_allclose(got.x, want.x, rtol=1e-5, atol=1e-6)


def test_masked_elements_are_not_kept_for_the_backward():
    """Where y has lost x, what does not count is no loss."""
    x = np.random.default_rng(1).standard_normal((400, 3)).astype(np.float32)
    mask, weight = np.arange(400) % 7 > 0, np.full(3, 12.0)
    for name in PLAIN:
        named = {"activation": name, "mask": mask, "weight": weight}
        try:
            y, ctx = fa.batch_norm_forward(x, save_for_backward="output", **named)
        except ValueError:  # it has no inverse
            continue
        want = fa.batch_norm_backward(np.ones_like(x), fa.batch_norm_forward(x, **named)[1])
        got = fa.batch_norm_backward(np.ones_like(x), ctx)
        np.testing.assert_allclose(got.x, want.x, rtol=1e-3, atol=1e-4)
        assert not y[~mask].any()
