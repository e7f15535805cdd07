/* cuda_encode.h - kern/encode.h on the GPU, plain C face: rows of weights to codes, scales and zero
   points, with the energies of each row. All of it is the CPU encoder's, bit for bit. */
#ifndef LU_KERN_CUDA_CUDA_ENCODE_H
#define LU_KERN_CUDA_CUDA_ENCODE_H

#include "kern/cuda/lut_matmul.h"
#include "kern/encode.h"

#ifdef __cplusplus
extern "C" {
#endif

#define LU_CUDA_ENCODE_MAX_K (1 << 28) /* columns */

/* n rows. Pointers are device memory unless they say host; each array stands on its elements. */
typedef struct lu_cuda_encode_args {
    const lu_encoder *encoder; /* host; read before the call returns. Its level is of no account */
    int64_t n, k;              /* k: a multiple of the group size, if any */
    const void *w;             /* [n][k] */
    lutra_dtype dtype;         /* F32, F16 or BF16 */
    uint8_t *codes;            /* [n][lutra_format_row_bytes] */
    void *scales;              /* [n][groups] */
    uint8_t *zeros;            /* [n][groups], or NULL when symmetric */
    double *energies; /* [n][2]: sums of w^2 and of (w - decoded)^2; two NaN where the row holds a
                         weight that cannot be encoded, and its other outputs are unspecified */
    void *stream;
} lu_cuda_encode_args;

/* Asynchronous on the stream. 0, a cudaError_t or LU_CUDA_E_SHAPE. */
int lu_cuda_encode(const lu_cuda_encode_args *a);

/* What w loses when each group is rounded in a range of its own: difference = w - decoded, codes and
   scale as lu_group_scale and lu_group_codes give them for the range [lo * factor, hi * factor]. NaN where
   there is no scale for the range. */
typedef struct lu_cuda_clip_args {
    const lu_encoder *encoder; /* host; read before the call returns. Its range rule is of no account */
    int64_t n, k;
    const float *w;       /* [n][k] */
    const float *lo, *hi; /* [n][groups] */
    const float *factors; /* [n][groups], or NULL: `factor` for all */
    float factor;
    float *difference; /* [n][k] */
    void *stream;
} lu_cuda_clip_args;
int lu_cuda_clip(const lu_cuda_clip_args *a);

#ifdef __cplusplus
}
#endif
#endif
