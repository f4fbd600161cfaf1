"""class Activation: a ufunc with named parameters, defaults and a backward.

A call with exact float arrays goes straight to the N-dimensional driver, with whatever strides,
broadcast parameters or casts. Everything else (subclasses, other array libraries, scalars, `where=`,
overlapping output, errors) goes to the ufunc, which is NumPy's own machinery around the same kernels:
the results are the same bits.
"""

import numpy as np

cimport numpy as cnp
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_CheckExact
from cpython.object cimport PyObject, PyTypeObject

from fastact import _kernels, _ufuncs
from fastact._runtime cimport *

cnp.import_array()


cdef extern from *:
    """
    #define FA_NARGS(n) ((int)PyVectorcall_NARGS(n))
    static void set_vectorcall(PyTypeObject *type, Py_ssize_t offset)
    {
        type->tp_vectorcall_offset = offset;
        type->tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL;
        PyType_Modified(type);
    }
    """
    int FA_NARGS(size_t)
    void set_vectorcall(PyTypeObject *, Py_ssize_t)
    ctypedef PyObject *(*vectorcallfunc)(PyObject *, PyObject **, size_t, PyObject *) noexcept
    bint PyArray_CheckExact(PyObject *)
    bint PyArray_ISBEHAVED_RO(cnp.ndarray)
    bint PyArray_ISNOTSWAPPED(cnp.ndarray)
    bint PyArray_ISWRITEABLE(cnp.ndarray)
    bint PyArray_IS_C_CONTIGUOUS(cnp.ndarray)
    int PyUnicode_Compare(PyObject *, object) except? -2
    Py_ssize_t PyTuple_GET_SIZE(PyObject *)
    PyObject *PyTuple_GET_ITEM(PyObject *, Py_ssize_t)
    cnp.ndarray PyArray_NewLikeArray(cnp.ndarray, cnp.NPY_ORDER, PyObject *, int)
    PyObject *PyArray_DescrFromType(int)
    void Py_INCREF(PyObject *)


# A call this small keeps the GIL: releasing it costs more than the work.
cdef enum:
    GIL_ELEMENTS = 2048


cdef int dtype_of(cnp.ndarray a) noexcept:
    """The driver's code for an array's dtype, or -1."""
    cdef int kind = cnp.PyArray_TYPE(a)
    if kind == cnp.NPY_FLOAT:
        return FA_FLOAT32
    if kind == cnp.NPY_DOUBLE:
        return FA_FLOAT64
    if kind > cnp.NPY_ULONGLONG:
        return -1
    if kind == cnp.NPY_BOOL:
        return FA_UINT8
    return integer_dtype(cnp.PyArray_ITEMSIZE(a), kind in (cnp.NPY_BYTE, cnp.NPY_SHORT, cnp.NPY_INT,
                                                          cnp.NPY_LONG, cnp.NPY_LONGLONG))


cdef int integer_dtype(cnp.npy_intp size, bint signed) noexcept:
    if size == 1:
        return FA_INT8 if signed else FA_UINT8
    if size == 2:
        return FA_INT16 if signed else FA_UINT16
    if size == 4:
        return FA_INT32 if signed else FA_UINT32
    return FA_INT64 if signed else FA_UINT64


cdef fa_dtype real_for(int dtype) noexcept:
    """What NumPy's safe casting gives: float32 holds float32 and integers of up to 16 bits."""
    return FA_FLOAT32 if dtype == FA_FLOAT32 or dtype <= FA_UINT16 else FA_FLOAT64


cdef bint same_layout(cnp.ndarray a, cnp.ndarray b) noexcept:
    """The very same elements."""
    cdef int axis
    if cnp.PyArray_DATA(a) != cnp.PyArray_DATA(b) or cnp.PyArray_TYPE(a) != cnp.PyArray_TYPE(b):
        return False
    for axis in range(cnp.PyArray_NDIM(a)):
        if cnp.PyArray_STRIDE(a, axis) != cnp.PyArray_STRIDE(b, axis):
            return False
    return True


cdef void bounds(cnp.ndarray a, char **low, char **high) noexcept:
    cdef int axis
    cdef cnp.npy_intp reach
    low[0] = high[0] = <char *>cnp.PyArray_DATA(a)
    for axis in range(cnp.PyArray_NDIM(a)):
        reach = (cnp.PyArray_DIM(a, axis) - 1) * cnp.PyArray_STRIDE(a, axis)
        if reach < 0:
            low[0] += reach
        else:
            high[0] += reach
    high[0] += cnp.PyArray_ITEMSIZE(a)


cdef bint may_overlap(cnp.ndarray a, cnp.ndarray b) noexcept:
    cdef char *a_low, *a_high, *b_low, *b_high
    bounds(a, &a_low, &a_high)
    bounds(b, &b_low, &b_high)
    return a_low < b_high and b_low < a_high


cdef bint internal_overlap(cnp.ndarray a) noexcept:
    """Whether two indices might reach the same element (a stride of 0, say); True when unsure."""
    cdef int i, j, n = cnp.PyArray_NDIM(a)
    cdef cnp.npy_intp step, reach
    if PyArray_IS_C_CONTIGUOUS(a):
        return False
    for i in range(n):
        if cnp.PyArray_DIM(a, i) < 2:
            continue
        step = abs(cnp.PyArray_STRIDE(a, i))
        reach = cnp.PyArray_ITEMSIZE(a)
        for j in range(n):
            if j != i and abs(cnp.PyArray_STRIDE(a, j)) <= step and cnp.PyArray_DIM(a, j) > 1:
                if abs(cnp.PyArray_STRIDE(a, j)) == step:
                    return True
                reach += (cnp.PyArray_DIM(a, j) - 1) * abs(cnp.PyArray_STRIDE(a, j))
        if step < reach:
            return True
    return False


cdef struct Broadcast:
    double value  # a scalar parameter
    ptrdiff_t strides[FA_MAX_NDIM]


cdef bint bind_array(cnp.ndarray x, cnp.ndarray param, fa_operand *operand, Broadcast *b) noexcept:
    """A parameter array that broadcasts to x's shape; 0 where the ufunc must decide."""
    cdef int extra = cnp.PyArray_NDIM(x) - cnp.PyArray_NDIM(param), axis, dtype = dtype_of(param)
    if dtype < 0 or extra < 0 or not PyArray_ISNOTSWAPPED(param):
        return False
    for axis in range(cnp.PyArray_NDIM(x)):
        b.strides[axis] = 0
        if axis < extra or cnp.PyArray_DIM(param, axis - extra) == 1:
            continue
        if cnp.PyArray_DIM(param, axis - extra) != cnp.PyArray_DIM(x, axis):
            return False
        b.strides[axis] = cnp.PyArray_STRIDE(param, axis - extra)
    operand.data = <char *>cnp.PyArray_DATA(param)
    operand.dtype = <fa_dtype>dtype
    operand.strides = b.strides
    return True


cdef bint bind_param(cnp.ndarray x, PyObject *param, fa_operand *operand, Broadcast *b) except -1:
    cdef int axis
    if PyFloat_CheckExact(<object>param):
        b.value = PyFloat_AS_DOUBLE(<object>param)
    elif PyArray_CheckExact(param):
        return bind_array(x, <cnp.ndarray>param, operand, b)
    elif PyLong_CheckExact(<object>param) or isinstance(<object>param, np.floating):
        if isinstance(<object>param, (np.longdouble, np.float16)):
            return False
        b.value = <object>param
    else:
        return False
    for axis in range(cnp.PyArray_NDIM(x)):
        b.strides[axis] = 0
    operand.data = <char *>&b.value
    operand.dtype = FA_FLOAT64
    operand.strides = b.strides
    return True


cdef bint bind_data(cnp.ndarray a, fa_operand *operand) noexcept:
    cdef int dtype = dtype_of(a)
    if dtype < 0 or not PyArray_ISNOTSWAPPED(a):
        return False
    operand.data = <char *>cnp.PyArray_DATA(a)
    operand.dtype = <fa_dtype>dtype
    operand.strides = <const ptrdiff_t *>cnp.PyArray_STRIDES(a)
    return True


cdef bint same_shape(cnp.ndarray a, cnp.ndarray b) noexcept:
    cdef int axis
    if cnp.PyArray_NDIM(a) != cnp.PyArray_NDIM(b):
        return False
    for axis in range(cnp.PyArray_NDIM(a)):
        if cnp.PyArray_DIM(a, axis) != cnp.PyArray_DIM(b, axis):
            return False
    return True


cdef bint good_output(cnp.ndarray out, PyObject **inputs, int ninputs) noexcept:
    """Writable floats of x's shape that share no memory with an input, or are that input."""
    cdef int k
    cdef cnp.ndarray x = <cnp.ndarray>inputs[0]
    if (not PyArray_ISWRITEABLE(out) or not PyArray_ISNOTSWAPPED(out) or not same_shape(out, x)
            or dtype_of(out) < FA_FLOAT32 or internal_overlap(out)):
        return False
    for k in range(ninputs):
        if PyArray_CheckExact(inputs[k]):
            if same_layout(out, <cnp.ndarray>inputs[k]) and same_shape(out, <cnp.ndarray>inputs[k]):
                continue
            if may_overlap(out, <cnp.ndarray>inputs[k]):
                return False
    return True


cdef cnp.ndarray new_result(cnp.ndarray x, fa_dtype real):
    cdef int kind = cnp.NPY_FLOAT if real == FA_FLOAT32 else cnp.NPY_DOUBLE
    if PyArray_IS_C_CONTIGUOUS(x):
        return cnp.PyArray_EMPTY(cnp.PyArray_NDIM(x), cnp.PyArray_DIMS(x), kind, 0)
    return PyArray_NewLikeArray(x, cnp.NPY_KEEPORDER, PyArray_DescrFromType(kind), 0)


cdef object fast_call(fa_op *op, PyObject **inputs, PyObject *out):
    """The driver's result, or None where NumPy's machinery has to see to the call.

    `inputs`: the data operands, then the parameters. Exact arrays of one shape, any strides."""
    cdef fa_operand operands[FA_MAX_OPERANDS]
    cdef Broadcast params[FA_MAX_PARAMS]
    cdef int nparams = api.activations[op.activation].nparams, ndata = 1 + op.backward, k
    cdef cnp.ndarray x = <cnp.ndarray>inputs[0], result
    cdef const ptrdiff_t *shape
    cdef cnp.npy_intp size
    cdef int ndim
    if cnp.PyArray_NDIM(x) == 0:
        return None
    op.real = FA_FLOAT32
    for k in range(ndata):
        if (k and not same_shape(x, <cnp.ndarray>inputs[k])) or not bind_data(<cnp.ndarray>inputs[k],
                                                                             &operands[k]):
            return None
        if real_for(operands[k].dtype) == FA_FLOAT64:
            op.real = FA_FLOAT64
    for k in range(nparams):
        if not bind_param(x, inputs[ndata + k], &operands[ndata + k], &params[k]):
            return None
    if out != NULL:
        if not good_output(<cnp.ndarray>out, inputs, ndata + nparams):
            return None
        result = <cnp.ndarray>out
    else:
        result = new_result(x, op.real)
    bind_data(result, &operands[ndata + nparams])
    shape = <const ptrdiff_t *>cnp.PyArray_DIMS(x)
    ndim = cnp.PyArray_NDIM(x)
    size = cnp.PyArray_SIZE(x)
    if size < GIL_ELEMENTS:
        api.elementwise(op, ndim, shape, operands)
    else:
        with nogil:
            api.elementwise(op, ndim, shape, operands)
    return result
