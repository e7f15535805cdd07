/* rtn_pass.c - rounding to nearest as a pass: what lutra_quantize_checkpoint does without data, in
   a recipe after transforms; and with data for the tables that formats such as km3 learn. */
#include "algo/pass.h"
#include "base/mem.h"

typedef struct {
    bool weighted;
} rtn_settings;

static lutra_status rtn_site(lu_block *b, lu_site *s, const void *settings, lutra_err *err)
{
    const rtn_settings *set = settings;
    float *importance = set->weighted ? lu_site_importance(s) : NULL;
    lutra_status status = LUTRA_OK;
    for (int i = 0; status == LUTRA_OK && i < s->n_linears; i++) {
        if (!s->linears[i]->wanted)
            continue;
        status = lu_linear_learn(b, s->linears[i], importance, err);
        if (status == LUTRA_OK)
            status = lu_linear_round(b, s->linears[i], err);
    }
    lu_free(importance);
    return status;
}

static unsigned rtn_needs(const void *settings)
{
    return ((const rtn_settings *)settings)->weighted ? LU_STAT_HESSIAN : 0;
}

static const lutra_param params[] = {
    {"weighted", LUTRA_PARAM_BOOL, offsetof(rtn_settings, weighted), 0, 0, 1, NULL,
     "learned tables (km4, km3, km2) fit the weights by what their columns do to the output on the "
     "calibration text (SqueezeLLM); without, all weights count alike"},
    {0},
};

const lu_pass lu_pass_rtn = {
    .method = {.name = "rtn",
               .summary = "rounds every weight to the nearest value of its format",
               .source = "",
               .kind = LUTRA_METHOD_ROUND,
               .params = params},
    .settings_size = sizeof(rtn_settings),
    .needs = rtn_needs,
    .site = rtn_site,
};
