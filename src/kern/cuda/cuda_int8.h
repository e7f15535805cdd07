/* cuda_int8.h - inputs of linears rounded to integers on the GPU, and products of integers, plain C
   face. The conventions of cuda_ops.h hold; numbers are those of fmt/act_format.h and
   kern/linear_int8.h, so that results equal the CPU's but for the type of what goes in and out.

   Codes are signed here: q = u - 128, and a row's zero point is z - 128, which is 0 where
   symmetric. With v the integers of the weights

       y[m][n] = x_scale[m] * (w_scale[n] * (sum over k of q[m][k] v[n][k] - x_zero[m] w_sum[n])) +
   bias[n]

   The sum is exact in int32; the rest is float32, each operation rounded once. Rows of codes and of
   weights are padded with zeros to LU_INT8_COLUMNS columns, weights to LU_INT8_ROWS rows, so that
   every shape takes the same kernels. k is at most LU_INT8_MOST_COLUMNS. */
#ifndef LU_KERN_CUDA_CUDA_INT8_H
#define LU_KERN_CUDA_CUDA_INT8_H

#include <stddef.h>
#include <stdint.h>

#include "kern/cuda/lut_matmul.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    LU_INT8_COLUMNS = 64,
    LU_INT8_ROWS = 16,
    LU_INT8_MOST_COLUMNS = 65536, /* 255 * 128 * 65536 < 2^31 */
};

static inline int64_t lu_int8_padded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

/* How rows are rounded: `group` columns share a scale (a divisor of k that is a multiple of 8, or
   k), which follows from them, or is `scale` with `zero` where it is fixed (group is k then). */
typedef struct lu_cuda_act_rule {
    int bits; /* 2 to 8 */
    int asymmetric;
    int64_t group;
    int fixed;
    float scale;
    int zero; /* 0 .. 255, as in fmt/act_format.h */
} lu_cuda_act_rule;

/* x: act [n][k], rows ldx elements apart. */
typedef struct lu_cuda_act_args {
    int64_t n, k;
    const uint16_t *x;
    int64_t ldx;
    int bf16;
    lu_cuda_act_rule rule;
    void *stream;
} lu_cuda_act_args;

/* codes: [n][k padded to LU_INT8_COLUMNS], on 8 bytes; scale, zero: [n]. One scale a row. A row
   with a NaN or an infinity gets a scale of NaN. */
int lu_cuda_act_codes(const lu_cuda_act_args *a, int8_t *codes, float *scale, int32_t *zero);
/* y: act [n][k] dense, not x: each value rounded and turned back, then rounded to act. A group with
   a NaN or an infinity becomes NaN. */
int lu_cuda_act_fake(const lu_cuda_act_args *a, uint16_t *y);

/* Canonical codes of n rows of k columns, one scale a row (device; zeros: [n] or NULL), to w
   [n padded][k padded] and w_sum [n]. table: host, 2^bits integers whose differences, or which
   themselves without zeros, lie in -128 .. 127. Weights count as at rest: synchronize before they
   are used. */
int lu_cuda_int8_pack(int64_t n, int64_t k, int bits, const uint8_t *codes, const uint8_t *zeros,
                      const float *table, int8_t *w, int32_t *w_sum, void *stream);

/* The product. x: [m][k padded] codes on 16 bytes, as w; y: act, rows ldy elements apart. */
typedef struct lu_gpu_int8 {
    int64_t m, n, k;
    const int8_t *x;
    const float *x_scale;  /* [m] */
    const int32_t *x_zero; /* [m]; NULL: all 0 */
    const int8_t *w;
    const float *w_scale; /* [n] */
    const int32_t *w_sum; /* [n]; not read without x_zero */
    const uint16_t *bias; /* act [n] or NULL */
    uint16_t *y;
    int64_t ldy;
    int bf16;
    int32_t *sums; /* scratch on 16 bytes: [sum_rows][n padded]. NULL: none, sum_rows 0 */
    int64_t sum_rows;
} lu_gpu_int8;

/* Any shape, no scratch: reads the weights once for each 32 rows of x. */
int lu_cuda_int8_rows(const lu_gpu_int8 *a, void *stream);
/* y of rows [row, row + rows) from their sums in a->sums, which begin with row `row`. */
int lu_cuda_int8_scale(const lu_gpu_int8 *a, int64_t row, int64_t rows, void *stream);

#ifdef __cplusplus
}
#endif
#endif
