/* lut_unpack.cu - packed weights back to dense rows, for products of so many tokens that a dense
   kernel on a copy wins (lut_matmul.h). A warp takes a brick: a lane's pairs of a row and 32 columns
   are eight neighbours, one store. Memory is the limit: reads of b bits, writes of 16 a weight. */
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kern/cuda/lut_layout.cuh"
#include "kern/cuda/lut_matmul.h"

namespace {

enum { WARPS = 8, THREADS = WARPS * 32 };

struct unpack_args {
    const uint32_t *words, *scales, *zeros; /* lut_layout.cuh; canonical if parts is 0 */
    uint16_t *out;
    int64_t first_row, end_row, k, bricks; /* bricks: of the rows in all */
    int n_bricks, n_entries, bricks_per_entry, parts;
    int bits;
    int64_t group_size, row_bytes; /* canonical */
    uint16_t table[256];
};

template <bool BF16> __device__ __forceinline__ float value_of(uint16_t v)
{
    return BF16 ? __bfloat162float(*(const __nv_bfloat16 *)&v) : __half2float(*(const __half *)&v);
}

template <bool BF16> __device__ __forceinline__ unsigned rounded(float v)
{
    const __nv_bfloat16 b = __float2bfloat16_rn(v);
    const __half h = __float2half_rn(v);
    return BF16 ? *(const uint16_t *)&b : *(const uint16_t *)&h;
}

/* The table in shared memory: indices differ from lane to lane, and up to 32 values lie in banks of
   their own. */
template <bool BF16> __device__ __forceinline__ void put_table(const unpack_args &a, float *table)
{
    for (int i = (int)threadIdx.x; i < 1 << a.bits; i += THREADS)
        table[i] = value_of<BF16>(a.table[i]);
    __syncthreads();
}

__device__ __forceinline__ float half_of(uint32_t pair, int h)
{
    const __half2 p = *(const __half2 *)&pair;
    return h ? __high2float(p) : __low2float(p);
}

/* Field i of step j: a pair of codes, low code first. */
template <int B> __device__ __forceinline__ unsigned field(const uint32_t *w, int j, int i)
{
    if (B == 4)
        return w[j] >> 8 * i & 0xffu;
    if (B == 2) {
        const int nibble = 4 * (j & 1) + (i >> 1) + 2 * (i & 1);
        return w[j >> 1] >> 4 * nibble & 0xfu;
    }
    if (B == 3) {
        const uint32_t *h = w + 3 * (j >> 2);
        if ((j & 3) < 3)
            return h[j & 3] >> 8 * i & 0x3fu;
        const int top = 8 * i + 6;
        return (h[0] >> top & 3u) | (h[1] >> top & 3u) << 2 | (h[2] >> top & 3u) << 4;
    }
    return w[2 * j + (i >> 1)] >> 16 * (i & 1) & 0xffffu;
}

template <int B> __device__ __forceinline__ void load_words(uint32_t *w, const char *brick, int lane)
{
#pragma unroll
    for (int v = 0; v < (2 * B + 3) / 4; v++) {
        if (B == 3 && v == 1) {
            const uint2 q = *(const uint2 *)(brick + 512 + lane * 8);
            w[4] = q.x;
            w[5] = q.y;
        } else {
            const uint4 q = *(const uint4 *)(brick + v * 512 + lane * 16);
            w[4 * v] = q.x;
            w[4 * v + 1] = q.y;
            w[4 * v + 2] = q.z;
            w[4 * v + 3] = q.w;
        }
    }
}

template <int B, bool BF16> __global__ void __launch_bounds__(THREADS) unpack(const __grid_constant__ unpack_args a)
{
    __shared__ float table[256];
    const int64_t at = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    put_table<BF16>(a, table);
    if (at >= a.bricks)
        return;
    const int64_t strip = a.first_row / 16 + at / a.n_bricks;
    const int brick = (int)(at % a.n_bricks), lane = (int)threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const int64_t entry = (strip * a.n_entries + brick / a.bricks_per_entry) * 8 * a.parts + g * a.parts;
    uint32_t w[B == 3 ? 6 : 2 * B];
    load_words<B>(w, (const char *)a.words + (strip * a.n_bricks + brick) * (256 * B), lane);
#pragma unroll
    for (int p = 0; p < 4; p++) {
        const int q = p * a.parts >> 2, col = brick * 128 + p * 32 + t * 8;
        const uint32_t scales = a.scales[entry + q], zeros = a.zeros ? a.zeros[entry + q] : 0;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int64_t row = strip * 16 + g + 8 * h;
            const float scale = half_of(scales, h), zero = half_of(zeros, h);
            unsigned out[4];
#pragma unroll
            for (int c = 0; c < 4; c++) { /* columns 2 c and 2 c + 1 of the eight */
                const unsigned f = field<B>(w, 2 * p + (c >> 1), h + 2 * (c & 1));
                const float v0 = table[f & ((1u << B) - 1)], v1 = table[f >> B];
                out[c] = rounded<BF16>(scale * (v0 - zero)) | rounded<BF16>(scale * (v1 - zero)) << 16;
            }
            if (row < a.end_row && col < a.k) /* k is a multiple of 8 */
                *(uint4 *)(a.out + (row - a.first_row) * a.k + col) = make_uint4(out[0], out[1], out[2], out[3]);
        }
    }
}

/* Canonical codes, eight weights a thread. */
template <bool BF16> __global__ void unpack_canonical(const __grid_constant__ unpack_args a)
{
    __shared__ float table[256];
    const int64_t id = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * 8;
    const int64_t row = a.first_row + id / a.k, col = id % a.k, groups = a.k / a.group_size;
    put_table<BF16>(a, table);
    if (row >= a.end_row)
        return;
    const uint8_t *codes = (const uint8_t *)a.words + row * a.row_bytes;
    unsigned out[4] = {};
#pragma unroll
    for (int e = 0; e < 8; e++) {
        const int64_t bit = (col + e) * a.bits, at = row * groups + (col + e) / a.group_size;
        const unsigned shift = (unsigned)(bit & 7);
        unsigned v = codes[bit >> 3];
        if (shift + a.bits > 8)
            v |= (unsigned)codes[(bit >> 3) + 1] << 8;
        const float value = table[v >> shift & ((1u << a.bits) - 1)];
        const float zero = a.zeros ? value_of<false>(((const uint16_t *)a.zeros)[at]) : 0;
        out[e >> 1] |= rounded<BF16>(value_of<false>(((const uint16_t *)a.scales)[at]) * (value - zero)) << 16 * (e & 1);
    }
    *(uint4 *)(a.out + id) = make_uint4(out[0], out[1], out[2], out[3]);
}

typedef void kernel(unpack_args);

/* By bits a code takes (2, 3, 4, 8), then activation type. */
kernel *const kernels[4][2] = {{unpack<2, false>, unpack<2, true>},
                               {unpack<3, false>, unpack<3, true>},
                               {unpack<4, false>, unpack<4, true>},
                               {unpack<8, false>, unpack<8, true>}};

} // namespace

int lu_cuda_lut_unpack(const lu_cuda_lut *w, int64_t first_row, int64_t rows, uint16_t *out, void *stream)
{
    const lut_shape s = lut_make_shape(w->n, w->k, w->bits, w->group_size);
    if (first_row < 0 || first_row % 16 || rows < 0 || first_row > w->n - rows || w->k % 8 || (uintptr_t)out % 16 ||
        s.n_bricks > INT32_MAX)
        return LU_CUDA_E_SHAPE;
    if (rows == 0)
        return 0;
    unpack_args a = {};
    a.words = w->words;
    a.scales = (const uint32_t *)w->scales;
    a.zeros = (const uint32_t *)w->zeros;
    a.out = out;
    a.first_row = first_row;
    a.end_row = first_row + rows;
    a.k = w->k;
    a.bricks = (rows + 15) / 16 * s.n_bricks;
    a.n_bricks = (int)s.n_bricks;
    a.n_entries = (int)s.n_entries;
    a.bricks_per_entry = (int)s.bricks_per_entry;
    a.parts = s.parts;
    a.bits = w->bits;
    a.group_size = w->group_size;
    a.row_bytes = (w->k * w->bits + 7) / 8;
    for (int i = 0; i < 1 << w->bits; i++)
        a.table[i] = w->table[i];
    const int bf16 = w->bf16 != 0, slot = s.slot_bits == 8 ? 3 : s.slot_bits - 2;
    const int64_t blocks = s.parts ? (a.bricks + WARPS - 1) / WARPS : (rows * w->k / 8 + THREADS - 1) / (THREADS);
    if (blocks > INT32_MAX)
        return LU_CUDA_E_SHAPE;
    kernel *const run = s.parts ? kernels[slot][bf16] : bf16 ? unpack_canonical<true> : unpack_canonical<false>;
    run<<<(unsigned)blocks, THREADS, 0, (cudaStream_t)stream>>>(a);
    return (int)cudaGetLastError();
}

/* Sums of the layers of an 8B block on an H200: unpacking takes about 160 us whatever the tokens, the
   dense product 1 to 0.9 of the packed one (of codes of a byte, less). Chips without wgmma's kernel go 32 tokens
   at a time, and groups that cannot be packed one at a time. */
int64_t lu_cuda_lut_dense_from(const lu_cuda_device *dev, const lu_cuda_lut *w)
{
    const lut_shape s = lut_make_shape(w->n, w->k, w->bits, w->group_size);
    if (w->k % 8)
        return INT64_MAX;
    if (!s.parts)
        return 8;
    if (dev->capability != 90)
        return 128;
    return s.slot_bits == 8 ? 1024 : 4096;
}
