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
    lu_stats *s = &site->stats;
    lu_stats_free(s);
    LU_TRY(take(&s->absmax, needs & LU_STAT_ABSMAX, 1, site->k, err));
    LU_TRY(take(&s->absmean, needs & LU_STAT_ABSMEAN, 1, site->k, err));
    LU_TRY(take(&s->lowest, needs & LU_STAT_RANGE, 1, site->k, err));
    LU_TRY(take(&s->highest, needs & LU_STAT_RANGE, 1, site->k, err));
    LU_TRY(take(&s->hessian, needs & LU_STAT_HESSIAN, site->k, site->k, err));
    LU_TRY(take(&s->rows, true, LU_KEPT_ROWS, site->k, err));
    if (s->absmean) {
        g->sums[i] = lu_calloc((size_t)site->k, sizeof(double));
        if (!g->sums[i])
            return lu_fail_nomem(err, (size_t)site->k * sizeof(double));
    }
    g->stride[i] = 1;
    g->open[i] = true;
    return LUTRA_OK;
}

lutra_status lu_gather_open(lu_view *v, lu_stage first, lu_stage last, unsigned needs,
                            lu_gather *out, lutra_err *err)
{
    const size_t n = (size_t)v->block.n_sites;
    *out = (lu_gather){.view = v};
    out->open = lu_calloc(n, sizeof *out->open);
    out->sums = lu_calloc(n, sizeof *out->sums);
    out->stride = lu_calloc(n, sizeof *out->stride);
    if (!out->open || !out->sums || !out->stride)
        return lu_fail_nomem(err, n * sizeof *out->sums);
    for (int i = 0; i < v->block.n_sites; i++)
        if (v->stages[i] >= first && v->stages[i] <= last)
            LU_TRY(open_site(out, i, needs, err));
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

static void keep_rows(lu_gather *g, int site, const float *x, int64_t rows, int64_t cols)
{
    lu_stats *s = &g->view->block.sites[site].stats;
    const size_t bytes = (size_t)cols * sizeof *x;
    for (int64_t r = 0; r < rows; r++) {
        if ((s->n_rows + r) % g->stride[site] != 0)
            continue;
        if (s->n_kept == LU_KEPT_ROWS) {
            for (int64_t i = 1; i < LU_KEPT_ROWS / 2; i++)
                memcpy(s->rows + i * cols, s->rows + 2 * i * cols, bytes);
            s->n_kept /= 2;
            g->stride[site] *= 2;
            if ((s->n_rows + r) % g->stride[site] != 0)
                continue;
        }
        memcpy(s->rows + s->n_kept++ * cols, x + r * cols, bytes);
    }
}

void lu_gather_tap(void *user, int64_t layer, const char *name, const float *x, int64_t rows,
                   int64_t cols)
{
    lu_gather *g = user;
    const int i = lu_view_find_site(g->view, name);
    (void)layer;
    if (i < 0 || !g->open[i])
        return;
    lu_block *b = &g->view->block;
    lu_stats *s = &b->sites[i].stats;
    column_job job = {.stats = s, .sums = g->sums[i], .x = x, .rows = rows, .cols = cols};
    if (s->absmax || s->lowest || job.sums)
        lu_pool_for(b->ctx->pool, cols, 64, column_stats, &job);
    if (s->hessian)
        lu_la_add_gram(b->la, rows, cols, 1, x, cols, s->hessian);
    keep_rows(g, i, x, rows, cols);
    s->n_rows += rows;
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
    for (int64_t c = 0; g->sums[i] && s->n_rows && c < site->k; c++)
        s->absmean[c] = (float)(g->sums[i][c] / (double)s->n_rows);
    for (int64_t r = 0; r < s->n_kept * site->k; r++)
        if (!isfinite(s->rows[r]))
            return lu_fail(err, LUTRA_E_FORMAT,
                           "layer %lld %s: the model's activations are not finite on this text",
                           (long long)b->index, site->name);
    if (!s->hessian || !s->n_rows)
        return LUTRA_OK;
    scale_job job = {.h = s->hessian, .k = site->k, .factor = (float)(1.0 / (double)s->n_rows)};
    lu_pool_for(b->ctx->pool, site->k, 64, scale_rows, &job);
    lu_la_mirror(b->la, site->k, s->hessian);
    return LUTRA_OK;
}

lutra_status lu_gather_close(lu_gather *g, lutra_err *err)
{
    lutra_status status = LUTRA_OK;
    for (int i = 0; g->open && g->sums && g->stride && i < g->view->block.n_sites; i++) {
        if (status == LUTRA_OK && g->open[i])
            status = finish_site(g, i, err);
        lu_free(g->sums[i]);
    }
    lu_free(g->open);
    lu_free(g->sums);
    lu_free(g->stride);
    *g = (lu_gather){.view = NULL};
    return status;
}
