/* bench.c - times kernels on shapes of real models: warm-up, then N_RUNS timed runs of which the
   median and quartiles are reported; hot (operands left in the caches by the run before) and cold
   (operands flushed). Bytes are what the kernel must read and write at least once; the roof is the
   read bandwidth of this thread, measured at the start over a buffer larger than the caches. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/context.h"
#include "base/mem.h"
#include "checkkernel.h"

#define N_RUNS 41
#define MIN_RUN_SECONDS 20e-6 /* a hot sample repeats the kernel at least this long */
#define ROOF_BYTES ((size_t)512 << 20)

typedef struct bench {
    const lu_ops *ops;
    int64_t n; /* elements of a row op */
    lu_attend_args attend;
    float *a, *b, *c; /* operands of row ops */
    uint16_t *h;
    double bytes, flops;
} bench;

typedef void (*bench_run)(bench *b);

static void run_bf16_to_f32(bench *b) { b->ops->bf16_to_f32(b->a, b->h, b->n); }
static void run_f16_to_f32(bench *b) { b->ops->f16_to_f32(b->a, b->h, b->n); }
static void run_f32_to_bf16(bench *b) { b->ops->f32_to_bf16(b->h, b->a, b->n); }
static void run_f32_to_f16(bench *b) { b->ops->f32_to_f16(b->h, b->a, b->n); }
static void run_rmsnorm(bench *b) { b->ops->rmsnorm(b->a, b->b, b->c, b->n, 1e-5f, 0); }
static void run_rope(bench *b) { b->ops->rope(b->a, b->b, b->c, b->n / 128, 128); }
static void run_silu_mul(bench *b) { b->ops->silu_mul(b->a, b->b, b->c, b->n); }
static void run_gelu_mul(bench *b) { b->ops->gelu_mul(b->a, b->b, b->c, b->n); }
static void run_add(bench *b) { b->ops->add(b->a, b->b, b->n); }
static void run_axpy(bench *b) { b->ops->axpy(b->a, 0.5f, b->b, b->n); }
static void run_softcap(bench *b) { b->ops->softcap(b->a, 30, b->n); }
static void run_softmax(bench *b) { b->ops->softmax(b->a, b->n); }
static void run_logsumexp(bench *b) { b->a[0] = b->ops->logsumexp(b->b, b->n); }
static void run_argmax(bench *b) { b->a[0] = (float)b->ops->argmax(b->b, b->n); }
static void run_attend(bench *b) { b->ops->attend(&b->attend); }

typedef struct {
    const char *name;
    bench_run run;
    int bytes_per_element; /* read + written */
    int64_t n;
} row_bench;

static const row_bench ROWS[] = {
    {"bf16_to_f32", run_bf16_to_f32, 6, 16384},
    {"f16_to_f32", run_f16_to_f32, 6, 16384},
    {"f32_to_bf16", run_f32_to_bf16, 6, 16384},
    {"f32_to_f16", run_f32_to_f16, 6, 16384},
    {"rmsnorm", run_rmsnorm, 12, 4096},
    {"rope", run_rope, 8, 4096},
    {"silu_mul", run_silu_mul, 12, 14336},
    {"gelu_mul", run_gelu_mul, 12, 14336},
    {"add", run_add, 12, 4096},
    {"axpy", run_axpy, 12, 4096},
    {"softcap", run_softcap, 8, 131072},
    {"softmax", run_softmax, 8, 131072},
    {"logsumexp", run_logsumexp, 4, 131072},
    {"argmax", run_argmax, 4, 131072},
};

/* Llama-3-like attention: decode of one token with 4 query heads per KV head, prefill of 512. */
typedef struct {
    int64_t n_q, n_heads, pos, head_dim;
    int bf16;
} attend_shape;

static const attend_shape ATTENDS[] = {
    {1, 1, 4095, 64, 0}, {1, 4, 4095, 64, 0},   {1, 4, 4095, 128, 1},
    {512, 1, 0, 64, 0},  {512, 1, 7680, 64, 0}, {512, 1, 7680, 128, 1},
};

static void flush(const void *p, size_t bytes)
{
#if defined(__x86_64__)
    for (size_t i = 0; i < bytes; i += 64)
        __builtin_ia32_clflush((const char *)p + i);
    __builtin_ia32_mfence();
#else
    (void)p;
    (void)bytes;
#endif
}

static void flush_operands(const bench *b)
{
    if (b->n) {
        flush(b->a, (size_t)b->n * 4);
        flush(b->b, (size_t)b->n * 4);
        flush(b->c, (size_t)b->n * 4);
        flush(b->h, (size_t)b->n * 2);
        return;
    }
    const lu_attend_args *a = &b->attend;
    const size_t kv = (size_t)((a->pos + a->n_q) * a->head_dim) * (a->kv_bf16 ? 2 : 4);
    flush(a->k, kv);
    flush(a->v, kv);
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef struct {
    double q1, median, q3; /* seconds */
} timing;

static timing measure(bench *b, bench_run run, bool cold, int n_runs)
{
    double t[N_RUNS];
    int repeat = 1;
    for (int warm = 0; warm < 3; warm++) {
        const double start = lu_seconds();
        run(b);
        const double took = lu_seconds() - start;
        repeat = cold || took > MIN_RUN_SECONDS ? 1 : (int)(MIN_RUN_SECONDS / (took + 1e-8)) + 1;
    }
    for (int i = 0; i < n_runs; i++) {
        if (cold)
            flush_operands(b);
        const double start = lu_seconds();
        for (int r = 0; r < repeat; r++)
            run(b);
        t[i] = (lu_seconds() - start) / repeat;
    }
    qsort(t, (size_t)n_runs, sizeof *t, by_value);
    return (timing){t[n_runs / 4], t[n_runs / 2], t[n_runs * 3 / 4]};
}

static uint64_t sum_words(const uint64_t *x, size_t n)
{
    uint64_t s[16] = {0};
    for (size_t i = 0; i < n; i += 16)
        for (int j = 0; j < 16; j++)
            s[j] += x[i + j];
    uint64_t sum = 0;
    for (int j = 0; j < 16; j++)
        sum += s[j];
    return sum;
}

/* The best of ten passes: a roof is what can be reached, not what a busy machine gives. */
static double read_bandwidth(void)
{
    uint64_t *x = lu_alloc_aligned(ROOF_BYTES);
    double best = 0;
    if (!x)
        return NAN;
    memset(x, 0, ROOF_BYTES);
    for (int i = 0; i < 10; i++) {
        const double start = lu_seconds();
        const uint64_t sum = sum_words(x, ROOF_BYTES / sizeof *x);
        const double took = lu_seconds() - start + (double)sum; /* sum is 0; it must be computed */
        best = fmax(best, (double)ROOF_BYTES / took);
    }
    lu_free_aligned(x);
    return best;
}

static void report(const char *op, const char *shape, lu_level level, const bench *b, timing t,
                   bool cold, double roof, bool json)
{
    const double rate = b->bytes / t.median;
    if (json)
        printf(
            "{\"op\":\"%s\",\"level\":\"%s\",\"shape\":\"%s\",\"caches\":\"%s\",\"median_ns\":%.0f,"
            "\"q1_ns\":%.0f,\"q3_ns\":%.0f,\"gb_s\":%.3f,\"roof_gb_s\":%.3f,\"gflop_s\":%.3f}\n",
            op, lu_level_name(level), shape, cold ? "cold" : "hot", t.median * 1e9, t.q1 * 1e9,
            t.q3 * 1e9, rate / 1e9, roof / 1e9, b->flops / t.median / 1e9);
    else
        printf("%-6s %-12s %-28s %-4s %10.2f us [%.2f %.2f] %7.2f GB/s %4.0f %% of roof %8.2f "
               "GFLOP/s\n",
               lu_level_name(level), op, shape, cold ? "cold" : "hot", t.median * 1e6, t.q1 * 1e6,
               t.q3 * 1e6, rate / 1e9, 100 * rate / roof, b->flops / t.median / 1e9);
    fflush(stdout);
}

static void fill(float *x, int64_t n)
{
    ck t = {.rng = 5};
    for (int64_t i = 0; i < n; i++)
        x[i] = ck_gauss(&t);
}

static void fill_kv(const lu_ops *ops, void *kv, int64_t n, int bf16)
{
    ck t = {.rng = 6};
    for (int64_t i = 0; i < n; i++) {
        const float x = ck_gauss(&t);
        if (bf16)
            ops->f32_to_bf16((uint16_t *)kv + i, &x, 1);
        else
            ((float *)kv)[i] = x;
    }
}

static bool bench_row(const lu_ops *ops, lu_level level, const row_bench *r, double roof, bool json)
{
    const size_t n = (size_t)r->n;
    bench b = {.ops = ops, .n = r->n, .bytes = (double)(r->n * r->bytes_per_element)};
    char shape[40];
    snprintf(shape, sizeof shape, "n=%lld", (long long)r->n);
    b.a = lu_alloc_aligned(n * 4);
    b.b = lu_alloc_aligned(n * 4);
    b.c = lu_alloc_aligned(n * 4);
    b.h = lu_alloc_aligned(n * 2);
    const bool ok = b.a && b.b && b.c && b.h;
    if (ok) {
        fill(b.a, r->n);
        fill(b.b, r->n);
        fill(b.c, r->n);
        memset(b.h, 0x3c, n * 2);
        for (int cold = 0; cold < 2; cold++)
            report(r->name, shape, level, &b, measure(&b, r->run, cold, N_RUNS), cold, roof, json);
    }
    lu_free_aligned(b.a);
    lu_free_aligned(b.b);
    lu_free_aligned(b.c);
    lu_free_aligned(b.h);
    return ok;
}

static bool bench_attend(const lu_ops *ops, lu_level level, const attend_shape *s, double roof,
                         bool json)
{
    const int64_t row = s->n_heads * s->head_dim, n_kv = s->pos + s->n_q, n = n_kv * s->head_dim;
    const size_t kv = (size_t)n * (s->bf16 ? 2 : 4), q = (size_t)(s->n_q * row) * 4;
    float *query = lu_alloc_aligned(q), *out = lu_alloc_aligned(q);
    void *k = lu_alloc_aligned(kv), *v = lu_alloc_aligned(kv);
    float *scratch = lu_alloc_aligned(lu_attend_scratch(n_kv, s->head_dim) * sizeof *scratch);
    const bool ok = query && out && k && v && scratch;
    if (ok) {
        fill(query, s->n_q * row);
        fill_kv(ops, k, n, s->bf16);
        fill_kv(ops, v, n, s->bf16);
        bench b = {.ops = ops, .bytes = 2.0 * (double)kv + 2.0 * (double)q};
        for (int64_t i = 0; i < s->n_q; i++)
            b.flops += 4.0 * (double)(s->head_dim * s->n_heads * (s->pos + i + 1));
        b.attend = (lu_attend_args){.q = query,
                                    .q_stride = row,
                                    .q_head_stride = s->head_dim,
                                    .n_q = s->n_q,
                                    .n_heads = s->n_heads,
                                    .pos = s->pos,
                                    .k = k,
                                    .v = v,
                                    .kv_bf16 = s->bf16,
                                    .head_dim = s->head_dim,
                                    .scale = 1 / sqrtf((float)s->head_dim),
                                    .out = out,
                                    .out_stride = row,
                                    .out_head_stride = s->head_dim,
                                    .scratch = scratch};
        char shape[64];
        snprintf(shape, sizeof shape, "q%lld h%lld kv%lld d%lld %s", (long long)s->n_q,
                 (long long)s->n_heads, (long long)n_kv, (long long)s->head_dim,
                 s->bf16 ? "bf16" : "f32");
        const int runs = s->n_q > 1 ? 5 : N_RUNS;
        for (int cold = 0; cold < (s->n_q > 1 ? 1 : 2); cold++)
            report("attend", shape, level, &b, measure(&b, run_attend, cold, runs), cold, roof,
                   json);
    }
    lu_free_aligned(query);
    lu_free_aligned(out);
    lu_free_aligned(k);
    lu_free_aligned(v);
    lu_free_aligned(scratch);
    return ok;
}

int ck_bench(const lu_ops *ops, lu_level level, const char *filter, bool json)
{
    const double roof = read_bandwidth();
    int n = 0;
    if (!json)
        printf("%-6s roof: %.2f GB/s read by one thread\n", lu_level_name(level), roof / 1e9);
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++)
        if (!filter || strstr(ROWS[i].name, filter))
            n += bench_row(ops, level, &ROWS[i], roof, json);
    for (size_t i = 0; i < sizeof ATTENDS / sizeof *ATTENDS; i++)
        if (!filter || strstr("attend", filter))
            n += bench_attend(ops, level, &ATTENDS[i], roof, json);
    return n;
}
