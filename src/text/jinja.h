/* jinja.h - renders chat templates: the part of Jinja2 that templates of published models use,
   with the settings Hugging Face gives it (trim_blocks, lstrip_blocks, loop controls, an immutable
   sandbox, json.dumps as tojson). Templates are untrusted: work, memory, output, nesting and ranges
   are limited, and each limit is its own E_LIMIT message.

   One render is one arena: source, syntax tree and values live in it and go with it. */
#ifndef LU_TEXT_JINJA_H
#define LU_TEXT_JINJA_H

#include "base/status.h"

typedef struct lu_jenv lu_jenv;

typedef struct lu_jinja_options {
    int64_t work;  /* evaluation steps, also charged for bytes copied and items walked */
    size_t memory; /* bytes of the arena */
    size_t output; /* bytes of text */
    int depth;     /* nested evaluations: expressions in macros in loops ... */
    int64_t range; /* items of range(); Jinja's sandbox has the same limit */
    int64_t now;   /* seconds since the epoch that strftime_now shows; < 0 = the clock */
} lu_jinja_options;

extern const lu_jinja_options lu_jinja_defaults;

/* Defines the template's variables: calls lu_j_global (jinja_value.h) for each. Runs inside the
   render, so the functions of jinja_value.h may be used and need no error checks. */
typedef void (*lu_jinja_context)(lu_jenv *env, void *arg);

/* Renders n bytes of template. *text is NUL-terminated and allocated (lu_free), *n_text excludes
   the NUL. Fails with E_FORMAT (syntax, wrong types, undefined values), E_UNSUPPORTED (a statement,
   filter, test, function or method that is not known), E_ARG (raise_exception, with its message),
   E_LIMIT and E_NOMEM; the message names the line. options may be NULL. */
lutra_status lu_jinja_render(const char *source, size_t n, lu_jinja_context context, void *arg,
                             const lu_jinja_options *options, char **text, size_t *n_text,
                             lutra_err *err);

#endif
