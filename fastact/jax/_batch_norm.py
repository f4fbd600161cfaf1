"""BatchNorm, alone or fused with an activation, as a jax function."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fastact as fa
from fastact import _kernels
from fastact._activation import activation as find_activation
from fastact._context import BatchNormContext
from fastact._fusion import fuse
from fastact._normalization import batch_norm_backward, batch_norm_forward
from fastact.jax._activations import check, composed, number
from fastact.jax._xla import Array, Attribute, register

ROWS, MEAN, VAR = _kernels.STATISTICS, _kernels.MEAN, _kernels.VAR


class Settings(NamedTuple):
    """What is known before the arrays are: hashable, an argument of custom_vjp."""

    training: bool
    momentum: float
    eps: float
    axis: int
    activation: str
    numbers: tuple[float, ...]
    present: tuple[str, ...]  # the names of the arrays behind x

    def attributes(self) -> dict[str, Any]:
        """As XLA takes them."""
        return {
            "training": np.int64(self.training), "momentum": np.float64(self.momentum),
            "eps": np.float64(self.eps), "axis": np.int64(self.axis),
            "activation": self.activation, "numbers": np.asarray(self.numbers, np.float64),
            "present": ",".join(self.present),
        }  # fmt: skip


SMALL = ("weight", "bias", "learned", "running_mean", "running_var")


# ---- custom calls --------------------------------------------------------------------------------
#
# The statistics are float64, which jax has only on demand: between forward and backward they are
# bytes to it.


def forward(operands: list[Array], results: list[Array], given: Mapping[str, Attribute]) -> None:
    """(x, small arrays...) -> (y, statistics, running mean, running variance)."""
    x, small = operands[0], _small(operands[1:], given)
    running = [small.pop(key, None) for key in ("running_mean", "running_var")]
    for result, value in zip(results[2:], running, strict=True):
        if value is not None:
            result[...] = value
    kept = results[2:] if running[0] is not None else [None, None]
    settings = _activation(given, small.pop("learned", None))
    _, ctx = batch_norm_forward(
        x, **small, running_mean=kept[0], running_var=kept[1], out=results[0],
        training=bool(given["training"]), momentum=given["momentum"], eps=given["eps"],
        axis=given["axis"], **settings,
    )  # fmt: skip
    results[1].view(np.float64)[..., 0] = ctx._table


def backward(operands: list[Array], results: list[Array], given: Mapping[str, Attribute]) -> None:
    """(dy, x, statistics, small arrays...) -> (dx, gradients of weight, bias, learned...)."""
    dy, x, state = operands[:3]
    small = _small(operands[3:], given)
    table = state.view(np.float64)[..., 0]
    axis = int(given["axis"])
    arguments = _activation(given, small.get("learned"))
    fused = fuse(arguments.get("activation"), arguments.get("activation_params"), x.shape[axis])
    ctx = BatchNormContext(
        x=x, mean=table[MEAN], var=table[VAR], count=x.size // max(x.shape[axis], 1),
        training=bool(given["training"]), _axis=axis, _table=table, _fused=fused,
        _weight=small["weight"].dtype if "weight" in small else None,
        _bias=small["bias"].dtype if "bias" in small else None,
    )  # fmt: skip
    grads = batch_norm_backward(dy, ctx, out=results[0])
    learned = next(iter((grads.activation_params or {}).values()), None)
    gradients = {"weight": grads.weight, "bias": grads.bias, "learned": learned}
    wanted = [gradients[key] for key in small if key in gradients]
    for result, value in zip(results[1:], wanted, strict=True):
        result[...] = value


def _small(operands: list[Array], given: Mapping[str, Attribute]) -> dict[str, Array]:
    names = str(given["present"]).split(",") if given["present"] else []
    return dict(zip(names, operands, strict=True))


def _activation(given: Mapping[str, Attribute], learned: Array | None) -> dict[str, Any]:
    name, numbers = str(given["activation"]), given["numbers"]
    if not name:
        return {}
    function = fa.activations[name]
    keys = [key for key in function.parameters if key not in function.learned]
    assert isinstance(numbers, np.ndarray)
    params: dict[str, Any] = dict(zip(keys, numbers.tolist(), strict=True))
    params |= {key: learned for key in function.learned}
    return {"activation": name, "activation_params": params}


register("fastact_batch_norm", forward)
register("fastact_batch_norm_backward", backward)


# ---- what jax differentiates ---------------------------------------------------------------------


def _like(value: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(value.shape, value.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def apply(settings: Settings, x: jax.Array, *small: jax.Array) -> Any:
    """(y, statistics, running mean, running variance)."""
    given = dict(zip(settings.present, small, strict=True))
    nothing = jax.ShapeDtypeStruct((0,), np.float32)
    results = (
        _like(x),
        jax.ShapeDtypeStruct((ROWS, x.shape[settings.axis], 8), np.uint8),
        *[_like(given[key]) if key in given else nothing for key in SMALL[3:]],
    )
    run = jax.ffi.ffi_call("fastact_batch_norm", results, vmap_method="sequential")
    return tuple(run(x, *small, **settings.attributes()))


def _apply_forward(settings: Settings, x: jax.Array, *small: jax.Array) -> Any:
    results: Any = apply(settings, x, *small)
    return results, (x, results[1], small)


def _apply_backward(settings: Settings, kept: Any, outer: Any) -> Any:
    x, state, small = kept
    return gradients(settings, outer[0], x, state, *small)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def gradients(
    settings: Settings, dy: jax.Array, x: jax.Array, state: jax.Array, *small: jax.Array
) -> Any:
    """The gradients in x and the small arrays; running statistics have none, which is 0 here."""
    given = dict(zip(settings.present, small, strict=True))
    learned = [key for key in given if key in SMALL[:3]]
    results = (_like(x), *[_like(given[key]) for key in learned])
    run = jax.ffi.ffi_call("fastact_batch_norm_backward", results, vmap_method="sequential")
    dx, *rest = run(
        dy, x, state, *[given[key] for key in learned],
        **settings._replace(present=tuple(learned)).attributes(),
    )  # fmt: skip
    found = dict(zip(learned, rest, strict=True))
    return dx, *[found[key] if key in found else jnp.zeros_like(given[key]) for key in given]


def _gradients_forward(settings: Settings, *kept: jax.Array) -> Any:
    return gradients(settings, *kept), kept


def _gradients_backward(settings: Settings, kept: Any, outer: Any) -> Any:
    """Second derivatives, composed of jax's own operations."""
    dy, x, state, *small = kept

    def first_order(dy: jax.Array, x: jax.Array, *small: jax.Array) -> Any:
        return jax.vjp(functools.partial(_composed, settings), x, *small)[1](dy)

    ddy, dx, *rest = jax.vjp(first_order, dy, x, *small)[1](outer)
    return ddy, dx, np.zeros(state.shape, jax.dtypes.float0), *rest


def _composed(settings: Settings, x: jax.Array, *small: jax.Array) -> jax.Array:
    given = dict(zip(settings.present, small, strict=True))
    wide = x.astype(np.float32) if x.dtype.itemsize < 4 else x
    others = tuple([axis for axis in range(x.ndim) if axis != settings.axis])
    shape = [-1 if axis == settings.axis else 1 for axis in range(x.ndim)]

    def along(value: jax.Array) -> jax.Array:
        return value.astype(wide.dtype).reshape(shape if value.size > 1 else ())

    if settings.training:
        mean = wide.mean(others, keepdims=True)
        var = jnp.square(wide - mean).mean(others, keepdims=True)
    else:
        mean, var = (jax.lax.stop_gradient(along(given[key])) for key in SMALL[3:])
    z = (wide - mean) / jnp.sqrt(var + settings.eps)
    z = z * along(given["weight"]) if "weight" in given else z
    z = z + along(given["bias"]) if "bias" in given else z
    if settings.activation:
        learned = [along(given["learned"])] if "learned" in given else []
        z = composed(settings.activation, settings.numbers, z, *learned)
    return z.astype(x.dtype)


apply.defvjp(_apply_forward, _apply_backward)
gradients.defvjp(_gradients_forward, _gradients_backward)


# ---- the function --------------------------------------------------------------------------------


def batch_norm(
    x: jax.typing.ArrayLike,
    weight: jax.typing.ArrayLike | None = None,
    bias: jax.typing.ArrayLike | None = None,
    running_mean: jax.typing.ArrayLike | None = None,
    running_var: jax.typing.ArrayLike | None = None,
    *,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    axis: int = 1,
    activation: str | fa.Activation | None = None,
    activation_params: Mapping[str, Any] | None = None,
) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
    """Batch normalisation, optionally followed by an activation, in one pass over memory.

    Parameters
    ----------
    x : jax.Array
        On the CPU, at least two dimensions; float16, bfloat16, float32 or float64.
    weight, bias, running_mean, running_var : jax.Array of shape (C,), optional
        With ``training=False`` the running statistics are what normalises x.
    training : bool
        Whether the statistics are those of x.
    momentum, eps : float
    axis : int
        The channel axis: 1 for NCHW, -1 for NHWC.
    activation : str or fastact.Activation, optional
        Any of `fastact.activations`.
    activation_params : dict, optional
        Its parameters: numbers, and for a learned one an array of shape () or (C,).

    Returns
    -------
    (y, running_mean, running_var)
        The statistics moved towards the batch's in training, as they came otherwise; None where
        there are none. They have no gradient.

    Raises
    ------
    TypeError, ValueError
        A bad argument, which the message names; a traced value where a number is expected.

    Notes
    -----
    Differentiated in reverse mode, twice too; forward mode (jvp, jacfwd, hessian) and jax.export
    raise. Unlike `fastact.batch_norm` it adds no residual and takes no mask or weights.

    Examples
    --------
    >>> import jax.numpy as jnp, fastact.jax as faj
    >>> x = jnp.array([[1.0, 10.0], [3.0, 30.0]])
    >>> faj.batch_norm(x, training=True, activation="relu")[0].round()
    Array([[0., 0.],
           [1., 1.]], dtype=float32)
    """
    array = check("x", x)
    if array.ndim < 2 or not -array.ndim <= axis < array.ndim:
        raise ValueError(
            f"x: shape {array.shape} with axis {axis} is not accepted; expected two dimensions or "
            "more, one of which is the axis"
        )
    axis %= array.ndim
    channels = array.shape[axis]
    count = math.prod(array.shape[:axis] + array.shape[axis + 1 :])
    if training and count < 2:
        raise ValueError(f"x: shape {array.shape} has {count} value a channel; training needs 2")
    name, numbers, learned = _settle(activation, activation_params)
    values = (weight, bias, learned, running_mean, running_var)
    given = {
        key: _small_array(key, value, channels)
        for key, value in zip(SMALL, values, strict=True)
        if value is not None
    }
    if ("running_mean" in given) != ("running_var" in given):
        raise ValueError("running_mean, running_var: one is missing; they come together")
    if not training and "running_mean" not in given:
        raise ValueError("running_mean, running_var: missing; without training they normalise x")
    momentum, eps = number("momentum", momentum), number("eps", eps)
    settings = Settings(bool(training), momentum, eps, axis, name, numbers, tuple(given))
    results: Any = apply(settings, array, *given.values())
    y, _, mean, var = results
    if "running_mean" not in given:
        return y, None, None
    return y, jax.lax.stop_gradient(mean), jax.lax.stop_gradient(var)


def _settle(
    activation: str | fa.Activation | None, params: Mapping[str, Any] | None
) -> tuple[str, tuple[float, ...], Any]:
    """(name, numbers, the learned parameter)."""
    if activation is None:
        if params:
            raise TypeError("activation_params: given without an activation")
        return "", (), None
    function = find_activation(activation)
    complete = {**function.parameters, **(params or {})}
    for key, value in complete.items():
        if key not in function.parameters:
            accepted = ", ".join(function.parameters) or "none"
            raise TypeError(
                f"activation_params: {function.name} has no parameter {key!r}; accepted: {accepted}"
            )
        if value is None:
            raise TypeError(f"activation_params[{key!r}]: missing; {function.name} requires it")
    numbers = [number(key, value) for key, value in complete.items() if key not in function.learned]
    return function.name, tuple(numbers), next((complete[key] for key in function.learned), None)


def _small_array(name: str, value: Any, channels: int) -> jax.Array:
    array = check(name, jnp.asarray(value, None if hasattr(value, "dtype") else np.float32))
    accepted = [(channels,), ()] if name == "learned" else [(channels,)]
    if array.shape not in accepted:
        shapes = " or ".join(map(str, accepted))
        raise ValueError(f"{name}: shape {array.shape} is not accepted; expected {shapes}")
    return array
