/* A C extension that calls the kernels of fastact: the mean of gelu(x), without the GIL and without an array
 * of the size of x.
 *
 *     plain.mean_activation(numpy.ones(1000, numpy.float32)) -> 0.8413...
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <fastact_capi.h>
#include <string.h>

enum { CHUNK = 4096 };

/* The mean of gelu(x), a chunk at a time. */
static int mean_of(int activation, const float *x, Py_ssize_t n, double *mean)
{
    float y[CHUNK];
    double sum = 0;
    for (Py_ssize_t begin = 0; begin < n; begin += CHUNK) {
        Py_ssize_t count = n - begin < CHUNK ? n - begin : CHUNK;
        int status = fastact_api->forward(activation, FASTACT_FLOAT32, x + begin, y, count, NULL);
        if (status != FASTACT_OK)
            return status;
        for (Py_ssize_t i = 0; i < count; i++)
            sum += y[i];
    }
    *mean = n ? sum / (double)n : 0.0;
    return FASTACT_OK;
}

static PyObject *mean_activation(PyObject *module, PyObject *argument)
{
    Py_buffer buffer;
    double mean = 0;
    int status;
    (void)module;
    if (PyObject_GetBuffer(argument, &buffer, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) < 0)
        return NULL;
    if (!buffer.format || strcmp(buffer.format, "f")) {
        PyBuffer_Release(&buffer);
        return PyErr_Format(PyExc_TypeError, "x: expected a contiguous float32 array");
    }
    Py_BEGIN_ALLOW_THREADS
    status = mean_of(fastact_api->find("gelu"), buffer.buf, buffer.len / (Py_ssize_t)sizeof(float), &mean);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&buffer);
    if (status != FASTACT_OK)
        return PyErr_Format(PyExc_RuntimeError, "fastact refused the call: status %d", status);
    return PyFloat_FromDouble(mean);
}

static PyMethodDef methods[] = {
    {"mean_activation", mean_activation, METH_O, "mean_activation(x): the mean of gelu(x) over a contiguous float32 array"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "plain", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_plain(void)
{
    if (fastact_import() < 0)
        return NULL;
    return PyModule_Create(&definition);
}
