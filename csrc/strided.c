#include "strided.h"

#include <stdint.h>
#include <string.h>

#include "dispatch.h"

const ptrdiff_t fa_itemsize[FA_DTYPE_COUNT] = {1, 1, 2, 2, 4, 4, 8, 8, 4, 8, 2, 2};

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

static void u16_to_u16(const char *src, ptrdiff_t src_stride, char *dst, ptrdiff_t dst_stride, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++)
        memcpy(dst + i * dst_stride, src + i * src_stride, sizeof(uint16_t));
}

typedef void (*copy_fn)(const char *, ptrdiff_t, char *, ptrdiff_t, ptrdiff_t);
static const copy_fn copies[FA_FLOAT64 + 1][2] = {
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

const fa_half_kernels *fa_half_kernels_of(fa_dtype dtype)
{
    return dtype == FA_FLOAT16 ? &fa_active()->f16 : &fa_active()->bf16;
}

const fa_real_kernels *fa_kernels_for(fa_dtype real)
{
    const fa_isa_table *isa = fa_active();
    return fa_is_half(real) ? &isa->half : real == FA_FLOAT32 ? &isa->f32 : &isa->f64;
}

enum { CHUNK = 256, SIZE = sizeof(uint16_t) };

static void gather_half(const char *src, fa_dtype from, ptrdiff_t stride, ptrdiff_t n, char *tile, fa_dtype to)
{
    const int in_place = stride == SIZE && (uintptr_t)src % SIZE == 0;
    uint16_t packed[CHUNK];
    double wide[CHUNK];
    for (ptrdiff_t i = 0; i < n; i += CHUNK) {
        const ptrdiff_t m = n - i < CHUNK ? n - i : CHUNK;
        const char *at = src + i * stride;
        if (!in_place)
            u16_to_u16(at, stride, (char *)packed, SIZE, m);
        fa_half_kernels_of(from)->widen(in_place ? at : (char *)packed,
                                  to == FA_FLOAT64 ? (double *)tile + i : wide, m);
        if (to == FA_FLOAT32)
            f64_to_f32((char *)wide, sizeof(double), tile + i * (ptrdiff_t)sizeof(float), sizeof(float), m);
    }
}

static void scatter_half(const char *tile, fa_dtype from, ptrdiff_t n, char *dst, fa_dtype to, ptrdiff_t stride)
{
    const int in_place = stride == SIZE && (uintptr_t)dst % SIZE == 0;
    uint16_t packed[CHUNK];
    double wide[CHUNK];
    for (ptrdiff_t i = 0; i < n; i += CHUNK) {
        const ptrdiff_t m = n - i < CHUNK ? n - i : CHUNK;
        char *at = dst + i * stride;
        if (from == FA_FLOAT32)
            f32_to_f64(tile + i * (ptrdiff_t)sizeof(float), sizeof(float), (char *)wide, sizeof(double), m);
        fa_half_kernels_of(to)->narrow(from == FA_FLOAT64 ? (const double *)tile + i : wide,
                                 in_place ? at : (char *)packed, m);
        if (!in_place)
            u16_to_u16((char *)packed, SIZE, at, stride, m);
    }
}

void fa_gather(const char *src, fa_dtype from, ptrdiff_t stride, ptrdiff_t n, void *tile, fa_dtype to)
{
    if (fa_is_half(from))
        gather_half(src, from, stride, n, tile, to);
    else
        copy(src, from, stride, tile, to, fa_itemsize[to], n);
}

void fa_scatter(const void *tile, fa_dtype from, ptrdiff_t n, char *dst, fa_dtype to, ptrdiff_t stride)
{
    if (fa_is_half(to))
        scatter_half(tile, from, n, dst, to, stride);
    else
        copy(tile, from, fa_itemsize[from], dst, to, stride, n);
}
