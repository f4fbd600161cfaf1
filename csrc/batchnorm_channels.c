/* BatchNorm where each channel has its elements to itself: NCHW, and anything strided. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "batchnorm_job.h"
#include "memory.h"
#include "parallel.h"

/* ---- a channel's constants, as the kernels take them ------------------------------------------------- */

void fa_repeat_channel(const fa_job *j, ptrdiff_t c, fa_strip *k, int second_pass)
{
    ptrdiff_t channels[FA_LANES];
    for (int i = 0; i < FA_LANES; i++)
        channels[i] = c;
    fa_fill_strip(j, k, channels, second_pass);
}

/* ---- where elements lie -------------------------------------------------------------------------------- */

enum { DY, X, OUT, RESIDUAL, G };

static inline const fa_view *view_of(const fa_job *j, int which)
{
    return which == DY ? j->dy : which == X ? j->x : which == OUT ? j->out : which == G ? j->g : j->bn->residual;
}

/* The elements from k on that are taken at a time, up to `most`: of one run, or, where no FA_LANES of it are left, the
 * FA_LANES that the next run begins with the rest of.  So elements that a lane begins with begin a piece. */
static ptrdiff_t piece(const fa_job *j, ptrdiff_t k, ptrdiff_t most)
{
    const ptrdiff_t in_run = k % j->run, left = j->run - in_run, in_part = fa_padded(j->part - in_run % j->part);
    if (in_part < left || left % FA_LANES == 0 || k + left == j->bn->count)
        return fa_at_most(most, fa_at_most(in_part, left));
    return fa_at_most(most, left < FA_LANES ? FA_LANES : left - left % FA_LANES);
}

/* Whether elements k .. k + n - 1 of an array with runs can be read, or written, where they lie. */
static int is_direct(const fa_job *j, int which, ptrdiff_t k, ptrdiff_t n)
{
    return j->direct[which] && n % FA_LANES == 0 && k % j->run + n <= j->run;
}

/* Elements k .. k + n - 1, padded with `pad` to a multiple of FA_LANES: where they lie, or in `buffer`. */
static const char *read_piece(const fa_job *j, int which, ptrdiff_t c, ptrdiff_t k, ptrdiff_t n, double pad,
                              char *buffer)
{
    const fa_view *v = view_of(j, which);
    if (is_direct(j, which, k, n))
        return fa_view_address(v, c, k);
    if (j->fetches && c + 1 < j->bn->channels)
        fa_view_fetch(v, c + 1, k, n);
    fa_view_read(v, c, k, n, buffer);
    fa_fill(j, buffer + n * j->tile_size, fa_padded(n) - n, pad);
    return buffer;
}

/* What few calls do of each piece is apart, so that it costs the others no more than a look: setting a span
 * to 0 alone takes as long as fifty elements. */
static __attribute__((noinline)) const char *cover(const fa_job *j, ptrdiff_t k, ptrdiff_t n,
                                                   const fa_strip *constants, const char *tile,
                                                   fa_cover_with with, char *buffer)
{
    const fa_span span = {.out = buffer, .rows = 1, .strips = fa_padded(n) / FA_LANES, .constants = constants};
    if (tile != buffer)
        memcpy(buffer, tile, (size_t)(n * j->tile_size));
    j->kernels->cover(&span, j->bn->mask + k, 0, with);
    return buffer;
}

/* A piece's tile, or, where elements of it do not count, a copy in which they are covered. */
static inline const char *covered(const fa_job *j, ptrdiff_t k, ptrdiff_t n, const fa_strip *constants,
                                  const char *tile, fa_cover_with with, char *buffer)
{
    return fa_has_masked(j, k, n) ? cover(j, k, n, constants, tile, with, buffer) : tile;
}

static __attribute__((noinline)) const char *recover(const fa_job *j, ptrdiff_t c, ptrdiff_t k, ptrdiff_t n,
                                                     const fa_strip *constants, const char *y, char *buffer)
{
    const fa_span span = {.x = y, .out = buffer, .rows = 1, .strips = fa_padded(n) / FA_LANES,
                          .constants = constants};
    fa_run_recover(j, &span);
    fa_patch_lost(j, c, k, n, buffer, j->tile_size);
    fa_fill(j, buffer + n * j->tile_size, fa_padded(n) - n, 0.0); /* some inverses of 0 are infinite */
    return buffer;
}

/* Elements of x; of y, if that was kept, they are found again. */
static inline const char *read_x(const fa_job *j, ptrdiff_t c, ptrdiff_t k, ptrdiff_t n,
                                 const fa_strip *constants, double pad, char *buffer)
{
    const char *x = read_piece(j, X, c, k, n, pad, buffer);
    return j->bn->from_output ? recover(j, c, k, n, constants, x, buffer) : x;
}

static char *kept_x(const fa_job *j, ptrdiff_t k, int worker)
{
    return j->keeps_x ? j->kept + worker * j->kept_bytes + k * j->tile_size : NULL;
}

static char *kept_g(const fa_job *j, ptrdiff_t k, int worker)
{
    char *own = j->kept + worker * j->kept_bytes + (j->keeps_x ? j->kept_bytes / 2 : 0);
    return j->keeps_g ? own + k * j->tile_size : NULL;
}

/* What will be read after a piece, for the caches to fetch; or NULL. */
typedef struct {
    const char *x, *dy;
} ahead;

static const ahead nothing = {NULL, NULL};

static void move(const fa_job *j, ahead *next, ptrdiff_t elements)
{
    if (next->x)
        next->x += elements * j->tile_size;
    if (next->dy)
        next->dy += elements * j->tile_size;
}

/* A piece: one row of strips.  Every field is named: setting a span to 0 before would take longer. */
static fa_span span_of(const fa_job *j, const fa_strip *k, const void *x, ptrdiff_t n, const ahead *next)
{
    const int fetches = next->x != NULL;
    return (fa_span){.x = x, .dy = x, .out = NULL, .rows = 1, .strips = fa_padded(n) / FA_LANES,
                     .x_step = 0, .dy_step = 0, .out_step = 0, .constants = k, .each = 0, .odd = 0, .varying = 0,
                     .stream = 0, .dparam = NULL, .residual = NULL, .residual_step = 0,
                     .ahead = {fetches ? next->x : x, fetches && next->dy ? next->dy : x}, .ahead_step = 0,
                     .ahead_strip = fetches ? FA_LANES * j->tile_size : 0};
}

/* ---- first pass ------------------------------------------------------------------------------------------ */

/* g of a piece, and what a learned parameter's gradient sums.  What does not count has no g, even beside statistics
 * that are NaN. */
static const void *find_g(const fa_job *j, fa_span *span, ptrdiff_t k, ptrdiff_t n, char *out, fa_scratch *s)
{
    if (!j->activation)
        return span->dy;
    span->out = out;
    span->dparam = j->learns ? s->dparam : NULL;
    j->kernels->backward(span, j->activation, j->half);
    fa_fill(j, out + n * j->tile_size, fa_padded(n) - n, 0.0); /* whatever the padding gives */
    for (ptrdiff_t i = n; i < fa_padded(n); i++)
        s->dparam[i] = 0.0;
    return covered(j, k, n, span->constants, out, FA_COVER_ZERO, out);
}

/* What is added to z, with nothing where elements do not count. */
static void read_residual(const fa_job *j, ptrdiff_t c, ptrdiff_t k, ptrdiff_t n, fa_span *span, int worker)
{
    if (!fa_needs_residual(j))
        return;
    char *buffer = (char *)(j->spare + worker * FA_TILE);
    span->residual = read_piece(j, RESIDUAL, c, k, n, 0.0, buffer);
    span->residual = covered(j, k, n, span->constants, span->residual, FA_COVER_ZERO, buffer);
}

static void reduce_g(const fa_job *j, ptrdiff_t c, ptrdiff_t k, ptrdiff_t n, fa_span *span, fa_lanes *lanes,
                     int worker)
{
    fa_scratch *s = j->scratch + worker;
    char *kept = kept_g(j, k, worker);
    const char *dy = read_piece(j, DY, c, k, n, 0.0, j->by_sign && kept ? kept : (char *)s->dy);
    span->dy = covered(j, k, n, span->constants, dy, FA_COVER_ZERO, (char *)s->dy);
    if (j->by_sign) {
        j->kernels->sided[j->bn->activation].sums(lanes, 1, span);
        return;
    }
    read_residual(j, c, k, n, span, worker);
    span->dy = find_g(j, span, k, n, kept ? kept : (char *)s->g, s);
    j->kernels->sums(lanes, 1, span, FA_LANES);
    if (j->g && !j->keeps_g)
        fa_view_write(j->g, c, k, n, span->dy);
}

/* Of a piece of x: y is made of it, and x of that again. */
static __attribute__((noinline)) void count_lost(const fa_job *j, ptrdiff_t n, fa_span *span, fa_lanes *lanes, fa_scratch *s)
{
    fa_span again = *span;
    span->out = s->g;
    fa_run_forward(j, span);
    again.x = s->g;
    again.out = s->dy;
    fa_run_recover(j, &again);
    memcpy((char *)s->dy + n * j->tile_size, (const char *)span->x + n * j->tile_size,
           (size_t)((fa_padded(n) - n) * j->tile_size)); /* the padding loses nothing */
    span->dy = s->dy;
    j->kernels->count_lost(lanes, 1, span, j->tolerance);
}

static void reduce_piece(const fa_job *j, ptrdiff_t c, ptrdiff_t k, ptrdiff_t n, const fa_strip *constants,
                         fa_lanes *lanes, const ahead *next, int worker)
{
    fa_scratch *s = j->scratch + worker;
    char *kept = kept_x(j, k, worker), *buffer = kept ? kept : (char *)s->x;
    const char *x = read_x(j, c, k, n, constants, j->backward ? 0.0 : j->shift[c], buffer);
    x = covered(j, k, n, constants, x, fa_cover_of(j), buffer);
    fa_span span = span_of(j, constants, x, n, next);
    if (j->backward)
        reduce_g(j, c, k, n, &span, lanes, worker);
    else if (j->tolerance)
        count_lost(j, n, &span, lanes, s);
    else if (j->bn->weights)
        j->kernels->weighted_moments(lanes, 1, &span, j->bn->weights + k, 0);
    else
        j->kernels->moments(lanes, 1, &span);
}

/* Elements k .. k + n - 1, after those before them: a block's lanes, which wait in `lanes` meanwhile, are folded at
 * its end. */
static void reduce(const fa_job *j, ptrdiff_t c, ptrdiff_t k, ptrdiff_t n, const fa_strip *constants, fa_lanes *lanes,
                   double *parts, ptrdiff_t width, ahead next, int worker)
{
    for (const ptrdiff_t end = k + n; k < end; k += n) {
        n = fa_at_most(end - k, FA_BLOCK - k % FA_BLOCK);
        if (k % FA_BLOCK == 0)
            fa_clear(j, lanes);
        reduce_piece(j, c, k, n, constants, lanes, &next, worker);
        move(j, &next, n);
        if ((k + n) % FA_BLOCK == 0 || k + n == j->bn->count)
            j->kernels->fold_run(lanes, j->nsums, fa_part(parts, width, k / FA_BLOCK, 0, 0), width);
    }
}

/* ---- second pass ------------------------------------------------------------------------------------------- */

/* As the first pass left it, or computed again. */
static const void *g_again(const fa_job *j, ptrdiff_t c, ptrdiff_t k, ptrdiff_t n, fa_span *span, int worker)
{
    fa_scratch *s = j->scratch + worker;
    if (j->keeps_g)
        return kept_g(j, k, worker);
    if (j->g)
        return read_piece(j, G, c, k, n, 0.0, (char *)s->dy);
    span->dy = read_piece(j, DY, c, k, n, 0.0, (char *)s->dy);
    read_residual(j, c, k, n, span, worker);
    return find_g(j, span, k, n, (char *)s->g, s);
}

static void write_runs(const fa_job *j, ptrdiff_t c, ptrdiff_t k, ptrdiff_t n, const void *from)
{
    if (j->fetches && c + 1 < j->bn->channels)
        fa_view_fetch_to_write(j->out, c + 1, k, n);
    fa_view_write(j->out, c, k, n, from);
}

static void second_pass_piece(const fa_job *j, ptrdiff_t c, ptrdiff_t k, ptrdiff_t n, const fa_strip *constants,
                              const ahead *next, int worker)
{
    fa_scratch *s = j->scratch + worker;
    const char *kept = kept_x(j, k, worker);
    const char *x = kept ? kept : read_x(j, c, k, n, constants, 0.0, (char *)s->x);
    char *own = is_direct(j, OUT, k, n) ? fa_view_address(j->out, c, k) : NULL;
    const int steps = fa_in_steps(j, k, n), streams = own && j->stream && (uintptr_t)own % 64 == 0 && !steps;
    char *result = own && !steps && (streams || !j->stream) ? own : (char *)s->x;
    fa_span span = span_of(j, constants, x, n, next);
    if (j->by_sign && !j->keeps_g)
        span.dy = read_piece(j, DY, c, k, n, 0.0, (char *)s->dy);
    else if (j->backward)
        span.dy = g_again(j, c, k, n, &span, worker);
    else
        read_residual(j, c, k, n, &span, worker);
    span.out = result;
    span.stream = streams;
    span.dparam = NULL;
    if (j->only_recovers)
        memmove(result, x, (size_t)(n * j->tile_size));
    else if (j->by_sign)
        j->kernels->sided[j->bn->activation].apply(&span);
    else if (j->backward && j->bn->weights && j->training)
        j->kernels->weighted_apply(&span, j->bn->weights + k, 0);
    else if (j->backward)
        j->kernels->apply(&span, j->training);
    else
        fa_run_forward(j, &span);
    covered(j, k, n, constants, result, FA_COVER_ZERO, result);
    if (own && result != own && j->stream)
        j->stream(own, result, (size_t)(n * j->itemsize));
    else if (own && result != own)
        memcpy(own, result, (size_t)(n * j->itemsize));
    else if (!own)
        write_runs(j, c, k, n, result);
}

/* Of n elements from k on those that are written with stores past the caches, which want an aligned address;
 * or those before the first such address, or the few behind the last. */
static ptrdiff_t aligned_piece(const fa_job *j, ptrdiff_t c, ptrdiff_t k, ptrdiff_t n)
{
    if (!j->stream || !j->direct[OUT])
        return n;
    const ptrdiff_t odd = (ptrdiff_t)(-(uintptr_t)fa_view_address(j->out, c, k) % 64) / j->itemsize;
    return odd ? fa_at_most(n, odd) : n < FA_LANES ? n : n - n % FA_LANES;
}

static void second_pass(const fa_job *j, ptrdiff_t c, ptrdiff_t k, ptrdiff_t n, const fa_strip *constants, ahead next,
                        int worker)
{
    for (const ptrdiff_t end = k + n; k < end; k += n) {
        n = aligned_piece(j, c, k, piece(j, k, end - k));
        second_pass_piece(j, c, k, n, constants, &next, worker);
        move(j, &next, n);
    }
}

/* ---- A: whole channels ---------------------------------------------------------------------------------------- */

void fa_begin_channel(const fa_job *j, ptrdiff_t c, fa_strip *k, int worker)
{
    if (!j->backward)
        fa_find_shift(j, c, j->scratch + worker);
    fa_repeat_channel(j, c, k, 0);
}

/* What will be reduced after the elements before k of channel c. */
static ahead look_ahead(const fa_job *j, ptrdiff_t c, ptrdiff_t k, ptrdiff_t end)
{
    if (k == j->bn->count) {
        c++;
        k = 0;
    }
    if (c >= end)
        return nothing;
    return (ahead){fa_view_address(j->x, c, k), j->backward ? fa_view_address(j->dy, c, k) : NULL};
}

/* A channel is reduced part by part in turn with the second pass over the channel before it, so that the cache holds
 * one channel's worth of both.  What is reduced next is fetched meanwhile: by the loops that take longest, the second
 * pass forward and the reduction backward. */
static void whole_channels(void *job, ptrdiff_t begin, ptrdiff_t end, int worker)
{
    const fa_job *j = job;
    const ptrdiff_t count = j->bn->count;
    double *parts = j->parts + worker * j->blocks * FA_SUMS * 2;
    fa_strip both[2];
    fa_lanes lanes;
    for (ptrdiff_t c = begin; c <= end; c++) {
        fa_strip *this = both + (c - begin) % 2, *before = both + (c - begin + 1) % 2;
        if (c < end)
            fa_begin_channel(j, c, this, worker);
        for (ptrdiff_t k = 0, n; k < count; k += n) {
            n = piece(j, k, count - k);
            const ahead next = look_ahead(j, c, k + n, end);
            const int in_second = c > begin && !j->backward;
            if (c > begin)
                second_pass(j, c - 1, k, n, before, in_second ? next : nothing, worker);
            if (c < end)
                reduce(j, c, k, n, this, &lanes, parts, 1, in_second ? nothing : next, worker);
        }
        if (c < end) {
            fa_finish_channels(j, parts, 1, c, 1);
            fa_repeat_channel(j, c, this, 1);
        }
    }
}

/* ---- B: blocks, in two phases ------------------------------------------------------------------------------------ */

static void find_shifts(void *job, ptrdiff_t begin, ptrdiff_t end, int worker)
{
    const fa_job *j = job;
    for (ptrdiff_t c = begin; c < end; c++)
        fa_find_shift(j, c, j->scratch + worker);
}

static void reduce_blocks(void *job, ptrdiff_t begin, ptrdiff_t end, int worker)
{
    const fa_job *j = job;
    fa_strip constants;
    fa_lanes lanes;
    for (ptrdiff_t t = begin; t < end; t++) {
        const ptrdiff_t c = t / j->blocks, first = t % j->blocks * FA_BLOCK;
        const ptrdiff_t last = first + fa_at_most(j->bn->count - first, FA_BLOCK);
        if (t == begin || first == 0)
            fa_repeat_channel(j, c, &constants, 0);
        for (ptrdiff_t k = first, n; k < last; k += n) {
            n = piece(j, k, last - k);
            reduce(j, c, k, n, &constants, &lanes, j->parts + c, j->bn->channels,
                   look_ahead(j, c, k + n, j->bn->channels), worker);
        }
    }
}

static void finish(void *job, ptrdiff_t begin, ptrdiff_t end, int worker)
{
    const fa_job *j = job;
    (void)worker;
    fa_finish_channels(j, j->parts + begin, j->bn->channels, begin, end - begin);
}

/* Tasks are counted from the last part: the pass before this one left the end of the array in the cache. */
static void second_pass_parts(void *job, ptrdiff_t begin, ptrdiff_t end, int worker)
{
    const fa_job *j = job;
    const ptrdiff_t last = j->bn->channels * j->tiles - 1;
    fa_strip k;
    for (ptrdiff_t t = last - begin; t > last - end; t--) {
        const ptrdiff_t c = t / j->tiles, first = t % j->tiles * FA_TILE;
        if (t == last - begin || t % j->tiles == j->tiles - 1)
            fa_repeat_channel(j, c, &k, 1);
        second_pass(j, c, first, fa_at_most(j->bn->count - first, FA_TILE), &k, nothing, worker);
    }
}

static void two_phases(fa_job *j)
{
    const ptrdiff_t c = j->bn->channels;
    const int few = fa_threads_for(c * j->blocks * FA_LANES, NULL, 1);
    if (fa_reduces(j)) {
        if (!j->backward)
            fa_parallel_for(c, few, find_shifts, j);
        fa_parallel_for(c * j->blocks, j->threads, reduce_blocks, j);
        fa_parallel_for(c, few, finish, j);
    }
    if (fa_applies(j))
        fa_parallel_for(c * j->tiles, j->threads, second_pass_parts, j);
}

/* ---- the plan ------------------------------------------------------------------------------------------------------ */

enum {
    SHORT_RUN = 128, /* elements; shorter runs of memory are gathered into whole blocks */
    SHORT_ODD_RUN = FA_BLOCK, /* the same of those that are no multiple of FA_LANES */
    PART = 4 * FA_LANES /* what a part of a run is a multiple of: lines of the cache, of any dtype */
};

static void plan_runs(fa_job *j)
{
    j->run = j->bn->count;
    j->tiles = (j->bn->count + FA_TILE - 1) / FA_TILE;
    for (int w = 0; w < 5; w++) {
        const fa_view *v = w == X && j->bn->from_output ? NULL : view_of(j, w);
        const ptrdiff_t last = v ? v->shape[v->ndim - 1] : 0;
        j->direct[w] = v && !j->half && v->strides[v->ndim - 1] == j->itemsize &&
                       fa_view_is_aligned(v) &&
                       (last == j->bn->count || last >= (last % FA_LANES ? SHORT_ODD_RUN : SHORT_RUN));
        if (j->direct[w] && last < j->run)
            j->run = last;
    }
    const ptrdiff_t parts = (j->run + FA_TILE - 1) / FA_TILE, most = (j->run + parts - 1) / parts;
    j->part = j->direct[X] ? fa_at_most((most + PART - 1) / PART * PART, FA_TILE) : FA_TILE;
}

int fa_by_whole_channels(const fa_job *j)
{
    const ptrdiff_t c = j->bn->channels, each = (c + j->threads - 1) / j->threads;
    const ptrdiff_t bytes = j->bn->count * j->tile_size * (1 + j->backward);
    return fa_reduces(j) && fa_applies(j) && 10 * each * j->threads <= 11 * c && bytes * j->threads <= fa_llc_bytes() / 2;
}

static void plan_kept(fa_job *j)
{
    const ptrdiff_t bytes = (j->blocks * FA_BLOCK + FA_LANES) * j->tile_size;
    j->keeps_g = j->whole && j->backward && j->activation && !j->bn->g && 2 * bytes <= fa_l2_bytes() &&
                 !(j->by_sign && j->direct[DY]); /* then it is dy that is kept, as it is gathered */
    if (j->g == j->out && !j->keeps_g)
        j->stream = NULL; /* dx is written over g: its lines are in the cache */
    j->keeps_x = j->whole && !j->direct[X] && (1 + j->keeps_g) * bytes <= fa_l2_bytes();
    j->kept_bytes = (j->keeps_x + j->keeps_g) * bytes;
    j->fetches = j->whole && !j->direct[X] && j->x->strides[j->x->ndim - 1] == j->itemsize &&
                 j->bn->channels * j->bn->count * j->itemsize > fa_l2_bytes();
}

int fa_run_channels(fa_job *j)
{
    plan_runs(j);
    j->whole = fa_by_whole_channels(j);
    plan_kept(j);
    const ptrdiff_t parts = fa_reduces(j) ? (j->whole ? j->threads : j->bn->channels) * j->blocks * FA_SUMS * 2 : 1;
    j->parts = malloc((size_t)parts * sizeof(double));
    j->kept = malloc((size_t)(j->threads * j->kept_bytes) + 1);
    const int ready = j->parts && j->kept;
    if (ready && j->whole)
        fa_parallel_for(j->bn->channels, j->threads, whole_channels, j);
    else if (ready)
        two_phases(j);
    free(j->parts);
    free(j->kept);
    return ready ? 0 : -1;
}
