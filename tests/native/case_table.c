/* The functions that other packages call, with any arguments; and the recycled memory. */
#include <stdlib.h>
#include <string.h>

#include "capi.h"
#include "elementwise.h"
#include "native.h"
#include "pool.h"

/* ---- fastact_capi.h -------------------------------------------------------------------------------- */

enum { ARENA = 1 << 17, NO_FUNCTION = 4 };

typedef struct {
    int function, activation, dtype, pointers; /* function: forward, backward, and both of a gated one */
    ptrdiff_t n, at[5]; /* places in the arena; -1: NULL */
    const double *parameters;
} request;

static const int INPUTS[] = {1, 2, 2, 3}, OUTPUTS[] = {1, 2, 1, 2};

static const double PARAMETERS[] = {0.25, 2.0};

static request draw_request(drawing *d, int function)
{
    static const ptrdiff_t lengths[] = {0, 1, 5, 16, 100, 1024, 3000, -1, PTRDIFF_MIN, PTRDIFF_MAX};
    request r = {.function = function, .dtype = (int)draw(d, 6) - 1};
    r.activation = (int)draw(d, (unsigned)fa_capi_table.count + 2) - 1;
    r.n = draw(d, 4) ? lengths[draw(d, 7)] : DRAW_FROM(d, lengths);
    r.pointers = INPUTS[r.function] + OUTPUTS[r.function];
    for (int k = 0; k < r.pointers; k++) {
        const ptrdiff_t apart = 24576 * k, where[] = {apart, apart, apart, apart + 1, 0, 8, apart - 8, -1};
        r.at[k] = DRAW_FROM(d, where);
    }
    r.parameters = draw(d, 4) ? PARAMETERS : NULL;
    return r;
}

static int perform(const request *r, char *arena)
{
    const fastact_capi *c = &fa_capi_table;
    void *p[5];
    for (int k = 0; k < r->pointers; k++)
        p[k] = r->at[k] < 0 ? NULL : arena + r->at[k];
    switch (r->function) {
    case 0: return c->forward(r->activation, r->dtype, p[0], p[1], r->n, r->parameters);
    case 1: return c->backward(r->activation, r->dtype, p[0], p[1], p[2], p[3], r->n, r->parameters);
    case 2: return c->gated_forward(r->activation, r->dtype, p[0], p[1], p[2], r->n);
    default: return c->gated_backward(r->activation, r->dtype, p[0], p[1], p[2], p[3], p[4], r->n);
    }
}

static int overlap(ptrdiff_t a, ptrdiff_t b, ptrdiff_t bytes)
{
    return a >= 0 && b >= 0 && a < b + bytes && b < a + bytes;
}

/* Whether the header's rules for pointers are kept. */
static int is_allowed(const request *r, ptrdiff_t bytes)
{
    const int inputs = INPUTS[r->function];
    for (int k = 0; k < inputs; k++)
        if (r->at[k] < 0)
            return 0;
    if (r->at[inputs] < 0 || (r->function == 3 && r->at[4] < 0))
        return 0;
    for (int out = inputs; out < r->pointers; out++)
        for (int k = 0; k < out; k++)
            if (overlap(r->at[out], r->at[k], bytes) && (k >= inputs || r->at[out] != r->at[k]))
                return 0;
    return 1;
}

/* The results from copies of the inputs, which nothing overlaps. */
static int perform_apart(const request *r, const char *arena, char *apart, ptrdiff_t bytes)
{
    request copy = *r;
    for (int k = 0; k < r->pointers; k++) {
        copy.at[k] = r->at[k] < 0 ? -1 : 24576 * k;
        if (k < INPUTS[r->function])
            memcpy(apart + copy.at[k], arena + r->at[k], (size_t)bytes);
    }
    return perform(&copy, apart);
}

static verdict check_success(const request *r, array *arena, array *apart, array *was)
{
    static const fa_dtype dtypes[] = {FA_FLOAT16, FA_BFLOAT16, FA_FLOAT32, FA_FLOAT64};
    const ptrdiff_t size = fa_itemsize[dtypes[r->dtype]], bytes = r->n * size;
    if (r->n && !is_allowed(r, bytes))
        return "pointers were accepted that the header forbids";
    if (r->n)
        perform_apart(r, was->data, apart->data, bytes);
    for (int k = INPUTS[r->function]; k < r->pointers && r->at[k] >= 0; k++) {
        for (ptrdiff_t i = 0; i < r->n; i++)
            if (!same_element(arena->data + r->at[k] + i * size, apart->data + 24576 * k + i * size, dtypes[r->dtype]))
                return "a result depends on where the arrays lie";
        memcpy(was->data + r->at[k], arena->data + r->at[k], (size_t)bytes);
    }
    return memcmp(was->data, arena->data, ARENA) ? "more than the outputs was written" : NULL;
}

/* ---- its BatchNorm --------------------------------------------------------------------------------- */

enum { MOST_CHANNELS = 5, NORM_POINTERS = 5 };
enum { NORM_X, NORM_DY, NORM_OUT, NORM_TABLE, NORM_SMALL }; /* the last: dweight, and dbias behind it */

typedef struct {
    fastact_batch_norm bn;
    int backward, training;
    ptrdiff_t at[NORM_POINTERS];
} norm_request;

static const double WEIGHTS[MOST_CHANNELS] = {1.5, -0.25, 0.0, 3.0, 1e-3};

static norm_request draw_norm(drawing *d, int backward)
{
    static const ptrdiff_t outer[] = {1, 2, 3, 1, 2, 3, 0, -1}, channels[] = {1, 3, 5, 1, 3, 5, 0, -1},
                           inner[] = {1, 16, 49, 100, 16, 49, 0, PTRDIFF_MAX / 8};
    static const double eps[] = {1e-5, 0.0, 1.0, 1e-5, 0.0, 1.0, 1.0, -1.0};
    norm_request r = {.backward = backward, .training = (int)draw(d, 2)};
    r.bn = (fastact_batch_norm){.dtype = (int)draw(d, 6) - 1, .outer = DRAW_FROM(d, outer),
                                .channels = DRAW_FROM(d, channels), .inner = DRAW_FROM(d, inner)};
    r.bn.weight = draw(d, 2) ? WEIGHTS : NULL;
    r.bn.bias = draw(d, 2) ? WEIGHTS : NULL;
    r.bn.eps = DRAW_FROM(d, eps);
    r.bn.activation = (int)draw(d, (unsigned)fa_capi_table.count + 2) - 1;
    r.bn.parameters = draw(d, 4) ? PARAMETERS : NULL;
    for (int k = 0; k < NORM_POINTERS; k++) {
        const int is_double = k >= NORM_TABLE; /* aligned, then */
        const ptrdiff_t apart = 24576 * k, near = apart + (is_double ? 8 : 1);
        const ptrdiff_t where[] = {apart, apart, apart, apart, near, 0, 8, -1};
        r.at[k] = DRAW_FROM(d, where);
    }
    return r;
}

static int perform_norm(const norm_request *r, char *arena)
{
    void *p[NORM_POINTERS];
    for (int k = 0; k < NORM_POINTERS; k++)
        p[k] = r->at[k] < 0 ? NULL : arena + r->at[k];
    double *small = p[NORM_SMALL];
    if (!r->backward)
        return fa_capi_table.batch_norm_forward(&r->bn, r->training, p[NORM_X], p[NORM_OUT], p[NORM_TABLE]);
    return fa_capi_table.batch_norm_backward(&r->bn, r->training, p[NORM_DY], p[NORM_X], p[NORM_TABLE], p[NORM_OUT],
                                             small, small ? small + MOST_CHANNELS : NULL, NULL);
}

static ptrdiff_t norm_bytes(const norm_request *r, int k)
{
    static const ptrdiff_t sizes[] = {2, 2, 4, 8};
    const ptrdiff_t row = 8 * r->bn.channels;
    return k == NORM_TABLE   ? FASTACT_STATISTICS * row
           : k == NORM_SMALL ? 8 * MOST_CHANNELS + row
                             : r->bn.outer * r->bn.channels * r->bn.inner * sizes[r->bn.dtype];
}

/* With arrays that nothing overlaps the same comes out, and nothing else was written. */
static verdict check_norm(const norm_request *r, const array *arena, array *apart, array *was)
{
    static const fa_dtype dtypes[] = {FA_FLOAT16, FA_BFLOAT16, FA_FLOAT32, FA_FLOAT64};
    norm_request copy = *r;
    for (int k = 0; k < NORM_POINTERS; k++) {
        copy.at[k] = r->at[k] < 0 ? -1 : 24576 * k;
        if (r->at[k] >= 0)
            memcpy(apart->data + copy.at[k], was->data + r->at[k], (size_t)norm_bytes(r, k));
    }
    if (perform_norm(&copy, apart->data))
        return NULL; /* out of memory, this time */
    const int outputs[] = {NORM_OUT, r->backward ? NORM_SMALL : NORM_TABLE};
    for (int o = 0; o < 2; o++) {
        const int k = outputs[o];
        const fa_dtype dtype = k == NORM_OUT ? dtypes[r->bn.dtype] : FA_FLOAT64;
        const ptrdiff_t size = fa_itemsize[dtype], bytes = r->at[k] < 0 ? 0 : norm_bytes(r, k);
        for (ptrdiff_t i = 0; i < bytes; i += size)
            if (!same_element(arena->data + r->at[k] + i, apart->data + copy.at[k] + i, dtype))
                return "a result depends on where the arrays lie";
        if (bytes)
            memcpy(was->data + r->at[k], arena->data + r->at[k], (size_t)bytes);
    }
    return memcmp(was->data, arena->data, ARENA) ? "more than the outputs was written" : NULL;
}

static verdict norm_case(drawing *d, const surroundings *s, int backward)
{
    const norm_request r = draw_norm(d, backward);
    array arena = packed_array(FA_FLOAT32, ARENA / 4), apart = packed_array(FA_FLOAT32, ARENA / 4);
    fill(&arena, ORDINARY, 0.0, draw(d, 256));
    fill(&apart, ORDINARY, 0.0, 1);
    array was = pack(&arena, FA_FLOAT32);
    enter(s);
    const int status = perform_norm(&r, arena.data);
    verdict wrong = leave() ? NULL : "the caller's floating-point environment has changed";
    if (!wrong && status && status != FASTACT_NO_MEMORY)
        wrong = is_unchanged(&arena) ? NULL : "something was written although the call was refused";
    else if (!wrong && !status)
        wrong = check_norm(&r, &arena, &apart, &was);
    digest_number(CAPI, status == FASTACT_NO_MEMORY ? 0 : status);
    free_array(&arena), free_array(&apart), free_array(&was);
    return wrong;
}

/* ---- any of them ----------------------------------------------------------------------------------- */

verdict capi_case(drawing *d)
{
    const surroundings s = draw_surroundings(d);
    const int function = (int)draw(d, 2 * NO_FUNCTION);
    if (function >= NO_FUNCTION)
        return norm_case(d, &s, function % 2);
    const request r = draw_request(d, function);
    array arena = packed_array(FA_FLOAT32, ARENA / 4), apart = packed_array(FA_FLOAT32, ARENA / 4);
    fill(&arena, draw(d, 2) ? HOSTILE : ORDINARY, 0.0, draw(d, 256));
    array was = pack(&arena, FA_FLOAT32);
    enter(&s);
    const int status = perform(&r, arena.data);
    verdict wrong = leave() ? NULL : "the caller's floating-point environment has changed";
    if (!wrong && status)
        wrong = is_unchanged(&arena) ? NULL : "something was written although the call was refused";
    else if (!wrong)
        wrong = check_success(&r, &arena, &apart, &was);
    digest_number(CAPI, status);
    free_array(&arena), free_array(&apart), free_array(&was);
    return wrong;
}

/* ---- recycled memory -------------------------------------------------------------------------------- */

enum { SLOTS = 8 };

typedef struct {
    unsigned char *data;
    size_t size;
    unsigned char mark;
} slot;

static const size_t SIZES[] = {0, 1, 63, 64, 1000, FA_POOL_THRESHOLD - 1, FA_POOL_THRESHOLD, FA_POOL_THRESHOLD + 1,
                               300000, 1 << 20, (1 << 21) - 64, 1 << 21, 3000000, SIZE_MAX, SIZE_MAX / 4};

static void mark(slot *s, unsigned char with)
{
    s->mark = with;
    if (s->data)
        memset(s->data, with, s->size);
}

static int is_marked(const slot *s, size_t n)
{
    for (size_t i = 0; s->data && i < n; i += 1 + (n - i > 200 ? 97 : 0))
        if (s->data[i] != s->mark)
            return 0;
    return 1;
}

static void discard(slot *s)
{
    fa_pool_free(NULL, s->data, 0);
    *s = (slot){0};
}

static verdict reallocate(slot *s, size_t size)
{
    unsigned char *moved = fa_pool_realloc(NULL, s->data, size);
    if (!moved)
        return is_marked(s, s->size) ? NULL : "a failed realloc changed the block";
    s->data = moved;
    const size_t common = s->size < size ? s->size : size;
    if (!is_marked(s, common))
        return "realloc lost the content";
    s->size = size;
    return NULL;
}

static verdict new_slot(slot *s, size_t size, int zeroed)
{
    discard(s);
    s->data = zeroed ? fa_pool_calloc(NULL, 1, size) : fa_pool_malloc(NULL, size);
    s->size = s->data ? size : 0;
    s->mark = 0;
    if ((uintptr_t)s->data % 64)
        return "a block is not aligned";
    return !zeroed || is_marked(s, s->size) ? NULL : "calloc gave memory that is not zero";
}

static verdict pool_step(drawing *d, slot *slots, size_t *limit)
{
    slot *s = &slots[draw(d, SLOTS)];
    const size_t size = DRAW_FROM(d, SIZES);
    verdict wrong = NULL;
    if (!is_marked(s, s->size))
        return "a block was written by somebody else";
    now_here.allocations = (int)draw(d, 8) - 1 > 2 ? -1 : (int)draw(d, 3);
    switch (draw(d, 8)) {
    case 0: discard(s); break;
    case 1: fa_pool_trim(); break;
    case 2: fa_pool_configure(*limit = size % (8 << 20), 1); break;
    case 3: case 4: wrong = reallocate(s, size); break;
    default: wrong = new_slot(s, size, (int)draw(d, 2));
    }
    now_here.allocations = -1;
    mark(s, (unsigned char)(1 + draw(d, 255)));
    return wrong ? wrong : fa_pool_get_stats().kept > *limit ? "more is kept than the limit allows" : NULL;
}

verdict pool_case(drawing *d)
{
    slot slots[SLOTS] = {{0}};
    size_t limit = 4 << 20;
    verdict wrong = NULL;
    fa_pool_configure(limit, 1);
    for (int step = 0; step < 24 && !wrong; step++)
        wrong = pool_step(d, slots, &limit);
    for (int k = 0; k < SLOTS; k++)
        discard(&slots[k]);
    const fa_pool_stats stats = fa_pool_get_stats();
    fa_pool_trim();
    digest_number(POOL, (double)stats.kept);
    if (!wrong && (stats.in_use || stats.blocks_in_use || fa_pool_get_stats().kept))
        wrong = "the books of the recycled memory do not balance";
    return wrong;
}
