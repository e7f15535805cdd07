/* lut_plain.cu - any group size, straight from canonical codes: a warp per row, a token at a time.
   Sums are float32, each lane's columns in order, then a fixed tree over the lanes. */
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kern/cuda/lut_plain.cuh"

namespace {

struct plain_args {
    int64_t n, k, row_bytes, group_size, m, ldx, ldy;
    int bits;
    const uint8_t *codes;
    const uint16_t *scales, *zeros, *x, *bias;
    uint16_t *y;
    uint16_t table[256];
};

template <bool BF16> __device__ float value_of(uint16_t v)
{
    return BF16 ? __bfloat162float(*(const __nv_bfloat16 *)&v) : __half2float(*(const __half *)&v);
}

template <bool BF16> __global__ void lut_plain(const __grid_constant__ plain_args a)
{
    const int64_t row = (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    const int lane = (int)threadIdx.x & 31;
    if (row >= a.n)
        return;
    const uint8_t *codes = a.codes + row * a.row_bytes;
    const int64_t groups = a.k / a.group_size;
    for (int64_t token = 0; token < a.m; token++) {
        float sum = 0;
        for (int64_t col = lane; col < a.k; col += 32) {
            const int64_t bit = col * a.bits, at = row * groups + col / a.group_size;
            const unsigned shift = (unsigned)(bit & 7);
            unsigned v = codes[bit >> 3];
            if (shift + a.bits > 8)
                v |= (unsigned)codes[(bit >> 3) + 1] << 8;
            const float t = value_of<BF16>(a.table[v >> shift & ((1u << a.bits) - 1)]);
            const float z = a.zeros ? value_of<false>(a.zeros[at]) : 0;
            sum = fmaf(value_of<false>(a.scales[at]) * (t - z), value_of<BF16>(a.x[token * a.ldx + col]), sum);
        }
        for (int step = 16; step; step >>= 1)
            sum += __shfl_xor_sync(0xffffffffu, sum, step);
        if (lane)
            continue;
        if (a.bias)
            sum += value_of<BF16>(a.bias[row]);
        if (BF16)
            *(__nv_bfloat16 *)(a.y + token * a.ldy + row) = __float2bfloat16_rn(sum);
        else
            *(__half *)(a.y + token * a.ldy + row) = __float2half_rn(sum);
    }
}

} // namespace

int lut_plain_launch(const lu_cuda_lut *w, const lu_cuda_lut_call *call)
{
    plain_args a = {w->n, w->k, (w->k * w->bits + 7) / 8, w->group_size, call->m, call->ldx, call->ldy, w->bits,
                    (const uint8_t *)w->words, w->scales, w->zeros, call->x, call->bias, call->y, {}};
    for (int i = 0; i < 1 << w->bits; i++)
        a.table[i] = w->table[i];
    const unsigned grid = (unsigned)((w->n + 7) / 8);
    if (w->bf16)
        lut_plain<true><<<grid, 256, 0, (cudaStream_t)call->stream>>>(a);
    else
        lut_plain<false><<<grid, 256, 0, (cudaStream_t)call->stream>>>(a);
    return (int)cudaGetLastError();
}
