/* Many threads call everything at once, each with threads of its own; recycled memory is handed from one to the
 * other; settings change meanwhile; and processes are forked from all this.
 *
 *     threads ISA ROUNDS [FORKS]     ends after so many of either; exit status 1: wrong results
 *
 * ThreadSanitizer tells of races; there nothing is forked, because its own allocator may be locked at that moment,
 * and a child would wait for ever.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "batchnorm.h"
#include "dispatch.h"
#include "elementwise.h"
#include "memory.h"
#include "native.h"
#include "parallel.h"
#include "pool.h"

enum { CALLERS = 6, CHANNELS = 24, COUNT = 400, N = CHANNELS * COUNT, TABLE = 11, BLOCK = 300000 };

#if defined(__SANITIZE_THREAD__)
enum { MAY_FORK = 0 };
#else
enum { MAY_FORK = 1 };
#endif

static atomic_int wrong, rounds_left, forks_left, children_right;
static _Atomic(void *) shelf; /* a block that one thread leaves for another */

typedef struct {
    float x[N], y[N], z[N], dx[N];
    double table[TABLE * CHANNELS], sums[3 * CHANNELS];
} data;

static data plain;

static fa_view view(float *x)
{
    const ptrdiff_t shape[] = {COUNT, CHANNELS}, strides[] = {4 * CHANNELS, 4};
    return fa_make_view((char *)x, FA_FLOAT32, 2, shape, strides, 1);
}

static void elementwise(data *d, int row)
{
    static const double quarter = 0.25;
    static const ptrdiff_t step = 4, none = 0, n = N;
    const fa_op op = {row, 0, 0, FA_FLOAT32};
    fa_operand operands[FA_MAX_OPERANDS] = {{(char *)d->x, FA_FLOAT32, &step}};
    int k = 1;
    for (; k < fa_op_inputs(&op); k++)
        operands[k] = (fa_operand){(char *)(uintptr_t)&quarter, FA_FLOAT64, &none};
    operands[k] = (fa_operand){(char *)d->z, FA_FLOAT32, &step};
    fa_elementwise(&op, 1, &n, operands);
}

static void batchnorm(data *d)
{
    double *r = d->table, *s = d->sums;
    const ptrdiff_t c = CHANNELS;
    const fa_batchnorm bn = {.real = FA_FLOAT32, .channels = CHANNELS, .count = COUNT, .activation = -1, .eps = 1e-5,
                             .total = COUNT};
    const fa_statistics st = {{r, r + c}, {r + 2 * c, r + 3 * c}, r + 4 * c,
                              {r + 5 * c, r + 6 * c, r + 7 * c, r + 8 * c, r + 9 * c, r + 10 * c}};
    double *const sums[] = {s, s + c, s + 2 * c};
    const fa_view x = view(d->x), y = view(d->y), dx = view(d->dx);
    fa_batchnorm_forward(&bn, 1, &x, &y, &st);
    fa_batchnorm_backward(&bn, FA_BOTH_PASSES, 1, &y, &x, &dx, &st, sums);
}

static void compute(data *d, int row)
{
    elementwise(d, row);
    batchnorm(d);
}

static int is_right(const data *d)
{
    return !memcmp(d->y, plain.y, sizeof d->y) && !memcmp(d->z, plain.z, sizeof d->z) &&
           !memcmp(d->dx, plain.dx, sizeof d->dx) && !memcmp(d->sums, plain.sums, 2 * CHANNELS * sizeof(double));
}

static void pass_on_memory(int k)
{
    char *block = fa_pool_malloc(NULL, BLOCK + 1000 * (size_t)k);
    if (block)
        memset(block, k, BLOCK);
    fa_pool_free(NULL, atomic_exchange(&shelf, block), BLOCK);
    if (k == 0)
        fa_pool_trim();
    fa_pool_get_stats();
}

/* A child forked while the others work computes the same, and ends. */
static void fork_once(void)
{
    if (atomic_fetch_sub(&forks_left, 1) <= 1)
        atomic_store(&rounds_left, 0);
    const pid_t pid = fork();
    if (pid == 0) {
        static data d;
        memcpy(d.x, plain.x, sizeof d.x);
        compute(&d, 0);
        pass_on_memory(1);
        _exit(!is_right(&d));
    }
    int status = 0;
    if (pid < 0 || waitpid(pid, &status, 0) < 0 || status)
        atomic_store(&wrong, 1);
    else
        atomic_fetch_add(&children_right, 1);
}

static void *caller(void *number)
{
    const int k = (int)(intptr_t)number;
    data *d = calloc(1, sizeof *d);
    memcpy(d->x, plain.x, sizeof d->x);
    while (atomic_fetch_sub(&rounds_left, 1) > 0) {
        fa_set_thread_num_threads(k % 3 ? 0 : 2);
        fa_set_num_threads(1 + (k + atomic_load(&rounds_left)) % 4);
        compute(d, 0);
        if (!is_right(d))
            atomic_store(&wrong, 1);
        pass_on_memory(k);
        if (MAY_FORK && k % 2)
            fork_once();
    }
    free(d);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[CALLERS];
    if (argc < 3 || fa_select_isa(argv[1]) < 0)
        return 2;
    fa_memory_init();
    fa_parallel_init();
    fa_pool_init();
    for (int i = 0; i < N; i++)
        plain.x[i] = (float)((double)(mix((uint64_t)i + 1) >> 11) * 0x1p-50 - 4.0);
    fa_set_num_threads(1);
    compute(&plain, 0);
    now_here.threads = 4;
    const int forks = argc > 3 ? atoi(argv[3]) : 1 << 20;
    atomic_store(&rounds_left, atoi(argv[2]));
    atomic_store(&forks_left, forks);
    for (intptr_t k = 0; k < CALLERS; k++)
        pthread_create(&threads[k], NULL, caller, (void *)k);
    while (MAY_FORK && atomic_load(&rounds_left) > 0)
        fork_once();
    for (int k = 0; k < CALLERS; k++)
        pthread_join(threads[k], NULL);
    fa_pool_free(NULL, atomic_load(&shelf), BLOCK);
    printf("%s, %d forks, %d right\n", atomic_load(&wrong) ? "wrong" : "right", forks - atomic_load(&forks_left),
           atomic_load(&children_right));
    return atomic_load(&wrong);
}
