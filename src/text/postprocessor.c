/* postprocessor.c - the member "post_processor", as far as it changes ids: the "single" template of
   TemplateProcessing. ByteLevel only moves offsets, which this library does not give out. */
#include <string.h>

#include "base/mem.h"
#include "text/parts.h"

typedef struct reading {
    const lu_vocab *vocab;
    lu_postprocessor *out;
} reading;

static lutra_status append_id(int32_t **ids, int *n, int32_t id, lutra_err *err)
{
    int32_t *grown = lu_part_grow(*ids, *n, sizeof *grown);
    if (!grown)
        return lu_fail_nomem(err, sizeof *grown);
    *ids = grown;
    grown[(*n)++] = id;
    return LUTRA_OK;
}

static lutra_status append_special(const char *what, json_t *part, const char *name,
                                   const lu_vocab *vocab, int32_t **list, int *n, lutra_err *err)
{
    json_t *ids =
        json_object_get(json_object_get(json_object_get(part, "special_tokens"), name), "ids");
    if (!json_is_array(ids))
        return lu_fail(err, LUTRA_E_FORMAT, "%s: special token \"%.100s\" has no ids", what, name);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        json_t *value = json_array_get(ids, i);
        const json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        size_t length;
        if (id < 0 || id >= vocab->n_ids || !lu_vocab_text(vocab, (int32_t)id, &length))
            return lu_fail(err, LUTRA_E_FORMAT,
                           "%s: special token \"%.100s\" has an id that is no token", what, name);
        LU_TRY(append_id(list, n, (int32_t)id, err));
    }
    return LUTRA_OK;
}

/* Reads one template into `t`, the ids before and after the text. */
static lutra_status parse_template(const char *what, json_t *part, const lu_vocab *vocab,
                                   lu_postprocessor *t, lutra_err *err)
{
    json_t *items = json_object_get(part, "single");
    if (!json_is_array(items))
        return lu_fail(err, LUTRA_E_FORMAT, "%s: \"single\" is missing or no array", what);
    int n_texts = 0;
    for (size_t i = 0; i < json_array_size(items); i++) {
        json_t *item = json_array_get(items, i);
        const char *name =
            json_string_value(json_object_get(json_object_get(item, "SpecialToken"), "id"));
        const char *text =
            json_string_value(json_object_get(json_object_get(item, "Sequence"), "id"));
        if (name && n_texts)
            LU_TRY(append_special(what, part, name, vocab, &t->after, &t->n_after, err));
        else if (name)
            LU_TRY(append_special(what, part, name, vocab, &t->before, &t->n_before, err));
        else if (text && strcmp(text, "A") == 0)
            n_texts++;
        else
            return lu_fail(err, LUTRA_E_FORMAT,
                           "%s: item %zu of \"single\" is neither a SpecialToken nor "
                           "Sequence A",
                           what, i);
    }
    if (n_texts != 1)
        return lu_fail(err, LUTRA_E_UNSUPPORTED,
                       "%s: the template has the text %d times, expected once", what, n_texts);
    return LUTRA_OK;
}

/* A further template goes around what the ones before it made. */
static lutra_status wrap(lu_postprocessor *inner, lu_postprocessor *outer, lutra_err *err)
{
    for (int i = 0; i < inner->n_before; i++)
        LU_TRY(append_id(&outer->before, &outer->n_before, inner->before[i], err));
    for (int i = 0; i < outer->n_after; i++)
        LU_TRY(append_id(&inner->after, &inner->n_after, outer->after[i], err));
    const lu_postprocessor swap = *inner;
    inner->before = outer->before;
    inner->n_before = outer->n_before;
    outer->before = swap.before;
    outer->n_before = swap.n_before;
    return LUTRA_OK;
}

static lutra_status add_step(void *arg, const char *what, const char *type, json_t *part,
                             lutra_err *err)
{
    const reading *r = arg;
    if (strcmp(type, "ByteLevel") == 0)
        return LUTRA_OK;
    if (strcmp(type, "TemplateProcessing") != 0)
        return lu_fail(err, LUTRA_E_UNSUPPORTED, "%s: type \"%.100s\" is not supported", what,
                       type);
    lu_postprocessor t = {0};
    lutra_status status = parse_template(what, part, r->vocab, &t, err);
    if (status == LUTRA_OK)
        status = wrap(r->out, &t, err);
    lu_postprocessor_free(&t);
    return status;
}

lutra_status lu_postprocessor_parse(const char *what, json_t *part, const lu_vocab *vocab,
                                    lu_postprocessor *out, lutra_err *err)
{
    reading r = {vocab, out};
    return lu_part_walk(what, part, "processors", add_step, &r, err);
}

void lu_postprocessor_free(lu_postprocessor *z)
{
    lu_free(z->before);
    lu_free(z->after);
    *z = (lu_postprocessor){0};
}
