/* cuda_rope_store.cu - rotates q and k, stores k and v in the cache. A thread takes W pairs of one
   head of one row. */
#include "kern/cuda/act_values.cuh"
#include "kern/cuda/cuda_kv.cuh"
#include "kern/cuda/cuda_launch.cuh"

namespace {

enum { THREADS = 128 };

struct rope_args {
    const int32_t *sequence, *position;
    uint16_t *qkv;
    int64_t ld, items; /* items: threads' work in all rows */
    const float *cosines, *sines;
    lu_kv_layer kv;
    int n_heads, chunks, per_row; /* chunks of W pairs per head; items per row */
};

template <bool BF16, int W> __global__ void rope_store(const __grid_constant__ rope_args a)
{
    const int64_t item = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    lu_begin();
    if (item >= a.items)
        return;
    const int64_t row = item / a.per_row;
    const int in_row = (int)(item - row * a.per_row), head = in_row / a.chunks;
    const int d = (in_row - head * a.chunks) * W, half = a.kv.head_dim / 2;
    const int position = a.position[row];
    if (position < 0)
        return;
    uint16_t *from = a.qkv + row * a.ld + (int64_t)head * a.kv.head_dim + d, *to = from;
    float low[8], high[8];
    lu_load8<BF16>(from, W, W == 8, low);
    lu_load8<BF16>(from + half, W, W == 8, high);
    const int kv_head = head - a.n_heads;
    if (kv_head >= 0) {
        const bool value = kv_head >= a.kv.n_kv_heads;
        const int page = lu_kv_page(a.kv, a.sequence[row], position);
        to = (value ? a.kv.values : a.kv.keys) +
             lu_kv_at(a.kv, page, value ? kv_head - a.kv.n_kv_heads : kv_head, position) + d;
    }
    if (kv_head < a.kv.n_kv_heads) {
        float c[8], s[8];
        lu_load8_float(a.cosines + (int64_t)position * half + d, W, W == 8, c);
        lu_load8_float(a.sines + (int64_t)position * half + d, W, W == 8, s);
#pragma unroll
        for (int i = 0; i < W; i++) {
            const float l = low[i], h = high[i];
            low[i] = lu_rotated_low(l, h, c[i], s[i]);
            high[i] = lu_rotated_high(l, h, c[i], s[i]);
        }
    }
    lu_store8<BF16>(to, W, W == 8, low);
    lu_store8<BF16>(to + half, W, W == 8, high);
}

} // namespace

int lu_cuda_rope_store(const lu_cuda_rope_args *e)
{
    const int64_t half = e->kv.head_dim / 2, heads = e->n_heads + 2 * e->kv.n_kv_heads;
    if (!lu_kv_sound(&e->kv) || e->rows.n < 0 || e->n_heads < 1 || e->ld < heads * e->kv.head_dim)
        return LU_CUDA_E_SHAPE;
    const bool vector = half % 8 == 0 && e->ld % 8 == 0 && lu_aligned16(e->qkv) && lu_aligned16(e->kv.data) &&
                        lu_aligned16(e->cosines) && lu_aligned16(e->sines);
    const int64_t chunks = vector ? half / 8 : half, per_row = heads * chunks, items = e->rows.n * per_row;
    if (per_row > INT32_MAX || items / THREADS >= INT32_MAX)
        return LU_CUDA_E_SHAPE;
    if (items == 0)
        return 0;
    const rope_args a = {e->rows.sequence, e->rows.position, e->qkv, e->ld, items, e->cosines, e->sines,
                         lu_kv_of_layer(&e->kv, e->layer), (int)e->n_heads, (int)chunks, (int)per_row};
    const lu_launch_shape s = {dim3((unsigned)((items + THREADS - 1) / THREADS)), THREADS, 0, e->stream};
    if (vector)
        return e->bf16 ? lu_launch(rope_store<true, 8>, s, a) : lu_launch(rope_store<false, 8>, s, a);
    return e->bf16 ? lu_launch(rope_store<true, 1>, s, a) : lu_launch(rope_store<false, 1>, s, a);
}
