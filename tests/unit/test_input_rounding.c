/* test_input_rounding.c - models whose linears round their inputs: how far that is from the float
   model, that no cut of the input and no number of threads changes a bit, static scales. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "lutra/engine.h"
#include "lutra/quant.h"
#include "model/slots.h"
#include "support/expect.h"

#define VOCAB 96
#define N 24

static const char *const models[] = {"tests/fixtures/tiny/llama", "tests/fixtures/tiny/llama-int3",
                                     "tests/fixtures/tiny/gemma2", "tests/fixtures/tiny/mixtral"};
#define N_MODELS (sizeof models / sizeof *models)

static void make_ids(int32_t *ids)
{
    for (int i = 0; i < N; i++)
        ids[i] = (i * 37 + 11) % VOCAB;
}

static lutra_model *open_model(lutra_ctx *ctx, const char *path, const char *act_quant)
{
    lutra_model_options o;
    lutra_model *m;
    lutra_err err;
    lutra_model_options_init(&o);
    o.dtype = LUTRA_F32;
    o.act_quant = act_quant;
    must(lutra_model_open(ctx, path, &o, &m, &err), &err);
    return m;
}

/* Logits of all N positions, fed in pieces of `step` tokens. */
static void logits_of(lutra_model *m, int64_t step, float *out)
{
    int32_t ids[N];
    lutra_session *s;
    lutra_err err;
    make_ids(ids);
    must(lutra_session_open(m, N, &s, &err), &err);
    for (int64_t at = 0; at < N; at += step) {
        const int64_t n = N - at < step ? N - at : step;
        must(lutra_session_feed(s, ids + at, n, true, out + at * VOCAB, &err), &err);
    }
    lutra_session_close(s);
}

static double loss_of(lutra_ctx *ctx, const char *path, const char *act_quant)
{
    static float exact[N * VOCAB], got[N * VOCAB];
    lutra_model *m = open_model(ctx, path, NULL);
    logits_of(m, N, exact);
    lutra_model_close(m);
    m = open_model(ctx, path, act_quant);
    logits_of(m, N, got);
    lutra_model_close(m);
    return relative(got, exact, (int64_t)N * VOCAB);
}

/* Errors go with the step: each bit less about doubles them; groups and zero points help. */
static void fewer_bits_lose_more(void **state)
{
    lutra_ctx *ctx = open_ctx(1);
    (void)state;
    for (size_t i = 0; i < N_MODELS; i++) {
        const double e8 = loss_of(ctx, models[i], "int8"), e6 = loss_of(ctx, models[i], "int6"),
                     e4 = loss_of(ctx, models[i], "int4"), g4 = loss_of(ctx, models[i], "int4:g8"),
                     a8 = loss_of(ctx, models[i], "int8:asym");
        /* where a token's experts change, its error is as large as its output */
        const bool routed = strstr(models[i], "mixtral") != NULL;
        assert_true(e8 > 1e-5 && e8 < (routed ? 0.3 : 0.04));
        assert_true(e4 > 2 * (routed ? e8 : e6));
        assert_true(g4 < e4);
        if (routed)
            continue;
        assert_true(e6 > 2 * e8 && e6 < 8 * e8);
        assert_true(a8 < 1.5 * e8);
    }
    lutra_close(ctx);
}

static void cuts_and_threads_change_nothing(void **state)
{
    static float one[N * VOCAB], other[N * VOCAB];
    static const char *const formats[] = {"int8", "int8:asym", "int4:g8"};
    (void)state;
    for (size_t i = 0; i < N_MODELS; i++)
        for (int f = 0; f < 3; f++)
            for (int threads = 1; threads <= 3; threads += 2) {
                lutra_ctx *ctx = open_ctx(threads);
                lutra_model *m = open_model(ctx, models[i], formats[f]);
                if (threads == 1)
                    logits_of(m, N, one);
                for (int64_t step = threads == 1 ? 1 : N; step < N + 1; step += 6) {
                    logits_of(m, step, other);
                    assert_memory_equal(one, other, sizeof one);
                }
                lutra_model_close(m);
                lutra_close(ctx);
            }
}

typedef struct {
    int n, n_rounded;
} counts;

static lutra_status count(void *arg, int64_t layer, lu_module *module, lutra_err *err)
{
    counts *c = arg;
    (void)err;
    c->n += layer >= 0;
    c->n_rounded += module->input.format.bits != 0;
    return LUTRA_OK;
}

/* Calibrated on the very text: near the dynamic model; routers and lm_head stay as they are. */
static void static_scales(void **state)
{
    static float exact[N * VOCAB], got[N * VOCAB];
    static const char *const rules[] = {"minmax", "moving", "mse", "percentile"};
    lutra_ctx *ctx = open_ctx(1);
    lutra_act_calibration o;
    lutra_err err;
    int32_t ids[N];
    (void)state;
    make_ids(ids);
    lutra_act_calibration_init(&o);
    o.window = N;
    for (size_t i = 0; i < N_MODELS; i++)
        for (int r = 0; r < 8; r++) {
            lutra_model *m = open_model(ctx, models[i], NULL);
            counts c = {0, 0};
            logits_of(m, N, exact);
            o.rule = rules[r % 4];
            must(lutra_model_calibrate(m, r < 4 ? "int8:tensor" : "int8:tensor:asym", ids, N, &o,
                                       &err),
                 &err);
            logits_of(m, N, got);
            const double e = relative(got, exact, (int64_t)N * VOCAB);
            assert_true(e > 1e-5 && e < (strstr(models[i], "mixtral") ? 0.3 : 0.06));
            must(lu_model_each_module(m, count, &c, &err), &err);
            assert_int_equal(c.n_rounded, c.n - (m->layers[0].router.weight.n ? 2 : 0));
            lutra_model_close(m);
        }
    lutra_close(ctx);
}

static void refusals(void **state)
{
    lutra_ctx *ctx = open_ctx(1);
    lutra_model_options o;
    lutra_act_calibration c;
    lutra_model *m;
    lutra_err err;
    int32_t ids[N];
    (void)state;
    make_ids(ids);
    lutra_model_options_init(&o);
    o.act_quant = "int8:tensor"; /* no scales in the checkpoint */
    assert_int_equal(lutra_model_open(ctx, models[0], &o, &m, &err), LUTRA_E_ARG);
    assert_non_null(strstr(err.msg, "q_proj.input_scale"));
    o.act_quant = "int8:g32"; /* 48 columns */
    assert_int_equal(lutra_model_open(ctx, models[0], &o, &m, &err), LUTRA_E_ARG);
    assert_non_null(strstr(err.msg, "48 columns"));
    o.act_quant = "int9";
    assert_int_equal(lutra_model_open(ctx, models[0], &o, &m, &err), LUTRA_E_ARG);

    lutra_act_calibration_init(&c);
    c.window = N;
    m = open_model(ctx, models[0], NULL);
    assert_int_equal(lutra_model_calibrate(m, "int8:token", ids, N, &c, &err), LUTRA_E_ARG);
    assert_int_equal(lutra_model_calibrate(m, "int8:tensor", ids, N - 1, &c, &err), LUTRA_E_ARG);
    ids[3] = VOCAB;
    assert_int_equal(lutra_model_calibrate(m, "int8:tensor", ids, N, &c, &err), LUTRA_E_ARG);
    ids[3] = 0;
    c.rule = "medium";
    assert_int_equal(lutra_model_calibrate(m, "int8:tensor", ids, N, &c, &err), LUTRA_E_ARG);
    c.rule = "percentile";
    c.percentile = 20;
    assert_int_equal(lutra_model_calibrate(m, "int8:tensor", ids, N, &c, &err), LUTRA_E_ARG);
    c.percentile = 99;
    must(lutra_model_calibrate(m, "int8:tensor", ids, N, &c, &err), &err);
    assert_int_equal(lutra_model_calibrate(m, "int8:tensor", ids, N, &c, &err), LUTRA_E_ARG);
    lutra_model_close(m);
    lutra_close(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fewer_bits_lose_more),
        cmocka_unit_test(cuts_and_threads_change_nothing),
        cmocka_unit_test(static_scales),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
