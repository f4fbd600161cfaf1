/* How BatchNorm walks over memory.
 *
 * A. Channels apart (NCHW and anything strided): a task is a channel.  Its blocks are reduced, then
 *    normalised in reverse order, so that the second pass starts with what the cache still holds.
 * B. Channels apart but few: a task is a block of a channel, in two parallel phases, so that one channel
 *    uses all threads.
 * C. Channels side by side (NHWC, (N, C)): a task of the reduction is a block of FA_GROUP channels, a
 *    task of the second pass some whole rows.
 *
 * The order of additions is the same in all three (fastact.h, FA_BLOCK): results do not depend on the
 * layout or on the number of threads.  Nothing of the size of x is allocated: partial results take 32
 * (forward) or 48 bytes (backward) a block of FA_BLOCK elements. */
#include "batchnorm.h"

#include <stdlib.h>
#include <string.h>

#include "dispatch.h"
#include "memory.h"
#include "parallel.h"

/* A thread's tiles. */
typedef struct {
    _Alignas(64) double x[FA_BLOCK], dy[FA_BLOCK], z[FA_BLOCK], g[FA_BLOCK];
    _Alignas(64) double dparam[FA_BLOCK];
    _Alignas(64) double group_affine[5][FA_GROUP * FA_LANES];
    _Alignas(64) double group_params[FA_MAX_PARAMS][FA_GROUP * FA_LANES];
} scratch;

/* What a thread needs besides, to reduce a group of channels with an activation. */
typedef struct {
    _Alignas(64) double g[FA_BLOCK * FA_GROUP];
    _Alignas(64) double dparam[FA_BLOCK * FA_GROUP];
} group_scratch;

/* A row of neighbouring channels repeated until a tile is worth a kernel call. */
typedef struct {
    ptrdiff_t rows, columns; /* of a tile; columns < channels where one row is too long for a tile */
    fa_affine affine;        /* periodic: rows * columns entries where rows > 1 */
    fa_slope slope;
    const double *params[FA_MAX_PARAMS];
    double *memory;
} row_plan;

typedef struct {
    const fa_batchnorm *bn;
    const fa_batchnorm_kernels *kernels;
    const fa_activation_kernels *activation; /* NULL: none */
    void (*stream)(void *, const void *, size_t);
    int training, backward, threads, by_rows;
    int bare; /* no normalisation: z is x, and there is no second pass */
    ptrdiff_t itemsize, blocks;
    const fa_view *dy, *x, *out; /* out: y or dx */
    fa_pair *mean, *var;
    const fa_affine *affine;
    double *rstd;
    fa_sums *sums;
    fa_slope slope;
    void *parts; /* fa_moments or fa_sums, [channel][block], or a channel's a worker */
    scratch *scratch;
    group_scratch *group; /* only where channels lie side by side and an activation is to be undone */
    row_plan rows;
} job;

static ptrdiff_t padded(ptrdiff_t n)
{
    return (n + FA_LANES - 1) & -(ptrdiff_t)FA_LANES;
}

static ptrdiff_t at_most(ptrdiff_t n, ptrdiff_t limit)
{
    return n < limit ? n : limit;
}

/* ---- tiles of one channel -------------------------------------------------------------------------- */

/* Elements k .. k + n - 1, side by side and padded to a multiple of FA_LANES: in place where memory has
 * them so, else in `buffer`.  The padding repeats the first element (shift) or is zero. */
static const char *channel_tile(const job *j, const fa_view *v, ptrdiff_t c, ptrdiff_t k, ptrdiff_t n,
                                int pad_with_first, void *buffer)
{
    const char *run = n % FA_LANES ? NULL : fa_view_run(v, c, k, n);
    char *at = buffer;
    if (run)
        return run;
    fa_view_read(v, c, k, n, buffer);
    for (ptrdiff_t i = n; i < padded(n); i++) {
        if (pad_with_first)
            memcpy(at + i * j->itemsize, at, (size_t)j->itemsize);
        else
            memset(at + i * j->itemsize, 0, (size_t)j->itemsize);
    }
    return at;
}

/* Where to compute elements k .. k + n - 1 of the result, and how they get to memory. */
static char *begin_result(const job *j, ptrdiff_t c, ptrdiff_t k, ptrdiff_t n, void *buffer)
{
    char *run = n % FA_LANES || j->stream ? NULL : fa_view_run(j->out, c, k, n);
    return run ? run : buffer;
}

static void end_result(const job *j, ptrdiff_t c, ptrdiff_t k, ptrdiff_t n, const char *result)
{
    char *run = fa_view_run(j->out, c, k, n);
    if (run == result)
        return;
    if (run && j->stream)
        j->stream(run, result, (size_t)(n * j->itemsize));
    else
        fa_view_write(j->out, c, k, n, result);
}

static void channel_params(const job *j, ptrdiff_t c, const double **params)
{
    for (int p = 0; p < FA_MAX_PARAMS; p++)
        params[p] = j->bn->params[p] ? j->bn->params[p] + (j->bn->params_per_channel ? c : 0) : NULL;
}

static void forward_block(const job *j, ptrdiff_t c, ptrdiff_t block, scratch *s)
{
    const ptrdiff_t k = block * FA_BLOCK, n = at_most(j->bn->count - k, FA_BLOCK);
    const char *x = channel_tile(j, j->x, c, k, n, 0, s->x);
    char *z = begin_result(j, c, k, n, s->z);
    const fa_affine affine = fa_affine_at(j->affine, c);
    const double *params[FA_MAX_PARAMS];
    channel_params(j, c, params);
    j->kernels->normalize(x, z, padded(n), &affine);
    if (j->activation)
        j->activation->forward[FA_UNIFORM](z, z, padded(n), params);
    end_result(j, c, k, n, z);
}

/* g = dy * activation'(z) with z recomputed from x; *dparam is NULL where nothing is learned. */
static const char *gradient_block(const job *j, ptrdiff_t c, ptrdiff_t k, ptrdiff_t n, const char *x,
                                  scratch *s, const double **dparam)
{
    const char *dy = channel_tile(j, j->dy, c, k, n, 0, s->dy);
    const fa_affine affine = fa_affine_at(j->affine, c);
    const double *params[FA_MAX_PARAMS];
    if (!j->activation)
        return dy;
    channel_params(j, c, params);
    const void *z = x;
    if (!j->bare) {
        j->kernels->normalize(x, s->z, padded(n), &affine);
        z = s->z;
    }
    if (dparam && j->activation->param_gradient[FA_UNIFORM]) {
        j->activation->param_gradient[FA_UNIFORM](dy, z, s->dparam, padded(n), params);
        *dparam = s->dparam;
    }
    j->activation->backward[FA_UNIFORM](dy, z, s->g, padded(n), params);
    return (const char *)s->g;
}

static void backward_block(const job *j, ptrdiff_t c, ptrdiff_t block, scratch *s)
{
    const ptrdiff_t k = block * FA_BLOCK, n = at_most(j->bn->count - k, FA_BLOCK);
    const char *x = channel_tile(j, j->x, c, k, n, 0, s->x);
    const char *g = gradient_block(j, c, k, n, x, s, NULL);
    const fa_affine affine = fa_affine_at(j->affine, c);
    const fa_slope slope = fa_slope_at(&j->slope, c);
    char *dx = begin_result(j, c, k, n, s->z);
    j->kernels->apply(g, x, dx, padded(n), &affine, &slope);
    end_result(j, c, k, n, dx);
}

static void reduce_block(const job *j, ptrdiff_t c, ptrdiff_t block, void *parts, scratch *s)
{
    const ptrdiff_t k = block * FA_BLOCK, n = at_most(j->bn->count - k, FA_BLOCK);
    const char *x = channel_tile(j, j->x, c, k, n, !j->backward, s->x);
    if (j->backward) {
        const fa_affine affine = fa_affine_at(j->affine, c);
        const double *dparam = NULL;
        const char *g = gradient_block(j, c, k, n, x, s, &dparam);
        j->kernels->block_sums(g, x, dparam, n, &affine, (fa_sums *)parts + block);
    } else {
        j->kernels->block_moments(x, n, (fa_moments *)parts + block);
    }
}

/* ---- between the passes ---------------------------------------------------------------------------- */

static size_t part_size(const job *j)
{
    return j->backward ? sizeof(fa_sums) : sizeof(fa_moments);
}

static double pair_over(fa_pair a, double n)
{
    return a.hi / n + a.lo / n;
}

static void prepare_forward(const job *j, ptrdiff_t c)
{
    const fa_batchnorm *bn = j->bn;
    const fa_affine affine = fa_affine_at(j->affine, c);
    j->kernels->affine(j->mean + c, j->var + c, bn->weight ? bn->weight + c : NULL,
                       bn->bias ? bn->bias + c : NULL, bn->eps, 1, &affine, j->rstd + c);
}

/* Merges the parts of channel c, and makes of them what the second pass needs. */
static void finish_channel(const job *j, ptrdiff_t c, void *parts)
{
    const double n = (double)j->bn->count;
    if (!j->backward) {
        fa_moments all = j->kernels->merge_moments(parts, j->bn->count);
        j->mean[c] = all.mean;
        j->var[c] = j->kernels->divide(all.m2, n);
        prepare_forward(j, c);
        return;
    }
    j->sums[c] = j->kernels->merge_sums(parts, j->blocks);
    if (j->bare)
        return;
    j->slope.g_mean[c] = j->training ? pair_over(j->sums[c].g, n) : 0.0;
    j->slope.slope[c] = j->training ? pair_over(j->sums[c].gx, n) * j->rstd[c] * j->rstd[c] : 0.0;
}

static void finish_channels(void *context, ptrdiff_t begin, ptrdiff_t end, int worker)
{
    const job *j = context;
    (void)worker;
    for (ptrdiff_t c = begin; c < end; c++)
        finish_channel(j, c, (char *)j->parts + (size_t)(c * j->blocks) * part_size(j));
}

/* ---- A and B: channels apart ------------------------------------------------------------------------ */

static void second_pass_block(const job *j, ptrdiff_t c, ptrdiff_t block, scratch *s)
{
    if (j->backward)
        backward_block(j, c, block, s);
    else
        forward_block(j, c, block, s);
}

static void whole_channels(void *context, ptrdiff_t begin, ptrdiff_t end, int worker)
{
    const job *j = context;
    scratch *s = j->scratch + worker;
    void *parts = (char *)j->parts + (size_t)(worker * j->blocks) * part_size(j);
    for (ptrdiff_t c = begin; c < end; c++) {
        for (ptrdiff_t block = 0; block < j->blocks; block++)
            reduce_block(j, c, block, parts, s);
        finish_channel(j, c, parts);
        for (ptrdiff_t block = j->blocks - 1; block >= 0; block--)
            second_pass_block(j, c, block, s);
    }
}

static void reduce_blocks(void *context, ptrdiff_t begin, ptrdiff_t end, int worker)
{
    const job *j = context;
    for (ptrdiff_t t = begin; t < end; t++) {
        const ptrdiff_t c = t / j->blocks;
        reduce_block(j, c, t % j->blocks, (char *)j->parts + (size_t)(c * j->blocks) * part_size(j),
                     j->scratch + worker);
    }
}

static void second_pass_blocks(void *context, ptrdiff_t begin, ptrdiff_t end, int worker)
{
    const job *j = context;
    for (ptrdiff_t t = end - 1; t >= begin; t--)
        second_pass_block(j, t / j->blocks, t % j->blocks, j->scratch + worker);
}

/* ---- C: channels side by side ----------------------------------------------------------------------- */

static char *row_address(const fa_view *v, ptrdiff_t row, ptrdiff_t c)
{
    return v->data + row * v->strides[0] + c * v->channel_stride;
}

/* rows x columns elements, packed; in place where memory has them so and padding is not needed. */
static const char *row_tile(const job *j, const fa_view *v, ptrdiff_t row, ptrdiff_t c, ptrdiff_t rows,
                            ptrdiff_t columns, int pad, void *buffer)
{
    const ptrdiff_t width = columns * j->itemsize, n = rows * columns;
    char *from = row_address(v, row, c), *to = buffer;
    if ((rows == 1 || v->strides[0] == width) && !(pad && n % FA_LANES))
        return from;
    for (ptrdiff_t r = 0; r < rows; r++)
        memcpy(to + r * width, from + r * v->strides[0], (size_t)width);
    memset(to + n * j->itemsize, 0, (size_t)((padded(n) - n) * j->itemsize));
    return to;
}

static void write_row_tile(const job *j, ptrdiff_t row, ptrdiff_t c, ptrdiff_t rows, ptrdiff_t columns,
                           const char *from)
{
    const ptrdiff_t width = columns * j->itemsize;
    char *to = row_address(j->out, row, c);
    const int packed = rows == 1 || j->out->strides[0] == width;
    if (packed && j->stream)
        j->stream(to, from, (size_t)(rows * width));
    else
        for (ptrdiff_t r = 0; r < rows; r++)
            memcpy(to + r * j->out->strides[0], from + r * width, (size_t)width);
}

static void second_pass_tile(const job *j, ptrdiff_t row, ptrdiff_t c, ptrdiff_t rows, ptrdiff_t columns,
                             scratch *s)
{
    const ptrdiff_t n = rows * columns;
    const int kind = j->bn->params_per_channel ? FA_VARYING : FA_UNIFORM;
    const char *x = row_tile(j, j->x, row, c, rows, columns, 0, s->x), *result = (char *)s->z;
    const fa_affine affine = fa_affine_at(&j->rows.affine, c);
    const double *params[FA_MAX_PARAMS];
    for (int p = 0; p < FA_MAX_PARAMS; p++)
        params[p] = j->rows.params[p] ? j->rows.params[p] + (kind == FA_VARYING ? c : 0) : NULL;
    if (!j->backward || j->activation)
        j->kernels->normalize_row(x, s->z, n, &affine);
    if (!j->backward) {
        if (j->activation)
            j->activation->forward[kind](s->z, s->z, padded(n), params);
    } else {
        const fa_slope slope = fa_slope_at(&j->rows.slope, c);
        const char *g = row_tile(j, j->dy, row, c, rows, columns, 1, s->dy);
        if (j->activation) {
            j->activation->backward[kind](g, s->z, s->g, padded(n), params);
            g = (char *)s->g;
        }
        j->kernels->apply_row(g, x, s->z, n, &affine, &slope);
    }
    write_row_tile(j, row, c, rows, columns, result);
}

static void second_pass_rows(void *context, ptrdiff_t begin, ptrdiff_t end, int worker)
{
    const job *j = context;
    const row_plan *plan = &j->rows;
    const ptrdiff_t across = (j->bn->channels + plan->columns - 1) / plan->columns;
    for (ptrdiff_t t = end - 1; t >= begin; t--) {
        const ptrdiff_t row = t / across * plan->rows, c = t % across * plan->columns;
        second_pass_tile(j, row, c, at_most(j->bn->count - row, plan->rows),
                         at_most(j->bn->channels - c, plan->columns), j->scratch + worker);
    }
}

/* Repeats FA_GROUP channels' constants over FA_LANES rows, for tiles of that shape. */
static fa_affine repeat_group(const job *j, ptrdiff_t c, scratch *s, const double **params)
{
    const fa_affine at = fa_affine_at(j->affine, c);
    const double *from[5] = {at.mean_hi, at.mean_lo, at.scale_hi, at.scale_lo, at.bias};
    for (int a = 0; a < 5; a++)
        for (int r = 0; r < FA_LANES; r++)
            memcpy(s->group_affine[a] + r * FA_GROUP, from[a], FA_GROUP * sizeof(double));
    channel_params(j, c, params);
    if (j->bn->params_per_channel)
        for (int p = 0; p < FA_MAX_PARAMS && params[p]; p++) {
            for (int r = 0; r < FA_LANES; r++)
                memcpy(s->group_params[p] + r * FA_GROUP, params[p], FA_GROUP * sizeof(double));
            params[p] = s->group_params[p];
        }
    return (fa_affine){s->group_affine[0], s->group_affine[1], s->group_affine[2], s->group_affine[3],
                       s->group_affine[4]};
}

/* g of a block of FA_GROUP channels, packed, into group->g (and its parameter's gradient). */
static void gradient_group(const job *j, ptrdiff_t row, ptrdiff_t c, ptrdiff_t rows, scratch *s,
                           group_scratch *group)
{
    const int kind = j->bn->params_per_channel ? FA_VARYING : FA_UNIFORM;
    const double *params[FA_MAX_PARAMS];
    const fa_affine affine = repeat_group(j, c, s, params);
    for (ptrdiff_t r = 0; r < rows; r += FA_LANES) {
        const ptrdiff_t height = at_most(rows - r, FA_LANES), n = height * FA_GROUP;
        const char *x = row_tile(j, j->x, row + r, c, height, FA_GROUP, 1, s->x);
        const char *dy = row_tile(j, j->dy, row + r, c, height, FA_GROUP, 1, s->dy);
        const void *z = x;
        if (!j->bare) {
            j->kernels->normalize_row(x, s->z, n, &affine);
            z = s->z;
        }
        if (j->activation->param_gradient[kind])
            j->activation->param_gradient[kind](dy, z, group->dparam + r * FA_GROUP, n, params);
        j->activation->backward[kind](dy, z, (char *)group->g + r * FA_GROUP * j->itemsize, n, params);
    }
}

static void reduce_group(const job *j, ptrdiff_t c, ptrdiff_t block, int worker)
{
    const ptrdiff_t row = block * FA_BLOCK, rows = at_most(j->bn->count - row, FA_BLOCK);
    const char *x = row_address(j->x, row, c);
    const ptrdiff_t stride = j->x->strides[0] / j->itemsize;
    if (!j->backward) {
        fa_moments out[FA_GROUP];
        j->kernels->group_moments(x, rows, stride, out);
        for (int i = 0; i < FA_GROUP; i++)
            ((fa_moments *)j->parts)[(c + i) * j->blocks + block] = out[i];
        return;
    }
    fa_sums out[FA_GROUP];
    const fa_affine affine = fa_affine_at(j->affine, c);
    if (j->activation) {
        const int learned = j->activation->param_gradient[FA_UNIFORM] != NULL;
        group_scratch *group = j->group + worker;
        gradient_group(j, row, c, rows, j->scratch + worker, group);
        j->kernels->group_sums(group->g, FA_GROUP, x, stride, learned ? group->dparam : NULL, rows, &affine,
                               out);
    } else {
        j->kernels->group_sums(row_address(j->dy, row, c), j->dy->strides[0] / j->itemsize, x, stride, NULL,
                               rows, &affine, out);
    }
    for (int i = 0; i < FA_GROUP; i++)
        ((fa_sums *)j->parts)[(c + i) * j->blocks + block] = out[i];
}

/* A unit is a group of channels, or one of the channels left over. */
static void reduce_units(void *context, ptrdiff_t begin, ptrdiff_t end, int worker)
{
    const job *j = context;
    const ptrdiff_t groups = j->bn->channels / FA_GROUP, units = groups + j->bn->channels % FA_GROUP;
    for (ptrdiff_t t = begin; t < end; t++) {
        const ptrdiff_t block = t / units, u = t % units, c = groups * FA_GROUP + u - groups;
        if (u < groups)
            reduce_group(j, u * FA_GROUP, block, worker);
        else
            reduce_block(j, c, block, (char *)j->parts + (size_t)(c * j->blocks) * part_size(j),
                         j->scratch + worker);
    }
}

static double *repeat(double *to, const double *from, ptrdiff_t n, ptrdiff_t rows)
{
    for (ptrdiff_t r = 0; r < rows; r++)
        memcpy(to + r * n, from, (size_t)n * sizeof *to);
    return to;
}

/* Rows shorter than a quarter of a tile are worked on several at a time, with the constants repeated. */
static void fill_row_plan(job *j)
{
    row_plan *plan = &j->rows;
    const ptrdiff_t c = j->bn->channels, n = plan->rows * c;
    double *at = plan->memory;
    plan->affine = *j->affine;
    plan->slope = j->slope;
    memcpy(plan->params, j->bn->params, sizeof plan->params);
    if (plan->rows == 1)
        return;
    double **affine[] = {&plan->affine.mean_hi,  &plan->affine.mean_lo, &plan->affine.scale_hi,
                         &plan->affine.scale_lo, &plan->affine.bias,    &plan->slope.g_mean,
                         &plan->slope.slope};
    for (size_t a = 0; a < (j->backward ? 7 : 5); a++, at += n)
        *affine[a] = repeat(at, *affine[a], c, plan->rows);
    if (j->bn->params_per_channel)
        for (int p = 0; p < FA_MAX_PARAMS && plan->params[p]; p++, at += n)
            plan->params[p] = repeat(at, plan->params[p], c, plan->rows);
}

/* ---- the driver ------------------------------------------------------------------------------------- */

static int allocate(job *j)
{
    const ptrdiff_t c = j->bn->channels, wide = FA_BLOCK / 4;
    const ptrdiff_t threads = j->threads;
    const ptrdiff_t parts = (j->by_rows || j->bare || c < 2 * threads ? c : threads) * j->blocks;
    j->rows.columns = at_most(c, FA_BLOCK);
    j->rows.rows = c < wide ? wide / c : 1;
    j->parts = malloc((size_t)parts * part_size(j));
    j->scratch = aligned_alloc(64, (size_t)threads * sizeof(scratch));
    j->slope.g_mean = malloc((size_t)c * 2 * sizeof(double));
    j->slope.slope = j->slope.g_mean ? j->slope.g_mean + c : NULL;
    j->rows.memory = malloc((size_t)(j->rows.rows * c) * (7 + FA_MAX_PARAMS) * sizeof(double));
    const int grouped = j->by_rows && j->backward && j->activation;
    if (grouped)
        j->group = aligned_alloc(64, (size_t)threads * sizeof(group_scratch));
    return j->parts && j->scratch && j->slope.g_mean && j->rows.memory && (j->group || !grouped) ? 0 : -1;
}

static void release(job *j)
{
    free(j->parts);
    free(j->scratch);
    free(j->group);
    free(j->slope.g_mean);
    free(j->rows.memory);
}

static void run(job *j)
{
    const ptrdiff_t c = j->bn->channels, blocks = j->blocks;
    const int reduces = j->backward || j->training;
    const ptrdiff_t groups = c / FA_GROUP, units = groups + c % FA_GROUP;
    if (!reduces)
        for (ptrdiff_t i = 0; i < c; i++)
            prepare_forward(j, i);
    if (j->by_rows) {
        const row_plan *plan = &j->rows;
        if (reduces) {
            fa_parallel_for(blocks * units, j->threads, reduce_units, j);
            fa_parallel_for(c, fa_threads_for(c * blocks * FA_LANES), finish_channels, j);
        }
        if (j->bare)
            return;
        fill_row_plan(j);
        fa_parallel_for((j->bn->count + plan->rows - 1) / plan->rows *
                            ((c + plan->columns - 1) / plan->columns),
                        j->threads, second_pass_rows, j);
    } else if (reduces && !j->bare && c >= 2 * j->threads) {
        fa_parallel_for(c, j->threads, whole_channels, j);
    } else {
        if (reduces) {
            fa_parallel_for(c * blocks, j->threads, reduce_blocks, j);
            fa_parallel_for(c, 1, finish_channels, j);
        }
        if (j->bare)
            return;
        fa_parallel_for(c * blocks, j->threads, second_pass_blocks, j);
    }
}

static int start(job *j, const fa_batchnorm *bn)
{
    const fa_isa_table *isa = fa_active();
    const fa_real_kernels *kernels = bn->real == FA_FLOAT32 ? &isa->f32 : &isa->f64;
    const ptrdiff_t size = bn->channels * bn->count;
    j->bn = bn;
    j->kernels = &kernels->batchnorm;
    j->activation = bn->activation < 0 ? NULL : &kernels->activation[bn->activation];
    j->itemsize = fa_itemsize[bn->real];
    j->blocks = (bn->count + FA_BLOCK - 1) / FA_BLOCK;
    j->threads = fa_threads_for(size);
    j->stream = fa_worth_streaming(size * j->itemsize * (2 + j->backward)) ? isa->stream : NULL;
    j->by_rows = fa_view_channels_last(j->x) && (j->bare || fa_view_channels_last(j->out)) &&
                 (!j->backward || fa_view_channels_last(j->dy));
    if (size == 0)
        return 0;
    int status = allocate(j);
    if (status == 0)
        run(j);
    release(j);
    return status;
}

int fa_batchnorm_forward(const fa_batchnorm *bn, int training, const fa_view *x, const fa_view *y,
                         fa_pair *mean, fa_pair *var, const fa_affine *affine, double *rstd)
{
    job j = {.training = training, .x = x, .out = y, .mean = mean, .var = var, .affine = affine, .rstd = rstd};
    return start(&j, bn);
}

int fa_batchnorm_backward(const fa_batchnorm *bn, int training, const fa_view *dy, const fa_view *x,
                          const fa_view *dx, const fa_affine *affine, const double *rstd, fa_sums *sums)
{
    job j = {.training = training, .backward = 1, .dy = dy, .x = x, .out = dx, .affine = affine,
             .rstd = (double *)rstd, .sums = sums};
    return start(&j, bn);
}

/* The kernels that sum want a mean to centre x by; its value does not reach the result. */
int fa_param_gradient(const fa_batchnorm *bn, const fa_view *dy, const fa_view *x, fa_sums *sums)
{
    double *zeros = calloc((size_t)bn->channels + 1, sizeof *zeros);
    const fa_affine none = {zeros, zeros, zeros, zeros, zeros};
    job j = {.backward = 1, .bare = 1, .dy = dy, .x = x, .affine = &none, .sums = sums};
    int status = zeros ? start(&j, bn) : -1;
    free(zeros);
    return status;
}
