/* quantize.h - lutra_quantize_checkpoint with the step of its journal as an argument, for tests. */
#ifndef LU_CALIB_QUANTIZE_H
#define LU_CALIB_QUANTIZE_H

#include "lutra/quant.h"

/* batch_bytes: output after which finished tensors are synced and recorded. */
lutra_status lu_quantize_in_batches(lutra_ctx *ctx, const char *in, const char *out,
                                    const lutra_quantize_options *o, int64_t batch_bytes,
                                    lutra_quantize_report *report, lutra_err *err);

#endif
