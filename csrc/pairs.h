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

/* The larger of x and least, both >= 0; a NaN passes */
FA_INLINE float fa_at_least_f(float x, float least) {
    return fa_from_bits_f(fa_bits_f(x) > fa_bits_f(least) ? fa_bits_f(x) : fa_bits_f(least));
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

/* ---- slight numbers -------------------------------------------------------------------------- */

/* Slight is |x| < 2^-60, 0 apart.  A product of one with the lower part of a pair may be subnormal: it is rounded, and
 * the sum is then up to 1 ULP off.  And on Intel's processors what multiplies subnormal numbers waits, some 50 ns.  So
 * kernels tell their bodies of a stretch with such numbers that they may be `slight`, a constant.  What is slight is 0 as
 * an argument of functions that are not 0 at 0, and is multiplied in float64.
 *
 * For the sake of bits kernels look at each dy.  For the sake of time they look at a stretch before they touch it if they
 * are wary: at first, and after the processor has noted a subnormal operand or result (fa_has_waited). */
#define FA_SLIGHT_F 0x1p-60f
enum { FA_USUAL = 0, FA_SLIGHT = 1, FA_X_ALONE = 2 }; /* nothing is slight; anything may be; x alone may */

/* |x| in their order, 0 above all: the least of all and of x */
FA_INLINE uint32_t fa_smaller_f(uint32_t least, float x) {
    uint32_t size = (fa_bits_f(x) << 1) - 1;
    return least < size ? least : size;
}

FA_INLINE uint32_t fa_least_usual_f(void) { return fa_smaller_f(UINT32_MAX, FA_SLIGHT_F); }

FA_INLINE int fa_is_slight_f(float x) { return fa_smaller_f(UINT32_MAX, x) < fa_least_usual_f(); }

FA_INLINE int fa_any_slight_f(const float *x, const float *dy, ptrdiff_t n) {
    uint32_t least = UINT32_MAX;
    for (ptrdiff_t i = 0; i < n; i++) least = fa_smaller_f(fa_smaller_f(least, dy[i]), x[i]);
    return least < fa_least_usual_f();
}
FA_INLINE int fa_all_slight_f(const float *x, ptrdiff_t n) { /* or 0, not all of them */
    int32_t most = 0;
    for (ptrdiff_t i = 0; i < n; i++) most = fa_larger_f(most, x[i]);
    return most > 0 && most < fa_order_f(FA_SLIGHT_F);
}

/* What MXCSR has noted since the last question; who calls kernels puts it back. */
#ifdef __x86_64__
enum { FA_WARY = 1, FA_SURE = 8 };
FA_INLINE int fa_has_waited(int asked) {
    const unsigned noted = 0x12; /* a subnormal operand, or an inexact subnormal result */
    unsigned csr;
    if (!asked) return 0; /* at the end of an array the answer takes long, and is of no use */
    __asm__ volatile("stmxcsr %0" : "=m"(csr) : : "memory");
    if (!(csr & noted)) return 0;
    csr &= ~noted;
    __asm__ volatile("ldmxcsr %0" : : "m"(csr) : "memory");
    return 1;
}
#else
enum { FA_WARY = 0, FA_SURE = 8 }; /* nothing waits */
FA_INLINE int fa_has_waited(int asked) { return (void)asked, 0; }
#endif

/* Whether a stretch has better be taken as one with slight numbers.  After one that has some the next few are not looked
 * at: in a kernel that is wary of them bits do not depend on that. */
FA_INLINE int fa_expects_slight_f(int *wary, const float *x, const float *dy, ptrdiff_t n) {
    if (*wary > 1) return (*wary)--;
    *wary = *wary && fa_any_slight_f(x, dy, n) ? FA_SURE : 0;
    return *wary;
}

FA_INLINE float fa_pick_f(int cond, float a, float b) { /* as fa_pick */
    uint32_t mask = -(uint32_t)cond;
    return fa_from_bits_f((fa_bits_f(a) & mask) | (fa_bits_f(b) & ~mask));
}

/* x for an argument: a 0 of its sign where it is slight */
FA_INLINE float fa_argument_f(float x, int slight) {
    const uint32_t gone = -(uint32_t)fa_is_slight_f(x) & 0x7fffffff;
    return slight ? fa_from_bits_f(fa_bits_f(x) & ~gone) : x;
}

/* f(x), which is x where that is slight */
FA_INLINE float fa_or_slight_f(float y, float x, int slight) {
    return fa_pick_f(slight && fa_is_slight_f(x), x, y);
}

/* x p, rounded once; of a slight x if it may be `slight` */
FA_INLINE float fa_times_f(float x, fa_ff p, int slight) {
    const float usual = fa_argument_f(x, slight), y = FA_FMAF(usual, p.hi, fa_mul_f(usual, p.lo));
    const float wide = (float)fa_mul((double)x, (double)p.hi + (double)p.lo);
    return fa_pick_f(slight == FA_SLIGHT && fa_is_slight_f(x), wide, y);
}

/* The same of any x, whatever the signs in p: where the sum of the two products is 0 or NaN, the sign and
 * the infinity of the first. */
FA_INLINE float fa_times_any_f(float x, fa_ff p) {
    float first = fa_mul_f(x, p.hi), y = fa_times_f(x, p, 0);
    return __builtin_islessgreater(y, 0.0f) ? y : first;
}

/* The same of an x whose p is its function: of a slight x p.lo is nothing beside p.hi, and its product is dropped. */
FA_INLINE float fa_gate_f(float x, fa_ff p, int slight) {
    const float wide = (float)fa_mul((double)x, (double)p.hi); /* gcc makes a float32 product of a plain one */
    return fa_pick_f(slight == FA_SLIGHT && fa_is_slight_f(x), wide, fa_times_f(fa_argument_f(x, slight), p, 0));
}

/* ---- products within bounds ------------------------------------------------------------------ */

typedef struct {
    float value;
    uint32_t doubt; /* 0 if value is what float64 arithmetic gives, too */
} fa_bounded_ff;

/* Of any x but a slight one, or of none: fa_product_f */
FA_INLINE float fa_product_limit_f(double p) {
    return (fa_abs(p) >= 0x1p-30) & (fa_abs(p) <= 0x1p30) ? FA_ANY : FA_NEVER;
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

/* ---- exponential ----------------------------------------------------------------------------- */

/* |y| up to which e^y, and the rests beside it, are far from subnormal. */
#define FA_EXP_LIMIT_F 60.0f
/* The same, for e^y times any number but a slight one. */
#define FA_EXP_FACTOR_LIMIT_F 40.0f

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

FA_INLINE float fa_pow2_f(float rounded) { /* 2^k */
    return fa_from_bits_f(0x3f800000u + (fa_bits_f(rounded) << 23));
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
enum { FA_STRETCH = 128, FA_LONG_STRETCH = 512 };

typedef struct {
    _Alignas(64) float y[FA_STRETCH], low[FA_STRETCH], rounded[FA_STRETCH]; /* y, replaced by left */
} fa_exp_stretch;

FA_INLINE void fa_find_exp_f(fa_exp_stretch *v, ptrdiff_t n) {
    FA_VECTORIZE
    for (ptrdiff_t i = 0; i < n; i++) {
        const fa_exp_parts e = fa_exp_parts_f(v->y[i]);
        v->y[i] = e.left, v->low[i] = e.low, v->rounded[i] = e.rounded;
    }
}

FA_INLINE fa_exp_parts fa_get_exp_f(const fa_exp_stretch *v, ptrdiff_t i) {
    fa_exp_parts e = {v->y[i], 4.0f - v->y[i], v->low[i], v->rounded[i]};
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

/* e^y - 1, -30 <= y <= 0; a zero keeps its sign */
FA_INLINE fa_fraction_f fa_expm1_f(fa_exp_parts e) {
    float scale = fa_pow2_f(e.rounded);
    float top = FA_FMAF(scale, e.left, -e.right), top_low = FA_FMAF(scale, e.left, -(top + e.right));
    fa_ff n = fa_fast_two_sum_f(top, FA_FMAF(e.low, 1.0f + scale, top_low));
    fa_fraction_f v = {n.hi, n.lo, e.right, -e.low};
    return v;
}

#endif
