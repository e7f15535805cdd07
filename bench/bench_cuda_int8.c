/* bench_cuda_int8.c - products of 8-bit integers against 16-bit ones on a GPU: the four layers of
   an 8B block, as the engine calls them (kern/gpu.h): fp16 by cuBLASLt; integers with the rounding
   of their inputs ("w8a8"), without it ("product"), and by our own kernel alone ("rows").

   A figure is the time of a call in a CUDA graph of calls over rotated copies of the weights (300
   MB of them at least, so that they are cold in L2), the median of replays.

   usage: bench_cuda_int8 [--json FILE] [--rows N]... [--device N] */
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kern/gpu.h"

#define COLD_BYTES ((size_t)300 << 20)
#define LAYERS 4
#define SUM_BYTES ((size_t)32 << 20) /* as the engine */

enum { REPLAYS = 7, MOST_ROWS = 16, MOST_COPIES = 64 };

static const struct {
    const char *name;
    int64_t n, k;
} layers[LAYERS] = {
    {"qkv", 6144, 4096}, {"o", 4096, 4096}, {"gate_up", 28672, 4096}, {"down", 4096, 14336}};

enum { FP16, W8A8, PRODUCT, ROWS, N_WAYS };
static const char *const ways[N_WAYS] = {"fp16", "w8a8", "product", "rows"};

static void need(int error, const char *what)
{
    if (!error)
        return;
    fprintf(stderr, "bench_cuda_int8: %s: error %d, %s\n", what, error,
            cudaGetErrorString((cudaError_t)error));
    exit(1);
}

static void *device(lu_gpu *g, size_t bytes)
{
    void *p;
    need(g->api->take(g, bytes, &p), "memory");
    return p;
}

/* Random bytes; of 16-bit values the exponents stay moderate. */
static void *random_bytes(lu_gpu *g, size_t bytes, uint16_t mask, uint16_t bits)
{
    const size_t block = 1 << 20;
    static uint16_t host[1 << 19];
    uint8_t *p = device(g, bytes);
    uint64_t v = 88172645463325252u;
    for (size_t i = 0; i < block / 2; i++) {
        v ^= v << 13, v ^= v >> 7, v ^= v << 17;
        host[i] = (uint16_t)((v >> 16 & mask) | bits);
    }
    for (size_t at = 0; at < bytes; at += block)
        need(g->api->upload(g, p + at, host, bytes - at < block ? bytes - at : block), "upload");
    need(g->api->sync(g), "upload");
    return p;
}

/* One layer: weights in both forms, room for the most rows. */
typedef struct {
    lu_gpu *g;
    int64_t n, k;
    int copies[2]; /* of fp16, of int8 */
    uint8_t *weights[2];
    uint16_t *x, *y;
    int8_t *codes;
    float *x_scale, *w_scale;
    int32_t *zero, *sums, *w_sum;
    int64_t sum_rows;
} bench;

static size_t copy_bytes(const bench *b, int integers)
{
    return (size_t)(b->n * b->k) * (integers ? 1 : 2);
}

static void open_bench(bench *b, lu_gpu *g, int64_t n, int64_t k, int64_t rows)
{
    *b = (bench){.g = g, .n = n, .k = k};
    for (int i = 0; i < 2; i++) {
        const size_t copies = COLD_BYTES / copy_bytes(b, i) + 2;
        b->copies[i] = copies < MOST_COPIES ? (int)copies : MOST_COPIES;
        b->weights[i] = random_bytes(g, copy_bytes(b, i) * (size_t)b->copies[i],
                                     i ? 0xffff : 0x83ff, i ? 0 : 0x2400);
    }
    b->sum_rows = (int64_t)(SUM_BYTES / ((size_t)n * 4));
    b->x = random_bytes(g, (size_t)(rows * k) * 2, 0x83ff, 0x3800);
    b->y = device(g, (size_t)(rows * n) * 2);
    b->codes = device(g, (size_t)(rows * k));
    b->x_scale = device(g, (size_t)rows * 4);
    b->zero = device(g, (size_t)rows * 4);
    b->w_scale = device(g, (size_t)n * 4);
    b->w_sum = device(g, (size_t)n * 4);
    b->sums = device(g, (size_t)(b->sum_rows * n) * 4);
    need(g->api->zero(g, b->w_scale, (size_t)n * 4), "zero");
    need(g->api->zero(g, b->w_sum, (size_t)n * 4), "zero");
}

static void close_bench(bench *b)
{
    void *const all[] = {b->weights[0], b->weights[1], b->x,       b->y,     b->codes,
                         b->x_scale,    b->zero,       b->w_scale, b->w_sum, b->sums};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        b->g->api->give(b->g, all[i]);
}

static int call(const bench *b, int way, int64_t m, int i)
{
    lu_gpu *g = b->g;
    const int integers = way != FP16;
    uint8_t *w = b->weights[integers] + copy_bytes(b, integers) * (size_t)(i % b->copies[integers]);
    if (!integers)
        return g->api->dense(g, &(lu_gpu_dense){.m = m,
                                                .n = b->n,
                                                .k = b->k,
                                                .x = b->x,
                                                .ldx = b->k,
                                                .w = (const uint16_t *)(const void *)w,
                                                .y = b->y,
                                                .ldy = b->n});
    const lu_cuda_act_args rounding = {.n = m,
                                       .k = b->k,
                                       .x = b->x,
                                       .ldx = b->k,
                                       .rule = {.bits = 8, .group = b->k},
                                       .stream = g->stream};
    const lu_gpu_int8 a = {.m = m,
                           .n = b->n,
                           .k = b->k,
                           .x = b->codes,
                           .x_scale = b->x_scale,
                           .w = (const int8_t *)w,
                           .w_scale = b->w_scale,
                           .w_sum = b->w_sum,
                           .y = b->y,
                           .ldy = b->n,
                           .sums = b->sums,
                           .sum_rows = b->sum_rows};
    const int e = way == W8A8 ? g->api->act_codes(&rounding, b->codes, b->x_scale, b->zero) : 0;
    return e ? e : way == ROWS ? lu_cuda_int8_rows(&a, g->stream) : g->api->int8(g, &a);
}

static int by_size(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Median microseconds of a call. */
static double time_way(const bench *b, int way, int64_t m)
{
    lu_gpu *g = b->g;
    const int calls = b->copies[way != FP16];
    cudaStream_t stream = (cudaStream_t)g->stream;
    cudaEvent_t start, stop;
    void *graph;
    float ms[REPLAYS];
    need((int)cudaEventCreate(&start), "event");
    need((int)cudaEventCreate(&stop), "event");
    need(call(b, way, m, 0), ways[way]); /* loads libraries and kernels */
    need(g->api->sync(g), ways[way]);
    need(g->api->capture_begin(g), "recording");
    for (int i = 0; i < calls; i++)
        need(call(b, way, m, i), ways[way]);
    need(g->api->capture_end(g, &graph), "recording");
    for (int i = -1; i < REPLAYS; i++) { /* the first warms up */
        need((int)cudaEventRecord(start, stream), "event");
        need(g->api->launch(g, graph), "replay");
        need((int)cudaEventRecord(stop, stream), "event");
        need((int)cudaEventSynchronize(stop), ways[way]);
        if (i >= 0)
            need((int)cudaEventElapsedTime(&ms[i], start, stop), "event");
    }
    g->api->graph_close(g, graph);
    cudaEventDestroy(start);
    cudaEventDestroy(stop);
    qsort(ms, REPLAYS, sizeof *ms, by_size);
    return (double)ms[REPLAYS / 2] * 1e3 / calls;
}

static void print_table(const int64_t *m, int n, double us[][N_WAYS][LAYERS], const char *name)
{
    printf("%s: the four layers of an 8B block, microseconds\n\n", name);
    printf("| rows | fp16 | w8a8 | product | rows kernel | fp16 / w8a8 | product, TOP/s | qkv o "
           "gate_up down, "
           "w8a8 |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for (int i = 0; i < n; i++) {
        double sum[N_WAYS] = {0}, ops = 0;
        for (int l = 0; l < LAYERS; l++) {
            for (int w = 0; w < N_WAYS; w++)
                sum[w] += us[i][w][l];
            ops += 2.0 * (double)m[i] * (double)layers[l].n * (double)layers[l].k;
        }
        printf("| %lld | %.1f | %.1f | %.1f | %.1f | %.2f | %.0f | %.1f %.1f %.1f %.1f |\n",
               (long long)m[i], sum[FP16], sum[W8A8], sum[PRODUCT], sum[ROWS],
               sum[FP16] / sum[W8A8], ops / sum[PRODUCT] * 1e-6, us[i][W8A8][0], us[i][W8A8][1],
               us[i][W8A8][2], us[i][W8A8][3]);
    }
}

static int write_json(const char *path, const int64_t *m, int n, double us[][N_WAYS][LAYERS],
                      const char *name)
{
    FILE *f = fopen(path, "w");
    if (!f) {
        perror(path);
        return 1;
    }
    fprintf(f, "{\"device\": \"%s\", \"unit\": \"microseconds\", \"figures\": [", name);
    for (int i = 0; i < n; i++)
        for (int w = 0; w < N_WAYS; w++)
            for (int l = 0; l < LAYERS; l++)
                fprintf(
                    f, "%s\n  {\"rows\": %lld, \"way\": \"%s\", \"layer\": \"%s\", \"us\": %.3f}",
                    i || w || l ? "," : "", (long long)m[i], ways[w], layers[l].name, us[i][w][l]);
    fprintf(f, "\n]}\n");
    return fclose(f) != 0;
}

static int usage(void)
{
    fprintf(stderr, "usage: bench_cuda_int8 [--json FILE] [--rows N]... [--device N]\n");
    return 2;
}

int main(int argc, char **argv)
{
    static double us[MOST_ROWS][N_WAYS][LAYERS];
    static const int64_t all[] = {1, 4, 8, 16, 24, 32, 64, 128, 256, 512, 1024, 2048};
    int64_t m[MOST_ROWS], most = 0;
    int n = 0, ordinal = 0;
    const char *json = NULL;
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 == argc)
            return usage();
        if (strcmp(argv[i], "--json") == 0)
            json = argv[i + 1];
        else if (strcmp(argv[i], "--device") == 0)
            ordinal = (int)strtol(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--rows") == 0 && n < MOST_ROWS &&
                 strtoll(argv[i + 1], NULL, 10) > 0)
            m[n++] = strtoll(argv[i + 1], NULL, 10);
        else
            return usage();
    }
    const bool given = n > 0;
    for (size_t i = 0; !given && i < sizeof all / sizeof *all; i++)
        m[n++] = all[i];
    for (int i = 0; i < n; i++)
        most = m[i] > most ? m[i] : most;
    lutra_err err;
    lu_gpu *g;
    if (lu_gpu_open(NULL, ordinal, &g, &err) != LUTRA_OK) {
        fprintf(stderr, "bench_cuda_int8: %s\n", err.msg);
        return 77;
    }
    for (int l = 0; l < LAYERS; l++) {
        bench b;
        open_bench(&b, g, layers[l].n, layers[l].k, most);
        for (int i = 0; i < n; i++)
            for (int w = 0; w < N_WAYS; w++)
                us[i][w][l] = time_way(&b, w, m[i]);
        close_bench(&b);
    }
    print_table(m, n, us, g->info.name);
    const int failed = json ? write_json(json, m, n, us, g->info.name) : 0;
    lu_gpu_close(g);
    return failed;
}
