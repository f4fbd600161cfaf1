/* Moves strided elements of any accepted dtype to and from contiguous tiles of float or double. */
#ifndef FASTACT_STRIDED_H
#define FASTACT_STRIDED_H

#include <stddef.h>

#include "fastact.h"

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
    FA_FLOAT16,
    FA_BFLOAT16,
    FA_DTYPE_COUNT
} fa_dtype;

extern const ptrdiff_t fa_itemsize[FA_DTYPE_COUNT];

static inline int fa_is_half(fa_dtype dtype)
{
    return dtype >= FA_FLOAT16;
}

/* What a kernel's tile of data of this floating dtype holds. */
static inline fa_dtype fa_tile_dtype(fa_dtype real)
{
    return fa_is_half(real) ? FA_FLOAT64 : real;
}

const fa_half_kernels *fa_half_kernels_of(fa_dtype half);
const fa_real_kernels *fa_kernels_for(fa_dtype real);

/* n elements, `stride` bytes apart, into a tile of `to` (FA_FLOAT32 or FA_FLOAT64); stride may be 0. */
void fa_gather(const char *src, fa_dtype from, ptrdiff_t stride, ptrdiff_t n, void *tile, fa_dtype to);

/* The reverse; `from` is FA_FLOAT32 or FA_FLOAT64, `to` any floating dtype.  Rounds once. */
void fa_scatter(const void *tile, fa_dtype from, ptrdiff_t n, char *dst, fa_dtype to, ptrdiff_t stride);

#endif
