/* vec_avx512.h - the vector operations that rows_impl.h, attention_impl.h and vec_math.h are
   written in, for AVX-512 (F BW VL DQ). Same names as vec_avx2.h. Counts n are 0..LANES; nothing
   outside the first n elements is touched. */
#ifndef LU_KERN_X86_VEC_AVX512_H
#define LU_KERN_X86_VEC_AVX512_H

#include <immintrin.h>
#include <math.h>
#include <stdint.h>

#define LANES 16
#define TILE_VECTORS 4 /* accumulators per row of a 4-row tile: 16 of 32 registers */

typedef __m512 vec;
typedef struct {
    __m512d lo, hi;
} vec_double;

static inline vec v_set1(float x) { return _mm512_set1_ps(x); }
static inline vec v_add(vec a, vec b) { return _mm512_add_ps(a, b); }
static inline vec v_sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
static inline vec v_mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
static inline vec v_div(vec a, vec b) { return _mm512_div_ps(a, b); }
static inline vec v_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }   /* a*b + c */
static inline vec v_fnma(vec a, vec b, vec c) { return _mm512_fnmadd_ps(a, b, c); } /* c - a*b */
static inline vec v_abs(vec a) { return _mm512_abs_ps(a); }
static inline vec v_round(vec a) { return _mm512_roundscale_ps(a, 8); } /* nearest, quiet */

/* The second operand if either is NaN. */
static inline vec v_max(vec a, vec b) { return _mm512_max_ps(a, b); }
static inline vec v_min(vec a, vec b) { return _mm512_min_ps(a, b); }

/* a < b ? yes : no */
static inline vec v_if_less(vec a, vec b, vec yes, vec no)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}

static inline vec v_copysign(vec magnitude, vec sign)
{
    return _mm512_or_ps(magnitude, _mm512_and_ps(sign, _mm512_set1_ps(-0.0f)));
}

/* x * 2^n, n integral; rounds once where the result is subnormal */
static inline vec v_scale2(vec x, vec n) { return _mm512_scalef_ps(x, n); }

static inline __mmask16 v_first(int64_t n) { return (__mmask16)((1u << n) - 1); }

static inline vec v_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void v_store(float *p, vec x) { _mm512_storeu_ps(p, x); }
static inline vec v_load_n(const float *p, int64_t n)
{
    return _mm512_maskz_loadu_ps(v_first(n), p);
}
static inline void v_store_n(float *p, vec x, int64_t n)
{
    _mm512_mask_storeu_ps(p, v_first(n), x);
}

static inline vec v_load_bf16_n(const uint16_t *p, int64_t n)
{
    const __m512i u = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(v_first(n), p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(u, 16));
}

/* n <= 2 LANES bf16 as raw pairs, and the two values of each pair */
static inline vec v_load_pairs_n(const uint16_t *p, int64_t n)
{
    return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16((__mmask32)((1ull << n) - 1), p));
}

static inline vec v_first_of_pairs(vec x)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(x), 16));
}

static inline vec v_second_of_pairs(vec x)
{
    const __m512i high = _mm512_set1_epi32((int)0xffff0000u);
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x), high));
}

static inline vec v_load_f16_n(const uint16_t *p, int64_t n)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(v_first(n), p));
}

/* Integer rounding: vcvtneps2bf16 would flush subnormals. */
static inline void v_store_bf16_n(uint16_t *p, vec x, int64_t n)
{
    const __m512i u = _mm512_castps_si512(x), h = _mm512_srli_epi32(u, 16);
    const __m512i odd = _mm512_and_si512(h, _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __m512i nan = _mm512_or_si512(h, _mm512_set1_epi32(0x40));
    const __mmask16 is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    const __m512i r = _mm512_mask_blend_epi32(is_nan, _mm512_srli_epi32(up, 16), nan);
    _mm256_mask_storeu_epi16(p, v_first(n), _mm512_cvtepi32_epi16(r));
}

static inline void v_store_f16_n(uint16_t *p, vec x, int64_t n)
{
    _mm256_mask_storeu_epi16(p, v_first(n), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}

/* Bytes as floats, and floats that are whole numbers 0..255 as bytes. */
static inline vec v_load_u8_n(const uint8_t *p, int64_t n)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(v_first(n), p)));
}

static inline void v_store_u8_n(uint8_t *p, vec x, int64_t n)
{
    _mm512_mask_cvtepi32_storeu_epi8(p, v_first(n), _mm512_cvtps_epi32(x));
}

/* n codes of 4 or 2 bits, lowest first in their bytes, as floats */
static inline vec v_load_u4_n(const uint8_t *p, int64_t n)
{
    uint64_t t = 0;
    if (n == LANES) /* one load instead of a call */
        __builtin_memcpy(&t, p, sizeof t);
    else
        __builtin_memcpy(&t, p, (size_t)(n + 1) / 2);
    const __m128i b = _mm_cvtsi64_si128((int64_t)t), mask = _mm_set1_epi8(15);
    const __m128i c = _mm_unpacklo_epi8(_mm_and_si128(b, mask),
                                        _mm_and_si128(_mm_srli_epi16(b, 4), mask));
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(c));
}

static inline vec v_load_u2_n(const uint8_t *p, int64_t n)
{
    uint32_t t = 0;
    if (n == LANES) /* one load instead of a call */
        __builtin_memcpy(&t, p, sizeof t);
    else
        __builtin_memcpy(&t, p, (size_t)(n + 3) / 4);
    const __m512i shift =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i c = _mm512_srlv_epi32(_mm512_set1_epi32((int)t), shift);
    return _mm512_cvtepi32_ps(_mm512_and_si512(c, _mm512_set1_epi32(3)));
}

/* e4m3: the exponent and mantissa of float16 at 2^-8; NaN becomes 480 */
static inline vec v_load_e4m3_n(const uint8_t *p, int64_t n)
{
    const __m256i b = _mm256_cvtepu8_epi16(_mm_maskz_loadu_epi8(v_first(n), p));
    const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(b, _mm256_set1_epi16(0x80)), 8);
    const __m256i rest = _mm256_slli_epi16(_mm256_and_si256(b, _mm256_set1_epi16(0x7f)), 7);
    return _mm512_mul_ps(_mm512_cvtph_ps(_mm256_or_si256(sign, rest)), _mm512_set1_ps(256.0f));
}

/* Lanes outside [lo, hi) become fill. */
static inline vec v_outside_to(vec x, int64_t lo, int64_t hi, float fill)
{
    const int64_t l = lo < 0       ? 0
                      : lo > LANES ? LANES
                                   : lo,
                  h = hi < l       ? l
                      : hi > LANES ? LANES
                                   : hi;
    const __mmask16 keep = (__mmask16)(((1u << h) - 1) & ~((1u << l) - 1));
    return _mm512_mask_blend_ps(keep, _mm512_set1_ps(fill), x);
}

/* Lane of the first x == y, or -1. */
static inline int v_find_equal(vec x, vec y)
{
    const __mmask16 m = _mm512_cmp_ps_mask(x, y, _CMP_EQ_OQ);
    return m ? __builtin_ctz(m) : -1;
}

static inline float v_hmax(vec x) { return _mm512_reduce_max_ps(x); }

static inline float v_hmin(vec x) { return _mm512_reduce_min_ps(x); }

/* ((halves) quarters) ...: one fixed tree */
static inline float v_hsum(vec x)
{
    const __m256 a = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

static inline vec_double vd_zero(void)
{
    return (vec_double){_mm512_setzero_pd(), _mm512_setzero_pd()};
}

static inline vec_double vd_from(vec x)
{
    return (vec_double){_mm512_cvtps_pd(_mm512_castps512_ps256(x)),
                        _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1))};
}

static inline vec_double vd_add(vec_double a, vec_double b)
{
    return (vec_double){_mm512_add_pd(a.lo, b.lo), _mm512_add_pd(a.hi, b.hi)};
}

static inline vec_double vd_add_square(vec_double a, vec_double b)
{
    return (vec_double){_mm512_fmadd_pd(b.lo, b.lo, a.lo), _mm512_fmadd_pd(b.hi, b.hi, a.hi)};
}

static inline double vd_sum(vec_double a)
{
    const __m512d s = _mm512_add_pd(a.lo, a.hi);
    const __m256d q = _mm256_add_pd(_mm512_castpd512_pd256(s), _mm512_extractf64x4_pd(s, 1));
    const __m128d d = _mm_add_pd(_mm256_castpd256_pd128(q), _mm256_extractf128_pd(q, 1));
    return _mm_cvtsd_f64(_mm_add_sd(d, _mm_unpackhi_pd(d, d)));
}

/* r[i] lane j <-> r[j] lane i: 4x4 blocks within 128-bit lanes, then the blocks */
static inline void v_transpose(vec r[LANES])
{
    vec t[LANES];
    for (int i = 0; i < LANES; i += 4) {
        const vec a = _mm512_unpacklo_ps(r[i], r[i + 1]), b = _mm512_unpackhi_ps(r[i], r[i + 1]);
        const vec c = _mm512_unpacklo_ps(r[i + 2], r[i + 3]);
        const vec d = _mm512_unpackhi_ps(r[i + 2], r[i + 3]);
        t[i] = _mm512_shuffle_ps(a, c, 0x44);
        t[i + 1] = _mm512_shuffle_ps(a, c, 0xee);
        t[i + 2] = _mm512_shuffle_ps(b, d, 0x44);
        t[i + 3] = _mm512_shuffle_ps(b, d, 0xee);
    }
    for (int i = 0; i < 4; i++) { /* t[4*k + i]: column 4*lane + i of rows 4k.. */
        const vec a = _mm512_shuffle_f32x4(t[i], t[4 + i], 0x88);
        const vec b = _mm512_shuffle_f32x4(t[i], t[4 + i], 0xdd);
        const vec c = _mm512_shuffle_f32x4(t[8 + i], t[12 + i], 0x88);
        const vec d = _mm512_shuffle_f32x4(t[8 + i], t[12 + i], 0xdd);
        r[i] = _mm512_shuffle_f32x4(a, c, 0x88);
        r[8 + i] = _mm512_shuffle_f32x4(a, c, 0xdd);
        r[4 + i] = _mm512_shuffle_f32x4(b, d, 0x88);
        r[12 + i] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
}

#endif
