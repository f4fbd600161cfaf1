/* Errors of csrc/activations.h in ULP against an independent oracle.  accuracy_check.sh builds it.
 *
 *   CHECK_BITS 32: every STRIDE-th bit pattern; the oracle is the long double libm (2^-64).
 *   CHECK_BITS 64: COUNT random bit patterns, tails and breakpoints; the oracle is libquadmath.
 *
 * error = |result - exact| / spacing of the format at the exact result, at least the smallest
 * subnormal.  Within 1/4 of a zero of f' a backward error below TOLERANCE |dy| does not count.
 * A wrong zero is a zero where the exact result does not round to it; "order" counts steps down of a
 * monotone function.  Kernels run over arrays, so the compiler's packed code is what is checked.
 *
 *   accuracy_check [stride or count] [name] [value|backward]
 */
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FA_BITS CHECK_BITS
#include "working.h"
#include "activations.h"

#if CHECK_BITS == 32
typedef long double wide;
typedef uint32_t bits;
#define W(f) f##l
#define WC(c) c##L
#define DIGITS 24
#define MIN_EXPONENT (-126)
#define LARGEST 0x1.fffffep127L
#define TOLERANCE 0x1p-33L
#define FORWARD_BOUND 0.51
#define BACKWARD_BOUND 0.51
#else
#include <quadmath.h>
typedef __float128 wide;
typedef uint64_t bits;
#define W(f) f##q
#define WC(c) c##Q
#define DIGITS 53
#define MIN_EXPONENT (-1022)
#define LARGEST 0x1.fffffffffffffp1023Q
#define TOLERANCE 0x1p-52Q
#define FORWARD_BOUND 1.0
#define BACKWARD_BOUND 2.0
#endif

#define SQRT_HALF WC(0.70710678118654752440084436210484903928)
#define SQRT_2_OVER_PI WC(0.79788456080286535587989211986876373695)
#define SELU_SCALE WC(1.0507009873554804934193349852946)
#define SELU_ALPHA WC(1.6732632423543772848170429916717)

/* ---- the oracle: f(x, p) and f'(x, p) -------------------------------------------------------- */

static wide logistic(wide y) { return y < 0 ? W(exp)(y) / (1 + W(exp)(y)) : 1 / (1 + W(exp)(-y)); }
static wide bell(wide y) { /* sigma' */
    wide e = W(exp)(-W(fabs)(y));
    return e / ((1 + e) * (1 + e));
}
static wide cubic(wide x) { return 2 * SQRT_2_OVER_PI * (x + WC(0.044715) * x * x * x); }
static wide cubic_slope(wide x) { return 2 * SQRT_2_OVER_PI * (1 + 3 * WC(0.044715) * x * x); }

static wide exact_identity(wide x, wide p) { return (void)p, x; }
static wide slope_identity(wide x, wide p) { return (void)p, x == x ? 1 : 1; }
static wide exact_relu(wide x, wide p) { return (void)p, x < 0 ? 0 : x; }
static wide slope_relu(wide x, wide p) { return (void)p, x != x ? x : x > 0; }
static wide exact_leaky_relu(wide x, wide p) { return x > 0 ? x : p * x; }
static wide slope_leaky_relu(wide x, wide p) { return x != x ? x : x > 0 ? 1 : p; }
static wide exact_prelu(wide x, wide p) { return exact_leaky_relu(x, p); }
static wide slope_prelu(wide x, wide p) { return slope_leaky_relu(x, p); }
static wide exact_elu(wide x, wide p) { return x > 0 ? x : p * W(expm1)(x); }
static wide slope_elu(wide x, wide p) { return x > 0 ? 1 : p * W(exp)(x); }
static wide exact_selu(wide x, wide p) { return (void)p, SELU_SCALE * exact_elu(x, SELU_ALPHA); }
static wide slope_selu(wide x, wide p) { return (void)p, SELU_SCALE * slope_elu(x, SELU_ALPHA); }
static wide exact_sigmoid(wide x, wide p) { return (void)p, logistic(x); }
static wide slope_sigmoid(wide x, wide p) { return (void)p, bell(x); }
static wide exact_tanh(wide x, wide p) { return (void)p, W(tanh)(x); }
static wide slope_tanh(wide x, wide p) { return (void)p, 4 * bell(2 * x); }
static wide exact_gelu(wide x, wide p) {
    return (void)p, W(isinf)(x) ? (x > 0 ? x : 0) : x / 2 * W(erfc)(-x * SQRT_HALF);
}
static wide slope_gelu(wide x, wide p) {
    if (W(isinf)(x)) return x > 0;
    return (void)p, W(erfc)(-x * SQRT_HALF) / 2 + x * W(exp)(-x * x / 2) * SQRT_2_OVER_PI / 2;
}
static wide exact_gelu_tanh(wide x, wide p) {
    return (void)p, W(isinf)(x) ? (x > 0 ? x : 0) : x * logistic(cubic(x));
}
static wide slope_gelu_tanh(wide x, wide p) {
    if (W(fabs)(x) > 1000) return x > 0;
    return (void)p, logistic(cubic(x)) + x * cubic_slope(x) * bell(cubic(x));
}
static wide exact_silu(wide x, wide p) {
    return (void)p, W(isinf)(x) ? (x > 0 ? x : 0) : x * logistic(x);
}
static wide slope_silu(wide x, wide p) {
    return (void)p, W(isinf)(x) ? x > 0 : logistic(x) + x * bell(x);
}
static wide exact_softplus(wide x, wide p) {
    return (p * x > 0 ? x : 0) + W(log1p)(W(exp)(-W(fabs)(p * x))) / p;
}
static wide slope_softplus(wide x, wide p) { return logistic(p * x); }

/* ---- one kernel a function, as in kernels.inc ------------------------------------------------ */

#define BLOCK 4096
#define FA_NONE
#define FA_SCALAR(name, standard) , p
#define FA_LEARNED(name) , p
#define FA_ROW(name, NPARAMS, PARAMS, MAX_ULP, FORMULA, SOURCE)                                    \
    static void value_##name(real *y, const real *dy, const real *x, double p) {                   \
        (void)p, (void)dy;                                                                         \
        for (ptrdiff_t i = 0; i < BLOCK; i++) y[i] = FN(fa_##name##_value)(x[i] PARAMS);           \
    }                                                                                              \
    static void backward_##name(real *y, const real *dy, const real *x, double p) {                \
        (void)p;                                                                                   \
        for (ptrdiff_t i = 0; i < BLOCK; i++) y[i] = FN(fa_##name##_backward)(dy[i], x[i] PARAMS); \
    }
#include "activations.def"
#undef FA_ROW

typedef struct {
    const char *name;
    int parameters, monotone;
    double forward_bound;
    void (*kernel[2])(real *, const real *, const real *, double);
    wide (*oracle[2])(wide, wide);
    double zero_of_slope; /* 0: none */
} function;

#define FA_ROW(name, NPARAMS, PARAMS, MAX_ULP, FORMULA, SOURCE) \
    {#name, NPARAMS, 1, MAX_ULP, {value_##name, backward_##name}, {exact_##name, slope_##name}, 0},
static function functions[] = {
#include "activations.def"
};
#define FUNCTIONS ((int)(sizeof functions / sizeof functions[0]))

static const double parameter_values[] = {1.0, 0.01, 0.3, 2.5};

/* ---- inputs ---------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t z) { /* splitmix64 */
    z += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static real from_pattern(bits u) {
    real x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static real gradient(uint64_t i) { /* a quarter of them 1, the rest any finite number */
    uint64_t h = mix(i + 77);
    real dy = from_pattern((bits)(h >> 2));
    return h % 4 == 0 || !isfinite(dy) ? 1 : dy;
}

#if CHECK_BITS == 32
static real input(uint64_t i, uint64_t stride) {
    uint64_t u = i * stride;
    return from_pattern((bits)(u < 0xffffffffu ? u : 0xffffffffu));
}
static uint64_t total(uint64_t stride) { return 0xffffffffu / stride + 1; }
#else
static real input(uint64_t i, uint64_t count) {
    static const double breakpoints[] = {0.0,   0.34657359027997264, -0.34657359027997264, -0.75,
                                         -1.27, -0.5,  -19.87, -22.0, -27.5,  -34.7, -37.5, -38.6,
                                         -54.5, 5.5,   8.3,    17.3,  18.71,  36.7,  -36.7, -600.0,
                                         -708.4, -709.78, -745.13, -700.0, -1500.0, 709.78, 350.0};
    enum { N = sizeof breakpoints / sizeof breakpoints[0] };
    uint64_t h = mix(i), g = mix(h);
    double unit = (double)(g >> 11) * 0x1p-53;
    (void)count;
    switch (i % 8) {
    case 0: return from_pattern(h);
    case 1: return 2000 * unit - 1500;
    case 2: return 80 * unit - 40;
    case 3: return 4 * unit - 2;
    case 4: return breakpoints[h % N] * (1 + (unit - 0.5) * ldexp(1, -(int)(h >> 32) % 48));
    case 5: return ldexp(h & 64 ? -unit : unit, -(int)(h >> 32) % 64);
    case 6: return -745.2 * unit;
    default: return 60 * unit - 55;
    }
}
static uint64_t total(uint64_t count) { return count; }
#endif

/* ---- errors ---------------------------------------------------------------------------------- */

static wide spacing(wide exact) {
    int e;
    if (exact == 0 || W(isinf)(exact)) return W(ldexp)(1, MIN_EXPONENT - DIGITS + 1);
    W(frexp)(exact, &e);
    if (e - 1 < MIN_EXPONENT) e = MIN_EXPONENT + 1;
    return W(ldexp)(1, e - DIGITS);
}

typedef struct {
    double ulp;
    real x, dy, result;
    uint64_t nan, zeros, order;
} report;

static double error_of(real result, wide exact, report *r) {
    if (exact != exact || result != result) {
        r->nan += (exact == exact) != (result == result);
        return 0;
    }
    wide step = spacing(exact);
    if (result == 0 && W(fabs)(exact) > step * WC(0.51)) r->zeros++;
    if (isinf(result)) {
        wide edge = LARGEST + (LARGEST - LARGEST * (1 - W(ldexp)(1, -DIGITS))) / 2;
        int right = W(fabs)(exact) >= edge * (1 - W(ldexp)(1, -DIGITS - 5));
        return right && (exact > 0) == (result > 0) ? 0 : INFINITY;
    }
    if (W(isinf)(exact)) return INFINITY;
    return (double)(W(fabs)((wide)result - exact) / step);
}

static void check_block(const function *f, int backward, double p, uint64_t first, uint64_t arg,
                        report *r) {
    real x[BLOCK], dy[BLOCK], y[BLOCK];
    for (int i = 0; i < BLOCK; i++) x[i] = input(first + i, arg), dy[i] = gradient(first + i);
    f->kernel[backward](y, dy, x, p);
    for (int i = 0; i < BLOCK; i++) {
        wide slope = f->oracle[backward](x[i], p), exact = backward ? dy[i] * slope : slope;
        double e = error_of(y[i], exact, r);
        int near = backward && f->zero_of_slope != 0 && fabs(x[i] - f->zero_of_slope) < 0.25;
        if (near && W(fabs)(y[i] - exact) <= TOLERANCE * W(fabs)(dy[i])) continue;
        if (e > r->ulp) r->ulp = e, r->x = x[i], r->dy = dy[i], r->result = y[i];
        if (CHECK_BITS == 32 && f->monotone && !backward && i > 0 && (x[i] < 0) == (x[i - 1] < 0))
            r->order += x[i] > x[i - 1] ? y[i] < y[i - 1] : x[i] < x[i - 1] && y[i] > y[i - 1];
    }
}

static void merge(report *a, const report *b) {
    report worst = b->ulp > a->ulp ? *b : *a;
    worst.nan = a->nan + b->nan;
    worst.zeros = a->zeros + b->zeros;
    worst.order = a->order + b->order;
    *a = worst;
}

static int check(const function *f, int backward, double p, uint64_t arg) {
    report all = {0};
    uint64_t blocks = (total(arg) + BLOCK - 1) / BLOCK;
#pragma omp parallel
    {
        report mine = {0};
#pragma omp for schedule(dynamic, 16)
        for (uint64_t b = 0; b < blocks; b++) check_block(f, backward, p, b * BLOCK, arg, &mine);
#pragma omp critical
        merge(&all, &mine);
    }
    double bound = backward ? BACKWARD_BOUND : CHECK_BITS == 32 ? f->forward_bound : FORWARD_BOUND;
    int bad = all.ulp > bound || all.nan || all.zeros || all.order;
    printf("f%d %-10s %-8s p=%-5g max %.6g ULP at x=%a dy=%a -> %a; nan %lu, zeros %lu, order %lu%s\n",
           CHECK_BITS, f->name, backward ? "backward" : "value", p, all.ulp, all.x, all.dy, all.result,
           all.nan, all.zeros, all.order, bad ? "  FAIL" : "");
    fflush(stdout);
    return bad;
}

static double zero_of_slope(const char *name) {
    if (!strcmp(name, "silu")) return -1.2784645427610738;
    if (!strcmp(name, "gelu")) return -0.75179152;
    if (!strcmp(name, "gelu_tanh")) return -0.75246141;
    return 0;
}

int main(int argc, char **argv) {
    uint64_t arg = argc > 1 ? strtoull(argv[1], 0, 10) : CHECK_BITS == 32 ? 251 : 1000000;
    int bad = 0;
    for (function *f = functions; f < functions + FUNCTIONS; f++) {
        if (argc > 2 && strcmp(argv[2], f->name)) continue;
        f->zero_of_slope = zero_of_slope(f->name);
        f->monotone = !strstr(f->name, "gelu") && strcmp(f->name, "silu");
        for (int backward = 0; backward < 2; backward++) {
            if (argc > 3 && strcmp(argv[3], backward ? "backward" : "value")) continue;
            for (int k = 0; k < (f->parameters ? 4 : 1); k++)
                bad += check(f, backward, parameter_values[k], arg);
        }
    }
    return bad != 0;
}
