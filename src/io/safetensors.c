/* safetensors.c - a validated view of a safetensors file, and the header of one to be written.

     0        8            8+H                                    end of file
     | u64 H  | JSON header | tensor, tensor, ... without a gap    |
     {"name":{"dtype":"BF16","shape":[r,c],"data_offsets":[begin,end]}, ..., "__metadata__":{..}}

   The file is untrusted: everything a reader relies on is checked before the first entry is given
   out. Invariant afterwards: sorted by offset the tensors cover the data part exactly, so every
   view lies inside the map and no two overlap. */
#include "io/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"

#define PREFIX 8                                 /* bytes of the length before the header */
#define MAX_HEADER ((uint64_t)100 * 1000 * 1000) /* the format's own limit */
#define METADATA "__metadata__"

struct lu_st_file {
    char *path;
    lu_map map;           /* empty when the caller owns the bytes */
    lu_st_entry *entries; /* by offset */
    lu_st_entry **by_name;
    int64_t count;
    char *names; /* all names, each with its NUL */
};

/* Where parsing is, for messages. */
typedef struct parser {
    const char *path;
    const uint8_t *data; /* start of the data part */
    size_t data_size;
    lutra_err *err;
} parser;

static lutra_status bad(const parser *p, const char *tensor, const char *fact)
{
    return lu_fail(p->err, LUTRA_E_FORMAT, "%s: tensor '%.200s': %s", p->path, tensor, fact);
}

/* ---- one tensor ----------------------------------------------------------------------------- */

static lutra_status parse_dtype(const parser *p, const char *name, json_t *v, lutra_dtype *out)
{
    if (!json_is_string(v))
        return bad(p, name, "has no \"dtype\" string");
    const char *text = json_string_value(v);
    const lutra_dtype t = lutra_dtype_parse(text);
    /* lutra_dtype_parse also knows "bfloat16"; the format spells types in one way only */
    if (t == LUTRA_DTYPE_NONE || strcmp(lutra_dtype_name(t), text) != 0)
        return lu_fail(p->err, LUTRA_E_UNSUPPORTED, "%s: tensor '%.200s': unknown dtype '%.40s'",
                       p->path, name, text);
    *out = t;
    return LUTRA_OK;
}

static lutra_status parse_shape(const parser *p, const char *name, json_t *v, lutra_tensor *t)
{
    if (!json_is_array(v))
        return bad(p, name, "has no \"shape\" array");
    if (json_array_size(v) > LUTRA_MAX_RANK)
        return lu_fail(p->err, LUTRA_E_UNSUPPORTED,
                       "%s: tensor '%.200s': %zu dimensions, at most %d are supported", p->path,
                       name, json_array_size(v), LUTRA_MAX_RANK);
    t->rank = (int)json_array_size(v);
    size_t bytes = lutra_dtype_bytes(t->dtype);
    for (int i = 0; i < t->rank; i++) {
        json_t *dim = json_array_get(v, (size_t)i);
        if (!json_is_integer(dim) || json_integer_value(dim) < 0)
            return bad(p, name, "\"shape\" holds something other than sizes of 0 or more");
        t->shape[i] = json_integer_value(dim);
        if ((uint64_t)t->shape[i] > SIZE_MAX || !lu_mul_size(bytes, (size_t)t->shape[i], &bytes))
            return bad(p, name, "\"shape\" overflows: more bytes than a machine can address");
    }
    t->bytes = bytes;
    return LUTRA_OK;
}

/* The offsets against the file's size are checked later, when the tensors are in order and the
   first one out of place can be named. */
static lutra_status parse_offsets(const parser *p, const char *name, json_t *v,
                                  const lutra_tensor *t, uint64_t *begin)
{
    json_t *b = json_array_get(v, 0), *e = json_array_get(v, 1);
    if (!json_is_array(v) || json_array_size(v) != 2 || !json_is_integer(b) || !json_is_integer(e))
        return bad(p, name, "has no \"data_offsets\" of two integers");
    const json_int_t from = json_integer_value(b), to = json_integer_value(e);
    if (from < 0 || to < from)
        return bad(p, name, "\"data_offsets\" run backwards");
    if ((uint64_t)(to - from) != t->bytes)
        return lu_fail(
            p->err, LUTRA_E_FORMAT,
            "%s: tensor '%.200s': \"data_offsets\" span %llu bytes, its shape and dtype need %zu",
            p->path, name, (unsigned long long)(to - from), t->bytes);
    *begin = (uint64_t)from;
    return LUTRA_OK;
}

typedef struct placed {
    lu_st_entry entry;
    uint64_t begin;
} placed;

static lutra_status parse_tensor(const parser *p, const char *name, json_t *v, placed *out)
{
    memset(out, 0, sizeof *out);
    if (!json_is_object(v))
        return bad(p, name, "is not described by an object");
    lutra_tensor *t = &out->entry.view;
    LU_TRY(parse_dtype(p, name, json_object_get(v, "dtype"), &t->dtype));
    LU_TRY(parse_shape(p, name, json_object_get(v, "shape"), t));
    return parse_offsets(p, name, json_object_get(v, "data_offsets"), t, &out->begin);
}

/* ---- the header ----------------------------------------------------------------------------- */

static lutra_status check_metadata(const parser *p, json_t *meta)
{
    if (!meta)
        return LUTRA_OK;
    if (!json_is_object(meta))
        return lu_fail(p->err, LUTRA_E_FORMAT, "%s: \"" METADATA "\" is not an object", p->path);
    const char *key;
    json_t *v;
    double x;
    json_object_foreach (meta, key, v) {
        if (!json_is_string(v) || lu_json_nonfinite(v, &x))
            return lu_fail(p->err, LUTRA_E_FORMAT, "%s: metadata '%.200s' is not a string", p->path,
                           key);
    }
    return LUTRA_OK;
}

static int by_begin(const void *a, const void *b)
{
    const placed *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    /* empty tensors sit where the next one starts */
    if (x->entry.view.bytes != y->entry.view.bytes)
        return x->entry.view.bytes < y->entry.view.bytes ? -1 : 1;
    return strcmp(x->entry.name, y->entry.name);
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(lu_st_entry *const *)a)->name, (*(lu_st_entry *const *)b)->name);
}

/* No holes, no overlap, the data part used to its last byte; then views get their pointers. */
static lutra_status place(const parser *p, placed *list, int64_t count)
{
    uint64_t at = 0;
    for (int64_t i = 0; i < count; i++) {
        lutra_tensor *t = &list[i].entry.view;
        if (list[i].begin != at)
            return bad(p, list[i].entry.name,
                       list[i].begin < at ? "overlaps another tensor's data"
                                          : "leaves a hole before its data");
        if (t->bytes > p->data_size - at)
            return lu_fail(
                p->err, LUTRA_E_FORMAT,
                "%s: tensor '%.200s': ends at byte %llu of the data, the file has %zu: it is cut "
                "short, download it again",
                p->path, list[i].entry.name, (unsigned long long)(at + t->bytes), p->data_size);
        t->data = p->data + at;
        at += t->bytes;
    }
    if (at != p->data_size)
        return lu_fail(p->err, LUTRA_E_FORMAT,
                       "%s: %llu bytes after the last tensor, expected the end of file", p->path,
                       (unsigned long long)(p->data_size - at));
    return LUTRA_OK;
}

/* Parses every member of the header into list (room for all) and copies the names. */
static lutra_status parse_members(const parser *p, json_t *header, placed *list, char *names)
{
    const char *key;
    json_t *v;
    json_object_foreach (header, key, v) {
        if (strcmp(key, METADATA) == 0)
            continue;
        LU_TRY(parse_tensor(p, key, v, list));
        const size_t n = strlen(key) + 1;
        list->entry.name = memcpy(names, key, n);
        names += n;
        list++;
    }
    return LUTRA_OK;
}

static lutra_status fill(lu_st_file *f, const parser *p, json_t *header)
{
    size_t name_bytes = 0, count = 0;
    const char *key;
    json_t *v;
    json_object_foreach (header, key, v) {
        if (strcmp(key, METADATA) == 0)
            continue;
        name_bytes += strlen(key) + 1; /* at most the header's size */
        count++;
    }
    LU_TRY(check_metadata(p, json_object_get(header, METADATA)));
    placed *list = lu_array(count, sizeof *list);
    f->entries = lu_array(count, sizeof *f->entries);
    f->by_name = lu_array(count, sizeof *f->by_name);
    f->names = lu_alloc(name_bytes);
    f->count = (int64_t)count;
    lutra_status status = LUTRA_OK;
    if (!list || !f->entries || !f->by_name || !f->names)
        status = lu_fail_nomem(p->err, count * sizeof *list + name_bytes);
    if (status == LUTRA_OK)
        status = parse_members(p, header, list, f->names);
    if (status == LUTRA_OK) {
        qsort(list, count, sizeof *list, by_begin);
        status = place(p, list, f->count);
    }
    if (status == LUTRA_OK) {
        for (size_t i = 0; i < count; i++) {
            f->entries[i] = list[i].entry;
            f->by_name[i] = &f->entries[i];
        }
        qsort(f->by_name, count, sizeof *f->by_name, by_name);
    }
    lu_free(list);
    return status;
}

static uint64_t load_u64(const uint8_t *p)
{
    uint64_t v = 0;
    for (int i = PREFIX - 1; i >= 0; i--)
        v = v << 8 | p[i];
    return v;
}

lutra_status lu_st_parse(const char *path, const void *data, size_t size, lu_st_file **out,
                         lutra_err *err)
{
    const uint8_t *bytes = data;
    if (size < PREFIX)
        return lu_fail(err, LUTRA_E_FORMAT, "%s: %zu bytes, too short for a safetensors file", path,
                       size);
    const uint64_t h = load_u64(bytes);
    if (h > MAX_HEADER)
        return lu_fail(
            err, LUTRA_E_FORMAT,
            "%s: header of %llu bytes, the format allows %llu: not a safetensors file, or damaged",
            path, (unsigned long long)h, (unsigned long long)MAX_HEADER);
    if (h > size - PREFIX)
        return lu_fail(
            err, LUTRA_E_FORMAT,
            "%s: header of %llu bytes in a file of %zu: it is cut short, download it again", path,
            (unsigned long long)h, size);
    const char *text = (const char *)bytes + PREFIX;
    if (h == 0 || text[0] != '{')
        return lu_fail(err, LUTRA_E_FORMAT,
                       "%s: header does not start with '{': not a safetensors file", path);

    lu_st_file *f = lu_calloc(1, sizeof *f);
    if (!f)
        return lu_fail_nomem(err, sizeof *f);
    const parser p = {path, bytes + PREFIX + h, size - PREFIX - (size_t)h, err};
    json_t *header = NULL;
    f->path = lu_strdup(path);
    lutra_status status = f->path ? LUTRA_OK : lu_fail_nomem(err, strlen(path) + 1);
    if (status == LUTRA_OK)
        status = lu_json_parse(path, text, (size_t)h, true, &header, err);
    if (status == LUTRA_OK)
        status = fill(f, &p, header);
    json_decref(header);
    if (status != LUTRA_OK) {
        lu_st_close(f);
        return status;
    }
    *out = f;
    return LUTRA_OK;
}

/* ---- files ---------------------------------------------------------------------------------- */

lutra_status lu_st_open(const char *path, lu_st_file **out, lutra_err *err)
{
    lu_map map;
    LU_TRY(lu_map_open(path, &map, err));
    const lutra_status status = lu_st_parse(path, map.data, map.size, out, err);
    if (status != LUTRA_OK)
        lu_map_close(&map);
    else
        (*out)->map = map;
    return status;
}

void lu_st_close(lu_st_file *f)
{
    if (!f)
        return;
    lu_map_close(&f->map);
    lu_free(f->entries);
    lu_free(f->by_name);
    lu_free(f->names);
    lu_free(f->path);
    lu_free(f);
}

const char *lu_st_path(const lu_st_file *f) { return f->path; }

int64_t lu_st_count(const lu_st_file *f) { return f->count; }

const lu_st_entry *lu_st_at(const lu_st_file *f, int64_t i) { return &f->entries[i]; }

const lu_st_entry *lu_st_find(const lu_st_file *f, const char *name)
{
    int64_t lo = 0, hi = f->count;
    while (lo < hi) {
        const int64_t mid = lo + (hi - lo) / 2;
        const int order = strcmp(name, f->by_name[mid]->name);
        if (order == 0)
            return f->by_name[mid];
        if (order < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}
