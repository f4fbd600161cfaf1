/* BatchNorm where the channels of an element lie side by side: NHWC, (N, C).
 *
 * x is a matrix with a row for each element, and a strip of it FA_LANES columns wide is what kernels work on.
 * Where the number of channels is no multiple of FA_LANES, `repeat` rows of x are taken as one row of a matrix
 * that is wide enough to be one; then a column stands for a channel and a part of the lanes, and what a channel
 * has is put together at the end of a block.  Where that would be too wide, or rows do not lie side by side, or
 * elements have to be widened, strips go through a buffer. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "batchnorm_job.h"
#include "memory.h"
#include "parallel.h"

enum {
    MOST_REPEATED = 1024, /* columns of a matrix of repeated rows */
    GROUP = 4,            /* strips of a task of the reduction */
    ROWS = 64             /* of a span, at least */
};

/* ---- the matrix ------------------------------------------------------------------------------------------ */

static int is_packed(const fa_job *j, const fa_view *v)
{
    return !v || v->strides[0] == j->bn->channels * j->itemsize;
}

static ptrdiff_t repeats(const fa_job *j)
{
    ptrdiff_t repeat = 1;
    while (repeat * j->bn->channels % FA_LANES)
        repeat *= 2;
    const int fits = repeat * j->bn->channels <= MOST_REPEATED && repeat <= j->bn->count && !j->half;
    return fits && is_packed(j, j->x) && is_packed(j, j->dy) && is_packed(j, j->out) ? repeat : 1;
}

static void plan_matrix(fa_job *j)
{
    fa_matrix *m = &j->matrix;
    m->repeat = repeats(j);
    m->width = m->repeat * j->bn->channels;
    m->rows = j->bn->count / m->repeat;
    m->strips = (m->width + FA_LANES - 1) / FA_LANES;
    m->lanes = FA_LANES / (int)m->repeat;
    m->group = m->repeat > 1 ? m->strips : fa_at_most(m->strips, GROUP);
    m->height = ROWS;
    while (m->height * FA_LANES < FA_TILE && m->height * m->strips < ROWS * GROUP)
        m->height *= 2;
}

static ptrdiff_t groups(const fa_matrix *m)
{
    return (m->strips + m->group - 1) / m->group;
}

/* Some rows of a strip. */
typedef struct {
    ptrdiff_t row, rows, strip;
    ptrdiff_t columns; /* FA_LANES, but for the last strip */
} piece;

static piece locate(const fa_job *j, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t strip)
{
    return (piece){row, rows, strip, fa_at_most(j->matrix.width - strip * FA_LANES, FA_LANES)};
}

/* The rows that are too few to be repeated, as one row of the matrix. */
static ptrdiff_t left_over(const fa_job *j)
{
    return j->bn->count % j->matrix.repeat * j->bn->channels;
}

static piece locate_left_over(const fa_job *j, ptrdiff_t strip)
{
    const ptrdiff_t columns = left_over(j) - strip * FA_LANES;
    return (piece){j->matrix.rows, 1, strip, columns < 0 ? 0 : fa_at_most(columns, FA_LANES)};
}

static char *address(const fa_job *j, const fa_view *v, const piece *p)
{
    return v->data + p->row * j->matrix.repeat * v->strides[0] + p->strip * FA_LANES * j->itemsize;
}

/* Bytes from a row of the matrix to the next. */
static ptrdiff_t step(const fa_job *j, const fa_view *v)
{
    return j->matrix.repeat * v->strides[0];
}

static int is_direct(const fa_job *j, const piece *p)
{
    return p->columns == FA_LANES && !j->half;
}

/* ---- between memory and buffers ------------------------------------------------------------------------------ */

static void read_row(const fa_job *j, const char *from, ptrdiff_t n, char *to)
{
    if (j->half)
        j->half->widen(from, (double *)to, n);
    else
        memcpy(to, from, (size_t)(n * j->itemsize));
}

/* `pad`: what fills rows up to FA_LANES, of the same columns */
static const void *read_piece(const fa_job *j, const fa_view *v, const piece *p, const double *pad, void *buffer,
                              ptrdiff_t *row_step)
{
    const char *from = address(j, v, p);
    char *to = buffer;
    *row_step = step(j, v) / j->itemsize;
    if (is_direct(j, p))
        return from;
    *row_step = FA_LANES;
    for (ptrdiff_t r = 0; r < p->rows; r++, from += step(j, v), to += FA_LANES * j->tile_size) {
        read_row(j, from, p->columns, to);
        for (ptrdiff_t i = p->columns; i < FA_LANES; i++)
            fa_fill(j, to + i * j->tile_size, 1, pad ? pad[i] : 0.0);
    }
    return buffer;
}

static void write_piece(const fa_job *j, const piece *p, const char *from)
{
    char *to = address(j, j->out, p);
    for (ptrdiff_t r = 0; r < p->rows; r++, to += step(j, j->out), from += FA_LANES * j->tile_size)
        if (j->half)
            j->half->narrow((const double *)from, to, p->columns);
        else
            memcpy(to, from, (size_t)(p->columns * j->itemsize));
}

/* ---- columns: the channels' constants, repeated ---------------------------------------------------------------- */

static double *repeated(const fa_job *j, double **memory, const double *from)
{
    const ptrdiff_t channels = j->bn->channels, width = j->matrix.strips * FA_LANES;
    double *to = *memory;
    for (ptrdiff_t i = 0; from && i < width; i++)
        to[i] = i < j->matrix.width ? from[i % channels] : 0.0;
    *memory += width;
    return from ? to : NULL;
}

enum { TABLES = 10 + FA_MAX_PARAMS };

static void fill_columns(fa_job *j)
{
    const fa_affine *a = &j->statistics->affine;
    fa_columns *c = &j->columns;
    double *memory = j->memory;
    double **each[] = {&c->shift,            &c->affine.centre,    &c->affine.scale_hi, &c->affine.scale_lo,
                       &c->affine.offset_hi, &c->affine.offset_lo, &c->affine.delta,    &c->slope.slope,
                       &c->slope.constant,   &c->slope.wide};
    double *from[] = {j->shift,     a->centre, a->scale_hi,    a->scale_lo,       a->offset_hi,
                      a->offset_lo, a->delta,  j->slope.slope, j->slope.constant, j->slope.wide};
    for (int t = 0; t < TABLES - FA_MAX_PARAMS; t++)
        *each[t] = j->matrix.copies ? repeated(j, &memory, from[t]) : from[t];
    for (int p = 0; p < FA_MAX_PARAMS; p++) {
        const double *value = j->bn->params[p];
        c->params[p] = value;
        if (value && j->bn->params_per_channel && j->matrix.copies)
            c->params[p] = repeated(j, &memory, value);
        if (value && !j->bn->params_per_channel) {
            c->params[p] = memory;
            for (int i = 0; i < FA_LANES; i++)
                *memory++ = *value;
        }
    }
}

static fa_span span_of(const fa_job *j, const piece *p)
{
    const fa_columns *columns = &j->columns;
    const ptrdiff_t at = p->strip * FA_LANES;
    fa_span span = {.rows = p->rows, .affine = fa_affine_at(&columns->affine, at), .varying = j->bn->params_per_channel};
    for (int k = 0; k < FA_MAX_PARAMS; k++)
        span.params[k] = columns->params[k] ? columns->params[k] + (span.varying ? at : 0) : NULL;
    return span;
}

/* What comes after the piece in memory. */
static void look_ahead(const fa_job *j, const piece *p, fa_span *span)
{
    const fa_view *x = j->x, *other = j->dy ? j->dy : x;
    span->ahead[0] = address(j, x, p) + p->rows * step(j, x);
    span->ahead[1] = address(j, other, p) + p->rows * step(j, other);
    span->ahead_step = step(j, x);
}

/* ---- first pass --------------------------------------------------------------------------------------------------- */

static void find_g(const fa_job *j, const piece *p, fa_span *span, fa_scratch *s)
{
    const int direct = j->keep_g && is_direct(j, p);
    span->out = direct ? address(j, j->out, p) : (char *)s->g;
    span->out_step = direct ? step(j, j->out) / j->itemsize : FA_LANES;
    span->dparam = j->learns ? s->dparam : NULL;
    j->kernels->backward(span, j->activation, j->half);
    if (j->keep_g && !direct)
        write_piece(j, p, (char *)s->g);
    for (ptrdiff_t i = p->columns; p->rows == 1 && i < FA_LANES; i++) { /* whatever the padding gives */
        fa_fill(j, (char *)span->out + i * j->tile_size, 1, 0.0);
        s->dparam[i] = 0.0;
    }
    span->dy = span->out;
    span->dy_step = span->out_step;
}

static void reduce_piece(const fa_job *j, const piece *p, fa_lanes *lanes, int nlanes, fa_scratch *s)
{
    const double *shift = j->columns.shift + p->strip * FA_LANES;
    fa_span span = span_of(j, p);
    span.x = read_piece(j, j->x, p, j->backward ? NULL : shift, s->x, &span.x_step);
    look_ahead(j, p, &span);
    if (!j->backward) {
        j->kernels->moments(lanes, nlanes, &span, shift);
        return;
    }
    span.dy = read_piece(j, j->dy, p, NULL, s->dy, &span.dy_step);
    if (j->activation)
        find_g(j, p, &span, s);
    j->kernels->sums(lanes, nlanes, &span);
}

/* A channel's lanes are columns of several rows: [strip][lane of the matrix]. */
static void fold_repeated(const fa_job *j, const fa_lanes *lanes, double *out)
{
    const fa_matrix *m = &j->matrix;
    for (ptrdiff_t c = 0; c < j->bn->channels; c++) {
        fa_lanes own;
        for (int k = 0; k < FA_LANES; k++) {
            const ptrdiff_t column = k % m->repeat * j->bn->channels + c;
            const fa_lanes *from = lanes + column / FA_LANES * m->lanes + k / m->repeat;
            for (int s = 0; s < j->nsums; s++)
                for (int part = 0; part < fa_parts_of(j); part++)
                    own.at[part][s][k] = from->at[part][s][column % FA_LANES];
        }
        j->kernels->fold_run(&own, j->nsums, out + c, j->parts_width);
    }
}

static void reduce_task(const fa_job *j, ptrdiff_t block, ptrdiff_t group, int worker)
{
    const fa_matrix *m = &j->matrix;
    const ptrdiff_t first = group * m->group, strips = fa_at_most(m->strips - first, m->group);
    const ptrdiff_t begin = block * (FA_BLOCK / m->repeat), rows = fa_at_most(m->rows - begin, FA_BLOCK / m->repeat);
    fa_lanes *lanes = j->lanes + worker * j->lanes_each;
    fa_scratch *s = j->scratch + worker;
    for (ptrdiff_t k = 0; k < strips * m->lanes; k++)
        fa_clear(j, lanes + k);
    for (ptrdiff_t r = 0; r < rows; r += m->height)
        for (ptrdiff_t t = 0; t < strips; t++) {
            const piece p = locate(j, begin + r, fa_at_most(rows - r, m->height), first + t);
            reduce_piece(j, &p, lanes + t * m->lanes, m->lanes, s);
        }
    for (ptrdiff_t t = 0; block == j->blocks - 1 && t < strips; t++) {
        const piece p = locate_left_over(j, first + t);
        if (p.columns > 0)
            reduce_piece(j, &p, lanes + t * m->lanes + rows % m->lanes, 1, s);
    }
    double *out = fa_part(j->parts, j->parts_width, block, 0, 0) + first * FA_LANES;
    if (m->repeat > 1)
        fold_repeated(j, lanes, out);
    else
        for (ptrdiff_t t = 0; t < strips; t++)
            j->kernels->fold_strip(lanes + t * m->lanes, j->nsums, out + t * FA_LANES, j->parts_width,
                                   fa_at_most(m->width - (first + t) * FA_LANES, FA_LANES));
}

static void reduce_tasks(void *job, ptrdiff_t begin, ptrdiff_t end, int worker)
{
    const fa_job *j = job;
    for (ptrdiff_t t = begin; t < end; t++)
        reduce_task(j, t / groups(&j->matrix), t % groups(&j->matrix), worker);
}

/* One channel's shift, gathered. */
static void find_shift(const fa_job *j, ptrdiff_t c, fa_scratch *s)
{
    const ptrdiff_t n = fa_at_most(j->bn->count, FA_LANES);
    fa_view_read(j->x, c, 0, n, s->x);
    for (ptrdiff_t i = n; i < FA_LANES; i++)
        memcpy((char *)s->x + i * j->tile_size, s->x, (size_t)j->tile_size);
    j->shift[c] = j->kernels->run_shift(s->x);
}

static void find_shifts(const fa_job *j)
{
    ptrdiff_t c = 0;
    if (j->bn->count >= FA_LANES && !j->half)
        for (; c + FA_LANES <= j->bn->channels; c += FA_LANES)
            j->kernels->strip_shift(j->x->data + c * j->itemsize, j->x->strides[0] / j->itemsize, j->shift + c);
    for (; c < j->bn->channels; c++)
        find_shift(j, c, j->scratch);
}

enum { CHANNELS_A_TASK = 256 };

static void finish(void *job, ptrdiff_t begin, ptrdiff_t end, int worker)
{
    const fa_job *j = job;
    const ptrdiff_t c = begin * CHANNELS_A_TASK;
    (void)worker;
    fa_finish_channels(j, j->parts + c, j->parts_width, c, fa_at_most(j->bn->channels - c, (end - begin) * CHANNELS_A_TASK));
}

/* ---- second pass ---------------------------------------------------------------------------------------------------- */

static void find_g_again(const fa_job *j, fa_span *span, fa_scratch *s)
{
    fa_span again = *span;
    again.out = s->g;
    again.out_step = FA_LANES;
    again.stream = 0;
    j->kernels->backward(&again, j->activation, j->half);
    span->dy = s->g;
    span->dy_step = FA_LANES;
}

static void second_pass_piece(const fa_job *j, const piece *p, fa_scratch *s)
{
    const fa_slope slope = fa_slope_at(&j->columns.slope, p->strip * FA_LANES);
    const int direct = is_direct(j, p);
    fa_span span = span_of(j, p);
    char *own = direct ? address(j, j->out, p) : NULL;
    span.x = read_piece(j, j->x, p, NULL, s->x, &span.x_step);
    look_ahead(j, p, &span);
    span.out = direct ? own : (char *)s->x;
    span.out_step = direct ? step(j, j->out) / j->itemsize : FA_LANES;
    span.stream = direct && j->stream && (uintptr_t)own % 64 == 0 && step(j, j->out) % 64 == 0;
    if (j->backward) {
        span.dy = read_piece(j, j->keep_g ? j->out : j->dy, p, NULL, s->dy, &span.dy_step);
        if (j->activation && !j->keep_g)
            find_g_again(j, &span, s);
        j->kernels->apply(&span, j->training ? &slope : NULL);
    } else {
        fa_run_forward(j, &span);
    }
    if (!direct)
        write_piece(j, p, span.out);
}

static ptrdiff_t row_tiles(const fa_job *j)
{
    return (j->matrix.rows + j->matrix.height - 1) / j->matrix.height;
}

/* Backwards in steps that are worth prefetching, forwards within them: the pass before this one left the
 * end of the share in the cache. */
enum { TILES_A_STEP = 16 };

static void second_pass_tile(const fa_job *j, ptrdiff_t tile, fa_scratch *s)
{
    const ptrdiff_t row = tile * j->matrix.height;
    for (ptrdiff_t strip = 0; strip < j->matrix.strips; strip++) {
        const piece p = tile == row_tiles(j)
                            ? locate_left_over(j, strip)
                            : locate(j, row, fa_at_most(j->matrix.rows - row, j->matrix.height), strip);
        if (p.columns > 0)
            second_pass_piece(j, &p, s);
    }
}

static void second_pass_tiles(void *job, ptrdiff_t begin, ptrdiff_t end, int worker)
{
    const fa_job *j = job;
    for (ptrdiff_t top = end; top > begin; top -= TILES_A_STEP)
        for (ptrdiff_t t = top - TILES_A_STEP < begin ? begin : top - TILES_A_STEP; t < top; t++)
            second_pass_tile(j, t, j->scratch + worker);
}

/* ---- the driver -------------------------------------------------------------------------------------------------------- */

static int allocate(fa_job *j)
{
    const ptrdiff_t width = j->matrix.strips * FA_LANES;
    j->matrix.copies = j->matrix.repeat > 1 || width != j->matrix.width;
    j->parts_width = j->bn->channels;
    j->lanes_each = j->matrix.group * j->matrix.lanes;
    j->parts = malloc((size_t)(j->blocks * FA_SUMS * 2 * j->parts_width) * sizeof(double));
    j->lanes = fa_aligned_alloc((size_t)(j->threads * j->lanes_each) * sizeof(fa_lanes));
    j->memory = malloc((size_t)(j->matrix.copies ? TABLES * width : FA_MAX_PARAMS * FA_LANES) * sizeof(double));
    return j->parts && j->lanes && j->memory ? 0 : -1;
}

static void passes(fa_job *j)
{
    const ptrdiff_t finishers = (j->bn->channels + CHANNELS_A_TASK - 1) / CHANNELS_A_TASK;
    if (fa_reduces(j)) {
        if (!j->backward)
            find_shifts(j);
        fill_columns(j);
        fa_parallel_for(j->blocks * groups(&j->matrix), j->threads, reduce_tasks, j);
        fa_parallel_for(finishers, fa_threads_for(j->bn->channels * j->blocks * FA_LANES), finish, j);
    }
    if (j->bare)
        return;
    fill_columns(j);
    fa_parallel_for(row_tiles(j) + (left_over(j) > 0), j->threads, second_pass_tiles, j);
}

int fa_run_rows(fa_job *j)
{
    plan_matrix(j);
    const int status = allocate(j);
    if (status == 0)
        passes(j);
    free(j->parts);
    fa_aligned_free(j->lanes);
    free(j->memory);
    return status;
}
