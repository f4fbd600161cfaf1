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

from fastact import _kernels, _protocols, _ufuncs
from fastact._runtime cimport *
from fastact._runtime import enter_environment, leave_environment

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
    int NPY_HALF
    int NPY_USERDEF
    bint PyArray_CheckExact(PyObject *)
    bint PyArray_ISNOTSWAPPED(cnp.ndarray)
    bint PyArray_ISWRITEABLE(cnp.ndarray)
    bint PyArray_IS_C_CONTIGUOUS(cnp.ndarray)
    Py_ssize_t PyTuple_GET_SIZE(PyObject *)
    PyObject *PyTuple_GET_ITEM(PyObject *, Py_ssize_t)


# A call this small keeps the GIL: releasing it costs more than the work.
cdef enum:
    GIL_ELEMENTS = 2048


cdef int bfloat16 = -1  # NumPy's number of ml_dtypes.bfloat16, once one was seen


cdef int user_dtype(cnp.ndarray a, int kind) noexcept:
    global bfloat16
    if kind != bfloat16:
        bfloat16 = max(bfloat16, _ufuncs.number_of_bfloat16(a.dtype))
    return FA_BFLOAT16 if kind == bfloat16 else -1


cdef int dtype_of(cnp.ndarray a) noexcept:
    """The driver's code for an array's dtype, or -1."""
    cdef int kind = cnp.PyArray_TYPE(a)
    if kind == cnp.NPY_FLOAT:
        return FA_FLOAT32
    if kind == cnp.NPY_DOUBLE:
        return FA_FLOAT64
    if kind == NPY_HALF:
        return FA_FLOAT16
    if kind >= NPY_USERDEF:
        return user_dtype(a, kind)
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
    if dtype >= FA_FLOAT16:
        return <fa_dtype>dtype
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
    cdef char *a_low = NULL
    cdef char *a_high = NULL
    cdef char *b_low = NULL
    cdef char *b_high = NULL
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


def has_internal_overlap(cnp.ndarray a):
    """Whether two elements might share memory."""
    return internal_overlap(a)


# Copies: while a call runs without the GIL, another thread may give an array another shape in place, and
# NumPy frees the old one.
cdef struct Binding:
    double value  # a scalar parameter
    ptrdiff_t strides[FA_MAX_NDIM]


cdef bint bind_array(cnp.ndarray x, cnp.ndarray param, fa_operand *operand, Binding *b) noexcept:
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


# Their conversion runs no code of a caller's, who could change x meanwhile.
cdef tuple SCALARS = (np.float64, np.float32, np.float16)


cdef bint bind_param(cnp.ndarray x, PyObject *param, fa_operand *operand, Binding *b) except -1:
    cdef int axis
    if PyFloat_CheckExact(<object>param):
        b.value = PyFloat_AS_DOUBLE(<object>param)
    elif PyArray_CheckExact(param):
        return bind_array(x, <cnp.ndarray>param, operand, b)
    elif PyLong_CheckExact(<object>param) or type(<object>param) in SCALARS:
        try:
            b.value = <object>param
        except OverflowError:
            return False
    else:
        return False
    for axis in range(cnp.PyArray_NDIM(x)):
        b.strides[axis] = 0
    operand.data = <char *>&b.value
    operand.dtype = FA_FLOAT64
    operand.strides = b.strides
    return True


cdef bint bind_data(cnp.ndarray a, fa_operand *operand, Binding *b) noexcept:
    cdef int dtype = dtype_of(a), axis
    if dtype < 0 or not PyArray_ISNOTSWAPPED(a):
        return False
    for axis in range(cnp.PyArray_NDIM(a)):
        b.strides[axis] = cnp.PyArray_STRIDE(a, axis)
    operand.data = <char *>cnp.PyArray_DATA(a)
    operand.dtype = <fa_dtype>dtype
    operand.strides = b.strides
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
            # first the shape: there are no strides of axes that one of them has not
            if same_shape(out, <cnp.ndarray>inputs[k]) and same_layout(out, <cnp.ndarray>inputs[k]):
                continue
            if may_overlap(out, <cnp.ndarray>inputs[k]):
                return False
    return True


cdef int number_of(fa_dtype real) noexcept:
    """NumPy's number of a dtype that results have."""
    if real == FA_FLOAT32:
        return cnp.NPY_FLOAT
    if real == FA_FLOAT64:
        return cnp.NPY_DOUBLE
    return NPY_HALF if real == FA_FLOAT16 else bfloat16


cdef bint common_real(const fa_operand *data, int ndata, fa_dtype *real) noexcept:
    """The dtype to compute in; False where half precision meets another dtype, for NumPy to decide."""
    cdef int k
    real[0] = real_for(data[0].dtype)
    for k in range(1, ndata):
        if real_for(data[k].dtype) != real[0]:
            if real_for(data[k].dtype) >= FA_FLOAT16 or real[0] >= FA_FLOAT16:
                return False
            real[0] = FA_FLOAT64
    return True


cdef bint is_cast(int source, int target) noexcept:
    """Whether a ufunc would make this cast, and to the same bits: not bfloat16 to float16; and ml_dtypes
    rounds what has more bits than float32 to that first, and then to bfloat16."""
    if target == FA_BFLOAT16:
        return real_for(source) != FA_FLOAT64
    return source != FA_BFLOAT16 or target != FA_FLOAT16


cdef object fast_call(fa_op *op, PyObject **inputs, PyObject *out, int forced):
    """The driver's result, or None where NumPy's machinery has to see to the call.

    `inputs`: the data operands (exact arrays of one shape, any strides), then the parameters.
    `forced`: the dtype to compute in, or -1. A learned parameter's gradient is not computed."""
    cdef fa_operand operands[FA_MAX_OPERANDS]
    cdef Binding bindings[FA_MAX_OPERANDS]
    cdef int nparams = 0 if op.gated else api.activations[op.activation].nparams
    cdef int ndata = 1 + op.backward + op.gated, k
    cdef cnp.ndarray x = <cnp.ndarray>inputs[0], result
    cdef ptrdiff_t shape[FA_MAX_NDIM]
    cdef cnp.npy_intp size
    cdef int ndim = cnp.PyArray_NDIM(x)
    if ndim == 0:
        return None
    for k in range(ndata):
        if ((k and not same_shape(x, <cnp.ndarray>inputs[k]))
                or not bind_data(<cnp.ndarray>inputs[k], &operands[k], &bindings[k])
                or not is_cast(operands[k].dtype, forced)):
            return None
    op.real = <fa_dtype>forced
    if forced < 0 and not common_real(operands, ndata, &op.real):
        return None
    for k in range(nparams):
        if not bind_param(x, inputs[ndata + k], &operands[ndata + k], &bindings[ndata + k]):
            return None
    if out != NULL:
        if not (good_output(<cnp.ndarray>out, inputs, ndata + nparams)
                and is_cast(op.real, dtype_of(<cnp.ndarray>out))):
            return None
        result = <cnp.ndarray>out
    else:
        result = new_like(x, number_of(op.real))
    bind_data(result, &operands[ndata + nparams], &bindings[ndata + nparams])
    operands[ndata + nparams + 1].data = NULL
    for k in range(ndim):
        shape[k] = cnp.PyArray_DIM(x, k)
    size = cnp.PyArray_SIZE(x)
    if size < GIL_ELEMENTS:
        api.elementwise(op, ndim, shape, operands)
    else:
        with nogil:
            api.elementwise(op, ndim, shape, operands)
    return result


def _forced_dtype(dtype):
    """The driver's code for dtype=, or -1 where NumPy has to see to it."""
    kind = np.dtype(dtype)
    if kind.num >= NPY_USERDEF:
        return user_dtype(np.empty(0, kind), kind.num)
    return {np.dtype(np.float32): FA_FLOAT32, np.dtype(np.float64): FA_FLOAT64,
            np.dtype(np.float16): FA_FLOAT16}.get(kind, -1)


UFUNC_KEYWORDS = ("out", "where", "casting", "order", "dtype", "subok", "signature")


def real_dtype(cnp.ndarray a, cnp.ndarray b):
    """The dtype that two arrays of any accepted ones are computed in."""
    cdef fa_dtype of_a = real_for(dtype_of(a)), of_b = real_for(dtype_of(b))
    if of_a >= FA_FLOAT16 or of_b >= FA_FLOAT16:
        return np.result_type(a, b).newbyteorder("=")
    return np.dtype(np.float32 if of_a == of_b == FA_FLOAT32 else np.float64)


def broadcast_shape(a, b):
    """Of two arrays of any rank: numpy.broadcast_shapes gives up at 32."""
    rank = max(a.ndim, b.ndim)
    shapes = [(1,) * (rank - c.ndim) + c.shape for c in (a, b)]
    for of_a, of_b in zip(*shapes):
        if of_a != of_b and 1 not in (of_a, of_b):
            raise ValueError(f"operands could not be broadcast together with shapes {a.shape} {b.shape}")
    return tuple([of_b if of_a == 1 else of_a for of_a, of_b in zip(*shapes)])


def sum_to_shape(part, shape):
    """Undoes a broadcast: the sum over the axes along which an array of this shape was repeated. NumPy adds
    in the order of memory, so of a packed copy: the same bits for any strides."""
    if part.shape == shape:
        return part
    lead = part.ndim - len(shape)
    repeated = tuple([k for k in range(part.ndim) if k < lead or shape[k - lead] == 1])
    with np.errstate(all="ignore"):
        total = part.astype(np.float64, order="C").sum(axis=repeated).reshape(shape)
        return total.astype(part.dtype)[()]


cdef class _Function:
    """What an activation and its backward share: a ufunc with named parameters and defaults."""

    cdef vectorcallfunc vectorcall
    cdef fa_op op
    cdef int ndata, nparams
    cdef tuple data_names, param_names, fallbacks  # the fallback of a required parameter is None
    cdef readonly tuple learned
    cdef readonly str name
    cdef readonly object ufunc
    cdef readonly tuple _parts  # where there are two gradients: a ufunc for each

    cdef init(self, int row, bint backward, bint gated):
        cdef const fa_activation_info *info = &(api.gated if gated else api.activations)[row]
        self.vectorcall = <vectorcallfunc>call_vector
        self.op = fa_op(row, backward, gated, FA_FLOAT32)
        self.data_names = ("dy",) * backward + ("x",) + ("gate",) * gated
        self.ndata = len(self.data_names)
        self.nparams = info.nparams
        self.name = (<bytes>info.name).decode()
        if backward:
            self.name += "_backward"
        self.param_names = tuple([(<bytes>info.params[p].name).decode() for p in range(info.nparams)])
        self.fallbacks = tuple([info.params[p].fallback if info.params[p].kind == FA_HAS_DEFAULT else None
                                for p in range(info.nparams)])
        self.learned = tuple([self.param_names[p] for p in range(info.nparams)
                              if info.params[p].kind == FA_HAS_GRADIENT])
        self.ufunc = getattr(_ufuncs, self.name)
        self._parts = tuple([getattr(_ufuncs, f"{self.name}_{of}")
                             for of in ("x", "gate" if gated else "".join(self.learned))
                             if self.takes_gradient()])

    cdef bint takes_gradient(self):
        """Whether a call gives two gradients."""
        return self.op.backward and (self.op.gated or self.learned != ())

    @property
    def __name__(self):
        return self.name

    @property
    def __signature__(self):
        from inspect import Parameter, Signature

        parameters = [Parameter(name, Parameter.POSITIONAL_ONLY) for name in self.data_names]
        for name, fallback in zip(self.param_names, self.fallbacks):
            default = Parameter.empty if fallback is None else fallback
            parameters.append(Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=default))
        parameters.append(Parameter("out", Parameter.KEYWORD_ONLY, default=None))
        if not self.takes_gradient():
            parameters.append(Parameter("kwargs", Parameter.VAR_KEYWORD))
        return Signature(parameters)

    def __call__(self, *args, **kwargs):
        return self.general(args, kwargs)

    def general(self, tuple args, dict kwargs):
        """Any call, in the default floating-point environment: NumPy's casts and sums are to depend on it no
        more than the kernels do."""
        old = enter_environment()
        try:
            return self.dispatch(args, kwargs)
        finally:
            leave_environment(old)

    def dispatch(self, tuple args, dict kwargs):
        """Parameters by name or position become the ufunc's inputs."""
        inputs, kwargs = self.bind(args, kwargs)
        self.check_outputs(inputs[self.ndata + self.nparams:], kwargs.get("out"))
        if self.takes_gradient():
            self.check_two_gradients(inputs, kwargs)
        if any([_protocols.is_foreign(value) for value in inputs]):
            return _protocols.call(self, inputs, kwargs)
        if not self.takes_gradient():
            return self.ufunc(*inputs, **kwargs)
        arrays = self.plain_arrays(inputs)
        if self.op.gated:
            return self.with_gate(*arrays, kwargs.get("out"))
        return self.with_gradient(*arrays, kwargs.get("out"))

    def bind(self, tuple args, dict kwargs):
        if self.op.gated and "gate" in kwargs and len(args) == self.ndata - 1:
            args += (kwargs.pop("gate"),)
        if len(args) < self.ndata:
            raise TypeError(f"{self.name}() takes {' and '.join(self.data_names)} by position, "
                            f"got {len(args)} positional arguments")
        nin = self.ndata + self.nparams
        given = dict(zip(self.param_names, args[self.ndata:nin]))
        rest = {}
        for key, value in kwargs.items():
            if key in given:
                raise TypeError(f"{self.name}() got two values for {key!r}")
            if key in self.param_names:
                given[key] = value
            elif key in UFUNC_KEYWORDS:
                rest[key] = value
            else:
                accepted = ", ".join((*self.param_names, *UFUNC_KEYWORDS))
                raise TypeError(f"{self.name}() got an unexpected argument {key!r}; accepted: {accepted}")
        for name, fallback in zip(self.param_names, self.fallbacks):
            if fallback is None and name not in given:
                raise TypeError(f"{self.name}() is missing {name!r}: a number or an array")
        values = [self.param(name, given.get(name, fallback))
                  for name, fallback in zip(self.param_names, self.fallbacks)]
        return (*args[:self.ndata], *values, *args[nin:]), rest

    def param(self, name, value):
        """A parameter's value; Python numbers become float64, which never promotes x."""
        if value is None or isinstance(value, (str, bytes, complex)):
            raise TypeError(f"{self.name}(): {name} must be a real number or an array of them, "
                            f"got {type(value).__name__}")
        try:
            return float(value) if isinstance(value, int) else value
        except OverflowError:
            raise ValueError(f"{self.name}(): {name} is too large for a float64") from None

    def check_outputs(self, tuple positional, named):
        """NumPy casts bfloat16 to raw bytes, and finds out that it cannot when it has written another output."""
        for out in (*positional, *(named if isinstance(named, tuple) else (named,))):
            if isinstance(out, np.ndarray) and out.dtype.kind == "V" and dtype_of(out) < 0:
                raise TypeError(f"{self.name}(): out has dtype {out.dtype}; expected one of numbers")

    def check_two_gradients(self, tuple inputs, dict kwargs):
        """A backward that gives two gradients takes three inputs and out=."""
        accepted = (*self.param_names, "out")
        for key in kwargs:
            if key != "out":
                raise TypeError(f"{self.name}() got an unexpected argument {key!r}; "
                                f"accepted: {', '.join(accepted)}")
        if len(inputs) > 3:
            raise TypeError(f"{self.name}() takes 3 positional arguments, got {len(inputs)}; "
                            "pass out= by name")

    def plain_arrays(self, tuple inputs):
        """dy, x and the third input as arrays of a dtype that there is a loop for."""
        arrays = [np.asarray(value) for value in inputs]
        for k, value in enumerate(arrays):
            if dtype_of(value) < 0:
                self.ufunc(*arrays)  # raises: NumPy finds no loop
                raise TypeError(f"{self.name}(): operand {k} has dtype {value.dtype}")
        return arrays

    def with_gate(self, dy, x, gate, out):
        """(dx, dgate), each summed to the shape of its input where that was broadcast."""
        shape = broadcast_shape(x, gate)
        if dy.shape != shape:
            raise ValueError(f"{self.name}(): dy has shape {dy.shape}, x and gate give {shape}; "
                             "they must be the same")
        if out is None:
            parts = self.ufunc(dy, x, gate)
            return tuple([sum_to_shape(part, a.shape) for part, a in zip(parts, (x, gate))])
        if type(out) is not tuple or len(out) != 2:
            raise TypeError(f"{self.name}(): out must be a tuple of two arrays, for dx and dgate")
        if x.shape != shape or gate.shape != shape:
            raise ValueError(f"{self.name}(): out= needs x and gate of one shape, "
                             f"got {x.shape} and {gate.shape}")
        return self.ufunc(dy, x, gate, out=out)

    def with_gradient(self, dy, x, weight, out):
        """(dx, dparameter), the latter summed to the parameter's shape."""
        if dy.shape != x.shape:
            raise ValueError(f"{self.name}(): dy has shape {dy.shape} and x {x.shape}; "
                             "they must be the same")
        try:
            np.broadcast_to(weight, x.shape)
        except ValueError:
            raise ValueError(f"{self.name}(): {self.param_names[0]} has shape {weight.shape}, "
                             f"which does not broadcast to x's shape {x.shape}") from None
        if out is not None and type(out) is not np.ndarray:
            raise TypeError(f"{self.name}(): out must be a numpy.ndarray, got {type(out).__name__}")
        if out is not None and out.shape != x.shape:
            raise ValueError(f"{self.name}(): out has shape {out.shape}; expected x's, {x.shape}")
        real = real_dtype(dy, x)
        # before dx, which may be written over dy or x
        gradient = self.sum_gradient(dy.astype(real, copy=False), x.astype(real, copy=False), weight)
        out = self.input_gradient(dy, x, weight, out, real)
        kind = weight.dtype if dtype_of(weight) >= FA_FLOAT32 else real
        with np.errstate(all="ignore"):
            gradient = gradient.astype(kind.newbyteorder("="))
        return out[()] if out.ndim == 0 else out, gradient[()]

    def input_gradient(self, dy, x, weight, out, real):
        """dx alone: the driver leaves out what is not asked for, the ufunc has to make it."""
        cdef fa_op op = self.op
        cdef PyObject *inputs[3]
        inputs[0], inputs[1], inputs[2] = <PyObject *>dy, <PyObject *>x, <PyObject *>weight
        result = fast_call(&op, inputs, NULL if out is None else <PyObject *>out, -1)
        if result is None:
            result = new_like(x, real.num) if out is None else out
            self.ufunc(dy, x, weight, out=(result, None), casting="same_kind")
        return result

    def sum_gradient(self, dy, x, weight):
        """In the order of additions of the fused BatchNorm: a value of the weight is a channel."""
        padded = (1,) * (x.ndim - weight.ndim) + weight.shape
        axes = [axis for axis, length in enumerate(padded) if length > 1]
        if len(axes) == 1:
            axis = axes[0]
        elif not axes:
            dy, x = [a[np.newaxis] if a.ndim < FA_MAX_NDIM else a.reshape(1, -1) for a in (dy, x)]
            axis = 0
        else:
            order = axes + [axis for axis in range(x.ndim) if axis not in axes]
            shape = (weight.size, x.size // weight.size if weight.size else 0)
            dy, x = [np.ascontiguousarray(a.transpose(order)).reshape(shape) for a in (dy, x)]
            axis = 0
        sums = np.zeros(weight.size)
        values = np.ascontiguousarray(weight, dtype=np.float64).reshape(-1)
        if x.size:
            _kernels.param_gradient(dy, x, axis, self.op.activation, values, sums)
        return sums.reshape(weight.shape)


cdef object call_vector(PyObject *self_, PyObject **args, size_t nargsf, PyObject *names):
    """The short way for exact arrays; anything unusual goes to _Function.general."""
    cdef _Function self = <_Function>self_
    cdef PyObject *inputs[2 + FA_MAX_PARAMS]
    cdef PyObject *out = NULL
    cdef PyObject *dtype = NULL
    cdef int nargs = FA_NARGS(nargsf), nin = self.ndata + self.nparams, k
    cdef bint plain = self.ndata <= nargs <= nin and not self.takes_gradient()
    cdef fa_op op = self.op
    if plain:
        for k in range(nin):
            inputs[k] = args[k] if k < nargs else NULL
        plain = PyArray_CheckExact(inputs[0]) and PyArray_CheckExact(inputs[self.ndata - 1])
    if plain and names != NULL:
        plain = bind_names(self, args + nargs, names, inputs, &out, &dtype)
    if plain:
        for k in range(self.nparams):
            if inputs[self.ndata + k] == NULL:
                inputs[self.ndata + k] = <PyObject *>(<tuple>self.fallbacks)[k]
            if inputs[self.ndata + k] == <PyObject *>None:
                plain = False
    if plain and (out == NULL or PyArray_CheckExact(out)):
        forced = -1 if dtype == NULL else _forced_dtype(<object>dtype)
        if dtype == NULL or forced >= 0:
            result = fast_call(&op, inputs, out, forced)
            if result is not None:
                return result
    return self.general(*as_python(args, nargs, names))


cdef bint bind_names(_Function self, PyObject **values, PyObject *names, PyObject **inputs,
                     PyObject **out, PyObject **dtype) except -1:
    """Whether all keywords are parameters not yet given, out or dtype."""
    cdef Py_ssize_t i
    cdef int k
    for i in range(PyTuple_GET_SIZE(names)):
        name = <object>PyTuple_GET_ITEM(names, i)
        if name == "out":
            out[0] = NULL if values[i] == <PyObject *>None else values[i]
        elif name == "dtype":
            dtype[0] = NULL if values[i] == <PyObject *>None else values[i]
        elif name in self.param_names:
            k = self.ndata + self.param_names.index(name)
            if inputs[k] != NULL:
                return False
            inputs[k] = values[i]
        else:
            return False
    return True


cdef tuple as_python(PyObject **args, int nargs, PyObject *names):
    cdef int i
    positional = tuple([<object>args[i] for i in range(nargs)])
    named = {}
    if names != NULL:
        for i in range(PyTuple_GET_SIZE(names)):
            named[<object>PyTuple_GET_ITEM(names, i)] = <object>args[nargs + i]
    return positional, named


DOCUMENTATION = """{formula}

Parameters
----------
x : array_like
    Any shape. float32 gives float32, float64 gives float64; integers and bool are converted as
    NumPy's ufuncs convert them, bool and 8 bits to float32 too. float16 and bfloat16 (of the package ml_dtypes) give their own
    dtype, rounded once.
{parameters}out, where, casting, order, dtype, subok
    As for any NumPy ufunc.

Returns
-------
numpy.ndarray, of x's shape broadcast with the parameters'.

Notes
-----
Source: {source}. A float32 result is at most {max_ulp} ULP from the exact one.
Derivative: ``fastact.{name}.backward``.

Examples
--------
>>> import numpy as np, fastact as fa
>>> x = np.array([-2.0, 0.0, 3.0], dtype=np.float32)
>>> fa.{name}(x{example}).dtype
dtype('float32')
"""

BACKWARD_DOCUMENTATION = """The gradient with respect to x: dy times the derivative of {formula}

Parameters
----------
dy : array_like
    Gradient of the loss with respect to the result.
x : array_like
    The input of the forward call.
{parameters}out : numpy.ndarray, optional
    Where to write dx; dy itself is allowed.

Returns
-------
{returns}

Examples
--------
>>> import numpy as np, fastact as fa
>>> x = np.array([-2.0, 0.0, 3.0], dtype=np.float32)
>>> fa.{name}.backward(np.ones_like(x), x{example}){first}.dtype
dtype('float32')
"""


cdef class Backward(_Function):
    """dL/dx of an activation: ``fa.NAME.backward(dy, x, ..., out=None)``."""

    cdef Activation owner

    def __cinit__(self, Activation owner not None):
        self.owner = owner
        self.init(owner._row, True, owner.gated)

    @property
    def __doc__(self):
        two = self.takes_gradient()
        second = "gate" if self.op.gated else "".join(self.learned)
        return BACKWARD_DOCUMENTATION.format(
            formula=self.owner.formula, name=self.owner.name, example=self.owner.example(),
            parameters=self.owner.document_parameters(), first="[0]" if two else "",
            returns=f"(dx, d{second}), each summed to the shape of what it is the gradient of."
            if two else "numpy.ndarray")

    def __reduce__(self):
        return getattr, (self.owner, "backward")

    def __repr__(self):
        return f"<fastact activation {self.owner.name}.backward>"


cdef class Activation(_Function):
    """An activation function: callable like a NumPy ufunc, with parameters by name and a backward.

    Attributes
    ----------
    name : str
    parameters : mapping
        Name -> default of each parameter; None where it is required.
    formula : str
    source : str
        Where the function was published.
    max_ulp : float
        Largest error of the float32 forward, in units in the last place of the exact result.
    learned : tuple of str
        The parameters that have a gradient: ``backward`` gives it beside dx.
    gated : bool
        Whether it is a function of x and a gate: ``backward(dy, x, gate)`` is (dx, dgate).
    ufunc : numpy.ufunc
    backward : Backward
        ``backward(dy, x, ...)``; has a ``ufunc`` of its own.
    """

    cdef readonly str formula
    cdef readonly str source
    cdef readonly double max_ulp
    cdef readonly object parameters
    cdef readonly Backward backward
    cdef readonly bint gated
    cdef readonly int _row

    def __cinit__(self, int row, bint gated=False):
        from types import MappingProxyType

        cdef int rows = FA_GATED_COUNT if gated else FA_ACTIVATION_COUNT
        if not 0 <= row < rows:
            raise ValueError(f"row: the table has rows 0 to {rows - 1}, got {row}")
        cdef const fa_activation_info *info = &(api.gated if gated else api.activations)[row]
        self.init(row, False, gated)
        self.gated = gated
        self._row = row
        self.formula = (<bytes>info.formula).decode()
        self.source = (<bytes>info.source).decode()
        self.max_ulp = info.max_ulp
        self.parameters = MappingProxyType(dict(zip(self.param_names, self.fallbacks)))
        self.backward = Backward(self)

    def document_parameters(self):
        lines = ""
        if self.gated:
            lines = "gate : array_like\n    What x is multiplied by, through its activation; broadcasts against x.\n"
        for name, fallback in self.parameters.items():
            what = "required" if fallback is None else f"default {fallback}"
            lines += (f"{name} : float or array_like, {what}\n"
                      "    Broadcasts against x; a float counts as float64 and never promotes.\n")
        return lines

    def example(self):
        """Arguments for the docstring's example: a value for each required parameter."""
        return ", x" * self.gated + ", 0.25" * self.fallbacks.count(None)

    @property
    def __doc__(self):
        return DOCUMENTATION.format(
            formula=self.formula, source=self.source, max_ulp=self.max_ulp, name=self.name,
            parameters=self.document_parameters(), example=self.example())

    def __reduce__(self):
        return _unpickle, (self.name,)

    def __repr__(self):
        return f"<fastact activation {self.name}: {self.formula}>"


cdef Py_ssize_t vectorcall_offset(_Function f):
    return <char *>&f.vectorcall - <char *><PyObject *>f


activations = {}
for _row in range(FA_ACTIVATION_COUNT):
    _function = Activation(_row)
    activations[_function.name] = _function
gated = {}
for _row in range(FA_GATED_COUNT):
    _function = Activation(_row, True)
    gated[_function.name] = _function
for _type in (_Function, Backward, Activation):
    set_vectorcall(<PyTypeObject *>_type, vectorcall_offset(_function))


def activation(which):
    """The pointwise Activation of a name, or the Activation itself.

    Raises
    ------
    TypeError, ValueError
        Neither a name nor an Activation; no such name; one that takes a gate.
    """
    name = which.name if isinstance(which, Activation) else which
    if not isinstance(name, str):
        raise TypeError("activation: expected a name or a fastact Activation, "
                        f"got {type(which).__name__}")
    if name in gated:
        raise ValueError(f"activation: {name!r} takes a gate beside x; accepted: {', '.join(activations)}")
    if name not in activations:
        raise ValueError(f"activation: there is no {name!r}; accepted: {', '.join(activations)}")
    return activations[name]


def _unpickle(name):
    return gated[name] if name in gated else activations[name]
