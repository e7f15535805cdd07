/* column_walk.c - see column_walk.h. */
#include "la/column_walk.h"

#include <string.h>

#include "base/mem.h"
#include "la/dense_gpu.h"

struct lu_column_walk {
    lu_la *la;
    lu_la_gpu *gpu; /* NULL: on the CPU */
    int64_t n, m, block;
    const float *u, *gpu_u;
    float *w;
    float *gpu_w, *gpu_e, *gpu_block; /* [rows][n], [rows][block], [rows][block] */
    float *stage, *stage_e;           /* page-locked [rows][block]: a block, its errors */
};

static lutra_status open_gpu(lu_column_walk *k, int64_t rows, lutra_err *err)
{
    lu_gpu *gpu = k->gpu->gpu;
    const size_t block = (size_t)(rows * k->block) * sizeof(float);
    LU_GPU_TRY(gpu, gpu->api->take(gpu, (size_t)(rows * k->n) * sizeof(float), (void **)&k->gpu_w),
               "memory for rows", err);
    LU_GPU_TRY(gpu, gpu->api->take(gpu, block, (void **)&k->gpu_e), "memory for rows", err);
    LU_GPU_TRY(gpu, gpu->api->take(gpu, block, (void **)&k->gpu_block), "memory for rows", err);
    LU_GPU_TRY(gpu, gpu->api->take_host(gpu, block, (void **)&k->stage), "page-locked memory", err);
    LU_GPU_TRY(gpu, gpu->api->take_host(gpu, block, (void **)&k->stage_e), "page-locked memory",
               err);
    return LUTRA_OK;
}

lutra_status lu_column_walk_open(lu_la *la, int64_t n, const float *u, int64_t rows, int64_t block,
                                 lu_column_walk **out, lutra_err *err)
{
    lu_column_walk *k = lu_calloc(1, sizeof *k);
    if (!k)
        return lu_fail_nomem(err, sizeof *k);
    k->la = la;
    k->n = n;
    k->block = block;
    k->u = u;
    lu_la_gpu *gpu = lu_la_gpu_of(la);
    if (gpu && lu_la_gpu_find(gpu, u) && lu_la_gpu_pays(gpu, rows, n, n)) {
        k->gpu = gpu;
        k->gpu_u = lu_la_gpu_find(gpu, u);
    }
    const lutra_status status = k->gpu ? open_gpu(k, rows, err) : LUTRA_OK;
    if (status == LUTRA_OK)
        *out = k;
    else
        lu_column_walk_close(k);
    return status;
}

void lu_column_walk_close(lu_column_walk *k)
{
    if (!k)
        return;
    if (k->gpu) {
        lu_gpu *gpu = k->gpu->gpu;
        gpu->api->give(gpu, k->gpu_w);
        gpu->api->give(gpu, k->gpu_e);
        gpu->api->give(gpu, k->gpu_block);
        gpu->api->give_host(gpu, k->stage);
        gpu->api->give_host(gpu, k->stage_e);
    }
    lu_free(k);
}

lutra_status lu_column_walk_begin(lu_column_walk *k, float *w, int64_t m, int64_t end,
                                  lutra_err *err)
{
    k->w = w;
    k->m = m;
    if (!k->gpu || end == k->n)
        return LUTRA_OK;
    lu_gpu *gpu = k->gpu->gpu;
    LU_GPU_TRY(gpu, gpu->api->upload(gpu, k->gpu_w, w, (size_t)(m * k->n) * sizeof *w),
               "rows to walk along", err);
    return LUTRA_OK;
}

/* Columns [from, to), after block [begin, end). */
static lu_la_gemm_args update(const lu_column_walk *k, int64_t begin, int64_t end, int64_t from,
                              int64_t to)
{
    return (lu_la_gemm_args){.m = k->m,
                             .n = to - from,
                             .k = end - begin,
                             .alpha = -1,
                             .ldb = k->n,
                             .b = (k->gpu ? k->gpu_u : k->u) + begin * k->n + from,
                             .beta = 1,
                             .c = (k->gpu ? k->gpu_w : k->w) + from,
                             .ldc = k->n};
}

static lutra_status pass_on_gpu(lu_column_walk *k, int64_t begin, int64_t end, int64_t next,
                                const float *e, int64_t ld_e, lutra_err *err)
{
    lu_gpu *gpu = k->gpu->gpu;
    const int64_t width = end - begin, ahead = next - end;
    const size_t bytes = (size_t)(k->m * ahead) * sizeof *e;
    for (int64_t r = 0; r < k->m; r++)
        memcpy(k->stage_e + r * width, e + r * ld_e, (size_t)width * sizeof *e);
    LU_GPU_TRY(gpu, gpu->api->send(gpu, k->gpu_e, k->stage_e, (size_t)(k->m * width) * sizeof *e),
               "errors", err);
    lu_la_gemm_args near = update(k, begin, end, end, next),
                    far = update(k, begin, end, next, k->n);
    near.a = far.a = k->gpu_e;
    near.lda = far.lda = width;
    LU_TRY(lu_la_gpu_multiply(k->gpu, &near, err));
    LU_GPU_TRY(
        gpu,
        gpu->api->copy_rows(k->m, ahead, k->gpu_w + end, k->n, k->gpu_block, ahead, gpu->stream),
        "the next columns", err);
    LU_GPU_TRY(gpu, gpu->api->fetch(gpu, k->stage, k->gpu_block, bytes), "the next columns", err);
    LU_GPU_TRY(gpu, gpu->api->mark(gpu, k->gpu->mark), "the next columns", err);
    if (next < k->n)
        LU_TRY(lu_la_gpu_multiply(k->gpu, &far, err));
    LU_GPU_TRY(gpu, gpu->api->wait(gpu, k->gpu->mark), "the next columns", err);
    for (int64_t r = 0; r < k->m; r++)
        memcpy(k->w + r * k->n + end, k->stage + r * ahead, (size_t)ahead * sizeof *e);
    return LUTRA_OK;
}

lutra_status lu_column_walk_pass(lu_column_walk *k, int64_t begin, int64_t end, int64_t next,
                                 const float *e, int64_t ld_e, lutra_err *err)
{
    if (end == k->n)
        return LUTRA_OK;
    if (k->gpu)
        return pass_on_gpu(k, begin, end, next, e, ld_e, err);
    lu_la_gemm_args all = update(k, begin, end, end, k->n);
    all.a = e;
    all.lda = ld_e;
    return lu_la_gemm(k->la, &all, err);
}
