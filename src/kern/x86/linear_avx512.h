/* linear_avx512.h - vectors of 16 rows for linear_impl.h: loads, and code to value.

   vpermps looks up 16 floats by the low 4 bits of each lane, so bits above a code need no masking
   when a smaller table is repeated to fill 16 entries, and 4-bit codes use it directly. */
#ifndef LU_KERN_LINEAR_AVX512_H
#define LU_KERN_LINEAR_AVX512_H

#include <immintrin.h>
#include <stdint.h>

#define LU_LINEAR_TOKENS 6
enum { LANES = 16, TOKENS = LU_LINEAR_TOKENS }; /* 6 x 4 sums + 4 weights + 1 x: 29 of 32 zmm */

typedef __m512 vf;
typedef uint32_t vu __attribute__((vector_size(64), may_alias));

typedef struct tables {
    vf part[4];         /* up to 64 entries */
    vf first, step;     /* affine tables: first + code * step */
    const float *entry; /* all */
} tables;

static inline vf vf_zero(void) { return _mm512_setzero_ps(); }
static inline vf vf_set(float a) { return _mm512_set1_ps(a); }
static inline vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void vf_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
static inline vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
static inline vf vf_load_f16(const void *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
static inline vf vf_load_bf16(const void *p)
{
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
static inline vu vu_load(const void *p) { return (vu)_mm512_loadu_si512(p); }
static inline vf vf_gather(const float *table, const uint8_t *codes)
{
    const __m512i i = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)codes));
    return _mm512_i32gather_ps(i, table, 4);
}

static tables make_tables(int bits, const float *table)
{
    tables t = {.first = vf_set(table[0]), .step = vf_set(table[1] - table[0]), .entry = table};
    const int size = 1 << bits;
    for (int part = 0; part < 4; part++) {
        float v[LANES];
        for (int i = 0; i < LANES; i++)
            v[i] = table[(part * LANES + i) & (size - 1)];
        t.part[part] = vf_load(v);
    }
    if (bits == 2) { /* part[1]: by the second of two codes in 4 bits */
        float v[LANES];
        for (int i = 0; i < LANES; i++)
            v[i] = table[i >> 2];
        t.part[1] = vf_load(v);
    }
    return t;
}

/* Code c of 32 whose words start at p, `stride` bytes apart, moved to the low bits of its lane; the
   bits above it are not cleared, and come from the next word where a load at a byte offset stands
   for a shift by whole bytes (scales follow the last word, so that 3 bytes more can be read). A
   code of 2 bits comes with its neighbour, the even one lowest. */
static inline vu code_lanes(int bits, int c, const uint8_t *p, int stride)
{
    const int bit = (bits == 2 ? c & ~1 : c) * bits, word = bit / 32, shift = bit % 32;
    if (shift + bits > 32)
        return vu_load(p + word * stride) >> shift | vu_load(p + (word + 1) * stride)
                                                         << (32 - shift);
    if (shift % 8 == 0)
        return vu_load(p + word * stride + shift / 8);
    return vu_load(p + word * stride) >> shift;
}

static inline vf code_value(int bits, int affine, int c, vu lanes, const tables *t)
{
    const __m512i i = (__m512i)lanes;
    if (bits == 2)
        return _mm512_permutexvar_ps(i, t->part[c & 1]);
    if (bits <= 4)
        return _mm512_permutexvar_ps(i, t->part[0]);
    if (bits == 5)
        return _mm512_permutex2var_ps(t->part[0], i, t->part[1]);
    const __m512i code = _mm512_and_si512(i, _mm512_set1_epi32((1 << bits) - 1));
    if (affine)
        return _mm512_fmadd_ps(_mm512_cvtepi32_ps(code), t->step, t->first);
    if (bits == 6) {
        const vf low = _mm512_permutex2var_ps(t->part[0], i, t->part[1]);
        const vf high = _mm512_permutex2var_ps(t->part[2], i, t->part[3]);
        return _mm512_mask_blend_ps(_mm512_test_epi32_mask(i, _mm512_set1_epi32(32)), low, high);
    }
    return _mm512_i32gather_ps(code, t->entry, 4);
}

#endif
