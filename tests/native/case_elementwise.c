/* fa_elementwise over arrays of any strides and dtypes, and fa_ufunc_loop over memory that overlaps. */
#include <stdlib.h>
#include <string.h>

#include "elementwise.h"
#include "native.h"

static const fa_dtype REALS[] = {FA_FLOAT32, FA_FLOAT64, FA_FLOAT16, FA_BFLOAT16};

static fa_op draw_op(drawing *d)
{
    fa_op op = {.gated = draw(d, 4) == 0, .backward = (int)draw(d, 2)};
    op.activation = (int)draw(d, op.gated ? FA_GATED_COUNT : FA_ACTIVATION_COUNT);
    op.real = DRAW_FROM(d, REALS);
    return op;
}

static int draw_shape(drawing *d, ptrdiff_t *shape)
{
    static const ptrdiff_t lengths[] = {0, 1, 2, 3, 7, 15, 16, 17, 31, 33, 64, 100, 1023, 1024, 1025, 5000};
    const ptrdiff_t most = 20000;
    const int ndim = draw(d, 32) == 0 ? FA_MAX_NDIM : (int)draw(d, 5);
    ptrdiff_t size = 1;
    for (int axis = 0; axis < ndim; axis++) {
        shape[axis] = axis < 5 ? DRAW_FROM(d, lengths) : 1;
        if (size * shape[axis] > most)
            shape[axis] = 1;
        size *= shape[axis];
    }
    return ndim;
}

/* ---- fa_elementwise ------------------------------------------------------------------------------- */

typedef struct {
    fa_op op;
    int ndata, ninputs, noperands, wanted; /* wanted: less a parameter's gradient that is left out */
    array operands[FA_MAX_OPERANDS];
    int aliased; /* the input whose memory the result has, or -1 */
} call;

static int is_param(const call *c, int k)
{
    return k >= c->ndata && k < c->ninputs;
}

static fa_dtype draw_dtype(drawing *d, const call *c, int k)
{
    static const fa_dtype of_params[] = {FA_FLOAT64, FA_FLOAT32, FA_FLOAT16, FA_BFLOAT16, FA_INT32, FA_UINT8};
    if (is_param(c, k))
        return DRAW_FROM(d, of_params);
    if (k == c->ninputs + 1 && !c->op.gated)
        return c->op.real; /* a parameter's gradient: nobody asks for another */
    return draw(d, 3) ? c->op.real : k < c->ninputs ? (fa_dtype)draw(d, FA_DTYPE_COUNT) : DRAW_FROM(d, REALS);
}

/* Parameters are one number, or broadcast, or as many as there are elements. */
static array draw_operand(drawing *d, const call *c, int k, int ndim, const ptrdiff_t *shape)
{
    const int scalar = is_param(c, k) && draw(d, 2);
    const layout how = k >= c->ninputs ? ANY_OUTPUT : draw(d, 3) ? ANY_INPUT : PACKED;
    array a = new_array(d, how, draw_dtype(d, c, k), scalar ? 0 : ndim, shape);
    if (scalar) {
        a.ndim = ndim;
        a.size = 1;
        for (int axis = 0; axis < ndim; axis++) {
            a.shape[axis] = shape[axis];
            a.strides[axis] = 0;
            a.size *= shape[axis];
        }
    }
    return a;
}

static call draw_call(drawing *d)
{
    call c = {.op = draw_op(d), .aliased = -1};
    ptrdiff_t shape[FA_MAX_NDIM];
    const int ndim = draw_shape(d, shape);
    const content what = draw(d, 2) ? HOSTILE : ORDINARY;
    const uint64_t seed = mix(1 + draw(d, 256));
    c.ndata = fa_op_data(&c.op);
    c.ninputs = fa_op_inputs(&c.op);
    c.noperands = c.wanted = fa_op_operands(&c.op);
    if (!c.op.gated && c.noperands > c.ninputs + 1 && draw(d, 2))
        c.wanted--;
    for (int k = 0; k < c.wanted; k++) {
        c.operands[k] = draw_operand(d, &c, k, ndim, shape);
        fill(&c.operands[k], is_param(&c, k) ? ORDINARY : what, 0.0, seed + (uint64_t)k);
    }
    return c;
}

/* The result takes the memory of an input, exactly, where that may be written. */
static void draw_alias(drawing *d, call *c)
{
    const int k = (int)draw(d, (unsigned)c->ndata);
    array *out = &c->operands[c->ninputs], *in = &c->operands[k];
    if (draw(d, 2) || in->dtype != out->dtype)
        return;
    for (int axis = 0; axis < in->ndim; axis++)
        if (in->strides[axis] == 0)
            return;
    for (int other = 0; other < c->ninputs; other++)
        if (other != k && c->operands[other].memory == in->memory)
            return;
    free_array(out);
    *out = *in;
    c->aliased = k;
}

static void bind(const call *c, fa_operand *operands)
{
    for (int k = 0; k < FA_MAX_OPERANDS; k++)
        operands[k] = (fa_operand){c->operands[k].data, c->operands[k].dtype, c->operands[k].strides};
}

static void free_call(call *c)
{
    if (c->aliased >= 0)
        c->operands[c->ninputs] = (array){0};
    for (int k = 0; k < c->wanted; k++)
        free_array(&c->operands[k]);
}

/* The same on packed arrays of the dtype that is computed in, with a parameter an element. */
static call plain_call(const call *c)
{
    call plain = *c;
    fa_operand operands[FA_MAX_OPERANDS];
    const ptrdiff_t n = c->operands[c->ninputs].size;
    plain.aliased = -1;
    for (int k = 0; k < c->wanted; k++)
        plain.operands[k] = k < c->ninputs ? pack(&c->operands[k], is_param(c, k) ? FA_FLOAT64 : c->op.real)
                                           : packed_array(c->op.real, n);
    bind(&plain, operands);
    fa_elementwise(&plain.op, 1, &n, operands);
    return plain;
}

/* An element alone gives what it gives among others. */
static verdict check_alone(const call *plain, ptrdiff_t i)
{
    static const ptrdiff_t one = 1;
    fa_operand operands[FA_MAX_OPERANDS];
    double results[2] = {0, 0};
    bind(plain, operands);
    for (int k = 0; k < plain->wanted; k++)
        operands[k].data = k < plain->ninputs ? element(&plain->operands[k], i) : (char *)&results[k - plain->ninputs];
    fa_elementwise(&plain->op, 1, &one, operands);
    for (int k = plain->ninputs; k < plain->wanted; k++)
        if (!same_element(operands[k].data, element(&plain->operands[k], i), plain->op.real))
            return "an element alone gives another result";
    return NULL;
}

static verdict check_call(call *c, call *plain)
{
    for (int k = 0; k < c->wanted; k++) {
        array *a = &c->operands[k];
        if (k < c->ninputs) {
            if (k != c->aliased && !is_unchanged(a))
                return "an input was written";
            continue;
        }
        array want = pack(&plain->operands[k], a->dtype);
        want.ndim = a->ndim;
        const int same = c->op.real == a->dtype || a->size == 0;
        for (ptrdiff_t i = 0; i < a->size; i++)
            if (!same_element(element(a, i), want.data + i * fa_itemsize[a->dtype], a->dtype)) {
                free_array(&want);
                return same ? "a result depends on strides, threads or surroundings" : "a cast result is wrong";
            }
        free_array(&want);
        if (!is_unchanged_but_elements(a))
            return "memory between or around the elements was written";
        digest(ELEMENTWISE, a);
    }
    return NULL;
}

verdict elementwise_case(drawing *d)
{
    const surroundings s = draw_surroundings(d);
    fa_operand operands[FA_MAX_OPERANDS];
    call c = draw_call(d);
    draw_alias(d, &c);
    call plain = plain_call(&c);
    bind(&c, operands);
    enter(&s);
    fa_elementwise(&c.op, c.operands[0].ndim, c.operands[0].shape, operands);
    verdict wrong = leave() ? NULL : "the caller's floating-point environment has changed";
    if (!wrong)
        wrong = check_call(&c, &plain);
    const ptrdiff_t n = plain.operands[0].size;
    for (ptrdiff_t i = 0; i < n && !wrong; i += 1 + n / 5)
        wrong = check_alone(&plain, i);
    free_call(&c);
    free_call(&plain);
    return wrong;
}

/* ---- fa_ufunc_loop -------------------------------------------------------------------------------- */

enum { ARENA = 1 << 16, MARGIN = 1 << 14 };

/* Operands somewhere in one piece of memory: whatever they overlap, elements are computed in their order. */
typedef struct {
    fa_loop loop;
    ptrdiff_t n, steps[FA_MAX_OPERANDS], offsets[FA_MAX_OPERANDS];
} loop_call;

static ptrdiff_t draw_step(drawing *d, ptrdiff_t size, int writable)
{
    const ptrdiff_t steps[] = {size, size, 2 * size, -size, size + 1, writable ? size : 0, writable ? size : -2 * size};
    return DRAW_FROM(d, steps);
}

static void draw_places(drawing *d, loop_call *c)
{
    static const ptrdiff_t shifts[] = {0, 0, 4, 8, 64, -8, -64, 1, 1000, 9000};
    const int ninputs = fa_op_inputs(&c->loop.op), noperands = fa_op_operands(&c->loop.op);
    for (int k = 0; k < noperands; k++) {
        const int param = k < ninputs && k >= fa_op_data(&c->loop.op);
        c->steps[k] = draw_step(d, fa_itemsize[param ? c->loop.param_dtype : c->loop.op.real], k >= ninputs);
        c->offsets[k] = ARENA / 2 + DRAW_FROM(d, shifts);
    }
    if (draw(d, 2)) { /* as in NumPy's accumulate: each result is the next element's input */
        c->steps[ninputs] = c->steps[0];
        c->offsets[ninputs] = c->offsets[0] + (draw(d, 2) ? c->steps[0] : 0);
    } else if (draw(d, 4) == 0) { /* as in its reduce */
        c->steps[0] = c->steps[ninputs] = 0;
        c->offsets[ninputs] = c->offsets[0];
    }
}

static int is_zero_step_safe(const loop_call *c)
{
    const int ninputs = fa_op_inputs(&c->loop.op);
    return c->steps[ninputs] != 0 || c->steps[0] == 0;
}

/* A second result has memory of its own: NumPy passes no other. */
static void place(const loop_call *c, char *arena, char *second, ptrdiff_t i, char **args)
{
    const int ninputs = fa_op_inputs(&c->loop.op), noperands = fa_op_operands(&c->loop.op);
    for (int k = 0; k < noperands; k++)
        args[k] = (k > ninputs ? second : arena + c->offsets[k]) + i * c->steps[k];
}

static void run_in_order(loop_call *c, char *arena, char *second)
{
    const ptrdiff_t one = 1;
    char *args[FA_MAX_OPERANDS];
    for (ptrdiff_t i = 0; i < c->n; i++) {
        place(c, arena, second, i, args);
        fa_ufunc_loop(args, &one, c->steps, &c->loop);
    }
}

/* Whether all that is read was written as one number, if at all: the sign of a NaN, which no machine promises, would
 * be part of another number else. */
static int reads_whole_numbers(const loop_call *c)
{
    const ptrdiff_t size = fa_itemsize[c->loop.op.real];
    const int ninputs = fa_op_inputs(&c->loop.op), noperands = fa_op_operands(&c->loop.op);
    int whole = ninputs == fa_op_data(&c->loop.op) || size == fa_itemsize[c->loop.param_dtype];
    for (int k = 0; k < noperands; k++)
        whole = whole && c->steps[k] % size == 0 && (c->offsets[k] - c->offsets[0]) % size == 0;
    return whole;
}

static void digest_results(const loop_call *c, char *arena, char *second)
{
    char *args[FA_MAX_OPERANDS];
    for (ptrdiff_t i = 0; reads_whole_numbers(c) && i < c->n; i++) {
        place(c, arena, second, i, args);
        for (int k = fa_op_inputs(&c->loop.op); k < fa_op_operands(&c->loop.op); k++) {
            double value;
            fa_gather(args[k], c->loop.op.real, 0, 1, &value, FA_FLOAT64);
            digest_number(UFUNC, value);
        }
    }
}

static int same_memory(const char *a, const char *b, fa_dtype dtype)
{
    const ptrdiff_t size = fa_itemsize[dtype];
    for (ptrdiff_t i = 0; i + size <= ARENA; i += size)
        if (memcmp(a + i, b + i, (size_t)size) && !same_element(a + i, b + i, dtype))
            return 0;
    return 1;
}

verdict ufunc_case(drawing *d)
{
    const surroundings s = draw_surroundings(d);
    loop_call c = {.loop = {.op = draw_op(d), .param_dtype = FA_FLOAT64}, .n = (ptrdiff_t)draw(d, 400)};
    char *args[FA_MAX_OPERANDS];
    array arena = packed_array(FA_FLOAT64, ARENA / 8), second = packed_array(FA_FLOAT64, ARENA / 8);
    verdict wrong = NULL;
    draw_places(d, &c);
    fill(&arena, ORDINARY, 0.0, draw(d, 256));
    fill(&second, ORDINARY, 0.0, 0);
    array want = pack(&arena, FA_FLOAT64), want_second = pack(&second, FA_FLOAT64);
    const int second_at = ARENA / 2;
    if (is_zero_step_safe(&c)) {
        run_in_order(&c, want.data, want_second.data + second_at);
        place(&c, arena.data, second.data + second_at, 0, args);
        enter(&s);
        fa_ufunc_loop(args, &c.n, c.steps, &c.loop);
        if (!leave())
            wrong = "the caller's floating-point environment has changed";
        else if (!same_memory(arena.data, want.data, c.loop.op.real) ||
                 !same_memory(second.data, want_second.data, c.loop.op.real))
            wrong = "overlapping operands: not what comes out in order";
        digest_results(&c, want.data, want_second.data + second_at);
    }
    free_array(&arena), free_array(&second), free_array(&want), free_array(&want_second);
    return wrong;
}
