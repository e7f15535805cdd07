/* jinja_global.c - functions of templates, tests (is ...), and the methods of lists, dicts, loops.
 */
#include <time.h>

#include "text/jinja_eval.h"

#define MAX_DATE 1024

/* --- functions ------------------------------------------------------------------------------ */

static lu_jv f_raise_exception(lu_jcall *call)
{
    const lu_jstr s = lu_j_to_str(call->env, call->a[0]);
    lu_j_fail(call->env, LUTRA_E_ARG, "%.*s", (int)(s.n < 400 ? s.n : 400), s.p);
}

static lu_jv f_strftime_now(lu_jcall *call)
{
    const lu_jstr format = lu_j_arg_str(call, 0);
    const time_t now = call->env->left.now < 0 ? time(NULL) : (time_t)call->env->left.now;
    struct tm local;
    char pattern[MAX_DATE], *text = lu_j_alloc(call->env, 1, MAX_DATE);
    if (format.n + 1 >= sizeof pattern || !localtime_r(&now, &local))
        lu_j_fail(call->env, LUTRA_E_LIMIT, "strftime_now: format is longer than %d bytes",
                  MAX_DATE - 2);
    /* One character more, so that an empty result is told from one that does not fit. */
    for (size_t i = 0; i < format.n; i++)
        pattern[i] = format.p[i];
    pattern[format.n] = '.';
    pattern[format.n + 1] = '\0';
    const size_t n = strftime(text, MAX_DATE, pattern, &local);
    if (!n)
        lu_j_fail(call->env, LUTRA_E_LIMIT, "strftime_now: date is longer than %d bytes", MAX_DATE);
    return lu_j_str((lu_jstr){text, n - 1});
}

static lu_jv f_range(lu_jcall *call)
{
    const bool one = call->a[1].type == J_ABSENT;
    const int64_t from = one ? 0 : lu_j_arg_int(call, 0, 0),
                  to = lu_j_arg_int(call, one ? 0 : 1, 0);
    const int64_t step = lu_j_arg_int(call, 2, 1);
    if (step == 0)
        lu_j_fail(call->env, LUTRA_E_FORMAT, "range: step is zero");
    const lu_jv v = lu_j_list(call->env, J_LIST);
    for (int64_t i = from, n = 0; step > 0 ? i < to : i > to; n++) {
        if (n == call->env->left.range)
            lu_j_fail(call->env, LUTRA_E_LIMIT, "range has more than %lld items", (long long)n);
        lu_j_append(call->env, v.list, lu_j_int(i));
        if (__builtin_add_overflow(i, step, &i))
            break;
    }
    return v;
}

/* dict(...) and namespace(...): at most one mapping, then names */
static lu_jv members(lu_jcall *call, lu_jtype type)
{
    const lu_jv v = lu_j_dict(call->env, type);
    if (call->args->n > 1 || (call->args->n == 1 && call->args->items[0].type != J_DICT))
        lu_j_fail(call->env, LUTRA_E_UNSUPPORTED, "'%s' takes one dict and names",
                  call->what->name);
    for (size_t i = 0; call->args->n && i < call->args->items[0].dict->n; i++)
        lu_j_set(call->env, v.dict, call->args->items[0].dict->pairs[i].key,
                 call->args->items[0].dict->pairs[i].value);
    for (size_t i = 0; i < call->args->n_named; i++)
        lu_j_set(call->env, v.dict, lu_j_str(call->args->named[i].name),
                 call->args->named[i].value);
    return v;
}

static lu_jv f_dict(lu_jcall *call) { return members(call, J_DICT); }
static lu_jv f_namespace(lu_jcall *call) { return members(call, J_NAMESPACE); }

const lu_jbuiltin lu_j_functions[] = {
    {"raise_exception", f_raise_exception, 1, "message"},
    {"strftime_now", f_strftime_now, 1, "format"},
    {"range", f_range, 1, "start stop step"},
    {"dict", f_dict, 0, NULL},
    {"namespace", f_namespace, 0, NULL},
    {NULL},
};

/* --- tests ---------------------------------------------------------------------------------- */

static lu_jv is_type(lu_jcall *call, lu_jtype type) { return lu_j_bool(call->self.type == type); }

static lu_jv t_defined(lu_jcall *call) { return lu_j_bool(call->self.type != J_UNDEFINED); }
static lu_jv t_undefined(lu_jcall *call) { return is_type(call, J_UNDEFINED); }
static lu_jv t_none(lu_jcall *call) { return is_type(call, J_NONE); }
static lu_jv t_string(lu_jcall *call) { return is_type(call, J_STR); }
static lu_jv t_integer(lu_jcall *call) { return is_type(call, J_INT); }
static lu_jv t_float(lu_jcall *call) { return is_type(call, J_FLOAT); }
static lu_jv t_boolean(lu_jcall *call) { return is_type(call, J_BOOL); }
static lu_jv t_mapping(lu_jcall *call) { return is_type(call, J_DICT); }
static lu_jv t_number(lu_jcall *call) { return lu_j_bool(lu_j_is_number(call->self)); }
static lu_jv t_true(lu_jcall *call) { return lu_j_bool(call->self.type == J_BOOL && call->self.b); }
static lu_jv t_false(lu_jcall *call)
{
    return lu_j_bool(call->self.type == J_BOOL && !call->self.b);
}

static lu_jv t_callable(lu_jcall *call) { return lu_j_bool(call->self.type >= J_MACRO); }

/* len() and [] work on it: strings, lists, dicts, and the default undefined value */
static lu_jv t_sequence(lu_jcall *call)
{
    const lu_jtype t = call->self.type;
    return lu_j_bool(t == J_STR || t == J_LIST || t == J_TUPLE || t == J_DICT || t == J_UNDEFINED);
}

static lu_jv t_iterable(lu_jcall *call)
{
    return lu_j_bool(call->self.type == J_ITER || t_sequence(call).b);
}

static lu_jv t_equal(lu_jcall *call)
{
    return lu_j_bool(lu_j_equal(call->env, call->self, call->a[0]));
}
static lu_jv t_unequal(lu_jcall *call)
{
    return lu_j_bool(!lu_j_equal(call->env, call->self, call->a[0]));
}
static lu_jv t_in(lu_jcall *call)
{
    return lu_j_bool(lu_j_contains(call->env, call->a[0], call->self));
}

static lu_jv t_less(lu_jcall *call)
{
    return lu_j_bool(lu_j_order(call->env, call->self, call->a[0]) == -1);
}
static lu_jv t_greater(lu_jcall *call)
{
    return lu_j_bool(lu_j_order(call->env, call->self, call->a[0]) == 1);
}

static lu_jv t_at_most(lu_jcall *call)
{
    return lu_j_bool(lu_j_order(call->env, call->self, call->a[0]) <= 0);
}

static lu_jv t_at_least(lu_jcall *call)
{
    const int order = lu_j_order(call->env, call->self, call->a[0]);
    return lu_j_bool(order == 0 || order == 1);
}

static lu_jv remainder_is(lu_jcall *call, int64_t by, int64_t rest)
{
    const lu_jv r = lu_j_binary(call->env, '%', call->self, lu_j_int(by));
    return lu_j_bool(lu_j_equal(call->env, r, lu_j_int(rest)));
}

static lu_jv t_odd(lu_jcall *call) { return remainder_is(call, 2, 1); }
static lu_jv t_even(lu_jcall *call) { return remainder_is(call, 2, 0); }
static lu_jv t_divisible(lu_jcall *call) { return remainder_is(call, lu_j_arg_int(call, 0, 1), 0); }

const lu_jbuiltin lu_j_tests[] = {
    {"defined", t_defined, 0, ""},
    {"undefined", t_undefined, 0, ""},
    {"none", t_none, 0, ""},
    {"string", t_string, 0, ""},
    {"number", t_number, 0, ""},
    {"integer", t_integer, 0, ""},
    {"float", t_float, 0, ""},
    {"boolean", t_boolean, 0, ""},
    {"mapping", t_mapping, 0, ""},
    {"iterable", t_iterable, 0, ""},
    {"sequence", t_sequence, 0, ""},
    {"callable", t_callable, 0, ""},
    {"true", t_true, 0, ""},
    {"false", t_false, 0, ""},
    {"odd", t_odd, 0, ""},
    {"even", t_even, 0, ""},
    {"divisibleby", t_divisible, 1, "num"},
    {"in", t_in, 1, "seq"},
    {"equalto", t_equal, 1, "other"},
    {"==", t_equal, 1, "other"},
    {"eq", t_equal, 1, "other"},
    {"sameas", t_equal, 1, "other"},
    {"ne", t_unequal, 1, "other"},
    {"!=", t_unequal, 1, "other"},
    {"lt", t_less, 1, "other"},
    {"<", t_less, 1, "other"},
    {"lessthan", t_less, 1, "other"},
    {"gt", t_greater, 1, "other"},
    {">", t_greater, 1, "other"},
    {"greaterthan", t_greater, 1, "other"},
    {"le", t_at_most, 1, "other"},
    {"<=", t_at_most, 1, "other"},
    {"ge", t_at_least, 1, "other"},
    {">=", t_at_least, 1, "other"},
    {NULL},
};

/* --- methods -------------------------------------------------------------------------------- */

/* Hugging Face's sandbox refuses list.append; some other renderers, and templates, allow it. */
static lu_jv l_append(lu_jcall *call)
{
    if (call->self.type == J_TUPLE)
        lu_j_wrong_type(call->env, "append", call->self, "a list");
    lu_j_append(call->env, call->self.list, call->a[0]);
    return lu_j_none();
}

static lu_jv l_index(lu_jcall *call)
{
    for (size_t i = 0; i < call->self.list->n; i++)
        if (lu_j_equal(call->env, call->self.list->items[i], call->a[0]))
            return lu_j_int((int64_t)i);
    lu_j_fail(call->env, LUTRA_E_FORMAT, "index: the list has no such item");
}

static lu_jv l_count(lu_jcall *call)
{
    int64_t n = 0;
    for (size_t i = 0; i < call->self.list->n; i++)
        n += lu_j_equal(call->env, call->self.list->items[i], call->a[0]);
    return lu_j_int(n);
}

const lu_jbuiltin lu_j_list_methods[] = {
    {"append", l_append, 1, "item"},
    {"index", l_index, 1, "item"},
    {"count", l_count, 1, "item"},
    {NULL},
};

static lu_jv d_pairs(lu_jcall *call, bool keys, bool values)
{
    const lu_jdict *d = call->self.dict;
    const lu_jv v = lu_j_list(call->env, J_LIST);
    for (size_t i = 0; i < d->n; i++) {
        lu_jv item = keys ? d->pairs[i].key : d->pairs[i].value;
        if (keys && values) {
            item = lu_j_list(call->env, J_TUPLE);
            lu_j_append(call->env, item.list, d->pairs[i].key);
            lu_j_append(call->env, item.list, d->pairs[i].value);
        }
        lu_j_append(call->env, v.list, item);
    }
    return v;
}

static lu_jv d_items(lu_jcall *call) { return d_pairs(call, true, true); }
static lu_jv d_keys(lu_jcall *call) { return d_pairs(call, true, false); }
static lu_jv d_values(lu_jcall *call) { return d_pairs(call, false, true); }

static lu_jv d_get(lu_jcall *call)
{
    const lu_jv *v = lu_j_get(call->env, call->self.dict, call->a[0]);
    return v ? *v : call->a[1].type == J_ABSENT ? lu_j_none() : call->a[1];
}

const lu_jbuiltin lu_j_dict_methods[] = {
    {"items", d_items, 0, ""},
    {"keys", d_keys, 0, ""},
    {"values", d_values, 0, ""},
    {"get", d_get, 1, "key default"},
    {NULL},
};

static lu_jv loop_cycle(lu_jcall *call)
{
    if (!call->args->n)
        lu_j_fail(call->env, LUTRA_E_FORMAT, "cycle: no items to choose from");
    return call->args->items[call->self.loop->index % call->args->n];
}

const lu_jbuiltin lu_j_loop_methods[] = {
    {"cycle", loop_cycle, 0, NULL},
    {NULL},
};
