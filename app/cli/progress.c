/* progress.c - renders progress events on stderr. Each redraw is one write of a whole line (return
   to column 0, text, clear to the end), so nothing flickers. The rate is the mean since the stage
   began, not counting what was finished before; ETA follows from it. */
#include "progress.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/context.h"
#include "cli.h"

#define REDRAW_SECONDS 0.1 /* terminal: smooth enough for the eye */
#define LINE_SECONDS 5.0   /* log files: a line now and then */
#define SETTLE_SECONDS 0.5 /* no rate or ETA from less */
#define BAR_CELLS 20

void progress_init(progress *p, bool quiet)
{
    memset(p, 0, sizeof *p);
    p->quiet = quiet;
    p->terminal = isatty(STDERR_FILENO) != 0;
}

static int terminal_width(void)
{
    struct winsize w;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col >= 20)
        return w.ws_col;
    return 80;
}

static const char *amount(double count, const char *unit, char *buf, size_t size)
{
    if (unit && strcmp(unit, "bytes") == 0)
        return human_bytes(count, buf, size);
    snprintf(buf, size, count < 10 && count != (double)(int64_t)count ? "%.1f" : "%.0f", count);
    return buf;
}

/* Appends to buf[*n]; cuts at size. */
static void append(char *buf, size_t size, size_t *n, const char *text)
{
    const size_t len = strlen(text), room = size - 1 - *n;
    const size_t take = len < room ? len : room;
    memcpy(buf + *n, text, take);
    *n += take;
    buf[*n] = '\0';
}

const char *progress_line(const progress *p, const lutra_progress *e, double now, int width,
                          char *buf, size_t size)
{
    const double seconds = now - p->began, moved = (double)(e->done - p->base);
    const double rate = seconds >= SETTLE_SECONDS ? moved / seconds : 0;
    const bool bytes = e->unit && strcmp(e->unit, "bytes") == 0;
    char part[160], a[32], b[32];
    size_t n = 0;
    const size_t limit = (size_t)width + 1 < size ? (size_t)width + 1 : size;

    buf[0] = '\0';
    append(buf, limit, &n, e->stage ? e->stage : "working");
    if (e->total > 0) {
        double share = (double)e->done / (double)e->total;
        share = share < 0 ? 0 : share > 1 ? 1 : share;
        if (p->terminal) {
            char bar[BAR_CELLS + 1];
            for (int i = 0; i < BAR_CELLS; i++)
                bar[i] = i < (int)(share * BAR_CELLS) ? '#' : '-';
            bar[BAR_CELLS] = '\0';
            snprintf(part, sizeof part, " [%s]", bar);
            append(buf, limit, &n, part);
        }
        snprintf(part, sizeof part, " %3d%% %s/%s", (int)(share * 100),
                 amount((double)e->done, e->unit, a, sizeof a),
                 amount((double)e->total, e->unit, b, sizeof b));
    } else {
        snprintf(part, sizeof part, " %s", amount((double)e->done, e->unit, a, sizeof a));
    }
    append(buf, limit, &n, part);
    if (!bytes && e->unit) {
        append(buf, limit, &n, " ");
        append(buf, limit, &n, e->unit);
    }
    if (rate > 0) {
        snprintf(part, sizeof part, " %s/s", amount(rate, e->unit, a, sizeof a));
        append(buf, limit, &n, part);
        if (e->total > e->done) {
            snprintf(part, sizeof part, " ETA %s",
                     human_time((double)(e->total - e->done) / rate, a, sizeof a));
            append(buf, limit, &n, part);
        }
    }
    if (e->item && *e->item) {
        append(buf, limit, &n, " ");
        append(buf, limit, &n, e->item);
    }
    return buf;
}

static void draw(progress *p, const lutra_progress *e, double now)
{
    char line[512], whole[600];
    progress_line(p, e, now, p->terminal ? terminal_width() - 1 : 200, line, sizeof line);
    const int n = snprintf(whole, sizeof whole, p->terminal ? "\r%s\x1b[K" : "%s\n", line);
    fwrite(whole, 1, (size_t)n, stderr);
    fflush(stderr);
    p->shown = p->terminal;
    p->drawn = now;
}

void progress_update(void *user, const lutra_progress *e)
{
    progress *p = user;
    if (p->quiet)
        return;
    const double now = lu_seconds();
    const char *stage = e->stage ? e->stage : "working";
    if (strncmp(p->stage, stage, sizeof p->stage - 1) != 0 || e->done < p->base) {
        snprintf(p->stage, sizeof p->stage, "%s", stage);
        p->began = now;
        p->drawn = p->terminal ? 0 : now; /* a bar shows at once, a line has something to tell */
        p->base = e->done;
    }
    if (now - p->drawn >= (p->terminal ? REDRAW_SECONDS : LINE_SECONDS))
        draw(p, e, now);
}

void progress_clear(progress *p)
{
    if (!p || !p->shown)
        return;
    fputs("\r\x1b[K", stderr);
    fflush(stderr);
    p->shown = false;
}
