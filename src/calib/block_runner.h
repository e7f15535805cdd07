/* block_runner.h - walks the calibration rows through one layer, batch by batch, as often as the
   passes ask; keeps the residual stream between layers. */
#ifndef LU_CALIB_BLOCK_RUNNER_H
#define LU_CALIB_BLOCK_RUNNER_H

#include "calib/walker.h"

typedef struct lu_runner {
    lutra_model *model;
    const lu_dataset *data;
    lu_walker *walker;
    bool recorded[LU_N_PARTS]; /* for the present layer or one before */
    lu_scaled scaled;          /* while weights are on trial */
    char *folder;              /* of spill files */
    int64_t done, total;       /* batches, for progress */
    double seconds; /* that walks took, with what they were tapped for */
    const char *stage;
} lu_runner;

/* total_walks: how many walks there will be, about. On success the stream holds the embeddings of the
   data. E_ARG if samples are longer than the model takes. */
lutra_status lu_runner_open(lutra_model *m, const lu_dataset *data, const lu_walker_options *o,
                            double total_walks, lu_runner *out, lutra_err *err);
void lu_runner_close(lu_runner *r);

/* One walk from..to (model/forward.h) with the weights of the view as they are.
   advance: what the walk makes of the stream is kept, in the place of what was there. */
lutra_status lu_runner_walk(lu_runner *r, lu_view *v, lu_stage from, lu_stage to,
                            lu_watch watch, bool advance, lutra_err *err);

/* Sets the view's record and loss to this runner's. */
void lu_runner_serve(lu_runner *r, lu_view *v);

#endif
