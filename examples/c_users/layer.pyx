# cython: language_level=3, boundscheck=False, wraparound=False
"""A Cython module that calls fastact's kernels by name, forward and backward, without the GIL.

>>> import numpy as np, layer
>>> layer.forward_backward("leaky_relu", np.array([-1.0, 2.0]), np.ones(2), [0.25])
(array([-0.25,  2.  ]), array([0.25, 1.  ]))
"""

import numpy as np

from fastact.capi cimport *

fastact_import()


def forward_backward(str activation, const double[::1] x, const double[::1] dy, parameters=None):
    """y = f(x) and dx = dy * f'(x) of any activation, in float64."""
    if x.shape[0] != dy.shape[0]:
        raise ValueError(f"dy: expected {x.shape[0]} elements, as x has, got {dy.shape[0]}")
    cdef int f = fastact_api.find(activation.encode()), status
    cdef double[::1] y = np.empty(x.shape[0]), dx = np.empty(x.shape[0])
    cdef double given[FASTACT_MAX_PARAMETERS]
    cdef const double *p = NULL
    if parameters is not None:
        if f < 0 or len(parameters) != fastact_api.describe(f).parameter_count:
            raise ValueError(f"parameters: {activation!r} takes others")
        for k, value in enumerate(parameters):
            given[k] = value
        p = given
    if x.shape[0] == 0:
        return np.asarray(y), np.asarray(dx)
    with nogil:
        status = fastact_api.forward(f, FASTACT_FLOAT64, &x[0], &y[0], x.shape[0], p)
        if status == FASTACT_OK:
            status = fastact_api.backward(f, FASTACT_FLOAT64, &dy[0], &x[0], &dx[0], NULL, x.shape[0], p)
    if status != FASTACT_OK:
        raise ValueError(f"activation: {activation!r} cannot be called so (status {status})")
    return np.asarray(y), np.asarray(dx)
