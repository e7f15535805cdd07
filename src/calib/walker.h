/* walker.h - what walks a batch of calibration rows through a part of a layer, and where rows rest
   between walks: on the CPU (walk_cpu.c) in float32, on a GPU (walk_gpu.c) with 16-bit activations.
   block_runner.c decides what is walked when. */
#ifndef LU_CALIB_WALKER_H
#define LU_CALIB_WALKER_H

#include "calib/dataset.h"
#include "calib/gather.h"
#include "calib/input_ranges.h"

/* Rows that rest, [][hidden]: of all samples, or of the first, by which losses are taken. */
typedef enum lu_resting {
    LU_REST_STREAM,   /* the residual stream where the present layer begins, or its MLP */
    LU_REST_MIDDLE,   /* before the MLP, for losses of that part */
    LU_REST_RECORDED, /* + lu_part: what the part's branch gave when it was recorded */
    LU_N_RESTING = LU_REST_RECORDED + LU_N_PARTS,
} lu_resting;

typedef struct lu_batch {
    int64_t row, rows, samples; /* rows: samples * length */
} lu_batch;

/* Who sees the inputs of sites; each may be NULL. */
typedef struct lu_watch {
    lu_gather *gather;
    lu_input_ranges *ranges;
} lu_watch;

typedef struct lu_walker lu_walker;

typedef struct lu_walker_api {
    void (*close)(lu_walker *w);
    /* Hands the weights of the view as they are to the layer, for a run from..to; drops them. */
    lutra_status (*pack)(lu_walker *w, lu_view *v, lu_stage from, lu_stage to, lutra_err *err);
    void (*unpack)(lu_walker *w, lu_view *v);
    /* The rows at hand are what run works on. open makes room for so many rows in a resting place;
       what was there is lost if that was less. */
    lutra_status (*open)(lu_walker *w, lu_resting place, int64_t rows, lutra_err *err);
    lutra_status (*put)(lu_walker *w, lu_resting place, const lu_batch *b, const float *x,
                        lutra_err *err);
    lutra_status (*get)(lu_walker *w, lu_resting place, const lu_batch *b, float *x,
                        lutra_err *err); /* stream and middle; tests look there */
    lutra_status (*load)(lu_walker *w, lu_resting place, const lu_batch *b, lutra_err *err);
    lutra_status (*save)(lu_walker *w, lu_resting place, const lu_batch *b, lutra_err *err);
    lutra_status (*run)(lu_walker *w, lu_view *v, const lu_batch *b, lu_stage from, lu_stage to,
                        lutra_err *err);
    /* The outputs of the last complete branch: to rest, or their squared distance from those that
       rest there. */
    lutra_status (*save_branch)(lu_walker *w, lu_resting place, const lu_batch *b, lutra_err *err);
    lutra_status (*distance)(lu_walker *w, lu_resting place, const lu_batch *b, double *sum,
                             lutra_err *err);
    /* lu_block.scaled_*, but for the losses of parts: set leaves the weights packed, ready to run.
       NULL on the CPU. */
    lutra_status (*trial_open)(lu_walker *w, lu_view *v, const lu_scaled *s, bool *possible,
                               lutra_err *err);
    lutra_status (*trial_set)(lu_walker *w, const float *scale, double *alone, lutra_err *err);
    void (*trial_close)(lu_walker *w);
} lu_walker_api;

struct lu_walker {
    const lu_walker_api *api;
    lutra_model *model;
    const lu_dataset *data;
    int64_t per_batch;  /* samples */
    lu_watch watch;     /* sees the inputs of sites */
    lu_edit edit;       /* may change them, or NULL */
    void *edit_arg;
    lu_view *view;      /* that edit is told the sites of */
    lu_gpu *gpu;        /* NULL: on the CPU */
    bool bf16;          /* activations on a GPU; else fp16 */
    int64_t budget;     /* bytes of host memory that resting rows may take in all */
    const char *folder; /* of spill files */
};

typedef struct lu_walker_options {
    lu_gpu *gpu;          /* NULL: on the CPU */
    lutra_dtype act;      /* on a GPU: BF16 or F16 */
    int64_t gpu_reserve;  /* bytes of the GPU that resting rows leave for other work */
    int64_t memory;       /* bytes of host memory for resting rows in all */
    const char *folder;   /* of spill files */
} lu_walker_options;

lutra_status lu_walker_open_cpu(lutra_model *m, const lu_dataset *data, const lu_walker_options *o,
                                lu_walker **out, lutra_err *err);
lutra_status lu_walker_open_gpu(lutra_model *m, const lu_dataset *data, const lu_walker_options *o,
                                lu_walker **out, lutra_err *err);

/* Samples of a batch of about so many rows. */
static inline int64_t lu_walker_batch(const lu_dataset *data, int64_t rows)
{
    const int64_t n = rows / data->length > 1 ? rows / data->length : 1;
    return n < data->n_samples ? n : data->n_samples;
}

#endif
