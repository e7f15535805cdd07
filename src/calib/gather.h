/* gather.h - statistics of the inputs of sites, while rows flow past in passes. */
#ifndef LU_CALIB_GATHER_H
#define LU_CALIB_GATHER_H

#include "calib/block_view.h"

#define LU_KEPT_ROWS 512

typedef struct lu_gather {
    lu_view *view;
    bool *open;    /* [n_sites] sites being gathered */
    double **sums; /* [n_sites][k] of |x|, or NULL */
    int64_t *stride; /* [n_sites] every stride-th row is kept */
} lu_gather;

/* Empties the statistics of the sites at stages [first, last] and makes room for those of needs
   (LU_STAT bits; rows are always kept). Close also after a failure. */
lutra_status lu_gather_open(lu_view *v, lu_stage first, lu_stage last, unsigned needs,
                            lu_gather *out, lutra_err *err);
/* A tap (model/forward.h) whose user is the gather. */
void lu_gather_tap(void *user, int64_t layer, const char *site, const float *x, int64_t rows,
                   int64_t cols);
/* Turns sums into means. */
lutra_status lu_gather_close(lu_gather *g, lutra_err *err);

#endif
