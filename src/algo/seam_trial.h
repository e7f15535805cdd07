/* seam_trial.h - what a per-channel scale does to the part of the block behind a seam, measured
   before it is applied: AWQ, SmoothQuant's and OS+'s searches all compare candidates with it.

   A candidate s replaces every weight W that is to be rounded among the seam's readers by
   rounded(W s) / s, and the rows x that enter the readers by rounded(x / s) s if activations are
   rounded too. The readers then see the inputs that they saw before, so that nothing upstream need
   change, and the part computes what it would compute with s moved through the seam. */
#ifndef LU_ALGO_SEAM_TRIAL_H
#define LU_ALGO_SEAM_TRIAL_H

#include "algo/gptq_trial.h"
#include "kern/act_quant.h"

/* Rows of a parameter table, and the value, for a settings type with act_bits, act_range (int) and
   act_symmetric. */
#define LU_ACT_TRIAL_PARAMS(type)                                                        \
    {"act_bits",                                                                         \
     LUTRA_PARAM_INT,                                                                    \
     offsetof(type, act_bits),                                                           \
     8,                                                                                  \
     0,                                                                                  \
     LU_ACT_MAX_BITS,                                                                    \
     NULL,                                                                               \
     "bits that the searches round inputs to; 0: inputs as they are"},                   \
        {"act_range",                                                                    \
         LUTRA_PARAM_CHOICE,                                                             \
         offsetof(type, act_range),                                                      \
         0,                                                                              \
         0,                                                                              \
         0,                                                                              \
         "token|tensor",                                                                 \
         "they round by the range of each row, or of the whole input"},                  \
    {                                                                                    \
        "act_symmetric", LUTRA_PARAM_BOOL, offsetof(type, act_symmetric), 1, 0, 1, NULL, \
            "they round without zero points"                                             \
    }
lu_act_format lu_act_trial_format(int64_t bits, int range, bool symmetric);

#define LU_LOSS_SAMPLES_PARAM(type)                                                      \
    {                                                                                    \
        "loss_samples", LUTRA_PARAM_INT, offsetof(type, loss_samples), 16, 0, 1e9, NULL, \
            "judge by so many of the first calibration samples; 0: by all"               \
    }

typedef struct lu_seam_trial {
    lu_block *b;
    lu_seam *seam;
    lu_act_quant act;         /* how the readers' inputs are rounded */
    int n;                    /* linears that are rounded */
    lu_site_linear **linears; /* [n] */
    float **w;                /* [n] their weights as they were: their own, or: */
    float **saved;            /* [n] copies where trials change them, restored by close; else NULL */
    bool by_gptq;             /* a linear is rounded by GPTQ */
    int *reader;              /* [n] of the seam, whose input they multiply */
    lu_gptq_trial *gptq;      /* [seam->n_readers] of those with linears that GPTQ will round */
    float *approx;            /* loss of one linear by its Hessian: rounded weights; else NULL */
    bool elsewhere;           /* weights are rounded where the block is walked through */
    bool holds;               /* a Hessian on the GPU */
    float *scale;             /* [k] the candidate, channel by channel */
    lu_ops ops;
    uint8_t *act_codes; /* [k] scratch */
} lu_seam_trial;

/* Records the part as it is. t->n is 0 when no reader is to be rounded: then there is nothing to
   try. Drops the readers' lo and hi, which do not outlive a scale. The statistics RANGE are needed
   when activations are rounded with one range for all rows. Weights are rounded by GPTQ if that is
   to come and the readers have the statistic HESSIAN, else to nearest. On failure nothing is left
   open. */
lutra_status lu_seam_trial_open(lu_block *b, lu_seam *seam, const lu_act_format *act,
                                lu_seam_trial *t, lutra_err *err);
/* Restores the weights. */
void lu_seam_trial_close(lu_seam_trial *t);

/* The loss of s [n_scales]; NULL: of no scale. In the same units for all candidates of a trial. */
lutra_status lu_seam_trial_loss(lu_seam_trial *t, const float *s, double *loss, lutra_err *err);

/* The reader that saw the most rows: a norm's router, or the only one. */
const lu_site *lu_seam_main_reader(const lu_seam *seam);

/* Rows that the seam's main reader saw are fewer than min_rows: warns and gives true. */
bool lu_seam_starved(const lu_block *b, const lu_seam *seam, int64_t min_rows);

#endif
