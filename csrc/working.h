/* The arithmetic vocabulary of one dtype: activations.h and batchnorm.inc are written in it once and
 * compiled for FA_BITS = 32 and 64.  No include guard: included once per FA_BITS, it redefines all.
 *
 *   real     storage type            float     double
 *   num      working type            double    fa_dd (a pair of doubles)
 *   FN(f)    name of this dtype's f  f_f32     f_f64
 *
 * Grades and error bounds of the functions: vmath.h.  `lift` (see there) scales deep left tails of
 * the float64 grade; in the float32 grade double has range enough, lift is 1 and costs nothing.
 */
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
#undef FA_TAIL
#undef FA_TAIL_TANH
#undef FA_TAIL_NORMAL
#undef FA_TAIL_CUBIC

#if FA_BITS == 32

#define real float
#define num double
#define FN(name) name##_f32
typedef uint32_t fa_pattern_f32;

#define n_set(x) ((double)(x))
#define n_pair(hi, lo) ((double)(hi) + (double)(lo)) /* of constants: folded by the compiler */
#define n_hi(a) (a)
#define n_lo(a) (0.0)
#define n_add(a, b) ((a) + (b))
#define n_sub(a, b) ((a) - (b))
#define n_mul(a, b) ((a) * (b))
#define n_product(x, y) ((double)(x) * (double)(y)) /* of plain numbers; may overflow */
#define n_div(a, b) ((a) / (b))
#define n_sqrt(a) __builtin_sqrt(a)
#define n_minus_abs(x) (-fa_abs((double)(x))) /* of a plain number */
#define n_select(cond, a, b) ((cond) ? (a) : (b))
#define n_round(a) ((float)(a))
#define n_clamp(a, limit) fa_clamp_d((a), (limit))

#define n_lift(cond) 1.0
#define n_finish(c, m, lift) ((void)(lift), (float)((c) * (m)))
#define n_finish_add(b, c, m, lift) ((void)(lift), (float)((b) + (c) * (m)))
#define n_exp(y, lift) ((void)(lift), fa_exp_d(y))
#define n_expm1(y) fa_expm1_d(y)
#define n_tanh_half(y) fa_tanh_half_d(y)
#define n_log1pexp(y, lift) ((void)(lift), fa_log1pexp_d(y))
#define n_logistic(y, lift) ((void)(lift), fa_logistic_d(y))
#define n_logistic_fine(y, lift) ((void)(lift), fa_logistic_fine_d(y))
#define n_logistic_parts fa_logistic_parts_d
#define n_normal_tail(x, lift) ((void)(lift), fa_normal_tail_d(x))
#define n_normal_slope(x, lift) ((void)(lift), fa_normal_slope_d(x))

/* Where dy times a tail is zero whatever dy, in the exponent and in x of e^(-x^2/2) and of the cubic
 * of gelu_tanh. */
#define FA_TAIL 320.0f
#define FA_TAIL_TANH 40.0f
#define FA_TAIL_NORMAL 20.0f
#define FA_TAIL_CUBIC 16.0f

#elif FA_BITS == 64

#define real double
#define num fa_dd
#define FN(name) name##_f64
typedef uint64_t fa_pattern_f64;

#define n_set(x) fa_dd_set((x), 0.0)
#define n_pair(hi, lo) fa_dd_set((hi), (lo))
#define n_hi(a) ((a).hi)
#define n_lo(a) ((a).lo)
#define n_add(a, b) fa_add_dd((a), (b))
#define n_sub(a, b) fa_sub_dd((a), (b))
#define n_mul(a, b) fa_mul_dd((a), (b))
#define n_product(x, y) fa_two_prod((x), (y))
#define n_div(a, b) fa_div_dd((a), (b))
#define n_sqrt(a) fa_sqrt_dd(a)
#define n_minus_abs(x) fa_minus_abs_dd(x)
#define n_select(cond, a, b) fa_select_dd((cond), (a), (b))
#define n_round(a) fa_round_dd(a)
#define n_clamp(a, limit) fa_clamp_dd((a), (limit))

#define n_lift(cond) ((cond) ? FA_LIFT : 1.0)
#define n_finish(c, m, lift) fa_finish_dd((c), (m), (lift))
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

#define FA_TAIL 1535.0
#define FA_TAIL_TANH 80.0
#define FA_TAIL_NORMAL 54.5
#define FA_TAIL_CUBIC 27.5

#else
#error "FA_BITS must be 32 or 64"
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
FA_INLINE real FN(fa_floor_at)(real x, real low) { return FN(fa_choose)(x < low, low, x); }
FA_INLINE real FN(fa_clamp)(real x, real limit) {
    x = FN(fa_choose)(x < -limit, -limit, x);
    return FN(fa_choose)(x > limit, limit, x);
}
FA_INLINE real FN(fa_minus_abs)(real x) { return (real)-__builtin_fabs((double)x); }
