/* x86-64 with AVX2 and FMA. */
#include <immintrin.h>
#define FA_ISA avx2
#define FA_VEC_BYTES 32
#define FA_VEC_FMA(a, b, c) ((fa_vec)_mm256_fmadd_pd((__m256d)(a), (__m256d)(b), (__m256d)(c)))
#define FA_VEC_WIDEN(p) ((fa_vec)_mm256_cvtps_pd(_mm_loadu_ps(p)))
#define FA_VEC_NARROW(a, b)                                                                            \
    ((fa_vec_f32)_mm256_insertf128_ps(_mm256_castps128_ps256(_mm256_cvtpd_ps((__m256d)(a))),           \
                                      _mm256_cvtpd_ps((__m256d)(b)), 1))
#define FA_VEC_FMA_F32(a, b, c) ((fa_vec_f32)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define FA_STREAM(p, v) _mm256_stream_pd((void *)(p), (__m256d)(v))
#include "isa.inc"
