/* linear_extras.c - see linear_extras.h. Plain C for all levels: the products here are with a few
   columns, the copies of x are read once. */
#include "kern/linear_extras.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "fmt/codec.h"
#include "tensor/convert.h"

#define MAX_UNIT_ROWS LU_TABLE_ROWS

static size_t align64(size_t n) { return (n + 63) & ~(size_t)63; }

static int32_t int_at(const void *list, int64_t i)
{
    int32_t v;
    memcpy(&v, (const uint8_t *)list + (size_t)i * sizeof v, sizeof v);
    return v;
}

static float float_at(const void *list, int64_t i)
{
    float v;
    memcpy(&v, (const uint8_t *)list + (size_t)i * sizeof v, sizeof v);
    return v;
}

static int64_t blocks_of(int64_t n, int64_t table_rows)
{
    return (n + table_rows - 1) / table_rows;
}

/* ---- planning ------------------------------------------------------------------------------- */

lutra_status lu_extras_check(const lu_weight *w, lutra_err *err)
{
    if (w->tables) {
        if (w->table_rows < LU_TABLE_ROWS || w->table_rows % LU_TABLE_ROWS != 0 || w->zeros)
            return lu_fail(err, LUTRA_E_ARG,
                           "weight: a table for every %lld rows%s, expected a multiple of %d",
                           (long long)w->table_rows, w->zeros ? " and zero points" : "",
                           LU_TABLE_ROWS);
        for (int64_t i = 0; i < blocks_of(w->n, w->table_rows) << w->bits; i++)
            if (!isfinite(float_at(w->tables, i)))
                return lu_fail(err, LUTRA_E_ARG, "weight: value %lld of the tables is not finite",
                               (long long)i);
    }
    if (w->groups && w->group_size % 8 != 0)
        return lu_fail(err, LUTRA_E_ARG, "weight: groups of %lld columns, expected a multiple of 8",
                       (long long)w->group_size);
    for (int64_t i = 0; i < w->n_outliers; i++) {
        const int32_t c = int_at(w->outlier_columns, i);
        if (c < 0 || c >= w->k || (i && c <= int_at(w->outlier_columns, i - 1)))
            return lu_fail(err, LUTRA_E_ARG,
                           "weight: outlier column %d, expected ascending ones below %lld", c,
                           (long long)w->k);
    }
    return LUTRA_OK;
}

/* Where each part lies; 0: none. */
typedef struct {
    size_t tables, order, counters, columns, at, weights, end;
} extras_layout;

static bool place(size_t *end, size_t count, size_t *at)
{
    size_t bytes;
    *at = *end;
    if (!lu_mul_size(count, sizeof(float), &bytes) || !lu_add_size(bytes, 63, &bytes) ||
        !lu_add_size(*end, bytes / 64 * 64, end))
        return false;
    return true;
}

static bool lay_out(const lu_linear *l, extras_layout *o)
{
    const size_t k = (size_t)l->k, c = (size_t)l->n_outliers;
    const size_t blocks = l->table_rows ? (size_t)blocks_of(l->n, l->table_rows) : 0;
    size_t weights;
    if (!lu_mul_size(l->unit_bytes, (size_t)l->n_units, &o->end) ||
        !lu_mul_size(c, (size_t)(l->n_units * l->unit_rows), &weights))
        return false;
    o->end = align64(o->end);
    return place(&o->end, blocks << l->bits, &o->tables) &&
           place(&o->end, l->gathered ? k : 0, &o->order) &&
           place(&o->end, l->gathered ? k / (size_t)l->group_size : 0, &o->counters) &&
           place(&o->end, c, &o->columns) && place(&o->end, c, &o->at) &&
           place(&o->end, weights, &o->weights);
}

bool lu_extras_plan(lu_linear *l, const lu_weight *w)
{
    extras_layout o;
    l->table_rows = w->tables ? w->table_rows : 0;
    l->n_outliers = w->n_outliers;
    l->gathered = w->groups != NULL;
    if (!lay_out(l, &o) || o.end > SIZE_MAX / 2)
        return false;
    l->packed_bytes = o.end;
    return true;
}

/* ---- packing -------------------------------------------------------------------------------- */

/* A counting sort: columns by group, within one as they stood. */
static void sort_columns(const lu_weight *w, int64_t size, int32_t *order, int32_t *next)
{
    for (int64_t g = 0; g < w->k / size; g++)
        next[g] = (int32_t)(g * size);
    for (int64_t k = 0; k < w->k; k++)
        order[next[int_at(w->groups, k)]++] = (int32_t)k;
}

static int by_int(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

void lu_extras_attach(lu_linear *l, const lu_weight *w)
{
    extras_layout o;
    uint8_t *base = l->packed;
    (void)lay_out(l, &o); /* planned before */
    if (l->table_rows) {
        float *tables = (float *)(base + o.tables);
        for (int64_t i = 0; i < blocks_of(l->n, l->table_rows) << l->bits; i++) {
            const float v = float_at(w->tables, i);
            tables[i] = l->act == LUTRA_BF16 ? lu_bf16_to_f32(lu_f32_to_bf16(v)) : v;
        }
        l->tables = tables;
    }
    if (w->groups) {
        int32_t *order = (int32_t *)(base + o.order);
        sort_columns(w, l->group_size, order, (int32_t *)(base + o.counters));
        l->order = order;
    }
    if (!l->n_outliers)
        return;
    int32_t *columns = (int32_t *)(base + o.columns), *at = (int32_t *)(base + o.at);
    for (int64_t i = 0; i < l->n_outliers; i++)
        at[i] = columns[i] = int_at(w->outlier_columns, i);
    for (int64_t j = 0; l->order && j < l->k; j++) {
        const int32_t *c = bsearch(&l->order[j], columns, (size_t)l->n_outliers, sizeof *c, by_int);
        if (c)
            at[c - columns] = (int32_t)j;
    }
    l->outlier_columns = columns;
    l->outlier_at = at;
    l->outlier_weights = (const float *)(base + o.weights);
}

void lu_extras_pack(const lu_linear *l, const lu_weight *w, int64_t unit0, int64_t unit1)
{
    if (!l->n_outliers)
        return;
    extras_layout o;
    (void)lay_out(l, &o);
    for (int64_t u = unit0; u < unit1; u++) {
        float *to = (float *)((uint8_t *)l->packed + o.weights) + u * l->n_outliers * l->unit_rows;
        for (int64_t r = 0; r < l->unit_rows; r++) {
            const int64_t row = u * l->unit_rows + r;
            for (int64_t i = 0; i < l->n_outliers; i++) {
                uint16_t h = 0;
                if (row < l->n)
                    memcpy(&h,
                           (const uint8_t *)w->outlier_weights +
                               (size_t)(row * l->n_outliers + i) * sizeof h,
                           sizeof h);
                to[i * l->unit_rows + r] = lu_f16_to_f32(h);
            }
        }
    }
}

/* ---- running -------------------------------------------------------------------------------- */

bool lu_extras_change_x(const lu_linear *l) { return l->gathered || l->n_outliers; }

void lu_extras_x(const lu_linear *l, const void *x, int64_t ldx, int64_t rows, void *out)
{
    const size_t size = lutra_dtype_bytes(l->act);
    for (int64_t m = 0; m < rows; m++) {
        const uint8_t *from = (const uint8_t *)x + (size_t)(m * ldx) * size;
        uint8_t *to = (uint8_t *)out + (size_t)(m * l->k) * size;
        if (!l->order)
            memcpy(to, from, (size_t)l->k * size);
        else if (l->act == LUTRA_BF16)
            for (int64_t k = 0; k < l->k; k++)
                ((uint16_t *)to)[k] = ((const uint16_t *)from)[l->order[k]];
        else
            for (int64_t k = 0; k < l->k; k++)
                ((float *)to)[k] = ((const float *)from)[l->order[k]];
        for (int64_t i = 0; i < l->n_outliers; i++)
            memset(to + (size_t)l->outlier_at[i] * size, 0, size);
    }
}

void lu_extras_add(const lu_linear *l, const lu_linear_args *a)
{
    const int64_t U = l->unit_rows;
    for (int64_t u = a->unit0; l->n_outliers && u < a->unit1; u++) {
        const int64_t n = l->n - u * U < U ? l->n - u * U : U;
        const float *unit = l->outlier_weights + u * l->n_outliers * U;
        for (int64_t m = 0; m < a->M; m++) {
            float sum[MAX_UNIT_ROWS] = {0}, *y = a->y + m * a->ldy + u * U;
            for (int64_t i = 0; i < l->n_outliers; i++) {
                const int64_t at = m * a->ldx + l->outlier_columns[i];
                const float x = l->act == LUTRA_BF16 ? lu_bf16_to_f32(((const uint16_t *)a->x)[at])
                                                     : ((const float *)a->x)[at];
                for (int64_t r = 0; r < U; r++)
                    sum[r] += x * unit[i * U + r];
            }
            for (int64_t r = 0; r < n; r++)
                y[r] += sum[r];
        }
    }
}

/* ---- the oracle ----------------------------------------------------------------------------- */

void lu_extras_row(const lu_weight *w, int64_t row, float *out)
{
    const int64_t size = w->group_size ? w->group_size : w->k, groups = w->k / size;
    const uint8_t *codes =
        (const uint8_t *)w->data + (size_t)row * (((size_t)w->k * (size_t)w->bits + 7) / 8);
    const size_t scale_size = lutra_dtype_bytes(w->scale_dtype);
    const int64_t first = w->tables ? row / w->table_rows << w->bits : 0;
    for (int64_t k = 0; k < w->k; k++) {
        const int64_t at = row * groups + (w->groups ? int_at(w->groups, k) : k / size);
        const int code = lu_code_at(codes, k, w->bits);
        float scale;
        lu_to_f32(w->scale_dtype, (const uint8_t *)w->scales + (size_t)at * scale_size, 1, &scale);
        out[k] = scale * ((w->tables ? float_at(w->tables, first + code) : w->table[code]) -
                          (w->zeros ? w->table[w->zeros[at]] : 0.0f));
    }
    for (int64_t i = 0; i < w->n_outliers; i++)
        lu_to_f32(LUTRA_F16,
                  (const uint8_t *)w->outlier_weights + (size_t)(row * w->n_outliers + i) * 2, 1,
                  &out[int_at(w->outlier_columns, i)]);
}
