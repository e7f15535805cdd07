/* loss_curves.c - see loss_curves.h. A piece of work is one module in one format. */
#include "calib/loss_curves.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "algo/allocate.h"
#include "algo/learn_table.h"
#include "algo/rtn.h"
#include "base/mem.h"
#include "calib/output_losses.h"

typedef struct {
    lutra_ctx *ctx;
    const lu_plan *plan;
    const lutra_quantize_options *o;
    int64_t *tensors; /* [n] that are encoded, in the plan */
    int64_t n;
    int k;              /* candidates */
    lu_choice *choices; /* [n][k] cost in bytes */
    lu_level level;
    _Atomic bool failed;
} curves;

static bool is_fixed(const curves *c, const char *module)
{
    bool fixed = false;
    for (int i = 0; i < c->o->n_rules; i++)
        fixed |= lu_glob_match(c->o->rules[i].pattern, module);
    return fixed;
}

/* Bytes of a module [n][k] in a format. */
static int64_t bytes_of(const lu_plan_tensor *t, const lutra_format *f)
{
    lu_tensor_info parts[LU_N_TENSOR_KINDS];
    lu_scheme s = *t->scheme;
    s.format = *f;
    const int64_t *shape = t->in->view.shape;
    int64_t bytes = 0;
    for (int i = lu_scheme_tensors(&s, shape[0], shape[1], t->n_outliers, parts); i > 0; i--) {
        int64_t part = (int64_t)lutra_dtype_bytes(parts[i - 1].dtype);
        for (int d = 0; d < parts[i - 1].rank; d++)
            part *= parts[i - 1].shape[d];
        bytes += part;
    }
    return bytes;
}

/* Some rows of the matrix rounded to the format; sums to *signal and *noise. */
static lutra_status measure(const curves *c, const lutra_tensor *v, const lutra_format *f,
                            double *signal, double *noise)
{
    const size_t k = (size_t)v->shape[1], row_bytes = k * lutra_dtype_bytes(v->dtype);
    const int64_t most = LU_CURVE_WEIGHTS / v->shape[1],
                  step = most < 1 ? v->shape[0] : (v->shape[0] + most - 1) / most;
    const size_t groups = (size_t)lutra_format_groups(f, v->shape[1]);
    lu_encoder *e = lu_alloc(sizeof *e);
    lu_rtn_block b = {.dtype = v->dtype, .n = 1, .k = v->shape[1]};
    b.codes = lu_alloc(lutra_format_row_bytes(f, v->shape[1]));
    b.scales = lu_alloc_aligned(groups * sizeof(float));
    b.zeros = lu_alloc(groups);
    b.row = lu_array(k, sizeof *b.row);
    lutra_format used = *f;
    lutra_status status = e && b.codes && b.scales && b.zeros && b.row ? LUTRA_OK : LUTRA_E_NOMEM;
    if (status == LUTRA_OK && f->learned) {
        const lu_learn_args a = {.format = f,
                                 .level = c->level,
                                 .w = v->data,
                                 .dtype = v->dtype,
                                 .n = v->shape[0],
                                 .k = v->shape[1]};
        status = lu_learn_table(&a, used.table, NULL);
    }
    if (status == LUTRA_OK) {
        lu_encoder_init(e, &used, c->level);
        e->range = f->learned ? LUTRA_RANGE_MSE : c->o->range;
    }
    for (int64_t r = 0; status == LUTRA_OK && r < v->shape[0]; r += step) {
        b.w = (const uint8_t *)v->data + (size_t)r * row_bytes;
        if (lu_rtn_encode(e, &b)) { /* a row that cannot be encoded is the writer's to name */
            *signal += b.signal;
            *noise += b.noise;
        }
    }
    lu_free(e);
    lu_free(b.codes);
    lu_free_aligned(b.scales);
    lu_free(b.zeros);
    lu_free(b.row);
    return status;
}

static void measure_pairs(void *arg, int64_t begin, int64_t end, int worker)
{
    curves *c = arg;
    char name[1024];
    for (int64_t i = begin; i < end && !atomic_load(&c->failed); i++) {
        const lu_plan_tensor *t = &c->plan->tensors[c->tensors[i / c->k]];
        const int at = (int)(i % c->k);
        const bool fixed = is_fixed(c, lu_plan_module(t, name, sizeof name));
        const lutra_format *f = fixed ? &t->scheme->format : &c->o->candidates[at];
        double signal = 0, noise = 0;
        c->choices[i] = (lu_choice){.loss = INFINITY};
        if ((fixed && at > 0) || lutra_format_groups(f, t->in->view.shape[1]) == 0)
            continue;
        if (measure(c, &t->in->view, f, &signal, &noise) != LUTRA_OK)
            atomic_store(&c->failed, true);
        const double weights = (double)t->in->view.shape[0] * (double)t->in->view.shape[1];
        c->choices[i] = (lu_choice){bytes_of(t, f), signal > 0 ? weights * noise / signal : 0};
        if (worker == 0)
            lu_progress(c->ctx, "measure", t->in->name, "modules", i / c->k + 1, c->n);
    }
}

/* Where the module stands, or -1. */
static int64_t find(const curves *c, const char *module)
{
    char name[1024];
    for (int64_t i = 0; i < c->n; i++)
        if (strcmp(lu_plan_module(&c->plan->tensors[c->tensors[i]], name, sizeof name), module) ==
            0)
            return i;
    return -1;
}

/* Modules that a rule names have one choice, whatever it loses. */
static bool wants_output(void *user, const char *module)
{
    return !is_fixed(user, module) && find(user, module) >= 0;
}

static void note_output(void *user, const char *module, int at, double loss)
{
    curves *c = user;
    c->choices[find(c, module) * c->k + at].loss = loss;
}

static lutra_status measure_outputs(curves *c, const char *folder, lutra_err *err)
{
    const lutra_calibration *data = c->o->calibration;
    if (!data || !data->data)
        return LUTRA_OK;
    for (int64_t i = 0; i < c->n; i++) { /* what is not in the blocks: relative, as those will be */
        const lutra_tensor *t = &c->plan->tensors[c->tensors[i]].in->view;
        for (int j = 0; j < c->k; j++)
            c->choices[i * c->k + j].loss /= (double)t->shape[0] * (double)t->shape[1];
    }
    return lu_measure_outputs(&(lu_output_losses){.ctx = c->ctx,
                                                  .model = lu_checkpoint_path(c->plan->checkpoint),
                                                  .calibration = data,
                                                  .folder = folder,
                                                  .formats = c->o->candidates,
                                                  .n_formats = c->k,
                                                  .range = c->o->range,
                                                  .wants = wants_output,
                                                  .note = note_output,
                                                  .user = c},
                              err);
}

static lutra_status list_encoded(curves *c, lutra_err *err)
{
    c->tensors = lu_array((size_t)c->plan->n_encoded + 1, sizeof *c->tensors);
    if (!c->tensors)
        return lu_fail_nomem(err, (size_t)c->plan->n_encoded * sizeof *c->tensors);
    for (int64_t i = 0; i < c->plan->n_tensors; i++)
        if (c->plan->tensors[i].scheme)
            c->tensors[c->n++] = i;
    return c->n ? LUTRA_OK : lu_fail(err, LUTRA_E_ARG, "no module is to be quantized");
}

static lutra_status choose(curves *c, int *picked, lutra_err *err)
{
    char name[1024];
    double params = 0, least = 0;
    for (int64_t i = 0; i < c->n; i++) {
        const lu_plan_tensor *t = &c->plan->tensors[c->tensors[i]];
        int64_t fewest = -1;
        for (int j = 0; j < c->k; j++) {
            const lu_choice *x = &c->choices[i * c->k + j];
            if (isfinite(x->loss) && (fewest < 0 || x->cost < fewest))
                fewest = x->cost;
        }
        if (fewest < 0)
            return lu_fail(err, LUTRA_E_ARG,
                           "%s: no candidate's group size divides its %lld columns",
                           lu_plan_module(t, name, sizeof name), (long long)t->in->view.shape[1]);
        least += (double)fewest;
        params += (double)t->in->view.shape[0] * (double)t->in->view.shape[1];
    }
    if (least > c->o->avg_bits * params / 8)
        return lu_fail(
            err, LUTRA_E_ARG,
            "%.3f bits a weight are asked for, the smallest candidates take %.3f (scales "
            "included): ask for more, or offer smaller formats",
            c->o->avg_bits, 8 * least / params);
    return lu_allocate(c->choices, c->n, c->k, (int64_t)(c->o->avg_bits * params / 8), picked, err);
}

/* One rule per module; those that were fixed keep their own. */
static lutra_status make_rules(const curves *c, const int *picked, lutra_format_rule **out, int *n,
                               lutra_err *err)
{
    char name[1024];
    lutra_format_rule *rules = lu_calloc((size_t)c->n, sizeof *rules);
    *n = 0;
    for (int64_t i = 0; rules && i < c->n; i++) {
        const char *module = lu_plan_module(&c->plan->tensors[c->tensors[i]], name, sizeof name);
        if (is_fixed(c, module))
            continue;
        rules[*n].pattern = lu_strdup(module);
        rules[*n].format = c->o->candidates[picked[i]];
        if (!rules[(*n)++].pattern) {
            lu_format_rules_free(rules, *n);
            rules = NULL;
        }
    }
    *out = rules;
    return rules ? LUTRA_OK : lu_fail_nomem(err, (size_t)c->n * sizeof *rules);
}

lutra_status lu_allocate_formats(lutra_ctx *ctx, lutra_checkpoint *c,
                                 const lutra_quantize_options *o, const char *folder,
                                 lutra_format_rule **rules, int *n_rules, lutra_err *err)
{
    lutra_quantize_options any = *o;
    any.format.group_size = 0; /* divides all columns: which modules there are is what is asked */
    lu_plan plan = {.n_tensors = 0};
    curves v = {.ctx = ctx, .plan = &plan, .o = o, .k = o->n_candidates};
    int *picked = NULL;
    atomic_init(&v.failed, false);
    lutra_status status = lu_level_parse(ctx->options.cpu, &v.level, err);
    if (status == LUTRA_OK)
        status = lu_plan_make(c, &any, &plan, err);
    if (status == LUTRA_OK)
        status = list_encoded(&v, err);
    if (status == LUTRA_OK) {
        v.choices = lu_array((size_t)v.n, (size_t)v.k * sizeof *v.choices);
        picked = lu_array((size_t)v.n, sizeof *picked);
        if (!v.choices || !picked)
            status = lu_fail_nomem(err, (size_t)v.n * (size_t)v.k * sizeof *v.choices);
    }
    if (status == LUTRA_OK) {
        lu_pool_for(ctx->pool, v.n * v.k, 1, measure_pairs, &v);
        status = atomic_load(&v.failed) ? lu_fail_nomem(err, 0) : LUTRA_OK;
    }
    if (status == LUTRA_OK)
        status = measure_outputs(&v, folder, err);
    if (status == LUTRA_OK)
        status = choose(&v, picked, err);
    if (status == LUTRA_OK)
        status = make_rules(&v, picked, rules, n_rules, err);
    lu_free(picked);
    lu_free(v.choices);
    lu_free(v.tensors);
    lu_plan_free(&plan);
    return status;
}

void lu_format_rules_free(lutra_format_rule *rules, int n)
{
    for (int i = 0; rules && i < n; i++)
        lu_free((char *)rules[i].pattern);
    lu_free(rules);
}
