#include "api.h"

const fa_api fa_api_table = {
    fa_activation_table, fa_gated_table,       fa_elementwise,          fa_ufunc_loop,
    fa_make_view,        fa_batchnorm_forward, fa_batchnorm_statistics, fa_batchnorm_backward,
    fa_batchnorm_count_lost, fa_batchnorm_recover, fa_inverse_kinds,
    fa_param_gradient,   fa_merge_statistics,  fa_scale_pairs,
};
