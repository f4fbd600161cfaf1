/* What Linux's control groups allow this process: the least of its own group and of those around it. */
#ifndef FASTACT_CGROUP_H
#define FASTACT_CGROUP_H

#include <stddef.h>

/* 0: no limit.  `root` stands before every path: "" for this machine. */
int fa_cgroup_cpus(const char *root);
size_t fa_cgroup_memory(const char *root);

#endif
