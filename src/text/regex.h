/* regex.h - the patterns of tokenizer.json: {"String": s} or {"Regex": r}. Regexes are written for
   Oniguruma; lu_pattern translates what differs and compiles with PCRE2 (UTF, UCP, JIT). */
#ifndef LU_TEXT_REGEX_H
#define LU_TEXT_REGEX_H

#include "base/json.h"
#include "base/status.h"
#include "text/bytes.h"

typedef struct lu_pattern {
    char *literal; /* a String pattern; NULL for a regex */
    size_t n;
    void *code; /* pcre2_code, read only once compiled */
} lu_pattern;

/* Reads the member "pattern" of a part. `what` names the part in messages. */
lutra_status lu_pattern_parse(const char *what, json_t *part, lu_pattern *out, lutra_err *err);
lutra_status lu_pattern_compile(const char *what, const char *regex, lu_pattern *out,
                                lutra_err *err);
void lu_pattern_free(lu_pattern *p);

/* What matching needs besides the shared pattern: one per encoding or decoding call. Starts zeroed.
 */
typedef struct lu_match_room {
    void *data, *context, *stack;
} lu_match_room;

void lu_match_room_free(lu_match_room *r);

/* Walks over the matches of one text, left to right, without overlap. */
typedef struct lu_pattern_scan {
    const lu_pattern *pattern;
    lu_match_room *room;
    const char *text;
    size_t n, at;
    size_t last_end; /* of the last match: an empty match right there is no new one */
    bool any;
} lu_pattern_scan;

void lu_pattern_begin(lu_pattern_scan *s, const lu_pattern *p, lu_match_room *room,
                      const char *text, size_t n);
/* *found is false when there is no further match. E_LIMIT: the regex backtracks beyond measure. */
lutra_status lu_pattern_next(lu_pattern_scan *s, bool *found, size_t *begin, size_t *end,
                             lutra_err *err);

/* Appends `in` to out with every match replaced by `with`. */
lutra_status lu_pattern_replace(const lu_pattern *p, lu_match_room *room, const lu_text *in,
                                const lu_text *with, lu_bytes *out, lutra_err *err);

#endif
