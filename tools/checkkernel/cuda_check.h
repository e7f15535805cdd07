/* cuda_check.h - checks of the GPU operations (kern/cuda/cuda_ops.h): operands on the device
   between guards, inputs, comparison with float64, planted faults. One child process per operation,
   so that a trap is one failed line. Needs cudart and plain C parts of the library only. */
#ifndef CUDA_CHECK_H
#define CUDA_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/random.h"

typedef struct cc_buffer {
    uint8_t *map; /* device: guard, data, guard */
    void *data;   /* device, 256-byte aligned plus `skew` */
    size_t bytes;
    void *copy; /* host: what an input must still hold; NULL for an output */
} cc_buffer;

enum { CC_MOST_BUFFERS = 24 };

typedef struct cc {
    lu_random random;
    cc_buffer buffers[CC_MOST_BUFFERS];
    int n_buffers, n_cases, n_failed, n_planted, n_missed;
    double worst;  /* largest relative error, ||out - ref|| / ||ref|| */
    char at[200];  /* the case being checked */
    bool planting; /* a wrong argument was given: a difference is what is wanted */
    bool differed;
} cc;

/* Names the case; forgets the buffers of the one before. */
void cc_case(cc *t, const char *fmt, ...);
/* Prints the first few failures of an operation. */
void cc_fail(cc *t, const char *fmt, ...);
/* Ends the case: the device's errors, guards, and inputs unchanged. */
void cc_end(cc *t);
/* Status of a lu_cuda_ call. */
void cc_status(cc *t, int status);

double cc_uniform(cc *t, double lo, double hi);
int64_t cc_pick(cc *t, int64_t lo, int64_t hi); /* inclusive */

/* Device copies; NULL for NULL. cc_fresh: contents that the operation may change. cc_output: filled
   with NaN bits. */
const void *cc_input(cc *t, const void *host, size_t bytes);
void *cc_fresh(cc *t, const void *host, size_t bytes);
void *cc_output(cc *t, size_t bytes);
void cc_fetch(cc *t, const void *device, void *host, size_t bytes);

void *cc_host(size_t bytes); /* zeros, never NULL */

/* Random values near N(0, sigma), rounded to act; and their value. */
uint16_t *cc_random_act(cc *t, int64_t n, double sigma, int bf16);
float *cc_random_float(cc *t, int64_t n, double lo, double hi);
float cc_act_value(uint16_t v, int bf16);
uint16_t cc_to_act(float v, int bf16);

/* out against ref: as a whole ||out - ref|| <= whole * ||ref||, each |out - ref| <= each * (|ref| +
   rms of ref). Then one element is changed by more than that and must be noticed. */
void cc_compare(cc *t, const char *what, const float *out, const double *ref, int64_t n,
                double whole, double each);
/* As above for act outputs on the device. */
void cc_compare_act(cc *t, const char *what, const void *device, const double *ref, int64_t n,
                    int bf16);
void cc_same_bits(cc *t, const char *what, const void *a, const void *b, size_t bytes);

/* Between these a wrong argument is tried: some comparison must fail. */
void cc_plant(cc *t);
void cc_planted(cc *t, const char *fault);

typedef struct cc_op {
    const char *name;
    void (*check)(cc *t);
} cc_op;
extern const cc_op cc_lut_ops[], cc_row_ops[], cc_attend_ops[], cc_sample_ops[],
    cc_chain_ops[], cc_encode_ops[], cc_int8_ops[]; /* end with a NULL name */

/* Times every operation and prints a table of figures. */
int cc_time_ops(const char *only);

#endif
