/* jinja_run.c - statements, scopes and the render itself.
   Scopes as in Jinja: each turn of a loop and each call of a macro has its own; `if` has none. A
   name set inside does not reach outside, which is what namespace() is for. */
#include <string.h>

#include "base/mem.h"
#include "text/jinja_eval.h"

#define MAX_SOURCE ((size_t)1 << 20) /* the longest published template is near 20 KB */

/* 20 million steps take less than a second; the rest lets tens of megabytes of contents through. */
const lu_jinja_options lu_jinja_defaults = {
    .work = 20000000,
    .memory = (size_t)512 << 20,
    .output = (size_t)64 << 20,
    .depth = 400,
    .range = 100000,
    .now = -1,
};

/* How a list of statements ended. */
typedef enum control { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE } control;

static control run_list(lu_jenv *env, const lu_jnode *list);

typedef struct variable variable;
struct variable {
    lu_jstr name;
    lu_jv value;
    variable *next;
};

struct lu_jscope {
    lu_jscope *parent;
    variable *first;
};

/* --- scopes --------------------------------------------------------------------------------- */

static lu_jscope *push_scope(lu_jenv *env, lu_jscope *parent)
{
    lu_jscope *scope = lu_j_alloc(env, 1, sizeof *scope);
    scope->parent = parent;
    return scope;
}

static lu_jv *find_in(lu_jenv *env, const lu_jscope *scope, lu_jstr name)
{
    size_t seen = 0;
    for (variable *v = scope->first; v; v = v->next, seen++)
        if (lu_j_same(v->name, name))
            return &v->value;
    lu_j_work(env, seen >> 3);
    return NULL;
}

lu_jv *lu_j_find_name(lu_jenv *env, lu_jstr name)
{
    for (const lu_jscope *scope = env->scope; scope; scope = scope->parent) {
        lu_jv *v = find_in(env, scope, name);
        if (v)
            return v;
    }
    return NULL;
}

static void set_name(lu_jenv *env, lu_jscope *scope, lu_jstr name, lu_jv value)
{
    lu_jv *place = find_in(env, scope, name);
    if (place) {
        *place = value;
        return;
    }
    variable *v = lu_j_alloc(env, 1, sizeof *v);
    *v = (variable){name, value, scope->first};
    scope->first = v;
}

void lu_j_global(lu_jenv *env, const char *name, lu_jv value)
{
    set_name(env, env->globals, lu_j_lit(name), value);
}

static void assign(lu_jenv *env, const lu_jnode *target, lu_jv value)
{
    if (target->kind == N_NAME) {
        set_name(env, env->scope, target->name, value);
        return;
    }
    if (target->kind == N_ATTR) {
        const lu_jv object = lu_j_eval(env, target->a);
        if (object.type != J_NAMESPACE)
            lu_j_wrong_type(env, "attribute to set", object, "a namespace");
        lu_j_set(env, object.dict, lu_j_str(target->name), value);
        return;
    }
    const lu_jlist *items = lu_j_items(env, value);
    size_t n = 0;
    for (const lu_jnode *t = target->list; t; t = t->next)
        n++;
    if (items->n != n)
        lu_j_fail(env, LUTRA_E_FORMAT, "cannot unpack %zu values into %zu names", items->n, n);
    size_t i = 0;
    for (const lu_jnode *t = target->list; t; t = t->next)
        assign(env, t, items->items[i++]);
}

/* --- blocks --------------------------------------------------------------------------------- */

/* Runs a list with its output going to b. */
static control capture(lu_jenv *env, const lu_jnode *list, lu_jbuf *b)
{
    lu_jbuf *out = env->out;
    env->out = b;
    const control flow = run_list(env, list);
    env->out = out;
    return flow;
}

static control run_scope(lu_jenv *env, const lu_jnode *list)
{
    lu_jscope *outer = env->scope;
    env->scope = push_scope(env, outer);
    const control flow = run_list(env, list);
    env->scope = outer;
    return flow;
}

/* Also of filter blocks, which print what set blocks keep. */
static control run_captured(lu_jenv *env, const lu_jnode *node)
{
    lu_jbuf b = {0};
    lu_jscope *outer = env->scope;
    env->scope = push_scope(env, outer);
    const control flow = capture(env, node->list, &b);
    env->scope = outer;
    const lu_jv v = lu_j_eval_filters(env, node->b, lu_j_take(&b));
    if (node->kind == N_SET_BLOCK)
        assign(env, node->a, v);
    else
        lu_j_show(env, env->out, v);
    return flow;
}

static control run_if(lu_jenv *env, const lu_jnode *node)
{
    for (; node; node = node->c) {
        if (node->kind == N_SCOPE)
            return run_list(env, node->list);
        if (lu_j_truth(lu_j_eval(env, node->a)))
            return run_list(env, node->list);
    }
    return FLOW_ON;
}

/* The items a loop walks: a snapshot, without those its filter refuses. */
static lu_jlist *loop_items(lu_jenv *env, const lu_jnode *node)
{
    const lu_jv v = lu_j_eval(env, node->b);
    const lu_jlist *all = lu_j_items(env, v);
    lu_jlist *items = lu_j_alloc(env, 1, sizeof *items);
    if (!node->c) {
        *items = *all;
        return items;
    }
    lu_jscope *outer = env->scope;
    env->scope = push_scope(env, outer);
    for (size_t i = 0, n = all->n; i < n; i++) {
        const lu_jv item = all->items[i];
        assign(env, node->a, item);
        if (lu_j_truth(lu_j_eval(env, node->c)))
            lu_j_append(env, items, item);
    }
    env->scope = outer;
    return items;
}

static control run_for(lu_jenv *env, const lu_jnode *node)
{
    lu_jlist *items = loop_items(env, node);
    if (!items->n)
        return node->d ? run_scope(env, node->d->list) : FLOW_ON;
    lu_jscope *outer = env->scope;
    lu_jloop *loop = lu_j_alloc(env, 1, sizeof *loop);
    loop->items = items;
    for (loop->index = 0; loop->index < items->n; loop->index++) {
        lu_j_work(env, 1);
        env->scope = push_scope(env, outer);
        set_name(env, env->scope, lu_j_lit("loop"), (lu_jv){.type = J_LOOP, .loop = loop});
        assign(env, node->a, items->items[loop->index]);
        if (run_list(env, node->list) == FLOW_BREAK)
            break;
    }
    env->scope = outer;
    return FLOW_ON;
}

static lu_jv new_macro(lu_jenv *env, const lu_jnode *node)
{
    lu_jmacro *macro = lu_j_alloc(env, 1, sizeof *macro);
    *macro = (lu_jmacro){node, env->scope};
    return (lu_jv){.type = J_MACRO, .macro = macro};
}

static void run_call_block(lu_jenv *env, const lu_jnode *node)
{
    const lu_jv caller = new_macro(env, node->b);
    lu_j_show(env, env->out, lu_j_call_node(env, node->a, &caller));
}

/* Value of a parameter: by position, by name, or absent. */
static lu_jv argument(const lu_jargs *args, size_t position, lu_jstr name)
{
    if (position < args->n)
        return args->items[position];
    for (size_t i = 0; i < args->n_named; i++)
        if (lu_j_same(args->named[i].name, name))
            return args->named[i].value;
    return (lu_jv){.type = J_ABSENT};
}

static void bind_macro(lu_jenv *env, const lu_jnode *node, const lu_jargs *args)
{
    size_t n = 0, known = 0;
    for (const lu_jnode *param = node->a; param; param = param->next, n++) {
        lu_jv v = argument(args, n, param->name);
        for (size_t i = 0; i < args->n_named; i++)
            known += lu_j_same(args->named[i].name, param->name);
        if (v.type == J_ABSENT)
            v = param->a ? lu_j_eval(env, param->a) : lu_j_undefined(param->name);
        set_name(env, env->scope, param->name, v);
    }
    const lu_jv caller = argument(args, SIZE_MAX, lu_j_lit("caller"));
    if (caller.type != J_ABSENT && !find_in(env, env->scope, lu_j_lit("caller"))) {
        set_name(env, env->scope, lu_j_lit("caller"), caller);
        known++;
    }
    if (args->n > n || args->n_named > known)
        lu_j_fail(env, LUTRA_E_FORMAT, "macro '%.*s' does not take these arguments, it has %zu",
                  (int)(node->name.n < 60 ? node->name.n : 60), node->name.p, n);
}

lu_jv lu_j_run_macro(lu_jenv *env, const lu_jmacro *macro, const lu_jargs *args)
{
    lu_jscope *outer = env->scope;
    lu_jbuf b = {0};
    env->scope = push_scope(env, macro->scope);
    bind_macro(env, macro->node, args);
    capture(env, macro->node->list, &b);
    env->scope = outer;
    return lu_j_take(&b);
}

static control run_one(lu_jenv *env, const lu_jnode *node)
{
    switch (node->kind) {
    case N_TEXT: lu_j_put(env, env->out, node->value.s.p, node->value.s.n); return FLOW_ON;
    case N_PRINT: lu_j_show(env, env->out, lu_j_eval(env, node->a)); return FLOW_ON;
    case N_SET: assign(env, node->a, lu_j_eval(env, node->b)); return FLOW_ON;
    case N_SET_BLOCK:
    case N_FILTER_BLOCK: return run_captured(env, node);
    case N_IF: return run_if(env, node);
    case N_FOR: return run_for(env, node);
    case N_BREAK: return FLOW_BREAK;
    case N_CONTINUE: return FLOW_CONTINUE;
    case N_MACRO: set_name(env, env->scope, node->name, new_macro(env, node)); return FLOW_ON;
    case N_CALL_BLOCK: run_call_block(env, node); return FLOW_ON;
    case N_SCOPE: return node->op ? run_scope(env, node->list) : run_list(env, node->list);
    default: lu_j_fail(env, LUTRA_E_INTERNAL, "expression %d among statements", (int)node->kind);
    }
}

static control run_list(lu_jenv *env, const lu_jnode *list)
{
    control flow = FLOW_ON;
    lu_j_enter(env);
    for (; list && flow == FLOW_ON; list = list->next) {
        lu_j_work(env, 1);
        env->line = list->line;
        flow = run_one(env, list);
    }
    lu_j_leave(env);
    return flow;
}

/* --- the render ----------------------------------------------------------------------------- */

typedef struct request {
    lu_jstr source;
    lu_jinja_context context;
    void *arg;
} request;

static void render(lu_jenv *env, const request *r, lu_jbuf *out)
{
    if (r->source.n > MAX_SOURCE)
        lu_j_fail(env, LUTRA_E_LIMIT, "source has %zu bytes, at most %zu are read", r->source.n,
                  MAX_SOURCE);
    const lu_jtoken *tokens = lu_j_lex(env, r->source);
    const lu_jnode *root = lu_j_template(env, tokens);
    env->globals = push_scope(env, NULL);
    if (r->context)
        r->context(env, r->arg);
    env->scope = push_scope(env, env->globals);
    env->out = out;
    run_list(env, root);
}

/* Where failures unwind to. All state is the caller's, so that none of it is a local variable of
   the function that calls setjmp. */
static void guarded(lu_jenv *env, const request *r, lu_jbuf *out)
{
    if (setjmp(env->unwind) == 0)
        render(env, r, out);
}

lutra_status lu_jinja_render(const char *source, size_t n, lu_jinja_context context, void *arg,
                             const lu_jinja_options *options, char **text, size_t *n_text,
                             lutra_err *err)
{
    const request r = {{n ? source : "", n}, context, arg};
    lu_jbuf out = {0};
    lu_jenv env = {.left = options ? *options : lu_jinja_defaults, .err = err, .line = 1};
    guarded(&env, &r, &out);
    char *copy = NULL;
    if (env.status == LUTRA_OK) {
        copy = lu_strndup(out.n ? out.p : "", out.n);
        if (!copy)
            env.status = lu_fail_nomem(err, out.n + 1);
    }
    lu_j_free_all(&env);
    if (env.status != LUTRA_OK)
        return env.status;
    *text = copy;
    *n_text = out.n;
    return LUTRA_OK;
}
