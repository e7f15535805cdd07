/* fuzz_recipe.c - any bytes as a recipe. What is accepted has passes whose settings lie within the
   ranges of their tables; what is refused has a message. */
#include "calib/recipe_parts.h"
#include "fuzz.h"

static double value_of(const lutra_param *p, const void *settings)
{
    const char *at = (const char *)settings + p->offset;
    switch (p->type) {
    case LUTRA_PARAM_INT: return (double)*(const int64_t *)(const void *)at;
    case LUTRA_PARAM_REAL: return *(const double *)(const void *)at;
    default: return p->lo;
    }
}

static void check(const lutra_recipe *r)
{
    REQUIRE(r->n_passes >= 1);
    for (int i = 0; i < r->n_passes; i++) {
        const lu_recipe_pass *p = &r->passes[i];
        REQUIRE(p->pass && p->settings);
        for (const lutra_param *q = p->pass->method.params; q->name; q++) {
            const double v = value_of(q, p->settings);
            REQUIRE(v >= q->lo && v <= q->hi);
        }
        for (int l = 0; l < p->n_layers; l++)
            REQUIRE(p->layers[l].first >= 0 && p->layers[l].first <= p->layers[l].last);
        (void)lu_recipe_covers(p, "model.layers.3.mlp.up_proj", 3);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    lutra_recipe *r = NULL;
    lutra_err err = {0};
    if (lutra_recipe_parse("input", (const char *)data, size, &r, &err) == LUTRA_OK)
        check(r);
    else
        REQUIRE(err.msg[0]);
    lutra_recipe_free(r);
    return 0;
}
