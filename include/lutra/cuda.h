/* lutra/cuda.h - products with compressed matrices on an NVIDIA GPU, for programs with an engine of
   their own. No model and no engine of lutra's is needed: give codes, scales and a table
   (lutra/format.h), then multiply on a stream:

       y[m][n] = sum_k x[m][k] * w[n][k]  (+ bias[n]),   w = scale * (T[code] - zero)

   x, y and bias are fp16 or bf16, sums are float32 in a fixed order: the same inputs give the same
   bits, run after run and in a captured graph. Any m >= 0, any n and k, any group that divides k.
   Products allocate nothing and may be captured. They need no workspace; with one
   (lutra_cuda_favour) those of 17 to 4095 rows are faster. Streams are cudaStream_t or CUstream,
   passed as void *; device pointers belong to the device's primary context, whichever copy of the
   runtime made them.

   A library built without CUDA has these functions too: opening fails with E_UNSUPPORTED and says
   what to do. So does a machine without driver or GPU. */
#ifndef LUTRA_CUDA_H
#define LUTRA_CUDA_H

#include "lutra/quant.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lutra_cuda lutra_cuda;               /* an opened GPU */
typedef struct lutra_cuda_matrix lutra_cuda_matrix; /* a packed matrix on it */

/* Opens GPU `ordinal`, counted from 0. The context must outlive it; both belong to one thread at a
 * time. */
LUTRA_API lutra_status lutra_cuda_open(lutra_ctx *ctx, int ordinal, lutra_cuda **out,
                                       lutra_err *err);
/* Close the matrices first. */
LUTRA_API void lutra_cuda_close(lutra_cuda *gpu);

/* Takes memory on the GPU (35 MB on an H200) for the products queued on `stream` from now on: those
   of 17 to 4095 rows then leave no multiprocessor idle: up to 2.5 times as fast where n is small
   and rows are few, no faster where n fills the chip. One stream at a time: products on others go
   without. Again with another stream, once the work on the last one is done, moves it there. Sums
   are then added in another order, the same one every time. E_NOMEM: the device is full; products
   stay as they were. */
LUTRA_API lutra_status lutra_cuda_favour(lutra_cuda *gpu, void *stream, lutra_err *err);

/* What a matrix is made from. Fill with lutra_cuda_source_init, then set the rest. */
typedef struct lutra_cuda_source {
    size_t size; /* sizeof(lutra_cuda_source) */
    int64_t n, k;
    int bits;               /* 2..8 */
    int64_t group_size;     /* columns that share a scale; 0 = the whole row */
    const float *table;     /* host, 2^bits finite values that act can hold */
    const uint8_t *codes;   /* [n][(k * bits + 7) / 8], laid out as lutra/format.h says */
    const uint16_t *scales; /* [n][k / group_size] fp16 bits */
    const uint8_t *zeros;   /* [n][k / group_size] codes of zero points, or NULL */
    bool on_device;         /* codes, scales and zeros are device memory; else host memory */
    lutra_dtype act;        /* LUTRA_F16 or LUTRA_BF16: x, y, bias, and the table's precision */
    void *block;  /* device memory for the packed matrix: lutra_cuda_matrix_bytes, aligned to
                     256, which must outlive it; NULL = the library takes and frees it */
    void *stream; /* packing from device memory is queued here */
} lutra_cuda_source;

LUTRA_API void lutra_cuda_source_init(lutra_cuda_source *s);

/* Device bytes of a packed matrix: its codes and scales in tiles of 16 rows by 128 columns, of
   which the last ones may be part empty. 0 if s makes no sense. */
LUTRA_API size_t lutra_cuda_matrix_bytes(const lutra_cuda *gpu, const lutra_cuda_source *s);

/* Packs a matrix. From host memory that is done on return. From device memory it is queued on
   s->stream: codes, scales and zeros must stay until it has run, and products on other streams must
   wait for it. E_ARG: sizes, table or pointers that make no sense. E_NOMEM: the device is full. */
LUTRA_API lutra_status lutra_cuda_matrix_open(lutra_cuda *gpu, const lutra_cuda_source *s,
                                              lutra_cuda_matrix **out, lutra_err *err);

/* The same from a matrix that lutra_quantize_matrix made. Scales become fp16; E_ARG if one
 * overflows. */
LUTRA_API lutra_status lutra_cuda_matrix_from(lutra_cuda *gpu, const lutra_qmatrix *q,
                                              lutra_dtype act, lutra_cuda_matrix **out,
                                              lutra_err *err);

/* The products queued with it must have run. */
LUTRA_API void lutra_cuda_matrix_close(lutra_cuda_matrix *w);

/* Queues y = x . w^T (+ bias) on `stream`. x: [m] rows of k elements, ldx apart; y: [m] rows of n,
   ldy apart; bias: [n] or NULL; all device memory of w's act type, which x and y must not share.
   Fastest where rows of x start on 16 bytes and k is a multiple of 8. E_ARG, or E_INTERNAL with
   CUDA's message. */
LUTRA_API lutra_status lutra_cuda_multiply(lutra_cuda_matrix *w, int64_t m, const void *x,
                                           int64_t ldx, void *y, int64_t ldy, const void *bias,
                                           void *stream, lutra_err *err);

#ifdef __cplusplus
}
#endif
#endif
