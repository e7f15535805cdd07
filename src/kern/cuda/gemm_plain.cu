/* gemm_plain.cu - see gemm_plain.h. A block makes a tile of 64 x 64 of c, 16 of k at a time through
   shared memory; a thread makes 4 x 4. Sums over k in one order. */
#include "kern/cuda/act_values.cuh"
#include "kern/cuda/cuda_launch.cuh"
#include "kern/cuda/gemm_plain.h"

namespace {

enum { TILE = 64, DEPTH = 16, EACH = 4, THREADS = 256 };
enum { OF_FP16, OF_BF16, OF_FLOAT };

template <int TYPE> __device__ __forceinline__ float load(const void *p, int64_t at)
{
    if (TYPE == OF_FLOAT)
        return ((const float *)p)[at];
    return lu_from_act<TYPE == OF_BF16>(((const uint16_t *)p)[at]);
}

/* tile[d][i] = element (first + i, depth + d) of a matrix stored with i or d as its rows. */
template <int TYPE>
__device__ __forceinline__ void fetch(const void *p, int64_t ld, bool i_is_column, int64_t first, int64_t n,
                                      int64_t depth, int64_t k, float tile[DEPTH][TILE + 1])
{
    for (int e = (int)threadIdx.x; e < TILE * DEPTH; e += THREADS) {
        const int i = i_is_column ? e % TILE : e / DEPTH, d = i_is_column ? e / TILE : e % DEPTH;
        const int64_t row = first + i, at = depth + d;
        tile[d][i] = row < n && at < k ? load<TYPE>(p, i_is_column ? at * ld + row : row * ld + at) : 0.0f;
    }
}

template <int TYPE> __global__ void __launch_bounds__(THREADS) gemm(lu_gpu_gemm g)
{
    __shared__ float a[DEPTH][TILE + 1], b[DEPTH][TILE + 1];
    const int64_t i0 = (int64_t)blockIdx.y * TILE, j0 = (int64_t)blockIdx.x * TILE;
    const int ty = (int)threadIdx.x / (TILE / EACH), tx = (int)threadIdx.x % (TILE / EACH);
    float sum[EACH][EACH] = {};
    lu_begin();
    for (int64_t depth = 0; depth < g.k; depth += DEPTH) {
        fetch<TYPE>(g.a, g.lda, g.transpose_a, i0, g.m, depth, g.k, a);
        fetch<TYPE>(g.b, g.ldb, !g.transpose_b, j0, g.n, depth, g.k, b);
        __syncthreads();
#pragma unroll
        for (int d = 0; d < DEPTH; d++)
#pragma unroll
            for (int i = 0; i < EACH; i++)
#pragma unroll
                for (int j = 0; j < EACH; j++)
                    sum[i][j] = fmaf(a[d][ty * EACH + i], b[d][tx + j * (TILE / EACH)], sum[i][j]);
        __syncthreads();
    }
    for (int i = 0; i < EACH; i++)
        for (int j = 0; j < EACH; j++) {
            const int64_t row = i0 + ty * EACH + i, column = j0 + tx + j * (TILE / EACH);
            if (row >= g.m || column >= g.n)
                continue;
            float *c = g.c + row * g.ldc + column;
            *c = g.alpha * sum[i][j] + (g.beta != 0.0f ? g.beta * *c : 0.0f);
        }
}

} // namespace

int lu_cuda_gemm_plain(const lu_gpu_gemm *a, void *stream)
{
    const int64_t down = (a->m + TILE - 1) / TILE, across = (a->n + TILE - 1) / TILE;
    if (a->m < 0 || a->n < 0 || a->k < 0 || down > 65535 || across > INT32_MAX)
        return LU_CUDA_E_SHAPE;
    if (a->m == 0 || a->n == 0)
        return 0;
    const lu_launch_shape s = {dim3((unsigned)across, (unsigned)down), THREADS, 0, stream};
    return a->of_float ? lu_launch(gemm<OF_FLOAT>, s, *a)
           : a->bf16   ? lu_launch(gemm<OF_BF16>, s, *a)
                       : lu_launch(gemm<OF_FP16>, s, *a);
}
