/* lut_gemv.cuh - the small-M kernel: weights stream once from memory, activations stay put.

   One block per SM owns a range of strips (16 rows, all of K), so no sum crosses blocks. Its warps
   form n_wk columns x n_ws rows: warp (wk, ws) takes chunks wk, wk + n_wk, ... of strips ws,
   ws + n_ws, ...; chunk outer, strip inner, so the activations of a chunk are fetched once and stay
   in registers. A unit is a chunk (1 or 2 bricks) of a strip: its codes arrive in registers units
   ahead, become weights (lut_brick.cuh) and feed mma.m16n8k16 as the 16-row operand (tokens are
   n = 8).
   Sums are float32, scaled once per group, and kept per (strip, wk) in shared memory, each slot
   owned by one lane; at the end of a pass over the strips they are added over wk in order. That
   order is fixed for a shape and a device, so results repeat bit by bit.
   Weights do not depend on the kernel ahead: they are fetched before griddepcontrol.wait, all else
   is touched after it. */
#ifndef LU_KERN_CUDA_LUT_GEMV_CUH
#define LU_KERN_CUDA_LUT_GEMV_CUH

#include "kern/cuda/lut_brick.cuh"

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
template <int WAY>
static __device__ __forceinline__ unsigned sums_at(const lut_gemv_args &a, unsigned below, int strip, int strip_bytes)
{
    return !lut_needs_table(WAY) || strip < a.strips_below
               ? below + strip * strip_bytes
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
template <int NT, bool BF16, int WAY>
static __device__ __forceinline__ void finish_pass(const lut_gemv_args &a, unsigned below, int first, int strips)
{
    const int pairs = a.pairs_shift, shift = pairs + (NT == 1 ? 3 : NT == 2 ? 4 : 5), per_sum = 1 << shift;
    __syncthreads();
    for (int i = (int)threadIdx.x; i < strips << shift; i += (int)blockDim.x) {
        const int strip = i >> shift, slot = i & (per_sum - 1);
        const unsigned from = sums_at<WAY>(a, below, strip, a.n_wk * per_sum * 16) + slot * 16;
        float4 v = read_sum(from);
#pragma unroll 4
        for (int w = 1; w < a.n_wk; w++)
            v = add4(v, read_sum(from + w * per_sum * 16));
        const int row = (first + strip) * 16 + (slot >> pairs & 7);
        const int token = (slot >> (pairs + 3)) * 8 + (slot & ((1 << pairs) - 1)) * 2;
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

/* Where a warp's next loads lie within a strip: bricks side by side of one chunk. Past the right edge
   the last brick stands in; its activations are zero. */
struct lut_cursor {
    int brick, entry;
    int words_on, scales_on; /* bytes from the first brick's to the second's */
};

static __device__ __forceinline__ int entry_of(const lut_gemv_args &a, int brick)
{
    return a.entry_shift >= 0 ? brick >> a.entry_shift : brick / a.bricks_per_entry;
}

template <int B, int PARTS, int BRICKS>
static __device__ __forceinline__ lut_cursor cursor_at(const lut_gemv_args &a, int chunk)
{
    lut_cursor c;
    c.brick = chunk * BRICKS;
    const int other = min(c.brick + 1, a.n_bricks - 1);
    c.entry = entry_of(a, c.brick);
    c.words_on = (other - c.brick) * 256 * B;
    c.scales_on = (entry_of(a, other) - c.entry) * 32 * PARTS;
    return c;
}

template <int B, int NT, bool BF16, int PARTS, bool GENERAL, int WAY>
static __global__ void __launch_bounds__(lut_plan<B, NT, PARTS, GENERAL>::warps * 32, 1) lut_gemv(const __grid_constant__ lut_gemv_args a)
{
    const int slots = lut_plan<B, NT, PARTS, GENERAL>::slots, bricks = lut_plan<B, NT, PARTS, GENERAL>::bricks;
    extern __shared__ char shared[];
    unsigned below = (unsigned)__cvta_generic_to_shared(shared);
    const int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5;
    const int ws = (int)(warp * a.by_wk >> 16), wk = warp - ws * a.n_wk;
    unsigned lane_at = lane * 4 | LUT_TABLE_AT >> 8;
    const int block = (int)blockIdx.x, begin = block * a.block_strips + min(block, a.wide_blocks);
    const int end = begin + a.block_strips + (block < a.wide_blocks);
    const int n_chunks = (a.n_bricks + bricks - 1) / bricks, my_chunks = a.warp_chunks + (wk < a.wide_warps);
    const int per_sum = NT * 8 << a.pairs_shift;
    const unsigned mine = (wk * per_sum + (lane >> 2 << a.pairs_shift) + (lane & 3)) * 16;
    const char *words = (const char *)a.words + lane * 16;
    const char *tail = (const char *)a.words + 512 + lane * 8; /* three bits: the short vector */
    const char *scales = (const char *)a.scales + (lane >> 2) * (4 * PARTS);
    const int64_t zeros = GENERAL && a.zeros ? (const char *)a.zeros - (const char *)a.scales : 0;

    asm volatile("" : "+r"(below), "+l"(words), "+l"(tail), "+l"(scales)); /* kept, not computed again and again */

#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
    lut_brick<B, PARTS, GENERAL> unit[slots][bricks];
    int first = begin, strips = min(a.pass_strips, end - begin);
    int rounds = (int)((strips + a.n_ws - 1) * a.by_ws >> 16), left = rounds * my_chunks; /* units to load */
    lut_cursor next = cursor_at<B, PARTS, bricks>(a, wk);
    int next_strip = first + ws, next_end = first + rounds * a.n_ws;

    /* a warp without a strip in the last round works on the last strip; nobody reads its sums */
#define LUT_LOAD(slot)                                                                             \
    if (left > 0) {                                                                                \
        const int strip = min(next_strip, end - 1);                                                \
        const int64_t to = (int64_t)(strip * a.n_bricks + next.brick) * (256 * B);                 \
        const char *scale_at = scales + (int64_t)(strip * a.n_entries + next.entry) * (32 * PARTS); \
        load_brick<B, PARTS, GENERAL>(unit[slot][0], words + to, tail + to, scale_at, zeros);      \
        if (bricks == 2)                                                                           \
            load_brick<B, PARTS, GENERAL>(unit[slot][bricks - 1], words + to + next.words_on,      \
                                          tail + to + next.words_on, scale_at + next.scales_on, zeros); \
        left--;                                                                                    \
        next_strip += a.n_ws;                                                                      \
        if (next_strip >= next_end) {                                                              \
            next_strip = first + ws;                                                               \
            next = cursor_at<B, PARTS, bricks>(a, next.brick / bricks + a.n_wk);                   \
        }                                                                                          \
    }
#pragma unroll
    for (int slot = 0; slot < slots; slot++) {
        LUT_LOAD(slot)
    }
    if (lut_needs_table(WAY)) {
        build_table<B>(shared + (LUT_TABLE_AT - (int)__cvta_generic_to_shared(shared)), a.table);
        __syncthreads();
        asm volatile("" : "+r"(lane_at)::"memory"); /* no look-up moves ahead of the barrier */
    }
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    uint4 x[bricks][NT][4];
    float sums[bricks][NT][PARTS][2];
    for (;;) {
        int slot = 0;
        for (int chunk = wk; chunk < n_chunks; chunk += a.n_wk) {
#pragma unroll
            for (int b = 0; b < bricks; b++) {
                load_x<NT, GENERAL>(a, x[b], chunk * bricks + b, lane);
                if (GENERAL)
                    sum_x<NT, PARTS, BF16>(x[b], sums[b]);
                turn_x<B, NT, WAY>(x[b]);
            }
            int strip = ws;
            const int strip_end = rounds * a.n_ws;
#define LUT_UNIT(at)                                                                               \
    if (at < slots) {                                                                              \
        const int s = at < slots ? at : 0;                                                         \
        float c[bricks][lut_chains<PARTS, bricks>::value][NT][4], out[NT][4];                      \
        float scale[bricks][PARTS][2], zero[bricks][PARTS][2];                                     \
        for (int i = 0; i < bricks * PARTS * 2; i++) {                                             \
            const int b = i / (PARTS * 2), q = i / 2 % PARTS;                                      \
            scale[b][q][i & 1] = half_of(unit[s][b].s[q], i & 1);                                  \
            zero[b][q][i & 1] = GENERAL && zeros ? half_of(unit[s][b].z[GENERAL ? q : 0], i & 1) : 0; \
        }                                                                                          \
        multiply_unit<B, NT, PARTS, bricks, BF16, GENERAL, WAY>(unit[s], x, a.decoder, lane_at, c); \
        LUT_LOAD(s)                                                                                \
        scale_unit<NT, PARTS, bricks, GENERAL>(c, scale, zero, sums, out);                         \
        if ((lane & 3) < 1 << a.pairs_shift)                                                       \
            add_sums<NT>(sums_at<WAY>(a, below, strip, a.n_wk * per_sum * 16) + mine, 128 << a.pairs_shift, out, \
                         chunk == wk);                                                             \
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
                default: LUT_UNIT(5)
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
            rounds = (int)((strips + a.n_ws - 1) * a.by_ws >> 16);
            left = rounds * my_chunks;
            next_strip = first + ws;
            next_end = first + rounds * a.n_ws;
            next = cursor_at<B, PARTS, bricks>(a, wk);
#pragma unroll
            for (int i = 0; i < slots; i++) {
                LUT_LOAD(i)
            }
        }
        finish_pass<NT, BF16, WAY>(a, below, done_first, done_strips);
        if (first >= end)
            break;
    }
#undef LUT_LOAD
}

/* Which kernel runs. */
struct lut_gemv_choice {
    int nt; /* blocks of 8 tokens: 1, 2 or 4 */
    int parts;
    int general; /* zero points, groups of 32, or rows of x that are not vectors */
    int way;
};

template <int B, int NT, bool BF16, int PARTS, bool GENERAL, int WAY>
static int lut_gemv_start(const lut_gemv_args &a, const cudaLaunchConfig_t *config)
{
    if constexpr (NT <= (GENERAL ? LUT_GENERAL_TOKENS : LUT_TOKENS) / 8) {
        const auto kernel = lut_gemv<B, NT, BF16, PARTS, GENERAL, WAY>;
        const cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                   (int)config->dynamicSmemBytes);
        return (int)(e != cudaSuccess ? e : cudaLaunchKernelEx(config, kernel, a));
    }
    return (int)cudaErrorNotSupported;
}

template <int B, bool BF16, int NT, int WAY>
static int lut_gemv_pick(const lut_gemv_args &a, const lut_gemv_choice &c, const cudaLaunchConfig_t *config)
{
    if (!c.general)
        return c.parts == 1 ? lut_gemv_start<B, NT, BF16, 1, false, WAY>(a, config)
                            : lut_gemv_start<B, NT, BF16, 2, false, WAY>(a, config);
    return c.parts == 1   ? lut_gemv_start<B, NT, BF16, 1, true, WAY>(a, config)
           : c.parts == 2 ? lut_gemv_start<B, NT, BF16, 2, true, WAY>(a, config)
                          : lut_gemv_start<B, NT, BF16, 4, true, WAY>(a, config);
}

template <int B, bool BF16, int WAY>
static int lut_gemv_pick_tokens(const lut_gemv_args &a, const lut_gemv_choice &c, const cudaLaunchConfig_t *config)
{
    return c.nt == 1   ? lut_gemv_pick<B, BF16, 1, WAY>(a, c, config)
           : c.nt == 2 ? lut_gemv_pick<B, BF16, 2, WAY>(a, c, config)
                       : lut_gemv_pick<B, BF16, 4, WAY>(a, c, config);
}

/* Launches the kernel of a choice. One source file per B and type instantiates it. */
template <int B, bool BF16>
int lut_gemv_launch(const lut_gemv_args &a, const lut_gemv_choice &c, const cudaLaunchConfig_t *config)
{
    return c.way == LU_CUDA_ARITHMETIC ? lut_gemv_pick_tokens<B, BF16, LU_CUDA_ARITHMETIC>(a, c, config)
                                       : lut_gemv_pick_tokens<B, BF16, LU_CUDA_TABLE>(a, c, config);
}

#endif
