/* spec.c - format specs: text to lutra_format and back, formats from a user's table, sizes.
   Grammar: CODEBOOK[:gSIZE|:channel][:rowsN][:sym|:asym][:f16|:bf16|:f32], the parts after the
   codebook in any order, each at most once. Defaults: g64, a learned table for all rows, sym, f16.
   Group sizes are multiples of 8, so that a group's codes begin at a whole byte for every width. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/near.h"
#include "base/status.h"
#include "fmt/codebook.h"
#include "fmt/codec.h"

#define DEFAULT_GROUP 64
#define MAX_SPEC 63

static const char *const part_names[] = {"g32", "g64",  "g128", "g256", "channel", "rows64",
                                         "sym", "asym", "f16",  "bf16", "f32",     NULL};

static const struct {
    const char *name;
    lutra_dtype dtype;
} scale_names[] = {{"f16", LUTRA_F16}, {"bf16", LUTRA_BF16}, {"f32", LUTRA_F32}};

static const char *codebook_name_at(const void *list, int i)
{
    (void)list;
    return lutra_codebook_name(i);
}

static lutra_status check_group(int64_t group, lutra_err *err)
{
    if (group < 0 || group > LU_MAX_GROUP || group % 8 != 0)
        return lu_fail(err, LUTRA_E_ARG,
                       "group size %lld, expected a multiple of 8 (usual: 32, 64, 128, 256) or "
                       "'channel' for the whole row",
                       (long long)group);
    return LUTRA_OK;
}

static lutra_status check_scale_dtype(lutra_dtype t, lutra_err *err)
{
    if (t != LUTRA_F16 && t != LUTRA_BF16 && t != LUTRA_F32)
        return lu_fail(err, LUTRA_E_ARG, "scale type %s, expected F16, BF16 or F32",
                       lutra_dtype_name(t));
    return LUTRA_OK;
}

static lutra_status unknown_codebook(const char *name, lutra_err *err)
{
    char near[64], known[160] = "";
    if (strcmp(name, "table") == 0)
        return lu_fail(err, LUTRA_E_ARG,
                       "format 'table' needs its values, which a spec does not hold "
                       "(lutra_format_from_table)");
    size_t used = 0;
    for (int i = 0; i < lutra_codebook_count() && used < sizeof known; i++)
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i ? " " : "",
                                 lutra_codebook_name(i));
    if (lu_near(name, codebook_name_at, NULL, near, sizeof near) > 0)
        return lu_fail(err, LUTRA_E_ARG, "unknown codebook '%s', near: %s (known: %s)", name, near,
                       known);
    return lu_fail(err, LUTRA_E_ARG, "unknown codebook '%s', known: %s", name, known);
}

/* Which kinds of part have been given. */
typedef struct {
    bool group, rows, symmetry, scale;
} given;

static lutra_status once(bool *seen, const char *spec, const char *part, lutra_err *err)
{
    if (*seen)
        return lu_fail(err, LUTRA_E_ARG, "format '%s': '%s' repeats or contradicts an earlier part",
                       spec, part);
    *seen = true;
    return LUTRA_OK;
}

static lutra_status parse_group(const char *spec, const char *part, lutra_format *f, lutra_err *err)
{
    char *end;
    const long long group = strtoll(part + 1, &end, 10);
    if (*end != '\0' || group <= 0)
        return lu_fail(err, LUTRA_E_ARG,
                       "format '%s': group '%s', expected g and a size such as g64", spec, part);
    const lutra_status status = check_group(group, err);
    if (status != LUTRA_OK)
        return lu_fail_prefix(err, status, "format '%s'", spec);
    f->group_size = group;
    return LUTRA_OK;
}

static lutra_status check_table_rows(const lutra_format *f, lutra_err *err)
{
    if (f->table_rows < 0 || f->table_rows > LU_MAX_GROUP || f->table_rows % LU_TABLE_ROWS != 0)
        return lu_fail(err, LUTRA_E_ARG,
                       "a table for every %lld rows, expected a multiple of %d (or none, for all)",
                       (long long)f->table_rows, LU_TABLE_ROWS);
    if (f->table_rows && !f->learned)
        return lu_fail(err, LUTRA_E_ARG, "tables per block of rows are for learned tables (kmB)");
    return LUTRA_OK;
}

static lutra_status parse_part(const char *spec, const char *part, lutra_format *f, given *seen,
                               lutra_err *err)
{
    if (part[0] == 'g' && part[1] >= '0' && part[1] <= '9') {
        LU_TRY(once(&seen->group, spec, part, err));
        return parse_group(spec, part, f, err);
    }
    if (strncmp(part, "rows", 4) == 0) {
        char *end;
        f->table_rows = strtoll(part + 4, &end, 10);
        if (*end != '\0' || f->table_rows <= 0)
            return lu_fail(err, LUTRA_E_ARG,
                           "format '%s': '%s', expected rows and a number such "
                           "as rows64",
                           spec, part);
        return once(&seen->rows, spec, part, err);
    }
    if (strcmp(part, "channel") == 0) {
        f->group_size = 0;
        return once(&seen->group, spec, part, err);
    }
    if (strcmp(part, "sym") == 0 || strcmp(part, "asym") == 0) {
        f->zero_point = part[0] == 'a';
        return once(&seen->symmetry, spec, part, err);
    }
    for (size_t i = 0; i < sizeof scale_names / sizeof scale_names[0]; i++)
        if (strcmp(part, scale_names[i].name) == 0) {
            f->scale_dtype = scale_names[i].dtype;
            return once(&seen->scale, spec, part, err);
        }
    char near[64];
    if (lu_near(part, lu_near_array, part_names, near, sizeof near) > 0)
        return lu_fail(err, LUTRA_E_ARG, "format '%s': unknown part '%s', near: %s", spec, part,
                       near);
    return lu_fail(err, LUTRA_E_ARG,
                   "format '%s': unknown part '%s', expected gSIZE or channel, rowsN, sym or "
                   "asym, f16, bf16 or f32",
                   spec, part);
}

lutra_status lutra_format_parse(const char *spec, lutra_format *out, lutra_err *err)
{
    char text[MAX_SPEC + 1];
    if (!spec || !*spec || strlen(spec) > MAX_SPEC)
        return lu_fail(err, LUTRA_E_ARG, "format spec is %s, expected for example nf4:g64",
                       spec && *spec ? "too long" : "empty");
    memcpy(text, spec, strlen(spec) + 1);
    char *part = strchr(text, ':');
    if (part)
        *part++ = '\0';
    const lu_codebook *c = lu_codebook_find(text);
    if (!c)
        return unknown_codebook(text, err);

    lutra_format f = {.bits = c->bits,
                      .group_size = DEFAULT_GROUP,
                      .scale_dtype = LUTRA_F16,
                      .learned = c->learned};
    given seen = {false, false, false, false};
    while (part) {
        char *next = strchr(part, ':');
        if (next)
            *next++ = '\0';
        LU_TRY(parse_part(spec, part, &f, &seen, err));
        part = next;
    }
    if (f.zero_point && !c->integer)
        return lu_fail(err, LUTRA_E_ARG,
                       "format '%s': only the int codebooks take a zero point, leave out ':asym'",
                       spec);
    const lutra_status status = check_table_rows(&f, err);
    if (status != LUTRA_OK)
        return lu_fail_prefix(err, status, "format '%s'", spec);
    snprintf(f.name, sizeof f.name, "%s", c->name);
    f.absmax_ref = c->learned ? 1 : c->absmax_ref;
    lu_codebook_table(c, f.zero_point, f.table);
    *out = f;
    return LUTRA_OK;
}

lutra_status lu_format_check(const lutra_format *f, lutra_err *err)
{
    if (f->bits < 2 || f->bits > LUTRA_MAX_BITS)
        return lu_fail(err, LUTRA_E_ARG, "format of %d bits, expected 2 to %d", f->bits,
                       LUTRA_MAX_BITS);
    LU_TRY(check_group(f->group_size, err));
    LU_TRY(check_scale_dtype(f->scale_dtype, err));
    LU_TRY(check_table_rows(f, err));
    for (int i = 0; i < 1 << f->bits; i++) {
        if (!isfinite(f->table[i]))
            return lu_fail(err, LUTRA_E_ARG, "table value %d is not a finite number", i);
        if (fabsf(f->table[i]) > LU_MAX_ABSMAX_REF)
            return lu_fail(err, LUTRA_E_ARG,
                           "table value %d is %g, expected at most %g: divide the values (scales "
                           "make up for it)",
                           i, (double)f->table[i], (double)LU_MAX_ABSMAX_REF);
        if (f->zero_point && f->table[i] != (float)i)
            return lu_fail(err, LUTRA_E_ARG,
                           "zero points need the table 0, 1, 2, ..., value %d is %g", i,
                           (double)f->table[i]);
    }
    if (!(f->absmax_ref >= LU_MIN_ABSMAX_REF && f->absmax_ref <= LU_MAX_ABSMAX_REF))
        return lu_fail(
            err, LUTRA_E_ARG,
            "largest magnitude of the table is %g, expected %g to %g: multiply the values "
            "(scales make up for it)",
            (double)f->absmax_ref, (double)LU_MIN_ABSMAX_REF, (double)LU_MAX_ABSMAX_REF);
    return LUTRA_OK;
}

lutra_status lu_range_check(lutra_range range, lutra_err *err)
{
    if (range == LUTRA_RANGE_MINMAX || range == LUTRA_RANGE_MSE)
        return LUTRA_OK;
    return lu_fail(err, LUTRA_E_ARG, "range rule %d, expected minmax (0) or mse (1)", (int)range);
}

lutra_status lutra_format_from_table(const float *values, int n_values, int64_t group_size,
                                     lutra_dtype scale_dtype, lutra_format *out, lutra_err *err)
{
    lutra_format f = {.name = "table", .group_size = group_size, .scale_dtype = scale_dtype};
    for (int bits = 2; bits <= LUTRA_MAX_BITS; bits++)
        if (n_values == 1 << bits)
            f.bits = bits;
    if (f.bits == 0)
        return lu_fail(err, LUTRA_E_ARG,
                       "table of %d values, expected 4, 8, 16, 32, 64, 128 or 256", n_values);
    for (int i = 0; i < n_values; i++) {
        f.table[i] = values[i];
        f.absmax_ref = fmaxf(f.absmax_ref, fabsf(values[i]));
    }
    LU_TRY(lu_format_check(&f, err));
    *out = f;
    return LUTRA_OK;
}

const char *lutra_format_spec(const lutra_format *f, char *buf, size_t size)
{
    char group[32] = "channel", rows[32] = "";
    const char *scale = "?";
    if (f->group_size > 0)
        snprintf(group, sizeof group, "g%lld", (long long)f->group_size);
    if (f->table_rows > 0)
        snprintf(rows, sizeof rows, ":rows%lld", (long long)f->table_rows);
    for (size_t i = 0; i < sizeof scale_names / sizeof scale_names[0]; i++)
        if (scale_names[i].dtype == f->scale_dtype)
            scale = scale_names[i].name;
    snprintf(buf, size, "%s:%s%s%s:%s", f->name, group, rows, f->zero_point ? ":asym" : "", scale);
    return buf;
}

size_t lutra_format_row_bytes(const lutra_format *f, int64_t k)
{
    return ((size_t)k * (size_t)f->bits + 7) / 8;
}

int64_t lutra_format_groups(const lutra_format *f, int64_t k)
{
    if (f->group_size == 0)
        return 1;
    return k % f->group_size == 0 ? k / f->group_size : 0;
}
