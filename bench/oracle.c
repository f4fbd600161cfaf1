/* Errors of computed activations, in ULP, against definitions in higher precision (oracle.h).
 *
 * accuracy.py builds this as a shared library and hands it arrays of x and of what fastact, or a peer,
 * made of them.  Each result is screened in double (float32) or long double (float64, half precision):
 * where the wide value rounds to it, it is right.  The others that look wrong or are a new maximum, and
 * every so many of those that are right, are computed again with 113 bits, and that counts.
 *
 * A result y of m * f(x) is right when it is
 *   near   |y - exact| <= bound ULP: the spacing of the format at the exact value, at least the
 *          smallest subnormal.  Within `tolerance` |m| it is right too, where f' has a zero: only |x| < 16
 *          is excused, and an excused error does not count as the maximum.
 *   zero   0 where and only where the exact value rounds to 0, if asked
 *   nan    NaN where and only where x is NaN
 *   order  not a step down where f goes up, nor up where it goes down, if asked
 */
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define EVERY(X)                                                                                       \
    X(identity) X(relu) X(relu6) X(relu_squared) X(leaky_relu) X(prelu) X(rrelu) X(elu) X(selu) X(celu) \
    X(sigmoid) X(hardsigmoid) X(hard_sigmoid) X(logsigmoid) X(tanh) X(hardtanh) X(tanhshrink)           \
    X(hardshrink) X(softshrink) X(shrink) X(threshold) X(thresholded_relu) X(softsign) X(softplus)      \
    X(squareplus) X(sparse_plus) X(sparse_sigmoid) X(exponential) X(gelu) X(gelu_tanh) X(quick_gelu)    \
    X(silu) X(swish) X(hardswish) X(mish) X(hard_mish)
#define EVERY_GATE(X) X(glu, sigmoid) X(swiglu, silu) X(geglu, gelu) X(reglu, relu)

#define WIDE double
#define M(f) f
#define F(f) f##_d
#define C(c) c
#include "oracle.h"
#define WIDE long double
#define M(f) f##l
#define F(f) f##_l
#define C(c) c##L
#include "oracle.h"
#if LDBL_MANT_DIG == 113
typedef long double quad;
#define M(f) f##l
#define C(c) c##L
#else
#include <quadmath.h>
typedef __float128 quad;
#define M(f) f##q
#define C(c) c##Q
#endif
#define WIDE quad
#define F(f) f##_q
#include "oracle.h"

#define TABLE_SIZE (int)(sizeof table_d / sizeof table_d[0])
enum { MAX_PARAMS = 2, BINS = 256 };

struct format { /* of the results */
    int digits, min_exponent, max_exponent; /* 24, -126, 127 for float32 */
};

struct rules {
    double bound, tolerance;
    int64_t certify; /* every so many right results are computed with 113 bits */
    int ordered;     /* x ascends or descends, and m is constant */
    int zero;        /* ask for zeros */
};

enum kind { NEAR = 1, ZERO, IS_NAN, ORDER };

struct report {
    double max, max_x, max_y; /* ULP; x and y of the largest */
    double sum;               /* of those that are certified whatever the screen says */
    int64_t count, summed, misrounded, excused, failures;
    double fail_x, fail_m, fail_y; /* the first failure, and what rule it breaks */
    int64_t fail_kind;
    float bins[BINS]; /* the largest error for x of a sign and 1 / 128 of the exponents */
};

const char *oracle_name(int k) { return k < TABLE_SIZE ? table_d[k].name : 0; }

/* 2^e, e in double's range or below it. */
static double power(int e) { return ldexp(1.0, e); }

/* The spacing of the format at a value. */
static double spacing(double value, const struct format *f) {
    int64_t bits;
    memcpy(&bits, &value, 8);
    int exponent = (int)(bits >> 52 & 0x7ff) - 1023; /* -1023 below double's normal range */
    if (exponent < f->min_exponent) exponent = f->min_exponent;
    if (exponent > f->max_exponent) exponent = f->max_exponent;
    exponent -= f->digits - 1;
    if (exponent < -1022) return power(exponent);
    bits = (int64_t)(exponent + 1023) << 52;
    memcpy(&value, &bits, 8);
    return value;
}

/* |y - exact| in ULP, infinity standing for the number after the largest one. */
#define DEFINE_ERROR(WIDE, SUFFIX)                                                                \
    static double error##SUFFIX(double y, WIDE exact, const struct format *f) {                   \
        WIDE beyond = (WIDE)2 * power(f->max_exponent);                                           \
        if (exact != exact) return y != y ? 0 : INFINITY;                                         \
        WIDE got = y > beyond ? beyond : y < -beyond ? -beyond : (WIDE)y;                         \
        if (f->max_exponent == 1023 && isinf(y)) got = y > 0 ? beyond : -beyond;                  \
        WIDE want = exact > beyond ? beyond : exact < -beyond ? -beyond : exact;                  \
        WIDE apart = got > want ? got - want : want - got;                                        \
        double at = (double)want;                                                                 \
        if (want > 0 && (WIDE)at > want) at = nextafter(at, 0); /* rounded up to a power of 2 */  \
        if (want < 0 && (WIDE)at < want) at = nextafter(at, 0);                                   \
        return (double)(apart / (WIDE)spacing(at, f));                                            \
    }
DEFINE_ERROR(double, _d)
DEFINE_ERROR(long double, _l)
DEFINE_ERROR(quad, _q)

/* 1 if an exact value is on the wrong side of half the smallest subnormal, for y zero or not. */
#define ZERO_IS_WRONG(y, exact, half) \
    ((y) == 0 ? (exact) > (half) || (exact) < -(half) : (exact) < (half) && (exact) > -(half))

static void fail(struct report *r, enum kind kind, double x, double m, double y) {
    if (!r->failures++) r->fail_x = x, r->fail_m = m, r->fail_y = y, r->fail_kind = kind;
}

static int bin_of(double x) {
    int64_t bits;
    memcpy(&bits, &x, 8);
    int k = (int)(bits >> 52 & 0x7ff) - 1023 + 149; /* 2^-149 is float32's smallest number */
    k = (k < 0 ? 0 : k > 277 ? 277 : k) * 127 / 277;
    return bits < 0 ? 127 - k : 128 + k;
}

static quad exact_of(int k, int slope, double x, double m, const quad *p) {
    return (quad)m * (slope ? table_q[k].slope : table_q[k].value)((quad)x, p);
}

/* The error that counts, and the verdict, by 113 bits. */
static double certify(struct report *r, const struct rules *rules, const struct format *f, int k,
                      int slope, double x, double m, double y, const quad *p) {
    quad exact = exact_of(k, slope, x, m, p);
    double error = error_q(y, exact, f);
    quad half = (quad)power(f->min_exponent - f->digits + 1) / 2;
    if (rules->zero && ZERO_IS_WRONG(y, exact, half)) fail(r, ZERO, x, m, y);
    if (error <= rules->bound) return error;
    if (fabs((double)(y - exact)) <= rules->tolerance * fabs(m) && fabs(x) < 16) {
        r->excused++;
        return 0;
    }
    fail(r, NEAR, x, m, y);
    return error;
}

static void note(struct report *r, const struct rules *rules, double x, double y, double error,
                 int sampled) {
    if (error > r->max) r->max = error, r->max_x = x, r->max_y = y;
    if (sampled && error <= rules->bound) r->sum += error, r->summed++;
    float *bin = &r->bins[bin_of(x)];
    if (error > *bin) *bin = (float)error;
}

static void merge(struct report *into, const struct report *from) {
    if (from->max > into->max) into->max = from->max, into->max_x = from->max_x, into->max_y = from->max_y;
    into->sum += from->sum, into->summed += from->summed;
    into->count += from->count, into->misrounded += from->misrounded, into->excused += from->excused;
    if (from->failures && !into->failures)
        into->fail_x = from->fail_x, into->fail_m = from->fail_m, into->fail_y = from->fail_y,
        into->fail_kind = from->fail_kind;
    into->failures += from->failures;
    for (int b = 0; b < BINS; b++)
        if (from->bins[b] > into->bins[b]) into->bins[b] = from->bins[b];
}

/* Checks y = m * f(x), or m * f'(x) with `slope`, and adds what it finds to *into.  m may be null: 1. */
#define DEFINE_CHECK(NAME, TYPE, WIDE, S)                                                              \
    static struct report NAME##_part(int k, int slope, const TYPE *x, const double *m, const TYPE *y,  \
                                     int64_t start, int64_t stop, const double *params,                \
                                     const struct format *f, const struct rules *rules) {              \
        struct report r = {0};                                                                         \
        WIDE p[MAX_PARAMS];                                                                            \
        quad pq[MAX_PARAMS];                                                                           \
        for (int j = 0; j < MAX_PARAMS; j++) p[j] = (WIDE)params[j], pq[j] = (quad)params[j];          \
        WIDE (*of)(WIDE, const WIDE *) = slope ? table##S[k].slope : table##S[k].value;                \
        const WIDE half = (WIDE)power(f->min_exponent - f->digits + 1) / 2;                            \
        const int native = f->digits == (sizeof(TYPE) == 4 ? 24 : 53);                                 \
        int64_t waited = 0;                                                                            \
        int sure = 0; /* of the last result: it is the exact one, rounded */                           \
        for (int64_t i = start; i < stop; i++) {                                                       \
            double xi = (double)x[i], yi = (double)y[i], mi = m ? m[i] : 1;                            \
            int was_sure = sure, comparable = rules->ordered && i > start && x[i - 1] - x[i - 1] == 0; \
            sure = 0;                                                                                  \
            if (xi - xi != 0) {                                                                        \
                if (xi != xi && yi == yi) fail(&r, IS_NAN, xi, mi, yi);                                \
                continue;                                                                              \
            }                                                                                          \
            WIDE exact = (WIDE)mi * of((WIDE)xi, p);                                                   \
            r.count++;                                                                                 \
            sure = native && (TYPE)exact == y[i];                                                      \
            if (!sure || ++waited == rules->certify) {                                                 \
                waited = 0;                                                                            \
                double error = error##S(yi, exact, f);                                                 \
                if (sure || !(error <= rules->bound && error <= r.max + 1e-4) ||                       \
                    (rules->zero && ZERO_IS_WRONG(yi, exact, half)))                                   \
                    error = certify(&r, rules, f, k, slope, xi, mi, yi, pq);                           \
                r.misrounded += error > 0.5;                                                           \
                note(&r, rules, xi, yi, error, sure);                                                  \
            }                                                                                          \
            if (comparable && !(sure && was_sure) && y[i - 1] != y[i]) {                               \
                double back = (double)y[i - 1];                                                        \
                quad step = exact_of(k, slope, xi, mi, pq) -                                           \
                            exact_of(k, slope, (double)x[i - 1], mi, pq);                              \
                if (yi > back ? step < 0 : step > 0) fail(&r, ORDER, xi, mi, yi);                      \
            }                                                                                          \
        }                                                                                              \
        return r;                                                                                      \
    }                                                                                                  \
    void NAME(int k, int slope, const TYPE *x, const double *m, const TYPE *y, int64_t n,              \
              const double *params, const struct format *f, const struct rules *rules,                 \
              struct report *into) {                                                                   \
        const int64_t share = 1 << 16;                                                                 \
        _Pragma("omp parallel for schedule(dynamic)")                                                  \
        for (int64_t start = 0; start < n; start += share) {                                           \
            int64_t stop = start + share < n ? start + share : n;                                      \
            struct report r = NAME##_part(k, slope, x, m, y, start, stop, params, f, rules);           \
            _Pragma("omp critical") merge(into, &r);                                                   \
        }                                                                                              \
    }
DEFINE_CHECK(check_float, float, double, _d)
DEFINE_CHECK(check_double, double, long double, _l)

/* A sum over n results that depends on their order: equal for equal bits, any NaN being one. */
#define DEFINE_DIGEST(NAME, TYPE, WORD)                                                                \
    uint64_t NAME(const TYPE *y, int64_t n) {                                                          \
        uint64_t sum = 0;                                                                              \
        _Pragma("omp parallel for reduction(+ : sum)")                                                 \
        for (int64_t i = 0; i < n; i++) {                                                              \
            WORD word = 1;                                                                             \
            if (y[i] == y[i]) memcpy(&word, &y[i], sizeof word);                                       \
            uint64_t z = (word ^ (uint64_t)i << 32) * 0x9e3779b97f4a7c15u + (uint64_t)i;               \
            sum += (z ^ z >> 29) * 0xbf58476d1ce4e5b9u;                                                \
        }                                                                                              \
        return sum;                                                                                    \
    }
DEFINE_DIGEST(digest_float, float, uint32_t)
DEFINE_DIGEST(digest_double, double, uint64_t)
