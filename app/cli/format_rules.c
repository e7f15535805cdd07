/* format_rules.c - see format_rules.h. */
#include "format_rules.h"

#include <string.h>

#include "base/mem.h"

static const char *const usual[] = {"lm2", "lm3", "lm4", "int5", "int6", "int8"};
#define N_USUAL ((int)(sizeof usual / sizeof usual[0]))

static lutra_status read_rules(const cli_list *texts, format_rules *out, lutra_err *err)
{
    out->rules = lu_calloc((size_t)texts->n + 1, sizeof *out->rules);
    out->patterns = lu_calloc((size_t)texts->n + 1, sizeof *out->patterns);
    if (!out->rules || !out->patterns)
        return lu_fail_nomem(err, (size_t)texts->n * sizeof *out->rules);
    for (; out->n_rules < texts->n; out->n_rules++) {
        const char *text = texts->items[out->n_rules], *equals = strrchr(text, '=');
        lutra_format_rule *r = &out->rules[out->n_rules];
        if (!equals || equals == text)
            return lu_fail(err, LUTRA_E_ARG,
                           "--format-for '%s': expected PATTERN=SPEC, such as '*.down_proj=int8'",
                           text);
        const lutra_status status = lutra_format_parse(equals + 1, &r->format, err);
        if (status != LUTRA_OK)
            return lu_fail_prefix(err, status, "--format-for '%s'", text);
        r->pattern = out->patterns[out->n_rules] = lu_strndup(text, (size_t)(equals - text));
        if (!r->pattern)
            return lu_fail_nomem(err, strlen(text));
    }
    return LUTRA_OK;
}

static lutra_status read_candidates(const cli_list *specs, const lutra_format *general,
                                    format_rules *out, lutra_err *err)
{
    const int n = specs->n ? specs->n : N_USUAL;
    out->candidates = lu_calloc((size_t)n, sizeof *out->candidates);
    if (!out->candidates)
        return lu_fail_nomem(err, (size_t)n * sizeof *out->candidates);
    for (; out->n_candidates < n; out->n_candidates++) {
        lutra_format *f = &out->candidates[out->n_candidates];
        LU_TRY(lutra_format_parse(
            specs->n ? specs->items[out->n_candidates] : usual[out->n_candidates], f, err));
        if (!specs->n) {
            f->group_size = general->group_size;
            f->scale_dtype = general->scale_dtype;
        }
    }
    return LUTRA_OK;
}

lutra_status format_rules_read(const cli_list *texts, const cli_list *candidates, double avg_bits,
                               const lutra_format *general, format_rules *out, lutra_err *err)
{
    *out = (format_rules){.n_rules = 0};
    LU_TRY(read_rules(texts, out, err));
    return avg_bits > 0 ? read_candidates(candidates, general, out, err) : LUTRA_OK;
}

void format_rules_free(format_rules *r)
{
    for (int i = 0; r->patterns && i < r->n_rules; i++)
        lu_free(r->patterns[i]);
    lu_free(r->patterns);
    lu_free(r->rules);
    lu_free(r->candidates);
}
