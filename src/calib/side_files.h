/* side_files.h - the files of a checkpoint beside its shards: config.json, the index, and what is
   copied as it is. */
#ifndef LU_CALIB_SIDE_FILES_H
#define LU_CALIB_SIDE_FILES_H

#include "calib/quantize_plan.h"

/* Writes them to `folder`, synced. */
lutra_status lu_side_files_write(const lu_plan *p, const char *folder, lutra_err *err);

/* Bytes that they will take, about. */
lutra_status lu_side_files_bytes(const lu_plan *p, uint64_t *out, lutra_err *err);

#endif
