/* config.h - config.json as numbers: every key that changes what a model computes, with the
   defaults of its architecture where a key is absent. JSON null is not absent: it switches a
   feature off. */
#ifndef LU_MODEL_CONFIG_H
#define LU_MODEL_CONFIG_H

#include "lutra/tensor.h"
#include "model/arch.h"
#include "model/rope.h"

#define LU_MAX_LAYERS 1024
#define LU_MAX_EOS 8

typedef struct lu_model_config {
    const lu_arch *arch;
    lutra_dtype dtype; /* F32, F16 or BF16: what the checkpoint was made for */
    int64_t vocab_size, hidden_size, intermediate_size, n_layers;
    int64_t n_heads, n_kv_heads, head_dim;
    int64_t max_context;
    int64_t n_experts, n_active; /* experts per layer and per token; dense: 1, 1 */
    bool tied, qkv_bias, o_bias, mlp_bias;
    lu_activation activation;
    float eps;
    float query_scale;                 /* multiplies q.k */
    float embed_scale;                 /* multiplies embedding rows; 1 = none */
    float attn_softcap, final_softcap; /* 0 = none */
    int64_t window;                    /* 0 = none; tokens visible in sliding layers */
    lu_rope rope[LU_N_ATTN_KINDS];
    uint8_t kind[LU_MAX_LAYERS]; /* lu_attention_kind of each layer */
    int32_t bos_id;              /* -1 = none */
    int n_eos;
    int32_t eos_id[LU_MAX_EOS];
} lu_model_config;

/* config: the parsed config.json, `what` its name in messages. generation: generation_config.json,
   whose end tokens win, or NULL. Checks every size, so that later sums and products of them cannot
   overflow. On failure *out is untouched. */
lutra_status lu_model_config_read(const char *what, json_t *config, json_t *generation,
                                  lu_model_config *out, lutra_err *err);

#endif
