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

static request draw_request(drawing *d)
{
    static const ptrdiff_t lengths[] = {0, 1, 5, 16, 100, 1024, 3000, -1, PTRDIFF_MIN, PTRDIFF_MAX};
    request r = {.function = (int)draw(d, NO_FUNCTION), .dtype = (int)draw(d, 6) - 1};
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

verdict capi_case(drawing *d)
{
    const surroundings s = draw_surroundings(d);
    const request r = draw_request(d);
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
