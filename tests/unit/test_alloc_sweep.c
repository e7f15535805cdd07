/* test_alloc_sweep.c - whole calls with each of their allocations failing in turn: a checkpoint
   that is compressed, a tokenizer that is opened. Leaks are the sanitizer's to find. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lutra/lutra.h"
#include "support/alloc_sweep.h"
#include "support/synthetic_checkpoint.h"

static const syn_tensor tensors[] = {
    {"model.embed_tokens.weight", LUTRA_BF16, 8, 32, 0},
    {"model.layers.0.mlp.up_proj.weight", LUTRA_BF16, 64, 32, 0},
    {"model.layers.0.mlp.down_proj.weight", LUTRA_F64, 16, 32, 0},
};

typedef struct {
    char root[SYN_PATH], in[SYN_PATH + 8], out[SYN_PATH + 8];
    lutra_ctx *ctx;
    lutra_quantize_options o;
} place;

static void enter(place *p)
{
    lutra_options o;
    memset(p, 0, sizeof *p);
    syn_temp(p->root);
    snprintf(p->in, sizeof p->in, "%s/in", p->root);
    snprintf(p->out, sizeof p->out, "%s/out", p->root);
    assert_int_equal(mkdir(p->in, 0777), 0);
    syn_text(p->in, "config.json", "{\"hidden_act\": \"silu\"}");
    syn_text(p->in, "tokenizer.json", "{}");
    syn_shard(p->in, "model.safetensors", tensors, 3, 1);
    lutra_options_init(&o);
    o.n_threads = 1;
    assert_int_equal(lutra_open(&o, &p->ctx, NULL), LUTRA_OK);
    lutra_quantize_options_init(&p->o);
}

static void leave(place *p)
{
    lutra_close(p->ctx);
    syn_delete(p->root);
}

static lutra_status quantize(void *arg)
{
    place *p = arg;
    char partial[SYN_PATH * 2];
    lutra_quantize_report r = {0};
    const lutra_status status = lutra_quantize_checkpoint(p->ctx, p->in, p->out, &p->o, &r, NULL);
    if (status == LUTRA_OK)
        lutra_quantize_report_free(&r);
    snprintf(partial, sizeof partial, "%s.partial", p->out);
    syn_delete(partial);
    syn_delete(p->out);
    return status;
}

static void compressing_survives_every_failed_allocation(void **state)
{
    (void)state;
    static const char *const specs[] = {"nf4:g32", "km2:g32:rows64"};
    place p;
    enter(&p);
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        assert_int_equal(lutra_format_parse(specs[i], &p.o.format, NULL), LUTRA_OK);
        assert_true(fail_each_allocation(quantize, &p) > 20);
    }
    lutra_format candidates[2];
    assert_int_equal(lutra_format_parse("lm2:g32", &candidates[0], NULL), LUTRA_OK);
    assert_int_equal(lutra_format_parse("km3:g32", &candidates[1], NULL), LUTRA_OK);
    p.o.candidates = candidates;
    p.o.n_candidates = 2;
    p.o.avg_bits = 4;
    assert_true(fail_each_allocation(quantize, &p) > 20);
    leave(&p);
}

static lutra_status open_tokenizer(void *arg)
{
    lutra_tokenizer *t = NULL;
    const lutra_status status = lutra_tokenizer_open(arg, &t, NULL);
    if (status == LUTRA_OK)
        lutra_tokenizer_close(t);
    return status;
}

static void opening_a_tokenizer_survives_every_failed_allocation(void **state)
{
    (void)state;
    place p;
    enter(&p);
    syn_text(p.in, "tokenizer.json",
             "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2},"
             " \"merges\": [\"a b\"]}, \"added_tokens\": [{\"id\": 3, \"content\": \"<s>\","
             " \"special\": true}]}");
    syn_text(p.in, "tokenizer_config.json",
             "{\"bos_token\": \"<s>\", \"chat_template\":"
             " \"{% for m in messages %}{{ m['content'] }}{% endfor %}\"}");
    assert_true(fail_each_allocation(open_tokenizer, p.in) > 20);
    leave(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(compressing_survives_every_failed_allocation),
        cmocka_unit_test(opening_a_tokenizer_survives_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
