/* cmd_eval.c - lutra eval: perplexity of a model on a text. */
#include <string.h>

#include "base/mem.h"
#include "cli.h"
#include "loading.h"

typedef struct settings {
    const char *text, *act_calib, *act_rule;
    cli_numbers numbers;
    double act_percentile;
    int64_t window, stride, max_windows;
    bool bos, json;
} settings;

#define S(field) offsetof(settings, field)

static const cli_option options[] = {
    {"text", 0, CLI_PATH, "FILE", S(text), 0, 0, NULL, NULL,
     "text to predict, UTF-8 ('-' = standard input); required"},
    {"window", 'w', CLI_INT, "N", S(window), 2, 1 << 20, NULL, "512", "tokens per window"},
    {"stride", 0, CLI_INT, "N", S(stride), 0, 1 << 20, NULL, "0",
     "tokens from one window's start to the next; 0 = the window, no overlap"},
    {"bos", 0, CLI_FLAG, NULL, S(bos), 0, 0, NULL, NULL,
     "put the begin token before each window; then all of its tokens are predicted"},
    {"max-windows", 0, CLI_INT, "N", S(max_windows), 0, 1e12, NULL, "0",
     "use the first N windows only; 0 = all"},
    CLI_NUMBERS_OPTIONS(settings),
    {"act-calib", 0, CLI_PATH, "FILE", S(act_calib), 0, 0, NULL, NULL,
     "with --act-quant intB:tensor: find the scales on this text"},
    {"act-rule", 0, CLI_CHOICE, "RULE", S(act_rule), 0, 0, "minmax|moving|mse|percentile", "minmax",
     "how they follow from it: mean or running mean of the windows' ends, least squared error, or "
     "a percentile"},
    {"act-percentile", 0, CLI_REAL, "P", S(act_percentile), 50.1, 100, NULL, "99.99",
     "for --act-rule percentile: values that are not clipped, in percent"},
    {"json", 0, CLI_FLAG, NULL, S(json), 0, 0, NULL, NULL, "print the result as one JSON object"},
    {0},
};

static const cli_operand operands[] = {
    {"MODEL", false, NULL, "folder of a model, original or compressed"},
    {0},
};

static void print_json(const cli_call *call, const settings *s, const lutra_perplexity *p)
{
    json_t *o = json_object();
    json_object_set_new(o, "model", out_string(call->operands[0]));
    json_object_set_new(o, "text", out_string(s->text));
    json_object_set_new(o, "device", out_string(s->numbers.device));
    json_object_set_new(o, "dtype", json_string(s->numbers.dtype));
    json_object_set_new(o, "kv", json_string(s->numbers.kv));
    json_object_set_new(o, "act_quant",
                        s->numbers.act_quant ? out_string(s->numbers.act_quant) : json_null());
    json_object_set_new(o, "perplexity", out_real(p->perplexity));
    json_object_set_new(o, "nll", out_real(p->nll));
    json_object_set_new(o, "window", json_integer(s->window));
    json_object_set_new(o, "stride", json_integer(s->stride ? s->stride : s->window));
    json_object_set_new(o, "bos", json_boolean(s->bos));
    json_object_set_new(o, "tokens", json_integer(p->tokens));
    json_object_set_new(o, "windows", json_integer(p->windows));
    json_object_set_new(o, "predicted", json_integer(p->predicted));
    json_object_set_new(o, "seconds", out_real(p->seconds));
    json_object_set_new(o, "tokens_per_second", out_real(p->tokens_per_second));
    out_json(o);
}

/* Loads the model; with --act-calib as it is first, to find the scales of its inputs. */
static lutra_status load(cli_call *call, const settings *s, cli_loaded *l, lutra_err *err)
{
    cli_numbers numbers = s->numbers;
    lutra_act_calibration o;
    char *text = NULL;
    int32_t *ids = NULL;
    int64_t n_ids = 0;
    size_t n = 0;
    if (!s->act_calib)
        return cli_load(call, call->operands[0], &numbers, l, err);
    numbers.act_quant = "none"; /* whatever the checkpoint says: inputs are watched as they are */
    lutra_act_calibration_init(&o);
    o.rule = s->act_rule;
    o.percentile = s->act_percentile;
    lutra_status status = cli_load(call, call->operands[0], &numbers, l, err);
    if (status == LUTRA_OK)
        status = cli_read(s->act_calib, &text, &n, err);
    if (status == LUTRA_OK)
        status = lutra_encode(l->tokenizer, text, n, false, &ids, &n_ids, err);
    if (status == LUTRA_OK)
        status = lutra_model_calibrate(l->model, s->numbers.act_quant, ids, n_ids, &o, err);
    lutra_free(ids);
    lu_free(text);
    return status;
}

static int run(cli_call *call)
{
    const settings *s = call->settings;
    if (!s->text)
        return cli_usage(call, "--text is missing: the file to predict");
    if (s->act_calib && !s->numbers.act_quant)
        return cli_usage(call, "--act-calib has no effect without --act-quant intB:tensor");
    lutra_err err = {0};
    cli_loaded l;
    char *text = NULL;
    size_t n = 0;
    lutra_perplexity result;
    lutra_perplexity_options o;
    lutra_perplexity_options_init(&o);
    o.window = s->window;
    o.stride = s->stride;
    o.bos = s->bos;
    o.max_windows = s->max_windows;

    lutra_status status = load(call, s, &l, &err);
    if (status == LUTRA_OK)
        status = cli_read(s->text, &text, &n, &err);
    if (status == LUTRA_OK)
        status = lutra_eval_perplexity(l.model, l.tokenizer, text, n, &o, &result, &err);
    lu_free(text);
    cli_unload(&l);
    if (status != LUTRA_OK)
        return cli_fail(call, &err);
    progress_clear(call->progress);
    if (s->json) {
        print_json(call, s, &result);
        return CLI_DONE;
    }
    out_printf("perplexity  %.4f\n", result.perplexity);
    out_printf("nll         %.6f nats per token\n", result.nll);
    out_printf("windows     %lld, %lld tokens predicted\n", (long long)result.windows,
               (long long)result.predicted);
    out_printf("speed       %.0f tokens/s\n", result.tokens_per_second);
    return CLI_DONE;
}

const cli_command cli_eval = {
    .name = "eval",
    .summary = "Measure a model's perplexity on a text",
    .about =
        "The text is tokenized in one piece, cut into windows (a shorter tail is dropped) and "
        "each\n"
        "window is run by itself. With a stride below the window only tokens not counted before\n"
        "are counted. Lower is better; compare only models with the same tokenizer.\n"
        "--act-quant measures what a model loses when its linears get integer inputs.\n",
    .examples =
        "  lutra eval llama-8b-nf4 --text val.txt\n"
        "  lutra eval llama-8b --text val.txt --window 2048 --bos --max-windows 20 --json\n"
        "  lutra eval llama-8b-int8 --text val.txt --act-quant int8:token\n"
        "  lutra eval llama-8b --text val.txt --act-quant int8:tensor --act-calib calib.txt\n",
    .operands = operands,
    .options = options,
    .settings_size = sizeof(settings),
    .run = run,
};
