/* dense.h - dense linear algebra for the methods, float32, row-major. The CPU side runs OpenBLAS
   and LAPACK on one thread per tile of the result; tiles have a fixed size and are shared by the
   context's threads, so that results do not depend on how many there are. OpenBLAS's own threads
   are switched off for the process when the first lu_la is opened.

   With a GPU the functions that return a status do their large work there (dense_gpu.c), in float32
   as well: the same call gives the same bits, which are not the CPU's. */
#ifndef LU_LA_DENSE_H
#define LU_LA_DENSE_H

#include "base/pool.h"

struct lu_gpu;
typedef struct lu_la lu_la;

/* The pool and the GPU (kern/gpu.h; NULL: none) must outlive *out. Not to be called inside a task
   of the pool, nor may the functions below. */
lutra_status lu_la_open(lu_pool *pool, struct lu_gpu *gpu, lu_la **out, lutra_err *err);
void lu_la_close(lu_la *la);
lu_pool *lu_la_pool(const lu_la *la);
double lu_la_factor_seconds(const lu_la *la); /* that lu_la_inverse_factor took so far */

/* c[m][n] = alpha op(a) op(b) + beta c, where op transposes if asked: op(a) is [m][k], op(b) is
   [k][n]. lda, ldb, ldc: floats between rows as stored. With beta 0, c is not read. */
typedef struct lu_la_gemm_args {
    bool transpose_a, transpose_b;
    int64_t m, n, k;
    float alpha;
    const float *a;
    int64_t lda;
    const float *b;
    int64_t ldb;
    float beta;
    float *c;
    int64_t ldc;
} lu_la_gemm_args;
lutra_status lu_la_gemm(lu_la *la, const lu_la_gemm_args *g, lutra_err *err);

/* On a GPU: keeps a copy of a[count] there, instead of the one before, which the functions below
   read where they are given addresses inside a. Until release a must not change. */
lutra_status lu_la_hold(lu_la *la, const float *a, int64_t count, lutra_err *err);
void lu_la_release(lu_la *la);

/* sums[r] = d_r h d_r^T for the rows of d[m][n]; h[n][n], symmetric. */
lutra_status lu_la_norms(lu_la *la, int64_t m, int64_t n, const float *d, const float *h,
                         double *sums, lutra_err *err);
/* The same for d in the memory of the GPU that la was opened with. */
lutra_status lu_la_norms_there(lu_la *la, int64_t m, int64_t n, const float *d, const float *h,
                               double *sums, lutra_err *err);

/* Adds alpha x^T x to c[n][n]: the upper triangle and the tiles on the diagonal; x is [rows][n],
   ldx floats between rows. lu_la_mirror makes c whole. */
void lu_la_add_gram(lu_la *la, int64_t rows, int64_t n, float alpha, const float *x, int64_t ldx,
                    float *c);
/* Copies the upper triangle of c[n][n] to the lower. */
void lu_la_mirror(lu_la *la, int64_t n, float *c);

/* a[n][n], symmetric, of which the lower triangle is read, becomes L in its lower triangle with
   a = L L^T; zeros above. False if a is not positive definite: its lower triangle is then spoilt.
 */
bool lu_la_cholesky(lu_la *la, int64_t n, float *a);

/* The lower triangular l[n][n] without zeros on its diagonal becomes its inverse. */
lutra_status lu_la_invert_lower(lu_la *la, int64_t n, float *l, lutra_err *err);

/* Solves L L^T X = B in place for b[n][m], with L from lu_la_cholesky. */
void lu_la_cholesky_solve(lu_la *la, int64_t n, const float *l, int64_t m, float *b);

/* h[n][n], symmetric positive definite and whole, becomes the upper triangular U with
   U^T U = h^-1, zeros below. *definite is set to false, and h stays as it was, if it is not. In
   place: from the Cholesky factor R of h in reversed order (h = R R^T, R upper), U = R^-1, which is
   better conditioned than factoring the inverse. A GPU holds the result until lu_la_release. */
lutra_status lu_la_inverse_factor(lu_la *la, int64_t n, float *h, bool *definite, lutra_err *err);

/* b[m][n] becomes b U^-1, with U upper triangular: |b U^-1|^2 = b h b^T for the factor above. */
lutra_status lu_la_divide_upper(lu_la *la, int64_t n, const float *u, int64_t m, float *b,
                                lutra_err *err);

#endif
