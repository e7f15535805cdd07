/* progress.h - shows the library's progress events: a bar with rate and ETA on a terminal, a plain
   line every few seconds elsewhere. */
#ifndef LUTRA_CLI_PROGRESS_H
#define LUTRA_CLI_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>

#include "lutra/base.h"

typedef struct progress {
    bool quiet, terminal;
    bool shown;     /* a bar stands on the current line */
    char stage[32]; /* what is being counted */
    double began;   /* seconds, first event of the stage */
    double drawn;   /* seconds, last time something was shown */
    int64_t base;   /* count at the first event: work found finished is no speed */
} progress;

void progress_init(progress *p, bool quiet);

/* The lutra_options.progress callback; user is the progress. */
void progress_update(void *user, const lutra_progress *event);

/* Removes the bar, so that other text can be written. */
void progress_clear(progress *p);

/* One line of at most `width` columns: for the terminal with a bar, else without. Returns buf. */
const char *progress_line(const progress *p, const lutra_progress *event, double now, int width,
                          char *buf, size_t size);

#endif
