/* cuda_attend_prefill.cu - attention of many consecutive positions of a sequence (after FlashAttention-2,
   Dao 2023): a block takes WARPS * 16 queries and walks over the tiles of keys that they see, three
   tiles in shared memory, softmax online in float32, base 2.

   A query is a (position, head) pair: those of the heads that share a KV head lie side by side, so
   that short runs fill the rows of the matrix instructions and keys are fetched once per group. Tiles
   of keys begin at multiples of BN positions, and a tile that a row does not see changes nothing in
   that row's sums to the bit: so a row's result does not depend on how runs were cut.

   Shared memory: rows of HD values (head_dim rounded up, filled with zeros); 16-byte chunk c of row r
   lies at chunk c ^ (r & 7), which spares ldmatrix all bank conflicts. */
#include "kern/cuda/act_values.cuh"
#include "kern/cuda/cuda_kv.cuh"
#include "kern/cuda/cuda_launch.cuh"
#include "kern/cuda/cuda_mma.cuh"

namespace {

enum { MOST_RUNS = 128, STAGES = 3 }; /* runs of one launch */

struct prefill_args {
    const int32_t *sequence, *position;
    const uint16_t *q;
    int64_t ld;
    lu_kv_layer kv;
    int n_heads, group, window, n_runs;
    float scale, softcap;
    uint16_t *out;
    int row0[MOST_RUNS + 1];  /* first row of a run */
    int tile0[MOST_RUNS + 1]; /* first tile of queries of a run */
};

/* Q stays in registers where these suffice, else in shared memory. */
template <int HD> struct plan;
template <> struct plan<64> { enum { warps = 8, bn = 64, q_shared = 0 }; };
template <> struct plan<128> { enum { warps = 8, bn = 64, q_shared = 0 }; };
template <> struct plan<256> { enum { warps = 4, bn = 32, q_shared = 1 }; };

template <int HD> constexpr size_t shared_bytes()
{
    return (size_t)(STAGES * 2 * plan<HD>::bn + plan<HD>::q_shared * plan<HD>::warps * 16) * HD * 2;
}

/* Byte offset of chunk c of row r. */
template <int HD> __device__ __forceinline__ uint32_t chunk_at(int r, int c)
{
    return (uint32_t)(r * HD * 2 + ((c ^ (r & 7)) << 4));
}

template <bool BF16, int HD>
__global__ void __launch_bounds__(plan<HD>::warps * 32, 1) attend_prefill(const __grid_constant__ prefill_args a)
{
    enum {
        WARPS = plan<HD>::warps, BN = plan<HD>::bn, BM = WARPS * 16, CHUNKS = HD / 8,
        PASS_ROWS = WARPS * 32 / CHUNKS,     /* rows of a tile that the block copies at once */
        PASSES = BN / PASS_ROWS, TILE_BYTES = BN * HD * 2
    };
    extern __shared__ __align__(128) char shared[];
    const uint32_t stages = (uint32_t)__cvta_generic_to_shared(shared), q_at = stages + STAGES * 2 * TILE_BYTES;
    const int tid = (int)threadIdx.x, lane = tid & 31, warp = tid >> 5, g = lane >> 2, t = lane & 3;
    const int hd = a.kv.head_dim, kv_head = (int)blockIdx.x;
    /* The longest tiles begin first. */
    const int tile = (int)(gridDim.y - 1 - blockIdx.y);
    int run = 0;
    while (run + 1 < a.n_runs && a.tile0[run + 1] <= tile)
        run++;
    const int row0 = a.row0[run], queries = (a.row0[run + 1] - row0) * a.group, query0 = (tile - a.tile0[run]) * BM;
    const int last_query = min(query0 + BM, queries) - 1;
    lu_begin();
    const int position0 = a.position[row0], sequence = a.sequence[row0];
    const int first_seen = max(0, a.window > 0 ? position0 + query0 / a.group + 1 - a.window : 0);
    const int last_seen = position0 + last_query / a.group;
    const int tile_first = first_seen / BN, tile_last = last_seen / BN;

    /* this lane's two queries, rows g and g + 8 of the warp's; beyond the last one, the last again */
    int query[2], seat[2];
    const uint16_t *q_row[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        query[i] = min(query0 + warp * 16 + g + 8 * i, last_query);
        const int r = query[i] / a.group;
        seat[i] = position0 + r;
        q_row[i] = a.q + (row0 + r) * a.ld + (int64_t)(kv_head * a.group + query[i] - r * a.group) * hd;
    }
    const int warp_low = position0 + min(query0 + warp * 16, last_query) / a.group;
    const int warp_high = position0 + min(query0 + warp * 16 + 15, last_query) / a.group;

    /* copying: thread takes chunk `chunk` of rows copy_row + i * PASS_ROWS; a page holds 16 rows or more */
    const int chunk = tid % CHUNKS, copy_row = tid / CHUNKS;
    int page[PASSES];
    auto find_pages = [&](int j) {
#pragma unroll
        for (int i = 0; i < PASSES; i++) {
            const int token = j * BN + copy_row + i * PASS_ROWS;
            page[i] = token <= last_seen ? lu_kv_page(a.kv, sequence, token) : 0;
        }
    };
    auto copy_tile = [&](int j, int stage) {
#pragma unroll
        for (int i = 0; i < PASSES; i++) {
            const int r = copy_row + i * PASS_ROWS, token = j * BN + r;
            const bool real = token >= first_seen && token <= last_seen && chunk * 8 < hd;
            const int64_t from = real ? lu_kv_at(a.kv, page[i], kv_head, token) + chunk * 8 : 0;
            const uint32_t to = stages + stage * 2 * TILE_BYTES + chunk_at<HD>(r, chunk);
            lu_async_copy(to, a.kv.keys + from, real);
            lu_async_copy(to + TILE_BYTES, a.kv.values + from, real);
        }
    };
    find_pages(tile_first);
    copy_tile(tile_first, 0);
    if (plan<HD>::q_shared) {
        for (int i = tid; i < BM * CHUNKS; i += WARPS * 32) {
            const int r = i / CHUNKS, c = i % CHUNKS, which = min(query0 + r, last_query), at = which / a.group;
            const uint16_t *p = a.q + (row0 + at) * a.ld + (int64_t)(kv_head * a.group + which - at * a.group) * hd;
            lu_async_copy(q_at + chunk_at<HD>(r, c), c * 8 < hd ? p + c * 8 : a.q, c * 8 < hd);
        }
    }
    lu_async_commit();
    if (tile_first < tile_last) {
        find_pages(tile_first + 1);
        copy_tile(tile_first + 1, 1);
        if (tile_first + 1 < tile_last)
            find_pages(tile_first + 2);
    }
    lu_async_commit();

    uint32_t q[plan<HD>::q_shared ? 1 : HD / 16][4];
    if (!plan<HD>::q_shared) {
#pragma unroll
        for (int k = 0; k < HD / 16; k++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int d = 16 * k + 2 * t + 8 * (i >> 1);
                q[plan<HD>::q_shared ? 0 : k][i] = d < hd ? *(const uint32_t *)(q_row[i & 1] + d) : 0;
            }
    }
    float o[HD / 8][4], top[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};
#pragma unroll
    for (int n = 0; n < HD / 8; n++)
        o[n][0] = o[n][1] = o[n][2] = o[n][3] = 0.0f;
    const float factor = a.softcap > 0.0f ? LU_LOG2_E : a.scale * LU_LOG2_E;
    /* rows and chunks that ldmatrix wants of this lane: K (and Q) plain, V transposed */
    const int k_row = (lane & 7) + (lane >> 4) * 8, k_chunk = (lane >> 3) & 1;
    const int v_row = lane & 15, v_chunk = lane >> 4;

    int stage = 0;
    for (int j = tile_first; j <= tile_last; j++) {
        lu_async_wait<1>(); /* tile j is here; everyone is done with tile j - 1 */
        __syncthreads();
        if (j + 2 <= tile_last) {
            copy_tile(j + 2, stage == 0 ? 2 : stage - 1);
            if (j + 3 <= tile_last)
                find_pages(j + 3);
        }
        lu_async_commit();
        const uint32_t keys = stages + stage * 2 * TILE_BYTES, values = keys + TILE_BYTES;
        stage = stage == STAGES - 1 ? 0 : stage + 1;
        if (j * BN > warp_high || (a.window > 0 && j * BN + BN - 1 <= warp_low - a.window))
            continue; /* no row of this warp sees it */

        float s[BN / 8][4];
#pragma unroll
        for (int n = 0; n < BN / 8; n++)
            s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0.0f;
#pragma unroll
        for (int k = 0; k < HD / 16; k++) {
            if (16 * k >= hd)
                break;
            uint32_t qk[4];
            if (plan<HD>::q_shared) /* matrices: rows 0-7, rows 8-15, then the same eight dimensions on */
                lu_ldmatrix(qk, q_at + chunk_at<HD>(warp * 16 + v_row, 2 * k + v_chunk));
            else
#pragma unroll
                for (int i = 0; i < 4; i++)
                    qk[i] = q[plan<HD>::q_shared ? 0 : k][i];
#pragma unroll
            for (int n = 0; n < BN / 16; n++) {
                uint32_t b[4];
                lu_ldmatrix(b, keys + chunk_at<HD>(16 * n + k_row, 2 * k + k_chunk));
                lu_mma<BF16>(s[2 * n], qk[0], qk[1], qk[2], qk[3], b[0], b[1]);
                lu_mma<BF16>(s[2 * n + 1], qk[0], qk[1], qk[2], qk[3], b[2], b[3]);
            }
        }
        if (a.softcap > 0.0f) {
            const float inner = a.scale / a.softcap;
#pragma unroll
            for (int n = 0; n < BN / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    s[n][i] = a.softcap * lu_fast_tanh(s[n][i] * inner);
        }
        if (j * BN + BN - 1 > warp_low || (a.window > 0 && warp_high - j * BN >= a.window)) {
#pragma unroll
            for (int n = 0; n < BN / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int token = j * BN + 8 * n + 2 * t + (i & 1), at = seat[i >> 1];
                    if (token > at || (a.window > 0 && at - token >= a.window))
                        s[n][i] = -INFINITY;
                }
        }
#pragma unroll
        for (int i = 0; i < 2; i++) { /* row g + 8 i */
            float high = top[i];
#pragma unroll
            for (int n = 0; n < BN / 8; n++)
                high = fmaxf(high, fmaxf(s[n][2 * i], s[n][2 * i + 1]));
            high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 1));
            high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 2));
            const float base = high == -INFINITY ? 0.0f : high * factor; /* rows that saw nothing yet */
            const float shrink = lu_exp2(top[i] * factor - base);
            top[i] = high;
            float sum = 0.0f;
#pragma unroll
            for (int n = 0; n < BN / 8; n++) {
                s[n][2 * i] = lu_exp2(fmaf(s[n][2 * i], factor, -base));
                s[n][2 * i + 1] = lu_exp2(fmaf(s[n][2 * i + 1], factor, -base));
                sum += s[n][2 * i] + s[n][2 * i + 1];
            }
            total[i] = fmaf(total[i], shrink, sum);
#pragma unroll
            for (int n = 0; n < HD / 8; n++) {
                o[n][2 * i] *= shrink;
                o[n][2 * i + 1] *= shrink;
            }
        }
#pragma unroll
        for (int k = 0; k < BN / 16; k++) {
            const uint32_t p0 = lu_pack2<BF16>(s[2 * k][0], s[2 * k][1]), p1 = lu_pack2<BF16>(s[2 * k][2], s[2 * k][3]);
            const uint32_t p2 = lu_pack2<BF16>(s[2 * k + 1][0], s[2 * k + 1][1]);
            const uint32_t p3 = lu_pack2<BF16>(s[2 * k + 1][2], s[2 * k + 1][3]);
#pragma unroll
            for (int n = 0; n < HD / 16; n++) {
                if (16 * n >= hd)
                    break;
                uint32_t b[4];
                lu_ldmatrix_transposed(b, values + chunk_at<HD>(16 * k + v_row, 2 * n + v_chunk));
                lu_mma<BF16>(o[2 * n], p0, p1, p2, p3, b[0], b[1]);
                lu_mma<BF16>(o[2 * n + 1], p0, p1, p2, p3, b[2], b[3]);
            }
        }
    }
    lu_async_wait<0>();

#pragma unroll
    for (int i = 0; i < 2; i++) {
        total[i] += __shfl_xor_sync(0xffffffffu, total[i], 1);
        total[i] += __shfl_xor_sync(0xffffffffu, total[i], 2);
        if (query0 + warp * 16 + g + 8 * i > last_query)
            continue;
        const float r = 1.0f / total[i];
        const int at = query[i] / a.group, head = kv_head * a.group + query[i] - at * a.group;
        uint16_t *out = a.out + ((int64_t)(row0 + at) * a.n_heads + head) * hd;
#pragma unroll
        for (int n = 0; n < HD / 8; n++)
            if (8 * n < hd)
                *(uint32_t *)(out + 8 * n + 2 * t) = lu_pack2<BF16>(o[n][2 * i] * r, o[n][2 * i + 1] * r);
    }
}

template <int HD> int launch_prefill(prefill_args &a, int bf16, const int32_t *starts, int64_t n_runs, void *stream)
{
    for (int64_t first = 0; first < n_runs; first += MOST_RUNS) {
        a.n_runs = (int)(n_runs - first < MOST_RUNS ? n_runs - first : MOST_RUNS);
        int64_t tiles = 0;
        for (int i = 0; i <= a.n_runs; i++) {
            a.row0[i] = starts[first + i];
            a.tile0[i] = (int)tiles;
            if (i < a.n_runs)
                tiles += ((int64_t)(starts[first + i + 1] - starts[first + i]) * a.group + plan<HD>::warps * 16 - 1) /
                         (plan<HD>::warps * 16);
        }
        if (tiles > 65535)
            return LU_CUDA_E_SHAPE;
        if (tiles == 0)
            continue;
        const lu_launch_shape s = {dim3((unsigned)a.kv.n_kv_heads, (unsigned)tiles), plan<HD>::warps * 32u,
                                   shared_bytes<HD>(), stream};
        const int status = bf16 ? lu_launch(attend_prefill<true, HD>, s, a) : lu_launch(attend_prefill<false, HD>, s, a);
        if (status)
            return status;
    }
    return 0;
}

} // namespace

int lu_cuda_attend_prefill(const lu_cuda_attend_args *e, const int32_t *starts, int64_t n_segments)
{
    const int64_t hd = e->kv.head_dim;
    if (!lu_kv_sound(&e->kv) || e->rows.n < 0 || e->n_heads < 1 || e->n_heads % e->kv.n_kv_heads || e->ld % 8 ||
        e->ld < e->n_heads * hd || e->window < 0 || n_segments < 0)
        return LU_CUDA_E_SHAPE;
    if (!lu_aligned16(e->q) || !lu_aligned16(e->out) || !lu_aligned16(e->kv.data))
        return LU_CUDA_E_SHAPE;
    const int64_t group = e->n_heads / e->kv.n_kv_heads;
    for (int64_t i = 0; i < n_segments; i++)
        if (starts[i] < 0 || starts[i + 1] < starts[i] || starts[i + 1] > e->rows.n ||
            (starts[i + 1] - starts[i]) * group > INT32_MAX / 2)
            return LU_CUDA_E_SHAPE;
    prefill_args a = {};
    a.sequence = e->rows.sequence;
    a.position = e->rows.position;
    a.q = e->q;
    a.ld = e->ld;
    a.kv = lu_kv_of_layer(&e->kv, e->layer);
    a.n_heads = (int)e->n_heads;
    a.group = (int)group;
    a.window = (int)(e->window < INT32_MAX ? e->window : 0);
    a.scale = e->scale;
    a.softcap = e->softcap;
    a.out = e->out;
    return hd > 128  ? launch_prefill<256>(a, e->bf16, starts, n_segments, e->stream)
           : hd > 64 ? launch_prefill<128>(a, e->bf16, starts, n_segments, e->stream)
                     : launch_prefill<64>(a, e->bf16, starts, n_segments, e->stream);
}
