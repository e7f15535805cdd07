/* convert.h - exact scalar conversions between float32 and the 16- and 8-bit floats; the truth that
   vector versions are checked against. Rounding is to nearest, ties to even. */
#ifndef LU_TENSOR_CONVERT_H
#define LU_TENSOR_CONVERT_H

#include <string.h>

#include "lutra/tensor.h"

static inline uint32_t lu_f32_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static inline float lu_f32_from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline float lu_bf16_to_f32(uint16_t h) { return lu_f32_from_bits((uint32_t)h << 16); }

static inline uint16_t lu_f32_to_bf16(float f)
{
    const uint32_t u = lu_f32_bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((u >> 16) | 0x40u); /* NaN stays a quiet NaN */
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

float lu_f16_to_f32(uint16_t h);
uint16_t lu_f32_to_f16(float f); /* overflow gives infinity */

/* n elements of any floating type (F32 F16 BF16 F64 F8_E4M3 F8_E5M2) to float32; false for other
   types. src may stand at any byte. E4M3 is the "fn" kind: no infinities, NaN is 0x7f and 0xff. */
bool lu_to_f32(lutra_dtype t, const void *src, int64_t n, float *dst);
/* float32 to F32, F16, BF16, F8_E4M3 or F8_E5M2; false for other types. The 8-bit types saturate
   (448, 57344) and keep NaN; F16 and BF16 overflow to infinity. */
bool lu_from_f32(lutra_dtype t, const float *src, int64_t n, void *dst);

#endif
