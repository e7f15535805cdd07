/* cmd_chat.c - lutra chat: a conversation in the terminal, with the model's chat template. Reads
   turns (chat_input.c), keeps them (chat_history.c), streams answers (answer.c). */
#include <string.h>

#include "answer.h"
#include "base/mem.h"
#include "base/near.h"
#include "chat_history.h"
#include "chat_input.h"
#include "interrupt.h"

typedef struct settings {
    const char *system;
    int64_t max_tokens, context;
    cli_list stop;
    cli_sampling sampling;
    cli_numbers numbers;
} settings;

#define S(field) offsetof(settings, field)

static const cli_option options[] = {
    {"system", 0, CLI_TEXT, "TEXT", S(system), 0, 0, NULL, NULL,
     "system prompt: what the model is to be"},
    {"max-tokens", 'n', CLI_INT, "N", S(max_tokens), 0, 1e12, NULL, "512",
     "longest answer in tokens; 0 = until the context is full"},
    {"stop", 0, CLI_LIST, "TEXT", S(stop), 0, 0, NULL, NULL, "end the answer before this text"},
    CLI_SAMPLING_OPTIONS(settings),
    {"context", 'c', CLI_INT, "N", S(context), 0, 1e9, NULL, "0",
     "tokens the KV cache holds; 0 = the model's context"},
    CLI_NUMBERS_OPTIONS(settings),
    {0},
};

static const cli_operand operands[] = {
    {"MODEL", false, NULL, "folder of a model, original or compressed"},
    {0},
};

typedef struct chat {
    cli_call *call;
    const settings *s;
    cli_loaded loaded;
    lutra_session *session;
    lutra_sampling sampling;
    chat_history history;
    chat_input input;
    bool leave;
} chat;

/* --- commands at the prompt ----------------------------------------------------------------- */

static void do_help(chat *c, const char *rest);

static void do_reset(chat *c, const char *rest)
{
    (void)rest;
    chat_history_clear(&c->history);
    cli_note(c->call, "the conversation begins anew");
}

static void do_save(chat *c, const char *rest)
{
    lutra_err err = {0};
    if (!*rest)
        fprintf(stderr, "/save: give a file name\n");
    else if (chat_history_save(&c->history, rest, &err) != LUTRA_OK)
        fprintf(stderr, "/save: %s\n", err.msg);
    else
        cli_note(c->call, "saved %d messages to %s", c->history.n, rest);
}

static void do_exit(chat *c, const char *rest)
{
    (void)rest;
    c->leave = true;
}

static const struct {
    const char *name, *help;
    void (*run)(chat *c, const char *rest);
} slash_commands[] = {
    {"/help", "show this", do_help},
    {"/reset", "forget the conversation (not the system prompt)", do_reset},
    {"/save", "FILE: write the conversation as JSON", do_save},
    {"/exit", "leave (also Ctrl-D)", do_exit},
};
#define N_SLASH (int)(sizeof slash_commands / sizeof *slash_commands)

static void do_help(chat *c, const char *rest)
{
    (void)c;
    (void)rest;
    for (int i = 0; i < N_SLASH; i++)
        fprintf(stderr, "  %-8s %s\n", slash_commands[i].name, slash_commands[i].help);
    fprintf(
        stderr,
        "A line ending in \\ goes on in the next. //text sends /text. Ctrl-C stops an answer.\n");
}

static const char *slash_at(const void *list, int i)
{
    (void)list;
    return i < N_SLASH ? slash_commands[i].name : NULL;
}

static void run_slash(chat *c, const char *line)
{
    const size_t n = strcspn(line, " \t");
    for (int i = 0; i < N_SLASH; i++)
        if (strlen(slash_commands[i].name) == n && strncmp(line, slash_commands[i].name, n) == 0) {
            slash_commands[i].run(c, line + n + strspn(line + n, " \t"));
            return;
        }
    char near[64], word[32];
    snprintf(word, sizeof word, "%.*s", (int)n, line);
    if (lu_near(word, slash_at, NULL, near, sizeof near) > 0)
        fprintf(stderr, "unknown command %s, near: %s\n", word, near);
    else
        fprintf(stderr, "unknown command %s, /help lists them\n", word);
}

/* --- turns ---------------------------------------------------------------------------------- */

/* Encodes the conversation, dropping the oldest turns until it fits with room for an answer: a
   quarter of the context, or less if --max-tokens asks for less. */
static lutra_status fit(chat *c, int32_t **ids, int64_t *n, lutra_err *err)
{
    const int64_t capacity = lutra_session_capacity(c->session);
    int64_t room = capacity / 4;
    if (c->s->max_tokens > 0 && c->s->max_tokens < room)
        room = c->s->max_tokens;
    int dropped = 0;
    LU_TRY(chat_history_encode(&c->history, c->loaded.tokenizer, ids, n, err));
    while (*n + room > capacity && chat_history_drop_oldest(&c->history)) {
        dropped++;
        lutra_free(*ids);
        *ids = NULL;
        LU_TRY(chat_history_encode(&c->history, c->loaded.tokenizer, ids, n, err));
    }
    if (dropped > 0)
        cli_note(c->call,
                 "(the context of %lld tokens is full: the oldest %d turn%s left out from here on)",
                 (long long)capacity, dropped, dropped == 1 ? " is" : "s are");
    if (*n < 1 || *n >= capacity)
        return lu_fail(err, LUTRA_E_LIMIT,
                       "the message has %lld tokens, the context holds %lld: shorten it",
                       (long long)*n, (long long)capacity);
    return LUTRA_OK;
}

static lutra_status answer(chat *c, const int32_t *ids, int64_t n, lutra_err *err)
{
    int64_t common = 0;
    cli_answer a = {0};
    LU_TRY(chat_history_rewind(&c->history, c->session, ids, n, &common, err));
    const cli_question q = {.session = c->session,
                            .ids = ids + common,
                            .n = n - common,
                            .sampling = c->sampling,
                            .max_tokens = c->s->max_tokens,
                            .stops = &c->s->stop,
                            .show = true};
    c->sampling.seed++; /* the next turn draws anew */
    lutra_status status = cli_generate(&c->loaded, &q, &a, err);
    if (status == LUTRA_OK) {
        out_printf("\n");
        out_flush();
        status = chat_history_fed(&c->history, c->session, ids, n, a.ids, a.n_ids, err);
    }
    if (status == LUTRA_OK)
        status = chat_history_add(&c->history, "assistant", a.text, err);
    if (status == LUTRA_OK && a.finish == CLI_ANSWER_INTERRUPTED)
        cli_note(c->call, "(stopped)");
    else if (status == LUTRA_OK && a.finish == CLI_ANSWER_LENGTH)
        cli_note(c->call, lutra_session_length(c->session) + 1 >= lutra_session_capacity(c->session)
                              ? "(cut: the context is full; the oldest turns will be left out)"
                              : "(cut at --max-tokens)");
    if (status == LUTRA_OK && c->call->globals.verbose)
        cli_note_speed(c->call, &a);
    cli_answer_free(&a);
    return status;
}

/* One turn of the user. A failure that only this message causes is told and the chat goes on. */
static lutra_status turn(chat *c, const char *text, lutra_err *err)
{
    int32_t *ids = NULL;
    int64_t n = 0;
    LU_TRY(chat_history_add(&c->history, "user", text, err));
    interrupt_clear();
    lutra_status status = fit(c, &ids, &n, err);
    if (status == LUTRA_OK)
        status = answer(c, ids, n, err);
    lutra_free(ids);
    if (status != LUTRA_E_LIMIT && status != LUTRA_E_ARG)
        return status;
    chat_history_drop_last(&c->history);
    fprintf(stderr, "lutra: %s\n", err->msg);
    return LUTRA_OK;
}

static lutra_status converse(chat *c, lutra_err *err)
{
    bool warned = false; /* by one Ctrl-C at the prompt */
    while (!c->leave && !out_broken() && !interrupt_terminated()) {
        char *line = NULL;
        if (!warned)
            interrupt_clear(); /* what stopped an answer; after a warning it may be the next one */
        switch (chat_input_line(&c->input, "> ", &line, err)) {
        case CHAT_FAILED: return err->status;
        case CHAT_END:
            if (c->input.terminal)
                fputs("\n", stderr);
            return LUTRA_OK;
        case CHAT_INTERRUPT:
            if (warned || !c->input.terminal || interrupt_terminated())
                return LUTRA_OK;
            interrupt_clear();
            fprintf(stderr, "\n(Ctrl-C again or Ctrl-D leaves)\n");
            warned = true;
            continue;
        case CHAT_LINE: break;
        }
        warned = false;
        if (line[0] == '/' && line[1] != '/')
            run_slash(c, line);
        else if (line[strspn(line, " \t")])
            LU_TRY(turn(c, line[0] == '/' ? line + 1 : line, err));
    }
    return LUTRA_OK;
}

static int run(cli_call *call)
{
    chat c = {.call = call, .s = call->settings};
    lutra_err err = {0};
    if (cli_choose_sampling(call, &c.s->sampling, call->operands[0], &c.sampling, &err) != LUTRA_OK)
        return err.status == LUTRA_E_ARG ? cli_usage(call, "%s", err.msg) : cli_fail(call, &err);
    lutra_status status = cli_load(call, call->operands[0], &c.s->numbers, &c.loaded, &err);
    if (status == LUTRA_OK && !lutra_has_chat_template(c.loaded.tokenizer))
        status = lu_fail(&err, LUTRA_E_UNSUPPORTED,
                         "%s: the model has no chat template, try 'lutra run'", call->operands[0]);
    if (status == LUTRA_OK)
        status = lutra_session_open(c.loaded.model, c.s->context, &c.session, &err);
    if (status == LUTRA_OK)
        status = chat_history_open(&c.history, c.s->system, &err);
    if (status == LUTRA_OK) {
        interrupt_install(false); /* from here on Ctrl-C stops answers */
        chat_input_open(&c.input);
        if (c.input.terminal)
            cli_note(call, "chat with %s; /help lists the commands", call->operands[0]);
        status = converse(&c, &err);
        chat_input_close(&c.input);
        if (!interrupt_terminated())
            interrupt_clear(); /* leaving by Ctrl-C is an ordinary way to leave */
    }
    chat_history_close(&c.history);
    lutra_session_close(c.session);
    cli_unload(&c.loaded);
    return status == LUTRA_OK ? CLI_DONE : cli_fail(call, &err);
}

const cli_command cli_chat = {
    .name = "chat",
    .summary = "Talk with a model in the terminal",
    .about =
        "Uses the model's own chat template and keeps the conversation; each turn feeds only what\n"
        "is new. When the context is full, the oldest turns are left out and a note says so (the\n"
        "system prompt stays). Ctrl-C stops an answer; at the prompt, Ctrl-C twice or Ctrl-D\n"
        "leaves. At the prompt: /help /reset /save FILE /exit. Lines may come through a pipe.\n"
        "The choice of tokens is greedy unless --sample or --temperature asks for chance.\n",
    .examples = "  lutra chat llama-8b-nf4 --sample\n"
                "  lutra chat llama-8b-nf4 --system 'You answer in one sentence.' --temperature "
                "0.7 --top-p 0.9\n"
                "  printf 'Hello!\\nAnd again?\\n' | lutra chat llama-8b-nf4\n",
    .operands = operands,
    .options = options,
    .settings_size = sizeof(settings),
    .run = run,
};
