/* checkpoint.c - a model folder (or one safetensors file) as a list of named tensors.

   The index decides which shards belong to the model and which tensor is read from which: folders
   often hold further copies of the weights that must not be read twice. Without an index the
   folder has one file, model.safetensors. A folder without config.json opens too, so that it can
   be looked at.
   Invariant: every tensor listed is inside an open, validated shard. */
#include "io/checkpoint.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"

#define CONFIG "config.json"
#define INDEX "model.safetensors.index.json"
#define SINGLE "model.safetensors"
#define CONFIG_LIMIT ((size_t)16 << 20) /* real ones have a few KB; per-module lists reach 1 MB */
#define INDEX_LIMIT ((size_t)256 << 20)

typedef struct tensor_ref {
    const lu_st_entry *entry;
    int64_t shard;
} tensor_ref;

struct lutra_checkpoint {
    char *path;
    char *config_text; /* NULL without config.json */
    json_t *config;
    lu_st_file **shards;
    char **shard_names; /* sorted; owned */
    int64_t n_shards;
    tensor_ref *tensors; /* sorted by name */
    int64_t count;
};

/* ---- the list of tensors -------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const tensor_ref *)a)->entry->name, ((const tensor_ref *)b)->entry->name);
}

static lutra_status reserve(lutra_checkpoint *c, size_t n_shards, size_t n_tensors, lutra_err *err)
{
    c->shards = lu_calloc(n_shards, sizeof *c->shards);
    c->shard_names = lu_calloc(n_shards, sizeof *c->shard_names);
    c->tensors = lu_array(n_tensors, sizeof *c->tensors);
    if (!c->shards || !c->shard_names || !c->tensors)
        return lu_fail_nomem(err, n_tensors * sizeof *c->tensors);
    return LUTRA_OK;
}

/* All tensors of one file: no index says otherwise. */
static lutra_status open_single(lutra_checkpoint *c, const char *path, lutra_err *err)
{
    lu_st_file *f;
    LU_TRY(lu_st_open(path, &f, err));
    const lutra_status status = reserve(c, 1, (size_t)lu_st_count(f), err);
    if (status != LUTRA_OK) {
        lu_st_close(f);
        return status;
    }
    c->shards[0] = f;
    c->n_shards = 1;
    c->shard_names[0] = lu_strdup(lu_path_base(path));
    if (!c->shard_names[0])
        return lu_fail_nomem(err, strlen(path));
    c->count = lu_st_count(f);
    for (int64_t i = 0; i < c->count; i++)
        c->tensors[i] = (tensor_ref){lu_st_at(f, i), 0};
    qsort(c->tensors, (size_t)c->count, sizeof *c->tensors, by_name);
    return LUTRA_OK;
}

/* ---- the index ------------------------------------------------------------------------------ */

/* One member of weight_map; the strings belong to the JSON. */
typedef struct mapping {
    const char *tensor, *shard;
} mapping;

static int by_shard(const void *a, const void *b)
{
    const mapping *x = a, *y = b;
    const int order = strcmp(x->shard, y->shard);
    return order ? order : strcmp(x->tensor, y->tensor);
}

/* A plain file name: the index must not lead out of its folder. */
static bool is_plain_name(const char *s)
{
    return *s && !strchr(s, '/') && !strchr(s, '\\') && !strstr(s, "..") && strcmp(s, ".") != 0;
}

static lutra_status read_index(const char *path, json_t **root, mapping **out, size_t *count,
                               lutra_err *err)
{
    char *text;
    size_t size;
    LU_TRY(lu_file_read(path, INDEX_LIMIT, &text, &size, err));
    const lutra_status status = lu_json_parse(path, text, size, true, root, err);
    lu_free(text);
    LU_TRY(status);
    json_t *map = json_object_get(*root, "weight_map");
    if (!json_is_object(map))
        return lu_fail(err, LUTRA_E_FORMAT, "%s: has no \"weight_map\" object", path);
    mapping *list = lu_array(json_object_size(map), sizeof *list);
    if (!list)
        return lu_fail_nomem(err, json_object_size(map) * sizeof *list);
    *out = list;
    const char *key;
    json_t *v;
    size_t n = 0;
    json_object_foreach (map, key, v) {
        const char *shard = json_string_value(v);
        if (!shard)
            return lu_fail(err, LUTRA_E_FORMAT, "%s: tensor '%.200s' is not mapped to a file name",
                           path, key);
        if (!is_plain_name(shard))
            return lu_fail(
                err, LUTRA_E_FORMAT,
                "%s: tensor '%.100s' is mapped to '%.100s', expected a file name inside the folder",
                path, key, shard);
        list[n++] = (mapping){key, shard};
    }
    qsort(list, n, sizeof *list, by_shard);
    *count = n;
    return LUTRA_OK;
}

/* Opens the shard of m and makes it the last of c. */
static lutra_status open_shard(lutra_checkpoint *c, const mapping *m, lutra_err *err)
{
    char *path = lu_path_join(c->path, m->shard);
    char *name = lu_strdup(m->shard);
    lutra_status status = path && name ? LUTRA_OK : lu_fail_nomem(err, strlen(m->shard));
    if (status == LUTRA_OK && !lu_path_exists(path))
        status =
            lu_fail(err, LUTRA_E_IO,
                    "%s: file is missing, the index puts tensor '%.150s' there: download it again",
                    path, m->tensor);
    if (status == LUTRA_OK)
        status = lu_st_open(path, &c->shards[c->n_shards], err);
    lu_free(path);
    if (status != LUTRA_OK) {
        lu_free(name);
        return status;
    }
    c->shard_names[c->n_shards++] = name;
    return LUTRA_OK;
}

/* list is sorted by shard, so that each shard is opened once. */
static lutra_status open_mapped(lutra_checkpoint *c, const mapping *list, size_t n, lutra_err *err)
{
    size_t n_shards = 0;
    for (size_t i = 0; i < n; i++)
        n_shards += i == 0 || strcmp(list[i].shard, list[i - 1].shard) != 0;
    LU_TRY(reserve(c, n_shards, n, err));
    for (size_t i = 0; i < n; i++) {
        if (i == 0 || strcmp(list[i].shard, list[i - 1].shard) != 0)
            LU_TRY(open_shard(c, &list[i], err));
        const int64_t shard = c->n_shards - 1;
        const lu_st_entry *e = lu_st_find(c->shards[shard], list[i].tensor);
        if (!e)
            return lu_fail(
                err, LUTRA_E_FORMAT,
                "%s: has no tensor '%.150s', which the index puts there: index and shards are of "
                "different downloads, download them again",
                lu_st_path(c->shards[shard]), list[i].tensor);
        c->tensors[c->count++] = (tensor_ref){e, shard};
    }
    qsort(c->tensors, n, sizeof *c->tensors, by_name);
    return LUTRA_OK;
}

static lutra_status open_indexed(lutra_checkpoint *c, const char *index_path, lutra_err *err)
{
    json_t *root = NULL;
    mapping *list = NULL;
    size_t n = 0;
    lutra_status status = read_index(index_path, &root, &list, &n, err);
    if (status == LUTRA_OK)
        status = open_mapped(c, list, n, err);
    lu_free(list);
    json_decref(root);
    return status;
}

/* ---- folders -------------------------------------------------------------------------------- */

static lutra_status read_config(lutra_checkpoint *c, const char *path, lutra_err *err)
{
    if (!lu_path_exists(path))
        return LUTRA_OK;
    size_t size;
    LU_TRY(lu_file_read(path, CONFIG_LIMIT, &c->config_text, &size, err));
    LU_TRY(lu_json_parse(path, c->config_text, size, false, &c->config, err));
    if (!json_is_object(c->config))
        return lu_fail(err, LUTRA_E_FORMAT, "%s: is not a JSON object", path);
    return LUTRA_OK;
}

static lutra_status open_folder(lutra_checkpoint *c, lutra_err *err)
{
    char *config = lu_path_join(c->path, CONFIG);
    char *index = lu_path_join(c->path, INDEX);
    char *single = lu_path_join(c->path, SINGLE);
    lutra_status status =
        config && index && single ? LUTRA_OK : lu_fail_nomem(err, strlen(c->path));
    if (status == LUTRA_OK)
        status = read_config(c, config, err);
    if (status == LUTRA_OK) {
        if (lu_path_exists(index))
            status = open_indexed(c, index, err);
        else if (lu_path_exists(single))
            status = open_single(c, single, err);
        else
            status = lu_fail(err, LUTRA_E_IO,
                             "%s: neither " INDEX " nor " SINGLE
                             " is there, expected a Hugging Face folder with safetensors weights",
                             c->path);
    }
    lu_free(config);
    lu_free(index);
    lu_free(single);
    return status;
}

lutra_status lu_checkpoint_open(const char *path, lutra_checkpoint **out, lutra_err *err)
{
    lutra_checkpoint *c = lu_calloc(1, sizeof *c);
    if (!c)
        return lu_fail_nomem(err, sizeof *c);
    c->path = lu_strdup(path);
    lutra_status status = c->path ? LUTRA_OK : lu_fail_nomem(err, strlen(path) + 1);
    if (status == LUTRA_OK)
        status = lu_path_is_dir(path) ? open_folder(c, err) : open_single(c, path, err);
    if (status != LUTRA_OK) {
        lutra_checkpoint_close(c);
        return status;
    }
    *out = c;
    return LUTRA_OK;
}

/* ---- looking at it -------------------------------------------------------------------------- */

const lu_st_entry *lu_checkpoint_find(const lutra_checkpoint *c, const char *name)
{
    int64_t lo = 0, hi = c->count;
    while (lo < hi) {
        const int64_t mid = lo + (hi - lo) / 2;
        const int order = strcmp(name, c->tensors[mid].entry->name);
        if (order == 0)
            return c->tensors[mid].entry;
        if (order < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}

const char *lu_checkpoint_path(const lutra_checkpoint *c) { return c->path; }

json_t *lu_checkpoint_json(const lutra_checkpoint *c) { return c->config; }

int64_t lu_checkpoint_n_shards(const lutra_checkpoint *c) { return c->n_shards; }

const lu_st_file *lu_checkpoint_shard(const lutra_checkpoint *c, int64_t i) { return c->shards[i]; }

const char *lu_checkpoint_shard_name(const lutra_checkpoint *c, int64_t i)
{
    return c->shard_names[i];
}

lutra_status lutra_checkpoint_open(lutra_ctx *ctx, const char *path, lutra_checkpoint **out,
                                   lutra_err *err)
{
    (void)ctx; /* headers are read on the caller's thread */
    return lu_checkpoint_open(path, out, err);
}

void lutra_checkpoint_close(lutra_checkpoint *c)
{
    if (!c)
        return;
    for (int64_t i = 0; i < c->n_shards; i++) {
        lu_st_close(c->shards[i]);
        lu_free(c->shard_names[i]);
    }
    lu_free(c->shards);
    lu_free(c->shard_names);
    lu_free(c->tensors);
    json_decref(c->config);
    lu_free(c->config_text);
    lu_free(c->path);
    lu_free(c);
}

int64_t lutra_checkpoint_count(const lutra_checkpoint *c) { return c->count; }

const char *lutra_checkpoint_name(const lutra_checkpoint *c, int64_t i)
{
    return c->tensors[i].entry->name;
}

const char *lutra_checkpoint_file(const lutra_checkpoint *c, int64_t i)
{
    return c->shard_names[c->tensors[i].shard];
}

void lutra_checkpoint_tensor(const lutra_checkpoint *c, int64_t i, lutra_tensor *out)
{
    *out = c->tensors[i].entry->view;
}

const char *lutra_checkpoint_config(const lutra_checkpoint *c) { return c->config_text; }
