/* Vectors of float32 beside those of float64 (isa.inc), of one instruction set; for batchnorm.inc.
 *
 *     FA_VEC_NARROW(a, b)          two vectors of float64, rounded to one of float32
 *     FA_VEC_FMA_F32(a, b, c)      FA_VEC_FMA of float32 */
typedef float fa_vec_f32 __attribute__((vector_size(FA_VEC_BYTES)));

#if FA_VEC_BYTES == 64
#define FA_VEC_NARROW(a, b)                                                                            \
    ((fa_vec_f32)_mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps((__m512d)(a))),             \
                                    _mm512_cvtpd_ps((__m512d)(b)), 1))
#define FA_VEC_FMA_F32(a, b, c) ((fa_vec_f32)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#elif FA_VEC_BYTES == 32
#define FA_VEC_NARROW(a, b)                                                                            \
    ((fa_vec_f32)_mm256_insertf128_ps(_mm256_castps128_ps256(_mm256_cvtpd_ps((__m256d)(a))),           \
                                      _mm256_cvtpd_ps((__m256d)(b)), 1))
#define FA_VEC_FMA_F32(a, b, c) ((fa_vec_f32)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#else
#define FA_VEC_NARROW(a, b) ((fa_vec_f32){(float)(a)[0], (float)(a)[1], (float)(b)[0], (float)(b)[1]})
#define FA_VEC_FMA_F32(a, b, c) fa_vec_fma_f32((a), (b), (c))
FA_INLINE fa_vec_f32 fa_vec_fma_f32(fa_vec_f32 a, fa_vec_f32 b, fa_vec_f32 c)
{
    for (int i = 0; i < 4; i++)
        c[i] = FA_FMA_F32(a[i], b[i], c[i]);
    return c;
}
#endif
