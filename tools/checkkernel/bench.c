/* bench.c - what checkkernel --bench times: row ops, attention and matrix products on shapes of
   real models, on one thread. timing.c does the measuring. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "checkkernel.h"
#include "tensor/convert.h"
#include "timing.h"

typedef struct bench {
    const lu_ops *ops;
    int64_t n;        /* elements of a row op */
    float *a, *b, *c; /* operands of row ops */
    uint16_t *h;
    lu_attend_args attend;
} bench;

static void run_bf16_to_f32(void *arg)
{
    const bench *b = arg;
    b->ops->bf16_to_f32(b->a, b->h, b->n);
}

static void run_f16_to_f32(void *arg)
{
    const bench *b = arg;
    b->ops->f16_to_f32(b->a, b->h, b->n);
}

static void run_f32_to_bf16(void *arg)
{
    const bench *b = arg;
    b->ops->f32_to_bf16(b->h, b->a, b->n);
}

static void run_f32_to_f16(void *arg)
{
    const bench *b = arg;
    b->ops->f32_to_f16(b->h, b->a, b->n);
}

static void run_rmsnorm(void *arg)
{
    const bench *b = arg;
    b->ops->rmsnorm(b->a, b->b, b->c, b->n, 1e-5f, 0);
}

static void run_rope(void *arg)
{
    const bench *b = arg;
    b->ops->rope(b->a, b->b, b->c, b->n / 128, 128);
}

static void run_silu_mul(void *arg)
{
    const bench *b = arg;
    b->ops->silu_mul(b->a, b->b, b->c, b->n);
}

static void run_gelu_mul(void *arg)
{
    const bench *b = arg;
    b->ops->gelu_mul(b->a, b->b, b->c, b->n);
}

static void run_add(void *arg)
{
    const bench *b = arg;
    b->ops->add(b->a, b->b, b->n);
}

static void run_axpy(void *arg)
{
    const bench *b = arg;
    b->ops->axpy(b->a, 0.5f, b->b, b->n);
}

static void run_softcap(void *arg)
{
    const bench *b = arg;
    b->ops->softcap(b->a, 30, b->n);
}

static void run_softmax(void *arg)
{
    const bench *b = arg;
    b->ops->softmax(b->a, b->n);
}

static void run_logsumexp(void *arg)
{
    const bench *b = arg;
    b->a[0] = b->ops->logsumexp(b->b, b->n);
}

static void run_argmax(void *arg)
{
    const bench *b = arg;
    b->a[0] = (float)b->ops->argmax(b->b, b->n);
}

static void run_attend(void *arg)
{
    const bench *b = arg;
    b->ops->attend(&b->attend);
}

typedef struct {
    const char *name;
    void (*run)(void *arg);
    int bytes_per_element; /* read + written */
    int64_t n;
} row_bench;

static const row_bench ROWS[] = {
    {"bf16_to_f32", run_bf16_to_f32, 6, 16384},
    {"f16_to_f32", run_f16_to_f32, 6, 16384},
    {"f32_to_bf16", run_f32_to_bf16, 6, 16384},
    {"f32_to_f16", run_f32_to_f16, 6, 16384},
    {"rmsnorm", run_rmsnorm, 12, 4096},
    {"rope", run_rope, 8, 4096},
    {"silu_mul", run_silu_mul, 12, 14336},
    {"gelu_mul", run_gelu_mul, 12, 14336},
    {"add", run_add, 12, 4096},
    {"axpy", run_axpy, 12, 4096},
    {"softcap", run_softcap, 8, 131072},
    {"softmax", run_softmax, 8, 131072},
    {"logsumexp", run_logsumexp, 4, 131072},
    {"argmax", run_argmax, 4, 131072},
};

/* Llama-3-like attention: decode of one token with 4 query heads per KV head, prefill of 512. */
typedef struct {
    int64_t n_q, n_heads, pos, head_dim;
    lu_kv_kind kind;
} attend_shape;

static const attend_shape ATTENDS[] = {
    {1, 1, 4095, 64, LU_KV_F32},      {1, 4, 4095, 64, LU_KV_F32},
    {1, 4, 4095, 128, LU_KV_BF16},    {1, 4, 4095, 128, LU_KV_INT8},
    {1, 4, 4095, 128, LU_KV_INT4},    {1, 4, 4095, 128, LU_KV_FP8},
    {1, 4, 4095, 128, LU_KV_KIVI4},   {1, 4, 4095, 128, LU_KV_KIVI2},
    {512, 1, 0, 64, LU_KV_F32},       {512, 1, 7680, 64, LU_KV_F32},
    {512, 1, 7680, 128, LU_KV_BF16},  {512, 1, 7680, 128, LU_KV_INT8},
    {512, 1, 7680, 128, LU_KV_KIVI2},
};

static void fill(float *x, int64_t n)
{
    ck t = {.rng = 5};
    for (int64_t i = 0; i < n; i++)
        x[i] = ck_gauss(&t);
}

static void fill_bf16(uint16_t *x, int64_t n)
{
    ck t = {.rng = 6};
    for (int64_t i = 0; i < n; i++)
        x[i] = lu_f32_to_bf16(ck_gauss(&t));
}

/* Codes of quantized rows are bytes of one value, as are their scales: speed does not depend on
   them. */
static void fill_kv(void *kv, size_t bytes, lu_kv_kind kind)
{
    if (kind == LU_KV_BF16)
        fill_bf16(kv, (int64_t)bytes / 2);
    else if (kind == LU_KV_F32)
        fill(kv, (int64_t)bytes / 4);
    else
        memset(kv, 0x2c, bytes);
}

static bool bench_row(const lu_ops *ops, const row_bench *r, const ck_roof *roof)
{
    const size_t n = (size_t)r->n;
    bench b = {.ops = ops, .n = r->n};
    b.a = lu_alloc_aligned(n * 4);
    b.b = lu_alloc_aligned(n * 4);
    b.c = lu_alloc_aligned(n * 4);
    b.h = lu_alloc_aligned(n * 2);
    const bool ok = b.a && b.b && b.c && b.h;
    if (ok) {
        ck_timed t = {.op = r->name,
                      .run = r->run,
                      .arg = &b,
                      .bytes = (double)(r->n * r->bytes_per_element),
                      .operands = {{b.a, n * 4}, {b.b, n * 4}, {b.c, n * 4}, {b.h, n * 2}},
                      .n_operands = 4};
        fill(b.a, r->n);
        fill(b.b, r->n);
        fill(b.c, r->n);
        fill_bf16(b.h, r->n);
        snprintf(t.shape, sizeof t.shape, "n=%lld", (long long)r->n);
        ck_time(&t, roof);
    }
    lu_free_aligned(b.a);
    lu_free_aligned(b.b);
    lu_free_aligned(b.c);
    lu_free_aligned(b.h);
    return ok;
}

static void time_attend(bench *b, const attend_shape *s, size_t kv, const ck_roof *roof)
{
    const lu_attend_args *a = &b->attend;
    ck_timed t = {.op = "attend",
                  .run = run_attend,
                  .arg = b,
                  .bytes = 2.0 * (double)kv + 8.0 * (double)(s->n_q * a->q_stride),
                  .operands = {{a->k, kv}, {a->v, kv}},
                  .n_operands = 2};
    for (int64_t i = 0; i < s->n_q; i++)
        t.flops += 4.0 * (double)(s->head_dim * s->n_heads * (s->pos + i + 1));
    snprintf(t.shape, sizeof t.shape, "q%lld h%lld kv%lld d%lld %s", (long long)s->n_q,
             (long long)s->n_heads, (long long)(s->pos + s->n_q), (long long)s->head_dim,
             lu_kv_kind_name(s->kind));
    ck_time(&t, roof);
}

static bool bench_attend(const lu_ops *ops, const attend_shape *s, const ck_roof *roof)
{
    const int64_t row = s->n_heads * s->head_dim, n_kv = s->pos + s->n_q;
    const bool kivi = lu_kv_is_kivi(s->kind);
    const size_t kv = (size_t)(n_kv * lu_kv_row_bytes(s->kind, s->head_dim));
    const size_t keys = kivi ? (size_t)((n_kv + LU_KIVI_GROUP - 1) / LU_KIVI_GROUP *
                                        lu_kivi_group_bytes(s->kind, s->head_dim))
                             : kv;
    const size_t recent = kivi ? (size_t)(n_kv + 63) / 64 * 64 * (size_t)s->head_dim * 2 : 0;
    const size_t q = (size_t)(s->n_q * row) * 4;
    float *query = lu_alloc_aligned(q), *out = lu_alloc_aligned(q);
    void *k = lu_alloc_aligned(keys), *v = lu_alloc_aligned(kv);
    void *as_they_were = lu_alloc_aligned(recent + 1);
    float *scratch = lu_alloc_aligned(lu_attend_scratch(n_kv, s->head_dim) * sizeof *scratch);
    const bool ok = query && out && k && v && as_they_were && scratch;
    if (ok) {
        const lu_attend_args a = {.q = query,
                                  .q_stride = row,
                                  .q_head_stride = s->head_dim,
                                  .n_q = s->n_q,
                                  .n_heads = s->n_heads,
                                  .pos = s->pos,
                                  .k = k,
                                  .v = v,
                                  .kind = s->kind,
                                  .recent_k = as_they_were,
                                  .recent_v = as_they_were,
                                  .recent_slots = (n_kv + 63) / 64 * 64,
                                  .recent_bf16 = 1,
                                  .head_dim = s->head_dim,
                                  .scale = 1 / sqrtf((float)s->head_dim),
                                  .out = out,
                                  .out_stride = row,
                                  .out_head_stride = s->head_dim,
                                  .scratch = scratch};
        bench b = {.ops = ops, .attend = a};
        fill(query, s->n_q * row);
        fill_kv(k, keys, s->kind);
        fill_kv(v, kv, s->kind);
        fill_bf16(as_they_were, (int64_t)recent / 2);
        time_attend(&b, s, kv, roof);
    }
    lu_free_aligned(query);
    lu_free_aligned(out);
    lu_free_aligned(k);
    lu_free_aligned(as_they_were);
    lu_free_aligned(v);
    lu_free_aligned(scratch);
    return ok;
}

int ck_bench(const lu_ops *ops, lu_level level, const char *filter, bool json)
{
    const ck_roof roof = {.level = level, .gb_s = ck_read_bandwidth() / 1e9, .json = json};
    int n = 0;
    if (!json)
        printf("%-6s roof: %.2f GB/s read by one thread\n", lu_level_name(level), roof.gb_s);
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++)
        if (!filter || strstr(ROWS[i].name, filter))
            n += bench_row(ops, &ROWS[i], &roof);
    for (size_t i = 0; i < sizeof ATTENDS / sizeof *ATTENDS; i++)
        if (!filter || strstr("attend", filter))
            n += bench_attend(ops, &ATTENDS[i], &roof);
    if (!filter || strstr("linear", filter))
        n += ck_bench_linear(&roof);
    return n;
}
