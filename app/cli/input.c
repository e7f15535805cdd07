/* input.c - opening what a command line names: files read whole, and contexts. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "cli.h"
#include "interrupt.h"

#define READ_LIMIT ((size_t)1 << 30) /* what lutra_encode takes in one call */

static lutra_status read_all(int fd, const char *name, char **data, size_t *n, lutra_err *err)
{
    size_t room = (size_t)1 << 16, used = 0;
    char *buf = lu_alloc(room);
    if (!buf)
        return lu_fail_nomem(err, room);
    for (;;) {
        const ssize_t got = read(fd, buf + used, room - used - 1);
        if (got < 0 && errno == EINTR && !interrupt_asked())
            continue;
        if (got <= 0) {
            const int error = got < 0 ? errno : 0;
            buf[used] = '\0';
            if (error == 0) {
                *data = buf;
                *n = used;
                return LUTRA_OK;
            }
            lu_free(buf);
            return lu_fail_errno(err, error, name, "read");
        }
        used += (size_t)got;
        if (used + 1 < room)
            continue;
        char *more = room >= READ_LIMIT ? NULL : lu_resize(buf, room * 2);
        if (!more) {
            lu_free(buf);
            return room >= READ_LIMIT
                       ? lu_fail(err, LUTRA_E_LIMIT, "%s: longer than %zu bytes", name, READ_LIMIT)
                       : lu_fail_nomem(err, room * 2);
        }
        buf = more;
        room *= 2;
    }
}

lutra_status cli_read(const char *path, char **data, size_t *n, lutra_err *err)
{
    if (strcmp(path, "-") == 0)
        return read_all(STDIN_FILENO, "standard input", data, n, err);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return lu_fail_errno(err, errno, path, "open");
    const lutra_status status = read_all(fd, path, data, n, err);
    close(fd);
    return status;
}

static void show_log(void *user, lutra_log_level level, const char *line)
{
    cli_call *call = user;
    if (level > (call->globals.verbose ? LUTRA_LOG_DEBUG : LUTRA_LOG_WARN))
        return;
    if (call->globals.quiet && level > LUTRA_LOG_ERROR)
        return;
    progress_clear(call->progress);
    fprintf(stderr, "lutra: %s\n", line);
}

static void show_progress(void *user, const lutra_progress *event)
{
    progress_update(((cli_call *)user)->progress, event);
}

static bool stop_asked(void *user)
{
    (void)user;
    return interrupt_asked();
}

lutra_status cli_open(cli_call *call, lutra_ctx **out, lutra_err *err)
{
    lutra_options o;
    lutra_options_init(&o);
    o.n_threads = (int)call->globals.threads;
    o.cpu = strcmp(call->globals.cpu, "auto") == 0 ? NULL : call->globals.cpu;
    o.user = call;
    o.log = show_log;
    o.progress = show_progress;
    o.cancelled = stop_asked;
    interrupt_block(); /* so that signals come to this thread, where reads can be interrupted */
    const lutra_status status = lutra_open(&o, out, err);
    interrupt_unblock();
    return status;
}
