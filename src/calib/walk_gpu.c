/* walk_gpu.c - see walker.h. Resting rows stay on the GPU as long as they leave the reserve free
   there; then in host memory, or in a file, through one piece of page-locked memory. The stream is
   float32; recorded branches are of the activation type, as the walk makes them. */
#include <string.h>

#include "base/mem.h"
#include "calib/activation_store.h"
#include "calib/gpu_trial.h"
#include "calib/walker.h"
#include "model/gpu_bare.h"
#include "tensor/convert.h"

#define BATCH_ROWS 8192

typedef struct {
    int64_t rows, row_bytes; /* rows: 0 where it is not open */
    uint8_t *gpu;  /* [rows][row_bytes], or NULL: */
    lu_store host; /* rows of row_bytes / 4 "floats" */
} place;

typedef struct {
    lu_walker face;
    lu_gpu_bare *bare;
    place places[LU_N_RESTING];
    int64_t reserve;
    lu_gpu_trial *trial;      /* NULL: none is open */
    uint8_t *stage;           /* page-locked: one batch of float32 rows */
    double *sums, *host_sums; /* [rows of a batch]: on the GPU, here */
} gpu_walker;

static gpu_walker *own(lu_walker *w) { return (gpu_walker *)w; } /* face is its first member */

static int64_t batch_rows(const lu_walker *w) { return w->per_batch * w->data->length; }

/* ---- resting rows -----------------------------------------------------------------------------
 */

static void close_place(gpu_walker *w, place *p)
{
    w->face.gpu->api->give(w->face.gpu, p->gpu);
    lu_store_close(&p->host);
    *p = (place){.host.fd = -1};
}

static lutra_status open_place(lu_walker *face, lu_resting which, int64_t rows, lutra_err *err)
{
    gpu_walker *w = own(face);
    lu_gpu *gpu = face->gpu;
    place *p = &w->places[which];
    size_t there;
    if (p->rows >= rows)
        return LUTRA_OK;
    close_place(w, p);
    p->row_bytes = face->model->config.hidden_size * (which < LU_REST_RECORDED ? 4 : 2);
    LU_GPU_TRY(gpu, gpu->api->free_memory(gpu, &there), "asking for its memory", err);
    if (rows * p->row_bytes + w->reserve <= (int64_t)there)
        LU_GPU_TRY(gpu, gpu->api->take(gpu, (size_t)(rows * p->row_bytes), (void **)&p->gpu),
                   "memory for activations", err);
    else
        LU_TRY(lu_store_open(rows, p->row_bytes / 4,
                             face->budget / (which == LU_REST_STREAM ? 2 : 6), face->folder,
                             &p->host, err));
    p->rows = rows;
    return LUTRA_OK;
}

/* The batch's part of a place, from or to GPU memory `at`. */
static lutra_status to_gpu(gpu_walker *w, place *p, const lu_batch *b, void *at, lutra_err *err)
{
    lu_gpu *gpu = w->face.gpu;
    const size_t bytes = (size_t)(b->rows * p->row_bytes);
    if (p->gpu) {
        LU_GPU_TRY(gpu, gpu->api->copy(gpu, at, p->gpu + b->row * p->row_bytes, bytes),
                   "activations", err);
        return LUTRA_OK;
    }
    LU_GPU_TRY(gpu, gpu->api->sync(gpu), "activations", err); /* the stage may be on its way */
    LU_TRY(lu_store_read(&p->host, b->row, b->rows, (float *)(void *)w->stage, err));
    LU_GPU_TRY(gpu, gpu->api->send(gpu, at, w->stage, bytes), "activations", err);
    return LUTRA_OK;
}

static lutra_status from_gpu(gpu_walker *w, place *p, const lu_batch *b, const void *at,
                             lutra_err *err)
{
    lu_gpu *gpu = w->face.gpu;
    const size_t bytes = (size_t)(b->rows * p->row_bytes);
    if (p->gpu) {
        LU_GPU_TRY(gpu, gpu->api->copy(gpu, p->gpu + b->row * p->row_bytes, at, bytes),
                   "activations", err);
        return LUTRA_OK;
    }
    LU_GPU_TRY(gpu, gpu->api->fetch(gpu, w->stage, at, bytes), "activations", err);
    LU_GPU_TRY(gpu, gpu->api->sync(gpu), "activations", err);
    return lu_store_write(&p->host, b->row, b->rows, (const float *)(const void *)w->stage, err);
}

static lutra_status put_rows(lu_walker *face, lu_resting which, const lu_batch *b, const float *x,
                             lutra_err *err)
{
    lu_gpu *gpu = face->gpu;
    place *p = &own(face)->places[which];
    if (!p->gpu)
        return lu_store_write(&p->host, b->row, b->rows, x, err);
    LU_GPU_TRY(
        gpu,
        gpu->api->upload(gpu, p->gpu + b->row * p->row_bytes, x, (size_t)(b->rows * p->row_bytes)),
        "activations", err);
    return LUTRA_OK;
}

static lutra_status get_rows(lu_walker *face, lu_resting which, const lu_batch *b, float *x,
                             lutra_err *err)
{
    lu_gpu *gpu = face->gpu;
    const place *p = &own(face)->places[which];
    if (!p->gpu)
        return lu_store_read(&p->host, b->row, b->rows, x, err);
    LU_GPU_TRY(gpu,
               gpu->api->download(gpu, x, p->gpu + b->row * p->row_bytes,
                                  (size_t)(b->rows * p->row_bytes)),
               "activations", err);
    return LUTRA_OK;
}

static lutra_status load_rows(lu_walker *w, lu_resting which, const lu_batch *b, lutra_err *err)
{
    return to_gpu(own(w), &own(w)->places[which], b, lu_gpu_bare_x(own(w)->bare), err);
}

static lutra_status save_rows(lu_walker *w, lu_resting which, const lu_batch *b, lutra_err *err)
{
    return from_gpu(own(w), &own(w)->places[which], b, lu_gpu_bare_x(own(w)->bare), err);
}

static lutra_status save_branch(lu_walker *w, lu_resting which, const lu_batch *b, lutra_err *err)
{
    return from_gpu(own(w), &own(w)->places[which], b, lu_gpu_bare_branch(own(w)->bare), err);
}

static lutra_status distance(lu_walker *face, lu_resting which, const lu_batch *b, double *sum,
                             lutra_err *err)
{
    gpu_walker *w = own(face);
    lu_gpu *gpu = face->gpu;
    const place *p = &w->places[which];
    const uint16_t *want = lu_gpu_bare_scratch(w->bare);
    if (p->gpu)
        want = (const uint16_t *)(const void *)(p->gpu + b->row * p->row_bytes);
    else
        LU_TRY(to_gpu(w, &w->places[which], b, lu_gpu_bare_scratch(w->bare), err));
    LU_GPU_TRY(gpu,
               gpu->api->square_rows(b->rows, face->model->config.hidden_size,
                                     lu_gpu_bare_branch(w->bare), want, face->bf16, w->sums,
                                     gpu->stream),
               "a loss", err);
    LU_GPU_TRY(gpu,
               gpu->api->download(gpu, w->host_sums, w->sums, (size_t)b->rows * sizeof *w->sums),
               "a loss", err);
    *sum = 0;
    for (int64_t r = 0; r < b->rows; r++)
        *sum += w->host_sums[r];
    return LUTRA_OK;
}

/* ---- a run ------------------------------------------------------------------------------------
 */

static lutra_status put_linear(void *arg, lu_view *v, lu_view_linear *l, lutra_err *err)
{
    return lu_gpu_bare_put(arg, v->block.index, l->module, l->face.w, err);
}

static lutra_status pack(lu_walker *w, lu_view *v, lu_stage from, lu_stage to, lutra_err *err)
{
    LU_TRY(lu_view_each(v, from, to, put_linear, own(w)->bare, err));
    return lu_gpu_bare_put_vectors(own(w)->bare, v->block.index, err);
}

static void unpack(lu_walker *w, lu_view *v) { (void)w, (void)v; }

/* Edits and ranges are host code: the rows come, and go again if they were edited. */
static lutra_status host_rows(gpu_walker *w, const char *name, uint16_t *x, int64_t rows,
                              int64_t cols, lutra_err *err)
{
    lu_walker *face = &w->face;
    lu_gpu *gpu = face->gpu;
    const lutra_dtype act = face->bf16 ? LUTRA_BF16 : LUTRA_F16;
    const int site = face->edit ? lu_view_find_site(face->view, name) : -1;
    const size_t count = (size_t)(rows * cols);
    if (site < 0 && !(face->watch.ranges && lu_input_ranges_sees(face->watch.ranges, name)))
        return LUTRA_OK;
    float *host = lu_array(count, sizeof *host);
    uint16_t *bits = lu_array(count, sizeof *bits);
    const bool ok = host && bits;
    int error = 0;
    if (ok) {
        error = gpu->api->download(gpu, bits, x, count * sizeof *bits);
        lu_to_f32(act, bits, rows * cols, host);
        if (site >= 0)
            face->edit(face->edit_arg, &face->view->block.sites[site], host, rows);
        lu_from_f32(act, host, rows * cols, bits);
        if (!error && site >= 0)
            error = gpu->api->upload(gpu, x, bits, count * sizeof *bits);
        if (!error && face->watch.ranges)
            lu_input_ranges_tap(face->watch.ranges, -1, name, host, rows, cols);
    }
    lu_free(host);
    lu_free(bits);
    if (!ok)
        return lu_fail_nomem(err, count * sizeof *host);
    return error ? lu_gpu_fail(gpu, error, "inputs", err) : LUTRA_OK;
}

static lutra_status tap(void *user, const char *site, uint16_t *x, int64_t rows, int64_t cols,
                        lutra_err *err)
{
    gpu_walker *w = user;
    lu_gather *gather = w->face.watch.gather;
    if (w->face.edit || w->face.watch.ranges)
        LU_TRY(host_rows(w, site, x, rows, cols, err));
    return gather ? lu_gather_gpu_tap(gather, site, x, rows, cols, err) : LUTRA_OK;
}

static lutra_status run(lu_walker *w, lu_view *v, const lu_batch *b, lu_stage from, lu_stage to,
                        lutra_err *err)
{
    const bool watched = w->edit || w->watch.gather || w->watch.ranges;
    return lu_gpu_bare_run(own(w)->bare, v->block.index, b->samples, from, to, watched ? tap : NULL,
                           w, err);
}

/* ---- weights on trial --------------------------------------------------------------------------
 */

static lutra_status trial_open(lu_walker *face, lu_view *v, const lu_scaled *s, bool *possible,
                               lutra_err *err)
{
    gpu_walker *w = own(face);
    LU_TRY(lu_gpu_trial_open(face->gpu, w->bare, face->bf16, v, s, &w->trial, err));
    *possible = w->trial != NULL;
    return LUTRA_OK;
}

static lutra_status trial_set(lu_walker *w, const float *scale, double *alone, lutra_err *err)
{
    return lu_gpu_trial_set(own(w)->trial, scale, alone, err);
}

static void trial_close(lu_walker *w)
{
    lu_gpu_trial_close(own(w)->trial);
    own(w)->trial = NULL;
}

/* ---- opening ----------------------------------------------------------------------------------
 */

static void close_walker(lu_walker *face)
{
    gpu_walker *w = own(face);
    lu_gpu *gpu = face->gpu;
    for (int p = 0; p < LU_N_RESTING; p++)
        close_place(w, &w->places[p]);
    lu_gpu_trial_close(w->trial);
    gpu->api->give(gpu, w->sums);
    gpu->api->give_host(gpu, w->stage);
    lu_gpu_bare_close(w->bare);
    lu_free(w->host_sums);
    lu_free(w);
}

static lutra_status open_parts(gpu_walker *w, lutra_dtype act, lutra_err *err)
{
    lu_walker *face = &w->face;
    lu_gpu *gpu = face->gpu;
    const int64_t rows = batch_rows(face), hidden = face->model->config.hidden_size;
    if (hidden % 2)
        return lu_fail(err, LUTRA_E_UNSUPPORTED,
                       "a hidden size of %lld is odd: use the CPU (--device cpu)",
                       (long long)hidden);
    w->host_sums = lu_array((size_t)rows, sizeof *w->host_sums);
    if (!w->host_sums)
        return lu_fail_nomem(err, (size_t)rows * sizeof *w->host_sums);
    LU_TRY(lu_gpu_bare_open(face->model, gpu, act, face->per_batch, face->data->length, &w->bare,
                            err));
    LU_GPU_TRY(gpu, gpu->api->take(gpu, (size_t)rows * sizeof *w->sums, (void **)&w->sums),
               "memory for losses", err);
    LU_GPU_TRY(gpu, gpu->api->take_host(gpu, (size_t)(rows * hidden * 4), (void **)&w->stage),
               "page-locked memory", err);
    return LUTRA_OK;
}

lutra_status lu_walker_open_gpu(lutra_model *m, const lu_dataset *data, const lu_walker_options *o,
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
        .trial_open = trial_open,
        .trial_set = trial_set,
        .trial_close = trial_close,
    };
    gpu_walker *w = lu_calloc(1, sizeof *w);
    if (!w)
        return lu_fail_nomem(err, sizeof *w);
    w->face = (lu_walker){.api = &api,
                          .model = m,
                          .data = data,
                          .per_batch = lu_walker_batch(data, BATCH_ROWS),
                          .gpu = o->gpu,
                          .bf16 = o->act == LUTRA_BF16,
                          .budget = o->memory,
                          .folder = o->folder};
    w->reserve = o->gpu_reserve;
    for (int p = 0; p < LU_N_RESTING; p++)
        w->places[p].host.fd = -1;
    const lutra_status status = open_parts(w, o->act, err);
    if (status == LUTRA_OK)
        *out = &w->face;
    else
        close_walker(&w->face);
    return status;
}
