/* BatchNorm where the channels of an element lie side by side: NHWC, (N, C). */
#include <stdlib.h>
#include <string.h>

#include "batchnorm_job.h"

static char *row_address(const fa_view *v, ptrdiff_t row, ptrdiff_t c)
{
    return v->data + row * v->strides[0] + c * v->channel_stride;
}

/* n elements that lie side by side, between memory and a tile. */
static void read_run(const fa_job *j, const char *from, ptrdiff_t n, char *to)
{
    if (j->half)
        j->half->widen(from, (double *)to, n);
    else
        memcpy(to, from, (size_t)(n * j->itemsize));
}

static void write_run(const fa_job *j, const char *from, ptrdiff_t n, char *to)
{
    if (j->half)
        j->half->narrow((const double *)from, to, n);
    else
        memcpy(to, from, (size_t)(n * j->itemsize));
}

/* ---- first pass ------------------------------------------------------------------------------------ */

/* A unit is a group of channels. With fewer channels than lanes, it is one channel, gathered. */
ptrdiff_t fa_row_units(const fa_job *j)
{
    const ptrdiff_t c = j->bn->channels;
    return c < FA_LANES ? c : (c + FA_GROUP - 1) / FA_GROUP;
}

/* Some rows of a group of channels: in place, or, where they have to be widened or the group is not a
 * multiple of FA_LANES wide, in `buffer`, padded with zeros to such a width.  *stride is in elements. */
static const char *group_tile(const fa_job *j, const fa_view *v, ptrdiff_t row, ptrdiff_t c, ptrdiff_t rows,
                              ptrdiff_t channels, void *buffer, ptrdiff_t *stride)
{
    const ptrdiff_t width = fa_padded(channels), size = j->tile_size;
    char *at = buffer;
    if (width == channels && !j->half) {
        *stride = v->strides[0] / size;
        return row_address(v, row, c);
    }
    *stride = width;
    for (ptrdiff_t r = 0; r < rows; r++, at += width * size) {
        read_run(j, row_address(v, row + r, c), channels, at);
        memset(at + channels * size, 0, (size_t)((width - channels) * size));
    }
    return buffer;
}

/* Rows side by side: in place where they are so already. */
static const void *pack(const char *from, ptrdiff_t stride, ptrdiff_t rows, ptrdiff_t width, void *buffer)
{
    if (stride == width)
        return from;
    for (ptrdiff_t r = 0; r < rows; r++)
        memcpy((char *)buffer + r * width, from + r * stride, (size_t)width);
    return buffer;
}

/* A tile of FA_LANES rows in the first-level cache: z, then g = dy * activation'(z), both packed. */
static const void *gradient_tile(const fa_job *j, const fa_affine *affine, ptrdiff_t rows, ptrdiff_t width,
                                 const char *x, ptrdiff_t x_stride, const char *dy, ptrdiff_t dy_stride,
                                 fa_scratch *s, const double *const *params, const double **dparam)
{
    const int kind = j->bn->params_per_channel ? FA_VARYING : FA_UNIFORM;
    const ptrdiff_t size = j->tile_size, n = rows * width;
    dy = pack(dy, dy_stride * size, rows, width * size, s->g);
    const void *z = s->z;
    if (j->bare)
        z = pack(x, x_stride * size, rows, width * size, s->z);
    else
        j->kernels->normalize_rows(x, x_stride, s->z, rows, width, affine);
    if (!j->bare)
        fa_round_tile(j, s->z, n);
    if (j->activation->param_gradient[kind]) {
        j->activation->param_gradient[kind](dy, z, s->dparam, n, params);
        *dparam = s->dparam;
    }
    j->activation->backward[kind](dy, z, s->g, n, params);
    fa_round_tile(j, s->g, n);
    return s->g;
}

/* The parameters of a group, a tile of them where there is a value a channel. */
static void group_params(const fa_job *j, ptrdiff_t c, ptrdiff_t channels, double *tile,
                         const double **params)
{
    const ptrdiff_t width = fa_padded(channels);
    fa_channel_params(j, c, params);
    if (!j->bn->params_per_channel)
        return;
    for (int p = 0; p < FA_MAX_PARAMS && params[p]; p++) {
        double *to = tile + p * FA_LANES * FA_GROUP;
        memset(to, 0, (size_t)(FA_LANES * width) * sizeof *to);
        for (ptrdiff_t r = 0; r < FA_LANES; r++)
            memcpy(to + r * width, params[p], (size_t)channels * sizeof *to);
        params[p] = to;
    }
}

/* A group's constants, padded like its tiles: the arrays of all channels end with the last channel. */
static fa_affine group_affine(const fa_job *j, ptrdiff_t c, ptrdiff_t channels, double padded[5][FA_GROUP])
{
    const fa_affine at = fa_affine_at(j->affine, c);
    const double *from[5] = {at.mean_hi, at.mean_lo, at.scale_hi, at.scale_lo, at.bias};
    if (channels % FA_LANES == 0)
        return at;
    memset(padded, 0, 5 * sizeof *padded);
    for (int a = 0; a < 5; a++)
        memcpy(padded[a], from[a], (size_t)channels * sizeof(double));
    return (fa_affine){padded[0], padded[1], padded[2], padded[3], padded[4]};
}

static void reduce_sums(const fa_job *j, ptrdiff_t c, ptrdiff_t channels, ptrdiff_t row, ptrdiff_t rows,
                        fa_scratch *s, fa_group *sums)
{
    const ptrdiff_t width = fa_padded(channels);
    double tile[FA_MAX_PARAMS * FA_LANES * FA_GROUP], constants[5][FA_GROUP];
    const fa_affine affine = group_affine(j, c, channels, constants);
    const double *params[FA_MAX_PARAMS];
    group_params(j, c, channels, tile, params);
    for (ptrdiff_t r = 0; r < rows; r += FA_LANES) {
        const ptrdiff_t height = fa_at_most(rows - r, FA_LANES);
        const double *dparam = NULL;
        ptrdiff_t x_stride, g_stride;
        const char *x = group_tile(j, j->x, row + r, c, height, channels, s->x, &x_stride);
        const char *dy = group_tile(j, j->dy, row + r, c, height, channels, s->dy, &g_stride);
        const void *g = dy;
        if (j->activation) {
            g = gradient_tile(j, &affine, height, width, x, x_stride, dy, g_stride, s, params, &dparam);
            g_stride = width;
        }
        if (j->keep_g)
            for (ptrdiff_t i = 0; i < height; i++)
                write_run(j, (const char *)g + i * width * j->tile_size, channels,
                          row_address(j->out, row + r + i, c));
        j->kernels->group_sums(sums, g, g_stride, x, x_stride, dparam, height, width, affine.mean_hi,
                               affine.mean_lo);
    }
}

static void reduce_moments(const fa_job *j, ptrdiff_t c, ptrdiff_t channels, ptrdiff_t row, ptrdiff_t rows,
                           fa_scratch *s, fa_group *sums, fa_moments *out)
{
    const ptrdiff_t width = fa_padded(channels);
    ptrdiff_t stride;
    /* the first row, which shifts the others, is kept apart from the tiles */
    const char *first = group_tile(j, j->x, row, c, 1, channels, s->z, &stride);
    for (ptrdiff_t r = 0; r < rows; r += FA_LANES) {
        const ptrdiff_t height = fa_at_most(rows - r, FA_LANES);
        const char *x = group_tile(j, j->x, row + r, c, height, channels, s->x, &stride);
        j->kernels->group_moments(sums, x, stride, height, width, first);
    }
    j->kernels->finish_moments(sums, rows, width, first, out);
}

/* What will be added to: float32 has no low parts, the forward only two sums. */
static void clear(const fa_job *j, fa_group *sums, ptrdiff_t width)
{
    for (int lane = 0; lane < FA_LANES; lane++)
        for (int part = 0; part < (j->bn->real == FA_FLOAT64 ? 2 : 1); part++)
            for (int which = 0; which < (j->backward ? 3 : 2); which++)
                memset(sums->lane[lane][part][which], 0, (size_t)width * sizeof(double));
}

static void reduce_group(const fa_job *j, ptrdiff_t c, ptrdiff_t block, int worker)
{
    const ptrdiff_t row = block * FA_BLOCK, rows = fa_at_most(j->bn->count - row, FA_BLOCK);
    const ptrdiff_t channels = fa_at_most(j->bn->channels - c, FA_GROUP);
    fa_group *sums = j->groups + worker;
    clear(j, sums, fa_padded(channels));
    if (j->backward) {
        fa_sums out[FA_GROUP];
        reduce_sums(j, c, channels, row, rows, j->scratch + worker, sums);
        j->kernels->finish_sums(sums, fa_padded(channels), out);
        for (ptrdiff_t i = 0; i < channels; i++)
            ((fa_sums *)j->parts)[(c + i) * j->blocks + block] = out[i];
    } else {
        fa_moments out[FA_GROUP];
        reduce_moments(j, c, channels, row, rows, j->scratch + worker, sums, out);
        for (ptrdiff_t i = 0; i < channels; i++)
            ((fa_moments *)j->parts)[(c + i) * j->blocks + block] = out[i];
    }
}

void fa_reduce_units(void *job, ptrdiff_t begin, ptrdiff_t end, int worker)
{
    const fa_job *j = job;
    const ptrdiff_t units = fa_row_units(j);
    for (ptrdiff_t t = begin; t < end; t++) {
        const ptrdiff_t block = t / units, u = t % units;
        if (j->bn->channels < FA_LANES)
            fa_reduce_block(j, u, block, (char *)j->parts + (size_t)(u * j->blocks) * fa_part_size(j),
                            worker);
        else
            reduce_group(j, u * FA_GROUP, block, worker);
    }
}

/* ---- second pass ----------------------------------------------------------------------------------- */

enum { LEAST_WIDTH = 64 };

static int packed(const fa_job *j, const fa_view *v)
{
    return !v || v->strides[0] == j->bn->channels * j->itemsize;
}

/* Rows of few channels are taken several at a time: as many as make a multiple of FA_LANES. */
static ptrdiff_t rows_at_a_time(const fa_job *j)
{
    const ptrdiff_t c = j->bn->channels;
    ptrdiff_t repeat = 1;
    if (!packed(j, j->x) || !packed(j, j->dy) || !packed(j, j->out))
        return 1;
    while (repeat * c % FA_LANES || repeat * c < LEAST_WIDTH)
        repeat++;
    return repeat * c <= FA_BLOCK / 2 && repeat <= j->bn->count ? repeat : 1;
}

int fa_plan_rows(fa_job *j)
{
    fa_row_plan *plan = &j->rows;
    const ptrdiff_t c = j->bn->channels;
    plan->repeat = rows_at_a_time(j);
    plan->width = plan->repeat * c;
    plan->columns = fa_at_most(plan->width, FA_BLOCK);
    plan->rows = FA_BLOCK / plan->columns;
    plan->count = j->bn->count / plan->repeat;
    plan->memory = malloc((size_t)(7 * plan->width + FA_MAX_PARAMS * (plan->rows * plan->width + FA_LANES)) *
                          sizeof(double));
    return plan->memory ? 0 : -1;
}

static double *repeat(double **memory, const double *from, ptrdiff_t n, ptrdiff_t times)
{
    double *to = *memory;
    for (ptrdiff_t r = 0; r < times; r++)
        memcpy(to + r * n, from, (size_t)n * sizeof *to);
    *memory += n * times;
    return to;
}

void fa_fill_row_plan(fa_job *j)
{
    fa_row_plan *plan = &j->rows;
    const ptrdiff_t c = j->bn->channels;
    double *memory = plan->memory;
    plan->affine = *j->affine;
    plan->slope = j->slope;
    memcpy(plan->params, j->bn->params, sizeof plan->params);
    if (plan->repeat > 1) {
        double **each[] = {&plan->affine.mean_hi,  &plan->affine.mean_lo, &plan->affine.scale_hi,
                           &plan->affine.scale_lo, &plan->affine.bias,    &plan->slope.g_mean,
                           &plan->slope.slope};
        for (size_t a = 0; a < (j->backward ? 7 : 5); a++)
            *each[a] = repeat(&memory, *each[a], c, plan->repeat);
    }
    if (j->bn->params_per_channel)
        for (int p = 0; p < FA_MAX_PARAMS && plan->params[p]; p++) {
            plan->params[p] = repeat(&memory, plan->params[p], c, plan->repeat * plan->rows);
            memset(memory, 0, FA_LANES * sizeof *memory); /* a padded tile reads past them */
            memory += FA_LANES;
        }
}

/* A tile of the array that the plan makes of x. */
typedef struct {
    ptrdiff_t row, c, rows, columns;
} tile;

static char *tile_address(const fa_job *j, const fa_view *v, const tile *t)
{
    return row_address(v, t->row * j->rows.repeat, t->c);
}

/* From one row of a tile to the next, in bytes. */
static ptrdiff_t tile_stride(const fa_job *j, const fa_view *v)
{
    return j->rows.repeat * v->strides[0];
}

static int is_one_run(const fa_job *j, const fa_view *v, const tile *t)
{
    return t->rows == 1 || tile_stride(j, v) == t->columns * j->itemsize;
}

static void write_tile(const fa_job *j, const tile *t, const char *from)
{
    const int whole = is_one_run(j, j->out, t);
    const ptrdiff_t runs = whole ? 1 : t->rows, run = whole ? t->rows * t->columns : t->columns;
    for (ptrdiff_t r = 0; r < runs; r++) {
        const char *row = from + r * run * j->tile_size;
        char *to = tile_address(j, j->out, t) + r * tile_stride(j, j->out);
        if (j->stream)
            j->stream(to, row, (size_t)(run * j->itemsize));
        else
            write_run(j, row, run, to);
    }
}

/* As memory has it, or widened; *stride is in elements. */
static const char *read_tile(const fa_job *j, const fa_view *v, const tile *t, void *buffer, ptrdiff_t *stride)
{
    const char *from = tile_address(j, v, t);
    *stride = tile_stride(j, v) / j->itemsize;
    if (!j->half)
        return from;
    for (ptrdiff_t r = 0; r < t->rows; r++)
        read_run(j, from + r * tile_stride(j, v), t->columns, (char *)buffer + r * t->columns * j->tile_size);
    *stride = t->columns;
    return buffer;
}

/* The result's own memory, where a tile is one run of it, needs no padding and is not streamed. */
static void *in_place(const fa_job *j, const tile *t)
{
    const int direct = is_one_run(j, j->out, t) && !j->stream && !j->half;
    return direct && t->rows * t->columns % FA_LANES == 0 ? tile_address(j, j->out, t) : NULL;
}

static void second_pass_tile(const fa_job *j, const tile *t, fa_scratch *s)
{
    const ptrdiff_t n = fa_padded(t->rows * t->columns);
    const int kind = j->bn->params_per_channel ? FA_VARYING : FA_UNIFORM;
    const fa_affine affine = fa_affine_at(&j->rows.affine, t->c);
    const fa_slope slope = fa_slope_at(&j->rows.slope, t->c);
    ptrdiff_t x_stride, g_stride;
    const char *x = read_tile(j, j->x, t, s->x, &x_stride);
    void *own = in_place(j, t), *result = own ? own : s->result;
    const double *params[FA_MAX_PARAMS];
    for (int p = 0; p < FA_MAX_PARAMS; p++)
        params[p] = j->rows.params[p] ? j->rows.params[p] + (kind == FA_VARYING ? t->c : 0) : NULL;
    if (!j->backward) {
        j->kernels->normalize_rows(x, x_stride, result, t->rows, t->columns, &affine);
        fa_round_tile(j, result, n);
        if (j->activation)
            j->activation->forward[kind](result, result, n, params);
    } else {
        const void *g = read_tile(j, j->keep_g ? j->out : j->dy, t, s->g, &g_stride);
        j->kernels->apply_rows(g, g_stride, x, x_stride, result, t->rows, t->columns, &affine, &slope);
    }
    if (!own)
        write_tile(j, t, result);
}

/* The tiles that a whole number of them across needs, and one for the rows that are left over. */
static ptrdiff_t tiles_across(const fa_job *j)
{
    return (j->rows.width + j->rows.columns - 1) / j->rows.columns;
}

static ptrdiff_t whole_tiles(const fa_job *j)
{
    return (j->rows.count + j->rows.rows - 1) / j->rows.rows * tiles_across(j);
}

ptrdiff_t fa_row_tiles(const fa_job *j)
{
    return whole_tiles(j) + (j->bn->count % j->rows.repeat != 0);
}

static tile locate(const fa_job *j, ptrdiff_t index)
{
    const fa_row_plan *plan = &j->rows;
    const ptrdiff_t across = tiles_across(j);
    tile t = {index / across * plan->rows, index % across * plan->columns, 0, 0};
    if (index == whole_tiles(j))
        return (tile){plan->count, 0, 1, j->bn->count % plan->repeat * j->bn->channels};
    t.rows = fa_at_most(plan->count - t.row, plan->rows);
    t.columns = fa_at_most(plan->width - t.c, plan->columns);
    return t;
}

/* Backwards in steps that are worth prefetching, forwards within them: the pass before this one left the
 * end of the share in the cache. */
enum { TILES_A_STEP = 64 };

void fa_second_pass_rows(void *job, ptrdiff_t begin, ptrdiff_t end, int worker)
{
    const fa_job *j = job;
    for (ptrdiff_t step = end; step > begin; step -= TILES_A_STEP)
        for (ptrdiff_t i = step - TILES_A_STEP < begin ? begin : step - TILES_A_STEP; i < step; i++) {
            const tile t = locate(j, i);
            second_pass_tile(j, &t, j->scratch + worker);
        }
}
