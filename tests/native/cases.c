#include "native.h"

const char *const kind_names[KINDS] = {"elementwise", "ufunc loop", "batchnorm", "parameter gradient", "capi", "pool",
                                      "merge"};

verdict run_case(const uint8_t *bytes, size_t n)
{
    static verdict (*const cases[KINDS])(drawing *) = {elementwise_case, ufunc_case, batchnorm_case,
                                                       gradient_case,    capi_case,  pool_case,
                                                       merge_case};
    static const int often[] = {ELEMENTWISE, ELEMENTWISE, ELEMENTWISE, BATCHNORM, BATCHNORM, BATCHNORM,
                                BATCHNORM,   UFUNC,       GRADIENT,    CAPI,      POOL,      UFUNC,     MERGE};
    drawing d = {bytes, bytes + n};
    return cases[DRAW_FROM(&d, often)](&d);
}
