/* recipe_answers.c - what a recipe says: of itself at its top level, and of each module. */
#include <stdlib.h>
#include <string.h>

#include "calib/quantize_plan.h"
#include "calib/recipe_parts.h"

bool lutra_recipe_needs_data(const lutra_recipe *r)
{
    lu_act_format act = {.bits = 0};
    if (r->act_quant)
        (void)lu_act_format_parse(r->act_quant, &act, NULL); /* was parsed before */
    bool needs = lu_act_is_static(&act);
    for (int i = 0; i < r->n_passes; i++) {
        const lu_recipe_pass *p = &r->passes[i];
        needs |= (p->has_act && lu_act_is_static(&p->act)) ||
                 (p->pass->needs && p->pass->needs(p->settings) != 0);
    }
    return needs;
}

bool lutra_recipe_activations(const lutra_recipe *r, const char **spec)
{
    if (r->act_quant)
        *spec = r->act_quant;
    return r->act_quant != NULL;
}

bool lutra_recipe_activation_range(const lutra_recipe *r, const char **rule)
{
    if (r->act_rule)
        *rule = r->act_rule;
    return r->act_rule != NULL;
}

bool lutra_recipe_activation_percentile(const lutra_recipe *r, double *percentile)
{
    if (r->act_percentile > 0)
        *percentile = r->act_percentile;
    return r->act_percentile > 0;
}

bool lutra_recipe_format(const lutra_recipe *r, lutra_format *format)
{
    if (r->has_format)
        *format = r->format;
    return r->has_format;
}

bool lutra_recipe_range(const lutra_recipe *r, lutra_range *range)
{
    if (r->has_range)
        *range = r->range;
    return r->has_range;
}

bool lutra_recipe_ignore(const lutra_recipe *r, const char *const **patterns, int *n)
{
    if (r->has_ignore) {
        *patterns = (const char *const *)r->ignore;
        *n = r->n_ignore;
    }
    return r->has_ignore;
}

int64_t lu_module_layer(const char *module)
{
    static const char prefix[] = "model.layers.";
    char *end;
    if (strncmp(module, prefix, sizeof prefix - 1) != 0)
        return -1;
    const long long layer = strtoll(module + sizeof prefix - 1, &end, 10);
    return *end == '.' ? layer : -1;
}

bool lu_recipe_covers(const lu_recipe_pass *p, const char *module, int64_t layer)
{
    bool layers = p->n_layers == 0, modules = p->n_modules == 0;
    for (int i = 0; i < p->n_layers; i++)
        layers |= p->layers[i].first <= layer && layer <= p->layers[i].last;
    for (int i = 0; layers && i < p->n_modules; i++)
        modules |= lu_glob_match(p->modules[i], module);
    return layers && modules;
}

const lu_recipe_pass *lu_recipe_rounds(const lutra_recipe *r, const char *module, int64_t layer)
{
    for (int i = 0; i < r->n_passes; i++)
        if (r->passes[i].pass->method.kind == LUTRA_METHOD_ROUND &&
            lu_recipe_covers(&r->passes[i], module, layer))
            return &r->passes[i];
    return NULL;
}

static uint64_t mix_format(lu_hash mix, uint64_t h, bool has, const lutra_format *f)
{
    char spec[96];
    h = mix(h, &has, sizeof has);
    if (!has)
        return h;
    lutra_format_spec(f, spec, sizeof spec);
    return mix(h, spec, strlen(spec) + 1);
}

uint64_t lu_recipe_hash(const lutra_recipe *r, lu_hash mix, uint64_t h)
{
    for (int i = 0; i < r->n_passes; i++) {
        const lu_recipe_pass *p = &r->passes[i];
        const uint8_t range = p->has_range ? (uint8_t)(1 + (int)p->range) : 0;
        h = mix(h, p->pass->method.name, strlen(p->pass->method.name) + 1);
        h = mix(h, p->settings, p->pass->settings_size);
        for (int m = 0; m < p->n_modules; m++)
            h = mix(h, p->modules[m], strlen(p->modules[m]) + 1);
        h = mix(h, p->layers, (size_t)p->n_layers * sizeof *p->layers);
        h = mix_format(mix, h, p->has_format, &p->format);
        h = mix(h, &range, sizeof range);
    }
    return h;
}
