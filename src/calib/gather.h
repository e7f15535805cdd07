/* gather.h - statistics of the inputs of sites, while rows flow past in passes. */
#ifndef LU_CALIB_GATHER_H
#define LU_CALIB_GATHER_H

#include "calib/block_view.h"
#include "kern/gpu.h"

#define LU_KEPT_ROWS 512

typedef struct lu_gather_site {
    bool open;      /* being gathered */
    double *sums;   /* [k] of |x|, or NULL */
    int64_t stride; /* every stride-th row is kept */
    /* on a GPU instead of the statistics' own arrays, while rows flow past; NULL: not asked for */
    float *absmax, *lowest, *highest, *hessian;
    double *gpu_sums;
} lu_gather_site;

typedef struct lu_gather {
    lu_view *view;
    lu_stage first, last;
    unsigned needs;
    lu_gather_site *sites; /* [n_sites] */
    double seconds;        /* that gathering took */
    lu_gpu *gpu;           /* NULL: on the CPU */
    bool bf16;             /* of rows on the GPU; else fp16 */
    int32_t *kept;         /* on the GPU [LU_KEPT_ROWS]: rows of a pass that are kept */
    uint16_t *rows;        /* on the GPU [LU_KEPT_ROWS][widest k]: these */
    uint16_t *host_rows;
} lu_gather;

/* Empties the statistics of the sites at stages [first, last]. Close also after a failure. */
lutra_status lu_gather_open(lu_view *v, lu_stage first, lu_stage last, unsigned needs, lu_gpu *gpu,
                            bool bf16, lu_gather *out, lutra_err *err);
/* Makes room for the statistics of needs (LU_STAT bits; rows are always kept): on the GPU, if there is
   one, until close. A walk calls it when its weights are packed, which takes memory too. E_NOMEM names
   the site and says what is free. */
lutra_status lu_gather_start(lu_gather *g, lutra_err *err);
/* A tap (model/forward.h) whose user is the gather. */
void lu_gather_tap(void *user, int64_t layer, const char *site, const float *x, int64_t rows,
                   int64_t cols);
/* A tap on the GPU (model/gpu_step.h); gather_gpu.c. */
lutra_status lu_gather_gpu_tap(void *user, const char *site, uint16_t *x, int64_t rows,
                               int64_t cols, lutra_err *err);
/* Turns sums into means. seconds: what all of it took, or NULL. */
lutra_status lu_gather_close(lu_gather *g, double *seconds, lutra_err *err);

/* Between gather.c and gather_gpu.c. Which of the next `rows` rows of the site are kept: their numbers
   into source [LU_KEPT_ROWS], how many is returned; makes room for them behind stats.n_kept rows, which
   may be fewer than before. */
int64_t lu_gather_choose(lu_gather *g, int site, int64_t rows, int32_t *source);
lutra_status lu_gather_gpu_open(lu_gather *g, int site, unsigned needs, lutra_err *err);
/* The sums so far into the site's statistics, which have room for them. */
lutra_status lu_gather_gpu_finish(lu_gather *g, int site, lutra_err *err);
void lu_gather_gpu_close(lu_gather *g);

#endif
