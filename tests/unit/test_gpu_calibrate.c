/* test_gpu_calibrate.c - calibrated compression with a GPU: what a walk sees and where it leads
   against the CPU, losses, whole runs of the methods, resuming, memory that does not suffice,
   faults. By itself it runs on the emulated GPU of tests/support, with LUTRA_TEST_GPU=cuda on a
   real one. */
#include "support/expect.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/context.h"
#include "calib/block_runner.h"
#include "lutra/lutra.h"
#include "support/gpu_emulated.h"
#include "support/synthetic_checkpoint.h"

static const char *const families[] = {"llama-h16", "mistral", "qwen2-h16", "gemma2",
                                       "mixtral-h16"};
#define N_FAMILIES (sizeof families / sizeof *families)
#define SAMPLES 26
#define LENGTH 20
#define HIDDEN 48 /* of llama-h16 */

static const char *device = "cuda";
static bool emulated = true;

static lutra_ctx *open_context(void)
{
    lutra_ctx *ctx = open_ctx(2);
    if (emulated)
        ctx->gpu = gpu_emulated();
    return ctx;
}

/* ---- one layer ---------------------------------------------------------------------------------
 */

/* The same data in two runners: [0] on the CPU, [1] on the GPU. */
typedef struct {
    lutra_ctx *ctx;
    lu_gpu *gpu;
    lutra_model *model;
    lu_la *la;
    lu_dataset data;
    lu_runner runner[2];
    lu_view view[2];
    char folder[SYN_PATH];
    lutra_dtype act;
} pair;

static void enter(pair *p, const char *family, lutra_dtype act, int64_t reserve)
{
    char path[64];
    int ordinal;
    lutra_err err = {0};
    uint32_t seed = 7;
    *p =
        (pair){.ctx = open_context(), .act = act, .data = {.n_samples = SAMPLES, .length = LENGTH}};
    syn_temp(p->folder);
    snprintf(path, sizeof path, "tests/fixtures/tiny/%s", family);
    must(lu_gpu_parse(device, &ordinal, &err), &err);
    must(lu_gpu_open(p->ctx->gpu, ordinal, &p->gpu, &err), &err);
    must(lu_model_open_bare(p->ctx, path, &p->model, &err), &err);
    must(lu_la_open(p->ctx->pool, NULL, &p->la, &err), &err);
    p->data.ids = lu_array(SAMPLES * LENGTH, sizeof *p->data.ids);
    for (int i = 0; i < SAMPLES * LENGTH; i++)
        p->data.ids[i] = (int32_t)((syn_random(&seed) + 0.5f) * 95);
    for (int i = 0; i < 2; i++) {
        const lu_walker_options o = {.memory = 1 << 20,
                                     .folder = p->folder,
                                     .gpu = i ? p->gpu : NULL,
                                     .act = act,
                                     .gpu_reserve = reserve};
        must(lu_runner_open(p->model, &p->data, &o, 1, &p->runner[i], &err), &err);
    }
}

static void leave(pair *p)
{
    for (int i = 0; i < 2; i++)
        lu_runner_close(&p->runner[i]);
    lu_dataset_close(&p->data);
    lu_la_close(p->la);
    lutra_model_close(p->model);
    lu_gpu_close(p->gpu);
    lutra_close(p->ctx);
    syn_delete(p->folder);
    if (emulated)
        assert_int_equal(gpu_emulated_now.taken, 0);
}

static void open_layer(pair *p, int64_t layer)
{
    lutra_err err = {0};
    for (int i = 0; i < 2; i++) {
        must(lu_view_open(p->model, p->la, layer, &p->view[i], &err), &err);
        must(lu_view_fetch_all(&p->view[i], &err), &err);
        lu_runner_serve(&p->runner[i], &p->view[i]);
    }
}

static float *read_stream(const pair *p, int i)
{
    static const lu_batch all = {.rows = SAMPLES * LENGTH, .samples = SAMPLES};
    lu_walker *w = p->runner[i].walker;
    lutra_err err = {0};
    float *x = lu_array((size_t)(SAMPLES * LENGTH * p->model->config.hidden_size), sizeof *x);
    must(w->api->get(w, LU_REST_STREAM, &all, x, &err), &err);
    return x;
}

static double streams_differ(const pair *p)
{
    float *cpu = read_stream(p, 0), *gpu = read_stream(p, 1);
    const double d = relative(gpu, cpu, SAMPLES * LENGTH * p->model->config.hidden_size);
    lu_free(cpu);
    lu_free(gpu);
    return d;
}

static void check(const char *family, const char *what, double got, double bound)
{
    if (!(got <= bound))
        fail_msg("%s, %s: differs by %g, at most %g expected", family, what, got, bound);
}

/* What reaches a site was rounded to 16 bits at most six times in a layer (norm, weights, qkv, rows
   that were attended to, branch, gate and up), each by at most u = 2^-11 in fp16 and 2^-8 in bf16
   of itself. */
#define ROUNDINGS 6

static void what_a_walk_sees_is_what_the_cpu_sees(void **state)
{
    (void)state;
    const unsigned all =
        LU_STAT_ABSMAX | LU_STAT_ABSMEAN | LU_STAT_RANGE | LU_STAT_HESSIAN | LU_STAT_ROWS;
    for (size_t f = 0; f < N_FAMILIES; f++)
        for (int bf16 = 0; bf16 < 2; bf16++)
            for (int spilled = 0; spilled < 2; spilled++) {
                pair p;
                lutra_err err = {0};
                const bool moe = strncmp(families[f], "mixtral", 7) == 0;
                /* a token may be routed elsewhere: then its expert sees another row */
                const double bound = moe ? 0.25 : ROUNDINGS * (bf16 ? 0x1p-8 : 0x1p-11);
                enter(&p, families[f], bf16 ? LUTRA_BF16 : LUTRA_F16,
                      spilled ? (int64_t)1 << 50 : 0);
                for (int64_t layer = 0; layer < p.model->config.n_layers; layer++) {
                    open_layer(&p, layer);
                    for (int i = 0; i < 2; i++) {
                        lu_gather g;
                        must(lu_gather_open(&p.view[i], LU_STAGE_QKV, LU_STAGE_DOWN, all,
                                            i ? p.gpu : NULL, bf16, &g, &err),
                             &err);
                        must(lu_runner_walk(&p.runner[i], &p.view[i], LU_STAGE_QKV, LU_STAGE_DOWN,
                                            (lu_watch){.gather = &g}, false, &err),
                             &err);
                        must(lu_gather_close(&g, NULL, &err), &err);
                    }
                    for (int s = 0; s < p.view[0].block.n_sites; s++) {
                        const lu_site *site = &p.view[0].block.sites[s];
                        const lu_stats *want = &site->stats, *got = &p.view[1].block.sites[s].stats;
                        const int64_t k = site->k;
                        assert_true(moe || got->n_rows == want->n_rows);
                        assert_true(got->n_kept <= LU_KEPT_ROWS && got->n_kept > 0);
                        assert_int_equal(got->n_kept, got->n_rows < LU_KEPT_ROWS
                                                          ? got->n_rows
                                                          : (got->n_rows + 1) / 2);
                        check(families[f], "absmax", relative(got->absmax, want->absmax, k), bound);
                        check(families[f], "absmean", relative(got->absmean, want->absmean, k),
                              bound);
                        check(families[f], "lowest", relative(got->lowest, want->lowest, k), bound);
                        check(families[f], "highest", relative(got->highest, want->highest, k),
                              bound);
                        check(families[f], "hessian", relative(got->hessian, want->hessian, k * k),
                              bound);
                        for (int64_t i = 0; i < k; i++)
                            for (int64_t j = 0; j < i; j++)
                                assert_true(got->hessian[i * k + j] == got->hessian[j * k + i]);
                        if (!moe)
                            check(families[f], "rows",
                                  relative(got->rows, want->rows, got->n_kept * k), bound);
                    }
                    for (int i = 0; i < 2; i++) {
                        must(lu_runner_walk(&p.runner[i], &p.view[i], LU_STAGE_QKV, LU_STAGE_MLP,
                                            (lu_watch){NULL, NULL}, true, &err),
                             &err);
                        must(lu_runner_walk(&p.runner[i], &p.view[i], LU_STAGE_MLP, LU_STAGE_END,
                                            (lu_watch){NULL, NULL}, true, &err),
                             &err);
                    }
                    check(families[f], "stream", streams_differ(&p), moe ? 0.1 : bound);
                    for (int i = 0; i < 2; i++)
                        lu_view_close(&p.view[i]);
                }
                leave(&p);
            }
}

static void halve_rows(void *arg, const lu_site *site, float *x, int64_t rows)
{
    int *calls = arg;
    ++*calls;
    for (int64_t i = 0; i < rows * site->k; i++)
        x[i] /= 2;
}

static void losses_are_those_of_the_cpu(void **state)
{
    (void)state;
    for (size_t f = 0; f < N_FAMILIES; f++)
        for (int spilled = 0; spilled < 2; spilled++)
            for (lu_part part = LU_PART_ATTENTION; part < LU_N_PARTS; part++) {
                pair p;
                lutra_err err = {0};
                double loss[2], edited[2], none;
                const bool moe = strncmp(families[f], "mixtral", 7) == 0;
                enter(&p, families[f], LUTRA_F16, spilled ? (int64_t)1 << 50 : 0);
                open_layer(&p, 0);
                for (int i = 0; i < 2; i++) {
                    lu_block *b = &p.view[i].block;
                    lu_site *site = &b->sites[part == LU_PART_ATTENTION ? 1 : b->n_sites - 1];
                    lu_site_linear *l = site->linears[0];
                    int calls = 0;
                    b->loss_samples = 7;
                    must(b->record(b, part, &err), &err);
                    must(b->loss(b, part, NULL, NULL, &none, &err), &err);
                    check(families[f], "the loss of nothing", none, 1e-12);
                    must(b->loss(b, part, halve_rows, &calls, &edited[i], &err), &err);
                    assert_true(calls > 0);
                    for (int64_t c = 0; c < l->n * l->k; c += 3)
                        l->w[c] *= 0.9f;
                    must(b->loss(b, part, NULL, NULL, &loss[i], &err), &err);
                    assert_true(loss[i] > 0);
                }
                check(families[f], "loss", fabs(loss[1] / loss[0] - 1), moe ? 0.2 : 0.02);
                check(families[f], "loss of edited rows", fabs(edited[1] / edited[0] - 1),
                      moe ? 0.2 : 0.02);
                for (int i = 0; i < 2; i++)
                    lu_view_close(&p.view[i]);
                leave(&p);
            }
}

/* ---- whole runs --------------------------------------------------------------------------------
 */

typedef struct {
    char root[SYN_PATH], data[SYN_PATH + 16], in[64];
    lutra_quantize_options o;
    lutra_calibration c;
    lutra_options options;
} place;

static void begin(place *p, const char *family, const char *recipe)
{
    char text[4096] = "";
    uint32_t seed = 11;
    lutra_err err = {0};
    lutra_recipe *r;
    memset(p, 0, sizeof *p);
    syn_temp(p->root);
    snprintf(p->in, sizeof p->in, "tests/fixtures/tiny/%s", family);
    for (int i = 0; i < 40 * 16; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%d%c",
                 (int)((syn_random(&seed) + 0.5f) * 95), i % 16 == 15 ? '\n' : ' ');
    syn_text(p->root, "data.ids", text);
    snprintf(p->data, sizeof p->data, "%s/data.ids", p->root);
    lutra_quantize_options_init(&p->o);
    must(lutra_format_parse("int3:g8:asym", &p->o.format, &err), &err);
    must(lutra_recipe_parse("test", recipe, strlen(recipe), &r, &err), &err);
    lutra_calibration_init(&p->c);
    p->c.data = p->data;
    p->c.n_samples = 30;
    p->c.length = LENGTH;
    p->o.recipe = r;
    p->o.calibration = &p->c;
    p->o.device = device;
    lutra_options_init(&p->options);
    p->options.n_threads = 2;
}

static void end(place *p)
{
    lutra_recipe_free((lutra_recipe *)p->o.recipe);
    syn_delete(p->root);
}

static const char *out_of(const place *p, const char *name)
{
    static char paths[4][SYN_PATH * 2];
    static int at;
    char *path = paths[at++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", p->root, name);
    return path;
}

static lutra_status quantize(place *p, const char *name, lutra_quantize_report *r, lutra_err *err)
{
    lutra_ctx *ctx;
    must(lutra_open(&p->options, &ctx, err), err);
    if (emulated)
        ctx->gpu = gpu_emulated();
    const lutra_status status =
        lutra_quantize_checkpoint(ctx, p->in, out_of(p, name), &p->o, r, err);
    lutra_close(ctx);
    if (emulated)
        assert_int_equal(gpu_emulated_now.taken, 0);
    return status;
}

static double mean_error(const lutra_quantize_report *r)
{
    double sum = 0;
    assert_true(r->n_modules > 0);
    for (int64_t i = 0; i < r->n_modules; i++) {
        assert_true(r->modules[i].output_error >= 0 && r->modules[i].sqnr_db > 0);
        sum += r->modules[i].output_error / (double)r->n_modules;
    }
    return sum;
}

static const char *const recipes[] = {
    "passes: [{method: gptq, min_rows: 20, block_size: 16}]\n",
    "passes: [{method: gptq, min_rows: 20, sequential: false, static_groups: false}]\n",
    "passes: [{method: awq, grid: 4, loss_samples: 3}, {method: rtn}]\n",
    "passes: [{method: smoothquant}, {method: gptq, min_rows: 20}]\n",
};

/* The quality is the CPU's: the mean output error of all linears, and both dtypes. */
static void methods_end_where_they_do_on_the_cpu(void **state)
{
    (void)state;
    for (size_t f = 0; f < N_FAMILIES; f++)
        for (size_t m = 0; m < sizeof recipes / sizeof *recipes; m++) {
            if (f > 0 && m > 0 && f % 3 != m % 3) /* each family once or twice, each method twice */
                continue;
            place p;
            lutra_quantize_report cpu, gpu[2];
            lutra_err err = {0};
            begin(&p, families[f], recipes[m]);
            p.o.device = "cpu";
            must(quantize(&p, "cpu", &cpu, &err), &err);
            assert_true(cpu.gpu_peak == 0 && cpu.gpu_forecast == 0);
            p.o.device = device;
            for (int i = 0; i < 2; i++) {
                p.c.dtype = i ? LUTRA_F16 : LUTRA_BF16;
                must(quantize(&p, i ? "fp16" : "bf16", &gpu[i], &err), &err);
                assert_true(gpu[i].gpu_peak > 0);
                assert_true(gpu[i].times.walk > 0 && gpu[i].times.statistics > 0);
                const double ratio = mean_error(&gpu[i]) / mean_error(&cpu);
                if (!(ratio < 1.05 && ratio > 0.95))
                    fail_msg("%s, %s%s: %g times the error of the CPU", families[f], recipes[m],
                             i ? "fp16" : "bf16", ratio);
                lutra_quantize_report_free(&gpu[i]);
            }
            lutra_quantize_report_free(&cpu);
            end(&p);
        }
}

static void spilling_and_threads_change_nothing(void **state)
{
    (void)state;
    place p;
    lutra_err err = {0};
    begin(&p, "llama-h16", recipes[2]);
    must(quantize(&p, "whole", NULL, &err), &err);
    p.options.n_threads = 3;
    p.c.memory = 0;
    if (emulated)
        gpu_emulated_now.memory = (256 << 20) + (768 << 10); /* the stream does not fit beside it */
    must(quantize(&p, "spilled", NULL, &err), &err);
    if (emulated)
        gpu_emulated_now.memory = 32 << 20; /* nor do weights on trial beside what is left free */
    must(quantize(&p, "crowded", NULL, &err), &err);
    gpu_emulated_reset();
    assert_true(syn_same_folder(out_of(&p, "whole"), out_of(&p, "spilled")));
    assert_true(syn_same_folder(out_of(&p, "whole"), out_of(&p, "crowded")));
    end(&p);
}

/* What is queued may be computed at any time before somebody waits. */
static void a_late_gpu_gives_the_same_bytes(void **state)
{
    (void)state;
    if (!emulated)
        skip();
    for (size_t m = 0; m < sizeof recipes / sizeof *recipes; m++) {
        place p;
        lutra_err err = {0};
        begin(&p, m % 2 ? "mixtral-h16" : "llama-h16", recipes[m]);
        p.c.memory = 0;
        must(quantize(&p, "prompt", NULL, &err), &err);
        gpu_emulated_now.late = true;
        must(quantize(&p, "late", NULL, &err), &err);
        gpu_emulated_now.memory = (256 << 20) + (768 << 10);
        must(quantize(&p, "spilled", NULL, &err), &err);
        gpu_emulated_reset();
        assert_true(syn_same_folder(out_of(&p, "prompt"), out_of(&p, "late")));
        assert_true(syn_same_folder(out_of(&p, "prompt"), out_of(&p, "spilled")));
        end(&p);
    }
}

static void die_at(void *user, const lutra_progress *e)
{
    int *left = user;
    (void)e;
    if (--*left == 0)
        raise(SIGKILL);
}

/* A child that kills itself at the n-th report of progress. True if it was through before. */
static bool run_killed(place *p, const char *name, int n)
{
    int status;
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        p->options.user = &n;
        p->options.progress = die_at;
        _exit(quantize(p, name, NULL, NULL) == LUTRA_OK ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status))
        assert_int_equal(WEXITSTATUS(status), 0);
    return WIFEXITED(status);
}

static void killed_runs_resume_to_the_same_bytes(void **state)
{
    (void)state;
    if (!emulated) /* a GPU's context does not survive a fork */
        skip();
    static const char *const some[] = {"llama-h16", "mixtral-h16"};
    for (size_t f = 0; f < 2; f++)
        for (size_t m = 0; m < 3; m += 2) {
            place p;
            lutra_err err = {0};
            int kills = 0;
            begin(&p, some[f], recipes[m]);
            must(quantize(&p, "whole", NULL, &err), &err);
            for (int n = 1;; n += 2) {
                const bool through = run_killed(&p, "out", n);
                if (!through)
                    must(quantize(&p, "out", NULL, &err), &err);
                kills += !through;
                assert_true(syn_same_folder(out_of(&p, "whole"), out_of(&p, "out")));
                syn_delete(out_of(&p, "out"));
                if (through)
                    break;
            }
            assert_true(kills >= 2);
            end(&p);
        }
}

static void another_device_or_type_does_not_resume(void **state)
{
    (void)state;
    if (!emulated)
        skip();
    place p;
    lutra_err err = {0};
    begin(&p, "llama-h16", recipes[0]);
    assert_false(run_killed(&p, "out", 6));
    p.o.device = "cpu";
    assert_int_equal(quantize(&p, "out", NULL, &err), LUTRA_E_EXISTS);
    p.o.device = device;
    p.c.dtype = LUTRA_F16;
    assert_int_equal(quantize(&p, "out", NULL, &err), LUTRA_E_EXISTS);
    p.c.dtype = LUTRA_BF16;
    must(quantize(&p, "out", NULL, &err), &err);
    end(&p);
}

static void what_does_not_fit_is_said_and_the_forecast_holds(void **state)
{
    (void)state;
    if (!emulated)
        skip();
    place p;
    lutra_err err = {0};
    lutra_quantize_report r;
    begin(&p, "llama-h16", recipes[0]);
    must(quantize(&p, "whole", &r, &err), &err);
    assert_true(r.gpu_peak > 0 && r.gpu_peak <= r.gpu_forecast);
    lutra_quantize_report_free(&r);
    gpu_emulated_now.memory = 20000;
    assert_int_equal(quantize(&p, "out", NULL, &err), LUTRA_E_NOMEM);
    assert_non_null(strstr(err.msg, "are free"));
    p.o.device = "cuda:7";
    assert_int_equal(quantize(&p, "out", NULL, &err), LUTRA_E_UNSUPPORTED);
    gpu_emulated_reset();
    end(&p);
}

/* What judges rests on the GPU: float32 rows before the MLP and the 16-bit outputs of both parts.
 */
static void only_samples_that_judge_rest(void **state)
{
    (void)state;
    static const int judges[] = {3, 0, 30}; /* 0: all */
    int64_t peak[3];
    if (!emulated)
        skip();
    for (int i = 0; i < 3; i++) {
        char recipe[128];
        place p;
        lutra_err err = {0};
        lutra_quantize_report r;
        snprintf(recipe, sizeof recipe,
                 "passes: [{method: awq, grid: 2, clip: false, loss_samples: %d}, {method: rtn}]\n",
                 judges[i]);
        begin(&p, "llama-h16", recipe);
        must(quantize(&p, "out", &r, &err), &err);
        assert_true(r.gpu_peak <= r.gpu_forecast);
        peak[i] = r.gpu_peak;
        lutra_quantize_report_free(&r);
        end(&p);
    }
    assert_int_equal(peak[1], peak[2]);
    assert_int_equal(peak[1] - peak[0], (30 - 3) * LENGTH * HIDDEN * (4 + 2 + 2));
}

static void count_rtn(void *user, const lutra_progress *e)
{
    *(int *)user += e->item && strstr(e->item, " rtn") != NULL;
}

/* Rows that a transform has gathered serve the rounding after it; GPTQ's inputs are others. */
static void rows_are_gathered_once(void **state)
{
    (void)state;
    static const char *const passes[] = {
        "passes: [{method: rtn}]\n",
        "passes: [{method: awq, grid: 2, loss_samples: 3}, {method: rtn}]\n",
        "passes: [{method: gptq, min_rows: 20, modules: [\"*.q_proj\"]}, {method: rtn}]\n"};
    for (int i = 0; i < 3; i++) {
        place p;
        int walks = 0;
        lutra_err err = {0};
        lutra_quantize_report r;
        begin(&p, "llama-h16", passes[i]);
        p.options.progress = count_rtn;
        p.options.user = &walks;
        must(quantize(&p, "out", &r, &err), &err);
        assert_true((walks > 0) == (i != 1));
        for (int64_t m = 0; m < r.n_modules; m++)
            assert_true(r.modules[m].output_error > 0);
        lutra_quantize_report_free(&r);
        end(&p);
    }
}

/* Whichever call to the GPU fails: an error that says where, and nothing is kept. */
static void faults_are_reported(void **state)
{
    (void)state;
    if (!emulated)
        skip();
    for (size_t m = 0; m < 3; m += 2) {
        place p;
        int64_t faults = 0;
        begin(&p, "llama-h16", recipes[m]);
        p.c.n_samples = 4;
        for (int64_t step = 1;; step += 1 + step / 3, faults++) {
            lutra_err err = {0};
            gpu_emulated_now.fail_at = step;
            p.o.restart = true;
            const lutra_status status = quantize(&p, "out", NULL, &err);
            const bool whole = gpu_emulated_now.fail_at > 0;
            gpu_emulated_now.fail_at = 0;
            if (whole) {
                must(status, &err);
                break;
            }
            assert_int_equal(status, LUTRA_E_INTERNAL);
            assert_non_null(strstr(err.msg, "planted"));
        }
        assert_true(faults > 5);
        end(&p);
    }
}

int main(void)
{
    const char *wanted = getenv("LUTRA_TEST_GPU");
    if (wanted && *wanted) {
        device = wanted;
        emulated = false;
    }
    gpu_emulated_reset();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_a_walk_sees_is_what_the_cpu_sees),
        cmocka_unit_test(losses_are_those_of_the_cpu),
        cmocka_unit_test(methods_end_where_they_do_on_the_cpu),
        cmocka_unit_test(spilling_and_threads_change_nothing),
        cmocka_unit_test(a_late_gpu_gives_the_same_bytes),
        cmocka_unit_test(killed_runs_resume_to_the_same_bytes),
        cmocka_unit_test(another_device_or_type_does_not_resume),
        cmocka_unit_test(what_does_not_fit_is_said_and_the_forecast_holds),
        cmocka_unit_test(only_samples_that_judge_rest),
        cmocka_unit_test(rows_are_gathered_once),
        cmocka_unit_test(faults_are_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
