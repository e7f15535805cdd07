/* lut_decode.h - weights from codes in registers, without a table in shared memory. CUDA's kernels
   use it; plain C compiles it too, so that every word is tested without a GPU.

   Ways, of a table T of 16-bit numbers:
     table       every pair of codes is looked up in shared memory (lut_brick.cuh)
     arithmetic  T[q] = base + step q exactly: a code is put into the mantissa of a power of two,
                 and one fused multiply-add makes the weight. Exact, so nothing is rounded

   Where masking two codes out of a word is cheaper than a permute a pair holds other columns than
   lut_layout.cuh says, and the activations of the lane are turned to match, once for all strips. */
#ifndef LU_KERN_CUDA_LUT_DECODE_H
#define LU_KERN_CUDA_LUT_DECODE_H

#include <math.h>
#include <stdint.h>

#include "kern/cuda/lut_matmul.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define LUT_FN static __device__ __forceinline__
#define LUT_HOST static inline
#define LUT_UNROLL _Pragma("unroll")
#else
#define LUT_FN static inline
#define LUT_HOST static inline
#define LUT_UNROLL
#endif

/* lu_cuda_decoder: of arithmetic, a multiplier and an addend, doubled, for each place that codes
   have in a byte. */

#ifdef __CUDACC__
LUT_FN uint32_t lut_permute(uint32_t a, uint32_t b, uint32_t selector)
{
    return __byte_perm(a, b, selector);
}

/* (a & b) | c, one instruction */
LUT_FN uint32_t lut_and_or(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t v;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(v) : "r"(a), "r"(b), "r"(c));
    return v;
}

LUT_FN uint32_t lut_fma2(int bf16, uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t v;
    if (bf16)
        asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(v) : "r"(a), "r"(b), "r"(c));
    else
        asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(v) : "r"(a), "r"(b), "r"(c));
    return v;
}
#else
uint32_t lut_permute(uint32_t a, uint32_t b, uint32_t selector);
uint32_t lut_and_or(uint32_t a, uint32_t b, uint32_t c);
uint32_t lut_fma2(int bf16, uint32_t a, uint32_t b, uint32_t c);
#endif

/* Whether activations are turned (lut_turn_x). */
LUT_FN int lut_turned(int bits, int way) { return bits <= 4 && way == LU_CUDA_ARITHMETIC; }

/* The four words x0 x1, x2 x3, x4 x5, x6 x7 of a lane's 8 columns, to the order of the pairs that
   lut_decode makes: 2 bits x0 x4, x1 x5, x2 x6, x3 x7, else x0 x2, x1 x3, x4 x6, x5 x7. */
LUT_FN void lut_turn_x(int bits, uint32_t x[4])
{
    const uint32_t b = bits == 2 ? x[2] : x[1], c = bits == 2 ? x[1] : x[2], x0 = x[0], x3 = x[3];
    x[0] = lut_permute(x0, b, 0x5410);
    x[1] = lut_permute(x0, b, 0x7632);
    x[2] = lut_permute(c, x3, 0x5410);
    x[3] = lut_permute(c, x3, 0x7632);
}

/* Three bits: the pairs of step j, a byte each; above them two bits of others, or zeros. */
LUT_FN uint32_t lut_word3(const uint32_t *w, int j)
{
    const uint32_t *h = w + 3 * (j >> 2);
    return (j & 3) < 3
               ? h[j & 3]
               : (h[0] >> 6 & 0x03030303u) | (h[1] >> 4 & 0x0c0c0c0cu) | (h[2] >> 2 & 0x30303030u);
}

/* The four A registers of step j of mma.m16n8k16: rows g, g + 8 of the first pair, then of the
   second. w: the lane's words of a brick. The mantissa holds 10 bits above which fp16 has 1024,
   bf16 7 bits and 128. */
LUT_FN void lut_decode_arithmetic(int bits, int bf16, const lu_cuda_decoder *d, const uint32_t *w,
                                  int j, uint32_t a[4])
{
    const uint32_t one = bf16 ? 0x43004300u : 0x64006400u, *t = d->word;
    if (bits == 8) {
        LUT_UNROLL
        for (int i = 0; i < 4; i++)
            a[i] = lut_fma2(bf16, lut_permute(w[2 * j + (i >> 1)], one, i & 1 ? 0x5352 : 0x5150),
                            t[0], t[1]);
        return;
    }
    const uint32_t v = bits == 2 ? w[j >> 1] : bits == 3 ? lut_word3(w, j) : w[j];
    const int first =
        bits == 2 ? 4 * (j & 1) : 0; /* where the codes of the first pair lie in a byte */
    LUT_UNROLL
    for (int i = 0; i < 4; i++) {
        int at = first + bits * (i >> 1), down = 8 * (i & 1);
        if (bf16 && at + bits > 7) { /* down to where they fit */
            const int to = bits == 2 ? 4 : 0;
            down += at - to;
            at = to;
        }
        const int place = at / bits;
        a[i] = lut_fma2(bf16, lut_and_or(v >> down, (0x00010001u << at) * ((1u << bits) - 1), one),
                        t[2 * place], t[2 * place + 1]);
    }
}

#define LUT_DIVIDED 4095

/* floor(v / d) = v * this >> 16 for v <= LUT_DIVIDED and d <= 16: the error, v d / 65536, is below
 * 1 / d. */
LUT_HOST unsigned lut_reciprocal(int d) { return 65536u / (unsigned)d + 1; }

/* A finite number of 16 bits. */
LUT_HOST double lut_value(uint16_t v, int bf16)
{
    const int mantissa = bf16 ? 7 : 10, bias = bf16 ? 127 : 15;
    const int e = (v & 0x7fff) >> mantissa, m = v & ((1 << mantissa) - 1);
    const double size = e ? ldexp((double)(m + (1 << mantissa)), e - bias - mantissa)
                          : ldexp((double)m, 1 - bias - mantissa);
    return v & 0x8000 ? -size : size;
}

/* v as a normal number of 16 bits, doubled; 0 if it is none. */
LUT_HOST int lut_exact_pair(double v, int bf16, uint32_t *out)
{
    const int mantissa = bf16 ? 7 : 10, bias = bf16 ? 127 : 15;
    int e;
    *out = 0;
    if (v == 0)
        return 1;
    frexp(v, &e);
    e--;
    const double m = ldexp(fabs(v), mantissa - e);
    if (e < 1 - bias || e > bias || m != floor(m))
        return 0;
    const uint32_t half = (uint32_t)(v < 0) << 15 | (uint32_t)(e + bias) << mantissa |
                          ((uint32_t)m - (1u << mantissa));
    *out = half << 16 | half;
    return 1;
}

/* Multipliers and addends of the arithmetic way; 0 if it is not exact for this table. */
LUT_HOST int lut_arithmetic(int bits, int bf16, const uint16_t *table, lu_cuda_decoder *d)
{
    const int room = bf16 ? 7 : 8; /* bits of a byte that fit the mantissa */
    const double one = bf16 ? 128 : 1024, base = lut_value(table[0], bf16),
                 step = lut_value(table[1], bf16) - base;
    const lu_cuda_decoder none = {{0}};
    *d = none;
    if (bits > room ||
        !(fabs(base) < 65536 && fabs(step) < 65536)) /* larger ones are not worth it */
        return 0;
    for (int q = 0; q < 1 << bits; q++)
        if (!(lut_value(table[q], bf16) == base + step * q))
            return 0;
    for (int at = 0; at + bits <= room; at += bits) {
        const double m = ldexp(step, -at);
        const int place = at / bits;
        if (!lut_exact_pair(m, bf16, &d->word[2 * place]) ||
            !lut_exact_pair(base - m * one, bf16, &d->word[2 * place + 1]))
            return 0;
    }
    return 1;
}

/* Prepares a way for a table; 0 if the way does not know it. */
LUT_HOST int lut_prepare(int way, int bits, int bf16, const uint16_t *table, lu_cuda_decoder *d)
{
    const lu_cuda_decoder none = {{0}};
    *d = none;
    return way == LU_CUDA_TABLE ||
           (way == LU_CUDA_ARITHMETIC && lut_arithmetic(bits, bf16, table, d));
}

#endif
