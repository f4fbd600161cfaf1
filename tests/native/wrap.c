/* What a call meets: the linker puts these in the place of functions of csrc/ and of the C library (--wrap), so
 * that small arrays are shared out among threads and streamed, and memory runs out when it is told to. */
#include <stdlib.h>
#include <sys/mman.h>

#include "activation_cost.h"
#include "native.h"
#include "parallel.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

const surroundings plainest = {.threads = 1, .l2 = 1 << 20, .llc = 8 << 20, .allocations = -1};
surroundings now_here = {.threads = 1, .l2 = 1 << 20, .llc = 8 << 20, .allocations = -1};

int __wrap_fa_threads_for(ptrdiff_t elements, const fa_cost *cost, int regions);
int __wrap_fa_worth_streaming(ptrdiff_t bytes);
ptrdiff_t __wrap_fa_l2_bytes(void);
ptrdiff_t __wrap_fa_llc_bytes(void);
float __wrap_fa_activation_cost(const fa_activation_kernels *kernels, fa_dtype real, int activation, int backward);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);
void *__wrap_mmap(void *at, size_t bytes, int access, int flags, int file, off_t offset);
void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
void *__real_mmap(void *at, size_t bytes, int access, int flags, int file, off_t offset);

int __wrap_fa_threads_for(ptrdiff_t elements, const fa_cost *cost, int regions)
{
    (void)cost, (void)regions;
    return elements > 1 ? now_here.threads : 1;
}

int __wrap_fa_worth_streaming(ptrdiff_t bytes)
{
    (void)bytes;
    return now_here.streams;
}

ptrdiff_t __wrap_fa_l2_bytes(void)
{
    return now_here.l2;
}

ptrdiff_t __wrap_fa_llc_bytes(void)
{
    return now_here.llc;
}

/* Three in four surroundings have cheap ones, which are streamed. */
float __wrap_fa_activation_cost(const fa_activation_kernels *kernels, fa_dtype real, int activation, int backward)
{
    (void)kernels, (void)real, (void)activation, (void)backward;
    return now_here.l2 == 1 << 15 ? 100.0f : 0.001f;
}

static int fails(void)
{
    return now_here.allocations >= 0 && now_here.allocations-- == 0;
}

void *__wrap_malloc(size_t bytes)
{
    return fails() ? NULL : __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
    return fails() ? NULL : __real_calloc(count, bytes);
}

void *__wrap_aligned_alloc(size_t alignment, size_t bytes)
{
    return fails() ? NULL : __real_aligned_alloc(alignment, bytes);
}

void *__wrap_mmap(void *at, size_t bytes, int access, int flags, int file, off_t offset)
{
    return fails() ? MAP_FAILED : __real_mmap(at, bytes, access, flags, file, offset);
}

/* ---- the floating-point environment --------------------------------------------------------------- */

/* Default; flush to zero, subnormals are zero; round to zero; round up, flush to zero, all flags raised. */
#if defined(__SSE2__)
static const uint64_t ENVIRONMENTS[] = {0x1F80, 0x9FC0, 0x7F80, 0xDFBF};

static uint64_t environment(void)
{
    return _mm_getcsr();
}

static void set_environment(uint64_t floats)
{
    _mm_setcsr((unsigned)floats);
}
#elif defined(__aarch64__)
static const uint64_t ENVIRONMENTS[] = {0, (uint64_t)1 << 56, (uint64_t)3 << 54, (uint64_t)0x1400000 << 32 | 0x9F};

static uint64_t environment(void)
{
    uint64_t control, status;
    __asm__ volatile("mrs %0, fpcr\n\tmrs %1, fpsr" : "=r"(control), "=r"(status));
    return control << 32 | (status & 0x9F);
}

static void set_environment(uint64_t floats)
{
    __asm__ volatile("msr fpcr, %0\n\tmsr fpsr, %1" ::"r"(floats >> 32), "r"(floats & 0x9F));
}
#else
static const uint64_t ENVIRONMENTS[4];

static uint64_t environment(void)
{
    return 0;
}

static void set_environment(uint64_t floats)
{
    (void)floats;
}
#endif

surroundings draw_surroundings(drawing *d)
{
    static const ptrdiff_t caches[] = {1 << 20, 1 << 12, 1 << 15, 0};
    surroundings s = plainest;
    s.threads = 1 + (int)draw(d, 4);
    s.streams = (int)draw(d, 2);
    s.l2 = DRAW_FROM(d, caches);
    s.llc = 8 * DRAW_FROM(d, caches);
    s.floats = draw(d, 4);
    return s;
}

static uint64_t entered; /* read back: valgrind keeps the rounding mode alone */

void enter(const surroundings *s)
{
    now_here = *s;
    set_environment(ENVIRONMENTS[s->floats]);
    entered = environment();
}

int leave(void)
{
    const int same = environment() == entered;
    set_environment(ENVIRONMENTS[0]);
    now_here = plainest;
    return same;
}
