/* kmeans1d.h - weighted k-means of numbers on a line, exactly. */
#ifndef LU_ALGO_KMEANS1D_H
#define LU_ALGO_KMEANS1D_H

#include "base/status.h"

/* Points x[n] ascending with masses m[n] > 0, n >= 1. Writes the k centroids, ascending, that
   minimise sum m (x - nearest centroid)^2, and that minimum to *cost (may be NULL). With fewer
   points than centroids the last centroid repeats. Dynamic programming over the last cluster's first
   point, which moves one way (Wang and Song 2011; Grønlund et al. 2017): O(k n log n) time, k n
   int32 of memory. */
lutra_status lu_kmeans1d(const double *x, const double *m, int32_t n, int k, double *centroids,
                         double *cost, lutra_err *err);

#endif
