/* lut_wgmma_fetch.cuh - the fetching warpgroup of lut_wgmma.cuh: two rings of stages in shared memory, one
   of codes and scales, one of activations. */
#ifndef LU_KERN_CUDA_LUT_WGMMA_FETCH_CUH
#define LU_KERN_CUDA_LUT_WGMMA_FETCH_CUH

#include "kern/cuda/lut_wgmma_parts.cuh"

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
static __device__ __forceinline__ void fetch_weights(const lut_wgmma_args &a, int max_strips, int thread, unsigned barriers)
{
    const int lane = thread & 31, warp = thread >> 5;
    const int64_t strip_bytes = (int64_t)a.n_bricks * (256 * B);
    lut_ring r = {0, 1}; /* the first round finds every stage empty */
    lut_walk walk = walk_open(a);
    for (lut_part part; walk_on(a, walk, part);) {
        const lut_tile tile = tile_at(a, part.tile, NT);
        const char *words = (const char *)a.words + (tile.strip + warp) * strip_bytes + lane * 16;
        const int scale = thread / (2 * PARTS), piece = thread % (2 * PARTS) * 16;
        const int64_t scale_row = (int64_t)(tile.strip + scale) * a.n_entries;
        for (int brick = part.begin; brick < part.end; brick++) {
            barrier_wait(barriers + r.stage * 16 + 8, r.parity);
            const unsigned to = a.w_at[r.stage];
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

/* One warp brings the activations, NT tokens of 64 columns at a time. */
template <int NT>
static __device__ __forceinline__ void fetch_x(const lut_wgmma_args &a, const CUtensorMap *map, int lane, unsigned barriers)
{
    lut_ring r = {0, 1};
    asm volatile("griddepcontrol.wait;" ::: "memory");
    lut_walk walk = walk_open(a);
    for (lut_part part; walk_on(a, walk, part);) {
        const int token = tile_at(a, part.tile, NT).token;
        for (int half = 2 * part.begin; half < 2 * part.end; half++) {
            const unsigned full = barriers + r.stage * 16, at = a.x_at[r.stage];
            barrier_wait(full + 8, r.parity);
            if (a.plain_x) {
                for (int i = lane; i < NT * 8; i += 32) {
                    const int row = i >> 3, chunk = i & 7, column = half * 64 + chunk * 8;
                    unsigned v[4] = {0, 0, 0, 0};
                    if (token + row < a.m) {
                        const uint16_t *from = a.x + (token + row) * a.ldx + column;
#pragma unroll
                        for (int e = 0; e < 8; e++)
                            if (column + e < a.k)
                                v[e >> 1] |= (unsigned)from[e] << (16 * (e & 1));
                    }
                    asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(at + row * 128 + ((chunk ^ (row & 7)) << 4)),
                                 "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3])
                                 : "memory");
                }
                publish_shared();
                barrier_arrive(full);
            } else if (lane == 0) {
                barrier_expect(full, NT * 128);
                tensor_copy(at, map, half * 64, token, full);
            }
            __syncwarp();
            advance(r, a.x_stages);
        }
    }
}

#endif
