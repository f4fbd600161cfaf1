/* How BatchNorm walks over memory.
 *
 * A. Channels apart (NCHW and anything strided): a task is a channel.  Its blocks are reduced, then
 *    normalised in reverse order, so that the second pass starts with what the cache still holds.
 * B. Channels apart but few: a task is a block of a channel, in two parallel phases, so that one channel
 *    uses all threads.
 * C. Channels side by side (NHWC, (N, C)): a task of the reduction is a block of FA_GROUP channels, a
 *    task of the second pass a tile of whole rows.
 *
 * A and B are in batchnorm_channels.c, C in batchnorm_rows.c.
 *
 * The order of additions is the same in all three (fastact.h, FA_BLOCK): results do not depend on the
 * layout or on the number of threads.  Nothing of the size of x is allocated: partial results take 32
 * (forward) or 48 bytes (backward) a block of FA_BLOCK elements, and what the backward keeps of a channel at most
 * half the second-level cache a thread. */
#include "batchnorm.h"

#include <stdlib.h>
#include <string.h>

#include "batchnorm_job.h"
#include "dispatch.h"
#include "memory.h"
#include "parallel.h"

void fa_channel_params(const fa_job *j, ptrdiff_t c, const double **params)
{
    for (int p = 0; p < FA_MAX_PARAMS; p++)
        params[p] = j->bn->params[p] ? j->bn->params[p] + (j->bn->params_per_channel ? c : 0) : NULL;
}

/* ---- between the passes ---------------------------------------------------------------------------- */

static double pair_over(fa_pair a, double n)
{
    return a.hi / n + a.lo / n;
}

static void prepare_forward(const fa_job *j, ptrdiff_t c, ptrdiff_t channels)
{
    const fa_batchnorm *bn = j->bn;
    const fa_affine affine = fa_affine_at(j->affine, c);
    j->kernels->affine(j->mean + c, j->var + c, bn->weight ? bn->weight + c : NULL,
                       bn->bias ? bn->bias + c : NULL, bn->eps, channels, &affine, j->rstd + c);
}

static void finish_forward(const fa_job *j, ptrdiff_t c, fa_moments *parts)
{
    const fa_moments all = j->kernels->merge_moments(parts, j->bn->count);
    j->mean[c] = all.mean;
    j->var[c] = j->kernels->divide(all.m2, (double)j->bn->count);
    prepare_forward(j, c, 1);
}

static void finish_backward(const fa_job *j, ptrdiff_t c, fa_sums *parts)
{
    const double n = (double)j->bn->count;
    j->sums[c] = j->kernels->merge_sums(parts, j->blocks);
    if (j->bare)
        return;
    j->slope.g_mean[c] = j->training ? pair_over(j->sums[c].g, n) : 0.0;
    j->slope.slope[c] = j->training ? pair_over(j->sums[c].gx, n) * j->rstd[c] * j->rstd[c] : 0.0;
}

void fa_finish_channel(const fa_job *j, ptrdiff_t c, void *parts)
{
    if (j->backward)
        finish_backward(j, c, parts);
    else
        finish_forward(j, c, parts);
}

static void finish_channels(void *job, ptrdiff_t begin, ptrdiff_t end, int worker)
{
    const fa_job *j = job;
    (void)worker;
    for (ptrdiff_t c = begin; c < end; c++)
        fa_finish_channel(j, c, (char *)j->parts + (size_t)(c * j->blocks) * fa_part_size(j));
}

/* ---- the driver ------------------------------------------------------------------------------------- */

static int reduces(const fa_job *j)
{
    return j->backward || j->training;
}

/* Case A of the list above. */
static int by_whole_channels(const fa_job *j)
{
    return !j->by_rows && !j->bare && reduces(j) && j->bn->channels >= 2 * j->threads;
}

/* The second pass of the backward needs g again.  It waits where dx will be, if the array fits the cache or its
 * channels lie side by side; else in a buffer, if a channel's g fits the second-level cache beside its x; else
 * it is computed twice. */
static int keeps_channel_g(const fa_job *j)
{
    return j->backward && j->activation && !j->keep_g && by_whole_channels(j) &&
           2 * fa_channel_g_bytes(j) <= fa_l2_bytes();
}

static int allocate(fa_job *j)
{
    const ptrdiff_t c = j->bn->channels, threads = j->threads;
    const ptrdiff_t parts = (by_whole_channels(j) ? threads : c) * j->blocks;
    j->parts = malloc((size_t)parts * fa_part_size(j));
    j->scratch = fa_aligned_alloc((size_t)threads * sizeof(fa_scratch));
    j->slope.g_mean = malloc((size_t)c * 2 * sizeof(double));
    if (!j->parts || !j->scratch || !j->slope.g_mean)
        return -1;
    if (keeps_channel_g(j)) {
        j->channel_g = malloc((size_t)(threads * fa_channel_g_bytes(j)));
        if (!j->channel_g)
            return -1;
    }
    j->slope.slope = j->slope.g_mean + c;
    if (!j->by_rows)
        return 0;
    j->groups = fa_aligned_alloc((size_t)threads * sizeof(fa_group));
    return j->groups && (j->bare || fa_plan_rows(j) == 0) ? 0 : -1;
}

static void release(fa_job *j)
{
    free(j->parts);
    fa_aligned_free(j->scratch);
    fa_aligned_free(j->groups);
    free(j->channel_g);
    free(j->slope.g_mean);
    free(j->rows.memory);
}

static void run_rows(fa_job *j)
{
    const ptrdiff_t c = j->bn->channels;
    if (reduces(j)) {
        fa_parallel_for(j->blocks * fa_row_units(j), j->threads, fa_reduce_units, j);
        fa_parallel_for(c, fa_threads_for(c * j->blocks * FA_LANES), finish_channels, j);
    }
    if (j->bare)
        return;
    fa_fill_row_plan(j);
    fa_parallel_for(fa_row_tiles(j), j->threads, fa_second_pass_rows, j);
}

static void run_channels(fa_job *j)
{
    const ptrdiff_t c = j->bn->channels;
    if (!j->bare)
        fa_plan_channels(j);
    if (by_whole_channels(j)) {
        fa_parallel_for(c, j->threads, fa_whole_channels, j);
        return;
    }
    if (reduces(j)) {
        fa_parallel_for(c * j->blocks, j->threads, fa_reduce_blocks, j);
        fa_parallel_for(c, fa_threads_for(c * j->blocks * FA_LANES), finish_channels, j);
    }
    if (!j->bare)
        fa_parallel_for(c * j->tiles, j->threads, fa_second_pass_tiles, j);
}

static int start(fa_job *j, const fa_batchnorm *bn)
{
    const fa_isa_table *isa = fa_active();
    const fa_real_kernels *kernels = fa_kernels_for(bn->real);
    const ptrdiff_t size = bn->channels * bn->count;
    j->bn = bn;
    j->kernels = &kernels->batchnorm;
    j->activation = bn->activation < 0 ? NULL : &kernels->activation[bn->activation];
    j->half = fa_is_half(bn->real) ? fa_half_kernels_of(bn->real) : NULL;
    j->itemsize = fa_itemsize[bn->real];
    j->tile_size = fa_itemsize[fa_tile_dtype(bn->real)];
    j->blocks = (bn->count + FA_BLOCK - 1) / FA_BLOCK;
    j->threads = fa_threads_for(size);
    j->stream = !j->half && fa_worth_streaming(size * j->itemsize * (2 + j->backward)) ? isa->stream : NULL;
    j->by_rows = fa_view_channels_last(j->x) && (!j->out || fa_view_channels_last(j->out)) &&
                 (!j->dy || fa_view_channels_last(j->dy));
    j->keep_g = j->backward && j->activation && !j->bare && (!j->stream || j->by_rows);
    if (size == 0)
        return 0;
    if (allocate(j) < 0) {
        release(j);
        return -1;
    }
    if (!reduces(j))
        prepare_forward(j, 0, bn->channels);
    if (j->by_rows)
        run_rows(j);
    else
        run_channels(j);
    release(j);
    return 0;
}

int fa_batchnorm_forward(const fa_batchnorm *bn, int training, const fa_view *x, const fa_view *y,
                         fa_pair *mean, fa_pair *var, const fa_affine *affine, double *rstd)
{
    fa_job j = {.training = training, .x = x, .out = y, .mean = mean, .var = var, .affine = affine, .rstd = rstd};
    return start(&j, bn);
}

int fa_batchnorm_backward(const fa_batchnorm *bn, int training, const fa_view *dy, const fa_view *x,
                          const fa_view *dx, const fa_affine *affine, const double *rstd, fa_sums *sums)
{
    fa_job j = {.training = training, .backward = 1, .dy = dy, .x = x, .out = dx, .affine = affine,
             .rstd = (double *)rstd, .sums = sums};
    return start(&j, bn);
}

/* The kernels that sum want a mean to centre x by; its value does not reach the result. */
int fa_param_gradient(const fa_batchnorm *bn, const fa_view *dy, const fa_view *x, fa_sums *sums)
{
    double *zeros = calloc((size_t)bn->channels, sizeof *zeros);
    const fa_affine none = {zeros, zeros, zeros, zeros, zeros};
    fa_job j = {.backward = 1, .bare = 1, .dy = dy, .x = x, .affine = &none, .sums = sums};
    int status = zeros ? start(&j, bn) : -1;
    free(zeros);
    return status;
}
