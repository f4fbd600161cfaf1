/* What the parts of the BatchNorm driver share; see batchnorm.c. */
#ifndef FASTACT_BATCHNORM_JOB_H
#define FASTACT_BATCHNORM_JOB_H

#include "batchnorm.h"

/* A thread's tiles. */
typedef struct {
    _Alignas(64) double x[FA_BLOCK], dy[FA_BLOCK], z[FA_BLOCK], g[FA_BLOCK], dparam[FA_BLOCK],
        result[FA_BLOCK];
} fa_scratch;

/* How the second pass cuts channels that lie side by side: tiles of `rows` x `columns` elements of an
 * array with `width` columns, which is a whole number of rows of x where those are short. */
typedef struct {
    ptrdiff_t width, rows, columns, count; /* count: rows of that array; the remainder is shorter */
    ptrdiff_t repeat;                      /* width / channels */
    fa_affine affine;                      /* of `width` channels */
    fa_slope slope;
    const double *params[FA_MAX_PARAMS]; /* a whole tile of them, where there is a value a channel */
    double *memory;
} fa_row_plan;

typedef struct {
    const fa_batchnorm *bn;
    const fa_batchnorm_kernels *kernels;
    const fa_activation_kernels *activation; /* NULL: none */
    void (*stream)(void *, const void *, size_t);
    int training, backward, threads;
    int bare;    /* no normalisation: z is x, and there is no second pass */
    int by_rows; /* channels lie side by side */
    int keep_g;  /* the first pass of the backward leaves g where dx will be, and the second finds it there */
    const fa_half_kernels *half; /* NULL unless x is half precision: then tiles are float64 */
    ptrdiff_t itemsize, tile_size, blocks; /* bytes of an element in memory, and in a tile */
    ptrdiff_t run, run_tiles, tiles; /* second pass, channels apart: see fa_plan_channels */
    const fa_view *dy, *x, *out;     /* out: y or dx */
    fa_pair *mean, *var;
    const fa_affine *affine;
    double *rstd;
    fa_sums *sums;
    fa_slope slope;
    void *parts; /* fa_moments or fa_sums, [channel][block], or a channel's a worker */
    fa_scratch *scratch;
    char *channel_g; /* or here: room for g of a channel a worker; NULL where there is none */
    fa_group *groups;
    fa_row_plan rows;
} fa_job;

/* Bytes of a worker's share of channel_g; kernels may read up to a vector beyond a tile. */
static inline ptrdiff_t fa_channel_g_bytes(const fa_job *j)
{
    return fa_padded(j->bn->count + FA_LANES) * j->tile_size;
}

/* z and its gradient are rounded to the dtype of x, as if they had been in memory. */
static inline void fa_round_tile(const fa_job *j, void *tile, ptrdiff_t n)
{
    if (j->half)
        j->half->round(tile, n);
}

static inline size_t fa_part_size(const fa_job *j)
{
    return j->backward ? sizeof(fa_sums) : sizeof(fa_moments);
}

/* batchnorm.c: merges the parts of channel c, and makes of them what the second pass needs. */
void fa_finish_channel(const fa_job *j, ptrdiff_t c, void *parts);
/* The channel's parameters of the activation. */
void fa_channel_params(const fa_job *j, ptrdiff_t c, const double **params);

/* batchnorm_channels.c: channels apart. */
void fa_plan_channels(fa_job *j);
void fa_reduce_block(const fa_job *j, ptrdiff_t c, ptrdiff_t block, void *parts, int worker);
/* Tasks: whole channels; blocks of channels; tiles of channels. */
void fa_whole_channels(void *job, ptrdiff_t begin, ptrdiff_t end, int worker);
void fa_reduce_blocks(void *job, ptrdiff_t begin, ptrdiff_t end, int worker);
void fa_second_pass_tiles(void *job, ptrdiff_t begin, ptrdiff_t end, int worker);

/* batchnorm_rows.c: channels side by side. */
ptrdiff_t fa_row_units(const fa_job *j);     /* tasks of fa_reduce_units a block */
ptrdiff_t fa_row_tiles(const fa_job *j);     /* tasks of fa_second_pass_rows */
int fa_plan_rows(fa_job *j);                 /* -1: no memory */
void fa_fill_row_plan(fa_job *j);            /* between the passes */
void fa_reduce_units(void *job, ptrdiff_t begin, ptrdiff_t end, int worker);
void fa_second_pass_rows(void *job, ptrdiff_t begin, ptrdiff_t end, int worker);

#endif
