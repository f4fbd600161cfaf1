/* Functions by polynomials in pieces, looked up in memory, for float32 bodies: half of the operations of the
 * formulas in vmath.h, or less, and no division.  Tables, ranges and errors: pieces_tables.h.
 *
 * With u = x + base, a piece is what has the same exponent of u and the same first bits of its fraction: an index
 * and the middle of the piece are made of u's bits.  t is x less the middle; exactly, as zero is the middle of one, but
 * for x whose u was rounded out of that piece: there t loses its last bit.  Where u is |x| (base 0) pieces shrink
 * with it, for functions that are 0 at 0, whose values close to that come from elsewhere.  A row of a table is a piece's
 * coefficients, side by side in memory; of as many rows as a vector has elements columns are made, a coefficient of
 * each.  Where a function falls off to the left, ever narrower pieces are a table of their own, whose rows follow those
 * of the first: only stretches with elements there ask for both.
 *
 *   float tables    c0 + c1 t + (c2 + c3 t) t^2, in float32: t is so small that c1 t is at most 2^-6 of c0.  The last
 *                   word is what c0 lacks, and c3 in its lower half; read as a float32 it is the former, for
 *                   which the latter's bits were allowed.
 *   double tables   degree 4 in float64, for slopes that have a zero, and where f(0) is no float32: the product with
 *                   a tiny x has to be rounded once.  The last word is c4, and c3 in its lower half.
 *
 * All instruction sets do these operations, and give the same bits; they differ in how they make columns.
 * Where a table does not hold, and of NaN, the result is anything. */
#ifndef FASTACT_PIECES_H
#define FASTACT_PIECES_H

#include "pairs.h"
#include "pieces_tables.h"

typedef int64_t fa_vec_bits __attribute__((vector_size(FA_VEC_BYTES)));
typedef uint32_t fa_vec_bits_f32 __attribute__((vector_size(FA_VEC_BYTES)));

/* ---- which piece --------------------------------------------------------------------------------- */

typedef struct {
    float base, first, end; /* u where the table begins, and where it no longer holds */
    uint32_t count;         /* pieces */
    int bits;               /* of u's fraction that say which piece */
    int row;                /* 2^row bytes of a table */
} fa_shape;

#define FA_SHAPE(table, row)                                                                           \
    ((fa_shape){FA_BASE_##table, FA_FIRST_##table, FA_END_##table, FA_COUNT_##table, FA_BITS_##table, (row)})
/* A table, and the rows behind it for what is to the left of it; of none `left` has no pieces. */
typedef struct {
    fa_shape here, left;
} fa_shapes;

#define FA_ALONE(table, row) ((fa_shapes){.here = FA_SHAPE(table, row)})
#define FA_WITH_LEFT(table, row) ((fa_shapes){FA_SHAPE(table, row), FA_SHAPE(table##_left, row)})

/* u; without a base z >= 0 */
FA_INLINE float fa_shifted(float z, fa_shape s) { return s.base == 0.0f ? z : z + s.base; }

/* How far into the table z is, in bits of u; more than the last that holds if it is beyond, or a NaN. */
FA_INLINE uint32_t fa_distance(float z, fa_shape s) { return fa_bits_f(fa_shifted(z, s)) - fa_bits_f(s.first); }
FA_INLINE uint32_t fa_last_distance(fa_shape s) { return fa_bits_f(s.end) - fa_bits_f(s.first) - 1; }

FA_INLINE uint32_t fa_is_in(uint32_t distance, fa_shape s) { return distance <= fa_last_distance(s); }

/* Where z is: in the table, to the left of it, or beyond. */
enum { FA_HERE, FA_LEFT, FA_BEYOND };
FA_INLINE uint32_t fa_reach(uint32_t here, uint32_t left) { return (here ^ 1) << (left ^ 1); }

/* Up to FA_FEW of FA_MANY elements are taken out, computed by themselves and put back; for more it is quicker to
 * compute all in both ways. */
enum { FA_MANY = 256, FA_FEW = 80 };

typedef struct {
    _Alignas(64) uint32_t at[FA_MANY]; /* bytes into the table */
    float t[FA_MANY];
} fa_places;

/* The place of z, which is in the table in any case: where f ends as a constant or as x, its last piece serves all
 * that is beyond. */
typedef struct {
    uint32_t distance, at;
    float t;
} fa_place;

FA_INLINE fa_place fa_place_of(float z, fa_shape s) {
    const uint32_t width = 1u << (23 - s.bits), distance = fa_distance(z, s);
    const uint32_t last = (s.count << (23 - s.bits)) - 1;
    const uint32_t piece = (distance < last ? distance : last) & -width;
    const float middle = fa_from_bits_f(piece + (fa_bits_f(s.first) + width / 2)) - s.base;
    fa_place p = {distance, piece >> (23 - s.bits - s.row), z - middle};
    return p;
}

/* The same in the table or to the left of it; `distance` is where z is. */
FA_INLINE fa_place fa_place_of_two(float z, fa_shapes s) {
    const fa_place here = fa_place_of(z, s.here), left = fa_place_of(z, s.left);
    const uint32_t is_here = fa_is_in(here.distance, s.here), mask = -is_here;
    const uint32_t left_at = left.at + (s.here.count << s.here.row);
    fa_place p = {fa_reach(is_here, fa_is_in(left.distance, s.left)), (here.at & mask) | (left_at & ~mask),
                  fa_from_bits_f((fa_bits_f(here.t) & mask) | (fa_bits_f(left.t) & ~mask))};
    return p;
}

/* ---- columns of rows ----------------------------------------------------------------------------- */

#if FA_VEC_BYTES == 64
#define FA_UNPACK(which, a, b) _mm512_unpack##which((a), (b))
typedef __m512 fa_reg_ps;
typedef __m512d fa_reg_pd;
FA_INLINE fa_vec_f32 fa_row_parts(const char *table, const uint32_t *at, int step) { /* 16 bytes of each row */
    __m512 v = _mm512_castps128_ps512(_mm_load_ps((const float *)(table + at[0])));
    v = _mm512_insertf32x4(v, _mm_load_ps((const float *)(table + at[step])), 1);
    v = _mm512_insertf32x4(v, _mm_load_ps((const float *)(table + at[2 * step])), 2);
    return (fa_vec_f32)_mm512_insertf32x4(v, _mm_load_ps((const float *)(table + at[3 * step])), 3);
}
#elif FA_VEC_BYTES == 32
#define FA_UNPACK(which, a, b) _mm256_unpack##which((a), (b))
typedef __m256 fa_reg_ps;
typedef __m256d fa_reg_pd;
FA_INLINE fa_vec_f32 fa_row_parts(const char *table, const uint32_t *at, int step) {
    __m256 v = _mm256_castps128_ps256(_mm_load_ps((const float *)(table + at[0])));
    return (fa_vec_f32)_mm256_insertf128_ps(v, _mm_load_ps((const float *)(table + at[step])), 1);
}
#endif

#if FA_VEC_BYTES > 16
#define FA_LOW_32(a, b) ((fa_vec_f32)FA_UNPACK(lo_ps, (fa_reg_ps)(a), (fa_reg_ps)(b)))
#define FA_HIGH_32(a, b) ((fa_vec_f32)FA_UNPACK(hi_ps, (fa_reg_ps)(a), (fa_reg_ps)(b)))
#define FA_LOW_64(a, b) ((fa_vec)FA_UNPACK(lo_pd, (fa_reg_pd)(a), (fa_reg_pd)(b)))
#define FA_HIGH_64(a, b) ((fa_vec)FA_UNPACK(hi_pd, (fa_reg_pd)(a), (fa_reg_pd)(b)))

FA_INLINE void fa_float_columns(const uint32_t (*rows)[4], const uint32_t *at, fa_vec_f32 *c) {
    fa_vec_f32 row[4], low[2], high[2];
    FA_UNROLL
    for (int k = 0; k < 4; k++) row[k] = fa_row_parts((const char *)rows, at + k, 4);
    FA_UNROLL
    for (int k = 0; k < 2; k++) {
        low[k] = FA_LOW_32(row[2 * k], row[2 * k + 1]);
        high[k] = FA_HIGH_32(row[2 * k], row[2 * k + 1]);
    }
    c[0] = (fa_vec_f32)FA_LOW_64(low[0], low[1]), c[1] = (fa_vec_f32)FA_HIGH_64(low[0], low[1]);
    c[2] = (fa_vec_f32)FA_LOW_64(high[0], high[1]), c[3] = (fa_vec_f32)FA_HIGH_64(high[0], high[1]);
}

FA_INLINE void fa_double_columns(const uint64_t (*rows)[4], const uint32_t *at, fa_vec *c) {
    FA_UNROLL
    for (int half = 0; half < 2; half++) {
        const char *table = (const char *)rows + 16 * half;
        fa_vec_f32 even = fa_row_parts(table, at, 2), odd = fa_row_parts(table, at + 1, 2);
        c[2 * half] = FA_LOW_64(even, odd), c[2 * half + 1] = FA_HIGH_64(even, odd);
    }
}
#else
FA_INLINE void fa_float_columns(const uint32_t (*rows)[4], const uint32_t *at, fa_vec_f32 *c) {
    fa_vec_bits_f32 column;
    for (int k = 0; k < 4; k++) {
        for (int i = 0; i < 4; i++) column[i] = rows[at[i] / sizeof *rows][k];
        c[k] = (fa_vec_f32)column;
    }
}

FA_INLINE void fa_double_columns(const uint64_t (*rows)[4], const uint32_t *at, fa_vec *c) {
    fa_vec_bits column;
    for (int k = 0; k < 4; k++) {
        for (int i = 0; i < 2; i++) column[i] = (int64_t)rows[at[i] / sizeof *rows][k];
        c[k] = (fa_vec)column;
    }
}
#endif

/* ---- float tables --------------------------------------------------------------------------------- */

/* f = c0 + (c1 t + rest), of 2 FA_VEC elements */
typedef struct {
    fa_vec_f32 c0, c1, t, rest;
} fa_piece;

FA_INLINE fa_piece fa_piece_at(const uint32_t (*rows)[4], const fa_places *v, ptrdiff_t i) {
    fa_vec_f32 c[4], t;
    memcpy(&t, v->t + i, sizeof t);
    fa_float_columns(rows, v->at + i, c);
    fa_vec_f32 upper = FA_VEC_FMA_F32((fa_vec_f32)((fa_vec_bits_f32)c[3] << 16), t, c[2]);
    fa_piece f = {c[0], c[1], t, FA_VEC_FMA_F32(t * t, upper, c[3])};
    return f;
}

/* f as a pair, the rounding error of c1 t included: beside an extremum of x f the product must not step back.  With
 * `near` a little less than 1 the second part has the sign of f, as of fa_split_short_f. */
typedef struct {
    fa_vec_f32 hi, lo;
} fa_vec_ff;

FA_INLINE fa_vec_ff fa_pair_v(fa_piece f, float near) {
    fa_vec_f32 hi = FA_VEC_FMA_F32(f.c1, f.t, f.c0);
    hi = near == 1.0f ? hi : hi * near;
    fa_vec_ff v = {hi, FA_VEC_FMA_F32(f.c1, f.t, f.c0 - hi) + f.rest}; /* the difference is exact */
    return v;
}

/* What is made of f and m, which is x or dy and may be `slight` (pairs.h): f, -f, */
FA_INLINE fa_vec_f32 fa_value_v(fa_vec_f32 m, fa_piece f, int slight) {
    return (void)m, (void)slight, f.c0 + FA_VEC_FMA_F32(f.c1, f.t, f.rest);
}
FA_INLINE fa_vec_f32 fa_minus_value_v(fa_vec_f32 m, fa_piece f, int slight) {
    return -fa_value_v(m, f, slight);
}

FA_INLINE fa_vec_f32 fa_all_f(float c) { return (fa_vec_f32){0} + c; }

/* As fa_mul */
FA_INLINE fa_vec_f32 fa_mul_v(fa_vec_f32 a, fa_vec_f32 b) {
    return FA_VEC_FMA_F32(a, b, -(fa_vec_f32){0});
}

/* a where the mask says so, else b */
FA_INLINE fa_vec_f32 fa_pick_v(fa_vec_bits_f32 mask, fa_vec_f32 a, fa_vec_f32 b) {
    return (fa_vec_f32)(((fa_vec_bits_f32)a & mask) | ((fa_vec_bits_f32)b & ~mask));
}

/* As fa_is_slight_f, fa_argument_f and fa_or_slight_f */
FA_INLINE fa_vec_bits_f32 fa_are_slight_v(fa_vec_f32 m) {
    return (fa_vec_bits_f32)((((fa_vec_bits_f32)m << 1) - 1) < fa_least_usual_f());
}
FA_INLINE fa_vec_f32 fa_argument_v(fa_vec_f32 m, int slight) {
    return slight ? (fa_vec_f32)((fa_vec_bits_f32)m & ~(fa_are_slight_v(m) & 0x7fffffffu)) : m;
}
FA_INLINE fa_vec_f32 fa_or_slight_v(fa_vec_f32 y, fa_vec_f32 x, int slight) {
    return slight ? fa_pick_v(fa_are_slight_v(x), x, y) : y;
}

/* m p; if m may be `slight`, there m (hi + lo) of float64 */
FA_INLINE fa_vec_f32 fa_times_usual_v(fa_vec_f32 m, fa_vec_ff p) {
    return FA_VEC_FMA_F32(m, p.hi, fa_mul_v(m, p.lo));
}
FA_INLINE fa_vec_f32 fa_times_v(fa_vec_f32 m, fa_vec_ff p, int slight, int with_lo) {
    if (!slight) return fa_times_usual_v(m, p);
    float x[2 * FA_VEC], hi[2 * FA_VEC], lo[2 * FA_VEC];
    memcpy(x, &m, sizeof x);
    memcpy(hi, &p.hi, sizeof hi);
    memcpy(lo, &p.lo, sizeof lo);
    fa_vec wide[2];
    FA_UNROLL
    for (int h = 0; h < 2; h++) {
        const fa_vec upper = FA_VEC_WIDEN(hi + h * FA_VEC), lower = FA_VEC_WIDEN(lo + h * FA_VEC);
        wide[h] = FA_VEC_WIDEN(x + h * FA_VEC) * (with_lo ? upper + lower : upper);
    }
    const fa_vec_f32 y = fa_times_usual_v(fa_argument_v(m, slight), p);
    return fa_pick_v(fa_are_slight_v(m), FA_VEC_NARROW(wide[0], wide[1]), y);
}

/* x f, for f > 0; -0 keeps its sign, and subnormal results are rounded once, as lo is nothing beside f(0) */
FA_INLINE fa_vec_f32 fa_gate_v(fa_vec_f32 x, fa_piece f, int slight) {
    fa_vec_bits_f32 sign = (fa_vec_bits_f32)x & 0x80000000u;
    return (fa_vec_f32)((fa_vec_bits_f32)fa_times_v(x, fa_pair_v(f, 1.0f), slight, 0) | sign);
}

/* dy f, for any dy */
FA_INLINE fa_vec_f32 fa_slope_v(fa_vec_f32 dy, fa_piece f, int slight) {
    return fa_times_v(dy, fa_pair_v(f, 0x1.ffffep-1f), slight, 1);
}

/* y >= 0, or where |x| < least `below`, with the sign of x */
FA_INLINE fa_vec_f32 fa_abs_v(fa_vec_f32 x) { return (fa_vec_f32)((fa_vec_bits_f32)x & 0x7fffffffu); }
FA_INLINE fa_vec_f32 fa_odd_v(fa_vec_f32 x, float least, fa_vec_f32 below, fa_vec_f32 y) {
    const fa_vec_f32 size = fa_pick_v((fa_vec_bits_f32)(fa_abs_v(x) < least), below, y);
    return (fa_vec_f32)((fa_vec_bits_f32)size | ((fa_vec_bits_f32)x & 0x80000000u));
}

/* ---- double tables -------------------------------------------------------------------------------- */

FA_INLINE fa_vec fa_double_piece_at(const uint64_t (*rows)[4], const fa_places *v, ptrdiff_t i) {
    fa_vec c[4], t = FA_VEC_WIDEN(v->t + i);
    fa_double_columns(rows, v->at + i, c);
    fa_vec f = FA_VEC_FMA(c[3], t, (fa_vec)((fa_vec_bits)c[3] << 32));
    return FA_VEC_FMA(FA_VEC_FMA(FA_VEC_FMA(f, t, c[2]), t, c[1]), t, c[0]);
}

/* ---- elements beyond a table ---------------------------------------------------------------------- */

/* Which of FA_LANES elements are, a bit each. */
FA_INLINE unsigned fa_far_of_strip(const uint32_t *distance, uint32_t last) {
#if FA_VEC_BYTES == 64
    return _mm512_cmpgt_epu32_mask(_mm512_loadu_si512(distance), _mm512_set1_epi32((int)last));
#elif FA_VEC_BYTES == 32
    const __m256i most = _mm256_set1_epi32((int)last);
    unsigned near[2];
    FA_UNROLL
    for (int k = 0; k < 2; k++) {
        __m256i d = _mm256_loadu_si256((const __m256i *)distance + k);
        d = _mm256_cmpeq_epi32(_mm256_max_epu32(d, most), most);
        near[k] = (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(d));
    }
    return ~(near[0] | near[1] << 8) & 0xffff;
#else
    unsigned far = 0;
    for (int i = 0; i < FA_LANES; i++) far |= (unsigned)(distance[i] > last) << i;
    return far;
#endif
}

/* Whether any of FA_LANES numbers is slight */
FA_INLINE int fa_any_slight_of_strip(const float *x) {
    uint32_t from_most[FA_LANES];
    for (int i = 0; i < FA_LANES; i++) from_most[i] = ~fa_smaller_f(UINT32_MAX, x[i]);
    return fa_far_of_strip(from_most, ~fa_least_usual_f()) != 0;
}

/* How many are, and where; more than FA_FEW are not counted to the end. */
FA_INLINE int fa_find_far(const uint32_t *distance, ptrdiff_t n, uint32_t last, uint16_t *at) {
    int count = 0;
    for (ptrdiff_t i = 0; i < n && count <= FA_FEW; i += FA_LANES)
        for (unsigned far = fa_far_of_strip(distance + i, last); far; far &= far - 1)
            at[count++] = (uint16_t)(i + __builtin_ctz(far));
    return count;
}

/* Those elements side by side, and zeros up to a whole strip. */
FA_INLINE void fa_take_far(const float *x, const uint16_t *at, int far, float *to) {
    memset(to + far - far % FA_LANES, 0, FA_LANES * sizeof *to);
    for (int i = 0; i < far; i++) to[i] = x[at[i]];
}

/* ---- fast bodies ---------------------------------------------------------------------------------- */

/* A kernel's second body for kernels.inc: what is looked up is a function of `argument`, an expression in x.
 * Those of a stretch are sought in the table alone first, unless it was too short for the stretch before: `*wide`.
 * `*least` becomes the least of dy, NULL if nobody asks. */
#define FA_FIND(place)                                                                                 \
    FA_VECTORIZE                                                                                       \
    for (ptrdiff_t i = 0; i < n; i++) {                                                                \
        const float x = from[i];                                                                       \
        const fa_place p = place;                                                                      \
        v->at[i] = p.at, v->t[i] = p.t;                                                                \
        furthest = furthest > p.distance ? furthest : p.distance;                                      \
        if (dy) smallest = fa_smaller_f(smallest, dy[i]);                                              \
    }                                                                                                  \
    *least = smallest;
#define FA_BY_PIECES(kernel, shapes, argument)                                                         \
    FA_INLINE uint32_t fa_##kernel##_distance(float x)                                                 \
    {                                                                                                  \
        const fa_shapes s = shapes;                                                                    \
        const uint32_t here = fa_distance((argument), s.here), left = fa_distance((argument), s.left); \
        return s.left.count ? fa_reach(fa_is_in(here, s.here), fa_is_in(left, s.left)) : here;         \
    }                                                                                                  \
    FA_INLINE uint32_t fa_##kernel##_last(void)                                                        \
    {                                                                                                  \
        const fa_shapes s = shapes;                                                                    \
        return s.left.count ? FA_LEFT : fa_last_distance(s.here);                                      \
    }                                                                                                  \
    FA_INLINE int fa_##kernel##_find(const float *from, const float *dy, ptrdiff_t n, fa_places *v,    \
                                     int *wide, uint32_t *least)                                       \
    {                                                                                                  \
        const fa_shapes s = shapes;                                                                    \
        uint32_t furthest = 0, smallest = UINT32_MAX;                                                  \
        if (!*wide) {                                                                                  \
            FA_FIND(fa_place_of((argument), s.here))                                                   \
            if (furthest <= fa_last_distance(s.here)) return 1;                                        \
        }                                                                                              \
        if (!s.left.count) return 0;                                                                   \
        furthest = FA_HERE;                                                                            \
        FA_FIND(fa_place_of_two((argument), s))                                                        \
        *wide = furthest != FA_HERE;                                                                   \
        return furthest != FA_BEYOND;                                                                  \
    }
/* The loop inlined, for numbers that are not slight, and the other ones; a float table minds which. */
#define FA_BY_EITHER(kernel, minds)                                                                    \
    FA_INLINE int fa_##kernel##_minds(void) { return (minds); }                                         \
    FA_INLINE void fa_##kernel##_pieces(const float *from, float *to, ptrdiff_t n, const fa_places *v) \
    {                                                                                                  \
        fa_##kernel##_loop(from, to, n, v, 0);                                                         \
    }                                                                                                  \
    static __attribute__((noinline, unused)) void fa_##kernel##_apart(                                 \
        const float *from, float *to, ptrdiff_t n, const fa_places *v, int slight)                     \
    {                                                                                                  \
        if ((minds) && slight)                                                                         \
            fa_##kernel##_loop(from, to, n, v, 1);                                                     \
        else                                                                                           \
            fa_##kernel##_loop(from, to, n, v, 0);                                                     \
    }
#define FA_BY_FLOAT_PIECES(kernel, table, around, argument, finish)                                    \
    FA_BY_PIECES(kernel, FA_##around(table, 4), argument)                                              \
    FA_INLINE void fa_##kernel##_loop(const float *from, float *to, ptrdiff_t n, const fa_places *v,   \
                                      int slight)                                                      \
    {                                                                                                  \
        for (ptrdiff_t i = 0; i < n; i += 2 * FA_VEC) {                                                \
            fa_vec_f32 m;                                                                              \
            memcpy(&m, from + i, sizeof m);                                                            \
            m = fa_##finish##_v(m, fa_piece_at(fa_##table##_pieces, v, i), slight);                    \
            memcpy(to + i, &m, sizeof m);                                                              \
        }                                                                                              \
    }                                                                                                  \
    FA_BY_EITHER(kernel, 1)
#define FA_BY_DOUBLE_PIECES(kernel, table, around, argument)                                           \
    FA_BY_PIECES(kernel, FA_##around(table, 5), argument)                                              \
    FA_INLINE void fa_##kernel##_loop(const float *from, float *to, ptrdiff_t n, const fa_places *v,   \
                                      int slight)                                                      \
    {                                                                                                  \
        (void)slight;                                                                                  \
        for (ptrdiff_t i = 0; i < n; i += 2 * FA_VEC) {                                                \
            fa_vec g[2];                                                                               \
            FA_UNROLL                                                                                  \
            for (int h = 0; h < 2; h++)                                                                \
                g[h] = FA_VEC_WIDEN(from + i + h * FA_VEC) *                                           \
                       fa_double_piece_at(fa_##table##_pieces, v, i + h * FA_VEC);                     \
            const fa_vec_f32 y = FA_VEC_NARROW(g[0], g[1]);                                            \
            memcpy(to + i, &y, sizeof y);                                                              \
        }                                                                                              \
    }                                                                                                  \
    FA_BY_EITHER(kernel, 0)

#endif
