/* jinja_json.c - the tojson filter as Hugging Face defines it: json.dumps with ensure_ascii off and
   keys in their order, where Jinja's own would sort keys and escape HTML. */
#include <math.h>
#include <stdio.h>

#include "text/jinja_eval.h"

typedef struct writer {
    lu_jenv *env;
    lu_jbuf b;
    lu_jstr indent, comma, colon;
    bool pretty, ascii, sorted;
    size_t depth;
} writer;

static void put_escape(writer *w, uint32_t unit)
{
    char text[8];
    snprintf(text, sizeof text, "\\u%04x", (unsigned)unit);
    lu_j_put_text(w->env, &w->b, text);
}

static void put_string(writer *w, lu_jstr s)
{
    static const char from[] = "\"\\\n\r\t\f\b", to[] = "\"\\nrtfb";
    lu_j_put_text(w->env, &w->b, "\"");
    for (size_t i = 0, size; i < s.n; i += size) {
        const uint32_t c = lu_j_char(s.p + i, s.n - i, &size);
        int k = 0;
        while (from[k] && (uint32_t)from[k] != c)
            k++;
        if (from[k]) {
            lu_j_put_text(w->env, &w->b, "\\");
            lu_j_put(w->env, &w->b, &to[k], 1);
        } else if (c < 0x20 || (w->ascii && c >= 0x7F && c < 0x10000 && c != 0x7F)) {
            put_escape(w, c);
        } else if (w->ascii && c >= 0x10000) {
            put_escape(w, 0xD800 + ((c - 0x10000) >> 10));
            put_escape(w, 0xDC00 + ((c - 0x10000) & 0x3FF));
        } else {
            lu_j_put(w->env, &w->b, s.p + i, size);
        }
    }
    lu_j_put_text(w->env, &w->b, "\"");
}

static void put_value(writer *w, lu_jv v);

static void line_break(writer *w)
{
    if (!w->pretty)
        return;
    lu_j_put_text(w->env, &w->b, "\n");
    for (size_t i = 0; i < w->depth; i++)
        lu_j_put(w->env, &w->b, w->indent.p, w->indent.n);
}

/* A key that is not a string becomes what the value would be, in quotes. */
static void put_key(writer *w, lu_jv key)
{
    if (key.type == J_STR) {
        put_string(w, key.s);
        return;
    }
    if (key.type != J_NONE && !lu_j_is_number(key))
        lu_j_wrong_type(w->env, "tojson: key", key, "a string, number or none");
    lu_j_put_text(w->env, &w->b, "\"");
    put_value(w, key);
    lu_j_put_text(w->env, &w->b, "\"");
}

/* The order of the pairs: as inserted, or by key (insertion sort: dicts of tools are small, and the
   comparisons are charged). */
static const lu_jpair **pair_order(writer *w, const lu_jdict *d)
{
    const lu_jpair **order = lu_j_alloc(w->env, d->n, sizeof *order);
    for (size_t i = 0; i < d->n; i++) {
        size_t at = i;
        for (; w->sorted && at && lu_j_order(w->env, order[at - 1]->key, d->pairs[i].key) > 0; at--)
            order[at] = order[at - 1];
        order[at] = &d->pairs[i];
    }
    return order;
}

static void put_items(writer *w, lu_jv v)
{
    const bool dict = v.type == J_DICT;
    const size_t n = dict ? v.dict->n : v.list->n;
    const lu_jpair **order = dict ? pair_order(w, v.dict) : NULL;
    lu_j_put_text(w->env, &w->b, dict ? "{" : "[");
    w->depth++;
    for (size_t i = 0; i < n; i++) {
        if (i)
            lu_j_put(w->env, &w->b, w->comma.p, w->comma.n);
        line_break(w);
        if (dict) {
            put_key(w, order[i]->key);
            lu_j_put(w->env, &w->b, w->colon.p, w->colon.n);
        }
        put_value(w, dict ? order[i]->value : v.list->items[i]);
    }
    w->depth--;
    if (n)
        line_break(w);
    lu_j_put_text(w->env, &w->b, dict ? "}" : "]");
}

static void put_value(writer *w, lu_jv v)
{
    lu_j_enter(w->env);
    switch (v.type) {
    case J_NONE: lu_j_put_text(w->env, &w->b, "null"); break;
    case J_BOOL: lu_j_put_text(w->env, &w->b, v.b ? "true" : "false"); break;
    case J_INT: lu_j_put_int(w->env, &w->b, v.i); break;
    case J_FLOAT:
        if (isfinite(v.f))
            lu_j_put_float(w->env, &w->b, v.f);
        else
            lu_j_put_text(w->env, &w->b, isnan(v.f) ? "NaN" : v.f > 0 ? "Infinity" : "-Infinity");
        break;
    case J_STR: put_string(w, v.s); break;
    case J_LIST:
    case J_TUPLE:
    case J_DICT: put_items(w, v); break;
    default: lu_j_wrong_type(w->env, "tojson", v, "a value with a JSON form");
    }
    lu_j_leave(w->env);
}

/* tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False) */
lu_jv lu_j_to_json(lu_jcall *call)
{
    const lu_jv indent = call->a[1], separators = call->a[2];
    writer w = {.env = call->env,
                .ascii = lu_j_arg_bool(call, 0, false),
                .sorted = lu_j_arg_bool(call, 3, false)};
    w.pretty = indent.type != J_ABSENT && indent.type != J_NONE;
    w.comma = lu_j_lit(w.pretty ? "," : ", ");
    w.colon = lu_j_lit(": ");
    if (w.pretty && indent.type == J_STR) {
        w.indent = indent.s;
    } else if (w.pretty) {
        lu_jbuf spaces = {0};
        for (int64_t i = lu_j_arg_int(call, 1, 0); i > 0; i--)
            lu_j_put_text(call->env, &spaces, " ");
        w.indent = lu_j_take(&spaces).s;
    }
    if (separators.type != J_ABSENT && separators.type != J_NONE) {
        const lu_jlist *pair = lu_j_items(call->env, separators);
        if (pair->n != 2 || pair->items[0].type != J_STR || pair->items[1].type != J_STR)
            lu_j_fail(call->env, LUTRA_E_FORMAT, "tojson: separators must be two strings");
        w.comma = pair->items[0].s;
        w.colon = pair->items[1].s;
    }
    put_value(&w, call->self);
    return lu_j_take(&w.b);
}
