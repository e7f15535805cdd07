/* test_kv_cache.c - quantized KV caches: what rounding does to a row, that neither the cut of a
   sequence nor threads change a bit, rings, memory, and going back further than a cache can. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "kern/kv_quant.h"
#include "kern/table.h"
#include "lutra/engine.h"
#include "model/forward.h"
#include "support/expect.h"

#define VOCAB 96
#define N 300 /* past two of KIVI's 128 */

static const char *const names[] = {NULL, "int8", "int4", "fp8", "kivi4", "kivi2"};
#define N_NAMES (sizeof names / sizeof *names)

/* --- rows ------------------------------------------------------------------------------------- */

static void fill(float *x, int n, uint64_t seed)
{
    for (int i = 0; i < n; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        x[i] = (float)(int64_t)seed / 4e18f + (i % 5 == 0 ? 1.5f : 0);
    }
}

/* Every element is off by half a step at most, and a little for the float16 of scale and offset. */
static void rounding_errors(void **state)
{
    enum { DIM = 70 };
    static const float steps[LU_N_KV_KINDS] = {[LU_KV_INT8] = 1.0f / 127,
                                               [LU_KV_INT4] = 1.0f / 15,
                                               [LU_KV_KIVI4] = 1.0f / 15,
                                               [LU_KV_KIVI2] = 1.0f / 3};
    float x[DIM];
    uint8_t row[4 * DIM], codes[DIM];
    lu_ops ops;
    (void)state;
    fill(x, DIM, 3);
    for (int level = 0; level <= (int)lu_level_best(); level++)
        for (int kind = LU_KV_INT8; kind < LU_N_KV_KINDS; kind++) {
            lu_ops_fill(&ops, (lu_level)level);
            lu_kv_encode_row(&ops, (lu_kv_kind)kind, x, DIM, row, codes);
            for (int d = 0; d < DIM; d++) {
                const int from = lu_kv_is_kivi((lu_kv_kind)kind) ? d / 32 * 32 : 0;
                const int to = !from && !lu_kv_is_kivi((lu_kv_kind)kind) ? DIM
                               : from + 32 < DIM                         ? from + 32
                                                                         : DIM;
                float lo = lu_kv_is_kivi((lu_kv_kind)kind) ? x[from] : 0, hi = lo;
                for (int i = from; i < to; i++) {
                    lo = fminf(lo, x[i]);
                    hi = fmaxf(hi, x[i]);
                }
                const float most = fmaxf(-lo, hi);
                const float span = kind == LU_KV_INT8 ? most : hi - lo;
                const float bound =
                    kind == LU_KV_FP8 ? fmaxf(fabsf(x[d]) / 16, most / 448 / 512) + most * 0x1p-10f
                                      : 0.5f * span * steps[kind] + most * 0x1p-9f;
                assert_true(fabsf(lu_kv_decode((lu_kv_kind)kind, row, DIM, d) - x[d]) <= bound);
            }
        }
}

static void keys_are_rounded_by_channel(void **state)
{
    enum { DIM = 6 };
    float x[LU_KIVI_GROUP * DIM];
    uint8_t group[4 * DIM + LU_KIVI_GROUP * DIM];
    (void)state;
    fill(x, LU_KIVI_GROUP * DIM, 9);
    for (int t = 0; t < LU_KIVI_GROUP; t++) {
        x[t * DIM + 1] = 0.1f * x[t * DIM + 1] + 50; /* far from 0: what an offset is for */
        x[t * DIM + 2] = 3;                          /* constant: exact */
    }
    for (int kind = LU_KV_KIVI4; kind <= LU_KV_KIVI2; kind++) {
        lu_kivi_encode_keys((lu_kv_kind)kind, x, DIM, group);
        for (int d = 0; d < DIM; d++) {
            float lo = x[d], hi = x[d];
            for (int t = 0; t < LU_KIVI_GROUP; t++) {
                lo = fminf(lo, x[t * DIM + d]);
                hi = fmaxf(hi, x[t * DIM + d]);
            }
            const float step = (hi - lo) / (kind == LU_KV_KIVI4 ? 15 : 3);
            for (int t = 0; t < LU_KIVI_GROUP; t++) {
                const float got = lu_kivi_decode_key((lu_kv_kind)kind, group, DIM, t, d);
                assert_true(fabsf(got - x[t * DIM + d]) <= 0.5f * step + fabsf(lo) * 0x1p-11f);
            }
            assert_true(lu_kivi_decode_key((lu_kv_kind)kind, group, DIM, 7, 2) == 3);
        }
    }
}

/* NaN, infinity and what no float16 scale reaches must not turn into numbers; zeros stay zeros. */
static void bad_values_show(void **state)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY, FLT_MAX};
    float x[40] = {0};
    uint8_t row[200], codes[40];
    lu_ops ops;
    (void)state;
    lu_ops_fill(&ops, lu_level_best());
    for (int kind = LU_KV_INT8; kind < LU_N_KV_KINDS; kind++) {
        memset(x, 0, sizeof x);
        lu_kv_encode_row(&ops, (lu_kv_kind)kind, x, 40, row, codes);
        for (int d = 0; d < 40; d++)
            assert_true(lu_kv_decode((lu_kv_kind)kind, row, 40, d) == 0);
        for (int b = 0; b < 4; b++) {
            x[3] = 1;
            x[5] = bad[b];
            lu_kv_encode_row(&ops, (lu_kv_kind)kind, x, 40, row, codes);
            assert_false(isfinite(lu_kv_decode((lu_kv_kind)kind, row, 40, 3)));
        }
    }
}

/* --- models ----------------------------------------------------------------------------------- */

static const char *const models[] = {"tests/fixtures/tiny/llama", "tests/fixtures/tiny/gemma2",
                                     "tests/fixtures/tiny/mistral"};
#define N_MODELS (sizeof models / sizeof *models)

static lutra_model *open_model(lutra_ctx *ctx, const char *path, const char *kv, lutra_dtype dtype)
{
    lutra_model_options o;
    lutra_model *m;
    lutra_err err;
    lutra_model_options_init(&o);
    o.dtype = dtype;
    o.kv = kv;
    must(lutra_model_open(ctx, path, &o, &m, &err), &err);
    return m;
}

/* Logits of N positions (more than the tiny models' context: nothing minds), in passes of `step`
   tokens with a cache made for passes of max_rows. Returns the cache's bytes. */
static size_t logits_of(lutra_model *m, int64_t step, int64_t max_rows, float *out)
{
    int32_t ids[N];
    lu_forward *f;
    lu_kv kv;
    lutra_err err;
    for (int i = 0; i < N; i++)
        ids[i] = (i * 37 + i / 7) % VOCAB;
    must(lu_forward_open(m, step, N, &f, &err), &err);
    must(lu_kv_open_for(m, N, max_rows, &kv, &err), &err);
    memset(kv.data, 0xff, kv.bytes); /* NaN wherever something is read that was not written */
    for (int64_t at = 0; at < N; at += step) {
        const lu_segment s = {
            .kv = &kv, .pos = at, .ids = ids + at, .n = N - at < step ? N - at : step};
        must(lu_forward_run(f, &s, 1, &err), &err);
        must(lu_forward_logits(f, 0, s.n, out + at * VOCAB, &err), &err);
    }
    const size_t bytes = kv.bytes;
    lu_kv_close(&kv);
    lu_forward_close(f);
    return bytes;
}

static void cuts_and_threads_change_nothing(void **state)
{
    static float one[N * VOCAB], other[N * VOCAB];
    static const int64_t steps[] = {1, 7, 50, 64};
    (void)state;
    for (int threads = 1; threads <= 3; threads += 2) {
        lutra_ctx *ctx = open_ctx(threads);
        for (size_t i = 0; i < N_MODELS; i++)
            for (size_t k = 0; k < N_NAMES; k++) {
                lutra_model *m =
                    open_model(ctx, models[i], names[k], k % 2 ? LUTRA_F32 : LUTRA_BF16);
                logits_of(m, N, N, one); /* no ring */
                for (int s = threads == 1 ? 0 : 2; s < 4; s++) {
                    logits_of(m, steps[s], steps[s], other);
                    if (memcmp(one, other, sizeof one) != 0)
                        fail_msg("%s, %s: passes of %d differ", models[i],
                                 names[k] ? names[k] : "-", (int)steps[s]);
                }
                lutra_model_close(m);
            }
        lutra_close(ctx);
    }
}

static void errors_follow_the_bits(void **state)
{
    static float exact[N * VOCAB], got[N * VOCAB];
    lutra_ctx *ctx = open_ctx(2);
    double e[N_NAMES];
    (void)state;
    for (size_t i = 0; i < N_MODELS; i++) {
        for (size_t k = 0; k < N_NAMES; k++) {
            lutra_model *m = open_model(ctx, models[i], names[k], LUTRA_F32);
            logits_of(m, N, N, k ? got : exact);
            e[k] = k ? relative(got, exact, (int64_t)N * VOCAB) : 0;
            lutra_model_close(m);
        }
        assert_true(e[1] > 1e-6 && e[1] < 0.02);    /* int8 */
        assert_true(e[2] > 2 * e[1] && e[2] < 0.4); /* int4 */
        assert_true(e[3] > e[1] && e[3] < e[2]);    /* fp8 */
        assert_true(e[4] < e[5] && e[5] < 0.5);
        /* nothing is rounded for the first 127 queries of KIVI */
        lutra_model *m = open_model(ctx, models[i], "kivi2", LUTRA_F32);
        logits_of(m, N, N, got);
        assert_memory_equal(got, exact, sizeof(float) * 127 * VOCAB);
        assert_memory_not_equal(got + 127 * VOCAB, exact + 127 * VOCAB, sizeof(float) * VOCAB);
        lutra_model_close(m);
    }
    lutra_close(ctx);
}

/* Bytes as the formats say; windows keep window + pass. */
static void memory(void **state)
{
    lutra_ctx *ctx = open_ctx(1);
    lutra_err err;
    lu_kv kv;
    (void)state;
    /* llama: 2 layers, 2 KV heads of 12; a row of int8 is 4 + 12, of int4 4 + 6 */
    static const struct {
        const char *kv;
        size_t row;
    } rows[] = {{NULL, 24}, {"int8", 16}, {"fp8", 16}, {"int4", 10}};
    for (int i = 0; i < 4; i++) {
        lutra_model *m = open_model(ctx, models[0], rows[i].kv, LUTRA_BF16);
        must(lu_kv_open(m, 6400, &kv, &err), &err);
        assert_int_equal(kv.bytes, 2 * 2 * 2 * 6400 * rows[i].row);
        assert_true(kv.slack == INT64_MAX);
        lu_kv_close(&kv);
        lutra_model_close(m);
    }
    /* KIVI: 48 + 32 * 3 bytes a group of keys, 4 + 4 a row of values (3 bytes of codes, made even);
       128 + 64 positions of 24 bytes twice as they were */
    lutra_model *m = open_model(ctx, models[0], "kivi2", LUTRA_BF16);
    must(lu_kv_open_for(m, 6400, 64, &kv, &err), &err);
    assert_int_equal(kv.bytes, 2 * 2 * (6400 / 32 * (48 + 32 * 3) + 6400 * 8 + 2 * 192 * 24));
    assert_int_equal(kv.slack, 64);
    lu_kv_close(&kv);
    lutra_model_close(m);
    /* mistral, window 5 in both layers: a ring of 128 for passes of 64 */
    m = open_model(ctx, models[2], NULL, LUTRA_BF16);
    must(lu_kv_open_for(m, 6400, 64, &kv, &err), &err);
    assert_int_equal(kv.bytes, 2 * 2 * 2 * 128 * 32);
    assert_int_equal(kv.slack, 128 - 5);
    lu_kv_close(&kv);
    lutra_model_close(m);
    lutra_close(ctx);
}

/* --- sessions --------------------------------------------------------------------------------- */

static bool stop;
static bool cancelled(void *user)
{
    (void)user;
    return stop;
}

static void going_back_too_far(void **state)
{
    enum { LONG = 620, KEPT = 290, MORE = 9 };
    lutra_options options;
    lutra_options_init(&options);
    options.cancelled = cancelled;
    lutra_ctx *ctx;
    lutra_session *s;
    lutra_err err;
    int32_t ids[LONG];
    (void)state;
    must(lutra_open(&options, &ctx, &err), &err);
    lutra_model *m = open_model(ctx, "models/llama-8m", "kivi2", LUTRA_BF16);
    lutra_model_info info;
    lutra_model_get_info(m, &info);
    const size_t vocab = (size_t)info.vocab_size;
    float *want = lu_array(vocab, sizeof *want), *got = lu_array(vocab, sizeof *got);
    assert_true(want && got);
    for (int i = 0; i < LONG; i++)
        ids[i] = (i * 731 + 17) % 8000;
    must(lutra_session_open(m, 0, &s, &err), &err);
    assert_true(lutra_session_kv_bytes(s) > 0);
    must(lutra_session_feed(s, ids, KEPT + MORE, false, want, &err), &err);
    must(lutra_session_truncate(s, 0, &err), &err);
    must(lutra_session_feed(s, ids, LONG, false, NULL, &err), &err);
    must(lutra_session_truncate(s, KEPT, &err), &err);
    assert_true(LONG - KEPT > 256); /* what a session's KIVI cache can go back */
    stop = true;
    assert_int_equal(lutra_session_feed(s, ids + KEPT, MORE, false, got, &err), LUTRA_E_CANCELLED);
    stop = false;
    assert_int_equal(lutra_session_length(s), KEPT);
    must(lutra_session_feed(s, ids + KEPT, MORE, false, got, &err), &err);
    assert_memory_equal(got, want, vocab * sizeof *got);
    /* a little way back needs no more than the cache has */
    must(lutra_session_truncate(s, KEPT, &err), &err);
    must(lutra_session_feed(s, ids + KEPT, MORE, false, got, &err), &err);
    assert_memory_equal(got, want, vocab * sizeof *got);
    lu_free(want);
    lu_free(got);
    lutra_session_close(s);
    lutra_model_close(m);
    lutra_close(ctx);
}

static void names_are_checked(void **state)
{
    lutra_ctx *ctx = open_ctx(1);
    lutra_model_options o;
    lutra_model *m;
    lutra_err err;
    (void)state;
    lutra_model_options_init(&o);
    o.kv = "kivi3";
    assert_int_equal(lutra_model_open(ctx, models[0], &o, &m, &err), LUTRA_E_ARG);
    assert_non_null(strstr(err.msg, "near: kivi"));
    o.kv = "bf16";
    assert_int_equal(lutra_model_open(ctx, models[0], &o, &m, &err), LUTRA_E_ARG);
    lutra_close(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rounding_errors),        cmocka_unit_test(keys_are_rounded_by_channel),
        cmocka_unit_test(bad_values_show),        cmocka_unit_test(cuts_and_threads_change_nothing),
        cmocka_unit_test(errors_follow_the_bits), cmocka_unit_test(memory),
        cmocka_unit_test(going_back_too_far),     cmocka_unit_test(names_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
