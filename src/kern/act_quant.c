/* act_quant.c - see act_quant.h. */
#include "kern/act_quant.h"

#include <math.h>
#include <string.h>

bool lu_act_same(const lu_act_quant *a, const lu_act_quant *b)
{
    return lu_act_format_same(&a->format, &b->format) &&
           (a->format.scope != LU_ACT_TENSOR || (a->scale == b->scale && a->zero == b->zero));
}

/* Codes of n values that share a scale. */
static void encode(const lu_ops *ops, const lu_act_quant *q, const float *x, int64_t n,
                   uint8_t *codes, float *scale, int *zero)
{
    float range[2];
    ops->act_range(range, x, n);
    if (q->format.scope == LU_ACT_TENSOR) {
        *scale = isfinite(range[0]) ? q->scale : NAN;
        *zero = q->zero;
    } else {
        lu_act_params(&q->format, range[0], range[1], scale, zero);
    }
    if (isfinite(*scale))
        ops->act_encode(codes, x, n, *scale, *zero, lu_act_lowest(&q->format),
                        lu_act_highest(&q->format));
    else
        memset(codes, *zero, (size_t)n);
}

void lu_act_record(const lu_ops *ops, const lu_act_quant *q, const float *x, int64_t k,
                   uint8_t *record)
{
    float scale;
    int zero;
    encode(ops, q, x, k, record + LU_ACT_HEADER, &scale, &zero);
    memset(record, 0, LU_ACT_HEADER);
    memcpy(record, &scale, sizeof scale);
    record[sizeof scale] = (uint8_t)zero;
    memset(record + LU_ACT_HEADER + k, 0, (size_t)(lu_act_record_bytes(k) - LU_ACT_HEADER - k));
}

void lu_act_fake(const lu_ops *ops, const lu_act_quant *q, const float *x, int64_t k, float *y,
                 uint8_t *codes)
{
    const int64_t group = q->format.scope == LU_ACT_GROUP ? q->format.group_size : k;
    for (int64_t at = 0; at < k; at += group) {
        float scale;
        int zero;
        encode(ops, q, x + at, group, codes, &scale, &zero);
        ops->act_decode(y + at, codes, group, scale, zero);
    }
}
