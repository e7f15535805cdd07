/* linear.c - the face of the matrix products: checks a weight, picks the variant of the highest
   level that exists at or below the asked one, and forwards packing and running to it. The oracle
   lu_weight_row lives here too: it says what a stored weight means and shares no code with them. */
#include "kern/linear.h"

#include <math.h>
#include <stdio.h>

#include "base/mem.h"
#include "fmt/codec.h"
#include "kern/linear_variant.h"
#include "tensor/convert.h"

/* Highest level first. */
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
    for (int i = 0; i < 1 << w->bits; i++)
        if (!isfinite(w->table[i]))
            return lu_fail(err, LUTRA_E_ARG, "weight: table value %d is not finite", i);
    return LUTRA_OK;
}

static lutra_status check_weight(const lu_weight *w, lutra_dtype act, lutra_err *err)
{
    if (w->n < 1 || w->k < 1 || w->n > INT32_MAX || w->k > INT32_MAX)
        return lu_fail(err, LUTRA_E_ARG, "weight: shape %lld x %lld, expected 1..2^31-1 each",
                       (long long)w->n, (long long)w->k);
    if (act != LUTRA_F32 && act != LUTRA_BF16)
        return lu_fail(err, LUTRA_E_ARG, "activations of type %s, expected F32 or BF16",
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
    for (int i = 0; i < 1 << w->bits; i++)
        l->table[i] = act == LUTRA_BF16 ? lu_bf16_to_f32(lu_f32_to_bf16(w->table[i])) : w->table[i];
    l->affine = is_affine(l->table, 1 << w->bits);
}

static void name_variant(lu_linear *l)
{
    const char *act = l->act == LUTRA_BF16 ? "bf16" : "f32";
    const char *dense = l->dtype == LUTRA_F32 ? "f32" : l->dtype == LUTRA_F16 ? "f16" : "bf16";
    if (l->bits)
        snprintf(l->name, sizeof l->name, "%s_lut%d_%s", l->variant->name, l->bits, act);
    else
        snprintf(l->name, sizeof l->name, "%s_%s_%s", l->variant->name, dense, act);
}

lutra_status lu_linear_plan(const lu_weight *w, lutra_dtype act, lu_level level, lu_linear *out,
                            lutra_err *err)
{
    LU_TRY(check_weight(w, act, err));
    lu_linear l = {0};
    fill_format(&l, w, act);
    for (size_t i = 0; !l.variant && i < sizeof variants / sizeof *variants; i++)
        if (variants[i]->level <= level)
            l.variant = variants[i];
    name_variant(&l);
    l.unit_rows = l.variant->unit_rows;
    l.n_units = (l.n + l.unit_rows - 1) / l.unit_rows;
    if (!l.variant->unit_bytes(&l, &l.unit_bytes) ||
        !lu_mul_size(l.unit_bytes, (size_t)l.n_units, &l.packed_bytes) ||
        l.packed_bytes > SIZE_MAX / 2)
        return lu_fail(err, LUTRA_E_LIMIT, "weight: %lld x %lld is too large to pack",
                       (long long)l.n, (long long)l.k);
    *out = l;
    return LUTRA_OK;
}

const char *lu_linear_variant_name(const lu_linear *l) { return l->name; }

void lu_linear_pack(lu_linear *l, const lu_weight *w, int64_t unit0, int64_t unit1)
{
    l->variant->pack(l, w, unit0, unit1);
}

void lu_linear_run(const lu_linear *l, const void *x, int64_t ldx, int64_t M, float *y, int64_t ldy,
                   int64_t unit0, int64_t unit1, void *scratch)
{
    if (M > 0 && unit0 < unit1)
        l->variant->run(l, x, ldx, M, y, ldy, unit0, unit1, scratch);
}

size_t lu_linear_scratch(const lu_linear *l, int64_t M) { return l->variant->scratch(l, M); }

void lu_weight_row(const lu_weight *w, int64_t row, float *out)
{
    if (w->dtype != LUTRA_DTYPE_NONE) {
        const size_t row_bytes = (size_t)w->k * lutra_dtype_bytes(w->dtype);
        lu_to_f32(w->dtype, (const uint8_t *)w->data + (size_t)row * row_bytes, w->k, out);
        return;
    }
    const int64_t group = w->group_size ? w->group_size : w->k, groups = w->k / group;
    const size_t row_bytes = ((size_t)w->k * (size_t)w->bits + 7) / 8;
    const uint8_t *codes = (const uint8_t *)w->data + (size_t)row * row_bytes;
    const uint8_t *scales =
        (const uint8_t *)w->scales + (size_t)(row * groups) * lutra_dtype_bytes(w->scale_dtype);
    for (int64_t g = 0; g < groups; g++) {
        float scale;
        lu_to_f32(w->scale_dtype, scales + (size_t)g * lutra_dtype_bytes(w->scale_dtype), 1, &scale);
        const float zero = w->zeros ? w->table[w->zeros[row * groups + g]] : 0.0f;
        for (int64_t i = g * group; i < (g + 1) * group; i++)
            out[i] = scale * (w->table[lu_code_at(codes, i, w->bits)] - zero);
    }
}
