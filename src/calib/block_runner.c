/* block_runner.c - see block_runner.h. A sample is a sequence of its own, at positions 0 ..
   length-1. A batch has as many samples as keep the matrix kernels busy. Losses of the attention
   start from the stream, those of the MLP from the stream after the attention, which is computed
   once when the part is recorded: transforms do not change it. */
#include "calib/block_runner.h"

#include <string.h>

#include "base/mem.h"

#define BATCH_ROWS 1024

/* ---- opening ----------------------------------------------------------------------------------
 */

static lutra_status open_sequences(lu_runner *r, lutra_err *err)
{
    r->kvs = lu_calloc((size_t)r->per_batch, sizeof *r->kvs);
    r->segments = lu_calloc((size_t)r->per_batch, sizeof *r->segments);
    if (!r->kvs || !r->segments)
        return lu_fail_nomem(err, (size_t)r->per_batch * sizeof *r->kvs);
    for (int64_t i = 0; i < r->per_batch; i++) {
        LU_TRY(lu_kv_open_one(r->model, r->data->length, &r->kvs[i], err));
        r->segments[i] = (lu_segment){.kv = &r->kvs[i], .n = r->data->length};
    }
    return LUTRA_OK;
}

static lutra_status embed_all(lu_runner *r, lutra_err *err)
{
    const int64_t length = r->data->length;
    for (int64_t s = 0; s < r->data->n_samples; s++) {
        LU_TRY(lu_check_cancel(r->model->ctx, err));
        lu_forward_embed(r->forward, r->data->ids + s * length, length, r->x);
        LU_TRY(lu_store_write(&r->stream, s * length, length, r->x, err));
    }
    return LUTRA_OK;
}

lutra_status lu_runner_open(lutra_model *m, const lu_dataset *data, int64_t memory,
                            const char *folder, double total_walks, lu_runner *out, lutra_err *err)
{
    lu_runner *r = out;
    *r = (lu_runner){.model = m, .data = data, .budget = memory / 2};
    r->stream.fd = r->middle.fd = -1;
    for (int p = 0; p < LU_N_PARTS; p++)
        r->recorded[p].fd = -1;
    r->per_batch = BATCH_ROWS / data->length > 1 ? BATCH_ROWS / data->length : 1;
    if (r->per_batch > data->n_samples)
        r->per_batch = data->n_samples;
    r->total =
        (int64_t)(total_walks * (double)((data->n_samples + r->per_batch - 1) / r->per_batch));
    const int64_t rows = r->per_batch * data->length, cols = m->config.hidden_size;
    r->folder = lu_strdup(folder);
    r->x = lu_array((size_t)rows, (size_t)cols * sizeof *r->x);
    lutra_status status =
        r->folder && r->x ? LUTRA_OK : lu_fail_nomem(err, (size_t)(rows * cols) * sizeof *r->x);
    if (status == LUTRA_OK)
        status = lu_forward_open(m, rows, data->length, &r->forward, err);
    if (status == LUTRA_OK)
        status = open_sequences(r, err);
    if (status == LUTRA_OK)
        status =
            lu_store_open(data->n_samples * data->length, cols, r->budget, folder, &r->stream, err);
    if (status == LUTRA_OK)
        status = embed_all(r, err);
    if (status != LUTRA_OK)
        lu_runner_close(r);
    return status;
}

void lu_runner_close(lu_runner *r)
{
    lu_forward_close(r->forward);
    for (int64_t i = 0; r->kvs && i < r->per_batch; i++)
        lu_kv_close(&r->kvs[i]);
    lu_free(r->kvs);
    lu_free(r->segments);
    lu_free(r->x);
    lu_free(r->folder);
    if (r->model) {
        lu_store_close(&r->stream);
        lu_store_close(&r->middle);
        for (int p = 0; p < LU_N_PARTS; p++)
            lu_store_close(&r->recorded[p]);
    }
    *r = (lu_runner){.model = NULL};
}

/* ---- walks ------------------------------------------------------------------------------------
 */

typedef struct {
    int64_t row, rows, samples;
} batch;

/* Batch i of the first `samples` samples; false past the end. */
static bool batch_at(const lu_runner *r, int64_t i, int64_t samples, batch *b)
{
    const int64_t first = i * r->per_batch, left = samples - first;
    b->samples = left < r->per_batch ? left : r->per_batch;
    b->row = first * r->data->length;
    b->rows = b->samples * r->data->length;
    return left > 0;
}

static lutra_status run_layer(lu_runner *r, lu_view *v, const batch *b, lu_stage from, lu_stage to,
                              lutra_err *err)
{
    for (int64_t i = 0; i < b->samples; i++)
        r->kvs[i].first_layer = v->block.index;
    return lu_forward_layer(r->forward,
                            &(lu_layer_run){.layer = v->block.index,
                                            .segments = r->segments,
                                            .n_segments = b->samples,
                                            .from = from,
                                            .to = to,
                                            .x = r->x},
                            err);
}

static void count(lu_runner *r, const lu_view *v, const char *what)
{
    char item[64];
    snprintf(item, sizeof item, "layer %lld %s", (long long)v->block.index, what);
    if (++r->done > r->total)
        r->total = r->done;
    lu_progress(r->model->ctx, "calibrate", item, "batches", r->done, r->total);
}

lutra_status lu_runner_walk(lu_runner *r, lu_view *v, lu_stage from, lu_stage to, lu_tap tap,
                            void *user, bool advance, lutra_err *err)
{
    batch b;
    LU_TRY(lu_view_pack(v, from, to, err));
    LU_TRY(lu_forward_set_tap(r->forward, tap, user, err));
    for (int64_t i = 0; batch_at(r, i, r->data->n_samples, &b); i++) {
        LU_TRY(lu_store_read(&r->stream, b.row, b.rows, r->x, err));
        LU_TRY(run_layer(r, v, &b, from, to, err));
        if (advance)
            LU_TRY(lu_store_write(&r->stream, b.row, b.rows, r->x, err));
        count(r, v, r->stage ? r->stage : "");
    }
    lu_view_unpack(v);
    return lu_forward_set_tap(r->forward, NULL, NULL, err);
}

/* ---- losses -----------------------------------------------------------------------------------
 */

static lu_stage first_stage(lu_part p)
{
    return p == LU_PART_ATTENTION ? LU_STAGE_QKV : LU_STAGE_MLP;
}
static lu_stage last_stage(lu_part p)
{
    return p == LU_PART_ATTENTION ? LU_STAGE_MLP : LU_STAGE_END;
}

static int64_t loss_samples(const lu_runner *r, const lu_block *b)
{
    const int64_t all = r->data->n_samples;
    return b->loss_samples > 0 && b->loss_samples < all ? b->loss_samples : all;
}

static lutra_status open_once(lu_runner *r, lu_store *s, lutra_err *err)
{
    if (s->rows)
        return LUTRA_OK;
    return lu_store_open(r->stream.rows, r->stream.cols, r->budget / 3, r->folder, s, err);
}

static lutra_status record(lu_block *block, lu_part part, lutra_err *err)
{
    lu_runner *r = block->runner;
    lu_view *v = (lu_view *)block; /* block is its first member */
    batch b;
    LU_TRY(open_once(r, &r->recorded[part], err));
    if (part == LU_PART_MLP)
        LU_TRY(open_once(r, &r->middle, err));
    LU_TRY(lu_view_pack(v, LU_STAGE_QKV, last_stage(part), err));
    for (int64_t i = 0; batch_at(r, i, loss_samples(r, block), &b); i++) {
        LU_TRY(lu_store_read(&r->stream, b.row, b.rows, r->x, err));
        LU_TRY(run_layer(r, v, &b, LU_STAGE_QKV, LU_STAGE_MLP, err));
        if (part == LU_PART_MLP) {
            LU_TRY(lu_store_write(&r->middle, b.row, b.rows, r->x, err));
            LU_TRY(run_layer(r, v, &b, LU_STAGE_MLP, LU_STAGE_END, err));
        }
        LU_TRY(
            lu_store_write(&r->recorded[part], b.row, b.rows, lu_forward_branch(r->forward), err));
    }
    lu_view_unpack(v);
    return LUTRA_OK;
}

typedef struct {
    lu_view *view;
    lu_edit edit;
    void *arg;
} edit_job;

static void edit_rows(void *user, int64_t layer, const char *name, float *x, int64_t rows,
                      int64_t cols)
{
    const edit_job *j = user;
    const int site = lu_view_find_site(j->view, name);
    (void)layer, (void)cols;
    if (site >= 0)
        j->edit(j->arg, &j->view->block.sites[site], x, rows);
}

typedef struct {
    const float *a, *b;
    int64_t cols;
    double *sums; /* per row */
} square_job;

static void square_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const square_job *j = arg;
    (void)worker;
    for (int64_t r = begin; r < end; r++) {
        double sum = 0;
        for (int64_t c = r * j->cols; c < (r + 1) * j->cols; c++) {
            const double d = (double)j->a[c] - (double)j->b[c];
            sum += d * d;
        }
        j->sums[r] = sum;
    }
}

static lutra_status sum_losses(lu_runner *r, lu_view *v, lu_part part, float *want, double *sums,
                               double *out, lutra_err *err)
{
    const lu_stage from = first_stage(part), to = last_stage(part);
    const int64_t samples = loss_samples(r, &v->block);
    double sum = 0;
    batch b;
    for (int64_t i = 0; batch_at(r, i, samples, &b); i++) {
        const lu_store *s = part == LU_PART_MLP ? &r->middle : &r->stream;
        LU_TRY(lu_store_read(s, b.row, b.rows, r->x, err));
        LU_TRY(run_layer(r, v, &b, from, to, err));
        LU_TRY(lu_store_read(&r->recorded[part], b.row, b.rows, want, err));
        square_job job = {lu_forward_branch(r->forward), want, r->stream.cols, sums};
        lu_pool_for(r->model->ctx->pool, b.rows, 64, square_rows, &job);
        for (int64_t row = 0; row < b.rows; row++)
            sum += sums[row];
    }
    *out = sum / ((double)(samples * r->data->length) * (double)r->stream.cols);
    return LUTRA_OK;
}

static lutra_status loss(lu_block *block, lu_part part, lu_edit edit, void *arg, double *out,
                         lutra_err *err)
{
    lu_runner *r = block->runner;
    lu_view *v = (lu_view *)block;
    edit_job job = {v, edit, arg};
    if (!r->recorded[part].rows)
        return lu_fail(err, LUTRA_E_INTERNAL, "a loss was asked for before its part was recorded");
    LU_TRY(lu_view_pack(v, first_stage(part), last_stage(part), err));
    const int64_t rows = r->per_batch * r->data->length;
    float *want = lu_array((size_t)rows, (size_t)r->stream.cols * sizeof *want);
    double *sums = lu_array((size_t)rows, sizeof *sums);
    lutra_status status = want && sums
                              ? LUTRA_OK
                              : lu_fail_nomem(err, (size_t)(rows * r->stream.cols) * sizeof *want);
    if (status == LUTRA_OK && edit)
        status = lu_forward_set_edit(r->forward, edit_rows, &job, err);
    if (status == LUTRA_OK)
        status = sum_losses(r, v, part, want, sums, out, err);
    (void)lu_forward_set_edit(r->forward, NULL, NULL, NULL);
    lu_view_unpack(v);
    lu_free(want);
    lu_free(sums);
    return status;
}

void lu_runner_serve(lu_runner *r, lu_view *v)
{
    v->block.runner = r;
    v->block.record = record;
    v->block.loss = loss;
}
