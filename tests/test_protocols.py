"""Arrays of other libraries take part in a call as they do in NumPy's own ufuncs.

Each library is the real one; a library that is not installed skips its tests. What a result must
be is computed from plain arrays: the same bits, in the library's own array, with its labels, mask
or unit.
"""

import numpy as np
import pytest
from conftest import GATED, LEARNED, NAMES, assert_same_bits, bfloat16, defaults, python, quiet

import fastact as fa
from fastact import reference

SHAPE = (6, 4)
PAIRS = [*LEARNED, *GATED]  # a backward gives two gradients
functions = pytest.mark.parametrize("name", [*NAMES, *GATED])
pairs = pytest.mark.parametrize("name", PAIRS)


def function_of(name):
    return fa.gated[name] if name in GATED else fa.activations[name]


def data(dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return (2 * rng.standard_normal(SHAPE)).astype(dtype)


def second(name):
    """What stands behind x: a gate, or the parameters as numbers."""
    return (data(seed=2),) if name in GATED else defaults(name)


def calls(name, x, dy, rest):
    """Forward and gradients as one flat tuple."""
    function = function_of(name)
    gradients = function.backward(dy, x, *rest)
    return function(x, *rest), *(gradients if isinstance(gradients, tuple) else (gradients,))


def close(got, want):
    """A sum may be added in another order."""
    np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=3e-7, atol=1e-6)


def check(name, wrap, kind, unwrap=np.asarray):
    """A function's results on wrapped arrays are wrapped, and have the bits of plain ones."""
    x, dy, rest = data(), data(seed=1), second(name)
    wrapped = [wrap(value) if np.ndim(value) else value for value in rest]
    results = calls(name, wrap(x), wrap(dy), wrapped)
    for got, want in zip(results, calls(name, x, dy, rest), strict=True):
        if np.shape(want):
            assert isinstance(got, kind)
            assert_same_bits(unwrap(got), want)
        else:  # a learned parameter's gradient, where that is a number
            close(unwrap(got), want)
    return results


# ---- dask ----------------------------------------------------------------------------------------


@functions
def test_dask_stays_lazy(name):
    da = pytest.importorskip("dask.array")
    results = check(name, lambda a: da.from_array(a, chunks=(2, 3)), da.Array)
    assert all(isinstance(result, da.Array) for result in results)
    assert results[1].chunks == ((2, 2, 2), (3, 1))


@pairs
@pytest.mark.parametrize("shape", [(4,), (6, 1), (1, 4), (1,), ()])
def test_dask_sums_a_gradient_to_what_was_broadcast(name, shape):
    da = pytest.importorskip("dask.array")
    x, dy = data(), data(seed=1)
    other = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    lazy = [da.from_array(a, chunks=2) for a in (dy, x, other)]
    for got, want in zip(function_of(name).backward(*lazy),
                         function_of(name).backward(dy, x, other), strict=True):  # fmt: skip
        assert isinstance(got, da.Array)
        assert got.shape == np.shape(want)
        assert got.dtype == want.dtype
        close(got, want)
    with pytest.raises(ValueError, match=f"{name}_backward.*dy has shape"):
        function_of(name).backward(lazy[0][:1], *lazy[1:])


# ---- xarray --------------------------------------------------------------------------------------

ROWS, COLUMNS = list("uvwxyz"), [10, 20, 30, 40]


def labelled(xr, array, **kwargs):
    return xr.DataArray(array, dims=("row", "column"), **kwargs,
                        coords={"row": ROWS, "column": COLUMNS})  # fmt: skip


@functions
@pytest.mark.parametrize("lazy", [False, True])
def test_xarray_keeps_coordinates(name, lazy):
    xr, da = pytest.importorskip("xarray"), pytest.importorskip("dask.array")
    store = (lambda a: da.from_array(a, chunks=2)) if lazy else (lambda a: a)
    with xr.set_options(keep_attrs=True):
        results = check(name, lambda a: labelled(xr, store(a), attrs={"of": "rain"}), xr.DataArray)
    for result in results:
        if isinstance(result, xr.DataArray) and result.ndim:
            assert list(result.coords["row"].values) == ROWS
            assert list(result.coords["column"].values) == COLUMNS
            assert result.attrs == {"of": "rain"}
            assert isinstance(result.data, da.Array) == lazy
    dataset = xr.Dataset({"rain": labelled(xr, data()), "snow": labelled(xr, data(seed=5))})
    rest = defaults(name) if name in NAMES else (dataset,)
    got = calls(name, dataset, dataset, rest)
    assert all(set(result.data_vars) == {"rain", "snow"} for result in got)
    want = calls(name, data(), data(), defaults(name) if name in NAMES else (data(),))
    for mine, plain in zip(got, want, strict=True):
        close(mine["rain"], plain)


@pairs
def test_xarray_sums_over_the_names_that_were_broadcast(name):
    xr = pytest.importorskip("xarray")
    x, dy = labelled(xr, data()), labelled(xr, data(seed=1))
    for dim in ("row", "column"):
        other = labelled(xr, data(seed=2)).isel({dim: 1}, drop=True)
        dx, dother = function_of(name).backward(dy, x, other)
        repeated = other.values.reshape((-1, 1) if dim == "column" else (1, -1))
        want = function_of(name).backward(dy.values, x.values, repeated)
        assert dother.dims == other.dims
        assert dother.coords.keys() == other.coords.keys()
        close(dx, want[0])
        close(dother, want[1].ravel())
    for shape in ((), (4,), (1,), (6, 1)):
        other = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
        got = function_of(name).backward(dy, x, other)
        for mine, plain in zip(
            got, function_of(name).backward(dy.values, x.values, other), strict=True
        ):
            assert mine.shape == np.shape(plain)
            close(mine, plain)
    nan = x.where(x != x[0, 0])  # xarray's own sums would skip it
    assert np.isnan(function_of(name).backward(dy, nan, np.float32(0.5))[1])


# ---- pandas --------------------------------------------------------------------------------------


@functions
def test_pandas_keeps_labels(name):
    pd = pytest.importorskip("pandas")

    def frame(array):
        return pd.DataFrame(array, index=ROWS, columns=COLUMNS)

    for result in check(name, frame, pd.DataFrame):
        if isinstance(result, pd.DataFrame):
            assert list(result.index) == ROWS
            assert list(result.columns) == COLUMNS
            assert set(result.dtypes) == {np.dtype(np.float32)}
    series = pd.Series(data()[0], index=list("abcd"), name="rain")
    rest = (series,) if name in GATED else defaults(name)
    want = calls(name, data()[0], data()[0], (data()[0],) if name in GATED else rest)
    for got, plain in zip(calls(name, series, series, rest), want, strict=True):
        if np.shape(plain):
            assert isinstance(got, pd.Series)
            assert list(got.index) == list("abcd")
            assert got.name == "rain"
        close(got, plain)


@functions
def test_pandas_keeps_each_columns_dtype_and_its_missing_values(name):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({
        "single": data()[:, 0],
        "double": data(np.float64)[:, 1],
        "nullable": pd.array([1.0, None, -2.0, 3.0, None, 0.5], dtype="Float32"),
    })  # fmt: skip
    rest = (frame,) if name in GATED else defaults(name)
    for result in calls(name, frame, frame, rest):
        if isinstance(result, pd.DataFrame):
            assert (result.dtypes == frame.dtypes).all()
            assert list(result["nullable"].isna()) == list(frame["nullable"].isna())
    for result, plain in zip(
        calls(name, frame, frame, rest),
        calls(name, *[frame["single"].to_numpy()] * 2,
              [r["single"].to_numpy() if r is frame else r for r in rest]),
        strict=True,
    ):  # fmt: skip
        if isinstance(result, pd.DataFrame):
            assert_same_bits(result["single"].to_numpy(), plain)


@pairs
def test_pandas_sums_a_gradient_a_column(name):
    pd = pytest.importorskip("pandas")
    x, dy = (pd.DataFrame(data(seed=s), columns=list("abcd")) for s in (0, 1))
    other = np.float32([0.1, 0.2, 0.3, 0.4])
    got = function_of(name).backward(dy, x, other)
    want = function_of(name).backward(dy.to_numpy(), x.to_numpy(), other)
    assert list(got[1].index) == list("abcd")
    close(got[0], want[0])
    close(got[1], want[1])
    for shape in ((1,), (1, 1)):
        part = function_of(name).backward(dy, x, np.full(shape, 0.5, np.float32))[1]
        assert part.shape == shape
    with pytest.raises(ValueError, match="no place in pandas"):
        function_of(name).backward(dy, x, np.ones((6, 1), np.float32))


# ---- masked arrays, subclasses -------------------------------------------------------------------


@functions
def test_a_mask_stays(name):
    mask = data() > 1.0
    other = data(seed=2) < -1.5
    rest = (np.ma.masked_array(data(seed=2), other),) if name in GATED else defaults(name)
    both = mask | other if name in GATED else mask
    plain = calls(name, data(), data(seed=1), second(name))
    results = calls(name, np.ma.masked_array(data(), mask), data(seed=1), rest)
    for got, want in zip(results, plain, strict=True):
        if np.shape(want):
            assert isinstance(got, np.ma.MaskedArray)
            np.testing.assert_array_equal(got.mask, both)
            assert_same_bits(got.data[~both], want[~both])
        else:  # what is masked is not part of a sum
            close(got, calls(name, data()[~mask], data(seed=1)[~mask], rest)[2])


@functions
def test_an_ordinary_out_has_no_mask(name):
    """As NumPy has it."""
    x, out = np.ma.masked_array(data(), data() > 1), np.empty(SHAPE, np.float32)
    assert np.tanh(x, out=out) is out
    assert function_of(name)(x, *second(name), out=out) is out
    assert_same_bits(out, function_of(name)(data(), *second(name)))
    if name not in PAIRS:
        assert function_of(name).backward(data(seed=1), x, *second(name), out=out) is out


class Annotated(np.ndarray):
    """A subclass that carries something along."""

    def __array_finalize__(self, other):
        self.note = getattr(other, "note", None)


@functions
def test_a_subclass_comes_back_with_what_it_carries(name):
    def annotated(array):
        result = array.view(Annotated)
        result.note = "calibrated"
        return result

    for result in check(name, annotated, Annotated, lambda a: a.view(np.ndarray)):
        if np.ndim(result):
            assert result.note == "calibrated"


class Logged:
    """Any class that defines `__array_ufunc__`: it computes on what it holds, and takes notes."""

    def __init__(self, array):
        self.array = np.asarray(array)
        self.shape, self.ndim, self.dtype = self.array.shape, self.array.ndim, self.array.dtype

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        plain = [value.array if isinstance(value, Logged) else value for value in inputs]
        result = getattr(ufunc, method)(*plain, **kwargs)
        return Logged(result)

    def __array_function__(self, function, types, args, kwargs):
        args = [value.array if isinstance(value, Logged) else value for value in args]
        return Logged(function(*args, **kwargs))

    def astype(self, dtype):
        return Logged(self.array.astype(dtype))


class Wrapped:
    """It comes back from a ufunc by `__array_wrap__`, and has no sum of NumPy's form."""

    def __init__(self, array):
        self.array = np.asarray(array)
        self.shape, self.ndim = self.array.shape, self.array.ndim

    def __array__(self, dtype=None, copy=None):
        return self.array

    def __array_wrap__(self, array, context=None, return_scalar=False):
        return Wrapped(array)


@functions
def test_any_class_with_array_wrap(name):
    check(name, Wrapped, Wrapped)
    if name in PAIRS:
        arrays = data(seed=1), data(), data(seed=2)[0]
        got = function_of(name).backward(*map(Wrapped, arrays))[1]
        assert isinstance(got, Wrapped)
        close(got.array, function_of(name).backward(*arrays)[1])


@pairs
@pytest.mark.parametrize("shape", [(4,), (6, 1), (1, 4), (1,), ()])
@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # torch's has an old form
def test_a_tensor_is_summed_to_what_was_broadcast(name, shape):
    torch = pytest.importorskip("torch")
    other = np.full(shape, 0.25, np.float32)
    tensors = [torch.from_numpy(array) for array in (data(seed=1), data(), other)]
    results = function_of(name).backward(*tensors)
    for got, want in zip(results, function_of(name).backward(data(seed=1), data(), other),
                         strict=True):  # fmt: skip
        assert isinstance(got, torch.Tensor)
        assert tuple(got.shape) == np.shape(want)
        assert got.numpy().dtype == want.dtype
        close(got, want)


class Shapeless:
    """It answers, but does not say of what shape."""

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        return Shapeless()


@functions
def test_any_class_with_array_ufunc(name):
    check(name, Logged, Logged, lambda a: a.array)
    if name in PAIRS:
        with pytest.raises(TypeError, match="Shapeless has no shape"):
            function_of(name).backward(Shapeless(), Shapeless(), 0.5)


def test_a_class_that_opts_out_is_refused():
    class Closed:
        __array_ufunc__ = None

    for name in (*NAMES, *GATED):
        rest = second(name)
        with pytest.raises(TypeError, match="does not support ufuncs"):
            function_of(name)(Closed(), *rest)
        with pytest.raises(TypeError, match="does not support ufuncs"):
            function_of(name).backward(data(), Closed(), *rest)


@pairs
def test_out_of_another_class(name):
    x, dy = (np.ma.masked_array(data(seed=s), data() > 1) for s in (0, 1))
    outs = np.ma.masked_array(np.zeros_like(data())), np.ma.masked_array(np.zeros_like(data()))
    out = outs if name in GATED else outs[0]
    got = function_of(name).backward(dy, x, *second(name), out=out)
    want = function_of(name).backward(dy, x, *second(name))
    assert got[0] is outs[0]
    assert_same_bits(outs[0].data, want[0].data)


@pairs
@pytest.mark.parametrize("count", [0, 1, 15, 2047, 2048, 2049, 5000])
def test_the_ufunc_of_each_gradient_gives_the_bits_of_both(name, count):
    function = function_of(name).backward
    rng = np.random.default_rng(count)
    for dtype in (np.float16, bfloat16, np.float32, np.float64):
        if dtype is None:
            continue
        dy, x, other = (rng.standard_normal(2 * count).astype(dtype)[::2] for _ in range(3))
        for got, want in zip((f(dy, x, other) for f in function._parts),
                             function.ufunc(dy, x, other), strict=True):  # fmt: skip
            assert_same_bits(got, want)


# ---- units ---------------------------------------------------------------------------------------


@functions
@quiet
def test_astropy_units(name):
    units = pytest.importorskip("astropy.units")
    check_units(name, lambda a, unit: units.Quantity(a, unit), units.UnitsError)


@functions
@quiet
def test_pint_units(name):
    pint = pytest.importorskip("pint")
    registry = pint.UnitRegistry()
    check_units(name, lambda a, unit: registry.Quantity(a, unit), pint.DimensionalityError)


def check_units(name, quantity, error):
    """Numbers without a unit, a gradient in dy's own, and no other."""
    function, x, dy = function_of(name), data(), data(seed=1)
    rest = second(name)

    def number(result, unit):
        converted = result.to(unit)  # raises where the dimension is another
        return converted.magnitude if hasattr(converted, "magnitude") else converted.value

    plain = calls(name, x, dy, rest)
    got = calls(name, quantity(x, ""), quantity(dy, "J"), rest)
    for result, want, unit in zip(got, plain, ("", "J", "J")[: len(got)], strict=True):
        close(number(result, unit), want)
    wide = x.astype(np.float64)
    close(number(function(quantity(100 * wide, "percent"), *rest), ""), function(wide, *rest))
    close(number(calls(name, quantity(x, ""), dy, rest)[1], ""), plain[1])
    for unit in ("m", "kg"):
        with pytest.raises(error):
            function(quantity(x, unit), *rest)
        with pytest.raises(error):
            function.backward(dy, quantity(x, unit), *rest)


# ---- what is no ufunc ----------------------------------------------------------------------------


def test_random_slopes_keep_labels_and_mask():
    xr, pd = pytest.importorskip("xarray"), pytest.importorskip("pandas")
    want, slope = fa.rrelu_training(data(), np.random.default_rng(0))
    for wrapped in (
        labelled(xr, data()), pd.DataFrame(data()), np.ma.masked_array(data(), data() > 1),
        pd.DataFrame(data()).astype("Float32"),
    ):  # fmt: skip
        got, drawn = fa.rrelu_training(wrapped, np.random.default_rng(0))
        assert type(got) is type(wrapped)
        assert_same_bits(drawn, slope)
        close(np.asarray(got, dtype=np.float32), want)


@pytest.mark.parametrize("call", [fa.batch_norm, fa.batch_norm_forward, fa.BatchNorm(4)])
def test_batch_norm_refuses_what_it_would_strip(call):
    foreign = [data().view(Annotated), Logged(data()), np.ma.masked_array(data())]
    for module, make in (
        ("xarray", lambda m: m.DataArray(data())),
        ("pandas", lambda m: m.DataFrame(data())),
        ("astropy.units", lambda m: m.Quantity(data(), "m")),
        ("pint", lambda m: m.UnitRegistry().Quantity(data(), "m")),
    ):
        foreign.append(make(pytest.importorskip(module)))
    for value in foreign:
        with pytest.raises(TypeError, match=r"x: .*pass a"):
            call(value)
    ctx = fa.batch_norm_forward(data())[1]
    foreign.append(pytest.importorskip("dask.array").from_array(data()))  # as x: test_dask.py
    for value in foreign:
        with pytest.raises(TypeError, match=r"dy: .*pass a"):
            fa.batch_norm_backward(value, ctx)
        with pytest.raises(TypeError, match=r"weight: .*pass a"):
            fa.batch_norm_forward(data(), weight=value[0] if hasattr(value, "iloc") else value)


def test_a_memory_map_is_an_ordinary_array(tmp_path):
    mapped = np.memmap(tmp_path / "x", np.float32, "w+", shape=SHAPE)
    mapped[:] = data()
    assert_same_bits(fa.batch_norm(mapped, training=True), fa.batch_norm(data(), training=True))
    for name in (*NAMES, *GATED):
        assert_same_bits(function_of(name)(mapped, *second(name)),
                         function_of(name)(data(), *second(name)))  # fmt: skip


def test_no_library_is_imported_by_fastact():
    code = """
import sys, fastact as fa, numpy as np
fa.activations; x = np.ones((3, 2), np.float32)
for f in [*fa.activations.values(), *fa.gated.values()]:
    rest = [x] if f.gated else [0.25] * list(f.parameters.values()).count(None)
    f(x, *rest); f.backward(x, x, *rest); f(np.ma.array(x), *rest)
foreign = "dask xarray pandas pint astropy torch jax ml_dtypes scipy".split()
print([name for name in foreign if name in sys.modules])
"""
    assert python(code) == (0, "[]", "")


# ---- the reference -------------------------------------------------------------------------------


def knows_more(kind, array):
    """An array of a library that knows more of it than its numbers."""
    if kind == "mask":
        return np.ma.masked_array(array, np.zeros(np.shape(array), bool))
    if kind == "astropy":
        return pytest.importorskip("astropy.units").Quantity(array, "m")
    if kind == "pint":
        return pytest.importorskip("pint").UnitRegistry().Quantity(array, "m")
    if kind == "xarray":
        return pytest.importorskip("xarray").DataArray(array)
    pandas = pytest.importorskip("pandas")
    return (pandas.DataFrame if np.ndim(array) > 1 else pandas.Series)(array)


knowing = pytest.mark.parametrize("kind", ["mask", "astropy", "pint", "xarray", "pandas"])


@knowing
@pytest.mark.parametrize("pairs", [reference.activations, reference.gated])
def test_the_reference_refuses_what_it_would_strip(kind, pairs):
    special, x = knows_more(kind, data()[0]), data()[0]
    for name, (value, backward) in pairs.items():
        rest = (x,) if name in GATED else defaults(name)
        with pytest.raises(TypeError, match=r"^x: .* given, plain arrays and numbers are accepted"):
            value(special, *rest)
        with pytest.raises(TypeError, match=r"^x: "):
            backward(x, special, *rest)
        with pytest.raises(TypeError, match=r"^dy: "):
            backward(special, x, *rest)


def trained_by_the_reference(x, dy, **options):
    ctx = reference.batch_norm_forward(x, **options)[1]
    return reference.batch_norm_backward(dy, ctx)


ARRAYS = {
    "x": data(), "dy": data(), "weight": np.ones(4), "bias": np.ones(4),
    "running_mean": np.ones(4), "running_var": np.ones(4), "residual": data(),
    "mask": np.ones(6, bool), "sample_weight": np.ones(6),
}  # fmt: skip


@knowing
@pytest.mark.parametrize("name", [*ARRAYS, LEARNED[0]])
def test_batch_norm_of_the_reference_refuses_what_it_would_strip(kind, name):
    given = {**ARRAYS, LEARNED[0]: np.ones(4)}
    given[name] = knows_more(kind, given[name])
    (key,) = fa.activations[LEARNED[0]].learned
    given |= {"activation": LEARNED[0], "activation_params": {key: given.pop(LEARNED[0])}}
    with pytest.raises(TypeError, match=rf"^{key if name == LEARNED[0] else name}: .* given"):
        trained_by_the_reference(**given)
