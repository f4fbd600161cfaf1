/* Threads.  parallel.c is the only file that knows of OpenMP, or of the system's thread pool. */
#ifndef FASTACT_PARALLEL_H
#define FASTACT_PARALLEL_H

#include <stddef.h>

/* Runs tasks begin .. end - 1; `worker` is below the number of threads and no two at work share one. */
typedef void (*fa_task_fn)(void *context, ptrdiff_t begin, ptrdiff_t end, int worker);

/* Runs tasks 0 .. ntasks - 1 on at most `threads` threads, in contiguous shares; returns when all are
 * done.  Every thread works in the default floating-point environment (round to nearest, subnormals
 * kept) and leaves its own, flags included, as it was. */
void fa_parallel_for(ptrdiff_t ntasks, int threads, fa_task_fn task, void *context);

/* The number of threads for `elements` of work: 1 where more would not pay. */
int fa_threads_for(ptrdiff_t elements);

/* The limit that the process, or this thread, set; never below 1. */
int fa_get_num_threads(void);
void fa_set_num_threads(int n);             /* for the process */
int fa_set_thread_num_threads(int n);       /* for the calling thread; 0: none.  Returns the old one */
int fa_usable_cpus(void);                   /* affinity and cgroup quota */
int fa_has_openmp(void);                    /* the value of _OPENMP, or 0 */
const char *fa_threading(void);             /* what runs the threads; NULL: there is one thread */
void fa_parallel_init(void);                /* once, at import */

#endif
