# The C interface (csrc/api.h) as Cython sees it; other modules `cimport` the table from here, and the
# functions that make results and that set the floating-point environment.
cimport numpy as cnp
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uint64_t


cdef extern from "api.h" nogil:
    enum:
        FA_MAX_PARAMS
        FA_MAX_NDIM
        FA_MAX_OPERANDS
        FA_ACTIVATION_COUNT
        FA_GATED_COUNT

    ctypedef enum fa_parameter_kind:
        FA_HAS_DEFAULT
        FA_NO_DEFAULT
        FA_HAS_GRADIENT

    ctypedef struct fa_parameter:
        const char *name
        double fallback
        fa_parameter_kind kind

    ctypedef struct fa_activation_info:
        const char *name
        int nparams
        fa_parameter params[3]
        double max_ulp
        const char *formula
        const char *source

    ctypedef enum fa_dtype:
        FA_INT8
        FA_UINT8
        FA_INT16
        FA_UINT16
        FA_INT32
        FA_UINT32
        FA_INT64
        FA_UINT64
        FA_FLOAT32
        FA_FLOAT64
        FA_FLOAT16
        FA_BFLOAT16

    ctypedef struct fa_op:
        int activation
        int backward
        int gated
        fa_dtype real

    ctypedef struct fa_operand:
        char *data
        fa_dtype dtype
        const ptrdiff_t *strides

    ctypedef struct fa_loop:
        fa_op op
        fa_dtype param_dtype

    ctypedef struct fa_affine:
        double *centre
        double *scale_hi
        double *scale_lo
        double *offset_hi
        double *offset_lo
        double *delta

    ctypedef struct fa_statistics:
        double *mean[2]
        double *var[2]
        double *rstd
        fa_affine affine

    ctypedef struct fa_view:
        char *data

    ctypedef enum fa_inverse_kind:
        FA_NO_INVERSE
        FA_INVERSE
        FA_STEADY_INVERSE

    ctypedef struct fa_lost:
        const void **channels
        const ptrdiff_t *begin
        const ptrdiff_t *index
        const void *x

    ctypedef struct fa_batchnorm:
        fa_dtype real
        ptrdiff_t channels
        ptrdiff_t count
        int activation
        const double *params[2]
        int params_per_channel
        const double *weight
        const double *bias
        double eps
        double total
        const fa_view *residual
        const fa_view *g
        const unsigned char *mask
        const double *weights
        const ptrdiff_t *first
        const double *shares
        int from_output
        const fa_lost *lost

    ctypedef enum fa_passes:
        FA_BOTH_PASSES
        FA_FIRST_PASS
        FA_SECOND_PASS

    ctypedef struct fa_api:
        const fa_activation_info *activations
        const fa_activation_info *gated
        void (*elementwise)(const fa_op *, int, const ptrdiff_t *, const fa_operand *) noexcept nogil
        void (*ufunc_loop)(char **, const ptrdiff_t *, const ptrdiff_t *, void *) noexcept nogil
        fa_view (*make_view)(char *, fa_dtype, int, const ptrdiff_t *, const ptrdiff_t *, int) noexcept nogil
        int (*batchnorm_forward)(const fa_batchnorm *, int, const fa_view *, const fa_view *,
                                 const fa_statistics *) noexcept nogil
        int (*batchnorm_statistics)(const fa_batchnorm *, const fa_view *, const fa_statistics *) noexcept nogil
        int (*batchnorm_backward)(const fa_batchnorm *, fa_passes, int, const fa_view *, const fa_view *,
                                  const fa_view *, const fa_statistics *, double **) noexcept nogil
        int (*batchnorm_count_lost)(const fa_batchnorm *, const fa_view *, const fa_statistics *, double,
                                    double *) noexcept nogil
        int (*batchnorm_recover)(const fa_batchnorm *, const fa_view *, const fa_view *,
                                 const fa_statistics *) noexcept nogil
        const fa_inverse_kind *inverses
        int (*param_gradient)(const fa_batchnorm *, const fa_view *, const fa_view *, double *) noexcept nogil
        double (*merge_statistics)(ptrdiff_t, ptrdiff_t, const double *, const double *, double *) noexcept nogil
        void (*scale_pairs)(ptrdiff_t, double, int, double *) noexcept nogil


cdef const fa_api *api
cpdef cnp.ndarray new_like(cnp.ndarray x, int kind)
cpdef uint64_t enter_environment() noexcept
cpdef void leave_environment(uint64_t old) noexcept
