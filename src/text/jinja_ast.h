/* jinja_ast.h - tokens and syntax tree of a template, and the entry points of the stages. */
#ifndef LU_TEXT_JINJA_AST_H
#define LU_TEXT_JINJA_AST_H

#include "text/jinja_value.h"

typedef enum lu_jtoken_type {
    T_DATA,
    T_PRINT_BEGIN, /* {{ */
    T_PRINT_END,
    T_BLOCK_BEGIN, /* {% */
    T_BLOCK_END,
    T_NAME,
    T_STRING, /* value: the decoded string */
    T_NUMBER, /* value: int or float */
    T_OP,     /* op: the character, or one of lu_jop */
    T_END
} lu_jtoken_type;

typedef enum lu_jop {
    OP_EQ = 256,
    OP_NE,
    OP_LE,
    OP_GE,
    OP_FLOORDIV,
    OP_POW,
    OP_IN,
    OP_NOT_IN
} lu_jop;

typedef struct lu_jtoken {
    lu_jtoken_type type;
    int line;
    int op;
    lu_jstr text;
    lu_jv value;
} lu_jtoken;

/* Splits the source into tokens, the last of which is T_END. Applies white space control. */
lu_jtoken *lu_j_lex(lu_jenv *env, lu_jstr source);

typedef enum lu_jkind {
    /* expressions; a, b, c: operands; list: items linked by next */
    N_CONST,   /* value */
    N_NAME,    /* name */
    N_LIST,    /* list */
    N_TUPLE,   /* list */
    N_DICT,    /* list of N_PAIR */
    N_PAIR,    /* a: key, b: value */
    N_UNARY,   /* op '-', '+' or '!'; a */
    N_BINARY,  /* op; a, b */
    N_COMPARE, /* a, then list of N_OPERAND */
    N_OPERAND, /* op; a */
    N_AND,
    N_OR,
    N_IF_ELSE, /* a if b else c (may be NULL) */
    N_ATTR,    /* a.name */
    N_ITEM,    /* a[b] */
    N_SLICE,   /* a[b:c:d], each may be NULL */
    N_CALL,    /* a(list of N_ARG) */
    N_FILTER,  /* a|name(list), a NULL in filter blocks: the block's text */
    N_TEST,    /* a is name(list); op '!' for "is not" */
    N_ARG,     /* a; name.p NULL unless a keyword argument */
    /* statements, linked by next */
    N_TEXT,      /* value */
    N_PRINT,     /* a */
    N_SET,       /* a: target, b: value */
    N_SET_BLOCK, /* a: target, b: filter chain or NULL, list: body */
    N_IF,        /* a: condition, list: body, c: the elif as N_IF or N_SCOPE, or NULL */
    N_FOR, /* a: target, b: items, c: filter or NULL, list: body, d: N_SCOPE of else or NULL */
    N_BREAK,
    N_CONTINUE,
    N_MACRO,        /* name; a: N_PARAMs, list: body */
    N_PARAM,        /* name; a: default or NULL */
    N_CALL_BLOCK,   /* a: N_CALL, b: N_MACRO to be its caller */
    N_FILTER_BLOCK, /* b: filter chain, list: body */
    N_SCOPE         /* list: body; op 1: names set inside stay inside */
} lu_jkind;

typedef struct lu_jnode lu_jnode;
struct lu_jnode {
    lu_jkind kind;
    int line;
    int op;
    lu_jstr name;
    lu_jv value;
    lu_jnode *a, *b, *c, *d, *list, *next;
};

/* Position in the tokens. */
typedef struct lu_jparser {
    lu_jenv *env;
    const lu_jtoken *t;
    int loops; /* enclosing loops: where break and continue are allowed */
} lu_jparser;

/* jinja_parse.c: expressions and the parser's small tools */
_Noreturn void lu_j_unexpected(lu_jparser *p, const char *expected);
lu_jnode *lu_j_node(lu_jparser *p, lu_jkind kind);
bool lu_j_at_name(const lu_jparser *p, const char *name);
bool lu_j_at_op(const lu_jparser *p, int op);
bool lu_j_skip_name(lu_jparser *p, const char *name);
bool lu_j_skip_op(lu_jparser *p, int op);
void lu_j_expect_op(lu_jparser *p, int op, const char *expected);
lu_jstr lu_j_expect_name(lu_jparser *p);
lu_jnode *lu_j_expression(lu_jparser *p, bool with_if);
lu_jnode *lu_j_tuple(lu_jparser *p, bool with_if); /* an expression, or several as a tuple */
lu_jnode *lu_j_postfix(lu_jparser *p, lu_jnode *a);
lu_jnode *lu_j_primary(lu_jparser *p);
lu_jnode *lu_j_filter_chain(lu_jparser *p, bool first_bar); /* "upper|trim" without a value */

/* jinja_stmt.c: the whole template */
lu_jnode *lu_j_template(lu_jenv *env, const lu_jtoken *tokens);

#endif
