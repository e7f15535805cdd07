/* int8_avx512.h - vectors of 16 rows for int8_impl.h: vpdpbusd adds the four products of unsigned x
   and signed w in a lane to its int32 sum, without saturation on the way. */
#ifndef LU_KERN_INT8_AVX512_H
#define LU_KERN_INT8_AVX512_H

#include <immintrin.h>
#include <stdint.h>

enum { LANES = 16, TOKENS = 6 }; /* 6 x 4 sums + 4 weights + 1 x: 29 of 32 zmm */

typedef int32_t vi __attribute__((vector_size(64))); /* unlike __m512i it aliases nothing, so arrays
                                                        of it stay in registers */
typedef __m512i vw;                                  /* 4 signed bytes a lane */
typedef __m512i vx;                                  /* 4 unsigned bytes, the same in all lanes */
typedef __m512 vf;

static inline vi vi_load(const void *p) { return (vi)_mm512_loadu_si512(p); }
static inline void vi_store(void *p, vi a) { _mm512_storeu_si512(p, (__m512i)a); }
static inline vi vi_set(int32_t a) { return (vi)_mm512_set1_epi32(a); }
static inline vi vi_mul(vi a, vi b) { return a * b; }
static inline vi vi_add8(vi a, vi b) { return (vi)_mm512_add_epi8((__m512i)a, (__m512i)b); }
static inline vi vi_low_nibbles(vi a) { return a & 0x0f0f0f0f; }
static inline vi vi_high_nibbles(vi a) { return vi_low_nibbles(a >> 4); }
static inline vw vw_load(const void *p) { return _mm512_loadu_si512(p); }
static inline vx vx_set(int32_t four) { return _mm512_set1_epi32(four); }
static inline vi vi_dot(vi sum, vx x, vw w) { return (vi)_mm512_dpbusd_epi32((__m512i)sum, x, w); }
static inline vf vf_from(vi a) { return _mm512_cvtepi32_ps((__m512i)a); }
static inline vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void vf_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }

#endif
