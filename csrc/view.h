/* An array seen channel by channel: element k of channel c, in logical (batch-major) order. */
#ifndef FASTACT_VIEW_H
#define FASTACT_VIEW_H

#include "fastact.h"
#include "strided.h"

typedef struct {
    char *data;
    fa_dtype dtype;
    ptrdiff_t channel_stride; /* bytes */
    char *end;                /* past the last byte: up to here memory may be read */
    int ndim;                 /* axes other than the channel's, merged where memory allows; at least 1 */
    ptrdiff_t shape[FA_MAX_NDIM];
    ptrdiff_t strides[FA_MAX_NDIM];
} fa_view;

fa_view fa_make_view(char *data, fa_dtype dtype, int ndim, const ptrdiff_t *shape, const ptrdiff_t *strides,
                     int axis);

char *fa_view_address(const fa_view *v, ptrdiff_t channel, ptrdiff_t k);
/* Whether every element's address is a multiple of its size. */
int fa_view_is_aligned(const fa_view *v);
/* Asks the caches for elements that will be read or written soon. */
void fa_view_fetch(const fa_view *v, ptrdiff_t channel, ptrdiff_t k, ptrdiff_t n);
void fa_view_fetch_to_write(const fa_view *v, ptrdiff_t channel, ptrdiff_t k, ptrdiff_t n);
void fa_view_read(const fa_view *v, ptrdiff_t channel, ptrdiff_t k, ptrdiff_t n, void *tile);
void fa_view_write(const fa_view *v, ptrdiff_t channel, ptrdiff_t k, ptrdiff_t n, const void *tile);

/* Whether the channels of an element lie side by side and the elements a fixed stride apart. */
int fa_view_channels_last(const fa_view *v);

#endif
