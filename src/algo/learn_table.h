/* learn_table.h - a table of 2^bits values that fits the weights of one matrix, or of a block of its
   rows: weighted k-means of the weights over their scales (SqueezeLLM, Kim et al. 2023, arXiv
   2306.07629, eq. 5: the centroids that minimise sum h (w - Q(w))^2, h the diagonal of the Hessian of
   the layer's output error). A group's scale s makes its weights w = s v, so that v counts h s^2.

   Scales and table are improved in turn: scales by the range rule mse for the table as it is, then
   the table for these scales, exactly but for the width of a histogram's bins (kmeans1d.h). As that
   rule looks at cubes of errors, a round may lose: the best table met is kept.
   Invariant: the weighted error is not above that of the table where learning starts. */
#ifndef LU_ALGO_LEARN_TABLE_H
#define LU_ALGO_LEARN_TABLE_H

#include "base/status.h"
#include "kern/table.h"
#include "lutra/format.h"

/* Rows that share the table. */
typedef struct lu_learn_args {
    const lutra_format *format; /* learned; its table is where learning starts */
    lu_level level;
    const void *w; /* [n][k] */
    lutra_dtype dtype;
    int64_t n, k;
    const float *importance; /* [k] >= 0: weight of a column's squared errors; NULL: all 1 */
} lu_learn_args;

/* Writes 2^bits ascending values of magnitudes up to 1. A matrix of more than LU_LEARN_WEIGHTS is
   judged by rows at equal distances. Rows with weights that are not finite do not count. The result
   depends on nothing else than the arguments, but not on the level. Runs on the calling thread. */
#define LU_LEARN_WEIGHTS (1 << 20)
lutra_status lu_learn_table(const lu_learn_args *a, float *table, lutra_err *err);

#endif
