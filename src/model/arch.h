/* arch.h - one row per architecture: what its class does differently, the defaults of its config
   keys, and what its tensors are called. Everything that depends on the architecture is a column
   here; no other file compares architecture names. */
#ifndef LU_MODEL_ARCH_H
#define LU_MODEL_ARCH_H

#include "lutra/base.h"

typedef enum lu_activation { LU_ACT_SILU, LU_ACT_GELU_TANH } lu_activation;

/* Whether a linear has a bias: never, always, or as a config key says. */
typedef enum lu_bias_rule { LU_BIAS_NEVER, LU_BIAS_ALWAYS, LU_BIAS_BY_CONFIG } lu_bias_rule;

/* Which layers see only a sliding window, when the config has no layer_types. */
typedef enum lu_window_rule {
    LU_WINDOW_NONE,      /* the class knows no window; its config keys are ignored */
    LU_WINDOW_ALL,       /* every layer */
    LU_WINDOW_EVEN,      /* layers 0, 2, 4, ... */
    LU_WINDOW_FROM_LAYER /* layers >= max_window_layers, if use_sliding_window */
} lu_window_rule;

/* Norms of a block. The OUT norms act on a branch before it is added to the residual stream. */
typedef enum lu_norm_slot {
    LU_NORM_ATTN_IN,
    LU_NORM_ATTN_OUT,
    LU_NORM_MLP_IN,
    LU_NORM_MLP_OUT,
    LU_N_NORMS
} lu_norm_slot;

/* Linears of a block. A dense block is a block of one expert without a router. */
typedef enum lu_slot {
    LU_SLOT_Q,
    LU_SLOT_K,
    LU_SLOT_V,
    LU_SLOT_O,
    LU_SLOT_ROUTER,
    LU_SLOT_GATE,
    LU_SLOT_UP,
    LU_SLOT_DOWN,
    LU_N_SLOTS
} lu_slot;

typedef struct lu_arch {
    const char *name; /* first of config.json's "architectures" */

    /* what an absent config key means */
    double rms_norm_eps, rope_theta;
    int64_t n_kv_heads; /* 0 = as many as heads */
    int64_t head_dim;   /* 0 = hidden_size / heads */
    int64_t max_context;
    int64_t window; /* 0 = off */
    int64_t max_window_layers;
    bool tied; /* lm_head is the embedding */
    lu_activation activation;
    int64_t n_experts, n_active;        /* 0 = dense */
    double attn_softcap, final_softcap; /* 0 = the class has none */
    double query_scalar; /* scores are scaled by query_scalar^-1/2; 0 = by head_dim */

    /* what the class computes */
    const char *activation_key;    /* "hidden_act" or "hidden_activation" */
    lu_bias_rule qkv_bias, o_bias; /* BY_CONFIG: "attention_bias" */
    lu_bias_rule mlp_bias;         /* BY_CONFIG: "mlp_bias" */
    lu_window_rule window_rule;
    float norm_offset;     /* RMSNorm multiplies by w + norm_offset */
    bool scaled_embedding; /* rows times sqrt(hidden_size) in the model's dtype */

    /* names inside "model.layers.N."; '*' stands for the expert; NULL = not in this class */
    const char *norms[LU_N_NORMS];
    const char *modules[LU_N_SLOTS];
} lu_arch;

const lu_arch *lu_arch_find(const char *name); /* NULL if unknown */

/* The supported names, comma-separated, for messages. Returns buf. */
const char *lu_arch_list(char *buf, size_t size);

#endif
