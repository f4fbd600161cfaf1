/* What every machine of the architecture has: SSE2 on x86-64, plain C elsewhere.  No fused
 * multiply-add, so its bits may differ from those of the other instruction sets. */
#define FA_ISA baseline
#define FA_VEC_BYTES 16
#define FA_VEC_FMA(a, b, c) ((a) * (b) + (c))
#define FA_VEC_WIDEN(p) ((fa_vec){(p)[0], (p)[1]})
#if defined(__SSE2__)
#include <emmintrin.h>
#define FA_STREAM(p, v) _mm_stream_pd((void *)(p), (__m128d)(v))
#else
#define FA_STREAM(p, v) memcpy((p), &(v), sizeof(v))
#endif
#include "isa.inc"
