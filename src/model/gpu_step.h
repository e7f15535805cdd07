/* gpu_step.h - the inside of a pass on a GPU, shared by gpu_forward.c (memory, passes of given
   tokens), gpu_walk.c (the layers) and gpu_decode.c (steps that choose their next token).

   x is the residual stream, float32; everything else is of the activation type ("act").

       x ─ seam ─▶ in ─ qkv ─▶ qkv ─ rope_store ─▶ kv cache ─ attend ─▶ attended ─ o ─▶ branch
       x ─ seam ─▶ in ─ gate_up ─▶ gate_up ─ act_mul ─▶ mid ─ down ─▶ branch                     */
#ifndef LU_MODEL_GPU_STEP_H
#define LU_MODEL_GPU_STEP_H

#include "model/gpu_forward.h"

/* Most rows of a pass whose tokens are of a sequence each that the decoding kernel takes; longer
   passes take the prefill kernel. */
#define LU_GPU_DECODE_ROWS 256

/* Sees act rows x [rows][cols], which are the inputs of the linear `site` and lie on the GPU, before
   they are multiplied; may change them. Linears that share their input: asked for the first of them;
   an expert without rows: not at all. */
typedef lutra_status (*lu_gpu_tap)(void *user, const char *site, uint16_t *x, int64_t rows,
                                   int64_t cols, lutra_err *err);

/* What the kernels of one pass are told. The arrays are on the GPU. */
typedef struct lu_gpu_pass {
    const int32_t *ids;
    lu_cuda_rows rows;
    bool single;           /* every row is of a sequence of its own */
    int64_t bound;         /* on positions: sets how decoding splits the cache */
    const int32_t *starts; /* host [n_segments + 1]: first row of each segment, rows.n */
    int64_t n_segments;
    bool one_layer;  /* the KV cache has room for one layer, whichever runs */
    lu_gpu_tap tap;  /* NULL: nobody watches */
    void *tap_user;
} lu_gpu_pass;

/* A recorded pass. The first pass of a kind runs without, so that libraries and kernels are loaded
   when the second is recorded. */
typedef struct lu_gpu_graph {
    int64_t rows, bound; /* rows 0 = free */
    void *graph;         /* NULL: seen once */
} lu_gpu_graph;

#define LU_GPU_GRAPHS 8

typedef struct lu_gpu_graphs {
    lu_gpu_graph of[LU_GPU_GRAPHS];
    int next;
    int64_t generation; /* of the KV cache's block when they were recorded */
} lu_gpu_graphs;

typedef struct lu_gpu_decode lu_gpu_decode;

struct lu_gpu_forward {
    lutra_model *model;
    lu_gpu_model *g;
    lu_gpu *gpu;
    int64_t max_rows, max_context, max_pages, table_room;
    int64_t logit_rows, float_rows; /* rows of logits at a time: act, float32 */
    bool moe;

    uint8_t *block; /* GPU memory that holds what follows */
    int32_t *meta;  /* of a pass of n rows: ids [n], sequences [n], positions [n] */
    int32_t *table; /* [sequences][max_pages] */
    float *x;
    uint16_t *in, *qkv, *attended, *branch, *gate_up, *mid;
    uint16_t *router, *gathered, *expert_out;
    int32_t *source, *place, *first;
    float *share;
    float *cosines[LU_N_ATTN_KINDS], *sines[LU_N_ATTN_KINDS]; /* [max_context][head_dim / 2] */
    uint16_t *logits;
    float *float_logits, *nll;
    int32_t *targets;
    lu_gpu_rounded rounded;

    uint8_t *scratch; /* of attention; grows */
    size_t scratch_bytes;

    int32_t *host_meta, *host_table, *starts, *host_first;
    float *host_nll;
    int64_t table_used; /* entries of host_table that the GPU has; 0 = none */
    lu_gpu_graphs graphs;
    lu_gpu_decode *decode;
};

/* The pages of the segments' sequences to the GPU, where they are not there yet. */
lutra_status lu_gpu_put_table(lu_gpu_forward *f, const lu_segment *segments, int64_t n,
                              lutra_err *err);

/* Room for what the attention of a pass needs besides. May void recorded graphs. */
lutra_status lu_gpu_prepare(lu_gpu_forward *f, const lu_gpu_pass *p, lutra_err *err);

/* A bound on positions that few steps outgrow: powers of two. */
int64_t lu_gpu_bound(const lu_gpu_forward *f, int64_t position);

/* Queues the layers: x of all rows is then their output. */
lutra_status lu_gpu_walk(lu_gpu_forward *f, const lu_gpu_pass *p, lutra_err *err);

/* Queues a part of one layer over the rows that x holds, as lu_forward_layer (forward.h); branch is then
   the output of the last complete branch. No recording. */
lutra_status lu_gpu_walk_layer(lu_gpu_forward *f, const lu_gpu_pass *p, int64_t layer,
                               lu_stage from, lu_stage to, lutra_err *err);

/* Queues the final norm and lm_head: logits of rows [row, row + n), n <= logit_rows. */
lutra_status lu_gpu_head(lu_gpu_forward *f, int64_t row, int64_t n, lutra_err *err);

/* Runs work, recorded where this GPU can: it may only queue kernels. */
typedef lutra_status (*lu_gpu_work)(lu_gpu_forward *f, const lu_gpu_pass *p, lutra_err *err);
lutra_status lu_gpu_replay(lu_gpu_forward *f, lu_gpu_graphs *graphs, const lu_gpu_pass *p,
                           lu_gpu_work work, lutra_err *err);
void lu_gpu_graphs_drop(lu_gpu_forward *f, lu_gpu_graphs *graphs);

void lu_gpu_decode_close(lu_gpu_forward *f);

/* gpu_forward.c: the memory of passes over the layers of `m` as `g` holds them; g need not be m->gpu.
   layers_only: without what logits need. */
lutra_status lu_gpu_forward_open_on(lutra_model *m, lu_gpu_model *g, int64_t max_rows,
                                    int64_t max_context, bool layers_only, lu_gpu_forward **out,
                                    lutra_err *err);

#endif
