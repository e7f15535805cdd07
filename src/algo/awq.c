/* awq.c - AWQ (Lin et al. 2023, arXiv 2306.00978): a per-channel scale in front of linears, so that
   the channels with large activations are rounded in finer steps. For each seam the scale is

       s = a^r                      a: mean |x| per channel            (section 3.2, equation 5)
       s = a^r / m^(1 - r)          m: mean over rows of |w| over the largest |w| of its group
                                    ("duo": weights and activations)

   divided by sqrt(max s * min s), for r = 0, 1/grid, ... The r with the smallest squared error of
   the whole part behind the seam (attention, feed-forward, or the one linear) is taken, over all
   calibration rows. No scale at all is one of the candidates: the loss never ends above that of
   rounding to nearest, or of GPTQ where that comes next (gptq_trial.h). Afterwards the ranges of the groups are clipped (clip_pass.c, section 4.1 of
   the paper's code), by the output error of each group. */
#include <math.h>

#include "algo/clip.h"
#include "algo/seam_trial.h"
#include "base/mem.h"

#define SMALLEST 1e-4f

typedef enum { BY_ACTIVATIONS, BY_BOTH, TRY_EACH } scaling;

typedef struct {
    bool scale;
    int64_t grid;
    int scaling;
    bool clip;
    lu_clip_settings clipping;
    int64_t act_bits, min_rows, loss_samples;
} settings;

static const lutra_param params[] = {
    {"scale", LUTRA_PARAM_BOOL, offsetof(settings, scale), 1, 0, 1, NULL,
     "move scales from activations to weights"},
    {"grid", LUTRA_PARAM_INT, offsetof(settings, grid), 20, 1, 1000, NULL,
     "exponents tried for each scale: r = 0, 1/grid, ..."},
    {"scaling", LUTRA_PARAM_CHOICE, offsetof(settings, scaling), BY_ACTIVATIONS, 0, 0,
     "activations|duo|each",
     "what a scale follows: mean activations, these and the weights (duo), or the better of both"},
    {"clip", LUTRA_PARAM_BOOL, offsetof(settings, clip), 1, 0, 1, NULL,
     "then search clipped ranges for the groups of weights"},
    LU_CLIP_PARAMS(settings, clipping),
    {"act_bits", LUTRA_PARAM_INT, offsetof(settings, act_bits), 0, 0, LU_ACT_MAX_BITS, NULL,
     "judge scales with inputs rounded to so many bits per token; 0: inputs as they are"},
    {"min_rows", LUTRA_PARAM_INT, offsetof(settings, min_rows), 128, 1, 1e9, NULL,
     "inputs that saw fewer tokens (seldom used experts) are left as they are"},
    LU_LOSS_SAMPLES_PARAM(settings),
    {0},
};

/* ---- candidates ---------------------------------------------------------------------------------
 */

typedef struct {
    float *a, *m, *s, *best; /* [n_scales] */
} vectors;

/* The mean over the channels that share a scale. */
static void mean_activations(const lu_seam *seam, const float *absmean, float *a)
{
    for (int64_t i = 0; i < seam->n_scales; i++)
        a[i] = 0;
    for (int64_t c = 0; c < seam->k; c++)
        a[lu_seam_scale_of(seam, c)] += absmean[c] * (float)seam->n_scales / (float)seam->k;
}

/* |w| / the largest of its group, summed over all rows of the linears that are rounded. */
static void mean_weights(const lu_seam_trial *t, float *m)
{
    const lu_seam *seam = t->seam;
    int64_t rows = 0;
    for (int64_t i = 0; i < seam->n_scales; i++)
        m[i] = 0;
    for (int i = 0; i < t->n; i++) {
        const lu_site_linear *l = t->linears[i];
        const int64_t size = l->format.group_size > 0 ? l->format.group_size : l->k;
        rows += l->n;
        for (int64_t at = 0; at < l->n * l->k; at += size) {
            const float *w = t->w[i] + at;
            float largest = 0;
            for (int64_t c = 0; c < size; c++)
                largest = fmaxf(largest, fabsf(w[c]));
            for (int64_t c = 0; largest > 0 && c < size; c++)
                m[lu_seam_scale_of(seam, at % l->k + c)] += fabsf(w[c]) / largest;
        }
    }
    for (int64_t i = 0; i < seam->n_scales; i++)
        m[i] /= (float)(rows * seam->k / seam->n_scales);
}

static void make_scale(const vectors *v, int64_t n, bool duo, double r)
{
    float most = 0, least = INFINITY;
    for (int64_t i = 0; i < n; i++) {
        const double divisor = duo ? pow(fmax((double)v->m[i], 1e-6), 1 - r) : 1;
        v->s[i] = fmaxf((float)(pow((double)v->a[i], r) / divisor), SMALLEST);
        most = fmaxf(most, v->s[i]);
        least = fminf(least, v->s[i]);
    }
    for (int64_t i = 0; i < n; i++)
        v->s[i] /= sqrtf(most) * sqrtf(least);
}

/* ---- the search ---------------------------------------------------------------------------------
 */

static lutra_status try_exponents(lu_seam_trial *t, const settings *s, bool duo, vectors *v,
                                  double *best, bool *found, lutra_err *err)
{
    for (int64_t i = duo ? 0 : 1; i < s->grid; i++) { /* a^0 is no scale */
        double loss;
        make_scale(v, t->seam->n_scales, duo, (double)i / (double)s->grid);
        LU_TRY(lu_seam_trial_loss(t, v->s, &loss, err));
        if (!(loss < *best))
            continue;
        float *swap = v->best;
        v->best = v->s;
        v->s = swap;
        *best = loss;
        *found = true;
    }
    return LUTRA_OK;
}

static lutra_status search(lu_seam_trial *t, const settings *s, vectors *v, bool *found,
                           lutra_err *err)
{
    double none, best;
    *found = false;
    if (t->n == 0)
        return LUTRA_OK;
    mean_activations(t->seam, lu_seam_main_reader(t->seam)->stats.absmean, v->a);
    if (s->scaling != BY_ACTIVATIONS)
        mean_weights(t, v->m);
    LU_TRY(lu_seam_trial_loss(t, NULL, &none, err));
    best = t->by_gptq ? LU_GPTQ_TRIAL_GAIN * none : none;
    if (s->scaling != BY_BOTH)
        LU_TRY(try_exponents(t, s, false, v, &best, found, err));
    if (s->scaling != BY_ACTIVATIONS)
        LU_TRY(try_exponents(t, s, true, v, &best, found, err));
    lu_log(t->b->ctx, LUTRA_LOG_DEBUG, "%s: loss %.6g, without scales %.6g", t->seam->name, best,
           none);
    return LUTRA_OK;
}

static lutra_status search_and_apply(lu_block *b, lu_seam *seam, const settings *s, vectors *v,
                                     lutra_err *err)
{
    const lu_act_format act = lu_act_trial_format(s->act_bits, 0, true);
    lu_seam_trial trial;
    bool found;
    b->loss_samples = s->loss_samples;
    LU_TRY(lu_seam_trial_open(b, seam, &act, &trial, err));
    const lutra_status status = search(&trial, s, v, &found, err);
    lu_seam_trial_close(&trial);
    LU_TRY(status);
    return found ? lu_seam_apply(b, seam, v->best, err) : LUTRA_OK;
}

static lutra_status awq_seam(lu_block *b, lu_seam *seam, const void *set, lutra_err *err)
{
    const settings *s = set;
    if (!s->scale || seam->refusal || lu_seam_starved(b, seam, s->min_rows))
        return LUTRA_OK;
    const size_t n = (size_t)seam->n_scales;
    float *all = lu_array(4 * n, sizeof *all);
    if (!all)
        return lu_fail_nomem(err, 4 * n * sizeof *all);
    vectors v = {.a = all, .m = all + n, .s = all + 2 * n, .best = all + 3 * n};
    const lutra_status status = search_and_apply(b, seam, s, &v, err);
    lu_free(all);
    return status;
}

static lutra_status awq_site(lu_block *b, lu_site *site, const void *set, lutra_err *err)
{
    const settings *s = set;
    return s->clip ? lu_clip_site(b, site, &s->clipping, s->min_rows, err) : LUTRA_OK;
}

static unsigned awq_needs(const void *set)
{
    const settings *s = set;
    return (s->scale ? LU_STAT_ABSMEAN : 0u) | LU_STAT_HESSIAN;
}

static int64_t awq_loss_samples(const void *set)
{
    const settings *s = set;
    return s->scale ? s->loss_samples : -1;
}

const lu_pass lu_pass_awq = {
    .method = {.name = "awq",
               .summary = "scales channels by their activations, then clips weights",
               .source = "Lin et al. 2023, arXiv 2306.00978",
               .kind = LUTRA_METHOD_TRANSFORM,
               .needs_data = true,
               .params = params},
    .settings_size = sizeof(settings),
    .needs = awq_needs,
    .loss_samples = awq_loss_samples,
    .seam = awq_seam,
    .site = awq_site,
};
