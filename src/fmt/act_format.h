/* act_format.h - how the input of a linear layer is rounded to integers before the product.

   Codes are unsigned bytes; x is replaced by scale * (code - zero):
     symmetric    scale = max |x| / (2^(bits-1) - 1), zero = 128,
                  codes 128 - 2^(bits-1) .. 128 + 2^(bits-1) - 1
     asymmetric   lo = min(x, 0), hi = max(x, 0), scale = (hi - lo) / (2^bits - 1),
                  zero = clamp(rint(-lo / scale), 0, 2^bits - 1), codes 0 .. 2^bits - 1
     code         clamp(rint(x / scale) + zero, lowest code, highest code)
   rint is to nearest, ties to even. The scope says which values share a scale: those of a row (a
   token) or of a group of columns of a row, where the scale follows from the row itself; or all
   rows that a layer ever sees ("tensor", static), where it was found on sample text.

   A spec names a format: intB[:token | :gSIZE | :tensor[:static]][:sym | :asym], for example
   "int8", "int8:tensor:asym", "int4:g128". The default is token, sym. */
#ifndef LU_FMT_ACT_FORMAT_H
#define LU_FMT_ACT_FORMAT_H

#include "base/status.h"

#define LU_ACT_MIN_BITS 2
#define LU_ACT_MAX_BITS 8
#define LU_ACT_SYM_ZERO 128
#define LU_ACT_MIN_SCALE 0x1p-126f /* of rows of zeros or subnormals */

typedef enum lu_act_scope {
    LU_ACT_TOKEN,
    LU_ACT_GROUP,
    LU_ACT_TENSOR,
    LU_N_ACT_SCOPES
} lu_act_scope;

typedef struct lu_act_format {
    int bits; /* 0: inputs stay as they are */
    lu_act_scope scope;
    int64_t group_size; /* LU_ACT_GROUP only: a multiple of 8 */
    bool zero_point;    /* asymmetric */
} lu_act_format;

/* Parses a spec; "none" gives bits 0. E_ARG with near names. */
lutra_status lu_act_format_parse(const char *spec, lu_act_format *out, lutra_err *err);

/* The canonical spec, e.g. "int8:token", "int4:g128:asym", "none". Returns buf. */
const char *lu_act_format_spec(const lu_act_format *f, char *buf, size_t size);

/* Whether the scale is fixed: found beforehand, on sample text. */
static inline bool lu_act_is_static(const lu_act_format *f)
{
    return f->bits != 0 && f->scope == LU_ACT_TENSOR;
}

bool lu_act_format_same(const lu_act_format *a, const lu_act_format *b);

/* Codes that the format uses. */
static inline int lu_act_lowest(const lu_act_format *f)
{
    return f->zero_point ? 0 : LU_ACT_SYM_ZERO - (1 << (f->bits - 1));
}

static inline int lu_act_highest(const lu_act_format *f)
{
    return lu_act_lowest(f) + (1 << f->bits) - 1;
}

/* Scale and zero point of values that span [lo, hi]; lo <= 0 <= hi. A lo or hi that is not a
   number gives a scale that is not a number. */
void lu_act_params(const lu_act_format *f, float lo, float hi, float *scale, int *zero);

#endif
