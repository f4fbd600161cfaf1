"""The kernels as NumPy ufuncs, a forward and a backward one for each row of the table.

A ufunc is an attribute of this module under its name (`gelu`, `gelu_backward`), which is how pickle
finds it.
"""

cimport numpy as cnp
from cpython.object cimport PyObject
from libc.stdlib cimport calloc

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
    """
    int NPY_HALF
    int NPY_USERDEF
    int OPERAND_TYPE(PyObject *)
    void *GET_RESOLVER(PyObject *)
    void SET_RESOLVER(PyObject *, void *)
    int CALL_RESOLVER(void *, PyObject *, cnp.NPY_CASTING, PyObject **, PyObject *, PyObject **)


cdef void *numpys_resolver = NULL


cdef dict data_operands = {}  # name of a ufunc -> how many of its inputs are no parameters


cdef int resolve(PyObject *ufunc, cnp.NPY_CASTING casting, PyObject **operands, PyObject *dtypes,
                 PyObject **out) except -1:
    """NumPy's choice of a loop, less the silent promotion of half-precision and user dtypes."""
    cdef int k, kind
    cdef str name = (<object>ufunc).__name__
    if dtypes == NULL:
        for k in range((<cnp.ufunc>ufunc).nin):
            kind = OPERAND_TYPE(operands[k])
            if kind == NPY_HALF or kind >= NPY_USERDEF:
                refuse(name, k, (<object>operands[k]).dtype)
        return CALL_RESOLVER(numpys_resolver, ufunc, casting, operands, dtypes, out)
    wanted = with_wide_parameters(<tuple>dtypes, data_operands[name], (<cnp.ufunc>ufunc).nin)
    return CALL_RESOLVER(numpys_resolver, ufunc, casting, operands, <PyObject *>wanted, out)


cdef tuple with_wide_parameters(tuple dtypes, int ndata, int nin):
    """dtype= names the result only. Of the loops that give it NumPy would take the one with all
    operands alike, and round parameters to float32; they are float64 unless asked for otherwise."""
    if nin == ndata or any([dtype is not None for dtype in dtypes[:nin]]):
        return dtypes
    return (dtypes[nin],) * ndata + (float64,) * (nin - ndata) + dtypes[nin:]


cdef object float64 = cnp.PyArray_DescrFromType(cnp.NPY_DOUBLE)


def refuse(name, operand, dtype):
    raise TypeError(
        f"fastact.{name}: operand {operand} has dtype {dtype}, for which there is no native loop yet; "
        "accepted: float32 and float64 (integers and bool are converted), or pass dtype= to convert"
    )


cdef object names = []  # NumPy keeps the pointers of a ufunc's name and docstring, not the bytes


cdef const char *keep(str text):
    cdef bytes encoded = text.encode()
    names.append(encoded)
    return encoded


cdef char type_code(fa_dtype dtype):
    return <char>(cnp.NPY_FLOAT if dtype == FA_FLOAT32 else cnp.NPY_DOUBLE)


cdef make_ufunc(int row, bint backward, str name, str doc):
    """Loops, in the order in which NumPy tries them: parameters as float64 first, so that a Python
    float keeps all its digits; then parameters of the array's own dtype."""
    cdef const fa_activation_info *info = &api.activations[row]
    cdef int nparams = info.nparams, ndata = 1 + backward, nin = ndata + nparams
    cdef int nout = 2 if backward and info.params[0].learned else 1
    cdef int nloops = 3 if nparams else 2, i, k
    cdef fa_loop *loops = <fa_loop *>calloc(nloops, sizeof(fa_loop))
    cdef void **data = <void **>calloc(nloops, sizeof(void *))
    cdef char *types = <char *>calloc(nloops * (nin + nout), 1)
    cdef cnp.PyUFuncGenericFunction *functions = <cnp.PyUFuncGenericFunction *>calloc(
        nloops, sizeof(void *))
    if loops == NULL or data == NULL or types == NULL or functions == NULL:
        raise MemoryError()  # at import; what was allocated is not worth freeing
    for i in range(nloops):
        loops[i].op = fa_op(row, backward, FA_FLOAT64 if i == 1 else FA_FLOAT32)
        loops[i].param_dtype = FA_FLOAT32 if i == 2 else FA_FLOAT64
        data[i] = &loops[i]
        functions[i] = <cnp.PyUFuncGenericFunction>api.ufunc_loop
        for k in range(nin + nout):
            types[i * (nin + nout) + k] = type_code(
                loops[i].param_dtype if ndata <= k < nin else loops[i].op.real)
    ufunc = cnp.PyUFunc_FromFuncAndData(functions, data, types, nloops, nin, nout, -1,
                                        keep(name), keep(doc), 0)
    global numpys_resolver
    numpys_resolver = GET_RESOLVER(<PyObject *>ufunc)
    SET_RESOLVER(<PyObject *>ufunc, <void *>resolve)
    data_operands[name] = ndata
    return ufunc


def _make_all():
    for row in range(FA_ACTIVATION_COUNT):
        info = &api.activations[row]
        name = (<bytes>info.name).decode()
        formula = (<bytes>info.formula).decode()
        params = "".join([f", {(<bytes>info.params[p].name).decode()}" for p in range(info.nparams)])
        globals()[name] = make_ufunc(row, False, name, f"{formula}\n\nInputs: x{params}.")
        outputs = "dx, and the parameter's gradient an element" if info.params[0].learned else "dx"
        globals()[f"{name}_backward"] = make_ufunc(
            row, True, f"{name}_backward",
            f"dy times the derivative of {formula}\n\nInputs: dy, x{params}. Output: {outputs}.")


_make_all()
