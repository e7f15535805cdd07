/* test_perplexity.c - perplexity against an independent computation, the meaning of window, stride
   and BOS against a plain loop over a session, and what is refused. With LUTRA_TEST_PERPLEXITY set
   to a file name (val.txt) the recorded full-text values of every model in LUTRA_TEST_MODELS are
   checked too: hundreds of thousands of tokens each, minutes on a small machine. */
#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/context.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "eval/perplexity.h"
#include "lutra/engine.h"
#include "model/slots.h"
#include "support/alloc_sweep.h"
#include "support/expect.h"

static lutra_model *open_model(lutra_ctx *ctx, const char *folder, lutra_dtype dtype)
{
    lutra_err err;
    lutra_model *m;
    lutra_model_options o;
    lutra_model_options_init(&o);
    o.dtype = dtype;
    must(lutra_model_open(ctx, folder, &o, &m, &err), &err);
    return m;
}

static lutra_perplexity evaluate(lutra_ctx *ctx, const char *folder, const char *text_file,
                                 lutra_dtype dtype, const lutra_perplexity_options *o)
{
    lutra_err err;
    lutra_perplexity p;
    lutra_tokenizer *t;
    char *text;
    size_t n;
    lutra_model *m = open_model(ctx, folder, dtype);
    must(lutra_tokenizer_open(folder, &t, &err), &err);
    must(lu_file_read(text_file, 1 << 28, &text, &n, &err), &err);
    must(lutra_eval_perplexity(m, t, text, n, o, &p, &err), &err);
    lu_free(text);
    lutra_tokenizer_close(t);
    lutra_model_close(m);
    return p;
}

/* make_tiny_models.py --perplexity models/llama-8m IDS 512 6, the ids of models/text/val.txt */
#define NLL_OF_6_WINDOWS 2.924482059

static void the_first_windows_of_a_text_agree_with_float64(void **state)
{
    (void)state;
    lutra_err err;
    lutra_ctx *ctx;
    lutra_perplexity_options o;
    lutra_perplexity_options_init(&o);
    o.max_windows = 6;
    must(lutra_open(NULL, &ctx, &err), &err);
    lutra_perplexity p = evaluate(ctx, "models/llama-8m", "models/text/val.txt", LUTRA_F32, &o);
    print_message("llama-8m, 6 windows: f32 nll %.9f, %.0f tokens/s\n", p.nll, p.tokens_per_second);
    assert_true(fabs(p.nll - NLL_OF_6_WINDOWS) <= 1e-5);
    assert_true(p.perplexity == exp(p.nll));
    assert_int_equal(p.tokens, 301723);
    assert_int_equal(p.windows, 6);
    assert_int_equal(p.predicted, 6 * 511);
    p = evaluate(ctx, "models/llama-8m", "models/text/val.txt", LUTRA_BF16, &o);
    print_message("llama-8m, 6 windows: bf16 nll %.9f, %.0f tokens/s\n", p.nll,
                  p.tokens_per_second);
    assert_true(fabs(p.nll - NLL_OF_6_WINDOWS) <= 0.005); /* half a percent of perplexity */
    lutra_close(ctx);
}

/* --- window, stride, BOS on a tiny model ------------------------------------------------------ */

#define VOCAB 96
#define TEXT 45

static int32_t text_ids[TEXT];

static double loss(const float *logits, int32_t id)
{
    double sum = 0.0;
    for (int i = 0; i < VOCAB; i++)
        sum += exp((double)logits[i]);
    return log(sum) - (double)logits[id];
}

/* One window after another through a session, by the words of lutra/eval.h. */
static double plain_loop(lutra_model *m, int64_t window, int64_t stride, bool bos,
                         int64_t *predicted)
{
    static float logits[64 * VOCAB];
    lutra_err err;
    lutra_session *s;
    double total = 0.0;
    int64_t known = 0; /* tokens of the text predicted, or given as the first, so far */
    *predicted = 0;
    must(lutra_session_open(m, 0, &s, &err), &err);
    for (int64_t start = 0; start + window <= TEXT; start += stride) {
        int32_t in[64];
        int64_t n = 0;
        if (bos)
            in[n++] = m->config.bos_id;
        memcpy(in + n, text_ids + start, (size_t)window * sizeof *in);
        n += window;
        must(lutra_session_truncate(s, 0, &err), &err);
        must(lutra_session_feed(s, in, n, true, logits, &err), &err);
        for (int64_t i = 1; i < n; i++) {
            if (start + i - (bos ? 1 : 0) < known)
                continue;
            total += loss(logits + (i - 1) * VOCAB, in[i]);
            ++*predicted;
        }
        known = start + window;
    }
    lutra_session_close(s);
    return total / (double)*predicted;
}

static lutra_ctx *open_context(int threads)
{
    lutra_err err;
    lutra_ctx *ctx;
    lutra_options o;
    lutra_options_init(&o);
    o.n_threads = threads;
    must(lutra_open(&o, &ctx, &err), &err);
    for (int i = 0; i < TEXT; i++)
        text_ids[i] = (int32_t)((i * 37 + i * i * 11) % VOCAB);
    return ctx;
}

static void windows_strides_and_bos_mean_what_the_header_says(void **state)
{
    (void)state;
    static const int64_t cases[][2] = {{8, 8}, {8, 0},   {8, 3},  {8, 1},  {45, 45},
                                       {2, 2}, {31, 14}, {44, 1}, {20, 19}};
    lutra_ctx *ctx = open_context(2);
    lutra_model *m = open_model(ctx, "tests/fixtures/tiny/mistral", LUTRA_F32);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int bos = 0; bos < 2; bos++) {
            lutra_err err;
            lutra_perplexity p;
            lutra_perplexity_options o;
            lutra_perplexity_options_init(&o);
            o.window = cases[i][0];
            o.stride = cases[i][1];
            o.bos = bos;
            int64_t predicted;
            const double expected =
                plain_loop(m, o.window, o.stride ? o.stride : o.window, bos, &predicted);
            must(lu_perplexity_of_ids(m, text_ids, TEXT, &o, &p, &err), &err);
            assert_int_equal(p.predicted, predicted);
            if (!(fabs(p.nll - expected) <= 1e-6 * expected))
                fail_msg("window %d stride %d bos %d: nll %.9g, expected %.9g", (int)o.window,
                         (int)o.stride, bos, p.nll, expected);
        }
    lutra_model_close(m);
    lutra_close(ctx);
}

static void threads_change_no_bit_of_the_result(void **state)
{
    (void)state;
    double nll[4];
    for (int threads = 1; threads < 5; threads++) {
        lutra_err err;
        lutra_perplexity p;
        lutra_perplexity_options o;
        lutra_perplexity_options_init(&o);
        o.window = 7;
        o.stride = 4;
        lutra_ctx *ctx = open_context(threads);
        lutra_model *m = open_model(ctx, "tests/fixtures/tiny/mixtral", LUTRA_BF16);
        must(lu_perplexity_of_ids(m, text_ids, TEXT, &o, &p, &err), &err);
        nll[threads - 1] = p.nll;
        lutra_model_close(m);
        lutra_close(ctx);
    }
    assert_memory_equal(&nll[0], &nll[1], sizeof nll[0]);
    assert_memory_equal(&nll[0], &nll[2], sizeof nll[0]);
    assert_memory_equal(&nll[0], &nll[3], sizeof nll[0]);
}

static void senseless_windows_are_refused(void **state)
{
    (void)state;
    static const struct {
        int64_t window, stride, max_windows, n;
        bool bos;
        lutra_status status;
    } cases[] = {
        {46, 0, 0, TEXT, false, LUTRA_E_ARG},   /* longer than the text */
        {65, 0, 0, TEXT, false, LUTRA_E_LIMIT}, /* longer than the context of 64 */
        {64, 0, 0, TEXT, true, LUTRA_E_LIMIT},  /* BOS does not fit */
        {1, 0, 0, TEXT, false, LUTRA_E_ARG},    /* predicts nothing */
        {0, 0, 0, TEXT, true, LUTRA_E_ARG},     {-8, 0, 0, TEXT, false, LUTRA_E_ARG},
        {8, 9, 0, TEXT, false, LUTRA_E_ARG}, /* leaves tokens out */
        {8, -1, 0, TEXT, false, LUTRA_E_ARG},   {8, 0, -1, TEXT, false, LUTRA_E_ARG},
        {8, 0, 0, 0, false, LUTRA_E_ARG},       {INT64_MAX, 0, 0, TEXT, true, LUTRA_E_LIMIT},
    };
    lutra_err err;
    lutra_perplexity p;
    lutra_ctx *ctx = open_context(1);
    lutra_model *m = open_model(ctx, "tests/fixtures/tiny/llama", LUTRA_F32);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const lutra_perplexity_options o = {.size = sizeof o,
                                            .window = cases[i].window,
                                            .stride = cases[i].stride,
                                            .bos = cases[i].bos,
                                            .max_windows = cases[i].max_windows};
        if (lu_perplexity_of_ids(m, text_ids, cases[i].n, &o, &p, &err) != cases[i].status)
            fail_msg("case %d: %s", (int)i, err.msg);
    }
    lutra_perplexity_options o;
    lutra_perplexity_options_init(&o);
    o.window = 8;
    text_ids[9] = VOCAB;
    assert_int_equal(lu_perplexity_of_ids(m, text_ids, TEXT, &o, &p, &err), LUTRA_E_ARG);
    text_ids[9] = 0;
    m->config.bos_id = -1;
    o.bos = true;
    assert_int_equal(lu_perplexity_of_ids(m, text_ids, TEXT, &o, &p, &err), LUTRA_E_ARG);
    lutra_model_close(m);
    lutra_close(ctx);
}

static bool always(void *user)
{
    (void)user;
    return true;
}

typedef struct {
    int polls;            /* how often the evaluation asked whether to stop */
    int64_t events, done; /* of progress; what the first and the last said */
    int64_t first_done, total;
} watcher;

static bool never(void *user)
{
    ((watcher *)user)->polls++;
    return false;
}

static void watch(void *user, const lutra_progress *p)
{
    watcher *w = user;
    if (w->events++ == 0)
        w->first_done = p->done;
    w->done = p->done;
    w->total = p->total;
}

static void it_tells_where_it_is_and_asks_before_every_layer(void **state)
{
    (void)state;
    lutra_err err;
    lutra_perplexity p;
    lutra_perplexity_options o;
    lutra_perplexity_options_init(&o);
    o.window = 8;
    watcher w = {.first_done = -1};
    lutra_ctx *ctx = open_context(1);
    lutra_model *m = open_model(ctx, "tests/fixtures/tiny/llama", LUTRA_F32);
    ctx->options.user = &w;
    ctx->options.progress = watch;
    ctx->options.cancelled = never;
    must(lu_perplexity_of_ids(m, text_ids, TEXT, &o, &p, &err), &err);
    assert_int_equal(w.first_done, 0);
    assert_int_equal(w.total, TEXT / 8);
    assert_int_equal(w.done, w.total);
    /* these few windows are one pass */
    assert_true(w.polls >= m->config.n_layers + 1);
    lutra_model_close(m);
    lutra_close(ctx);
}

static lutra_status evaluate_short_windows(void *model)
{
    lutra_err err;
    lutra_perplexity p;
    lutra_perplexity_options o;
    lutra_perplexity_options_init(&o);
    o.window = 8;
    return lu_perplexity_of_ids(model, text_ids, TEXT, &o, &p, &err);
}

static void it_can_be_cancelled_and_survives_failed_allocations(void **state)
{
    (void)state;
    lutra_err err;
    lutra_perplexity p;
    lutra_perplexity_options o;
    lutra_perplexity_options_init(&o);
    o.window = 8;
    lutra_ctx *ctx = open_context(1);
    lutra_model *m = open_model(ctx, "tests/fixtures/tiny/llama", LUTRA_F32);
    assert_true(fail_each_allocation(evaluate_short_windows, m) > 0);
    ctx->options.cancelled = always;
    assert_int_equal(lu_perplexity_of_ids(m, text_ids, TEXT, &o, &p, &err), LUTRA_E_CANCELLED);
    lutra_model_close(m);
    lutra_close(ctx);
}

static void a_model_with_nan_in_it_has_no_perplexity(void **state)
{
    (void)state;
    lutra_err err;
    lutra_perplexity p;
    lutra_perplexity_options o;
    lutra_perplexity_options_init(&o);
    o.window = 8;
    lutra_ctx *ctx = open_context(1);
    lutra_model *m = open_model(ctx, "tests/fixtures/tiny/llama", LUTRA_F32);
    m->final_norm[3] = NAN;
    assert_int_equal(lu_perplexity_of_ids(m, text_ids, TEXT, &o, &p, &err), LUTRA_E_FORMAT);
    assert_non_null(strstr(err.msg, "NaN"));
    lutra_model_close(m);
    lutra_close(ctx);
}

/* --- recorded values of whole texts ----------------------------------------------------------- */

static void check_recorded(lutra_ctx *ctx, const char *folder, const char *text)
{
    lutra_err err;
    json_t *json;
    char path[1024];
    snprintf(path, sizeof path, "%s/reference.json", folder);
    must(lu_json_load(path, &json, &err), &err);
    const json_t *runs = json_object_get(
        json_object_get(json_object_get(json, "perplexity"), lu_path_base(text)), "runs");
    for (size_t i = 0; i < json_array_size(runs); i++) {
        const json_t *run = json_array_get(runs, i);
        lutra_perplexity_options o;
        lutra_perplexity_options_init(&o);
        o.window = json_integer_value(json_object_get(run, "window"));
        o.bos = json_is_true(json_object_get(run, "bos"));
        const double expected = json_number_value(json_object_get(run, "ppl"));
        const lutra_perplexity p = evaluate(ctx, folder, text, LUTRA_BF16, &o);
        print_message("%-18s %s window %d bos %d: %.3f, recorded %.3f (%+.3f %%), %.0f tokens/s\n",
                      lu_path_base(folder), lu_path_base(text), (int)o.window, o.bos, p.perplexity,
                      expected, 100.0 * (p.perplexity / expected - 1.0), p.tokens_per_second);
        assert_int_equal(p.predicted, json_integer_value(json_object_get(run, "predicted")));
        assert_true(fabs(p.perplexity / expected - 1.0) <= 0.005);
    }
    json_decref(json);
}

static void whole_texts_agree_with_transformers(void **state)
{
    (void)state;
    const char *models = getenv("LUTRA_TEST_MODELS"), *text = getenv("LUTRA_TEST_PERPLEXITY");
    lutra_err err;
    lutra_ctx *ctx;
    if (!models || !text)
        skip();
    DIR *dir = opendir(models);
    assert_non_null(dir);
    must(lutra_open(NULL, &ctx, &err), &err);
    for (struct dirent *d; (d = readdir(dir)) != NULL;) {
        char folder[512], reference[600];
        snprintf(folder, sizeof folder, "%s/%s", models, d->d_name);
        snprintf(reference, sizeof reference, "%s/reference.json", folder);
        if (lu_path_exists(reference))
            check_recorded(ctx, folder, text);
    }
    lutra_close(ctx);
    closedir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_windows_of_a_text_agree_with_float64),
        cmocka_unit_test(windows_strides_and_bos_mean_what_the_header_says),
        cmocka_unit_test(threads_change_no_bit_of_the_result),
        cmocka_unit_test(senseless_windows_are_refused),
        cmocka_unit_test(it_tells_where_it_is_and_asks_before_every_layer),
        cmocka_unit_test(it_can_be_cancelled_and_survives_failed_allocations),
        cmocka_unit_test(a_model_with_nan_in_it_has_no_perplexity),
        cmocka_unit_test(whole_texts_agree_with_transformers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
