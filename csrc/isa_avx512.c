/* x86-64 with AVX-512 F, BW, DQ and VL. */
#include <immintrin.h>
#define FA_ISA avx512
#define FA_VEC_BYTES 64
#define FA_VEC_FMA(a, b, c) ((fa_vec)_mm512_fmadd_pd((__m512d)(a), (__m512d)(b), (__m512d)(c)))
#define FA_VEC_WIDEN(p) ((fa_vec)_mm512_cvtps_pd(_mm256_loadu_ps(p)))
#define FA_VEC_NARROW(a, b)                                                                            \
    ((fa_vec_f32)_mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps((__m512d)(a))),             \
                                    _mm512_cvtpd_ps((__m512d)(b)), 1))
#define FA_VEC_FMA_F32(a, b, c) ((fa_vec_f32)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define FA_STREAM(p, v) _mm512_stream_pd((void *)(p), (__m512d)(v))
#include "isa.inc"
