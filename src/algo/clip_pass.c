/* clip_pass.c - clipped ranges for groups of weights, by the output error of each group: AWQ's
   second step (arXiv 2306.00978, and section 3 of LLMC, arXiv 2405.06001, for asymmetric ranges).

   For p = 1, 1 - 1/grid, ... both ends of a group's range shrink by p (always from the whole range,
   never from an accepted one), its weights are rounded in the finer steps, those outside to the
   ends. The best p is kept for each row and group by itself. Symmetric formats look at the larger
   end, so the range is symmetric where the format is. Tables that end below their absmax_ref start
   from a wider range, as the range rule mse does (kern/encode_range.c).

   The result stands in lo and hi and is used by whatever rounds next; no weight changes. */
#include <math.h>
#include <string.h>

#include "algo/clip.h"
#include "algo/gptq_trial.h"
#include "base/mem.h"
#include "kern/encode.h"

typedef struct {
    const lu_site_linear *l; /* as it is */
    int64_t size, groups;
    float p;
    const float *whole_lo, *whole_hi; /* [n][groups] smallest and largest weight */
    float *lo, *hi;                   /* [n][groups] the candidate */
    float *best_p;                    /* [n][groups] */
    double *best;                     /* [n][groups] its error */
    float *d;                         /* [n][k] w - rounded w */
    float *product;                   /* [n][size] */
    int64_t group;                    /* that `product` is of */
} search;

typedef struct {
    const lu_site_linear *l;
    int64_t groups, size;
    float *lo, *hi; /* [n][groups] */
} range_job;

static void whole_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const range_job *j = arg;
    (void)worker;
    for (int64_t i = begin * j->groups; i < end * j->groups; i++) {
        const float *w = j->l->w + i * j->size;
        float lo = w[0], hi = w[0];
        for (int64_t c = 1; c < j->size; c++) {
            lo = w[c] < lo ? w[c] : lo;
            hi = w[c] > hi ? w[c] : hi;
        }
        j->lo[i] = lo;
        j->hi[i] = hi;
    }
}

static void difference_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const search *s = arg;
    (void)worker;
    for (int64_t i = begin * s->l->k; i < end * s->l->k; i++)
        s->d[i] = s->l->w[i] - s->d[i];
}

static void judge_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const search *s = arg;
    (void)worker;
    for (int64_t r = begin; r < end; r++) {
        const float *d = s->d + r * s->l->k + s->group * s->size, *dh = s->product + r * s->size;
        const int64_t i = r * s->groups + s->group;
        double error = 0;
        for (int64_t c = 0; c < s->size; c++)
            error += (double)d[c] * (double)dh[c];
        if (error < s->best[i]) {
            s->best[i] = error;
            s->best_p[i] = s->p;
        }
    }
}

static lutra_status try_range(lu_block *b, const lu_site *site, search *s, float p, lutra_err *err)
{
    const lu_site_linear *l = s->l;
    const lu_stats *t = &site->stats;
    lu_site_linear clipped = *l;
    LU_TRY(lu_check_cancel(b->ctx, err));
    clipped.lo = s->lo;
    clipped.hi = s->hi;
    s->p = p;
    for (int64_t i = 0; i < l->n * s->groups; i++) {
        s->lo[i] = p * s->whole_lo[i];
        s->hi[i] = p * s->whole_hi[i];
    }
    LU_TRY(lu_linear_fake_round(b, &clipped, l->w, s->d, err));
    lu_pool_for(b->ctx->pool, l->n, 16, difference_rows, s);
    for (s->group = 0; s->group < s->groups; s->group++) {
        const int64_t at = s->group * s->size;
        LU_TRY(lu_la_gemm(b->la,
                          &(lu_la_gemm_args){.m = l->n,
                                             .n = s->size,
                                             .k = s->size,
                                             .alpha = 1,
                                             .a = s->d + at,
                                             .lda = l->k,
                                             .b = t->hessian + at * l->k + at,
                                             .ldb = l->k,
                                             .c = s->product,
                                             .ldc = s->size},
                          err));
        lu_pool_for(b->ctx->pool, l->n, 64, judge_rows, s);
    }
    return LUTRA_OK;
}

/* In units of the range that the rule minmax gives. */
static float widest(const lutra_format *f)
{
    float reach = 0;
    for (int i = 0; i < 1 << f->bits; i++)
        reach = fmaxf(reach, fabsf(f->table[i]));
    return !f->zero_point && f->absmax_ref > reach ? f->absmax_ref / reach : 1;
}

/* The factors that are tried, in their order; lu_free. NULL: no memory. */
static float *list_factors(const lutra_format *f, const lu_clip_settings *set, int *n)
{
    const float wide = widest(f);
    float *list = lu_array((size_t)set->grid + 2, sizeof *list);
    *n = 0;
    if (list)
        list[(*n)++] = 1;
    for (int64_t i = wide > 1 ? 0 : 1; list && (double)i <= set->max_shrink * (double)set->grid;
         i++)
        list[(*n)++] = wide * (1 - (float)i / (float)set->grid);
    return list;
}

static lutra_status search_here(lu_block *b, search *s, const lu_range_search *r, lutra_err *err)
{
    const size_t n = (size_t)s->l->n, k = (size_t)s->l->k, count = n * (size_t)s->groups;
    s->whole_lo = r->lo;
    s->whole_hi = r->hi;
    s->best_p = r->best;
    s->lo = lu_array(count, sizeof *s->lo);
    s->hi = lu_array(count, sizeof *s->hi);
    s->best = lu_array(count, sizeof *s->best);
    s->d = lu_array(n, k * sizeof *s->d);
    s->product = lu_array(n, (size_t)s->size * sizeof *s->product);
    const bool ok = s->lo && s->hi && s->best && s->d && s->product;
    lutra_status status = ok ? LUTRA_OK : lu_fail_nomem(err, n * k * sizeof *s->d);
    for (size_t i = 0; ok && i < count; i++) {
        s->best[i] = INFINITY;
        s->best_p[i] = 1;
    }
    for (int i = 0; status == LUTRA_OK && i < r->n_factors; i++)
        status = try_range(b, r->site, s, r->factors[i], err);
    lu_free(s->lo);
    lu_free(s->hi);
    lu_free(s->best);
    lu_free(s->d);
    lu_free(s->product);
    return status;
}

/* lo and hi of l. *weighed: the losses in r are there. */
static lutra_status clip_linear(lu_block *b, const lu_site *site, lu_site_linear *l,
                                const lu_clip_settings *set, lu_range_search *r, bool *weighed,
                                lutra_err *err)
{
    search s = {.l = l, .groups = lutra_format_groups(&l->format, l->k)};
    *weighed = false;
    lu_free(l->lo);
    lu_free(l->hi);
    l->lo = l->hi = NULL;
    if (s.groups == 0) /* the rounding pass says so */
        return LUTRA_OK;
    s.size = l->k / s.groups;
    const size_t count = (size_t)(l->n * s.groups);
    *r = (lu_range_search){.site = site, .l = l, .weigh = !l->gptq};
    float *lo = lu_array(count, sizeof *lo), *hi = lu_array(count, sizeof *hi);
    float *factors = list_factors(&l->format, set, &r->n_factors);
    r->best = lu_array(count, sizeof *r->best);
    lutra_status status =
        lo && hi && factors && r->best ? LUTRA_OK : lu_fail_nomem(err, count * sizeof *lo);
    if (status == LUTRA_OK) {
        range_job whole = {.l = l, .groups = s.groups, .size = s.size, .lo = lo, .hi = hi};
        lu_pool_for(b->ctx->pool, l->n, 16, whole_rows, &whole);
        r->lo = lo;
        r->hi = hi;
        r->factors = factors;
    }
    if (status == LUTRA_OK && b->search_ranges)
        status = b->search_ranges(b, r, weighed, err);
    if (status == LUTRA_OK && !*weighed)
        status = search_here(b, &s, r, err);
    *weighed = *weighed && r->weigh;
    for (size_t i = 0; status == LUTRA_OK && i < count; i++) {
        lo[i] *= r->best[i];
        hi[i] *= r->best[i];
    }
    lu_free(factors);
    lu_free(r->best);
    if (status == LUTRA_OK) {
        l->lo = lo;
        l->hi = hi;
        return LUTRA_OK;
    }
    lu_free(lo);
    lu_free(hi);
    return status;
}

/* ---- one site -----------------------------------------------------------------------------------
 */

/* The output error of l when it is rounded as it will be. */
static lutra_status rounded_loss(lu_block *b, const lu_site *site, lu_gptq_trial *trial,
                                 const lu_site_linear *l, double *loss, lutra_err *err)
{
    const size_t count = (size_t)l->n * (size_t)l->k;
    lu_site_linear rounded = *l;
    rounded.w = lu_array(count, sizeof *rounded.w);
    if (!rounded.w)
        return lu_fail_nomem(err, count * sizeof *rounded.w);
    lutra_status status = LUTRA_OK;
    if (l->gptq) {
        memcpy(rounded.w, l->w, count * sizeof *rounded.w);
        status = lu_gptq_trial_round(b, trial, l->gptq, NULL, &rounded, err);
    } else {
        status = lu_linear_fake_round(b, l, l->w, rounded.w, err);
    }
    if (status == LUTRA_OK)
        status = lu_linear_loss(b, site, l, rounded.w, loss, err);
    lu_free(rounded.w);
    return status;
}

/* Each group's range is the best for the group alone. All of them together may serve the linear
   worse than those of its range rule, most of all when GPTQ carries errors from group to group:
   then they go. weighed: with both losses, or NULL. */
static lutra_status keep_if_better(lu_block *b, const lu_site *site, lu_gptq_trial *trial,
                                   lu_site_linear *l, const lu_range_search *weighed,
                                   lutra_err *err)
{
    double with = 0, without = 0;
    if (weighed) {
        with = weighed->clipped;
        without = weighed->plain;
    } else {
        lu_site_linear plain = *l;
        plain.lo = plain.hi = NULL;
        LU_TRY(rounded_loss(b, site, trial, l, &with, err));
        LU_TRY(rounded_loss(b, site, trial, &plain, &without, err));
    }
    lu_log(b->ctx, LUTRA_LOG_DEBUG, "%s: loss %.6g clipped, %.6g without", l->name, with, without);
    if (with <= (l->gptq ? LU_GPTQ_TRIAL_GAIN : 1) * without)
        return LUTRA_OK;
    lu_free(l->lo);
    lu_free(l->hi);
    l->lo = l->hi = NULL;
    return LUTRA_OK;
}

lutra_status lu_clip_site(lu_block *b, lu_site *site, const lu_clip_settings *s, int64_t min_rows,
                          lutra_err *err)
{
    if (site->stats.n_rows < min_rows) {
        lu_log(b->ctx, LUTRA_LOG_WARN,
               "layer %lld %s: saw %lld tokens, fewer than %lld: its weights are not clipped",
               (long long)b->index, site->name, (long long)site->stats.n_rows, (long long)min_rows);
        return LUTRA_OK;
    }
    lu_gptq_trial trial = {.u = NULL};
    lutra_status status = LUTRA_OK;
    bool holds = false;
    for (int i = 0; status == LUTRA_OK && i < site->n_linears; i++) {
        lu_site_linear *l = site->linears[i];
        if (!l->wanted || l->kept || (!s->scores && l->feeds_scores))
            continue;
        lu_range_search result;
        bool weighed;
        if (!l->gptq && !holds) { /* for the losses of all linears */
            status = lu_la_hold(b->la, site->stats.hessian, site->k * site->k, err);
            holds = true;
        }
        if (status == LUTRA_OK)
            status = clip_linear(b, site, l, s, &result, &weighed, err);
        if (status == LUTRA_OK && l->gptq && !trial.u)
            status = lu_gptq_trial_open(b, site, l->gptq, &trial, err);
        if (status == LUTRA_OK && l->lo)
            status = keep_if_better(b, site, &trial, l, weighed ? &result : NULL, err);
    }
    if (holds)
        lu_la_release(b->la);
    lu_gptq_trial_close(&trial);
    return status;
}

/* ---- the pass -----------------------------------------------------------------------------------
 */

typedef struct {
    lu_clip_settings clip;
    int64_t min_rows;
} settings;

static const lutra_param params[] = {
    LU_CLIP_PARAMS(settings, clip),
    {"min_rows", LUTRA_PARAM_INT, offsetof(settings, min_rows), 128, 1, 1e9, NULL,
     "inputs that saw fewer tokens (seldom used experts) are left as they are"},
    {0},
};

static lutra_status clip_site(lu_block *b, lu_site *site, const void *set, lutra_err *err)
{
    const settings *s = set;
    return lu_clip_site(b, site, &s->clip, s->min_rows, err);
}

static unsigned clip_needs(const void *set)
{
    (void)set;
    return LU_STAT_HESSIAN;
}

const lu_pass lu_pass_clip = {
    .method = {.name = "clip",
               .summary = "searches the range of each group of weights by its output error",
               .source = "Lin et al. 2023, arXiv 2306.00978",
               .kind = LUTRA_METHOD_TRANSFORM,
               .needs_data = true,
               .params = params},
    .settings_size = sizeof(settings),
    .needs = clip_needs,
    .site = clip_site,
};
