/* output_losses.h - how much a model would lose with one linear or another in other formats,
   measured on calibration text; nothing is written. */
#ifndef LU_CALIB_OUTPUT_LOSSES_H
#define LU_CALIB_OUTPUT_LOSSES_H

#include "lutra/quant.h"
#include "lutra/recipe.h"

typedef struct lu_output_losses {
    lutra_ctx *ctx;
    const char *model; /* its folder */
    const lutra_calibration *calibration;
    const char *folder; /* for activations that are more than calibration->memory */
    const lutra_format *formats;
    int n_formats;
    lutra_range range;
    /* Whether the linear `module` is to be measured, and its loss in formats[at]. */
    bool (*wants)(void *user, const char *module);
    void (*note)(void *user, const char *module, int at, double loss);
    void *user;
} lu_output_losses;

/* For each wanted linear of the blocks and each format whose groups divide its columns, the loss is

       e(format) / e(coarsest) * E

   e      mean |x d^T|^2, d = w - w rounded to nearest, over all rows x of its input
   E      with this linear alone in the coarsest format, the relative squared error of the branch
          (attention, feed-forward) that it is part of, times the share of the branch in the energy
   of the residual stream behind it

   so that losses of all linears are in one unit: relative squared errors of the stream. e alone is
   not: it says nothing of what becomes of the output. An expert that saw no row loses nothing. The
   rows are those of the model as it is. Memory: one block's Hessians, activations, one linear. */
lutra_status lu_measure_outputs(const lu_output_losses *m, lutra_err *err);

#endif
