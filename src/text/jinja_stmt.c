/* jinja_stmt.c - statements: a template as a list of nodes. Blocks nest by recursion, an elif
   chain does not. Statements that need other templates (include, extends ...) are unsupported. */
#include "text/jinja_ast.h"

static lu_jnode *body(lu_jparser *p, const char *const *ends);

typedef lu_jnode *(*statement_fn)(lu_jparser *p);

static void expect_block_end(lu_jparser *p)
{
    if (p->t->type != T_BLOCK_END)
        lu_j_unexpected(p, "'%}'");
    p->t++;
}

/* The body up to one of the ends (eaten), of which the first is returned as 0 and so on. */
static lu_jnode *body_until(lu_jparser *p, const char *const *ends, int *which)
{
    lu_jnode *list = body(p, ends);
    for (int i = 0; ends[i]; i++) {
        if (lu_j_skip_name(p, ends[i])) {
            if (which)
                *which = i;
            break;
        }
    }
    return list;
}

static lu_jnode *closed_body(lu_jparser *p, const char *end)
{
    const char *const ends[] = {end, NULL};
    expect_block_end(p);
    lu_jnode *list = body_until(p, ends, NULL);
    expect_block_end(p);
    return list;
}

/* name | ns.name | a, b | (a, b): where set and for put values */
static lu_jnode *target(lu_jparser *p, bool attribute)
{
    lu_jnode *first = NULL, **tail = &first;
    bool tuple = false;
    lu_j_enter(p->env);
    do {
        lu_jnode *node;
        if (first && (lu_j_at_op(p, '=') || lu_j_at_name(p, "in")))
            break;
        if (lu_j_skip_op(p, '(')) {
            node = target(p, attribute);
            lu_j_expect_op(p, ')', "')'");
        } else {
            node = lu_j_node(p, N_NAME);
            node->name = lu_j_expect_name(p);
            if (lu_j_is(node->name, "true") || lu_j_is(node->name, "false") ||
                lu_j_is(node->name, "none"))
                lu_j_fail(p->env, LUTRA_E_FORMAT, "constants cannot be assigned to");
            if (p->loops && lu_j_is(node->name, "loop"))
                lu_j_fail(p->env, LUTRA_E_FORMAT, "'loop' cannot be assigned to inside a loop");
            if (attribute && lu_j_skip_op(p, '.')) {
                lu_jnode *attr = lu_j_node(p, N_ATTR);
                attr->a = node;
                attr->name = lu_j_expect_name(p);
                node = attr;
            }
        }
        *tail = node;
        tail = &node->next;
        tuple = lu_j_at_op(p, ',') || tuple;
    } while (lu_j_skip_op(p, ','));
    lu_j_leave(p->env);
    if (!tuple)
        return first;
    lu_jnode *node = lu_j_node(p, N_TUPLE);
    node->list = first;
    return node;
}

static lu_jnode *parse_set(lu_jparser *p)
{
    lu_jnode *node = lu_j_node(p, N_SET);
    node->a = target(p, true);
    if (lu_j_skip_op(p, '=')) {
        node->b = lu_j_tuple(p, true);
        expect_block_end(p);
        return node;
    }
    node->kind = N_SET_BLOCK;
    if (lu_j_at_op(p, '|'))
        node->b = lu_j_filter_chain(p, true);
    node->list = closed_body(p, "endset");
    return node;
}

static lu_jnode *scope_node(lu_jparser *p, bool own_names)
{
    lu_jnode *node = lu_j_node(p, N_SCOPE);
    node->op = own_names;
    return node;
}

static lu_jnode *parse_if(lu_jparser *p)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    static const char *const last[] = {"endif", NULL};
    lu_jnode *first = lu_j_node(p, N_IF);
    for (lu_jnode *node = first;;) {
        int which = 0;
        node->a = lu_j_tuple(p, false);
        expect_block_end(p);
        node->list = body_until(p, ends, &which);
        if (which == 0) {
            node = node->c = lu_j_node(p, N_IF);
            continue;
        }
        if (which == 1) {
            expect_block_end(p);
            node->c = scope_node(p, false);
            node->c->list = body_until(p, last, NULL);
        }
        expect_block_end(p);
        return first;
    }
}

static lu_jnode *parse_for(lu_jparser *p)
{
    static const char *const ends[] = {"endfor", "else", NULL};
    static const char *const last[] = {"endfor", NULL};
    lu_jnode *node = lu_j_node(p, N_FOR);
    int which = 0;
    node->a = target(p, false);
    if (!lu_j_skip_name(p, "in"))
        lu_j_unexpected(p, "'in'");
    node->b = lu_j_tuple(p, false);
    if (lu_j_skip_name(p, "if"))
        node->c = lu_j_expression(p, true);
    if (lu_j_at_name(p, "recursive"))
        lu_j_fail(p->env, LUTRA_E_UNSUPPORTED, "recursive loops are not known");
    expect_block_end(p);
    p->loops++;
    node->list = body_until(p, ends, &which);
    p->loops--;
    if (which == 1) {
        expect_block_end(p);
        node->d = scope_node(p, true);
        node->d->list = body_until(p, last, NULL);
    }
    expect_block_end(p);
    return node;
}

static lu_jnode *loop_control(lu_jparser *p, lu_jkind kind)
{
    lu_jnode *node = lu_j_node(p, kind);
    if (!p->loops)
        lu_j_fail(p->env, LUTRA_E_FORMAT, "break or continue outside a loop");
    expect_block_end(p);
    return node;
}

static lu_jnode *parse_break(lu_jparser *p) { return loop_control(p, N_BREAK); }
static lu_jnode *parse_continue(lu_jparser *p) { return loop_control(p, N_CONTINUE); }

/* "(a, b=1)", opening parenthesis eaten already */
static lu_jnode *parameters(lu_jparser *p)
{
    lu_jnode *first = NULL, **tail = &first;
    bool defaults = false;
    while (!lu_j_skip_op(p, ')')) {
        if (first)
            lu_j_expect_op(p, ',', "',' or ')'");
        lu_jnode *param = lu_j_node(p, N_PARAM);
        param->name = lu_j_expect_name(p);
        if (lu_j_skip_op(p, '=')) {
            param->a = lu_j_expression(p, true);
            defaults = true;
        } else if (defaults) {
            lu_j_fail(p->env, LUTRA_E_FORMAT,
                      "parameter without default follows one with a default");
        }
        *tail = param;
        tail = &param->next;
    }
    return first;
}

/* The body of a macro starts anew: a loop around it is not its own. */
static lu_jnode *macro_body(lu_jparser *p, const char *end)
{
    const int loops = p->loops;
    p->loops = 0;
    lu_jnode *list = closed_body(p, end);
    p->loops = loops;
    return list;
}

static lu_jnode *parse_macro(lu_jparser *p)
{
    lu_jnode *node = lu_j_node(p, N_MACRO);
    node->name = lu_j_expect_name(p);
    lu_j_expect_op(p, '(', "'('");
    node->a = parameters(p);
    node->list = macro_body(p, "endmacro");
    return node;
}

static lu_jnode *parse_call(lu_jparser *p)
{
    lu_jnode *node = lu_j_node(p, N_CALL_BLOCK), *caller = lu_j_node(p, N_MACRO);
    caller->name = lu_j_lit("caller");
    if (lu_j_skip_op(p, '('))
        caller->a = parameters(p);
    node->a = lu_j_postfix(p, lu_j_primary(p));
    if (node->a->kind != N_CALL)
        lu_j_unexpected(p, "a call");
    node->b = caller;
    caller->list = macro_body(p, "endcall");
    return node;
}

static lu_jnode *parse_filter(lu_jparser *p)
{
    lu_jnode *node = lu_j_node(p, N_FILTER_BLOCK);
    node->b = lu_j_filter_chain(p, false);
    node->list = closed_body(p, "endfilter");
    return node;
}

/* Marks what the assistant wrote for training masks; the text is as if it were not there. */
static lu_jnode *parse_generation(lu_jparser *p)
{
    lu_jnode *node = scope_node(p, true);
    node->list = macro_body(p, "endgeneration");
    return node;
}

/* {% with a = 1, b = 2 %}: a scope whose first statements set its names. */
static lu_jnode *parse_with(lu_jparser *p)
{
    lu_jnode *node = scope_node(p, true), **tail = &node->list;
    while (p->t->type != T_BLOCK_END) {
        if (node->list)
            lu_j_expect_op(p, ',', "',' or '%}'");
        lu_jnode *set = lu_j_node(p, N_SET);
        set->a = lu_j_node(p, N_NAME);
        set->a->name = lu_j_expect_name(p);
        lu_j_expect_op(p, '=', "'='");
        set->b = lu_j_expression(p, true);
        *tail = set;
        tail = &set->next;
    }
    *tail = closed_body(p, "endwith");
    return node;
}

static lu_jnode *statement(lu_jparser *p)
{
    static const struct {
        const char *name;
        statement_fn parse;
    } statements[] = {
        {"set", parse_set},
        {"if", parse_if},
        {"for", parse_for},
        {"break", parse_break},
        {"continue", parse_continue},
        {"macro", parse_macro},
        {"call", parse_call},
        {"filter", parse_filter},
        {"generation", parse_generation},
        {"with", parse_with},
    };
    if (p->t->type != T_NAME)
        lu_j_unexpected(p, "a statement");
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++)
        if (lu_j_skip_name(p, statements[i].name))
            return statements[i].parse(p);
    p->env->line = p->t->line;
    lu_j_fail(p->env, LUTRA_E_UNSUPPORTED, "unknown statement '%.*s'",
              (int)(p->t->text.n < 60 ? p->t->text.n : 60), p->t->text.p);
}

static bool at_any(const lu_jparser *p, const char *const *ends)
{
    for (; ends && *ends; ends++)
        if (lu_j_at_name(p, *ends))
            return true;
    return false;
}

/* Statements up to a block whose name is one of the ends (left to be eaten), or with none given to
   the end of the template. */
static lu_jnode *body(lu_jparser *p, const char *const *ends)
{
    lu_jnode *first = NULL, **tail = &first;
    const int begun = p->env->line;
    lu_j_enter(p->env);
    for (;;) {
        lu_jnode *node;
        if (p->t->type == T_DATA) {
            node = lu_j_node(p, N_TEXT);
            node->value = p->t++->value;
        } else if (p->t->type == T_PRINT_BEGIN) {
            node = lu_j_node(p, N_PRINT);
            p->t++;
            node->a = lu_j_tuple(p, true);
            if (p->t->type != T_PRINT_END)
                lu_j_unexpected(p, "'}}'");
            p->t++;
        } else if (p->t->type == T_BLOCK_BEGIN) {
            p->t++;
            if (at_any(p, ends))
                break;
            node = statement(p);
        } else {
            if (!ends)
                break;
            p->env->line = begun;
            lu_j_fail(p->env, LUTRA_E_FORMAT, "block is not closed, expected '%s'", ends[0]);
        }
        *tail = node;
        while (*tail)
            tail = &(*tail)->next;
    }
    lu_j_leave(p->env);
    return first;
}

lu_jnode *lu_j_template(lu_jenv *env, const lu_jtoken *tokens)
{
    lu_jparser p = {.env = env, .t = tokens};
    return body(&p, NULL);
}
