"""fastact for JAX: the activations and fused BatchNorm on the CPU, under jit, grad and vmap.

>>> import jax.numpy as jnp, fastact.jax as faj
>>> y, mean, var = faj.batch_norm(jnp.ones((4, 3)), training=True, activation="relu")
>>> y.shape
(4, 3)

They are custom calls through XLA's foreign function interface, registered when this is imported;
nothing is compiled. fastact itself never imports jax.

Derivatives are those of reverse mode: grad, vjp and jacrev, twice too; jvp, jacfwd and hessian
raise. Parameters that are numbers are compiled in: no gradient and no vmap over them. jax.export
refuses custom calls such as these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastact.jax._activations import functions
from fastact.jax._batch_norm import batch_norm

if TYPE_CHECKING:
    from collections.abc import Callable

    import jax

    def __getattr__(name: str) -> Callable[..., jax.Array]: ...  # the activations


globals().update(functions)
__all__ = [*functions, "batch_norm"]
