/* dense_gpu.c - see dense_gpu.h. The factorisations go through panels of LU_CUDA_PANEL columns: a
   kernel does the panel's diagonal block and inverts it, so that all else, the panel below it
   included, is matrix products (the inverse of a block of 128 costs no accuracy that matters:
   Du Croz and Higham 1992, "Stability of methods for matrix inversion"). */
#include "la/dense_gpu.h"

#include <inttypes.h>

#define P LU_CUDA_PANEL
#define STRIP 2048      /* columns updated at a time: less of the wrong triangle is computed */
#define PIECE ((int64_t)64 << 20)
#define HALF_STRIP 4096 /* the same for a few hundred rows times a symmetric matrix */
#define LONG_STRIP 8192 /* the same where only P rows are computed */

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t blocks_of(int64_t n) { return (n + P - 1) / P; }

/* ---- memory -----------------------------------------------------------------------------------
 */

static lutra_status take(lu_la_gpu *g, int64_t count, const char *what, float **out, lutra_err *err)
{
    lu_gpu *gpu = g->gpu;
    const size_t bytes = (size_t)count * sizeof **out;
    size_t there;
    LU_GPU_TRY(gpu, gpu->api->free_memory(gpu, &there), "asking for its memory", err);
    if (bytes > there)
        return lu_fail(err, LUTRA_E_NOMEM,
                       "%s:%d (%s): %s needs %.2f GB, %.2f GB are free: take a larger GPU, or the "
                       "CPU",
                       gpu->api->name, gpu->ordinal, gpu->info.name, what, (double)bytes / 1e9,
                       (double)there / 1e9);
    LU_GPU_TRY(gpu, gpu->api->take(gpu, bytes, (void **)out), what, err);
    return LUTRA_OK;
}

lutra_status lu_la_gpu_room(lu_la_gpu *g, int64_t count, const char *what, float **out,
                            lutra_err *err)
{
    const size_t bytes = (size_t)count * sizeof **out;
    if (bytes > g->bytes) {
        g->gpu->api->give(g->gpu, g->buffer);
        g->buffer = NULL;
        g->bytes = 0;
        LU_TRY(take(g, count, what, &g->buffer, err));
        g->bytes = bytes;
    }
    *out = g->buffer;
    return LUTRA_OK;
}

void lu_la_gpu_release(lu_la_gpu *g)
{
    g->gpu->api->give(g->gpu, g->held);
    g->gpu->api->give(g->gpu, g->inverses);
    g->held = g->inverses = NULL;
    g->key = NULL;
    g->count = 0;
}

lutra_status lu_la_gpu_open(lu_la_gpu *g, lutra_err *err)
{
    g->piece = PIECE;
    LU_GPU_TRY(g->gpu, g->gpu->api->mark_open(g->gpu, &g->mark), "opening", err);
    return LUTRA_OK;
}

void lu_la_gpu_close(lu_la_gpu *g)
{
    lu_la_gpu_release(g);
    g->gpu->api->give(g->gpu, g->buffer);
    g->gpu->api->mark_close(g->gpu, g->mark);
}

lutra_status lu_la_gpu_hold(lu_la_gpu *g, const float *a, int64_t count, lutra_err *err)
{
    lu_gpu *gpu = g->gpu;
    lu_la_gpu_release(g);
    LU_TRY(take(g, count, "a matrix", &g->held, err));
    LU_GPU_TRY(gpu, gpu->api->upload(gpu, g->held, a, (size_t)count * sizeof *a), "a matrix", err);
    g->key = a;
    g->count = count;
    return LUTRA_OK;
}

const float *lu_la_gpu_find(const lu_la_gpu *g, const float *p)
{
    return g->key && p >= g->key && p < g->key + g->count ? g->held + (p - g->key) : NULL;
}

bool lu_la_gpu_pays(const lu_la_gpu *g, int64_t m, int64_t n, int64_t k)
{
    return (double)m * (double)n * (double)k >= (double)g->gpu->worth;
}

/* ---- products ---------------------------------------------------------------------------------
 */

lutra_status lu_la_gpu_multiply(lu_la_gpu *g, const lu_la_gemm_args *a, lutra_err *err)
{
    const lu_gpu_gemm call = {.transpose_a = a->transpose_a,
                              .transpose_b = a->transpose_b,
                              .of_float = true,
                              .m = a->m,
                              .n = a->n,
                              .k = a->k,
                              .alpha = a->alpha,
                              .beta = a->beta,
                              .a = a->a,
                              .lda = a->lda,
                              .b = a->b,
                              .ldb = a->ldb,
                              .c = a->c,
                              .ldc = a->ldc};
    LU_GPU_TRY(g->gpu, g->gpu->api->gemm(g->gpu, &call), "a product", err);
    return LUTRA_OK;
}

/* What is not held comes whole, with what lies between its rows. */
static lutra_status bring(lu_la_gpu *g, const float *host, int64_t count, float **room,
                          const float **out, lutra_err *err)
{
    *out = lu_la_gpu_find(g, host);
    if (*out)
        return LUTRA_OK;
    LU_GPU_TRY(g->gpu, g->gpu->api->upload(g->gpu, *room, host, (size_t)count * sizeof *host),
               "a product", err);
    *out = *room;
    *room += count;
    return LUTRA_OK;
}

/* The rows of b that are columns of the result come in pieces where b is large. */
lutra_status lu_la_gpu_gemm(lu_la_gpu *g, const lu_la_gemm_args *host, lutra_err *err)
{
    lu_gpu *gpu = g->gpu;
    lu_la_gemm_args a = *host;
    const int64_t rows_a = a.transpose_a ? a.k : a.m, count_c = a.m * a.n;
    const int64_t most = g->piece / a.ldb > 0 ? g->piece / a.ldb : 1;
    const bool pieces = a.transpose_b && a.n > most && !lu_la_gpu_find(g, a.b);
    const int64_t step = pieces ? most : a.n, rows_b = a.transpose_b ? step : a.k;
    float *room, *c;
    LU_TRY(lu_la_gpu_room(g, rows_a * a.lda + rows_b * a.ldb + count_c, "a product", &room, err));
    c = room;
    room += count_c;
    if (a.beta != 0)
        LU_GPU_TRY(gpu, gpu->api->upload(gpu, c, host->c, (size_t)count_c * sizeof *c), "a product",
                   err);
    LU_TRY(bring(g, host->a, rows_a * a.lda, &room, &a.a, err));
    for (int64_t j = 0; j < host->n; j += step) {
        float *at = room;
        a.n = smaller(step, host->n - j);
        LU_TRY(bring(g, host->b + (pieces ? j * a.ldb : 0), (pieces ? a.n : rows_b) * a.ldb, &at,
                     &a.b, err));
        a.c = c + j;
        LU_TRY(lu_la_gpu_multiply(g, &a, err));
    }
    LU_GPU_TRY(gpu, gpu->api->download(gpu, host->c, c, (size_t)count_c * sizeof *c), "a product",
               err);
    return LUTRA_OK;
}

/* product = d (2 U + D) for h = U^T + D + U, D of blocks on the diagonal: d product^T is d h d^T for
   little more than half the work. Strips of h, each down to its block. */
static lutra_status multiply_half(lu_la_gpu *g, int64_t m, int64_t n, const float *d,
                                  const float *h, float *product, lutra_err *err)
{
    for (int64_t at = 0; at < n; at += HALF_STRIP) {
        const int64_t width = smaller(HALF_STRIP, n - at);
        lu_la_gemm_args call = {
            .m = m, .n = width, .lda = n, .ldb = n, .c = product + at, .ldc = n};
        call.alpha = 2;
        call.k = at;
        call.a = d;
        call.b = h + at;
        if (at)
            LU_TRY(lu_la_gpu_multiply(g, &call, err));
        call.alpha = 1;
        call.beta = at ? 1 : 0;
        call.k = width;
        call.a = d + at;
        call.b = h + at * n + at;
        LU_TRY(lu_la_gpu_multiply(g, &call, err));
    }
    return LUTRA_OK;
}

lutra_status lu_la_gpu_norms(lu_la_gpu *g, int64_t m, int64_t n, const float *d, bool there,
                             const float *h, double *sums, lutra_err *err)
{
    lu_gpu *gpu = g->gpu;
    float *room, *product;
    const float *rows = d, *matrix;
    LU_TRY(lu_la_gpu_room(g, 2 * m + (there ? 1 : 2) * m * n + (lu_la_gpu_find(g, h) ? 0 : n * n), "a norm",
                          &room, err));
    double *room_sums = (double *)(void *)room;
    product = room + 2 * m;
    room = product + m * n;
    if (!there)
        LU_TRY(bring(g, d, m * n, &room, &rows, err));
    LU_TRY(bring(g, h, n * n, &room, &matrix, err));
    LU_TRY(multiply_half(g, m, n, rows, matrix, product, err));
    LU_GPU_TRY(gpu, gpu->api->dot_rows(m, n, product, rows, room_sums, gpu->stream), "a norm", err);
    LU_GPU_TRY(gpu, gpu->api->download(gpu, sums, room_sums, (size_t)m * sizeof *sums), "a norm",
               err);
    return LUTRA_OK;
}

/* ---- the factor that GPTQ walks along ---------------------------------------------------------
 */

/* c -= a b^T, rows and columns of one matrix with ld n. */
static lutra_status subtract(lu_la_gpu *g, int64_t n, int64_t m, int64_t cols, int64_t k,
                             const float *a, const float *b, float *c, lutra_err *err)
{
    return lu_la_gpu_multiply(g,
                              &(lu_la_gemm_args){.transpose_b = true,
                                                 .m = m,
                                                 .n = cols,
                                                 .k = k,
                                                 .alpha = -1,
                                                 .a = a,
                                                 .lda = n,
                                                 .b = b,
                                                 .ldb = n,
                                                 .beta = 1,
                                                 .c = c,
                                                 .ldc = n},
                              err);
}

static lutra_status copy_rows(lu_la_gpu *g, int64_t rows, int64_t cols, const float *from,
                              int64_t ld_from, float *to, int64_t ld_to, lutra_err *err)
{
    LU_GPU_TRY(g->gpu, g->gpu->api->copy_rows(rows, cols, from, ld_from, to, ld_to, g->gpu->stream),
               "a factor", err);
    return LUTRA_OK;
}

/* a[n][n] becomes L below and on its diagonal; inverses: of the diagonal blocks. temp: [n][P]. *bad
   is on the GPU. */
static lutra_status cholesky(lu_la_gpu *g, int64_t n, float *a, float *inverses, float *temp,
                             int32_t *bad, lutra_err *err)
{
    lu_gpu *gpu = g->gpu;
    for (int64_t at = 0; at < n; at += P) {
        const int64_t width = smaller(P, n - at), next = at + width, below = n - next;
        float *diagonal = a + at * n + at, *panel = a + next * n + at, *inverse = inverses + at * P;
        LU_GPU_TRY(gpu, gpu->api->cholesky_block(width, diagonal, n, bad, gpu->stream), "a factor",
                   err);
        LU_GPU_TRY(gpu, gpu->api->invert_blocks(width, diagonal, n, 0, inverse, gpu->stream),
                   "a factor", err);
        if (!below)
            break;
        LU_TRY(copy_rows(g, below, width, panel, n, temp, P, err));
        LU_TRY(lu_la_gpu_multiply(g,
                                  &(lu_la_gemm_args){.transpose_b = true,
                                                     .m = below,
                                                     .n = width,
                                                     .k = width,
                                                     .alpha = 1,
                                                     .a = temp,
                                                     .lda = P,
                                                     .b = inverse,
                                                     .ldb = P,
                                                     .c = panel,
                                                     .ldc = n},
                                  err));
        for (int64_t j = next; j < n; j += STRIP)
            LU_TRY(subtract(g, n, n - j, smaller(STRIP, n - j), width, a + j * n + at,
                            a + j * n + at, a + j * n + j, err));
    }
    return LUTRA_OK;
}

/* L, zero above its diagonal, becomes X = L^-1, a block of rows after the other:
   X_ij = -X_ii sum over k in [j, i) of L_ik X_kj. temp: [P][n]. */
static lutra_status invert_lower(lu_la_gpu *g, int64_t n, float *a, const float *inverses,
                                 float *temp, lutra_err *err)
{
    for (int64_t at = 0; at < n; at += P) {
        const int64_t width = smaller(P, n - at);
        const float *inverse = inverses + at * P;
        for (int64_t j = 0; j < at; j += LONG_STRIP)
            LU_TRY(lu_la_gpu_multiply(g,
                                      &(lu_la_gemm_args){.m = width,
                                                         .n = smaller(LONG_STRIP, at - j),
                                                         .k = at - j,
                                                         .alpha = -1,
                                                         .a = a + at * n + j,
                                                         .lda = n,
                                                         .b = a + j * n + j,
                                                         .ldb = n,
                                                         .c = temp + j,
                                                         .ldc = n},
                                      err));
        if (at)
            LU_TRY(lu_la_gpu_multiply(g,
                                      &(lu_la_gemm_args){.m = width,
                                                         .n = at,
                                                         .k = width,
                                                         .alpha = 1,
                                                         .a = inverse,
                                                         .lda = P,
                                                         .b = temp,
                                                         .ldb = n,
                                                         .c = a + at * n,
                                                         .ldc = n},
                                      err));
        LU_TRY(copy_rows(g, width, width, inverse, P, a + at * n + at, n, err));
    }
    return LUTRA_OK;
}

static lutra_status reverse(lu_la_gpu *g, int64_t n, float *a, lutra_err *err)
{
    LU_GPU_TRY(g->gpu, g->gpu->api->reverse(n * n, a, g->gpu->stream), "a factor", err);
    return LUTRA_OK;
}

lutra_status lu_la_gpu_inverse_factor(lu_la_gpu *g, int64_t n, float *h, bool *definite,
                                      lutra_err *err)
{
    lu_gpu *gpu = g->gpu;
    const int64_t blocks = blocks_of(n);
    int32_t bad = 0, *device_bad;
    float *room, *inverses, *temp;
    *definite = false;
    LU_TRY(lu_la_gpu_room(g, blocks * P * P + n * P + 1, "a factor", &room, err));
    inverses = room;
    temp = room + blocks * P * P;
    device_bad = (int32_t *)(void *)(temp + n * P);
    LU_TRY(lu_la_gpu_hold(g, h, n * n, err));
    LU_GPU_TRY(gpu, gpu->api->zero(gpu, device_bad, sizeof bad), "a factor", err);
    LU_TRY(reverse(g, n, g->held, err));
    LU_TRY(cholesky(g, n, g->held, inverses, temp, device_bad, err));
    LU_GPU_TRY(gpu, gpu->api->download(gpu, &bad, device_bad, sizeof bad), "a factor", err);
    if (bad) {
        lu_la_gpu_release(g);
        return LUTRA_OK;
    }
    LU_GPU_TRY(gpu, gpu->api->clear_upper(n, g->held, gpu->stream), "a factor", err);
    LU_TRY(invert_lower(g, n, g->held, inverses, temp, err));
    LU_TRY(reverse(g, n, g->held, err));
    LU_GPU_TRY(gpu, gpu->api->download(gpu, h, g->held, (size_t)(n * n) * sizeof *h), "a factor",
               err);
    *definite = true;
    return LUTRA_OK;
}

lutra_status lu_la_gpu_divide_upper(lu_la_gpu *g, int64_t n, const float *host_u, int64_t m,
                                    float *host, lutra_err *err)
{
    lu_gpu *gpu = g->gpu;
    const float *u = lu_la_gpu_find(g, host_u);
    float *b, *temp;
    if (!u || u != g->held)
        return lu_fail(err, LUTRA_E_INTERNAL, "a triangle is divided by that is not held");
    if (!g->inverses) {
        LU_TRY(take(g, blocks_of(n) * P * P, "a triangle", &g->inverses, err));
        LU_GPU_TRY(gpu, gpu->api->invert_blocks(n, u, n, 1, g->inverses, gpu->stream), "a triangle",
                   err);
    }
    LU_TRY(lu_la_gpu_room(g, m * (n + P), "rows to divide", &b, err));
    temp = b + m * n;
    LU_GPU_TRY(gpu, gpu->api->upload(gpu, b, host, (size_t)(m * n) * sizeof *b), "rows to divide",
               err);
    for (int64_t at = 0; at < n; at += P) {
        const int64_t width = smaller(P, n - at), next = at + width;
        LU_TRY(copy_rows(g, m, width, b + at, n, temp, P, err));
        LU_TRY(lu_la_gpu_multiply(g,
                                  &(lu_la_gemm_args){.m = m,
                                                     .n = width,
                                                     .k = width,
                                                     .alpha = 1,
                                                     .a = temp,
                                                     .lda = P,
                                                     .b = g->inverses + at * P,
                                                     .ldb = P,
                                                     .c = b + at,
                                                     .ldc = n},
                                  err));
        if (next < n)
            LU_TRY(lu_la_gpu_multiply(g,
                                      &(lu_la_gemm_args){.m = m,
                                                         .n = n - next,
                                                         .k = width,
                                                         .alpha = -1,
                                                         .a = b + at,
                                                         .lda = n,
                                                         .b = u + at * n + next,
                                                         .ldb = n,
                                                         .beta = 1,
                                                         .c = b + next,
                                                         .ldc = n},
                                      err));
    }
    LU_GPU_TRY(gpu, gpu->api->download(gpu, host, b, (size_t)(m * n) * sizeof *b), "rows to divide",
               err);
    return LUTRA_OK;
}
