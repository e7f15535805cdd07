/* gpu_bare.h - layers of a bare model (slots.h) on a GPU, one at a time: what calibration walks its
   rows through while weights change. Room for the weights of one layer in the activation type, for
   one batch of whole samples at positions 0 .. length-1, and for their keys and values. */
#ifndef LU_MODEL_GPU_BARE_H
#define LU_MODEL_GPU_BARE_H

#include "kern/gpu.h"
#include "model/forward.h"
#include "model/gpu_step.h"

typedef struct lu_gpu_bare lu_gpu_bare;

/* gpu is borrowed. act: BF16 or F16. samples: the most of a batch. E_NOMEM says what is needed and
   what is free; E_UNSUPPORTED for heads that the kernels do not take. */
lutra_status lu_gpu_bare_open(lutra_model *m, lu_gpu *gpu, lutra_dtype act, int64_t samples,
                              int64_t length, lu_gpu_bare **out, lutra_err *err);
void lu_gpu_bare_close(lu_gpu_bare *b);

/* Bytes of GPU memory that open takes. */
int64_t lu_gpu_bare_bytes(const lutra_model *m, int64_t samples, int64_t length);

/* The weights w [n][k] of a module of the layer; E_UNSUPPORTED for a number beyond fp16. */
lutra_status lu_gpu_bare_put(lu_gpu_bare *b, int64_t layer, const lu_module *module,
                             const float *w, lutra_err *err);
/* Where they lie on the GPU: act [n][k]. */
uint16_t *lu_gpu_bare_weights(lu_gpu_bare *b, int64_t layer, const lu_module *module);
/* Its norms and biases, as the model holds them now. */
lutra_status lu_gpu_bare_put_vectors(lu_gpu_bare *b, int64_t layer, lutra_err *err);

/* Queues from .. to (forward.h) over `samples` samples in lu_gpu_bare_x; the weights that it
   multiplies have been put. tap may be NULL. */
lutra_status lu_gpu_bare_run(lu_gpu_bare *b, int64_t layer, int64_t samples, lu_stage from,
                             lu_stage to, lu_gpu_tap tap, void *user, lutra_err *err);
float *lu_gpu_bare_x(lu_gpu_bare *b);           /* on the GPU: [rows][hidden] */
uint16_t *lu_gpu_bare_branch(lu_gpu_bare *b);   /* act [rows][hidden]: the last complete branch */
uint16_t *lu_gpu_bare_scratch(lu_gpu_bare *b);  /* act [rows][hidden]: free between runs */

#endif
