/* test_config.c - config.json: the defaults of every architecture, old and new spellings, null
   against absent, and what is refused with which words. Each case changes a few keys of a small
   valid config. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "model/config.h"

/* changes: JSON object merged over a base config of the class; value "<absent>" removes a key. */
static lutra_status read_generation(const char *arch, const char *changes, const char *generation,
                                    lu_model_config *out, lutra_err *err)
{
    char base[512];
    json_t *config, *delta, *gen = NULL, *value;
    const char *key;
    snprintf(base, sizeof base,
             "{\"architectures\":[\"%s\"],\"vocab_size\":1000,\"hidden_size\":256,\"intermediate_size\":512,"
             "\"num_hidden_layers\":6,\"num_attention_heads\":32,\"torch_dtype\":\"bfloat16\"}",
             arch);
    assert_int_equal(lu_json_parse("base", base, strlen(base), true, &config, err), LUTRA_OK);
    if (lu_json_parse("delta", changes, strlen(changes), true, &delta, err) != LUTRA_OK)
        fail_msg("%s", err->msg);
    json_object_foreach(delta, key, value)
    {
        if (json_is_string(value) && strcmp(json_string_value(value), "<absent>") == 0)
            json_object_del(config, key);
        else
            json_object_set(config, key, value);
    }
    if (generation)
        assert_int_equal(lu_json_parse("gen", generation, strlen(generation), true, &gen, err), LUTRA_OK);
    const lutra_status status = lu_model_config_read("M/config.json", config, gen, out, err);
    json_decref(config);
    json_decref(delta);
    json_decref(gen);
    return status;
}

static lu_model_config read_ok(const char *arch, const char *changes)
{
    lu_model_config c;
    lutra_err err;
    if (read_generation(arch, changes, NULL, &c, &err) != LUTRA_OK)
        fail_msg("%s %s: %s", arch, changes, err.msg);
    return c;
}

#define LLAMA "LlamaForCausalLM"
#define MISTRAL "MistralForCausalLM"
#define MIXTRAL "MixtralForCausalLM"
#define QWEN "Qwen2ForCausalLM"
#define GEMMA "Gemma2ForCausalLM"

static void absent_keys_take_the_defaults_of_the_class(void **state)
{
    (void)state;
    static const struct {
        const char *arch;
        double eps, theta;
        int64_t kv, head_dim, window, experts, active;
        bool tied, qkv, o, mlp;
        lu_activation activation;
        double attn_cap, final_cap, scale;
    } rows[] = {
        {LLAMA, 1e-6, 1e4, 32, 8, 0, 1, 1, false, false, false, false, LU_ACT_SILU, 0, 0, 8},
        {MISTRAL, 1e-6, 1e4, 8, 8, 4096, 1, 1, false, false, false, false, LU_ACT_SILU, 0, 0, 8},
        {MIXTRAL, 1e-5, 1e6, 8, 8, 0, 8, 2, false, false, false, false, LU_ACT_SILU, 0, 0, 8},
        {QWEN, 1e-6, 1e4, 32, 8, 0, 1, 1, false, true, false, false, LU_ACT_SILU, 0, 0, 8},
        {GEMMA, 1e-6, 1e4, 4, 256, 4096, 1, 1, true, false, false, false, LU_ACT_GELU_TANH, 50, 30, 256},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const lu_model_config c = read_ok(rows[i].arch, "{}");
        assert_string_equal(c.arch->name, rows[i].arch);
        assert_true(c.eps == (float)rows[i].eps);
        assert_true(c.rope[LU_ATTN_FULL].theta == rows[i].theta);
        assert_int_equal(c.n_kv_heads, rows[i].kv);
        assert_int_equal(c.head_dim, rows[i].head_dim);
        assert_int_equal(c.window, rows[i].window);
        assert_int_equal(c.n_experts, rows[i].experts);
        assert_int_equal(c.n_active, rows[i].active);
        assert_int_equal(c.tied, rows[i].tied);
        assert_int_equal(c.qkv_bias, rows[i].qkv);
        assert_int_equal(c.o_bias, rows[i].o);
        assert_int_equal(c.mlp_bias, rows[i].mlp);
        assert_int_equal(c.activation, rows[i].activation);
        assert_true(c.attn_softcap == (float)rows[i].attn_cap);
        assert_true(c.final_softcap == (float)rows[i].final_cap);
        assert_true(c.query_scale == (float)(1.0 / sqrt(rows[i].scale)));
        assert_int_equal(c.bos_id, -1);
        assert_int_equal(c.n_eos, 0);
    }
}

static void null_switches_off_what_absence_leaves_on(void **state)
{
    (void)state;
    assert_int_equal(read_ok(MISTRAL, "{\"sliding_window\":null}").window, 0);
    assert_int_equal(read_ok(GEMMA, "{\"sliding_window\":null}").window, 0);
    assert_int_equal(read_ok(MISTRAL, "{\"num_key_value_heads\":null}").n_kv_heads, 32);
    assert_int_equal(read_ok(MISTRAL, "{\"head_dim\":null}").head_dim, 8);
    assert_int_equal(read_ok(GEMMA, "{\"head_dim\":null}").head_dim, 8);
    assert_true(read_ok(GEMMA, "{\"attn_logit_softcapping\":null}").attn_softcap == 0.0f);
    assert_true(read_ok(GEMMA, "{\"final_logit_softcapping\":null}").final_softcap == 0.0f);
    assert_int_equal(read_ok(LLAMA, "{\"rope_scaling\":null}").rope[0].type, LU_ROPE_DEFAULT);
    assert_int_equal(read_ok(LLAMA, "{\"rope_parameters\":null,\"rope_theta\":7}").rope[0].theta, 7);
    assert_true(read_ok(GEMMA, "{\"tie_word_embeddings\":null}").tied);
    assert_int_equal(read_ok(QWEN, "{\"layer_types\":null,\"eos_token_id\":null}").n_eos, 0);
}

static void stated_keys_win(void **state)
{
    (void)state;
    const lu_model_config c = read_ok(
        LLAMA, "{\"num_key_value_heads\":8,\"head_dim\":20,\"rms_norm_eps\":1e-05,\"rope_theta\":500000.0,"
               "\"attention_bias\":true,\"mlp_bias\":true,\"tie_word_embeddings\":true,\"vocab_size\":2048.0,"
               "\"max_position_embeddings\":77,\"bos_token_id\":3,\"eos_token_id\":[4,5],\"sliding_window\":9}");
    assert_int_equal(c.n_kv_heads, 8);
    assert_int_equal(c.head_dim, 20);
    assert_true(c.eps == 1e-5f);
    assert_true(c.rope[0].theta == 5e5);
    assert_true(c.qkv_bias && c.o_bias && c.mlp_bias && c.tied);
    assert_int_equal(c.vocab_size, 2048);
    assert_int_equal(c.max_context, 77);
    assert_int_equal(c.bos_id, 3);
    assert_int_equal(c.n_eos, 2);
    assert_int_equal(c.eos_id[1], 5);
    assert_int_equal(c.window, 0); /* the class has none */
    assert_false(read_ok(GEMMA, "{\"tie_word_embeddings\":false}").tied);
    assert_true(read_ok(GEMMA, "{\"query_pre_attn_scalar\":144}").query_scale == 1.0f / 12.0f);
    assert_true(read_ok(LLAMA, "{\"query_pre_attn_scalar\":144}").query_scale == (float)(1.0 / sqrt(8.0)));
    assert_int_equal(read_ok(MIXTRAL, "{\"num_local_experts\":4,\"num_experts_per_tok\":1}").n_experts, 4);
    assert_false(read_ok(MISTRAL, "{\"attention_bias\":true}").qkv_bias);
    assert_false(read_ok(QWEN, "{\"attention_bias\":true}").o_bias);
    assert_true(read_ok(GEMMA, "{\"attention_bias\":true}").o_bias);
}

static void the_dtype_has_two_names(void **state)
{
    (void)state;
    assert_int_equal(read_ok(LLAMA, "{\"torch_dtype\":\"float16\"}").dtype, LUTRA_F16);
    assert_int_equal(read_ok(LLAMA, "{\"torch_dtype\":\"<absent>\",\"dtype\":\"bfloat16\"}").dtype, LUTRA_BF16);
    assert_int_equal(read_ok(LLAMA, "{\"torch_dtype\":\"<absent>\"}").dtype, LUTRA_F32);
    assert_int_equal(read_ok(LLAMA, "{\"torch_dtype\":\"torch.float32\"}").dtype, LUTRA_F32);
    assert_int_equal(read_ok(LLAMA, "{\"torch_dtype\":null}").dtype, LUTRA_F32);
}

static void gemma_scales_embeddings_by_a_rounded_root(void **state)
{
    (void)state;
    assert_true(read_ok(GEMMA, "{\"hidden_size\":3584}").embed_scale == 59.75f);
    assert_true(read_ok(GEMMA, "{\"hidden_size\":2304}").embed_scale == 48.0f);
    assert_true(read_ok(GEMMA, "{\"hidden_size\":4608}").embed_scale == 68.0f);
    assert_true(read_ok(GEMMA, "{\"hidden_size\":3584,\"torch_dtype\":\"float32\"}").embed_scale == sqrtf(3584.0f));
    assert_true(read_ok(LLAMA, "{}").embed_scale == 1.0f);
}

static void gemma_ignores_hidden_act(void **state)
{
    (void)state;
    assert_int_equal(read_ok(GEMMA, "{\"hidden_act\":\"relu\"}").activation, LU_ACT_GELU_TANH);
    assert_int_equal(read_ok(GEMMA, "{\"hidden_activation\":\"silu\"}").activation, LU_ACT_SILU);
    assert_int_equal(read_ok(GEMMA, "{\"hidden_activation\":null}").activation, LU_ACT_GELU_TANH);
    assert_int_equal(read_ok(LLAMA, "{\"hidden_act\":\"gelu_pytorch_tanh\"}").activation, LU_ACT_GELU_TANH);
}

static void expect_kinds(const char *arch, const char *changes, const char *kinds)
{
    const lu_model_config c = read_ok(arch, changes);
    for (int i = 0; i < 6; i++)
        assert_int_equal(c.kind[i], kinds[i] == 's' ? LU_ATTN_SLIDING : LU_ATTN_FULL);
}

static void windows_follow_the_class_or_layer_types(void **state)
{
    (void)state;
    expect_kinds(LLAMA, "{\"sliding_window\":64}", "ffffff");
    expect_kinds(MISTRAL, "{}", "ssssss");
    expect_kinds(MISTRAL, "{\"sliding_window\":null}", "ffffff");
    expect_kinds(MIXTRAL, "{}", "ffffff");
    expect_kinds(MIXTRAL, "{\"sliding_window\":64}", "ssssss");
    expect_kinds(GEMMA, "{}", "sfsfsf");
    expect_kinds(GEMMA, "{\"sliding_window\":null}", "ffffff");
    expect_kinds(QWEN, "{\"sliding_window\":64}", "ffffff");
    expect_kinds(QWEN, "{\"sliding_window\":64,\"use_sliding_window\":true}", "ffffff");
    expect_kinds(QWEN, "{\"sliding_window\":64,\"use_sliding_window\":true,\"max_window_layers\":2}", "ffssss");
    expect_kinds(GEMMA, "{\"layer_types\":[\"full_attention\",\"full_attention\",\"sliding_attention\",\"full_attention\","
                        "\"full_attention\",\"sliding_attention\"]}", "ffsffs");
}

static void rope_has_an_old_and_a_new_spelling(void **state)
{
    (void)state;
    static const char *const same[] = {
        "{\"rope_theta\":1e6,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,"
        "\"high_freq_factor\":4,\"original_max_position_embeddings\":8192}}",
        "{\"rope_theta\":1000000.0,\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,"
        "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192}}",
        "{\"rope_parameters\":{\"rope_theta\":1e6,\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,"
        "\"high_freq_factor\":4,\"original_max_position_embeddings\":8192}}",
        "{\"rope_theta\":1e6,\"rope_parameters\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,"
        "\"high_freq_factor\":4,\"original_max_position_embeddings\":8192}}",
    };
    for (size_t i = 0; i < sizeof same / sizeof same[0]; i++) {
        const lu_rope r = read_ok(LLAMA, same[i]).rope[LU_ATTN_FULL];
        assert_int_equal(r.type, LU_ROPE_LLAMA3);
        assert_true(r.theta == 1e6 && r.factor == 8 && r.low_freq_factor == 1 && r.high_freq_factor == 4);
        assert_true(r.original_context == 8192);
    }
    const lu_model_config c =
        read_ok(GEMMA, "{\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"linear\",\"factor\":4,\"rope_theta\":1e6},"
                       "\"sliding_attention\":{\"rope_type\":\"default\",\"rope_theta\":2e4}}}");
    assert_int_equal(c.rope[LU_ATTN_FULL].type, LU_ROPE_LINEAR);
    assert_true(c.rope[LU_ATTN_FULL].factor == 4 && c.rope[LU_ATTN_FULL].theta == 1e6);
    assert_int_equal(c.rope[LU_ATTN_SLIDING].type, LU_ROPE_DEFAULT);
    assert_true(c.rope[LU_ATTN_SLIDING].theta == 2e4);
}

static void llama3_scaling_keeps_blends_and_stretches(void **state)
{
    (void)state;
    float plain[64], scaled[64];
    const lu_rope r = {.type = LU_ROPE_DEFAULT, .theta = 5e5};
    const lu_rope s = {LU_ROPE_LLAMA3, 5e5, 8, 1, 4, 8192};
    lu_rope_frequencies(&r, 128, plain);
    lu_rope_frequencies(&s, 128, scaled);
    int kept = 0, blended = 0, stretched = 0;
    for (int i = 0; i < 64; i++) {
        const double wavelength = 6.283185307179586 / plain[i];
        if (wavelength < 2048) {
            assert_true(scaled[i] == plain[i]);
            kept++;
        } else if (wavelength > 8192) {
            assert_true(scaled[i] == plain[i] / 8);
            stretched++;
        } else {
            assert_true(scaled[i] < plain[i] && scaled[i] > plain[i] / 8);
            blended++;
        }
    }
    assert_true(kept > 20 && blended > 2 && stretched > 20);
    assert_true(plain[0] == 1.0f);
    assert_true(fabsf(plain[32] - 1.0f / sqrtf(5e5f)) < 1e-9f);
}

static void end_tokens_of_generation_config_win(void **state)
{
    (void)state;
    lu_model_config c;
    lutra_err err;
    assert_int_equal(read_generation(LLAMA, "{\"eos_token_id\":2}", "{\"eos_token_id\":[7,8,9]}", &c, &err), LUTRA_OK);
    assert_int_equal(c.n_eos, 3);
    assert_int_equal(c.eos_id[0], 7);
    assert_int_equal(read_generation(LLAMA, "{\"eos_token_id\":2}", "{\"temperature\":1}", &c, &err), LUTRA_OK);
    assert_int_equal(c.n_eos, 1);
    assert_int_equal(c.eos_id[0], 2);
    assert_int_equal(read_generation(LLAMA, "{}", "{\"eos_token_id\":1000}", &c, &err), LUTRA_E_FORMAT);
}

#define F LUTRA_E_FORMAT
#define U LUTRA_E_UNSUPPORTED
#define SCALING(body) "{\"rope_scaling\":{" body "}}"
#define L3 "\"rope_type\":\"llama3\","

static const struct {
    const char *arch, *changes;
    lutra_status status;
    const char *says;
} refused[] = {
    {"GPT2LMHeadModel", "{}", U, "GPT2LMHeadModel is not supported, expected one of LlamaForCausalLM"},
    {"GPT2LMHeadModel", "{}", U, "MixtralForCausalLM"},
    {LLAMA, "{\"architectures\":[]}", F, "architectures"},
    {LLAMA, "{\"architectures\":\"LlamaForCausalLM\"}", F, "architectures"},
    {LLAMA, "{\"architectures\":[3]}", F, "architectures"},
    {LLAMA, "{\"architectures\":\"<absent>\"}", F, "architectures"},
    {LLAMA, "{\"architectures\":null}", F, "architectures"},
    {LLAMA, "{\"vocab_size\":\"<absent>\"}", F, "\"vocab_size\" is missing"},
    {LLAMA, "{\"hidden_size\":\"<absent>\"}", F, "\"hidden_size\" is missing"},
    {LLAMA, "{\"hidden_size\":null}", F, "\"hidden_size\" is missing"},
    {LLAMA, "{\"intermediate_size\":\"<absent>\"}", F, "\"intermediate_size\" is missing"},
    {LLAMA, "{\"num_hidden_layers\":\"<absent>\"}", F, "\"num_hidden_layers\" is missing"},
    {LLAMA, "{\"num_attention_heads\":\"<absent>\"}", F, "\"num_attention_heads\" is missing"},
    {LLAMA, "{\"vocab_size\":0}", F, "vocab_size"},
    {LLAMA, "{\"vocab_size\":-5}", F, "vocab_size"},
    {LLAMA, "{\"vocab_size\":16777217}", F, "vocab_size"},
    {LLAMA, "{\"vocab_size\":\"many\"}", F, "vocab_size"},
    {LLAMA, "{\"vocab_size\":1000.5}", F, "vocab_size"},
    {LLAMA, "{\"vocab_size\":9223372036854775807}", F, "vocab_size"},
    {LLAMA, "{\"vocab_size\":1e300}", F, "vocab_size"},
    {LLAMA, "{\"hidden_size\":0}", F, "hidden_size"},
    {LLAMA, "{\"hidden_size\":-256}", F, "hidden_size"},
    {LLAMA, "{\"hidden_size\":1048577}", F, "hidden_size"},
    {LLAMA, "{\"hidden_size\":[256]}", F, "hidden_size"},
    {LLAMA, "{\"hidden_size\":true}", F, "hidden_size"},
    {LLAMA, "{\"intermediate_size\":0}", F, "intermediate_size"},
    {LLAMA, "{\"intermediate_size\":99999999}", F, "intermediate_size"},
    {LLAMA, "{\"num_hidden_layers\":0}", F, "num_hidden_layers"},
    {LLAMA, "{\"num_hidden_layers\":1025}", F, "num_hidden_layers"},
    {LLAMA, "{\"num_attention_heads\":0}", F, "num_attention_heads"},
    {LLAMA, "{\"num_attention_heads\":5000}", F, "num_attention_heads"},
    {LLAMA, "{\"num_attention_heads\":24}", F, "\"head_dim\" is not given"},
    {LLAMA, "{\"num_key_value_heads\":0}", F, "num_key_value_heads"},
    {LLAMA, "{\"num_key_value_heads\":-1}", F, "num_key_value_heads"},
    {LLAMA, "{\"num_key_value_heads\":5}", F, "not a multiple of \"num_key_value_heads\" 5"},
    {LLAMA, "{\"num_key_value_heads\":64}", F, "not a multiple of \"num_key_value_heads\" 64"},
    {MISTRAL, "{\"num_attention_heads\":4}", F, "not a multiple of \"num_key_value_heads\" 8"},
    {LLAMA, "{\"head_dim\":0}", F, "head_dim"},
    {LLAMA, "{\"head_dim\":-8}", F, "head_dim"},
    {LLAMA, "{\"head_dim\":7}", F, "even"},
    {LLAMA, "{\"head_dim\":1026}", F, "head_dim"},
    {LLAMA, "{\"head_dim\":\"8\"}", F, "head_dim"},
    {LLAMA, "{\"num_attention_heads\":4096,\"num_key_value_heads\":1,\"head_dim\":512}", F, "heads times head_dim"},
    {LLAMA, "{\"max_position_embeddings\":0}", F, "max_position_embeddings"},
    {LLAMA, "{\"max_position_embeddings\":1e12}", F, "max_position_embeddings"},
    {LLAMA, "{\"torch_dtype\":\"int8\"}", U, "int8"},
    {LLAMA, "{\"torch_dtype\":\"float8_e4m3fn\"}", U, "expected float32, float16 or bfloat16"},
    {LLAMA, "{\"dtype\":\"float64\"}", U, "dtype"},
    {LLAMA, "{\"dtype\":16}", F, "dtype"},
    {LLAMA, "{\"hidden_act\":\"relu\"}", U, "activation \"relu\" is not supported, expected silu"},
    {LLAMA, "{\"hidden_act\":\"gelu\"}", U, "gelu"},
    {LLAMA, "{\"hidden_act\":1}", F, "hidden_act"},
    {GEMMA, "{\"hidden_activation\":\"gelu\"}", U, "gelu"},
    {LLAMA, "{\"rms_norm_eps\":-1e-6}", F, "rms_norm_eps"},
    {LLAMA, "{\"rms_norm_eps\":2}", F, "rms_norm_eps"},
    {LLAMA, "{\"rms_norm_eps\":NaN}", F, "rms_norm_eps"},
    {LLAMA, "{\"rms_norm_eps\":\"1e-6\"}", F, "rms_norm_eps"},
    {LLAMA, "{\"rope_theta\":0}", F, "rope_theta"},
    {LLAMA, "{\"rope_theta\":-10000.0}", F, "rope_theta"},
    {LLAMA, "{\"rope_theta\":NaN}", F, "rope_theta"},
    {LLAMA, "{\"rope_theta\":Infinity}", F, "rope_theta"},
    {LLAMA, "{\"rope_theta\":\"10000\"}", F, "rope_theta"},
    {LLAMA, "{\"rope_scaling\":[1]}", F, "not an object"},
    {LLAMA, "{\"rope_scaling\":\"linear\"}", F, "not an object"},
    {LLAMA, SCALING("\"rope_type\":\"yarn\",\"factor\":4"), U, "\"yarn\" is not supported, expected default, linear or llama3"},
    {LLAMA, SCALING("\"type\":\"dynamic\",\"factor\":4"), U, "dynamic"},
    {LLAMA, SCALING("\"rope_type\":\"longrope\""), U, "longrope"},
    {LLAMA, SCALING("\"rope_type\":\"ntk\""), U, "ntk"},
    {LLAMA, SCALING("\"rope_type\":3"), F, "rope_type"},
    {LLAMA, SCALING("\"rope_type\":\"linear\""), F, "needs \"factor\""},
    {LLAMA, SCALING("\"rope_type\":\"linear\",\"factor\":0"), F, "needs \"factor\""},
    {LLAMA, SCALING("\"rope_type\":\"linear\",\"factor\":NaN"), F, "needs \"factor\""},
    {LLAMA, SCALING(L3 "\"low_freq_factor\":1,\"high_freq_factor\":4,\"original_max_position_embeddings\":8"), F, "factor"},
    {LLAMA, SCALING(L3 "\"factor\":8,\"high_freq_factor\":4,\"original_max_position_embeddings\":8"), F, "low_freq_factor"},
    {LLAMA, SCALING(L3 "\"factor\":8,\"low_freq_factor\":1,\"original_max_position_embeddings\":8"), F, "high_freq_factor"},
    {LLAMA, SCALING(L3 "\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4"), F, "original_max_position_embeddings"},
    {LLAMA, SCALING(L3 "\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":4,\"original_max_position_embeddings\":8"), F,
     "is not above"},
    {LLAMA, "{\"rope_parameters\":{\"rope_type\":\"yarn\"}}", U, "yarn"},
    {LLAMA, "{\"rope_parameters\":{\"rope_theta\":-1}}", F, "rope_theta"},
    {LLAMA, "{\"rope_parameters\":{\"partial_rotary_factor\":0.5}}", U, "partial_rotary_factor"},
    {GEMMA, "{\"rope_parameters\":{\"sliding_attention\":{\"rope_type\":\"yarn\"}}}", U, "yarn"},
    {LLAMA, "{\"attention_bias\":\"yes\"}", F, "attention_bias"},
    {LLAMA, "{\"mlp_bias\":1}", F, "mlp_bias"},
    {LLAMA, "{\"tie_word_embeddings\":\"true\"}", F, "tie_word_embeddings"},
    {MISTRAL, "{\"sliding_window\":0}", F, "sliding_window"},
    {MISTRAL, "{\"sliding_window\":-1}", F, "sliding_window"},
    {MISTRAL, "{\"sliding_window\":\"4096\"}", F, "sliding_window"},
    {QWEN, "{\"use_sliding_window\":1}", F, "use_sliding_window"},
    {QWEN, "{\"layer_types\":[\"full_attention\"]}", F, "list of 6"},
    {QWEN, "{\"layer_types\":\"full_attention\"}", F, "list of 6"},
    {GEMMA, "{\"layer_types\":[\"full_attention\",\"linear_attention\",\"full_attention\",\"full_attention\",\"full_attention\","
            "\"full_attention\"]}", U, "layer_types[1] is \"linear_attention\""},
    {GEMMA, "{\"layer_types\":[1,2,3,4,5,6]}", U, "layer_types[0]"},
    {GEMMA, "{\"sliding_window\":null,\"layer_types\":[\"full_attention\",\"full_attention\",\"full_attention\","
            "\"full_attention\",\"full_attention\",\"sliding_attention\"]}", F, "layer_types[5]"},
    {MIXTRAL, "{\"num_local_experts\":0}", F, "num_local_experts"},
    {MIXTRAL, "{\"num_local_experts\":2000}", F, "num_local_experts"},
    {MIXTRAL, "{\"num_experts_per_tok\":0}", F, "num_experts_per_tok"},
    {MIXTRAL, "{\"num_experts_per_tok\":9}", F, "\"num_experts_per_tok\" 9 is above"},
    {GEMMA, "{\"attn_logit_softcapping\":0}", F, "attn_logit_softcapping"},
    {GEMMA, "{\"final_logit_softcapping\":-30}", F, "final_logit_softcapping"},
    {GEMMA, "{\"final_logit_softcapping\":NaN}", F, "final_logit_softcapping"},
    {GEMMA, "{\"attn_logit_softcapping\":NaN}", F, "attn_logit_softcapping"},
    {GEMMA, "{\"attn_logit_softcapping\":1e-50}", F, "attn_logit_softcapping"},
    {GEMMA, "{\"query_pre_attn_scalar\":1e-90}", F, "query_pre_attn_scalar"},
    {GEMMA, "{\"final_logit_softcapping\":\"30\"}", F, "final_logit_softcapping"},
    {GEMMA, "{\"query_pre_attn_scalar\":0}", F, "query_pre_attn_scalar"},
    {GEMMA, "{\"query_pre_attn_scalar\":NaN}", F, "query_pre_attn_scalar"},
    {LLAMA, "{\"bos_token_id\":1000}", F, "bos_token_id"},
    {LLAMA, "{\"bos_token_id\":-2}", F, "bos_token_id"},
    {LLAMA, "{\"eos_token_id\":1000}", F, "eos_token_id"},
    {LLAMA, "{\"eos_token_id\":-1}", F, "eos_token_id"},
    {LLAMA, "{\"eos_token_id\":\"2\"}", F, "eos_token_id"},
    {LLAMA, "{\"eos_token_id\":[1,\"2\"]}", F, "eos_token_id"},
    {LLAMA, "{\"eos_token_id\":[1,2,3,4,5,6,7,8,9]}", LUTRA_E_LIMIT, "more than 8"},
};

static void senseless_values_are_refused_by_name(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        lutra_err err;
        lu_model_config c = {.n_layers = 77};
        const lutra_status status = read_generation(refused[i].arch, refused[i].changes, NULL, &c, &err);
        if (status != refused[i].status || !strstr(err.msg, refused[i].says) || !strstr(err.msg, "M/config.json"))
            fail_msg("%s %s: %s '%s', expected '%s'", refused[i].arch, refused[i].changes, lutra_status_text(status),
                     status ? err.msg : "", refused[i].says);
        assert_int_equal(c.n_layers, 77); /* untouched */
    }
}

static void a_config_that_is_no_object_is_refused(void **state)
{
    (void)state;
    lutra_err err;
    lu_model_config c;
    json_t *list = json_array();
    assert_int_equal(lu_model_config_read("M/config.json", list, NULL, &c, &err), LUTRA_E_FORMAT);
    json_decref(list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(absent_keys_take_the_defaults_of_the_class),
        cmocka_unit_test(null_switches_off_what_absence_leaves_on),
        cmocka_unit_test(stated_keys_win),
        cmocka_unit_test(the_dtype_has_two_names),
        cmocka_unit_test(gemma_scales_embeddings_by_a_rounded_root),
        cmocka_unit_test(gemma_ignores_hidden_act),
        cmocka_unit_test(windows_follow_the_class_or_layer_types),
        cmocka_unit_test(rope_has_an_old_and_a_new_spelling),
        cmocka_unit_test(llama3_scaling_keeps_blends_and_stretches),
        cmocka_unit_test(end_tokens_of_generation_config_win),
        cmocka_unit_test(senseless_values_are_refused_by_name),
        cmocka_unit_test(a_config_that_is_no_object_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
