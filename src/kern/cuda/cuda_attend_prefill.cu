/* cuda_attend_prefill.cu - attention of many consecutive positions of a sequence (after FlashAttention-2,
   Dao 2023): a block takes a tile of queries and walks over the tiles of keys that they see, the next
   one on its way into shared memory, softmax online in float32, base 2. A warp takes MT * 16 queries,
   so that keys and values read from shared memory serve MT matrix instructions. Two blocks share an
   SM: one computes while the other one exponentiates.

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

enum { MOST_RUNS = 128, STAGES = 2 }; /* runs of one launch */

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

/* What fits 255 registers and half of 227 KB of shared memory. */
template <int HD> struct plan;
template <> struct plan<64> { enum { warps = 4, mt = 2, bn = 64 }; };
template <> struct plan<128> { enum { warps = 4, mt = 2, bn = 64 }; };
template <> struct plan<256> { enum { warps = 4, mt = 1, bn = 32 }; };

template <int HD> constexpr int tile_queries()
{
    return plan<HD>::warps * plan<HD>::mt * 16;
}

template <int HD> constexpr size_t shared_bytes()
{
    return (size_t)(STAGES * 2 * plan<HD>::bn + tile_queries<HD>()) * HD * 2;
}

/* Byte offset of chunk c of row r. */
template <int HD> __device__ __forceinline__ uint32_t chunk_at(int r, int c)
{
    return (uint32_t)(r * HD * 2 + ((c ^ (r & 7)) << 4));
}

template <bool BF16, int HD>
__global__ void __launch_bounds__(plan<HD>::warps * 32, 2) attend_prefill(const __grid_constant__ prefill_args a)
{
    enum {
        WARPS = plan<HD>::warps, MT = plan<HD>::mt, BN = plan<HD>::bn, BM = WARPS * MT * 16, CHUNKS = HD / 8,
        PASS_ROWS = WARPS * 32 / CHUNKS, /* rows of a tile that the block copies at once: 16 or less */
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

    const int warp_query = query0 + warp * (MT * 16); /* rows beyond the last query are the last again */
    const int warp_low = position0 + min(warp_query, last_query) / a.group;
    const int warp_high = position0 + min(warp_query + MT * 16 - 1, last_query) / a.group;

    /* copying: a thread takes one chunk of every PASS_ROWS-th row; 16 rows lie in one page */
    const int chunk = tid % CHUNKS, copy_row = tid / CHUNKS;
    int page[BN / 16];
    auto find_pages = [&](int j) {
#pragma unroll
        for (int i = 0; i < BN / 16; i++) {
            const int token = j * BN + 16 * i;
            page[i] = token <= last_seen ? lu_kv_page(a.kv, sequence, token) : 0;
        }
    };
    auto copy_tile = [&](int j, int stage) {
#pragma unroll
        for (int i = 0; i < PASSES; i++) {
            const int r = copy_row + i * PASS_ROWS, token = j * BN + r;
            const bool real = token >= first_seen && token <= last_seen && chunk * 8 < hd;
            const int64_t from = real ? lu_kv_at(a.kv, page[i * PASS_ROWS / 16], kv_head, token) + chunk * 8 : 0;
            const uint32_t to = stages + stage * 2 * TILE_BYTES + chunk_at<HD>(r, chunk);
            lu_async_copy(to, a.kv.keys + from, real);
            lu_async_copy(to + TILE_BYTES, a.kv.values + from, real);
        }
    };
    find_pages(tile_first);
    for (int r = copy_row; r < BM; r += PASS_ROWS) {
        const int query = min(query0 + r, last_query), at = query / a.group;
        const uint16_t *p = a.q + (row0 + at) * a.ld + (int64_t)(kv_head * a.group + query - at * a.group) * hd;
        lu_async_copy(q_at + chunk_at<HD>(r, chunk), chunk * 8 < hd ? p + chunk * 8 : a.q, chunk * 8 < hd);
    }
    copy_tile(tile_first, 0);
    lu_async_commit();
    if (tile_first < tile_last)
        find_pages(tile_first + 1);

    float o[MT][HD / 8][4], top[MT][2], total[MT][2];
#pragma unroll
    for (int m = 0; m < MT; m++) {
        top[m][0] = top[m][1] = -INFINITY;
        total[m][0] = total[m][1] = 0.0f;
#pragma unroll
        for (int n = 0; n < HD / 8; n++)
            o[m][n][0] = o[m][n][1] = o[m][n][2] = o[m][n][3] = 0.0f;
    }
    const float factor = a.softcap > 0.0f ? LU_LOG2_E : a.scale * LU_LOG2_E;
    /* rows and chunks that ldmatrix wants of this lane: K plain; Q (plain) and V (transposed) alike */
    const int k_row = (lane & 7) + (lane >> 4) * 8, k_chunk = (lane >> 3) & 1;
    const int v_row = lane & 15, v_chunk = lane >> 4;

    for (int j = tile_first; j <= tile_last; j++) {
        const int stage = (j - tile_first) & 1;
        lu_async_wait<0>(); /* tile j is here; */
        __syncthreads();    /* and everyone is done with tile j - 1 */
        if (j < tile_last) {
            copy_tile(j + 1, stage ^ 1);
            lu_async_commit();
            if (j + 1 < tile_last)
                find_pages(j + 2);
        }
        const uint32_t keys = stages + stage * 2 * TILE_BYTES, values = keys + TILE_BYTES;
        if (j * BN > warp_high || (a.window > 0 && j * BN + BN - 1 <= warp_low - a.window))
            continue; /* no row of this warp sees it */

        float s[MT][BN / 8][4];
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int n = 0; n < BN / 8; n++)
                s[m][n][0] = s[m][n][1] = s[m][n][2] = s[m][n][3] = 0.0f;
#pragma unroll
        for (int k = 0; k < HD / 16; k++) {
            uint32_t q[MT][4];
#pragma unroll
            for (int m = 0; m < MT; m++)
                lu_ldmatrix(q[m], q_at + chunk_at<HD>((warp * MT + m) * 16 + v_row, 2 * k + v_chunk));
#pragma unroll
            for (int n = 0; n < BN / 16; n++) {
                uint32_t b[4];
                lu_ldmatrix(b, keys + chunk_at<HD>(16 * n + k_row, 2 * k + k_chunk));
#pragma unroll
                for (int m = 0; m < MT; m++) {
                    lu_mma<BF16>(s[m][2 * n], q[m][0], q[m][1], q[m][2], q[m][3], b[0], b[1]);
                    lu_mma<BF16>(s[m][2 * n + 1], q[m][0], q[m][1], q[m][2], q[m][3], b[2], b[3]);
                }
            }
        }
        if (a.softcap > 0.0f) {
            const float inner = a.scale / a.softcap;
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int n = 0; n < BN / 8; n++)
#pragma unroll
                    for (int i = 0; i < 4; i++)
                        s[m][n][i] = a.softcap * lu_fast_tanh(s[m][n][i] * inner);
        }
        if (j * BN + BN - 1 > warp_low || (a.window > 0 && warp_high - j * BN >= a.window)) {
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const int query = min(warp_query + 16 * m + g + 8 * i, last_query);
                    const int last = position0 + query / a.group - j * BN - 2 * t; /* columns it sees, from here */
                    const int first = a.window > 0 ? last - a.window : -BN;        /* this one no more */
#pragma unroll
                    for (int n = 0; n < BN / 8; n++)
#pragma unroll
                        for (int e = 0; e < 2; e++)
                            if (8 * n + e > last || 8 * n + e <= first)
                                s[m][n][2 * i + e] = -INFINITY;
                }
        }
#pragma unroll
        for (int m = 0; m < MT; m++) {
            float shrink[2];
#pragma unroll
            for (int i = 0; i < 2; i++) { /* row g + 8 i */
                float high = top[m][i];
#pragma unroll
                for (int n = 0; n < BN / 8; n++)
                    high = fmaxf(high, fmaxf(s[m][n][2 * i], s[m][n][2 * i + 1]));
                high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 1));
                high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 2));
                const float base = high == -INFINITY ? 0.0f : high * factor; /* rows that saw nothing yet */
                shrink[i] = lu_exp2(top[m][i] * factor - base);
                top[m][i] = high;
                float sum = 0.0f;
#pragma unroll
                for (int n = 0; n < BN / 8; n++) {
                    s[m][n][2 * i] = lu_exp2(fmaf(s[m][n][2 * i], factor, -base));
                    s[m][n][2 * i + 1] = lu_exp2(fmaf(s[m][n][2 * i + 1], factor, -base));
                    sum += s[m][n][2 * i] + s[m][n][2 * i + 1];
                }
                total[m][i] = fmaf(total[m][i], shrink[i], sum);
            }
            if (__any_sync(0xffffffffu, shrink[0] != 1.0f || shrink[1] != 1.0f)) { /* else the product is itself */
#pragma unroll
                for (int n = 0; n < HD / 8; n++) {
                    o[m][n][0] *= shrink[0];
                    o[m][n][1] *= shrink[0];
                    o[m][n][2] *= shrink[1];
                    o[m][n][3] *= shrink[1];
                }
            }
        }
#pragma unroll
        for (int k = 0; k < BN / 16; k++) {
            uint32_t p[MT][4];
#pragma unroll
            for (int m = 0; m < MT; m++) {
                p[m][0] = lu_pack2<BF16>(s[m][2 * k][0], s[m][2 * k][1]);
                p[m][1] = lu_pack2<BF16>(s[m][2 * k][2], s[m][2 * k][3]);
                p[m][2] = lu_pack2<BF16>(s[m][2 * k + 1][0], s[m][2 * k + 1][1]);
                p[m][3] = lu_pack2<BF16>(s[m][2 * k + 1][2], s[m][2 * k + 1][3]);
            }
#pragma unroll
            for (int n = 0; n < HD / 16; n++) {
                uint32_t b[4];
                lu_ldmatrix_transposed(b, values + chunk_at<HD>(16 * k + v_row, 2 * n + v_chunk));
#pragma unroll
                for (int m = 0; m < MT; m++) {
                    lu_mma<BF16>(o[m][2 * n], p[m][0], p[m][1], p[m][2], p[m][3], b[0], b[1]);
                    lu_mma<BF16>(o[m][2 * n + 1], p[m][0], p[m][1], p[m][2], p[m][3], b[2], b[3]);
                }
            }
        }
    }

#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int query = warp_query + 16 * m + g + 8 * i;
            total[m][i] += __shfl_xor_sync(0xffffffffu, total[m][i], 1);
            total[m][i] += __shfl_xor_sync(0xffffffffu, total[m][i], 2);
            if (query > last_query)
                continue;
            const float r = 1.0f / total[m][i];
            const int at = query / a.group, head = kv_head * a.group + query - at * a.group;
            uint16_t *out = a.out + ((int64_t)(row0 + at) * a.n_heads + head) * hd;
#pragma unroll
            for (int n = 0; n < HD / 8; n++)
                if (8 * n < hd)
                    *(uint32_t *)(out + 8 * n + 2 * t) = lu_pack2<BF16>(o[m][n][2 * i] * r, o[m][n][2 * i + 1] * r);
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
                tiles += ((int64_t)(starts[first + i + 1] - starts[first + i]) * a.group + tile_queries<HD>() - 1) /
                         tile_queries<HD>();
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
