/* test_gpu.c - models on a GPU: every tiny model against the float64 oracle and against the CPU,
   sessions, generation, perplexity, memory that does not suffice, faults. By itself it runs on the
   emulated GPU of tests/support, so that the walk is checked where there is none; with
   LUTRA_TEST_GPU=cuda (or cuda:N) on that one. */
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
#include "base/mem.h"
#include "eval/perplexity.h"
#include "io/safetensors.h"
#include "lutra/engine.h"
#include "lutra/quant.h"
#include "model/forward.h"
#include "model/gpu_model.h"
#include "support/alloc_sweep.h"
#include "support/expect.h"
#include "support/gpu_emulated.h"
#include "support/synthetic_checkpoint.h"

static const char *const names[] = {"llama-h16", "llama-int3-h16", "mistral",
                                    "qwen2-h16", "gemma2",         "mixtral-h16"};
#define N_NAMES (sizeof names / sizeof names[0])
#define VOCAB 96
#define TOKENS 33
#define CONTEXT 64

static const char *device = "cuda";
static bool emulated = true;

static lutra_ctx *open_context(void)
{
    lutra_ctx *ctx = open_ctx(2);
    if (emulated)
        ctx->gpu = gpu_emulated();
    return ctx;
}

static lutra_model *open_on(lutra_ctx *ctx, const char *folder, lutra_dtype dtype,
                            const char *where)
{
    lutra_err err;
    lutra_model *m;
    lutra_model_options o;
    lutra_model_options_init(&o);
    o.dtype = dtype;
    o.device = where;
    must(lutra_model_open(ctx, folder, &o, &m, &err), &err);
    return m;
}

static lutra_model *open_tiny(lutra_ctx *ctx, const char *name, lutra_dtype dtype)
{
    char folder[256];
    snprintf(folder, sizeof folder, "tests/fixtures/tiny/%s", name);
    return open_on(ctx, folder, dtype, device);
}

typedef struct {
    lu_st_file *file;
    const int32_t *ids;
    const float *logits;
} oracle;

static oracle open_oracle(const char *name)
{
    lutra_err err;
    oracle o;
    char path[256];
    snprintf(path, sizeof path, "tests/fixtures/tiny/%s/reference.safetensors", name);
    must(lu_st_open(path, &o.file, &err), &err);
    o.ids = lu_st_find(o.file, "input_ids")->view.data;
    o.logits = lu_st_find(o.file, "logits")->view.data;
    return o;
}

/* Logits of all tokens, fed `step` at a time. */
static void feed(lutra_model *m, const int32_t *ids, int64_t step, float *out)
{
    lutra_err err;
    lutra_session *s;
    must(lutra_session_open(m, 0, &s, &err), &err);
    for (int64_t at = 0; at < TOKENS; at += step) {
        const int64_t n = TOKENS - at < step ? TOKENS - at : step;
        must(lutra_session_feed(s, ids + at, n, true, out + at * VOCAB, &err), &err);
    }
    lutra_session_close(s);
}

/* Memory for coded products is taken by models that have some, where the chip uses any. */
static void check_scratch(const lutra_model *m, bool coded)
{
    const lu_gpu *gpu = m->gpu->gpu;
    assert_int_equal(m->gpu->scratch != NULL, coded && gpu->api->lut_scratch(&gpu->chip) > 0);
}

/* Activations have 8 (bf16) or 11 bits, logits too; the CPU's test allows 3e-2 for bf16. */
static void logits_match_the_oracle(void **state)
{
    (void)state;
    static float out[TOKENS * VOCAB];
    lutra_ctx *ctx = open_context();
    for (size_t i = 0; i < N_NAMES; i++)
        for (int half = 0; half < 2; half++) {
            oracle o = open_oracle(names[i]);
            lutra_model *m = open_tiny(ctx, names[i], half ? LUTRA_F16 : LUTRA_BF16);
            check_scratch(m, strcmp(names[i], "llama-int3-h16") == 0);
            for (int64_t step = TOKENS; step > 0; step /= 4) {
                feed(m, o.ids, step, out);
                const double e = relative(out, o.logits, TOKENS * VOCAB);
                print_message("%-10s %s, %2d at a time: relative error %.1e\n", names[i],
                              half ? "fp16" : "bf16", (int)step, e);
                if (!(e <= (half ? 4e-3 : 3e-2)))
                    fail_msg("%s: relative error %g", names[i], e);
            }
            lutra_model_close(m);
            lu_st_close(o.file);
        }
    lutra_close(ctx);
}

/* --- compressed ------------------------------------------------------------------------------- */

static void compress(lutra_ctx *ctx, const char *name, const char *out, const char *spec,
                     const char *const *ignore, int n_ignore)
{
    lutra_err err;
    lutra_quantize_options o;
    lutra_quantize_report report;
    char in[256];
    lutra_quantize_options_init(&o);
    must(lutra_format_parse(spec, &o.format, &err), &err);
    o.ignore = ignore;
    o.n_ignore = n_ignore;
    snprintf(in, sizeof in, "tests/fixtures/tiny/%s", name);
    must(lutra_quantize_checkpoint(ctx, in, out, &o, &report, &err), &err);
}

/* All linears, then with some left alone, so that stacks fall into parts; the embedding coded. */
static void compressed_models_say_what_the_cpu_says(void **state)
{
    (void)state;
    static const char *const some[] = {"lm_head",   "*embed_tokens", "*.k_proj",
                                       "*.up_proj", "*.w1",          "*.1.self_attn.v_proj"};
    static const char *const specs[] = {"nf4:g8", "int3:g8:asym", "int2:channel",
                                        "int8:g8:asym:f32", "nf4:channel:bf16"};
    static float cpu[TOKENS * VOCAB], gpu[TOKENS * VOCAB];
    char folder[SYN_PATH], out[SYN_PATH + 16];
    lutra_ctx *ctx = open_context();
    syn_temp(folder);
    snprintf(out, sizeof out, "%s/model", folder);
    for (size_t i = 0; i < N_NAMES; i++)
        for (size_t k = 0; k < sizeof specs / sizeof *specs; k++) {
            const bool experts = strcmp(names[i], "mixtral-h16") == 0;
            if (strcmp(names[i], "llama-int3-h16") == 0 ||
                (experts && strncmp(specs[k], "int8", 4) != 0))
                continue; /* coded already; a rounding may choose another expert where codes are few
                           */
            oracle o = open_oracle(names[i]);
            compress(ctx, names[i], out, specs[k], some, k % 2 ? 0 : 6);
            lutra_model *on_cpu = open_on(ctx, out, LUTRA_F32, NULL);
            lutra_model *on_gpu = open_on(ctx, out, LUTRA_F16, device);
            check_scratch(on_gpu, true);
            if (k % 2)
                assert_int_equal(on_gpu->gpu->layers[0].qkv.n_parts, 1);
            else
                assert_true(on_gpu->gpu->layers[1].qkv.n_parts >= 2);
            feed(on_cpu, o.ids, TOKENS, cpu);
            feed(on_gpu, o.ids, TOKENS, gpu);
            const double e = relative(gpu, cpu, TOKENS * VOCAB);
            if (!(e <= 6e-3)) /* a table rounded to 11 bits more than above */
                fail_msg("%s %s: relative error %g", names[i], specs[k], e);
            lutra_model_close(on_cpu);
            lutra_model_close(on_gpu);
            lu_st_close(o.file);
            syn_delete(out);
        }
    lutra_close(ctx);
    syn_delete(folder);
}

/* --- generation ------------------------------------------------------------------------------- */

typedef struct {
    int32_t ids[CONTEXT];
    int64_t n, stop_after;
} text;

static bool keep(void *user, int32_t id)
{
    text *t = user;
    t->ids[t->n++] = id;
    return t->n != t->stop_after;
}

/* What lutra/engine.h says, with the sampler on the host. */
static void by_hand(lutra_session *s, const int32_t *prompt, int64_t n, const lutra_generation *g,
                    text *out)
{
    static float logits[VOCAB];
    lutra_err err;
    lutra_sampler *sampler;
    out->n = 0;
    must(lutra_sampler_open(&g->sampling, VOCAB, &sampler, &err), &err);
    must(lutra_session_feed(s, prompt, n, false, logits, &err), &err);
    for (int64_t i = 0; i < n; i++)
        lutra_sampler_accept(sampler, prompt[i]);
    while (out->n < g->max_tokens) {
        const int32_t id = lutra_sampler_pick(sampler, logits);
        lutra_sampler_accept(sampler, id);
        out->ids[out->n++] = id;
        if (out->n < g->max_tokens)
            must(lutra_session_feed(s, &id, 1, false, logits, &err), &err);
    }
    lutra_sampler_close(sampler);
}

static const lutra_sampling samplings[] = {
    {.size = sizeof(lutra_sampling), .top_p = 1, .repetition_penalty = 1},
    {.size = sizeof(lutra_sampling), .top_p = 1, .repetition_penalty = 1.3f},
    {.size = sizeof(lutra_sampling),
     .temperature = 1,
     .top_p = 1,
     .repetition_penalty = 1,
     .seed = 3},
    {.size = sizeof(lutra_sampling),
     .temperature = 2,
     .top_k = 20,
     .top_p = 0.8f,
     .min_p = 0.01f,
     .repetition_penalty = 1.2f,
     .seed = 9},
};

static void generation_chooses_what_the_host_would(void **state)
{
    (void)state;
    lutra_ctx *ctx = open_context();
    for (size_t i = 0; i < N_NAMES; i++) {
        lutra_err err;
        lutra_session *a, *b;
        oracle o = open_oracle(names[i]);
        lutra_model *m = open_tiny(ctx, names[i], LUTRA_F16);
        must(lutra_session_open(m, 0, &a, &err), &err);
        must(lutra_session_open(m, 0, &b, &err), &err);
        for (size_t k = 0; k < sizeof samplings / sizeof *samplings; k++) {
            text one, other = {.stop_after = -1};
            lutra_generation g;
            lutra_generation_result r;
            lutra_generation_init(&g);
            g.sampling = samplings[k];
            g.max_tokens = 30;
            g.ignore_eos = true;
            g.user = &other;
            g.on_token = keep;
            must(lutra_session_truncate(a, 0, &err), &err);
            must(lutra_session_truncate(b, 0, &err), &err);
            by_hand(a, o.ids, 7, &g, &one);
            must(lutra_generate(b, o.ids, 7, &g, &r, &err), &err);
            assert_int_equal(r.n_new, 30);
            assert_int_equal(r.finish, LUTRA_FINISH_LENGTH);
            assert_int_equal(lutra_session_length(b), 36);
            assert_memory_equal(one.ids, other.ids, 30 * sizeof one.ids[0]);
        }
        lutra_session_close(a);
        lutra_session_close(b);
        lutra_model_close(m);
        lu_st_close(o.file);
    }
    lutra_close(ctx);
}

static void generation_stops_where_it_should(void **state)
{
    (void)state;
    static float logits[VOCAB], again[VOCAB];
    lutra_err err;
    lutra_session *s, *fresh;
    lutra_ctx *ctx = open_context();
    lutra_model *m = open_tiny(ctx, "llama-h16", LUTRA_BF16);
    oracle o = open_oracle("llama-h16");
    text t = {.stop_after = 5};
    lutra_generation g;
    lutra_generation_result r;
    lutra_generation_init(&g);
    g.user = &t;
    g.on_token = keep;
    g.ignore_eos = true;
    must(lutra_session_open(m, 40, &s, &err), &err);
    must(lutra_generate(s, o.ids, 7, &g, &r, &err), &err);
    assert_int_equal(r.finish, LUTRA_FINISH_CALLER);
    assert_int_equal(r.n_new, 5);
    assert_int_equal(lutra_session_length(s), 7 + 4);
    /* what the session holds is what it says: going on from it is as feeding it whole */
    must(lutra_session_feed(s, o.ids + 9, 1, false, logits, &err), &err);
    must(lutra_session_open(m, 40, &fresh, &err), &err);
    must(lutra_session_feed(fresh, o.ids, 7, false, NULL, &err), &err);
    for (int i = 0; i < 4; i++)
        must(lutra_session_feed(fresh, &t.ids[i], 1, false, NULL, &err), &err);
    must(lutra_session_feed(fresh, o.ids + 9, 1, false, again, &err), &err);
    assert_memory_equal(logits, again, sizeof logits);
    lutra_session_close(fresh);
    /* until the session is full */
    t = (text){.stop_after = -1};
    must(lutra_session_truncate(s, 0, &err), &err);
    must(lutra_generate(s, o.ids, 7, &g, &r, &err), &err);
    assert_int_equal(r.finish, LUTRA_FINISH_LENGTH);
    assert_int_equal(r.n_new, 33);
    assert_int_equal(lutra_session_length(s), 39);
    /* an end token: the fourth of these is declared one */
    const int32_t end = t.ids[3];
    int64_t expected = 0;
    while (t.ids[expected] != end)
        expected++;
    m->config.n_eos = 1;
    m->config.eos_id[0] = end;
    g.ignore_eos = false;
    t = (text){.stop_after = -1};
    must(lutra_session_truncate(s, 0, &err), &err);
    must(lutra_generate(s, o.ids, 7, &g, &r, &err), &err);
    assert_int_equal(r.finish, LUTRA_FINISH_EOS);
    assert_int_equal(r.n_new, expected);
    assert_int_equal(lutra_session_length(s), 7 + expected);
    lutra_session_close(s);
    lutra_model_close(m);
    lu_st_close(o.file);
    lutra_close(ctx);
}

/* Three sequences step together as each would alone. */
static void steps_of_several_sequences_do_not_meet(void **state)
{
    (void)state;
    enum { N = 3, STEPS = 12 };
    static int32_t alone[N][STEPS], together[STEPS][N];
    lutra_err err;
    lutra_ctx *ctx = open_context();
    lutra_model *m = open_tiny(ctx, "gemma2", LUTRA_F16);
    oracle o = open_oracle("gemma2");
    lu_forward *f;
    lu_kv kv[N];
    lu_segment segments[N];
    int32_t ids[N];
    must(lu_forward_open(m, 40, CONTEXT, &f, &err), &err);
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < N; i++) {
            must(lu_kv_open(m, CONTEXT, &kv[i], &err), &err);
            segments[i] = (lu_segment){.kv = &kv[i], .ids = o.ids + i, .n = 5 + 4 * i};
            must(lu_forward_run(f, &segments[i], 1, &err), &err);
            segments[i].pos = segments[i].n;
            ids[i] = o.ids[20 + i];
        }
        for (int i = 0; i < (pass ? 1 : N); i++) {
            const lu_steps steps = {.n = pass ? N : 1,
                                    .segments = segments + i,
                                    .ids = ids + i,
                                    .sampling = samplings[0]};
            must(lu_forward_steps_begin(f, &steps, &err), &err);
            for (int t = 0; t < STEPS; t++) {
                must(lu_forward_steps_queue(f, &err), &err);
                must(lu_forward_steps_take(f, pass ? together[t] : &alone[i][t], &err), &err);
            }
            lu_forward_steps_end(f);
        }
        for (int i = 0; i < N; i++)
            lu_kv_close(&kv[i]);
    }
    for (int i = 0; i < N; i++)
        for (int t = 0; t < STEPS; t++)
            assert_int_equal(alone[i][t], together[t][i]);
    lu_forward_close(f);
    lutra_model_close(m);
    lu_st_close(o.file);
    lutra_close(ctx);
}

/* The block of pages grows under a session that holds something. */
static void sessions_share_the_pages(void **state)
{
    (void)state;
    static float first[VOCAB], other[VOCAB];
    lutra_err err;
    lutra_session *s[4];
    lutra_ctx *ctx = open_context();
    lutra_model *m = open_tiny(ctx, "mistral", LUTRA_BF16);
    oracle o = open_oracle("mistral");
    for (int i = 0; i < 4; i++) {
        must(lutra_session_open(m, 0, &s[i], &err), &err);
        must(lutra_session_feed(s[i], o.ids, 20, false, i ? other : first, &err), &err);
        if (i)
            assert_memory_equal(first, other, sizeof first);
    }
    must(lutra_session_feed(s[0], o.ids + 20, 1, false, first, &err), &err);
    lutra_session_close(s[1]);
    must(lutra_session_feed(s[3], o.ids + 20, 1, false, other, &err), &err);
    assert_memory_equal(first, other, sizeof first);
    must(lutra_session_open(m, 0, &s[1], &err), &err);
    must(lutra_session_feed(s[1], o.ids, 21, false, other, &err), &err);
    must(lutra_session_feed(s[0], o.ids + 21, 1, false, first, &err), &err);
    must(lutra_session_feed(s[3], o.ids + 21, 1, false, other, &err), &err);
    assert_memory_equal(first, other, sizeof first);
    assert_int_equal(lutra_session_feed(s[0], o.ids, 43, false, NULL, &err), LUTRA_E_LIMIT);
    for (int i = 0; i < 4; i++)
        lutra_session_close(s[i]);
    lutra_model_close(m);
    lu_st_close(o.file);
    lutra_close(ctx);
}

/* --- perplexity ------------------------------------------------------------------------------- */

static void perplexity_is_the_cpus(void **state)
{
    (void)state;
    static int32_t ids[300];
    lutra_ctx *ctx = open_context();
    for (int i = 0; i < 300; i++)
        ids[i] = (i * 37 + i * i * 11) % VOCAB;
    for (size_t i = 0; i < N_NAMES; i++) {
        lutra_err err;
        lutra_perplexity_options o;
        lutra_perplexity on_cpu, on_gpu;
        char folder[256];
        snprintf(folder, sizeof folder, "tests/fixtures/tiny/%s", names[i]);
        lutra_model *cpu = open_on(ctx, folder, LUTRA_F32, "cpu"),
                    *gpu = open_on(ctx, folder, LUTRA_F16, device);
        lutra_perplexity_options_init(&o);
        o.window = 30;
        o.stride = 17;
        must(lu_perplexity_of_ids(cpu, ids, 300, &o, &on_cpu, &err), &err);
        must(lu_perplexity_of_ids(gpu, ids, 300, &o, &on_gpu, &err), &err);
        assert_int_equal(on_gpu.predicted, on_cpu.predicted);
        if (!(fabs(on_gpu.nll - on_cpu.nll) <= 2e-3))
            fail_msg("%s: nll %g, on the CPU %g", names[i], on_gpu.nll, on_cpu.nll);
        lutra_model_close(cpu);
        lutra_model_close(gpu);
    }
    lutra_close(ctx);
}

/* --- refusals, memory, faults ----------------------------------------------------------------- */

static void expect_refusal(lutra_ctx *ctx, const char *where, lutra_dtype dtype,
                           lutra_status status, const char *word)
{
    lutra_err err;
    lutra_model *m = NULL;
    lutra_model_options o;
    lutra_model_options_init(&o);
    o.device = where;
    o.dtype = dtype;
    assert_int_equal(lutra_model_open(ctx, "tests/fixtures/tiny/llama-h16", &o, &m, &err), status);
    assert_null(m);
    if (!strstr(err.msg, word))
        fail_msg("'%s' does not say '%s'", err.msg, word);
}

static void devices_that_are_none_are_refused(void **state)
{
    (void)state;
    lutra_ctx *ctx = open_context();
    static const char *const wrong[] = {"gpu",     "cuda:",     "cuda:x", "cuda:1x",
                                        "cuda:-1", "cuda:9999", "CUDA",   "cpu:0"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        expect_refusal(ctx, wrong[i], LUTRA_BF16, LUTRA_E_ARG, "expected cpu, cuda or cuda:N");
    expect_refusal(ctx, "cuda:0", LUTRA_F32, LUTRA_E_ARG, "expected BF16 or F16 on the GPU");
    expect_refusal(ctx, "cpu", LUTRA_F16, LUTRA_E_ARG, "expected BF16 or F32 on the CPU");
    expect_refusal(ctx, "cuda:99", LUTRA_BF16, LUTRA_E_UNSUPPORTED, "cuda:99 is not here");
    lutra_close(ctx);
}

static void memory_that_does_not_suffice_is_explained(void **state)
{
    (void)state;
    lutra_err err;
    lutra_session *s = NULL;
    if (!emulated)
        skip();
    lutra_ctx *ctx = open_context();
    gpu_emulated_reset();
    gpu_emulated_now.memory = (256 << 20) + (100 << 10); /* 256 MB are left alone */
    expect_refusal(ctx, "cuda:0", LUTRA_BF16, LUTRA_E_NOMEM, "the model needs 0.00 GB");
    assert_int_equal(gpu_emulated_now.taken, 0);
    gpu_emulated_reset();
    lutra_model *m = open_tiny(ctx, "llama-h16", LUTRA_BF16);
    /* a page is 64 tokens * 2 layers * 2 * 2 heads * 12 * 2 bytes */
    gpu_emulated_now.memory = gpu_emulated_now.taken + (64 << 20);
    assert_int_equal(lutra_session_open(m, 0, &s, &err), LUTRA_E_NOMEM);
    assert_non_null(strstr(err.msg, "a context of 0 tokens would fit"));
    lu_forward *f = NULL;
    gpu_emulated_now.memory = gpu_emulated_now.taken + 4000;
    assert_int_equal(lu_forward_open(m, 64, 64, &f, &err), LUTRA_E_NOMEM);
    assert_non_null(strstr(err.msg, "of buffers"));
    assert_null(s);
    assert_null(f);
    lutra_model_close(m);
    assert_int_equal(gpu_emulated_now.taken, 0);
    gpu_emulated_reset();
    lutra_close(ctx);
}

static void steps_are_recorded_once(void **state)
{
    (void)state;
    lutra_err err;
    lutra_session *s;
    if (!emulated)
        skip();
    lutra_ctx *ctx = open_context();
    lutra_model *m = open_tiny(ctx, "llama-h16", LUTRA_BF16);
    oracle o = open_oracle("llama-h16");
    lutra_generation g;
    lutra_generation_init(&g);
    g.max_tokens = 30;
    g.ignore_eos = true;
    must(lutra_session_open(m, 0, &s, &err), &err);
    gpu_emulated_reset();
    for (int i = 0; i < 2; i++) {
        must(lutra_session_truncate(s, 0, &err), &err);
        must(lutra_generate(s, o.ids, 7, &g, NULL, &err), &err);
    }
    assert_int_equal(gpu_emulated_now.recorded, 1);
    assert_int_equal(gpu_emulated_now.launches,
                     28 + 29); /* the first step of all runs unrecorded */
    lutra_session_close(s);
    lutra_model_close(m);
    lu_st_close(o.file);
    lutra_close(ctx);
}

/* Every kernel call fails in turn: it is reported, and nothing is kept. */
static void faults_are_reported(void **state)
{
    (void)state;
    lutra_err err;
    if (!emulated)
        skip();
    lutra_ctx *ctx = open_context();
    oracle o = open_oracle("qwen2-h16");
    lutra_generation g;
    lutra_generation_init(&g);
    g.max_tokens = 4;
    g.ignore_eos = true;
    int64_t faults = 0;
    gpu_emulated_reset();
    for (bool whole = false; !whole; faults++) {
        lutra_session *s = NULL;
        lutra_model *m = open_tiny(ctx, "qwen2-h16", LUTRA_BF16);
        must(lutra_session_open(m, 0, &s, &err), &err);
        gpu_emulated_now.fail_at = faults + 1;
        const lutra_status status = lutra_generate(s, o.ids, 5, &g, NULL, &err);
        whole = gpu_emulated_now.fail_at > 0;
        assert_int_equal(status, whole ? LUTRA_OK : LUTRA_E_INTERNAL);
        if (!whole)
            assert_non_null(strstr(err.msg, "a planted fault"));
        gpu_emulated_now.fail_at = 0;
        /* what it holds is sound: it goes on */
        must(lutra_session_feed(s, o.ids, 1, false, NULL, &err), &err);
        lutra_session_close(s);
        lutra_model_close(m);
        assert_int_equal(gpu_emulated_now.taken, 0);
    }
    assert_true(faults > 60);
    lu_st_close(o.file);
    lutra_close(ctx);
}

static lutra_status open_and_generate(void *ctx)
{
    static const int32_t prompt[] = {3, 5, 7};
    lutra_model *m = NULL;
    lutra_session *s = NULL;
    lutra_generation g;
    lutra_generation_init(&g);
    g.max_tokens = 4;
    g.ignore_eos = true;
    g.sampling.repetition_penalty = 1.1f;
    const lutra_model_options o = {.size = sizeof o, .dtype = LUTRA_BF16, .device = device};
    lutra_status status = lutra_model_open(ctx, "tests/fixtures/tiny/mixtral-h16", &o, &m, NULL);
    if (status == LUTRA_OK)
        status = lutra_session_open(m, 0, &s, NULL);
    if (status == LUTRA_OK)
        status = lutra_generate(s, prompt, 3, &g, NULL, NULL);
    lutra_session_close(s);
    lutra_model_close(m);
    assert_true(!emulated || gpu_emulated_now.taken == 0);
    return status;
}

static void every_failed_allocation_is_survived(void **state)
{
    (void)state;
    if (!emulated)
        skip(); /* an allocation that fails while cuBLASLt is looked for is made good by our kernel
                 */
    lutra_ctx *ctx = open_context();
    assert_true(fail_each_allocation(open_and_generate, ctx) > 50);
    lutra_close(ctx);
}

/* More sequences than one pass can name, more than can step together. */
static void too_many_sequences_are_refused(void **state)
{
    (void)state;
    enum { N = 70 };
    lutra_err err;
    static lu_kv kv[N];
    static lu_segment segments[N];
    static int32_t ids[N];
    lu_forward *f;
    lutra_ctx *ctx = open_context();
    lutra_model *m = open_tiny(ctx, "llama-h16", LUTRA_BF16);
    must(lu_forward_open(m, N, CONTEXT, &f, &err), &err);
    for (int i = 0; i < N; i++) {
        must(lu_kv_open(m, CONTEXT, &kv[i], &err), &err);
        segments[i] = (lu_segment){.kv = &kv[i], .ids = &ids[i], .n = 1};
    }
    must(lu_forward_run(f, segments, N, &err), &err);
    const lu_steps steps = {.n = N, .segments = segments, .ids = ids, .sampling = samplings[0]};
    assert_int_equal(lu_forward_steps_begin(f, &steps, &err), LUTRA_E_LIMIT);
    assert_non_null(strstr(err.msg, "at most 64"));
    for (int i = 0; i < N; i++)
        lu_kv_close(&kv[i]);
    lu_forward_close(f);
    lutra_model_close(m);
    lutra_close(ctx);
}

int main(void)
{
    const char *asked = getenv("LUTRA_TEST_GPU");
    gpu_emulated_reset();
    if (asked && *asked) {
        device = asked;
        emulated = false;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_match_the_oracle),
        cmocka_unit_test(compressed_models_say_what_the_cpu_says),
        cmocka_unit_test(generation_chooses_what_the_host_would),
        cmocka_unit_test(generation_stops_where_it_should),
        cmocka_unit_test(steps_of_several_sequences_do_not_meet),
        cmocka_unit_test(sessions_share_the_pages),
        cmocka_unit_test(perplexity_is_the_cpus),
        cmocka_unit_test(devices_that_are_none_are_refused),
        cmocka_unit_test(memory_that_does_not_suffice_is_explained),
        cmocka_unit_test(steps_are_recorded_once),
        cmocka_unit_test(faults_are_reported),
        cmocka_unit_test(every_failed_allocation_is_survived),
        cmocka_unit_test(too_many_sequences_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
