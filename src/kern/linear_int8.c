/* linear_int8.c - which weights multiply as integers, and their packing (linear_int8.h). */
#include "kern/linear_int8.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "fmt/codec.h"
#include "tensor/convert.h"

static size_t align64(size_t n) { return (n + 63) & ~(size_t)63; }

static void table_ends(const lu_weight *w, float *lo, float *hi)
{
    *lo = *hi = w->table[0];
    for (int i = 1; i < 1 << w->bits; i++) {
        *lo = fminf(*lo, w->table[i]);
        *hi = fmaxf(*hi, w->table[i]);
    }
}

bool lu_linear_takes_u8(const lu_weight *w)
{
    float lo, hi;
    if (w->dtype != LUTRA_DTYPE_NONE || w->bits < 2 || w->bits > LUTRA_MAX_BITS || w->tables ||
        w->groups || w->n_outliers)
        return false;
    for (int i = 0; i < 1 << w->bits; i++)
        if (w->table[i] != rintf(w->table[i]))
            return false;
    table_ends(w, &lo, &hi);
    return w->zeros ? hi - lo <= 127 : lo >= -128 && hi <= 127;
}

bool lu_int8_fits_nibbles(const lu_weight *w)
{
    float lo, hi;
    table_ends(w, &lo, &hi);
    return w->table[0] == lo && hi - lo <= 15;
}

lu_int8_layout lu_int8_layout_of(const lu_linear *l, int64_t unit_rows)
{
    lu_int8_layout o = {.segment = l->group_size, .per_group = 1};
    const size_t rows = (size_t)unit_rows, k = (size_t)(l->k + 7) / 8 * 8;
    if (o.segment > LU_INT8_SEGMENT) {
        o.segment = LU_INT8_SEGMENT;
        o.per_group = (l->group_size + o.segment - 1) / o.segment;
    }
    o.groups = l->k / l->group_size * o.per_group;
    const size_t lanes = (size_t)o.groups * rows * sizeof(float);
    o.scales = align64((l->nibbles ? k / 2 : k) * rows);
    o.sums = o.scales + lanes;
    o.offsets = o.sums + lanes;
    o.unit_bytes = align64(o.offsets + (l->nibbles ? lanes : 0));
    return o;
}

bool lu_int8_unit_bytes(const lu_linear *l, int64_t unit_rows, size_t *out)
{
    size_t most; /* at most as many groups as 8 columns each: 12 bytes a group, 1 a column */
    if (!lu_mul_size((size_t)l->k, (size_t)unit_rows * 16, &most))
        return false;
    *out = lu_int8_layout_of(l, unit_rows).unit_bytes;
    return true;
}

typedef struct {
    const lu_linear *l;
    const lu_weight *w;
    lu_int8_layout o;
    uint8_t *unit;
} packing;

/* Codes of columns [k0, k1) of a row to their places in lane r; returns the sum of their values. */
static int32_t pack_codes(const packing *p, const uint8_t *row, int64_t r, int64_t k0, int64_t k1,
                          const int8_t *values)
{
    const lu_linear *l = p->l;
    const int64_t U = l->unit_rows;
    int32_t sum = 0;
    for (int64_t k = k0; k < k1; k += 8) {
        const int64_t n = k1 - k < 8 ? k1 - k : 8;
        uint8_t codes[8];
        int8_t v[8] = {0};
        lu_codes_unpack(row + (size_t)(k / 8) * (size_t)l->bits, n, l->bits, codes);
        for (int64_t i = 0; i < n; i++)
            sum += v[i] = values[codes[i]];
        if (l->nibbles) {
            uint8_t *out = p->unit + (size_t)(k / 8 * U + r) * 4;
            for (int i = 0; i < 4; i++)
                out[i] = (uint8_t)(v[i] | v[i + 4] << 4);
        } else {
            memcpy(p->unit + (size_t)(k / 4 * U + r) * 4, v, 4);
            if (n > 4)
                memcpy(p->unit + (size_t)((k / 4 + 1) * U + r) * 4, v + 4, 4);
        }
    }
    return sum;
}

/* One group of row `from` of W to lane r of the unit. */
static void pack_group(const packing *p, int64_t from, int64_t r, int64_t g)
{
    const lu_linear *l = p->l;
    const lu_weight *w = p->w;
    const int64_t U = l->unit_rows, groups = l->k / l->group_size, stored = g / p->o.per_group;
    const size_t row_bytes = ((size_t)l->k * (size_t)l->bits + 7) / 8;
    const size_t at = (size_t)(from * groups + stored);
    const int zero = w->zeros ? (int)l->table[w->zeros[at]] : 0, first = (int)l->table[0];
    int8_t values[256];
    float scale;
    int64_t k0, k1;
    for (int i = 0; i < 1 << l->bits; i++)
        values[i] = (int8_t)((int)l->table[i] - (l->nibbles ? first : zero));
    lu_int8_group(l, &p->o, g, &k0, &k1);
    int32_t sum =
        pack_codes(p, (const uint8_t *)w->data + (size_t)from * row_bytes, r, k0, k1, values);
    if (l->nibbles)
        sum += (int32_t)(k1 - k0) * (first - zero);
    const size_t lane = (size_t)(g * U + r) * 4, size = lutra_dtype_bytes(w->scale_dtype);
    lu_to_f32(w->scale_dtype, (const uint8_t *)w->scales + at * size, 1, &scale);
    memcpy(p->unit + p->o.scales + lane, &scale, sizeof scale);
    memcpy(p->unit + p->o.sums + lane, &sum, sizeof sum);
    if (l->nibbles)
        memset(p->unit + p->o.offsets + lane, (uint8_t)(int8_t)(first - zero), 4);
}

void lu_int8_pack_units(const lu_linear *l, const lu_weight *w, int64_t unit0, int64_t unit1)
{
    packing p = {.l = l, .w = w, .o = lu_int8_layout_of(l, l->unit_rows)};
    for (int64_t u = unit0; u < unit1; u++) {
        const int64_t row = u * l->unit_rows;
        const int64_t rows = l->n - row < l->unit_rows ? l->n - row : l->unit_rows;
        p.unit = (uint8_t *)l->packed + (size_t)u * l->unit_bytes;
        memset(p.unit, 0, l->unit_bytes);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t g = 0; g < p.o.groups; g++)
                pack_group(&p, row + r, r, g);
    }
}
