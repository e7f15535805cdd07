/* check_attend.c - attention against its definition in double, and a query's bits when it comes
   alone against the same query in a batch.

   Bound, with s the scores, p the weights, m the maximum:
     ds_j = 8 u sqrt(head_dim) |q o k_j|_2 scale + 8 u |s_j|       (dot product, scale, softcap)
     e_j  = ds_j + 2 u |s_j - m| + 4 u (1 + sqrt(blocks))          (weight and its rescalings)
     |out - want| <= sum p_j (e_j + mean e) |v_j| + 8 u sqrt(n) |p o v|_2 + 4 u |want| */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "checkkernel.h"
#include "tensor/convert.h"

typedef struct {
    int64_t n_q, n_heads, pos, head_dim, window;
    float softcap;
} shape;

static const shape SHAPES[] = {
    {1, 1, 0, 64, 0, 0},     {1, 4, 100, 64, 0, 0},   {1, 1, 1000, 128, 0, 0},
    {3, 1, 0, 1, 0, 0},      {5, 2, 61, 7, 0, 0},     {2, 3, 63, 8, 0, 0},
    {4, 1, 64, 9, 0, 0},     {7, 1, 120, 15, 20, 0},  {16, 2, 0, 16, 0, 50},
    {17, 1, 5, 17, 3, 0},    {33, 1, 31, 31, 64, 30}, {3, 8, 200, 80, 0, 0},
    {9, 2, 250, 96, 128, 0}, {66, 1, 0, 128, 0, 0},   {20, 4, 40, 256, 33, 50},
    {130, 1, 70, 64, 65, 0}, {2, 7, 510, 32, 1, 0},   {0, 1, 10, 64, 0, 0},
};
#define N_SHAPES (sizeof SHAPES / sizeof *SHAPES)

typedef struct {
    double *k, *v;     /* [n_kv][head_dim] as the kernel reads them */
    double *s, *p, *e; /* [n_kv] of one query */
    int64_t n_kv, head_dim;
} oracle;

static double *doubles(int64_t n)
{
    double *x = malloc((size_t)(n + 1) * sizeof *x);
    if (!x)
        abort();
    return x;
}

static void one_score(const lu_attend_args *a, const oracle *o, const float *q, int64_t j)
{
    double sum = 0, squares = 0;
    for (int64_t d = 0; d < o->head_dim; d++) {
        const double product = q[d] * o->k[j * o->head_dim + d];
        sum += product;
        squares += product * product;
    }
    const double raw = sum * a->scale;
    o->s[j] = a->softcap != 0 ? a->softcap * tanh(raw / a->softcap) : raw;
    o->e[j] = 8 * CK_U * (sqrt((double)o->head_dim * squares) * a->scale + fabs(o->s[j]));
}

/* Weights and their relative errors; returns the mean error. Positions before `first` get 0. */
static double weigh(const oracle *o, int64_t first, int64_t n)
{
    double m = -INFINITY, total = 0, mean = 0;
    for (int64_t j = first; j < n; j++)
        m = fmax(m, o->s[j]);
    for (int64_t j = first; j < n; j++)
        total += o->p[j] = exp(o->s[j] - m);
    for (int64_t j = first; j < n; j++) {
        o->p[j] /= total;
        o->e[j] += 2 * CK_U * (m - o->s[j]) + 4 * CK_U * (1 + sqrt((double)n / 64));
        mean += o->p[j] * o->e[j];
    }
    return mean;
}

static bool check_query(ck *t, const lu_attend_args *a, const oracle *o, int64_t h, int64_t i)
{
    const float *q = a->q + h * a->q_head_stride + i * a->q_stride;
    const float *out = a->out + h * a->out_head_stride + i * a->out_stride;
    const int64_t n = a->pos + i + 1, first = a->window > 0 && a->window < n ? n - a->window : 0;
    for (int64_t j = first; j < n; j++)
        one_score(a, o, q, j);
    const double mean = weigh(o, first, n);
    for (int64_t d = 0; d < a->head_dim; d++) {
        double want = 0, drift = 0, squares = 0;
        for (int64_t j = first; j < n; j++) {
            const double term = o->p[j] * o->v[j * o->head_dim + d];
            want += term;
            drift += fabs(term) * (o->e[j] + mean);
            squares += term * term;
        }
        const double bound = drift + 8 * CK_U * sqrt((double)(n - first) * squares) +
                             4 * CK_U * fabs(want) + (double)n * CK_TINY;
        if (!ck_close(t, "out", (i * a->n_heads + h) * a->head_dim + d, out[d], want, bound))
            return false;
    }
    return true;
}

/* float values of kind, as float or bf16; the doubles are what the kernel will read */
static void *make_kv(ck *t, int64_t n, int bf16, ck_kind kind, double *as_double)
{
    float *x = ck_input(t, n, kind);
    uint16_t *h = bf16 ? ck_output(t, (size_t)n * sizeof *h) : NULL;
    for (int64_t i = 0; i < n; i++) {
        if (bf16)
            h[i] = lu_f32_to_bf16(x[i]);
        as_double[i] = bf16 ? lu_bf16_to_f32(h[i]) : x[i];
    }
    ck_freeze(t, bf16 ? (const void *)h : x);
    return bf16 ? (void *)h : x;
}

/* Each query by itself, one head at a time: the same bits. */
static bool check_alone(ck *t, const lu_attend_args *a, float *out)
{
    for (int64_t h = 0; h < a->n_heads; h++)
        for (int64_t i = 0; i < a->n_q; i++) {
            lu_attend_args one = *a;
            one.q = a->q + h * a->q_head_stride + i * a->q_stride;
            one.pos = a->pos + i;
            one.n_q = 1;
            one.n_heads = 0;
            one.out = out;
            t->ops->attend(&one);
            const float *batch = a->out + h * a->out_head_stride + i * a->out_stride;
            for (int64_t d = 0; d < a->head_dim; d++)
                if (!ck_same(t, "query alone, out", d, lu_f32_bits(out[d]), lu_f32_bits(batch[d])))
                    return false;
        }
    return true;
}

static void attend_case(ck *t, const shape *s, int bf16, ck_kind kind, ck_kind v_kind)
{
    const int64_t row = s->n_heads * s->head_dim, n_kv = s->pos + s->n_q, n = n_kv * s->head_dim;
    oracle o = {doubles(n),    doubles(n), doubles(n_kv), doubles(n_kv),
                doubles(n_kv), n_kv,       s->head_dim};
    lu_attend_args a = {.q_stride = row,
                        .q_head_stride = s->head_dim,
                        .n_q = s->n_q,
                        .n_heads = s->n_heads,
                        .pos = s->pos,
                        .kv_bf16 = bf16,
                        .head_dim = s->head_dim,
                        .window = s->window,
                        .softcap = s->softcap,
                        .scale = 1 / sqrtf((float)s->head_dim),
                        .out_stride = row,
                        .out_head_stride = s->head_dim};
    a.q = ck_input(t, s->n_q * row, kind);
    ck_freeze(t, a.q);
    a.k = make_kv(t, n, bf16, kind, o.k);
    a.v = make_kv(t, n, bf16, v_kind, o.v);
    a.out = ck_output(t, (size_t)(s->n_q * row) * sizeof(float));
    a.scratch = ck_output(t, lu_attend_scratch(n_kv, s->head_dim) * sizeof(float));
    t->ops->attend(&a);
    bool ok = true;
    for (int64_t h = 0; h < s->n_heads && ok; h++)
        for (int64_t i = 0; i < s->n_q && ok; i++)
            ok = check_query(t, &a, &o, h, i);
    if (ok)
        check_alone(t, &a, ck_output(t, (size_t)s->head_dim * sizeof(float)));
    free(o.k);
    free(o.v);
    free(o.s);
    free(o.p);
    free(o.e);
}

/* Huge or subnormal scores say nothing (the bound on a weight exceeds 1); values may be either. */
void ck_check_attend(ck *t)
{
    for (size_t i = 0; i < N_SHAPES; i++)
        for (int bf16 = 0; bf16 < 2; bf16++)
            for (int kind = 0; kind < CK_N_KINDS; kind++) {
                const shape *s = &SHAPES[i];
                ck_case(
                    t, "n_q %lld, heads %lld, pos %lld, head_dim %lld, window %lld, cap %g, %s, %s",
                    (long long)s->n_q, (long long)s->n_heads, (long long)s->pos,
                    (long long)s->head_dim, (long long)s->window, (double)s->softcap,
                    bf16 ? "bf16" : "f32", ck_kind_name((ck_kind)kind));
                attend_case(t, s, bf16, kind >= CK_LARGE ? CK_GAUSS : (ck_kind)kind, (ck_kind)kind);
                if (!ck_end_case(t))
                    return;
            }
}
