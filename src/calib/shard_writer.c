/* shard_writer.c - see shard_writer.h.
   A batch is a list of pieces: some rows of a tensor to encode, or some bytes to copy. The threads
   of the context take pieces; each reads its rows from the input map, encodes into its own buffer
   and writes that to its place in the file, so that reading, encoding and writing overlap without
   queues. Pieces have a fixed size and their energies are added in order: the output and the report
   do not depend on the number of threads. After use the pages of the input map are given back,
   which keeps the resident size at a few pieces. */
#define _GNU_SOURCE
#include "calib/shard_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "algo/rtn.h"
#include "base/file.h"
#include "base/mem.h"
#include "calib/tensor_tables.h"

#define PIECE_BYTES ((int64_t)4 << 20) /* input per piece, at least one row */

typedef struct {
    int64_t tensor;
    int64_t begin, end; /* rows when encoded, else bytes */
    double signal, noise;
} piece;

struct lu_shard_writer {
    lutra_ctx *ctx;
    lu_gpu *gpu;
    const lu_plan *plan;
    const char *folder;
    int64_t batch_bytes;
    lu_journal *journal;
    lu_journal_entry *entries;
    lu_level level;
    lu_encoder *encoders; /* one per scheme of the plan */
    lu_encoder *learned;  /* one per thread, for tables of a tensor's own */
    float **tables;       /* [plan->n_tensors] learned tables of the batch's tensors, or NULL */
    uint8_t **buffers;    /* one per thread: codes, scales, zeros of a piece */
    float **rows;         /* one per thread, for types that are converted first; else NULL */
    piece *pieces;        /* of the batch */
    int64_t n_pieces, room;
    /* the shard being written */
    int fd;
    char *path;
    /* shared by the threads of a batch */
    _Atomic int64_t done_bytes;
    int64_t total_bytes;
    _Atomic int64_t failed; /* lowest piece that failed, n_pieces if none */
    atomic_flag err_lock;
    lutra_err err; /* of piece `failed` */
};

/* Writes and lets the disk begin with it, so that the sync at the end of the batch finds little to
   do. */
static lutra_status put(const lu_shard_writer *w, const void *data, size_t n, uint64_t at,
                        lutra_err *err)
{
    LU_TRY(lu_write_at(w->fd, w->path, data, n, at, err));
#ifdef SYNC_FILE_RANGE_WRITE
    (void)sync_file_range(w->fd, (off_t)at, (off_t)n, SYNC_FILE_RANGE_WRITE);
#endif
    return LUTRA_OK;
}

/* ---- one piece ------------------------------------------------------------------------------ */

static lutra_status copy_piece(lu_shard_writer *w, const piece *p, lutra_err *err)
{
    const lu_plan_tensor *t = &w->plan->tensors[p->tensor];
    const uint8_t *from = (const uint8_t *)t->in->view.data + p->begin;
    const size_t n = (size_t)(p->end - p->begin);
    LU_TRY(put(w, from, n, t->at[0] + (uint64_t)p->begin, err));
    lu_map_release(from, n);
    return LUTRA_OK;
}

/* The encoder for a piece, which lies within the rows of one table. */
static const lu_encoder *encoder_of(lu_shard_writer *w, const piece *p, int worker)
{
    const lu_plan_tensor *t = &w->plan->tensors[p->tensor];
    const float *tables = w->tables[p->tensor];
    if (!tables)
        return &w->encoders[t->scheme - w->plan->schemes];
    lutra_format f = t->scheme->format;
    const int64_t block = f.table_rows ? p->begin / f.table_rows : 0;
    memcpy(f.table, tables + (block << f.bits), sizeof f.table[0] << f.bits);
    lu_encoder_init(&w->learned[worker], &f, w->level);
    w->learned[worker].range = LUTRA_RANGE_MSE;
    return &w->learned[worker];
}

static lutra_status encode_piece(lu_shard_writer *w, piece *p, int worker, lutra_err *err)
{
    const lu_plan_tensor *t = &w->plan->tensors[p->tensor];
    const lu_encoder *encoder = encoder_of(w, p, worker);
    const lutra_format *f = &t->scheme->format;
    const lutra_tensor *v = &t->in->view;
    const size_t k = (size_t)v->shape[1], n = (size_t)(p->end - p->begin), first = (size_t)p->begin;
    const size_t groups = (size_t)lutra_format_groups(f, v->shape[1]);
    const size_t in_row = k * lutra_dtype_bytes(v->dtype),
                 code_row = lutra_format_row_bytes(f, v->shape[1]);
    const size_t scale_row = groups * lutra_dtype_bytes(f->scale_dtype);
    lu_rtn_block b = {.w = (const uint8_t *)v->data + first * in_row, .dtype = v->dtype};
    b.n = p->end - p->begin;
    b.k = v->shape[1];
    b.scales = w->buffers[worker]; /* first, as they need alignment */
    b.codes = w->buffers[worker] + n * scale_row;
    b.zeros = f->zero_point ? b.codes + n * code_row : NULL;
    b.row = w->rows ? w->rows[worker] : NULL;
    lu_map_prefetch(b.w, n * in_row);
    if (!lu_rtn_encode(encoder, &b)) {
        const lutra_status status = lu_rtn_fail(f, v, p->begin + b.bad_row, b.bad_column, err);
        return lu_fail_prefix(err, status, "%s: tensor '%s'", w->plan->shards[t->shard].name,
                              t->in->name);
    }
    p->signal = b.signal;
    p->noise = b.noise;
    lu_map_release(b.w, n * in_row);
    LU_TRY(put(w, b.codes, n * code_row, t->at[LU_TENSOR_CODES] + first * code_row, err));
    LU_TRY(lu_write_at(w->fd, w->path, b.scales, n * scale_row,
                       t->at[LU_TENSOR_SCALES] + first * scale_row, err));
    if (b.zeros)
        LU_TRY(lu_write_at(w->fd, w->path, b.zeros, n * groups,
                           t->at[LU_TENSOR_ZEROS] + first * groups, err));
    return LUTRA_OK;
}

static int64_t piece_in_bytes(const lu_plan_tensor *t, const piece *p)
{
    const int64_t unit =
        t->scheme ? t->in->view.shape[1] * (int64_t)lutra_dtype_bytes(t->in->view.dtype) : 1;
    return (p->end - p->begin) * unit;
}

/* Keeps the error of the lowest piece, so that the message does not depend on timing. */
static void keep_error(lu_shard_writer *w, int64_t index, const lutra_err *err)
{
    while (atomic_flag_test_and_set(&w->err_lock))
        continue;
    if (index < atomic_load(&w->failed)) {
        w->err = *err;
        atomic_store(&w->failed, index);
    }
    atomic_flag_clear(&w->err_lock);
}

static void run_pieces(void *arg, int64_t begin, int64_t end, int worker)
{
    lu_shard_writer *w = arg;
    for (int64_t i = begin; i < end; i++) {
        piece *p = &w->pieces[i];
        const lu_plan_tensor *t = &w->plan->tensors[p->tensor];
        lutra_err err = {.status = LUTRA_OK};
        lutra_status status = LUTRA_OK;
        if (atomic_load(&w->failed) < i)
            return;
        if (worker == 0) /* callbacks stay on the caller's thread */
            status = lu_check_cancel(w->ctx, &err);
        if (status == LUTRA_OK)
            status = t->scheme ? encode_piece(w, p, worker, &err) : copy_piece(w, p, &err);
        if (status != LUTRA_OK) {
            keep_error(w, i, &err);
            return;
        }
        const int64_t bytes = piece_in_bytes(t, p),
                      done = atomic_fetch_add(&w->done_bytes, bytes) + bytes;
        if (worker == 0)
            lu_progress(w->ctx, "quantize", t->in->name, "bytes", done, w->total_bytes);
    }
}

/* ---- batches -------------------------------------------------------------------------------- */

static int64_t units_per_piece(const lu_plan_tensor *t)
{
    const lutra_tensor *v = &t->in->view;
    if (!t->scheme)
        return PIECE_BYTES;
    const int64_t row = v->shape[1] * (int64_t)lutra_dtype_bytes(v->dtype);
    return row < PIECE_BYTES ? PIECE_BYTES / row : 1;
}

static lutra_status add_pieces(lu_shard_writer *w, int64_t tensor, lutra_err *err)
{
    const lu_plan_tensor *t = &w->plan->tensors[tensor];
    const int64_t n = t->scheme ? t->in->view.shape[0] : (int64_t)t->in->view.bytes,
                  step = units_per_piece(t);
    const int64_t block = t->scheme ? t->scheme->format.table_rows : 0; /* pieces lie within one */
    for (int64_t at = 0, end; at < n; at = end) {
        end = n - at < step ? n : at + step;
        if (block && end > (at / block + 1) * block)
            end = (at / block + 1) * block;
        if (w->n_pieces == w->room) {
            const int64_t room = w->room ? 2 * w->room : 256;
            piece *grown = lu_resize(w->pieces, (size_t)room * sizeof *grown);
            if (!grown)
                return lu_fail_nomem(err, (size_t)room * sizeof *grown);
            w->pieces = grown;
            w->room = room;
        }
        w->pieces[w->n_pieces++] = (piece){tensor, at, end, 0, 0};
    }
    return LUTRA_OK;
}

static lutra_status put_tables(lu_shard_writer *w, int64_t begin, int64_t end, lutra_err *err)
{
    LU_TRY(lu_tensor_tables_learn(w->ctx, w->plan, begin, end, w->level, w->tables, err));
    for (int64_t i = begin; i < end; i++) {
        const lu_plan_tensor *t = &w->plan->tensors[i];
        if (!w->tables[i])
            continue;
        const lutra_format *f = &t->scheme->format;
        const size_t values = (size_t)lu_format_tables(f, t->in->view.shape[0]) << f->bits;
        LU_TRY(put(w, w->tables[i], values * sizeof(float), t->at[LU_TENSOR_TABLE], err));
    }
    return LUTRA_OK;
}

static void drop_tables(lu_shard_writer *w)
{
    for (int64_t i = 0; w->tables && i < w->plan->n_tensors; i++) {
        lu_free(w->tables[i]);
        w->tables[i] = NULL;
    }
}

/* Runs the pieces collected for tensors [begin, end), makes them durable and records them. */
static lutra_status run_batch(lu_shard_writer *w, int64_t begin, int64_t end, lutra_err *err)
{
    LU_TRY(put_tables(w, begin, end, err));
    atomic_store(&w->failed, w->n_pieces);
    lu_pool_for(w->ctx->pool, w->n_pieces, 1, run_pieces, w);
    drop_tables(w);
    if (atomic_load(&w->failed) < w->n_pieces)
        return lu_fail(err, w->err.status, "%s", w->err.msg);
    if (fdatasync(w->fd) != 0)
        return lu_fail_errno(err, errno, w->path, "sync");
    for (int64_t i = begin; i < end; i++)
        w->entries[i] = (lu_journal_entry){.done = true, .error = NAN};
    for (int64_t i = 0; i < w->n_pieces; i++) {
        w->entries[w->pieces[i].tensor].signal += w->pieces[i].signal;
        w->entries[w->pieces[i].tensor].noise += w->pieces[i].noise;
    }
    w->n_pieces = 0;
    return lu_journal_add(w->journal, w->entries, begin, end, err);
}

static lutra_status write_tensors(lu_shard_writer *w, const lu_plan_shard *s, lutra_err *err)
{
    const int64_t end = s->first + s->count;
    for (int64_t begin = s->first, i; begin < end; begin = i) {
        int64_t bytes = 0;
        while (begin < end && w->entries[begin].done)
            begin++;
        for (i = begin; i < end && !w->entries[i].done && bytes < w->batch_bytes; i++) {
            LU_TRY(add_pieces(w, i, err));
            bytes += (int64_t)w->plan->tensors[i].out_bytes;
        }
        if (i > begin)
            LU_TRY(run_batch(w, begin, i, err));
    }
    return LUTRA_OK;
}

static lutra_status write_shard(lu_shard_writer *w, const lu_plan_shard *s, lutra_err *err)
{
    w->path = lu_path_join(w->folder, s->name);
    if (!w->path)
        return lu_fail_nomem(err, strlen(w->folder));
    w->fd = open(w->path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (w->fd < 0)
        return lu_fail_errno(err, errno, w->path, "create");
    if (ftruncate(w->fd, (off_t)s->file_size) != 0)
        return lu_fail_errno(err, errno, w->path, "set the size of");
    LU_TRY(lu_write_at(w->fd, w->path, s->header, s->header_bytes, 0, err));
    LU_TRY(write_tensors(w, s, err));
    return fsync(w->fd) == 0 ? LUTRA_OK : lu_fail_errno(err, errno, w->path, "sync");
}

static void leave_shard(lu_shard_writer *w)
{
    if (w->fd >= 0)
        close(w->fd);
    lu_free(w->path);
    w->fd = -1;
    w->path = NULL;
}

lutra_status lu_writer_run(lu_shard_writer *w, lutra_err *err)
{
    for (int64_t i = 0; i < w->plan->n_tensors; i++)
        if (w->entries[i].done)
            atomic_fetch_add(&w->done_bytes, (int64_t)w->plan->tensors[i].in->view.bytes);
    for (int64_t s = 0; s < w->plan->n_shards; s++) {
        LU_TRY(lu_check_cancel(w->ctx, err));
        const lutra_status status = write_shard(w, &w->plan->shards[s], err);
        leave_shard(w);
        LU_TRY(status);
    }
    return LUTRA_OK;
}

lutra_status lu_writer_check(lu_shard_writer *w, lutra_err *err)
{
    for (int64_t s = 0; s < w->plan->n_shards; s++) {
        const lu_plan_shard *shard = &w->plan->shards[s];
        struct stat st;
        char *path = lu_path_join(w->folder, shard->name);
        if (!path)
            return lu_fail_nomem(err, strlen(w->folder));
        if (stat(path, &st) != 0 || (uint64_t)st.st_size != shard->file_size)
            memset(&w->entries[shard->first], 0, (size_t)shard->count * sizeof *w->entries);
        lu_free(path);
    }
    return LUTRA_OK;
}

/* ---- opening -------------------------------------------------------------------------------- */

static lutra_status allocate(lu_shard_writer *w, lutra_err *err)
{
    const size_t n = (size_t)lu_pool_size(w->ctx->pool);
    size_t buffer = 1, row = 0;
    for (int64_t i = 0; i < w->plan->n_tensors; i++) {
        const lu_plan_tensor *t = &w->plan->tensors[i];
        const lutra_tensor *v = &t->in->view;
        if (!t->scheme)
            continue;
        const lutra_format *f = &t->scheme->format;
        const int64_t rows = units_per_piece(t) < v->shape[0] ? units_per_piece(t) : v->shape[0];
        const size_t groups = (size_t)lutra_format_groups(f, v->shape[1]);
        const size_t bytes = (size_t)rows * (lutra_format_row_bytes(f, v->shape[1]) + 5 * groups);
        buffer = bytes > buffer ? bytes : buffer;
        if (lu_rtn_needs_row(v->dtype) && (size_t)v->shape[1] > row)
            row = (size_t)v->shape[1];
    }
    w->encoders = lu_array((size_t)w->plan->n_schemes, sizeof *w->encoders);
    w->learned = lu_array(n, sizeof *w->learned);
    w->tables = lu_calloc((size_t)w->plan->n_tensors, sizeof *w->tables);
    w->buffers = lu_calloc(n, sizeof *w->buffers);
    w->rows = row ? lu_calloc(n, sizeof *w->rows) : NULL;
    bool ok = w->encoders && w->learned && w->tables && w->buffers && (!row || w->rows);
    for (size_t i = 0; ok && i < n; i++) {
        w->buffers[i] = lu_alloc_aligned(buffer);
        if (row)
            w->rows[i] = lu_array(row, sizeof **w->rows);
        ok = w->buffers[i] && (!row || w->rows[i]);
    }
    return ok ? LUTRA_OK : lu_fail_nomem(err, n * buffer);
}

lutra_status lu_writer_open(lutra_ctx *ctx, lu_gpu *gpu, const lu_plan *plan, const char *folder,
                            int64_t batch_bytes, lu_journal *journal, lu_journal_entry *entries,
                            lu_shard_writer **out, lutra_err *err)
{
    lu_level level;
    LU_TRY(lu_level_parse(ctx->options.cpu, &level, err));
    lu_shard_writer *w = lu_calloc(1, sizeof *w);
    if (!w)
        return lu_fail_nomem(err, sizeof *w);
    w->ctx = ctx;
    w->gpu = gpu;
    w->level = level;
    w->plan = plan;
    w->folder = folder;
    w->batch_bytes = batch_bytes;
    w->journal = journal;
    w->entries = entries;
    w->fd = -1;
    w->total_bytes = plan->bytes_in;
    atomic_flag_clear(&w->err_lock);
    const lutra_status status = allocate(w, err);
    for (int i = 0; status == LUTRA_OK && i < plan->n_schemes; i++) {
        lu_encoder_init(&w->encoders[i], &plan->schemes[i].format, level);
        w->encoders[i].range = plan->range;
    }
    if (status == LUTRA_OK)
        *out = w;
    else
        lu_writer_close(w);
    return status;
}

void lu_writer_close(lu_shard_writer *w)
{
    if (!w)
        return;
    for (int i = 0; i < lu_pool_size(w->ctx->pool); i++) {
        if (w->buffers)
            lu_free_aligned(w->buffers[i]);
        if (w->rows)
            lu_free(w->rows[i]);
    }
    drop_tables(w);
    lu_free(w->encoders);
    lu_free(w->learned);
    lu_free(w->tables);
    lu_free(w->buffers);
    lu_free(w->rows);
    lu_free(w->pieces);
    lu_free(w);
}
