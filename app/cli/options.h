/* options.h - commands and options as tables. One row per option drives parsing, --help, shell
   completion and the man page, so they cannot disagree (tests/cli/test_help.sh checks it anyway).
   A row says where its value goes: an offset into the command's settings struct. Defaults are
   text and go through the same parser as what a user types. */
#ifndef LUTRA_CLI_OPTIONS_H
#define LUTRA_CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lutra/base.h"

typedef enum cli_type {
    CLI_FLAG,   /* bool: true when given */
    CLI_INT,    /* int64_t in [lo, hi] */
    CLI_REAL,   /* double in [lo, hi] */
    CLI_TEXT,   /* const char * */
    CLI_PATH,   /* const char *, completed as a file */
    CLI_CHOICE, /* const char *, one of `choices` */
    CLI_LIST,   /* cli_list, repeatable */
} cli_type;

typedef struct cli_list {
    const char **items; /* owned by the parsed call */
    int n;
} cli_list;

typedef struct cli_option {
    const char *name; /* without the dashes; NULL ends a table */
    char letter;      /* short form, 0 = none */
    cli_type type;
    const char *metavar; /* NULL for flags */
    size_t offset;       /* of the value in the settings struct */
    double lo, hi;       /* CLI_INT, CLI_REAL */
    const char *choices; /* CLI_CHOICE: "a|b|c" */
    const char *dflt;    /* NULL = false, 0, NULL, empty */
    const char *help;
} cli_option;

typedef struct cli_operand {
    const char *name; /* NULL ends a table */
    bool optional;
    const char *choices; /* "a|b|c", or NULL for a path or free text */
    const char *help;
} cli_operand;

struct cli_call;

typedef struct cli_command {
    const char *name;
    const char *summary;  /* one line */
    const char *about;    /* paragraphs, wrapped by hand at 80 columns */
    const char *examples; /* lines */
    const cli_operand *operands;
    const cli_option *options;
    size_t settings_size;
    bool hidden;                       /* left out of the list of commands */
    int (*run)(struct cli_call *call); /* returns the exit status */
} cli_command;

typedef struct cli_globals {
    int64_t threads;
    const char *cpu;
    bool quiet, verbose, help, version;
} cli_globals;

extern const cli_option cli_global_options[];

/* What a command line said. Settings, lists and operands live until cli_call_free. */
#define CLI_MAX_OPTIONS 40
typedef struct cli_call {
    const cli_command *command;
    cli_globals globals;
    void *settings;
    char **operands;
    int n_operands;
    bool given[CLI_MAX_OPTIONS]; /* per row of command->options */
    struct progress *progress;
} cli_call;

/* Parses argv[0..argc) for `command`; NULL parses the options before the command's name and stops
   there (*used tells where). Global options are known everywhere. E_ARG: bad usage, message in err.
   With --help the operands are not counted. On failure nothing is left to free. */
lutra_status cli_parse(const cli_command *command, int argc, char **argv, int *used, cli_call *call,
                       lutra_err *err);
void cli_call_free(cli_call *call);

/* Whether the user gave the option (rather than its default standing). */
bool cli_given(const cli_call *call, const char *name);

int cli_option_count(const cli_option *table);
int cli_operand_count(const cli_operand *table);

/* The i-th of the choices "a|b|c", copied to buf; false past the end. */
bool cli_choice_at(const char *choices, int i, char *buf, size_t size);

#endif
