/* jinja_lists.c - filters of lists and dicts. The ones that Jinja computes lazily return an
   iterator, so that `if x|select(...)` and `x|map(...)|length` behave as there. */
#include <string.h>

#include "text/jinja_eval.h"

static lu_jv f_length(lu_jcall *call)
{
    return lu_j_int((int64_t)lu_j_length(call->env, call->self));
}

static lu_jv f_first(lu_jcall *call)
{
    const lu_jlist *items = lu_j_items(call->env, call->self);
    return items->n ? items->items[0] : lu_j_undefined(lu_j_lit("first item"));
}

static lu_jv f_last(lu_jcall *call)
{
    lu_j_length(call->env, call->self); /* as Jinja, not of an iterator */
    const lu_jlist *items = lu_j_items(call->env, call->self);
    return items->n ? items->items[items->n - 1] : lu_j_undefined(lu_j_lit("last item"));
}

static lu_jv copied(lu_jcall *call, lu_jtype type, bool backwards)
{
    const lu_jlist *items = lu_j_items(call->env, call->self);
    const lu_jv v = lu_j_list(call->env, type);
    for (size_t i = 0, n = items->n; i < n; i++)
        lu_j_append(call->env, v.list, items->items[backwards ? n - 1 - i : i]);
    return v;
}

static lu_jv f_list(lu_jcall *call) { return copied(call, J_LIST, false); }

static lu_jv f_reverse(lu_jcall *call)
{
    if (call->self.type == J_STR)
        return lu_j_slice(call->env, call->self, lu_j_none(), lu_j_none(), lu_j_int(-1));
    return copied(call, J_ITER, true);
}

/* A member by path: "function.name", "content.0.text". */
static lu_jv member(lu_jenv *env, lu_jv v, lu_jv path)
{
    if (path.type != J_STR)
        return lu_j_item(env, v, path);
    lu_jstr rest = path.s;
    while (rest.n) {
        const char *dot = memchr(rest.p, '.', rest.n);
        const lu_jstr part = {rest.p, dot ? (size_t)(dot - rest.p) : rest.n};
        int64_t index = 0;
        bool digits = part.n > 0 && part.n < 10;
        for (size_t i = 0; digits && i < part.n; i++) {
            digits = part.p[i] >= '0' && part.p[i] <= '9';
            index = index * 10 + (part.p[i] - '0');
        }
        v = lu_j_item(env, v, digits ? lu_j_int(index) : lu_j_str(part));
        rest.n -= part.n + (dot ? 1 : 0);
        rest.p += part.n + (dot ? 1 : 0);
    }
    return v;
}

static lu_jv f_join(lu_jcall *call)
{
    const lu_jlist *items = lu_j_items(call->env, call->self);
    const lu_jstr between =
        call->a[0].type == J_ABSENT ? lu_j_lit("") : lu_j_to_str(call->env, call->a[0]);
    const bool members = call->a[1].type != J_ABSENT && call->a[1].type != J_NONE;
    lu_jbuf b = {0};
    for (size_t i = 0; i < items->n; i++) {
        if (i)
            lu_j_put(call->env, &b, between.p, between.n);
        lu_j_show(call->env, &b,
                  members ? member(call->env, items->items[i], call->a[1]) : items->items[i]);
    }
    return lu_j_take(&b);
}

static lu_jv f_items(lu_jcall *call)
{
    if (call->self.type == J_UNDEFINED)
        return lu_j_list(call->env, J_ITER);
    if (call->self.type != J_DICT)
        lu_j_wrong_type(call->env, "items", call->self, "a dict");
    lu_jv v = lu_j_row(lu_j_dict_methods, lu_j_lit("items"))->fn(call);
    v.type = J_ITER;
    return v;
}

/* --- map, select ---------------------------------------------------------------------------- */

static const lu_jv *named(const lu_jargs *args, const char *name)
{
    for (size_t i = 0; i < args->n_named; i++)
        if (lu_j_is(args->named[i].name, name))
            return &args->named[i].value;
    return NULL;
}

/* The name of a filter or test, at position i of the arguments. */
static lu_jstr name_at(lu_jcall *call, size_t i)
{
    if (call->args->n <= i || call->args->items[i].type != J_STR)
        lu_j_fail(call->env, LUTRA_E_FORMAT, "%s: argument %zu must be a name", call->what->name,
                  i + 1);
    return call->args->items[i].s;
}

/* map(attribute='role', default='') or map('filter', its arguments) */
static lu_jv f_map(lu_jcall *call)
{
    const lu_jlist *items = lu_j_items(call->env, call->self);
    const lu_jv out = lu_j_list(call->env, J_ITER);
    const lu_jv *path = call->args->n ? NULL : named(call->args, "attribute");
    const lu_jv *other = path ? named(call->args, "default") : NULL;
    const lu_jstr filter = path ? (lu_jstr){NULL, 0} : name_at(call, 0);
    lu_jargs rest = *call->args;
    rest.items += !path;
    rest.n -= !path;
    for (size_t i = 0, n = items->n; i < n; i++) {
        lu_jv v = items->items[i];
        if (path) {
            v = member(call->env, v, *path);
            v = v.type == J_UNDEFINED && other ? *other : v;
        } else {
            v = lu_j_filter(call->env, filter, v, &rest);
        }
        lu_j_append(call->env, out.list, v);
    }
    return out;
}

/* attribute: the first argument is a path to what is tested; without a test, truth counts */
static lu_jv chosen(lu_jcall *call, bool attribute, bool keep)
{
    const lu_jlist *items = lu_j_items(call->env, call->self);
    const lu_jv out = lu_j_list(call->env, J_ITER);
    const size_t skip = attribute;
    if (attribute && !call->args->n)
        lu_j_fail(call->env, LUTRA_E_FORMAT, "%s: needs an attribute", call->what->name);
    const bool has_test = call->args->n > skip;
    const lu_jstr test = has_test ? name_at(call, skip) : (lu_jstr){NULL, 0};
    lu_jargs rest = *call->args;
    rest.items += skip + has_test;
    rest.n -= skip + has_test;
    for (size_t i = 0, n = items->n; i < n; i++) {
        const lu_jv item = items->items[i];
        const lu_jv v = attribute ? member(call->env, item, call->args->items[0]) : item;
        if ((has_test ? lu_j_test(call->env, test, v, &rest) : lu_j_truth(v)) == keep)
            lu_j_append(call->env, out.list, item);
    }
    return out;
}

static lu_jv f_select(lu_jcall *call) { return chosen(call, false, true); }
static lu_jv f_reject(lu_jcall *call) { return chosen(call, false, false); }
static lu_jv f_selectattr(lu_jcall *call) { return chosen(call, true, true); }
static lu_jv f_rejectattr(lu_jcall *call) { return chosen(call, true, false); }

/* --- order ---------------------------------------------------------------------------------- */

/* What an item is ordered by: a member if asked for, strings without their case unless asked for.
 */
static lu_jv order_key(lu_jenv *env, lu_jv v, lu_jv attribute, bool case_sensitive)
{
    const lu_jargs none = {0};
    if (attribute.type != J_ABSENT && attribute.type != J_NONE)
        v = member(env, v, attribute);
    return v.type == J_STR && !case_sensitive ? lu_j_filter(env, lu_j_lit("lower"), v, &none) : v;
}

/* Stable merge sort of pairs (key, value) by key; scratch has as much room. */
static void sort_pairs(lu_jenv *env, lu_jpair *pairs, size_t n, bool down, lu_jpair *scratch)
{
    if (n < 2)
        return;
    const size_t half = n / 2;
    sort_pairs(env, pairs, half, down, scratch);
    sort_pairs(env, pairs + half, n - half, down, scratch);
    memcpy(scratch, pairs, n * sizeof *pairs);
    for (size_t i = 0, a = 0, b = half; i < n; i++) {
        const int order = a < half && b < n ? lu_j_order(env, scratch[b].key, scratch[a].key) : 0;
        const bool take_b = a == half || (b < n && (down ? order == 1 : order == -1));
        pairs[i] = scratch[take_b ? b++ : a++];
    }
}

static lu_jv sorted(lu_jcall *call, const lu_jlist *items, lu_jv attribute, bool case_sensitive,
                    bool down)
{
    lu_jenv *env = call->env;
    const lu_jv out = lu_j_list(env, J_LIST);
    const size_t n = items->n;
    lu_jpair *pairs = lu_j_alloc(env, n, sizeof *pairs);
    for (size_t i = 0; i < n; i++)
        pairs[i] =
            (lu_jpair){order_key(env, items->items[i], attribute, case_sensitive), items->items[i]};
    sort_pairs(env, pairs, n, down, lu_j_alloc(env, n, sizeof *pairs));
    for (size_t i = 0; i < n; i++)
        lu_j_append(env, out.list, pairs[i].value);
    return out;
}

static lu_jv f_sort(lu_jcall *call)
{
    return sorted(call, lu_j_items(call->env, call->self), call->a[2],
                  lu_j_arg_bool(call, 1, false), lu_j_arg_bool(call, 0, false));
}

/* dictsort(case_sensitive=False, by='key', reverse=False): pairs in order */
static lu_jv f_dictsort(lu_jcall *call)
{
    const lu_jstr by = call->a[1].type == J_ABSENT ? lu_j_lit("key") : lu_j_arg_str(call, 1);
    if (!lu_j_is(by, "key") && !lu_j_is(by, "value"))
        lu_j_fail(call->env, LUTRA_E_FORMAT, "dictsort: by must be key or value");
    if (call->self.type != J_DICT)
        lu_j_wrong_type(call->env, "dictsort", call->self, "a dict");
    const lu_jv pairs = lu_j_row(lu_j_dict_methods, lu_j_lit("items"))->fn(call);
    return sorted(call, pairs.list, lu_j_int(lu_j_is(by, "value")), lu_j_arg_bool(call, 0, false),
                  lu_j_arg_bool(call, 2, false));
}

static lu_jv f_unique(lu_jcall *call)
{
    const lu_jlist *items = lu_j_items(call->env, call->self);
    const lu_jv out = lu_j_list(call->env, J_ITER), seen = lu_j_dict(call->env, J_DICT);
    for (size_t i = 0, n = items->n; i < n; i++) {
        const lu_jv key =
            order_key(call->env, items->items[i], call->a[1], lu_j_arg_bool(call, 0, false));
        if (lu_j_get(call->env, seen.dict, key))
            continue;
        lu_j_set(call->env, seen.dict, key, lu_j_none());
        lu_j_append(call->env, out.list, items->items[i]);
    }
    return out;
}

static lu_jv extreme(lu_jcall *call, int wanted)
{
    const lu_jlist *items = lu_j_items(call->env, call->self);
    const bool case_sensitive = lu_j_arg_bool(call, 0, false);
    size_t best = 0;
    for (size_t i = 1; i < items->n; i++) {
        const lu_jv a = order_key(call->env, items->items[i], call->a[1], case_sensitive);
        const lu_jv b = order_key(call->env, items->items[best], call->a[1], case_sensitive);
        best = lu_j_order(call->env, a, b) == wanted ? i : best;
    }
    return items->n ? items->items[best] : lu_j_undefined(lu_j_lit("item of an empty list"));
}

static lu_jv f_min(lu_jcall *call) { return extreme(call, -1); }
static lu_jv f_max(lu_jcall *call) { return extreme(call, 1); }

static lu_jv f_sum(lu_jcall *call)
{
    const lu_jlist *items = lu_j_items(call->env, call->self);
    const bool members = call->a[0].type != J_ABSENT && call->a[0].type != J_NONE;
    lu_jv total = call->a[1].type == J_ABSENT ? lu_j_int(0) : call->a[1];
    if (total.type == J_STR)
        lu_j_fail(call->env, LUTRA_E_FORMAT, "sum: cannot add strings, use join");
    for (size_t i = 0, n = items->n; i < n; i++)
        total =
            lu_j_binary(call->env, '+', total,
                        members ? member(call->env, items->items[i], call->a[0]) : items->items[i]);
    return total;
}

const lu_jbuiltin lu_j_list_filters[] = {
    {"length", f_length, 0, ""},
    {"count", f_length, 0, ""},
    {"first", f_first, 0, ""},
    {"last", f_last, 0, ""},
    {"list", f_list, 0, ""},
    {"reverse", f_reverse, 0, ""},
    {"join", f_join, 0, "d attribute"},
    {"items", f_items, 0, ""},
    {"map", f_map, 0, NULL},
    {"select", f_select, 0, NULL},
    {"reject", f_reject, 0, NULL},
    {"selectattr", f_selectattr, 0, NULL},
    {"rejectattr", f_rejectattr, 0, NULL},
    {"sort", f_sort, 0, "reverse case_sensitive attribute"},
    {"dictsort", f_dictsort, 0, "case_sensitive by reverse"},
    {"unique", f_unique, 0, "case_sensitive attribute"},
    {"min", f_min, 0, "case_sensitive attribute"},
    {"max", f_max, 0, "case_sensitive attribute"},
    {"sum", f_sum, 0, "attribute start"},
    {NULL},
};
