/* rtn_pass.c - rounding to nearest as a pass: what lutra_quantize_checkpoint does without data, in
   a recipe after transforms. */
#include "algo/pass.h"

static lutra_status rtn_site(lu_block *b, lu_site *s, const void *settings, lutra_err *err)
{
    (void)settings;
    for (int i = 0; i < s->n_linears; i++)
        if (s->linears[i]->wanted)
            LU_TRY(lu_linear_round(b, s->linears[i], err));
    return LUTRA_OK;
}

static const lutra_param params[] = {{0}};

const lu_pass lu_pass_rtn = {
    .method = {.name = "rtn",
               .summary = "rounds every weight to the nearest value of its format",
               .source = "",
               .kind = LUTRA_METHOD_ROUND,
               .params = params},
    .site = rtn_site,
};
