"""Errors and branches that nothing else reaches (tools/python_coverage.py)."""

import numpy as np
import pytest
from conftest import GATED, LEARNED, PLAIN

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


# ---- the Cython modules (tools/cython_coverage.py) ---------------------------------------------

FIRST, LEARNS, GATE = (getattr(fa, names[0]) for names in (PLAIN, LEARNED, GATED))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: LEARNS(X, 10**400), "weight is too large for a float64"),
        (lambda: LEARNS.backward(DY, X, 0.2, where=True), "unexpected argument 'where'"),
        (lambda: LEARNS.backward(DY, X, 0.2, DY), "takes 3 positional arguments, got 4"),
        (lambda: LEARNS.backward(DY, X, np.ones(5, "f4")), "does not broadcast to x's shape"),
        (lambda: LEARNS.backward(DY, X, 0.2, out=[0.0]), "out must be a numpy.ndarray, got list"),
        (
            lambda: GATE.backward(DY, X, X[:1], out=(DY.copy(), DY.copy())),
            "out= needs x and gate of one shape",
        ),
        (lambda: GATE.backward(DY, X, np.ones((6, 4), "f4")), "could not be broadcast"),
        (lambda: type(FIRST)(10**4), "row: the table has rows 0 to"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_call_says_what_is_wrong(call, says):
    with pytest.raises((TypeError, ValueError), match=says):
        call()


def test_elements_that_share_memory_are_left_with_what_numpy_leaves():
    """Two axes of the same step, and one of a single element before them."""
    x = np.arange(9, dtype=np.float32).reshape(1, 3, 3)
    results = [np.zeros(16, np.float32) for _ in range(2)]
    for f, room in zip((FIRST, np.positive), results, strict=True):
        f(x, out=np.lib.stride_tricks.as_strided(room, (1, 3, 3), (4, 4, 4)))
    assert (results[0] == results[1]).all()


def test_an_activation_can_be_called_as_a_method():
    assert (type(FIRST.backward).__call__(FIRST.backward, DY, X) == DY).all()


def test_a_result_of_other_steps_over_x_is_not_x():
    room = np.random.default_rng(1).standard_normal((8, 8)).astype(np.float32)
    x, out = room[:4, :4], room.T[:4, :4]
    with pytest.raises(ValueError, match="out: overlaps x"):
        fa.batch_norm(x, training=True, out=out)


def test_the_configuration_is_printed(capsys):
    fa.show_config()
    printed = capsys.readouterr().out
    assert all(key in printed for key in fa.config())
