/* json.h - jansson behind our errors: parse with position, typed getters that name what is wrong.

   Python's json module writes three literals and one kind of number that jansson refuses: NaN,
   Infinity, -Infinity, and integers beyond 64 bits ("model_max_length": 10**30). lu_json_parse
   accepts them. An oversized integer becomes a json_real. The literals become strings that no
   file holds (DEL followed by the literal's text), which lu_json_nonfinite recognises,
   lu_json_float gives as NAN or +-INFINITY, every other getter refuses by the literal's name, and
   lu_json_dump writes back as the bare literal. */
#ifndef LU_BASE_JSON_H
#define LU_BASE_JSON_H

#include <jansson.h>

#include "base/status.h"

/* Parses n bytes. Accepts what Python's json writes (see above); duplicate keys are an error when
   reject_duplicates. `what` names the input in messages ("DIR/config.json"), which give line and
   column (in bytes) where the refused token ends. On success *out is a new reference (json_decref).
   Depth is limited by jansson. */
lutra_status lu_json_parse(const char *what, const char *text, size_t n, bool reject_duplicates,
                           json_t **out, lutra_err *err);
lutra_status lu_json_load(const char *path, json_t **out, lutra_err *err);

/* The text of a value, keys in their order. flags: jansson's JSON_INDENT(n), JSON_COMPACT, ...
   NUL-terminated, freed with lu_free; *size (may be NULL) is its length. NULL = out of memory. */
char *lu_json_dump(const json_t *value, size_t flags, size_t *size);

/* True for a parsed NaN, Infinity or -Infinity; *out is then that number. */
bool lu_json_nonfinite(const json_t *value, double *out);

/* Getters of an object's member. A missing or null member leaves *out as it is (the default) and
   returns OK; a wrong type is E_FORMAT: "<what>: \"key\" is a string, expected an integer". A
   number with a zero fraction (500000.0) is an integer; true is not a number. */
lutra_status lu_json_int(const char *what, json_t *obj, const char *key, int64_t *out,
                         lutra_err *err);
lutra_status lu_json_float(const char *what, json_t *obj, const char *key, double *out,
                           lutra_err *err);
lutra_status lu_json_bool(const char *what, json_t *obj, const char *key, bool *out,
                          lutra_err *err);
lutra_status lu_json_string(const char *what, json_t *obj, const char *key, const char **out,
                            lutra_err *err);

#endif
