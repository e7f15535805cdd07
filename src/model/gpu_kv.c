/* gpu_kv.c - the pages of the KV cache. A page holds LU_GPU_PAGE_TOKENS tokens of every layer. */
#include <inttypes.h>
#include <string.h>

#include "base/mem.h"
#include "model/gpu_model.h"

/* Left for the buffers of passes when deciding whether a cache fits. */
#define SPARE_BYTES ((size_t)64 << 20)

/* Keys or values of one layer in one page. */
static int64_t plane_bytes(const lutra_model *m)
{
    return m->config.n_kv_heads * m->config.head_dim * LU_GPU_PAGE_TOKENS * 2;
}

int64_t lu_gpu_page_bytes(const lutra_model *m) { return plane_bytes(m) * m->config.n_layers * 2; }

static lutra_status check_room(const lutra_model *m, int64_t capacity, int64_t pages,
                               lutra_err *err)
{
    lu_gpu *gpu = m->gpu->gpu;
    const lu_gpu_pool *pool = &m->gpu->pool;
    const int64_t page = lu_gpu_page_bytes(m), missing = pool->promised + pages - pool->n_pages;
    size_t there;
    LU_GPU_TRY(gpu, gpu->api->free_memory(gpu, &there), "asking for its memory", err);
    there = there > SPARE_BYTES ? there - SPARE_BYTES : 0;
    /* a block that holds something is copied when it grows: old and new are there together */
    const int64_t kept = pool->promised ? pool->promised + pages : missing;
    if (missing <= 0 || kept <= (int64_t)there / page)
        return LUTRA_OK;
    const int64_t fits = ((int64_t)there / page - (kept - pages)) * LU_GPU_PAGE_TOKENS;
    return lu_fail(err, LUTRA_E_NOMEM,
                   "%s:%d: a KV cache of %" PRId64 " tokens needs %.2f GB, %.2f GB are free: a "
                   "context of %" PRId64 " tokens would fit",
                   gpu->api->name, gpu->ordinal, capacity, (double)(pages * page) / 1e9,
                   (double)there / 1e9, fits > 0 ? fits : 0);
}

lutra_status lu_gpu_pages_take(const lutra_model *m, int64_t capacity, lu_gpu_pages **out,
                               lutra_err *err)
{
    lu_gpu_pool *pool = &m->gpu->pool;
    const int64_t n = (capacity - 1) / LU_GPU_PAGE_TOKENS + 1;
    if (n > INT32_MAX - pool->promised)
        return lu_fail(err, LUTRA_E_LIMIT, "a KV cache of %" PRId64 " tokens has too many pages",
                       capacity);
    if (!pool->promised && n > pool->n_pages) { /* nothing in it to keep */
        m->gpu->gpu->api->give(m->gpu->gpu, pool->data);
        pool->data = NULL;
        pool->n_pages = 0;
        m->gpu->generation++;
    }
    LU_TRY(check_room(m, capacity, n, err));
    lu_gpu_pages *pages = lu_calloc(1, sizeof *pages);
    int32_t *page = lu_array((size_t)n, sizeof *page);
    const int64_t room = pool->promised + n;
    uint8_t *used = room > pool->room ? lu_resize(pool->used, (size_t)room) : pool->used;
    if (used && room > pool->room) {
        memset(used + pool->room, 0, (size_t)(room - pool->room));
        pool->used = used;
        pool->room = room;
    }
    if (!pages || !page || !used) {
        lu_free(pages);
        lu_free(page);
        return lu_fail_nomem(err, (size_t)n * sizeof *page);
    }
    int64_t taken = 0;
    for (int64_t i = 0; taken < n; i++)
        if (!pool->used[i]) {
            pool->used[i] = 1;
            page[taken++] = (int32_t)i;
        }
    pool->promised += n;
    *pages = (lu_gpu_pages){.n = n, .page = page};
    *out = pages;
    return LUTRA_OK;
}

void lu_gpu_pages_give(lu_gpu_model *g, lu_gpu_pages *pages)
{
    if (!pages)
        return;
    for (int64_t i = 0; i < pages->n; i++)
        g->pool.used[pages->page[i]] = 0;
    g->pool.promised -= pages->n;
    lu_free(pages->page);
    lu_free(pages);
}

/* Keys and values of the old pages to where the layers begin in the larger block. */
static lutra_status move_pages(const lutra_model *m, uint8_t *to, int64_t n_pages, lutra_err *err)
{
    lu_gpu *gpu = m->gpu->gpu;
    const lu_gpu_pool *pool = &m->gpu->pool;
    const int64_t plane = plane_bytes(m);
    for (int64_t i = 0; pool->data && i < m->config.n_layers * 2; i++)
        LU_GPU_TRY(gpu,
                   gpu->api->copy(gpu, to + i * n_pages * plane,
                                  (const uint8_t *)pool->data + i * pool->n_pages * plane,
                                  (size_t)(pool->n_pages * plane)),
                   "moving the KV cache", err);
    return LUTRA_OK;
}

lutra_status lu_gpu_pool_grow(const lutra_model *m, lutra_err *err)
{
    lu_gpu *gpu = m->gpu->gpu;
    lu_gpu_pool *pool = &m->gpu->pool;
    int64_t n = pool->room;
    while (n > 0 && !pool->used[n - 1])
        n--;
    if (n <= pool->n_pages)
        return LUTRA_OK;
    uint8_t *data;
    const size_t bytes = (size_t)(n * lu_gpu_page_bytes(m));
    LU_GPU_TRY(gpu, gpu->api->take(gpu, bytes, (void **)&data), "memory for the KV cache", err);
    /* what no token was written to is multiplied by zero: it must be finite */
    lutra_status status = LUTRA_OK;
    const int error = gpu->api->zero(gpu, data, bytes);
    if (error)
        status = lu_gpu_fail(gpu, error, "clearing the KV cache", err);
    if (status == LUTRA_OK)
        status = move_pages(m, data, n, err);
    if (status != LUTRA_OK) {
        gpu->api->give(gpu, data);
        return status;
    }
    gpu->api->give(gpu, pool->data);
    pool->data = (uint16_t *)(void *)data;
    pool->n_pages = n;
    m->gpu->generation++;
    return LUTRA_OK;
}

void lu_gpu_pool_close(lu_gpu_model *g)
{
    g->gpu->api->give(g->gpu, g->pool.data);
    lu_free(g->pool.used);
}
