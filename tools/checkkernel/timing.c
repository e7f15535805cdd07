/* timing.c - how long a kernel takes: warm-up, then N_RUNS timed runs of which the median and
   quartiles are reported; hot (operands left in the caches by the run before) and cold (operands
   flushed). Bytes are what the kernel must read and write at least once; the roof is the read
   bandwidth of one thread, measured over a buffer larger than the caches. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/context.h"
#include "base/mem.h"
#include "timing.h"

#define N_RUNS 41
#define N_RUNS_SLOW 5
#define MIN_RUN_SECONDS 20e-6 /* a hot sample repeats the kernel at least this long */
#define SLOW_SECONDS 2e-3
#define ROOF_BYTES ((size_t)512 << 20)

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
double ck_read_bandwidth(void)
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

static void flush_operands(const ck_timed *t)
{
#if defined(__x86_64__)
    for (int o = 0; o < t->n_operands; o++)
        for (size_t i = 0; i < t->operands[o].bytes; i += 64)
            __builtin_ia32_clflush((const char *)t->operands[o].data + i);
    __builtin_ia32_mfence();
#else
    (void)t;
#endif
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef struct {
    double q1, median, q3; /* seconds */
} quartiles;

static quartiles measure(const ck_timed *t, bool cold)
{
    double took[N_RUNS], once = 0;
    for (int warm = 0; warm < 3; warm++) {
        const double start = lu_seconds();
        t->run(t->arg);
        once = lu_seconds() - start;
    }
    const int n = once > SLOW_SECONDS ? N_RUNS_SLOW : N_RUNS;
    const int repeat =
        cold || once > MIN_RUN_SECONDS ? 1 : (int)(MIN_RUN_SECONDS / (once + 1e-8)) + 1;
    for (int i = 0; i < n; i++) {
        if (cold)
            flush_operands(t);
        const double start = lu_seconds();
        for (int r = 0; r < repeat; r++)
            t->run(t->arg);
        took[i] = (lu_seconds() - start) / repeat;
    }
    qsort(took, (size_t)n, sizeof *took, by_value);
    return (quartiles){took[n / 4], took[n / 2], took[n * 3 / 4]};
}

void ck_time(const ck_timed *t, const ck_roof *roof)
{
    for (int cold = 0; cold < 2; cold++) {
        const quartiles q = measure(t, cold);
        const double rate = t->bytes / q.median / 1e9, share = rate / roof->gb_s;
        const double gflop = t->flops / q.median / 1e9;
        const char *level = lu_level_name(roof->level), *caches = cold ? "cold" : "hot";
        if (roof->json)
            printf("{\"op\":\"%s\",\"level\":\"%s\",\"shape\":\"%s\",\"caches\":\"%s\","
                   "\"median_ns\":%.0f,\"q1_ns\":%.0f,\"q3_ns\":%.0f,\"gb_s\":%.3f,"
                   "\"roof_share\":%.3f,\"gflop_s\":%.3f}\n",
                   t->op, level, t->shape, caches, q.median * 1e9, q.q1 * 1e9, q.q3 * 1e9, rate,
                   share, gflop);
        else
            printf("%-6s %-12s %-32s %-4s %10.2f us [%.2f %.2f] %7.2f GB/s %4.0f %% of roof "
                   "%8.2f GFLOP/s\n",
                   level, t->op, t->shape, caches, q.median * 1e6, q.q1 * 1e6, q.q3 * 1e6, rate,
                   100 * share, gflop);
        fflush(stdout);
    }
}
