/* test_quantize.c - whole checkpoints: what is written, what is refused and how, resuming. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>

#include <cmocka.h>

#include "base/json.h"
#include "calib/quantize.h"
#include "calib/quantize_plan.h"
#include "fmt/codec.h"
#include "io/checkpoint.h"
#include "lutra/lutra.h"
#include "support/synthetic_checkpoint.h"

#define MODEL "models/llama-8m"

static const char config[] =
    "{\n \"architectures\": [\"LlamaForCausalLM\"],\n \"rms_norm_eps\": 1e-05\n}\n";

/* A folder `in` and a name `out` under it that does not exist yet. */
typedef struct {
    char root[SYN_PATH], in[SYN_PATH + 8], out[SYN_PATH + 8], out2[SYN_PATH + 8];
    lutra_ctx *ctx;
    lutra_quantize_options o;
    lutra_quantize_report r;
    lutra_err err;
} place;

static void enter(place *p, int threads)
{
    lutra_options o;
    memset(p, 0, sizeof *p);
    syn_temp(p->root);
    snprintf(p->in, sizeof p->in, "%s/in", p->root);
    snprintf(p->out, sizeof p->out, "%s/out", p->root);
    snprintf(p->out2, sizeof p->out2, "%s/out2", p->root);
    assert_int_equal(mkdir(p->in, 0777), 0);
    lutra_options_init(&o);
    o.n_threads = threads;
    assert_int_equal(lutra_open(&o, &p->ctx, NULL), LUTRA_OK);
    lutra_quantize_options_init(&p->o);
}

static void leave(place *p)
{
    lutra_close(p->ctx);
    syn_delete(p->root);
}

static void set_format(place *p, const char *spec)
{
    assert_int_equal(lutra_format_parse(spec, &p->o.format, NULL), LUTRA_OK);
}

static void expect(place *p, const char *in, lutra_status status, const char *words)
{
    p->err.msg[0] = '\0';
    const lutra_status got = lutra_quantize_checkpoint(p->ctx, in, p->out, &p->o, &p->r, &p->err);
    if (got != status || (words && !strstr(p->err.msg, words)))
        fail_msg("status %d '%s', expected %d with '%s'", got, p->err.msg, status,
                 words ? words : "");
    char partial[SYN_PATH * 2];
    snprintf(partial, sizeof partial, "%s.partial", p->out);
    if (status == LUTRA_OK)
        assert_false(lu_path_exists(partial));
}

/* Two layers with an expert router, norms, embeddings and a head; an index and two shards. */
static const syn_tensor first_shard[] = {
    {"model.embed_tokens.weight", LUTRA_BF16, 40, 64, 0},
    {"model.layers.0.mlp.up_proj.weight", LUTRA_BF16, 96, 64, 0},
    {"model.layers.0.mlp.down_proj.weight", LUTRA_BF16, 64, 96, 0},
    {"model.layers.0.input_layernorm.weight", LUTRA_BF16, 64, 0, 0},
    {"model.layers.0.mlp.up_proj.bias", LUTRA_BF16, 96, 0, 0},
};
static const syn_tensor second_shard[] = {
    {"lm_head.weight", LUTRA_BF16, 40, 64, 0},
    {"model.layers.1.block_sparse_moe.gate.weight", LUTRA_BF16, 4, 64, 0},
    {"model.layers.1.block_sparse_moe.experts.0.w1.weight", LUTRA_F32, 32, 64, 0},
    {"model.layers.1.self_attn.q_proj.weight", LUTRA_F16, 64, 64, 0},
    {"model.norm.weight", LUTRA_F32, 64, 0, 0},
};

static void write_index(place *p)
{
    char text[4096];
    size_t n = (size_t)snprintf(text, sizeof text,
                                "{\"metadata\": {\"total_size\": 1}, \"weight_map\": {");
    for (int i = 0; i < 5; i++)
        n += (size_t)snprintf(text + n, sizeof text - n,
                              "\"%s\": \"a.safetensors\", \"%s\": \"b.safetensors\"%s",
                              first_shard[i].name, second_shard[i].name, i < 4 ? ", " : "}}");
    syn_write(p->in, "model.safetensors.index.json", text, n);
}

static void write_model(place *p)
{
    syn_text(p->in, "config.json", config);
    syn_text(p->in, "tokenizer.json", "{}");
    syn_text(p->in, "pytorch_model.bin", "weights");
    syn_text(p->in, "consolidated.00.pth", "weights");
    syn_text(p->in, "stray.safetensors", "weights");
    syn_text(p->in, ".hidden", "x");
    syn_shard(p->in, "a.safetensors", first_shard, 5, 1);
    syn_shard(p->in, "b.safetensors", second_shard, 5, 2);
    write_index(p);
}

/* Checks every tensor of `out` against the codec or the input; returns the number quantized. */
static int compare_with_codec(const char *in, const char *out, const lutra_format *f)
{
    lutra_checkpoint *a = NULL, *b = NULL;
    lu_quant_config q;
    bool found = false;
    int n_quantized = 0;
    assert_int_equal(lu_checkpoint_open(in, &a, NULL), LUTRA_OK);
    assert_int_equal(lu_checkpoint_open(out, &b, NULL), LUTRA_OK);
    assert_int_equal(lu_quant_config_read(lu_checkpoint_json(b), &found, &q, NULL), LUTRA_OK);
    assert_true(found);
    assert_int_equal(q.n_schemes, 1);
    assert_memory_equal(q.schemes[0].format.table, f->table, sizeof(float) << f->bits);
    assert_int_equal(q.schemes[0].format.group_size, f->group_size);
    for (int64_t i = 0; i < lutra_checkpoint_count(a); i++) {
        const char *name = lutra_checkpoint_name(a, i);
        const lu_st_entry *w = lu_checkpoint_find(a, name), *same = lu_checkpoint_find(b, name);
        if (same) {
            assert_int_equal(same->view.bytes, w->view.bytes);
            assert_memory_equal(same->view.data, w->view.data, w->view.bytes);
            continue;
        }
        char module[512], part[600];
        snprintf(module, sizeof module, "%.*s", (int)strlen(name) - 7, name);
        snprintf(part, sizeof part, "%s.codes", module);
        const lu_st_entry *codes = lu_checkpoint_find(b, part);
        snprintf(part, sizeof part, "%s.scales", module);
        const lu_st_entry *scales = lu_checkpoint_find(b, part);
        snprintf(part, sizeof part, "%s.zeros", module);
        const lu_st_entry *zeros = lu_checkpoint_find(b, part);
        assert_true(codes && scales && (zeros != NULL) == f->zero_point);
        const int64_t n = w->view.shape[0], k = w->view.shape[1];
        const size_t groups = (size_t)lutra_format_groups(f, k),
                     bytes = lutra_format_row_bytes(f, k),
                     scale_bytes = groups * lutra_dtype_bytes(f->scale_dtype);
        assert_int_equal(codes->view.shape[1], bytes);
        assert_int_equal(scales->view.shape[1], groups);
        float *row = malloc((size_t)k * sizeof *row);
        uint8_t *c = malloc(bytes), *s = malloc(scale_bytes), *z = malloc(groups);
        for (size_t r = 0; r < (size_t)n; r++) {
            lu_to_f32(w->view.dtype,
                      (const uint8_t *)w->view.data +
                          r * (size_t)k * lutra_dtype_bytes(w->view.dtype),
                      k, row);
            assert_int_equal(lu_encode_row(f, row, k, c, s, z), -1);
            assert_memory_equal(c, (const uint8_t *)codes->view.data + r * bytes, bytes);
            assert_memory_equal(s, (const uint8_t *)scales->view.data + r * scale_bytes,
                                scale_bytes);
            if (zeros)
                assert_memory_equal(z, (const uint8_t *)zeros->view.data + r * groups, groups);
        }
        free(row);
        free(c);
        free(s);
        free(z);
        assert_string_equal(q.modules[n_quantized < q.n_modules ? n_quantized : 0].name, module);
        n_quantized++;
    }
    assert_int_equal(q.n_modules, n_quantized);
    lu_quant_config_free(&q);
    lutra_checkpoint_close(a);
    lutra_checkpoint_close(b);
    return n_quantized;
}

static void every_format_writes_what_the_codec_says(void **state)
{
    (void)state;
    place p;
    enter(&p, 2);
    write_model(&p);
    for (int i = 0; i < lutra_codebook_count(); i++)
        for (int kind = 0; kind < 4; kind++) {
            static const char *const rest[] = {":g32", ":channel:f32", ":g8:bf16", ":g32:asym"};
            char spec[64];
            snprintf(spec, sizeof spec, "%s%s", lutra_codebook_name(i), rest[kind]);
            if (lutra_format_parse(spec, &p.o.format, NULL) != LUTRA_OK || p.o.format.learned)
                continue;
            expect(&p, p.in, LUTRA_OK, NULL);
            assert_int_equal(compare_with_codec(p.in, p.out, &p.o.format), 4);
            assert_int_equal(p.r.n_quantized, 4);
            assert_int_equal(p.r.n_tensors, 10);
            syn_delete(p.out);
        }
    leave(&p);
}

static void a_users_table_is_stored_with_its_values(void **state)
{
    (void)state;
    place p;
    enter(&p, 1);
    write_model(&p);
    const float table[4] = {0.4f, -1, 0, 1};
    assert_int_equal(lutra_format_from_table(table, 4, 32, LUTRA_F16, &p.o.format, NULL), LUTRA_OK);
    expect(&p, p.in, LUTRA_OK, NULL);
    assert_int_equal(compare_with_codec(p.in, p.out, &p.o.format), 4);
    leave(&p);
}

static void the_folder_holds_the_model_and_nothing_else(void **state)
{
    (void)state;
    place p;
    enter(&p, 2);
    write_model(&p);
    set_format(&p, "nf4:g32");
    expect(&p, p.in, LUTRA_OK, NULL);
    assert_int_equal(syn_count(p.out), 5); /* config, index, two shards, tokenizer */
    char path[SYN_PATH * 2], *text;
    size_t size;
    snprintf(path, sizeof path, "%s/config.json", p.out);
    assert_int_equal(lu_file_read(path, 1 << 20, &text, &size, NULL), LUTRA_OK);
    assert_non_null(strstr(text, "\"rms_norm_eps\": 1e-05,")); /* the model's own text is kept */
    lu_free(text);
    leave(&p);
}

static void a_null_quantization_config_gives_way(void **state)
{
    (void)state;
    place p;
    enter(&p, 1);
    write_model(&p);
    syn_text(p.in, "config.json", "{\"quantization_config\": null, \"hidden_act\": \"silu\"}");
    set_format(&p, "nf4:g32");
    expect(&p, p.in, LUTRA_OK, NULL);
    assert_int_equal(compare_with_codec(p.in, p.out, &p.o.format), 4);
    char path[SYN_PATH * 2], *text;
    size_t size;
    json_t *json = NULL;
    snprintf(path, sizeof path, "%s/config.json", p.out);
    assert_int_equal(lu_file_read(path, 1 << 20, &text, &size, NULL), LUTRA_OK);
    assert_int_equal(lu_json_parse(path, text, size, true, &json, NULL),
                     LUTRA_OK); /* no key twice */
    assert_string_equal(json_string_value(json_object_get(json, "hidden_act")), "silu");
    json_decref(json);
    lu_free(text);
    leave(&p);
}

static void the_report_follows_from_the_shapes(void **state)
{
    (void)state;
    place p;
    enter(&p, 2);
    write_model(&p);
    set_format(&p, "int4:g32");
    p.o.dry_run = true;
    expect(&p, p.in, LUTRA_OK, NULL);
    assert_false(lu_path_exists(p.out));
    const int64_t params = 96 * 64 + 64 * 96 + 32 * 64 + 64 * 64;
    assert_int_equal(p.r.params_quantized, params);
    const lutra_quantize_report dry = p.r;
    p.o.dry_run = false;
    expect(&p, p.in, LUTRA_OK, NULL);
    assert_int_equal(p.r.bytes_out, dry.bytes_out);
    assert_int_equal(p.r.bytes_in, dry.bytes_in);
    assert_true(fabs(p.r.bits_per_weight - (4.5 + 8.0 * 64 / (double)params)) < 1e-9);
    assert_true(p.r.sqnr_db > 15 && p.r.sqnr_db < 25);
    assert_true(p.r.peak_rss > 0 && p.r.seconds > 0);
    leave(&p);
}

static void ignored_modules_are_copied(void **state)
{
    (void)state;
    place p;
    enter(&p, 1);
    write_model(&p);
    set_format(&p, "nf4:g32");
    static const char *const patterns[] = {"*.0.mlp.*", "*experts.?.w1"};
    p.o.ignore = patterns;
    p.o.n_ignore = 2;
    expect(&p, p.in, LUTRA_OK, NULL);
    assert_int_equal(compare_with_codec(p.in, p.out, &p.o.format),
                     3); /* q_proj, lm_head, embeddings */
    leave(&p);
}

static void globs_match_as_in_a_shell(void **state)
{
    (void)state;
    assert_true(lu_glob_match("lm_head", "lm_head"));
    assert_false(lu_glob_match("lm_head", "model.lm_head"));
    assert_true(lu_glob_match("*embed_tokens", "model.embed_tokens"));
    assert_true(lu_glob_match("*a*b*c", "xaxbxbxc"));
    assert_false(lu_glob_match("*a*b*c", "xaxbxbxcd"));
    assert_true(lu_glob_match("layers.?.up", "layers.7.up"));
    assert_false(lu_glob_match("layers.?.up", "layers.17.up"));
    assert_true(lu_glob_match("*", ""));
    assert_false(lu_glob_match("?", ""));
}

static void the_demo_model_is_the_same_on_any_number_of_threads(void **state)
{
    (void)state;
    place p, q;
    enter(&p, 1);
    enter(&q, 3);
    expect(&p, MODEL, LUTRA_OK, NULL);
    expect(&q, MODEL, LUTRA_OK, NULL);
    assert_true(syn_same_folder(p.out, q.out));
    assert_true(p.r.sqnr_db == q.r.sqnr_db);
    assert_int_equal(compare_with_codec(MODEL, p.out, &p.o.format), 56);
    leave(&p);
    leave(&q);
}

static void bad_weights_are_named(void **state)
{
    (void)state;
    place p;
    enter(&p, 2);
    write_model(&p);
    set_format(&p, "nf4:g32");
    syn_tensor bad[5];
    memcpy(bad, first_shard, sizeof bad);
    bad[1].first = NAN;
    syn_shard(p.in, "a.safetensors", bad, 5, 1);
    expect(&p, p.in, LUTRA_E_FORMAT,
           "a.safetensors: tensor 'model.layers.0.mlp.up_proj.weight': row 0, column 0 is NaN");
    assert_false(lu_path_exists(p.out));
    bad[1].first = 1e10f;
    syn_shard(p.in, "a.safetensors", bad, 5, 1);
    p.o.restart = true;
    expect(&p, p.in, LUTRA_E_FORMAT, "too large for F16 scales: use :bf16 or :f32");
    leave(&p);
}

static void requests_that_cannot_be_met_are_refused(void **state)
{
    (void)state;
    place p;
    char path[SYN_PATH * 2];
    enter(&p, 1);
    expect(&p, p.in, LUTRA_E_IO, NULL);
    write_model(&p);
    set_format(&p, "nf4:g64");
    expect(&p, p.in, LUTRA_E_ARG,
           "'model.layers.0.mlp.down_proj.weight': group size 64 does not divide its 96");
    set_format(&p, "nf4:g32");
    p.o.format.bits = 1;
    expect(&p, p.in, LUTRA_E_ARG, "1 bits");
    set_format(&p, "nf4:g32");
    assert_int_equal(mkdir(p.out, 0777), 0);
    expect(&p, p.in, LUTRA_E_EXISTS, "exists");
    snprintf(path, sizeof path, "%s/sub", p.out);
    assert_int_equal(mkdir(path, 0777), 0);
    p.o.overwrite = true;
    expect(&p, p.in, LUTRA_E_EXISTS, "holds the folder 'sub'");
    rmdir(path);
    expect(&p, p.in, LUTRA_OK, NULL);
    expect(&p, p.out, LUTRA_E_UNSUPPORTED, "quantized already (lutra)");
    assert_int_equal(lutra_quantize_checkpoint(p.ctx, p.in, p.in, &p.o, NULL, &p.err), LUTRA_E_ARG);
    syn_text(p.in, "config.json", "{\"quantization_config\": {\"quant_method\": \"gptq\"}}");
    expect(&p, p.in, LUTRA_E_UNSUPPORTED, "(gptq)");
    snprintf(path, sizeof path, "%s/a.safetensors", p.in);
    expect(&p, path, LUTRA_E_ARG, "config.json");
    leave(&p);
}

static void damaged_shards_are_refused(void **state)
{
    (void)state;
    place p;
    char path[SYN_PATH * 2];
    enter(&p, 1);
    write_model(&p);
    set_format(&p, "nf4:g32");
    snprintf(path, sizeof path, "%s/b.safetensors", p.in);
    assert_int_equal(truncate(path, 3000), 0);
    expect(&p, p.in, LUTRA_E_FORMAT, "b.safetensors");
    unlink(path);
    expect(&p, p.in, LUTRA_E_IO, "b.safetensors");
    assert_false(lu_path_exists(p.out));
    leave(&p);
}

static void an_existing_output_is_replaced_whole(void **state)
{
    (void)state;
    place p;
    enter(&p, 2);
    write_model(&p);
    assert_int_equal(mkdir(p.out, 0777), 0);
    syn_text(p.out, "old.txt", "old");
    p.o.overwrite = true;
    set_format(&p, "int4:g32");
    expect(&p, p.in, LUTRA_E_EXISTS, "no config.json");
    assert_int_equal(syn_count(p.out), 1);
    syn_text(p.out, "config.json", "{}");
    set_format(&p, "int4:g32");
    expect(&p, p.in, LUTRA_OK, NULL);
    assert_int_equal(syn_count(p.out), 5);
    strcat(p.out, "/."); /* a name that no rename can replace */
    expect(&p, p.in, LUTRA_E_ARG, "names no folder");
    p.out[strlen(p.out) - 2] = '\0';
    strcat(p.out, "///"); /* trailing slashes are not part of the name */
    expect(&p, p.in, LUTRA_OK, NULL);
    leave(&p);
}

/* --- resuming --- */

typedef struct {
    int calls, stop_at;
} stopper;

static bool stop_when_called(void *user)
{
    stopper *s = user;
    return ++s->calls == s->stop_at;
}

static void a_stopped_run_resumes_to_the_same_bytes(void **state)
{
    (void)state;
    place p;
    enter(&p, 2);
    write_model(&p);
    set_format(&p, "nf4:g32:f32");
    expect(&p, p.in, LUTRA_OK, NULL);
    const lutra_quantize_report whole = p.r;
    for (int at = 1; at < 14; at++) {
        stopper s = {0, at};
        lutra_options o;
        lutra_ctx *ctx;
        lutra_options_init(&o);
        o.n_threads = 1;
        o.user = &s;
        o.cancelled = stop_when_called;
        assert_int_equal(lutra_open(&o, &ctx, NULL), LUTRA_OK);
        lutra_status status = lu_quantize_in_batches(ctx, p.in, p.out2, &p.o, 1, &p.r, &p.err);
        if (s.calls >= at) {
            assert_int_equal(status, LUTRA_E_CANCELLED);
            assert_false(lu_path_exists(p.out2));
            status = lu_quantize_in_batches(ctx, p.in, p.out2, &p.o, 1, &p.r, &p.err);
            assert_true(at < 4 || p.r.resumed_tensors > 0);
        }
        assert_int_equal(status, LUTRA_OK);
        assert_true(syn_same_folder(p.out, p.out2));
        assert_true(p.r.sqnr_db == whole.sqnr_db);
        syn_delete(p.out2);
        lutra_close(ctx);
    }
    leave(&p);
}

static void the_mse_rule_gives_the_same_bytes_on_any_threads_and_after_a_stop(void **state)
{
    (void)state;
    place p;
    enter(&p, 3);
    write_model(&p);
    set_format(&p, "int3:g32:asym");
    expect(&p, p.in, LUTRA_OK, NULL);
    const double minmax = p.r.sqnr_db;
    p.o.range = LUTRA_RANGE_MSE;
    p.o.overwrite = true;
    expect(&p, p.in, LUTRA_OK, NULL);
    const double mse = p.r.sqnr_db;
    assert_true(mse > minmax);
    stopper s = {0, 6};
    lutra_options o;
    lutra_ctx *ctx;
    lutra_options_init(&o);
    o.user = &s;
    o.cancelled = stop_when_called;
    o.n_threads = 1;
    assert_int_equal(lutra_open(&o, &ctx, NULL), LUTRA_OK);
    assert_int_equal(lu_quantize_in_batches(ctx, p.in, p.out2, &p.o, 1, NULL, &p.err),
                     LUTRA_E_CANCELLED);
    assert_int_equal(lu_quantize_in_batches(ctx, p.in, p.out2, &p.o, 1, &p.r, &p.err), LUTRA_OK);
    assert_true(p.r.resumed_tensors > 0 && p.r.sqnr_db == mse);
    assert_true(syn_same_folder(p.out, p.out2));
    p.o.range = (lutra_range)7;
    expect(&p, p.in, LUTRA_E_ARG, "range rule 7");
    lutra_close(ctx);
    leave(&p);
}

static void another_request_does_not_resume(void **state)
{
    (void)state;
    place p;
    enter(&p, 1);
    write_model(&p);
    stopper s = {0, 6};
    lutra_options o;
    lutra_ctx *ctx;
    lutra_options_init(&o);
    o.user = &s;
    o.cancelled = stop_when_called;
    o.n_threads = 1;
    assert_int_equal(lutra_open(&o, &ctx, NULL), LUTRA_OK);
    set_format(&p, "nf4:g32");
    assert_int_equal(lu_quantize_in_batches(ctx, p.in, p.out, &p.o, 1, NULL, &p.err),
                     LUTRA_E_CANCELLED);
    set_format(&p, "int4:g32");
    expect(&p, p.in, LUTRA_E_EXISTS, "unfinished work of another request");
    set_format(&p, "nf4:g32");
    p.o.range = LUTRA_RANGE_MSE;
    expect(&p, p.in, LUTRA_E_EXISTS, "unfinished work of another request");
    p.o.range = LUTRA_RANGE_MINMAX;
    syn_shard(p.in, "b.safetensors", second_shard, 5, 3); /* same shapes, other weights */
    expect(&p, p.in, LUTRA_E_EXISTS, "unfinished work of another request");
    p.o.restart = true;
    expect(&p, p.in, LUTRA_OK, NULL);
    assert_int_equal(p.r.resumed_tensors, 0);
    compare_with_codec(p.in, p.out, &p.o.format);
    lutra_close(ctx);
    leave(&p);
}

static void every_failed_allocation_is_reported(void **state)
{
    (void)state;
    place p;
    enter(&p, 1);
    write_model(&p);
    set_format(&p, "nf4:g32");
    expect(&p, p.in, LUTRA_OK, NULL);
    memcpy(p.out2, p.out, sizeof p.out);
    snprintf(p.out, sizeof p.out, "%s/again", p.root);
    bool finished = false;
    for (int64_t n = 1; n < 5000 && !finished; n += n < 60 ? 1 : 7) {
        lu_mem_fail_at(n, false);
        const lutra_status status =
            lutra_quantize_checkpoint(p.ctx, p.in, p.out, &p.o, &p.r, &p.err);
        const bool reached = lu_mem_count() >= n;
        lu_mem_fail_at(0, false);
        finished = status == LUTRA_OK;
        if (!reached)
            assert_int_equal(status, LUTRA_OK);
        else if (status != LUTRA_OK)
            assert_false(lu_path_exists(p.out));
        if (status == LUTRA_OK && reached) { /* an allocation whose failure does no harm */
            assert_true(syn_same_folder(p.out, p.out2));
            syn_delete(p.out);
            finished = false;
        }
        if (!reached)
            break;
    }
    assert_true(finished);
    assert_true(syn_same_folder(p.out, p.out2));
    leave(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_format_writes_what_the_codec_says),
        cmocka_unit_test(a_users_table_is_stored_with_its_values),
        cmocka_unit_test(the_folder_holds_the_model_and_nothing_else),
        cmocka_unit_test(a_null_quantization_config_gives_way),
        cmocka_unit_test(the_report_follows_from_the_shapes),
        cmocka_unit_test(ignored_modules_are_copied),
        cmocka_unit_test(globs_match_as_in_a_shell),
        cmocka_unit_test(the_demo_model_is_the_same_on_any_number_of_threads),
        cmocka_unit_test(bad_weights_are_named),
        cmocka_unit_test(requests_that_cannot_be_met_are_refused),
        cmocka_unit_test(damaged_shards_are_refused),
        cmocka_unit_test(an_existing_output_is_replaced_whole),
        cmocka_unit_test(a_stopped_run_resumes_to_the_same_bytes),
        cmocka_unit_test(the_mse_rule_gives_the_same_bytes_on_any_threads_and_after_a_stop),
        cmocka_unit_test(another_request_does_not_resume),
        cmocka_unit_test(every_failed_allocation_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
