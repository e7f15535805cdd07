/* forecast.h - how much memory a recipe will take, from shapes alone. */
#ifndef LU_CALIB_FORECAST_H
#define LU_CALIB_FORECAST_H

#include "calib/recipe_parts.h"
#include "calib/quantize_plan.h"

/* Of host: the program, its threads, the vocabulary and names. */
#define LU_FORECAST_PROCESS ((int64_t)32 << 20)

/* Bytes at the peak of lu_pipeline_run, about: the largest of its phases for the first layer (all
   layers are alike), one batch, and the activations that are kept in memory. host does not count the
   mapped pages of the input, which the system takes back as it needs. gpu: 0 on the CPU; with the
   activations, which stay there if all of it fits. gpu_reserve: the part of gpu that is neither the
   walk's own memory nor activations. */
typedef struct lu_forecast {
    int64_t host, gpu, gpu_reserve;
} lu_forecast;

lutra_status lu_pipeline_forecast(lutra_ctx *ctx, const lu_plan *plan, const lutra_recipe *recipe,
                                  const lutra_calibration *calibration, bool on_gpu,
                                  lu_forecast *out, lutra_err *err);

#endif
