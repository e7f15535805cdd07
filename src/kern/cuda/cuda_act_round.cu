/* cuda_act_round.cu - rows of activations rounded to integers (cuda_int8.h): a block for each stretch
   of columns that shares a scale. It reads the stretch twice, first for its ends; the second time it
   comes out of L1. Divisions are those of IEEE, so that codes are those of the CPU. */
#include "kern/cuda/act_values.cuh"
#include "kern/cuda/cuda_int8.h"
#include "kern/cuda/cuda_launch.cuh"

namespace {

enum { MOST_THREADS = 512 };
#define MIN_SCALE 0x1p-126f

struct round_args {
    int64_t k, ldx, group, ld;
    const uint16_t *x;
    int bits, asymmetric, fixed;
    float scale;
    int zero;
    int8_t *codes; /* NULL: y */
    float *row_scale;
    int32_t *row_zero;
    uint16_t *y;
};

/* What the values of a stretch become. */
struct scale_of {
    float scale;
    int zero, lowest, highest;
};

__device__ __forceinline__ float warp_min(float v)
{
#pragma unroll
    for (int far = 16; far; far /= 2)
        v = fminf(v, __shfl_xor_sync(0xffffffffu, v, far));
    return v;
}

/* The smallest of v over the block, in every thread. part: 32 floats of its own. */
__device__ float block_min(float v, float *part)
{
    const int lane = (int)threadIdx.x & 31, warps = (int)blockDim.x / 32;
    v = warp_min(v);
    if (lane == 0)
        part[threadIdx.x / 32] = v;
    __syncthreads();
    return warp_min(lane < warps ? part[lane] : part[0]);
}

/* As lu_act_params; lo <= 0 <= hi. */
__device__ scale_of find_scale(const round_args &a, float lo, float hi, bool finite)
{
    const int span = 1 << a.bits;
    scale_of s = {a.scale, a.zero, a.asymmetric ? 0 : 128 - span / 2, a.asymmetric ? span - 1 : 127 + span / 2};
    if (!a.fixed) {
        const double levels = a.asymmetric ? span - 1 : span / 2 - 1;
        const double width = a.asymmetric ? (double)hi - (double)lo : (double)fmaxf(-lo, hi);
        s.scale = fmaxf((float)(width / levels), MIN_SCALE);
        s.zero = 128;
        if (a.asymmetric)
            s.zero = (int)fminf(fmaxf(rintf(__fdiv_rn(-lo, s.scale)), 0.0f), (float)levels);
    }
    if (!finite) {
        s.scale = __int_as_float(0x7fc00000);
        s.zero = a.fixed || !a.asymmetric ? s.zero : 0;
    }
    return s;
}

/* u - z: codes without their zero point. */
__device__ __forceinline__ int code_of(const scale_of &s, float x)
{
    const float r = rintf(__fdiv_rn(x, s.scale));
    return (int)fminf(fmaxf(r, (float)(s.lowest - s.zero)), (float)(s.highest - s.zero));
}

template <bool BF16> __device__ void put_codes(const round_args &a, const scale_of &s, bool finite, int64_t row, bool vector)
{
    for (int64_t col = threadIdx.x * 8; col < a.ld; col += blockDim.x * 8) {
        float v[8];
        uint32_t word[2] = {0, 0};
        lu_load8<BF16>(a.x + row * a.ldx + col, a.k - col, vector && col + 8 <= a.k, v);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int q = col + i < a.k ? (finite ? code_of(s, v[i]) : 0) + s.zero - 128 : 0;
            word[i / 4] |= (uint32_t)(q & 255) << i % 4 * 8;
        }
        *(uint2 *)(a.codes + row * a.ld + col) = make_uint2(word[0], word[1]);
    }
    if (threadIdx.x == 0) {
        a.row_scale[row] = s.scale;
        a.row_zero[row] = s.zero - 128;
    }
}

template <bool BF16>
__device__ void put_values(const round_args &a, const scale_of &s, bool finite, int64_t row, int64_t first, bool vector)
{
    for (int64_t at = threadIdx.x * 8; at < a.group; at += blockDim.x * 8) {
        float v[8];
        lu_load8<BF16>(a.x + row * a.ldx + first + at, a.group - at, vector && at + 8 <= a.group, v);
#pragma unroll
        for (int i = 0; i < 8; i++)
            v[i] = finite ? s.scale * (float)code_of(s, v[i]) : s.scale;
        lu_store8<BF16>(a.y + row * a.k + first + at, a.group - at, vector && at + 8 <= a.group, v);
    }
}

template <bool BF16> __global__ void __launch_bounds__(MOST_THREADS) act_round(const __grid_constant__ round_args a, bool vector)
{
    __shared__ float part[3][32];
    const int64_t groups = a.k / a.group, row = blockIdx.x / groups, first = blockIdx.x % groups * a.group;
    float lo = 0.0f, less = 0.0f, fine = 1.0f; /* less: the largest with its sign changed */
    lu_begin();
    for (int64_t at = threadIdx.x * 8; at < a.group; at += blockDim.x * 8) {
        float v[8];
        lu_load8<BF16>(a.x + row * a.ldx + first + at, a.group - at, vector && at + 8 <= a.group, v);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            fine = isfinite(v[i]) ? fine : 0.0f;
            lo = fminf(lo, v[i]);
            less = fminf(less, -v[i]);
        }
    }
    lo = block_min(lo, part[0]);
    const float hi = -block_min(less, part[1]);
    const bool finite = block_min(fine, part[2]) > 0.5f;
    const scale_of s = find_scale(a, lo, hi, finite);
    if (a.codes)
        put_codes<BF16>(a, s, finite, row, vector);
    else
        put_values<BF16>(a, s, finite, row, first, vector);
}

int launch(const lu_cuda_act_args *e, round_args a)
{
    const lu_cuda_act_rule *r = &e->rule;
    const int64_t stretches = e->k > 0 && r->group > 0 && e->k % r->group == 0 ? e->k / r->group : 0;
    if (e->n < 0 || stretches < 1 || r->bits < 2 || r->bits > 8 || (stretches > 1 && (r->group % 8 || r->fixed)) ||
        e->ldx < e->k || (a.codes && stretches > 1) || e->n > INT32_MAX / stretches)
        return LU_CUDA_E_SHAPE;
    if (e->n == 0)
        return 0;
    a.k = e->k;
    a.ldx = e->ldx;
    a.group = r->group;
    a.x = e->x;
    a.bits = r->bits;
    a.asymmetric = r->asymmetric;
    a.fixed = r->fixed;
    a.scale = r->scale;
    a.zero = r->asymmetric ? r->zero : 128;
    const int64_t eighths = (r->group + 7) / 8, most = eighths < MOST_THREADS ? eighths : MOST_THREADS;
    const bool vector = lu_aligned16(e->x) && e->ldx % 8 == 0 && (a.codes || (lu_aligned16(a.y) && e->k % 8 == 0));
    const lu_launch_shape s = {dim3((unsigned)(e->n * stretches)), (unsigned)((most + 31) / 32 * 32), 0, e->stream};
    return e->bf16 ? lu_launch(act_round<true>, s, a, vector) : lu_launch(act_round<false>, s, a, vector);
}

} // namespace

int lu_cuda_act_codes(const lu_cuda_act_args *e, int8_t *codes, float *scale, int32_t *zero)
{
    round_args a = {};
    a.codes = codes;
    a.ld = lu_int8_padded(e->k, LU_INT8_COLUMNS);
    a.row_scale = scale;
    a.row_zero = zero;
    return codes ? launch(e, a) : LU_CUDA_E_SHAPE;
}

int lu_cuda_act_fake(const lu_cuda_act_args *e, uint16_t *y)
{
    round_args a = {};
    a.y = y;
    return y ? launch(e, a) : LU_CUDA_E_SHAPE;
}
