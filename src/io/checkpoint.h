/* checkpoint.h - a model folder: config.json, one or many safetensors shards behind the index,
   names to tensors. Also opens a single .safetensors file. */
#ifndef LU_IO_CHECKPOINT_H
#define LU_IO_CHECKPOINT_H

#include <jansson.h>

#include "fmt/scheme.h"
#include "io/safetensors.h"
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

/* The quantization_config object of our own checkpoints ("quant_method": "lutra"), parsed: the
   distinct schemes and, for each coded module, which one. docs/formats.md says what a reader
   refuses. Writers start from {0} and call lu_quant_config_add for each module. */
typedef struct lu_quant_module {
    char *name; /* "model.layers.0.mlp.up_proj" */
    int64_t scheme;
} lu_quant_module;

typedef struct lu_quant_config {
    lu_scheme *schemes;
    int64_t n_schemes;
    lu_quant_module *modules; /* ascending by name when read */
    int64_t n_modules, room;
} lu_quant_config;

/* found is set to false when the config has none; a foreign quant_method is E_UNSUPPORTED naming
   it. */
lutra_status lu_quant_config_read(json_t *config, bool *found, lu_quant_config *out,
                                  lutra_err *err);
/* NULL: not coded. q: as lu_quant_config_read made it. */
const lu_scheme *lu_quant_config_find(const lu_quant_config *q, const char *module);

/* Describes a module that was coded; a scheme equal to an earlier one is listed once. E_ARG for a
   scheme that lu_scheme_check refuses. On failure q is as before. */
lutra_status lu_quant_config_add(lu_quant_config *q, const char *module, const lu_scheme *s,
                                 lutra_err *err);
/* New reference; NULL = out of memory. Sorts the modules. */
json_t *lu_quant_config_write(lu_quant_config *q);
void lu_quant_config_free(lu_quant_config *q);

#endif
