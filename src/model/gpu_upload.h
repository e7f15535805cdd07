/* gpu_upload.h - host to GPU through two pieces of page-locked memory: while one is on its way, the
   threads fill the other, converting element types as they copy. */
#ifndef LU_MODEL_GPU_UPLOAD_H
#define LU_MODEL_GPU_UPLOAD_H

#include "base/pool.h"
#include "kern/gpu.h"
#include "lutra/tensor.h"

typedef struct lu_gpu_upload {
    lu_gpu *gpu;
    lu_pool *pool;
    uint8_t *stage[2];
    void *mark[2];
    bool sent[2];
    int next;
} lu_gpu_upload;

/* On failure close frees what was taken. */
lutra_status lu_gpu_upload_open(lu_gpu *gpu, lu_pool *pool, lu_gpu_upload *u, lutra_err *err);
void lu_gpu_upload_close(lu_gpu_upload *u);

/* count elements of type `from` at any byte of host memory become elements of type `as` on the GPU.
   Types: equal (any), or floats to F32, F16 or BF16. E_UNSUPPORTED for a finite number beyond fp16. Only
   queued when it returns, but `data` has been read. */
lutra_status lu_gpu_upload_put(lu_gpu_upload *u, void *to, lutra_dtype as, const void *data,
                               lutra_dtype from, int64_t count, lutra_err *err);

#endif
