/* bytes.h - a growable run of bytes. Running out of memory is remembered (`failed`) instead of
   being returned by every append, so a stage appends freely and its caller checks once at the end.
 */
#ifndef LU_TEXT_BYTES_H
#define LU_TEXT_BYTES_H

#include "base/status.h"

typedef struct lu_bytes {
    char *data; /* NULL until the first append; always NUL-terminated after it */
    size_t n, capacity;
    bool failed; /* an append found no memory: the contents are not to be used */
} lu_bytes;

/* Bytes that belong to someone else. */
typedef struct lu_text {
    const char *data;
    size_t n;
} lu_text;

void lu_bytes_append(lu_bytes *b, const char *data, size_t n);
void lu_bytes_put(lu_bytes *b, char c);
void lu_bytes_drop(lu_bytes *b, size_t n); /* removes the first n bytes */
void lu_bytes_clear(lu_bytes *b);          /* keeps the memory */
void lu_bytes_free(lu_bytes *b);

lutra_status lu_bytes_check(const lu_bytes *b, lutra_err *err); /* E_NOMEM when failed */

/* Hands the contents over as a NUL-terminated string (lu_free); b is empty after it. */
lutra_status lu_bytes_take(lu_bytes *b, char **text, size_t *n, lutra_err *err);

#endif
