"""The ordinary BatchNorm call without ceremony: on small arrays the checks of _call.py, in Python, cost ten times
the arithmetic.

Here a call runs whose arguments are all what most calls pass: NumPy's own arrays of float32 or float64 that need no
conversion, plain numbers, no option that few use. The others get None, with nothing written, and the caller takes the
long way, where everything is allowed that may be, and every refusal has its message. Results are the same bits.
"""

cimport numpy as cnp
from cpython.object cimport PyTypeObject
from libc.float cimport DBL_MAX
from libc.stdlib cimport free, malloc

from fastact._kernels cimport problem, statistics_of, update_running, view_of
from fastact._runtime cimport *

import dataclasses

from fastact._activation import Activation
from fastact._context import BatchNormContext, BatchNormGradients
from fastact._fusion import NOTHING, fuse
from fastact._kernels import MEAN, RSTD, STATISTICS, VAR

cnp.import_array()

cdef extern from "numpy/arrayobject.h":
    cnp.ndarray PyArray_View(cnp.ndarray, void *dtype, void *type)

cdef int MEAN_ROW = MEAN, VAR_ROW = VAR, RSTD_ROW = RSTD, TABLE_ROWS = STATISTICS


# ---- records ----------------------------------------------------------------------------------


cdef extern from "Python.h":
    object PyType_GenericAlloc(type kind, Py_ssize_t items)


cdef class Maker:
    """Makes records of a frozen dataclass with slots. Its own __init__ goes round what forbids to set a field, which
    took a third of a small call."""

    cdef type kind, slot
    cdef list slots, defaults

    def __cinit__(self, kind):
        self.kind = kind
        self.slots = [getattr(kind, field.name) for field in dataclasses.fields(kind)]
        self.slot = type(self.slots[0])
        self.defaults = [field.default for field in dataclasses.fields(kind)]

    cdef object make(self, tuple values):
        """The values of the first fields; the others have their defaults."""
        cdef object record = PyType_GenericAlloc(self.kind, 0), slot, value
        cdef Py_ssize_t given = len(values), i
        for i in range(len(self.slots)):
            slot, value = self.slots[i], values[i] if i < given else self.defaults[i]
            (<PyTypeObject *>self.slot).tp_descr_set(slot, record, value)
        return record


cdef Maker contexts = Maker(BatchNormContext), gradients = Maker(BatchNormGradients)

# ---- what is ordinary -------------------------------------------------------------------------


cdef inline bint is_data(object a):
    """An array whose elements the kernels can read as they are."""
    cdef int kind
    if type(a) is not cnp.ndarray:
        return False
    kind = cnp.PyArray_TYPE(<cnp.ndarray>a)
    return (kind == cnp.NPY_FLOAT or kind == cnp.NPY_DOUBLE) and cnp.PyArray_ISBEHAVED_RO(<cnp.ndarray>a)


cdef cnp.ndarray own_view(object a):
    """The same memory under a shape that nobody else can change: other threads might, and what garbage collection
    calls."""
    return PyArray_View(<cnp.ndarray>a, NULL, NULL)


cdef object own_view_or_none(object a):
    return own_view(a) if type(a) is cnp.ndarray else a


cdef inline bint is_vector(object a, ptrdiff_t channels):
    """One that has a number a channel, side by side."""
    return (is_data(a) and cnp.PyArray_NDIM(<cnp.ndarray>a) == 1 and cnp.PyArray_DIM(<cnp.ndarray>a, 0) == channels
            and cnp.PyArray_IS_C_CONTIGUOUS(<cnp.ndarray>a))


cdef inline bint is_vector_or_none(object a, ptrdiff_t channels):
    return a is None or is_vector(a, channels)


cdef inline bint in_range(object number, double low, double high):
    return type(number) is float and low <= <double>number <= high


cdef struct Extent:
    char *begin
    char *end


cdef Extent extent(cnp.ndarray a):
    """Between which bytes its elements lie."""
    cdef Extent e
    cdef ptrdiff_t reach
    cdef int d
    e.begin = <char *>cnp.PyArray_DATA(a)
    e.end = e.begin + cnp.PyArray_ITEMSIZE(a)
    for d in range(cnp.PyArray_NDIM(a)):
        reach = (cnp.PyArray_DIM(a, d) - 1) * cnp.PyArray_STRIDE(a, d)
        if reach < 0:
            e.begin += reach
        else:
            e.end += reach
    return e


cdef bint is_apart(cnp.ndarray a, cnp.ndarray b):
    cdef Extent one = extent(a), other = extent(b)
    return one.end <= other.begin or one.begin >= other.end


cdef bint can_be_updated(object mean, object var, cnp.ndarray x):
    return (cnp.PyArray_ISWRITEABLE(<cnp.ndarray>mean) and cnp.PyArray_ISWRITEABLE(<cnp.ndarray>var)
            and is_apart(mean, var) and is_apart(mean, x) and is_apart(var, x))


cdef bint has_own_places(cnp.ndarray a):
    """Whether each axis steps over all that the axes with shorter steps reach: then no two elements are one."""
    cdef ptrdiff_t step, other, reach
    cdef int d, e
    for d in range(cnp.PyArray_NDIM(a)):
        step, reach = abs(cnp.PyArray_STRIDE(a, d)), cnp.PyArray_ITEMSIZE(a)
        for e in range(cnp.PyArray_NDIM(a)):
            other = abs(cnp.PyArray_STRIDE(a, e))
            if other < step or (other == step and e < d):
                reach += (cnp.PyArray_DIM(a, e) - 1) * other
        if step < reach and cnp.PyArray_DIM(a, d) > 1:
            return False
    return True


cdef bint can_be_written(object out, cnp.ndarray x):
    """Whether results that are like x may go there, where it is apart from what is read."""
    return (is_data(out) and cnp.PyArray_TYPE(<cnp.ndarray>out) == cnp.PyArray_TYPE(x)
            and cnp.PyArray_SAMESHAPE(<cnp.ndarray>out, x) and cnp.PyArray_ISWRITEABLE(<cnp.ndarray>out)
            and has_own_places(<cnp.ndarray>out))


cdef bint are_same(cnp.ndarray a, cnp.ndarray b):
    """Whether arrays of one shape are the same elements."""
    cdef int d
    if cnp.PyArray_DATA(a) != cnp.PyArray_DATA(b):
        return False
    for d in range(cnp.PyArray_NDIM(a)):
        if cnp.PyArray_STRIDE(a, d) != cnp.PyArray_STRIDE(b, d):
            return False
    return True


cdef bint is_apart_from_all(cnp.ndarray out, tuple others):
    for other in others:
        if other is not None and not is_apart(out, other):
            return False
    return True


# ---- small arrays -----------------------------------------------------------------------------


cdef double *widen(object vector, double *values):
    """A vector as float64; NULL for None."""
    cdef cnp.ndarray a
    cdef float *narrow
    cdef double *wide
    cdef ptrdiff_t c
    if vector is None:
        return NULL
    a = vector
    narrow, wide = <float *>cnp.PyArray_DATA(a), <double *>cnp.PyArray_DATA(a)
    for c in range(cnp.PyArray_DIM(a, 0)):
        values[c] = narrow[c] if cnp.PyArray_TYPE(a) == cnp.NPY_FLOAT else wide[c]
    return values


cdef object dtype_of(object vector):
    return None if vector is None else (<cnp.ndarray>vector).dtype


cdef cnp.ndarray narrowed(cnp.dtype dtype, ptrdiff_t channels, const double *values, const double *factors):
    """A new vector: the values, or their products with the factors, in float32 or float64."""
    cdef cnp.npy_intp length = channels
    cdef int kind = dtype.num
    cdef ptrdiff_t c
    cdef cnp.ndarray a = cnp.PyArray_EMPTY(1, &length, kind, 0)
    cdef float *narrow = <float *>cnp.PyArray_DATA(a)
    cdef double *wide = <double *>cnp.PyArray_DATA(a)
    cdef double value
    for c in range(channels):
        value = values[c] if factors == NULL else values[c] * factors[c]
        if kind == cnp.NPY_FLOAT:
            narrow[c] = <float>value
        else:
            wide[c] = value
    return a


cdef cnp.ndarray zeros(ptrdiff_t rows, ptrdiff_t channels):
    cdef cnp.npy_intp[2] shape
    shape[0], shape[1] = rows, channels
    return cnp.PyArray_ZEROS(2, shape, cnp.NPY_DOUBLE, 0)


cdef cnp.ndarray row_of(cnp.ndarray table, int row):
    """A view, read-only."""
    cdef cnp.npy_intp channels = cnp.PyArray_DIM(table, 1)
    cdef cnp.ndarray view = cnp.PyArray_SimpleNewFromData(
        1, &channels, cnp.NPY_DOUBLE, <double *>cnp.PyArray_DATA(table) + row * channels)
    cnp.PyArray_CLEARFLAGS(view, cnp.NPY_ARRAY_WRITEABLE)
    cnp.set_array_base(view, table)
    return view


# ---- activations ------------------------------------------------------------------------------

cdef dict known = {None: (NOTHING, -1)}  # those with their default parameters -> Fused, row of the table


cdef tuple find(object activation):
    """Or None: one that learns, or requires, a parameter, or none at all."""
    if not (activation is None or type(activation) is str or type(activation) is Activation):
        return None
    found = known.get(activation)
    return remember(activation) if found is None else found


cdef tuple remember(object activation):
    try:
        fused = fuse(activation, None, 0)
    except (TypeError, ValueError):
        return None
    known[activation] = fused, fused.row
    return known[activation]


# ---- forward ----------------------------------------------------------------------------------


cdef int channel_axis(cnp.ndarray x, object axis):
    """The position of a Python integer, or -1."""
    cdef int ndim = cnp.PyArray_NDIM(x), position
    if ndim < 2 or type(axis) is not int or not -ndim <= axis < ndim:
        return -1
    position = axis
    return position if position >= 0 else position + ndim


cdef bint are_ordinary_statistics(object mean, object var, bint training, cnp.ndarray x, ptrdiff_t channels):
    if mean is None or var is None:
        return mean is var and training
    return (is_vector(mean, channels) and is_vector(var, channels)
            and (not training or can_be_updated(mean, var, x)))


def forward(x, weight, bias, running_mean, running_var, training, momentum, eps, axis, activation, convention,
            save_for_backward, out, *unusual):
    """(y, context), or None. The arguments of _call.forward; `unusual` are those that are None in most calls."""
    cdef bint computes = training is True
    cdef int position
    cdef ptrdiff_t channels
    cdef uint64_t environment
    for argument in unusual:
        if argument is not None:
            return None
    if not is_data(x):
        return None
    into, x, out = out, own_view(x), own_view_or_none(out)
    if not ( (computes or training is False) and convention == "torch"
            and (save_for_backward is None or save_for_backward == "input")
            and in_range(eps, 0.0, DBL_MAX) and in_range(momentum, 0.0, 1.0)):
        return None
    position = channel_axis(x, axis)
    if position < 0 or cnp.PyArray_SIZE(x) == 0:
        return None
    channels = cnp.PyArray_DIM(x, position)
    if not (is_vector_or_none(weight, channels) and is_vector_or_none(bias, channels)
            and are_ordinary_statistics(running_mean, running_var, computes, x, channels)
            and not (computes and cnp.PyArray_SIZE(x) == channels)):
        return None
    if out is not None and not (
            can_be_written(out, x)
            and ((save_for_backward is None and are_same(out, x)) or is_apart(out, x))
            and is_apart_from_all(out, (weight, bias, running_mean, running_var))):
        return None
    found = find(activation)
    if found is None:
        return None
    environment = enter_environment()
    try:
        y, context = run(x, weight, bias, running_mean, running_var, computes, momentum, eps, position, found[0],
                         found[1], save_for_backward is not None, out)
        return (y if into is None else into), context
    finally:
        leave_environment(environment)


cdef tuple run(cnp.ndarray x, object weight, object bias, object running_mean, object running_var, bint training,
               double momentum, double eps, int axis, object fused, int row, bint saves, object out):
    cdef fa_batchnorm bn = problem(x, axis, row, fused.values, False)
    cdef cnp.ndarray y = new_like(x, cnp.PyArray_TYPE(x)) if out is None else out
    cdef cnp.ndarray table = zeros(TABLE_ROWS, bn.channels)
    cdef fa_statistics statistics = statistics_of(table)
    cdef fa_view x_view = view_of(x, axis), y_view = view_of(y, axis)
    cdef double *wide = <double *>malloc(2 * bn.channels * sizeof(double))
    cdef int status
    if wide == NULL:
        raise MemoryError("fastact.batch_norm: no memory for weight and bias")
    bn.weight, bn.bias = widen(weight, wide), widen(bias, wide + bn.channels)
    bn.eps = eps
    if not training:
        widen(running_mean, statistics.mean[0])
        widen(running_var, statistics.var[0])
    with nogil:
        status = api.batchnorm_forward(&bn, training, &x_view, &y_view, &statistics)
    free(wide)
    if status:
        raise MemoryError("fastact.batch_norm: no memory for the partial sums")
    if training and running_mean is not None:
        update_running(running_mean, statistics.mean[0], 1.0 - momentum, momentum, 1.0)
        update_running(running_var, statistics.var[0], 1.0 - momentum, momentum,
                       <double>bn.count / (bn.count - 1))
    if not saves:
        return y, None
    cnp.PyArray_CLEARFLAGS(table, cnp.NPY_ARRAY_WRITEABLE)
    mean, var = row_of(table, MEAN_ROW), row_of(table, VAR_ROW)
    return y, contexts.make(
        (x, mean, var, bn.count, training, axis, table, fused, dtype_of(weight), dtype_of(bias)))


cdef bint fits(object ctx, cnp.ndarray x):
    """Whether the channels of x are those of the context's table: the shape of ctx.x can be changed."""
    cdef cnp.ndarray table = ctx._table
    cdef int axis = ctx._axis
    return (cnp.PyArray_TYPE(table) == cnp.NPY_DOUBLE and cnp.PyArray_NDIM(table) == 2
            and cnp.PyArray_DIM(table, 0) == TABLE_ROWS and cnp.PyArray_IS_C_CONTIGUOUS(table)
            and axis < cnp.PyArray_NDIM(x) and cnp.PyArray_DIM(table, 1) == cnp.PyArray_DIM(x, axis))


cdef bint is_narrowed_to(object dtype):
    """Whether `narrowed` knows it; half precision goes the long way."""
    return dtype is None or (<cnp.dtype>dtype).num in (cnp.NPY_FLOAT, cnp.NPY_DOUBLE)


cdef bint is_ordinary(object ctx):
    """Whether a context is one that `forward` above leaves, or would."""
    return (type(ctx) is BatchNormContext and ctx._comm is None and ctx.residual is None and ctx._counted is None
            and ctx.y is None and is_narrowed_to(ctx._weight) and is_narrowed_to(ctx._bias))


def backward(dy, ctx, out):
    """Gradients, or None."""
    cdef cnp.ndarray x
    cdef uint64_t environment
    if not (is_ordinary(ctx) and is_data(dy)):
        return None
    if not is_data(ctx.x):
        return None
    into, dy, x, out = out, own_view(dy), own_view(ctx.x), own_view_or_none(out)
    if not (cnp.PyArray_TYPE(x) == cnp.PyArray_TYPE(dy) and cnp.PyArray_SAMESHAPE(x, dy) and fits(ctx, x)):
        return None
    if out is not None and not (can_be_written(out, x) and is_apart(out, x)
                                and (are_same(out, dy) or is_apart(out, dy))):
        return None
    found = find(ctx._fused.name)
    if found is None or found[0] is not ctx._fused:
        return None
    environment = enter_environment()
    try:
        return differentiate(dy, x, ctx, found[1], out, into)
    finally:
        leave_environment(environment)


cdef object differentiate(cnp.ndarray dy, cnp.ndarray x, object ctx, int row, object out, object into):
    cdef int axis = ctx._axis, status, i
    cdef bint training = ctx.training
    cdef fa_batchnorm bn = problem(x, axis, row, ctx._fused.values, False)
    cdef cnp.ndarray dx = new_like(x, cnp.PyArray_TYPE(x)) if out is None else out
    cdef cnp.ndarray sums = zeros(3, bn.channels), table = ctx._table
    cdef fa_statistics statistics = statistics_of(table)
    cdef fa_view x_view = view_of(x, axis), dy_view = view_of(dy, axis), dx_view = view_of(dx, axis)
    cdef double *each[3]
    for i in range(3):
        each[i] = <double *>cnp.PyArray_DATA(sums) + i * bn.channels
    with nogil:
        status = api.batchnorm_backward(&bn, FA_BOTH_PASSES, training, &dy_view, &x_view, &dx_view, &statistics, each)
    if status:
        raise MemoryError("fastact.batch_norm: no memory for the partial sums")
    weight = None if ctx._weight is None else narrowed(ctx._weight, bn.channels, each[1], statistics.rstd)
    bias = None if ctx._bias is None else narrowed(ctx._bias, bn.channels, each[0], NULL)
    return gradients.make((dx if into is None else into, weight, bias))
