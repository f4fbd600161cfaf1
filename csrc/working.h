/* The arithmetic vocabulary of one dtype: activations.h and batchnorm.inc are written in it once and
 * compiled for FA_BITS = 16, 32 and 64.  No include guard: included once per FA_BITS, it redefines all.
 *
 *                                    half      32        64
 *   real     storage type            double    float     double
 *   num      working type            double    double    fa_dd (a pair of doubles)
 *   FN(f)    name of this dtype's f  f_half    f_f32     f_f64
 *
 * half (FA_BITS = 16) serves float16 and bfloat16: drivers widen them to double in a tile, and what comes
 * out is rounded once, to the format that it is stored in.
 *
 * With FA_CAREFUL, of float64, FN(f) is f_low, and a product rounded once is one of raised.h.
 *
 * Grades and error bounds of the functions: vmath.h.  `lift` (see there) scales deep left tails of
 * the float64 grade; in the float32 grade double has range enough, lift is 1 and costs nothing.
 */
#include "pairs.h"
#include "raised.h"
#include "vmath.h"

#undef real
#undef num
#undef FN
#undef n_set
#undef n_pair
#undef n_hi
#undef n_lo
#undef n_add
#undef n_sub
#undef n_mul
#undef n_div
#undef n_sqrt
#undef n_select
#undef n_round
#undef n_clamp
#undef n_lift
#undef n_finish
#undef n_finish_add
#undef n_exp
#undef n_expm1
#undef n_tanh_half
#undef n_log1pexp
#undef n_logistic
#undef n_logistic_fine
#undef n_logistic_parts
#undef n_normal_tail
#undef n_normal_slope
#undef n_product
#undef n_minus_abs
#undef n_scale
#undef n_unlift
#undef n_exp_wide
#undef n_exp_any
#undef n_x_minus_tanh
#undef n_logistic_unit
#undef n_times
#undef n_real_mul
#undef n_times_pair
#undef n_param_product
#undef n_round_pair
#undef n_off_zero
#undef FA_TAIL
#undef FA_TAIL_TANH
#undef FA_TAIL_NORMAL
#undef FA_TAIL_QUICK
#undef FA_TAIL_CUBIC
#undef FA_LARGEST
#undef FA_SQUARABLE

/* half results are rounded a second time.  A first rounding that meets the middle of two neighbours of that
 * format would decide it wrongly, and for tiny x the formats of 16 bits have many such x / 2:
 *   n_times(x, p)    x p, or, where that is inexact, the number beside it that cannot be such a middle;
 *   n_times_pair, n_round_pair   the same for p, and of p, a double-double
 *   n_off_zero(y)    y, away from 0 by at least 2^-20: so that 1/2 + y / 4 is not 1/2 */
#if FA_BITS == 16
#define real double
#define FN(name) name##_half
typedef uint64_t fa_pattern_half;
#define FA_LARGEST 0x1p128
#define n_times(x, p) fa_sticky_product((x), (p), 0.0)
#define n_real_mul(x, y) ((x) * (y))
#define n_times_pair(x, p) fa_sticky_product((x), (p).hi, (p).lo)
#define n_round_pair(p) fa_sticky((p).hi, (p).lo)
#define n_off_zero(y) fa_off_zero(y)
#elif FA_BITS == 32
#define real float
#define FN(name) name##_f32
typedef uint32_t fa_pattern_f32;
#define FA_LARGEST 0x1.fffffep+127f
#define n_times(x, p) ((float)((double)(x) * (p)))
#define n_real_mul(x, y) fa_mul_f((x), (y)) /* of plain numbers */
#define n_times_pair(x, p) ((float)((double)(x) * (p).hi))
#define n_round_pair(p) ((float)fa_round_dd(p))
#define n_off_zero(y) (y)
#endif

#if FA_BITS == 16 || FA_BITS == 32

#define num double

#define n_set(x) ((double)(x))
#define n_pair(hi, lo) ((double)(hi) + (double)(lo)) /* of constants: folded by the compiler */
#define n_hi(a) (a)
#define n_lo(a) (0.0)
#define n_add(a, b) ((a) + (b))
#define n_sub(a, b) ((a) - (b))
#define n_mul(a, b) ((a) * (b))
#define n_product(x, y) ((double)(x) * (double)(y)) /* of plain numbers; may overflow */
#define n_param_product(x, y) ((double)(x) * (double)(y))
#define n_div(a, b) ((a) / (b))
#define n_sqrt(a) __builtin_sqrt(a)
#define n_minus_abs(x) (-fa_abs((double)(x))) /* of a plain number */
#define n_select(cond, a, b) ((cond) ? (a) : (b))
#define n_round(a) ((real)(a))
#define n_clamp(a, limit) fa_clamp_d((a), (limit))

#define n_lift(cond) 1.0
#define n_finish(c, m, lift) ((void)(lift), (real)((c) * (m)))
#define n_finish_add(b, c, m, lift) ((void)(lift), (real)FA_FMA((c), (m), (b)))
#define n_exp(y, lift) ((void)(lift), fa_exp_d(y))
#define n_expm1(y) fa_expm1_d(y)
#define n_tanh_half(y) fa_tanh_half_d(y)
#define n_log1pexp(y, lift) ((void)(lift), fa_log1pexp_d(y))
#define n_logistic(y, lift) ((void)(lift), fa_logistic_d(y))
#define n_logistic_fine(y, lift) ((void)(lift), fa_logistic_fine_d(y))
#define n_logistic_parts fa_logistic_parts_d
#define n_normal_tail(x, lift) ((void)(lift), fa_normal_tail_d(x))
#define n_normal_slope(x, lift) ((void)(lift), fa_normal_slope_d(x))
#define n_scale(a, factor) ((a) * (factor))
#define n_unlift(lift) 1.0
#define n_exp_wide(y, lift) (*(lift) = 1.0, fa_exp_d(fa_clamp_d((y), FA_TAIL)))
#define n_exp_any(x, lift) (*(lift) = 1.0, fa_exp_d((double)FN(fa_clamp_number)((x), FA_TAIL))) /* of a plain number */
#define n_x_minus_tanh(x, small, lift) fa_x_minus_tanh_d((x), (small))
#define n_logistic_unit(y, lift) ((void)(lift), fa_logistic_unit_d(y))

/* Where dy times a tail is zero whatever dy, in the exponent, in x of e^(-x^2/2), of the cubic of
 * gelu_tanh and of 1.702 x. */
#define FA_TAIL 320.0f
#define FA_TAIL_TANH 40.0f
#define FA_TAIL_NORMAL 20.0f
#define FA_TAIL_QUICK 188.0f
#define FA_TAIL_CUBIC 16.0f
#define FA_SQUARABLE FA_LARGEST

#elif FA_BITS == 64

#define real double
#define num fa_dd
#ifdef FA_CAREFUL
#define FN(name) name##_low
typedef uint64_t fa_pattern_low;
#define n_times(x, p) fa_careful_times((x), (p))
#define n_real_mul(x, y) fa_careful_mul((x), (y))
#define n_times_pair(x, p) fa_careful_times_dd((x), (p))
#define n_finish(c, m, lift) ((void)(lift), n_times_pair((c).hi, (m))) /* of a plain c, without a lift */
#else
#define FN(name) name##_f64
typedef uint64_t fa_pattern_f64;
#define n_times(x, p) fa_mul((x), (p))
#define n_real_mul(x, y) fa_mul((x), (y))
#define n_times_pair(x, p) fa_finish_dd(n_set(x), (p), 1.0)
#define n_finish(c, m, lift) fa_finish_dd((c), (m), (lift))
#endif

#define n_set(x) fa_dd_set((x), 0.0)
#define n_pair(hi, lo) fa_dd_set((hi), (lo))
#define n_hi(a) ((a).hi)
#define n_lo(a) ((a).lo)
#define n_add(a, b) fa_add_dd((a), (b))
#define n_sub(a, b) fa_sub_dd((a), (b))
#define n_mul(a, b) fa_mul_dd((a), (b))
#define n_product(x, y) fa_two_prod((x), (y))
#define n_param_product(x, y) n_real_mul((x), (y))
#define n_div(a, b) fa_div_dd((a), (b))
#define n_sqrt(a) fa_sqrt_dd(a)
#define n_minus_abs(x) fa_minus_abs_dd(x)
#define n_select(cond, a, b) fa_select_dd((cond), (a), (b))
#define n_round(a) fa_round_dd(a)
#define n_clamp(a, limit) fa_clamp_dd((a), (limit))

#define n_lift(cond) ((cond) ? FA_LIFT : 1.0)
#define n_finish_add(b, c, m, lift) fa_finish_add_dd((b), (c), (m), (lift))
#define n_exp(y, lift) fa_exp_dd((y), (lift))
#define n_expm1(y) fa_expm1_dd(y)
#define n_tanh_half(y) fa_tanh_half_dd(y)
#define n_log1pexp(y, lift) fa_log1pexp_dd((y), (lift))
#define n_logistic(y, lift) fa_logistic_dd((y), (lift))
#define n_logistic_fine(y, lift) fa_logistic_dd((y), (lift))
#define n_logistic_parts fa_logistic_parts_dd
#define n_normal_tail(x, lift) fa_normal_tail_dd((x), (lift))
#define n_normal_slope(x, lift) fa_normal_slope_dd((x), (lift))
#define n_scale(a, factor) fa_scale_dd((a), (factor)) /* by a power of two */
#define n_unlift(lift) ((lift) < 1.0 ? 1.0 / FA_LIFT : 1.0)
#define n_exp_wide(y, lift) fa_exp_wide_dd((y), (lift))
#define n_exp_any(x, lift) fa_exp_wide_dd(n_set(FN(fa_finite)(x)), (lift))
#define n_x_minus_tanh(x, small, lift) fa_x_minus_tanh_dd((x), (small), (lift))
#define n_logistic_unit(y, lift) fa_logistic_dd((y), (lift))

#define FA_LARGEST 0x1.fffffffffffffp+1023
#define n_round_pair(p) fa_round_dd(p)
#define n_off_zero(y) (y)
#define FA_SQUARABLE 0x1p400 /* from here on x^2 is taken lifted */
#define FA_TAIL 1535.0
#define FA_TAIL_TANH 80.0
#define FA_TAIL_NORMAL 54.5
#define FA_TAIL_QUICK 901.8
#define FA_TAIL_CUBIC 27.5

#else
#error "FA_BITS must be 16, 32 or 64"
#endif

/* Selection by masks and clamps on the storage type: half the work of those on doubles.  Ordinary
 * conditionals cost more: gcc 12 threads them into separate paths.  A NaN passes a clamp. */
FA_INLINE real FN(fa_choose)(int cond, real a, real b) {
    FN(fa_pattern) u, v, mask = -(FN(fa_pattern))cond;
    memcpy(&u, &a, sizeof u);
    memcpy(&v, &b, sizeof v);
    u = (u & mask) | (v & ~mask);
    memcpy(&a, &u, sizeof a);
    return a;
}
FA_INLINE real FN(fa_negated)(real x) { /* of what fa_mul has given, too */
    FN(fa_pattern) u;
    memcpy(&u, &x, sizeof u);
    u ^= (FN(fa_pattern))1 << (8 * sizeof u - 1);
    memcpy(&x, &u, sizeof x);
    return x;
}
FA_INLINE real FN(fa_floor_at)(real x, real low) { return FN(fa_choose)(x < low, low, x); }
FA_INLINE real FN(fa_clamp)(real x, real limit) {
    x = FN(fa_choose)(x < -limit, -limit, x);
    return FN(fa_choose)(x > limit, limit, x);
}
/* The same for callers to whom a NaN comes another way (a factor, a branch, fa_nan_of): a NaN becomes a
 * limit.  In the order of their bit patterns floats take one integer operation a side, which is a sixth of
 * the latency of comparing and selecting, and the loops wait for latency. */
FA_INLINE real FN(fa_floor_number)(real x, real low) { /* low < 0 */
#if FA_BITS == 32
    uint32_t u, least;
    memcpy(&u, &x, sizeof u);
    memcpy(&least, &low, sizeof least);
    u = u < least ? u : least;
    memcpy(&x, &u, sizeof x);
    return x;
#else
    return FN(fa_floor_at)(x, low);
#endif
}
FA_INLINE real FN(fa_clamp_number)(real x, real limit) {
#if FA_BITS == 32
    int32_t u, most;
    memcpy(&u, &x, sizeof u);
    memcpy(&most, &limit, sizeof most);
    u = u < most ? u : most;
    memcpy(&x, &u, sizeof x);
    return FN(fa_floor_number)(x, -limit);
#else
    return FN(fa_clamp)(x, limit);
#endif
}
FA_INLINE real FN(fa_nan_of)(real x, real y) { /* x where it is NaN, else y */
    return FA_BITS == 32 ? FN(fa_choose)(x == x, y, x) : y;
}
FA_INLINE real FN(fa_minus_abs)(real x) { return (real)-__builtin_fabs((double)x); }

/* x without the infinities, and without large positive numbers beside whose square 1 is nothing: for
 * double-double, which makes NaN of an infinity. */
FA_INLINE real FN(fa_finite)(real x) {
#if FA_BITS == 64
    x = FN(fa_clamp)(x, FA_LARGEST);
#endif
    return x;
}
FA_INLINE real FN(fa_squarable)(real x) {
#if FA_BITS == 64
    x = FN(fa_choose)(x > FA_SQUARABLE, FA_SQUARABLE, FN(fa_finite)(x));
#endif
    return x;
}

/* The number of this dtype next to p, upwards and downwards; p itself where it is one.  So x < p is
 * x < fa_up(p), and x > p is x > fa_down(p), whatever the digits of p. */
FA_INLINE real FN(fa_up)(double p) {
    real r = (real)p;
#if FA_BITS == 32
    uint32_t u;
    memcpy(&u, &r, sizeof u);
    u += (double)r < p ? (r < 0 ? -1u : 1u) : 0u;
    memcpy(&r, &u, sizeof r);
#endif
    return r;
}
FA_INLINE real FN(fa_down)(double p) { return -FN(fa_up)(-p); }
