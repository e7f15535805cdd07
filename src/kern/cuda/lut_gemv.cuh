/* lut_gemv.cuh - the small-M kernel: weights stream once from memory, activations ride along.

   Persistent: one block of 16 warps per SM. Work is cut into units of WR row blocks (64 rows each)
   x WK = 16 / WR stages of 64 columns, ordered row block first; block c takes units
   [c U / G, (c+1) U / G). Inside a unit each warp owns one stage: it decodes 64 x 64 codes through a
   pair table that every bank holds a copy of (so look-ups never conflict), feeds them as the
   16-row operand of mma.m16n8k16 (tokens are n = 8), and scales the float32 sums once per group.
   Where a row block ends, the 16 warps' sums are added in warp order; where a row block is shared
   by several thread blocks, each writes its part to scratch and the last to arrive adds the parts
   in block order. Both orders are fixed, so results repeat bit by bit. */
#ifndef LU_KERN_CUDA_LUT_GEMV_CUH
#define LU_KERN_CUDA_LUT_GEMV_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "lut_layout.cuh"

/* Warps of a block and stages in flight, by tokens: what the register file allows. */
template <int NT, bool GENERAL> struct lut_plan {
    static const int warps = NT <= 2 ? 16 : 8;
    static const int threads = 32 * warps;
    static const int slots = NT == 1 && !GENERAL ? 3 : 2;
    static const int rows_at_once = NT == 1 && !GENERAL ? 4 : 2;      /* row tiles whose sums are open */
    static const int red_stride = 64 + 4;                 /* floats per token: no bank conflicts */
    static const int red_floats = 8 * NT * red_stride;    /* per warp */
    static const int x_bytes = slots * NT * 2 * 32 * 16;  /* per warp */
};

struct lut_gemv_args {
    const uint32_t *words;
    const uint16_t *scales, *zeros; /* fp16 bits */
    const uint16_t *x; /* rows start on 16 bytes, k is a multiple of 8 */
    uint16_t *y;
    const uint16_t *bias;
    int64_t ldx, ldy;
    int n, k, m;
    int n_rb, n_kt, n_groups;
    int stages_per_group_log2; /* group of 64 << log2 columns; 31 = the whole row; -1 = 32 columns */
    int wr;                    /* row blocks per unit: 1, 2, 4 */
    int n_ku, n_units;         /* units across, units in all */
    int *counters;             /* [grid], zero between launches */
    float *parts;              /* [grid][2][wr * 64 * 8 NT] */
    uint16_t table[256];
};

template <int B, bool GENERAL> struct lut_stage {
    uint4 w[B];
    uint4 s[GENERAL ? 2 : 1];
    uint4 z[GENERAL ? 2 : 1];
};

static __device__ __forceinline__ uint4 load_once(const void *p)
{
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}

static __device__ __forceinline__ unsigned word_of(const uint4 *w, int i)
{
    const uint4 v = w[i >> 2];
    return (i & 3) == 0 ? v.x : (i & 3) == 1 ? v.y : (i & 3) == 2 ? v.z : v.w;
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

/* Bytes of the table in shared memory: entries of 128 bytes, one copy a bank. */
template <int B> struct lut_table_bytes {
    static const int value = B == 3 ? 64 * 128 : 256 * 128;
};

template <int B>
static __device__ __forceinline__ void build_table(char *table, const uint16_t *t, int threads)
{
    const int entries = B == 3 ? 64 : 256;
    for (int i = threadIdx.x; i < entries * 8; i += threads) { /* 16 bytes each */
        const int e = i >> 3;
        unsigned lo, hi;
        if (B == 8) {
            lo = hi = t[e] | (unsigned)t[e] << 16;
        } else if (B == 2) { /* four codes: an 8-byte entry, 16 copies */
            lo = t[e & 3] | (unsigned)t[e >> 2 & 3] << 16;
            hi = t[e >> 4 & 3] | (unsigned)t[e >> 6] << 16;
        } else {
            lo = hi = t[e & ((1 << B) - 1)] | (unsigned)t[e >> B] << 16;
        }
        *(uint4 *)(table + i * 16) = make_uint4(lo, hi, lo, hi);
    }
}

/* The four A registers of step j of a row tile whose words start at index r * B. */
template <int B>
static __device__ __forceinline__ void decode(const char *table, const uint4 *w, int r, int j,
                                              unsigned lane_at, unsigned a[4])
{
    if (B == 4) {
        const unsigned v = word_of(w, r * 4 + j);
        a[0] = *(const unsigned *)(table + ((v << 7 & 0x7f80u) | lane_at));
        a[1] = *(const unsigned *)(table + ((v >> 1 & 0x7f80u) | lane_at));
        a[2] = *(const unsigned *)(table + ((v >> 9 & 0x7f80u) | lane_at));
        a[3] = *(const unsigned *)(table + ((v >> 17 & 0x7f80u) | lane_at));
    } else if (B == 3) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int p = 4 * j + i;
            unsigned at;
            if (p < 15) {
                const unsigned v = word_of(w, r * 3 + p % 3);
                const int shift = 6 * (p / 3) - 7;
                at = (shift < 0 ? v << (shift < 0 ? -shift : 0) : v >> (shift < 0 ? 0 : shift)) & 0x1f80u;
            } else {
                at = (word_of(w, r * 3) >> 23 & 0x180u) | (word_of(w, r * 3 + 1) >> 21 & 0x600u) |
                     (word_of(w, r * 3 + 2) >> 19 & 0x1800u);
            }
            a[i] = *(const unsigned *)(table + (at | lane_at));
        }
    } else if (B == 2) {
        const unsigned v = word_of(w, r * 2 + (j >> 1));
        const unsigned at0 = (j & 1) ? v >> 9 : v << 7, at1 = (j & 1) ? v >> 17 : v >> 1;
        const uint2 q0 = *(const uint2 *)(table + ((at0 & 0x7f80u) | lane_at));
        const uint2 q1 = *(const uint2 *)(table + ((at1 & 0x7f80u) | lane_at));
        a[0] = q0.x;
        a[2] = q0.y;
        a[1] = q1.x;
        a[3] = q1.y;
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const unsigned v = word_of(w, r * 8 + 2 * j + (i >> 1)) >> (16 * (i & 1));
            const unsigned lo = *(const unsigned *)(table + ((v << 7 & 0x7f80u) | lane_at));
            const unsigned hi = *(const unsigned *)(table + ((v >> 1 & 0x7f80u) | lane_at));
            a[i] = __byte_perm(lo, hi, 0x5410);
        }
    }
}

/* Sixteen bytes to shared memory, or zeros where `inside` is false. */
static __device__ __forceinline__ void fetch_x(const uint16_t *from, uint4 *to, bool inside)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"((unsigned)__cvta_generic_to_shared(to)), "l"(from), "r"(inside ? 16 : 0) : "memory");
}

static __device__ __forceinline__ float scale_of(const uint4 s, int r, int h)
{
    const unsigned v = r == 0 ? s.x : r == 1 ? s.y : r == 2 ? s.z : s.w;
    const __half2 p = *(const __half2 *)&v;
    return h ? __high2float(p) : __low2float(p);
}

/* Where a warp's next stage lies. Stages past the right or lower edge are read from the edge
   instead: their activations are zero, or their rows are never stored. */
template <int NT> struct lut_cursor {
    int rb, kt, ku;
    const uint16_t *x; /* this lane's columns of token lane / 4 at kt = 0 */
    bool token[NT];
};

/* Starts the loads of a stage: codes and scales to registers, activations to shared memory. */
template <int B, int NT, bool GENERAL>
static __device__ __forceinline__ void load_stage(const lut_gemv_args &a, lut_stage<B, GENERAL> &st, uint4 *x,
                                                  const lut_cursor<NT> &at, int lane)
{
    const int rb = min(at.rb, a.n_rb - 1), kt = min(at.kt, a.n_kt - 1);
    const uint32_t *w = a.words + (int64_t)(rb * a.n_kt + kt) * (B * 128) + lane * 4;
#pragma unroll
    for (int v = 0; v < B; v++)
        st.w[v] = load_once(w + v * 128);
    const int g0 = a.stages_per_group_log2 < 0 ? kt * 2 : kt >> a.stages_per_group_log2;
    const int64_t sa = (int64_t)(rb * a.n_groups + g0) * 64 + (lane >> 2) * 8;
    st.s[0] = load_once(a.scales + sa);
    if (GENERAL) {
        const uint4 none = make_uint4(0, 0, 0, 0);
        const int64_t sb = a.stages_per_group_log2 < 0 && kt * 2 + 1 < a.n_groups ? sa + 64 : sa;
        st.s[1] = load_once(a.scales + sb);
        st.z[0] = a.zeros ? load_once(a.zeros + sa) : none;
        st.z[1] = a.zeros ? load_once(a.zeros + sb) : none;
    }
    const int col = kt * 64 + (lane & 3) * 8;
    const bool in0 = at.kt < a.n_kt && col < a.k, in1 = at.kt < a.n_kt && col + 32 < a.k;
    const uint16_t *from = at.x + kt * 64;
#pragma unroll
    for (int t = 0; t < NT; t++) {
        const uint16_t *row = at.token[t] ? from + t * 8 * a.ldx : a.x;
        fetch_x(in0 ? row : a.x, x + (t * 2) * 32 + lane, at.token[t] && in0);
        fetch_x(in1 ? row + 32 : a.x, x + (t * 2 + 1) * 32 + lane, at.token[t] && in1);
    }
}

template <int B, int NT, bool BF16, bool GENERAL>
static __device__ __forceinline__ void compute_stage(const char *table, const lut_stage<B, GENERAL> &st,
                                                     const uint4 *x, unsigned lane_at, int lane,
                                                     float acc[4][NT][4])
{
    const int parts = GENERAL ? 2 : 1; /* sums per group of scales within the stage */
    const int steps = 4 / parts, RO = lut_plan<NT, GENERAL>::rows_at_once;
    const unsigned one = BF16 ? 0x3f803f80u : 0x3c003c00u;
    const unsigned ones[4] = {one, one, one, one};
#pragma unroll
    for (int h = 0; h < parts; h++) {
        float sum_x[NT][4] = {};
#pragma unroll
        for (int r0 = 0; r0 < 4; r0 += RO) {
            float c[RO][NT][4] = {};
#pragma unroll
            for (int jj = 0; jj < steps; jj++) {
                const int j = h * steps + jj;
                unsigned b[NT][2];
#pragma unroll
                for (int t = 0; t < NT; t++) {
                    const uint2 v = *((const uint2 *)(x + (t * 2 + (j >> 1)) * 32 + lane) + (j & 1));
                    b[t][0] = v.x;
                    b[t][1] = v.y;
                    if (GENERAL && r0 == 0)
                        mma16816<BF16>(sum_x[t], ones, v.x, v.y);
                }
#pragma unroll
                for (int r = 0; r < RO; r++) {
                    unsigned a[4];
                    decode<B>(table, st.w, r0 + r, j, lane_at, a);
#pragma unroll
                    for (int t = 0; t < NT; t++)
                        mma16816<BF16>(c[r][t], a, b[t][0], b[t][1]);
                }
            }
#pragma unroll
            for (int r = 0; r < RO; r++) {
                const float s0 = scale_of(st.s[h], r0 + r, 0), s1 = scale_of(st.s[h], r0 + r, 1);
                const float z0 = GENERAL ? scale_of(st.z[h], r0 + r, 0) : 0;
                const float z1 = GENERAL ? scale_of(st.z[h], r0 + r, 1) : 0;
#pragma unroll
                for (int t = 0; t < NT; t++)
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        const float v = GENERAL ? fmaf(-(e < 2 ? z0 : z1), sum_x[t][e], c[r][t][e]) : c[r][t][e];
                        acc[r0 + r][t][e] = fmaf(e < 2 ? s0 : s1, v, acc[r0 + r][t][e]);
                    }
            }
        }
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

/* Adds the warps' sums of row-block group `rbg`, whose units [ku0, ku1) this block has done, and
   stores them, or hands them to the block that arrives last. red: [warp][token][row]. */
template <int NT, bool BF16>
static __device__ __noinline__ void finish_rows(const lut_gemv_args &a, float *red, int rbg, int ku0, int ku1,
                                                bool first_segment)
{
    __shared__ int last;
    const int threads = lut_plan<NT, false>::threads, wk = lut_plan<NT, false>::warps / a.wr;
    const int total = a.wr * 64 * a.m, stride = a.wr * 64 * 8 * NT;
    const bool whole = ku0 == 0 && ku1 == a.n_ku;
    const int grid = (int)gridDim.x;
    float *parts = a.parts + ((int64_t)blockIdx.x * 2 + (first_segment ? 0 : 1)) * stride;
    __syncthreads();
    for (int i = (int)threadIdx.x; i < total; i += threads) {
        const int row = i & 63, wr = (i >> 6) % a.wr, token = (i >> 6) / a.wr;
        const float *from = red + wr * wk * lut_plan<NT, false>::red_floats + token * lut_plan<NT, false>::red_stride + row;
        float v = 0;
        for (int w = 0; w < wk; w++)
            v += from[w * lut_plan<NT, false>::red_floats];
        if (whole)
            store_y<BF16>(a, (rbg * a.wr + wr) * 64 + row, token, v);
        else
            __stcg(parts + i, v);
    }
    if (whole) {
        __syncthreads();
        return;
    }
    const int64_t u_first = (int64_t)rbg * a.n_ku, u_last = u_first + a.n_ku - 1;
    const int c0 = (int)(((u_first + 1) * grid - 1) / a.n_units), c1 = (int)(((u_last + 1) * grid - 1) / a.n_units);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0)
        last = atomicAdd(a.counters + c0, 1) == c1 - c0;
    __syncthreads();
    if (last) {
        __threadfence();
        /* only the first contributor can have its part in slot 1: its range may begin earlier */
        const bool c0_first = (int64_t)c0 * a.n_units / grid / a.n_ku == rbg;
        for (int i = (int)threadIdx.x; i < total; i += threads) {
            const int row = i & 63, wr = (i >> 6) % a.wr, token = (i >> 6) / a.wr;
            const float *from = a.parts + (int64_t)c0 * 2 * stride + i;
            float v = __ldcg(from + (c0_first ? 0 : stride));
#pragma unroll 4
            for (int c = 1; c <= c1 - c0; c++)
                v += __ldcg(from + (int64_t)c * 2 * stride);
            store_y<BF16>(a, (rbg * a.wr + wr) * 64 + row, token, v);
        }
        if (threadIdx.x == 0)
            a.counters[c0] = 0;
    }
    __syncthreads();
}

template <int B, int NT, bool BF16, bool GENERAL>
static __global__ void __launch_bounds__(lut_plan<NT, GENERAL>::threads, 1) lut_gemv(const __grid_constant__ lut_gemv_args a)
{
    typedef lut_plan<NT, GENERAL> plan;
    extern __shared__ char shared[];
    char *table = shared;
    const int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5;
    uint4 *x = (uint4 *)(shared + lut_table_bytes<B>::value + warp * plan::x_bytes);
    float *red = (float *)(shared + lut_table_bytes<B>::value + plan::warps * plan::x_bytes);
    const int n_wk = plan::warps / a.wr, wr = warp / n_wk, wk = warp % n_wk;
    const unsigned lane_at = B == 2 ? (lane & 15) * 8 : lane * 4;
    const int u0 = (int)((int64_t)blockIdx.x * a.n_units / gridDim.x);
    const int u1 = (int)((int64_t)(blockIdx.x + 1) * a.n_units / gridDim.x);

    lut_stage<B, GENERAL> st[plan::slots];
    int rbg = u0 / a.n_ku, ku = u0 % a.n_ku, ku_begin = ku;
    lut_cursor<NT> at;
    at.rb = rbg * a.wr + wr;
    at.ku = ku;
    at.kt = ku * n_wk + wk;
    at.x = a.x + (lane >> 2) * a.ldx + (lane & 3) * 8;
    for (int t = 0; t < NT; t++)
        at.token[t] = t * 8 + (lane >> 2) < a.m;
    bool first_segment = true;
    float acc[4][NT][4] = {};

    /* one cp.async group per stage, empty past the end, so that the waits below count right */
#define LUT_LOAD(slot, unit)                                                                      \
    if ((unit) < u1) {                                                                            \
        load_stage<B, NT, GENERAL>(a, st[slot], x + (slot) * NT * 64, at, lane);                  \
        at.kt += n_wk;                                                                            \
        if (++at.ku == a.n_ku) {                                                                  \
            at.ku = 0;                                                                            \
            at.kt = wk;                                                                           \
            at.rb += a.wr;                                                                        \
        }                                                                                         \
    }                                                                                             \
    asm volatile("cp.async.commit_group;" ::: "memory");
#pragma unroll
    for (int slot = 0; slot < plan::slots; slot++) {
        LUT_LOAD(slot, u0 + slot)
    }
    build_table<B>(table, a.table, plan::threads);
    __syncthreads();

    for (int u = u0; u < u1; u += plan::slots) {
#pragma unroll
        for (int slot = 0; slot < plan::slots; slot++) {
            if (u + slot >= u1)
                break;
            asm volatile("cp.async.wait_group %0;" :: "n"(plan::slots - 1) : "memory");
            __syncwarp();
            compute_stage<B, NT, BF16, GENERAL>(table, st[slot], x + slot * NT * 64, lane_at, lane, acc);
            __syncwarp();
            LUT_LOAD(slot, u + slot + plan::slots)
            const bool row_done = ++ku == a.n_ku;
            if (row_done || u + slot + 1 == u1) {
                float *mine = red + warp * plan::red_floats + (lane & 3) * 2 * plan::red_stride + (lane >> 2);
#pragma unroll
                for (int t = 0; t < NT; t++)
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        if (t * 8 + (lane & 3) * 2 + (e & 1) < a.m)
#pragma unroll
                            for (int r = 0; r < 4; r++)
                                mine[(t * 8 + (e & 1)) * plan::red_stride + r * 16 + (e >> 1) * 8] = acc[r][t][e];
#pragma unroll
                        for (int r = 0; r < 4; r++)
                            acc[r][t][e] = 0;
                    }
                finish_rows<NT, BF16>(a, red, rbg, ku_begin, ku, first_segment);
                first_segment = false;
                ku_begin = 0;
                if (row_done) {
                    ku = 0;
                    rbg++;
                }
            }
        }
    }
#undef LUT_LOAD
}

/* One translation unit per B instantiates these. */
template <int B> int lut_gemv_launch(const lut_gemv_args &a, int nt, int bf16, int general, int grid, cudaStream_t st);

template <int B, int NT, bool BF16, bool GENERAL>
static int lut_gemv_start(const lut_gemv_args &a, int grid, cudaStream_t st)
{
    typedef lut_plan<NT, GENERAL> plan;
    const int bytes = lut_table_bytes<B>::value + plan::warps * (plan::x_bytes + plan::red_floats * (int)sizeof(float));
    const cudaError_t e = cudaFuncSetAttribute(lut_gemv<B, NT, BF16, GENERAL>,
                                               cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (e != cudaSuccess)
        return (int)e;
    lut_gemv<B, NT, BF16, GENERAL><<<grid, plan::threads, bytes, st>>>(a);
    return (int)cudaGetLastError();
}

#define LUT_GEMV_INSTANTIATE(B)                                                                   \
    template <> int lut_gemv_launch<B>(const lut_gemv_args &a, int nt, int bf16, int general,     \
                                       int grid, cudaStream_t st)                                 \
    {                                                                                             \
        const int key = (nt > 1) * 4 + (nt > 2) * 4 + (bf16 != 0) * 2 + (general != 0);           \
        switch (key) {                                                                            \
        case 0: return lut_gemv_start<B, 1, false, false>(a, grid, st);                           \
        case 1: return lut_gemv_start<B, 1, false, true>(a, grid, st);                            \
        case 2: return lut_gemv_start<B, 1, true, false>(a, grid, st);                            \
        case 3: return lut_gemv_start<B, 1, true, true>(a, grid, st);                             \
        case 4: return lut_gemv_start<B, 2, false, false>(a, grid, st);                           \
        case 5: return lut_gemv_start<B, 2, false, true>(a, grid, st);                            \
        case 6: return lut_gemv_start<B, 2, true, false>(a, grid, st);                            \
        case 7: return lut_gemv_start<B, 2, true, true>(a, grid, st);                             \
        case 8: return lut_gemv_start<B, 4, false, false>(a, grid, st);                           \
        case 9: return lut_gemv_start<B, 4, false, true>(a, grid, st);                            \
        case 10: return lut_gemv_start<B, 4, true, false>(a, grid, st);                           \
        default: return lut_gemv_start<B, 4, true, true>(a, grid, st);                            \
        }                                                                                         \
    }

#endif
