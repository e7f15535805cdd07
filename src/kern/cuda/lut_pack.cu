/* lut_pack.cu - canonical codes and scales to the layout of lut_layout.cuh, on the device.
   One thread makes one word; reads are scattered, writes are not. */
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kern/cuda/lut_decode.h"
#include "kern/cuda/lut_layout.cuh"
#include "kern/cuda/lut_matmul.h"

namespace {

__device__ unsigned code_at(const uint8_t *row, int64_t k, int bits)
{
    const int64_t bit = k * bits;
    const unsigned shift = (unsigned)(bit & 7);
    unsigned v = row[bit >> 3];
    if (shift + bits > 8)
        v |= (unsigned)row[(bit >> 3) + 1] << 8;
    return (v >> shift) & ((1u << bits) - 1);
}

struct pack_args {
    int64_t n, k, row_bytes, n_bricks;
    int bits, slot_bits; /* slot_bits: 2, 3, 4 or 8 */
    const uint8_t *codes;
    uint32_t *words;
    int64_t total;
};

/* Pair field i of step j of a lane's part of a brick. */
__device__ unsigned pair_field(const pack_args &a, int64_t strip, int64_t brick, int lane, int j, int i)
{
    const int g = lane >> 2, t = lane & 3;
    const int64_t row = strip * 16 + g + 8 * (i & 1);
    const int64_t col = brick * 128 + (j >> 1) * 32 + t * 8 + (j & 1) * 4 + 2 * (i >> 1);
    if (row >= a.n)
        return 0;
    const uint8_t *codes = a.codes + row * a.row_bytes;
    const unsigned lo = col < a.k ? code_at(codes, col, a.bits) : 0;
    const unsigned hi = col + 1 < a.k ? code_at(codes, col + 1, a.bits) : 0;
    return lo | hi << a.slot_bits;
}

__global__ void pack_words(pack_args a)
{
    const int64_t id = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (id >= a.total)
        return;
    const int b = a.slot_bits, at = (int)(id % (64 * b));
    const int64_t brick = id / (64 * b) % a.n_bricks, strip = id / (64 * b) / a.n_bricks;
    int lane = at >> 2 & 31, w = (at >> 7) * 4 + (at & 3);
    if (b == 3 && at >= 128) { /* the second vector has two words */
        lane = (at - 128) >> 1;
        w = 4 + (at & 1);
    }
    unsigned out = 0;
    if (b == 4) {
        for (int i = 0; i < 4; i++)
            out |= pair_field(a, strip, brick, lane, w, i) << (8 * i);
    } else if (b == 3) {
        const int h = w / 3, q = w % 3;
        for (int i = 0; i < 4; i++) {
            const unsigned split = pair_field(a, strip, brick, lane, 4 * h + 3, i) >> (2 * q) & 3u;
            out |= (pair_field(a, strip, brick, lane, 4 * h + q, i) | split << 6) << (8 * i);
        }
    } else if (b == 2) {
        for (int i = 0; i < 8; i++) /* nibble i: step 2 w + i / 4 */
            out |= pair_field(a, strip, brick, lane, w * 2 + i / 4, (i >> 1 & 1) + 2 * (i & 1)) << (4 * i);
    } else {
        for (int i = 0; i < 2; i++)
            out |= pair_field(a, strip, brick, lane, w / 2, 2 * (w & 1) + i) << (16 * i);
    }
    a.words[id] = out;
}

struct scale_args {
    int64_t n, groups_in, group_size, n_entries, bricks_per_entry;
    int parts;
    const uint16_t *scales;
    const uint8_t *zeros;
    uint16_t *out;
    uint16_t table[256]; /* fp16 bits, for zeros */
    int64_t total;
};

/* parts == 0: keeps the canonical order. */
__global__ void pack_scales(const __grid_constant__ scale_args a)
{
    const int64_t id = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (id >= a.total)
        return;
    int64_t from = id;
    if (a.parts) {
        const int h = (int)(id & 1);
        int64_t rest = id >> 1;
        const int q = (int)(rest % a.parts), g = (int)(rest / a.parts & 7);
        rest = rest / a.parts >> 3;
        const int64_t entry = rest % a.n_entries, row = rest / a.n_entries * 16 + g + 8 * h;
        const int64_t group = (entry * a.bricks_per_entry * 128 + q * (128 / a.parts)) / a.group_size;
        if (row >= a.n) {
            a.out[id] = 0;
            return;
        }
        from = row * a.groups_in + (group < a.groups_in ? group : a.groups_in - 1);
    }
    a.out[id] = a.zeros ? a.table[a.zeros[from]] : a.scales[from];
}

} // namespace

int lu_cuda_lut_set_way(lu_cuda_lut *w, lu_cuda_way way)
{
    lu_cuda_decoder d;
    if (!lut_prepare(way, w->bits, w->bf16, w->table, &d))
        return LU_CUDA_E_SHAPE;
    w->way = way;
    w->decoder = d;
    return 0;
}

size_t lu_cuda_lut_bytes(int64_t n, int64_t k, int bits, int64_t group_size, int has_zeros)
{
    if (n < 1 || k < 1 || bits < 2 || bits > 8 || group_size < 1 || k % group_size)
        return 0;
    const lut_shape s = lut_make_shape(n, k, bits, group_size);
    return s.word_bytes + s.scale_bytes * (has_zeros ? 2 : 1);
}

int lu_cuda_lut_pack(int64_t n, int64_t k, int bits, int64_t group_size, const uint8_t *codes,
                     const uint16_t *scales, const uint8_t *zeros, const float *table, int bf16,
                     void *block, lu_cuda_lut *out, void *stream)
{
    if (n < 1 || k < 1 || bits < 2 || bits > 8 || group_size < 1 || k % group_size || n >= 1 << 30 || k >= 1 << 30)
        return LU_CUDA_E_SHAPE;
    const lut_shape s = lut_make_shape(n, k, bits, group_size);
    cudaStream_t st = (cudaStream_t)stream;
    lu_cuda_lut w = {};
    w.n = n;
    w.k = k;
    w.bits = bits;
    w.group_size = group_size;
    w.has_zeros = zeros != NULL;
    w.bf16 = bf16;
    w.words = (uint32_t *)block;
    w.scales = (uint16_t *)((char *)block + s.word_bytes);
    w.zeros = zeros ? (uint16_t *)((char *)block + s.word_bytes + s.scale_bytes) : NULL;
    scale_args sa = {};
    for (int i = 0; i < 1 << bits; i++) {
        const __half h = __float2half_rn(table[i]);
        const __nv_bfloat16 b = __float2bfloat16_rn(table[i]);
        sa.table[i] = *(const uint16_t *)&h;
        w.table[i] = bf16 ? *(const uint16_t *)&b : *(const uint16_t *)&h;
    }
    const int64_t row_bytes = (k * bits + 7) / 8;
    if (s.parts) {
        const pack_args pa = {n, k, row_bytes, s.n_bricks, bits, s.slot_bits, codes, w.words,
                              (int64_t)(s.word_bytes / 4)};
        pack_words<<<(unsigned)((pa.total + 255) / 256), 256, 0, st>>>(pa);
    } else {
        const cudaError_t e = cudaMemcpyAsync(w.words, codes, (size_t)(n * row_bytes), cudaMemcpyDeviceToDevice, st);
        if (e != cudaSuccess)
            return (int)e;
    }
    sa.n = n;
    sa.groups_in = k / group_size;
    sa.group_size = group_size;
    sa.n_entries = s.n_entries;
    sa.bricks_per_entry = s.bricks_per_entry;
    sa.parts = s.parts;
    sa.scales = scales;
    sa.out = w.scales;
    sa.total = s.parts ? s.n_strips * s.n_entries * 16 * s.parts : n * sa.groups_in;
    pack_scales<<<(unsigned)((sa.total + 255) / 256), 256, 0, st>>>(sa);
    if (zeros) {
        sa.zeros = zeros;
        sa.out = w.zeros;
        pack_scales<<<(unsigned)((sa.total + 255) / 256), 256, 0, st>>>(sa);
    }
    if (lu_cuda_lut_set_way(&w, LU_CUDA_ARITHMETIC))
        lu_cuda_lut_set_way(&w, LU_CUDA_TABLE);
    *out = w;
    return (int)cudaGetLastError();
}
