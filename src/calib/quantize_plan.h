/* quantize_plan.h - what a run will write: which tensors are encoded, and where every byte of every
   output shard goes. All of it follows from the headers of the input, before any data is read. */
#ifndef LU_CALIB_QUANTIZE_PLAN_H
#define LU_CALIB_QUANTIZE_PLAN_H

#include "io/checkpoint.h"
#include "lutra/quant.h"

/* One input tensor and its place in the output. */
typedef struct lu_plan_tensor {
    const lu_st_entry *in;
    int64_t shard;                  /* the output shard has the index of the input shard */
    const lu_scheme *scheme;        /* how it is encoded; NULL: copied */
    int64_t n_outliers;             /* columns kept apart, where the scheme has them */
    uint64_t at[LU_N_TENSOR_KINDS]; /* file offset of each of its tensors; of a copy: at[0] */
    uint64_t out_bytes;             /* all of them */
} lu_plan_tensor;

typedef struct lu_plan_shard {
    const char *name; /* file name, borrowed from the checkpoint */
    void *header;
    size_t header_bytes;
    uint64_t file_size;
    int64_t first, count; /* its tensors in plan->tensors, in the order of the input file */
} lu_plan_shard;

typedef struct lu_plan {
    lu_scheme *schemes; /* distinct */
    int n_schemes;
    lutra_range range;
    lu_act_format act; /* of modules whose pass says nothing */
    lutra_checkpoint *checkpoint; /* borrowed */
    lu_plan_tensor *tensors;
    int64_t n_tensors;
    lu_plan_shard *shards;
    int64_t n_shards;
    char **names; /* of all output tensors, for the index; [n_names] with their shards */
    int64_t *name_shards;
    int64_t n_names;
    int64_t n_encoded, params_encoded, n_routers;
    int64_t bytes_in, bytes_out,
        bytes_encoded; /* of tensor data; bytes_encoded: output of encoded ones */
} lu_plan;

/* E_ARG naming the tensor when a group does not divide its columns. Free with lu_plan_free, also
   after a failure. */
lutra_status lu_plan_make(lutra_checkpoint *c, const lutra_quantize_options *o, lu_plan *out,
                          lutra_err *err);
void lu_plan_free(lu_plan *p);

/* "model.layers.0.mlp.up_proj" of an encoded tensor: its name without ".weight". Writes to buf. */
const char *lu_plan_module(const lu_plan_tensor *t, char *buf, size_t size);

/* Glob: '*' any run of characters, '?' any one. The whole of name must match. */
bool lu_glob_match(const char *pattern, const char *name);

#endif
