/* cuda_calib.cu - see calib_ops.h. Sums run in one fixed order: a thread owns a column, a block owns
   a row. The factorisations work on blocks that fit into shared memory; everything larger is matrix
   products between them (la/dense_gpu.c). */
#include "kern/cuda/act_values.cuh"
#include "kern/cuda/calib_ops.h"
#include "kern/cuda/cuda_launch.cuh"
#include "kern/cuda/cuda_ops.h"

namespace {

enum { THREADS = 256, COLUMN_THREADS = 64, TILE = 32, TILE_ROWS = 8, P = LU_CUDA_PANEL };

/* --- statistics ------------------------------------------------------------------------------- */

template <bool BF16> __global__ void __launch_bounds__(COLUMN_THREADS) column_stats(lu_cuda_column_args a)
{
    const int64_t c = (int64_t)blockIdx.x * COLUMN_THREADS + threadIdx.x;
    lu_begin();
    if (c >= a.cols)
        return;
    float top = a.absmax ? a.absmax[c] : 0.0f, lo = INFINITY, hi = -INFINITY;
    double sum = a.abssum ? a.abssum[c] : 0.0;
    if (!a.first && a.lowest)
        lo = a.lowest[c];
    if (!a.first && a.highest)
        hi = a.highest[c];
    const uint16_t *x = a.x + c;
#pragma unroll 8
    for (int64_t r = 0; r < a.n; r++) {
        const float v = lu_from_act<BF16>(x[r * a.cols]), size = fabsf(v);
        top = size <= top || top != top ? top : size;
        sum += (double)size;
        lo = fminf(lo, v);
        hi = fmaxf(hi, v);
    }
    if (a.absmax)
        a.absmax[c] = top;
    if (a.abssum)
        a.abssum[c] = sum;
    if (a.lowest)
        a.lowest[c] = lo;
    if (a.highest)
        a.highest[c] = hi;
}

/* The sum over the block, for thread 0, in one order. */
__device__ __forceinline__ double block_sum(double sum, double part[THREADS])
{
    part[threadIdx.x] = sum;
    for (int step = THREADS / 2; step; step /= 2) {
        __syncthreads();
        if ((int)threadIdx.x < step)
            part[threadIdx.x] += part[threadIdx.x + step];
    }
    return part[0];
}

template <bool BF16>
__global__ void __launch_bounds__(THREADS)
    square_rows(int64_t cols, const uint16_t *a, const uint16_t *b, double *sums)
{
    __shared__ double part[THREADS];
    const int64_t row = blockIdx.x;
    double sum = 0.0;
    lu_begin();
    for (int64_t c = threadIdx.x; c < cols; c += THREADS) {
        const float d = lu_from_act<BF16>(a[row * cols + c]) - lu_from_act<BF16>(b[row * cols + c]);
        sum += (double)d * (double)d;
    }
    sum = block_sum(sum, part);
    if (threadIdx.x == 0)
        sums[row] = sum;
}

__global__ void __launch_bounds__(THREADS) dot_rows(int64_t cols, const float *a, const float *b, double *sums)
{
    __shared__ double part[THREADS];
    const int64_t row = blockIdx.x;
    double sum = 0.0;
    lu_begin();
    for (int64_t c = threadIdx.x; c < cols; c += THREADS)
        sum += (double)a[row * cols + c] * (double)b[row * cols + c];
    sum = block_sum(sum, part);
    if (threadIdx.x == 0)
        sums[row] = sum;
}

/* A warp takes a group; its lanes are added up in one order. */
__global__ void __launch_bounds__(THREADS)
    judge_groups(int64_t count, int64_t size, const float *d, const float *product, int first, float factor,
                 double *best, float *best_factor)
{
    const int64_t i = (int64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    const int lane = (int)threadIdx.x % 32;
    double error = 0.0;
    lu_begin();
    if (i >= count)
        return;
    for (int64_t c = i * size + lane; c < (i + 1) * size; c += 32)
        error += (double)d[c] * (double)product[c];
    for (int step = 16; step; step /= 2)
        error += __shfl_xor_sync(~0u, error, step);
    if (lane)
        return;
    const double before = first ? (double)INFINITY : best[i];
    if (first)
        best_factor[i] = 1.0f;
    if (error < before)
        best_factor[i] = factor;
    if (first || error < before)
        best[i] = error < before ? error : before;
}

/* --- weights on trial ------------------------------------------------------------------------- */

__global__ void scale_columns(int64_t cols, const float *w, const float *scale, float *out)
{
    const int64_t c = (int64_t)blockIdx.y * THREADS + threadIdx.x, at = blockIdx.x * cols + c;
    lu_begin();
    if (c < cols)
        out[at] = __fmul_rn(w[at], scale[c]);
}

struct decode_shape {
    int64_t k, group, groups, row_bytes;
    int bits, scale_bytes, scale_bf16;
    float table[256];
};

__device__ __forceinline__ float scale_at(const decode_shape &f, const void *scales, int64_t i)
{
    if (f.scale_bytes == 4)
        return ((const float *)scales)[i];
    const uint16_t bits = ((const uint16_t *)scales)[i];
    return f.scale_bf16 ? lu_from_act<true>(bits) : lu_from_act<false>(bits);
}

template <bool BF16>
__global__ void __launch_bounds__(THREADS) decode(const __grid_constant__ decode_shape f, lu_cuda_decode_args a)
{
    __shared__ float table[256];
    const int64_t c = (int64_t)blockIdx.y * THREADS + threadIdx.x, row = blockIdx.x;
    for (int i = (int)threadIdx.x; i < 1 << f.bits; i += THREADS)
        table[i] = f.table[i];
    __syncthreads();
    lu_begin();
    if (c >= f.k)
        return;
    const uint8_t *codes = a.codes + row * f.row_bytes;
    const int64_t bit = c * f.bits, byte = bit / 8, group = row * f.groups + c / f.group;
    const int shift = (int)(bit % 8);
    unsigned code = codes[byte];
    if (shift + f.bits > 8)
        code |= (unsigned)codes[byte + 1] << 8;
    code = code >> shift & ((1u << f.bits) - 1);
    const float zero = a.zeros ? table[a.zeros[group]] : 0.0f;
    const float value =
        __fdiv_rn(__fmul_rn(scale_at(f, a.scales, group), __fsub_rn(table[code], zero)), a.scale[c]);
    if (a.values)
        a.values[row * f.k + c] = lu_to_act<BF16>(value);
    else
        a.difference[row * f.k + c] = __fsub_rn(a.w[row * f.k + c], value);
}

/* --- whole matrices --------------------------------------------------------------------------- */

/* A block takes the tile (x, y) of the upper triangle and writes its mirror image. */
__global__ void __launch_bounds__(TILE *TILE_ROWS) mirror(int64_t n, float factor, float *c)
{
    __shared__ float tile[TILE][TILE + 1];
    const int64_t x = blockIdx.x, y = blockIdx.y;
    const int tx = (int)threadIdx.x % TILE, ty = (int)threadIdx.x / TILE;
    lu_begin();
    if (x < y)
        return;
    for (int r = ty; r < TILE; r += TILE_ROWS) {
        const int64_t i = y * TILE + r, j = x * TILE + tx;
        if (i < n && j < n && i <= j) {
            tile[r][tx] = c[i * n + j] * factor;
            c[i * n + j] = tile[r][tx];
        }
    }
    __syncthreads();
    for (int r = ty; r < TILE; r += TILE_ROWS) {
        const int64_t i = x * TILE + r, j = y * TILE + tx;
        if (i < n && j < n && j < i)
            c[i * n + j] = tile[tx][r];
    }
}

__global__ void reverse(int64_t count, float *a)
{
    const int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    lu_begin();
    if (at >= count / 2)
        return;
    const float t = a[at];
    a[at] = a[count - 1 - at];
    a[count - 1 - at] = t;
}

__global__ void copy_rows(int64_t cols, const float *from, int64_t ld_from, float *to, int64_t ld_to)
{
    const int64_t c = (int64_t)blockIdx.y * THREADS + threadIdx.x, row = blockIdx.x;
    lu_begin();
    if (c < cols)
        to[row * ld_to + c] = from[row * ld_from + c];
}

__global__ void clear_upper(int64_t n, float *a)
{
    const int64_t c = (int64_t)blockIdx.y * THREADS + threadIdx.x, row = blockIdx.x;
    lu_begin();
    if (c < n && c > row)
        a[row * n + c] = 0.0f;
}

/* --- blocks ----------------------------------------------------------------------------------- */

/* Column by column in shared memory: scale, then update what lies to the right. */
__global__ void __launch_bounds__(THREADS) cholesky_block(int n, float *a, int64_t ld, int32_t *bad)
{
    extern __shared__ float l[]; /* [P][P + 1] */
    const int t = (int)threadIdx.x, stride = P + 1;
    lu_begin();
    for (int i = t; i < n * n; i += THREADS)
        l[i / n * stride + i % n] = a[i / n * ld + i % n];
    bool good = true;
    for (int j = 0; j < n; j++) {
        __syncthreads();
        const float pivot = l[j * stride + j];
        good = good && pivot > 0.0f;
        const float root = sqrtf(pivot);
        __syncthreads();
        for (int i = j + t; i < n; i += THREADS)
            l[i * stride + j] = i == j ? root : l[i * stride + j] / root;
        __syncthreads();
        const int left = n - j - 1;
        for (int e = t; e < left * left; e += THREADS) {
            const int i = j + 1 + e / left, k = j + 1 + e % left;
            if (k <= i)
                l[i * stride + k] -= l[i * stride + j] * l[k * stride + j];
        }
    }
    __syncthreads();
    for (int i = t; i < n * n; i += THREADS)
        if (i % n <= i / n)
            a[i / n * ld + i % n] = l[i / n * stride + i % n];
    if (t == 0 && !good)
        *bad = 1;
}

/* Thread c makes column c of the inverse of a lower block by forward substitution; an upper block is
   read, and its inverse written, transposed. */
__global__ void __launch_bounds__(P)
    invert_blocks(int64_t n, const float *a, int64_t ld, int upper, float *inverses)
{
    extern __shared__ float x[]; /* [P][P] */
    const int64_t first = (int64_t)blockIdx.x * P;
    const int size = (int)(n - first < P ? n - first : P), c = (int)threadIdx.x;
    const float *block = a + first * ld + first;
    const int64_t down = upper ? 1 : ld, across = upper ? ld : 1;
    float *out = inverses + blockIdx.x * (int64_t)(P * P);
    lu_begin();
    for (int i = 0; i < P; i++)
        x[i * P + c] = 0.0f;
    for (int i = 0; i < size; i++) {
        float sum = i == c ? 1.0f : 0.0f;
#pragma unroll 8
        for (int k = 0; k < i; k++)
            sum -= block[i * down + k * across] * x[k * P + c];
        x[i * P + c] = c < size ? sum / block[i * down + i * across] : 0.0f;
    }
    __syncthreads();
    for (int i = 0; i < P; i++)
        out[i * P + c] = upper ? x[c * P + i] : x[i * P + c];
}

} // namespace

static int bad_shape(int64_t n) { return n < 0 || n > INT32_MAX; }

static unsigned parts(int64_t n, int64_t size) { return (unsigned)((n + size - 1) / size); }

int lu_cuda_column_stats(const lu_cuda_column_args *a)
{
    if (bad_shape(a->n) || a->cols < 1 || bad_shape(a->cols))
        return LU_CUDA_E_SHAPE;
    if (a->n == 0)
        return 0;
    const lu_launch_shape s = {dim3(parts(a->cols, COLUMN_THREADS)), COLUMN_THREADS, 0, a->stream};
    return a->bf16 ? lu_launch(column_stats<true>, s, *a) : lu_launch(column_stats<false>, s, *a);
}

int lu_cuda_square_rows(int64_t n, int64_t cols, const uint16_t *a, const uint16_t *b, int bf16, double *sums,
                        void *stream)
{
    if (bad_shape(n) || cols < 1)
        return LU_CUDA_E_SHAPE;
    if (n == 0)
        return 0;
    const lu_launch_shape s = {dim3((unsigned)n), THREADS, 0, stream};
    return bf16 ? lu_launch(square_rows<true>, s, cols, a, b, sums)
                : lu_launch(square_rows<false>, s, cols, a, b, sums);
}

int lu_cuda_dot_rows(int64_t n, int64_t cols, const float *a, const float *b, double *sums, void *stream)
{
    if (bad_shape(n) || cols < 1)
        return LU_CUDA_E_SHAPE;
    if (n == 0)
        return 0;
    const lu_launch_shape s = {dim3((unsigned)n), THREADS, 0, stream};
    return lu_launch(dot_rows, s, cols, a, b, sums);
}

int lu_cuda_judge_groups(int64_t n, int64_t groups, int64_t size, const float *d, const float *product, int first,
                         float factor, double *best, float *best_factor, void *stream)
{
    const int64_t blocks = (n * groups + THREADS / 32 - 1) / (THREADS / 32);
    if (bad_shape(n) || groups < 1 || bad_shape(groups) || size < 1 || bad_shape(blocks))
        return LU_CUDA_E_SHAPE;
    if (n == 0)
        return 0;
    const lu_launch_shape s = {dim3((unsigned)blocks), THREADS, 0, stream};
    return lu_launch(judge_groups, s, n * groups, size, d, product, first, factor, best, best_factor);
}

int lu_cuda_scale_columns(int64_t n, int64_t cols, const float *w, const float *scale, float *out, void *stream)
{
    if (bad_shape(n) || cols < 1 || cols > (int64_t)65535 * THREADS)
        return LU_CUDA_E_SHAPE;
    if (n == 0)
        return 0;
    const lu_launch_shape s = {dim3((unsigned)n, parts(cols, THREADS)), THREADS, 0, stream};
    return lu_launch(scale_columns, s, cols, w, scale, out);
}

int lu_cuda_decode(const lu_cuda_decode_args *a)
{
    const lutra_format *g = a->format;
    const int64_t groups = a->k > 0 ? (g->group_size > 0 ? a->k / g->group_size : 1) : 0;
    if (bad_shape(a->n) || a->k < 1 || a->k > (int64_t)65535 * THREADS || groups < 1 || a->k % groups)
        return LU_CUDA_E_SHAPE;
    if (a->n == 0)
        return 0;
    decode_shape f = {a->k,
                      a->k / groups,
                      groups,
                      (a->k * g->bits + 7) / 8,
                      g->bits,
                      g->scale_dtype == LUTRA_F32 ? 4 : 2,
                      g->scale_dtype == LUTRA_BF16,
                      {}};
    for (int i = 0; i < 1 << g->bits; i++)
        f.table[i] = g->table[i];
    const lu_launch_shape s = {dim3((unsigned)a->n, parts(a->k, THREADS)), THREADS, 0, a->stream};
    return a->bf16 ? lu_launch(decode<true>, s, f, *a) : lu_launch(decode<false>, s, f, *a);
}

int lu_cuda_mirror(int64_t n, float factor, float *c, void *stream)
{
    if (n < 1 || n > (int64_t)65535 * TILE)
        return LU_CUDA_E_SHAPE;
    const lu_launch_shape s = {dim3(parts(n, TILE), parts(n, TILE)), TILE * TILE_ROWS, 0, stream};
    return lu_launch(mirror, s, n, factor, c);
}

int lu_cuda_reverse(int64_t count, float *a, void *stream)
{
    if (count < 0 || count / 2 > (int64_t)INT32_MAX * THREADS)
        return LU_CUDA_E_SHAPE;
    if (count < 2)
        return 0;
    const lu_launch_shape s = {dim3(parts(count / 2, THREADS)), THREADS, 0, stream};
    return lu_launch(reverse, s, count, a);
}

int lu_cuda_copy_rows(int64_t rows, int64_t cols, const float *from, int64_t ld_from, float *to, int64_t ld_to,
                      void *stream)
{
    if (bad_shape(rows) || cols < 0 || cols > (int64_t)65535 * THREADS)
        return LU_CUDA_E_SHAPE;
    if (rows == 0 || cols == 0)
        return 0;
    const lu_launch_shape s = {dim3((unsigned)rows, parts(cols, THREADS)), THREADS, 0, stream};
    return lu_launch(copy_rows, s, cols, from, ld_from, to, ld_to);
}

int lu_cuda_clear_upper(int64_t n, float *a, void *stream)
{
    if (n < 1 || n > (int64_t)65535 * THREADS)
        return LU_CUDA_E_SHAPE;
    const lu_launch_shape s = {dim3((unsigned)n, parts(n, THREADS)), THREADS, 0, stream};
    return lu_launch(clear_upper, s, n, a);
}

int lu_cuda_cholesky_block(int64_t n, float *a, int64_t ld, int32_t *bad, void *stream)
{
    if (n < 1 || n > P || ld < n)
        return LU_CUDA_E_SHAPE;
    const lu_launch_shape s = {dim3(1), THREADS, P * (P + 1) * sizeof(float), stream};
    return lu_launch(cholesky_block, s, (int)n, a, ld, bad);
}

int lu_cuda_invert_blocks(int64_t n, const float *a, int64_t ld, int upper, float *inverses, void *stream)
{
    if (n < 1 || bad_shape(n) || ld < n)
        return LU_CUDA_E_SHAPE;
    const lu_launch_shape s = {dim3(parts(n, P)), P, P * P * sizeof(float), stream};
    return lu_launch(invert_blocks, s, n, a, ld, upper, inverses);
}
