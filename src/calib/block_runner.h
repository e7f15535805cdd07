/* block_runner.h - walks the calibration rows through one layer, batch by batch, as often as the
   passes ask; keeps the residual stream between layers. */
#ifndef LU_CALIB_BLOCK_RUNNER_H
#define LU_CALIB_BLOCK_RUNNER_H

#include "calib/activation_store.h"
#include "calib/block_view.h"
#include "calib/dataset.h"

typedef struct lu_runner {
    lutra_model *model;
    lu_forward *forward;
    const lu_dataset *data;
    int64_t per_batch;    /* samples of a batch */
    lu_kv *kvs;           /* [per_batch] of one layer */
    lu_segment *segments; /* [per_batch] */
    float *x;             /* [per_batch * length][hidden] */
    lu_store stream;      /* the residual stream where the present layer begins */
    lu_store middle;      /* before the MLP, for losses of that part */
    lu_store recorded[LU_N_PARTS];
    int64_t budget; /* bytes of memory each store may take */
    char *folder;   /* of spill files */
    int64_t done, total; /* batches, for progress */
    const char *stage;
} lu_runner;

/* memory: bytes for the stores in all. total_walks: how many walks there will be, about. On success
   the stream holds the embeddings of the data. */
lutra_status lu_runner_open(lutra_model *m, const lu_dataset *data, int64_t memory,
                            const char *folder, double total_walks, lu_runner *out, lutra_err *err);
void lu_runner_close(lu_runner *r);

/* One walk from..to (model/forward.h) with the weights of the view as they are. tap may be NULL.
   advance: what the walk makes of the stream is kept, in the place of what was there. */
lutra_status lu_runner_walk(lu_runner *r, lu_view *v, lu_stage from, lu_stage to, lu_tap tap,
                            void *user, bool advance, lutra_err *err);

/* Sets the view's record and loss to this runner's. */
void lu_runner_serve(lu_runner *r, lu_view *v);

#endif
