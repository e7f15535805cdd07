/* lut_wgmma.cuh - the kernel for many tokens on compute capability 9.0.

   A tile is 64 C rows of W by NT tokens. C warpgroups multiply: each warp turns the codes of its strip
   of 16 rows into the A registers of wgmma (lut_natural.cuh); activations are the B operand, tokens
   its n, and lie in shared memory as they lie in memory (128-byte swizzle). One more warp keeps a
   ring of stages full, a brick of 128 columns each: codes and scales by bulk copies, activations
   through a tensor map, so rows and columns past the edge read as zero.
   Sums of a scale group are unscaled in `part`, NP tokens at a time, then scaled into float32 `sum`.
   Decoding the next unit of steps runs beside the products of this one where registers allow it.
   With splits > 1 the blocks of a cluster take a part of K each; sums meet in shared memory and
   are added in rank order. With share = 2 the two blocks of a cluster take neighbouring rows of the
   same tokens, and each fetches half of the activations for both. Everything has a fixed order, so results repeat bit by bit.
   Weights do not depend on the kernel ahead: the ring is filled with them before
   griddepcontrol.wait, all else comes after it. */
#ifndef LU_KERN_CUDA_LUT_WGMMA_CUH
#define LU_KERN_CUDA_LUT_WGMMA_CUH

#include "kern/cuda/lut_natural.cuh"
#include "kern/cuda/lut_wgmma_ops.cuh"

#define LUT_WGMMA_STAGES 8

struct lut_wgmma_args {
    const uint32_t *words, *scales, *zeros;
    const uint16_t *x;
    uint16_t *y;
    const uint16_t *bias;
    int64_t ldx, ldy;
    int n, k, m;
    int n_strips, n_bricks, n_entries, bricks_per_entry;
    int row_tiles, token_tiles, splits;
    int share;    /* blocks of a cluster that have the same tokens and fetch them for each other: 1 or 2 */
    int plain_x;  /* the producer warp copies x element by element */
    int y_vector; /* rows of y start on 16 bytes */
    int stages;
    unsigned x_at[LUT_WGMMA_STAGES][2], w_at[LUT_WGMMA_STAGES]; /* shared addresses */
    unsigned barriers_at, staging_at;
    uint16_t table[256];
};

/* Registers per thread of the C multiplying warpgroups and of the one that fetches: with the number
   the launch gives all of them they fill the register file. */
template <int C> struct lut_wgmma_registers {
    static const int multiply = C == 2 ? 240 : C == 3 ? 160 : 112;
    static const int fetch = C == 2 ? 24 : 32;
};

template <int N> struct lut_number {
    static const int value = N;
};

template <int NT, int NP, int PARTS> struct lut_wgmma_steps {
    static const int part = 8 / PARTS; /* k16 steps under one scale */
    static const int unit = NT > NP || part < 4 ? part : 4; /* decoded at once */
    static const int units = 8 / unit;                      /* of a brick */
};

static __device__ __forceinline__ void read_shared(uint32_t *to, unsigned at, int count)
{
    if (count == 4)
        asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(at)
                     : "memory");
    else if (count == 2)
        asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(to[0]), "=r"(to[1]) : "r"(at) : "memory");
    else
        asm volatile("ld.shared.u32 %0, [%1];" : "=r"(to[0]) : "r"(at) : "memory");
}

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

/* The A registers of unit u of a brick. */
template <int B, int UNIT>
static __device__ __forceinline__ void decode_unit(unsigned *a, unsigned at, int u, const lut_turn &turn,
                                                   unsigned lane_at, int lane)
{
    uint32_t w[B];
    if (UNIT == 2) {
        read_half<B>(w, at, u >> 1, lane);
        natural_weights<B>(w, u & 1, turn, lane_at, a);
        return;
    }
#pragma unroll
    for (int half = 0; half < (UNIT + 3) / 4; half++) {
        read_half<B>(w, at, u * (UNIT / 4) + half, lane);
        natural_weights<B>(w, 0, turn, lane_at, a + 16 * half);
        natural_weights<B>(w, 1, turn, lane_at, a + 16 * half + 8);
    }
}

/* a -= zero, for steps of one part; z: a pair of fp16, rows g and g + 8. */
template <bool BF16, int COUNT>
static __device__ __forceinline__ void subtract_zero(unsigned *a, uint32_t z)
{
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        if (BF16) {
            const float zero = half_of(z, i & 1);
            const float2 v = __bfloat1622float2(*(const __nv_bfloat162 *)&a[i]);
            const __nv_bfloat162 d = __floats2bfloat162_rn(v.x - zero, v.y - zero);
            a[i] = *(const unsigned *)&d;
        } else {
            const __half2 p = *(const __half2 *)&z;
            const __half2 d = __hsub2(*(const __half2 *)&a[i], i & 1 ? __high2half2(p) : __low2half2(p));
            a[i] = *(const unsigned *)&d;
        }
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

/* Where a tile lies. */
struct lut_tile {
    int strip, strips, token; /* first strip, number of strips, first token */
};

static __device__ __forceinline__ lut_tile tile_at(const lut_wgmma_args &a, int tile, int tokens)
{
    lut_tile v;
    const int r = tile % a.row_tiles;
    v.strip = (int)((int64_t)r * a.n_strips / a.row_tiles);
    v.strips = (int)((int64_t)(r + 1) * a.n_strips / a.row_tiles) - v.strip;
    v.token = tile / a.row_tiles * tokens;
    return v;
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

/* The producer warp: codes, scales and zeros of one brick of a tile's strips. */
template <int B, int PARTS, int NT>
static __device__ __forceinline__ void fetch_weights(const lut_wgmma_args &a, const lut_tile &tile, int max_strips,
                                                     int brick, int stage, int lane, unsigned own)
{
    const unsigned full = own + a.barriers_at + stage * 16, at = own + a.w_at[stage];
    const unsigned scale_bytes = 32 * PARTS, scales_at = at + max_strips * 256 * B;
    if (lane == 0)
        barrier_expect(full, (unsigned)tile.strips * (256 * B + scale_bytes * (a.zeros ? 2 : 1)) +
                                 (a.plain_x ? 0 : NT * 256));
    __syncwarp();
    if (lane >= tile.strips)
        return;
    const int64_t strip = tile.strip + lane;
    const int entry = a.bricks_per_entry == 1 ? brick : brick / a.bricks_per_entry;
    const int64_t scale = (strip * a.n_entries + entry) * scale_bytes;
    bulk_copy(at + lane * 256 * B, (const char *)a.words + (strip * a.n_bricks + brick) * (256 * B), 256 * B, full);
    bulk_copy(scales_at + lane * scale_bytes, (const char *)a.scales + scale, scale_bytes, full);
    if (a.zeros)
        bulk_copy(scales_at + (max_strips + lane) * scale_bytes, (const char *)a.zeros + scale, scale_bytes, full);
}

/* The producer warp: a brick's columns of NT tokens, in two boxes of 64 columns. */
template <int NT>
static __device__ __forceinline__ void fetch_x(const lut_wgmma_args &a, const CUtensorMap *map, const lut_tile &tile,
                                               int brick, int stage, int lane, unsigned own)
{
    const unsigned full = own + a.barriers_at + stage * 16;
    if (a.share == 2) { /* half of the tokens, to both blocks */
        const int half = (int)(blockIdx.x & 1) * (NT / 2);
        if (lane < 2)
            tensor_copy_both(own + a.x_at[stage][lane] + half * 128, map, brick * 128 + lane * 64, tile.token + half, full);
        return;
    }
    if (!a.plain_x) {
        if (lane < 2)
            tensor_copy(own + a.x_at[stage][lane], map, brick * 128 + lane * 64, tile.token, full);
        return;
    }
    for (int i = lane; i < NT * 16; i += 32) {
        const int token = i >> 4, chunk = i & 15, column = brick * 128 + chunk * 8;
        unsigned v[4] = {0, 0, 0, 0};
        if (tile.token + token < a.m) {
            const uint16_t *from = a.x + (tile.token + token) * a.ldx + column;
#pragma unroll
            for (int e = 0; e < 8; e++)
                if (column + e < a.k)
                    v[e >> 1] |= (unsigned)from[e] << (16 * (e & 1));
        }
        const unsigned to = own + a.x_at[stage][chunk >> 3] + token * 128 + (((chunk & 7) ^ (token & 7)) << 4);
        asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(to), "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3]) : "memory");
    }
    publish_shared();
    barrier_arrive(full);
}

template <int B, int PARTS, int NT>
static __device__ __forceinline__ void fetch_all(const lut_wgmma_args &a, const CUtensorMap *map, int max_strips,
                                                 int first_tile, int step, int begin, int end, int lane, unsigned own)
{
    const int tiles = a.row_tiles * a.token_tiles;
    int stage = 0, early = 0;
    unsigned parity = 1; /* the first round finds every stage empty */
    if (first_tile < tiles) {
        const lut_tile tile = tile_at(a, first_tile, NT);
        early = min(a.stages, end - begin);
        for (int i = 0; i < early; i++)
            fetch_weights<B, PARTS, NT>(a, tile, max_strips, begin + i, i, lane, own);
        asm volatile("griddepcontrol.wait;" ::: "memory");
        for (int i = 0; i < early; i++)
            fetch_x<NT>(a, map, tile, begin + i, i, lane, own);
        stage = early;
        if (stage == a.stages) {
            stage = 0;
            parity ^= 1;
        }
    }
    for (int t = first_tile; t < tiles; t += step) {
        const lut_tile tile = tile_at(a, t, NT);
        for (int brick = begin + early; brick < end; brick++) {
            barrier_wait(own + a.barriers_at + stage * 16 + 8, parity);
            fetch_weights<B, PARTS, NT>(a, tile, max_strips, brick, stage, lane, own);
            fetch_x<NT>(a, map, tile, brick, stage, lane, own);
            if (++stage == a.stages) {
                stage = 0;
                parity ^= 1;
            }
        }
        early = 0;
    }
}

template <int B, bool BF16, int PARTS, int NT, int NP, int C, int AHEAD, bool ZEROS>
static __global__ void __launch_bounds__((C + 1) * 128, 1)
    lut_wgmma(const __grid_constant__ lut_wgmma_args a, const __grid_constant__ CUtensorMap map)
{
    using steps = lut_wgmma_steps<NT, NP, PARTS>;
    const int chunks = NT / NP, unit = steps::unit, units = steps::units, max_strips = 4 * C;
    const bool ahead = units > 1 || AHEAD, deep = AHEAD == 2;
    extern __shared__ char shared[];
    const int lane = (int)threadIdx.x & 31, warp = __shfl_sync(0xffffffffu, (int)threadIdx.x >> 5, 0), group = warp >> 2;
    const int rank = (int)blockIdx.x % a.splits, first_tile = (int)blockIdx.x / a.splits;
    const int step = (int)gridDim.x / a.splits, tiles = a.row_tiles * a.token_tiles;
    const int begin = (int)((int64_t)rank * a.n_bricks / a.splits), end = (int)((int64_t)(rank + 1) * a.n_bricks / a.splits);

    /* In a cluster the block's rank stands in the top byte of its shared addresses. */
    const unsigned own = (unsigned)__cvta_generic_to_shared(shared) & 0xff000000u;
    const unsigned barriers = own + a.barriers_at;

    asm volatile("griddepcontrol.launch_dependents;");
    if (threadIdx.x == 0) {
        for (int i = 0; i < a.stages; i++) {
            barrier_init(barriers + i * 16, a.plain_x ? 33 : 1);
            barrier_init(barriers + i * 16 + 8, C * 4 * a.share);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        publish_shared();
    }
    if (a.share > 1)
        cluster_sync();
    else
        __syncthreads();

    if (group == C) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(lut_wgmma_registers<C>::fetch));
        if (warp == C * 4)
            fetch_all<B, PARTS, NT>(a, &map, max_strips, first_tile, step, begin, end, lane, own);
        __syncwarp();
        if (a.splits > 1) {
            cluster_sync();
            cluster_sync();
        }
        if (a.share > 1)
            cluster_sync();
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(lut_wgmma_registers<C>::multiply));
        build_table<B>(shared + (int)(own + LUT_TABLE_AT - (unsigned)__cvta_generic_to_shared(shared)), a.table, C * 128);
        sync_some(1, C * 128);
        unsigned lane_at = lane * (B == 2 ? 8 : 4) | (own + LUT_TABLE_AT) >> 8;
        asm volatile("" : "+r"(lane_at)::"memory"); /* no look-up moves ahead of the barrier */
        asm volatile("griddepcontrol.wait;" ::: "memory");
        const lut_turn turn = turn_of<B>(lane);
        const unsigned staging = own + a.staging_at + group * 4096;
        const int thread = (int)threadIdx.x & 127;
        int stage = 0;
        unsigned parity = 0;

        for (int t = first_tile; t < tiles; t += step) {
            const lut_tile tile = tile_at(a, t, NT);
            const bool mine = warp < tile.strips;
            float sum[NT / 2], part[deep ? 2 : 1][NP / 2];
            unsigned rows[ahead ? 2 : 1][unit * 4];
#pragma unroll
            for (int i = 0; i < NT / 2; i++)
                sum[i] = 0;
#pragma unroll
            for (int i = 0; i < (deep ? 2 : 1) * NP / 2; i++)
                (&part[0][0])[i] = 0;
#pragma unroll
            for (int i = 0; i < (ahead ? 2 : 1) * unit * 4; i++)
                (&rows[0][0])[i] = 0;

            const unsigned words_on = warp * 256 * B;
            const unsigned scales_on = max_strips * 256 * B + warp * (32 * PARTS) + (lane >> 2) * (4 * PARTS);
            auto decode = [&](unsigned *to, int from, int u) {
                const unsigned at = own + a.w_at[from];
                if (!mine)
                    return;
                decode_unit<B, unit>(to, at + words_on, u, turn, lane_at, lane);
                if (ZEROS && a.zeros) {
                    uint32_t z;
                    read_shared(&z, at + scales_on + max_strips * (32 * PARTS) + u * unit / steps::part * 4, 1);
                    subtract_zero<BF16, unit * 4>(to, z);
                }
            };
            auto multiply = [&](float *to, unsigned *from, const uint64_t *x, int u, int c) {
                hold<unit * 4>(from);
                hold<NP / 2>(to);
                wgmma_begin();
#pragma unroll
                for (int j = 0; j < unit; j++) {
                    const int s = u * unit + j;
                    wgmma<NP, BF16>(to, from + 4 * j, x[s >> 2] + (s & 3) * 2 + c * (NP * 8), s % steps::part != 0);
                }
                wgmma_commit();
            };
            auto flush = [&](float *from, uint32_t pair, int c) {
                const float s0 = half_of(pair, 0), s1 = half_of(pair, 1);
                hold<NP / 2>(from);
#pragma unroll
                for (int i = 0; i < NP / 2; i++)
                    sum[c * (NP / 2) + i] = fmaf(i & 2 ? s1 : s0, from[i], sum[c * (NP / 2) + i]);
            };
            auto release = [&](int from) {
                if (a.share > 1) {
                    if (lane < 2)
                        barrier_arrive_at(of_rank(barriers + from * 16 + 8, lane));
                } else if (lane == 0) {
                    barrier_arrive(barriers + from * 16 + 8);
                }
            };
            int next = stage; /* the stage ahead, where units are decoded ahead */
            unsigned next_parity = parity;
            auto advance = [&]() {
                if (++next == a.stages) {
                    next = 0;
                    next_parity ^= 1;
                }
            };

            if (ahead && begin < end) {
                barrier_wait(barriers + next * 16, next_parity);
                decode(rows[0], next, 0);
            }
            /* One brick; rows[first] holds its first unit if units are decoded ahead. */
            auto one_brick = [&](auto first, int brick) {
                if (!ahead) {
                    barrier_wait(barriers + stage * 16, parity);
                    decode(rows[0], stage, 0);
                }
                advance();
                const uint64_t x[2] = {tile_descriptor(a.x_at[stage][0]), tile_descriptor(a.x_at[stage][1])};
                uint32_t scale[PARTS];
                read_shared(scale, own + a.w_at[stage] + scales_on, PARTS);
#pragma unroll
                for (int u = 0; u < units; u++) {
                    const int now = !ahead ? 0 : (first.value + u) & 1;
                    const uint32_t pair = scale[((u + 1) * unit - 1) / steps::part];
#pragma unroll
                    for (int c = 0; c < chunks; c++) {
                        multiply(part[deep ? c & 1 : 0], rows[now], x, u, c);
                        if (deep && c > 0) { /* the products just issued run while those before them are scaled */
                            wgmma_wait<1>();
                            flush(part[(c - 1) & 1], pair, c - 1);
                        }
                        if (ahead && c == chunks - 1) {
                            if (u + 1 < units) {
                                decode(rows[now ^ 1], stage, u + 1);
                            } else if (brick + 1 < end) {
                                barrier_wait(barriers + next * 16, next_parity);
                                decode(rows[now ^ 1], next, 0);
                            }
                        }
                        if (!deep || c == chunks - 1) {
                            wgmma_wait<0>();
                            hold<NP / 2>(part[deep ? c & 1 : 0]);
                            hold<unit * 4>(rows[now]);
                            if ((u + 1) * unit % steps::part == 0)
                                flush(part[deep ? c & 1 : 0], pair, c);
                        }
                    }
                }
                release(stage);
                stage = next;
                parity = next_parity;
            };
            if (ahead && units % 2 == 1) {
                for (int brick = begin; brick < end; brick += 2) {
                    one_brick(lut_number<0>(), brick);
                    if (brick + 1 < end)
                        one_brick(lut_number<1>(), brick + 1);
                }
            } else {
                for (int brick = begin; brick < end; brick++)
                    one_brick(lut_number<0>(), brick);
            }

            const int row = (tile.strip + group * 4) * 16, row_end = min(a.n, (tile.strip + tile.strips) * 16);
            const int bias_row = (tile.strip + warp) * 16 + (lane >> 2);
            const float bias0 = bias_of<BF16>(a, bias_row), bias1 = bias_of<BF16>(a, bias_row + 8);
            if (a.splits == 1) {
#pragma unroll
                for (int b = 0; b < NT / 8; b += 4) {
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        const float *v = sum + (b + i) * 4;
                        stage_block<BF16>(staging, i, warp, lane, v[0] + bias0, v[1] + bias0, v[2] + bias1, v[3] + bias1);
                    }
                    sync_some(2 + group, 128);
                    store_staged(a, staging, thread, row, row_end, tile.token + b * 8, 32);
                    sync_some(2 + group, 128);
                }
                continue;
            }
            /* one tile a cluster: the table and the ring are done with and hold the sums */
            const unsigned mine_at = own + LUT_TABLE_AT + threadIdx.x * 16;
            sync_some(2 + C, C * 128);
#pragma unroll
            for (int b = 0; b < NT / 8; b++)
                asm volatile("st.shared.v4.f32 [%0], {%1,%2,%3,%4};" ::"r"(mine_at + b * (C * 2048)), "f"(sum[4 * b]),
                             "f"(sum[4 * b + 1]), "f"(sum[4 * b + 2]), "f"(sum[4 * b + 3])
                             : "memory");
            cluster_sync();
            const int last = (rank + 1) * (NT / 8) / a.splits;
            for (int b = rank * (NT / 8) / a.splits; b < last; b += 4) {
                const int count = min(4, last - b);
                for (int i = 0; i < count; i++) {
                    const unsigned at = mine_at + (b + i) * (C * 2048);
                    float4 v = read_cluster(of_rank(at, 0));
                    for (int r = 1; r < a.splits; r++) {
                        const float4 more = read_cluster(of_rank(at, r));
                        v = make_float4(v.x + more.x, v.y + more.y, v.z + more.z, v.w + more.w);
                    }
                    stage_block<BF16>(staging, i, warp, lane, v.x + bias0, v.y + bias0, v.z + bias1, v.w + bias1);
                }
                sync_some(2 + group, 128);
                store_staged(a, staging, thread, row, row_end, tile.token + b * 8, 8 * count);
                sync_some(2 + group, 128);
            }
            cluster_sync();
        }
        if (a.share > 1) /* the other block may still write here */
            cluster_sync();
    }
}

template <int B, bool BF16, int PARTS, int NT, int NP, int C, int AHEAD, bool ZEROS>
static int lut_wgmma_start(const lut_wgmma_args &a, const CUtensorMap &map, const cudaLaunchConfig_t *config)
{
    const auto kernel = lut_wgmma<B, BF16, PARTS, NT, NP, C, AHEAD, ZEROS>;
    const cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                               (int)config->dynamicSmemBytes);
    if (e != cudaSuccess)
        return (int)e;
    return (int)cudaLaunchKernelEx(config, kernel, a, map);
}

/* The variants: number, tokens of a tile, tokens of `part`, warpgroups, AHEAD, general (lut_wgmma_plan.cuh).
   AHEAD 1: a brick is decoded beside the products of the one before even where it is one unit; 2: and
   two parts alternate. */
#define LUT_WGMMA_TABLE(do)                                                                        \
    do(0, 64, 64, 4, 0, 0)                                                                         \
    do(1, 64, 64, 2, 0, 1)                                                                         \
    do(2, 128, 64, 2, 0, 0)                                                                        \
    do(3, 256, 64, 2, 0, 1)                                                                        \
    do(4, 128, 64, 3, 0, 0)

template <int B, bool BF16, int NT, int NP, int C, int AHEAD, bool GENERAL>
static int lut_wgmma_pick(const lut_wgmma_args &a, const CUtensorMap &map, int parts, const cudaLaunchConfig_t *config)
{
    if constexpr (B < 8) {
        if (!a.zeros && parts == 1)
            return lut_wgmma_start<B, BF16, 1, NT, NP, C, AHEAD, false>(a, map, config);
        if (!a.zeros && parts == 2)
            return lut_wgmma_start<B, BF16, 2, NT, NP, C, AHEAD, false>(a, map, config);
    }
    if constexpr (GENERAL)
        return parts == 1   ? lut_wgmma_start<B, BF16, 1, NT, NP, C, AHEAD, true>(a, map, config)
               : parts == 2 ? lut_wgmma_start<B, BF16, 2, NT, NP, C, AHEAD, true>(a, map, config)
                            : lut_wgmma_start<B, BF16, 4, NT, NP, C, AHEAD, true>(a, map, config);
    return (int)cudaErrorNotSupported;
}

/* Launches a variant. One source file per B and type instantiates it. */
template <int B, bool BF16>
int lut_wgmma_launch(const lut_wgmma_args &a, const CUtensorMap &map, int variant, int parts, const cudaLaunchConfig_t *config)
{
#define LUT_VARIANT(number, nt, np, c, ahead, general)                                                    \
    if constexpr (B < 8 || general)                                                                \
        if (variant == number)                                                                     \
            return lut_wgmma_pick<B, BF16, nt, np, c, ahead, general>(a, map, parts, config);
    LUT_WGMMA_TABLE(LUT_VARIANT)
#undef LUT_VARIANT
    return (int)cudaErrorNotSupported;
}

#endif
