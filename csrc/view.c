#include "view.h"

#include <stdint.h>

fa_view fa_make_view(char *data, fa_dtype dtype, int ndim, const ptrdiff_t *shape, const ptrdiff_t *strides,
                     int axis)
{
    fa_view v = {.data = data, .dtype = dtype, .channel_stride = strides[axis]};
    v.end = data + fa_itemsize[dtype];
    for (int a = 0; a < ndim; a++) {
        if (strides[a] > 0)
            v.end += (shape[a] - 1) * strides[a];
        if (a == axis || shape[a] == 1)
            continue;
        int last = v.ndim - 1;
        if (v.ndim && v.strides[last] == strides[a] * shape[a]) {
            v.shape[last] *= shape[a];
            v.strides[last] = strides[a];
        } else {
            v.shape[v.ndim] = shape[a];
            v.strides[v.ndim++] = strides[a];
        }
    }
    if (v.ndim == 0) {
        v.shape[0] = 1;
        v.strides[0] = fa_itemsize[dtype];
        v.ndim = 1;
    }
    return v;
}

/* The address of element k, and how many follow it on the last axis (itself included). */
static char *address(const fa_view *v, ptrdiff_t channel, ptrdiff_t k, ptrdiff_t *left)
{
    char *p = v->data + channel * v->channel_stride;
    const int last = v->ndim - 1;
    *left = v->shape[last] - (last ? k % v->shape[last] : k);
    for (int a = last; a > 0; a--) {
        p += k % v->shape[a] * v->strides[a];
        k /= v->shape[a];
    }
    return p + k * v->strides[0];
}

char *fa_view_address(const fa_view *v, ptrdiff_t channel, ptrdiff_t k)
{
    ptrdiff_t left;
    return address(v, channel, k, &left);
}

int fa_view_is_aligned(const fa_view *v)
{
    const ptrdiff_t size = fa_itemsize[v->dtype];
    int aligned = (uintptr_t)v->data % (uintptr_t)size == 0 && v->channel_stride % size == 0;
    for (int a = 0; a < v->ndim; a++)
        aligned = aligned && v->strides[a] % size == 0;
    return aligned;
}

/* Calls fa_gather or fa_scatter on each part of the range that lies on one run of the last axis. */
#define FOR_EACH_PART(...)                                                                             \
    const fa_dtype tile_dtype = fa_tile_dtype(v->dtype);                                               \
    const ptrdiff_t size = fa_itemsize[tile_dtype], stride = v->strides[v->ndim - 1];                  \
    while (n > 0) {                                                                                    \
        ptrdiff_t left;                                                                                \
        char *p = address(v, channel, k, &left);                                                       \
        if (left > n)                                                                                  \
            left = n;                                                                                  \
        __VA_ARGS__;                                                                                   \
        k += left;                                                                                     \
        n -= left;                                                                                     \
        at += left * size;                                                                             \
    }

#define FETCH(for_writing)                                                                             \
    while (n > 0) {                                                                                    \
        ptrdiff_t left;                                                                                \
        const char *p = address(v, channel, k, &left), *end;                                           \
        left = left < n ? left : n;                                                                    \
        for (end = p + left * fa_itemsize[v->dtype]; p < end; p += 64)                                 \
            __builtin_prefetch(p, for_writing, 2);                                                     \
        k += left;                                                                                     \
        n -= left;                                                                                     \
    }

void fa_view_fetch(const fa_view *v, ptrdiff_t channel, ptrdiff_t k, ptrdiff_t n)
{
    FETCH(0)
}

void fa_view_fetch_to_write(const fa_view *v, ptrdiff_t channel, ptrdiff_t k, ptrdiff_t n)
{
    FETCH(1)
}

void fa_view_read(const fa_view *v, ptrdiff_t channel, ptrdiff_t k, ptrdiff_t n, void *tile)
{
    char *at = tile;
    FOR_EACH_PART(fa_gather(p, v->dtype, stride, left, at, tile_dtype))
}

void fa_view_write(const fa_view *v, ptrdiff_t channel, ptrdiff_t k, ptrdiff_t n, const void *tile)
{
    const char *at = tile;
    FOR_EACH_PART(fa_scatter(at, tile_dtype, left, p, v->dtype, stride))
}

int fa_view_channels_last(const fa_view *v)
{
    return v->channel_stride == fa_itemsize[v->dtype] && v->ndim == 1 &&
           (uintptr_t)v->data % (uintptr_t)fa_itemsize[v->dtype] == 0 &&
           v->strides[0] % fa_itemsize[v->dtype] == 0 && v->shape[0] > 1 &&
           v->strides[0] != fa_itemsize[v->dtype];
}
