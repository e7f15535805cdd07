/* json.h - jansson behind our errors: parse with position, typed getters that name what is wrong. */
#ifndef LU_BASE_JSON_H
#define LU_BASE_JSON_H

#include <jansson.h>

#include "base/status.h"

/* Parses n bytes. Accepts what Python's json writes (NaN, Infinity literals included); duplicate
   keys are an error when reject_duplicates. `what` names the input in messages ("DIR/config.json").
   On success *out is a new reference (json_decref). Depth is limited by jansson. */
lutra_status lu_json_parse(const char *what, const char *text, size_t n, bool reject_duplicates,
                           json_t **out, lutra_err *err);
lutra_status lu_json_load(const char *path, json_t **out, lutra_err *err);

/* Getters of an object's member. A missing or null member leaves *out as it is (the default) and
   returns OK; a wrong type is E_FORMAT: "<what>: \"key\" is a string, expected an integer". */
lutra_status lu_json_int(const char *what, json_t *obj, const char *key, int64_t *out, lutra_err *err);
lutra_status lu_json_float(const char *what, json_t *obj, const char *key, double *out, lutra_err *err);
lutra_status lu_json_bool(const char *what, json_t *obj, const char *key, bool *out, lutra_err *err);
lutra_status lu_json_string(const char *what, json_t *obj, const char *key, const char **out, lutra_err *err);

#endif
