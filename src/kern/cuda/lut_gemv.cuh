/* lut_gemv.cuh - the small-M kernel: weights stream once from memory, activations stay put.

   One block per SM owns a range of strips (16 rows, all of K), so no sum crosses blocks. Its warps
   form n_wk columns x n_ws rows: warp (wk, ws) takes bricks wk, wk + n_wk, ... of strips ws,
   ws + n_ws, ...; brick outer, strip inner, so the activations of a brick are fetched once and stay
   in registers. A unit is one brick: its codes arrive in registers several units ahead, become
   weights through a pair table that every bank holds a copy of (one byte permute makes the address,
   one conflict-free load the pair), and feed mma.m16n8k16 as the 16-row operand (tokens are n = 8).
   Sums are float32, scaled once per group, and kept per (strip, wk) in shared memory, each slot
   owned by one lane; at the end of a pass over the strips they are added over wk in order. That
   order depends on the shape only, so results repeat bit by bit.
   Weights do not depend on the kernel ahead: they are fetched before griddepcontrol.wait, all else
   is touched after it. */
#ifndef LU_KERN_CUDA_LUT_GEMV_CUH
#define LU_KERN_CUDA_LUT_GEMV_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kern/cuda/lut_layout.cuh"

/* The table fills the shared-memory addresses 64 K to 128 K, so that an address is bytes (0, 1,
   code, lane) and needs no addition. Sums lie below and above it. */
#define LUT_TABLE_AT 0x10000
#define LUT_TABLE_BYTES 0x10000
#define LUT_BELOW_BYTES (63 * 1024) /* the system keeps the first KB */

/* Tokens of one launch; fewer where zero points or odd rows of x take registers. */
#define LUT_TOKENS 32
#define LUT_GENERAL_TOKENS 16

/* Most warps of a block and units in flight per warp: what the register file allows. */
template <int B, int NT> struct lut_plan {
    static const int warps = NT <= 2 ? 16 : 12;
    static const bool fetch_x_ahead = NT == 1;
    static const int slots = B == 8 ? 2 : B == 4 ? (NT < 4 ? 4 : 3) : B == 3 ? 5 : 6; /* at most 8 */
};

struct lut_gemv_args {
    const uint32_t *words, *scales, *zeros; /* lut_layout.cuh; scales in pairs */
    const uint16_t *x;
    uint16_t *y;
    const uint16_t *bias;
    int64_t ldx, ldy;
    int n, k, m;
    int n_strips, n_bricks, n_entries, bricks_per_entry;
    int n_wk, n_ws;
    int pass_strips; /* multiple of n_ws: what the sums' shared memory holds */
    int token_pairs; /* per 8 tokens: lanes with t below this hold wanted sums */
    int strips_below; /* of a pass: their sums lie below the table, the others' above */
    int x_vector;    /* rows of x start on 16 bytes and k % 8 == 0 */
    uint16_t table[256];
};

template <int B, int PARTS, bool GENERAL> struct lut_unit {
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

/* Entries lie 256 bytes apart, so an address is (code byte, lane byte). Two bits: four codes, 8
   bytes an entry, 32 copies. Else: two codes, 4 bytes, 32 copies and a gap; at three bits the two
   bits above the pair are someone else's and the entry repeats. */
template <int B> static __device__ __forceinline__ void build_table(char *table, const uint16_t *t)
{
    const int vectors = B == 2 ? 16 : 8;
    for (int i = (int)threadIdx.x; i < 256 * vectors; i += (int)blockDim.x) {
        const int e = i / vectors;
        unsigned lo, hi;
        if (B == 8) {
            lo = hi = t[e];
        } else if (B == 2) {
            lo = t[e & 3] | (unsigned)t[e >> 2 & 3] << 16;
            hi = t[e >> 4 & 3] | (unsigned)t[e >> 6] << 16;
        } else {
            lo = hi = t[e & ((1 << B) - 1)] | (unsigned)t[e >> B & ((1 << B) - 1)] << 16;
        }
        *(uint4 *)(table + e * 256 + i % vectors * 16) = make_uint4(lo, hi, lo, hi);
    }
}

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

static __device__ __forceinline__ uint2 look_up2(unsigned at)
{
    uint2 v;
    asm("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(at));
    return v;
}

/* The four A registers of step j. */
template <int B>
static __device__ __forceinline__ void decode(const uint32_t *w, int j, unsigned lane_at, unsigned a[4])
{
    if (B == 2) {
        const uint2 q0 = look_up2(entry_at<B>(w[j >> 1], 2 * (j & 1), lane_at));
        const uint2 q1 = look_up2(entry_at<B>(w[j >> 1], 2 * (j & 1) + 1, lane_at));
        a[0] = q0.x;
        a[2] = q0.y;
        a[1] = q1.x;
        a[3] = q1.y;
    } else if (B == 8) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const unsigned v = w[2 * j + (i >> 1)];
            const unsigned lo = look_up(entry_at<B>(v, 2 * (i & 1), lane_at));
            const unsigned hi = look_up(entry_at<B>(v, 2 * (i & 1) + 1, lane_at));
            a[i] = __byte_perm(lo, hi, 0x5410);
        }
    } else {
        unsigned v = 0;
        if (B == 4) {
            v = w[j];
        } else {
            const uint32_t *h = w + 3 * (j >> 2);
            v = (j & 3) < 3 ? h[j & 3]
                            : (h[0] >> 6 & 0x03030303u) | (h[1] >> 4 & 0x0c0c0c0cu) | (h[2] >> 2 & 0x30303030u);
        }
#pragma unroll
        for (int i = 0; i < 4; i++)
            a[i] = look_up(entry_at<B>(v, i, lane_at));
    }
}

/* Starts the loads of a unit's codes and scales. The pointers are this lane's, at strip 0, brick 0. */
template <int B, int PARTS, bool GENERAL>
static __device__ __forceinline__ void load_unit(lut_unit<B, PARTS, GENERAL> &u, const char *words, const char *tail,
                                                 const char *scales, int64_t zeros, int brick, int entry)
{
    const char *w = words + (int64_t)brick * (256 * B);
    load_words(u.w, w, 4);
    if (B == 3)
        load_words(u.w + 4, tail + (int64_t)brick * (256 * B), 2);
#pragma unroll
    for (int v = 1; v < B / 2; v++)
        load_words(u.w + 4 * v, w + v * 512, 4);
    const char *s = scales + (int64_t)entry * (32 * PARTS);
    load_words(u.s, s, PARTS);
    if (GENERAL && zeros)
        load_words(u.z, s + zeros, PARTS);
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

/* Chains of dependent MMAs per unit: at least two, and one per scale. */
template <int PARTS> struct lut_chains {
    static const int value = PARTS < 2 ? 2 : PARTS;
};

/* Unscaled sums of a unit, one per chain of steps. */
template <int B, int NT, int PARTS, bool BF16>
static __device__ __forceinline__ void multiply_unit(const uint32_t w[2 * B], const uint4 x[NT][4], unsigned lane_at,
                                                     float c[lut_chains<PARTS>::value][NT][4])
{
    const int chains = lut_chains<PARTS>::value, steps = 8 / chains;
#pragma unroll
    for (int q = 0; q < chains; q++)
#pragma unroll
        for (int t = 0; t < NT; t++)
            c[q][t][0] = c[q][t][1] = c[q][t][2] = c[q][t][3] = 0;
#pragma unroll
    for (int jj = 0; jj < steps; jj++)
#pragma unroll
        for (int q = 0; q < chains; q++) {
            const int j = q * steps + jj;
            unsigned rows[4];
            decode<B>(w, j, lane_at, rows);
#pragma unroll
            for (int t = 0; t < NT; t++)
                mma16816<BF16>(c[q][t], rows, x_word(x[t][j >> 1], 2 * (j & 1)), x_word(x[t][j >> 1], 2 * (j & 1) + 1));
        }
}

/* s, z: of rows g and g + 8, for each part. */
template <int NT, int PARTS, bool GENERAL>
static __device__ __forceinline__ void scale_unit(const float c[lut_chains<PARTS>::value][NT][4], const float s[PARTS][2],
                                                  const float z[PARTS][2], const float sums[NT][PARTS][2], float out[NT][4])
{
#pragma unroll
    for (int q = 0; q < PARTS; q++)
#pragma unroll
        for (int e = 0; e < 4; e++)
#pragma unroll
            for (int t = 0; t < NT; t++) {
                float v = PARTS == 1 ? c[0][t][e] + c[lut_chains<PARTS>::value - 1][t][e] : c[q][t][e];
                if (GENERAL)
                    v = fmaf(-z[q][e >> 1], sums[t][q][e & 1], v);
                out[t][e] = q == 0 ? s[q][e >> 1] * v : fmaf(s[q][e >> 1], v, out[t][e]);
            }
}

template <bool BF16> static __device__ __forceinline__ void store_y(const lut_gemv_args &a, int row, int token, float v)
{
    if (row >= a.n || token >= a.m)
        return;
    if (BF16) {
        if (a.bias)
            v += __bfloat162float(*(const __nv_bfloat16 *)(a.bias + row));
        *(__nv_bfloat16 *)(a.y + token * a.ldy + row) = __float2bfloat16_rn(v);
    } else {
        if (a.bias)
            v += __half2float(*(const __half *)(a.bias + row));
        *(__half *)(a.y + token * a.ldy + row) = __float2half_rn(v);
    }
}

/* Shared-memory address of the sums of strip `strip` of a pass. */
static __device__ __forceinline__ unsigned sums_at(const lut_gemv_args &a, unsigned below, int strip, int strip_bytes)
{
    return strip < a.strips_below ? below + strip * strip_bytes
                                  : LUT_TABLE_AT + LUT_TABLE_BYTES + (strip - a.strips_below) * strip_bytes;
}

static __device__ __forceinline__ float4 read_sum(unsigned at)
{
    float4 v;
    asm volatile("ld.shared.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(at));
    return v;
}

static __device__ __forceinline__ float4 add4(float4 a, float4 b)
{
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

/* Adds the sums of `strips` strips from `first` on over wk, in order, and stores them. */
template <int NT, bool BF16>
static __device__ __forceinline__ void finish_pass(const lut_gemv_args &a, unsigned below, int first, int strips)
{
    const int pairs = a.token_pairs, per_sum = NT * 8 * pairs;
    __syncthreads();
    for (int i = (int)threadIdx.x; i < strips * per_sum; i += (int)blockDim.x) {
        const int strip = i / per_sum, slot = i % per_sum;
        const unsigned from = sums_at(a, below, strip, a.n_wk * per_sum * 16) + slot * 16;
        float4 v = read_sum(from);
#pragma unroll 4
        for (int w = 1; w < a.n_wk; w++)
            v = add4(v, read_sum(from + w * per_sum * 16));
        const int row = (first + strip) * 16 + slot / pairs % 8;
        const int token = slot / (8 * pairs) * 8 + slot % pairs * 2;
        store_y<BF16>(a, row, token, v.x);
        store_y<BF16>(a, row, token + 1, v.y);
        store_y<BF16>(a, row + 8, token, v.z);
        store_y<BF16>(a, row + 8, token + 1, v.w);
    }
    __syncthreads();
}

/* Adds a unit's sums to this lane's slots, `step` bytes apart; the first brick's are only stored. */
template <int NT>
static __device__ __forceinline__ void add_sums(unsigned at, int step, const float out[NT][4], bool only_store)
{
#pragma unroll
    for (int t = 0; t < NT; t++) {
        float4 v = make_float4(out[t][0], out[t][1], out[t][2], out[t][3]);
        if (!only_store)
            v = add4(v, read_sum(at + t * step));
        asm volatile("st.shared.v4.f32 [%0], {%1,%2,%3,%4};" ::"r"(at + t * step), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w));
    }
}

template <int B, int NT, bool BF16, int PARTS, bool GENERAL>
static __global__ void __launch_bounds__(lut_plan<B, NT>::warps * 32, 1) lut_gemv(const __grid_constant__ lut_gemv_args a)
{
    const int slots = lut_plan<B, NT>::slots;
    extern __shared__ char shared[];
    unsigned below = (unsigned)__cvta_generic_to_shared(shared);
    const int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5;
    const int wk = warp % a.n_wk, ws = warp / a.n_wk;
    unsigned lane_at = lane * (B == 2 ? 8 : 4) | LUT_TABLE_AT >> 8;
    const int begin = (int)((int64_t)blockIdx.x * a.n_strips / gridDim.x);
    const int end = (int)((int64_t)(blockIdx.x + 1) * a.n_strips / gridDim.x);
    const int my_bricks = (a.n_bricks - wk + a.n_wk - 1) / a.n_wk;
    const int per_sum = NT * 8 * a.token_pairs;
    const unsigned mine = (wk * per_sum + (lane >> 2) * a.token_pairs + (lane & 3)) * 16;
    const char *words = (const char *)a.words + lane * 16;
    const char *tail = (const char *)a.words + 512 + lane * 8; /* three bits: the short vector */
    const char *scales = (const char *)a.scales + (lane >> 2) * (4 * PARTS);
    const int64_t zeros = GENERAL && a.zeros ? (const char *)a.zeros - (const char *)a.scales : 0;

    asm volatile("" : "+r"(below), "+l"(words), "+l"(tail), "+l"(scales)); /* kept, not computed again and again */

#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
    lut_unit<B, PARTS, GENERAL> unit[slots];
    int first = begin, strips = min(a.pass_strips, end - begin);
    int rounds = (strips + a.n_ws - 1) / a.n_ws, left = rounds * my_bricks; /* units to load */
    int next_strip = first + ws, next_brick = wk, next_entry = wk / a.bricks_per_entry, next_end = first + rounds * a.n_ws;

    /* a warp without a strip in the last round works on the last strip; nobody reads its sums */
#define LUT_LOAD(slot)                                                                             \
    if (left > 0) {                                                                                \
        const int strip = min(next_strip, end - 1);                                                \
        load_unit<B, PARTS, GENERAL>(unit[slot], words, tail, scales, zeros,                       \
                                     strip * a.n_bricks + next_brick, strip * a.n_entries + next_entry); \
        left--;                                                                                    \
        next_strip += a.n_ws;                                                                      \
        if (next_strip >= next_end) {                                                              \
            next_strip = first + ws;                                                               \
            next_brick += a.n_wk;                                                                  \
            next_entry = a.bricks_per_entry == 1 ? next_brick : next_brick / a.bricks_per_entry;   \
        }                                                                                          \
    }
#pragma unroll
    for (int slot = 0; slot < slots; slot++) {
        LUT_LOAD(slot)
    }
    build_table<B>(shared + (LUT_TABLE_AT - (int)__cvta_generic_to_shared(shared)), a.table);
    __syncthreads();
    asm volatile("" : "+r"(lane_at)::"memory"); /* no look-up moves ahead of the barrier */
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    uint4 x[NT][4], x_next[NT][4];
    float sums[NT][PARTS][2];
    for (;;) {
        int slot = 0;
        if (lut_plan<B, NT>::fetch_x_ahead)
            load_x<NT, GENERAL>(a, x_next, wk, lane);
        for (int brick = wk; brick < a.n_bricks; brick += a.n_wk) {
            if (lut_plan<B, NT>::fetch_x_ahead) {
#pragma unroll
                for (int t = 0; t < NT; t++)
#pragma unroll
                    for (int p = 0; p < 4; p++)
                        x[t][p] = x_next[t][p];
                load_x<NT, GENERAL>(a, x_next, min(brick + a.n_wk, a.n_bricks - 1), lane);
            } else {
                load_x<NT, GENERAL>(a, x, brick, lane);
            }
            if (GENERAL)
                sum_x<NT, PARTS, BF16>(x, sums);
            int strip = ws;
            const int strip_end = rounds * a.n_ws;
#define LUT_UNIT(at)                                                                               \
    if (at < slots) {                                                                              \
        const int s = at < slots ? at : 0;                                                         \
        float c[lut_chains<PARTS>::value][NT][4], out[NT][4];                                      \
        float scale[PARTS][2], zero[PARTS][2];                                                     \
        for (int q = 0; q < PARTS; q++)                                                            \
            for (int h = 0; h < 2; h++) {                                                          \
                scale[q][h] = half_of(unit[s].s[q], h);                                            \
                zero[q][h] = GENERAL && zeros ? half_of(unit[s].z[GENERAL ? q : 0], h) : 0;        \
            }                                                                                      \
        multiply_unit<B, NT, PARTS, BF16>(unit[s].w, x, lane_at, c);                               \
        LUT_LOAD(s)                                                                                \
        scale_unit<NT, PARTS, GENERAL>(c, scale, zero, sums, out);                                 \
        if ((lane & 3) < a.token_pairs)                                                            \
            add_sums<NT>(sums_at(a, below, strip, a.n_wk * per_sum * 16) + mine, a.token_pairs * 128, out, brick == wk); \
        strip += a.n_ws;                                                                           \
        if (strip >= strip_end) {                                                                  \
            slot = s + 1 == slots ? 0 : s + 1;                                                     \
            break;                                                                                 \
        }                                                                                          \
    }
            for (;;) { /* slots rotate, and carry on from brick to brick */
                switch (slot) {
                case 0: LUT_UNIT(0)
                case 1: LUT_UNIT(1)
                case 2: LUT_UNIT(2)
                case 3: LUT_UNIT(3)
                case 4: LUT_UNIT(4)
                case 5: LUT_UNIT(5)
                case 6: LUT_UNIT(6)
                default: LUT_UNIT(7)
                    slot = 0;
                }
                if (strip >= strip_end)
                    break;
                slot = 0;
            }
#undef LUT_UNIT
        }
        const int done_first = first, done_strips = strips;
        first += strips;
        if (first < end) { /* the next pass's weights are on their way while this one's sums are added */
            strips = min(a.pass_strips, end - first);
            rounds = (strips + a.n_ws - 1) / a.n_ws;
            left = rounds * my_bricks;
            next_strip = first + ws;
            next_end = first + rounds * a.n_ws;
            next_brick = wk;
            next_entry = wk / a.bricks_per_entry;
#pragma unroll
            for (int i = 0; i < slots; i++) {
                LUT_LOAD(i)
            }
        }
        finish_pass<NT, BF16>(a, below, done_first, done_strips);
        if (first >= end)
            break;
    }
#undef LUT_LOAD
}

template <int B, int NT, bool BF16, int PARTS, bool GENERAL>
static int lut_gemv_start(const lut_gemv_args &a, const cudaLaunchConfig_t *config)
{
    const cudaError_t e = cudaFuncSetAttribute(lut_gemv<B, NT, BF16, PARTS, GENERAL>,
                                               cudaFuncAttributeMaxDynamicSharedMemorySize,
                                               (int)config->dynamicSmemBytes);
    if (e != cudaSuccess)
        return (int)e;
    return (int)cudaLaunchKernelEx(config, lut_gemv<B, NT, BF16, PARTS, GENERAL>, a);
}

template <int B, bool BF16, int NT>
static int lut_gemv_pick(const lut_gemv_args &a, int parts, int general, const cudaLaunchConfig_t *config)
{
    if (parts == 1 && !general)
        return lut_gemv_start<B, NT, BF16, 1, false>(a, config);
#ifndef LUT_QUICK
    if (parts == 2 && !general)
        return lut_gemv_start<B, NT, BF16, 2, false>(a, config);
    if (NT <= LUT_GENERAL_TOKENS / 8) {
        const int at_most = NT <= LUT_GENERAL_TOKENS / 8 ? NT : 1;
        return parts == 1   ? lut_gemv_start<B, at_most, BF16, 1, true>(a, config)
               : parts == 2 ? lut_gemv_start<B, at_most, BF16, 2, true>(a, config)
                            : lut_gemv_start<B, at_most, BF16, 4, true>(a, config);
    }
#endif
    return (int)cudaErrorNotSupported;
}

/* Launches the kernel for nt (1, 2 or 4) blocks of 8 tokens. One source file per B and type
   instantiates it. general: zero points, groups of 32, or rows of x that are not vectors. */
template <int B, bool BF16>
int lut_gemv_launch(const lut_gemv_args &a, int nt, int parts, int general, const cudaLaunchConfig_t *config)
{
    return nt == 1   ? lut_gemv_pick<B, BF16, 1>(a, parts, general, config)
           : nt == 2 ? lut_gemv_pick<B, BF16, 2>(a, parts, general, config)
                     : lut_gemv_pick<B, BF16, 4>(a, parts, general, config);
}

#endif
