/* kv_quant.c - see kv_quant.h. */
#include "kern/kv_quant.h"

#include <math.h>
#include <string.h>

#include "tensor/convert.h"

#define HEADER 4 /* bytes before the codes of a row that has one scale */
#define E4M3_MAX 448.0f

static float half_at(const uint8_t *p, int64_t i)
{
    uint16_t h;
    memcpy(&h, p + 2 * i, sizeof h);
    return lu_f16_to_f32(h);
}

/* Rounded to float16; returns the rounded value. */
static float put_half(uint8_t *p, int64_t i, float x)
{
    const uint16_t h = lu_f32_to_f16(x);
    memcpy(p + 2 * i, &h, sizeof h);
    return lu_f16_to_f32(h);
}

/* n codes of `bits` bits, one a byte, to whole bytes. */
static void pack(const uint8_t *codes, int64_t n, int bits, uint8_t *out)
{
    const int per_byte = 8 / bits;
    for (int64_t i = 0; i < n; i += per_byte) {
        unsigned byte = 0;
        for (int64_t j = i; j < n && j < i + per_byte; j++)
            byte |= (unsigned)codes[j] << (j - i) * bits;
        out[i / per_byte] = (uint8_t)byte;
    }
}

static int code_at(const uint8_t *packed, int64_t i, int bits)
{
    const int per_byte = 8 / bits;
    return packed[i / per_byte] >> i % per_byte * bits & ((1 << bits) - 1);
}

/* --- one scale a row -------------------------------------------------------------------------- */

static void encode_integers(const lu_ops *ops, lu_kv_kind kind, const float *x, int64_t n,
                            uint8_t *row, uint8_t *codes)
{
    const bool wide = kind == LU_KV_INT8;
    const int top = wide ? 255 : 15;
    float range[2];
    int zero = 128;
    ops->act_range(range, x, n);
    const double span =
        wide ? fmax(-(double)range[0], (double)range[1]) : (double)range[1] - (double)range[0];
    const float s = put_half(row, 0, (float)(span / (wide ? 127 : 15)));
    if (!wide) {
        const float z = rintf(-range[0] / s);
        zero = z > 0 ? (int)(z < 15 ? z : 15) : 0; /* also where s is 0 or NaN */
    }
    row[2] = (uint8_t)zero;
    row[3] = 0;
    if (s > 0 && isfinite(s))
        ops->act_encode(codes, x, n, s, zero, wide ? 1 : 0, top);
    else
        memset(codes, zero, (size_t)n);
    if (isinf(s)) /* beyond float16: as good as not a number, and it must show */
        put_half(row, 0, NAN);
    if (wide)
        memcpy(row + HEADER, codes, (size_t)n);
    else
        pack(codes, n, 4, row + HEADER);
}

static void encode_floats(const lu_ops *ops, const float *x, int64_t n, uint8_t *row)
{
    float range[2];
    ops->act_range(range, x, n);
    const float largest = -range[0] > range[1] ? -range[0] : range[1];
    const float s = put_half(row, 0, isnan(range[0]) ? NAN : largest / E4M3_MAX);
    row[2] = row[3] = 0;
    if (isinf(s))
        put_half(row, 0, NAN);
    for (int64_t i = 0; i < n; i++) {
        const float v = s > 0 && isfinite(s) ? x[i] / s : 0;
        lu_from_f32(LUTRA_F8_E4M3, &v, 1, row + HEADER + i);
    }
}

/* --- KIVI ------------------------------------------------------------------------------------- */

/* Scale and offset of n values `step` apart, put at index i of the halves s and lo; codes, one a
   byte, likewise `step` apart. */
static void encode_group(const float *x, int64_t n, int64_t step, int bits, uint8_t *s, uint8_t *lo,
                         int64_t i, uint8_t *codes)
{
    float least = x[0], most = x[0], probe = 0;
    for (int64_t j = 0; j < n; j++) {
        const float v = x[j * step];
        least = v < least ? v : least;
        most = v > most ? v : most;
        probe += v * 0.0f;
    }
    const int top = (1 << bits) - 1;
    const float offset = put_half(lo, i, isnan(probe) ? NAN : least);
    const float scale = put_half(s, i, (float)(((double)most - (double)offset) / top));
    for (int64_t j = 0; j < n; j++) {
        const float q = scale > 0 ? rintf((x[j * step] - offset) / scale) : 0;
        codes[j * step] = (uint8_t)(q > 0 ? (q < (float)top ? q : (float)top) : 0);
    }
}

static void encode_value(lu_kv_kind kind, const float *x, int64_t n, uint8_t *row, uint8_t *codes)
{
    const int64_t groups = lu_kivi_groups(n);
    for (int64_t g = 0; g < groups; g++) {
        const int64_t at = g * LU_KIVI_GROUP, left = n - at;
        encode_group(x + at, left < LU_KIVI_GROUP ? left : LU_KIVI_GROUP, 1, lu_kv_bits(kind), row,
                     row + 2 * groups, g, codes + at);
    }
    pack(codes, n, lu_kv_bits(kind), row + 4 * groups);
}

void lu_kivi_encode_keys(lu_kv_kind kind, const float *x, int64_t n, uint8_t *group)
{
    const int64_t bytes = lu_kv_code_bytes(kind, n);
    const int bits = lu_kv_bits(kind);
    uint8_t *packed = group + 4 * n, codes[LU_KIVI_GROUP];
    memset(packed, 0, (size_t)(LU_KIVI_GROUP * bytes));
    for (int64_t d = 0; d < n; d++) {
        float channel[LU_KIVI_GROUP];
        for (int t = 0; t < LU_KIVI_GROUP; t++)
            channel[t] = x[t * n + d];
        encode_group(channel, LU_KIVI_GROUP, 1, bits, group, group + 2 * n, d, codes);
        for (int t = 0; t < LU_KIVI_GROUP; t++)
            packed[t * bytes + d * bits / 8] |= (uint8_t)(codes[t] << d * bits % 8);
    }
}

/* --- any row ---------------------------------------------------------------------------------- */

void lu_kv_encode_row(const lu_ops *ops, lu_kv_kind kind, const float *x, int64_t n, uint8_t *row,
                      uint8_t *codes)
{
    switch (kind) {
    case LU_KV_F32: memcpy(row, x, (size_t)n * sizeof *x); break;
    case LU_KV_BF16: ops->f32_to_bf16((uint16_t *)(void *)row, x, n); break;
    case LU_KV_INT8:
    case LU_KV_INT4: encode_integers(ops, kind, x, n, row, codes); break;
    case LU_KV_FP8: encode_floats(ops, x, n, row); break;
    default: encode_value(kind, x, n, row, codes); break;
    }
}

float lu_kv_decode(lu_kv_kind kind, const uint8_t *row, int64_t n, int64_t d)
{
    const int64_t groups = lu_kivi_groups(n), g = d / LU_KIVI_GROUP;
    float v;
    switch (kind) {
    case LU_KV_F32: memcpy(&v, row + 4 * d, sizeof v); return v;
    case LU_KV_BF16: lu_to_f32(LUTRA_BF16, row + 2 * d, 1, &v); return v;
    case LU_KV_INT8: return half_at(row, 0) * (float)(row[HEADER + d] - 128);
    case LU_KV_INT4: return half_at(row, 0) * (float)(code_at(row + HEADER, d, 4) - row[2]);
    case LU_KV_FP8: lu_to_f32(LUTRA_F8_E4M3, row + HEADER + d, 1, &v); return half_at(row, 0) * v;
    default:
        return fmaf(half_at(row, g), (float)code_at(row + 4 * groups, d, lu_kv_bits(kind)),
                    half_at(row, groups + g));
    }
}

float lu_kivi_decode_key(lu_kv_kind kind, const uint8_t *group, int64_t n, int64_t t, int64_t d)
{
    const uint8_t *codes = group + 4 * n + t * lu_kv_code_bytes(kind, n);
    return fmaf(half_at(group, d), (float)code_at(codes, d, lu_kv_bits(kind)),
                half_at(group, n + d));
}
