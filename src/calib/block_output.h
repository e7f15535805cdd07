/* block_output.h - one layer's tensors to their places in the output shards, and back when a run is
   resumed. Data is synced before the journal says that it is there. */
#ifndef LU_CALIB_BLOCK_OUTPUT_H
#define LU_CALIB_BLOCK_OUTPUT_H

#include "calib/block_view.h"
#include "calib/journal.h"
#include "calib/quantize_plan.h"

typedef struct lu_output {
    const lu_plan *plan;
    const char *folder;
    lu_journal *journal;
    lu_journal_entry *entries; /* [plan->n_tensors] */
    int64_t *by_name;          /* [plan->n_tensors] tensors sorted by name */
    int *fds;                  /* [plan->n_shards] open shards, or -1 */
    bool *touched;             /* [plan->n_shards] written to since the last sync */
} lu_output;

/* Everything given must outlive it. Close also after a failure. */
lutra_status lu_output_open(const lu_plan *plan, const char *folder, lu_journal *journal,
                            lu_journal_entry *entries, lu_output *out, lutra_err *err);
void lu_output_close(lu_output *o);

/* The plan's tensor of this name, or -1. */
int64_t lu_output_find(const lu_output *o, const char *name);
/* How the plan encodes the weight of this module; NULL: not. */
const lu_scheme *lu_output_scheme(const lu_output *o, const char *module);

/* Whether all tensors of the layer are on disk. */
bool lu_output_has(const lu_output *o, const lu_view *v);
/* Rounds what the plan does not encode (norms, biases, kept linears) to the type it is stored in, so
   that the layer runs with what a reader will see. */
lutra_status lu_output_settle(const lu_output *o, lu_view *v, lutra_err *err);
/* errors: [v->n_linears] relative output errors for the journal. */
lutra_status lu_output_write(lu_output *o, const lu_view *v, const double *errors, lutra_err *err);
/* Fills weights and vectors of the view with what was written. */
lutra_status lu_output_read(lu_output *o, lu_view *v, lutra_err *err);

#endif
