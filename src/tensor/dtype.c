/* dtype.c - the table of element types: names and sizes. */
#include <string.h>

#include "lutra/tensor.h"

static const struct {
    const char *name;
    size_t bits;
} dtypes[] = {
    {"?", 0},
#define LU_DTYPE_ROW(name, text, bits) {text, bits},
    LUTRA_DTYPE_LIST(LU_DTYPE_ROW)
#undef LU_DTYPE_ROW
};

#define N_DTYPES (sizeof dtypes / sizeof *dtypes)

const char *lutra_dtype_name(lutra_dtype t) { return (size_t)t < N_DTYPES ? dtypes[t].name : "?"; }

size_t lutra_dtype_bytes(lutra_dtype t) { return (size_t)t < N_DTYPES ? dtypes[t].bits / 8 : 0; }

lutra_dtype lutra_dtype_parse(const char *name)
{
    static const struct {
        const char *alias;
        lutra_dtype t;
    } aliases[] = {
        {"float32", LUTRA_F32}, {"fp32", LUTRA_F32},   {"f32", LUTRA_F32},
        {"float16", LUTRA_F16}, {"fp16", LUTRA_F16},   {"f16", LUTRA_F16},
        {"half", LUTRA_F16},    {"bfloat16", LUTRA_BF16}, {"bf16", LUTRA_BF16},
    };
    for (size_t i = 1; i < N_DTYPES; i++)
        if (strcmp(name, dtypes[i].name) == 0)
            return (lutra_dtype)i;
    for (size_t i = 0; i < sizeof aliases / sizeof *aliases; i++)
        if (strcmp(name, aliases[i].alias) == 0)
            return aliases[i].t;
    return LUTRA_DTYPE_NONE;
}
