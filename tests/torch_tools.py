"""What the tests of fastact.torch share: tensors, parameters, and torch's own samples."""

import inspect

import numpy as np
import pytest
from conftest import GATED, LEARNED, NAMES

torch = pytest.importorskip("torch", reason="the tests of fastact.torch need torch")

import fastact as fa  # noqa: E402
import fastact.torch as fat  # noqa: E402

ALL = [*NAMES, *GATED]
functions = pytest.mark.parametrize("name", ALL)
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))


def function_of(name):
    return fa.gated[name] if name in GATED else fa.activations[name]


def numbers(name):
    """Values of the parameters that are not learned."""
    function = function_of(name)
    return [
        0.25 if value is None else value
        for key, value in function.parameters.items()
        if key not in function.learned
    ]


def tensors(name, x, *, grad=False):
    """The tensors beside x: a gate like it, or a learned parameter a channel."""
    if name in GATED:
        beside = [torch.randn_like(x)]
    elif name in LEARNED:
        beside = [torch.rand(x.shape[1] if x.ndim > 1 else 1, dtype=x.dtype)]
    else:
        beside = []
    return [t.requires_grad_() for t in beside] if grad else beside


def as_array(tensor):
    """A copy, whatever the dtype."""
    if tensor.dtype is torch.bfloat16:
        import ml_dtypes

        return tensor.detach().contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.detach().numpy().copy()


def plain(name):
    return name.replace("_", "").lower()


# torch's spelling of a function or class -> fastact's name; the exact one, where two are alike
BY_SPELLING = {
    plain(name): name for name in sorted(ALL, key=lambda n: hasattr(torch.nn.functional, n))
}


def torch_sample(name, sample):
    """(name, arguments behind x) of one of torch's own samples for its function, or None where it
    asks for something that fastact has not (random slopes, say)."""
    keywords = dict(sample.kwargs)
    keywords.pop("inplace", None)
    if (kind := keywords.pop("approximate", "none")) != "none":
        name = f"{name}_{kind}"
    parameters = function_of(name).parameters
    own = {key: value for key, value in keywords.items() if key in parameters}
    if set(keywords) - set(own) - {"training"} or keywords.get("training"):
        return None
    return name, sample.args, own


def signature(function):
    """(name, default) of each parameter."""
    return [
        (p.name, None if p.default is inspect.Parameter.empty else p.default)
        for p in inspect.signature(function).parameters.values()
    ]


def hard(count=200):
    """float64 values in the middle, in the tails, and on the kinks."""
    special = [0.0, 1, 3, 6, 0.5, 2, 2.5, 20, 100, 700, 1e4, 1e-9, 1e-300]
    values = np.concatenate([special, np.negative(special)])
    return np.concatenate([values, 3 * np.random.default_rng(0).standard_normal(count)])


__all__ = [
    "ALL", "BY_SPELLING", "DTYPES", "as_array", "dtypes", "fa", "fat", "function_of", "functions",
    "hard", "numbers", "plain", "signature", "tensors", "torch", "torch_sample",
]  # fmt: skip
