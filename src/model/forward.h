/* forward.h - the forward pass: token ids in, residual stream and logits out. One code path walks
   the architecture row of any model; all scratch memory is taken when a lu_forward is opened.

   A pass takes a batch of segments, each some consecutive tokens of one sequence with its KV cache.
   Matrix products run over the rows of all segments together. The result of a row depends neither
   on the other rows of the batch, nor on how a sequence is cut into passes, nor on the number of
   threads: not by a bit. */
#ifndef LU_MODEL_FORWARD_H
#define LU_MODEL_FORWARD_H

#include "model/kv.h"

/* Rows of a pass that keep the matrix kernels busy while scratch stays in tens of megabytes. */
#define LU_FORWARD_ROWS 256

typedef struct lu_segment {
    lu_kv *kv;
    int64_t pos; /* position of ids[0]: what kv holds before; pos + n <= kv->capacity */
    const int32_t *ids;
    int64_t n;
} lu_segment;

/* Sees what flows through a pass, as float32 rows. layer: 0.. or -1 outside the layers.
   site: "embedding" (layer -1, after scaling), "layer_out", "final_norm" (layer -1), or the name of
   a linear inside its layer ("self_attn.q_proj", "lm_head") for that linear's input. */
typedef void (*lu_tap)(void *user, int64_t layer, const char *site, const float *x, int64_t rows,
                       int64_t cols);

typedef struct lu_forward lu_forward;

/* max_rows: tokens of all segments of a pass; max_context: largest pos + n that will come. */
lutra_status lu_forward_open(lutra_model *m, int64_t max_rows, int64_t max_context,
                             lu_forward **out, lutra_err *err);
void lu_forward_close(lu_forward *f);
int64_t lu_forward_max_rows(const lu_forward *f);

/* Sets the tap for the passes that follow; NULL removes it. */
lutra_status lu_forward_set_tap(lu_forward *f, lu_tap tap, void *user, lutra_err *err);

/* Runs one pass over 1 .. max_rows rows. Ids must be in the vocabulary and positions within the
   caches: the caller has checked them. Afterwards lu_forward_logits can be asked for any row; rows
   count through the segments in order. */
void lu_forward_run(lu_forward *f, const lu_segment *segments, int64_t n_segments);

/* Final norm and lm_head of rows [row, row + n) of the last pass: out is [n][vocab_size]. */
void lu_forward_logits(lu_forward *f, int64_t row, int64_t n, float *out);

#endif
