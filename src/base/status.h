/* status.h - filling a caller's lutra_err; the one way an internal function reports a failure.
   Every function here returns the status it stored, so `return lu_fail(...)` reads as one line. */
#ifndef LU_BASE_STATUS_H
#define LU_BASE_STATUS_H

#include "lutra/base.h"

#define LU_TRY(expr)                                                                              \
    do {                                                                                          \
        lutra_status lu_try_ = (expr);                                                            \
        if (lu_try_ != LUTRA_OK)                                                                  \
            return lu_try_;                                                                       \
    } while (0)

/* Message text: subject, fact, expectation or mend; lower case, no full stop. Control characters in
   what is formatted become '?', so that a message is one line and does nothing to a terminal.
   err may be NULL. */
lutra_status lu_fail(lutra_err *err, lutra_status status, const char *fmt, ...) LUTRA_PRINTF(3, 4);

/* "<path>: cannot <what>: <strerror(error)>"; ENOSPC/EDQUOT -> E_NOSPACE, ENOMEM -> E_NOMEM, else E_IO. */
lutra_status lu_fail_errno(lutra_err *err, int error, const char *path, const char *what);

lutra_status lu_fail_nomem(lutra_err *err, size_t bytes);

/* Puts "<prefix>: " before a message already stored. Returns err's status (or `status` if NULL). */
lutra_status lu_fail_prefix(lutra_err *err, lutra_status status, const char *fmt, ...)
    LUTRA_PRINTF(3, 4);

/* Puts '?' in place of every byte of a control character of text. */
void lu_printable(char *text);

#endif
