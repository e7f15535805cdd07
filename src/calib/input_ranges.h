/* input_ranges.h - the fixed input scales of one layer's linears (activations per tensor), found
   while the calibration rows walk through it. A sample of the rule (algo/act_range.h) is a
   calibration sample; of an expert, what was routed to it from one batch. Columns that a linear
   keeps in fp16 are not rounded and do not count, unless the walk comes before rounding chose them.
 */
#ifndef LU_CALIB_INPUT_RANGES_H
#define LU_CALIB_INPUT_RANGES_H

#include "algo/act_range.h"
#include "calib/block_view.h"

typedef struct lu_input_ranges {
    lu_view *view;
    int64_t length;            /* tokens of a sample */
    double percentile;         /* for that rule */
    lu_act_observer **of;      /* [view->n_linears]; NULL: no fixed scale is wanted */
    float *row;                /* [most columns], for rows with columns left out */
    lu_stage first, end;       /* inputs of these stages are watched: first <= stage < end */
    const lu_view_linear *bad; /* one whose input was not finite */
} lu_input_ranges;

/* Whether a linear of the view wants a fixed scale (lu_site_linear.act). */
bool lu_input_ranges_wanted(const lu_view *v);

/* rule: NULL for minmax; percentile: 0 for 99.99. Close also after a failure. */
lutra_status lu_input_ranges_open(lu_view *v, const char *rule, double percentile, int64_t length,
                                  lu_input_ranges *out, lutra_err *err);
void lu_input_ranges_close(lu_input_ranges *r);

/* A tap (model/forward.h) whose user is the ranges. Each stage is to be watched once. */
void lu_input_ranges_tap(void *user, int64_t layer, const char *site, const float *x, int64_t rows,
                         int64_t cols);

/* Whether the tap looks at this site's rows at all. */
bool lu_input_ranges_sees(const lu_input_ranges *r, const char *site);

/* Sets input_scale and input_zero of the linears' codes. A linear that saw no row (an expert
   without tokens) gets the widest range of the layer. E_FORMAT if an input was not finite. */
lutra_status lu_input_ranges_settle(lu_input_ranges *r, lutra_err *err);

#endif
