/* gpu_trial.h - weights in trial scales, rounded on the GPU into the places where a layer is walked
   through (lu_scaled of algo/pass.h). */
#ifndef LU_CALIB_GPU_TRIAL_H
#define LU_CALIB_GPU_TRIAL_H

#include "calib/block_view.h"
#include "model/gpu_bare.h"

typedef struct lu_gpu_trial lu_gpu_trial;

/* *out is NULL where a linear has several tables, or float32 copies of the weights do not fit. */
lutra_status lu_gpu_trial_open(lu_gpu *gpu, lu_gpu_bare *bare, bool bf16, lu_view *v,
                               const lu_scaled *s, lu_gpu_trial **out, lutra_err *err);
/* Bytes that it takes for k columns besides these copies, or has free beside it. */
int64_t lu_gpu_trial_bytes(int64_t k);
void lu_gpu_trial_close(lu_gpu_trial *t);

/* Queues rounded(w scale) / scale into the layer's places; or, alone, gives its loss. */
lutra_status lu_gpu_trial_set(lu_gpu_trial *t, const float *scale, double *loss, lutra_err *err);

#endif
