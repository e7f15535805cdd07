/* quantize_matrix.c - round a matrix to 4-bit NF4 codes, multiply with it, compare with the float
   product.
   Build: cc quantize_matrix.c $(pkg-config --cflags --libs lutra) -lm -o quantize_matrix */
#include <lutra/lutra.h>
#include <math.h>
#include <stdio.h>

enum { N = 512, K = 1024 };

static float weights[N * K], decoded[N * K], x[K], y[N];

/* Uniform in [-1, 1), from a small generator: the same on every machine. */
static float uniform(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (float)(*state >> 8) / 8388608.0f - 1.0f;
}

/* |a - b| / |b| of the float product with `w` against y. */
static double distance(const float *w)
{
    double difference = 0, norm = 0;
    for (int n = 0; n < N; n++) {
        double sum = 0;
        for (int k = 0; k < K; k++)
            sum += (double)w[n * K + k] * (double)x[k];
        difference += (y[n] - sum) * (y[n] - sum);
        norm += sum * sum;
    }
    return sqrt(difference / norm);
}

static lutra_status compare(lutra_ctx *ctx, lutra_err *err)
{
    lutra_format f;
    lutra_qmatrix q = {0};
    lutra_linear *lin = NULL;
    lutra_status status = lutra_format_parse("nf4:g64", &f, err);
    if (status == LUTRA_OK)
        status = lutra_quantize_matrix(
            ctx, &f, LUTRA_RANGE_MINMAX,
            &(lutra_matrix){.n = N, .k = K, .w = weights, .dtype = LUTRA_F32}, &q, err);
    if (status == LUTRA_OK)
        status = lutra_dequantize_matrix(ctx, &q, decoded, err);
    if (status == LUTRA_OK)
        status = lutra_linear_open(ctx, &q, NULL, LUTRA_F32, &lin, err);
    if (status == LUTRA_OK)
        status = lutra_linear_multiply(ctx, lin, 1, x, y, err);
    if (status == LUTRA_OK) {
        const size_t bytes =
            N * (lutra_format_row_bytes(&f, K) + 2 * (size_t)lutra_format_groups(&f, K));
        printf("%d x %d: %zu bytes as float, %zu as nf4:g64\n", N, K, sizeof weights, bytes);
        printf("error against the same rounded weights  %.2e\n", distance(decoded));
        printf("error against the float weights         %.2e\n", distance(weights));
    }
    lutra_linear_close(lin);
    lutra_qmatrix_free(&q);
    return status;
}

int main(void)
{
    uint32_t state = 1;
    for (int i = 0; i < N * K; i++)
        weights[i] = uniform(&state);
    for (int k = 0; k < K; k++)
        x[k] = uniform(&state);

    lutra_err err = {0};
    lutra_ctx *ctx = NULL;
    lutra_status status = lutra_open(NULL, &ctx, &err);
    if (status == LUTRA_OK)
        status = compare(ctx, &err);
    lutra_close(ctx);
    if (status != LUTRA_OK)
        fprintf(stderr, "quantize_matrix: %s\n", err.msg);
    return status == LUTRA_OK ? 0 : 1;
}
