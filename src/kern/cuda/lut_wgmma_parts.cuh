/* lut_wgmma_parts.cuh - which parts of which tiles a block of lut_wgmma.cuh takes, and how parts become a
   tile.

   Tiles are whole and go round by round, except the first `shared_tiles`: their bricks are shared out
   evenly among all blocks, one range each, cut along K where that falls. A warpgroup lays the sums of its share of a
   cut tile down in memory and counts; who counts the last part adds all of them up in the order of
   K. Nobody waits for another block, so blocks need not run at once. */
#ifndef LU_KERN_CUDA_LUT_WGMMA_PARTS_CUH
#define LU_KERN_CUDA_LUT_WGMMA_PARTS_CUH

#include "kern/cuda/lut_wgmma_ops.cuh"

#define LUT_WGMMA_STAGES 12 /* of each ring, at most */
#define LUT_WGMMA_BAND 4

/* Named barriers; of the last two kinds one to a warpgroup. */
enum { SYNC_ALL = 1, SYNC_GROUP = 2, SYNC_TURN = 8 };

struct lut_wgmma_args {
    const uint32_t *words, *scales, *zeros;
    const uint16_t *x;
    uint16_t *y;
    const uint16_t *bias;
    int64_t ldx, ldy;
    int n, k, m;
    int n_strips, n_bricks, n_entries, bricks_per_entry;
    int row_tiles, token_tiles;
    int shared_tiles; /* the first tiles, shared out by bricks; the others go round by round */
    float4 *parts;    /* two of a tile for every block */
    unsigned *done;   /* [shared_tiles][C] parts that lie there; zero between launches */
    int plain_x;  /* x is copied element by element */
    int y_vector; /* rows of y start on 16 bytes */
    int x_stages, w_stages;
    unsigned x_at[LUT_WGMMA_STAGES], w_at[LUT_WGMMA_STAGES]; /* shared addresses */
    unsigned barriers_at, staging_at;
    uint16_t table[256];
};

/* Where a tile lies. */
struct lut_tile {
    int strip, strips, token; /* first strip, number of strips, first token */
};

/* Blocks of one round share up to LUT_WGMMA_BAND token tiles, so that they find codes and activations in L2. */
static __device__ __forceinline__ lut_tile tile_at(const lut_wgmma_args &a, int tile, int tokens)
{
    lut_tile v;
    const int first = tile / (a.row_tiles * LUT_WGMMA_BAND) * LUT_WGMMA_BAND, rest = tile - first * a.row_tiles;
    const int band = min(LUT_WGMMA_BAND, a.token_tiles - first), r = rest / band;
    v.strip = (int)((int64_t)r * a.n_strips / a.row_tiles);
    v.strips = (int)((int64_t)(r + 1) * a.n_strips / a.row_tiles) - v.strip;
    v.token = (first + rest - r * band) * tokens;
    return v;
}

/* The parts of tiles that a block takes, one after the other. */
struct lut_walk {
    int64_t at, end; /* bricks of the shared tiles */
    int tile;        /* the next of the others */
};

struct lut_part {
    int tile, begin, end; /* bricks */
};

/* The first of all bricks of the shared tiles that block b takes. */
static __device__ __forceinline__ int64_t shared_start(const lut_wgmma_args &a, int b)
{
    return (int64_t)a.shared_tiles * a.n_bricks * b / (int)gridDim.x;
}

/* The block that takes brick u of them. */
static __device__ __forceinline__ int shared_owner(const lut_wgmma_args &a, int64_t u)
{
    return (int)(((u + 1) * (int)gridDim.x - 1) / ((int64_t)a.shared_tiles * a.n_bricks));
}

static __device__ __forceinline__ lut_walk walk_open(const lut_wgmma_args &a)
{
    const int b = (int)blockIdx.x;
    return {shared_start(a, b), shared_start(a, b + 1), a.shared_tiles + b};
}

static __device__ __forceinline__ bool walk_on(const lut_wgmma_args &a, lut_walk &w, lut_part &p)
{
    if (w.at < w.end) {
        p.tile = (int)(w.at / a.n_bricks);
        p.begin = (int)(w.at - (int64_t)p.tile * a.n_bricks);
        p.end = (int)min((int64_t)a.n_bricks, p.begin + w.end - w.at);
        w.at += p.end - p.begin;
        return true;
    }
    if (w.tile >= a.row_tiles * a.token_tiles)
        return false;
    p = {w.tile, 0, a.n_bricks};
    w.tile += (int)gridDim.x;
    return true;
}

/* Where block b's part of a shared tile lies: its first tile's or a later one's. */
template <int NT, int C>
static __device__ __forceinline__ float4 *part_at(const lut_wgmma_args &a, int tile, int b, int group)
{
    const int later = tile != (int)(shared_start(a, b) / a.n_bricks);
    return a.parts + ((2 * b + later) * C + group) * (NT / 8 * 128);
}

/* sum += the parts of blocks b, b + 1 .. of a tile. */
template <int NT, int C, int COUNT>
static __device__ __forceinline__ void add_parts(const lut_wgmma_args &a, int tile, int b, int group, int thread, float *sum)
{
    float4 v[COUNT][NT / 8];
#pragma unroll
    for (int r = 0; r < COUNT; r++) {
        const float4 *from = part_at<NT, C>(a, tile, b + r, group) + thread;
#pragma unroll
        for (int i = 0; i < NT / 8; i++)
            v[r][i] = __ldcg(from + i * 128);
    }
#pragma unroll
    for (int r = 0; r < COUNT; r++)
#pragma unroll
        for (int i = 0; i < NT / 8; i++) {
            sum[4 * i] += v[r][i].x;
            sum[4 * i + 1] += v[r][i].y;
            sum[4 * i + 2] += v[r][i].z;
            sum[4 * i + 3] += v[r][i].w;
        }
}

/* One warpgroup's share of a tile of which this block has a part: lays its sums down, and if all parts
   are there, takes all of them in the order of K. Returns whether sum is whole. */
template <int NT, int C>
static __device__ __forceinline__ bool join_parts(const lut_wgmma_args &a, int tile, int group, int thread, unsigned staging,
                                                  float *sum)
{
    const int b = (int)blockIdx.x, first = shared_owner(a, (int64_t)tile * a.n_bricks);
    const int last = shared_owner(a, (int64_t)(tile + 1) * a.n_bricks - 1);
    float4 *own = part_at<NT, C>(a, tile, b, group) + thread;
#pragma unroll
    for (int i = 0; i < NT / 8; i++)
        __stcg(own + i * 128, make_float4(sum[4 * i], sum[4 * i + 1], sum[4 * i + 2], sum[4 * i + 3]));
    __threadfence();
    sync_some(SYNC_GROUP + group, 128);
    if (thread == 0) {
        unsigned *done = a.done + tile * C + group;
        const unsigned before = atomicAdd(done, 1u), all = before == (unsigned)(last - first);
        if (all)
            *done = 0;
        __threadfence();
        asm volatile("st.shared.u32 [%0], %1;" ::"r"(staging), "r"(all) : "memory");
    }
    sync_some(SYNC_GROUP + group, 128);
    uint32_t all;
    read_shared(&all, staging, 1);
    sync_some(SYNC_GROUP + group, 128); /* before staging is written again */
    if (!all)
        return false;
    if (last - first == 1) { /* an addition of two has no order */
        add_parts<NT, C, 1>(a, tile, first == b ? last : first, group, thread, sum);
        return true;
    }
#pragma unroll
    for (int i = 0; i < NT / 2; i++)
        sum[i] = 0;
    int r = first;
    const int together = NT < 128 ? 128 / NT : 1;
    for (; r + together <= last + 1; r += together)
        add_parts<NT, C, together>(a, tile, r, group, thread, sum);
    for (; r <= last; r++)
        add_parts<NT, C, 1>(a, tile, r, group, thread, sum);
    return true;
}

#endif
