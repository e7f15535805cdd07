/* attention_ref.c - reference attention, one query at a time in two passes: all scores into scratch,
   their softmax, then the weighted sum of values. Sums are in double. */
#include <math.h>

#include "kern/levels.h"
#include "tensor/convert.h"

static float element(const void *kv, int bf16, int64_t i)
{
    return bf16 ? lu_bf16_to_f32(((const uint16_t *)kv)[i]) : ((const float *)kv)[i];
}

static float score(const lu_attend_args *a, const float *q, int64_t position)
{
    double sum = 0;
    for (int64_t d = 0; d < a->head_dim; d++)
        sum += (double)q[d] * element(a->k, a->kv_bf16, position * a->head_dim + d);
    const float s = (float)sum * a->scale;
    return a->softcap != 0 ? a->softcap * tanhf(s / a->softcap) : s;
}

static void attend_one(const lu_attend_args *a, const float *q, int64_t position, float *out)
{
    const int64_t n = position + 1;
    const int64_t first = a->window > 0 && a->window < n ? n - a->window : 0;
    float *p = a->scratch, m = -INFINITY;
    for (int64_t j = first; j < n; j++) {
        p[j] = score(a, q, j);
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
            sum += (double)p[j] * element(a->v, a->kv_bf16, j * a->head_dim + d);
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
