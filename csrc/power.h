/* e^y of float32 without a division, as base (1 + head + low): eight powers of 2 that a vector register holds, and a
 * polynomial.
 *
 * y = k ln2 / 8 + r with k = 8 m + j, so that e^y = 2^m 2^(j / 8) e^r and |r| <= ln2 / 16.
 *
 *   base   2^m times the float32 nearest to 2^(j / 8).  k comes with all its bits, so its exponent is m and j eighths:
 *          the table has j eighths less
 *   head   y - k FA_EIGHTH of ln2, exact: 24 bits hold what is left, as both are multiples of 2^-27 or k is 0
 *   low    (e^r - 1 - r), and what base and head lack, as logarithms
 *
 * Errors, of e^y: the polynomial 2^-32.4 (coefficients: tools/minimax.py), r as a float32 2^-33.5, roundings of low
 * 2^-34 and less.  So one last rounding gives 0.51 ULP.  Neighbours do not step back: where two pieces meet they differ
 * by 2^-31, and there y's own step is 2^-28 or more; in the piece around 0 what errs is a part of r^2.
 *
 * All instruction sets do these operations, and give the same bits. */
#ifndef FASTACT_POWER_H
#define FASTACT_POWER_H

#include "pieces.h"

typedef struct {
    float base, head, low;
} fa_power_parts;

/* The parts of a stretch: y, replaced by base. */
typedef struct {
    _Alignas(64) float y[FA_STRETCH], head[FA_STRETCH], low[FA_STRETCH];
} fa_power_stretch;

FA_INLINE fa_power_parts fa_get_power_f(const fa_power_stretch *v, ptrdiff_t i) {
    fa_power_parts e = {v->y[i], v->head[i], v->low[i]};
    return e;
}

/* Twice, for registers of sixteen: 2^(j / 8) less j eighths of an exponent, and the logarithm of what it lacks */
static const uint32_t fa_eighths[16] __attribute__((aligned(64), unused)) = {
    0x3f800000, 0x3f7b95c2, 0x3f7837f0, 0x3f75fed7, 0x3f7504f3, 0x3f75672a, 0x3f7744fd, 0x3f7ac0c7,
    0x3f800000, 0x3f7b95c2, 0x3f7837f0, 0x3f75fed7, 0x3f7504f3, 0x3f75672a, 0x3f7744fd, 0x3f7ac0c7,
};
static const float fa_eighths_lack[16] __attribute__((aligned(64), unused)) = {
    0x0p+0f,          -0x1.9c0c22p-27f, 0x1.125002p-25f, -0x1.0a3552p-25f,
    0x1.26055cp-26f,  0x1.67a1cap-28f,  -0x1.f9c306p-27f, -0x1.a5217cp-28f,
    0x0p+0f,          -0x1.9c0c22p-27f, 0x1.125002p-25f, -0x1.0a3552p-25f,
    0x1.26055cp-26f,  0x1.67a1cap-28f,  -0x1.f9c306p-27f, -0x1.a5217cp-28f,
};

/* table[j] for the last three bits j */
FA_INLINE fa_vec_f32 fa_eighths_at(const void *table, fa_vec_bits_f32 at) {
#if FA_VEC_BYTES == 64
    return (fa_vec_f32)_mm512_permutexvar_ps((__m512i)at, _mm512_load_ps(table));
#elif FA_VEC_BYTES == 32
    return (fa_vec_f32)_mm256_permutevar8x32_ps(_mm256_load_ps(table), (__m256i)at);
#else
    fa_vec_f32 v;
    for (int i = 0; i < 4; i++) v[i] = ((const float *)table)[at[i] & 7];
    return v;
#endif
}

#define FA_EIGHTH 0x1.62e43p-4f
#define FA_EIGHTH_LESS 0x1.05c61p-32f /* FA_EIGHTH less ln2 / 8 */

/* |y| <= FA_EXP_LIMIT_F */
FA_INLINE void fa_find_power_f(fa_power_stretch *v, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i += 2 * FA_VEC) {
        fa_vec_f32 y;
        memcpy(&y, v->y + i, sizeof y);
        const fa_vec_f32 rounded = FA_VEC_FMA_F32(y, fa_all_f(0x1.715476p+3f), fa_all_f(FA_ROUND_F));
        const fa_vec_f32 minus_k = FA_ROUND_F - rounded;
        const fa_vec_bits_f32 k = (fa_vec_bits_f32)rounded;
        const fa_vec_f32 head = FA_VEC_FMA_F32(minus_k, fa_all_f(FA_EIGHTH), y);
        const fa_vec_f32 lack = FA_VEC_FMA_F32(minus_k, fa_all_f(-FA_EIGHTH_LESS), fa_eighths_at(fa_eighths_lack, k));
        const fa_vec_f32 r = head + lack, s = r * r;
        const fa_vec_f32 half = FA_VEC_FMA_F32(r, fa_all_f(0x1.555c92p-3f), fa_all_f(0.5f));
        const fa_vec_f32 low = FA_VEC_FMA_F32(s, FA_VEC_FMA_F32(s, fa_all_f(0x1.5563cep-5f), half), lack);
        const fa_vec_bits_f32 base = (fa_vec_bits_f32)fa_eighths_at(fa_eighths, k) + (k << 20);
        memcpy(v->y + i, &base, sizeof base);
        memcpy(v->head + i, &head, sizeof head);
        memcpy(v->low + i, &low, sizeof low);
    }
}

/* e^y, rounded once */
FA_INLINE float fa_power_f(fa_power_parts e) {
    const float near = FA_FMAF(e.base, e.head, e.base), rest = FA_FMAF(e.base, e.head, e.base - near);
    return near + FA_FMAF(e.base, e.low, rest);
}

/* e^y as a pair that starts 2^-20 short: as fa_split_short_f */
FA_INLINE fa_ff fa_power_short_f(fa_power_parts e) {
    const float hi = fa_mul_f(FA_FMAF(e.base, e.head, e.base), 0x1.ffffep-1f);
    fa_ff v = {hi, FA_FMAF(e.base, e.low, FA_FMAF(e.base, e.head, e.base - hi))};
    return v;
}

#endif
