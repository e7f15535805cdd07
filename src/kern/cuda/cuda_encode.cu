/* cuda_encode.cu - see cuda_encode.h.

   Half a warp takes a row, and its lane l the columns c with c % 16 == l. These are the lanes in which
   the CPU adds up energies and errors (kern/encode.h), so every float32 operation here is one of the
   CPU's, in the CPU's order; the trees over lanes are made with exchanges of the same shape. Where a
   compiler could fuse two operations into one they are spelled __f.._rn.

   Only the energies tie the groups of a row together. The search of the rule mse takes nearly all of
   its time, so it is a kernel of its own, in which half warps take groups; then rows are encoded with
   the scales it stored.

   Groups of 32, 64 and 128 columns of 16-bit weights are held in registers; other groups and whole rows
   are read again for each use. The rank of a weight is found by bisection: a pivot is a midpoint of the table,
   held in shared memory, times the scale. Integers in a row need none: a rounded product gives the rank
   to within one, and the two pivots next to it settle it (as in x86/encode_avx512.h). */
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kern/cuda/cuda_encode.h"
#include "kern/cuda/lut_matmul.h"

namespace {

constexpr int LANES = LU_ENCODE_LANES, THREADS = 256, PARTS = THREADS / LANES;
constexpr float ROUND = 12582912.0f; /* 1.5 * 2^23: added and taken off, it rounds |x| < 2^22 */
constexpr int GRID = 100, CANDIDATES = 80, COARSE = 8, FINE_TURNS = 6; /* kern/encode_range.c */

/* How ranks are found. FEW and MANY: bisection of 15 and of 255 pivots, infinite where there are less. */
enum grid_kind { INTEGERS, FEW, MANY };

struct params {
    const void *w;
    uint8_t *codes;
    void *scales;
    uint8_t *zeros;
    double *energies;
    int64_t n, row_bytes;
    int k, group, bits, n_values, near_zero;
    int n_seen; /* entries of the table that a bisection may look at */
    int whole;  /* mse: the candidate that stands for the whole range */
    lutra_dtype scale_dtype;
    bool zero_point, mse;
    float absmax_ref, widest;
    float value[256], mid[256];
    uint8_t code[256];
};

struct table {
    float value[256], mid[256];
    uint8_t code[256];
};

/* A scale and what follows from it. */
struct step {
    float scale, zero_value;
    float inverse, low, high; /* integers: without the zero point */
};

struct place {
    int lane;
    unsigned mask; /* this half of the warp */
};

template <lutra_dtype T> __device__ __forceinline__ float load(const void *w, int64_t i)
{
    if constexpr (T == LUTRA_F32)
        return ((const float *)w)[i];
    if constexpr (T == LUTRA_F16)
        return __half2float(((const __half *)w)[i]);
    return __uint_as_float((unsigned)((const uint16_t *)w)[i] << 16);
}

/* The weights of a group that a lane holds, PER of them in registers; with PER 0 none. */
template <lutra_dtype T, int PER> struct weights {
    const void *row; /* of columns from 0 on */
    int at, size;
    float held[PER ? PER : 1];

    __device__ __forceinline__ void open(const place &me)
    {
        if constexpr (PER > 0) {
#pragma unroll
            for (int j = 0; j < PER; j++)
                held[j] = load<T>(row, at + j * LANES + me.lane);
        }
    }

    /* f(first column of 16, weight, whether this lane's column is in the group), for all lanes alike. */
    template <typename F> __device__ __forceinline__ void each(const place &me, F f) const
    {
        if constexpr (PER > 0) {
#pragma unroll
            for (int j = 0; j < PER; j++)
                f(at + j * LANES, held[j], true);
        } else {
#pragma unroll 4
            for (int base = at & ~(LANES - 1); base < at + size; base += LANES) {
                const int c = base + me.lane;
                const bool in = c >= at && c < at + size;
                f(base, in ? load<T>(row, c) : 0.0f, in);
            }
        }
    }
};

/* --- the scale of a group (fmt/codec.h) ------------------------------------------------------- */

__device__ __forceinline__ float exact_scale(const params &p, float lo, float hi)
{
    if (!p.zero_point)
        return __fdiv_rn(-lo > hi ? -lo : hi, p.absmax_ref);
    return __fdiv_rn(__fsub_rn(hi > 0 ? hi : 0, lo < 0 ? lo : 0), (float)(p.n_values - 1));
}

/* lu_group_scale. */
__device__ __forceinline__ bool group_scale(const params &p, float lo, float hi, float *scale, int *zero)
{
    const float exact = exact_scale(p, lo, hi);
    bool fits = exact <= LU_MAX_SCALE;
    *scale = 0;
    *zero = 0;
    if (exact == 0)
        return true;
    if (p.scale_dtype == LUTRA_F16) {
        const unsigned short h = __half_as_ushort(__float2half_rn(exact));
        *scale = __half2float(__ushort_as_half(h == 0 ? 1 : h));
        fits = h < 0x7c00;
    } else {
        const float s =
            p.scale_dtype == LUTRA_BF16 ? __bfloat162float(__float2bfloat16_rn(exact)) : exact;
        *scale = s < LU_MIN_SCALE ? LU_MIN_SCALE : s;
    }
    if (p.zero_point) {
        const float top = (float)(p.n_values - 1), z = rintf(__fdiv_rn(lo < 0 ? -lo : 0, *scale));
        *zero = (int)(z < top ? z : top);
    }
    return fits;
}

__device__ __forceinline__ void store_scale(const params &p, int64_t i, float scale, int zero)
{
    if (p.zero_point)
        p.zeros[i] = (uint8_t)zero;
    if (p.scale_dtype == LUTRA_F16)
        ((__half *)p.scales)[i] = __float2half_rn(scale); /* exact */
    else if (p.scale_dtype == LUTRA_BF16)
        ((uint16_t *)p.scales)[i] = (uint16_t)(__float_as_uint(scale) >> 16);
    else
        ((float *)p.scales)[i] = scale;
}

__device__ __forceinline__ bool load_scale(const params &p, int64_t i, float *scale, int *zero)
{
    *zero = p.zero_point ? p.zeros[i] : 0;
    if (p.scale_dtype == LUTRA_F16)
        *scale = __half2float(((const __half *)p.scales)[i]);
    else if (p.scale_dtype == LUTRA_BF16)
        *scale = __uint_as_float((unsigned)((const uint16_t *)p.scales)[i] << 16);
    else
        *scale = ((const float *)p.scales)[i];
    return *scale == *scale;
}

/* Zero points belong to the table 0, 1, 2, ... */
__device__ __forceinline__ step make_step(const params &p, const table &t, float scale, int zero)
{
    step s = {scale, p.zero_point ? (float)zero : 0.0f};
    s.inverse = __fdiv_rn(1.0f, scale);
    s.low = t.value[0] - s.zero_value;
    s.high = s.low + (float)(p.n_values - 1);
    return s;
}

/* --- one weight ------------------------------------------------------------------------------- */

template <grid_kind KIND>
__device__ __forceinline__ int rank_of(const table &t, const step &s, float w, float *decoded)
{
    if constexpr (KIND == INTEGERS) {
        float r = __fsub_rn(__fadd_rn(__fmul_rn(w, s.inverse), ROUND), ROUND);
        const bool above = __fmul_rn(__fadd_rn(r, 0.5f), s.scale) < w,
                   below = __fmul_rn(__fsub_rn(r, 0.5f), s.scale) >= w;
        r = above ? r + 1 : r;
        r = below ? r - 1 : r;
        r = fminf(fmaxf(r, s.low), s.high);
        *decoded = __fmul_rn(r, s.scale);
        return (int)(r - s.low);
    } else {
        int rank = 0; /* all pivots before rank are below w */
#pragma unroll
        for (int half = KIND == FEW ? 8 : 128; half > 0; half /= 2)
            rank += __fmul_rn(t.mid[rank + half - 1], s.scale) < w ? half : 0;
        *decoded = __fmul_rn(s.scale, t.value[rank]);
        return rank;
    }
}

/* Packs the codes of 16 columns, eight at a time (lutra/format.h): lane i of eight stores their byte i. */
__device__ __forceinline__ void put_codes(const params &p, const place &me, uint8_t *row, int column,
                                          unsigned code, bool wanted)
{
    const int i = me.lane & 7, at = ((column >> 3) + (me.lane >> 3)) * p.bits + i;
    unsigned byte;
    if (p.bits <= 4) {
        unsigned v = code << (p.bits * i);
        for (int d = 1; d < 8; d *= 2)
            v |= __shfl_xor_sync(me.mask, v, d, LANES);
        byte = v >> (8 * (i & 3));
    } else {
        unsigned long long v = (unsigned long long)code << (p.bits * i);
        for (int d = 1; d < 8; d *= 2)
            v |= __shfl_xor_sync(me.mask, v, d, LANES);
        byte = (unsigned)(v >> (8 * i));
    }
    if (wanted && i < p.bits && at < p.row_bytes)
        row[at] = (uint8_t)byte;
}

/* --- one group -------------------------------------------------------------------------------- */

/* Smallest and largest weight, with 0 among them; false if one is not finite. Bits without the sign
   order as integers, infinity and NaN above all. */
template <typename W> __device__ __forceinline__ bool find_range(const place &me, const W &group, float *lo, float *hi)
{
    unsigned below = 0, above = 0;
    group.each(me, [&](int, float w, bool) {
        const unsigned u = __float_as_uint(w), size = u & 0x7fffffffu;
        below = u >> 31 ? max(below, size) : below;
        above = u >> 31 ? above : max(above, size);
    });
    for (int d = LANES / 2; d > 0; d /= 2) {
        below = max(below, __shfl_xor_sync(me.mask, below, d, LANES));
        above = max(above, __shfl_xor_sync(me.mask, above, d, LANES));
    }
    *lo = -__uint_as_float(below);
    *hi = __uint_as_float(above);
    return max(below, above) < 0x7f800000u;
}

__device__ __forceinline__ float add_tree(const place &me, float v)
{
    for (int d = LANES / 2; d > 0; d /= 2)
        v = __fadd_rn(v, __shfl_xor_sync(me.mask, v, d, LANES));
    return v;
}

/* lu_encoder_shrink_range. The halves of a warp stay together: what is not to be tried is computed all
   the same, and not taken. */
template <grid_kind KIND, typename W>
__device__ __forceinline__ void shrink_range(const params &p, const table &t, const place &me, const W &group,
                                             float *lo, float *hi)
{
    const int begin = p.widest > 1 ? 0 : COARSE;
    const int n_coarse = (CANDIDATES - begin + COARSE - 1) / COARSE;
    float best_p = 1, least = -1, most = 0;
    int best = 0, middle = 0;
    for (int turn = 0; turn <= n_coarse + FINE_TURNS; turn++) {
        const int fine = turn - 1 - n_coarse; /* distances 4, 4, 2, 2, 1, 1 */
        int candidate = turn == 0 ? p.whole : begin + (turn - 1) * COARSE;
        if (fine >= 0) {
            const int distance = COARSE / 2 >> fine / 2;
            middle = fine % 2 ? middle : best;
            candidate = middle + (fine % 2 ? distance : -distance);
        }
        const float factor =
            turn == 0 ? 1.0f : __fdiv_rn(__fmul_rn(p.widest, (float)(GRID - candidate)), (float)GRID);
        float scale;
        int zero;
        const bool valid = group_scale(p, __fmul_rn(*lo, factor), __fmul_rn(*hi, factor), &scale, &zero) &&
                           scale != 0 && (turn == 0 || (candidate >= 0 && candidate < CANDIDATES));
        const step s = make_step(p, t, scale, zero);
        float square = 0, cube = 0;
        group.each(me, [&](int, float w, bool in) {
            float decoded;
            rank_of<KIND>(t, s, w, &decoded);
            const float error = fabsf(__fsub_rn(w, decoded)), error2 = __fmul_rn(error, error);
            square = in ? __fadd_rn(square, error2) : square;
            cube = in ? __fadd_rn(cube, __fmul_rn(error2, error)) : cube;
        });
        square = add_tree(me, square);
        cube = add_tree(me, cube);
        if (valid && (least < 0 || (cube < least && square <= most))) {
            most = least < 0 ? square : most; /* the first is the whole range */
            least = cube;
            best_p = factor;
            best = candidate;
        }
    }
    *lo = __fmul_rn(*lo, best_p);
    *hi = __fmul_rn(*hi, best_p);
}

/* --- a row ------------------------------------------------------------------------------------ */

__device__ __forceinline__ double add_lanes(const place &me, float v)
{
    double sum = 0;
    for (int i = 0; i < LANES; i++)
        sum += (double)__shfl_sync(me.mask, v, i, LANES);
    return sum;
}

/* The part of a launch that half a warp takes; false if there is none left. Constant memory gives one
   value at a time, so no more of the table is fetched than is looked at. */
__device__ __forceinline__ bool begin(const params &p, table *t, int64_t n, place *me, int64_t *index)
{
    if ((int)threadIdx.x < p.n_seen) {
        t->value[threadIdx.x] = p.value[threadIdx.x];
        t->mid[threadIdx.x] = p.mid[threadIdx.x];
        t->code[threadIdx.x] = p.code[threadIdx.x];
    }
    __syncthreads();
    me->lane = (int)(threadIdx.x % LANES);
    me->mask = 0xffffu << (threadIdx.x & 16);
    *index = (int64_t)blockIdx.x * PARTS + threadIdx.x / LANES;
    return *index < n;
}

template <lutra_dtype T> __device__ __forceinline__ const void *row_of(const params &p, int64_t row)
{
    return (const uint8_t *)p.w + row * p.k * (T == LUTRA_F32 ? 4 : 2);
}

/* mse: the scale and zero point of a group; a scale that is NaN where a weight cannot be encoded. */
template <lutra_dtype T, int PER, grid_kind KIND>
__global__ void __launch_bounds__(THREADS) search_scales(const __grid_constant__ params p)
{
    __shared__ table t;
    place me;
    int64_t index;
    const int groups = p.k / p.group;
    if (!begin(p, &t, p.n * groups, &me, &index))
        return;
    weights<T, PER> group = {row_of<T>(p, index / groups), (int)(index % groups) * p.group, p.group};
    group.open(me);
    float lo, hi, scale;
    int zero;
    if (find_range(me, group, &lo, &hi) && group_scale(p, lo, hi, &scale, &zero)) {
        shrink_range<KIND>(p, t, me, group, &lo, &hi);
        group_scale(p, lo, hi, &scale, &zero);
    } else {
        scale = NAN;
        zero = 0;
    }
    if (me.lane == 0)
        store_scale(p, index, scale, zero);
}

template <lutra_dtype T, int PER, grid_kind KIND>
__global__ void __launch_bounds__(THREADS) encode_rows(const __grid_constant__ params p)
{
    __shared__ table t;
    place me;
    int64_t row;
    if (!begin(p, &t, p.n, &me, &row))
        return;
    const int groups = p.k / p.group;
    uint8_t *codes = p.codes + row * p.row_bytes;
    float signal = 0, noise = 0;
    bool good = true;
    weights<T, PER> group = {row_of<T>(p, row), 0, p.group};
    for (int g = 0; g < groups; g++, group.at += p.group) {
        float lo, hi, scale;
        int zero;
        group.open(me);
        if (p.mse)
            good = load_scale(p, row * groups + g, &scale, &zero);
        else
            good = find_range(me, group, &lo, &hi) && group_scale(p, lo, hi, &scale, &zero);
        if (!good)
            break;
        if (!p.mse && me.lane == 0)
            store_scale(p, row * groups + g, scale, zero);
        const step s = make_step(p, t, scale, zero);
        group.each(me, [&](int column, float w, bool in) {
            float decoded = 0;
            const int rank = scale == 0 ? p.near_zero : rank_of<KIND>(t, s, w, &decoded);
            const int octet = column + (me.lane & 8);
            put_codes(p, me, codes, column, in ? t.code[rank] : 0,
                      octet >= group.at && octet < group.at + group.size);
            const float error = __fsub_rn(w, decoded);
            if (in && scale != 0) {
                signal = __fadd_rn(signal, __fmul_rn(w, w));
                noise = __fadd_rn(noise, __fmul_rn(error, error));
            }
        });
    }
    const double all_signal = add_lanes(me, signal), all_noise = add_lanes(me, noise);
    if (me.lane == 0) {
        p.energies[row * 2] = good ? all_signal : (double)NAN;
        p.energies[row * 2 + 1] = good ? all_noise : (double)NAN;
    }
}

/* --- ranges from elsewhere -------------------------------------------------------------------- */

struct ranges {
    const float *lo, *hi, *factors;
    float factor;
    float *difference;
};

/* A thread takes a weight; the scale of its group, a division, is each one's own. */
template <grid_kind KIND>
__global__ void __launch_bounds__(THREADS) clip_rows(const __grid_constant__ params p, ranges r)
{
    __shared__ table t;
    const int c = (int)(blockIdx.y * THREADS + threadIdx.x);
    if ((int)threadIdx.x < p.n_seen) {
        t.value[threadIdx.x] = p.value[threadIdx.x];
        t.mid[threadIdx.x] = p.mid[threadIdx.x];
    }
    __syncthreads();
    if (c >= p.k)
        return;
    const int64_t row = blockIdx.x, at = row * p.k + c, group = row * (p.k / p.group) + c / p.group;
    const float factor = r.factors ? r.factors[group] : r.factor, w = ((const float *)p.w)[at];
    float scale, decoded = 0;
    int zero;
    const bool good =
        group_scale(p, __fmul_rn(r.lo[group], factor), __fmul_rn(r.hi[group], factor), &scale, &zero);
    if (scale != 0)
        rank_of<KIND>(t, make_step(p, t, scale, zero), w, &decoded);
    r.difference[at] = good ? __fsub_rn(w, decoded) : NAN;
}

/* --- the choice of kernels -------------------------------------------------------------------- */

struct kernels {
    void (*search)(params), (*encode)(params);
};

template <lutra_dtype T, int PER, grid_kind KIND> kernels make()
{
    return {search_scales<T, PER, KIND>, encode_rows<T, PER, KIND>};
}

template <lutra_dtype T, grid_kind KIND> kernels choose_group(int64_t group)
{
    switch (group) {
    case 32: return make<T, 2, KIND>();
    case 64: return make<T, 4, KIND>();
    case 128: return make<T, 8, KIND>();
    default: return make<T, 0, KIND>();
    }
}

template <lutra_dtype T> kernels choose_kind(int64_t group, grid_kind kind)
{
    switch (kind) {
    case INTEGERS: return choose_group<T, INTEGERS>(group);
    case FEW: return choose_group<T, FEW>(group);
    default: return make<T, 0, MANY>();
    }
}

kernels choose(lutra_dtype t, int64_t group, grid_kind kind)
{
    switch (t) {
    case LUTRA_F32:
        return kind == INTEGERS ? make<LUTRA_F32, 0, INTEGERS>()
               : kind == FEW    ? make<LUTRA_F32, 0, FEW>()
                                : make<LUTRA_F32, 0, MANY>();
    case LUTRA_F16: return choose_kind<LUTRA_F16>(group, kind);
    case LUTRA_BF16: return choose_kind<LUTRA_BF16>(group, kind);
    default: return {};
    }
}

int launch(void (*kernel)(params), int64_t n, const params &p, void *stream)
{
    const int64_t blocks = (n + PARTS - 1) / PARTS;
    if (blocks > INT32_MAX)
        return LU_CUDA_E_SHAPE;
    kernel<<<(unsigned)blocks, THREADS, 0, (cudaStream_t)stream>>>(p);
    return (int)cudaGetLastError();
}

grid_kind kind_of(const lu_grid *g) { return g->uniform ? INTEGERS : g->n <= 16 ? FEW : MANY; }

bool good_shape(const lu_encoder *e, int64_t n, int64_t k)
{
    return n >= 0 && k >= 1 && k <= LU_CUDA_ENCODE_MAX_K &&
           (!e->format.group_size || k % e->format.group_size == 0);
}

/* What follows from the encoder and the number of columns. */
void fill(params *p, const lu_encoder *e, int64_t k)
{
    const lutra_format *f = &e->format;
    const lu_grid *g = &e->grid;
    const grid_kind kind = kind_of(g);
    p->k = (int)k;
    p->group = (int)(f->group_size ? f->group_size : k);
    p->bits = f->bits;
    p->n_values = g->n;
    p->near_zero = g->near_zero;
    p->n_seen = kind == INTEGERS ? g->n : kind == FEW ? 16 : 256;
    p->whole = (int)rintf(GRID - GRID / e->widest);
    p->scale_dtype = f->scale_dtype;
    p->zero_point = f->zero_point;
    p->mse = e->range == LUTRA_RANGE_MSE;
    p->absmax_ref = f->absmax_ref;
    p->widest = e->widest;
    memcpy(p->value, g->value, sizeof p->value);
    memcpy(p->mid, g->mid, sizeof p->mid);
    memcpy(p->code, g->code, (size_t)g->n);
}

} // namespace

extern "C" int lu_cuda_clip(const lu_cuda_clip_args *a)
{
    if (!good_shape(a->encoder, a->n, a->k) || a->n > INT32_MAX || a->k > (int64_t)65535 * THREADS)
        return LU_CUDA_E_SHAPE;
    if (a->n == 0)
        return 0;
    const grid_kind kind = kind_of(&a->encoder->grid);
    const dim3 grid((unsigned)a->n, (unsigned)((a->k + THREADS - 1) / THREADS));
    const ranges r = {a->lo, a->hi, a->factors, a->factor, a->difference};
    params p = {a->w};
    fill(&p, a->encoder, a->k);
    (kind == INTEGERS ? clip_rows<INTEGERS>
     : kind == FEW    ? clip_rows<FEW>
                      : clip_rows<MANY>)<<<grid, THREADS, 0, (cudaStream_t)a->stream>>>(p, r);
    return (int)cudaGetLastError();
}

extern "C" int lu_cuda_encode(const lu_cuda_encode_args *a)
{
    const lutra_format *f = &a->encoder->format;
    const int64_t group = f->group_size ? f->group_size : a->k;
    const kernels run = choose(a->dtype, group, kind_of(&a->encoder->grid));
    if (!run.encode || !good_shape(a->encoder, a->n, a->k))
        return LU_CUDA_E_SHAPE;
    if (a->n == 0)
        return 0;
    params p = {a->w, a->codes, a->scales, a->zeros, a->energies, a->n, (a->k * f->bits + 7) / 8};
    fill(&p, a->encoder, a->k);
    const int error = p.mse ? launch(run.search, a->n * (a->k / group), p, a->stream) : 0;
    return error ? error : launch(run.encode, a->n, p, a->stream);
}
