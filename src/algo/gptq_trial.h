/* gptq_trial.h - what GPTQ would make of weights that are still being prepared for it: scaled by a
   candidate, or with ranges that may or may not stay. Rounding to nearest, by which such choices
   are judged otherwise, says little about them: GPTQ makes up for most of what it loses. */
#ifndef LU_ALGO_GPTQ_TRIAL_H
#define LU_ALGO_GPTQ_TRIAL_H

#include "algo/pass.h"

/* What a change must leave of the loss at most to be worth making: of many candidates the best
   gains some by chance, as the loss is that of the rows GPTQ fits. Measured on llama-30m, int2: 27
   scales of 28 gained less than this, all together they raised perplexity from 25.60 to 26.16. */
#define LU_GPTQ_TRIAL_GAIN 0.95

typedef struct lu_gptq_trial {
    float *u;       /* [k][k] the site's factor (algo/gptq.h); NULL: GPTQ would round to nearest */
    float *scaled;  /* [k][k] that of the scaled inputs */
    int32_t *order; /* [k] */
} lu_gptq_trial;

/* set: of the GPTQ pass to come. The statistic HESSIAN of the site is needed and stays as it is.
   Close also after a failure. */
lutra_status lu_gptq_trial_open(lu_block *b, const lu_site *site, const lu_gptq_settings *set,
                                lu_gptq_trial *t, lutra_err *err);
void lu_gptq_trial_close(lu_gptq_trial *t);

/* Replaces l->w, which is the weights times s[k] by columns, by what would be decoded of it when
   rounded for the inputs x / s; s NULL: 1. The columns are rounded in the order of the unscaled
   inputs. l is a copy: its codes, signal and noise are not what they were. */
lutra_status lu_gptq_trial_round(lu_block *b, lu_gptq_trial *t, const lu_gptq_settings *set,
                                 const float *s, lu_site_linear *l, lutra_err *err);

#endif
