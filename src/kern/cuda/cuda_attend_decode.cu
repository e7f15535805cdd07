/* cuda_attend_decode.cu - attention of single rows over the paged cache, as fast as memory allows.

   A row's positions are cut into splits. A block takes one row, the query heads (8 or 16) that share
   a KV head, and a few splits one after the other; its four warps take tiles of 16 positions in turn,
   and call the next tile's keys as soon as this one's are used up. Nothing is staged: a lane's
   16-byte loads of K and V are, under a permutation of the head's dimensions that both operands
   share, the fragments of mma.m16n8k16:
     scores  S[16 tokens x 8 heads] = K . Q^T      a step of 32 dimensions: lane t holds 8 t .. 8 t + 7
     output  O[dims x 8 heads]     += V^T . P^T    rows g, g + 8 of tile j: dimensions 8 g + 2 j, + 1
   P^T comes out of S by one transpose per 8 x 8. Softmax is online in float32, base 2.

   Splits follow from the row's own position and window alone, so a result does not depend on the
   batch. A row with several splits leaves partial sums in scratch; the last of its blocks to finish
   adds them in order of position and puts the counter back to 0.

   With rotation, a block first rotates its queries into shared memory, and the one with the row's own
   position also k into the cache, beside v. */
#include "kern/cuda/act_values.cuh"
#include "kern/cuda/cuda_kv.cuh"
#include "kern/cuda/cuda_launch.cuh"
#include "kern/cuda/cuda_mma.cuh"

namespace {

enum {
    WARPS = 4,
    TILE = 16,         /* positions a warp takes at once */
    LEAST_SHIFT = 7,   /* 128 positions; larger splits are doubles of it */
    MOST_SPLITS = 32,  /* of a row */
    AT_ONCE = 16,      /* splits called at once when they are added up */
    MOST_BLOCK_SHIFT = 2,
    BLOCKS_PER_SM = 3, /* what registers allow at 128 dimensions */
    COUNTERS = 16384,  /* at the head of scratch */
};

struct decode_args {
    const int32_t *sequence, *position;
    const uint16_t *q;
    int64_t ld;
    lu_kv_layer kv;
    int n_heads, group, head_blocks; /* group: query heads per KV head; head_blocks: blocks it takes */
    int window, most_splits;         /* most_splits: the stride of partial sums */
    int block_shift;                 /* 1 << block_shift splits to a block */
    float scale, softcap, into_cap; /* into_cap: scale / softcap */
    const float *cosines, *sines; /* rotation: k and v lie behind q's heads */
    uint16_t *out;
    unsigned *counters;
    float *sums;   /* [row][head][split][head_dim], not yet divided */
    float *totals; /* [row][head][split][2]: largest score, sum */
};

struct span {
    int start, shift, first, n; /* first position seen; 1 << shift positions a split; first split and how many */
};

__device__ __forceinline__ span span_of(int position, int window)
{
    span s;
    s.start = window > 0 && position >= window ? position + 1 - window : 0;
    s.shift = LEAST_SHIFT;
    while ((position >> s.shift) - (s.start >> s.shift) >= MOST_SPLITS)
        s.shift++;
    s.first = s.start >> s.shift;
    s.n = (position >> s.shift) - s.first + 1;
    return s;
}

/* Rotates pairs d .. d + W - 1 of a head (copies them, if `plain`). */
template <bool BF16, int W>
__device__ __forceinline__ void rotate(const uint16_t *from, uint16_t *to, const float *cosines, const float *sines, int d,
                                       int half, bool plain)
{
    float low[8], high[8], c[8], s[8];
    lu_load8<BF16>(from + d, W, W == 8, low);
    lu_load8<BF16>(from + half + d, W, W == 8, high);
    lu_load8_float(cosines + d, W, W == 8, c);
    lu_load8_float(sines + d, W, W == 8, s);
#pragma unroll
    for (int i = 0; i < W; i++) {
        const float l = low[i], h = high[i];
        low[i] = plain ? l : lu_rotated_low(l, h, c[i], s[i]);
        high[i] = plain ? h : lu_rotated_high(l, h, c[i], s[i]);
    }
    lu_store8<BF16>(to + d, W, W == 8, low);
    lu_store8<BF16>(to + half + d, W, W == 8, high);
}

/* Queries of the block to `queries` (rows of `stride`), and if `newest` this position's key and value
   to the cache. A thread takes W pairs of a head at a time. */
template <bool BF16, int W>
__device__ __forceinline__ void rotate_row(const decode_args &a, const uint16_t *q_row, int first_head, int heads, int kv_head,
                                           uint16_t *queries, int stride, int hd, int position, int sequence,
                                           bool newest)
{
    enum { SEATS = W == 8 ? 16 : 128 }; /* for the chunks of a head */
    const int half = hd / 2;
    const float *cosines = a.cosines + (int64_t)position * half, *sines = a.sines + (int64_t)position * half;
    for (int i = (int)threadIdx.x; i < (heads + (newest ? 2 : 0)) * SEATS; i += WARPS * 32) {
        const int head = i / SEATS, d = i % SEATS * W;
        if (d >= half)
            continue;
        if (head < heads) {
            rotate<BF16, W>(q_row + (int64_t)(first_head + head) * hd, queries + head * stride, cosines, sines, d, half, false);
            continue;
        }
        const bool value = head > heads;
        const int64_t at = lu_kv_at(a.kv, lu_kv_page(a.kv, sequence, position), kv_head, position);
        rotate<BF16, W>(q_row + (int64_t)(a.n_heads + kv_head + (value ? a.kv.n_kv_heads : 0)) * hd,
                        (value ? a.kv.values : a.kv.keys) + at, cosines, sines, d, half, value);
    }
}

/* Four values of one head over N parts: sum of 2^(score - top) . v. A part with top -inf adds nothing. */
struct part_sum {
    float top, total;
    float4 sum;

    template <bool BF16> __device__ __forceinline__ uint2 divided() const
    {
        const float r = __fdividef(1.0f, total);
        return make_uint2(lu_pack2<BF16>(sum.x * r, sum.y * r), lu_pack2<BF16>(sum.z * r, sum.w * r));
    }
};

template <int N> __device__ __forceinline__ part_sum add_up(const part_sum (&part)[N])
{
    part_sum r = {part[0].top, 0.0f, make_float4(0.0f, 0.0f, 0.0f, 0.0f)};
#pragma unroll
    for (int i = 1; i < N; i++)
        r.top = fmaxf(r.top, part[i].top);
#pragma unroll
    for (int i = 0; i < N; i++) {
        const float factor = lu_exp2(part[i].top - r.top);
        r.total = fmaf(part[i].total, factor, r.total);
        r.sum.x = fmaf(part[i].sum.x, factor, r.sum.x);
        r.sum.y = fmaf(part[i].sum.y, factor, r.sum.y);
        r.sum.z = fmaf(part[i].sum.z, factor, r.sum.z);
        r.sum.w = fmaf(part[i].sum.w, factor, r.sum.w);
    }
    return r;
}

/* Orders this thread's accesses, and those a barrier has put before them, against another block's. */
__device__ __forceinline__ void fence()
{
    asm volatile("fence.acq_rel.gpu;" ::: "memory");
}

/* HD: head_dim rounded up to 64, 128 or 256; EXACT: that is head_dim. NH: groups of eight heads. */
template <bool BF16, int HD, int NH, bool ROPE, bool EXACT>
__global__ void __launch_bounds__(WARPS * 32) attend_decode(const __grid_constant__ decode_args a)
{
    enum { KC = HD / 32, VC = HD / 64, HEADS = 8 * NH, STRIDE = HD + 8 };
    __shared__ __align__(16) float sums[WARPS][HEADS][HD];
    __shared__ float largest[WARPS][HEADS], total[WARPS][HEADS];
    __shared__ int is_last;
    const int tid = (int)threadIdx.x, lane = tid & 31, warp = tid >> 5, g = lane >> 2, t = lane & 3;
    const int hd = EXACT ? (int)HD : a.kv.head_dim, row = (int)blockIdx.z;
    const int kv_head = (int)blockIdx.y / a.head_blocks, part = (int)blockIdx.y % a.head_blocks;
    const int first_head = kv_head * a.group + part * HEADS, heads = min((int)HEADS, a.group - part * HEADS);
    lu_begin();
    const int position = a.position[row], sequence = a.sequence[row];
    if (position < 0)
        return;
    const span sp = span_of(position, a.window);
    const int split0 = (int)blockIdx.x << a.block_shift, split1 = min(split0 + (1 << a.block_shift), sp.n);
    if (split0 >= split1)
        return;
    const int from = max(sp.start, (sp.first + split0) << sp.shift), to = min(position + 1, (sp.first + split1) << sp.shift);
    const uint16_t *q_row = a.q + (int64_t)row * a.ld;
    /* this warp's tiles: next, and every 64 positions on */
    int next = (from & ~(WARPS * TILE - 1)) + warp * TILE;
    if (next + TILE <= from)
        next += WARPS * TILE;
    int page = next < to ? lu_kv_page(a.kv, sequence, next) : 0;

    const uint16_t *queries = q_row + (int64_t)first_head * hd;
    int stride = hd;
    if (ROPE) {
        uint16_t *rotated = (uint16_t *)sums; /* free until the first split is done */
        const bool newest = to == position + 1;
        if (hd % 16 == 0)
            rotate_row<BF16, 8>(a, q_row, first_head, heads, kv_head, rotated, STRIDE, hd, position, sequence, newest);
        else
            rotate_row<BF16, 1>(a, q_row, first_head, heads, kv_head, rotated, STRIDE, hd, position, sequence, newest);
        __syncthreads();
        queries = rotated;
        stride = STRIDE;
    }
    uint4 k[2][KC], v[4][VC]; /* of the tile at hand, or on their way */
    /* Positions that are not to be seen stand in for by the nearest one that is: it weighs 0. */
#define LOAD_KEYS()                                                                                \
    _Pragma("unroll") for (int i = 0; i < 2; i++)                                                  \
    {                                                                                              \
        const int token = min(max(g + 8 * i, from - next), to - 1 - next);                         \
        const uint16_t *p = keys + token * hd + 8 * t;                                             \
        _Pragma("unroll") for (int c = 0; c < KC; c++)                                             \
        {                                                                                          \
            if (EXACT || 32 * c + 8 * t < hd)                                                      \
                k[i][c] = *(const uint4 *)(p + 32 * c);                                            \
            else                                                                                   \
                k[i][c] = make_uint4(0, 0, 0, 0);                                                  \
        }                                                                                          \
    }
#define LOAD_VALUES()                                                                              \
    _Pragma("unroll") for (int i = 0; i < 4; i++)                                                  \
    {                                                                                              \
        const int token = min(max(2 * t + (i & 1) + 8 * (i >> 1), from - next), to - 1 - next);    \
        const uint16_t *p = values + token * hd + 8 * g;                                           \
        _Pragma("unroll") for (int c = 0; c < VC; c++)                                             \
        {                                                                                          \
            if (EXACT || 64 * c + 8 * g < hd)                                                      \
                v[i][c] = *(const uint4 *)(p + 64 * c);                                            \
            else                                                                                   \
                v[i][c] = make_uint4(0, 0, 0, 0);                                                  \
        }                                                                                          \
    }
    const uint16_t *keys = NULL, *values = NULL;
    if (next < to) {
        const int64_t at = lu_kv_at(a.kv, page, kv_head, next);
        keys = a.kv.keys + at;
        values = a.kv.values + at;
        LOAD_KEYS()
        LOAD_VALUES()
        if (next + WARPS * TILE < to)
            page = lu_kv_page(a.kv, sequence, next + WARPS * TILE);
    }
    uint4 q[NH][KC];
#pragma unroll
    for (int h = 0; h < NH; h++)
#pragma unroll
        for (int c = 0; c < KC; c++) {
            const int head = 8 * h + g, d = 32 * c + 8 * t;
            q[h][c] = make_uint4(0, 0, 0, 0);
            if (head < heads && d < hd)
                q[h][c] = *(const uint4 *)(queries + head * stride + d);
        }
    if (ROPE)
        __syncthreads(); /* sums are written over the queries */

    const int64_t first_row = (int64_t)row * a.n_heads + first_head; /* of partial sums and of out */
    for (int split = split0; split < split1; split++) {
        const int split_end = min(to, (sp.first + split + 1) << sp.shift);
        float o[NH][HD / 16][4], m[NH][2], l[NH][2];
#pragma unroll
        for (int h = 0; h < NH; h++) {
            m[h][0] = m[h][1] = -INFINITY;
            l[h][0] = l[h][1] = 0.0f;
#pragma unroll
            for (int i = 0; i < HD / 16; i++)
                o[h][i][0] = o[h][i][1] = o[h][i][2] = o[h][i][3] = 0.0f;
        }
        while (next < split_end) {
            __syncwarp();
            const bool seen_low = next + g >= from && next + g < to, seen_high = next + g + 8 >= from && next + g + 8 < to;
            float s[NH][4];
#pragma unroll
            for (int h = 0; h < NH; h++) {
                float odd[4] = {0.0f, 0.0f, 0.0f, 0.0f}; /* two chains: half the latency */
                s[h][0] = s[h][1] = s[h][2] = s[h][3] = 0.0f;
#pragma unroll
                for (int c = 0; c < KC; c++) {
                    lu_mma<BF16>(s[h], k[0][c].x, k[1][c].x, k[0][c].y, k[1][c].y, q[h][c].x, q[h][c].y);
                    lu_mma<BF16>(odd, k[0][c].z, k[1][c].z, k[0][c].w, k[1][c].w, q[h][c].z, q[h][c].w);
                }
#pragma unroll
                for (int i = 0; i < 4; i++)
                    s[h][i] += odd[i];
            }
            next += WARPS * TILE;
            if (next < to) {
                const int64_t at = lu_kv_at(a.kv, page, kv_head, next);
                keys = a.kv.keys + at;
                values = a.kv.values + at;
                LOAD_KEYS()
            }
            uint32_t p_low[NH], p_high[NH]; /* heads of lane g; tokens 2t 2t+1, and 8 further */
#pragma unroll
            for (int h = 0; h < NH; h++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    s[h][i] = a.softcap > 0.0f ? a.softcap * lu_fast_tanh(s[h][i] * a.into_cap) : s[h][i] * a.scale;
                    s[h][i] = (i < 2 ? seen_low : seen_high) ? s[h][i] * LU_LOG2_E : -INFINITY;
                }
#pragma unroll
                for (int e = 0; e < 2; e++) { /* head 2 t + e */
                    float top = fmaxf(s[h][e], s[h][e + 2]);
#pragma unroll
                    for (int step = 4; step < 32; step *= 2)
                        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, step));
                    top = fmaxf(m[h][e], top);
                    const float shrink = lu_exp2(m[h][e] - top);
                    m[h][e] = top;
                    s[h][e] = lu_exp2(s[h][e] - top);
                    s[h][e + 2] = lu_exp2(s[h][e + 2] - top);
                    l[h][e] = fmaf(l[h][e], shrink, s[h][e] + s[h][e + 2]);
#pragma unroll
                    for (int i = 0; i < HD / 16; i++) {
                        o[h][i][e] *= shrink;
                        o[h][i][e + 2] *= shrink;
                    }
                }
                p_low[h] = lu_transpose8(lu_pack2<BF16>(s[h][0], s[h][1]));
                p_high[h] = lu_transpose8(lu_pack2<BF16>(s[h][2], s[h][3]));
            }
#pragma unroll
            for (int c = 0; c < VC; c++) {
                const uint32_t w[4][4] = {{v[0][c].x, v[0][c].y, v[0][c].z, v[0][c].w},
                                          {v[1][c].x, v[1][c].y, v[1][c].z, v[1][c].w},
                                          {v[2][c].x, v[2][c].y, v[2][c].z, v[2][c].w},
                                          {v[3][c].x, v[3][c].y, v[3][c].z, v[3][c].w}};
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const uint32_t a0 = __byte_perm(w[0][j], w[1][j], 0x5410), a1 = __byte_perm(w[0][j], w[1][j], 0x7632);
                    const uint32_t a2 = __byte_perm(w[2][j], w[3][j], 0x5410), a3 = __byte_perm(w[2][j], w[3][j], 0x7632);
#pragma unroll
                    for (int h = 0; h < NH; h++)
                        lu_mma<BF16>(o[h][4 * c + j], a0, a1, a2, a3, p_low[h], p_high[h]);
                }
            }
            if (next < to) {
                LOAD_VALUES()
                if (next + WARPS * TILE < to)
                    page = lu_kv_page(a.kv, sequence, next + WARPS * TILE);
            }
        }

#pragma unroll
        for (int step = 4; step < 32; step *= 2)
#pragma unroll
            for (int h = 0; h < NH; h++) {
                l[h][0] += __shfl_xor_sync(0xffffffffu, l[h][0], step);
                l[h][1] += __shfl_xor_sync(0xffffffffu, l[h][1], step);
            }
#pragma unroll
        for (int h = 0; h < NH; h++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int head = 8 * h + 2 * t + e;
                if (head >= heads)
                    continue;
                if (g == 0) {
                    largest[warp][head] = m[h][e];
                    total[warp][head] = l[h][e];
                }
#pragma unroll
                for (int c = 0; c < VC; c++) {
                    float *to_sum = &sums[warp][head][64 * c + 8 * g];
                    *(float4 *)to_sum = make_float4(o[h][4 * c][e], o[h][4 * c][e + 2], o[h][4 * c + 1][e], o[h][4 * c + 1][e + 2]);
                    *(float4 *)(to_sum + 4) =
                        make_float4(o[h][4 * c + 2][e], o[h][4 * c + 2][e + 2], o[h][4 * c + 3][e], o[h][4 * c + 3][e + 2]);
                }
            }
        __syncthreads();
        for (int i = tid * 4; i < heads * hd; i += WARPS * 32 * 4) {
            const int head = i / hd, d = i - head * hd;
            part_sum parts[WARPS];
#pragma unroll
            for (int w = 0; w < WARPS; w++)
                parts[w] = {largest[w][head], total[w][head], *(const float4 *)&sums[w][head][d]};
            const part_sum r = add_up(parts);
            if (sp.n == 1) {
                *(uint2 *)(a.out + (first_row + head) * hd + d) = r.divided<BF16>();
                continue;
            }
            const int64_t slot = (first_row + head) * a.most_splits + split;
            *(float4 *)(a.sums + slot * hd + d) = r.sum;
            if (d == 0)
                *(float2 *)(a.totals + slot * 2) = make_float2(r.top, r.total);
        }
        __syncthreads(); /* sums may be written again */
    }
#undef LOAD_KEYS
#undef LOAD_VALUES
    if (sp.n == 1)
        return;

    if (tid == 0) {
        const unsigned others = (unsigned)((sp.n - 1) >> a.block_shift);
        fence(); /* the block's partial sums before the count */
        is_last = atomicInc(a.counters + (int64_t)row * gridDim.y + blockIdx.y, others) == others;
        fence();
    }
    __syncthreads();
    if (!is_last)
        return;
    for (int i = tid * 4; i < heads * hd; i += WARPS * 32 * 4) {
        const int head = i / hd, d = i - head * hd;
        const float *from_sum = a.sums + (first_row + head) * a.most_splits * hd + d;
        const float *from_total = a.totals + (first_row + head) * a.most_splits * 2;
        part_sum all[2] = {{-INFINITY, 0.0f, make_float4(0.0f, 0.0f, 0.0f, 0.0f)}};
        for (int s0 = 0; s0 < sp.n; s0 += AT_ONCE) {
            part_sum parts[AT_ONCE];
#pragma unroll
            for (int s = 0; s < AT_ONCE; s++) {
                parts[s] = {-INFINITY, 0.0f, make_float4(0.0f, 0.0f, 0.0f, 0.0f)};
                if (s0 + s < sp.n) {
                    const float2 t2 = __ldcg((const float2 *)(from_total + (s0 + s) * 2));
                    parts[s] = {t2.x, t2.y, __ldcg((const float4 *)(from_sum + (s0 + s) * hd))};
                }
            }
            all[1] = add_up(parts);
            all[0] = add_up(all);
        }
        *(uint2 *)(a.out + (first_row + head) * hd + d) = all[0].divided<BF16>();
    }
}

int64_t most_splits(int64_t max_position)
{
    const int64_t n = (max_position >> LEAST_SHIFT) + 2; /* a window may begin within a split */
    return n < MOST_SPLITS ? n : (int64_t)MOST_SPLITS;
}

template <bool BF16, int HD, int NH, bool EXACT> int pick(const lu_launch_shape &s, const decode_args &a)
{
    return a.cosines ? lu_launch(attend_decode<BF16, HD, NH, true, EXACT>, s, a)
                     : lu_launch(attend_decode<BF16, HD, NH, false, EXACT>, s, a);
}

/* Heads to a block: 16 only where it is common and registers allow. */
int heads_per_block(int64_t group, int64_t head_dim)
{
    return group > 8 && (head_dim == 64 || head_dim == 128) ? 16 : 8;
}

template <bool BF16> int launch_decode(const lu_launch_shape &s, const decode_args &a)
{
    const bool wide = heads_per_block(a.group, a.kv.head_dim) == 16;
    switch (a.kv.head_dim) {
    case 64: return wide ? pick<BF16, 64, 2, true>(s, a) : pick<BF16, 64, 1, true>(s, a);
    case 128: return wide ? pick<BF16, 128, 2, true>(s, a) : pick<BF16, 128, 1, true>(s, a);
    case 256: return pick<BF16, 256, 1, true>(s, a);
    }
    return a.kv.head_dim > 128  ? pick<BF16, 256, 1, false>(s, a)
           : a.kv.head_dim > 64 ? pick<BF16, 128, 1, false>(s, a)
                                : pick<BF16, 64, 1, false>(s, a);
}

int decode(const lu_cuda_attend_args *e, const float *cosines, const float *sines)
{
    const int64_t hd = e->kv.head_dim;
    if (!lu_kv_sound(&e->kv) || e->rows.n < 0 || e->n_heads < 1 || e->n_heads % e->kv.n_kv_heads || e->ld % 8 ||
        e->ld < e->n_heads * hd || e->max_position < 1 || e->max_position > INT32_MAX || e->window < 0)
        return LU_CUDA_E_SHAPE;
    if (!lu_aligned16(e->q) || !lu_aligned16(e->out) || !lu_aligned16(e->kv.data) || !lu_aligned16(e->scratch))
        return LU_CUDA_E_SHAPE;
    decode_args a = {};
    a.ld = e->ld;
    a.kv = lu_kv_of_layer(&e->kv, e->layer);
    a.n_heads = (int)e->n_heads;
    a.group = (int)(e->n_heads / e->kv.n_kv_heads);
    const int per_block = heads_per_block(a.group, hd);
    a.head_blocks = (a.group + per_block - 1) / per_block;
    a.window = (int)(e->window < INT32_MAX ? e->window : 0);
    const int64_t reach = a.window && a.window < e->max_position ? a.window : e->max_position;
    a.most_splits = (int)most_splits(reach);
    a.scale = e->scale;
    a.softcap = e->softcap;
    a.into_cap = e->softcap > 0.0f ? e->scale / e->softcap : 0.0f;
    a.cosines = cosines;
    a.sines = sines;
    a.counters = (unsigned *)e->scratch;
    const int64_t across = e->kv.n_kv_heads * a.head_blocks, at_once = COUNTERS / across;
    if (at_once < 1)
        return LU_CUDA_E_SHAPE;
    int sms;
    const int status = lu_multiprocessors(&sms);
    if (status)
        return status;
    for (int64_t r = 0; r < e->rows.n; r += at_once) {
        const int64_t rows = e->rows.n - r < at_once ? e->rows.n - r : at_once;
        a.sequence = e->rows.sequence + r;
        a.position = e->rows.position + r;
        a.q = e->q + r * e->ld;
        a.out = e->out + r * e->n_heads * hd;
        a.sums = (float *)(a.counters + COUNTERS);
        a.totals = a.sums + rows * e->n_heads * a.most_splits * hd;
        /* Several splits to a block once the chip is full, which saves beginnings; the bits are the same. */
        const int64_t waves = a.most_splits * across * rows / (2 * BLOCKS_PER_SM * sms);
        a.block_shift = waves < 2 ? 0 : waves < 4 ? 1 : (int)MOST_BLOCK_SHIFT;
        const unsigned blocks = (unsigned)(((a.most_splits - 1) >> a.block_shift) + 1);
        const lu_launch_shape s = {dim3(blocks, (unsigned)across, (unsigned)rows), WARPS * 32, 0, e->stream};
        const int status = e->bf16 ? launch_decode<true>(s, a) : launch_decode<false>(s, a);
        if (status)
            return status;
    }
    return 0;
}

} // namespace

size_t lu_cuda_attend_scratch(int64_t rows, int64_t n_heads, int64_t head_dim, int64_t max_position)
{
    const int64_t at_once = rows < COUNTERS ? rows : (int64_t)COUNTERS;
    return COUNTERS * sizeof(unsigned) +
           (size_t)(at_once * n_heads * most_splits(max_position)) * (size_t)(head_dim + 2) * sizeof(float);
}

int lu_cuda_attend_decode(const lu_cuda_attend_args *a) { return decode(a, NULL, NULL); }

int lu_cuda_rope_attend_decode(const lu_cuda_attend_args *a, const float *cosines, const float *sines)
{
    if (!cosines || !sines || !lu_aligned16(cosines) || !lu_aligned16(sines) ||
        a->ld < (a->n_heads + 2 * a->kv.n_kv_heads) * a->kv.head_dim)
        return LU_CUDA_E_SHAPE;
    return decode(a, cosines, sines);
}
