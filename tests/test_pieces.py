"""BatchNorm in parts: statistics that merge, passes that can be run one by one."""

import copy
import pickle
from fractions import Fraction

import numpy as np
import pytest
from conftest import LEARNED, NAMES, assert_same_bits, floats, given, python

import fastact as fa
from fastact import reference

SHAPE = (11, 5, 7, 9)
CUTS = [(), (1,), (4,), (0, 4, 4, 5, 11), tuple(range(1, 11))]


def data(dtype, seed, shape=SHAPE, offset=0.5):
    return (np.random.default_rng(seed).standard_normal(shape) * 1.5 + offset).astype(dtype)


def parts(array, cuts):
    return np.split(array, cuts)


def options(name, dtype):
    params = given(name)
    if name in LEARNED:
        params = dict.fromkeys(params, np.linspace(-0.5, 0.7, 5).astype(dtype))
    affine = {"weight": np.linspace(-1, 2, 5).astype(dtype), "bias": np.linspace(0, 1, 5)}
    return {**affine, "activation": name, "activation_params": params}


# ---- statistics ------------------------------------------------------------------------------


@floats
@pytest.mark.parametrize("offset", [0.0, 0.5, 1e3, 1e6, -1e6])
@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_merged_statistics_are_those_of_the_whole(dtype, offset, cuts):
    x = data(dtype, 1, offset=offset)
    mean, var = reference.exact_stats(x)
    got = fa.merge_stats(*[fa.batch_norm_stats(part) for part in parts(x, cuts)])
    assert got.count == x.size // 5
    ulp = np.spacing(np.abs(mean).astype(dtype)).astype(float)
    assert (np.abs(got.mean - mean) <= ulp).all()
    # of float32 data too the rounding errors are those of float64
    bound = np.maximum(np.spacing(np.abs(mean)), 2.0**-52 * np.sqrt(var))
    assert (np.abs(got.mean - mean) <= bound).all()
    assert (np.abs(got.var - var) <= (16 if dtype is np.float32 else 1) * np.spacing(var)).all()
    assert (np.abs(got.m2 - got.count * var) <= 20 * np.spacing(got.m2)).all()


@floats
def test_a_mean_that_all_but_cancels(dtype):
    """2^-20 of the deviation: still within 1 ULP."""
    rng = np.random.default_rng(3)
    half = rng.standard_normal((500, 3)) * [1.0, 1e3, 1e-3]
    tilt = 2.0**-20 * half.std(0)
    x = np.concatenate([half + tilt, -half + tilt]).astype(dtype)
    mean, _ = reference.exact_stats(x)
    for cuts in ((), (1,), (500,), (300, 301, 999)):
        got = fa.merge_stats(*[fa.batch_norm_stats(part) for part in parts(x, cuts)]).mean
        assert (np.abs(got - mean) <= np.spacing(np.abs(mean).astype(dtype))).all()


def test_merging_is_exact_where_float64_is_not():
    """Sums that one float64 could not hold: means far apart, counts of many magnitudes."""
    given = [(3, 1e9, 2.0), (1, -1e9 + 2.0**-20, 0.0), (10**9, 1.0 / 3.0, 1e-3), (7, 1e-8, 5.0)]
    parts = [fa.BatchStats(n, [mean], [m2]) for n, mean, m2 in given]
    exact = [(n, Fraction(mean), Fraction(m2)) for n, mean, m2 in given]
    count = sum(n for n, *_ in exact)
    mean = sum(n * m for n, m, _ in exact) / count
    m2 = sum(s + n * (m - mean) ** 2 for n, m, s in exact)
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0]):
        got = fa.merge_stats(*[parts[k] for k in order])
        assert got.count == count
        assert got.mean[0] == float(mean)
        assert got.m2[0] == float(m2)
        nested = fa.merge_stats(fa.merge_stats(*[parts[k] for k in order[:2]]),
                                fa.merge_stats(*[parts[k] for k in order[2:]]))  # fmt: skip
        assert nested.mean[0] == float(mean)
        assert nested.m2[0] == float(m2)


def test_parts_without_values():
    nothing = fa.batch_norm_stats(np.ones((0, 3)))
    assert nothing.count == 0
    assert np.isnan(nothing.var).all()
    one = fa.batch_norm_stats(np.array([[1.0, 2.0, 3.0]]))
    for merged in (fa.merge_stats(nothing, one), fa.merge_stats(one, nothing, nothing)):
        assert merged.count == 1
        assert_same_bits(merged.mean, one.mean)
        assert_same_bits(merged.m2, np.zeros(3))
    assert fa.merge_stats(nothing, nothing).count == 0


def test_a_nan_stays_in_its_channel():
    x = data(np.float32, 1, (40, 5))
    bad = x.copy()
    bad[17, 2], bad[30, 4] = np.nan, np.inf
    want, got = (
        fa.merge_stats(*[fa.batch_norm_stats(part) for part in parts(a, (20,))]) for a in (x, bad)
    )
    for c in range(5):
        if c in (2, 4):
            assert np.isnan(got.var[c])
        else:
            assert_same_bits(got.mean[c], want.mean[c])
            assert_same_bits(got.m2[c], want.m2[c])


def test_statistics_are_immutable_and_travel():
    stats = fa.merge_stats(*[fa.batch_norm_stats(p) for p in parts(data(np.float64, 2), (3,))])
    with pytest.raises(AttributeError):
        stats.count = 3
    with pytest.raises(ValueError, match="read-only"):
        stats.mean[0] = 1
    for twin in (pickle.loads(pickle.dumps(stats)), copy.deepcopy(stats)):
        for a, b in zip((twin, stats), (stats, twin), strict=True):
            again = fa.merge_stats(a, b)
            assert_same_bits(again.m2, fa.merge_stats(stats, stats).m2)
    assert repr(fa.BatchStats(1, [0.0], [0.0])) == (
        "BatchStats(count=1, mean=array([0.]), m2=array([0.]))"
    )


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((-1, [0.0], [0.0]), ValueError, "count"),
        ((1, [0.0], [-1.0]), ValueError, "m2: negative"),
        ((1, [0.0], [0.0, 1.0]), ValueError, "m2: shape"),
        ((1, [[0.0]], [0.0]), ValueError, "mean: shape"),
        ((1, ["a"], [0.0]), TypeError, "mean: dtype"),
        (("1", [0.0], [0.0]), TypeError, "count"),
    ],
)
def test_bad_statistics(arguments, error, text):
    with pytest.raises(error, match=text):
        fa.BatchStats(*arguments)


def test_what_cannot_be_merged():
    three, four = (fa.batch_norm_stats(np.ones((2, c))) for c in (3, 4))
    with pytest.raises(ValueError, match=r"stats.*\[3, 4\]"):
        fa.merge_stats(three, four)
    with pytest.raises(TypeError, match=r"stats.*tuple"):
        fa.merge_stats(three, (1, 2, 3))
    with pytest.raises(TypeError, match=r"stats.*at least one"):
        fa.merge_stats()


# ---- the passes ------------------------------------------------------------------------------


@floats
@pytest.mark.parametrize("name", [None, *NAMES])
def test_the_passes_together_are_the_call(name, dtype):
    x, dy = data(dtype, 3), data(dtype, 4)
    fusion = options(name, dtype) if name else {}
    y, ctx = fa.batch_norm_forward(x, **fusion)
    want = fa.batch_norm_backward(dy, ctx)
    stats = fa.batch_norm_stats(x)
    assert_same_bits(fa.batch_norm_apply(x, stats, **fusion), y)
    sums = fa.batch_norm_backward_reduce(dy, x, stats, **fusion)
    got = fa.batch_norm_backward_apply(dy, x, stats, sums, **fusion)
    for field in ("x", "weight", "bias"):
        a, b = getattr(got, field), getattr(want, field)
        assert (a is None) == (b is None)
        if a is not None:
            assert_same_bits(a, b)
    assert (got.activation_params is None) == (want.activation_params is None)
    for key, value in (want.activation_params or {}).items():
        assert_same_bits(got.activation_params[key], value)


def learned_options(dtype):
    return options(LEARNED[0], dtype)


@floats
@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_parts_together_are_the_whole(dtype, axis, cuts):
    x, dy = data(dtype, 5), data(dtype, 6)
    if axis == -1:
        x, dy = (np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, dy))
    fusion = {**learned_options(dtype), "axis": axis}
    y, ctx = fa.batch_norm_forward(x, **fusion)
    want = fa.batch_norm_backward(dy, ctx)
    xs, dys = parts(x, cuts), parts(dy, cuts)
    stats = fa.merge_stats(*[fa.batch_norm_stats(part, axis) for part in xs])
    got = np.concatenate([fa.batch_norm_apply(part, stats, **fusion) for part in xs])
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(got, y, rtol=2 * eps, atol=4 * eps)
    pairs = list(zip(dys, xs, strict=True))
    sums = sum(fa.batch_norm_backward_reduce(b, a, stats, **fusion) for b, a in pairs)
    grads = [fa.batch_norm_backward_apply(b, a, stats, sums, **fusion) for b, a in pairs]
    dx = np.concatenate([g.x for g in grads])
    np.testing.assert_allclose(dx, want.x, rtol=8 * eps, atol=16 * eps)
    size = np.abs(dy).sum()
    for g in grads:
        for field in ("weight", "bias"):
            np.testing.assert_allclose(
                getattr(g, field), getattr(want, field), rtol=4 * eps, atol=eps * size
            )
        for key, value in want.activation_params.items():
            np.testing.assert_allclose(
                g.activation_params[key], value, rtol=4 * eps, atol=eps * size
            )


def test_the_gradient_of_parts_by_finite_differences():
    """Of all of x, through the statistics of both parts."""
    x, dy = data(np.float64, 7, (6, 3)), data(np.float64, 8, (6, 3))
    fusion = {"weight": [1.0, -2.0, 0.5], "bias": [0.1, 0.2, 0.3], "activation": NAMES[-4]}

    def value(x):
        stats = fa.merge_stats(fa.batch_norm_stats(x[:2]), fa.batch_norm_stats(x[2:]))
        ys = [fa.batch_norm_apply(part, stats, **fusion) for part in (x[:2], x[2:])]
        return np.sum(dy * np.concatenate(ys))

    stats = fa.merge_stats(fa.batch_norm_stats(x[:2]), fa.batch_norm_stats(x[2:]))
    halves = [(dy[:2], x[:2]), (dy[2:], x[2:])]
    sums = sum(fa.batch_norm_backward_reduce(b, a, stats, **fusion) for b, a in halves)
    dx = [fa.batch_norm_backward_apply(b, a, stats, sums, **fusion).x for b, a in halves]
    dx = np.concatenate(dx)
    for at in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[at] = 1e-6
        slope = (value(x + step) - value(x - step)) / 2e-6
        assert abs(slope - dx[at]) < 1e-6 * (1 + abs(slope))


def test_the_result_may_take_the_place_of_what_it_is_made_of():
    x, dy = data(np.float32, 9), data(np.float32, 10)
    stats = fa.batch_norm_stats(x)
    sums = fa.batch_norm_backward_reduce(dy, x, stats)
    y, dx = fa.batch_norm_apply(x, stats), fa.batch_norm_backward_apply(dy, x, stats, sums).x
    assert fa.batch_norm_backward_apply(dy, x, stats, sums, out=dy).x is dy
    assert_same_bits(dy, dx)
    with pytest.raises(ValueError, match="out: overlaps x"):
        fa.batch_norm_backward_apply(dy, x, stats, sums, out=x)
    assert fa.batch_norm_apply(x, stats, out=x) is x
    assert_same_bits(x, y)


def test_bad_arguments_of_the_passes():
    x = np.ones((4, 3), np.float32)
    stats = fa.batch_norm_stats(x)
    sums = fa.batch_norm_backward_reduce(x, x, stats)
    cases = [
        (lambda: fa.batch_norm_stats(x[0]), ValueError, "x: 1 dim"),
        (lambda: fa.batch_norm_stats(x, axis=2), ValueError, "axis"),
        (lambda: fa.batch_norm_stats(x.astype(int)), TypeError, "x: dtype"),
        (lambda: fa.batch_norm_apply(x, (4, 0, 1)), TypeError, "stats: expected BatchStats"),
        (lambda: fa.batch_norm_apply(x[:, :2], stats), ValueError, "stats: 3 channels"),
        (lambda: fa.batch_norm_apply(x, fa.batch_norm_stats(x[:0])), ValueError, "no values"),
        (lambda: fa.batch_norm_apply(x, stats, weight=[1.0]), ValueError, "weight: shape"),
        (lambda: fa.batch_norm_apply(x, stats, activation="no"), ValueError, "no"),
        (lambda: fa.batch_norm_backward_reduce(x[:2], x, stats), ValueError, "dy: shape"),
        (lambda: fa.batch_norm_backward_apply(x, x, stats, 3), TypeError, "sums"),
        (lambda: fa.batch_norm_backward_apply(x, x, stats, sums, out=x), ValueError, "overlaps x"),
        (lambda: sums + 3, TypeError, "unsupported"),
    ]  # fmt: skip
    for call, error, text in cases:
        with pytest.raises(error, match=text):
            call()
    narrow = fa.batch_norm_stats(x[:, :2])
    with pytest.raises(ValueError, match="3 and 2 channels"):
        sums + fa.batch_norm_backward_reduce(x[:, :2], x[:, :2], narrow)


# ---- more data than memory -------------------------------------------------------------------

LARGER_THAN_MEMORY = """
import resource, sys
import numpy as np
import fastact as fa

rows, channels, chunk = {rows}, 64, 16384
x = np.memmap(sys.argv[1], np.float32, "w+", shape=(rows, channels))
rng = np.random.default_rng(0)
block = rng.standard_normal((chunk, channels), dtype=np.float32) + np.float32(1e3)
for k in range(0, rows, chunk):
    x[k:k + chunk] = block + np.float32(k / chunk)
with open("/proc/self/statm") as statm:
    used = int(statm.read().split()[5]) * resource.getpagesize()
limit = used + {spare}
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    np.array(x)
    raise SystemExit("the limit does not bite")
except MemoryError:
    pass
dy = block - np.float32(1e3)
chunks = [slice(k, k + chunk) for k in range(0, rows, chunk)]
stats = fa.merge_stats(*[fa.batch_norm_stats(x[c]) for c in chunks])
shift = np.arange(len(chunks)).astype(np.float64)
deep = block.astype(np.float64)
assert stats.count == rows
np.testing.assert_allclose(stats.mean, deep.mean(0) + shift.mean(), rtol=1e-7)
np.testing.assert_allclose(stats.var, deep.var(0) + shift.var(), rtol=1e-4)
sums = sum(fa.batch_norm_backward_reduce(dy, x[c], stats) for c in chunks)
total, size = np.zeros(channels), np.zeros(channels)
for c in chunks:
    dx = fa.batch_norm_backward_apply(dy, x[c], stats, sums).x
    total += dx.sum(0, dtype=np.float64)
    size += np.abs(dx).sum(0, dtype=np.float64)
    fa.batch_norm_apply(x[c], stats, out=np.asarray(x[c]))
assert (np.abs(total) < 1e-5 * size).all()  # a gradient through the mean sums to 0
after = fa.merge_stats(*[fa.batch_norm_stats(x[c]) for c in chunks])
np.testing.assert_allclose(after.mean, 0.0, atol=1e-5)
np.testing.assert_allclose(after.var, 1.0, rtol=1e-4)
"""


def test_a_file_larger_than_the_memory_allowed(tmp_path):
    """256 MB in a process that may have 64 MB beside what it has after its imports."""
    pytest.importorskip("resource")
    code = LARGER_THAN_MEMORY.format(rows=1 << 20, spare=64 << 20)
    code = f"import sys; sys.argv.append({str(tmp_path / 'x')!r})\n{code}"
    status, _, error = python(code, timeout=200, FASTACT_MEMORY_LIMIT="16000000")
    assert status == 0, error
