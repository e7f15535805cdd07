/* shard_writer.c - see shard_writer.h.
   A batch is a list of pieces (shard_piece.h). The threads of the context take pieces; each reads
   its rows from the input map, encodes into its own buffer and writes that to its place in the
   file, so that reading, encoding and writing overlap without queues. Pieces have a fixed size and
   their energies are added in order: the output and the report do not depend on the number of
   threads.

   With a GPU the pieces of a batch are taken in steps. While the GPU encodes one step the threads
   bring the pieces of the next to page-locked memory and write those of the one before; what is not
   for the GPU they copy or encode meanwhile. */
#define _GNU_SOURCE
#include "calib/shard_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "calib/shard_piece.h"
#include "calib/tensor_tables.h"

#define SLOTS 3                      /* steps at a time: staged, on the GPU, written */
#define MIN_STEP ((int64_t)16 << 20) /* input of a step: a piece a thread, within bounds */
#define MAX_STEP ((int64_t)64 << 20)

/* Consecutive pieces that go to the GPU together. */
typedef struct {
    int64_t begin, end;
} step;

struct lu_shard_writer {
    lutra_ctx *ctx;
    lu_gpu *gpu;        /* NULL: none */
    lu_gpu_slot *slots; /* [SLOTS] where tensors are left that the GPU encodes, else NULL */
    const lu_plan *plan;
    const char *folder;
    int64_t batch_bytes;
    lu_journal *journal;
    lu_journal_entry *entries;
    lu_piece *pieces; /* of the batch */
    int64_t n_pieces, most_pieces;
    char *path; /* of the shard being written */
    /* shared by the threads of a batch */
    lu_piece_room room;
    _Atomic int64_t done_bytes;
    int64_t total_bytes;
    _Atomic int64_t failed; /* lowest piece that failed, n_pieces if none */
    atomic_flag err_lock;
    lutra_err err; /* of piece `failed` */
};

/* ---- one piece ------------------------------------------------------------------------------ */

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

static void tell_progress(lu_shard_writer *w, const lu_piece *p, int worker)
{
    const lu_plan_tensor *t = &w->plan->tensors[p->tensor];
    const int64_t bytes = lu_piece_in_bytes(w->plan, p),
                  done = atomic_fetch_add(&w->done_bytes, bytes) + bytes;
    if (worker == 0) /* callbacks stay on the caller's thread */
        lu_progress(w->ctx, "quantize", t->in->name, "bytes", done, w->total_bytes);
}

/* One piece; with finish: what is left of it after the GPU. */
static void run_piece(lu_shard_writer *w, int64_t i, bool finish, int worker)
{
    lu_piece *p = &w->pieces[i];
    lutra_err err = {.status = LUTRA_OK};
    lutra_status status = LUTRA_OK;
    if (atomic_load(&w->failed) < i)
        return;
    if (worker == 0)
        status = lu_check_cancel(w->ctx, &err);
    if (status == LUTRA_OK && finish)
        status = lu_piece_finish(&w->room, p, worker, &err);
    else if (status == LUTRA_OK && p->run)
        lu_piece_stage(&w->room, p);
    else if (status == LUTRA_OK)
        status = lu_piece_run(&w->room, p, worker, &err);
    if (status != LUTRA_OK)
        keep_error(w, i, &err);
    else if (finish || !p->run)
        tell_progress(w, p, worker);
}

static void run_pieces(void *arg, int64_t begin, int64_t end, int worker)
{
    for (int64_t i = begin; i < end; i++)
        run_piece(arg, i, false, worker);
}

/* ---- steps of a GPU ------------------------------------------------------------------------- */

/* Takes pieces from `begin` on into a slot until it is full. */
static step fill_step(lu_shard_writer *w, lu_gpu_slot *s, int64_t begin)
{
    step a = {begin, begin};
    int64_t bytes = 0;
    lu_gpu_slot_clear(s);
    for (; a.end < w->n_pieces && bytes < MAX_STEP; a.end++) {
        lu_piece *p = &w->pieces[a.end];
        const lu_plan_tensor *t = &w->plan->tensors[p->tensor];
        bytes += lu_piece_in_bytes(w->plan, p);
        if (!lu_piece_for_gpu(t))
            continue;
        const bool follows = a.end > begin && p[-1].tensor == p->tensor;
        if (lu_gpu_slot_add(s, &w->room.encoders[t->scheme - w->plan->schemes], t->in->view.dtype,
                            p->end - p->begin, t->in->view.shape[1], follows)) {
            p->run = &s->runs[s->n_runs - 1];
            p->at = p->run->n - (p->end - p->begin);
        } else if (s->n_runs > 0) {
            break;
        }
    }
    lu_gpu_slot_lay_out(s);
    return a;
}

typedef struct {
    lu_shard_writer *writer;
    step staged, finished;
} turn;

static void run_turn(void *arg, int64_t begin, int64_t end, int worker)
{
    const turn *t = arg;
    const int64_t n_staged = t->staged.end - t->staged.begin;
    for (int64_t i = begin; i < end; i++) {
        const bool finish = i >= n_staged;
        const int64_t at = finish ? t->finished.begin + i - n_staged : t->staged.begin + i;
        if (!finish || t->writer->pieces[at].run)
            run_piece(t->writer, at, finish, worker);
    }
}

/* Turn n stages step n and finishes step n - 2, while step n - 1 is on the GPU. After a failure no
   more steps begin; those that have may hold an earlier one. */
static lutra_status run_steps(lu_shard_writer *w, lutra_err *err)
{
    step steps[SLOTS] = {{0, 0}};
    int64_t next = 0;
    for (int n = 0, last = -1; last < 0 || n < last + SLOTS; n++) {
        lu_gpu_slot *fill = &w->slots[n % SLOTS], *read = &w->slots[(n + 1) % SLOTS];
        const bool failed = atomic_load(&w->failed) < w->n_pieces;
        steps[n % SLOTS] = (step){next, next};
        lu_gpu_slot_clear(fill);
        if (!failed && next < w->n_pieces)
            steps[n % SLOTS] = fill_step(w, fill, next);
        next = steps[n % SLOTS].end;
        if (last < 0 && (failed || next == w->n_pieces))
            last = n;
        LU_TRY(lu_gpu_slot_wait(read, err));
        turn t = {w, steps[n % SLOTS], steps[(n + 1) % SLOTS]};
        lu_pool_for(w->ctx->pool, t.staged.end - t.staged.begin + t.finished.end - t.finished.begin,
                    1, run_turn, &t);
        LU_TRY(lu_gpu_slot_queue(fill, err));
    }
    return LUTRA_OK;
}

/* ---- batches -------------------------------------------------------------------------------- */

static lutra_status add_pieces(lu_shard_writer *w, int64_t tensor, lutra_err *err)
{
    const lu_plan_tensor *t = &w->plan->tensors[tensor];
    const int64_t n = t->scheme ? t->in->view.shape[0] : (int64_t)t->in->view.bytes,
                  most = lu_piece_units(t);
    const int64_t block = t->scheme ? t->scheme->format.table_rows : 0; /* pieces lie within one */
    for (int64_t at = 0, end; at < n; at = end) {
        end = n - at < most ? n : at + most;
        if (block && end > (at / block + 1) * block)
            end = (at / block + 1) * block;
        if (w->n_pieces == w->most_pieces) {
            const int64_t room = w->most_pieces ? 2 * w->most_pieces : 256;
            lu_piece *grown = lu_resize(w->pieces, (size_t)room * sizeof *grown);
            if (!grown)
                return lu_fail_nomem(err, (size_t)room * sizeof *grown);
            w->pieces = grown;
            w->most_pieces = room;
        }
        w->pieces[w->n_pieces++] = (lu_piece){.tensor = tensor, .begin = at, .end = end};
    }
    return LUTRA_OK;
}

static lutra_status put_tables(lu_shard_writer *w, int64_t begin, int64_t end, lutra_err *err)
{
    LU_TRY(lu_tensor_tables_learn(w->ctx, w->plan, begin, end, w->room.level, w->room.tables, err));
    for (int64_t i = begin; i < end; i++) {
        const lu_plan_tensor *t = &w->plan->tensors[i];
        if (!w->room.tables[i])
            continue;
        const lutra_format *f = &t->scheme->format;
        const size_t values = (size_t)lu_format_tables(f, t->in->view.shape[0]) << f->bits;
        LU_TRY(lu_piece_put(&w->room, w->room.tables[i], values * sizeof(float),
                            t->at[LU_TENSOR_TABLE], err));
    }
    return LUTRA_OK;
}

/* Runs the pieces collected for tensors [begin, end), makes them durable and records them. */
static lutra_status run_batch(lu_shard_writer *w, int64_t begin, int64_t end, lutra_err *err)
{
    LU_TRY(put_tables(w, begin, end, err));
    atomic_store(&w->failed, w->n_pieces);
    if (w->slots)
        LU_TRY(run_steps(w, err));
    else
        lu_pool_for(w->ctx->pool, w->n_pieces, 1, run_pieces, w);
    lu_pieces_drop_tables(&w->room);
    if (atomic_load(&w->failed) < w->n_pieces)
        return lu_fail(err, w->err.status, "%s", w->err.msg);
    if (fdatasync(w->room.fd) != 0)
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
    w->room.path = w->path;
    w->room.fd = open(w->path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (w->room.fd < 0)
        return lu_fail_errno(err, errno, w->path, "create");
    if (ftruncate(w->room.fd, (off_t)s->file_size) != 0)
        return lu_fail_errno(err, errno, w->path, "set the size of");
    LU_TRY(lu_write_at(w->room.fd, w->path, s->header, s->header_bytes, 0, err));
    LU_TRY(write_tensors(w, s, err));
    return fsync(w->room.fd) == 0 ? LUTRA_OK : lu_fail_errno(err, errno, w->path, "sync");
}

static void leave_shard(lu_shard_writer *w)
{
    if (w->room.fd >= 0)
        close(w->room.fd);
    lu_free(w->path);
    w->room.fd = -1;
    w->path = NULL;
}

/* What is left to encode, in input bytes, and how many tensors of it the GPU encodes. */
typedef struct {
    int64_t n_gpu, n_cpu, bytes;
} work_left;

static work_left count_work(const lu_shard_writer *w)
{
    work_left a = {0, 0, 0};
    for (int64_t i = 0; i < w->plan->n_tensors; i++) {
        const lu_plan_tensor *t = &w->plan->tensors[i];
        if (w->entries[i].done || !t->scheme)
            continue;
        a.n_gpu += lu_piece_for_gpu(t);
        a.n_cpu += !lu_piece_for_gpu(t);
        a.bytes += (int64_t)t->in->view.bytes;
    }
    return a;
}

/* Memory for steps, and a word about tensors that are not for the GPU. */
static lutra_status open_slots(lu_shard_writer *w, lutra_err *err)
{
    const work_left left = count_work(w);
    int64_t most = LU_PIECE_BYTES * lu_pool_size(w->ctx->pool);
    size_t in = 0, out = 0;
    if (left.n_cpu > 0)
        lu_log(w->ctx, LUTRA_LOG_INFO,
               "%lld of %lld tensors are rounded on the CPU: their tables are learned, or their "
               "type is not F32, F16 or BF16",
               (long long)left.n_cpu, (long long)(left.n_cpu + left.n_gpu));
    if (left.n_gpu == 0)
        return LUTRA_OK;
    most = most < MIN_STEP ? MIN_STEP : most > MAX_STEP ? MAX_STEP : most;
    most = most < left.bytes ? most : left.bytes;
    for (int64_t i = 0; i < w->plan->n_tensors; i++) {
        const lu_plan_tensor *t = &w->plan->tensors[i];
        const lutra_tensor *v = &t->in->view;
        if (!lu_piece_for_gpu(t))
            continue;
        const int64_t k = v->shape[1], row = k * (int64_t)lutra_dtype_bytes(v->dtype),
                      rows = row < most ? most / row : 1;
        const size_t a = lu_gpu_slot_in_bytes(v->dtype, rows, k),
                     b = lu_gpu_slot_out_bytes(&t->scheme->format, rows, k);
        in = a > in ? a : in;
        out = b > out ? b : out;
    }
    w->slots = lu_calloc(SLOTS, sizeof *w->slots);
    if (!w->slots)
        return lu_fail_nomem(err, SLOTS * sizeof *w->slots);
    for (int i = 0; i < SLOTS; i++)
        LU_TRY(lu_gpu_slot_open(w->gpu, in, out, &w->slots[i], err));
    return LUTRA_OK;
}

static void close_slots(lu_shard_writer *w)
{
    for (int i = 0; w->slots && i < SLOTS; i++)
        lu_gpu_slot_close(&w->slots[i]);
    lu_free(w->slots);
    w->slots = NULL;
}

lutra_status lu_writer_run(lu_shard_writer *w, lutra_err *err)
{
    if (w->gpu)
        LU_TRY(open_slots(w, err));
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

lutra_status lu_writer_open(lutra_ctx *ctx, lu_gpu *gpu, const lu_plan *plan, const char *folder,
                            int64_t batch_bytes, lu_journal *journal, lu_journal_entry *entries,
                            lu_shard_writer **out, lutra_err *err)
{
    lu_shard_writer *w = lu_calloc(1, sizeof *w);
    if (!w)
        return lu_fail_nomem(err, sizeof *w);
    w->ctx = ctx;
    w->gpu = gpu;
    w->plan = plan;
    w->folder = folder;
    w->batch_bytes = batch_bytes;
    w->journal = journal;
    w->entries = entries;
    w->total_bytes = plan->bytes_in;
    atomic_flag_clear(&w->err_lock);
    const lutra_status status = lu_pieces_open(ctx, plan, &w->room, err);
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
    close_slots(w);
    lu_pieces_close(&w->room);
    lu_free(w->pieces);
    lu_free(w);
}
