/* osplus.c - Outlier Suppression+ (Wei et al. 2023, arXiv 2304.09145). Two steps for each seam:

   Shift (section 4.1): z = (max x + min x) / 2 centres each channel. It needs a bias before and
   behind the seam that a constant can move between; norms without an offset have none, so in most
   models there is no shift.

   Scale (section 4.2): a threshold t decides all scales behind a norm: channels that reach beyond
   it are divided until they do not,

       s_c = max(1, max x_c / t, min x_c / -t)

   t goes down from the largest magnitude R in max(100, R / 0.5) steps. The t with the smallest
   squared error of the part, its weights and inputs rounded, is taken; t = R is no scale, so the
   loss never ends above that. Every stride-th t is tried, then those near the best at half the
   distance, and so on; stride 1 tries all. */
#include <math.h>

#include "algo/seam_trial.h"
#include "base/mem.h"

typedef struct {
    bool shift, pairs;
    int64_t steps, stride;
    double lowest;
    int64_t act_bits, loss_samples;
    int act_range;
    bool act_symmetric;
} settings;

static const lutra_param params[] = {
    {"shift", LUTRA_PARAM_BOOL, offsetof(settings, shift), 1, 0, 1, NULL,
     "centre channels first, where biases allow it"},
    {"steps", LUTRA_PARAM_INT, offsetof(settings, steps), 100, 1, 10000, NULL,
     "thresholds, at least; one for each half of the largest magnitude if these are more"},
    {"stride", LUTRA_PARAM_INT, offsetof(settings, stride), 8, 1, 1000, NULL,
     "try every stride-th threshold, then those near the best; 1 tries all"},
    {"lowest", LUTRA_PARAM_REAL, offsetof(settings, lowest), 0.1, 1e-6, 1e6, NULL,
     "the smallest threshold; a tenth of the largest magnitude if that is less"},
    {"pairs", LUTRA_PARAM_BOOL, offsetof(settings, pairs), 1, 0, 1, NULL,
     "scale also between linears: values to output, up to down"},
    LU_ACT_TRIAL_PARAMS(settings),
    LU_LOSS_SAMPLES_PARAM(settings),
    {0},
};

/* The ends of the channels of each scale. */
static void find_ends(const lu_seam *seam, float *lo, float *hi)
{
    const lu_stats *t = &lu_seam_main_reader(seam)->stats;
    for (int64_t i = 0; i < seam->n_scales; i++) {
        lo[i] = INFINITY;
        hi[i] = -INFINITY;
    }
    for (int64_t c = 0; c < seam->k; c++) {
        const int64_t i = lu_seam_scale_of(seam, c);
        lo[i] = fminf(lo[i], t->lowest[c]);
        hi[i] = fmaxf(hi[i], t->highest[c]);
    }
}

static lutra_status shift(lu_block *b, lu_seam *seam, float *lo, const float *hi, lutra_err *err)
{
    for (int64_t i = 0; i < seam->n_scales; i++)
        lo[i] = 0.5f * lo[i] + 0.5f * hi[i];
    return lu_seam_shift(b, seam, lo, err);
}

/* ---- scale --------------------------------------------------------------------------------------
 */

typedef struct {
    lu_seam_trial *trial;
    const float *lo, *hi; /* [n_scales] */
    float *s;             /* [n_scales] */
    float largest, lowest;
    int64_t steps, best_step;
    double best;
} search;

static void make_scale(search *f, int64_t step)
{
    const float t = f->largest - (f->largest - f->lowest) * (float)step / (float)f->steps;
    for (int64_t c = 0; c < f->trial->seam->n_scales; c++)
        f->s[c] = fmaxf(1, fmaxf(f->hi[c], -f->lo[c]) / t);
}

static lutra_status try_step(search *f, int64_t step, lutra_err *err)
{
    double loss;
    if (step <= 0 || step > f->steps)
        return LUTRA_OK;
    make_scale(f, step);
    LU_TRY(lu_seam_trial_loss(f->trial, f->s, &loss, err));
    if (loss < f->best) {
        f->best = loss;
        f->best_step = step;
    }
    return LUTRA_OK;
}

static lutra_status find_threshold(search *f, const settings *set, lutra_err *err)
{
    f->best_step = 0;
    for (int64_t c = 0; c < f->trial->seam->n_scales; c++)
        f->largest = fmaxf(f->largest, fmaxf(f->hi[c], -f->lo[c]));
    if (f->trial->n == 0 || !(f->largest > 0))
        return LUTRA_OK;
    f->lowest = fminf((float)set->lowest, 0.1f * f->largest);
    f->steps = f->largest < 5e3f ? (int64_t)(f->largest / 0.5f) : 10000;
    f->steps = f->steps > set->steps ? f->steps : set->steps;
    LU_TRY(lu_seam_trial_loss(f->trial, NULL, &f->best, err));
    const double none = f->best;
    for (int64_t step = set->stride; step <= f->steps; step += set->stride)
        LU_TRY(try_step(f, step, err));
    for (int64_t distance = set->stride / 2; distance > 0; distance /= 2) {
        const int64_t middle = f->best_step;
        LU_TRY(try_step(f, middle - distance, err));
        LU_TRY(try_step(f, middle + distance, err));
    }
    lu_log(f->trial->b->ctx, LUTRA_LOG_DEBUG, "%s: threshold %lld of %lld, loss %.6g, %.6g without",
           f->trial->seam->name, (long long)f->best_step, (long long)f->steps, f->best, none);
    return LUTRA_OK;
}

static lutra_status scale(lu_block *b, lu_seam *seam, const settings *set, search *f,
                          lutra_err *err)
{
    const lu_act_format act =
        lu_act_trial_format(set->act_bits, set->act_range, set->act_symmetric);
    lu_seam_trial trial;
    f->trial = &trial;
    b->loss_samples = set->loss_samples;
    LU_TRY(lu_seam_trial_open(b, seam, &act, &trial, err));
    lutra_status status = find_threshold(f, set, err);
    if (status == LUTRA_OK && f->best_step)
        make_scale(f, f->best_step);
    lu_seam_trial_close(&trial);
    return status == LUTRA_OK && f->best_step ? lu_seam_apply(b, seam, f->s, err) : status;
}

/* ---- the pass -----------------------------------------------------------------------------------
 */

static lutra_status osplus_seam(lu_block *b, lu_seam *seam, const void *set, lutra_err *err)
{
    const settings *s = set;
    const size_t n = (size_t)seam->n_scales;
    lutra_status status = LUTRA_OK;
    if (seam->refusal || lu_seam_main_reader(seam)->stats.n_rows == 0)
        return LUTRA_OK;
    float *all = lu_array(3 * n, sizeof *all);
    if (!all)
        return lu_fail_nomem(err, 3 * n * sizeof *all);
    if (s->shift && lu_seam_shifts(seam)) {
        find_ends(seam, all, all + n);
        status = shift(b, seam, all, all + n, err);
    }
    if (status == LUTRA_OK && (seam->kind == LU_SEAM_NORM || s->pairs)) {
        search f = {.lo = all, .hi = all + n, .s = all + 2 * n};
        find_ends(seam, all, all + n);
        status = scale(b, seam, s, &f, err);
    }
    lu_free(all);
    return status;
}

static unsigned osplus_needs(const void *set)
{
    (void)set;
    return LU_STAT_RANGE;
}

static int64_t osplus_loss_samples(const void *set) { return ((const settings *)set)->loss_samples; }

const lu_pass lu_pass_osplus = {
    .method = {.name = "osplus",
               .summary = "centres channels and divides those that reach beyond a threshold",
               .source = "Wei et al. 2023, arXiv 2304.09145",
               .kind = LUTRA_METHOD_TRANSFORM,
               .needs_data = true,
               .params = params},
    .settings_size = sizeof(settings),
    .needs = osplus_needs,
    .loss_samples = osplus_loss_samples,
    .seam = osplus_seam,
};
