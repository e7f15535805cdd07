/* test_quantize_formats.c - whole checkpoints in formats that differ between modules: learned
   tables, rules by name, bits allocated under a budget. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "calib/quantize_plan.h"
#include "lutra/lutra.h"
#include "support/synthetic_checkpoint.h"

#define MODEL "models/llama-8m"

/* Row counts around a block of 64, and a head that is left alone. */
static const syn_tensor tensors[] = {
    {"model.embed_tokens.weight", LUTRA_BF16, 40, 64, 0},
    {"model.layers.0.mlp.up_proj.weight", LUTRA_BF16, 96, 64, 0},
    {"model.layers.0.mlp.down_proj.weight", LUTRA_F16, 64, 96, 0},
    {"model.layers.0.self_attn.q_proj.weight", LUTRA_F32, 130, 64, 0},
    {"model.layers.0.self_attn.o_proj.weight", LUTRA_BF16, 8, 64, 0},
};

typedef struct {
    char root[SYN_PATH], in[SYN_PATH + 8], out[SYN_PATH + 8];
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
    assert_int_equal(mkdir(p->in, 0777), 0);
    syn_text(p->in, "config.json", "{\"hidden_act\": \"silu\"}");
    syn_shard(p->in, "model.safetensors", tensors, 5, 1);
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
}

/* A tensor's part in a checkpoint must be what lutra_quantize_matrix makes of its weights. */
static void same_part(const lutra_checkpoint *c, const char *module, lu_tensor_kind kind,
                      const void *want)
{
    char name[600];
    snprintf(name, sizeof name, "%s%s", module, lu_tensor_suffix(kind));
    const lu_st_entry *e = lu_checkpoint_find(c, name);
    assert_non_null(e);
    assert_memory_equal(e->view.data, want, e->view.bytes);
}

static void learned_tables_are_those_of_the_matrix(void **state)
{
    (void)state;
    static const char *const specs[] = {"km2:g32", "km3:channel:f32", "km4:g8:bf16:rows64"};
    place p;
    enter(&p, 2);
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        lutra_checkpoint *a = NULL, *b = NULL;
        lu_quant_config q;
        bool found;
        set_format(&p, specs[i]);
        expect(&p, p.in, LUTRA_OK, NULL);
        assert_int_equal(p.r.n_quantized, 4);
        assert_int_equal(lu_checkpoint_open(p.in, &a, NULL), LUTRA_OK);
        assert_int_equal(lu_checkpoint_open(p.out, &b, NULL), LUTRA_OK);
        assert_int_equal(lu_quant_config_read(lu_checkpoint_json(b), &found, &q, NULL), LUTRA_OK);
        for (int64_t m = 0; m < q.n_modules; m++) {
            char name[600];
            snprintf(name, sizeof name, "%s.weight", q.modules[m].name);
            const lutra_tensor *w = &lu_checkpoint_find(a, name)->view;
            float *values = malloc(w->bytes / lutra_dtype_bytes(w->dtype) * sizeof *values);
            lu_to_f32(w->dtype, w->data, w->shape[0] * w->shape[1], values);
            const lutra_matrix matrix = {
                .n = w->shape[0], .k = w->shape[1], .w = values, .dtype = LUTRA_F32};
            lutra_qmatrix want;
            assert_int_equal(
                lutra_quantize_matrix(p.ctx, &p.o.format, LUTRA_RANGE_MINMAX, &matrix, &want, NULL),
                LUTRA_OK);
            same_part(b, q.modules[m].name, LU_TENSOR_TABLE, want.tables);
            same_part(b, q.modules[m].name, LU_TENSOR_CODES, want.codes);
            same_part(b, q.modules[m].name, LU_TENSOR_SCALES, want.scales);
            lutra_qmatrix_free(&want);
            free(values);
        }
        lu_quant_config_free(&q);
        lutra_checkpoint_close(a);
        lutra_checkpoint_close(b);
        syn_delete(p.out);
    }
    leave(&p);
}

static void rules_choose_the_format_of_modules(void **state)
{
    (void)state;
    place p;
    lutra_format_rule rules[3] = {
        {.pattern = "*.mlp.*"}, {.pattern = "*down_proj"}, {.pattern = "none"}};
    enter(&p, 2);
    set_format(&p, "nf4:g32");
    assert_int_equal(lutra_format_parse("int8:channel", &rules[0].format, NULL), LUTRA_OK);
    assert_int_equal(lutra_format_parse("int3:g8", &rules[1].format, NULL), LUTRA_OK);
    rules[2].format = rules[1].format;
    p.o.rules = rules;
    p.o.n_rules = 3;
    expect(&p, p.in, LUTRA_OK, NULL);
    lutra_checkpoint *c = NULL;
    lu_quant_config q;
    bool found;
    assert_int_equal(lu_checkpoint_open(p.out, &c, NULL), LUTRA_OK);
    assert_int_equal(lu_quant_config_read(lu_checkpoint_json(c), &found, &q, NULL), LUTRA_OK);
    assert_true(q.n_schemes >= 2);
    for (int64_t i = 0; i < q.n_modules; i++) {
        const char *name = q.modules[i].name;
        const lutra_format *f = &q.schemes[q.modules[i].scheme].format;
        assert_string_equal(f->name, strstr(name, "down_proj") ? "int3"
                                     : strstr(name, ".mlp.")   ? "int8"
                                                               : "nf4");
    }
    rules[1].format.bits = 1;
    syn_delete(p.out);
    expect(&p, p.in, LUTRA_E_ARG, "*down_proj");
    lu_quant_config_free(&q);
    lutra_checkpoint_close(c);
    leave(&p);
}

/* The budget is kept, all bits go where they help, and rules are obeyed. */
static void bits_are_allocated_within_the_budget(void **state)
{
    (void)state;
    static const char *const specs[] = {"lm2:g64", "lm3:g64", "lm4:g64", "int8:g64"};
    place p;
    lutra_format formats[4];
    lutra_format_rule rule = {.pattern = "*.1.*.q_proj"};
    double before = 0;
    enter(&p, 2);
    for (int i = 0; i < 4; i++)
        assert_int_equal(lutra_format_parse(specs[i], &formats[i], NULL), LUTRA_OK);
    assert_int_equal(lutra_format_parse("int6:g32", &rule.format, NULL), LUTRA_OK);
    p.o.range = LUTRA_RANGE_MSE;
    p.o.candidates = formats;
    p.o.n_candidates = 4;
    p.o.rules = &rule;
    p.o.n_rules = 1;
    for (int turn = 0; turn < 3; turn++) {
        p.o.avg_bits = 2.6 + turn;
        expect(&p, MODEL, LUTRA_OK, NULL);
        assert_true(p.r.bits_per_weight <= p.o.avg_bits + 1e-3); /* config.json's tables on top */
        assert_true(p.r.bits_per_weight > p.o.avg_bits - 0.05);
        assert_true(p.r.sqnr_db > before);
        before = p.r.sqnr_db;
        assert_int_equal(p.r.n_modules, p.r.n_quantized);
        for (int64_t i = 0; i < p.r.n_modules; i++)
            if (lu_glob_match(rule.pattern, p.r.modules[i].module))
                assert_string_equal(p.r.modules[i].format, "int6:g32:f16");
        lutra_quantize_report_free(&p.r);
        syn_delete(p.out);
    }
    p.o.avg_bits = 2;
    expect(&p, MODEL, LUTRA_E_ARG, "smallest candidates");
    p.o.avg_bits = 3;
    p.o.dry_run = true;
    expect(&p, MODEL, LUTRA_OK, NULL);
    assert_int_equal(p.r.n_modules, p.r.n_quantized);
    lutra_quantize_report_free(&p.r);
    p.o.n_candidates = 0;
    expect(&p, MODEL, LUTRA_E_ARG, "0 formats");
    leave(&p);
}

static void keep_message(void *user, lutra_log_level level, const char *text)
{
    if (level == LUTRA_LOG_WARN)
        snprintf(user, 512, "%s", text);
}

static void a_model_that_cannot_run_is_compressed_with_a_warning(void **state)
{
    (void)state;
    place p;
    lutra_options o;
    char message[512] = "";
    enter(&p, 1);
    lutra_close(p.ctx);
    lutra_options_init(&o);
    o.log = keep_message;
    o.user = message;
    assert_int_equal(lutra_open(&o, &p.ctx, NULL), LUTRA_OK);
    set_format(&p, "nf4:g32");
    syn_text(p.in, "config.json",
             "{\"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 40, \"hidden_size\": 64,"
             " \"intermediate_size\": 96, \"num_hidden_layers\": 1, \"num_attention_heads\": 2,"
             " \"max_position_embeddings\": 64, \"hidden_act\": \"silu\","
             " \"rms_norm_eps\": 1e-5, \"tie_word_embeddings\": true}");
    expect(&p, p.in, LUTRA_OK, NULL);
    if (!strstr(message, "cannot run") || !strstr(message, "input_layernorm"))
        fail_msg("'%s'", message);
    leave(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(learned_tables_are_those_of_the_matrix),
        cmocka_unit_test(rules_choose_the_format_of_modules),
        cmocka_unit_test(bits_are_allocated_within_the_budget),
        cmocka_unit_test(a_model_that_cannot_run_is_compressed_with_a_warning),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
