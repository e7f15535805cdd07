/* bench_stream.c - how fast this machine reads memory and multiplies: the roofs that the other
   benches compare with. Markdown, or one JSON object a line.
   usage: bench_stream [--gb N] [--passes N] [--json]     (default 2 GB, 4 passes) */
#include <stdlib.h>
#include <string.h>

#include "measure.h"

typedef struct {
    double gb;
    int passes;
    bool json;
} options;

static bool parse(int argc, char **argv, options *o)
{
    *o = (options){.gb = 2, .passes = 4};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            o->json = true;
        else if (strcmp(argv[i], "--gb") == 0 && i + 1 < argc)
            o->gb = atof(argv[++i]);
        else if (strcmp(argv[i], "--passes") == 0 && i + 1 < argc)
            o->passes = atoi(argv[++i]);
        else
            return false;
    }
    return o->gb >= 0.01 && o->gb <= 1024 && o->passes >= 1 && o->passes <= 1000;
}

static void report_reading(lu_pool *pool, const bm_memory *memory, const options *o)
{
    const int threads = lu_pool_size(pool);
    for (const bm_reader *r = bm_readers(); r->name; r++) {
        const bm_rate rate = bm_read_rate(pool, memory, r, o->passes);
        if (o->json)
            printf("{\"bench\":\"stream\",\"threads\":%d,\"reader\":\"%s\",\"best_gb_s\":%.3f,"
                   "\"median_gb_s\":%.3f}\n",
                   threads, r->name, rate.best / 1e9, rate.median / 1e9);
        else
            printf("| %d | %s: %s | %.2f | %.2f |\n", threads, r->name, r->help, rate.best / 1e9,
                   rate.median / 1e9);
        fflush(stdout);
    }
}

static void report_rates(lu_pool *pool, const options *o)
{
    const double gflop = bm_fma_roof(pool) / 1e9, empty = bm_empty_loop(pool) * 1e6;
    const int threads = lu_pool_size(pool);
    if (o->json)
        printf("{\"bench\":\"fma\",\"threads\":%d,\"gflop_s\":%.1f}\n"
               "{\"bench\":\"empty_loop\",\"threads\":%d,\"us\":%.3f}\n",
               threads, gflop, threads, empty);
    else
        printf("| %d | %.1f | %.2f |\n", threads, gflop, empty);
}

static int fail(const char *text)
{
    fprintf(stderr, "error: %s\n", text);
    return 1;
}

int main(int argc, char **argv)
{
    options o;
    if (!parse(argc, argv, &o)) {
        fprintf(stderr, "usage: bench_stream [--gb N] [--passes N] [--json]\n");
        return 2;
    }
    lutra_err err;
    bm_memory memory;
    lu_pool *pools[2];
    if (lu_pool_open(1, &pools[0], &err) || lu_pool_open(lu_cpu_count(), &pools[1], &err))
        return fail(err.msg);
    if (!bm_memory_open(&memory, (size_t)(o.gb * 1e9) / 4096 * 4096))
        return fail("no memory for the buffer");
    bm_print_machine(stdout, o.json);
    if (!o.json)
        printf("| threads | reading %.1f GB | best window, GB/s | median window, GB/s |\n"
               "|---|---|---|---|\n",
               o.gb);
    for (int i = 0; i < 2; i++)
        report_reading(pools[i], &memory, &o);
    if (!o.json)
        printf("\n| threads | float32 multiply-add, GFLOP/s | empty loop on the threads, us |\n"
               "|---|---|---|\n");
    for (int i = 0; i < 2; i++)
        report_rates(pools[i], &o);
    bm_memory_close(&memory);
    lu_pool_close(pools[0]);
    lu_pool_close(pools[1]);
    return 0;
}
