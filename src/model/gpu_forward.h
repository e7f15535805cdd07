/* gpu_forward.h - forward.h on a GPU: the same walk over the architecture row, every step a kernel
   or a product queued on the GPU's stream. Passes of single tokens are recorded as graphs, so that
   a step costs the host one launch; a mixture of experts asks the host how many rows each expert
   has and is not recorded. */
#ifndef LU_MODEL_GPU_FORWARD_H
#define LU_MODEL_GPU_FORWARD_H

#include "model/forward.h"
#include "model/gpu_model.h"

typedef struct lu_gpu_forward lu_gpu_forward;

lutra_status lu_gpu_forward_open(lutra_model *m, int64_t max_rows, int64_t max_context,
                                 lu_gpu_forward **out, lutra_err *err);
void lu_gpu_forward_close(lu_gpu_forward *f);
lutra_status lu_gpu_forward_run(lu_gpu_forward *f, const lu_segment *segments, int64_t n_segments,
                                lutra_err *err);
lutra_status lu_gpu_forward_logits(lu_gpu_forward *f, int64_t row, int64_t n, float *out,
                                   lutra_err *err);
lutra_status lu_gpu_forward_losses(lu_gpu_forward *f, int64_t row, int64_t n,
                                   const int32_t *targets, double *losses, lutra_err *err);

/* gpu_decode.c: lu_forward_steps_* of forward.h. */
lutra_status lu_gpu_steps_begin(lu_gpu_forward *f, const lu_steps *steps, lutra_err *err);
lutra_status lu_gpu_steps_queue(lu_gpu_forward *f, lutra_err *err);
lutra_status lu_gpu_steps_take(lu_gpu_forward *f, int32_t *ids, lutra_err *err);
void lu_gpu_steps_end(lu_gpu_forward *f);

#endif
