/* What csrc/isa_avx512.c takes of AVX-512, element by element, for machines without it: kernel_bits.py includes this
 * before it. What the instructions do is from Intel's Intrinsics Guide. */
#ifndef FASTACT_AVX512_EMULATED_H
#define FASTACT_AVX512_EMULATED_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define EACH(i, n) for (int i = 0; i < (n); i++)

static inline __m512 emulated_castps128(__m128 a) {
    __m512 v = {0};
    EACH(i, 4) v[i] = a[i];
    return v;
}
static inline __m512 emulated_castps256(__m256 a) {
    __m512 v = {0};
    EACH(i, 8) v[i] = a[i];
    return v;
}
static inline __m512 emulated_insertf32x4(__m512 v, __m128 a, int k) {
    EACH(i, 4) v[4 * k + i] = a[i];
    return v;
}
static inline __m512 emulated_insertf32x8(__m512 v, __m256 a, int k) {
    EACH(i, 8) v[8 * k + i] = a[i];
    return v;
}
static inline __m512d emulated_fmadd_pd(__m512d a, __m512d b, __m512d c) {
    EACH(i, 8) c[i] = __builtin_fma(a[i], b[i], c[i]);
    return c;
}
static inline __m512 emulated_fmadd_ps(__m512 a, __m512 b, __m512 c) {
    EACH(i, 16) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return c;
}
static inline __m256 emulated_cvtpd_ps(__m512d a) {
    __m256 v = {0};
    EACH(i, 8) v[i] = (float)a[i];
    return v;
}
static inline __m512d emulated_cvtps_pd(__m256 a) {
    __m512d v = {0};
    EACH(i, 8) v[i] = a[i];
    return v;
}
static inline void emulated_stream_pd(void *p, __m512d v) { memcpy(p, &v, sizeof v); }
static inline __m512i emulated_loadu(const void *p) {
    __m512i v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline __m512i emulated_set1_epi32(int a) {
    int all[16];
    EACH(i, 16) all[i] = a;
    return emulated_loadu(all);
}
static inline unsigned emulated_cmpgt_epu32(__m512i a, __m512i b) {
    uint32_t x[16], y[16];
    unsigned mask = 0;
    memcpy(x, &a, sizeof x), memcpy(y, &b, sizeof y);
    EACH(i, 16) mask |= (unsigned)(x[i] > y[i]) << i;
    return mask;
}

/* Unpacking goes by lanes of 128 bits: `from` 0 for their lower halves, and for the upper ones half a lane. */
static inline __m512 emulated_unpack_ps(__m512 a, __m512 b, int from) {
    __m512 v = {0};
    EACH(lane, 4) EACH(i, 2) {
        v[4 * lane + 2 * i] = a[4 * lane + from + i];
        v[4 * lane + 2 * i + 1] = b[4 * lane + from + i];
    }
    return v;
}
static inline __m512d emulated_unpack_pd(__m512d a, __m512d b, int from) {
    __m512d v = {0};
    EACH(lane, 4) v[2 * lane] = a[2 * lane + from], v[2 * lane + 1] = b[2 * lane + from];
    return v;
}

#define _mm512_castps128_ps512 emulated_castps128
#define _mm512_castps256_ps512 emulated_castps256
#define _mm512_insertf32x4 emulated_insertf32x4
#define _mm512_insertf32x8 emulated_insertf32x8
#define _mm512_fmadd_pd emulated_fmadd_pd
#define _mm512_fmadd_ps emulated_fmadd_ps
#define _mm512_cvtpd_ps emulated_cvtpd_ps
#define _mm512_cvtps_pd emulated_cvtps_pd
#define _mm512_stream_pd emulated_stream_pd
#define _mm512_loadu_si512 emulated_loadu
#define _mm512_set1_epi32 emulated_set1_epi32
#define _mm512_cmpgt_epu32_mask emulated_cmpgt_epu32
#define _mm512_unpacklo_ps(a, b) emulated_unpack_ps((a), (b), 0)
#define _mm512_unpackhi_ps(a, b) emulated_unpack_ps((a), (b), 2)
#define _mm512_unpacklo_pd(a, b) emulated_unpack_pd((a), (b), 0)
#define _mm512_unpackhi_pd(a, b) emulated_unpack_pd((a), (b), 1)

#endif
