/* commands.c - the list of commands, and near names for what is not in it. */
#include <string.h>

#include "base/near.h"
#include "cli.h"

const cli_command *const cli_commands[] = {
    &cli_quantize, &cli_eval, &cli_run, &cli_chat, &cli_inspect, &cli_completion, &cli_man, NULL,
};

const cli_command *cli_find_command(const char *name)
{
    for (int i = 0; cli_commands[i]; i++)
        if (strcmp(cli_commands[i]->name, name) == 0)
            return cli_commands[i];
    return NULL;
}

static const char *command_at(const void *list, int i)
{
    (void)list;
    for (int k = 0; cli_commands[k]; k++)
        if (!cli_commands[k]->hidden && i-- == 0)
            return cli_commands[k]->name;
    return NULL;
}

/* The command's own options, then the global ones. */
static const char *option_at(const void *list, int i)
{
    const cli_command *command = list;
    const int own = command ? cli_option_count(command->options) : 0;
    if (i < own)
        return command->options[i].name;
    return i - own < cli_option_count(cli_global_options) ? cli_global_options[i - own].name : NULL;
}

const char *cli_near_commands(const char *name, char *buf, size_t size)
{
    char names[128];
    buf[0] = '\0';
    if (lu_near(name, command_at, NULL, names, sizeof names) > 0)
        snprintf(buf, size, ", near: %s", names);
    return buf;
}

const char *cli_near_options(const cli_command *command, const char *name, char *buf, size_t size)
{
    char names[128];
    buf[0] = '\0';
    if (lu_near(name, option_at, command, names, sizeof names) == 0)
        return buf;
    size_t n = (size_t)snprintf(buf, size, ", near:");
    for (const char *p = names; *p && n < size; p += strspn(p, ", ")) {
        const size_t word = strcspn(p, ",");
        n += (size_t)snprintf(buf + n, size - n, "%s --%.*s", p == names ? "" : ",", (int)word, p);
        p += word;
    }
    return buf;
}
