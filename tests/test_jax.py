"""fastact.jax: fastact's bits under jit, grad and vmap, through XLA's custom calls."""

import ctypes
import doctest
import inspect
import pickle

import numpy as np
import pytest
from conftest import (
    GATED,
    LEARNED,
    NAMES,
    SCALAR,
    assert_same_bits,
    bfloat16,
    defaults,
    once,
    python,
)

jax = pytest.importorskip("jax", reason="the tests of fastact.jax need jax")
jnp = jax.numpy

import fastact as fa  # noqa: E402
import fastact.jax as faj  # noqa: E402
from fastact.jax import _xla  # noqa: E402

check_grads = pytest.importorskip("jax.test_util").check_grads

pytestmark = [once, pytest.mark.filterwarnings("ignore::DeprecationWarning:jax")]
ALL = [*NAMES, *GATED]
functions = pytest.mark.parametrize("name", ALL)
DTYPES = [np.float16, bfloat16, np.float32, np.float64]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["f16", "bf16", "f32", "f64"])
some = pytest.mark.parametrize("name", [None, NAMES[-1], SCALAR[0], *LEARNED])
modes = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


@pytest.fixture(autouse=True)
def double_precision():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def function_of(name):
    return fa.gated[name] if name in GATED else fa.activations[name]


def draw(shape, dtype, seed=0):
    return (2 * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def rest_of(name, x):
    """(arrays, numbers) behind x."""
    if name in GATED:
        return [draw(x.shape, x.dtype, 9)], []
    if name in LEARNED:
        return [draw(x.shape[-1:], x.dtype, 9)], []
    return [], list(defaults(name))


# ---- activations ---------------------------------------------------------------------------------


@functions
def test_signatures_are_the_tables(name):
    mine = getattr(faj, name)
    want = [("x", inspect.Parameter.empty), *[("gate", inspect.Parameter.empty)] * (name in GATED)]
    want += [
        (key, inspect.Parameter.empty if value is None else value)
        for key, value in function_of(name).parameters.items()
    ]
    assert [(p.name, p.default) for p in inspect.signature(mine).parameters.values()] == want
    assert pickle.loads(pickle.dumps(mine)) is mine


@functions
@dtypes
def test_the_bits_of_fastact(name, dtype):
    for shape in ((3, 5), (0, 4)) if dtype != np.float32 else ((3, 5), (7,), (2, 3, 400)):
        x, dy = draw(shape, dtype), draw(shape, dtype, 1)
        arrays, numbers = rest_of(name, x)

        def call(x, *arrays, numbers=numbers):
            return getattr(faj, name)(x, *arrays, *numbers)

        got = jax.jit(call)(x, *arrays)
        assert_same_bits(got, function_of(name)(x, *arrays, *numbers))
        want = function_of(name).backward(dy, x, *arrays, *numbers)
        gradients = jax.vjp(call, jnp.asarray(x), *arrays)[1](jnp.asarray(dy))
        for mine, exact in zip(
            gradients, want if isinstance(want, tuple) else (want,), strict=True
        ):
            assert_same_bits(mine, exact)


@functions
def test_gradients_of_first_and_second_order(name):
    x = draw((3, 4), np.float64)
    arrays, numbers = rest_of(name, x)
    check_grads(lambda x, *a: getattr(faj, name)(x, *a, *numbers), (x, *arrays), 2, ["rev"])


@functions
def test_vmap_is_a_loop(name):
    x = draw((4, 3, 5), np.float32)
    arrays, numbers = rest_of(name, x)
    axes = (0, *[0 if name in GATED else None] * len(arrays))
    got = jax.vmap(lambda x, *a: getattr(faj, name)(x, *a, *numbers), axes)(x, *arrays)
    assert_same_bits(got, function_of(name)(x, *arrays, *numbers))
    if name in LEARNED:
        one = [a[..., :1] for a in arrays]
        moved = jax.vmap(lambda x: getattr(faj, name)(x, *one, *numbers), 1, 1)
        assert_same_bits(moved(x), function_of(name)(x, *one, *numbers))


@pytest.mark.parametrize("name", [*GATED, *LEARNED])
def test_broadcasting(name):
    x, narrow = draw((3, 4), np.float32), draw((4,), np.float32, 2)
    want = function_of(name).backward(np.ones_like(x), x, narrow)
    got = jax.grad(lambda x, b: getattr(faj, name)(x, b).sum(), (0, 1))(x, narrow)
    assert_same_bits(got[0], want[0])
    np.testing.assert_allclose(got[1], want[1], rtol=1e-6)
    assert getattr(faj, name)(x, 0.25).dtype == np.float32


def test_what_is_refused():
    for name in ALL:
        arrays, numbers = rest_of(name, np.ones(3, np.float32))
        for bad in (jnp.arange(3), jnp.ones(3, bool), jnp.ones(3, np.complex64)):
            with pytest.raises(TypeError, match=r"x: dtype .* is not accepted; expected float16"):
                getattr(faj, name)(bad, *arrays, *numbers)
    with pytest.raises(ValueError, match=r"weight: shape \(2, 3\) is not accepted"):
        getattr(faj, LEARNED[0])(np.ones(3, np.float32), np.ones((2, 3), np.float32))


# ---- BatchNorm -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in NAMES if fa.activations[name].parameters])
def test_a_traced_number_is_refused(name):
    """It is compiled in: no gradient, no vmap over it. A learned one may be traced."""
    x, function = draw((3, 4), np.float32), getattr(faj, name)
    for key in function_of(name).parameters:
        given = {k: 0.25 for k in function_of(name).parameters if k != key}
        traced = jax.jit(lambda value, given=given, key=key: function(x, **given, **{key: value}))
        if key in LEARNED_PARAMETERS:
            assert traced(0.25).shape == x.shape
            continue
        with pytest.raises(TypeError, match=f"^{key}: a traced value is not accepted; expected a"):
            traced(0.25)
        static = jax.jit(function, static_argnames=[key, *given])
        assert_same_bits(static(x, **{key: 0.25}, **given), function(x, **{key: 0.25}, **given))


LEARNED_PARAMETERS = {key for name in LEARNED for key in fa.activations[name].learned}


@pytest.mark.parametrize("name", ["momentum", "eps", *fa.activations[SCALAR[0]].parameters])
def test_a_traced_number_of_batch_norm_is_refused(name):
    x = draw((3, 4), np.float32)

    def traced(value):
        if name in ("momentum", "eps"):
            return faj.batch_norm(x, training=True, **{name: value})
        params = {"activation": SCALAR[0], "activation_params": {name: value}}
        return faj.batch_norm(x, training=True, **params)

    with pytest.raises(TypeError, match=f"^{name}: a traced value is not accepted"):
        jax.jit(traced)(0.25)


@pytest.mark.parametrize("way", [jax.jacfwd, jax.hessian])
def test_forward_mode_is_refused(way):
    """As the documentation says; the same by reverse mode is there."""
    function, x = getattr(faj, NAMES[-1]), draw((3,), np.float32)
    with pytest.raises(TypeError, match="forward-mode"):
        way(lambda x: function(x).sum())(x)
    assert jax.jacrev(jax.grad(lambda x: function(x).sum()))(x).shape == (3, 3)


def parameters(name, dtype, *, one=False):
    if name is None:
        return None
    params = dict(zip(fa.activations[name].parameters, defaults(name), strict=True))
    return params | {
        key: np.asarray(0.3 if one else [0.1, 0.2, 0.3], dtype)
        for key in fa.activations[name].learned
    }


@some
@modes
@dtypes
def test_batch_norm_has_the_bits_of_fastact(name, training, dtype):
    for shape, axis in (((6, 3), 1), ((4, 3, 2, 5), 1), ((4, 2, 5, 3), -1)):
        x, dy = draw(shape, dtype), draw(shape, dtype, 1)
        weight, bias, mean, var = (abs(draw(3, np.float32, s)) + 0.5 for s in range(2, 6))
        for one in (False, True):
            params = parameters(name, np.float32, one=one)
            settings = {"training": training, "axis": axis, "activation": name,
                        "activation_params": params}  # fmt: skip
            kept = mean.copy(), var.copy()
            y, ctx = fa.batch_norm_forward(x, weight=weight, bias=bias, running_mean=kept[0],
                                           running_var=kept[1], **settings)  # fmt: skip
            grads = fa.batch_norm_backward(dy, ctx)
            learned = [
                (params or {})[key] for key in (fa.activations[name].learned if name else ())
            ]

            def call(x, weight, bias, *learned, settings=settings, stats=(mean, var)):
                given = dict(settings)
                if learned:
                    key = fa.activations[name].learned[0]
                    given["activation_params"] = {key: learned[0]}
                return faj.batch_norm(x, weight, bias, *stats, **given)

            (got, *running), pull = jax.vjp(jax.jit(call), jnp.asarray(x), weight, bias, *learned)
            assert_same_bits(got, y)
            assert_same_bits(running[0], kept[0])
            assert_same_bits(running[1], kept[1])
            found = pull((jnp.asarray(dy), *[jnp.zeros(3, np.float32)] * 2))
            want = [grads.x, grads.weight, grads.bias, *(grads.activation_params or {}).values()]
            for mine, exact in zip(found, want, strict=True):
                assert_same_bits(mine, exact)


@some
@modes
def test_batch_norm_gradients_of_first_and_second_order(name, training):
    x = draw((5, 3), np.float64)
    weight, bias, mean, var = (abs(draw(3, np.float64, s)) + 0.5 for s in range(2, 6))
    for one in (False, True):
        params = parameters(name, np.float64, one=one)
        learned = [(params or {})[key] for key in (fa.activations[name].learned if name else ())]

        def call(x, weight, bias, *learned, params=params):
            given = dict(params or {})
            if learned:
                given[fa.activations[name].learned[0]] = learned[0]
            return faj.batch_norm(x, weight, bias, mean, var, training=training, activation=name,
                                  activation_params=given or None)[0]  # fmt: skip

        check_grads(call, (x, weight, bias, *learned), 2, ["rev"])


def test_without_double_precision():
    """The statistics are float64 all the same."""
    jax.config.update("jax_enable_x64", False)
    x = draw((200, 3), np.float32) + np.float32(1e4)
    y, _, _ = jax.jit(lambda x: faj.batch_norm(x, training=True))(x)
    assert_same_bits(y, fa.batch_norm(x, training=True))
    gradient = jax.grad(lambda x: (faj.batch_norm(x, training=True)[0] ** 2).sum())(x)
    assert gradient.dtype == np.float32


def test_batch_norm_without_this_and_that():
    x = draw((6, 3), np.float32)
    weight, bias = draw(3, np.float32, 1), draw(3, np.float32, 2)
    for given in ({}, {"weight": weight}, {"bias": bias}):
        y, mean, var = faj.batch_norm(x, **given, training=True)
        assert_same_bits(y, fa.batch_norm(x, **given, training=True))
        assert mean is None
        assert var is None
        for key in given:
            gradient = jax.grad(
                lambda v, key=key: faj.batch_norm(x, **{key: v}, training=True)[0].sum()
            )(given[key])
            assert gradient.shape == (3,)
    mapped = jax.vmap(lambda x: faj.batch_norm(x, training=True)[0])(np.stack([x, 2 * x]))
    assert_same_bits(mapped[0], fa.batch_norm(x, training=True))
    assert_same_bits(mapped[1], fa.batch_norm(2 * x, training=True))
    for half in ([], [weight]):
        y, mean, _ = faj.batch_norm(x, *half, running_mean=np.zeros(3), running_var=np.ones(3))
        assert y.dtype == np.float32
        assert not np.asarray(mean).any()


@pytest.mark.parametrize(("given", "error", "match"), [
    ({"x": np.ones(3, np.float32)}, ValueError, "x: shape"),
    ({"axis": 2}, ValueError, "axis 2 is not accepted"),
    ({"x": np.ones((1, 3), np.float32)}, ValueError, "training needs 2"),
    ({"x": np.ones((4, 3), int)}, TypeError, "x: dtype"),
    ({"weight": np.ones(4, np.float32)}, ValueError, r"weight: shape \(4,\)"),
    ({"running_mean": np.ones(3, np.float32)}, ValueError, "come together"),
    ({"training": False}, ValueError, "running_mean, running_var: missing"),
    ({"activation": "nothing"}, ValueError, "there is no 'nothing'"),
    ({"activation": GATED[0]}, ValueError, "takes a gate"),
    ({"activation": NAMES[-1], "activation_params": {"no": 1}}, TypeError, "no parameter 'no'"),
    ({"activation": LEARNED[0]}, TypeError, "missing; "),
    ({"activation_params": {"no": 1}}, TypeError, "without an activation"),
])  # fmt: skip
def test_what_batch_norm_refuses(given, error, match):
    arguments = {"x": np.ones((4, 3), np.float32), "training": True} | given
    with pytest.raises(error, match=match):
        faj.batch_norm(**arguments)


# ---- the interface -------------------------------------------------------------------------------


def test_an_operand_is_not_copied():
    """What fastact sees is XLA's own memory."""
    seen = []
    _xla.register("fastact_test_address", lambda a, r, given: seen.append(a[0].ctypes.data))
    x = jnp.ones(1 << 16, np.float32)
    result = jax.ShapeDtypeStruct((1,), np.float32)
    jax.block_until_ready(jax.ffi.ffi_call("fastact_test_address", result)(x))
    assert seen == [x.unsafe_buffer_pointer()]


def test_an_error_in_a_call_is_jaxs_error():
    def fails(operands, results, given):
        raise ValueError("what went wrong")

    _xla.register("fastact_test_error", fails)
    result = jax.ShapeDtypeStruct((1,), np.float32)
    with pytest.raises(jax.errors.JaxRuntimeError, match="ValueError: what went wrong"):
        jax.block_until_ready(jax.ffi.ffi_call("fastact_test_error", result)(jnp.ones(1)))


def test_attributes_arrive():
    seen = {}
    _xla.register("fastact_test_attributes", lambda a, r, given: seen.update(given))
    call = jax.ffi.ffi_call("fastact_test_attributes", jax.ShapeDtypeStruct((1,), np.float32))
    jax.block_until_ready(call(
        jnp.ones(1), text="two words", whole=np.int64(-3), real=np.float64(0.1),
        many=np.array([1.5, -2.5]), none=np.zeros(0),
    ))  # fmt: skip
    assert seen.pop("many").tolist() == [1.5, -2.5]
    assert seen.pop("none").shape == (0,)
    assert seen == {"text": "two words", "whole": -3, "real": 0.1}


@pytest.mark.parametrize(("theirs", "ours"), [((0, 1), 1), ((0, 3), 3), ((0, 9), 3), ((0, 0), 1)])
def test_the_version_that_is_told(theirs, ours):
    api = _xla.Api(ctypes.sizeof(_xla.Api), None, _xla.Version(32, None, *theirs))
    metadata = _xla.Metadata(ctypes.sizeof(_xla.Metadata))
    extension = _xla.MetadataExtension(
        _xla.Extension(40, _xla.METADATA, None), ctypes.pointer(metadata)
    )
    frame = _xla.Frame(ctypes.sizeof(_xla.Frame), ctypes.addressof(extension), ctypes.pointer(api))
    assert _xla.answer(frame) is None
    assert (metadata.version.major, metadata.version.minor) == (0, ours)


def test_the_structures_are_those_of_the_installed_header(tmp_path):
    """Where there is a compiler: sizes and offsets as jaxlib's own header has them."""
    import shutil
    import subprocess

    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    pairs = {
        "XLA_FFI_Buffer": (_xla.Buffer, {"dims": "dims", "data": "data", "dtype": "dtype"}),
        "XLA_FFI_Args": (_xla.Buffers, {"size": "count", "args": "items"}),
        "XLA_FFI_Attrs": (_xla.Attributes, {"types": "kinds", "names": "names", "attrs": "items"}),
        "XLA_FFI_CallFrame": (_xla.Frame, {
            "api": "api", "stage": "stage", "args": "arguments", "rets": "results",
            "attrs": "attributes",
        }),
        "XLA_FFI_Metadata": (_xla.Metadata, {"api_version": "version", "traits": "traits"}),
        "XLA_FFI_Metadata_Extension": (_xla.MetadataExtension, {"metadata": "metadata"}),
        "XLA_FFI_Api": (_xla.Api, {"XLA_FFI_Error_Create": "error_create"}),
        "XLA_FFI_Error_Create_Args": (_xla.ErrorArguments, {"message": "message", "errc": "code"}),
        "XLA_FFI_Scalar": (_xla.Number, {"value": "data"}),
        "XLA_FFI_Array": (_xla.Numbers, {"size": "count", "data": "data"}),
        "XLA_FFI_ByteSpan": (_xla.Bytes, {"ptr": "data", "len": "length"}),
    }  # fmt: skip
    lines, want = [], []
    for theirs, (mine, fields) in pairs.items():
        for field, own in fields.items():
            lines.append(f'printf("%zu\\n", offsetof({theirs}, {field}));')
            want.append(getattr(mine, own).offset)
    source = tmp_path / "offsets.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <xla/ffi/api/c_api.h>\n"
        "int main(void) {\n" + "\n".join(lines) + "\nreturn 0;\n}\n"
    )
    program = tmp_path / "offsets"
    subprocess.run(
        [compiler, f"-I{jax.ffi.include_dir()}", str(source), "-o", str(program)], check=True
    )
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    assert [int(line) for line in done.stdout.split()] == want


def test_names_do_not_shadow_one_another():
    code = """
import sys, fastact
assert "jax" not in sys.modules
import fastact.jax, jax
assert jax.__name__ == "jax" and hasattr(jax, "Array")
print(fastact.jax.__name__)
"""
    assert python(code)[:2] == (0, "fastact.jax")


@pytest.mark.parametrize("name", [None, *faj.__all__])
def test_the_examples_of_docstrings_run(name):
    thing = faj if name is None else getattr(faj, name)
    jax.config.update("jax_enable_x64", False)
    test = doctest.DocTestParser().get_doctest(thing.__doc__, {}, str(name), None, 0)
    result = doctest.DocTestRunner(verbose=False).run(test)
    assert result.attempted > 0
    assert result.failed == 0
