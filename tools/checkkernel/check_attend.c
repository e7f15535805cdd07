/* check_attend.c - attention against its definition in double over the values that the cache holds
   (decoded by kern/kv_quant.h), and a query's bits when it comes alone against the same query in a
   batch. What no query sees is NaN.

   Bound, with s the scores, p the weights, m the maximum:
     ds_j = 8 u sqrt(head_dim) |q o k_j|_2 scale + 8 u |s_j|       (dot product, scale, softcap)
     e_j  = ds_j + 2 u |s_j - m| + 4 u (1 + sqrt(blocks))          (weight and its rescalings)
     |out - want| <= sum p_j (e_j + mean e) |v_j| + 8 u sqrt(n) |p o v|_2 + 4 u |want|
     plus 4 spacings of subnormals times |v_j|, for weights down there */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "checkkernel.h"
#include "kern/kv_quant.h"
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
    {130, 1, 70, 64, 65, 0}, {70, 2, 100, 64, 0, 0},  {40, 1, 230, 48, 200, 0},
    {5, 2, 250, 66, 0, 0},   {1, 3, 383, 64, 0, 0},   {2, 7, 510, 32, 1, 0},
    {0, 1, 10, 64, 0, 0},
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
            drift += 4 * CK_TINY * fabs(o->v[j * o->head_dim + d]); /* of subnormal weights */
            squares += term * term;
        }
        const double bound = drift + 8 * CK_U * sqrt((double)(n - first) * squares) +
                             4 * CK_U * fabs(want) + (double)n * CK_TINY;
        if (!ck_close(t, "out", (i * a->n_heads + h) * a->head_dim + d, out[d], want, bound))
            return false;
    }
    return true;
}

/* A cache of n_kv positions as a model would have filled it, and what went in. */
typedef struct {
    lu_attend_args *a;
    int64_t n_kv;
    const float *x[2]; /* keys, values: [n_kv][head_dim] */
} cache;

static void put_row(ck *t, lu_kv_kind kind, const float *x, int64_t head_dim, void *rows,
                    int64_t row)
{
    lu_ops ref;
    uint8_t codes[512];
    (void)t;
    lu_ops_fill(&ref, LU_LEVEL_REF);
    lu_kv_encode_row(&ref, kind, x, head_dim,
                     (uint8_t *)rows + row * lu_kv_row_bytes(kind, head_dim), codes);
}

static int64_t at_slot(int64_t slots, int64_t position)
{
    return slots ? position % slots : position;
}

/* Rows, or KIVI's key groups, of keys (value = false) or values. */
static void *fill_cache(ck *t, const cache *c, bool value)
{
    const lu_attend_args *a = c->a;
    const int64_t dim = a->head_dim, rows = a->slots ? a->slots : c->n_kv;
    const bool groups = lu_kv_is_kivi(a->kind) && !value;
    const int64_t bytes =
        groups ? lu_kivi_group_bytes(a->kind, dim) : lu_kv_row_bytes(a->kind, dim);
    const int64_t n = groups ? (rows + LU_KIVI_GROUP - 1) / LU_KIVI_GROUP : rows;
    uint8_t *out = ck_output(t, (size_t)(n * bytes));
    for (int64_t p = 0; p < c->n_kv; p++)
        if (!groups)
            put_row(t, a->kind, c->x[value] + p * dim, dim, out, at_slot(a->slots, p));
        else if (p % LU_KIVI_GROUP == LU_KIVI_GROUP - 1)
            lu_kivi_encode_keys(a->kind, c->x[0] + (p - LU_KIVI_GROUP + 1) * dim, dim,
                                out + at_slot(a->slots, p) / LU_KIVI_GROUP * bytes);
    ck_freeze(t, out);
    return out;
}

static void *fill_recent(ck *t, const cache *c, bool value)
{
    const lu_kv_kind kind = c->a->recent_bf16 ? LU_KV_BF16 : LU_KV_F32;
    const int64_t dim = c->a->head_dim;
    uint8_t *out = ck_output(t, (size_t)(c->a->recent_slots * lu_kv_row_bytes(kind, dim)));
    for (int64_t p = 0; p < c->n_kv; p++)
        put_row(t, kind, c->x[value] + p * dim, dim, out, p % c->a->recent_slots);
    ck_freeze(t, out);
    return out;
}

static int64_t round_up(int64_t n) { return (n + 63) / 64 * 64; }

static void make_cache(ck *t, cache *c, ck_kind k_kind, ck_kind v_kind, bool ring)
{
    lu_attend_args *a = c->a;
    c->x[0] = ck_input(t, c->n_kv * a->head_dim, k_kind);
    c->x[1] = ck_input(t, c->n_kv * a->head_dim, v_kind);
    if (ring && a->window && round_up(a->window + a->n_q) < c->n_kv)
        a->slots = round_up(a->window + a->n_q);
    a->k = fill_cache(t, c, false);
    a->v = fill_cache(t, c, true);
    if (!lu_kv_is_kivi(a->kind))
        return;
    a->recent_slots = round_up(LU_KIVI_RECENT + a->n_q);
    a->recent_bf16 = ring;
    a->recent_k = fill_recent(t, c, false);
    a->recent_v = fill_recent(t, c, true);
}

/* The values that a query reads which sees n positions. */
static void read_cache(const cache *c, int64_t n, oracle *o)
{
    const lu_attend_args *a = c->a;
    const int64_t dim = a->head_dim;
    const bool kivi = lu_kv_is_kivi(a->kind);
    const lu_kv_kind recent = a->recent_bf16 ? LU_KV_BF16 : LU_KV_F32;
    for (int64_t p = a->window && n > a->window ? n - a->window : 0; p < n; p++)
        for (int value = 0; value < 2; value++) {
            double *out = (value ? o->v : o->k) + p * dim;
            const uint8_t *rows = value ? a->v : a->k;
            const int64_t row = at_slot(a->slots, p);
            const bool as_it_was =
                kivi && p >= (value ? lu_kivi_rounded_values(n) : lu_kivi_rounded_keys(n));
            const uint8_t *was = value ? a->recent_v : a->recent_k;
            if (as_it_was)
                was += p % a->recent_slots * lu_kv_row_bytes(recent, dim);
            const uint8_t *group = rows + row / LU_KIVI_GROUP * lu_kivi_group_bytes(a->kind, dim);
            const uint8_t *mine = rows + row * lu_kv_row_bytes(a->kind, dim);
            for (int64_t d = 0; d < dim; d++)
                out[d] = as_it_was ? lu_kv_decode(recent, was, dim, d)
                         : kivi && !value
                             ? lu_kivi_decode_key(a->kind, group, dim, row % LU_KIVI_GROUP, d)
                             : lu_kv_decode(a->kind, mine, dim, d);
        }
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

static void attend_case(ck *t, const shape *s, lu_kv_kind kv, bool ring, ck_kind kind,
                        ck_kind v_kind)
{
    const int64_t row = s->n_heads * s->head_dim, n_kv = s->pos + s->n_q, n = n_kv * s->head_dim;
    oracle o = {doubles(n),    doubles(n), doubles(n_kv), doubles(n_kv),
                doubles(n_kv), n_kv,       s->head_dim};
    lu_attend_args a = {.q_stride = row,
                        .q_head_stride = s->head_dim,
                        .n_q = s->n_q,
                        .n_heads = s->n_heads,
                        .pos = s->pos,
                        .kind = kv,
                        .head_dim = s->head_dim,
                        .window = s->window,
                        .softcap = s->softcap,
                        .scale = 1 / sqrtf((float)s->head_dim),
                        .out_stride = row,
                        .out_head_stride = s->head_dim};
    a.q = ck_input(t, s->n_q * row, kind);
    ck_freeze(t, a.q);
    cache c = {.a = &a, .n_kv = n_kv};
    make_cache(t, &c, kind, v_kind, ring);
    a.out = ck_output(t, (size_t)(s->n_q * row) * sizeof(float));
    a.scratch = ck_output(t, lu_attend_scratch(n_kv, s->head_dim) * sizeof(float));
    t->ops->attend(&a);
    bool ok = true;
    for (int64_t i = 0; i < s->n_q && ok; i++) {
        read_cache(&c, s->pos + i + 1, &o);
        for (int64_t h = 0; h < s->n_heads && ok; h++)
            ok = check_query(t, &a, &o, h, i);
    }
    if (ok)
        check_alone(t, &a, ck_output(t, (size_t)s->head_dim * sizeof(float)));
    free(o.k);
    free(o.v);
    free(o.s);
    free(o.p);
    free(o.e);
}

/* Huge or subnormal scores say nothing (the bound on a weight exceeds 1); values may be either, but
   for codes whose scale is a float16. */
void ck_check_attend(ck *t)
{
    for (size_t i = 0; i < N_SHAPES; i++)
        for (int kv = 0; kv < LU_N_KV_KINDS; kv++)
            for (int kind = 0; kind < (kv <= LU_KV_BF16 ? CK_N_KINDS : CK_LARGE); kind++) {
                const shape *s = &SHAPES[i];
                ck_case(
                    t, "n_q %lld, heads %lld, pos %lld, head_dim %lld, window %lld, cap %g, %s, %s",
                    (long long)s->n_q, (long long)s->n_heads, (long long)s->pos,
                    (long long)s->head_dim, (long long)s->window, (double)s->softcap,
                    lu_kv_kind_name((lu_kv_kind)kv), ck_kind_name((ck_kind)kind));
                attend_case(t, s, (lu_kv_kind)kv, (i + (size_t)kind) % 2,
                            kind >= CK_LARGE ? CK_GAUSS : (ck_kind)kind, (ck_kind)kind);
                if (!ck_end_case(t))
                    return;
            }
}
