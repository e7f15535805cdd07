/* smoothquant.c - SmoothQuant (Xiao et al. 2022, arXiv 2211.10438, equation 4): part of the
   outliers of activations moves into the weights behind a norm, by

       s_c = max|x_c|^alpha / max|w_c|^(1 - alpha)

   with the largest weight over all rows of all linears that read the norm. Channels that are always
   0 keep the scale 1. Unless `pairs` is off the same moves between two linears (v and o, up and
   down), whose inputs have outliers of their own: with one range for all tokens these are what is
   left of the error. alpha is given, or searched for each seam: the value of 0, 1/grid, ... 1 with
   the smallest squared error of the part behind it when its weights and inputs are rounded. */
#include <math.h>

#include "algo/seam_trial.h"
#include "base/mem.h"

typedef struct {
    double alpha;
    bool search, pairs;
    int64_t grid, act_bits, loss_samples;
    int act_range;
    bool act_symmetric;
} settings;

static const lutra_param params[] = {
    {"alpha", LUTRA_PARAM_REAL, offsetof(settings, alpha), 0.8, 0, 1, NULL,
     "how much moves: 0 evens out the weights, 1 the activations"},
    {"search", LUTRA_PARAM_BOOL, offsetof(settings, search), 0, 0, 1, NULL,
     "find the alpha of each seam by the error of the part behind it"},
    {"grid", LUTRA_PARAM_INT, offsetof(settings, grid), 20, 1, 1000, NULL,
     "search: alphas 0, 1/grid, ... 1"},
    {"pairs", LUTRA_PARAM_BOOL, offsetof(settings, pairs), 1, 0, 1, NULL,
     "also between linears: values to output, up to down"},
    LU_ACT_TRIAL_PARAMS(settings),
    LU_LOSS_SAMPLES_PARAM(settings),
    {0},
};

/* max |x| over what all readers saw, and max |w| over their rows, for each scale. */
static void find_maxima(const lu_seam *seam, float *x, float *w)
{
    for (int64_t i = 0; i < seam->n_scales; i++)
        x[i] = w[i] = 0;
    for (int i = 0; i < seam->n_readers; i++) {
        const lu_site *site = seam->readers[i];
        for (int64_t c = 0; c < seam->k; c++) {
            float *to = &x[lu_seam_scale_of(seam, c)];
            *to = fmaxf(*to, site->stats.absmax[c]);
        }
        for (int l = 0; l < site->n_linears; l++) {
            const lu_site_linear *linear = site->linears[l];
            for (int64_t at = 0; !linear->kept && at < linear->n * seam->k; at++) {
                float *to = &w[lu_seam_scale_of(seam, at % seam->k)];
                *to = fmaxf(*to, fabsf(linear->w[at]));
            }
        }
    }
}

static void make_scale(const float *x, const float *w, int64_t n, double alpha, float *s)
{
    for (int64_t c = 0; c < n; c++)
        s[c] = x[c] > 0 && w[c] > 0
                   ? fmaxf((float)(pow((double)x[c], alpha) / pow((double)w[c], 1 - alpha)), 1e-5f)
                   : 1;
}

static lutra_status search_alpha(lu_seam_trial *t, const settings *set, const float *x,
                                 const float *w, float *s, double *alpha, lutra_err *err)
{
    double best, loss;
    *alpha = -1; /* no scale */
    if (t->n == 0)
        return LUTRA_OK;
    LU_TRY(lu_seam_trial_loss(t, NULL, &best, err));
    for (int64_t i = 0; i <= set->grid; i++) {
        const double a = (double)i / (double)set->grid;
        make_scale(x, w, t->seam->n_scales, a, s);
        LU_TRY(lu_seam_trial_loss(t, s, &loss, err));
        if (loss < best) {
            best = loss;
            *alpha = a;
        }
    }
    lu_log(t->b->ctx, LUTRA_LOG_DEBUG, "%s: alpha %.3g, loss %.6g", t->seam->name, *alpha, best);
    return LUTRA_OK;
}

static lutra_status smooth(lu_block *b, lu_seam *seam, const settings *set, float *x, float *w,
                           float *s, lutra_err *err)
{
    double alpha = set->alpha;
    find_maxima(seam, x, w);
    if (set->search) {
        const lu_act_format act =
            lu_act_trial_format(set->act_bits, set->act_range, set->act_symmetric);
        lu_seam_trial trial;
        b->loss_samples = set->loss_samples;
        LU_TRY(lu_seam_trial_open(b, seam, &act, &trial, err));
        const lutra_status status = search_alpha(&trial, set, x, w, s, &alpha, err);
        lu_seam_trial_close(&trial);
        LU_TRY(status);
    }
    if (alpha < 0)
        return LUTRA_OK;
    make_scale(x, w, seam->n_scales, alpha, s);
    return lu_seam_apply(b, seam, s, err);
}

static lutra_status smooth_seam(lu_block *b, lu_seam *seam, const void *set, lutra_err *err)
{
    const settings *s = set;
    const size_t n = (size_t)seam->n_scales;
    if (seam->refusal || (seam->kind != LU_SEAM_NORM && !s->pairs))
        return LUTRA_OK;
    float *all = lu_array(3 * n, sizeof *all);
    if (!all)
        return lu_fail_nomem(err, 3 * n * sizeof *all);
    const lutra_status status = smooth(b, seam, s, all, all + n, all + 2 * n, err);
    lu_free(all);
    return status;
}

static unsigned smooth_needs(const void *set)
{
    return LU_STAT_ABSMAX | (((const settings *)set)->search ? LU_STAT_RANGE : 0u);
}

static int64_t smooth_loss_samples(const void *set)
{
    const settings *s = set;
    return s->search ? s->loss_samples : -1;
}

const lu_pass lu_pass_smoothquant = {
    .method = {.name = "smoothquant",
               .summary = "moves outliers of activations into the weights behind norms",
               .source = "Xiao et al. 2022, arXiv 2211.10438",
               .kind = LUTRA_METHOD_TRANSFORM,
               .needs_data = true,
               .params = params},
    .settings_size = sizeof(settings),
    .needs = smooth_needs,
    .loss_samples = smooth_loss_samples,
    .seam = smooth_seam,
};
