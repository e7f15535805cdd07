/* test_gpu_quantize.c - compressing on the emulated GPU, or with LUTRA_TEST_GPU=cuda (or cuda:N) on
   that one: the bytes and the report are the CPU's, also over many steps, after a stop and on
   another device; failures are the CPU's or name the GPU. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>

#include <cmocka.h>

#include "base/context.h"
#include "calib/quantize.h"
#include "lutra/lutra.h"
#include "support/alloc_sweep.h"
#include "support/gpu_emulated.h"
#include "support/synthetic_checkpoint.h"

static const char *device; /* asked for */
static bool real;

typedef struct {
    char root[SYN_PATH], in[SYN_PATH + 8], cpu[SYN_PATH + 8], gpu[SYN_PATH + 8];
    lutra_ctx *ctx;
    lutra_quantize_options o;
    lutra_quantize_report r;
    lutra_err err;
    int calls, stop_at;
    char log[512];
} place;

static bool stop_when_called(void *user)
{
    place *p = user;
    return ++p->calls == p->stop_at;
}

static void keep_log(void *user, lutra_log_level level, const char *msg)
{
    place *p = user;
    if (level == LUTRA_LOG_INFO)
        snprintf(p->log, sizeof p->log, "%s", msg);
}

static void enter(place *p, int threads)
{
    lutra_options o;
    memset(p, 0, sizeof *p);
    gpu_emulated_reset();
    syn_temp(p->root);
    snprintf(p->in, sizeof p->in, "%s/in", p->root);
    snprintf(p->cpu, sizeof p->cpu, "%s/cpu", p->root);
    snprintf(p->gpu, sizeof p->gpu, "%s/gpu", p->root);
    assert_int_equal(mkdir(p->in, 0777), 0);
    syn_text(p->in, "config.json", "{\"hidden_act\": \"silu\"}");
    lutra_options_init(&o);
    o.n_threads = threads;
    o.user = p;
    o.cancelled = stop_when_called;
    o.log = keep_log;
    assert_int_equal(lutra_open(&o, &p->ctx, NULL), LUTRA_OK);
    p->ctx->gpu = real ? NULL : gpu_emulated();
    lutra_quantize_options_init(&p->o);
}

static void leave(place *p)
{
    assert_int_equal(gpu_emulated_now.taken, 0);
    lutra_close(p->ctx);
    syn_delete(p->root);
}

static void set_format(place *p, const char *spec)
{
    assert_int_equal(lutra_format_parse(spec, &p->o.format, NULL), LUTRA_OK);
}

/* On a device: the status, and words of its message. */
static void expect(place *p, const char *where, lutra_status status, const char *words)
{
    p->o.device = where;
    p->err.msg[0] = '\0';
    const lutra_status got = lu_quantize_in_batches(p->ctx, p->in, where ? p->gpu : p->cpu, &p->o,
                                                    (int64_t)256 << 20, &p->r, &p->err);
    if (got != status || (words && !strstr(p->err.msg, words)))
        fail_msg("status %d '%s', expected %d with '%s'", got, p->err.msg, status,
                 words ? words : "");
    assert_int_equal(gpu_emulated_now.taken, 0);
}

/* Both devices give the same folder and the same report. */
static void expect_same(place *p)
{
    expect(p, NULL, LUTRA_OK, NULL);
    const lutra_quantize_report cpu = p->r;
    expect(p, device, LUTRA_OK, NULL);
    assert_true(syn_same_folder(p->cpu, p->gpu));
    assert_true(p->r.sqnr_db == cpu.sqnr_db);
    assert_int_equal(p->r.bytes_out, cpu.bytes_out);
    syn_delete(p->cpu);
    syn_delete(p->gpu);
}

/* Every type, rows that end inside a byte, a tensor that is copied. */
static const syn_tensor small[] = {
    {"model.embed_tokens.weight", LUTRA_BF16, 40, 64, 0},
    {"model.layers.0.mlp.up_proj.weight", LUTRA_BF16, 97, 64, 0},
    {"model.layers.0.mlp.down_proj.weight", LUTRA_F32, 63, 96, 0},
    {"model.layers.0.self_attn.q_proj.weight", LUTRA_F16, 5, 192, 0},
    {"model.layers.0.self_attn.k_proj.weight", LUTRA_F64, 9, 64, 0},
    {"model.norm.weight", LUTRA_F32, 64, 0, 0},
};
enum { N_SMALL = sizeof small / sizeof *small };

static void every_format_and_range_gives_the_bytes_of_the_cpu(void **state)
{
    (void)state;
    place p;
    enter(&p, 2);
    syn_shard(p.in, "model.safetensors", small, N_SMALL, 1);
    for (int i = 0; i < lutra_codebook_count(); i++)
        for (int kind = 0; kind < 4; kind++) {
            static const char *const rest[] = {":g32", ":channel:f32", ":g8:bf16", ":g32:asym"};
            char spec[64];
            snprintf(spec, sizeof spec, "%s%s", lutra_codebook_name(i), rest[kind]);
            if (lutra_format_parse(spec, &p.o.format, NULL) != LUTRA_OK)
                continue;
            p.o.range = (i + kind) % 2 ? LUTRA_RANGE_MSE : LUTRA_RANGE_MINMAX;
            expect_same(&p);
            assert_non_null(strstr(p.log, p.o.format.learned
                                              ? "4 of 4 tensors are rounded on the CPU"
                                              : "1 of 4 tensors are rounded on the CPU"));
        }
    leave(&p);
}

/* More than four steps of 16 MB, formats that differ, and pieces for the CPU among them. */
static const syn_tensor large[] = {
    {"model.layers.0.mlp.up_proj.weight", LUTRA_BF16, 4000, 2304, 0},
    {"model.layers.0.mlp.gate_proj.weight", LUTRA_F32, 1500, 2048, 0},
    {"model.layers.0.mlp.down_proj.weight", LUTRA_F64, 300, 2048, 0},
    {"model.layers.1.mlp.up_proj.weight", LUTRA_BF16, 1000, 2304, 0},
    {"model.layers.1.mlp.down_proj.weight", LUTRA_F16, 7, 2048 * 96, 0},
    {"model.layers.1.self_attn.q_proj.weight", LUTRA_F16, 64, 2048, 0},
    {"model.embed_tokens.weight", LUTRA_BF16, 4000, 2048, 0},
    {"model.layers.1.self_attn.v_proj.weight", LUTRA_BF16, 3600, 4096, 0},
};
enum { N_LARGE = sizeof large / sizeof *large };

static void steps_follow_each_other_to_the_same_bytes(void **state)
{
    (void)state;
    static const char *const specs[] = {"int8:g64:asym:f32", "km2:g64", "nf3:channel"};
    lutra_format_rule rules[3] = {{"*.gate_proj", {.bits = 0}},
                                  {"*.q_proj", {.bits = 0}},
                                  {"*.1.mlp.down_proj", {.bits = 0}}};
    place p;
    enter(&p, 3);
    for (int i = 0; i < 3; i++)
        assert_int_equal(lutra_format_parse(specs[i], &rules[i].format, NULL), LUTRA_OK);
    p.o.rules = rules;
    p.o.n_rules = 3;
    syn_shard(p.in, "model.safetensors", large, N_LARGE, 2);
    set_format(&p, "nf4:g64");
    gpu_emulated_now.late = true;
    expect_same(&p);
    assert_non_null(strstr(p.log, "2 of 7 tensors are rounded on the CPU"));
    leave(&p);
}

static void bad_weights_get_the_message_of_the_cpu(void **state)
{
    (void)state;
    place p;
    enter(&p, 2);
    for (int i = 1; i < 5; i++)
        for (int huge = 0; huge < 2; huge++) {
            syn_tensor bad[N_SMALL];
            char words[300];
            memcpy(bad, small, sizeof bad);
            bad[i].first = huge && bad[i].dtype != LUTRA_F16 ? 1e30f : NAN;
            if (i == 4)
                bad[1].first = NAN; /* the lower of two */
            syn_shard(p.in, "model.safetensors", bad, N_SMALL, 1);
            set_format(&p, "nf4:g32");
            p.o.restart = true;
            expect(&p, NULL, LUTRA_E_FORMAT, "row 0, column 0 is");
            snprintf(words, sizeof words, "%s", p.err.msg);
            expect(&p, device, LUTRA_E_FORMAT, words);
            assert_false(lu_path_exists(p.gpu));
        }
    leave(&p);
}

static void a_stopped_run_resumes_on_either_device(void **state)
{
    (void)state;
    place p;
    enter(&p, 1);
    syn_shard(p.in, "model.safetensors", small, N_SMALL, 1);
    set_format(&p, "int3:g32:asym");
    p.o.range = LUTRA_RANGE_MSE;
    expect(&p, NULL, LUTRA_OK, NULL);
    const double sqnr = p.r.sqnr_db;
    int n_stopped = 0;
    for (int at = 1; at < 16; at++)
        for (int back = 0; back < 2; back++) {
            p.calls = 0;
            p.stop_at = at;
            p.o.device = device;
            lutra_status status = lu_quantize_in_batches(p.ctx, p.in, p.gpu, &p.o, 1, &p.r, &p.err);
            p.stop_at = 0;
            if (status != LUTRA_OK) {
                n_stopped++;
                assert_int_equal(status, LUTRA_E_CANCELLED);
                assert_false(lu_path_exists(p.gpu));
                p.o.device = back ? "cpu" : real ? device : "cuda:1";
                status = lu_quantize_in_batches(p.ctx, p.in, p.gpu, &p.o, 1, &p.r, &p.err);
            }
            assert_int_equal(status, LUTRA_OK);
            assert_true(syn_same_folder(p.cpu, p.gpu));
            assert_true(p.r.sqnr_db == sqnr);
            syn_delete(p.gpu);
        }
    assert_true(n_stopped > 16);
    leave(&p);
}

static void a_gpu_that_fails_is_named_and_the_run_resumes(void **state)
{
    (void)state;
    place p;
    if (real)
        skip();
    enter(&p, 1);
    syn_shard(p.in, "model.safetensors", small, N_SMALL, 1);
    set_format(&p, "nf4:g32");
    expect(&p, NULL, LUTRA_OK, NULL);
    for (int at = 1; at <= 3; at++) {
        gpu_emulated_now.fail_at = at;
        expect(&p, device, LUTRA_E_INTERNAL, "cuda:0: rounding: a planted fault");
        assert_false(lu_path_exists(p.gpu));
    }
    expect(&p, device, LUTRA_OK, NULL);
    assert_true(syn_same_folder(p.cpu, p.gpu));
    leave(&p);
}

static void devices_that_are_not_there_are_refused(void **state)
{
    (void)state;
    place p;
    if (real)
        skip();
    enter(&p, 1);
    syn_shard(p.in, "model.safetensors", small, N_SMALL, 1);
    set_format(&p, "nf4:g32");
    expect(&p, "gpu", LUTRA_E_ARG, "device is 'gpu', expected cpu, cuda or cuda:N");
    expect(&p, "cuda:2", LUTRA_E_UNSUPPORTED, "cuda:2 is not here: this machine has 2 GPUs");
    gpu_emulated_now.memory = 4096;
    expect(&p, device, LUTRA_E_NOMEM, "cuda:0: memory for");
    assert_false(lu_path_exists(p.gpu));
    p.o.dry_run = true; /* a plan needs no GPU */
    expect(&p, "cuda:7", LUTRA_OK, NULL);
    p.o.dry_run = false;
    leave(&p);
}

static lutra_status quantize(void *arg)
{
    place *p = arg;
    char partial[SYN_PATH * 2];
    const lutra_status status = lutra_quantize_checkpoint(p->ctx, p->in, p->gpu, &p->o, NULL, NULL);
    snprintf(partial, sizeof partial, "%s.partial", p->gpu);
    syn_delete(partial);
    syn_delete(p->gpu);
    return status;
}

static void every_failed_allocation_is_reported(void **state)
{
    (void)state;
    place p;
    if (real) /* it opens the GPU for each */
        skip();
    enter(&p, 1);
    syn_shard(p.in, "model.safetensors", small, N_SMALL, 1);
    set_format(&p, "nf4:g32");
    p.o.device = device;
    assert_true(fail_each_allocation(quantize, &p) > 20);
    leave(&p);
}

int main(void)
{
    const char *asked = getenv("LUTRA_TEST_GPU");
    real = asked && *asked;
    device = real ? asked : "cuda";
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_format_and_range_gives_the_bytes_of_the_cpu),
        cmocka_unit_test(steps_follow_each_other_to_the_same_bytes),
        cmocka_unit_test(bad_weights_get_the_message_of_the_cpu),
        cmocka_unit_test(a_stopped_run_resumes_on_either_device),
        cmocka_unit_test(a_gpu_that_fails_is_named_and_the_run_resumes),
        cmocka_unit_test(devices_that_are_not_there_are_refused),
        cmocka_unit_test(every_failed_allocation_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
