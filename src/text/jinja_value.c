/* jinja_value.c - arena, failures, limits and the containers of a render (see jinja_value.h).
   Every walk over bytes or items is charged as work, so the work limit bounds time whatever a
   template does with large values. */
#include "text/jinja_value.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

#define CHUNK_BYTES 16384
#define ALIGN 16

struct lu_jchunk {
    lu_jchunk *next;
    size_t used, size;
    _Alignas(ALIGN) char data[];
};

_Noreturn void lu_j_fail(lu_jenv *env, lutra_status status, const char *fmt, ...)
{
    char text[sizeof env->err->msg];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    for (char *c = text; *c; c++) /* messages are one line, whatever a template puts in them */
        if (*c == '\n' || *c == '\r')
            *c = ' ';
    /* A refusal is the template author's sentence to the user: its line helps nobody. */
    if (status == LUTRA_E_ARG || status == LUTRA_E_NOMEM)
        lu_fail(env->err, status, "chat template: %s", text);
    else
        lu_fail(env->err, status, "chat template line %d: %s", env->line, text);
    env->status = status;
    longjmp(env->unwind, 1);
}

_Noreturn void lu_j_wrong_type(lu_jenv *env, const char *what, lu_jv v, const char *expected)
{
    if (v.type == J_UNDEFINED)
        lu_j_fail(env, LUTRA_E_FORMAT, "'%.*s' is undefined", (int)(v.s.n < 100 ? v.s.n : 100),
                  v.s.p);
    lu_j_fail(env, LUTRA_E_FORMAT, "%s: got %s, expected %s", what, lu_j_type_name(v), expected);
}

void lu_j_work(lu_jenv *env, size_t units)
{
    if (units > INT64_MAX || env->left.work < (int64_t)units)
        lu_j_fail(env, LUTRA_E_LIMIT, "evaluation takes too long");
    env->left.work -= (int64_t)units;
}

void lu_j_enter(lu_jenv *env)
{
    if (env->depth >= env->left.depth)
        lu_j_fail(env, LUTRA_E_LIMIT, "nested more than %d levels deep", env->left.depth);
    env->depth++;
}

void lu_j_leave(lu_jenv *env) { env->depth--; }

void *lu_j_alloc(lu_jenv *env, size_t count, size_t size)
{
    size_t bytes;
    if (!lu_mul_size(count, size, &bytes) || bytes > env->left.memory)
        lu_j_fail(env, LUTRA_E_LIMIT, "values take too much memory");
    bytes = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    lu_jchunk *c = env->chunks;
    if (!c || c->size - c->used < bytes) {
        const size_t room = bytes > CHUNK_BYTES / 4 ? bytes : CHUNK_BYTES;
        lu_jchunk *fresh = lu_alloc(sizeof *fresh + room);
        if (!fresh)
            lu_j_fail(env, LUTRA_E_NOMEM, "out of memory asking for %zu bytes", room);
        *fresh = (lu_jchunk){.size = room};
        if (c && room == bytes) { /* large block: keep filling the current chunk */
            fresh->next = c->next;
            c->next = fresh;
        } else {
            fresh->next = c;
            env->chunks = fresh;
        }
        c = fresh;
    }
    env->left.memory -= bytes < env->left.memory ? bytes : env->left.memory;
    void *p = c->data + c->used;
    c->used += bytes;
    memset(p, 0, bytes);
    lu_j_work(env, bytes >> 8);
    return p;
}

void lu_j_free_all(lu_jenv *env)
{
    for (lu_jchunk *c = env->chunks, *next; c; c = next) {
        next = c->next;
        lu_free(c);
    }
    env->chunks = NULL;
}

lu_jv lu_j_undefined(lu_jstr name) { return (lu_jv){.type = J_UNDEFINED, .s = name}; }
lu_jv lu_j_none(void) { return (lu_jv){.type = J_NONE}; }
lu_jv lu_j_bool(bool b) { return (lu_jv){.type = J_BOOL, .b = b}; }
lu_jv lu_j_int(int64_t i) { return (lu_jv){.type = J_INT, .i = i}; }
lu_jv lu_j_float(double f) { return (lu_jv){.type = J_FLOAT, .f = f}; }
lu_jv lu_j_str(lu_jstr s) { return (lu_jv){.type = J_STR, .s = s}; }
lu_jv lu_j_text(const char *s) { return lu_j_str(lu_j_lit(s)); }

lu_jv lu_j_list(lu_jenv *env, lu_jtype type)
{
    return (lu_jv){.type = type, .list = lu_j_alloc(env, 1, sizeof(lu_jlist))};
}

lu_jv lu_j_dict(lu_jenv *env, lu_jtype type)
{
    return (lu_jv){.type = type, .dict = lu_j_alloc(env, 1, sizeof(lu_jdict))};
}

/* Room for one more element: doubles, leaving the old block to the arena. */
static void *grown(lu_jenv *env, void *old, size_t n, size_t *cap, size_t size)
{
    if (n < *cap)
        return old;
    const size_t next = *cap ? *cap * 2 : 4;
    void *p = lu_j_alloc(env, next, size);
    if (n)
        memcpy(p, old, n * size);
    *cap = next;
    return p;
}

void lu_j_append(lu_jenv *env, lu_jlist *list, lu_jv v)
{
    lu_j_work(env, 1);
    list->items = grown(env, list->items, list->n, &list->cap, sizeof *list->items);
    list->items[list->n++] = v;
}

lu_jv *lu_j_get(lu_jenv *env, const lu_jdict *d, lu_jv key)
{
    for (size_t i = 0; i < d->n; i++)
        if (lu_j_equal(env, d->pairs[i].key, key))
            return &d->pairs[i].value;
    return NULL;
}

void lu_j_set(lu_jenv *env, lu_jdict *d, lu_jv key, lu_jv value)
{
    if (key.type == J_LIST || key.type == J_DICT || key.type == J_UNDEFINED)
        lu_j_wrong_type(env, "key of a dict", key, "a string, number or none");
    lu_jv *place = lu_j_get(env, d, key);
    if (place) {
        *place = value;
        return;
    }
    d->pairs = grown(env, d->pairs, d->n, &d->cap, sizeof *d->pairs);
    d->pairs[d->n++] = (lu_jpair){key, value};
}

void lu_j_set_text(lu_jenv *env, lu_jdict *d, const char *key, lu_jv value)
{
    lu_j_set(env, d, lu_j_text(key), value);
}

const char *lu_j_type_name(lu_jv v)
{
    static const char *const names[] = {
        [J_ABSENT] = "nothing",      [J_UNDEFINED] = "an undefined value",
        [J_NONE] = "none",           [J_BOOL] = "a boolean",
        [J_INT] = "an integer",      [J_FLOAT] = "a float",
        [J_STR] = "a string",        [J_LIST] = "a list",
        [J_TUPLE] = "a tuple",       [J_ITER] = "an iterator",
        [J_DICT] = "a dict",         [J_NAMESPACE] = "a namespace",
        [J_LOOP] = "a loop",         [J_MACRO] = "a macro",
        [J_FUNCTION] = "a function", [J_METHOD] = "a method",
    };
    return names[v.type];
}

bool lu_j_truth(lu_jv v)
{
    switch (v.type) {
    case J_ABSENT:
    case J_UNDEFINED:
    case J_NONE: return false;
    case J_BOOL: return v.b;
    case J_INT: return v.i != 0;
    case J_FLOAT: return v.f != 0;
    case J_STR: return v.s.n != 0;
    case J_LIST:
    case J_TUPLE: return v.list->n != 0;
    case J_DICT: return v.dict->n != 0;
    default: return true;
    }
}

bool lu_j_is_number(lu_jv v) { return v.type == J_BOOL || v.type == J_INT || v.type == J_FLOAT; }

double lu_j_number(lu_jv v)
{
    return v.type == J_FLOAT ? v.f : v.type == J_BOOL ? (double)v.b : (double)v.i;
}

static int64_t whole(lu_jv v) { return v.type == J_BOOL ? (int64_t)v.b : v.i; }

static bool equal_lists(lu_jenv *env, const lu_jlist *a, const lu_jlist *b)
{
    if (a->n != b->n)
        return false;
    lu_j_enter(env);
    bool same = true;
    for (size_t i = 0; same && i < a->n; i++)
        same = lu_j_equal(env, a->items[i], b->items[i]);
    lu_j_leave(env);
    return same;
}

static bool equal_dicts(lu_jenv *env, const lu_jdict *a, const lu_jdict *b)
{
    if (a->n != b->n)
        return false;
    lu_j_enter(env);
    bool same = true;
    for (size_t i = 0; same && i < a->n; i++) {
        const lu_jv *other = lu_j_get(env, b, a->pairs[i].key);
        same = other && lu_j_equal(env, a->pairs[i].value, *other);
    }
    lu_j_leave(env);
    return same;
}

bool lu_j_equal(lu_jenv *env, lu_jv a, lu_jv b)
{
    lu_j_work(env, 1);
    if (lu_j_is_number(a) && lu_j_is_number(b))
        return a.type == J_FLOAT || b.type == J_FLOAT ? lu_j_number(a) == lu_j_number(b)
                                                      : whole(a) == whole(b);
    if (a.type != b.type)
        return false;
    switch (a.type) {
    case J_UNDEFINED:
    case J_NONE: return true;
    case J_STR:
        if (a.s.n != b.s.n)
            return false;
        lu_j_work(env, a.s.n >> 6);
        return lu_j_same(a.s, b.s);
    case J_LIST:
    case J_TUPLE: return equal_lists(env, a.list, b.list);
    case J_DICT: return equal_dicts(env, a.dict, b.dict);
    default: return a.list == b.list; /* identity: all of these are one pointer */
    }
}

static int sign(int64_t a, int64_t b) { return (a > b) - (a < b); }

int lu_j_order(lu_jenv *env, lu_jv a, lu_jv b)
{
    lu_j_work(env, 1);
    if (lu_j_is_number(a) && lu_j_is_number(b)) {
        if (a.type != J_FLOAT && b.type != J_FLOAT)
            return sign(whole(a), whole(b));
        const double x = lu_j_number(a), y = lu_j_number(b);
        return isnan(x) || isnan(y) ? 2 : (x > y) - (x < y);
    }
    if (a.type == J_STR && b.type == J_STR) {
        const size_t n = a.s.n < b.s.n ? a.s.n : b.s.n;
        lu_j_work(env, n >> 6);
        const int c = n ? memcmp(a.s.p, b.s.p, n) : 0; /* UTF-8 sorts as its code points */
        return c ? (c > 0) - (c < 0) : (a.s.n > b.s.n) - (a.s.n < b.s.n);
    }
    if (a.type == b.type && (a.type == J_LIST || a.type == J_TUPLE)) {
        lu_j_enter(env);
        int c = 0;
        for (size_t i = 0; c == 0 && i < a.list->n && i < b.list->n; i++)
            if (!lu_j_equal(env, a.list->items[i], b.list->items[i]))
                c = lu_j_order(env, a.list->items[i], b.list->items[i]);
        lu_j_leave(env);
        return c ? c : (a.list->n > b.list->n) - (a.list->n < b.list->n);
    }
    if (a.type == J_UNDEFINED || b.type == J_UNDEFINED)
        lu_j_wrong_type(env, "comparison", a.type == J_UNDEFINED ? a : b, "a value");
    lu_j_fail(env, LUTRA_E_FORMAT, "comparison of %s with %s has no order", lu_j_type_name(a),
              lu_j_type_name(b));
}

bool lu_j_contains(lu_jenv *env, lu_jv container, lu_jv item)
{
    if (container.type == J_STR) {
        if (item.type != J_STR)
            lu_j_wrong_type(env, "left side of 'in' a string", item, "a string");
        return lu_j_find(env, container.s, item.s) != NULL;
    }
    if (container.type == J_DICT)
        return lu_j_get(env, container.dict, item) != NULL;
    const lu_jlist *items = lu_j_items(env, container);
    for (size_t i = 0; i < items->n; i++)
        if (lu_j_equal(env, items->items[i], item))
            return true;
    return false;
}

const lu_jlist *lu_j_items(lu_jenv *env, lu_jv v)
{
    if (v.type == J_LIST || v.type == J_TUPLE)
        return v.list;
    lu_jlist *out = lu_j_alloc(env, 1, sizeof *out);
    if (v.type == J_ITER) {
        *out = *v.list;
        *v.list = (lu_jlist){NULL, 0, 0};
    } else if (v.type == J_DICT) {
        for (size_t i = 0; i < v.dict->n; i++)
            lu_j_append(env, out, v.dict->pairs[i].key);
    } else if (v.type == J_STR) {
        for (size_t i = 0, size; i < v.s.n; i += size) {
            size = lu_j_char_size(v.s.p + i, v.s.n - i);
            lu_j_append(env, out, lu_j_str((lu_jstr){v.s.p + i, size}));
        }
    } else if (v.type != J_UNDEFINED) { /* undefined walks like an empty list */
        lu_j_wrong_type(env, "iteration", v, "a list, dict or string");
    }
    return out;
}

size_t lu_j_length(lu_jenv *env, lu_jv v)
{
    switch (v.type) {
    case J_UNDEFINED: return 0;
    case J_STR: lu_j_work(env, v.s.n >> 4); return lu_j_char_count(v.s);
    case J_LIST:
    case J_TUPLE: return v.list->n;
    case J_DICT: return v.dict->n;
    default: lu_j_wrong_type(env, "length", v, "a list, dict or string");
    }
}
