/* quantize.c - compressing a whole checkpoint.
   Open and plan the input (headers only), lock the work folder, skip what a former run finished,
   write the blocks as the recipe says if there is one (pipeline.c), and all other tensors
   (shard_writer.c), then the other files, then give the folder its name. Killed at
   any moment, the run leaves a work folder that the same call continues to the same bytes. */
#include "calib/quantize.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "algo/act_range.h"
#include "base/file.h"
#include "base/mem.h"
#include "calib/forecast.h"
#include "calib/journal.h"
#include "calib/loss_curves.h"
#include "calib/out_folder.h"
#include "calib/pipeline.h"
#include "calib/quantize_plan.h"
#include "calib/recipe_parts.h"
#include "calib/shard_writer.h"
#include "calib/side_files.h"
#include "kern/gpu.h"
#include "model/slots.h"

#define BATCH_BYTES ((int64_t)256 << 20)

static const char *const default_ignore[] = {"lm_head", "*embed_tokens"};

void lutra_quantize_options_init(lutra_quantize_options *o)
{
    memset(o, 0, sizeof *o);
    o->size = sizeof *o;
    o->ignore = default_ignore;
    o->n_ignore = (int)(sizeof default_ignore / sizeof default_ignore[0]);
    (void)lutra_format_parse("nf4:g64", &o->format, NULL);
}

/* ---- checks --------------------------------------------------------------------------------- */

/* *data: static scales are wanted, which are found on text. */
static lutra_status check_activations(const lutra_quantize_options *o, bool *data, lutra_err *err)
{
    lu_act_format f = {.bits = 0};
    lu_act_rule rule;
    if (o->act_quant)
        LU_TRY(lu_act_format_parse(o->act_quant, &f, err));
    if (o->act_rule)
        LU_TRY(lu_act_rule_parse(o->act_rule, &rule, err));
    if (o->act_percentile != 0 && !(o->act_percentile > 50 && o->act_percentile <= 100))
        return lu_fail(err, LUTRA_E_ARG, "percentile is %g, expected above 50 and at most 100",
                       o->act_percentile);
    *data = lu_act_is_static(&f);
    if (*data && !o->recipe)
        return lu_fail(err, LUTRA_E_ARG,
                       "fixed activation scales (%.60s) are found block by block: give a recipe, "
                       "such as the method rtn",
                       o->act_quant);
    return LUTRA_OK;
}

static lutra_status check_options(const lutra_quantize_options *o, lutra_err *err)
{
    bool fixed_inputs;
    LU_TRY(lu_format_check(&o->format, err));
    LU_TRY(check_activations(o, &fixed_inputs, err));
    for (int i = 0; i < o->n_rules; i++) {
        const lutra_status status = lu_format_check(&o->rules[i].format, err);
        if (status != LUTRA_OK)
            return lu_fail_prefix(err, status, "format for '%s'", o->rules[i].pattern);
    }
    LU_TRY(lu_range_check(o->range, err));
    if (o->avg_bits != 0 && (!(o->avg_bits > 0) || o->n_candidates < 1 || o->n_candidates > 64))
        return lu_fail(err, LUTRA_E_ARG,
                       "%g bits on average from %d formats, expected a positive number and 1 to 64",
                       o->avg_bits, o->n_candidates);
    for (int i = 0; o->avg_bits != 0 && i < o->n_candidates; i++)
        LU_TRY(lu_format_check(&o->candidates[i], err));
    if (o->recipe && (fixed_inputs || lutra_recipe_needs_data(o->recipe)) &&
        (!o->calibration || !o->calibration->data) && !o->dry_run)
        return lu_fail(err, LUTRA_E_ARG,
                       "the recipe needs calibration data: give a text or JSONL file");
    return LUTRA_OK;
}

/* *out is NULL for the CPU, and where nothing is written. */
static lutra_status open_device(lutra_ctx *ctx, const lutra_quantize_options *o, lu_gpu **out,
                                lutra_err *err)
{
    int ordinal;
    LU_TRY(lu_gpu_parse(o->device, &ordinal, err));
    if (ordinal < 0 || o->dry_run)
        return LUTRA_OK;
    return lu_gpu_open(ctx->gpu, ordinal, out, err);
}

static lutra_status check_input(const lutra_checkpoint *c, lutra_err *err)
{
    const char *path = lu_checkpoint_path(c);
    json_t *config = lu_checkpoint_json(c);
    if (!config)
        return lu_fail(err, LUTRA_E_ARG, "%s: has no config.json, expected a Hugging Face folder",
                       path);
    json_t *q = json_object_get(config, "quantization_config");
    if (!q)
        q = json_object_get(config, "compression_config");
    if (!json_is_object(q))
        return LUTRA_OK;
    const char *method = json_string_value(json_object_get(q, "quant_method"));
    return lu_fail(err, LUTRA_E_UNSUPPORTED,
                   "%s: is quantized already (%.60s), start from the original model", path,
                   method ? method : "unnamed method");
}

/* Asks every pass whether it can work with the formats of the modules that it covers. */
static lutra_status check_passes(const lu_plan *p, const lutra_recipe *r, lutra_err *err)
{
    char module[1024];
    for (int64_t i = 0; r && i < p->n_tensors; i++) {
        const lu_plan_tensor *t = &p->tensors[i];
        if (!t->scheme)
            continue;
        lu_plan_module(t, module, sizeof module);
        const int64_t layer = lu_module_layer(module);
        for (int n = 0; layer >= 0 && n < r->n_passes; n++) {
            const lu_recipe_pass *rp = &r->passes[n];
            const bool round = rp->pass->method.kind == LUTRA_METHOD_ROUND;
            if (!rp->pass->check || !lu_recipe_covers(rp, module, layer) ||
                (round && rp != lu_recipe_rounds(r, module, layer)))
                continue;
            const lutra_status status = rp->pass->check(rp->settings, &t->scheme->format, err);
            if (status != LUTRA_OK)
                return lu_fail_prefix(err, status, "%s for %s", rp->pass->method.name, module);
        }
    }
    return LUTRA_OK;
}

/* ---- what decides the output ---------------------------------------------------------------- */

/* 64-bit FNV-1a: tells requests apart, against accidents only. */
static uint64_t hash(uint64_t h, const void *data, size_t n)
{
    const uint8_t *p = data;
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

/* Without memory for the path *ok becomes false: a request that leaves a file out is another one.
 */
static uint64_t hash_file(uint64_t h, const char *folder, const char *name, bool *ok)
{
    struct stat st;
    char *path = *folder ? lu_path_join(folder, name) : lu_strdup(name);
    *ok &= path != NULL;
    if (path && stat(path, &st) == 0) {
        const int64_t facts[3] = {st.st_size, st.st_mtim.tv_sec, st.st_mtim.tv_nsec};
        h = hash(h, name, strlen(name) + 1);
        h = hash(h, facts, sizeof facts);
    }
    lu_free(path);
    return h;
}

static uint64_t hash_calibration(uint64_t h, const lutra_calibration *c, bool *ok)
{
    const uint64_t facts[] = {(uint64_t)c->n_samples, (uint64_t)c->length, c->seed, c->per_document,
                              c->float_inputs};
    h = hash(h, facts, sizeof facts);
    return c->data ? hash_file(h, "", c->data, ok) : h;
}

/* Calibrated results are those of one kind of device, and repeat there to the bit. */
static uint64_t hash_device(uint64_t h, const lu_gpu *gpu, lutra_dtype act)
{
    const uint64_t kind = (uint64_t)act;
    if (!gpu)
        return h;
    h = hash(h, gpu->info.name, strlen(gpu->info.name) + 1);
    return hash(h, &kind, sizeof kind);
}

static bool has_data(const lutra_quantize_options *o)
{
    return o->recipe && o->calibration && o->calibration->data;
}

static uint64_t request_of(const lu_plan *p, const lutra_quantize_options *o, const lu_gpu *gpu,
                           bool *ok)
{
    const char *in = lu_checkpoint_path(p->checkpoint);
    uint64_t h = 0xcbf29ce484222325u;
    for (int i = 0; i < p->n_schemes; i++) {
        const lutra_format *f = &p->schemes[i].format;
        char spec[96];
        lutra_format_spec(f, spec, sizeof spec);
        h = hash(h, spec, strlen(spec) + 1);
        h = hash(h, f->table, sizeof f->table[0] << f->bits);
        h = hash(h, &f->absmax_ref, sizeof f->absmax_ref);
        lu_act_format_spec(&p->schemes[i].act, spec, sizeof spec);
        h = hash(h, spec, strlen(spec) + 1);
    }
    if (o->act_rule)
        h = hash(h, o->act_rule, strlen(o->act_rule) + 1);
    h = hash(h, &o->act_percentile, sizeof o->act_percentile);
    const uint8_t range = (uint8_t)o->range;
    h = hash(h, &range, sizeof range);
    h = hash_file(h, in, "config.json", ok);
    for (int64_t s = 0; s < p->n_shards; s++)
        h = hash_file(h, in, p->shards[s].name, ok);
    for (int64_t i = 0; i < p->n_tensors; i++) { /* stands for ignore list, rules and index */
        const int64_t scheme = p->tensors[i].scheme ? p->tensors[i].scheme - p->schemes : -1;
        h = hash(h, &scheme, sizeof scheme);
    }
    for (int64_t s = 0; s < p->n_shards; s++)
        h = hash(h, p->shards[s].header, p->shards[s].header_bytes);
    if (o->recipe)
        h = lu_recipe_hash(o->recipe, hash, h);
    if (has_data(o))
        h = hash_device(h, gpu, o->calibration->dtype);
    return o->recipe && o->calibration ? hash_calibration(h, o->calibration, ok) : h;
}

/* ---- report --------------------------------------------------------------------------------- */

static void fill_report(const lu_plan *p, lutra_quantize_report *r)
{
    memset(r, 0, sizeof *r);
    r->n_tensors = p->n_tensors;
    r->n_quantized = p->n_encoded;
    r->bytes_in = p->bytes_in;
    r->bytes_out = p->bytes_out;
    r->params_quantized = p->params_encoded;
    if (p->params_encoded > 0) {
        double tables = 0; /* those that config.json holds */
        for (int i = 0; i < p->n_schemes; i++)
            tables += p->schemes[i].format.learned
                          ? 0
                          : (double)(sizeof(float) << p->schemes[i].format.bits);
        r->bits_per_weight = 8 * ((double)p->bytes_encoded + tables) / (double)p->params_encoded;
    }
}

/* Infinite when nothing was lost; 0 when nothing was encoded. */
static double sqnr(const lu_plan *p, const lu_journal_entry *entries)
{
    double signal = 0, noise = 0;
    for (int64_t i = 0; i < p->n_tensors; i++) {
        signal += entries[i].signal;
        noise += entries[i].noise;
    }
    if (p->n_encoded == 0)
        return 0;
    return noise > 0 ? 10 * log10(signal / noise) : INFINITY;
}

static int in_layer_order(const void *a, const void *b)
{
    const lutra_module_error *x = a, *y = b;
    const int64_t i = lu_module_layer(x->module), j = lu_module_layer(y->module);
    return i != j ? (i > j) - (i < j) : strcmp(x->module, y->module);
}

/* entries NULL: nothing was done, formats only. */
static lutra_status list_errors(const lu_plan *p, const lu_journal_entry *entries,
                                lutra_quantize_report *r, lutra_err *err)
{
    char name[1024];
    r->modules = lu_calloc((size_t)p->n_encoded + 1, sizeof *r->modules);
    if (!r->modules)
        return lu_fail_nomem(err, (size_t)p->n_encoded * sizeof *r->modules);
    for (int64_t i = 0; i < p->n_tensors; i++) {
        if (!p->tensors[i].scheme)
            continue;
        const lu_journal_entry unknown = {.signal = NAN, .noise = NAN, .error = NAN};
        const lu_journal_entry *e = entries ? &entries[i] : &unknown;
        lutra_module_error *m = &r->modules[r->n_modules];
        m->module = lu_strdup(lu_plan_module(&p->tensors[i], name, sizeof name));
        if (!m->module)
            return lu_fail_nomem(err, sizeof name);
        lutra_format_spec(&p->tensors[i].scheme->format, m->format, sizeof m->format);
        m->sqnr_db = e->noise == 0 ? INFINITY : 10 * log10(e->signal / e->noise);
        m->output_error = e->error;
        r->n_modules++;
    }
    qsort(r->modules, (size_t)r->n_modules, sizeof *r->modules, in_layer_order);
    return LUTRA_OK;
}

void lutra_quantize_report_free(lutra_quantize_report *r)
{
    if (!r)
        return;
    for (int64_t i = 0; i < r->n_modules; i++)
        lu_free(r->modules[i].module);
    lu_free(r->modules);
    r->modules = NULL;
    r->n_modules = 0;
}

/* ---- the run -------------------------------------------------------------------------------- */

static lutra_status bytes_to_write(const lu_plan *p, const lu_journal_entry *entries, uint64_t *out,
                                   lutra_err *err)
{
    uint64_t bytes;
    LU_TRY(lu_side_files_bytes(p, &bytes, err));
    for (int64_t s = 0; s < p->n_shards; s++)
        bytes += p->shards[s].header_bytes;
    for (int64_t i = 0; i < p->n_tensors; i++)
        bytes += entries[i].done ? 0 : p->tensors[i].out_bytes;
    *out = bytes;
    return LUTRA_OK;
}

/* Everything between the lock and the rename. */
static lutra_status fill_folder(lutra_ctx *ctx, lu_gpu *gpu, const lu_plan *p, lu_out_folder *out,
                                const lutra_quantize_options *o, int64_t batch_bytes,
                                int64_t gpu_reserve, lutra_quantize_report *report,
                                lutra_err *err)
{
    lu_shard_writer *writer = NULL;
    lu_journal journal = {.fd = -1};
    lu_journal_entry *entries = lu_calloc((size_t)p->n_tensors, sizeof *entries);
    if (!entries)
        return lu_fail_nomem(err, (size_t)p->n_tensors * sizeof *entries);
    bool ok = true;
    const uint64_t request = request_of(p, o, gpu, &ok);
    lutra_status status =
        ok ? lu_journal_open(out->partial, request, entries, p->n_tensors, &journal, err)
           : lu_fail_nomem(err, strlen(out->partial));
    if (status == LUTRA_OK)
        status =
            lu_writer_open(ctx, gpu, p, out->partial, batch_bytes, &journal, entries, &writer, err);
    if (status == LUTRA_OK) {
        status = lu_writer_check(writer, err);
    }
    if (status == LUTRA_OK) {
        for (int64_t i = 0; i < p->n_tensors; i++)
            report->resumed_tensors += entries[i].done;
        if (report->resumed_tensors > 0)
            lu_log(ctx, LUTRA_LOG_INFO, "%s: resuming, %lld of %lld tensors are done", out->partial,
                   (long long)report->resumed_tensors, (long long)p->n_tensors);
        uint64_t bytes = 0;
        status = bytes_to_write(p, entries, &bytes, err);
        if (status == LUTRA_OK)
            status = lu_out_need(out, bytes, err);
    }
    if (status == LUTRA_OK && o->recipe)
        status = lu_pipeline_run(&(lu_pipeline){.ctx = ctx,
                                                .plan = p,
                                                .recipe = o->recipe,
                                                .calibration = o->calibration,
                                                .range = o->range,
                                                .act_rule = o->act_rule,
                                                .act_percentile = o->act_percentile,
                                                .gpu = has_data(o) ? gpu : NULL,
                                                .act = o->calibration ? o->calibration->dtype
                                                                      : LUTRA_BF16,
                                                .gpu_reserve = gpu_reserve,
                                                .times = &report->times,
                                                .folder = out->partial,
                                                .journal = &journal,
                                                .entries = entries},
                                 err);
    if (status == LUTRA_OK) /* all that is not done: without a recipe, everything */
        status = lu_writer_run(writer, err);
    if (status == LUTRA_OK)
        status = lu_side_files_write(p, out->partial, err);
    if (status == LUTRA_OK)
        report->sqnr_db = sqnr(p, entries);
    if (status == LUTRA_OK && (o->recipe || o->avg_bits > 0))
        status = list_errors(p, entries, report, err);
    lu_writer_close(writer);
    lu_journal_close(&journal, status == LUTRA_OK);
    lu_free(entries);
    return status;
}

static lutra_status run(lutra_ctx *ctx, lu_gpu *gpu, const lu_plan *p, const char *out_path,
                        const lutra_quantize_options *o, int64_t batch_bytes,
                        int64_t gpu_reserve, lutra_quantize_report *report, lutra_err *err)
{
    lu_out_folder out;
    lutra_status status =
        lu_out_check(lu_checkpoint_path(p->checkpoint), out_path, o->overwrite, &out, err);
    if (status == LUTRA_OK && !o->dry_run) {
        status = lu_out_begin(&out, o->restart, err);
        if (status == LUTRA_OK)
            status = fill_folder(ctx, gpu, p, &out, o, batch_bytes, gpu_reserve, report, err);
        if (status == LUTRA_OK)
            status = lu_out_finish(&out, err);
        if (status == LUTRA_E_NOSPACE && err && strlen(err->msg) < sizeof err->msg / 2) {
            char msg[sizeof err->msg];
            snprintf(msg, sizeof msg, "%s", err->msg);
            if (!strstr(msg, "make room"))
                lu_fail(err, status, "%s: make room and run again, it resumes", msg);
        }
    }
    lu_out_close(&out);
    return status;
}

/* A checkpoint of an architecture that lutra does not run, or with a tensor missing, is compressed
   all the same, but not without a word. With a recipe the pipeline opens the model and refuses. */
static lutra_status warn_unless_it_runs(lutra_ctx *ctx, const char *path, lutra_err *err)
{
    lutra_model *m = NULL;
    lutra_err why;
    const lutra_status status = lu_model_open_bare(ctx, path, &m, &why);
    lutra_model_close(m);
    if (status == LUTRA_E_NOMEM)
        return lu_fail(err, status, "%s", why.msg);
    if (status != LUTRA_OK)
        lu_log(ctx, LUTRA_LOG_WARN, "compressed all the same, but lutra cannot run this model: %s",
               why.msg);
    return LUTRA_OK;
}

/* The rules that were found, then those that were given, which go before. */
static lutra_status join_rules(lutra_quantize_options *o, const lutra_format_rule *own, int n_own,
                               lutra_format_rule **all, lutra_err *err)
{
    const size_t n = (size_t)n_own + (size_t)o->n_rules;
    *all = lu_array(n, sizeof **all);
    if (!*all)
        return lu_fail_nomem(err, n * sizeof **all);
    memcpy(*all, own, (size_t)n_own * sizeof **all);
    if (o->n_rules)
        memcpy(*all + n_own, o->rules, (size_t)o->n_rules * sizeof **all);
    o->rules = *all;
    o->n_rules = (int)n;
    return LUTRA_OK;
}

static lutra_status choose_formats(lutra_ctx *ctx, lutra_checkpoint *c, const char *out,
                                   const lutra_quantize_options *o, lutra_format_rule **own,
                                   int *n_own, lutra_err *err)
{
    size_t n = strlen(out);
    while (n > 1 && out[n - 1] == '/')
        n--;
    while (n > 0 && out[n - 1] != '/')
        n--;
    char *beside = n ? lu_strdup(out) : lu_strdup(".");
    if (!beside)
        return lu_fail_nomem(err, n);
    if (n)
        beside[n] = '\0';
    const lutra_status status = lu_allocate_formats(ctx, c, o, beside, own, n_own, err);
    lu_free(beside);
    return status;
}

lutra_status lu_quantize_in_batches(lutra_ctx *ctx, const char *in, const char *out,
                                    const lutra_quantize_options *opts, int64_t batch_bytes,
                                    lutra_quantize_report *report, lutra_err *err)
{
    const double start = lu_seconds();
    lutra_quantize_options o;
    lutra_quantize_options_init(&o);
    if (opts)
        memcpy(&o, opts, opts->size < sizeof o ? opts->size : sizeof o);
    lutra_quantize_report r = {.n_tensors = 0};
    lutra_checkpoint *c = NULL;
    lu_plan plan = {.n_tensors = 0};
    lu_gpu *gpu = NULL;
    lu_forecast forecast = {.host = 0};
    LU_TRY(check_options(&o, err));
    const bool on_gpu = o.device && *o.device && strcmp(o.device, "cpu") != 0;
    LU_TRY(open_device(ctx, &o, &gpu, err));
    lutra_status status = lu_checkpoint_open(in, &c, err);
    if (status == LUTRA_OK)
        status = check_input(c, err);
    lutra_format_rule *own = NULL, *all = NULL;
    int n_own = 0;
    if (status == LUTRA_OK && o.avg_bits > 0)
        status = choose_formats(ctx, c, out, &o, &own, &n_own, err);
    if (status == LUTRA_OK && n_own > 0)
        status = join_rules(&o, own, n_own, &all, err);
    if (status == LUTRA_OK)
        status = lu_plan_make(c, &o, &plan, err);
    o.rules = NULL; /* the plan holds what came of them */
    o.n_rules = 0;
    lu_free(all);
    lu_format_rules_free(own, n_own);
    if (status == LUTRA_OK)
        status = check_passes(&plan, o.recipe, err);
    if (status == LUTRA_OK) {
        fill_report(&plan, &r);
        if (o.recipe && o.calibration)
            status = lu_pipeline_forecast(ctx, &plan, o.recipe, o.calibration, on_gpu, &forecast,
                                          err);
        r.memory_forecast = forecast.host;
        r.gpu_forecast = forecast.gpu;
    }
    if (status == LUTRA_OK) {
        if (!o.recipe)
            status = warn_unless_it_runs(ctx, in, err);
    }
    if (status == LUTRA_OK) {
        if (plan.n_routers > 0)
            lu_log(ctx, LUTRA_LOG_INFO, "%lld expert routers are left as they are",
                   (long long)plan.n_routers);
        status = run(ctx, gpu, &plan, out, &o, batch_bytes, forecast.gpu_reserve, &r, err);
    }
    if (status == LUTRA_OK && o.dry_run && o.avg_bits > 0)
        status = list_errors(&plan, NULL, &r, err);
    lu_plan_free(&plan);
    lutra_checkpoint_close(c);
    r.gpu_peak = gpu ? gpu->info.memory - (int64_t)gpu->least_free : 0;
    lu_gpu_close(gpu);
    r.seconds = lu_seconds() - start;
    r.peak_rss = lu_peak_rss();
    if (status == LUTRA_OK && report)
        *report = r;
    else
        lutra_quantize_report_free(&r);
    return status;
}

lutra_status lutra_quantize_checkpoint(lutra_ctx *ctx, const char *in, const char *out,
                                       const lutra_quantize_options *o,
                                       lutra_quantize_report *report, lutra_err *err)
{
    return lu_quantize_in_batches(ctx, in, out, o, BATCH_BYTES, report, err);
}
