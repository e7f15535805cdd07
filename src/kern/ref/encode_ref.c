/* encode_ref.c - the row encoder in plain C over the parts of fmt/codec.h. Weights are converted to
   float32 in chunks on the stack, twice: once for the range of a group, once for its codes. */
#include "kern/encode.h"

#include <math.h>
#include <string.h>

#include "tensor/convert.h"

#define CHUNK 256 /* a multiple of 16 and 8: chunks keep the lanes and begin at whole bytes */

typedef struct {
    float signal[LU_ENCODE_LANES], noise[LU_ENCODE_LANES];
} lanes;

static const void *element(const lu_encode_row_args *a, int64_t i)
{
    return (const uint8_t *)a->w + (size_t)i * lutra_dtype_bytes(a->dtype);
}

/* Smallest and largest of columns [at, at + n) with where they are; the column of the first NaN or
   infinity, or -1. */
typedef struct {
    float lo, hi;
    int64_t lo_at, hi_at, bad;
} range;

static range find_range(const lu_encode_row_args *a, int64_t at, int64_t n)
{
    float w[CHUNK];
    range r = {.lo = INFINITY, .hi = -INFINITY, .bad = -1};
    for (int64_t i = 0; i < n; i += CHUNK) {
        const int64_t m = n - i < CHUNK ? n - i : CHUNK;
        lu_to_f32(a->dtype, element(a, at + i), m, w);
        for (int64_t j = 0; j < m; j++) {
            if (!isfinite(w[j])) {
                r.bad = at + i + j;
                return r;
            }
            if (w[j] < r.lo) {
                r.lo = w[j];
                r.lo_at = at + i + j;
            }
            if (w[j] > r.hi) {
                r.hi = w[j];
                r.hi_at = at + i + j;
            }
        }
    }
    return r;
}

static void encode_group(const lu_encoder *e, const lu_encode_row_args *a, int64_t at, int64_t n,
                         float scale, float zero_value, lanes *sums)
{
    const int bits = e->format.bits;
    float w[CHUNK], pivot[256];
    uint8_t codes[CHUNK];
    lu_group_pivots(&e->grid, scale, zero_value, pivot);
    for (int64_t i = 0; i < n; i += CHUNK) {
        const int64_t m = n - i < CHUNK ? n - i : CHUNK, column = at + i;
        lu_to_f32(a->dtype, element(a, column), m, w);
        lu_group_codes(&e->grid, scale, pivot, w, m, codes);
        lu_codes_pack(codes, m, bits, a->codes + (size_t)(column / 8) * (size_t)bits);
        for (int64_t j = 0; j < m; j++) {
            const float error = w[j] - scale * (e->format.table[codes[j]] - zero_value);
            const int64_t lane = (column + j) % LU_ENCODE_LANES;
            sums->signal[lane] += w[j] * w[j];
            sums->noise[lane] += error * error;
        }
    }
}

static lu_range_error range_error(const lu_encoder *e, const lu_encode_row_args *a, int64_t at,
                                  int64_t n, float scale, float zero_value)
{
    float w[CHUNK], pivot[256], square[LU_ENCODE_LANES] = {0}, cube[LU_ENCODE_LANES] = {0};
    uint8_t codes[CHUNK];
    lu_group_pivots(&e->grid, scale, zero_value, pivot);
    for (int64_t i = 0; i < n; i += CHUNK) {
        const int64_t m = n - i < CHUNK ? n - i : CHUNK;
        lu_to_f32(a->dtype, element(a, at + i), m, w);
        lu_group_codes(&e->grid, scale, pivot, w, m, codes);
        for (int64_t j = 0; j < m; j++) {
            const float error = fabsf(w[j] - scale * (e->format.table[codes[j]] - zero_value));
            const int64_t lane = (at + i + j) % LU_ENCODE_LANES;
            square[lane] += error * error;
            cube[lane] += error * error * error;
        }
    }
    for (int half = LU_ENCODE_LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) {
            square[i] += square[i + half];
            cube[i] += cube[i + half];
        }
    return (lu_range_error){square[0], cube[0]};
}

static int64_t encode_row(const lu_encoder *e, lu_encode_row_args *a)
{
    const lutra_format *f = &e->format;
    const int64_t size = f->group_size > 0 ? f->group_size : a->k;
    lanes sums;
    memset(&sums, 0, sizeof sums);
    for (int64_t at = 0, group = 0; at < a->k; at += size, group++) {
        float scale;
        int zero;
        range r = find_range(a, at, size);
        if (r.bad >= 0)
            return r.bad;
        if (!lu_group_scale(f, r.lo, r.hi, &scale, &zero))
            return -r.lo > r.hi ? r.lo_at : r.hi_at;
        if (e->range == LUTRA_RANGE_MSE) {
            lu_encoder_shrink_range(e, a, range_error, at, size, &r.lo, &r.hi);
            lu_group_scale(f, r.lo, r.hi, &scale, &zero);
        }
        lu_scale_set(f->scale_dtype, a->scales, group, scale);
        if (f->zero_point)
            a->zeros[group] = (uint8_t)zero;
        encode_group(e, a, at, size, scale, f->zero_point ? f->table[zero] : 0, &sums);
    }
    a->signal = a->noise = 0;
    for (int i = 0; i < LU_ENCODE_LANES; i++) {
        a->signal += (double)sums.signal[i];
        a->noise += (double)sums.noise[i];
    }
    return -1;
}

void lu_fill_ref_encode(lu_encoder *e) { e->plain = encode_row; }
