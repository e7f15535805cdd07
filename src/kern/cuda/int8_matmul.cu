/* int8_matmul.cu - products of integers (cuda_int8.h) that need no library: for a few rows, where
   reading the weights is all the time there is, and for any number of them where cuBLASLt is missing.

   A block makes 16 columns of y for 8, 16 or 32 rows of x. Its warps share out the columns of W: each
   takes every eighth stretch of 64 and multiplies it on the tensor cores (m16n8k32). A sum of integers
   does not care for the order of its terms, so a lane's 16 consecutive bytes of a row serve as they lie
   as the four words that two instructions want of it, of W and of x alike: every load is 16 bytes wide
   and a row's 64 bytes come together. The warps' sums meet in shared memory. Weights are at rest, so
   the first loads are under way before the kernel ahead has finished. */
#include "kern/cuda/act_values.cuh"
#include "kern/cuda/cuda_int8.h"
#include "kern/cuda/cuda_launch.cuh"

namespace {

enum { WARPS = 8, THREADS = 32 * WARPS, AHEAD = 4, STEP = LU_INT8_COLUMNS, MOST_TILES = 4 };

struct product {
    int64_t m, n, k, ldy; /* k: padded */
    const int8_t *x, *w;
    const float *x_scale, *w_scale;
    const int32_t *x_zero, *w_sum;
    const uint16_t *bias;
    uint16_t *y;
};

/* c += a . b; fragments as in cuda_mma.cuh, four bytes for each pair there. */
__device__ __forceinline__ void mma_int8(int32_t c[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                         uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* The value of y[m][n] from its sum, in the order of kern/ref/int8_ref.c. */
template <bool BF16> __device__ __forceinline__ uint16_t scaled(const product &p, int64_t m, int64_t n, int32_t sum)
{
    if (p.x_zero) /* the product may leave int32, the difference does not */
        sum = (int32_t)((uint32_t)sum - (uint32_t)p.x_zero[m] * (uint32_t)p.w_sum[n]);
    const float inner = __fmaf_rn(p.w_scale[n], (float)sum, 0.0f); /* as there: never -0 */
    float v = __fmul_rn(p.x_scale[m], inner);
    if (p.bias)
        v = __fadd_rn(v, lu_from_act<BF16>(p.bias[n]));
    return lu_to_act<BF16>(v);
}

template <bool BF16, int TILES> __global__ void __launch_bounds__(THREADS) int8_rows(const __grid_constant__ product p)
{
    __shared__ int32_t part[WARPS][TILES * 4][32];
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x & 31, g = lane / 4, t = lane & 3;
    const int64_t n0 = (int64_t)blockIdx.x * LU_INT8_ROWS, m0 = (int64_t)blockIdx.y * (8 * TILES);
    const int8_t *w = p.w + (n0 + g) * p.k + 16 * t, *x = p.x + (m0 + g) * p.k + 16 * t;
    const int64_t half = 8 * p.k, stride = WARPS * STEP;
    uint4 upper[AHEAD], lower[AHEAD];
    int32_t sum[TILES][4] = {};
    lu_let_next_start();
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
        const int64_t k = warp * STEP + i * stride;
        upper[i] = k < p.k ? __ldcs((const uint4 *)(w + k)) : make_uint4(0, 0, 0, 0);
        lower[i] = k < p.k ? __ldcs((const uint4 *)(w + half + k)) : make_uint4(0, 0, 0, 0);
    }
    lu_wait_for_ahead();
    for (int64_t base = warp * STEP; base < p.k; base += AHEAD * stride) {
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const int64_t k = base + i * stride, next = k + AHEAD * stride;
            const uint4 a = upper[i], b = lower[i];
            if (next < p.k) {
                upper[i] = __ldcs((const uint4 *)(w + next));
                lower[i] = __ldcs((const uint4 *)(w + half + next));
            }
            if (k >= p.k)
                continue;
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
                const bool there = m0 + 8 * tile + g < p.m;
                const uint4 v = there ? *(const uint4 *)(x + 8 * tile * p.k + k) : make_uint4(0, 0, 0, 0);
                mma_int8(sum[tile], a.x, b.x, a.y, b.y, v.x, v.y);
                mma_int8(sum[tile], a.z, b.z, a.w, b.w, v.z, v.w);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < TILES * 4; i++)
        part[warp][i][lane] = sum[i / 4][i % 4];
    __syncthreads();
    for (int i = (int)threadIdx.x; i < TILES * 128; i += THREADS) {
        const int word = i / 32, from = i & 31;
        const int64_t n = n0 + from / 4 + word % 4 / 2 * 8, m = m0 + word / 4 * 8 + (from & 3) * 2 + word % 2;
        int32_t all = 0;
#pragma unroll
        for (int other = 0; other < WARPS; other++)
            all += part[other][word][from];
        if (n < p.n && m < p.m)
            p.y[m * p.ldy + n] = scaled<BF16>(p, m, n, all);
    }
}

/* Four columns of a row per thread. vector: y's rows lie on 8 bytes. */
template <bool BF16>
__global__ void __launch_bounds__(THREADS)
    int8_scale(const __grid_constant__ product p, const int32_t *sums, int64_t ld, int64_t row, bool vector)
{
    const int64_t n = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 4, m = row + blockIdx.y;
    lu_begin();
    if (n >= p.n)
        return;
    const int4 sum = *(const int4 *)(sums + blockIdx.y * ld + n); /* padded: all four are there */
    const int32_t each[4] = {sum.x, sum.y, sum.z, sum.w};
    uint16_t *y = p.y + m * p.ldy + n, v[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        v[i] = n + i < p.n ? scaled<BF16>(p, m, n + i, each[i]) : 0;
    if (vector && n + 4 <= p.n) {
        *(uint2 *)y = make_uint2(v[0] | (uint32_t)v[1] << 16, v[2] | (uint32_t)v[3] << 16);
        return;
    }
    for (int i = 0; i < 4 && n + i < p.n; i++)
        y[i] = v[i];
}

struct packing {
    int64_t n, k;
    int bits;
    const uint8_t *codes, *zeros;
    int8_t *w;
    int32_t *w_sum;
    int16_t table[256];
};

/* A row per block. */
__global__ void __launch_bounds__(THREADS) int8_pack(const __grid_constant__ packing p)
{
    __shared__ int32_t part[WARPS];
    const int64_t row = blockIdx.x, ld = (p.k + STEP - 1) / STEP * STEP, row_bytes = (p.k * p.bits + 7) / 8;
    const uint8_t *codes = p.codes + row * row_bytes;
    const int zero = row < p.n && p.zeros ? p.table[p.zeros[row]] : 0;
    int32_t sum = 0;
    for (int64_t k = threadIdx.x; k < ld; k += THREADS) {
        int v = 0;
        if (row < p.n && k < p.k) {
            const int64_t bit = k * p.bits, byte = bit / 8;
            const uint32_t two = codes[byte] | (byte + 1 < row_bytes ? (uint32_t)codes[byte + 1] << 8 : 0u);
            v = p.table[(two >> bit % 8) & ((1u << p.bits) - 1)] - zero;
        }
        p.w[row * ld + k] = (int8_t)v;
        sum += v;
    }
#pragma unroll
    for (int far = 16; far; far /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, far);
    if ((threadIdx.x & 31) == 0)
        part[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0 && row < p.n) {
        for (int i = 1; i < WARPS; i++)
            sum += part[i];
        p.w_sum[row] = sum;
    }
}

bool make_product(const lu_gpu_int8 *e, product *p)
{
    const product all = {e->m, e->n, lu_int8_padded(e->k, LU_INT8_COLUMNS), e->ldy, e->x, e->w, e->x_scale,
                         e->w_scale, e->x_zero, e->w_sum, e->bias, e->y};
    *p = all;
    return e->m >= 0 && e->n >= 1 && e->n <= INT32_MAX && e->k >= 1 && e->k <= LU_INT8_MOST_COLUMNS &&
           (e->w_sum || !e->x_zero) && lu_aligned16(e->x) && lu_aligned16(e->w);
}

template <bool BF16> int launch_rows(const lu_launch_shape &s, int tiles, const product &p)
{
    return tiles == 1   ? lu_launch(int8_rows<BF16, 1>, s, p)
           : tiles == 2 ? lu_launch(int8_rows<BF16, 2>, s, p)
                        : lu_launch(int8_rows<BF16, MOST_TILES>, s, p);
}

} // namespace

int lu_cuda_int8_rows(const lu_gpu_int8 *e, void *stream)
{
    enum { MOST_Y = 65535 };
    product p;
    if (!make_product(e, &p))
        return LU_CUDA_E_SHAPE;
    const int tiles = p.m <= 8 ? 1 : p.m <= 16 ? 2 : MOST_TILES;
    const unsigned columns = (unsigned)((p.n + LU_INT8_ROWS - 1) / LU_INT8_ROWS);
    const int64_t at_once = (int64_t)MOST_Y * 8 * tiles;
    for (int64_t done = 0; done < e->m; done += at_once) { /* a grid has at most so many rows */
        p.m = e->m - done < at_once ? e->m - done : at_once;
        p.x = e->x + done * p.k;
        p.x_scale = e->x_scale + done;
        p.x_zero = e->x_zero ? e->x_zero + done : NULL;
        p.y = e->y + done * e->ldy;
        const lu_launch_shape s = {dim3(columns, (unsigned)((p.m + 8 * tiles - 1) / (8 * tiles))), THREADS, 0, stream};
        const int status = e->bf16 ? launch_rows<true>(s, tiles, p) : launch_rows<false>(s, tiles, p);
        if (status)
            return status;
    }
    return 0;
}

int lu_cuda_int8_scale(const lu_gpu_int8 *e, int64_t row, int64_t rows, void *stream)
{
    product p;
    if (!make_product(e, &p) || row < 0 || rows < 0 || rows > 65535 || row + rows > e->m || !e->sums || !lu_aligned16(e->sums))
        return LU_CUDA_E_SHAPE;
    if (rows == 0)
        return 0;
    const int64_t ld = lu_int8_padded(e->n, LU_INT8_ROWS), blocks = (e->n + 4 * THREADS - 1) / (4 * THREADS);
    const lu_launch_shape s = {dim3((unsigned)blocks, (unsigned)rows), THREADS, 0, stream};
    const int32_t *sums = e->sums;
    const bool vector = (uintptr_t)e->y % 8 == 0 && e->ldy % 4 == 0;
    return e->bf16 ? lu_launch(int8_scale<true>, s, p, sums, ld, row, vector)
                   : lu_launch(int8_scale<false>, s, p, sums, ld, row, vector);
}

int lu_cuda_int8_pack(int64_t n, int64_t k, int bits, const uint8_t *codes, const uint8_t *zeros, const float *table,
                      int8_t *w, int32_t *w_sum, void *stream)
{
    packing p = {n, k, bits, codes, zeros, w, w_sum, {}};
    const int64_t rows = lu_int8_padded(n, LU_INT8_ROWS);
    if (n < 1 || k < 1 || k > LU_INT8_MOST_COLUMNS || bits < 2 || bits > 8 || rows > INT32_MAX)
        return LU_CUDA_E_SHAPE;
    for (int i = 0; i < 1 << bits; i++)
        p.table[i] = (int16_t)table[i];
    int8_pack<<<(unsigned)rows, THREADS, 0, (cudaStream_t)stream>>>(p);
    return (int)cudaGetLastError();
}
