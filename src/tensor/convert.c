/* convert.c - see convert.h. One generic small-float decoder and encoder serve fp16 and both fp8
   types: a format is (exponent bits, mantissa bits), value = (-1)^s 2^(e-bias) (1 + m/2^M), with
   e = 0 subnormal. What differs is only what the top exponent means. */
#include "tensor/convert.h"

#include <math.h>

typedef enum { TOP_IEEE, TOP_FINITE } top_exponent; /* inf/NaN, or finite values but all-ones NaN */

static float decode_small(uint32_t bits, int e_bits, int m_bits, top_exponent top)
{
    const uint32_t m_mask = (1u << m_bits) - 1, e_max = (1u << e_bits) - 1;
    const uint32_t m = bits & m_mask, e = (bits >> m_bits) & e_max;
    const float sign = (bits >> (e_bits + m_bits)) & 1u ? -1.0f : 1.0f;
    const int bias = (1 << (e_bits - 1)) - 1;
    if (top == TOP_IEEE && e == e_max)
        return m ? NAN : sign * INFINITY;
    if (top == TOP_FINITE && e == e_max && m == m_mask)
        return NAN;
    if (e == 0)
        return sign * ldexpf((float)m, 1 - bias - m_bits);
    return sign * ldexpf((float)(m | (1u << m_bits)), (int)e - bias - m_bits);
}

/* Round |f| to the grid of spacing 2^(exponent - m_bits); rintf is RNE in the default mode. */
static uint32_t encode_small(float f, int e_bits, int m_bits, top_exponent top, bool saturate)
{
    const uint32_t sign = (lu_f32_bits(f) >> 31) << (e_bits + m_bits);
    const uint32_t e_max = (1u << e_bits) - 1, m_mask = (1u << m_bits) - 1;
    const int bias = (1 << (e_bits - 1)) - 1;
    const uint32_t top_ieee = e_max << m_bits;                  /* infinity */
    const uint32_t all_ones = top_ieee | m_mask;                /* a NaN in both kinds */
    const uint32_t largest = top == TOP_IEEE ? top_ieee - 1 : all_ones - 1;
    if (isnan(f))
        return sign | all_ones;
    const float a = fabsf(f);
    int exponent = a > 0 ? ilogbf(a) : 1 - bias;
    if (exponent < 1 - bias)
        exponent = 1 - bias;
    if (exponent > bias + 1)
        return sign | (saturate ? largest : top_ieee);
    /* scaled to units of the last place: an exact power-of-two product */
    const uint32_t units = (uint32_t)rintf(ldexpf(a, m_bits - exponent));
    uint32_t code = units < (1u << m_bits) ? units /* subnormal */
                                           : units + ((uint32_t)(exponent + bias - 1) << m_bits);
    if (code > largest)
        code = saturate ? largest : top_ieee;
    return sign | code;
}

float lu_f16_to_f32(uint16_t h) { return decode_small(h, 5, 10, TOP_IEEE); }
uint16_t lu_f32_to_f16(float f) { return (uint16_t)encode_small(f, 5, 10, TOP_IEEE, false); }
static float e4m3_to_f32(uint8_t b) { return decode_small(b, 4, 3, TOP_FINITE); }
static float e5m2_to_f32(uint8_t b) { return decode_small(b, 5, 2, TOP_IEEE); }
static uint8_t f32_to_e4m3(float f) { return (uint8_t)encode_small(f, 4, 3, TOP_FINITE, true); }
static uint8_t f32_to_e5m2(float f) { return (uint8_t)encode_small(f, 5, 2, TOP_IEEE, true); }

bool lu_to_f32(lutra_dtype t, const void *src, int64_t n, float *dst)
{
    switch (t) {
    case LUTRA_F32: memcpy(dst, src, (size_t)n * sizeof *dst); return true;
    case LUTRA_F16:
    case LUTRA_BF16:
        for (int64_t i = 0; i < n; i++) {
            uint16_t h;
            memcpy(&h, (const char *)src + 2 * i, sizeof h);
            dst[i] = t == LUTRA_F16 ? lu_f16_to_f32(h) : lu_bf16_to_f32(h);
        }
        return true;
    case LUTRA_F64:
        for (int64_t i = 0; i < n; i++) {
            double d;
            memcpy(&d, (const char *)src + 8 * i, sizeof d);
            dst[i] = (float)d;
        }
        return true;
    case LUTRA_F8_E4M3:
        for (int64_t i = 0; i < n; i++)
            dst[i] = e4m3_to_f32(((const uint8_t *)src)[i]);
        return true;
    case LUTRA_F8_E5M2:
        for (int64_t i = 0; i < n; i++)
            dst[i] = e5m2_to_f32(((const uint8_t *)src)[i]);
        return true;
    default: return false;
    }
}

bool lu_from_f32(lutra_dtype t, const float *src, int64_t n, void *dst)
{
    switch (t) {
    case LUTRA_F32: memcpy(dst, src, (size_t)n * sizeof *src); return true;
    case LUTRA_F16:
    case LUTRA_BF16:
        for (int64_t i = 0; i < n; i++) {
            const uint16_t h = t == LUTRA_F16 ? lu_f32_to_f16(src[i]) : lu_f32_to_bf16(src[i]);
            memcpy((char *)dst + 2 * i, &h, sizeof h);
        }
        return true;
    case LUTRA_F8_E4M3:
        for (int64_t i = 0; i < n; i++)
            ((uint8_t *)dst)[i] = f32_to_e4m3(src[i]);
        return true;
    case LUTRA_F8_E5M2:
        for (int64_t i = 0; i < n; i++)
            ((uint8_t *)dst)[i] = f32_to_e5m2(src[i]);
        return true;
    default: return false;
    }
}
