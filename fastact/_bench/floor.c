/* The floor: how fast this machine moves memory.  Built by fastact/_bench/floor.py on the machine that is
 * measured; no part of the package.
 *
 * A pass is a copy (y = x), an add (y = x + dy), a read of x, or a read of x and dy.  Stores stream past
 * the caches or not; reads are summed up, so that no compiler drops them. */
#include <omp.h>
#include <stddef.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { COPY = 'c', ADD = 'a', READ = 'r', READ_BOTH = 'b' };
enum { PAGE = 1024 }; /* floats */

#if defined(__x86_64__)
#define KERNELS(isa, target_name, width, type, load, store, stream, add, zero, first)                        \
    __attribute__((target(target_name))) static void copy_##isa(const float *x, float *y, ptrdiff_t n,       \
                                                                int streams)                                 \
    {                                                                                                        \
        for (ptrdiff_t i = 0; i < n; i += PAGE) { /* the lines of a page are under way before it is stored */ \
            for (int k = 0; streams && k < PAGE; k += 16)                                                    \
                _mm_prefetch((const char *)(x + i + k), _MM_HINT_T0);                                        \
            for (ptrdiff_t k = i; k < i + PAGE && k < n; k += width)                                         \
                if (streams)                                                                                 \
                    stream(y + k, load(x + k));                                                              \
                else                                                                                         \
                    store(y + k, load(x + k));                                                               \
        }                                                                                                    \
    }                                                                                                        \
    __attribute__((target(target_name))) static void add_##isa(const float *x, const float *dy, float *y,    \
                                                               ptrdiff_t n, int streams)                     \
    {                                                                                                        \
        for (ptrdiff_t k = 0; k < n; k += width)                                                             \
            if (streams)                                                                                     \
                stream(y + k, add(load(x + k), load(dy + k)));                                               \
            else                                                                                             \
                store(y + k, add(load(x + k), load(dy + k)));                                                \
    }                                                                                                        \
    __attribute__((target(target_name))) static float read_##isa(const float *x, const float *dy,            \
                                                                 ptrdiff_t n)                                \
    {                                                                                                        \
        type sums[4] = {zero(), zero(), zero(), zero()};                                                     \
        for (ptrdiff_t k = 0; k + 4 * width <= n; k += 4 * width)                                            \
            for (int j = 0; j < 4; j++) {                                                                    \
                sums[j] = add(sums[j], load(x + k + j * width));                                             \
                if (dy)                                                                                      \
                    sums[j] = add(sums[j], load(dy + k + j * width));                                        \
            }                                                                                                \
        return first(add(add(sums[0], sums[1]), add(sums[2], sums[3])));                                     \
    }

KERNELS(avx512, "avx512f", 16, __m512, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_stream_ps, _mm512_add_ps,
        _mm512_setzero_ps, _mm512_cvtss_f32)
KERNELS(avx2, "avx2", 8, __m256, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_stream_ps, _mm256_add_ps,
        _mm256_setzero_ps, _mm256_cvtss_f32)
#endif

static float pass(int what, const float *x, const float *dy, float *y, ptrdiff_t n, int streams)
{
#if defined(__x86_64__)
#define CHOOSE(isa)                                                                                          \
    {                                                                                                        \
        if (what == COPY)                                                                                    \
            copy_##isa(x, y, n, streams);                                                                    \
        else if (what == ADD)                                                                                \
            add_##isa(x, dy, y, n, streams);                                                                 \
        else                                                                                                 \
            return read_##isa(x, what == READ_BOTH ? dy : NULL, n);                                          \
        _mm_sfence();                                                                                        \
        return 0;                                                                                            \
    }
    if (__builtin_cpu_supports("avx512f"))
        CHOOSE(avx512)
    if (__builtin_cpu_supports("avx2"))
        CHOOSE(avx2)
#endif
    float sum = 0;
    (void)streams;
    for (ptrdiff_t k = 0; k < n; k++)
        if (what == COPY)
            y[k] = x[k];
        else if (what == ADD)
            y[k] = x[k] + dy[k];
        else
            sum += x[k] + (what == READ_BOTH ? dy[k] : 0);
    return sum;
}

struct arrays {
    const float *x, *dy;
    float *y, *dx;
    ptrdiff_t n;
};

/* One pass over a share of the arrays, which begins at a multiple of 64 elements. */
static float share(int what, const struct arrays *a, int worker, int workers, int streams)
{
    ptrdiff_t size = (a->n / workers + 63) / 64 * 64;
    ptrdiff_t begin = size * worker, end = begin + size < a->n ? begin + size : a->n;
    if (begin >= end)
        return 0;
    return pass(what, a->x + begin, a->dy + begin, (what == ADD ? a->dx : a->y) + begin, end - begin, streams);
}

static float shares(int what, const struct arrays *a, int threads, int streams)
{
    float sum = 0;
#pragma omp parallel num_threads(threads) reduction(+ : sum)
    sum += share(what, a, omp_get_thread_num(), omp_get_num_threads(), streams);
    return sum;
}

/* The passes named by the letters of `program`, one after the other, `repeats` times.  y is written by
 * copies, dx by adds; all have n elements, a multiple of 16, and begin at a multiple of 64 bytes. */
float floor_run(const char *program, const float *x, const float *dy, float *y, float *dx, ptrdiff_t n,
                int threads, int streams, ptrdiff_t repeats)
{
    const struct arrays a = {x, dy, y, dx, n};
    float sum = 0;
    for (ptrdiff_t r = 0; r < repeats; r++)
        for (const char *what = program; *what; what++) {
            sum += threads > 1 ? shares(*what, &a, threads, streams) : share(*what, &a, 0, 1, streams);
            __asm__ volatile("" ::: "memory");
        }
    return sum;
}
