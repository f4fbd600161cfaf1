/* Threads.  parallel.c is the only file that knows of OpenMP, or of the system's thread pool. */
#ifndef FASTACT_PARALLEL_H
#define FASTACT_PARALLEL_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* Runs tasks begin .. end - 1; `worker` is below the number of threads and no two at work share one. */
typedef void (*fa_task_fn)(void *context, ptrdiff_t begin, ptrdiff_t end, int worker);

/* Runs tasks 0 .. ntasks - 1 on at most `threads` threads; returns when all are done.  Each begins with a
 * contiguous share of its own, and takes from the others' when that is done: a thread that is held up keeps
 * nobody waiting for long.  Every thread works in the default floating-point environment (round to nearest,
 * subnormals kept) and leaves its own, flags included, as it was. */
void fa_parallel_for(ptrdiff_t ntasks, int threads, fa_task_fn task, void *context);

/* The default floating-point environment for the calling thread; the old one, to go back to. */
uint64_t fa_enter_environment(void);
void fa_leave_environment(uint64_t old);

/* What a kind of work costs an element on one thread, as the first calls on one thread measured it, and again when
 * there are larger ones: what does not grow with the elements counts for less in them. */
typedef struct {
    _Atomic int samples, elements; /* of at least half so many elements */
    _Atomic float nanoseconds; /* 0: not known yet */
} fa_cost;

/* The number of threads for `elements` of work of that cost (NULL: a cheap one): as many as have several times as
 * long to work as it takes to start and to meet, which is measured too, and counts `regions` times: once, or more
 * where threads hand on what they have found. */
int fa_threads_for(ptrdiff_t elements, const fa_cost *cost, int regions);
/* fa_parallel_for, measured while the cost of its `elements` is not known well. */
void fa_measured_for(ptrdiff_t ntasks, int threads, fa_task_fn task, void *context, ptrdiff_t elements,
                     fa_cost *cost);
/* To measure other work: a time to hand to fa_record, or 0 where there is nothing to measure. */
double fa_begin_measurement(int threads, ptrdiff_t elements, const fa_cost *cost);
void fa_record(fa_cost *cost, ptrdiff_t elements, double begin);
double fa_nanoseconds(void); /* of a clock that begins anywhere */

/* The limit that the process, or this thread, set; never below 1. */
int fa_get_num_threads(void);
void fa_set_num_threads(int n);             /* for the process */
int fa_set_thread_num_threads(int n);       /* for the calling thread; 0: none.  Returns the old one */
int fa_usable_cpus(void);                   /* affinity and cgroup quota */
int fa_has_openmp(void);                    /* the value of _OPENMP, or 0 */
const char *fa_threading(void);             /* what runs the threads; NULL: there is one thread */
void fa_parallel_init(void);                /* once, at import */

#endif
