/* forward.h - the forward pass: token ids in, residual stream and logits out. One code path walks
   the architecture row of any model; all scratch memory is taken when a lu_forward is opened.

   A pass takes a batch of segments, each some consecutive tokens of one sequence with its KV cache.
   Matrix products run over the rows of all segments together. The result of a row depends neither
   on the other rows of the batch, nor on how a sequence is cut into passes, nor on the number of
   threads: not by a bit.

   A model that lives on a GPU runs there (gpu_forward.h), behind these same functions. Its results
   repeat bit by bit, but products choose kernels by the number of rows, so a cut or a batch may
   change a rounding. Taps are for the CPU. */
#ifndef LU_MODEL_FORWARD_H
#define LU_MODEL_FORWARD_H

#include "lutra/engine.h"
#include "model/kv.h"

/* Rows of a pass that keep the matrix kernels busy while scratch stays in tens of megabytes; on a
   GPU in hundreds. */
#define LU_FORWARD_ROWS 256
#define LU_GPU_FORWARD_ROWS 2048

typedef struct lu_segment {
    lu_kv *kv;
    int64_t pos; /* position of ids[0]: what kv holds before; pos + n <= kv->capacity, and n at
                    most what the cache was opened for */
    const int32_t *ids;
    int64_t n;
} lu_segment;

/* Sees what flows through a pass, as float32 rows. layer: 0.. or -1 outside the layers.
   site: "embedding" (layer -1, after scaling), "layer_out", "final_norm" (layer -1), or the name of
   a linear inside its layer ("self_attn.q_proj", "lm_head") for that linear's input. */
typedef void (*lu_tap)(void *user, int64_t layer, const char *site, const float *x, int64_t rows,
                       int64_t cols);

/* May change the inputs of a linear, before the tap sees them and the products read them. Linears
   that share their input (q k v; gate up; the router and the rows that experts take) share the rows
   and thus the change: it is asked for each of them in turn. Models in float32 only. */
typedef void (*lu_row_edit)(void *user, int64_t layer, const char *site, float *x, int64_t rows,
                            int64_t cols);

/* The points of a layer where inputs of linears are known. */
typedef enum lu_stage {
    LU_STAGE_QKV,
    LU_STAGE_O,
    LU_STAGE_MLP, /* gate and up, router */
    LU_STAGE_DOWN,
    LU_STAGE_END, /* the layer's output */
} lu_stage;

typedef struct lu_forward lu_forward;

/* max_rows: tokens of all segments of a pass; max_context: largest pos + n that will come. */
lutra_status lu_forward_open(lutra_model *m, int64_t max_rows, int64_t max_context,
                             lu_forward **out, lutra_err *err);
void lu_forward_close(lu_forward *f);
int64_t lu_forward_max_rows(const lu_forward *f);

/* Sets the tap for the passes that follow; NULL removes it. */
lutra_status lu_forward_set_tap(lu_forward *f, lu_tap tap, void *user, lutra_err *err);

lutra_status lu_forward_set_edit(lu_forward *f, lu_row_edit edit, void *user, lutra_err *err);

/* One layer over rows of the residual stream that the caller keeps: from stage QKV, or from MLP when
   x already has the attention branch in it, until the inputs of the linears of stage `to` were
   tapped. x [rows][hidden] gets the branches that were completed; segments need no ids. The outputs
   of the last complete branch, before its norm, are in lu_forward_branch. */
typedef struct lu_layer_run {
    int64_t layer;
    const lu_segment *segments;
    int64_t n_segments;
    lu_stage from, to;
    float *x;
} lu_layer_run;
lutra_status lu_forward_layer(lu_forward *f, const lu_layer_run *r, lutra_err *err);
const float *lu_forward_branch(const lu_forward *f); /* [rows][hidden] */

/* The embeddings of ids, scaled as the model does: out [n][hidden]. */
void lu_model_embed(const lutra_model *m, const int32_t *ids, int64_t n, float *out);

/* Runs one pass over 1 .. max_rows rows. Ids must be in the vocabulary and positions within the
   caches: the caller has checked them. Afterwards lu_forward_logits can be asked for any row; rows
   count through the segments in order. On the CPU fails with E_CANCELLED only: asked before each
   layer, as a pass through a large model takes many seconds. */
lutra_status lu_forward_run(lu_forward *f, const lu_segment *segments, int64_t n_segments,
                            lutra_err *err);

/* Final norm and lm_head of rows [row, row + n) of the last pass: out is [n][vocab_size]. Fails on a
   GPU only. */
lutra_status lu_forward_logits(lu_forward *f, int64_t row, int64_t n, float *out, lutra_err *err);

/* Negative log-likelihood of targets[i] by the logits of row `row` + i of the last pass. logits:
   room for [n][vocab_size], which a GPU leaves alone (NULL is fine there). */
lutra_status lu_forward_losses(lu_forward *f, int64_t row, int64_t n, const int32_t *targets,
                               float *logits, double *losses, lutra_err *err);

/* --- steps that choose their own next tokens ---------------------------------------------------
   On a GPU the next token is chosen where the logits are, and a step can be queued before the host
   knows the tokens of the last. Between begin and end, at most LU_STEPS_AHEAD steps are queued and
   not yet taken; take gives the tokens of the oldest. */
#define LU_STEPS_AHEAD 4

typedef struct lu_steps {
    int64_t n;                  /* sequences */
    const lu_segment *segments; /* [n]: .kv, and .pos = where ids go; capacity for all steps */
    const int32_t *ids;         /* [n]: what the first step feeds */
    lutra_sampling sampling;
    const int32_t *const *held; /* [n][n_held]: tokens before ids, for the repetition penalty */
    const int64_t *n_held;
    double (*draw)(void *user, int64_t sequence); /* in [0, 1); one a step unless greedy */
    void *user;
} lu_steps;

bool lu_forward_steps_possible(const lu_forward *f);
lutra_status lu_forward_steps_begin(lu_forward *f, const lu_steps *steps, lutra_err *err);
lutra_status lu_forward_steps_queue(lu_forward *f, lutra_err *err);
lutra_status lu_forward_steps_take(lu_forward *f, int32_t *ids, lutra_err *err);
void lu_forward_steps_end(lu_forward *f); /* waits for what is queued */

#endif
