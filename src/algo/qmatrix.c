/* qmatrix.c - encoding and decoding one matrix in memory on the context's threads. */
#include <stdatomic.h>
#include <string.h>

#include "algo/rtn.h"
#include "base/context.h"
#include "base/mem.h"
#include "lutra/quant.h"

#define BLOCK_WEIGHTS (256 * 1024) /* weights a thread takes at a time */

static int64_t rows_at_a_time(int64_t k) { return k < BLOCK_WEIGHTS ? BLOCK_WEIGHTS / k : 1; }

typedef struct {
    const lu_encoder *encoder;
    const uint8_t *w;
    lutra_dtype dtype;
    lutra_qmatrix *q;
    _Atomic int64_t bad_row; /* the lowest row with a weight that cannot be encoded, or n */
} encode_job;

static int64_t encode_rows(const encode_job *j, int64_t begin, int64_t end, int64_t *column)
{
    const lutra_format *f = &j->encoder->format;
    const lutra_qmatrix *q = j->q;
    const size_t first = (size_t)begin, groups = (size_t)lutra_format_groups(f, q->k);
    lu_rtn_block b = {
        .w = j->w + first * (size_t)q->k * lutra_dtype_bytes(j->dtype),
        .dtype = j->dtype,
        .n = end - begin,
        .k = q->k,
        .codes = q->codes + first * lutra_format_row_bytes(f, q->k),
        .scales = (uint8_t *)q->scales + first * groups * lutra_dtype_bytes(f->scale_dtype),
        .zeros = q->zeros ? q->zeros + first * groups : NULL,
    };
    if (lu_rtn_encode(j->encoder, &b))
        return -1;
    *column = b.bad_column;
    return begin + b.bad_row;
}

static void encode_task(void *arg, int64_t begin, int64_t end, int worker)
{
    encode_job *j = arg;
    int64_t column;
    (void)worker;
    const int64_t row = encode_rows(j, begin, end, &column);
    int64_t lowest = atomic_load(&j->bad_row);
    while (row >= 0 && row < lowest && !atomic_compare_exchange_weak(&j->bad_row, &lowest, row))
        continue;
}

static lutra_status allocate(lutra_qmatrix *q, lutra_err *err)
{
    const lutra_format *f = &q->format;
    const size_t n = (size_t)q->n, groups = (size_t)lutra_format_groups(f, q->k);
    size_t code_bytes, scale_count;
    if (!lu_mul_size(n, lutra_format_row_bytes(f, q->k), &code_bytes) ||
        !lu_mul_size(n, groups, &scale_count))
        return lu_fail(err, LUTRA_E_LIMIT, "matrix of %lld x %lld is too large", (long long)q->n,
                       (long long)q->k);
    q->codes = lu_alloc(code_bytes);
    q->scales = lu_array(scale_count, lutra_dtype_bytes(f->scale_dtype));
    q->zeros = f->zero_point ? lu_alloc(scale_count) : NULL;
    if (!q->codes || !q->scales || (f->zero_point && !q->zeros))
        return lu_fail_nomem(err, code_bytes);
    return LUTRA_OK;
}

static lutra_status check_shape(const lutra_format *f, int64_t n, int64_t k, lutra_err *err)
{
    LU_TRY(lu_format_check(f, err));
    size_t bytes;
    if (n < 1 || k < 1 || !lu_mul_size((size_t)n, (size_t)k, &bytes) ||
        !lu_mul_size(bytes, 8, &bytes))
        return lu_fail(err, LUTRA_E_ARG,
                       "matrix of %lld x %lld, expected at least 1 x 1 that memory can hold",
                       (long long)n, (long long)k);
    if (lutra_format_groups(f, k) == 0)
        return lu_fail(err, LUTRA_E_ARG, "group size %lld does not divide %lld columns",
                       (long long)f->group_size, (long long)k);
    return LUTRA_OK;
}

lutra_status lutra_quantize_matrix(lutra_ctx *ctx, const lutra_format *f, int64_t n, int64_t k,
                                   const void *w, lutra_dtype w_dtype, lutra_qmatrix *out,
                                   lutra_err *err)
{
    lu_level level;
    LU_TRY(check_shape(f, n, k, err));
    LU_TRY(lu_level_parse(ctx->options.cpu, &level, err));
    if (lu_rtn_needs_row(w_dtype))
        return lu_fail(err, LUTRA_E_ARG, "weights of type %s, expected F32, F16 or BF16",
                       lutra_dtype_name(w_dtype));
    lutra_qmatrix q = {.format = *f, .n = n, .k = k};
    lu_encoder *encoder = lu_alloc(sizeof *encoder);
    lutra_status status = encoder ? allocate(&q, err) : lu_fail_nomem(err, sizeof *encoder);
    if (status == LUTRA_OK) {
        encode_job j = {.encoder = encoder, .w = w, .dtype = w_dtype, .q = &q};
        atomic_init(&j.bad_row, n);
        lu_encoder_init(encoder, f, level);
        lu_pool_for(ctx->pool, n, rows_at_a_time(k), encode_task, &j);
        const int64_t row = atomic_load(&j.bad_row);
        if (row < n) {
            const lutra_tensor t = {.dtype = w_dtype, .rank = 2, .shape = {n, k}, .data = w};
            int64_t column = 0;
            encode_rows(&j, row, row + 1, &column);
            status = lu_rtn_fail(f, &t, row, column, err);
        }
    }
    lu_free(encoder);
    if (status == LUTRA_OK)
        *out = q;
    else
        lutra_qmatrix_free(&q);
    return status;
}

void lutra_qmatrix_free(lutra_qmatrix *q)
{
    if (!q)
        return;
    lu_free(q->codes);
    lu_free(q->scales);
    lu_free(q->zeros);
    q->codes = q->zeros = NULL;
    q->scales = NULL;
}

typedef struct {
    const lutra_qmatrix *q;
    float *out;
} decode_job;

static void decode_task(void *arg, int64_t begin, int64_t end, int worker)
{
    const decode_job *j = arg;
    const lutra_qmatrix *q = j->q;
    const lutra_format *f = &q->format;
    const size_t groups = (size_t)lutra_format_groups(f, q->k);
    (void)worker;
    for (size_t r = (size_t)begin; r < (size_t)end; r++)
        lu_decode_row(f, q->codes + r * lutra_format_row_bytes(f, q->k),
                      (const uint8_t *)q->scales + r * groups * lutra_dtype_bytes(f->scale_dtype),
                      q->zeros ? q->zeros + r * groups : NULL, q->k, j->out + r * (size_t)q->k);
}

lutra_status lutra_dequantize_matrix(lutra_ctx *ctx, const lutra_qmatrix *q, float *out,
                                     lutra_err *err)
{
    LU_TRY(check_shape(&q->format, q->n, q->k, err));
    decode_job j = {q, out};
    lu_pool_for(ctx->pool, q->n, rows_at_a_time(q->k), decode_task, &j);
    return LUTRA_OK;
}
