/* linear_ref.c - the matrix product in plain C: the slow, obvious version that runs everywhere.

   A packed unit is UNIT_ROWS records of one row each, canonical data with float32 scales:
     dense   [k] elements of l->dtype
     coded   [groups] float32 scale, [groups] float32 zero value, row of codes
   A row is decoded once into scratch and then multiplied with every x. */
#include "base/mem.h"
#include "fmt/codec.h"
#include "kern/linear_variant.h"
#include "tensor/convert.h"

enum { UNIT_ROWS = 16 };

static size_t code_bytes(const lu_linear *l) { return ((size_t)l->k * (size_t)l->bits + 7) / 8; }

static size_t row_bytes(const lu_linear *l)
{
    if (!l->bits)
        return (size_t)l->k * lutra_dtype_bytes(l->dtype);
    const size_t codes = (code_bytes(l) + 3) & ~(size_t)3; /* keeps the next row's floats aligned */
    return (size_t)(l->k / l->group_size) * 2 * sizeof(float) + codes;
}

static bool unit_bytes(const lu_linear *l, size_t *out)
{
    return lu_mul_size(row_bytes(l), UNIT_ROWS, out);
}

static void pack_dense_row(const lu_linear *l, const lu_weight *w, int64_t row, uint8_t *out)
{
    const size_t size = lutra_dtype_bytes(w->dtype);
    const uint8_t *in = (const uint8_t *)w->data + (size_t)row * (size_t)l->k * size;
    if (w->dtype == l->dtype) {
        memcpy(out, in, row_bytes(l));
        return;
    }
    for (int64_t i = 0; i < l->k; i++) { /* rounding to bf16 is the only conversion planned */
        float v;
        lu_to_f32(w->dtype, in + (size_t)i * size, 1, &v);
        const uint16_t h = lu_f32_to_bf16(v);
        memcpy(out + 2 * i, &h, sizeof h);
    }
}

/* The codes of a row in the order of the packed columns: groups are multiples of 8 columns, so
   each 8 codes fill whole bytes. */
static void pack_codes(const lu_linear *l, const uint8_t *codes, uint8_t *out)
{
    if (!l->order) {
        memcpy(out, codes, code_bytes(l));
        return;
    }
    for (int64_t k = 0; k < l->k; k += 8) {
        uint8_t eight[8];
        for (int i = 0; i < 8; i++)
            eight[i] = (uint8_t)lu_code_at(codes, l->order[k + i], l->bits);
        lu_codes_pack(eight, 8, l->bits, out + (size_t)(k / 8) * (size_t)l->bits);
    }
}

static void pack_coded_row(const lu_linear *l, const lu_weight *w, int64_t row, uint8_t *out)
{
    const int64_t groups = l->k / l->group_size;
    const size_t scale_size = lutra_dtype_bytes(w->scale_dtype);
    lu_to_f32(w->scale_dtype, (const uint8_t *)w->scales + (size_t)(row * groups) * scale_size,
              groups, (float *)out);
    float *zeros = (float *)out + groups;
    for (int64_t g = 0; g < groups; g++)
        zeros[g] = w->zeros ? l->table[w->zeros[row * groups + g]] : 0.0f;
    pack_codes(l, (const uint8_t *)w->data + (size_t)row * code_bytes(l),
               (uint8_t *)(zeros + groups));
}

static void pack(const lu_linear *l, const lu_weight *w, int64_t unit0, int64_t unit1)
{
    const int64_t end = unit1 * UNIT_ROWS < l->n ? unit1 * UNIT_ROWS : l->n;
    for (int64_t row = unit0 * UNIT_ROWS; row < end; row++) {
        uint8_t *out = (uint8_t *)l->packed + (size_t)row * row_bytes(l);
        if (l->bits)
            pack_coded_row(l, w, row, out);
        else
            pack_dense_row(l, w, row, out);
    }
}

/* One row as float32 without its scales: T[q] - T[zero], or the dense values. */
static void decode_row(const lu_linear *l, const float *table, const uint8_t *row, float *out)
{
    if (!l->bits) {
        lu_to_f32(l->dtype, row, l->k, out);
        return;
    }
    const int64_t groups = l->k / l->group_size;
    const float *zeros = (const float *)row + groups;
    const uint8_t *codes = (const uint8_t *)(zeros + groups);
    for (int64_t k = 0; k < l->k; k++)
        out[k] = table[lu_code_at(codes, k, l->bits)] - zeros[k / l->group_size];
}

static inline float x_at(const lu_linear *l, const void *x, int64_t i)
{
    return l->act == LUTRA_BF16 ? lu_bf16_to_f32(((const uint16_t *)x)[i]) : ((const float *)x)[i];
}

static float dot(const lu_linear *l, const float *w, const float *scales, const void *x)
{
    float y = 0.0f;
    for (int64_t k = 0; k < l->k;) {
        const int64_t g = k / l->group_size;
        int64_t end = (g + 1) * l->group_size;
        if (end > k + LU_LINEAR_SEGMENT)
            end = k + LU_LINEAR_SEGMENT;
        float sum = 0.0f;
        for (; k < end; k++)
            sum += x_at(l, x, k) * w[k];
        y += l->bits ? scales[g] * sum : sum;
    }
    return y;
}

static void run(const lu_linear *l, const lu_linear_args *a)
{
    float *w = a->scratch;
    const size_t x_size = lutra_dtype_bytes(l->act);
    const int64_t end = a->unit1 * UNIT_ROWS < l->n ? a->unit1 * UNIT_ROWS : l->n;
    for (int64_t n = a->unit0 * UNIT_ROWS; n < end; n++) {
        const uint8_t *row = (const uint8_t *)l->packed + (size_t)n * row_bytes(l);
        decode_row(l, lu_unit_table(l, n / UNIT_ROWS), row, w);
        for (int64_t m = 0; m < a->M; m++) {
            const uint8_t *x = (const uint8_t *)a->x + (size_t)(m * a->ldx) * x_size;
            const float v = dot(l, w, (const float *)row, x);
            a->y[m * a->ldy + n] = l->bias ? v + l->bias[n] : v;
        }
    }
}

static size_t scratch(const lu_linear *l, int64_t M)
{
    (void)M;
    return (size_t)l->k * sizeof(float);
}

const lu_linear_variant lu_linear_ref = {
    .name = "ref",
    .level = LU_LEVEL_REF,
    .unit_rows = UNIT_ROWS,
    .unit_bytes = unit_bytes,
    .pack = pack,
    .run = run,
    .scratch = scratch,
};
