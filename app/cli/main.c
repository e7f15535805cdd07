/* main.c - finds the command, parses its options, runs it, sees that results were written. */
#include <locale.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "interrupt.h"

static int usage_failure(const cli_command *command, const lutra_err *err)
{
    const cli_call named = {.command = command};
    if (err->status != LUTRA_E_ARG) {
        fprintf(stderr, "lutra: %s\n", err->msg);
        return CLI_FAILED;
    }
    return cli_usage(&named, "%s", err->msg);
}

/* A level is there if a small product can be computed with it. */
static bool level_works(const char *level)
{
    static const float w[64] = {1}, x[64] = {1};
    float y = 0;
    lutra_ctx *ctx = NULL;
    lutra_qmatrix q = {0};
    lutra_linear *lin = NULL;
    lutra_format f;
    lutra_options o;
    lutra_options_init(&o);
    o.n_threads = 1;
    o.cpu = level;
    const bool works =
        lutra_format_parse("nf4:g64", &f, NULL) == LUTRA_OK &&
        lutra_open(&o, &ctx, NULL) == LUTRA_OK &&
        lutra_quantize_matrix(ctx, &f, LUTRA_RANGE_MINMAX,
                              &(lutra_matrix){.n = 1, .k = 64, .w = w, .dtype = LUTRA_F32}, &q,
                              NULL) == LUTRA_OK &&
        lutra_linear_open(ctx, &q, NULL, LUTRA_F32, &lin, NULL) == LUTRA_OK &&
        lutra_linear_multiply(ctx, lin, 1, x, &y, NULL) == LUTRA_OK && y == 1;
    lutra_linear_close(lin);
    lutra_qmatrix_free(&q);
    lutra_close(ctx);
    return works;
}

static void print_version(void)
{
    static const char *const levels[] = {"ref", "avx2", "avx512"};
    out_printf("%s\ncpu levels here:", lutra_version());
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++)
        if (level_works(levels[i]))
            out_printf(" %s", levels[i]);
    char gpus[4096];
    out_printf("\ngpu: ");
    for (const char *p = lutra_gpu_list(gpus, sizeof gpus); *p; p++)
        out_printf(*p == '\n' ? "\n     " : "%c", *p);
    out_printf("\n");
}

/* lutra help [COMMAND] */
static int help(int argc, char **argv)
{
    if (argc == 0) {
        cli_print_overview();
        return CLI_DONE;
    }
    const cli_command *command = cli_find_command(argv[0]);
    char near[160];
    if (!command)
        return cli_usage(NULL, "unknown command '%.80s'%s", argv[0],
                         cli_near_commands(argv[0], near, sizeof near));
    cli_print_help(command);
    return CLI_DONE;
}

static int dispatch(int argc, char **argv)
{
    lutra_err err = {0};
    progress bar;
    cli_call call = {.progress = &bar};
    int used = 0;
    if (cli_parse(NULL, argc - 1, argv + 1, &used, &call, &err) != LUTRA_OK)
        return usage_failure(NULL, &err);
    cli_call_free(&call);
    argc -= used + 1;
    argv += used + 1;
    if (call.globals.version || call.globals.help) {
        if (call.globals.version)
            print_version();
        else
            return help(argc, argv);
        return CLI_DONE;
    }
    if (argc <= 0)
        return cli_usage(NULL, "no command given");
    if (strcmp(argv[0], "help") == 0)
        return help(argc - 1, argv + 1);
    const cli_command *command = cli_find_command(argv[0]);
    char near[160];
    if (!command)
        return cli_usage(NULL, "unknown command '%.80s'%s", argv[0],
                         cli_near_commands(argv[0], near, sizeof near));
    if (cli_parse(command, argc - 1, argv + 1, &used, &call, &err) != LUTRA_OK)
        return usage_failure(command, &err);
    int status = CLI_DONE;
    progress_init(&bar, call.globals.quiet);
    if (call.globals.help)
        cli_print_help(command);
    else if (call.globals.version)
        print_version();
    else
        status = command->run(&call);
    progress_clear(&bar);
    cli_call_free(&call);
    return status;
}

int main(int argc, char **argv)
{
    setlocale(LC_CTYPE, "");
    interrupt_install(true);
    const int status = out_close(dispatch(argc, argv));
    interrupt_die();
    return status;
}
