/* The float32 grade without float64: numbers as unevaluated sums of two float32, which take half the
 * vector registers and no conversions.  For arguments within a range; see kernels.inc on what happens
 * beyond it.  Relative errors are below about 2^-31, so that one last rounding gives 0.51 ULP.
 *
 * Needs fused multiply-add: without it float32 rows stay in float64. */
#ifndef FASTACT_PAIRS_H
#define FASTACT_PAIRS_H

#include <stddef.h>

#include "vmath.h"

#define FA_FMAF(a, b, c) __builtin_fmaf((a), (b), (c))

FA_INLINE uint32_t fa_bits_f(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

FA_INLINE float fa_from_bits_f(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

FA_INLINE float fa_abs_f(float x) { return fa_from_bits_f(fa_bits_f(x) & 0x7fffffff); }

FA_INLINE float fa_minus_abs_f(float x) { return fa_from_bits_f(fa_bits_f(x) | 0x80000000u); }

/* y of x's sign, where it is not of the other one: a zero */
FA_INLINE float fa_sign_like_f(float y, float x) {
    return fa_from_bits_f(fa_bits_f(y) | (fa_bits_f(x) & 0x80000000u));
}

/* Positive numbers in their order, NaN above all, negative ones below. */
FA_INLINE int32_t fa_order_f(float x) { return (int32_t)fa_bits_f(x); }

/* The least of x and most > 0, in one operation; of a NaN it may be most. */
FA_INLINE float fa_at_most_f(float x, float most) {
    int32_t u = fa_order_f(x), limit = fa_order_f(most);
    return fa_from_bits_f((uint32_t)(u < limit ? u : limit));
}

#define FA_ANY fa_from_bits_f(0x7fffffff) /* a limit: even of NaN */
#define FA_NEVER -1.0f

FA_INLINE int32_t fa_larger_f(int32_t most, float x) {
    int32_t size = fa_order_f(fa_abs_f(x));
    return most > size ? most : size;
}

FA_INLINE int fa_within_f(float x, int32_t reach) { return fa_order_f(fa_abs_f(x)) <= reach; }

FA_INLINE int fa_all_within_f(const float *x, ptrdiff_t n, int32_t reach) {
    int32_t most = 0;
    if (reach == fa_order_f(FA_ANY)) return 1;
    for (ptrdiff_t i = 0; i < n; i++) most = fa_larger_f(most, x[i]);
    return most <= reach;
}

/* ---- pairs ----------------------------------------------------------------------------------- */

typedef struct {
    float hi, lo;
} fa_ff;

FA_INLINE fa_ff fa_split_f(double p) {
    float near = (float)p;
    fa_ff v = {near, (float)(p - (double)near)};
    return v;
}

/* The same with hi nearer to 0: lo has hi's sign and is not 0, so that a product with an infinity is no NaN,
 * and one with a zero keeps its sign. */
FA_INLINE fa_ff fa_split_short_f(double p) {
    float near = (float)p;
    near = fa_from_bits_f(fa_bits_f(near) - 1);
    fa_ff v = {near, (float)(p - (double)near)};
    return v;
}

FA_INLINE int fa_fits_f(double p) { /* into a pair, with all its digits that count */
    return (p == 0.0) | ((fa_abs(p) >= 0x1p-90) & (fa_abs(p) <= 0x1p90));
}

/* a + b exactly, |a| >= |b| or a = 0 */
FA_INLINE fa_ff fa_fast_two_sum_f(float a, float b) {
    float s = a + b;
    fa_ff v = {s, b - (s - a)};
    return v;
}

/* The same of any a and b */
FA_INLINE fa_ff fa_two_sum_f(float a, float b) {
    float s = a + b, t = s - a;
    fa_ff v = {s, (a - (s - t)) + (b - t)};
    return v;
}

FA_INLINE fa_ff fa_mul_ff(fa_ff a, fa_ff b) {
    float p = a.hi * b.hi;
    fa_ff v = {p, FA_FMAF(a.hi, b.lo, FA_FMAF(a.lo, b.hi, FA_FMAF(a.hi, b.hi, -p)))};
    return v;
}

/* x p, rounded once; where it may be subnormal, x p.lo had better be nothing beside it */
FA_INLINE float fa_times_f(float x, fa_ff p) { return FA_FMAF(x, p.hi, fa_mul_f(x, p.lo)); }

/* The same of any x, whatever the signs in p: where the sum of the two products is 0 or NaN, the sign and
 * the infinity of the first. */
FA_INLINE float fa_times_any_f(float x, fa_ff p) {
    float first = fa_mul_f(x, p.hi), y = fa_times_f(x, p);
    return __builtin_islessgreater(y, 0.0f) ? y : first;
}

/* ---- products within bounds ------------------------------------------------------------------ */

typedef struct {
    float value;
    uint32_t doubt; /* 0 if value is what float64 arithmetic gives, too */
} fa_bounded_ff;

enum { FA_STRETCH_OF_BOUNDS = 256, FA_PLAIN = 8 }; /* an element in doubt brings back one stretch, a tiny one several */

/* The least |x|, 0 apart, that fa_product_f takes. */
FA_INLINE float fa_product_limit_f(double p) {
    return (fa_abs(p) >= 0x1p-30) & (fa_abs(p) <= 0x1p30) ? 0x1p-60f : FA_NEVER;
}

/* x p as float32(x * p) in float64: x p.hi + x p.lo with the lower product a little too small, and too large.
 * The three roundings in it err by less than 2^-22, the bounds are 2^-21 aside.  Where both sums round to
 * the same number, so does what is between them; they do not once in some 2^18 elements. */
FA_INLINE fa_bounded_ff fa_product_f(float x, double p) {
    if ((double)(float)p == p) {
        fa_bounded_ff exact = {x * (float)p, 0};
        return exact;
    }
    fa_ff s = fa_split_short_f(p);
    float below = FA_FMAF(x, s.hi, x * (s.lo * (1 - 0x1p-21f)));
    float above = FA_FMAF(x, s.hi, x * (s.lo * (1 + 0x1p-21f)));
    fa_bounded_ff v = {above, fa_bits_f(below) ^ fa_bits_f(above)};
    return v;
}

/* |x| in their order, 0 above all: the least of all and of x */
FA_INLINE uint32_t fa_smaller_f(uint32_t least, float x) {
    uint32_t size = (fa_bits_f(x) << 1) - 1;
    return least < size ? least : size;
}

/* ---- exponential ----------------------------------------------------------------------------- */

/* |y| up to which quotients of e^y and 1, and the rests beside them, are far from subnormal. */
#define FA_EXP_LIMIT_F 70.0f

/* y within that limit; a NaN becomes a limit, in the order of bit patterns (see working.h) */
FA_INLINE float fa_bounded_f(float y) {
    const int32_t most = fa_order_f(FA_EXP_LIMIT_F);
    const uint32_t least = fa_bits_f(-FA_EXP_LIMIT_F);
    uint32_t u = (uint32_t)(fa_order_f(y) < most ? fa_order_f(y) : most);
    return fa_from_bits_f(u < least ? u : least);
}

#define FA_ROUND_F 12582912.0f /* 1.5 * 2^23, as FA_ROUND */

/* y = k ln2 + r, |r| <= ln2/2.  r is rounded; head - k FA_LN2_TAIL is it with all digits, and head exact. */
typedef struct {
    float rounded, minus_k, head, r;
} fa_reduced_f;

#define FA_LN2_TAIL 0x1.7f7d1cp-20f

FA_INLINE fa_reduced_f fa_reduce_f(float y) {
    float t = FA_FMAF(y, 0x1.715476p+0f, FA_ROUND_F), minus_k = FA_ROUND_F - t;
    float head = FA_FMAF(minus_k, 0x1.62e4p-1f, y);
    fa_reduced_f v = {t, minus_k, head, FA_FMAF(minus_k, FA_LN2_TAIL, head)};
    return v;
}

FA_INLINE float fa_pow2_f(float rounded) { /* 2^k, and 2^-k */
    return fa_from_bits_f(0x3f800000u + (fa_bits_f(rounded) << 23));
}
FA_INLINE float fa_pow2_minus_f(float rounded) {
    return fa_from_bits_f(0x3f800000u - (fa_bits_f(rounded) << 23));
}

/* e^r = (left + low) / (right - low) = (2 + u) / (2 - u) with u = 2 tanh(r / 2) = r - r^3 / 12 + ...: all but
 * 2^-8 of u is r, so float32's own precision serves the polynomial.  u's multiple of 2^-22 goes to left and
 * right, which are exact, and the rest, up to 2^-23, to low. */
typedef struct {
    float left, right, low, rounded;
} fa_exp_parts;

FA_INLINE fa_exp_parts fa_exp_parts_f(float y) {
    fa_reduced_f v = fa_reduce_f(y);
    float s = fa_mul_f(v.r, v.r);
    float c = FA_FMAF(s, -0x1.55554ep-4f, (s * s) * FA_FMAF(s, -0x1.afc02ap-11f, 0x1.110572p-7f));
    float u = FA_FMAF(c, v.r, v.r + 3.0f) - 3.0f;
    float low = FA_FMAF(v.minus_k, FA_LN2_TAIL, FA_FMAF(c, v.r, v.head - u));
    fa_exp_parts e = {2.0f + u, 2.0f - u, low, v.rounded};
    return e;
}

/* A stretch's parts, between the loops of kernels.inc. */
enum { FA_STRETCH = 128 };

typedef struct {
    _Alignas(64) float left[FA_STRETCH], low[FA_STRETCH], rounded[FA_STRETCH];
} fa_exp_stretch;

FA_INLINE void fa_put_exp_f(fa_exp_stretch *v, ptrdiff_t i, fa_exp_parts e) {
    v->left[i] = e.left, v->low[i] = e.low, v->rounded[i] = e.rounded;
}

FA_INLINE fa_exp_parts fa_get_exp_f(const fa_exp_stretch *v, ptrdiff_t i) {
    fa_exp_parts e = {v->left[i], 4.0f - v->left[i], v->low[i], v->rounded[i]};
    return e;
}

/* (top + top_low) / (bottom + bottom_low), low parts up to 2^-12 of the others */
typedef struct {
    float top, top_low, bottom, bottom_low;
} fa_fraction_f;

FA_INLINE float fa_remainder_f(fa_fraction_f v, float quotient) {
    return FA_FMAF(-quotient, v.bottom, v.top) + FA_FMAF(-quotient, v.bottom_low, v.top_low);
}

/* The quotient rounded once.  Before that the error is 2^-48 where low parts are: functions close to a limit
 * must not step back. */
FA_INLINE float fa_rounded_f(fa_fraction_f v) {
    float inverse = 1.0f / v.bottom, q = fa_mul_f(v.top, inverse);
    return FA_FMAF(fa_remainder_f(v, q), inverse, q);
}

/* The quotient as a pair that starts 2^-20 short: as fa_split_short_f. */
FA_INLINE fa_ff fa_quotient_short_f(fa_fraction_f v) {
    float inverse = 0x1.ffffep-1f / v.bottom, q = fa_mul_f(v.top, inverse);
    fa_ff p = {q, fa_remainder_f(v, q) * inverse};
    return p;
}

/* e^y / 2^k, and e^y, |y| <= FA_EXP_LIMIT_F here and below */
FA_INLINE fa_fraction_f fa_exp_fraction_f(fa_exp_parts e) {
    fa_fraction_f v = {e.left, e.low, e.right, -e.low};
    return v;
}
FA_INLINE fa_ff fa_exp_f(fa_exp_parts e) {
    fa_ff p = fa_quotient_short_f(fa_exp_fraction_f(e));
    float scale = fa_pow2_f(e.rounded);
    p.hi *= scale, p.lo *= scale;
    return p;
}

/* e^y - 1, -30 <= y <= 0; a zero keeps its sign */
FA_INLINE fa_fraction_f fa_expm1_f(fa_exp_parts e) {
    float scale = fa_pow2_f(e.rounded);
    float top = FA_FMAF(scale, e.left, -e.right), top_low = FA_FMAF(scale, e.left, -(top + e.right));
    fa_ff n = fa_fast_two_sum_f(top, FA_FMAF(e.low, 1.0f + scale, top_low));
    fa_fraction_f v = {n.hi, n.lo, e.right, -e.low};
    return v;
}

/* tanh(y / 2), 0 <= y <= 20 */
FA_INLINE fa_fraction_f fa_tanh_half_f(fa_exp_parts e) {
    float m = fa_pow2_minus_f(e.rounded);
    float top = FA_FMAF(-m, e.right, e.left), bottom = FA_FMAF(m, e.right, e.left);
    float top_low = FA_FMAF(-m, e.right, e.left - top), bottom_low = FA_FMAF(m, e.right, e.left - bottom);
    fa_ff n = fa_fast_two_sum_f(top, FA_FMAF(e.low, 1.0f + m, top_low));
    fa_fraction_f v = {n.hi, n.lo, bottom, FA_FMAF(e.low, 1.0f - m, bottom_low)};
    return v;
}

#endif
