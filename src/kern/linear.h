/* linear.h - matrix products with packed weights: y[M,N] = x[M,K] . W[N,K]^T (+ bias).

   A lu_weight describes W as a checkpoint holds it (borrowed, canonical layout). lu_linear_plan
   chooses a named variant for (bits or dtype, group, N, K, activation type, CPU level) and says
   how many bytes the packed weights take; lu_linear_pack re-orders the weights into the layout
   that variant reads; lu_linear_run multiplies. Packing and running are split into `units` (blocks
   of rows of W) so that a caller's threads share them; a unit writes only its own columns of y.

   Every variant sums over k in the same fixed order for every M and every split, so the result of
   a row does not depend on how many rows are multiplied with it or on the number of threads.
   No shape is refused: any M >= 0, N >= 1, K >= 1 with the group dividing K.

   Arithmetic, at every level: y = sum over groups of scale * (sum over k of x * (T[q] - T[zero])),
   float32 products and sums (fused), a fresh accumulator every LU_LINEAR_SEGMENT columns. With
   activations in bf16, x is used as it is, and the table (or a dense weight) is rounded once to
   bf16: no change for bf16 weights and integer tables, a relative 2^-9 for others such as nf4.
   A NaN or infinity in a row of x gives NaN or infinities in that row of y and nowhere else. */
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
    int bits;                 /* coded only: 2..8 */
    int64_t group_size;       /* coded only: columns per scale; 0 = k */
    const void *scales;       /* [n][k / group_size] */
    lutra_dtype scale_dtype;  /* F16, BF16 or F32 */
    const uint8_t *zeros;     /* [n][k / group_size] codes: zero_value = table[zero], or NULL */
    float table[256];         /* 2^bits used */
} lu_weight;

typedef struct lu_linear_variant lu_linear_variant;

typedef struct lu_linear {
    const lu_linear_variant *variant;
    char name[32];            /* "avx512_lut4_bf16" */
    int64_t n, k, group_size; /* group_size > 0; dense: k */
    int bits;                 /* 0 = dense */
    bool zeros;               /* coded with zero points */
    lutra_dtype act;          /* F32: x is float; BF16: x is bf16 bits */
    lutra_dtype dtype;        /* dense: element type as packed; coded: NONE */
    lutra_dtype scale_dtype;
    size_t unit_bytes;        /* packed bytes of one unit */
    size_t packed_bytes;      /* what the caller allocates, 64-byte aligned, before lu_linear_pack */
    void *packed;             /* caller-owned */
    int64_t n_units;          /* blocks of W rows */
    int64_t unit_rows;        /* rows of W (columns of y) per unit; the last may be short */
    bool affine;              /* table[i] = table[0] + i * (table[1] - table[0]), exactly */
    float table[256];         /* as multiplied: rounded to bf16 when act is BF16 */
    const float *bias;        /* [n] or NULL, caller-owned */
    const lu_act_quant *input; /* how the caller rounds x before lu_linear_run; NULL: not at all.
                                  Caller-owned, not set by lu_linear_plan */
} lu_linear;

/* act: LUTRA_F32 or LUTRA_BF16. Fills *out but packed, bias and input (NULL). */
lutra_status lu_linear_plan(const lu_weight *w, lutra_dtype act, lu_level level, lu_linear *out,
                            lutra_err *err);
const char *lu_linear_variant_name(const lu_linear *l); /* e.g. "avx512_lut4_bf16" */

/* Packs units [unit0, unit1) of w into l->packed. */
void lu_linear_pack(lu_linear *l, const lu_weight *w, int64_t unit0, int64_t unit1);

/* y[m][n] for m in [0, M) and the columns of units [unit0, unit1). x: [M][k], row stride ldx
   elements; y: float, row stride ldy. scratch: lu_linear_scratch(l, M) bytes per concurrent call,
   64-byte aligned. */
void lu_linear_run(const lu_linear *l, const void *x, int64_t ldx, int64_t M, float *y, int64_t ldy,
                   int64_t unit0, int64_t unit1, void *scratch);
size_t lu_linear_scratch(const lu_linear *l, int64_t M);

/* Elements between dense rows of x: the ldx of rows without a gap. */
static inline int64_t lu_linear_x_stride(const lu_linear *l)
{
    return l->act == LUTRA_U8 ? lu_act_record_bytes(l->k) : l->k;
}

/* One row of W as float32: embeddings, and the oracle of tests. */
void lu_weight_row(const lu_weight *w, int64_t row, float *out);

#endif
