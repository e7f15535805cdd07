/* lutra/method.h - the methods that compress weights and their parameters, as tables: the same rows
   drive recipes, the command line, `lutra quantize --list-methods` and the tests. */
#ifndef LUTRA_METHOD_H
#define LUTRA_METHOD_H

#include "lutra/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum lutra_param_type {
    LUTRA_PARAM_BOOL,   /* bool */
    LUTRA_PARAM_INT,    /* int64_t in [lo, hi] */
    LUTRA_PARAM_REAL,   /* double in [lo, hi] */
    LUTRA_PARAM_CHOICE, /* int: index into choices */
} lutra_param_type;

/* One parameter. Its value lies at `offset` of the method's settings, as the C type above. */
typedef struct lutra_param {
    const char *name; /* as a recipe spells it, e.g. "act_order"; NULL ends a table */
    lutra_param_type type;
    size_t offset;
    double dflt;   /* false 0, true 1; a choice's index */
    double lo, hi; /* INT, REAL; both ends allowed */
    const char *choices; /* CHOICE: "minmax|mse" */
    const char *help;
} lutra_param;

typedef enum lutra_method_kind {
    LUTRA_METHOD_TRANSFORM, /* changes weights, keeps the function of the block */
    LUTRA_METHOD_ROUND,     /* chooses codes */
    LUTRA_METHOD_PRUNE,     /* sets weights to zero, or drops them */
} lutra_method_kind;

typedef struct lutra_method {
    const char *name;    /* "gptq" */
    const char *summary; /* one line */
    const char *source;  /* the paper, or "" */
    lutra_method_kind kind;
    bool needs_data; /* calibration text is required */
    const lutra_param *params;
} lutra_method;

/* Method i, for i = 0, 1, ... until NULL. */
LUTRA_API const lutra_method *lutra_method_at(int i);
/* "transform", "round", "prune" */
LUTRA_API const char *lutra_method_kind_name(lutra_method_kind kind);

#ifdef __cplusplus
}
#endif
#endif
