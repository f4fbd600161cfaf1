/* Errors of csrc/activations.h, in ULP, against an independent oracle.  accuracy_check.sh builds it.
 *
 *   accuracy_check [stride or count] [name] [value|backward]
 *
 *   CHECK_BITS 32: every STRIDE-th bit pattern (default 251; 1: all); the oracle is the long double
 *   libm, about 2^-62.  With CHECK_QUICK it is the double libm, about 2^-50 or 2^-26 ULP of a float: for
 *   sweeps of all 2^32.
 *   CHECK_BITS 64: COUNT numbers (default 1000000), random bit patterns, tails and breakpoints, each
 *   second one the upper neighbour of the one before; the oracle has 113 bits.
 *   Both: all pairs of special x (zeros, subnormals, largest, inf, NaN) and special dy, and parameters
 *   from common to extreme.
 *
 * A line a function, direction and parameter; FAIL marks a broken promise, with the first offence of
 * each kind; exit status 1 if there is any, 2 for a wrong argument.  The promises:
 *
 *   ulp    |result - exact| / spacing of the format at the exact result, at least the smallest
 *          subnormal, within the bound.  Near a zero of f' an error below TOLERANCE |dy| is right too.
 *   nan    NaN if and only if the exact result is: for a NaN x or dy (relu's branch gives 0)
 *   zero   0 only where the exact result rounds to it
 *   sign   f(-0) has the sign of the exact zero
 *   order  no step against the direction in which f goes; asked of float64 only where f moves by at least
 *          1/32 ULP: where it is flatter, a result that is not correctly rounded may step back by one ULP
 *
 * Kernels run over arrays, so what is checked is the compiler's packed code.
 */
#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FA_BITS CHECK_BITS
#include "working.h"
#include "activations.h"

#if CHECK_BITS == 32 && defined CHECK_QUICK
typedef double wide;
#define W(f) f
#define WC(c) c
#elif CHECK_BITS == 32 || LDBL_MANT_DIG == 113
typedef long double wide;
#define W(f) f##l
#define WC(c) c##L
#else
#include <quadmath.h>
typedef __float128 wide;
#define W(f) f##q
#define WC(c) c##Q
#endif

#if CHECK_BITS == 32
typedef uint32_t bits;
#define DIGITS 24
#define MIN_EXPONENT (-126)
#define LARGEST FLT_MAX
#define SMALLEST 0x1p-149f
#define TOLERANCE 0x1p-33
#define BACKWARD_BOUND 0.51
#else
typedef uint64_t bits;
#define DIGITS 53
#define MIN_EXPONENT (-1022)
#define LARGEST DBL_MAX
#define SMALLEST 0x1p-1074
#define TOLERANCE 0x1p-52
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
static wide ramp(wide x) { return x > 0 ? x : 0; } /* the limits of gelu and silu at +-inf */

static wide exact_identity(wide x, wide p) { return x; }
static wide slope_identity(wide x, wide p) { return 1; }
static wide exact_relu(wide x, wide p) { return x < 0 ? 0 : x; }
static wide slope_relu(wide x, wide p) { return x != x ? x : x > 0; }
static wide exact_leaky_relu(wide x, wide p) { return x > 0 ? x : p * x; }
static wide slope_leaky_relu(wide x, wide p) { return x != x ? x : x > 0 ? 1 : p; }
static wide exact_prelu(wide x, wide p) { return exact_leaky_relu(x, p); }
static wide slope_prelu(wide x, wide p) { return slope_leaky_relu(x, p); }
static wide exact_elu(wide x, wide p) { return x > 0 ? x : p * W(expm1)(x); }
static wide slope_elu(wide x, wide p) { return x > 0 ? 1 : p * W(exp)(x); }
static wide exact_selu(wide x, wide p) { return SELU_SCALE * exact_elu(x, SELU_ALPHA); }
static wide slope_selu(wide x, wide p) { return SELU_SCALE * slope_elu(x, SELU_ALPHA); }
static wide exact_sigmoid(wide x, wide p) { return logistic(x); }
static wide slope_sigmoid(wide x, wide p) { return bell(x); }
static wide exact_tanh(wide x, wide p) { return W(tanh)(x); }
static wide slope_tanh(wide x, wide p) { return 4 * bell(2 * x); }
static wide exact_gelu(wide x, wide p) {
    return W(isinf)(x) ? ramp(x) : x / 2 * W(erfc)(-x * SQRT_HALF);
}
static wide slope_gelu(wide x, wide p) {
    if (W(isinf)(x)) return x > 0;
    return W(erfc)(-x * SQRT_HALF) / 2 + x * W(exp)(-x * x / 2) * SQRT_2_OVER_PI / 2;
}
static wide exact_gelu_tanh(wide x, wide p) {
    return W(isinf)(x) ? ramp(x) : x * logistic(cubic(x));
}
static wide slope_gelu_tanh(wide x, wide p) {
    if (W(fabs)(x) > 1000) return x > 0;
    return logistic(cubic(x)) + x * cubic_slope(x) * bell(cubic(x));
}
static wide exact_silu(wide x, wide p) { return W(isinf)(x) ? ramp(x) : x * logistic(x); }
static wide slope_silu(wide x, wide p) {
    return W(isinf)(x) ? x > 0 : logistic(x) + x * bell(x);
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
        for (ptrdiff_t i = 0; i < BLOCK; i++) y[i] = FN(fa_##name##_value)(x[i] PARAMS);           \
    }                                                                                              \
    static void backward_##name(real *y, const real *dy, const real *x, double p) {                \
        for (ptrdiff_t i = 0; i < BLOCK; i++) y[i] = FN(fa_##name##_backward)(dy[i], x[i] PARAMS); \
    }
#include "activations.def"
#undef FA_ROW

typedef struct {
    const char *name;
    int parameters;
    double forward_bound;
    void (*kernel[2])(real *, const real *, const real *, double);
    wide (*oracle[2])(wide, wide);
} function;

#define FA_ROW(name, NPARAMS, PARAMS, MAX_ULP, FORMULA, SOURCE)               \
    {#name, NPARAMS, CHECK_BITS == 32 ? MAX_ULP : 1.0,                        \
     {value_##name, backward_##name}, {exact_##name, slope_##name}},
static const function functions[] = {
#include "activations.def"
};
#undef FA_ROW
#define FUNCTIONS ((int)(sizeof functions / sizeof functions[0]))

/* Where f' crosses zero: f falls to the left and rises to the right.  0: f never falls. */
static double minimum_of(const function *f) {
    if (!strcmp(f->name, "silu")) return -1.2784645427610738;
    if (!strcmp(f->name, "gelu")) return -0.7517915246935645;
    if (!strcmp(f->name, "gelu_tanh")) return -0.7524614220710162;
    return 0;
}

/* The parameters to check, common ones first, ended by a NaN. */
static const double *parameters_of(const function *f) {
    static const double none[] = {1, NAN}, scale[] = {1, 0.01, 0.3, 2.5, 20, 1e-3, 1e3, NAN};
    static const double slope[] = {0.01, 0.3, 1, 2.5, 0, -0.5, 1e30, 1e300, NAN};
    static const double alpha[] = {1, 0.01, 0.3, 2.5, 0, -1, 1e-30, 1e30, NAN};
    if (f->parameters == 0) return none;
    if (!strcmp(f->name, "softplus")) return scale;
    return strcmp(f->name, "elu") ? slope : alpha;
}

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
static real random_input(uint64_t i) {
    /* piece borders of vmath.h, zeros of f', and where results or halves of pairs underflow */
    static const double breakpoints[] = {0.0,   0.34657359027997264, -0.34657359027997264, -0.75,
                                         -1.27, -0.5,  -19.87, -22.0, -27.5,  -34.7, -37.5, -38.6,
                                         -54.5, 5.5,   8.3,    17.3,  18.71,  36.7,  -36.7, -600.0,
                                         -708.4, -709.78, -745.13, -700.0, -1500.0, 709.78, 350.0};
    enum { N = sizeof breakpoints / sizeof breakpoints[0] };
    uint64_t h = mix(i), g = mix(h);
    double unit = (double)(g >> 11) * 0x1p-53;
    switch (i % 8) {
    case 0: return from_pattern(h);
    case 1: return 2000 * unit - 1500;
    case 2: return 80 * unit - 40;
    case 3: return 4 * unit - 2;
    case 4: return breakpoints[h % N] * (1 + (unit - 0.5) * ldexp(1, -(int)((h >> 32) % 48)));
    case 5: return ldexp(h & 64 ? -unit : unit, -(int)((h >> 32) % 64));
    case 6: return -745.2 * unit;
    default: return 60 * unit - 55;
    }
}
static real input(uint64_t i, uint64_t count) {
    real x = random_input(i / 2);
    return i % 2 ? nextafter(x, INFINITY) : x;
}
static uint64_t total(uint64_t count) { return count; }
#endif

static const real special_x[] = {0, SMALLEST, 100 * SMALLEST, 0x1p-60, 0x1p-12, 0.5, 1, 3, 20, 90,
                                 104, 700, 800, 1e10, LARGEST / 2, LARGEST, INFINITY, NAN};
static const real special_dy[] = {1, 0, NAN, INFINITY, LARGEST, SMALLEST, 3};
enum {
    SPECIAL_X = sizeof special_x / sizeof(real),
    SPECIAL_DY = sizeof special_dy / sizeof(real),
    SPECIALS = 4 * SPECIAL_X * SPECIAL_DY /* with either sign of both */
};

static void special_input(int i, real *x, real *dy) {
    i %= SPECIALS;
    *x = special_x[i / 4 % SPECIAL_X] * (i & 1 ? -1 : 1);
    *dy = special_dy[i / 4 / SPECIAL_X] * (i & 2 ? -1 : 1);
}

/* ---- errors ---------------------------------------------------------------------------------- */

static wide spacing(wide exact) {
    int e;
    if (exact == 0 || W(isinf)(exact)) return SMALLEST;
    W(frexp)(exact, &e);
    return W(ldexp)(1, (e - 1 < MIN_EXPONENT ? MIN_EXPONENT + 1 : e) - DIGITS);
}

static double ulp_error(real result, wide exact) {
    wide overflows = (wide)LARGEST + (wide)LARGEST * W(ldexp)(1, -DIGITS - 1);
    if (isinf(result)) {
        int right = W(fabs)(exact) >= overflows * (1 - W(ldexp)(1, -DIGITS - 5));
        return right && (exact > 0) == (result > 0) ? 0 : INFINITY;
    }
    if (W(isinf)(exact)) return INFINITY;
    return (double)(W(fabs)((wide)result - exact) / spacing(exact));
}

enum { NAN_KIND, ZERO_KIND, SIGN_KIND, ORDER_KIND, KINDS };
static const char *const kind_names[KINDS] = {"nan", "zero", "sign", "order"};

typedef struct {
    real x, dy, result;
} point;

typedef struct {
    double ulp;
    point worst, first[KINDS];
    uint64_t count[KINDS];
} report;

static void offence(report *r, int kind, point at) {
    if (r->count[kind]++ == 0) r->first[kind] = at;
}

typedef struct {
    const function *f;
    int backward;
    double p;
    uint64_t argument;
} task;

/* dy f'(x).  Where relu's branch makes f' zero, dy does not count. */
static wide exact_result(const task *t, real x, real dy) {
    wide w = t->f->oracle[t->backward](x, t->p);
    if (!t->backward || (w == 0 && !strcmp(t->f->name, "relu"))) return w;
    return w * dy;
}

static void check_point(const task *t, point at, report *r) {
    wide exact = exact_result(t, at.x, at.dy);
    if (exact != exact || at.result != at.result) {
        /* an infinite dy times a slope that vanishes at infinity is left open */
        if (t->backward && isinf(at.dy) && t->f->oracle[1](at.x, t->p) == 0) return;
        if ((exact == exact) != (at.result == at.result)) offence(r, NAN_KIND, at);
        return;
    }
    double z = minimum_of(t->f);
    if (t->backward && z != 0 && fabs(at.x - z) < 0.25 && isfinite(at.result) &&
        W(fabs)(at.result - exact) <= TOLERANCE * W(fabs)(at.dy))
        return;
    double e = ulp_error(at.result, exact);
    if (at.result == 0 && W(fabs)(exact) > spacing(exact) * WC(0.51)) offence(r, ZERO_KIND, at);
    int same_sign = !signbit(at.result) == (W(copysign)(1, exact) > 0);
    if (!t->backward && at.x == 0 && exact == 0 && !same_sign) offence(r, SIGN_KIND, at);
    if (e > r->ulp) r->ulp = e, r->worst = at;
}

/* b is the next point after a: f must not go the wrong way (not asked of a falling elu or slope). */
static void check_order(const task *t, point a, point b, report *r) {
    double z = minimum_of(t->f);
    if (t->backward || (t->f->parameters && t->p < 0) || (a.x < z) != (b.x < z)) return;
    int falls = b.result < a.result, rises = b.result > a.result;
    int should_fall = (b.x < a.x) != (z != 0 && b.x < z);
    if (a.x == b.x || !(should_fall ? rises : falls)) return;
    wide exact = exact_result(t, b.x, b.dy), move = W(fabs)(exact - exact_result(t, a.x, a.dy));
    if (CHECK_BITS == 32 || move >= spacing(exact) / 32) offence(r, ORDER_KIND, b);
}

static void check_block(const task *t, int special, uint64_t first, report *r) {
    real x[BLOCK], dy[BLOCK], y[BLOCK];
    for (int i = 0; i < BLOCK; i++) {
        x[i] = input(first + i, t->argument), dy[i] = gradient(first + i);
        if (special) special_input(i, &x[i], &dy[i]);
    }
    t->f->kernel[t->backward](y, dy, x, t->p);
    int ordered = CHECK_BITS == 32 ? 1 : 2;
    for (int i = 0; i < (special ? SPECIALS : BLOCK); i++) {
        point at = {x[i], dy[i], y[i]};
        check_point(t, at, r);
        if (!special && i > 0 && (ordered == 1 || i % 2))
            check_order(t, (point){x[i - 1], dy[i - 1], y[i - 1]}, at, r);
    }
}

static void merge(report *a, const report *b) {
    if (b->ulp > a->ulp) a->ulp = b->ulp, a->worst = b->worst;
    for (int k = 0; k < KINDS; k++) {
        if (a->count[k] == 0) a->first[k] = b->first[k];
        a->count[k] += b->count[k];
    }
}

static int print_report(const task *t, const report *r) {
    double bound = t->backward ? BACKWARD_BOUND : t->f->forward_bound;
    int bad = !(r->ulp <= bound);
    for (int k = 0; k < KINDS; k++) bad |= r->count[k] != 0;
    printf("f%d %-10s %-8s p=%-6g %.6f ULP at x=%a dy=%a -> %a%s\n", CHECK_BITS, t->f->name,
           t->backward ? "backward" : "value", t->p, r->ulp, r->worst.x, r->worst.dy,
           r->worst.result, bad ? "  FAIL" : "");
    for (int k = 0; k < KINDS; k++)
        if (r->count[k])
            printf("    %s: %llu, first at x=%a dy=%a -> %a\n", kind_names[k],
                   (unsigned long long)r->count[k], r->first[k].x, r->first[k].dy,
                   r->first[k].result);
    fflush(stdout);
    return bad;
}

static int check(const task *t) {
    report all = {0};
    uint64_t blocks = (total(t->argument) + BLOCK - 1) / BLOCK;
    check_block(t, 1, 0, &all);
#pragma omp parallel
    {
        report mine = {0};
#pragma omp for schedule(dynamic, 16)
        for (uint64_t b = 0; b < blocks; b++) check_block(t, 0, b * BLOCK, &mine);
#pragma omp critical
        merge(&all, &mine);
    }
    return print_report(t, &all);
}

/* dy * min(x, 0), rounded once to double; 0 at x >= 0 whatever dy */
static int check_prelu_gradient(uint64_t argument) {
    uint64_t bad = 0, n = 1000000;
    for (uint64_t i = 0; i < n + SPECIALS; i++) {
        real x = input(i * (total(argument) / n + 1) % total(argument), argument), dy = gradient(i);
        if (i >= n) special_input((int)(i - n), &x, &dy);
        double expected = x < 0 ? (double)((wide)dy * x) : x == x ? 0 : NAN;
        double result = FN(fa_prelu_param_gradient)(dy, x, 0.25);
        int right = result == expected || (result != result && expected != expected);
        if (!right && bad++ == 0) printf("    prelu gradient: x=%a dy=%a -> %a\n", x, dy, result);
    }
    printf("f%d prelu      gradient exact%s\n", CHECK_BITS, bad ? "  FAIL" : "");
    return bad != 0;
}

int main(int argc, char **argv) {
    uint64_t argument = argc > 1 ? strtoull(argv[1], 0, 10) : CHECK_BITS == 32 ? 251 : 1000000;
    int bad = 0, done = 0;
    for (const function *f = functions; argument && f < functions + FUNCTIONS; f++) {
        if (argc > 2 && strcmp(argv[2], f->name)) continue;
        for (int backward = 0; backward < 2; backward++) {
            if (argc > 3 && strcmp(argv[3], backward ? "backward" : "value")) continue;
            for (const double *p = parameters_of(f); *p == *p; p++, done++)
                bad += check(&(task){f, backward, *p, argument});
        }
        if (!strcmp(f->name, "prelu")) bad += check_prelu_gradient(argument);
    }
    if (!done) fprintf(stderr, "nothing checked: accuracy_check [number] [name] [value|backward]\n");
    return done ? bad != 0 : 2;
}
