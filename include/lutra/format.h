/* lutra/format.h - number formats as data: a codebook, a group size, a scale type, zero points.

   A weight matrix W[N,K] is stored as codes q[n,k] in [0, 2^bits), a table T of 2^bits values and
   one scale (and, where asymmetric, one zero point) per group of `group_size` columns of a row:

       w[n,k] = scale[n, k / group_size] * (T[q[n,k]] - zero[n, k / group_size])

   A spec names a format: CODEBOOK[:gSIZE|:channel][:rowsN][:sym|:asym][:f16|:bf16|:f32], for
   example "nf4:g64", "int3:g128:asym", "int8:channel:f32". The codebooks kmB are learned: each
   matrix, or with rowsN each block of N of its rows, has a table of its own ("km3:g128:rows64"). */
#ifndef LUTRA_FORMAT_H
#define LUTRA_FORMAT_H

#include "lutra/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

#define LUTRA_MAX_BITS 8

/* How a group's scale (and zero point) follow from its weights. A format allows any scale: the rule
   is a matter of encoding only, and readers need not know it. */
typedef enum lutra_range {
    LUTRA_RANGE_MINMAX, /* the largest weight fits: cheap, nothing is clipped */
    LUTRA_RANGE_MSE,    /* the range of 80 that has the smallest squared error; never worse */
} lutra_range;

typedef struct lutra_format {
    char name[32];           /* codebook: "nf4", "int4", ... or "table" for a user's own */
    int bits;                /* 2..8 */
    int64_t group_size;      /* columns that share a scale; 0 = the whole row ("channel") */
    bool zero_point;         /* asymmetric: a zero point per group, in units of table values */
    lutra_dtype scale_dtype; /* F16, BF16 or F32 */
    float absmax_ref;        /* symmetric: scale = absmax / absmax_ref */
    bool learned;            /* tables belong to the matrices; `table` is where learning starts */
    int64_t table_rows;      /* learned: rows that share a table, a multiple of 64; 0 = all */
    float table[1 << LUTRA_MAX_BITS]; /* T, 2^bits values used; ascending for built-ins */
} lutra_format;

/* Parses a spec. Unknown names are E_ARG with near ones listed. */
LUTRA_API lutra_status lutra_format_parse(const char *spec, lutra_format *out, lutra_err *err);

/* Makes a format from a user's table of 2^bits finite values, in any order, not all zero.
   absmax_ref becomes max |values|. group_size, scale_dtype: as in lutra_format. */
LUTRA_API lutra_status lutra_format_from_table(const float *values, int n_values,
                                               int64_t group_size, lutra_dtype scale_dtype,
                                               lutra_format *out, lutra_err *err);

/* Writes the canonical spec, e.g. "nf4:g64:f16", NUL-terminated. Returns buf. */
LUTRA_API const char *lutra_format_spec(const lutra_format *f, char *buf, size_t size);

/* Built-in codebooks: names[i] for i in [0, count). */
LUTRA_API int lutra_codebook_count(void);
LUTRA_API const char *lutra_codebook_name(int i);
LUTRA_API const char *lutra_codebook_help(int i);

/* Sizes of one encoded [N,K] matrix, in bytes (overflow-checked by the caller's N,K limits).
   Codes are a little-endian bit stream per row: code k occupies bits [k*bits, (k+1)*bits), each
   row padded with zero bits to a whole byte. Scales and zero points are [N][K/group_size]. */
LUTRA_API size_t lutra_format_row_bytes(const lutra_format *f, int64_t k);
LUTRA_API int64_t lutra_format_groups(const lutra_format *f, int64_t k); /* per row; 0 if the
                                                                group does not divide k */

#ifdef __cplusplus
}
#endif
#endif
