/* lut_pack.cu - canonical codes and scales to the layout lut_gemv.cu reads.

   Stage = 64 rows x 64 columns. Row tile r (0..3) is 16 rows: the A operand of four
   mma.m16n8k16 steps j. Lane (g = lane / 4, t = lane % 4) holds, of row tile r, the pairs
   p = 4 j + i:  row g + 8 (i & 1),  columns 16 t + 4 j + 2 (i >> 1) + {0, 1}
   so that the activations a lane needs for a stage are 16 consecutive columns. A pair is a field of
   2 b bits, low code first. Fields of a row tile fill b words per lane:
     b = 4   word j: field i at bit 8 i
     b = 3   field p < 15: word p % 3, bit 6 (p / 3); field 15: bits 30, 31 of words 0, 1, 2
     b = 2   word j / 2, byte 2 (j & 1) + h: fields h and h + 2 in its low and high nibble
     b = 8   (5..8 bit codes): 16 bits a field, words 2 j' hold fields 0,1 and 2,3
   Words of a stage: [4 b / 4 vectors][lane][4], lane's word index w = r b + word.
   Scales of a stage's group: [g][r][2] = rows 16 r + g and 16 r + g + 8. */
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "lut_layout.cuh"
#include "lut_matmul.h"

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
    int64_t n, k, row_bytes, n_kt;
    int bits, slot_bits; /* slot_bits: 2, 3, 4 or 8 */
    const uint8_t *codes;
    uint32_t *words;
    int64_t total;
};

__device__ unsigned pair_field(const pack_args &a, int64_t rb, int64_t kt, int r, int lane, int p)
{
    const int g = lane >> 2, t = lane & 3, j = p >> 2, i = p & 3;
    const int64_t row = rb * 64 + r * 16 + g + 8 * (i & 1);
    const int64_t col = kt * 64 + (j >> 1) * 32 + t * 8 + (j & 1) * 4 + 2 * (i >> 1);
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
    const int b = a.slot_bits;
    const int e = (int)(id & 3), lane = (int)(id >> 2 & 31);
    const int64_t vec = id >> 7;
    const int v = (int)(vec % b);
    const int64_t stage = vec / b;
    const int64_t rb = stage / a.n_kt, kt = stage % a.n_kt;
    const int w = v * 4 + e, r = w / b, word = w % b;
    unsigned out = 0;
    if (b == 4) {
        for (int i = 0; i < 4; i++)
            out |= pair_field(a, rb, kt, r, lane, word * 4 + i) << (8 * i);
    } else if (b == 3) {
        for (int q = 0; q < 5; q++)
            out |= pair_field(a, rb, kt, r, lane, q * 3 + word) << (6 * q);
        out |= (pair_field(a, rb, kt, r, lane, 15) >> (2 * word) & 3u) << 30;
    } else if (b == 2) {
        for (int i = 0; i < 8; i++) /* byte 2 jj + h: fields (h, h + 2) of step 2 word + jj */
            out |= pair_field(a, rb, kt, r, lane, (word * 2 + i / 4) * 4 + (i >> 1 & 1) + 2 * (i & 1)) << (4 * i);
    } else {
        for (int i = 0; i < 2; i++)
            out |= pair_field(a, rb, kt, r, lane, word * 2 + i) << (16 * i);
    }
    a.words[id] = out;
}

struct scale_args {
    int64_t n, groups_in, groups_out;
    int64_t repeat; /* out groups per in group */
    const uint16_t *scales;
    const uint8_t *zeros;
    uint16_t *out;
    uint16_t table[256]; /* fp16 bits, for zeros */
    int64_t total;
};

__global__ void pack_scales(const __grid_constant__ scale_args a)
{
    const int64_t id = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (id >= a.total)
        return;
    const int h = (int)(id & 1), r = (int)(id >> 1 & 3), g = (int)(id >> 3 & 7);
    const int64_t block = id >> 6;
    const int64_t rb = block / a.groups_out, kg = block % a.groups_out;
    const int64_t row = rb * 64 + r * 16 + g + 8 * h;
    uint16_t v = 0;
    if (row < a.n) {
        const int64_t at = row * a.groups_in + kg / a.repeat;
        v = a.zeros ? a.table[a.zeros[at]] : a.scales[at];
    }
    a.out[id] = v;
}

} // namespace

size_t lu_cuda_lut_bytes(int64_t n, int64_t k, int bits, int64_t group_size, int has_zeros)
{
    const lut_shape s = lut_make_shape(n, k, bits, group_size);
    return s.word_bytes + s.scale_bytes * (has_zeros ? 2 : 1);
}

int lu_cuda_lut_pack(int64_t n, int64_t k, int bits, int64_t group_size, const uint8_t *codes,
                     const uint16_t *scales, const uint8_t *zeros, const float *table, int bf16,
                     void *block, lu_cuda_lut *out, void *stream)
{
    if (n < 1 || k < 1 || bits < 2 || bits > 8 || group_size < 1 || k % group_size ||
        (group_size % 32 && group_size != k))
        return LU_CUDA_E_SHAPE;
    const lut_shape s = lut_make_shape(n, k, bits, group_size);
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
    const pack_args pa = {n, k, (k * bits + 7) / 8, s.n_kt, bits, s.slot_bits, codes, w.words,
                          (int64_t)(s.word_bytes / 4)};
    cudaStream_t st = (cudaStream_t)stream;
    pack_words<<<(unsigned)((pa.total + 255) / 256), 256, 0, st>>>(pa);
    sa.n = n;
    sa.groups_in = k / group_size;
    sa.groups_out = s.n_groups;
    sa.repeat = group_size / s.group_cols > 0 ? group_size / s.group_cols : 1;
    sa.scales = scales;
    sa.out = w.scales;
    sa.total = (int64_t)(s.scale_bytes / 2);
    pack_scales<<<(unsigned)((sa.total + 255) / 256), 256, 0, st>>>(sa);
    if (zeros) {
        sa.zeros = zeros;
        sa.out = w.zeros;
        pack_scales<<<(unsigned)((sa.total + 255) / 256), 256, 0, st>>>(sa);
    }
    *out = w;
    return (int)cudaGetLastError();
}
