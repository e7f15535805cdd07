/* encode_avx2.h - the parts of the row encoder (encode_impl.h), 8 weights at a time; the ideas are those of encode_avx512.h.
   The binary search keeps the rank's leading bits: after i steps it indexes the 2^i pivots that the
   next step may need, so that tables of 16 values need no permute of more than 8 entries. */
#ifndef LU_KERN_ENCODE_AVX2_H
#define LU_KERN_ENCODE_AVX2_H

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kern/encode.h"
#include "kern/x86/encode_scale.h"
#include "tensor/convert.h"

#define INLINE static inline __attribute__((always_inline))
#define CHUNK 512 /* codes held as bytes */

INLINE __m256 load8(lutra_dtype t, const void *w, int64_t i)
{
    if (t == LUTRA_F32)
        return _mm256_loadu_ps((const float *)w + i);
    const __m128i h = _mm_loadu_si128((const void *)((const uint16_t *)w + i));
    if (t == LUTRA_BF16)
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
    return _mm256_cvtph_ps(h);
}

/* Largest |w| of n columns (a multiple of 16) as float; false on NaN or infinity. */
INLINE bool absmax16(lutra_dtype t, const void *w, int64_t at, int64_t n, float *out)
{
    const uint16_t *p = (const uint16_t *)w + at;
    __m256i top = _mm256_setzero_si256();
    for (int64_t i = 0; i < n; i += 16)
        top = _mm256_max_epu16(top, _mm256_and_si256(_mm256_loadu_si256((const void *)(p + i)),
                                                     _mm256_set1_epi16(0x7fff)));
    const __m128i part =
        _mm_max_epu16(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
    const __m128i inverted = _mm_minpos_epu16(_mm_xor_si128(part, _mm_set1_epi16(-1)));
    const uint16_t bits = (uint16_t)~_mm_extract_epi16(inverted, 0);
    *out = t == LUTRA_BF16 ? lu_bf16_to_f32(bits) : _cvtsh_ss(bits);
    return bits < (t == LUTRA_BF16 ? 0x7f80 : 0x7c00);
}

INLINE bool absmax32(const void *w, int64_t at, int64_t n, float *out)
{
    const float *p = (const float *)w + at;
    __m256i top = _mm256_setzero_si256();
    uint32_t lane[8], bits = 0;
    for (int64_t i = 0; i < n; i += 8)
        top = _mm256_max_epu32(top, _mm256_and_si256(_mm256_loadu_si256((const void *)(p + i)),
                                                     _mm256_set1_epi32(0x7fffffff)));
    _mm256_storeu_si256((void *)lane, top);
    for (int i = 0; i < 8; i++)
        bits = lane[i] > bits ? lane[i] : bits;
    *out = lu_f32_from_bits(bits);
    return bits < 0x7f800000u;
}

INLINE bool find_range(lutra_dtype t, bool signs, const void *w, int64_t at, int64_t n, float *lo,
                       float *hi)
{
    float absmax, lows[8], highs[8];
    if (!(t == LUTRA_F32 ? absmax32(w, at, n, &absmax) : absmax16(t, w, at, n, &absmax)))
        return false;
    *lo = -absmax;
    *hi = absmax;
    if (signs) {
        __m256 low = _mm256_setzero_ps(), high = low;
        for (int64_t i = 0; i < n; i += 8) {
            const __m256 v = load8(t, w, at + i);
            low = _mm256_min_ps(low, v);
            high = _mm256_max_ps(high, v);
        }
        _mm256_storeu_ps(lows, low);
        _mm256_storeu_ps(highs, high);
        *lo = *hi = 0;
        for (int i = 0; i < 8; i++) {
            *lo = lows[i] < *lo ? lows[i] : *lo;
            *hi = highs[i] > *hi ? highs[i] : *hi;
        }
    }
    return true;
}

/* What packing codes of one width needs. */
typedef struct {
    int bits;
    __m128i gap8, gap16,
        gap32;     /* shift counts that close the gap between fields of 8, 16, 32 bits */
    __m256i index; /* puts a lane's two words of `bits` bytes side by side, zeros after */
} packer;

INLINE packer packer_make(int bits)
{
    uint8_t index[16];
    for (int i = 0; i < 16; i++)
        index[i] = i < 2 * bits ? (uint8_t)(i / bits * 8 + i % bits) : 0x80;
    return (packer){bits, _mm_cvtsi32_si128(8 - bits), _mm_cvtsi32_si128(16 - 2 * bits),
                    _mm_cvtsi32_si128(32 - 4 * bits),
                    _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)index))};
}

/* Packs n bytes (a multiple of 32); writes nothing past the last. */
INLINE void pack(const packer *p, const uint8_t *codes, int64_t n, uint8_t *out)
{
    const int bits = p->bits;
    uint8_t last[32];
    const uint8_t *end = out + n / 8 * bits;
    for (int64_t i = 0; i < n; i += 32, out += 4 * bits) {
        __m256i v = _mm256_loadu_si256((const void *)(codes + i)), high;
        high = _mm256_andnot_si256(_mm256_set1_epi16(0x00ff), v);
        v = _mm256_or_si256(_mm256_xor_si256(v, high), _mm256_srl_epi16(high, p->gap8));
        high = _mm256_andnot_si256(_mm256_set1_epi32(0x0000ffff), v);
        v = _mm256_or_si256(_mm256_xor_si256(v, high), _mm256_srl_epi32(high, p->gap16));
        high = _mm256_andnot_si256(_mm256_set1_epi64x(0xffffffff), v);
        v = _mm256_or_si256(_mm256_xor_si256(v, high), _mm256_srl_epi64(high, p->gap32));
        v = _mm256_shuffle_epi8(v, p->index);
        uint8_t *to = end - out >= 2 * bits + 16 ? out : last; /* 16-byte stores overlap forwards */
        _mm_storeu_si128((void *)to, _mm256_castsi256_si128(v));
        _mm_storeu_si128((void *)(to + 2 * bits), _mm256_extracti128_si256(v, 1));
        if (to == last)
            memcpy(out, last, (size_t)(4 * bits));
    }
}

/* Lanes 0-7 and 8-15 of the energies. */
typedef struct {
    __m256 signal[2], noise[2];
} sums;

INLINE void add_errors(sums *s, int half, __m256 w, __m256 decoded)
{
    const __m256 error = _mm256_sub_ps(w, decoded);
    s->signal[half] = _mm256_add_ps(s->signal[half], _mm256_mul_ps(w, w));
    s->noise[half] = _mm256_add_ps(s->noise[half], _mm256_mul_ps(error, error));
}

/* 32 ranks to bytes. The packs work within 128-bit lanes; the permute puts the order right. */
INLINE void store_ranks(uint8_t *ranks, const __m256i r[4])
{
    const __m256i words =
        _mm256_packus_epi16(_mm256_packs_epi32(r[0], r[1]), _mm256_packs_epi32(r[2], r[3]));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256((void *)ranks, _mm256_permutevar8x32_epi32(words, order));
}

/* Pivots of a table of at most 16 values by search step (missing ones are infinite), values by
 * half. */
typedef struct {
    __m256 mid8, mid4, mid2, mid1, low, high;
} search;

INLINE search search_make(const lu_grid *g)
{
    const float *m = g->mid;
    return (search){
        .mid8 = _mm256_set1_ps(m[7]),
        .mid4 = _mm256_setr_ps(m[3], m[11], 0, 0, 0, 0, 0, 0),
        .mid2 = _mm256_setr_ps(m[1], m[5], m[9], m[13], 0, 0, 0, 0),
        .mid1 = _mm256_setr_ps(m[0], m[2], m[4], m[6], m[8], m[10], m[12], m[14]),
        .low = _mm256_loadu_ps(g->value),
        .high = _mm256_loadu_ps(g->value + 8),
    };
}

INLINE __m256 move(__m256 v, __m256 zero_value, __m256 scale)
{
    return _mm256_mul_ps(_mm256_sub_ps(v, zero_value), scale);
}

INLINE search search_scale(const search *t, float scale, float zero_value)
{
    const __m256 s = _mm256_set1_ps(scale), z = _mm256_set1_ps(zero_value);
    return (search){move(t->mid8, z, s), move(t->mid4, z, s), move(t->mid2, z, s),
                    move(t->mid1, z, s), move(t->low, z, s),  move(t->high, z, s)};
}

INLINE __m256i next_bit(__m256i r, __m256 pivot, __m256 w)
{
    const __m256i below = _mm256_castps_si256(_mm256_cmp_ps(pivot, w, _CMP_LT_OQ)); /* 0 or -1 */
    return _mm256_sub_epi32(_mm256_add_epi32(r, r), below);
}

INLINE __m256i search_rank(const search *p, __m256 w)
{
    __m256i r = next_bit(_mm256_setzero_si256(), p->mid8, w);
    r = next_bit(r, _mm256_permutevar8x32_ps(p->mid4, r), w);
    r = next_bit(r, _mm256_permutevar8x32_ps(p->mid2, r), w);
    return next_bit(r, _mm256_permutevar8x32_ps(p->mid1, r), w);
}

INLINE __m256 search_value(const search *p, __m256i r)
{
    const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(r, 28)); /* bit 3 to the sign */
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(p->low, r),
                            _mm256_permutevar8x32_ps(p->high, r), upper);
}

/* Integers low, low + 1, ... high after the zero point is taken off. */
typedef struct {
    __m256 low, high, scale, inverse;
} line;

INLINE line line_make(const lu_grid *g, float scale, float zero_value)
{
    const float low = g->value[0] - zero_value;
    return (line){_mm256_set1_ps(low), _mm256_set1_ps(low + (float)(g->n - 1)),
                  _mm256_set1_ps(scale), _mm256_set1_ps(1.0f / scale)};
}

INLINE __m256 line_round(const line *l, __m256 w)
{
    const __m256 half = _mm256_set1_ps(0.5f), one = _mm256_set1_ps(1);
    const __m256 r = _mm256_round_ps(_mm256_mul_ps(w, l->inverse),
                                     _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m256 above =
        _mm256_cmp_ps(_mm256_mul_ps(_mm256_add_ps(r, half), l->scale), w, _CMP_LT_OQ);
    const __m256 below =
        _mm256_cmp_ps(_mm256_mul_ps(_mm256_sub_ps(r, half), l->scale), w, _CMP_GE_OQ);
    const __m256 step = _mm256_sub_ps(_mm256_and_ps(above, one), _mm256_and_ps(below, one));
    return _mm256_min_ps(_mm256_max_ps(_mm256_add_ps(r, step), l->low), l->high);
}

/* Ranks of n columns (a multiple of 32) of one group. */
INLINE void ranks_search(lutra_dtype t, const search *p, const void *w, int64_t at, int64_t n,
                         uint8_t *ranks, sums *s)
{
    for (int64_t i = 0; i < n; i += 32) {
        __m256i r[4];
        for (int q = 0; q < 4; q++) {
            const __m256 v = load8(t, w, at + i + 8 * q);
            r[q] = search_rank(p, v);
            add_errors(s, q % 2, v, search_value(p, r[q]));
        }
        store_ranks(ranks + i, r);
    }
}

INLINE void ranks_line(lutra_dtype t, const line *l, const void *w, int64_t at, int64_t n,
                       uint8_t *ranks, sums *s)
{
    for (int64_t i = 0; i < n; i += 32) {
        __m256i r[4];
        for (int q = 0; q < 4; q++) {
            const __m256 v = load8(t, w, at + i + 8 * q);
            const __m256 value = line_round(l, v);
            r[q] = _mm256_cvttps_epi32(_mm256_sub_ps(value, l->low));
            add_errors(s, q % 2, v, _mm256_mul_ps(value, l->scale));
        }
        store_ranks(ranks + i, r);
    }
}

/* ---- the error of a scale (lu_range_fn) ----------------------------------------------------- */

INLINE float add_tree(const __m256 v[2])
{
    const __m256 v8 = _mm256_add_ps(v[0], v[1]);
    const __m128 v4 = _mm_add_ps(_mm256_castps256_ps128(v8), _mm256_extractf128_ps(v8, 1));
    const __m128 v2 = _mm_add_ps(v4, _mm_movehl_ps(v4, v4));
    return _mm_cvtss_f32(_mm_add_ss(v2, _mm_movehdup_ps(v2)));
}

INLINE lu_range_error range_error_of(const lu_encoder *e, const lu_encode_row_args *a, int64_t at,
                                     int64_t n, float scale, float zero_value, lutra_dtype t,
                                     bool use_search)
{
    const search table = search_make(&e->grid), p = search_scale(&table, scale, zero_value);
    const line l = line_make(&e->grid, scale, zero_value);
    const __m256 sign = _mm256_set1_ps(-0.0f), zero = _mm256_setzero_ps();
    __m256 square[2] = {zero, zero}, cube[2] = {zero, zero};
    for (int64_t i = at; i < at + n; i += 16)
        for (int half = 0; half < 2; half++) {
            const __m256 v = load8(t, a->w, i + 8 * half);
            const __m256 decoded = use_search ? search_value(&p, search_rank(&p, v))
                                              : _mm256_mul_ps(line_round(&l, v), l.scale);
            const __m256 error = _mm256_andnot_ps(sign, _mm256_sub_ps(v, decoded));
            const __m256 error2 = _mm256_mul_ps(error, error);
            square[half] = _mm256_add_ps(square[half], error2);
            cube[half] = _mm256_add_ps(cube[half], _mm256_mul_ps(error2, error));
        }
    return (lu_range_error){add_tree(square), add_tree(cube)};
}

INLINE lu_range_error range_error(const lu_encoder *e, const lu_encode_row_args *a, int64_t at,
                                  int64_t n, float scale, float zero_value, bool use_search)
{
    if (a->dtype == LUTRA_BF16)
        return range_error_of(e, a, at, n, scale, zero_value, LUTRA_BF16, use_search);
    return a->dtype == LUTRA_F16
               ? range_error_of(e, a, at, n, scale, zero_value, LUTRA_F16, use_search)
               : range_error_of(e, a, at, n, scale, zero_value, LUTRA_F32, use_search);
}

static lu_range_error range_error_search(const lu_encoder *e, const lu_encode_row_args *a,
                                         int64_t at, int64_t n, float scale, float zero_value)
{
    return range_error(e, a, at, n, scale, zero_value, true);
}

static lu_range_error range_error_line(const lu_encoder *e, const lu_encode_row_args *a, int64_t at,
                                       int64_t n, float scale, float zero_value)
{
    return range_error(e, a, at, n, scale, zero_value, false);
}

/* ---- rows ----------------------------------------------------------------------------------- */

INLINE double add_lanes(const __m256 v[2])
{
    float lane[LU_ENCODE_LANES];
    double sum = 0;
    _mm256_storeu_ps(lane, v[0]);
    _mm256_storeu_ps(lane + 8, v[1]);
    for (int i = 0; i < LU_ENCODE_LANES; i++)
        sum += (double)lane[i];
    return sum;
}

INLINE void sums_clear(sums *s)
{
    for (int half = 0; half < 2; half++)
        s->signal[half] = s->noise[half] = _mm256_setzero_ps();
}

INLINE lu_range_fn range_errors(const lu_encoder *e, bool use_search)
{
    (void)e;
    return use_search ? range_error_search : range_error_line;
}

#endif
