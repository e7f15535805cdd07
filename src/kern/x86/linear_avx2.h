/* linear_avx2.h - vectors of 8 rows for linear_impl.h: loads, and code to value. vpermps looks up 8
   floats by the low 3 bits of each lane; a fourth bit chooses between two of them. */
#ifndef LU_KERN_LINEAR_AVX2_H
#define LU_KERN_LINEAR_AVX2_H

#include <immintrin.h>
#include <stdint.h>

#define LU_LINEAR_TOKENS 3
enum { LANES = 8, TOKENS = LU_LINEAR_TOKENS }; /* 3 x 4 sums + 3 x + 1 weight: 16 ymm */

typedef __m256 vf;
typedef uint32_t vu __attribute__((vector_size(32), may_alias));

typedef struct tables {
    vf part[2];         /* up to 16 entries */
    vf first, step;     /* affine tables: first + code * step */
    const float *entry; /* all */
} tables;

static inline vf vf_zero(void) { return _mm256_setzero_ps(); }
static inline vf vf_set(float a) { return _mm256_set1_ps(a); }
static inline vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void vf_store(float *p, vf a) { _mm256_storeu_ps(p, a); }
static inline vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
static inline vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
static inline vf vf_load_f16(const void *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
static inline vf vf_load_bf16(const void *p)
{
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
static inline vu vu_load(const void *p) { return (vu)_mm256_loadu_si256((const __m256i *)p); }
static inline vf vf_gather(const float *table, const uint8_t *codes)
{
    const __m256i i = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)codes));
    return _mm256_i32gather_ps(table, i, 4);
}

static tables make_tables(int bits, const float *table)
{
    tables t = {.first = vf_set(table[0]), .step = vf_set(table[1] - table[0]), .entry = table};
    const int size = 1 << bits;
    for (int part = 0; part < 2; part++) {
        float v[LANES];
        for (int i = 0; i < LANES; i++)
            v[i] = table[(part * LANES + i) & (size - 1)];
        t.part[part] = vf_load(v);
    }
    return t;
}

/* Code c of 32 whose words start at p, `stride` bytes apart, moved to the low bits of its lane; the
   bits above it are not cleared. */
static inline vu code_lanes(int bits, int c, const uint8_t *p, int stride)
{
    const int bit = c * bits, word = bit / 32, shift = bit % 32;
    const vu low = vu_load(p + word * stride) >> shift;
    if (shift + bits <= 32)
        return low;
    return low | vu_load(p + (word + 1) * stride) << (32 - shift);
}

static inline vf code_value(int bits, int affine, int c, vu lanes, const tables *t)
{
    (void)c;
    const __m256i i = (__m256i)lanes;
    if (bits <= 3)
        return _mm256_permutevar8x32_ps(t->part[0], i);
    if (bits == 4) {
        const vf low = _mm256_permutevar8x32_ps(t->part[0], i);
        const vf high = _mm256_permutevar8x32_ps(t->part[1], i);
        return _mm256_blendv_ps(low, high, (vf)(lanes << 28)); /* by bit 3 */
    }
    const __m256i code = _mm256_and_si256(i, _mm256_set1_epi32((1 << bits) - 1));
    if (affine)
        return _mm256_fmadd_ps(_mm256_cvtepi32_ps(code), t->step, t->first);
    return _mm256_i32gather_ps(t->entry, code, 4);
}

#endif
