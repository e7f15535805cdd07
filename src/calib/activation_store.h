/* activation_store.h - rows of float32 between two blocks: in memory, or in a file without a name
   when they are more than the budget. */
#ifndef LU_CALIB_ACTIVATION_STORE_H
#define LU_CALIB_ACTIVATION_STORE_H

#include "base/status.h"

typedef struct lu_store {
    int64_t rows, cols;
    float *memory; /* NULL: in the file */
    int fd;
    char *path; /* for messages: the folder */
} lu_store;

/* budget: bytes that may be held in memory; more go to a file in `folder`, which needs as much free
   space and vanishes with the process. */
lutra_status lu_store_open(int64_t rows, int64_t cols, int64_t budget, const char *folder,
                           lu_store *out, lutra_err *err);
void lu_store_close(lu_store *s);

/* Rows [row, row + n). */
lutra_status lu_store_read(const lu_store *s, int64_t row, int64_t n, float *out, lutra_err *err);
lutra_status lu_store_write(lu_store *s, int64_t row, int64_t n, const float *x, lutra_err *err);

#endif
