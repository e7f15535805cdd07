/* jinja_value.h - what a render works with: the arena, failures, values, strings, buffers.
   Failures do not return: lu_j_fail unwinds to lu_jinja_render, which frees the arena. This is safe
   because nothing but the arena owns memory during a render; keep it so. */
#ifndef LU_TEXT_JINJA_VALUE_H
#define LU_TEXT_JINJA_VALUE_H

#include <setjmp.h>

#include "text/jinja.h"

typedef enum lu_jtype {
    J_ABSENT, /* an optional argument that was not given; never visible to a template */
    J_UNDEFINED,
    J_NONE,
    J_BOOL,
    J_INT,
    J_FLOAT,
    J_STR,
    J_LIST,
    J_TUPLE,
    J_ITER, /* result of a lazy filter: truthy, without length, empty after one walk */
    J_DICT,
    J_NAMESPACE,
    J_LOOP,
    J_MACRO,
    J_FUNCTION,
    J_METHOD
} lu_jtype;

typedef struct lu_jstr {
    const char *p;
    size_t n;
} lu_jstr;

typedef struct lu_jlist lu_jlist;
typedef struct lu_jdict lu_jdict;
typedef struct lu_jloop lu_jloop;
typedef struct lu_jmacro lu_jmacro;
typedef struct lu_jmethod lu_jmethod;
typedef struct lu_jbuiltin lu_jbuiltin;
typedef struct lu_jscope lu_jscope;
typedef struct lu_jchunk lu_jchunk;

typedef struct lu_jv {
    lu_jtype type;
    union {
        bool b;
        int64_t i;
        double f;
        lu_jstr s; /* J_STR; of J_UNDEFINED: the name that was asked for */
        lu_jlist *list;
        lu_jdict *dict; /* J_DICT, J_NAMESPACE */
        lu_jloop *loop;
        lu_jmacro *macro;
        const lu_jbuiltin *function;
        lu_jmethod *method;
    };
} lu_jv;

struct lu_jlist {
    lu_jv *items;
    size_t n, cap;
};

typedef struct lu_jpair {
    lu_jv key, value;
} lu_jpair;

struct lu_jdict {
    lu_jpair *pairs; /* in order of insertion */
    size_t n, cap;
};

struct lu_jloop {
    const lu_jlist *items;
    size_t index; /* from 0 */
};

/* Text being built. */
typedef struct lu_jbuf {
    char *p;
    size_t n, cap;
} lu_jbuf;

struct lu_jenv {
    lu_jchunk *chunks;
    lu_jinja_options left; /* work, memory: what remains; the rest as given */
    lutra_err *err;
    lutra_status status;
    jmp_buf unwind;
    int line;  /* of the template, for messages */
    int depth; /* nested evaluations now */
    lu_jbuf *out;
    lu_jscope *scope, *globals;
};

/* --- failures and limits -------------------------------------------------------------------- */

_Noreturn void lu_j_fail(lu_jenv *env, lutra_status status, const char *fmt, ...)
    LUTRA_PRINTF(3, 4);

/* E_FORMAT: "'NAME' is undefined", else "<what>: got <type of v>, expected <expected>". */
_Noreturn void lu_j_wrong_type(lu_jenv *env, const char *what, lu_jv v, const char *expected);

void lu_j_work(lu_jenv *env, size_t units); /* fails once the work is spent */
void lu_j_enter(lu_jenv *env);              /* one level deeper; fails at the depth limit */
void lu_j_leave(lu_jenv *env);
void *lu_j_alloc(lu_jenv *env, size_t count, size_t size); /* zeroed, freed with the render */
void lu_j_free_all(lu_jenv *env);

/* --- values --------------------------------------------------------------------------------- */

lu_jv lu_j_undefined(lu_jstr name);
lu_jv lu_j_none(void);
lu_jv lu_j_bool(bool b);
lu_jv lu_j_int(int64_t i);
lu_jv lu_j_float(double f);
lu_jv lu_j_str(lu_jstr s);                    /* shares the bytes */
lu_jv lu_j_text(const char *s);               /* shares the bytes of a C string */
lu_jv lu_j_list(lu_jenv *env, lu_jtype type); /* empty; J_LIST, J_TUPLE or J_ITER */
lu_jv lu_j_dict(lu_jenv *env, lu_jtype type); /* empty; J_DICT or J_NAMESPACE */

void lu_j_append(lu_jenv *env, lu_jlist *list, lu_jv v);
lu_jv *lu_j_get(lu_jenv *env, const lu_jdict *d, lu_jv key); /* NULL: no such key */
void lu_j_set(lu_jenv *env, lu_jdict *d, lu_jv key, lu_jv value);
void lu_j_set_text(lu_jenv *env, lu_jdict *d, const char *key, lu_jv value);

void lu_j_global(lu_jenv *env, const char *name, lu_jv value);

const char *lu_j_type_name(lu_jv v); /* "string", "list" ... */
bool lu_j_truth(lu_jv v);
bool lu_j_is_number(lu_jv v); /* bool, int, float */
double lu_j_number(lu_jv v);
bool lu_j_equal(lu_jenv *env, lu_jv a, lu_jv b);
int lu_j_order(lu_jenv *env, lu_jv a, lu_jv b); /* -1, 0, 1; 2 with a NaN; fails if unordered */
bool lu_j_contains(lu_jenv *env, lu_jv container, lu_jv item);

/* The items of anything iterable (keys of a dict, characters of a string) as a list that the
   caller must not change. An iterator is spent by it. */
const lu_jlist *lu_j_items(lu_jenv *env, lu_jv v);
size_t lu_j_length(lu_jenv *env, lu_jv v);

/* --- text ----------------------------------------------------------------------------------- */

lu_jstr lu_j_lit(const char *s);
bool lu_j_same(lu_jstr a, lu_jstr b);
bool lu_j_is(lu_jstr a, const char *b);

void lu_j_put(lu_jenv *env, lu_jbuf *b, const char *p, size_t n);
void lu_j_put_text(lu_jenv *env, lu_jbuf *b, const char *s);
void lu_j_put_char(lu_jenv *env, lu_jbuf *b, uint32_t code); /* as UTF-8 */
lu_jv lu_j_take(const lu_jbuf *b);
void lu_j_show(lu_jenv *env, lu_jbuf *b, lu_jv v); /* as Python's str() */
lu_jstr lu_j_to_str(lu_jenv *env, lu_jv v);        /* str(), shared if it is a string */
void lu_j_put_int(lu_jenv *env, lu_jbuf *b, int64_t i);
void lu_j_put_float(lu_jenv *env, lu_jbuf *b, double f);
bool lu_j_parse_float(lu_jstr s, double *out); /* the whole of s, '.' in every locale */

/* Characters are code points; a byte that is not UTF-8 is a character of its own. */
size_t lu_j_char_size(const char *p, size_t n);            /* bytes of the first; n > 0 */
uint32_t lu_j_char(const char *p, size_t n, size_t *size); /* a stray byte is U+FFFD */
size_t lu_j_char_count(lu_jstr s);
size_t lu_j_char_offset(lu_jstr s, size_t index); /* byte offset of a character, n past the end */
size_t lu_j_space_size(const char *p, size_t n);  /* bytes of leading white space character, or 0 */
lu_jstr lu_j_strip(lu_jstr s, const lu_jstr *chars, bool left, bool right); /* NULL: white space */
lu_jstr lu_j_replace(lu_jenv *env, lu_jstr s, lu_jstr old, lu_jstr new_text, int64_t count);
const char *lu_j_find(lu_jenv *env, lu_jstr s, lu_jstr what); /* NULL: not there */

#endif
