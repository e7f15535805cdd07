/* passes.c - the list of passes and the parameters' defaults. */
#include <string.h>

#include "algo/pass_list.h"

static const lu_pass *const passes[] = {
#define LU_PASS_ENTRY(name) &lu_pass_##name,
    LU_PASS_LIST(LU_PASS_ENTRY)
#undef LU_PASS_ENTRY
};

#define N_PASSES ((int)(sizeof passes / sizeof passes[0]))

const lu_pass *lu_pass_at(int i) { return i >= 0 && i < N_PASSES ? passes[i] : NULL; }

const lu_pass *lu_pass_find(const char *name)
{
    for (int i = 0; i < N_PASSES; i++)
        if (strcmp(passes[i]->method.name, name) == 0)
            return passes[i];
    return NULL;
}

const lutra_method *lutra_method_at(int i)
{
    const lu_pass *p = lu_pass_at(i);
    return p ? &p->method : NULL;
}

const char *lutra_method_kind_name(lutra_method_kind kind)
{
    return kind == LUTRA_METHOD_TRANSFORM ? "transform"
           : kind == LUTRA_METHOD_ROUND   ? "round"
                                          : "prune";
}

void lu_param_set(const lutra_param *p, void *settings, double value)
{
    void *at = (char *)settings + p->offset;
    switch (p->type) {
    case LUTRA_PARAM_BOOL: *(bool *)at = value != 0; break;
    case LUTRA_PARAM_INT: *(int64_t *)at = (int64_t)value; break;
    case LUTRA_PARAM_REAL: *(double *)at = value; break;
    case LUTRA_PARAM_CHOICE: *(int *)at = (int)value; break;
    }
}

void lu_pass_defaults(const lu_pass *p, void *settings)
{
    memset(settings, 0, p->settings_size);
    for (const lutra_param *q = p->method.params; q->name; q++)
        lu_param_set(q, settings, q->dflt);
}
