/* cuda_time_ops.c - times the GPU operations as a decoder step runs them: many launches in one
   graph over operands that rotate (cold in the L2 cache where a model's would be), median of
   replays. Bytes are the fewest the operation must move; the roof is a kernel that only reads. */
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_check.h"
#include "kern/cuda/cuda_ops.h"

enum { REPLAYS = 9, MOST_SETS = 64 };

typedef struct {
    cudaStream_t stream;
    double roof; /* bytes per second */
    int failed;
    const char *only;
} bench;

static void *device(bench *b, size_t bytes, int random)
{
    void *p = NULL;
    if (cudaMalloc(&p, bytes) != cudaSuccess) {
        b->failed = 1;
        return NULL;
    }
    cudaMemset(p, 0, bytes);
    if (random) { /* act values in (-2, 2), whatever the type */
        const size_t n = bytes / 2, block = n < 1 << 20 ? n : 1 << 20;
        uint16_t *host = cc_host(block * 2);
        lu_random r;
        lu_random_seed(&r, 11);
        for (size_t i = 0; i < block; i++) {
            const uint64_t v = lu_random_next(&r);
            host[i] =
                random == 1 ? (uint16_t)((v & 0x83ff) | 0x3800) : (uint16_t)((v & 0x80ff) | 0x3f00);
        }
        for (size_t at = 0; at < n; at += block)
            cudaMemcpy((uint16_t *)p + at, host, (n - at < block ? n - at : block) * 2,
                       cudaMemcpyHostToDevice);
        free(host);
    }
    return p;
}

static int by_size(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

/* Microseconds per call of launch(arg, i), i in [0, calls). */
static double time_calls(bench *b, int (*launch)(void *arg, int i, cudaStream_t stream), void *arg,
                         int calls)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    cudaEvent_t start, stop;
    float ms[REPLAYS];
    int status = launch(arg, 0, b->stream); /* loads the kernel */
    cudaStreamBeginCapture(b->stream, cudaStreamCaptureModeThreadLocal);
    for (int i = 0; i < calls && !status; i++)
        status = launch(arg, i, b->stream);
    cudaError_t e = cudaStreamEndCapture(b->stream, &graph);
    if (!status && e == cudaSuccess)
        e = cudaGraphInstantiate(&exec, graph, 0);
    if (status || e != cudaSuccess) {
        printf("  status %d, %s\n", status, cudaGetErrorString(e));
        b->failed++;
        return NAN;
    }
    cudaEventCreate(&start);
    cudaEventCreate(&stop);
    cudaGraphLaunch(exec, b->stream);
    for (int i = 0; i < REPLAYS; i++) {
        cudaEventRecord(start, b->stream);
        cudaGraphLaunch(exec, b->stream);
        cudaEventRecord(stop, b->stream);
        e = cudaEventSynchronize(stop);
        cudaEventElapsedTime(&ms[i], start, stop);
    }
    if (e != cudaSuccess) {
        printf("  %s\n", cudaGetErrorString(e));
        b->failed++;
    }
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaEventDestroy(start);
    cudaEventDestroy(stop);
    qsort(ms, REPLAYS, sizeof *ms, by_size);
    return 1e3 * (double)ms[REPLAYS / 2] / calls;
}

static bool wanted(const bench *b, const char *group) { return !b->only || strstr(group, b->only); }

static void row(const bench *b, const char *what, double us, double bytes)
{
    printf("%-58s %9.2f us %8.0f GB/s  %5.1f %% of roof\n", what, us, bytes / us * 1e-3,
           100 * bytes / (us * 1e-6) / b->roof);
}

static void row_flops(const char *what, double us, double flops)
{
    printf("%-58s %9.1f us %8.1f TFLOP/s\n", what, us, flops / us * 1e-6);
}

/* --- what is timed ---------------------------------------------------------------------------- */

int cc_read(const void *from, size_t bytes, void *sink, cudaStream_t stream); /* cuda_roof.cu */

typedef struct {
    void *from, *sink;
    size_t bytes;
} read_job;

static int read_call(void *arg, int i, cudaStream_t stream)
{
    const read_job *j = arg;
    (void)i;
    return cc_read(j->from, j->bytes, j->sink, stream);
}

static int seam_call(void *arg, int i, cudaStream_t stream)
{
    lu_cuda_seam_args a = *(lu_cuda_seam_args *)arg;
    a.in_norm += (i % MOST_SETS) * a.cols; /* a layer's own norms */
    a.stream = stream;
    return lu_cuda_seam(&a);
}

typedef struct {
    int64_t n, cols;
    const uint16_t *in;
    uint16_t *out;
} act_job;

static int act_call(void *arg, int i, cudaStream_t stream)
{
    const act_job *j = arg;
    (void)i;
    return lu_cuda_act_mul(j->n, j->cols, j->in, 0, 0, j->out, stream);
}

typedef struct {
    lu_cuda_attend_args a;
    const float *cosines, *sines;
    int64_t layers;
    const int32_t *starts;
    int64_t n_runs;
    int fused;
} attend_job;

static int decode_call(void *arg, int i, cudaStream_t stream)
{
    const attend_job *j = arg;
    lu_cuda_attend_args a = j->a;
    a.layer = i % j->layers;
    a.stream = stream;
    if (j->fused == 1)
        return lu_cuda_rope_attend_decode(&a, j->cosines, j->sines);
    if (j->fused == 2) {
        const lu_cuda_rope_args r = {.rows = a.rows,
                                     .qkv = (uint16_t *)a.q,
                                     .ld = a.ld,
                                     .n_heads = a.n_heads,
                                     .cosines = j->cosines,
                                     .sines = j->sines,
                                     .kv = a.kv,
                                     .layer = a.layer,
                                     .bf16 = a.bf16,
                                     .stream = stream};
        const int status = lu_cuda_rope_store(&r);
        if (status)
            return status;
    }
    return lu_cuda_attend_decode(&a);
}

static int prefill_call(void *arg, int i, cudaStream_t stream)
{
    const attend_job *j = arg;
    lu_cuda_attend_args a = j->a;
    a.layer = i % j->layers;
    a.stream = stream;
    return lu_cuda_attend_prefill(&a, j->starts, j->n_runs);
}

static int sample_call(void *arg, int i, cudaStream_t stream)
{
    lu_cuda_sample_args a = *(lu_cuda_sample_args *)arg;
    (void)i;
    a.stream = stream;
    return lu_cuda_sample(&a);
}

/* One sequence per row, `tokens` each; pages in order. */
static attend_job make_attend(bench *b, int64_t rows, int64_t sequences, int64_t tokens,
                              int64_t n_heads, int64_t kv_heads, int64_t hd, int64_t layers)
{
    attend_job j = {.layers = layers};
    const int64_t page = 64, max_pages = (tokens + page - 1) / page, pages = sequences * max_pages;
    const size_t cache = (size_t)(layers * 2 * pages * kv_heads * page * hd) * 2;
    int32_t *host = cc_host((size_t)(pages + 2 * rows) * 4);
    for (int64_t i = 0; i < pages; i++)
        host[i] = (int32_t)i;
    for (int64_t r = 0; r < rows; r++) {
        host[pages + r] = sequences == 1 ? 0 : (int32_t)r;
        host[pages + rows + r] = (int32_t)(sequences == 1 && rows > 1 ? r : tokens - 1);
    }
    int32_t *d = device(b, (size_t)(pages + 2 * rows) * 4, 0);
    cudaMemcpy(d, host, (size_t)(pages + 2 * rows) * 4, cudaMemcpyHostToDevice);
    free(host);
    j.cosines = device(b, (size_t)(tokens * hd) * 4, 0);
    j.sines = j.cosines;
    const int64_t ld = (n_heads + 2 * kv_heads) * hd;
    j.a =
        (lu_cuda_attend_args){.rows = {rows, d + pages, d + pages + rows},
                              .q = device(b, (size_t)(rows * ld) * 2, 1),
                              .ld = ld,
                              .n_heads = n_heads,
                              .kv = {device(b, cache, 1), pages, page, kv_heads, hd, d, max_pages},
                              .scale = (float)(1.0 / sqrt((double)hd)),
                              .out = device(b, (size_t)(rows * n_heads * hd) * 2, 0),
                              .max_position = tokens};
    if (rows == sequences)
        j.a.scratch = device(b, lu_cuda_attend_scratch(rows, n_heads, hd, tokens), 0);
    return j;
}

static void free_attend(attend_job *j)
{
    cudaFree((void *)j->a.rows.sequence == NULL ? NULL : (void *)j->a.kv.pages);
    cudaFree((void *)j->cosines);
    cudaFree((void *)j->a.q);
    cudaFree(j->a.kv.data);
    cudaFree(j->a.out);
    cudaFree(j->a.scratch);
}

static void time_decode(bench *b, int64_t rows, int64_t tokens, int64_t n_heads, int64_t kv_heads,
                        int64_t hd)
{
    char what[96];
    const double bytes = (double)(rows * tokens * kv_heads * hd) * 4;
    int64_t layers = (int64_t)(3e8 / bytes) + 1; /* several times the L2 cache */
    layers = layers > 64 ? 64 : layers;
    attend_job j = make_attend(b, rows, rows, tokens, n_heads, kv_heads, hd, layers);
    if (b->failed)
        return;
    static const char *const names[] = {"attend_decode", "rope_attend_decode",
                                        "rope_store, attend_decode"};
    for (j.fused = 0; j.fused < 3; j.fused++) {
        if (j.fused && rows != 1)
            continue;
        snprintf(what, sizeof what, "%s b %lld ctx %lld heads %lld/%lld x %lld", names[j.fused],
                 (long long)rows, (long long)tokens, (long long)n_heads, (long long)kv_heads,
                 (long long)hd);
        row(b, what, time_calls(b, decode_call, &j, (int)(layers < 16 ? 16 : layers)), bytes);
    }
    free_attend(&j);
}

static void time_prefill(bench *b, int64_t tokens, int64_t n_heads, int64_t kv_heads, int64_t hd,
                         int bf16)
{
    char what[96];
    attend_job j = make_attend(b, tokens, 1, tokens, n_heads, kv_heads, hd, 2);
    if (b->failed)
        return;
    const int32_t starts[2] = {0, (int32_t)tokens};
    j.starts = starts;
    j.n_runs = 1;
    j.a.bf16 = bf16;
    snprintf(what, sizeof what, "attend_prefill %lld heads %lld/%lld x %lld %s", (long long)tokens,
             (long long)n_heads, (long long)kv_heads, (long long)hd, bf16 ? "bf16" : "fp16");
    row_flops(what, time_calls(b, prefill_call, &j, 4),
              2.0 * (double)(tokens * (tokens + 1)) * (double)(n_heads * hd));
    free_attend(&j);
}

static void time_sample(bench *b, int64_t n, float temperature, float top_p, int32_t top_k,
                        const char *name)
{
    char what[96];
    const int64_t vocab = 128256;
    float *host = cc_host((size_t)(n * vocab) * 4);
    lu_random r;
    lu_random_seed(&r, 5);
    for (int64_t i = 0; i < n * vocab; i++)
        host[i] = (float)(4.0 * (lu_random_unit(&r) + lu_random_unit(&r) + lu_random_unit(&r) +
                                 lu_random_unit(&r)));
    for (int64_t i = 0; i < n; i++)
        for (int k = 0; k < 30; k++) /* a model is sure of a few */
            host[i * vocab + (int64_t)(lu_random_next(&r) % (uint64_t)vocab)] =
                (float)(18 + 6 * lu_random_unit(&r));
    float *logits = device(b, (size_t)(n * vocab) * 4, 0);
    cudaMemcpy(logits, host, (size_t)(n * vocab) * 4, cudaMemcpyHostToDevice);
    free(host);
    lu_cuda_sample_args a = {.n = n,
                             .vocab = vocab,
                             .logits = logits,
                             .temperature = temperature,
                             .top_p = top_p,
                             .top_k = top_k,
                             .repetition_penalty = 1.0f,
                             .uniform = device(b, (size_t)n * 8, 0),
                             .ids = device(b, (size_t)n * 4, 0),
                             .scratch = device(b, lu_cuda_sample_scratch(n, vocab), 0)};
    snprintf(what, sizeof what, "sample %s n %lld vocab %lld", name, (long long)n,
             (long long)vocab);
    row(b, what, time_calls(b, sample_call, &a, 20), (double)(n * vocab) * 4);
    cudaFree(logits), cudaFree((void *)a.uniform), cudaFree(a.ids), cudaFree(a.scratch);
}

static void time_rows(bench *b)
{
    char what[96];
    for (int64_t n = 1; n <= 2048; n = n == 1 ? 64 : n * 32) {
        const int64_t cols = 4096, mid = 14336;
        lu_cuda_seam_args s = {.n = n,
                               .cols = cols,
                               .x = device(b, (size_t)(n * cols) * 4, 0),
                               .branch = device(b, (size_t)(n * cols) * 2, 1),
                               .in_norm = device(b, (size_t)(MOST_SETS * cols) * 4, 0),
                               .eps = 1e-5f,
                               .in = device(b, (size_t)(n * cols) * 2, 0)};
        snprintf(what, sizeof what, "seam n %lld cols %lld", (long long)n, (long long)cols);
        row(b, what, time_calls(b, seam_call, &s, 64), (double)(n * cols) * 12 + (double)cols * 4);
        act_job j = {n, mid, device(b, (size_t)(n * 2 * mid) * 2, 1),
                     device(b, (size_t)(n * mid) * 2, 0)};
        snprintf(what, sizeof what, "act_mul n %lld cols %lld", (long long)n, (long long)mid);
        row(b, what, time_calls(b, act_call, &j, 64), (double)(n * mid) * 6);
        cudaFree(s.x), cudaFree((void *)s.branch), cudaFree((void *)s.in_norm), cudaFree(s.in),
            cudaFree((void *)j.in), cudaFree(j.out);
    }
}

int cc_time_ops(const char *only)
{
    bench b = {.only = only};
    struct cudaDeviceProp prop;
    if (cudaGetDeviceProperties(&prop, 0) != cudaSuccess ||
        cudaStreamCreate(&b.stream) != cudaSuccess)
        return 1;
    read_job job = {device(&b, (size_t)1 << 31, 1), device(&b, 4, 0), (size_t)1 << 31};
    b.roof = 1e6 * (double)job.bytes / time_calls(&b, read_call, &job, 4);
    printf("%s, %d SMs, a kernel that only reads: %.0f GB/s\n", prop.name, prop.multiProcessorCount,
           b.roof * 1e-9);
    cudaFree(job.from), cudaFree(job.sink);
    act_job least = {1, 8, device(&b, 32, 1), device(&b, 16, 0)};
    row(&b, "act_mul n 1 cols 8: a launch", time_calls(&b, act_call, &least, 200), 48);
    if (wanted(&b, "rows"))
        time_rows(&b);
    static const int64_t decoding[][5] = {/* batch, context, heads, KV heads, head_dim */
                                          {1, 128, 32, 8, 128},   {1, 1024, 32, 8, 128},
                                          {1, 8192, 32, 8, 128},  {1, 32768, 32, 8, 128},
                                          {4, 1024, 32, 8, 128},  {16, 1024, 32, 8, 128},
                                          {64, 1024, 32, 8, 128}, {64, 4096, 32, 8, 128},
                                          {16, 2048, 8, 4, 256},  {16, 2048, 32, 32, 64}};
    for (size_t i = 0; wanted(&b, "decode") && i < sizeof decoding / sizeof *decoding; i++) {
        const int64_t *d = decoding[i];
        time_decode(&b, d[0], d[1], d[2], d[3], d[4]);
    }
    static const int64_t prefilling[][5] = {/* tokens, heads, KV heads, head_dim, bf16 */
                                            {512, 32, 8, 128, 0},  {2048, 32, 8, 128, 0},
                                            {8192, 32, 8, 128, 0}, {8192, 32, 8, 128, 1},
                                            {8192, 32, 8, 64, 0},  {4096, 8, 4, 256, 0}};
    for (size_t i = 0; wanted(&b, "prefill") && i < sizeof prefilling / sizeof *prefilling; i++) {
        const int64_t *d = prefilling[i];
        time_prefill(&b, d[0], d[1], d[2], d[3], (int)d[4]);
    }
    if (wanted(&b, "sample")) {
        time_sample(&b, 1, 0.0f, 1.0f, 0, "greedy");
        time_sample(&b, 1, 1.0f, 1.0f, 0, "plain");
        time_sample(&b, 1, 0.8f, 0.95f, 0, "top-p");
        time_sample(&b, 1, 0.8f, 0.95f, 40, "top-k, top-p");
        time_sample(&b, 1, 3.0f, 0.95f, 0, "top-p, flat");
        time_sample(&b, 64, 0.8f, 0.95f, 0, "top-p");
    }
    return b.failed;
}
