/* linear.c - the face of the matrix products: checks a weight, picks the variant of the highest
   level that exists at or below the asked one, and forwards packing and running to it. The oracle
   lu_weight_row lives here too: it says what a stored weight means and shares no code with them. */
#include "kern/linear.h"

#include <math.h>
#include <stdio.h>

#include "base/mem.h"
#include "fmt/codec.h"
#include "kern/linear_extras.h"
#include "kern/linear_int8.h"
#include "tensor/convert.h"

#define COPIED_ROWS 96 /* of x: as many as a variant takes in one pass over the weights */

/* Highest level first. */
static const lu_linear_variant *const int8_variants[] = {
#if defined(__x86_64__)
    &lu_linear_int8_avx512,
    &lu_linear_int8_avx2,
#endif
    &lu_linear_int8_ref,
};

static const lu_linear_variant *const variants[] = {
#if defined(__x86_64__)
    &lu_linear_avx512,
    &lu_linear_avx2,
#endif
    &lu_linear_ref,
};

static bool is_weight_float(lutra_dtype t)
{
    return t == LUTRA_F32 || t == LUTRA_F16 || t == LUTRA_BF16;
}

static lutra_status check_coded(const lu_weight *w, lutra_err *err)
{
    if (w->bits < 2 || w->bits > LUTRA_MAX_BITS)
        return lu_fail(err, LUTRA_E_ARG, "weight: codes of %d bits, expected 2..8", w->bits);
    if (!is_weight_float(w->scale_dtype))
        return lu_fail(err, LUTRA_E_ARG, "weight: scales of type %s, expected F16, BF16 or F32",
                       lutra_dtype_name(w->scale_dtype));
    const int64_t group = w->group_size ? w->group_size : w->k;
    if (group < 0 || w->k % group != 0)
        return lu_fail(err, LUTRA_E_ARG, "weight: group %lld does not divide %lld columns",
                       (long long)group, (long long)w->k);
    if (group != w->k && group % 8 != 0)
        return lu_fail(err, LUTRA_E_UNSUPPORTED,
                       "weight: group %lld, expected a multiple of 8 or the whole row",
                       (long long)group);
    for (int i = 0; !w->tables && i < 1 << w->bits; i++)
        if (!isfinite(w->table[i]))
            return lu_fail(err, LUTRA_E_ARG, "weight: table value %d is not finite", i);
    return lu_extras_check(w, err);
}

static lutra_status check_weight(const lu_weight *w, lutra_dtype act, lutra_err *err)
{
    if (w->n < 1 || w->k < 1 || w->n > INT32_MAX || w->k > INT32_MAX)
        return lu_fail(err, LUTRA_E_ARG, "weight: shape %lld x %lld, expected 1..2^31-1 each",
                       (long long)w->n, (long long)w->k);
    if (act != LUTRA_F32 && act != LUTRA_BF16 && act != LUTRA_U8)
        return lu_fail(err, LUTRA_E_ARG, "activations of type %s, expected F32, BF16 or U8",
                       lutra_dtype_name(act));
    if (w->dtype == LUTRA_DTYPE_NONE)
        return check_coded(w, err);
    if (!is_weight_float(w->dtype))
        return lu_fail(err, LUTRA_E_ARG, "weight: type %s, expected F32, F16 or BF16",
                       lutra_dtype_name(w->dtype));
    return LUTRA_OK;
}

static bool is_affine(const float *table, int n)
{
    const float step = table[1] - table[0];
    for (int i = 0; i < n; i++)
        if (fmaf((float)i, step, table[0]) != table[i])
            return false;
    return true;
}

static void fill_format(lu_linear *l, const lu_weight *w, lutra_dtype act)
{
    const bool coded = w->dtype == LUTRA_DTYPE_NONE;
    l->n = w->n;
    l->k = w->k;
    l->act = act;
    l->group_size = coded && w->group_size ? w->group_size : w->k;
    if (!coded) {
        l->dtype = act == LUTRA_BF16 ? LUTRA_BF16 : w->dtype;
        return;
    }
    l->bits = w->bits;
    l->zeros = w->zeros != NULL;
    l->scale_dtype = w->scale_dtype;
    for (int i = 0; !w->tables && i < 1 << w->bits; i++)
        l->table[i] = act == LUTRA_BF16 ? lu_bf16_to_f32(lu_f32_to_bf16(w->table[i])) : w->table[i];
    l->nibbles = act == LUTRA_U8 && lu_int8_fits_nibbles(w);
    l->affine = !w->tables && is_affine(l->table, 1 << w->bits);
}

static void name_variant(lu_linear *l)
{
    const char *act = l->act == LUTRA_BF16 ? "bf16" : "f32";
    const char *dense = l->dtype == LUTRA_F32 ? "f32" : l->dtype == LUTRA_F16 ? "f16" : "bf16";
    if (l->act == LUTRA_U8)
        snprintf(l->name, sizeof l->name, "%s_int%d_u8", l->variant->name, l->nibbles ? 4 : 8);
    else if (l->bits)
        snprintf(l->name, sizeof l->name, "%s_lut%d_%s", l->variant->name, l->bits, act);
    else
        snprintf(l->name, sizeof l->name, "%s_%s_%s", l->variant->name, dense, act);
}

lutra_status lu_linear_plan(const lu_weight *w, lutra_dtype act, lu_level level, lu_linear *out,
                            lutra_err *err)
{
    LU_TRY(check_weight(w, act, err));
    if (act == LUTRA_U8 && !lu_linear_takes_u8(w))
        return lu_fail(err, LUTRA_E_ARG,
                       "weight: not of integers from -128 to 127, which 8-bit activations need");
    lu_linear l = {0};
    fill_format(&l, w, act);
    const lu_linear_variant *const *list = act == LUTRA_U8 ? int8_variants : variants;
    while ((*list)->level > level) /* ref ends both lists */
        list++;
    l.variant = *list;
    name_variant(&l);
    l.unit_rows = l.variant->unit_rows;
    l.n_units = (l.n + l.unit_rows - 1) / l.unit_rows;
    if (!l.variant->unit_bytes(&l, &l.unit_bytes) ||
        !lu_mul_size(l.unit_bytes, (size_t)l.n_units, &l.packed_bytes) ||
        l.packed_bytes > SIZE_MAX / 2 || (l.bits && !lu_extras_plan(&l, w)))
        return lu_fail(err, LUTRA_E_LIMIT, "weight: %lld x %lld is too large to pack",
                       (long long)l.n, (long long)l.k);
    *out = l;
    return LUTRA_OK;
}

const char *lu_linear_variant_name(const lu_linear *l) { return l->name; }

void lu_linear_attach(lu_linear *l, const lu_weight *w, void *packed)
{
    l->packed = packed;
    if (l->bits)
        lu_extras_attach(l, w);
}

void lu_linear_pack(lu_linear *l, const lu_weight *w, int64_t unit0, int64_t unit1)
{
    l->variant->pack(l, w, unit0, unit1);
    if (l->bits)
        lu_extras_pack(l, w, unit0, unit1);
}

/* Rows of x of which a changed copy is made at a time. */
static int64_t copied_rows(int64_t M) { return M < COPIED_ROWS ? M : COPIED_ROWS; }

static size_t copy_bytes(const lu_linear *l, int64_t M)
{
    const size_t bytes = (size_t)(copied_rows(M) * l->k) * lutra_dtype_bytes(l->act);
    return (bytes + 63) / 64 * 64;
}

/* The rows of x are taken some at a time, their changed copy lies at the front of scratch. */
static void run_with_extras(const lu_linear *l, const lu_linear_args *a)
{
    const int64_t step = copied_rows(a->M);
    const size_t x_row = (size_t)a->ldx * lutra_dtype_bytes(l->act);
    lu_linear_args part = *a, inner;
    for (int64_t m = 0; m < a->M; m += step) {
        part.x = (const uint8_t *)a->x + (size_t)m * x_row;
        part.M = a->M - m < step ? a->M - m : step;
        part.y = a->y + m * a->ldy;
        inner = part;
        inner.x = a->scratch;
        inner.ldx = l->k;
        inner.scratch = (uint8_t *)a->scratch + copy_bytes(l, a->M);
        lu_extras_x(l, part.x, part.ldx, part.M, a->scratch);
        l->variant->run(l, &inner);
        lu_extras_add(l, &part);
    }
}

void lu_linear_run(const lu_linear *l, const lu_linear_args *a)
{
    if (a->M <= 0 || a->unit0 >= a->unit1)
        return;
    if (lu_extras_change_x(l))
        run_with_extras(l, a);
    else
        l->variant->run(l, a);
}

size_t lu_linear_scratch(const lu_linear *l, int64_t M)
{
    return lu_extras_change_x(l) ? copy_bytes(l, M) + l->variant->scratch(l, copied_rows(M))
                                 : l->variant->scratch(l, M);
}

void lu_weight_row(const lu_weight *w, int64_t row, float *out)
{
    if (w->dtype != LUTRA_DTYPE_NONE) {
        const size_t row_bytes = (size_t)w->k * lutra_dtype_bytes(w->dtype);
        lu_to_f32(w->dtype, (const uint8_t *)w->data + (size_t)row * row_bytes, w->k, out);
        return;
    }
    if (w->tables || w->groups || w->n_outliers) {
        lu_extras_row(w, row, out);
        return;
    }
    const int64_t group = w->group_size ? w->group_size : w->k, groups = w->k / group;
    const size_t row_bytes = ((size_t)w->k * (size_t)w->bits + 7) / 8;
    const uint8_t *codes = (const uint8_t *)w->data + (size_t)row * row_bytes;
    const uint8_t *scales =
        (const uint8_t *)w->scales + (size_t)(row * groups) * lutra_dtype_bytes(w->scale_dtype);
    for (int64_t g = 0; g < groups; g++) {
        float scale;
        lu_to_f32(w->scale_dtype, scales + (size_t)g * lutra_dtype_bytes(w->scale_dtype), 1,
                  &scale);
        const float zero = w->zeros ? w->table[w->zeros[row * groups + g]] : 0.0f;
        for (int64_t i = g * group; i < (g + 1) * group; i++)
            out[i] = scale * (w->table[lu_code_at(codes, i, w->bits)] - zero);
    }
}
