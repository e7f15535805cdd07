/* kv.h - the keys and values of one sequence: for every layer and KV head rows of the cache's kind
   (fmt/kv_format.h), as the attention kernel reads them. Rows of positions at or after the
   sequence's length hold leftovers and are never read.

   Layers that see a sliding window keep a ring of the window and one pass, position p in row
   p % slots; KIVI keeps the positions as they were in a ring of LU_KIVI_RECENT and one pass beside
   the codes. So a cache can go back by `slack` positions at least; what lies further back may be
   gone. */
#ifndef LU_MODEL_KV_H
#define LU_MODEL_KV_H

#include "model/slots.h"

typedef enum lu_kv_part { LU_KEYS, LU_VALUES, LU_N_KV_PARTS } lu_kv_part;

typedef struct lu_kv_layer {
    int64_t slots; /* 0: a row for each position of the capacity */
    size_t at[LU_N_KV_PARTS], head_bytes[LU_N_KV_PARTS]; /* of head 0 in data, and of a head */
    size_t recent_at[LU_N_KV_PARTS], recent_head_bytes;  /* KIVI: positions as they were */
} lu_kv_layer;

typedef struct lu_kv {
    int64_t capacity, n_layers, n_heads, head_dim;
    int64_t first_layer;    /* layers [first_layer, first_layer + n_layers) */
    lu_kv_kind kind, plain; /* plain: the model's activation type, of KIVI's recent positions */
    int64_t recent_slots;   /* KIVI */
    int64_t slack;          /* positions it can go back; INT64_MAX: to the start */
    lu_kv_layer *layers;    /* [n_layers] */
    size_t bytes;
    uint8_t *data;
    struct lu_gpu_model
        *gpu; /* on a GPU: data is NULL and the tokens lie in pages of the model's */
    struct lu_gpu_pages *pages;
} lu_kv;

/* capacity >= 1; max_rows: the most positions that a pass appends. E_NOMEM, on a GPU saying what
   context would fit; E_LIMIT if the size overflows. */
lutra_status lu_kv_open_for(const lutra_model *m, int64_t capacity, int64_t max_rows, lu_kv *out,
                            lutra_err *err);
/* For passes of any length. */
lutra_status lu_kv_open(const lutra_model *m, int64_t capacity, lu_kv *out, lutra_err *err);
/* Of one layer at a time, in the model's activation type: first_layer may be set to any before a
   pass. */
lutra_status lu_kv_open_one(const lutra_model *m, int64_t capacity, lu_kv *out, lutra_err *err);
void lu_kv_close(lu_kv *kv);

/* Stores the key and value [n_heads][head_dim] of a position. scratch: head_dim bytes. */
void lu_kv_put(const lu_kv *kv, const lu_ops *ops, int64_t layer, int64_t pos, const float *k,
               const float *v, uint8_t *scratch);

/* KIVI: rounds the keys of one head in group `group` of LU_KIVI_GROUP positions, all of which have
   been put. scratch: LU_KIVI_GROUP * head_dim floats. */
void lu_kv_round_keys(const lu_kv *kv, const lu_ops *ops, int64_t layer, int64_t head,
                      int64_t group, float *scratch);

/* Sets the members of the arguments that tell of the cache. */
void lu_kv_attend_args(const lu_kv *kv, int64_t layer, int64_t head, lu_attend_args *a);

#endif
