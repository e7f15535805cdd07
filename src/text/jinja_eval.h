/* jinja_eval.h - evaluation: names, calls, and the tables of what templates can call. */
#ifndef LU_TEXT_JINJA_EVAL_H
#define LU_TEXT_JINJA_EVAL_H

#include "text/jinja_ast.h"

typedef struct lu_jnamed {
    lu_jstr name;
    lu_jv value;
} lu_jnamed;

typedef struct lu_jargs {
    lu_jv *items;
    size_t n;
    lu_jnamed *named;
    size_t n_named;
} lu_jargs;

#define LU_J_MAX_PARAMS 4

/* One call of a built-in: a holds the arguments by parameter, J_ABSENT where not given. */
typedef struct lu_jcall {
    lu_jenv *env;
    const lu_jbuiltin *what;
    lu_jv self; /* filters, tests: the value; methods: the object */
    lu_jv a[LU_J_MAX_PARAMS];
    const lu_jargs *args; /* all of them as written, for built-ins that take any */
} lu_jcall;

/* A filter, test, method or function: a row of one of the tables below. */
struct lu_jbuiltin {
    const char *name;
    lu_jv (*fn)(lu_jcall *call);
    int required;       /* parameters that must be given */
    const char *params; /* "old new count"; NULL: takes any arguments, reads args itself */
};

struct lu_jmethod {
    lu_jv self;
    const lu_jbuiltin *what;
};

struct lu_jmacro {
    const lu_jnode *node;
    lu_jscope *scope; /* where it was defined */
};

/* jinja_eval.c */
lu_jv lu_j_eval(lu_jenv *env, const lu_jnode *node);
lu_jv lu_j_eval_filters(lu_jenv *env, const lu_jnode *chain, lu_jv value);     /* filter blocks */
lu_jv lu_j_call_node(lu_jenv *env, const lu_jnode *node, const lu_jv *caller); /* may be NULL */
lu_jv lu_j_filter(lu_jenv *env, lu_jstr name, lu_jv value, const lu_jargs *args);
bool lu_j_test(lu_jenv *env, lu_jstr name, lu_jv value, const lu_jargs *args);
const lu_jbuiltin *lu_j_row(const lu_jbuiltin *table, lu_jstr name); /* NULL: none */

/* jinja_run.c */
lu_jv *lu_j_find_name(lu_jenv *env, lu_jstr name); /* NULL: not set anywhere */
lu_jv lu_j_run_macro(lu_jenv *env, const lu_jmacro *macro, const lu_jargs *args);

/* jinja_ops.c */
lu_jv lu_j_binary(lu_jenv *env, int op, lu_jv a, lu_jv b);
lu_jv lu_j_negative(lu_jenv *env, lu_jv a);
lu_jv lu_j_attr(lu_jenv *env, lu_jv a, lu_jstr name);
lu_jv lu_j_item(lu_jenv *env, lu_jv a, lu_jv index);
lu_jv lu_j_slice(lu_jenv *env, lu_jv a, lu_jv from, lu_jv to, lu_jv step); /* none: left out */

/* jinja_json.c */
lu_jv lu_j_to_json(lu_jcall *call); /* the filter */

/* Arguments of built-ins, checked: fail naming the built-in and the parameter. */
lu_jstr lu_j_arg_str(lu_jcall *call, int i);
int64_t lu_j_arg_int(lu_jcall *call, int i, int64_t if_absent);
bool lu_j_arg_bool(lu_jcall *call, int i, bool if_absent);
lu_jstr lu_j_self_str(lu_jcall *call);

/* Tables end in a row without a name. */
extern const lu_jbuiltin lu_j_text_filters[], lu_j_list_filters[], lu_j_tests[], lu_j_functions[];
extern const lu_jbuiltin lu_j_str_methods[], lu_j_list_methods[], lu_j_dict_methods[],
    lu_j_loop_methods[];

#endif
