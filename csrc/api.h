/* The C interface of fastact._runtime, the one extension module that contains the kernels.  The others
 * (and, some day, other packages) reach it through this table. */
#ifndef FASTACT_API_H
#define FASTACT_API_H

#include "batchnorm.h"
#include "elementwise.h"
#include "fastact.h"
#include "merge.h"
#include "view.h"

typedef struct {
    const fa_activation_info *activations, *gated;
    void (*elementwise)(const fa_op *, int, const ptrdiff_t *, const fa_operand *);
    void (*ufunc_loop)(char **, const ptrdiff_t *, const ptrdiff_t *, void *);
    fa_view (*make_view)(char *, fa_dtype, int, const ptrdiff_t *, const ptrdiff_t *, int);
    int (*batchnorm_forward)(const fa_batchnorm *, int, const fa_view *, const fa_view *,
                             const fa_statistics *);
    int (*batchnorm_statistics)(const fa_batchnorm *, const fa_view *, const fa_statistics *);
    int (*batchnorm_backward)(const fa_batchnorm *, fa_passes, int, const fa_view *, const fa_view *,
                              const fa_view *, const fa_statistics *, double *const *);
    int (*batchnorm_count_lost)(const fa_batchnorm *, const fa_view *, const fa_statistics *, double, double *);
    int (*batchnorm_recover)(const fa_batchnorm *, const fa_view *, const fa_view *, const fa_statistics *);
    const fa_inverse_kind *inverses;
    int (*param_gradient)(const fa_batchnorm *, const fa_view *, const fa_view *, double *);
    double (*merge_statistics)(ptrdiff_t, ptrdiff_t, const double *, const double *, double *);
    void (*scale_pairs)(ptrdiff_t, double, int, double *);
} fa_api;

extern const fa_api fa_api_table;

#endif
