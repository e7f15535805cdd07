/* cuda_sample.cu - choosing a token per row, step for step as engine/sampler.c does, without a sort
   of the vocabulary:

     scan    largest penalised logit of every group of the vocabulary
     weigh   from these the largest of the row; the number and summed weights of the candidates; and a
             list of those above a bound that some hundred groups' largest reach
     choose  one block per row: sorts the list and finds top-k, top-p and the draw on it. Only where
             the list cannot hold the answer (a nearly flat row) it searches the whole row instead.

   A candidate's weight is exp(score) as an integer in units of 2^-shift, so that sums are exact and
   the same in any order. All order is by (score descending, id ascending); a score is
   (logit - largest) / T in float32. "First whose inclusive sum reaches s" answers all three questions:
   s = k in counts, s = top_p * total, and for the draw, which the CPU makes from the least likely
   on, s = total * (1 - u). Without top-k and top-p the draw goes by id, s just above total * u. */
#include <math.h>

#include "kern/cuda/cuda_launch.cuh"
#include "kern/cuda/cuda_ops.h"

namespace {

enum {
    SLICES = 64,          /* blocks per row of scan and weigh */
    SLICE_THREADS = 256,
    MOST_GROUPS = 8192,   /* groups: 64 candidates, or more where the vocabulary is large */
    GROUPS_PER_THREAD = MOST_GROUPS / SLICE_THREADS,
    WANTED = 1024,        /* groups whose largest should reach the bound */
    LIST = 4096,          /* room of the list */
    CHOOSE_THREADS = 1024,
};

typedef unsigned long long count64;

/* Of one row, between the kernels. */
struct row_state {
    count64 weight[SLICES]; /* of the slice's candidates */
    unsigned candidates[SLICES];
    unsigned listed, pad[3];
};

struct entry {
    unsigned key; /* ordered like the score; 0: none */
    int id;
};

struct sample_args {
    int64_t vocab;
    int group, n_groups, slice; /* candidates per group; groups; groups per slice */
    const float *logits;
    uint32_t *seen;
    float temperature, top_p, min_p, penalty;
    int top_k, shift;
    const double *uniform;
    int32_t *ids;
    unsigned *group_keys; /* [row][n_groups] of penalised logits */
    row_state *states;
    entry *lists; /* [row][LIST] */
};

/* Keys order floats as unsigned integers; -0 counts as 0, NaN as nothing. */
__device__ __forceinline__ unsigned key_of(float v)
{
    const unsigned bits = __float_as_uint(v + 0.0f);
    return v != v ? 0u : bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float value_of(unsigned key)
{
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

__device__ __forceinline__ float penalised(const sample_args &a, int64_t row, int64_t id)
{
    const float x = a.logits[row * a.vocab + id];
    if (!a.seen || a.penalty == 1.0f || !(a.seen[row * ((a.vocab + 31) / 32) + id / 32] >> (id % 32) & 1))
        return x;
    return x > 0.0f ? x / a.penalty : x * a.penalty;
}

__device__ __forceinline__ float score_of(const sample_args &a, float logit, float top)
{
    return (logit - top) / a.temperature;
}

__device__ __forceinline__ count64 weight_of(const sample_args &a, float score, bool min_p)
{
    const double w = exp((double)score);
    return min_p && !(w >= (double)a.min_p) ? 0 : (count64)ldexp(w, a.shift);
}

template <typename T> __device__ T block_sum(T v, T *part)
{
    const int lane = (int)threadIdx.x & 31, warps = (int)blockDim.x / 32;
#pragma unroll
    for (int step = 16; step; step >>= 1)
        v += __shfl_xor_sync(0xffffffffu, v, step);
    __syncthreads();
    if (lane == 0)
        part[threadIdx.x / 32] = v;
    __syncthreads();
    v = lane < warps ? part[lane] : T(0);
#pragma unroll
    for (int step = 16; step; step >>= 1)
        v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}

__device__ unsigned block_max(unsigned v, unsigned *part)
{
    v = __reduce_max_sync(0xffffffffu, v);
    __syncthreads();
    if ((threadIdx.x & 31) == 0)
        part[threadIdx.x / 32] = v;
    __syncthreads();
    return __reduce_max_sync(0xffffffffu, (threadIdx.x & 31) < blockDim.x / 32 ? part[threadIdx.x & 31] : 0u);
}

/* A warp per group. */
__global__ void __launch_bounds__(SLICE_THREADS) sample_scan(const __grid_constant__ sample_args a)
{
    const int64_t row = blockIdx.y;
    const int lane = (int)threadIdx.x & 31, first = (int)blockIdx.x * a.slice, end = min(first + a.slice, a.n_groups);
    lu_begin();
    if (blockIdx.x == 0 && threadIdx.x == 0)
        a.states[row].listed = 0;
    for (int group = first + (int)threadIdx.x / 32; group < end; group += SLICE_THREADS / 32) {
        unsigned best = 0;
        const int64_t begin = (int64_t)group * a.group, last = min(begin + a.group, a.vocab);
        for (int64_t id = begin + lane; id < last; id += 32)
            best = max(best, key_of(penalised(a, row, id)));
        best = __reduce_max_sync(0xffffffffu, best);
        if (lane == 0)
            a.group_keys[row * a.n_groups + group] = best;
    }
}

__global__ void __launch_bounds__(SLICE_THREADS) sample_weigh(const __grid_constant__ sample_args a)
{
    __shared__ unsigned part[32];
    __shared__ count64 parts[32];
    const int64_t row = blockIdx.y;
    const int tid = (int)threadIdx.x;
    lu_begin();
    unsigned key[GROUPS_PER_THREAD], best = 0;
#pragma unroll
    for (int i = 0; i < GROUPS_PER_THREAD; i++) {
        const int group = i * SLICE_THREADS + tid;
        key[i] = group < a.n_groups ? a.group_keys[row * a.n_groups + group] : 0;
        best = max(best, key[i]);
    }
    best = block_max(best, part);
    const float top = value_of(best);
    if (best == 0 || isinf(top))
        return;
    /* the largest bound of 16 leading bits that enough groups reach; none where the list holds all */
    unsigned bound = 0;
    if (a.vocab > LIST)
        for (unsigned bit = 0x80000000u; bit > 0x8000u; bit >>= 1) {
            int reach = 0;
#pragma unroll
            for (int i = 0; i < GROUPS_PER_THREAD; i++)
                reach += key[i] >= (bound | bit);
            const unsigned all = (unsigned)block_sum<unsigned>((unsigned)reach, part);
            if (all >= (unsigned)min(WANTED, a.n_groups / 2))
                bound |= bit;
        }
    /* ties of scores must not be torn: the bound becomes a score */
    const float least = bound ? score_of(a, value_of(bound), top) : -INFINITY;
    const bool ordered = a.top_k > 0 || a.top_p != 1.0f;
    const int64_t begin = (int64_t)blockIdx.x * a.slice * a.group;
    const int64_t end = min(begin + (int64_t)a.slice * a.group, a.vocab);
    count64 weight = 0;
    unsigned candidates = 0;
    for (int64_t id = begin + tid; id < end; id += SLICE_THREADS) {
        const float score = score_of(a, penalised(a, row, id), top);
        if (!(score > -INFINITY))
            continue;
        candidates++;
        weight += weight_of(a, score, !ordered);
        if (ordered && score >= least) {
            const unsigned at = atomicAdd(&a.states[row].listed, 1u);
            if (at < LIST)
                a.lists[row * LIST + at] = {key_of(score), (int)id};
        }
    }
    candidates = block_sum<unsigned>(candidates, part);
    weight = block_sum<count64>(weight, parts);
    if (tid == 0) {
        a.states[row].weight[blockIdx.x] = weight;
        a.states[row].candidates[blockIdx.x] = candidates;
    }
}

/* a before b */
__device__ __forceinline__ bool before(entry a, entry b)
{
    return a.key > b.key || (a.key == b.key && a.id < b.id);
}

struct choice_room {
    entry list[LIST];
    count64 parts[32], running[CHOOSE_THREADS];
    unsigned part[32];
    int found;
};

/* Sorts list[0 .. n), n a power of two, best first (bitonic). */
__device__ void sort_list(entry *list, int n)
{
    for (int size = 2; size <= n; size *= 2)
        for (int step = size / 2; step; step /= 2) {
            __syncthreads();
            for (int i = (int)threadIdx.x; i < n / 2; i += CHOOSE_THREADS) {
                const int low = i / step * 2 * step + i % step, high = low + step;
                const bool descending = (low & size) == 0;
                if (before(list[high], list[low]) == descending) {
                    const entry e = list[low];
                    list[low] = list[high];
                    list[high] = e;
                }
            }
        }
    __syncthreads();
}

#define NEVER (~(count64)0)

/* A share of a sum, rounded up; never nothing and never more than all. */
__device__ __forceinline__ count64 share_of(double share, count64 all)
{
    const double s = ceil(share * (double)all);
    return s < 1.0 ? 1 : min((count64)s, all);
}

/* Exceeding u times a whole sum is reaching the next whole number. */
__device__ __forceinline__ count64 by_id(double u, count64 all)
{
    return min((count64)floor(u * (double)all) + 1, all);
}

/* The first i in [0, n) whose inclusive sum of amount(i) reaches `wanted`, n if none does; *sum: of
   all. Threads take contiguous stretches; a scan over their sums leads to the one that crosses. */
template <typename Amount>
__device__ int64_t first_reaching(choice_room &r, int64_t n, count64 wanted, Amount amount, count64 *sum)
{
    const int tid = (int)threadIdx.x;
    const int64_t each = (n + CHOOSE_THREADS - 1) / CHOOSE_THREADS, begin = min(each * tid, n), end = min(begin + each, n);
    count64 mine = 0;
    for (int64_t i = begin; i < end; i++)
        mine += amount(i);
    __syncthreads();
    r.running[tid] = mine;
    for (int step = 1; step < CHOOSE_THREADS; step *= 2) {
        __syncthreads();
        const count64 left = tid >= step ? r.running[tid - step] : 0;
        __syncthreads();
        r.running[tid] += left;
    }
    if (tid == 0)
        r.found = INT32_MAX;
    __syncthreads();
    const count64 upto = r.running[tid];
    *sum = r.running[CHOOSE_THREADS - 1];
    if (upto >= wanted && !(tid > 0 && r.running[tid - 1] >= wanted)) {
        count64 s = upto - mine;
        int64_t i = begin;
        for (; i < end; i++) {
            s += amount(i);
            if (s >= wanted)
                break;
        }
        if (i < end)
            r.found = (int)i;
    }
    __syncthreads();
    const int found = r.found;
    __syncthreads();
    return found == INT32_MAX ? n : found;
}

/* Amounts over the whole row. */
struct whole_row {
    const sample_args &a;
    int64_t row;
    float top;
    __device__ entry at(int64_t id) const
    {
        const float s = score_of(a, penalised(a, row, id), top);
        return {s > -INFINITY ? key_of(s) : 0u, (int)id};
    }
};

/* The first entry in order whose inclusive sum of amounts reaches `wanted`, by bisection of its key
   over the whole row: the largest key whose entries and all better reach it, then the id among
   equals. amount(key): what an entry of that key adds. */
template <typename Amount>
__device__ entry search_row(choice_room &r, const whole_row &w, count64 wanted, Amount amount)
{
    unsigned key = 0;
    for (unsigned bit = 0x80000000u; bit; bit >>= 1) {
        count64 mine = 0;
        for (int64_t id = threadIdx.x; id < w.a.vocab; id += CHOOSE_THREADS) {
            const entry e = w.at(id);
            if (e.key && e.key >= (key | bit))
                mine += amount(e);
        }
        if (block_sum<count64>(mine, r.parts) >= wanted)
            key |= bit;
    }
    count64 better = 0;
    for (int64_t id = threadIdx.x; id < w.a.vocab; id += CHOOSE_THREADS) {
        const entry e = w.at(id);
        if (e.key > key)
            better += amount(e);
    }
    better = block_sum<count64>(better, r.parts);
    count64 sum;
    const auto equals = [&](int64_t i) {
        const entry e = w.at(i);
        return e.key == key && key ? amount(e) : (count64)0;
    };
    const int64_t id = first_reaching(r, w.a.vocab, wanted - better, equals, &sum);
    return {key, (int)id};
}

/* The draw in order, where the list is too short. */
__device__ int choose_from_row(const sample_args &a, choice_room &r, const whole_row &w, bool by_k, count64 total)
{
    entry last = {1, INT32_MAX}; /* the last one kept: all candidates */
    const auto weight = [&](entry e) { return weight_of(a, value_of(e.key), false); };
    const auto kept_weight = [&](entry e) { return before(last, e) ? 0 : weight_of(a, value_of(e.key), false); };
    const auto drawn_weight = [&](entry e) { return before(last, e) ? 0 : weight_of(a, value_of(e.key), true); };
    if (by_k) {
        last = search_row(r, w, (count64)a.top_k, [](entry) { return (count64)1; });
        count64 mine = 0;
        for (int64_t id = threadIdx.x; id < a.vocab; id += CHOOSE_THREADS) {
            const entry e = w.at(id);
            if (e.key)
                mine += kept_weight(e);
        }
        total = block_sum<count64>(mine, r.parts);
        last = search_row(r, w, share_of((double)a.top_p, total), kept_weight);
    } else {
        last = search_row(r, w, share_of((double)a.top_p, total), weight);
    }
    count64 mine = 0;
    for (int64_t id = threadIdx.x; id < a.vocab; id += CHOOSE_THREADS) {
        const entry e = w.at(id);
        if (e.key)
            mine += drawn_weight(e);
    }
    total = block_sum<count64>(mine, r.parts);
    return search_row(r, w, share_of(1.0 - a.uniform[w.row], total), drawn_weight).id;
}

__device__ int choose_from_list(const sample_args &a, choice_room &r, int64_t row, int64_t kept)
{
    count64 total;
    const auto weight = [&](int64_t i) { return weight_of(a, value_of(r.list[i].key), true); };
    first_reaching(r, kept, NEVER, weight, &total);
    const int64_t i = first_reaching(r, kept, share_of(1.0 - a.uniform[row], total), weight, &total);
    return r.list[min(i, kept - 1)].id;
}

__device__ int choose_token(const sample_args &a, choice_room &r, int64_t row)
{
    const int tid = (int)threadIdx.x;
    unsigned best = 0;
    for (int group = tid; group < a.n_groups; group += CHOOSE_THREADS)
        best = max(best, a.group_keys[row * a.n_groups + group]);
    best = block_max(best, r.part);
    if (best == 0)
        return 0; /* all NaN */
    const float top = value_of(best);
    if (a.temperature == 0.0f || isinf(top)) { /* the lowest id that is as large */
        unsigned low = 0;
        for (int group = tid; group < a.n_groups; group += CHOOSE_THREADS)
            if (a.group_keys[row * a.n_groups + group] == best)
                low = max(low, (unsigned)(a.n_groups - group));
        const int64_t begin = (int64_t)(a.n_groups - (int)block_max(low, r.part)) * a.group;
        low = 0;
        for (int i = tid; i < a.group; i += CHOOSE_THREADS)
            if (begin + i < a.vocab && key_of(penalised(a, row, begin + i)) == best)
                low = max(low, (unsigned)(a.group - i));
        return (int)begin + a.group - (int)block_max(low, r.part);
    }
    const row_state &state = a.states[row];
    const count64 total = block_sum<count64>(tid < SLICES ? state.weight[tid] : 0, r.parts);
    const int64_t n = block_sum<unsigned>(tid < SLICES ? state.candidates[tid] : 0, r.part);
    const whole_row w = {a, row, top};
    if (a.top_p == 1.0f && (a.top_k == 0 || a.top_k >= n)) { /* by id: the slice, then within it */
        const bool weighed = a.top_k == 0; /* else weights were summed without min_p */
        const double u = a.uniform[row];
        count64 sum = total;
        const auto weight = [&](int64_t id) {
            const entry e = w.at(id);
            return e.key ? weight_of(a, value_of(e.key), true) : (count64)0;
        };
        if (!weighed) {
            first_reaching(r, a.vocab, NEVER, weight, &sum);
            return (int)min(first_reaching(r, a.vocab, by_id(u, sum), weight, &sum), a.vocab - 1);
        }
        const count64 wanted = by_id(u, sum);
        const auto of_slice = [&](int64_t i) { return state.weight[i]; };
        const int64_t slice = min(first_reaching(r, SLICES, wanted, of_slice, &sum), (int64_t)SLICES - 1);
        const count64 ahead = block_sum<count64>(tid < slice ? state.weight[tid] : 0, r.parts);
        const int64_t begin = slice * a.slice * a.group, end = min(begin + (int64_t)a.slice * a.group, a.vocab);
        const auto within = [&](int64_t k) { return weight(begin + k); };
        const int64_t i = first_reaching(r, end - begin, wanted - ahead, within, &sum);
        return (int)min(begin + i, a.vocab - 1);
    }
    const bool by_k = a.top_k > 0 && a.top_k < n;
    const int listed = (int)min(state.listed, (unsigned)LIST + 1);
    if (listed > LIST || (by_k && listed < a.top_k))
        return choose_from_row(a, r, w, by_k, total);
    int room = 2;
    while (room < listed)
        room *= 2;
    for (int i = tid; i < room; i += CHOOSE_THREADS)
        r.list[i] = i < listed ? a.lists[row * LIST + i] : entry{0, INT32_MAX};
    sort_list(r.list, room);
    const int64_t limit = by_k ? a.top_k : listed;
    count64 sum;
    const auto weight = [&](int64_t i) { return weight_of(a, value_of(r.list[i].key), false); };
    first_reaching(r, limit, NEVER, weight, &sum);
    const count64 wanted = share_of((double)a.top_p, by_k ? sum : total);
    const int64_t last = first_reaching(r, limit, wanted, weight, &sum);
    if (last == limit && !by_k && listed < n)
        return choose_from_row(a, r, w, by_k, total);
    return choose_from_list(a, r, row, min(last + 1, limit));
}

__global__ void __launch_bounds__(CHOOSE_THREADS) sample_choose(const __grid_constant__ sample_args a)
{
    extern __shared__ __align__(16) char room[];
    const int64_t row = blockIdx.x;
    lu_begin();
    const int id = choose_token(a, *(choice_room *)room, row);
    if (threadIdx.x)
        return;
    a.ids[row] = id;
    if (a.seen)
        a.seen[row * ((a.vocab + 31) / 32) + id / 32] |= 1u << (id % 32);
}

/* How a vocabulary is cut. */
void cut(int64_t vocab, sample_args *a)
{
    a->group = 64;
    while ((vocab + a->group - 1) / a->group > MOST_GROUPS)
        a->group *= 2;
    a->n_groups = (int)((vocab + a->group - 1) / a->group);
    a->slice = (a->n_groups + SLICES - 1) / SLICES;
}

size_t rounded(size_t bytes) { return (bytes + 255) / 256 * 256; }

} // namespace

size_t lu_cuda_sample_scratch(int64_t n, int64_t vocab)
{
    sample_args a;
    cut(vocab, &a);
    return rounded((size_t)n * sizeof(row_state)) + rounded((size_t)n * LIST * sizeof(entry)) +
           rounded((size_t)n * (size_t)a.n_groups * sizeof(unsigned));
}

int lu_cuda_sample(const lu_cuda_sample_args *e)
{
    if (e->n < 0 || e->n > 65535 || e->vocab < 1 || e->vocab > INT32_MAX || e->top_k < 0 || !(e->temperature >= 0.0f))
        return LU_CUDA_E_SHAPE;
    if (e->n == 0)
        return 0;
    sample_args a = {};
    cut(e->vocab, &a);
    a.vocab = e->vocab;
    a.logits = e->logits;
    a.seen = e->seen;
    a.temperature = e->temperature;
    a.top_p = e->top_p;
    a.min_p = e->min_p;
    a.penalty = e->repetition_penalty;
    a.top_k = e->top_k;
    a.shift = 62; /* the sum of all weights stays below 2^63 */
    for (int64_t v = 1; v < e->vocab; v *= 2)
        a.shift--;
    a.uniform = e->uniform;
    a.ids = e->ids;
    a.states = (row_state *)e->scratch;
    a.lists = (entry *)((char *)e->scratch + rounded((size_t)e->n * sizeof(row_state)));
    a.group_keys = (unsigned *)((char *)a.lists + rounded((size_t)e->n * LIST * sizeof(entry)));
    const lu_launch_shape slices = {dim3(SLICES, (unsigned)e->n), SLICE_THREADS, 0, e->stream};
    const lu_launch_shape rows = {dim3((unsigned)e->n), CHOOSE_THREADS, sizeof(choice_room), e->stream};
    int status = lu_launch(sample_scan, slices, a);
    if (!status && e->temperature > 0.0f)
        status = lu_launch(sample_weigh, slices, a);
    return status ? status : lu_launch(sample_choose, rows, a);
}
