/* attention_ref.c - reference attention, one query at a time in two passes: all scores into
   scratch, their softmax, then the weighted sum of values. Sums are in double. */
#include <math.h>

#include "kern/kv_quant.h"
#include "kern/levels.h"

/* Element d of the key (or value) at a position, as a query that sees n positions reads it. */
static float element(const lu_attend_args *a, bool value, int64_t n, int64_t position, int64_t d)
{
    const int64_t row = a->slots ? position % a->slots : position;
    const uint8_t *kv = value ? a->v : a->k;
    if (!lu_kv_is_kivi(a->kind))
        return lu_kv_decode(a->kind, kv + row * lu_kv_row_bytes(a->kind, a->head_dim), a->head_dim,
                            d);
    if (position >= (value ? lu_kivi_rounded_values(n) : lu_kivi_rounded_keys(n))) {
        const lu_kv_kind kind = a->recent_bf16 ? LU_KV_BF16 : LU_KV_F32;
        kv = value ? a->recent_v : a->recent_k;
        return lu_kv_decode(kind,
                            kv + position % a->recent_slots * lu_kv_row_bytes(kind, a->head_dim),
                            a->head_dim, d);
    }
    if (value)
        return lu_kv_decode(a->kind, kv + row * lu_kv_row_bytes(a->kind, a->head_dim), a->head_dim,
                            d);
    return lu_kivi_decode_key(a->kind,
                              kv + row / LU_KIVI_GROUP * lu_kivi_group_bytes(a->kind, a->head_dim),
                              a->head_dim, row % LU_KIVI_GROUP, d);
}

static float score(const lu_attend_args *a, const float *q, int64_t n, int64_t position)
{
    double sum = 0;
    for (int64_t d = 0; d < a->head_dim; d++)
        sum += (double)q[d] * element(a, false, n, position, d);
    const float s = (float)sum * a->scale;
    return a->softcap != 0 ? a->softcap * tanhf(s / a->softcap) : s;
}

static void attend_one(const lu_attend_args *a, const float *q, int64_t position, float *out)
{
    const int64_t n = position + 1;
    const int64_t first = a->window > 0 && a->window < n ? n - a->window : 0;
    float *p = a->scratch, m = -INFINITY;
    for (int64_t j = first; j < n; j++) {
        p[j] = score(a, q, n, j);
        m = p[j] > m ? p[j] : m;
    }
    double total = 0;
    for (int64_t j = first; j < n; j++) {
        p[j] = expf(p[j] - m);
        total += p[j];
    }
    for (int64_t d = 0; d < a->head_dim; d++) {
        double sum = 0;
        for (int64_t j = first; j < n; j++)
            sum += (double)p[j] * element(a, true, n, j, d);
        out[d] = (float)(sum / total);
    }
}

static void attend(const lu_attend_args *a)
{
    const int64_t n_heads = a->n_heads > 1 ? a->n_heads : 1;
    for (int64_t h = 0; h < n_heads; h++)
        for (int64_t i = 0; i < a->n_q; i++)
            attend_one(a, a->q + h * a->q_head_stride + i * a->q_stride, a->pos + i,
                       a->out + h * a->out_head_stride + i * a->out_stride);
}

void lu_fill_ref_attention(lu_ops *ops) { ops->attend = attend; }
