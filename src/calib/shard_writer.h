/* shard_writer.h - encodes and copies the tensors of a plan into the work folder, in batches that
   are synced and then recorded in the journal. */
#ifndef LU_CALIB_SHARD_WRITER_H
#define LU_CALIB_SHARD_WRITER_H

#include "base/context.h"
#include "calib/journal.h"
#include "calib/quantize_plan.h"
#include "kern/encode.h"
#include "kern/gpu.h"

typedef struct lu_shard_writer lu_shard_writer;

/* gpu: where tensors are encoded, or NULL. batch_bytes: output after which finished tensors are
   synced and recorded. Everything given must outlive the writer. */
lutra_status lu_writer_open(lutra_ctx *ctx, lu_gpu *gpu, const lu_plan *plan, const char *folder,
                            int64_t batch_bytes, lu_journal *journal, lu_journal_entry *entries,
                            lu_shard_writer **out, lutra_err *err);
void lu_writer_close(lu_shard_writer *w);

/* Drops the entries of shards whose file is missing or has another size. */
lutra_status lu_writer_check(lu_shard_writer *w, lutra_err *err);

/* Writes all tensors that are not done. Reports progress and obeys cancellation. */
lutra_status lu_writer_run(lu_shard_writer *w, lutra_err *err);

#endif
