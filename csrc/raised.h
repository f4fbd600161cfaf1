/* Subnormal numbers in float64 kernels.  On Intel's processors what multiplies one waits, some 50 ns, and there is no wider
 * format to multiply in, as float32 kernels do (pairs.h).  So kernels raise them: bodies see 2^930 x, and what comes out
 * is lowered again, by operations on integers and a sum.
 *
 * A gradient is dy times f'(x), so a raised dy makes it as much larger.  Of a raised x, |x| < 2^-92, a function of
 * activations.h has the value that it has at x, or c x, or less than 2^-170 (of x^2 and x^3): which of them is told from
 * its size.  So parameters have to be mild, 0 or between 2^-20 and 2^20, and beside a subnormal x dy is below 2^900;
 * else numbers stay as they are, and wait.
 *
 * The result is rounded twice where it is subnormal, which is 1/2 ULP and a little: bits differ from those of numbers
 * that are not raised, so kernels look at all. */
#ifndef FASTACT_RAISED_H
#define FASTACT_RAISED_H

#include <stddef.h>

#include "vmath.h"

#define FA_RAISE_EXPONENT 930
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
    const double size = fa_abs(y), m = size * 0x1p144;
    const uint64_t subnormal = fa_bits(m + 0x1p52) - fa_bits(0x1p52);
    const uint64_t normal = fa_bits(size) - ((uint64_t)FA_RAISE_EXPONENT << 52);
    const double least = fa_pick(m <= 0x1p52, fa_from_bits(subnormal), fa_from_bits(normal));
    const double lowered = fa_from_bits(fa_bits(least) | (fa_bits(y) & FA_SIGN_D));
    return fa_pick(low & (size <= 0x1.fffffffffffffp+1023), lowered, y);
}

/* f(x) from y = f(raised x), 1 for dy; and the gradient from that of a raised dy and x */
FA_INLINE double fa_settled_d(double y, double raised_dy, int dy_is_low, int x_is_low) {
    const double size = fa_abs(y), of = fa_abs(raised_dy);
    const int with_x = x_is_low & (size * 0x1p35 < of), gone = with_x & (dy_is_low | (size * 0x1p170 < of));
    const double lowered = fa_lowered_d(y, dy_is_low | with_x);
    return fa_pick(gone, fa_from_bits(fa_bits(y) & FA_SIGN_D), lowered);
}

#endif
