/* BatchNorm where each channel has its elements to itself: NCHW, and anything strided. */
#include <string.h>

#include "batchnorm_job.h"

/* What a tile is padded with up to a multiple of FA_LANES. */
typedef enum { PAD_FIRST, PAD_ZERO, PAD_ANYTHING } padding;

/* Elements k .. k + n - 1, side by side and padded: in place where memory has them so, else in `buffer`. */
static const char *channel_tile(const fa_job *j, const fa_view *v, ptrdiff_t c, ptrdiff_t k, ptrdiff_t n,
                                padding pad, void *buffer)
{
    const ptrdiff_t size = j->tile_size, whole = fa_padded(n);
    char *run = n == whole || pad == PAD_ANYTHING ? fa_view_run(v, c, k, n) : NULL;
    char *at = buffer;
    if (run && (n == whole || run + whole * size <= v->end))
        return run;
    fa_view_read(v, c, k, n, buffer);
    if (pad == PAD_FIRST)
        for (ptrdiff_t i = n; i < whole; i++)
            memcpy(at + i * size, at, (size_t)size);
    else
        memset(at + n * size, 0, (size_t)((whole - n) * size));
    return at;
}

/* g = dy * activation'(z) with z recomputed from x, into `out`; *dparam is NULL where nothing is learned. */
static const void *gradient_tile(const fa_job *j, ptrdiff_t c, ptrdiff_t n, const void *x, const void *dy,
                                 void *out, fa_scratch *s, const double **dparam)
{
    const fa_affine affine = fa_affine_at(j->affine, c);
    const double *params[FA_MAX_PARAMS];
    const void *z = x;
    if (!j->activation)
        return dy;
    fa_channel_params(j, c, params);
    if (!j->bare) {
        j->kernels->normalize(x, s->z, fa_padded(n), &affine);
        fa_round_tile(j, s->z, n);
        z = s->z;
    }
    if (dparam && j->activation->param_gradient[FA_UNIFORM]) {
        j->activation->param_gradient[FA_UNIFORM](dy, z, s->dparam, fa_padded(n), params);
        *dparam = s->dparam;
    }
    j->activation->backward[FA_UNIFORM](dy, z, out, fa_padded(n), params);
    fa_round_tile(j, out, n);
    return out;
}

static char *channel_g(const fa_job *j, ptrdiff_t k, int worker)
{
    return j->channel_g ? j->channel_g + worker * fa_channel_g_bytes(j) + k * j->tile_size : NULL;
}

void fa_reduce_block(const fa_job *j, ptrdiff_t c, ptrdiff_t block, void *parts, int worker)
{
    fa_scratch *s = j->scratch + worker;
    const ptrdiff_t k = block * FA_BLOCK, n = fa_at_most(j->bn->count - k, FA_BLOCK);
    const void *x = channel_tile(j, j->x, c, k, n, j->backward ? PAD_ZERO : PAD_FIRST, s->x);
    if (!j->backward) {
        j->kernels->block_moments(x, n, (fa_moments *)parts + block);
        return;
    }
    const fa_affine affine = fa_affine_at(j->affine, c);
    const double *dparam = NULL;
    const void *dy = channel_tile(j, j->dy, c, k, n, PAD_ZERO, s->dy);
    char *own = channel_g(j, k, worker);
    const void *g = gradient_tile(j, c, n, x, dy, own ? own : (char *)s->g, s, &dparam);
    j->kernels->block_sums(g, x, dparam, n, &affine, (fa_sums *)parts + block);
    if (j->keep_g)
        fa_view_write(j->out, c, k, n, g);
}

/* ---- second pass ----------------------------------------------------------------------------------- */

enum { SHORT_RUN = 128 }; /* elements; shorter runs of memory are gathered into whole tiles */

static int has_runs(const fa_job *j, const fa_view *v)
{
    return !v || (v->strides[v->ndim - 1] == j->itemsize && v->shape[v->ndim - 1] == j->run);
}

/* Tiles are cut at the ends of runs of memory where those are long: they need no copy then. */
void fa_plan_channels(fa_job *j)
{
    j->run = j->x->shape[j->x->ndim - 1];
    if (j->run < SHORT_RUN || !has_runs(j, j->x) || !has_runs(j, j->dy) || !has_runs(j, j->out))
        j->run = j->bn->count;
    j->run_tiles = (j->run + FA_BLOCK - 1) / FA_BLOCK;
    j->tiles = j->bn->count / j->run * j->run_tiles;
}

static void forward_tile(const fa_job *j, ptrdiff_t c, ptrdiff_t n, const void *x, void *y)
{
    const fa_affine affine = fa_affine_at(j->affine, c);
    const double *params[FA_MAX_PARAMS];
    j->kernels->normalize(x, y, fa_padded(n), &affine);
    fa_round_tile(j, y, n);
    if (j->activation) {
        fa_channel_params(j, c, params);
        j->activation->forward[FA_UNIFORM](y, y, fa_padded(n), params);
    }
}

/* As the first pass left it, or computed again. */
static const void *g_again(const fa_job *j, ptrdiff_t c, ptrdiff_t k, ptrdiff_t n, const void *x, int worker)
{
    fa_scratch *s = j->scratch + worker;
    const char *own = channel_g(j, k, worker);
    if (own)
        return own;
    const void *dy = channel_tile(j, j->keep_g ? j->out : j->dy, c, k, n, PAD_ANYTHING, s->dy);
    return j->keep_g ? dy : gradient_tile(j, c, n, x, dy, s->g, s, NULL);
}

static void second_pass_tile(const fa_job *j, ptrdiff_t c, ptrdiff_t tile, int worker)
{
    fa_scratch *s = j->scratch + worker;
    const ptrdiff_t at = tile % j->run_tiles * FA_BLOCK, k = tile / j->run_tiles * j->run + at;
    const ptrdiff_t n = fa_at_most(j->run - at, FA_BLOCK);
    const void *x = channel_tile(j, j->x, c, k, n, PAD_ANYTHING, s->x);
    char *run = fa_view_run(j->out, c, k, n);
    void *result = run && !j->stream && n % FA_LANES == 0 ? run : (void *)s->z;
    if (j->backward) {
        const fa_affine affine = fa_affine_at(j->affine, c);
        const fa_slope slope = fa_slope_at(&j->slope, c);
        const void *g = g_again(j, c, k, n, x, worker);
        j->kernels->apply(g, x, result, fa_padded(n), &affine, &slope);
    } else {
        forward_tile(j, c, n, x, result);
    }
    if (run == result)
        return;
    if (run && j->stream)
        j->stream(run, result, (size_t)(n * j->itemsize));
    else
        fa_view_write(j->out, c, k, n, result);
}

/* ---- tasks ----------------------------------------------------------------------------------------- */

void fa_whole_channels(void *job, ptrdiff_t begin, ptrdiff_t end, int worker)
{
    const fa_job *j = job;
    void *parts = (char *)j->parts + (size_t)(worker * j->blocks) * fa_part_size(j);
    for (ptrdiff_t c = begin; c < end; c++) {
        for (ptrdiff_t block = 0; block < j->blocks; block++)
            fa_reduce_block(j, c, block, parts, worker);
        fa_finish_channel(j, c, parts);
        for (ptrdiff_t tile = j->tiles - 1; tile >= 0; tile--)
            second_pass_tile(j, c, tile, worker);
    }
}

void fa_reduce_blocks(void *job, ptrdiff_t begin, ptrdiff_t end, int worker)
{
    const fa_job *j = job;
    for (ptrdiff_t t = begin; t < end; t++) {
        const ptrdiff_t c = t / j->blocks;
        fa_reduce_block(j, c, t % j->blocks, (char *)j->parts + (size_t)(c * j->blocks) * fa_part_size(j),
                        worker);
    }
}

void fa_second_pass_tiles(void *job, ptrdiff_t begin, ptrdiff_t end, int worker)
{
    const fa_job *j = job;
    for (ptrdiff_t t = begin; t < end; t++)
        second_pass_tile(j, t / j->tiles, t % j->tiles, worker);
}
