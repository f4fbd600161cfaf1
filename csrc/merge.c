#include "merge.h"

#include "parallel.h"
#include "vmath.h"

/* One channel's mean and m2 of a part in double-double, `channels` apart. */
static fa_dd pair_at(const double *row, ptrdiff_t channels)
{
    return fa_dd_set(row[0], row[channels]);
}

/* Beside an infinity the low part is a NaN. */
static void put_pair(double *row, ptrdiff_t channels, fa_dd a)
{
    row[0] = a.hi;
    row[channels] = a.lo == a.lo ? a.lo : 0.0;
}

/* Chan, Golub and LeVeque (1979), Updating formulae and a pairwise algorithm for computing sample variances:
 * with d = mean_b - mean_a, the mean is mean_a + d n_b / n and m2 = m2_a + m2_b + d^2 n_a n_b / n. */
static void merge_channel(double n, double more, const double *part, double *total, ptrdiff_t channels)
{
    const fa_dd mean = pair_at(total, channels), m2 = pair_at(total + 2 * channels, channels);
    const fa_dd d = fa_sub_dd(pair_at(part, channels), mean);
    const fa_dd share = fa_div_dd(fa_dd_set(more, 0.0), fa_two_sum(n, more));
    const fa_dd step = fa_mul_dd(d, share), between = fa_mul_dd(fa_mul_dd(d, step), fa_dd_set(n, 0.0));
    put_pair(total, channels, fa_add_dd(mean, step));
    put_pair(total + 2 * channels, channels,
             fa_add_dd(fa_add_dd(m2, pair_at(part + 2 * channels, channels)), between));
}

typedef struct {
    ptrdiff_t parts, channels;
    const double *counts, *rows;
    double *total, n;
} merge;

static void merge_parts(void *job, ptrdiff_t begin, ptrdiff_t end, int worker)
{
    merge *m = job;
    const ptrdiff_t size = FA_MERGE_ROWS * m->channels;
    const double *rows = m->rows;
    (void)begin, (void)end, (void)worker;
    memset(m->total, 0, (size_t)size * sizeof *rows);
    for (ptrdiff_t p = 0; p < m->parts; p++, rows += size) {
        if (m->counts[p] == 0.0)
            continue;
        if (m->n == 0.0)
            memcpy(m->total, rows, (size_t)size * sizeof *rows);
        else
            for (ptrdiff_t c = 0; c < m->channels; c++)
                merge_channel(m->n, m->counts[p], rows + c, m->total + c, m->channels);
        m->n += m->counts[p];
    }
}

/* fa_parallel_for: in the default floating-point environment. */
double fa_merge_statistics(ptrdiff_t parts, ptrdiff_t channels, const double *counts, const double *rows,
                           double *total)
{
    merge m = {parts, channels, counts, rows, total, 0.0};
    fa_parallel_for(1, 1, merge_parts, &m);
    return m.n;
}

typedef struct {
    ptrdiff_t channels;
    double factor, *pairs;
    int divide;
} scaling;

static void scale_pairs(void *job, ptrdiff_t begin, ptrdiff_t end, int worker)
{
    const scaling *s = job;
    const fa_dd n = fa_dd_set(s->factor, 0.0);
    (void)begin, (void)end, (void)worker;
    for (ptrdiff_t c = 0; c < s->channels; c++) {
        const fa_dd a = pair_at(s->pairs + c, s->channels);
        put_pair(s->pairs + c, s->channels, s->divide ? fa_div_dd(a, n) : fa_mul_dd(a, n));
    }
}

void fa_scale_pairs(ptrdiff_t channels, double factor, int divide, double *pairs)
{
    scaling s = {channels, factor, pairs, divide};
    fa_parallel_for(1, 1, scale_pairs, &s);
}
