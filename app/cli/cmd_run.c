/* cmd_run.c - lutra run: continues a prompt and streams the text. */
#include <string.h>
#include <unistd.h>

#include "answer.h"
#include "base/mem.h"
#include "cli.h"

typedef struct settings {
    const char *prompt, *file;
    int64_t max_tokens, context;
    cli_list stop;
    bool ignore_eos, raw, echo, json;
    cli_sampling sampling;
    cli_numbers numbers;
} settings;

#define S(field) offsetof(settings, field)

static const cli_option options[] = {
    {"prompt", 'p', CLI_TEXT, "TEXT", S(prompt), 0, 0, NULL, NULL,
     "text to continue; without it the prompt is read from --file or standard input"},
    {"file", 'f', CLI_PATH, "FILE", S(file), 0, 0, NULL, NULL,
     "read the prompt from FILE ('-' = standard input)"},
    {"max-tokens", 'n', CLI_INT, "N", S(max_tokens), 0, 1e12, NULL, "256",
     "stop after N new tokens; 0 = when the context is full"},
    {"stop", 0, CLI_LIST, "TEXT", S(stop), 0, 0, NULL, NULL, "stop before this text"},
    {"ignore-eos", 0, CLI_FLAG, NULL, S(ignore_eos), 0, 0, NULL, NULL,
     "go on past the model's end token"},
    {"raw", 0, CLI_FLAG, NULL, S(raw), 0, 0, NULL, NULL,
     "do not put the begin token (BOS) before the prompt"},
    {"echo", 0, CLI_FLAG, NULL, S(echo), 0, 0, NULL, NULL, "print the prompt before the answer"},
    CLI_SAMPLING_OPTIONS(settings),
    {"context", 'c', CLI_INT, "N", S(context), 0, 1e9, NULL, "0",
     "tokens the KV cache holds; 0 = the model's context"},
    CLI_NUMBERS_OPTIONS(settings),
    {"json", 0, CLI_FLAG, NULL, S(json), 0, 0, NULL, NULL,
     "print one JSON object at the end instead of streaming"},
    {0},
};

static const cli_operand operands[] = {
    {"MODEL", false, NULL, "folder of a model, original or compressed"},
    {0},
};

static void print_json(const cli_call *call, const settings *s, const cli_answer *a)
{
    const lutra_generation_result *r = &a->result;
    json_t *o = json_object(), *ids = json_array();
    for (int64_t i = 0; i < a->n_ids; i++)
        json_array_append_new(ids, json_integer(a->ids[i]));
    json_object_set_new(o, "model", out_string(call->operands[0]));
    json_object_set_new(o, "text", json_stringn(a->text, a->n));
    json_object_set_new(o, "tokens", ids);
    json_object_set_new(o, "finish", json_string(cli_finish_name(a->finish)));
    json_object_set_new(o, "seed", json_integer(s->sampling.seed));
    json_object_set_new(o, "prompt_tokens", json_integer(r->n_prompt));
    json_object_set_new(o, "new_tokens", json_integer(r->n_new));
    json_object_set_new(o, "prompt_seconds", out_real(r->prompt_seconds));
    json_object_set_new(o, "decode_seconds", out_real(r->decode_seconds));
    json_object_set_new(o, "prompt_tokens_per_second",
                        out_real(cli_rate(r->n_prompt, r->prompt_seconds)));
    json_object_set_new(o, "tokens_per_second",
                        out_real(cli_rate(cli_decoded(a), r->decode_seconds)));
    out_json(o);
}

/* The prompt's text: --prompt, --file or standard input. *text is freed with lu_free. */
static lutra_status read_prompt(const settings *s, char **text, size_t *n, lutra_err *err)
{
    if (!s->prompt)
        return cli_read(s->file ? s->file : "-", text, n, err);
    *n = strlen(s->prompt);
    *text = lu_strdup(s->prompt);
    return *text ? LUTRA_OK : lu_fail_nomem(err, *n);
}

static lutra_status check_prompt(const lutra_session *session, int64_t n, lutra_err *err)
{
    const int64_t capacity = lutra_session_capacity(session);
    if (n == 0)
        return lu_fail(err, LUTRA_E_ARG,
                       "the prompt is empty: give some text, or leave out --raw so that "
                       "the answer can follow the begin token");
    if (n > capacity)
        return lu_fail(err, LUTRA_E_LIMIT,
                       "the prompt has %lld tokens, the context holds %lld: shorten it",
                       (long long)n, (long long)capacity);
    return LUTRA_OK;
}

static lutra_status continue_prompt(cli_call *call, const cli_loaded *l,
                                    const lutra_sampling *sampling, const char *text, size_t n,
                                    lutra_err *err)
{
    const settings *s = call->settings;
    cli_question q = {.sampling = *sampling,
                      .max_tokens = s->max_tokens,
                      .ignore_eos = s->ignore_eos,
                      .stops = &s->stop,
                      .show = !s->json};
    cli_answer a = {0};
    int32_t *ids = NULL;
    lutra_status status = lutra_encode(l->tokenizer, text, n, !s->raw, &ids, &q.n, err);
    q.ids = ids;
    if (status == LUTRA_OK)
        status = lutra_session_open(l->model, s->context, &q.session, err);
    if (status == LUTRA_OK)
        status = check_prompt(q.session, q.n, err);
    if (status == LUTRA_OK && s->echo && !s->json)
        out_write(text, n);
    if (status == LUTRA_OK)
        status = cli_generate(l, &q, &a, err);
    if (status == LUTRA_OK) {
        if (s->json)
            print_json(call, s, &a);
        else if (isatty(STDOUT_FILENO) || a.n == 0 || a.text[a.n - 1] != '\n')
            out_printf("\n");
        out_flush();
        cli_note_speed(call, &a);
    }
    cli_answer_free(&a);
    lutra_session_close(q.session);
    lutra_free(ids);
    return status;
}

static int run(cli_call *call)
{
    const settings *s = call->settings;
    lutra_err err = {0};
    lutra_sampling sampling;
    cli_loaded l = {0};
    char *text = NULL;
    size_t n = 0;
    if (s->prompt && s->file)
        return cli_usage(call, "--prompt and --file exclude each other");
    if (!s->prompt && !s->file && isatty(STDIN_FILENO))
        return cli_usage(call,
                         "no prompt: give --prompt TEXT, --file FILE, or text on standard input");
    if (cli_choose_sampling(call, &s->sampling, call->operands[0], &sampling, &err) != LUTRA_OK)
        return err.status == LUTRA_E_ARG ? cli_usage(call, "%s", err.msg) : cli_fail(call, &err);

    lutra_status status = read_prompt(s, &text, &n, &err);
    if (status == LUTRA_OK)
        status = cli_load(call, call->operands[0], &s->numbers, &l, &err);
    if (status == LUTRA_OK)
        status = continue_prompt(call, &l, &sampling, text, n, &err);
    lu_free(text);
    cli_unload(&l);
    return status == LUTRA_OK ? CLI_DONE : cli_fail(call, &err);
}

const cli_command cli_run = {
    .name = "run",
    .summary = "Continue a prompt, printing the text as it comes",
    .about =
        "The choice of tokens is greedy, so the same prompt gives the same text, unless --sample "
        "or\n"
        "--temperature asks for chance. Ctrl-C ends the answer. Speeds go to standard error.\n",
    .examples = "  lutra run llama-8b-nf4 -p 'The otter is'\n"
                "  lutra run llama-8b-nf4 --sample --seed 7 --max-tokens 500 < prompt.txt\n"
                "  lutra run llama-8b-nf4 -p 'Q: What is a lutra?' --stop 'Q:' --stop $'\\n\\n'\n"
                "  lutra run llama-8b-nf4 -p 'One, two,' -n 16 --json\n",
    .operands = operands,
    .options = options,
    .settings_size = sizeof(settings),
    .run = run,
};
