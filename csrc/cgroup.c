/* /proc/self/cgroup says which groups the process is in: "0::/a/b" for version 2, "4:cpu,cpuacct:/a/b" for a
 * controller of version 1.  Limits are files in the groups' folders; that of a group further out holds as well.  In
 * a container the innermost folder may be mounted in the place of the outermost, and the path that /proc shows not
 * exist: then the folders that do count. */
#include "cgroup.h"

#if !defined(__linux__)
int fa_cgroup_cpus(const char *root)
{
    return (void)root, 0;
}

size_t fa_cgroup_memory(const char *root)
{
    return (void)root, 0;
}
#else
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { PATH = 1024, LINE = 512 };

/* The limit that the files of a folder set, or 0. */
typedef uint64_t (*read_fn)(const char *folder);

/* Up to two numbers that a file begins with; how many there are: "max" is none. */
static int read_numbers(const char *folder, const char *name, long long *a, long long *b)
{
    char path[PATH];
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= PATH)
        return 0;
    FILE *file = fopen(path, "r");
    if (!file)
        return 0;
    const int found = fscanf(file, "%lld %lld", a, b);
    fclose(file);
    return found < 0 ? 0 : found;
}

static uint64_t share(long long quota, long long period)
{
    return quota > 0 && period > 0 ? (uint64_t)((quota - 1) / period + 1) : 0;
}

static uint64_t cpus_v2(const char *folder)
{
    long long quota = 0, period = 0;
    return read_numbers(folder, "cpu.max", &quota, &period) == 2 ? share(quota, period) : 0;
}

static uint64_t cpus_v1(const char *folder)
{
    long long quota = 0, period = 0, unused;
    read_numbers(folder, "cpu.cfs_quota_us", &quota, &unused);
    read_numbers(folder, "cpu.cfs_period_us", &period, &unused);
    return share(quota, period);
}

static uint64_t bytes(const char *folder, const char *name)
{
    long long limit = 0, unused;
    return read_numbers(folder, name, &limit, &unused) > 0 && limit > 0 ? (uint64_t)limit : 0;
}

static uint64_t memory_v2(const char *folder)
{
    return bytes(folder, "memory.max");
}

static uint64_t memory_v1(const char *folder)
{
    return bytes(folder, "memory.limit_in_bytes");
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return !a || (b && b < a) ? b : a;
}

/* Of the group and of all around it, up to where the controller is mounted. */
static uint64_t least_up_to(const char *mount, const char *group, read_fn read)
{
    char folder[PATH];
    const size_t top = strlen(mount);
    if (snprintf(folder, sizeof folder, "%s%s", mount, group) >= PATH)
        return read(mount);
    uint64_t limit = read(folder);
    for (size_t end = strlen(folder); end > top; end--)
        if (folder[end - 1] == '/') {
            folder[end - 1] = 0;
            limit = least(limit, read(folder));
        }
    return limit;
}

static int is_listed(const char *controllers, const char *name)
{
    const size_t n = strlen(name);
    for (const char *at = controllers; at; at = strchr(at, ','), at = at ? at + 1 : NULL)
        if (!strncmp(at, name, n) && (at[n] == ',' || at[n] == 0))
            return 1;
    return 0;
}

/* One line of /proc/self/cgroup, or no line: then what is mounted counts. */
static uint64_t limit_of(const char *root, char *line, const char *controller, read_fn v1, read_fn v2)
{
    char mount[PATH];
    char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group)
        return 0;
    *group++ = 0;
    group[strcspn(group, "\n")] = 0;
    controllers++;
    const int second = !*controllers;
    if (!second && !is_listed(controllers, controller))
        return 0;
    snprintf(mount, sizeof mount, "%.400s/sys/fs/cgroup%s%s", root, second ? "" : "/", second ? "" : controller);
    return least_up_to(mount, group, second ? v2 : v1);
}

static uint64_t find_limit(const char *root, const char *controller, read_fn v1, read_fn v2)
{
    char path[PATH], line[LINE], outermost_v2[] = "0::/", outermost_v1[] = "1:cpu,memory:/";
    uint64_t limit = least(limit_of(root, outermost_v2, controller, v1, v2),
                           limit_of(root, outermost_v1, controller, v1, v2));
    snprintf(path, sizeof path, "%.400s/proc/self/cgroup", root);
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file))
        limit = least(limit, limit_of(root, line, controller, v1, v2));
    if (file)
        fclose(file);
    return limit;
}

int fa_cgroup_cpus(const char *root)
{
    const uint64_t cpus = find_limit(root, "cpu", cpus_v1, cpus_v2);
    return cpus < INT32_MAX ? (int)cpus : 0;
}

size_t fa_cgroup_memory(const char *root)
{
    const uint64_t limit = find_limit(root, "memory", memory_v1, memory_v2);
    return limit < SIZE_MAX ? (size_t)limit : 0;
}
#endif
