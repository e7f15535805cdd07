/* gather.c - see gather.h. Sums over rows are in double, but for the second moments, which are
   added up in float32, a pass at a time. Which rows are kept depends on their number only: every
   stride-th, and each time the room is full the stride doubles and every second kept row goes. */
#include "calib/gather.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

static lutra_status take(float **slot, bool wanted, int64_t rows, int64_t cols, lutra_err *err)
{
    *slot = wanted ? lu_calloc((size_t)rows, (size_t)cols * sizeof(float)) : NULL;
    return !wanted || *slot ? LUTRA_OK : lu_fail_nomem(err, (size_t)(rows * cols) * sizeof(float));
}

static lutra_status open_site(lu_gather *g, int i, unsigned needs, lutra_err *err)
{
    lu_site *site = &g->view->block.sites[i];
    lu_gather_site *to = &g->sites[i];
    lu_stats *s = &site->stats;
    LU_TRY(take(&s->absmax, needs & LU_STAT_ABSMAX, 1, site->k, err));
    LU_TRY(take(&s->absmean, needs & LU_STAT_ABSMEAN, 1, site->k, err));
    LU_TRY(take(&s->lowest, needs & LU_STAT_RANGE, 1, site->k, err));
    LU_TRY(take(&s->highest, needs & LU_STAT_RANGE, 1, site->k, err));
    LU_TRY(take(&s->hessian, needs & LU_STAT_HESSIAN, site->k, site->k, err));
    LU_TRY(take(&s->rows, true, LU_KEPT_ROWS, site->k, err));
    if (s->absmean) {
        to->sums = lu_calloc((size_t)site->k, sizeof(double));
        if (!to->sums)
            return lu_fail_nomem(err, (size_t)site->k * sizeof(double));
    }
    to->stride = 1;
    to->open = true;
    return g->gpu ? lu_gather_gpu_open(g, i, needs, err) : LUTRA_OK;
}

lutra_status lu_gather_open(lu_view *v, lu_stage first, lu_stage last, unsigned needs, lu_gpu *gpu,
                            bool bf16, lu_gather *out, lutra_err *err)
{
    const size_t n = (size_t)v->block.n_sites;
    *out = (lu_gather){
        .view = v, .first = first, .last = last, .needs = needs, .gpu = gpu, .bf16 = bf16};
    out->sites = lu_calloc(n, sizeof *out->sites);
    if (!out->sites)
        return lu_fail_nomem(err, n * sizeof *out->sites);
    for (int i = 0; i < v->block.n_sites; i++)
        if (v->stages[i] >= first && v->stages[i] <= last)
            lu_stats_free(&v->block.sites[i].stats);
    return LUTRA_OK;
}

lutra_status lu_gather_start(lu_gather *g, lutra_err *err)
{
    const lu_view *v = g->view;
    for (int i = 0; i < v->block.n_sites; i++)
        if (v->stages[i] >= g->first && v->stages[i] <= g->last)
            LU_TRY(open_site(g, i, g->needs, err));
    return LUTRA_OK;
}

typedef struct {
    lu_stats *stats;
    double *sums;
    const float *x;
    int64_t rows, cols;
} column_job;

static void column_stats(void *arg, int64_t begin, int64_t end, int worker)
{
    const column_job *j = arg;
    lu_stats *s = j->stats;
    const bool first = s->n_rows == 0;
    (void)worker;
    for (int64_t r = 0; r < j->rows; r++) {
        const float *x = j->x + r * j->cols;
        for (int64_t c = begin; c < end; c++) {
            const float a = fabsf(x[c]);
            if (s->absmax && !(a <= s->absmax[c]))
                s->absmax[c] = a;
            if (j->sums)
                j->sums[c] += (double)a;
            if (s->lowest && ((first && r == 0) || x[c] < s->lowest[c]))
                s->lowest[c] = x[c];
            if (s->highest && ((first && r == 0) || x[c] > s->highest[c]))
                s->highest[c] = x[c];
        }
    }
}

int64_t lu_gather_choose(lu_gather *g, int site, int64_t rows, int32_t *source)
{
    lu_stats *s = &g->view->block.sites[site].stats;
    const int64_t cols = g->view->block.sites[site].k, all = s->n_rows + rows;
    int64_t *stride = &g->sites[site].stride, n = 0;
    for (; (all + *stride - 1) / *stride > LU_KEPT_ROWS; *stride *= 2) {
        for (int64_t i = 1; 2 * i < s->n_kept; i++)
            memcpy(s->rows + i * cols, s->rows + 2 * i * cols, (size_t)cols * sizeof *s->rows);
        s->n_kept = (s->n_kept + 1) / 2;
    }
    for (int64_t r = (*stride - s->n_rows % *stride) % *stride; r < rows; r += *stride)
        source[n++] = (int32_t)r;
    return n;
}

static void keep_rows(lu_gather *g, int site, const float *x, int64_t rows, int64_t cols)
{
    lu_stats *s = &g->view->block.sites[site].stats;
    int32_t source[LU_KEPT_ROWS];
    const int64_t n = lu_gather_choose(g, site, rows, source);
    for (int64_t i = 0; i < n; i++)
        memcpy(s->rows + s->n_kept++ * cols, x + source[i] * cols, (size_t)cols * sizeof *x);
}

void lu_gather_tap(void *user, int64_t layer, const char *name, const float *x, int64_t rows,
                   int64_t cols)
{
    lu_gather *g = user;
    const int i = lu_view_find_site(g->view, name);
    (void)layer;
    if (i < 0 || !g->sites[i].open)
        return;
    const double start = lu_seconds();
    lu_block *b = &g->view->block;
    lu_stats *s = &b->sites[i].stats;
    column_job job = {.stats = s, .sums = g->sites[i].sums, .x = x, .rows = rows, .cols = cols};
    if (s->absmax || s->lowest || job.sums)
        lu_pool_for(b->ctx->pool, cols, 64, column_stats, &job);
    if (s->hessian)
        lu_la_add_gram(b->la, rows, cols, 1, x, cols, s->hessian);
    keep_rows(g, i, x, rows, cols);
    s->n_rows += rows;
    g->seconds += lu_seconds() - start;
}

typedef struct {
    float *h;
    int64_t k;
    float factor;
} scale_job;

static void scale_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const scale_job *j = arg;
    (void)worker;
    for (int64_t i = begin * j->k; i < end * j->k; i++)
        j->h[i] *= j->factor;
}

static lutra_status finish_site(lu_gather *g, int i, lutra_err *err)
{
    lu_block *b = &g->view->block;
    lu_site *site = &b->sites[i];
    lu_stats *s = &site->stats;
    if (g->gpu)
        LU_TRY(lu_gather_gpu_finish(g, i, err));
    for (int64_t c = 0; g->sites[i].sums && s->n_rows && c < site->k; c++)
        s->absmean[c] = (float)(g->sites[i].sums[c] / (double)s->n_rows);
    for (int64_t r = 0; r < s->n_kept * site->k; r++)
        if (!isfinite(s->rows[r]))
            return lu_fail(err, LUTRA_E_FORMAT,
                           "layer %lld %s: the model's activations are not finite on this text%s",
                           (long long)b->index, site->name,
                           g->gpu && !g->bf16 ? " in fp16: take bf16" : "");
    if (g->gpu || !s->hessian || !s->n_rows)
        return LUTRA_OK;
    scale_job job = {.h = s->hessian, .k = site->k, .factor = (float)(1.0 / (double)s->n_rows)};
    lu_pool_for(b->ctx->pool, site->k, 64, scale_rows, &job);
    lu_la_mirror(b->la, site->k, s->hessian);
    return LUTRA_OK;
}

lutra_status lu_gather_close(lu_gather *g, double *seconds, lutra_err *err)
{
    const double start = lu_seconds();
    lutra_status status = LUTRA_OK;
    for (int i = 0; g->sites && i < g->view->block.n_sites; i++) {
        if (status == LUTRA_OK && g->sites[i].open)
            status = finish_site(g, i, err);
        lu_free(g->sites[i].sums);
    }
    if (g->gpu)
        lu_gather_gpu_close(g);
    lu_free(g->sites);
    if (seconds)
        *seconds = g->seconds + lu_seconds() - start;
    *g = (lu_gather){.view = NULL};
    return status;
}
