/* lutra/model.h - opening a model folder and looking inside. */
#ifndef LUTRA_MODEL_H
#define LUTRA_MODEL_H

#include "lutra/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lutra_model lutra_model;

typedef struct lutra_model_options {
    size_t size;
    lutra_dtype dtype; /* LUTRA_BF16 (default): matmul inputs and KV cache in bfloat16, sums in
                          float32. LUTRA_F32: everything in float32, on the CPU only. LUTRA_F16: as
                          BF16, in half precision, on a GPU only. */
    const char *act_quant; /* NULL: as the checkpoint says (docs/formats.md, "activations"), most
                              say nothing. "none": inputs of linears stay as they are. Else how
                              those of the blocks' linears are rounded to integers before each
                              product: intB[:token|:gSIZE|:tensor][:sym|:asym], such as
                              "int8:token" (a scale per token, the default), "int4:g128" (per token
                              and group of columns), "int8:tensor" (one scale, from the checkpoint's
                              M.input_scale tensors). Routers and lm_head are left alone. */
    const char *kv;     /* NULL: a KV cache in the type of `dtype`; "int8", "int4" or "fp8": a scale per
                           token and head; "kivi4" or "kivi2": keys per channel in groups of 32
                           tokens, values per token, the newest as they are. On the CPU only. */
    const char *device; /* where the model lives and runs: "cpu" or NULL, "cuda", "cuda:N" */
} lutra_model_options;

LUTRA_API void lutra_model_options_init(lutra_model_options *o);

/* Opens a Hugging Face folder, original or compressed by lutra: reads config.json, maps the
   shards, packs the weights for this machine. opts may be NULL. The context must outlive the model.
   Fails with E_FORMAT/E_IO naming the file and tensor, E_UNSUPPORTED naming the architecture or
   rope type and what is supported, E_ARG for a single file, a dtype that the device does not
   compute in or a name that is no device. On a GPU also E_UNSUPPORTED where there is none, and
   E_NOMEM that says what is needed, what is free and what would fit. */
LUTRA_API lutra_status lutra_model_open(lutra_ctx *ctx, const char *path,
                                        const lutra_model_options *opts, lutra_model **out,
                                        lutra_err *err);
LUTRA_API void lutra_model_close(lutra_model *m);

/* The GPUs that `device` may name, one a line: "cuda:0 NVIDIA H200, compute capability 9.0, 150.8 GB,
   driver for CUDA 13.0"; or "none: " and why. Returns buf. */
LUTRA_API const char *lutra_gpu_list(char *buf, size_t size);

typedef struct lutra_model_info {
    char architecture[64]; /* "LlamaForCausalLM" */
    int64_t n_layers, hidden_size, intermediate_size, n_heads, n_kv_heads, head_dim, vocab_size;
    int64_t max_context; /* tokens */
    int64_t n_params;
    int64_t weight_bytes; /* bytes read per decoded token at most: packed weights */
    int32_t bos_id;       /* -1 if none */
    int n_eos;
    int32_t eos_id[8];
    char format[64]; /* spec of the quantized weights, or "": "nf4:g64:f16 and 2 more" */
} lutra_model_info;

LUTRA_API void lutra_model_get_info(const lutra_model *m, lutra_model_info *out);

/* --- looking at files without loading a model ------------------------------------------------ */

typedef struct lutra_checkpoint lutra_checkpoint;

/* path: a model folder or a single .safetensors file. Only headers are read. */
LUTRA_API lutra_status lutra_checkpoint_open(lutra_ctx *ctx, const char *path,
                                             lutra_checkpoint **out, lutra_err *err);
LUTRA_API void lutra_checkpoint_close(lutra_checkpoint *c);
LUTRA_API int64_t lutra_checkpoint_count(const lutra_checkpoint *c);
/* Name, file name and view of tensor i in [0, count), sorted by name. The data is mapped, not read.
 */
LUTRA_API const char *lutra_checkpoint_name(const lutra_checkpoint *c, int64_t i);
LUTRA_API const char *lutra_checkpoint_file(const lutra_checkpoint *c, int64_t i);
LUTRA_API void lutra_checkpoint_tensor(const lutra_checkpoint *c, int64_t i, lutra_tensor *out);
/* config.json as text; NULL for a single file or a folder without one. Owned by c. */
LUTRA_API const char *lutra_checkpoint_config(const lutra_checkpoint *c);

#ifdef __cplusplus
}
#endif
#endif
