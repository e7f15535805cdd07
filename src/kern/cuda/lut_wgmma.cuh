/* lut_wgmma.cuh - the kernel for many tokens on compute capability 9.0.

   A tile is 64 C rows of W by NT tokens. C warpgroups multiply: each warp turns the codes of its strip
   of 16 rows into scaled weights in the A registers of wgmma (lut_natural.cuh); activations are the B
   operand, tokens its n, and lie in shared memory as they lie in memory (128-byte swizzle). One more
   warpgroup keeps two rings full: codes and scales a brick of 128 columns at a time, activations 64
   columns of NT tokens at a time through a tensor map, so rows and columns past the edge read as zero.
   The weights of half a brick, four steps, are decoded while the products of the half before run. Where a
   product is long the warpgroups take turns, so that one decodes while another multiplies: left
   alone they fall into step and the tensor cores wait for both.
   Tiles may be cut along K (lut_wgmma_parts.cuh).
   Everything has a fixed order, so results repeat bit by bit.
   Weights do not depend on the kernel ahead: they are fetched without griddepcontrol.wait, all else
   comes after it. */
#ifndef LU_KERN_CUDA_LUT_WGMMA_CUH
#define LU_KERN_CUDA_LUT_WGMMA_CUH

#include "kern/cuda/lut_natural.cuh"
#include "kern/cuda/lut_wgmma_fetch.cuh"

/* Registers per thread of the C multiplying warpgroups and of the one that fetches: with the number
   the launch gives all of them they fill the register file. */
template <int C> struct lut_wgmma_registers {
    static const int multiply = C == 2 ? 232 : C == 3 ? 160 : 112;
    static const int fetch = C == 2 ? 40 : 32;
};

/* A lane's B words of half a brick (4 steps). `at`: the strip's brick. */
template <int B>
static __device__ __forceinline__ void read_half(uint32_t *w, unsigned at, int half, int lane)
{
    if (B == 4)
        read_shared(w, at + half * 512 + lane * 16, 4);
    if (B == 2)
        read_shared(w, at + half * 8 + lane * 16, 2);
    if (B == 8) {
        read_shared(w, at + half * 1024 + lane * 16, 4);
        read_shared(w + 4, at + half * 1024 + 512 + lane * 16, 4);
    }
    if (B == 3 && half == 0) {
        uint32_t v[4];
        read_shared(v, at + lane * 16, 4);
        w[0] = v[0];
        w[1] = v[1];
        w[2] = v[2];
    }
    if (B == 3 && half == 1) {
        read_shared(w, at + lane * 16 + 12, 1);
        read_shared(w + 1, at + 512 + lane * 8, 2);
    }
}

/* The A registers of half a brick, unscaled. */
template <int B>
static __device__ __forceinline__ void decode_half(unsigned a[16], unsigned at, int half, const lut_turn &turn,
                                                   unsigned lane_at, int lane)
{
    uint32_t w[B];
    read_half<B>(w, at, half, lane);
    natural_weights<B>(w, 0, turn, lane_at, a);
    natural_weights<B>(w, 1, turn, lane_at, a + 8);
}

/* a *= scale, for steps of one part; s: a pair of fp16, rows g and g + 8. bf16 takes the scale as a sum of
   two, so that the product is rounded once. */
template <bool BF16, bool ZEROS, int COUNT>
static __device__ __forceinline__ void scale_weights(unsigned *a, uint32_t s, uint32_t z)
{
    if (BF16) {
        __nv_bfloat162 hi[2], lo[2];
        float zero[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float v = half_of(s, h);
            hi[h] = __float2bfloat162_rn(v);
            lo[h] = __float2bfloat162_rn(v - __low2float(hi[h]));
            zero[h] = ZEROS ? half_of(z, h) : 0;
        }
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const __nv_bfloat162 v = *(const __nv_bfloat162 *)&a[i];
            if (ZEROS) {
                const float2 f = __bfloat1622float2(v);
                const float by = half_of(s, i & 1);
                const __nv_bfloat162 d = __floats2bfloat162_rn((f.x - zero[i & 1]) * by, (f.y - zero[i & 1]) * by);
                a[i] = *(const unsigned *)&d;
            } else {
                const __nv_bfloat162 d = __hfma2(v, hi[i & 1], __hmul2(v, lo[i & 1]));
                a[i] = *(const unsigned *)&d;
            }
        }
        return;
    }
    const __half2 p = *(const __half2 *)&s, q = *(const __half2 *)&z;
    const __half2 by[2] = {__low2half2(p), __high2half2(p)}, zero[2] = {__low2half2(q), __high2half2(q)};
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        __half2 v = *(const __half2 *)&a[i];
        if (ZEROS)
            v = __hsub2(v, zero[i & 1]);
        v = __hmul2(v, by[i & 1]);
        a[i] = *(const unsigned *)&v;
    }
}

template <bool BF16> static __device__ __forceinline__ unsigned pack_pair(float lo, float hi)
{
    if (BF16) {
        const __nv_bfloat162 v = __floats2bfloat162_rn(lo, hi);
        return *(const unsigned *)&v;
    }
    const __half2 v = __floats2half2_rn(lo, hi);
    return *(const unsigned *)&v;
}

template <bool BF16> static __device__ __forceinline__ float bias_of(const lut_wgmma_args &a, int row)
{
    if (!a.bias || row >= a.n)
        return 0;
    return BF16 ? __bfloat162float(*(const __nv_bfloat16 *)(a.bias + row)) : __half2float(*(const __half *)(a.bias + row));
}

/* Eight tokens of a warp's 16 rows, transposed to [token][row of the warpgroup] in its staging area. */
template <bool BF16>
static __device__ __forceinline__ void stage_block(unsigned staging, int block, int warp, int lane, float v0, float v1,
                                                   float v2, float v3)
{
    const unsigned chunk = 2 * (warp & 3) + (lane >> 3 & 1), token = 8 * block + (lane & 7);
    const unsigned at = staging + token * 128 + ((chunk ^ (lane & 7)) << 4);
    asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(at), "r"(pack_pair<BF16>(v0, v1)),
                 "r"(pack_pair<BF16>(v2, v3))
                 : "memory");
}

/* `tokens` staged tokens of 64 rows from `row` on to y, by one warpgroup. */
static __device__ __forceinline__ void store_staged(const lut_wgmma_args &a, unsigned staging, int thread, int row,
                                                    int row_end, int token, int tokens)
{
    for (int i = thread; i < tokens * 8; i += 128) {
        const int t = i >> 3, c = i & 7, at = row + c * 8;
        if (token + t >= a.m || at >= row_end)
            continue;
        uint32_t v[4];
        read_shared(v, staging + t * 128 + ((c ^ (t & 7)) << 4), 4);
        uint16_t *to = a.y + (token + t) * a.ldy + at;
        if (a.y_vector && at + 8 <= row_end) {
            *(uint4 *)to = make_uint4(v[0], v[1], v[2], v[3]);
            continue;
        }
#pragma unroll
        for (int e = 0; e < 8; e++)
            if (at + e < row_end)
                to[e] = (uint16_t)(v[e >> 1] >> (16 * (e & 1)));
    }
}

template <int B, bool BF16, int PARTS, int NT, int C, bool ZEROS>
static __global__ void __launch_bounds__((C + 1) * 128, 1)
    lut_wgmma(const __grid_constant__ lut_wgmma_args a, const __grid_constant__ CUtensorMap map)
{
    const int max_strips = 4 * C;
    const bool turns = NT == 256; /* shorter products do not cover the waiting */
    extern __shared__ char shared[];
    const int lane = (int)threadIdx.x & 31, warp = __shfl_sync(0xffffffffu, (int)threadIdx.x >> 5, 0), group = warp >> 2;
    const unsigned x_barriers = a.barriers_at, w_barriers = x_barriers + LUT_WGMMA_STAGES * 16;

    asm volatile("griddepcontrol.launch_dependents;");
    if (threadIdx.x == 0) {
        for (int i = 0; i < a.x_stages; i++) {
            barrier_init(x_barriers + i * 16, a.plain_x ? 32 : 1);
            barrier_init(x_barriers + i * 16 + 8, C * 4 * LUT_WARP_ARRIVALS);
        }
        for (int i = 0; i < a.w_stages; i++) {
            barrier_init(w_barriers + i * 16, 96);
            barrier_init(w_barriers + i * 16 + 8, C * 4 * LUT_WARP_ARRIVALS);
        }
        publish_barriers();
    }
    __syncthreads();

    if (group == C) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(lut_wgmma_registers<C>::fetch));
        if (warp == C * 4)
            fetch_x<NT>(a, &map, lane, x_barriers);
        else
            fetch_weights<B, PARTS, NT>(a, max_strips, (int)threadIdx.x - C * 128 - 32, w_barriers);
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(lut_wgmma_registers<C>::multiply));
    build_table<B>(shared + (LUT_TABLE_AT - (int)__cvta_generic_to_shared(shared)), a.table, C * 128);
    sync_some(SYNC_ALL, C * 128);
    unsigned lane_at = lane * 4 | LUT_TABLE_AT >> 8;
    asm volatile("" : "+r"(lane_at)::"memory"); /* no look-up moves ahead of the barrier */
    asm volatile("griddepcontrol.wait;" ::: "memory");
    const lut_turn turn = turn_of<B>(lane);
    const unsigned staging = a.staging_at + group * 4096;
    const int thread = (int)threadIdx.x & 127;
    const unsigned words_on = warp * 256 * B;
    const unsigned scales_on = max_strips * 256 * B + warp * (32 * PARTS) + (lane >> 2) * (4 * PARTS);
    lut_ring x = {0, 0}, w = {0, 0};
    unsigned rows[2][16];
#pragma unroll
    for (int i = 0; i < 32; i++)
        (&rows[0][0])[i] = 0;
    if (turns && group == C - 1)
        arrive_some(SYNC_TURN, 256);

    lut_walk walk = walk_open(a);
    for (lut_part p; walk_on(a, walk, p);) {
        const lut_tile tile = tile_at(a, p.tile, NT);
        const bool mine = warp < tile.strips;
        float sum[NT / 2];
#pragma unroll
        for (int i = 0; i < NT / 2; i++)
            sum[i] = 0;

        auto decode = [&](unsigned *to, int half) {
            if (!mine)
                return;
            const unsigned at = a.w_at[w.stage];
            decode_half<B>(to, at + words_on, half, turn, lane_at, lane);
            const int scales = PARTS == 4 ? 2 : 1;
#pragma unroll
            for (int i = 0; i < scales; i++) {
                uint32_t s, z = 0;
                const unsigned from = at + scales_on + (PARTS == 1 ? 0 : half * scales + i) * 4;
                read_shared(&s, from, 1);
                if (ZEROS && a.zeros)
                    read_shared(&z, from + max_strips * (32 * PARTS), 1);
                scale_weights<BF16, ZEROS, 16 / scales>(to + 16 / scales * i, s, z);
            }
        };
        unsigned before = 0; /* the stage of x that the products before these read */
        auto multiply = [&](unsigned *now, unsigned *next, bool first) {
            barrier_wait(x_barriers + x.stage * 16, x.parity);
            const uint64_t tokens = tile_descriptor(a.x_at[x.stage]);
            hold<16>(now);
            if (turns)
                sync_some(SYNC_TURN + group, 256);
            wgmma_begin();
#pragma unroll
            for (int j = 0; j < 4; j++)
                wgmma<NT, BF16>(sum, now + 4 * j, tokens + j * 2);
            wgmma_commit();
            if (turns)
                arrive_some(SYNC_TURN + (group + 1) % C, 256);
            wgmma_wait<1>();
            hold<16>(next);
            if (!first)
                warp_arrive(before, lane);
            before = x_barriers + x.stage * 16 + 8;
            advance(x, a.x_stages);
        };

        barrier_wait(w_barriers + w.stage * 16, w.parity);
        decode(rows[0], 0);
        for (int brick = p.begin; brick < p.end; brick++) {
            multiply(rows[0], rows[1], brick == p.begin);
            decode(rows[1], 1);
            warp_arrive(w_barriers + w.stage * 16 + 8, lane);
            advance(w, a.w_stages);
            multiply(rows[1], rows[0], false);
            if (brick + 1 < p.end) {
                barrier_wait(w_barriers + w.stage * 16, w.parity);
                decode(rows[0], 0);
            }
        }
        wgmma_wait<0>();
        hold<NT / 2>(sum);
        hold<16>(rows[1]);
        warp_arrive(before, lane);

        if (p.end - p.begin < a.n_bricks && !join_parts<NT, C>(a, p.tile, group, thread, staging, sum))
            continue;
        const int row = (tile.strip + group * 4) * 16, row_end = min(a.n, (tile.strip + tile.strips) * 16);
        const int bias_row = (tile.strip + warp) * 16 + (lane >> 2);
        const float bias0 = bias_of<BF16>(a, bias_row), bias1 = bias_of<BF16>(a, bias_row + 8);
#pragma unroll
        for (int b = 0; b < NT / 8; b += 4) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float *v = sum + (b + i) * 4;
                stage_block<BF16>(staging, i, warp, lane, v[0] + bias0, v[1] + bias0, v[2] + bias1, v[3] + bias1);
            }
            sync_some(SYNC_GROUP + group, 128);
            store_staged(a, staging, thread, row, row_end, tile.token + b * 8, 32);
            sync_some(SYNC_GROUP + group, 128);
        }
    }
}

template <int B, bool BF16, int PARTS, int NT, int C, bool ZEROS>
static int lut_wgmma_start(const lut_wgmma_args &a, const CUtensorMap &map, const cudaLaunchConfig_t *config)
{
    const auto kernel = lut_wgmma<B, BF16, PARTS, NT, C, ZEROS>;
    const cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                               (int)config->dynamicSmemBytes);
    if (e != cudaSuccess)
        return (int)e;
    return (int)cudaLaunchKernelEx(config, kernel, a, map);
}

/* The variants: number, tokens of a tile, warpgroups, general (lut_wgmma_plan.cuh). */
#define LUT_WGMMA_TABLE(do)                                                                        \
    do(0, 32, 4, 0)                                                                                \
    do(1, 32, 2, 0)                                                                                \
    do(2, 64, 4, 0)                                                                                \
    do(3, 64, 2, 1)                                                                                \
    do(4, 128, 2, 0)                                                                               \
    do(5, 128, 3, 0)                                                                               \
    do(6, 256, 2, 1)

template <int B, bool BF16, int NT, int C, bool GENERAL>
static int lut_wgmma_pick(const lut_wgmma_args &a, const CUtensorMap &map, int parts, const cudaLaunchConfig_t *config)
{
    if constexpr (B < 8) {
        if (!a.zeros && parts == 1)
            return lut_wgmma_start<B, BF16, 1, NT, C, false>(a, map, config);
        if (!a.zeros && parts == 2)
            return lut_wgmma_start<B, BF16, 2, NT, C, false>(a, map, config);
    }
    if constexpr (GENERAL)
        return parts == 1   ? lut_wgmma_start<B, BF16, 1, NT, C, true>(a, map, config)
               : parts == 2 ? lut_wgmma_start<B, BF16, 2, NT, C, true>(a, map, config)
                            : lut_wgmma_start<B, BF16, 4, NT, C, true>(a, map, config);
    return (int)cudaErrorNotSupported;
}

/* Launches a variant. One source file per B and type instantiates it. */
template <int B, bool BF16>
int lut_wgmma_launch(const lut_wgmma_args &a, const CUtensorMap &map, int variant, int parts, const cudaLaunchConfig_t *config)
{
#define LUT_VARIANT(number, nt, c, general)                                                        \
    if constexpr (B < 8 || general)                                                                \
        if (variant == number)                                                                     \
            return lut_wgmma_pick<B, BF16, nt, c, general>(a, map, parts, config);
    LUT_WGMMA_TABLE(LUT_VARIANT)
#undef LUT_VARIANT
    return (int)cudaErrorNotSupported;
}

#endif
