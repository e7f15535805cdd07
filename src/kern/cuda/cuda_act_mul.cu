/* cuda_act_mul.cu - the gate of the MLP. Both activations are x times a sigmoid:
     silu(x) = x s(x),  gelu_tanh(x) = x s(2 u),  u = sqrt(2 / pi) (x + 0.044715 x^3). */
#include "kern/cuda/act_values.cuh"
#include "kern/cuda/cuda_launch.cuh"
#include "kern/cuda/cuda_ops.h"

namespace {

enum { THREADS = 128 };

template <bool BF16, bool GELU>
__global__ void act_mul(int64_t cols, int across, const uint16_t *gate_up, uint16_t *mid, int vector)
{
    const int64_t row = blockIdx.x / across;
    const int64_t col = ((blockIdx.x - row * across) * THREADS + threadIdx.x) * 8, left = cols - col;
    lu_begin();
    if (left <= 0)
        return;
    float gate[8], up[8];
    lu_load8<BF16>(gate_up + row * 2 * cols + col, left, vector, gate);
    lu_load8<BF16>(gate_up + row * 2 * cols + cols + col, left, vector, up);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float x = gate[i];
        const float u = GELU ? 1.5957691216057308f * fmaf(0.044715f * x * x, x, x) : x;
        gate[i] = x / (1.0f + __expf(-u)) * up[i];
    }
    lu_store8<BF16>(mid + row * cols + col, left, vector, gate);
}

} // namespace

int lu_cuda_act_mul(int64_t n, int64_t cols, const uint16_t *gate_up, int gelu, int bf16, uint16_t *mid, void *stream)
{
    const int64_t across = (cols + THREADS * 8 - 1) / (THREADS * 8);
    if (n < 0 || cols < 1 || (n && across > INT32_MAX / n))
        return LU_CUDA_E_SHAPE;
    if (n == 0)
        return 0;
    const int vector = cols % 8 == 0 && lu_aligned16(gate_up) && lu_aligned16(mid);
    const lu_launch_shape s = {dim3((unsigned)(n * across)), THREADS, 0, stream};
    void (*const kernels[2][2])(int64_t, int, const uint16_t *, uint16_t *, int) = {
        {act_mul<false, false>, act_mul<false, true>}, {act_mul<true, false>, act_mul<true, true>}};
    return lu_launch(kernels[bf16 != 0][gelu != 0], s, cols, (int)across, gate_up, mid, vector);
}
