/* scheme.c - see scheme.h. */
#include "fmt/scheme.h"

#include <string.h>

lutra_status lu_scheme_check(const lu_scheme *s, lutra_err *err)
{
    LU_TRY(lu_format_check(&s->format, err));
    char spec[64];
    lu_act_format parsed;
    LU_TRY(lu_act_format_parse(lu_act_format_spec(&s->act, spec, sizeof spec), &parsed, err));
    if (!lu_act_format_same(&s->act, &parsed))
        return lu_fail(err, LUTRA_E_ARG, "activation format that no spec names, near %s", spec);
    if (s->column_groups && s->format.group_size == 0)
        return lu_fail(err, LUTRA_E_ARG, "g_idx needs a group size, the whole row is one group");
    return LUTRA_OK;
}

static bool same_format(const lutra_format *a, const lutra_format *b)
{
    return strcmp(a->name, b->name) == 0 && a->bits == b->bits && a->group_size == b->group_size &&
           a->zero_point == b->zero_point && a->scale_dtype == b->scale_dtype &&
           a->learned == b->learned && a->table_rows == b->table_rows &&
           a->absmax_ref == b->absmax_ref &&
           memcmp(a->table, b->table, sizeof a->table[0] << a->bits) == 0;
}

bool lu_scheme_equal(const lu_scheme *a, const lu_scheme *b)
{
    return same_format(&a->format, &b->format) && a->column_groups == b->column_groups &&
           a->outlier_columns == b->outlier_columns && lu_act_format_same(&a->act, &b->act);
}

const char *lu_tensor_suffix(lu_tensor_kind kind)
{
    static const char *const suffixes[LU_N_TENSOR_KINDS] = {
        [LU_TENSOR_CODES] = ".codes",
        [LU_TENSOR_SCALES] = ".scales",
        [LU_TENSOR_ZEROS] = ".zeros",
        [LU_TENSOR_TABLE] = ".table",
        [LU_TENSOR_GROUPS] = ".g_idx",
        [LU_TENSOR_OUTLIER_COLUMNS] = ".outlier_columns",
        [LU_TENSOR_OUTLIER_WEIGHTS] = ".outlier_weights",
        [LU_TENSOR_INPUT_SCALE] = ".input_scale",
        [LU_TENSOR_INPUT_ZERO] = ".input_zero",
    };
    return suffixes[kind];
}

int64_t lu_format_tables(const lutra_format *f, int64_t n)
{
    return f->table_rows ? (n + f->table_rows - 1) / f->table_rows : 1;
}

int lu_scheme_tensors(const lu_scheme *s, int64_t n, int64_t k, int64_t n_outliers,
                      lu_tensor_info out[LU_N_TENSOR_KINDS])
{
    const lutra_format *f = &s->format;
    const int64_t groups = lutra_format_groups(f, k);
    const bool tensor = lu_act_is_static(&s->act);
    const struct {
        bool present;
        lu_tensor_info info;
    } all[] = {
        {true, {LU_TENSOR_CODES, LUTRA_U8, 2, {n, (int64_t)lutra_format_row_bytes(f, k)}}},
        {true, {LU_TENSOR_SCALES, f->scale_dtype, 2, {n, groups}}},
        {f->zero_point, {LU_TENSOR_ZEROS, LUTRA_U8, 2, {n, groups}}},
        {f->learned, {LU_TENSOR_TABLE, LUTRA_F32, 2, {lu_format_tables(f, n), 1 << f->bits}}},
        {s->column_groups, {LU_TENSOR_GROUPS, LUTRA_I32, 1, {k}}},
        {s->outlier_columns, {LU_TENSOR_OUTLIER_COLUMNS, LUTRA_I32, 1, {n_outliers}}},
        {s->outlier_columns, {LU_TENSOR_OUTLIER_WEIGHTS, LUTRA_F16, 2, {n, n_outliers}}},
        {tensor, {LU_TENSOR_INPUT_SCALE, LUTRA_F32, 1, {1}}},
        {tensor && s->act.zero_point, {LU_TENSOR_INPUT_ZERO, LUTRA_U8, 1, {1}}},
    };
    int count = 0;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (all[i].present)
            out[count++] = all[i].info;
    return count;
}
