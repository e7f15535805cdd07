/* act_range.h - the fixed scale of a linear's input from samples of it (static activations).

   An observer sees samples, say one window of text each, and then gives one scale and zero point
   for all. The rules, for a tensor as a whole:

     minmax      the mean over samples of each sample's smallest and of its largest value
     moving      the same, a running mean: m += 0.01 (sample - m), begun by the first sample
     mse         of the ranges p * [lo, hi], p = 1, 0.99 ... 0.2, the one with the smallest expected
                 squared error, rounding and clipping together, over a histogram of all values
     percentile  the range that leaves (100 - percentile) % of all values outside: of magnitudes
                 where symmetric, half at each end where not

   The histogram has between 2048 and 4096 bins over the span of the values seen; where a value
   falls outside, neighbouring bins are merged, so nothing is resampled and the order of samples
   does not matter. Values within a bin count as its centre. */
#ifndef LU_ALGO_ACT_RANGE_H
#define LU_ALGO_ACT_RANGE_H

#include "fmt/act_format.h"

#define LU_ACT_BINS 4096

typedef enum lu_act_rule {
    LU_ACT_MINMAX,
    LU_ACT_MOVING,
    LU_ACT_MSE,
    LU_ACT_PERCENTILE,
    LU_N_ACT_RULES
} lu_act_rule;

/* E_ARG naming the known rules. */
lutra_status lu_act_rule_parse(const char *name, lu_act_rule *out, lutra_err *err);

/* 32 KiB and a little. */
typedef struct lu_act_observer {
    lu_act_rule rule;
    int64_t n_samples, n_values;
    double lo, hi;              /* mean or running mean of the samples' ends */
    float lowest, highest;      /* of all values */
    float sample_lo, sample_hi; /* of the sample that is being seen */
    int64_t sample_values;
    double edge; /* the histogram spans [-edge, edge); 0 while empty */
    int64_t bins[LU_ACT_BINS];
} lu_act_observer;

void lu_act_observer_init(lu_act_observer *o, lu_act_rule rule);

/* Some more values of the present sample; false at a NaN or infinity, *o then unchanged. */
bool lu_act_observe(lu_act_observer *o, const float *x, int64_t n);
/* Ends the sample; an empty one is none. */
void lu_act_observe_end(lu_act_observer *o);

/* The range that the rule takes, lo <= 0 <= hi; both 0 if nothing was seen. percentile: 50 < p <=
   100, for that rule only. */
void lu_act_observed_range(const lu_act_observer *o, const lu_act_format *f, double percentile,
                           float *lo, float *hi);

#endif
