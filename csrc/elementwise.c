/* The N-dimensional driver.
 *
 * Axes are reordered to the output's memory order and merged where every operand allows it.  What is
 * left is cut into tiles of at most FA_BLOCK elements: some rows of the last axis, or a part of one.  An
 * operand whose tile is contiguous in memory, of the right dtype and a multiple of FA_LANES long is
 * handed to the kernel as it is; any other goes through a buffer in the first-level cache, which casts,
 * repeats broadcast parameters and pads.  So one driver serves contiguous, strided, broadcast and cast
 * operands with the same kernels, hence with the same bits. */
#include "elementwise.h"

#include <stdint.h>
#include <string.h>

#include "activation_cost.h"
#include "dispatch.h"
#include "memory.h"
#include "parallel.h"

typedef struct {
    const fa_op *op;
    const fa_real_kernels *kernels;
    void (*stream)(void *, const void *, size_t); /* NULL where results had better stay in the cache */
    int ndata, ninputs, noperands; /* inputs: the data, then the parameters */
    int uniform; /* every parameter is one number */
    fa_dtype tile; /* of the kernels' data */
    ptrdiff_t itemsize;
    int ndim;
    ptrdiff_t shape[FA_MAX_NDIM];
    ptrdiff_t strides[FA_MAX_OPERANDS][FA_MAX_NDIM];
    char *data[FA_MAX_OPERANDS];
    fa_dtype dtype[FA_MAX_OPERANDS];
    ptrdiff_t rows, columns;           /* of a whole tile */
    ptrdiff_t row_tiles, column_tiles; /* per two-dimensional slice */
    ptrdiff_t skew;                    /* columns that the first tile lacks: see find_skew */
} job;

typedef struct {
    char *ptr[FA_MAX_OPERANDS];
    ptrdiff_t rows, columns;
} tile;

const fa_activation_info *fa_op_info(const fa_op *op)
{
    return op->gated ? &fa_gated_table[op->activation] : &fa_activation_table[op->activation];
}

int fa_op_data(const fa_op *op)
{
    return 1 + op->backward + op->gated;
}

int fa_op_inputs(const fa_op *op)
{
    return fa_op_data(op) + fa_op_info(op)->nparams;
}

int fa_op_operands(const fa_op *op)
{
    int two = op->backward && (op->gated || fa_op_info(op)->params[0].kind == FA_HAS_GRADIENT);
    return fa_op_inputs(op) + 1 + two;
}

static int is_param(const job *j, int k)
{
    return k < j->ninputs && k >= j->ndata;
}

enum { LINE = 64 }; /* bytes of a line of the cache */

/* ---- one tile -------------------------------------------------------------------------------------- */

static int is_direct(const job *j, int k, const tile *t)
{
    int last = j->ndim - 1;
    return j->dtype[k] == j->tile && j->dtype[k] == j->op->real && j->strides[k][last] == j->itemsize &&
           (t->rows == 1 || j->strides[k][last - 1] == t->columns * j->itemsize) &&
           t->rows * t->columns % FA_LANES == 0 && (uintptr_t)t->ptr[k] % (uintptr_t)j->itemsize == 0;
}

static void gather(const job *j, int k, const tile *t, char *buffer, fa_dtype to)
{
    int last = j->ndim - 1;
    ptrdiff_t n = t->rows * t->columns, size = fa_itemsize[to];
    for (ptrdiff_t r = 0; r < t->rows; r++)
        fa_gather(t->ptr[k] + (t->rows > 1 ? r * j->strides[k][last - 1] : 0), j->dtype[k],
                  j->strides[k][last], t->columns, buffer + r * t->columns * size, to);
    memset(buffer + n * size, 0, (size_t)((fa_padded(n) - n) * size));
}

static void scatter(const job *j, int k, const tile *t, const char *buffer, fa_dtype from)
{
    int last = j->ndim - 1;
    ptrdiff_t size = fa_itemsize[from];
    for (ptrdiff_t r = 0; r < t->rows; r++)
        fa_scatter(buffer + r * t->columns * size, from, t->columns,
                   t->ptr[k] + (t->rows > 1 ? r * j->strides[k][last - 1] : 0), j->dtype[k],
                   j->strides[k][last]);
}

/* Buffers of one thread. */
typedef struct {
    _Alignas(64) double data[FA_MAX_DATA][FA_BLOCK];
    _Alignas(64) double params[FA_MAX_PARAMS][FA_BLOCK];
    _Alignas(64) double out[2][FA_BLOCK];
} buffers;

static void bind_params(const job *j, const tile *t, buffers *b, const double **params)
{
    for (int k = j->ndata; k < j->ninputs; k++) {
        char *to = (char *)b->params[k - j->ndata];
        params[k - j->ndata] = b->params[k - j->ndata];
        if (j->uniform)
            fa_gather(t->ptr[k], j->dtype[k], 0, 1, to, FA_FLOAT64);
        else
            gather(j, k, t, to, FA_FLOAT64);
    }
}

/* The outputs' own memory, or a buffer. */
static void *result_of(const job *j, int k, const tile *t, buffers *b)
{
    return is_direct(j, k, t) && !j->stream ? t->ptr[k] : (void *)b->out[k - j->ninputs];
}

/* What the next tile will read: stores past the caches leave processors nothing that would tell them to. */
static void fetch_next(const job *j, const tile *t)
{
    const ptrdiff_t bytes = t->rows * t->columns * j->itemsize;
    for (int k = 0; k < j->ndata; k++)
        for (ptrdiff_t at = is_direct(j, k, t) ? 0 : bytes; at < bytes; at += LINE)
            __builtin_prefetch(t->ptr[k] + bytes + at, 0, 3);
}

/* To another dtype goes what the dtype computed in would hold, as in NumPy's own casts. */
static void send(const job *j, int k, const tile *t, void *result)
{
    if (result == t->ptr[k])
        return;
    if (fa_is_half(j->op->real) && j->dtype[k] != j->op->real)
        fa_half_kernels_of(j->op->real)->round(result, t->rows * t->columns);
    if (j->stream && is_direct(j, k, t)) {
        fetch_next(j, t);
        j->stream(t->ptr[k], result, (size_t)(t->rows * t->columns * j->itemsize));
        return;
    }
    scatter(j, k, t, result, j->tile);
}

static void run_gated(const job *j, const tile *t, buffers *b, const char *const *in)
{
    const fa_gated_kernels *kernels = &j->kernels->gated[j->op->activation];
    const ptrdiff_t n = fa_padded(t->rows * t->columns);
    void *out = result_of(j, j->ninputs, t, b);
    if (!j->op->backward) {
        kernels->forward(in[0], in[1], out, n);
    } else {
        void *gate = result_of(j, j->ninputs + 1, t, b);
        kernels->backward(in[0], in[1], in[2], out, gate, n);
        send(j, j->ninputs + 1, t, gate);
    }
    send(j, j->ninputs, t, out);
}

static void run_activation(const job *j, const tile *t, buffers *b, const char *const *in)
{
    const fa_activation_kernels *kernels = &j->kernels->activation[j->op->activation];
    const int kind = j->uniform ? FA_UNIFORM : FA_VARYING;
    const ptrdiff_t n = fa_padded(t->rows * t->columns);
    const double *params[FA_MAX_PARAMS];
    void *out = result_of(j, j->ninputs, t, b);
    bind_params(j, t, b, params);
    /* the parameter's gradient first: dx may be written over x or dy */
    if (j->noperands > j->ninputs + 1) {
        kernels->param_gradient[kind](in[0], in[1], b->out[1], n, params);
        scatter(j, j->ninputs + 1, t, (char *)b->out[1], FA_FLOAT64);
    }
    if (j->op->backward)
        kernels->backward[kind](in[0], in[1], out, n, params);
    else
        kernels->forward[kind](in[0], out, n, params);
    send(j, j->ninputs, t, out);
}

static void run_tile(const job *j, const tile *t, buffers *b)
{
    const char *in[FA_MAX_DATA] = {NULL};
    for (int k = 0; k < j->ndata; k++) {
        in[k] = t->ptr[k];
        if (!is_direct(j, k, t)) {
            in[k] = (char *)b->data[k];
            gather(j, k, t, (char *)b->data[k], j->tile);
            if (fa_is_half(j->op->real) && j->dtype[k] != j->op->real)
                fa_half_kernels_of(j->op->real)->round(b->data[k], t->rows * t->columns);
        }
    }
    if (j->op->gated)
        run_gated(j, t, b, in);
    else
        run_activation(j, t, b, in);
}

/* ---- all tiles ------------------------------------------------------------------------------------- */

static void locate(const job *j, ptrdiff_t index, tile *t)
{
    const int last = j->ndim - 1;
    const ptrdiff_t begin = index % j->column_tiles * j->columns - j->skew, end = begin + j->columns;
    ptrdiff_t at[2] = {0, begin > 0 ? begin : 0}; /* row, column */
    index /= j->column_tiles;
    if (j->ndim > 1)
        at[0] = index % j->row_tiles * j->rows;
    index /= j->row_tiles;
    t->columns = fa_at_most(j->shape[last], end) - at[1];
    t->rows = 1;
    if (j->ndim > 1)
        t->rows = fa_at_most(j->shape[last - 1] - at[0], j->rows);
    for (int k = 0; k < j->noperands; k++) {
        t->ptr[k] = j->data[k] + at[1] * j->strides[k][last];
        if (j->ndim > 1)
            t->ptr[k] += at[0] * j->strides[k][last - 1];
    }
    for (int axis = last - 2; axis >= 0; axis--) {
        ptrdiff_t i = index % j->shape[axis];
        index /= j->shape[axis];
        for (int k = 0; k < j->noperands; k++)
            t->ptr[k] += i * j->strides[k][axis];
    }
}

/* Splits off what is no multiple of FA_LANES, so that the rest needs no buffer. */
static void run_split(const job *j, tile *t, buffers *b)
{
    const ptrdiff_t odd = t->columns % FA_LANES;
    if (t->rows > 1 || odd == 0 || t->columns < FA_LANES) {
        run_tile(j, t, b);
        return;
    }
    t->columns -= odd;
    run_tile(j, t, b);
    for (int k = 0; k < j->noperands; k++)
        t->ptr[k] += t->columns * j->strides[k][j->ndim - 1];
    t->columns = odd;
    run_tile(j, t, b);
}

static void run_tiles(void *context, ptrdiff_t begin, ptrdiff_t end, int worker)
{
    const job *j = context;
    buffers b;
    tile t;
    (void)worker;
    for (ptrdiff_t index = begin; index < end; index++) {
        locate(j, index, &t);
        run_split(j, &t, &b);
    }
}

/* ---- axes ------------------------------------------------------------------------------------------ */

static void drop_axis(job *j, int axis)
{
    size_t after = (size_t)(--j->ndim - axis) * sizeof(ptrdiff_t);
    memmove(j->shape + axis, j->shape + axis + 1, after);
    for (int k = 0; k < j->noperands; k++)
        memmove(j->strides[k] + axis, j->strides[k] + axis + 1, after);
}

static void flip_axis(job *j, int axis)
{
    for (int k = 0; k < j->noperands; k++) {
        j->data[k] += (j->shape[axis] - 1) * j->strides[k][axis];
        j->strides[k][axis] = -j->strides[k][axis];
    }
}

static void swap_axes(job *j, int a, int b)
{
    ptrdiff_t t = j->shape[a];
    j->shape[a] = j->shape[b];
    j->shape[b] = t;
    for (int k = 0; k < j->noperands; k++) {
        t = j->strides[k][a];
        j->strides[k][a] = j->strides[k][b];
        j->strides[k][b] = t;
    }
}

/* Whether axis a and the next one are one run of memory for every operand. */
static int mergeable(const job *j, int a)
{
    for (int k = 0; k < j->noperands; k++)
        if (j->strides[k][a] != j->strides[k][a + 1] * j->shape[a + 1])
            return 0;
    return 1;
}

static void order_axes(job *j)
{
    const int out = j->ninputs;
    for (int axis = j->ndim - 1; axis >= 0; axis--) {
        if (j->shape[axis] == 1 && j->ndim > 1)
            drop_axis(j, axis);
        else if (j->strides[out][axis] < 0)
            flip_axis(j, axis);
    }
    for (int i = 1; i < j->ndim; i++)
        for (int a = i; a > 0 && j->strides[out][a - 1] < j->strides[out][a]; a--)
            swap_axes(j, a - 1, a);
    for (int a = j->ndim - 2; a >= 0; a--)
        if (mergeable(j, a)) {
            j->shape[a + 1] *= j->shape[a];
            drop_axis(j, a);
        }
}

/* One contiguous axis, no cast, no streaming: nothing needs a buffer, and tiles may be larger. */
enum { DIRECT_COLUMNS = 4 * FA_BLOCK };

static int all_direct(const job *j)
{
    if (j->ndim > 1 || j->stream)
        return 0;
    for (int k = 0; k < j->noperands; k++) {
        if (is_param(j, k) ? j->strides[k][0] != 0
                           : j->dtype[k] != j->op->real || j->dtype[k] != j->tile || j->strides[k][0] != j->itemsize ||
                                 (uintptr_t)j->data[k] % (uintptr_t)j->itemsize != 0)
            return 0;
    }
    return j->noperands == j->ninputs + 1;
}

/* What is streamed in tiles begins with a line, so that no line is written in two parts, which costs a detour. */
static ptrdiff_t find_skew(const job *j)
{
    const ptrdiff_t lead = (ptrdiff_t)(-(uintptr_t)j->data[j->ninputs] % LINE) / j->itemsize;
    return j->stream && j->ndim == 1 && lead > 0 && lead < j->columns ? j->columns - lead : 0;
}

static void choose_tiles(job *j)
{
    const int last = j->ndim - 1;
    const ptrdiff_t widest = all_direct(j) ? DIRECT_COLUMNS : FA_BLOCK;
    j->columns = fa_at_most(j->shape[last], widest);
    j->rows = j->columns < FA_BLOCK ? FA_BLOCK / j->columns : 1;
    j->skew = find_skew(j);
    j->column_tiles = (j->shape[last] + j->skew + j->columns - 1) / j->columns;
    j->row_tiles = j->ndim > 1 ? (j->shape[last - 1] + j->rows - 1) / j->rows : 1;
    j->uniform = 1;
    for (int k = j->ndata; k < j->ninputs; k++) {
        if (j->strides[k][last] || (j->ndim > 1 && j->rows > 1 && j->strides[k][last - 1]))
            j->uniform = 0;
    }
}

static fa_cost *cost_of(const fa_op *op)
{
    static fa_cost costs[4][FA_ACTIVATION_COUNT + FA_GATED_COUNT][2];
    return &costs[op->real - FA_FLOAT32][op->activation + (op->gated ? FA_ACTIVATION_COUNT : 0)][op->backward];
}

/* Past the caches, where the result would not stay there: but not where kernels compute for so long that ordinary
 * stores take no time of their own (docs/design.md). */
static int had_better_stream(const job *j, ptrdiff_t size)
{
    const fa_op *op = j->op;
    return fa_worth_streaming(size * j->itemsize * (j->ndata + 1)) && !op->gated && !fa_is_half(op->real) &&
           fa_activation_cost(&j->kernels->activation[op->activation], op->real, op->activation, op->backward) <
               0.05f * (float)j->itemsize;
}

void fa_elementwise(const fa_op *op, int ndim, const ptrdiff_t *shape, const fa_operand *operands)
{
    job j;
    ptrdiff_t size = 1, tiles;
    j.op = op;
    j.kernels = fa_kernels_for(op->real);
    j.tile = fa_tile_dtype(op->real);
    j.ndata = fa_op_data(op);
    j.ninputs = fa_op_inputs(op);
    j.noperands = fa_op_operands(op);
    if (j.noperands > j.ninputs + 1 && !operands[j.ninputs + 1].data)
        j.noperands--; /* the parameter's gradient is not wanted */
    j.itemsize = fa_itemsize[op->real];
    j.ndim = ndim ? ndim : 1;
    for (int axis = 0; axis < ndim; axis++)
        size *= shape[axis];
    if (size == 0)
        return;
    j.shape[0] = 1;
    memcpy(j.shape, shape, (size_t)ndim * sizeof *shape);
    for (int k = 0; k < j.noperands; k++) {
        j.data[k] = operands[k].data;
        j.dtype[k] = operands[k].dtype;
        j.strides[k][0] = j.itemsize;
        memcpy(j.strides[k], operands[k].strides, (size_t)ndim * sizeof *shape);
    }
    order_axes(&j);
    j.stream = had_better_stream(&j, size) ? fa_active()->stream : NULL;
    choose_tiles(&j);
    tiles = j.row_tiles * j.column_tiles;
    for (int axis = 0; axis < j.ndim - 2; axis++)
        tiles *= j.shape[axis];
    fa_cost *cost = cost_of(op);
    fa_measured_for(tiles, fa_threads_for(size, cost, 1), run_tiles, &j, size, cost);
}

/* Whether one element's result is another's input, as in NumPy's reduce and accumulate. */
static int is_chained(const fa_loop *loop, char **args, ptrdiff_t n, const ptrdiff_t *steps)
{
    const int ninputs = fa_op_inputs(&loop->op), ndata = fa_op_data(&loop->op);
    const char *out = args[ninputs];
    const ptrdiff_t out_step = steps[ninputs], out_size = fa_itemsize[loop->op.real];
    const char *out_low = out_step < 0 ? out + (n - 1) * out_step : out;
    const char *out_high = (out_step < 0 ? out : out + (n - 1) * out_step) + out_size;
    for (int k = 0; k < ninputs; k++) {
        const ptrdiff_t size = k < ndata ? out_size : fa_itemsize[loop->param_dtype];
        const char *low = steps[k] < 0 ? args[k] + (n - 1) * steps[k] : args[k];
        const char *high = (steps[k] < 0 ? args[k] : args[k] + (n - 1) * steps[k]) + size;
        if (low < out_high && out_low < high && (args[k] != out || steps[k] != out_step || out_step == 0))
            return n > 1;
    }
    return 0;
}

static void run_loop(const fa_loop *loop, char *const *args, ptrdiff_t n, const ptrdiff_t *steps)
{
    fa_operand operands[FA_MAX_OPERANDS];
    for (int k = 0; k < fa_op_operands(&loop->op); k++) {
        int param = k < fa_op_inputs(&loop->op) && k >= fa_op_data(&loop->op);
        operands[k] = (fa_operand){args[k], param ? loop->param_dtype : loop->op.real, steps + k};
    }
    fa_elementwise(&loop->op, 1, &n, operands);
}

void fa_ufunc_loop(char **args, const ptrdiff_t *dimensions, const ptrdiff_t *steps, void *data)
{
    const fa_loop *loop = data;
    char *at[FA_MAX_OPERANDS];
    if (!is_chained(loop, args, *dimensions, steps)) {
        run_loop(loop, args, *dimensions, steps);
        return;
    }
    for (ptrdiff_t i = 0; i < *dimensions; i++) {
        for (int k = 0; k < fa_op_operands(&loop->op); k++)
            at[k] = args[k] + i * steps[k];
        run_loop(loop, at, 1, steps);
    }
}
