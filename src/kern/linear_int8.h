/* linear_int8.h - products of integer weights with integer activations: y = x W^T where a row of x
   is a record of 8-bit codes (kern/act_quant.h) and the weights' table holds integers.

   With u the code and z the zero point of x, v = T[q] - T[zero] the integers of W and G a group:

       y[m][n] = sx[m] * sum over G of sw[n][G] * float(sum over k in G of (u[m][k] - z[m]) v[n][k])
                 + bias[n]

   The inner sum is exact in int32: it is computed as sum(u v) - z sum(v), in any order and at any
   level, and at most LU_INT8_SEGMENT columns go into one. The outer one runs over the groups in
   order with fused multiply-adds, so all levels give the same bits.

   A unit is U rows of W, one row per 32-bit lane; a group (or a segment of a longer one) is

       bytes     [columns / 4][U][4]   v of 4 columns
       nibbles   [columns / 8][U][4]   T[q] - T[0] of 8 columns: 0-3 in the low halves, 4-7 above

   and behind all groups of the unit

       scales    [groups][U] float32       sums   [groups][U] int32: sum of v
       offsets   [groups][U][4] int8       nibbles only: T[0] - T[zero], four times

   Nibbles hold what fits: tables whose values span at most 15. Columns that pad a row have v = 0,
   or meet an x of 0. */
#ifndef LU_KERN_LINEAR_INT8_H
#define LU_KERN_LINEAR_INT8_H

#include "kern/linear_variant.h"

enum {
    LU_INT8_SEGMENT = 65536, /* 255 * 128 * 65536 < 2^31 */
    LU_INT8_CHUNK = 256,     /* columns of a unit worked on at a time: in L1 */
};

/* Whether the packed values of integer weights fit in 4 bits. */
bool lu_int8_fits_nibbles(const lu_weight *w);

typedef struct lu_int8_layout {
    int64_t segment;              /* columns of a group: the format's, or LU_INT8_SEGMENT */
    int64_t per_group;            /* of them in a group of the format */
    int64_t groups;               /* of the packed row */
    size_t scales, sums, offsets; /* offsets in the unit */
    size_t unit_bytes;            /* a multiple of 64 */
} lu_int8_layout;

lu_int8_layout lu_int8_layout_of(const lu_linear *l, int64_t unit_rows);
bool lu_int8_unit_bytes(const lu_linear *l, int64_t unit_rows, size_t *out);
void lu_int8_pack_units(const lu_linear *l, const lu_weight *w, int64_t unit0, int64_t unit1);

/* Columns [*k0, *k1) of packed group g. */
static inline void lu_int8_group(const lu_linear *l, const lu_int8_layout *o, int64_t g,
                                 int64_t *k0, int64_t *k1)
{
    const int64_t end = (g / o->per_group + 1) * l->group_size;
    *k0 = g / o->per_group * l->group_size + g % o->per_group * o->segment;
    *k1 = *k0 + o->segment < end ? *k0 + o->segment : end;
}

/* Byte offset of column k (a multiple of 8) in a unit of U rows. */
static inline size_t lu_int8_codes_at(const lu_linear *l, int64_t k, int64_t U)
{
    return (size_t)(l->nibbles ? k / 2 : k) * (size_t)U;
}

#endif
