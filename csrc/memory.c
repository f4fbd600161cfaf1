#include "memory.h"

#if defined(__linux__)
#include <stdio.h>
#include <unistd.h>
#endif

static ptrdiff_t l2 = 1 << 20, llc = 8 << 20; /* where the system does not say */

#if defined(__linux__)
/* The size of a cache as the kernel tells it ("32768K"), or 0.  sysconf is not asked first: on servers it
 * adds up the third-level caches of every core complex, of which a core can use only its own. */
static ptrdiff_t sysfs_cache(int level)
{
    for (int index = 0; index < 8; index++) {
        char path[80], unit = 0;
        long found = 0, size = 0;
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/level", index);
        FILE *file = fopen(path, "r");
        if (!file)
            return 0;
        int read = fscanf(file, "%ld", &found);
        fclose(file);
        if (read != 1 || found != level)
            continue;
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", index);
        if (!(file = fopen(path, "r")))
            return 0;
        read = fscanf(file, "%ld%c", &size, &unit);
        fclose(file);
        return read < 1 ? 0 : size * (unit == 'K' ? 1024 : unit == 'M' ? 1 << 20 : 1);
    }
    return 0;
}
#endif

void fa_memory_init(void)
{
#if defined(__linux__)
    ptrdiff_t l2_size = sysfs_cache(2), l3_size = sysfs_cache(3);
#if defined(_SC_LEVEL2_CACHE_SIZE) && defined(_SC_LEVEL3_CACHE_SIZE)
    l2_size = l2_size ? l2_size : sysconf(_SC_LEVEL2_CACHE_SIZE);
    l3_size = l3_size ? l3_size : sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
    if (l2_size > 0)
        l2 = l2_size;
    llc = l3_size > 0 ? l3_size : l2_size > 0 ? l2_size : llc;
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
