/* quant_config.c - the "quantization_config" object of config.json, as docs/formats.md defines it.

   It lists the distinct schemes and gives each module the number of one. A scheme says everything
   twice: a spec for people ("nf4:g64:f16") and each field by itself, with the table's values, so
   that a reader needs no list of codebooks. Reading takes the fields and requires the spec, and the
   built-in table it names, to agree: a file that contradicts itself is refused rather than half
   believed. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "fmt/codec.h"
#include "io/checkpoint.h"

#define WHAT "config.json: quantization_config" /* names the object in messages */
#define METHOD "lutra"
#define VERSION 1
#define MAX_SCHEMES 1024

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

/* The fields but for the name, which only the spec holds. q: one member of "schemes". */
static lutra_status read_fields(json_t *q, lutra_format *f, lutra_err *err)
{
    static const char *const required[] = {"format",    "bits",        "group_size",
                                           "symmetric", "scale_dtype", "absmax_ref"};
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
    LU_TRY(lu_json_int(WHAT, q, "table_rows", &f->table_rows, err));
    f->learned = f->table_rows > 0;
    LU_TRY(lu_json_bool(WHAT, q, "learned", &f->learned, err));
    json_t *table = json_object_get(q, "table");
    if (!f->learned)
        return read_table(q, f, err);
    if (table && !json_is_null(table))
        return bad(err, "\"table\" is given, and \"learned\" ones are tensors");
    return LUTRA_OK;
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
        if (f->learned != builtin.learned)
            return lu_fail(err, LUTRA_E_FORMAT, WHAT ": \"learned\" is not that of '%s'", f->name);
        bool same = f->bits == builtin.bits && f->absmax_ref == builtin.absmax_ref;
        if (f->learned)
            memcpy(f->table, builtin.table, sizeof f->table); /* where learning started */
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

static lutra_status read_scheme(json_t *q, lu_scheme *s, lutra_err *err)
{
    const char *act = "none";
    char spec[64];
    lutra_err why;
    if (!json_is_object(q))
        return bad(err, "is not an object");
    LU_TRY(read_fields(q, &s->format, err));
    LU_TRY(check_spec(q, &s->format, err));
    LU_TRY(lu_json_bool(WHAT, q, "g_idx", &s->column_groups, err));
    LU_TRY(lu_json_bool(WHAT, q, "outlier_columns", &s->outlier_columns, err));
    LU_TRY(lu_json_string(WHAT, q, "activations", &act, err));
    if (lu_act_format_parse(act, &s->act, &why) != LUTRA_OK)
        return lu_fail(err, LUTRA_E_FORMAT, WHAT ": \"activations\": %s", why.msg);
    if (lu_scheme_check(s, &why) != LUTRA_OK)
        return bad(err, why.msg);
    if (strcmp(lu_act_format_spec(&s->act, spec, sizeof spec), act) != 0)
        return lu_fail(err, LUTRA_E_FORMAT, WHAT ": \"activations\" is '%.60s', expected '%s'", act,
                       spec);
    return LUTRA_OK;
}

static lutra_status read_schemes(json_t *q, lu_quant_config *out, lutra_err *err)
{
    json_t *list = json_object_get(q, "schemes");
    const size_t n = json_array_size(list);
    if (n == 0 || n > MAX_SCHEMES)
        return lu_fail(err, LUTRA_E_FORMAT, WHAT ": \"schemes\" is not an array of 1 to %d objects",
                       MAX_SCHEMES);
    out->schemes = lu_calloc(n, sizeof *out->schemes);
    if (!out->schemes)
        return lu_fail_nomem(err, n * sizeof *out->schemes);
    for (; out->n_schemes < (int64_t)n; out->n_schemes++) {
        const size_t i = (size_t)out->n_schemes;
        const lutra_status status = read_scheme(json_array_get(list, i), &out->schemes[i], err);
        if (status != LUTRA_OK)
            return lu_fail_prefix(err, status, "schemes[%zu]", i);
        for (size_t j = 0; j < i; j++)
            if (lu_scheme_equal(&out->schemes[i], &out->schemes[j]))
                return lu_fail(err, LUTRA_E_FORMAT, WHAT ": \"schemes\" %zu and %zu are equal", j,
                               i);
    }
    return LUTRA_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const lu_quant_module *)a)->name, ((const lu_quant_module *)b)->name);
}

/* The JSON parser has refused names that stand twice. */
static lutra_status read_modules(json_t *q, lu_quant_config *out, lutra_err *err)
{
    json_t *map = json_object_get(q, "modules"), *number;
    const char *name;
    if (!json_is_object(map))
        return bad(err, "\"modules\" is not an object of names and numbers of schemes");
    const size_t n = json_object_size(map);
    out->modules = lu_array(n, sizeof *out->modules);
    if (!out->modules)
        return lu_fail_nomem(err, n * sizeof *out->modules);
    json_object_foreach (map, name, number) {
        const int64_t scheme = json_integer_value(number);
        if (!*name)
            return bad(err, "\"modules\" has an empty name");
        if (!json_is_integer(number) || scheme < 0 || scheme >= out->n_schemes)
            return lu_fail(err, LUTRA_E_FORMAT,
                           WHAT ": \"modules\": '%.200s' has no number of a scheme below %lld",
                           name, (long long)out->n_schemes);
        lu_quant_module *m = &out->modules[out->n_modules];
        *m = (lu_quant_module){lu_strdup(name), scheme};
        if (!m->name)
            return lu_fail_nomem(err, strlen(name) + 1);
        out->n_modules++;
    }
    qsort(out->modules, (size_t)out->n_modules, sizeof *out->modules, by_name);
    return LUTRA_OK;
}

const lu_scheme *lu_quant_config_find(const lu_quant_config *q, const char *module)
{
    const lu_quant_module key = {.name = (char *)module};
    const lu_quant_module *m =
        q->n_modules ? bsearch(&key, q->modules, (size_t)q->n_modules, sizeof key, by_name) : NULL;
    return m ? &q->schemes[m->scheme] : NULL;
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
    lu_quant_config read = {.n_schemes = 0};
    lutra_status status = check_version(q, err);
    if (status == LUTRA_OK)
        status = require(q, "schemes", err);
    if (status == LUTRA_OK)
        status = require(q, "modules", err);
    if (status == LUTRA_OK)
        status = read_schemes(q, &read, err);
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

/* The members that say what is not the rule are written only where it is so. */
static json_t *scheme_json(const lu_scheme *s)
{
    const lutra_format *f = &s->format;
    char spec[96], act[64];
    file_spec(f, spec, sizeof spec);
    lu_act_format_spec(&s->act, act, sizeof act);
    json_t *o =
        json_pack("{s:s, s:i, s:I, s:b, s:s, s:f}", "format", spec, "bits", f->bits, "group_size",
                  (json_int_t)f->group_size, "symmetric", !f->zero_point, "scale_dtype",
                  lutra_dtype_name(f->scale_dtype), "absmax_ref", (double)f->absmax_ref);
    bool ok = o != NULL;
    if (ok && f->learned)
        ok = json_object_set_new(o, "learned", json_true()) == 0;
    if (ok && f->table_rows)
        ok = json_object_set_new(o, "table_rows", json_integer(f->table_rows)) == 0;
    if (ok && s->column_groups)
        ok = json_object_set_new(o, "g_idx", json_true()) == 0;
    if (ok && s->outlier_columns)
        ok = json_object_set_new(o, "outlier_columns", json_true()) == 0;
    if (ok && s->act.bits)
        ok = json_object_set_new(o, "activations", json_string(act)) == 0;
    if (ok && !f->learned)
        ok = json_object_set_new(o, "table", table_json(f)) == 0;
    if (ok)
        return o;
    json_decref(o);
    return NULL;
}

static json_t *schemes_json(const lu_quant_config *q)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < q->n_schemes; i++)
        json_array_append_new(list, scheme_json(&q->schemes[i]));
    if (list && json_array_size(list) == (size_t)q->n_schemes)
        return list;
    json_decref(list);
    return NULL;
}

static json_t *modules_json(const lu_quant_config *q)
{
    json_t *map = json_object();
    for (int64_t i = 0; i < q->n_modules; i++)
        json_object_set_new(map, q->modules[i].name, json_integer(q->modules[i].scheme));
    if (map && json_object_size(map) == (size_t)q->n_modules)
        return map;
    json_decref(map);
    return NULL;
}

json_t *lu_quant_config_write(lu_quant_config *q)
{
    if (q->n_modules)
        qsort(q->modules, (size_t)q->n_modules, sizeof *q->modules, by_name);
    /* "o*" would drop a NULL member; "o" fails on it, which is what is wanted */
    return json_pack("{s:s, s:i, s:o, s:o}", "quant_method", METHOD, "version", VERSION, "schemes",
                     schemes_json(q), "modules", modules_json(q));
}

static lutra_status find_or_add_scheme(lu_quant_config *q, const lu_scheme *s, int64_t *out,
                                       lutra_err *err)
{
    for (*out = 0; *out < q->n_schemes; ++*out)
        if (lu_scheme_equal(&q->schemes[*out], s))
            return LUTRA_OK;
    const size_t size = (size_t)(q->n_schemes + 1) * sizeof *q->schemes;
    lu_scheme *grown = lu_resize(q->schemes, size);
    if (!grown)
        return lu_fail_nomem(err, size);
    q->schemes = grown;
    q->schemes[q->n_schemes] = *s;
    return LUTRA_OK;
}

lutra_status lu_quant_config_add(lu_quant_config *q, const char *module, const lu_scheme *s,
                                 lutra_err *err)
{
    int64_t scheme;
    LU_TRY(lu_scheme_check(s, err));
    if (q->n_modules == q->room) {
        const int64_t room = q->room ? 2 * q->room : 64;
        lu_quant_module *grown = lu_resize(q->modules, (size_t)room * sizeof *grown);
        if (!grown)
            return lu_fail_nomem(err, (size_t)room * sizeof *grown);
        q->modules = grown;
        q->room = room;
    }
    LU_TRY(find_or_add_scheme(q, s, &scheme, err));
    char *name = lu_strdup(module);
    if (!name)
        return lu_fail_nomem(err, strlen(module) + 1);
    q->n_schemes += scheme == q->n_schemes;
    q->modules[q->n_modules++] = (lu_quant_module){name, scheme};
    return LUTRA_OK;
}

void lu_quant_config_free(lu_quant_config *q)
{
    for (int64_t i = 0; i < q->n_modules; i++)
        lu_free(q->modules[i].name);
    lu_free(q->modules);
    lu_free(q->schemes);
    *q = (lu_quant_config){.n_schemes = 0};
}
