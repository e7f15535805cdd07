/* matmul.c - the public matrix product: an encoded matrix packed once, multiplied on the threads of
   the context. Threads share the blocks of rows of W (units of kern/linear.h), so that a result
   does not depend on their number. */
#include <string.h>

#include "base/context.h"
#include "base/mem.h"
#include "fmt/codec.h"
#include "kern/linear.h"
#include "lutra/quant.h"
#include "tensor/convert.h"

struct lutra_linear {
    lu_linear kernel;
    float *bias;
};

typedef struct {
    lu_linear *kernel;
    const lu_weight *w;
} pack_job;

static void pack_task(void *arg, int64_t begin, int64_t end, int worker)
{
    const pack_job *j = arg;
    (void)worker;
    lu_linear_pack(j->kernel, j->w, begin, end);
}

static lutra_status check(const lutra_qmatrix *q, lutra_dtype act, lutra_err *err)
{
    LU_TRY(lu_format_check(&q->format, err));
    if (q->n < 1 || q->k < 1 || lutra_format_groups(&q->format, q->k) == 0)
        return lu_fail(err, LUTRA_E_ARG,
                       "matrix of %lld x %lld in groups of %lld, expected groups that divide rows",
                       (long long)q->n, (long long)q->k, (long long)q->format.group_size);
    if (act != LUTRA_F32 && act != LUTRA_BF16)
        return lu_fail(err, LUTRA_E_ARG, "activations of type %s, expected F32 or BF16",
                       lutra_dtype_name(act));
    return LUTRA_OK;
}

static lutra_status pack(lutra_ctx *ctx, lutra_linear *l, const lu_weight *w, const float *bias,
                         lutra_err *err)
{
    void *packed = lu_alloc_aligned(l->kernel.packed_bytes);
    if (!packed)
        return lu_fail_nomem(err, l->kernel.packed_bytes);
    lu_linear_attach(&l->kernel, w, packed);
    if (bias) {
        l->bias = lu_array((size_t)w->n, sizeof *l->bias);
        if (!l->bias)
            return lu_fail_nomem(err, (size_t)w->n * sizeof *l->bias);
        memcpy(l->bias, bias, (size_t)w->n * sizeof *l->bias);
        l->kernel.bias = l->bias;
    }
    pack_job j = {&l->kernel, w};
    lu_pool_for(ctx->pool, l->kernel.n_units, 1, pack_task, &j);
    return LUTRA_OK;
}

lutra_status lutra_linear_open(lutra_ctx *ctx, const lutra_qmatrix *q, const float *bias,
                               lutra_dtype act, lutra_linear **out, lutra_err *err)
{
    lu_level level;
    LU_TRY(check(q, act, err));
    LU_TRY(lu_level_parse(ctx->options.cpu, &level, err));
    lu_weight w = {
        .n = q->n,
        .k = q->k,
        .dtype = LUTRA_DTYPE_NONE,
        .data = q->codes,
        .bits = q->format.bits,
        .group_size = q->format.group_size,
        .scales = q->scales,
        .scale_dtype = q->format.scale_dtype,
        .zeros = q->zeros,
    };
    const bool blocks = q->tables && q->format.table_rows;
    memcpy(w.table, q->format.table, sizeof w.table);
    if (blocks) {
        w.tables = q->tables;
        w.table_rows = q->format.table_rows;
    } else if (q->tables) {
        memcpy(w.table, q->tables, sizeof w.table[0] << q->format.bits);
    }
    lutra_linear *l = lu_calloc(1, sizeof *l);
    if (!l)
        return lu_fail_nomem(err, sizeof *l);
    lutra_status status = lu_linear_plan(&w, act, level, &l->kernel, err);
    if (status == LUTRA_OK)
        status = pack(ctx, l, &w, bias, err);
    if (status == LUTRA_OK)
        *out = l;
    else
        lutra_linear_close(l);
    return status;
}

void lutra_linear_close(lutra_linear *l)
{
    if (!l)
        return;
    lu_free_aligned(l->kernel.packed);
    lu_free(l->bias);
    lu_free(l);
}

typedef struct {
    const lu_linear *kernel;
    const void *x;
    int64_t m;
    float *y;
    uint8_t *scratch; /* one part per thread */
    size_t scratch_step;
} multiply_job;

static void multiply_task(void *arg, int64_t begin, int64_t end, int worker)
{
    const multiply_job *j = arg;
    const lu_linear *k = j->kernel;
    const lu_linear_args a = {.x = j->x,
                              .ldx = k->k,
                              .M = j->m,
                              .y = j->y,
                              .ldy = k->n,
                              .unit0 = begin,
                              .unit1 = end,
                              .scratch = j->scratch + (size_t)worker * j->scratch_step};
    lu_linear_run(k, &a);
}

lutra_status lutra_linear_multiply(lutra_ctx *ctx, const lutra_linear *l, int64_t m, const float *x,
                                   float *y, lutra_err *err)
{
    const lu_linear *k = &l->kernel;
    size_t count, bytes;
    if (m == 0)
        return LUTRA_OK;
    if (m < 0 || !lu_mul_size((size_t)m, (size_t)k->k, &count) ||
        !lu_mul_size(count, sizeof *x, &bytes))
        return lu_fail(err, LUTRA_E_ARG, "%lld rows of x, expected 0 or more that memory can hold",
                       (long long)m);
    multiply_job j = {.kernel = k, .x = x, .m = m, .y = y};
    j.scratch_step = (lu_linear_scratch(k, m) + 63) / 64 * 64;
    uint16_t *half = k->act == LUTRA_BF16 ? lu_array(count, sizeof *half) : NULL;
    if (!lu_mul_size((size_t)lu_pool_size(ctx->pool), j.scratch_step, &bytes))
        bytes = SIZE_MAX;
    j.scratch = lu_alloc_aligned(bytes);
    lutra_status status = LUTRA_OK;
    if (!j.scratch || (k->act == LUTRA_BF16 && !half)) {
        status = lu_fail_nomem(err, bytes);
    } else {
        if (half) {
            lu_from_f32(LUTRA_BF16, x, (int64_t)count, half);
            j.x = half;
        }
        lu_pool_for(ctx->pool, k->n_units, 1, multiply_task, &j);
    }
    lu_free(half);
    lu_free_aligned(j.scratch);
    return status;
}
