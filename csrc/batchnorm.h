/* BatchNorm + activation over whole arrays: the driver of the kernels in batchnorm.inc. */
#ifndef FASTACT_BATCHNORM_H
#define FASTACT_BATCHNORM_H

#include "fastact.h"
#include "view.h"

typedef struct {
    fa_dtype real;
    ptrdiff_t channels, count; /* count: elements of a channel */
    int activation;            /* row of the table, or -1 for none */
    const double *params[FA_MAX_PARAMS];
    int params_per_channel; /* params[j] holds a value a channel; else one value */
    const double *weight, *bias; /* a value a channel, or NULL */
    double eps;
} fa_batchnorm;

/* All arrays below hold a value a channel.  0, or -1 when memory ran out: then nothing was written. */

/* y = activation(normalise(x)).  `mean` and `var` (biased) are written when training, read otherwise;
 * `affine` and `rstd` are written. */
int fa_batchnorm_forward(const fa_batchnorm *bn, int training, const fa_view *x, const fa_view *y,
                         fa_pair *mean, fa_pair *var, const fa_affine *affine, double *rstd);

/* dx, and the sums from which the gradients of weight, bias and a learned parameter follow.  `training`
 * says whether the statistics were those of x or constants. */
int fa_batchnorm_backward(const fa_batchnorm *bn, int training, const fa_view *dy, const fa_view *x,
                          const fa_view *dx, const fa_affine *affine, const double *rstd, fa_sums *sums);

/* The gradient of a learned parameter alone, without normalisation: sums[c].param, added in the order of
 * fa_batchnorm_backward. */
int fa_param_gradient(const fa_batchnorm *bn, const fa_view *dy, const fa_view *x, fa_sums *sums);

#endif
