/* cuda_embed.cu - rows of the embedding, dense or coded, to float32. A thread makes eight columns. */
#include "kern/cuda/act_values.cuh"
#include "kern/cuda/cuda_launch.cuh"
#include "kern/cuda/cuda_ops.h"

namespace {

enum { THREADS = 128 };

struct embed_args {
    int64_t cols, code_bytes, group_size, groups;
    const int32_t *ids;
    const uint16_t *dense;
    const uint8_t *codes;
    const uint16_t *scales;
    const uint8_t *zeros;
    float *x;
    float scale;
    int bits, vector;
    float table[256];
};

template <bool BF16> __global__ void embed_dense(const __grid_constant__ embed_args a)
{
    const int64_t row = blockIdx.x, col = ((int64_t)blockIdx.y * THREADS + threadIdx.x) * 8;
    lu_begin();
    if (col >= a.cols)
        return;
    float v[8];
    lu_load8<BF16>(a.dense + a.ids[row] * a.cols + col, a.cols - col, a.vector, v);
#pragma unroll
    for (int i = 0; i < 8; i++)
        v[i] *= a.scale;
    lu_store8_float(a.x + row * a.cols + col, a.cols - col, a.vector, v);
}

/* Eight codes are `bits` whole bytes. */
__global__ void embed_coded(const __grid_constant__ embed_args a)
{
    __shared__ float table[256];
    const int64_t row = blockIdx.x, col = ((int64_t)blockIdx.y * THREADS + threadIdx.x) * 8;
    for (int i = (int)threadIdx.x; i < 1 << a.bits; i += THREADS)
        table[i] = a.table[i];
    __syncthreads();
    lu_begin();
    if (col >= a.cols)
        return;
    const int64_t id = a.ids[row], left = a.cols - col;
    const uint8_t *codes = a.codes + id * a.code_bytes + col / 8 * a.bits;
    const int64_t bytes = left >= 8 ? a.bits : (left * a.bits + 7) / 8;
    uint64_t stream = 0;
    for (int i = 0; i < bytes; i++)
        stream |= (uint64_t)codes[i] << (8 * i);
    float v[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        v[i] = 0.0f;
        if (i >= left)
            continue;
        const int64_t group = id * a.groups + (col + i) / a.group_size;
        const float zero = a.zeros ? table[a.zeros[group]] : 0.0f;
        const float t = table[stream >> (i * a.bits) & ((1u << a.bits) - 1)];
        v[i] = lu_from_act<false>(a.scales[group]) * (t - zero) * a.scale;
    }
    lu_store8_float(a.x + row * a.cols + col, left, a.vector, v);
}

} // namespace

int lu_cuda_embed(const lu_cuda_embed_args *e)
{
    if (e->n < 0 || e->cols < 1 || e->cols > INT32_MAX || !e->codes == !e->dense)
        return LU_CUDA_E_SHAPE;
    if (e->codes && (e->bits < 2 || e->bits > 8 || e->group_size < 1 || e->cols % e->group_size))
        return LU_CUDA_E_SHAPE;
    if (e->n == 0)
        return 0;
    embed_args a = {};
    a.cols = e->cols;
    a.ids = e->ids;
    a.dense = e->dense;
    a.codes = e->codes;
    a.scales = e->scales;
    a.zeros = e->zeros;
    a.x = e->x;
    a.scale = e->scale;
    a.bits = e->bits;
    a.vector = e->cols % 8 == 0 && lu_aligned16(e->x) && lu_aligned16(e->dense);
    if (e->codes) {
        a.code_bytes = (e->cols * e->bits + 7) / 8;
        a.group_size = e->group_size;
        a.groups = e->cols / e->group_size;
        for (int i = 0; i < 1 << e->bits; i++)
            a.table[i] = e->table[i];
    }
    const int64_t across = (e->cols + THREADS * 8 - 1) / (THREADS * 8);
    if (e->n > INT32_MAX || across > 65535)
        return LU_CUDA_E_SHAPE;
    const lu_launch_shape s = {dim3((unsigned)e->n, (unsigned)across), THREADS, 0, e->stream};
    return e->codes ? lu_launch(embed_coded, s, a)
           : e->bf16 ? lu_launch(embed_dense<true>, s, a)
                     : lu_launch(embed_dense<false>, s, a);
}
