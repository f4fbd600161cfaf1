/* Calls of fastact's C functions that are made from bytes, without Python.
 *
 * A case is a string of bytes.  It decides which function is called, on arrays of which dtypes, shapes, strides
 * and alignment, in which floating-point environment, on how many threads.  The result must be, bit for bit, that
 * of the plainest call (packed arrays, one thread, nothing streamed); no byte that belongs to no element of an
 * output may change, nor the floating-point environment of the caller.  harness.c runs random cases, fuzz.c those
 * that a fuzzer finds; sanitizers, valgrind, emulators and coverage all run the same. */
#ifndef FASTACT_NATIVE_H
#define FASTACT_NATIVE_H

#include <stddef.h>
#include <stdint.h>

#include "strided.h"

/* ---- bytes ---------------------------------------------------------------------------------------- */

typedef struct {
    const uint8_t *at, *end;
} drawing;

/* 0 .. below - 1; 0 once the bytes are used up. */
unsigned draw(drawing *d, unsigned below);
/* One of the values of an array. */
#define DRAW_FROM(d, values) ((values)[draw((d), sizeof(values) / sizeof *(values))])

uint64_t mix(uint64_t z);

/* ---- arrays --------------------------------------------------------------------------------------- */

typedef struct {
    fa_dtype dtype;
    int ndim;
    ptrdiff_t size, shape[FA_MAX_NDIM], strides[FA_MAX_NDIM];
    char *data; /* the first element */
    unsigned char *memory, *before; /* with the guards, and as it was */
    size_t bytes;
} array;

typedef enum { PACKED, ANY_INPUT, ANY_OUTPUT } layout; /* a stride of 0: for inputs alone */
typedef enum { ORDINARY, HOSTILE } content;            /* the latter: any bit patterns, and hard ones often */

array new_array(drawing *d, layout how, fa_dtype dtype, int ndim, const ptrdiff_t *shape);
array packed_array(fa_dtype dtype, ptrdiff_t n);
void fill(array *a, content what, double mean, uint64_t seed);
void remember(array *a); /* what the bytes are now */
void free_array(array *a);
/* The address of element `index`, counted in C order. */
char *element(const array *a, ptrdiff_t index);
/* Whether no byte has changed since remember(); whether none has that belongs to no element. */
int is_unchanged(const array *a);
int is_unchanged_but_elements(array *a);
/* All elements in C order, as a packed array of another dtype. */
array pack(const array *a, fa_dtype dtype);
/* Whether elements are the same, all NaN being one. */
int same_element(const char *a, const char *b, fa_dtype dtype);
int same_elements(const array *a, const array *b);

/* ---- what a call meets (wrap.c) ------------------------------------------------------------------- */

typedef struct {
    int threads, streams; /* of each call, whatever its size */
    ptrdiff_t l2, llc;    /* the caches' sizes */
    int allocations;      /* that succeed; then one fails; -1: all do */
    unsigned floats;      /* which floating-point environment the caller has */
} surroundings;

extern surroundings now_here;
extern const surroundings plainest;

surroundings draw_surroundings(drawing *d);
/* Both around the call under test; the latter tells whether the caller's environment is as it was. */
void enter(const surroundings *s);
int leave(void);

/* ---- cases ---------------------------------------------------------------------------------------- */

/* NULL, or what is wrong. */
typedef const char *verdict;

verdict elementwise_case(drawing *d);
verdict ufunc_case(drawing *d);
verdict batchnorm_case(drawing *d);
verdict gradient_case(drawing *d);
verdict capi_case(drawing *d);
verdict pool_case(drawing *d);
verdict merge_case(drawing *d);

verdict run_case(const uint8_t *bytes, size_t n);

enum { KINDS = 7 };
extern const char *const kind_names[KINDS];
/* Of the results of each kind so far, the same for each machine that runs the same instruction set. */
extern uint64_t digests[KINDS];
void digest(int kind, const array *a);
void digest_number(int kind, double value);
enum { ELEMENTWISE, UFUNC, BATCHNORM, GRADIENT, CAPI, POOL, MERGE };

#endif
