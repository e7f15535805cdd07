/* options.c - parses a command line by an option table (options.h). Knows no command: what an
   option means is the command's business, whether its value is well formed is settled here.
   Invariant: settings are filled only through set_value, for defaults and arguments alike. */
#include "options.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli.h"

#define G(field) offsetof(cli_globals, field)

const cli_option cli_global_options[] = {
    {"threads", 't', CLI_INT, "N", G(threads), 0, 1024, NULL, "0",
     "worker threads; 0 = the CPUs this process may use"},
    {"cpu", 0, CLI_CHOICE, "LEVEL", G(cpu), 0, 0, "auto|ref|avx2|avx512", "auto",
     "kernel level; auto = the best this CPU has"},
    {"quiet", 'q', CLI_FLAG, NULL, G(quiet), 0, 0, NULL, NULL,
     "no progress and no notes on standard error"},
    {"verbose", 'v', CLI_FLAG, NULL, G(verbose), 0, 0, NULL, NULL, "say more on standard error"},
    {"help", 'h', CLI_FLAG, NULL, G(help), 0, 0, NULL, NULL, "show help and leave"},
    {"version", 'V', CLI_FLAG, NULL, G(version), 0, 0, NULL, NULL,
     "show the version, the compiler and the CPU levels of this machine"},
    {0},
};

int cli_option_count(const cli_option *table)
{
    int n = 0;
    while (table && table[n].name)
        n++;
    return n;
}

int cli_operand_count(const cli_operand *table)
{
    int n = 0;
    while (table && table[n].name)
        n++;
    return n;
}

bool cli_choice_at(const char *choices, int i, char *buf, size_t size)
{
    const char *p = choices;
    for (; i > 0 && p; i--) {
        p = strchr(p, '|');
        p = p ? p + 1 : NULL;
    }
    if (!p)
        return false;
    const size_t n = strcspn(p, "|");
    snprintf(buf, size, "%.*s", (int)n, p);
    return true;
}

static bool is_choice(const char *choices, const char *text)
{
    char one[64];
    for (int i = 0; cli_choice_at(choices, i, one, sizeof one); i++)
        if (strcmp(one, text) == 0)
            return true;
    return false;
}

/* "a|b|c" -> "a, b or c" */
static const char *list_choices(const char *choices, char *buf, size_t size)
{
    char one[64], next[64];
    size_t n = 0;
    buf[0] = '\0';
    for (int i = 0; n < size && cli_choice_at(choices, i, one, sizeof one); i++) {
        const bool last = !cli_choice_at(choices, i + 1, next, sizeof next);
        n += (size_t)snprintf(buf + n, size - n, "%s%s", i == 0 ? "" : last ? " or " : ", ", one);
    }
    return buf;
}

static lutra_status set_int(const cli_option *o, const char *text, int64_t *out, lutra_err *err)
{
    char *end;
    errno = 0;
    const long long v = strtoll(text, &end, 10);
    if (end == text || *end)
        return lu_fail(err, LUTRA_E_ARG, "--%s: '%.80s' is not a whole number", o->name, text);
    if (errno == ERANGE || (double)v < o->lo || (double)v > o->hi)
        return lu_fail(err, LUTRA_E_ARG, "--%s: %.80s is out of range, expected %.0f to %.0f",
                       o->name, text, o->lo, o->hi);
    *out = v;
    return LUTRA_OK;
}

static lutra_status set_real(const cli_option *o, const char *text, double *out, lutra_err *err)
{
    char *end;
    const double v = strtod(text, &end);
    if (end == text || *end || isnan(v))
        return lu_fail(err, LUTRA_E_ARG, "--%s: '%.80s' is not a number", o->name, text);
    if (v < o->lo || v > o->hi)
        return lu_fail(err, LUTRA_E_ARG, "--%s: %.80s is out of range, expected %g to %g", o->name,
                       text, o->lo, o->hi);
    *out = v;
    return LUTRA_OK;
}

static lutra_status add_to_list(const char *text, cli_list *list, lutra_err *err)
{
    const char **items = lu_resize(list->items, ((size_t)list->n + 1) * sizeof *items);
    if (!items)
        return lu_fail_nomem(err, sizeof *items);
    list->items = items;
    list->items[list->n++] = text;
    return LUTRA_OK;
}

static lutra_status set_value(const cli_option *o, void *settings, const char *text, lutra_err *err)
{
    void *slot = (char *)settings + o->offset;
    char names[256];
    switch (o->type) {
    case CLI_FLAG: *(bool *)slot = true; return LUTRA_OK;
    case CLI_INT: return set_int(o, text, slot, err);
    case CLI_REAL: return set_real(o, text, slot, err);
    case CLI_LIST: return add_to_list(text, slot, err);
    case CLI_CHOICE:
        if (!is_choice(o->choices, text))
            return lu_fail(err, LUTRA_E_ARG, "--%s: unknown value '%.80s', expected %s", o->name,
                           text, list_choices(o->choices, names, sizeof names));
        break;
    case CLI_TEXT:
    case CLI_PATH: break;
    }
    *(const char **)slot = text;
    return LUTRA_OK;
}

static lutra_status set_defaults(const cli_option *table, void *settings, lutra_err *err)
{
    for (const cli_option *o = table; o && o->name; o++)
        if (o->dflt)
            LU_TRY(set_value(o, settings, o->dflt, err));
    return LUTRA_OK;
}

/* Finds an option by "name" of n bytes, or by letter when n is 0. */
static const cli_option *find_in(const cli_option *table, const char *name, size_t n, char letter)
{
    for (const cli_option *o = table; o && o->name; o++) {
        if (n ? strlen(o->name) == n && strncmp(o->name, name, n) == 0
              : o->letter && o->letter == letter)
            return o;
    }
    return NULL;
}

static const cli_option *find(const cli_command *command, const char *name, size_t n, char letter)
{
    const cli_option *o = command ? find_in(command->options, name, n, letter) : NULL;
    return o ? o : find_in(cli_global_options, name, n, letter);
}

static bool is_own(const cli_command *command, const cli_option *o)
{
    return command && command->options && o >= command->options &&
           o < command->options + cli_option_count(command->options);
}

static lutra_status apply(const cli_option *o, const char *text, cli_call *call, lutra_err *err)
{
    if (!is_own(call->command, o))
        return set_value(o, &call->globals, text, err);
    call->given[o - call->command->options] = true;
    return set_value(o, call->settings, text, err);
}

/* Whether `arg` is exactly an option: then it is no value of the option before it. */
static bool looks_like_option(const cli_command *command, const char *arg)
{
    return strncmp(arg, "--", 2) == 0 && arg[2] && find(command, arg + 2, strlen(arg + 2), 0);
}

static lutra_status parse_long(cli_call *call, int argc, char **argv, int *i, lutra_err *err)
{
    const char *name = argv[*i] + 2;
    const size_t n = strcspn(name, "=");
    const char *value = name[n] ? name + n + 1 : NULL;
    const cli_option *o = n ? find(call->command, name, n, 0) : NULL;
    if (!o) {
        char near[160], bare[80];
        snprintf(bare, sizeof bare, "%.*s", (int)(n < 79 ? n : 79), name);
        return lu_fail(err, LUTRA_E_ARG, "unknown option '--%s'%s", bare,
                       cli_near_options(call->command, bare, near, sizeof near));
    }
    if (o->type == CLI_FLAG && value)
        return lu_fail(err, LUTRA_E_ARG, "--%s: takes no value", o->name);
    if (o->type != CLI_FLAG && !value) {
        if (*i + 1 >= argc || looks_like_option(call->command, argv[*i + 1]))
            return lu_fail(err, LUTRA_E_ARG, "--%s: needs a value: --%s=%s", o->name, o->name,
                           o->metavar);
        value = argv[++*i];
    }
    return apply(o, value, call, err);
}

/* "-q", "-qv", "-pTEXT", "-p TEXT" */
static lutra_status parse_short(cli_call *call, int argc, char **argv, int *i, lutra_err *err)
{
    for (const char *p = argv[*i] + 1; *p; p++) {
        const cli_option *o = find(call->command, "", 0, *p);
        if (!o)
            return lu_fail(err, LUTRA_E_ARG, "unknown option '-%c' in '%.80s'", *p, argv[*i]);
        if (o->type == CLI_FLAG) {
            LU_TRY(apply(o, NULL, call, err));
            continue;
        }
        if (!p[1] && *i + 1 >= argc)
            return lu_fail(err, LUTRA_E_ARG, "-%c: needs a value: -%c %s", *p, *p, o->metavar);
        return apply(o, p[1] ? p + 1 : argv[++*i], call, err);
    }
    return LUTRA_OK;
}

static lutra_status check_operands(const cli_call *call, lutra_err *err)
{
    const cli_operand *table = call->command->operands;
    const int most = cli_operand_count(table);
    for (int i = call->n_operands; i < most; i++)
        if (!table[i].optional)
            return lu_fail(err, LUTRA_E_ARG, "%s: %s is missing (%s)", call->command->name,
                           table[i].name, table[i].help);
    if (call->n_operands > most)
        return lu_fail(err, LUTRA_E_ARG,
                       "%s: '%.80s' is one argument too many, expected at most %d",
                       call->command->name, call->operands[most], most);
    for (int i = 0; i < call->n_operands; i++) {
        char names[256];
        if (table[i].choices && !is_choice(table[i].choices, call->operands[i]))
            return lu_fail(err, LUTRA_E_ARG, "%s: unknown %s '%.80s', expected %s",
                           call->command->name, table[i].name, call->operands[i],
                           list_choices(table[i].choices, names, sizeof names));
    }
    return LUTRA_OK;
}

static lutra_status parse_all(cli_call *call, int argc, char **argv, int *used, lutra_err *err)
{
    const cli_command *command = call->command;
    bool options = true;
    int i = 0;
    for (; i < argc; i++) {
        const char *arg = argv[i];
        if (options && strcmp(arg, "--") == 0)
            options = false;
        else if (options && strncmp(arg, "--", 2) == 0)
            LU_TRY(parse_long(call, argc, argv, &i, err));
        else if (options && arg[0] == '-' && arg[1])
            LU_TRY(parse_short(call, argc, argv, &i, err));
        else if (!command)
            break; /* the command's name */
        else
            call->operands[call->n_operands++] = argv[i];
    }
    *used = i;
    return command && !call->globals.help && !call->globals.version ? check_operands(call, err)
                                                                    : LUTRA_OK;
}

lutra_status cli_parse(const cli_command *command, int argc, char **argv, int *used, cli_call *call,
                       lutra_err *err)
{
    const cli_globals globals = call->globals; /* given before the command's name */
    cli_call c = {.command = command, .globals = globals, .progress = call->progress};
    c.settings = lu_calloc(1, command && command->settings_size ? command->settings_size : 1);
    c.operands = lu_calloc((size_t)argc + 1, sizeof *c.operands);
    lutra_status status = c.settings && c.operands ? LUTRA_OK : lu_fail_nomem(err, (size_t)argc);
    if (status == LUTRA_OK && !command)
        status = set_defaults(cli_global_options, &c.globals, err);
    if (status == LUTRA_OK && command)
        status = set_defaults(command->options, c.settings, err);
    if (status == LUTRA_OK)
        status = parse_all(&c, argc, argv, used, err);
    if (status != LUTRA_OK) {
        cli_call_free(&c);
        return status;
    }
    *call = c;
    return LUTRA_OK;
}

void cli_call_free(cli_call *call)
{
    for (const cli_option *o = call->command ? call->command->options : NULL; o && o->name; o++)
        if (o->type == CLI_LIST && call->settings)
            lu_free(((cli_list *)((char *)call->settings + o->offset))->items);
    lu_free(call->settings);
    lu_free(call->operands);
    call->settings = NULL;
    call->operands = NULL;
}

bool cli_given(const cli_call *call, const char *name)
{
    const cli_option *o = find_in(call->command->options, name, strlen(name), 0);
    return o && call->given[o - call->command->options];
}
