/* table.h - which kernel levels exist on this machine and their tables of ops. */
#ifndef LU_KERN_TABLE_H
#define LU_KERN_TABLE_H

#include "base/status.h"
#include "kern/ops.h"

typedef enum lu_level { LU_LEVEL_REF, LU_LEVEL_AVX2, LU_LEVEL_AVX512, LU_N_LEVELS } lu_level;

const char *lu_level_name(lu_level level);

/* True if this CPU and its operating system (XCR0) run the level. avx512 means F BW VL DQ and
   BF16, VBMI and VNNI; finer steps are added as levels when a machine needs them. */
bool lu_level_available(lu_level level);
lu_level lu_level_best(void);

/* name NULL = best. Unknown: E_ARG naming the known levels. Not on this machine: E_UNSUPPORTED. */
lutra_status lu_level_parse(const char *name, lu_level *out, lutra_err *err);

/* Fills every slot with the best kernel at or below the level. The level must be available. */
void lu_ops_fill(lu_ops *ops, lu_level level);

#endif
