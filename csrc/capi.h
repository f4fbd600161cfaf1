/* What fastact_capi.h hands to other packages. */
#ifndef FASTACT_INTERNAL_CAPI_H
#define FASTACT_INTERNAL_CAPI_H

#include "../fastact/include/fastact_capi.h"

extern const fastact_capi fa_capi_table;

#endif
