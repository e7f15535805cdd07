/* cmd_inspect.c - lutra inspect: what is in a model folder or a safetensors file, from the headers
   alone. How our own checkpoints name things is in docs/formats.md: module M has M.codes, M.scales
   and what its scheme asks for beside them. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "cli.h"

typedef struct settings {
    bool tensors, json;
} settings;

static const cli_option options[] = {
    {"tensors", 0, CLI_FLAG, NULL, offsetof(settings, tensors), 0, 0, NULL, NULL,
     "list every tensor"},
    {"json", 0, CLI_FLAG, NULL, offsetof(settings, json), 0, 0, NULL, NULL,
     "print one JSON object"},
    {0},
};

static const cli_operand operands[] = {
    {"MODEL", false, NULL, "folder of a model, or a .safetensors file"},
    {0},
};

#define N_DTYPES 32

/* What is stored in one way. */
typedef struct scheme_sum {
    int64_t n_modules, params, bytes;
} scheme_sum;

typedef struct overview {
    json_t *config;        /* NULL without config.json */
    json_t *quant;         /* borrowed: quantization_config, or NULL */
    int64_t bytes, params; /* params: codes count as the weights they stand for */
    int64_t n_files;
    int64_t count_of[N_DTYPES], bytes_of[N_DTYPES]; /* by lutra_dtype */
    bool ours;                                      /* compressed by lutra */
    scheme_sum *schemes;                            /* as config.json lists them */
    size_t n_schemes;
    int64_t n_modules, quantized_params, quantized_bytes;
} overview;

static int64_t elements(const lutra_tensor *t)
{
    const size_t each = lutra_dtype_bytes(t->dtype);
    return each ? (int64_t)(t->bytes / each) : 0;
}

/* The scheme of the module that the tensor NAME belongs to, or NULL; *codes: it holds its codes. */
static json_t *scheme_of_tensor(const overview *v, const char *name, size_t *index, bool *codes)
{
    char module[1024];
    const char *dot = strrchr(name, '.');
    if (!v->ours || !dot || (size_t)(dot - name) >= sizeof module)
        return NULL;
    snprintf(module, sizeof module, "%.*s", (int)(dot - name), name);
    const json_t *number = json_object_get(json_object_get(v->quant, "modules"), module);
    json_t *schemes = json_object_get(v->quant, "schemes");
    *codes = strcmp(dot, ".codes") == 0;
    *index = (size_t)json_integer_value(number);
    /* a bias is the model's own */
    return json_is_integer(number) && strcmp(dot, ".bias") != 0 ? json_array_get(schemes, *index)
                                                                : NULL;
}

/* Weights behind the codes [N, row bytes]; a row's last byte may hold up to 7 bits of filling. */
static int64_t weights_of_codes(const json_t *scheme, const lutra_tensor *t)
{
    const int64_t bits = json_integer_value(json_object_get(scheme, "bits"));
    return bits > 0 && t->rank == 2 ? t->shape[0] * (t->shape[1] * 8 / bits) : 0;
}

static void read_config(const lutra_checkpoint *c, overview *v)
{
    const char *text = lutra_checkpoint_config(c);
    if (text) /* parsed once already: lutra_checkpoint_open refuses what is no JSON */
        (void)lu_json_parse("config.json", text, strlen(text), false, &v->config, NULL);
    v->quant = json_object_get(v->config, "quantization_config");
    const char *method = json_string_value(json_object_get(v->quant, "quant_method"));
    v->ours = method && strcmp(method, "lutra") == 0;
    v->n_schemes = v->ours ? json_array_size(json_object_get(v->quant, "schemes")) : 0;
    v->schemes = lu_calloc(v->n_schemes, sizeof *v->schemes);
    if (!v->schemes)
        v->n_schemes = 0;
}

static void look(const lutra_checkpoint *c, overview *v)
{
    read_config(c, v);
    for (int64_t i = 0; i < lutra_checkpoint_count(c); i++) {
        lutra_tensor t;
        lutra_checkpoint_tensor(c, i, &t);
        size_t index = 0;
        bool codes = false;
        const json_t *scheme = scheme_of_tensor(v, lutra_checkpoint_name(c, i), &index, &codes);
        v->bytes += (int64_t)t.bytes;
        if ((unsigned)t.dtype < N_DTYPES) {
            v->count_of[t.dtype]++;
            v->bytes_of[t.dtype] += (int64_t)t.bytes;
        }
        if (!scheme || index >= v->n_schemes) {
            v->params += elements(&t);
            continue;
        }
        v->schemes[index].bytes += (int64_t)t.bytes;
        if (codes) {
            v->schemes[index].n_modules++;
            v->schemes[index].params += weights_of_codes(scheme, &t);
        }
    }
    for (size_t i = 0; i < v->n_schemes; i++) {
        v->n_modules += v->schemes[i].n_modules;
        v->quantized_params += v->schemes[i].params;
        v->quantized_bytes += v->schemes[i].bytes;
    }
    v->params += v->quantized_params;
}

static int compare_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void count_files(const lutra_checkpoint *c, overview *v)
{
    const int64_t n = lutra_checkpoint_count(c);
    const char **names = lu_array((size_t)n + 1, sizeof *names);
    if (!names)
        return;
    for (int64_t i = 0; i < n; i++)
        names[i] = lutra_checkpoint_file(c, i);
    qsort(names, (size_t)n, sizeof *names, compare_text);
    for (int64_t i = 0; i < n; i++)
        v->n_files += i == 0 || strcmp(names[i], names[i - 1]) != 0;
    lu_free(names);
}

static const char *shape_text(const lutra_tensor *t, char *buf, size_t size)
{
    size_t n = (size_t)snprintf(buf, size, "[");
    for (int i = 0; i < t->rank && n < size; i++)
        n += (size_t)snprintf(buf + n, size - n, i ? ", %lld" : "%lld", (long long)t->shape[i]);
    if (n < size)
        snprintf(buf + n, size - n, "]");
    return buf;
}

static double bits_per_weight(int64_t bytes, int64_t params)
{
    return params > 0 ? 8.0 * (double)bytes / (double)params : 0;
}

/* --- for people ----------------------------------------------------------------------------- */

static void print_config_line(const overview *v, const char *label, const char *key)
{
    const json_t *value = json_object_get(v->config, key);
    if (json_is_integer(value))
        out_printf("%-17s%lld\n", label, (long long)json_integer_value(value));
}

/* "int8:channel:f16, outlier columns, activations int8:token" */
static const char *scheme_text(const json_t *scheme, char *buf, size_t size)
{
    const char *spec = json_string_value(json_object_get(scheme, "format"));
    const char *act = json_string_value(json_object_get(scheme, "activations"));
    char name[128], rounded[64];
    snprintf(buf, size, "%s%s%s%s%s", out_name(spec ? spec : "?", name, sizeof name),
             json_is_true(json_object_get(scheme, "g_idx")) ? ", groups in any order" : "",
             json_is_true(json_object_get(scheme, "outlier_columns")) ? ", outlier columns" : "",
             act ? ", activations " : "", act ? out_name(act, rounded, sizeof rounded) : "");
    return buf;
}

static void print_quantization(const overview *v)
{
    const char *method = json_string_value(json_object_get(v->quant, "quant_method"));
    char shown[256];
    if (!v->ours) {
        out_printf("quantization     %s\n", !v->quant ? "none"
                                            : method  ? out_name(method, shown, sizeof shown)
                                                      : "of an unknown kind");
        return;
    }
    for (size_t i = 0; i < v->n_schemes; i++) {
        char size[32];
        const scheme_sum *s = &v->schemes[i];
        const json_t *scheme = json_array_get(json_object_get(v->quant, "schemes"), i);
        out_printf("%-17s%s, %lld modules, %.1f M weights in %s, %.3f bits each\n",
                   i ? "" : "quantization", scheme_text(scheme, shown, sizeof shown),
                   (long long)s->n_modules, (double)s->params * 1e-6,
                   human_bytes((double)s->bytes, size, sizeof size),
                   bits_per_weight(s->bytes, s->params));
    }
    out_printf("bits per weight  %.3f in them, %.3f over all\n",
               bits_per_weight(v->quantized_bytes, v->quantized_params),
               bits_per_weight(v->bytes, v->params));
}

static void print_tensors(const lutra_checkpoint *c, const overview *v)
{
    int width = 0;
    for (int64_t i = 0; i < lutra_checkpoint_count(c); i++) {
        const int n = (int)strnlen(lutra_checkpoint_name(c, i), 120);
        width = n > width ? n : width;
    }
    out_printf("\n");
    for (int64_t i = 0; i < lutra_checkpoint_count(c) && !out_broken(); i++) {
        lutra_tensor t;
        char shape[200], size[32], shown[1024], file[256];
        lutra_checkpoint_tensor(c, i, &t);
        const char *name = lutra_checkpoint_name(c, i);
        out_printf("%-*s  %-7s %-16s %9s  %s", width, out_name(name, shown, sizeof shown),
                   lutra_dtype_name(t.dtype), shape_text(&t, shape, sizeof shape),
                   human_bytes((double)t.bytes, size, sizeof size),
                   out_name(lutra_checkpoint_file(c, i), file, sizeof file));
        size_t index;
        bool codes = false;
        const json_t *scheme = scheme_of_tensor(v, name, &index, &codes);
        if (scheme && codes && t.rank == 2)
            out_printf("  (%lld bits, %lld x %lld)",
                       (long long)json_integer_value(json_object_get(scheme, "bits")),
                       (long long)t.shape[0],
                       (long long)(t.shape[0] ? weights_of_codes(scheme, &t) / t.shape[0] : 0));
        out_printf("\n");
    }
}

static void print_text(const lutra_checkpoint *c, const overview *v, const settings *s)
{
    char size[32], shown[256];
    const char *arch =
        json_string_value(json_array_get(json_object_get(v->config, "architectures"), 0));
    if (arch)
        out_printf("architecture     %s\n", out_name(arch, shown, sizeof shown));
    print_config_line(v, "layers", "num_hidden_layers");
    print_config_line(v, "hidden size", "hidden_size");
    print_config_line(v, "intermediate", "intermediate_size");
    print_config_line(v, "heads", "num_attention_heads");
    print_config_line(v, "kv heads", "num_key_value_heads");
    print_config_line(v, "vocabulary", "vocab_size");
    print_config_line(v, "context", "max_position_embeddings");
    out_printf("parameters       %.2f M\n", (double)v->params * 1e-6);
    out_printf("size             %s in %lld tensors, %lld file%s\n",
               human_bytes((double)v->bytes, size, sizeof size),
               (long long)lutra_checkpoint_count(c), (long long)v->n_files,
               v->n_files == 1 ? "" : "s");
    for (int t = 0; t < N_DTYPES; t++)
        if (v->count_of[t])
            out_printf("  %-15s%s in %lld tensors\n", lutra_dtype_name((lutra_dtype)t),
                       human_bytes((double)v->bytes_of[t], size, sizeof size),
                       (long long)v->count_of[t]);
    if (v->config)
        print_quantization(v);
    if (s->tensors)
        print_tensors(c, v);
}

/* --- for machines --------------------------------------------------------------------------- */

static json_t *schemes_json(const overview *v)
{
    json_t *list = json_array();
    for (size_t i = 0; i < v->n_schemes; i++) {
        const scheme_sum *s = &v->schemes[i];
        const json_t *scheme = json_array_get(json_object_get(v->quant, "schemes"), i);
        char shown[256];
        json_array_append_new(list,
                              json_pack("{s:s, s:I, s:I, s:I}", "scheme",
                                        scheme_text(scheme, shown, sizeof shown), "modules",
                                        (json_int_t)s->n_modules, "parameters",
                                        (json_int_t)s->params, "bytes", (json_int_t)s->bytes));
    }
    return list;
}

static json_t *tensors_json(const lutra_checkpoint *c)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < lutra_checkpoint_count(c); i++) {
        lutra_tensor t;
        lutra_checkpoint_tensor(c, i, &t);
        json_t *o = json_object(), *shape = json_array();
        for (int d = 0; d < t.rank; d++)
            json_array_append_new(shape, json_integer(t.shape[d]));
        json_object_set_new(o, "name", json_string(lutra_checkpoint_name(c, i)));
        json_object_set_new(o, "dtype", json_string(lutra_dtype_name(t.dtype)));
        json_object_set_new(o, "shape", shape);
        json_object_set_new(o, "bytes", json_integer((json_int_t)t.bytes));
        json_object_set_new(o, "file", out_string(lutra_checkpoint_file(c, i)));
        json_array_append_new(list, o);
    }
    return list;
}

static void print_json(const lutra_checkpoint *c, const overview *v, const settings *s,
                       const char *path)
{
    json_t *o = json_object(), *dtypes = json_object();
    json_t *arch = json_array_get(json_object_get(v->config, "architectures"), 0);
    for (int t = 0; t < N_DTYPES; t++)
        if (v->count_of[t])
            json_object_set_new(dtypes, lutra_dtype_name((lutra_dtype)t),
                                json_pack("{s:I, s:I}", "tensors", (json_int_t)v->count_of[t],
                                          "bytes", (json_int_t)v->bytes_of[t]));
    json_object_set_new(o, "path", out_string(path));
    json_object_set(o, "architecture", arch ? arch : json_null());
    json_object_set_new(o, "parameters", json_integer(v->params));
    json_object_set_new(o, "bytes", json_integer(v->bytes));
    json_object_set_new(o, "tensor_count", json_integer(lutra_checkpoint_count(c)));
    json_object_set_new(o, "files", json_integer(v->n_files));
    json_object_set_new(o, "dtypes", dtypes);
    json_object_set_new(o, "bits_per_weight", out_real(bits_per_weight(v->bytes, v->params)));
    json_object_set_new(o, "quantized_modules", json_integer(v->n_modules));
    json_object_set_new(o, "quantized_parameters", json_integer(v->quantized_params));
    json_object_set_new(o, "quantized_bits_per_weight",
                        v->ours ? out_real(bits_per_weight(v->quantized_bytes, v->quantized_params))
                                : json_null());
    json_object_set_new(o, "schemes", schemes_json(v));
    json_object_set(o, "config", v->config ? v->config : json_null());
    if (s->tensors)
        json_object_set_new(o, "tensors", tensors_json(c));
    out_json(o);
}

static int run(cli_call *call)
{
    const settings *s = call->settings;
    lutra_err err = {0};
    lutra_ctx *ctx = NULL;
    lutra_checkpoint *c = NULL;
    lutra_status status = cli_open(call, &ctx, &err);
    if (status == LUTRA_OK)
        status = lutra_checkpoint_open(ctx, call->operands[0], &c, &err);
    if (status == LUTRA_OK) {
        overview v = {0};
        look(c, &v);
        count_files(c, &v);
        if (s->json)
            print_json(c, &v, s, call->operands[0]);
        else
            print_text(c, &v, s);
        json_decref(v.config);
        lu_free(v.schemes);
    }
    lutra_checkpoint_close(c);
    lutra_close(ctx);
    return status == LUTRA_OK ? CLI_DONE : cli_fail(call, &err);
}

const cli_command cli_inspect = {
    .name = "inspect",
    .summary = "Show what is in a model folder or a safetensors file",
    .about = "Reads headers only, so a large model takes no longer than a small one.\n",
    .examples = "  lutra inspect llama-8b-nf4\n"
                "  lutra inspect model-00001-of-00004.safetensors --tensors\n"
                "  lutra inspect llama-8b --json | jq .bytes\n",
    .operands = operands,
    .options = options,
    .settings_size = sizeof(settings),
    .run = run,
};
