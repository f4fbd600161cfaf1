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


cdef fa_statistics statistics_of(cnp.ndarray table):
    """The rows of a (STATISTICS, channels) array: what a forward leaves to its backward."""
    cdef double *rows = data_of(table)
    cdef ptrdiff_t c = cnp.PyArray_DIM(table, 1)
    cdef fa_statistics s
    s.mean[0], s.mean[1] = rows, rows + c
    s.var[0], s.var[1] = rows + 2 * c, rows + 3 * c
    s.rstd = rows + 4 * c
    s.affine = fa_affine(rows + 5 * c, rows + 6 * c, rows + 7 * c, rows + 8 * c, rows + 9 * c, rows + 10 * c)
    return s


STATISTICS = 11
MEAN, VAR, RSTD = 0, 2, 4
BOTH_PASSES, FIRST_PASS, SECOND_PASS = FA_BOTH_PASSES, FA_FIRST_PASS, FA_SECOND_PASS


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
    bn.total = bn.count
    return bn


def batch_norm_forward(cnp.ndarray x, cnp.ndarray y, int axis, bint training, weight, bias, double eps,
                       int activation, tuple params, bint per_channel, cnp.ndarray table):
    """y = activation(normalise(x)). Fills the table of statistics; without training it holds mean and
    var before."""
    cdef fa_batchnorm bn = problem(x, axis, activation, params, per_channel)
    cdef fa_view x_view = view_of(x, axis), y_view = view_of(y, axis)
    cdef fa_statistics statistics = statistics_of(table)
    cdef int status
    bn.weight = data_of(weight)
    bn.bias = data_of(bias)
    bn.eps = eps
    with nogil:
        status = api.batchnorm_forward(&bn, training, &x_view, &y_view, &statistics)
    if status:
        raise MemoryError("fastact.batch_norm: no memory for the partial sums")


def batch_norm_statistics(cnp.ndarray x, int axis, cnp.ndarray table):
    """Fills the means and variances of the table of statistics."""
    cdef fa_batchnorm bn = problem(x, axis, -1, (), False)
    cdef fa_view x_view = view_of(x, axis)
    cdef fa_statistics statistics = statistics_of(table)
    cdef int status
    with nogil:
        status = api.batchnorm_statistics(&bn, &x_view, &statistics)
    if status:
        raise MemoryError("fastact.batch_norm_stats: no memory for the partial sums")


def batch_norm_backward(int passes, cnp.ndarray dy, cnp.ndarray x, dx, int axis, bint training, double total,
                        int activation, tuple params, bint per_channel, cnp.ndarray table, cnp.ndarray sums):
    """dx (None in the first pass alone), and sums (3, C): of g, g * (x - mean) and the learned
    parameter's. The second pass alone reads them."""
    cdef fa_batchnorm bn = problem(x, axis, activation, params, per_channel)
    cdef fa_view x_view = view_of(x, axis), dy_view = view_of(dy, axis), dx_view
    cdef fa_view *dx_pointer = NULL
    cdef fa_statistics statistics = statistics_of(table)
    cdef double *rows = data_of(sums)
    cdef double *each[3]
    cdef int status
    if dx is not None:
        dx_view = view_of(dx, axis)
        dx_pointer = &dx_view
    bn.total = total
    each[0], each[1], each[2] = rows, rows + bn.channels, rows + 2 * bn.channels
    with nogil:
        status = api.batchnorm_backward(&bn, <fa_passes>passes, training, &dy_view, &x_view, dx_pointer, &statistics,
                                        each)
    if status:
        raise MemoryError("fastact.batch_norm_backward: no memory for the partial sums")


def merge_statistics(cnp.ndarray counts, cnp.ndarray rows, cnp.ndarray total):
    """Merges (parts, 4, C) statistics (mean and m2, high and low parts) into (4, C); their count."""
    return api.merge_statistics(cnp.PyArray_DIM(rows, 0), cnp.PyArray_DIM(rows, 2), data_of(counts), data_of(rows),
                                data_of(total))


def scale_pairs(cnp.ndarray pairs, double factor, bint divide):
    """Multiplies or divides (2, C) numbers, high and low parts, in place."""
    api.scale_pairs(cnp.PyArray_DIM(pairs, 1), factor, divide, data_of(pairs))


def param_gradient(cnp.ndarray dy, cnp.ndarray x, int axis, int activation, cnp.ndarray values,
                   cnp.ndarray sums):
    """The gradient of a learned parameter with a value a channel, into sums (C,)."""
    cdef fa_batchnorm bn = problem(x, axis, activation, (values,), True)
    cdef fa_view x_view = view_of(x, axis), dy_view = view_of(dy, axis)
    cdef double *out = data_of(sums)
    cdef int status
    with nogil:
        status = api.param_gradient(&bn, &dy_view, &x_view, out)
    if status:
        raise MemoryError("fastact: no memory for the partial sums")


ctypedef fused running_dtype:
    float
    double


cdef void move(running_dtype *running, const double *batch, ptrdiff_t n, double keep, double share, double scale):
    for i in range(n):
        running[i] = <running_dtype>(keep * running[i] + share * (batch[i] * scale))


def track(cnp.ndarray running, cnp.ndarray batch, double keep, double share, double scale):
    """running = keep * running + share * scale * batch, of contiguous float32 or float64; whether it was one."""
    cdef ptrdiff_t n = cnp.PyArray_SIZE(batch)
    if not (cnp.PyArray_ISCARRAY(running) and cnp.PyArray_ISCARRAY_RO(batch)):
        return False
    if cnp.PyArray_TYPE(running) == cnp.NPY_FLOAT:
        move(<float *>cnp.PyArray_DATA(running), data_of(batch), n, keep, share, scale)
    elif cnp.PyArray_TYPE(running) == cnp.NPY_DOUBLE:
        move(<double *>cnp.PyArray_DATA(running), data_of(batch), n, keep, share, scale)
    else:
        return False
    return True
