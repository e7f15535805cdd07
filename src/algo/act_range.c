/* act_range.c - see act_range.h. */
#include "algo/act_range.h"

#include <math.h>
#include <string.h>

#include "base/near.h"

#define MOMENTUM 0.01
#define MSE_STEP 0.01
#define MSE_STEPS 81

static const char *const rule_names[LU_N_ACT_RULES + 1] = {"minmax", "moving", "mse", "percentile",
                                                           NULL};

lutra_status lu_act_rule_parse(const char *name, lu_act_rule *out, lutra_err *err)
{
    char near[64];
    for (int i = 0; i < LU_N_ACT_RULES; i++)
        if (strcmp(name, rule_names[i]) == 0) {
            *out = (lu_act_rule)i;
            return LUTRA_OK;
        }
    if (lu_near(name, lu_near_array, rule_names, near, sizeof near) > 0)
        return lu_fail(err, LUTRA_E_ARG, "unknown range rule '%.60s', near: %s", name, near);
    return lu_fail(err, LUTRA_E_ARG,
                   "unknown range rule '%.60s', expected minmax, moving, mse or percentile", name);
}

void lu_act_observer_init(lu_act_observer *o, lu_act_rule rule)
{
    memset(o, 0, sizeof *o);
    o->rule = rule;
}

/* --- histogram -------------------------------------------------------------------------------- */

static double bin_width(const lu_act_observer *o) { return 2 * o->edge / LU_ACT_BINS; }

static double bin_centre(const lu_act_observer *o, int i)
{
    return -o->edge + (i + 0.5) * bin_width(o);
}

/* Doubles the span: the bins move to the middle, two by two. */
static void widen(lu_act_observer *o)
{
    int64_t merged[LU_ACT_BINS] = {0};
    for (int i = 0; i < LU_ACT_BINS; i++)
        merged[LU_ACT_BINS / 4 + i / 2] += o->bins[i];
    memcpy(o->bins, merged, sizeof merged);
    o->edge *= 2;
}

static void count(lu_act_observer *o, const float *x, int64_t n, double largest)
{
    if (o->edge == 0) { /* a power of two, so that all histograms of a model nest alike */
        int exponent;
        frexp(largest, &exponent);
        o->edge = ldexp(1, exponent);
    }
    while (largest >= o->edge)
        widen(o);
    const double scale = LU_ACT_BINS / (2 * o->edge);
    for (int64_t i = 0; i < n; i++)
        o->bins[(int)((x[i] + o->edge) * scale)]++;
}

/* --- observing -------------------------------------------------------------------------------- */

bool lu_act_observe(lu_act_observer *o, const float *x, int64_t n)
{
    float lo = 0, hi = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(x[i]))
            return false;
        lo = x[i] < lo ? x[i] : lo;
        hi = x[i] > hi ? x[i] : hi;
    }
    o->sample_values += n;
    o->sample_lo = lo < o->sample_lo ? lo : o->sample_lo;
    o->sample_hi = hi > o->sample_hi ? hi : o->sample_hi;
    const double largest = -lo > hi ? -lo : hi;
    if (o->rule >= LU_ACT_MSE && (largest > 0 || o->edge > 0))
        count(o, x, n, largest);
    return true;
}

void lu_act_observe_end(lu_act_observer *o)
{
    const float lo = o->sample_lo, hi = o->sample_hi;
    if (o->sample_values == 0)
        return;
    o->n_samples++;
    o->n_values += o->sample_values;
    o->lowest = lo < o->lowest ? lo : o->lowest;
    o->highest = hi > o->highest ? hi : o->highest;
    const double weight = o->n_samples == 1          ? 1
                          : o->rule == LU_ACT_MOVING ? MOMENTUM
                                                     : 1 / (double)o->n_samples;
    o->lo += weight * (lo - o->lo);
    o->hi += weight * (hi - o->hi);
    o->sample_lo = o->sample_hi = 0;
    o->sample_values = 0;
}

/* --- ranges ----------------------------------------------------------------------------------- */

/* Expected squared error of rounding under the range [lo, hi], summed over the bins. */
static double range_error(const lu_act_observer *o, const lu_act_format *f, float lo, float hi)
{
    float scale;
    int zero;
    double sum = 0;
    lu_act_params(f, lo, hi, &scale, &zero);
    const double lowest = lu_act_lowest(f) - zero, highest = lu_act_highest(f) - zero;
    for (int i = 0; i < LU_ACT_BINS; i++) {
        if (!o->bins[i])
            continue;
        const double x = bin_centre(o, i), r = rint(x / (double)scale);
        const double q = r < lowest ? lowest : r > highest ? highest : r;
        const double error = x - (double)scale * q;
        sum += (double)o->bins[i] * error * error;
    }
    return sum;
}

static void least_error(const lu_act_observer *o, const lu_act_format *f, float *lo, float *hi)
{
    double best = INFINITY;
    for (int i = 0; i < MSE_STEPS; i++) {
        const float p = (float)(1 - i * MSE_STEP);
        const double error = range_error(o, f, p * o->lowest, p * o->highest);
        if (error < best) {
            best = error;
            *lo = p * o->lowest;
            *hi = p * o->highest;
        }
    }
}

/* The outermost edge of bins such that at most `outside` values lie beyond it. */
static double upper_edge(const lu_act_observer *o, double outside, bool below, bool above)
{
    double seen = 0;
    for (int i = LU_ACT_BINS - 1; i >= LU_ACT_BINS / 2; i--) {
        seen += (double)((above ? o->bins[i] : 0) + (below ? o->bins[LU_ACT_BINS - 1 - i] : 0));
        if (seen > outside)
            return -o->edge + (i + 1) * bin_width(o);
    }
    return 0;
}

static void cut_tails(const lu_act_observer *o, const lu_act_format *f, double percentile,
                      float *lo, float *hi)
{
    const double outside = (1 - percentile / 100) * (double)o->n_values;
    if (f->zero_point) {
        *lo = (float)fmax(-upper_edge(o, outside / 2, true, false), (double)o->lowest);
        *hi = (float)fmin(upper_edge(o, outside / 2, false, true), (double)o->highest);
        return;
    }
    const double edge = upper_edge(o, outside, true, true);
    *lo = (float)fmax(-edge, (double)o->lowest);
    *hi = (float)fmin(edge, (double)o->highest);
}

void lu_act_observed_range(const lu_act_observer *o, const lu_act_format *f, double percentile,
                           float *lo, float *hi)
{
    *lo = (float)o->lo;
    *hi = (float)o->hi;
    if (o->edge == 0)
        return;
    if (o->rule == LU_ACT_MSE)
        least_error(o, f, lo, hi);
    else if (o->rule == LU_ACT_PERCENTILE)
        cut_tails(o, f, percentile, lo, hi);
}
