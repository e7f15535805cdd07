/* codec.c - the reference encoder and decoder; the equations are in codec.h.
   Plain and slow on purpose: the vector encoders of src/kern are compared with this file. */
#include "fmt/codec.h"

#include <math.h>
#include <string.h>

#include "tensor/convert.h"

#define CHUNK 256 /* codes held at a time; a multiple of 8 keeps packed chunks on byte bounds */

void lu_codes_pack(const uint8_t *codes, int64_t n, int bits, uint8_t *out)
{
    uint32_t held = 0;
    int n_held = 0;
    for (int64_t i = 0; i < n; i++) {
        held |= (uint32_t)codes[i] << n_held;
        n_held += bits;
        while (n_held >= 8) {
            *out++ = (uint8_t)held;
            held >>= 8;
            n_held -= 8;
        }
    }
    if (n_held > 0)
        *out = (uint8_t)held;
}

void lu_codes_unpack(const uint8_t *in, int64_t n, int bits, uint8_t *codes)
{
    for (int64_t i = 0; i < n; i++)
        codes[i] = (uint8_t)lu_code_at(in, i, bits);
}

float lu_scale_get(lutra_dtype t, const void *scales, int64_t i)
{
    if (t == LUTRA_F16)
        return lu_f16_to_f32(((const uint16_t *)scales)[i]);
    if (t == LUTRA_BF16)
        return lu_bf16_to_f32(((const uint16_t *)scales)[i]);
    return ((const float *)scales)[i];
}

void lu_scale_set(lutra_dtype t, void *scales, int64_t i, float scale)
{
    if (t == LUTRA_F16)
        ((uint16_t *)scales)[i] = lu_f32_to_f16(scale);
    else if (t == LUTRA_BF16)
        ((uint16_t *)scales)[i] = lu_f32_to_bf16(scale);
    else
        ((float *)scales)[i] = scale;
}

void lu_grid_init(lu_grid *g, const lutra_format *f)
{
    g->bits = f->bits;
    g->n = 1 << f->bits;
    for (int i = 0; i < g->n; i++) { /* insertion sort: stable, and linear for built-ins */
        int j = i;
        for (; j > 0 && g->value[j - 1] > f->table[i]; j--) {
            g->value[j] = g->value[j - 1];
            g->code[j] = g->code[j - 1];
        }
        g->value[j] = f->table[i];
        g->code[j] = (uint8_t)i;
    }
    for (int i = 0; i < 256; i++)
        g->mid[i] = INFINITY;
    for (int i = g->n; i < 256; i++)
        g->value[i] = 0;
    g->near_zero = 0;
    g->identity = g->uniform = true;
    for (int r = 0; r < g->n; r++) {
        if (fabsf(g->value[r]) < fabsf(g->value[g->near_zero]))
            g->near_zero = r;
        if (r + 1 < g->n)
            g->mid[r] = (float)(0.5 * ((double)g->value[r] + (double)g->value[r + 1]));
        g->identity &= g->code[r] == r;
        g->uniform &= g->value[r] == g->value[0] + (float)r;
    }
    g->uniform &= g->value[0] == rintf(g->value[0]) && fabsf(g->value[0]) <= 256;
}

static bool round_scale(lutra_dtype t, float exact, float *out)
{
    if (t == LUTRA_F16) {
        const uint16_t h = lu_f32_to_f16(exact);
        *out = lu_f16_to_f32(h == 0 ? 1 : h); /* 1: 2^-24, the smallest half */
        return isfinite(*out);
    }
    const float s = t == LUTRA_BF16 ? lu_bf16_to_f32(lu_f32_to_bf16(exact)) : exact;
    *out = s < LU_MIN_SCALE ? LU_MIN_SCALE : s;
    return exact <= LU_MAX_SCALE;
}

bool lu_group_scale(const lutra_format *f, float lo, float hi, float *scale, int *zero)
{
    const float exact = lu_group_exact_scale(f, lo, hi);
    *scale = 0;
    *zero = 0;
    if (exact == 0)
        return true;
    if (!round_scale(f->scale_dtype, exact, scale))
        return false;
    if (f->zero_point)
        *zero = lu_group_zero(f, lo, *scale);
    return true;
}

void lu_group_pivots(const lu_grid *g, float scale, float zero_value, float *pivot)
{
    for (int r = 0; r + 1 < g->n; r++)
        pivot[r] = (g->mid[r] - zero_value) * scale;
}

void lu_group_codes(const lu_grid *g, float scale, const float *pivot, const float *w, int64_t n,
                    uint8_t *codes)
{
    if (scale == 0) {
        memset(codes, g->code[g->near_zero], (size_t)n);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        int rank = 0; /* all pivots before rank are below w */
        for (int step = g->n / 2; step > 0; step /= 2)
            if (pivot[rank + step - 1] < w[i])
                rank += step;
        codes[i] = g->code[rank];
    }
}

/* Codes of one group, packed at out (a whole byte: groups are multiples of 8 or the only one). */
static void encode_group(const lu_grid *g, float scale, float zero_value, const float *w, int64_t n,
                         uint8_t *out)
{
    float pivot[256];
    uint8_t codes[CHUNK];
    lu_group_pivots(g, scale, zero_value, pivot);
    for (int64_t i = 0; i < n; i += CHUNK) {
        const int64_t m = n - i < CHUNK ? n - i : CHUNK;
        lu_group_codes(g, scale, pivot, w + i, m, codes);
        lu_codes_pack(codes, m, g->bits, out + (size_t)(i / 8) * (size_t)g->bits);
    }
}

int64_t lu_encode_row(const lutra_format *f, const float *w, int64_t k, uint8_t *codes_packed,
                      void *scales, uint8_t *zeros)
{
    lu_grid grid;
    lu_grid_init(&grid, f);
    const int64_t size = f->group_size > 0 ? f->group_size : k;
    for (int64_t at = 0, group = 0; at < k; at += size, group++) {
        float lo = w[at], hi = w[at], scale;
        int64_t lo_at = at, hi_at = at;
        int zero;
        for (int64_t i = at; i < at + size; i++) {
            if (!isfinite(w[i]))
                return i;
            if (w[i] < lo)
                lo = w[lo_at = i];
            if (w[i] > hi)
                hi = w[hi_at = i];
        }
        if (!lu_group_scale(f, lo, hi, &scale, &zero))
            return -lo > hi ? lo_at : hi_at;
        lu_scale_set(f->scale_dtype, scales, group, scale);
        if (f->zero_point)
            zeros[group] = (uint8_t)zero;
        encode_group(&grid, scale, f->zero_point ? f->table[zero] : 0, w + at, size,
                     codes_packed + (size_t)(at / 8) * (size_t)f->bits);
    }
    return -1;
}

void lu_decode_row(const lutra_format *f, const uint8_t *codes_packed, const void *scales,
                   const uint8_t *zeros, int64_t k, float *out)
{
    const int64_t size = f->group_size > 0 ? f->group_size : k;
    for (int64_t i = 0; i < k; i++) {
        const float scale = lu_scale_get(f->scale_dtype, scales, i / size);
        const float zero_value = f->zero_point ? f->table[zeros[i / size]] : 0;
        out[i] = scale * (f->table[lu_code_at(codes_packed, i, f->bits)] - zero_value);
    }
}
