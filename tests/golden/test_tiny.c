/* test_tiny.c - tiny random models of every architecture (tests/fixtures/make_tiny_models.py) at
   every CPU level of this machine: logits against the float64 oracle, and what must hold to the bit
   however a sequence is cut, batched or spread over threads. Then what a session and a loader
   refuse. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/context.h"
#include "base/file.h"
#include "base/mem.h"
#include "lutra/engine.h"
#include "model/forward.h"
#include "support/alloc_sweep.h"
#include "support/expect.h"
#include "support/synthetic_checkpoint.h"

static const char *const names[] = {"llama", "llama-int3", "mistral", "qwen2", "gemma2", "mixtral"};
#define N_NAMES (sizeof names / sizeof names[0])
#define VOCAB 96
#define TOKENS 33

typedef struct {
    lutra_ctx *ctx;
    lutra_model *model;
    lu_st_file *reference;
    const int32_t *ids;    /* [TOKENS] */
    const float *expected; /* [TOKENS][VOCAB] */
} tiny;

static tiny open_tiny(const char *name, lu_level level, int threads, lutra_dtype dtype)
{
    tiny t;
    lutra_err err;
    lutra_options o;
    lutra_model_options mo;
    char path[256];
    lutra_options_init(&o);
    o.n_threads = threads;
    o.cpu = lu_level_name(level);
    lutra_model_options_init(&mo);
    mo.dtype = dtype;
    must(lutra_open(&o, &t.ctx, &err), &err);
    snprintf(path, sizeof path, "tests/fixtures/tiny/%s", name);
    must(lutra_model_open(t.ctx, path, &mo, &t.model, &err), &err);
    snprintf(path, sizeof path, "tests/fixtures/tiny/%s/reference.safetensors", name);
    must(lu_st_open(path, &t.reference, &err), &err);
    t.ids = lu_st_find(t.reference, "input_ids")->view.data;
    t.expected = lu_st_find(t.reference, "logits")->view.data;
    return t;
}

static void close_tiny(tiny *t)
{
    lu_st_close(t->reference);
    lutra_model_close(t->model);
    lutra_close(t->ctx);
}

/* Logits of all tokens, fed `step` at a time. */
static void run_session(tiny *t, int64_t step, float *out)
{
    lutra_err err;
    lutra_session *s;
    must(lutra_session_open(t->model, TOKENS, &s, &err), &err);
    for (int64_t at = 0; at < TOKENS; at += step)
        must(lutra_session_feed(s, t->ids + at, TOKENS - at < step ? TOKENS - at : step, true,
                                out + at * VOCAB, &err),
             &err);
    assert_int_equal(lutra_session_length(s), TOKENS);
    lutra_session_close(s);
}

static void logits_match_the_oracle_at_every_level(void **state)
{
    (void)state;
    static float out[TOKENS * VOCAB];
    for (size_t i = 0; i < N_NAMES; i++)
        for (int level = 0; level < LU_N_LEVELS; level++) {
            if (!lu_level_available((lu_level)level))
                continue;
            tiny t = open_tiny(names[i], (lu_level)level, 2, LUTRA_F32);
            run_session(&t, TOKENS, out);
            const double e = relative(out, t.expected, TOKENS * VOCAB);
            if (!(e <= 1e-5))
                fail_msg("%s at %s: relative error %g", names[i], lu_level_name((lu_level)level),
                         e);
            close_tiny(&t);
        }
}

/* Inputs of linears are rounded to 8 bits: 2^-9 each, some dozen roundings deep. */
static void bf16_logits_stay_near_the_oracle(void **state)
{
    (void)state;
    static float out[TOKENS * VOCAB];
    for (size_t i = 0; i < N_NAMES; i++)
        for (int level = 0; level < LU_N_LEVELS; level++) {
            if (!lu_level_available((lu_level)level))
                continue;
            tiny t = open_tiny(names[i], (lu_level)level, 2, LUTRA_BF16);
            run_session(&t, TOKENS, out);
            const double e = relative(out, t.expected, TOKENS * VOCAB);
            if (!(e <= 3e-2))
                fail_msg("%s at %s: relative error %g", names[i], lu_level_name((lu_level)level),
                         e);
            close_tiny(&t);
        }
}

static void cutting_a_sequence_changes_no_bit(void **state)
{
    (void)state;
    static float whole[TOKENS * VOCAB], parts[TOKENS * VOCAB];
    static const int64_t steps[] = {1, 2, 5, 16, 32};
    for (size_t i = 0; i < N_NAMES; i++)
        for (int level = 0; level < LU_N_LEVELS; level++)
            for (int bf16 = 0; bf16 < 2; bf16++) {
                if (!lu_level_available((lu_level)level))
                    continue;
                tiny t = open_tiny(names[i], (lu_level)level, 2, bf16 ? LUTRA_BF16 : LUTRA_F32);
                run_session(&t, TOKENS, whole);
                for (size_t s = 0; s < sizeof steps / sizeof steps[0]; s++) {
                    run_session(&t, steps[s], parts);
                    assert_memory_equal(whole, parts, sizeof whole);
                }
                close_tiny(&t);
            }
}

static void threads_change_no_bit(void **state)
{
    (void)state;
    static float one[TOKENS * VOCAB], many[TOKENS * VOCAB];
    for (size_t i = 0; i < N_NAMES; i++)
        for (int level = 0; level < LU_N_LEVELS; level++)
            for (int threads = 1; threads <= 5; threads++) {
                if (!lu_level_available((lu_level)level))
                    continue;
                tiny t = open_tiny(names[i], (lu_level)level, threads, LUTRA_BF16);
                run_session(&t, 20, threads == 1 ? one : many);
                if (threads > 1)
                    assert_memory_equal(one, many, sizeof one);
                close_tiny(&t);
            }
}

/* Three sequences in one pass, of different lengths and one of them in its second part. */
static void a_batch_changes_no_bit(void **state)
{
    (void)state;
    static float alone[TOKENS * VOCAB], together[40 * VOCAB];
    for (size_t i = 0; i < N_NAMES; i++) {
        lutra_err err;
        lu_forward *f;
        lu_kv kv[3];
        tiny t = open_tiny(names[i], lu_level_best(), 3, LUTRA_BF16);
        run_session(&t, TOKENS, alone);
        must(lu_forward_open(t.model, 40, TOKENS, &f, &err), &err);
        for (int s = 0; s < 3; s++)
            must(lu_kv_open(t.model, TOKENS, &kv[s], &err), &err);
        const lu_segment before = {.kv = &kv[1], .ids = t.ids, .n = 9};
        assert_int_equal(lu_forward_run(f, &before, 1, NULL), LUTRA_OK);
        const lu_segment batch[] = {
            {.kv = &kv[0], .ids = t.ids, .n = 17},
            {.kv = &kv[1], .pos = 9, .ids = t.ids + 9, .n = 1},
            {.kv = &kv[2], .ids = t.ids, .n = 21},
        };
        assert_int_equal(lu_forward_run(f, batch, 3, NULL), LUTRA_OK);
        must(lu_forward_logits(f, 0, 39, together, &err), &err);
        assert_memory_equal(together, alone, 17 * VOCAB * sizeof(float));
        assert_memory_equal(together + 17 * VOCAB, alone + 9 * VOCAB, VOCAB * sizeof(float));
        assert_memory_equal(together + 18 * VOCAB, alone, 21 * VOCAB * sizeof(float));
        for (int s = 0; s < 3; s++)
            lu_kv_close(&kv[s]);
        lu_forward_close(f);
        close_tiny(&t);
    }
}

static void truncating_and_feeding_again_gives_the_same(void **state)
{
    (void)state;
    static float whole[TOKENS * VOCAB], again[TOKENS * VOCAB], junk[VOCAB];
    for (size_t i = 0; i < N_NAMES; i++) {
        lutra_err err;
        lutra_session *s;
        tiny t = open_tiny(names[i], lu_level_best(), 2, LUTRA_F32);
        run_session(&t, TOKENS, whole);
        must(lutra_session_open(t.model, 0, &s, &err), &err);
        assert_int_equal(lutra_session_capacity(s), 64);
        must(lutra_session_feed(s, t.ids, 20, false, NULL, &err), &err);
        must(lutra_session_feed(s, t.ids + 3, 30, false, junk, &err), &err);
        must(lutra_session_truncate(s, 20, &err), &err);
        assert_int_equal(lutra_session_length(s), 20);
        must(lutra_session_feed(s, t.ids + 20, TOKENS - 20, true, again, &err), &err);
        assert_memory_equal(again, whole + 20 * VOCAB, (TOKENS - 20) * VOCAB * sizeof(float));
        assert_int_equal(lutra_session_truncate(s, TOKENS + 1, &err), LUTRA_E_ARG);
        assert_int_equal(lutra_session_truncate(s, -1, &err), LUTRA_E_ARG);
        lutra_session_close(s);
        close_tiny(&t);
    }
}

static void a_session_refuses_what_it_cannot_hold(void **state)
{
    (void)state;
    lutra_err err;
    lutra_session *s;
    static float before[VOCAB], after[VOCAB];
    tiny t = open_tiny("llama", lu_level_best(), 1, LUTRA_F32);
    const int32_t too_big = VOCAB, negative = -1;
    assert_int_equal(lutra_session_open(t.model, 65, &s, &err), LUTRA_E_LIMIT);
    assert_non_null(strstr(err.msg, "64"));
    assert_int_equal(lutra_session_open(t.model, -1, &s, &err), LUTRA_E_ARG);
    must(lutra_session_open(t.model, 8, &s, &err), &err);
    assert_int_equal(lutra_session_feed(s, t.ids, 0, false, NULL, &err), LUTRA_E_ARG);
    assert_int_equal(lutra_session_feed(s, t.ids, -3, false, NULL, &err), LUTRA_E_ARG);
    assert_int_equal(lutra_session_feed(s, &too_big, 1, false, NULL, &err), LUTRA_E_ARG);
    assert_non_null(strstr(err.msg, "96"));
    assert_int_equal(lutra_session_feed(s, &negative, 1, false, NULL, &err), LUTRA_E_ARG);
    assert_int_equal(lutra_session_feed(s, t.ids, 9, false, NULL, &err), LUTRA_E_LIMIT);
    assert_int_equal(lutra_session_length(s), 0);
    must(lutra_session_feed(s, t.ids, 8, false, before, &err), &err);
    assert_int_equal(lutra_session_feed(s, t.ids, 1, false, after, &err), LUTRA_E_LIMIT);
    assert_int_equal(lutra_session_length(s), 8);
    must(lutra_session_truncate(s, 7, &err), &err);
    must(lutra_session_feed(s, t.ids + 7, 1, false, after, &err), &err);
    assert_memory_equal(before, after, sizeof before);
    lutra_session_close(s);
    close_tiny(&t);
}

static void decoding_allocates_nothing(void **state)
{
    (void)state;
    static float logits[VOCAB];
    for (size_t i = 0; i < N_NAMES; i++) {
        lutra_err err;
        lutra_session *s;
        tiny t = open_tiny(names[i], lu_level_best(), 2, LUTRA_BF16);
        must(lutra_session_open(t.model, 0, &s, &err), &err);
        lu_mem_fail_at(0, false); /* starts counting */
        must(lutra_session_feed(s, t.ids, TOKENS, false, logits, &err), &err);
        must(lutra_session_feed(s, t.ids, 1, false, logits, &err), &err);
        assert_int_equal(lu_mem_count(), 0);
        lutra_session_close(s);
        close_tiny(&t);
    }
}

static bool always(void *user)
{
    (void)user;
    return true;
}

static void a_cancelled_feed_leaves_the_session_as_it_was(void **state)
{
    (void)state;
    lutra_err err;
    lutra_session *s;
    tiny t = open_tiny("llama", lu_level_best(), 1, LUTRA_F32);
    must(lutra_session_open(t.model, 0, &s, &err), &err);
    t.ctx->options.cancelled = always;
    assert_int_equal(lutra_session_feed(s, t.ids, 3, false, NULL, &err), LUTRA_E_CANCELLED);
    assert_int_equal(lutra_session_length(s), 0);
    lutra_session_close(s);
    close_tiny(&t);
}

typedef struct {
    lutra_ctx *ctx;
    const char *folder;
} opening;

static lutra_status open_and_close(void *arg)
{
    const opening *o = arg;
    lutra_model *m = NULL;
    lutra_session *s = NULL;
    lutra_status status = lutra_model_open(o->ctx, o->folder, NULL, &m, NULL);
    if (status == LUTRA_OK)
        status = lutra_session_open(m, 0, &s, NULL);
    lutra_session_close(s);
    lutra_model_close(m);
    return status;
}

static void opening_survives_every_failed_allocation(void **state)
{
    (void)state;
    lutra_err err;
    lutra_ctx *ctx;
    must(lutra_open(NULL, &ctx, &err), &err);
    static const char *const folders[] = {"tests/fixtures/tiny/llama-int3",
                                          "tests/fixtures/tiny/mixtral"};
    for (int i = 0; i < 2; i++)
        assert_true(fail_each_allocation(open_and_close, &(opening){ctx, folders[i]}) > 0);
    lutra_close(ctx);
}

/* --- models that do not fit together --------------------------------------------------------- */

/* A folder with the tensors of a tiny model and its config.json with `from` replaced by `to`. */
static void expect_refusal(const char *name, const char *from, const char *to, lutra_status status,
                           const char *word)
{
    lutra_err err;
    lutra_ctx *ctx;
    lutra_model *m = NULL;
    char folder[SYN_PATH], path[2 * SYN_PATH], cwd[256], target[512], *text;
    size_t size;
    syn_temp(folder);
    snprintf(path, sizeof path, "tests/fixtures/tiny/%s/config.json", name);
    must(lu_file_read(path, 1 << 20, &text, &size, &err), &err);
    const char *at = strstr(text, from);
    assert_non_null(at);
    snprintf(path, sizeof path, "%s/config.json", folder);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    assert_int_equal(fclose(f), 0);
    lu_free(text);
    assert_non_null(getcwd(cwd, sizeof cwd));
    snprintf(target, sizeof target, "%s/tests/fixtures/tiny/%s/model.safetensors", cwd, name);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    assert_int_equal(symlink(target, path), 0);
    must(lutra_open(NULL, &ctx, &err), &err);
    assert_int_equal(lutra_model_open(ctx, folder, NULL, &m, &err), status);
    assert_null(m);
    if (!strstr(err.msg, word))
        fail_msg("'%s' does not say '%s'", err.msg, word);
    lutra_close(ctx);
    syn_delete(folder);
}

static void tensors_that_do_not_fit_the_config_are_named(void **state)
{
    (void)state;
    const lutra_status bad = LUTRA_E_FORMAT;
    expect_refusal("llama", "\"intermediate_size\": 80", "\"intermediate_size\": 88", bad,
                   "model.layers.0.mlp.gate_proj.weight has shape [80, 48], expected [88, 48]");
    expect_refusal("llama", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", bad,
                   "model.layers.2.input_layernorm.weight is missing");
    expect_refusal("llama", "\"vocab_size\": 96", "\"vocab_size\": 97", bad,
                   "model.embed_tokens.weight");
    expect_refusal("llama", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 4", bad,
                   "k_proj.weight");
    expect_refusal("qwen2", "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false", bad,
                   "lm_head.weight is missing");
    expect_refusal("mistral", "MistralForCausalLM", "Qwen2ForCausalLM", bad,
                   "q_proj.bias is missing");
    expect_refusal("mistral", "MistralForCausalLM", "Qwen3ForCausalLM", LUTRA_E_UNSUPPORTED,
                   "MixtralForCausalLM");
    expect_refusal("mixtral", "\"num_local_experts\": 4", "\"num_local_experts\": 5", bad,
                   "block_sparse_moe.gate");
    expect_refusal("llama-int3", "\"hidden_size\": 48", "\"hidden_size\": 64", bad,
                   "codes has shape [96, 18]");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_match_the_oracle_at_every_level),
        cmocka_unit_test(bf16_logits_stay_near_the_oracle),
        cmocka_unit_test(cutting_a_sequence_changes_no_bit),
        cmocka_unit_test(threads_change_no_bit),
        cmocka_unit_test(a_batch_changes_no_bit),
        cmocka_unit_test(truncating_and_feeding_again_gives_the_same),
        cmocka_unit_test(a_session_refuses_what_it_cannot_hold),
        cmocka_unit_test(decoding_allocates_nothing),
        cmocka_unit_test(a_cancelled_feed_leaves_the_session_as_it_was),
        cmocka_unit_test(opening_survives_every_failed_allocation),
        cmocka_unit_test(tensors_that_do_not_fit_the_config_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
