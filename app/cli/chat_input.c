/* chat_input.c - a line reader over read(2), so that Ctrl-C at the prompt is seen at once: stdio
   would go on reading, or lose what it holds. */
#include "chat_input.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "interrupt.h"

#define LINE_LIMIT ((size_t)16 << 20)

void chat_input_open(chat_input *in)
{
    memset(in, 0, sizeof *in);
    in->terminal = isatty(STDIN_FILENO) != 0;
}

void chat_input_close(chat_input *in)
{
    lu_free(in->buf);
    lu_free(in->line);
}

/* Makes room for more bytes: moves what is held to the front, then grows. */
static lutra_status make_room(chat_input *in, lutra_err *err)
{
    if (in->begin > 0) {
        memmove(in->buf, in->buf + in->begin, in->end - in->begin);
        in->end -= in->begin;
        in->begin = 0;
    }
    if (in->end < in->room)
        return LUTRA_OK;
    if (in->room >= LINE_LIMIT)
        return lu_fail(err, LUTRA_E_LIMIT, "standard input: a line is longer than %zu bytes",
                       LINE_LIMIT);
    const size_t room = in->room ? in->room * 2 : 4096;
    char *more = lu_resize(in->buf, room);
    if (!more)
        return lu_fail_nomem(err, room);
    in->buf = more;
    in->room = room;
    return LUTRA_OK;
}

/* Finds the end of a whole message from buf[begin]: a newline that no backslash precedes. */
static bool find_end(const chat_input *in, size_t *at)
{
    for (size_t i = in->begin; i < in->end; i++)
        if (in->buf[i] == '\n' && !(i > in->begin && in->buf[i - 1] == '\\')) {
            *at = i;
            return true;
        }
    return false;
}

/* Copies [begin, end) as a line; "\" + newline becomes a newline. */
static lutra_status take(chat_input *in, size_t end, char **line, lutra_err *err)
{
    const size_t n = end - in->begin;
    char *copy = lu_resize(in->line, n + 1);
    if (!copy)
        return lu_fail_nomem(err, n + 1);
    in->line = copy;
    size_t k = 0;
    for (size_t i = in->begin; i < end; i++)
        if (!(in->buf[i] == '\\' && i + 1 < end && in->buf[i + 1] == '\n'))
            copy[k++] = in->buf[i];
    if (k > 0 && copy[k - 1] == '\r')
        k--;
    copy[k] = '\0';
    in->begin = end;
    *line = copy;
    return LUTRA_OK;
}

static void show_prompt(const chat_input *in, const char *prompt)
{
    if (!in->terminal)
        return;
    fputs(prompt, stderr);
    fflush(stderr);
}

chat_event chat_input_line(chat_input *in, const char *prompt, char **line, lutra_err *err)
{
    show_prompt(in, prompt);
    size_t end;
    while (!find_end(in, &end)) {
        if (in->at_end) {
            if (in->begin == in->end)
                return CHAT_END;
            return take(in, in->end, line, err) == LUTRA_OK ? CHAT_LINE : CHAT_FAILED;
        }
        if (make_room(in, err) != LUTRA_OK)
            return CHAT_FAILED;
        if (!interrupt_wait_readable(STDIN_FILENO)) {
            in->begin = in->end; /* the terminal has dropped its part of the line too */
            return CHAT_INTERRUPT;
        }
        const ssize_t got = read(STDIN_FILENO, in->buf + in->end, in->room - in->end);
        if (got < 0 && errno != EINTR) {
            lu_fail_errno(err, errno, "standard input", "read");
            return CHAT_FAILED;
        }
        in->at_end = got == 0;
        in->end += got > 0 ? (size_t)got : 0;
        if (got > 0 && in->buf[in->end - 1] == '\n' && in->end >= 2 && in->buf[in->end - 2] == '\\')
            show_prompt(in, ". ");
    }
    if (take(in, end, line, err) != LUTRA_OK)
        return CHAT_FAILED;
    in->begin = end + 1;
    return CHAT_LINE;
}
