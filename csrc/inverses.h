/* The inverse of each activation in inverses.def, as float64: z of y = f(z), for parameters that make f increase.
 *
 * The error is at most 2^-31 max(1, |z|) beside that of the rounding of y.  Where no z gives y, or none that a
 * finite number is, the result is anything: BatchNorm, the only user, compares what it gets with what was. */
#ifndef FASTACT_INVERSES_H
#define FASTACT_INVERSES_H

#include "vmath.h"

/* log(x) of a positive normal x, error 2^-50; anything else is a NaN.  With x = 2^k m, m from 1/sqrt(2) to sqrt(2),
 * log m = 2 artanh(s), s = (m - 1) / (m + 1), whose series is in s^2 <= 0.0295. */
FA_INLINE double fa_log_d(double x)
{
    const uint64_t bias = (uint64_t)1024 << 52, half = 0x3fe6a09e667f3bcdu; /* sqrt(1/2) */
    const uint64_t above = fa_bits(x) - half + bias, power = above & 0xfff0000000000000u;
    const double k = fa_from_bits(0x4330000000000000u | above >> 52) - (0x1p52 + 1024.0);
    const double m = fa_from_bits(fa_bits(x) - (power - bias)), s = (m - 1.0) / (m + 1.0), t = s * s;
    double p = FA_FMA(t, 1.0 / 17, 1.0 / 15);
    p = FA_FMA(t, p, 1.0 / 13);
    p = FA_FMA(t, p, 1.0 / 11);
    p = FA_FMA(t, p, 1.0 / 9);
    p = FA_FMA(t, p, 1.0 / 7);
    p = FA_FMA(t, p, 1.0 / 5);
    p = FA_FMA(t, p, 1.0 / 3);
    const double y = FA_FMA(k, FA_LN2, 2.0 * FA_FMA(s * t, p, s));
    return fa_pick((x >= 0x1p-1022) & (x < 0x1p1023), y, __builtin_nan(""));
}

FA_INLINE double fa_identity_inverse(double y) { return y; }

FA_INLINE double fa_leaky_relu_inverse(double y, double negative_slope)
{
    const double low = y * (1.0 / negative_slope);
    return fa_pick(y > 0.0, y, low);
}

FA_INLINE double fa_prelu_inverse(double y, double weight) { return fa_leaky_relu_inverse(y, weight); }

FA_INLINE double fa_rrelu_inverse(double y, double lower, double upper)
{
    return fa_leaky_relu_inverse(y, 0.5 * (lower + upper));
}

/* log(1 + y / alpha) for y <= 0 */
FA_INLINE double fa_elu_inverse(double y, double alpha)
{
    const double low = fa_log_d(1.0 + fa_pick(y < 0.0, y, 0.0) * (1.0 / alpha));
    return fa_pick(y > 0.0, y, low);
}

FA_INLINE double fa_selu_inverse(double y)
{
    const double scale = 0x1.0cfabd6a91132p+0, alpha = 0x1.ac5afad782cf1p+0; /* selu's constants */
    return fa_pick(y > 0.0, y * (1.0 / scale), fa_elu_inverse(fa_pick(y < 0.0, y, 0.0) * (1.0 / scale), alpha));
}

/* alpha log(1 + y / alpha) for y <= 0 */
FA_INLINE double fa_celu_inverse(double y, double alpha)
{
    return fa_pick(y > 0.0, y, alpha * fa_elu_inverse(fa_pick(y < 0.0, y, 0.0), alpha));
}

/* log(y / (1 - y)) */
FA_INLINE double fa_sigmoid_inverse(double y) { return fa_log_d(y / (1.0 - y)); }

/* log(e^z - 1) for z > 0: z + log(1 - e^-z), from 40 on z */
FA_INLINE double fa_log_expm1_d(double z)
{
    const double t = fa_clamp_d(z, 40.0);
    return z + fa_log_d(-fa_expm1_d(-t));
}

/* y = -log(1 + e^-z): z = -log(e^-y - 1) */
FA_INLINE double fa_logsigmoid_inverse(double y) { return -fa_log_expm1_d(-y); }

/* log((1 + y) / (1 - y)) / 2 */
FA_INLINE double fa_tanh_inverse(double y) { return 0.5 * fa_log_d((1.0 + y) / (1.0 - y)); }

/* y / (1 - |y|) */
FA_INLINE double fa_softsign_inverse(double y) { return y / (1.0 - fa_abs(y)); }

/* y = log(1 + e^(beta z)) / beta */
FA_INLINE double fa_softplus_inverse(double y, double beta) { return fa_log_expm1_d(beta * y) * (1.0 / beta); }

/* y = (z + sqrt(z^2 + b)) / 2: z = y - b / (4 y) */
FA_INLINE double fa_squareplus_inverse(double y, double b) { return y - 0.25 * b / y; }

FA_INLINE double fa_exponential_inverse(double y) { return fa_log_d(y); }

#endif
