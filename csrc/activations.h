/* The activations: value and backward of each, in the order of activations.def, written once in the
 * vocabulary of working.h and compiled for each of its dtypes.  No include guard.
 *
 *   fa_<name>_value(x, parameters...)          f(x)
 *   fa_<name>_backward(dy, x, parameters...)   dy * f'(x)
 *   fa_<name>_param_gradient(dy, x, parameter) dy * df/dparameter, as double
 *
 * and, where that is faster, second bodies for float32, fa_<name>_fast_*, and FA_EXACT_<name> where there are no
 * products: see kernels.inc.
 *
 * All are branch-free and round once.  Bounds, unless stated otherwise: float32 0.51 ULP, forward and
 * backward (near a zero of f' at most 2^-33 |dy|); float64 1 ULP forward, 2 ULP backward (near a zero
 * of f' 2^-52 |dy|).  ULP: spacing at the exact result, at least the smallest subnormal.
 *
 * A NaN x or dy gives NaN.  Only where a branch makes the derivative exactly 0 (FN(fa_branch) below, and
 * prelu's weight) is the gradient 0 even for a NaN dy.
 * At x = +-inf value and derivative are the limits.
 */

/* g where `slopes`, 0 where the function is flat by a branch; a NaN x stays. */
FA_INLINE real FN(fa_branch)(real x, int slopes, real g) {
    g = FN(fa_choose)(slopes, g, 0);
    return FN(fa_choose)(x == x, g, x);
}

/* identity: x */
#define FA_EXACT_identity , ONE
FA_INLINE real FN(fa_identity_value)(real x) { return x; }
FA_INLINE real FN(fa_identity_backward)(real dy, real x) { return x == x ? dy : x; }

/* relu: max(x, 0); exact; relu(-0) = -0; derivative 0 at 0 */
#define FA_EXACT_relu , ONE
FA_INLINE real FN(fa_relu_value)(real x) { return x < 0 ? 0 : x; }
#define FA_SIDES_relu , 1
FA_INLINE real FN(fa_relu_sided)(real dy, int positive) { return FN(fa_choose)(positive, dy, 0); }
FA_INLINE real FN(fa_relu_backward)(real dy, real x) {
    return FN(fa_choose)(x == x, FN(fa_relu_sided)(dy, x > 0), x);
}

/* relu6: min(max(x, 0), 6); exact; relu6(-0) = -0; derivative 0 at 0 and 6 */
#define FA_EXACT_relu6 , ONE
FA_INLINE real FN(fa_relu6_value)(real x) {
    x = FN(fa_choose)(x < 0, 0, x);
    return FN(fa_choose)(x > 6, 6, x);
}
FA_INLINE real FN(fa_relu6_backward)(real dy, real x) {
    return FN(fa_branch)(x, (x > 0) & (x < 6), dy);
}

/* relu_squared: max(x, 0)^2; derivative 2 max(x, 0), where 2 goes to the smaller factor: no overflow on
 * the way */
FA_INLINE real FN(fa_relu_squared_value)(real x) {
    real c = FN(fa_choose)(x < 0, 0, x);
    return n_real_mul(c, c);
}
FA_INLINE real FN(fa_relu_squared_backward)(real dy, real x) {
    const real a = FN(fa_choose)(x > 1, dy + dy, dy), b = FN(fa_choose)(x > 1, x, x + x);
    return FN(fa_branch)(x, x > 0, n_real_mul(a, b));
}
#if FA_BITS == 32
#define FA_FAST_relu_squared_forward , ALIKE
#define FA_FAST_relu_squared_backward , ALIKE
FA_INLINE float fa_relu_squared_fast_value(float x) {
    double c = (double)fa_choose_f32(x < 0, 0, x);
    return (float)fa_mul(c, c); /* gcc makes a float32 product of a plain one */
}
FA_INLINE float fa_relu_squared_fast_backward(float dy, float x) {
    return fa_branch_f32(x, x > 0, (float)fa_mul((double)dy, 2.0 * (double)x));
}
#endif

/* leaky_relu: x if x > 0 else negative_slope * x; derivative negative_slope at 0 */
FA_INLINE real FN(fa_leaky_relu_value)(real x, double negative_slope) {
    real low = n_times(x, negative_slope);
    return x > 0 ? x : low;
}
#define FA_SIDES_leaky_relu , 1
FA_INLINE real FN(fa_leaky_relu_sided)(real dy, int positive, double negative_slope) {
    return FN(fa_choose)(positive, dy, n_times(dy, negative_slope));
}
FA_INLINE real FN(fa_leaky_relu_backward)(real dy, real x, double negative_slope) {
    return FN(fa_choose)(x == x, FN(fa_leaky_relu_sided)(dy, x > 0, negative_slope), x);
}
#define FA_ONCE_leaky_relu_forward , ALIKE
#define FA_ONCE_leaky_relu_backward , ALIKE
#if FA_BITS == 32
#define FA_FAST_leaky_relu_forward , BOUNDS
#define FA_FAST_leaky_relu_backward , BOUNDS
FA_INLINE float fa_leaky_relu_forward_limit(double slope) { return fa_product_limit_f(slope); }
FA_INLINE float fa_leaky_relu_backward_limit(double slope) { return fa_product_limit_f(slope); }
FA_INLINE fa_bounded_ff fa_leaky_relu_fast_value(float x, double negative_slope) {
    fa_bounded_ff low = fa_product_f(x, negative_slope);
    low.value = fa_choose_f32(x > 0, x, low.value);
    return low;
}
FA_INLINE fa_bounded_ff fa_leaky_relu_fast_backward(float dy, float x, double negative_slope) {
    fa_bounded_ff low = fa_product_f(dy, negative_slope);
    low.value = fa_choose_f32(x == x, fa_choose_f32(x > 0, dy, low.value), x);
    return low;
}
#endif

/* prelu: leaky_relu whose slope is learned; d/dweight = min(x, 0) */
FA_INLINE real FN(fa_prelu_value)(real x, double weight) {
    return FN(fa_leaky_relu_value)(x, weight);
}
FA_INLINE real FN(fa_prelu_backward)(real dy, real x, double weight) {
    return FN(fa_leaky_relu_backward)(dy, x, weight);
}
#define FA_ONCE_prelu_forward , ALIKE
#define FA_ONCE_prelu_backward , ALIKE
#if FA_BITS == 32
#define FA_FAST_prelu_forward , BOUNDS
#define FA_FAST_prelu_backward , BOUNDS
#define fa_prelu_forward_limit fa_leaky_relu_forward_limit
#define fa_prelu_backward_limit fa_leaky_relu_backward_limit
#define fa_prelu_fast_value fa_leaky_relu_fast_value
#define fa_prelu_fast_backward fa_leaky_relu_fast_backward
#endif
FA_INLINE double FN(fa_prelu_param_gradient)(real dy, real x, double weight) {
    (void)weight;
    double g = n_param_product(dy, x);
    double high = x == x ? 0.0 : (double)x;
    return x < 0 ? g : high;
}

/* rrelu: the evaluation form, leaky_relu with the mean of its random slopes; derivative that slope at 0 */
FA_INLINE real FN(fa_rrelu_value)(real x, double lower, double upper) {
    real low = n_times_pair(x, fa_scale_dd(fa_two_sum(lower, upper), 0.5));
    return x > 0 ? x : low;
}
#define FA_SIDES_rrelu , 1
FA_INLINE real FN(fa_rrelu_sided)(real dy, int positive, double lower, double upper) {
    return FN(fa_choose)(positive, dy, n_times_pair(dy, fa_scale_dd(fa_two_sum(lower, upper), 0.5)));
}
FA_INLINE real FN(fa_rrelu_backward)(real dy, real x, double lower, double upper) {
    return FN(fa_choose)(x == x, FN(fa_rrelu_sided)(dy, x > 0, lower, upper), x);
}
#define FA_ONCE_rrelu_forward , ALIKE
#define FA_ONCE_rrelu_backward , ALIKE

/* elu: x if x > 0 else alpha * expm1(x); derivative alpha at 0.  Any alpha with 2^-200 <= |alpha| <=
 * 2^115, or 0, keeps the bounds. */
FA_INLINE real FN(fa_elu_value)(real x, double alpha) {
    real low = n_finish(n_set(alpha), n_expm1(n_set(FN(fa_floor_number)(x, -FA_TAIL))), 1.0);
    return x <= 0 ? low : x;
}
FA_INLINE real FN(fa_elu_backward)(real dy, real x, double alpha) {
    double lift = n_lift(x < FA_LIFT_BELOW);
    real low = n_finish(n_set(dy), n_mul(n_set(alpha), n_exp(n_set(FN(fa_floor_at)(x, -FA_TAIL)), lift)), lift);
    return x > 0 ? dy : low;
}
#if FA_BITS == 32
#define FA_FAST_elu_forward , EXP
#define FA_FAST_elu_backward , POWER
FA_INLINE float fa_elu_forward_limit(double alpha) { return alpha == 1.0 ? FA_ANY : FA_NEVER; }
FA_INLINE float fa_elu_backward_limit(double alpha) { return alpha == 1.0 ? FA_EXP_FACTOR_LIMIT_F : FA_NEVER; }
FA_INLINE float fa_elu_forward_exponent(float x, double alpha) {
    return (void)alpha, fa_floor_number_f32(x, -30.0f);
}
FA_INLINE float fa_elu_fast_value(float x, fa_exp_parts e, int slight, double alpha) {
    (void)alpha;
    float low = fa_or_slight_f(fa_rounded_f(fa_expm1_f(e)), x, slight);
    return x < 0 ? low : x; /* keeps -0 */
}
FA_INLINE float fa_elu_backward_exponent(float x, double alpha) { return (void)alpha, x; }
FA_INLINE float fa_elu_fast_backward(float dy, float x, fa_power_parts e, int slight, double alpha) {
    (void)alpha;
    float low = fa_times_f(dy, fa_power_short_f(e), slight);
    return x > 0 ? dy : low;
}
#endif

/* selu: scale * elu(x, alpha), the published constants as pairs; derivative scale * alpha at 0 */
#ifndef FA_SELU_CONSTANTS
#define FA_SELU_CONSTANTS
#define FA_SELU_SCALE n_pair(0x1.0cfabd6a91132p+0, 0x1.6fc7d272f2695p-55)
#define FA_SELU_SCALE_LESS_1 n_pair(0x1.9f57ad5222646p-5, -0x1.0382d8d0d96adp-59)
#define FA_SELU_SCALE_ALPHA n_pair(0x1.c212cc640f031p+0, 0x1.05161b045a1fep-56)
#endif
FA_INLINE real FN(fa_selu_value)(real x) {
    /* x + x (scale - 1): of a subnormal result only the small product is rounded twice */
    real high = n_finish_add(x, n_set(x), FA_SELU_SCALE_LESS_1, 1.0);
    real low = n_finish(FA_SELU_SCALE_ALPHA, n_expm1(n_set(FN(fa_floor_number)(x, -FA_TAIL))), 1.0);
    return x <= 0 ? low : high;
}
FA_INLINE real FN(fa_selu_backward)(real dy, real x) {
    double lift = n_lift(x < FA_LIFT_BELOW);
    real high = n_finish(n_set(dy), FA_SELU_SCALE, 1.0);
    real low = n_finish(n_set(dy), n_mul(FA_SELU_SCALE_ALPHA, n_exp(n_set(FN(fa_floor_at)(x, -FA_TAIL)), lift)), lift);
    return x > 0 ? high : low;
}
#if FA_BITS == 32
#define FA_FAST_selu_backward , POWER
FA_INLINE float fa_selu_backward_limit(void) { return FA_EXP_FACTOR_LIMIT_F; }
FA_INLINE float fa_selu_backward_exponent(float x) { return x; }
FA_INLINE float fa_selu_fast_backward(float dy, float x, fa_power_parts e, int slight) {
    const fa_ff high = fa_split_short_f(FA_SELU_SCALE);
    const fa_ff low = fa_mul_ff(fa_power_short_f(e), fa_split_short_f(FA_SELU_SCALE_ALPHA));
    const fa_ff slope = {fa_pick_f(x > 0, high.hi, low.hi), fa_pick_f(x > 0, high.lo, low.lo)};
    return fa_times_f(dy, slope, slight);
}
#endif

/* celu: x if x > 0 else alpha expm1(x / alpha); derivative 1 at 0.  2^-115 <= alpha <= 2^115 keeps the
 * bounds; of a negative alpha x / alpha goes up to 700. */
FA_INLINE real FN(fa_celu_value)(real x, double alpha) {
    num y = n_clamp(n_div(n_set(FN(fa_clamp)(x, FA_SQUARABLE)), n_set(alpha)), FA_TAIL);
    real low = n_finish(n_set(alpha), n_expm1(y), 1.0);
    low = FN(fa_choose)(fa_abs(n_hi(y)) < 0x1p-60, x, low); /* where x / alpha may underflow */
    return x > 0 ? x : low;
}
FA_INLINE real FN(fa_celu_backward)(real dy, real x, double alpha) {
    double lift;
    num slope = n_exp_wide(n_div(n_set(FN(fa_clamp)(x, FA_SQUARABLE)), n_set(alpha)), &lift);
    real low = n_finish(n_set(dy), slope, lift);
    return x > 0 ? dy : low;
}
#if FA_BITS == 32
#define FA_FAST_celu_forward , EXP
#define FA_FAST_celu_backward , POWER
FA_INLINE float fa_celu_forward_limit(double alpha) { return fa_elu_forward_limit(alpha); }
FA_INLINE float fa_celu_backward_limit(double alpha) { return fa_elu_backward_limit(alpha); }
FA_INLINE float fa_celu_forward_exponent(float x, double alpha) {
    return fa_elu_forward_exponent(x, alpha);
}
FA_INLINE float fa_celu_backward_exponent(float x, double alpha) {
    return fa_elu_backward_exponent(x, alpha);
}
FA_INLINE float fa_celu_fast_value(float x, fa_exp_parts e, int slight, double alpha) {
    return fa_elu_fast_value(x, e, slight, alpha);
}
FA_INLINE float fa_celu_fast_backward(float dy, float x, fa_power_parts e, int slight, double alpha) {
    return fa_elu_fast_backward(dy, x, e, slight, alpha);
}
#endif

/* sigmoid: 1 / (1 + e^-x); derivative sigma(x) sigma(-x), even */
FA_INLINE real FN(fa_sigmoid_value)(real x) {
    double lift = n_lift(x < FA_LIFT_BELOW);
    n_logistic_parts v = n_logistic(n_set(FN(fa_clamp_number)(x, FA_TAIL)), lift);
    return FN(fa_nan_of)(x, n_finish(n_set(1.0), n_div(v.left, v.sum), lift));
}
FA_INLINE real FN(fa_sigmoid_backward)(real dy, real x) {
    real y = FN(fa_floor_at)(FN(fa_minus_abs)(x), -FA_TAIL);
    double lift = n_lift(y < FA_LIFT_BELOW);
    n_logistic_parts v = n_logistic(n_set(y), lift);
    num slope = n_div(n_mul(v.left, v.right), n_mul(v.sum, v.sum));
    return n_finish(n_set(dy), slope, lift);
}
#if FA_BITS == 32
#define FA_FAST_sigmoid_forward , PIECES
#define FA_FAST_sigmoid_backward , PIECES
FA_INLINE float fa_sigmoid_forward_limit(void) { return FA_ANY; }
FA_INLINE float fa_sigmoid_backward_limit(void) { return FA_ANY; }
FA_BY_FLOAT_PIECES(sigmoid_forward, logistic, ALONE, x, value)
FA_BY_FLOAT_PIECES(sigmoid_backward, logistic_density, ALONE, fa_minus_abs_f(x), slope)
#endif

/* hardsigmoid: x / 6 + 1/2 between -3 and 3, as (x + 3) / 6, which does not cancel; derivative 0 at
 * both ends */
#ifndef FA_SIXTH
#define FA_SIXTH n_pair(0x1.5555555555555p-3, 0x1.5555555555555p-57)
#endif
FA_INLINE real FN(fa_hardsigmoid_value)(real x) {
    real y = n_round(n_mul(n_add(n_set(x), n_set(3.0)), FA_SIXTH));
    y = FN(fa_choose)(x <= -3, 0, y);
    return FN(fa_choose)(x >= 3, 1, y);
}
FA_INLINE real FN(fa_hardsigmoid_backward)(real dy, real x) {
    return FN(fa_branch)(x, (x > -3) & (x < 3), n_finish(n_set(dy), FA_SIXTH, 1.0));
}
#define FA_ONCE_hardsigmoid_backward , ALIKE
#if FA_BITS == 32
#define FA_FAST_hardsigmoid_forward , PAIRS
#define FA_FAST_hardsigmoid_backward , PAIRS
FA_INLINE float fa_hardsigmoid_fast_value(float x, int slight) {
    fa_ff sum = fa_fast_two_sum_f(3, fa_clamp_f32(fa_argument_f(x, slight), 3)), sixth = fa_split_f(FA_SIXTH);
    return FA_FMAF(sum.hi, sixth.hi, FA_FMAF(sum.lo, sixth.hi, sum.hi * sixth.lo)); /* no product is subnormal */
}
FA_INLINE float fa_hardsigmoid_fast_backward(float dy, float x, int slight) {
    float g = fa_times_f(fa_argument_f(dy, slight == FA_SLIGHT), fa_split_short_f(FA_SIXTH), 0);
    g = fa_branch_f32(x, (x > -3) & (x < 3), g);
    return fa_pick_f(slight == FA_SLIGHT && fa_is_slight_f(dy), fa_hardsigmoid_backward_f32(dy, x), g);
}
#endif

/* hard_sigmoid: alpha x + beta between 0 and 1, as an exact pair: it cancels near its zero */
FA_INLINE fa_dd FN(fa_line)(real x, double slope, double offset) {
    return fa_add_dd(fa_clamp_dd(fa_two_prod((double)x, slope), 0x1p1000), fa_dd_set(offset, 0.0));
}
FA_INLINE real FN(fa_hard_sigmoid_value)(real x, double alpha, double beta) {
    fa_dd v = FN(fa_line)(x, alpha, beta);
    real y = FN(fa_choose)(v.hi <= 0.0, 0, n_round_pair(v));
    return FN(fa_choose)(v.hi >= 1.0, 1, y);
}
FA_INLINE real FN(fa_hard_sigmoid_backward)(real dy, real x, double alpha, double beta) {
    fa_dd v = FN(fa_line)(x, alpha, beta);
    int below_1 = (v.hi < 1.0) | ((v.hi == 1.0) & (v.lo < 0.0));
    return FN(fa_branch)(x, (v.hi > 0.0) & below_1, (real)fa_mul((double)dy, alpha));
}

/* logsigmoid: -log(1 + e^-x) = -softplus(-x); derivative sigma(-x) */
FA_INLINE real FN(fa_softplus_value)(real x, double beta);
FA_INLINE real FN(fa_softplus_backward)(real dy, real x, double beta);
FA_INLINE real FN(fa_logsigmoid_value)(real x) { return FN(fa_negated)(FN(fa_softplus_value)(-x, 1.0)); }
FA_INLINE real FN(fa_logsigmoid_backward)(real dy, real x) {
    return FN(fa_softplus_backward)(dy, -x, 1.0);
}
#if FA_BITS == 32
#define FA_FAST_logsigmoid_forward , PIECES
#define FA_FAST_logsigmoid_backward , PIECES
FA_INLINE float fa_logsigmoid_forward_limit(void) { return FA_ANY; }
FA_INLINE float fa_logsigmoid_backward_limit(void) { return FA_ANY; }
FA_BY_FLOAT_PIECES(logsigmoid_forward, log1pexp, ALONE, -x, minus_value)
FA_BY_FLOAT_PIECES(logsigmoid_backward, logistic, ALONE, -x, slope)
#endif

/* tanh; derivative 4 sigma(2x) sigma(-2x) = 1 / cosh^2, without 1 - tanh^2 */
FA_INLINE real FN(fa_tanh_value)(real x) {
    return FN(fa_nan_of)(x, n_round(n_tanh_half(FN(fa_clamp_number)(2 * x, FA_TAIL_TANH))));
}
FA_INLINE real FN(fa_tanh_backward)(real dy, real x) {
    real y = FN(fa_floor_at)(FN(fa_minus_abs)(2 * x), -FA_TAIL);
    double lift = n_lift(y < FA_LIFT_BELOW);
    n_logistic_parts v = n_logistic(n_set(y), lift);
    num slope = n_div(n_mul(n_mul(n_set(4.0), v.left), v.right), n_mul(v.sum, v.sum));
    return n_finish(n_set(dy), slope, lift);
}
#if FA_BITS == 32
#define FA_FAST_tanh_forward , PIECES
#define FA_FAST_tanh_backward , PIECES
FA_INLINE float fa_tanh_forward_limit(void) { return FA_ANY; }
FA_INLINE float fa_tanh_backward_limit(void) { return FA_ANY; }
/* From a table of |x|, and below 2^-6 x - x^3 / 3 + 2 x^5 / 15, error 2^-40 */
FA_INLINE fa_vec_f32 fa_tanh_value_v(fa_vec_f32 x, fa_piece f, int slight) {
    const fa_vec_f32 size = fa_abs_v(x), z = fa_argument_v(size, slight), s = z * z;
    const fa_vec_f32 series = FA_VEC_FMA_F32(s, fa_all_f(2.0f / 15), fa_all_f(-1.0f / 3));
    const fa_vec_f32 below = fa_or_slight_v(FA_VEC_FMA_F32(z, s * series, z), size, slight);
    return fa_odd_v(x, 0x1p-6f, below, fa_value_v(x, f, slight));
}
FA_BY_FLOAT_PIECES(tanh_forward, tanh, ALONE, fa_at_least_f(fa_abs_f(x), 0x1p-6f), tanh_value)
FA_BY_FLOAT_PIECES(tanh_backward, sech2, ALONE, fa_minus_abs_f(x), slope)
#endif

/* hardtanh: min(max(x, min_val), max_val); derivative 0 at both ends.  Comparisons with a float64 are
 * made in x's dtype: x < p where x < the next number of that dtype from p up. */
#define FA_EXACT_hardtanh , ONE
FA_INLINE real FN(fa_hardtanh_value)(real x, double min_val, double max_val) {
    real y = FN(fa_choose)(x < FN(fa_up)(min_val), (real)min_val, x);
    return FN(fa_choose)(y > FN(fa_down)(max_val), (real)max_val, y);
}
FA_INLINE real FN(fa_hardtanh_backward)(real dy, real x, double min_val, double max_val) {
    return FN(fa_branch)(x, (x > FN(fa_down)(min_val)) & (x < FN(fa_up)(max_val)), dy);
}

/* tanhshrink: x - tanh(x); below 1 as x^3 ((x cosh x - sinh x) / x^3) / cosh x, which does not cancel;
 * derivative tanh^2 */
FA_INLINE real FN(fa_tanhshrink_value)(real x) {
    double lift = n_lift(fa_abs((double)x) < 0x1p-300);
    int small = fa_abs((double)x) < 1.0;
    num c = n_select(small, n_set(x), n_set(1.0));
    real y = n_finish(c, n_x_minus_tanh(x, small, lift), lift);
    return FN(fa_choose)(fa_abs((double)x) > FA_LARGEST, x, y);
}
FA_INLINE real FN(fa_tanhshrink_backward)(real dy, real x) {
    double lift = n_lift(fa_abs((double)x) < 0x1p-300);
    num t = n_scale(n_tanh_half(FN(fa_clamp)(2 * x, FA_TAIL_TANH)), n_unlift(lift));
    return n_finish(n_set(dy), n_mul(t, t), lift);
}
#if FA_BITS == 32
#define FA_FAST_tanhshrink_forward , PIECES
FA_INLINE float fa_tanhshrink_forward_limit(void) { return FA_ANY; }
/* From a table of |x|; below 2^-50 it rounds to 0.  As a pair: beside a cube c1 t is up to 2^-6.4 of c0, and its rounding
 * would count */
FA_INLINE fa_vec_f32 fa_tanhshrink_value_v(fa_vec_f32 x, fa_piece f, int slight) {
    const fa_vec_ff p = fa_pair_v(f, 1.0f);
    return (void)slight, fa_odd_v(x, 0x1p-50f, fa_all_f(0.0f), p.hi + p.lo);
}
FA_BY_FLOAT_PIECES(tanhshrink_forward, x_less_tanh, ALONE,
                   fa_pick_f(fa_abs_f(x) < 0x1p-50f, FA_FIRST_x_less_tanh, fa_abs_f(x)), tanhshrink_value)
#endif

/* hardshrink: 0 if -lambd <= x <= lambd else x; exact; the derivative is 0 at both ends */
FA_INLINE int FN(fa_within)(real x, double lambd) {
    return (x >= FN(fa_up)(-lambd)) & (x <= FN(fa_down)(lambd));
}
#define FA_EXACT_hardshrink , ONE
FA_INLINE real FN(fa_hardshrink_value)(real x, double lambd) {
    return FN(fa_choose)(FN(fa_within)(x, lambd), 0, x);
}
FA_INLINE real FN(fa_hardshrink_backward)(real dy, real x, double lambd) {
    return FN(fa_branch)(x, !FN(fa_within)(x, lambd), dy);
}

/* softshrink: x + lambd below -lambd, x - lambd above lambd, else 0; the derivative is 0 at both ends */
#define FA_EXACT_shrink , ONE
FA_INLINE real FN(fa_shrink_value)(real x, double bias, double lambd);
FA_INLINE real FN(fa_shrink_backward)(real dy, real x, double bias, double lambd);
#define FA_EXACT_softshrink , ONE
FA_INLINE real FN(fa_softshrink_value)(real x, double lambd) { return FN(fa_shrink_value)(x, lambd, lambd); }
FA_INLINE real FN(fa_softshrink_backward)(real dy, real x, double lambd) {
    return FN(fa_shrink_backward)(dy, x, lambd, lambd);
}
#if FA_BITS == 32
#define FA_FAST_softshrink_forward , SUMS
FA_INLINE float fa_softshrink_forward_limit(double lambd) {
    fa_ff p = fa_split_f(lambd); /* two float32 must hold it: near it the difference has few digits left */
    int held = (double)p.hi + (double)p.lo == lambd;
    return lambd >= 0 && fa_fits_f(lambd) && held ? FA_ANY : FA_NEVER;
}
FA_INLINE float fa_softshrink_fast_value(float x, double lambd) {
    fa_ff p = fa_split_f(lambd);
    if (p.lo == 0) {
        float y = x > 0 ? x - p.hi : x + p.hi;
        return fa_choose_f32(fa_abs_f(x) <= p.hi, 0, y);
    }
    float size = fa_abs_f(x);
    fa_ff less = fa_fast_two_sum_f(size, -p.hi);
    float y = fa_choose_f32(size > FA_LARGEST, size, less.hi + (less.lo - p.lo));
    y = fa_sign_like_f(y, x);
    return fa_choose_f32(size <= fa_down_f32(lambd), 0, y);
}
#endif

/* shrink: x + bias below -lambd, x - bias above lambd, else 0 */
FA_INLINE real FN(fa_shrink_value)(real x, double bias, double lambd) {
    real low = (real)((double)x + bias), high = (real)((double)x - bias);
    real y = FN(fa_choose)(x > FN(fa_down)(lambd), high, 0);
    y = FN(fa_choose)(x < FN(fa_up)(-lambd), low, y);
    return FN(fa_choose)(x == x, y, x);
}
FA_INLINE real FN(fa_shrink_backward)(real dy, real x, double bias, double lambd) {
    (void)bias;
    return FN(fa_branch)(x, (x < FN(fa_up)(-lambd)) | (x > FN(fa_down)(lambd)), dy);
}

/* threshold: x if x > threshold else value; the derivative is 0 at the threshold */
#define FA_EXACT_threshold , ONE
FA_INLINE real FN(fa_threshold_value)(real x, double threshold, double value) {
    real y = FN(fa_choose)(x > FN(fa_down)(threshold), x, (real)value);
    return FN(fa_choose)(x == x, y, x);
}
FA_INLINE real FN(fa_threshold_backward)(real dy, real x, double threshold, double value) {
    (void)value;
    return FN(fa_branch)(x, x > FN(fa_down)(threshold), dy);
}

/* thresholded_relu: x if x > alpha else 0; exact */
#define FA_EXACT_thresholded_relu , ONE
FA_INLINE real FN(fa_thresholded_relu_value)(real x, double alpha) {
    return FN(fa_threshold_value)(x, alpha, 0.0);
}
FA_INLINE real FN(fa_thresholded_relu_backward)(real dy, real x, double alpha) {
    return FN(fa_threshold_backward)(dy, x, alpha, 0.0);
}

/* softsign: x / (1 + |x|); derivative 1 / (1 + |x|)^2 */
FA_INLINE real FN(fa_softsign_value)(real x) {
    num c = n_set(FN(fa_clamp)(x, 0x1p100f)); /* 1 from there on */
    real y = n_round(n_div(c, n_sub(n_set(1.0), n_minus_abs(n_hi(c)))));
    return FN(fa_choose)(x == 0, x, y);
}
FA_INLINE real FN(fa_softsign_backward)(real dy, real x) {
    real c = FN(fa_finite)(x);
    double lift = n_lift(fa_abs((double)c) > FA_SQUARABLE);
    num d = n_scale(n_sub(n_set(1.0), n_minus_abs(c)), lift);
    return n_finish(n_set(dy), n_div(n_set(1.0), n_mul(d, d)), lift);
}

/* softplus: log(1 + e^(beta x)) / beta = max(x, 0) + log1p(e^-|beta x|) / beta; derivative
 * sigma(beta x).  beta > 0 in any format range 2^-900 to 2^900; a negative beta gives the formula's
 * value, -softplus(-x, -beta); beta = 0 gives inf. */
FA_INLINE real FN(fa_softplus_value)(real x, double beta) {
    num y = n_product(x, beta);
    double lift = n_lift(n_hi(y) < FA_LIFT_BELOW);
    num inverse = n_div(n_set(1.0), n_set(beta));
    real bulk = FN(fa_choose)((x > 0) == (beta > 0), x, 0);
    return n_finish_add(bulk, inverse, n_log1pexp(y, lift), lift);
}
FA_INLINE real FN(fa_softplus_backward)(real dy, real x, double beta) {
    num y = n_clamp(n_product(x, beta), FA_TAIL);
    double lift = n_lift(n_hi(y) < FA_LIFT_BELOW);
    n_logistic_parts v = n_logistic(y, lift);
    return n_finish(n_set(dy), n_div(v.left, v.sum), lift);
}
#if FA_BITS == 32
#define FA_FAST_softplus_forward , PIECES
#define FA_FAST_softplus_backward , PIECES
FA_INLINE float fa_softplus_forward_limit(double beta) { return beta == 1.0 ? FA_ANY : FA_NEVER; }
FA_INLINE float fa_softplus_backward_limit(double beta) { return beta == 1.0 ? FA_ANY : FA_NEVER; }
FA_BY_FLOAT_PIECES(softplus_forward, log1pexp, ALONE, x, value)
FA_BY_FLOAT_PIECES(softplus_backward, logistic, ALONE, x, slope)
#endif

/* squareplus: (x + r) / 2, r = sqrt(x^2 + b), as max(x, 0) + b / (2 (r + |x|)), which does not cancel;
 * derivative (1 + x / r) / 2, i.e. q = b / (2 r (r + |x|)) for x <= 0 and 1 - q for x > 0.  b from 2^-200
 * to 2^200, or 0, keeps the bounds. */
FA_INLINE num FN(fa_squareplus_root)(real c, double b, double lift) { /* r, times lift */
    num s = n_scale(n_set(c), lift);
    return n_sqrt(n_add(n_mul(s, s), n_scale(n_scale(n_set(b), lift), lift)));
}
FA_INLINE num FN(fa_squareplus_sum)(real c, num root, double lift) { /* r + |x|, times lift */
    return n_sub(root, n_scale(n_minus_abs(c), lift));
}
FA_INLINE num FN(fa_not_zero)(num a) { return n_select(n_hi(a) == 0.0, n_set(1.0), a); }
FA_INLINE real FN(fa_squareplus_value)(real x, double b) {
    real c = FN(fa_squarable)(x), bulk = FN(fa_choose)(x < 0, 0, x);
    double lift = n_lift(c < -FA_SQUARABLE);
    num sum = FN(fa_not_zero)(FN(fa_squareplus_sum)(c, FN(fa_squareplus_root)(c, b, lift), lift));
    real y = n_finish_add(bulk, n_set(b), n_div(n_set(0.5), n_scale(sum, lift)), lift);
    return FN(fa_choose)(x < -FA_LARGEST, 0, y);
}
FA_INLINE real FN(fa_squareplus_backward)(real dy, real x, double b) {
    real c = FN(fa_squarable)(x);
    double lift = n_lift(c < -FA_SQUARABLE);
    num root = FN(fa_squareplus_root)(c, b, lift), sum = FN(fa_squareplus_sum)(c, root, lift);
    num q = n_div(n_set(b), FN(fa_not_zero)(n_mul(n_scale(root, 2.0), sum)));
    return n_finish(n_set(dy), n_select(x > 0, n_sub(n_set(1.0), q), q), lift);
}

#if FA_BITS == 32
#define FA_FAST_squareplus_forward , APART
#define FA_FAST_squareplus_backward , APART
/* r by a float32 root and what that lacks, (s - r^2) / (2 r), errs by less than 2^-46 of itself; x + r may cancel 12
 * bits of it within the limit, 4 x^2 / b = 2^12, which leaves 2^-34.  The slope is (x + r) / (2 r), its remainder found
 * after a quotient 2^-20 short. */
FA_INLINE float fa_squareplus_forward_limit(double b) {
    return (b >= 0x1p-40) & (b <= 0x1p40) ? (float)(32 * __builtin_sqrt(b)) : FA_NEVER;
}
FA_INLINE float fa_squareplus_backward_limit(double b) { return fa_squareplus_forward_limit(b); }
typedef struct {
    fa_ff root, sum; /* r and x + r > 0 */
    float inverse;   /* about 1 / r */
} fa_squareplus_parts;
FA_INLINE fa_squareplus_parts fa_squareplus_parts_f(float x, double b) {
    fa_squareplus_parts v;
    const float size = fa_from_bits_f((uint32_t)fa_larger_f(fa_order_f(0x1p-60f), x)); /* no subnormal squares */
    const fa_ff p = fa_split_f(b), square = {size * size, FA_FMAF(size, size, -(size * size))};
    fa_ff s = fa_two_sum_f(square.hi, p.hi);
    s.lo += square.lo + p.lo;
    v.root.hi = __builtin_sqrtf(s.hi), v.inverse = 1 / v.root.hi;
    v.root.lo = 0.5f * v.inverse * (FA_FMAF(-v.root.hi, v.root.hi, s.hi) + s.lo);
    fa_ff sum = fa_fast_two_sum_f(v.root.hi, x); /* sqrt(fl(x^2)) is |x| */
    v.sum = fa_fast_two_sum_f(sum.hi, sum.lo + v.root.lo);
    return v;
}
FA_INLINE float fa_squareplus_fast_value(float x, int slight, double b) {
    return (void)slight, 0.5f * fa_squareplus_parts_f(x, b).sum.hi;
}
FA_INLINE float fa_squareplus_fast_backward(float dy, float x, int slight, double b) {
    fa_squareplus_parts v = fa_squareplus_parts_f(x, b);
    float half = v.sum.hi * v.inverse * (0.5f - 0x1p-21f); /* short: what is left has its sign */
    float rest = FA_FMAF(-2 * half, v.root.lo, FA_FMAF(-2 * half, v.root.hi, v.sum.hi) + v.sum.lo);
    fa_ff slope = {half, 0.5f * rest * v.inverse};
    return fa_times_f(dy, slope, slight);
}
#endif

/* sparse_plus: (x + 1)^2 / 4 between -1 and 1, 0 to the left, x to the right; derivative sparse_sigmoid */
FA_INLINE real FN(fa_sparse_plus_value)(real x) {
    num s = n_add(n_set(FN(fa_clamp)(x, 1)), n_set(1.0));
    real y = n_finish(n_scale(s, 0.25), s, 1.0);
    return FN(fa_choose)(x >= 1, x, y);
}
FA_INLINE real FN(fa_sparse_plus_backward)(real dy, real x) {
    num slope = n_scale(n_add(n_set(FN(fa_clamp)(x, 1)), n_set(1.0)), 0.5);
    return FN(fa_branch)(x, x > -1, n_finish(n_set(dy), slope, 1.0));
}

/* sparse_sigmoid: (x + 1) / 2 between -1 and 1; the derivative is 0 at both ends */
FA_INLINE real FN(fa_sparse_sigmoid_value)(real x) {
    return n_round(n_scale(n_add(n_set(FN(fa_clamp)(x, 1)), n_set(1.0)), 0.5));
}
FA_INLINE real FN(fa_sparse_sigmoid_backward)(real dy, real x) {
    return FN(fa_branch)(x, (x > -1) & (x < 1), n_times(dy, 0.5));
}
#define FA_ONCE_sparse_sigmoid_backward , ALIKE
#if FA_BITS == 32
#define FA_FAST_sparse_sigmoid_backward , ALIKE /* gcc makes a float32 product of the above */
FA_INLINE float fa_sparse_sigmoid_fast_backward(float dy, float x) {
    return fa_branch_f32(x, (x > -1) & (x < 1), (float)fa_mul(0.5, (double)dy));
}
#endif

/* exponential: e^x; derivative e^x, which may overflow where dy e^x does not */
FA_INLINE real FN(fa_exponential_backward)(real dy, real x) {
    double lift;
    num e = n_exp_any(x, &lift);
    return FN(fa_nan_of)(x, n_finish(n_set(dy), e, lift));
}
FA_INLINE real FN(fa_exponential_value)(real x) { return FN(fa_exponential_backward)(1, x); }

#if FA_BITS == 32
#define FA_FAST_exponential_forward , POWER
#define FA_FAST_exponential_backward , POWER
FA_INLINE float fa_exponential_forward_limit(void) { return FA_EXP_LIMIT_F; }
FA_INLINE float fa_exponential_backward_limit(void) { return FA_EXP_FACTOR_LIMIT_F; }
FA_INLINE float fa_exponential_forward_exponent(float x) { return x; }
FA_INLINE float fa_exponential_backward_exponent(float x) { return x; }
FA_INLINE float fa_exponential_fast_value(float x, fa_power_parts e, int slight) {
    return (void)x, (void)slight, fa_power_f(e);
}
FA_INLINE float fa_exponential_fast_backward(float dy, float x, fa_power_parts e, int slight) {
    return (void)x, fa_times_f(dy, fa_power_short_f(e), slight);
}
#endif

/* gelu: x Phi(x); as max(x, 0) - |x| Phi(-|x|), which does not cancel.  Derivative Phi(x) + x phi(x),
 * i.e. g = Phi(-|x|) - |x| phi(x) for x <= 0 and 1 - g for x > 0. */
FA_INLINE real FN(fa_gelu_value)(real x) {
    real c = FN(fa_clamp_number)(x, FA_TAIL_NORMAL);
    double lift = n_lift(x < -34.7);
    real bulk = FN(fa_choose)(x < 0, (real)-0.0, x); /* keeps -0, and so does the far tail */
    return n_finish_add(bulk, n_minus_abs(c), n_normal_tail(n_off_zero(c), lift), lift);
}
FA_INLINE real FN(fa_gelu_backward)(real dy, real x) {
    real c = FN(fa_clamp_number)(x, FA_TAIL_NORMAL);
    double lift = n_lift(x < -34.7);
    num g = n_normal_slope(c, lift);
    return FN(fa_nan_of)(x, n_finish(n_set(dy), n_select(x > 0, n_sub(n_set(1.0), g), g), lift));
}
#if FA_BITS == 32
#define FA_FAST_gelu_forward , PIECES
#define FA_FAST_gelu_backward , PIECES
FA_INLINE float fa_gelu_forward_limit(void) { return FA_ANY; }
FA_INLINE float fa_gelu_backward_limit(void) { return FA_ANY; }
FA_BY_FLOAT_PIECES(gelu_forward, normal, WITH_LEFT, x, gate)
FA_BY_DOUBLE_PIECES(gelu_backward, normal_slope, WITH_LEFT, x)
#endif

/* gelu_tanh: x sigma(y), y = 2 sqrt(2/pi) (x + 0.044715 x^3) = x (a + b x^2), which is the published
 * 0.5 x (1 + tanh(y / 2)); derivative sigma + x y' sigma (1 - sigma) */
#ifndef FA_GELU_TANH_CONSTANTS
#define FA_GELU_TANH_CONSTANTS
#define FA_GELU_TANH_A n_pair(0x1.9884533d43651p+0, -0x1.cbc0d30ebfd15p-54)
#define FA_GELU_TANH_B n_pair(0x1.2444f2a4d8b4bp-4, -0x1.6c843a29d1c70p-61)
#endif
FA_INLINE real FN(fa_gelu_tanh_value)(real x) {
    real low = FN(fa_floor_at)(x, -FA_TAIL_CUBIC);
    num c = n_set(FN(fa_clamp_number)(x, FA_TAIL_CUBIC));
    num y = n_mul(c, n_add(FA_GELU_TANH_A, n_mul(FA_GELU_TANH_B, n_mul(c, c))));
    double lift = n_lift(n_hi(y) < FA_LIFT_BELOW);
    n_logistic_parts v = n_logistic(n_off_zero(y), lift);
    return n_finish(n_set(low), n_div(v.left, v.sum), lift);
}
FA_INLINE real FN(fa_gelu_tanh_backward)(real dy, real x) {
    num c = n_set(FN(fa_clamp_number)(x, FA_TAIL_CUBIC));
    num bxx = n_mul(FA_GELU_TANH_B, n_mul(c, c));
    num y = n_mul(c, n_add(FA_GELU_TANH_A, bxx));
    num x_dy = n_add(y, n_mul(n_mul(n_set(2.0), c), bxx)); /* x y' = y + 2 b x^3 */
    double lift = n_lift(n_hi(y) < FA_LIFT_BELOW);
    n_logistic_parts v = n_logistic_fine(y, lift);
    num top = n_mul(v.left, n_add(v.sum, n_mul(x_dy, v.right)));
    return FN(fa_nan_of)(x, n_finish(n_set(dy), n_div(top, n_mul(v.sum, v.sum)), lift));
}

#if FA_BITS == 32
#define FA_FAST_gelu_tanh_forward , PIECES
#define FA_FAST_gelu_tanh_backward , PIECES
FA_INLINE float fa_gelu_tanh_forward_limit(void) { return FA_ANY; }
FA_INLINE float fa_gelu_tanh_backward_limit(void) { return FA_ANY; }
FA_BY_FLOAT_PIECES(gelu_tanh_forward, logistic_cubic, ALONE, x, gate)
FA_BY_DOUBLE_PIECES(gelu_tanh_backward, logistic_cubic_slope, WITH_LEFT, x)
#endif

/* x sigma(y), |y| <= FA_TAIL; the derivative for y a multiple of x: sigma (1 + y (1 - sigma)), zero at
 * y = -1.278, hence the fine logistic */
FA_INLINE real FN(fa_gate_value)(real x, num y) {
    double lift = n_lift(n_hi(y) < FA_LIFT_BELOW);
    n_logistic_parts v = n_logistic(n_off_zero(y), lift);
    return n_finish(n_set(x), n_div(v.left, v.sum), lift);
}
FA_INLINE real FN(fa_gate_backward)(real dy, num y) {
    double lift = n_lift(n_hi(y) < FA_LIFT_BELOW);
    n_logistic_parts v = n_logistic_fine(y, lift);
    num top = n_mul(v.left, n_add(v.sum, n_mul(y, v.right)));
    return n_finish(n_set(dy), n_div(top, n_mul(v.sum, v.sum)), lift);
}

/* quick_gelu: x sigma(1.702 x) */
#ifndef FA_QUICK_GELU_BETA
#define FA_QUICK_GELU_BETA n_pair(0x1.b3b645a1cac08p+0, 0x1.89374bc6a7efap-55)
#endif
FA_INLINE real FN(fa_quick_gelu_value)(real x) {
    num y = n_mul(n_set(FN(fa_clamp_number)(x, FA_TAIL_QUICK)), FA_QUICK_GELU_BETA);
    return FN(fa_gate_value)(FN(fa_floor_at)(x, -FA_TAIL), y);
}
FA_INLINE real FN(fa_quick_gelu_backward)(real dy, real x) {
    num y = n_mul(n_set(FN(fa_clamp_number)(x, FA_TAIL_QUICK)), FA_QUICK_GELU_BETA);
    return FN(fa_nan_of)(x, FN(fa_gate_backward)(dy, y));
}

#if FA_BITS == 32
#define FA_FAST_quick_gelu_forward , PIECES
#define FA_FAST_quick_gelu_backward , PIECES
FA_INLINE float fa_quick_gelu_forward_limit(void) { return FA_ANY; }
FA_INLINE float fa_quick_gelu_backward_limit(void) { return FA_ANY; }
FA_BY_FLOAT_PIECES(quick_gelu_forward, logistic_1702, WITH_LEFT, x, gate)
FA_BY_DOUBLE_PIECES(quick_gelu_backward, logistic_1702_slope, ALONE, x)
#endif

/* silu: x sigma(x) */
FA_INLINE real FN(fa_silu_value)(real x) {
    real low = FN(fa_floor_at)(x, -FA_TAIL); /* not -inf * 0 */
    return FN(fa_gate_value)(low, n_set(FN(fa_clamp_number)(x, FA_TAIL)));
}
FA_INLINE real FN(fa_silu_backward)(real dy, real x) {
    return FN(fa_nan_of)(x, FN(fa_gate_backward)(dy, n_set(FN(fa_clamp_number)(x, FA_TAIL))));
}
#if FA_BITS == 32
#define FA_FAST_silu_forward , PIECES
#define FA_FAST_silu_backward , PIECES
FA_INLINE float fa_silu_forward_limit(void) { return FA_ANY; }
FA_INLINE float fa_silu_backward_limit(void) { return FA_ANY; }
FA_BY_FLOAT_PIECES(silu_forward, logistic, ALONE, x, gate)
FA_BY_DOUBLE_PIECES(silu_backward, logistic_slope, ALONE, x)
#endif

/* swish: x sigma(beta x), any beta.  At infinity x where sigma does not vanish. */
FA_INLINE real FN(fa_swish_value)(real x, double beta) {
    real c = FN(fa_clamp)(x, FA_LARGEST);
    num y = n_clamp(n_product(c, beta), FA_TAIL);
    return FN(fa_choose)((x != c) & (n_hi(y) >= 0.0), x, FN(fa_gate_value)(c, y));
}
FA_INLINE real FN(fa_swish_backward)(real dy, real x, double beta) {
    return FN(fa_gate_backward)(dy, n_clamp(n_product(FN(fa_clamp)(x, FA_LARGEST), beta), FA_TAIL));
}
#if FA_BITS == 32
#define FA_FAST_swish_forward , PIECES
#define FA_FAST_swish_backward , PIECES
FA_INLINE float fa_swish_forward_limit(double beta) { return beta == 1.0 ? FA_ANY : FA_NEVER; }
FA_INLINE float fa_swish_backward_limit(double beta) { return beta == 1.0 ? FA_ANY : FA_NEVER; }
FA_BY_FLOAT_PIECES(swish_forward, logistic, ALONE, x, gate)
FA_BY_DOUBLE_PIECES(swish_backward, logistic_slope, ALONE, x)
#endif

/* hardswish: x (x + 3) / 6 between -3 and 3, 0 to the left, x to the right; derivative (2 x + 3) / 6 */
FA_INLINE real FN(fa_hardswish_value)(real x) {
    num c = n_set(FN(fa_clamp_number)(x, 3));
    real y = n_finish(c, n_mul(n_add(n_off_zero(c), n_set(3.0)), FA_SIXTH), 1.0);
    y = FN(fa_choose)(x <= -3, 0, y);
    return FN(fa_choose)(x < 3, y, x);
}
FA_INLINE real FN(fa_hardswish_backward)(real dy, real x) {
    num slope = n_mul(n_add(n_set(2 * FN(fa_clamp)(x, 3)), n_set(3.0)), FA_SIXTH);
    real g = FN(fa_choose)(x >= 3, dy, n_finish(n_set(dy), slope, 1.0));
    return FN(fa_branch)(x, x > -3, g);
}
#if FA_BITS == 32
#define FA_FAST_hardswish_forward , PAIRS
#define FA_FAST_hardswish_backward , PAIRS
/* 1 / 6 as a pair whose products with 3 and 6 are 1/2 and 1 and a little more: x times that keeps the sign of a zero,
 * is x / 2 for a subnormal x, x for a large one, and infinite for an infinite one. */
FA_INLINE float fa_hardswish_fast_value(float x, int slight) {
    const fa_ff sixth = {0x1.555556p-3f, -0x1.555554p-28f};
    const float c = fa_at_most_f(fa_argument_f(x, slight), 3);
    float y = fa_gate_f(x, fa_mul_ff(fa_fast_two_sum_f(3, c), sixth), slight);
    return fa_choose_f32(x <= -3, 0, y);
}
FA_INLINE float fa_hardswish_fast_backward(float dy, float x, int slight) {
    const fa_ff sum = fa_fast_two_sum_f(3, 2 * fa_argument_f(x, slight)); /* no rounding error but lo */
    float g = fa_times_any_f(fa_argument_f(dy, slight == FA_SLIGHT), fa_mul_ff(sum, fa_split_f(FA_SIXTH)));
    g = fa_branch_f32(x, x > -3, fa_choose_f32(x >= 3, dy, g));
    return fa_pick_f(slight == FA_SLIGHT && fa_is_slight_f(dy), fa_hardswish_backward_f32(dy, x), g);
}
#endif

/* mish: x tanh(log(1 + e^x)).  With l / s and r / s for sigma(x) and sigma(-x) it is
 * x l (s + r) / (s^2 + r^2), and its derivative l ((s + r) (s^2 + r^2) + 4 x s r^2) / (s^2 + r^2)^2. */
FA_INLINE real FN(fa_mish_value)(real x) {
    real low = FN(fa_floor_at)(x, -FA_TAIL);
    double lift = n_lift(x < FA_LIFT_BELOW);
    n_logistic_parts v = n_logistic_unit(n_set(FN(fa_clamp_number)(x, FA_TAIL)), lift);
    num bottom = n_add(n_mul(v.sum, v.sum), n_mul(v.right, v.right));
    return n_finish(n_set(low), n_div(n_mul(v.left, n_add(v.sum, v.right)), bottom), lift);
}
FA_INLINE real FN(fa_mish_backward)(real dy, real x) {
    num c = n_set(FN(fa_clamp_number)(x, FA_TAIL));
    double lift = n_lift(x < FA_LIFT_BELOW);
    n_logistic_parts v = n_logistic_unit(c, lift);
    num rr = n_mul(v.right, v.right), bottom = n_add(n_mul(v.sum, v.sum), rr);
    num top = n_add(n_mul(n_add(v.sum, v.right), bottom), n_mul(n_mul(n_scale(c, 4.0), v.sum), rr));
    return FN(fa_nan_of)(x, n_finish(n_set(dy), n_div(n_mul(v.left, top), n_mul(bottom, bottom)), lift));
}

#if FA_BITS == 32
#define FA_FAST_mish_forward , PIECES
#define FA_FAST_mish_backward , PIECES
FA_INLINE float fa_mish_forward_limit(void) { return FA_ANY; }
FA_INLINE float fa_mish_backward_limit(void) { return FA_ANY; }
FA_BY_DOUBLE_PIECES(mish_forward, tanh_log1pexp, ALONE, x)
FA_BY_DOUBLE_PIECES(mish_backward, tanh_log1pexp_slope, ALONE, x)
#endif

/* hard_mish: x (x + 2) / 2 between -2 and 0, 0 to the left, x to the right; derivative x + 1 */
FA_INLINE real FN(fa_hard_mish_value)(real x) {
    num c = n_set(FN(fa_clamp)(x, 2));
    real y = n_finish(c, n_scale(n_add(c, n_set(2.0)), 0.5), 1.0);
    y = FN(fa_choose)(x <= -2, 0, y);
    return FN(fa_choose)(x >= 0, x, y);
}
FA_INLINE real FN(fa_hard_mish_backward)(real dy, real x) {
    num slope = n_add(n_set(FN(fa_clamp)(x, 2)), n_set(1.0));
    real g = FN(fa_choose)(x >= 0, dy, n_finish(n_set(dy), slope, 1.0));
    return FN(fa_branch)(x, x > -2, g);
}

/* ---- gated: x times an activation of the gate ---------------------------------------------------
 *
 *   fa_<name>_value(x, gate)                  x a(gate); dL/dx is the same of dy and the gate
 *   fa_<name>_gate_gradient(dy, x, gate)      dy x a'(gate)
 *
 * Bounds as above; where dy x overflows, so does the gradient of the gate. */

/* x g s, for s = n_div(...), where neither x g overflows nor g s underflows on the way */
FA_INLINE real FN(fa_gated_product)(real x, real g, num share, double lift) {
    int small = fa_abs((double)g) < 1.0;
    num c = n_select(small, n_product(x, g), n_set(x));
    real y = n_finish(c, n_select(small, share, n_mul(n_set(g), share)), lift);
    return FN(fa_choose)(g > FA_LARGEST, (real)((double)x * (double)g), y);
}

/* glu: x sigma(gate) */
FA_INLINE real FN(fa_glu_value)(real x, real gate) {
    double lift = n_lift(gate < FA_LIFT_BELOW);
    n_logistic_parts v = n_logistic(n_off_zero(n_set(FN(fa_clamp)(gate, FA_TAIL))), lift);
    return n_finish(n_set(x), n_div(v.left, v.sum), lift);
}
FA_INLINE real FN(fa_glu_gate_gradient)(real dy, real x, real gate) {
    real y = FN(fa_floor_at)(FN(fa_minus_abs)(gate), -FA_TAIL);
    double lift = n_lift(y < FA_LIFT_BELOW);
    n_logistic_parts v = n_logistic(n_set(y), lift);
    return n_finish(n_product(dy, x), n_div(n_mul(v.left, v.right), n_mul(v.sum, v.sum)), lift);
}

/* swiglu: x gate sigma(gate) */
FA_INLINE real FN(fa_swiglu_value)(real x, real gate) {
    double lift = n_lift(gate < FA_LIFT_BELOW);
    n_logistic_parts v = n_logistic_fine(n_off_zero(n_set(FN(fa_clamp)(gate, FA_TAIL))), lift);
    return FN(fa_gated_product)(x, FN(fa_floor_at)(gate, -FA_TAIL), n_div(v.left, v.sum), lift);
}
FA_INLINE real FN(fa_swiglu_gate_gradient)(real dy, real x, real gate) {
    num y = n_set(FN(fa_clamp)(gate, FA_TAIL));
    double lift = n_lift(gate < FA_LIFT_BELOW);
    n_logistic_parts v = n_logistic_fine(y, lift);
    num top = n_mul(v.left, n_add(v.sum, n_mul(y, v.right)));
    return n_finish(n_product(dy, x), n_div(top, n_mul(v.sum, v.sum)), lift);
}

/* geglu: x gate Phi(gate) */
FA_INLINE real FN(fa_geglu_value)(real x, real gate) {
    real c = FN(fa_clamp)(gate, FA_TAIL_NORMAL);
    double lift = n_lift(gate < -34.7);
    num tail = n_normal_tail(n_off_zero(c), lift);
    num share = n_select(gate > 0, n_sub(n_set(1.0), tail), tail);
    return FN(fa_gated_product)(x, FN(fa_floor_at)(gate, -FA_TAIL_NORMAL), share, lift);
}
FA_INLINE real FN(fa_geglu_gate_gradient)(real dy, real x, real gate) {
    double lift = n_lift(gate < -34.7);
    num g = n_normal_slope(FN(fa_clamp)(gate, FA_TAIL_NORMAL), lift);
    return n_finish(n_product(dy, x), n_select(gate > 0, n_sub(n_set(1.0), g), g), lift);
}

/* reglu: x max(gate, 0), 0 by a branch for a gate up to 0 */
FA_INLINE real FN(fa_reglu_value)(real x, real gate) {
    return FN(fa_branch)(gate, gate > 0, (real)((double)x * (double)gate));
}
FA_INLINE real FN(fa_reglu_gate_gradient)(real dy, real x, real gate) {
    return FN(fa_branch)(gate, gate > 0, (real)((double)dy * (double)x));
}
