/* gptq.h - the GPTQ recursion for one linear, for tests and for passes that end with it. */
#ifndef LU_ALGO_GPTQ_H
#define LU_ALGO_GPTQ_H

#include "algo/pass.h"

struct lu_gptq_settings {
    double damp;
    bool act_order, static_groups, sequential, fallback;
    int64_t block_size, min_rows;
};

/* h [k][k], whole, becomes U with U^T U = the inverse of h, damped, rows and columns in the order of
   the walk, which goes to order[k]. *definite is false, and h spoilt, when no damping helps. */
lutra_status lu_gptq_factor(lu_la *la, float *h, int64_t k, const lu_gptq_settings *s,
                            int32_t *order, bool *definite, lutra_err *err);

/* Rounds l with the factor u [k][k] (lu_la_inverse_factor of the damped Hessian, whose row j
   belongs to column order[j]). Fills l->codes and puts the decoded values into l->w. */
lutra_status lu_gptq_round(lu_block *b, lu_site_linear *l, const float *u, const int32_t *order,
                           const lu_gptq_settings *s, lutra_err *err);

#endif
