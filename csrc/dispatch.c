#include "dispatch.h"

#include <string.h>

#include "inverses.def"

#define FA_NONE
#define FA_SCALAR(param, fallback) {#param, fallback, FA_HAS_DEFAULT},
#define FA_REQUIRED(param) {#param, 0.0, FA_NO_DEFAULT},
#define FA_LEARNED(param) {#param, 0.0, FA_HAS_GRADIENT},
#define FA_TWO(a, b) a b
const fa_inverse_kind fa_inverse_kinds[FA_ACTIVATION_COUNT] = {
#define FA_KIND(name, nparams, steady) [FA_##name] = steady ? FA_STEADY_INVERSE : FA_INVERSE,
    FA_EACH_INVERSE(FA_KIND)
};

const fa_activation_info fa_activation_table[FA_ACTIVATION_COUNT] = {
#define FA_ROW(name, nparams, params, max_ulp, formula, source)                                        \
    {#name, nparams, {params {NULL, 0.0, FA_HAS_DEFAULT}}, max_ulp, formula, source},
#include "activations.def"
};
const fa_activation_info fa_gated_table[FA_GATED_COUNT] = {
#define FA_GATED_ROW(name, max_ulp, formula, source)                                                   \
    {#name, 0, {{NULL, 0.0, FA_HAS_DEFAULT}}, max_ulp, formula, source},
#include "activations.def"
};

static int always(void)
{
    return 1;
}

/* What the processor has and the operating system keeps on a switch of threads. */
#if defined(FA_HAVE_AVX2) && defined(_MSC_VER)
/* clang-cl: __builtin_cpu_supports needs a library of LLVM that Microsoft's linker is not given. */
#include <cpuid.h>

static int supports(unsigned leaf7_ebx, unsigned kept)
{
    const unsigned fma = 1u << 12, osxsave = 1u << 27;
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & (fma | osxsave)) != (fma | osxsave))
        return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & kept) == kept && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & leaf7_ebx) == leaf7_ebx;
}
#define SUPPORTS_AVX2 supports(1u << 5, 0x06)
#define SUPPORTS_AVX512 supports(1u << 16 | 1u << 17 | 1u << 30 | 1u << 31, 0xE6)
#else
#define SUPPORTS_AVX2 (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
#define SUPPORTS_AVX512                                                                                \
    (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&                        \
     __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"))
#endif

/* The build defines FA_HAVE_* for each instruction set whose object it made. */
#define FA_DECLARE(isa) extern const fa_isa_table fa_isa_##isa;
#if defined(FA_HAVE_AVX512)
FA_DECLARE(avx512)
static int has_avx512(void)
{
    return SUPPORTS_AVX512;
}
#endif
#if defined(FA_HAVE_AVX2)
FA_DECLARE(avx2)
static int has_avx2(void)
{
    return SUPPORTS_AVX2;
}
#endif
#if defined(FA_HAVE_NEON)
FA_DECLARE(neon)
#endif
FA_DECLARE(baseline)

const fa_isa_entry fa_isa_list[] = {
#if defined(FA_HAVE_AVX512)
    {"avx512", &fa_isa_avx512, has_avx512},
#endif
#if defined(FA_HAVE_AVX2)
    {"avx2", &fa_isa_avx2, has_avx2},
#endif
#if defined(FA_HAVE_NEON)
    {"neon", &fa_isa_neon, always},
#endif
    {"baseline", &fa_isa_baseline, always},
    {NULL, NULL, NULL},
};

static const fa_isa_table *active = &fa_isa_baseline;

const fa_isa_table *fa_active(void)
{
    return active;
}

int fa_select_isa(const char *name)
{
    for (const fa_isa_entry *isa = fa_isa_list; isa->name; isa++)
        if ((!name || !*name || !strcmp(name, isa->name)) && isa->supported()) {
            active = isa->table;
            return 0;
        }
    return -1;
}
