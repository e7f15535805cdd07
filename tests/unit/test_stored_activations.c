/* test_stored_activations.c - checkpoints that say how the inputs of their linears are rounded: the
   stored ranges are those that calibrating the compressed model finds, the loader uses them,
   options win over them, interrupted runs give the same bytes, and hostile tensors are refused by
   name. */
#include "support/expect.h"

#include <stdio.h>
#include <string.h>

#include "algo/act_range.h"
#include "base/mem.h"
#include "calib/dataset.h"
#include "calib/quantize.h"
#include "lutra/lutra.h"
#include "model/slots.h"
#include "support/synthetic_checkpoint.h"

static const char *const families[] = {"llama", "qwen2", "gemma2", "mixtral"};
#define N_FAMILIES (sizeof families / sizeof *families)
#define VOCAB 96
#define LENGTH 20
#define SAMPLES 12
#define N 24

typedef struct {
    char root[SYN_PATH], data[SYN_PATH + 16], in[64];
    lutra_quantize_options o;
    lutra_calibration c;
    int cancel_in; /* polls until the run is cancelled; 0 = never */
} place;

static void enter(place *p, const char *family, const char *recipe)
{
    char text[4096] = "";
    uint32_t seed = 3;
    lutra_err err = {0};
    lutra_recipe *r = NULL;
    memset(p, 0, sizeof *p);
    syn_temp(p->root);
    snprintf(p->in, sizeof p->in, "tests/fixtures/tiny/%s", family);
    for (int i = 0; i < 40 * 16; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%d%c",
                 (int)((syn_random(&seed) + 0.5f) * 95), i % 16 == 15 ? '\n' : ' ');
    syn_text(p->root, "data.ids", text);
    snprintf(p->data, sizeof p->data, "%s/data.ids", p->root);
    lutra_quantize_options_init(&p->o);
    must(lutra_format_parse("int8:channel", &p->o.format, &err), &err);
    if (recipe)
        must(lutra_recipe_parse("test", recipe, strlen(recipe), &r, &err), &err);
    p->o.recipe = r;
    lutra_calibration_init(&p->c);
    p->c.data = p->data;
    p->c.n_samples = SAMPLES;
    p->c.length = LENGTH;
    p->o.calibration = &p->c;
}

static void leave(place *p)
{
    lutra_recipe_free((lutra_recipe *)p->o.recipe);
    syn_delete(p->root);
}

static const char *out_of(const place *p, const char *name)
{
    static char paths[4][SYN_PATH * 2];
    static int at;
    char *path = paths[at++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", p->root, name);
    return path;
}

static bool cancelled(void *user)
{
    place *p = user;
    return p->cancel_in > 0 && --p->cancel_in == 0;
}

static lutra_status quantize(place *p, const char *name, lutra_err *err)
{
    lutra_ctx *ctx;
    lutra_options o;
    lutra_options_init(&o);
    o.n_threads = 2;
    o.user = p;
    o.cancelled = cancelled;
    must(lutra_open(&o, &ctx, err), err);
    const lutra_status status =
        lutra_quantize_checkpoint(ctx, p->in, out_of(p, name), &p->o, NULL, err);
    lutra_close(ctx);
    return status;
}

static void must_quantize(place *p, const char *name, const char *act_quant)
{
    lutra_err err = {0};
    p->o.act_quant = act_quant;
    must(quantize(p, name, &err), &err);
}

static lutra_status try_open(lutra_ctx *ctx, const char *path, const char *act_quant,
                             lutra_model **m, lutra_err *err)
{
    lutra_model_options o;
    lutra_model_options_init(&o);
    o.dtype = LUTRA_F32;
    o.act_quant = act_quant;
    return lutra_model_open(ctx, path, &o, m, err);
}

static lutra_model *open_model(lutra_ctx *ctx, const char *path, const char *act_quant)
{
    lutra_model *m = NULL;
    lutra_err err = {0};
    must(try_open(ctx, path, act_quant, &m, &err), &err);
    return m;
}

static void logits_of(lutra_model *m, float *out)
{
    int32_t ids[N];
    lutra_session *s;
    lutra_err err;
    for (int i = 0; i < N; i++)
        ids[i] = (i * 37 + 11) % VOCAB;
    must(lutra_session_open(m, N, &s, &err), &err);
    must(lutra_session_feed(s, ids, N, true, out, &err), &err);
    lutra_session_close(s);
}

static void logits_of_folder(lutra_ctx *ctx, const char *path, const char *act_quant, float *out)
{
    lutra_model *m = open_model(ctx, path, act_quant);
    logits_of(m, out);
    lutra_model_close(m);
}

/* ---- the ranges --------------------------------------------------------------------------------
 */

#define MOST 64
typedef struct {
    int n;
    bool expert[MOST];
    lu_act_quant of[MOST];
} inputs;

static lutra_status note_input(void *arg, int64_t layer, lu_module *module, lutra_err *err)
{
    inputs *in = arg;
    (void)err;
    if (layer >= 0) {
        assert_true(in->n < MOST);
        in->expert[in->n] = strstr(module->site, "experts") != NULL;
        in->of[in->n++] = module->input;
    }
    return LUTRA_OK;
}

static inputs inputs_of(lutra_model *m)
{
    inputs in = {.n = 0};
    must(lu_model_each_module(m, note_input, &in, NULL), NULL);
    return in;
}

/* The ranges that the run-time calibration finds on the calibration samples for the compressed
   model, whose inputs are not rounded. */
static inputs calibrated(lutra_ctx *ctx, const place *p, const char *folder, const char *act_quant,
                         const char *rule)
{
    lu_dataset d;
    lutra_err err = {0};
    lutra_act_calibration o;
    lutra_act_calibration_init(&o);
    o.rule = rule;
    o.window = LENGTH;
    o.samples = SAMPLES;
    lutra_model *m = open_model(ctx, folder, "none");
    must(lu_dataset_open(ctx, &p->c, p->in, VOCAB, &d, &err), &err);
    assert_int_equal(d.n_samples, SAMPLES);
    must(lutra_model_calibrate(m, act_quant, d.ids, d.n_samples * d.length, &o, &err), &err);
    const inputs in = inputs_of(m);
    lu_dataset_close(&d);
    lutra_model_close(m);
    return in;
}

static void stored_ranges_are_those_of_the_compressed_model(void **state)
{
    static const char *const recipes[] = {
        "passes: [{method: rtn}]", "passes: [{method: gptq, min_rows: 8}]",
        "passes: [{method: smoothquant, pairs: true}, {method: rtn}]",
        "passes: [{method: osplus, pairs: true, stride: 50}, {method: gptq, min_rows: 8}]"};
    static const char *const formats[] = {"int8:tensor", "int8:tensor:asym", "int4:tensor:asym"};
    static const char *const rules[] = {"minmax", "moving", "percentile"};
    lutra_ctx *ctx = open_ctx(1);
    (void)state;
    for (size_t f = 0; f < N_FAMILIES; f++)
        for (size_t r = 0; r < sizeof recipes / sizeof *recipes; r++) {
            place p;
            const char *format = formats[(f + r) % 3], *rule = rules[(f + 2 * r) % 3];
            enter(&p, families[f], recipes[r]);
            p.o.act_rule = rule;
            must_quantize(&p, "out", format);
            lutra_model *m = open_model(ctx, out_of(&p, "out"), NULL);
            assert_true(m->rounds_inputs);
            const inputs stored = inputs_of(m),
                         found = calibrated(ctx, &p, out_of(&p, "out"), format, rule);
            assert_int_equal(stored.n, found.n);
            assert_true(stored.n >= 14);
            for (int i = 0; i < stored.n; i++) {
                const lu_act_quant *a = &stored.of[i], *b = &found.of[i];
                assert_true(lu_act_format_same(&a->format, &b->format));
                if (!a->format.bits)
                    continue; /* a router */
                /* an expert's sample is larger here: its ends can only be farther out */
                const bool wider = stored.expert[i] && strcmp(rule, "percentile") != 0;
                const double ratio = (double)a->scale / (double)b->scale;
                if (!(ratio > 1 - 1e-4 && (wider || ratio < 1 + 1e-4)))
                    fail_msg("%s %s %s, linear %d: %g, calibrated %g", families[f], recipes[r],
                             format, i, (double)a->scale, (double)b->scale);
                assert_true(wider || abs(a->zero - b->zero) <= 1); /* a tie may fall either way */
            }
            lutra_model_close(m);
            leave(&p);
        }
    lutra_close(ctx);
}

/* Ranges of the block as it was loaded, which are near those of the compressed one. */
static void float_inputs_have_ranges_too(void **state)
{
    place p;
    lutra_ctx *ctx = open_ctx(1);
    (void)state;
    enter(&p, "llama", "passes: [{method: rtn}]");
    must_quantize(&p, "near", "int8:tensor");
    p.c.float_inputs = true;
    must_quantize(&p, "float", "int8:tensor");
    lutra_model *a = open_model(ctx, out_of(&p, "near"), NULL),
                *b = open_model(ctx, out_of(&p, "float"), NULL);
    const inputs x = inputs_of(a), y = inputs_of(b);
    int same = 0;
    for (int i = 0; i < x.n; i++) {
        const double ratio = (double)x.of[i].scale / (double)y.of[i].scale;
        assert_true(ratio > 0.95 && ratio < 1.05);
        same += ratio == 1;
    }
    assert_true(same > 0 && same < x.n); /* the first block's first input is the same, others not */
    lutra_model_close(a);
    lutra_model_close(b);
    leave(&p);
    lutra_close(ctx);
}

/* Columns that stay in fp16 do not widen the range of the others. */
static void outlier_columns_do_not_count(void **state)
{
    place p;
    lutra_ctx *ctx = open_ctx(1);
    (void)state;
    enter(&p, "llama", "passes: [{method: llmint8, columns: 6}]");
    must_quantize(&p, "apart", "int8:tensor");
    lutra_model *m = open_model(ctx, out_of(&p, "apart"), NULL);
    const inputs apart = inputs_of(m);
    lutra_model_close(m);
    const inputs whole = calibrated(ctx, &p, out_of(&p, "apart"), "int8:tensor", "minmax");
    for (int i = 0; i < apart.n; i++)
        assert_true(apart.of[i].scale > 0 && apart.of[i].scale < 0.999f * whole.of[i].scale);
    leave(&p);
    lutra_close(ctx);
}

/* ---- running -----------------------------------------------------------------------------------
 */

static void the_checkpoint_decides_and_options_win(void **state)
{
    static float own[N * VOCAB], said[N * VOCAB], none[N * VOCAB], plain[N * VOCAB],
        token[N * VOCAB], dynamic[N * VOCAB];
    lutra_ctx *ctx = open_ctx(1);
    (void)state;
    for (size_t f = 0; f < N_FAMILIES; f++) {
        place p;
        const size_t size = sizeof own;
        lutra_model *m;
        lutra_err err = {0};
        enter(&p, families[f], "passes: [{method: rtn}]");
        p.o.act_rule = "percentile"; /* nothing of the calibration data is clipped */
        p.o.act_percentile = 100;
        must_quantize(&p, "static", "int8:tensor:asym");
        must_quantize(&p, "dynamic", "int8:token");
        must_quantize(&p, "plain", NULL);
        logits_of_folder(ctx, out_of(&p, "static"), NULL, own);
        logits_of_folder(ctx, out_of(&p, "static"), "int8:tensor:asym", said);
        logits_of_folder(ctx, out_of(&p, "static"), "none", none);
        logits_of_folder(ctx, out_of(&p, "static"), "int8:token", token);
        logits_of_folder(ctx, out_of(&p, "plain"), NULL, plain);
        logits_of_folder(ctx, out_of(&p, "dynamic"), NULL, dynamic);
        assert_memory_equal(own, said, size);
        assert_memory_equal(none, plain, size);
        assert_memory_equal(token, dynamic, size);
        const double e = relative(own, plain, (int64_t)N * VOCAB);
        assert_true(e > 1e-5 && e < (strcmp(families[f], "mixtral") == 0 ? 0.3 : 0.06));
        logits_of_folder(ctx, out_of(&p, "plain"), "int8:token", token);
        assert_memory_equal(token, dynamic, size);
        assert_int_equal(try_open(ctx, out_of(&p, "static"), "int8:tensor", &m, &err), LUTRA_E_ARG);
        assert_non_null(strstr(err.msg, "q_proj.input_scale belongs to"));
        assert_int_equal(try_open(ctx, out_of(&p, "dynamic"), "int8:tensor", &m, &err),
                         LUTRA_E_ARG);
        leave(&p);
    }
    lutra_close(ctx);
}

/* Dynamic activations need neither data nor a recipe, and store nothing but a word. */
static void dynamic_activations_need_no_data(void **state)
{
    static float a[N * VOCAB], b[N * VOCAB];
    place p;
    lutra_ctx *ctx = open_ctx(1);
    (void)state;
    enter(&p, "mixtral", NULL);
    p.o.calibration = NULL;
    must_quantize(&p, "said", "int8:token:asym");
    must_quantize(&p, "plain", "none");
    assert_true(
        syn_same_file(out_of(&p, "said/model.safetensors"), out_of(&p, "plain/model.safetensors")));
    logits_of_folder(ctx, out_of(&p, "said"), NULL, a);
    logits_of_folder(ctx, out_of(&p, "plain"), "int8:token:asym", b);
    assert_memory_equal(a, b, sizeof a);
    leave(&p);
    lutra_close(ctx);
}

/* What a pass says of its modules goes before what is said of all. */
static void recipes_say_it_per_pass(void **state)
{
    place p;
    lutra_ctx *ctx = open_ctx(1);
    (void)state;
    enter(&p, "llama",
          "passes:\n"
          "  - {method: rtn, modules: '*.down_proj', activations: none}\n"
          "  - {method: rtn, modules: '*.self_attn.*', activations: int8:tensor}\n"
          "  - {method: rtn}\n");
    must_quantize(&p, "out", "int8:token");
    lutra_model *m = open_model(ctx, out_of(&p, "out"), NULL);
    for (int64_t i = 0; i < m->config.n_layers; i++) {
        const lu_layer *l = &m->layers[i];
        assert_int_equal(l->attention[LU_SLOT_O].input.format.scope, LU_ACT_TENSOR);
        assert_true(l->attention[LU_SLOT_O].input.scale > 0);
        assert_int_equal(l->experts[0][LU_UP].input.format.scope, LU_ACT_TOKEN);
        assert_int_equal(l->experts[0][LU_UP].input.format.bits, 8);
        assert_int_equal(l->experts[0][LU_DOWN].input.format.bits, 0);
    }
    assert_int_equal(m->lm_head.input.format.bits, 0);
    lutra_model_close(m);
    leave(&p);
    lutra_close(ctx);
}

/* ---- interruption -------------------------------------------------------------------------------
 */

static void stopped_runs_give_the_same_bytes(void **state)
{
    static const char *const recipes[] = {"passes: [{method: rtn}]",
                                          "passes: [{method: gptq, min_rows: 8}]"};
    (void)state;
    for (int r = 0; r < 2; r++) {
        place p;
        lutra_err err = {0};
        int stops = 0;
        enter(&p, r ? "mixtral" : "llama", recipes[r]);
        p.o.act_rule = "mse";
        must_quantize(&p, "whole", "int8:tensor");
        for (int polls = 1;; polls += 3) {
            p.cancel_in = polls;
            const lutra_status status = quantize(&p, "out", &err);
            p.cancel_in = 0;
            if (status == LUTRA_OK)
                break;
            assert_int_equal(status, LUTRA_E_CANCELLED);
            stops++;
            must_quantize(&p, "out", "int8:tensor");
            assert_true(syn_same_folder(out_of(&p, "out"), out_of(&p, "whole")));
            syn_delete(out_of(&p, "out"));
        }
        assert_true(stops >= 2);
        syn_delete(out_of(&p, "out"));
        p.cancel_in = 4; /* another rule is another request: its work is not taken over */
        assert_int_equal(quantize(&p, "out", &err), LUTRA_E_CANCELLED);
        p.o.act_rule = "minmax";
        p.cancel_in = 0;
        assert_int_equal(quantize(&p, "out", &err), LUTRA_E_EXISTS);
        leave(&p);
    }
}

/* ---- refusals
 * ------------------------------------------------------------------------------------ */

static void must_refuse(place *p, const char *act_quant, const char *what)
{
    lutra_err err = {0};
    p->o.act_quant = act_quant;
    assert_int_equal(quantize(p, "out", &err), LUTRA_E_ARG);
    if (!strstr(err.msg, what))
        fail_msg("'%s' does not say '%s'", err.msg, what);
}

static void bad_requests(void **state)
{
    place p;
    (void)state;
    enter(&p, "llama", NULL);
    must_refuse(&p, "int8:tensor", "give a recipe");
    must_refuse(&p, "int8:tokn", "tokn");
    must_refuse(&p, "int8:g32", "does not divide its 48 columns");
    p.o.act_rule = "mni";
    must_refuse(&p, "int8:token", "unknown range rule 'mni'");
    p.o.act_rule = NULL;
    p.o.act_percentile = 50;
    must_refuse(&p, "int8:token", "percentile is 50");
    leave(&p);
    enter(&p, "llama", "passes: [{method: rtn}]");
    p.o.calibration = NULL;
    must_refuse(&p, "int8:tensor", "needs calibration data");
    leave(&p);
    enter(&p, "llama", "passes: [{method: rtn, activations: int8:tensor}]");
    p.o.calibration = NULL;
    must_refuse(&p, NULL, "needs calibration data");
    leave(&p);
}

/* A file in memory. */
typedef struct {
    char *bytes;
    size_t n;
} image;

static char *find(const image *f, const char *what)
{
    const size_t n = strlen(what);
    for (size_t i = 0; i + n <= f->n; i++)
        if (memcmp(f->bytes + i, what, n) == 0)
            return f->bytes + i;
    fail_msg("%s is not in the file", what);
    return NULL;
}

/* Where the data of a tensor lies. */
static char *data_of(const image *f, const char *name)
{
    uint64_t header;
    unsigned long long at;
    char quoted[128];
    memcpy(&header, f->bytes, sizeof header);
    snprintf(quoted, sizeof quoted, "\"%s\":", name);
    const char *offsets = strstr(find(f, quoted), "\"data_offsets\":[");
    assert_non_null(offsets);
    assert_int_equal(sscanf(offsets, "\"data_offsets\":[%llu", &at), 1);
    return f->bytes + sizeof header + header + at;
}

#define SCALE "model.layers.1.mlp.up_proj.input_scale"
#define ZERO "model.layers.1.mlp.up_proj.input_zero"

static void hostile_tensors(void **state)
{
    static const float bad_scales[] = {NAN, INFINITY, -INFINITY, -1, 0, -0.0f, 0x1p-127f};
    static const struct {
        const char *name, *from, *to, *message;
    } headers[] = {
        {SCALE, "\"F32\",\"shape\":[1]", "\"F16\",\"shape\":[2]", "has shape [2], expected [1]"},
        {SCALE, "\"F32\",\"shape\":[1]", "\"I32\",\"shape\":[1]", "is I32, expected F32"},
        {ZERO, "\"U8\",\"shape\":[1]", "\"I8\",\"shape\":[1]", "is I8, expected U8"},
        {SCALE, "input_scale", "input_scalf", "is missing"},
        {ZERO, "input_zero", "input_zerp", "is missing"},
    };
    place p;
    image good, f;
    lutra_ctx *ctx = open_ctx(1);
    lutra_model *m;
    lutra_err err = {0};
    (void)state;
    enter(&p, "llama", "passes: [{method: rtn}]");
    must_quantize(&p, "out", "int6:tensor:asym");
    const char *path = out_of(&p, "out/model.safetensors");
    must(lu_file_read(path, (size_t)1 << 30, &good.bytes, &good.n, &err), &err);
    f = (image){malloc(good.n), good.n};
    assert_non_null(f.bytes);
    for (size_t i = 0; i < sizeof bad_scales / sizeof *bad_scales; i++) {
        memcpy(f.bytes, good.bytes, good.n);
        memcpy(data_of(&f, SCALE), &bad_scales[i], sizeof *bad_scales);
        syn_write(p.root, "out/model.safetensors", f.bytes, f.n);
        for (int said = 0; said < 2; said++) {
            assert_int_equal(
                try_open(ctx, out_of(&p, "out"), said ? "int6:tensor:asym" : NULL, &m, &err),
                LUTRA_E_FORMAT);
            assert_non_null(strstr(err.msg, SCALE));
        }
    }
    memcpy(f.bytes, good.bytes, good.n);
    *data_of(&f, ZERO) = 64; /* six bits */
    syn_write(p.root, "out/model.safetensors", f.bytes, f.n);
    assert_int_equal(try_open(ctx, out_of(&p, "out"), NULL, &m, &err), LUTRA_E_FORMAT);
    assert_non_null(strstr(err.msg, ZERO " is 64"));
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) {
        char quoted[128];
        memcpy(f.bytes, good.bytes, good.n);
        snprintf(quoted, sizeof quoted, "\"%s\":", headers[i].name);
        char *at = strstr(find(&f, quoted), headers[i].from);
        assert_non_null(at);
        memcpy(at, headers[i].to, strlen(headers[i].to));
        syn_write(p.root, "out/model.safetensors", f.bytes, f.n);
        assert_true(try_open(ctx, out_of(&p, "out"), NULL, &m, &err) != LUTRA_OK);
        if (!strstr(err.msg, headers[i].name) || !strstr(err.msg, headers[i].message))
            fail_msg("'%s' does not name %s: %s", err.msg, headers[i].name, headers[i].message);
    }
    syn_write(p.root, "out/model.safetensors", good.bytes, good.n);
    lutra_model_close(open_model(ctx, out_of(&p, "out"), NULL));
    free(f.bytes);
    lu_free(good.bytes);
    leave(&p);
    lutra_close(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stored_ranges_are_those_of_the_compressed_model),
        cmocka_unit_test(float_inputs_have_ranges_too),
        cmocka_unit_test(outlier_columns_do_not_count),
        cmocka_unit_test(the_checkpoint_decides_and_options_win),
        cmocka_unit_test(dynamic_activations_need_no_data),
        cmocka_unit_test(recipes_say_it_per_pass),
        cmocka_unit_test(stopped_runs_give_the_same_bytes),
        cmocka_unit_test(bad_requests),
        cmocka_unit_test(hostile_tensors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
