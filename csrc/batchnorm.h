/* BatchNorm + activation over whole arrays: the driver of the kernels in batchnorm.inc. */
#ifndef FASTACT_BATCHNORM_H
#define FASTACT_BATCHNORM_H

#include "fastact.h"
#include "view.h"

/* x where it cannot be found again from y. */
typedef struct {
    const void *const *channels; /* a channel's x, or NULL where there is a list of elements */
    const ptrdiff_t *begin;      /* channels + 1: where its list begins */
    const ptrdiff_t *index;      /* in order */
    const void *x;
} fa_lost;

typedef struct {
    fa_dtype real;
    ptrdiff_t channels, count; /* count: elements of a channel */
    int activation;            /* row of the table, or -1 for none */
    const double *params[FA_MAX_PARAMS];
    int params_per_channel; /* params[j] holds a value a channel; else one value */
    const double *weight, *bias; /* a value a channel, or NULL */
    double eps;
    double total; /* values of a channel that the statistics stand for: count, or of more than this array */
    const fa_view *residual; /* what is added to z, or NULL */
    const fa_view *g;        /* where the backward leaves the gradient before the activation, or NULL */
    const unsigned char *mask; /* of the elements of a channel, those that count; or NULL: all.  FA_LANES more */
    const double *weights;     /* how much they count, or NULL: 1.  FA_LANES more */
    const ptrdiff_t *first;    /* with a mask or weights: FA_LANES elements whose mean shifts the sums, */
    const double *shares;      /* and how much each has of it, or NULL: the same */
    int from_output;           /* x is y, from which the x that it was made of is found again, */
    const fa_lost *lost;       /* but for these, or NULL: all */
} fa_batchnorm;

/* The passes of a call.  With one alone, what lies between them is the caller's: parts of several arrays. */
typedef enum { FA_BOTH_PASSES, FA_FIRST_PASS, FA_SECOND_PASS } fa_passes;

/* What a forward leaves to its backward; arrays of a value a channel, pairs apart. */
typedef struct {
    double *mean[2], *var[2], *rstd;
    fa_affine affine;
} fa_statistics;

/* Both give 0, or -1 when memory ran out: then no result was written. */

/* y = activation(normalise(x)).  mean and var (biased) are written when training, read otherwise; the rest
 * of the statistics is written. */
int fa_batchnorm_forward(const fa_batchnorm *bn, int training, const fa_view *x, const fa_view *y,
                         const fa_statistics *statistics);

/* The statistics of x alone. */
int fa_batchnorm_statistics(const fa_batchnorm *bn, const fa_view *x, const fa_statistics *statistics);

/* dx, and the sums of g, of g (x - mean) and of the learned parameter's gradient, a value a channel each.
 * `training` says whether the statistics were those of x or constants.  The first pass alone writes sums, the
 * second alone reads them, and one of their own would do as well: of several arrays. */
int fa_batchnorm_backward(const fa_batchnorm *bn, fa_passes passes, int training, const fa_view *dy,
                          const fa_view *x, const fa_view *dx, const fa_statistics *statistics,
                          double *const sums[FA_SUMS]);

/* Of each channel, how many elements of x could not be found again from y. */
int fa_batchnorm_count_lost(const fa_batchnorm *bn, const fa_view *x, const fa_statistics *statistics,
                            double tolerance, double *counts);

/* x again from y. */
int fa_batchnorm_recover(const fa_batchnorm *bn, const fa_view *y, const fa_view *x,
                         const fa_statistics *statistics);

/* The gradient of a learned parameter alone, without normalisation, added in the order of
 * fa_batchnorm_backward. */
int fa_param_gradient(const fa_batchnorm *bn, const fa_view *dy, const fa_view *x, double *sums);

#endif
