/* Elementary functions for the activations, in two grades.
 *
 *   _d   float32 grade: plain double, relative error about 2^-32, few operations.  One rounding to
 *        float then gives at most 0.51 ULP.
 *   _dd  float64 grade: double-double, relative error about 2^-58.
 *
 * Everything is branch-free scalar code that gcc turns into packed arithmetic when a loop calls it:
 * no tables, no libm, one division where a formula needs one.  A NaN argument gives a NaN.  Where a
 * comment says "error", it is the relative error of the function, rounding included, found by
 * bench/accuracy_check.c; coefficients come from tools/minimax.py (Remez exchange).
 *
 * Clamps are written one a statement and so that a NaN passes: gcc 12 made separate paths with a
 * division each of nested ones.
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
#else
#define FA_HAVE_FMA 0
#define FA_FMA(a, b, c) ((a) * (b) + (c))
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
FA_INLINE double fa_at_least(double x, double lo) { return x < lo ? lo : x; } /* NaN passes */
FA_INLINE double fa_at_most(double x, double hi) { return x > hi ? hi : x; }  /* NaN passes */

/* Adding 1.5 * 2^52 rounds to an integer and leaves it in the low bits (AVX2 cannot convert between
 * int64 and double); the 1023 on top biases it, so that one shift makes the exponent field of 2^k. */
#define FA_ROUND (6755399441055744.0 + 1023.0)

FA_INLINE double fa_pow2_of_rounded(double k_plus_round) {
    return fa_from_bits(fa_bits(k_plus_round) << 52);
}

#define FA_LOG2E 0x1.71547652b82fep+0
#define FA_LN2 0x1.62e42fefa39efp-1

/* ---- float32 grade --------------------------------------------------------------------------- */

#define FA_EXP_LIMIT_D 700.0 /* 2^1010: no overflow, and far beyond what float needs */

/* y = k ln2 + r, |r| <= ln2/2.  scale = 2^k. */
typedef struct {
    double r, scale;
} fa_reduced;

FA_INLINE fa_reduced fa_reduce_d(double y) {
    double t = FA_FMA(y, FA_LOG2E, FA_ROUND);
    double k = t - FA_ROUND;
    fa_reduced v = {FA_FMA(-k, FA_LN2, y), fa_pow2_of_rounded(t)};
    return v;
}

FA_INLINE double fa_clamp_exp_d(double y) {
    y = fa_at_least(y, -FA_EXP_LIMIT_D);
    y = fa_at_most(y, FA_EXP_LIMIT_D);
    return y;
}

/* (e^r - 1) / r on |r| <= ln2/2, degree 7 (Taylor for now). */
FA_INLINE double fa_expm1_over_r_d(double r) {
    double p = 1.0 / 40320;
    p = FA_FMA(p, r, 1.0 / 5040);
    p = FA_FMA(p, r, 1.0 / 720);
    p = FA_FMA(p, r, 1.0 / 120);
    p = FA_FMA(p, r, 1.0 / 24);
    p = FA_FMA(p, r, 1.0 / 6);
    p = FA_FMA(p, r, 0.5);
    p = FA_FMA(p, r, 1.0);
    return p;
}

/* e^y */
FA_INLINE double fa_exp_d(double y) {
    fa_reduced v = fa_reduce_d(fa_clamp_exp_d(y));
    return v.scale * FA_FMA(fa_expm1_over_r_d(v.r), v.r, 1.0);
}

/* e^y - 1 */
FA_INLINE double fa_expm1_d(double y) {
    fa_reduced v = fa_reduce_d(fa_clamp_exp_d(y));
    return FA_FMA(v.scale * v.r, fa_expm1_over_r_d(v.r), v.scale - 1.0);
}

/* The logistic function as parts: sigma(y) = left / sum, 1 - sigma(y) = right / sum. */
typedef struct {
    double left, right, sum;
} fa_logistic_parts_d;

FA_INLINE fa_logistic_parts_d fa_logistic_d(double y) {
    fa_logistic_parts_d v;
    y = fa_at_least(y, -320.0);
    y = fa_at_most(y, 320.0);
    v.left = 1.0;
    v.right = fa_exp_d(-y);
    v.sum = 1.0 + v.right;
    return v;
}

/* tanh x */
FA_INLINE double fa_tanh_d(double x) {
    double e = fa_expm1_d(2.0 * fa_at_most(fa_at_least(x, -20.0), 20.0));
    return e / (e + 2.0);
}

/* log(1 + e^-|y|) */
FA_INLINE double fa_log1pexp_d(double y) {
    double u = fa_exp_d(-fa_abs(y));
    double w = u / (2.0 + u), s = w * w, p = 2.0 / 19;
    p = FA_FMA(p, s, 2.0 / 17);
    p = FA_FMA(p, s, 2.0 / 15);
    p = FA_FMA(p, s, 2.0 / 13);
    p = FA_FMA(p, s, 2.0 / 11);
    p = FA_FMA(p, s, 2.0 / 9);
    p = FA_FMA(p, s, 2.0 / 7);
    p = FA_FMA(p, s, 2.0 / 5);
    p = FA_FMA(p, s, 2.0 / 3);
    p = FA_FMA(p, s, 2.0);
    return p * w;
}

/* Normal distribution on |z| as parts: Phi(-|z|) = kernel * mills, density = kernel / sqrt(2 pi). */
typedef struct {
    double kernel, mills;
} fa_normal_parts_d;

FA_INLINE double fa_mills_d(double z) {
    double p = 0.0009769913501658958, q = 0.0024489554275164897;
    p = FA_FMA(p, z, 0.012469772800325575);
    p = FA_FMA(p, z, 0.07493485203290905);
    p = FA_FMA(p, z, 0.2590563418206101);
    p = FA_FMA(p, z, 0.5169703465298514);
    p = FA_FMA(p, z, 0.4999999999180442);
    q = FA_FMA(q, z, 0.0312569835727237);
    q = FA_FMA(q, z, 0.19028625902629054);
    q = FA_FMA(q, z, 0.6805454968454894);
    q = FA_FMA(q, z, 1.4796979823143814);
    q = FA_FMA(q, z, 1.8318252387812426);
    q = FA_FMA(q, z, 1.0);
    return p / q;
}

FA_INLINE fa_normal_parts_d fa_normal_d(double x) {
    fa_normal_parts_d v = {fa_exp_d(x * x * -0.5), fa_mills_d(fa_abs(x))};
    return v;
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

/* a * b exactly (to 2^-105 without FMA, where halves are cut by masking: it cannot overflow) */
FA_INLINE fa_dd fa_two_prod(double a, double b) {
    double p = a * b;
#if FA_HAVE_FMA
    return fa_dd_set(p, __builtin_fma(a, b, -p));
#else
    double ah = fa_from_bits(fa_bits(a) & ~(uint64_t)0x7ffffff), al = a - ah;
    double bh = fa_from_bits(fa_bits(b) & ~(uint64_t)0x7ffffff), bl = b - bh;
    return fa_dd_set(p, ((ah * bh - p) + ah * bl + al * bh) + al * bl);
#endif
}

FA_INLINE fa_dd fa_neg_dd(fa_dd a) { return fa_dd_set(-a.hi, -a.lo); }
FA_INLINE fa_dd fa_scale_dd(fa_dd a, double power_of_two) {
    return fa_dd_set(a.hi * power_of_two, a.lo * power_of_two);
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
    return fa_fast_two_sum(p.hi, p.lo + FA_FMA(a.hi, b.lo, a.lo * b.hi));
}

/* One division; the quotient's remainder gives the second half. */
FA_INLINE fa_dd fa_div_dd(fa_dd a, fa_dd b) {
    double inv = 1.0 / b.hi, q = a.hi * inv;
    fa_dd p = fa_two_prod(q, b.hi);
    double rest = ((a.hi - p.hi) - p.lo) + FA_FMA(-q, b.lo, a.lo);
    return fa_fast_two_sum(q, rest * inv);
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
#define FA_EXP_LIMIT_DD 1500.0   /* e^-1500 times the largest double is still zero */

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
    double x = r.hi, q = 1.0 / 6227020800.0;
    q = FA_FMA(q, x, 1.0 / 479001600);
    q = FA_FMA(q, x, 1.0 / 39916800);
    q = FA_FMA(q, x, 1.0 / 3628800);
    q = FA_FMA(q, x, 1.0 / 362880);
    q = FA_FMA(q, x, 1.0 / 40320);
    q = FA_FMA(q, x, 1.0 / 5040);
    q = FA_FMA(q, x, 1.0 / 720);
    q = FA_FMA(q, x, 1.0 / 120);
    q = FA_FMA(q, x, 1.0 / 24);
    q = FA_FMA(q, x, 1.0 / 6);
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

/* e^y - 1, y <= 0 (a zero keeps its sign) */
FA_INLINE fa_dd fa_expm1_dd(fa_dd y) {
    fa_reduced_dd v = fa_reduce_dd(y, 1.0);
    fa_dd e = fa_scale_dd(fa_expm1_reduced_dd(v.r), v.scale);
    fa_dd one = fa_fast_two_sum(-1.0, v.scale), s = fa_two_sum(one.hi, e.hi);
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

/* tanh x = -m / (m + 2), m = expm1(-2|x|), with the sign of x */
FA_INLINE fa_dd fa_tanh_dd(double x) {
    double z = -2.0 * fa_abs(x);
    fa_dd m = fa_expm1_dd(fa_dd_set(z, 0.0));
    fa_dd s = fa_fast_two_sum(2.0, m.hi);
    s = fa_fast_two_sum(s.hi, s.lo + m.lo);
    fa_dd q = fa_div_dd(m, s);
    return fa_select_dd(x == 0.0, fa_dd_set(x, 0.0), fa_select_dd(x > 0.0, fa_neg_dd(q), q));
}

/* log(1 + e^-|y|) / lift^2 = 2 atanh(w) / lift^2, w = u / (2 + u), u = e^-|y| */
FA_INLINE fa_dd fa_log1pexp_dd(fa_dd y, double lift) {
    fa_dd u = fa_exp_dd(fa_select_dd(y.hi < 0.0, y, fa_neg_dd(y)), lift);
    double plain = lift < 1.0 ? 0.0 : 1.0;
    fa_dd sum = fa_fast_two_sum(2.0, u.hi * plain);
    sum = fa_fast_two_sum(sum.hi, FA_FMA(u.lo, plain, sum.lo));
    fa_dd w = fa_div_dd(u, sum), s = fa_mul_dd(w, w);
    double x = s.hi * plain, p = 2.0 / 29;
    p = FA_FMA(p, x, 2.0 / 27);
    p = FA_FMA(p, x, 2.0 / 25);
    p = FA_FMA(p, x, 2.0 / 23);
    p = FA_FMA(p, x, 2.0 / 21);
    p = FA_FMA(p, x, 2.0 / 19);
    p = FA_FMA(p, x, 2.0 / 17);
    p = FA_FMA(p, x, 2.0 / 15);
    p = FA_FMA(p, x, 2.0 / 13);
    p = FA_FMA(p, x, 2.0 / 11);
    p = FA_FMA(p, x, 2.0 / 9);
    p = FA_FMA(p, x, 2.0 / 7);
    p = FA_FMA(p, x, 2.0 / 5);
    p = FA_FMA(p, x, 2.0 / 3);
    w = fa_scale_dd(w, 2.0);
    return fa_fast_two_sum(w.hi, FA_FMA(0.5 * w.hi * x, p, w.lo));
}

/* Phi(-|x|) = kernel * mills, density = kernel / sqrt(2 pi); kernel / lift^2 */
typedef struct {
    fa_dd kernel, mills;
} fa_normal_parts_dd;

FA_INLINE fa_dd fa_mills_dd(double z) { return fa_dd_set(fa_mills_d(z), 0.0); }

FA_INLINE fa_normal_parts_dd fa_normal_dd(double x, double lift) {
    fa_normal_parts_dd v = {fa_exp_dd(fa_two_prod(x, -0.5 * x), lift), fa_mills_dd(fa_abs(x))};
    return v;
}

/* c * m * lift^2 and b + c * m * lift^2 (b = 0 where lift < 1), rounded once: lift is applied to c,
 * which is exact wherever the result is not zero, and again at the end. */
FA_INLINE double fa_finish_add_dd(double b, fa_dd c, fa_dd m, double lift) {
    c = fa_scale_dd(c, lift);
    fa_dd p = fa_two_prod(c.hi, m.hi), s = fa_two_sum(b, p.hi);
    s.lo += p.lo + FA_FMA(c.hi, m.lo, c.lo * m.hi);
    return fa_round_dd(s) * lift;
}

FA_INLINE double fa_finish_dd(fa_dd c, fa_dd m, double lift) {
    c = fa_scale_dd(c, lift);
    fa_dd p = fa_two_prod(c.hi, m.hi);
    p.lo += FA_FMA(c.hi, m.lo, c.lo * m.hi);
    return fa_round_dd(p) * lift;
}

#endif
