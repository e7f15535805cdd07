/* seam.c - moving a per-channel scale through a seam: the operation before it is divided, every
   linear after it multiplied, so that the block computes the same. */
#include <math.h>
#include <string.h>

#include "algo/pass.h"
#include "base/mem.h"
#include "tensor/convert.h"

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

/* What is read back after v was stored. */
static float as_stored(lutra_dtype t, float v)
{
    return t == LUTRA_BF16  ? lu_bf16_to_f32(lu_f32_to_bf16(v))
           : t == LUTRA_F16 ? lu_f16_to_f32(lu_f32_to_f16(v))
                            : v;
}

/* Divides the gain and puts into s the scale that came of it. With an offset of 1 a small gain is
   the difference of two numbers near 1: rounding it in bf16 changes it by much, and the columns of
   the readers must follow what is stored. A channel that cannot be scaled so keeps its gain. */
static void divide_norm(lu_seam *seam, float *s)
{
    for (int64_t c = 0; c < seam->k; c++) {
        const float whole = seam->gain[c] + seam->offset;
        const float stored = as_stored(seam->stored, whole / s[c] - seam->offset);
        const float exact = whole / (stored + seam->offset);
        const bool usable = exact > s[c] / 2 && exact < s[c] * 2;
        if (usable)
            seam->gain[c] = stored;
        s[c] = usable ? exact : 1;
    }
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

lutra_status lu_seam_apply(lu_block *b, lu_seam *seam, const float *wanted, lutra_err *err)
{
    lu_pool *pool = b->ctx->pool;
    LU_TRY(check_scales(seam, wanted, err));
    float *s = lu_array((size_t)seam->n_scales, sizeof *s);
    if (!s)
        return lu_fail_nomem(err, (size_t)seam->n_scales * sizeof *s);
    memcpy(s, wanted, (size_t)seam->n_scales * sizeof *s);
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
    lu_free(s);
    return LUTRA_OK;
}

bool lu_seam_shifts(const lu_seam *seam)
{
    bool can = !seam->refusal && seam->kind == LU_SEAM_ROWS && seam->passes_constants &&
               seam->producer->bias;
    for (int i = 0; i < seam->n_readers; i++)
        for (int l = 0; l < seam->readers[i]->n_linears; l++)
            can = can && seam->readers[i]->linears[l]->bias;
    return can;
}

static void add_product(lu_site_linear *l, const lu_seam *seam, const float *z)
{
    for (int64_t r = 0; r < l->n; r++) {
        double sum = (double)l->bias[r];
        for (int64_t c = 0; c < l->k; c++)
            sum += (double)l->w[r * l->k + c] * (double)z[lu_seam_scale_of(seam, c)];
        l->bias[r] = (float)sum;
    }
}

/* The inputs of the readers are now x - z. What no longer follows from what is known goes. */
static void shift_stats(const lu_seam *seam, const float *z, lu_stats *stats)
{
    for (int64_t c = 0; c < seam->k; c++) {
        const float shift = z[lu_seam_scale_of(seam, c)];
        if (stats->lowest) {
            stats->lowest[c] -= shift;
            stats->highest[c] -= shift;
        }
        for (int64_t r = 0; stats->rows && r < stats->n_kept; r++)
            stats->rows[r * seam->k + c] -= shift;
    }
    float **const gone[] = {&stats->absmax, &stats->absmean, &stats->hessian};
    for (size_t i = 0; i < sizeof gone / sizeof gone[0]; i++) {
        lu_free(*gone[i]);
        *gone[i] = NULL;
    }
}

lutra_status lu_seam_shift(lu_block *b, lu_seam *seam, const float *wanted, lutra_err *err)
{
    (void)b;
    if (!lu_seam_shifts(seam))
        return lu_fail(err, LUTRA_E_ARG, "%s: no shift can move here: it takes biases at both ends",
                       seam->name);
    for (int64_t i = 0; i < seam->n_scales; i++)
        if (!isfinite(wanted[i]))
            return lu_fail(err, LUTRA_E_ARG, "%s: shift of channel %lld is %g, expected a number",
                           seam->name, (long long)i, (double)wanted[i]);
    float *z = lu_array((size_t)seam->n_scales, sizeof *z);
    if (!z)
        return lu_fail_nomem(err, (size_t)seam->n_scales * sizeof *z);
    for (int64_t i = 0; i < seam->n_scales; i++) {
        float *bias = &seam->producer->bias[i];
        const float stored = as_stored(seam->stored, *bias - wanted[i]);
        z[i] = *bias - stored;
        *bias = stored;
    }
    for (int i = 0; i < seam->n_readers; i++) {
        for (int l = 0; l < seam->readers[i]->n_linears; l++)
            add_product(seam->readers[i]->linears[l], seam, z);
        shift_stats(seam, z, &seam->readers[i]->stats);
    }
    lu_free(z);
    return LUTRA_OK;
}
