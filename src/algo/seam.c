/* seam.c - moving a per-channel scale through a seam: the operation before it is divided, every
   linear after it multiplied, so that the block computes the same. */
#include <math.h>

#include "algo/pass.h"
#include "base/mem.h"

static lutra_status check_scales(const lu_seam *seam, const float *s, lutra_err *err)
{
    if (seam->refusal)
        return lu_fail(err, LUTRA_E_ARG, "%s: no scale can move here: %s", seam->name,
                       seam->refusal);
    for (int64_t i = 0; i < seam->n_scales; i++)
        if (!(s[i] > 0) || !isfinite(s[i]) || !isfinite(1 / s[i]))
            return lu_fail(err, LUTRA_E_ARG,
                           "%s: scale of channel %lld is %g, expected a positive number",
                           seam->name, (long long)i, (double)s[i]);
    return LUTRA_OK;
}

static void divide_norm(lu_seam *seam, const float *s)
{
    for (int64_t c = 0; c < seam->k; c++)
        seam->gain[c] = (seam->gain[c] + seam->offset) / s[c] - seam->offset;
}

/* Rows scale with their ranges: a group of a row has one factor. */
static void divide_rows(lu_site_linear *l, const float *s)
{
    const int64_t groups = lutra_format_groups(&l->format, l->k);
    for (int64_t r = 0; r < l->n; r++) {
        const float f = 1 / s[r];
        for (int64_t c = 0; c < l->k; c++)
            l->w[r * l->k + c] *= f;
        if (l->bias)
            l->bias[r] *= f;
        for (int64_t g = 0; l->lo && g < groups; g++) {
            l->lo[r * groups + g] *= f;
            l->hi[r * groups + g] *= f;
        }
    }
}

typedef struct {
    const lu_seam *seam;
    const float *s;
    lu_site_linear *linear;
    float *hessian;
    int64_t k;
} scale_job;

static void scale_weight_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const scale_job *j = arg;
    (void)worker;
    for (int64_t r = begin; r < end; r++)
        for (int64_t c = 0; c < j->k; c++)
            j->linear->w[r * j->k + c] *= j->s[lu_seam_scale_of(j->seam, c)];
}

static void scale_hessian_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const scale_job *j = arg;
    (void)worker;
    for (int64_t r = begin; r < end; r++)
        for (int64_t c = 0; c < j->k; c++)
            j->hessian[r * j->k + c] /=
                j->s[lu_seam_scale_of(j->seam, r)] * j->s[lu_seam_scale_of(j->seam, c)];
}

/* The inputs of the readers are now x / s. */
static void scale_stats(lu_pool *pool, const lu_seam *seam, const float *s, lu_stats *stats)
{
    float *const vectors[] = {stats->absmax, stats->absmean, stats->lowest, stats->highest};
    for (size_t v = 0; v < sizeof vectors / sizeof vectors[0]; v++)
        for (int64_t c = 0; vectors[v] && c < seam->k; c++)
            vectors[v][c] /= s[lu_seam_scale_of(seam, c)];
    for (int64_t r = 0; stats->rows && r < stats->n_kept; r++)
        for (int64_t c = 0; c < seam->k; c++)
            stats->rows[r * seam->k + c] /= s[lu_seam_scale_of(seam, c)];
    scale_job job = {.seam = seam, .s = s, .hessian = stats->hessian, .k = seam->k};
    if (stats->hessian)
        lu_pool_for(pool, seam->k, 16, scale_hessian_rows, &job);
}

lutra_status lu_seam_apply(lu_block *b, lu_seam *seam, const float *s, lutra_err *err)
{
    lu_pool *pool = b->ctx->pool;
    LU_TRY(check_scales(seam, s, err));
    if (seam->kind == LU_SEAM_NORM)
        divide_norm(seam, s);
    else
        divide_rows(seam->producer, s);
    for (int i = 0; i < seam->n_readers; i++) {
        lu_site *site = seam->readers[i];
        for (int l = 0; l < site->n_linears; l++) {
            lu_site_linear *linear = site->linears[l];
            scale_job job = {.seam = seam, .s = s, .linear = linear, .k = site->k};
            lu_pool_for(pool, linear->n, 16, scale_weight_rows, &job);
            lu_free(linear->lo); /* the columns of a group have factors of their own */
            lu_free(linear->hi);
            linear->lo = linear->hi = NULL;
        }
        scale_stats(pool, seam, s, &site->stats);
    }
    return LUTRA_OK;
}
