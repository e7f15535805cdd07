/* column_walk.h - rows whose columns are settled one block after the other, each block's errors e
   being passed on to the columns after it through an upper triangle: w[:, l] -= e U[block, l]. On a
   GPU the rows rest there; a block comes to host memory when its turn is near, while the errors of
   the block before are still being passed on to those further away. */
#ifndef LU_LA_COLUMN_WALK_H
#define LU_LA_COLUMN_WALK_H

#include "la/dense.h"

typedef struct lu_column_walk lu_column_walk;

/* u [n][n] is that of lu_la_inverse_factor; it and la must outlive *out. rows, block: the most that
   will come. */
lutra_status lu_column_walk_open(lu_la *la, int64_t n, const float *u, int64_t rows, int64_t block,
                                 lu_column_walk **out, lutra_err *err);
void lu_column_walk_close(lu_column_walk *w);

/* Begins with w[m][n], in host memory; columns [0, end) are the first block. */
lutra_status lu_column_walk_begin(lu_column_walk *walk, float *w, int64_t m, int64_t end,
                                  lutra_err *err);
/* Passes on the errors e[m][ld_e] of the block [begin, end). On return the next block, columns
   [end, next), is up to date in w; those after it may come later. */
lutra_status lu_column_walk_pass(lu_column_walk *walk, int64_t begin, int64_t end, int64_t next,
                                 const float *e, int64_t ld_e, lutra_err *err);

#endif
