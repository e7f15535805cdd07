/* calib_ops.h - what calibrated compression does on the GPU besides walking through layers and dense
   products: statistics of rows, and the small steps of blocked factorisations. Plain C face; the rules
   of cuda_ops.h hold: device pointers, asynchronous on `stream`, bit-identical from run to run. */
#ifndef LU_KERN_CUDA_CALIB_OPS_H
#define LU_KERN_CUDA_CALIB_OPS_H

#include <stdint.h>

#include "fmt/codec.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Adds rows x [n][cols] (fp16 or bf16 bits) to statistics per column, of which each may be NULL:
   absmax = max |x|, abssum += |x|, lowest and highest. first: lowest and highest hold nothing yet. A
   column with a NaN has the absmax NaN. */
typedef struct lu_cuda_column_args {
    int64_t n, cols;
    const uint16_t *x;
    int bf16, first;
    float *absmax;
    double *abssum;
    float *lowest, *highest;
    void *stream;
} lu_cuda_column_args;
int lu_cuda_column_stats(const lu_cuda_column_args *a);

/* sums[r] = sum over c of (a[r][c] - b[r][c])^2 for dense rows of fp16 or bf16. */
int lu_cuda_square_rows(int64_t n, int64_t cols, const uint16_t *a, const uint16_t *b, int bf16, double *sums,
                        void *stream);

/* sums[r] = sum over c of a[r][c] b[r][c] for dense rows of float32. */
int lu_cuda_dot_rows(int64_t n, int64_t cols, const float *a, const float *b, double *sums, void *stream);

/* One candidate of a search: for each of n rows and groups of `size` columns the error
   sum over the group of d * product, both dense [n][groups * size]; where it is below best[n][groups],
   best becomes it and best_factor `factor`. first: nothing was tried yet; best_factor is then 1 where the
   error is not a number. */
int lu_cuda_judge_groups(int64_t n, int64_t groups, int64_t size, const float *d, const float *product, int first,
                         float factor, double *best, float *best_factor, void *stream);

/* c[n][n] *= factor on and above the diagonal; what lies below becomes its mirror image. */
int lu_cuda_mirror(int64_t n, float factor, float *c, void *stream);

/* The last element of a[count] first. */
int lu_cuda_reverse(int64_t count, float *a, void *stream);

/* A rectangle of floats; ld: floats between rows. The two must not overlap. */
int lu_cuda_copy_rows(int64_t rows, int64_t cols, const float *from, int64_t ld_from, float *to, int64_t ld_to,
                      void *stream);

/* Zeros above the diagonal of a[n][n]. */
int lu_cuda_clear_upper(int64_t n, float *a, void *stream);

/* out[r][c] = w[r][c] * scale[c], dense rows of float32. */
int lu_cuda_scale_columns(int64_t n, int64_t cols, const float *w, const float *scale, float *out, void *stream);

/* Canonical codes (lutra/format.h) as values again, each divided by scale[c]: into values, as fp16 or
   bf16, or, with values NULL, what w [n][k] is more than they: into difference. All in float32 as
   lu_decode_row does it, so that a value is the CPU's. */
typedef struct lu_cuda_decode_args {
    int64_t n, k;
    const lutra_format *format; /* host; read before the call returns; not learned, but for its table */
    const uint8_t *codes;       /* [n][lutra_format_row_bytes] */
    const void *scales;         /* [n][groups] */
    const uint8_t *zeros;       /* [n][groups] or NULL */
    const float *scale;         /* [k] */
    uint16_t *values;           /* [n][k] or NULL */
    int bf16;
    const float *w;
    float *difference; /* [n][k] */
    void *stream;
} lu_cuda_decode_args;
int lu_cuda_decode(const lu_cuda_decode_args *a);

/* Rows and columns of a block of the two below. */
#define LU_CUDA_PANEL 128

/* The lower triangle of the symmetric block a[n][n], n <= LU_CUDA_PANEL, becomes L with a = L L^T; what lies
   above stays. *bad becomes 1 if a pivot is not positive (NaN is not); it never becomes 0. */
int lu_cuda_cholesky_block(int64_t n, float *a, int64_t ld, int32_t *bad, void *stream);

/* Inverts the blocks of LU_CUDA_PANEL rows and columns on the diagonal of the triangular a[n][n], lower
   or upper: inverses[ceil(n / LU_CUDA_PANEL)][LU_CUDA_PANEL][LU_CUDA_PANEL], each of the block's own
   triangle, zeros elsewhere. */
int lu_cuda_invert_blocks(int64_t n, const float *a, int64_t ld, int upper, float *inverses, void *stream);

#ifdef __cplusplus
}
#endif
#endif
