/* slots.h - what an opened model is inside: the architecture row's slots bound to tensors, the
   weights packed for this machine. forward.h runs it. */
#ifndef LU_MODEL_SLOTS_H
#define LU_MODEL_SLOTS_H

#include "io/checkpoint.h"
#include "kern/linear.h"
#include "lutra/model.h"
#include "model/config.h"

/* One linear layer: y = x W^T + b. */
typedef struct lu_module {
    char site[48];    /* name inside its layer, e.g. "self_attn.q_proj"; "lm_head" */
    lu_weight weight; /* as the checkpoint holds it; mapped, borrowed from the model's files */
    lu_linear linear; /* as the kernels read it; .packed and .bias are owned */
    float *bias;      /* [n] or NULL */
    lu_act_quant input; /* how its input is rounded; format.bits 0: not at all */
} lu_module;

typedef enum lu_expert_part { LU_GATE, LU_UP, LU_DOWN, LU_N_EXPERT_PARTS } lu_expert_part;

typedef struct lu_layer {
    float *norm[LU_N_NORMS];            /* [hidden_size] float32; NULL where the class has none */
    lu_module attention[LU_SLOT_O + 1]; /* Q, K, V, O */
    lu_module router;                   /* n = 0 in dense blocks */
    lu_module (*experts)[LU_N_EXPERT_PARTS]; /* [n_experts]; dense blocks have one */
} lu_layer;

struct lutra_model {
    lutra_ctx *ctx;
    lutra_checkpoint *files;
    lu_model_config config;
    bool quantized;
    lu_quant_config quant;
    lutra_dtype act; /* F32 or BF16, on a GPU F16 or BF16: matmul inputs and KV cache */
    struct lu_gpu_model *gpu; /* gpu_model.h; NULL = on the CPU */
    lu_level level;
    lu_ops ops;
    lu_weight embedding;
    float *final_norm;
    lu_module lm_head;
    lu_layer *layers;
    lu_kv_kind kv_kind; /* of a whole sequence's cache */
    bool rounds_inputs; /* some module's input is rounded to integers */
    int64_t n_params;
    int64_t weight_bytes;
};

/* load.c: opens a model for work on its weights, layer by layer: nothing is packed, activations are
   float32. A layer can run once lu_module_set gave weights to all of its modules; embeddings work
   at once, logits do not. Closed with lutra_model_close. */
lutra_status lu_model_open_bare(lutra_ctx *ctx, const char *path, lutra_model **out,
                                lutra_err *err);
/* Packs w [n][k] as the module's weights for the passes that follow; w may be freed afterwards. */
lutra_status lu_module_set(lutra_model *m, lu_module *module, const float *w, lutra_err *err);
void lu_module_drop(lu_module *module); /* gives the packed weights back */

/* bind.c: finds every tensor of the architecture row, checks its shape, converts norms and biases
   to float32. Fails naming the tensor, what was found and what was expected. Allocates into m;
   lutra_model_close frees also a half-bound model. */
lutra_status lu_model_bind(lutra_model *m, lutra_err *err);

/* Calls visit for every module of the model, in layer order, lm_head last. Stops on failure. */
typedef lutra_status (*lu_module_visit)(void *arg, int64_t layer, lu_module *module,
                                        lutra_err *err);
lutra_status lu_model_each_module(lutra_model *m, lu_module_visit visit, void *arg, lutra_err *err);

/* load.c: plans and packs the linears of the blocks again, after their `input` has changed. Passes
   opened before must be closed first. */
lutra_status lu_model_repack(lutra_model *m, lutra_err *err);

/* inputs.c: rounds the inputs of all linears of the blocks but the routers as f says, and no others,
   whatever the checkpoint says; bits 0: none. For static formats the scales come from the
   checkpoint's tensors M.input_scale and M.input_zero; E_ARG if one is missing or belongs to another
   format, or if the group size does not divide a linear's columns. To be followed by packing. */
lutra_status lu_model_round_inputs(lutra_model *m, const lu_act_format *f, lutra_err *err);

/* Whether a module is a linear whose input a format for the whole model rounds. */
bool lu_module_is_rounded(const lutra_model *m, int64_t layer, const lu_module *module);

#endif
