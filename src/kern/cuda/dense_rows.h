/* dense_rows.h - dense products of any shape, a few rows at a time: what runs where cuBLASLt is missing
   or refuses a shape. One row is near memory speed, many are slow. */
#ifndef LU_KERN_CUDA_DENSE_ROWS_H
#define LU_KERN_CUDA_DENSE_ROWS_H

#include "kern/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Rows that share one reading of the weights. */
#define LU_DENSE_FEW_ROWS 4

/* Any shape. A row's result does not depend on the other rows. stream: a cudaStream_t. 0, a
   cudaError_t, or LU_CUDA_E_SHAPE. */
int lu_cuda_dense_rows(const lu_gpu_dense *a, void *stream);

#ifdef __cplusplus
}
#endif
#endif
