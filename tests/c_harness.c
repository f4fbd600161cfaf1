/* The C code without Python: what fa_parallel_for promises, and a digest of what the table of fastact_capi.h
 * computes.  tools/check_windows.py builds it for another system and compares.
 *
 *     c_harness ISA    exit status 1: a promise is broken, 2: the machine cannot run the instruction set */
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "capi.h"
#include "dispatch.h"
#include "memory.h"
#include "parallel.h"

enum { N = 100003, TASKS = 1000, THREADS = 4, ROUNDS = 2000 };

static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* ---- threads --------------------------------------------------------------------------------------- */

static atomic_int done[TASKS], at_work[THREADS], broken, most;

static void count(void *context, ptrdiff_t begin, ptrdiff_t end, int worker)
{
    (void)context;
    if (worker < 0 || worker >= THREADS || atomic_fetch_add(&at_work[worker], 1))
        atomic_store(&broken, 1); /* two at once with one number */
    if (worker > atomic_load(&most))
        atomic_store(&most, worker);
    for (ptrdiff_t k = begin; k < end; k++)
        atomic_fetch_add(&done[k], 1);
    atomic_fetch_sub(&at_work[worker], 1);
}

static int every_task_once(void)
{
    for (int round = 0; round < ROUNDS; round++) {
        const ptrdiff_t ntasks = round % 7 ? round % 7 : TASKS;
        memset(done, 0, sizeof done);
        fa_parallel_for(ntasks, THREADS, count, NULL);
        for (ptrdiff_t k = 0; k < TASKS; k++)
            if (atomic_load(&done[k]) != (k < ntasks) || atomic_load(&broken))
                return 0;
    }
    return 1;
}

/* ---- results --------------------------------------------------------------------------------------- */

static double dy[N], x[N], y[N];
static float dyf[N], xf[N];

static void make_inputs(void)
{
    for (uint64_t i = 0; i < N; i++) {
        const uint64_t bits = mix(i + 1);
        const uint32_t word = (uint32_t)bits;
        const double ordinary = ((double)(int64_t)(bits >> 40) - 8388608.0) / 262144.0; /* -32 to 32 */
        dy[i] = ordinary, dyf[i] = (float)ordinary;
        memcpy(&x[i], &bits, 8);
        memcpy(&xf[i], &word, 4);
        if (i % 2)
            x[i] = -ordinary, xf[i] = -(float)ordinary;
    }
}

static uint64_t digest(int dtype)
{
    uint64_t sum = 0;
    for (int i = 0; i < N; i++) {
        double value = dtype == FASTACT_FLOAT32 ? (double)((const float *)y)[i] : y[i];
        uint64_t bits = 1; /* any NaN */
        if (value == value)
            memcpy(&bits, &value, 8);
        sum = mix(sum + bits + (uint64_t)i);
    }
    return sum;
}

static int compute(int row, int dtype)
{
    const fastact_capi *c = &fa_capi_table;
    const fastact_activation *f = c->describe(row);
    const void *in = dtype == FASTACT_FLOAT32 ? (void *)xf : (void *)x;
    const void *up = dtype == FASTACT_FLOAT32 ? (void *)dyf : (void *)dy;
    const double quarter[] = {0.25, 0.25}, *p = NULL;
    for (int k = 0; k < f->parameter_count; k++)
        p = f->parameters[k].kind == FASTACT_HAS_DEFAULT ? p : quarter;
    int status = f->gated ? c->gated_forward(row, dtype, in, up, y, N) : c->forward(row, dtype, in, y, N, p);
    printf("%s %d forward %016llx\n", f->name, dtype, (unsigned long long)digest(dtype));
    if (!f->gated) {
        status |= c->backward(row, dtype, up, in, y, NULL, N, p);
        printf("%s %d backward %016llx\n", f->name, dtype, (unsigned long long)digest(dtype));
    }
    return status;
}

int main(int argc, char **argv)
{
    int status = 0;
    fa_memory_init();
    fa_parallel_init();
    if (argc != 2 || fa_select_isa(argv[1]) < 0)
        return 2;
    fa_set_num_threads(THREADS);
    if (!every_task_once()) {
        puts("a task ran twice, or not at all, or two workers had one number");
        return 1;
    }
    fprintf(stderr, "threads: %s, %d CPUs, at most %d at work\n", fa_threading() ? fa_threading() : "none",
            fa_usable_cpus(), atomic_load(&most) + 1);
    make_inputs();
    for (int row = 0; row < fa_capi_table.count; row++)
        status |= compute(row, FASTACT_FLOAT32) | compute(row, FASTACT_FLOAT64);
    return status != 0;
}
