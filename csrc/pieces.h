/* Functions of |x| by polynomials in pieces, for float32 bodies: eight pieces of one width, each with its
 * polynomial of degree 9 in float64, whose coefficients are looked up in registers.  Two thirds of the operations of
 * the formulas in vmath.h, and no division.  Tables, ranges and errors: pieces_tables.h.
 *
 *   k = |x| / width, to the nearest; t = |x| - k width; ((c9[k] t + c8[k]) t + ...) t + c0[k]
 *
 * All instruction sets do these operations, and give the same bits; they differ in how they look up.  Beyond a
 * table's range, and of NaN, the result is anything. */
#ifndef FASTACT_PIECES_H
#define FASTACT_PIECES_H

#include "pairs.h"

enum { FA_DEGREE = 9, FA_WHOLE = 5 }; /* from FA_WHOLE on coefficients have nothing in their lower halves */

typedef int64_t fa_vec_bits __attribute__((vector_size(FA_VEC_BYTES)));

FA_INLINE fa_vec fa_all_v(double a) { return a - (fa_vec){0}; }

/* A coefficient of each piece, and of each element: the last three bits of an element of k say of which piece. */
#if FA_VEC_BYTES == 32 /* looks up elements of 32 bits alone: halves */
typedef struct {
    _Alignas(32) uint32_t upper[8], lower[8];
} fa_eight;
#define FA_EIGHT(a, b, c, d, e, f, g, h)                                                               \
    {{FA_UPPER(a), FA_UPPER(b), FA_UPPER(c), FA_UPPER(d), FA_UPPER(e), FA_UPPER(f), FA_UPPER(g), FA_UPPER(h)},\
     {FA_LOWER(a), FA_LOWER(b), FA_LOWER(c), FA_LOWER(d), FA_LOWER(e), FA_LOWER(f), FA_LOWER(g), FA_LOWER(h)}}
#define FA_UPPER(c) (uint32_t)((c) >> 32)
#define FA_LOWER(c) (uint32_t)(c)

/* Halves for k[0] lie in even places of 32 bits, those for k[1] in odd ones.  Not unpacked: looking
 * up and unpacking wait for one and the same unit. */
FA_INLINE void fa_look_up(const fa_eight *c, int power, const fa_vec *k, fa_vec *to) {
    const __m256i upper_halves = _mm256_set1_epi64x(~0xffffffffLL);
    __m256i index = _mm256_blend_epi32((__m256i)k[0], _mm256_slli_epi64((__m256i)k[1], 32), 0xaa);
    __m256i upper = _mm256_permutevar8x32_epi32(_mm256_load_si256((const __m256i *)c->upper), index);
    __m256i even = _mm256_slli_epi64(upper, 32), odd = _mm256_and_si256(upper, upper_halves);
    if (power < FA_WHOLE) {
        __m256i lower = _mm256_permutevar8x32_epi32(_mm256_load_si256((const __m256i *)c->lower), index);
        even = _mm256_blend_epi32(even, lower, 0x55);
        odd = _mm256_blend_epi32(_mm256_srli_epi64(lower, 32), upper, 0xaa);
    }
    to[0] = (fa_vec)even, to[1] = (fa_vec)odd;
}
#else
typedef struct {
    _Alignas(64) uint64_t bits[8];
} fa_eight;
#define FA_EIGHT(...) {{__VA_ARGS__}}

FA_INLINE void fa_look_up(const fa_eight *c, int power, const fa_vec *k, fa_vec *to) {
    (void)power;
    FA_UNROLL
    for (int v = 0; v < 2; v++) {
#if FA_VEC_BYTES == 64
        to[v] = (fa_vec)_mm512_permutexvar_pd((__m512i)k[v], _mm512_load_pd(c->bits));
#else
        FA_UNROLL
        for (int i = 0; i < FA_VEC; i++)
            to[v][i] = fa_from_bits(c->bits[((fa_vec_bits)k[v])[i] & 7]);
#endif
    }
}
#endif

typedef struct {
    double per_width, width;
    fa_eight c[FA_DEGREE + 1];
} fa_pieces;

#define FA_PIECES static const fa_pieces __attribute__((unused))

#include "pieces_tables.h"

/* ---- the polynomials of two vectors, as many as the registers hold -------------------------------- */

FA_INLINE fa_vec fa_minus_abs_v(fa_vec x) { return (fa_vec)((fa_vec_bits)x | (fa_vec_bits)fa_all_v(-0.0)); }
FA_INLINE fa_vec fa_abs_v(fa_vec x) { return (fa_vec)((fa_vec_bits)x & ~(fa_vec_bits)fa_all_v(-0.0)); }

FA_INLINE void fa_in_pieces(const fa_pieces *f, const fa_vec *x, fa_vec *p) {
    fa_vec rounded[2], t[2];
    FA_UNROLL
    for (int v = 0; v < 2; v++) {
        fa_vec z = fa_abs_v(x[v]);
        rounded[v] = FA_VEC_FMA(z, fa_all_v(f->per_width), fa_all_v(FA_ROUND));
        t[v] = FA_VEC_FMA(FA_ROUND - rounded[v], fa_all_v(f->width), z);
    }
    fa_look_up(&f->c[FA_DEGREE], FA_DEGREE, rounded, p);
    FA_UNROLL
    for (int i = FA_DEGREE - 1; i >= 0; i--) {
        fa_vec c[2];
        fa_look_up(&f->c[i], i, rounded, c);
        FA_UNROLL
        for (int v = 0; v < 2; v++)
            p[v] = FA_VEC_FMA(p[v], t[v], c[v]);
    }
}

/* ---- what is made of them ------------------------------------------------------------------------ */

FA_INLINE fa_vec fa_choose_v(fa_vec_bits mask, fa_vec a, fa_vec b) {
    return (fa_vec)((mask & (fa_vec_bits)a) | (~mask & (fa_vec_bits)b));
}

/* x, or -0 where it is negative; a zero keeps its sign (of equal ones x86 takes the second) */
FA_INLINE fa_vec fa_positive_v(fa_vec x) {
#if FA_VEC_BYTES == 64
    return (fa_vec)_mm512_max_pd(_mm512_set1_pd(-0.0), (__m512d)x);
#elif FA_VEC_BYTES == 32
    return (fa_vec)_mm256_max_pd(_mm256_set1_pd(-0.0), (__m256d)x);
#else
    return fa_choose_v((fa_vec_bits)(x < 0.0), fa_all_v(-0.0), x);
#endif
}

/* f'(x) of f'(-|x|), where f'(x) + f'(-x) = 1 */
FA_INLINE fa_vec fa_turned_v(fa_vec x, fa_vec p) { return fa_choose_v((fa_vec_bits)(x > 0.0), 1.0 - p, p); }

/* ---- elements beyond a limit ---------------------------------------------------------------------- */

/* Up to FA_FEW of FA_MANY elements are taken out, computed by themselves and put back; for more it is quicker to
 * compute all in both ways.  Many, because each time costs some 100 cycles. */
enum { FA_MANY = 512, FA_FEW = 160 };

/* Which of FA_LANES elements are, a bit each. */
FA_INLINE unsigned fa_far_of_strip(const float *x, int32_t reach) {
#if FA_VEC_BYTES == 64
    __m512i size = _mm512_and_si512(_mm512_loadu_si512(x), _mm512_set1_epi32(0x7fffffff));
    return _mm512_cmpgt_epi32_mask(size, _mm512_set1_epi32(reach));
#elif FA_VEC_BYTES == 32
    const __m256i most = _mm256_set1_epi32(reach), all = _mm256_set1_epi32(0x7fffffff);
    __m256i a = _mm256_and_si256(_mm256_loadu_si256((const __m256i *)x), all);
    __m256i b = _mm256_and_si256(_mm256_loadu_si256((const __m256i *)x + 1), all);
    unsigned low = _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(a, most)));
    unsigned high = _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(b, most)));
    return low | high << 8;
#else
    unsigned far = 0;
    for (int i = 0; i < FA_LANES; i++) far |= (unsigned)!fa_within_f(x[i], reach) << i;
    return far;
#endif
}

/* How many are, and where; more than FA_FEW are not counted to the end. */
FA_INLINE int fa_find_far(const float *x, ptrdiff_t n, int32_t reach, uint16_t *at) {
    int count = 0;
    for (ptrdiff_t i = 0; i < n && count <= FA_FEW; i += FA_LANES)
        for (unsigned far = fa_far_of_strip(x + i, reach); far; far &= far - 1)
            at[count++] = (uint16_t)(i + __builtin_ctz(far));
    return count;
}

/* Those elements side by side, and zeros up to a whole strip. */
FA_INLINE void fa_take_far(const float *x, const uint16_t *at, int far, float *to) {
    memset(to + far - far % FA_LANES, 0, FA_LANES * sizeof *to);
    for (int i = 0; i < far; i++) to[i] = x[at[i]];
}

/* ---- fast bodies ---------------------------------------------------------------------------------- */

/* y of x, by an expression in x and the polynomial p; and dx of dy and x. */
#define FA_FORWARD_BY_PIECES(name, pieces, ...)                                                        \
    FA_INLINE void fa_##name##_forward_pieces(const float *from, float *to, ptrdiff_t n)               \
    {                                                                                                  \
        FA_EACH_TWO_BY_PIECES(pieces, from, (void)0, __VA_ARGS__)                                      \
    }
#define FA_BACKWARD_BY_PIECES(name, pieces, ...)                                                       \
    FA_INLINE void fa_##name##_backward_pieces(const float *factor, const float *from, float *to,      \
                                               ptrdiff_t n)                                            \
    {                                                                                                  \
        FA_EACH_TWO_BY_PIECES(pieces, from,                                                            \
                                const fa_vec dy = FA_VEC_WIDEN(factor + i + v * FA_VEC), __VA_ARGS__)  \
    }
#define FA_EACH_TWO_BY_PIECES(pieces, from, more, ...)                                                 \
    for (ptrdiff_t i = 0; i < n; i += 2 * FA_VEC) {                                                    \
        const fa_vec given[2] = {FA_VEC_WIDEN(from + i), FA_VEC_WIDEN(from + i + FA_VEC)};             \
        fa_vec p_of[2];                                                                                \
        fa_in_pieces(&pieces, given, p_of);                                                            \
        FA_UNROLL                                                                                      \
        for (int v = 0; v < 2; v++) {                                                                  \
            const fa_vec x = given[v], p = p_of[v];                                                    \
            more;                                                                                      \
            p_of[v] = __VA_ARGS__;                                                                     \
        }                                                                                              \
        const fa_vec_f32 y = FA_VEC_NARROW(p_of[0], p_of[1]);                                          \
        memcpy(to + i, &y, sizeof y);                                                                  \
    }

#endif
