/* Arrays of any strides between guards, and what is in them. */
#include <stdlib.h>
#include <string.h>

#include "native.h"

/* AddressSanitizer sees what lies beyond an allocation better than guards do, reads too. */
#if defined(__SANITIZE_ADDRESS__)
#define GUARD 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define GUARD 0
#endif
#endif
#if !defined(GUARD)
#define GUARD 128
#endif

enum { MOST_BYTES = 1 << 26 };

unsigned draw(drawing *d, unsigned below)
{
    unsigned value = d->at < d->end ? *d->at++ : 0;
    if (below > 256)
        value = value << 8 | (d->at < d->end ? *d->at++ : 0);
    return value % below;
}

uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* ---- layout --------------------------------------------------------------------------------------- */

static void draw_order(drawing *d, int ndim, int *order)
{
    for (int i = 0; i < ndim; i++)
        order[i] = i;
    if (draw(d, 2))
        return;
    for (int i = ndim - 1; i > 0; i--) {
        const int other = (int)draw(d, (unsigned)i + 1), axis = order[i];
        order[i] = order[other];
        order[other] = axis;
    }
}

/* `step`: bytes that the axes inside this one take.  Many axes of one element, each twice as far apart, would leave
 * the memory. */
static ptrdiff_t draw_stride(drawing *d, layout how, ptrdiff_t step)
{
    if (step > 1 << 24)
        return step;
    switch (draw(d, 16)) {
    case 1: return how == ANY_INPUT ? 0 : step;
    case 2: return -step;
    case 3: return 2 * step;
    case 4: return step + 1;
    case 5: return step + 64;
    default: return step;
    }
}

static void pack_layout(array *a)
{
    ptrdiff_t step = fa_itemsize[a->dtype];
    for (int axis = a->ndim - 1; axis >= 0; axis--) {
        a->strides[axis] = step;
        step *= a->size ? a->shape[axis] : 1; /* without elements the others may be of any length */
    }
}

static void draw_layout(array *a, drawing *d, layout how)
{
    int order[FA_MAX_NDIM];
    ptrdiff_t step = fa_itemsize[a->dtype];
    draw_order(d, a->ndim, order);
    for (int i = a->ndim - 1; i >= 0; i--) {
        const ptrdiff_t stride = a->strides[order[i]] = draw_stride(d, how, step);
        if (stride && a->size)
            step = (stride < 0 ? -stride : stride) * a->shape[order[i]];
    }
}

/* The bytes that the elements reach before the first, and after its beginning. */
static void find_extent(const array *a, size_t *before, size_t *after)
{
    ptrdiff_t low = 0, high = fa_itemsize[a->dtype];
    for (int axis = 0; axis < a->ndim; axis++) {
        const ptrdiff_t reach = a->strides[axis] * (a->shape[axis] - 1);
        *(reach < 0 ? &low : &high) += reach;
    }
    *before = a->size ? (size_t)-low : 0;
    *after = a->size ? (size_t)high : 0;
}

array new_array(drawing *d, layout how, fa_dtype dtype, int ndim, const ptrdiff_t *shape)
{
    array a = {.dtype = dtype, .ndim = ndim, .size = 1};
    size_t before, after, offset = 0;
    for (int axis = 0; axis < ndim; axis++)
        a.size *= a.shape[axis] = shape[axis];
    if (how == PACKED) {
        pack_layout(&a);
    } else {
        draw_layout(&a, d, how);
        const unsigned place = draw(d, 4); /* within an element, or within a line, as large arrays of the C library begin */
        offset = place == 0 ? draw(d, (unsigned)fa_itemsize[dtype]) : place == 1 ? 16 : 0;
    }
    find_extent(&a, &before, &after);
    if (before + after > MOST_BYTES) { /* large steps along many axes */
        pack_layout(&a);
        find_extent(&a, &before, &after);
    }
    a.bytes = 2 * GUARD + offset + before + after;
    /* large ones at a page, as the pool has them: so addresses modulo 4 KiB are no matter of luck */
    const size_t alignment = a.bytes < 4096 ? 64 : 4096;
    if (posix_memalign((void **)&a.memory, alignment, a.bytes + !a.bytes) || !(a.before = malloc(a.bytes + !a.bytes)))
        abort();
    memset(a.memory, 0xA5, a.bytes);
    a.data = (char *)a.memory + GUARD + offset + before;
    return a;
}

array packed_array(fa_dtype dtype, ptrdiff_t n)
{
    return new_array(NULL, PACKED, dtype, 1, &n);
}

void free_array(array *a)
{
    free(a->memory);
    free(a->before);
    *a = (array){0};
}

char *element(const array *a, ptrdiff_t index)
{
    char *at = a->data;
    for (int axis = a->ndim - 1; axis >= 0; axis--) {
        at += index % a->shape[axis] * a->strides[axis];
        index /= a->shape[axis];
    }
    return at;
}

/* ---- content -------------------------------------------------------------------------------------- */

static const double HARD[] = {
    0.0, -0.0, 1.0, -1.0, 3.0, -3.0, 6.0, 0.5, -0.5, 1e-310, -4e-324, 1e-40, -1e-45, 1e-8, 89.0, -104.0, 710.0,
    -746.0, 65504.0, 3.4028234663852886e38, 1.7976931348623157e308, -1.7976931348623157e308,
    __builtin_inf(), -__builtin_inf(), __builtin_nan(""),
};

/* A number of dtype's; a conversion of what it cannot hold would be undefined. */
static double within(double value, fa_dtype dtype)
{
    const double largest = 3.4028234663852886e38;
    if (dtype == FA_FLOAT64 || value != value || value - value != 0)
        return value;
    return value > largest ? largest : value < -largest ? -largest : value;
}

static double number(content what, double mean, uint64_t bits)
{
    const double ordinary = mean + ((double)(int64_t)(bits >> 12) * 0x1p-52 - 0.5) * 16.0;
    return what == HOSTILE && bits % 4 == 0 ? HARD[bits / 4 % (sizeof HARD / sizeof *HARD)] : ordinary;
}

void fill(array *a, content what, double mean, uint64_t seed)
{
    for (ptrdiff_t i = 0; i < a->size; i++) {
        const uint64_t bits = mix(seed + (uint64_t)i);
        const double value = within(number(what, mean, bits), a->dtype);
        if (a->dtype < FA_FLOAT32 || (what == HOSTILE && bits % 8 == 1))
            memcpy(element(a, i), (const char *)&bits, (size_t)fa_itemsize[a->dtype]);
        else
            fa_scatter(&value, FA_FLOAT64, 1, element(a, i), a->dtype, 0);
    }
    remember(a);
}

void remember(array *a)
{
    memcpy(a->before, a->memory, a->bytes);
}

int is_unchanged(const array *a)
{
    return !memcmp(a->memory, a->before, a->bytes);
}

int is_unchanged_but_elements(array *a)
{
    for (ptrdiff_t i = 0; i < a->size; i++) {
        const char *at = element(a, i);
        memcpy(a->before + ((const unsigned char *)at - a->memory), at, (size_t)fa_itemsize[a->dtype]);
    }
    return is_unchanged(a);
}

/* ---- comparison ----------------------------------------------------------------------------------- */

static void convert(const char *from, fa_dtype dtype, char *to, fa_dtype real)
{
    double wide;
    if (dtype == real) {
        memcpy(to, from, (size_t)fa_itemsize[real]);
    } else if (fa_is_half(real)) {
        fa_gather(from, dtype, 0, 1, &wide, FA_FLOAT64);
        fa_scatter(&wide, FA_FLOAT64, 1, to, real, 0);
    } else {
        fa_gather(from, dtype, 0, 1, to, real);
    }
}

array pack(const array *a, fa_dtype dtype)
{
    array p = packed_array(dtype, a->size);
    for (ptrdiff_t i = 0; i < a->size; i++)
        convert(element(a, i), a->dtype, element(&p, i), dtype);
    remember(&p);
    return p;
}

static double value_of(const char *at, fa_dtype dtype)
{
    double value;
    fa_gather(at, dtype, 0, 1, &value, FA_FLOAT64);
    return value;
}

int same_element(const char *a, const char *b, fa_dtype dtype)
{
    const double x = value_of(a, dtype), y = value_of(b, dtype);
    return (x != x && y != y) || !memcmp(&x, &y, sizeof x);
}

int same_elements(const array *a, const array *b)
{
    for (ptrdiff_t i = 0; i < a->size; i++)
        if (!same_element(element(a, i), element(b, i), a->dtype))
            return 0;
    return 1;
}

/* ---- digests -------------------------------------------------------------------------------------- */

uint64_t digests[KINDS];

void digest_number(int kind, double value)
{
    uint64_t bits = 1; /* any NaN */
    if (value == value)
        memcpy(&bits, &value, sizeof bits);
    digests[kind] = mix(digests[kind] + bits);
}

void digest(int kind, const array *a)
{
    for (ptrdiff_t i = 0; i < a->size; i++)
        digest_number(kind, value_of(element(a, i), a->dtype));
}
