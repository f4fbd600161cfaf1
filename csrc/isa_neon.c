/* AArch64 with Advanced SIMD, which every AArch64 machine has. */
#include <arm_neon.h>
#define FA_ISA neon
#define FA_VEC_BYTES 16
#define FA_VEC_FMA(a, b, c) ((fa_vec)vfmaq_f64((float64x2_t)(c), (float64x2_t)(a), (float64x2_t)(b)))
#define FA_VEC_WIDEN(p) ((fa_vec)vcvt_f64_f32(vld1_f32(p)))
#define FA_STREAM(p, v) vst1q_f64((void *)(p), (float64x2_t)(v))
#include "isa.inc"
