/* What the library finds of its surroundings, with files that stand for a container's.
 *
 *     settings ISA     exit status 1: a limit is not seen */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "activation_cost.h"
#include "cgroup.h"
#include "dispatch.h"
#include "memory.h"
#include "parallel.h"
#include "pool.h"

static char root[64] = "/tmp/fastact-XXXXXX";

static void write_file(const char *folder, const char *name, const char *content)
{
    char path[512];
    snprintf(path, sizeof path, "%s%s", root, folder);
    for (char *at = path + strlen(root) + 1; *at; at++)
        if (*at == '/') {
            *at = 0;
            mkdir(path, 0700);
            *at = '/';
        }
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s%s/%s", root, folder, name);
    FILE *file = fopen(path, "w");
    if (!file)
        exit(1);
    fputs(content, file);
    fclose(file);
}

static void write_cache(int index, const char *level, const char *size, const char *sharers)
{
    char folder[80];
    snprintf(folder, sizeof folder, "/sys/devices/system/cpu/cpu0/cache/index%d", index);
    write_file(folder, "level", level);
    write_file(folder, "size", size);
    write_file(folder, "shared_cpu_list", sharers);
}

static int expect(const char *what, double want, double got)
{
    if (want != got)
        printf("%s: %g instead of %g\n", what, got, want);
    return want != got;
}

/* Numbers beyond 2^60, nanoseconds since 1970 say, would be multiples of 256. */
static int tells_nanoseconds(void)
{
    int fine = 0;
    for (int i = 0; i < 1000; i++)
        fine |= (int64_t)fa_nanoseconds() % 256 != 0;
    return fine;
}

static void record(fa_cost *cost, ptrdiff_t elements, double each)
{
    for (int k = 0; k < 8; k++)
        fa_record(cost, elements, fa_nanoseconds() - (double)elements * each);
}

/* Threads for dear work, for work that has to be handed on too often, and for more of it than was ever measured. */
static int counts_threads(void)
{
    const int all = fa_get_num_threads();
    fa_cost cost = {0};
    int wrong = 0;
    record(&cost, 1500, 1e5);
    wrong += expect("threads for dear work", all, fa_threads_for(2048, &cost, 1));
    wrong += expect("threads that hand on too much", 1, fa_threads_for(2048, &cost, 1 << 28));
    wrong += expect("threads for what is not known", 1, fa_threads_for(3000, &cost, 1));
    wrong += expect("known", 0, fa_begin_measurement(1, 2999, &cost) != 0.0);
    wrong += expect("not known", all > 1, fa_begin_measurement(1, 3000, &cost) != 0.0);
    record(&cost, 3000, 10.0);
    wrong += expect("the larger calls' cost", 1, cost.nanoseconds >= 10 && cost.nanoseconds < 1e4f);
    record(&cost, 1500, 1.0);
    wrong += expect("the least cost", 1, cost.nanoseconds < 10);
    return wrong;
}

int main(int argc, char **argv)
{
    int wrong = 0;
    if (argc < 2 || fa_select_isa(argv[1]) < 0)
        return 2;
    setenv("OMP_NUM_THREADS", "3,2", 1);
    fa_memory_init();
    fa_parallel_init();
    fa_pool_init();
    wrong += expect("threads", fa_threading() ? 3 : 1, fa_get_num_threads());
    wrong += expect("a processor", 1, fa_usable_cpus() > 0);
    wrong += expect("a clock", 1, tells_nanoseconds());
    wrong += counts_threads();
    for (int backward = 0; backward < 2; backward++)
        for (int again = 0; again < 2; again++) {
            const fa_activation_kernels *kernels = fa_kernels_for(FA_FLOAT32)->activation;
            wrong += expect("a cost", 1, fa_activation_cost(kernels, FA_FLOAT32, 0, backward) > 0);
            kernels = fa_kernels_for(FA_FLOAT16)->activation;
            wrong += expect("another", 1, fa_activation_cost(kernels, FA_FLOAT16, 0, backward) > 0);
        }
    wrong += expect("no such instruction set", -1, fa_select_isa("none"));
    if (!mkdtemp(root))
        return 1;
    wrong += expect("no groups", 0, fa_cgroup_cpus(root));
    write_file("/proc/self", "cgroup", "0::/a/b\n7:cpu,cpuacct:/c\n3:memory:/d/e\nno group\n5:cpuset:/\n");
    write_file("/sys/fs/cgroup/a/b", "cpu.max", "max 100000\n");
    write_file("/sys/fs/cgroup/a", "cpu.max", "350000 100000\n");
    write_file("/sys/fs/cgroup/a", "memory.max", "max\n");
    write_file("/sys/fs/cgroup", "memory.max", "5000000\n");
    wrong += expect("version 2", 4, fa_cgroup_cpus(root));
    wrong += expect("version 2, bytes", 5e6, (double)fa_cgroup_memory(root));
    write_file("/sys/fs/cgroup/cpu/c", "cpu.cfs_quota_us", "-1\n");
    write_file("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", "200000\n");
    write_file("/sys/fs/cgroup/cpu", "cpu.cfs_period_us", "100000\n");
    write_file("/sys/fs/cgroup/memory/d/e", "memory.limit_in_bytes", "3000000\n");
    wrong += expect("version 1", 2, fa_cgroup_cpus(root));
    wrong += expect("version 1, bytes", 3e6, (double)fa_cgroup_memory(root));
    wrong += expect("no caches", 0, (double)fa_cache_bytes(root, 3, 2));
    write_cache(0, "2\n", "2048K\n", "0\n");
    write_cache(1, "3\n", "32M\n", "0-7,16-23\n");
    wrong += expect("a cache", 2 << 20, (double)fa_cache_bytes(root, 2, 1));
    wrong += expect("a whole cache", 32 << 20, (double)fa_cache_bytes(root, 3, 16));
    wrong += expect("a cache for any", 32 << 20, (double)fa_cache_bytes(root, 3, 0));
    wrong += expect("a share", 12 << 20, (double)fa_cache_bytes(root, 3, 6));
    wrong += expect("the least share", 8 << 20, (double)fa_cache_bytes(root, 3, 1));
    wrong += expect("no such cache", 0, (double)fa_cache_bytes(root, 4, 1));
    write_cache(1, "3\n", "307200K\n", "0-3\n");
    wrong += expect("more than a guest has", 16 << 20, (double)fa_cache_bytes(root, 3, 4));
    wrong += expect("its least share", 8 << 20, (double)fa_cache_bytes(root, 3, 1));
    write_cache(1, "3\n", "4194304\n", "unknown\n");
    wrong += expect("a cache of nobody", 4 << 20, (double)fa_cache_bytes(root, 3, 1));
    return wrong > 0;
}
