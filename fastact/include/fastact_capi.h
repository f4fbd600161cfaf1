/* fastact for C and Cython: activation functions, BatchNorm and their gradients over contiguous arrays, threads
 * included, without Python once the table is imported.
 *
 *     #include <Python.h>
 *     #include <fastact_capi.h>
 *
 *     if (fastact_import() < 0)                 once, where your module is initialised
 *         return NULL;
 *     int gelu = fastact_api->find("gelu");         by name: numbers differ between versions
 *     status = fastact_api->forward(gelu, FASTACT_FLOAT32, x, y, n, NULL);
 *
 * Compile with -I of fastact.get_include(); nothing is linked.  Cython: `from fastact.capi cimport ...`.
 *
 * The functions may be called from any thread, with or without the GIL, and give the bits that the Python
 * functions give.  They return FASTACT_OK or one of the errors below, and then nothing was written.
 * Arrays are contiguous, of any alignment.  An output may be an input's memory exactly, but for what is said below,
 * and must not overlap any other way.  Each source file that includes this has a table pointer of its own to import. */
#ifndef FASTACT_CAPI_H
#define FASTACT_CAPI_H

#include <stddef.h>

/* Grows when functions are appended to the table; what is there stays as it is. */
#define FASTACT_CAPI_VERSION 2

enum fastact_dtype { FASTACT_FLOAT16, FASTACT_BFLOAT16, FASTACT_FLOAT32, FASTACT_FLOAT64 };

enum fastact_status {
    FASTACT_OK = 0,
    FASTACT_BAD_ACTIVATION = -1, /* no such number, or gated where it must not be (or the reverse) */
    FASTACT_BAD_DTYPE = -2,
    FASTACT_BAD_LENGTH = -3,     /* negative, or more bytes than memory has addresses */
    FASTACT_BAD_PARAMETERS = -4, /* NULL for one without a default; a dparam where nothing is learned; eps */
    FASTACT_BAD_POINTER = -5,    /* NULL, or an output that overlaps */
    FASTACT_NO_MEMORY = -6       /* for BatchNorm's partial sums; rows of statistics may have been written */
};

enum fastact_parameter_kind {
    FASTACT_HAS_DEFAULT,
    FASTACT_REQUIRED,
    FASTACT_LEARNED /* required, and backward can give its gradient */
};

enum { FASTACT_MAX_PARAMETERS = 2 };

typedef struct {
    const char *name;
    double default_value; /* where the kind is FASTACT_HAS_DEFAULT */
    int kind;
} fastact_parameter;

typedef struct {
    const char *name, *formula, *source;
    double max_ulp; /* float32 forward, over all inputs */
    int gated;      /* takes x and a gate */
    int parameter_count;
    fastact_parameter parameters[FASTACT_MAX_PARAMETERS];
} fastact_activation;

/* Rows of BatchNorm's statistics, each of a number a channel: the mean, the biased variance, and what is fastact's. */
enum { FASTACT_STATISTICS = 11, FASTACT_MEAN = 0, FASTACT_VARIANCE = 2 };

/* BatchNorm of an array (outer, channels, inner): NCHW is (N, C, H W), NHWC (N H W, C, 1). */
typedef struct {
    int dtype; /* of x, y, dy and dx */
    ptrdiff_t outer, channels, inner;
    const double *weight, *bias; /* a number a channel, or NULL: 1 and 0 */
    double eps;
    int activation; /* that follows, none that is gated; -1: none */
    const double *parameters;
} fastact_batch_norm;

typedef struct {
    int version; /* FASTACT_CAPI_VERSION of the fastact that runs */
    int count;   /* activations are 0 .. count - 1 */

    int (*find)(const char *name); /* -1: there is none */
    const fastact_activation *(*describe)(int activation); /* NULL: there is none */

    /* y = f(x); `parameters` has describe()->parameter_count numbers, or is NULL for the defaults. */
    int (*forward)(int activation, int dtype, const void *x, void *y, ptrdiff_t n, const double *parameters);

    /* dx = dy * f'(x).  dparam: NULL, or n elements for dy * df/dparameter, whose sum is the gradient of a
     * learned parameter. */
    int (*backward)(int activation, int dtype, const void *dy, const void *x, void *dx, void *dparam, ptrdiff_t n,
                    const double *parameters);

    /* The same of a function of x and a gate, which has no parameters. */
    int (*gated_forward)(int activation, int dtype, const void *x, const void *gate, void *y, ptrdiff_t n);
    int (*gated_backward)(int activation, int dtype, const void *dy, const void *x, const void *gate, void *dx,
                          void *dgate, ptrdiff_t n);

    /* How many threads a call of this thread may use.  set: a limit for the calling thread, 0 for none; it
     * returns the limit before. */
    int (*get_num_threads)(void);
    int (*set_thread_limit)(int n);

    /* y = activation((x - mean) / sqrt(variance + eps) * weight + bias), since version 2.  `statistics`:
     * FASTACT_STATISTICS rows.  In training mean and variance are those of x, at least two elements a channel;
     * else those that stand in their rows, and y may be x.  The other rows are written. */
    int (*batch_norm_forward)(const fastact_batch_norm *bn, int training, const void *x, void *y,
                              double *statistics);

    /* dx, and the gradients of weight, of bias and of a learned parameter, a number a channel each, or NULL.
     * The rest as in the forward, whose statistics these are; dx may be dy, not x. */
    int (*batch_norm_backward)(const fastact_batch_norm *bn, int training, const void *dy, const void *x,
                               const double *statistics, void *dx, double *dweight, double *dbias,
                               double *dparameter);
} fastact_capi;

#if defined(PY_VERSION_HEX) && !defined(FASTACT_NO_IMPORT)
static const fastact_capi *fastact_api = NULL;

/* 0, or -1 with a Python exception set.  Holds the GIL. */
static inline int fastact_import(void)
{
    const fastact_capi *table = (const fastact_capi *)PyCapsule_Import("fastact._C_API", 0);
    if (!table)
        return -1;
    if (table->version < FASTACT_CAPI_VERSION) {
        PyErr_Format(PyExc_ImportError,
                     "this module was built for version %d of fastact's C interface; the installed fastact has %d",
                     FASTACT_CAPI_VERSION, table->version);
        return -1;
    }
    fastact_api = table;
    return 0;
}
#endif

#endif
