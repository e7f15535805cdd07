/* dense_lt.h - dense products by cuBLASLt, which is loaded at run time. */
#ifndef LU_KERN_CUDA_DENSE_LT_H
#define LU_KERN_CUDA_DENSE_LT_H

#include "kern/gpu.h"

#define LU_DENSE_LT_FAILED 100002

typedef struct lu_dense_lt lu_dense_lt;

/* For the current device. NULL: the library, one of its functions or memory is missing. */
lu_dense_lt *lu_dense_lt_open(void);
void lu_dense_lt_close(lu_dense_lt *lt);

/* stream: a cudaStream_t. 0, or LU_DENSE_LT_FAILED: nothing was queued. May be captured. */
int lu_dense_lt_run(lu_dense_lt *lt, const lu_gpu_dense *a, void *stream);
int lu_dense_lt_gemm(lu_dense_lt *lt, const lu_gpu_gemm *a, void *stream); /* not captured */
/* The integer sums of rows [row, row + rows) of x, at most a->sum_rows, to a->sums from its start. */
int lu_dense_lt_sums(lu_dense_lt *lt, const lu_gpu_int8 *a, int64_t row, int64_t rows, void *stream);

#endif
