/* json.c - parsing with jansson, after a pass that rewrites what Python's json writes and jansson
   refuses (json.h), and typed getters.

   The rewriting pass runs over the text outside strings. Each rewrite only adds bytes: NaN ->
   "<DEL>NaN" adds 3, an integer beyond 64 bits gets ".0". It runs three times: to count the bytes
   added (usually none, and then the text is parsed as it is), to write them, and, on a syntax
   error, to turn jansson's position in the rewritten text into one in the original. */
#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"

#define JSON_FILE_LIMIT ((size_t)256 << 20) /* ten times the largest tokenizer.json seen */
#define INT64_SAFE_DIGITS 18                /* any integer of so many digits fits an int64 */

static const struct {
    const char *text;
    double value;
} literals[] = {{"NaN", NAN}, {"Infinity", INFINITY}, {"-Infinity", -INFINITY}};

#define N_LITERALS (sizeof literals / sizeof *literals)

/* ---- rewriting ------------------------------------------------------------------------------ */

static bool is_key(const char *p, const char *end)
{
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r'))
        p++;
    return p < end && *p == ':';
}

/* Length of the non-finite literal that starts at p, 0 if none does. */
static size_t literal_length(const char *p, const char *end)
{
    for (size_t i = 0; i < N_LITERALS; i++) {
        const size_t n = strlen(literals[i].text);
        if ((size_t)(end - p) >= n && memcmp(p, literals[i].text, n) == 0)
            return is_key(p + n, end) ? 0 : n;
    }
    return 0;
}

/* Length of the number at p; *oversized = it is an integer that an int64 cannot hold. */
static size_t number_length(const char *p, const char *end, bool *oversized)
{
    const char *q = p;
    bool integer = true;
    if (*q == '-')
        q++;
    const char *digits = q;
    for (; q < end && ((*q >= '0' && *q <= '9') || (*q && strchr("+-.eE", *q))); q++)
        integer = integer && *q >= '0' && *q <= '9';
    const size_t n_digits = (size_t)(q - digits);
    *oversized = false;
    if (integer && n_digits > INT64_SAFE_DIGITS) {
        static const char max_digits[] =
            "9223372036854775807"; /* INT64_MAX; its negative fits too */
        const size_t n_max = sizeof max_digits - 1;
        *oversized = n_digits > n_max || memcmp(digits, max_digits, n_max) > 0;
    }
    return (size_t)(q - p);
}

static size_t string_length(const char *p, const char *end)
{
    const char *q = p + 1;
    while (q < end && *q != '"')
        q += *q == '\\' && end - q > 1 ? 2 : 1;
    return (size_t)((q < end ? q + 1 : end) - p);
}

/* Rewrites text[0, n) to out (NULL: only count) and returns the size. Stops after `limit` bytes
   of output; *consumed is how many input bytes these stand for. */
static size_t rewrite(const char *text, size_t n, char *out, size_t limit, size_t *consumed)
{
    const char *p = text, *const end = text + n;
    size_t size = 0;
    while (p < end && size < limit) {
        size_t take = 1;
        const char *before = "", *after = "";
        if (*p == '"') {
            take = string_length(p, end);
        } else if ((*p == 'N' || *p == 'I' || *p == '-') && literal_length(p, end)) {
            take = literal_length(p, end);
            before = "\"\x7f";
            after = "\"";
        } else if (*p == '-' || (*p >= '0' && *p <= '9')) {
            bool oversized;
            take = number_length(p, end, &oversized);
            after = oversized ? ".0" : "";
        }
        if (out) {
            const size_t b = strlen(before), a = strlen(after);
            memcpy(out + size, before, b);
            memcpy(out + size + b, p, take);
            memcpy(out + size + b + take, after, a);
        }
        size += strlen(before) + take + strlen(after);
        p += take;
    }
    /* The limit may lie inside the last piece copied: give back what is past it. */
    const size_t past = size > limit ? size - limit : 0;
    *consumed = (size_t)(p - text) > past ? (size_t)(p - text) - past : 0;
    return size;
}

/* ---- parsing -------------------------------------------------------------------------------- */

static lutra_status syntax_error(const char *what, const char *text, size_t at,
                                 const json_error_t *e, lutra_err *err)
{
    int line = 1, column = 1;
    for (size_t i = 0; i < at; i++) {
        column = text[i] == '\n' ? 1 : column + 1;
        line += text[i] == '\n';
    }
    char why[sizeof e->text];
    snprintf(why, sizeof why, "%s", e->text);
    for (char *c = why; *c; c++) /* jansson quotes the input: keep the message one plain line */
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
    return lu_fail(err, LUTRA_E_FORMAT, "%s: line %d, column %d: %s", what, line, column, why);
}

lutra_status lu_json_parse(const char *what, const char *text, size_t n, bool reject_duplicates,
                           json_t **out, lutra_err *err)
{
    size_t consumed;
    const size_t size = rewrite(text, n, NULL, SIZE_MAX, &consumed);
    char *copy = NULL;
    if (size != n) {
        copy = lu_alloc(size);
        if (!copy)
            return lu_fail_nomem(err, size);
        rewrite(text, n, copy, SIZE_MAX, &consumed);
    }
    json_error_t e;
    json_t *value =
        json_loadb(copy ? copy : text, size, reject_duplicates ? JSON_REJECT_DUPLICATES : 0, &e);
    lu_free(copy);
    if (value) {
        *out = value;
        return LUTRA_OK;
    }
    if (json_error_code(&e) == json_error_out_of_memory)
        return lu_fail_nomem(err, size);
    /* jansson points just past the token it refused */
    rewrite(text, n, NULL, e.position > 0 ? (size_t)e.position : 0, &consumed);
    return syntax_error(what, text, consumed ? consumed - 1 : 0, &e, err);
}

lutra_status lu_json_load(const char *path, json_t **out, lutra_err *err)
{
    char *text;
    size_t size;
    LU_TRY(lu_file_read(path, JSON_FILE_LIMIT, &text, &size, err));
    const lutra_status status = lu_json_parse(path, text, size, false, out, err);
    lu_free(text);
    return status;
}

/* ---- writing -------------------------------------------------------------------------------- */

/* Turns "<DEL>NaN" back to NaN, in place. */
static size_t restore_literals(char *text, size_t n)
{
    char *to = text;
    const char *p = text, *const end = text + n;
    while (p < end) {
        size_t take = *p == '"' ? string_length(p, end) : 1;
        const size_t literal = take > 3 && p[1] == 0x7f ? literal_length(p + 2, p + take - 1) : 0;
        if (literal && literal == take - 3 && !is_key(p + take, end)) {
            memmove(to, p + 2, literal);
            to += literal;
        } else {
            memmove(to, p, take);
            to += take;
        }
        p += take;
    }
    return (size_t)(to - text);
}

char *lu_json_dump(const json_t *value, size_t flags, size_t *size)
{
    const size_t n = json_dumpb(value, NULL, 0, flags | JSON_ENCODE_ANY);
    char *text = n ? lu_alloc(n + 1) : NULL;
    if (!text)
        return NULL;
    if (json_dumpb(value, text, n, flags | JSON_ENCODE_ANY) != n) {
        lu_free(text);
        return NULL;
    }
    const size_t used = restore_literals(text, n);
    text[used] = '\0';
    if (size)
        *size = used;
    return text;
}

/* ---- getters -------------------------------------------------------------------------------- */

bool lu_json_nonfinite(const json_t *value, double *out)
{
    const char *s = json_is_string(value) ? json_string_value(value) : "";
    for (size_t i = 0; s[0] == 0x7f && i < N_LITERALS; i++)
        if (strcmp(s + 1, literals[i].text) == 0) {
            *out = literals[i].value;
            return true;
        }
    return false;
}

static lutra_status wrong_type(const char *what, const char *key, const json_t *v,
                               const char *expected, lutra_err *err)
{
    static const char *const names[] = {
        [JSON_OBJECT] = "an object",   [JSON_ARRAY] = "an array", [JSON_STRING] = "a string",
        [JSON_INTEGER] = "an integer", [JSON_REAL] = "a number",  [JSON_TRUE] = "true",
        [JSON_FALSE] = "false",        [JSON_NULL] = "null",
    };
    double x;
    if (lu_json_nonfinite(v, &x))
        return lu_fail(err, LUTRA_E_FORMAT, "%s: \"%s\" is %s, expected %s", what, key,
                       json_string_value(v) + 1, expected);
    if (json_is_real(v))
        return lu_fail(err, LUTRA_E_FORMAT, "%s: \"%s\" is %g, expected %s", what, key,
                       json_real_value(v), expected);
    return lu_fail(err, LUTRA_E_FORMAT, "%s: \"%s\" is %s, expected %s", what, key,
                   names[json_typeof(v)], expected);
}

static json_t *member(json_t *obj, const char *key)
{
    json_t *v = json_object_get(obj, key);
    return json_is_null(v) ? NULL : v;
}

lutra_status lu_json_int(const char *what, json_t *obj, const char *key, int64_t *out,
                         lutra_err *err)
{
    const json_t *v = member(obj, key);
    if (!v)
        return LUTRA_OK;
    if (json_is_integer(v)) {
        *out = json_integer_value(v);
        return LUTRA_OK;
    }
    const double x = json_real_value(v);
    if (!json_is_real(v) || x != floor(x))
        return wrong_type(what, key, v, "an integer", err);
    if (!(x >= -0x1p63 && x < 0x1p63))
        return wrong_type(what, key, v, "an integer of 64 bits", err);
    *out = (int64_t)x;
    return LUTRA_OK;
}

lutra_status lu_json_float(const char *what, json_t *obj, const char *key, double *out,
                           lutra_err *err)
{
    const json_t *v = member(obj, key);
    if (!v || lu_json_nonfinite(v, out))
        return LUTRA_OK;
    if (!json_is_number(v))
        return wrong_type(what, key, v, "a number", err);
    *out = json_number_value(v);
    return LUTRA_OK;
}

lutra_status lu_json_bool(const char *what, json_t *obj, const char *key, bool *out, lutra_err *err)
{
    const json_t *v = member(obj, key);
    if (!v)
        return LUTRA_OK;
    if (!json_is_boolean(v))
        return wrong_type(what, key, v, "true or false", err);
    *out = json_is_true(v);
    return LUTRA_OK;
}

lutra_status lu_json_string(const char *what, json_t *obj, const char *key, const char **out,
                            lutra_err *err)
{
    const json_t *v = member(obj, key);
    double x;
    if (!v)
        return LUTRA_OK;
    if (!json_is_string(v) || lu_json_nonfinite(v, &x))
        return wrong_type(what, key, v, "a string", err);
    *out = json_string_value(v);
    return LUTRA_OK;
}
