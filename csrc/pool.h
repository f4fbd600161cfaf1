/* Recycled memory: large blocks that are freed wait, up to a limit, for the next request of their size.
 *
 * The pages of a new block cost more than the arithmetic that fills them: the system zeroes each on its
 * first touch.  The four allocation functions have the signatures of NumPy's PyDataMemAllocator (NEP 49).
 * They may be called from any thread, with or without the GIL, in a forked child and while the process
 * ends; they know nothing of Python. */
#ifndef FASTACT_POOL_H
#define FASTACT_POOL_H

#include <stddef.h>
#include <stdint.h>

/* Results of fewer bytes gain nothing: the C library recycles them itself (docs/design.md). */
#ifndef FA_POOL_THRESHOLD
#define FA_POOL_THRESHOLD ((size_t)1 << 18)
#endif

typedef struct {
    size_t in_use, kept; /* bytes of the blocks that are handed out, and of those that wait */
    size_t blocks_in_use, blocks_kept;
    size_t limit;    /* of kept */
    int enabled;
    uint64_t hits, misses, evictions; /* requests met by a kept block, by a new one; blocks given back */
} fa_pool_stats;

void *fa_pool_malloc(void *context, size_t size);
void *fa_pool_calloc(void *context, size_t count, size_t size);
void *fa_pool_realloc(void *context, void *data, size_t size);
void fa_pool_free(void *context, void *data, size_t size);

/* Whether a block of this size would be kept. */
int fa_pool_serves(size_t size);
fa_pool_stats fa_pool_get_stats(void);
void fa_pool_configure(size_t limit, int enabled); /* gives back what is kept beyond the limit */
size_t fa_pool_trim(void);          /* gives all kept blocks back to the system; their bytes */
size_t fa_pool_default_limit(void); /* in view of this machine's memory and the cgroup's limit */
void fa_pool_init(void);            /* once, at import */

#endif
