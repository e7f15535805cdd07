/* part.c - what the readers of tokenizer.json's parts share: Sequences, typed members, the
   byte-level alphabet. */
#include <string.h>

#include "base/mem.h"
#include "text/parts.h"
#include "text/utf8.h"

#define NESTING_LIMIT 8

static lutra_status walk(const char *what, json_t *part, const char *list, int depth,
                         lu_part_step step, void *arg, lutra_err *err)
{
    if (!part || json_is_null(part))
        return LUTRA_OK;
    const char *type = json_string_value(json_object_get(part, "type"));
    if (!type)
        return lu_fail(err, LUTRA_E_FORMAT, "%s: no object with a \"type\"", what);
    if (strcmp(type, "Sequence") != 0)
        return step(arg, what, type, part, err);
    json_t *members = json_object_get(part, list);
    if (!json_is_array(members))
        return lu_fail(err, LUTRA_E_FORMAT, "%s: a Sequence without the array \"%s\"", what, list);
    if (depth == NESTING_LIMIT)
        return lu_fail(err, LUTRA_E_FORMAT, "%s: Sequences nested more than %d deep", what,
                       NESTING_LIMIT);
    for (size_t i = 0; i < json_array_size(members); i++) {
        if (json_is_null(json_array_get(members, i)))
            return lu_fail(err, LUTRA_E_FORMAT, "%s: member %zu of a Sequence is null", what, i);
        LU_TRY(walk(what, json_array_get(members, i), list, depth + 1, step, arg, err));
    }
    return LUTRA_OK;
}

lutra_status lu_part_walk(const char *what, json_t *part, const char *list, lu_part_step step,
                          void *arg, lutra_err *err)
{
    return walk(what, part, list, 0, step, arg, err);
}

void *lu_part_grow(void *items, int n, size_t size)
{
    size_t bytes;
    if (!lu_mul_size((size_t)n + 1, size, &bytes))
        return NULL;
    char *grown = lu_resize(items, bytes);
    if (grown)
        memset(grown + (size_t)n * size, 0, size);
    return grown;
}

lutra_status lu_part_text(const char *what, json_t *part, const char *key, const char **text,
                          size_t *n, lutra_err *err)
{
    const char *found = NULL;
    LU_TRY(lu_json_string(what, part, key, &found, err));
    if (!found)
        return lu_fail(err, LUTRA_E_FORMAT, "%s: \"%s\" is missing", what, key);
    *text = found;
    *n = strlen(found);
    return LUTRA_OK;
}

lutra_status lu_part_char(const char *what, json_t *part, const char *key, const char **text,
                          size_t *n, lutra_err *err)
{
    LU_TRY(lu_part_text(what, part, key, text, n, err));
    int length = 0;
    if (*n)
        lu_utf8_decode(*text, &length);
    if (*n != (size_t)length || !*n)
        return lu_fail(err, LUTRA_E_FORMAT, "%s: \"%s\" is \"%.100s\", expected one character",
                       what, key, *text);
    return LUTRA_OK;
}

lutra_status lu_part_prepend(const char *what, json_t *part, lu_prepend *out, lutra_err *err)
{
    static const char *const names[] = {"always", "first",
                                        "never"}; /* in the order of lu_prepend */
    const char *scheme = "always";
    bool add = true;
    LU_TRY(lu_json_string(what, part, "prepend_scheme", &scheme, err));
    LU_TRY(lu_json_bool(what, part, "add_prefix_space", &add, err));
    for (int i = 0; i < 3; i++)
        if (strcmp(scheme, names[i]) == 0) {
            *out = add ? (lu_prepend)i : LU_PREPEND_NEVER;
            return LUTRA_OK;
        }
    return lu_fail(err, LUTRA_E_UNSUPPORTED, "%s: prepend_scheme \"%.100s\" is unknown", what,
                   scheme);
}

/* Bytes 33-126, 161-172 and 174-255 are their own characters; the other 68 follow from U+0100 on:
   0-32, 127-160, 173. */
int32_t lu_byte_to_char(uint8_t byte)
{
    if (byte <= 32)
        return 0x100 + byte;
    if (byte >= 127 && byte <= 160)
        return 0x100 + 33 + (byte - 127);
    return byte == 173 ? 0x100 + 67 : byte;
}

int lu_char_to_byte(int32_t c)
{
    if (c < 0x100)
        return c >= 0 && lu_byte_to_char((uint8_t)c) == c ? c : -1;
    c -= 0x100;
    if (c < 33)
        return c;
    if (c < 67)
        return 127 + (c - 33);
    return c == 67 ? 173 : -1;
}
