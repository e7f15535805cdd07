/* linear_codes.c - codes of a linear of the block view: their memory, rounding to nearest, and the
   decoded weights. */
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "algo/pass.h"
#include "algo/rtn.h"
#include "base/mem.h"
#include "tensor/convert.h"

#define CHUNK_WEIGHTS (64 * 1024) /* weights a thread takes at a time */
#define MAX_GRAIN 256

static int64_t rows_at_a_time(int64_t k)
{
    const int64_t rows = CHUNK_WEIGHTS / k;
    return rows < 1 ? 1 : rows > MAX_GRAIN ? MAX_GRAIN : rows;
}

void lu_linear_free_codes(lu_site_linear *l)
{
    lu_free(l->codes.codes);
    lu_free(l->codes.scales);
    lu_free(l->codes.zeros);
    lu_free(l->codes.group_of);
    lu_free(l->codes.outlier_columns);
    lu_free(l->codes.outlier_weights);
    l->codes = (lu_codes){.codes = NULL};
}

lutra_status lu_linear_open_codes(lu_site_linear *l, lutra_err *err)
{
    const lutra_format *f = &l->format;
    const int64_t groups = lutra_format_groups(f, l->k);
    if (groups == 0)
        return lu_fail(err, LUTRA_E_ARG,
                       "%s: group size %lld does not divide its %lld columns: choose another group "
                       "size or 'channel', or ignore this module",
                       l->name, (long long)f->group_size, (long long)l->k);
    lu_linear_free_codes(l);
    const size_t n = (size_t)l->n, count = n * (size_t)groups;
    l->codes.codes = lu_calloc(n, lutra_format_row_bytes(f, l->k));
    l->codes.scales = lu_calloc(count, lutra_dtype_bytes(f->scale_dtype));
    l->codes.zeros = f->zero_point ? lu_calloc(count, 1) : NULL;
    if (l->codes.codes && l->codes.scales && (!f->zero_point || l->codes.zeros))
        return LUTRA_OK;
    lu_linear_free_codes(l);
    return lu_fail_nomem(err, n * lutra_format_row_bytes(f, l->k));
}

/* ---- rounding to nearest ----------------------------------------------------------------------
 */

typedef struct {
    const lu_encoder *encoder; /* for the rows from `first` on */
    int64_t first;
    const lu_site_linear *l;
    const float *w;
    float *decoded; /* NULL: codes only */
    lu_codes to;    /* rows of the linear, or of a thread's scratch when `scratch` */
    bool scratch;
    _Atomic int64_t bad_row; /* the lowest that cannot be rounded; n if none */
} round_job;

/* The codes of one row at the places of row `at` of to. */
static int64_t round_row(const round_job *j, int64_t row, size_t at)
{
    const lu_encoder *e = j->encoder;
    const lutra_format *f = &e->format;
    const lu_site_linear *l = j->l;
    const int64_t groups = lutra_format_groups(f, l->k), size = l->k / groups;
    const float *w = j->w + row * l->k;
    lu_encode_row_args a = {
        .w = w,
        .dtype = LUTRA_F32,
        .k = l->k,
        .codes = j->to.codes + at * lutra_format_row_bytes(f, l->k),
        .scales = (uint8_t *)j->to.scales + at * (size_t)groups * lutra_dtype_bytes(f->scale_dtype),
        .zeros = j->to.zeros ? j->to.zeros + at * (size_t)groups : NULL,
    };
    if (!l->lo)
        return lu_encoder_row(e, &a);
    for (int64_t c = 0; c < l->k; c++)
        if (!isfinite(w[c]))
            return c;
    for (int64_t g = 0; g < groups; g++) {
        float pivot[256], scale;
        uint8_t codes[256];
        int zero;
        if (!lu_group_scale(f, l->lo[row * groups + g], l->hi[row * groups + g], &scale, &zero))
            return g * size;
        lu_scale_set(f->scale_dtype, a.scales, g, scale);
        if (a.zeros)
            a.zeros[g] = (uint8_t)zero;
        lu_group_pivots(&e->grid, scale, f->zero_point ? f->table[zero] : 0, pivot);
        for (int64_t c = 0; c < size; c += 256) { /* groups are multiples of 8, or the row */
            const int64_t n = size - c < 256 ? size - c : 256;
            lu_group_codes(&e->grid, scale, pivot, w + g * size + c, n, codes);
            lu_codes_pack(codes, n, f->bits,
                          a.codes + (size_t)((g * size + c) / 8) * (size_t)f->bits);
        }
    }
    return -1;
}

static void round_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    round_job *j = arg;
    const lu_site_linear *l = j->l;
    const lutra_format *f = &j->encoder->format;
    const size_t groups = (size_t)lutra_format_groups(f, l->k);
    for (int64_t r = j->first + begin; r < j->first + end; r++) {
        const size_t at = (size_t)(j->scratch ? worker : r);
        if (round_row(j, r, at) >= 0) {
            int64_t lowest = atomic_load(&j->bad_row);
            while (r < lowest && !atomic_compare_exchange_weak(&j->bad_row, &lowest, r))
                continue;
            return;
        }
        if (j->decoded)
            lu_decode_row(
                f, j->to.codes + at * lutra_format_row_bytes(f, l->k),
                (const uint8_t *)j->to.scales + at * groups * lutra_dtype_bytes(f->scale_dtype),
                j->to.zeros ? j->to.zeros + at * groups : NULL, l->k, j->decoded + r * l->k);
    }
}

static lutra_status run_round(lu_block *b, round_job *j, lutra_err *err)
{
    const lu_site_linear *l = j->l;
    lu_encoder *e = lu_alloc(sizeof *e);
    if (!e)
        return lu_fail_nomem(err, sizeof *e);
    j->encoder = e;
    atomic_init(&j->bad_row, l->n);
    for (int64_t end; j->first < l->n; j->first = end) {
        lu_linear_encoder(b, l, j->first, e, &end);
        lu_pool_for(b->ctx->pool, end - j->first, rows_at_a_time(l->k), round_rows, j);
        if (atomic_load(&j->bad_row) < l->n)
            break;
    }
    lutra_status status = LUTRA_OK;
    const int64_t row = atomic_load(&j->bad_row);
    if (row < l->n) {
        const lutra_tensor t = {.dtype = LUTRA_F32, .rank = 2, .shape = {l->n, l->k}, .data = j->w};
        j->decoded = NULL;
        status =
            lu_rtn_fail(&l->format, &t, row, round_row(j, row, j->scratch ? 0 : (size_t)row), err);
        status = lu_fail_prefix(err, status, "%s", l->name);
    }
    lu_free(e);
    return status;
}

lutra_status lu_linear_round(lu_block *b, lu_site_linear *l, lutra_err *err)
{
    if (!l->tables)
        LU_TRY(lu_linear_learn(b, l, NULL, err));
    LU_TRY(lu_linear_open_codes(l, err));
    round_job j = {.l = l, .w = l->w, .to = l->codes};
    LU_TRY(run_round(b, &j, err));
    return lu_linear_close_codes(b, l, err);
}

lutra_status lu_linear_fake_round(lu_block *b, const lu_site_linear *l, const float *w, float *out,
                                  lutra_err *err)
{
    lu_site_linear rows = {
        .name = l->name, .n = lu_pool_size(b->ctx->pool), .k = l->k, .format = l->format};
    LU_TRY(lu_linear_open_codes(&rows, err)); /* one row of codes per thread */
    round_job j = {.l = l, .w = w, .decoded = out, .to = rows.codes, .scratch = true};
    const lutra_status status = run_round(b, &j, err);
    lu_linear_free_codes(&rows);
    return status;
}

/* ---- decoding ---------------------------------------------------------------------------------
 */

typedef struct {
    lu_site_linear *l;
    double *energies; /* [n][2] signal, noise */
    float *rows;      /* [threads][k] */
} decode_job;

static void decode_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const decode_job *j = arg;
    lu_site_linear *l = j->l;
    float *row = j->rows + worker * l->k;
    for (int64_t r = begin; r < end; r++) {
        float *w = l->w + r * l->k;
        double signal = 0, noise = 0;
        lu_linear_decode_row(l, r, row);
        for (int64_t c = 0; c < l->k; c++) {
            const double d = (double)w[c] - (double)row[c];
            signal += (double)w[c] * (double)w[c];
            noise += d * d;
        }
        memcpy(w, row, (size_t)l->k * sizeof *w);
        j->energies[2 * r] = signal;
        j->energies[2 * r + 1] = noise;
    }
}

void *lu_linear_codes_part(lu_site_linear *l, lu_tensor_kind kind)
{
    lu_codes *c = &l->codes;
    void *const parts[LU_N_TENSOR_KINDS] = {
        [LU_TENSOR_CODES] = c->codes,
        [LU_TENSOR_SCALES] = c->scales,
        [LU_TENSOR_ZEROS] = c->zeros,
        [LU_TENSOR_TABLE] = l->tables,
        [LU_TENSOR_GROUPS] = c->group_of,
        [LU_TENSOR_OUTLIER_COLUMNS] = c->outlier_columns,
        [LU_TENSOR_OUTLIER_WEIGHTS] = c->outlier_weights,
        [LU_TENSOR_INPUT_SCALE] = &c->input_scale,
        [LU_TENSOR_INPUT_ZERO] = &c->input_zero,
    };
    return parts[kind];
}

void lu_linear_decode_row(const lu_site_linear *l, int64_t row, float *out)
{
    const lutra_format *f = &l->format;
    const size_t r = (size_t)row, groups = (size_t)lutra_format_groups(f, l->k);
    const uint8_t *codes = l->codes.codes + r * lutra_format_row_bytes(f, l->k);
    const uint8_t *scales =
        (const uint8_t *)l->codes.scales + r * groups * lutra_dtype_bytes(f->scale_dtype);
    const uint8_t *zeros = l->codes.zeros ? l->codes.zeros + r * groups : NULL;
    const int64_t block = f->table_rows ? row / f->table_rows : 0, size = l->k / (int64_t)groups;
    const float *table = l->tables ? l->tables + (block << f->bits) : f->table;
    for (int64_t c = 0; c < l->k; c++) {
        const int64_t g = l->codes.group_of ? l->codes.group_of[c] : c / size;
        out[c] = lu_scale_get(f->scale_dtype, scales, g) *
                 (table[lu_code_at(codes, c, f->bits)] - (zeros ? table[zeros[g]] : 0));
    }
    for (int64_t i = 0; i < l->codes.n_outliers; i++)
        out[l->codes.outlier_columns[i]] =
            lu_f16_to_f32(l->codes.outlier_weights[row * l->codes.n_outliers + i]);
}

lutra_status lu_linear_close_codes(lu_block *b, lu_site_linear *l, lutra_err *err)
{
    decode_job j = {
        .l = l,
        .energies = lu_array((size_t)l->n, 2 * sizeof(double)),
        .rows = lu_array((size_t)lu_pool_size(b->ctx->pool), (size_t)l->k * sizeof(float)),
    };
    const bool ok = j.energies && j.rows;
    if (ok) {
        lu_pool_for(b->ctx->pool, l->n, rows_at_a_time(l->k), decode_rows, &j);
        l->signal = l->noise = 0;
        for (int64_t r = 0; r < l->n; r++) {
            l->signal += j.energies[2 * r];
            l->noise += j.energies[2 * r + 1];
        }
    }
    lu_free(j.energies);
    lu_free(j.rows);
    return ok ? LUTRA_OK : lu_fail_nomem(err, (size_t)l->n * 2 * sizeof(double));
}
