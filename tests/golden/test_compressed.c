/* test_compressed.c - from lutra_quantize_checkpoint to logits: every tiny model compressed at 8
   bits still says nearly the same, and its linears are the ones that were coded. */
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
#include "lutra/engine.h"
#include "lutra/quant.h"
#include "model/slots.h"
#include "support/expect.h"
#include "support/synthetic_checkpoint.h"

#define VOCAB 96
#define TOKENS 33

static void compress(lutra_ctx *ctx, const char *in, const char *out, const char *spec,
                     bool everything)
{
    lutra_err err;
    lutra_quantize_options o;
    lutra_quantize_report report;
    lutra_quantize_options_init(&o);
    must(lutra_format_parse(spec, &o.format, &err), &err);
    if (everything)
        o.n_ignore = 0;
    must(lutra_quantize_checkpoint(ctx, in, out, &o, &report, &err), &err);
}

static void expect_near(lutra_ctx *ctx, const char *name, const char *out, bool everything)
{
    lutra_err err;
    lutra_model *m;
    lutra_session *s;
    lutra_model_info info;
    lu_st_file *reference;
    char in[256], path[SYN_PATH];
    static float logits[TOKENS * VOCAB];
    const lutra_model_options f32 = {.size = sizeof f32, .dtype = LUTRA_F32};
    snprintf(in, sizeof in, "tests/fixtures/tiny/%s", name);
    compress(ctx, in, out, "int8:g8:asym:f32", everything);
    must(lutra_model_open(ctx, out, &f32, &m, &err), &err);
    lutra_model_get_info(m, &info);
    assert_string_equal(info.format, "int8:g8:asym:f32");
    assert_int_equal(m->layers[0].attention[LU_SLOT_Q].weight.bits, 8);
    assert_int_equal(m->layers[1].experts[0][LU_DOWN].weight.bits, 8);
    assert_int_equal(m->embedding.bits, everything ? 8 : 0);
    assert_int_equal(m->lm_head.weight.bits, everything ? 8 : 0);
    snprintf(path, sizeof path, "%s/reference.safetensors", in);
    must(lu_st_open(path, &reference, &err), &err);
    must(lutra_session_open(m, 0, &s, &err), &err);
    must(lutra_session_feed(s, lu_st_find(reference, "input_ids")->view.data, TOKENS, true, logits,
                            &err),
         &err);
    /* a weight is off by at most scale / 2, about 2^-8 of its group's largest */
    const double e = relative(logits, lu_st_find(reference, "logits")->view.data, TOKENS * VOCAB);
    if (!(e > 0.0 && e <= 0.03))
        fail_msg("%s: relative error %g", name, e);
    lu_st_close(reference);
    lutra_session_close(s);
    lutra_model_close(m);
    syn_delete(out);
}

static void eight_bits_change_little(void **state)
{
    (void)state;
    static const char *const names[] = {"llama", "mistral", "qwen2", "gemma2", "mixtral"};
    lutra_err err;
    lutra_ctx *ctx;
    char folder[SYN_PATH], out[SYN_PATH + 16];
    syn_temp(folder);
    snprintf(out, sizeof out, "%s/model", folder);
    must(lutra_open(NULL, &ctx, &err), &err);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        expect_near(ctx, names[i], out, false);
        expect_near(ctx, names[i], out, true);
    }
    lutra_close(ctx);
    syn_delete(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(eight_bits_change_little),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
