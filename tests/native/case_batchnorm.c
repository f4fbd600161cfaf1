/* BatchNorm forward and backward over arrays of any strides, against packed channels on one thread: with residuals,
 * masks, weights, and x found again from y.  Statistics against long double; memory that runs out; the gradient of
 * a learned parameter alone. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "batchnorm.h"
#include "dispatch.h"
#include "elementwise.h"
#include "native.h"

static const fa_dtype REALS[] = {FA_FLOAT32, FA_FLOAT32, FA_FLOAT64, FA_FLOAT16, FA_BFLOAT16};
enum { MOST = 40000, ROWS = 11 };

/* What a call takes, but for the arrays. */
typedef struct {
    fa_batchnorm bn;
    int training, apart, ndim, axis; /* apart: the passes are called one by one */
    int images;                      /* small ones, whose channels are short runs of memory: mostly packed */
    ptrdiff_t shape[FA_MAX_NDIM];
    content what;
    uint64_t seed;
    double mean;
    array weight, bias, params;
    array residual, packed_residual; /* without memory: none */
    struct counted *counted;
} problem;

/* What the statistics count, and by what their sums are shifted. */
typedef struct counted {
    unsigned char *mask;
    double *weights;
    ptrdiff_t first[FA_LANES];
    double shares[FA_LANES];
} counted;


static ptrdiff_t draw_channels(drawing *d)
{
    static const ptrdiff_t channels[] = {1, 2, 3, 4, 5, 8, 12, 15, 16, 17, 24, 32, 33, 64, 65, 130, 300, 1024, 1100};
    return DRAW_FROM(d, channels);
}

static void draw_images(drawing *d, problem *p)
{
    enum { FEW = 10000 };
    static const ptrdiff_t samples[] = {2, 3, 8, 33}, channels[] = {1, 2, 4, 8, 15, 24, 64};
    static const ptrdiff_t runs[] = {33, 49, 64, 65, 81, 128, 196, 400, 1000, 1023};
    p->images = 1;
    p->ndim = 3;
    p->axis = 1;
    p->shape[0] = DRAW_FROM(d, samples);
    p->shape[1] = p->bn.channels = DRAW_FROM(d, channels);
    p->shape[2] = DRAW_FROM(d, runs);
    if (p->shape[0] * p->shape[1] * p->shape[2] > FEW)
        p->shape[1] = p->bn.channels = 2;
    if (p->shape[0] * p->shape[1] * p->shape[2] > FEW)
        p->shape[0] = 3;
    p->bn.count = p->shape[0] * p->shape[2];
}

static void draw_any_shape(drawing *d, problem *p)
{
    static const ptrdiff_t lengths[] = {1, 2, 3, 7, 16, 17, 31, 64, 128, 130, 400, 1024, 1025, 2050, 9000};
    ptrdiff_t size;
    p->ndim = 2 + (int)draw(d, 3);
    p->axis = (int)draw(d, (unsigned)p->ndim);
    p->shape[p->axis] = size = p->bn.channels = draw_channels(d);
    for (int axis = 0; axis < p->ndim; axis++) {
        if (axis == p->axis)
            continue;
        p->shape[axis] = DRAW_FROM(d, lengths);
        if (size * p->shape[axis] > MOST)
            p->shape[axis] = 1;
        size *= p->shape[axis];
    }
    p->bn.count = size / p->bn.channels;
}

static void draw_problem_shape(drawing *d, problem *p)
{
    (draw(d, 3) ? draw_any_shape : draw_images)(d, p);
    p->bn.total = (double)p->bn.count;
}

static double *draw_values(drawing *d, array *a, ptrdiff_t n, double mean)
{
    *a = packed_array(FA_FLOAT64, n);
    fill(a, ORDINARY, mean, draw(d, 256));
    return (double *)(void *)a->data;
}

static int is_learned(int activation)
{
    return activation >= 0 && fa_activation_table[activation].params[0].kind == FA_HAS_GRADIENT;
}

/* The first row from one on, in turn, whose gradient depends on the sign of z alone: they have kernels of their own. */
static int row_by_sign(int row)
{
    while (!fa_kernels_for(FA_FLOAT32)->batchnorm.sided[row].sums)
        row = (row + 1) % FA_ACTIVATION_COUNT;
    return row;
}

static void draw_activation(drawing *d, problem *p)
{
    const int kind = (int)draw(d, 4), row = kind ? (int)draw(d, FA_ACTIVATION_COUNT) : -1;
    p->bn.activation = kind == 3 ? row_by_sign(row) : row;
    const int nparams = p->bn.activation < 0 ? 0 : fa_activation_table[p->bn.activation].nparams;
    p->bn.params_per_channel = is_learned(p->bn.activation);
    const ptrdiff_t each = p->bn.params_per_channel ? p->bn.channels : 1;
    double *values = draw_values(d, &p->params, FA_MAX_PARAMS * each, 1.0);
    for (int k = 0; k < nparams; k++)
        p->bn.params[k] = values + k * each;
}

/* ---- what counts ----------------------------------------------------------------------------------- */

static double share_of(const problem *p, ptrdiff_t k)
{
    return p->bn.weights ? p->bn.weights[k] : !p->bn.mask || p->bn.mask[k] ? 1.0 : 0.0;
}

/* Here and there, or the first three quarters; never nothing. */
static void draw_mask(drawing *d, const problem *p, unsigned char *mask)
{
    const ptrdiff_t n = p->bn.count, always = (ptrdiff_t)(p->seed % (uint64_t)n);
    const int scattered = (int)draw(d, 2);
    for (ptrdiff_t k = 0; k < n; k++)
        mask[k] = (scattered ? mix(p->seed + 7 + (uint64_t)k) % 4 > 0 : 4 * k < 3 * n) || k == always;
}

/* The first elements that count, as often as needed. */
static void choose_first(problem *p, counted *c)
{
    double total = 0.0;
    int found = 0;
    for (ptrdiff_t k = 0; k < p->bn.count && found < FA_LANES; k++)
        if (share_of(p, k) > 0.0)
            c->first[found++] = k;
    for (int i = 0; i < found; i++)
        total += share_of(p, c->first[i]);
    for (int i = 0; i < FA_LANES; i++) {
        c->first[i] = c->first[i < found ? i : 0];
        c->shares[i] = i < found ? share_of(p, c->first[i]) / total : 0.0;
    }
}

static void draw_counted(drawing *d, problem *p)
{
    const unsigned most = p->images ? 16 : 4;
    const int masks = draw(d, most) == 0, weighs = draw(d, most) == 0;
    const size_t n = (size_t)p->bn.count + FA_LANES;
    if (!masks && !weighs)
        return;
    counted *c = p->counted = calloc(1, sizeof *c);
    c->mask = calloc(n, 1);
    c->weights = calloc(n, sizeof *c->weights);
    memset(c->mask, 1, (size_t)p->bn.count);
    if (masks)
        draw_mask(d, p, c->mask);
    for (ptrdiff_t k = 0; k < p->bn.count; k++)
        c->weights[k] = c->mask[k] ? 0.5 * (double)(1 + mix(p->seed + 11 + (uint64_t)k) % 7) : 0.0;
    p->bn.mask = masks ? c->mask : NULL;
    p->bn.weights = weighs ? c->weights : NULL;
    choose_first(p, c);
    p->bn.first = c->first;
    p->bn.shares = weighs ? c->shares : NULL;
    p->bn.total = 0.0;
    for (ptrdiff_t k = 0; k < p->bn.count; k++)
        p->bn.total += share_of(p, k);
}

static void free_counted(counted *c)
{
    if (c)
        free(c->mask), free(c->weights);
    free(c);
}

static problem draw_problem(drawing *d)
{
    static const double means[] = {0.0, 0.0, 5.0, 1000.0, 1e6}, epsilons[] = {1e-5, 0.0, 1e-3, 1.0};
    problem p = {.training = draw(d, 4) > 0};
    p.bn.real = DRAW_FROM(d, REALS);
    draw_problem_shape(d, &p);
    p.what = draw(d, 4) ? ORDINARY : HOSTILE;
    p.mean = DRAW_FROM(d, means);
    p.seed = mix(1000 + draw(d, 256));
    p.bn.eps = DRAW_FROM(d, epsilons);
    draw_activation(d, &p);
    p.bn.weight = draw(d, 2) ? draw_values(d, &p.weight, p.bn.channels, 1.0) : NULL;
    p.bn.bias = draw(d, 2) ? draw_values(d, &p.bias, p.bn.channels, 0.0) : NULL;
    if (p.bn.weight && draw(d, 2)) /* one channel's gradient leaves float32's range, and its neighbours' do not */
        ((double *)(void *)p.weight.data)[p.bn.channels / 2] = 1e33;
    return p;
}

static void free_problem(problem *p)
{
    free_array(&p->weight), free_array(&p->bias), free_array(&p->params);
    free_array(&p->residual), free_array(&p->packed_residual);
    free_counted(p->counted);
}

static array draw_data(drawing *d, const problem *p, layout otherwise)
{
    const layout how = draw(d, p->images ? 8 : 2) ? PACKED : otherwise;
    return new_array(d, how, p->bn.real, p->ndim, p->shape);
}

static fa_view view_of(const problem *p, const array *a)
{
    return fa_make_view(a->data, a->dtype, a->ndim, a->shape, a->strides, p->axis);
}

/* ---- packed, channel by channel ------------------------------------------------------------------- */

static ptrdiff_t channel_major(const problem *p, ptrdiff_t index)
{
    ptrdiff_t inner = 1;
    for (int axis = p->axis + 1; axis < p->ndim; axis++)
        inner *= p->shape[axis];
    const ptrdiff_t c = index / inner % p->bn.channels, k = index / inner / p->bn.channels * inner + index % inner;
    return c * p->bn.count + k;
}

static array pack_channels(const problem *p, const array *a)
{
    array packed = packed_array(a->dtype, a->size);
    for (ptrdiff_t i = 0; i < a->size; i++)
        memcpy(element(&packed, channel_major(p, i)), element(a, i), (size_t)fa_itemsize[a->dtype]);
    return packed;
}

static int same_channels(const problem *p, const array *a, const array *packed)
{
    for (ptrdiff_t i = 0; i < a->size; i++)
        if (!same_element(element(a, i), element(packed, channel_major(p, i)), a->dtype))
            return 0;
    return 1;
}

static fa_view packed_view(const problem *p, const array *a)
{
    const ptrdiff_t size = fa_itemsize[a->dtype];
    const ptrdiff_t shape[] = {p->bn.channels, p->bn.count}, strides[] = {p->bn.count * size, size};
    return fa_make_view(a->data, a->dtype, 2, shape, strides, 0);
}

/* ---- statistics ----------------------------------------------------------------------------------- */

static fa_statistics statistics_in(const array *table, ptrdiff_t c)
{
    double *r = (double *)(void *)table->data;
    return (fa_statistics){{r, r + c}, {r + 2 * c, r + 3 * c}, r + 4 * c,
                           {r + 5 * c, r + 6 * c, r + 7 * c, r + 8 * c, r + 9 * c, r + 10 * c}};
}

static array new_table(const problem *p)
{
    array table = packed_array(FA_FLOAT64, ROWS * p->bn.channels);
    fill(&table, ORDINARY, 9.0, p->seed); /* mean and variance, where they are given */
    return table;
}

static double value_at(const array *packed, ptrdiff_t i)
{
    double x;
    fa_gather(element(packed, i), packed->dtype, 0, 1, &x, FA_FLOAT64);
    return x;
}

/* In long double, two passes. */
static verdict check_statistics(const problem *p, const array *packed, const array *table)
{
    const fa_statistics s = statistics_in(table, p->bn.channels);
    const ptrdiff_t n = p->bn.count;
    if (!p->training || p->what == HOSTILE)
        return NULL;
    for (ptrdiff_t c = 0; c < p->bn.channels; c++) {
        long double mean = 0, m2 = 0;
        for (ptrdiff_t k = 0; k < n; k++)
            mean += (long double)share_of(p, k) * value_at(packed, c * n + k);
        mean /= p->bn.total;
        for (ptrdiff_t k = 0; k < n; k++) {
            const long double away = value_at(packed, c * n + k) - mean;
            m2 += share_of(p, k) * away * away;
        }
        const long double var = m2 / p->bn.total, deviation = sqrtl(var);
        if (fabsl(s.mean[0][c] - mean) > 1e-12L * deviation + 1e-15L * fabsl(mean) ||
            fabsl(s.var[0][c] - var) > 1e-11L * var + 1e-30L * mean * mean) /* long double rounds, too */
            return "mean or variance is wrong";
    }
    return NULL;
}

/* ---- forward -------------------------------------------------------------------------------------- */

typedef struct {
    array x, y, table;
} forward;

static fa_view (*way(int packed))(const problem *, const array *)
{
    return packed ? packed_view : view_of;
}

/* What a call gets, with the residual that lies as the other arrays do. */
static fa_batchnorm with_residual(const problem *p, int packed, fa_view *residual)
{
    fa_batchnorm bn = p->bn;
    if (p->residual.memory) {
        *residual = way(packed)(p, packed ? &p->packed_residual : &p->residual);
        bn.residual = residual;
    }
    return bn;
}

static int run_forward(const problem *p, const forward *f, int packed)
{
    fa_view residual;
    const fa_view x = way(packed)(p, &f->x), y = way(packed)(p, &f->y);
    const fa_statistics s = statistics_in(&f->table, p->bn.channels);
    const fa_batchnorm bn = with_residual(p, packed, &residual);
    return fa_batchnorm_forward(&bn, p->training, &x, &y, &s);
}

static forward plain_forward(const problem *p, const array *x)
{
    forward f = {pack_channels(p, x), packed_array(x->dtype, x->size), new_table(p)};
    run_forward(p, &f, 1);
    return f;
}

static void free_forward(forward *f)
{
    free_array(&f->x), free_array(&f->y), free_array(&f->table);
}

static int counts_at(const problem *p, ptrdiff_t i)
{
    return share_of(p, i % p->bn.count) > 0.0;
}

/* 0 where nothing counts. */
static int is_covered(const problem *p, const array *packed)
{
    for (ptrdiff_t i = 0; i < packed->size; i++)
        if (!counts_at(p, i) && value_at(packed, i) != 0.0)
            return 0;
    return 1;
}

static int same_where_counted(const problem *p, const array *a, const array *b)
{
    for (ptrdiff_t i = 0; i < a->size; i++)
        if (counts_at(p, i) && !same_element(element(a, i), element(b, i), a->dtype))
            return 0;
    return 1;
}

/* Fused is normalised, rounded, then activated. */
static verdict check_fusion(const problem *p, const forward *plain)
{
    if (p->bn.activation < 0)
        return NULL;
    problem bare = *p;
    bare.bn.activation = -1;
    forward z = {pack(&plain->x, plain->x.dtype), packed_array(plain->x.dtype, plain->x.size), new_table(p)};
    run_forward(&bare, &z, 1);
    const ptrdiff_t size = fa_itemsize[p->bn.real], shape[] = {p->bn.channels, p->bn.count};
    const ptrdiff_t strides[] = {p->bn.count * size, size}, each[] = {p->bn.params_per_channel ? 8 : 0, 0};
    fa_operand operands[FA_MAX_OPERANDS] = {{z.y.data, p->bn.real, strides}};
    int k = 1;
    for (; k <= fa_activation_table[p->bn.activation].nparams; k++)
        operands[k] = (fa_operand){(char *)(uintptr_t)p->bn.params[k - 1], FA_FLOAT64, each};
    operands[k] = operands[0];
    fa_elementwise(&(fa_op){p->bn.activation, 0, 0, p->bn.real}, 2, shape, operands);
    const int same = same_where_counted(p, &z.y, &plain->y);
    free_forward(&z);
    return same ? NULL : "fused differs from unfused";
}

/* The first pass alone finds the same mean and variance. */
static verdict check_first_pass(const problem *p, const forward *f)
{
    array table = new_table(p);
    const fa_view x = view_of(p, &f->x);
    const fa_statistics s = statistics_in(&table, p->bn.channels);
    const int status = p->training ? fa_batchnorm_statistics(&p->bn, &x, &s) : 0;
    array apart = table, together = f->table;
    apart.size = together.size = apart.shape[0] = together.shape[0] = 4 * p->bn.channels;
    const int same = !status && same_elements(&apart, &together);
    free_array(&table);
    return same ? NULL : "the statistics alone are others";
}

static verdict check_forward(const problem *p, forward *f, const forward *plain, int aliased)
{
    if (!aliased && !is_unchanged(&f->x))
        return "x was written";
    if (p->residual.memory && !is_unchanged(&p->residual))
        return "the residual was written";
    if (!is_covered(p, &plain->y))
        return "a result is not 0 where nothing counts";
    if (!same_channels(p, &f->y, &plain->y) || !same_elements(&f->table, &plain->table))
        return "the forward depends on strides, threads or surroundings";
    if (!is_unchanged_but_elements(&f->y) || !is_unchanged_but_elements(&f->table))
        return "memory between or around the elements was written";
    digest(BATCHNORM, &f->y);
    digest(BATCHNORM, &f->table);
    verdict wrong = check_statistics(p, &plain->x, &f->table);
    if (!wrong && !aliased)
        wrong = check_first_pass(p, f);
    return wrong ? wrong : check_fusion(p, plain);
}

/* ---- backward ------------------------------------------------------------------------------------- */

typedef struct {
    array dy, dx, sums, g; /* g: with a residual, whose gradient it is */
} backward;

static int run_backward(const problem *p, const forward *f, const backward *b, int packed)
{
    fa_view residual, g;
    const fa_view dy = way(packed)(p, &b->dy), x = way(packed)(p, &f->x), dx = way(packed)(p, &b->dx);
    const fa_statistics s = statistics_in(&f->table, p->bn.channels);
    fa_batchnorm bn = with_residual(p, packed, &residual);
    if (bn.residual) {
        g = way(packed)(p, &b->g);
        bn.g = &g;
    }
    double *sums = (double *)(void *)b->sums.data;
    double *const each[] = {sums, sums + p->bn.channels, sums + 2 * p->bn.channels};
    if (p->apart && !packed) { /* the passes one by one */
        const int status = fa_batchnorm_backward(&bn, FA_FIRST_PASS, p->training, &dy, &x, NULL, &s, each);
        return status ? status
                      : fa_batchnorm_backward(&bn, FA_SECOND_PASS, p->training, &dy, &x, &dx, &s, each);
    }
    return fa_batchnorm_backward(&bn, FA_BOTH_PASSES, p->training, &dy, &x, &dx, &s, each);
}

static verdict check_backward(const problem *p, backward *b, const backward *plain, int aliased)
{
    const ptrdiff_t summed = (2 + is_learned(p->bn.activation)) * p->bn.channels;
    if (!aliased && !is_unchanged(&b->dy))
        return "dy was written";
    if (!same_channels(p, &b->dx, &plain->dx) || !same_channels(p, &b->g, &plain->g))
        return "the backward depends on strides, threads or surroundings";
    for (ptrdiff_t i = 0; i < summed; i++)
        if (!same_element(element(&b->sums, i), element(&plain->sums, i), FA_FLOAT64))
            return "the backward's sums depend on strides, threads or surroundings";
    if (!is_covered(p, &plain->dx) || !is_covered(p, &plain->g))
        return "a gradient is not 0 where nothing counts";
    if (!is_unchanged_but_elements(&b->dx) || !is_unchanged_but_elements(&b->sums) ||
        (b->g.memory && !is_unchanged_but_elements(&b->g)))
        return "memory between or around the elements was written";
    digest(BATCHNORM, &b->dx);
    return NULL;
}

/* ---- memory runs out ------------------------------------------------------------------------------- */

static void remember_results(backward *b)
{
    remember(&b->dx), remember(&b->sums);
    if (b->g.memory)
        remember(&b->g);
}

static int has_no_result(const backward *b)
{
    return is_unchanged(&b->dx) && is_unchanged(&b->sums) && (!b->g.memory || is_unchanged(&b->g));
}

/* Mean and variance. */
static int same_given(const problem *p, const forward *f)
{
    const size_t before = (size_t)((unsigned char *)f->table.data - f->table.memory);
    return !memcmp(f->table.data, f->table.before + before, (size_t)(4 * p->bn.channels) * sizeof(double));
}

static verdict check_without_memory(const problem *p, forward *f, backward *b, surroundings s, int allocations)
{
    s.allocations = allocations;
    remember(&f->y), remember(&f->table);
    if (b)
        remember_results(b);
    enter(&s);
    const int status = b ? run_backward(p, f, b, 0) : run_forward(p, f, 0);
    if (!leave())
        return "the caller's floating-point environment has changed";
    if (!status)
        return NULL; /* it needed fewer */
    /* what is derived from given statistics may be there already */
    const int same = p->training ? is_unchanged(&f->table) : same_given(p, f);
    if (!same || !is_unchanged(&f->y) || (b && !has_no_result(b)))
        return "something was written although memory ran out";
    return NULL;
}

/* ---- the case -------------------------------------------------------------------------------------- */

static verdict try_backward(drawing *d, problem *p, forward *f, const forward *plain, const surroundings *s)
{
    backward b = {.dy = draw_data(d, p, ANY_OUTPUT), .sums = packed_array(FA_FLOAT64, 3 * p->bn.channels)};
    const int aliased = (int)draw(d, 2), allocations = (int)draw(d, 4);
    fill(&b.dy, p->what, 0.0, p->seed + 1);
    b.dx = aliased ? b.dy : draw_data(d, p, ANY_OUTPUT);
    backward q = {pack_channels(p, &b.dy), packed_array(p->bn.real, f->x.size),
                  packed_array(FA_FLOAT64, 3 * p->bn.channels)};
    if (p->residual.memory) {
        b.g = draw_data(d, p, ANY_OUTPUT);
        q.g = packed_array(p->bn.real, f->x.size);
    }
    remember_results(&b);
    verdict wrong = check_without_memory(p, f, aliased ? NULL : &b, *s, allocations);
    run_backward(p, plain, &q, 1);
    p->apart = draw(d, 4) == 0;
    enter(s);
    const int status = run_backward(p, f, &b, 0);
    if (!leave())
        wrong = "the caller's floating-point environment has changed";
    if (!wrong)
        wrong = status ? "no memory" : check_backward(p, &b, &q, aliased);
    if (!aliased)
        free_array(&b.dx);
    free_array(&b.dy), free_array(&b.sums), free_array(&b.g);
    free_array(&q.dy), free_array(&q.dx), free_array(&q.sums), free_array(&q.g);
    return wrong;
}

/* ---- x again from y -------------------------------------------------------------------------------- */

/* Some elements of some channels, all of others, as if y had lost them. */
typedef struct {
    fa_lost lost;
    const void **channels;
    ptrdiff_t *begin, *index;
    char *x;
} memory_of_lost;

static int is_kept(const problem *p, ptrdiff_t c, ptrdiff_t k)
{
    return c % 3 == 2 || (c % 3 == 1 && mix(p->seed + 17 + (uint64_t)k) % 8 == 0);
}

static memory_of_lost keep_some(const problem *p, const array *packed_x)
{
    const ptrdiff_t n = p->bn.count, size = fa_itemsize[p->bn.real];
    memory_of_lost m = {.channels = calloc((size_t)p->bn.channels, sizeof *m.channels),
                        .begin = calloc((size_t)p->bn.channels + 1, sizeof *m.begin),
                        .index = calloc((size_t)packed_x->size, sizeof *m.index),
                        .x = calloc((size_t)packed_x->size, (size_t)size)};
    ptrdiff_t used = 0;
    for (ptrdiff_t c = 0; c < p->bn.channels; m.begin[++c] = used) {
        if (c % 3 == 2) {
            m.channels[c] = element(packed_x, c * n);
            continue;
        }
        for (ptrdiff_t k = 0; k < n; k++)
            if (is_kept(p, c, k)) {
                memcpy(m.x + used * size, element(packed_x, c * n + k), (size_t)size);
                m.index[used++] = k;
            }
    }
    m.lost = (fa_lost){m.channels, m.begin, m.index, m.x};
    return m;
}

static void free_kept(memory_of_lost *m)
{
    free(m->channels), free(m->begin), free(m->index), free(m->x);
}

static double tolerance_of(const problem *p)
{
    return p->bn.real == FA_FLOAT32 ? 0x1p-16 : 0x1p-24;
}

/* What was kept is there; the rest is near, in channels that are said to lose nothing. */
static verdict check_found(const problem *p, const array *x, const array *again, const array *table,
                           const double *losses)
{
    const fa_statistics s = statistics_in(table, p->bn.channels);
    for (ptrdiff_t i = 0; i < x->size; i++) {
        const ptrdiff_t c = i / p->bn.count;
        if (is_kept(p, c, i % p->bn.count) && !same_element(element(x, i), element(again, i), x->dtype))
            return "x that was kept is another";
        const double off = fabs(value_at(x, i) - value_at(again, i)) * s.rstd[c];
        const double away = fabs(value_at(x, i) - s.mean[0][c]) * s.rstd[c];
        if (counts_at(p, i) && losses[c] == 0.0 && !(off <= 1.01 * tolerance_of(p) * fmax(away, 1.0)))
            return "x that is not lost is not found";
    }
    return NULL;
}

static verdict try_recovery(drawing *d, const problem *p, const problem *counting, const forward *f,
                            const forward *plain, const surroundings *s, const double *losses)
{
    array again = draw_data(d, p, ANY_OUTPUT), packed = packed_array(p->bn.real, f->x.size);
    const fa_view y = view_of(p, &f->y), x = view_of(p, &again);
    const fa_view plain_y = packed_view(p, &plain->y), plain_x = packed_view(p, &packed);
    const fa_statistics statistics = statistics_in(&f->table, p->bn.channels);
    remember(&again);
    fa_batchnorm_recover(&p->bn, &plain_y, &plain_x, &statistics);
    enter(s);
    const int status = fa_batchnorm_recover(&p->bn, &y, &x, &statistics);
    verdict wrong = leave() ? NULL : "the caller's floating-point environment has changed";
    if (!wrong && (status || !same_channels(p, &again, &packed)))
        wrong = "x found again depends on strides, threads or surroundings";
    if (!wrong && !is_unchanged_but_elements(&again))
        wrong = "memory between or around the elements was written";
    if (!wrong)
        wrong = check_found(counting, &plain->x, &packed, &f->table, losses);
    digest(BATCHNORM, &packed);
    free_array(&again), free_array(&packed);
    return wrong;
}

static int count_losses(const problem *p, const forward *f, int packed, double *losses)
{
    const fa_view x = way(packed)(p, &f->x);
    const fa_statistics s = statistics_in(&f->table, p->bn.channels);
    return fa_batchnorm_count_lost(&p->bn, &x, &s, tolerance_of(p), losses);
}

/* A backward that gets y instead of x. */
static verdict try_from_output(drawing *d, const problem *p, forward *f, const forward *plain, const surroundings *s)
{
    array losses = packed_array(FA_FLOAT64, p->bn.channels), same = packed_array(FA_FLOAT64, p->bn.channels);
    memory_of_lost kept = keep_some(p, &plain->x);
    problem from_output = *p;
    from_output.bn.from_output = 1;
    from_output.bn.lost = &kept.lost;
    problem all = from_output; /* x is found again wherever it lies */
    all.bn.mask = NULL;
    all.bn.weights = NULL;
    forward of_y = {f->y, f->x, f->table}, of_plain_y = {plain->y, plain->x, plain->table};
    count_losses(p, plain, 1, (double *)(void *)same.data);
    enter(s);
    int status = count_losses(p, f, 0, (double *)(void *)losses.data);
    verdict wrong = leave() ? NULL : "the caller's floating-point environment has changed";
    if (!wrong && (status || !same_elements(&losses, &same)))
        wrong = "what is lost depends on strides, threads or surroundings";
    if (!wrong)
        wrong = try_recovery(d, &all, p, f, plain, s, (double *)(void *)losses.data);
    if (!wrong)
        wrong = try_backward(d, &from_output, &of_y, &of_plain_y, s);
    free_array(&losses), free_array(&same);
    free_kept(&kept);
    return wrong;
}

static int can_go_back(const problem *p)
{
    const int row = p->bn.activation;
    return p->training && !fa_is_half(p->bn.real) && !p->residual.memory &&
           (row < 0 || fa_inverse_kinds[row] != FA_NO_INVERSE);
}

static void draw_residual(drawing *d, problem *p)
{
    if (draw(d, 3))
        return;
    p->residual = draw_data(d, p, ANY_INPUT);
    fill(&p->residual, p->what, 0.0, p->seed + 2);
    p->packed_residual = pack_channels(p, &p->residual);
}

verdict batchnorm_case(drawing *d)
{
    const surroundings s = draw_surroundings(d);
    problem p = draw_problem(d);
    draw_counted(d, &p);
    draw_residual(d, &p);
    forward f = {draw_data(d, &p, ANY_INPUT), .table = new_table(&p)};
    const int aliased = !p.training && fa_activation_table[0].name && draw(d, 2) && f.x.strides[0] != 0;
    int writable = 1;
    for (int axis = 0; axis < p.ndim; axis++)
        writable = writable && f.x.strides[axis] != 0;
    fill(&f.x, p.what, p.mean, p.seed);
    f.y = aliased && writable ? f.x : draw_data(d, &p, ANY_OUTPUT);
    const int same = f.y.memory == f.x.memory, allocations = (int)draw(d, 4);
    forward plain = plain_forward(&p, &f.x);
    verdict wrong = same ? NULL : check_without_memory(&p, &f, NULL, s, allocations);
    remember(&f.y), remember(&f.table);
    enter(&s);
    const int status = run_forward(&p, &f, 0);
    if (!leave())
        wrong = "the caller's floating-point environment has changed";
    if (!wrong)
        wrong = status ? "no memory" : check_forward(&p, &f, &plain, same);
    if (!wrong && !same)
        wrong = can_go_back(&p) && draw(d, 2) ? try_from_output(d, &p, &f, &plain, &s)
                                              : try_backward(d, &p, &f, &plain, &s);
    if (!same)
        free_array(&f.y);
    free_array(&f.x), free_array(&f.table);
    free_forward(&plain);
    free_problem(&p);
    return wrong;
}

/* ---- the gradient of a parameter alone ------------------------------------------------------------- */

static int learned_row(void)
{
    for (int row = 0; row < FA_ACTIVATION_COUNT; row++)
        if (is_learned(row))
            return row;
    return -1;
}

verdict gradient_case(drawing *d)
{
    const surroundings s = draw_surroundings(d);
    problem p = draw_problem(d);
    free_array(&p.params);
    p.bn.activation = learned_row();
    p.bn.params_per_channel = 1;
    p.bn.params[0] = draw_values(d, &p.params, p.bn.channels, 0.0);
    p.bn.params[1] = NULL;
    array x = draw_data(d, &p, ANY_INPUT), dy = draw_data(d, &p, ANY_INPUT);
    array sums = packed_array(FA_FLOAT64, p.bn.channels), want = packed_array(FA_FLOAT64, p.bn.channels);
    fill(&x, p.what, p.mean, p.seed);
    fill(&dy, p.what, 0.0, p.seed + 1);
    remember(&sums);
    array plain_x = pack_channels(&p, &x), plain_dy = pack_channels(&p, &dy);
    const fa_view xv = view_of(&p, &x), dyv = view_of(&p, &dy);
    const fa_view plain_xv = packed_view(&p, &plain_x), plain_dyv = packed_view(&p, &plain_dy);
    fa_param_gradient(&p.bn, &plain_dyv, &plain_xv, (double *)(void *)want.data);
    enter(&s);
    const int status = fa_param_gradient(&p.bn, &dyv, &xv, (double *)(void *)sums.data);
    verdict wrong = leave() ? NULL : "the caller's floating-point environment has changed";
    if (!wrong && (status || !same_elements(&sums, &want)))
        wrong = "the parameter's gradient depends on strides, threads or surroundings";
    if (!wrong && (!is_unchanged(&x) || !is_unchanged(&dy) || !is_unchanged_but_elements(&sums)))
        wrong = "more than the sums was written";
    digest(GRADIENT, &sums);
    free_array(&x), free_array(&dy), free_array(&sums), free_array(&want);
    free_array(&plain_x), free_array(&plain_dy);
    free_problem(&p);
    return wrong;
}
