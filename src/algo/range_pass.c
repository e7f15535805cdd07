/* range_pass.c - ranges of weights by the weights alone: a rule (minmax, mse, percentile) over a
   group, a row or the whole matrix. The result stands in lo and hi of every group and is used by
   whatever rounds next, in any format.

   mse tries the ranges p = 1, 0.99, ... 0.21 of the whole one and takes the p with the smallest sum
   of |w - rounded|^2.4 over the unit (GPTQ's code; Frantar et al. 2022, arXiv 2210.17323). p always
   applies to the whole range, never to an accepted one. percentile takes the ends that leave a
   share of the weights outside, half at each end; a symmetric format the magnitude that does. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "algo/pass.h"
#include "base/mem.h"

#define GRID 100
#define CANDIDATES 80
#define POWER 2.4

typedef enum { MINMAX, MSE, PERCENTILE } rule;
typedef enum { GROUP, CHANNEL, TENSOR } unit;

typedef struct {
    int rule, unit;
    double percentile;
} settings;

static const lutra_param params[] = {
    {"rule", LUTRA_PARAM_CHOICE, offsetof(settings, rule), MSE, 0, 0, "minmax|mse|percentile",
     "the whole range, the one with the smallest error, or one that leaves a share outside"},
    {"over", LUTRA_PARAM_CHOICE, offsetof(settings, unit), GROUP, 0, 0, "group|channel|tensor",
     "weights that share a range: a group, a row, the matrix"},
    {"percentile", LUTRA_PARAM_REAL, offsetof(settings, percentile), 99.9, 50, 100, NULL,
     "rule percentile: the share of weights inside, in per cent"},
    {0},
};

typedef struct {
    const settings *set;
    lu_site_linear *l;
    int64_t groups, size;     /* of the format, in a row */
    int64_t units, each;      /* units in the matrix, weights in one */
    float *lo, *hi;           /* [units] of the whole range, or the percentile's */
    float *best_p;            /* [units] */
    double *best, *row_error; /* [units]; [n][groups] */
    float *rounded;           /* [n][k] */
    float *scratch;           /* [threads][each] sorted weights */
    float p;
} job;

static int rising(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* The value below which `share` of the sorted values lie, between neighbours in proportion. */
static float quantile(const float *sorted, int64_t n, double share)
{
    const double at = share * (double)(n - 1), below = floor(at);
    const int64_t i = (int64_t)below;
    const double next = (double)sorted[i + 1 < n ? i + 1 : i];
    return (float)((double)sorted[i] + (at - below) * (next - (double)sorted[i]));
}

static void percentile_unit(const job *j, const float *w, float *scratch, float *lo, float *hi)
{
    const double inside = j->set->percentile / 100;
    const bool symmetric = !j->l->format.zero_point;
    for (int64_t i = 0; i < j->each; i++)
        scratch[i] = symmetric ? fabsf(w[i]) : w[i];
    qsort(scratch, (size_t)j->each, sizeof *scratch, rising);
    *hi = quantile(scratch, j->each, symmetric ? inside : 0.5 + inside / 2);
    *lo = symmetric ? -*hi : quantile(scratch, j->each, 0.5 - inside / 2);
}

static void find_units(void *arg, int64_t begin, int64_t end, int worker)
{
    const job *j = arg;
    for (int64_t u = begin; u < end; u++) {
        const float *w = j->l->w + u * j->each;
        float lo = w[0], hi = w[0];
        for (int64_t i = 1; i < j->each; i++) {
            lo = w[i] < lo ? w[i] : lo;
            hi = w[i] > hi ? w[i] : hi;
        }
        if (j->set->rule == PERCENTILE)
            percentile_unit(j, w, j->scratch + worker * j->each, &lo, &hi);
        j->lo[u] = lo;
        j->hi[u] = hi;
        j->best_p[u] = 1;
        j->best[u] = INFINITY;
    }
}

/* Ends of all groups, from those of their units. */
static void spread(const job *j, const float *p, float *lo, float *hi)
{
    for (int64_t i = 0; i < j->l->n * j->groups; i++) {
        const int64_t u = i * j->size / j->each;
        lo[i] = (p ? p[u] : j->p) * j->lo[u];
        hi[i] = (p ? p[u] : j->p) * j->hi[u];
    }
}

static void judge_groups(void *arg, int64_t begin, int64_t end, int worker)
{
    const job *j = arg;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        double sum = 0;
        for (int64_t c = i * j->size; c < (i + 1) * j->size; c++)
            sum += pow(fabs((double)j->l->w[c] - (double)j->rounded[c]), POWER);
        j->row_error[i] = sum;
    }
}

static lutra_status search_mse(lu_block *b, job *j, float *lo, float *hi, lutra_err *err)
{
    const int64_t count = j->l->n * j->groups, in_unit = j->each / j->size;
    lu_site_linear trial = *j->l;
    trial.lo = lo;
    trial.hi = hi;
    for (int candidate = 0; candidate < CANDIDATES; candidate++) {
        LU_TRY(lu_check_cancel(b->ctx, err));
        j->p = 1 - (float)candidate / GRID;
        spread(j, NULL, lo, hi);
        LU_TRY(lu_linear_fake_round(b, &trial, j->l->w, j->rounded, err));
        lu_pool_for(b->ctx->pool, count, 64, judge_groups, j);
        for (int64_t u = 0; u < j->units; u++) {
            double error = 0;
            for (int64_t i = u * in_unit; i < (u + 1) * in_unit; i++)
                error += j->row_error[i];
            if (error < j->best[u]) {
                j->best[u] = error;
                j->best_p[u] = j->p;
            }
        }
    }
    return LUTRA_OK;
}

static lutra_status find_ranges(lu_block *b, job *j, float *lo, float *hi, lutra_err *err)
{
    lu_pool_for(b->ctx->pool, j->units, 1, find_units, j);
    if (j->set->rule == MSE)
        LU_TRY(search_mse(b, j, lo, hi, err));
    spread(j, j->best_p, lo, hi);
    return LUTRA_OK;
}

static lutra_status take_room(lu_block *b, job *j, lutra_err *err)
{
    const size_t units = (size_t)j->units, n = (size_t)j->l->n, k = (size_t)j->l->k;
    const bool mse = j->set->rule == MSE;
    j->lo = lu_array(units, sizeof *j->lo);
    j->hi = lu_array(units, sizeof *j->hi);
    j->best_p = lu_array(units, sizeof *j->best_p);
    j->best = lu_array(units, sizeof *j->best);
    j->row_error = lu_array(n, (size_t)j->groups * sizeof *j->row_error);
    j->rounded = lu_array(mse ? n : 1, k * sizeof *j->rounded);
    j->scratch = lu_array(j->set->rule == PERCENTILE ? (size_t)lu_pool_size(b->ctx->pool) : 1,
                          (size_t)j->each * sizeof *j->scratch);
    const bool ok =
        j->lo && j->hi && j->best_p && j->best && j->row_error && j->rounded && j->scratch;
    return ok ? LUTRA_OK : lu_fail_nomem(err, n * k * sizeof *j->rounded);
}

static void leave_room(job *j)
{
    lu_free(j->lo);
    lu_free(j->hi);
    lu_free(j->best_p);
    lu_free(j->best);
    lu_free(j->row_error);
    lu_free(j->rounded);
    lu_free(j->scratch);
}

static lutra_status range_linear(lu_block *b, lu_site_linear *l, const settings *set,
                                 lutra_err *err)
{
    job j = {.set = set, .l = l, .groups = lutra_format_groups(&l->format, l->k)};
    if (j.groups == 0) /* the rounding pass says so */
        return LUTRA_OK;
    j.size = l->k / j.groups;
    j.each = set->unit == GROUP ? j.size : set->unit == CHANNEL ? l->k : l->n * l->k;
    j.units = l->n * l->k / j.each;
    const size_t count = (size_t)(l->n * j.groups);
    float *lo = lu_array(count, sizeof *lo), *hi = lu_array(count, sizeof *hi);
    lutra_status status = lo && hi ? take_room(b, &j, err) : lu_fail_nomem(err, count * sizeof *lo);
    if (status == LUTRA_OK)
        status = find_ranges(b, &j, lo, hi, err);
    leave_room(&j);
    if (status == LUTRA_OK) {
        lu_free(l->lo);
        lu_free(l->hi);
        l->lo = lo;
        l->hi = hi;
        return LUTRA_OK;
    }
    lu_free(lo);
    lu_free(hi);
    return status;
}

static lutra_status range_site(lu_block *b, lu_site *site, const void *set, lutra_err *err)
{
    for (int i = 0; i < site->n_linears; i++)
        if (site->linears[i]->wanted && !site->linears[i]->kept)
            LU_TRY(range_linear(b, site->linears[i], set, err));
    return LUTRA_OK;
}

const lu_pass lu_pass_range = {
    .method = {.name = "range",
               .summary = "sets the ranges that weights are rounded in, by the weights alone",
               .source = "",
               .kind = LUTRA_METHOD_TRANSFORM,
               .params = params},
    .settings_size = sizeof(settings),
    .site = range_site,
};
