/* cuda_sample.cu - choosing a token per row, step for step as engine/sampler.c does, without a sort
   of the vocabulary:

     scan    the largest penalised logit of every group of 32 ids and of every slice of the vocabulary
     weigh   number and summed weights of the candidates: of every slice, and by bins of their score
     choose  one block per row: the bins tell where top-k and top-p end, so only candidates of the bins
             up to there (or, where these are too many, of single bins) are gathered and sorted

   A candidate's weight is exp(score) as an integer in units of 2^-shift, so that sums are exact and
   the same in any order. All order is by (score descending, id ascending); a score is
   (logit - largest) / T in float32. "First whose inclusive sum reaches s" answers all questions:
   s = k in counts, s = top_p * total, and for the draw, which the CPU makes from the least likely
   on, s = total * (1 - u). Without top-k and top-p the draw goes by id, s just above total * u. */
#include <math.h>

#include "kern/cuda/cuda_launch.cuh"
#include "kern/cuda/cuda_ops.h"

namespace {

enum {
    SLICES = 64, /* blocks per row of scan and weigh */
    SLICE_THREADS = 256,
    GROUP = 32,          /* ids */
    AT_ONCE = 8,         /* loads of a thread under way */
    BINS = 2048,         /* of scores 0 .. -32, the last one open */
    BINS_PER_UNIT = 64,
    LIST = 4096,         /* candidates that choose can sort */
    GROUPS_AT_ONCE = 4,
    CHOOSE_THREADS = 1024,
    WARPS = CHOOSE_THREADS / 32,
};

typedef unsigned long long count64;

/* Of one row, between the kernels. */
struct row_state {
    count64 weight[SLICES], bin_weight[BINS];
    unsigned key[SLICES], candidates[SLICES], bin_count[BINS];
};

struct entry {
    unsigned key; /* ordered like the score; 0: none */
    int id;
};

struct sample_args {
    int64_t vocab, slice, n_groups; /* slice: ids, a multiple of GROUP */
    const float *logits;
    uint32_t *seen;
    float temperature, top_p, min_p, penalty;
    int top_k, shift;
    const double *uniform;
    int32_t *ids;
    row_state *states;
    unsigned *group_keys; /* [row][n_groups] */
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

__device__ __forceinline__ int bin_of(float score)
{
    return (int)fminf(-score * (float)BINS_PER_UNIT, (float)(BINS - 1));
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

__device__ __forceinline__ count64 weight_of(const sample_args &a, float score)
{
    return (count64)ldexp(exp((double)score), a.shift);
}

__device__ __forceinline__ bool reaches_min_p(const sample_args &a, float score)
{
    return exp((double)score) >= (double)a.min_p;
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

__global__ void __launch_bounds__(SLICE_THREADS) sample_scan(const __grid_constant__ sample_args a)
{
    __shared__ unsigned part[32];
    const int64_t row = blockIdx.y, begin = (int64_t)blockIdx.x * a.slice, end = min(begin + a.slice, a.vocab);
    lu_begin();
    row_state &state = a.states[row];
    const int lane = (int)threadIdx.x & 31;
    unsigned best = 0;
    for (int64_t first = begin + (threadIdx.x & ~31u); first < end; first += AT_ONCE * SLICE_THREADS) {
        unsigned key[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int64_t id = first + i * SLICE_THREADS + lane;
            key[i] = id < end ? key_of(penalised(a, row, id)) : 0;
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int64_t id = first + i * SLICE_THREADS;
            key[i] = __reduce_max_sync(0xffffffffu, key[i]);
            best = max(best, key[i]);
            if (lane == 0 && id < end)
                a.group_keys[row * a.n_groups + id / GROUP] = key[i];
        }
    }
    for (int bin = (int)(blockIdx.x * SLICE_THREADS + threadIdx.x); bin < BINS; bin += SLICES * SLICE_THREADS) {
        state.bin_weight[bin] = 0;
        state.bin_count[bin] = 0;
    }
    best = block_max(best, part);
    if (threadIdx.x == 0)
        state.key[blockIdx.x] = best;
}

/* The largest of the row, 0 if there is no number. */
__device__ __forceinline__ unsigned row_key(const row_state &state)
{
    const int lane = (int)threadIdx.x & 31;
    return __reduce_max_sync(0xffffffffu, max(state.key[lane], state.key[lane + 32]));
}

__global__ void __launch_bounds__(SLICE_THREADS) sample_weigh(const __grid_constant__ sample_args a)
{
    __shared__ count64 bin_weight[BINS], parts[32];
    __shared__ unsigned bin_count[BINS], part[32];
    const int64_t row = blockIdx.y, begin = (int64_t)blockIdx.x * a.slice, end = min(begin + a.slice, a.vocab);
    const bool ordered = a.top_k > 0 || a.top_p != 1.0f;
    for (int bin = (int)threadIdx.x; ordered && bin < BINS; bin += SLICE_THREADS) {
        bin_weight[bin] = 0;
        bin_count[bin] = 0;
    }
    __syncthreads();
    lu_begin();
    row_state &state = a.states[row];
    const unsigned best = row_key(state);
    const float top = value_of(best);
    if (best == 0 || isinf(top))
        return;
    count64 weight = 0;
    unsigned candidates = 0;
#pragma unroll 4
    for (int64_t id = begin + threadIdx.x; id < end; id += SLICE_THREADS) {
        const float score = score_of(a, penalised(a, row, id), top);
        if (!(score > -INFINITY))
            continue;
        const count64 w = ordered || reaches_min_p(a, score) ? weight_of(a, score) : 0;
        candidates++;
        weight += w;
        if (ordered) {
            const int bin = bin_of(score);
            atomicAdd(&bin_count[bin], 1u);
            if (w)
                atomicAdd(&bin_weight[bin], w);
        }
    }
    candidates = block_sum<unsigned>(candidates, part);
    weight = block_sum<count64>(weight, parts);
    if (threadIdx.x == 0) {
        state.weight[blockIdx.x] = weight;
        state.candidates[blockIdx.x] = candidates;
    }
    for (int bin = (int)threadIdx.x; ordered && bin < BINS; bin += SLICE_THREADS)
        if (bin_count[bin]) { /* whole numbers: any order of addition gives the same */
            atomicAdd(&state.bin_count[bin], bin_count[bin]);
            atomicAdd(&state.bin_weight[bin], bin_weight[bin]);
        }
}

/* a before b */
__device__ __forceinline__ bool before(entry a, entry b)
{
    return a.key > b.key || (a.key == b.key && a.id < b.id);
}

/* Shared memory of choose. List: candidates of bins low .. high, best first. */
struct choice_room {
    entry list[LIST];
    count64 upto_weight[BINS]; /* inclusive sums over bins */
    unsigned upto_count[BINS];
    count64 parts[WARPS];
    unsigned part[WARPS], listed;
    int found, low, high;
};

/* Inclusive sum over the threads before and this one; *all: over all. */
__device__ count64 block_scan(count64 v, count64 *parts, count64 *all)
{
    const int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const count64 left = __shfl_up_sync(0xffffffffu, v, step);
        v += lane >= step ? left : 0;
    }
    __syncthreads();
    if (lane == 31)
        parts[warp] = v;
    __syncthreads();
    count64 sum = parts[lane];
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const count64 left = __shfl_up_sync(0xffffffffu, sum, step);
        sum += lane >= step ? left : 0;
    }
    *all = __shfl_sync(0xffffffffu, sum, 31);
    const count64 ahead = __shfl_sync(0xffffffffu, sum, warp ? warp - 1 : 0);
    return warp ? v + ahead : v;
}

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

#define NEVER (~(count64)0)

/* The first i in [0, n) whose inclusive sum of amount(i) reaches `wanted`, n if none does; *sum: of
   all. Threads take contiguous stretches; a scan over their sums leads to the one that crosses. */
template <typename Amount>
__device__ int64_t first_reaching(choice_room &r, int64_t n, count64 wanted, Amount amount, count64 *sum)
{
    const int64_t each = (n + CHOOSE_THREADS - 1) / CHOOSE_THREADS, begin = min(each * threadIdx.x, n), end = min(begin + each, n);
    count64 mine = 0;
    for (int64_t i = begin; i < end; i++)
        mine += amount(i);
    if (threadIdx.x == 0)
        r.found = -1;
    const count64 upto = block_scan(mine, r.parts, sum);
    if (upto >= wanted && upto - mine < wanted) {
        count64 s = upto - mine;
        for (int64_t i = begin; i < end; i++) {
            s += amount(i);
            if (s >= wanted) {
                r.found = (int)i;
                break;
            }
        }
    }
    __syncthreads();
    const int found = r.found;
    __syncthreads();
    return found < 0 ? n : found;
}

/* A row's candidates. */
struct candidates {
    const sample_args &a;
    int64_t row;
    float top;

    __device__ entry at(int64_t id) const
    {
        const float s = score_of(a, penalised(a, row, id), top);
        return {s > -INFINITY ? key_of(s) : 0u, (int)id};
    }
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

/* Gathers and sorts bins low .. high. False if they hold too many. */
__device__ bool gather(choice_room &r, const candidates &c, int low, int high)
{
    const unsigned n = r.upto_count[high] - (low ? r.upto_count[low - 1] : 0);
    if (n > LIST)
        return false;
    __syncthreads();
    if (threadIdx.x == 0) {
        r.listed = 0;
        r.low = low;
        r.high = high;
    }
    __syncthreads();
    /* Every candidate of these bins is above this, rounding included. */
    const float reach = c.a.temperature * (float)(high + 1) / (float)BINS_PER_UNIT * 1.00001f;
    const float bound = high == BINS - 1 ? -INFINITY : c.top - reach - fabsf(c.top) * 1e-6f;
    const unsigned least = max(key_of(bound), 1u);
    const unsigned *keys = c.a.group_keys + c.row * c.a.n_groups;
    const int lane = (int)threadIdx.x & 31;
    for (int64_t group = threadIdx.x & ~31u; group < c.a.n_groups; group += CHOOSE_THREADS) {
        const unsigned key = group + lane < c.a.n_groups ? keys[group + lane] : 0;
        unsigned left = __ballot_sync(0xffffffffu, key >= least);
        while (left) { /* GROUPS_AT_ONCE of these 32 groups */
            float logit[GROUPS_AT_ONCE];
            int64_t id[GROUPS_AT_ONCE];
#pragma unroll
            for (int i = 0; i < GROUPS_AT_ONCE; i++) {
                id[i] = left ? (group + __ffs((int)left) - 1) * GROUP + lane : c.a.vocab;
                left &= left - 1;
                logit[i] = id[i] < c.a.vocab ? penalised(c.a, c.row, id[i]) : NAN;
            }
#pragma unroll
            for (int i = 0; i < GROUPS_AT_ONCE; i++) {
                if (!(logit[i] >= bound))
                    continue;
                const float score = score_of(c.a, logit[i], c.top);
                const int bin = bin_of(score);
                if (score > -INFINITY && bin >= low && bin <= high)
                    r.list[atomicAdd(&r.listed, 1u)] = {key_of(score), (int)id[i]};
            }
        }
    }
    unsigned room = 2;
    while (room < n)
        room *= 2;
    for (unsigned i = n + threadIdx.x; i < room; i += CHOOSE_THREADS)
        r.list[i] = {0u, INT32_MAX};
    sort_list(r.list, (int)room);
    return true;
}

/* Makes the list hold `bin`. */
__device__ bool cover(choice_room &r, const candidates &c, int bin)
{
    return (bin >= r.low && bin <= r.high) || gather(r, c, bin, bin);
}

/* The first bin that reaches `wanted` of weight, or of candidates. */
__device__ int first_bin(choice_room &r, count64 wanted, bool weight)
{
    if (threadIdx.x == 0)
        r.found = BINS - 1;
    __syncthreads();
    for (int bin = (int)threadIdx.x; bin < BINS; bin += CHOOSE_THREADS) {
        const count64 upto = weight ? r.upto_weight[bin] : r.upto_count[bin];
        const count64 ahead = !bin ? 0 : weight ? r.upto_weight[bin - 1] : r.upto_count[bin - 1];
        if (upto >= wanted && ahead < wanted)
            r.found = bin;
    }
    __syncthreads();
    const int found = r.found;
    __syncthreads();
    return found;
}

__device__ void sum_bins(choice_room &r, const row_state &state)
{
    enum { EACH = BINS / CHOOSE_THREADS };
    count64 weight[EACH], count[EACH], all;
    for (int i = 0; i < EACH; i++) {
        weight[i] = (i ? weight[i - 1] : 0) + state.bin_weight[threadIdx.x * EACH + i];
        count[i] = (i ? count[i - 1] : 0) + state.bin_count[threadIdx.x * EACH + i];
    }
    const count64 weight_ahead = block_scan(weight[EACH - 1], r.parts, &all) - weight[EACH - 1];
    const count64 count_ahead = block_scan(count[EACH - 1], r.parts, &all) - count[EACH - 1];
    for (int i = 0; i < EACH; i++) {
        r.upto_weight[threadIdx.x * EACH + i] = weight_ahead + weight[i];
        r.upto_count[threadIdx.x * EACH + i] = (unsigned)(count_ahead + count[i]);
    }
    __syncthreads();
}

/* The draw in order; -1 if a bin that matters is too full to sort. */
__device__ int choose_by_bins(const sample_args &a, choice_room &r, const candidates &c, bool by_k, count64 total)
{
    const auto weight = [&](int64_t i) { return weight_of(a, value_of(r.list[i].key)); };
    const auto likely = [&](int64_t i) {
        const float score = value_of(r.list[i].key);
        return reaches_min_p(a, score) ? weight_of(a, score) : (count64)0;
    };
    sum_bins(r, a.states[c.row]);
    int last = by_k ? first_bin(r, (count64)a.top_k, false) : first_bin(r, share_of((double)a.top_p, total), true);
    if (!gather(r, c, 0, last) && !gather(r, c, last, last))
        return -1;
    const auto ahead_weight = [&] { return r.low ? r.upto_weight[r.low - 1] : (count64)0; };
    const auto ahead_count = [&] { return r.low ? r.upto_count[r.low - 1] : 0u; };
    const auto listed = [&] { return (int64_t)(r.upto_count[r.high] - ahead_count()); };
    count64 kept = total, sum;
    if (by_k) {
        first_reaching(r, a.top_k - (int64_t)ahead_count(), NEVER, weight, &sum);
        kept = ahead_weight() + sum;
    }
    if (a.top_p != 1.0f) {
        const count64 wanted = share_of((double)a.top_p, kept);
        last = first_bin(r, wanted, true);
        if (!cover(r, c, last))
            return -1;
        const int64_t i = min(first_reaching(r, listed(), wanted - ahead_weight(), weight, &sum), listed() - 1);
        first_reaching(r, i + 1, NEVER, weight, &sum);
        kept = ahead_weight() + sum;
    }
    if (a.min_p > 0.0f) {
        const int bin = bin_of((float)log((double)a.min_p));
        if (bin <= last) {
            if (!cover(r, c, bin))
                return -1;
            first_reaching(r, listed(), NEVER, likely, &sum);
            kept = min(kept, ahead_weight() + sum);
        }
    }
    const count64 wanted = share_of(1.0 - a.uniform[c.row], kept);
    if (!cover(r, c, first_bin(r, wanted, true)))
        return -1;
    return r.list[min(first_reaching(r, listed(), wanted - ahead_weight(), weight, &sum), listed() - 1)].id;
}

/* The first entry in order whose inclusive sum of amounts reaches `wanted`, by bisection of its key
   over the whole row: the largest key whose entries and all better reach it, then the id among
   equals. amount(entry): what an entry adds. */
template <typename Amount>
__device__ entry search_row(choice_room &r, const candidates &c, count64 wanted, Amount amount)
{
    unsigned key = 0;
    for (unsigned bit = 0x80000000u; bit; bit >>= 1) {
        count64 mine = 0;
        for (int64_t id = threadIdx.x; id < c.a.vocab; id += CHOOSE_THREADS) {
            const entry e = c.at(id);
            if (e.key && e.key >= (key | bit))
                mine += amount(e);
        }
        if (block_sum<count64>(mine, r.parts) >= wanted)
            key |= bit;
    }
    count64 better = 0;
    for (int64_t id = threadIdx.x; id < c.a.vocab; id += CHOOSE_THREADS) {
        const entry e = c.at(id);
        if (e.key > key)
            better += amount(e);
    }
    better = block_sum<count64>(better, r.parts);
    count64 sum;
    const auto equals = [&](int64_t i) {
        const entry e = c.at(i);
        return e.key == key && key ? amount(e) : (count64)0;
    };
    const int64_t id = first_reaching(r, c.a.vocab, wanted - better, equals, &sum);
    return {key, (int)min(id, c.a.vocab - 1)};
}

template <typename Amount> __device__ count64 sum_row(choice_room &r, const candidates &c, Amount amount)
{
    count64 mine = 0;
    for (int64_t id = threadIdx.x; id < c.a.vocab; id += CHOOSE_THREADS) {
        const entry e = c.at(id);
        if (e.key)
            mine += amount(e);
    }
    return block_sum<count64>(mine, r.parts);
}

/* The draw in order where thousands of candidates are all but equal: slow, and needs no room. */
__device__ int choose_by_search(const sample_args &a, choice_room &r, const candidates &c, bool by_k, count64 total)
{
    entry last = {1, INT32_MAX}; /* the last one kept: all candidates */
    const auto kept = [&](entry e) { return before(last, e) ? 0 : weight_of(a, value_of(e.key)); };
    const auto drawn = [&](entry e) {
        return before(last, e) || !reaches_min_p(a, value_of(e.key)) ? 0 : weight_of(a, value_of(e.key));
    };
    if (by_k) {
        last = search_row(r, c, (count64)a.top_k, [](entry) { return (count64)1; });
        total = sum_row(r, c, kept);
    }
    if (a.top_p != 1.0f)
        last = search_row(r, c, share_of((double)a.top_p, total), kept);
    return search_row(r, c, share_of(1.0 - a.uniform[c.row], sum_row(r, c, drawn)), drawn).id;
}

/* The draw among all: by id, first the slice, then within it. */
__device__ int choose_by_id(const sample_args &a, choice_room &r, const candidates &c, count64 total)
{
    const auto weight = [&](int64_t id) {
        const entry e = c.at(id);
        return e.key && reaches_min_p(a, value_of(e.key)) ? weight_of(a, value_of(e.key)) : (count64)0;
    };
    const row_state &state = a.states[c.row];
    const double u = a.uniform[c.row];
    count64 sum;
    if (a.top_k > 0) { /* more than there are; slices were weighed without min_p */
        first_reaching(r, a.vocab, NEVER, weight, &sum);
        return (int)min(first_reaching(r, a.vocab, by_id(u, sum), weight, &sum), a.vocab - 1);
    }
    const count64 wanted = by_id(u, total);
    const auto of_slice = [&](int64_t i) { return state.weight[i]; };
    const int64_t slice = min(first_reaching(r, SLICES, wanted, of_slice, &sum), (int64_t)SLICES - 1);
    const count64 ahead = block_sum<count64>(threadIdx.x < slice ? state.weight[threadIdx.x] : 0, r.parts);
    const int64_t begin = slice * a.slice, end = min(begin + a.slice, a.vocab);
    const auto within = [&](int64_t i) { return weight(begin + i); };
    return (int)min(begin + first_reaching(r, end - begin, wanted - ahead, within, &sum), a.vocab - 1);
}

/* The lowest id whose key is `best`. */
__device__ int find_largest(const sample_args &a, choice_room &r, int64_t row, unsigned best)
{
    const int tid = (int)threadIdx.x;
    const bool here = tid < SLICES && a.states[row].key[tid] == best;
    const int64_t begin = (SLICES - (int64_t)block_max(here ? (unsigned)(SLICES - tid) : 0, r.part)) * a.slice;
    const int64_t end = min(begin + a.slice, a.vocab);
    unsigned from_end = 0;
#pragma unroll 4
    for (int64_t id = begin + tid; id < end; id += CHOOSE_THREADS)
        if (key_of(penalised(a, row, id)) == best)
            from_end = max(from_end, (unsigned)(end - id));
    return (int)(end - block_max(from_end, r.part));
}

__device__ int choose_token(const sample_args &a, choice_room &r, int64_t row)
{
    const int tid = (int)threadIdx.x;
    const row_state &state = a.states[row];
    const unsigned best = row_key(state);
    if (best == 0)
        return 0; /* all NaN: any token is as wrong as another */
    const float top = value_of(best);
    if (a.temperature == 0.0f || isinf(top))
        return find_largest(a, r, row, best);
    const count64 total = block_sum<count64>(tid < SLICES ? state.weight[tid] : 0, r.parts);
    const int64_t n = block_sum<unsigned>(tid < SLICES ? state.candidates[tid] : 0, r.part);
    const candidates c = {a, row, top};
    const bool by_k = a.top_k > 0 && a.top_k < n;
    if (a.top_p == 1.0f && !by_k)
        return choose_by_id(a, r, c, total);
    const int id = choose_by_bins(a, r, c, by_k, total);
    return id >= 0 ? id : choose_by_search(a, r, c, by_k, total);
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

} // namespace

size_t lu_cuda_sample_scratch(int64_t n, int64_t vocab)
{
    return (size_t)n * (sizeof(row_state) + (size_t)((vocab + GROUP - 1) / GROUP) * sizeof(unsigned));
}

int lu_cuda_sample(const lu_cuda_sample_args *e)
{
    if (e->n < 0 || e->n > 65535 || e->vocab < 1 || e->vocab > INT32_MAX || e->top_k < 0 || !(e->temperature >= 0.0f))
        return LU_CUDA_E_SHAPE;
    if (e->n == 0)
        return 0;
    sample_args a = {};
    a.vocab = e->vocab;
    a.n_groups = (e->vocab + GROUP - 1) / GROUP;
    a.slice = (a.n_groups + SLICES - 1) / SLICES * GROUP;
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
    a.group_keys = (unsigned *)(a.states + e->n);
    const lu_launch_shape slices = {dim3(SLICES, (unsigned)e->n), SLICE_THREADS, 0, e->stream};
    const lu_launch_shape rows = {dim3((unsigned)e->n), CHOOSE_THREADS, sizeof(choice_room), e->stream};
    int status = lu_launch(sample_scan, slices, a);
    if (!status && e->temperature > 0.0f)
        status = lu_launch(sample_weigh, slices, a);
    return status ? status : lu_launch(sample_choose, rows, a);
}
