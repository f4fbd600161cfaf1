"""BatchNorm over checked arrays: pointers in, a call without the GIL, nothing clever.

Callers (fastact._normalization) have checked everything: dtypes, shapes, contiguity of the small
arrays, writability. The small arrays are float64, a value (or a hi, lo pair) a channel.
"""

cimport numpy as cnp
from libc.stdlib cimport free, malloc
from libc.string cimport memset

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
    memset(&bn, 0, sizeof(bn))
    bn.real = real_of(x)
    bn.channels = cnp.PyArray_DIM(x, axis)
    bn.count = size // bn.channels if bn.channels else 0
    bn.activation = activation
    bn.params_per_channel = per_channel
    for p in range(FA_MAX_PARAMS):
        bn.params[p] = data_of(params[p]) if p < len(params) else NULL
    bn.total = bn.count
    return bn


cdef void count_in(fa_batchnorm *bn, object counted):
    """What of x counts: a fastact._counted.Counted, or None."""
    if counted is None:
        return
    bn.total = counted.total
    if counted.mask is not None:
        bn.mask = <const unsigned char *>cnp.PyArray_DATA(<cnp.ndarray>counted.mask)
    bn.weights = data_of(counted.weights)
    bn.first = <const ptrdiff_t *>cnp.PyArray_DATA(<cnp.ndarray>counted.first)
    bn.shares = data_of(counted.shares)


cdef const fa_view *maybe_view(object array, int axis, fa_view *view):
    """Of an array or None, in memory that the caller has."""
    if array is None:
        return NULL
    view[0] = view_of(<cnp.ndarray>array, axis)
    return view


def out_of_memory():
    raise MemoryError("fastact.batch_norm: no memory for the partial sums")


def batch_norm_forward(cnp.ndarray x, cnp.ndarray y, int axis, bint training, weight, bias, double eps,
                       int activation, tuple params, bint per_channel, cnp.ndarray table, counted=None,
                       residual=None):
    """y = activation(normalise(x) + residual). Fills the table of statistics; without training it holds mean
    and var before."""
    cdef fa_batchnorm bn = problem(x, axis, activation, params, per_channel)
    cdef fa_view x_view = view_of(x, axis), y_view = view_of(y, axis), residual_view
    cdef fa_statistics statistics = statistics_of(table)
    cdef int status
    bn.weight = data_of(weight)
    bn.bias = data_of(bias)
    bn.eps = eps
    bn.residual = maybe_view(residual, axis, &residual_view)
    count_in(&bn, counted)
    with nogil:
        status = api.batchnorm_forward(&bn, training, &x_view, &y_view, &statistics)
    if status:
        out_of_memory()


def batch_norm_statistics(cnp.ndarray x, int axis, cnp.ndarray table, counted=None):
    """Fills the means and variances of the table of statistics."""
    cdef fa_batchnorm bn = problem(x, axis, -1, (), False)
    cdef fa_view x_view = view_of(x, axis)
    cdef fa_statistics statistics = statistics_of(table)
    cdef int status
    count_in(&bn, counted)
    with nogil:
        status = api.batchnorm_statistics(&bn, &x_view, &statistics)
    if status:
        out_of_memory()


cdef class Lost:
    """The x that is not found again from y, as the kernels take it; keeps the arrays alive."""

    cdef fa_lost lost
    cdef object arrays
    cdef list channels
    cdef const void **pointers

    def __cinit__(self, list channels, cnp.ndarray begin, cnp.ndarray index, cnp.ndarray x):
        """channels: an array of x, or None where `index` and `x` list elements, `begin` to the next."""
        cdef ptrdiff_t c
        self.arrays, self.channels = (begin, index, x), channels
        self.pointers = <const void **>malloc((len(channels) + 1) * sizeof(void *))
        if self.pointers == NULL:
            raise MemoryError
        for c in range(len(channels)):
            self.pointers[c] = NULL if channels[c] is None else cnp.PyArray_DATA(<cnp.ndarray>channels[c])
        self.lost.channels = self.pointers
        self.lost.begin = <const ptrdiff_t *>cnp.PyArray_DATA(begin)
        self.lost.index = <const ptrdiff_t *>cnp.PyArray_DATA(index)
        self.lost.x = cnp.PyArray_DATA(x)

    def __reduce__(self):
        return Lost, (self.channels, *self.arrays)

    def __dealloc__(self):
        free(self.pointers)


def batch_norm_backward(int passes, cnp.ndarray dy, cnp.ndarray x, dx, int axis, bint training, double total,
                        int activation, tuple params, bint per_channel, cnp.ndarray table, cnp.ndarray sums,
                        counted=None, residual=None, g=None, bint from_output=False, Lost lost=None):
    """dx (None in the first pass alone), and sums (3, C): of g, g * (x - mean) and the learned
    parameter's. The second pass alone reads them. x is y where from_output is true."""
    cdef fa_batchnorm bn = problem(x, axis, activation, params, per_channel)
    cdef fa_view x_view = view_of(x, axis), dy_view = view_of(dy, axis), dx_view, residual_view, g_view
    cdef const fa_view *dx_pointer = maybe_view(dx, axis, &dx_view)
    cdef fa_statistics statistics = statistics_of(table)
    cdef double *rows = data_of(sums)
    cdef double *each[3]
    cdef int status
    count_in(&bn, counted)
    bn.total = total
    bn.residual = maybe_view(residual, axis, &residual_view)
    bn.g = maybe_view(g, axis, &g_view)
    bn.from_output = from_output
    if lost is not None:
        bn.lost = &lost.lost
    each[0], each[1], each[2] = rows, rows + bn.channels, rows + 2 * bn.channels
    with nogil:
        status = api.batchnorm_backward(&bn, <fa_passes>passes, training, &dy_view, &x_view, dx_pointer, &statistics,
                                        each)
    if status:
        out_of_memory()


def has_inverse(int activation):
    """Whether y gives z again: 0 no, 1 as far as its rounding allows, 2 always, with positive parameters."""
    return 2 if activation < 0 else api.inverses[activation]


def count_lost(cnp.ndarray x, int axis, weight, bias, double eps, int activation, tuple params, bint per_channel,
               cnp.ndarray table, double tolerance, cnp.ndarray counts, counted=None):
    """Into counts (C,): how many elements of x could not be found again from y."""
    cdef fa_batchnorm bn = problem(x, axis, activation, params, per_channel)
    cdef fa_view x_view = view_of(x, axis)
    cdef fa_statistics statistics = statistics_of(table)
    cdef double *out = data_of(counts)
    cdef int status
    bn.weight = data_of(weight)
    bn.bias = data_of(bias)
    bn.eps = eps
    count_in(&bn, counted)
    with nogil:
        status = api.batchnorm_count_lost(&bn, &x_view, &statistics, tolerance, out)
    if status:
        out_of_memory()


def recover(cnp.ndarray y, cnp.ndarray x, int axis, weight, bias, double eps, int activation, tuple params,
            bint per_channel, cnp.ndarray table, Lost lost=None):
    """x again from y."""
    cdef fa_batchnorm bn = problem(y, axis, activation, params, per_channel)
    cdef fa_view x_view = view_of(x, axis), y_view = view_of(y, axis)
    cdef fa_statistics statistics = statistics_of(table)
    cdef int status
    bn.weight = data_of(weight)
    bn.bias = data_of(bias)
    bn.eps = eps
    bn.from_output = True
    if lost is not None:
        bn.lost = &lost.lost
    with nogil:
        status = api.batchnorm_recover(&bn, &y_view, &x_view, &statistics)
    if status:
        out_of_memory()


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


cdef void update_running(cnp.ndarray running, const double *batch, double keep, double share, double scale):
    """running = keep * running + share * scale * batch, of contiguous float32 or float64."""
    if cnp.PyArray_TYPE(running) == cnp.NPY_FLOAT:
        move(<float *>cnp.PyArray_DATA(running), batch, cnp.PyArray_SIZE(running), keep, share, scale)
    else:
        move(<double *>cnp.PyArray_DATA(running), batch, cnp.PyArray_SIZE(running), keep, share, scale)


def track(cnp.ndarray running, cnp.ndarray batch, double keep, double share, double scale):
    """The same where `running` is such an array; whether it was one."""
    cdef int kind = cnp.PyArray_TYPE(running)
    cdef bint can = ((kind == cnp.NPY_FLOAT or kind == cnp.NPY_DOUBLE) and cnp.PyArray_ISCARRAY(running)
                     and cnp.PyArray_ISCARRAY_RO(batch))
    if can:
        update_running(running, data_of(batch), keep, share, scale)
    return can
