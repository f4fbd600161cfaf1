/* What the parts of the BatchNorm driver share; see batchnorm.c. */
#ifndef FASTACT_BATCHNORM_JOB_H
#define FASTACT_BATCHNORM_JOB_H

#include <string.h>

#include "batchnorm.h"

enum { FA_TILE = 4 * FA_BLOCK }; /* elements of a worker's buffer */

/* A worker's buffers. */
typedef struct {
    _Alignas(64) double x[FA_TILE], dy[FA_TILE], g[FA_TILE], dparam[FA_TILE];
} fa_scratch;

/* How channels that lie side by side are cut: see batchnorm_rows.c. */
typedef struct {
    ptrdiff_t repeat;         /* rows of x that make a row of the matrix */
    ptrdiff_t width, rows;    /* of the matrix; a remainder of fewer than `repeat` rows is apart */
    ptrdiff_t strips;         /* in a row */
    ptrdiff_t wide;           /* strips of a task of the reduction */
    ptrdiff_t group, height;  /* those, and the rows, that it takes at a time */
    ptrdiff_t field;          /* strips of which g is found at a time, where it is kept */
    int along;                /* whether kernels of the second pass go along the rows: of arrays beyond the caches */
    ptrdiff_t across, down;   /* strips and rows of a tile of it */
    int lanes;                /* which the matrix' rows belong to in turn */
} fa_matrix;

typedef struct {
    const fa_batchnorm *bn;
    const fa_batchnorm_kernels *kernels;
    const fa_activation_kernels *activation; /* NULL: none */
    int costly; /* the activation: moving bytes is cheaper */
    int by_sign; /* g is found from dy and the sign of z where it is used (fused.inc) */
    const fa_half_kernels *half; /* NULL unless x is half precision: then tiles are float64 */
    void (*stream)(void *, const void *, size_t); /* NULL where results had better stay in the cache */
    int training, backward, threads;
    fa_passes passes;
    int learns; /* whether the activation's parameter gets a gradient */
    int nsums;  /* of the reduction */
    ptrdiff_t itemsize, tile_size, blocks; /* bytes of an element in memory, and in a tile */
    const fa_view *dy, *x, *out;           /* out: y or dx */
    const fa_view *g;                      /* where the first pass leaves g for the second, or NULL */
    double tolerance; /* not 0: instead of the moments, elements are counted that y loses */
    int only_recovers; /* the second pass writes x again */
    double *spare;     /* a buffer of FA_TILE elements a worker, where there is a residual */
    const fa_statistics *statistics;
    double **sums;
    fa_slope slope; /* a value a channel */
    double *shift;
    double *parts; /* see fa_part */
    ptrdiff_t parts_width;
    fa_scratch *scratch;
    int by_rows; /* channels lie side by side */
    /* channels apart: batchnorm_channels.c */
    int whole;     /* a task is a whole channel */
    int direct[5]; /* whether dy, x, out, residual, g have runs of memory that need no buffer */
    ptrdiff_t run; /* elements of such a run */
    ptrdiff_t part; /* elements of a run that are taken at a time */
    ptrdiff_t tiles; /* of FA_TILE elements, a task of the second pass where channels are shared */
    char *kept;    /* what the first pass leaves of a channel a worker: x where it is no run, g */
    ptrdiff_t kept_bytes;
    int keeps_x, keeps_g;
    int fetches; /* whether short runs of the next channel are fetched ahead: they lie behind this one's */
    /* channels side by side: batchnorm_rows.c */
    fa_matrix matrix;
    fa_strip *strips; /* of the columns of the matrix */
    fa_lanes *lanes;
    ptrdiff_t lanes_each; /* of a worker */
} fa_job;

static inline int fa_reduces(const fa_job *j)
{
    return j->passes != FA_SECOND_PASS && (j->backward || j->training);
}

static inline int fa_applies(const fa_job *j)
{
    return j->passes != FA_FIRST_PASS;
}

/* batchnorm.c: the constants that the first or the second pass needs of positions that stand for these channels. */
void fa_fill_strip(const fa_job *j, fa_strip *strip, const ptrdiff_t *channels, int second_pass);

/* batchnorm.c: of the parts of `channels` channels from c on, which begin at `parts`, makes what the second
 * pass needs. */
void fa_finish_channels(const fa_job *j, double *parts, ptrdiff_t width, ptrdiff_t c, ptrdiff_t channels);

/* y = activation(z); or g, and the learned parameter's gradient */
static inline void fa_run_forward(const fa_job *j, fa_span *s)
{
    if (j->activation || s->residual)
        j->kernels->forward(s, j->activation, j->half);
    else
        j->kernels->normalize(s);
}

/* x of a span of y */
static inline void fa_run_recover(const fa_job *j, const fa_span *s)
{
    const int activation = j->bn->activation < 0 ? FA_ACTIVATION_COUNT : j->bn->activation;
    j->kernels->recover[activation][s->varying ? FA_VARYING : FA_UNIFORM](s);
}

/* Whether the residual has to be read: without an activation no gradient needs it. */
static inline int fa_needs_residual(const fa_job *j)
{
    return j->bn->residual && (j->activation || !j->backward);
}

/* Whether some of these elements, or rows, do not count. */
static inline int fa_has_masked(const fa_job *j, ptrdiff_t k, ptrdiff_t n)
{
    return j->bn->mask && memchr(j->bn->mask + k, 0, (size_t)n);
}

/* Whether the second pass of these needs more than one kernel, which a buffer is for. */
static inline int fa_in_steps(const fa_job *j, ptrdiff_t k, ptrdiff_t n)
{
    return fa_has_masked(j, k, n) || (j->bn->weights && j->backward);
}

/* By what x is covered, so that it adds nothing: the constants of the first pass of a forward have no centre. */
static inline fa_cover_with fa_cover_of(const fa_job *j)
{
    return j->backward || j->tolerance != 0.0 ? FA_COVER_CENTRE : FA_COVER_SHIFT;
}

/* batchnorm.c: copies what was lost of elements k .. k + n - 1 of a channel over those of a tile, `step` apart. */
void fa_patch_lost(const fa_job *j, ptrdiff_t c, ptrdiff_t k, ptrdiff_t n, char *tile, ptrdiff_t step);

/* batchnorm.c: a channel's shift, and that of what counts in it. */
void fa_find_shift(const fa_job *j, ptrdiff_t c, fa_scratch *s);

/* Parts of a number in working precision: float32 and half have no low part. */
static inline int fa_parts_of(const fa_job *j)
{
    return j->bn->real == FA_FLOAT64 ? 2 : 1;
}

/* Sets what will be added to. */
static inline void fa_clear(const fa_job *j, fa_lanes *lanes)
{
    for (int part = 0; part < fa_parts_of(j); part++)
        for (int sum = 0; sum < j->nsums; sum++)
            for (int i = 0; i < FA_LANES; i++)
                lanes->at[part][sum][i] = 0.0;
}

/* What a padding is made of: n elements of `value` in a tile. */
void fa_fill(const fa_job *j, void *tile, ptrdiff_t n, double value);

/* batchnorm_channels.c */
int fa_run_channels(fa_job *j); /* -1: no memory */

/* A channel's constants, as the kernels take them; and with its shift found, those of the first pass. */
void fa_repeat_channel(const fa_job *j, ptrdiff_t c, fa_strip *k, int second_pass);
void fa_begin_channel(const fa_job *j, ptrdiff_t c, fa_strip *k, int worker);

/* Whether tasks had better be whole channels: they share out evenly, and both passes find them in the cache. */
int fa_by_whole_channels(const fa_job *j);

/* batchnorm_runs.c */
int fa_can_run_runs(const fa_job *j);
int fa_run_runs(fa_job *j);

/* batchnorm_rows.c */
int fa_run_rows(fa_job *j);

/* batchnorm_flat.c */
int fa_can_run_flat(const fa_job *j);
int fa_run_flat(fa_job *j);

#endif
