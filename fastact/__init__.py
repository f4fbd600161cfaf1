"""Activation functions and BatchNorm for NumPy: forward and backward, fused, exact, reproducible.

>>> import numpy as np, fastact as fa
>>> x = np.array([[1.0, -2.0], [3.0, 4.0]], dtype=np.float32)
>>> fa.silu(x).dtype
dtype('float32')

`fastact.activations` lists the activations; each is also an attribute of this module. The maths is
written out in `fastact.reference`, which needs no compiled part.
"""

import importlib as _importlib
import importlib.util as _util
import os as _os

__version__ = "0.1.0"


def get_include():
    """The folder of ``fastact_capi.h``, for C and Cython code that calls the kernels itself.

    Examples
    --------
    >>> import os, fastact as fa
    >>> os.listdir(fa.get_include())
    ['fastact_capi.h']
    """
    return _os.path.join(_os.path.dirname(_os.path.abspath(__file__)), "include")


# Only the extension itself may be missing (a checkout that is not built): then `fastact.reference`
# still imports, and everything else says what to do. An error inside it is not hidden.
_built = _util.find_spec("fastact._runtime") is not None


_later = ("memory", "reference")  # modules that few need, imported when they are asked for


def __getattr__(name):
    if name in _later and (_built or name == "reference"):
        return _importlib.import_module(f"fastact.{name}")
    if _built:
        raise AttributeError(f"module 'fastact' has no attribute {name!r}")
    raise ImportError(
        f"fastact.{name} needs the compiled part, which is not built: run 'pip install .'; "
        "without it only fastact.reference is there"
    )


def __dir__():
    return sorted({*globals(), *(_later if _built else ("reference",))})


if _built:
    from types import MappingProxyType as _MappingProxyType

    from fastact._activation import Activation
    from fastact._activation import activations as _activations
    from fastact._activation import gated as _gated
    from fastact._context import BatchNormContext, BatchNormGradients, Saved
    from fastact._convert import convert_state_dict, fold_batch_norm
    from fastact._layer import BatchNorm
    from fastact._normalization import batch_norm, batch_norm_backward, batch_norm_forward
    from fastact._pieces import (
        BatchNormSums,
        batch_norm_apply,
        batch_norm_backward_apply,
        batch_norm_backward_reduce,
    )
    from fastact._randomized import rrelu_training
    from fastact._runtime import (
        _C_API,  # noqa: F401  fastact_capi.h imports it by this name
        config,
        get_num_threads,
        num_threads,
        set_num_threads,
        show_config,
    )
    from fastact._statistics import BatchStats, batch_norm_stats, merge_stats

    activations = _MappingProxyType(_activations)
    gated = _MappingProxyType(_gated)
    globals().update(_activations, **_gated)

    __all__ = [
        *_activations,
        *_gated,
        "Activation",
        "BatchNorm",
        "BatchNormContext",
        "BatchNormGradients",
        "BatchNormSums",
        "BatchStats",
        "Saved",
        "activations",
        "batch_norm",
        "batch_norm_apply",
        "batch_norm_backward",
        "batch_norm_backward_apply",
        "batch_norm_backward_reduce",
        "batch_norm_forward",
        "batch_norm_stats",
        "config",
        "convert_state_dict",
        "fold_batch_norm",
        "gated",
        "get_include",
        "get_num_threads",
        "memory",
        "merge_stats",
        "num_threads",
        "reference",
        "rrelu_training",
        "set_num_threads",
        "show_config",
    ]
