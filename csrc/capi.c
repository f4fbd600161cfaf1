/* The functions of fastact_capi.h: fa_elementwise and fa_batchnorm_* for the contiguous arrays of other packages.
 * Their arguments are checked here, since no Python has checked them. */
#include "capi.h"

#include <float.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "batchnorm.h"
#include "elementwise.h"
#include "parallel.h"

/* ---- the table ------------------------------------------------------------------------------------- */

#define FA_NONE {NULL, 0.0, FASTACT_HAS_DEFAULT}
#define FA_SCALAR(param, fallback) {#param, fallback, FASTACT_HAS_DEFAULT}
#define FA_REQUIRED(param) {#param, 0.0, FASTACT_REQUIRED}
#define FA_LEARNED(param) {#param, 0.0, FASTACT_LEARNED}
#define FA_TWO(a, b) a, b
static const fastact_activation activations[] = {
#define FA_ROW(name, nparams, params, max_ulp, formula, source)                                        \
    {#name, formula, source, max_ulp, 0, nparams, {params}},
#include "activations.def"
#define FA_GATED_ROW(name, max_ulp, formula, source) {#name, formula, source, max_ulp, 1, 0, {FA_NONE}},
#include "activations.def"
};
enum { COUNT = FA_ACTIVATION_COUNT + FA_GATED_COUNT };
_Static_assert(sizeof activations / sizeof *activations == COUNT, "the gated rows follow the others");
_Static_assert((int)FASTACT_MAX_PARAMETERS == (int)FA_MAX_PARAMS, "a description holds every parameter");

static int find(const char *name)
{
    for (int k = 0; name && k < COUNT; k++)
        if (!strcmp(name, activations[k].name))
            return k;
    return -1;
}

static const fastact_activation *describe(int activation)
{
    return activation >= 0 && activation < COUNT ? &activations[activation] : NULL;
}

/* ---- a call ---------------------------------------------------------------------------------------- */

/* Inputs, without parameters, and outputs, in the driver's order; an output that is NULL is not wanted. */
typedef struct {
    int activation, backward, gated, dtype;
    ptrdiff_t n;
    const void *inputs[FA_MAX_DATA];
    void *outputs[2];
    int noutputs; /* that the function has */
    const double *parameters;
} call;

static int driver_dtype(int dtype)
{
    switch (dtype) {
    case FASTACT_FLOAT16: return FA_FLOAT16;
    case FASTACT_BFLOAT16: return FA_BFLOAT16;
    case FASTACT_FLOAT32: return FA_FLOAT32;
    case FASTACT_FLOAT64: return FA_FLOAT64;
    }
    return -1;
}

static fa_op op_of(const call *c)
{
    const int row = c->gated ? c->activation - FA_ACTIVATION_COUNT : c->activation;
    return (fa_op){row, c->backward, c->gated, (fa_dtype)driver_dtype(c->dtype)};
}

static int apart(const void *a, ptrdiff_t a_bytes, const void *b, ptrdiff_t b_bytes)
{
    const uintptr_t p = (uintptr_t)a, q = (uintptr_t)b;
    return p < q ? q - p >= (uintptr_t)a_bytes : p - q >= (uintptr_t)b_bytes;
}

static int disjoint(const void *a, const void *b, ptrdiff_t bytes)
{
    return apart(a, bytes, b, bytes);
}

static int good_pointers(const call *c, ptrdiff_t bytes)
{
    const int ninputs = 1 + c->backward + c->gated;
    for (int i = 0; i < ninputs; i++)
        if (!c->inputs[i])
            return 0;
    for (int o = 0; o < c->noutputs; o++) {
        for (int i = 0; i < ninputs && c->outputs[o]; i++)
            if (c->outputs[o] != c->inputs[i] && !disjoint(c->outputs[o], c->inputs[i], bytes))
                return 0;
    }
    return c->outputs[0] && (!c->outputs[1] || disjoint(c->outputs[0], c->outputs[1], bytes)) &&
           (!c->gated || c->outputs[c->noutputs - 1]);
}

static int has_defaults(const fastact_activation *f)
{
    for (int p = 0; p < f->parameter_count; p++)
        if (f->parameters[p].kind != FASTACT_HAS_DEFAULT)
            return 0;
    return 1;
}

static int check(const call *c)
{
    const fastact_activation *f = describe(c->activation);
    if (!f || f->gated != c->gated)
        return FASTACT_BAD_ACTIVATION;
    if (driver_dtype(c->dtype) < 0)
        return FASTACT_BAD_DTYPE;
    if (c->n < 0 || c->n > PTRDIFF_MAX / 8)
        return FASTACT_BAD_LENGTH;
    if ((!c->parameters && !has_defaults(f)) ||
        (!c->gated && c->outputs[1] && f->parameters[0].kind != FASTACT_LEARNED))
        return FASTACT_BAD_PARAMETERS;
    if (c->n && !good_pointers(c, c->n * fa_itemsize[driver_dtype(c->dtype)]))
        return FASTACT_BAD_POINTER;
    return FASTACT_OK;
}

static int run(const call *c)
{
    static const ptrdiff_t same = 0; /* the stride of a parameter */
    const int status = check(c);
    if (status || !c->n)
        return status;
    const fa_op op = op_of(c);
    const fastact_activation *f = describe(c->activation);
    const ptrdiff_t step = fa_itemsize[op.real];
    double values[FA_MAX_PARAMS];
    fa_operand operands[FA_MAX_OPERANDS];
    int k = 0;
    for (; k < fa_op_data(&op); k++)
        operands[k] = (fa_operand){(char *)c->inputs[k], op.real, &step};
    for (int p = 0; p < f->parameter_count; p++) {
        values[p] = c->parameters ? c->parameters[p] : f->parameters[p].default_value;
        operands[k++] = (fa_operand){(char *)&values[p], FA_FLOAT64, &same};
    }
    for (int o = 0; k < fa_op_operands(&op); o++)
        operands[k++] = (fa_operand){c->outputs[o], op.real, &step};
    fa_elementwise(&op, 1, &c->n, operands);
    return FASTACT_OK;
}

static int forward(int activation, int dtype, const void *x, void *y, ptrdiff_t n, const double *parameters)
{
    return run(&(call){.activation = activation, .dtype = dtype, .n = n, .inputs = {x}, .outputs = {y},
                       .noutputs = 1, .parameters = parameters});
}

static int backward(int activation, int dtype, const void *dy, const void *x, void *dx, void *dparam, ptrdiff_t n,
                    const double *parameters)
{
    return run(&(call){.activation = activation, .backward = 1, .dtype = dtype, .n = n, .inputs = {dy, x},
                       .outputs = {dx, dparam}, .noutputs = 2, .parameters = parameters});
}

static int gated_forward(int activation, int dtype, const void *x, const void *gate, void *y, ptrdiff_t n)
{
    return run(&(call){.activation = activation, .gated = 1, .dtype = dtype, .n = n, .inputs = {x, gate},
                       .outputs = {y}, .noutputs = 1});
}

static int gated_backward(int activation, int dtype, const void *dy, const void *x, const void *gate, void *dx,
                          void *dgate, ptrdiff_t n)
{
    return run(&(call){.activation = activation, .backward = 1, .gated = 1, .dtype = dtype, .n = n,
                       .inputs = {dy, x, gate}, .outputs = {dx, dgate}, .noutputs = 2});
}

/* ---- BatchNorm ------------------------------------------------------------------------------------- */

/* Arrays of the size of x, and a number a channel; NULL: not wanted, or not given. */
typedef struct {
    const fastact_batch_norm *bn;
    int training, backward;
    const void *dy, *x;
    void *out; /* y, or dx */
    double *statistics;
    double *small[FA_SUMS]; /* dbias, dweight, dparameter, in the order of the sums */
} norm_call;

static ptrdiff_t count_of(const fastact_batch_norm *b)
{
    return b->outer * b->inner;
}

static ptrdiff_t bytes_of(const fastact_batch_norm *b)
{
    return count_of(b) * b->channels * fa_itemsize[driver_dtype(b->dtype)];
}

static int fits(const fastact_batch_norm *b)
{
    const ptrdiff_t most = PTRDIFF_MAX / 8 / FASTACT_STATISTICS;
    if (b->outer < 0 || b->channels < 0 || b->inner < 0 || b->channels > most)
        return 0;
    if (!b->outer || !b->channels || !b->inner)
        return 1;
    return b->outer <= most / b->channels && b->inner <= most / b->channels / b->outer;
}

typedef struct {
    const void *at; /* or NULL */
    ptrdiff_t bytes;
} region;

static int overlaps(const region *a, const region *b)
{
    return a->at && b->at && !apart(a->at, a->bytes, b->at, b->bytes);
}

/* What is written is apart from what is read, but for one array, and from what else is written. */
static int good_arrays(const norm_call *c)
{
    enum { READ = 5, WRITTEN = 5 };
    const fastact_batch_norm *b = c->bn;
    const ptrdiff_t bytes = bytes_of(b), row = b->channels * (ptrdiff_t)sizeof(double);
    const ptrdiff_t table = FASTACT_STATISTICS * row;
    const region read[READ] = {{c->x, bytes}, {c->dy, bytes}, {b->weight, row}, {b->bias, row},
                               {c->backward ? c->statistics : NULL, table}};
    const region written[WRITTEN] = {{c->out, bytes}, {c->backward ? NULL : c->statistics, table},
                                     {c->small[0], row}, {c->small[1], row}, {c->small[2], row}};
    const void *same = c->backward ? c->dy : c->training ? NULL : c->x; /* what `out` may be */
    int good = c->x && c->out && c->statistics && (c->dy || !c->backward);
    for (int w = 0; w < WRITTEN; w++) {
        for (int r = 0; r < READ; r++) {
            const int one = w == 0 && r < 2 && c->out == same && read[r].at == same;
            good = good && (one || !overlaps(&written[w], &read[r]));
        }
        for (int other = 0; other < w; other++)
            good = good && !overlaps(&written[w], &written[other]);
    }
    return good;
}

static int check_norm(const norm_call *c)
{
    const fastact_batch_norm *b = c->bn;
    const fastact_activation *f = b ? describe(b->activation) : NULL;
    if (!b)
        return FASTACT_BAD_POINTER;
    if (b->activation != -1 && (!f || f->gated))
        return FASTACT_BAD_ACTIVATION;
    if (driver_dtype(b->dtype) < 0)
        return FASTACT_BAD_DTYPE;
    if (!fits(b) || (c->training && b->channels && count_of(b) < 2))
        return FASTACT_BAD_LENGTH;
    if (!(b->eps >= 0 && b->eps <= DBL_MAX) || (f && !b->parameters && !has_defaults(f)) ||
        (c->small[2] && !(f && f->parameter_count && f->parameters[0].kind == FASTACT_LEARNED)))
        return FASTACT_BAD_PARAMETERS;
    return !b->channels || good_arrays(c) ? FASTACT_OK : FASTACT_BAD_POINTER;
}

static fa_view view_of(const fastact_batch_norm *b, const void *data)
{
    const fa_dtype dtype = (fa_dtype)driver_dtype(b->dtype);
    const ptrdiff_t size = fa_itemsize[dtype], shape[] = {b->outer, b->channels, b->inner};
    const ptrdiff_t strides[] = {b->channels * b->inner * size, b->inner * size, size};
    return fa_make_view((char *)data, dtype, 3, shape, strides, 1);
}

static fa_statistics rows_of(double *rows, ptrdiff_t c)
{
    return (fa_statistics){
        .mean = {rows, rows + c},
        .var = {rows + 2 * c, rows + 3 * c},
        .rstd = rows + 4 * c,
        .affine = {rows + 5 * c, rows + 6 * c, rows + 7 * c, rows + 8 * c, rows + 9 * c, rows + 10 * c},
    };
}

/* `values`: memory for the parameters. */
static fa_batchnorm problem_of(const fastact_batch_norm *b, double *values)
{
    const fastact_activation *f = describe(b->activation);
    fa_batchnorm bn = {.real = (fa_dtype)driver_dtype(b->dtype), .channels = b->channels, .count = count_of(b),
                       .activation = b->activation, .weight = b->weight, .bias = b->bias, .eps = b->eps,
                       .total = (double)count_of(b)};
    for (int p = 0; f && p < f->parameter_count; p++) {
        values[p] = b->parameters ? b->parameters[p] : f->parameters[p].default_value;
        bn.params[p] = &values[p];
    }
    return bn;
}

static int batch_norm_forward(const fastact_batch_norm *b, int training, const void *x, void *y, double *statistics)
{
    const norm_call c = {.bn = b, .training = training, .x = x, .out = y, .statistics = statistics};
    const int status = check_norm(&c);
    if (status || !b->channels)
        return status;
    double values[FA_MAX_PARAMS];
    const fa_batchnorm bn = problem_of(b, values);
    const fa_view from = view_of(b, x), to = view_of(b, y);
    const fa_statistics rows = rows_of(statistics, b->channels);
    if (!training) { /* a mean and a variance are numbers here, not pairs of them */
        memset(rows.mean[1], 0, (size_t)b->channels * sizeof(double));
        memset(rows.var[1], 0, (size_t)b->channels * sizeof(double));
    }
    return fa_batchnorm_forward(&bn, training, &from, &to, &rows) ? FASTACT_NO_MEMORY : FASTACT_OK;
}

/* The results of a value a channel, of the sums. */
static void put_small(const norm_call *c, double *const sums[FA_SUMS], const double *rstd)
{
    const uint64_t old = fa_enter_environment();
    for (ptrdiff_t k = 0; k < c->bn->channels; k++) {
        sums[1][k] *= rstd[k];
        for (int s = 0; s < FA_SUMS; s++)
            if (c->small[s])
                c->small[s][k] = sums[s][k];
    }
    fa_leave_environment(old);
}

static int differentiate(const norm_call *c)
{
    const fastact_batch_norm *b = c->bn;
    double values[FA_MAX_PARAMS], *sums = calloc((size_t)b->channels * FA_SUMS, sizeof *sums);
    double *const each[FA_SUMS] = {sums, sums + b->channels, sums + 2 * b->channels};
    const fa_batchnorm bn = problem_of(b, values);
    const fa_view dy = view_of(b, c->dy), x = view_of(b, c->x), dx = view_of(b, c->out);
    const fa_statistics rows = rows_of(c->statistics, b->channels);
    int status = FASTACT_NO_MEMORY;
    if (sums && !fa_batchnorm_backward(&bn, FA_BOTH_PASSES, c->training, &dy, &x, &dx, &rows, each)) {
        put_small(c, each, rows.rstd);
        status = FASTACT_OK;
    }
    free(sums);
    return status;
}

static int batch_norm_backward(const fastact_batch_norm *b, int training, const void *dy, const void *x,
                               const double *statistics, void *dx, double *dweight, double *dbias, double *dparameter)
{
    const norm_call c = {.bn = b, .training = training, .backward = 1, .dy = dy, .x = x, .out = dx,
                         .statistics = (double *)statistics, .small = {dbias, dweight, dparameter}};
    const int status = check_norm(&c);
    return status || !b->channels ? status : differentiate(&c);
}

/* ---- threads --------------------------------------------------------------------------------------- */

static int set_thread_limit(int n)
{
    return fa_set_thread_num_threads(n < 0 ? 0 : n);
}

const fastact_capi fa_capi_table = {
    FASTACT_CAPI_VERSION, COUNT,          find,           describe,           forward,
    backward,             gated_forward,  gated_backward, fa_get_num_threads, set_thread_limit,
    batch_norm_forward,   batch_norm_backward,
};
