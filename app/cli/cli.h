/* cli.h - what every command uses: the list of commands, exit codes, contexts, messages, output. */
#ifndef LUTRA_CLI_CLI_H
#define LUTRA_CLI_CLI_H

#include <jansson.h>

#include "lutra/lutra.h"
#include "options.h"
#include "progress.h"

enum { CLI_DONE = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

extern const cli_command *const cli_commands[];        /* NULL-terminated */
const cli_command *cli_find_command(const char *name); /* NULL: none */

extern const cli_command cli_quantize, cli_eval, cli_run, cli_chat, cli_inspect, cli_completion,
    cli_man;

/* "near" names for messages: ", did you mean 'a' or 'b'?" or nothing. Returns buf. */
const char *cli_near_commands(const char *name, char *buf, size_t size);
const char *cli_near_options(const cli_command *command, const char *name, char *buf, size_t size);

/* Opens a context with the call's global options, progress and cancellation wired in. */
lutra_status cli_open(cli_call *call, lutra_ctx **out, lutra_err *err);

/* "lutra: MESSAGE" on stderr, the progress line cleared first. They return the exit status. */
int cli_fail(cli_call *call, const lutra_err *err);
int cli_usage(const cli_call *call, const char *fmt, ...) LUTRA_PRINTF(2, 3);
void cli_note(cli_call *call, const char *fmt, ...) LUTRA_PRINTF(2, 3); /* silent with --quiet */

/* --- results on stdout (output.c): after a failed write the rest is dropped and out_close says so
 */
void out_printf(const char *fmt, ...) LUTRA_PRINTF(1, 2);
void out_write(const char *text, size_t n);
void out_flush(void);
bool out_broken(void); /* a write has failed: no use to go on */
/* One object or array and a newline; takes the reference. Numbers that JSON cannot hold are null.
 */
void out_json(json_t *value);
json_t *out_real(double v);
/* Flushes; a failed write turns `status` into CLI_FAILED with a message (none for a closed pipe).
 */
int out_close(int status);

/* Sizes and times for people: "12.3 MB", "1:02:03". Return buf. */
const char *human_bytes(double bytes, char *buf, size_t size);
const char *human_time(double seconds, char *buf, size_t size);

/* --- reading what a user names (input.c) */
/* A whole file, or standard input for "-". *data gets a NUL appended and is freed with lu_free. */
lutra_status cli_read(const char *path, char **data, size_t *n, lutra_err *err);

/* --- help and man (help.c) */
void cli_print_overview(void);
void cli_print_help(const cli_command *command);
void cli_print_synopsis(const cli_command *command, char *buf, size_t size);

#endif
