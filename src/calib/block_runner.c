/* block_runner.c - see block_runner.h. A sample is a sequence of its own, at positions 0 ..
   length-1. Losses of the attention start from the stream, those of the MLP from the stream after
   the attention, which is computed once when the part is recorded: transforms do not change it. */
#include "calib/block_runner.h"

#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "calib/gpu_ranges.h"

/* ---- opening ----------------------------------------------------------------------------------
 */

/* Batch i of the first `samples` samples; false past the end. */
static bool batch_at(const lu_runner *r, int64_t i, int64_t samples, lu_batch *b)
{
    const int64_t per = r->walker->per_batch, first = i * per, left = samples - first;
    b->samples = left < per ? left : per;
    b->row = first * r->data->length;
    b->rows = b->samples * r->data->length;
    return left > 0;
}

typedef struct {
    const lutra_model *model;
    const int32_t *ids;
    float *x;
} embed_job;

static void embed_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const embed_job *j = arg;
    (void)worker;
    lu_model_embed(j->model, j->ids + begin, end - begin,
                   j->x + begin * j->model->config.hidden_size);
}

static lutra_status embed_all(lu_runner *r, lutra_err *err)
{
    lu_batch b;
    const int64_t rows = r->walker->per_batch * r->data->length;
    const size_t bytes = (size_t)(rows * r->model->config.hidden_size) * sizeof(float);
    float *x = lu_alloc(bytes);
    if (!x)
        return lu_fail_nomem(err, bytes);
    lutra_status status = r->walker->api->open(
        r->walker, LU_REST_STREAM, r->data->n_samples * r->data->length, err);
    for (int64_t i = 0; status == LUTRA_OK && batch_at(r, i, r->data->n_samples, &b); i++) {
        embed_job job = {r->model, r->data->ids + b.row, x};
        status = lu_check_cancel(r->model->ctx, err);
        if (status == LUTRA_OK)
            lu_pool_for(r->model->ctx->pool, b.rows, 64, embed_rows, &job);
        if (status == LUTRA_OK)
            status = r->walker->api->put(r->walker, LU_REST_STREAM, &b, x, err);
    }
    lu_free(x);
    const lu_weight *from = &r->model->embedding; /* its pages are not needed again */
    lu_map_release(from->data, (size_t)from->n * lu_weight_row_bytes(from));
    return status;
}

lutra_status lu_runner_open(lutra_model *m, const lu_dataset *data, const lu_walker_options *o,
                            double total_walks, lu_runner *out, lutra_err *err)
{
    lu_runner *r = out;
    lu_walker_options options = *o;
    *r = (lu_runner){.model = NULL};
    if (data->length > m->config.max_context)
        return lu_fail(err, LUTRA_E_ARG,
                       "calibration samples of %lld tokens, the model takes at most %lld",
                       (long long)data->length, (long long)m->config.max_context);
    *r = (lu_runner){.model = m, .data = data};
    options.folder = r->folder = lu_strdup(o->folder);
    lutra_status status = r->folder ? LUTRA_OK : lu_fail_nomem(err, strlen(o->folder));
    if (status == LUTRA_OK)
        status =
            (o->gpu ? lu_walker_open_gpu : lu_walker_open_cpu)(m, data, &options, &r->walker, err);
    if (status == LUTRA_OK) {
        const int64_t per = r->walker->per_batch;
        r->total = (int64_t)(total_walks * (double)((data->n_samples + per - 1) / per));
        status = embed_all(r, err);
    }
    if (status != LUTRA_OK)
        lu_runner_close(r);
    return status;
}

void lu_runner_close(lu_runner *r)
{
    if (r->walker)
        r->walker->api->close(r->walker);
    lu_free(r->folder);
    *r = (lu_runner){.model = NULL};
}

/* ---- walks ------------------------------------------------------------------------------------
 */

static void count(lu_runner *r, const lu_view *v, const char *what)
{
    char item[64];
    snprintf(item, sizeof item, "layer %lld %s", (long long)v->block.index, what);
    if (++r->done > r->total)
        r->total = r->done;
    lu_progress(r->model->ctx, "calibrate", item, "batches", r->done, r->total);
}

static lutra_status walk_all(lu_runner *r, lu_view *v, lu_stage from, lu_stage to, bool advance,
                             lutra_err *err)
{
    lu_walker *w = r->walker;
    lu_batch b;
    LU_TRY(w->api->pack(w, v, from, to, err));
    if (w->watch.gather)
        LU_TRY(lu_gather_start(w->watch.gather, err));
    for (int64_t i = 0; batch_at(r, i, r->data->n_samples, &b); i++) {
        LU_TRY(w->api->load(w, LU_REST_STREAM, &b, err));
        LU_TRY(w->api->run(w, v, &b, from, to, err));
        if (advance)
            LU_TRY(w->api->save(w, LU_REST_STREAM, &b, err));
        count(r, v, r->stage ? r->stage : "");
    }
    w->api->unpack(w, v);
    return LUTRA_OK;
}

lutra_status lu_runner_walk(lu_runner *r, lu_view *v, lu_stage from, lu_stage to, lu_watch watch,
                            bool advance, lutra_err *err)
{
    const double start = lu_seconds();
    r->walker->watch = watch;
    const lutra_status status = walk_all(r, v, from, to, advance, err);
    r->walker->watch = (lu_watch){NULL, NULL};
    r->seconds += lu_seconds() - start;
    return status;
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

static lutra_status record(lu_block *block, lu_part part, lutra_err *err)
{
    lu_runner *r = block->runner;
    lu_walker *w = r->walker;
    lu_view *v = (lu_view *)block; /* block is its first member */
    const lu_resting place = LU_REST_RECORDED + part;
    const int64_t rows = loss_samples(r, block) * r->data->length;
    const double start = lu_seconds();
    lu_batch b;
    LU_TRY(w->api->open(w, place, rows, err));
    if (part == LU_PART_MLP)
        LU_TRY(w->api->open(w, LU_REST_MIDDLE, rows, err));
    LU_TRY(w->api->pack(w, v, LU_STAGE_QKV, last_stage(part), err));
    for (int64_t i = 0; batch_at(r, i, loss_samples(r, block), &b); i++) {
        LU_TRY(w->api->load(w, LU_REST_STREAM, &b, err));
        LU_TRY(w->api->run(w, v, &b, LU_STAGE_QKV, LU_STAGE_MLP, err));
        if (part == LU_PART_MLP) {
            LU_TRY(w->api->save(w, LU_REST_MIDDLE, &b, err));
            LU_TRY(w->api->run(w, v, &b, LU_STAGE_MLP, LU_STAGE_END, err));
        }
        LU_TRY(w->api->save_branch(w, place, &b, err));
    }
    w->api->unpack(w, v);
    r->recorded[part] = true;
    r->seconds += lu_seconds() - start;
    return LUTRA_OK;
}

static lutra_status sum_losses(lu_runner *r, lu_view *v, lu_part part, double *out, lutra_err *err)
{
    lu_walker *w = r->walker;
    const lu_stage from = first_stage(part), to = last_stage(part);
    const int64_t samples = loss_samples(r, &v->block);
    double sum = 0, more;
    lu_batch b;
    for (int64_t i = 0; batch_at(r, i, samples, &b); i++) {
        LU_TRY(w->api->load(w, part == LU_PART_MLP ? LU_REST_MIDDLE : LU_REST_STREAM, &b, err));
        LU_TRY(w->api->run(w, v, &b, from, to, err));
        LU_TRY(w->api->distance(w, LU_REST_RECORDED + part, &b, &more, err));
        sum += more;
    }
    *out = sum / ((double)(samples * r->data->length) * (double)r->model->config.hidden_size);
    return LUTRA_OK;
}

static lutra_status loss(lu_block *block, lu_part part, lu_edit edit, void *arg, double *out,
                         lutra_err *err)
{
    lu_runner *r = block->runner;
    lu_walker *w = r->walker;
    lu_view *v = (lu_view *)block;
    if (!r->recorded[part])
        return lu_fail(err, LUTRA_E_INTERNAL, "a loss was asked for before its part was recorded");
    const double start = lu_seconds();
    w->edit = edit;
    w->edit_arg = arg;
    w->view = v;
    lutra_status status = w->api->pack(w, v, first_stage(part), last_stage(part), err);
    if (status == LUTRA_OK)
        status = sum_losses(r, v, part, out, err);
    w->api->unpack(w, v);
    w->edit = NULL;
    r->seconds += lu_seconds() - start;
    return status;
}

static lutra_status scaled_open(lu_block *block, const lu_scaled *s, bool *possible, lutra_err *err)
{
    lu_runner *r = block->runner;
    lu_walker *w = r->walker;
    lu_view *v = (lu_view *)block;
    r->scaled = *s;
    LU_TRY(w->api->trial_open(w, v, s, possible, err));
    if (!*possible || s->alone)
        return LUTRA_OK;
    const lutra_status status = w->api->pack(w, v, first_stage(s->part), last_stage(s->part), err);
    if (status != LUTRA_OK) {
        w->api->trial_close(w);
        *possible = false;
    }
    return status;
}

static lutra_status scaled_loss(lu_block *block, const float *scale, double *out, lutra_err *err)
{
    lu_runner *r = block->runner;
    const double start = lu_seconds();
    LU_TRY(r->walker->api->trial_set(r->walker, scale, out, err));
    if (r->scaled.alone)
        return LUTRA_OK;
    LU_TRY(sum_losses(r, (lu_view *)block, r->scaled.part, out, err));
    r->seconds += lu_seconds() - start;
    return LUTRA_OK;
}

static void scaled_close(lu_block *block)
{
    lu_runner *r = block->runner;
    r->walker->api->trial_close(r->walker);
}

static lutra_status search_ranges(lu_block *block, lu_range_search *s, bool *possible,
                                  lutra_err *err)
{
    lu_runner *r = block->runner;
    return lu_gpu_ranges_search(r->walker->gpu, block, s, possible, err);
}

void lu_runner_serve(lu_runner *r, lu_view *v)
{
    v->block.runner = r;
    v->block.record = record;
    v->block.loss = loss;
    if (!r->walker->api->trial_open)
        return;
    v->block.scaled_open = scaled_open;
    v->block.scaled_loss = scaled_loss;
    v->block.scaled_close = scaled_close;
    v->block.search_ranges = search_ranges;
}
