/* dense_cpu.c - dense.h over OpenBLAS and LAPACK, and what of it goes to a GPU. The blocked
   factorisations are written here, as loops over tiles, because OpenBLAS's own change their order
   of summation with the number of threads. In row-major order a lower triangle is what LAPACK calls
   an upper one. */
#include <cblas.h>
#include <lapacke.h>
#include <string.h>

#include "base/context.h"
#include "base/mem.h"
#include "la/dense.h"
#include "la/dense_gpu.h"

#define TILE 256  /* rows and columns of a tile of the result */
#define PANEL 128 /* columns that a factorisation takes at a time */

struct lu_la {
    lu_pool *pool;
    lu_la_gpu gpu; /* .gpu is NULL: none */
    double factor_seconds;
};

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t tiles_of(int64_t n) { return (n + TILE - 1) / TILE; }

lutra_status lu_la_open(lu_pool *pool, lu_gpu *gpu, lu_la **out, lutra_err *err)
{
    lu_la *la = lu_calloc(1, sizeof *la);
    if (!la)
        return lu_fail_nomem(err, sizeof *la);
    la->pool = pool;
    la->gpu.gpu = gpu;
    openblas_set_num_threads(1);
    const lutra_status status = gpu ? lu_la_gpu_open(&la->gpu, err) : LUTRA_OK;
    if (status == LUTRA_OK)
        *out = la;
    else
        lu_la_close(la);
    return status;
}

void lu_la_close(lu_la *la)
{
    if (la && la->gpu.gpu)
        lu_la_gpu_close(&la->gpu);
    lu_free(la);
}

lu_la_gpu *lu_la_gpu_of(lu_la *la) { return la->gpu.gpu ? &la->gpu : NULL; }

lutra_status lu_la_hold(lu_la *la, const float *a, int64_t count, lutra_err *err)
{
    return la->gpu.gpu ? lu_la_gpu_hold(&la->gpu, a, count, err) : LUTRA_OK;
}

void lu_la_release(lu_la *la)
{
    if (la->gpu.gpu)
        lu_la_gpu_release(&la->gpu);
}

lu_pool *lu_la_pool(const lu_la *la) { return la->pool; }
double lu_la_factor_seconds(const lu_la *la) { return la->factor_seconds; }

/* ---- products ------------------------------------------------------------------------------- */

static void gemm_tile(const lu_la_gemm_args *g, int64_t i, int64_t j, int64_t m, int64_t n)
{
    cblas_sgemm(CblasRowMajor, g->transpose_a ? CblasTrans : CblasNoTrans,
                g->transpose_b ? CblasTrans : CblasNoTrans, (blasint)m, (blasint)n, (blasint)g->k,
                g->alpha, g->transpose_a ? g->a + i : g->a + i * g->lda, (blasint)g->lda,
                g->transpose_b ? g->b + j * g->ldb : g->b + j, (blasint)g->ldb, g->beta,
                g->c + i * g->ldc + j, (blasint)g->ldc);
}

static void gemm_tiles(void *arg, int64_t begin, int64_t end, int worker)
{
    const lu_la_gemm_args *g = arg;
    const int64_t across = tiles_of(g->n);
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        const int64_t i = t / across * TILE, j = t % across * TILE;
        gemm_tile(g, i, j, smaller(TILE, g->m - i), smaller(TILE, g->n - j));
    }
}

/* Rows without gaps, or of what is held: strips of wide matrices cost more to bring than to
 * multiply. */
static bool is_compact(const lu_la *la, const float *p, int64_t ld, int64_t cols)
{
    return ld == cols || lu_la_gpu_find(&la->gpu, p);
}

lutra_status lu_la_gemm(lu_la *la, const lu_la_gemm_args *g, lutra_err *err)
{
    if (la->gpu.gpu && lu_la_gpu_pays(&la->gpu, g->m, g->n, g->k) && g->ldc == g->n &&
        is_compact(la, g->a, g->lda, g->transpose_a ? g->m : g->k) &&
        is_compact(la, g->b, g->ldb, g->transpose_b ? g->k : g->n))
        return lu_la_gpu_gemm(&la->gpu, g, err);
    lu_pool_for(la->pool, tiles_of(g->m) * tiles_of(g->n), 1, gemm_tiles, (void *)g);
    return LUTRA_OK;
}

typedef struct {
    const float *a, *b;
    int64_t cols;
    double *sums;
} dot_job;

static void dot_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const dot_job *j = arg;
    (void)worker;
    for (int64_t r = begin; r < end; r++) {
        double sum = 0;
        for (int64_t c = r * j->cols; c < (r + 1) * j->cols; c++)
            sum += (double)j->a[c] * (double)j->b[c];
        j->sums[r] = sum;
    }
}

lutra_status lu_la_norms(lu_la *la, int64_t m, int64_t n, const float *d, const float *h,
                         double *sums, lutra_err *err)
{
    if (la->gpu.gpu && lu_la_gpu_pays(&la->gpu, m, n, n))
        return lu_la_gpu_norms(&la->gpu, m, n, d, false, h, sums, err);
    float *product = lu_array((size_t)m, (size_t)n * sizeof *product);
    if (!product)
        return lu_fail_nomem(err, (size_t)m * (size_t)n * sizeof *product);
    const lutra_status status = lu_la_gemm(la,
                                           &(lu_la_gemm_args){.m = m,
                                                              .n = n,
                                                              .k = n,
                                                              .alpha = 1,
                                                              .a = d,
                                                              .lda = n,
                                                              .b = h,
                                                              .ldb = n,
                                                              .c = product,
                                                              .ldc = n},
                                           err);
    dot_job job = {product, d, n, sums};
    if (status == LUTRA_OK)
        lu_pool_for(la->pool, m, 16, dot_rows, &job);
    lu_free(product);
    return status;
}

lutra_status lu_la_norms_there(lu_la *la, int64_t m, int64_t n, const float *d, const float *h,
                               double *sums, lutra_err *err)
{
    return lu_la_gpu_norms(&la->gpu, m, n, d, true, h, sums, err);
}

/* Tiles (i, j) with i <= j, in the order of rows. */
static void upper_tile(int64_t t, int64_t across, int64_t *i, int64_t *j)
{
    *i = 0;
    for (int64_t left = across; t >= left; left--) {
        t -= left;
        ++*i;
    }
    *j = *i + t;
}

static void gram_tiles(void *arg, int64_t begin, int64_t end, int worker)
{
    const lu_la_gemm_args *g = arg;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        int64_t i, j;
        upper_tile(t, tiles_of(g->n), &i, &j);
        gemm_tile(g, i * TILE, j * TILE, smaller(TILE, g->n - i * TILE),
                  smaller(TILE, g->n - j * TILE));
    }
}

void lu_la_add_gram(lu_la *la, int64_t rows, int64_t n, float alpha, const float *x, int64_t ldx,
                    float *c)
{
    lu_la_gemm_args g = {.transpose_a = true, .m = n, .n = n, .k = rows, .alpha = alpha, .a = x};
    g.lda = ldx;
    g.b = x;
    g.ldb = ldx;
    g.beta = 1;
    g.c = c;
    g.ldc = n;
    lu_pool_for(la->pool, tiles_of(n) * (tiles_of(n) + 1) / 2, 1, gram_tiles, &g);
}

typedef struct {
    int64_t n;
    float *a;
    bool to_zero; /* the upper triangle becomes zero, else the lower a copy of it */
} triangle_job;

static void triangle_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const triangle_job *job = arg;
    const int64_t n = job->n;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        if (job->to_zero)
            memset(job->a + i * n + i + 1, 0, (size_t)(n - i - 1) * sizeof(float));
        else
            for (int64_t j = 0; j < i; j++)
                job->a[i * n + j] = job->a[j * n + i];
    }
}

void lu_la_mirror(lu_la *la, int64_t n, float *c)
{
    triangle_job job = {.n = n, .a = c};
    lu_pool_for(la->pool, n, 64, triangle_rows, &job);
}

/* ---- Cholesky ------------------------------------------------------------------------------- */

typedef struct {
    int64_t n, at, width; /* the panel: columns [at, at + width) */
    float *a;
    float *temp; /* invert: [PANEL][n] */
} panel_job;

/* Rows below the panel's diagonal block: a21 = a21 L11^-T. Indices are tiles of rows. */
static void panel_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const panel_job *p = arg;
    const float *diagonal = p->a + p->at * p->n + p->at;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        const int64_t i = p->at + p->width + t * TILE;
        cblas_strsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit,
                    (blasint)smaller(TILE, p->n - i), (blasint)p->width, 1, diagonal, (blasint)p->n,
                    p->a + i * p->n + p->at, (blasint)p->n);
    }
}

/* a22 -= a21 a21^T, tiles of the lower triangle. */
static void trailing_tiles(void *arg, int64_t begin, int64_t end, int worker)
{
    const panel_job *p = arg;
    const int64_t first = p->at + p->width, across = tiles_of(p->n - first);
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        int64_t i, j; /* an upper tile, read the other way round */
        upper_tile(t, across, &j, &i);
        i = first + i * TILE;
        j = first + j * TILE;
        const blasint rows = (blasint)smaller(TILE, p->n - i), n = (blasint)p->n;
        const float *ai = p->a + i * p->n + p->at, *aj = p->a + j * p->n + p->at;
        float *c = p->a + i * p->n + j;
        if (i == j) /* the upper triangle stays as it is */
            cblas_ssyrk(CblasRowMajor, CblasLower, CblasNoTrans, rows, (blasint)p->width, -1, ai, n,
                        1, c, n);
        else
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows,
                        (blasint)smaller(TILE, p->n - j), (blasint)p->width, -1, ai, n, aj, n, 1, c,
                        n);
    }
}

bool lu_la_cholesky(lu_la *la, int64_t n, float *a)
{
    panel_job p = {.n = n, .a = a};
    for (p.at = 0; p.at < n; p.at += p.width) {
        p.width = smaller(PANEL, n - p.at);
        if (LAPACKE_spotrf_work(LAPACK_COL_MAJOR, 'U', (lapack_int)p.width, a + p.at * n + p.at,
                                (lapack_int)n) != 0)
            return false;
        const int64_t below = tiles_of(n - p.at - p.width);
        lu_pool_for(la->pool, below, 1, panel_rows, &p);
        lu_pool_for(la->pool, below * (below + 1) / 2, 1, trailing_tiles, &p);
    }
    for (int64_t i = 0; i < n; i++) /* NaN passes LAPACK's test */
        if (!(a[i * n + i] > 0))
            return false;
    triangle_job job = {.n = n, .a = a, .to_zero = true};
    lu_pool_for(la->pool, n, 64, triangle_rows, &job);
    return true;
}

/* Block row i of X = L^-1: X_ij = -X_ii sum over k in [j, i) of L_ik X_kj. First the sums, into
   temp; X_kj of the rows above are done. Indices are panels j. */
static void inverse_sums(void *arg, int64_t begin, int64_t end, int worker)
{
    const panel_job *p = arg;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        const int64_t j = t * PANEL;
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)p->width, PANEL,
                    (blasint)(p->at - j), -1, p->a + p->at * p->n + j, (blasint)p->n,
                    p->a + j * p->n + j, (blasint)p->n, 0, p->temp + j, (blasint)p->n);
    }
}

static void inverse_scale(void *arg, int64_t begin, int64_t end, int worker)
{
    const panel_job *p = arg;
    float *row = p->a + p->at * p->n;
    (void)worker;
    for (int64_t t = begin; t < end; t++)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)p->width, PANEL,
                    (blasint)p->width, 1, row + p->at, (blasint)p->n, p->temp + t * PANEL,
                    (blasint)p->n, 0, row + t * PANEL, (blasint)p->n);
}

lutra_status lu_la_invert_lower(lu_la *la, int64_t n, float *l, lutra_err *err)
{
    panel_job p = {.n = n, .a = l, .temp = lu_array((size_t)n, PANEL * sizeof(float))};
    if (!p.temp)
        return lu_fail_nomem(err, (size_t)n * PANEL * sizeof(float));
    for (p.at = 0; p.at < n; p.at += p.width) {
        p.width = smaller(PANEL, n - p.at);
        LAPACKE_strtri_work(LAPACK_COL_MAJOR, 'U', 'N', (lapack_int)p.width, l + p.at * n + p.at,
                            (lapack_int)n);
        lu_pool_for(la->pool, p.at / PANEL, 1, inverse_sums, &p);
        lu_pool_for(la->pool, p.at / PANEL, 1, inverse_scale, &p);
    }
    lu_free(p.temp);
    return LUTRA_OK;
}

typedef struct {
    int64_t n, m;
    const float *l;
    float *b;
} solve_job;

static void solve_columns(void *arg, int64_t begin, int64_t end, int worker)
{
    const solve_job *s = arg;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        const int64_t j = t * TILE;
        const blasint width = (blasint)smaller(TILE, s->m - j);
        cblas_strsm(CblasRowMajor, CblasLeft, CblasLower, CblasNoTrans, CblasNonUnit, (blasint)s->n,
                    width, 1, s->l, (blasint)s->n, s->b + j, (blasint)s->m);
        cblas_strsm(CblasRowMajor, CblasLeft, CblasLower, CblasTrans, CblasNonUnit, (blasint)s->n,
                    width, 1, s->l, (blasint)s->n, s->b + j, (blasint)s->m);
    }
}

void lu_la_cholesky_solve(lu_la *la, int64_t n, const float *l, int64_t m, float *b)
{
    solve_job s = {.n = n, .m = m, .l = l, .b = b};
    lu_pool_for(la->pool, tiles_of(m), 1, solve_columns, &s);
}

/* ---- the factor that GPTQ walks along ---------------------------------------------------------
 */

typedef struct {
    float *a;
    int64_t count; /* elements */
} reverse_job;

static void reverse_part(void *arg, int64_t begin, int64_t end, int worker)
{
    const reverse_job *r = arg;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        const float t = r->a[i];
        r->a[i] = r->a[r->count - 1 - i];
        r->a[r->count - 1 - i] = t;
    }
}

static void reverse(lu_la *la, int64_t n, float *h)
{
    /* reversing the rows and columns of a dense matrix is reversing its elements */
    reverse_job r = {.a = h, .count = n * n};
    lu_pool_for(la->pool, r.count / 2, 65536, reverse_part, &r);
}

static lutra_status inverse_factor(lu_la *la, int64_t n, float *h, bool *definite, lutra_err *err)
{
    float *diagonal = lu_array((size_t)n, sizeof *diagonal);
    if (!diagonal)
        return lu_fail_nomem(err, (size_t)n * sizeof *diagonal);
    reverse(la, n, h);
    for (int64_t i = 0; i < n; i++)
        diagonal[i] = h[i * n + i];
    *definite = lu_la_cholesky(la, n, h);
    lutra_status status = LUTRA_OK;
    if (*definite) {
        status = lu_la_invert_lower(la, n, h, err);
    } else { /* the upper triangle was not touched */
        for (int64_t i = 0; i < n; i++)
            h[i * n + i] = diagonal[i];
        lu_la_mirror(la, n, h);
    }
    lu_free(diagonal);
    reverse(la, n, h);
    return status;
}

lutra_status lu_la_inverse_factor(lu_la *la, int64_t n, float *h, bool *definite, lutra_err *err)
{
    const double start = lu_seconds();
    const bool on_gpu = la->gpu.gpu && lu_la_gpu_pays(&la->gpu, n, n, n);
    const lutra_status status = on_gpu ? lu_la_gpu_inverse_factor(&la->gpu, n, h, definite, err)
                                       : inverse_factor(la, n, h, definite, err);
    la->factor_seconds += lu_seconds() - start;
    return status;
}

typedef struct {
    int64_t n, m;
    const float *u;
    float *b;
} right_job;

static void right_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const right_job *r = arg;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        const int64_t i = t * TILE;
        cblas_strsm(CblasRowMajor, CblasRight, CblasUpper, CblasNoTrans, CblasNonUnit,
                    (blasint)smaller(TILE, r->m - i), (blasint)r->n, 1, r->u, (blasint)r->n,
                    r->b + i * r->n, (blasint)r->n);
    }
}

lutra_status lu_la_divide_upper(lu_la *la, int64_t n, const float *u, int64_t m, float *b,
                                lutra_err *err)
{
    if (la->gpu.gpu && lu_la_gpu_find(&la->gpu, u) && lu_la_gpu_pays(&la->gpu, m, n, n))
        return lu_la_gpu_divide_upper(&la->gpu, n, u, m, b, err);
    right_job r = {.n = n, .m = m, .u = u, .b = b};
    lu_pool_for(la->pool, tiles_of(m), 1, right_rows, &r);
    return LUTRA_OK;
}
