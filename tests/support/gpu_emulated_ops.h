/* gpu_emulated_ops.h - between the two halves of the emulated GPU. */
#ifndef TESTS_SUPPORT_GPU_EMULATED_OPS_H
#define TESTS_SUPPORT_GPU_EMULATED_OPS_H

#include "kern/gpu.h"

/* A call with its arguments: run gets a copy of the `bytes` at args when it is its turn. */
typedef int (*gpu_emulated_runner)(const void *args);
int gpu_emulated_queue(gpu_emulated_runner run, const void *args, size_t bytes);
/* What is queued is done: for calls that compute at once. */
void gpu_emulated_flush(void);

int gpu_emulated_dense(lu_gpu *g, const lu_gpu_dense *a);
int gpu_emulated_gemm(lu_gpu *g, const lu_gpu_gemm *a);
int gpu_emulated_int8(lu_gpu *g, const lu_gpu_int8 *a);

#define GPU_EMULATED_DECLARE(name, result, args) result emulated_##name args;
LU_GPU_KERNELS(GPU_EMULATED_DECLARE)
#undef GPU_EMULATED_DECLARE

#endif
