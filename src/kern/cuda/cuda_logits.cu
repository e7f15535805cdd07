/* cuda_logits.cu - what is done with a row of logits besides sampling: to float32, and the negative
   log-likelihood of a target. */
#include "kern/cuda/act_values.cuh"
#include "kern/cuda/cuda_launch.cuh"
#include "kern/cuda/cuda_ops.h"

namespace {

enum { CONVERT_THREADS = 128, NLL_THREADS = 512 };

template <bool BF16>
__global__ void logits_to_float(int64_t n, const uint16_t *logits, float cap, float *out, int vector)
{
    const int64_t at = ((int64_t)blockIdx.x * CONVERT_THREADS + threadIdx.x) * 8, left = n - at;
    lu_begin();
    if (left <= 0)
        return;
    const bool whole = vector && left >= 8;
    float v[8];
    lu_load8<BF16>(logits + at, left, whole, v);
    if (cap > 0.0f)
#pragma unroll
        for (int i = 0; i < 8; i++)
            v[i] = lu_soft_cap(v[i], cap);
    lu_store8_float(out + at, left, whole, v);
}

/* Every thread keeps the largest of its logits and the sum of exp(logit - largest). */
template <bool BF16>
__global__ void __launch_bounds__(NLL_THREADS)
    nll(int64_t vocab, const uint16_t *logits, float cap, const int32_t *target, float *out, int vector)
{
    __shared__ float part[32], tops[NLL_THREADS / 32];
    const int64_t row = blockIdx.x;
    const uint16_t *x = logits + row * vocab;
    lu_begin();
    float top = -INFINITY, sum = 0.0f;
    for (int64_t at = (int64_t)threadIdx.x * 8; at < vocab; at += NLL_THREADS * 8) {
        const int64_t left = vocab - at;
        float v[8], high = top;
        lu_load8<BF16>(x + at, left, vector, v);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            v[i] = i >= left ? -INFINITY : cap > 0.0f ? lu_soft_cap(v[i], cap) : v[i];
            high = fmaxf(high, v[i]);
        }
        bool number = true;
#pragma unroll
        for (int i = 0; i < 8; i++)
            number &= v[i] == v[i];
        if (high == -INFINITY && number)
            continue; /* inf - inf is no number */
        sum *= top == -INFINITY ? 0.0f : expf(top - high);
        top = high;
#pragma unroll
        for (int i = 0; i < 8; i++)
            sum += expf(v[i] - top);
    }
    float all = top;
#pragma unroll
    for (int step = 16; step; step >>= 1)
        all = fmaxf(all, __shfl_xor_sync(0xffffffffu, all, step));
    if ((threadIdx.x & 31) == 0)
        tops[threadIdx.x / 32] = all;
    __syncthreads();
    all = tops[0];
#pragma unroll
    for (int w = 1; w < NLL_THREADS / 32; w++)
        all = fmaxf(all, tops[w]);
    const float whole = lu_block_sum(sum == 0.0f ? 0.0f : sum * expf(top - all), part);
    if (threadIdx.x)
        return;
    float hit = lu_from_act<BF16>(x[target[row]]);
    if (cap > 0.0f)
        hit = lu_soft_cap(hit, cap);
    out[row] = (all - hit) + logf(whole);
}

} // namespace

int lu_cuda_logits(int64_t n, int64_t vocab, const uint16_t *logits, float cap, int bf16, float *out, void *stream)
{
    if (n < 0 || vocab < 1 || n > ((int64_t)1 << 40) / vocab)
        return LU_CUDA_E_SHAPE;
    if (n == 0)
        return 0;
    const int64_t all = n * vocab, blocks = (all + CONVERT_THREADS * 8 - 1) / (CONVERT_THREADS * 8);
    const int vector = lu_aligned16(logits) && lu_aligned16(out);
    const lu_launch_shape s = {dim3((unsigned)blocks), CONVERT_THREADS, 0, stream};
    return bf16 ? lu_launch(logits_to_float<true>, s, all, logits, cap, out, vector)
                : lu_launch(logits_to_float<false>, s, all, logits, cap, out, vector);
}

int lu_cuda_nll(int64_t n, int64_t vocab, const uint16_t *logits, float cap, int bf16, const int32_t *target,
                float *out, void *stream)
{
    if (n < 0 || n > INT32_MAX || vocab < 1)
        return LU_CUDA_E_SHAPE;
    if (n == 0)
        return 0;
    const int vector = vocab % 8 == 0 && lu_aligned16(logits);
    const lu_launch_shape s = {dim3((unsigned)n), NLL_THREADS, 0, stream};
    return bf16 ? lu_launch(nll<true>, s, vocab, logits, cap, target, out, vector)
                : lu_launch(nll<false>, s, vocab, logits, cap, target, out, vector);
}
