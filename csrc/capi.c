/* The functions of fastact_capi.h: fa_elementwise for the contiguous arrays of other packages.  Their
 * arguments are checked here, since no Python has checked them. */
#include "capi.h"

#include <stdint.h>
#include <string.h>

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

static int disjoint(const void *a, const void *b, ptrdiff_t bytes)
{
    const uintptr_t p = (uintptr_t)a, q = (uintptr_t)b;
    return p < q ? q - p >= (uintptr_t)bytes : p - q >= (uintptr_t)bytes;
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

static int set_thread_limit(int n)
{
    return fa_set_thread_num_threads(n < 0 ? 0 : n);
}

const fastact_capi fa_capi_table = {
    FASTACT_CAPI_VERSION, COUNT,          find,           describe,           forward,
    backward,             gated_forward,  gated_backward, fa_get_num_threads, set_thread_limit,
};
