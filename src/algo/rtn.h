/* rtn.h - rounding to nearest: the pass that needs no data. A block of rows at a time. */
#ifndef LU_ALGO_RTN_H
#define LU_ALGO_RTN_H

#include "kern/encode.h"

/* n rows of k weights of any floating type, with the outputs of those rows. */
typedef struct lu_rtn_block {
    const void *w; /* [n][k] */
    lutra_dtype dtype;
    int64_t n, k;
    uint8_t *codes;              /* [n][lutra_format_row_bytes] */
    void *scales;                /* [n][groups] */
    uint8_t *zeros;              /* [n][groups], or NULL when symmetric */
    float *row;                  /* scratch [k]; used only when lu_rtn_needs_row(dtype) */
    double signal, noise;        /* out: sums over the block in row order */
    int64_t bad_row, bad_column; /* out, when lu_rtn_encode returns false */
} lu_rtn_block;

/* True if weights of this type pass through float32 on their way to the kernel. */
bool lu_rtn_needs_row(lutra_dtype t);

/* Encodes the block on the calling thread. False if a weight cannot be encoded. */
bool lu_rtn_encode(const lu_encoder *e, lu_rtn_block *b);

/* Stores why the weight at row, column of w cannot be encoded (E_FORMAT): "row 3, column 5 is NaN".
 */
lutra_status lu_rtn_fail(const lutra_format *f, const lutra_tensor *w, int64_t row, int64_t column,
                         lutra_err *err);

#endif
