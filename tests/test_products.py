"""A product with a parameter is made in float32 where that gives float64's bits: csrc/pairs.h."""

import numpy as np
import pytest
from conftest import LEARNED, bits

import fastact as fa

STRETCH = 256
SLOPES = (0.01, 0.3, 1 / 3, 11 / 48, -0.07, 0.25, 0.75, -2.0, 1e6 / 7, 2e-9, 5e-10, 3e9, 1e-40)
SLOPES += (0.0, np.inf)
products = pytest.mark.parametrize("slope", SLOPES)


def by_float64(x, slope):
    with np.errstate(all="ignore"):
        return (x.astype(np.float64) * slope).astype(np.float32)


def numbers():
    """Any, ties, zeros; stretches with one subnormal, infinite or NaN element each; and as many
    after them as there are before one is tried again, and more."""
    rng = np.random.default_rng(0)
    any_number = -np.exp2(rng.uniform(-50, 50, 64 * STRETCH))
    ties = -3.0 * rng.integers(2**21, 2**22, 4 * STRETCH)
    rows = -rng.uniform(0.1, 3, (8, STRETCH))
    rows[0, ::3], rows[1, ::5] = 0.0, -0.0
    rows[2, 7], rows[3, 255], rows[4, 0] = -1e-44, -1e-30, -3e38
    rows[5, 100], rows[6, 16], rows[7, 3] = -np.inf, np.nan, np.inf
    after = -rng.uniform(0.1, 3, 20 * STRETCH)
    return np.concatenate([any_number, ties, rows.ravel(), after]).astype(np.float32)


@products
@pytest.mark.parametrize("name", LEARNED)
def test_products_have_float64s_bits(name, slope):
    f, x = getattr(fa, name), numbers()
    want = np.where(x > 0, x, by_float64(x, slope))
    assert (bits(f(x, slope)) == bits(want)).all()
    there = x.copy()
    f(there, slope, out=there)
    assert (bits(there) == bits(want)).all()
    assert (bits(f(x[3:-3], slope)) == bits(want[3:-3])).all()


@products
@pytest.mark.parametrize("name", LEARNED)
def test_so_have_those_of_the_gradient(name, slope):
    f, dy = getattr(fa, name), numbers()
    want = by_float64(dy, slope)
    got, _ = f.backward(dy, np.full_like(dy, -1), slope)
    assert (bits(got) == bits(want)).all()
    assert (bits(f.backward(dy, np.full_like(dy, 1), slope)[0]) == bits(dy)).all()
