/* gpu_emulated_calib.c - products with float32 results, and kern/cuda/calib_ops.h, of the emulated
   GPU: each puts its arguments into the queue with the function that computes it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fmt/codec.h"
#include "support/gpu_emulated_ops.h"
#include "tensor/convert.h"

#define P LU_CUDA_PANEL

/* The arguments of the small ones: what each calls them is in its own function. */
typedef struct {
    int64_t n, cols, ld_from, ld_to;
    const void *a, *b;
    void *out;
    double *sums;
    float factor;
    int flag;
} small;

static double load(const uint16_t *p, int64_t i, int bf16)
{
    return (double)(bf16 ? lu_bf16_to_f32(p[i]) : lu_f16_to_f32(p[i]));
}

static double operand(const lu_gpu_gemm *g, const void *p, int64_t at)
{
    return g->of_float ? (double)((const float *)p)[at] : load(p, at, g->bf16);
}

static int run_gemm(const void *args)
{
    const lu_gpu_gemm *g = args;
    double *a = malloc((size_t)(g->m * g->k + g->k + 1) * sizeof *a), *b = a + g->m * g->k;
    for (int64_t i = 0; i < g->m; i++)
        for (int64_t k = 0; k < g->k; k++)
            a[i * g->k + k] = operand(g, g->a, g->transpose_a ? k * g->lda + i : i * g->lda + k);
    for (int64_t j = 0; j < g->n; j++) {
        for (int64_t k = 0; k < g->k; k++)
            b[k] = operand(g, g->b, g->transpose_b ? j * g->ldb + k : k * g->ldb + j);
        for (int64_t i = 0; i < g->m; i++) {
            double sum = 0;
            for (int64_t k = 0; k < g->k; k++)
                sum += a[i * g->k + k] * b[k];
            float *c = g->c + i * g->ldc + j;
            const double before = g->beta != 0 ? (double)g->beta * (double)*c : 0;
            *c = (float)((double)g->alpha * sum + before);
        }
    }
    free(a);
    return 0;
}

int gpu_emulated_gemm(lu_gpu *gpu, const lu_gpu_gemm *g)
{
    (void)gpu;
    return gpu_emulated_queue(run_gemm, g, sizeof *g);
}

static int run_column_stats(const void *args)
{
    const lu_cuda_column_args *a = args;
    for (int64_t c = 0; c < a->cols; c++)
        for (int64_t r = 0; r < a->n; r++) {
            const float v = (float)load(a->x, r * a->cols + c, a->bf16), size = fabsf(v);
            const bool first = a->first && r == 0;
            if (a->absmax && !(size <= a->absmax[c]))
                a->absmax[c] = size;
            if (a->abssum)
                a->abssum[c] += (double)size;
            if (a->lowest && (first || v < a->lowest[c]))
                a->lowest[c] = v;
            if (a->highest && (first || v > a->highest[c]))
                a->highest[c] = v;
        }
    return 0;
}

int emulated_column_stats(const lu_cuda_column_args *a)
{
    return gpu_emulated_queue(run_column_stats, a, sizeof *a);
}

static int run_square_rows(const void *args)
{
    const small *s = args;
    const int64_t n = s->n, cols = s->cols;
    const uint16_t *a = s->a, *b = s->b;
    const int bf16 = s->flag;
    double *sums = s->sums;
    for (int64_t r = 0; r < n; r++) {
        sums[r] = 0;
        for (int64_t c = r * cols; c < (r + 1) * cols; c++) {
            const double d = load(a, c, bf16) - load(b, c, bf16);
            sums[r] += d * d;
        }
    }
    return 0;
}

int emulated_square_rows(int64_t n, int64_t cols, const uint16_t *a, const uint16_t *b, int bf16,
                         double *sums, void *stream)
{
    const small s = {.n = n, .cols = cols, .a = a, .b = b, .flag = bf16, .sums = sums};
    (void)stream;
    return gpu_emulated_queue(run_square_rows, &s, sizeof s);
}

static int run_dot_rows(const void *args)
{
    const small *s = args;
    const int64_t n = s->n, cols = s->cols;
    const float *a = s->a, *b = s->b;
    double *sums = s->sums;
    for (int64_t r = 0; r < n; r++) {
        sums[r] = 0;
        for (int64_t c = r * cols; c < (r + 1) * cols; c++)
            sums[r] += (double)a[c] * (double)b[c];
    }
    return 0;
}

int emulated_dot_rows(int64_t n, int64_t cols, const float *a, const float *b, double *sums,
                      void *stream)
{
    const small s = {.n = n, .cols = cols, .a = a, .b = b, .sums = sums};
    (void)stream;
    return gpu_emulated_queue(run_dot_rows, &s, sizeof s);
}

typedef struct {
    int64_t count, size;
    const float *d, *product;
    int first;
    float factor;
    double *best;
    float *best_factor;
} judge;

static int run_judge(const void *args)
{
    const judge *j = args;
    for (int64_t i = 0; i < j->count; i++) {
        double error = 0;
        if (j->first) {
            j->best[i] = INFINITY;
            j->best_factor[i] = 1;
        }
        for (int64_t c = i * j->size; c < (i + 1) * j->size; c++)
            error += (double)j->d[c] * (double)j->product[c];
        if (error < j->best[i]) {
            j->best[i] = error;
            j->best_factor[i] = j->factor;
        }
    }
    return 0;
}

int emulated_judge_groups(int64_t n, int64_t groups, int64_t size, const float *d,
                          const float *product, int first, float factor, double *best,
                          float *best_factor, void *stream)
{
    const judge j = {n * groups, size, d, product, first, factor, best, best_factor};
    (void)stream;
    return gpu_emulated_queue(run_judge, &j, sizeof j);
}

static int run_clip(const void *args)
{
    const lu_cuda_clip_args *a = args;
    const lutra_format *f = &a->encoder->format;
    const lu_grid *grid = &a->encoder->grid;
    const int64_t groups = lutra_format_groups(f, a->k), size = a->k / groups;
    for (int64_t i = 0; i < a->n * groups; i++) {
        const float factor = a->factors ? a->factors[i] : a->factor;
        float scale, pivot[256];
        int zero;
        const bool good = lu_group_scale(f, a->lo[i] * factor, a->hi[i] * factor, &scale, &zero);
        const float zero_value = f->zero_point ? f->table[zero] : 0;
        if (good)
            lu_group_pivots(grid, scale, zero_value, pivot);
        for (int64_t c = i * size; c < (i + 1) * size; c++) {
            uint8_t code;
            if (good)
                lu_group_codes(grid, scale, pivot, a->w + c, 1, &code);
            a->difference[c] = good ? a->w[c] - scale * (f->table[code] - zero_value) : NAN;
        }
    }
    return 0;
}

int emulated_clip(const lu_cuda_clip_args *a)
{
    if (lutra_format_groups(&a->encoder->format, a->k) == 0)
        return LU_CUDA_E_SHAPE;
    return gpu_emulated_queue(run_clip, a, sizeof *a);
}

static int run_scale_columns(const void *args)
{
    const small *s = args;
    const int64_t n = s->n, cols = s->cols;
    const float *w = s->a, *scale = s->b;
    float *out = s->out;
    for (int64_t i = 0; i < n * cols; i++)
        out[i] = w[i] * scale[i % cols];
    return 0;
}

int emulated_scale_columns(int64_t n, int64_t cols, const float *w, const float *scale, float *out,
                           void *stream)
{
    const small s = {.n = n, .cols = cols, .a = w, .b = scale, .out = out};
    (void)stream;
    return gpu_emulated_queue(run_scale_columns, &s, sizeof s);
}

static int run_decode(const void *args)
{
    const lu_cuda_decode_args *a = args;
    const lutra_format *f = a->format;
    const int64_t groups = lutra_format_groups(f, a->k);
    const size_t row_bytes = lutra_format_row_bytes(f, a->k);
    float *row = malloc((size_t)a->k * sizeof *row);
    for (int64_t r = 0; r < a->n; r++) {
        lu_decode_row(f, a->codes + (size_t)r * row_bytes,
                      (const uint8_t *)a->scales +
                          (size_t)(r * groups) * lutra_dtype_bytes(f->scale_dtype),
                      a->zeros ? a->zeros + r * groups : NULL, a->k, row);
        for (int64_t c = 0; c < a->k; c++) {
            const float value = row[c] / a->scale[c];
            const int64_t at = r * a->k + c;
            if (a->values)
                a->values[at] = a->bf16 ? lu_f32_to_bf16(value) : lu_f32_to_f16(value);
            else
                a->difference[at] = a->w[at] - value;
        }
    }
    free(row);
    return 0;
}

int emulated_decode(const lu_cuda_decode_args *a)
{
    return gpu_emulated_queue(run_decode, a, sizeof *a);
}

static int run_mirror(const void *args)
{
    const small *s = args;
    const int64_t n = s->n;
    const float factor = s->factor;
    float *c = s->out;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = i; j < n; j++)
            c[j * n + i] = c[i * n + j] = c[i * n + j] * factor;
    return 0;
}

int emulated_mirror(int64_t n, float factor, float *c, void *stream)
{
    const small s = {.n = n, .factor = factor, .out = c};
    (void)stream;
    return gpu_emulated_queue(run_mirror, &s, sizeof s);
}

static int run_reverse(const void *args)
{
    const small *s = args;
    const int64_t count = s->n;
    float *a = s->out;
    for (int64_t i = 0; i < count / 2; i++) {
        const float t = a[i];
        a[i] = a[count - 1 - i];
        a[count - 1 - i] = t;
    }
    return 0;
}

int emulated_reverse(int64_t count, float *a, void *stream)
{
    const small s = {.n = count, .out = a};
    (void)stream;
    return gpu_emulated_queue(run_reverse, &s, sizeof s);
}

static int run_copy_rows(const void *args)
{
    const small *s = args;
    const int64_t rows = s->n, cols = s->cols, ld_from = s->ld_from, ld_to = s->ld_to;
    const float *from = s->a;
    float *to = s->out;
    for (int64_t r = 0; r < rows; r++)
        memcpy(to + r * ld_to, from + r * ld_from, (size_t)cols * sizeof *to);
    return 0;
}

int emulated_copy_rows(int64_t rows, int64_t cols, const float *from, int64_t ld_from, float *to,
                       int64_t ld_to, void *stream)
{
    const small s = {
        .n = rows, .cols = cols, .a = from, .ld_from = ld_from, .out = to, .ld_to = ld_to};
    (void)stream;
    return gpu_emulated_queue(run_copy_rows, &s, sizeof s);
}

static int run_clear_upper(const void *args)
{
    const small *s = args;
    const int64_t n = s->n;
    float *a = s->out;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = i + 1; j < n; j++)
            a[i * n + j] = 0;
    return 0;
}

int emulated_clear_upper(int64_t n, float *a, void *stream)
{
    const small s = {.n = n, .out = a};
    (void)stream;
    return gpu_emulated_queue(run_clear_upper, &s, sizeof s);
}

static int run_cholesky_block(const void *args)
{
    const small *s = args;
    const int64_t n = s->n, ld = s->ld_from;
    float *a = s->out;
    int32_t *bad = (int32_t *)(void *)s->sums;
    for (int64_t j = 0; j < n; j++)
        for (int64_t i = j; i < n; i++) {
            double sum = (double)a[i * ld + j];
            for (int64_t k = 0; k < j; k++)
                sum -= (double)a[i * ld + k] * (double)a[j * ld + k];
            if (i == j && !(sum > 0))
                *bad = 1;
            a[i * ld + j] = (float)(i == j ? sqrt(sum) : sum / (double)a[j * ld + j]);
        }
    return 0;
}

int emulated_cholesky_block(int64_t n, float *a, int64_t ld, int32_t *bad, void *stream)
{
    const small s = {.n = n, .out = a, .ld_from = ld, .sums = (double *)(void *)bad};
    (void)stream;
    if (n > P)
        return LU_CUDA_E_SHAPE;
    return gpu_emulated_queue(run_cholesky_block, &s, sizeof s);
}

static int run_invert_blocks(const void *args)
{
    const small *s = args;
    const int64_t n = s->n, ld = s->ld_from;
    const float *a = s->a;
    const int upper = s->flag;
    float *inverses = s->out;
    for (int64_t first = 0; first < n; first += P, inverses += P * P) {
        const int64_t size = n - first < P ? n - first : P;
        const float *block = a + first * ld + first;
        memset(inverses, 0, sizeof *inverses * P * P);
        for (int64_t c = 0; c < size; c++)
            for (int64_t i = c; i < size; i++) { /* column c of a lower inverse */
                double sum = i == c;
                for (int64_t k = c; k < i; k++)
                    sum -= (double)block[upper ? k * ld + i : i * ld + k] *
                           (double)inverses[upper ? c * P + k : k * P + c];
                inverses[upper ? c * P + i : i * P + c] = (float)(sum / (double)block[i * ld + i]);
            }
    }
    return 0;
}

int emulated_invert_blocks(int64_t n, const float *a, int64_t ld, int upper, float *inverses,
                           void *stream)
{
    const small s = {.n = n, .a = a, .ld_from = ld, .flag = upper, .out = inverses};
    (void)stream;
    return gpu_emulated_queue(run_invert_blocks, &s, sizeof s);
}
