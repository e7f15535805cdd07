/* dataset.h - calibration samples: token ids of equal length, drawn from a file with a seed. */
#ifndef LU_CALIB_DATASET_H
#define LU_CALIB_DATASET_H

#include "lutra/recipe.h"

typedef struct lu_dataset {
    int32_t *ids; /* [n_samples][length] */
    int64_t n_samples, length;
} lu_dataset;

/* folder: of the model, for its tokenizer. vocab_size: ids are checked against it. Fewer samples than
   asked for are taken where the data has no more (logged); none at all is E_ARG. */
lutra_status lu_dataset_open(lutra_ctx *ctx, const lutra_calibration *c, const char *folder,
                             int64_t vocab_size, lu_dataset *out, lutra_err *err);
void lu_dataset_close(lu_dataset *d);

#endif
