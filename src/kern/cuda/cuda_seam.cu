/* cuda_seam.cu - what lies between two branches: residual sum and norms, a block per row, the row in
   registers. The norms are at rest, so they are on their way before the branch is done: into registers
   where these suffice, else to the L2 cache. */
#include "kern/cuda/act_values.cuh"
#include "kern/cuda/cuda_launch.cuh"
#include "kern/cuda/cuda_ops.h"

namespace {

enum { MOST_THREADS = 512, MOST_ITEMS = 8 };

struct seam_args {
    int64_t cols;
    float *x;
    const uint16_t *branch;
    const float *out_norm, *in_norm;
    float eps, norm_offset;
    uint16_t *in;
};

__device__ __forceinline__ void call_to_l2(const float *p)
{
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}

/* ITEMS: groups of eight columns per thread. VECTOR: rows on 16 bytes. */
template <bool BF16, int ITEMS, bool VECTOR> __global__ void __launch_bounds__(MOST_THREADS) seam(const __grid_constant__ seam_args a)
{
    __shared__ float part[2][32];
    const int64_t at = blockIdx.x * a.cols;
    const bool early = ITEMS <= 2; /* norms fit registers */
    float x[ITEMS][8], out_norm[early ? ITEMS : 1][8], in_norm[early ? ITEMS : 1][8];
    lu_let_next_start();
#pragma unroll
    for (int k = 0; k < ITEMS; k++) {
        const int64_t col = ((int64_t)k * blockDim.x + threadIdx.x) * 8, left = a.cols - col;
        if (a.out_norm && left > 0) {
            if (early)
                lu_load8_float(a.out_norm + col, left, VECTOR, out_norm[early ? k : 0]);
            else
                call_to_l2(a.out_norm + col);
        }
        if (a.in_norm && left > 0) {
            if (early)
                lu_load8_float(a.in_norm + col, left, VECTOR, in_norm[early ? k : 0]);
            else
                call_to_l2(a.in_norm + col);
        }
    }
    lu_wait_for_ahead();

    float branch[ITEMS][8], sum = 0.0f;
#pragma unroll
    for (int k = 0; k < ITEMS; k++) {
        const int64_t col = ((int64_t)k * blockDim.x + threadIdx.x) * 8, left = a.cols - col;
#pragma unroll
        for (int i = 0; i < 8; i++)
            x[k][i] = branch[k][i] = 0.0f;
        if (left <= 0)
            continue;
        lu_load8_float(a.x + at + col, left, VECTOR, x[k]);
        if (a.branch)
            lu_load8<BF16>(a.branch + at + col, left, VECTOR, branch[k]);
    }
    if (a.out_norm && a.branch) {
#pragma unroll
        for (int k = 0; k < ITEMS; k++)
#pragma unroll
            for (int i = 0; i < 8; i++)
                sum = fmaf(branch[k][i], branch[k][i], sum);
        const float factor = 1.0f / sqrtf(lu_block_sum(sum, part[0]) / (float)a.cols + a.eps);
#pragma unroll
        for (int k = 0; k < ITEMS; k++) {
            const int64_t col = ((int64_t)k * blockDim.x + threadIdx.x) * 8, left = a.cols - col;
            if (left <= 0)
                continue;
            if (!early)
                lu_load8_float(a.out_norm + col, left, VECTOR, out_norm[0]);
#pragma unroll
            for (int i = 0; i < 8; i++)
                branch[k][i] *= factor * (out_norm[early ? k : 0][i] + a.norm_offset);
        }
    }
    sum = 0.0f;
#pragma unroll
    for (int k = 0; k < ITEMS; k++) {
        const int64_t col = ((int64_t)k * blockDim.x + threadIdx.x) * 8, left = a.cols - col;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            x[k][i] += branch[k][i];
            sum = fmaf(x[k][i], x[k][i], sum);
        }
        if (a.branch && left > 0)
            lu_store8_float(a.x + at + col, left, VECTOR, x[k]);
    }
    if (!a.in_norm)
        return;
    const float factor = 1.0f / sqrtf(lu_block_sum(sum, part[1]) / (float)a.cols + a.eps);
#pragma unroll
    for (int k = 0; k < ITEMS; k++) {
        const int64_t col = ((int64_t)k * blockDim.x + threadIdx.x) * 8, left = a.cols - col;
        if (left <= 0)
            continue;
        if (!early)
            lu_load8_float(a.in_norm + col, left, VECTOR, in_norm[0]);
#pragma unroll
        for (int i = 0; i < 8; i++)
            x[k][i] *= factor * (in_norm[early ? k : 0][i] + a.norm_offset);
        lu_store8<BF16>(a.in + at + col, left, VECTOR, x[k]);
    }
}

template <bool BF16> int launch_seam(const lu_launch_shape &s, int64_t items, bool vector, const seam_args &a)
{
    if (!vector)
        return lu_launch(seam<BF16, MOST_ITEMS, false>, s, a);
    return items <= 1   ? lu_launch(seam<BF16, 1, true>, s, a)
           : items <= 2 ? lu_launch(seam<BF16, 2, true>, s, a)
           : items <= 4 ? lu_launch(seam<BF16, 4, true>, s, a)
                        : lu_launch(seam<BF16, MOST_ITEMS, true>, s, a);
}

} // namespace

int lu_cuda_seam(const lu_cuda_seam_args *e)
{
    const int64_t eighths = (e->cols + 7) / 8, items = (eighths + MOST_THREADS - 1) / MOST_THREADS;
    if (e->n < 0 || e->n > INT32_MAX || e->cols < 1 || items > MOST_ITEMS || (e->in_norm && !e->in))
        return LU_CUDA_E_SHAPE;
    if (e->n == 0)
        return 0;
    const seam_args a = {e->cols, e->x, e->branch, e->out_norm, e->in_norm, e->eps, e->norm_offset, e->in};
    const bool vector = e->cols % 8 == 0 && lu_aligned16(e->x) && lu_aligned16(e->branch) && lu_aligned16(e->out_norm) &&
                        lu_aligned16(e->in_norm) && lu_aligned16(e->in);
    const int64_t across = (eighths + items - 1) / items;
    const lu_launch_shape s = {dim3((unsigned)e->n), (unsigned)((across + 31) / 32 * 32), 0, e->stream};
    return e->bf16 ? launch_seam<true>(s, items, vector, a) : launch_seam<false>(s, items, vector, a);
}
