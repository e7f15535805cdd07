/* side_files.c - see side_files.h.
   config.json keeps its text byte for byte; the new member goes before its last brace, so that
   nothing of the model's own settings is rewritten or rounded. Copied are plain files but weights
   in any form (the shards replace them), hidden files, and the two files written here. */
#include "calib/side_files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "calib/out_folder.h"

#define CONFIG "config.json"
#define INDEX "model.safetensors.index.json"
#define KEY "quantization_config"
#define MEMBER "\"" KEY "\": "
#define INDENT "  "
#define BUFFER ((size_t)1 << 20)

static const char *const not_copied[] = {
    CONFIG, "*.index.json", "*.safetensors", "*.bin",       "*.pt",          "*.pth",   "*.gguf",
    "*.h5", "*.msgpack",    "*.onnx",        "*.onnx_data", "consolidated*", "journal", ".*",
};

static bool is_copied(const char *name, const struct stat *st)
{
    for (size_t i = 0; i < sizeof not_copied / sizeof not_copied[0]; i++)
        if (lu_glob_match(not_copied[i], name))
            return false;
    return S_ISREG(st->st_mode);
}

/* The folder's files are complete before the folder gets its name: no temporary names needed. */
static lutra_status write_synced(const char *path, const void *data, size_t size, lutra_err *err)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return lu_fail_errno(err, errno, path, "create");
    lutra_status status = lu_write_at(fd, path, data, size, 0, err);
    if (status == LUTRA_OK && fsync(fd) != 0)
        status = lu_fail_errno(err, errno, path, "sync");
    if (close(fd) != 0 && status == LUTRA_OK)
        status = lu_fail_errno(err, errno, path, "close");
    return status;
}

static lutra_status write_named(const char *folder, const char *name, const char *text, size_t size,
                                lutra_err *err)
{
    char *path = lu_path_join(folder, name);
    if (!path)
        return lu_fail_nomem(err, strlen(folder));
    const lutra_status status = write_synced(path, text, size, err);
    lu_free(path);
    return status;
}

/* ---- config.json ---------------------------------------------------------------------------- */

static lutra_status quant_config_text(const lu_plan *p, char **out, lutra_err *err)
{
    char name[1024];
    lu_quant_config q = {.n_schemes = 0};
    lutra_status status = LUTRA_OK;
    for (int64_t i = 0; status == LUTRA_OK && i < p->n_tensors; i++)
        if (p->tensors[i].scheme)
            status = lu_quant_config_add(&q, lu_plan_module(&p->tensors[i], name, sizeof name),
                                         p->tensors[i].scheme, err);
    json_t *json = status == LUTRA_OK ? lu_quant_config_write(&q) : NULL;
    lu_quant_config_free(&q);
    LU_TRY(status);
    *out = json ? lu_json_dump(json, JSON_INDENT(2), NULL) : NULL;
    json_decref(json);
    return *out ? LUTRA_OK : lu_fail_nomem(err, 0);
}

/* config, which is one JSON object, with MEMBER and value as its last member. */
static char *insert_member(const char *config, const char *value)
{
    const char *brace = strrchr(config, '}'), *last = brace;
    while (last > config && strchr(" \t\r\n", last[-1]))
        last--;
    const bool empty = last[-1] == '{';
    const size_t kept = (size_t)(last - config), member = strlen(MEMBER), rest = strlen(brace);
    size_t n = 0;
    for (const char *v = value; *v; v++)
        n += *v == '\n' ? 1 + strlen(INDENT) : 1;
    char *text = lu_alloc(kept + 2 + strlen(INDENT) + member + n + 1 + rest + 1), *at = text;
    if (!text)
        return NULL;
    memcpy(at, config, kept);
    at += kept;
    if (!empty)
        *at++ = ',';
    memcpy(at, "\n" INDENT, 1 + strlen(INDENT));
    at += 1 + strlen(INDENT);
    memcpy(at, MEMBER, member);
    at += member;
    for (const char *v = value; *v; v++) {
        *at++ = *v;
        if (*v == '\n') {
            memcpy(at, INDENT, strlen(INDENT));
            at += strlen(INDENT);
        }
    }
    *at++ = '\n';
    memcpy(at, brace, rest + 1);
    return text;
}

static lutra_status write_config(const lu_plan *p, const char *folder, lutra_err *err)
{
    char *value;
    LU_TRY(quant_config_text(p, &value, err));
    const char *config = lutra_checkpoint_config(p->checkpoint);
    char *without = NULL; /* a member that is null gives way: a key stands in an object once */
    json_t *root = lu_checkpoint_json(p->checkpoint);
    if (json_object_get(root, KEY)) {
        json_t *copy = json_copy(root);
        json_object_del(copy, KEY);
        without = copy ? lu_json_dump(copy, JSON_INDENT(2), NULL) : NULL;
        json_decref(copy);
        config = without;
    }
    char *text = config ? insert_member(config, value) : NULL;
    lu_free(without);
    lu_free(value);
    if (!text)
        return lu_fail_nomem(err, 0);
    const lutra_status status = write_named(folder, CONFIG, text, strlen(text), err);
    lu_free(text);
    return status;
}

/* ---- the index ------------------------------------------------------------------------------ */

static lutra_status write_index(const lu_plan *p, const char *folder, lutra_err *err)
{
    json_t *map = json_object();
    bool ok = map != NULL;
    for (int64_t i = 0; ok && i < p->n_names; i++)
        ok = json_object_set_new(map, p->names[i],
                                 json_string(p->shards[p->name_shards[i]].name)) == 0;
    json_t *root = json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)p->bytes_out,
                             "weight_map", map);
    size_t size = 0;
    char *text = ok && root ? lu_json_dump(root, JSON_INDENT(2) | JSON_SORT_KEYS, &size) : NULL;
    json_decref(root);
    if (text)
        text[size++] = '\n'; /* where the NUL was */
    const lutra_status status =
        text ? write_named(folder, INDEX, text, size, err) : lu_fail_nomem(err, 0);
    lu_free(text);
    return status;
}

/* ---- copies --------------------------------------------------------------------------------- */

static lutra_status copy_data(int from, const char *from_path, int to, const char *to_path,
                              uint8_t *buffer, lutra_err *err)
{
    uint64_t at = 0;
    for (;;) {
        const ssize_t n = pread(from, buffer, BUFFER, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return lu_fail_errno(err, errno, from_path, "read");
        if (n == 0)
            return fsync(to) == 0 ? LUTRA_OK : lu_fail_errno(err, errno, to_path, "sync");
        LU_TRY(lu_write_at(to, to_path, buffer, (size_t)n, at, err));
        at += (uint64_t)n;
    }
}

static lutra_status copy_file(const char *from_path, const char *to_path, lutra_err *err)
{
    const int from = open(from_path, O_RDONLY | O_CLOEXEC);
    if (from < 0)
        return lu_fail_errno(err, errno, from_path, "open");
    uint8_t *buffer = lu_alloc(BUFFER);
    lutra_status status = buffer ? LUTRA_OK : lu_fail_nomem(err, BUFFER);
    if (status == LUTRA_OK) {
        const int to = open(to_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
        if (to < 0) {
            status = lu_fail_errno(err, errno, to_path, "create");
        } else {
            status = copy_data(from, from_path, to, to_path, buffer, err);
            if (close(to) != 0 && status == LUTRA_OK)
                status = lu_fail_errno(err, errno, to_path, "close");
        }
    }
    lu_free(buffer);
    close(from);
    return status;
}

static lutra_status copy_entry(void *arg, const char *folder, const char *name, lutra_err *err)
{
    const char *to_folder = arg;
    struct stat st;
    char *from = lu_path_join(folder, name), *to = lu_path_join(to_folder, name);
    lutra_status status = LUTRA_OK;
    if (!from || !to)
        status = lu_fail_nomem(err, strlen(folder));
    else if (stat(from, &st) == 0 && is_copied(name, &st))
        status = copy_file(from, to, err);
    lu_free(from);
    lu_free(to);
    return status;
}

static lutra_status add_size(void *arg, const char *folder, const char *name, lutra_err *err)
{
    uint64_t *sum = arg;
    struct stat st;
    char *path = lu_path_join(folder, name);
    if (!path)
        return lu_fail_nomem(err, strlen(folder));
    if (stat(path, &st) == 0 && is_copied(name, &st))
        *sum += (uint64_t)st.st_size;
    lu_free(path);
    return LUTRA_OK;
}

lutra_status lu_side_files_bytes(const lu_plan *p, uint64_t *out, lutra_err *err)
{
    *out = (uint64_t)p->n_names * 256 + 65536; /* index and config: lines of names */
    return lu_folder_list(lu_checkpoint_path(p->checkpoint), add_size, out, err);
}

lutra_status lu_side_files_write(const lu_plan *p, const char *folder, lutra_err *err)
{
    const char *in = lu_checkpoint_path(p->checkpoint);
    char *index = lu_path_join(in, INDEX);
    if (!index)
        return lu_fail_nomem(err, strlen(in));
    const bool indexed = lu_path_exists(index);
    lu_free(index);
    LU_TRY(lu_folder_list(in, copy_entry, (void *)folder, err));
    if (indexed)
        LU_TRY(write_index(p, folder, err));
    return write_config(p, folder, err);
}
