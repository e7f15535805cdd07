/* act_values.cuh - activations (fp16 or bf16 bits) to and from float32, eight at a time, and sums
   over a block whose order is fixed. */
#ifndef LU_KERN_CUDA_ACT_VALUES_CUH
#define LU_KERN_CUDA_ACT_VALUES_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

template <bool BF16> static __device__ __forceinline__ float lu_from_act(uint16_t v)
{
    return BF16 ? __uint_as_float((uint32_t)v << 16) : __half2float(__ushort_as_half(v));
}

template <bool BF16> static __device__ __forceinline__ uint16_t lu_to_act(float v)
{
    return BF16 ? __bfloat16_as_ushort(__float2bfloat16_rn(v)) : __half_as_ushort(__float2half_rn(v));
}

/* lo in the low half of the word. */
template <bool BF16> static __device__ __forceinline__ uint32_t lu_pack2(float lo, float hi)
{
    uint32_t r;
    if (BF16)
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    else
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}

template <bool BF16> static __device__ __forceinline__ void lu_unpack8(uint4 w, float v[8])
{
    const uint32_t word[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        v[2 * i] = lu_from_act<BF16>((uint16_t)word[i]);
        v[2 * i + 1] = lu_from_act<BF16>((uint16_t)(word[i] >> 16));
    }
}

template <bool BF16> static __device__ __forceinline__ uint4 lu_pack8(const float v[8])
{
    return make_uint4(lu_pack2<BF16>(v[0], v[1]), lu_pack2<BF16>(v[2], v[3]), lu_pack2<BF16>(v[4], v[5]),
                      lu_pack2<BF16>(v[6], v[7]));
}

/* Eight values from p, of which `left` exist; the others read as 0. vector: p lies on 16 bytes and
   all eight exist. */
template <bool BF16>
static __device__ __forceinline__ void lu_load8(const uint16_t *p, int64_t left, bool vector, float v[8])
{
    if (vector) {
        lu_unpack8<BF16>(*(const uint4 *)p, v);
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        v[i] = i < left ? lu_from_act<BF16>(p[i]) : 0.0f;
}

template <bool BF16>
static __device__ __forceinline__ void lu_store8(uint16_t *p, int64_t left, bool vector, const float v[8])
{
    if (vector) {
        *(uint4 *)p = lu_pack8<BF16>(v);
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (i < left)
            p[i] = lu_to_act<BF16>(v[i]);
}

static __device__ __forceinline__ void lu_load8_float(const float *p, int64_t left, bool vector, float v[8])
{
    if (vector) {
        *(float4 *)v = *(const float4 *)p;
        *(float4 *)(v + 4) = *(const float4 *)(p + 4);
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        v[i] = i < left ? p[i] : 0.0f;
}

static __device__ __forceinline__ void lu_store8_float(float *p, int64_t left, bool vector, const float v[8])
{
    if (vector) {
        *(float4 *)p = *(const float4 *)v;
        *(float4 *)(p + 4) = *(const float4 *)(v + 4);
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (i < left)
            p[i] = v[i];
}

/* Sum over the block, the same bits in every thread. part: 32 floats of shared memory that no other
   sum of the kernel uses. */
static __device__ __forceinline__ float lu_block_sum(float v, float *part)
{
    const int lane = (int)threadIdx.x & 31, warps = ((int)blockDim.x + 31) / 32;
#pragma unroll
    for (int step = 16; step; step >>= 1)
        v += __shfl_xor_sync(0xffffffffu, v, step);
    if (lane == 0)
        part[threadIdx.x / 32] = v;
    __syncthreads();
    v = lane < warps ? part[lane] : 0.0f;
#pragma unroll
    for (int step = 16; step; step >>= 1)
        v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}

/* cap * tanh(x / cap) */
static __device__ __forceinline__ float lu_soft_cap(float x, float cap)
{
    return cap * tanhf(x / cap);
}

static inline bool lu_aligned16(const void *p)
{
    return (uintptr_t)p % 16 == 0;
}

#endif
