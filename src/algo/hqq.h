/* hqq.h - one step of HQQ's solver, for the pass and its tests. */
#ifndef LU_ALGO_HQQ_H
#define LU_ALGO_HQQ_H

#include <stdint.h>

typedef struct lu_hqq_solver {
    double norm; /* p of the l_p norm, in (0, 1] */
    double beta; /* of this step */
    float scale; /* of the group, > 0 */
    float top;   /* largest code; codes are 0 .. top */
} lu_hqq_solver;

/* Moves the real zero point of a group of n weights; returns the sum of |w - decoded| with the zero
   point as it was. */
double lu_hqq_step(const lu_hqq_solver *s, const float *w, int64_t n, float *zero);

#endif
