/* output.c - results on stdout and messages on stderr. A write that fails (full disk, closed pipe)
   is remembered: later output is dropped, and out_close makes the program fail with the reason. */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "cli.h"
#include "interrupt.h"

static int write_error; /* errno of the first failed write, 0 = none */

static void check(bool good)
{
    if (!good && !write_error)
        write_error = errno ? errno : EIO;
}

void out_write(const char *text, size_t n)
{
    if (!write_error && n)
        check(fwrite(text, 1, n, stdout) == n);
}

void out_printf(const char *fmt, ...)
{
    if (write_error)
        return;
    va_list args;
    va_start(args, fmt);
    check(vprintf(fmt, args) >= 0);
    va_end(args);
}

void out_flush(void)
{
    if (!write_error)
        check(fflush(stdout) == 0);
}

bool out_broken(void) { return write_error != 0; }

json_t *out_real(double v) { return isfinite(v) ? json_real(v) : json_null(); }

json_t *out_string(const char *text)
{
    json_t *value = json_string(text);
    char *copy = value ? NULL : lu_strdup(text);
    for (char *c = copy; c && *c; c++)
        if ((unsigned char)*c >= 0x80)
            *c = '?';
    if (copy)
        value = json_string(copy);
    lu_free(copy);
    return value;
}

const char *out_name(const char *text, char *buf, size_t size)
{
    snprintf(buf, size, "%s", text);
    lu_printable(buf);
    return buf;
}

void out_json(json_t *value)
{
    char *text = value ? lu_json_dump(value, JSON_INDENT(2) | JSON_REAL_PRECISION(10), NULL) : NULL;
    if (text) {
        out_write(text, strlen(text));
        out_write("\n", 1);
    } else if (!write_error) {
        write_error = ENOMEM;
    }
    lu_free(text);
    json_decref(value);
}

int out_close(int status)
{
    out_flush();
    if (!write_error)
        return status;
    if (write_error != EPIPE) /* a reader that has seen enough is no news */
        fprintf(stderr, "lutra: standard output: cannot write: %s\n", strerror(write_error));
    return CLI_FAILED;
}

int cli_fail(cli_call *call, const lutra_err *err)
{
    progress_clear(call->progress);
    fflush(stdout);
    fprintf(stderr, "lutra: %s\n", err->msg[0] ? err->msg : lutra_status_text(err->status));
    return CLI_FAILED;
}

int cli_usage(const cli_call *call, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fputs("lutra: ", stderr);
    vfprintf(stderr, fmt, args);
    va_end(args);
    if (call && call->command)
        fprintf(stderr, "\nlutra: 'lutra %s --help' shows how it is used\n", call->command->name);
    else
        fputs("\nlutra: 'lutra --help' shows the commands\n", stderr);
    return CLI_USAGE;
}

void cli_note(cli_call *call, const char *fmt, ...)
{
    if (call->globals.quiet)
        return;
    progress_clear(call->progress);
    fflush(stdout);
    va_list args;
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
}

const char *human_bytes(double bytes, char *buf, size_t size)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    int u = 0;
    for (; bytes >= 999.95 && u < 5; u++)
        bytes /= 1000;
    snprintf(buf, size,
             u == 0          ? "%.0f %s"
             : bytes < 9.995 ? "%.2f %s"
                             : "%.1f %s",
             bytes, units[u]);
    return buf;
}

const char *human_time(double seconds, char *buf, size_t size)
{
    if (!(seconds < 359999)) {
        snprintf(buf, size, "--:--");
        return buf;
    }
    const long s = (long)(seconds + 0.5);
    if (s >= 3600)
        snprintf(buf, size, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(buf, size, "%ld:%02ld", s / 60, s % 60);
    return buf;
}
