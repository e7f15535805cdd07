/* kv.h - the keys and values of one sequence: for every layer and KV head a dense [capacity]
   [head_dim] block, as the attention kernel reads it. Rows at or after the sequence's length hold
   leftovers and are never read. */
#ifndef LU_MODEL_KV_H
#define LU_MODEL_KV_H

#include "model/slots.h"

typedef struct lu_kv {
    int64_t capacity, n_layers, n_heads, head_dim;
    int64_t first_layer; /* layers [first_layer, first_layer + n_layers) */
    lutra_dtype dtype; /* F32 or BF16 */
    uint8_t *data;     /* [layer][0 = keys, 1 = values][head][capacity][head_dim] */
    struct lu_gpu_model *gpu; /* on a GPU: data is NULL and the tokens lie in pages of the model's */
    struct lu_gpu_pages *pages;
} lu_kv;

/* capacity >= 1. E_NOMEM, on a GPU saying what context would fit; E_LIMIT if the size overflows. */
lutra_status lu_kv_open(const lutra_model *m, int64_t capacity, lu_kv *out, lutra_err *err);
/* Of one layer at a time: first_layer may be set to any before a pass. */
lutra_status lu_kv_open_one(const lutra_model *m, int64_t capacity, lu_kv *out, lutra_err *err);
void lu_kv_close(lu_kv *kv);

static inline void *lu_kv_block(const lu_kv *kv, int64_t layer, int values, int64_t head)
{
    const int64_t block = ((layer - kv->first_layer) * 2 + values) * kv->n_heads + head;
    return kv->data + (size_t)(block * kv->capacity * kv->head_dim) * lutra_dtype_bytes(kv->dtype);
}

#endif
