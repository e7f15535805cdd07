/* gather_gpu.c - the sums of gather.h on a GPU: second moments by matrix products of the 16-bit rows
   with float32 sums, strips of the upper triangle; the rest by one kernel over columns. Results come
   back once, when the gather is closed; kept rows with every pass. */
#include "base/mem.h"
#include "calib/gather.h"
#include "tensor/convert.h"

#define STRIP 2048 /* rows of a Hessian computed at a time: what lies left of the diagonal is saved */

static lutra_status take_zeros(lu_gather *g, int site, bool wanted, size_t bytes, void **out,
                               lutra_err *err)
{
    lu_gpu *gpu = g->gpu;
    size_t there;
    if (!wanted)
        return LUTRA_OK;
    LU_GPU_TRY(gpu, gpu->api->free_memory(gpu, &there), "asking for its memory", err);
    if (bytes > there)
        return lu_fail(err, LUTRA_E_NOMEM,
                       "%s:%d: statistics of layer %lld %s need %.2f GB, %.2f GB are free: take a "
                       "larger GPU, or the CPU",
                       gpu->api->name, gpu->ordinal, (long long)g->view->block.index,
                       g->view->block.sites[site].name, (double)bytes / 1e9, (double)there / 1e9);
    LU_GPU_TRY(gpu, gpu->api->take(gpu, bytes, out), "memory for statistics", err);
    LU_GPU_TRY(gpu, gpu->api->zero(gpu, *out, bytes), "clearing statistics", err);
    return LUTRA_OK;
}

static lutra_status open_rows(lu_gather *g, lutra_err *err)
{
    lu_gpu *gpu = g->gpu;
    int64_t widest = 0;
    if (g->kept)
        return LUTRA_OK;
    for (int i = 0; i < g->view->block.n_sites; i++)
        widest = g->view->block.sites[i].k > widest ? g->view->block.sites[i].k : widest;
    const size_t bytes = LU_KEPT_ROWS * (size_t)widest * sizeof *g->rows;
    LU_GPU_TRY(gpu, gpu->api->take(gpu, LU_KEPT_ROWS * sizeof *g->kept, (void **)&g->kept),
               "memory for kept rows", err);
    LU_GPU_TRY(gpu, gpu->api->take(gpu, bytes, (void **)&g->rows), "memory for kept rows", err);
    g->host_rows = lu_alloc(bytes);
    return g->host_rows ? LUTRA_OK : lu_fail_nomem(err, bytes);
}

lutra_status lu_gather_gpu_open(lu_gather *g, int site, unsigned needs, lutra_err *err)
{
    lu_gather_site *s = &g->sites[site];
    const size_t k = (size_t)g->view->block.sites[site].k;
    LU_TRY(open_rows(g, err));
    LU_TRY(take_zeros(g, site, needs & LU_STAT_ABSMAX, k * 4, (void **)&s->absmax, err));
    LU_TRY(take_zeros(g, site, needs & LU_STAT_ABSMEAN, k * 8, (void **)&s->gpu_sums, err));
    LU_TRY(take_zeros(g, site, needs & LU_STAT_RANGE, k * 4, (void **)&s->lowest, err));
    LU_TRY(take_zeros(g, site, needs & LU_STAT_RANGE, k * 4, (void **)&s->highest, err));
    return take_zeros(g, site, needs & LU_STAT_HESSIAN, k * k * 4, (void **)&s->hessian, err);
}

/* h += x^T x, the upper triangle and whatever of the strips lies beside it. */
static lutra_status add_moments(lu_gather *g, float *h, const uint16_t *x, int64_t rows, int64_t k,
                                lutra_err *err)
{
    for (int64_t i = 0; i < k; i += STRIP) {
        const lu_gpu_gemm call = {.transpose_a = true,
                                  .bf16 = g->bf16,
                                  .m = k - i < STRIP ? k - i : STRIP,
                                  .n = k - i,
                                  .k = rows,
                                  .alpha = 1,
                                  .beta = 1,
                                  .a = x + i,
                                  .lda = k,
                                  .b = x + i,
                                  .ldb = k,
                                  .c = h + i * k + i,
                                  .ldc = k};
        LU_GPU_TRY(g->gpu, g->gpu->api->gemm(g->gpu, &call), "second moments", err);
    }
    return LUTRA_OK;
}

static lutra_status keep_rows(lu_gather *g, int site, const uint16_t *x, int64_t rows, int64_t k,
                              lutra_err *err)
{
    lu_gpu *gpu = g->gpu;
    lu_stats *s = &g->view->block.sites[site].stats;
    int32_t source[LU_KEPT_ROWS];
    const int64_t n = lu_gather_choose(g, site, rows, source);
    if (n == 0)
        return LUTRA_OK;
    LU_GPU_TRY(gpu, gpu->api->upload(gpu, g->kept, source, (size_t)n * sizeof *source),
               "kept rows", err);
    LU_GPU_TRY(gpu, gpu->api->moe_gather(n, k, g->kept, x, g->rows, gpu->stream), "kept rows", err);
    LU_GPU_TRY(gpu,
               gpu->api->download(gpu, g->host_rows, g->rows, (size_t)(n * k) * sizeof *g->rows),
               "kept rows", err);
    lu_to_f32(g->bf16 ? LUTRA_BF16 : LUTRA_F16, g->host_rows, n * k, s->rows + s->n_kept * k);
    s->n_kept += n;
    return LUTRA_OK;
}

lutra_status lu_gather_gpu_tap(void *user, const char *name, uint16_t *x, int64_t rows,
                               int64_t cols, lutra_err *err)
{
    lu_gather *g = user;
    lu_gpu *gpu = g->gpu;
    const int i = lu_view_find_site(g->view, name);
    if (i < 0 || !g->sites[i].open)
        return LUTRA_OK;
    LU_GPU_TRY(gpu, gpu->api->sync(gpu), "statistics", err); /* so that each part's time is its own */
    const double start = lu_seconds();
    const lu_gather_site *s = &g->sites[i];
    lu_stats *stats = &g->view->block.sites[i].stats;
    const lu_cuda_column_args columns = {.n = rows,
                                         .cols = cols,
                                         .x = x,
                                         .bf16 = g->bf16,
                                         .first = stats->n_rows == 0,
                                         .absmax = s->absmax,
                                         .abssum = s->gpu_sums,
                                         .lowest = s->lowest,
                                         .highest = s->highest,
                                         .stream = gpu->stream};
    if (s->absmax || s->gpu_sums || s->lowest)
        LU_GPU_TRY(gpu, gpu->api->column_stats(&columns), "statistics", err);
    if (s->hessian)
        LU_TRY(add_moments(g, s->hessian, x, rows, cols, err));
    LU_TRY(keep_rows(g, i, x, rows, cols, err));
    stats->n_rows += rows;
    LU_GPU_TRY(gpu, gpu->api->sync(gpu), "statistics", err);
    g->seconds += lu_seconds() - start;
    return LUTRA_OK;
}

static lutra_status fetch(lu_gather *g, void *to, const void *from, size_t bytes, lutra_err *err)
{
    if (from)
        LU_GPU_TRY(g->gpu, g->gpu->api->download(g->gpu, to, from, bytes), "statistics", err);
    return LUTRA_OK;
}

lutra_status lu_gather_gpu_finish(lu_gather *g, int site, lutra_err *err)
{
    lu_gpu *gpu = g->gpu;
    const lu_gather_site *s = &g->sites[site];
    const lu_site *to = &g->view->block.sites[site];
    const size_t k = (size_t)to->k;
    if (!to->stats.n_rows)
        return LUTRA_OK;
    if (s->hessian)
        LU_GPU_TRY(gpu,
                   gpu->api->mirror(to->k, (float)(1.0 / (double)to->stats.n_rows), s->hessian,
                                    gpu->stream),
                   "second moments", err);
    LU_TRY(fetch(g, to->stats.absmax, s->absmax, k * 4, err));
    LU_TRY(fetch(g, s->sums, s->gpu_sums, k * 8, err));
    LU_TRY(fetch(g, to->stats.lowest, s->lowest, k * 4, err));
    LU_TRY(fetch(g, to->stats.highest, s->highest, k * 4, err));
    return fetch(g, to->stats.hessian, s->hessian, k * k * 4, err);
}

void lu_gather_gpu_close(lu_gather *g)
{
    lu_gpu *gpu = g->gpu;
    for (int i = 0; g->sites && i < g->view->block.n_sites; i++) {
        const lu_gather_site *s = &g->sites[i];
        void *const all[] = {s->absmax, s->lowest, s->highest, s->hessian, s->gpu_sums};
        for (size_t n = 0; n < sizeof all / sizeof *all; n++)
            gpu->api->give(gpu, all[n]);
    }
    gpu->api->give(gpu, g->kept);
    gpu->api->give(gpu, g->rows);
    lu_free(g->host_rows);
}
