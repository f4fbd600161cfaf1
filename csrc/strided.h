/* Moves strided elements of any accepted dtype to and from contiguous tiles of float or double. */
#ifndef FASTACT_STRIDED_H
#define FASTACT_STRIDED_H

#include <stddef.h>

typedef enum {
    FA_INT8,
    FA_UINT8, /* bool too */
    FA_INT16,
    FA_UINT16,
    FA_INT32,
    FA_UINT32,
    FA_INT64,
    FA_UINT64,
    FA_FLOAT32,
    FA_FLOAT64,
    FA_DTYPE_COUNT
} fa_dtype;

extern const ptrdiff_t fa_itemsize[FA_DTYPE_COUNT];

/* n elements, `stride` bytes apart, into a tile of `to` (FA_FLOAT32 or FA_FLOAT64); stride may be 0. */
void fa_gather(const char *src, fa_dtype from, ptrdiff_t stride, ptrdiff_t n, void *tile, fa_dtype to);

/* The reverse; both dtypes are FA_FLOAT32 or FA_FLOAT64. */
void fa_scatter(const void *tile, fa_dtype from, ptrdiff_t n, char *dst, fa_dtype to, ptrdiff_t stride);

#endif
