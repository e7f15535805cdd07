/* linear_variant.h - what a matrix product variant provides. linear.c checks the weight, chooses a
   variant and fills lu_linear; a variant only lays out, packs and multiplies what it accepted. */
#ifndef LU_KERN_LINEAR_VARIANT_H
#define LU_KERN_LINEAR_VARIANT_H

#include "kern/linear.h"

struct lu_linear_variant {
    const char *name; /* "avx512"; lu_linear_variant_name adds format and activation */
    lu_level level;
    int64_t unit_rows;
    /* Bytes of one packed unit for l's format and shape; false if they overflow size_t. */
    bool (*unit_bytes)(const lu_linear *l, size_t *out);
    void (*pack)(const lu_linear *l, const lu_weight *w, int64_t unit0, int64_t unit1);
    /* x comes in the order of the packed columns, outliers zeroed */
    void (*run)(const lu_linear *l, const lu_linear_args *a);
    size_t (*scratch)(const lu_linear *l, int64_t M);
};

/* The table that the codes of a unit's rows look up: blocks with one are whole units. */
static inline const float *lu_unit_table(const lu_linear *l, int64_t unit)
{
    return l->table_rows ? l->tables + (size_t)(unit * l->unit_rows / l->table_rows << l->bits)
                         : l->table;
}

extern const lu_linear_variant lu_linear_ref;
extern const lu_linear_variant lu_linear_avx2; /* x86_64 only */
extern const lu_linear_variant lu_linear_avx512;

/* Products of integers (linear_int8.h). */
extern const lu_linear_variant lu_linear_int8_ref;
extern const lu_linear_variant lu_linear_int8_avx2; /* x86_64 only */
extern const lu_linear_variant lu_linear_int8_avx512;

#endif
