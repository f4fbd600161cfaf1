/* Subnormal numbers in float64 kernels.  On Intel's processors what multiplies one waits, some 50 ns, and there is no wider
 * format to multiply in, as float32 kernels do (pairs.h).  So kernels raise them: bodies see 2^930 x, and what comes out
 * is lowered again, by operations on integers and a sum.
 *
 * A gradient is dy times f'(x), so a raised dy makes it as much larger.  Of a raised x, |x| < 2^-92, a function of
 * activations.h has the value that it has at x, or c x, or less than 2^-180 (c x^2 and the like), of which 0 is left:
 * which of them is told from its size.  So parameters have to be mild, 0 or between 2^-20 and 2^20, and beside a
 * subnormal x dy is below 2^30; else numbers stay as they are, and wait.
 *
 * The result is rounded twice where it is subnormal, which is 1/2 ULP and a little: bits differ from those of numbers
 * that are not raised, so kernels look at all.  A function that makes one product, rounded once, is quicker than that: it
 * is computed a second time with careful products, which give the same bits, where the kernel is wary. */
#ifndef FASTACT_RAISED_H
#define FASTACT_RAISED_H

#include <stddef.h>

#include "pairs.h"

#define FA_LEAST_NORMAL 0x1p-1022
#define FA_SIGN_D 0x8000000000000000u

FA_INLINE int fa_is_mild_d(double p) {
    return (p == 0.0) | ((fa_abs(p) >= 0x1p-20) & (fa_abs(p) <= 0x1p20));
}

FA_INLINE int fa_is_low_d(double x) { return fa_abs(x) < FA_LEAST_NORMAL; } /* subnormal, or 0 */

FA_INLINE int fa_any_low_d(const double *x, const double *dy, ptrdiff_t n) {
    uint64_t low = 0, subnormal = 0;
    for (ptrdiff_t i = 0; i < n; i++) low |= -(uint64_t)(fa_is_low_d(x[i]) | fa_is_low_d(dy[i]));
    if (!low) return 0;
    for (ptrdiff_t i = 0; i < n; i++)
        subnormal |= -(uint64_t)((fa_is_low_d(x[i]) & (x[i] != 0.0)) | (fa_is_low_d(dy[i]) & (dy[i] != 0.0)));
    return subnormal != 0;
}

/* 2^930 x where x is `low`: its bits are those of an integer, m, and x is m 2^-1074 */
FA_INLINE double fa_raised_d(double x, int low) {
    const double unit = 0x1p-92; /* in the last place of which m is m 2^-144 */
    const double size = fa_from_bits(fa_bits(fa_abs(x)) | fa_bits(unit)) - unit;
    return fa_pick(low, fa_from_bits(fa_bits(size) | (fa_bits(x) & FA_SIGN_D)), x);
}

/* 2^-930 y where `low` */
FA_INLINE double fa_lowered_d(double y, int low) {
    const double m = fa_abs(y) * 0x1p144;
    const uint64_t subnormal = fa_bits(m + 0x1p52) - fa_bits(0x1p52);
    const double normal = fa_mul(fa_pick(m <= 0x1p52, 1.0, y), 0x1p-930);
    const double signed_one = fa_from_bits(subnormal | (fa_bits(y) & FA_SIGN_D));
    return fa_pick(low, fa_pick(m <= 0x1p52, signed_one, normal), y);
}

/* f(x) from y = f(raised x), 1 for dy; and the gradient from that of a raised dy and x */
FA_INLINE double fa_settled_d(double y, double raised_dy, int dy_is_low, int x_is_low) {
    const double size = fa_abs(y), of = fa_abs(raised_dy);
    const int with_x = x_is_low & (size * 0x1p35 < of); /* twice lowered is 0 */
    const double zero = fa_from_bits(fa_bits(y) & FA_SIGN_D);
    return fa_pick(with_x & dy_is_low, zero, fa_lowered_d(y, dy_is_low | with_x));
}

/* ---- products rounded once --------------------------------------------------------------------- */

/* 2^52 + a b, rounded once, 0 <= a b <= 2^52 */
FA_INLINE double fa_beside_2_52(double a, double b) {
#if FA_HAVE_FMA
    return FA_FMA(a, b, 0x1p52);
#else
    const fa_dd p = fa_two_prod(a, b);
    const double sum = p.hi + 0x1p52, rest = p.hi - (sum - 0x1p52); /* exact; p.lo counts beside a half alone */
    const int up = (rest == 0.5) & (p.lo > 0.0), down = (rest == -0.5) & (p.lo < 0.0);
    return sum + (fa_pick(up, 1.0, 0.0) - fa_pick(down, 1.0, 0.0));
#endif
}

/* The bits of a p, without multiplying a subnormal a */
FA_INLINE double fa_careful_times(double a, double p) {
    const double m = fa_from_bits(fa_bits(fa_abs(a)) | fa_bits(0x1p52)) - 0x1p52, product = m * fa_abs(p);
    const uint64_t subnormal = fa_bits(fa_beside_2_52(m, fa_abs(p))) - fa_bits(0x1p52);
    const uint64_t normal = fa_bits(product) - ((uint64_t)1074 << 52);
    const double size = fa_pick(product <= 0x1p52, fa_from_bits(subnormal), fa_from_bits(normal));
    const double y = fa_from_bits(fa_bits(size) | ((fa_bits(a) ^ fa_bits(p)) & FA_SIGN_D));
    const int careful = fa_is_low_d(a) & (product <= 0x1.fffffffffffffp+1023); /* not so of an infinity or NaN */
    return fa_pick(careful, y, fa_mul(fa_pick(careful, 1.0, a), p));
}

/* The same of a b, whichever is subnormal; of two the product is 0 */
FA_INLINE double fa_careful_mul(double a, double b) {
    const int swapped = fa_is_low_d(b);
    const double other = fa_pick(swapped, a, b), zero = fa_from_bits(fa_bits(other) & FA_SIGN_D);
    return fa_careful_times(fa_pick(swapped, b, a), fa_pick(fa_is_low_d(other), zero, other));
}

/* The bits of fa_finish_dd(a, p, 1): to a subnormal a the lower part of p adds nothing; without a fused multiply-add it
 * rounds twice (fa_raise) */
FA_INLINE double fa_careful_times_dd(double a, fa_dd p) {
    const int low = fa_is_low_d(a);
#if FA_HAVE_FMA
    return fa_pick(low, fa_careful_times(a, p.hi), fa_finish_dd(fa_dd_set(fa_pick(low, 1.0, a), 0.0), p, 1.0));
#else
    return fa_lowered_d(fa_finish_dd(fa_dd_set(fa_raised_d(a, low), 0.0), p, 1.0), low);
#endif
}

/* Whether a stretch has better be taken as one with subnormal numbers: as fa_expects_slight_f (pairs.h) */
FA_INLINE int fa_expects_low_d(int *wary, const double *x, const double *dy, ptrdiff_t n) {
    if (*wary > 1) return (*wary)--;
    *wary = *wary && fa_any_low_d(x, dy, n) ? FA_SURE : 0;
    return *wary;
}

#endif
