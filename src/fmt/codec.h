/* codec.h - the one encoder and decoder: floats to codes, scales and zero points, and back. They
   define what a format means; every fast kernel is checked against them, bit for bit.

   One group of a row, in float32 arithmetic (each operation rounded to nearest):
     symmetric     scale = round(absmax / absmax_ref), zero_value = 0
     asymmetric    lo = min(w, 0), hi = max(w, 0), scale = round((hi - lo) / (2^bits - 1)),
                   zero = clamp(rint(-lo / scale), 0, 2^bits - 1), zero_value = table[zero]
     pivots        p[i] = ((v[i] + v[i+1]) / 2 - zero_value) * scale, v = the table sorted
     code          of v[r], r = the number of pivots strictly below w: the nearest value, and a
                   weight midway between two takes the lower one
     decode        scale * (table[code] - zero_value)
   That is the range rule minmax; mse (kern/encode_range.c) multiplies lo and hi by a factor first.
   round() is to scale_dtype, and lifts a scale that would underflow to the smallest allowed. The
   codes are chosen for the rounded scale. A group of zeros has scale 0 and the code of the value
   nearest to 0 (asymmetric: zero = 0 and code 0). */
#ifndef LU_FMT_CODEC_H
#define LU_FMT_CODEC_H

#include <math.h>

#include "base/status.h"
#include "lutra/format.h"

/* Limits that keep every product above finite and every pivot distinct from its neighbours:
   absmax_ref of a table, and scales of the types with a float32 exponent. */
#define LU_MIN_ABSMAX_REF 0x1p-20f
#define LU_MAX_ABSMAX_REF 0x1p20f
#define LU_MIN_SCALE 0x1p-126f
#define LU_MAX_SCALE 0x1p100f
#define LU_MAX_GROUP (1 << 24) /* columns */
#define LU_TABLE_ROWS 64       /* blocks of rows with a table of their own are multiples of it */

/* E_ARG unless every field is as lutra_format_parse or lutra_format_from_table would make it. */
lutra_status lu_format_check(const lutra_format *f, lutra_err *err);

/* E_ARG for a range rule that is none. */
lutra_status lu_range_check(lutra_range range, lutra_err *err);

/* --- rows ----------------------------------------------------------------------------------- */

/* Bit streams of one row (lutra/format.h): n codes of `bits` bits. Bytes past the last code are
   not touched except to zero its padding bits. */
void lu_codes_pack(const uint8_t *codes, int64_t n, int bits, uint8_t *out);
void lu_codes_unpack(const uint8_t *in, int64_t n, int bits, uint8_t *codes);
static inline int lu_code_at(const uint8_t *row, int64_t i, int bits)
{
    const uint64_t bit = (uint64_t)i * (uint64_t)bits;
    const unsigned shift = (unsigned)(bit & 7);
    unsigned v = row[bit >> 3];
    if (shift + (unsigned)bits > 8)
        v |= (unsigned)row[(bit >> 3) + 1] << 8;
    return (int)((v >> shift) & ((1u << bits) - 1));
}

/* Encodes one row of k float32. The group size divides k. Returns -1, or the column of the first
   value that cannot be encoded: NaN, infinity, or a finite value so large that its group's scale
   overflows scale_dtype. Then the outputs are unspecified. scales: groups elements of scale_dtype;
   zeros: groups codes, or NULL when symmetric. */
int64_t lu_encode_row(const lutra_format *f, const float *w, int64_t k, uint8_t *codes_packed,
                      void *scales, uint8_t *zeros);
void lu_decode_row(const lutra_format *f, const uint8_t *codes_packed, const void *scales,
                   const uint8_t *zeros, int64_t k, float *out);

/* Element i of an array of scales as float32, and back (exact for rounded scales). */
float lu_scale_get(lutra_dtype t, const void *scales, int64_t i);
void lu_scale_set(lutra_dtype t, void *scales, int64_t i, float scale);

/* --- parts of the encoder, shared with the kernels -------------------------------------------- */

/* A table made ready for encoding. Ranks count the values in ascending order; equal values keep
   the order of their codes. */
typedef struct lu_grid {
    int bits, n;      /* n = 2^bits */
    int near_zero;    /* rank of the value nearest 0 */
    bool identity;    /* rank = code */
    bool uniform;     /* value[r] = value[0] + r, all integers */
    float value[256]; /* ascending; zeros after n */
    float mid[256];   /* (value[r] + value[r + 1]) / 2, r < n - 1; infinity after that */
    uint8_t code[256];
} lu_grid;

void lu_grid_init(lu_grid *g, const lutra_format *f);

/* The scale of a group whose weights span [lo, hi] before rounding, 0 for zeros; symmetric formats
   look at max(-lo, hi) only. */
static inline float lu_group_exact_scale(const lutra_format *f, float lo, float hi)
{
    if (!f->zero_point)
        return (-lo > hi ? -lo : hi) / f->absmax_ref;
    return ((hi > 0 ? hi : 0) - (lo < 0 ? lo : 0)) / (float)((1 << f->bits) - 1);
}

/* The code of the zero point for a rounded scale above 0. */
static inline int lu_group_zero(const lutra_format *f, float lo, float scale)
{
    const float top = (float)((1 << f->bits) - 1), z = rintf((lo < 0 ? -lo : 0) / scale);
    return (int)(z < top ? z : top);
}

/* The scale rounded to scale_dtype and the zero point's code. False when the scale overflows. */
bool lu_group_scale(const lutra_format *f, float lo, float hi, float *scale, int *zero);

/* p[r] for r in [0, n - 1). */
void lu_group_pivots(const lu_grid *g, float scale, float zero_value, float *pivot);

/* Codes of n weights, one byte each. scale 0 gives the code for zero groups. */
void lu_group_codes(const lu_grid *g, float scale, const float *pivot, const float *w, int64_t n,
                    uint8_t *codes);

#endif
