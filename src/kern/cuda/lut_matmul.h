/* lut_matmul.h - fused table-lookup matrix product on NVIDIA GPUs, plain C face.

       y[M,N] = x[M,K] . W[N,K]^T (+ bias[N]),   w = scale * (T[q] - zero)

   x and y are fp16 or bf16, sums are float32. W is packed once from the canonical checkpoint
   layout (lutra/format.h), on the device. Results are bit-identical from run to run: partial sums
   are added in a fixed order and no float atomics are used. Any M >= 0, N >= 1 and any K that the
   group divides. All pointers marked device are device memory; calls are asynchronous on `stream`
   (a cudaStream_t). Returns 0 or a cudaError_t; LU_CUDA_E_SHAPE for arguments that make no sense. */
#ifndef LU_KERN_CUDA_LUT_MATMUL_H
#define LU_KERN_CUDA_LUT_MATMUL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LU_CUDA_E_SHAPE 100001

typedef struct lu_cuda_lut {
    int64_t n, k;
    int bits;            /* 2..8 */
    int64_t group_size;  /* multiple of 32, or k */
    int has_zeros;
    int bf16;            /* activations and table: 0 = fp16, 1 = bf16 */
    uint32_t *words;     /* device, lu_cuda_lut_bytes */
    uint16_t *scales;    /* device, fp16 bits, inside the same allocation */
    uint16_t *zeros;     /* device, fp16 bits of the zero's table value, or NULL */
    uint16_t table[256]; /* host copy in the activation type */
} lu_cuda_lut;

/* Bytes of the one device block that lu_cuda_lut_pack fills. */
size_t lu_cuda_lut_bytes(int64_t n, int64_t k, int bits, int64_t group_size, int has_zeros);

/* Packs canonical codes [n][ceil(k*bits/8)], scales [n][k/group] (fp16 bits) and zero-point codes
   [n][k/group] or NULL; all device. table: host, 2^bits floats. block: lu_cuda_lut_bytes device
   bytes, owned by the caller, which must outlive *out. */
int lu_cuda_lut_pack(int64_t n, int64_t k, int bits, int64_t group_size, const uint8_t *codes,
                     const uint16_t *scales, const uint8_t *zeros, const float *table, int bf16,
                     void *block, lu_cuda_lut *out, void *stream);

/* Bytes of zeroed device scratch that lu_cuda_lut_matmul needs for any shape on this device. The
   kernel leaves its counters zero, so it is zeroed once. Not shared by concurrent streams. */
size_t lu_cuda_lut_scratch(int sm_count);

int lu_cuda_lut_matmul(const lu_cuda_lut *w, int64_t m, const uint16_t *x, int64_t ldx,
                       uint16_t *y, int64_t ldy, const uint16_t *bias, void *scratch, int sm_count,
                       void *stream);

#ifdef __cplusplus
}
#endif
#endif
