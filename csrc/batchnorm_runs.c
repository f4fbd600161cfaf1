/* BatchNorm where a channel is short runs of memory that lie apart: NCHW, with small images.
 *
 * Kernels take runs where they lie, a row of strips each, whose last may be odd: its other elements are the next
 * channel's, which are read and count for nothing.  So a task is a channel, as in batchnorm_channels.c, and its first
 * pass takes turns with the second of the channel before it.  That lies beside it, and what is reduced next is fetched
 * meanwhile. */
#include <stdlib.h>
#include <string.h>

#include "batchnorm_job.h"
#include "memory.h"
#include "parallel.h"

enum {
    LEAST_RUN = 4 * FA_LANES, /* shorter ones would mostly be ends */
    PART = 2 * FA_BLOCK /* elements, about, that a pass takes before it is the other's turn */
};

/* Some runs of a channel, from one on. */
typedef struct {
    ptrdiff_t channel, first, runs;
} part;

static const char *address(const fa_view *v, ptrdiff_t channel, ptrdiff_t run)
{
    return v->data + channel * v->channel_stride + run * v->strides[0];
}

static ptrdiff_t step_of(const fa_job *j, const fa_view *v)
{
    return v->strides[0] / j->itemsize;
}

/* Whether kernels may read run `run` with what is beyond its end. */
static int is_readable(const fa_job *j, const fa_view *v, ptrdiff_t channel, ptrdiff_t run)
{
    return !v || address(v, channel, run) + fa_padded(j->run) * j->itemsize <= v->end;
}

/* Of a part the runs that can be read where they lie, or one that cannot. */
static ptrdiff_t runs_at_once(const fa_job *j, const part *p)
{
    const ptrdiff_t last = p->first + p->runs - 1;
    const int readable = is_readable(j, j->x, p->channel, last) && is_readable(j, j->dy, p->channel, last) &&
                         is_readable(j, j->bn->residual, p->channel, last);
    return readable || p->runs == 1 ? p->runs : p->runs - 1;
}

typedef void (*pass)(const fa_job *, const part *, const fa_strip *, const part *, int);

static void by_readable_runs(const fa_job *j, const part *whole, pass run, const fa_strip *constants,
                             const part *next, int worker)
{
    part p = *whole, ahead = *next;
    for (ptrdiff_t left = whole->runs; left > 0; left -= p.runs) {
        p.runs = left;
        p.runs = runs_at_once(j, &p);
        run(j, &p, constants, &ahead, worker);
        p.first += p.runs;
        ahead.first += p.runs;
    }
}

/* n elements of a run from `at` on: where they lie, or, if that is at the end of the array, a copy. */
static const char *elements(const fa_job *j, const fa_view *v, const part *p, ptrdiff_t at, ptrdiff_t n, void *buffer)
{
    const char *from = address(v, p->channel, p->first) + at * j->itemsize;
    if (from + fa_padded(n) * j->itemsize <= v->end)
        return from;
    memcpy(buffer, from, (size_t)(n * j->itemsize));
    fa_fill(j, (char *)buffer + n * j->itemsize, fa_padded(n) - n, 0.0);
    return buffer;
}

/* n elements of each run of a part, from `at` on.  Every field is named: setting a span to 0 before would take
 * longer. */
static fa_span span_of(const fa_job *j, const part *p, ptrdiff_t at, ptrdiff_t n, const fa_strip *constants,
                       const part *next, int worker)
{
    const char *x = elements(j, j->x, p, at, n, j->scratch[worker].x), *next_x = x, *next_dy = x;
    const int fetches = next->runs > 0;
    if (fetches) {
        next_x = address(j->x, next->channel, next->first) + at * j->itemsize;
        next_dy = j->backward ? address(j->dy, next->channel, next->first) + at * j->itemsize : next_x;
    }
    return (fa_span){.x = x, .dy = x, .out = NULL, .rows = p->runs, .strips = fa_padded(n) / FA_LANES,
                     .x_step = step_of(j, j->x), .dy_step = 0, .out_step = 0, .constants = constants, .each = 0,
                     .odd = (int)(n % FA_LANES), .varying = 0, .stream = 0, .dparam = NULL, .residual = NULL,
                     .residual_step = 0, .ahead = {next_x, next_dy},
                     .ahead_step = fetches ? j->x->strides[0] : 0,
                     .ahead_strip = fetches ? FA_LANES * j->itemsize : 0};
}

static void read_dy(const fa_job *j, const part *p, ptrdiff_t at, ptrdiff_t n, fa_span *span, int worker)
{
    span->dy = elements(j, j->dy, p, at, n, j->scratch[worker].dy);
    span->dy_step = step_of(j, j->dy);
}

static void read_residual(const fa_job *j, const part *p, fa_span *span, int worker)
{
    if (!fa_needs_residual(j))
        return;
    span->residual = elements(j, j->bn->residual, p, 0, j->run, j->spare + worker * FA_TILE);
    span->residual_step = step_of(j, j->bn->residual);
}

/* ---- first pass --------------------------------------------------------------------------------------------- */

/* g of a channel, in rows of whole strips, which waits for the second pass. */
static char *kept_g(const fa_job *j, ptrdiff_t run, int worker)
{
    return j->kept + worker * j->kept_bytes + run * fa_padded(j->run) * j->itemsize;
}

static int keeps_g(const fa_job *j)
{
    return j->backward && j->activation && !j->by_sign;
}

static void find_g(const fa_job *j, const part *p, const fa_strip *constants, const part *next, int worker)
{
    fa_span span = span_of(j, p, 0, j->run, constants, next, worker);
    read_dy(j, p, 0, j->run, &span, worker);
    read_residual(j, p, &span, worker);
    span.out = kept_g(j, p->first, worker);
    span.out_step = fa_padded(j->run);
    j->kernels->backward(&span, j->activation, NULL);
    for (ptrdiff_t r = p->first; j->bn->g && r < p->first + p->runs; r++)
        memcpy((char *)address(j->bn->g, p->channel, r), kept_g(j, r, worker), (size_t)(j->run * j->itemsize));
}

static void reduce_elements(const fa_job *j, const part *p, ptrdiff_t at, ptrdiff_t n, const fa_strip *constants,
                            fa_lanes *lanes, const part *next, int worker)
{
    fa_span span = span_of(j, p, at, n, constants, next, worker);
    if (!j->backward) {
        j->kernels->moments(lanes, 1, &span);
        return;
    }
    if (keeps_g(j)) {
        span.dy = kept_g(j, p->first, worker) + at * j->itemsize;
        span.dy_step = fa_padded(j->run);
    } else {
        read_dy(j, p, at, n, &span, worker);
    }
    if (j->by_sign)
        j->kernels->sided[j->bn->activation].sums(lanes, 1, &span);
    else
        j->kernels->sums(lanes, 1, &span, FA_LANES);
}

/* Of a part whole runs at a time, or what a block, or the block before, does not take of one.  Where places have moved
 * on at the end of a channel the sum is the same: folding adds those that are opposite, wherever they begin. */
static void reduce(const fa_job *j, const part *whole, const fa_strip *constants, fa_lanes *lanes, double *parts,
                   const part *next, int worker)
{
    const ptrdiff_t run = j->run, end = (whole->first + whole->runs) * run;
    if (keeps_g(j))
        by_readable_runs(j, whole, find_g, constants, next, worker);
    for (ptrdiff_t k = whole->first * run; k < end;) {
        const ptrdiff_t at = k % run, left = fa_at_most(end - k, FA_BLOCK - k % FA_BLOCK);
        const ptrdiff_t n = fa_at_most(left, run - at);
        part p = {whole->channel, k / run, n == run ? left / run : 1}, ahead = *next;
        p.runs = runs_at_once(j, &p);
        ahead.first += p.first - whole->first;
        if (k % FA_BLOCK == 0)
            fa_clear(j, lanes);
        reduce_elements(j, &p, at, n, constants, lanes, &ahead, worker);
        k += n * p.runs;
        if (k % FA_BLOCK == 0 || k == j->bn->count)
            j->kernels->fold_run(lanes, j->nsums, fa_part(parts, 1, (k - 1) / FA_BLOCK, 0, 0), 1);
    }
}

/* ---- second pass -------------------------------------------------------------------------------------------- */

static void apply_span(const fa_job *j, fa_span *span)
{
    if (j->by_sign)
        j->kernels->sided[j->bn->activation].apply(span);
    else if (j->backward)
        j->kernels->apply(span, j->training);
    else
        fa_run_forward(j, span);
}

/* The odd ends of the runs of a span, the last strips of its rows, which it becomes: written elsewhere whole, then
 * copied. */
static void apply_ends(const fa_job *j, fa_span *span, char *out, ptrdiff_t odd, fa_scratch *s)
{
    const ptrdiff_t at = span->strips * FA_LANES * j->itemsize, row = span->out_step * j->itemsize;
    span->x = (const char *)span->x + at;
    span->dy = (const char *)span->dy + at;
    if (span->residual)
        span->residual = (const char *)span->residual + at;
    for (int k = 0; k < 2; k++)
        span->ahead[k] += span->strips * span->ahead_strip;
    span->out = s->g;
    span->out_step = FA_LANES;
    span->strips = 1;
    span->each = 1; /* a column */
    apply_span(j, span);
    for (ptrdiff_t r = 0; r < span->rows; r++)
        memcpy(out + r * row + at, (const char *)s->g + r * FA_LANES * j->itemsize, (size_t)(odd * j->itemsize));
}

static void apply(const fa_job *j, const part *p, const fa_strip *constants, const part *next, int worker)
{
    const ptrdiff_t odd = j->run % FA_LANES;
    if (j->fetches && p->channel + 1 < j->bn->channels)
        fa_view_fetch_to_write(j->out, p->channel + 1, p->first * j->run, p->runs * j->run);
    fa_span span = span_of(j, p, 0, j->run, constants, next, worker);
    span.out = (char *)address(j->out, p->channel, p->first);
    span.out_step = step_of(j, j->out);
    if (keeps_g(j)) {
        span.dy = kept_g(j, p->first, worker);
        span.dy_step = fa_padded(j->run);
    } else if (j->backward) {
        read_dy(j, p, 0, j->run, &span, worker);
    } else {
        read_residual(j, p, &span, worker);
    }
    span.strips = j->run / FA_LANES;
    apply_span(j, &span);
    if (odd)
        apply_ends(j, &span, span.out, odd, j->scratch + worker);
}

/* ---- tasks --------------------------------------------------------------------------------------------------- */

static part part_of(const fa_job *j, ptrdiff_t channel, ptrdiff_t first)
{
    return (part){channel, first, fa_at_most(j->x->shape[0] - first, j->part)};
}

/* What will be reduced after a part of channel c, for the caches to fetch. */
static part look_ahead(const fa_job *j, ptrdiff_t c, ptrdiff_t first, ptrdiff_t end)
{
    const part nothing = {0, 0, 0};
    if (first >= j->x->shape[0])
        c++, first = 0;
    return c < end ? part_of(j, c, first) : nothing;
}

static void whole_channels(void *job, ptrdiff_t begin, ptrdiff_t end, int worker)
{
    const fa_job *j = job;
    const part nothing = {0, 0, 0};
    double *parts = j->parts + worker * j->blocks * FA_SUMS * 2;
    fa_strip both[2];
    fa_lanes lanes;
    for (ptrdiff_t c = begin; c <= end; c++) {
        fa_strip *this = both + (c - begin) % 2, *before = both + (c - begin + 1) % 2;
        if (c < end)
            fa_begin_channel(j, c, this, worker);
        for (ptrdiff_t r = 0; r < j->x->shape[0]; r += j->part) {
            const part next = look_ahead(j, c, r + j->part, end);
            const int in_second = c > begin && !j->backward;
            const part reduced = part_of(j, c, r), applied = part_of(j, c - 1, r);
            if (c > begin)
                by_readable_runs(j, &applied, apply, before, in_second ? &next : &nothing, worker);
            if (c < end)
                reduce(j, &reduced, this, &lanes, parts, in_second ? &nothing : &next, worker);
        }
        if (c < end) {
            fa_finish_channels(j, parts, 1, c, 1);
            fa_repeat_channel(j, c, this, 1);
        }
    }
}

/* ---- where it can be done -------------------------------------------------------------------------------------- */

/* Whether a view is of the runs that x is of. */
static int has_runs(const fa_job *j, const fa_view *v)
{
    const ptrdiff_t *shape = j->x->shape;
    return !v || (v->ndim == 2 && v->shape[0] == shape[0] && v->shape[1] == shape[1] && v->strides[0] > 0 &&
                  v->strides[1] == j->itemsize && fa_view_is_aligned(v));
}

/* The lowest address of a view of runs. */
static const char *lowest(const fa_job *j, const fa_view *v)
{
    return v->channel_stride < 0 ? v->data + (j->bn->channels - 1) * v->channel_stride : v->data;
}

static int overlap(const fa_job *j, const fa_view *a, const fa_view *b)
{
    return a && b && lowest(j, a) < b->end && lowest(j, b) < a->end;
}

/* Whether results are written to what kernels may read of another channel. */
static int writes_what_is_read(const fa_job *j)
{
    const fa_view *results[] = {j->out, j->bn->g};
    int some = 0;
    for (int i = 0; i < 2; i++)
        some |= overlap(j, results[i], j->x) | overlap(j, results[i], j->dy) | overlap(j, results[i], j->bn->residual);
    return some;
}

/* Whether runs are whole lines of the cache, which batchnorm_channels.c writes past it. */
static int had_better_stream(const fa_job *j)
{
    return j->stream && j->x->shape[1] * j->itemsize % 64 == 0;
}

static ptrdiff_t bytes_of_g(const fa_job *j)
{
    return keeps_g(j) ? j->x->shape[0] * fa_padded(j->x->shape[1]) * j->itemsize : 0;
}

int fa_can_run_runs(const fa_job *j)
{
    const fa_batchnorm *bn = j->bn;
    if (j->half || j->learns || bn->mask || bn->weights || bn->from_output || bn->first || (bn->g && !keeps_g(j)) ||
        !fa_reduces(j) || !fa_applies(j) || j->x->ndim != 2 || !fa_by_whole_channels(j) || had_better_stream(j))
        return 0;
    return j->x->shape[1] >= LEAST_RUN && j->x->shape[1] < FA_BLOCK && has_runs(j, j->x) && has_runs(j, j->dy) &&
           has_runs(j, j->out) && has_runs(j, bn->residual) && has_runs(j, bn->g) && !writes_what_is_read(j) &&
           2 * bytes_of_g(j) <= fa_l2_bytes();
}

int fa_run_runs(fa_job *j)
{
    j->run = j->x->shape[1];
    j->part = (PART + j->run - 1) / j->run;
    j->kept_bytes = bytes_of_g(j);
    j->fetches = j->bn->channels * j->bn->count * j->itemsize > fa_l2_bytes();
    j->parts = malloc((size_t)(j->threads * j->blocks * FA_SUMS * 2) * sizeof(double));
    j->kept = fa_aligned_alloc((size_t)(j->threads * j->kept_bytes) + 64);
    const int ready = j->parts && j->kept;
    if (ready)
        fa_parallel_for(j->bn->channels, j->threads, whole_channels, j);
    free(j->parts);
    fa_aligned_free(j->kept);
    return ready ? 0 : -1;
}
