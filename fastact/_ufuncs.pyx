"""The kernels as NumPy ufuncs, a forward and a backward one for each row of the tables.

A ufunc is an attribute of this module under its name (`gelu`, `gelu_backward`), which is how pickle
finds it.
"""

import numpy as np

cimport numpy as cnp
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdlib cimport calloc, free

from fastact._runtime cimport *

cnp.import_array()
cnp.import_ufunc()


cdef extern from *:
    """
    #define OPERAND_TYPE(op) PyArray_TYPE((PyArrayObject *)(op))
    #define GET_RESOLVER(u) ((void *)((PyUFuncObject *)(u))->type_resolver)
    #define SET_RESOLVER(u, f) \\
        ((PyUFuncObject *)(u))->type_resolver = (PyUFunc_TypeResolutionFunc *)(f)
    #define CALL_RESOLVER(f, u, c, ops, t, out) \\
        ((PyUFunc_TypeResolutionFunc *)(f))((PyUFuncObject *)(u), c, (PyArrayObject **)(ops), t, \\
                                            (PyArray_Descr **)(out))
    #define VALIDATE_CASTING(u, c, ops, out) \\
        PyUFunc_ValidateCasting((PyUFuncObject *)(u), c, (PyArrayObject **)(ops), (PyArray_Descr **)(out))
    #define REGISTER_LOOP(u, number, f, types, data) \\
        PyUFunc_RegisterLoopForType((PyUFuncObject *)(u), number, (PyUFuncGenericFunction)(f), types, data)
    """
    int NPY_HALF
    int NPY_USERDEF
    int OPERAND_TYPE(PyObject *)
    void *GET_RESOLVER(PyObject *)
    void SET_RESOLVER(PyObject *, void *)
    int VALIDATE_CASTING(PyObject *, cnp.NPY_CASTING, PyObject **, PyObject **) except -1
    int CALL_RESOLVER(void *, PyObject *, cnp.NPY_CASTING, PyObject **, PyObject *, PyObject **)
    int REGISTER_LOOP(PyObject *, int, void *, int *, void *) except -1


cdef void *numpys_resolver = NULL


cdef dict data_operands = {}  # name of a ufunc -> how many of its inputs are no parameters
cdef dict input_names = {}
cdef object float64 = cnp.PyArray_DescrFromType(cnp.NPY_DOUBLE)


cdef int resolve(PyObject *ufunc, cnp.NPY_CASTING casting, PyObject **operands, PyObject *dtypes,
                 PyObject **out) except -1:
    """NumPy's choice of a loop, less the silent promotion of half precision and of user dtypes."""
    cdef str name = (<object>ufunc).__name__
    cdef int ndata = data_operands[name], nin = (<cnp.ufunc>ufunc).nin, k
    wanted = None if dtypes == NULL else <tuple>dtypes
    if wanted is None:
        for k in range(nin):
            if not is_known(OPERAND_TYPE(operands[k])):
                check_user_dtype(name, k, (<object>operands[k]).dtype)
        if some_half(operands, nin + (<cnp.ufunc>ufunc).nout):
            wanted = loop_by_data([(<object>operands[k]).dtype for k in range(ndata)],
                                  some_half(operands, ndata), <cnp.ufunc>ufunc)
    if wanted is None:
        return CALL_RESOLVER(numpys_resolver, ufunc, casting, operands, NULL, out)
    wanted = with_wide_parameters(wanted, ndata, nin)
    loop = loop_of_bfloat16(wanted, ndata, nin)
    if loop is not None:
        return take_loop(ufunc, casting, operands, loop, out)
    return CALL_RESOLVER(numpys_resolver, ufunc, casting, operands, <PyObject *>wanted, out)


cdef bint is_known(int kind) noexcept:
    """bool, integers and floats of up to 64 bits."""
    return kind <= cnp.NPY_DOUBLE or kind == NPY_HALF


cdef bint is_half(int kind) noexcept:
    return kind == NPY_HALF or kind >= NPY_USERDEF


cdef bint some_half(PyObject **operands, int count) noexcept:
    for operand in operands[:count]:
        if operand != NULL and is_half(OPERAND_TYPE(operand)):
            return True
    return False


cdef tuple loop_by_data(list data, bint half, cnp.ufunc ufunc):
    """The loop that the data alone ask for: half precision is computed in what NumPy promotes the data to,
    where without this the first loop, of float32, would take it. Parameters and outputs are cast. NumPy
    itself would take bfloat16's loop for data of 8 bits with an output of bfloat16, and remember that choice
    for calls without one."""
    real = np.result_type(*data) if half else np.result_type(np.float32, *data)
    return (real,) * len(data) + (float64,) * (ufunc.nin - len(data)) + (real,) * ufunc.nout


cdef tuple with_wide_parameters(tuple dtypes, int ndata, int nin):
    """dtype= names the result only. Of the loops that give it NumPy would take the one with all
    operands alike, and round parameters to float32; they are float64 unless asked for otherwise."""
    if nin == ndata or any([dtype is not None for dtype in dtypes[:nin]]):
        return dtypes
    return (dtypes[nin],) * ndata + (float64,) * (nin - ndata) + dtypes[nin:]


# ---- bfloat16, which NumPy does not know: the dtype of the package ml_dtypes --------------------

cdef int bfloat16_number = -1


cdef tuple loop_of_bfloat16(tuple wanted, int ndata, int nin):
    """The dtypes of bfloat16's loop where dtype= asks for it, else None. NumPy itself looks for a user
    dtype's loops among those of the operands only."""
    found = [dtype for dtype in wanted if dtype is not None and number_of_bfloat16(dtype) >= 0]
    if not found:
        return None
    loop = (found[0],) * ndata + (float64,) * (nin - ndata) + (found[0],) * (len(wanted) - nin)
    same = all([dtype is None or dtype == own for dtype, own in zip(wanted, loop)])
    return loop if same else None


cdef int take_loop(PyObject *ufunc, cnp.NPY_CASTING casting, PyObject **operands, tuple loop,
                   PyObject **out) except -1:
    for k, dtype in enumerate(loop):
        Py_INCREF(dtype)
        out[k] = <PyObject *>dtype
    return VALIDATE_CASTING(ufunc, casting, operands, out)


def number_of_bfloat16(dtype):
    """NumPy's number of ml_dtypes.bfloat16 if dtype is that, else -1. At first sight of it the ufuncs
    get their loops for it: fastact itself never imports ml_dtypes."""
    global bfloat16_number
    cdef int number = dtype.num
    if number == bfloat16_number:
        return number
    kind = dtype.type
    if number < NPY_USERDEF or kind.__name__ != "bfloat16" or kind.__module__.split(".")[0] != "ml_dtypes":
        return -1
    for ufunc, row, backward, gated, part in registered:
        add_bfloat16_loop(<cnp.ufunc>ufunc, row, backward, gated, part, number)
    bfloat16_number = number
    return number


def check_user_dtype(name, operand, dtype):
    if number_of_bfloat16(dtype) < 0:
        raise TypeError(
            f"fastact.{name}: {input_names[name][operand]} has dtype {dtype}, for which there is no loop; "
            "accepted: float16, bfloat16, float32 and float64 (integers and bool are converted)"
        )


cdef list registered = []  # (ufunc, row, backward, gated, part)


cdef add_bfloat16_loop(cnp.ufunc ufunc, int row, bint backward, bint gated, int part, int number):
    cdef int *types = <int *>calloc(ufunc.nin + ufunc.nout, sizeof(int))
    cdef part_loop *loop = <part_loop *>calloc(1, sizeof(part_loop))  # NumPy keeps it for good
    if types == NULL or loop == NULL:
        free(types)
        free(loop)
        raise MemoryError()
    loop.whole.op = fa_op(row, backward, gated, FA_BFLOAT16)
    loop.whole.param_dtype = FA_FLOAT64
    loop.part = part
    for k in range(ufunc.nin + ufunc.nout):
        is_param = data_operands[ufunc.__name__] <= k < ufunc.nin
        types[k] = cnp.NPY_DOUBLE if is_param else number
    try:
        if REGISTER_LOOP(<PyObject *>ufunc, number, loop_function(part), types, loop) < 0:
            raise RuntimeError(f"fastact.{ufunc.__name__}: NumPy does not take the loop for bfloat16")
    finally:
        free(types)


# ---- one gradient of two -------------------------------------------------------------------------
#
# dask and polars know no ufunc with two results. For arrays of such libraries (fastact._protocols) a
# backward that gives two gradients is also there as two ufuncs.

cdef struct part_loop:
    fa_loop whole  # first: what a whole ufunc's loop reads
    int part


cdef enum:
    PART_ELEMENTS = 2048
    PART_ITEMSIZE = 8


cdef void run_part(char **args, const ptrdiff_t *dimensions, const ptrdiff_t *steps, void *data) noexcept nogil:
    """Three inputs, one result; the other one goes to a buffer."""
    cdef part_loop *loop = <part_loop *>data
    cdef char buffer[PART_ELEMENTS * PART_ITEMSIZE]
    cdef char *at[5]
    cdef ptrdiff_t strides[5]
    cdef ptrdiff_t done = 0, count
    cdef int k, wanted = 3 + loop.part, other = 4 - loop.part
    for k in range(3):
        strides[k] = steps[k]
    strides[wanted], strides[other] = steps[3], PART_ITEMSIZE
    while done < dimensions[0]:
        count = min(dimensions[0] - done, PART_ELEMENTS)
        for k in range(3):
            at[k] = args[k] + done * steps[k]
        at[wanted] = args[3] + done * steps[3]
        at[other] = buffer if loop.part or loop.whole.op.gated else NULL  # NULL: not computed
        api.ufunc_loop(at, &count, strides, &loop.whole)
        done += count


cdef void *loop_function(int part) noexcept:
    return <void *>api.ufunc_loop if part < 0 else <void *>run_part


# ---- the ufuncs ---------------------------------------------------------------------------------

cdef object names = []  # NumPy keeps the pointers of a ufunc's name and docstring, not the bytes


cdef const char *keep(str text):
    cdef bytes encoded = text.encode()
    names.append(encoded)
    return encoded


cdef char type_code(fa_dtype dtype):
    if dtype == FA_FLOAT16:
        return <char>NPY_HALF
    return <char>(cnp.NPY_FLOAT if dtype == FA_FLOAT32 else cnp.NPY_DOUBLE)


# (data and result, parameters), in the order in which NumPy tries them: parameters as float64 first, so
# that a Python float keeps all its digits, then parameters of the array's own dtype.
cdef list DTYPES = [(FA_FLOAT32, FA_FLOAT64), (FA_FLOAT64, FA_FLOAT64), (FA_FLOAT16, FA_FLOAT64)]
cdef list NARROW_PARAMETERS = [(FA_FLOAT32, FA_FLOAT32), (FA_FLOAT16, FA_FLOAT16)]


cdef bint has_two_gradients(const fa_activation_info *info, bint gated) noexcept:
    return gated or info.params[0].kind == FA_HAS_GRADIENT


cdef tuple names_of_inputs(int row, bint backward, bint gated):
    cdef const fa_activation_info *info = &(api.gated if gated else api.activations)[row]
    params = [(<bytes>info.params[p].name).decode() for p in range(info.nparams)]
    return (*["dy"] * backward, "x", *["gate"] * gated, *params)


cdef make_ufunc(int row, bint backward, bint gated, str name, str doc, int part=-1):
    """part: which of two gradients is the result, or -1 for all that there is."""
    cdef const fa_activation_info *info = &(api.gated if gated else api.activations)[row]
    cdef int nparams = info.nparams, ndata = 1 + backward + gated, nin = ndata + nparams
    cdef int nout = 2 if part < 0 and backward and has_two_gradients(info, gated) else 1
    dtypes = DTYPES + (NARROW_PARAMETERS if nparams else [])
    cdef int nloops = len(dtypes), i, k
    cdef part_loop *loops = <part_loop *>calloc(nloops, sizeof(part_loop))
    cdef void **data = <void **>calloc(nloops, sizeof(void *))
    cdef char *types = <char *>calloc(nloops * (nin + nout), 1)
    cdef cnp.PyUFuncGenericFunction *functions = <cnp.PyUFuncGenericFunction *>calloc(
        nloops, sizeof(void *))
    if loops == NULL or data == NULL or types == NULL or functions == NULL:
        raise MemoryError()  # at import; what was allocated is not worth freeing
    for i in range(nloops):
        real, param_dtype = dtypes[i]
        loops[i].whole.op = fa_op(row, backward, gated, real)
        loops[i].whole.param_dtype = param_dtype
        loops[i].part = part
        data[i] = &loops[i]
        functions[i] = <cnp.PyUFuncGenericFunction>loop_function(part)
        for k in range(nin + nout):
            types[i * (nin + nout) + k] = type_code(param_dtype if ndata <= k < nin else real)
    ufunc = cnp.PyUFunc_FromFuncAndData(functions, data, types, nloops, nin, nout, -1,
                                        keep(name), keep(doc), 0)
    global numpys_resolver
    numpys_resolver = GET_RESOLVER(<PyObject *>ufunc)
    SET_RESOLVER(<PyObject *>ufunc, <void *>resolve)
    data_operands[name] = ndata
    input_names[name] = names_of_inputs(row, backward, gated)
    registered.append((ufunc, row, backward, gated, part))
    return ufunc


cdef make_pair(int row, bint gated):
    cdef const fa_activation_info *info = &(api.gated if gated else api.activations)[row]
    name, formula = (<bytes>info.name).decode(), (<bytes>info.formula).decode()
    outputs = "dx"
    if gated:
        outputs = "dx, dgate"
    elif info.params[0].kind == FA_HAS_GRADIENT:
        outputs = "dx, and the parameter's gradient an element"
    inputs = ", ".join(names_of_inputs(row, False, gated))
    globals()[name] = make_ufunc(row, False, gated, name, f"{formula}\n\nInputs: {inputs}.")
    globals()[f"{name}_backward"] = make_ufunc(
        row, True, gated, f"{name}_backward",
        f"dy times the derivative of {formula}\n\nInputs: dy, {inputs}. Output: {outputs}.")
    if has_two_gradients(info, gated):
        second = "gate" if gated else (<bytes>info.params[0].name).decode()
        for part, of in enumerate(("x", second)):
            globals()[f"{name}_backward_{of}"] = make_ufunc(
                row, True, gated, f"{name}_backward_{of}",
                f"One of the results of {name}_backward: the gradient an element of {of}.", part)


for _row in range(FA_ACTIVATION_COUNT):
    make_pair(_row, False)
for _row in range(FA_GATED_COUNT):
    make_pair(_row, True)
