"""What the tests share: the activations and their parameters, bit equality, ULPs, hard inputs.

A test asks an activation for its properties (`fa.activations`, `.parameters`); none knows a name.
When FASTACT_ISA is set, a run in which another instruction set is active is stopped at once.
"""

import inspect
import os
import platform
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import fastact as fa
from fastact import reference

ROOT = Path(__file__).resolve().parents[1]
ISA = fa.config()["isa"]
NAMES = list(fa.activations)
LEARNED = [n for n, f in fa.activations.items() if f.learned]
SCALAR = [n for n, f in fa.activations.items() if f.parameters and not f.learned]
GATED = list(fa.gated)
PLAIN = [n for n, f in fa.activations.items() if not f.parameters]
FLOATS = [np.float32, np.float64]
try:
    from ml_dtypes import bfloat16
except ImportError:  # an optional extra
    bfloat16 = None
HALVES = [np.float16] + [bfloat16] * (bfloat16 is not None)

# `python tests` runs the suite once for each instruction set; what none of them changes runs once.
BEST = fa.config()["isas"][0] == ISA
once = pytest.mark.skipif(not BEST, reason="with the best instruction set")
quiet = np.errstate(all="ignore")  # for what the tests themselves compute
each = pytest.mark.parametrize("name", NAMES)


def few_again(names):
    """All with the best instruction set, some with others: what is tested is the same in all."""
    return names if BEST else names[::5]


each_once = pytest.mark.parametrize("name", few_again(NAMES))
floats = pytest.mark.parametrize("dtype", FLOATS, ids=["f32", "f64"])
halves = pytest.mark.parametrize("dtype", HALVES, ids=["f16", "bf16"][: len(HALVES)])
kinds = pytest.mark.parametrize(
    "dtype", HALVES + FLOATS, ids=[*["f16", "bf16"][: len(HALVES)], "f32", "f64"]
)
gates = pytest.mark.parametrize("name", GATED)
directions = pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])


def pytest_configure(config):
    forced = os.environ.get("FASTACT_ISA")
    if forced and forced != ISA:
        raise pytest.UsageError(f"FASTACT_ISA={forced} is set, but {ISA} is active")


def pytest_report_header(config):
    settings = fa.config()
    return (
        f"fastact: isa {settings['isa']} of {', '.join(settings['isas'])}; "
        f"threads by {settings['threading'] or 'nothing'}, {settings['threads']}; "
        f"NumPy {np.__version__}"
    )


def pytest_terminal_summary(terminalreporter):
    """FASTACT_RECORD=FOLDER: how many cases of each file passed, for tools/reliability.py; and
    whether those were among them that need FASTACT_TEST_LARGE."""
    folder = os.environ.get("FASTACT_RECORD")
    if not folder:
        return
    passed = terminalreporter.stats.get("passed", [])
    failed = terminalreporter.stats.get("failed", []) + terminalreporter.stats.get("error", [])
    files = Counter(Path(report.nodeid.split("::")[0]).name for report in passed)
    threads = terminalreporter.config.getoption("parallel_threads", None)  # pytest-run-parallel
    step = "pytest" if threads in (None, 1, "1") else "parallel"
    if step == "parallel" and not getattr(sys, "_is_gil_enabled", lambda: True)():
        step = "free_threaded"
    figures = {"isa": ISA, "passed": dict(sorted(files.items())), "failed": len(failed)}
    figures["skipped"] = len(terminalreporter.stats.get("skipped", []))
    figures["large"] = any("2_to_the_31" in report.nodeid for report in passed)
    if step != "pytest":
        figures |= {"threads": int(threads), "python": platform.python_version()}
    sys.path.insert(0, str(ROOT / "tools"))
    from reliability import record

    record(step, figures, Path(folder))


# ---- activations -----------------------------------------------------------------------------


def defaults(name):
    """The default of each parameter, 0.25 for one that is required."""
    return tuple(0.25 if p is None else p for p in fa.activations[name].parameters.values())


def given(name):
    """The same as keyword arguments."""
    return dict(zip(fa.activations[name].parameters, defaults(name), strict=True))


def settings(name):
    """Tuples of parameters to try: the defaults and some odd ones."""
    count = len(defaults(name))
    return [defaults(name)] + [(value,) * count for value in (0.03, 3.7, -0.5) if count]


def call(name, backward, dy, x, params, **kwargs):
    """f(x) or its gradient in x; dy is used by the latter only."""
    function = fa.activations[name]
    if not backward:
        return function(x, *params, **kwargs)
    result = function.backward(dy, x, *params, **kwargs)
    return result[0] if isinstance(result, tuple) else result


def call_ufunc(name, backward, dy, x, params, **kwargs):
    """The same through the ufunc."""
    function = fa.activations[name]
    if not backward:
        return function.ufunc(x, *params, **kwargs)
    result = function.backward.ufunc(dy, x, *params, **kwargs)
    return result[0] if isinstance(result, tuple) else result


def expected(name, backward, dy, x, params):
    """The same in float64, from fastact.reference."""
    value, gradient = reference.activations[name]
    result = gradient(dy, x, *params) if backward else value(x, *params)
    return result[0] if isinstance(result, tuple) else result


def slope_zeros(name, params):
    """Where the derivative passes through zero, by bisection of the reference."""
    x = np.linspace(-8.0, 8.0, 641) + 1e-3
    sign = np.sign(expected(name, True, np.ones_like(x), x, params))
    zeros = []
    for k in np.flatnonzero(sign[:-1] * sign[1:] < 0):
        low, high, left = x[k], x[k + 1], sign[k]
        for _ in range(60):
            middle = 0.5 * (low + high)
            if np.sign(expected(name, True, 1.0, middle, params)) == left:
                low = middle
            else:
                high = middle
        if high - low < 1e-12 and abs(expected(name, True, 1.0, low, params)) < 1e-6:
            zeros.append(low)  # a zero, not a jump
    return zeros


def finfo(dtype):
    if dtype in HALVES[1:]:
        from ml_dtypes import finfo as of_ml_dtypes

        return of_ml_dtypes(dtype)
    return np.finfo(dtype)


# ---- numbers ---------------------------------------------------------------------------------


@quiet
def bits(array):
    """The bit pattern of an array of floats, with one pattern for every NaN."""
    array = np.asarray(array)
    assert array.dtype in FLOATS + HALVES, array.dtype
    array = np.where(np.isnan(array), array.dtype.type("nan"), array)
    return np.ascontiguousarray(array).view(f"u{array.itemsize}")


def assert_same_bits(got, want, message=""):
    got, want = np.asarray(got), np.asarray(want)
    assert got.dtype == want.dtype, message
    assert got.shape == want.shape, message
    differ = bits(got) != bits(want)
    if differ.any():
        at = tuple(int(k[0]) for k in np.nonzero(np.atleast_1d(differ)))
        pair = np.atleast_1d(got)[at], np.atleast_1d(want)[at]
        raise AssertionError(f"{message} {differ.sum()} differ, first {at}: got, want = {pair}")


def ulp(exact, dtype):
    """The spacing of dtype at float64 values, at least its smallest subnormal."""
    info = np.finfo(dtype)
    exponent = np.frexp(np.asarray(exact, dtype=np.float64))[1]
    lowest = info.minexp - info.nmant
    return np.ldexp(1.0, np.clip(exponent - info.nmant - 1, lowest, info.maxexp - info.nmant - 1))


@quiet
def error_in_ulp(got, exact):
    """|got - exact| in ULPs of float32; NaN where one of the two is NaN and the other is not.

    Infinity counts as 2^128, the next number after the largest one.
    """
    beyond = 2.0**128
    got64 = np.clip(got.astype(np.float64), -beyond, beyond)
    want = np.clip(exact, -beyond, beyond)
    error = np.abs(got64 - want) / ulp(np.clip(want, -3e38, 3e38), np.float32)
    return np.where(np.isnan(got) & np.isnan(exact), 0.0, error)


def hard_values(dtype):
    """Specials, subnormals, kinks, tails, and the largest numbers, each with both signs."""
    info = finfo(dtype)
    values = [0.0, info.smallest_subnormal, 3 * info.smallest_subnormal, 0.5 * float(info.tiny)]
    values += [info.tiny, 1e-30, 1e-20, 1e-10, 1e-8, 1e-5, 0.01, 0.5, 1.0, 3.0, 6.0, info.max]
    values += [5.5, 8.3, 10.0, 12.9, 13.1, 13.4, 14.1, 16.6, 17.3, 20.0, 37.6, 38.5, 40.0, 80.0]
    values += [87.3, 88.7, 89.0, 103.2, 104.0, 320.0, 350.0, 708.4, 709.8, 745.2, 746.0, 1500.0]
    values += [1e10, 1e20, 1e30, 0.5 * float(info.max), np.inf, np.nan]
    with np.errstate(all="ignore"):
        values = np.array(values, dtype=dtype)
        near = [np.nextafter(values, dtype(0)), np.nextafter(values, dtype(np.inf))]
    values = np.concatenate([values, *near])
    return np.concatenate([values, -values])


def mixed(count, dtype, seed=0):
    """Random values over many magnitudes, with the hard ones among them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(count) * np.exp2(rng.integers(-12, 6, count))
    x = x.astype(dtype)
    hard = hard_values(dtype)[: max(count // 4, 1)]
    x[rng.permutation(count)[: len(hard)]] = hard[:count]
    return x


# ---- processes -------------------------------------------------------------------------------


def python(code, timeout=60, **environment):
    """Run code in a fresh interpreter; (exit status, stdout, stderr). None unsets a variable."""
    env = {**os.environ, "PYTHONPATH": str(Path(inspect.getfile(fa)).parents[1]), **environment}
    env = {key: value for key, value in env.items() if value is not None}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=timeout, check=False
    )
    return done.returncode, done.stdout.strip(), done.stderr.strip()
