/* cuda_measure.h - timing products on a GPU: weights that are cold in L2, graphs, medians.

   A figure is the time of one launch in a CUDA graph of launches over rotated copies of the weights
   (at least 300 MB of them, and two), the median of replays. Failed CUDA calls end the program. */
#ifndef BENCH_CUDA_MEASURE_H
#define BENCH_CUDA_MEASURE_H

#include <cuda_runtime_api.h>

#include "kern/cuda/lut_matmul.h"

#ifdef __cplusplus
extern "C" {
#endif

#define CB_TRY(call) cb_try((int)(call), #call, __FILE__, __LINE__)
void cb_try(int error, const char *call, const char *file, int line);

/* Weights of one matrix, packed `copies` times from random codes. */
typedef struct cb_weights {
    int64_t n, k, group;
    int bits, bf16, copies;
    size_t bytes, step; /* of one copy; from copy to copy */
    char *blocks;
    lu_cuda_lut *luts;
    double pack_gb_s; /* codes packed per second */
} cb_weights;

/* even: the table has steps of one size, as integers have, which all ways of decoding know. */
void cb_weights_open(cb_weights *w, int64_t n, int64_t k, int bits, int64_t group, int bf16,
                     int even);
void cb_weights_close(cb_weights *w);

/* A product under test: lu_cuda_lut_matmul or a variant of it. */
typedef int cb_product(const lu_cuda_device *dev, const lu_cuda_lut *w,
                       const lu_cuda_lut_call *call);

/* Microseconds. overlap: launches may fetch weights while the one ahead ends, as in a decoder step.
 */
double cb_time_product(cb_product *f, const lu_cuda_device *dev, const cb_weights *w, int64_t m,
                       int overlap);
double cb_time_read(const lu_cuda_device *dev, const cb_weights *w); /* reads the same bytes */
double cb_time_unpack(const cb_weights *w);                          /* to a dense copy */
double cb_time_cublas(int64_t n, int64_t k, int64_t m, int bf16);    /* dense, 16 bits */
double cb_matmul_tflops(void);                                       /* cuBLAS fp16, 8192 cubed */

#ifdef __cplusplus
}
#endif
#endif
