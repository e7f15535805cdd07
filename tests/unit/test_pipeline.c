/* test_pipeline.c - recipes over whole checkpoints: the same bytes as without where nothing
   differs, after being killed, with spilled activations and with other threads; targets; refusals.
 */
#include "support/expect.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

#include "calib/quantize.h"
#include "io/checkpoint.h"
#include "lutra/lutra.h"
#include "support/synthetic_checkpoint.h"

static const char *const families[] = {"llama", "mistral", "qwen2", "gemma2", "mixtral"};
#define N_FAMILIES (sizeof families / sizeof *families)

/* A request and where it goes. */
typedef struct {
    char root[SYN_PATH], data[SYN_PATH + 16];
    char in[64];
    lutra_quantize_options o;
    lutra_calibration c;
    lutra_options options;
    int warnings;
    char warning[256];
} place;

static void note_warning(void *user, lutra_log_level level, const char *line)
{
    place *p = user;
    if (level > LUTRA_LOG_WARN)
        return;
    p->warnings++;
    snprintf(p->warning, sizeof p->warning, "%s", line);
}

static void enter(place *p, const char *family, const char *recipe)
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
    p->o.recipe = r;
    lutra_calibration_init(&p->c);
    p->c.data = p->data;
    p->c.n_samples = 30;
    p->c.length = 20;
    p->o.calibration = &p->c;
    lutra_options_init(&p->options);
    p->options.n_threads = 2;
    p->options.user = p;
    p->options.log = note_warning;
}

static void leave(place *p)
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
    const lutra_status status =
        lutra_quantize_checkpoint(ctx, p->in, out_of(p, name), &p->o, r, err);
    lutra_close(ctx);
    return status;
}

static void must_quantize(place *p, const char *name)
{
    lutra_err err = {0};
    must(quantize(p, name, NULL, &err), &err);
}

static void must_be_same(const place *p, const char *a, const char *b)
{
    if (!syn_same_folder(out_of(p, a), out_of(p, b)))
        fail_msg("%s and %s of %s differ", a, b, p->in);
}

#define GPTQ "passes: [{method: gptq, min_rows: 20, block_size: 16}]\n"
#define RTN "passes: [{method: rtn}]\n"

/* ---- the same bytes ----------------------------------------------------------------------------
 */

static void rounding_to_nearest_as_a_pass_gives_the_same_bytes(void **state)
{
    (void)state;
    for (size_t f = 0; f < N_FAMILIES; f++)
        for (int mode = 0; mode < 4; mode++) {
            place p;
            enter(&p, families[f], RTN);
            p.o.range = mode & 1 ? LUTRA_RANGE_MSE : LUTRA_RANGE_MINMAX;
            if (mode & 2)
                p.o.calibration = NULL; /* with data the errors are measured, no more */
            must_quantize(&p, "recipe");
            const lutra_recipe *r = p.o.recipe;
            p.o.recipe = NULL;
            must_quantize(&p, "plain");
            p.o.recipe = r;
            must_be_same(&p, "recipe", "plain");
            leave(&p);
        }
}

static void threads_spilling_and_batches_change_nothing(void **state)
{
    (void)state;
    for (size_t f = 0; f < N_FAMILIES; f++) {
        place p;
        enter(&p, families[f], GPTQ);
        must_quantize(&p, "two");
        p.options.n_threads = 1;
        must_quantize(&p, "one");
        p.options.n_threads = 3;
        p.c.memory = 0;
        must_quantize(&p, "spilled");
        must_be_same(&p, "one", "two");
        must_be_same(&p, "spilled", "two");
        p.c.seed = 5;
        must_quantize(&p, "other");
        assert_false(syn_same_folder(out_of(&p, "other"), out_of(&p, "two")));
        leave(&p);
    }
}

typedef struct {
    int left;
} countdown;

static void die_at(void *user, const lutra_progress *e)
{
    countdown *c = user;
    (void)e;
    if (--c->left == 0)
        raise(SIGKILL);
}

/* Batches only: what the threads that copy tensors report is a race. */
static void count_event(void *user, const lutra_progress *e)
{
    *(int *)user += strcmp(e->stage, "calibrate") == 0;
}

/* A child that kills itself at the n-th report of progress. True if it was through before. */
static bool run_killed(place *p, const char *name, int n)
{
    int status;
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        countdown c = {n};
        p->options.user = &c;
        p->options.log = NULL;
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
    static const char *const some[] = {"llama", "gemma2", "mixtral"};
    for (size_t f = 0; f < 3; f++)
        for (int float_inputs = 0; float_inputs < 2; float_inputs++) {
            place p;
            lutra_quantize_report whole, r;
            lutra_err err = {0};
            enter(&p, some[f], GPTQ);
            p.c.float_inputs = float_inputs;
            must(quantize(&p, "whole", &whole, &err), &err);
            int resumed = 0, kills = 0;
            for (int n = 1;; n++) {
                const bool through = run_killed(&p, "out", n);
                if (!through) {
                    kills++;
                    must(quantize(&p, "out", &r, &err), &err);
                    resumed += r.resumed_tensors > 0;
                    /* the table of errors survives, too */
                    assert_int_equal(r.n_modules, whole.n_modules);
                    for (int64_t i = 0; i < r.n_modules; i++) {
                        assert_string_equal(r.modules[i].module, whole.modules[i].module);
                        assert_true(r.modules[i].sqnr_db == whole.modules[i].sqnr_db);
                        assert_true(r.modules[i].output_error == whole.modules[i].output_error);
                    }
                    lutra_quantize_report_free(&r);
                }
                must_be_same(&p, "whole", "out");
                syn_delete(out_of(&p, "out"));
                if (through)
                    break;
            }
            assert_true(kills >= 4 && resumed >= 2);
            lutra_quantize_report_free(&whole);
            leave(&p);
        }
}

static void another_request_does_not_resume(void **state)
{
    (void)state;
    place p;
    lutra_err err = {0};
    enter(&p, "llama", GPTQ);
    assert_false(run_killed(&p, "out", 9));
    p.c.seed = 3;
    assert_int_equal(quantize(&p, "out", NULL, &err), LUTRA_E_EXISTS);
    p.o.restart = true;
    must_quantize(&p, "out");
    leave(&p);
}

/* ---- what is worked on -------------------------------------------------------------------------
 */

static bool has_tensor(const char *folder, const char *name)
{
    lutra_checkpoint *c;
    lutra_err err = {0};
    must(lutra_checkpoint_open(NULL, folder, &c, &err), &err);
    const bool has = lu_checkpoint_find(c, name) != NULL;
    lutra_checkpoint_close(c);
    return has;
}

static void targets_are_met_and_others_left(void **state)
{
    (void)state;
    place p;
    enter(&p, "llama", "passes: [{method: gptq, min_rows: 20, modules: '*.mlp.*', layers: 1}]\n");
    must_quantize(&p, "out");
    assert_true(has_tensor(out_of(&p, "out"), "model.layers.1.mlp.up_proj.codes"));
    assert_true(has_tensor(out_of(&p, "out"), "model.layers.0.mlp.up_proj.weight"));
    assert_true(has_tensor(out_of(&p, "out"), "model.layers.1.self_attn.q_proj.weight"));
    leave(&p);
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

static void gptq_keeps_outputs_better_than_rounding(void **state)
{
    (void)state;
    for (size_t f = 0; f < N_FAMILIES; f++)
        for (int mode = 0; mode < 3; mode++) {
            static const char *const settings[] = {"", "sequential: false",
                                                   "act_order: false, static_groups: false"};
            char recipe[200];
            place p, q;
            lutra_err err = {0};
            lutra_quantize_report gptq, rtn;
            lutra_model *m;
            lutra_ctx *ctx;
            snprintf(recipe, sizeof recipe, "passes: [{method: gptq, min_rows: 20, %s}]\n",
                     settings[mode]);
            enter(&p, families[f], recipe);
            enter(&q, families[f], RTN);
            must(quantize(&p, "gptq", &gptq, &err), &err);
            must(quantize(&q, "rtn", &rtn, &err), &err);
            if (!(mean_error(&gptq) < 0.95 * mean_error(&rtn)))
                fail_msg("%s %s: %g, rounding to nearest %g", families[f], settings[mode],
                         mean_error(&gptq), mean_error(&rtn));
            ctx = open_ctx(1);
            must(lutra_model_open(ctx, out_of(&p, "gptq"), NULL, &m, &err), &err);
            lutra_model_close(m);
            lutra_close(ctx);
            lutra_quantize_report_free(&gptq);
            lutra_quantize_report_free(&rtn);
            leave(&p);
            leave(&q);
        }
}

/* Whatever is in the list works on each kind of block, alone or before GPTQ, and resumes. */
static void every_method_works_on_every_kind_of_block(void **state)
{
    static const char *const kinds[] = {"qwen2", "gemma2", "mixtral"};
    (void)state;
    for (int m = 0; lutra_method_at(m); m++)
        for (size_t f = 0; f < 3; f++) {
            const lutra_method *method = lutra_method_at(m);
            const bool rounds = method->kind == LUTRA_METHOD_ROUND;
            char recipe[200];
            place p;
            lutra_err err = {0};
            lutra_model *model;
            snprintf(recipe, sizeof recipe, "passes: [{method: %s}%s]\n", method->name,
                     rounds ? "" : ", {method: gptq, min_rows: 20}");
            enter(&p, kinds[f], recipe);
            p.c.n_samples = 8;
            if (strcmp(method->name, "llmint8") == 0)
                must(lutra_format_parse("int8:channel", &p.o.format, &err), &err);
            lutra_status status = quantize(&p, "whole", NULL, &err);
            if (status != LUTRA_OK)
                fail_msg("%s on %s: %s", method->name, kinds[f], err.msg);
            lutra_ctx *ctx = open_ctx(1);
            must(lutra_model_open(ctx, out_of(&p, "whole"), NULL, &model, &err), &err);
            lutra_model_close(model);
            lutra_close(ctx);
            /* killed in the last block */
            int events = 0;
            p.options.progress = count_event;
            p.options.user = &events;
            p.options.log = NULL;
            must_quantize(&p, "counted");
            p.options.progress = NULL;
            assert_false(run_killed(&p, "out", events));
            must_quantize(&p, "out");
            must_be_same(&p, "whole", "out");
            leave(&p);
        }
}

static void experts_without_tokens_are_rounded_with_a_warning(void **state)
{
    (void)state;
    place p;
    enter(&p, "mixtral", "passes: [{method: gptq, min_rows: 500}]\n");
    must_quantize(&p, "out");
    assert_true(p.warnings >= 1);
    assert_non_null(strstr(p.warning, "expert"));
    assert_non_null(strstr(p.warning, "rounded to nearest"));
    leave(&p);
}

/* ---- refusals ----------------------------------------------------------------------------------
 */

static void expect(place *p, lutra_status status, const char *words)
{
    lutra_err err = {0};
    const lutra_status got = quantize(p, "out", NULL, &err);
    if (got != status || !strstr(err.msg, words))
        fail_msg("%s: %s, expected: %s", lutra_status_text(got), err.msg, words);
}

static bool stop(void *user)
{
    (void)user;
    return true;
}

static void what_cannot_work_is_refused_and_said(void **state)
{
    (void)state;
    place p;
    enter(&p, "llama", GPTQ);
    p.o.restart = true; /* each is another request */
    p.o.calibration = NULL;
    expect(&p, LUTRA_E_ARG, "needs calibration data");
    p.o.calibration = &p.c;
    p.c.length = 65;
    expect(&p, LUTRA_E_ARG, "takes at most 64");
    p.c.length = 20;
    p.c.data = "/nowhere/data.ids";
    expect(&p, LUTRA_E_IO, "/nowhere/data.ids");
    p.c.data = p.data;
    syn_text(p.root, "data.ids", "1 2 96 4\n");
    expect(&p, LUTRA_E_FORMAT, "token id 96");
    leave(&p);
    enter(&p, "llama", GPTQ);
    p.options.cancelled = stop;
    expect(&p, LUTRA_E_CANCELLED, "");
    p.options.cancelled = NULL;
    must(lutra_format_parse("int3:g32", &p.o.format, NULL), NULL);
    p.o.restart = true;
    expect(&p, LUTRA_E_ARG, "does not divide");
    leave(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rounding_to_nearest_as_a_pass_gives_the_same_bytes),
        cmocka_unit_test(threads_spilling_and_batches_change_nothing),
        cmocka_unit_test(killed_runs_resume_to_the_same_bytes),
        cmocka_unit_test(another_request_does_not_resume),
        cmocka_unit_test(targets_are_met_and_others_left),
        cmocka_unit_test(gptq_keeps_outputs_better_than_rounding),
        cmocka_unit_test(every_method_works_on_every_kind_of_block),
        cmocka_unit_test(experts_without_tokens_are_rounded_with_a_warning),
        cmocka_unit_test(what_cannot_work_is_refused_and_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
