/* lut_brick.cuh - what a warp does with one brick of lut_layout.cuh: start its loads, turn codes into
   weights, multiply, scale. Weights come by arithmetic (lut_decode.h) or from a table in shared
   memory: one byte permute makes a table address of a pair of codes; every bank holds its own copy
   of the table, so look-ups never conflict. */
#ifndef LU_KERN_CUDA_LUT_BRICK_CUH
#define LU_KERN_CUDA_LUT_BRICK_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kern/cuda/lut_decode.h"
#include "kern/cuda/lut_layout.cuh"

/* The table fills the shared-memory addresses 64 K to 128 K, so that an address is bytes (0, 1,
   code, lane) and needs no addition. Sums lie below and above it. */
#define LUT_TABLE_AT 0x10000
#define LUT_TABLE_BYTES 0x10000
#define LUT_BELOW_BYTES (63 * 1024) /* the system keeps the first KB */

/* Tokens of one launch; fewer where zero points or odd rows of x take registers. */
#define LUT_TOKENS 32
#define LUT_GENERAL_TOKENS 16

/* Most warps of a block, bricks per unit (side by side) and units in flight per warp: what the
   register file allows. Two bricks hide each other's latencies and share the bookkeeping. */
template <int B, int NT, int PARTS, bool GENERAL> struct lut_plan {
    static const int warps = NT <= 2 ? 16 : 12;
    static const int bricks = NT == 1 && B < 8 && !GENERAL ? 2 : 1;
    static const int slots = bricks == 2 ? (B + PARTS > 4 ? 2 : 3) : B == 8 ? 2 : 8 - B - (NT == 4);
};

/* Whether a way reads the table in shared memory. */
static constexpr __host__ __device__ bool lut_needs_table(int way)
{
    return way == LU_CUDA_TABLE;
}

/* What a block or warp would have to divide for, the host divides: a division costs a warp about 100
   clocks before its first load. */
struct lut_gemv_args {
    const uint32_t *words, *scales, *zeros; /* lut_layout.cuh; scales in pairs */
    const uint16_t *x;
    uint16_t *y;
    const uint16_t *bias;
    int64_t ldx, ldy;
    int n, k, m;
    int n_strips, n_bricks, n_entries, bricks_per_entry;
    int entry_shift; /* entry = brick >> this, or, below 0, brick / bricks_per_entry */
    int block_strips, wide_blocks; /* strips of a block; the first blocks have one more */
    int warp_chunks, wide_warps;   /* chunks of a column of warps; the first have one more */
    int n_wk, n_ws;
    unsigned by_wk, by_ws; /* v / n_wk = v by_wk >> 16, for v <= LUT_DIVIDED */
    int pass_strips; /* multiple of n_ws: what the sums' shared memory holds */
    int pairs_shift; /* per 8 tokens, lanes with t below 1 << this hold wanted sums */
    int strips_below; /* of a pass: their sums lie below the table, the others' above */
    int x_vector;    /* rows of x start on 16 bytes and k % 8 == 0 */
    lu_cuda_decoder decoder;
    uint16_t table[256];
};

template <int B, int PARTS, bool GENERAL> struct lut_brick {
    uint32_t w[2 * B];
    uint32_t s[PARTS];
    uint32_t z[GENERAL ? PARTS : 1];
};

static __device__ __forceinline__ void load_words(uint32_t *to, const void *p, int count)
{
    if (count == 4)
        asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "l"(p));
    else if (count == 2)
        asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(to[0]), "=r"(to[1]) : "l"(p));
    else
        asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(to[0]) : "l"(p));
}

template <bool BF16>
static __device__ __forceinline__ void mma16816(float c[4], const unsigned a[4], unsigned b0, unsigned b1)
{
    if (BF16)
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},"
            "{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    else
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},"
            "{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Entries lie 256 bytes apart, so an address is (code byte, lane byte): 4 bytes for each of 32 lanes,
   then, at two bits, where a byte is four codes, the pair of the upper two likewise. At three bits the
   two bits above the pair are someone else's and the entry repeats. */
template <int B>
static __device__ __forceinline__ void build_table(char *table, const uint16_t *t, int threads = (int)blockDim.x)
{
    const int vectors = B == 2 ? 16 : 8, slot = B == 8 ? 0 : B, mask = B == 8 ? 255 : (1 << B) - 1;
    for (int i = (int)threadIdx.x; i < 256 * vectors; i += threads) {
        const int e = i / vectors, pair = B == 2 && i % 16 >= 8 ? e >> 4 : e;
        const unsigned v = t[pair & mask] | (unsigned)t[pair >> slot & mask] << 16;
        *(uint4 *)(table + e * 256 + i % vectors * 16) = make_uint4(v, v, v, v);
    }
}

#define LUT_SECOND_PAIR 128 /* two bits: bytes from the lower pair of an entry to the upper */

template <int B> static __device__ __forceinline__ unsigned entry_at(unsigned v, int byte, unsigned lane_at)
{
    return __byte_perm(v, lane_at, 0x6504u | (unsigned)byte << 4);
}

static __device__ __forceinline__ unsigned look_up(unsigned at)
{
    unsigned v;
    asm("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(at));
    return v;
}

/* The four A registers of step j. */
template <int B, bool BF16, int WAY>
static __device__ __forceinline__ void decode(const uint32_t *w, int j, const lu_cuda_decoder &d, unsigned lane_at, unsigned a[4])
{
    if (WAY == LU_CUDA_ARITHMETIC) {
        lut_decode_arithmetic(B, BF16, &d, w, j, a);
    } else if (B == 2) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const unsigned at = entry_at<B>(w[j >> 1], 2 * (j & 1) + h, lane_at);
            a[h] = look_up(at);
            a[h + 2] = look_up(at + LUT_SECOND_PAIR);
        }
    } else if (B == 8) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const unsigned v = w[2 * j + (i >> 1)];
            const unsigned lo = look_up(entry_at<B>(v, 2 * (i & 1), lane_at));
            const unsigned hi = look_up(entry_at<B>(v, 2 * (i & 1) + 1, lane_at));
            a[i] = __byte_perm(lo, hi, 0x5410);
        }
    } else {
        const unsigned v = B == 4 ? w[j] : lut_word3(w, j);
#pragma unroll
        for (int i = 0; i < 4; i++)
            a[i] = look_up(entry_at<B>(v, i, lane_at));
    }
}

/* Starts the loads of a brick's codes and scales. The pointers are this lane's. */
template <int B, int PARTS, bool GENERAL>
static __device__ __forceinline__ void load_brick(lut_brick<B, PARTS, GENERAL> &u, const char *words, const char *tail,
                                                  const char *scales, int64_t zeros)
{
    load_words(u.w, words, 4);
    if (B == 3)
        load_words(u.w + 4, tail, 2);
#pragma unroll
    for (int v = 1; v < B / 2; v++)
        load_words(u.w + 4 * v, words + v * 512, 4);
    load_words(u.s, scales, PARTS);
    if (GENERAL && zeros)
        load_words(u.z, scales + zeros, PARTS);
}

/* The activations of a brick: 16 bytes of each 32 columns, for tokens 8 t + lane / 4. Sums of tokens
   past m are never stored, so lanes past m read the last token instead. */
template <int NT, bool GENERAL>
static __device__ __forceinline__ void load_x(const lut_gemv_args &a, uint4 x[NT][4], int brick, int lane)
{
    const int first = brick * 128 + (lane & 3) * 8;
    const bool whole = brick * 128 + 128 <= a.k && (!GENERAL || a.x_vector);
#pragma unroll
    for (int t = 0; t < NT; t++) {
        const uint16_t *from = a.x + min(t * 8 + (lane >> 2), a.m - 1) * a.ldx + first;
        if (whole) {
#pragma unroll
            for (int p = 0; p < 4; p++)
                x[t][p] = *(const uint4 *)(from + p * 32);
            continue;
        }
#pragma unroll
        for (int p = 0; p < 4; p++) {
            const int col = first + p * 32;
            unsigned v[8];
#pragma unroll
            for (int e = 0; e < 8; e++)
                v[e] = col + e < a.k ? from[p * 32 + e] : 0;
            x[t][p] = make_uint4(v[0] | v[1] << 16, v[2] | v[3] << 16, v[4] | v[5] << 16, v[6] | v[7] << 16);
        }
    }
}

/* Turns activations to the order of the pairs that decode makes. */
template <int B, int NT, int WAY> static __device__ __forceinline__ void turn_x(uint4 x[NT][4])
{
#pragma unroll
    for (int p = 0; p < 4 && lut_turned(B, WAY); p++)
#pragma unroll
        for (int t = 0; t < NT; t++) {
            uint32_t v[4] = {x[t][p].x, x[t][p].y, x[t][p].z, x[t][p].w};
            lut_turn_x(B, v);
            x[t][p] = make_uint4(v[0], v[1], v[2], v[3]);
        }
}

static __device__ __forceinline__ unsigned x_word(const uint4 &v, int i)
{
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

/* Sums of the activations of each part of a brick, tokens 2 t and 2 t + 1: zero points multiply them. */
template <int NT, int PARTS, bool BF16>
static __device__ __forceinline__ void sum_x(const uint4 x[NT][4], float out[NT][PARTS][2])
{
    const unsigned one = BF16 ? 0x3f803f80u : 0x3c003c00u;
    const unsigned ones[4] = {one, one, one, one};
#pragma unroll
    for (int t = 0; t < NT; t++)
#pragma unroll
        for (int q = 0; q < PARTS; q++) {
            float c[4] = {};
#pragma unroll
            for (int j = q * 8 / PARTS; j < (q + 1) * 8 / PARTS; j++)
                mma16816<BF16>(c, ones, x_word(x[t][j >> 1], 2 * (j & 1)), x_word(x[t][j >> 1], 2 * (j & 1) + 1));
            out[t][q][0] = c[0];
            out[t][q][1] = c[1];
        }
}

static __device__ __forceinline__ float half_of(uint32_t pair, int h)
{
    const __half2 p = *(const __half2 *)&pair;
    return h ? __high2float(p) : __low2float(p);
}

/* Chains of dependent MMAs per brick: one per scale, and at least two per unit. */
template <int PARTS, int BRICKS> struct lut_chains {
    static const int value = PARTS * BRICKS < 2 ? 2 : PARTS;
};

/* Unscaled sums of a unit, one per chain of steps. */
template <int B, int NT, int PARTS, int BRICKS, bool BF16, bool GENERAL, int WAY>
static __device__ __forceinline__ void multiply_unit(const lut_brick<B, PARTS, GENERAL> unit[BRICKS],
                                                     const uint4 x[BRICKS][NT][4], const lu_cuda_decoder &d, unsigned lane_at,
                                                     float c[BRICKS][lut_chains<PARTS, BRICKS>::value][NT][4])
{
    const int chains = lut_chains<PARTS, BRICKS>::value, steps = 8 / chains;
#pragma unroll
    for (int i = 0; i < BRICKS * chains * NT * 4; i++)
        (&c[0][0][0][0])[i] = 0;
#pragma unroll
    for (int jj = 0; jj < steps; jj++)
#pragma unroll
        for (int b = 0; b < BRICKS; b++)
#pragma unroll
            for (int q = 0; q < chains; q++) {
                const int j = q * steps + jj;
                unsigned rows[4];
                decode<B, BF16, WAY>(unit[b].w, j, d, lane_at, rows);
#pragma unroll
                for (int t = 0; t < NT; t++)
                    mma16816<BF16>(c[b][q][t], rows, x_word(x[b][t][j >> 1], 2 * (j & 1)),
                                   x_word(x[b][t][j >> 1], 2 * (j & 1) + 1));
            }
}

/* s, z: of rows g and g + 8, for each part. */
template <int NT, int PARTS, int BRICKS, bool GENERAL>
static __device__ __forceinline__ void scale_unit(const float c[BRICKS][lut_chains<PARTS, BRICKS>::value][NT][4],
                                                  const float s[BRICKS][PARTS][2], const float z[BRICKS][PARTS][2],
                                                  const float sums[BRICKS][NT][PARTS][2], float out[NT][4])
{
#pragma unroll
    for (int b = 0; b < BRICKS; b++)
#pragma unroll
        for (int q = 0; q < PARTS; q++)
#pragma unroll
            for (int e = 0; e < 4; e++)
#pragma unroll
                for (int t = 0; t < NT; t++) {
                    float v = c[b][q][t][e];
                    if (lut_chains<PARTS, BRICKS>::value > PARTS)
                        v += c[b][lut_chains<PARTS, BRICKS>::value - 1][t][e];
                    if (GENERAL)
                        v = fmaf(-z[b][q][e >> 1], sums[b][t][q][e & 1], v);
                    out[t][e] = b + q == 0 ? s[b][q][e >> 1] * v : fmaf(s[b][q][e >> 1], v, out[t][e]);
                }
}

#endif
