/* kmeans1d.c - see kmeans1d.h. best[j][i] = the least cost of points 0..i in j + 1 clusters
   = min over s of best[j-1][s-1] + cost(s..i), with cost from running sums of 1, x, x^2. */
#include "algo/kmeans1d.h"

#include "base/mem.h"

typedef struct {
    const double *mass, *first, *second; /* [n + 1] sums of m, m x, m x^2 over the points before */
    const double *before;                /* [n] best with a cluster less */
    double *now;                         /* [n] */
    int32_t *start;                      /* [n] first point of the last cluster */
} layer;

/* Points s..i, both included, around their mean. */
static double cluster_cost(const layer *l, int32_t s, int32_t i)
{
    const double m = l->mass[i + 1] - l->mass[s], a = l->first[i + 1] - l->first[s];
    const double c = l->second[i + 1] - l->second[s] - a * a / m;
    return c > 0 ? c : 0;
}

/* now[i] for i in [lo, hi], whose clusters start in [s_lo, s_hi]: the middle one first, as its
   start bounds the others. */
static void fill(const layer *l, int32_t lo, int32_t hi, int32_t s_lo, int32_t s_hi)
{
    if (lo > hi)
        return;
    const int32_t mid = lo + (hi - lo) / 2, end = mid < s_hi ? mid : s_hi;
    int32_t best = s_lo;
    double least = -1;
    for (int32_t s = s_lo; s <= end; s++) {
        const double c = (s > 0 ? l->before[s - 1] : 0) + cluster_cost(l, s, mid);
        if (least < 0 || c < least) {
            least = c;
            best = s;
        }
    }
    l->now[mid] = least;
    l->start[mid] = best;
    fill(l, lo, mid - 1, s_lo, best);
    fill(l, mid + 1, hi, best, s_hi);
}

static void sum_up(const double *x, const double *m, int32_t n, double *mass, double *first,
                   double *second)
{
    mass[0] = first[0] = second[0] = 0;
    for (int32_t i = 0; i < n; i++) {
        mass[i + 1] = mass[i] + m[i];
        first[i + 1] = first[i] + m[i] * x[i];
        second[i + 1] = second[i] + m[i] * x[i] * x[i];
    }
}

lutra_status lu_kmeans1d(const double *x, const double *m, int32_t n, int k, double *centroids,
                         double *cost, lutra_err *err)
{
    const size_t points = (size_t)n;
    const int clusters = k < n ? k : n;
    double *sums = lu_array(5 * (points + 1), sizeof *sums);
    int32_t *starts = lu_array((size_t)clusters, points * sizeof *starts);
    if (sums && starts) {
        double *mass = sums, *first = mass + n + 1, *second = first + n + 1;
        double *before = second + n + 1, *now = before + n + 1;
        sum_up(x, m, n, mass, first, second);
        layer l = {.mass = mass, .first = first, .second = second};
        for (int j = 0; j < clusters; j++) {
            l.before = before;
            l.now = now;
            l.start = starts + (size_t)j * points;
            for (int32_t i = 0; j == 0 && i < n; i++) {
                now[i] = cluster_cost(&l, 0, i);
                l.start[i] = 0;
            }
            if (j > 0) /* each cluster before holds a point: the last starts at j or later */
                fill(&l, j, n - 1, j, n - 1);
            double *held = before;
            before = now;
            now = held;
        }
        if (cost)
            *cost = before[n - 1];
        for (int32_t j = clusters - 1, end = n - 1; j >= 0; j--) {
            const int32_t s = starts[(size_t)j * points + (size_t)end];
            centroids[j] = (first[end + 1] - first[s]) / (mass[end + 1] - mass[s]);
            end = s - 1;
        }
        for (int j = 1; j < k; j++) /* equal points in two clusters: rounding is not to part them */
            if (j >= clusters || centroids[j] < centroids[j - 1])
                centroids[j] = centroids[j - 1];
    }
    lu_free(sums);
    lu_free(starts);
    return sums && starts ? LUTRA_OK
                          : lu_fail_nomem(err, (size_t)clusters * points * sizeof *starts);
}
