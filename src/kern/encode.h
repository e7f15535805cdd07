/* encode.h - one row of weights to codes, scales and zero points, in one walk over memory, with the
   energies that give the signal-to-noise ratio. Codes are those of fmt/codec.h bit for bit at every
   level; so are the energies, whose order of summation is fixed: column c adds to lane c % 16 in
   float32, lanes are added up in double at the end of the row. */
#ifndef LU_KERN_ENCODE_H
#define LU_KERN_ENCODE_H

#include "fmt/codec.h"
#include "kern/table.h"

#define LU_ENCODE_LANES 16

/* One row: input, outputs, results. */
typedef struct lu_encode_row_args {
    const void *w;        /* [k] */
    lutra_dtype dtype;    /* F32, F16 or BF16 */
    int64_t k;            /* a multiple of the group size, if any */
    uint8_t *codes;       /* lutra_format_row_bytes */
    void *scales;         /* [groups] */
    uint8_t *zeros;       /* [groups], or NULL when symmetric */
    double signal, noise; /* out: sums of w^2 and of (w - decoded)^2 */
} lu_encode_row_args;

typedef struct lu_encoder lu_encoder;
typedef int64_t (*lu_encode_fn)(const lu_encoder *e, lu_encode_row_args *a);

/* The sums of |error|^2 and |error|^3 over columns [at, at + n) of a row encoded with a scale above
   0. Column c adds to lane c % 16 in float32 (e = |error|, e * e, then e * e * e), lanes are added
   as a tree: 16 to 8, 4, 2, 1, lane i with lane i + half. Shapes as for the encoder of the same
   level. */
typedef struct lu_range_error {
    float square, cube;
} lu_range_error;

typedef lu_range_error (*lu_range_fn)(const lu_encoder *e, const lu_encode_row_args *a, int64_t at,
                                      int64_t n, float scale, float zero_value);

struct lu_encoder {
    lutra_format format;
    lu_grid grid;
    lutra_range range;   /* lu_encoder_init sets minmax; may be changed after it */
    float widest;        /* mse: the widest range to try, in units of that of minmax; >= 1 */
    lu_encode_fn plain;  /* any shape */
    lu_encode_fn vector; /* rows and groups that are multiples of 32; NULL if the level has none */
};

/* Prepares an encoder. The level must be available. */
void lu_encoder_init(lu_encoder *e, const lutra_format *f, lu_level level);

/* Encodes one row. Returns -1, or the first column that cannot be encoded (lu_encode_row). */
int64_t lu_encoder_row(const lu_encoder *e, lu_encode_row_args *a);

/* Under the rule mse: narrows (or widens) the range [*lo, *hi] of columns [at, at + n). The result
   follows from the values of error() alone and is thus the same at every level. */
void lu_encoder_shrink_range(const lu_encoder *e, const lu_encode_row_args *a, lu_range_fn error,
                             int64_t at, int64_t n, float *lo, float *hi);

/* Each level's file sets what it has for e->format, e->grid. */
void lu_fill_ref_encode(lu_encoder *e);
void lu_fill_avx2_encode(lu_encoder *e);
void lu_fill_avx512_encode(lu_encoder *e);

#endif
