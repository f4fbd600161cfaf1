/* Elementary functions for the activations, in two grades.
 *
 *   _d   float32 grade: plain double, relative error about 2^-32, few operations.  One rounding to
 *        float then gives at most 0.51 ULP.
 *   _dd  float64 grade: double-double, relative error about 2^-58.
 *
 * Everything is branch-free scalar code that gcc turns into packed arithmetic when a loop calls it:
 * no tables, no libm, one division where a formula needs one.  A NaN argument gives a NaN.  Where a
 * comment says "error", it is the relative error of the function, rounding included, found by
 * bench/accuracy.py; coefficients come from tools/minimax.py (Remez exchange).
 *
 * Clamps let a NaN pass.
 */
#ifndef FASTACT_VMATH_H
#define FASTACT_VMATH_H

#include <stdint.h>
#include <string.h>

#define FA_INLINE static inline __attribute__((always_inline, unused))

/* Contraction is off in all builds: a fused multiply-add happens where we write one, so that every
 * instruction set that has it gives the same bits. */
#if defined(__FMA__) || defined(__aarch64__)
#define FA_HAVE_FMA 1
#define FA_FMA(a, b, c) __builtin_fma((a), (b), (c))
#define FA_FMA_F32(a, b, c) __builtin_fmaf((a), (b), (c))
#else
#define FA_HAVE_FMA 0
#define FA_FMA(a, b, c) ((a) * (b) + (c))
#define FA_FMA_F32(a, b, c) ((a) * (b) + (c))
#endif

/* ---- bits ------------------------------------------------------------------------------------ */

FA_INLINE uint64_t fa_bits(double x) {
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

FA_INLINE double fa_from_bits(uint64_t u) {
    double x;
    memcpy(&x, &u, sizeof x);
    return x;
}

FA_INLINE double fa_abs(double x) { return fa_from_bits(fa_bits(x) & 0x7fffffffffffffffu); }

/* cond ? a : b by masks: of ordinary conditionals gcc 12 makes paths before it vectorises. */
FA_INLINE double fa_pick(int cond, double a, double b) {
    uint64_t mask = -(uint64_t)cond;
    return fa_from_bits((fa_bits(a) & mask) | (fa_bits(b) & ~mask));
}

FA_INLINE double fa_clamp_d(double x, double limit) { /* NaN passes */
    x = fa_pick(x < -limit, -limit, x);
    return fa_pick(x > limit, limit, x);
}

/* Adding 1.5 * 2^52 rounds to an integer and leaves it in the low bits (AVX2 cannot convert between
 * int64 and double).  Shifted up, those bits add to an exponent. */
#define FA_ROUND 6755399441055744.0

FA_INLINE double fa_pow2_of_rounded(double k_plus_round) { /* 2^k */
    return fa_from_bits((fa_bits(k_plus_round) << 52) + 0x3ff0000000000000u);
}

/* x * 2^k, both normal */
FA_INLINE double fa_scale_by_rounded(double x, double k_plus_round) {
    return fa_from_bits(fa_bits(x) + (fa_bits(k_plus_round) << 52));
}

#define FA_LOG2E 0x1.71547652b82fep+0
#define FA_LN2 0x1.62e42fefa39efp-1

/* ---- float32 grade: |argument| <= 700 unless stated otherwise, else the result is garbage -------- */

/* y = k ln2 + r, |r| <= ln2/2; rounded = k + FA_ROUND.  y = -0 gives r = -0. */
typedef struct {
    double r, rounded;
} fa_reduced;

FA_INLINE fa_reduced fa_reduce_d(double y) {
    double t = FA_FMA(y, FA_LOG2E, FA_ROUND), k = t - FA_ROUND;
    fa_reduced v = {FA_FMA(-k, FA_LN2, y), t};
    return v;
}

/* (e^r - 1) / r, |r| <= ln2/2, error 2^-32.0.  Here and below short chains (Estrin, even and odd
 * parts) instead of Horner: the loops wait for latency. */
FA_INLINE double fa_expm1_over_r_d(double r) {
    double rr = r * r;
    double a = FA_FMA(r, 0x1.0000002812eaep-1, 0x1.00000000224d2p+0);
    double b = FA_FMA(r, 0x1.5554adb68b929p-5, 0x1.555554c609d14p-3);
    double c = FA_FMA(r, 0x1.6d74801ba2743p-10, 0x1.1111a674bf3abp-7);
    c = FA_FMA(rr, 0x1.a019e86c4c022p-13, c);
    return FA_FMA(rr, FA_FMA(rr, c, b), a);
}

/* e^y, error 2^-33.5 */
FA_INLINE double fa_exp_d(double y) {
    fa_reduced v = fa_reduce_d(y);
    return fa_scale_by_rounded(FA_FMA(fa_expm1_over_r_d(v.r), v.r, 1.0), v.rounded);
}

/* e^y - 1, error 2^-32; -0 gives -0 (hence the order of the last difference) */
FA_INLINE double fa_expm1_d(double y) {
    fa_reduced v = fa_reduce_d(y);
    double scale = fa_pow2_of_rounded(v.rounded);
    return FA_FMA(scale * v.r, fa_expm1_over_r_d(v.r), -(1.0 - scale));
}

/* e^y = top / bottom, error 2^-32.3.  With tanh(r/2) = r b / a, e^r = (a + r b) / (a - r b): fewer and
 * shorter chains than a polynomial, and every user divides anyway. */
typedef struct {
    double top, bottom;
} fa_ratio;

FA_INLINE fa_ratio fa_exp_ratio_d(double y) {
    fa_reduced v = fa_reduce_d(y);
    double s = v.r * v.r;
    double a = FA_FMA(s, 0x1.9983121cb1ed1p-4, 1.0);
    double b = FA_FMA(s, 0x1.10b74928b3919p-7, 0x1.fffffffb6df78p-2) * v.r;
    fa_ratio e = {fa_scale_by_rounded(a + b, v.rounded), a - b};
    return e;
}

/* The same to 2^-45, for derivatives, whose zeros magnify errors. */
FA_INLINE fa_ratio fa_exp_ratio_fine_d(double y) {
    fa_reduced v = fa_reduce_d(y);
    double s = v.r * v.r;
    double a = FA_FMA(s, FA_FMA(s, 0x1.37c776fad2c18p-11, 0x1.b6d44a786cb1cp-4), 1.0);
    double b = FA_FMA(s, 0x1.85fbd49106affp-7, 0x1.ffffffffffdc5p-2) * v.r;
    fa_ratio e = {fa_scale_by_rounded(a + b, v.rounded), a - b};
    return e;
}

/* The logistic function as parts: sigma(y) = left / sum, 1 - sigma(y) = right / sum; |y| <= 320, so
 * that sum^2 is finite; error 2^-32.3 */
typedef struct {
    double left, right, sum;
} fa_logistic_parts_d;

FA_INLINE fa_logistic_parts_d fa_logistic_d(double y) {
    fa_ratio e = fa_exp_ratio_d(-y);
    fa_logistic_parts_d v = {e.bottom, e.top, e.top + e.bottom};
    return v;
}

FA_INLINE fa_logistic_parts_d fa_logistic_fine_d(double y) { /* error 2^-45 */
    fa_ratio e = fa_exp_ratio_fine_d(-y);
    fa_logistic_parts_d v = {e.bottom, e.top, e.top + e.bottom};
    return v;
}

/* The same parts from e^-|y|, so that none is much above 1 and their fourth powers are finite. */
FA_INLINE fa_logistic_parts_d fa_logistic_unit_d(double y) {
    fa_ratio e = fa_exp_ratio_fine_d(-fa_abs(y));
    fa_logistic_parts_d v = {fa_pick(y < 0.0, e.top, e.bottom), fa_pick(y < 0.0, e.bottom, e.top),
                             e.top + e.bottom};
    return v;
}

/* tanh(y / 2), error 2^-43; -0 gives -0 (1 - scale is +0 there, and is subtracted) */
FA_INLINE fa_ratio fa_tanh_half_ratio_d(double y) {
    fa_reduced v = fa_reduce_d(y);
    double s = v.r * v.r, scale = fa_pow2_of_rounded(v.rounded);
    double a = FA_FMA(s, FA_FMA(s, 0x1.37c776fad2c18p-11, 0x1.b6d44a786cb1cp-4), 1.0);
    double b = FA_FMA(s, 0x1.85fbd49106affp-7, 0x1.ffffffffffdc5p-2) * v.r;
    double less = 1.0 - scale, more = 1.0 + scale;
    fa_ratio t = {FA_FMA(-less, a, more * b), FA_FMA(-less, b, more * a)};
    return t;
}

FA_INLINE double fa_tanh_half_d(double y) {
    fa_ratio t = fa_tanh_half_ratio_d(y);
    return t.top / t.bottom;
}

/* x - tanh(x), any x; where `small` (|x| < 1) divided by x: x^2 n / cosh(x), n = (x cosh x - sinh x) / x^3,
 * both by their power series in x^2.  Error 2^-35. */
FA_INLINE double fa_x_minus_tanh_d(double x, int small) {
    double s = x * x, ss = s * s;
    fa_ratio t = fa_tanh_half_ratio_d(fa_clamp_d(2.0 * x, 40.0));
    double n = FA_FMA(ss, FA_FMA(s, 12.0 / 6227020800.0, 1.0 / 3991680.0), FA_FMA(s, 1.0 / 45360.0, 1.0 / 840.0));
    n = FA_FMA(ss, n, FA_FMA(s, 1.0 / 30.0, 1.0 / 3.0));
    double c = FA_FMA(ss, FA_FMA(s, FA_FMA(s, 1.0 / 479001600.0, 1.0 / 3628800.0), 1.0 / 40320.0),
                      FA_FMA(s, 1.0 / 720.0, 1.0 / 24.0));
    c = FA_FMA(ss, c, FA_FMA(s, 0.5, 1.0));
    double y = fa_pick(small, s * n, FA_FMA(x, t.bottom, -t.top)) / fa_pick(small, c, t.bottom);
    double beyond = fa_from_bits(fa_bits(x - (x < 0.0 ? -1.0 : 1.0)) + 1);
    return fa_pick(fa_abs(x) > 20.0, beyond, y); /* tanh is a little less than 1: no tie when rounded */
}

/* log(1 + e^-|y|) = 2 atanh(w), w = u / (2 + u), u = e^-|y|, any y; error 2^-31.6 */
FA_INLINE double fa_log1pexp_d(double y) {
    double z = -fa_abs(y);
    fa_ratio u = fa_exp_ratio_d(fa_pick(z < -700.0, -700.0, z));
    double w = u.top / FA_FMA(2.0, u.bottom, u.top), s = w * w, ss = s * s;
    double a = FA_FMA(s, 0x1.555559930b1bap-1, 0x1.ffffffff273e5p+0);
    double b = FA_FMA(s, 0x1.251380d04cb64p-2, 0x1.99962b1fd786dp-2);
    double c = FA_FMA(s, 0x1.f3fac685034f2p-3, 0x1.b6224561db69dp-3);
    double p = FA_FMA(ss, FA_FMA(ss, c, b), a);
    return p * w;
}

/* e^(z^2/2) Phi(-z), 0 <= z <= 20, error 2^-32.5: a rational function of degrees 5 and 6.  Both polynomials
 * are in D. E. Knuth's adapted form (The Art of Computer Programming, volume 2, 4.6.4), with half of Horner's
 * multiplications: they wait for the multipliers, while adders are idle.  Rounding costs 2^-49. */
FA_INLINE fa_ratio fa_mills_d(double z) {
    double y = z + 0x1.17b53b2bd3073p+1;
    y *= y;
    double t = FA_FMA(y + 0x1.9c68938d6db6fp+3, y, 0x1.92a5523da3126p+5);
    double u = FA_FMA(z + 0x1.818825a37d15ep+2, z, 0x1.07513798dcb1bp+4);
    double w = FA_FMA(z + 0x1.b72ca0c74072cp-1, u, 0x1.1500f3a5d5944p+4);
    fa_ratio v = {FA_FMA(t, FA_FMA(z, 0x1.98844530a8092p-2, 0x1.9ad25984862a8p+0), -0x1.7e7fe7a35fb1cp+3),
                  FA_FMA((w - u) - 0x1.8710f1488ea82p+1, w, 0x1.0e71f92e48c0cp+5)};
    return v;
}

/* The left tail of the normal distribution at -|x|, |x| <= 20: Phi(-|x|), error 2^-31.4 ... */
FA_INLINE double fa_normal_tail_d(double x) {
    double xx = x * x;
    fa_ratio e = fa_exp_ratio_d(xx * -0.5), m = fa_mills_d(fa_abs(x));
    return (e.top * m.top) / (e.bottom * m.bottom);
}

/* The same to 2^-38.5: degrees 6 and 7 */
FA_INLINE fa_ratio fa_mills_fine_d(double z) {
    double u = FA_FMA(z + 0x1.32986f12ea3fbp+2, z, 0x1.c293a1a91cce0p+3);
    double w = FA_FMA(z + 0x1.e75af3f0d340cp+1, u, -0x1.0a3161757262bp+4);
    double s = FA_FMA(z + 0x1.da2f37cdf0c4dp+2, z, 0x1.95227c57c4c8fp+4);
    double t = FA_FMA(z + 0x1.305af41c98babp+0, s, -0x1.a309f8a959e67p+3);
    t = FA_FMA((t - s) + 0x1.87134c53c9881p+6, t, 0x1.335d7f16fe1ccp+11);
    fa_ratio v = {FA_FMA((w - u) + 0x1.29782d447ab78p+5, w * 0x1.988454976e030p-2, 0x1.00d673773176ap+7),
                  FA_FMA(t, z, 0x1.fb4b214427905p+10)};
    return v;
}

/* ... and Phi(-|x|) - |x| phi(x), which is d/dx of x Phi(x) there; error 2^-32, and absolute 2^-39
 * around the zero at 0.7518, which the fine fit is for (with the other: 0.534 ULP beside it) */
FA_INLINE double fa_normal_slope_d(double x) {
    double z = fa_abs(x), xx = x * x;
    fa_ratio e = fa_exp_ratio_d(xx * -0.5), m = fa_mills_fine_d(z);
    double top = FA_FMA(z * -0x1.9884533d43651p-2, m.bottom, m.top);
    return (e.top * top) / (e.bottom * m.bottom);
}

/* ---- double-double --------------------------------------------------------------------------- */

/* The value is hi + lo, |lo| <= ulp(hi) / 2.  T. J. Dekker, A floating-point technique for extending
 * the available precision (1971); M. Joldes, J.-M. Muller, V. Popescu, Tight and rigorous error
 * bounds for basic building blocks of double-word arithmetic (2017): products and sums below are
 * within 2^-100. */
typedef struct {
    double hi, lo;
} fa_dd;

FA_INLINE fa_dd fa_dd_set(double hi, double lo) {
    fa_dd v = {hi, lo};
    return v;
}

/* a + b exactly, |a| >= |b| or a = 0 */
FA_INLINE fa_dd fa_fast_two_sum(double a, double b) {
    double s = a + b;
    return fa_dd_set(s, b - (s - a));
}

/* a + b exactly */
FA_INLINE fa_dd fa_two_sum(double a, double b) {
    double s = a + b, t = s - a;
    return fa_dd_set(s, (a - (s - t)) + (b - t));
}

/* a b: the same bits as a * b, unless it is negated at once: gcc 12 makes one operation of both, and of -0 0.  Where
 * a b is subnormal, what takes it from a multiplication waits on Zen 3, several times as long as from a multiply-add
 * (docs/design.md). */
FA_INLINE double fa_mul(double a, double b) { return FA_HAVE_FMA ? FA_FMA(a, b, -0.0) : a * b; }
FA_INLINE float fa_mul_f(float a, float b) { return FA_HAVE_FMA ? FA_FMA_F32(a, b, -0.0f) : a * b; }

/* a * b exactly (to 2^-105 without FMA, where halves are cut by masking: it cannot overflow) */
FA_INLINE fa_dd fa_two_prod(double a, double b) {
    double p = fa_mul(a, b);
#if FA_HAVE_FMA
    return fa_dd_set(p, __builtin_fma(a, b, -p));
#else
    double ah = fa_from_bits(fa_bits(a) & ~(uint64_t)0x7ffffff), al = a - ah;
    double bh = fa_from_bits(fa_bits(b) & ~(uint64_t)0x7ffffff), bl = b - bh;
    double e = ((ah * bh - p) + ah * bl + al * bh) + al * bl;
    return fa_dd_set(p, fa_pick(fa_abs(p) < 0x1p-1018, 0.0, e)); /* there the parts underflow */
#endif
}

/* hi, or, where lo is not 0 and hi is even, its neighbour on the side of lo: rounding to odd */
FA_INLINE double fa_sticky(double hi, double lo) {
    uint64_t u = fa_bits(hi), nudge = (lo > 0.0) == (hi > 0.0) ? 1u : -(uint64_t)1;
    u += (lo == 0.0) | (lo != lo) | (u & 1) ? 0u : nudge;
    return fa_from_bits(u);
}

FA_INLINE double fa_sticky_product(double a, double b_hi, double b_lo) {
    fa_dd p = fa_two_prod(a, b_hi);
    return fa_sticky(p.hi, p.lo + a * b_lo);
}

FA_INLINE double fa_off_zero(double y) {
    double least = y < 0.0 ? -0x1p-20 : 0x1p-20;
    return fa_pick((fa_abs(y) < 0x1p-20) & (y != 0.0), least, y);
}

FA_INLINE fa_dd fa_minus_abs_dd(double a) { return fa_dd_set(-fa_abs(a), 0.0); }
FA_INLINE fa_dd fa_neg_dd(fa_dd a) { return fa_dd_set(-a.hi, -a.lo); }
FA_INLINE fa_dd fa_scale_dd(fa_dd a, double power_of_two) {
    return fa_dd_set(fa_mul(a.hi, power_of_two), fa_mul(a.lo, power_of_two));
}
FA_INLINE fa_dd fa_select_dd(int cond, fa_dd a, fa_dd b) {
    return fa_dd_set(cond ? a.hi : b.hi, cond ? a.lo : b.lo);
}

FA_INLINE fa_dd fa_add_dd(fa_dd a, fa_dd b) {
    fa_dd s = fa_two_sum(a.hi, b.hi), t = fa_two_sum(a.lo, b.lo);
    s = fa_fast_two_sum(s.hi, s.lo + t.hi);
    return fa_fast_two_sum(s.hi, s.lo + t.lo);
}

FA_INLINE fa_dd fa_sub_dd(fa_dd a, fa_dd b) { return fa_add_dd(a, fa_neg_dd(b)); }

FA_INLINE fa_dd fa_mul_dd(fa_dd a, fa_dd b) {
    fa_dd p = fa_two_prod(a.hi, b.hi);
    return fa_fast_two_sum(p.hi, p.lo + FA_FMA(a.hi, b.lo, fa_mul(a.lo, b.hi)));
}

/* One division; the quotient's remainder gives the second half. */
FA_INLINE fa_dd fa_div_dd(fa_dd a, fa_dd b) {
    double inv = 1.0 / b.hi, q = fa_mul(a.hi, inv);
    fa_dd p = fa_two_prod(q, b.hi);
    double rest = ((a.hi - p.hi) - p.lo) + FA_FMA(-q, b.lo, a.lo);
    return fa_fast_two_sum(q, fa_mul(rest, inv));
}

FA_INLINE fa_dd fa_sqrt_dd(fa_dd a) {
    double q = __builtin_sqrt(a.hi);
    fa_dd p = fa_two_prod(q, q);
    double rest = ((a.hi - p.hi) - p.lo) + a.lo;
    return fa_fast_two_sum(q, a.hi > 0.0 ? rest / (q + q) : 0.0);
}

FA_INLINE fa_dd fa_clamp_dd(fa_dd a, double limit) { /* to [-limit, limit]; a NaN passes */
    a = fa_select_dd(a.hi > limit, fa_dd_set(limit, 0.0), a);
    return fa_select_dd(a.hi < -limit, fa_dd_set(-limit, 0.0), a);
}

/* hi + lo; infinities (whose lo is NaN) and the sign of zero survive. */
FA_INLINE double fa_round_dd(fa_dd a) {
    double r = a.hi + a.lo;
    r = r != r ? a.hi : r;
    return a.lo == 0.0 ? a.hi : r;
}

/* ---- float64 grade --------------------------------------------------------------------------- */

/* Results far down in the left tail lose bits to gradual underflow long before they are rounded, so
 * the tail is computed lifted: a function called with lift < 1 returns its value divided by lift^2,
 * and fa_finish_dd multiplies it back at the very end.  lift is 1 or FA_LIFT. */
#define FA_LIFT 0x1p-600
#define FA_LIFT_EXPONENT 1200.0
#define FA_LIFT_BELOW (-600.0)   /* lift where the exponent is below this */
#define FA_EXP_LIMIT_DD 1535.0   /* e^-1535 times 2^115 times the largest double rounds to zero */

/* y = k ln2 + r, |r| <= ln2/2, ln2 in three parts of 40 bits each so that the first products are
 * exact (W. J. Cody, W. Waite 1980).  scale = 2^k, lifted. */
typedef struct {
    fa_dd r;
    double scale;
} fa_reduced_dd;

FA_INLINE fa_reduced_dd fa_reduce_dd(fa_dd y, double lift) {
    double lowest = lift < 1.0 ? -FA_EXP_LIMIT_DD : -700.0;
    double raise = lift < 1.0 ? FA_LIFT_EXPONENT : 0.0;
    y = fa_select_dd(y.hi < lowest, fa_dd_set(lowest, 0.0), y);
    double t = FA_FMA(y.hi, FA_LOG2E, FA_ROUND), k = t - FA_ROUND;
    fa_dd r = fa_two_sum(y.hi - k * 0x1.62e42fefa2000p-1, k * -0x1.9ef35793c6000p-41);
    r = fa_fast_two_sum(r.hi, r.lo + FA_FMA(k, -0x1.673007e5ed5e8p-81, y.lo));
    fa_reduced_dd v = {r, fa_pow2_of_rounded(t + raise)};
    return v;
}

/* e^r - 1, |r| <= ln2/2: r and r^2/2 as pairs, the rest (below 0.008) in double. */
FA_INLINE fa_dd fa_expm1_reduced_dd(fa_dd r) {
    double x = r.hi;
    double q = 0x1.616b754d4d6e0p-33;
    q = FA_FMA(q, x, 0x1.1f72f0c2e0f12p-29);
    q = FA_FMA(q, x, 0x1.ae645f11f1557p-26);
    q = FA_FMA(q, x, 0x1.27e4db6e054e0p-22);
    q = FA_FMA(q, x, 0x1.71de3a5007f9cp-19);
    q = FA_FMA(q, x, 0x1.a01a01a6d539ep-16);
    q = FA_FMA(q, x, 0x1.a01a01a01b3d4p-13);
    q = FA_FMA(q, x, 0x1.6c16c16c162dbp-10);
    q = FA_FMA(q, x, 0x1.1111111111110p-7);
    q = FA_FMA(q, x, 0x1.5555555555556p-5);
    q = FA_FMA(q, x, 0x1.5555555555555p-3);
    fa_dd square = fa_two_prod(x, 0.5 * x);
    fa_dd s = fa_fast_two_sum(x, square.hi);
    double rest = FA_FMA(x, r.lo, square.lo) + r.lo;
    return fa_fast_two_sum(s.hi, s.lo + FA_FMA(x * square.hi * 2.0, q, rest));
}

/* e^y / lift^2, y <= 700 */
FA_INLINE fa_dd fa_exp_dd(fa_dd y, double lift) {
    fa_reduced_dd v = fa_reduce_dd(y, lift);
    fa_dd e = fa_expm1_reduced_dd(v.r), s = fa_fast_two_sum(1.0, e.hi);
    return fa_scale_dd(fa_fast_two_sum(s.hi, s.lo + e.lo), v.scale);
}

/* e^y / lift^2 for any y; chooses lift, which above 600 is the inverse of the usual one, since what e^y
 * will be multiplied by may be small. */
FA_INLINE fa_dd fa_exp_wide_dd(fa_dd y, double *lift) {
    int low = y.hi < FA_LIFT_BELOW, high = y.hi > 600.0;
    y = fa_clamp_dd(y, FA_EXP_LIMIT_DD);
    y = fa_select_dd(high, fa_sub_dd(y, fa_dd_set(0x1.9fe3682cd3be4p+9, 0x1.4aa84b6b3b125p-45)), y);
    *lift = low ? FA_LIFT : high ? 1.0 / FA_LIFT : 1.0;
    return fa_exp_dd(y, low ? FA_LIFT : 1.0);
}

/* e^y - 1, y <= 700 (a zero keeps its sign) */
FA_INLINE fa_dd fa_expm1_dd(fa_dd y) {
    fa_reduced_dd v = fa_reduce_dd(y, 1.0);
    fa_dd e = fa_scale_dd(fa_expm1_reduced_dd(v.r), v.scale);
    fa_dd one = fa_two_sum(-1.0, v.scale), s = fa_two_sum(one.hi, e.hi);
    s = fa_fast_two_sum(s.hi, s.lo + (one.lo + e.lo));
    s.hi = y.hi == 0.0 ? y.hi : s.hi;
    return s;
}

/* Parts of the logistic function; left / lift^2 where lift < 1 (then y < FA_LIFT_BELOW). */
typedef struct {
    fa_dd left, right, sum;
} fa_logistic_parts_dd;

FA_INLINE fa_logistic_parts_dd fa_logistic_dd(fa_dd y, double lift) {
    fa_dd one = fa_dd_set(1.0, 0.0);
    fa_dd e = fa_exp_dd(fa_select_dd(y.hi < 0.0, y, fa_neg_dd(y)), lift);
    double plain = lift < 1.0 ? 0.0 : 1.0; /* a lifted e is nothing beside 1 */
    fa_dd sum = fa_fast_two_sum(1.0, e.hi * plain);
    fa_logistic_parts_dd v;
    v.left = fa_select_dd(y.hi < 0.0, e, one);
    v.right = fa_select_dd(y.hi < 0.0, one, e);
    v.sum = fa_fast_two_sum(sum.hi, FA_FMA(e.lo, plain, sum.lo));
    return v;
}

/* tanh(y / 2) = -m / (m + 2), m = expm1(-|y|), with the sign of y */
FA_INLINE fa_dd fa_tanh_half_dd(double y) {
    double x = fa_mul(0.5, y), z = -fa_abs(y);
    fa_dd m = fa_expm1_dd(fa_dd_set(z, 0.0));
    fa_dd s = fa_fast_two_sum(2.0, m.hi);
    s = fa_fast_two_sum(s.hi, s.lo + m.lo);
    fa_dd q = fa_div_dd(m, s);
    return fa_select_dd(x == 0.0, fa_dd_set(x, 0.0), fa_select_dd(x > 0.0, fa_neg_dd(q), q));
}

/* a + b t in pairs, |a| >= |b t| */
FA_INLINE fa_dd fa_step_dd(fa_dd b, fa_dd t, double hi, double lo) {
    fa_dd p = fa_two_prod(b.hi, t.hi), s = fa_two_sum(hi, p.hi);
    return fa_fast_two_sum(s.hi, s.lo + (FA_FMA(b.hi, t.lo, FA_FMA(b.lo, t.hi, p.lo)) + lo));
}

/* As fa_x_minus_tanh_d; where `small`, divided by x lift^2.  Error 2^-58. */
FA_INLINE fa_dd fa_x_minus_tanh_dd(double x, int small, double lift) {
    double raised = lift < 1.0 ? x / FA_LIFT : x, z = small ? x : 0.0;
    fa_dd square = fa_two_prod(raised, raised), s = fa_two_prod(z, z);
    double n = 20.0 / 51090942171709440000.0, c = 1.0 / 2432902008176640000.0, t = s.hi;
    n = FA_FMA(n, t, 18.0 / 121645100408832000.0);
    n = FA_FMA(n, t, 16.0 / 355687428096000.0);
    n = FA_FMA(n, t, 14.0 / 1307674368000.0);
    n = FA_FMA(n, t, 12.0 / 6227020800.0);
    n = FA_FMA(n, t, 10.0 / 39916800.0);
    n = FA_FMA(n, t, 8.0 / 362880.0);
    n = FA_FMA(n, t, 6.0 / 5040.0);
    c = FA_FMA(c, t, 1.0 / 6402373705728000.0);
    c = FA_FMA(c, t, 1.0 / 20922789888000.0);
    c = FA_FMA(c, t, 1.0 / 87178291200.0);
    c = FA_FMA(c, t, 1.0 / 479001600.0);
    c = FA_FMA(c, t, 1.0 / 3628800.0);
    c = FA_FMA(c, t, 1.0 / 40320.0);
    c = FA_FMA(c, t, 1.0 / 720.0);
    fa_dd top = fa_step_dd(fa_dd_set(n, 0.0), s, 0x1.1111111111111p-5, 0x1.1111111111111p-61);
    top = fa_mul_dd(square, fa_step_dd(top, s, 0x1.5555555555555p-2, 0x1.5555555555555p-56));
    fa_dd bottom = fa_step_dd(fa_dd_set(c, 0.0), s, 0x1.5555555555555p-5, 0x1.5555555555555p-59);
    bottom = fa_step_dd(fa_step_dd(bottom, s, 0.5, 0.0), s, 1.0, 0.0);
    fa_dd large = fa_sub_dd(fa_dd_set(x, 0.0), fa_tanh_half_dd(fa_clamp_d(2.0 * x, 80.0)));
    return fa_select_dd(small, fa_div_dd(top, bottom), large);
}

/* log(1 + e^-|y|) / lift^2 = 2 atanh(w) / lift^2, w = u / (2 + u), u = e^-|y|; s = w^2,
 * and s/3, the first correction, is a pair: near y = 0 it is 0.04 of the result. */
FA_INLINE fa_dd fa_log1pexp_dd(fa_dd y, double lift) {
    fa_dd u = fa_exp_dd(fa_select_dd(y.hi < 0.0, y, fa_neg_dd(y)), lift);
    double plain = lift < 1.0 ? 0.0 : 1.0;
    fa_dd sum = fa_fast_two_sum(2.0, u.hi * plain);
    sum = fa_fast_two_sum(sum.hi, FA_FMA(u.lo, plain, sum.lo));
    fa_dd w = fa_div_dd(u, sum), s = fa_mul_dd(w, w);
    s = fa_scale_dd(s, plain);
    double x = s.hi;
    double p = 0x1.40489187f87bap-3;
    p = FA_FMA(p, x, 0x1.32b0c6ec514a8p-4);
    p = FA_FMA(p, x, 0x1.bc4341ca06e69p-4);
    p = FA_FMA(p, x, 0x1.e0a15ba5aa5b5p-4);
    p = FA_FMA(p, x, 0x1.111accaaae442p-3);
    p = FA_FMA(p, x, 0x1.3b1350a5c1a72p-3);
    p = FA_FMA(p, x, 0x1.745d1998fcb0bp-3);
    p = FA_FMA(p, x, 0x1.c71c71bec6ab2p-3);
    p = FA_FMA(p, x, 0x1.2492492499eeep-2);
    p = FA_FMA(p, x, 0x1.9999999999942p-2);
    fa_dd third = fa_mul_dd(s, fa_dd_set(0x1.5555555555555p-2, 0x1.5555555555555p-56));
    third = fa_fast_two_sum(third.hi, FA_FMA(0.5 * x * x, p, third.lo));
    w = fa_scale_dd(w, 2.0);
    third = fa_mul_dd(w, third);
    s = fa_fast_two_sum(w.hi, third.hi);
    return fa_fast_two_sum(s.hi, s.lo + (w.lo + third.lo));
}

/* e^(z^2/2) Phi(-z), 0 <= z <= 55: a polynomial in t = (z - 4) / (z + 4), times 1 / (z + 4); error
 * 2^-58.  The map is that of M. M. Shepherd and J. G. Laframboise, Chebyshev approximation of
 * (1 + 2x) exp(x^2) erfc(x) (1981).  From t^5 on the terms are below 0.04 of the sum: double. */
FA_INLINE fa_dd fa_mills_dd(double z) {
    fa_dd w = fa_div_dd(fa_dd_set(1.0, 0.0), fa_two_sum(z, 4.0));
    fa_dd t = fa_two_sum(1.0, -8.0 * w.hi);
    t.lo = FA_FMA(-8.0, w.lo, t.lo);
    double x = t.hi;
    double p = 0x1.25267c68217adp-35;
    p = FA_FMA(p, x, 0x1.ee116780627c4p-33);
    p = FA_FMA(p, x, 0x1.0f59fc552e8c0p-32);
    p = FA_FMA(p, x, -0x1.805c32f49a351p-30);
    p = FA_FMA(p, x, -0x1.0032d2e82f57cp-28);
    p = FA_FMA(p, x, 0x1.6cc2581dedb72p-29);
    p = FA_FMA(p, x, 0x1.75d42461f0819p-26);
    p = FA_FMA(p, x, 0x1.bfe1be375d5c2p-27);
    p = FA_FMA(p, x, -0x1.77ce194544561p-24);
    p = FA_FMA(p, x, -0x1.4d3471d877eb8p-23);
    p = FA_FMA(p, x, 0x1.253630966034ep-22);
    p = FA_FMA(p, x, 0x1.1249bc524653dp-20);
    p = FA_FMA(p, x, -0x1.5255fd25c0d9dp-21);
    p = FA_FMA(p, x, -0x1.8d4de549bdd47p-18);
    p = FA_FMA(p, x, 0x1.80d3ef997559ap-21);
    p = FA_FMA(p, x, 0x1.26d0b5ab51ec5p-15);
    p = FA_FMA(p, x, -0x1.002007602f785p-19);
    p = FA_FMA(p, x, -0x1.e4a426c149b8cp-13);
    p = FA_FMA(p, x, 0x1.17a4af12b197ap-13);
    p = FA_FMA(p, x, 0x1.ab825fc598e01p-10);
    p = FA_FMA(p, x, -0x1.c81719d660e0bp-9);
    p = FA_FMA(p, x, -0x1.ee27610490595p-8);
    fa_dd s = fa_step_dd(fa_dd_set(p, 0.0), t, 0x1.eec4cc3e4dddep-5, 0x1.ddf11dae5c6e1p-61);
    s = fa_step_dd(s, t, -0x1.7dff2bff68361p-3, 0x1.ea94b44c70aeep-58);
    s = fa_step_dd(s, t, 0x1.8c6dbf2cfc2aep-2, 0x1.a7042e0d00bb2p-56);
    s = fa_step_dd(s, t, -0x1.373e3a893c28ap-1, -0x1.bdf4c9f208703p-56);
    s = fa_step_dd(s, t, 0x1.82b4bb8c94dcep-1, -0x1.9a2bbb879ba38p-56);
    return fa_mul_dd(s, w);
}

/* As in the float32 grade: Phi(-|x|) / lift^2, and (Phi(-|x|) - |x| phi(x)) / lift^2; |x| <= 55 */
FA_INLINE fa_dd fa_normal_tail_dd(double x, double lift) {
    return fa_mul_dd(fa_exp_dd(fa_two_prod(x, -0.5 * x), lift), fa_mills_dd(fa_abs(x)));
}

FA_INLINE fa_dd fa_normal_slope_dd(double x, double lift) {
    fa_dd density = fa_dd_set(-0x1.9884533d43651p-2, 0x1.cbc0d30ebfd15p-56);
    fa_dd m = fa_mul_dd(fa_dd_set(fa_abs(x), 0.0), density);
    m = fa_add_dd(fa_mills_dd(fa_abs(x)), m);
    return fa_mul_dd(fa_exp_dd(fa_two_prod(x, -0.5 * x), lift), m);
}

/* c * m * lift^2 and b + c * m * lift^2 (b = 0 where lift < 1), rounded once: lift is applied to c,
 * which is exact wherever the result is not zero, and again at the end. */
/* Without fused multiply-add the error of a product is lost where the product is below 2^-968: small
 * factors are raised before and the result lowered after, which only rounds a subnormal result twice. */
#if FA_HAVE_FMA
FA_INLINE double fa_raise(double c) { return (void)c, 1.0; }
#else
FA_INLINE double fa_raise(double c) { return fa_pick(fa_abs(c) < 0x1p-900, 0x1p200, 1.0); }
#endif

FA_INLINE double fa_finish_add_dd(double b, fa_dd c, fa_dd m, double lift) {
    double raise = fa_raise(fa_abs(b) + fa_abs(c.hi));
    c = fa_scale_dd(c, lift * raise);
    fa_dd p = fa_two_prod(c.hi, m.hi), s = fa_two_sum(b * raise, p.hi);
    s.lo += p.lo + FA_FMA(c.hi, m.lo, fa_mul(c.lo, m.hi));
    return fa_mul(fa_round_dd(s), lift / raise);
}

FA_INLINE double fa_finish_dd(fa_dd c, fa_dd m, double lift) {
    double raise = fa_raise(c.hi);
    c = fa_scale_dd(c, lift * raise);
    fa_dd p = fa_two_prod(c.hi, m.hi);
    p.lo += FA_FMA(c.hi, m.lo, fa_mul(c.lo, m.hi));
    return fa_mul(fa_round_dd(p), lift / raise);
}

#endif
