/* How BatchNorm walks over memory.
 *
 * A. Channels apart (NCHW and anything strided): a task is a channel.  It is reduced; then it is normalised, part
 *    by part in turn with the parts of the next channel that are reduced, so that memory is read and written at the
 *    same time, and the cache holds one channel's worth of both.
 * B. Channels apart but few, or too large for the cache: a task is a block of a channel, in two parallel
 *    phases, so that one channel uses all threads.
 * C. Channels side by side (NHWC, (N, C)): a task of the reduction is a block of some channels, a task of the
 *    second pass a number of rows.
 *
 * D. Constant statistics, NCHW: the order of memory.
 * E. As A, where channels are short runs of memory, as of small images.
 *
 * A and B are in batchnorm_channels.c, C in batchnorm_rows.c, D in batchnorm_flat.c, E in batchnorm_runs.c.
 *
 * The order of additions is the same in A, B, C and E (fastact.h, FA_BLOCK): results do not depend on the
 * layout or on the number of threads.  Nothing of the size of x is allocated: partial results take 48 bytes a
 * block of FA_BLOCK elements, and what the first pass keeps of a channel at most the second-level cache a
 * thread. */
#include "batchnorm.h"

#include <stdlib.h>
#include <string.h>

#include "activation_cost.h"
#include "batchnorm_job.h"
#include "dispatch.h"
#include "memory.h"
#include "parallel.h"

void fa_fill(const fa_job *j, void *tile, ptrdiff_t n, double value)
{
    for (ptrdiff_t i = 0; i < n; i++)
        if (j->tile_size == sizeof(float))
            ((float *)tile)[i] = (float)value;
        else
            ((double *)tile)[i] = value;
}

/* ---- constants -------------------------------------------------------------------------------------- */

/* The values of FA_LANES channels, which mostly follow each other, or are one. */
static void pick(double *to, const double *from, const ptrdiff_t *channels)
{
    const double first = from[channels[0]];
    if (channels[FA_LANES - 1] == channels[0] && channels[1] == channels[0]) {
        for (int i = 0; i < FA_LANES; i++)
            to[i] = first;
        return;
    }
    if (channels[FA_LANES - 1] - channels[0] == FA_LANES - 1) {
        memcpy(to, from + channels[0], FA_LANES * sizeof *to);
        return;
    }
    for (int i = 0; i < FA_LANES; i++)
        to[i] = from[channels[i]];
}

static void narrow(const fa_job *j, fa_strip *s)
{
    s->wides = 0;
    if (j->bn->real != FA_FLOAT32)
        return;
    for (int i = 0; i < FA_LANES; i++) {
        s->narrow_centre[i] = (float)s->centre[i];
        s->narrow_scale[i] = (float)s->scale_hi[i];
        s->narrow_slope[i] = (float)s->slope[i];
        s->narrow_constant[i] = (float)s->constant[i];
        s->wides += s->wide[i] != 0.0;
    }
}

static void pick_params(const fa_job *j, fa_strip *s, const ptrdiff_t *channels)
{
    static const ptrdiff_t first[FA_LANES] = {0};
    for (int p = 0; p < FA_MAX_PARAMS; p++)
        if (j->bn->params[p])
            pick(s->params[p], j->bn->params[p], j->bn->params_per_channel ? channels : first);
}

void fa_fill_strip(const fa_job *j, fa_strip *s, const ptrdiff_t *channels, int second_pass)
{
    const fa_affine *a = &j->statistics->affine;
    if (!j->backward && !second_pass && !j->tolerance) {
        pick(s->shift, j->shift, channels);
        return;
    }
    pick(s->centre, a->centre, channels);
    pick(s->scale_hi, a->scale_hi, channels);
    pick(s->scale_lo, a->scale_lo, channels);
    pick(s->offset_hi, a->offset_hi, channels);
    pick(s->offset_lo, a->offset_lo, channels);
    pick_params(j, s, channels);
    s->sided = 0;
    if (j->by_sign)
        j->kernels->find_sides(s);
    if (j->bn->from_output || j->tolerance) {
        pick(s->rstd, j->statistics->rstd, channels);
        for (int i = 0; i < FA_LANES; i++)
            s->inverse_scale[i] = 1.0 / s->scale_hi[i];
    }
    if (!j->backward || !second_pass || !j->training)
        return;
    pick(s->slope, j->slope.slope, channels);
    pick(s->constant, j->slope.constant, channels);
    pick(s->wide, j->slope.wide, channels);
    narrow(j, s);
}

/* ---- between the passes ---------------------------------------------------------------------------- */

static void make_affine(const fa_job *j, ptrdiff_t c, ptrdiff_t channels)
{
    const fa_batchnorm *bn = j->bn;
    const fa_statistics *st = j->statistics;
    double *mean[2] = {st->mean[0] + c, st->mean[1] + c}, *var[2] = {st->var[0] + c, st->var[1] + c};
    const fa_affine affine = fa_affine_at(&st->affine, c);
    j->kernels->affine(mean, var, bn->weight ? bn->weight + c : NULL, bn->bias ? bn->bias + c : NULL, bn->eps,
                       channels, &affine, st->rstd + c);
}

static void make_slope(const fa_job *j, ptrdiff_t c, ptrdiff_t channels)
{
    const fa_affine affine = fa_affine_at(&j->statistics->affine, c);
    const fa_slope slope = fa_slope_at(&j->slope, c);
    j->kernels->slope(j->sums[0] + c, j->sums[1] + c, &affine, j->statistics->rstd + c, j->bn->total, channels,
                      &slope);
}

void fa_finish_channels(const fa_job *j, double *parts, ptrdiff_t width, ptrdiff_t c, ptrdiff_t channels)
{
    const fa_statistics *st = j->statistics;
    j->kernels->merge(parts, width, j->blocks, channels, j->nsums);
    if (j->tolerance) {
        j->kernels->param_sums(parts, width, channels, j->sums[2] + c);
    } else if (j->backward) {
        const fa_affine affine = fa_affine_at(&st->affine, c);
        double *sums[FA_SUMS] = {j->sums[0] + c, j->sums[1] + c, j->sums[2] + c};
        j->kernels->totals(parts, width, &affine, channels, sums);
        if (j->learns)
            j->kernels->param_sums(parts, width, channels, sums[2]);
        make_slope(j, c, channels);
    } else {
        double *mean[2] = {st->mean[0] + c, st->mean[1] + c}, *var[2] = {st->var[0] + c, st->var[1] + c};
        j->kernels->statistics(parts, width, j->shift + c, j->bn->total, channels, mean, var);
        make_affine(j, c, channels);
    }
}

/* ---- what counts, and what is lost ------------------------------------------------------------------ */

static double number_at(const fa_job *j, const void *tile, ptrdiff_t i)
{
    return j->tile_size == sizeof(float) ? ((const float *)tile)[i] : ((const double *)tile)[i];
}

/* The mean of some of the elements: no one weighs more, so that what was said in batchnorm.inc of the shift holds
 * of weighted sums, too. */
static double shift_of_first(const fa_job *j, ptrdiff_t c, fa_scratch *s)
{
    double sum = 0.0;
    for (int i = 0; i < FA_LANES; i++)
        fa_view_read(j->x, c, j->bn->first[i], 1, (char *)s->x + i * j->tile_size);
    if (!j->bn->shares)
        return j->kernels->run_shift(s->x);
    for (int i = 0; i < FA_LANES; i++)
        sum += j->bn->shares[i] * number_at(j, s->x, i);
    return j->tile_size == sizeof(float) ? (float)sum : sum;
}

void fa_find_shift(const fa_job *j, ptrdiff_t c, fa_scratch *s)
{
    const ptrdiff_t n = fa_at_most(j->bn->count, FA_LANES);
    if (j->bn->first) {
        j->shift[c] = shift_of_first(j, c, s);
        return;
    }
    fa_view_read(j->x, c, 0, n, s->x);
    for (ptrdiff_t i = n; i < FA_LANES; i++)
        memcpy((char *)s->x + i * j->tile_size, s->x, (size_t)j->tile_size);
    j->shift[c] = j->kernels->run_shift(s->x);
}

/* The first element of a channel's list from k on. */
static ptrdiff_t lower_bound(const ptrdiff_t *index, ptrdiff_t begin, ptrdiff_t end, ptrdiff_t k)
{
    while (begin < end) {
        const ptrdiff_t middle = begin + (end - begin) / 2;
        if (index[middle] < k)
            begin = middle + 1;
        else
            end = middle;
    }
    return begin;
}

void fa_patch_lost(const fa_job *j, ptrdiff_t c, ptrdiff_t k, ptrdiff_t n, char *tile, ptrdiff_t step)
{
    const fa_lost *lost = j->bn->lost;
    const size_t size = (size_t)j->tile_size;
    const char *whole = lost ? lost->channels[c] : NULL;
    if (!lost)
        return;
    for (ptrdiff_t i = 0; whole && i < n; i++)
        memcpy(tile + i * step, whole + (size_t)(k + i) * size, size);
    const ptrdiff_t end = lost->begin[c + 1];
    for (ptrdiff_t i = lower_bound(lost->index, lost->begin[c], end, k); i < end && lost->index[i] < k + n; i++)
        memcpy(tile + (lost->index[i] - k) * step, (const char *)lost->x + (size_t)i * size, size);
}

/* ---- the driver ------------------------------------------------------------------------------------- */

/* What the second pass needs of statistics, or sums, that were given. */
static void prepare(void *job, ptrdiff_t begin, ptrdiff_t end, int worker)
{
    const fa_job *j = job;
    (void)begin, (void)end, (void)worker;
    (j->backward ? make_slope : make_affine)(j, 0, j->bn->channels);
}

static int run(fa_job *j)
{
    const size_t channels = (size_t)j->bn->channels;
    double *memory = malloc(4 * channels * sizeof *memory);
    int status = -1;
    j->scratch = fa_aligned_alloc((size_t)j->threads * sizeof *j->scratch);
    j->spare = j->bn->residual ? fa_aligned_alloc((size_t)(j->threads * FA_TILE) * sizeof(double)) : NULL;
    if (memory && j->scratch && (j->spare || !j->bn->residual)) {
        j->shift = memory;
        j->slope = (fa_slope){memory + channels, memory + 2 * channels, memory + 3 * channels};
        if (!fa_reduces(j) || j->tolerance)
            fa_parallel_for(1, 1, prepare, j);
        status = j->by_rows           ? fa_run_rows(j)
                 : fa_can_run_flat(j) ? fa_run_flat(j)
                 : fa_can_run_runs(j) ? fa_run_runs(j)
                                      : fa_run_channels(j);
    }
    free(memory);
    fa_aligned_free(j->scratch);
    fa_aligned_free(j->spare);
    return status;
}

/* Forward, backward, and either without the reduction of x, or one pass of them; as they are, or with what takes
 * more. */
static fa_cost *cost_of(const fa_job *j)
{
    static fa_cost costs[4][FA_ACTIVATION_COUNT + 1][4][6];
    const fa_batchnorm *bn = j->bn;
    const int more = bn->residual || bn->weights || bn->from_output || j->tolerance != 0.0;
    return &costs[bn->real - FA_FLOAT32][bn->activation + 1][2 * j->backward + !j->training][j->passes + 3 * more];
}

/* More than an eighth of a nanosecond for a byte of the result: about what it costs a thread to move another byte to
 * memory and back (docs/design.md). */
static int is_costly(const fa_job *j)
{
    return j->activation && fa_activation_cost(j->activation, j->bn->real, j->bn->activation, j->backward) >
                                0.125f * (float)j->itemsize;
}

/* Past the caches, where the result would not stay there: but not where the pass that writes it is busy computing,
 * which hides how long ordinary stores take. */
static int had_better_stream(const fa_job *j, ptrdiff_t size)
{
    return !j->half && (j->backward || !j->costly) && fa_worth_streaming(size * j->itemsize * (2 + j->backward));
}

/* Whether a gradient that depends on the sign of z alone is all that is asked for. */
static int is_by_sign(const fa_job *j)
{
    const fa_batchnorm *bn = j->bn;
    int finite = 1; /* or the padding would have a gradient */
    for (int p = 0; p < FA_MAX_PARAMS && bn->params[p]; p++)
        finite &= bn->params[p][0] - bn->params[p][0] == 0.0;
    return j->backward && j->training && j->passes == FA_BOTH_PASSES && j->activation && j->kernels->sided &&
           j->kernels->sided[bn->activation].sums && finite && !j->learns && !bn->residual && !bn->mask &&
           !bn->weights && !bn->from_output;
}

/* Whether the first pass had better leave g where dx will be than the second compute it again. */
static int worth_keeping(const fa_job *j, ptrdiff_t size)
{
    const int fits = 3 * size * j->itemsize <= j->threads * fa_l2_bytes();
    return j->activation && j->backward && !j->by_sign && j->passes == FA_BOTH_PASSES && (fits || j->costly);
}

/* Regions whose time threads cost. Between the passes they hand on sums and constants from cache to cache, and of rows
 * the halves of x as well, which the passes cut differently (docs/design.md, "Threads"). */
static int regions_of(const fa_job *j)
{
    enum { OF_CHANNELS = 3, OF_ROWS = 10 };
    return !fa_reduces(j) || !fa_applies(j) ? 1 : j->by_rows ? OF_ROWS : OF_CHANNELS;
}

static int channels_last(const fa_view *v)
{
    return !v || fa_view_channels_last(v);
}

static int start(fa_job *j, const fa_batchnorm *bn)
{
    const fa_isa_table *isa = fa_active();
    const fa_real_kernels *kernels = fa_kernels_for(bn->real);
    const ptrdiff_t size = bn->channels * bn->count;
    j->bn = bn;
    j->kernels = &kernels->batchnorm;
    if (size == 0) {
        if (!fa_reduces(j) && !j->backward) /* an array without elements among others */
            fa_parallel_for(1, 1, prepare, j);
        return 0;
    }
    j->activation = bn->activation < 0 ? NULL : &kernels->activation[bn->activation];
    j->half = fa_is_half(bn->real) ? fa_half_kernels_of(bn->real) : NULL;
    j->itemsize = fa_itemsize[bn->real];
    j->tile_size = fa_itemsize[fa_tile_dtype(bn->real)];
    j->costly = is_costly(j);
    j->blocks = (bn->count + FA_BLOCK - 1) / FA_BLOCK;
    j->learns = j->backward && j->activation && j->activation->param_gradient[FA_UNIFORM];
    j->nsums = 2 + (j->learns || j->tolerance);
    j->by_sign = is_by_sign(j);
    j->stream = had_better_stream(j, size) ? isa->stream : NULL;
    j->by_rows = channels_last(j->x) && channels_last(j->out) && channels_last(j->dy) && channels_last(bn->residual) &&
                 channels_last(bn->g);
    fa_cost *cost = cost_of(j);
    j->threads = fa_threads_for(size, cost, regions_of(j));
    j->g = bn->g ? bn->g : worth_keeping(j, size) ? j->out : NULL;
    const double begin = fa_begin_measurement(j->threads, size, cost);
    const int status = run(j);
    fa_record(cost, size, begin);
    return status;
}

int fa_batchnorm_forward(const fa_batchnorm *bn, int training, const fa_view *x, const fa_view *y,
                         const fa_statistics *statistics)
{
    fa_job j = {.training = training, .x = x, .out = y, .statistics = statistics};
    return start(&j, bn);
}

int fa_batchnorm_statistics(const fa_batchnorm *bn, const fa_view *x, const fa_statistics *statistics)
{
    fa_job j = {.passes = FA_FIRST_PASS, .training = 1, .x = x, .statistics = statistics};
    return start(&j, bn);
}

int fa_batchnorm_backward(const fa_batchnorm *bn, fa_passes passes, int training, const fa_view *dy,
                          const fa_view *x, const fa_view *dx, const fa_statistics *statistics,
                          double *const sums[FA_SUMS])
{
    fa_job j = {.passes = passes, .training = training, .backward = 1, .dy = dy, .x = x, .out = dx,
                .statistics = statistics, .sums = (double **)sums};
    return start(&j, bn);
}

int fa_batchnorm_count_lost(const fa_batchnorm *bn, const fa_view *x, const fa_statistics *statistics,
                            double tolerance, double *counts)
{
    double *sums[FA_SUMS] = {NULL, NULL, counts};
    fa_job j = {.passes = FA_FIRST_PASS, .training = 1, .x = x, .statistics = statistics, .sums = sums,
                .tolerance = tolerance};
    const int status = start(&j, bn);
    for (ptrdiff_t c = 0; status == 0 && c < bn->channels; c++) /* beside a NaN the padding is lost, too */
        counts[c] = counts[c] < (double)bn->count ? counts[c] : (double)bn->count;
    return status;
}

int fa_batchnorm_recover(const fa_batchnorm *bn, const fa_view *y, const fa_view *x,
                         const fa_statistics *statistics)
{
    fa_job j = {.passes = FA_SECOND_PASS, .x = y, .out = x, .statistics = statistics, .only_recovers = 1};
    return start(&j, bn);
}

/* z is x: a normalisation that changes nothing. */
int fa_param_gradient(const fa_batchnorm *bn, const fa_view *dy, const fa_view *x, double *sums)
{
    const size_t channels = (size_t)bn->channels;
    double *memory = calloc(5 * channels, sizeof *memory);
    if (!memory)
        return -1;
    double *zero = memory, *one = memory + channels, *minus_zero = memory + 2 * channels;
    double *unused[FA_SUMS] = {memory + 3 * channels, memory + 4 * channels, sums};
    for (size_t c = 0; c < channels; c++) {
        one[c] = 1.0;
        minus_zero[c] = -0.0;
    }
    const fa_statistics unchanged = {.rstd = one, .affine = {zero, one, zero, minus_zero, zero, zero}};
    fa_job j = {.passes = FA_FIRST_PASS, .backward = 1, .dy = dy, .x = x, .statistics = &unchanged,
                .sums = unused};
    int status = start(&j, bn);
    free(memory);
    return status;
}
