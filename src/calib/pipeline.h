/* pipeline.h - compressing a model block by block as a recipe says. */
#ifndef LU_CALIB_PIPELINE_H
#define LU_CALIB_PIPELINE_H

#include "calib/journal.h"
#include "calib/quantize_plan.h"
#include "calib/recipe_parts.h"
#include "kern/gpu.h"

typedef struct lu_pipeline {
    lutra_ctx *ctx;
    const lu_plan *plan; /* what is encoded, made for this recipe */
    const lutra_recipe *recipe;
    const lutra_calibration *calibration; /* NULL: no data */
    lutra_range range;                    /* for passes that name none */
    const char *act_rule;                 /* of fixed input scales, as act_percentile: */
    double act_percentile;                /* lutra_quantize_options */
    lu_gpu *gpu;         /* where rows are walked and matrices factored; NULL: on the CPU */
    lutra_dtype act;     /* of activations on a GPU: BF16 or F16 */
    int64_t gpu_reserve; /* its memory that kept activations leave free */
    lutra_quantize_times *times;          /* added to */
    const char *folder;                   /* where the shards are made */
    lu_journal *journal;
    lu_journal_entry *entries;
} lu_pipeline;

/* Works through all blocks whose tensors are not all done, in order; those that are, from an
   interrupted run, are read back and only run. Each block is on disk before the next begins.
   Tensors outside the blocks are left to others. The recipe has data if it needs some. */
lutra_status lu_pipeline_run(const lu_pipeline *p, lutra_err *err);

#endif
