/* BatchNorm where the channels of an element lie side by side: NHWC, (N, C).
 *
 * x is a matrix with a row for each element, cut into strips FA_LANES columns wide.  Where the number of channels
 * is no multiple of FA_LANES, `repeat` rows of x are taken as one row of a matrix that is wide enough to be one;
 * then a column stands for a channel and a part of the lanes, and what a channel has is put together at the end
 * of a block.  Where that would be too wide, or rows do not lie side by side, or elements have to be widened,
 * tiles go through a buffer.
 *
 * A task of the reduction is a block of some strips, so that the lanes of its sums stay in the cache; both passes go
 * along the rows, as memory does, as far as the cache has room.  Where g is kept it is found along the rows of as many
 * strips as the second-level cache holds, and then summed. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "batchnorm_job.h"
#include "memory.h"
#include "parallel.h"

enum {
    MOST_REPEATED = 1120, /* columns of a matrix of repeated rows: the first-level cache holds their lanes */
    MOST_STREAMED = 4096, /* the same without lanes, where rows that end with a line can be streamed */
    GROUP = 4,           /* strips that the reduction takes at a time */
    TASKS = 4,           /* of the reduction a thread, at least */
    ACROSS = 64,         /* strips of a tile of the second pass, at most: whole rows, in the order of memory */
    ACROSS_ALONG = 32    /* the same along the rows: the constants stay in the first-level cache */
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
    const fa_batchnorm *bn = j->bn;
    const ptrdiff_t most = j->stream && !fa_reduces(j) ? MOST_STREAMED : MOST_REPEATED;
    const int fits = repeat * bn->channels <= most && repeat <= bn->count && !j->half;
    const int by_element = bn->mask || bn->weights || bn->from_output || j->tolerance != 0.0;
    const int packed = is_packed(j, j->x) && is_packed(j, j->dy) && is_packed(j, j->out) &&
                       is_packed(j, bn->residual) && is_packed(j, j->g);
    return fits && packed && !by_element ? repeat : 1;
}

/* Bytes from a row of the matrix to the next. */
static ptrdiff_t step(const fa_job *j, const fa_view *v)
{
    return j->matrix.repeat * v->strides[0];
}

/* Tasks of a block, each of so many strips. */
static ptrdiff_t tasks(const fa_matrix *m, ptrdiff_t wide)
{
    return (m->strips + wide - 1) / wide;
}

/* A task takes as many groups as leave tasks enough, and whose lanes stay in the second-level cache: the more of a row
 * are read one after the other, the sooner they come. */
static void widen_tasks(const fa_job *j, fa_matrix *m)
{
    const ptrdiff_t lanes = m->lanes * 2 * FA_LANES * (ptrdiff_t)sizeof(double), most = fa_l2_bytes() / 4;
    m->wide = m->group;
    while (m->wide < m->strips && 2 * m->wide * lanes <= most && j->blocks * tasks(m, 2 * m->wide) >= TASKS * j->threads)
        m->wide *= 2;
}

/* Strips of a tile of the second pass: none much narrower than the others, and the strip that goes beyond the right
 * edge, which needs a buffer, in one of its own or with a few. */
static ptrdiff_t across(const fa_matrix *m)
{
    const ptrdiff_t whole = m->width / FA_LANES, most = m->along ? ACROSS_ALONG : ACROSS, n = (whole + most - 1) / most;
    if (n == 0)
        return 1;
    return m->width % FA_LANES ? whole / n : (whole + n - 1) / n;
}

/* Not where dx is written over g, whose lines are in the cache; nor where rows end within a line: that would be written
 * in parts, each of which waits for memory. `out` is NULL where nothing is written. */
static int had_better_stream(const fa_job *j)
{
    return j->stream && fa_applies(j) && j->g != j->out && step(j, j->out) % 64 == 0;
}

/* Strips whose x, dy and g take half of the second-level cache, for as many rows as are reduced at a time. */
static ptrdiff_t field(const fa_job *j, const fa_matrix *m)
{
    const ptrdiff_t strip = 3 * m->height * FA_LANES * j->itemsize;
    ptrdiff_t strips = m->group;
    while (strips < m->wide && 2 * strips * strip <= fa_l2_bytes() / 2)
        strips *= 2;
    return strips;
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
    while (m->repeat == 1 && m->group > 1 && j->blocks * tasks(m, m->group) < j->threads)
        m->group /= 2; /* more tasks than threads, where there are enough strips */
    widen_tasks(j, m);
    m->height = m->lanes; /* lanes take turns anew in each tile */
    while (2 * m->height * m->group * FA_LANES <= FA_TILE)
        m->height *= 2;
    m->field = field(j, m);
    const int beyond = j->stream != NULL;
    if (!had_better_stream(j))
        j->stream = NULL;
    m->along = beyond && (!j->stream || (uintptr_t)j->out->data % 64 == 0);
    m->across = across(m);
    m->down = FA_TILE / (m->across * FA_LANES);
}

/* Some rows of some strips. */
typedef struct {
    ptrdiff_t row, rows, strip, strips;
    ptrdiff_t columns; /* strips * FA_LANES, but at the right edge */
} piece;

static piece locate(const fa_job *j, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t strip, ptrdiff_t strips)
{
    const fa_matrix *m = &j->matrix;
    strips = fa_at_most(m->strips - strip, strips);
    return (piece){row, fa_at_most(m->rows - row, rows), strip, strips,
                   fa_at_most(m->width - strip * FA_LANES, strips * FA_LANES)};
}

/* The rows that are too few to be repeated, as one row of the matrix. */
static ptrdiff_t left_over(const fa_job *j)
{
    return j->bn->count % j->matrix.repeat * j->bn->channels;
}

static piece locate_left_over(const fa_job *j)
{
    return (piece){j->matrix.rows, 1, 0, fa_padded(left_over(j)) / FA_LANES, left_over(j)};
}

static char *address(const fa_job *j, const fa_view *v, const piece *p)
{
    return v->data + p->row * j->matrix.repeat * v->strides[0] + p->strip * FA_LANES * j->itemsize;
}

static int is_direct(const fa_job *j, const piece *p)
{
    return p->columns == p->strips * FA_LANES && !j->half;
}

/* Elements of a row of a piece in a buffer. */
static ptrdiff_t buffer_step(const piece *p)
{
    return p->strips * FA_LANES;
}

/* ---- between memory and buffers ------------------------------------------------------------------------------ */

static void read_row(const fa_job *j, const char *from, ptrdiff_t n, char *to)
{
    if (j->half)
        j->half->widen(from, (double *)to, n);
    else
        memcpy(to, from, (size_t)(n * j->itemsize));
}

/* What is beyond the right edge is the shift of its column, or 0. */
static void find_padding(const fa_job *j, const piece *p, int with_shift, char *padding)
{
    for (ptrdiff_t i = p->columns; i < buffer_step(p); i++, padding += j->tile_size) {
        const fa_strip *strip = j->strips + p->strip + i / FA_LANES;
        fa_fill(j, padding, 1, with_shift ? strip->shift[i % FA_LANES] : 0.0);
    }
}

static const void *copy_piece(const fa_job *j, const fa_view *v, const piece *p, void *buffer, ptrdiff_t *row_step)
{
    const char *from = address(j, v, p);
    const ptrdiff_t row = buffer_step(p) * j->tile_size, read = p->columns * j->tile_size;
    char padding[FA_LANES * sizeof(double)], *to = buffer;
    find_padding(j, p, v == j->x && !j->backward, padding);
    *row_step = buffer_step(p);
    for (ptrdiff_t r = 0; r < p->rows; r++, from += step(j, v), to += row) {
        read_row(j, from, p->columns, to);
        memcpy(to + read, padding, (size_t)(row - read));
    }
    return buffer;
}

/* Where it lies, or in the buffer. */
static const void *read_piece(const fa_job *j, const fa_view *v, const piece *p, void *buffer, ptrdiff_t *row_step)
{
    *row_step = step(j, v) / j->itemsize;
    return is_direct(j, p) ? address(j, v, p) : copy_piece(j, v, p, buffer, row_step);
}

/* Covers the rows of a packed tile that do not count. */
static __attribute__((noinline)) void cover_some(const fa_job *j, const piece *p, void *tile, fa_cover_with with)
{
    const fa_span span = {.out = tile, .rows = p->rows, .strips = p->strips, .constants = j->strips + p->strip,
                          .each = 1};
    j->kernels->cover(&span, j->bn->mask + p->row, 1, with);
}

static inline void cover(const fa_job *j, const piece *p, void *tile, fa_cover_with with)
{
    if (fa_has_masked(j, p->row, p->rows))
        cover_some(j, p, tile, with);
}

/* The same with the rows that do not count covered: then in the buffer. */
static const void *read_counted(const fa_job *j, const fa_view *v, const piece *p, void *buffer,
                                ptrdiff_t *row_step, fa_cover_with with)
{
    if (!fa_has_masked(j, p->row, p->rows))
        return read_piece(j, v, p, buffer, row_step);
    copy_piece(j, v, p, buffer, row_step);
    cover(j, p, buffer, with);
    return buffer;
}

static void write_piece(const fa_job *j, const fa_view *v, const piece *p, const char *from)
{
    char *to = address(j, v, p);
    for (ptrdiff_t r = 0; r < p->rows; r++, to += step(j, v), from += buffer_step(p) * j->tile_size)
        if (j->half)
            j->half->narrow((const double *)from, to, p->columns);
        else
            memcpy(to, from, (size_t)(p->columns * j->itemsize));
}

/* ---- spans ------------------------------------------------------------------------------------------------------ */

static void set_strips(const fa_job *j, int second_pass)
{
    for (ptrdiff_t t = 0, c = 0; t < j->matrix.strips; t++) {
        ptrdiff_t channels[FA_LANES];
        for (int i = 0; i < FA_LANES; i++, c = c + 1 < j->bn->channels ? c + 1 : 0)
            channels[i] = c;
        fa_fill_strip(j, j->strips + t, channels, second_pass);
    }
}

/* x of a piece of y, in its place. */
static void find_x(const fa_job *j, const piece *p, const fa_span *span, char *tile)
{
    fa_run_recover(j, span);
    for (ptrdiff_t i = 0; j->bn->lost && i < p->columns; i++)
        fa_patch_lost(j, p->strip * FA_LANES + i, p->row, p->rows, tile + i * j->tile_size,
                      buffer_step(p) * j->tile_size);
}

static fa_span span_of(const fa_job *j, const piece *p, void *buffer)
{
    /* every field is named: setting a span to 0 before would take longer */
    fa_span span = {.x = NULL, .dy = NULL, .out = NULL, .rows = p->rows, .strips = p->strips, .x_step = 0,
                    .dy_step = 0, .out_step = 0, .constants = j->strips + p->strip, .each = 1,
                    .along = 0, .varying = j->bn->params_per_channel, .stream = 0, .dparam = NULL, .residual = NULL,
                    .residual_step = 0, .ahead = {NULL, NULL}, .ahead_step = 0, .ahead_strip = 0};
    if (j->bn->from_output) {
        span.x = copy_piece(j, j->x, p, buffer, &span.x_step);
        span.out = buffer;
        span.out_step = span.x_step;
        find_x(j, p, &span, buffer);
        cover(j, p, buffer, FA_COVER_CENTRE);
    } else {
        span.x = read_counted(j, j->x, p, buffer, &span.x_step, fa_cover_of(j));
    }
    return span;
}

static void read_residual(const fa_job *j, const piece *p, fa_span *span, int worker)
{
    if (fa_needs_residual(j))
        span->residual = read_counted(j, j->bn->residual, p, j->spare + worker * FA_TILE, &span->residual_step,
                                      FA_COVER_ZERO);
}

/* The piece whose rows, of x and the other array if there is one, will be read after these. */
static void look_ahead(const fa_job *j, const fa_view *other, const piece *next, fa_span *span)
{
    span->ahead[0] = address(j, j->x, next);
    span->ahead[1] = address(j, other ? other : j->x, next);
    span->ahead_step = step(j, j->x);
    span->ahead_strip = FA_LANES * j->itemsize;
}

/* ---- first pass --------------------------------------------------------------------------------------------------- */

/* g of a piece: in a buffer, or, if it is to be kept, where dx will be.  What does not count has none, even beside
 * statistics that are NaN. */
static void find_g(const fa_job *j, const piece *p, fa_span *span, fa_scratch *s)
{
    const int direct = j->g && is_direct(j, p) && !fa_has_masked(j, p->row, p->rows);
    span->out = direct ? address(j, j->g, p) : (char *)s->g;
    span->out_step = direct ? step(j, j->g) / j->itemsize : buffer_step(p);
    span->dparam = j->learns ? s->dparam : NULL;
    j->kernels->backward(span, j->activation, j->half);
    if (!direct)
        cover(j, p, s->g, FA_COVER_ZERO);
    if (j->g && !direct)
        write_piece(j, j->g, p, (char *)s->g);
    span->dy = span->out;
    span->dy_step = span->out_step;
}

/* Whatever the padding of a row that is part of the sums has given. */
static void clear_padding(const fa_job *j, const piece *p, fa_scratch *s)
{
    for (ptrdiff_t i = p->columns; i < buffer_step(p); i++) {
        fa_fill(j, (char *)s->g + i * j->tile_size, 1, 0.0);
        s->dparam[i] = 0.0;
    }
}

static void reduce_strip(const fa_job *j, const piece *p, const fa_span *strip, fa_lanes *lanes, int nlanes)
{
    if (j->by_sign)
        j->kernels->sided[j->bn->activation].sums(lanes, nlanes, strip);
    else if (j->backward)
        j->kernels->sums(lanes, nlanes, strip, buffer_step(p));
    else if (j->tolerance)
        j->kernels->count_lost(lanes, nlanes, strip, j->tolerance);
    else if (j->bn->weights)
        j->kernels->weighted_moments(lanes, nlanes, strip, j->bn->weights + p->row, 1);
    else
        j->kernels->moments(lanes, nlanes, strip);
}

/* The span becomes each of its strips.  What is fetched meanwhile is a whole row, where that can be, for each lane: line
 * after line of one page. */
static void reduce_strips(const fa_job *j, const piece *p, fa_span *span, fa_lanes *lanes, int nlanes)
{
    const ptrdiff_t by = FA_LANES * j->tile_size, row = span->ahead_step, line = span->ahead_strip;
    const int along = p->strips * nlanes == p->rows; /* a lane's elements of a strip are as many as a row has lines */
    const ptrdiff_t ahead = along ? nlanes * row : line;
    span->strips = 1;
    span->ahead_step = along ? row : p->rows / nlanes * row;
    span->ahead_strip = along ? line : row;
    for (ptrdiff_t t = 0; t < p->strips; t++, lanes += j->matrix.lanes) {
        reduce_strip(j, p, span, lanes, nlanes);
        span->x = (const char *)span->x + by;
        if (span->dy)
            span->dy = (const char *)span->dy + by;
        if (span->dparam)
            span->dparam += FA_LANES;
        span->constants++;
        for (int k = 0; k < 2; k++)
            span->ahead[k] += ahead;
    }
}

/* Without an activation g is dy. */
static void keep_dy(const fa_job *j, const piece *p, const fa_span *span, fa_scratch *s)
{
    const size_t row = (size_t)(buffer_step(p) * j->tile_size);
    for (ptrdiff_t r = 0; r < p->rows; r++)
        memcpy((char *)s->g + (size_t)r * row, (const char *)span->dy + r * span->dy_step * j->tile_size, row);
    write_piece(j, j->g, p, (char *)s->g);
}

/* y of a piece of x, and x of that again, which becomes dy. */
static void make_again(const fa_job *j, const piece *p, fa_span *span, fa_scratch *s)
{
    fa_span y = *span;
    y.out = s->g;
    y.out_step = buffer_step(p);
    fa_run_forward(j, &y);
    y.x = s->g;
    y.out = s->dy;
    y.x_step = y.out_step;
    fa_run_recover(j, &y);
    span->dy = s->dy;
    span->dy_step = y.out_step;
}

/* Strips from s on of which g is found before they are reduced: whole groups, of which it goes where dx will be. */
static ptrdiff_t strips_of_field(const fa_job *j, ptrdiff_t r, ptrdiff_t rows, ptrdiff_t s, ptrdiff_t beyond)
{
    const fa_matrix *m = &j->matrix;
    const ptrdiff_t whole = m->width / FA_LANES, strips = fa_at_most(beyond - s, m->field);
    if (!j->g || !j->activation || j->learns || j->half || j->bn->from_output || m->repeat > 1 ||
        fa_has_masked(j, r, rows))
        return 0;
    return s + strips <= whole ? strips : (whole - s) / m->group * m->group;
}

static void find_g_of_field(const fa_job *j, const piece *p, const piece *next, int worker)
{
    fa_scratch *s = j->scratch + worker;
    fa_span span = span_of(j, p, s->x);
    look_ahead(j, j->dy, next, &span);
    span.dy = read_piece(j, j->dy, p, s->dy, &span.dy_step);
    read_residual(j, p, &span, worker);
    find_g(j, p, &span, s);
}

static void reduce_g(const fa_job *j, const piece *p, fa_lanes *lanes, int nlanes, int worker)
{
    fa_scratch *s = j->scratch + worker;
    fa_span span = span_of(j, p, s->x);
    span.dy = read_piece(j, j->g, p, s->dy, &span.dy_step);
    span.ahead[0] = span.ahead[1] = span.x; /* what comes next is in the cache */
    reduce_strips(j, p, &span, lanes, nlanes);
}

static void reduce_piece(const fa_job *j, const piece *p, const piece *next, fa_lanes *lanes, int nlanes,
                         int worker)
{
    fa_scratch *s = j->scratch + worker;
    fa_span span = span_of(j, p, s->x);
    look_ahead(j, j->dy, next, &span);
    if (j->tolerance)
        make_again(j, p, &span, s);
    if (j->backward)
        span.dy = read_counted(j, j->dy, p, s->dy, &span.dy_step, FA_COVER_ZERO);
    if (j->backward && j->activation && !j->by_sign) {
        read_residual(j, p, &span, worker);
        find_g(j, p, &span, s);
        if (p->row == j->matrix.rows)
            clear_padding(j, p, s);
    } else if (j->g && j->backward) {
        keep_dy(j, p, &span, s);
    }
    reduce_strips(j, p, &span, lanes, nlanes);
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

static void fold(const fa_job *j, const fa_lanes *lanes, ptrdiff_t first, ptrdiff_t strips, double *out)
{
    if (j->matrix.repeat > 1) {
        fold_repeated(j, lanes, out);
        return;
    }
    for (ptrdiff_t t = 0; t < strips; t++)
        j->kernels->fold_strip(lanes + t * FA_LANES, j->nsums, out + (first + t) * FA_LANES, j->parts_width,
                               fa_at_most(j->matrix.width - (first + t) * FA_LANES, FA_LANES));
}

/* The piece after that of the strips from s on and the rows from r on, of a task whose strips start at `first`. */
static piece next_piece(const fa_job *j, ptrdiff_t begin, ptrdiff_t end, ptrdiff_t first, ptrdiff_t r, ptrdiff_t s)
{
    const fa_matrix *m = &j->matrix;
    const ptrdiff_t beyond = fa_at_most(m->strips, first + m->wide);
    if (s + m->group < beyond)
        return locate(j, r, m->height, s + m->group, m->group);
    if (r + m->height < end)
        return locate(j, r + m->height, m->height, first, m->group);
    return beyond < m->strips ? locate(j, begin, m->height, beyond, m->group)
                              : locate(j, end, m->height, 0, m->group);
}

/* Rows r .. r + rows - 1 of a task. */
static void reduce_rows(const fa_job *j, ptrdiff_t begin, ptrdiff_t end, ptrdiff_t first, ptrdiff_t r, ptrdiff_t rows,
                        fa_lanes *lanes, int worker)
{
    const fa_matrix *m = &j->matrix;
    const ptrdiff_t beyond = fa_at_most(m->strips, first + m->wide);
    for (ptrdiff_t s = first, found = first; s < beyond; s += m->group) {
        const piece p = locate(j, r, rows, s, m->group);
        fa_lanes *own = lanes + (s - first) * m->lanes;
        if (s == found && (found += strips_of_field(j, r, rows, s, beyond)) > s) {
            const piece field = locate(j, r, rows, s, found - s);
            const piece next = next_piece(j, begin, end, first, r, found - m->group);
            find_g_of_field(j, &field, &next, worker);
        }
        if (s < found) {
            reduce_g(j, &p, own, m->lanes, worker);
        } else {
            const piece next = next_piece(j, begin, end, first, r, s);
            reduce_piece(j, &p, &next, own, m->lanes, worker);
            found += m->group;
        }
    }
}

static void reduce_task(const fa_job *j, ptrdiff_t block, ptrdiff_t part, int worker)
{
    const fa_matrix *m = &j->matrix;
    const ptrdiff_t first = part * m->wide, strips = fa_at_most(m->strips - first, m->wide);
    const ptrdiff_t each = FA_BLOCK / m->repeat, begin = block * each, end = fa_at_most(m->rows, begin + each);
    fa_lanes *lanes = j->lanes + worker * j->lanes_each;
    for (ptrdiff_t k = 0; k < m->wide * m->lanes; k++)
        fa_clear(j, lanes + k);
    for (ptrdiff_t r = begin; r < end; r += m->height)
        reduce_rows(j, begin, end, first, r, fa_at_most(end - r, m->height), lanes, worker);
    if (block == j->blocks - 1 && left_over(j) > 0) {
        const piece p = locate_left_over(j);
        reduce_piece(j, &p, &p, lanes + (end - begin) % m->lanes, 1, worker);
    }
    fold(j, lanes, first, strips, fa_part(j->parts, j->parts_width, block, 0, 0));
}

static void reduce_tasks(void *job, ptrdiff_t begin, ptrdiff_t end, int worker)
{
    const fa_job *j = job;
    const ptrdiff_t each = tasks(&j->matrix, j->matrix.wide);
    for (ptrdiff_t t = begin; t < end; t++)
        reduce_task(j, t / each, t % each, worker);
}

/* ---- between the passes ------------------------------------------------------------------------------------------- */

static void find_shifts(const fa_job *j)
{
    ptrdiff_t c = 0;
    if (j->bn->count >= FA_LANES && !j->half && !j->bn->first)
        for (; c + FA_LANES <= j->bn->channels; c += FA_LANES)
            j->kernels->strip_shift(j->x->data + c * j->itemsize, j->x->strides[0] / j->itemsize, j->shift + c);
    for (; c < j->bn->channels; c++)
        fa_find_shift(j, c, j->scratch);
}

static void before_first_pass(void *job, ptrdiff_t begin, ptrdiff_t end, int worker)
{
    const fa_job *j = job;
    (void)begin, (void)end, (void)worker;
    if (!j->backward)
        find_shifts(j);
    set_strips(j, 0);
}

static void before_second_pass(void *job, ptrdiff_t begin, ptrdiff_t end, int worker)
{
    (void)begin, (void)end, (void)worker;
    set_strips(job, 1);
}

enum { CHANNELS_A_TASK = 256 };

static void finish(void *job, ptrdiff_t begin, ptrdiff_t end, int worker)
{
    const fa_job *j = job;
    const ptrdiff_t c = begin * CHANNELS_A_TASK;
    (void)worker;
    fa_finish_channels(j, j->parts + c, j->parts_width, c,
                       fa_at_most(j->bn->channels - c, (end - begin) * CHANNELS_A_TASK));
}

/* ---- second pass ---------------------------------------------------------------------------------------------------- */

static void find_g_again(const fa_job *j, const piece *p, fa_span *span, fa_scratch *s)
{
    void *const out = span->out;
    const ptrdiff_t out_step = span->out_step;
    const int stream = span->stream;
    span->out = s->g;
    span->out_step = buffer_step(p);
    span->stream = 0;
    j->kernels->backward(span, j->activation, j->half);
    span->dy = s->g;
    span->dy_step = span->out_step;
    span->out = out;
    span->out_step = out_step;
    span->stream = stream;
}

static void run_second_pass(const fa_job *j, const piece *p, fa_span *span, int worker)
{
    fa_scratch *s = j->scratch + worker;
    if (j->only_recovers) {
        write_piece(j, j->out, p, span->x);
        return;
    }
    read_residual(j, p, span, worker);
    if (!j->backward) {
        fa_run_forward(j, span);
        return;
    }
    span->dy = read_piece(j, j->g ? j->g : j->dy, p, s->dy, &span->dy_step);
    if (j->activation && !j->g && !j->by_sign)
        find_g_again(j, p, span, s);
    if (j->by_sign)
        j->kernels->sided[j->bn->activation].apply(span);
    else if (j->bn->weights && j->training)
        j->kernels->weighted_apply(span, j->bn->weights + p->row, 1);
    else
        j->kernels->apply(span, j->training);
}

/* Past the caches, to memory that is not aligned to lines of them as results are. */
static void stream_piece(const fa_job *j, const piece *p, const char *from)
{
    const ptrdiff_t row = buffer_step(p) * j->itemsize, rows = step(j, j->out) == row ? 1 : p->rows;
    char *to = address(j, j->out, p);
    for (ptrdiff_t r = 0; r < rows; r++)
        j->stream(to + r * step(j, j->out), from + r * row, (size_t)(row * p->rows / rows));
}

static void second_pass_piece(const fa_job *j, const piece *p, const piece *next, int worker)
{
    const int direct = is_direct(j, p) && !fa_in_steps(j, p->row, p->rows);
    fa_scratch *s = j->scratch + worker;
    fa_span span = span_of(j, p, s->x);
    char *own = direct ? address(j, j->out, p) : NULL;
    const int buffered = !direct || (j->stream && !j->matrix.along);
    look_ahead(j, j->g ? j->g : j->dy, next, &span);
    span.out = buffered ? (char *)s->x : own;
    span.out_step = buffered ? buffer_step(p) : step(j, j->out) / j->itemsize;
    span.stream = !buffered && j->stream;
    span.along = j->matrix.along;
    run_second_pass(j, p, &span, worker);
    if (!buffered || j->only_recovers)
        return;
    if (direct) {
        stream_piece(j, p, span.out);
        return;
    }
    cover(j, p, span.out, FA_COVER_ZERO);
    write_piece(j, j->out, p, span.out);
}

/* Tiles, row after row of them. */
static ptrdiff_t tiles_across(const fa_matrix *m)
{
    return (m->strips + m->across - 1) / m->across;
}

static ptrdiff_t whole_tiles(const fa_matrix *m)
{
    return (m->rows + m->down - 1) / m->down * tiles_across(m);
}

static piece locate_tile(const fa_job *j, ptrdiff_t tile)
{
    const fa_matrix *m = &j->matrix;
    if (tile >= whole_tiles(m))
        return locate_left_over(j);
    return locate(j, tile / tiles_across(m) * m->down, m->down, tile % tiles_across(m) * m->across, m->across);
}

static ptrdiff_t tiles(const fa_job *j)
{
    return whole_tiles(&j->matrix) + (left_over(j) > 0);
}

/* Tasks are counted from the last tile, since the pass before this one left the end of the array in the cache; they
 * are run in steps that are worth prefetching, forwards within them. */
enum { TILES_A_STEP = 16 };

static void second_pass_tiles(void *job, ptrdiff_t begin, ptrdiff_t end, int worker)
{
    const fa_job *j = job;
    const ptrdiff_t low = tiles(j) - end, high = tiles(j) - begin;
    for (ptrdiff_t top = high; top > low; top -= TILES_A_STEP)
        for (ptrdiff_t t = top - TILES_A_STEP < low ? low : top - TILES_A_STEP; t < top; t++) {
            const ptrdiff_t after = t + 1 < top ? t + 1 : top - 2 * TILES_A_STEP;
            const piece p = locate_tile(j, t), next = locate_tile(j, after < low ? low : after);
            second_pass_piece(j, &p, &next, worker);
        }
}

/* ---- the driver -------------------------------------------------------------------------------------------------------- */

static int allocate(fa_job *j)
{
    const fa_matrix *m = &j->matrix;
    j->parts_width = j->bn->channels;
    j->lanes_each = m->wide * m->lanes;
    j->parts = malloc((size_t)(fa_reduces(j) ? j->blocks * FA_SUMS * 2 * j->parts_width : 1) * sizeof(double));
    j->lanes = fa_aligned_alloc((size_t)(j->threads * j->lanes_each) * sizeof(fa_lanes));
    j->strips = fa_aligned_alloc((size_t)m->strips * sizeof(fa_strip));
    return j->parts && j->lanes && j->strips ? 0 : -1;
}

static void passes(fa_job *j)
{
    const ptrdiff_t finishers = (j->bn->channels + CHANNELS_A_TASK - 1) / CHANNELS_A_TASK;
    if (fa_reduces(j)) {
        fa_parallel_for(1, 1, before_first_pass, j);
        fa_parallel_for(j->blocks * tasks(&j->matrix, j->matrix.wide), j->threads, reduce_tasks, j);
        fa_parallel_for(finishers, fa_threads_for(j->bn->channels * j->blocks * FA_LANES, NULL, 1), finish, j);
    }
    if (!fa_applies(j))
        return;
    fa_parallel_for(1, 1, before_second_pass, j);
    fa_parallel_for(tiles(j), j->threads, second_pass_tiles, j);
}

int fa_run_rows(fa_job *j)
{
    plan_matrix(j);
    const int status = allocate(j);
    if (status == 0)
        passes(j);
    free(j->parts);
    fa_aligned_free(j->lanes);
    fa_aligned_free(j->strips);
    return status;
}
