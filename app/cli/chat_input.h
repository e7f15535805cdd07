/* chat_input.h - lines typed by a user, or coming through a pipe. */
#ifndef LUTRA_CLI_CHAT_INPUT_H
#define LUTRA_CLI_CHAT_INPUT_H

#include "cli.h"

typedef struct chat_input {
    char *buf; /* bytes read and not yet given out: [begin, end) */
    size_t begin, end, room;
    bool at_end, terminal;
    char *line; /* the last line given out */
} chat_input;

typedef enum chat_event { CHAT_LINE, CHAT_END, CHAT_INTERRUPT, CHAT_FAILED } chat_event;

void chat_input_open(chat_input *in);
void chat_input_close(chat_input *in);

/* Waits for a line of standard input; *line (without its newline) is valid until the next call. A
   line that ends in a backslash goes on in the next. CHAT_FAILED: read error or out of memory. */
chat_event chat_input_line(chat_input *in, const char *prompt, char **line, lutra_err *err);

#endif
