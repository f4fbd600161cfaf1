#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "parallel.h"

#include <limits.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include "cgroup.h"

/* What runs the threads.  OpenMP where the build has it; else the pool that comes with the system: a second copy
 * of LLVM's OpenMP in a process, beside that of another package, aborts it, so wheels for macOS and Windows
 * bring none. */
#if defined(_OPENMP)
#include <omp.h>
#define FA_THREADING "OpenMP"
#elif defined(__APPLE__) || defined(FA_USE_DISPATCH)
#include <dispatch/dispatch.h>
#define FA_THREADING "Grand Central Dispatch"
#elif defined(_WIN32)
#define FA_THREADING "Windows thread pool"
#else
#define FA_THREADING NULL
#define FA_SERIAL
#endif
#if defined(_WIN32)
#include <windows.h>
#else
#include <pthread.h>
#include <unistd.h>
#endif
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

/* ---- the floating-point environment ---------------------------------------------------------------- */

/* Results must not depend on a caller's rounding mode or flush-to-zero bits, and must leave no flag. */
#if defined(__SSE2__)
uint64_t fa_enter_environment(void)
{
    unsigned old = _mm_getcsr();
    _mm_setcsr(0x1F80); /* all exceptions masked, round to nearest, no FTZ, no DAZ */
    return old;
}

void fa_leave_environment(uint64_t old)
{
    _mm_sfence(); /* streaming stores become visible before the caller is told that we are done */
    _mm_setcsr((unsigned)old);
}
#elif defined(__aarch64__)
uint64_t fa_enter_environment(void)
{
    uint64_t control, status;
    __asm__ volatile("mrs %0, fpcr\n\tmrs %1, fpsr" : "=r"(control), "=r"(status));
    __asm__ volatile("msr fpcr, %0" ::"r"((uint64_t)0));
    return control << 32 | (status & 0xFFFFFFFFu);
}

void fa_leave_environment(uint64_t old)
{
    __asm__ volatile("msr fpcr, %0\n\tmsr fpsr, %1" ::"r"(old >> 32), "r"(old & 0xFFFFFFFFu));
}
#else
uint64_t fa_enter_environment(void)
{
    return 0;
}

void fa_leave_environment(uint64_t old)
{
    (void)old;
}
#endif

/* Not to be inlined between the two: a compiler that does not know what they change moves arithmetic past them. */
#define OF_ITS_OWN static __attribute__((noinline))

static void run_share(ptrdiff_t begin, ptrdiff_t end, int worker, fa_task_fn task, void *context)
{
    uint64_t old = fa_enter_environment();
    task(context, begin, end, worker);
    fa_leave_environment(old);
}

/* ---- how many threads ------------------------------------------------------------------------------ */

static atomic_int process_limit = 1;
static _Thread_local int thread_limit = 0;
#if !defined(FA_SERIAL)
static atomic_int forked = 0;

/* Threads that parallel calls of the whole process occupy now.  A pool belongs to the thread that opened
 * it: 32 callers at once would otherwise keep 32 pools of threads for the same cores. */
static atomic_int busy = 0;
#endif

const char *fa_threading(void)
{
    return FA_THREADING;
}

int fa_has_openmp(void)
{
#if defined(_OPENMP)
    return _OPENMP;
#else
    return 0;
#endif
}

/* A limit that somebody has set to the calling thread's OpenMP since the import (threadpoolctl does) is one to us. */
#if defined(_OPENMP)
static int openmp_at_import = INT_MAX;

static int limit_from_outside(void)
{
    const int now = omp_get_max_threads();
    return now < openmp_at_import ? now : INT_MAX;
}
#else
static int limit_from_outside(void)
{
    return INT_MAX;
}
#endif

int fa_get_num_threads(void)
{
    const int own = thread_limit ? thread_limit : atomic_load(&process_limit), outside = limit_from_outside();
    return own < outside ? own : outside;
}

void fa_set_num_threads(int n)
{
    atomic_store(&process_limit, n < 1 ? 1 : n);
}

int fa_set_thread_num_threads(int n)
{
    int old = thread_limit;
    thread_limit = n;
    return old;
}

/* Those that the affinity allows, where it can be asked. */
static int allowed_cpus(void)
{
#if defined(_OPENMP)
    return omp_get_num_procs();
#elif defined(_WIN32)
    DWORD_PTR ours = 0, all = 0;
    int cpus = 0;
    if (!GetProcessAffinityMask(GetCurrentProcess(), &ours, &all))
        return 1;
    for (; ours; ours &= ours - 1)
        cpus++;
    return cpus; /* 0 where it spans processor groups: one thread then */
#else
    return (int)sysconf(_SC_NPROCESSORS_ONLN);
#endif
}

int fa_usable_cpus(void)
{
    int cpus = allowed_cpus();
    const int quota = fa_cgroup_cpus("");
    if (quota && quota < cpus)
        cpus = quota;
    return cpus < 1 ? 1 : cpus;
}

static int positive(const char *text)
{
    char *end;
    long value = text ? strtol(text, &end, 10) : 0;
    return text && end != text && value > 0 && value < 1 << 20 ? (int)value : 0;
}

/* ---- whether threads start -------------------------------------------------------------------------- */

#if defined(_OPENMP) && !defined(_WIN32)
static _Thread_local int largest_team = 1; /* that this thread has run */

static void *pass_gate(void *gate)
{
    pthread_mutex_lock(gate);
    pthread_mutex_unlock(gate);
    return NULL;
}

/* Whether the system gives so many threads at once. */
static int can_start(int threads)
{
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    pthread_t *started = malloc((size_t)threads * sizeof *started);
    int n = 0;
    pthread_mutex_lock(&gate);
    while (started && n < threads && !pthread_create(started + n, NULL, pass_gate, &gate))
        n++;
    pthread_mutex_unlock(&gate);
    for (int k = 0; k < n; k++)
        pthread_join(started[k], NULL);
    free(started);
    return n == threads;
}

/* Runtimes of OpenMP end the process where a thread does not start: no memory, or a limit on processes.  So a team
 * larger than any that this thread has had is tried first.  The threads are gone again when OpenMP starts its own,
 * and others may have taken their place: that is rare, the limit by itself is not. */
static int has_threads(int team)
{
    if (team > largest_team && can_start(team - 1))
        largest_team = team;
    return team <= largest_team;
}
#elif !defined(FA_SERIAL)
static int has_threads(int team)
{
    (void)team; /* the system's pools do without */
    return 1;
}
#endif

#if !defined(_WIN32) && !defined(FA_SERIAL)
/* libgomp waits for a thread's pool when that thread ends.  In a child the pool does not exist: the forking thread,
 * should it end there before the process does, would wait for ever.  So it gives its pool back before; the next
 * region makes a new one. */
static void before_fork(void)
{
#if defined(_OPENMP) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 9
    omp_pause_resource_all(omp_pause_soft);
    largest_team = 1;
#endif
}

/* The pool of the forking thread does not exist in the child, and opening a region there hangs (GCC bug
 * 60035; Apple's dispatch aborts): a child runs serially. */
static void after_fork(void)
{
    atomic_store(&forked, 1);
    atomic_store(&busy, 0);
}
#endif

/* FASTACT_NUM_THREADS wins; else OMP_NUM_THREADS (its first number); else the usable CPUs. */
void fa_parallel_init(void)
{
    int n = positive(getenv("FASTACT_NUM_THREADS"));
    if (!n) {
        int limit = positive(getenv("OMP_NUM_THREADS"));
        n = fa_usable_cpus();
        if (limit)
            n = limit;
    }
    fa_set_num_threads(fa_threading() ? n : 1);
#if defined(_OPENMP)
    openmp_at_import = omp_get_max_threads();
#endif
#if !defined(_WIN32) && !defined(FA_SERIAL)
    pthread_atfork(before_fork, NULL, after_fork);
#endif
}

/* ---- running --------------------------------------------------------------------------------------- */

#if !defined(FA_SERIAL)
/* Takes up to `wanted` threads of those not occupied; 1 takes none. */
static int reserve(int wanted)
{
    int limit = fa_get_num_threads(), occupied = atomic_load(&busy), granted;
    do {
        granted = limit - occupied < wanted ? limit - occupied : wanted;
        if (granted < 2)
            return 1;
    } while (!atomic_compare_exchange_weak(&busy, &occupied, occupied + granted));
    return granted;
}

/* Tasks that a thread begins with; when it has none left, it takes from others. */
typedef struct {
    _Alignas(64) _Atomic ptrdiff_t next; /* the first that nobody has taken */
    ptrdiff_t end;
} share;

enum { SHARES = 64 }; /* more threads than that begin with what others have left */

typedef struct {
    int team, nshares;
    fa_task_fn task;
    void *context;
    atomic_int started; /* workers, where the system's pool does not number them */
    share shares[SHARES];
} region;

/* The same tasks begin with the same thread in every call, so that a thread finds in its caches what it left
 * there. */
static void share_out(region *r, ptrdiff_t ntasks)
{
    r->nshares = r->team < SHARES ? r->team : SHARES;
    const ptrdiff_t each = ntasks / r->nshares, rest = ntasks % r->nshares;
    for (ptrdiff_t k = 0, begin = 0; k < r->nshares; k++) {
        atomic_init(&r->shares[k].next, begin);
        begin += each + (k < rest);
        r->shares[k].end = begin;
    }
}

/* Half of what is left of a share; 0: nothing is. */
static ptrdiff_t take(share *s, ptrdiff_t *begin)
{
    ptrdiff_t size;
    *begin = atomic_load(&s->next);
    do {
        if (*begin >= s->end)
            return 0;
        size = (s->end - *begin + 1) / 2;
    } while (!atomic_compare_exchange_weak(&s->next, begin, *begin + size));
    return size;
}

static void run_worker(region *r, int me)
{
    for (int k = 0; k < r->nshares; k++) {
        share *s = r->shares + (me + k) % r->nshares;
        for (ptrdiff_t begin, size; (size = take(s, &begin)) > 0;)
            run_share(begin, begin + size, me, r->task, r->context);
    }
}
#endif

#if defined(_OPENMP)
static void run_parallel(region *r)
{
#pragma omp parallel num_threads(r->team)
    run_worker(r, omp_get_thread_num());
}
#elif defined(_WIN32)
/* Takes shares until all are begun. */
static void take_shares(region *r)
{
    for (int me; (me = atomic_fetch_add(&r->started, 1)) < r->team;)
        run_worker(r, me);
}

static void CALLBACK help(PTP_CALLBACK_INSTANCE instance, void *r, PTP_WORK work)
{
    (void)instance, (void)work;
    take_shares(r);
}

/* The caller works too, and takes over what no thread of the pool has begun: it never waits for a start. */
static void run_parallel(region *r)
{
    PTP_WORK work = CreateThreadpoolWork(help, r, NULL);
    for (int k = 1; work && k < r->team; k++)
        SubmitThreadpoolWork(work);
    take_shares(r);
    if (work) {
        WaitForThreadpoolWorkCallbacks(work, TRUE); /* those not begun are cancelled */
        CloseThreadpoolWork(work);
    }
}
#elif !defined(FA_SERIAL)
static void run_one(void *r, size_t me)
{
    run_worker(r, (int)me);
}

static void run_parallel(region *r)
{
    dispatch_apply_f((size_t)r->team, dispatch_get_global_queue(DISPATCH_QUEUE_PRIORITY_DEFAULT, 0), r, run_one);
}
#endif

void fa_parallel_for(ptrdiff_t ntasks, int threads, fa_task_fn task, void *context)
{
    if (ntasks < 1)
        return;
#if !defined(FA_SERIAL)
    if (ntasks < threads)
        threads = (int)ntasks;
    if (threads > 1 && !atomic_load(&forked)) {
        region r = {.team = reserve(threads), .task = task, .context = context};
        if (r.team > 1) {
            const int starts = has_threads(r.team);
            share_out(&r, ntasks);
            if (starts)
                run_parallel(&r);
            else
                run_worker(&r, 0);
            atomic_fetch_sub(&busy, r.team);
            return;
        }
    }
#else
    (void)threads;
#endif
    run_share(0, ntasks, 0, task, context);
}

/* ---- what pays --------------------------------------------------------------------------------------- */

OF_ITS_OWN double now(void) /* nanoseconds */
{
#if defined(_WIN32)
    LARGE_INTEGER ticks, each_second;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&each_second);
    return (double)ticks.QuadPart * 1e9 / (double)each_second.QuadPart;
#else
    struct timespec t; /* since the machine started: since 1970 a double would count in steps of 256 */
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
#endif
}

enum {
    UNKNOWN_REGION = 2000,
    CHEAP_WORK_PS = 250, /* an element's work where nothing is known of it */
    REGIONS = 20,
    SAMPLES = 8,
    LEAST_ELEMENTS = 1024, /* to measure, or to share */
    MOST_ELEMENTS = 1 << 16, /* to measure on one thread what might want several */
    WORTH = 4 /* a thread works at least so many times as long as a region takes */
};

#if !defined(FA_SERIAL)
static void nothing(void *context, ptrdiff_t begin, ptrdiff_t end, int worker)
{
    (void)context, (void)begin, (void)end, (void)worker;
}

/* The quickest of some regions of two threads with nothing to do, one after the other: what disturbs only adds. */
static double measure_region(void)
{
    double least = UNKNOWN_REGION;
    for (int k = 0; k < REGIONS; k++) {
        const double begin = now();
        fa_parallel_for(2, 2, nothing, NULL);
        const double each = now() - begin;
        least = each > 0 && each < least ? each : least;
    }
    return least;
}

static double region_nanoseconds(void)
{
    static _Atomic float measured = 0;
    if (atomic_load(&measured) == 0 && atomic_load(&busy) == 0 && !atomic_load(&forked))
        atomic_store(&measured, (float)measure_region());
    return atomic_load(&measured) > 0 ? (double)atomic_load(&measured) : UNKNOWN_REGION;
}
#else
static double region_nanoseconds(void)
{
    return UNKNOWN_REGION;
}
#endif

OF_ITS_OWN int useful_threads(ptrdiff_t elements, const fa_cost *cost, int regions, int limit)
{
    const double known = cost ? (double)atomic_load(&cost->nanoseconds) : 0.0;
    const double work = (double)elements * (known > 0 ? known : CHEAP_WORK_PS / 1000.0);
    const double useful = work / (WORTH * regions * region_nanoseconds());
    return useful < 2 ? 1 : useful < limit ? (int)useful : limit;
}

static int is_known(const fa_cost *cost, ptrdiff_t elements)
{
    return atomic_load(&cost->samples) >= SAMPLES && elements / 2 < atomic_load(&cost->elements);
}

/* This arithmetic raises flags too, which are no business of the caller's. */
int fa_threads_for(ptrdiff_t elements, const fa_cost *cost, int regions)
{
    const int limit = fa_get_num_threads();
    if (limit < 2 || elements < 2 * LEAST_ELEMENTS)
        return 1;
    if (cost && elements <= MOST_ELEMENTS && !is_known(cost, elements))
        return 1;
    const uint64_t old = fa_enter_environment();
    const int threads = useful_threads(elements, cost, regions, limit);
    fa_leave_environment(old);
    return threads;
}

double fa_begin_measurement(int threads, ptrdiff_t elements, const fa_cost *cost)
{
    const int wanted = threads == 1 && elements >= LEAST_ELEMENTS && fa_get_num_threads() > 1;
    if (!wanted || is_known(cost, elements))
        return 0.0;
    const uint64_t old = fa_enter_environment();
    const double begin = now();
    fa_leave_environment(old);
    return begin;
}

/* The least is kept: what disturbs only adds. */
OF_ITS_OWN void keep_least(fa_cost *cost, ptrdiff_t elements, double begin)
{
    const float each = (float)((now() - begin) / (double)elements);
    if (elements / 2 >= atomic_load(&cost->elements)) {
        atomic_store(&cost->elements, elements < INT_MAX ? (int)elements : INT_MAX);
        atomic_store(&cost->samples, 0);
        atomic_store(&cost->nanoseconds, 0);
    }
    const float known = atomic_load(&cost->nanoseconds);
    if (each > 0 && (known == 0 || each < known))
        atomic_store(&cost->nanoseconds, each);
    atomic_fetch_add(&cost->samples, 1);
}

void fa_record(fa_cost *cost, ptrdiff_t elements, double begin)
{
    if (begin == 0.0)
        return;
    const uint64_t old = fa_enter_environment();
    keep_least(cost, elements, begin);
    fa_leave_environment(old);
}

void fa_measured_for(ptrdiff_t ntasks, int threads, fa_task_fn task, void *context, ptrdiff_t elements,
                     fa_cost *cost)
{
    const double begin = fa_begin_measurement(threads, elements, cost);
    fa_parallel_for(ntasks, threads, task, context);
    fa_record(cost, elements, begin);
}

double fa_nanoseconds(void)
{
    return now();
}
