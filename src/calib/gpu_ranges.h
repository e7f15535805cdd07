/* gpu_ranges.h - the search of clipped ranges on a GPU (lu_range_search of algo/pass.h). */
#ifndef LU_CALIB_GPU_RANGES_H
#define LU_CALIB_GPU_RANGES_H

#include "calib/block_view.h"
#include "kern/gpu.h"

/* *possible is false where a linear has several tables, or the rows of a piece do not fit. A
   Hessian that la holds (lu_la_hold) is not brought again for the losses. */
lutra_status lu_gpu_ranges_search(lu_gpu *gpu, lu_block *b, lu_range_search *s, bool *possible,
                                  lutra_err *err);

/* Bytes that it takes for n rows of k columns, groups of `size`, but for the Hessian. */
int64_t lu_gpu_ranges_bytes(int64_t n, int64_t k, int64_t size);

#endif
