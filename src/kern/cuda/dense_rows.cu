/* dense_rows.cu - y = x W^T (+ bias) for up to LU_DENSE_FEW_ROWS rows of x at a time. A warp makes one
   column of y: its lanes take eight elements of W's row each, four loads ahead of use, sums are
   float32, and the lanes' sums are added in a fixed order. Weights are at rest, so a warp's first
   loads are under way before the kernel ahead has finished. */
#include "kern/cuda/act_values.cuh"
#include "kern/cuda/cuda_launch.cuh"
#include "kern/cuda/dense_rows.h"

namespace {

enum { THREADS = 256, AHEAD = 4 };

struct rows_args {
    int64_t n, k, ldx, ldy;
    const uint16_t *x, *w, *bias;
    uint16_t *y;
};

template <bool BF16, int M>
__device__ __forceinline__ void add_products(const rows_args &a, uint4 w, int64_t col, float sum[M])
{
    float v[8];
    lu_unpack8<BF16>(w, v);
#pragma unroll
    for (int m = 0; m < M; m++) {
        float x[8];
        lu_unpack8<BF16>(*(const uint4 *)(a.x + m * a.ldx + col), x);
#pragma unroll
        for (int i = 0; i < 8; i++)
            sum[m] = fmaf(v[i], x[i], sum[m]);
    }
}

/* Rows of W and x on 16 bytes, k a multiple of 8. */
template <bool BF16, int M> __device__ void vector_sums(const rows_args &a, int64_t row, int lane, float sum[M])
{
    const uint16_t *w = a.w + row * a.k;
    const int64_t step = 32 * 8;
    uint4 held[AHEAD];
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
        const int64_t col = lane * 8 + i * step;
        held[i] = col < a.k ? __ldcs((const uint4 *)(w + col)) : make_uint4(0, 0, 0, 0);
    }
    lu_wait_for_ahead();
    for (int64_t at = lane * 8; at < a.k; at += AHEAD * step) {
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const int64_t col = at + i * step, next = col + AHEAD * step;
            const uint4 now = held[i];
            if (next < a.k)
                held[i] = __ldcs((const uint4 *)(w + next));
            if (col < a.k)
                add_products<BF16, M>(a, now, col, sum);
        }
    }
}

template <bool BF16, int M> __device__ void plain_sums(const rows_args &a, int64_t row, int lane, float sum[M])
{
    lu_wait_for_ahead();
    for (int64_t col = lane; col < a.k; col += 32) {
        const float w = lu_from_act<BF16>(a.w[row * a.k + col]);
        for (int m = 0; m < M; m++)
            sum[m] = fmaf(w, lu_from_act<BF16>(a.x[m * a.ldx + col]), sum[m]);
    }
}

template <bool BF16, int M, bool VECTOR> __global__ void __launch_bounds__(THREADS) dense_rows(rows_args a)
{
    const int64_t row = (int64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    const int lane = threadIdx.x & 31;
    float sum[M] = {};
    lu_let_next_start();
    if (row >= a.n)
        return;
    if (VECTOR)
        vector_sums<BF16, M>(a, row, lane, sum);
    else
        plain_sums<BF16, M>(a, row, lane, sum);
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int far = 16; far; far /= 2)
            sum[m] += __shfl_xor_sync(0xffffffffu, sum[m], far);
        if (lane == 0)
            a.y[m * a.ldy + row] = lu_to_act<BF16>(sum[m] + (a.bias ? lu_from_act<BF16>(a.bias[row]) : 0.0f));
    }
}

template <bool BF16, bool VECTOR> int launch(const lu_launch_shape &s, int m, const rows_args &a)
{
    return m == 1   ? lu_launch(dense_rows<BF16, 1, VECTOR>, s, a)
           : m == 2 ? lu_launch(dense_rows<BF16, 2, VECTOR>, s, a)
           : m == 3 ? lu_launch(dense_rows<BF16, 3, VECTOR>, s, a)
                    : lu_launch(dense_rows<BF16, 4, VECTOR>, s, a);
}

bool on16(const void *p, int64_t stride) { return (uintptr_t)p % 16 == 0 && stride % 8 == 0; }

} // namespace

int lu_cuda_dense_rows(const lu_gpu_dense *e, void *stream)
{
    const int64_t blocks = (e->n + THREADS / 32 - 1) / (THREADS / 32);
    if (e->m < 0 || e->n < 1 || e->k < 1 || blocks > INT32_MAX)
        return LU_CUDA_E_SHAPE;
    const lu_launch_shape s = {dim3((unsigned)blocks), THREADS, 0, stream};
    const bool vector = on16(e->x, e->ldx) && on16(e->w, e->k);
    for (int64_t m = 0; m < e->m; m += LU_DENSE_FEW_ROWS) {
        const int rows = (int)(e->m - m < LU_DENSE_FEW_ROWS ? e->m - m : LU_DENSE_FEW_ROWS);
        const rows_args a = {e->n, e->k, e->ldx, e->ldy, e->x + m * e->ldx, e->w, e->bias, e->y + m * e->ldy};
        const int status = e->bf16 ? (vector ? launch<true, true>(s, rows, a) : launch<true, false>(s, rows, a))
                                   : (vector ? launch<false, true>(s, rows, a) : launch<false, false>(s, rows, a));
        if (status)
            return status;
    }
    return 0;
}
