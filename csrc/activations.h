/* The activations: value and backward of each, in the order of activations.def, written once in the
 * vocabulary of working.h and compiled for float32 and float64.  No include guard.
 *
 *   fa_<name>_value(x, parameters...)          f(x)
 *   fa_<name>_backward(dy, x, parameters...)   dy * f'(x)
 *   fa_<name>_param_gradient(dy, x, parameter) dy * df/dparameter, as double
 *
 * All are branch-free and round once.  Bounds, unless stated otherwise: float32 0.51 ULP, forward and
 * backward (near a zero of f' at most 2^-33 |dy|); float64 1 ULP forward, 2 ULP backward (near a zero
 * of f' 2^-52 |dy|).  ULP: spacing at the exact result, at least the smallest subnormal.
 *
 * A NaN x or dy gives NaN.  Only where a branch makes the derivative exactly 0 (relu, and prelu's
 * weight) is the gradient 0 even for a NaN dy.
 * At x = +-inf value and derivative are the limits.
 */

/* identity: x */
FA_INLINE real FN(fa_identity_value)(real x) { return x; }
FA_INLINE real FN(fa_identity_backward)(real dy, real x) { return x == x ? dy : x; }

/* relu: max(x, 0); exact; relu(-0) = -0; derivative 0 at 0 */
FA_INLINE real FN(fa_relu_value)(real x) { return x < 0 ? 0 : x; }
FA_INLINE real FN(fa_relu_backward)(real dy, real x) {
    real g = x > 0 ? dy : 0;
    return x == x ? g : x;
}

/* leaky_relu: x if x > 0 else negative_slope * x; derivative negative_slope at 0 */
FA_INLINE real FN(fa_leaky_relu_value)(real x, double negative_slope) {
    real low = (real)((double)x * negative_slope);
    return x > 0 ? x : low;
}
FA_INLINE real FN(fa_leaky_relu_backward)(real dy, real x, double negative_slope) {
    real low = (real)((double)dy * negative_slope);
    real g = x > 0 ? dy : low;
    return x == x ? g : x;
}

/* prelu: leaky_relu whose slope is learned; d/dweight = min(x, 0) */
FA_INLINE real FN(fa_prelu_value)(real x, double weight) {
    return FN(fa_leaky_relu_value)(x, weight);
}
FA_INLINE real FN(fa_prelu_backward)(real dy, real x, double weight) {
    return FN(fa_leaky_relu_backward)(dy, x, weight);
}
FA_INLINE double FN(fa_prelu_param_gradient)(real dy, real x, double weight) {
    (void)weight;
    double g = (double)dy * (double)x;
    double high = x == x ? 0.0 : (double)x;
    return x < 0 ? g : high;
}

/* elu: x if x > 0 else alpha * expm1(x); derivative alpha at 0.  Any alpha with 2^-200 <= |alpha| <=
 * 2^115, or 0, keeps the bounds. */
FA_INLINE real FN(fa_elu_value)(real x, double alpha) {
    real low = n_finish(n_set(alpha), n_expm1(n_set(FN(fa_floor_at)(x, -FA_TAIL))), 1.0);
    return x > 0 ? x : low;
}
FA_INLINE real FN(fa_elu_backward)(real dy, real x, double alpha) {
    double lift = n_lift(x < FA_LIFT_BELOW);
    real low = n_finish(n_set(dy), n_mul(n_set(alpha), n_exp(n_set(FN(fa_floor_at)(x, -FA_TAIL)), lift)), lift);
    return x > 0 ? dy : low;
}

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
    real low = n_finish(FA_SELU_SCALE_ALPHA, n_expm1(n_set(FN(fa_floor_at)(x, -FA_TAIL))), 1.0);
    return x > 0 ? high : low;
}
FA_INLINE real FN(fa_selu_backward)(real dy, real x) {
    double lift = n_lift(x < FA_LIFT_BELOW);
    real high = n_finish(n_set(dy), FA_SELU_SCALE, 1.0);
    real low = n_finish(n_set(dy), n_mul(FA_SELU_SCALE_ALPHA, n_exp(n_set(FN(fa_floor_at)(x, -FA_TAIL)), lift)), lift);
    return x > 0 ? high : low;
}

/* sigmoid: 1 / (1 + e^-x); derivative sigma(x) sigma(-x), even */
FA_INLINE real FN(fa_sigmoid_value)(real x) {
    double lift = n_lift(x < FA_LIFT_BELOW);
    n_logistic_parts v = n_logistic(n_set(FN(fa_clamp)(x, FA_TAIL)), lift);
    return n_finish(n_set(1.0), n_div(v.left, v.sum), lift);
}
FA_INLINE real FN(fa_sigmoid_backward)(real dy, real x) {
    real y = FN(fa_floor_at)(FN(fa_minus_abs)(x), -FA_TAIL);
    double lift = n_lift(y < FA_LIFT_BELOW);
    n_logistic_parts v = n_logistic(n_set(y), lift);
    num slope = n_div(n_mul(v.left, v.right), n_mul(v.sum, v.sum));
    return n_finish(n_set(dy), slope, lift);
}

/* tanh; derivative 4 sigma(2x) sigma(-2x) = 1 / cosh^2, without 1 - tanh^2 */
FA_INLINE real FN(fa_tanh_value)(real x) {
    return n_round(n_tanh_half(FN(fa_clamp)(2 * x, FA_TAIL_TANH)));
}
FA_INLINE real FN(fa_tanh_backward)(real dy, real x) {
    real y = FN(fa_floor_at)(FN(fa_minus_abs)(2 * x), -FA_TAIL);
    double lift = n_lift(y < FA_LIFT_BELOW);
    n_logistic_parts v = n_logistic(n_set(y), lift);
    num slope = n_div(n_mul(n_mul(n_set(4.0), v.left), v.right), n_mul(v.sum, v.sum));
    return n_finish(n_set(dy), slope, lift);
}

/* gelu: x Phi(x); as max(x, 0) - |x| Phi(-|x|), which does not cancel.  Derivative Phi(x) + x phi(x),
 * i.e. g = Phi(-|x|) - |x| phi(x) for x <= 0 and 1 - g for x > 0. */
FA_INLINE real FN(fa_gelu_value)(real x) {
    real c = FN(fa_clamp)(x, FA_TAIL_NORMAL);
    double lift = n_lift(x < -34.7);
    real bulk = FN(fa_choose)(x < 0, 0, x); /* keeps -0 */
    return n_finish_add(bulk, n_minus_abs(c), n_normal_tail(c, lift), lift);
}
FA_INLINE real FN(fa_gelu_backward)(real dy, real x) {
    real c = FN(fa_clamp)(x, FA_TAIL_NORMAL);
    double lift = n_lift(x < -34.7);
    num g = n_normal_slope(c, lift);
    return n_finish(n_set(dy), n_select(x > 0, n_sub(n_set(1.0), g), g), lift);
}

/* gelu_tanh: x sigma(y), y = 2 sqrt(2/pi) (x + 0.044715 x^3) = x (a + b x^2), which is the published
 * 0.5 x (1 + tanh(y / 2)); derivative sigma + x y' sigma (1 - sigma) */
#ifndef FA_GELU_TANH_CONSTANTS
#define FA_GELU_TANH_CONSTANTS
#define FA_GELU_TANH_A n_pair(0x1.9884533d43651p+0, -0x1.cbc0d30ebfd15p-54)
#define FA_GELU_TANH_B n_pair(0x1.2444f2a4d8b4bp-4, -0x1.6c843a29d1c70p-61)
#endif
FA_INLINE real FN(fa_gelu_tanh_value)(real x) {
    real low = FN(fa_floor_at)(x, -FA_TAIL_CUBIC);
    num c = n_set(FN(fa_clamp)(x, FA_TAIL_CUBIC));
    num y = n_mul(c, n_add(FA_GELU_TANH_A, n_mul(FA_GELU_TANH_B, n_mul(c, c))));
    double lift = n_lift(n_hi(y) < FA_LIFT_BELOW);
    n_logistic_parts v = n_logistic(y, lift);
    return n_finish(n_set(low), n_div(v.left, v.sum), lift);
}
FA_INLINE real FN(fa_gelu_tanh_backward)(real dy, real x) {
    num c = n_set(FN(fa_clamp)(x, FA_TAIL_CUBIC));
    num bxx = n_mul(FA_GELU_TANH_B, n_mul(c, c));
    num y = n_mul(c, n_add(FA_GELU_TANH_A, bxx));
    num x_dy = n_add(y, n_mul(n_mul(n_set(2.0), c), bxx)); /* x y' = y + 2 b x^3 */
    double lift = n_lift(n_hi(y) < FA_LIFT_BELOW);
    n_logistic_parts v = n_logistic_fine(y, lift);
    num top = n_mul(v.left, n_add(v.sum, n_mul(x_dy, v.right)));
    return n_finish(n_set(dy), n_div(top, n_mul(v.sum, v.sum)), lift);
}

/* silu: x sigma(x); derivative sigma (1 + x (1 - sigma)), zero at -1.278, hence the fine logistic */
FA_INLINE real FN(fa_silu_value)(real x) {
    real low = FN(fa_floor_at)(x, -FA_TAIL); /* not -inf * 0 */
    double lift = n_lift(x < FA_LIFT_BELOW);
    n_logistic_parts v = n_logistic(n_set(FN(fa_clamp)(x, FA_TAIL)), lift);
    return n_finish(n_set(low), n_div(v.left, v.sum), lift);
}
FA_INLINE real FN(fa_silu_backward)(real dy, real x) {
    num c = n_set(FN(fa_clamp)(x, FA_TAIL));
    double lift = n_lift(x < FA_LIFT_BELOW);
    n_logistic_parts v = n_logistic_fine(c, lift);
    num top = n_mul(v.left, n_add(v.sum, n_mul(c, v.right)));
    return n_finish(n_set(dy), n_div(top, n_mul(v.sum, v.sum)), lift);
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
