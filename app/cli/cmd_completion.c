/* cmd_completion.c - completion scripts for bash, zsh and fish, made from the option tables. They
   are static text: no shell calls the program while the user types. */
#include <string.h>

#include "cli.h"

typedef void (*option_writer)(const cli_command *command, const cli_option *o);

static void each_option(const cli_command *command, option_writer write)
{
    for (const cli_option *o = command->options; o && o->name; o++)
        write(command, o);
    for (const cli_option *o = cli_global_options; o->name; o++)
        write(command, o);
}

/* --- bash ----------------------------------------------------------------------------------- */

static void bash_word(const cli_command *command, const cli_option *o)
{
    (void)command;
    out_printf(" --%s", o->name);
}

/* One case per option that takes a value: what may follow it. */
static void bash_value(const cli_command *command, const cli_option *o)
{
    char one[64];
    if (o->type == CLI_FLAG)
        return;
    out_printf("    %s:--%s) ", command->name, o->name);
    if (o->choices) {
        out_printf("COMPREPLY=($(compgen -W '");
        for (int i = 0; cli_choice_at(o->choices, i, one, sizeof one); i++)
            out_printf("%s%s", i ? " " : "", one);
        out_printf("' -- \"$cur\"))");
    } else if (o->type == CLI_PATH) {
        out_printf("COMPREPLY=($(compgen -f -- \"$cur\"))");
    } else {
        out_printf("COMPREPLY=()");
    }
    out_printf("; return ;;\n");
}

static void write_bash(void)
{
    out_printf(
        "# bash completion of lutra, made by 'lutra completion bash'\n_lutra() {\n"
        "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} cmd= i\n"
        "  for ((i = 1; i < COMP_CWORD; i++)); do\n"
        "    case ${COMP_WORDS[i]} in -*) ;; *) cmd=${COMP_WORDS[i]}; break ;; esac\n  done\n"
        "  case $cmd:$prev in\n");
    for (int i = 0; cli_commands[i]; i++)
        if (!cli_commands[i]->hidden)
            each_option(cli_commands[i], bash_value);
    out_printf("  esac\n  local words=\n  case $cmd in\n    '') words='help");
    for (int i = 0; cli_commands[i]; i++)
        if (!cli_commands[i]->hidden)
            out_printf(" %s", cli_commands[i]->name);
    for (const cli_option *o = cli_global_options; o->name; o++)
        bash_word(NULL, o);
    out_printf("' ;;\n");
    for (int i = 0; cli_commands[i]; i++) {
        if (cli_commands[i]->hidden)
            continue;
        out_printf("    %s) words='", cli_commands[i]->name);
        each_option(cli_commands[i], bash_word);
        out_printf("' ;;\n");
    }
    out_printf("  esac\n"
               "  if [[ $cur == -* || -z $cmd ]]; then\n"
               "    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
               "  else\n    COMPREPLY=($(compgen -f -- \"$cur\"))\n  fi\n}\n"
               "complete -o filenames -F _lutra lutra\n");
}

/* --- zsh ------------------------------------------------------------------------------------ */

/* Inside '...' of a zsh _arguments spec: quotes, brackets and colons have meanings. */
static void zsh_text(const char *text)
{
    for (; *text; text++) {
        if (*text == '\'')
            out_printf("'\\''");
        else if (strchr("[]:\\", *text))
            out_printf("\\%c", *text);
        else
            out_write(text, 1);
    }
}

static void zsh_option(const cli_command *command, const cli_option *o)
{
    char one[64];
    (void)command;
    out_printf(" \\\n        '%s--%s%s[", o->type == CLI_LIST ? "*" : "", o->name,
               o->type == CLI_FLAG ? "" : "=");
    zsh_text(o->help);
    out_printf("]");
    if (o->type != CLI_FLAG) {
        out_printf(":%s:", o->metavar);
        if (o->type == CLI_PATH)
            out_printf("_files");
        for (int i = 0; o->choices && cli_choice_at(o->choices, i, one, sizeof one); i++)
            out_printf("%s%s", i ? " " : "(", one);
        if (o->choices)
            out_printf(")");
    }
    out_printf("'");
}

static void write_zsh(void)
{
    out_printf(
        "#compdef lutra\n# zsh completion of lutra, made by 'lutra completion zsh'\n_lutra() {\n"
        "  local -a commands\n  commands=(\n");
    for (int i = 0; cli_commands[i]; i++) {
        if (cli_commands[i]->hidden)
            continue;
        out_printf("    '%s:", cli_commands[i]->name);
        zsh_text(cli_commands[i]->summary);
        out_printf("'\n");
    }
    out_printf(
        "  )\n  if (( CURRENT == 2 )); then\n    _describe command commands\n    return\n  fi\n"
        "  case $words[2] in\n");
    for (int i = 0; cli_commands[i]; i++) {
        if (cli_commands[i]->hidden)
            continue;
        out_printf("    %s)\n      shift words; (( CURRENT-- ))\n      _arguments",
                   cli_commands[i]->name);
        each_option(cli_commands[i], zsh_option);
        out_printf(" \\\n        '*:file:_files' ;;\n");
    }
    out_printf("  esac\n}\n_lutra \"$@\"\n");
}

/* --- fish ----------------------------------------------------------------------------------- */

static void fish_text(const char *text)
{
    for (; *text; text++) {
        if (strchr("'\\", *text))
            out_printf("\\");
        out_write(text, 1);
    }
}

static void fish_option(const cli_command *command, const cli_option *o)
{
    char one[64];
    out_printf("complete -c lutra -n '__fish_seen_subcommand_from %s' -l %s", command->name,
               o->name);
    if (o->letter)
        out_printf(" -s %c", o->letter);
    if (o->type == CLI_PATH)
        out_printf(" -r -F");
    else if (o->type != CLI_FLAG)
        out_printf(" -x");
    for (int i = 0; o->choices && cli_choice_at(o->choices, i, one, sizeof one); i++)
        out_printf("%s%s", i ? " " : " -a '", one);
    if (o->choices)
        out_printf("'");
    out_printf(" -d '");
    fish_text(o->help);
    out_printf("'\n");
}

static void write_fish(void)
{
    out_printf("# fish completion of lutra, made by 'lutra completion fish'\n");
    for (int i = 0; cli_commands[i]; i++) {
        if (cli_commands[i]->hidden)
            continue;
        out_printf("complete -c lutra -n __fish_use_subcommand -f -a %s -d '",
                   cli_commands[i]->name);
        fish_text(cli_commands[i]->summary);
        out_printf("'\n");
        each_option(cli_commands[i], fish_option);
    }
}

static int run(cli_call *call)
{
    const char *shell = call->operands[0];
    if (strcmp(shell, "bash") == 0)
        write_bash();
    else if (strcmp(shell, "zsh") == 0)
        write_zsh();
    else
        write_fish();
    return CLI_DONE;
}

static const cli_operand operands[] = {
    {"SHELL", false, "bash|zsh|fish", "whose completion script to write"},
    {0},
};

const cli_command cli_completion = {
    .name = "completion",
    .summary = "Write a shell's completion script",
    .about =
        "Packages install the scripts; by hand: lutra completion bash > FILE, and source it.\n",
    .examples = "  lutra completion fish > ~/.config/fish/completions/lutra.fish\n",
    .operands = operands,
    .hidden = true,
    .run = run,
};
