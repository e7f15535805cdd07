/* linear.h - matrix products with packed weights: y[M,N] = x[M,K] . W[N,K]^T (+ bias).

   A lu_weight describes W as a checkpoint holds it (borrowed, canonical layout). lu_linear_plan
   chooses a named variant for (bits or dtype, group, N, K, activation type, CPU level) and says
   how many bytes the packed weights take; lu_linear_attach is given that memory, lu_linear_pack
   re-orders the weights into the layout that variant reads; lu_linear_run multiplies. Packing and
   running are split into `units` (blocks of rows of W) so that a caller's threads share them; a
   unit writes only its own columns of y.

   Every variant sums over k in the same fixed order for every M and every split, so the result of
   a row does not depend on how many rows are multiplied with it or on the number of threads.
   No shape is refused: any M >= 0, N >= 1, K >= 1 with the group dividing K.

   Arithmetic, at every level: y = sum over groups of scale * (sum over k of x * (T[q] - T[zero])),
   float32 products and sums (fused), a fresh accumulator every LU_LINEAR_SEGMENT columns. With
   activations in bf16, x is used as it is, and the table (or a dense weight) is rounded once to
   bf16: no change for bf16 weights and integer tables, a relative 2^-9 for others such as nf4.
   A NaN or infinity in a row of x gives NaN or infinities in that row of y and nowhere else.

   Three things a coded weight may have beside codes and scales, the same for every variant:
   - a table per block of rows: a unit lies in one block and looks its codes up in that table;
   - groups that are no runs: columns are packed sorted by group (as they stood within one), and a
     run first gathers x in that order;
   - outlier columns: x is 0 there for the codes; then y += sum over them, in ascending order of the
     column, of x * w in float32. */
#ifndef LU_KERN_LINEAR_H
#define LU_KERN_LINEAR_H

#include "kern/act_quant.h"
#include "kern/table.h"
#include "lutra/format.h"

enum { LU_LINEAR_SEGMENT = 128 }; /* columns summed before they are added to y */

/* W[n][k] as stored. Dense: dtype is F32, F16 or BF16 and data is [n][k] row-major. Coded:
   dtype is LUTRA_DTYPE_NONE and data holds codes, each row a little-endian bit stream padded to
   whole bytes (lutra_format_row_bytes). w = scale * (table[code] - zero_value). */
typedef struct lu_weight {
    int64_t n, k;
    lutra_dtype dtype;
    const void *data;
    int bits;                /* coded only: 2..8 */
    int64_t group_size;      /* coded only: columns per scale; 0 = k */
    const void *scales;      /* [n][k / group_size] */
    lutra_dtype scale_dtype; /* F16, BF16 or F32 */
    const uint8_t *zeros;    /* [n][k / group_size] codes: zero_value = table[zero], or NULL */
    float table[256];        /* 2^bits used; not with `tables` */
    const void *tables;      /* NULL, or float32 [n / table_rows, rounded up][2^bits] */
    int64_t table_rows;      /* rows of a block: a multiple of 64 */
    const void *groups;      /* NULL, or int32 [k]: group of each column; every group of
                                [0, k / group_size) has group_size columns */
    int64_t n_outliers;
    const void *outlier_columns; /* int32 [n_outliers], ascending, below k */
    const void *outlier_weights; /* fp16 [n][n_outliers] */
} lu_weight; /* pointers into a mapped file: at any byte */

/* Of data. */
static inline size_t lu_weight_row_bytes(const lu_weight *w)
{
    return w->dtype == LUTRA_DTYPE_NONE ? ((size_t)w->k * (size_t)w->bits + 7) / 8
                                        : (size_t)w->k * lutra_dtype_bytes(w->dtype);
}

typedef struct lu_linear_variant lu_linear_variant;

typedef struct lu_linear {
    const lu_linear_variant *variant;
    char name[32];            /* "avx512_lut4_bf16" */
    int64_t n, k, group_size; /* group_size > 0; dense: k */
    int bits;                 /* 0 = dense */
    bool zeros;               /* coded with zero points */
    lutra_dtype act;          /* F32: x is float; BF16: x is bf16 bits; U8: x is records of codes */
    lutra_dtype dtype;        /* dense: element type as packed; coded: NONE */
    lutra_dtype scale_dtype;
    size_t unit_bytes;   /* packed bytes of one unit */
    size_t packed_bytes; /* what the caller allocates, 64-byte aligned, before lu_linear_pack */
    void *packed;        /* caller-owned */
    int64_t n_units;     /* blocks of W rows */
    int64_t unit_rows;   /* rows of W (columns of y) per unit; the last may be short */
    bool nibbles;        /* act U8: weights are packed as 4 bits, else as 8 */
    bool affine;         /* table[i] = table[0] + i * (table[1] - table[0]), exactly */
    float table[256];    /* as multiplied: rounded to bf16 when act is BF16 */
    const float *bias;   /* [n] or NULL, caller-owned */
    const lu_act_quant *input; /* how the caller rounds x before lu_linear_run; NULL: not at all.
                                  Caller-owned, not set by lu_linear_plan */
    /* what lies in packed behind the units, see linear_extras.h */
    int64_t table_rows;   /* 0: `table` serves all rows */
    const float *tables;  /* [blocks][2^bits] */
    bool gathered;        /* packed columns are in another order than those of W and x */
    const int32_t *order; /* gathered: [k] column of W and x that is packed column j */
    int64_t n_outliers;
    const int32_t *outlier_columns; /* [n_outliers] */
    const int32_t *outlier_at;      /* [n_outliers] their packed columns */
    const float *outlier_weights;   /* [units][n_outliers][unit_rows] */
} lu_linear;

/* Whether a weight can be multiplied with 8-bit activations: coded, without tables per block, columns
   in another order or outliers, and all its table - zero are integers from -128 to 127. */
bool lu_linear_takes_u8(const lu_weight *w);

/* act: LUTRA_F32, LUTRA_BF16, or LUTRA_U8 for weights that take it: rows of x are then records of
   codes (kern/act_quant.h), ldx counts bytes, and the arithmetic is that of linear_int8.h. Fills
   *out but packed, bias and input (NULL). */
lutra_status lu_linear_plan(const lu_weight *w, lutra_dtype act, lu_level level, lu_linear *out,
                            lutra_err *err);
const char *lu_linear_variant_name(const lu_linear *l); /* e.g. "avx512_lut4_bf16" */

/* Gives l its memory, packed_bytes at 64-byte alignment, and writes what all units share. */
void lu_linear_attach(lu_linear *l, const lu_weight *w, void *packed);

/* Packs units [unit0, unit1) of w into l->packed. */
void lu_linear_pack(lu_linear *l, const lu_weight *w, int64_t unit0, int64_t unit1);

typedef struct lu_linear_args {
    const void *x; /* [M][k] of l->act */
    int64_t ldx;   /* elements between rows of x */
    int64_t M;
    float *y; /* [M][n] */
    int64_t ldy;
    int64_t unit0, unit1; /* the units, and with them the columns of y, to compute */
    void *scratch;        /* lu_linear_scratch(l, M) bytes per concurrent call, 64-byte aligned */
} lu_linear_args;

/* y[m][n] for m in [0, M) and the columns of units [unit0, unit1). */
void lu_linear_run(const lu_linear *l, const lu_linear_args *a);
size_t lu_linear_scratch(const lu_linear *l, int64_t M);

/* Elements between dense rows of x: the ldx of rows without a gap. */
static inline int64_t lu_linear_x_stride(const lu_linear *l)
{
    return l->act == LUTRA_U8 ? lu_act_record_bytes(l->k) : l->k;
}

/* One row of W as float32: embeddings, and the oracle of tests. */
void lu_weight_row(const lu_weight *w, int64_t row, float *out);

#endif
