/* input_ranges.c - see input_ranges.h. */
#include "calib/input_ranges.h"

#include <string.h>

#include "base/mem.h"

#define DEFAULT_PERCENTILE 99.99

bool lu_input_ranges_wanted(const lu_view *v)
{
    bool any = false;
    for (int i = 0; i < v->n_linears; i++)
        any |= lu_act_is_static(&v->linears[i].face.act);
    return any;
}

lutra_status lu_input_ranges_open(lu_view *v, const char *rule, double percentile, int64_t length,
                                  lu_input_ranges *out, lutra_err *err)
{
    lu_act_rule parsed = LU_ACT_MINMAX;
    int64_t most = 0;
    *out = (lu_input_ranges){.view = v,
                             .length = length,
                             .percentile = percentile > 0 ? percentile : DEFAULT_PERCENTILE};
    if (rule)
        LU_TRY(lu_act_rule_parse(rule, &parsed, err));
    out->of = lu_calloc((size_t)v->n_linears, sizeof *out->of);
    if (!out->of)
        return lu_fail_nomem(err, (size_t)v->n_linears * sizeof *out->of);
    for (int i = 0; i < v->n_linears; i++) {
        if (!lu_act_is_static(&v->linears[i].face.act))
            continue;
        out->of[i] = lu_alloc(sizeof *out->of[i]);
        if (!out->of[i])
            return lu_fail_nomem(err, sizeof *out->of[i]);
        lu_act_observer_init(out->of[i], parsed);
        most = v->linears[i].face.k > most ? v->linears[i].face.k : most;
    }
    out->row = lu_array((size_t)most, sizeof *out->row);
    return out->row ? LUTRA_OK : lu_fail_nomem(err, (size_t)most * sizeof *out->row);
}

void lu_input_ranges_close(lu_input_ranges *r)
{
    for (int i = 0; r->of && i < r->view->n_linears; i++)
        lu_free(r->of[i]);
    lu_free(r->of);
    lu_free(r->row);
    *r = (lu_input_ranges){.view = NULL};
}

static bool observe(lu_input_ranges *r, lu_act_observer *o, const lu_site_linear *l, const float *x,
                    int64_t rows)
{
    const lu_codes *c = &l->codes;
    if (!c->n_outliers)
        return lu_act_observe(o, x, rows * l->k);
    bool finite = true;
    for (int64_t i = 0; i < rows; i++) {
        memcpy(r->row, x + i * l->k, (size_t)l->k * sizeof *x);
        for (int64_t j = 0; j < c->n_outliers; j++)
            r->row[c->outlier_columns[j]] = 0;
        finite &= lu_act_observe(o, r->row, l->k);
    }
    return finite;
}

static bool is_watched(const lu_input_ranges *r, int at)
{
    return at >= 0 && r->view->stages[at] >= r->first && r->view->stages[at] < r->end;
}

bool lu_input_ranges_sees(const lu_input_ranges *r, const char *site)
{
    return is_watched(r, lu_view_find_site(r->view, site));
}

void lu_input_ranges_tap(void *user, int64_t layer, const char *site, const float *x, int64_t rows,
                         int64_t cols)
{
    lu_input_ranges *r = user;
    const int at = lu_view_find_site(r->view, site);
    (void)layer;
    if (!is_watched(r, at))
        return;
    const bool routed = r->view->model->config.n_experts > 1 && r->view->stages[at] >= LU_STAGE_MLP;
    const int64_t step = routed ? rows : r->length;
    for (int i = 0; i < r->view->n_linears; i++) {
        const lu_view_linear *l = &r->view->linears[i];
        if (l->site != at || !r->of[i])
            continue;
        for (int64_t row = 0; row < rows; row += step) {
            const int64_t n = rows - row < step ? rows - row : step;
            if (!observe(r, r->of[i], &l->face, x + row * cols, n))
                r->bad = l;
            lu_act_observe_end(r->of[i]);
        }
    }
}

lutra_status lu_input_ranges_settle(lu_input_ranges *r, lutra_err *err)
{
    float widest_lo = 0, widest_hi = 0;
    if (r->bad)
        return lu_fail(err, LUTRA_E_FORMAT, "%s: its inputs are not finite on the calibration text",
                       r->bad->name);
    for (int i = 0; i < r->view->n_linears; i++) {
        const lu_act_observer *o = r->of[i];
        widest_lo = o && o->lowest < widest_lo ? o->lowest : widest_lo;
        widest_hi = o && o->highest > widest_hi ? o->highest : widest_hi;
    }
    for (int i = 0; i < r->view->n_linears; i++) {
        lu_site_linear *l = &r->view->linears[i].face;
        const lu_act_observer *o = r->of[i];
        float lo = widest_lo, hi = widest_hi;
        int zero;
        if (!o)
            continue;
        if (o->n_samples)
            lu_act_observed_range(o, &l->act, r->percentile, &lo, &hi);
        lu_act_params(&l->act, lo, hi, &l->codes.input_scale, &zero);
        l->codes.input_zero = (uint8_t)zero;
    }
    return LUTRA_OK;
}
