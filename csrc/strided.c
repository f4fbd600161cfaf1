#include "strided.h"

#include <stdint.h>
#include <string.h>

const ptrdiff_t fa_itemsize[FA_DTYPE_COUNT] = {1, 1, 2, 2, 4, 4, 8, 8, 4, 8};

/* memcpy instead of a typed load: a field of a packed record may be misaligned. */
#define DEFINE_COPY(name, from, to)                                                                    \
    static void name(const char *src, ptrdiff_t src_stride, char *dst, ptrdiff_t dst_stride, ptrdiff_t n) \
    {                                                                                                  \
        for (ptrdiff_t i = 0; i < n; i++) {                                                            \
            from in;                                                                                   \
            to out;                                                                                    \
            memcpy(&in, src + i * src_stride, sizeof in);                                              \
            out = (to)in;                                                                              \
            memcpy(dst + i * dst_stride, &out, sizeof out);                                            \
        }                                                                                              \
    }

#define DEFINE_COPIES(tag, ctype)                                                                      \
    DEFINE_COPY(tag##_to_f32, ctype, float)                                                            \
    DEFINE_COPY(tag##_to_f64, ctype, double)

DEFINE_COPIES(i8, int8_t)
DEFINE_COPIES(u8, uint8_t)
DEFINE_COPIES(i16, int16_t)
DEFINE_COPIES(u16, uint16_t)
DEFINE_COPIES(i32, int32_t)
DEFINE_COPIES(u32, uint32_t)
DEFINE_COPIES(i64, int64_t)
DEFINE_COPIES(u64, uint64_t)
DEFINE_COPIES(f32, float)
DEFINE_COPIES(f64, double)

typedef void (*copy_fn)(const char *, ptrdiff_t, char *, ptrdiff_t, ptrdiff_t);
static const copy_fn copies[FA_DTYPE_COUNT][2] = {
    {i8_to_f32, i8_to_f64},   {u8_to_f32, u8_to_f64},   {i16_to_f32, i16_to_f64}, {u16_to_f32, u16_to_f64},
    {i32_to_f32, i32_to_f64}, {u32_to_f32, u32_to_f64}, {i64_to_f32, i64_to_f64}, {u64_to_f32, u64_to_f64},
    {f32_to_f32, f32_to_f64}, {f64_to_f32, f64_to_f64},
};

static void copy(const char *src, fa_dtype from, ptrdiff_t src_stride, char *dst, fa_dtype to,
                 ptrdiff_t dst_stride, ptrdiff_t n)
{
    if (from == to && src_stride == fa_itemsize[from] && dst_stride == src_stride)
        memmove(dst, src, (size_t)(n * src_stride));
    else
        copies[from][to == FA_FLOAT64](src, src_stride, dst, dst_stride, n);
}

void fa_gather(const char *src, fa_dtype from, ptrdiff_t stride, ptrdiff_t n, void *tile, fa_dtype to)
{
    copy(src, from, stride, tile, to, fa_itemsize[to], n);
}

void fa_scatter(const void *tile, fa_dtype from, ptrdiff_t n, char *dst, fa_dtype to, ptrdiff_t stride)
{
    copy(tile, from, fa_itemsize[from], dst, to, stride, n);
}
