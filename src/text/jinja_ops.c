/* jinja_ops.c - operators, attributes, subscripts and slices, as Python defines them. Integers are
   64 bits: what Python would make longer is E_LIMIT. */
#include <math.h>

#include "text/jinja_eval.h"

static int64_t whole(lu_jv v) { return v.type == J_BOOL ? (int64_t)v.b : v.i; }

static _Noreturn void too_big(lu_jenv *env)
{
    lu_j_fail(env, LUTRA_E_LIMIT, "integer does not fit 64 bits");
}

static _Noreturn void by_zero(lu_jenv *env) { lu_j_fail(env, LUTRA_E_FORMAT, "division by zero"); }

static const char *op_name(int op)
{
    static const char *const names[128] = {
        ['+'] = "+", ['-'] = "-", ['*'] = "*", ['/'] = "/", ['%'] = "%"};
    return op == OP_POW ? "**" : op == OP_FLOORDIV ? "//" : names[op];
}

static _Noreturn void bad_operands(lu_jenv *env, int op, lu_jv a, lu_jv b)
{
    if (a.type == J_UNDEFINED || b.type == J_UNDEFINED)
        lu_j_wrong_type(env, op_name(op), a.type == J_UNDEFINED ? a : b, "a value");
    lu_j_fail(env, LUTRA_E_FORMAT, "cannot use '%s' with %s and %s", op_name(op), lu_j_type_name(a),
              lu_j_type_name(b));
}

static lu_jv power(lu_jenv *env, int64_t base, int64_t exponent)
{
    int64_t r = 1;
    if (exponent < 0) {
        if (base == 0)
            by_zero(env);
        return lu_j_float(pow((double)base, (double)exponent));
    }
    if (base == 0 || base == 1 || base == -1) /* any exponent fits; the loop might be long */
        return lu_j_int(exponent == 0 ? 1 : base == -1 && exponent % 2 == 0 ? 1 : base);
    for (; exponent > 0; exponent--)
        if (__builtin_mul_overflow(r, base, &r)) /* at most 63 turns */
            too_big(env);
    return lu_j_int(r);
}

static lu_jv integers(lu_jenv *env, int op, int64_t a, int64_t b)
{
    int64_t r = 0;
    bool over = false;
    switch (op) {
    case '+': over = __builtin_add_overflow(a, b, &r); break;
    case '-': over = __builtin_sub_overflow(a, b, &r); break;
    case '*': over = __builtin_mul_overflow(a, b, &r); break;
    case OP_POW: return power(env, a, b);
    default:
        if (b == 0)
            by_zero(env);
        if (op == '/')
            return lu_j_float((double)a / (double)b);
        if (b == -1) { /* INT64_MIN / -1 traps */
            if (op == OP_FLOORDIV)
                over = __builtin_sub_overflow((int64_t)0, a, &r);
        } else if (op == OP_FLOORDIV) {
            r = a / b - (a % b != 0 && (a < 0) != (b < 0));
        } else {
            r = a % b;
            r += r != 0 && (r < 0) != (b < 0) ? b : 0;
        }
    }
    if (over)
        too_big(env);
    return lu_j_int(r);
}

static lu_jv floats(lu_jenv *env, int op, double a, double b)
{
    if (b == 0 && (op == '/' || op == '%' || op == OP_FLOORDIV))
        by_zero(env);
    switch (op) {
    case '+': return lu_j_float(a + b);
    case '-': return lu_j_float(a - b);
    case '*': return lu_j_float(a * b);
    case '/': return lu_j_float(a / b);
    case OP_POW: return lu_j_float(pow(a, b));
    default: break;
    }
    double rest = fmod(a, b); /* Python's remainder has the divisor's sign */
    if (rest != 0 && (rest < 0) != (b < 0))
        rest += b;
    return lu_j_float(op == '%' ? rest : floor((a - rest) / b + 0.5));
}

static lu_jv join_lists(lu_jenv *env, lu_jv a, lu_jv b)
{
    const lu_jv v = lu_j_list(env, a.type);
    for (size_t i = 0, n = a.list->n; i < n; i++)
        lu_j_append(env, v.list, a.list->items[i]);
    for (size_t i = 0, n = b.list->n; i < n; i++)
        lu_j_append(env, v.list, b.list->items[i]);
    return v;
}

static lu_jv repeat(lu_jenv *env, lu_jv a, int64_t times)
{
    lu_jbuf b = {0};
    const lu_jv v = a.type == J_STR ? a : lu_j_list(env, a.type);
    for (int64_t k = 0; k < times; k++) {
        lu_j_work(env, 1);
        if (a.type == J_STR)
            lu_j_put(env, &b, a.s.p, a.s.n);
        for (size_t i = 0; a.type != J_STR && i < a.list->n; i++)
            lu_j_append(env, v.list, a.list->items[i]);
    }
    return a.type == J_STR ? lu_j_take(&b) : v;
}

lu_jv lu_j_binary(lu_jenv *env, int op, lu_jv a, lu_jv b)
{
    const bool a_list = a.type == J_LIST || a.type == J_TUPLE,
               b_list = b.type == J_LIST || b.type == J_TUPLE;
    if (op == '~' || (op == '+' && a.type == J_STR && b.type == J_STR)) {
        lu_jbuf text = {0};
        lu_j_show(env, &text, a);
        lu_j_show(env, &text, b);
        return lu_j_take(&text);
    }
    if (lu_j_is_number(a) && lu_j_is_number(b))
        return a.type == J_FLOAT || b.type == J_FLOAT
                   ? floats(env, op, lu_j_number(a), lu_j_number(b))
                   : integers(env, op, whole(a), whole(b));
    if (op == '+' && a_list && a.type == b.type)
        return join_lists(env, a, b);
    if (op == '*' && (a.type == J_STR || a_list) && (b.type == J_INT || b.type == J_BOOL))
        return repeat(env, a, whole(b));
    if (op == '*' && (b.type == J_STR || b_list) && (a.type == J_INT || a.type == J_BOOL))
        return repeat(env, b, whole(a));
    if (op == '%' && a.type == J_STR)
        lu_j_fail(env, LUTRA_E_UNSUPPORTED, "formatting with '%%' is not known");
    bad_operands(env, op, a, b);
}

lu_jv lu_j_negative(lu_jenv *env, lu_jv a)
{
    return a.type == J_FLOAT ? lu_j_float(-a.f) : integers(env, '-', 0, whole(a));
}

/* --- attributes and subscripts -------------------------------------------------------------- */

static lu_jv loop_attr(const lu_jloop *loop, lu_jstr name)
{
    const int64_t i = (int64_t)loop->index, n = (int64_t)loop->items->n;
    const struct {
        const char *name;
        lu_jv value;
    } attrs[] = {
        {"index", lu_j_int(i + 1)},
        {"index0", lu_j_int(i)},
        {"revindex", lu_j_int(n - i)},
        {"revindex0", lu_j_int(n - i - 1)},
        {"first", lu_j_bool(i == 0)},
        {"last", lu_j_bool(i == n - 1)},
        {"length", lu_j_int(n)},
        {"depth", lu_j_int(1)},
        {"depth0", lu_j_int(0)}, /* these count recursive loops */
        {"previtem", i > 0 ? loop->items->items[i - 1] : lu_j_undefined(name)},
        {"nextitem", i + 1 < n ? loop->items->items[i + 1] : lu_j_undefined(name)},
    };
    for (size_t k = 0; k < sizeof attrs / sizeof *attrs; k++)
        if (lu_j_is(name, attrs[k].name))
            return attrs[k].value;
    return lu_j_undefined(name);
}

static lu_jv method_of(lu_jenv *env, lu_jv a, lu_jstr name)
{
    const lu_jbuiltin *table = a.type == J_STR                         ? lu_j_str_methods
                               : a.type == J_LIST || a.type == J_TUPLE ? lu_j_list_methods
                               : a.type == J_DICT                      ? lu_j_dict_methods
                               : a.type == J_LOOP                      ? lu_j_loop_methods
                                                                       : NULL;
    const lu_jbuiltin *row = table ? lu_j_row(table, name) : NULL;
    if (!row)
        return lu_j_undefined(name);
    lu_jmethod *method = lu_j_alloc(env, 1, sizeof *method);
    *method = (lu_jmethod){a, row};
    return (lu_jv){.type = J_METHOD, .method = method};
}

/* a.name: a method if there is one, else the member (a['name'] asks in the other order) */
lu_jv lu_j_attr(lu_jenv *env, lu_jv a, lu_jstr name)
{
    if (a.type == J_UNDEFINED)
        lu_j_wrong_type(env, "attribute", a, "a value");
    const lu_jv method = method_of(env, a, name);
    if (method.type != J_UNDEFINED)
        return method;
    if (a.type == J_LOOP)
        return loop_attr(a.loop, name);
    if (a.type == J_DICT || a.type == J_NAMESPACE) {
        const lu_jv *v = lu_j_get(env, a.dict, lu_j_str(name));
        if (v)
            return *v;
    }
    return lu_j_undefined(name);
}

static lu_jv element(lu_jv a, int64_t index)
{
    const bool str = a.type == J_STR;
    const int64_t n = (int64_t)(str ? lu_j_char_count(a.s) : a.list->n);
    index += index < 0 ? n : 0;
    if (index < 0 || index >= n)
        return lu_j_undefined(lu_j_lit(str ? "character of a string" : "item of a list"));
    if (!str)
        return a.list->items[index];
    const size_t at = lu_j_char_offset(a.s, (size_t)index);
    return lu_j_str((lu_jstr){a.s.p + at, lu_j_char_size(a.s.p + at, a.s.n - at)});
}

lu_jv lu_j_item(lu_jenv *env, lu_jv a, lu_jv index)
{
    const lu_jstr name = index.type == J_STR ? index.s : lu_j_lit("item");
    if (a.type == J_UNDEFINED)
        lu_j_wrong_type(env, "subscript", a, "a value");
    if (a.type == J_DICT) {
        const lu_jv *v = lu_j_get(env, a.dict, index);
        if (v)
            return *v;
    }
    if (a.type == J_STR || a.type == J_LIST || a.type == J_TUPLE) {
        if (a.type == J_STR)
            lu_j_work(env, a.s.n >> 4);
        if (index.type == J_INT || index.type == J_BOOL)
            return element(a, whole(index));
    }
    return index.type == J_STR ? lu_j_attr(env, a, name) : lu_j_undefined(name);
}

static int64_t bound(lu_jenv *env, lu_jv v, int64_t if_none, int64_t n, int64_t low, int64_t high)
{
    if (v.type == J_NONE)
        return if_none;
    if (v.type != J_INT && v.type != J_BOOL)
        lu_j_wrong_type(env, "slice", v, "an integer");
    int64_t i = whole(v);
    i += i < 0 ? n : 0;
    return i < low ? low : i > high ? high : i;
}

lu_jv lu_j_slice(lu_jenv *env, lu_jv a, lu_jv from, lu_jv to, lu_jv step)
{
    if (a.type != J_STR && a.type != J_LIST && a.type != J_TUPLE)
        lu_j_wrong_type(env, "slice", a, "a list or string");
    /* a step beyond the length is the same as the length; keeps i + by from overflowing */
    const int64_t n = (int64_t)lu_j_length(env, a);
    int64_t by = step.type == J_NONE ? 1 : bound(env, step, 1, 0, -n - 1, n + 1);
    if (by == 0)
        lu_j_fail(env, LUTRA_E_FORMAT, "slice step is zero");
    const int64_t begin =
        by > 0 ? bound(env, from, 0, n, 0, n) : bound(env, from, n - 1, n, -1, n - 1);
    const int64_t end = by > 0 ? bound(env, to, n, n, 0, n) : bound(env, to, -1, n, -1, n - 1);
    if (a.type == J_STR && by == 1) {
        const size_t first = lu_j_char_offset(a.s, (size_t)begin);
        const lu_jstr rest = {a.s.p + first, a.s.n - first};
        return lu_j_str(
            (lu_jstr){rest.p, end > begin ? lu_j_char_offset(rest, (size_t)(end - begin)) : 0});
    }
    const lu_jlist *items = lu_j_items(env, a);
    const lu_jv v = lu_j_list(env, a.type == J_STR ? J_LIST : a.type);
    lu_jbuf b = {0};
    for (int64_t i = begin; by > 0 ? i < end : i > end; i += by) {
        if (a.type == J_STR)
            lu_j_put(env, &b, items->items[i].s.p, items->items[i].s.n);
        else
            lu_j_append(env, v.list, items->items[i]);
    }
    return a.type == J_STR ? lu_j_take(&b) : v;
}
