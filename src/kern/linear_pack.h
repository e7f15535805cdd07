/* linear_pack.h - the packed layout that the vector variants read, and packing into it.

   A unit is U rows of W, one row per 32-bit vector lane, so that sums never cross lanes. Dense:

       [k][U] elements (f32, f16 or bf16)

   Coded, LU_PACK_BLOCK = 32 columns of a row are `bits` 32-bit words of its own bit stream:

       codes   [group][block][word][U] uint32     block: 32 columns, the last of a group padded
       scales  [group][U] of scale_dtype
       zeros   [group][U] codes                   only with zero points

       word 0 of a row at 4 bits:  c7 c6 c5 c4 c3 c2 c1 c0     (c0 in the lowest bits)
       words 1, 0 at 3 bits:       ... c11 [c10 high bit] | [c10 low bits] c9 ... c1 c0

   Columns that pad a group have code 0 and meet an x of 0; rows that pad a unit have scale 0. */
#ifndef LU_KERN_LINEAR_PACK_H
#define LU_KERN_LINEAR_PACK_H

#include "kern/linear_variant.h"

enum { LU_PACK_BLOCK = 32 };

typedef struct lu_pack_layout {
    int64_t groups;       /* dense: 1 */
    int64_t group_blocks; /* blocks of a group; dense: columns */
    int64_t k_padded;     /* length of the x that meets a unit */
    size_t block_bytes;   /* of one block of all U rows; dense: one column */
    size_t scales, zeros; /* offsets in the unit */
    size_t unit_bytes;    /* a multiple of 64 */
} lu_pack_layout;

lu_pack_layout lu_pack_layout_of(const lu_linear *l, int64_t unit_rows);
bool lu_pack_unit_bytes(const lu_linear *l, int64_t unit_rows, size_t *out);
void lu_pack_units(const lu_linear *l, const lu_weight *w, int64_t unit0, int64_t unit1);

#endif
