/* jinja_eval.c - the value of an expression, and calls: of built-ins, whose arguments are matched
   to the parameter names in their table row, and of macros. */
#include <string.h>

#include "text/jinja_eval.h"

static int shown(lu_jstr s) { return (int)(s.n < 60 ? s.n : 60); }

const lu_jbuiltin *lu_j_row(const lu_jbuiltin *table, lu_jstr name)
{
    for (; table->name; table++)
        if (lu_j_is(name, table->name))
            return table;
    return NULL;
}

/* --- arguments ------------------------------------------------------------------------------ */

/* Index of a name in a list of words, or -1; *count: how many words there are. */
static int param_index(const char *params, lu_jstr name, int *count)
{
    int found = -1, i = 0;
    for (const char *p = params; *p; i++) {
        const size_t n = strcspn(p, " ");
        if (name.p && lu_j_same(name, (lu_jstr){p, n}))
            found = i;
        p += n + (p[n] == ' ');
    }
    *count = i;
    return found;
}

static void bind(lu_jenv *env, lu_jcall *call)
{
    const lu_jbuiltin *what = call->what;
    int count;
    param_index(what->params, (lu_jstr){NULL, 0}, &count);
    if (call->args->n > (size_t)count)
        lu_j_fail(env, LUTRA_E_FORMAT, "'%s' takes at most %d arguments, got %zu", what->name,
                  count, call->args->n);
    for (size_t i = 0; i < call->args->n; i++)
        call->a[i] = call->args->items[i];
    for (size_t i = 0; i < call->args->n_named; i++) {
        const lu_jnamed *arg = &call->args->named[i];
        const int at = param_index(what->params, arg->name, &count);
        if (at < 0)
            lu_j_fail(env, LUTRA_E_UNSUPPORTED, "'%s' has no argument '%.*s'", what->name,
                      shown(arg->name), arg->name.p);
        call->a[at] = arg->value;
    }
    for (int i = 0; i < what->required; i++)
        if (call->a[i].type == J_ABSENT)
            lu_j_fail(env, LUTRA_E_FORMAT, "'%s' needs %d arguments (%s)", what->name,
                      what->required, what->params);
}

static lu_jv invoke(lu_jenv *env, const lu_jbuiltin *what, lu_jv self, const lu_jargs *args)
{
    lu_jcall call = {.env = env, .what = what, .self = self, .args = args};
    lu_j_work(env, 1);
    if (what->params)
        bind(env, &call);
    return what->fn(&call);
}

lu_jstr lu_j_arg_str(lu_jcall *call, int i)
{
    if (call->a[i].type != J_STR)
        lu_j_wrong_type(call->env, call->what->name, call->a[i], "a string argument");
    return call->a[i].s;
}

int64_t lu_j_arg_int(lu_jcall *call, int i, int64_t if_absent)
{
    const lu_jv v = call->a[i];
    if (v.type == J_ABSENT)
        return if_absent;
    if (v.type != J_INT && v.type != J_BOOL)
        lu_j_wrong_type(call->env, call->what->name, v, "an integer argument");
    return v.type == J_BOOL ? (int64_t)v.b : v.i;
}

bool lu_j_arg_bool(lu_jcall *call, int i, bool if_absent)
{
    return call->a[i].type == J_ABSENT ? if_absent : lu_j_truth(call->a[i]);
}

lu_jstr lu_j_self_str(lu_jcall *call) { return lu_j_to_str(call->env, call->self); }

/* Evaluates N_ARGs, with room for one named argument more. */
static lu_jargs eval_args(lu_jenv *env, const lu_jnode *list)
{
    size_t n = 0;
    for (const lu_jnode *arg = list; arg; arg = arg->next)
        n++;
    lu_jargs args = {.items = lu_j_alloc(env, n, sizeof *args.items),
                     .named = lu_j_alloc(env, n + 1, sizeof *args.named)};
    for (const lu_jnode *arg = list; arg; arg = arg->next) {
        const lu_jv v = lu_j_eval(env, arg->a);
        if (arg->name.p)
            args.named[args.n_named++] = (lu_jnamed){arg->name, v};
        else
            args.items[args.n++] = v;
    }
    return args;
}

/* --- calls ---------------------------------------------------------------------------------- */

lu_jv lu_j_filter(lu_jenv *env, lu_jstr name, lu_jv value, const lu_jargs *args)
{
    const lu_jbuiltin *row = lu_j_row(lu_j_text_filters, name);
    if (!row)
        row = lu_j_row(lu_j_list_filters, name);
    if (!row)
        lu_j_fail(env, LUTRA_E_UNSUPPORTED, "unknown filter '%.*s'", shown(name), name.p);
    return invoke(env, row, value, args);
}

bool lu_j_test(lu_jenv *env, lu_jstr name, lu_jv value, const lu_jargs *args)
{
    const lu_jbuiltin *row = lu_j_row(lu_j_tests, name);
    if (!row)
        lu_j_fail(env, LUTRA_E_UNSUPPORTED, "unknown test '%.*s'", shown(name), name.p);
    return lu_j_truth(invoke(env, row, value, args));
}

lu_jv lu_j_call_node(lu_jenv *env, const lu_jnode *node, const lu_jv *caller)
{
    const lu_jnode *target = node->a;
    const bool method = target->kind == N_ATTR;
    const lu_jv object = method ? lu_j_eval(env, target->a) : lu_j_none();
    const lu_jv callee = method ? lu_j_attr(env, object, target->name) : lu_j_eval(env, target);
    if (callee.type == J_UNDEFINED && method)
        lu_j_fail(env, LUTRA_E_UNSUPPORTED, "unknown method '%.*s' of %s", shown(target->name),
                  target->name.p, lu_j_type_name(object));
    if (callee.type == J_UNDEFINED && target->kind == N_NAME)
        lu_j_fail(env, LUTRA_E_UNSUPPORTED, "unknown function '%.*s'", shown(target->name),
                  target->name.p);
    lu_jargs args = eval_args(env, node->list);
    if (caller)
        args.named[args.n_named++] = (lu_jnamed){lu_j_lit("caller"), *caller};
    env->line = node->line;
    switch (callee.type) {
    case J_FUNCTION: return invoke(env, callee.function, lu_j_none(), &args);
    case J_METHOD: return invoke(env, callee.method->what, callee.method->self, &args);
    case J_MACRO: return lu_j_run_macro(env, callee.macro, &args);
    default: lu_j_wrong_type(env, "call", callee, "a function or macro");
    }
}

lu_jv lu_j_eval_filters(lu_jenv *env, const lu_jnode *chain, lu_jv value)
{
    if (!chain)
        return value;
    lu_j_enter(env);
    value = lu_j_eval_filters(env, chain->a, value);
    lu_j_leave(env);
    const lu_jargs args = eval_args(env, chain->list);
    env->line = chain->line;
    return lu_j_filter(env, chain->name, value, &args);
}

/* --- expressions ---------------------------------------------------------------------------- */

static bool compare(lu_jenv *env, int op, lu_jv a, lu_jv b)
{
    if (op == OP_EQ || op == OP_NE)
        return lu_j_equal(env, a, b) == (op == OP_EQ);
    if (op == OP_IN || op == OP_NOT_IN)
        return lu_j_contains(env, b, a) == (op == OP_IN);
    const int order = lu_j_order(env, a, b);
    if (order == 2)
        return false;
    return op == '<' ? order < 0 : op == '>' ? order > 0 : op == OP_LE ? order <= 0 : order >= 0;
}

/* a < b <= c: each operand is evaluated once, up to the first comparison that fails */
static lu_jv eval_compare(lu_jenv *env, const lu_jnode *node)
{
    lu_jv a = lu_j_eval(env, node->a);
    for (const lu_jnode *operand = node->list; operand; operand = operand->next) {
        const lu_jv b = lu_j_eval(env, operand->a);
        env->line = operand->line;
        if (!compare(env, operand->op, a, b))
            return lu_j_bool(false);
        a = b;
    }
    return lu_j_bool(true);
}

static lu_jv eval_items(lu_jenv *env, const lu_jnode *node, lu_jtype type)
{
    const lu_jv v = lu_j_list(env, type);
    for (const lu_jnode *item = node->list; item; item = item->next)
        lu_j_append(env, v.list, lu_j_eval(env, item));
    return v;
}

static lu_jv eval_dict(lu_jenv *env, const lu_jnode *node)
{
    const lu_jv v = lu_j_dict(env, J_DICT);
    for (const lu_jnode *pair = node->list; pair; pair = pair->next) {
        const lu_jv key = lu_j_eval(env, pair->a);
        lu_j_set(env, v.dict, key, lu_j_eval(env, pair->b));
    }
    return v;
}

static lu_jv eval_unary(lu_jenv *env, const lu_jnode *node)
{
    const lu_jv a = lu_j_eval(env, node->a);
    env->line = node->line;
    if (node->op == '!')
        return lu_j_bool(!lu_j_truth(a));
    if (!lu_j_is_number(a))
        lu_j_wrong_type(env, "sign", a, "a number");
    return node->op == '-' ? lu_j_negative(env, a) : lu_j_binary(env, '+', a, lu_j_int(0));
}

static lu_jv eval_name(lu_jenv *env, const lu_jnode *node)
{
    const lu_jv *v = lu_j_find_name(env, node->name);
    if (v)
        return *v;
    const lu_jbuiltin *function = lu_j_row(lu_j_functions, node->name);
    return function ? (lu_jv){.type = J_FUNCTION, .function = function}
                    : lu_j_undefined(node->name);
}

static lu_jv eval_filter(lu_jenv *env, const lu_jnode *node)
{
    const lu_jv a = lu_j_eval(env, node->a);
    const lu_jargs args = eval_args(env, node->list);
    env->line = node->line;
    if (node->kind == N_FILTER)
        return lu_j_filter(env, node->name, a, &args);
    return lu_j_bool(lu_j_test(env, node->name, a, &args) != (node->op == '!'));
}

static lu_jv eval_slice(lu_jenv *env, const lu_jnode *node)
{
    const lu_jv a = lu_j_eval(env, node->a);
    const lu_jv from = node->b ? lu_j_eval(env, node->b) : lu_j_none();
    const lu_jv to = node->c ? lu_j_eval(env, node->c) : lu_j_none();
    const lu_jv step = node->d ? lu_j_eval(env, node->d) : lu_j_none();
    env->line = node->line;
    return lu_j_slice(env, a, from, to, step);
}

static lu_jv eval_operands(lu_jenv *env, const lu_jnode *node)
{
    const lu_jv a = lu_j_eval(env, node->a);
    const lu_jv b = lu_j_eval(env, node->b);
    env->line = node->line;
    return node->kind == N_ITEM ? lu_j_item(env, a, b) : lu_j_binary(env, node->op, a, b);
}

static lu_jv eval_choice(lu_jenv *env, const lu_jnode *node)
{
    if (node->kind == N_IF_ELSE) {
        const bool yes = lu_j_truth(lu_j_eval(env, node->b));
        const lu_jnode *chosen = yes ? node->a : node->c;
        return chosen ? lu_j_eval(env, chosen) : lu_j_undefined(lu_j_lit("else of the inline if"));
    }
    const lu_jv a = lu_j_eval(env, node->a);
    return lu_j_truth(a) == (node->kind == N_OR) ? a : lu_j_eval(env, node->b);
}

static lu_jv eval_attr(lu_jenv *env, const lu_jnode *node)
{
    const lu_jv a = lu_j_eval(env, node->a);
    env->line = node->line;
    return lu_j_attr(env, a, node->name);
}

static lu_jv eval_kind(lu_jenv *env, const lu_jnode *node)
{
    switch (node->kind) {
    case N_CONST: return node->value;
    case N_NAME: return eval_name(env, node);
    case N_LIST: return eval_items(env, node, J_LIST);
    case N_TUPLE: return eval_items(env, node, J_TUPLE);
    case N_DICT: return eval_dict(env, node);
    case N_UNARY: return eval_unary(env, node);
    case N_BINARY:
    case N_ITEM: return eval_operands(env, node);
    case N_COMPARE: return eval_compare(env, node);
    case N_AND:
    case N_OR:
    case N_IF_ELSE: return eval_choice(env, node);
    case N_ATTR: return eval_attr(env, node);
    case N_SLICE: return eval_slice(env, node);
    case N_CALL: return lu_j_call_node(env, node, NULL);
    case N_FILTER:
    case N_TEST: return eval_filter(env, node);
    default: lu_j_fail(env, LUTRA_E_INTERNAL, "statement %d in an expression", (int)node->kind);
    }
}

lu_jv lu_j_eval(lu_jenv *env, const lu_jnode *node)
{
    lu_j_work(env, 1);
    lu_j_enter(env);
    env->line = node->line;
    const lu_jv v = eval_kind(env, node);
    lu_j_leave(env);
    return v;
}
