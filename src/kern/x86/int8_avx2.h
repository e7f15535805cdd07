/* int8_avx2.h - vectors of 8 rows for int8_impl.h. vpmaddubsw would saturate its 16-bit pairs at
   full codes (2 * 255 * 128), so bytes are widened to 16 bits, even and odd columns apart, and
   vpmaddwd adds two exact products into the lane's int32. */
#ifndef LU_KERN_INT8_AVX2_H
#define LU_KERN_INT8_AVX2_H

#include <immintrin.h>
#include <stdint.h>

enum { LANES = 8, TOKENS = 2 }; /* 2 x 4 sums + 2 weights + 2 x 2 x: 14 of 16 ymm */

typedef int32_t vi __attribute__((vector_size(32))); /* unlike __m256i it aliases nothing */
typedef __m256i vw;                                  /* 4 signed bytes a lane */
typedef struct {
    __m256i even, odd; /* columns 0, 2 and 1, 3 as 16-bit numbers, the same in all lanes */
} vx;
typedef __m256 vf;

static inline vi vi_load(const void *p) { return (vi)_mm256_loadu_si256((const __m256i *)p); }
static inline void vi_store(void *p, vi a) { _mm256_storeu_si256((__m256i *)p, (__m256i)a); }
static inline vi vi_set(int32_t a) { return (vi)_mm256_set1_epi32(a); }
static inline vi vi_mul(vi a, vi b) { return a * b; }
static inline vi vi_add8(vi a, vi b) { return (vi)_mm256_add_epi8((__m256i)a, (__m256i)b); }
static inline vi vi_low_nibbles(vi a) { return a & 0x0f0f0f0f; }
static inline vi vi_high_nibbles(vi a) { return vi_low_nibbles(a >> 4); }
static inline vw vw_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
static inline vx vx_set(int32_t four)
{
    const uint32_t u = (uint32_t)four;
    return (vx){_mm256_set1_epi32((int32_t)(u & 0x00ff00ffu)),
                _mm256_set1_epi32((int32_t)(u >> 8 & 0x00ff00ffu))};
}
static inline vi vi_dot(vi sum, vx x, vw w)
{
    const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8);
    const __m256i odd = _mm256_srai_epi16(w, 8);
    return sum + (vi)_mm256_madd_epi16(x.even, even) + (vi)_mm256_madd_epi16(x.odd, odd);
}
static inline vf vf_from(vi a) { return _mm256_cvtepi32_ps((__m256i)a); }
static inline vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void vf_store(float *p, vf a) { _mm256_storeu_ps(p, a); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }

#endif
