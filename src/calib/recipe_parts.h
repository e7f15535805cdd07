/* recipe_parts.h - a parsed recipe: passes with their settings and targets. */
#ifndef LU_CALIB_RECIPE_PARTS_H
#define LU_CALIB_RECIPE_PARTS_H

#include "algo/pass.h"
#include "lutra/recipe.h"

/* Layers first .. last, both included. */
typedef struct lu_layer_range {
    int64_t first, last;
} lu_layer_range;

typedef struct lu_recipe_pass {
    const lu_pass *pass;
    void *settings; /* pass->settings_size bytes */
    char **modules; /* glob patterns; n_modules = 0: all */
    int n_modules;
    lu_layer_range *layers; /* n_layers = 0: all */
    int n_layers;
    bool has_format, has_range, has_act;
    lutra_format format;
    lutra_range range;
    lu_act_format act; /* of rounding passes: how the inputs of their linears are rounded */
} lu_recipe_pass;

struct lutra_recipe {
    bool has_format, has_range, has_ignore;
    lutra_format format;
    lutra_range range;
    char *act_quant, *act_rule; /* NULL: nothing is said */
    double act_percentile;      /* 0: nothing is said */
    char **ignore;
    int n_ignore;
    lu_recipe_pass *passes;
    int n_passes;
};

/* Whether the pass works on the module of this full name in this layer. */
bool lu_recipe_covers(const lu_recipe_pass *p, const char *module, int64_t layer);
/* The first rounding pass that covers it, or NULL. */
const lu_recipe_pass *lu_recipe_rounds(const lutra_recipe *r, const char *module, int64_t layer);

/* Everything of the recipe that decides the output, mixed into a hash by `mix`. */
typedef uint64_t (*lu_hash)(uint64_t h, const void *data, size_t n);
uint64_t lu_recipe_hash(const lutra_recipe *r, lu_hash mix, uint64_t h);

/* Sets a parameter from text: "true", "3", "0.01", a choice's name. `what` begins the message. */
lutra_status lu_param_parse(const char *what, const lu_pass *p, const char *name, const char *text,
                            void *settings, lutra_err *err);

/* The layer of "model.layers.7.mlp.up_proj", -1 for others. */
int64_t lu_module_layer(const char *module);

#endif
