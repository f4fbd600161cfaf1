/* Statistics of parts, merged, against long double. */
#include <math.h>
#include <stdlib.h>

#include "merge.h"
#include "native.h"

enum { MOST_PARTS = 6, MOST_CHANNELS = 40 };

typedef struct {
    double rows[MOST_PARTS][FA_MERGE_ROWS][MOST_CHANNELS], counts[MOST_PARTS], total[FA_MERGE_ROWS * MOST_CHANNELS];
} parts;

typedef struct {
    long double n, mean, m2;
} moments;

static double uniform(uint64_t seed)
{
    return (double)(mix(seed) >> 11) * 0x1p-53;
}

static moments merged(moments a, moments b)
{
    const long double n = a.n + b.n, d = b.mean - a.mean;
    if (a.n == 0 || b.n == 0)
        return b.n == 0 ? a : b;
    return (moments){n, a.mean + d * (b.n / n), a.m2 + b.m2 + d * d * (a.n * (b.n / n))};
}

static int is_near(const double *pair, ptrdiff_t channels, long double want, long double size)
{
    return fabsl((long double)pair[0] + pair[channels] - want) <= 0x1p-58L * size;
}

/* Multiplied and divided again: what it was. */
static verdict check_scaling(double *pairs, ptrdiff_t channels, double factor)
{
    double before[2 * MOST_CHANNELS];
    for (ptrdiff_t i = 0; i < 2 * channels; i++)
        before[i] = pairs[i];
    fa_scale_pairs(channels, factor, 0, pairs);
    for (ptrdiff_t c = 0; c < channels; c++)
        if (!is_near(pairs + c, channels, factor * ((long double)before[c] + before[c + channels]), factor * before[c]))
            return "a scaled sum is wrong";
    fa_scale_pairs(channels, factor, 1, pairs);
    for (ptrdiff_t c = 0; c < channels; c++)
        if (!is_near(pairs + c, channels, (long double)before[c] + before[c + channels], before[c]))
            return "a sum scaled there and back is another";
    return NULL;
}

verdict merge_case(drawing *d)
{
    static const double many[] = {0, 1, 2, 7, 1000, 1e9};
    const ptrdiff_t nparts = (ptrdiff_t)draw(d, MOST_PARTS + 1), channels = 1 + (ptrdiff_t)draw(d, MOST_CHANNELS);
    const uint64_t seed = mix(draw(d, 65536));
    parts *p = calloc(1, sizeof *p);
    double *rows = calloc((size_t)(MOST_PARTS * FA_MERGE_ROWS * channels), sizeof *rows);
    verdict wrong = NULL;
    for (ptrdiff_t k = 0; k < nparts; k++) {
        p->counts[k] = DRAW_FROM(d, many);
        for (ptrdiff_t c = 0; c < channels; c++) {
            double *at = rows + k * FA_MERGE_ROWS * channels + c;
            at[0] = 10.0 * uniform(seed + (uint64_t)(k * channels + c)) - 5.0;
            at[2 * channels] = p->counts[k] * uniform(seed + (uint64_t)(k * channels + c) + 1000003);
        }
    }
    const double n = fa_merge_statistics(nparts, channels, p->counts, rows, p->total);
    for (ptrdiff_t c = 0; c < channels && !wrong; c++) {
        moments want = {0};
        for (ptrdiff_t k = 0; k < nparts; k++) {
            const double *at = rows + k * FA_MERGE_ROWS * channels + c;
            want = merged(want, (moments){p->counts[k], at[0], at[2 * channels]});
        }
        if (n != (double)want.n || !is_near(p->total + c, channels, want.mean, 5) ||
            !is_near(p->total + 2 * channels + c, channels, want.m2, want.m2 + 1))
            wrong = "merged statistics are wrong";
        digest_number(MERGE, p->total[c]);
        digest_number(MERGE, p->total[2 * channels + c]);
    }
    if (!wrong && n > 0.0)
        wrong = check_scaling(p->total + 2 * channels, channels, n);
    free(p), free(rows);
    return wrong;
}
