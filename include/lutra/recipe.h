/* lutra/recipe.h - what to do to a model: an ordered list of methods with their targets. */
#ifndef LUTRA_RECIPE_H
#define LUTRA_RECIPE_H

#include "lutra/format.h"
#include "lutra/method.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A recipe as YAML (docs/recipes.md):

     format: int3:g128:asym      # what rounding methods round to, unless they say otherwise
     range: mse                  # minmax (default) or mse
     ignore: [lm_head, "*embed_tokens"]   # left alone; this is the default
     activations: int8:tensor    # how the inputs of rounded linears are rounded at run time; or none
     activation_range: minmax    # of intB:tensor: minmax (default), moving, mse or percentile
     activation_percentile: 99.99
     passes:
       - method: awq
       - method: gptq
         damp: 0.05              # any parameter of the method
         modules: ["*.mlp.*"]    # glob patterns; default: all linears of the blocks
         layers: 0-3,7           # default: all
         format: int4:g128       # for these modules, as activations of a rounding method

   An unknown key or method is E_ARG naming near ones; what is not YAML is E_FORMAT with its line. */
typedef struct lutra_recipe lutra_recipe;

/* `what` names the text in messages. On success *out belongs to the caller. */
LUTRA_API lutra_status lutra_recipe_parse(const char *what, const char *text, size_t n,
                                          lutra_recipe **out, lutra_err *err);
LUTRA_API lutra_status lutra_recipe_load(const char *path, lutra_recipe **out, lutra_err *err);
/* One method for all modules, followed by rounding to nearest if it is a transform. settings: n
   strings "parameter=value". */
LUTRA_API lutra_status lutra_recipe_of_method(const char *method, const char *const *settings,
                                              int n, lutra_recipe **out, lutra_err *err);
LUTRA_API void lutra_recipe_free(lutra_recipe *r);

/* Whether a pass needs calibration data. */
LUTRA_API bool lutra_recipe_needs_data(const lutra_recipe *r);
/* What the recipe's top level says; false if it says nothing. Patterns are borrowed. */
LUTRA_API bool lutra_recipe_format(const lutra_recipe *r, lutra_format *format);
LUTRA_API bool lutra_recipe_range(const lutra_recipe *r, lutra_range *range);
LUTRA_API bool lutra_recipe_ignore(const lutra_recipe *r, const char *const **patterns, int *n);
/* act_quant, act_rule and act_percentile of lutra_quantize_options; spec and rule are borrowed. */
LUTRA_API bool lutra_recipe_activations(const lutra_recipe *r, const char **spec);
LUTRA_API bool lutra_recipe_activation_range(const lutra_recipe *r, const char **rule);
LUTRA_API bool lutra_recipe_activation_percentile(const lutra_recipe *r, double *percentile);

/* Calibration text and how it is cut. Fill with lutra_calibration_init. */
typedef struct lutra_calibration {
    size_t size;
    const char *data;  /* .txt: one text; .jsonl: objects with "text", "messages" or "ids" per line;
                          .ids: numbers (pre-tokenized), a sample per line */
    int64_t n_samples; /* default 128 */
    int64_t length;    /* tokens of a sample, default 512 */
    uint64_t seed;     /* which samples are drawn, default 0 */
    bool per_document; /* a sample begins where a document does and is dropped if it is shorter;
                          otherwise documents are joined and windows drawn from anywhere */
    bool float_inputs; /* blocks are calibrated on the outputs of the original blocks before them
                          instead of those of the compressed ones */
    int64_t memory;    /* bytes of activations held in memory, more go to a file beside the output;
                          default 4 GiB */
    lutra_dtype dtype; /* of activations on a GPU: LUTRA_BF16 (default), or LUTRA_F16, which is eight
                          times finer and ends at 65504. The CPU's are float32 */
} lutra_calibration;

LUTRA_API void lutra_calibration_init(lutra_calibration *c);

#ifdef __cplusplus
}
#endif
#endif
