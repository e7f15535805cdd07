/* convert_ref.c - reference conversions between float32 and the 16-bit floats: loops over the scalar
   functions of tensor/convert.h. */
#include "kern/levels.h"
#include "tensor/convert.h"

static void bf16_to_f32(float *y, const uint16_t *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = lu_bf16_to_f32(x[i]);
}

static void f16_to_f32(float *y, const uint16_t *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = lu_f16_to_f32(x[i]);
}

static void f32_to_bf16(uint16_t *y, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = lu_f32_to_bf16(x[i]);
}

static void f32_to_f16(uint16_t *y, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = lu_f32_to_f16(x[i]);
}

void lu_fill_ref_convert(lu_ops *ops)
{
    ops->bf16_to_f32 = bf16_to_f32;
    ops->f16_to_f32 = f16_to_f32;
    ops->f32_to_bf16 = f32_to_bf16;
    ops->f32_to_f16 = f32_to_f16;
}
