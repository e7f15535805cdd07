/* kv_format.c - names of the kinds of KV cache. */
#include "fmt/kv_format.h"

#include <string.h>

#include "base/near.h"

static const char *const names[LU_N_KV_KINDS + 1] = {"fp32", "bf16",  "int8",  "int4",
                                                     "fp8",  "kivi4", "kivi2", NULL};

const char *lu_kv_kind_name(lu_kv_kind kind) { return names[kind]; }

lutra_status lu_kv_kind_parse(const char *name, lu_kv_kind *out, lutra_err *err)
{
    char near[64];
    for (int i = LU_KV_INT8; i < LU_N_KV_KINDS; i++)
        if (strcmp(name, names[i]) == 0) {
            *out = (lu_kv_kind)i;
            return LUTRA_OK;
        }
    if (lu_near(name, lu_near_array, names + LU_KV_INT8, near, sizeof near) > 0)
        return lu_fail(err, LUTRA_E_ARG, "unknown KV cache format '%.60s', near: %s", name, near);
    return lu_fail(err, LUTRA_E_ARG,
                   "unknown KV cache format '%.60s', expected int8, int4, fp8, kivi4 or kivi2",
                   name);
}
