/* measure.h - what the benches share: roofs of this machine (read bandwidth, FMA rate) and the way
   times are taken.

   A machine that is not quiet only ever makes a piece of work slower, so a figure here is the
   minimum over repeats of a short piece (milliseconds, shorter than a scheduler's slice), and
   longer work is the sum of its pieces' minima. Ratios come from one run, roofs included. */
#ifndef BENCH_MEASURE_H
#define BENCH_MEASURE_H

#include <stdio.h>

#include "base/pool.h"

enum { BM_MAX_THREADS = 256 };

/* A way to read memory. Parts of a thread are read front to back. */
typedef struct bm_reader {
    const char *name, *help;
    uint64_t (*read)(const void *p, size_t bytes); /* multiples of 4096 */
} bm_reader;

/* Those that this machine can run; ends with name NULL. */
const bm_reader *bm_readers(void);

/* A buffer far larger than the last cache, touched by the threads that read it. NULL: no memory. */
enum { BM_WINDOWS = 128 };
typedef struct bm_memory {
    uint8_t *data;
    size_t bytes;
} bm_memory;
bool bm_memory_open(bm_memory *m, size_t bytes);
void bm_memory_close(bm_memory *m);

/* Bytes per second of the pool's threads: passes over m in BM_WINDOWS windows; the best window and
   the median one. */
typedef struct bm_rate {
    double best, median;
} bm_rate;
bm_rate bm_read_rate(lu_pool *pool, const bm_memory *m, const bm_reader *reader, int passes);

/* The best of all readers. */
double bm_read_roof(lu_pool *pool, const bm_memory *m, int passes);

/* Float32 multiply-adds (2 flops each) that the pool's threads do from registers, flop/s. */
double bm_fma_roof(lu_pool *pool);

/* Seconds of a loop on the pool that does nothing: the price of a parallel region. */
double bm_empty_loop(lu_pool *pool);

/* Seconds to take differences of. One thread: its CPU time, which leaves out the time that other
   programs had the CPU; more threads: the clock on the wall. */
double bm_now(int threads);

/* Adds a time to the minimum and to the count. Start with {0}. */
typedef struct bm_least {
    double seconds;
    int n;
} bm_least;
void bm_take(bm_least *least, double seconds);

/* "2 CPUs, Intel(R) Xeon(R) ..., level avx512" on one line, for the head of a report. */
void bm_print_machine(FILE *out, bool json);

#endif
