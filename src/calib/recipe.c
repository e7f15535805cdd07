/* recipe.c - recipes: from YAML by libyaml's document tree, or from one method's name. The tree is
   read by fixed depth, so that aliases cannot make it grow. Each value is checked by the table row
   of its parameter. */
#include "calib/recipe_parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "algo/act_range.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/near.h"
#include "calib/quantize_plan.h"

#define MAX_BYTES ((size_t)1 << 20)
#define MAX_ENTRIES 10000
#define MAX_LAYER 100000

/* ---- settings ---------------------------------------------------------------------------------
 */

static const char *param_at(const void *list, int i) { return ((const lutra_param *)list)[i].name; }

static const char *method_at(const void *list, int i)
{
    const lutra_method *m = lutra_method_at(i);
    (void)list;
    return m ? m->name : NULL;
}

/* "unknown key 'dmap', did you mean damp?" */
static lutra_status unknown(const char *what, const char *kind, const char *word, lu_name_at at,
                            const void *list, lutra_err *err)
{
    char near[128];
    if (lu_near(word, at, list, near, sizeof near))
        return lu_fail(err, LUTRA_E_ARG, "%s: unknown %s '%.60s', did you mean %s?", what, kind,
                       word, near);
    char all[256] = "";
    for (int i = 0; at(list, i) && strlen(all) + 40 < sizeof all; i++)
        snprintf(all + strlen(all), sizeof all - strlen(all), "%s%s", i ? ", " : "", at(list, i));
    return lu_fail(err, LUTRA_E_ARG, "%s: unknown %s '%.60s'%s%s", what, kind, word,
                   *all ? ", known: " : "", all);
}

static bool parse_bool(const char *text, double *out)
{
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on", "0", "1"};
    for (int i = 0; i < 8; i++)
        if (strcmp(words[i], text) == 0) {
            *out = i & 1;
            return true;
        }
    return false;
}

static bool parse_choice(const char *choices, const char *text, double *out)
{
    const size_t n = strlen(text);
    *out = 0;
    for (const char *at = choices; *at; ++*out) {
        const size_t size = strcspn(at, "|");
        if (size == n && memcmp(at, text, n) == 0)
            return true;
        at += size + (at[size] == '|');
    }
    return false;
}

static bool parse_number(const char *text, bool whole, double *out)
{
    char *end;
    errno = 0;
    *out = whole ? (double)strtoll(text, &end, 10) : strtod(text, &end);
    return end != text && !*end && !errno;
}

lutra_status lu_param_parse(const char *what, const lu_pass *p, const char *name, const char *text,
                            void *settings, lutra_err *err)
{
    const lutra_param *q = p->method.params;
    while (q->name && strcmp(q->name, name) != 0)
        q++;
    if (!q->name)
        return unknown(what, "parameter", name, param_at, p->method.params, err);
    double v = 0;
    switch (q->type) {
    case LUTRA_PARAM_BOOL:
        if (!parse_bool(text, &v))
            return lu_fail(err, LUTRA_E_ARG, "%s: %s is '%.40s', expected true or false", what,
                           name, text);
        break;
    case LUTRA_PARAM_CHOICE:
        if (!parse_choice(q->choices, text, &v))
            return lu_fail(err, LUTRA_E_ARG, "%s: %s is '%.40s', expected %s", what, name, text,
                           q->choices);
        break;
    case LUTRA_PARAM_INT:
    case LUTRA_PARAM_REAL:
        if (!parse_number(text, q->type == LUTRA_PARAM_INT, &v) || !(v >= q->lo && v <= q->hi))
            return lu_fail(err, LUTRA_E_ARG, "%s: %s is '%.40s', expected %s from %g to %g", what,
                           name, text, q->type == LUTRA_PARAM_INT ? "a whole number" : "a number",
                           q->lo, q->hi);
        break;
    }
    lu_param_set(q, settings, v);
    return LUTRA_OK;
}

static lutra_status start_pass(const char *what, const char *method, lu_recipe_pass *out,
                               lutra_err *err)
{
    const lu_pass *p = lu_pass_find(method);
    if (!p)
        return unknown(what, "method", method, method_at, NULL, err);
    out->pass = p;
    out->settings = lu_alloc(p->settings_size + 1);
    if (!out->settings)
        return lu_fail_nomem(err, p->settings_size);
    lu_pass_defaults(p, out->settings);
    return LUTRA_OK;
}

/* ---- lists of texts ---------------------------------------------------------------------------
 */

static lutra_status add_text(char ***list, int *n, const char *text, lutra_err *err)
{
    char **grown = lu_resize(*list, (size_t)(*n + 1) * sizeof *grown);
    if (!grown)
        return lu_fail_nomem(err, (size_t)(*n + 1) * sizeof *grown);
    *list = grown;
    grown[*n] = lu_strdup(text);
    if (!grown[*n])
        return lu_fail_nomem(err, strlen(text));
    ++*n;
    return LUTRA_OK;
}

/* "0-3,7" */
static lutra_status add_layers(const char *what, const char *text, lu_recipe_pass *p,
                               lutra_err *err)
{
    for (const char *at = text;;) {
        char *end;
        const long long first = strtoll(at, &end, 10);
        long long last = first;
        bool good = end != at && *at >= '0' && *at <= '9';
        if (good && *end == '-') {
            at = end + 1;
            good = *at >= '0' && *at <= '9';
            last = strtoll(at, &end, 10);
        }
        if (!good || first > last || last > MAX_LAYER || (*end && *end != ','))
            return lu_fail(err, LUTRA_E_ARG,
                           "%s: layers is '%.40s', expected numbers and ranges such as 0-3,7", what,
                           text);
        lu_layer_range *grown = lu_resize(p->layers, (size_t)(p->n_layers + 1) * sizeof *grown);
        if (!grown)
            return lu_fail_nomem(err, (size_t)(p->n_layers + 1) * sizeof *grown);
        p->layers = grown;
        grown[p->n_layers++] = (lu_layer_range){first, last};
        if (!*end)
            return LUTRA_OK;
        at = end + 1;
    }
}

/* ---- YAML -------------------------------------------------------------------------------------
 */

typedef struct {
    const char *file;
    yaml_document_t *doc;
    char what[256]; /* the place in messages: "r.yaml:12" */
    lutra_recipe *recipe;
} source;

static const char *place(source *s, const yaml_node_t *n)
{
    snprintf(s->what, sizeof s->what, "%.200s:%zu", s->file, n ? n->start_mark.line + 1 : 1);
    return s->what;
}

/* The text of a scalar; NULL with an error for others, and for texts with a NUL. */
static const char *scalar(source *s, const yaml_node_t *n, const char *key, lutra_err *err)
{
    if (n && n->type == YAML_SCALAR_NODE &&
        strlen((const char *)n->data.scalar.value) == n->data.scalar.length)
        return (const char *)n->data.scalar.value;
    lu_fail(err, LUTRA_E_ARG, "%s: %s is not a single value", place(s, n), key);
    return NULL;
}

/* A list of texts, or one text. */
static lutra_status read_texts(source *s, const yaml_node_t *n, const char *key, char ***list,
                               int *count, lutra_err *err)
{
    if (n && n->type != YAML_SEQUENCE_NODE) {
        const char *text = scalar(s, n, key, err);
        return text ? add_text(list, count, text, err) : LUTRA_E_ARG;
    }
    for (yaml_node_item_t *i = n->data.sequence.items.start; i < n->data.sequence.items.top; i++) {
        const char *text = scalar(s, yaml_document_get_node(s->doc, *i), key, err);
        if (!text)
            return LUTRA_E_ARG;
        LU_TRY(add_text(list, count, text, err));
    }
    return LUTRA_OK;
}

static lutra_status read_format(source *s, const yaml_node_t *n, lutra_format *f, bool *has,
                                lutra_err *err)
{
    const char *text = scalar(s, n, "format", err);
    if (!text)
        return LUTRA_E_ARG;
    *has = true;
    const lutra_status status = lutra_format_parse(text, f, err);
    return status == LUTRA_OK ? LUTRA_OK : lu_fail_prefix(err, status, "%s", place(s, n));
}

static lutra_status read_range(source *s, const yaml_node_t *n, lutra_range *r, bool *has,
                               lutra_err *err)
{
    double v;
    const char *text = scalar(s, n, "range", err);
    if (!text)
        return LUTRA_E_ARG;
    if (!parse_choice("minmax|mse", text, &v))
        return lu_fail(err, LUTRA_E_ARG, "%s: range is '%.40s', expected minmax or mse",
                       place(s, n), text);
    *r = v > 0 ? LUTRA_RANGE_MSE : LUTRA_RANGE_MINMAX;
    *has = true;
    return LUTRA_OK;
}

static lutra_status read_activations(source *s, const yaml_node_t *n, lu_act_format *f,
                                     lutra_err *err)
{
    const char *text = scalar(s, n, "activations", err);
    if (!text)
        return LUTRA_E_ARG;
    const lutra_status status = lu_act_format_parse(text, f, err);
    return status == LUTRA_OK ? LUTRA_OK : lu_fail_prefix(err, status, "%s", place(s, n));
}

static lutra_status keep_text(const char *text, char **out, lutra_err *err)
{
    *out = lu_strdup(text);
    return *out ? LUTRA_OK : lu_fail_nomem(err, strlen(text));
}

static lutra_status read_act_range(source *s, const yaml_node_t *n, lutra_recipe *r, lutra_err *err)
{
    lu_act_rule rule;
    const char *text = scalar(s, n, "activation_range", err);
    if (!text)
        return LUTRA_E_ARG;
    const lutra_status status = lu_act_rule_parse(text, &rule, err);
    return status == LUTRA_OK ? keep_text(text, &r->act_rule, err)
                              : lu_fail_prefix(err, status, "%s", place(s, n));
}

static lutra_status read_act_percentile(source *s, const yaml_node_t *n, lutra_recipe *r,
                                        lutra_err *err)
{
    const char *text = scalar(s, n, "activation_percentile", err);
    if (!text)
        return LUTRA_E_ARG;
    if (!parse_number(text, false, &r->act_percentile) ||
        !(r->act_percentile > 50 && r->act_percentile <= 100))
        return lu_fail(err, LUTRA_E_ARG,
                       "%s: activation_percentile is '%.40s', expected above 50 and at most 100",
                       place(s, n), text);
    return LUTRA_OK;
}

typedef enum {
    KEY_METHOD,
    KEY_MODULES,
    KEY_LAYERS,
    KEY_FORMAT,
    KEY_RANGE,
    KEY_ACTIVATIONS,
    N_PASS_KEYS
} pass_key;
static const char *const pass_keys[] = {"method", "modules",     "layers", "format",
                                        "range",  "activations", NULL};

typedef enum {
    KEY_TOP_FORMAT,
    KEY_TOP_RANGE,
    KEY_TOP_ACTIVATIONS,
    KEY_ACT_RANGE,
    KEY_ACT_PERCENTILE,
    KEY_IGNORE,
    KEY_PASSES,
    N_TOP_KEYS
} top_key;
static const char *const top_keys[] = {
    "format", "range",  "activations", "activation_range", "activation_percentile",
    "ignore", "passes", NULL};

static int key_index(const char *const *keys, const char *word)
{
    int i = 0;
    while (keys[i] && strcmp(keys[i], word) != 0)
        i++;
    return i;
}

static lutra_status pass_value(source *s, lu_recipe_pass *p, pass_key key, const yaml_node_t *n,
                               lutra_err *err)
{
    const char *text;
    switch (key) {
    case KEY_MODULES: return read_texts(s, n, "modules", &p->modules, &p->n_modules, err);
    case KEY_LAYERS:
        text = scalar(s, n, "layers", err);
        return text ? add_layers(place(s, n), text, p, err) : LUTRA_E_ARG;
    case KEY_FORMAT: return read_format(s, n, &p->format, &p->has_format, err);
    case KEY_RANGE: return read_range(s, n, &p->range, &p->has_range, err);
    case KEY_ACTIVATIONS:
        if (p->pass->method.kind != LUTRA_METHOD_ROUND)
            return lu_fail(err, LUTRA_E_ARG,
                           "%s: activations: %s rounds nothing, put them at the top or with the "
                           "method that rounds the weights",
                           place(s, n), p->pass->method.name);
        p->has_act = true;
        return read_activations(s, n, &p->act, err);
    default: /* method: read first */ return LUTRA_OK;
    }
}

/* Key i of a pass: one of its own, or a parameter of the method. */
static const char *any_pass_key(const void *list, int i)
{
    const lu_pass *p = list;
    if (i < N_PASS_KEYS)
        return pass_keys[i];
    return param_at(p->method.params, i - N_PASS_KEYS);
}

/* The same key twice is a slip that YAML would let pass. */
static lutra_status check_keys(source *s, const yaml_node_t *map, lutra_err *err)
{
    const yaml_node_pair_t *begin = map->data.mapping.pairs.start,
                           *end = map->data.mapping.pairs.top;
    for (const yaml_node_pair_t *a = begin; a < end; a++) {
        const yaml_node_t *n = yaml_document_get_node(s->doc, a->key);
        const char *key = scalar(s, n, "a key", err);
        if (!key)
            return LUTRA_E_ARG;
        for (const yaml_node_pair_t *b = begin; b < a; b++)
            if (strcmp((const char *)yaml_document_get_node(s->doc, b->key)->data.scalar.value,
                       key) == 0)
                return lu_fail(err, LUTRA_E_ARG, "%s: key '%.60s' stands there twice", place(s, n),
                               key);
    }
    return LUTRA_OK;
}

static lutra_status read_pass(source *s, const yaml_node_t *map, lu_recipe_pass *p, lutra_err *err)
{
    if (!map || map->type != YAML_MAPPING_NODE)
        return lu_fail(err, LUTRA_E_ARG,
                       "%s: a pass is not a list of keys, expected \"method: ...\"", place(s, map));
    LU_TRY(check_keys(s, map, err));
    const yaml_node_pair_t *end = map->data.mapping.pairs.top;
    for (const yaml_node_pair_t *a = map->data.mapping.pairs.start; a < end; a++) {
        const yaml_node_t *key = yaml_document_get_node(s->doc, a->key),
                          *value = yaml_document_get_node(s->doc, a->value);
        if (strcmp((const char *)key->data.scalar.value, "method") != 0)
            continue;
        const char *method = scalar(s, value, "method", err);
        if (!method)
            return LUTRA_E_ARG;
        LU_TRY(start_pass(place(s, value), method, p, err));
    }
    if (!p->pass)
        return lu_fail(err, LUTRA_E_ARG, "%s: a pass has no \"method\"", place(s, map));
    for (const yaml_node_pair_t *a = map->data.mapping.pairs.start; a < end; a++) {
        const yaml_node_t *key = yaml_document_get_node(s->doc, a->key),
                          *value = yaml_document_get_node(s->doc, a->value);
        const char *word = (const char *)key->data.scalar.value;
        const int i = key_index(pass_keys, word);
        if (i < N_PASS_KEYS) {
            LU_TRY(pass_value(s, p, (pass_key)i, value, err));
            continue;
        }
        const lutra_param *q = p->pass->method.params;
        while (q->name && strcmp(q->name, word) != 0)
            q++;
        if (!q->name)
            return unknown(place(s, key), "key", word, any_pass_key, p->pass, err);
        const char *text = scalar(s, value, word, err);
        if (!text)
            return LUTRA_E_ARG;
        LU_TRY(lu_param_parse(place(s, value), p->pass, word, text, p->settings, err));
    }
    return LUTRA_OK;
}

static lutra_status read_passes(source *s, const yaml_node_t *list, lutra_err *err)
{
    lutra_recipe *r = s->recipe;
    const size_t n = list && list->type == YAML_SEQUENCE_NODE
                         ? (size_t)(list->data.sequence.items.top - list->data.sequence.items.start)
                         : 0;
    if (n == 0 || n > MAX_ENTRIES)
        return lu_fail(err, LUTRA_E_ARG, "%s: passes is not a list of at least one pass",
                       place(s, list));
    r->passes = lu_calloc(n, sizeof *r->passes);
    if (!r->passes)
        return lu_fail_nomem(err, n * sizeof *r->passes);
    for (size_t i = 0; i < n; i++) {
        const int at = list->data.sequence.items.start[i];
        r->n_passes++;
        LU_TRY(read_pass(s, yaml_document_get_node(s->doc, at), &r->passes[i], err));
    }
    return LUTRA_OK;
}

static lutra_status read_top_activations(source *s, const yaml_node_t *n, lutra_err *err)
{
    lu_act_format f;
    char spec[64];
    LU_TRY(read_activations(s, n, &f, err));
    return keep_text(lu_act_format_spec(&f, spec, sizeof spec), &s->recipe->act_quant, err);
}

static lutra_status read_top(source *s, lutra_err *err)
{
    lutra_recipe *r = s->recipe;
    const yaml_node_t *map = yaml_document_get_root_node(s->doc);
    if (!map || map->type != YAML_MAPPING_NODE)
        return lu_fail(err, LUTRA_E_ARG, "%s: holds no recipe, expected \"passes: ...\"", s->file);
    LU_TRY(check_keys(s, map, err));
    for (yaml_node_pair_t *a = map->data.mapping.pairs.start; a < map->data.mapping.pairs.top;
         a++) {
        const yaml_node_t *key = yaml_document_get_node(s->doc, a->key),
                          *value = yaml_document_get_node(s->doc, a->value);
        const char *word = (const char *)key->data.scalar.value;
        switch ((top_key)key_index(top_keys, word)) {
        case KEY_TOP_FORMAT: LU_TRY(read_format(s, value, &r->format, &r->has_format, err)); break;
        case KEY_TOP_RANGE: LU_TRY(read_range(s, value, &r->range, &r->has_range, err)); break;
        case KEY_TOP_ACTIVATIONS: LU_TRY(read_top_activations(s, value, err)); break;
        case KEY_ACT_RANGE: LU_TRY(read_act_range(s, value, r, err)); break;
        case KEY_ACT_PERCENTILE: LU_TRY(read_act_percentile(s, value, r, err)); break;
        case KEY_IGNORE:
            LU_TRY(read_texts(s, value, "ignore", &r->ignore, &r->n_ignore, err));
            r->has_ignore = true;
            break;
        case KEY_PASSES: LU_TRY(read_passes(s, value, err)); break;
        case N_TOP_KEYS: return unknown(place(s, key), "key", word, lu_near_array, top_keys, err);
        }
    }
    return r->n_passes ? LUTRA_OK : lu_fail(err, LUTRA_E_ARG, "%s: has no \"passes\"", s->file);
}

/* ---- rules ------------------------------------------------------------------------------------
 */

static bool may_meet(const lu_recipe_pass *a, const lu_recipe_pass *b)
{
    bool meet = a->n_layers == 0 || b->n_layers == 0;
    for (int i = 0; i < a->n_layers; i++)
        for (int j = 0; j < b->n_layers; j++)
            meet |=
                a->layers[i].first <= b->layers[j].last && b->layers[j].first <= a->layers[i].last;
    return meet;
}

/* Weights that are rounded can no longer be changed. */
static lutra_status check_order(const char *what, const lutra_recipe *r, lutra_err *err)
{
    for (int i = 1; i < r->n_passes; i++)
        for (int j = 0; j < i; j++)
            if (r->passes[i].pass->method.kind != LUTRA_METHOD_ROUND &&
                r->passes[j].pass->method.kind == LUTRA_METHOD_ROUND &&
                may_meet(&r->passes[i], &r->passes[j]))
                return lu_fail(
                    err, LUTRA_E_ARG,
                    "%s: %s comes after %s, which has rounded the weights by then: put it "
                    "before",
                    what, r->passes[i].pass->method.name, r->passes[j].pass->method.name);
    return LUTRA_OK;
}

/* ---- opening ----------------------------------------------------------------------------------
 */

lutra_status lutra_recipe_parse(const char *what, const char *text, size_t n, lutra_recipe **out,
                                lutra_err *err)
{
    yaml_parser_t parser;
    yaml_document_t doc;
    if (n > MAX_BYTES)
        return lu_fail(err, LUTRA_E_LIMIT, "%s: %zu bytes, expected a recipe of at most 1 MB", what,
                       n);
    lutra_recipe *r = lu_calloc(1, sizeof *r);
    if (!r)
        return lu_fail_nomem(err, sizeof *r);
    if (!yaml_parser_initialize(&parser)) {
        lu_free(r);
        return lu_fail_nomem(err, sizeof parser);
    }
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, n);
    source s = {.file = what, .doc = &doc, .recipe = r};
    lutra_status status;
    if (yaml_parser_load(&parser, &doc)) {
        status = read_top(&s, err);
        yaml_document_delete(&doc);
    } else {
        status = lu_fail(err, LUTRA_E_FORMAT, "%s:%zu: %s", what, parser.problem_mark.line + 1,
                         parser.problem ? parser.problem : "is not YAML");
    }
    yaml_parser_delete(&parser);
    if (status == LUTRA_OK)
        status = check_order(what, r, err);
    if (status == LUTRA_OK)
        *out = r;
    else
        lutra_recipe_free(r);
    return status;
}

lutra_status lutra_recipe_load(const char *path, lutra_recipe **out, lutra_err *err)
{
    char *text;
    size_t n;
    LU_TRY(lu_file_read(path, MAX_BYTES, &text, &n, err));
    const lutra_status status = lutra_recipe_parse(path, text, n, out, err);
    lu_free(text);
    return status;
}

lutra_status lutra_recipe_of_method(const char *method, const char *const *settings, int n,
                                    lutra_recipe **out, lutra_err *err)
{
    static const char default_rounding[] = "rtn";
    lutra_recipe *r = lu_calloc(1, sizeof *r);
    if (!r)
        return lu_fail_nomem(err, sizeof *r);
    r->passes = lu_calloc(2, sizeof *r->passes);
    r->n_passes = r->passes ? 1 : 0;
    lutra_status status =
        r->passes ? start_pass("method", method, r->passes, err) : lu_fail_nomem(err, sizeof *r);
    for (int i = 0; status == LUTRA_OK && i < n; i++) {
        const char *equals = strchr(settings[i], '=');
        char name[64];
        if (!equals || (size_t)(equals - settings[i]) >= sizeof name)
            status =
                lu_fail(err, LUTRA_E_ARG, "setting '%.60s', expected PARAMETER=VALUE", settings[i]);
        else {
            snprintf(name, sizeof name, "%.*s", (int)(equals - settings[i]), settings[i]);
            status = lu_param_parse(method, r->passes[0].pass, name, equals + 1,
                                    r->passes[0].settings, err);
        }
    }
    /* a transform alone leaves the weights as large as they were */
    if (status == LUTRA_OK && r->passes[0].pass->method.kind == LUTRA_METHOD_TRANSFORM) {
        r->n_passes = 2;
        status = start_pass("method", default_rounding, &r->passes[1], err);
    }
    if (status == LUTRA_OK)
        *out = r;
    else
        lutra_recipe_free(r);
    return status;
}

static void free_texts(char **list, int n)
{
    for (int i = 0; i < n; i++)
        lu_free(list[i]);
    lu_free(list);
}

void lutra_recipe_free(lutra_recipe *r)
{
    if (!r)
        return;
    for (int i = 0; i < r->n_passes; i++) {
        lu_free(r->passes[i].settings);
        free_texts(r->passes[i].modules, r->passes[i].n_modules);
        lu_free(r->passes[i].layers);
    }
    lu_free(r->passes);
    lu_free(r->act_quant);
    lu_free(r->act_rule);
    free_texts(r->ignore, r->n_ignore);
    lu_free(r);
}
