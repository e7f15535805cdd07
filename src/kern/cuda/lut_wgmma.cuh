/* lut_wgmma.cuh - the kernel for many tokens on compute capability 9.0.

   A tile is 64 C rows of W by NT tokens. C warpgroups multiply: each warp turns the codes of its strip
   of 16 rows into the A registers of wgmma (lut_natural.cuh); activations are the B operand, tokens
   its n, and lie in shared memory as they lie in memory (128-byte swizzle). One more warpgroup keeps
   two rings full: codes and scales a brick of 128 columns at a time, activations 128 columns of NP
   tokens at a time through a tensor map, so rows and columns past the edge read as zero.
   Sums of a scale group are unscaled in `part`, NP tokens at a time, then scaled into float32 `sum`.
   Decoding the next unit of steps runs beside the products of this one where registers allow it.
   With splits > 1 the blocks of a cluster take a part of K each; sums meet in shared memory and
   are added in rank order. Everything has a fixed order, so results repeat bit by bit.
   Weights do not depend on the kernel ahead: they are fetched without griddepcontrol.wait, all else
   comes after it. */
#ifndef LU_KERN_CUDA_LUT_WGMMA_CUH
#define LU_KERN_CUDA_LUT_WGMMA_CUH

#include "kern/cuda/lut_natural.cuh"
#include "kern/cuda/lut_wgmma_ops.cuh"

#define LUT_WGMMA_STAGES 12 /* of each ring, at most */

struct lut_wgmma_args {
    const uint32_t *words, *scales, *zeros;
    const uint16_t *x;
    uint16_t *y;
    const uint16_t *bias;
    int64_t ldx, ldy;
    int n, k, m;
    int n_strips, n_bricks, n_entries, bricks_per_entry;
    int row_tiles, token_tiles, splits;
    int plain_x;  /* x is copied element by element */
    int y_vector; /* rows of y start on 16 bytes */
    int x_stages, w_stages;
    unsigned x_at[LUT_WGMMA_STAGES], w_at[LUT_WGMMA_STAGES]; /* shared addresses */
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

/* k16 steps of a brick: under one scale, decoded at once, multiplied at once. */
template <int NT, int NP, int PARTS> struct lut_wgmma_steps {
    static const int part = 8 / PARTS;
    static const int unit = NT > NP ? 8 : part < 4 ? part : 4;
    static const int batch = unit < part ? unit : part;
    static const int units = 8 / unit;
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
    if (UNIT == 2) { /* half of four steps */
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

/* A place in a ring of stages, and the parity of its round. Each stage has two barriers, 8 bytes
   apart: full, and empty. */
struct lut_ring {
    int stage;
    unsigned parity;
};

static __device__ __forceinline__ void advance(lut_ring &r, int stages)
{
    if (++r.stage == stages) {
        r.stage = 0;
        r.parity ^= 1;
    }
}

/* Three warps (thread: 0..95) bring the codes, scales and zeros of the tiles' bricks. */
template <int B, int PARTS, int NT>
static __device__ __forceinline__ void fetch_weights(const lut_wgmma_args &a, int max_strips, int first_tile, int step,
                                                     int begin, int end, int thread, unsigned own, unsigned barriers)
{
    const int lane = thread & 31, warp = thread >> 5;
    const int64_t strip_bytes = (int64_t)a.n_bricks * (256 * B);
    lut_ring r = {0, 1}; /* the first round finds every stage empty */
    for (int t = first_tile; t < a.row_tiles * a.token_tiles; t += step) {
        const lut_tile tile = tile_at(a, t, NT);
        const char *words = (const char *)a.words + (tile.strip + warp) * strip_bytes + lane * 16;
        const int scale = thread / (2 * PARTS), piece = thread % (2 * PARTS) * 16;
        const int64_t scale_row = (int64_t)(tile.strip + scale) * a.n_entries;
        for (int brick = begin; brick < end; brick++) {
            barrier_wait(barriers + r.stage * 16 + 8, r.parity);
            const unsigned to = own + a.w_at[r.stage];
            const char *from = words + (int64_t)brick * (256 * B);
            for (int strip = warp; strip < tile.strips; strip += 3) {
#pragma unroll
                for (int i = 0; i < 16 * B; i += 32)
                    if (i + 32 <= 16 * B || i + lane < 16 * B)
                        copy_16(to + strip * (256 * B) + (i + lane) * 16, from + i * 16);
                from += 3 * strip_bytes;
            }
            const int entry = a.bricks_per_entry == 1 ? brick : brick / a.bricks_per_entry;
            for (int i = scale; i < tile.strips; i += 96 / (2 * PARTS)) {
                const int64_t at = (scale_row + (int64_t)(i - scale) * a.n_entries + entry) * (32 * PARTS) + piece;
                const unsigned scales = to + max_strips * (256 * B) + i * (32 * PARTS) + piece;
                copy_16(scales, (const char *)a.scales + at);
                if (a.zeros)
                    copy_16(scales + max_strips * (32 * PARTS), (const char *)a.zeros + at);
            }
            barrier_arrive_copied(barriers + r.stage * 16);
            advance(r, a.w_stages);
        }
    }
    asm volatile("cp.async.wait_all;" ::: "memory"); /* before this warp may end */
}

/* One warp brings the activations, NP tokens of 128 columns at a time, in two boxes of 64 columns. */
template <int NT, int NP>
static __device__ __forceinline__ void fetch_x(const lut_wgmma_args &a, const CUtensorMap *map, int first_tile, int step,
                                               int begin, int end, int lane, unsigned own, unsigned barriers)
{
    lut_ring r = {0, 1};
    asm volatile("griddepcontrol.wait;" ::: "memory");
    for (int t = first_tile; t < a.row_tiles * a.token_tiles; t += step) {
        const int first_token = tile_at(a, t, NT).token;
        for (int brick = begin; brick < end; brick++)
            for (int token = first_token; token < first_token + NT; token += NP) {
                const unsigned full = barriers + r.stage * 16, at = own + a.x_at[r.stage];
                barrier_wait(full + 8, r.parity);
                if (a.plain_x) {
                    for (int i = lane; i < NP * 16; i += 32) {
                        const int row = i >> 4, chunk = i & 15, column = brick * 128 + chunk * 8;
                        unsigned v[4] = {0, 0, 0, 0};
                        if (token + row < a.m) {
                            const uint16_t *from = a.x + (token + row) * a.ldx + column;
#pragma unroll
                            for (int e = 0; e < 8; e++)
                                if (column + e < a.k)
                                    v[e >> 1] |= (unsigned)from[e] << (16 * (e & 1));
                        }
                        asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(
                                         at + (chunk >> 3) * (NP * 128) + row * 128 + (((chunk & 7) ^ (row & 7)) << 4)),
                                     "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3])
                                     : "memory");
                    }
                    publish_shared();
                    barrier_arrive(full);
                } else if (lane == 0) {
                    barrier_expect(full, NP * 256);
                    tensor_copy(at, map, brick * 128, token, full);
                    tensor_copy(at + NP * 128, map, brick * 128 + 64, token, full);
                }
                __syncwarp();
                advance(r, a.x_stages);
            }
    }
}

template <int B, bool BF16, int PARTS, int NT, int NP, int C, int AHEAD, bool ZEROS>
static __global__ void __launch_bounds__((C + 1) * 128, 1)
    lut_wgmma(const __grid_constant__ lut_wgmma_args a, const __grid_constant__ CUtensorMap map)
{
    using steps = lut_wgmma_steps<NT, NP, PARTS>;
    const int chunks = NT / NP, unit = steps::unit, units = steps::units, batch = steps::batch, max_strips = 4 * C;
    const bool ahead = units > 1 || AHEAD;
    extern __shared__ char shared[];
    const int lane = (int)threadIdx.x & 31, warp = __shfl_sync(0xffffffffu, (int)threadIdx.x >> 5, 0), group = warp >> 2;
    const int rank = (int)blockIdx.x % a.splits, first_tile = (int)blockIdx.x / a.splits;
    const int step = (int)gridDim.x / a.splits, tiles = a.row_tiles * a.token_tiles;
    const int begin = (int)((int64_t)rank * a.n_bricks / a.splits), end = (int)((int64_t)(rank + 1) * a.n_bricks / a.splits);
    /* In a cluster the block's rank stands in the top byte of its shared addresses. */
    const unsigned own = (unsigned)__cvta_generic_to_shared(shared) & 0xff000000u;
    const unsigned x_barriers = own + a.barriers_at, w_barriers = x_barriers + LUT_WGMMA_STAGES * 16;

    asm volatile("griddepcontrol.launch_dependents;");
    if (threadIdx.x == 0) {
        for (int i = 0; i < a.x_stages; i++) {
            barrier_init(x_barriers + i * 16, a.plain_x ? 32 : 1);
            barrier_init(x_barriers + i * 16 + 8, C * 4);
        }
        for (int i = 0; i < a.w_stages; i++) {
            barrier_init(w_barriers + i * 16, 96);
            barrier_init(w_barriers + i * 16 + 8, C * 4);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        publish_shared();
    }
    __syncthreads();

    if (group == C) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(lut_wgmma_registers<C>::fetch));
        if (warp == C * 4)
            fetch_x<NT, NP>(a, &map, first_tile, step, begin, end, lane, own, x_barriers);
        else
            fetch_weights<B, PARTS, NT>(a, max_strips, first_tile, step, begin, end, (int)threadIdx.x - C * 128 - 32, own,
                                        w_barriers);
        __syncwarp();
        if (a.splits > 1) {
            cluster_sync();
            cluster_sync();
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(lut_wgmma_registers<C>::multiply));
        build_table<B>(shared + (int)(own + LUT_TABLE_AT - (unsigned)__cvta_generic_to_shared(shared)), a.table, C * 128);
        sync_some(1, C * 128);
        unsigned lane_at = lane * 4 | (own + LUT_TABLE_AT) >> 8;
        asm volatile("" : "+r"(lane_at)::"memory"); /* no look-up moves ahead of the barrier */
        asm volatile("griddepcontrol.wait;" ::: "memory");
        const lut_turn turn = turn_of<B>(lane);
        const unsigned staging = own + a.staging_at + group * 4096;
        const int thread = (int)threadIdx.x & 127;
        const unsigned words_on = warp * 256 * B;
        const unsigned scales_on = max_strips * 256 * B + warp * (32 * PARTS) + (lane >> 2) * (4 * PARTS);
        lut_ring x = {0, 0}, w = {0, 0};

        for (int t = first_tile; t < tiles; t += step) {
            const lut_tile tile = tile_at(a, t, NT);
            const bool mine = warp < tile.strips;
            float sum[NT / 2], part[NP / 2];
            unsigned rows[ahead ? 2 : 1][unit * 4];
#pragma unroll
            for (int i = 0; i < NT / 2; i++)
                sum[i] = 0;
#pragma unroll
            for (int i = 0; i < NP / 2; i++)
                part[i] = 0;
#pragma unroll
            for (int i = 0; i < (ahead ? 2 : 1) * unit * 4; i++)
                (&rows[0][0])[i] = 0;

            auto decode = [&](unsigned *to, int from, int u) {
                const unsigned at = own + a.w_at[from];
                if (!mine)
                    return;
                decode_unit<B, unit>(to, at + words_on, u, turn, lane_at, lane);
                if (ZEROS && a.zeros) {
#pragma unroll
                    for (int s = 0; s < unit; s += batch) {
                        uint32_t z;
                        read_shared(&z, at + scales_on + max_strips * (32 * PARTS) + (u * unit + s) / steps::part * 4, 1);
                        subtract_zero<BF16, batch * 4>(to + 4 * s, z);
                    }
                }
            };
            auto release_x = [&]() {
                if (lane == 0)
                    barrier_arrive(x_barriers + x.stage * 16 + 8);
                advance(x, a.x_stages);
            };

            if (ahead && begin < end) {
                barrier_wait(w_barriers + w.stage * 16, w.parity);
                decode(rows[0], w.stage, 0);
            }
            /* One brick; rows[first] holds its first unit if units are decoded ahead. */
            auto one_brick = [&](auto first, int brick) {
                const int stage = w.stage;
                if (!ahead) {
                    barrier_wait(w_barriers + stage * 16, w.parity);
                    decode(rows[0], stage, 0);
                }
                advance(w, a.w_stages);
                uint32_t scale[PARTS];
                read_shared(scale, own + a.w_at[stage] + scales_on, PARTS);
#pragma unroll
                for (int u = 0; u < units; u++) {
                    const int now = !ahead ? 0 : (first.value + u) & 1;
#pragma unroll
                    for (int c = 0; c < chunks; c++) {
                        if (u == 0)
                            barrier_wait(x_barriers + x.stage * 16, x.parity);
                        const uint64_t tokens = tile_descriptor(a.x_at[x.stage]);
#pragma unroll
                        for (int b = 0; b < unit; b += batch) {
                            hold<batch * 4>(rows[now] + 4 * b);
                            hold<NP / 2>(part);
                            wgmma_begin();
#pragma unroll
                            for (int j = b; j < b + batch; j++) {
                                const int s = u * unit + j;
                                wgmma<NP, BF16>(part, rows[now] + 4 * j, tokens + (s >> 2) * (NP * 8) + (s & 3) * 2,
                                                s % steps::part != 0);
                            }
                            wgmma_commit();
                            if (ahead && c == chunks - 1 && b + batch == unit) {
                                if (u + 1 < units) {
                                    decode(rows[now ^ 1], stage, u + 1);
                                } else if (brick + 1 < end) {
                                    barrier_wait(w_barriers + w.stage * 16, w.parity);
                                    decode(rows[now ^ 1], w.stage, 0);
                                }
                            }
                            wgmma_wait<0>();
                            hold<NP / 2>(part);
                            hold<batch * 4>(rows[now] + 4 * b);
                            const int done = u * unit + b + batch;
                            if (done % steps::part == 0) {
                                const uint32_t pair = scale[done / steps::part - 1];
                                const float s0 = half_of(pair, 0), s1 = half_of(pair, 1);
#pragma unroll
                                for (int i = 0; i < NP / 2; i++)
                                    sum[c * (NP / 2) + i] = fmaf(i & 2 ? s1 : s0, part[i], sum[c * (NP / 2) + i]);
                            }
                        }
                        if (u == units - 1)
                            release_x();
                    }
                }
                if (lane == 0)
                    barrier_arrive(w_barriers + stage * 16 + 8);
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
   AHEAD: a brick is decoded beside the products of the one before even where it is one unit. */
#define LUT_WGMMA_TABLE(do)                                                                        \
    do(0, 32, 32, 4, 0, 0)                                                                         \
    do(1, 64, 64, 4, 0, 0)                                                                         \
    do(2, 64, 64, 2, 0, 1)                                                                         \
    do(3, 128, 64, 2, 1, 0)                                                                        \
    do(4, 256, 64, 2, 0, 1)                                                                        \
    do(5, 128, 64, 3, 0, 0)                                                                        \
    do(6, 32, 32, 2, 0, 0)                                                                         \
    do(7, 256, 64, 2, 1, 0)

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
