/* act_calibrate.c - static activation scales for an opened model: runs sample text through it as it
   is, watches what enters each linear, and then has the linears round their inputs by what was
   seen. A window of text is a sample; an expert's sample is what was routed to it. */
#include <inttypes.h>
#include <string.h>

#include "algo/act_range.h"
#include "base/context.h"
#include "base/mem.h"
#include "lutra/quant.h"
#include "model/forward.h"

typedef struct {
    lutra_model *model;
    lu_act_format format;
    lu_act_rule rule;
    double percentile;
    int64_t window, n_samples;
    lu_module **modules; /* [n_modules], in layer order */
    lu_act_observer *observers;
    int64_t *first; /* [n_layers + 1]: modules of layer i are first[i].. */
    int64_t n_modules, at;
    char bad[64]; /* site whose input is not finite */
} calibration;

void lutra_act_calibration_init(lutra_act_calibration *o)
{
    memset(o, 0, sizeof *o);
    o->size = sizeof *o;
    o->rule = "minmax";
    o->percentile = 99.99;
    o->window = 512;
    o->samples = 32;
}

static lutra_status count_module(void *arg, int64_t layer, lu_module *module, lutra_err *err)
{
    calibration *c = arg;
    (void)err;
    c->n_modules += lu_module_is_rounded(c->model, layer, module);
    return LUTRA_OK;
}

static lutra_status list_module(void *arg, int64_t layer, lu_module *module, lutra_err *err)
{
    calibration *c = arg;
    (void)err;
    if (!lu_module_is_rounded(c->model, layer, module))
        return LUTRA_OK;
    lu_act_observer_init(&c->observers[c->at], c->rule);
    c->modules[c->at++] = module;
    c->first[layer + 1] = c->at;
    return LUTRA_OK;
}

static void watch(void *user, int64_t layer, const char *site, const float *x, int64_t rows,
                  int64_t cols)
{
    calibration *c = user;
    if (layer < 0)
        return;
    for (int64_t i = c->first[layer]; i < c->first[layer + 1]; i++)
        if (strcmp(c->modules[i]->site, site) == 0) {
            if (!lu_act_observe(&c->observers[i], x, rows * cols))
                snprintf(c->bad, sizeof c->bad, "%s", site);
            lu_act_observe_end(&c->observers[i]);
        }
}

static lutra_status prepare(calibration *c, lutra_err *err)
{
    lu_model_each_module(c->model, count_module, c, NULL);
    const size_t n = (size_t)c->n_modules, layers = (size_t)c->model->config.n_layers;
    c->modules = lu_calloc(n, sizeof *c->modules);
    c->observers = lu_array(n, sizeof *c->observers);
    c->first = lu_calloc(layers + 1, sizeof *c->first);
    if (!c->modules || !c->observers || !c->first)
        return lu_fail_nomem(err, n * sizeof *c->observers);
    return lu_model_each_module(c->model, list_module, c, NULL);
}

static lutra_status observe(calibration *c, const int32_t *ids, lutra_err *err)
{
    lutra_model *m = c->model;
    lu_forward *forward = NULL;
    lu_kv kv = {.data = NULL};
    lutra_status status = lu_forward_open(m, c->window, c->window, &forward, err);
    if (status == LUTRA_OK)
        status = lu_kv_open(m, c->window, &kv, err);
    if (status == LUTRA_OK)
        status = lu_forward_set_tap(forward, watch, c, err);
    for (int64_t i = 0; status == LUTRA_OK && i < c->n_samples; i++) {
        const lu_segment s = {.kv = &kv, .pos = 0, .ids = ids + i * c->window, .n = c->window};
        lu_progress(m->ctx, "calibrate", NULL, "windows", i, c->n_samples);
        status = lu_forward_run(forward, &s, 1, err);
        if (status == LUTRA_OK && c->bad[0])
            status = lu_fail(err, LUTRA_E_FORMAT,
                             "the input of %s holds NaN or infinity on the sample text", c->bad);
    }
    lu_progress(m->ctx, "calibrate", NULL, "windows", c->n_samples, c->n_samples);
    lu_kv_close(&kv);
    lu_forward_close(forward);
    return status;
}

/* An expert that saw no token gets the range of the widest input of its layer. */
static void apply(calibration *c)
{
    for (int64_t layer = 0; layer < c->model->config.n_layers; layer++) {
        float widest_lo = 0, widest_hi = 0;
        for (int64_t i = c->first[layer]; i < c->first[layer + 1]; i++) {
            const lu_act_observer *o = &c->observers[i];
            widest_lo = o->lowest < widest_lo ? o->lowest : widest_lo;
            widest_hi = o->highest > widest_hi ? o->highest : widest_hi;
        }
        for (int64_t i = c->first[layer]; i < c->first[layer + 1]; i++) {
            lu_act_quant q = {.format = c->format};
            float lo = widest_lo, hi = widest_hi;
            if (c->observers[i].n_samples)
                lu_act_observed_range(&c->observers[i], &c->format, c->percentile, &lo, &hi);
            lu_act_params(&q.format, lo, hi, &q.scale, &q.zero);
            c->modules[i]->input = q;
        }
    }
    c->model->rounds_inputs = true;
}

static lutra_status check(calibration *c, const lutra_act_calibration *o, const int32_t *ids,
                          int64_t n, lutra_err *err)
{
    const lu_model_config *config = &c->model->config;
    LU_TRY(lu_act_rule_parse(o->rule, &c->rule, err));
    if (c->format.scope != LU_ACT_TENSOR || !c->format.bits)
        return lu_fail(
            err, LUTRA_E_ARG,
            "only static activations (intB:tensor) are calibrated, the others take their "
            "scales from each row");
    if (c->model->rounds_inputs)
        return lu_fail(err, LUTRA_E_ARG,
                       "the model rounds its activations already: open it with act_quant \"none\"");
    if (o->window < 1 || o->samples < 1 || o->window > config->max_context)
        return lu_fail(err, LUTRA_E_ARG,
                       "calibration window is %" PRId64 " and samples %" PRId64
                       ", expected 1 or more and windows of at most %" PRId64 " tokens",
                       o->window, o->samples, config->max_context);
    if (!(o->percentile > 50 && o->percentile <= 100))
        return lu_fail(err, LUTRA_E_ARG, "percentile is %g, expected above 50 and at most 100",
                       o->percentile);
    if (n < o->window)
        return lu_fail(err, LUTRA_E_ARG,
                       "the calibration text has %" PRId64
                       " tokens, fewer than one window of %" PRId64,
                       n, o->window);
    c->n_samples = n / o->window < o->samples ? n / o->window : o->samples;
    for (int64_t i = 0; i < c->n_samples * o->window; i++)
        if (ids[i] < 0 || ids[i] >= config->vocab_size)
            return lu_fail(err, LUTRA_E_ARG,
                           "token id %" PRId32 " is outside the model's vocabulary of %" PRId64,
                           ids[i], config->vocab_size);
    return LUTRA_OK;
}

lutra_status lutra_model_calibrate(lutra_model *m, const char *act_quant, const int32_t *ids,
                                   int64_t n, const lutra_act_calibration *opts, lutra_err *err)
{
    lutra_act_calibration o;
    lutra_act_calibration_init(&o);
    if (opts)
        memcpy(&o, opts, opts->size < sizeof o ? opts->size : sizeof o);
    calibration c = {.model = m, .percentile = o.percentile, .window = o.window};
    LU_TRY(lu_act_format_parse(act_quant, &c.format, err));
    LU_TRY(check(&c, &o, ids, n, err));
    lutra_status status = prepare(&c, err);
    if (status == LUTRA_OK)
        status = observe(&c, ids, err);
    if (status == LUTRA_OK) {
        apply(&c);
        status = lu_model_repack(m, err);
    }
    lu_free(c.modules);
    lu_free(c.observers);
    lu_free(c.first);
    return status;
}
