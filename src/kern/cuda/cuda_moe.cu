/* cuda_moe.cu - mixture of experts around the products: which experts a row takes, the rows sorted by
   expert, and the weighted sum of what they return. */
#include "kern/cuda/act_values.cuh"
#include "kern/cuda/cuda_launch.cuh"
#include "kern/cuda/cuda_ops.h"

namespace {

enum {
    MOST_EXPERTS = 256,
    PER_LANE = MOST_EXPERTS / 32,
    MOST_ACTIVE = 32,
    SORT_THREADS = 1024,
    TOGETHER = 64, /* rows that one block both routes and sorts */
    COPY_THREADS = 128,
};

struct route_args {
    int n, n_experts, n_active;
    const uint16_t *logits;
    int32_t *source, *place;
    float *share;
    int32_t *first;
};

/* A warp chooses for one row. Until the sort, place holds -1 - expert. */
template <bool BF16> __device__ void choose(const route_args &a, int row)
{
    const int lane = (int)threadIdx.x & 31;
    float v[PER_LANE];
    float top = -INFINITY;
    unsigned taken = 0; /* bit i: expert lane + 32 i */
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) {
        const int expert = lane + 32 * i;
        v[i] = -INFINITY;
        if (expert < a.n_experts)
            v[i] = lu_from_act<BF16>(a.logits[(int64_t)row * a.n_experts + expert]);
        top = fmaxf(top, v[i]);
    }
#pragma unroll
    for (int step = 16; step; step >>= 1)
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, step));
    float sum = 0.0f, mine = 0.0f;
    int my_expert = INT32_MAX; /* lane k keeps the k-th choice */
    for (int k = 0; k < a.n_active; k++) {
        float best = -INFINITY;
        int expert = INT32_MAX; /* nothing but NaN and -inf left: the lowest not taken */
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) {
            const int e = lane + 32 * i;
            if (e < a.n_experts && !(taken >> i & 1) && (expert == INT32_MAX || v[i] > best)) {
                best = v[i];
                expert = e;
            }
        }
#pragma unroll
        for (int step = 16; step; step >>= 1) {
            const float other = __shfl_xor_sync(0xffffffffu, best, step);
            const int other_expert = __shfl_xor_sync(0xffffffffu, expert, step);
            const bool better = other_expert != INT32_MAX && (expert == INT32_MAX || other > best || (!(other < best) && other_expert < expert));
            if (better) {
                best = other;
                expert = other_expert;
            }
        }
        expert = __shfl_sync(0xffffffffu, expert, 0);
        best = __shfl_sync(0xffffffffu, best, 0);
        if (lane == (expert & 31))
            taken |= 1u << (expert >> 5);
        const float p = expf(best - top);
        sum += p;
        if (lane == k) {
            mine = p;
            my_expert = expert;
        }
    }
    int rank = 0; /* experts ascending */
    for (int k = 0; k < a.n_active; k++)
        rank += __shfl_sync(0xffffffffu, my_expert, k) < my_expert;
    if (lane < a.n_active) {
        a.place[(int64_t)row * a.n_active + rank] = -1 - my_expert;
        a.share[(int64_t)row * a.n_active + rank] = mine / sum;
    }
}

/* One block; a warp collects the pairs of one expert at a time, in order. A pair's place turns from
   -1 - expert to its gathered row, so no other warp mistakes it for its own. */
__device__ void sort_pairs(const route_args &a)
{
    __shared__ int count[MOST_EXPERTS], first[MOST_EXPERTS + 1];
    const int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5, warps = (int)blockDim.x >> 5;
    const int pairs = a.n * a.n_active;
    volatile int32_t *place = a.place;
    for (int e = warp; e < a.n_experts; e += warps) {
        int c = 0;
        for (int at = lane; at < pairs; at += 32)
            c += place[at] == -1 - e;
        c = __reduce_add_sync(0xffffffffu, c);
        if (lane == 0)
            count[e] = c;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        first[0] = 0;
        for (int e = 0; e < a.n_experts; e++)
            first[e + 1] = first[e] + count[e];
    }
    __syncthreads();
    for (int e = (int)threadIdx.x; e <= a.n_experts; e += (int)blockDim.x)
        a.first[e] = first[e];
    for (int e = warp; e < a.n_experts; e += warps) {
        int next = first[e];
        if (count[e] == 0)
            continue;
        for (int base = 0; base < pairs; base += 32) {
            const int at = base + lane;
            const bool mine = at < pairs && place[at] == -1 - e;
            const unsigned who = __ballot_sync(0xffffffffu, mine);
            if (mine) {
                const int to = next + __popc(who & ((1u << lane) - 1));
                place[at] = to;
                a.source[to] = at / a.n_active;
            }
            next += __popc(who);
        }
    }
}

template <bool BF16> __global__ void moe_choose(const __grid_constant__ route_args a)
{
    const int row = (int)blockIdx.x * 4 + ((int)threadIdx.x >> 5);
    lu_begin();
    if (row < a.n)
        choose<BF16>(a, row);
}

__global__ void __launch_bounds__(SORT_THREADS) moe_sort(const __grid_constant__ route_args a)
{
    lu_begin();
    sort_pairs(a);
}

template <bool BF16> __global__ void __launch_bounds__(SORT_THREADS) moe_route(const __grid_constant__ route_args a)
{
    lu_begin();
    for (int row = (int)threadIdx.x >> 5; row < a.n; row += (int)blockDim.x >> 5)
        choose<BF16>(a, row);
    __syncthreads();
    sort_pairs(a);
}

/* n16: 16-byte pieces of a row, if vector; else its 2-byte elements. */
__global__ void moe_gather(int64_t cols, int across, const int32_t *source, const uint16_t *in, uint16_t *out, int vector)
{
    const int64_t row = blockIdx.x / across;
    const int64_t col = ((blockIdx.x - row * across) * COPY_THREADS + threadIdx.x) * 8;
    lu_begin();
    if (col >= cols)
        return;
    const uint16_t *from = in + source[row] * cols + col;
    uint16_t *to = out + row * cols + col;
    if (vector)
        *(uint4 *)to = *(const uint4 *)from;
    else
        for (int i = 0; i < 8 && col + i < cols; i++)
            to[i] = from[i];
}

template <bool BF16>
__global__ void moe_scatter(int64_t cols, int across, int n_active, const int32_t *place, const float *share,
                            const uint16_t *y, uint16_t *out, int vector)
{
    const int64_t row = blockIdx.x / across;
    const int64_t col = ((blockIdx.x - row * across) * COPY_THREADS + threadIdx.x) * 8, left = cols - col;
    lu_begin();
    if (left <= 0)
        return;
    float sum[8] = {};
    for (int k = 0; k < n_active; k++) {
        float v[8];
        const float s = share[row * n_active + k];
        lu_load8<BF16>(y + place[row * n_active + k] * cols + col, left, vector, v);
#pragma unroll
        for (int i = 0; i < 8; i++)
            sum[i] = fmaf(s, v[i], sum[i]);
    }
    lu_store8<BF16>(out + row * cols + col, left, vector, sum);
}

} // namespace

int lu_cuda_moe_route(int64_t n, int64_t n_experts, int64_t n_active, const uint16_t *logits, int bf16,
                      int32_t *source, int32_t *place, float *share, int32_t *first, void *stream)
{
    if (n < 0 || n_experts < 1 || n_experts > MOST_EXPERTS || n_active < 1 || n_active > MOST_ACTIVE ||
        n_active > n_experts || n > INT32_MAX / 2 / n_active)
        return LU_CUDA_E_SHAPE;
    const route_args a = {(int)n, (int)n_experts, (int)n_active, logits, source, place, share, first};
    if (n <= TOGETHER) {
        const unsigned most = (unsigned)(n > n_experts ? n : n_experts), warps = most < 32 ? most : 32;
        const lu_launch_shape s = {dim3(1), warps * 32, 0, stream};
        return bf16 ? lu_launch(moe_route<true>, s, a) : lu_launch(moe_route<false>, s, a);
    }
    const lu_launch_shape s = {dim3((unsigned)((n + 3) / 4)), 128, 0, stream}, one = {dim3(1), SORT_THREADS, 0, stream};
    const int status = bf16 ? lu_launch(moe_choose<true>, s, a) : lu_launch(moe_choose<false>, s, a);
    return status ? status : lu_launch(moe_sort, one, a);
}

int lu_cuda_moe_gather(int64_t n, int64_t cols, const int32_t *source, const uint16_t *in, uint16_t *out, void *stream)
{
    const int64_t across = (cols + COPY_THREADS * 8 - 1) / (COPY_THREADS * 8);
    if (n < 0 || cols < 1 || (n && across > INT32_MAX / n))
        return LU_CUDA_E_SHAPE;
    if (n == 0)
        return 0;
    const int vector = cols % 8 == 0 && lu_aligned16(in) && lu_aligned16(out);
    const lu_launch_shape s = {dim3((unsigned)(n * across)), COPY_THREADS, 0, stream};
    return lu_launch(moe_gather, s, cols, (int)across, source, in, out, vector);
}

int lu_cuda_moe_scatter(int64_t n, int64_t cols, int64_t n_active, const int32_t *place, const float *share,
                        const uint16_t *y, int bf16, uint16_t *out, void *stream)
{
    const int64_t across = (cols + COPY_THREADS * 8 - 1) / (COPY_THREADS * 8);
    if (n < 0 || cols < 1 || n_active < 1 || n_active > MOST_ACTIVE || (n && across > INT32_MAX / n))
        return LU_CUDA_E_SHAPE;
    if (n == 0)
        return 0;
    const int vector = cols % 8 == 0 && lu_aligned16(y) && lu_aligned16(out);
    const lu_launch_shape s = {dim3((unsigned)(n * across)), COPY_THREADS, 0, stream};
    return bf16 ? lu_launch(moe_scatter<true>, s, cols, (int)across, (int)n_active, place, share, y, out, vector)
                : lu_launch(moe_scatter<false>, s, cols, (int)across, (int)n_active, place, share, y, out, vector);
}
