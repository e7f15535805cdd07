/* quant_config.c - the "quantization_config" object of config.json, as docs/formats.md defines it.

   The object says everything twice: a spec for people ("nf4:g64:f16") and each field by itself,
   with the table's values, so that a reader needs no list of codebooks. Reading takes the fields
   and requires the spec, and the built-in table it names, to agree: a file that contradicts
   itself is refused rather than half believed. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "fmt/codec.h"
#include "io/checkpoint.h"

#define WHAT "config.json: quantization_config" /* names the object in messages */
#define METHOD "lutra"
#define VERSION 1

static lutra_status bad(lutra_err *err, const char *fact)
{
    return lu_fail(err, LUTRA_E_FORMAT, WHAT ": %s", fact);
}

/* The spec as the file has it: a user's own table shows its width, "table4:g64:f16". */
static void file_spec(const lutra_format *f, char *buf, size_t size)
{
    lutra_format named = *f;
    if (strcmp(f->name, "table") == 0)
        snprintf(named.name, sizeof named.name, "table%d", f->bits);
    lutra_format_spec(&named, buf, size);
}

/* ---- reading -------------------------------------------------------------------------------- */

static lutra_status require(json_t *q, const char *key, lutra_err *err)
{
    const json_t *v = json_object_get(q, key);
    if (!v || json_is_null(v))
        return lu_fail(err, LUTRA_E_FORMAT, WHAT ": has no \"%s\"", key);
    return LUTRA_OK;
}

static lutra_status read_table(json_t *q, lutra_format *f, lutra_err *err)
{
    json_t *table = json_object_get(q, "table");
    if (!json_is_array(table) || json_array_size(table) != (size_t)1 << f->bits)
        return lu_fail(err, LUTRA_E_FORMAT, WHAT ": \"table\" is not an array of %d numbers",
                       1 << f->bits);
    for (int i = 0; i < 1 << f->bits; i++) {
        json_t *v = json_array_get(table, (size_t)i);
        f->table[i] = (float)json_number_value(v);
        if (!json_is_number(v) || !isfinite(f->table[i]))
            return lu_fail(err, LUTRA_E_FORMAT, WHAT ": \"table\" value %d is not a finite float32",
                           i);
    }
    return LUTRA_OK;
}

/* Before all else: another version may have other members. */
static lutra_status check_version(json_t *q, lutra_err *err)
{
    int64_t version = 0;
    LU_TRY(require(q, "version", err));
    LU_TRY(lu_json_int(WHAT, q, "version", &version, err));
    if (version != VERSION)
        return lu_fail(err, LUTRA_E_UNSUPPORTED,
                       WHAT ": version %lld, this lutra reads version %d: update it",
                       (long long)version, VERSION);
    return LUTRA_OK;
}

/* The fields but for the name, which only the spec holds. */
static lutra_status read_fields(json_t *q, lutra_format *f, lutra_err *err)
{
    static const char *const required[] = {"format",      "bits",  "group_size", "symmetric",
                                           "scale_dtype", "table", "absmax_ref", "modules"};
    for (size_t i = 0; i < sizeof required / sizeof *required; i++)
        LU_TRY(require(q, required[i], err));
    int64_t bits = 0;
    bool symmetric = true;
    const char *scale = "";
    double absmax_ref = 0;
    LU_TRY(lu_json_int(WHAT, q, "bits", &bits, err));
    if (bits < 2 || bits > LUTRA_MAX_BITS)
        return lu_fail(err, LUTRA_E_FORMAT, WHAT ": \"bits\" is %lld, expected 2 to %d",
                       (long long)bits, LUTRA_MAX_BITS);
    f->bits = (int)bits;
    LU_TRY(lu_json_int(WHAT, q, "group_size", &f->group_size, err));
    LU_TRY(lu_json_bool(WHAT, q, "symmetric", &symmetric, err));
    f->zero_point = !symmetric;
    LU_TRY(lu_json_string(WHAT, q, "scale_dtype", &scale, err));
    f->scale_dtype = lutra_dtype_parse(scale);
    if (strcmp(lutra_dtype_name(f->scale_dtype), scale) != 0) /* "float16" is another spelling */
        return bad(err, "\"scale_dtype\" is not F16, BF16 or F32");
    LU_TRY(lu_json_float(WHAT, q, "absmax_ref", &absmax_ref, err));
    f->absmax_ref = (float)absmax_ref;
    return read_table(q, f, err);
}

/* Sets f->name from the spec and holds the spec against the fields. */
static lutra_status check_spec(json_t *q, lutra_format *f, lutra_err *err)
{
    const char *spec = NULL;
    char own_name[sizeof f->name], expected[96];
    lutra_err why;
    LU_TRY(lu_json_string(WHAT, q, "format", &spec, err));
    const size_t n = strcspn(spec, ":");
    snprintf(own_name, sizeof own_name, "table%d", f->bits);
    if (n == strlen(own_name) && memcmp(spec, own_name, n) == 0) {
        memcpy(f->name, "table", sizeof "table");
    } else {
        lutra_format builtin;
        if (lutra_format_parse(spec, &builtin, &why) != LUTRA_OK)
            return lu_fail(err, LUTRA_E_UNSUPPORTED, WHAT ": \"format\": %s", why.msg);
        memcpy(f->name, builtin.name, sizeof f->name);
        bool same = f->bits == builtin.bits && f->absmax_ref == builtin.absmax_ref;
        for (int i = 0; same && i < 1 << f->bits; i++)
            same = f->table[i] == builtin.table[i];
        if (!same)
            return lu_fail(err, LUTRA_E_FORMAT,
                           WHAT ": \"bits\", \"table\" or \"absmax_ref\" is not that of '%s'",
                           f->name);
    }
    if (lu_format_check(f, &why) != LUTRA_OK)
        return bad(err, why.msg);
    file_spec(f, expected, sizeof expected);
    if (strcmp(spec, expected) != 0)
        return lu_fail(err, LUTRA_E_FORMAT,
                       WHAT ": \"format\" is '%.80s', the other members make it '%s'", spec,
                       expected);
    return LUTRA_OK;
}

static lutra_status read_modules(json_t *q, lu_quant_config *out, lutra_err *err)
{
    json_t *list = json_object_get(q, "modules");
    if (!json_is_array(list))
        return bad(err, "\"modules\" is not an array of names");
    const size_t n = json_array_size(list);
    out->modules = lu_array(n, sizeof *out->modules);
    if (!out->modules)
        return lu_fail_nomem(err, n * sizeof *out->modules);
    for (size_t i = 0; i < n; i++) {
        const char *name = json_string_value(json_array_get(list, i));
        if (!name || !*name)
            return bad(err, "\"modules\" is not an array of names");
        if (i && strcmp(out->modules[i - 1], name) >= 0)
            return lu_fail(err, LUTRA_E_FORMAT,
                           WHAT ": \"modules\" is not sorted, or has '%.200s' twice", name);
        out->modules[i] = lu_strdup(name);
        if (!out->modules[i])
            return lu_fail_nomem(err, strlen(name) + 1);
        out->n_modules++;
    }
    return LUTRA_OK;
}

lutra_status lu_quant_config_read(json_t *config, bool *found, lu_quant_config *out, lutra_err *err)
{
    json_t *q = json_object_get(config, "quantization_config");
    if (!q || json_is_null(q)) {
        *found = false;
        return LUTRA_OK;
    }
    if (!json_is_object(q))
        return bad(err, "is not an object");
    const char *method = NULL;
    LU_TRY(lu_json_string(WHAT, q, "quant_method", &method, err));
    if (!method)
        return bad(err, "has no \"quant_method\"");
    if (strcmp(method, METHOD) != 0)
        return lu_fail(
            err, LUTRA_E_UNSUPPORTED,
            WHAT ": quant_method '%.60s' is not read, expected an unquantized checkpoint or one "
                 "that lutra wrote",
            method);
    lu_quant_config read = {0};
    lutra_status status = check_version(q, err);
    if (status == LUTRA_OK)
        status = read_fields(q, &read.format, err);
    if (status == LUTRA_OK)
        status = check_spec(q, &read.format, err);
    if (status == LUTRA_OK)
        status = read_modules(q, &read, err);
    if (status != LUTRA_OK) {
        lu_quant_config_free(&read);
        return status;
    }
    *out = read;
    *found = true;
    return LUTRA_OK;
}

/* ---- writing -------------------------------------------------------------------------------- */

/* json_array_append_new frees what it is given when it fails, so one count at the end will do. */
static json_t *table_json(const lutra_format *f)
{
    json_t *list = json_array();
    for (int i = 0; i < 1 << f->bits; i++)
        json_array_append_new(list, json_real((double)f->table[i]));
    if (json_array_size(list) == (size_t)1 << f->bits)
        return list;
    json_decref(list);
    return NULL;
}

static json_t *modules_json(const lu_quant_config *q)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < q->n_modules; i++)
        json_array_append_new(list, json_string(q->modules[i]));
    if (json_array_size(list) == (size_t)q->n_modules && list)
        return list;
    json_decref(list);
    return NULL;
}

json_t *lu_quant_config_write(const lu_quant_config *q)
{
    const lutra_format *f = &q->format;
    char spec[96];
    file_spec(f, spec, sizeof spec);
    /* "o*" would drop a NULL member; "o" fails on it, which is what is wanted */
    return json_pack("{s:s, s:i, s:s, s:i, s:I, s:b, s:s, s:o, s:f, s:o}", "quant_method", METHOD,
                     "version", VERSION, "format", spec, "bits", f->bits, "group_size",
                     (json_int_t)f->group_size, "symmetric", !f->zero_point, "scale_dtype",
                     lutra_dtype_name(f->scale_dtype), "table", table_json(f), "absmax_ref",
                     (double)f->absmax_ref, "modules", modules_json(q));
}

void lu_quant_config_free(lu_quant_config *q)
{
    for (int64_t i = 0; i < q->n_modules; i++)
        lu_free(q->modules[i]);
    lu_free(q->modules);
    q->modules = NULL;
    q->n_modules = 0;
}
