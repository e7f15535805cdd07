/* scheme.h - how one linear module is stored: its number format, what is kept beside the codes, and
   how its input is rounded. A checkpoint lists its distinct schemes and gives each module one
   (io/checkpoint.h); docs/formats.md says what each tensor holds. Whoever makes a module (calib),
   looks for its tensors (model) or describes it (io) asks lu_scheme_tensors for the list. */
#ifndef LU_FMT_SCHEME_H
#define LU_FMT_SCHEME_H

#include "fmt/act_format.h"
#include "fmt/codec.h"

typedef struct lu_scheme {
    lutra_format format;  /* learned: the tables are the tensor M.table */
    bool column_groups;   /* M.g_idx: the group of each column (GPTQ's act-order without static
                             groups); each group has group_size columns all the same */
    bool outlier_columns; /* M.outlier_columns, M.outlier_weights: columns kept in fp16
                             (LLM.int8()); their codes are not used */
    lu_act_format act; /* rounding of the module's input */
} lu_scheme;

/* E_ARG unless every field is as the functions of lutra/format.h would make it, and they go
   together: g_idx needs groups. */
lutra_status lu_scheme_check(const lu_scheme *s, lutra_err *err);
bool lu_scheme_equal(const lu_scheme *a, const lu_scheme *b);

typedef enum lu_tensor_kind {
    LU_TENSOR_CODES,           /* U8  [n][row bytes] */
    LU_TENSOR_SCALES,          /* scale type [n][groups] */
    LU_TENSOR_ZEROS,           /* U8  [n][groups] */
    LU_TENSOR_TABLE,           /* F32 [tables][2^bits] */
    LU_TENSOR_GROUPS,          /* I32 [k] */
    LU_TENSOR_OUTLIER_COLUMNS, /* I32 [outliers] ascending */
    LU_TENSOR_OUTLIER_WEIGHTS, /* F16 [n][outliers] */
    LU_TENSOR_INPUT_SCALE,     /* F32 [1] */
    LU_TENSOR_INPUT_ZERO,      /* U8  [1] */
    LU_N_TENSOR_KINDS,
} lu_tensor_kind;

/* What follows the module's name in the tensor's: ".codes". */
const char *lu_tensor_suffix(lu_tensor_kind kind);

typedef struct lu_tensor_info {
    lu_tensor_kind kind;
    lutra_dtype dtype;
    int rank;
    int64_t shape[2];
} lu_tensor_info;

/* The tensors of a module [n][k] in ascending order of kind; returns how many. n_outliers: columns
   kept apart, at least 1 where the scheme has them. The format's group divides k. */
int lu_scheme_tensors(const lu_scheme *s, int64_t n, int64_t k, int64_t n_outliers,
                      lu_tensor_info out[LU_N_TENSOR_KINDS]);

/* Tables that a matrix of n rows has: 1, or one per block of table_rows. */
int64_t lu_format_tables(const lutra_format *f, int64_t n);

#endif
