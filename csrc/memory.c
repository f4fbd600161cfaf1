#include "memory.h"

#if defined(__linux__) || defined(__APPLE__)
#include <unistd.h>
#endif

static ptrdiff_t l2 = 1 << 20, llc = 8 << 20; /* where the system does not say */

void fa_memory_init(void)
{
#if defined(_SC_LEVEL2_CACHE_SIZE) && defined(_SC_LEVEL3_CACHE_SIZE)
    long l2_size = sysconf(_SC_LEVEL2_CACHE_SIZE), l3_size = sysconf(_SC_LEVEL3_CACHE_SIZE);
    if (l2_size > 0)
        l2 = l2_size;
    llc = l3_size > 0 ? l3_size : l2;
#endif
}

ptrdiff_t fa_l2_bytes(void)
{
    return l2;
}

ptrdiff_t fa_llc_bytes(void)
{
    return llc;
}

int fa_worth_streaming(ptrdiff_t bytes)
{
    return bytes > llc / 2;
}
