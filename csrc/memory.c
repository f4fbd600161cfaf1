#include "memory.h"

#include <stdio.h>
#include <string.h>
#if defined(__linux__)
#include <unistd.h>
#endif

#include "parallel.h"

enum {
    LEAST_SHARE = 8 << 20, /* of the last level: somebody is always idle */
    /* Of one CPU, as processors are built: at most, and usually.  A guest may be told the size of a whole processor's
     * cache and that its own few CPUs are all that share it. */
    MOST_EACH = 32 << 20,
    USUAL_EACH = 4 << 20,
};

static ptrdiff_t l2 = 1 << 20, llc = 8 << 20; /* where the system does not say */

/* A line of what the kernel tells of the caches of the first CPU; 0 where it does not. */
static int tells(const char *root, int index, const char *what, char line[512])
{
    char path[512];
    const int length = snprintf(path, sizeof path, "%s/sys/devices/system/cpu/cpu0/cache/index%d/%s", root, index, what);
    FILE *file = length < (int)sizeof path ? fopen(path, "r") : NULL;
    if (!file)
        return 0;
    const int read = fgets(line, 512, file) != NULL;
    fclose(file);
    return read;
}

/* "32768K" */
static ptrdiff_t bytes_in(const char *size)
{
    char *unit;
    const long n = strtol(size, &unit, 10);
    return n < 0 ? 0 : n * (*unit == 'K' ? 1L << 10 : *unit == 'M' ? 1L << 20 : 1);
}

/* "0-3,8-11" */
static ptrdiff_t cpus_in(const char *list)
{
    ptrdiff_t cpus = 0;
    for (const char *at = list; at; at = strchr(at, ',')) {
        char *end;
        at += *at == ',';
        const long first = strtol(at, &end, 10);
        cpus += end == at ? 0 : *end == '-' ? strtol(end + 1, NULL, 10) - first + 1 : 1;
    }
    return cpus;
}

/* sysconf is not asked first: on servers it adds up the third-level caches of every core complex, of which a core can
 * use only its own. */
ptrdiff_t fa_cache_bytes(const char *root, int level, int cpus)
{
    char line[512];
    for (int index = 0; index < 8 && tells(root, index, "level", line); index++) {
        if (strtol(line, NULL, 10) != level)
            continue;
        const ptrdiff_t size = tells(root, index, "size", line) ? bytes_in(line) : 0;
        const ptrdiff_t sharers = tells(root, index, "shared_cpu_list", line) ? cpus_in(line) : 0;
        const ptrdiff_t sharing = cpus > 0 && cpus < sharers ? cpus : sharers;
        const ptrdiff_t each = sharers > 0 ? size / sharers : 0;
        const ptrdiff_t share = !each ? size : sharing * (each > MOST_EACH ? USUAL_EACH : each);
        return share >= LEAST_SHARE || size < LEAST_SHARE ? share : LEAST_SHARE;
    }
    return 0;
}

void fa_memory_init(void)
{
#if defined(__linux__)
    ptrdiff_t l2_size = fa_cache_bytes("", 2, 0), l3_size = fa_cache_bytes("", 3, fa_usable_cpus());
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
