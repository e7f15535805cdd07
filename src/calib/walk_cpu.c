/* walk_cpu.c - see walker.h. A batch has as many samples as keep the matrix kernels busy. */
#include <string.h>

#include "base/mem.h"
#include "calib/activation_store.h"
#include "calib/walker.h"

#define BATCH_ROWS 1024

typedef struct {
    lu_walker face;
    lu_forward *forward;
    lu_kv *kvs;           /* [per_batch] of one layer */
    lu_segment *segments; /* [per_batch] */
    float *x, *want;      /* [per_batch * length][hidden] */
    double *sums;         /* [per_batch * length] */
    lu_store places[LU_N_RESTING];
} cpu_walker;

static cpu_walker *own(lu_walker *w) { return (cpu_walker *)w; } /* face is its first member */

/* ---- opening ----------------------------------------------------------------------------------
 */

static void close_walker(lu_walker *face)
{
    cpu_walker *w = own(face);
    lu_forward_close(w->forward);
    for (int64_t i = 0; w->kvs && i < face->per_batch; i++)
        lu_kv_close(&w->kvs[i]);
    for (int p = 0; p < LU_N_RESTING; p++)
        lu_store_close(&w->places[p]);
    lu_free(w->kvs);
    lu_free(w->segments);
    lu_free(w->x);
    lu_free(w->want);
    lu_free(w->sums);
    lu_free(w);
}

static lutra_status open_parts(cpu_walker *w, lutra_err *err)
{
    lu_walker *face = &w->face;
    const int64_t length = face->data->length, rows = face->per_batch * length;
    const size_t bytes = (size_t)(rows * face->model->config.hidden_size) * sizeof *w->x;
    w->x = lu_alloc(bytes);
    w->want = lu_alloc(bytes);
    w->sums = lu_array((size_t)rows, sizeof *w->sums);
    w->kvs = lu_calloc((size_t)face->per_batch, sizeof *w->kvs);
    w->segments = lu_calloc((size_t)face->per_batch, sizeof *w->segments);
    if (!w->x || !w->want || !w->sums || !w->kvs || !w->segments)
        return lu_fail_nomem(err, bytes);
    LU_TRY(lu_forward_open(face->model, rows, length, &w->forward, err));
    for (int64_t i = 0; i < face->per_batch; i++) {
        LU_TRY(lu_kv_open_one(face->model, length, &w->kvs[i], err));
        w->segments[i] = (lu_segment){.kv = &w->kvs[i], .n = length};
    }
    return LUTRA_OK;
}

/* ---- rows -------------------------------------------------------------------------------------
 */

static lutra_status open_place(lu_walker *w, lu_resting place, int64_t rows, lutra_err *err)
{
    lu_store *s = &own(w)->places[place];
    const int64_t share = place == LU_REST_STREAM ? 2 : 6;
    if (s->rows >= rows)
        return LUTRA_OK;
    lu_store_close(s);
    return lu_store_open(rows, w->model->config.hidden_size, w->budget / share, w->folder, s, err);
}

static lutra_status put_rows(lu_walker *w, lu_resting place, const lu_batch *b, const float *x,
                             lutra_err *err)
{
    return lu_store_write(&own(w)->places[place], b->row, b->rows, x, err);
}

static lutra_status get_rows(lu_walker *w, lu_resting place, const lu_batch *b, float *x,
                             lutra_err *err)
{
    return lu_store_read(&own(w)->places[place], b->row, b->rows, x, err);
}

static lutra_status load_rows(lu_walker *w, lu_resting place, const lu_batch *b, lutra_err *err)
{
    return get_rows(w, place, b, own(w)->x, err);
}

static lutra_status save_rows(lu_walker *w, lu_resting place, const lu_batch *b, lutra_err *err)
{
    return put_rows(w, place, b, own(w)->x, err);
}

static lutra_status save_branch(lu_walker *w, lu_resting place, const lu_batch *b, lutra_err *err)
{
    return put_rows(w, place, b, lu_forward_branch(own(w)->forward), err);
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

static lutra_status distance(lu_walker *face, lu_resting place, const lu_batch *b, double *sum,
                             lutra_err *err)
{
    cpu_walker *w = own(face);
    LU_TRY(lu_store_read(&w->places[place], b->row, b->rows, w->want, err));
    square_job job = {lu_forward_branch(w->forward), w->want, face->model->config.hidden_size,
                      w->sums};
    lu_pool_for(face->model->ctx->pool, b->rows, 64, square_rows, &job);
    *sum = 0;
    for (int64_t row = 0; row < b->rows; row++)
        *sum += w->sums[row];
    return LUTRA_OK;
}

/* ---- a run ------------------------------------------------------------------------------------
 */

static lutra_status pack(lu_walker *w, lu_view *v, lu_stage from, lu_stage to, lutra_err *err)
{
    (void)w;
    return lu_view_pack(v, from, to, err);
}

static void unpack(lu_walker *w, lu_view *v)
{
    (void)w;
    lu_view_unpack(v);
}

static void edit_rows(void *user, int64_t layer, const char *name, float *x, int64_t rows,
                      int64_t cols)
{
    const lu_walker *w = user;
    const int site = lu_view_find_site(w->view, name);
    (void)layer, (void)cols;
    if (site >= 0)
        w->edit(w->edit_arg, &w->view->block.sites[site], x, rows);
}

static void tap(void *user, int64_t layer, const char *site, const float *x, int64_t rows,
                int64_t cols)
{
    const lu_watch *watch = user;
    if (watch->gather)
        lu_gather_tap(watch->gather, layer, site, x, rows, cols);
    if (watch->ranges)
        lu_input_ranges_tap(watch->ranges, layer, site, x, rows, cols);
}

static lutra_status run(lu_walker *face, lu_view *v, const lu_batch *b, lu_stage from, lu_stage to,
                        lutra_err *err)
{
    cpu_walker *w = own(face);
    const bool watched = face->watch.gather || face->watch.ranges;
    LU_TRY(lu_forward_set_tap(w->forward, watched ? tap : NULL, &face->watch, err));
    LU_TRY(lu_forward_set_edit(w->forward, face->edit ? edit_rows : NULL, face, err));
    for (int64_t i = 0; i < b->samples; i++)
        w->kvs[i].first_layer = v->block.index;
    return lu_forward_layer(w->forward,
                            &(lu_layer_run){.layer = v->block.index,
                                            .segments = w->segments,
                                            .n_segments = b->samples,
                                            .from = from,
                                            .to = to,
                                            .x = w->x},
                            err);
}

lutra_status lu_walker_open_cpu(lutra_model *m, const lu_dataset *data, const lu_walker_options *o,
                                lu_walker **out, lutra_err *err)
{
    static const lu_walker_api api = {
        .close = close_walker,
        .pack = pack,
        .unpack = unpack,
        .open = open_place,
        .put = put_rows,
        .get = get_rows,
        .load = load_rows,
        .save = save_rows,
        .run = run,
        .save_branch = save_branch,
        .distance = distance,
    };
    cpu_walker *w = lu_calloc(1, sizeof *w);
    if (!w)
        return lu_fail_nomem(err, sizeof *w);
    w->face = (lu_walker){.api = &api,
                          .model = m,
                          .data = data,
                          .per_batch = lu_walker_batch(data, BATCH_ROWS),
                          .budget = o->memory,
                          .folder = o->folder};
    for (int p = 0; p < LU_N_RESTING; p++)
        w->places[p].fd = -1;
    const lutra_status status = open_parts(w, err);
    if (status == LUTRA_OK)
        *out = &w->face;
    else
        close_walker(&w->face);
    return status;
}
