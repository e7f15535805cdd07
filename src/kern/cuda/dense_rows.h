/* dense_rows.h - dense products of few rows, bound by reading the weights: what a step of decoding
   asks of lm_head, and what does any product, slowly, where cuBLASLt is missing. */
#ifndef LU_KERN_CUDA_DENSE_ROWS_H
#define LU_KERN_CUDA_DENSE_ROWS_H

#include "kern/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Rows up to which it keeps up with memory. */
#define LU_DENSE_FEW_ROWS 4

/* Any shape. A row's result does not depend on the other rows. stream: a cudaStream_t. 0, a
   cudaError_t, or LU_CUDA_E_SHAPE. */
int lu_cuda_dense_rows(const lu_gpu_dense *a, void *stream);

#ifdef __cplusplus
}
#endif
#endif
