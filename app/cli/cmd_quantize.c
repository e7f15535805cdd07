/* cmd_quantize.c - lutra quantize: settles the number format from the options, runs the library,
   prints what was done. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli.h"
#include "format_rules.h"
#include "interrupt.h"

typedef struct settings {
    const char *format, *table, *group_size, *scale_dtype, *range;
    const char *recipe, *method, *calib, *device, *dtype, *act_quant, *act_rule;
    int64_t samples, seq_len, seed;
    double calib_memory, avg_bits, act_percentile;
    bool symmetric, asymmetric, dry_run, overwrite, restart, json;
    bool per_document, float_inputs, list_methods;
    cli_list ignore, set, format_for, candidates;
} settings;

#define S(field) offsetof(settings, field)

static const cli_option options[] = {
    {"format", 'f', CLI_TEXT, "SPEC", S(format), 0, 0, NULL, "nf4",
     "number format: nf4 nf3 nf2 lm4 lm3 lm2 km4 km3 km2 fp4 fp3 fp2 int2 to int8, or a full spec "
     "such as "
     "int3:g128:asym:bf16"},
    {"table", 0, CLI_PATH, "FILE", S(table), 0, 0, NULL, NULL,
     "your own format: a text or JSON list of 4, 8, 16, 32, 64, 128 or 256 numbers ('#' begins a "
     "comment)"},
    {"group-size", 'g', CLI_CHOICE, "SIZE", S(group_size), 0, 0, "32|64|128|256|channel", NULL,
     "weights of a row that share a scale; without it what the spec says, else 64"},
    {"scale-dtype", 0, CLI_CHOICE, "TYPE", S(scale_dtype), 0, 0, "fp16|bf16|fp32", NULL,
     "type of the scales; without it what the spec says, else fp16"},
    {"symmetric", 0, CLI_FLAG, NULL, S(symmetric), 0, 0, NULL, NULL, "scales only, no zero points"},
    {"asymmetric", 0, CLI_FLAG, NULL, S(asymmetric), 0, 0, NULL, NULL,
     "a zero point per group (int formats)"},
    {"range", 0, CLI_CHOICE, "RULE", S(range), 0, 0, "minmax|mse", "minmax",
     "how the scale of a group is chosen: minmax = the largest weight fits; mse = the smallest "
     "squared error, better below 5 bits and slower"},
    {"format-for", 0, CLI_LIST, "PATTERN=SPEC", S(format_for), 0, 0, NULL, NULL,
     "another format for modules of this name (* and ? match), such as '*.down_proj=int8'; the "
     "last "
     "that matches counts"},
    {"avg-bits", 0, CLI_REAL, "B", S(avg_bits), 0, 16, NULL, "0",
     "mixed precision: give each module the candidate format that loses least within so many bits "
     "a weight on average, scales included; with --calib judged by what its output does to the "
     "model on that text, without by its weights; 0 = off"},
    {"candidate", 0, CLI_LIST, "SPEC", S(candidates), 0, 0, NULL, NULL,
     "with --avg-bits: a format to choose from; without, lm2 lm3 lm4 int5 int6 int8 in the groups "
     "of "
     "--format"},
    {"act-quant", 0, CLI_TEXT, "SPEC", S(act_quant), 0, 0, NULL, NULL,
     "the checkpoint asks for the inputs of its compressed linears to be rounded to integers whenever "
     "it runs: int8 (a scale per token), int4:g128 (per 128 columns), int8:tensor (a fixed scale, found "
     "with --calib and stored); ':asym' adds zero points; none = not, whatever the recipe says"},
    {"act-rule", 0, CLI_CHOICE, "RULE", S(act_rule), 0, 0, "minmax|moving|mse|percentile", "minmax",
     "how a fixed scale follows from the data: mean or running mean of the samples' ends, least squared "
     "error, or a percentile"},
    {"act-percentile", 0, CLI_REAL, "P", S(act_percentile), 50.1, 100, NULL, "99.99",
     "for --act-rule percentile: values that are not clipped, in percent"},
    {"ignore", 'i', CLI_LIST, "PATTERN", S(ignore), 0, 0, NULL, NULL,
     "leave modules of this name as they are (* and ? match); replaces the default, which is "
     "lm_head "
     "and *embed_tokens"},
    {"method", 'm', CLI_TEXT, "NAME", S(method), 0, 0, NULL, NULL,
     "compress the decoder blocks by this method, one at a time (--list-methods)"},
    {"set", 0, CLI_LIST, "NAME=VALUE", S(set), 0, 0, NULL, NULL,
     "a parameter of the method, e.g. damp=0.05"},
    {"recipe", 'r', CLI_PATH, "FILE", S(recipe), 0, 0, NULL, NULL,
     "methods, their parameters and targets from a YAML file (docs/recipes.md)"},
    {"calib", 'c', CLI_PATH, "FILE", S(calib), 0, 0, NULL, NULL,
     "calibration data: a text, .jsonl with text, messages or ids, or .ids with token ids"},
    {"samples", 0, CLI_INT, "N", S(samples), 1, 1000000, NULL, "128", "calibration samples"},
    {"seq-len", 0, CLI_INT, "N", S(seq_len), 1, 1000000, NULL, "512", "tokens of a sample"},
    {"seed", 0, CLI_INT, "N", S(seed), 0, 9007199254740991.0, NULL, "0", "which samples are drawn"},
    {"per-document", 0, CLI_FLAG, NULL, S(per_document), 0, 0, NULL, NULL,
     "samples begin where documents do (blank lines part those of a text); without, documents are "
     "joined"},
    {"float-inputs", 0, CLI_FLAG, NULL, S(float_inputs), 0, 0, NULL, NULL,
     "calibrate each block on the outputs of the original blocks before it"},
    {"calib-memory", 0, CLI_REAL, "GB", S(calib_memory), 0, 1e6, NULL, "4",
     "activations held in memory; more go to a file beside OUT"},
    {"list-methods", 0, CLI_FLAG, NULL, S(list_methods), 0, 0, NULL, NULL,
     "print the methods and their parameters, and stop (with --json: as JSON)"},
    {"device", 'd', CLI_TEXT, "NAME", S(device), 0, 0, NULL, "cpu",
     "where the work is done: cpu, cuda (the first NVIDIA GPU) or cuda:N; without calibration data "
     "the bytes written are the same, with it the quality is"},
    {"dtype", 0, CLI_CHOICE, "TYPE", S(dtype), 0, 0, "bf16|fp16", "bf16",
     "type of calibration activations on a GPU: fp16 is finer and ends at 65504"},
    {"dry-run", 'n', CLI_FLAG, NULL, S(dry_run), 0, 0, NULL, NULL,
     "print the plan and the sizes, write nothing"},
    {"overwrite", 0, CLI_FLAG, NULL, S(overwrite), 0, 0, NULL, NULL,
     "replace OUT if it exists, once the new one is complete"},
    {"restart", 0, CLI_FLAG, NULL, S(restart), 0, 0, NULL, NULL,
     "throw away the work of an interrupted run instead of resuming"},
    {"json", 0, CLI_FLAG, NULL, S(json), 0, 0, NULL, NULL, "print the summary as one JSON object"},
    {0},
};

static const cli_operand operands[] = {
    {"IN", true, NULL, "folder of a Hugging Face model"},
    {"OUT", true, NULL, "folder to make"},
    {0},
};

/* --- the user's table ----------------------------------------------------------------------- */

static lutra_status table_from_json(const char *path, const char *text, size_t n, float *values,
                                    int *count, lutra_err *err)
{
    json_error_t where;
    json_t *list = json_loadb(text, n, 0, &where);
    if (!list)
        return lu_fail(err, LUTRA_E_FORMAT, "%s:%d: %s", path, where.line, where.text);
    lutra_status status = LUTRA_OK;
    size_t i;
    json_t *v;
    *count = 0;
    json_array_foreach (list, i, v) {
        if (!json_is_number(v) || i >= 1 << LUTRA_MAX_BITS) {
            status = lu_fail(err, LUTRA_E_FORMAT, "%s: entry %zu %s", path, i,
                             json_is_number(v) ? "is one too many, expected at most 256"
                                               : "is not a number");
            break;
        }
        values[(*count)++] = (float)json_number_value(v);
    }
    json_decref(list);
    return status;
}

/* Numbers parted by white space or commas; '#' begins a comment. */
static lutra_status table_from_text(const char *path, const char *text, float *values, int *count,
                                    lutra_err *err)
{
    int line = 1;
    *count = 0;
    for (const char *p = text; *p;) {
        if (*p == '#') {
            p += strcspn(p, "\n");
        } else if (strchr(" \t\r\n,", *p)) {
            line += *p++ == '\n';
        } else {
            char *end;
            const float v = strtof(p, &end);
            if (end == p || (*end && !strchr(" \t\r\n,#", *end)))
                return lu_fail(err, LUTRA_E_FORMAT, "%s:%d: '%.*s' is not a number", path, line,
                               (int)strcspn(p, " \t\r\n,#"), p);
            if (*count == 1 << LUTRA_MAX_BITS)
                return lu_fail(err, LUTRA_E_FORMAT, "%s:%d: more than 256 numbers", path, line);
            values[(*count)++] = v;
            p = end;
        }
    }
    return LUTRA_OK;
}

static lutra_status read_table(const char *path, float *values, int *count, lutra_err *err)
{
    char *text;
    size_t n;
    LU_TRY(cli_read(path, &text, &n, err));
    const lutra_status status = text[strspn(text, " \t\r\n")] == '['
                                    ? table_from_json(path, text, n, values, count, err)
                                    : table_from_text(path, text, values, count, err);
    lu_free(text);
    return status;
}

/* --- the format ----------------------------------------------------------------------------- */

static lutra_dtype scale_dtype(const char *name)
{
    return strcmp(name, "fp32") == 0   ? LUTRA_F32
           : strcmp(name, "bf16") == 0 ? LUTRA_BF16
                                       : LUTRA_F16;
}

static int64_t group_size(const char *name)
{
    return strcmp(name, "channel") == 0 ? 0 : strtoll(name, NULL, 10);
}

/* --format or --table, then what the other options change in it. The spec is put together again
   and parsed once more, so that every combination is judged by the library's own rules. */
static lutra_status choose_format(const settings *s, lutra_format *f, lutra_err *err)
{
    if (s->table) {
        float values[1 << LUTRA_MAX_BITS];
        int count = 0;
        LU_TRY(read_table(s->table, values, &count, err));
        const lutra_status status = lutra_format_from_table(
            values, count, s->group_size ? group_size(s->group_size) : 64,
            s->scale_dtype ? scale_dtype(s->scale_dtype) : LUTRA_F16, f, err);
        return status == LUTRA_OK ? LUTRA_OK : lu_fail_prefix(err, status, "%s", s->table);
    }
    char spec[96];
    LU_TRY(lutra_format_parse(s->format, f, err));
    if (s->group_size)
        f->group_size = group_size(s->group_size);
    if (s->scale_dtype)
        f->scale_dtype = scale_dtype(s->scale_dtype);
    if (s->symmetric || s->asymmetric)
        f->zero_point = s->asymmetric;
    lutra_format_spec(f, spec, sizeof spec);
    return lutra_format_parse(spec, f, err);
}

/* --- methods ------------------------------------------------------------------------------- */

static const char *param_type(const lutra_param *p)
{
    static const char *const names[] = {"bool", "int", "real", "choice"};
    return names[p->type];
}

/* "0.01", "true", "minmax" */
static const char *param_default(const lutra_param *p, char *buf, size_t size)
{
    if (p->type == LUTRA_PARAM_BOOL)
        snprintf(buf, size, "%s", p->dflt > 0 ? "true" : "false");
    else if (p->type != LUTRA_PARAM_CHOICE || !cli_choice_at(p->choices, (int)p->dflt, buf, size))
        snprintf(buf, size, "%g", p->dflt);
    return buf;
}

/* "0 to 1", "a|b", "" */
static const char *param_values(const lutra_param *p, char *buf, size_t size)
{
    if (p->type == LUTRA_PARAM_CHOICE)
        snprintf(buf, size, "%s", p->choices);
    else if (p->type == LUTRA_PARAM_BOOL)
        snprintf(buf, size, "true|false");
    else
        snprintf(buf, size, "%.10g to %.10g", p->lo, p->hi);
    return buf;
}

static json_t *method_json(const lutra_method *m)
{
    char text[64];
    json_t *list = json_array();
    for (const lutra_param *p = m->params; p->name; p++)
        json_array_append_new(
            list, json_pack("{s:s, s:s, s:s, s:s, s:s}", "name", p->name, "type", param_type(p),
                            "default", param_default(p, text, sizeof text), "values",
                            param_values(p, text + 32, sizeof text - 32), "help", p->help));
    return json_pack("{s:s, s:s, s:s, s:s, s:b, s:o}", "name", m->name, "kind",
                     lutra_method_kind_name(m->kind), "summary", m->summary, "source", m->source,
                     "needs_data", (int)m->needs_data, "parameters", list);
}

static int list_methods(const settings *s)
{
    char dflt[64], values[64];
    json_t *all = s->json ? json_array() : NULL;
    for (int i = 0; lutra_method_at(i); i++) {
        const lutra_method *m = lutra_method_at(i);
        if (all) {
            json_array_append_new(all, method_json(m));
            continue;
        }
        out_printf("%s%s - %s (%s%s)\n", i ? "\n" : "", m->name, m->summary,
                   lutra_method_kind_name(m->kind), m->needs_data ? ", needs --calib" : "");
        if (*m->source)
            out_printf("  %s\n", m->source);
        for (const lutra_param *p = m->params; p->name; p++)
            out_printf("  %s=%s  (%s)\n      %s\n", p->name, param_default(p, dflt, sizeof dflt),
                       param_values(p, values, sizeof values), p->help);
    }
    if (all)
        out_json(all);
    return CLI_DONE;
}

/* Fixed scales are found by a walk through the blocks. */
static bool wants_fixed_scales(const settings *s)
{
    return s->act_quant && strstr(s->act_quant, ":tensor");
}

/* --recipe or --method; *out is NULL with neither. */
static lutra_status choose_recipe(const settings *s, lutra_recipe **out, lutra_err *err)
{
    *out = NULL;
    if (s->recipe)
        return lutra_recipe_load(s->recipe, out, err);
    if (s->method)
        return lutra_recipe_of_method(s->method, s->set.items, s->set.n, out, err);
    if (wants_fixed_scales(s))
        return lutra_recipe_of_method("rtn", NULL, 0, out, err);
    return LUTRA_OK;
}

/* What the recipe says and no option does. */
static void follow_recipe(const cli_call *call, const lutra_recipe *r, lutra_quantize_options *o)
{
    const settings *s = call->settings;
    if (!cli_given(call, "format") && !s->table && !s->group_size && !s->scale_dtype &&
        !s->symmetric && !s->asymmetric)
        lutra_recipe_format(r, &o->format);
    if (!cli_given(call, "range"))
        lutra_recipe_range(r, &o->range);
    if (s->ignore.n == 0)
        lutra_recipe_ignore(r, &o->ignore, &o->n_ignore);
    if (!s->act_quant)
        lutra_recipe_activations(r, &o->act_quant);
    if (!cli_given(call, "act-rule"))
        lutra_recipe_activation_range(r, &o->act_rule);
    if (!cli_given(call, "act-percentile"))
        lutra_recipe_activation_percentile(r, &o->act_percentile);
}

/* --- the summary ---------------------------------------------------------------------------- */

static double gigabytes_per_second(const lutra_quantize_report *r)
{
    return r->seconds > 0 ? (double)r->bytes_in / r->seconds * 1e-9 : 0;
}

static json_t *errors_json(const lutra_quantize_report *r)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < r->n_modules; i++) {
        json_t *m = json_object();
        json_object_set_new(m, "module", out_string(r->modules[i].module));
        json_object_set_new(m, "format", json_string(r->modules[i].format));
        json_object_set_new(m, "sqnr_db", out_real(r->modules[i].sqnr_db));
        json_object_set_new(m, "output_error", out_real(r->modules[i].output_error));
        json_array_append_new(list, m);
    }
    return list;
}

static void print_errors(const lutra_quantize_report *r)
{
    if (r->n_modules > 0)
        out_printf("%-44s %-18s %9s %13s\n", "module", "format", "SQNR dB", "output error");
    for (int64_t i = 0; i < r->n_modules; i++) {
        const lutra_module_error *m = &r->modules[i];
        out_printf("%-44s %-18s ", m->module, m->format);
        if (m->sqnr_db >= 0)
            out_printf("%9.2f ", m->sqnr_db);
        else
            out_printf("%9s ", "-");
        if (m->output_error >= 0)
            out_printf("%12.2f%%\n", 100 * m->output_error);
        else
            out_printf("%13s\n", "-");
    }
}

static bool has_recipe(const settings *s) { return s->recipe || s->method; }

static json_t *times_json(const lutra_quantize_times *t)
{
    return json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "walk", t->walk, "statistics",
                     t->statistics, "factor", t->factor, "methods", t->methods, "write", t->write,
                     "scales", t->scales, "ranges", t->ranges, "rounding", t->rounding);
}

static void print_json(const cli_call *call, const settings *s, const char *spec,
                       const lutra_quantize_options *q, const lutra_quantize_report *r)
{
    json_t *o = json_object();
    json_object_set_new(o, "in", out_string(call->operands[0]));
    json_object_set_new(o, "out", out_string(call->operands[1]));
    json_object_set_new(o, "format", json_string(spec));
    json_object_set_new(o, "range", json_string(s->range));
    json_object_set_new(o, "activations", q->act_quant ? out_string(q->act_quant) : json_null());
    json_object_set_new(o, "device", out_string(s->device));
    json_object_set_new(o, "dry_run", json_boolean(s->dry_run));
    json_object_set_new(o, "tensors", json_integer(r->n_tensors));
    json_object_set_new(o, "quantized_tensors", json_integer(r->n_quantized));
    json_object_set_new(o, "quantized_parameters", json_integer(r->params_quantized));
    json_object_set_new(o, "bits_per_weight", out_real(r->bits_per_weight));
    json_object_set_new(o, "bytes_in", json_integer(r->bytes_in));
    json_object_set_new(o, "bytes_out", json_integer(r->bytes_out));
    json_object_set_new(o, "sqnr_db", s->dry_run ? json_null() : out_real(r->sqnr_db));
    json_object_set_new(o, "resumed_tensors", json_integer(r->resumed_tensors));
    json_object_set_new(o, "seconds", out_real(r->seconds));
    json_object_set_new(o, "gigabytes_per_second", out_real(gigabytes_per_second(r)));
    json_object_set_new(o, "peak_memory", json_integer(r->peak_rss));
    if (r->memory_forecast)
        json_object_set_new(o, "memory_forecast", json_integer(r->memory_forecast));
    if (r->gpu_peak)
        json_object_set_new(o, "gpu_peak_memory", json_integer(r->gpu_peak));
    if (r->gpu_forecast)
        json_object_set_new(o, "gpu_memory_forecast", json_integer(r->gpu_forecast));
    if (has_recipe(s))
        json_object_set_new(o, "times", times_json(&r->times));
    if (r->modules)
        json_object_set_new(o, "modules", errors_json(r));
    out_json(o);
}

static void print_summary(const cli_call *call, const settings *s, const char *spec,
                          const lutra_quantize_options *q, const lutra_quantize_report *r)
{
    char in[32], out[32], memory[32];
    print_errors(r);
    out_printf("%s %s\n", s->dry_run ? "would write" : "wrote", call->operands[1]);
    out_printf("format           %s\n", spec);
    out_printf("range            %s\n", s->range);
    if (q->act_quant)
        out_printf("activations      %s\n", q->act_quant);
    out_printf("tensors          %lld, %lld of them quantized\n", (long long)r->n_tensors,
               (long long)r->n_quantized);
    if (r->resumed_tensors)
        out_printf("resumed          %lld tensors were done before\n",
                   (long long)r->resumed_tensors);
    out_printf("bits per weight  %.3f over %.1f M weights\n", r->bits_per_weight,
               (double)r->params_quantized * 1e-6);
    out_printf("size             %s -> %s (%.1f%%)\n",
               human_bytes((double)r->bytes_in, in, sizeof in),
               human_bytes((double)r->bytes_out, out, sizeof out),
               r->bytes_in ? 100.0 * (double)r->bytes_out / (double)r->bytes_in : 0.0);
    if (r->memory_forecast)
        out_printf("memory forecast  %s\n",
                   human_bytes((double)r->memory_forecast, memory, sizeof memory));
    if (r->gpu_forecast)
        out_printf("of the GPU       %s\n",
                   human_bytes((double)r->gpu_forecast, memory, sizeof memory));
    if (s->dry_run)
        return;
    out_printf("SQNR             %.2f dB\n", r->sqnr_db);
    out_printf("time             %.2f s, %.2f GB/s\n", r->seconds, gigabytes_per_second(r));
    if (has_recipe(s))
        out_printf("of it            walks %.2f s, statistics %.2f, factors %.2f, methods %.2f, "
                   "writing %.2f\n",
                   r->times.walk, r->times.statistics, r->times.factor, r->times.methods,
                   r->times.write);
    out_printf("peak memory      %s\n", human_bytes((double)r->peak_rss, memory, sizeof memory));
    if (r->gpu_peak)
        out_printf("of the GPU       %s\n", human_bytes((double)r->gpu_peak, memory, sizeof memory));
}

/* --- the command ---------------------------------------------------------------------------- */

/* What the library calls a wish has an option's name here. */
static const struct {
    const char *wish, *hint;
} hints[] = {
    {"overwrite", " (--overwrite replaces it)"},
    {"restart", " (--restart throws that work away)"},
};

static int report_failure(cli_call *call, lutra_err *err)
{
    if (err->status == LUTRA_E_CANCELLED)
        lu_fail(
            err, LUTRA_E_CANCELLED,
            "stopped; the work so far is in %.300s.partial: the same command goes on from there",
            call->operands[1]);
    for (size_t i = 0; err->status == LUTRA_E_EXISTS && i < sizeof hints / sizeof *hints; i++) {
        const size_t n = strlen(err->msg);
        if (strstr(err->msg, hints[i].wish))
            snprintf(err->msg + n, sizeof err->msg - n, "%s", hints[i].hint);
    }
    return cli_fail(call, err);
}

static int run(cli_call *call)
{
    const settings *s = call->settings;
    if (s->list_methods)
        return list_methods(s);
    if (call->n_operands != 2) /* optional for --list-methods only */
        return cli_usage(call, "%s is missing", operands[call->n_operands].name);
    if (s->recipe && s->method)
        return cli_usage(call, "--recipe and --method exclude each other");
    if (s->set.n && !s->method)
        return cli_usage(call, "--set: needs --method");
    if (s->candidates.n && !(s->avg_bits > 0))
        return cli_usage(call, "--candidate: needs --avg-bits");
    if (s->symmetric && s->asymmetric)
        return cli_usage(call, "--symmetric and --asymmetric exclude each other");
    if (s->table && (cli_given(call, "format") || s->asymmetric))
        return cli_usage(call, "--table: takes no --%s", s->asymmetric ? "asymmetric" : "format");

    lutra_err err = {0};
    lutra_quantize_options o;
    lutra_quantize_options_init(&o);
    if (choose_format(s, &o.format, &err) != LUTRA_OK)
        return err.status == LUTRA_E_ARG ? cli_usage(call, "%s", err.msg) : cli_fail(call, &err);
    if (s->ignore.n > 0) {
        o.ignore = s->ignore.items;
        o.n_ignore = s->ignore.n;
    }
    lutra_recipe *recipe;
    if (choose_recipe(s, &recipe, &err) != LUTRA_OK)
        return err.status == LUTRA_E_ARG ? cli_usage(call, "%s", err.msg) : cli_fail(call, &err);
    o.range = strcmp(s->range, "mse") == 0 ? LUTRA_RANGE_MSE : LUTRA_RANGE_MINMAX;
    o.device = s->device;
    o.act_quant = s->act_quant;
    o.act_rule = s->act_rule;
    o.act_percentile = s->act_percentile;
    o.dry_run = s->dry_run;
    o.overwrite = s->overwrite;
    o.restart = s->restart;

    lutra_calibration calibration;
    lutra_calibration_init(&calibration);
    calibration.data = s->calib;
    calibration.n_samples = s->samples;
    calibration.length = s->seq_len;
    calibration.seed = (uint64_t)s->seed;
    calibration.per_document = s->per_document;
    calibration.float_inputs = s->float_inputs;
    calibration.memory = (int64_t)(s->calib_memory * 1e9);
    calibration.dtype = strcmp(s->dtype, "fp16") == 0 ? LUTRA_F16 : LUTRA_BF16;
    o.calibration = &calibration;
    o.recipe = recipe;
    if (recipe)
        follow_recipe(call, recipe, &o);

    format_rules rules;
    if (format_rules_read(&s->format_for, &s->candidates, s->avg_bits, &o.format, &rules, &err) !=
        LUTRA_OK) {
        format_rules_free(&rules);
        lutra_recipe_free(recipe);
        return err.status == LUTRA_E_ARG ? cli_usage(call, "%s", err.msg) : cli_fail(call, &err);
    }
    o.rules = rules.rules;
    o.n_rules = rules.n_rules;
    o.avg_bits = s->avg_bits;
    o.candidates = rules.candidates;
    o.n_candidates = rules.n_candidates;

    lutra_ctx *ctx = NULL;
    lutra_quantize_report report;
    if (cli_open(call, &ctx, &err) != LUTRA_OK) {
        format_rules_free(&rules);
        lutra_recipe_free(recipe);
        return cli_fail(call, &err);
    }
    const lutra_status status =
        lutra_quantize_checkpoint(ctx, call->operands[0], call->operands[1], &o, &report, &err);
    lutra_close(ctx);
    format_rules_free(&rules);
    if (status != LUTRA_OK) {
        lutra_recipe_free(recipe);
        return report_failure(call, &err);
    }
    progress_clear(call->progress);
    char spec[96];
    lutra_format_spec(&o.format, spec, sizeof spec);
    if (s->avg_bits > 0)
        snprintf(spec, sizeof spec, "mixed, %g bits a weight on average", s->avg_bits);
    if (s->json)
        print_json(call, s, spec, &o, &report);
    else
        print_summary(call, s, spec, &o, &report);
    lutra_quantize_report_free(&report);
    lutra_recipe_free(recipe);
    return CLI_DONE;
}

const cli_command cli_quantize = {
    .name = "quantize",
    .summary = "Compress a model by rounding its weights to a table of 2^bits values per group",
    .about =
        "IN stays as it is. OUT is a model folder again: tokenizer and other files are copied,\n"
        "config.json says what was quantized how. The work is done in OUT.partial, which becomes\n"
        "OUT when complete; after Ctrl-C or a crash the same command resumes there.\n",
    .examples =
        "  lutra quantize llama-8b llama-8b-nf4\n"
        "  lutra quantize llama-8b llama-8b-int3 --format int3 --asymmetric --group-size 128\n"
        "  lutra quantize llama-8b llama-8b-lm2 --format lm2 --range mse\n"
        "  lutra quantize llama-8b llama-8b-own --table levels.txt --scale-dtype bf16\n"
        "  lutra quantize llama-8b out --ignore 'lm_head' --ignore '*embed_tokens' --ignore "
        "'*.layers.0.*'\n"
        "  lutra quantize llama-8b llama-8b-gptq --method gptq --format int3 --group-size 128 "
        "--asymmetric --calib text.txt\n"
        "  lutra quantize llama-8b llama-8b-awq --recipe recipes/awq-gptq-int3.yaml --calib "
        "text.jsonl\n"
        "  lutra quantize llama-8b llama-8b-lm3 --format lm3 --range mse --device cuda\n"
        "  lutra quantize llama-8b llama-8b-w8a8 --format int8:channel --act-quant int8:token\n"
        "  lutra quantize llama-8b out --format nf3:g64 --dry-run\n"
        "  lutra quantize llama-8b out --format lm3 --format-for '*.down_proj=int8' --range mse\n"
        "  lutra quantize llama-8b out --avg-bits 3.5 --range mse --calib text.txt\n",
    .operands = operands,
    .options = options,
    .settings_size = sizeof(settings),
    .run = run,
};
