/* The definitions of every activation and its derivative, for the precision that WIDE, F and C name.
 *
 * oracle.c includes this once a precision, as the double and long double that screen and the 113 bits
 * that certify.  Nothing is taken from csrc/: forms are those that keep their digits, from the papers
 * that the table cites.  x is finite; p are the parameters.  At a kink f' is the one from the left, as in
 * torch.
 */
#define LOGISTIC F(logistic)
static WIDE F(logistic)(WIDE y) {
    WIDE e = M(exp)(-M(fabs)(y));
    return (y < 0 ? e : 1) / (1 + e);
}
static WIDE F(bell)(WIDE y) { /* the derivative of the logistic function */
    WIDE e = M(exp)(-M(fabs)(y));
    return e / ((1 + e) * (1 + e));
}
static WIDE F(cdf)(WIDE x) { return M(erfc)(-x * C(0.70710678118654752440084436210484903928)) / 2; }
static WIDE F(pdf)(WIDE x) { return M(exp)(-x * x / 2) * C(0.39894228040143267793994605993438186848); }
static WIDE F(clip)(WIDE x, WIDE low, WIDE high) {
    WIDE above = x > low ? x : low;
    return above < high ? above : high;
}
static WIDE F(log1pexp)(WIDE y) { return (y > 0 ? y : 0) + M(log1p)(M(exp)(-M(fabs)(y))); }

#define VALUE(name) static WIDE F(name##_value)(WIDE x, const WIDE *p)
#define SLOPE(name) static WIDE F(name##_slope)(WIDE x, const WIDE *p)

VALUE(identity) { return x; }
SLOPE(identity) { return 1; }
VALUE(relu) { return x > 0 ? x : 0; }
SLOPE(relu) { return x > 0; }
VALUE(relu6) { return F(clip)(x, 0, 6); }
SLOPE(relu6) { return x > 0 && x < 6; }
VALUE(relu_squared) { return x > 0 ? x * x : 0; }
SLOPE(relu_squared) { return x > 0 ? 2 * x : 0; }
VALUE(leaky_relu) { return x > 0 ? x : p[0] * x; }
SLOPE(leaky_relu) { return x > 0 ? 1 : p[0]; }
VALUE(prelu) { return x > 0 ? x : p[0] * x; }
SLOPE(prelu) { return x > 0 ? 1 : p[0]; }
VALUE(rrelu) { return x > 0 ? x : (p[0] + p[1]) / 2 * x; }
SLOPE(rrelu) { return x > 0 ? 1 : (p[0] + p[1]) / 2; }
VALUE(elu) { return x > 0 ? x : p[0] * M(expm1)(x); }
SLOPE(elu) { return x > 0 ? 1 : p[0] * M(exp)(x); }
#define SELU_SCALE C(1.0507009873554804934193349852946)
#define SELU_ALPHA C(1.6732632423543772848170429916717)
VALUE(selu) { return SELU_SCALE * (x > 0 ? x : SELU_ALPHA * M(expm1)(x)); }
SLOPE(selu) { return SELU_SCALE * (x > 0 ? 1 : SELU_ALPHA * M(exp)(x)); }
VALUE(celu) { return x > 0 ? x : p[0] * M(expm1)(x / p[0]); }
SLOPE(celu) { return x > 0 ? 1 : M(exp)(x / p[0]); }
VALUE(sigmoid) { return LOGISTIC(x); }
SLOPE(sigmoid) { return F(bell)(x); }
VALUE(hardsigmoid) { return F(clip)(x + 3, 0, 6) / 6; }
SLOPE(hardsigmoid) { return (x > -3 && x < 3) / (WIDE)6; }
VALUE(hard_sigmoid) { return F(clip)(p[0] * x + p[1], 0, 1); }
SLOPE(hard_sigmoid) { return p[0] * x + p[1] > 0 && p[0] * x + p[1] < 1 ? p[0] : 0; }
VALUE(logsigmoid) { return -F(log1pexp)(-x); }
SLOPE(logsigmoid) { return LOGISTIC(-x); }
VALUE(tanh) { return M(tanh)(x); }
SLOPE(tanh) { return 4 * F(bell)(2 * x); }
VALUE(hardtanh) { return F(clip)(x, p[0], p[1]); }
SLOPE(hardtanh) { return x > p[0] && x < p[1]; }
VALUE(tanhshrink) { /* near 0 by Lambert's continued fraction, tanh x = x / (1 + x^2 / (3 + ...)) */
    if (M(fabs)(x) > C(0.5)) return x - M(tanh)(x);
    WIDE tail = 0;
    for (int odd = sizeof(WIDE) == 8 ? 15 : 27; odd >= 3; odd -= 2) tail = x * x / (odd + tail);
    return x * (tail / (1 + tail));
}
SLOPE(tanhshrink) { return M(tanh)(x) * M(tanh)(x); }
VALUE(hardshrink) { return x < -p[0] || x > p[0] ? x : 0; }
SLOPE(hardshrink) { return x < -p[0] || x > p[0]; }
VALUE(softshrink) { return x < -p[0] ? x + p[0] : x > p[0] ? x - p[0] : 0; }
SLOPE(softshrink) { return x < -p[0] || x > p[0]; }
VALUE(shrink) { return x < -p[1] ? x + p[0] : x > p[1] ? x - p[0] : 0; }
SLOPE(shrink) { return x < -p[1] || x > p[1]; }
VALUE(threshold) { return x > p[0] ? x : p[1]; }
SLOPE(threshold) { return x > p[0]; }
VALUE(thresholded_relu) { return x > p[0] ? x : 0; }
SLOPE(thresholded_relu) { return x > p[0]; }
VALUE(softsign) { return x / (1 + M(fabs)(x)); }
SLOPE(softsign) { return 1 / (1 + M(fabs)(x)) / (1 + M(fabs)(x)); }
VALUE(softplus) { return F(log1pexp)(p[0] * x) / p[0]; }
SLOPE(softplus) { return LOGISTIC(p[0] * x); }
VALUE(squareplus) { /* (x + r) / 2 = b / (2 (r - x)), r = sqrt(x^2 + b) */
    WIDE r = M(sqrt)(x * x + p[0]);
    return x < 0 ? p[0] / (2 * (r - x)) : (x + r) / 2;
}
SLOPE(squareplus) {
    WIDE r = M(sqrt)(x * x + p[0]), left = p[0] / r / (2 * (r + M(fabs)(x)));
    return x < 0 ? left : 1 - left;
}
VALUE(sparse_plus) { return x <= -1 ? 0 : x >= 1 ? x : (x + 1) * (x + 1) / 4; }
SLOPE(sparse_plus) { return F(clip)(x + 1, 0, 2) / 2; }
VALUE(sparse_sigmoid) { return F(clip)(x + 1, 0, 2) / 2; }
SLOPE(sparse_sigmoid) { return (x > -1 && x < 1) / (WIDE)2; }
VALUE(exponential) { return M(exp)(x); }
SLOPE(exponential) { return M(exp)(x); }
VALUE(gelu) { return x * F(cdf)(x); }
SLOPE(gelu) { return F(cdf)(x) + x * F(pdf)(x); }
#define SQRT_8_OVER_PI C(1.5957691216057307117597842397375)
static WIDE F(cubic)(WIDE x) { return SQRT_8_OVER_PI * (x + C(0.044715) * x * x * x); }
static WIDE F(cubic_slope)(WIDE x) { return SQRT_8_OVER_PI * (1 + 3 * C(0.044715) * x * x); }
VALUE(gelu_tanh) { return x * LOGISTIC(F(cubic)(x)); }
SLOPE(gelu_tanh) {
    if (M(fabs)(x) > 1000) return x > 0;
    return LOGISTIC(F(cubic)(x)) + x * F(cubic_slope)(x) * F(bell)(F(cubic)(x));
}
static WIDE F(swish_slope_of)(WIDE x, WIDE b) { return LOGISTIC(b * x) + b * x * F(bell)(b * x); }
VALUE(quick_gelu) { return x * LOGISTIC(C(1.702) * x); }
SLOPE(quick_gelu) { return F(swish_slope_of)(x, C(1.702)); }
VALUE(silu) { return x * LOGISTIC(x); }
SLOPE(silu) { return F(swish_slope_of)(x, 1); }
VALUE(swish) { return x * LOGISTIC(p[0] * x); }
SLOPE(swish) { return F(swish_slope_of)(x, p[0]); }
VALUE(hardswish) { return x * F(clip)(x + 3, 0, 6) / 6; }
SLOPE(hardswish) { return x <= -3 ? 0 : x >= 3 ? 1 : (2 * x + 3) / 6; }
/* tanh(log(1 + e^x)) = a / (a + rest); for x < 0 a = e (e + 2), rest = 2 with e = e^x, else both are
 * multiplied by e^-2x. */
static WIDE F(mish_parts)(WIDE x, WIDE *rest) {
    WIDE e = M(exp)(-M(fabs)(x));
    *rest = x < 0 ? 2 : 2 * e * e;
    return x < 0 ? e * (e + 2) : 1 + 2 * e;
}
VALUE(mish) {
    WIDE rest, a = F(mish_parts)(x, &rest);
    return x * (a / (a + rest));
}
SLOPE(mish) { /* 1 - gate^2 = (1 - gate) (1 + gate) */
    WIDE rest, a = F(mish_parts)(x, &rest), gate = a / (a + rest);
    return gate + x * (rest / (a + rest)) * (1 + gate) * LOGISTIC(x);
}
VALUE(hard_mish) { return x * F(clip)(x + 2, 0, 2) / 2; }
SLOPE(hard_mish) { return x <= -2 ? 0 : x >= 0 ? 1 : x + 1; }

#define ENTRY(name) {#name, F(name##_value), F(name##_slope)},
#define GATE(name, gate) {#name, F(gate##_value), F(gate##_slope)},
static const struct {
    const char *name;
    WIDE (*value)(WIDE, const WIDE *), (*slope)(WIDE, const WIDE *);
} F(table)[] = {EVERY(ENTRY) EVERY_GATE(GATE)};
#undef ENTRY
#undef GATE
#undef VALUE
#undef SLOPE
#undef LOGISTIC
#undef SELU_SCALE
#undef SELU_ALPHA
#undef SQRT_8_OVER_PI
#undef WIDE
#undef M
#undef F
#undef C
