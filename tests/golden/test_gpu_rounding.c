/* test_gpu_rounding.c - models whose linears round their inputs, on a GPU against the CPU: integers
   multiplied, everything else by rounded values; generation; what is refused. On the emulated GPU,
   or with LUTRA_TEST_GPU=cuda (or cuda:N) on that one. */
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
#include "base/mem.h"
#include "lutra/engine.h"
#include "lutra/quant.h"
#include "model/gpu_model.h"
#include "support/expect.h"
#include "support/gpu_emulated.h"
#include "support/synthetic_checkpoint.h"
#include "tensor/convert.h"

#define VOCAB 96
#define N 24

static const char *device = "cuda";
static bool emulated = true;

static lutra_ctx *open_context(void)
{
    lutra_ctx *ctx = open_ctx(2);
    if (emulated)
        ctx->gpu = gpu_emulated();
    return ctx;
}

static lutra_status try_open(lutra_ctx *ctx, const char *folder, lutra_dtype dtype,
                             const char *where, const char *act_quant, lutra_model **m,
                             lutra_err *err)
{
    lutra_model_options o;
    lutra_model_options_init(&o);
    o.dtype = dtype;
    o.device = where;
    o.act_quant = act_quant;
    return lutra_model_open(ctx, folder, &o, m, err);
}

static lutra_model *open_on(lutra_ctx *ctx, const char *folder, lutra_dtype dtype,
                            const char *where, const char *act_quant)
{
    lutra_err err;
    lutra_model *m;
    must(try_open(ctx, folder, dtype, where, act_quant, &m, &err), &err);
    return m;
}

static void feed(lutra_model *m, int64_t step, float *out)
{
    int32_t ids[N];
    lutra_err err;
    lutra_session *s;
    for (int i = 0; i < N; i++)
        ids[i] = (i * 37 + 11) % VOCAB;
    must(lutra_session_open(m, 0, &s, &err), &err);
    for (int64_t at = 0; at < N; at += step) {
        const int64_t n = N - at < step ? N - at : step;
        must(lutra_session_feed(s, ids + at, n, true, out + at * VOCAB, &err), &err);
    }
    lutra_session_close(s);
}

static void logits_of(lutra_ctx *ctx, const char *folder, lutra_dtype dtype, const char *where,
                      const char *act_quant, float *out)
{
    lutra_model *m = open_on(ctx, folder, dtype, where, act_quant);
    feed(m, N, out);
    lutra_model_close(m);
}

/* A compressed copy of a tiny model in folder/model; static scales where act asks for them. */
static const char *compress(lutra_ctx *ctx, const char *folder, const char *name,
                            const char *format, const char *act, const char *const *ignore,
                            int n_ignore)
{
    static char out[SYN_PATH + 16];
    static const char rtn[] = "passes: [{method: rtn}]";
    char in[128], data[SYN_PATH + 16], text[4096] = "";
    uint32_t seed = 3;
    lutra_err err = {0};
    lutra_quantize_options o;
    lutra_calibration c;
    lutra_recipe *r;
    for (int i = 0; i < 40 * 16; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%d%c",
                 (int)((syn_random(&seed) + 0.5f) * 95), i % 16 == 15 ? '\n' : ' ');
    syn_text(folder, "data.ids", text);
    snprintf(data, sizeof data, "%s/data.ids", folder);
    snprintf(in, sizeof in, "tests/fixtures/tiny/%s", name);
    snprintf(out, sizeof out, "%s/model", folder);
    lutra_calibration_init(&c);
    c.data = data;
    c.n_samples = 12;
    c.length = 20;
    lutra_quantize_options_init(&o);
    must(lutra_format_parse(format, &o.format, &err), &err);
    must(lutra_recipe_parse("rtn", rtn, sizeof rtn - 1, &r, &err), &err);
    o.recipe = r;
    o.calibration = &c;
    o.act_quant = act;
    o.act_rule = "percentile";
    o.overwrite = true;
    if (ignore) {
        o.ignore = ignore;
        o.n_ignore = n_ignore;
    }
    must(lutra_quantize_checkpoint(ctx, in, out, &o, NULL, &err), &err);
    lutra_recipe_free(r);
    return out;
}

/* --- one linear at a time ------------------------------------------------------------------------
 */

enum { ROWS = 37 };
static double worst[2]; /* relative error of a linear: fp16, bf16 */

/* The CPU's y [ROWS][n] of rows x of act values. */
static float *cpu_rows(const lutra_model *m, const lu_module *module, const uint16_t *x, int bf16)
{
    const lu_linear *l = &module->linear;
    const int64_t k = l->k, stride = lu_linear_x_stride(l);
    const bool records = l->act == LUTRA_U8;
    float *row = malloc((size_t)k * sizeof *row), *y = malloc((size_t)(ROWS * l->n) * sizeof *y);
    uint8_t *in = malloc((size_t)(ROWS * stride) * (records ? 1 : sizeof(float))),
            *codes = malloc((size_t)k);
    void *scratch = lu_alloc_aligned(lu_linear_scratch(l, ROWS) + 64);
    for (int64_t r = 0; r < ROWS; r++) {
        lu_to_f32(bf16 ? LUTRA_BF16 : LUTRA_F16, x + r * k, k, row);
        if (records)
            lu_act_record(&m->ops, &module->input, row, k, in + r * stride);
        else
            lu_act_fake(&m->ops, &module->input, row, k, (float *)(void *)in + r * stride, codes);
    }
    const lu_linear_args a = {.x = in,
                              .ldx = stride,
                              .M = ROWS,
                              .y = y,
                              .ldy = l->n,
                              .unit1 = l->n_units,
                              .scratch = scratch};
    lu_linear_run(l, &a);
    free(row), free(in), free(codes);
    lu_free_aligned(scratch);
    return y;
}

/* A stack on the GPU against its modules on the CPU, for the same rows: integers give the same
   bits, the rest differs by the types of values, tables and sums. */
static void check_stack(const lutra_model *gpu, const lu_gpu_linear *l, const lutra_model *cpu,
                        const lu_module *const *modules, int n)
{
    const lu_gpu_model *g = gpu->gpu;
    const lu_gpu_api *api = g->gpu->api;
    const lutra_dtype type = g->bf16 ? LUTRA_BF16 : LUTRA_F16;
    const size_t count = (size_t)(ROWS * l->k), results = (size_t)(ROWS * l->n);
    uint16_t *x = malloc(count * 2), *y = malloc(results * 2), *d_x, *d_y;
    lu_gpu_rounded room = {.n_sums = 33 * g->integer_rows};
    uint32_t seed = 77;
    lutra_err err;
    for (size_t i = 0; i < count; i++) {
        const float v = syn_random(&seed) * (i % 29 == 3 ? 40.0f : 1.0f) + 0.1f;
        lu_from_f32(type, &v, 1, x + i);
    }
    assert_int_equal(api->take(g->gpu, count * 2, (void **)&d_x), 0);
    assert_int_equal(api->take(g->gpu, results * 2, (void **)&d_y), 0);
    assert_int_equal(api->take(g->gpu, (size_t)(ROWS * g->round_columns) * 2, (void **)&room.x), 0);
    assert_int_equal(api->take(g->gpu, ROWS * 4, (void **)&room.scale), 0);
    assert_int_equal(api->take(g->gpu, ROWS * 4, (void **)&room.zero), 0);
    assert_int_equal(api->take(g->gpu, (size_t)room.n_sums * 4, (void **)&room.sums), 0);
    assert_int_equal(api->upload(g->gpu, d_x, x, count * 2), 0);
    must(lu_gpu_product(g, &room, l, d_x, ROWS, d_y, &err), &err);
    assert_int_equal(api->download(g->gpu, y, d_y, results * 2), 0);
    int64_t row = 0;
    for (int i = 0; i < n; i++) {
        const lu_module *module = modules[i];
        const int64_t cols = module->weight.n;
        float *want = cpu_rows(cpu, module, x, g->bf16), *got = malloc((size_t)(ROWS * cols) * 4);
        const lu_gpu_part *part = l->parts;
        while (part->row + part->n <= row)
            part++;
        for (int64_t r = 0; r < ROWS; r++) {
            lu_to_f32(type, y + r * l->n + row, cols, got + r * cols);
            for (int64_t c = 0; c < cols && part->kind == LU_GPU_INTEGERS; c++) {
                uint16_t bits;
                lu_from_f32(type, want + r * cols + c, 1, &bits);
                if (bits != y[r * l->n + row + c])
                    fail_msg("%s: row %d column %d is %g, expected %g", module->site, (int)r,
                             (int)c, (double)got[r * cols + c], (double)want[r * cols + c]);
            }
        }
        const double e = relative(got, want, ROWS * cols);
        worst[g->bf16] = e > worst[g->bf16] ? e : worst[g->bf16];
        if (!(e <= (g->bf16 ? 6e-3 : 8e-4)))
            fail_msg("%s: relative error %g", module->site, e);
        free(want), free(got);
        row += cols;
    }
    assert_int_equal(row, l->n);
    void *const taken[] = {d_x, d_y, room.x, room.scale, room.zero, room.sums};
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++)
        api->give(g->gpu, taken[i]);
    free(x), free(y);
}

/* Every stack of the last layer. */
static void check_stacks(lutra_ctx *ctx, const char *folder, const char *act, lutra_dtype type)
{
    lutra_model *cpu = open_on(ctx, folder, LUTRA_F32, NULL, act),
                *gpu = open_on(ctx, folder, type, device, act);
    const int64_t last = cpu->config.n_layers - 1;
    const lu_layer *from = &cpu->layers[last];
    const lu_gpu_layer *to = &gpu->gpu->layers[last];
    const lu_module *a = from->attention, *qkv[] = {&a[LU_SLOT_Q], &a[LU_SLOT_K], &a[LU_SLOT_V]},
                    *o = &a[LU_SLOT_O];
    check_stack(gpu, &to->qkv, cpu, qkv, 3);
    check_stack(gpu, &to->o, cpu, &o, 1);
    for (int64_t e = 0; e < cpu->config.n_experts; e++) {
        const lu_module *mlp = from->experts[e], *gate_up[] = {&mlp[LU_GATE], &mlp[LU_UP]},
                        *down = &mlp[LU_DOWN];
        check_stack(gpu, &to->experts[e].gate_up, cpu, gate_up, 2);
        check_stack(gpu, &to->experts[e].down, cpu, &down, 1);
    }
    lutra_model_close(cpu);
    lutra_model_close(gpu);
}

static const char *const apart[] = {"lm_head", "*embed_tokens", "*.k_proj", "*.up_proj", "*.w1"};

static void linears_give_the_cpus_numbers(void **state)
{
    static const char *const names[] = {"llama-h16", "gemma2", "mixtral-h16"};
    static const struct {
        const char *format, *act, *option;
    } cases[] = {
        {"int8:channel", "int8:token", NULL},           {"int8:channel", "int8:tensor:asym", NULL},
        {"int7:channel:asym", "int6:token:asym", NULL}, {"int8:g8", "int8:tensor", NULL},
        {"int4:channel", "int6:tensor:asym", NULL},     {"nf4:g8", "int5:g8", NULL},
        {"int8:channel", "none", "int8:token"},
    };
    char folder[SYN_PATH];
    lutra_ctx *ctx = open_context();
    (void)state;
    syn_temp(folder);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
            /* with some left alone stacks fall into parts, which the option rounds all the same */
            const bool parts = cases[k].option != NULL;
            const char *out = compress(ctx, folder, names[i], cases[k].format, cases[k].act,
                                       parts ? apart : NULL, parts ? 5 : 0);
            check_stacks(ctx, out, cases[k].option, LUTRA_F16);
            check_stacks(ctx, out, cases[k].option, LUTRA_BF16);
        }
    print_message("linears: relative error up to %.1e (fp16), %.1e (bf16)\n", worst[0], worst[1]);
    lutra_close(ctx);
    syn_delete(folder);
}

/* --- whole models
 * --------------------------------------------------------------------------------- */

/* How far the GPU is from the CPU with the same rounding, and from the CPU without. The types of
   activations differ, so values near a code's edge take the next code, and after some layers the
   two roundings are as good as independent: their distance is at most sqrt(2) times what each
   loses. What each linear makes of the same input is held to the bit above. */
static void compare(lutra_ctx *ctx, const char *folder, const char *act, const char *what)
{
    static float cpu[N * VOCAB], plain[N * VOCAB], gpu[N * VOCAB], bf16[N * VOCAB];
    logits_of(ctx, folder, LUTRA_F32, NULL, act, cpu);
    logits_of(ctx, folder, LUTRA_F32, NULL, "none", plain);
    logits_of(ctx, folder, LUTRA_F16, device, act, gpu);
    logits_of(ctx, folder, LUTRA_BF16, device, act, bf16);
    const double loss = relative(cpu, plain, (int64_t)N * VOCAB),
                 e = relative(gpu, cpu, (int64_t)N * VOCAB),
                 far = relative(gpu, plain, (int64_t)N * VOCAB),
                 coarse = relative(bf16, cpu, (int64_t)N * VOCAB);
    print_message("%-36s rounding %.2e, fp16 %.2e from it and %.2e from none, bf16 %.2e\n", what,
                  loss, e, far, coarse);
    if (!(e <= 1.5 * loss && far > loss / 2 && coarse <= 3e-2 + 1.5 * loss))
        fail_msg("%s: rounding loses %g, the GPU is %g (bf16: %g) from it", what, loss, e, coarse);
}

static void models_say_what_the_cpu_says(void **state)
{
    static const char *const names[] = {"llama-h16", "qwen2-h16", "gemma2"};
    static const struct {
        const char *format, *act, *option;
        lu_gpu_kind kind;
    } cases[] = {
        {"int8:channel", "int8:token", NULL, LU_GPU_INTEGERS},
        {"int8:channel", "int8:tensor", NULL, LU_GPU_INTEGERS},
        {"int8:channel:f32", "int6:tensor:asym", NULL, LU_GPU_INTEGERS},
        {"int7:channel:asym", "int8:token:asym", NULL, LU_GPU_INTEGERS},
        {"int8:g8", "int6:token", NULL, LU_GPU_CODED},
        {"int8:channel", "int6:g8", NULL, LU_GPU_CODED},
        {"int4:channel", "int6:tensor:asym", NULL, LU_GPU_CODED},
        {"nf4:g8", "none", "int6:token", LU_GPU_CODED},
    };
    char folder[SYN_PATH], what[96];
    lutra_ctx *ctx = open_context();
    (void)state;
    syn_temp(folder);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
            const char *out =
                compress(ctx, folder, names[i], cases[k].format, cases[k].act, NULL, 0);
            lutra_model *m = open_on(ctx, out, LUTRA_F16, device, cases[k].option);
            const lu_gpu_linear *qkv = &m->gpu->layers[1].qkv;
            assert_int_equal(qkv->n_parts, 1);
            assert_int_equal(qkv->parts[0].kind, cases[k].kind);
            assert_int_equal(m->gpu->integer_rows > 0, cases[k].kind == LU_GPU_INTEGERS);
            lutra_model_close(m);
            snprintf(what, sizeof what, "%s %s %s", names[i], cases[k].format,
                     cases[k].option ? cases[k].option : cases[k].act);
            compare(ctx, out, cases[k].option, what);
        }
    snprintf(what, sizeof what, "tests/fixtures/tiny/llama-h16"); /* dense weights */
    compare(ctx, what, "int6:token", "dense, int6:token");
    lutra_close(ctx);
    syn_delete(folder);
}

/* Integers are exact: neither the cut of the input nor the batch changes what a token gets from
   them; steps are recorded and give what passes give. */
static void steps_are_recorded(void **state)
{
    static const int32_t prompt[] = {3, 5, 7, 11};
    char folder[SYN_PATH];
    int64_t count[2] = {0, 0};
    static int32_t said[2][16];
    lutra_err err;
    lutra_ctx *ctx = open_context();
    (void)state;
    syn_temp(folder);
    const char *out = compress(ctx, folder, "llama-h16", "int8:channel", "int8:token", NULL, 0);
    lutra_model *m = open_on(ctx, out, LUTRA_BF16, device, NULL);
    for (int again = 0; again < 2; again++) {
        static float logits[VOCAB];
        lutra_session *s;
        must(lutra_session_open(m, 0, &s, &err), &err);
        must(lutra_session_feed(s, prompt, 4, false, logits, &err), &err);
        while (count[again] < 16) {
            int32_t best = 0;
            for (int32_t i = 1; i < VOCAB; i++)
                best = logits[i] > logits[best] ? i : best;
            said[again][count[again]++] = best;
            must(lutra_session_feed(s, &best, 1, false, logits, &err), &err);
        }
        lutra_session_close(s);
    }
    assert_memory_equal(said[0], said[1], sizeof said[0]);
    if (emulated)
        assert_true(gpu_emulated_now.recorded > 0 && gpu_emulated_now.launches > 10);
    lutra_model_close(m);
    lutra_close(ctx);
    syn_delete(folder);
}

static void what_is_not_there_is_refused(void **state)
{
    static const char recipe[] = "passes: [{method: llmint8, columns: 4}]";
    char folder[SYN_PATH], out[SYN_PATH + 16], data[SYN_PATH + 16];
    lutra_err err;
    lutra_model *m;
    lutra_recipe *r;
    lutra_quantize_options o;
    lutra_calibration c;
    lutra_act_calibration calibration;
    int32_t ids[N] = {0};
    lutra_ctx *ctx = open_context();
    (void)state;
    syn_temp(folder);
    (void)compress(ctx, folder, "llama-h16", "int8:channel", "none", NULL, 0); /* its data.ids */
    snprintf(out, sizeof out, "%s/apart", folder);
    snprintf(data, sizeof data, "%s/data.ids", folder);
    lutra_calibration_init(&c);
    c.data = data;
    c.n_samples = 4;
    c.length = 20;
    lutra_quantize_options_init(&o);
    must(lutra_format_parse("int8:channel", &o.format, &err), &err);
    must(lutra_recipe_parse("r", recipe, sizeof recipe - 1, &r, &err), &err);
    o.recipe = r;
    o.calibration = &c;
    o.act_quant = "int8:token";
    must(lutra_quantize_checkpoint(ctx, "tests/fixtures/tiny/llama-h16", out, &o, NULL, &err),
         &err);
    lutra_recipe_free(r);
    assert_int_equal(try_open(ctx, out, LUTRA_BF16, device, NULL, &m, &err), LUTRA_E_UNSUPPORTED);
    assert_non_null(strstr(err.msg, "q_proj: rounded inputs beside columns that stay in fp16"));
    lutra_model_close(open_on(ctx, out, LUTRA_BF16, device, "none"));

    m = open_on(ctx, "tests/fixtures/tiny/llama-h16", LUTRA_BF16, device, NULL);
    lutra_act_calibration_init(&calibration);
    calibration.window = N;
    assert_int_equal(lutra_model_calibrate(m, "int8:tensor", ids, N, &calibration, &err),
                     LUTRA_E_UNSUPPORTED);
    lutra_model_close(m);
    lutra_close(ctx);
    syn_delete(folder);
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
        cmocka_unit_test(linears_give_the_cpus_numbers),
        cmocka_unit_test(models_say_what_the_cpu_says),
        cmocka_unit_test(steps_are_recorded),
        cmocka_unit_test(what_is_not_there_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
