/* arch.c - the architecture rows. A class whose block is made of the parts that arch.h names is
   supported by adding a row here and a tiny model to tests/fixtures/make_tiny_models.py. */
#include "model/arch.h"

#include <stdio.h>
#include <string.h>

#define ATTENTION_NAMES                                                 \
    [LU_SLOT_Q] = "self_attn.q_proj", [LU_SLOT_K] = "self_attn.k_proj", \
    [LU_SLOT_V] = "self_attn.v_proj", [LU_SLOT_O] = "self_attn.o_proj"
#define MLP_NAMES \
    [LU_SLOT_GATE] = "mlp.gate_proj", [LU_SLOT_UP] = "mlp.up_proj", [LU_SLOT_DOWN] = "mlp.down_proj"
#define PRE_NORM_NAMES \
    [LU_NORM_ATTN_IN] = "input_layernorm", [LU_NORM_MLP_IN] = "post_attention_layernorm"

static const lu_arch rows[] = {
    {
        .name = "LlamaForCausalLM",
        .rms_norm_eps = 1e-6,
        .rope_theta = 1e4,
        .max_context = 2048,
        .activation = LU_ACT_SILU,
        .activation_key = "hidden_act",
        .qkv_bias = LU_BIAS_BY_CONFIG,
        .o_bias = LU_BIAS_BY_CONFIG,
        .mlp_bias = LU_BIAS_BY_CONFIG,
        .window_rule = LU_WINDOW_NONE,
        .norms = {PRE_NORM_NAMES},
        .modules = {ATTENTION_NAMES, MLP_NAMES},
    },
    {
        .name = "MistralForCausalLM",
        .rms_norm_eps = 1e-6,
        .rope_theta = 1e4,
        .n_kv_heads = 8,
        .max_context = 131072,
        .window = 4096,
        .activation = LU_ACT_SILU,
        .activation_key = "hidden_act",
        .window_rule = LU_WINDOW_ALL,
        .norms = {PRE_NORM_NAMES},
        .modules = {ATTENTION_NAMES, MLP_NAMES},
    },
    {
        .name = "Qwen2ForCausalLM",
        .rms_norm_eps = 1e-6,
        .rope_theta = 1e4,
        .n_kv_heads = 32,
        .max_context = 32768,
        .window = 4096,
        .max_window_layers = 28,
        .activation = LU_ACT_SILU,
        .activation_key = "hidden_act",
        .qkv_bias = LU_BIAS_ALWAYS,
        .window_rule = LU_WINDOW_FROM_LAYER,
        .norms = {PRE_NORM_NAMES},
        .modules = {ATTENTION_NAMES, MLP_NAMES},
    },
    {
        .name = "Gemma2ForCausalLM",
        .rms_norm_eps = 1e-6,
        .rope_theta = 1e4,
        .n_kv_heads = 4,
        .head_dim = 256,
        .max_context = 8192,
        .window = 4096,
        .tied = true,
        .activation = LU_ACT_GELU_TANH,
        .attn_softcap = 50.0,
        .final_softcap = 30.0,
        .query_scalar = 256.0,
        .activation_key = "hidden_activation",
        .qkv_bias = LU_BIAS_BY_CONFIG,
        .o_bias = LU_BIAS_BY_CONFIG,
        .window_rule = LU_WINDOW_EVEN,
        .norm_offset = 1.0f, /* the file holds the offset from 1 */
        .scaled_embedding = true,
        .norms = {[LU_NORM_ATTN_IN] = "input_layernorm",
                  [LU_NORM_ATTN_OUT] = "post_attention_layernorm",
                  [LU_NORM_MLP_IN] = "pre_feedforward_layernorm",
                  [LU_NORM_MLP_OUT] = "post_feedforward_layernorm"},
        .modules = {ATTENTION_NAMES, MLP_NAMES},
    },
    {
        .name = "MixtralForCausalLM",
        .rms_norm_eps = 1e-5,
        .rope_theta = 1e6,
        .n_kv_heads = 8,
        .max_context = 131072,
        .activation = LU_ACT_SILU,
        .n_experts = 8,
        .n_active = 2,
        .activation_key = "hidden_act",
        .window_rule = LU_WINDOW_ALL,
        .norms = {PRE_NORM_NAMES},
        .modules = {ATTENTION_NAMES, [LU_SLOT_ROUTER] = "block_sparse_moe.gate",
                    [LU_SLOT_GATE] = "block_sparse_moe.experts.*.w1",
                    [LU_SLOT_UP] = "block_sparse_moe.experts.*.w3",
                    [LU_SLOT_DOWN] = "block_sparse_moe.experts.*.w2"},
    },
};

#define N_ROWS (sizeof rows / sizeof rows[0])

const lu_arch *lu_arch_find(const char *name)
{
    for (size_t i = 0; i < N_ROWS; i++)
        if (strcmp(rows[i].name, name) == 0)
            return &rows[i];
    return NULL;
}

const char *lu_arch_list(char *buf, size_t size)
{
    size_t used = 0;
    buf[0] = '\0';
    for (size_t i = 0; i < N_ROWS && used < size; i++) {
        const int n = snprintf(buf + used, size - used, "%s%s", i ? ", " : "", rows[i].name);
        used += (size_t)n;
    }
    return buf;
}
