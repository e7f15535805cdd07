/* output_losses.c - see output_losses.h. A block takes one walk of all rows, which gathers the
   second moments of its inputs and moves the rows on, and for each linear one walk of a few samples
   through its branch. */
#include "calib/output_losses.h"

#include <string.h>

#include "base/mem.h"
#include "calib/block_runner.h"
#include "calib/gather.h"

#define SAMPLES 8 /* of the branches' errors: they are alike from row to row */

typedef struct {
    const lu_output_losses *m;
    lutra_model *model;
    lu_la *la;
    lu_dataset data;
    lu_runner runner; /* .model is NULL before it is open */
    lu_view view;
    double *error;             /* [view.n_linears] of the branch, in the coarsest format */
    double weight[LU_N_PARTS]; /* what an error of the branch counts in the stream */
    int64_t samples;           /* whose branches are compared */
    float *before;             /* [samples * length][hidden] their stream before a branch */
} walk;

static lu_part part_of(const lu_view_linear *l)
{
    return l->stage < LU_STAGE_MLP ? LU_PART_ATTENTION : LU_PART_MLP;
}

/* The format of the fewest bits that divides the columns, or -1. */
static int coarsest(const lu_output_losses *m, int64_t k)
{
    int at = -1;
    for (int i = 0; i < m->n_formats; i++)
        if (lutra_format_groups(&m->formats[i], k) > 0 &&
            (at < 0 || m->formats[i].bits < m->formats[at].bits))
            at = i;
    return at;
}

/* l->w rounded to the format, in `out`. */
static lutra_status round_to(walk *x, lu_site_linear *l, int format, float *out, lutra_err *err)
{
    l->format = x->m->formats[format];
    l->range = x->m->range;
    LU_TRY(lu_linear_learn(&x->view.block, l, NULL, err));
    const lutra_status status = lu_linear_fake_round(&x->view.block, l, l->w, out, err);
    lu_free(l->tables);
    l->tables = NULL;
    return status;
}

/* ---- branches ---------------------------------------------------------------------------------
 */

static lutra_status measure_branch(walk *x, lu_view_linear *l, double *error, lutra_err *err)
{
    const int format = coarsest(x->m, l->face.k);
    *error = 0;
    if (format < 0)
        return LUTRA_OK;
    LU_TRY(lu_view_fetch(&x->view, l, err));
    lutra_status status = round_to(x, &l->face, format, l->face.w, err);
    l->changed = true;
    if (status == LUTRA_OK)
        status = x->view.block.loss(&x->view.block, part_of(l), NULL, NULL, error, err);
    l->changed = false;
    lu_view_release(l);
    return status;
}

static lutra_status measure_branches(walk *x, lutra_err *err)
{
    lu_view *v = &x->view;
    LU_TRY(v->block.record(&v->block, LU_PART_ATTENTION, err));
    LU_TRY(v->block.record(&v->block, LU_PART_MLP, err));
    for (int i = 0; i < v->n_linears; i++)
        if (x->m->wants(x->m->user, v->linears[i].name))
            LU_TRY(measure_branch(x, &v->linears[i], &x->error[i], err));
    return LUTRA_OK;
}

static lutra_status get(walk *x, lu_resting place, int64_t sample, float *rows, lutra_err *err)
{
    const int64_t length = x->data.length;
    const lu_batch b = {.row = sample * length, .rows = length, .samples = 1};
    return x->runner.walker->api->get(x->runner.walker, place, &b, rows, err);
}

/* The mean squares of the rows of the first samples at `place`, and of how far they are from `rows`
   [samples * length][hidden], if that is given. */
static lutra_status energy(walk *x, lu_resting place, const float *from, double *out,
                           double *distance, lutra_err *err)
{
    const int64_t count = x->data.length * x->model->config.hidden_size;
    float *rows = lu_array((size_t)count, sizeof *rows);
    lutra_status status = rows ? LUTRA_OK : lu_fail_nomem(err, (size_t)count * sizeof *rows);
    *out = *distance = 0;
    for (int64_t s = 0; status == LUTRA_OK && s < x->samples; s++) {
        status = get(x, place, s, rows, err);
        for (int64_t i = 0; status == LUTRA_OK && i < count; i++) {
            const double v = (double)rows[i], d = from ? v - (double)from[s * count + i] : 0;
            *out += v * v / (double)(count * x->samples);
            *distance += d * d / (double)(count * x->samples);
        }
    }
    lu_free(rows);
    return status;
}

static lutra_status keep(walk *x, lu_resting place, lutra_err *err)
{
    const int64_t count = x->data.length * x->model->config.hidden_size;
    for (int64_t s = 0; s < x->samples; s++)
        LU_TRY(get(x, place, s, x->before + s * count, err));
    return LUTRA_OK;
}

/* What was kept + the branch, which a norm may have scaled, = what rests at `after`. */
static lutra_status weigh(walk *x, lu_part part, lu_resting after, lutra_err *err)
{
    double branch, added, whole, unused;
    LU_TRY(energy(x, LU_REST_RECORDED + part, NULL, &branch, &unused, err));
    LU_TRY(energy(x, after, x->before, &whole, &added, err));
    x->weight[part] = branch > 0 && whole > 0 ? added / (branch * whole) : 0;
    return LUTRA_OK;
}

/* ---- one linear -------------------------------------------------------------------------------
 */

static lutra_status measure_linear(walk *x, int at, lutra_err *err)
{
    lu_view_linear *v = &x->view.linears[at];
    lu_site_linear *l = &v->face;
    const lu_site *site = &x->view.block.sites[v->site];
    const int reference = coarsest(x->m, l->k);
    const size_t count = (size_t)l->n * (size_t)l->k;
    float *approx = reference < 0 ? NULL : lu_array(count, sizeof *approx);
    double *losses = lu_calloc((size_t)x->m->n_formats, sizeof *losses);
    lutra_status status =
        losses && (approx || reference < 0) ? LUTRA_OK : lu_fail_nomem(err, count * sizeof *approx);
    for (int i = 0; approx && status == LUTRA_OK && i < x->m->n_formats; i++) {
        if (site->stats.n_rows == 0 || lutra_format_groups(&x->m->formats[i], l->k) == 0)
            continue;
        status = round_to(x, l, i, approx, err);
        if (status == LUTRA_OK)
            status = lu_linear_loss(&x->view.block, site, l, approx, &losses[i], err);
    }
    for (int i = 0; approx && status == LUTRA_OK && i < x->m->n_formats; i++)
        if (lutra_format_groups(&x->m->formats[i], l->k) > 0)
            x->m->note(x->m->user, v->name, i,
                       losses[reference] > 0
                           ? losses[i] / losses[reference] * x->error[at] * x->weight[part_of(v)]
                           : 0);
    lu_free(approx);
    lu_free(losses);
    return status;
}

/* ---- one block --------------------------------------------------------------------------------
 */

/* Second moments, and the rows to the next block. */
static lutra_status gather(walk *x, lutra_err *err)
{
    lu_gather g;
    lutra_status status = lu_gather_open(&x->view, LU_STAGE_QKV, LU_STAGE_DOWN, LU_STAT_HESSIAN,
                                         NULL, false, &g, err);
    if (status == LUTRA_OK)
        status = lu_runner_walk(&x->runner, &x->view, LU_STAGE_QKV, LU_STAGE_END,
                                (lu_watch){.gather = &g}, true, err);
    const lutra_status closed = lu_gather_close(&g, NULL, status == LUTRA_OK ? err : NULL);
    return status == LUTRA_OK ? closed : status;
}

static lutra_status measure_block(walk *x, lutra_err *err)
{
    lu_view *v = &x->view;
    lu_runner_serve(&x->runner, v);
    v->block.loss_samples = x->samples;
    LU_TRY(measure_branches(x, err));
    LU_TRY(keep(x, LU_REST_STREAM, err));
    LU_TRY(weigh(x, LU_PART_ATTENTION, LU_REST_MIDDLE, err));
    LU_TRY(keep(x, LU_REST_MIDDLE, err));
    LU_TRY(gather(x, err));
    LU_TRY(weigh(x, LU_PART_MLP, LU_REST_STREAM, err));
    for (int i = 0; i < v->n_linears; i++) {
        if (!x->m->wants(x->m->user, v->linears[i].name))
            continue;
        LU_TRY(lu_check_cancel(x->m->ctx, err));
        LU_TRY(lu_view_fetch(v, &v->linears[i], err));
        LU_TRY(measure_linear(x, i, err));
        lu_view_release(&v->linears[i]);
    }
    return LUTRA_OK;
}

/* ---- the walk ---------------------------------------------------------------------------------
 */

static lutra_status measure_all(walk *x, lutra_err *err)
{
    const lu_output_losses *m = x->m;
    LU_TRY(lu_la_open(m->ctx->pool, NULL, &x->la, err));
    LU_TRY(lu_model_open_bare(m->ctx, m->model, &x->model, err));
    const lu_model_config *config = &x->model->config;
    const size_t most = 5 + 3 * (size_t)config->n_experts;
    x->error = lu_array(most, sizeof *x->error);
    if (!x->error)
        return lu_fail_nomem(err, most * sizeof *x->error);
    LU_TRY(lu_dataset_open(m->ctx, m->calibration, m->model, config->vocab_size, &x->data, err));
    x->samples = x->data.n_samples < SAMPLES ? x->data.n_samples : SAMPLES;
    x->before = lu_array((size_t)(x->samples * x->data.length),
                         (size_t)config->hidden_size * sizeof *x->before);
    if (!x->before)
        return lu_fail_nomem(err, (size_t)(x->samples * x->data.length * config->hidden_size));
    const lu_walker_options o = {.memory = m->calibration->memory, .folder = m->folder};
    LU_TRY(lu_runner_open(x->model, &x->data, &o, (double)config->n_layers, &x->runner, err));
    x->runner.stage = "losses";
    for (int64_t layer = 0; layer < config->n_layers; layer++) {
        lutra_status status = lu_view_open(x->model, x->la, layer, &x->view, err);
        if (status == LUTRA_OK)
            status = measure_block(x, err);
        lu_view_close(&x->view);
        LU_TRY(status);
    }
    return LUTRA_OK;
}

lutra_status lu_measure_outputs(const lu_output_losses *m, lutra_err *err)
{
    walk x = {.m = m};
    const lutra_status status = measure_all(&x, err);
    if (x.runner.model)
        lu_runner_close(&x.runner);
    lu_dataset_close(&x.data);
    lu_free(x.error);
    lu_free(x.before);
    lutra_model_close(x.model);
    lu_la_close(x.la);
    return status;
}
