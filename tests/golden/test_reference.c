/* test_reference.c - real models against outputs recorded from transformers in float32
   (reference.safetensors, reference.json of a model folder). Runs models/llama-8m, and every model
   folder inside the directory that LUTRA_TEST_MODELS names.

   Float32 must agree to 1e-5 relative: both sides sum in float32, whose errors over a few hundred
   terms and eight layers measure 1e-6 against float64. A bf16 run rounds each linear's input to 8
   bits, 2^-9 relative each, so single log-probabilities move by hundredths but their mean does not.
   With LUTRA_TEST_GPU=cuda (or cuda:N) the models run on that GPU too, in both of its types. */
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
#include "io/safetensors.h"
#include "lutra/engine.h"
#include "model/forward.h"
#include "support/expect.h"

#define MAX_MODELS 64

static char folders[MAX_MODELS][512];
static int n_folders;

typedef struct {
    const char *folder;
    lutra_ctx *ctx;
    lutra_model *model;
    lutra_session *session;
    lu_st_file *reference;
    json_t *json;
    int64_t vocab;
    float *logits; /* [600][vocab] */
} fixture;

static void join(char *out, size_t size, const char *folder, const char *name)
{
    snprintf(out, size, "%s/%s", folder, name);
}

static const lutra_tensor *tensor(const fixture *f, const char *name)
{
    const lu_st_entry *e = lu_st_find(f->reference, name);
    if (!e)
        fail_msg("%s: reference has no %s", f->folder, name);
    return &e->view;
}

static void open_fixture(fixture *f, const char *folder, lutra_dtype dtype, const char *device)
{
    lutra_err err;
    lutra_model_options o;
    lutra_model_info info;
    char path[1024];
    *f = (fixture){.folder = folder};
    lutra_model_options_init(&o);
    o.dtype = dtype;
    o.device = device;
    must(lutra_open(NULL, &f->ctx, &err), &err);
    must(lutra_model_open(f->ctx, folder, &o, &f->model, &err), &err);
    must(lutra_session_open(f->model, 0, &f->session, &err), &err);
    join(path, sizeof path, folder, "reference.safetensors");
    must(lu_st_open(path, &f->reference, &err), &err);
    join(path, sizeof path, folder, "reference.json");
    must(lu_json_load(path, &f->json, &err), &err);
    lutra_model_get_info(f->model, &info);
    f->vocab = info.vocab_size;
    f->logits = malloc((size_t)(600 * f->vocab) * sizeof *f->logits);
    assert_non_null(f->logits);
}

static void close_fixture(fixture *f)
{
    free(f->logits);
    json_decref(f->json);
    lu_st_close(f->reference);
    lutra_session_close(f->session);
    lutra_model_close(f->model);
    lutra_close(f->ctx);
}

static void feed_all(fixture *f, const lutra_tensor *ids)
{
    lutra_err err;
    must(lutra_session_truncate(f->session, 0, &err), &err);
    must(lutra_session_feed(f->session, ids->data, ids->shape[0], true, f->logits, &err), &err);
}

/* Largest relative error over the three short sequences. */
static double short_error(fixture *f)
{
    double worst = 0.0;
    for (int i = 0; i < 3; i++) {
        char name[64];
        snprintf(name, sizeof name, "short.%d.input_ids", i);
        const lutra_tensor *ids = tensor(f, name);
        feed_all(f, ids);
        snprintf(name, sizeof name, "short.%d.logits", i);
        const double e = relative(f->logits, tensor(f, name)->data, ids->shape[0] * f->vocab);
        if (!(e <= worst))
            worst = e;
    }
    return worst;
}

typedef struct {
    fixture *f;
    int seen;
    double worst;
} hidden_check;

static void compare_hidden(void *user, int64_t layer, const char *site, const float *x,
                           int64_t rows, int64_t cols)
{
    hidden_check *h = user;
    char name[64];
    if (strcmp(site, "layer_out") == 0)
        snprintf(name, sizeof name, "hidden.layer.%d", (int)layer);
    else if (strcmp(site, "embedding") == 0 || strcmp(site, "final_norm") == 0)
        snprintf(name, sizeof name, "hidden.%s", site);
    else
        return;
    const lutra_tensor *t = tensor(h->f, name);
    assert_int_equal(t->shape[0], rows);
    assert_int_equal(t->shape[1], cols);
    const double e = relative(x, t->data, rows * cols);
    if (!(e <= h->worst))
        h->worst = e;
    h->seen++;
}

/* Largest relative error of the embedding, every layer's output and the final norm. */
static double hidden_error(fixture *f)
{
    lutra_err err;
    lu_kv kv;
    lu_forward *forward;
    hidden_check h = {.f = f};
    const lutra_tensor *ids = tensor(f, "hidden.input_ids");
    const int64_t n = ids->shape[0];
    must(lu_kv_open(f->model, n, &kv, &err), &err);
    must(lu_forward_open(f->model, n, n, &forward, &err), &err);
    must(lu_forward_set_tap(forward, compare_hidden, &h, &err), &err);
    const lu_segment segment = {.kv = &kv, .ids = ids->data, .n = n};
    assert_int_equal(lu_forward_run(forward, &segment, 1, NULL), LUTRA_OK);
    must(lu_forward_logits(forward, 0, n, f->logits, &err), &err);
    assert_int_equal(h.seen, f->model->config.n_layers + 2);
    lu_forward_close(forward);
    lu_kv_close(&kv);
    return h.worst;
}

static double logprob(const fixture *f, int64_t row, int32_t id)
{
    const float *x = f->logits + row * f->vocab;
    double top = x[0], sum = 0.0;
    for (int64_t i = 1; i < f->vocab; i++)
        top = x[i] > top ? x[i] : top;
    for (int64_t i = 0; i < f->vocab; i++)
        sum += exp(x[i] - top);
    return x[id] - top - log(sum);
}

/* Index of the largest; *margin over the second. */
static int64_t argmax(const float *x, int64_t n, double *margin)
{
    int64_t best = 0;
    double second = -INFINITY;
    for (int64_t i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    for (int64_t i = 0; i < n; i++)
        if (i != best && x[i] > second)
            second = x[i];
    *margin = x[best] - second;
    return best;
}

typedef struct {
    double last_error;     /* relative, logits of the last position */
    double mean_abs, mean; /* of next_logprob - reference */
    int64_t argmax_wrong;  /* where our own margin exceeds 2e-4 */
    int64_t argmax_same, positions;
} long_result;

static long_result long_check(fixture *f)
{
    long_result r = {.positions = 0};
    const lutra_tensor *ids = tensor(f, "long.input_ids");
    const float *expected = tensor(f, "long.next_logprob")->data;
    const int32_t *tops = tensor(f, "long.argmax")->data, *id = ids->data;
    const int64_t n = ids->shape[0];
    feed_all(f, ids);
    r.last_error =
        relative(f->logits + (n - 1) * f->vocab, tensor(f, "long.last_logits")->data, f->vocab);
    for (int64_t t = 0; t < n; t++) {
        double margin;
        const bool same = argmax(f->logits + t * f->vocab, f->vocab, &margin) == tops[t];
        r.argmax_same += same;
        r.argmax_wrong += !same && margin > 2e-4;
        if (t + 1 == n)
            continue;
        const double d = logprob(f, t, id[t + 1]) - (double)expected[t];
        r.mean_abs += fabs(d) / (double)(n - 1);
        r.mean += d / (double)(n - 1);
    }
    r.positions = n;
    return r;
}

/* Steps of the recorded greedy continuations, each fed the recorded tokens before it. */
static void greedy_check(fixture *f, int64_t *wrong, int64_t *same, int64_t *steps)
{
    lutra_err err;
    const json_t *greedy = json_object_get(f->json, "greedy");
    *wrong = *same = *steps = 0;
    for (size_t p = 0; p < json_array_size(greedy); p++) {
        const json_t *one = json_array_get(greedy, p), *prompt = json_object_get(one, "prompt_ids");
        const json_t *answer = json_object_get(one, "continuation_ids"),
                     *margins = json_object_get(one, "margins");
        must(lutra_session_truncate(f->session, 0, &err), &err);
        for (size_t i = 0; i < json_array_size(prompt); i++) {
            const int32_t id = (int32_t)json_integer_value(json_array_get(prompt, i));
            must(lutra_session_feed(f->session, &id, 1, false, f->logits, &err), &err);
        }
        for (size_t i = 0; i < json_array_size(answer); i++) {
            double ours;
            const int32_t id = (int32_t)json_integer_value(json_array_get(answer, i));
            const bool agrees = argmax(f->logits, f->vocab, &ours) == id;
            *same += agrees;
            *wrong += !agrees && json_number_value(json_array_get(margins, i)) > 2e-4;
            ++*steps;
            must(lutra_session_feed(f->session, &id, 1, false, f->logits, &err), &err);
        }
    }
}

static void float32_agrees_with_transformers(void **state)
{
    (void)state;
    for (int i = 0; i < n_folders; i++) {
        fixture f;
        int64_t wrong, same, steps;
        open_fixture(&f, folders[i], LUTRA_F32, NULL);
        const double shorts = short_error(&f), hidden = hidden_error(&f);
        const long_result l = long_check(&f);
        greedy_check(&f, &wrong, &same, &steps);
        print_message("f32  %-18s logits %.1e hidden %.1e long %.1e logprob mae %.1e argmax %d/%d "
                      "greedy %d/%d\n",
                      lu_path_base(folders[i]), shorts, hidden, l.last_error, l.mean_abs,
                      (int)l.argmax_same, (int)l.positions, (int)same, (int)steps);
        assert_true(shorts <= 1e-5);
        assert_true(hidden <= 1e-5);
        assert_true(l.last_error <= 1e-5);
        assert_true(l.mean_abs <= 1e-4);
        assert_int_equal(l.argmax_wrong, 0);
        assert_int_equal(wrong, 0);
        close_fixture(&f);
    }
}

static void bf16_stays_close_to_float32(void **state)
{
    (void)state;
    for (int i = 0; i < n_folders; i++) {
        fixture f;
        int64_t wrong, same, steps;
        open_fixture(&f, folders[i], LUTRA_BF16, NULL);
        const double shorts = short_error(&f), hidden = hidden_error(&f);
        const long_result l = long_check(&f);
        greedy_check(&f, &wrong, &same, &steps);
        print_message("bf16 %-18s logits %.1e hidden %.1e long %.1e logprob mae %.1e mean %+.1e "
                      "argmax %d/%d greedy %d/%d\n",
                      lu_path_base(folders[i]), shorts, hidden, l.last_error, l.mean_abs, l.mean,
                      (int)l.argmax_same, (int)l.positions, (int)same, (int)steps);
        assert_true(shorts <= 1e-2);
        assert_true(hidden <= 1e-2);
        assert_true(l.mean_abs <= 2e-2);
        assert_true(fabs(l.mean) <= 3e-3); /* 0.3 % of perplexity */
        assert_true(l.argmax_same * 100 >= l.positions * 97);
        assert_true(same * 100 >= steps * 97);
        close_fixture(&f);
    }
}

/* fp16 rounds to 11 bits where bf16 rounds to 8; logits are rounded too, so bf16 ties are many. */
static void a_gpu_stays_close_to_float32(void **state)
{
    (void)state;
    const char *device = getenv("LUTRA_TEST_GPU");
    if (!device || !*device)
        skip();
    for (int i = 0; i < n_folders; i++)
        for (int half = 0; half < 2; half++) {
            fixture f;
            int64_t wrong, same, steps;
            open_fixture(&f, folders[i], half ? LUTRA_F16 : LUTRA_BF16, device);
            const double shorts = short_error(&f);
            const long_result l = long_check(&f);
            greedy_check(&f, &wrong, &same, &steps);
            print_message("%s %s %-18s logits %.1e long %.1e logprob mae %.1e mean %+.1e argmax "
                          "%d/%d greedy %d/%d\n",
                          device, half ? "fp16" : "bf16", lu_path_base(folders[i]), shorts,
                          l.last_error, l.mean_abs, l.mean, (int)l.argmax_same, (int)l.positions,
                          (int)same, (int)steps);
            assert_true(shorts <= (half ? 2e-3 : 1.5e-2));
            assert_true(l.mean_abs <= (half ? 4e-3 : 3e-2));
            assert_true(fabs(l.mean) <= (half ? 1e-3 : 3e-3)); /* 0.1 and 0.3 % of perplexity */
            assert_true(l.argmax_same * 100 >= l.positions * (half ? 99 : 96));
            assert_true(same * 100 >= steps * (half ? 99 : 96));
            close_fixture(&f);
        }
}

static void add_folder(const char *folder)
{
    char path[1024];
    join(path, sizeof path, folder, "reference.json");
    for (int i = 0; i < n_folders; i++)
        if (strcmp(lu_path_base(folders[i]), lu_path_base(folder)) == 0)
            return; /* the copy in the tree */
    if (n_folders < MAX_MODELS && lu_path_exists(path))
        snprintf(folders[n_folders++], sizeof folders[0], "%s", folder);
}

static void find_folders(void)
{
    const char *extra = getenv("LUTRA_TEST_MODELS");
    add_folder("models/llama-8m");
    DIR *dir = extra ? opendir(extra) : NULL;
    for (struct dirent *d; dir && (d = readdir(dir)) != NULL;) {
        char path[512];
        if (d->d_name[0] == '.' || strlen(extra) + strlen(d->d_name) + 2 > sizeof path)
            continue;
        join(path, sizeof path, extra, d->d_name);
        add_folder(path);
    }
    if (dir)
        closedir(dir);
}

int main(void)
{
    find_folders();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(float32_agrees_with_transformers),
        cmocka_unit_test(bf16_stays_close_to_float32),
        cmocka_unit_test(a_gpu_stays_close_to_float32),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
