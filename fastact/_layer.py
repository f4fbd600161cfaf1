"""The BatchNorm layer: parameters, running statistics, and what the backward needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from fastact import _checks as checks
from fastact import _quick
from fastact._activation import activation as find_activation
from fastact._call import SAVES, forward
from fastact._context import BatchNormGradients
from fastact._environment import in_default_environment
from fastact._fusion import fuse
from fastact._normalization import batch_norm_backward
from fastact._running import CONVENTIONS, MOMENTUM, cumulative, own_momentum


class BatchNorm:
    """Batch normalisation with its parameters and running statistics, fused with an activation.

    Parameters
    ----------
    num_features : int
        Channels, C.
    eps, momentum, axis, activation, convention, comm, save_for_backward
        As for `batch_norm_forward`; ``momentum=None`` keeps the cumulative average of all batches.
    affine : bool
        Whether there are weight and bias.
    track_running_stats : bool
        Whether there are running statistics; without them, evaluation uses the batch's own.
    activation_params : dict, optional
        Parameters of the activation. Those that are learned are copied; train them through
        ``layer.activation_params``.
    dtype : float32 or float64
        Of the parameters and running statistics.

    Attributes
    ----------
    weight, bias, running_mean, running_var : numpy.ndarray of shape (C,) or None
    num_batches_tracked : int
    training : bool
    activation_params : dict

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> layer = fa.BatchNorm(2, activation="leaky_relu", activation_params={"negative_slope": 0.2})
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]], dtype=np.float32)
    >>> y = layer(x)
    >>> layer.backward(np.ones_like(y)).bias
    array([1.2, 1.2], dtype=float32)
    >>> layer.eval()(x).shape
    (2, 2)
    """

    @in_default_environment
    def __init__(
        self,
        num_features: object,
        *,
        eps: object = 1e-5,
        momentum: object = MOMENTUM,
        affine: object = True,
        track_running_stats: object = True,
        axis: Any = 1,
        activation: object = None,
        activation_params: Any = None,
        convention: object = "torch",
        comm: Any = None,
        save_for_backward: object = "input",
        dtype: object = np.float32,
    ) -> None:
        self.num_features = checks.integer("num_features", num_features)
        if self.num_features < 1:
            raise ValueError(f"num_features: {num_features} is out of range; expected 1 or more")
        kept_as = checks.float_dtype(dtype)
        self.eps = checks.real_number("eps", eps, 0.0, math.inf)
        self.convention = checks.word("convention", convention, tuple(CONVENTIONS))
        self.momentum = own_momentum(momentum, self.convention)
        self.comm = comm
        self.save_for_backward = checks.word("save_for_backward", save_for_backward, SAVES)
        position = checks.channel_axis(axis, checks.MAX_NDIM)
        self.axis = position - (checks.MAX_NDIM if axis < 0 else 0)
        self.affine = checks.flag("affine", affine)
        self.track_running_stats = checks.flag("track_running_stats", track_running_stats)
        self.training = True
        self.activation = None if activation is None else find_activation(activation)
        fused = fuse(activation, activation_params, self.num_features)
        self.activation_params = dict(activation_params or {})
        if fused.learned is not None:
            self.activation_params[fused.learned] = np.array(
                self.activation_params[fused.learned], dtype=kept_as
            )
        self._learned = fused.learned
        n = self.num_features
        self.weight = np.ones(n, kept_as) if self.affine else None
        self.bias = np.zeros(n, kept_as) if self.affine else None
        self.running_mean = np.zeros(n, kept_as) if self.track_running_stats else None
        self.running_var = np.ones(n, kept_as) if self.track_running_stats else None
        self.num_batches_tracked = 0
        self._ctx: object = None

    def __call__(
        self,
        x: object,
        *,
        residual: object = None,
        mask: object = None,
        sample_weight: object = None,
        out: object = None,
    ) -> Any:
        """y; remembers what `backward` needs. The arguments are those of `batch_norm_forward`."""
        given = {"residual": residual, "mask": mask, "sample_weight": sample_weight, "out": out}
        y, self._ctx = self.forward(x, **given)
        return y

    def forward(
        self,
        x: object,
        *,
        residual: object = None,
        mask: object = None,
        sample_weight: object = None,
        out: object = None,
    ) -> tuple[Any, Any]:
        """(y, ctx): the re-entrant form, for ``fastact.batch_norm_backward(dy, ctx)``."""
        batches = checks.integer("num_batches_tracked", self.num_batches_tracked)
        if batches < 0:
            raise ValueError(f"num_batches_tracked: {batches} is out of range; expected 0 or more")
        training = self.training or not self.track_running_stats
        momentum = self.momentum
        if momentum is None:
            momentum = cumulative(self.convention, batches)
        result = self._quick_forward(
            x, training, momentum, out, residual, mask, sample_weight
        ) or forward(
            x, self.comm, weight=self.weight, bias=self.bias, running_mean=self.running_mean,
            running_var=self.running_var, training=training, momentum=momentum, eps=self.eps,
            axis=self.axis, activation=self.activation, activation_params=self.activation_params,
            residual=residual, mask=mask, sample_weight=sample_weight, convention=self.convention,
            save_for_backward=self.save_for_backward, out=out, features=self.num_features,
        )  # fmt: skip
        if self.training and self.track_running_stats:
            self.num_batches_tracked = batches + 1
        return result

    def _quick_forward(
        self, x: object, training: object, momentum: object, out: object, *given: object
    ) -> tuple[Any, Any] | None:
        """What `forward` gives, or None. Arrays a channel say how many x has to have."""
        if self.weight is None and self.running_mean is None:
            return None
        return _quick.forward(
            x, self.weight, self.bias, self.running_mean, self.running_var, training, momentum,
            self.eps, self.axis, self.activation, self.convention, self.save_for_backward,
            out, self.activation_params or None, self.comm, *given,
        )  # fmt: skip

    def backward(self, dy: object, *, out: object = None) -> BatchNormGradients:
        """`BatchNormGradients` of the last call."""
        if self._ctx is None:
            raise ValueError("backward: the layer has not been called yet")
        return batch_norm_backward(dy, self._ctx, out=out)

    def train(self, mode: object = True) -> Self:
        """Use the batch's statistics from now on; returns the layer."""
        self.training = checks.flag("mode", mode)
        return self

    def eval(self) -> Self:
        """Use the running statistics from now on; returns the layer."""
        return self.train(False)

    def _state(self) -> dict[str, np.ndarray]:
        arrays = {"weight": self.weight, "bias": self.bias}
        arrays |= {"running_mean": self.running_mean, "running_var": self.running_var}
        if self._learned is not None:
            arrays[f"activation.{self._learned}"] = self.activation_params[self._learned]
        return {key: value for key, value in arrays.items() if value is not None}

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of parameters and statistics, under torch.nn.BatchNorm's keys; a learned parameter
        of the activation is ``activation.NAME``."""
        state = {key: value.copy() for key, value in self._state().items()}
        if self.track_running_stats:
            state["num_batches_tracked"] = np.array(self.num_batches_tracked, dtype=np.int64)
        return state

    @in_default_environment
    def load_state_dict(self, state: object) -> None:
        """Copy a `state_dict` in; all keys must be there, and no other.

        Raises
        ------
        ValueError
            A key is missing, unexpected, or of the wrong shape; the layer is unchanged then.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state: expected a dict, got {type(state).__name__}")
        own = self._state()
        expected = set(own) | ({"num_batches_tracked"} if self.track_running_stats else set())
        if set(state) != expected:
            raise ValueError(
                f"state: missing keys {sorted(expected - set(state))}, "
                f"unexpected keys {sorted(set(state) - expected, key=str)}"
            )
        arrays = {key: checks.real_values(f"state[{key!r}]", state[key]) for key in own}
        for key, value in arrays.items():
            if value.shape != own[key].shape:
                raise ValueError(
                    f"state[{key!r}]: shape {value.shape} is not accepted; "
                    f"expected {own[key].shape}"
                )
            if not own[key].flags.writeable:
                raise ValueError(
                    f"{key}: the layer's own array is read-only; expected one that can be written"
                )
        batches = np.asarray(state.get("num_batches_tracked", 0))
        if batches.shape not in ((), (1,)) or batches.dtype.kind not in "iu" or batches.min() < 0:
            raise ValueError(
                "state['num_batches_tracked']: expected one integer from 0, "
                f"got {state['num_batches_tracked']!r}"
            )
        with np.errstate(all="ignore"):
            for key, value in arrays.items():
                own[key][...] = value
        self.num_batches_tracked = int(batches.reshape(()))

    def __repr__(self) -> str:
        fused = "" if self.activation is None else f", activation={self.activation.name!r}"
        return (
            f"BatchNorm({self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, track_running_stats={self.track_running_stats}, "
            f"axis={self.axis}{fused})"
        )
