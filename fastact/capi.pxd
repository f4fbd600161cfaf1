# fastact for Cython: see include/fastact_capi.h, which says what each function does.
#
#     from fastact.capi cimport FASTACT_FLOAT32, fastact_api, fastact_import
#     fastact_import()
#     cdef int gelu = fastact_api.find("gelu")


cdef extern from "fastact_capi.h":
    int fastact_import() except -1


cdef extern from "fastact_capi.h" nogil:
    enum:
        FASTACT_CAPI_VERSION
        FASTACT_MAX_PARAMETERS
        FASTACT_STATISTICS
        FASTACT_MEAN
        FASTACT_VARIANCE

    enum fastact_dtype:
        FASTACT_FLOAT16
        FASTACT_BFLOAT16
        FASTACT_FLOAT32
        FASTACT_FLOAT64

    enum fastact_status:
        FASTACT_OK
        FASTACT_BAD_ACTIVATION
        FASTACT_BAD_DTYPE
        FASTACT_BAD_LENGTH
        FASTACT_BAD_PARAMETERS
        FASTACT_BAD_POINTER
        FASTACT_NO_MEMORY

    enum fastact_parameter_kind:
        FASTACT_HAS_DEFAULT
        FASTACT_REQUIRED
        FASTACT_LEARNED

    ctypedef struct fastact_parameter:
        const char *name
        double default_value
        int kind

    ctypedef struct fastact_activation:
        const char *name
        const char *formula
        const char *source
        double max_ulp
        int gated
        int parameter_count
        fastact_parameter parameters[2]

    ctypedef struct fastact_batch_norm:
        int dtype
        ptrdiff_t outer, channels, inner
        const double *weight
        const double *bias
        double eps
        int activation
        const double *parameters

    ctypedef struct fastact_capi:
        int version
        int count
        int (*find)(const char *name) noexcept nogil
        const fastact_activation *(*describe)(int activation) noexcept nogil
        int (*forward)(int activation, int dtype, const void *x, void *y, ptrdiff_t n,
                       const double *parameters) noexcept nogil
        int (*backward)(int activation, int dtype, const void *dy, const void *x, void *dx, void *dparam,
                        ptrdiff_t n, const double *parameters) noexcept nogil
        int (*gated_forward)(int activation, int dtype, const void *x, const void *gate, void *y,
                             ptrdiff_t n) noexcept nogil
        int (*gated_backward)(int activation, int dtype, const void *dy, const void *x, const void *gate,
                              void *dx, void *dgate, ptrdiff_t n) noexcept nogil
        int (*get_num_threads)() noexcept nogil
        int (*set_thread_limit)(int n) noexcept nogil
        int (*batch_norm_forward)(const fastact_batch_norm *bn, int training, const void *x, void *y,
                                  double *statistics) noexcept nogil
        int (*batch_norm_backward)(const fastact_batch_norm *bn, int training, const void *dy, const void *x,
                                   const double *statistics, void *dx, double *dweight, double *dbias,
                                   double *dparameter) noexcept nogil

    const fastact_capi *fastact_api
