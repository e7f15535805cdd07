/* checkpoint.h - a model folder: config.json, one or many safetensors shards behind the index,
   names to tensors. Also opens a single .safetensors file. */
#ifndef LU_IO_CHECKPOINT_H
#define LU_IO_CHECKPOINT_H

#include <jansson.h>

#include "io/safetensors.h"
#include "lutra/format.h"
#include "lutra/model.h"

/* Reader rules: the index names shards inside the folder only; each mapped tensor must be in its
   shard; shards the index does not name are ignored; model.safetensors without an index is fine. */
lutra_status lu_checkpoint_open(const char *path, lutra_checkpoint **out, lutra_err *err);

const lu_st_entry *lu_checkpoint_find(const lutra_checkpoint *c,
                                      const char *name); /* NULL: absent */
const char *lu_checkpoint_path(const lutra_checkpoint *c);
json_t *lu_checkpoint_json(const lutra_checkpoint *c); /* config.json, borrowed; NULL for a file */
int64_t lu_checkpoint_n_shards(const lutra_checkpoint *c);
const lu_st_file *lu_checkpoint_shard(const lutra_checkpoint *c, int64_t i);
const char *lu_checkpoint_shard_name(const lutra_checkpoint *c, int64_t i); /* file name */

/* The quantization_config object of our own checkpoints ("quant_method": "lutra"), parsed.
   found is set to false when the config has none; a foreign quant_method is E_UNSUPPORTED naming
   it. docs/formats.md says what else a reader refuses. */
typedef struct lu_quant_config {
    lutra_format format;
    char **modules; /* names of the quantized modules ("model.layers.0.mlp.up_proj"), sorted */
    int64_t n_modules;
} lu_quant_config;

lutra_status lu_quant_config_read(json_t *config, bool *found, lu_quant_config *out,
                                  lutra_err *err);
json_t *lu_quant_config_write(const lu_quant_config *q); /* new reference; NULL = out of memory */
void lu_quant_config_free(lu_quant_config *q);

#endif
