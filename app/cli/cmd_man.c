/* cmd_man.c - the manual page lutra(1), made from the option tables (man-pages macros of roff). */
#include <string.h>

#include "cli.h"

/* Running text: backslashes, minus signs and leading dots mean something to roff. */
static void roff(const char *text)
{
    bool line_start = true;
    for (; *text; text++) {
        if (line_start && (*text == '.' || *text == '\''))
            out_printf("\\&");
        if (*text == '\\')
            out_printf("\\e");
        else if (*text == '-')
            out_printf("\\-");
        else
            out_write(text, 1);
        line_start = *text == '\n';
    }
}

/* Text with line breaks kept as they are. */
static void roff_lines(const char *text)
{
    out_printf(".nf\n");
    roff(text);
    out_printf(".fi\n");
}

static void write_option(const cli_option *o)
{
    out_printf(".TP\n");
    if (o->letter)
        out_printf("\\fB\\-%c\\fR, ", o->letter);
    out_printf("\\fB\\-\\-");
    roff(o->name);
    out_printf("\\fR");
    if (o->metavar)
        out_printf(" \\fI%s\\fR", o->metavar);
    out_printf("\n");
    roff(o->help);
    if (o->choices) {
        out_printf(" (");
        roff(o->choices);
        out_printf(")");
    }
    if (o->type == CLI_LIST)
        out_printf("; repeatable");
    if (o->dflt) {
        out_printf(" [");
        roff(o->dflt);
        out_printf("]");
    }
    out_printf("\n");
}

static void write_command(const cli_command *c)
{
    char synopsis[160];
    cli_print_synopsis(c, synopsis, sizeof synopsis);
    out_printf(".SS \"");
    roff(synopsis);
    out_printf("\"\n");
    roff(c->summary);
    out_printf(".\n");
    if (c->about) {
        out_printf(".PP\n");
        roff_lines(c->about);
    }
    for (const cli_operand *p = c->operands; p && p->name; p++) {
        out_printf(".TP\n\\fI%s\\fR\n", p->name);
        roff(p->help);
        out_printf("\n");
    }
    for (const cli_option *o = c->options; o && o->name; o++)
        write_option(o);
    if (c->examples) {
        out_printf(".PP\nExamples:\n.PP\n");
        roff_lines(c->examples);
    }
}

static int run(cli_call *call)
{
    (void)call;
    out_printf(".TH LUTRA 1 \"\" \"lutra " LUTRA_VERSION "\" \"User Commands\"\n.SH NAME\n"
               "lutra \\- compress large language models with lookup tables and run them\n"
               ".SH SYNOPSIS\n\\fBlutra\\fR \\fICOMMAND\\fR [options]\n.SH COMMANDS\n");
    for (int i = 0; cli_commands[i]; i++)
        if (!cli_commands[i]->hidden)
            write_command(cli_commands[i]);
    out_printf(".SH OPTIONS OF EVERY COMMAND\n");
    for (const cli_option *o = cli_global_options; o->name; o++)
        write_option(o);
    out_printf(".SH EXIT STATUS\n0 done, 1 failed, 2 bad usage. Interrupted by Ctrl\\-C, the "
               "program ends by "
               "that signal (130 in a shell).\n");
    return CLI_DONE;
}

const cli_command cli_man = {
    .name = "man",
    .summary = "Write the manual page",
    .examples = "  lutra man > lutra.1\n",
    .hidden = true,
    .run = run,
};
