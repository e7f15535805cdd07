/* vocab.c - the piece table of vocab.h: texts in one block, an array by id, and an open-addressing
   hash table of ids at half load by text. */
#include "text/vocab.h"

#include <string.h>

#include "base/mem.h"

static uint64_t hash_text(const char *text, size_t n)
{
    uint64_t h = 0x9E3779B97F4A7C15u ^ n, word;
    for (; n >= 8; n -= 8, text += 8) {
        memcpy(&word, text, 8);
        h = (h ^ word) * 0xBF58476D1CE4E5B9u;
        h ^= h >> 29;
    }
    word = 0;
    memcpy(&word, text, n);
    h = (h ^ word) * 0x94D049BB133111EBu;
    return h ^ h >> 32;
}

/* The slot that holds the text, or the free one where it would go. */
static size_t find_slot(const lu_vocab *v, const char *text, size_t n)
{
    size_t slot = hash_text(text, n) & (v->n_slots - 1);
    for (;; slot = (slot + 1) & (v->n_slots - 1)) {
        const int32_t id = v->slots[slot];
        if (id < 0)
            return slot;
        const lu_piece *p = &v->pieces[id];
        if (p->length == n && memcmp(v->text + p->offset, text, n) == 0)
            return slot;
    }
}

int32_t lu_vocab_find(const lu_vocab *v, const char *text, size_t n, uint32_t flags)
{
    const int32_t id = v->slots[find_slot(v, text, n)];
    return id >= 0 && (v->pieces[id].flags & flags) == flags ? id : -1;
}

const char *lu_vocab_text(const lu_vocab *v, int32_t id, size_t *n)
{
    if (id < 0 || id >= v->n_ids || !v->pieces[id].flags)
        return NULL;
    *n = v->pieces[id].length;
    return v->text + v->pieces[id].offset;
}

static bool append_text(lu_vocab *v, const char *text, size_t n, uint32_t *offset)
{
    size_t need = v->text_size;
    if (!lu_add_size(need, n, &need) || !lu_add_size(need, 1, &need) || need > UINT32_MAX)
        return false;
    if (need > v->text_capacity) {
        const size_t capacity = need < 1024 ? 2048 : need * 2;
        char *grown = lu_resize(v->text, capacity);
        if (!grown)
            return false;
        v->text = grown;
        v->text_capacity = capacity;
    }
    *offset = (uint32_t)v->text_size;
    memcpy(v->text + v->text_size, text, n);
    v->text[need - 1] = '\0';
    v->text_size = need;
    return true;
}

lutra_status lu_vocab_add(const char *what, lu_vocab *v, const char *text, size_t n, int32_t id,
                          uint32_t flags, lutra_err *err)
{
    const size_t slot = find_slot(v, text, n);
    const int32_t known = v->slots[slot];
    if (known >= 0 && known != id)
        return lu_fail(err, LUTRA_E_FORMAT, "%s: piece \"%.100s\" has the ids %d and %d", what,
                       text, (int)known, (int)id);
    lu_piece *p = &v->pieces[id];
    if (known < 0) {
        if (p->flags)
            return lu_fail(err, LUTRA_E_FORMAT, "%s: id %d is both \"%.100s\" and \"%.100s\"", what,
                           (int)id, v->text + p->offset, text);
        if (!append_text(v, text, n, &p->offset))
            return lu_fail_nomem(err, n);
        p->length = (uint32_t)n;
        v->slots[slot] = id;
    }
    p->flags |= flags | LU_PIECE_PRESENT;
    return LUTRA_OK;
}

/* Checks the type and range of every id, so that the tables can be sized before they are filled. */
static lutra_status largest_id(const char *what, json_t *object, int32_t *limit, lutra_err *err)
{
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value)
    {
        if (!json_is_integer(value))
            return lu_fail(err, LUTRA_E_FORMAT, "%s: the id of \"%.100s\" is no integer", what,
                           key);
        const json_int_t id = json_integer_value(value);
        if (id < 0 || id >= LU_ID_LIMIT)
            return lu_fail(err, LUTRA_E_FORMAT, "%s: id %lld of \"%.100s\" is outside 0 .. %d",
                           what, (long long)id, key, LU_ID_LIMIT - 1);
        if (id >= *limit)
            *limit = (int32_t)id + 1;
    }
    return LUTRA_OK;
}

lutra_status lu_vocab_parse(const char *what, json_t *object, size_t n_more, int32_t id_limit,
                            lu_vocab *out, lutra_err *err)
{
    if (!json_is_object(object))
        return lu_fail(err, LUTRA_E_FORMAT,
                       "%s: \"vocab\" is missing or no object of pieces and ids", what);
    LU_TRY(largest_id(what, object, &id_limit, err));
    size_t n_slots = 16;
    while (n_slots < 2 * (json_object_size(object) + n_more))
        n_slots *= 2;
    out->n_ids = id_limit;
    out->n_slots = n_slots;
    out->pieces = lu_calloc((size_t)id_limit, sizeof *out->pieces);
    out->slots = lu_array(n_slots, sizeof *out->slots);
    if (!out->pieces || !out->slots)
        return lu_fail_nomem(err, n_slots * sizeof *out->slots);
    memset(out->slots, 0xFF, n_slots * sizeof *out->slots); /* -1 */
    for (void *it = json_object_iter(object); it; it = json_object_iter_next(object, it))
        LU_TRY(lu_vocab_add(what, out, json_object_iter_key(it), json_object_iter_key_len(it),
                            (int32_t)json_integer_value(json_object_iter_value(it)), LU_PIECE_MODEL,
                            err));
    return LUTRA_OK;
}

void lu_vocab_free(lu_vocab *v)
{
    lu_free(v->text);
    lu_free(v->pieces);
    lu_free(v->slots);
    *v = (lu_vocab){0};
}
