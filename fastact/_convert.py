"""BatchNorm folded into the layer before it, and state dicts of other libraries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastact import _checks as checks
from fastact._environment import in_default_environment

TORCH = ("weight", "bias", "running_mean", "running_var")
KERAS = ("gamma", "beta", "moving_mean", "moving_variance")
COUNTER = "num_batches_tracked"
Layer = dict[str, np.ndarray]  # by torch's names
NAMINGS = {"torch": (TORCH, "."), "inplace_abn": (TORCH, "."), "keras": (KERAS, "/")}
NUMBERED = ("vars/0", "vars/1", "vars/2", "vars/3")  # how Keras 3 writes them, in KERAS' order


def numbers(value: Any) -> np.ndarray:
    """An array of NumPy's, of torch's (from any device) or of what NumPy can convert."""
    value = value.detach().cpu() if hasattr(value, "detach") else value
    return np.asarray(value)


# ---- folding ---------------------------------------------------------------------------------


@in_default_environment
def fold_batch_norm(
    weight: object, bias: object, bn: object, *, axis: object = 0, eps: object = None
) -> tuple[np.ndarray, np.ndarray]:
    """A linear or convolution layer that does what it and the BatchNorm after it do in evaluation.

    ``bn(x @ weight + bias)`` is ``x @ folded_weight + folded_bias``: the weight of each output
    channel is multiplied by ``bn.weight / sqrt(running_var + eps)``. An activation of bn stays to
    be applied.

    Parameters
    ----------
    weight : numpy.ndarray
        float16, bfloat16, float32 or float64, at least two dimensions.
    bias : array_like of shape (C,), or None
        The layer's; None for a layer without.
    bn : BatchNorm, torch.nn.BatchNorm*, or a state dict of either
        The C channels' running statistics, weight and bias.
    axis : int
        Where the output channels are in `weight`. 0 for torch's layouts (``Linear`` (out, in),
        ``Conv`` (out, in, ...)); -1 for those of NumPy, Keras and Flax (``x @ weight`` (in, out),
        convolutions (..., in, out)); 1 for torch's transposed convolutions.
    eps : float, optional
        Of bn; needed with a state dict, which does not hold it.

    Returns
    -------
    weight, bias : numpy.ndarray
        Of the dtype of `weight`, computed in float64 and rounded once.

    Raises
    ------
    TypeError, ValueError
        A bad argument, which the message names.

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> bn = fa.BatchNorm(2).eval()
    >>> bn.running_mean[:], bn.running_var[:] = [1.0, 2.0], [4.0, 0.25]
    >>> weight = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])  # 3 inputs, 2 outputs
    >>> folded, bias = fa.fold_batch_norm(weight, None, bn, axis=-1)
    >>> x = np.array([[1.0, 0.5, 2.0]])
    >>> np.allclose(x @ folded + bias, bn(x @ weight))
    True
    """
    given = checks.float_array("weight", weight)
    if given.ndim < 2:
        raise ValueError(f"weight: {given.ndim} dimensions are not enough; expected 2 or more")
    position = checks.channel_axis(axis, given.ndim)
    channels = given.shape[position]
    (scale, offset, mean, var), added = parameters_of(bn, eps, channels)
    shift = checks.per_channel("bias", bias, channels)
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(added + var)
        moved = (0.0 if shift is None else shift) - mean
        along = factor.reshape([-1 if a == position else 1 for a in range(given.ndim)])
        folded = (given.astype(np.float64) * along).astype(given.dtype)
        return folded, (moved * factor + offset).astype(given.dtype)


def parameters_of(bn: object, eps: object, channels: int) -> tuple[list[np.ndarray], float]:
    """[weight, bias, running_mean, running_var] and eps, as float64."""
    state: Mapping[str, object]
    if isinstance(bn, Mapping):
        state = bn
        if eps is None:
            raise TypeError("eps: missing; a state dict does not hold it")
    else:
        state = {name: getattr(bn, name, None) for name in TORCH}
        eps = getattr(bn, "eps", None) if eps is None else eps
    found = []
    for name, fallback in zip(TORCH, (1.0, 0.0, None, None), strict=True):
        value = state.get(name)
        if value is None and fallback is None:
            raise ValueError(f"bn: no {name}; expected a BatchNorm with running statistics")
        value = np.full(channels, fallback) if value is None else numbers(value)
        found.append(checks.vector(f"bn.{name}", value, channels))
    return found, checks.real_number("eps", eps, 0.0, float("inf"))


# ---- state dicts -----------------------------------------------------------------------------


def convert_state_dict(
    state: object, source: object, target: object, *, eps: object = 1e-5
) -> dict[str, np.ndarray]:
    """A state dict with the BatchNorms in it named as another library names them.

    ========== ============= ========= ============== =================== =====================
    naming     weight        bias      mean           variance            batches
    ========== ============= ========= ============== =================== =====================
    torch      weight        bias      running_mean   running_var         num_batches_tracked
    inplace_abn weight       bias      running_mean   running_var         num_batches_tracked
    keras      gamma         beta      moving_mean    moving_variance     (none)
    ========== ============= ========= ============== =================== =====================

    fastact's own is torch's. InPlace-ABN multiplies by ``abs(weight) + eps``, so weights are
    converted from and to that. A counter that the source does not have is 0. Keras' names may end
    in ``:0``, and a file that Keras 3 writes has ``vars/0`` to ``vars/3`` for the four.

    Parameters
    ----------
    state : mapping of str to arrays
        Of one BatchNorm or of a whole model, whose names then begin with where the layer is
        (``blocks.0.bn.weight``, ``blocks/0/bn/gamma``); what belongs to no BatchNorm is kept.
    source, target : str
        "torch", "keras" or "inplace_abn".
    eps : float
        InPlace-ABN's.

    Returns
    -------
    dict of str to numpy.ndarray

    Raises
    ------
    TypeError, ValueError
        A bad argument; or weights that InPlace-ABN cannot have, which are those below `eps`.

    Notes
    -----
    The numbers stay what they are: of a running variance it cannot be told from how many values it
    came, so biased ones are not made unbiased. Choose how they go on with
    ``BatchNorm(convention=...)``.

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> layer = fa.BatchNorm(2)
    >>> keras = fa.convert_state_dict(layer.state_dict(), "torch", "keras")
    >>> list(keras)
    ['gamma', 'beta', 'moving_mean', 'moving_variance']
    >>> layer.load_state_dict(fa.convert_state_dict(keras, "keras", "torch"))
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"state: expected a mapping, got {type(state).__name__}")
    names = tuple(NAMINGS)
    have = checks.word("source", source, names)
    want = checks.word("target", target, names)
    added = checks.real_number("eps", eps, 0.0, float("inf"))
    groups, rest = batch_norms(state, have)
    converted = dict(rest)
    for prefix, layer in groups.items():
        layer = to_target(complete(layer), have, want, added, prefix)
        converted |= named(layer, prefix, have, want)
    return converted


def batch_norms(state: Mapping[Any, Any], source: str) -> tuple[dict[str, Layer], dict[str, Any]]:
    """{prefix: {torch's name: array}}, and what belongs to none of them."""
    groups: dict[str, Layer] = {}
    keys: dict[str, list[str]] = {}
    for key, value in state.items():
        if not isinstance(key, str):
            raise TypeError(f"state: keys are str; got {type(key).__name__}")
        prefix, name = split(key, source)
        if name is not None:
            groups.setdefault(prefix, {})[name] = numbers(value)
            keys.setdefault(prefix, []).append(key)
    groups = {p: layer for p, layer in groups.items() if {TORCH[2], TORCH[3]} <= set(layer)}
    taken = {key for prefix in groups for key in keys[prefix]}
    return groups, {key: value for key, value in state.items() if key not in taken}


def split(key: str, source: str) -> tuple[str, str | None]:
    """The layer's place and torch's name of the array; None for anything else."""
    names, separator = NAMINGS[source]
    spelled = key.removesuffix(":0")
    candidates: list[tuple[str, str]] = [*zip(names, TORCH, strict=True)]
    if source == "keras":
        candidates += zip(NUMBERED, TORCH, strict=True)
    else:
        candidates.append((COUNTER, COUNTER))
    for own, name in candidates:
        if spelled == own or spelled.endswith(separator + own):
            return spelled[: -len(own)], name
    return "", None


def complete(layer: Layer) -> Layer:
    """With weight and bias where there is one of them, and a counter."""
    like = layer[TORCH[2]]
    if TORCH[0] in layer or TORCH[1] in layer:
        layer.setdefault(TORCH[0], np.ones_like(like))
        layer.setdefault(TORCH[1], np.zeros_like(like))
    layer.setdefault(COUNTER, np.array(0, dtype=np.int64))
    return layer


def to_target(layer: Layer, source: str, target: str, eps: float, prefix: str) -> Layer:
    if source == target or TORCH[0] not in layer:
        return layer
    weight = layer[TORCH[0]]
    wide = weight.astype(np.float64)
    if source == "inplace_abn":
        wide = np.abs(wide) + eps
    if target == "inplace_abn":
        if (wide < eps).any():
            raise ValueError(
                f"state[{prefix + TORCH[0]!r}]: {wide.min():g} cannot be InPlace-ABN's, which uses "
                f"abs(weight) + eps; expected at least eps, {eps:g}"
            )
        wide = wide - eps
    return {**layer, TORCH[0]: wide.astype(weight.dtype)}


def named(layer: Layer, prefix: str, source: str, target: str) -> Layer:
    names, separator = NAMINGS[target]
    prefix = prefix.replace(NAMINGS[source][1], separator)
    found = {
        prefix + own: np.array(layer[name])
        for own, name in zip(names, TORCH, strict=True)
        if name in layer
    }
    if target != "keras":
        found[prefix + COUNTER] = np.array(layer[COUNTER])
    return found
