/* seam_trial.c - the loss of a per-channel scale before it is applied; see seam_trial.h. */
#include <math.h>
#include <string.h>

#include "algo/seam_trial.h"
#include "base/mem.h"

/* ---- rows of activations ------------------------------------------------------------------------
 */

lu_act_format lu_act_trial_format(int64_t bits, int range, bool symmetric)
{
    return (lu_act_format){.bits = bits < LU_ACT_MIN_BITS ? 0 : (int)bits,
                           .scope = range == 0 ? LU_ACT_TOKEN : LU_ACT_TENSOR,
                           .zero_point = !symmetric};
}

static bool reads(const lu_seam *seam, const lu_site *site)
{
    for (int i = 0; i < seam->n_readers; i++)
        if (seam->readers[i] == site)
            return true;
    return false;
}

/* lu_edit: x -> rounded(x / s) s for the seam's readers. */
static void round_inputs(void *arg, const lu_site *site, float *x, int64_t rows)
{
    const lu_seam_trial *t = arg;
    const int64_t k = site->k;
    if (!reads(t->seam, site))
        return;
    for (int64_t r = 0; r < rows; r++, x += k) {
        for (int64_t c = 0; c < k; c++)
            x[c] /= t->scale[c];
        lu_act_fake(&t->ops, &t->act, x, k, x, t->act_codes);
        for (int64_t c = 0; c < k; c++)
            x[c] *= t->scale[c];
    }
}

/* The one range of x / s over the calibration rows. */
static void find_range(lu_seam_trial *t)
{
    float lo = 0, hi = 0;
    for (int i = 0; i < t->seam->n_readers; i++) {
        const lu_stats *s = &t->seam->readers[i]->stats;
        for (int64_t c = 0; s->lowest && c < t->seam->k; c++) {
            lo = fminf(lo, s->lowest[c] / t->scale[c]);
            hi = fmaxf(hi, s->highest[c] / t->scale[c]);
        }
    }
    lu_act_params(&t->act.format, lo, hi, &t->act.scale, &t->act.zero);
}

/* ---- weights ------------------------------------------------------------------------------------
 */

typedef struct {
    const float *from, *scale;
    float *to;
    int64_t k;
    bool divide;
} scale_columns_job;

static void scale_columns(void *arg, int64_t begin, int64_t end, int worker)
{
    const scale_columns_job *j = arg;
    (void)worker;
    for (int64_t r = begin; r < end; r++)
        for (int64_t c = 0; c < j->k; c++) {
            const float w = j->from[r * j->k + c];
            j->to[r * j->k + c] = j->divide ? w / j->scale[c] : w * j->scale[c];
        }
}

/* to = rounded(w s) / s */
static lutra_status round_scaled(lu_seam_trial *t, int i, float *to, lutra_err *err)
{
    lu_site_linear l = *t->linears[i];
    scale_columns_job j = {.from = t->w[i], .scale = t->scale, .to = to, .k = l.k};
    lu_pool *pool = t->b->ctx->pool;
    lu_pool_for(pool, l.n, 16, scale_columns, &j);
    l.w = to;
    LU_TRY(l.gptq ? lu_gptq_trial_round(t->b, &t->gptq[t->reader[i]], l.gptq, t->scale, &l, err)
                  : lu_linear_fake_round(t->b, &l, to, to, err));
    j.from = to;
    j.divide = true;
    lu_pool_for(pool, l.n, 16, scale_columns, &j);
    return LUTRA_OK;
}

/* ---- the trial ----------------------------------------------------------------------------------
 */

static lutra_status add_linear(lu_seam_trial *t, int reader, lu_site_linear *l, lutra_err *err)
{
    const lu_site *site = t->seam->readers[reader];
    lu_free(l->lo);
    lu_free(l->hi);
    l->lo = l->hi = NULL;
    t->linears[t->n] = l;
    t->reader[t->n] = reader;
    t->w[t->n++] = l->w;
    if (!l->gptq || !site->stats.hessian)
        return LUTRA_OK;
    t->by_gptq = true;
    if (t->gptq[reader].u)
        return LUTRA_OK;
    return lu_gptq_trial_open(t->b, site, l->gptq, &t->gptq[reader], err);
}

static lutra_status open_linears(lu_seam_trial *t, lutra_err *err)
{
    int most = 0;
    for (int i = 0; i < t->seam->n_readers; i++)
        most += t->seam->readers[i]->n_linears;
    t->linears = lu_calloc((size_t)most, sizeof *t->linears);
    t->w = lu_calloc((size_t)most, sizeof *t->w);
    t->saved = lu_calloc((size_t)most, sizeof *t->saved);
    t->reader = lu_calloc((size_t)most, sizeof *t->reader);
    t->gptq = lu_calloc((size_t)t->seam->n_readers, sizeof *t->gptq);
    t->scale = lu_array((size_t)t->seam->k, sizeof *t->scale);
    t->act_codes = lu_alloc((size_t)t->seam->k);
    if (!t->linears || !t->w || !t->saved || !t->reader || !t->gptq || !t->scale || !t->act_codes)
        return lu_fail_nomem(err, (size_t)t->seam->k * sizeof *t->scale);
    for (int i = 0; i < t->seam->n_readers; i++)
        for (int l = 0; l < t->seam->readers[i]->n_linears; l++) {
            lu_site_linear *linear = t->seam->readers[i]->linears[l];
            if (linear->wanted && !linear->kept)
                LU_TRY(add_linear(t, i, linear, err));
        }
    return LUTRA_OK;
}

static lutra_status open_elsewhere(lu_seam_trial *t, bool alone, lutra_err *err)
{
    const lu_scaled s = {.linears = t->linears,
                         .w = t->w,
                         .n = t->n,
                         .part = t->seam->part,
                         .alone = alone ? t->seam->readers[0] : NULL};
    if (!t->b->scaled_open || t->act.format.bits)
        return LUTRA_OK;
    return t->b->scaled_open(t->b, &s, &t->elsewhere, err);
}

/* The rounded weights will stand in the linears' own place. */
static lutra_status save_weights(lu_seam_trial *t, lutra_err *err)
{
    for (int i = 0; i < t->n; i++) {
        const lu_site_linear *l = t->linears[i];
        const size_t bytes = (size_t)l->n * (size_t)l->k * sizeof *l->w;
        t->saved[i] = lu_alloc(bytes);
        if (!t->saved[i])
            return lu_fail_nomem(err, bytes);
        memcpy(t->saved[i], l->w, bytes);
        t->w[i] = t->saved[i];
    }
    return LUTRA_OK;
}

static lutra_status open_loss(lu_seam_trial *t, lutra_err *err)
{
    const bool alone = t->seam->in_part_alone && !t->act.format.bits;
    if (t->n == 0)
        return LUTRA_OK;
    if (!alone)
        LU_TRY(t->b->record(t->b, t->seam->part, err));
    const lu_site_linear *l = t->linears[0];
    const float *h = t->seam->readers[0]->stats.hessian;
    if (alone && h) {
        LU_TRY(lu_la_hold(t->b->la, h, l->k * l->k, err));
        t->holds = true;
    }
    if ((!alone || h) && !t->by_gptq) /* elsewhere rounds to nearest */
        LU_TRY(open_elsewhere(t, alone, err));
    if (t->elsewhere)
        return LUTRA_OK;
    if (!alone)
        return save_weights(t, err);
    t->approx = lu_array((size_t)l->n, (size_t)l->k * sizeof *t->approx);
    return t->approx ? LUTRA_OK : lu_fail_nomem(err, (size_t)l->n * (size_t)l->k);
}

lutra_status lu_seam_trial_open(lu_block *b, lu_seam *seam, const lu_act_format *act,
                                lu_seam_trial *t, lutra_err *err)
{
    *t = (lu_seam_trial){.b = b, .seam = seam, .act.format = *act};
    lu_ops_fill(&t->ops, b->level);
    lutra_status status = open_linears(t, err);
    if (status == LUTRA_OK)
        status = open_loss(t, err);
    if (status != LUTRA_OK)
        lu_seam_trial_close(t);
    return status;
}

void lu_seam_trial_close(lu_seam_trial *t)
{
    if (t->elsewhere)
        t->b->scaled_close(t->b);
    if (t->holds)
        lu_la_release(t->b->la);
    for (int i = 0; i < t->n; i++) {
        lu_site_linear *l = t->linears[i];
        if (t->saved[i])
            memcpy(l->w, t->saved[i], (size_t)l->n * (size_t)l->k * sizeof *l->w);
        lu_free(t->saved[i]);
    }
    for (int i = 0; t->gptq && i < t->seam->n_readers; i++)
        lu_gptq_trial_close(&t->gptq[i]);
    lu_free(t->gptq);
    lu_free(t->reader);
    lu_free(t->linears);
    lu_free(t->w);
    lu_free(t->saved);
    lu_free(t->scale);
    lu_free(t->act_codes);
    lu_free(t->approx);
    *t = (lu_seam_trial){.n = 0};
}

lutra_status lu_seam_trial_loss(lu_seam_trial *t, const float *s, double *loss, lutra_err *err)
{
    LU_TRY(lu_check_cancel(t->b->ctx, err));
    for (int64_t c = 0; c < t->seam->k; c++)
        t->scale[c] = s ? s[lu_seam_scale_of(t->seam, c)] : 1;
    if (t->elsewhere)
        return t->b->scaled_loss(t->b, t->scale, loss, err);
    if (t->approx) {
        LU_TRY(round_scaled(t, 0, t->approx, err));
        return lu_linear_loss(t->b, t->seam->readers[0], t->linears[0], t->approx, loss, err);
    }
    for (int i = 0; i < t->n; i++)
        LU_TRY(round_scaled(t, i, t->linears[i]->w, err));
    if (t->act.format.bits)
        find_range(t);
    return t->b->loss(t->b, t->seam->part, t->act.format.bits ? round_inputs : NULL, t, loss, err);
}

/* ---- who reads ----------------------------------------------------------------------------------
 */

const lu_site *lu_seam_main_reader(const lu_seam *seam)
{
    const lu_site *most = seam->readers[0];
    for (int i = 1; i < seam->n_readers; i++)
        if (seam->readers[i]->stats.n_rows > most->stats.n_rows)
            most = seam->readers[i];
    return most;
}

bool lu_seam_starved(const lu_block *b, const lu_seam *seam, int64_t min_rows)
{
    const int64_t rows = lu_seam_main_reader(seam)->stats.n_rows;
    if (rows >= min_rows)
        return false;
    lu_log(b->ctx, LUTRA_LOG_WARN, "%s: saw %lld tokens, fewer than %lld: no scale is moved",
           seam->name, (long long)rows, (long long)min_rows);
    return true;
}
