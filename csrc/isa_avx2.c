/* x86-64 with AVX2 and FMA. */
#include <immintrin.h>
#define FA_ISA avx2
#define FA_VEC_BYTES 32
#define FA_VEC_FMA(a, b, c) ((fa_vec)_mm256_fmadd_pd((__m256d)(a), (__m256d)(b), (__m256d)(c)))
#define FA_VEC_WIDEN(p) ((fa_vec)_mm256_cvtps_pd(_mm_loadu_ps(p)))
#define FA_STREAM(p, v) _mm256_stream_pd((void *)(p), (__m256d)(v))
#include "isa.inc"
