/* forecast.h - how much memory a recipe will take, from shapes alone. */
#ifndef LU_CALIB_FORECAST_H
#define LU_CALIB_FORECAST_H

#include "calib/recipe_parts.h"
#include "calib/quantize_plan.h"

/* Bytes at the peak of lu_pipeline_run, about: the largest of its phases for the first layer (all
   layers are alike), one batch, and the activations that are kept in memory. Does not count the
   mapped pages of the input, which the system takes back as it needs. */
lutra_status lu_pipeline_forecast(lutra_ctx *ctx, const lu_plan *plan, const lutra_recipe *recipe,
                                  const lutra_calibration *calibration, int64_t *bytes,
                                  lutra_err *err);

#endif
