/* What the machine's memory is like, and scratch memory that begins at a cache line. */
#ifndef FASTACT_MEMORY_H
#define FASTACT_MEMORY_H

#include <stddef.h>
#include <stdlib.h>
#if defined(_WIN32)
#include <malloc.h>
#endif

/* `bytes`: a multiple of 64. */
static inline void *fa_aligned_alloc(size_t bytes)
{
#if defined(_WIN32)
    return _aligned_malloc(bytes, 64);
#else
    return aligned_alloc(64, bytes);
#endif
}

static inline void fa_aligned_free(void *memory)
{
#if defined(_WIN32)
    _aligned_free(memory);
#else
    free(memory);
#endif
}

/* Whether a call that touches this many bytes should write its result past the caches. */
int fa_worth_streaming(ptrdiff_t bytes);
/* The caches, in bytes: one core's second level, and the last level. */
ptrdiff_t fa_l2_bytes(void);
ptrdiff_t fa_llc_bytes(void);
void fa_memory_init(void);

#endif
