/* allocate.h - one choice for each of many items, with the least loss that a budget allows: the
   multiple-choice knapsack behind mixed precision (items are matrices, choices are formats). */
#ifndef LU_ALGO_ALLOCATE_H
#define LU_ALGO_ALLOCATE_H

#include "base/status.h"

typedef struct lu_choice {
    int64_t cost; /* >= 0 */
    double loss;  /* >= 0; INFINITY: not to be chosen */
} lu_choice;

/* choices[n][k]. Writes the choice of each item to picked[n]: the sum of losses is as small as the
   sum of costs <= budget allows. Exact when the budget is at most LU_ALLOCATE_UNITS times the
   greatest common divisor of all costs; otherwise costs are rounded up to so many units and the
   better of that optimum and the Lagrangian's is taken, both topped up with what is left. E_ARG if
   even the cheapest choices cost more than the budget, or an item has none. */
#define LU_ALLOCATE_UNITS 20000
lutra_status lu_allocate(const lu_choice *choices, int64_t n, int k, int64_t budget, int *picked,
                         lutra_err *err);

#endif
