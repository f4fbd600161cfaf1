/* BatchNorm with constant statistics where every channel has runs of memory (NCHW): nothing is summed, so nothing
 * has to be read channel by channel, and the fastest order is that of memory.
 *
 * A task is a tile of memory, which may be parts of several runs.  Kernels take elements by FA_LANES, runs end
 * anywhere: results go to a buffer, where what is too much of a run is overwritten by the next, and from there to
 * memory in whole lines. */
#include <stdint.h>
#include <string.h>

#include "batchnorm_job.h"
#include "parallel.h"

enum {
    TILE = FA_TILE / 2, /* elements; a buffer has room for FA_LANES more */
    /* shorter runs would mostly be padding; or calls */
    LEAST_ROW = 2 * FA_LANES,
    LEAST_RUN = 4 * FA_LANES
};

/* Whether one call takes many runs, as rows of a span: float32's kernels find the constants of each. */
static int takes_rows(const fa_job *j)
{
    return j->bn->real == FA_FLOAT32 && !j->bn->params_per_channel;
}

static int is_flat(const fa_job *j, const fa_view *v, ptrdiff_t run)
{
    const ptrdiff_t bytes = run * j->itemsize, channels = j->bn->channels;
    return v->shape[v->ndim - 1] == run && v->strides[v->ndim - 1] == j->itemsize &&
           (channels == 1 || v->channel_stride == bytes) &&
           (v->ndim == 1 || (v->ndim == 2 && v->strides[0] == channels * bytes)) && fa_view_is_aligned(v);
}

int fa_can_run_flat(const fa_job *j)
{
    const fa_batchnorm *bn = j->bn;
    const ptrdiff_t run = j->x->shape[j->x->ndim - 1];
    return !fa_reduces(j) && !j->backward && !j->half && !bn->mask && !bn->from_output && !j->only_recovers &&
           run >= (takes_rows(j) ? LEAST_ROW : LEAST_RUN) && is_flat(j, j->x, run) && is_flat(j, j->out, run) &&
           (!bn->residual || is_flat(j, bn->residual, run));
}

/* Whether the activation runs over a tile of z, not over run after run of it: where arithmetic is what takes time, and
 * the parameters are the same for all. */
static int activates_at_once(const fa_job *j)
{
    return j->activation && (j->costly || !j->activation->fused_forward) && !j->bn->params_per_channel &&
           !j->bn->residual;
}

static void copy(void *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
}

static void repeat(double *to, double value)
{
    for (int i = 0; i < FA_LANES; i++)
        to[i] = value;
}

static void set_params(const fa_job *j, ptrdiff_t c, fa_strip *k)
{
    for (int p = 0; p < FA_MAX_PARAMS && j->bn->params[p]; p++)
        repeat(k->params[p], j->bn->params[p][j->bn->params_per_channel ? c : 0]);
}

/* Of the channel of a run. */
static void set_constants(const fa_job *j, ptrdiff_t run, fa_strip *k)
{
    const ptrdiff_t c = run % j->bn->channels;
    const fa_affine *a = &j->statistics->affine;
    repeat(k->centre, a->centre[c]);
    repeat(k->scale_hi, a->scale_hi[c]);
    repeat(k->scale_lo, a->scale_lo[c]);
    repeat(k->offset_hi, a->offset_hi[c]);
    repeat(k->offset_lo, a->offset_lo[c]);
    set_params(j, c, k);
}

/* Elements that can be read by FA_LANES: where they lie, if what follows belongs to the tile, or a copy. */
static const char *readable(const fa_job *j, const char *from, ptrdiff_t n, const char *end, void *buffer)
{
    if (from + fa_padded(n) * j->itemsize <= end)
        return from;
    memcpy(buffer, from, (size_t)(n * j->itemsize));
    fa_fill(j, (char *)buffer + n * j->itemsize, fa_padded(n) - n, 0.0);
    return buffer;
}

/* `rows` times n elements of memory from `at` on, each time one channel's; the tile ends at `end`. */
static void run_piece(const fa_job *j, ptrdiff_t at, ptrdiff_t rows, ptrdiff_t n, ptrdiff_t end, fa_span *span,
                      fa_scratch *s)
{
    const ptrdiff_t size = j->itemsize, next = end + TILE <= j->bn->channels * j->bn->count ? TILE * size : 0;
    const char *x = j->x->data + at * size;
    span->x = rows > 1 ? x : readable(j, x, n, j->x->data + end * size, s->dy);
    span->ahead[0] = span->ahead[1] = x + next;
    span->rows = rows;
    span->strips = fa_padded(n) / FA_LANES;
    span->x_step = span->out_step = span->residual_step = n;
    span->ahead_step = n * size;
    if (j->bn->residual) {
        const char *residual = j->bn->residual->data + at * size;
        span->residual = rows > 1 ? residual : readable(j, residual, n, residual + (end - at) * size, s->g);
        span->ahead[1] = residual + next;
    }
    if (activates_at_once(j))
        j->kernels->normalize(span);
    else
        fa_run_forward(j, span);
}

/* Writes a tile that is z, or y, from the buffer. */
static void put_tile(const fa_job *j, char *own, char *buffer, ptrdiff_t n)
{
    char *y = n % FA_LANES == 0 && !j->stream ? own : buffer;
    if (activates_at_once(j))
        j->activation->forward[FA_UNIFORM](buffer, y, fa_padded(n), j->bn->params);
    else
        y = buffer;
    if (y == buffer)
        (j->stream ? j->stream : copy)(own, buffer, (size_t)(n * j->itemsize));
}

/* Whole runs from run r on that one call takes: of channels that follow each other, and so that what is read behind
 * the last belongs to the tile. */
static ptrdiff_t rows_from(const fa_job *j, ptrdiff_t r, ptrdiff_t run, ptrdiff_t end)
{
    const ptrdiff_t channels = j->bn->channels, in_tile = (end - r * run - (fa_padded(run) - run)) / run;
    const ptrdiff_t rows = fa_at_most(in_tile, channels - r % channels);
    return rows > 1 ? rows : 1;
}

static void set_rows(const fa_job *j, ptrdiff_t r, fa_span *span)
{
    const ptrdiff_t c = r % j->bn->channels;
    const fa_affine *a = &j->statistics->affine;
    span->of_rows[0] = a->centre + c;
    span->of_rows[1] = a->scale_hi + c;
    span->of_rows[2] = a->offset_hi + c;
}

static void run_tile(const fa_job *j, ptrdiff_t tile, int worker)
{
    const ptrdiff_t run = j->x->shape[j->x->ndim - 1], begin = tile * TILE;
    const ptrdiff_t end = begin + fa_at_most(j->bn->channels * j->bn->count - begin, TILE);
    char *own = j->out->data + begin * j->itemsize, *buffer = (char *)j->scratch[worker].x;
    const int direct = run % FA_LANES == 0 && (!j->stream || (uintptr_t)own % 64 == 0) && !activates_at_once(j);
    fa_span span = {.out = direct ? own : buffer, .stream = direct && j->stream, .ahead_strip = FA_LANES * j->itemsize};
    fa_strip both[2];
    ptrdiff_t r = begin / run;
    set_constants(j, r, both + r % 2);
    for (ptrdiff_t at = begin, n, rows; at < end; at += rows * n, r += rows) {
        n = fa_at_most(end - at, (r + 1) * run - at);
        rows = 1;
        if (takes_rows(j)) {
            rows = n == run ? rows_from(j, r, run, end) : 1;
            set_rows(j, r, &span);
            span.constants = both + begin / run % 2;
        } else {
            /* The next run's too: what has just been written in parts cannot be read as wide as the kernels do
             * without a wait. */
            set_constants(j, r + 1, both + (r + 1) % 2);
            span.constants = both + r % 2;
        }
        run_piece(j, at, rows, n, end, &span, j->scratch + worker);
        span.out = (char *)span.out + rows * n * j->itemsize;
    }
    if (!direct)
        put_tile(j, own, buffer, end - begin);
}

static void run_tiles(void *job, ptrdiff_t begin, ptrdiff_t end, int worker)
{
    for (ptrdiff_t t = begin; t < end; t++)
        run_tile(job, t, worker);
}

int fa_run_flat(fa_job *j)
{
    fa_parallel_for((j->bn->channels * j->bn->count + TILE - 1) / TILE, j->threads, run_tiles, j);
    return 0;
}
