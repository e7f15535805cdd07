/* qmatrix.c - encoding and decoding one matrix in memory on the context's threads. */
#include <stdatomic.h>
#include <string.h>

#include "algo/learn_table.h"
#include "algo/rtn.h"
#include "base/context.h"
#include "base/mem.h"
#include "fmt/scheme.h"
#include "lutra/quant.h"

#define BLOCK_WEIGHTS (256 * 1024) /* weights a thread takes at a time */

static int64_t rows_at_a_time(int64_t k) { return k < BLOCK_WEIGHTS ? BLOCK_WEIGHTS / k : 1; }

typedef struct {
    const lu_encoder *encoder; /* for the rows from `first` on */
    int64_t first;
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
    const int64_t row = encode_rows(j, j->first + begin, j->first + end, &column);
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

/* ---- learned tables ------------------------------------------------------------------------- */

typedef struct {
    const lutra_matrix *m;
    lutra_qmatrix *q;
    lu_level level;
    _Atomic bool failed;
} learn_job;

static int64_t rows_of_table(const lutra_qmatrix *q)
{
    return q->format.table_rows ? q->format.table_rows : q->n;
}

static void learn_task(void *arg, int64_t begin, int64_t end, int worker)
{
    learn_job *j = arg;
    const lutra_matrix *m = j->m;
    const int64_t rows = rows_of_table(j->q);
    const size_t row_bytes = (size_t)m->k * lutra_dtype_bytes(m->dtype);
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        const int64_t first = i * rows, left = m->n - first;
        const lu_learn_args a = {.format = &j->q->format,
                                 .level = j->level,
                                 .w = (const uint8_t *)m->w + (size_t)first * row_bytes,
                                 .dtype = m->dtype,
                                 .n = left < rows ? left : rows,
                                 .k = m->k,
                                 .importance = m->importance};
        if (lu_learn_table(&a, j->q->tables + (i << j->q->format.bits), NULL) != LUTRA_OK)
            atomic_store(&j->failed, true);
    }
}

static lutra_status learn(lutra_ctx *ctx, const lutra_matrix *m, lu_level level, lutra_qmatrix *q,
                          lutra_err *err)
{
    const int64_t tables = lu_format_tables(&q->format, q->n);
    const size_t values = (size_t)tables << q->format.bits;
    q->tables = lu_array(values, sizeof *q->tables);
    learn_job j = {.m = m, .q = q, .level = level};
    atomic_init(&j.failed, q->tables == NULL);
    if (q->tables)
        lu_pool_for(ctx->pool, tables, 1, learn_task, &j);
    return atomic_load(&j.failed) ? lu_fail_nomem(err, values * sizeof *q->tables) : LUTRA_OK;
}

/* The format with the table that row `row` uses. */
static lutra_format row_format(const lutra_qmatrix *q, int64_t row)
{
    lutra_format f = q->format;
    if (q->tables)
        memcpy(f.table, q->tables + (row / rows_of_table(q) << f.bits),
               sizeof f.table[0] << f.bits);
    return f;
}

/* ---- encoding ------------------------------------------------------------------------------- */

static lutra_status encode(lutra_ctx *ctx, const lutra_matrix *m, lutra_range range, lu_level level,
                           lutra_qmatrix *q, lutra_err *err)
{
    lu_encoder *encoder = lu_alloc(sizeof *encoder);
    if (!encoder)
        return lu_fail_nomem(err, sizeof *encoder);
    const int64_t step = q->tables ? rows_of_table(q) : m->n;
    encode_job j = {.encoder = encoder, .w = m->w, .dtype = m->dtype, .q = q};
    lutra_status status = LUTRA_OK;
    atomic_init(&j.bad_row, m->n);
    for (; status == LUTRA_OK && j.first < m->n; j.first += step) {
        const lutra_format f = row_format(q, j.first);
        lu_encoder_init(encoder, &f, level);
        encoder->range = f.learned ? LUTRA_RANGE_MSE : range;
        const int64_t rows = m->n - j.first < step ? m->n - j.first : step;
        lu_pool_for(ctx->pool, rows, rows_at_a_time(m->k), encode_task, &j);
        const int64_t row = atomic_load(&j.bad_row);
        if (row < m->n) {
            const lutra_tensor t = {
                .dtype = m->dtype, .rank = 2, .shape = {m->n, m->k}, .data = m->w};
            int64_t column = 0;
            encode_rows(&j, row, row + 1, &column);
            status = lu_rtn_fail(&q->format, &t, row, column, err);
        }
    }
    lu_free(encoder);
    return status;
}

lutra_status lutra_quantize_matrix(lutra_ctx *ctx, const lutra_format *f, lutra_range range,
                                   const lutra_matrix *m, lutra_qmatrix *out, lutra_err *err)
{
    lu_level level;
    LU_TRY(check_shape(f, m->n, m->k, err));
    LU_TRY(lu_level_parse(ctx->options.cpu, &level, err));
    if (lu_rtn_needs_row(m->dtype))
        return lu_fail(err, LUTRA_E_ARG, "weights of type %s, expected F32, F16 or BF16",
                       lutra_dtype_name(m->dtype));
    LU_TRY(lu_range_check(range, err));
    lutra_qmatrix q = {.format = *f, .n = m->n, .k = m->k};
    lutra_status status = allocate(&q, err);
    if (status == LUTRA_OK && f->learned)
        status = learn(ctx, m, level, &q, err);
    if (status == LUTRA_OK)
        status = encode(ctx, m, range, level, &q, err);
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
    lu_free(q->tables);
    q->tables = NULL;
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
    const size_t groups = (size_t)lutra_format_groups(&q->format, q->k);
    lutra_format f = row_format(q, begin);
    (void)worker;
    for (size_t r = (size_t)begin; r < (size_t)end; r++) {
        if (q->tables && (int64_t)r % rows_of_table(q) == 0)
            f = row_format(q, (int64_t)r);
        lu_decode_row(&f, q->codes + r * lutra_format_row_bytes(&f, q->k),
                      (const uint8_t *)q->scales + r * groups * lutra_dtype_bytes(f.scale_dtype),
                      q->zeros ? q->zeros + r * groups : NULL, q->k, j->out + r * (size_t)q->k);
    }
}

lutra_status lutra_dequantize_matrix(lutra_ctx *ctx, const lutra_qmatrix *q, float *out,
                                     lutra_err *err)
{
    LU_TRY(check_shape(&q->format, q->n, q->k, err));
    decode_job j = {q, out};
    lu_pool_for(ctx->pool, q->n, rows_at_a_time(q->k), decode_task, &j);
    return LUTRA_OK;
}
