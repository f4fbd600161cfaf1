/* x86-64 with AVX-512 F, BW, DQ and VL. */
#include <immintrin.h>
#define FA_ISA avx512
#define FA_VEC_BYTES 64
#define FA_VEC_FMA(a, b, c) ((fa_vec)_mm512_fmadd_pd((__m512d)(a), (__m512d)(b), (__m512d)(c)))
#define FA_VEC_WIDEN(p) ((fa_vec)_mm512_cvtps_pd(_mm256_loadu_ps(p)))
#define FA_STREAM(p, v) _mm512_stream_pd((void *)(p), (__m512d)(v))
#include "isa.inc"
