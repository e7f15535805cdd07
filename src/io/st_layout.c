/* st_layout.c - the header of a safetensors file that is about to be written (safetensors.h).
   Everything is known before the first data byte, so tensors can be written in any order and an
   interrupted file can be continued in place. Same entries, same bytes. */
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "io/safetensors.h"

#define PREFIX 8
#define ALIGNMENT 8
#define MAX_HEADER ((size_t)100 * 1000 * 1000)

static lutra_status check_entry(const lu_st_entry *e, json_t *header, lutra_err *err)
{
    const lutra_tensor *t = &e->view;
    size_t bytes = lutra_dtype_bytes(t->dtype);
    if (bytes == 0 || t->rank < 0 || t->rank > LUTRA_MAX_RANK)
        return lu_fail(err, LUTRA_E_ARG, "tensor '%.200s': no dtype or a rank of %d", e->name,
                       t->rank);
    for (int i = 0; i < t->rank; i++)
        if (t->shape[i] < 0 || (uint64_t)t->shape[i] > SIZE_MAX ||
            !lu_mul_size(bytes, (size_t)t->shape[i], &bytes))
            return lu_fail(err, LUTRA_E_ARG, "tensor '%.200s': shape is negative or overflows",
                           e->name);
    if (bytes != t->bytes)
        return lu_fail(err, LUTRA_E_ARG,
                       "tensor '%.200s': %zu bytes given, its shape and dtype need %zu", e->name,
                       t->bytes, bytes);
    if (json_object_get(header, e->name))
        return lu_fail(err, LUTRA_E_ARG, "tensor '%.200s': name is used twice or reserved",
                       e->name);
    return LUTRA_OK;
}

/* {"dtype":..,"shape":[..],"data_offsets":[..]}; NULL = out of memory */
static json_t *describe(const lutra_tensor *t, uint64_t begin)
{
    json_t *shape = json_array();
    for (int i = 0; i < t->rank; i++)
        json_array_append_new(shape, json_integer(t->shape[i]));
    if (json_array_size(shape) != (size_t)t->rank) {
        json_decref(shape);
        return NULL;
    }
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", lutra_dtype_name(t->dtype), "shape", shape,
                     "data_offsets", (json_int_t)begin, (json_int_t)(begin + t->bytes));
}

/* Fills header and offsets (relative to the data part); *end is where the last tensor ends. */
static lutra_status describe_all(const lu_st_entry *entries, int64_t n, json_t *header,
                                 uint64_t *offsets, uint64_t *end, lutra_err *err)
{
    uint64_t at = 0;
    for (int64_t i = 0; i < n; i++) {
        LU_TRY(check_entry(&entries[i], header, err));
        if (entries[i].view.bytes > (uint64_t)INT64_MAX - MAX_HEADER - PREFIX - at)
            return lu_fail(err, LUTRA_E_LIMIT, "tensor '%.200s': the file would be too large",
                           entries[i].name);
        json_t *v = describe(&entries[i].view, at);
        if (!v)
            return lu_fail_nomem(err, sizeof(json_t *));
        if (json_object_set_new(header, entries[i].name, v) != 0)
            return lu_fail(err, LUTRA_E_ARG, "tensor '%.200s': name is not UTF-8", entries[i].name);
        offsets[i] = at;
        at += entries[i].view.bytes;
    }
    *end = at;
    return LUTRA_OK;
}

/* u64 length, text, spaces up to the alignment */
static lutra_status encode(const json_t *header, void **out, size_t *out_bytes, lutra_err *err)
{
    const size_t n = json_dumpb(header, NULL, 0, JSON_COMPACT);
    if (n == 0)
        return lu_fail_nomem(err, 0);
    const size_t h = (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (h > MAX_HEADER)
        return lu_fail(err, LUTRA_E_LIMIT,
                       "header of %zu bytes, the format allows %zu: use more shards", h,
                       MAX_HEADER);
    char *p = lu_alloc(PREFIX + h);
    if (!p)
        return lu_fail_nomem(err, PREFIX + h);
    memset(p, ' ', PREFIX + h);
    json_dumpb(header, p + PREFIX, n, JSON_COMPACT);
    for (int i = 0; i < PREFIX; i++)
        p[i] = (char)(uint8_t)((uint64_t)h >> (8 * i));
    *out = p;
    *out_bytes = PREFIX + h;
    return LUTRA_OK;
}

lutra_status lu_st_layout(const lu_st_entry *entries, int64_t n, void **header,
                          size_t *header_bytes, uint64_t *offsets, uint64_t *file_size,
                          lutra_err *err)
{
    json_t *root = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    if (!root)
        return lu_fail_nomem(err, sizeof(json_t *));
    uint64_t end = 0;
    lutra_status status = describe_all(entries, n, root, offsets, &end, err);
    if (status == LUTRA_OK)
        status = encode(root, header, header_bytes, err);
    json_decref(root);
    if (status != LUTRA_OK)
        return status;
    for (int64_t i = 0; i < n; i++)
        offsets[i] += *header_bytes;
    *file_size = end + *header_bytes;
    return LUTRA_OK;
}
