/* shard_piece.c - see shard_piece.h. After use the pages of the input map are given back, which
   keeps the resident size at a few pieces. */
#define _GNU_SOURCE
#include "calib/shard_piece.h"

#include <fcntl.h>
#include <math.h>
#include <string.h>

#include "algo/rtn.h"
#include "base/file.h"
#include "base/mem.h"

lutra_status lu_piece_put(const lu_piece_room *r, const void *data, size_t n, uint64_t at,
                          lutra_err *err)
{
    LU_TRY(lu_write_at(r->fd, r->path, data, n, at, err));
#ifdef SYNC_FILE_RANGE_WRITE
    (void)sync_file_range(r->fd, (off_t)at, (off_t)n, SYNC_FILE_RANGE_WRITE);
#endif
    return LUTRA_OK;
}

int64_t lu_piece_units(const lu_plan_tensor *t)
{
    const lutra_tensor *v = &t->in->view;
    if (!t->scheme)
        return LU_PIECE_BYTES;
    const int64_t row = v->shape[1] * (int64_t)lutra_dtype_bytes(v->dtype);
    return row < LU_PIECE_BYTES ? LU_PIECE_BYTES / row : 1;
}

int64_t lu_piece_in_bytes(const lu_plan *plan, const lu_piece *p)
{
    const lu_plan_tensor *t = &plan->tensors[p->tensor];
    const int64_t unit =
        t->scheme ? t->in->view.shape[1] * (int64_t)lutra_dtype_bytes(t->in->view.dtype) : 1;
    return (p->end - p->begin) * unit;
}

static lutra_status copy_piece(lu_piece_room *r, const lu_piece *p, lutra_err *err)
{
    const lu_plan_tensor *t = &r->plan->tensors[p->tensor];
    const uint8_t *from = (const uint8_t *)t->in->view.data + p->begin;
    const size_t n = (size_t)(p->end - p->begin);
    LU_TRY(lu_piece_put(r, from, n, t->at[0] + (uint64_t)p->begin, err));
    lu_map_release(from, n);
    return LUTRA_OK;
}

/* The encoder for a piece, which lies within the rows of one table. */
static const lu_encoder *encoder_of(lu_piece_room *r, const lu_piece *p, int worker)
{
    const lu_plan_tensor *t = &r->plan->tensors[p->tensor];
    const float *tables = r->tables[p->tensor];
    if (!tables)
        return &r->encoders[t->scheme - r->plan->schemes];
    lutra_format f = t->scheme->format;
    const int64_t block = f.table_rows ? p->begin / f.table_rows : 0;
    memcpy(f.table, tables + (block << f.bits), sizeof f.table[0] << f.bits);
    lu_encoder_init(&r->learned[worker], &f, r->level);
    r->learned[worker].range = LUTRA_RANGE_MSE;
    return &r->learned[worker];
}

/* Sizes of a tensor's rows, in bytes. */
typedef struct {
    size_t in, codes, scales, zeros;
} row_bytes;

static row_bytes row_bytes_of(const lu_plan_tensor *t)
{
    const lutra_format *f = &t->scheme->format;
    const int64_t k = t->in->view.shape[1];
    const size_t groups = (size_t)lutra_format_groups(f, k);
    return (row_bytes){.in = (size_t)k * lutra_dtype_bytes(t->in->view.dtype),
                       .codes = lutra_format_row_bytes(f, k),
                       .scales = groups * lutra_dtype_bytes(f->scale_dtype),
                       .zeros = f->zero_point ? groups : 0};
}

static const uint8_t *input_of(const lu_plan_tensor *t, int64_t row)
{
    return (const uint8_t *)t->in->view.data + (size_t)row * row_bytes_of(t).in;
}

/* Encodes n rows into the thread's buffer. */
static lutra_status encode_rows(lu_piece_room *r, const lu_piece *p, int64_t first, int64_t n,
                                int worker, lu_rtn_block *b, lutra_err *err)
{
    const lu_plan_tensor *t = &r->plan->tensors[p->tensor];
    const lu_encoder *encoder = encoder_of(r, p, worker);
    const lutra_tensor *v = &t->in->view;
    const row_bytes row = row_bytes_of(t);
    *b = (lu_rtn_block){.w = input_of(t, first), .dtype = v->dtype, .n = n, .k = v->shape[1]};
    b->scales = r->buffers[worker]; /* first, as they need alignment */
    b->codes = r->buffers[worker] + (size_t)n * row.scales;
    b->zeros = row.zeros ? b->codes + (size_t)n * row.codes : NULL;
    b->row = r->rows ? r->rows[worker] : NULL;
    if (lu_rtn_encode(encoder, b))
        return LUTRA_OK;
    const lutra_status status =
        lu_rtn_fail(&t->scheme->format, v, first + b->bad_row, b->bad_column, err);
    return lu_fail_prefix(err, status, "%s: tensor '%s'", r->plan->shards[t->shard].name,
                          t->in->name);
}

static lutra_status put_rows(const lu_piece_room *r, const lu_piece *p, const uint8_t *codes,
                             const uint8_t *scales, const uint8_t *zeros, lutra_err *err)
{
    const lu_plan_tensor *t = &r->plan->tensors[p->tensor];
    const row_bytes row = row_bytes_of(t);
    const size_t n = (size_t)(p->end - p->begin), first = (size_t)p->begin;
    LU_TRY(lu_piece_put(r, codes, n * row.codes, t->at[LU_TENSOR_CODES] + first * row.codes, err));
    LU_TRY(lu_write_at(r->fd, r->path, scales, n * row.scales,
                       t->at[LU_TENSOR_SCALES] + first * row.scales, err));
    if (zeros)
        LU_TRY(lu_write_at(r->fd, r->path, zeros, n * row.zeros,
                           t->at[LU_TENSOR_ZEROS] + first * row.zeros, err));
    return LUTRA_OK;
}

static lutra_status encode_piece(lu_piece_room *r, lu_piece *p, int worker, lutra_err *err)
{
    const lu_plan_tensor *t = &r->plan->tensors[p->tensor];
    const size_t bytes = (size_t)(p->end - p->begin) * row_bytes_of(t).in;
    lu_rtn_block b;
    lu_map_prefetch(input_of(t, p->begin), bytes);
    LU_TRY(encode_rows(r, p, p->begin, p->end - p->begin, worker, &b, err));
    p->signal = b.signal;
    p->noise = b.noise;
    lu_map_release(b.w, bytes);
    return put_rows(r, p, b.codes, b.scales, b.zeros, err);
}

lutra_status lu_piece_run(lu_piece_room *r, lu_piece *p, int worker, lutra_err *err)
{
    return r->plan->tensors[p->tensor].scheme ? encode_piece(r, p, worker, err)
                                              : copy_piece(r, p, err);
}

bool lu_piece_for_gpu(const lu_plan_tensor *t)
{
    return t->scheme && !t->scheme->format.learned && !lu_rtn_needs_row(t->in->view.dtype) &&
           t->in->view.shape[1] <= LU_CUDA_ENCODE_MAX_K;
}

void lu_piece_stage(const lu_piece_room *r, const lu_piece *p)
{
    const lu_plan_tensor *t = &r->plan->tensors[p->tensor];
    const size_t row = row_bytes_of(t).in, bytes = (size_t)(p->end - p->begin) * row;
    const uint8_t *from = input_of(t, p->begin);
    lu_map_prefetch(from, bytes);
    memcpy(p->run->w + (size_t)p->at * row, from, bytes);
    lu_map_release(from, bytes);
}

lutra_status lu_piece_finish(lu_piece_room *r, lu_piece *p, int worker, lutra_err *err)
{
    const lu_gpu_run *run = p->run;
    const row_bytes row = row_bytes_of(&r->plan->tensors[p->tensor]);
    const size_t at = (size_t)p->at;
    p->signal = p->noise = 0;
    for (int64_t i = p->begin; i < p->end; i++) { /* in row order, as lu_rtn_encode adds them */
        const double *energy = run->energies + 2 * (p->at + i - p->begin);
        if (isnan(energy[0])) {
            lu_rtn_block b;
            LU_TRY(encode_rows(r, p, i, 1, worker, &b, err)); /* finds the column */
            return lu_fail(err, LUTRA_E_INTERNAL, "row %lld was refused by the GPU only",
                           (long long)i);
        }
        p->signal += energy[0];
        p->noise += energy[1];
    }
    return put_rows(r, p, run->codes + at * row.codes, run->scales + at * row.scales,
                    run->zeros ? run->zeros + at * row.zeros : NULL, err);
}

static lutra_status allocate(lu_piece_room *r, lutra_err *err)
{
    const size_t n = (size_t)r->n_threads;
    size_t buffer = 1, row = 0;
    for (int64_t i = 0; i < r->plan->n_tensors; i++) {
        const lu_plan_tensor *t = &r->plan->tensors[i];
        const lutra_tensor *v = &t->in->view;
        if (!t->scheme)
            continue;
        const lutra_format *f = &t->scheme->format;
        const int64_t rows = lu_piece_units(t) < v->shape[0] ? lu_piece_units(t) : v->shape[0];
        const size_t groups = (size_t)lutra_format_groups(f, v->shape[1]);
        const size_t bytes = (size_t)rows * (lutra_format_row_bytes(f, v->shape[1]) + 5 * groups);
        buffer = bytes > buffer ? bytes : buffer;
        if (lu_rtn_needs_row(v->dtype) && (size_t)v->shape[1] > row)
            row = (size_t)v->shape[1];
    }
    r->encoders = lu_array((size_t)r->plan->n_schemes, sizeof *r->encoders);
    r->learned = lu_array(n, sizeof *r->learned);
    r->tables = lu_calloc((size_t)r->plan->n_tensors, sizeof *r->tables);
    r->buffers = lu_calloc(n, sizeof *r->buffers);
    r->rows = row ? lu_calloc(n, sizeof *r->rows) : NULL;
    bool ok = r->encoders && r->learned && r->tables && r->buffers && (!row || r->rows);
    for (size_t i = 0; ok && i < n; i++) {
        r->buffers[i] = lu_alloc_aligned(buffer);
        if (row)
            r->rows[i] = lu_array(row, sizeof **r->rows);
        ok = r->buffers[i] && (!row || r->rows[i]);
    }
    return ok ? LUTRA_OK : lu_fail_nomem(err, n * buffer);
}

lutra_status lu_pieces_open(lutra_ctx *ctx, const lu_plan *plan, lu_piece_room *out, lutra_err *err)
{
    *out = (lu_piece_room){.plan = plan, .n_threads = lu_pool_size(ctx->pool), .fd = -1};
    LU_TRY(lu_level_parse(ctx->options.cpu, &out->level, err));
    LU_TRY(allocate(out, err));
    for (int i = 0; i < plan->n_schemes; i++) {
        lu_encoder_init(&out->encoders[i], &plan->schemes[i].format, out->level);
        out->encoders[i].range = plan->range;
    }
    return LUTRA_OK;
}

void lu_pieces_drop_tables(lu_piece_room *r)
{
    for (int64_t i = 0; r->tables && i < r->plan->n_tensors; i++) {
        lu_free(r->tables[i]);
        r->tables[i] = NULL;
    }
}

void lu_pieces_close(lu_piece_room *r)
{
    for (int i = 0; i < r->n_threads; i++) {
        if (r->buffers)
            lu_free_aligned(r->buffers[i]);
        if (r->rows)
            lu_free(r->rows[i]);
    }
    lu_pieces_drop_tables(r);
    lu_free(r->encoders);
    lu_free(r->learned);
    lu_free(r->tables);
    lu_free(r->buffers);
    lu_free(r->rows);
}
