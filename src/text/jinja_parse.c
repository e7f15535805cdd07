/* jinja_parse.c - expressions, by recursive descent in Jinja's order of binding (loosest first):
     a if b else c | or | and | not | comparisons, in | + - | ~ | * / // % | ** | unary - + |
     .name [item] (call) | filters and tests
   Note that a filter binds tighter than any operator, and unary minus tighter than **. */
#include <stdio.h>

#include "text/jinja_ast.h"

static void describe(const lu_jtoken *t, char *out, size_t size)
{
    static const char *const kinds[] = {"text", "'{{'",     "'}}'",     "'{%'", "'%}'",
                                        "",     "a string", "a number", "",     "the end"};
    static const char *const ops[] = {"==", "!=", "<=", ">=", "//", "**"};
    if (t->type == T_NAME)
        snprintf(out, size, "'%.*s'", (int)(t->text.n < 60 ? t->text.n : 60), t->text.p);
    else if (t->type == T_OP && t->op < OP_EQ)
        snprintf(out, size, "'%c'", t->op);
    else
        snprintf(out, size, "%s", t->type == T_OP ? ops[t->op - OP_EQ] : kinds[t->type]);
}

_Noreturn void lu_j_unexpected(lu_jparser *p, const char *expected)
{
    char got[80];
    describe(p->t, got, sizeof got);
    p->env->line = p->t->line;
    lu_j_fail(p->env, LUTRA_E_FORMAT, "unexpected %s, expected %s", got, expected);
}

lu_jnode *lu_j_node(lu_jparser *p, lu_jkind kind)
{
    lu_jnode *node = lu_j_alloc(p->env, 1, sizeof *node);
    node->kind = kind;
    node->line = p->env->line = p->t->line;
    return node;
}

bool lu_j_at_name(const lu_jparser *p, const char *name)
{
    return p->t->type == T_NAME && lu_j_is(p->t->text, name);
}

bool lu_j_at_op(const lu_jparser *p, int op) { return p->t->type == T_OP && p->t->op == op; }

bool lu_j_skip_name(lu_jparser *p, const char *name)
{
    const bool here = lu_j_at_name(p, name);
    p->t += here;
    return here;
}

bool lu_j_skip_op(lu_jparser *p, int op)
{
    const bool here = lu_j_at_op(p, op);
    p->t += here;
    return here;
}

void lu_j_expect_op(lu_jparser *p, int op, const char *expected)
{
    if (!lu_j_skip_op(p, op))
        lu_j_unexpected(p, expected);
}

lu_jstr lu_j_expect_name(lu_jparser *p)
{
    if (p->t->type != T_NAME)
        lu_j_unexpected(p, "a name");
    return p->t++->text;
}

static lu_jnode *binary(lu_jparser *p, lu_jkind kind, int op, lu_jnode *a, lu_jnode *b)
{
    lu_jnode *node = lu_j_node(p, kind);
    node->op = op;
    node->a = a;
    node->b = b;
    return node;
}

/* --- primaries ------------------------------------------------------------------------------ */

/* Comma-separated expressions up to the closing bracket, which is eaten. */
static lu_jnode *items_until(lu_jparser *p, int closing, const char *expected)
{
    lu_jnode *first = NULL, **tail = &first;
    while (!lu_j_skip_op(p, closing)) {
        if (first)
            lu_j_expect_op(p, ',', expected);
        if (lu_j_skip_op(p, closing))
            break;
        *tail = lu_j_expression(p, true);
        tail = &(*tail)->next;
    }
    return first;
}

static lu_jnode *dict_literal(lu_jparser *p)
{
    lu_jnode *node = lu_j_node(p, N_DICT), **tail = &node->list;
    while (!lu_j_skip_op(p, '}')) {
        if (node->list)
            lu_j_expect_op(p, ',', "',' or '}'");
        if (lu_j_skip_op(p, '}'))
            break;
        lu_jnode *pair = lu_j_node(p, N_PAIR);
        pair->a = lu_j_expression(p, true);
        lu_j_expect_op(p, ':', "':'");
        pair->b = lu_j_expression(p, true);
        *tail = pair;
        tail = &pair->next;
    }
    return node;
}

static lu_jnode *parenthesis(lu_jparser *p)
{
    lu_jnode *node = lu_j_node(p, N_TUPLE);
    if (lu_j_skip_op(p, ')'))
        return node;
    lu_jnode *inner = lu_j_tuple(p, true);
    lu_j_expect_op(p, ')', "')'");
    return inner;
}

static lu_jnode *string_literal(lu_jparser *p)
{
    lu_jnode *node = lu_j_node(p, N_CONST);
    node->value = p->t++->value;
    if (p->t->type != T_STRING)
        return node;
    lu_jbuf b = {0}; /* neighbouring literals are one, as in Python */
    lu_j_put(p->env, &b, node->value.s.p, node->value.s.n);
    for (; p->t->type == T_STRING; p->t++)
        lu_j_put(p->env, &b, p->t->value.s.p, p->t->value.s.n);
    node->value = lu_j_take(&b);
    return node;
}

static lu_jnode *name_or_constant(lu_jparser *p)
{
    static const struct {
        const char *lower, *upper;
        lu_jv value;
    } constants[] = {
        {"true", "True", {.type = J_BOOL, .b = true}},
        {"false", "False", {.type = J_BOOL, .b = false}},
        {"none", "None", {.type = J_NONE}},
    };
    lu_jnode *node = lu_j_node(p, N_NAME);
    node->name = lu_j_expect_name(p);
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++) {
        if (lu_j_is(node->name, constants[i].lower) || lu_j_is(node->name, constants[i].upper)) {
            node->kind = N_CONST;
            node->value = constants[i].value;
        }
    }
    return node;
}

lu_jnode *lu_j_primary(lu_jparser *p)
{
    if (p->t->type == T_NAME)
        return name_or_constant(p);
    if (p->t->type == T_STRING)
        return string_literal(p);
    if (p->t->type == T_NUMBER) {
        lu_jnode *node = lu_j_node(p, N_CONST);
        node->value = p->t++->value;
        return node;
    }
    if (lu_j_skip_op(p, '('))
        return parenthesis(p);
    if (lu_j_skip_op(p, '[')) {
        lu_jnode *node = lu_j_node(p, N_LIST);
        node->list = items_until(p, ']', "',' or ']'");
        return node;
    }
    if (lu_j_skip_op(p, '{'))
        return dict_literal(p);
    lu_j_unexpected(p, "an expression");
}

/* --- what follows a primary ----------------------------------------------------------------- */

/* The arguments of a call; the opening parenthesis is eaten already. */
static lu_jnode *arguments(lu_jparser *p)
{
    lu_jnode *first = NULL, **tail = &first;
    bool named = false;
    while (!lu_j_skip_op(p, ')')) {
        if (first)
            lu_j_expect_op(p, ',', "',' or ')'");
        if (lu_j_skip_op(p, ')'))
            break;
        lu_jnode *arg = lu_j_node(p, N_ARG);
        if (lu_j_at_op(p, '*') || lu_j_at_op(p, OP_POW))
            lu_j_fail(p->env, LUTRA_E_UNSUPPORTED, "unpacked arguments (* and **) are not known");
        if (p->t->type == T_NAME && p->t[1].type == T_OP && p->t[1].op == '=') {
            arg->name = p->t->text;
            p->t += 2;
            named = true;
        } else if (named) {
            lu_j_unexpected(p, "a keyword argument after the first one");
        }
        arg->a = lu_j_expression(p, true);
        *tail = arg;
        tail = &arg->next;
    }
    return first;
}

/* a[...]; the opening bracket is eaten already. */
static lu_jnode *subscript(lu_jparser *p, lu_jnode *a)
{
    lu_jnode *node = lu_j_node(p, N_ITEM);
    lu_jnode **parts[] = {&node->b, &node->c, &node->d};
    node->a = a;
    for (int i = 0; i < 3; i++) {
        if (!lu_j_at_op(p, ':') && !lu_j_at_op(p, ']'))
            *parts[i] = lu_j_expression(p, true);
        if (!lu_j_skip_op(p, ':'))
            break;
        node->kind = N_SLICE;
    }
    lu_j_expect_op(p, ']', "']'");
    if (node->kind == N_ITEM && !node->b)
        lu_j_fail(p->env, LUTRA_E_FORMAT, "subscript is empty");
    return node;
}

static lu_jnode *attribute(lu_jparser *p, lu_jnode *a)
{
    lu_jnode *node = lu_j_node(p, N_ATTR);
    node->a = a;
    if (p->t->type == T_NUMBER && p->t->value.type == J_INT) { /* a.0 is a[0] */
        node->kind = N_ITEM;
        node->b = lu_j_primary(p);
    } else {
        node->name = lu_j_expect_name(p);
    }
    return node;
}

static lu_jnode *call(lu_jparser *p, lu_jnode *a)
{
    lu_jnode *node = lu_j_node(p, N_CALL);
    node->a = a;
    node->list = arguments(p);
    return node;
}

lu_jnode *lu_j_postfix(lu_jparser *p, lu_jnode *a)
{
    for (;;) {
        if (lu_j_skip_op(p, '.'))
            a = attribute(p, a);
        else if (lu_j_skip_op(p, '['))
            a = subscript(p, a);
        else if (lu_j_skip_op(p, '('))
            a = call(p, a);
        else
            return a;
    }
}

static lu_jnode *filter(lu_jparser *p, lu_jnode *a)
{
    lu_jnode *node = lu_j_node(p, N_FILTER);
    node->name = lu_j_expect_name(p);
    node->a = a;
    if (lu_j_skip_op(p, '('))
        node->list = arguments(p);
    return node;
}

/* Whether a test's one argument may stand here without parentheses: "x is divisibleby 3". */
static bool at_bare_argument(const lu_jparser *p)
{
    const lu_jtoken_type type = p->t->type;
    if (type == T_NAME)
        return !lu_j_at_name(p, "else") && !lu_j_at_name(p, "or") && !lu_j_at_name(p, "and") &&
               !lu_j_at_name(p, "is") && !lu_j_at_name(p, "if") && !lu_j_at_name(p, "not");
    return type == T_STRING || type == T_NUMBER || lu_j_at_op(p, '[') || lu_j_at_op(p, '{');
}

static lu_jnode *test(lu_jparser *p, lu_jnode *a)
{
    static const int symbols[] = {OP_EQ, OP_NE, '<', '>', OP_LE, OP_GE};
    static const char *const names[] = {"==", "!=", "<", ">", "<=", ">="};
    lu_jnode *node = lu_j_node(p, N_TEST);
    node->a = a;
    node->op = lu_j_skip_name(p, "not") ? '!' : 0;
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols && !node->name.p; i++)
        if (lu_j_skip_op(p, symbols[i]))
            node->name = lu_j_lit(names[i]);
    if (!node->name.p)
        node->name = lu_j_expect_name(p);
    if (lu_j_skip_op(p, '(')) {
        node->list = arguments(p);
    } else if (at_bare_argument(p)) {
        lu_jnode *arg = lu_j_node(p, N_ARG);
        arg->a = lu_j_postfix(p, lu_j_primary(p));
        node->list = arg;
    }
    return node;
}

/* What follows a: |filter, is test, call. */
static lu_jnode *filters(lu_jparser *p, lu_jnode *a)
{
    for (;;) {
        if (lu_j_skip_op(p, '|'))
            a = filter(p, a);
        else if (lu_j_skip_name(p, "is"))
            a = test(p, a);
        else if (lu_j_skip_op(p, '('))
            a = call(p, a);
        else
            return a;
    }
}

lu_jnode *lu_j_filter_chain(lu_jparser *p, bool first_bar)
{
    if (first_bar)
        lu_j_expect_op(p, '|', "'|'");
    lu_jnode *a = filter(p, NULL);
    while (lu_j_skip_op(p, '|'))
        a = filter(p, a);
    return a;
}

/* --- operators ------------------------------------------------------------------------------ */

static lu_jnode *unary(lu_jparser *p, bool with_filters)
{
    lu_j_enter(p->env);
    lu_jnode *a;
    if (lu_j_at_op(p, '-') || lu_j_at_op(p, '+')) {
        a = lu_j_node(p, N_UNARY);
        a->op = p->t++->op;
        a->a = unary(p, false);
    } else {
        a = lu_j_primary(p);
    }
    a = lu_j_postfix(p, a);
    if (with_filters)
        a = filters(p, a);
    lu_j_leave(p->env);
    return a;
}

static const int power_ops[] = {OP_POW, 0}, product_ops[] = {'*', '/', OP_FLOORDIV, '%', 0},
                 concat_ops[] = {'~', 0}, sum_ops[] = {'+', '-', 0};
static const int *const levels[] = {sum_ops, concat_ops, product_ops, power_ops};

/* Left-associative operators: level 0 is the loosest. */
static lu_jnode *arithmetic(lu_jparser *p, size_t level)
{
    if (level == sizeof levels / sizeof *levels)
        return unary(p, true);
    lu_jnode *a = arithmetic(p, level + 1);
    for (const int *op = levels[level]; *op;) {
        if (lu_j_skip_op(p, *op)) {
            a = binary(p, N_BINARY, *op, a, arithmetic(p, level + 1));
            op = levels[level];
        } else {
            op++;
        }
    }
    return a;
}

/* The comparison operator here, eaten, or 0. */
static int comparison_op(lu_jparser *p)
{
    static const int ops[] = {OP_EQ, OP_NE, OP_LE, OP_GE, '<', '>'};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (lu_j_skip_op(p, ops[i]))
            return ops[i];
    if (lu_j_skip_name(p, "in"))
        return OP_IN;
    if (lu_j_at_name(p, "not") && p->t[1].type == T_NAME && lu_j_is(p->t[1].text, "in")) {
        p->t += 2;
        return OP_NOT_IN;
    }
    return 0;
}

static lu_jnode *comparison(lu_jparser *p)
{
    lu_jnode *a = arithmetic(p, 0), *node = NULL, **tail = NULL;
    for (int op; (op = comparison_op(p)) != 0;) {
        if (!node) {
            node = lu_j_node(p, N_COMPARE);
            node->a = a;
            tail = &node->list;
        }
        *tail = lu_j_node(p, N_OPERAND);
        (*tail)->op = op;
        (*tail)->a = arithmetic(p, 0);
        tail = &(*tail)->next;
    }
    return node ? node : a;
}

static lu_jnode *negation(lu_jparser *p)
{
    if (!lu_j_at_name(p, "not"))
        return comparison(p);
    lu_j_enter(p->env);
    lu_jnode *node = lu_j_node(p, N_UNARY);
    p->t++;
    node->op = '!';
    node->a = negation(p);
    lu_j_leave(p->env);
    return node;
}

static lu_jnode *conjunction(lu_jparser *p)
{
    lu_jnode *a = negation(p);
    while (lu_j_skip_name(p, "and"))
        a = binary(p, N_AND, 0, a, negation(p));
    return a;
}

static lu_jnode *disjunction(lu_jparser *p)
{
    lu_jnode *a = conjunction(p);
    while (lu_j_skip_name(p, "or"))
        a = binary(p, N_OR, 0, a, conjunction(p));
    return a;
}

lu_jnode *lu_j_expression(lu_jparser *p, bool with_if)
{
    lu_j_enter(p->env);
    lu_jnode *a = disjunction(p);
    while (with_if && lu_j_skip_name(p, "if")) {
        a = binary(p, N_IF_ELSE, 0, a, disjunction(p));
        if (lu_j_skip_name(p, "else"))
            a->c = lu_j_expression(p, true);
    }
    lu_j_leave(p->env);
    return a;
}

lu_jnode *lu_j_tuple(lu_jparser *p, bool with_if)
{
    lu_jnode *a = lu_j_expression(p, with_if);
    if (!lu_j_at_op(p, ','))
        return a;
    lu_jnode *node = lu_j_node(p, N_TUPLE), **tail = &a->next;
    node->list = a;
    while (lu_j_skip_op(p, ',')) {
        if (p->t->type == T_PRINT_END || p->t->type == T_BLOCK_END || lu_j_at_op(p, ')'))
            break;
        *tail = lu_j_expression(p, with_if);
        tail = &(*tail)->next;
    }
    return node;
}
