/* help.c - help texts, laid out from the option tables. */
#include <stdio.h>
#include <string.h>

#include "cli.h"

#define HELP_COLUMN 30 /* where descriptions begin */
#define HELP_WIDTH 88

/* Prints text from the current column `at`, wrapped, continued at HELP_COLUMN. */
static void print_wrapped(const char *text, int at)
{
    if (at + 2 > HELP_COLUMN) {
        out_printf("\n");
        at = 0;
    }
    out_printf("%*s", HELP_COLUMN - at, "");
    at = HELP_COLUMN;
    while (*text) {
        const int word = (int)strcspn(text, " ");
        if (at > HELP_COLUMN && at + 1 + word > HELP_WIDTH) {
            out_printf("\n%*s", HELP_COLUMN, "");
            at = HELP_COLUMN;
        } else if (at > HELP_COLUMN) {
            out_printf(" ");
            at++;
        }
        out_write(text, (size_t)word);
        at += word;
        text += word;
        text += strspn(text, " ");
    }
    out_printf("\n");
}

static void print_option(const cli_option *o)
{
    char left[64], text[512], choices[160] = "", dflt[64] = "";
    if (o->letter)
        snprintf(left, sizeof left, "  -%c, --%s", o->letter, o->name);
    else
        snprintf(left, sizeof left, "      --%s", o->name);
    if (o->metavar) {
        const size_t used = strlen(left);
        snprintf(left + used, sizeof left - used, " %s", o->metavar);
    }
    if (o->choices)
        snprintf(choices, sizeof choices, " (%s)", o->choices);
    if (o->dflt)
        snprintf(dflt, sizeof dflt, " [%s]", o->dflt);
    snprintf(text, sizeof text, "%s%s%s%s", o->help, choices,
             o->type == CLI_LIST ? "; repeatable" : "", dflt);
    out_printf("%s", left);
    print_wrapped(text, (int)strlen(left));
}

static void print_options(const char *title, const cli_option *table)
{
    if (cli_option_count(table) == 0)
        return;
    out_printf("\n%s:\n", title);
    for (const cli_option *o = table; o->name; o++)
        print_option(o);
}

void cli_print_synopsis(const cli_command *command, char *buf, size_t size)
{
    size_t n = (size_t)snprintf(buf, size, "lutra %s", command->name);
    for (const cli_operand *p = command->operands; p && p->name && n < size; p++)
        n += (size_t)snprintf(buf + n, size - n, p->optional ? " [%s]" : " %s", p->name);
    if (n < size)
        snprintf(buf + n, size - n, " [options]");
}

void cli_print_help(const cli_command *command)
{
    char synopsis[160];
    cli_print_synopsis(command, synopsis, sizeof synopsis);
    out_printf("usage: %s\n\n%s.\n", synopsis, command->summary);
    if (command->about)
        out_printf("\n%s", command->about);
    if (cli_operand_count(command->operands) > 0)
        out_printf("\narguments:\n");
    for (const cli_operand *p = command->operands; p && p->name; p++) {
        char text[256];
        snprintf(text, sizeof text, p->choices ? "%s (%s)" : "%s", p->help, p->choices);
        out_printf("  %s", p->name);
        print_wrapped(text, 2 + (int)strlen(p->name));
    }
    print_options("options", command->options);
    print_options("options of every command", cli_global_options);
    if (command->examples)
        out_printf("\nexamples:\n%s", command->examples);
}

void cli_print_overview(void)
{
    out_printf("usage: lutra COMMAND [options]\n\n"
               "Compresses large language models with lookup-table quantization and runs "
               "them.\n\ncommands:\n");
    for (int i = 0; cli_commands[i]; i++)
        if (!cli_commands[i]->hidden)
            out_printf("  %-12s %s\n", cli_commands[i]->name, cli_commands[i]->summary);
    print_options("options of every command", cli_global_options);
    out_printf("\n'lutra COMMAND --help' (or 'lutra help COMMAND') shows a command's options and "
               "examples.\n"
               "Results go to standard output, progress and notes to standard error.\n"
               "Exit status: 0 done, 1 failed, 2 bad usage; Ctrl-C ends the program as the signal "
               "does (130).\n");
}
