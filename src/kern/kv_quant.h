/* kv_quant.h - rows of a KV cache to codes and back (fmt/kv_format.h says what they mean). Encoding
   is plain C over the act_* kernels, the same at every level. Decoding here is the reference that
   the attention kernels' own is checked against. */
#ifndef LU_KERN_KV_QUANT_H
#define LU_KERN_KV_QUANT_H

#include "fmt/kv_format.h"
#include "kern/ops.h"

/* x [n] to a row, any kind. codes: n bytes of scratch. A NaN or infinity makes what shares its
   scale NaN. */
void lu_kv_encode_row(const lu_ops *ops, lu_kv_kind kind, const float *x, int64_t n, uint8_t *row,
                      uint8_t *codes);

/* KIVI: x [LU_KIVI_GROUP][n], keys of consecutive positions, to a key group. */
void lu_kivi_encode_keys(lu_kv_kind kind, const float *x, int64_t n, uint8_t *group);

/* Element d of a row; of position t of a key group. */
float lu_kv_decode(lu_kv_kind kind, const uint8_t *row, int64_t n, int64_t d);
float lu_kivi_decode_key(lu_kv_kind kind, const uint8_t *group, int64_t n, int64_t t, int64_t d);

#endif
