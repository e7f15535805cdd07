/* kv.c - the KV cache of one sequence, allocated whole; the system gives pages as they are written.
 */
#include "model/kv.h"

#include <inttypes.h>

#include "base/mem.h"
#include "model/gpu_model.h"

static lutra_status open_layers(const lutra_model *m, int64_t capacity, int64_t layers, lu_kv *out,
                                lutra_err *err)
{
    const lu_model_config *c = &m->config;
    if (m->gpu) {
        lu_gpu_pages *pages;
        LU_TRY(lu_gpu_pages_take(m, capacity, &pages, err));
        *out = (lu_kv){.capacity = capacity,
                       .n_layers = c->n_layers,
                       .n_heads = c->n_kv_heads,
                       .head_dim = c->head_dim,
                       .dtype = m->act,
                       .gpu = m->gpu,
                       .pages = pages};
        return LUTRA_OK;
    }
    size_t bytes = 2 * lutra_dtype_bytes(m->act);
    const bool fits = lu_mul_size(bytes, (size_t)layers, &bytes) &&
                      lu_mul_size(bytes, (size_t)(c->n_kv_heads * c->head_dim), &bytes) &&
                      lu_mul_size(bytes, (size_t)capacity, &bytes);
    if (!fits)
        return lu_fail(err, LUTRA_E_LIMIT,
                       "a KV cache of %" PRId64 " tokens does not fit the address space", capacity);
    uint8_t *data = lu_alloc_aligned(bytes);
    if (!data)
        return lu_fail_nomem(err, bytes);
    *out = (lu_kv){.capacity = capacity,
                   .n_layers = layers,
                   .n_heads = c->n_kv_heads,
                   .head_dim = c->head_dim,
                   .dtype = m->act,
                   .data = data};
    return LUTRA_OK;
}

lutra_status lu_kv_open(const lutra_model *m, int64_t capacity, lu_kv *out, lutra_err *err)
{
    return open_layers(m, capacity, m->config.n_layers, out, err);
}

lutra_status lu_kv_open_one(const lutra_model *m, int64_t capacity, lu_kv *out, lutra_err *err)
{
    return open_layers(m, capacity, 1, out, err);
}

void lu_kv_close(lu_kv *kv)
{
    if (kv->gpu)
        lu_gpu_pages_give(kv->gpu, kv->pages);
    lu_free_aligned(kv->data);
    kv->data = NULL;
    kv->pages = NULL;
}
