/* encode_scale.h - lu_group_scale and lu_scale_set in one step with the F16C instructions, for the
   vector encoders: rounding in software took most of the time of small groups. */
#ifndef LU_KERN_X86_ENCODE_SCALE_H
#define LU_KERN_X86_ENCODE_SCALE_H

#include <immintrin.h>

#include "fmt/codec.h"
#include "tensor/convert.h"

/* Stores the scale of group i. False when it overflows. */
static inline __attribute__((always_inline)) bool lu_store_scale(const lutra_format *f, float lo,
                                                                 float hi, void *scales, int64_t i,
                                                                 float *scale, int *zero)
{
    const float exact = lu_group_exact_scale(f, lo, hi);
    bool fits = exact <= LU_MAX_SCALE;
    if (f->scale_dtype == LUTRA_F16) {
        uint16_t h = _cvtss_sh(exact, _MM_FROUND_TO_NEAREST_INT);
        h = h == 0 && exact > 0 ? 1 : h;
        fits = h < 0x7c00;
        ((uint16_t *)scales)[i] = h;
        *scale = _cvtsh_ss(h);
    } else if (f->scale_dtype == LUTRA_BF16) {
        float s = lu_bf16_to_f32(lu_f32_to_bf16(exact));
        s = s < LU_MIN_SCALE && exact > 0 ? LU_MIN_SCALE : s;
        ((uint16_t *)scales)[i] = (uint16_t)(lu_f32_bits(s) >> 16);
        *scale = s;
    } else {
        *scale = exact < LU_MIN_SCALE && exact > 0 ? LU_MIN_SCALE : exact;
        ((float *)scales)[i] = *scale;
    }
    *zero = f->zero_point && exact > 0 ? lu_group_zero(f, lo, *scale) : 0;
    return fits;
}

#endif
