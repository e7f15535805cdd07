/* One layer at a time, for every family: the layers alone give what the whole pass gives, a scale
   through any seam changes no output, and statistics are those of the rows that flowed past. */
#include "support/expect.h"

#include <string.h>

#include "base/mem.h"
#include "calib/block_runner.h"
#include "calib/gather.h"
#include "support/synthetic_checkpoint.h"

static const char *const families[] = {"llama", "mistral", "qwen2", "gemma2", "mixtral"};
#define N_FAMILIES (sizeof families / sizeof *families)
#define SAMPLES 5
#define LENGTH 12

typedef struct {
    lutra_ctx *ctx;
    lutra_model *model;
    lu_la *la;
    lu_dataset data;
    lu_runner runner;
    char folder[SYN_PATH];
} bench;

static const char *path_of(const char *family)
{
    static char path[64];
    snprintf(path, sizeof path, "tests/fixtures/tiny/%s", family);
    return path;
}

static void enter(bench *b, const char *family)
{
    lutra_err err;
    uint32_t seed = 7;
    *b = (bench){.ctx = open_ctx(2), .data = {.n_samples = SAMPLES, .length = LENGTH}};
    syn_temp(b->folder);
    must(lu_model_open_bare(b->ctx, path_of(family), &b->model, &err), &err);
    must(lu_la_open(b->ctx->pool, NULL, &b->la, &err), &err);
    b->data.ids = lu_array(SAMPLES * LENGTH, sizeof *b->data.ids);
    for (int i = 0; i < SAMPLES * LENGTH; i++)
        b->data.ids[i] = (int32_t)((syn_random(&seed) + 0.5f) * 95);
    const lu_walker_options o = {.memory = 1 << 20, .folder = b->folder};
    must(lu_runner_open(b->model, &b->data, &o, 1, &b->runner, &err), &err);
}

static void leave(bench *b)
{
    lu_runner_close(&b->runner);
    lu_dataset_close(&b->data);
    lu_la_close(b->la);
    lutra_model_close(b->model);
    lutra_close(b->ctx);
    syn_delete(b->folder);
}

static void open_layer(bench *b, int64_t layer, lu_view *v)
{
    lutra_err err;
    must(lu_view_open(b->model, b->la, layer, v, &err), &err);
    must(lu_view_fetch_all(v, &err), &err);
    lu_runner_serve(&b->runner, v);
}

static int64_t stream_count(const bench *b)
{
    return SAMPLES * LENGTH * b->model->config.hidden_size;
}

static const lu_batch all_rows = {.rows = SAMPLES * LENGTH, .samples = SAMPLES};

static float *read_stream(const bench *b)
{
    lu_walker *w = b->runner.walker;
    float *x = lu_array((size_t)stream_count(b), sizeof *x);
    must(w->api->get(w, LU_REST_STREAM, &all_rows, x, NULL), NULL);
    return x;
}

static void write_stream(bench *b, const float *x)
{
    lu_walker *w = b->runner.walker;
    must(w->api->put(w, LU_REST_STREAM, &all_rows, x, NULL), NULL);
}

static void walk(bench *b, lu_view *v, lu_stage from, lu_stage to)
{
    lutra_err err;
    must(lu_runner_walk(&b->runner, v, from, to, (lu_watch){NULL, NULL}, true, &err), &err);
}

/* ---- the same as the whole pass ----------------------------------------------------------------
 */

typedef struct {
    float *last; /* [rows][cols] of the last layer's output */
    int64_t last_layer;
} last_out;

static void keep_last(void *user, int64_t layer, const char *site, const float *x, int64_t rows,
                      int64_t cols)
{
    last_out *o = user;
    if (layer == o->last_layer && strcmp(site, "layer_out") == 0)
        memcpy(o->last, x, (size_t)(rows * cols) * sizeof *x);
}

static void layers_alone_equal_the_whole_pass(void **state)
{
    (void)state;
    for (size_t f = 0; f < N_FAMILIES; f++)
        for (int split = 0; split < 2; split++) {
            bench b;
            lutra_err err;
            enter(&b, families[f]);
            const lu_model_config *c = &b.model->config;
            for (int64_t layer = 0; layer < c->n_layers; layer++) {
                lu_view v;
                open_layer(&b, layer, &v);
                if (split)
                    walk(&b, &v, LU_STAGE_QKV, LU_STAGE_MLP);
                walk(&b, &v, split ? LU_STAGE_MLP : LU_STAGE_QKV, LU_STAGE_END);
                lu_view_close(&v);
            }
            lutra_model *whole;
            lutra_model_options o;
            lutra_model_options_init(&o);
            o.dtype = LUTRA_F32;
            must(lutra_model_open(b.ctx, path_of(families[f]), &o, &whole, &err), &err);
            lu_forward *forward;
            last_out out = {lu_array((size_t)(LENGTH * c->hidden_size), sizeof(float)),
                            c->n_layers - 1};
            must(lu_forward_open(whole, LENGTH, LENGTH, &forward, &err), &err);
            must(lu_forward_set_tap(forward, keep_last, &out, &err), &err);
            float *x = read_stream(&b);
            for (int64_t s = 0; s < SAMPLES; s++) {
                lu_kv kv;
                must(lu_kv_open(whole, LENGTH, &kv, &err), &err);
                const lu_segment segment = {.kv = &kv, .ids = b.data.ids + s * LENGTH, .n = LENGTH};
                must(lu_forward_run(forward, &segment, 1, &err), &err);
                /* weights packed from bf16 and from float32 are multiplied alike */
                assert_memory_equal(out.last, x + s * LENGTH * c->hidden_size,
                                    (size_t)(LENGTH * c->hidden_size) * sizeof *x);
                lu_kv_close(&kv);
            }
            lu_free(x);
            lu_free(out.last);
            lu_forward_close(forward);
            lutra_model_close(whole);
            leave(&b);
        }
}

/* ---- seams -------------------------------------------------------------------------------------
 */

static void a_scale_through_a_seam_changes_no_output(void **state)
{
    (void)state;
    int seams = 0;
    for (size_t f = 0; f < N_FAMILIES; f++) {
        bench b;
        lutra_err err;
        uint32_t seed = 99;
        enter(&b, families[f]);
        for (int64_t layer = 0; layer < b.model->config.n_layers; layer++) {
            lu_view v;
            open_layer(&b, layer, &v);
            float *start = read_stream(&b);
            const int64_t count = stream_count(&b);
            walk(&b, &v, LU_STAGE_QKV, LU_STAGE_END);
            float *want = read_stream(&b);
            for (int i = 0; i < v.block.n_seams; i++, seams++) {
                lu_seam *seam = &v.block.seams[i];
                float *s = lu_array((size_t)seam->n_scales, sizeof *s);
                assert_null(seam->refusal);
                for (int64_t c = 0; c < seam->n_scales; c++)
                    s[c] = expf(3 * syn_random(&seed));
                must(lu_seam_apply(&v.block, seam, s, &err), &err);
                lu_free(s);
                write_stream(&b, start);
                walk(&b, &v, LU_STAGE_QKV, LU_STAGE_END);
                float *got = read_stream(&b);
                /* the block's own part, without the residual it is added to */
                for (int64_t j = 0; j < count; j++)
                    got[j] = got[j] - start[j];
                float *own = lu_array((size_t)count, sizeof *own);
                for (int64_t j = 0; j < count; j++)
                    own[j] = want[j] - start[j];
                if (!(relative(got, own, count) <= 1e-5))
                    fail_msg("%s, %s: output changes by %g", families[f], seam->name,
                             relative(got, own, count));
                lu_free(got);
                lu_free(own);
            }
            write_stream(&b, want);
            lu_free(start);
            lu_free(want);
            lu_view_close(&v);
        }
        leave(&b);
    }
    assert_int_equal(seams, 2 * 4 + 2 * 4 + 2 * 4 + 3 * 4 + 2 * 7);
}

static void scales_that_are_no_scales_are_refused(void **state)
{
    (void)state;
    bench b;
    lutra_err err = {0};
    enter(&b, "llama");
    lu_view v;
    open_layer(&b, 0, &v);
    float s[128];
    const float bad[] = {0, -1, NAN, INFINITY, 1e-45f};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        for (int c = 0; c < 128; c++)
            s[c] = 1;
        s[3] = bad[i];
        assert_int_equal(lu_seam_apply(&v.block, &v.block.seams[0], s, &err), LUTRA_E_ARG);
        assert_non_null(strstr(err.msg, "channel 3"));
    }
    lu_view_close(&v);
    leave(&b);
}

/* Statistics follow a scale as if they had been gathered after it. */
static void statistics_follow_a_scale(void **state)
{
    (void)state;
    const unsigned all =
        LU_STAT_ABSMAX | LU_STAT_ABSMEAN | LU_STAT_RANGE | LU_STAT_HESSIAN | LU_STAT_ROWS;
    for (size_t f = 0; f < N_FAMILIES; f++) {
        bench b;
        lutra_err err;
        uint32_t seed = 3;
        enter(&b, families[f]);
        lu_view v;
        open_layer(&b, 0, &v);
        lu_gather g;
        for (int round = 0; round < 2; round++) {
            lu_stats *moved = lu_calloc((size_t)v.block.n_sites, sizeof *moved);
            for (int i = 0; round && i < v.block.n_sites; i++) {
                moved[i] = v.block.sites[i].stats;
                v.block.sites[i].stats = (lu_stats){.n_rows = 0};
            }
            must(lu_gather_open(&v, LU_STAGE_QKV, LU_STAGE_DOWN, all, NULL, false, &g, &err), &err);
            must(lu_runner_walk(&b.runner, &v, LU_STAGE_QKV, LU_STAGE_DOWN,
                                (lu_watch){.gather = &g}, false, &err),
                 &err);
            must(lu_gather_close(&g, NULL, &err), &err);
            int64_t expert_rows = 0;
            for (int i = 0; i < v.block.n_sites; i++) {
                const lu_site *site = &v.block.sites[i];
                const lu_stats *s = &site->stats;
                expert_rows += v.stages[i] == LU_STAGE_DOWN ? s->n_rows : 0;
                if (round) {
                    assert_int_equal(moved[i].n_rows, s->n_rows);
                    assert_true(relative(moved[i].absmax, s->absmax, site->k) <= 1e-4);
                    assert_true(relative(moved[i].absmean, s->absmean, site->k) <= 1e-4);
                    assert_true(relative(moved[i].lowest, s->lowest, site->k) <= 1e-4);
                    assert_true(relative(moved[i].highest, s->highest, site->k) <= 1e-4);
                    assert_true(relative(moved[i].hessian, s->hessian, site->k * site->k) <= 1e-4);
                    assert_true(relative(moved[i].rows, s->rows, s->n_kept * site->k) <= 1e-4);
                    lu_stats_free(&moved[i]);
                } else if (s->n_kept == s->n_rows && s->n_rows) { /* all rows are at hand */
                    double diagonal = 0, most = 0;
                    for (int64_t r = 0; r < s->n_rows; r++) {
                        const double x = (double)s->rows[r * site->k + 1];
                        diagonal += x * x / (double)s->n_rows;
                        most = fmax(most, fabs(x));
                    }
                    assert_true(fabs(diagonal - (double)s->hessian[site->k + 1]) <=
                                1e-5 * diagonal);
                    assert_true(most == (double)s->absmax[1]);
                }
            }
            assert_int_equal(expert_rows, SAMPLES * LENGTH * b.model->config.n_active);
            lu_free(moved);
            for (int i = 0; !round && i < v.block.n_seams; i++) {
                float s[128];
                for (int c = 0; c < 128; c++)
                    s[c] = expf(2 * syn_random(&seed));
                must(lu_seam_apply(&v.block, &v.block.seams[i], s, &err), &err);
            }
        }
        lu_view_close(&v);
        leave(&b);
    }
}

/* ---- losses ------------------------------------------------------------------------------------
 */

static void double_rows(void *arg, const lu_site *site, float *x, int64_t rows)
{
    int *calls = arg;
    ++*calls;
    for (int64_t i = 0; i < rows * site->k; i++)
        x[i] *= 2;
}

static void losses_see_changed_weights_and_edited_inputs(void **state)
{
    (void)state;
    for (size_t f = 0; f < N_FAMILIES; f++) {
        bench b;
        lutra_err err;
        enter(&b, families[f]);
        lu_view v;
        open_layer(&b, 1, &v);
        for (lu_part part = LU_PART_ATTENTION; part < LU_N_PARTS; part++) {
            double loss = -1;
            int calls = 0;
            lu_site *last = &v.block.sites[part == LU_PART_ATTENTION ? 1 : v.block.n_sites - 1];
            lu_site_linear *l = last->linears[0];
            must(v.block.record(&v.block, part, &err), &err);
            must(v.block.loss(&v.block, part, NULL, NULL, &loss, &err), &err);
            assert_true(loss == 0);
            const int64_t count = l->n * l->k;
            for (int64_t i = 0; i < count; i++)
                l->w[i] *= 1.5f;
            must(v.block.loss(&v.block, part, NULL, NULL, &loss, &err), &err);
            assert_true(loss > 0);
            for (int64_t i = 0; i < count; i++)
                l->w[i] /= 1.5f;
            must(v.block.loss(&v.block, part, double_rows, &calls, &loss, &err), &err);
            assert_true(loss > 0 && calls > 0);
            must(v.block.loss(&v.block, part, NULL, NULL, &loss, &err), &err);
            assert_true(loss <= 1e-10);
        }
        lu_view_close(&v);
        leave(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layers_alone_equal_the_whole_pass),
        cmocka_unit_test(a_scale_through_a_seam_changes_no_output),
        cmocka_unit_test(scales_that_are_no_scales_are_refused),
        cmocka_unit_test(statistics_follow_a_scale),
        cmocka_unit_test(losses_see_changed_weights_and_edited_inputs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
