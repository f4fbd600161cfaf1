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
/* The caches, in bytes: one core's second level, and of the last level the share of the CPUs that the process may
 * use. */
ptrdiff_t fa_l2_bytes(void);
ptrdiff_t fa_llc_bytes(void);
/* As Linux tells it, or 0: a cache, or the share of so many of the CPUs that it belongs to (0: all of them).  `root`
 * stands before every path: "" for this machine. */
ptrdiff_t fa_cache_bytes(const char *root, int level, int cpus);
void fa_memory_init(void);

#endif
