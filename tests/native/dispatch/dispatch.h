/* Stands in for the system's header in a build for ThreadSanitizer, which does not see how OpenMP's runtime
 * synchronises: parallel.c is built as for a system whose pool it uses, and the pool is plain threads. */
#ifndef FASTACT_NATIVE_DISPATCH_H
#define FASTACT_NATIVE_DISPATCH_H

#include <pthread.h>
#include <stddef.h>

enum { DISPATCH_QUEUE_PRIORITY_DEFAULT, MOST_SHARES = 64 };

typedef struct {
    void (*run)(void *, size_t);
    void *context;
    size_t share;
} dispatch_share;

static inline void *dispatch_get_global_queue(long priority, unsigned long flags)
{
    (void)priority, (void)flags;
    return NULL;
}

static void *dispatch_run(void *share)
{
    const dispatch_share *s = share;
    s->run(s->context, s->share);
    return NULL;
}

static inline void dispatch_apply_f(size_t n, void *queue, void *context, void (*run)(void *, size_t))
{
    pthread_t threads[MOST_SHARES];
    dispatch_share shares[MOST_SHARES];
    (void)queue;
    for (size_t k = 1; k < n; k++) {
        shares[k] = (dispatch_share){run, context, k};
        pthread_create(&threads[k], NULL, dispatch_run, &shares[k]);
    }
    run(context, 0);
    for (size_t k = 1; k < n; k++)
        pthread_join(threads[k], NULL);
}

#endif
