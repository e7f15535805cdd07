/* act_quant.h - rows of a linear's input as integers (fmt/act_format.h says what the codes mean).

   A coded row is a record that matrix products of type U8 read:

       float32 scale | uint8 zero, 3 bytes unused | k codes

   Rows whose values share more than one scale (groups) have no record; their values are rounded and
   turned back to float32 at once ("fake"). Both ways give the same numbers. A row with a NaN or an
   infinity gets a scale of NaN, so that all results of that row are NaN. */
#ifndef LU_KERN_ACT_QUANT_H
#define LU_KERN_ACT_QUANT_H

#include "fmt/act_format.h"
#include "kern/ops.h"

#define LU_ACT_HEADER 8 /* bytes before the codes of a record */

/* How one linear's input is rounded. */
typedef struct lu_act_quant {
    lu_act_format format;
    float scale; /* LU_ACT_TENSOR only, as zero */
    int zero;
} lu_act_quant;

/* Bytes of a record, a multiple of 8. */
static inline int64_t lu_act_record_bytes(int64_t k) { return LU_ACT_HEADER + (k + 7) / 8 * 8; }

/* Whether the rows have records: one scale a row. */
static inline bool lu_act_has_records(const lu_act_format *f)
{
    return f->bits && f->scope != LU_ACT_GROUP;
}

/* Whether two inputs are rounded to the same numbers. */
bool lu_act_same(const lu_act_quant *a, const lu_act_quant *b);

/* x[k] to a record of 4-byte alignment; padding codes are 0. */
void lu_act_record(const lu_ops *ops, const lu_act_quant *q, const float *x, int64_t k,
                   uint8_t *record);

/* y[k] = x[k] rounded; y may be x. codes: k bytes of scratch. The group size divides k. */
void lu_act_fake(const lu_ops *ops, const lu_act_quant *q, const float *x, int64_t k, float *y,
                 uint8_t *codes);

#endif
