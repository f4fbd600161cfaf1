"""BatchNorm over checked arrays: pointers in, a call without the GIL, nothing clever.

Callers (fastact._normalization) have checked everything: dtypes, shapes, contiguity of the small
arrays, writability. The small arrays are float64, a value (or a hi, lo pair) a channel.
"""

cimport numpy as cnp

from fastact._runtime cimport *

cnp.import_array()


cdef fa_view view_of(cnp.ndarray a, int axis):
    return api.make_view(<char *>cnp.PyArray_DATA(a), real_of(a), cnp.PyArray_NDIM(a),
                         <const ptrdiff_t *>cnp.PyArray_DIMS(a),
                         <const ptrdiff_t *>cnp.PyArray_STRIDES(a), axis)


cdef extern from *:
    int NPY_HALF


cdef fa_dtype real_of(cnp.ndarray a):
    """Callers let the four floating dtypes pass; what is none of NumPy's three is bfloat16."""
    cdef int kind = cnp.PyArray_TYPE(a)
    if kind == cnp.NPY_FLOAT:
        return FA_FLOAT32
    if kind == cnp.NPY_DOUBLE:
        return FA_FLOAT64
    return FA_FLOAT16 if kind == NPY_HALF else FA_BFLOAT16


cdef double *data_of(object a):
    return NULL if a is None else <double *>cnp.PyArray_DATA(<cnp.ndarray>a)


cdef fa_affine affine_of(cnp.ndarray a):
    """The five rows of a (5, channels) array."""
    cdef double *rows = data_of(a)
    cdef ptrdiff_t c = cnp.PyArray_DIM(a, 1)
    return fa_affine(rows, rows + c, rows + 2 * c, rows + 3 * c, rows + 4 * c)


cdef fa_batchnorm problem(cnp.ndarray x, int axis, int activation, tuple params, bint per_channel):
    cdef fa_batchnorm bn
    cdef ptrdiff_t size = cnp.PyArray_SIZE(x)
    bn.real = real_of(x)
    bn.channels = cnp.PyArray_DIM(x, axis)
    bn.count = size // bn.channels if bn.channels else 0
    bn.activation = activation
    bn.params_per_channel = per_channel
    for p in range(FA_MAX_PARAMS):
        bn.params[p] = data_of(params[p]) if p < len(params) else NULL
    bn.weight = NULL
    bn.bias = NULL
    bn.eps = 0
    return bn


def batch_norm_forward(cnp.ndarray x, cnp.ndarray y, int axis, bint training, weight, bias, double eps,
                       int activation, tuple params, bint per_channel,
                       cnp.ndarray mean, cnp.ndarray var, cnp.ndarray affine, cnp.ndarray rstd):
    """y = activation(normalise(x)). Fills affine (5, C) and rstd (C,); in training also mean and
    var, which are (C, 2) pairs."""
    cdef fa_batchnorm bn = problem(x, axis, activation, params, per_channel)
    cdef fa_view x_view = view_of(x, axis), y_view = view_of(y, axis)
    cdef fa_affine rows = affine_of(affine)
    cdef fa_pair *mean_pairs = <fa_pair *>data_of(mean)
    cdef fa_pair *var_pairs = <fa_pair *>data_of(var)
    cdef double *rstd_data = data_of(rstd)
    cdef int status
    bn.weight = data_of(weight)
    bn.bias = data_of(bias)
    bn.eps = eps
    with nogil:
        status = api.batchnorm_forward(&bn, training, &x_view, &y_view, mean_pairs, var_pairs, &rows,
                                       rstd_data)
    if status:
        raise MemoryError("fastact.batch_norm: no memory for the partial sums")


def batch_norm_backward(cnp.ndarray dy, cnp.ndarray x, cnp.ndarray dx, int axis, bint training,
                        int activation, tuple params, bint per_channel,
                        cnp.ndarray affine, cnp.ndarray rstd, cnp.ndarray sums):
    """dx, and sums (C, 6): pairs of the sums of g, g * (x - mean) and the learned parameter's."""
    cdef fa_batchnorm bn = problem(x, axis, activation, params, per_channel)
    cdef fa_view x_view = view_of(x, axis), dy_view = view_of(dy, axis), dx_view = view_of(dx, axis)
    cdef fa_affine rows = affine_of(affine)
    cdef double *rstd_data = data_of(rstd)
    cdef fa_sums *out = <fa_sums *>data_of(sums)
    cdef int status
    with nogil:
        status = api.batchnorm_backward(&bn, training, &dy_view, &x_view, &dx_view, &rows, rstd_data, out)
    if status:
        raise MemoryError("fastact.batch_norm_backward: no memory for the partial sums")


def param_gradient(cnp.ndarray dy, cnp.ndarray x, int axis, int activation, cnp.ndarray values,
                   cnp.ndarray sums):
    """The gradient of a learned parameter with a value a channel: the last pair of sums (C, 6)."""
    cdef fa_batchnorm bn = problem(x, axis, activation, (values,), True)
    cdef fa_view x_view = view_of(x, axis), dy_view = view_of(dy, axis)
    cdef fa_sums *out = <fa_sums *>data_of(sums)
    cdef int status
    with nogil:
        status = api.param_gradient(&bn, &dy_view, &x_view, out)
    if status:
        raise MemoryError("fastact: no memory for the partial sums")
