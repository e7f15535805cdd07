/* encode_avx512.h - the parts of the row encoder (encode_impl.h), 16 weights at a time.
   Tables of up to 16 values: the rank of w is found by a binary search in registers, each step one
   permute that fetches the pivot to compare with next. Integers of more bits: a rounded product
   with 1 / scale gives the rank to within one, and the two pivots next to it settle it, so that the
   result is that of comparing with all pivots.
   Ranks go to a byte buffer that is packed 64 codes at a time: three steps of shift and or halve
   the number of fields in each 64-bit word (8, 4, 2 fields), one byte permute closes the gaps. */
#ifndef LU_KERN_ENCODE_AVX512_H
#define LU_KERN_ENCODE_AVX512_H

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kern/encode.h"
#include "kern/x86/encode_scale.h"
#include "tensor/convert.h"

#define INLINE static inline __attribute__((always_inline))
#define CHUNK 512 /* codes held as bytes */

INLINE __m512 load16(lutra_dtype t, const void *w, int64_t i)
{
    if (t == LUTRA_BF16) {
        const __m256i h = _mm256_loadu_si256((const void *)((const uint16_t *)w + i));
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
    }
    if (t == LUTRA_F16)
        return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)((const uint16_t *)w + i)));
    return _mm512_loadu_ps((const float *)w + i);
}

/* Largest |w| of n columns (a multiple of 32) as float; false on NaN or infinity. Bits without the
   sign order as integers, NaN and infinity above all. */
INLINE bool absmax16(lutra_dtype t, const void *w, int64_t at, int64_t n, float *out)
{
    const uint16_t *p = (const uint16_t *)w + at;
    __m512i top = _mm512_setzero_si512();
    for (int64_t i = 0; i < n; i += 32)
        top = _mm512_max_epu16(
            top, _mm512_and_si512(_mm512_loadu_si512(p + i), _mm512_set1_epi16(0x7fff)));
    const __m256i half =
        _mm256_max_epu16(_mm512_castsi512_si256(top), _mm512_extracti64x4_epi64(top, 1));
    const __m128i part =
        _mm_max_epu16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    const __m128i inverted = _mm_minpos_epu16(_mm_xor_si128(part, _mm_set1_epi16(-1)));
    const uint16_t bits = (uint16_t)~_mm_extract_epi16(inverted, 0);
    *out = t == LUTRA_BF16 ? lu_bf16_to_f32(bits) : _cvtsh_ss(bits);
    return bits < (t == LUTRA_BF16 ? 0x7f80 : 0x7c00);
}

INLINE bool absmax32(const void *w, int64_t at, int64_t n, float *out)
{
    const float *p = (const float *)w + at;
    __m512i top = _mm512_setzero_si512();
    for (int64_t i = 0; i < n; i += 16)
        top = _mm512_max_epu32(
            top, _mm512_and_si512(_mm512_loadu_si512(p + i), _mm512_set1_epi32(0x7fffffff)));
    const uint32_t bits = _mm512_reduce_max_epu32(top);
    *out = lu_f32_from_bits(bits);
    return bits < 0x7f800000u;
}

INLINE bool find_range(lutra_dtype t, bool signs, const void *w, int64_t at, int64_t n, float *lo,
                       float *hi)
{
    float absmax;
    if (!(t == LUTRA_F32 ? absmax32(w, at, n, &absmax) : absmax16(t, w, at, n, &absmax)))
        return false;
    *lo = -absmax;
    *hi = absmax;
    if (signs) {
        __m512 low = _mm512_setzero_ps(), high = low;
        for (int64_t i = 0; i < n; i += 16) {
            const __m512 v = load16(t, w, at + i);
            low = _mm512_min_ps(low, v);
            high = _mm512_max_ps(high, v);
        }
        *lo = _mm512_reduce_min_ps(low);
        *hi = _mm512_reduce_max_ps(high);
    }
    return true;
}

/* What packing codes of one width needs. */
typedef struct {
    int bits;
    __m128i gap8, gap16,
        gap32;     /* shift counts that close the gap between fields of 8, 16, 32 bits */
    __m512i index; /* byte i of the output is byte i % bits of word i / bits */
} packer;

INLINE packer packer_make(int bits)
{
    uint8_t index[64];
    for (int i = 0; i < 64; i++)
        index[i] = (uint8_t)(i / bits * 8 + i % bits);
    return (packer){bits, _mm_cvtsi32_si128(8 - bits), _mm_cvtsi32_si128(16 - 2 * bits),
                    _mm_cvtsi32_si128(32 - 4 * bits), _mm512_loadu_si512(index)};
}

/* Packs n bytes (a multiple of 32). */
INLINE void pack(const packer *p, const uint8_t *codes, int64_t n, uint8_t *out)
{
    const int bits = p->bits;
    for (int64_t i = 0; i < n; i += 64) {
        const int64_t m = n - i < 64 ? n - i : 64;
        __m512i v = _mm512_loadu_si512(codes + i), high;
        high = _mm512_andnot_si512(_mm512_set1_epi16(0x00ff), v);
        v = _mm512_or_si512(_mm512_xor_si512(v, high), _mm512_srl_epi16(high, p->gap8));
        high = _mm512_andnot_si512(_mm512_set1_epi32(0x0000ffff), v);
        v = _mm512_or_si512(_mm512_xor_si512(v, high), _mm512_srl_epi32(high, p->gap16));
        high = _mm512_andnot_si512(_mm512_set1_epi64(0xffffffff), v);
        v = _mm512_or_si512(_mm512_xor_si512(v, high), _mm512_srl_epi64(high, p->gap32));
        const int64_t bytes = m / 8 * bits;
        _mm512_mask_storeu_epi8(out + i / 8 * bits, ~0ull >> (64 - bytes),
                                _mm512_permutexvar_epi8(p->index, v));
    }
}

typedef struct {
    __m512 signal, noise;
} sums;

INLINE void add_errors(sums *s, __m512 w, __m512 decoded)
{
    const __m512 error = _mm512_sub_ps(w, decoded);
    s->signal = _mm512_add_ps(s->signal, _mm512_mul_ps(w, w));
    s->noise = _mm512_add_ps(s->noise, _mm512_mul_ps(error, error));
}

INLINE void store_ranks(uint8_t *ranks, __m512i r)
{
    _mm_storeu_si128((void *)ranks, _mm512_cvtepi32_epi8(r));
}

/* A table of at most 16 values; mid4, mid2 and mid1 hold the pivots of
   search steps 4, 2 and 1 at the index of the rank so far. */
typedef struct {
    __m512 mid8, mid4, mid2, mid1, value;
} search;

INLINE search search_make(const lu_grid *g)
{
    return (search){_mm512_set1_ps(g->mid[7]), _mm512_loadu_ps(g->mid + 3),
                    _mm512_loadu_ps(g->mid + 1), _mm512_loadu_ps(g->mid),
                    _mm512_loadu_ps(g->value)};
}

INLINE search search_scale(const search *t, float scale, float zero_value)
{
    const __m512 s = _mm512_set1_ps(scale), z = _mm512_set1_ps(zero_value);
    return (search){
        _mm512_mul_ps(_mm512_sub_ps(t->mid8, z), s), _mm512_mul_ps(_mm512_sub_ps(t->mid4, z), s),
        _mm512_mul_ps(_mm512_sub_ps(t->mid2, z), s), _mm512_mul_ps(_mm512_sub_ps(t->mid1, z), s),
        _mm512_mul_ps(_mm512_sub_ps(t->value, z), s)};
}

INLINE __m512i search_rank(const search *p, __m512 w)
{
    const __m512i zero = _mm512_setzero_si512();
    __m512i r = _mm512_mask_mov_epi32(zero, _mm512_cmp_ps_mask(p->mid8, w, _CMP_LT_OQ),
                                      _mm512_set1_epi32(8));
    __m512 pivot = _mm512_permutexvar_ps(r, p->mid4);
    r = _mm512_mask_or_epi32(r, _mm512_cmp_ps_mask(pivot, w, _CMP_LT_OQ), r, _mm512_set1_epi32(4));
    pivot = _mm512_permutexvar_ps(r, p->mid2);
    r = _mm512_mask_or_epi32(r, _mm512_cmp_ps_mask(pivot, w, _CMP_LT_OQ), r, _mm512_set1_epi32(2));
    pivot = _mm512_permutexvar_ps(r, p->mid1);
    return _mm512_mask_or_epi32(r, _mm512_cmp_ps_mask(pivot, w, _CMP_LT_OQ), r,
                                _mm512_set1_epi32(1));
}

/* The same for a table of 2^bits values, with as many steps. */
INLINE __m512i search_rank_of(const search *p, __m512 w, int bits)
{
    __m512i r = _mm512_setzero_si512();
    if (bits == 4)
        return search_rank(p, w);
    if (bits == 3) {
        const __m512 pivot = _mm512_permutexvar_ps(r, p->mid4);
        r = _mm512_maskz_set1_epi32(_mm512_cmp_ps_mask(pivot, w, _CMP_LT_OQ), 4);
    }
    __m512 pivot = _mm512_permutexvar_ps(r, p->mid2);
    r = _mm512_mask_or_epi32(r, _mm512_cmp_ps_mask(pivot, w, _CMP_LT_OQ), r, _mm512_set1_epi32(2));
    pivot = _mm512_permutexvar_ps(r, p->mid1);
    return _mm512_mask_or_epi32(r, _mm512_cmp_ps_mask(pivot, w, _CMP_LT_OQ), r,
                                _mm512_set1_epi32(1));
}

/* Integers low, low + 1, ... high after the zero point is taken off. */
typedef struct {
    __m512 low, high, scale, inverse;
} line;

INLINE line line_make(const lu_grid *g, float scale, float zero_value)
{
    const float low = g->value[0] - zero_value;
    return (line){_mm512_set1_ps(low), _mm512_set1_ps(low + (float)(g->n - 1)),
                  _mm512_set1_ps(scale), _mm512_set1_ps(1.0f / scale)};
}

INLINE __m512 line_round(const line *l, __m512 w)
{
    const __m512 half = _mm512_set1_ps(0.5f), one = _mm512_set1_ps(1);
    __m512 r = _mm512_roundscale_ps(_mm512_mul_ps(w, l->inverse),
                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __mmask16 above =
        _mm512_cmp_ps_mask(_mm512_mul_ps(_mm512_add_ps(r, half), l->scale), w, _CMP_LT_OQ);
    const __mmask16 below =
        _mm512_cmp_ps_mask(_mm512_mul_ps(_mm512_sub_ps(r, half), l->scale), w, _CMP_GE_OQ);
    r = _mm512_mask_add_ps(r, above, r, one);
    r = _mm512_mask_sub_ps(r, below, r, one);
    return _mm512_min_ps(_mm512_max_ps(r, l->low), l->high);
}

/* Ranks of n columns (a multiple of 32) of one group. */
INLINE void ranks_search(lutra_dtype t, const search *p, const void *w, int64_t at, int64_t n,
                         uint8_t *ranks, sums *s)
{
    for (int64_t i = 0; i < n; i += 16) {
        const __m512 v = load16(t, w, at + i);
        const __m512i r = search_rank(p, v);
        store_ranks(ranks + i, r);
        add_errors(s, v, _mm512_permutexvar_ps(r, p->value));
    }
}

INLINE void ranks_line(lutra_dtype t, const line *l, const void *w, int64_t at, int64_t n,
                       uint8_t *ranks, sums *s)
{
    for (int64_t i = 0; i < n; i += 16) {
        const __m512 v = load16(t, w, at + i);
        const __m512 r = line_round(l, v);
        store_ranks(ranks + i, _mm512_cvttps_epi32(_mm512_sub_ps(r, l->low)));
        add_errors(s, v, _mm512_mul_ps(r, l->scale));
    }
}

/* ---- the error of a scale (lu_range_fn) ----------------------------------------------------- */

INLINE float add_tree(__m512 v)
{
    const __m256 v8 = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 v4 = _mm_add_ps(_mm256_castps256_ps128(v8), _mm256_extractf128_ps(v8, 1));
    const __m128 v2 = _mm_add_ps(v4, _mm_movehl_ps(v4, v4));
    return _mm_cvtss_f32(_mm_add_ss(v2, _mm_movehdup_ps(v2)));
}

INLINE lu_range_error range_error_of(const lu_encoder *e, const lu_encode_row_args *a, int64_t at,
                                     int64_t n, float scale, float zero_value, lutra_dtype t,
                                     int search_bits)
{
    const search table = search_make(&e->grid), p = search_scale(&table, scale, zero_value);
    const line l = line_make(&e->grid, scale, zero_value);
    __m512 square = _mm512_setzero_ps(), cube = square;
    for (int64_t i = at; i < at + n; i += 16) {
        const __m512 v = load16(t, a->w, i);
        const __m512 decoded =
            search_bits ? _mm512_permutexvar_ps(search_rank_of(&p, v, search_bits), p.value)
                        : _mm512_mul_ps(line_round(&l, v), l.scale);
        const __m512 error = _mm512_abs_ps(_mm512_sub_ps(v, decoded));
        const __m512 error2 = _mm512_mul_ps(error, error);
        square = _mm512_add_ps(square, error2);
        cube = _mm512_add_ps(cube, _mm512_mul_ps(error2, error));
    }
    return (lu_range_error){add_tree(square), add_tree(cube)};
}

INLINE lu_range_error range_error(const lu_encoder *e, const lu_encode_row_args *a, int64_t at,
                                  int64_t n, float scale, float zero_value, int search_bits)
{
    if (a->dtype == LUTRA_BF16)
        return range_error_of(e, a, at, n, scale, zero_value, LUTRA_BF16, search_bits);
    return a->dtype == LUTRA_F16
               ? range_error_of(e, a, at, n, scale, zero_value, LUTRA_F16, search_bits)
               : range_error_of(e, a, at, n, scale, zero_value, LUTRA_F32, search_bits);
}

static lu_range_error range_error4(const lu_encoder *e, const lu_encode_row_args *a, int64_t at,
                                   int64_t n, float scale, float zero_value)
{
    return range_error(e, a, at, n, scale, zero_value, 4);
}

static lu_range_error range_error3(const lu_encoder *e, const lu_encode_row_args *a, int64_t at,
                                   int64_t n, float scale, float zero_value)
{
    return range_error(e, a, at, n, scale, zero_value, 3);
}

static lu_range_error range_error2(const lu_encoder *e, const lu_encode_row_args *a, int64_t at,
                                   int64_t n, float scale, float zero_value)
{
    return range_error(e, a, at, n, scale, zero_value, 2);
}

static lu_range_error range_error_line(const lu_encoder *e, const lu_encode_row_args *a, int64_t at,
                                       int64_t n, float scale, float zero_value)
{
    return range_error(e, a, at, n, scale, zero_value, 0);
}

static const lu_range_fn range_by_bits[] = {
    [2] = range_error2, [3] = range_error3, [4] = range_error4};

/* ---- rows ----------------------------------------------------------------------------------- */

INLINE double add_lanes(__m512 v)
{
    float lane[LU_ENCODE_LANES];
    double sum = 0;
    _mm512_storeu_ps(lane, v);
    for (int i = 0; i < LU_ENCODE_LANES; i++)
        sum += (double)lane[i];
    return sum;
}

INLINE void sums_clear(sums *s) { s->signal = s->noise = _mm512_setzero_ps(); }

INLINE lu_range_fn range_errors(const lu_encoder *e, bool use_search)
{
    return use_search ? range_by_bits[e->format.bits] : range_error_line;
}

#endif
