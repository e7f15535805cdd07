/* tensor_tables.h - learned tables of whole tensors of a plan, all threads on one list. */
#ifndef LU_CALIB_TENSOR_TABLES_H
#define LU_CALIB_TENSOR_TABLES_H

#include "base/context.h"
#include "calib/quantize_plan.h"
#include "kern/table.h"

/* Learns the tables of tensors [begin, end) of the plan whose format is learned: tables[i] becomes
   [lu_format_tables][2^bits] (lu_free) for those, NULL for others. */
lutra_status lu_tensor_tables_learn(lutra_ctx *ctx, const lu_plan *plan, int64_t begin, int64_t end,
                                    lu_level level, float **tables, lutra_err *err);

#endif
