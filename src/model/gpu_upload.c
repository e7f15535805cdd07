/* gpu_upload.c - staging and conversion (gpu_upload.h). */
#include "model/gpu_upload.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "tensor/convert.h"

#define STAGE_BYTES (16 << 20)
#define GRAIN (256 << 10) /* elements a thread takes at a time */
#define PIECE 512         /* floats converted at a time */

lutra_status lu_gpu_upload_open(lu_gpu *gpu, lu_pool *pool, lu_gpu_upload *u, lutra_err *err)
{
    *u = (lu_gpu_upload){.gpu = gpu, .pool = pool};
    for (int i = 0; i < 2; i++) {
        LU_GPU_TRY(gpu, gpu->api->take_host(gpu, STAGE_BYTES, (void **)&u->stage[i]),
                   "page-locked memory", err);
        LU_GPU_TRY(gpu, gpu->api->mark_open(gpu, &u->mark[i]), "loading", err);
    }
    return LUTRA_OK;
}

void lu_gpu_upload_close(lu_gpu_upload *u)
{
    for (int i = 0; u->gpu && i < 2; i++) {
        u->gpu->api->give_host(u->gpu, u->stage[i]);
        u->gpu->api->mark_close(u->gpu, u->mark[i]);
    }
}

typedef struct {
    uint8_t *to;
    const uint8_t *from;
    lutra_dtype as, type;
    atomic_bool overflow;
} convert_job;

static void convert(void *arg, int64_t begin, int64_t end, int worker)
{
    convert_job *j = arg;
    const int64_t in = (int64_t)lutra_dtype_bytes(j->type), out = (int64_t)lutra_dtype_bytes(j->as);
    (void)worker;
    if (j->as == j->type) {
        memcpy(j->to + begin * out, j->from + begin * in, (size_t)((end - begin) * in));
        return;
    }
    for (int64_t i = begin; i < end; i += PIECE) {
        float x[PIECE];
        const int64_t n = end - i < PIECE ? end - i : PIECE;
        lu_to_f32(j->type, j->from + i * in, n, x);
        lu_from_f32(j->as, x, n, j->to + i * out);
        for (int64_t e = 0; j->as == LUTRA_F16 && e < n; e++)
            if (fabsf(x[e]) >= 65520.0f && isfinite(x[e]))
                atomic_store(&j->overflow, true);
    }
}

lutra_status lu_gpu_upload_put(lu_gpu_upload *u, void *to, lutra_dtype as, const void *data,
                               lutra_dtype from, int64_t count, lutra_err *err)
{
    lu_gpu *gpu = u->gpu;
    const int64_t out = (int64_t)lutra_dtype_bytes(as), in = (int64_t)lutra_dtype_bytes(from);
    const int64_t step = STAGE_BYTES / out;
    for (int64_t done = 0; done < count; done += step) {
        const int64_t n = count - done < step ? count - done : step;
        const int i = u->next;
        if (u->sent[i])
            LU_GPU_TRY(gpu, gpu->api->wait(gpu, u->mark[i]), "loading", err);
        convert_job job = {
            .to = u->stage[i], .from = (const uint8_t *)data + done * in, .as = as, .type = from};
        lu_pool_for(u->pool, n, GRAIN, convert, &job);
        if (atomic_load(&job.overflow))
            return lu_fail(err, LUTRA_E_UNSUPPORTED,
                           "holds a number beyond fp16's 65504: load it with dtype bf16");
        LU_GPU_TRY(gpu,
                   gpu->api->send(gpu, (uint8_t *)to + done * out, u->stage[i], (size_t)(n * out)),
                   "loading", err);
        LU_GPU_TRY(gpu, gpu->api->mark(gpu, u->mark[i]), "loading", err);
        u->sent[i] = true;
        u->next = 1 - i;
    }
    return LUTRA_OK;
}
