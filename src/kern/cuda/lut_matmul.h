/* lut_matmul.h - fused table-lookup matrix product on NVIDIA GPUs, plain C face.

       y[M,N] = x[M,K] . W[N,K]^T (+ bias[N]),   w = scale * (T[q] - zero)

   x and y are fp16 or bf16, sums are float32. For up to 16 or 32 tokens groups are summed and then scaled; for more a weight
   is scaled first and rounded to the activation type. W is packed once from the canonical checkpoint
   layout (lutra/format.h), on the device. Results are bit-identical from run to run: partial sums
   are added in a fixed order and no float atomics are used. Any M >= 0, any N and K, any group that
   divides K; groups that are neither a multiple of 32 nor the whole row take a slow plain kernel.
   All pointers marked device are device memory; calls are asynchronous on `stream` (a
   cudaStream_t). The chip needs 128 KB of shared memory per block (compute capability 8.0, 9.0, 10.0);
   others get cudaErrorNotSupported. Functions return 0, a cudaError_t, or LU_CUDA_E_SHAPE for arguments that make no
   sense. */
#ifndef LU_KERN_CUDA_LUT_MATMUL_H
#define LU_KERN_CUDA_LUT_MATMUL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LU_CUDA_E_SHAPE 100001

typedef struct lu_cuda_device {
    int sm_count;
    int capability;   /* 80, 90, ... */
    int shared_bytes; /* most shared memory a block may ask for */
} lu_cuda_device;

/* How the kernel for few tokens turns codes into weights (kern/cuda/lut_decode.h). All give the same
   weights; what differs is the speed and, where pairs of columns are turned, the order in which a
   tensor core adds products. */
typedef enum lu_cuda_way { LU_CUDA_TABLE, LU_CUDA_ARITHMETIC, LU_CUDA_WAYS } lu_cuda_way;

typedef struct lu_cuda_decoder {
    uint32_t word[8];
} lu_cuda_decoder;

typedef struct lu_cuda_lut {
    int64_t n, k;
    int bits;            /* 2..8 */
    int64_t group_size;  /* divides k */
    int has_zeros;
    int bf16;            /* activations and table: 0 = fp16, 1 = bf16 */
    uint32_t *words;     /* device; all three lie in one block of lu_cuda_lut_bytes */
    uint16_t *scales;    /* device, fp16 bits */
    uint16_t *zeros;     /* device, fp16 bits of the zero's table value, or NULL */
    uint16_t table[256]; /* host copy in the activation type */
    lu_cuda_way way;     /* the fastest for this table, or what lu_cuda_lut_set_way says */
    lu_cuda_decoder decoder;
} lu_cuda_lut;

/* One product. Rows of x and y may start anywhere; rows of x on 16 bytes with k a multiple of 8 are
   fastest. */
typedef struct lu_cuda_lut_call {
    int64_t m;
    const uint16_t *x; /* device [m][ldx] */
    int64_t ldx;
    uint16_t *y; /* device [m][ldy] */
    int64_t ldy;
    const uint16_t *bias; /* device [n] in the activation type, or NULL */
    int overlap; /* 1: the weights are at rest (no kernel still running writes them), so this call may
                    fetch them before the kernel ahead of it in the stream has finished */
    void *stream;
    void *scratch; /* device, lu_cuda_lut_scratch bytes on 256, zero at first and left zero where it counts;
                      for one stream at a time. NULL: products of many tokens leave blocks idle */
} lu_cuda_lut_call;

/* Bytes of scratch memory that products use; 0: none. */
size_t lu_cuda_lut_scratch(const lu_cuda_device *dev);

int lu_cuda_device_get(int ordinal, lu_cuda_device *out);

/* Bytes of the one device block that lu_cuda_lut_pack fills. */
size_t lu_cuda_lut_bytes(int64_t n, int64_t k, int bits, int64_t group_size, int has_zeros);

/* Packs canonical codes [n][ceil(k*bits/8)], scales [n][k/group] (fp16 bits) and zero-point codes
   [n][k/group] or NULL; all device. table: host, 2^bits floats. block: lu_cuda_lut_bytes device
   bytes, owned by the caller, which must outlive *out. */
int lu_cuda_lut_pack(int64_t n, int64_t k, int bits, int64_t group_size, const uint8_t *codes,
                     const uint16_t *scales, const uint8_t *zeros, const float *table, int bf16,
                     void *block, lu_cuda_lut *out, void *stream);

/* Chooses the way of the next products: to compare them. LU_CUDA_E_SHAPE, and w as it was, if that way
   does not know tables of this width or, arithmetic, this table. */
int lu_cuda_lut_set_way(lu_cuda_lut *w, lu_cuda_way way);

int lu_cuda_lut_matmul(const lu_cuda_device *dev, const lu_cuda_lut *w, const lu_cuda_lut_call *call);

/* out[r][c] = scale * (T[q] - zero) of rows first_row + r, rounded to the activation type, dense rows
   of k: device, on 16 bytes. first_row: a multiple of 16; k: a multiple of 8. */
int lu_cuda_lut_unpack(const lu_cuda_lut *w, int64_t first_row, int64_t rows, uint16_t *out, void *stream);

/* From how many tokens unpacking, and a dense product on the copy, is faster than lu_cuda_lut_matmul;
   INT64_MAX: never, or w cannot be unpacked. */
int64_t lu_cuda_lut_dense_from(const lu_cuda_device *dev, const lu_cuda_lut *w);

#ifdef __cplusplus
}
#endif
#endif
