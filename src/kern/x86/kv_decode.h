/* kv_decode.h - rows of a quantized KV cache (fmt/kv_format.h) as floats, on vectors; the same bits
   as kern/kv_quant.c. Included by attention_impl.h. */
#ifndef LU_KERN_X86_KV_DECODE_H
#define LU_KERN_X86_KV_DECODE_H

#include "fmt/kv_format.h"
#include "kern/x86/vec.h"

#define KV_HEADER 4 /* bytes before the codes of a row with one scale */

static inline float half_to_float(const uint8_t *p)
{
    uint16_t h;
    __builtin_memcpy(&h, p, sizeof h);
    return _cvtsh_ss(h);
}

/* One row of n values; KIVI: a value row. */
static void decode_row(lu_kv_kind kind, const uint8_t *row, int64_t n, float *out)
{
    const uint8_t *codes = row + (lu_kv_is_kivi(kind) ? 4 * lu_kivi_groups(n) : KV_HEADER);
    const uint8_t *offsets = row + 2 * lu_kivi_groups(n);
    vec s = v_set1(half_to_float(row)), z = v_set1(kind == LU_KV_INT8 ? 128.0f : (float)row[2]);
    for (int64_t d = 0; d < n; d += LANES) {
        const int64_t m = n - d < LANES ? n - d : LANES;
        vec x;
        if (lu_kv_is_kivi(kind)) { /* LANES divides LU_KIVI_GROUP */
            s = v_set1(half_to_float(row + d / LU_KIVI_GROUP * 2));
            z = v_set1(half_to_float(offsets + d / LU_KIVI_GROUP * 2));
            x = kind == LU_KV_KIVI4 ? v_load_u4_n(codes + d / 2, m) : v_load_u2_n(codes + d / 4, m);
            x = v_fma(s, x, z);
        } else if (kind == LU_KV_INT8) {
            x = v_mul(s, v_sub(v_load_u8_n(codes + d, m), z));
        } else if (kind == LU_KV_INT4) {
            x = v_mul(s, v_sub(v_load_u4_n(codes + d / 2, m), z));
        } else {
            x = v_mul(s, v_load_e4m3_n(codes + d, m));
        }
        v_store_n(out + d, x, m);
    }
}

/* Keys [from, to) of a KIVI group, 0 <= from <= to <= LU_KIVI_GROUP: out [to - from][stride]. */
static void decode_keys(lu_kv_kind kind, const uint8_t *group, int64_t n, int64_t from, int64_t to,
                        int64_t stride, float *out)
{
    const int64_t bytes = lu_kv_code_bytes(kind, n);
    const uint16_t *scales = (const uint16_t *)(const void *)group;
    for (int64_t d = 0; d < n; d += LANES) {
        const int64_t m = n - d < LANES ? n - d : LANES;
        const vec s = v_load_f16_n(scales + d, m), lo = v_load_f16_n(scales + n + d, m);
        const uint8_t *codes = group + 4 * n + from * bytes;
        for (int64_t t = from; t < to; t++, codes += bytes) {
            const vec q =
                kind == LU_KV_KIVI4 ? v_load_u4_n(codes + d / 2, m) : v_load_u2_n(codes + d / 4, m);
            v_store_n(out + (t - from) * stride + d, v_fma(s, q, lo), m);
        }
    }
}

#endif
