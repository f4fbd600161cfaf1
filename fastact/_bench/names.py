"""Where a benchmark knows an activation by its name: what others call it, and the few it picks.

Peers are looked up by our name, so a new row of the table is compared by itself. Here stands only
what that cannot find. Every function is held to `fastact.reference` before it is timed.
"""

from __future__ import annotations

import numpy as np

QUICK = ("relu", "leaky_relu", "elu", "sigmoid", "tanh", "gelu", "silu", "mish")
BATCH_NORM = ("relu", "leaky_relu", "silu", "gelu")
PICTURED = "silu"
SLOPED = "leaky_relu"  # has an inverse; torch has its own in place
ARITHMETIC, MEMORY_BOUND = "gelu", "relu"
CALL, YARDSTICK = "relu", np.tanh
ONEDNN = "relu"  # all that oneDNN fuses with BatchNorm

# other names in torch.nn.functional, torch, jax.nn, jax.numpy and scipy.special
SPELLINGS = {
    "exponential": ("exp",),
    "sigmoid": ("expit",),
    "logsigmoid": ("log_expit",),
    "silu": ("swish",),
    "identity": ("positive",),
    "hardtanh": ("hard_tanh",),
}

# one NumPy call that does it, with out=
NUMPY = {
    "identity": np.positive,
    "exponential": np.exp,
    "relu": lambda x, out=None: np.maximum(x, 0, out=out),
    "relu6": lambda x, out=None: np.clip(x, 0, 6, out=out),
    "hardtanh": lambda x, out=None: np.clip(x, -1, 1, out=out),
}
