/* cuda_attend_decode.cu - attention of single rows over the paged cache, as fast as memory allows.

   A block takes one row, the query heads (8 or 16) that share a KV head, and one split of the row's
   positions; its four warps take tiles of 16 positions in turn. Nothing is staged: a lane's 16-byte
   loads of K and V are, under a permutation of the head's dimensions that both operands share, the
   fragments of mma.m16n8k16:
     scores  S[16 tokens x 8 heads] = K . Q^T      a step of 32 dimensions: lane t holds 8 t .. 8 t + 7
     output  O[dims x 8 heads]     += V^T . P^T    rows g, g + 8 of tile j: dimensions 8 g + 2 j, + 1
   P^T comes out of S by one transpose per 8 x 8. Softmax is online in float32, base 2.

   Splits follow from the row's own position and window alone, so a result does not depend on the
   batch. A row with several splits leaves partial sums in scratch; the last of its blocks to finish
   adds them in order of position and puts the counter back to 0.

   With rotation, q is rotated on its way in, and the block with the row's own position takes k and v
   from qkv and stores them in the cache. */
#include "kern/cuda/act_values.cuh"
#include "kern/cuda/cuda_kv.cuh"
#include "kern/cuda/cuda_launch.cuh"
#include "kern/cuda/cuda_mma.cuh"

namespace {

enum {
    WARPS = 4,
    TILE = 16,         /* positions a warp takes at once */
    LEAST_SPLIT = 64,  /* positions; larger splits are doubles of it */
    MOST_SPLITS = 32,  /* a warp reduces over them */
    COUNTERS = 16384,  /* at the head of scratch */
};

struct decode_args {
    const int32_t *sequence, *position;
    const uint16_t *q;
    int64_t ld;
    lu_kv_layer kv;
    int n_heads, group, head_blocks; /* group: query heads per KV head; head_blocks: blocks it takes */
    int window, most_splits;         /* most_splits: of the grid, and the stride of partial sums */
    float scale, softcap;
    const float *cosines, *sines; /* rotation: k and v lie behind q's heads */
    uint16_t *out;
    unsigned *counters;
    float *sums;   /* [row][head][split][head_dim], not yet divided */
    float *totals; /* [row][head][split][2]: largest score, sum */
};

struct span {
    int start, split, first, n; /* first position seen; positions per split; first split and how many */
};

__device__ __forceinline__ span span_of(int position, int window)
{
    span s;
    s.start = window > 0 && position >= window ? position + 1 - window : 0;
    s.split = LEAST_SPLIT;
    while (position / s.split - s.start / s.split >= MOST_SPLITS)
        s.split *= 2;
    s.first = s.start / s.split;
    s.n = position / s.split - s.first + 1;
    return s;
}

/* Dimensions d .. d + 7 of a head at p after rotation to `position`. */
template <bool BF16>
__device__ __forceinline__ uint4 rotated(const decode_args &a, const uint16_t *p, int d, int position)
{
    const int half = a.kv.head_dim / 2;
    const float *cosines = a.cosines + (int64_t)position * half, *sines = a.sines + (int64_t)position * half;
    float v[8];
    if (half % 8 == 0) {
        const bool high = d >= half;
        const int at = high ? d - half : d;
        float other[8], c[8], s[8];
        lu_load8<BF16>(p + d, 8, true, v);
        lu_load8<BF16>(p + (high ? at : at + half), 8, true, other);
        lu_load8_float(cosines + at, 8, true, c);
        lu_load8_float(sines + at, 8, true, s);
#pragma unroll
        for (int i = 0; i < 8; i++)
            v[i] = high ? lu_rotated_high(other[i], v[i], c[i], s[i]) : lu_rotated_low(v[i], other[i], c[i], s[i]);
        return lu_pack8<BF16>(v);
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const bool high = d + i >= half;
        const int at = high ? d + i - half : d + i;
        const float l = lu_from_act<BF16>(p[at]), h = lu_from_act<BF16>(p[at + half]);
        v[i] = high ? lu_rotated_high(l, h, cosines[at], sines[at]) : lu_rotated_low(l, h, cosines[at], sines[at]);
    }
    return lu_pack8<BF16>(v);
}

/* HD: head_dim rounded up to 64, 128 or 256. NH: groups of eight heads. */
template <bool BF16, int HD, int NH, bool ROPE>
__global__ void __launch_bounds__(WARPS * 32) attend_decode(const __grid_constant__ decode_args a)
{
    enum { KC = HD / 32, VC = HD / 64, HEADS = 8 * NH };
    __shared__ __align__(16) float sums[WARPS][HEADS][HD];
    __shared__ float largest[WARPS][HEADS], total[WARPS][HEADS], weight[HEADS][MOST_SPLITS], whole[HEADS];
    __shared__ int is_last;
    const int tid = (int)threadIdx.x, lane = tid & 31, warp = tid >> 5, g = lane >> 2, t = lane & 3;
    const int hd = a.kv.head_dim, row = (int)blockIdx.z;
    const int kv_head = (int)blockIdx.y / a.head_blocks, part = (int)blockIdx.y % a.head_blocks;
    const int first_head = kv_head * a.group + part * HEADS, heads = min(HEADS, a.group - part * HEADS);
    lu_begin();
    const int position = a.position[row], sequence = a.sequence[row];
    if (position < 0)
        return;
    const span sp = span_of(position, a.window);
    if ((int)blockIdx.x >= sp.n)
        return;
    const int from = max(sp.start, (sp.first + (int)blockIdx.x) * sp.split);
    const int to = min(position + 1, (sp.first + (int)blockIdx.x + 1) * sp.split);
    const uint16_t *q_row = a.q + (int64_t)row * a.ld;
    const uint16_t *new_key = q_row + (int64_t)(a.n_heads + kv_head) * hd;
    const uint16_t *new_value = new_key + (int64_t)a.kv.n_kv_heads * hd;

    uint4 q[NH][KC];
#pragma unroll
    for (int h = 0; h < NH; h++)
#pragma unroll
        for (int c = 0; c < KC; c++) {
            const int head = 8 * h + g, d = 32 * c + 8 * t;
            q[h][c] = make_uint4(0, 0, 0, 0);
            if (head < heads && d < hd) {
                const uint16_t *p = q_row + (int64_t)(first_head + head) * hd;
                q[h][c] = ROPE ? rotated<BF16>(a, p, d, position) : *(const uint4 *)(p + d);
            }
        }

    float o[NH][HD / 16][4], m[NH][2], l[NH][2];
#pragma unroll
    for (int h = 0; h < NH; h++) {
        m[h][0] = m[h][1] = -INFINITY;
        l[h][0] = l[h][1] = 0.0f;
#pragma unroll
        for (int i = 0; i < HD / 16; i++)
            o[h][i][0] = o[h][i][1] = o[h][i][2] = o[h][i][3] = 0.0f;
    }
    for (int base = (from & ~(TILE - 1)) + warp * TILE; base < to; base += WARPS * TILE) {
        const int64_t at = lu_kv_at(a.kv, lu_kv_page(a.kv, sequence, base), kv_head, base);
        uint4 k[2][KC], v[4][VC];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int token = base + g + 8 * i;
            const bool seen = token >= from && token < to;
#pragma unroll
            for (int c = 0; c < KC; c++) {
                const int d = 32 * c + 8 * t;
                k[i][c] = make_uint4(0, 0, 0, 0);
                if (!seen || d >= hd)
                    continue;
                uint16_t *p = a.kv.keys + at + (g + 8 * i) * hd + d;
                if (ROPE && token == position)
                    *(uint4 *)p = k[i][c] = rotated<BF16>(a, new_key, d, position);
                else
                    k[i][c] = *(const uint4 *)p;
            }
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int in_tile = 2 * t + (i & 1) + 8 * (i >> 1), token = base + in_tile;
            const bool seen = token >= from && token < to;
#pragma unroll
            for (int c = 0; c < VC; c++) {
                const int d = 64 * c + 8 * g;
                v[i][c] = make_uint4(0, 0, 0, 0);
                if (!seen || d >= hd)
                    continue;
                uint16_t *p = a.kv.values + at + in_tile * hd + d;
                if (ROPE && token == position)
                    *(uint4 *)p = v[i][c] = *(const uint4 *)(new_value + d);
                else
                    v[i][c] = *(const uint4 *)p;
            }
        }
        __syncwarp();
        const bool seen_low = base + g >= from && base + g < to, seen_high = base + g + 8 >= from && base + g + 8 < to;
        uint32_t p_low[NH], p_high[NH]; /* heads of lane g; tokens 2t 2t+1, and 8 further */
#pragma unroll
        for (int h = 0; h < NH; h++) {
            float s[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
            for (int c = 0; c < KC; c++) {
                lu_mma<BF16>(s, k[0][c].x, k[1][c].x, k[0][c].y, k[1][c].y, q[h][c].x, q[h][c].y);
                lu_mma<BF16>(s, k[0][c].z, k[1][c].z, k[0][c].w, k[1][c].w, q[h][c].z, q[h][c].w);
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                s[i] *= a.scale;
                if (a.softcap > 0.0f)
                    s[i] = a.softcap * lu_fast_tanh(s[i] / a.softcap);
                s[i] = (i < 2 ? seen_low : seen_high) ? s[i] * LU_LOG2_E : -INFINITY;
            }
#pragma unroll
            for (int e = 0; e < 2; e++) { /* head 2 t + e */
                float top = fmaxf(s[e], s[e + 2]);
#pragma unroll
                for (int step = 4; step < 32; step *= 2)
                    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, step));
                top = fmaxf(m[h][e], top);
                const float shrink = lu_exp2(m[h][e] - top);
                m[h][e] = top;
                s[e] = lu_exp2(s[e] - top);
                s[e + 2] = lu_exp2(s[e + 2] - top);
                l[h][e] = fmaf(l[h][e], shrink, s[e] + s[e + 2]);
#pragma unroll
                for (int i = 0; i < HD / 16; i++) {
                    o[h][i][e] *= shrink;
                    o[h][i][e + 2] *= shrink;
                }
            }
            p_low[h] = lu_transpose8(lu_pack2<BF16>(s[0], s[1]));
            p_high[h] = lu_transpose8(lu_pack2<BF16>(s[2], s[3]));
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
    }

#pragma unroll
    for (int h = 0; h < NH; h++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const int head = 8 * h + 2 * t + e;
#pragma unroll
            for (int step = 4; step < 32; step *= 2)
                l[h][e] += __shfl_xor_sync(0xffffffffu, l[h][e], step);
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

    const int64_t first_row = (int64_t)row * a.n_heads + first_head; /* of partial sums and of out */
    for (int i = tid * 4; i < heads * hd; i += WARPS * 32 * 4) {
        const int head = i / hd, d = i - head * hd;
        float top = largest[0][head], sum[4] = {0.0f, 0.0f, 0.0f, 0.0f}, all = 0.0f;
#pragma unroll
        for (int w = 1; w < WARPS; w++)
            top = fmaxf(top, largest[w][head]);
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            const float factor = lu_exp2(largest[w][head] - top);
            const float4 v = *(const float4 *)&sums[w][head][d];
            all = fmaf(factor, total[w][head], all);
            sum[0] = fmaf(factor, v.x, sum[0]);
            sum[1] = fmaf(factor, v.y, sum[1]);
            sum[2] = fmaf(factor, v.z, sum[2]);
            sum[3] = fmaf(factor, v.w, sum[3]);
        }
        if (sp.n == 1) {
            const float r = 1.0f / all;
            *(uint2 *)(a.out + (first_row + head) * hd + d) =
                make_uint2(lu_pack2<BF16>(sum[0] * r, sum[1] * r), lu_pack2<BF16>(sum[2] * r, sum[3] * r));
            continue;
        }
        const int64_t slot = (first_row + head) * a.most_splits + blockIdx.x;
        *(float4 *)(a.sums + slot * hd + d) = make_float4(sum[0], sum[1], sum[2], sum[3]);
        if (d == 0)
            *(float2 *)(a.totals + slot * 2) = make_float2(top, all);
    }
    if (sp.n == 1)
        return;

    __threadfence(); /* this thread's partial sums before the count */
    __syncthreads();
    if (tid == 0)
        is_last = atomicInc(a.counters + (int64_t)row * gridDim.y + blockIdx.y, (unsigned)sp.n - 1) == (unsigned)sp.n - 1;
    __syncthreads();
    if (!is_last)
        return;
    __threadfence();
    for (int head = warp; head < heads; head += WARPS) {
        const bool real = lane < sp.n;
        float2 mine = make_float2(-INFINITY, 0.0f);
        if (real)
            mine = __ldcg((const float2 *)(a.totals + ((first_row + head) * a.most_splits + lane) * 2));
        float top = mine.x;
#pragma unroll
        for (int step = 16; step; step /= 2)
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, step));
        const float factor = real ? lu_exp2(mine.x - top) : 0.0f;
        float all = factor * mine.y;
#pragma unroll
        for (int step = 16; step; step /= 2)
            all += __shfl_xor_sync(0xffffffffu, all, step);
        weight[head][lane] = factor;
        if (lane == 0)
            whole[head] = all;
    }
    __syncthreads();
    for (int i = tid * 4; i < heads * hd; i += WARPS * 32 * 4) {
        const int head = i / hd, d = i - head * hd;
        const float *from_sum = a.sums + (first_row + head) * a.most_splits * hd + d;
        float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 8
        for (int s = 0; s < sp.n; s++) {
            const float4 v = __ldcg((const float4 *)(from_sum + (int64_t)s * hd));
            const float factor = weight[head][s];
            sum[0] = fmaf(factor, v.x, sum[0]);
            sum[1] = fmaf(factor, v.y, sum[1]);
            sum[2] = fmaf(factor, v.z, sum[2]);
            sum[3] = fmaf(factor, v.w, sum[3]);
        }
        const float r = 1.0f / whole[head];
        *(uint2 *)(a.out + (first_row + head) * hd + d) =
            make_uint2(lu_pack2<BF16>(sum[0] * r, sum[1] * r), lu_pack2<BF16>(sum[2] * r, sum[3] * r));
    }
}

int64_t most_splits(int64_t max_position)
{
    const int64_t n = (max_position + LEAST_SPLIT - 1) / LEAST_SPLIT + 1; /* a window may begin within a split */
    return n < MOST_SPLITS ? n : (int64_t)MOST_SPLITS;
}

template <bool BF16, int HD, int NH> int pick(const lu_launch_shape &s, const decode_args &a)
{
    return a.cosines ? lu_launch(attend_decode<BF16, HD, NH, true>, s, a)
                     : lu_launch(attend_decode<BF16, HD, NH, false>, s, a);
}

template <bool BF16> int launch_decode(const lu_launch_shape &s, const decode_args &a)
{
    const bool wide = a.group > 8; /* 16 heads to a block, but for the registers of 256 dimensions */
    if (a.kv.head_dim > 128)
        return pick<BF16, 256, 1>(s, a);
    if (a.kv.head_dim > 64)
        return wide ? pick<BF16, 128, 2>(s, a) : pick<BF16, 128, 1>(s, a);
    return wide ? pick<BF16, 64, 2>(s, a) : pick<BF16, 64, 1>(s, a);
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
    const int per_block = a.group > 8 && hd <= 128 ? 16 : 8;
    a.head_blocks = (a.group + per_block - 1) / per_block;
    a.window = (int)(e->window < INT32_MAX ? e->window : 0);
    const int64_t reach = a.window && a.window < e->max_position ? a.window : e->max_position;
    a.most_splits = (int)most_splits(reach);
    a.scale = e->scale;
    a.softcap = e->softcap;
    a.cosines = cosines;
    a.sines = sines;
    a.counters = (unsigned *)e->scratch;
    const int64_t across = e->kv.n_kv_heads * a.head_blocks, at_once = COUNTERS / across;
    if (at_once < 1)
        return LU_CUDA_E_SHAPE;
    for (int64_t r = 0; r < e->rows.n; r += at_once) {
        const int64_t rows = e->rows.n - r < at_once ? e->rows.n - r : at_once;
        a.sequence = e->rows.sequence + r;
        a.position = e->rows.position + r;
        a.q = e->q + r * e->ld;
        a.out = e->out + r * e->n_heads * hd;
        a.sums = (float *)(a.counters + COUNTERS);
        a.totals = a.sums + rows * e->n_heads * a.most_splits * hd;
        const lu_launch_shape s = {dim3((unsigned)a.most_splits, (unsigned)across, (unsigned)rows), WARPS * 32, 0,
                                   e->stream};
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
