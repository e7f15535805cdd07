/* status.c - status texts and error records. */
#include "base/status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *lutra_status_text(lutra_status status)
{
    static const char *const texts[] = {
#define LU_STATUS_TEXT(name, text) text,
        LUTRA_STATUS_LIST(LU_STATUS_TEXT)
#undef LU_STATUS_TEXT
    };
    const size_t i = (size_t)status;
    return i < sizeof texts / sizeof *texts ? texts[i] : "unknown status";
}

/* Bytes of text that a message must not hold: controls of ASCII, and of C1, which UTF-8 writes as C2
   80 to C2 9F. Names from files nobody vouches for reach messages, and messages reach terminals. */
static size_t control_bytes(const unsigned char *text)
{
    if (*text < 0x20 || *text == 0x7f)
        return 1;
    return *text == 0xc2 && text[1] >= 0x80 && text[1] < 0xa0 ? 2 : 0;
}

void lu_printable(char *text)
{
    for (size_t n; *text; text += n ? n : 1) {
        n = control_bytes((const unsigned char *)text);
        memset(text, '?', n);
    }
}

lutra_status lu_fail(lutra_err *err, lutra_status status, const char *fmt, ...)
{
    if (err) {
        va_list args;
        err->status = status;
        va_start(args, fmt);
        vsnprintf(err->msg, sizeof err->msg, fmt, args);
        va_end(args);
        lu_printable(err->msg);
    }
    return status;
}

lutra_status lu_fail_errno(lutra_err *err, int error, const char *path, const char *what)
{
    const lutra_status status = error == ENOSPC || error == EDQUOT ? LUTRA_E_NOSPACE
                                : error == ENOMEM                  ? LUTRA_E_NOMEM
                                                                   : LUTRA_E_IO;
    char text[128];
    if (strerror_r(error, text, sizeof text) != 0)
        snprintf(text, sizeof text, "error %d", error);
    return lu_fail(err, status, "%s: cannot %s: %s", path, what, text);
}

lutra_status lu_fail_nomem(lutra_err *err, size_t bytes)
{
    return lu_fail(err, LUTRA_E_NOMEM, "out of memory asking for %zu bytes", bytes);
}

lutra_status lu_fail_prefix(lutra_err *err, lutra_status status, const char *fmt, ...)
{
    if (!err)
        return status;
    char prefix[sizeof err->msg];
    char rest[sizeof err->msg];
    va_list args;
    va_start(args, fmt);
    vsnprintf(prefix, sizeof prefix, fmt, args);
    va_end(args);
    memcpy(rest, err->msg, sizeof rest);
    const size_t used = strlen(prefix);
    const size_t room = sizeof err->msg - 3 > used ? sizeof err->msg - 3 - used : 0;
    snprintf(err->msg, sizeof err->msg, "%.*s: %.*s", (int)(sizeof err->msg - 3), prefix, (int)room, rest);
    lu_printable(err->msg);
    return err->status;
}
