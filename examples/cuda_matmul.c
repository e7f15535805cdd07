/* cuda_matmul.c - round a matrix to 4-bit NF4 codes, multiply with it on an NVIDIA GPU, compare
   with the same rounded weights in double precision. Build: cc cuda_matmul.c
   -I/usr/local/cuda/include $(pkg-config --cflags --libs lutra) -L/usr/local/cuda/lib64 -lcudart
   -lm -o cuda_matmul */
#include <cuda_runtime_api.h>
#include <lutra/cuda.h>
#include <lutra/lutra.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { M = 4, N = 4096, K = 4096 };

static float weights[N * K], decoded[N * K];
static uint16_t x[M * K], y[M * N];

/* Uniform in [-1, 1), from a small generator: the same on every machine. */
static float uniform(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (float)(*state >> 8) / 8388608.0f - 1.0f;
}

/* bfloat16 is the upper half of a float. */
static float bf16_value(uint16_t v)
{
    const uint32_t bits = (uint32_t)v << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint16_t bf16_of(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* ||y - x . decoded^T|| / ||x . decoded^T|| over the first rows of the matrix */
static double error_of(void)
{
    double difference = 0, norm = 0;
    for (int m = 0; m < M; m++)
        for (int n = 0; n < 256; n++) {
            double sum = 0;
            for (int k = 0; k < K; k++)
                sum += (double)decoded[n * K + k] * (double)bf16_value(x[m * K + k]);
            difference += (bf16_value(y[m * N + n]) - sum) * (bf16_value(y[m * N + n]) - sum);
            norm += sum * sum;
        }
    return sqrt(difference / norm);
}

static int cuda(cudaError_t e, const char *what)
{
    if (e != cudaSuccess)
        fprintf(stderr, "cuda_matmul: %s: %s\n", what, cudaGetErrorString(e));
    return e == cudaSuccess;
}

/* y = x . w^T on the GPU, many times; prints what one takes. */
static lutra_status multiply(lutra_cuda_matrix *w, lutra_err *err)
{
    enum { TIMES = 200 };
    void *d_x = NULL, *d_y = NULL;
    cudaStream_t stream;
    cudaEvent_t start, end;
    float ms = 0;
    if (!cuda(cudaMalloc(&d_x, sizeof x), "memory") ||
        !cuda(cudaMalloc(&d_y, sizeof y), "memory") ||
        !cuda(cudaMemcpy(d_x, x, sizeof x, cudaMemcpyHostToDevice), "copying x") ||
        !cuda(cudaStreamCreate(&stream), "stream") || !cuda(cudaEventCreate(&start), "event") ||
        !cuda(cudaEventCreate(&end), "event"))
        return LUTRA_E_INTERNAL;
    lutra_status status = lutra_cuda_multiply(w, M, d_x, K, d_y, N, NULL, stream, err);
    cudaEventRecord(start, stream);
    for (int i = 0; i < TIMES && status == LUTRA_OK; i++)
        status = lutra_cuda_multiply(w, M, d_x, K, d_y, N, NULL, stream, err);
    cudaEventRecord(end, stream);
    if (status != LUTRA_OK)
        return status;
    if (!cuda(cudaEventSynchronize(end), "products") ||
        !cuda(cudaEventElapsedTime(&ms, start, end), "time") ||
        !cuda(cudaMemcpy(y, d_y, sizeof y, cudaMemcpyDeviceToHost), "copying y"))
        return LUTRA_E_INTERNAL;
    printf("%d x %d times %d rows: %.1f us, error %.1e\n", N, K, M, ms * 1e3 / TIMES, error_of());
    cudaFree(d_x);
    cudaFree(d_y);
    cudaStreamDestroy(stream);
    return LUTRA_OK;
}

static lutra_status run(lutra_ctx *ctx, lutra_err *err)
{
    lutra_format f;
    lutra_qmatrix q = {0};
    lutra_cuda *gpu = NULL;
    lutra_cuda_matrix *w = NULL;
    lutra_status status = lutra_cuda_open(ctx, 0, &gpu, err);
    if (status == LUTRA_OK)
        status = lutra_format_parse("nf4:g64", &f, err);
    if (status == LUTRA_OK)
        status = lutra_quantize_matrix(
            ctx, &f, LUTRA_RANGE_MINMAX,
            &(lutra_matrix){.n = N, .k = K, .w = weights, .dtype = LUTRA_F32}, &q, err);
    if (status == LUTRA_OK)
        status = lutra_dequantize_matrix(ctx, &q, decoded, err);
    if (status == LUTRA_OK)
        status = lutra_cuda_matrix_from(gpu, &q, LUTRA_BF16, &w, err);
    if (status == LUTRA_OK)
        status = multiply(w, err);
    lutra_cuda_matrix_close(w);
    lutra_qmatrix_free(&q);
    lutra_cuda_close(gpu);
    return status;
}

int main(void)
{
    uint32_t state = 1;
    for (int i = 0; i < N * K; i++)
        weights[i] = uniform(&state);
    for (int i = 0; i < M * K; i++)
        x[i] = bf16_of(uniform(&state));

    lutra_err err = {0};
    lutra_ctx *ctx = NULL;
    lutra_status status = lutra_open(NULL, &ctx, &err);
    if (status == LUTRA_OK)
        status = run(ctx, &err);
    lutra_close(ctx);
    if (status != LUTRA_OK)
        fprintf(stderr, "cuda_matmul: %s\n", *err.msg ? err.msg : lutra_status_text(status));
    return status == LUTRA_OK ? 0 : 1;
}
