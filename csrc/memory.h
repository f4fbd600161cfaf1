/* What the machine's memory is like. */
#ifndef FASTACT_MEMORY_H
#define FASTACT_MEMORY_H

#include <stddef.h>

/* Whether a call that touches this many bytes should write its result past the caches. */
int fa_worth_streaming(ptrdiff_t bytes);
/* The caches, in bytes: one core's second level, and the last level. */
ptrdiff_t fa_l2_bytes(void);
ptrdiff_t fa_llc_bytes(void);
void fa_memory_init(void);

#endif
