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

/* Sums over the elements of FA_LANES positions, [high or low part][sum][position].  A position is a lane of a
 * channel, or one of FA_LANES neighbouring channels.  The sums of the forward are those of d = x - shift and
 * d^2, those of the backward of g, g * (x - centre) and the learned parameter's gradient. */
enum { FA_SUMS = 3 };
typedef struct {
    _Alignas(64) double at[2][FA_SUMS][FA_LANES];
} fa_lanes;

struct fa_span;

typedef struct {
    fa_forward_fn forward[2]; /* indexed by FA_UNIFORM, FA_VARYING */
    fa_backward_fn backward[2];
    fa_param_gradient_fn param_gradient[2]; /* NULL unless the parameter is learned */
    /* with normalisation in one loop; NULL where composing the kernels is as fast */
    void (*fused_forward)(const struct fa_span *span);
    void (*fused_backward)(const struct fa_span *span);
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

/* What normalising needs: z = (x - centre) * scale + offset, in working precision.  The centre is the mean
 * rounded to the dtype of x; the offset is the bias, less the rest of the mean times the scale.  Arrays of a
 * value a channel, low parts apart; fa_affine_at moves to a channel. */
typedef struct {
    double *centre, *scale_hi, *scale_lo, *offset_hi, *offset_lo;
    double *delta; /* mean - centre */
} fa_affine;

static inline fa_affine fa_affine_at(const fa_affine *a, ptrdiff_t c)
{
    return (fa_affine){a->centre + c,    a->scale_hi + c,  a->scale_lo + c,
                       a->offset_hi + c, a->offset_lo + c, a->delta + c};
}

/* What the gradient needs: dx = scale * (g + constant + (x - centre) * slope). */
typedef struct {
    double *slope, *constant;
    double *wide; /* not 0 where that needs float64's range */
} fa_slope;

static inline fa_slope fa_slope_at(const fa_slope *s, ptrdiff_t c)
{
    return (fa_slope){s->slope + c, s->constant + c, s->wide + c};
}

/* Folded, they are [block][sum][high or low part][channel], with `width` channels in a row: the place of a
 * block's first channel. */
static inline double *fa_part(double *parts, ptrdiff_t width, ptrdiff_t block, int sum, int part)
{
    return parts + ((block * FA_SUMS + sum) * 2 + part) * width;
}

/* What kernels take of FA_LANES positions: their channels' constants. */
typedef struct {
    _Alignas(64) double shift[FA_LANES], centre[FA_LANES], scale_hi[FA_LANES], scale_lo[FA_LANES],
        offset_hi[FA_LANES], offset_lo[FA_LANES], slope[FA_LANES], constant[FA_LANES], wide[FA_LANES],
        params[FA_MAX_PARAMS][FA_LANES];
    double rstd[FA_LANES], inverse_scale[FA_LANES]; /* only where x is found again from y */
    float narrow_centre[FA_LANES], narrow_scale[FA_LANES], narrow_slope[FA_LANES], narrow_constant[FA_LANES];
    /* z > 0 where x, with these bits flipped, is at least positive_from; unless not all positions have one */
    uint32_t flip[FA_LANES];
    float positive_from[FA_LANES];
    int sided;
    int wides; /* positions that are wide */
} fa_strip;

/* The operand of BatchNorm's kernels: rows of strips of FA_LANES elements, which lie side by side.  They are one
 * channel's, a row a run of memory or a part of one, or several elements of several channels.  Steps lead from a row
 * to the next, in elements. */
typedef struct fa_span {
    const void *x, *dy; /* dy: or g */
    void *out;
    ptrdiff_t rows, strips;
    ptrdiff_t x_step, dy_step, out_step;
    const fa_strip *constants;
    int each;       /* 1: every strip of a row has constants of its own; 0: they share them */
    int along;      /* where each has: strips are taken along the rows, in the order of memory */
    int odd;        /* of a reduction: elements of a row's last strip, if not all; the others may be read */
    const double *of_rows[3]; /* of float32, unless NULL: centre, scale and offset of each row, in place of `constants`' */
    int varying;    /* whether the parameters differ among the positions */
    int stream;     /* write `out`, which is aligned to 64 bytes as its rows are, past the caches */
    double *dparam; /* packed rows; unless a parameter is learned, NULL */
    const void *residual; /* what is added to z before the activation, or NULL */
    ptrdiff_t residual_step;
    const char *ahead[2]; /* memory that will be read soon, of the form of x; or, with a step of 0, none */
    ptrdiff_t ahead_step; /* bytes from a row to the next; of a reduction of one strip, from a lane to the next */
    ptrdiff_t ahead_strip; /* bytes from a strip to the next, or from a lane's row to its next: 0 if there is none */
} fa_span;

/* The formats of 16 bits.  Their data is computed on as float64, by kernels of the same working precision as
 * float32's, and rounded once. */
typedef struct {
    void (*widen)(const void *from, double *to, ptrdiff_t n);
    void (*narrow)(const double *from, void *to, ptrdiff_t n); /* to nearest, ties to even */
    void (*round)(double *x, ptrdiff_t n);                     /* both, in place */
} fa_half_kernels;

/* out = x of y, which is the span's x */
typedef void (*fa_recover_fn)(const fa_span *span);

/* Whether a row has an inverse: inverses.def. */
typedef enum { FA_NO_INVERSE, FA_INVERSE, FA_STEADY_INVERSE } fa_inverse_kind;
extern const fa_inverse_kind fa_inverse_kinds[FA_ACTIVATION_COUNT];

typedef enum { FA_COVER_SHIFT, FA_COVER_CENTRE, FA_COVER_ZERO } fa_cover_with;

/* Where the gradient depends on the sign of z alone, which x tells by a comparison: what fa_batchnorm_kernels.sums
 * gives of g, and apply, of dy. */
typedef struct {
    void (*sums)(fa_lanes *sums, int lanes, const fa_span *span);
    void (*apply)(const fa_span *span);
} fa_sided_kernels;

/* BatchNorm kernels of one dtype; `real` is float or double. */
typedef struct {
    /* The shift of a channel: the mean of its first FA_LANES elements, in `real`.  Of a channel in a row, or of
     * FA_LANES channels in FA_LANES rows. */
    double (*run_shift)(const void *x);
    void (*strip_shift)(const void *x, ptrdiff_t step, double *shift);
    /* adds to sums[r % lanes] what row r of a span gives that is one strip wide; or to sums[0] what all strips of one
     * channel do.  There element i of a strip belongs to place i; with an odd row the places move on, so that
     * place 0 is always that of the next element.  `sums` sums a span's dy and, of rows that are not odd, dparam. */
    void (*moments)(fa_lanes *sums, int lanes, const fa_span *span);
    void (*sums)(fa_lanes *sums, int lanes, const fa_span *span, ptrdiff_t dparam_step);
    /* folds the lanes of one channel, or FA_LANES lanes of FA_LANES channels, of which `channels` count; `out`
     * is the first channel's fa_part of a block */
    void (*fold_run)(const fa_lanes *sums, int count, double *out, ptrdiff_t width);
    void (*fold_strip)(const fa_lanes *sums, int count, double *out, ptrdiff_t width, ptrdiff_t channels);
    /* adds the parts of consecutive blocks in a fixed tree, which leaves the sums in block 0 */
    void (*merge)(double *parts, ptrdiff_t width, ptrdiff_t blocks, ptrdiff_t channels, int count);
    /* the sums -> mean and biased variance; arrays of `channels` values, pairs apart */
    void (*statistics)(const double *parts, ptrdiff_t width, const double *shift, double n, ptrdiff_t channels,
                       double *const mean[2], double *const var[2]);
    /* statistics -> what normalising needs; weight and bias NULL for 1 and 0 */
    void (*affine)(double *const mean[2], double *const var[2], const double *weight, const double *bias,
                   double eps, ptrdiff_t channels, const fa_affine *out, double *rstd);
    /* the sums as single numbers, with x - mean for x - centre, and what the gradient needs of them */
    void (*totals)(const double *parts, ptrdiff_t width, const fa_affine *affine, ptrdiff_t channels,
                   double *const sums[FA_SUMS]);
    void (*slope)(const double *g_sum, const double *gx_sum, const fa_affine *affine, const double *rstd, double n,
                  ptrdiff_t channels, const fa_slope *out);
    void (*param_sums)(const double *parts, ptrdiff_t width, ptrdiff_t channels, double *sums);
    void (*find_sides)(fa_strip *strip); /* float32's; else NULL */
    const fa_sided_kernels *sided;       /* by activation; float32's; else NULL */
    void (*normalize)(const fa_span *span); /* out = z */
    /* out = activation(z), or z if it is NULL; out = g = dy * activation'(z).  The span is afterwards what it was. */
    void (*forward)(fa_span *span, const fa_activation_kernels *activation, const fa_half_kernels *half);
    void (*backward)(fa_span *span, const fa_activation_kernels *activation, const fa_half_kernels *half);
    void (*apply)(const fa_span *span, int training); /* out = dx of g, which is dy */
    /* counted.inc: values that do not count, or with a weight; x again from y, which is the span's x */
    void (*cover)(const fa_span *span, const unsigned char *mask, int by_rows, fa_cover_with with);
    void (*weighted_moments)(fa_lanes *sums, int lanes, const fa_span *span, const double *weights, int by_rows);
    void (*weighted_apply)(const fa_span *span, const double *weights, int by_rows);
    void (*count_lost)(fa_lanes *sums, int lanes, const fa_span *span, double tolerance);
    fa_recover_fn recover[FA_ACTIVATION_COUNT + 1][2]; /* the last: of none; indexed by FA_UNIFORM, FA_VARYING */
} fa_batchnorm_kernels;

typedef struct {
    fa_activation_kernels activation[FA_ACTIVATION_COUNT];
    fa_gated_kernels gated[FA_GATED_COUNT];
    fa_batchnorm_kernels batchnorm;
} fa_real_kernels;

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
