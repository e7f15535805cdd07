/* kv.c - the KV cache of one sequence, allocated whole; the system gives pages as they are written.
 */
#include "model/kv.h"

#include <inttypes.h>

#include "base/mem.h"
#include "kern/kv_quant.h"
#include "model/gpu_model.h"

#define BLOCK 64 /* rings are whole blocks of positions, as the attention kernel reads them */

static int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

/* Adds n_heads blocks of rows * row_bytes to kv->bytes; false on overflow. */
static bool add_heads(lu_kv *kv, int64_t rows, int64_t row_bytes, size_t *at, size_t *head_bytes)
{
    size_t all;
    *at = kv->bytes;
    return lu_mul_size((size_t)rows, (size_t)row_bytes, head_bytes) &&
           lu_mul_size(*head_bytes, (size_t)kv->n_heads, &all) && all < SIZE_MAX / 2 &&
           lu_add_size(kv->bytes, (all + 63) / 64 * 64, &kv->bytes);
}

static bool lay_out_layer(lu_kv *kv, lu_kv_layer *layer, int64_t window, int64_t max_rows)
{
    const int64_t ring = window && window < kv->capacity && max_rows < kv->capacity
                             ? round_up(window + max_rows, BLOCK)
                             : kv->capacity;
    const bool kivi = lu_kv_is_kivi(kv->kind);
    if (ring < kv->capacity) {
        layer->slots = ring;
        if (ring - window < kv->slack)
            kv->slack = ring - window;
    }
    const int64_t rows = layer->slots ? layer->slots : kv->capacity;
    const int64_t row = lu_kv_row_bytes(kv->kind, kv->head_dim);
    if (!add_heads(kv, kivi ? rows / LU_KIVI_GROUP : rows,
                   kivi ? lu_kivi_group_bytes(kv->kind, kv->head_dim) : row, &layer->at[LU_KEYS],
                   &layer->head_bytes[LU_KEYS]) ||
        !add_heads(kv, rows, row, &layer->at[LU_VALUES], &layer->head_bytes[LU_VALUES]))
        return false;
    for (int part = 0; kivi && part < LU_N_KV_PARTS; part++)
        if (!add_heads(kv, kv->recent_slots, lu_kv_row_bytes(kv->plain, kv->head_dim),
                       &layer->recent_at[part], &layer->recent_head_bytes))
            return false;
    return true;
}

static bool lay_out(const lutra_model *m, lu_kv *kv, int64_t max_rows)
{
    const lu_model_config *c = &m->config;
    const bool rings = kv->n_layers == c->n_layers; /* a cache for any one layer fits all kinds */
    if (lu_kv_is_kivi(kv->kind)) {
        const int64_t rows = max_rows < kv->capacity ? max_rows : kv->capacity;
        kv->recent_slots = round_up(LU_KIVI_RECENT + rows, BLOCK);
        if (kv->recent_slots < kv->capacity)
            kv->slack = kv->recent_slots - LU_KIVI_RECENT;
    }
    for (int64_t i = 0; i < kv->n_layers; i++)
        if (!lay_out_layer(kv, &kv->layers[i],
                           rings && c->kind[i] == LU_ATTN_SLIDING ? c->window : 0, max_rows))
            return false;
    return true;
}

static lutra_status open_on_gpu(const lutra_model *m, int64_t capacity, lu_kv *out, lutra_err *err)
{
    const lu_model_config *c = &m->config;
    lu_gpu_pages *pages;
    LU_TRY(lu_gpu_pages_take(m, capacity, &pages, err));
    *out = (lu_kv){.capacity = capacity,
                   .n_layers = c->n_layers,
                   .n_heads = c->n_kv_heads,
                   .head_dim = c->head_dim,
                   .slack = INT64_MAX,
                   .gpu = m->gpu,
                   .pages = pages};
    return LUTRA_OK;
}

static lutra_status open_layers(const lutra_model *m, lu_kv_kind kind, int64_t capacity,
                                int64_t layers, int64_t max_rows, lu_kv *out, lutra_err *err)
{
    const lu_model_config *c = &m->config;
    if (m->gpu)
        return open_on_gpu(m, capacity, out, err);
    lu_kv kv = {.capacity = capacity,
                .n_layers = layers,
                .n_heads = c->n_kv_heads,
                .head_dim = c->head_dim,
                .kind = kind,
                .plain = m->act == LUTRA_BF16 ? LU_KV_BF16 : LU_KV_F32,
                .slack = INT64_MAX};
    kv.layers = lu_calloc((size_t)layers, sizeof *kv.layers);
    if (!kv.layers)
        return lu_fail_nomem(err, (size_t)layers * sizeof *kv.layers);
    if (!lay_out(m, &kv, max_rows)) {
        lu_free(kv.layers);
        return lu_fail(err, LUTRA_E_LIMIT,
                       "a KV cache of %" PRId64 " tokens does not fit the address space", capacity);
    }
    kv.data = lu_alloc_aligned(kv.bytes);
    if (!kv.data) {
        lu_free(kv.layers);
        return lu_fail_nomem(err, kv.bytes);
    }
    *out = kv;
    return LUTRA_OK;
}

lutra_status lu_kv_open_for(const lutra_model *m, int64_t capacity, int64_t max_rows, lu_kv *out,
                            lutra_err *err)
{
    return open_layers(m, m->kv_kind, capacity, m->config.n_layers, max_rows, out, err);
}

lutra_status lu_kv_open(const lutra_model *m, int64_t capacity, lu_kv *out, lutra_err *err)
{
    return lu_kv_open_for(m, capacity, capacity, out, err);
}

lutra_status lu_kv_open_one(const lutra_model *m, int64_t capacity, lu_kv *out, lutra_err *err)
{
    return open_layers(m, m->act == LUTRA_BF16 ? LU_KV_BF16 : LU_KV_F32, capacity, 1, capacity, out,
                       err);
}

void lu_kv_close(lu_kv *kv)
{
    if (kv->gpu)
        lu_gpu_pages_give(kv->gpu, kv->pages);
    lu_free(kv->layers);
    lu_free_aligned(kv->data);
    kv->layers = NULL;
    kv->data = NULL;
    kv->pages = NULL;
}

static const lu_kv_layer *layer_at(const lu_kv *kv, int64_t layer)
{
    return &kv->layers[layer - kv->first_layer];
}

static uint8_t *rows_of(const lu_kv *kv, int64_t layer, int part, int64_t head)
{
    const lu_kv_layer *l = layer_at(kv, layer);
    return kv->data + l->at[part] + (size_t)head * l->head_bytes[part];
}

static uint8_t *recent_of(const lu_kv *kv, int64_t layer, int part, int64_t head)
{
    const lu_kv_layer *l = layer_at(kv, layer);
    return kv->data + l->recent_at[part] + (size_t)head * l->recent_head_bytes;
}

static int64_t slot_of(const lu_kv *kv, int64_t layer, int64_t pos)
{
    const int64_t slots = layer_at(kv, layer)->slots;
    return slots ? pos % slots : pos;
}

void lu_kv_put(const lu_kv *kv, const lu_ops *ops, int64_t layer, int64_t pos, const float *k,
               const float *v, uint8_t *scratch)
{
    const bool kivi = lu_kv_is_kivi(kv->kind);
    const int64_t dim = kv->head_dim, plain = lu_kv_row_bytes(kv->plain, dim);
    const int64_t row = slot_of(kv, layer, pos) * lu_kv_row_bytes(kv->kind, dim);
    for (int64_t h = 0; h < kv->n_heads; h++)
        for (int part = LU_KEYS; part <= LU_VALUES; part++) {
            const float *x = (part == LU_KEYS ? k : v) + h * dim;
            if (!kivi || part == LU_VALUES)
                lu_kv_encode_row(ops, kv->kind, x, dim, rows_of(kv, layer, part, h) + row, scratch);
            if (kivi)
                lu_kv_encode_row(ops, kv->plain, x, dim,
                                 recent_of(kv, layer, part, h) + pos % kv->recent_slots * plain,
                                 scratch);
        }
}

void lu_kv_round_keys(const lu_kv *kv, const lu_ops *ops, int64_t layer, int64_t head,
                      int64_t group, float *scratch)
{
    const int64_t dim = kv->head_dim, first = group * LU_KIVI_GROUP;
    const uint8_t *recent = recent_of(kv, layer, LU_KEYS, head) +
                            first % kv->recent_slots * lu_kv_row_bytes(kv->plain, dim);
    uint8_t *out = rows_of(kv, layer, LU_KEYS, head) +
                   slot_of(kv, layer, first) / LU_KIVI_GROUP * lu_kivi_group_bytes(kv->kind, dim);
    const float *x = (const float *)(const void *)recent;
    if (kv->plain == LU_KV_BF16) {
        ops->bf16_to_f32(scratch, (const uint16_t *)(const void *)recent, LU_KIVI_GROUP * dim);
        x = scratch;
    }
    lu_kivi_encode_keys(kv->kind, x, dim, out);
}

void lu_kv_attend_args(const lu_kv *kv, int64_t layer, int64_t head, lu_attend_args *a)
{
    a->k = rows_of(kv, layer, LU_KEYS, head);
    a->v = rows_of(kv, layer, LU_VALUES, head);
    a->kind = kv->kind;
    a->slots = layer_at(kv, layer)->slots;
    if (!lu_kv_is_kivi(kv->kind))
        return;
    a->recent_k = recent_of(kv, layer, LU_KEYS, head);
    a->recent_v = recent_of(kv, layer, LU_VALUES, head);
    a->recent_slots = kv->recent_slots;
    a->recent_bf16 = kv->plain == LU_KV_BF16;
}
