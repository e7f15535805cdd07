/* timing.h - timing of one kernel call, see timing.c. */
#ifndef CHECKKERNEL_TIMING_H
#define CHECKKERNEL_TIMING_H

#include <stdbool.h>
#include <stddef.h>

#include "kern/table.h"

#define CK_MAX_TIMED_OPERANDS 4

typedef struct ck_timed {
    const char *op;
    char shape[64];
    void (*run)(void *arg);
    void *arg;
    double bytes, flops; /* least traffic and the arithmetic of one run */
    struct {
        const void *data;
        size_t bytes;
    } operands[CK_MAX_TIMED_OPERANDS]; /* flushed before a cold run */
    int n_operands;
} ck_timed;

/* What all results of one run of the tool share. */
typedef struct ck_roof {
    lu_level level;
    double gb_s;
    bool json;
} ck_roof;

double ck_read_bandwidth(void); /* bytes per second */
void ck_time(const ck_timed *t, const ck_roof *roof);

int ck_bench_linear(const ck_roof *roof); /* bench_linear.c; returns how many it timed */

#endif
