/* vec_avx2.h - the vector operations that rows_impl.h, attention_impl.h and vec_math.h are written
   in, for AVX2 + FMA + F16C. Same names as vec_avx512.h. Counts n are 0..LANES; nothing outside
   the first n elements is touched. */
#ifndef LU_KERN_X86_VEC_AVX2_H
#define LU_KERN_X86_VEC_AVX2_H

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define LANES 8
#define TILE_VECTORS 2 /* accumulators per row of a 4-row tile: 8 of 16 registers */

typedef __m256 vec;
typedef struct {
    __m256d lo, hi;
} vec_double;

static inline vec v_set1(float x) { return _mm256_set1_ps(x); }
static inline vec v_add(vec a, vec b) { return _mm256_add_ps(a, b); }
static inline vec v_sub(vec a, vec b) { return _mm256_sub_ps(a, b); }
static inline vec v_mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
static inline vec v_div(vec a, vec b) { return _mm256_div_ps(a, b); }
static inline vec v_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }   /* a*b + c */
static inline vec v_fnma(vec a, vec b, vec c) { return _mm256_fnmadd_ps(a, b, c); } /* c - a*b */
static inline vec v_abs(vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
static inline vec v_round(vec a) { return _mm256_round_ps(a, 8); } /* nearest, quiet */

/* The second operand if either is NaN. */
static inline vec v_max(vec a, vec b) { return _mm256_max_ps(a, b); }
static inline vec v_min(vec a, vec b) { return _mm256_min_ps(a, b); }

/* a < b ? yes : no */
static inline vec v_if_less(vec a, vec b, vec yes, vec no)
{
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}

static inline vec v_copysign(vec magnitude, vec sign)
{
    return _mm256_or_ps(magnitude, _mm256_and_ps(sign, _mm256_set1_ps(-0.0f)));
}

/* x * 2^n, n integral, |n| < 250; in two steps so that subnormal results round once, at the end */
static inline vec v_scale2(vec x, vec n)
{
    const __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    const __m256i rest = _mm256_sub_epi32(whole, half), bias = _mm256_set1_epi32(127);
    const vec a = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    const vec b = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
    return _mm256_mul_ps(_mm256_mul_ps(x, a), b);
}

static inline __m256i v_first(int64_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static inline vec v_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void v_store(float *p, vec x) { _mm256_storeu_ps(p, x); }

static inline vec v_load_n(const float *p, int64_t n)
{
    return n == LANES ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, v_first(n));
}

static inline void v_store_n(float *p, vec x, int64_t n)
{
    if (n == LANES)
        _mm256_storeu_ps(p, x);
    else
        _mm256_maskstore_ps(p, v_first(n), x);
}

static inline __m128i load_halves(const uint16_t *p, int64_t n)
{
    if (n == LANES)
        return _mm_loadu_si128((const __m128i *)p);
    uint16_t t[LANES] = {0};
    memcpy(t, p, (size_t)n * sizeof *p);
    return _mm_loadu_si128((const __m128i *)t);
}

static inline void store_halves(uint16_t *p, __m128i x, int64_t n)
{
    if (n == LANES) {
        _mm_storeu_si128((__m128i *)p, x);
        return;
    }
    uint16_t t[LANES];
    _mm_storeu_si128((__m128i *)t, x);
    memcpy(p, t, (size_t)n * sizeof *p);
}

static inline vec v_load_bf16_n(const uint16_t *p, int64_t n)
{
    const __m256i u = _mm256_cvtepu16_epi32(load_halves(p, n));
    return _mm256_castsi256_ps(_mm256_slli_epi32(u, 16));
}

/* n <= 2 LANES bf16 as raw pairs, and the two values of each pair */
static inline vec v_load_pairs_n(const uint16_t *p, int64_t n)
{
    if (n == 2 * LANES)
        return _mm256_loadu_ps((const float *)p);
    uint16_t t[2 * LANES] = {0};
    memcpy(t, p, (size_t)n * sizeof *p);
    return _mm256_loadu_ps((const float *)t);
}

static inline vec v_first_of_pairs(vec x)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(x), 16));
}

static inline vec v_second_of_pairs(vec x)
{
    const __m256i high = _mm256_set1_epi32((int)0xffff0000u);
    return _mm256_castsi256_ps(_mm256_and_si256(_mm256_castps_si256(x), high));
}

static inline vec v_load_f16_n(const uint16_t *p, int64_t n)
{
    return _mm256_cvtph_ps(load_halves(p, n));
}

static inline void v_store_bf16_n(uint16_t *p, vec x, int64_t n)
{
    const __m256i u = _mm256_castps_si256(x), h = _mm256_srli_epi32(u, 16);
    const __m256i odd = _mm256_and_si256(h, _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i nan = _mm256_or_si256(h, _mm256_set1_epi32(0x40));
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i r = _mm256_blendv_epi8(_mm256_srli_epi32(up, 16), nan, is_nan);
    store_halves(p, _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1)), n);
}

static inline void v_store_f16_n(uint16_t *p, vec x, int64_t n)
{
    store_halves(p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT), n);
}

/* Bytes as floats, and floats that are whole numbers 0..255 as bytes. */
static inline vec v_load_u8_n(const uint8_t *p, int64_t n)
{
    uint64_t t = 0;
    if (n == LANES) /* one load instead of a call */
        memcpy(&t, p, sizeof t);
    else
        memcpy(&t, p, (size_t)n);
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((int64_t)t)));
}

static inline void v_store_u8_n(uint8_t *p, vec x, int64_t n)
{
    const __m256i i = _mm256_cvtps_epi32(x);
    const __m128i h = _mm_packus_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
    const int64_t t = _mm_cvtsi128_si64(_mm_packus_epi16(h, h));
    if (n == LANES)
        memcpy(p, &t, sizeof t);
    else
        memcpy(p, &t, (size_t)n);
}

/* n codes of 4 or 2 bits, lowest first in their bytes, as floats */
static inline vec v_load_u4_n(const uint8_t *p, int64_t n)
{
    uint32_t t = 0;
    if (n == LANES) /* one load instead of a call */
        memcpy(&t, p, sizeof t);
    else
        memcpy(&t, p, (size_t)(n + 1) / 2);
    const __m256i shift = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    const __m256i c = _mm256_srlv_epi32(_mm256_set1_epi32((int)t), shift);
    return _mm256_cvtepi32_ps(_mm256_and_si256(c, _mm256_set1_epi32(15)));
}

static inline vec v_load_u2_n(const uint8_t *p, int64_t n)
{
    uint16_t t = 0;
    if (n == LANES) /* one load instead of a call */
        memcpy(&t, p, sizeof t);
    else
        memcpy(&t, p, (size_t)(n + 3) / 4);
    const __m256i shift = _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14);
    const __m256i c = _mm256_srlv_epi32(_mm256_set1_epi32(t), shift);
    return _mm256_cvtepi32_ps(_mm256_and_si256(c, _mm256_set1_epi32(3)));
}

/* e4m3: the exponent and mantissa of float16 at 2^-8; NaN becomes 480 */
static inline vec v_load_e4m3_n(const uint8_t *p, int64_t n)
{
    uint64_t t = 0;
    if (n == LANES) /* one load instead of a call */
        memcpy(&t, p, sizeof t);
    else
        memcpy(&t, p, (size_t)n);
    const __m128i b = _mm_cvtepu8_epi16(_mm_cvtsi64_si128((int64_t)t));
    const __m128i sign = _mm_slli_epi16(_mm_and_si128(b, _mm_set1_epi16(0x80)), 8);
    const __m128i rest = _mm_slli_epi16(_mm_and_si128(b, _mm_set1_epi16(0x7f)), 7);
    return _mm256_mul_ps(_mm256_cvtph_ps(_mm_or_si128(sign, rest)), _mm256_set1_ps(256.0f));
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
    const vec keep = _mm256_castsi256_ps(_mm256_andnot_si256(v_first(l), v_first(h)));
    return _mm256_blendv_ps(_mm256_set1_ps(fill), x, keep);
}

/* Lane of the first x == y, or -1. */
static inline int v_find_equal(vec x, vec y)
{
    const int m = _mm256_movemask_ps(_mm256_cmp_ps(x, y, _CMP_EQ_OQ));
    return m ? __builtin_ctz((unsigned)m) : -1;
}

static inline float v_hmax(vec x)
{
    const __m128 b = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 c = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

static inline float v_hmin(vec x) { return -v_hmax(_mm256_xor_ps(x, _mm256_set1_ps(-0.0f))); }

/* ((halves) quarters) ...: one fixed tree */
static inline float v_hsum(vec x)
{
    const __m128 b = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

static inline vec_double vd_zero(void)
{
    return (vec_double){_mm256_setzero_pd(), _mm256_setzero_pd()};
}

static inline vec_double vd_from(vec x)
{
    return (vec_double){_mm256_cvtps_pd(_mm256_castps256_ps128(x)),
                        _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1))};
}

static inline vec_double vd_add(vec_double a, vec_double b)
{
    return (vec_double){_mm256_add_pd(a.lo, b.lo), _mm256_add_pd(a.hi, b.hi)};
}

static inline vec_double vd_add_square(vec_double a, vec_double b)
{
    return (vec_double){_mm256_fmadd_pd(b.lo, b.lo, a.lo), _mm256_fmadd_pd(b.hi, b.hi, a.hi)};
}

static inline double vd_sum(vec_double a)
{
    const __m256d q = _mm256_add_pd(a.lo, a.hi);
    const __m128d d = _mm_add_pd(_mm256_castpd256_pd128(q), _mm256_extractf128_pd(q, 1));
    return _mm_cvtsd_f64(_mm_add_sd(d, _mm_unpackhi_pd(d, d)));
}

/* r[i] lane j <-> r[j] lane i: 4x4 blocks within 128-bit lanes, then the blocks */
static inline void v_transpose(vec r[LANES])
{
    vec t[LANES];
    for (int i = 0; i < LANES; i += 4) {
        const vec a = _mm256_unpacklo_ps(r[i], r[i + 1]), b = _mm256_unpackhi_ps(r[i], r[i + 1]);
        const vec c = _mm256_unpacklo_ps(r[i + 2], r[i + 3]);
        const vec d = _mm256_unpackhi_ps(r[i + 2], r[i + 3]);
        t[i] = _mm256_shuffle_ps(a, c, 0x44);
        t[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
        t[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
        t[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_permute2f128_ps(t[i], t[4 + i], 0x20);
        r[4 + i] = _mm256_permute2f128_ps(t[i], t[4 + i], 0x31);
    }
}

#endif
