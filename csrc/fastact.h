/* Types shared by every C file of fastact.
 *
 * A kernel is a serial function over a contiguous range.  It knows nothing of threads, strides, tails
 * or Python: the drivers (elementwise.c, batchnorm.c) cut the work into tiles that fit the first-level
 * cache, and hand each tile to a kernel through the table of the active instruction set (dispatch.c).
 */
#ifndef FASTACT_H
#define FASTACT_H

#include <stddef.h>
#include <stdint.h>

/* Constants of the numerics, the same for every instruction set, thread count and memory layout:
 * element k of a channel, counted in logical (batch-major) order, belongs to block k / FA_BLOCK and to
 * lane k % FA_LANES.  Changing one changes results. */
enum {
    FA_LANES = 16,   /* a kernel's range is a multiple of this: no kernel has a tail loop */
    FA_BLOCK = 1024, /* elements a reduction block; also the tile of the drivers: 4 KiB of float32 */
    FA_GROUP = 64,   /* at most so many neighbouring channels are reduced together: 24 KiB of lanes */
    FA_MAX_PARAMS = 2,
    FA_MAX_NDIM = 64,
    FA_MAX_DATA = 3, /* dy, x, gate */
    FA_MAX_OPERANDS = FA_MAX_DATA + FA_MAX_PARAMS + 2 /* data, parameters, dx, dparameter or dgate */
};

/* The rows of activations.def, in table order. */
enum {
#define FA_ROW(name, nparams, params, max_ulp, formula, source) FA_##name,
#include "activations.def"
    FA_ACTIVATION_COUNT
};

/* Its gated rows. */
enum {
#define FA_GATED_ROW(name, max_ulp, formula, source) FA_##name,
#include "activations.def"
    FA_GATED_COUNT
};

typedef enum {
    FA_HAS_DEFAULT,
    FA_NO_DEFAULT,
    FA_HAS_GRADIENT /* learned: no default, may be an array */
} fa_parameter_kind;

typedef struct {
    const char *name;
    double fallback; /* meaningless without a default */
    fa_parameter_kind kind;
} fa_parameter;

typedef struct {
    const char *name;
    int nparams;
    fa_parameter params[FA_MAX_PARAMS + 1]; /* terminated by a NULL name */
    double max_ulp;                         /* float32 forward, over all 2^32 inputs */
    const char *formula;
    const char *source;
} fa_activation_info;

extern const fa_activation_info fa_activation_table[FA_ACTIVATION_COUNT];
extern const fa_activation_info fa_gated_table[FA_GATED_COUNT];

/* Elementwise kernels: n is a multiple of FA_LANES; input and output may be the same pointer.
 * `params[j]` points to one float64 (uniform kernels) or to n of them (varying kernels). */
typedef void (*fa_forward_fn)(const void *x, void *y, ptrdiff_t n, const double *const *params);
typedef void (*fa_backward_fn)(const void *dy, const void *x, void *dx, ptrdiff_t n,
                               const double *const *params);
/* dy * d(value)/d(parameter), one float64 an element */
typedef void (*fa_param_gradient_fn)(const void *dy, const void *x, double *dparam, ptrdiff_t n,
                                     const double *const *params);

enum { FA_UNIFORM, FA_VARYING };

typedef struct {
    fa_forward_fn forward[2]; /* indexed by FA_UNIFORM, FA_VARYING */
    fa_backward_fn backward[2];
    fa_param_gradient_fn param_gradient[2]; /* NULL unless the parameter is learned */
} fa_activation_kernels;

/* dx may be dy's memory or any input's; dgate too, and it is written before dx's element is. */
typedef struct {
    void (*forward)(const void *x, const void *gate, void *y, ptrdiff_t n);
    void (*backward)(const void *dy, const void *x, const void *gate, void *dx, void *dgate, ptrdiff_t n);
} fa_gated_kernels;

/* A number in working precision: float64 for float32 data (lo stays 0, but for means), a double-double for
 * float64. */
typedef struct {
    double hi, lo;
} fa_pair;

typedef struct {
    fa_pair mean, m2; /* m2: sum of squared deviations from the mean */
} fa_moments;

typedef struct {
    fa_pair g, gx, param; /* sums of g, g * (x - mean) and the learned parameter's gradient */
} fa_sums;

/* What normalising needs: z = (x - mean) * scale + bias, in working precision.  Arrays of a value a
 * channel; fa_affine_at moves to a channel. */
typedef struct {
    double *mean_hi, *mean_lo, *scale_hi, *scale_lo, *bias;
} fa_affine;

static inline fa_affine fa_affine_at(const fa_affine *a, ptrdiff_t c)
{
    return (fa_affine){a->mean_hi + c, a->mean_lo + c, a->scale_hi + c, a->scale_lo + c, a->bias + c};
}

/* What the gradient needs: dx = (g - g_mean - (x - mean) * slope) * scale. */
typedef struct {
    double *g_mean, *slope;
} fa_slope;

static inline fa_slope fa_slope_at(const fa_slope *s, ptrdiff_t c)
{
    return (fa_slope){s->g_mean + c, s->slope + c};
}

/* Accumulators of FA_GROUP channels: [lane][high or low part][sum][channel].  What is used together lies
 * together: a multiple of 4 KiB apart, a store to one sum would hold up the load of the next, and the lanes
 * would crowd half of the first-level cache's sets. */
typedef struct {
    _Alignas(64) double lane[FA_LANES][2][3][FA_GROUP];
} fa_group;

/* BatchNorm kernels of one dtype; `real` is float or double.  Rows hold neighbouring channels; strides
 * are in elements; `width` of a group is a multiple of FA_LANES, of `*_rows` anything. */
typedef struct {
    /* moments of a block: n real elements, padded with x[0] to a multiple of FA_LANES */
    void (*block_moments)(const void *x, ptrdiff_t n, fa_moments *out);
    /* the same of neighbouring channels: row r belongs to lane r % FA_LANES; shift: the block's first row */
    void (*group_moments)(fa_group *sums, const void *x, ptrdiff_t stride, ptrdiff_t rows, ptrdiff_t width,
                          const void *shift);
    void (*finish_moments)(fa_group *sums, ptrdiff_t n, ptrdiff_t width, const void *shift, fa_moments *out);
    /* merges the moments of consecutive blocks of `total` elements in a fixed tree; overwrites parts */
    fa_moments (*merge_moments)(fa_moments *parts, ptrdiff_t total);
    /* sums over a block; g, x (and dparam, unless NULL) padded with zeros to a multiple of FA_LANES */
    void (*block_sums)(const void *g, const void *x, const double *dparam, ptrdiff_t n,
                       const fa_affine *channel, fa_sums *out);
    /* the same of neighbouring channels; dparam, unless NULL, is packed */
    void (*group_sums)(fa_group *sums, const void *g, ptrdiff_t g_stride, const void *x, ptrdiff_t x_stride,
                       const double *dparam, ptrdiff_t rows, ptrdiff_t width, const double *mean_hi,
                       const double *mean_lo);
    void (*finish_sums)(fa_group *sums, ptrdiff_t width, fa_sums *out);
    fa_sums (*merge_sums)(fa_sums *parts, ptrdiff_t nparts);
    fa_pair (*divide)(fa_pair a, double n);
    /* statistics -> what normalising needs; weight and bias NULL for 1 and 0 */
    void (*affine)(const fa_pair *mean, const fa_pair *var, const double *weight, const double *bias,
                   double eps, ptrdiff_t channels, const fa_affine *out, double *rstd);
    /* normalise n elements of one channel (n a multiple of FA_LANES) ... */
    void (*normalize)(const void *x, void *z, ptrdiff_t n, const fa_affine *channel);
    /* ... or rows of neighbouring channels; z is packed */
    void (*normalize_rows)(const void *x, ptrdiff_t stride, void *z, ptrdiff_t rows, ptrdiff_t width,
                           const fa_affine *channels);
    void (*apply)(const void *g, const void *x, void *dx, ptrdiff_t n, const fa_affine *channel,
                  const fa_slope *slope);
    void (*apply_rows)(const void *g, ptrdiff_t g_stride, const void *x, ptrdiff_t x_stride, void *dx,
                       ptrdiff_t rows, ptrdiff_t width, const fa_affine *channels, const fa_slope *slopes);
} fa_batchnorm_kernels;

typedef struct {
    fa_activation_kernels activation[FA_ACTIVATION_COUNT];
    fa_gated_kernels gated[FA_GATED_COUNT];
    fa_batchnorm_kernels batchnorm;
} fa_real_kernels;

/* The formats of 16 bits.  Their data is computed on as float64, by kernels of the same working precision as
 * float32's, and rounded once. */
typedef struct {
    void (*widen)(const void *from, double *to, ptrdiff_t n);
    void (*narrow)(const double *from, void *to, ptrdiff_t n); /* to nearest, ties to even */
    void (*round)(double *x, ptrdiff_t n);                     /* both, in place */
} fa_half_kernels;

typedef struct {
    const char *name;
    fa_real_kernels half, f32, f64;
    fa_half_kernels f16, bf16;
    /* copies n bytes past the caches; dst and src need no alignment */
    void (*stream)(void *dst, const void *src, size_t bytes);
} fa_isa_table;

static inline ptrdiff_t fa_padded(ptrdiff_t n)
{
    return (n + FA_LANES - 1) & -(ptrdiff_t)FA_LANES;
}

static inline ptrdiff_t fa_at_most(ptrdiff_t n, ptrdiff_t limit)
{
    return n < limit ? n : limit;
}

#endif
