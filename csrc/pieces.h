/* Functions of |x| by polynomials in pieces, for float32 bodies: eight pieces of one width, each with its
 * polynomial of degree 9 in float64, whose coefficients are looked up in registers.  Half of the operations of
 * the formulas in vmath.h, and no division.  Tables, ranges and errors: pieces_tables.h.
 *
 *   k = |x| / width, to the nearest; t = |x| - k width; ((c9[k] t + c8[k]) t + ...) t + c0[k]
 *
 * All instruction sets do these operations, and give the same bits; they differ in how they look up.  Beyond a
 * table's range, and of NaN, the result is anything. */
#ifndef FASTACT_PIECES_H
#define FASTACT_PIECES_H

#include "vmath.h"

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
    const __m256i upper_halves = _mm256_set1_epi64x(-1LL << 32);
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

/* Fast bodies: y of x, by an expression in x and the polynomial p; and dx of dy and x. */
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
