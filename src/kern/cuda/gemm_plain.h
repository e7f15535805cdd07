/* gemm_plain.h - lu_gpu_gemm by a kernel of ours: any shape, no library. What runs where cuBLASLt is
   missing or refuses a shape; several times slower than it. */
#ifndef LU_KERN_CUDA_GEMM_PLAIN_H
#define LU_KERN_CUDA_GEMM_PLAIN_H

#include "kern/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

/* stream: a cudaStream_t. 0, a cudaError_t, or LU_CUDA_E_SHAPE. */
int lu_cuda_gemm_plain(const lu_gpu_gemm *a, void *stream);

#ifdef __cplusplus
}
#endif
#endif
