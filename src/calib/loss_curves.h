/* loss_curves.h - which format each module gets under a budget of bits: measures what every
   candidate costs a module and loses of it, and lets algo/allocate.h choose. */
#ifndef LU_CALIB_LOSS_CURVES_H
#define LU_CALIB_LOSS_CURVES_H

#include "base/context.h"
#include "calib/quantize_plan.h"

/* The loss of a module in a format is the noise over the signal of its weights, |w - decoded|^2 /
   |w|^2, on up to LU_CURVE_WEIGHTS of them (rows at equal distances), times the number of its
   weights: every weight counts alike, relative to its matrix. Measured: without that factor small
   matrices take bits from large ones, and perplexity is above that of one format for all.

   With calibration data the loss of linears of the decoder blocks is what their outputs on it lose
   (calib/output_losses.h), and that of other modules the noise over the signal alone. */
#define LU_CURVE_WEIGHTS (1 << 18)

/* Rules of exact names for o->avg_bits among o->candidates; modules that a rule of o's already
   names keep that format, and count. *rules and their patterns are to be freed with
   lu_format_rules_free. folder: for activations that do not fit in memory. E_ARG if even the
   smallest candidates take more bits. */
lutra_status lu_allocate_formats(lutra_ctx *ctx, lutra_checkpoint *c,
                                 const lutra_quantize_options *o, const char *folder,
                                 lutra_format_rule **rules, int *n_rules, lutra_err *err);
void lu_format_rules_free(lutra_format_rule *rules, int n);

#endif
